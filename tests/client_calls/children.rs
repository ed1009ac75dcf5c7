//! The children that a root session's calls are made in.

use caracal_axum::{Grant, embedded::Endpoint};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    BOOKS, CONFIGURED, OPEN, counts, done, mandates, start,
    support::{
        agent::TICKETS,
        at_work::{body, last, seconds, status},
        outbound::in_time,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn ten_first_calls_at_once_open_one_child() {
    let out = start().await;
    let session = out.client.spawn().start().await.unwrap();
    let calls = (0..10).map(|_| session.scope(out.client.transport().get(OPEN).send()));
    in_time("all calls", join_all(calls)).await.into_iter().for_each(done);
    assert_eq!(counts(&out), [11, 2, 1, 10, 0]);
    assert_eq!(mandates(&out).len(), 10);

    let child = body(&out.caracal, Endpoint::StartSession);
    assert_eq!(child["parent_id"], session.agent_session_id());
    assert_eq!((&child["parent_authority"], &child["labels"]), (&json!("none"), &json!(["app-1"])));
    let edge = body(&out.caracal, Endpoint::Delegate);
    assert_eq!(edge["source_session_id"], session.agent_session_id());
    assert_eq!(edge["constraints"]["ttl_seconds"].as_u64().or(edge["ttl_seconds"].as_u64()), {
        Some(3600)
    });
    assert_eq!(edge["scopes"], json!(CONFIGURED));

    // Another resource has one of its own, and each is used again.
    for target in [BOOKS, OPEN, BOOKS] {
        done(session.scope(out.client.transport().get(target).send()).await);
    }
    assert_eq!(counts(&out), [14, 3, 2, 13, 0]);
    drop(session);
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn another_session_has_another_child() {
    let out = start().await;
    for number in 1..=2 {
        let call = || out.client.transport().get(OPEN).send();
        done(out.client.spawn().run(async |_| call().await).await.unwrap());
        assert_eq!(out.sent(Endpoint::StartSession).len(), 2 * number);
    }
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_child_ends_with_its_parent_and_serves_nobody_afterwards() {
    let out = start().await;
    let session = out.client.spawn().start().await.unwrap();
    let context = session.context().clone();
    done(session.scope(out.client.transport().get(OPEN).send()).await);
    let child = last(&out.caracal, Endpoint::Token).field("agent_session_id").unwrap();
    assert_ne!(child, session.agent_session_id());
    drop(session);
    out.events.ended().await;
    let calls = out.sent(Endpoint::Gateway).len();
    out.client.transport().context(context).get(OPEN).send().await.unwrap_err();
    assert_eq!(out.sent(Endpoint::Gateway).len(), calls);
    assert_ne!(status(&out.caracal, &child).await, "active");
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_child_is_replaced_a_minute_before_its_delegation_ends() {
    let out = start().await;
    let session = out.client.spawn().ttl(seconds(7200)).start().await.unwrap();
    let child = async || {
        done(session.scope(out.client.transport().get(OPEN).send()).await);
        let mints = out.sent(Endpoint::Token).into_iter();
        mints.filter_map(|mint| mint.field("agent_session_id")).last().unwrap()
    };
    let first = child().await;
    out.caracal.advance(seconds(3538));
    assert_eq!(child().await, first, "62 seconds are left");
    out.caracal.advance(seconds(3));
    let second = child().await;
    assert_ne!(second, first, "59 seconds are left");
    assert_eq!(child().await, second);
    assert_eq!(counts(&out)[1..4], [3, 2, 4]);
    mandates(&out);
    drop(session);
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn labels_are_inherited() {
    let out = start().await;
    let session = out.client.spawn().labels(["reader", "night"]).start().await.unwrap();
    done(session.scope(out.client.transport().get(OPEN).send()).await);
    assert_eq!(body(&out.caracal, Endpoint::StartSession)["labels"], json!(["reader", "night"]));
}

#[tokio::test]
async fn a_refusal_names_the_labels() {
    let out = start().await;
    let session = out.client.spawn().labels(["nobody-s"]).start().await.unwrap();
    let error = session.scope(out.client.transport().get(OPEN).send()).await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(403));
    let told = error.to_string();
    assert!(told.contains("nobody-s") && told.contains("role"), "{told}");
    assert_eq!(out.sent(Endpoint::Gateway).len(), 0);
}

#[tokio::test]
async fn scopes_that_are_said_open_no_child() {
    let out = start().await;
    let session = out.client.spawn().start().await.unwrap();
    let scoped = out.client.transport().scopes(["tickets:read"]);
    let error = session.scope(scoped.get(OPEN).send()).await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(403));
    assert_eq!(counts(&out)[1..], [1, 0, 0, 0]);
}

/// What the last mint asked for.
fn minted(out: &crate::Outbound) -> (Option<String>, Option<String>) {
    let mint = last(&out.caracal, Endpoint::Token);
    (mint.field("agent_session_id"), mint.field("scope"))
}

#[tokio::test]
async fn a_session_with_a_delegation_mints_itself() {
    let out = start().await;
    let root = out.client.spawn().start().await.unwrap();
    let grant = Grant::narrow(["tickets:read"]).resource(TICKETS);
    let spawn = out.client.spawn().labels(["reader"]).parent(root.context().clone());
    let child = spawn.grant(grant).start().await.unwrap();
    let starts = out.sent(Endpoint::StartSession).len();
    let call = |target| child.scope(out.client.transport().get(target).send());
    done(call(OPEN).await);
    let id = Some(child.agent_session_id().to_owned());
    assert_eq!(minted(&out), (id.clone(), Some("tickets:read".into())), "what it holds, no more");
    let scoped = out.client.transport().scopes(["tickets:read"]);
    done(child.scope(scoped.get(OPEN).send()).await);
    assert_eq!(minted(&out), (id, Some("tickets:read".into())));

    let before = out.steps().len();
    let error = call(BOOKS).await.unwrap_err();
    assert!(error.to_string().contains("scopes"), "it holds none of the others: {error}");
    assert_eq!(out.steps().len(), before);
    assert_eq!(out.sent(Endpoint::StartSession).len(), starts);
    assert_eq!(Value::from(mandates(&out).len()), 2);
}
