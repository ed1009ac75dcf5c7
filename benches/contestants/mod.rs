//! What the benches measure: the layer, and the floors beside it.
#![allow(dead_code, reason = "each bench uses a part")]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey},
};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response, header},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caracal_axum::{CaracalLayer, Proof, Require};
use highway::{HighwayHash as _, HighwayHasher, Key};
use moka::sync::Cache;
use serde_json::{Value, json};
pub(crate) use support::{NOW, Zone, claims, delegated, with};
use tower::{Layer, Service};

/// A mandate of about a thousand bytes: session, delegation, a chain of three applications.
pub(crate) fn mandate(zone: &Zone, at: usize) -> String {
    let changes = json!({
        "jti": format!("m-{at:06}"), "scope": "tickets:read tickets:write",
        "delegation_path": ["edge-2"], "delegation_chain": [
            {"application_id": "root", "agent_session_id": "s-1", "delegation_edge_id": "edge-1"},
            {"application_id": "mid", "agent_session_id": "s-2", "delegation_edge_id": "edge-2"},
            {"application_id": "planner", "agent_session_id": "session-7"},
        ],
    });
    zone.mandate(with(delegated(), changes))
}

/// The headers of a call that carries everything.
pub(crate) fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let values = [
        (header::AUTHORIZATION, format!("Bearer {token}")),
        (header::HeaderName::from_static("baggage"), "tenant=acme,caracal.hop=2".to_owned()),
        (
            header::HeaderName::from_static("traceparent"),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        ),
    ];
    for (name, value) in values {
        headers.insert(name, HeaderValue::try_from(value).unwrap());
    }
    headers
}

pub(crate) fn request(headers: &HeaderMap) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.headers_mut() = headers.clone();
    request
}

/// Sends one request through the router on this thread; none of the contestants waits for another.
pub(crate) fn send(app: &mut Router, request: Request<Body>) -> Response<Body> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(app.call(request));
    loop {
        if let Poll::Ready(response) = future.as_mut().poll(&mut cx) {
            return response.unwrap_or_else(|never: Infallible| match never {});
        }
    }
}

/// As `axum::serve` prepares it: without this a router applies its layers anew for every request.
fn served(app: Router) -> Router {
    app.with_state(())
}

fn router() -> Router {
    Router::new().route("/", get(|| async { "ok" }))
}

pub(crate) fn bare() -> Router {
    served(router())
}

pub(crate) fn no_op() -> Router {
    served(router().layer(FloorLayer(Floor::Nothing)))
}

pub(crate) fn sha256_floor() -> Router {
    served(router().layer(FloorLayer(Floor::Sha256(Cache::new(10_000)))))
}

pub(crate) fn prf_floor() -> Router {
    served(router().layer(FloorLayer(Floor::Prf(Key([1, 2, 3, 4]), Cache::new(10_000)))))
}

pub(crate) fn ours(zone: &Zone) -> Router {
    served(router().layer(CaracalLayer::enforce(warm(zone, 10_000))))
}

pub(crate) fn ours_with_requirement(zone: &Zone) -> Router {
    let route = get(|| async { "ok" }).route_layer(Require::scopes(["tickets:read"]));
    served(Router::new().route("/", route).layer(CaracalLayer::enforce(warm(zone, 10_000))))
}

pub(crate) fn bare_with_route_layer() -> Router {
    let route = get(|| async { "ok" }).route_layer(FloorLayer(Floor::Nothing));
    served(Router::new().route("/", route).layer(FloorLayer(Floor::Nothing)))
}

pub(crate) fn ours_uncached(zone: &Zone) -> Router {
    served(router().layer(CaracalLayer::enforce(warm(zone, 0))))
}

fn warm(zone: &Zone, proofs: u64) -> caracal_axum::MandateVerifier {
    let verifier = zone.builder().clock(AtStart).proof_cache(proofs).build().unwrap();
    runtime().block_on(verifier.warm_up()).unwrap();
    verifier
}

/// The time of the mandates, at the cost of the real clock.
struct AtStart;

impl caracal_axum::Clock for AtStart {
    fn unix_time(&self) -> std::time::Duration {
        let real = caracal_axum::SystemClock.unix_time();
        std::hint::black_box(real);
        std::time::Duration::from_secs(NOW)
    }

    fn monotonic(&self) -> std::time::Duration {
        caracal_axum::SystemClock.monotonic()
    }
}

/// The runtime that keys are fetched on; it lives as long as the process.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    })
}

/// The refusals that are measured: name and token.
pub(crate) fn refusals(zone: &Zone) -> Vec<(&'static str, Option<String>)> {
    let good = mandate(zone, 0);
    let header = r#"{"alg":"ES256","kid":"unknown"}"#;
    let payload = with(claims(), delegated());
    zone.revocations.revoke("revoked-session").unwrap();
    let changed = |changes: Value| Some(zone.mandate(with(delegated(), changes)));
    vec![
        ("missing", None),
        ("garbage", Some("x".repeat(900))),
        ("expired", changed(json!({"exp": 1}))),
        ("audience", changed(json!({"aud": "resource://other"}))),
        ("zone", changed(json!({"zone_id": "other"}))),
        ("unknown kid", Some(zone.key.sign_text(header, &payload.to_string()))),
        ("forged", Some(format!("{}AAAA", &good[..good.len() - 4]))),
        ("revoked", changed(json!({"agent_session_id": "revoked-session"}))),
    ]
}

/// The least that a layer which remembers tokens must do.
#[derive(Clone)]
enum Floor {
    Nothing,
    Sha256(Cache<[u8; 32], Arc<Proof>>),
    Prf(Key, Cache<[u64; 2], Arc<Proof>>),
}

#[derive(Clone)]
struct FloorLayer(Floor);

#[derive(Clone)]
struct FloorService<S> {
    floor: Floor,
    inner: S,
}

impl<S> Layer<S> for FloorLayer {
    type Service = FloorService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FloorService { floor: self.0.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for FloorService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = FloorFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let proof = || Arc::new(Proof::builder("zone-1", "planner", u64::MAX).build());
        let token = request.headers()[header::AUTHORIZATION].as_bytes();
        let known = match &self.floor {
            Floor::Nothing => None,
            Floor::Sha256(cache) => {
                let id = digest(&SHA256, token).as_ref().try_into().unwrap();
                Some(cache.get_with(id, proof))
            }
            Floor::Prf(key, cache) => {
                let mut hasher = HighwayHasher::new(*key);
                hasher.append(token);
                Some(cache.get_with(hasher.finalize128(), proof))
            }
        };
        if let Some(known) = known {
            request.extensions_mut().insert(known);
        }
        FloorFuture { inner: self.inner.call(request) }
    }
}

pin_project_lite::pin_project! {
    struct FloorFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F: Future> Future for FloorFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}

/// What one bare signature check takes: signed bytes, signature, key.
pub(crate) fn raw_verification(zone: &Zone, at: usize) -> (String, Vec<u8>, ParsedPublicKey) {
    let token = mandate(zone, at);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let jwk = zone.key.jwk();
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let coordinate = |name: &str| decode(jwk[name].as_str().unwrap());
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap();
    (signed.to_owned(), decode(signature), key)
}
