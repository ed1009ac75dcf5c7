//! What observers are told: every decision once, and nothing that costs more than a request.

mod support;

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body,
    http::{Method, Request},
    routing::{any, get},
};
use caracal_axum::{
    CacheResult, CaracalContext, CaracalLayer, Decision, KeyFetch, MemoryRevocations, Observer,
    Outcome, Place, Require, RevocationChange,
};
use serde_json::json;
use support::{ISSUER, ZONE, Zone, delegated};
use tower::ServiceExt as _;

/// Writes down what it is told, as lines.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Recorder {
    fn decision(&self, decision: &Decision<'_>) {
        let outcome = match decision.outcome {
            Outcome::Allowed => "allowed".to_owned(),
            Outcome::Unbound => "unbound".to_owned(),
            Outcome::Exempt => "exempt".to_owned(),
            Outcome::Denied(denial) => format!("denied {denial}"),
            Outcome::Unavailable(denial) => format!("unavailable {denial}"),
            other => format!("{other:?}"),
        };
        let cache = match decision.cache {
            Some(CacheResult::Hit) => "hit",
            Some(CacheResult::Miss) => "miss",
            _ => "-",
        };
        let ids = [
            decision.route,
            decision.zone_id,
            decision.application_id,
            decision.agent_session_id,
            decision.delegation_edge_id,
            decision.authority_record_id,
            decision.jti,
        ];
        let ids = ids.map(|id| id.unwrap_or("-")).join(" ");
        self.push(format!("{:?} {outcome} {cache} {ids}", decision.place));
        assert!(decision.duration.as_secs() < 60);
    }

    fn keys_fetched(&self, fetch: &KeyFetch<'_>) {
        self.push(match fetch.result {
            Ok(keys) => format!("{} {} {keys} keys", fetch.issuer, fetch.zone_id),
            Err(error) => format!("{} {} {error}", fetch.issuer, fetch.zone_id),
        });
    }

    fn revocation_changed(&self, change: &RevocationChange<'_>) {
        self.push(format!("{change:?}"));
    }
}

fn app(zone: &Zone, observer: impl Observer + Clone) -> Router {
    let verifier = zone.builder().observer(observer.clone()).build().unwrap();
    Router::new()
        .route("/open/{id}", any(|_: CaracalContext| async {}))
        .route("/scoped", get(|| async {}).route_layer(Require::scopes(["tickets:read"])))
        .route("/other", get(|| async {}).route_layer(Require::scopes(["other"])))
        .route("/healthz", get(|| async {}))
        .layer(CaracalLayer::enforce(verifier).exempt("/healthz").preflight().observer(observer))
}

