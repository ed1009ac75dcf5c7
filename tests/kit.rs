//! The embedded control plane as a test kit: faults, records, published revocations.
#![cfg(feature = "embedded")]

mod support;

use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use caracal_axum::{
    CaracalContext, CaracalLayer, Require, RevocationQuery, RevocationStore as _, Standing,
    embedded::{EmbeddedCaracal, Endpoint, Fault},
    testing::Flaw,
};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use support::agent::{Agent, TICKETS, sample};
use tower::ServiceExt as _;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn session_id(session: &Value) -> &str {
    text(session, "agent_session_id")
}

/// What a resource server knows about these anchors.
fn standing(caracal: &EmbeddedCaracal, anchors: &[&str]) -> Standing {
    let mut four = [""; 4];
    four[..anchors.len()].copy_from_slice(anchors);
    caracal.revocations().check_now(RevocationQuery::new("zone-1", four)).unwrap().unwrap()
}

fn epoch(caracal: &EmbeddedCaracal) -> u64 {
    standing(caracal, &[]).delegation_epoch
}

const PUBLISHED: Duration = Duration::from_millis(1100);

mod faults {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIFECYCLE: [(&str, &str); 2] = [("resource", TICKETS), ("scope", "agent:lifecycle")];

    /// Sends a start and returns what the caller sees of it.
    async fn start(agent: &Agent, token: &str) -> Result<(u16, Value), reqwest::Error> {
        let body = json!({ "application_id": "app-1" });
        let response = agent.request("POST", "/agents", token).json(&body).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.json().await?))
    }

    #[tokio::test]
    async fn a_status_for_the_next_requests_and_no_others() {
        let (caracal, agent) = sample().await;
        caracal.inject(Endpoint::Token, Fault::status(StatusCode::SERVICE_UNAVAILABLE).times(2));
        caracal.inject(Endpoint::Token, Fault::status(StatusCode::TOO_MANY_REQUESTS).times(1));
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(agent.exchange(&LIFECYCLE).await.0);
        }
        assert_eq!(statuses, [503, 503, 429, 200]);
        assert_eq!(caracal.decisions().len(), 1, "the first three had no effect");
        assert_eq!(caracal.requests().len(), 4);
    }

    #[tokio::test]
    async fn until_told_otherwise_and_at_one_endpoint_alone() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        caracal.inject(Endpoint::StartSession, Fault::status(StatusCode::BAD_GATEWAY));
        for _ in 0..3 {
            let (status, refusal) = start(&agent, &token).await.unwrap();
            assert_eq!((status, refusal), (502, json!({ "error": "injected_fault" })));
        }
        assert_eq!(agent.count(&token, "/agents").await, 0);
        caracal.clear_faults();
        assert_eq!(start(&agent, &token).await.unwrap().0, 201);
    }

    #[tokio::test]
    async fn an_answer_is_lost_before_or_after_the_effect() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        caracal.inject(Endpoint::StartSession, Fault::drop_connection().times(1));
        assert!(start(&agent, &token).await.unwrap_err().is_request());
        assert_eq!(agent.count(&token, "/agents").await, 0);

        let lost = Fault::drop_connection().after_effect().times(1);
        caracal.inject(Endpoint::StartSession, lost);
        assert!(start(&agent, &token).await.unwrap_err().is_request());
        assert_eq!(agent.count(&token, "/agents").await, 1, "the session was started");
        assert_eq!(start(&agent, &token).await.unwrap().0, 201, "the next request is as any other");
    }

    #[tokio::test]
    async fn an_answer_is_cut_off() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        let cut = [
            (Fault::truncate(10), 502, 0),
            (Fault::truncate(usize::MAX), 502, 0),
            (Fault::truncate(0).after_effect(), 201, 1),
            (Fault::truncate(usize::MAX).after_effect(), 201, 2),
        ];
        for (fault, status, started) in cut {
            caracal.inject(Endpoint::StartSession, fault.times(1));
            let body = json!({ "application_id": "app-1" });
            let request = agent.request("POST", "/agents", &token).json(&body);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status);
            assert!(answer.bytes().await.is_err(), "a part of the body is missing");
            assert_eq!(agent.count(&token, "/agents").await, started);
        }
        caracal.inject(Endpoint::EndSession, Fault::truncate(5).after_effect());
        let session = agent.start(&token, json!({})).await;
        let path = format!("/agents/{}", session_id(&session));
        assert!(agent.request("DELETE", &path, &token).send().await.is_err(), "it had no body");
    }

    #[tokio::test]
    async fn each_service_has_its_own_and_what_breaks_off_uses_none_up() {
        let (caracal, agent) = sample().await;
        caracal.inject(Endpoint::Token, Fault::status(StatusCode::BAD_GATEWAY).times(1));
        let elsewhere = agent.http.post(format!("{}/oauth/2/token", agent.coordinator)).send();
        assert_eq!(elsewhere.await.unwrap().status(), 401);
        let address = agent.sts.strip_prefix("http://").unwrap();
        let mut broken = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"POST /oauth/2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na=b";
        broken.write_all(request).await.unwrap();
        broken.shutdown().await.unwrap();
        let mut answer = Vec::new();
        broken.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty(), "{answer:?}");
        assert_eq!(caracal.requests().len(), 1, "what broke off was never asked");
        assert_eq!(agent.exchange(&LIFECYCLE).await.0, 502);
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_again() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        let lost = Fault::drop_connection().after_effect().times(1);
        caracal.inject(Endpoint::StartSession, lost);
        let start = async || {
            let request = agent.request("POST", "/agents", &token);
            let body = json!({ "application_id": "app-1" });
            request.header("idempotency-key", "one").json(&body).send().await
        };
        assert!(start().await.is_err());
        assert_eq!(start().await.unwrap().status(), 201);
        let starts = caracal.decisions().into_iter().filter(|one| one.status == 201);
        assert_eq!(starts.map(|one| one.replayed).collect::<Vec<_>>(), [false, true]);
        assert_eq!(agent.count(&token, "/agents").await, 1);
    }

    #[tokio::test]
    async fn an_answer_comes_when_the_clock_has_moved() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        let slow = Fault::delay(Duration::from_secs(3600)).after_effect().times(1);
        caracal.inject(Endpoint::StartSession, slow);
        let waiting = tokio::spawn({
            let (agent, token) = (agent.clone(), token.clone());
            async move { start(&agent, &token).await.unwrap().0 }
        });
        caracal.received(Endpoint::StartSession).await;
        caracal.advance(Duration::from_secs(3599));
        agent.lifecycle().await;
        assert!(!waiting.is_finished());
        caracal.advance(Duration::from_secs(1));
        assert_eq!(waiting.await.unwrap(), 201);
    }

    #[tokio::test]
    async fn a_delay_before_the_effect_lets_it_happen_later() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        caracal.inject(Endpoint::StartSession, Fault::delay(Duration::from_secs(60)).times(1));
        let waiting = tokio::spawn({
            let (agent, token) = (agent.clone(), token.clone());
            async move { start(&agent, &token).await.unwrap().0 }
        });
        caracal.received(Endpoint::StartSession).await;
        assert_eq!(agent.count(&token, "/agents").await, 0);
        caracal.advance(Duration::from_secs(60));
        assert_eq!(waiting.await.unwrap(), 201);
    }
}

