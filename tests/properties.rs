//! Whatever is sent: no panic, no wrong allow, and no token where it does not belong.

mod support;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderValue, Request, header},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caracal_axum::{CaracalLayer, Mandate, decode_envelope, encode_envelope, to_headers};
use proptest::prelude::*;
use serde_json::json;
use support::{Logs, Zone};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

struct Service {
    zone: Zone,
    app: Router,
    runtime: Runtime,
}

impl Service {
    fn new() -> Self {
        let zone = Zone::new();
        let app = Router::new()
            .route("/", get(|mandate: Mandate| async move { mandate.sub().to_owned() }))
            .layer(CaracalLayer::enforce(zone.verifier()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { zone, app, runtime }
    }

    /// Status, headers and body of the answer as one text, and the logs.
    fn ask(&self, values: &[Vec<u8>]) -> (u16, String, String) {
        let logs = Logs::capture();
        let answer = self.runtime.block_on(async {
            let mut request = Request::new(Body::empty());
            for value in values {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    request.headers_mut().append(header::AUTHORIZATION, value);
                }
            }
            let response = self.app.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let headers = format!("{:?}", response.headers());
            let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
            (status, headers + &String::from_utf8_lossy(&body))
        });
        (answer.0, answer.1, logs.end())
    }
}

/// Tokens of every degree of damage: from noise to a good one with a byte changed.
fn damaged(good: String) -> impl Strategy<Value = Vec<u8>> {
    let good_bytes = good.clone().into_bytes();
    let segments = proptest::collection::vec(any::<Vec<u8>>(), 0..5).prop_map(|segments| {
        let encoded: Vec<_> =
            segments.iter().map(|segment| URL_SAFE_NO_PAD.encode(segment)).collect();
        encoded.join(".").into_bytes()
    });
    prop_oneof![
        any::<Vec<u8>>(),
        "[A-Za-z0-9_.-]{16,200}".prop_map(String::into_bytes),
        segments,
        (Just(good_bytes), any::<proptest::sample::Index>(), any::<u8>()).prop_map(
            |(mut token, at, byte)| {
                let at = at.index(token.len());
                token[at] = byte;
                token
            }
        ),
        (Just(good), any::<proptest::sample::Index>())
            .prop_map(|(token, at)| token.as_bytes()[..at.index(token.len())].to_vec()),
    ]
}

#[test]
fn damaged_tokens_are_refused_and_never_repeated() {
    let service = Service::new();
    let good = service.zone.mandate(support::delegated());
    let (status, ..) = service.ask(&[format!("Bearer {good}").into_bytes()]);
    assert_eq!(status, 200);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let strategy = (damaged(good.clone()), prop_oneof!["", "Bearer ", "bearer\t", "Basic "]);
    runner
        .run(&strategy, |(token, scheme)| {
            prop_assume!(token != good.as_bytes());
            let value = [scheme.as_bytes(), &token].concat();
            let (status, answer, logs) = service.ask(&[value]);
            prop_assert!(matches!(status, 400 | 401), "{status}");
            let token = String::from_utf8_lossy(&token);
            prop_assert!(!support::leaks(&answer, &token), "{answer}");
            prop_assert!(!support::leaks(&logs, &token), "{logs}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn claims_of_any_type_never_panic_and_only_good_ones_get_in() {
    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i64>().prop_map(|value| json!(value)),
            any::<u64>().prop_map(|value| json!(value)),
            any::<f64>().prop_map(|value| json!(value)),
            ".{0,12}".prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|list| json!(list)),
                proptest::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }
    let service = Service::new();
    let names = [
        "iss",
        "aud",
        "exp",
        "iat",
        "nbf",
        "sub",
        "zone_id",
        "scope",
        "target",
        "hop_count",
        "delegation_chain",
        "delegation_path",
        "delegation_graph_epoch",
        "agent_session_id",
        "use",
    ];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(1500));
    runner
        .run(&(proptest::sample::select(names.to_vec()), any_json()), |(name, value)| {
            let mut claims = service.zone.claims();
            claims[name] = value.clone();
            let token = service.zone.key.sign(&claims);
            let (status, answer, _) = service.ask(&[format!("Bearer {token}").into_bytes()]);
            prop_assert!(matches!(status, 200 | 401 | 403), "{status} {answer}");
            let original = &service.zone.claims()[name];
            if matches!(name, "iss" | "aud" | "zone_id" | "use") && status == 200 {
                prop_assert_eq!(&value, original);
            }
            Ok(())
        })
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Threats 26 and 27: nothing in these headers can panic or go round in another form.
    #[test]
    fn envelopes_survive_anything(
        lines in proptest::collection::vec(
            (proptest::sample::select(vec!["baggage", "traceparent", "tracestate", "authorization"]),
             prop_oneof![
                 any::<Vec<u8>>(),
                 "[a-z=,;% .0-9-]{0,80}".prop_map(String::into_bytes),
                 "(caracal\\.(hop|session|agent_session)=[%0-9a-f]{0,6}[,;] ?){0,4}".prop_map(String::into_bytes),
             ]),
            0..6,
        ),
    ) {
        let mut request = Request::new(());
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request.headers_mut().append(name, value);
            }
        }
        let envelope = decode_envelope(request.headers());
        prop_assert!(envelope.hop <= caracal_axum::MAX_HOP);

        let outbound = to_headers(&envelope);
        prop_assert!(!outbound.contains_key(header::AUTHORIZATION));
        let again = decode_envelope(&outbound);
        prop_assert_eq!(&again.agent_session_id, &envelope.agent_session_id);
        prop_assert_eq!(&again.authority_record_id, &envelope.authority_record_id);
        prop_assert_eq!(again.hop, envelope.hop);
        prop_assert!(again.trace_id.is_some());
        prop_assert!(envelope.trace_id.is_none() || again.trace_id == envelope.trace_id);

        // Writing the same envelope again changes nothing.
        let mut merged = outbound.clone();
        encode_envelope(&envelope, &mut merged);
        prop_assert_eq!(outbound, merged);
    }
}
