//! How far authority can be given on. Where this client made every delegation up to the root it
//! refuses what could never be minted with, before it asks.

use caracal_axum::{AgentSession, Caracal, CaracalError, embedded::EmbeddedCaracal};

use super::{child, hops, reader, receiver, root};
use crate::support::{
    agent::TICKETS,
    at_work::{mint, refused_unsent, roomy, seconds},
};

/// A step down from a session to one below it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Narrow(u32),
    Inherit,
}

/// Sessions one below the other, from the root on.
async fn path(client: &Caracal, steps: &[Step]) -> Vec<AgentSession> {
    let mut sessions = vec![root(client).await];
    let mut ttl = 10_000;
    for step in steps {
        let parent = sessions.last().unwrap().context().clone();
        sessions.push(match step {
            Step::Narrow(most) => {
                ttl -= 600;
                let grant = reader().ttl(seconds(ttl)).constraints(hops(*most));
                child(client, &parent, grant).await
            }
            Step::Inherit => {
                let inheriting = client.spawn().parent(parent).labels(["reader"]);
                inheriting.start().await.unwrap()
            }
        });
    }
    sessions
}

/// Another one below the last, with these hops of its own.
async fn below(
    client: &Caracal,
    parent: &AgentSession,
    most: Option<u32>,
) -> Result<AgentSession, CaracalError> {
    let grant = reader().ttl(seconds(60));
    let grant = most.map_or(grant.clone(), |most| grant.constraints(hops(most)));
    let parent = parent.context().clone();
    client.spawn().parent(parent).labels(["reader"]).grant(grant).start().await
}

/// Tries all hops of its own below a path: what the rule allows is made and mints, and the rest is
/// refused here.
async fn try_all(caracal: &EmbeddedCaracal, client: &Caracal, steps: &[Step]) {
    let sessions = path(client, steps).await;
    let parent = sessions.last().unwrap();
    let above = steps.iter().rev().find_map(|step| match step {
        Step::Narrow(most) => Some(*most),
        Step::Inherit => None,
    });
    let above = above.unwrap();
    let depth = u32::try_from(steps.len()).unwrap() + 1;
    let peer = root(client).await;
    for own in std::iter::once(None).chain((1..=10).map(Some)) {
        let most = own.unwrap_or(1);
        let good = above >= 2 && most < above && most >= depth;
        let delegating = client
            .delegate(peer.agent_session_id())
            .context(parent.context().clone())
            .scopes(["tickets:read"])
            .resource(TICKETS)
            .ttl(seconds(60));
        let delegating = match own {
            Some(own) => delegating.constraints(hops(own)),
            None => delegating,
        };
        if good {
            let made = below(client, parent, own).await.unwrap();
            let claims = mint(client, made.context()).await.unwrap();
            assert_eq!(claims["hop_count"], depth, "{steps:?} {own:?}");
            made.end().await.unwrap();
            delegating.await.unwrap();
        } else {
            let narrowing = below(client, parent, own);
            let error = refused_unsent(caracal, narrowing).await;
            assert_eq!(error.status(), None, "{steps:?} {own:?}");
            assert!(error.to_string().contains("max_hops"), "{error}");
            refused_unsent(caracal, async { delegating.await }).await;
        }
    }
    for session in sessions {
        session.end().await.unwrap();
    }
}

#[tokio::test]
async fn every_number_below_every_parent_that_can_mint() {
    let (caracal, client) = roomy().await;
    for depth in 2..=5 {
        // Above the last parent each has one more.
        for parent in depth - 1..=10 - (depth - 2) {
            let steps: Vec<_> =
                (1..depth).map(|at| Step::Narrow(parent + depth - 1 - at)).collect();
            try_all(&caracal, &client, &steps).await;
        }
    }
}

#[tokio::test]
async fn a_session_that_inherits_counts_and_keeps_the_number() {
    use Step::{Inherit, Narrow};
    let (caracal, client) = roomy().await;
    for parent in 1..=10 {
        try_all(&caracal, &client, &[Narrow(parent), Inherit]).await;
        try_all(&caracal, &client, &[Narrow(parent), Inherit, Inherit]).await;
        if (3..=9).contains(&parent) {
            try_all(&caracal, &client, &[Narrow(parent + 1), Narrow(parent), Inherit]).await;
            try_all(&caracal, &client, &[Narrow(parent + 1), Inherit, Narrow(parent)]).await;
        }
    }
}

#[tokio::test]
async fn the_least_at_the_root_is_enough_for_all_and_one_less_is_not() {
    let (caracal, client) = roomy().await;
    for delegations in 1..=5_u32 {
        for mirrors in 0..=9_u32 {
            let first = 2 * delegations + mirrors - 1;
            if first > 10 {
                continue;
            }
            let steps = |first: u32| {
                let narrow = (0..delegations).map(move |at| Step::Narrow(first - at));
                narrow.chain((0..mirrors).map(|_| Step::Inherit)).collect::<Vec<_>>()
            };
            let sessions = path(&client, &steps(first)).await;
            for (depth, session) in sessions.iter().enumerate().skip(1) {
                let claims = mint(&client, session.context()).await.unwrap();
                assert_eq!(claims["hop_count"], depth);
            }
            let one_less = steps(first - 1);
            if mirrors == 0 && delegations > 1 {
                let (last, before) = one_less.split_last().unwrap();
                let sessions = path(&client, before).await;
                let Step::Narrow(most) = *last else { panic!("{last:?}") };
                refused_unsent(&caracal, below(&client, sessions.last().unwrap(), Some(most)))
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn a_service_on_the_way_counts_as_any_other() {
    let (caracal, client) = roomy().await;
    let service = client.spawn_service().labels(["reader"]).start().await.unwrap();
    let narrowed = client.spawn_service().parent(service.context().clone()).labels(["reader"]);
    let narrowed = narrowed.grant(reader().constraints(hops(3))).start().await.unwrap();
    mint(&client, narrowed.context()).await.unwrap();
    let below = child(&client, narrowed.context(), reader().constraints(hops(2))).await;
    assert_eq!(mint(&client, below.context()).await.unwrap()["hop_count"], 2);
    let further = client.spawn().parent(below.context().clone()).grant(reader());
    refused_unsent(&caracal, further.start()).await;
}

#[tokio::test]
async fn where_others_made_a_delegation_the_refusal_of_the_server_is_explained() {
    let (caracal, giver) = roomy().await;
    let (client, _session, context) = receiver(&caracal, &giver, (seconds(600), None)).await;
    let narrowing = client.spawn().parent(context).labels(["reader"]);
    let error = narrowing.grant(reader().ttl(seconds(60))).start().await.unwrap_err();
    assert_eq!(error.code(), "delegation_exceeds_parent_authority");
    assert_eq!(error.status().map(|status| status.as_u16()), Some(403));
    assert!(error.to_string().contains("max_hops"), "{error}");

    // Enough at the parent and too little of its own: it is made, and mints nothing.
    let (client, _session, context) = receiver(&caracal, &giver, (seconds(600), Some(3))).await;
    let made = child(&client, &context, reader().ttl(seconds(60))).await;
    let error = mint(&client, made.context()).await.unwrap_err();
    assert_eq!(error.code(), "access_denied");
    assert!(error.to_string().contains("max_hops"), "{error}");
    let made = child(&client, &context, reader().ttl(seconds(60)).constraints(hops(2))).await;
    assert_eq!(mint(&client, made.context()).await.unwrap()["hop_count"], 2);
}
