//! The test kit, by its public face: what it calls good is good, and what it calls broken is broken
//! in that one way.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caracal_axum::{
    CaracalLayer, Decision, HttpKeys, Mandate, MandateVerifier, ManualClock, MemoryRevocations,
    Observer, Outcome, Reason, TokenUse,
    testing::{Flaw, Issuer, MandateBuilder, SigningKey},
};
use http_body_util::BodyExt as _;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const AUDIENCE: &str = "resource://tickets";
const NOW: u64 = 1_900_000_000;

async fn start() -> (Issuer, ManualClock) {
    let clock = ManualClock::new(NOW);
    (Issuer::builder().clock(clock.clone()).start().await.unwrap(), clock)
}

/// A service that answers with the claims it has read, and why it last refused.
struct Service {
    app: Router,
    refusals: Refusals,
}

#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Option<Reason>>>);

impl Observer for Refusals {
    fn decision(&self, decision: &Decision<'_>) {
        if let Outcome::Denied(denial) | Outcome::Unavailable(denial) = decision.outcome {
            *self.0.lock().unwrap() = Some(denial.reason().clone());
        }
    }
}

impl Service {
    fn new(verifier: MandateVerifier) -> Self {
        let refusals = Refusals::default();
        let claims = async |mandate: Mandate| axum::Json(mandate);
        let layer = CaracalLayer::enforce(verifier).observer(refusals.clone());
        Self { app: Router::new().route("/", get(claims)).layer(layer), refusals }
    }

    fn of(issuer: &Issuer) -> Self {
        Self::new(issuer.verifier(AUDIENCE).unwrap())
    }

