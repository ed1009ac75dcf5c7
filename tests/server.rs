//! The layer on a real listening server, asked by a real client.

mod support;

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    http::{HeaderMap, Method, Request, header},
    response::IntoResponse,
    routing::{any, get, post},
};
use caracal_axum::{
    Binding, BoxVerifier, CaracalContext, CaracalLayer, Denial, Mandate, Proof, Reason, Require,
    Verifier, verifier_fn,
};
use serde_json::{Value, json};
use support::{AUDIENCE, Zone, client, delegated, error_of, serve};

async fn who(context: CaracalContext) -> Json<CaracalContext> {
    Json(context)
}

async fn maybe(context: Option<CaracalContext>) -> String {
    context.map_or("nobody".into(), |context| context.application_id().to_owned())
}

fn app(zone: &Zone) -> Router {
    Router::new()
        .route("/who", get(who))
        .route(
            "/refunds",
            post(who).route_layer(Require::scopes(["refunds:create", "tickets:read"])),
        )
        .layer(CaracalLayer::enforce(zone.verifier()))
}

#[tokio::test]
async fn a_good_mandate_gets_in_and_the_handler_knows_who_it_is() {
    let zone = Zone::new();
    let url = serve(app(&zone)).await;
    let token = zone.mandate(delegated());
    let response = client().get(format!("{url}/who")).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        body,
        json!({
            "proven": true, "zone_id": "zone-1", "application_id": "planner",
            "agent_session_id": "session-7", "delegation_edge_id": "edge-2",
            "parent_edge_id": null, "authority_record_id": "record-7", "hop": 2,
            "scopes": ["tickets:read"], "targets": [AUDIENCE],
            "expires_at": support::NOW + 900, "trace_id": null,
        })
    );
}

#[tokio::test]
async fn refusals_look_as_the_table_says() {
    let zone = Zone::new();
    let url = serve(app(&zone)).await;
    let good = zone.mandate(json!({}));
    zone.revocations.revoke("session-9").unwrap();
    zone.revocations.raise_epoch("zone-1", 8).unwrap();
    let invalid = r#"Bearer error="invalid_token""#;
    let table = [
        ("/who", None, 401, "missing_token", "Bearer"),
        ("/who", Some("x".to_owned()), 401, "invalid_token", invalid),
        ("/who", Some(zone.mandate(json!({"exp": 1}))), 401, "invalid_token", invalid),
        ("/who", Some(zone.mandate(json!({"aud": "other"}))), 401, "invalid_token", invalid),
        ("/who", Some(zone.mandate(json!({"zone_id": "other"}))), 401, "invalid_zone", invalid),
        (
            "/who",
            Some(zone.mandate(json!({"agent_session_id": "session-9"}))),
            401,
            "session_revoked",
            invalid,
        ),
        ("/who", Some(zone.mandate(delegated())), 401, "delegation_stale", invalid),
        (
            "/refunds",
            Some(good.clone()),
            403,
            "insufficient_scope",
            r#"Bearer error="insufficient_scope",scope="refunds:create tickets:read""#,
        ),
    ];
    for (path, token, status, code, challenge) in table {
        let method = if path == "/who" { Method::GET } else { Method::POST };
        let mut request = client().request(method, format!("{url}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{code}");
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], challenge, "{code}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(error_of(response).await, code);
    }
    let response = client()
        .get(format!("{url}/who"))
        .header(header::AUTHORIZATION, format!("Bearer {good}"))
        .header(header::AUTHORIZATION, format!("Bearer {good}"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], r#"Bearer error="invalid_request""#);
    assert_eq!(error_of(response).await, "invalid_request");
}

/// The same token with another signature.
fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed}.{first}{}", &signature[1..])
}

