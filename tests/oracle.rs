//! jsonwebtoken as an oracle: this crate may be stricter, and is never looser.

mod support;

use std::collections::HashSet;

use axum::{Router, body::Body, http::Request, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caracal_axum::{CaracalContext, CaracalLayer};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use proptest::prelude::*;
use serde_json::Value;
use support::{AUDIENCE, ISSUER, NOW, Zone, delegated, with};
use tower::ServiceExt as _;

/// jsonwebtoken at its strictest; times are compared elsewhere, it has no clock to inject.
struct Oracle {
    key: DecodingKey,
    validation: Validation,
}

impl Oracle {
    fn new(zone: &Zone) -> Self {
        let jwk = zone.key.jwk();
        let coordinate = |name: &str| jwk[name].as_str().unwrap().to_owned();
        let key = DecodingKey::from_ec_components(&coordinate("x"), &coordinate("y")).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.required_spec_claims =
            ["exp", "iss", "aud"].into_iter().map(str::to_owned).collect::<HashSet<_>>();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self { key, validation }
    }

    fn accepts(&self, token: &str) -> bool {
        decode::<Value>(token, &self.key, &self.validation).is_ok()
    }
}

struct Pair {
    zone: Zone,
    oracle: Oracle,
    app: Router,
    runtime: tokio::runtime::Runtime,
}

impl Pair {
    fn new() -> Self {
        let zone = Zone::new();
        let app = Router::new()
            .route("/", get(|_: CaracalContext| async {}))
            .layer(CaracalLayer::enforce(zone.verifier()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { oracle: Oracle::new(&zone), zone, app, runtime }
    }

    fn accepts(&self, token: &str) -> bool {
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        let Ok(request) = request.body(Body::empty()) else { return false };
        let response = self.runtime.block_on(self.app.clone().oneshot(request)).unwrap();
        response.status().is_success()
    }
}

/// One change to a good token, signed or not.
#[derive(Debug, Clone)]
enum Mutation {
    /// A character of the token.
    Character(prop::sample::Index, char),
    /// Two segments exchanged.
    Swap(usize, usize),
    /// A member of the payload, signed anew.
    Claim(usize, String),
    /// The header, signed anew.
    Header(usize),
    /// A text put at the end of the payload, signed anew.
    Tail(usize),
}

const CLAIMS: [&str; 8] =
    ["iss", "aud", "sub", "client_id", "zone_id", "use", "scope", "hop_count"];

const HEADERS: [&str; 10] = [
    r#"{"alg":"ES256","kid":"key-1"}"#,
    r#"{"alg":"ES256","kid":"key-1","typ":"at+jwt"}"#,
    r#"{"alg":"ES256","kid":"key-1","crit":["exp"]}"#,
    r#"{"alg":"ES256","kid":"key-1","b64":false,"crit":["b64"]}"#,
    r#"{"alg":"ES256","kid":"key-1","jku":"https://evil"}"#,
    r#"{"alg":"ES256","kid":"key-1","typ":"dpop+jwt"}"#,
    r#"{"alg":"ES256","alg":"ES256","kid":"key-1"}"#,
    r#"{"alg":"HS256","kid":"key-1"}"#,
    r#"{"alg":"none"}"#,
    r#"{"alg":"ES256"}"#,
];

const TAILS: [&str; 5] = ["", " ", "\n", "x", "{}"];

fn mutations() -> impl Strategy<Value = Mutation> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just(format!("[\"{AUDIENCE}\"]")),
        Just(format!("\"{AUDIENCE}\"")),
        Just(format!("[\"{ISSUER}\"]")),
        Just(format!("\"{ISSUER}\"")),
        Just("0".to_owned()),
        Just("1.0".to_owned()),
        Just("\"\"".to_owned()),
        "\"[a-z]{1,5}\"",
    ];
    prop_oneof![
        (any::<prop::sample::Index>(), "[A-Za-z0-9_.=+-]").prop_map(|(at, character)| {
            Mutation::Character(at, character.chars().next().unwrap())
        }),
        (0usize..3, 0usize..3).prop_map(|(one, two)| Mutation::Swap(one, two)),
        (0usize..CLAIMS.len(), value).prop_map(|(claim, value)| Mutation::Claim(claim, value)),
        (0usize..HEADERS.len()).prop_map(Mutation::Header),
        (0usize..TAILS.len()).prop_map(Mutation::Tail),
    ]
}

fn mutated(zone: &Zone, mutation: &Mutation) -> String {
    let claims = with(zone.claims(), delegated());
    let good = zone.key.sign(&claims);
    match mutation {
        Mutation::Character(at, character) => {
            let at = at.index(good.len());
            let mut characters: Vec<char> = good.chars().collect();
            characters[at] = *character;
            characters.into_iter().collect()
        }
        Mutation::Swap(one, two) => {
            let mut segments: Vec<&str> = good.split('.').collect();
            segments.swap(*one, *two);
            segments.join(".")
        }
        Mutation::Claim(claim, value) => {
            let mut claims = claims;
            claims[CLAIMS[*claim]] = serde_json::from_str(value).unwrap();
            zone.key.sign(&claims)
        }
        Mutation::Header(at) => zone.key.sign_text(HEADERS[*at], &claims.to_string()),
        Mutation::Tail(at) => {
            let header = r#"{"alg":"ES256","kid":"key-1"}"#;
            zone.key.sign_text(header, &format!("{claims}{}", TAILS[*at]))
        }
    }
}

#[test]
fn never_looser_than_jsonwebtoken() {
    let pair = Pair::new();
    let good = pair.zone.mandate(delegated());
    assert!(pair.accepts(&good) && pair.oracle.accepts(&good));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(3000));
    runner
        .run(&mutations(), |mutation| {
            let token = mutated(&pair.zone, &mutation);
            let ours = pair.accepts(&token);
            prop_assert!(!ours || pair.oracle.accepts(&token), "{mutation:?}");
            Ok(())
        })
        .unwrap();
}

/// And stricter where jsonwebtoken is known to let things pass.
#[test]
fn stricter_than_jsonwebtoken() {
    let pair = Pair::new();
    let claims = pair.zone.claims();
    let header = r#"{"alg":"ES256","kid":"key-1"}"#;
    let payload = claims.to_string();
    let tokens = [
        ("crit", pair.zone.key.sign_text(HEADERS[2], &payload)),
        ("b64", pair.zone.key.sign_text(HEADERS[3], &payload)),
        ("jku", pair.zone.key.sign_text(HEADERS[4], &payload)),
        ("typ", pair.zone.key.sign_text(HEADERS[5], &payload)),
        (
            "iss as an array",
            pair.zone.key.sign(&with(claims.clone(), serde_json::json!({"iss": [ISSUER]}))),
        ),
        (
            "future iat",
            pair.zone.key.sign(&with(claims.clone(), serde_json::json!({"iat": NOW + 3600}))),
        ),
        (
            "duplicate members",
            pair.zone.key.sign_text(header, &payload.replacen('{', r#"{"x":1,"x":2,"#, 1)),
        ),
    ];
    for (what, token) in tokens {
        assert!(pair.oracle.accepts(&token), "{what}");
        assert!(!pair.accepts(&token), "{what}");
    }
    let unpadded = URL_SAFE_NO_PAD.encode("{}");
    assert!(!pair.accepts(&format!("{unpadded}.{unpadded}.")));
}
