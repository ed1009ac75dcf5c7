//! Authority given on: narrowed for a child, delegated to a peer, accepted and revoked.
#![cfg(feature = "embedded")]

#[path = "client_delegations/failing.rs"]
mod failing;
#[path = "client_delegations/hops.rs"]
mod hops;
#[path = "client_delegations/receiving.rs"]
mod receiving;
#[path = "client_delegations/sequences.rs"]
mod sequences;
mod support;
#[path = "client_delegations/ttls.rs"]
mod ttls;

use std::time::Duration;

use caracal_axum::{
    AgentSession, Caracal, CaracalContext, DelegationConstraints, Grant, current,
    embedded::{EmbeddedCaracal, Endpoint},
    from_headers,
};
use serde_json::{Value, json};
use support::{
    agent::TICKETS,
    at_work::{ZONE, body, last, mint, refused_unsent, sample, seconds, sent},
};

fn reader() -> Grant {
    Grant::narrow(["tickets:read"]).resource(TICKETS)
}

fn hops(hops: u32) -> DelegationConstraints {
    DelegationConstraints::new().max_hops(hops)
}

/// A child with a delegation from `parent`, that may mint `tickets:read`.
async fn child(client: &Caracal, parent: &CaracalContext, grant: Grant) -> AgentSession {
    let child = client.spawn().parent(parent.clone()).labels(["reader"]).grant(grant);
    child.start().await.unwrap()
}

async fn root(client: &Caracal) -> AgentSession {
    client.spawn().root().labels(["reader"]).start().await.unwrap()
}

/// A root of another client of the same application that was handed an edge by `giver`.
async fn receiver(
    caracal: &EmbeddedCaracal,
    giver: &Caracal,
    grant: (Duration, Option<u32>),
) -> (Caracal, AgentSession, CaracalContext) {
    let client = caracal.client("app-1").unwrap();
    let session = root(&client).await;
    let source = root(giver).await;
    let mut delegating = giver
        .delegate(session.agent_session_id())
        .context(source.context().clone())
        .scopes(["tickets:read"])
        .resource(TICKETS)
        .ttl(grant.0);
    if let Some(most) = grant.1 {
        delegating = delegating.constraints(hops(most));
    }
    let delegation = delegating.await.unwrap();
    let accepting = client.accept_delegation(delegation.delegation_edge_id());
    let context = accepting.context(session.context().clone()).await.unwrap();
    // It has to live for as long as what it gave.
    std::mem::forget(source);
    (client, session, context)
}

fn all_constraints() -> (DelegationConstraints, Value) {
    let constraints = DelegationConstraints::new()
        .resources([TICKETS])
        .max_depth(3)
        .max_hops(3)
        .ttl(seconds(500))
        .policy_approved(true)
        .expires_at("2026-09-21T15:00:00Z")
        .broad_reason("a reason");
    let wire = json!({
        "resources": [TICKETS], "max_depth": 3, "max_hops": 3, "ttl_seconds": 500,
        "policy_approved": true, "expires_at": "2026-09-21T15:00:00Z", "broad_reason": "a reason",
    });
    (constraints, wire)
}

