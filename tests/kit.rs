//! The embedded control plane as a test kit: faults, records, published revocations.
#![cfg(feature = "embedded")]

mod support;

use std::time::Duration;

use caracal_axum::{
    RevocationQuery, RevocationStore as _, Standing,
    embedded::{EmbeddedCaracal, Endpoint, Fault},
};
use http::StatusCode;
use serde_json::{Value, json};
use support::agent::{Agent, TICKETS, sample};

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
        for (fault, started) in [(Fault::truncate(10), 0), (Fault::truncate(10).after_effect(), 1)]
        {
            caracal.inject(Endpoint::StartSession, fault.times(1));
            let error = start(&agent, &token).await.unwrap_err();
            assert!(error.is_decode() || error.is_body(), "{error:?}");
            assert_eq!(agent.count(&token, "/agents").await, started);
        }
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
        while agent.count(&token, "/agents").await == 0 {
            tokio::task::yield_now().await;
        }
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
        let arrived = || {
            let is_start = |one: &&_| {
                caracal_axum::embedded::ReceivedRequest::endpoint(one) == Endpoint::StartSession
            };
            caracal.requests().iter().filter(is_start).count()
        };
        while arrived() == 0 {
            tokio::task::yield_now().await;
        }
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
        let (token, giver, taker, _) = graph(&caracal, &agent).await;
        caracal.revoke_session("zone-1", session_id(&giver)).unwrap();
        assert!(caracal.revoke_session("zone-1", session_id(&giver)).is_err());
        caracal.advance(PUBLISHED);
        assert!(standing(&caracal, &[session_id(&giver)]).revoked);
        assert!(standing(&caracal, &[session_id(&taker)]).revoked, "it was below");
        assert_eq!(agent.call("GET", "/agents", &token, None).await.0, 200);

        let record = text(&giver, "subject_authority_record_id");
        caracal.revoke_record("zone-1", record).unwrap();
        caracal.advance(PUBLISHED);
        assert!(standing(&caracal, &[record]).revoked);
        assert!(caracal.revoke_record("zone-1", record).is_err());
        assert_eq!(agent.call("GET", "/agents", &token, None).await.0, 401);
    }
}
