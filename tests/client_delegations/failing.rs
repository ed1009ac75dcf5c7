//! What a delegation does when the Coordinator fails it.

use caracal_axum::{
    AgentSession, Caracal, CaracalError, Delegation,
    embedded::{EmbeddedCaracal, Endpoint, Fault},
};
use http::StatusCode;
use serde_json::json;

use super::{child, hops, reader, receiver, root};
use crate::support::{
    agent::TICKETS,
    at_work::{bearer, body, held, last, roomy, seconds, sent, status},
};

/// Gives on as a narrowed child, or to a peer.
enum Way {
    Narrow,
    Delegate(AgentSession),
}

impl Way {
    async fn both(client: &Caracal) -> [Self; 2] {
        [Self::Narrow, Self::Delegate(root(client).await)]
    }

    async fn go(&self, client: &Caracal, giver: &AgentSession) -> Result<(), CaracalError> {
        match self {
            Self::Narrow => {
                let narrowing = client.spawn().parent(giver.context().clone()).grant(reader());
                narrowing.start().await.map(drop)
            }
            Self::Delegate(peer) => to(client, giver, peer).await.map(drop),
        }
    }
}

async fn to(
    client: &Caracal,
    giver: &AgentSession,
    peer: &AgentSession,
) -> Result<Delegation, CaracalError> {
    let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
    delegating.resource(TICKETS).context(giver.context().clone()).await
}

fn statuses(caracal: &EmbeddedCaracal, from: usize) -> Vec<Option<u16>> {
    let sent = sent(caracal, Endpoint::Delegate).split_off(from);
    sent.iter().map(|request| request.decision().map(|decision| decision.status)).collect()
}

#[tokio::test]
async fn it_is_sent_once_more_under_its_key() {
    let (caracal, client) = roomy().await;
    let giver = root(&client).await;
    for way in Way::both(&client).await {
        for (fault, effects) in [
            (Fault::status(StatusCode::INTERNAL_SERVER_ERROR), [None, Some(201)]),
            (Fault::drop_connection(), [None, Some(201)]),
            (Fault::drop_connection().after_effect(), [Some(201); 2]),
            (Fault::answer(StatusCode::CREATED, "{}").after_effect(), [Some(201); 2]),
        ] {
            let before = sent(&caracal, Endpoint::Delegate).len();
            caracal.inject(Endpoint::Delegate, fault.clone().times(1));
            way.go(&client, &giver).await.unwrap();
            assert_eq!(statuses(&caracal, before), effects, "{fault:?}");
            let tries = sent(&caracal, Endpoint::Delegate).split_off(before);
            let key = |at: usize| tries[at].header("idempotency-key").unwrap();
            assert_eq!(key(0), key(1));
            assert_eq!(tries[0].json(), tries[1].json());
            let replayed = tries[1].decision().unwrap().replayed;
            assert_eq!(replayed, effects[0].is_some(), "one delegation was made: {fault:?}");
        }
    }
}