    async fn ask(&self, token: &str) -> (StatusCode, Value) {
        let request = Request::builder().header("authorization", format!("Bearer {token}"));
        let request = request.body(Body::empty()).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// The claims of a mandate that is let in.
    async fn claims(&self, token: &str) -> Value {
        let (status, claims) = self.ask(token).await;
        assert_eq!(status, StatusCode::OK, "{claims}");
        claims
    }

    /// The status and the code of a refusal, and the reason for it.
    async fn refused(&self, token: &str) -> (u16, String, Reason) {
        let (status, body) = self.ask(token).await;
        assert_ne!(status, StatusCode::OK, "{body}");
        let reason = self.refusals.0.lock().unwrap().take().unwrap();
        (status.as_u16(), body["error"].as_str().unwrap().to_owned(), reason)
    }
}

fn invalid(reason: Reason) -> (u16, String, Reason) {
    (401, "invalid_token".to_owned(), reason)
}

fn payload(token: &str) -> Value {
    let text = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The claims of a token that this key has signed, read by a parser that is not ours and lax.
fn proven(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Option<Value> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode(token, key, &validation).ok().map(|proven| proven.claims)
}

async fn document(issuer: &Issuer) -> Value {
    let url = format!("{}/.well-known/jwks.json?zone_id={}", issuer.url(), issuer.zone());
    client().get(url).send().await.unwrap().json().await.unwrap()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn kids(document: &Value) -> Vec<&str> {
    document["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect()
}

fn public(document: &Value) -> DecodingKey {
    DecodingKey::from_jwk(&serde_json::from_value(document["keys"][0].clone()).unwrap()).unwrap()
}

mod mandates {
    use super::*;

    #[tokio::test]
    async fn a_good_one_says_what_a_resource_mandate_says() {
        let (issuer, _) = start().await;
        let service = Service::of(&issuer);
        let token = issuer.mandate(AUDIENCE).sign();
        service.claims(&token).await;
        let mut claims = payload(&token);
        for id in ["jti", "sid", "root_sid"] {
            assert!(!claims[id].as_str().unwrap().is_empty());
            claims.as_object_mut().unwrap().remove(id);
        }
        let expected = json!({
            "iss": issuer.url(), "zone_id": "zone-1", "aud": [AUDIENCE], "target": [AUDIENCE],
            "sub": "app-1", "client_id": "app-1", "sub_type": "application", "use": "resource",
            "iat": NOW, "exp": NOW + 900,
        });
        assert_eq!(claims, expected);
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!(
            header,
            jsonwebtoken::Header {
                kid: Some("key-1".to_owned()),
                ..jsonwebtoken::Header::new(Algorithm::ES256)
            }
        );
    }

    #[tokio::test]
    async fn every_one_has_ids_of_its_own() {
        let (issuer, _) = start().await;
        let builder = issuer.mandate(AUDIENCE);
        let (one, other) = (payload(&builder.sign()), payload(&builder.sign()));
        for id in ["jti", "sid", "root_sid"] {
            assert_ne!(one[id], other[id], "{id}");
        }
        assert_ne!(one["sid"], one["root_sid"]);
    }

    #[tokio::test]
    async fn they_say_what_they_are_told_to() {
        let (issuer, _) = start().await;
        let service = Service::of(&issuer);
        let mandate = issuer
            .mandate(AUDIENCE)
            .scopes(["tickets:read", "tickets:write"])
            .session("session-7")
            .application("app-7")
            .lifetime(Duration::from_millis(1999))
            .claim("sub", "user-1")
            .claim("sub_type", "user");
        let claims = service.claims(&mandate.sign()).await;
        for (name, value) in [
            ("scope", json!("tickets:read tickets:write")),
            ("agent_session_id", json!("session-7")),
            ("client_id", json!("app-7")),
            ("exp", json!(NOW + 1)),
            ("sub", json!("user-1")),
            ("sub_type", json!("user")),
        ] {
            assert_eq!(claims[name], value, "{name}");
        }
        let none = payload(&mandate.clone().scopes([""; 0]).sign());
        assert_eq!(none.get("scope"), None);
        let lacking = mandate.without("jti").sign();
        assert_eq!(service.refused(&lacking).await, invalid(Reason::Claim("jti")));
        let session = issuer.mandate(AUDIENCE).token_use(TokenUse::Session).sign();
        assert_eq!(service.refused(&session).await, invalid(Reason::Use));
    }

    #[tokio::test]
    async fn the_last_word_about_a_claim_counts() {
        let (issuer, _) = start().await;
        let claims = |builder: MandateBuilder| payload(&builder.sign());
        let mandate = issuer.mandate(AUDIENCE).claim("sid", "record-1").session("session-1");
        assert_eq!(claims(mandate.clone())["sid"], "record-1");
        assert_eq!(claims(mandate.clone().claim("sid", "record-2"))["sid"], "record-2");
        assert_eq!(claims(mandate.clone().without("sid")).get("sid"), None);
        let again = mandate.clone().without("sid").claim("sid", "record-3");
        assert_eq!(claims(again)["sid"], "record-3");
        let over = mandate.claim("agent_session_id", "session-2").session("session-3");
        assert_eq!(claims(over)["agent_session_id"], "session-2");
    }

    /// Inbound contract §7.2.
    #[tokio::test]
    async fn delegations_are_told_as_an_sts_tells_them() {
        let (issuer, _) = start().await;
        let service = Service::of(&issuer);
        let hops = [("planner", "session-1", "edge-1"), ("planner", "session-2", "edge-2")];
        let mandate = issuer.mandate(AUDIENCE).delegated_over(hops).application("worker");
        let claims = service.claims(&mandate.clone().session("session-3").sign()).await;
        for (name, value) in [
            ("sub", json!("worker")),
            ("client_id", json!("worker")),
            ("agent_session_id", json!("session-3")),
            ("delegation_edge_id", json!("edge-2")),
            ("source_session_id", json!("session-2")),
            ("target_session_id", json!("session-3")),
            ("delegation_path", json!(["edge-1", "edge-2"])),
            ("hop_count", json!(2)),
            ("delegation_graph_epoch", json!(2)),
        ] {
            assert_eq!(claims[name], value, "{name}");
        }
        let link = |application, session, edge: Option<&str>| {
            json!({
                "application_id": application, "agent_session_id": session,
                "delegation_edge_id": edge,
            })
        };
        let chain = json!([
            link("planner", "session-1", Some("edge-1")),
            link("planner", "session-2", Some("edge-2")),
            link("worker", "session-3", None),
        ]);
        assert_eq!(claims["delegation_chain"], chain);
        let receiver = &payload(&mandate.sign())["delegation_chain"][2];
        let wire = json!({ "application_id": "worker", "agent_session_id": "session-1" });
        assert_eq!(*receiver, wire, "a session there is, and no edge, not even null");
        let direct = payload(&mandate.delegated_over([("", "", ""); 0]).sign());
        assert!(direct.as_object().unwrap().keys().all(|name| !name.contains("delegation")));
    }

    #[tokio::test]
    async fn any_claims_can_be_signed() {
        let (issuer, _) = start().await;
        let service = Service::of(&issuer);
        let claims = payload(&issuer.mandate(AUDIENCE).claim("jti", "mandate-1").sign());
        assert_eq!(service.claims(&issuer.sign(&claims)).await["jti"], "mandate-1");
        assert_eq!(service.refused(&issuer.sign(&json!([1]))).await, invalid(Reason::PayloadJson));
    }
}

mod flaws {
    use super::*;

    #[tokio::test]
    async fn each_is_refused_for_what_it_is() {
        let (issuer, _) = start().await;
        let service = Service::of(&issuer);
        let good = issuer.mandate(AUDIENCE);
        let expected = [
            (Flaw::WrongKey, Reason::Signature),
            (Flaw::UnknownKey, Reason::UnknownKey),
            (Flaw::AlgNone, Reason::NotCompact),
            (Flaw::AlgHs256, Reason::Algorithm),
            (Flaw::BadSignature, Reason::Signature),
            (Flaw::Expired, Reason::Expired),
            (Flaw::NotYetValid, Reason::NotYetValid),
            (Flaw::Oversize, Reason::TooLarge),
            (Flaw::DuplicateMember, Reason::PayloadJson),
        ];
        assert_eq!(expected.each_ref().map(|(flaw, _)| *flaw), *Flaw::ALL);
        for (flaw, reason) in expected {
            let broken = good.clone().broken(flaw).sign();
            assert_eq!(service.refused(&broken).await, invalid(reason), "{flaw:?}");
            service.claims(&good.sign()).await;
        }
    }

    /// Nothing else is wrong with them: who does not look there lets them in.
    #[tokio::test]
    async fn each_is_the_only_one() {
        let (issuer, clock) = start().await;
        let good =
            issuer.mandate(AUDIENCE).claim("jti", "j").claim("sid", "s").claim("root_sid", "r");
        let claims = payload(&good.sign());
        let document = document(&issuer).await;
        let public = public(&document);
        let with = |name: &str, value: Value| {
            let mut claims = claims.clone();
            claims[name] = value;
            claims
        };
        for flaw in Flaw::ALL {
            let token = good.clone().broken(*flaw).sign();
            let by_key = proven(&token, &public, Algorithm::ES256);
            let segments: Vec<_> = token.split('.').collect();
            let header: Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segments[0]).unwrap()).unwrap();
            match flaw {
                Flaw::WrongKey | Flaw::BadSignature => {
                    assert_eq!((by_key, payload(&token)), (None, claims.clone()));
                    assert_eq!((&header["kid"], segments[2].len()), (&json!("key-1"), 86));
                }
                Flaw::UnknownKey => {
                    assert_eq!((by_key, payload(&token)), (None, claims.clone()));
                    assert!(!kids(&document).contains(&header["kid"].as_str().unwrap()));
                }
                Flaw::AlgNone => {
                    assert_eq!((&header["alg"], segments[2]), (&json!("none"), ""));
                    assert_eq!(payload(&token), claims);
                }
                Flaw::AlgHs256 => {
                    let text = document["keys"][0].to_string();
                    let secret = DecodingKey::from_secret(text.as_bytes());
                    assert_eq!(proven(&token, &secret, Algorithm::HS256).unwrap(), claims);
                }
                Flaw::Expired => assert_eq!(by_key.unwrap(), with("exp", json!(NOW))),
                Flaw::NotYetValid => assert_eq!(by_key.unwrap(), with("nbf", json!(NOW + 4500))),
                Flaw::Oversize => {
                    assert_eq!(by_key.unwrap()["padding"].as_str().unwrap().len(), 16 * 1024);
                    let patient = issuer.verifier_builder(AUDIENCE).max_token_bytes(1 << 20);
                    Service::new(patient.build().unwrap()).claims(&token).await;
                }
                // The last one counts, as with most parsers.
                Flaw::DuplicateMember => {
                    assert_eq!(by_key.unwrap(), with("client_id", json!("another")));
                }
                other => panic!("{other:?} is not looked at"),
            }
        }
        // It never comes true, not even in the minute of leeway before its end.
        let early = good.broken(Flaw::NotYetValid).sign();
        clock.advance(Duration::from_secs(899));
        assert_eq!(Service::of(&issuer).refused(&early).await, invalid(Reason::NotYetValid));
    }

    #[tokio::test]
    async fn they_count_over_what_else_was_said() {
        let (issuer, _) = start().await;
        let service = Service::of(&issuer);
        let expired = issuer.mandate(AUDIENCE).broken(Flaw::Expired).claim("exp", NOW + 9).sign();
        assert_eq!(service.refused(&expired).await, invalid(Reason::Expired));
        let twice = issuer.mandate(AUDIENCE).without("client_id").broken(Flaw::DuplicateMember);
        assert_eq!(service.refused(&twice.sign()).await, invalid(Reason::PayloadJson));
        let last = issuer.mandate(AUDIENCE).broken(Flaw::Expired).broken(Flaw::AlgHs256).sign();
        assert_eq!(service.refused(&last).await, invalid(Reason::Algorithm));
    }
}

mod issuers {
    use super::*;

    #[tokio::test]
    async fn keys_are_published_as_by_an_sts() {
        let issuer = Issuer::builder().zone("zone a&b").start().await.unwrap();
        let url = format!("{}/.well-known/jwks.json", issuer.url());
        let ask = async |query: &str| client().get(format!("{url}{query}")).send().await.unwrap();
        let keys = ask("?x=1&zone_id=zone+a%26b&zone_id=other").await;
        assert_eq!(keys.status(), 200);
        assert_eq!(keys.headers()["content-type"], "application/json");
        assert_eq!(keys.headers()["cache-control"], "public, max-age=300, must-revalidate");
        assert_eq!(keys.headers()["x-content-type-options"], "nosniff");
        let keys: Value = keys.json().await.unwrap();
        let key = &keys["keys"][0];
        let known = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": "key-1", "alg": "ES256",
            "x": key["x"], "y": key["y"],
        });
        assert_eq!(*key, known);
        for (query, status, code) in [
            ("", 400, "invalid_token"),
            ("?zone_id=", 400, "invalid_token"),
            ("?zone_id=zone-1", 404, "resource_not_found"),
            ("?zone_id=other&zone_id=zone+a%26b", 404, "resource_not_found"),
        ] {
            let refused = ask(query).await;
            assert_eq!(refused.status(), status, "{query}");
            assert_eq!(refused.headers().get("cache-control"), None);
            assert_eq!(refused.json::<Value>().await.unwrap()["error"], code, "{query}");
        }
        assert_eq!(client().post(&url).send().await.unwrap().status(), 405);
    }

