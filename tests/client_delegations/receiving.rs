//! Delegations are accepted by the session they were made to, and revoked by who made them.

use caracal_axum::{
    Health, Renewal,
    embedded::{Endpoint, Fault},
};
use http::StatusCode;

use super::{child, hops, reader, receiver, root};
use crate::support::{
    agent::TICKETS,
    at_work::{
        LEDGER, PUBLISHED, acceptances, bearer, held, last, mint, neighbours, refused_unsent,
        roomy, sample, seconds, sent, status,
    },
};

#[tokio::test]
async fn accepting_asks_nobody_and_leaves_the_old_context_as_it_is() {
    let (caracal, client) = sample().await;
    let source = root(&client).await;
    let session = child(&client, source.context(), reader()).await;
    let old = session.context().delegation_edge_id().unwrap().to_owned();
    let told = acceptances(&client);
    let before = caracal.requests().len();
    let accepted = session.scope(async { client.accept_delegation("edge-1").await }).await.unwrap();
    assert_eq!(caracal.requests().len(), before);
    assert_eq!(accepted.agent_session_id(), Some(session.agent_session_id()));
    assert_eq!(accepted.delegation_edge_id(), Some("edge-1"));
    assert_eq!(accepted.parent_edge_id(), Some(&*old));
    assert_eq!(accepted.hop(), session.context().hop() + 1);
    assert_eq!(accepted.trace_id(), session.context().trace_id());
    assert_eq!(accepted.application_id(), "app-1");
    assert!(accepted.is_own());
    assert_eq!(session.context().delegation_edge_id(), Some(&*old));
    let expected = (true, "edge-1".to_owned(), session.agent_session_id().to_owned());
    assert_eq!(told.all(), [expected]);
}

#[tokio::test]
async fn without_a_session_there_is_nothing_to_accept_with() {
    let (caracal, client) = sample().await;
    refused_unsent(&caracal, async { client.accept_delegation("edge-1").await }).await;
    refused_unsent(&caracal, async { client.accept_delegation("edge-1").validate().await }).await;
    let session = root(&client).await;
    for id in ["", "a/b", ".."] {
        let accepting = client.accept_delegation(id).context(session.context().clone());
        refused_unsent(&caracal, async { accepting.await }).await;
    }
}

#[tokio::test]
async fn validated_it_is_asked_for_and_a_refusal_keeps_its_status_and_code() {
    let (caracal, giver) = roomy().await;
    let (client, session, context) = receiver(&caracal, &giver, (seconds(600), None)).await;
    let edge = context.delegation_edge_id().unwrap().to_owned();
    let told = acceptances(&client);
    let accept = |id: &str| {
        let accepting = client.accept_delegation(id).context(session.context().clone());
        accepting.validate()
    };
    let accepted = accept(&edge).await.unwrap();
    let asked = last(&caracal, Endpoint::Read);
    let id = session.agent_session_id();
    assert_eq!(asked.target(), format!("/zones/zone-1/delegations/inbound/{id}/{edge}"));
    assert_eq!(asked.method(), "GET");
    mint(&client, &accepted).await.unwrap();

    let error = accept("another").await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::NOT_FOUND));
    assert_eq!(error.code(), "delegation_not_found");
    caracal.inject(Endpoint::Read, Fault::refusal(StatusCode::FORBIDDEN, "somehow").times(1));
    let error = accept(&edge).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(StatusCode::FORBIDDEN), "somehow"));
    let revoked = r#"{"id":"x","status":"revoked"}"#;
    caracal.inject(Endpoint::Read, Fault::answer(StatusCode::OK, revoked).times(1));
    accept(&edge).await.unwrap_err();

    let refused = Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked").times(1);
    caracal.inject(Endpoint::Read, refused);
    accept(&edge).await.unwrap();
    let asked = sent(&caracal, Endpoint::Read);
    assert_ne!(bearer(&asked[asked.len() - 2]), bearer(&asked[asked.len() - 1]));

    caracal.advance(seconds(601));
    assert_eq!(accept(&edge).await.unwrap_err().code(), "delegation_not_found");
    let outcomes: Vec<_> = told.all().into_iter().map(|(ok, ..)| ok).collect();
    assert_eq!(outcomes, [true, false, false, false, true, false]);
}