#[tokio::test]
async fn and_no_oftener_and_not_at_all_after_a_refusal() {
    let (caracal, client) = roomy().await;
    let giver = root(&client).await;
    for way in Way::both(&client).await {
        for (fault, tries, status_code, code) in [
            (Fault::status(StatusCode::BAD_GATEWAY), 2, Some(502), "injected_fault"),
            (Fault::refusal(StatusCode::FORBIDDEN, "no"), 1, Some(403), "no"),
            (Fault::refusal(StatusCode::CONFLICT, "no"), 1, Some(409), "no"),
            (Fault::refusal(StatusCode::TOO_MANY_REQUESTS, "slow"), 1, Some(429), "slow"),
            (
                Fault::refusal(StatusCode::TEMPORARY_REDIRECT, "x"),
                1,
                Some(307),
                "unexpected_redirect",
            ),
            (Fault::drop_connection(), 2, None, "unreachable"),
        ] {
            let before = sent(&caracal, Endpoint::Delegate).len();
            caracal.inject(Endpoint::Delegate, fault.clone());
            let error = way.go(&client, &giver).await.unwrap_err();
            caracal.clear_faults();
            assert_eq!(statuses(&caracal, before).len(), tries, "{fault:?}");
            assert_eq!(error.status().map(|status| status.as_u16()), status_code, "{fault:?}");
            assert_eq!(error.code(), code, "{fault:?}");
            if matches!(way, Way::Narrow) {
                // The child that would have got it is ended when the error is returned.
                let target = body(&caracal, Endpoint::Delegate)["target_session_id"].clone();
                let end = last(&caracal, Endpoint::EndSession);
                assert!(end.target().contains(target.as_str().unwrap()), "{fault:?}");
                assert_eq!(status(&caracal, target.as_str().unwrap()).await, "terminated");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let (caracal, client) = roomy().await;
    let giver = root(&client).await;
    let refused = || Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked");
    for way in Way::both(&client).await {
        let before = sent(&caracal, Endpoint::Delegate).len();
        caracal.inject(Endpoint::Delegate, refused().times(1));
        way.go(&client, &giver).await.unwrap();
        let tries = sent(&caracal, Endpoint::Delegate).split_off(before);
        assert_eq!(tries.len(), 2);
        assert_ne!(bearer(&tries[0]), bearer(&tries[1]));
        assert_eq!(tries[0].header("idempotency-key"), tries[1].header("idempotency-key"));

        caracal.inject(Endpoint::Delegate, refused());
        let error = way.go(&client, &giver).await.unwrap_err();
        caracal.clear_faults();
        assert_eq!(error.status(), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(sent(&caracal, Endpoint::Delegate).len(), before + 4);
    }
    let agent = crate::support::agent::Agent::new(&caracal, "app-1");
    let path = format!("/agents/{}/children", giver.agent_session_id());
    let token = agent.lifecycle().await;
    let (_, children) = agent.call("GET", &path, &token, None).await;
    let live = |child: &&serde_json::Value| child["status"] == "active";
    let live = children["items"].as_array().unwrap().iter().filter(live).count();
    assert!(live <= 1, "the child of the refused narrowing was ended: {children}");
}

/// A session whose delegation has run out counts as a root for the Coordinator: what it gives on
/// would be more than it ever had.
#[tokio::test]
async fn what_does_not_descend_from_the_delegation_named_is_undone() {
    let (caracal, giver) = roomy().await;
    for lost in [false, true] {
        let (client, session, context) = receiver(&caracal, &giver, (seconds(60), Some(5))).await;
        let peer = root(&client).await;
        caracal.advance(seconds(61));
        assert_eq!(context.agent_session_id(), Some(session.agent_session_id()));

        let grant = reader().ttl(seconds(30)).constraints(hops(2));
        let narrowing = client.spawn().parent(context.clone()).labels(["reader"]).grant(grant);
        if lost {
            caracal.inject(Endpoint::Delegate, Fault::drop_connection().after_effect().times(1));
        }
        let error = narrowing.start().await.unwrap_err();
        assert_eq!(error.status(), None);
        let made = last(&caracal, Endpoint::Delegate);
        assert_eq!(made.decision().unwrap().status, 201, "the server makes a root");
        assert_eq!(made.json().unwrap()["parent_edge_id"].as_str(), context.delegation_edge_id());
        let target = made.json().unwrap()["target_session_id"].as_str().unwrap().to_owned();
        assert_eq!(status(&caracal, &target).await, "terminated");
        assert!(held(&caracal, &target).await.is_empty());

        if lost {
            let failing = Fault::status(StatusCode::INTERNAL_SERVER_ERROR).times(1);
            caracal.inject(Endpoint::RevokeDelegation, failing);
        }
        let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
        let delegating = delegating.resource(TICKETS).context(context.clone());
        let made_again = delegating.constraints(hops(2)).ttl(seconds(30)).await;
        let error_again = made_again.unwrap_err();
        assert_eq!((error_again.status(), error_again.code()), (None, error.code()));
        assert_eq!(last(&caracal, Endpoint::Delegate).decision().unwrap().status, 201);
        assert_eq!(last(&caracal, Endpoint::RevokeDelegation).decision().unwrap().status, 200);
        assert!(held(&caracal, peer.agent_session_id()).await.is_empty());
    }
}

#[tokio::test]
async fn an_answer_that_names_another_parent_is_an_error_too() {
    let (caracal, client) = roomy().await;
    let session = root(&client).await;
    let giver = child(&client, session.context(), reader().constraints(hops(5))).await;
    for parent in [json!("another-edge"), json!(null)] {
        let narrowing = client.spawn().parent(giver.context().clone());
        let narrowing = narrowing.grant(reader().constraints(hops(3)));
        let answer = json!({
            "delegation_edge_id": "made-up", "parent_edge_id": parent, "scopes": ["tickets:read"],
        });
        let fault = Fault::answer(StatusCode::CREATED, answer.to_string()).after_effect().times(1);
        caracal.inject(Endpoint::Delegate, fault);
        narrowing.start().await.unwrap_err();
        let target = body(&caracal, Endpoint::Delegate)["target_session_id"].clone();
        assert_eq!(status(&caracal, target.as_str().unwrap()).await, "terminated");
    }
}