    /// A service that knows nothing of the kit: its clock is the system's, its keys come over HTTP.
    #[tokio::test]
    async fn a_service_is_configured_as_for_an_sts() {
        let issuer = Issuer::start().await.unwrap();
        let verifier = MandateVerifier::builder()
            .issuer(issuer.url())
            .zone(issuer.zone())
            .audience(AUDIENCE)
            .revocations(MemoryRevocations::default())
            .build()
            .unwrap();
        let service = Service::new(verifier);
        service.claims(&issuer.mandate(AUDIENCE).sign()).await;
        for flaw in Flaw::ALL {
            let (status, code, _) =
                service.refused(&issuer.mandate(AUDIENCE).broken(*flaw).sign()).await;
            assert_eq!((status, &*code), (401, "invalid_token"), "{flaw:?}");
        }
    }

    #[tokio::test]
    async fn a_rotation_leaves_one_key_behind() {
        let (issuer, clock) = start().await;
        let service = Service::of(&issuer);
        let first = issuer.mandate(AUDIENCE).sign();
        service.claims(&first).await;

        assert_eq!(issuer.rotate(), "key-2");
        assert_eq!(kids(&document(&issuer).await), ["key-2", "key-1"]);
        let second = issuer.mandate(AUDIENCE).sign();
        assert_eq!(service.refused(&second).await, invalid(Reason::UnknownKey), "not known yet");
        clock.advance(Duration::from_nanos(1));
        service.claims(&second).await;
        service.claims(&first).await;

        assert_eq!(issuer.rotate(), "key-3");
        assert_eq!(kids(&document(&issuer).await), ["key-3", "key-2"]);
        clock.advance(Duration::from_nanos(1));
        service.claims(&issuer.mandate(AUDIENCE).sign()).await;
        service.claims(&second).await;
        assert_eq!(service.refused(&first).await, invalid(Reason::UnknownKey));
    }

