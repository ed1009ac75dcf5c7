//! The layer of a client: it propagates, and with a verifier it proves.

use axum::{Json, Router, routing::get};
use caracal_axum::{CaracalContext, embedded::EmbeddedCaracal};
use serde_json::{Value, json};

use super::{TRACE, said};
use crate::support::{agent::TICKETS, at_work::sample, client, serve};

fn app() -> Router {
    let who = |context: Option<CaracalContext>| async move {
        Json(match context {
            None => json!(null),
            Some(context) => json!({
                "proven": context.is_proven(),
                "zone": context.zone_id(),
                "application": context.application_id(),
                "session": context.agent_session_id(),
                "hop": context.hop(),
                "trace": context.trace_id().map(|id| id.to_string()),
            }),
        })
    };
    Router::new().route("/", get(who)).route("/open", get(who)).route("/open/er", get(who))
}

async fn ask(url: &str, with: &http::HeaderMap) -> (u16, Value) {
    let response = client().get(url).headers(with.clone()).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or_default())
}

fn mandate(caracal: &EmbeddedCaracal) -> http::HeaderMap {
    let mandate = caracal.mandate(TICKETS).application("app-9").session("proven-session");
    let mut headers = said();
    headers.insert("authorization", format!("Bearer {}", mandate.sign()).parse().unwrap());
    headers
}

fn claimed() -> Value {
    json!({
        "proven": false, "zone": "zone-1", "application": "app-1",
        "session": "claimed-session", "hop": 4, "trace": TRACE,
    })
}

#[tokio::test]
async fn it_binds_what_headers_claim_in_the_client_s_zone_and_name() {
    let (_caracal, caracal_client) = sample().await;
    let url = serve(app().layer(caracal_client.layer())).await;
    assert_eq!(ask(&url, &said()).await, (200, claimed()));
    assert_eq!(ask(&url, &http::HeaderMap::new()).await.0, 401);
}

#[tokio::test]
async fn with_a_verifier_it_proves() {
    let (caracal, caracal_client) = sample().await;
    let layer = caracal_client.layer().verifier(caracal.verifier(TICKETS).unwrap());
    let url = serve(app().layer(layer)).await;
    let proven = json!({
        "proven": true, "zone": "zone-1", "application": "app-9",
        "session": "proven-session", "hop": 0, "trace": TRACE,
    });
    assert_eq!(ask(&url, &mandate(&caracal)).await, (200, proven));
    assert_eq!(ask(&url, &said()).await.0, 401);
    assert_eq!(ask(&url, &http::HeaderMap::new()).await.0, 401);
}

#[tokio::test]
async fn in_production_it_refuses_until_it_proves_or_is_told_to_believe() {
    let (caracal, _) = sample().await;
    let builder = caracal.client_builder("app-1").gateway_url(caracal.sts_url());
    let production = builder.production(true).build().unwrap();
    let url = serve(app().layer(production.layer())).await;
    for with in [said(), mandate(&caracal), http::HeaderMap::new()] {
        assert_eq!(ask(&url, &with).await.0, 500);
    }
    let url = serve(app().layer(production.layer().trusted_propagation())).await;
    assert_eq!(ask(&url, &said()).await, (200, claimed()));
    let layer = production.layer().verifier(caracal.verifier(TICKETS).unwrap());
    let url = serve(app().layer(layer)).await;
    assert_eq!(ask(&url, &mandate(&caracal)).await.0, 200);
    assert_eq!(ask(&url, &said()).await.0, 401);
    let layer = production.layer().trusted_propagation();
    let layer = layer.verifier(caracal.verifier(TICKETS).unwrap());
    let url = serve(app().layer(layer)).await;
    assert_eq!(ask(&url, &said()).await.0, 401, "it proves, whatever was said before");
}

#[tokio::test]
async fn options_given_before_the_verifier_are_kept() {
    let (caracal, caracal_client) = sample().await;
    let layer = caracal_client
        .layer()
        .optional()
        .exempt("/open")
        .preflight()
        .resource_metadata("https://tickets.example.com")
        .verifier(caracal.verifier(TICKETS).unwrap());
    let url = serve(app().layer(layer)).await;
    assert_eq!(ask(&url, &http::HeaderMap::new()).await, (200, Value::Null), "optional");
    assert_eq!(ask(&url, &said()).await.0, 401);
    for path in ["/open", "/open/er"] {
        assert_eq!(ask(&format!("{url}{path}"), &said()).await, (200, Value::Null), "exempt");
    }
    let refused = client().get(&url).headers(said()).send().await.unwrap();
    let challenge = refused.headers().get("www-authenticate").unwrap().to_str().unwrap();
    assert!(challenge.contains("oauth-protected-resource"), "{challenge}");
    let preflight = client()
        .request(http::Method::OPTIONS, &url)
        .headers(said())
        .header("origin", "https://x.example")
        .header("access-control-request-method", "GET");
    assert_eq!(preflight.send().await.unwrap().status(), 405, "let through, to no such route");
}
