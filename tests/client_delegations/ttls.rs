//! How long a delegation lasts for which nobody says.

use caracal_axum::{Caracal, CaracalContext, Grant, embedded::Endpoint};
use http::HeaderMap;

use super::{child, hops, reader, receiver, root};
use crate::support::{
    agent::TICKETS,
    at_work::{body, mint, roomy, seconds, sent},
};

#[tokio::test]
async fn an_hour_at_a_root() {
    let (caracal, client) = roomy().await;
    let session = root(&client).await;
    drop(child(&client, session.context(), reader()).await);
    assert_eq!(body(&caracal, Endpoint::Delegate)["ttl_seconds"], 3600);
    let peer = root(&client).await;
    let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
    delegating.resource(TICKETS).context(session.context().clone()).await.unwrap();
    assert_eq!(body(&caracal, Endpoint::Delegate)["ttl_seconds"], 3600);
    assert!(sent(&caracal, Endpoint::Read).is_empty());
}

#[tokio::test]
async fn nine_tenths_of_what_is_left_of_one_that_was_made_here() {
    let (caracal, client) = roomy().await;
    let session = root(&client).await;
    let peer = root(&client).await;
    let grant = reader().ttl(seconds(1000)).constraints(hops(5));
    let parent = child(&client, session.context(), grant).await;
    let inheriting = client.spawn().parent(parent.context().clone()).labels(["reader"]);
    let mirrored = inheriting.start().await.unwrap();
    for (passed, ttl) in [(0, 900), (500, 450), (433, 60)] {
        caracal.advance(seconds(passed));
        for (giver, most) in [(&parent, 3), (&mirrored, 4)] {
            let made = child(&client, giver.context(), reader().constraints(hops(most))).await;
            assert_eq!(body(&caracal, Endpoint::Delegate)["ttl_seconds"], ttl);
            mint(&client, made.context()).await.unwrap();
            made.end().await.unwrap();
            let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
            let delegating = delegating.resource(TICKETS).context(giver.context().clone());
            delegating.constraints(hops(most)).await.unwrap();
            assert_eq!(body(&caracal, Endpoint::Delegate)["ttl_seconds"], ttl);
        }
    }
    assert!(sent(&caracal, Endpoint::Read).is_empty(), "it is known here");
    // 67 s were left; now it is less than a minute.
    caracal.advance(seconds(8));
    for giver in [&parent, &mirrored] {
        let before =
            [Endpoint::StartSession, Endpoint::Delegate].map(|at| sent(&caracal, at).len());
        let grant = reader().constraints(hops(3));
        let narrowing = client.spawn().parent(giver.context().clone()).labels(["reader"]);
        let error = narrowing.grant(grant.clone()).start().await.unwrap_err();
        assert_eq!(error.status(), None);
        let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
        let delegating = delegating.resource(TICKETS).context(giver.context().clone());
        assert_eq!(delegating.constraints(hops(3)).await.unwrap_err().code(), error.code());
        let after = [Endpoint::StartSession, Endpoint::Delegate].map(|at| sent(&caracal, at).len());
        assert_eq!(before, after, "nothing was started or made");
        // Whoever says how long gets it.
        drop(child(&client, giver.context(), grant.ttl(seconds(30))).await);
    }
}

#[tokio::test]
async fn nine_tenths_of_what_the_coordinator_says_of_one_that_was_accepted() {
    let (caracal, giver) = roomy().await;
    let (client, session, context) = receiver(&caracal, &giver, (seconds(1000), Some(3))).await;
    // The session holds another one too, which is not meant.
    let other = root(&giver).await;
    let delegating = giver.delegate(session.agent_session_id()).scopes(["tickets:read"]);
    let delegating = delegating.resource(TICKETS).context(other.context().clone());
    delegating.ttl(seconds(5000)).await.unwrap();
    caracal.advance(seconds(300));
    let made = child(&client, &context, reader().constraints(hops(2))).await;
    let asked = sent(&caracal, Endpoint::Read);
    assert_eq!(asked.len(), 1);
    let path = format!("/zones/zone-1/delegations/inbound/{}", session.agent_session_id());
    assert!(asked[0].target().starts_with(&path), "{}", asked[0].target());
    let ttl = body(&caracal, Endpoint::Delegate)["ttl_seconds"].as_u64().unwrap();
    assert!((629..=630).contains(&ttl), "{ttl}");
    mint(&client, made.context()).await.unwrap();

    caracal.advance(seconds(641));
    let starts = sent(&caracal, Endpoint::StartSession).len();
    let narrowing = client.spawn().parent(context.clone()).labels(["reader"]);
    let error = narrowing.grant(reader().constraints(hops(2))).start().await.unwrap_err();
    assert_eq!(error.status(), None);
    assert_eq!(sent(&caracal, Endpoint::StartSession).len(), starts, "nothing was started");
    drop(child(&client, &context, reader().constraints(hops(2)).ttl(seconds(30))).await);
}