#[tokio::test]
async fn what_was_asked_and_decided_is_there_to_assert_on() {
    let (caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    agent.start(&token, json!({ "labels": ["reader"] })).await;
    agent.exchange(&[("resource", TICKETS), ("scope", "tickets:read")]).await;
    let requests = caracal.requests();
    let [minted, started, refused] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(minted.field("scope").as_deref(), Some("agent:lifecycle"));
    assert_eq!((minted.method().as_str(), minted.target()), ("POST", "/oauth/2/token"));
    assert_eq!(started.json().unwrap()["labels"], json!(["reader"]));
    assert_eq!(started.header("authorization"), Some(format!("Bearer {token}").as_str()));
    let decided = refused.decision().unwrap();
    assert_eq!((decided.status, decided.code), (403, Some("access_denied")));
    assert_eq!(decided.application.as_deref(), Some("app-1"));
    let granted: Vec<_> = caracal.decisions().iter().map(|one| one.is_granted()).collect();
    assert_eq!(granted, [true, true, false]);
    let shown = format!("{requests:?}");
    assert!(!shown.contains("app-1-secret") && !shown.contains(&token), "{shown}");
}

/// Causes and what the real Coordinator was recorded to publish for each.
mod published {
    use super::*;

    /// A giver, a taker with an edge between them, and the token all were started with.
    async fn graph(caracal: &EmbeddedCaracal, agent: &Agent) -> (String, Value, Value, Value) {
        let token = agent.lifecycle().await;
        let giver = agent.start(&token, json!({})).await;
        let taker = json!({ "parent_id": session_id(&giver), "parent_authority": "none" });
        let taker = agent.start(&token, taker).await;
        let edge = agent.delegate(&token, &giver, &taker).await;
        caracal.advance(PUBLISHED);
        (token, giver, taker, edge)
    }

    #[tokio::test]
    async fn a_second_later_and_not_at_once() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        let giver = agent.start(&token, json!({})).await;
        let taker = agent.start(&token, json!({})).await;
        agent.delegate(&token, &giver, &taker).await;
        assert_eq!(epoch(&caracal), 0);
        caracal.advance(Duration::from_millis(900));
        assert_eq!(epoch(&caracal), 0);
        caracal.advance(Duration::from_millis(200));
        assert_eq!(epoch(&caracal), 1, "a delegation raises the epoch");
    }

    #[tokio::test]
    async fn whoever_moves_the_clock() {
        let clock = support::agent::clock();
        let caracal = EmbeddedCaracal::builder().clock(clock.clone()).start().await.unwrap();
        let agent = Agent::new(&caracal, "app-1");
        let token = agent.lifecycle().await;
        let session = agent.start(&token, json!({})).await;
        caracal.revoke_session("zone-1", session_id(&session)).unwrap();
        let revocations = caracal.revocations();
        let before = revocations.generation();
        clock.advance(PUBLISHED);
        assert_ne!(revocations.generation(), before, "what is cached is judged anew");
        assert!(standing(&caracal, &[session_id(&session)]).revoked);
    }

    #[tokio::test]
    async fn sessions_without_edges_come_and_go_in_silence() {
        let (caracal, agent) = sample().await;
        let (token, giver, taker, _) = graph(&caracal, &agent).await;
        let before = epoch(&caracal);
        let alone = agent.start(&token, json!({})).await;
        let path = |session: &Value, rest: &str| format!("/agents/{}{rest}", session_id(session));
        agent.call("DELETE", &path(&alone, ""), &token, None).await;
        agent.call("PATCH", &path(&giver, "/suspend"), &token, None).await;
        agent.call("PATCH", &path(&giver, "/resume"), &token, None).await;
        caracal.rotate_key("zone-1").unwrap();
        caracal.archive_application("zone-1", "app-1").unwrap();
        caracal.advance(PUBLISHED);
        assert_eq!(epoch(&caracal), before);
        for session in [alone, giver, taker] {
            assert!(!standing(&caracal, &[session_id(&session)]).revoked);
        }
    }

    #[tokio::test]
    async fn an_end_that_takes_edges_along_raises_the_epoch_and_marks_nothing() {
        let (caracal, agent) = sample().await;
        let (token, giver, taker, edge) = graph(&caracal, &agent).await;
        let before = epoch(&caracal);
        let path = format!("/agents/{}", session_id(&giver));
        agent.call("DELETE", &path, &token, None).await;
        caracal.advance(PUBLISHED);
        assert_eq!(epoch(&caracal), before + 1);
        let anchors = [session_id(&giver), session_id(&taker), text(&edge, "delegation_edge_id")];
        assert!(!standing(&caracal, &anchors).revoked);
    }

    #[tokio::test]
    async fn a_mirror_and_an_expired_task_raise_the_epoch() {
        let (caracal, agent) = sample().await;
        let (token, _, taker, _) = graph(&caracal, &agent).await;
        let before = epoch(&caracal);
        let child = json!({ "parent_id": session_id(&taker), "ttl_seconds": 50 });
        let child = agent.start(&token, child).await;
        assert!(child["delegation_edge_id"].is_string());
        caracal.advance(PUBLISHED);
        assert_eq!(epoch(&caracal), before + 1);
        // The sweep of second 60 finds it, and a second later everybody knows.
        caracal.advance(Duration::from_millis(57_500));
        assert_eq!(epoch(&caracal), before + 1);
        caracal.advance(Duration::from_secs(2));
        assert_eq!(epoch(&caracal), before + 2);
    }

    #[tokio::test]
    async fn a_revoked_delegation_marks_record_session_and_edge() {
        let (caracal, agent) = sample().await;
        let (token, giver, taker, edge) = graph(&caracal, &agent).await;
        let before = epoch(&caracal);
        let edge = text(&edge, "delegation_edge_id");
        assert_eq!(caracal.revoke_delegation("zone-1", edge), Ok(1));
        assert!(caracal.revoke_delegation("zone-1", edge).is_err());
        caracal.advance(PUBLISHED);
        assert!(epoch(&caracal) > before);
        for anchor in [edge, session_id(&taker), text(&taker, "subject_authority_record_id")] {
            assert!(standing(&caracal, &[anchor]).revoked, "{anchor}");
        }
        assert!(!standing(&caracal, &[session_id(&giver)]).revoked);
        assert_eq!(agent.call("GET", "/agents", &token, None).await.0, 401);
    }

    #[tokio::test]
    async fn of_a_cascade_one_session_for_each_record_is_marked() {
        let (caracal, agent) = sample().await;
        let (token, others) = (agent.lifecycle().await, agent.lifecycle().await);
        let start = async |token: &str| agent.start(token, json!({})).await;
        let (a, b, c, d) =
            (start(&token).await, start(&token).await, start(&token).await, start(&others).await);
        let body = |source: &Value, target: &Value, hops: u64, ttl: u64| {
            json!({
                "issuer_application_id": "app-1", "receiver_application_id": "app-1",
                "source_session_id": session_id(source), "target_session_id": session_id(target),
                "resource_id": TICKETS, "scopes": ["tickets:read"], "ttl_seconds": ttl,
                "constraints": { "max_hops": hops },
            })
        };
        let mut edges = Vec::new();
        for body in [body(&a, &b, 9, 900), body(&b, &c, 8, 800), body(&c, &d, 7, 700)] {
            let (status, edge) = agent.call("POST", "/delegations", &token, Some(body)).await;
            assert_eq!(status, 201, "{edge}");
            edges.push(text(&edge, "delegation_edge_id").to_owned());
        }
        assert_eq!(caracal.revoke_delegation("zone-1", &edges[0]), Ok(3));
        caracal.advance(PUBLISHED);
        let marked = |anchor: &str| standing(&caracal, &[anchor]).revoked;
        assert!(marked(&edges[0]) && !marked(&edges[1]) && !marked(&edges[2]));
        assert!(marked(session_id(&b)) && !marked(session_id(&c)) && marked(session_id(&d)));
    }

    #[tokio::test]
    async fn operators_revoke_a_session_or_a_record() {
        let (caracal, agent) = sample().await;
        let (token, giver, taker, edge) = graph(&caracal, &agent).await;
        let before = epoch(&caracal);
        caracal.revoke_session("zone-1", session_id(&giver)).unwrap();
        assert!(caracal.revoke_session("zone-1", session_id(&giver)).is_err());
        caracal.advance(PUBLISHED);
        assert!(standing(&caracal, &[session_id(&giver)]).revoked);
        assert!(standing(&caracal, &[session_id(&taker)]).revoked, "it was below");
        assert!(standing(&caracal, &[text(&edge, "delegation_edge_id")]).revoked);
        assert_eq!(epoch(&caracal), before, "the graph of others is as it was");
        assert_eq!(agent.call("GET", "/agents", &token, None).await.0, 200);

        let record = text(&giver, "subject_authority_record_id");
        caracal.revoke_record("zone-1", record).unwrap();
        caracal.advance(PUBLISHED);
        assert!(standing(&caracal, &[record]).revoked);
        assert!(caracal.revoke_record("zone-1", record).is_err());
        assert_eq!(agent.call("GET", "/agents", &token, None).await.0, 401);
    }
}