async fn ask(app: &Router, method: Method, path: &str, token: Option<&str>) -> u16 {
    let mut request = Request::builder().method(&method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if method == Method::OPTIONS {
        request =
            request.header("origin", "https://a").header("access-control-request-method", "GET");
    }
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    response.status().as_u16()
}

#[tokio::test]
async fn every_decision_is_told_once_where_it_is_made() {
    let zone = Zone::new();
    let recorder = Recorder::default();
    let app = app(&zone, recorder.clone());
    let told = async |method, path: &str, token: Option<&str>| {
        ask(&app, method, path, token).await;
        recorder.take()
    };
    let token = zone.mandate(delegated());
    let who = "zone-1 planner session-7 edge-2 record-7 mandate-1";
    assert_eq!(
        told(Method::GET, "/open/1", Some(&token)).await,
        [format!("{ISSUER} {ZONE} 1 keys"), format!("Boundary allowed miss /open/{{id}} {who}"),]
    );
    assert_eq!(
        told(Method::GET, "/scoped", Some(&token)).await,
        [format!("Boundary allowed hit /scoped {who}"), format!("Route allowed - /scoped {who}"),]
    );
    assert_eq!(
        told(Method::GET, "/other", Some(&token)).await,
        [
            format!("Boundary allowed hit /other {who}"),
            format!(
                "Route denied insufficient_scope: a required scope is not granted - /other {who}"
            ),
        ]
    );
    let nobody = "- - - - - -";
    assert_eq!(
        told(Method::GET, "/open/1", None).await,
        [format!("Boundary denied missing_token: no credential header - /open/{{id}} {nobody}")]
    );
    let expired = zone.mandate(json!({"exp": 1}));
    assert_eq!(
        told(Method::GET, "/open/1", Some(&expired)).await,
        [format!("Boundary denied invalid_token: expired miss /open/{{id}} {nobody}")]
    );
    assert_eq!(
        told(Method::GET, "/healthz", None).await,
        [format!("Boundary exempt - /healthz {nobody}")]
    );
    assert_eq!(
        told(Method::OPTIONS, "/open/1", None).await,
        [format!("Boundary exempt - /open/{{id}} {nobody}")]
    );
    assert_eq!(
        told(Method::GET, "/nowhere", Some(&token)).await,
        [format!("Boundary allowed hit - {who}")]
    );
}

#[tokio::test]
async fn unbound_propagated_and_unavailable_requests_are_told_too() {
    let zone = Zone::new();
    let recorder = Recorder::default();
    let optional = Router::new()
        .route("/", get(|| async {}))
        .layer(CaracalLayer::enforce(zone.verifier()).optional().observer(recorder.clone()));
    ask(&optional, Method::GET, "/", None).await;
    let propagate = Router::new()
        .route("/", get(|| async {}))
        .layer(CaracalLayer::propagate("z", "mesh").observer(recorder.clone()));
    ask(&propagate, Method::GET, "/", Some("opaque")).await;
    let closed = MemoryRevocations::builder().capacity(0).build();
    closed.revoke("x").unwrap_err();
    let verifier = zone.builder().revocations(closed).build().unwrap();
    let unavailable = Router::new()
        .route("/", get(|| async {}))
        .layer(CaracalLayer::enforce(verifier).observer(recorder.clone()));
    ask(&unavailable, Method::GET, "/", Some(&zone.mandate(json!({})))).await;
    assert_eq!(
        recorder.take(),
        [
            "Boundary unbound - / - - - - - -",
            "Boundary allowed - / z mesh - - - -",
            "Boundary unavailable verification_unavailable: the revocation store could not answer \
             miss / - - - - - -",
        ]
    );
}

#[tokio::test]
async fn key_fetches_that_fail_are_told() {
    let zone = Zone::new();
    let recorder = Recorder::default();
    let verifier = zone
        .builder()
        .key_source(caracal_axum::StaticKeys::default())
        .observer(recorder.clone())
        .build()
        .unwrap();
    verifier.warm_up().await.unwrap_err();
    assert_eq!(
        recorder.take(),
        [format!("{ISSUER} {ZONE} the key endpoint answered 404 Not Found")]
    );
}

#[test]
fn revocations_are_told() {
    let clock = caracal_axum::ManualClock::new(0);
    let recorder = Recorder::default();
    let store = MemoryRevocations::builder()
        .capacity(2)
        .clock(clock.clone())
        .observer(recorder.clone())
        .build();
    store.revoke("a").unwrap();
    store.raise_epoch("z", 7).unwrap();
    store.raise_epoch("z", 7).unwrap();
    store.revoke("b").unwrap_err();
    clock.advance(std::time::Duration::from_secs(24 * 3600));
    store.revoke("b").unwrap();
    assert_eq!(
        recorder.take(),
        [
            r#"Revoked { anchor: "a" }"#,
            r#"EpochRaised { zone_id: "z", epoch: 7 }"#,
            "Closed",
            "Opened",
            r#"Revoked { anchor: "b" }"#,
        ]
    );
}

#[derive(Clone)]
struct Panicking(Option<Place>);

impl Observer for Panicking {
    fn decision(&self, decision: &Decision<'_>) {
        if Some(decision.place) == self.0 {
            panic!("observer");
        }
    }

    fn keys_fetched(&self, _: &KeyFetch<'_>) {
        panic!("observer");
    }

    fn revocation_changed(&self, _: &RevocationChange<'_>) {
        panic!("observer");
    }
}

#[tokio::test]
async fn an_observer_that_panics_costs_its_request_a_500_at_most() {
    let zone = Zone::new();
    let token = zone.mandate(json!({}));
    let quiet = app(&zone, Panicking(None));
    // Keys arrive although the observer panics about them.
    assert_eq!(ask(&quiet, Method::GET, "/scoped", Some(&token)).await, 200);
    let boundary = app(&zone, Panicking(Some(Place::Boundary)));
    assert_eq!(ask(&boundary, Method::GET, "/scoped", Some(&token)).await, 500);
    assert_eq!(ask(&boundary, Method::GET, "/healthz", None).await, 500);
    assert_eq!(ask(&boundary, Method::GET, "/scoped", None).await, 401);
    let route = app(&zone, Panicking(Some(Place::Route)));
    assert_eq!(ask(&route, Method::GET, "/scoped", Some(&token)).await, 500);
    assert_eq!(ask(&route, Method::GET, "/other", Some(&token)).await, 403);
    assert_eq!(ask(&route, Method::GET, "/open/1", Some(&token)).await, 200);

    let store = MemoryRevocations::builder().observer(Panicking(None)).build();
    store.revoke("a").unwrap();
    store.revoke("b").unwrap();
    assert!(!store.is_closed());
}