#[tokio::test]
async fn a_narrowed_child_is_started_with_nothing_and_given_a_delegation() {
    let (caracal, client) = sample().await;
    let parent = root(&client).await;
    let child = child(&client, parent.context(), reader()).await;
    let started = body(&caracal, Endpoint::StartSession);
    assert_eq!(started["parent_authority"], "none");
    assert_eq!(started["parent_id"], parent.agent_session_id());
    let delegated = last(&caracal, Endpoint::Delegate);
    let expected = json!({
        "issuer_application_id": "app-1", "receiver_application_id": "app-1",
        "source_session_id": parent.agent_session_id(),
        "target_session_id": child.agent_session_id(),
        "resource_id": TICKETS, "scopes": ["tickets:read"], "ttl_seconds": 3600,
    });
    assert_eq!(delegated.json().unwrap(), expected);
    let key = delegated.header("idempotency-key").unwrap();
    assert!(key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    assert_eq!(delegated.header("idempotency-key-kind"), None, "that is for starts");
    assert_ne!(key, last(&caracal, Endpoint::StartSession).header("idempotency-key").unwrap());
    assert!(delegated.header("traceparent").is_some());

    let context = child.context();
    assert!(context.delegation_edge_id().is_some());
    assert_eq!((context.parent_edge_id(), context.hop()), (None, 1));
    let claims = mint(&client, context).await.unwrap();
    assert_eq!(claims["agent_session_id"], child.agent_session_id());
    assert_eq!(claims["use"], "gateway");
}

#[tokio::test]
async fn every_constraint_has_its_form_on_the_wire() {
    let (caracal, client) = sample().await;
    let parent = root(&client).await;
    let peer = root(&client).await;
    let (all, wire) = all_constraints();
    let one = |one: DelegationConstraints| one.resources([TICKETS]);
    let plain = DelegationConstraints::new;
    let with = |name: &str, value: Value| json!({ "resources": [TICKETS], name: value });
    for (constraints, expected) in [
        (all, wire),
        (one(plain()), json!({ "resources": [TICKETS] })),
        (one(plain()).max_depth(2), with("max_depth", json!(2))),
        (one(plain()).max_hops(10), with("max_hops", json!(10))),
        (one(plain()).ttl(seconds(60)), with("ttl_seconds", json!(60))),
        (one(plain()).policy_approved(false), with("policy_approved", json!(false))),
        (
            one(plain()).expires_at("2026-09-21T14:30:00.5Z"),
            with("expires_at", json!("2026-09-21T14:30:00.5Z")),
        ),
        (one(plain()).broad_reason("b"), with("broad_reason", json!("b"))),
    ] {
        let narrow = Grant::narrow(["tickets:read"]).ttl(seconds(600));
        let narrowed = child(&client, parent.context(), narrow.constraints(constraints.clone()));
        let narrowed = narrowed.await;
        let told = body(&caracal, Endpoint::Delegate);
        assert_eq!(told["constraints"], expected);
        assert_eq!((&told["ttl_seconds"], told.get("resource_id")), (&json!(600), None));
        mint(&client, narrowed.context()).await.unwrap();
        narrowed.end().await.unwrap();

        let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
        let delegating = delegating.context(parent.context().clone()).ttl(seconds(600));
        delegating.constraints(constraints).await.unwrap();
        let told = body(&caracal, Endpoint::Delegate);
        assert_eq!(told["constraints"], expected);
        assert_eq!((&told["ttl_seconds"], told.get("resource_id")), (&json!(600), None));
    }
}

#[tokio::test]
async fn what_can_never_be_honoured_is_refused_before_any_request() {
    let (caracal, client) = sample().await;
    let parent = root(&client).await;
    let peer = root(&client).await;
    let of = DelegationConstraints::new;
    let with = |constraints: DelegationConstraints| reader().constraints(constraints);
    let many: Vec<_> = (0..65).map(|number| format!("resource://{number}")).collect();
    let wrong: Vec<(&str, Grant, Option<DelegationConstraints>)> = vec![
        ("budget", with(of().budget(1)), Some(of().budget(1))),
        ("actions", with(of().actions(["read"])), Some(of().actions(["read"]))),
        ("hops 0", with(of().max_hops(0)), Some(of().max_hops(0))),
        ("hops 11", with(of().max_hops(11)), Some(of().max_hops(11))),
        ("depth 0", with(of().max_depth(0)), Some(of().max_depth(0))),
        ("depth 11", with(of().max_depth(11)), Some(of().max_depth(11))),
        ("both", with(hops(2).max_depth(3)), Some(hops(2).max_depth(3))),
        ("65", with(of().resources(many.clone())), Some(of().resources(many))),
        ("blank", with(of().resources([" "])), Some(of().resources([" "]))),
        ("ttl 0", with(of().ttl(seconds(0))), Some(of().ttl(seconds(0)))),
        ("ttl over", with(of().ttl(seconds(86_401))), Some(of().ttl(seconds(86_401)))),
        ("no reason", with(of().broad_reason("")), Some(of().broad_reason(""))),
        ("reason", with(of().broad_reason("x".repeat(257))), None),
        ("moment", with(of().expires_at("tomorrow")), Some(of().expires_at("tomorrow"))),
        ("no Z", with(of().expires_at("2026-09-21T15:00:00+00:00")), None),
        ("no resource", Grant::narrow(["tickets:read"]), None),
        ("blank resource", Grant::narrow(["tickets:read"]).resource(" "), None),
        ("no scope", Grant::narrow([""; 0]).resource(TICKETS), None),
        ("blank scope", Grant::narrow(["tickets:read", " "]).resource(TICKETS), None),
        ("zero", reader().ttl(Duration::ZERO), None),
        ("half", reader().ttl(Duration::from_millis(1500)), None),
        ("long", reader().ttl(seconds(86_401)), None),
        ("inherit", Grant::inherit().resource(TICKETS), None),
        ("none", Grant::none().ttl(seconds(60)), None),
    ];
    for (name, grant, constraints) in wrong {
        let narrowing = client.spawn().parent(parent.context().clone()).grant(grant.clone());
        let error = refused_unsent(&caracal, narrowing.start()).await;
        let ttls = ["ttl 0", "ttl over", "zero", "half", "long"];
        let code = if ttls.contains(&name) { "invalid_ttl" } else { "invalid_grant" };
        assert_eq!((error.status(), error.code()), (None, code), "{name}");
        let serving = client.spawn_service().parent(parent.context().clone()).grant(grant);
        refused_unsent(&caracal, serving.start()).await;
        if let Some(constraints) = constraints {
            let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
            let delegating = delegating.resource(TICKETS).context(parent.context().clone());
            let delegating = async { delegating.constraints(constraints).await };
            let error = refused_unsent(&caracal, delegating).await;
            assert_eq!((error.status(), error.code()), (None, code), "{name}");
        }
    }
    let peer = peer.agent_session_id();
    let delegate = || client.delegate(peer).context(parent.context().clone());
    for (name, delegating) in [
        ("no resource", delegate().scopes(["tickets:read"])),
        ("no scope", delegate().resource(TICKETS)),
        ("ttl", delegate().scopes(["tickets:read"]).resource(TICKETS).ttl(Duration::ZERO)),
    ] {
        let error = refused_unsent(&caracal, async { delegating.await }).await;
        let code = if name == "ttl" { "invalid_ttl" } else { "invalid_grant" };
        assert_eq!(error.code(), code, "{name}");
    }
    for key in ["", " a", "a\n", &"x".repeat(256)] {
        let delegating = delegate().scopes(["tickets:read"]).resource(TICKETS);
        let error = refused_unsent(&caracal, async { delegating.idempotency_key(key).await }).await;
        assert_eq!(error.status(), None, "{key:?}");
    }
    let unknown = client.delegate("a/b").context(parent.context().clone());
    let unknown = unknown.scopes(["tickets:read"]).resource(TICKETS);
    refused_unsent(&caracal, async { unknown.await }).await;
}

#[tokio::test]
async fn without_a_session_nothing_is_given_and_nothing_is_sent() {
    let (caracal, client) = sample().await;
    let grants = [reader(), reader().ttl(seconds(60))];
    for grant in grants {
        let error = refused_unsent(&caracal, client.spawn().grant(grant.clone()).start()).await;
        assert_eq!(error.status(), None);
        let rooted = client.spawn().root().grant(grant.clone());
        refused_unsent(&caracal, rooted.start()).await;
        refused_unsent(&caracal, client.spawn_service().grant(grant).start()).await;
    }
    let delegating = client.delegate("somebody").scopes(["tickets:read"]).resource(TICKETS);
    refused_unsent(&caracal, async { delegating.await }).await;
    assert!(caracal.requests().is_empty(), "not even for a token");
}

#[tokio::test]
async fn who_gives_does_not_use_what_was_given() {
    let (caracal, client) = sample().await;
    let peer = root(&client).await;
    let giver = root(&client).await;
    let narrowed = child(&client, giver.context(), reader().constraints(hops(3))).await;
    for (source, edge) in [(&giver, None), (&narrowed, narrowed.context().delegation_edge_id())] {
        let scope = source.scope(async {
            let before = current().unwrap();
            let made = client
                .delegate(peer.agent_session_id())
                .scopes(["tickets:read"])
                .resource(TICKETS)
                .constraints(hops(2))
                .await
                .unwrap();
            let after = current().unwrap();
            assert_eq!(after.delegation_edge_id(), edge);
            assert_eq!(after.hop(), before.hop());
            let headers = client.headers().await.unwrap();
            let envelope = from_headers(&headers);
            assert_eq!(envelope.delegation_edge_id.as_deref(), edge);
            let _ = client.mint_mandate(TICKETS, ["tickets:read"]).await;
            let minted = last(&caracal, Endpoint::Token);
            assert_eq!(minted.field("delegation_edge_id").as_deref(), edge);
            made
        });
        let made = scope.await;
        assert_ne!(Some(made.delegation_edge_id()), edge);
        assert_eq!(source.context().delegation_edge_id(), edge);
    }
}

#[tokio::test]
async fn a_delegation_tells_what_it_gives_and_dropping_it_revokes_nothing() {
    let (caracal, client) = sample().await;
    let giver = root(&client).await;
    let peer = root(&client).await;
    let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
    let delegating = delegating.resource(TICKETS).ttl(seconds(600)).idempotency_key("a key");
    let made = giver.scope(async { delegating.await }).await.unwrap();
    let told = last(&caracal, Endpoint::Delegate);
    assert_eq!(told.header("idempotency-key"), Some("a key"));
    assert_eq!(made.scopes(), ["tickets:read"]);
    let left = made.expires_at().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap()
        - caracal_axum::Clock::unix_time(&caracal.clock());
    assert!(left <= seconds(601) && left >= seconds(599), "{left:?}");
    let id = made.delegation_edge_id().to_owned();
    drop(made);
    client.spawn().root().start().await.unwrap().end().await.unwrap();
    assert!(sent(&caracal, Endpoint::RevokeDelegation).is_empty());
    assert_eq!(support::at_work::held(&caracal, peer.agent_session_id()).await, [id]);
    assert_eq!(giver.context().zone_id(), ZONE);
}