    #[tokio::test]
    async fn what_is_revoked_is_refused() {
        let (issuer, clock) = start().await;
        let service = Service::of(&issuer);
        let refused = |code: &str, reason| (401, code.to_owned(), reason);
        for (claim, anchor) in [
            ("agent_session_id", "session-7"),
            ("sid", "record-7"),
            ("root_sid", "record-1"),
            ("delegation_edge_id", "edge-7"),
        ] {
            let token = issuer.mandate(AUDIENCE).claim(claim, anchor).sign();
            service.claims(&token).await;
            issuer.revocations().revoke(anchor).unwrap();
            let revoked = refused("session_revoked", Reason::Revoked);
            assert_eq!(service.refused(&token).await, revoked, "{claim}");
            service.claims(&issuer.mandate(AUDIENCE).claim(claim, "another").sign()).await;
        }
        let delegated =
            issuer.mandate(AUDIENCE).delegated_over([("planner", "session-1", "edge-1")]);
        let token = delegated.sign();
        service.claims(&token).await;
        issuer.revocations().raise_epoch("zone-1", 2).unwrap();
        let stale = refused("delegation_stale", Reason::DelegationStale);
        assert_eq!(service.refused(&token).await, stale);

        // Marks go by the same clock: they last a day.
        clock.advance(Duration::from_secs(24 * 3600));
        service.claims(&issuer.mandate(AUDIENCE).session("session-7").sign()).await;
    }

