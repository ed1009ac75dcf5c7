//! What is written to the log, and what never is.

mod support;

use axum::{
    Json, Router,
    body::Body,
    http::{Request, header},
    routing::get,
};
use caracal_axum::{CaracalContext, CaracalLayer, Mandate, Require};
use serde_json::{Value, json};
use support::{Logs, Zone, delegated};
use tower::ServiceExt as _;

async fn who(context: CaracalContext) -> Json<CaracalContext> {
    Json(context)
}

async fn maybe(_: Option<CaracalContext>) {}

#[tokio::test]
async fn without_the_layer_a_handler_answers_500_and_the_log_names_the_fix() {
    let logs = Logs::capture();
    let app = Router::new()
        .route("/who", get(who))
        .route("/maybe", get(maybe))
        .route("/mandate", get(|_: Mandate| async {}))
        .route("/scoped", get(|| async {}).route_layer(Require::new()));
    for path in ["/who", "/maybe", "/mandate", "/scoped"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500, "{path}");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!({"error": "internal_error", "error_description": "Internal server error"})
        );
    }
    let fix = "add `.layer(CaracalLayer::enforce(verifier))` after the last route of the Router";
    let logs = logs.end();
    assert_eq!(logs.matches(fix).count(), 4, "{logs}");
}

#[tokio::test]
async fn spans_and_events_say_what_happened_and_never_the_token() {
    let zone = Zone::new();
    let app = Router::new().route("/who", get(who)).layer(CaracalLayer::enforce(zone.verifier()));
    let logs = Logs::capture();
    let ask = async |token: &str| {
        let request = Request::get("/who").header(header::AUTHORIZATION, format!("Bearer {token}"));
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    let good = zone.mandate(delegated());
    assert_eq!(ask(&good).await, 200);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    assert_eq!(ask(&forged).await, 401);
    let stranger = support::SigningKey::generate("unheard-of-kid").sign(&zone.claims());
    assert_eq!(ask(&stranger).await, 401);
    let text = logs.end();
    for expected in [
        r#"caracal.request{outcome="allowed" zone="zone-1" hop=2 kid="key-1"}"#,
        r#"caracal.request{outcome="denied" code="invalid_token" kid="key-1"}"#,
        r#"denied code="invalid_token" route="/who" reason=signature does not verify"#,
        r#"denied code="invalid_token" route="/who" reason=no key of the zone has this kid"#,
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains("unheard-of-kid"), "a kid that is no key's is the caller's text");
    for token in [&good, &forged, &stranger] {
        assert!(!support::leaks(&text, token), "{text}");
    }
}

/// A filter that leaves the crate's span out must not make it write into the application's.
#[tokio::test]
async fn fields_go_into_the_span_of_the_crate_or_nowhere() {
    let zone = Zone::new();
    let app = Router::new().route("/who", get(who)).layer(CaracalLayer::enforce(zone.verifier()));
    let logs = Logs::capture();
    let span = tracing::info_span!(target: "app", "order", code = "order-17");
    let request = Request::get("/who").body(Body::empty()).unwrap();
    let response = tracing::Instrument::instrument(app.oneshot(request), span).await.unwrap();
    assert_eq!(response.status(), 401);
    let text = logs.end();
    assert!(text.contains(r#"order{code="order-17"}:caracal.request{outcome="denied""#), "{text}");
}