#[tokio::test]
async fn revoking_ends_the_receiver_and_says_how_much() {
    let (caracal, client) = sample().await;
    let parent = root(&client).await;
    let first = child(&client, parent.context(), reader().constraints(hops(3))).await;
    let second = child(&client, first.context(), reader().constraints(hops(2))).await;
    let edge = first.context().delegation_edge_id().unwrap();
    let revocation = client.revoke_delegation(edge).context(parent.context().clone());
    let revocation = revocation.await.unwrap();
    assert_eq!(revocation.revoked_edges, 2);
    assert_eq!(revocation.terminated_sessions, 2);
    assert_eq!(revocation.affected_sessions, 1);
    let asked = last(&caracal, Endpoint::RevokeDelegation);
    assert_eq!(asked.target(), format!("/zones/zone-1/delegations/{edge}/revoke"));
    assert_eq!((asked.method().as_str(), asked.header("content-type")), ("PATCH", None));
    for session in [&first, &second] {
        assert_eq!(status(&caracal, session.agent_session_id()).await, "terminated");
        session.end().await.unwrap();
    }
    let error = client.revoke_delegation(edge).await.unwrap_err();
    assert_eq!(error.code(), "delegation_not_found");
    assert_eq!(error.status(), Some(StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn a_lost_answer_of_a_revocation_is_no_error() {
    let (caracal, client) = sample().await;
    let parent = root(&client).await;
    let first = child(&client, parent.context(), reader()).await;
    let edge = first.context().delegation_edge_id().unwrap().to_owned();
    caracal.inject(Endpoint::RevokeDelegation, Fault::drop_connection().after_effect().times(1));
    client.revoke_delegation(&*edge).await.unwrap();
    assert_eq!(sent(&caracal, Endpoint::RevokeDelegation).len(), 2);
    assert!(held(&caracal, first.agent_session_id()).await.is_empty());
}

/// The Coordinator revokes the record of the token that the receiver was started with: that is the
/// client's own.
#[tokio::test]
async fn with_the_revocation_the_token_is_dropped_and_what_follows_is_not_refused() {
    let (caracal, client) = sample().await;
    let parent = root(&client).await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let first = child(&client, parent.context(), reader()).await;
    let peer = root(&client).await;
    let edge = first.context().delegation_edge_id().unwrap();
    client.revoke_delegation(edge).await.unwrap();
    let token = bearer(&last(&caracal, Endpoint::RevokeDelegation));
    caracal.advance(PUBLISHED);
    service.heartbeat(Health::Healthy).await.unwrap();
    let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
    delegating.resource(TICKETS).context(parent.context().clone()).await.unwrap();
    root(&client).await.end().await.unwrap();
    service.close().await.unwrap();
    parent.end().await.unwrap();
    assert!(caracal.decisions().iter().all(|decision| decision.status != 401));
    assert_eq!(sent(&caracal, Endpoint::Token).len(), 2, "one new token");
    assert_ne!(bearer(&last(&caracal, Endpoint::EndSession)), token);
}

/// The same where nobody dropped it in time: whatever meets the dead token gets another.
#[tokio::test]
async fn a_token_that_another_s_revocation_killed_is_replaced_at_every_call() {
    let (caracal, giver) = roomy().await;
    let (client, session, context) = receiver(&caracal, &giver, (seconds(600), None)).await;
    let parent = root(&client).await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    giver.revoke_delegation(context.delegation_edge_id().unwrap()).await.unwrap();
    caracal.advance(PUBLISHED);
    assert_eq!(status(&caracal, session.agent_session_id()).await, "terminated");
    service.heartbeat(Health::Healthy).await.unwrap();
    let refused = last(&caracal, Endpoint::Token);
    assert_eq!(refused.field("scope").as_deref(), Some("agent:lifecycle"));
    child(&client, parent.context(), reader()).await.end().await.unwrap();
    service.close().await.unwrap();
    session.end().await.unwrap();
    parent.end().await.unwrap();
    let unauthorized = caracal.decisions().iter().filter(|one| one.status == 401).count();
    assert_eq!(unauthorized, 1, "one refusal, then a new token for all");
}

#[tokio::test]
async fn another_application_receives_with_its_name_and_mints_what_is_its_own() {
    let (caracal, first, second) = neighbours().await;
    let giver = root(&first).await;
    let receiver = root(&second).await;
    let delegate = |resource: &str, scope: &str| {
        let delegating = first.delegate(receiver.agent_session_id()).scopes([scope]);
        delegating.resource(resource).context(giver.context().clone())
    };
    let error = delegate(TICKETS, "tickets:read").await.unwrap_err();
    assert_eq!(error.code(), "delegation_application_mismatch");
    let made = delegate(TICKETS, "tickets:read").to_application("app-2").await.unwrap();
    let told = last(&caracal, Endpoint::Delegate).json().unwrap();
    assert_eq!(told["issuer_application_id"], "app-1");
    assert_eq!(told["receiver_application_id"], "app-2");
    let accept =
        |id: &str| second.accept_delegation(id).context(receiver.context().clone()).validate();
    let context = accept(made.delegation_edge_id()).await.unwrap();
    let error = mint(&second, &context).await.unwrap_err();
    assert_eq!(error.code(), "access_denied", "it has no grant there");
    let own = delegate(LEDGER, "ledger:read").to_application("app-2").await.unwrap();
    let context = accept(own.delegation_edge_id()).await.unwrap();
    second.mint_mandate(LEDGER, ["ledger:read"]).context(context).await.unwrap();

    let error = second.revoke_delegation(own.delegation_edge_id()).await.unwrap_err();
    assert_eq!(error.code(), "issuer_ownership_required", "it is not its own to revoke");
    first.revoke_delegation(own.delegation_edge_id()).await.unwrap();
    caracal.advance(PUBLISHED);
    // The token of the receiving application dies with it, and is replaced.
    root(&second).await.end().await.unwrap();
    giver.end().await.unwrap();
}

#[tokio::test]
async fn sessions_of_another_application_are_not_acted_in() {
    let (caracal, first, second) = neighbours().await;
    let foreign = root(&first).await;
    let own = root(&second).await;
    let context = foreign.context().clone();
    let starts = sent(&caracal, Endpoint::StartSession).len();
    second.spawn().parent(context.clone()).start().await.unwrap_err();
    second.spawn().parent(context.clone()).grant(reader()).start().await.unwrap_err();
    let delegating = second.delegate(own.agent_session_id()).scopes(["ledger:read"]);
    delegating.resource(LEDGER).context(context.clone()).await.unwrap_err();
    second.mint_mandate(LEDGER, ["ledger:read"]).context(context).await.unwrap_err();
    assert_eq!(sent(&caracal, Endpoint::StartSession).len(), starts);
    assert!(sent(&caracal, Endpoint::Delegate).is_empty());
    let minted = sent(&caracal, Endpoint::Token);
    assert!(minted.iter().all(|request| request.field("agent_session_id").is_none()));
}