    #[tokio::test]
    async fn time_is_what_the_clock_says() {
        let (issuer, clock) = start().await;
        let service = Service::of(&issuer);
        let token = issuer.mandate(AUDIENCE).sign();
        let short = issuer.mandate(AUDIENCE).lifetime(Duration::from_secs(60)).sign();
        clock.advance(Duration::from_secs(59));
        service.claims(&short).await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(service.refused(&short).await, invalid(Reason::Expired));
        clock.advance(Duration::from_secs(839));
        service.claims(&token).await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(service.refused(&token).await, invalid(Reason::Expired));
        service.claims(&issuer.mandate(AUDIENCE).sign()).await;
    }

    #[tokio::test]
    async fn a_hundred_live_side_by_side() {
        let mut starting = tokio::task::JoinSet::new();
        for _ in 0..100 {
            starting.spawn(Issuer::start());
        }
        let issuers: Vec<_> =
            starting.join_all().await.into_iter().collect::<Result<_, _>>().unwrap();
        let services: Vec<_> = issuers.iter().map(Service::of).collect();
        for (at, (issuer, service)) in issuers.iter().zip(&services).enumerate() {
            service.claims(&issuer.mandate(AUDIENCE).sign()).await;
            let foreign = issuers[(at + 1) % issuers.len()].mandate(AUDIENCE);
            assert_eq!(service.refused(&foreign.sign()).await, invalid(Reason::Issuer));
            // Its key has the same id.
            let posing = foreign.claim("iss", issuer.url()).sign();
            assert_eq!(service.refused(&posing).await, invalid(Reason::Signature));
        }
        issuers[0].revocations().revoke("session-7").unwrap();
        for (at, (issuer, service)) in issuers.iter().zip(&services).enumerate() {
            let (status, _) =
                service.ask(&issuer.mandate(AUDIENCE).session("session-7").sign()).await;
            assert_eq!(status.is_success(), at != 0, "{at}");
        }
    }

