//! The ways to call through the Gateway other than the transport itself: a tower layer, a middleware,
//! and for threads that wait.
#![cfg(all(feature = "embedded", feature = "blocking", feature = "reqwest-middleware"))]

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{BoxError, Router, body::Body, extract::Request, response::Redirect, routing::any};
use bytes::Bytes;
use caracal_axum::{
    Caracal, CaracalError, Revoked,
    embedded::{Application, EmbeddedCaracal, Grant, Resource, World, Zone},
};
use http::{HeaderMap, Response, StatusCode, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use support::{agent::TICKETS, serve};
use tower::{Layer as _, Service, ServiceExt as _};

const URL: &str = "https://tickets.internal/v1/tickets";
/// What only a call to the Gateway carries.
const OURS: [&str; 4] = ["authorization", "x-caracal-resource", "traceparent", "baggage"];

type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// A server that keeps the headers of what it is sent.
async fn witness() -> (String, Seen) {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let app = Router::new().fallback(async move |request: Request| {
        kept.lock().unwrap().push(request.headers().clone());
        "seen"
    });
    (serve(app).await, seen)
}

async fn start() -> (EmbeddedCaracal, Caracal, String, Seen) {
    let (other, seen) = witness().await;
    let to = other.clone();
    let upstream = Router::new()
        .route("/v1/tickets", any(async || "open"))
        .route("/v1/away", any(async move || Redirect::temporary(&to)));
    let upstream = serve(upstream).await;
    let zone = Zone::new("zone-1")
        .application(Application::new("app-1"))
        .resource(Resource::new(TICKETS).scopes(["tickets:read"]).upstream(upstream))
        .grant(Grant::new("app-1", TICKETS).role("app-1").scopes(["tickets:read"]));
    let world = World::new().zone(zone);
    let embedded = EmbeddedCaracal::builder().world(world).start().await.unwrap();
    let builder = embedded.client_builder("app-1");
    let builder = builder.resource(TICKETS, "https://tickets.internal", ["tickets:read"]);
    (embedded, builder.build().unwrap(), other, seen)
}

/// Whether nothing of ours is among headers.
fn bare(headers: &HeaderMap) -> bool {
    OURS.iter().all(|name| !headers.contains_key(*name))
}

/// A service that keeps what it is called with; a clone is not ready until it is polled.
#[derive(Default)]
struct Recorder {
    called: Arc<Mutex<Vec<Parts>>>,
    ready: bool,
    revoked: bool,
}

impl Clone for Recorder {
    fn clone(&self) -> Self {
        Self { called: Arc::clone(&self.called), ready: false, revoked: self.revoked }
    }
}

impl Service<http::Request<Body>> for Recorder {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert!(self.ready, "called without being polled ready");
        self.called.lock().unwrap().push(request.into_parts().0);
        let mut frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"half")))];
        if self.revoked {
            let name = http::HeaderName::from_static("x-caracal-revoked");
            let trailers = HeaderMap::from_iter([(name, "true".parse().unwrap())]);
            frames.push(Ok(Frame::trailers(trailers)));
        }
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        std::future::ready(Ok(Response::new(body)))
    }
}

fn request(uri: &str) -> http::Request<Body> {
    http::Request::get(uri)
        .header("host", "tickets.internal")
        .header("authorization", "Bearer mine")
        .body(Body::empty())
        .unwrap()
}

fn code(error: &BoxError) -> String {
    error.downcast_ref::<CaracalError>().unwrap().code().to_owned()
}

#[tokio::test]
async fn the_layer_gives_each_request_of_a_client_a_mandate() {
    let (_embedded, caracal, _, _) = start().await;
    let http: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    let service = caracal.transport().layer().layer(http);
    let calls = caracal.spawn().run(|_| async move {
        for _ in 0..2 {
            let answer = service.clone().oneshot(request(URL)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "open");
        }
    });
    calls.await.unwrap();
}

#[tokio::test]
async fn the_layer_sends_what_goes_through_the_gateway_there_and_the_rest_as_it_is() {
    let (embedded, caracal, _, _) = start().await;
    let recorder = Recorder::default();
    let called = Arc::clone(&recorder.called);
    let layer = caracal.transport().allow_root().layer();
    let with_origin = layer.clone().origin("https://tickets.internal").unwrap();
    let mut routed = Vec::new();
    for (layer, uri) in [(&layer, URL), (&with_origin, "/v1/tickets?x=%2F")] {
        layer.layer(recorder.clone()).oneshot(request(uri)).await.unwrap();
        let parts = called.lock().unwrap().pop().unwrap();
        assert!(parts.uri.to_string().starts_with(embedded.gateway_url()), "{}", parts.uri);
        assert_eq!(parts.headers["x-caracal-resource"], TICKETS);
        assert_eq!(parts.headers["te"], "trailers");
        assert!(parts.headers.contains_key("traceparent"));
        assert!(!parts.headers.contains_key("host"));
        routed.push(parts.headers["authorization"].clone());
    }
    assert!(routed.iter().all(|bearer| bearer != "Bearer mine"));
    assert_ne!(routed[0], routed[1]);

    layer.layer(recorder.clone()).oneshot(request("https://other.example/x")).await.unwrap();
    let mut parts = called.lock().unwrap().pop().unwrap();
    assert_eq!(parts.uri, "https://other.example/x");
    assert_eq!(parts.headers.remove("authorization").unwrap(), "Bearer mine");
    assert!(bare(&parts.headers), "{:?}", parts.headers);

    for (layer, uri) in [
        (&layer, "/v1/tickets"),
        (&layer, "tickets.internal:443"),
        (&layer, "https://tickets.internal/v1/../tickets"),
        (&layer, "https://tickets.internal/v1/%2e%2e/tickets"),
        (&layer, "https://me:secret@tickets.internal/v1/tickets"),
        (&with_origin, "/v1/../tickets"),
        (&with_origin, "*"),
    ] {
        let error = layer.layer(recorder.clone()).oneshot(request(uri)).await.err().unwrap();
        assert_eq!(code(&error), "invalid_target", "{uri}");
    }
    assert!(called.lock().unwrap().is_empty());
    for origin in ["tickets.internal", "ftp://t", "https://me@t", "https://t/v1", "https://t?x"] {
        assert!(layer.clone().origin(origin).is_err(), "{origin}");
    }
}