#[tokio::test]
async fn nine_tenths_of_what_the_coordinator_says_of_one_that_a_mandate_proves() {
    let (caracal, giver) = roomy().await;
    let source = root(&giver).await;
    let grant = reader().ttl(seconds(1000)).constraints(hops(3));
    let called = child(&giver, source.context(), grant).await;
    let edge = called.context().delegation_edge_id().unwrap();
    let mandate = caracal.mandate_for(TICKETS, called.agent_session_id(), Some(edge)).unwrap();
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {}", mandate.sign());
    headers.insert("authorization", bearer.parse().unwrap());
    let client = caracal.client("app-1").unwrap();
    let verifier = caracal.verifier(TICKETS).unwrap();
    let context: CaracalContext =
        client.bind_from_headers(&headers).verifier(verifier).await.unwrap();
    caracal.advance(seconds(300));
    let made = child(&client, &context, reader().constraints(hops(2))).await;
    let told = body(&caracal, Endpoint::Delegate);
    let ttl = told["ttl_seconds"].as_u64().unwrap();
    assert!((629..=630).contains(&ttl), "{ttl}");
    assert_eq!(told["parent_edge_id"], edge);
    mint(&client, made.context()).await.unwrap();
}

#[tokio::test]
async fn what_nobody_says_is_granted_whatever_the_parent_was_given() {
    let (_caracal, client) = roomy().await;
    granted_below(&client, |until| {
        vec![
            reader().constraints(hops(3)),
            reader().constraints(hops(3).ttl(seconds(500))),
            reader().ttl(seconds(2000)).constraints(hops(3).ttl(seconds(500))),
            reader().ttl(seconds(500)).constraints(hops(3).ttl(seconds(2000))),
            reader().constraints(hops(3).expires_at("2026-09-21T14:30:00Z")),
            reader().ttl(seconds(30_000)).constraints(hops(3).expires_at(until)),
        ]
    })
    .await;
}

/// With both, the end is when it ends, and the ttl still limits what is made below it.
#[tokio::test]
async fn and_also_below_one_that_ends_later_than_its_ttl_says() {
    let (_caracal, client) = roomy().await;
    granted_below(&client, |until| {
        vec![
            reader().constraints(hops(3).expires_at(until)),
            reader().ttl(seconds(600)).constraints(hops(3).expires_at(until)),
            reader().constraints(hops(3).ttl(seconds(600)).expires_at(until)),
        ]
    })
    .await;
}

async fn granted_below(client: &Caracal, grants: impl FnOnce(&str) -> Vec<Grant>) {
    let session = root(client).await;
    for grant in grants("2026-09-21T20:00:00Z") {
        let parent = child(client, session.context(), grant.clone()).await;
        let narrowing = client.spawn().parent(parent.context().clone()).labels(["reader"]);
        let made = narrowing.grant(reader().constraints(hops(2))).start().await;
        let made = made.unwrap_or_else(|error| panic!("{grant:?}: {error}"));
        mint(client, made.context()).await.unwrap();
        parent.end().await.unwrap();
    }
}

#[tokio::test]
async fn and_below_such_a_one_that_was_accepted() {
    let (caracal, giver) = roomy().await;
    let client = caracal.client("app-1").unwrap();
    let (session, source) = (root(&client).await, root(&giver).await);
    let delegating = giver.delegate(session.agent_session_id()).scopes(["tickets:read"]);
    let delegating = delegating.resource(TICKETS).context(source.context().clone());
    let constraints = hops(3).expires_at("2026-09-21T20:00:00Z");
    let delegation = delegating.ttl(seconds(600)).constraints(constraints).await.unwrap();
    let accepting = client.accept_delegation(delegation.delegation_edge_id());
    let context = accepting.context(session.context().clone()).await.unwrap();
    let made = child(&client, &context, reader().constraints(hops(2))).await;
    mint(&client, made.context()).await.unwrap();
}