/// A guarded service, tested as its author would.
mod service {
    use super::*;

    /// The service under test, with its verifier from outside.
    fn service(caracal: &EmbeddedCaracal) -> Router {
        let whose = async |ctx: CaracalContext| ctx.agent_session_id().unwrap_or("none").to_owned();
        Router::new()
            .route("/tickets", get(whose).route_layer(Require::scopes(["tickets:read"])))
            .layer(CaracalLayer::enforce(caracal.verifier(TICKETS).unwrap()))
    }

    async fn ask(service: &Router, mandate: &str) -> (u16, String) {
        let request = Request::get("/tickets").header("authorization", format!("Bearer {mandate}"));
        let answer = service.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn mandates_are_good_or_broken_in_one_way() {
        let (caracal, _) = sample().await;
        let service = service(&caracal);
        let mandate = caracal.mandate(TICKETS).scopes(["tickets:read"]).session("session-7");
        assert_eq!(ask(&service, &mandate.sign()).await, (200, "session-7".to_owned()));
        let other = caracal.mandate(TICKETS).scopes(["tickets:write"]).sign();
        assert_eq!(ask(&service, &other).await.0, 403);
        let elsewhere = caracal.mandate("resource://mail").scopes(["tickets:read"]).sign();
        assert_eq!(ask(&service, &elsewhere).await.0, 401);
        for flaw in Flaw::ALL {
            let broken = mandate.clone().broken(*flaw).sign();
            assert_eq!(ask(&service, &broken).await.0, 401, "{flaw:?}");
        }
        caracal.advance(Duration::from_secs(900));
        assert_eq!(ask(&service, &mandate.sign()).await.0, 401, "by the same clock");
    }

    #[tokio::test]
    async fn keys_rotate() {
        let (caracal, _) = sample().await;
        let service = service(&caracal);
        let mandate = || caracal.mandate(TICKETS).scopes(["tickets:read"]).sign();
        let before = mandate();
        assert_eq!(ask(&service, &before).await.0, 200);
        caracal.rotate_key("zone-1").unwrap();
        caracal.advance(Duration::from_millis(1));
        assert_eq!(ask(&service, &mandate()).await.0, 200, "the new key is fetched");
        assert_eq!(ask(&service, &before).await.0, 200, "the one before is still published");
        caracal.rotate_key("zone-1").unwrap();
        caracal.advance(Duration::from_millis(1));
        assert_eq!(ask(&service, &mandate()).await.0, 200);
        assert_eq!(ask(&service, &before).await.0, 401, "of older ones nobody knows");
    }

    #[tokio::test]
    async fn a_revoked_delegation_is_refused_a_second_later() {
        let (caracal, agent) = sample().await;
        let service = service(&caracal);
        let token = agent.lifecycle().await;
        let giver = agent.start(&token, json!({})).await;
        let taker = agent.start(&token, json!({})).await;
        let edge = agent.delegate(&token, &giver, &taker).await;
        caracal.advance(PUBLISHED);
        let edge = text(&edge, "delegation_edge_id");
        let mandate = caracal.mandate_for(TICKETS, session_id(&taker), Some(edge)).unwrap();
        let mandate = mandate.scopes(["tickets:read"]).sign();
        assert_eq!(ask(&service, &mandate).await, (200, session_id(&taker).to_owned()));
        caracal.revoke_delegation("zone-1", edge).unwrap();
        assert_eq!(ask(&service, &mandate).await.0, 200, "nobody has told the service yet");
        caracal.advance(PUBLISHED);
        assert_eq!(ask(&service, &mandate).await.0, 401);
    }

    #[tokio::test]
    async fn a_change_of_the_graph_makes_mandates_stale_and_an_end_alone_does_not() {
        let (caracal, agent) = sample().await;
        let service = service(&caracal);
        let token = agent.lifecycle().await;
        let start = async || agent.start(&token, json!({})).await;
        let (giver, taker, third) = (start().await, start().await, start().await);
        let edge = agent.delegate(&token, &giver, &taker).await;
        caracal.advance(PUBLISHED);
        let edge = text(&edge, "delegation_edge_id");
        let mandate = |session: &Value, edge: Option<&str>| {
            let mandate = caracal.mandate_for(TICKETS, session_id(session), edge).unwrap();
            mandate.scopes(["tickets:read"]).sign()
        };
        let (delegated, plain) = (mandate(&taker, Some(edge)), mandate(&third, None));
        let path = format!("/agents/{}", session_id(&third));
        assert_eq!(agent.call("DELETE", &path, &token, None).await.0, 204);
        caracal.advance(PUBLISHED);
        assert_eq!(ask(&service, &plain).await.0, 200, "an end without edges is told to nobody");
        assert_eq!(ask(&service, &delegated).await.0, 200);
        let fourth = start().await;
        agent.delegate(&token, &giver, &fourth).await;
        caracal.advance(PUBLISHED);
        assert_eq!(ask(&service, &delegated).await.0, 401, "issued under an older epoch");
        assert_eq!(ask(&service, &mandate(&taker, Some(edge))).await.0, 200, "a newer one is not");
    }

    #[tokio::test]
    async fn a_mandate_tells_of_its_delegations_as_the_sts_does() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        let start = async || agent.start(&token, json!({ "labels": ["reader"] })).await;
        let (a, b, c) = (start().await, start().await, start().await);
        let mut edge = String::new();
        for (source, target, hops, ttl) in [(&a, &b, 3, 900), (&b, &c, 2, 800)] {
            let body = json!({
                "issuer_application_id": "app-1", "receiver_application_id": "app-1",
                "source_session_id": session_id(source), "target_session_id": session_id(target),
                "resource_id": TICKETS, "scopes": ["tickets:read"], "ttl_seconds": ttl,
                "constraints": { "max_hops": hops },
            });
            let (_, created) = agent.call("POST", "/delegations", &token, Some(body)).await;
            edge = text(&created, "delegation_edge_id").to_owned();
        }
        let (status, minted) = agent.mint(&c, &json!({ "delegation_edge_id": edge })).await;
        assert_eq!(status, 200, "{minted}");
        let claims = |token: &str| -> Value {
            jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap()
        };
        let minted = claims(text(&minted, "access_token"));
        let made = caracal.mandate_for(TICKETS, session_id(&c), Some(&edge)).unwrap();
        let made = claims(&made.scopes(["tickets:read"]).sign());
        assert_eq!(made["hop_count"], 2);
        for (name, value) in minted.as_object().unwrap() {
            // What is of each token, and what the Gateway makes another.
            if !["aud", "use", "jti", "sid", "root_sid", "iat", "exp"].contains(&name.as_str()) {
                assert_eq!(&made[name], value, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn what_a_mandate_is_for_must_exist() {
        let (caracal, agent) = sample().await;
        let token = agent.lifecycle().await;
        let (giver, taker) =
            (agent.start(&token, json!({})).await, agent.start(&token, json!({})).await);
        let edge = agent.delegate(&token, &giver, &taker).await;
        let edge = text(&edge, "delegation_edge_id");
        assert!(caracal.mandate_for(TICKETS, "nobody", None).is_err());
        assert!(caracal.mandate_for(TICKETS, session_id(&taker), Some("nothing")).is_err());
        assert!(caracal.mandate_for(TICKETS, session_id(&giver), Some(edge)).is_err(), "not to it");
        assert!(caracal.mandate_for(TICKETS, session_id(&taker), Some(edge)).is_ok());
    }

    #[tokio::test]
    async fn a_service_that_cannot_fetch_keys_is_unavailable() {
        let (caracal, _) = sample().await;
        let service = service(&caracal);
        let mandate = caracal.mandate(TICKETS).scopes(["tickets:read"]).sign();
        for fault in [
            Fault::status(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::drop_connection(),
            Fault::truncate(20).after_effect(),
        ] {
            caracal.inject(Endpoint::Keys, fault);
            assert_eq!(ask(&service, &mandate).await.0, 503);
            caracal.clear_faults();
            caracal.advance(Duration::from_secs(31));
        }
        assert_eq!(ask(&service, &mandate).await.0, 200);
    }
}

/// Each has ports, keys, a clock and a state of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_run_side_by_side() {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..100_u64 {
        running.spawn(async move {
            let (caracal, agent) = sample().await;
            caracal.advance(Duration::from_secs(number));
            let token = agent.lifecycle().await;
            agent.start(&token, json!({})).await;
            assert_eq!(agent.count(&token, "/agents").await, 1);
            (caracal.sts_url().to_owned(), caracal)
        });
    }
    let all = running.join_all().await;
    let ports: std::collections::BTreeSet<_> = all.iter().map(|(url, _)| url).collect();
    assert_eq!(ports.len(), 100);
}