#[tokio::test]
async fn the_layer_calls_in_the_context_that_was_bound_and_refuses_without_one() {
    let (_embedded, caracal, _, _) = start().await;
    let recorder = Recorder::default();
    let service = caracal.transport().layer().layer(recorder);
    let error = service.clone().oneshot(request(URL)).await.err().unwrap();
    assert_eq!(code(&error), "context_required");
    let answered = caracal.spawn().run(|_| async move {
        let mut service = service;
        let called = service.ready().await.unwrap().call(request(URL));
        // It is polled where nothing is bound.
        tokio::spawn(called).await.unwrap().map(drop)
    });
    answered.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_that_the_gateway_cut_is_not_complete() {
    let (_embedded, caracal, _, _) = start().await;
    let recorder = Recorder { revoked: true, ..Recorder::default() };
    let service = caracal.transport().allow_root().layer().layer(recorder);
    let answer = service.oneshot(request(URL)).await.unwrap();
    let error = answer.into_body().collect().await.err().unwrap();
    assert!(error.is::<Revoked>());
}

#[tokio::test]
async fn the_middleware_follows_no_redirect_with_what_it_gave() {
    let (_embedded, caracal, other, seen) = start().await;
    let follows = reqwest::Client::builder().no_proxy().build().unwrap();
    let http = reqwest_middleware::ClientBuilder::new(follows)
        .with(caracal.transport().allow_root())
        .build();
    let answer = http.get(URL).send().await.unwrap();
    assert_eq!((answer.status(), answer.text().await.unwrap().as_str()), (StatusCode::OK, "open"));
    let answer = http.get("https://tickets.internal/v1/away").send().await.unwrap();
    assert!(!answer.status().is_success(), "{}", answer.status());
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(http.get(&other).send().await.unwrap().status(), StatusCode::OK);
    assert!(seen.lock().unwrap().iter().all(bare));

    // One that may know the ids, and sends whoever calls it to one that may not.
    let to = other.clone();
    let redirecting = serve(Router::new().fallback(async move || Redirect::temporary(&to))).await;
    for (listed, status, ids) in
        [(&other, StatusCode::OK, 1), (&redirecting, StatusCode::TEMPORARY_REDIRECT, 0)]
    {
        seen.lock().unwrap().clear();
        let shown = caracal.transport().allow_root().propagate_to(listed).unwrap();
        let follows = reqwest::Client::builder().no_proxy().build().unwrap();
        let http = reqwest_middleware::ClientBuilder::new(follows).with(shown).build();
        assert_eq!(http.get(listed).send().await.unwrap().status(), status);
        let seen = seen.lock().unwrap();
        assert!(seen.iter().all(|headers| !headers.contains_key("authorization")));
        assert_eq!(seen.iter().filter(|headers| headers.contains_key("traceparent")).count(), ids);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn blocking_calls_are_made_within_async_code_and_outside_of_it() {
    let (_embedded, caracal, other, seen) = start().await;
    let blocking = caracal.blocking();
    assert_eq!(blocking.get(URL).send().err().unwrap().code(), "context_required");
    let within = blocking.clone();
    let called = caracal.spawn().run(|context| async move {
        let answer = within.get(URL).timeout(Duration::from_secs(20)).send().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().unwrap(), "open");
        let outside = std::thread::spawn(move || {
            context.sync_scope(|| within.fetch(TICKETS, "/v1/tickets").send().unwrap().bytes())
        });
        assert_eq!(outside.join().unwrap().unwrap(), "open");
    });
    called.await.unwrap();
    let root = caracal.transport().allow_root().blocking();
    root.post(&other).header("x-mine", "1").json(&[1]).send().unwrap();
    let headers = seen.lock().unwrap().pop().unwrap();
    assert!(
        bare(&headers) && headers["x-mine"] == "1" && headers["content-type"] == "application/json"
    );
}

#[tokio::test]
async fn whoever_blocks_the_runtime_of_the_client_is_told_so() {
    let (_embedded, caracal, _, _) = start().await;
    let blocking = caracal.transport().allow_root().blocking();
    assert_eq!(blocking.get(URL).send().err().unwrap().code(), "runtime_blocked");
    let answer = tokio::task::spawn_blocking(move || blocking.get(URL).send()?.text());
    assert_eq!(answer.await.unwrap().unwrap(), "open");
}

#[cfg(target_os = "linux")]
#[test]
fn its_thread_ends_with_the_last_handle() {
    // In a process of its own: other tests have such threads too.
    const ALONE: &str = "CARACAL_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "its_thread_ends_with_the_last_handle"])
            .env(ALONE, "1")
            .status();
        assert!(alone.unwrap().success());
        return;
    }
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks.filter_map(|task| name(task).ok()).filter(|name| name.starts_with("caracal-")).count()
    };
    let becomes = |number| {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            threads() == number
        })
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (_embedded, caracal, _, _) = start().await;
        let one = caracal.blocking();
        let other = one.clone();
        assert!(becomes(1));
        drop(one);
        assert!(other.get("nowhere").send().is_err());
        assert_eq!(threads(), 1);
        drop(other);
        assert!(becomes(0));
    });
}