    #[tokio::test]
    async fn two_are_trusted_together_over_http() {
        let (one, clock) = start().await;
        let other = Issuer::builder().zone("zone-2").clock(clock).start().await.unwrap();
        let both = || one.verifier_builder(AUDIENCE).also_trust(other.url(), other.zone());
        let service = Service::new(both().build().unwrap());
        service.claims(&one.mandate(AUDIENCE).sign()).await;
        let (status, code, reason) = service.refused(&other.mandate(AUDIENCE).sign()).await;
        assert_eq!((status, &*code), (503, "verification_unavailable"));
        assert_eq!(reason, Reason::KeysUnavailable, "its keys are not this issuer's to give");

        let keys = HttpKeys::builder().build().unwrap();
        let service = Service::new(both().key_source(keys).build().unwrap());
        service.claims(&one.mandate(AUDIENCE).sign()).await;
        service.claims(&other.mandate(AUDIENCE).sign()).await;
    }

    #[tokio::test]
    async fn what_is_stopped_or_dropped_gives_no_keys() {
        for stopped in [true, false] {
            let issuer = Issuer::builder().zone("zone-7").start().await.unwrap();
            let (url, token) = (issuer.url().to_owned(), issuer.mandate(AUDIENCE).sign());
            let service = Service::of(&issuer);
            let document = format!("{url}/.well-known/jwks.json?zone_id=zone-7");
            // Its connection stays open.
            let client = client();
            assert_eq!(client.get(&document).send().await.unwrap().status(), 200);
            if stopped {
                issuer.stop().await;
                assert!(tokio::net::TcpStream::connect(&url["http://".len()..]).await.is_err());
            } else {
                drop(issuer);
            }
            let (status, _, reason) = service.refused(&token).await;
            assert_eq!((status, reason), (503, Reason::KeysUnavailable));
            // The open connection may yet be told that there is no such zone, but not for long.
            let closed = async {
                while client.get(&document).send().await.is_ok_and(|answer| answer.status() == 404)
                {
                }
                client.get(&document).send().await.unwrap_err();
            };
            tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_empty_audience_is_refused() {
        let (issuer, _) = start().await;
        let error = issuer.verifier("").unwrap_err();
        assert_eq!(error, caracal_axum::ConfigurationError::Empty("audience"));
    }
}

mod keys {
    use super::*;

    #[test]
    fn a_key_proves_what_it_signed() {
        let key = SigningKey::generate("k");
        let document = json!({ "keys": [key.jwk()] });
        assert_eq!((key.kid(), kids(&document)), ("k", vec!["k"]));
        let public = public(&document);
        let claims = json!({ "sub": "app-1" });
        assert_eq!(proven(&key.sign(&claims), &public, Algorithm::ES256).unwrap(), claims);
        let raw = key.clone().sign_text(r#"{"alg":"ES256","x":1}"#, r#"{"sub":"app-2"}"#);
        let signed = proven(&raw, &public, Algorithm::ES256).unwrap();
        assert_eq!(signed, json!({ "sub": "app-2" }));
        let header = URL_SAFE_NO_PAD.decode(raw.split('.').next().unwrap()).unwrap();
        assert_eq!(header, br#"{"alg":"ES256","x":1}"#);
        let stranger = SigningKey::generate("k").sign(&claims);
        assert_eq!(proven(&stranger, &public, Algorithm::ES256), None);
    }

    #[test]
    fn a_key_keeps_its_secret() {
        assert_eq!(format!("{:?}", SigningKey::generate("k")), r#"SigningKey { kid: "k", .. }"#);
    }
}
