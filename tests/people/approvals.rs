//! Holds, decisions, and who waits for them.

use std::time::Duration;

use caracal_axum::embedded::{ApprovalState, Endpoint, Fault, Grant, OperatorError};
use serde_json::json;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{TICKETS, Work, ZONE, answer, claims, text};

/// Real time in which something would long have happened.
const A_MOMENT: Duration = Duration::from_millis(150);

/// Begins to wait for a decision.
async fn waiting(work: &Work, id: &str, wait: u32) -> JoinHandle<String> {
    let before = polls(work);
    let poll = work.poll(id, wait);
    let task = tokio::spawn(async move { text(&answer(poll).await.1, "state") });
    while polls(work) == before {
        tokio::task::yield_now().await;
    }
    task
}

/// What who waits is told. The clock of the control plane stands still meanwhile.
async fn told(waiting: JoinHandle<String>) -> String {
    timeout(Duration::from_secs(10), waiting).await.expect("an answer").unwrap()
}

fn polls(work: &Work) -> usize {
    let requests = work.caracal.requests();
    requests.iter().filter(|request| request.endpoint() == Endpoint::Approval).count()
}

#[tokio::test]
async fn who_waits_is_told_at_once() {
    let work = Work::start().await;
    for (scope, approved) in [("tickets:write", true), ("tickets:write tickets:read", false)] {
        let id = work.held(scope).await;
        let mut first = waiting(&work, &id, 25).await;
        let second = waiting(&work, &id, 25).await;
        assert!(timeout(A_MOMENT, &mut first).await.is_err(), "nobody has decided");
        // Nothing waits for those who wait.
        assert_eq!(work.mint("tickets:read", &[]).await.0, 200);
        let state = if approved {
            work.caracal.approve(ZONE, &id).unwrap();
            "approved"
        } else {
            work.caracal.reject(ZONE, &id).unwrap();
            "rejected"
        };
        for waiting in [first, second] {
            assert_eq!(told(waiting).await, state);
        }
    }
}

#[tokio::test]
async fn waits_go_by_the_clock() {
    let work = Work::start().await;
    let id = work.held("tickets:write").await;
    let mut wait = waiting(&work, &id, 5).await;
    work.advance(4.9);
    assert!(timeout(A_MOMENT, &mut wait).await.is_err(), "4.9 of 5 seconds");
    work.advance(0.1);
    assert_eq!(told(wait).await, "pending");

    work.advance(3600.0 - 10.0);
    let wait = waiting(&work, &id, 25).await;
    work.advance(6.0);
    assert_eq!(told(wait).await, "expired", "it ended before the wait did");
    assert!(work.caracal.approve(ZONE, &id).is_err());
}

#[tokio::test]
async fn a_user_s_decision_wakes_as_well() {
    let work = Work::start().await;
    let (status, hold) = work.mint("tickets:sign", &[]).await;
    assert_eq!(status, 401);
    let id = text(&hold, "approval_id");
    let wait = waiting(&work, &id, 25).await;
    let (user, _) = work.user("alice", "0").await;
    let decision = json!({ "decision": "approved", "binding": hold["binding"] });
    let url = format!("{}/approvals/{id}/decision", work.agent.sts);
    let post = work.agent.http.post(url).bearer_auth(user).json(&decision);
    assert_eq!(text(&answer(post).await.1, "state"), "approved");
    assert_eq!(told(wait).await, "approved");
    assert_eq!(work.mint("tickets:sign", &[("approval_id", &id)]).await.0, 200);
    let decided = work.caracal.decisions();
    let decided = decided.iter().find(|one| one.endpoint == Endpoint::Decision).unwrap();
    assert_eq!((decided.status, decided.application.as_deref()), (200, Some("app-1")));
}