/// Threat 29: what is wrong with a token is not told.
#[tokio::test]
async fn every_fault_of_a_token_reads_the_same() {
    let zone = Zone::new();
    let url = serve(app(&zone)).await;
    let good = zone.mandate(json!({}));
    let mut bodies = Vec::new();
    for token in [
        good.replacen(".ey", ".eX", 1),
        forged(&good),
        zone.mandate(json!({"exp": 1})),
        zone.mandate(json!({"aud": "other"})),
        zone.mandate(json!({"iss": "https://other"})),
        zone.mandate(json!({"jti": null})),
        zone.mandate(json!({"use": "gateway"})),
        "not a token".into(),
        "x".repeat(17 * 1024),
        support::SigningKey::generate("other").sign(&zone.claims()),
    ] {
        let response = client().get(format!("{url}/who")).bearer_auth(token).send().await.unwrap();
        let headers = format!("{:?} {:?}", response.status(), response.headers());
        let headers = headers.split("\"date\"").next().unwrap().to_owned();
        bodies.push((headers, response.text().await.unwrap()));
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

/// Threats 17 and 18: only the configured header counts, and unsigned headers never win.
#[tokio::test]
async fn tokens_elsewhere_and_spoofed_ids_do_not_count() {
    let zone = Zone::new();
    let url = serve(app(&zone)).await;
    let token = zone.mandate(json!({}));
    let response = client()
        .get(format!("{url}/who?access_token={token}"))
        .header("x-caracal-identity", &token)
        .body(format!("access_token={token}"))
        .send()
        .await
        .unwrap();
    assert_eq!(error_of(response).await, "missing_token");

    let response = client()
        .get(format!("{url}/who"))
        .bearer_auth(&token)
        .header("x-caracal-zone-id", "forged")
        .header(
            "baggage",
            "caracal.agent_session=forged,caracal.delegation_edge=forged,caracal.hop=9,\
             caracal.session=forged,caracal.parent_edge=forged",
        )
        .send()
        .await
        .unwrap();
    let text = response.text().await.unwrap();
    assert!(text.contains("session-7") && !text.contains("forged"), "{text}");
}

#[tokio::test]
async fn the_mandate_may_come_in_another_header() {
    let zone = Zone::new();
    let verifier = zone
        .builder()
        .credential(header::HeaderName::from_static("x-caracal-identity"), None)
        .build()
        .unwrap();
    let url = serve(
        Router::new().route("/", get(maybe)).layer(CaracalLayer::enforce(verifier).optional()),
    )
    .await;
    let get = |name: &'static str, value: String| client().get(&url).header(name, value).send();
    let token = zone.mandate(json!({}));
    let text = async |response: reqwest::Response| response.text().await.unwrap();
    assert_eq!(text(get("x-caracal-identity", token.clone()).await.unwrap()).await, "planner");
    assert_eq!(get("x-caracal-identity", format!("Bearer {token}")).await.unwrap().status(), 401);
    // Somebody else's credential is none of ours.
    assert_eq!(text(get("authorization", "Basic x".into()).await.unwrap()).await, "nobody");
}

#[tokio::test]
async fn an_optional_layer_judges_whatever_is_there() {
    let zone = Zone::new();
    let app = Router::new()
        .route("/", get(maybe))
        .route("/who", get(who))
        .route("/scoped", get(maybe).route_layer(Require::new()))
        .layer(CaracalLayer::enforce(zone.verifier()).optional());
    let url = serve(app).await;
    let response = client().get(&url).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "nobody");
    for value in ["", "Bearer", "Basic x", "Bearer x", " "] {
        let response =
            client().get(&url).header(header::AUTHORIZATION, value).send().await.unwrap();
        assert_eq!(response.status(), 401, "{value:?}");
    }
    for path in ["/who", "/scoped"] {
        let response = client().get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(error_of(response).await, "missing_token");
    }
}

#[tokio::test]
async fn exempt_paths_and_preflights() {
    let zone = Zone::new();
    let app = Router::new()
        .route("/healthz", get(maybe))
        .route("/healthz/who", get(who))
        .route("/healthz/scoped", get(maybe).route_layer(Require::new()))
        .route("/{*rest}", any(maybe))
        .layer(CaracalLayer::enforce(zone.verifier()).exempt("/healthz").preflight());
    let url = serve(app).await;
    let status = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let mut request = client().request(method, format!("{url}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(Method::GET, "/healthz", &[]).await, 200);
    assert_eq!(status(Method::GET, "/healthzz", &[]).await, 401);
    assert_eq!(status(Method::GET, "/healthz%2f..%2fadmin", &[]).await, 401);
    assert_eq!(status(Method::GET, "/admin", &[]).await, 401);
    // A handler that needs an identity cannot be exempt.
    assert_eq!(status(Method::GET, "/healthz/who", &[]).await, 500);
    assert_eq!(status(Method::GET, "/healthz/scoped", &[]).await, 500);

    let preflight = [("origin", "https://a"), ("access-control-request-method", "GET")];
    assert_eq!(status(Method::OPTIONS, "/admin", &preflight).await, 200);
    assert_eq!(status(Method::GET, "/admin", &preflight).await, 401);
    assert_eq!(status(Method::OPTIONS, "/admin", &preflight[..1]).await, 401);
    assert_eq!(status(Method::OPTIONS, "/admin", &preflight[1..]).await, 401);
}

#[tokio::test]
async fn a_preflight_is_refused_unless_asked_for() {
    let zone = Zone::new();
    let response = client()
        .request(Method::OPTIONS, format!("{}/who", serve(app(&zone)).await))
        .header("origin", "https://a")
        .header("access-control-request-method", "GET")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn requirements_check_what_is_proven() {
    let zone = Zone::new();
    let route = |require| get(maybe).route_layer(require);
    let app = Router::new()
        .route("/scope", route(Require::scopes(["tickets:read"])))
        .route("/scopes", route(Require::scopes(["tickets:read", "x"])))
        .route("/target", route(Require::new().targets([AUDIENCE])))
        .route("/other-target", route(Require::new().targets(["resource://other"])))
        .route("/session", route(Require::new().session()))
        .route("/delegation", route(Require::new().delegation()))
        .route("/hops", route(Require::new().max_hops(1)))
        .route("/chain", route(Require::new().chain_contains(["root", "planner"])))
        .route("/other-chain", route(Require::new().chain_contains(["stranger"])))
        .route("/and", route(Require::scopes(["tickets:read"]).and(Require::new().delegation())))
        .route(
            "/check",
            route(Require::check(|proof, parts| match parts.headers.get("x-tenant") {
                Some(tenant) if tenant == proof.application_id() => Ok(()),
                _ => Err(Denial::forbidden("another tenant")),
            })),
        )
        .layer(CaracalLayer::enforce(zone.verifier()));
    let url = serve(app).await;
    let plain = zone.mandate(json!({"agent_session_id": null}));
    let session = zone.mandate(json!({}));
    let delegated = zone.mandate(delegated());
    for (path, token, expected) in [
        ("/scope", &plain, "planner"),
        ("/scopes", &plain, "insufficient_scope"),
        ("/target", &plain, "planner"),
        ("/other-target", &plain, "invalid_token"),
        ("/session", &plain, "session_required"),
        ("/session", &session, "planner"),
        ("/delegation", &session, "delegation_required"),
        ("/delegation", &delegated, "planner"),
        ("/hops", &session, "planner"),
        ("/hops", &delegated, "hop_count_exceeded"),
        ("/chain", &delegated, "planner"),
        ("/chain", &session, "chain_mismatch"),
        ("/other-chain", &delegated, "chain_mismatch"),
        ("/and", &session, "delegation_required"),
        ("/and", &delegated, "planner"),
        ("/check", &session, "insufficient_scope"),
    ] {
        let response =
            client().get(format!("{url}{path}")).bearer_auth(token).send().await.unwrap();
        let text = response.text().await.unwrap();
        let code = serde_json::from_str::<Value>(&text)
            .map_or(text, |body| body["error"].as_str().unwrap().to_owned());
        assert_eq!(code, expected, "{path}");
    }
    let response = client()
        .get(format!("{url}/check"))
        .bearer_auth(&session)
        .header("x-tenant", "planner")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_requirement_keeps_404_and_405_as_they_are() {
    let zone = Zone::new();
    let url = serve(app(&zone)).await;
    let token = zone.mandate(json!({}));
    let get = async |path: &str| {
        client().get(format!("{url}{path}")).bearer_auth(&token).send().await.unwrap().status()
    };
    assert_eq!(get("/refunds").await, 405);
    assert_eq!(get("/nowhere").await, 404);
    // Unproven callers learn neither.
    assert_eq!(client().get(format!("{url}/nowhere")).send().await.unwrap().status(), 401);
    assert_eq!(client().get(format!("{url}/refunds")).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn grpc_requests_get_a_grpc_status() {
    let zone = Zone::new();
    let url = serve(app(&zone)).await;
    let response = client()
        .post(format!("{url}/refunds"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "16");
    let response = client()
        .post(format!("{url}/refunds"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .bearer_auth(zone.mandate(json!({})))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["grpc-status"], "7");
}

#[tokio::test]
async fn a_renderer_replaces_every_refusal() {
    let zone = Zone::new();
    let app = Router::new()
        .route("/scoped", get(maybe).route_layer(Require::scopes(["x"])))
        .route("/healthz", get(who))
        .layer(CaracalLayer::enforce(zone.verifier()).exempt("/healthz").render_denials(
            |denial, parts| {
                let text = format!("{} at {}", denial.code(), parts.uri.path());
                (denial.status(), text).into_response()
            },
        ));
    let url = serve(app).await;
    let token = zone.mandate(json!({}));
    for (path, token, text) in [
        ("/scoped", "x", "invalid_token at /scoped"),
        ("/scoped", &token, "insufficient_scope at /scoped"),
        ("/healthz", "", "internal_error at /healthz"),
    ] {
        let response =
            client().get(format!("{url}{path}")).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), text);
    }
}

#[tokio::test]
async fn the_layer_takes_no_verifier_on_trust() {
    let proof = |token: &str| match token {
        "no-zone" => Proof::builder("", "a", u64::MAX),
        "no-application" => Proof::builder("z", "", u64::MAX),
        "expired" => Proof::builder("z", "a", 1),
        "hops" => Proof::builder("z", "a", u64::MAX).hop(33),
        _ => Proof::builder("z", "a", u64::MAX),
    };
    let verifier = verifier_fn(move |token: caracal_axum::BearerToken| async move {
        tokio::task::yield_now().await;
        Ok(proof(token.expose()).build())
    });
    let app = Router::new()
        .route("/", get(maybe))
        .route("/mandate", get(|mandate: Mandate| async { Json(mandate) }))
        .layer(CaracalLayer::enforce(BoxVerifier::new(verifier)));
    let url = serve(app).await;
    for (token, expected) in
        [("good", 200), ("no-zone", 401), ("no-application", 401), ("expired", 401), ("hops", 403)]
    {
        let response = client().get(&url).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), expected, "{token}");
    }
    // A verifier of another kind has no mandate claims to offer.
    let response = client().get(format!("{url}/mandate")).bearer_auth("good").send().await.unwrap();
    assert_eq!(response.status(), 500);
}

#[tokio::test]
async fn mandates_expire_by_the_verifiers_clock() {
    let zone = Zone::new();
    let url = serve(app(&zone)).await;
    let token = zone.mandate(json!({}));
    let status = async || {
        client().get(format!("{url}/who")).bearer_auth(&token).send().await.unwrap().status()
    };
    zone.clock.advance(Duration::from_secs(899));
    assert_eq!(status().await, 200);
    zone.clock.advance(Duration::from_secs(1));
    assert_eq!(status().await, 401);
}

#[tokio::test]
async fn a_store_that_cannot_answer_closes_the_door() {
    let zone = Zone::new();
    let full = caracal_axum::MemoryRevocations::builder().capacity(0).build();
    let verifier = zone.builder().revocations(full.clone()).build().unwrap();
    let url =
        serve(Router::new().route("/", get(maybe)).layer(CaracalLayer::enforce(verifier))).await;
    let get =
        async || client().get(&url).bearer_auth(zone.mandate(json!({}))).send().await.unwrap();
    assert_eq!(get().await.status(), 200);
    full.revoke("x").unwrap_err();
    let response = get().await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    assert!(response.headers().get(header::WWW_AUTHENTICATE).is_none());
    assert_eq!(error_of(response).await, "verification_unavailable");
}

#[tokio::test]
async fn several_zones_are_told_apart_and_verified_with_their_own_keys() {
    let zone = Zone::new();
    let other = support::SigningKey::generate("key-1");
    let keys = caracal_axum::StaticKeys::new(support::ISSUER, "zone-1", zone.document()).and(
        "https://other.example",
        "zone-2",
        json!({"keys": [other.jwk()]}).to_string(),
    );
    let verifier = zone
        .builder()
        .also_trust("https://other.example", "zone-2")
        .key_source(keys)
        .build()
        .unwrap();
    let url =
        serve(Router::new().route("/", get(who)).layer(CaracalLayer::enforce(verifier))).await;
    let pair =
        |issuer, zone_id| support::with(zone.claims(), json!({"iss": issuer, "zone_id": zone_id}));
    let (first, second) = (support::ISSUER, "https://other.example");
    for (token, expected) in [
        (zone.key.sign(&pair(first, "zone-1")), "zone-1"),
        (other.sign(&pair(second, "zone-2")), "zone-2"),
        // The other zone's key is no key of this one.
        (other.sign(&pair(first, "zone-1")), "invalid_token"),
        (zone.key.sign(&pair(second, "zone-2")), "invalid_token"),
        (zone.key.sign(&pair(first, "zone-2")), "invalid_zone"),
        (other.sign(&pair(second, "zone-1")), "invalid_zone"),
        (zone.key.sign(&pair("https://third.example", "zone-1")), "invalid_token"),
    ] {
        let body: Value =
            client().get(&url).bearer_auth(token).send().await.unwrap().json().await.unwrap();
        let got = body["error"].as_str().or(body["zone_id"].as_str()).unwrap();
        assert_eq!(got, expected);
    }
}

#[tokio::test]
async fn the_credential_is_marked_sensitive_and_the_binding_is_an_extension() {
    let zone = Zone::new();
    let app = Router::new()
        .route(
            "/",
            get(|headers: HeaderMap, Extension(binding): Extension<Binding>| async move {
                let sensitive = headers[header::AUTHORIZATION].is_sensitive();
                format!("{sensitive} {}", matches!(binding, Binding::Bound(_)))
            }),
        )
        .layer(CaracalLayer::enforce(zone.verifier()));
    let response =
        client().get(serve(app).await).bearer_auth(zone.mandate(json!({}))).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "true true");
}

/// A verifier that cannot answer at once is awaited, with the request whole.
#[tokio::test]
async fn a_verifier_sees_the_request_head() {
    struct ByPath;
    impl Verifier for ByPath {
        async fn verify(&self, inbound: &caracal_axum::Inbound<'_>) -> Result<Proof, Denial> {
            tokio::task::yield_now().await;
            match (inbound.uri().path(), inbound.method()) {
                ("/in", &Method::GET) => Ok(Proof::builder("z", "path", u64::MAX).build()),
                _ => Err(Denial::invalid_token(Reason::Other("another path".into()))),
            }
        }
    }
    let app = Router::new()
        .route("/in", get(maybe))
        .route("/out", get(maybe))
        .layer(CaracalLayer::enforce(ByPath));
    let url = serve(app).await;
    assert_eq!(
        client().get(format!("{url}/in")).send().await.unwrap().text().await.unwrap(),
        "path"
    );
    assert_eq!(client().get(format!("{url}/out")).send().await.unwrap().status(), 401);
}

/// An expired proof is refused whether it came at once or not.
#[tokio::test]
async fn a_proof_that_comes_at_once_is_not_taken_on_trust_either() {
    struct AtOnce;
    impl Verifier for AtOnce {
        async fn verify(&self, _: &caracal_axum::Inbound<'_>) -> Result<Proof, Denial> {
            unreachable!("it answers at once")
        }

        fn verify_now(&self, _: &caracal_axum::Inbound<'_>) -> Option<Result<Proof, Denial>> {
            Some(Ok(Proof::builder("z", "a", 1).build()))
        }
    }
    let app = Router::new().route("/", get(maybe)).layer(CaracalLayer::enforce(AtOnce));
    assert_eq!(client().get(serve(app).await).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn credentials_are_sensitive_on_every_way_in() {
    let zone = Zone::new();
    let other = header::HeaderName::from_static("x-caracal-identity");
    let verifier = zone.builder().credential(other.clone(), None).build().unwrap();
    let sensitive = async |headers: HeaderMap| {
        format!("{:?}", headers.iter().filter(|(_, v)| v.is_sensitive()).count())
    };
    let app = Router::new()
        .route("/in", get(sensitive))
        .route("/open", get(sensitive))
        .layer(CaracalLayer::enforce(verifier).exempt("/open"));
    let url = serve(app).await;
    for (path, marked) in [("/in", "2"), ("/open", "2")] {
        let response = client()
            .get(format!("{url}{path}"))
            .header(header::AUTHORIZATION, "Basic secret")
            .header(&other, zone.mandate(json!({})))
            .send()
            .await
            .unwrap();
        assert_eq!(response.text().await.unwrap(), marked, "{path}");
    }
}

#[test]
fn nothing_prints_a_credential() {
    let request = Request::get("/x?access_token=secret")
        .header(header::AUTHORIZATION, "Bearer secret")
        .header(header::COOKIE, "secret");
    let parts = request.body(()).unwrap().into_parts().0;
    let inbound = caracal_axum::Inbound::new(&parts);
    assert_eq!(format!("{inbound:?}"), r#"Inbound { method: GET, path: "/x", .. }"#);
    let builder = caracal_axum::MandateVerifier::builder().issuer("https://user:secret@sts");
    assert!(!format!("{builder:?}").contains("secret"));
}