#[tokio::test]
async fn an_approval_is_used_once_however_many_come() {
    let work = Work::start().await;
    let id = work.held("tickets:write").await;
    work.caracal.approve(ZONE, &id).unwrap();
    let mut mints = JoinSet::new();
    for _ in 0..16 {
        let agent = work.agent.clone();
        let (session, edge) = (work.session.clone(), work.edge.clone());
        mints.spawn(async move {
            let form = [
                ("resource", TICKETS),
                ("scope", "tickets:write"),
                ("agent_session_id", session.as_str()),
                ("delegation_edge_id", edge.as_str()),
            ];
            agent.exchange(&form).await.0
        });
    }
    let answers = mints.join_all().await;
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 401).count(), 15, "{answers:?}");
    assert_eq!(work.state(&id).await, "consumed");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let work = Work::start().await;
    let id = work.held("tickets:write").await;
    work.caracal.approve(ZONE, &id).unwrap();
    let lost = Fault::truncate(5).after_effect().times(1);
    work.caracal.inject(Endpoint::Token, lost);
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", ZONE),
        ("application_id", "app-1"),
        ("client_secret", &work.agent.secret),
        ("resource", TICKETS),
        ("scope", "tickets:write"),
        ("agent_session_id", &work.session),
        ("delegation_edge_id", &work.edge),
        ("approval_id", &id),
        ("ttl_seconds", "100"),
    ];
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let sent = work
        .agent
        .http
        .post(format!("{}/oauth/2/token", work.agent.sts))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
        .send();
    assert!(sent.await.unwrap().bytes().await.is_err(), "its answer is lost");
    assert_eq!(work.state(&id).await, "consumed");

    let again = async |ttl| work.mint("tickets:write", &[("approval_id", &id), ttl]).await;
    let (status, first) = again(("ttl_seconds", "100")).await;
    assert_eq!(status, 200, "{first}");
    let first = claims(&text(&first, "access_token"));
    work.advance(60.0);
    let (_, second) = again(("ttl_seconds", "100")).await;
    assert_eq!(second["expires_in"], 39, "no longer than the record");
    let second = claims(&text(&second, "access_token"));
    assert_eq!(second["sid"], first["sid"]);
    assert_ne!(second["jti"], first["jti"]);
    // A revoked record is none to be had again.
    work.caracal.revoke_record(ZONE, first["sid"].as_str().unwrap()).unwrap();
    work.advance(1.1);
    let (status, refusal) = again(("ttl_seconds", "10")).await;
    assert_eq!((status, &refusal["error"]), (409, &json!("approval_consumed")));
}

#[tokio::test]
async fn a_change_of_policy_asks_anew() {
    let work = Work::start().await;
    let old = work.held("tickets:write").await;
    work.caracal.approve(ZONE, &old).unwrap();
    let grant = Grant::new("app-1", TICKETS).role("reader").scopes(["tickets:read"]);
    work.caracal.add_grant(ZONE, grant).unwrap();
    let (status, refusal) = work.mint("tickets:write", &[("approval_id", &old)]).await;
    assert_eq!((status, &refusal["error"]), (401, &json!("access_denied")), "{refusal}");
    assert_ne!(work.held("tickets:write").await, old);
    assert_eq!(work.state(&old).await, "approved", "for what can never be asked again");
}

#[tokio::test]
async fn one_hold_is_for_the_whole_request() {
    let work = Work::start().await;
    let two = [("resource", "resource://nothing")];
    let (status, hold) = work.mint("tickets:write", &two).await;
    assert_eq!(status, 401, "unknown resources are part of it: {hold}");
    let id = text(&hold, "approval_id");
    assert_ne!(work.held("tickets:write").await, id);
    work.caracal.approve(ZONE, &id).unwrap();
    let (status, granted) = work.mint("tickets:write", &two).await;
    assert_eq!((status, &granted["target_resources"]), (200, &json!([TICKETS])));
}

#[tokio::test]
async fn operators_see_and_decide_what_is_theirs() {
    let work = Work::start().await;
    let changes = work.held("tickets:write tickets:read").await;
    let consent = work.held("tickets:sign").await;
    let listed = work.caracal.approvals(ZONE).unwrap();
    let [first, second] = listed.as_slice() else { panic!("two: {listed:?}") };
    assert_eq!((&first.id, &second.id), (&changes, &consent));
    assert_eq!((first.tier.as_str(), first.state), ("changes", ApprovalState::Pending));
    assert_eq!(first.scopes, ["tickets:write", "tickets:read"]);
    assert_eq!(first.resources, [TICKETS]);
    assert_eq!(first.agent_session_id.as_ref(), Some(&work.session));
    assert_eq!((first.application.as_str(), &first.user), ("app-1", &None));

    let caracal = &work.caracal;
    let theirs = OperatorError::SubjectApproval(consent.clone());
    assert_eq!(caracal.approve(ZONE, &consent), Err(theirs));
    assert_eq!(caracal.reject(ZONE, &changes), Ok(()));
    let decided = OperatorError::Approval(changes.clone());
    assert_eq!(caracal.approve(ZONE, &changes), Err(decided));
    for nothing in ["nothing", "6f1c1b0e-9d0a-4b6e-8f0e-2f5a3a1f0c11"] {
        let unknown = OperatorError::Approval(nothing.to_owned());
        assert_eq!(caracal.approve(ZONE, nothing), Err(unknown));
    }
    assert!(matches!(caracal.approvals("zone-9"), Err(OperatorError::UnknownZone(_))));
    assert_eq!(caracal.approvals(ZONE).unwrap()[0].state, ApprovalState::Rejected);
}
