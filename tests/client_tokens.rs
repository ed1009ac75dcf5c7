//! Tokens: shared exchanges, how long one serves, and what is none.
#![cfg(feature = "embedded")]

mod support;

use std::{collections::HashSet, time::Duration};

use caracal_axum::{
    AgentSession, Caracal, CaracalError,
    embedded::{
        Endpoint::{EndSession, StartSession, Token},
        Fault, Limits, World,
    },
};
use http::StatusCode;
use serde_json::{Value, json};
use support::{
    agent::TICKETS,
    outbound::{Outbound, bearer, claims_of, in_time},
};
use tokio::task::JoinSet;

const LIFECYCLE: [&str; 1] = ["agent:lifecycle"];

/// Room for everybody.
fn wide() -> World {
    let mut limits = Limits::default();
    limits.sessions_per_zone = 1000;
    limits.sessions_per_application = 1000;
    limits.requests_per_minute = 10_000;
    World::sample().limits(limits)
}

type Spawned = Vec<Result<AgentSession, CaracalError>>;

fn spawn_many(client: &Caracal, number: usize) -> JoinSet<Result<AgentSession, CaracalError>> {
    (0..number).map(|_| client.spawn().start()).collect()
}

async fn all(tasks: JoinSet<Result<AgentSession, CaracalError>>) -> Spawned {
    in_time("all spawns", tasks.join_all()).await
}

fn failures(spawned: &Spawned) -> Vec<&CaracalError> {
    spawned.iter().filter_map(|result| result.as_ref().err()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_spawns_at_once_share_one_exchange() {
    let out = Outbound::with(wide(), |builder| builder).await;
    let spawned = all(spawn_many(&out.client, 200)).await;
    assert!(failures(&spawned).is_empty(), "{:?}", failures(&spawned));
    assert_eq!(out.sent(Token).len(), 1);
    let starts = out.sent(StartSession);
    let keys: HashSet<_> = starts.iter().map(|start| start.header("idempotency-key")).collect();
    assert_eq!((starts.len(), keys.len()), (200, 200));
    let ids: HashSet<_> =
        spawned.iter().map(|session| session.as_ref().unwrap().agent_session_id()).collect();
    assert_eq!(ids.len(), 200);
    drop(spawned);
    out.arrived(EndSession, 200).await;
    assert_eq!(out.live().await, 0);
}

/// A client whose token has been revoked, which it does not know.
async fn revoked() -> Outbound {
    let out = Outbound::with(wide(), |builder| builder).await;
    out.client.spawn().run(async |_| ()).await.unwrap();
    let sid = claims_of(&bearer(&out.only(StartSession)))["sid"].as_str().unwrap().to_owned();
    out.caracal.revoke_record("zone-1", &sid).unwrap();
    out.caracal.advance(Duration::from_secs(3));
    out
}

#[tokio::test]
async fn ten_that_are_refused_with_401_share_one_more_exchange() {
    let out = revoked().await;
    let spawned = all(spawn_many(&out.client, 10)).await;
    assert!(failures(&spawned).is_empty(), "{:?}", failures(&spawned));
    assert_eq!(out.sent(Token).len(), 2);
    assert_eq!(out.sent(StartSession).len(), 21);
}

#[tokio::test]
async fn a_late_refusal_of_the_old_token_does_not_cost_the_new_one() {
    let out = revoked().await;
    out.caracal.inject(StartSession, Fault::delay(Duration::from_secs(1)).times(5));
    let late = spawn_many(&out.client, 5);
    out.arrived(StartSession, 6).await;
    let early = all(spawn_many(&out.client, 5)).await;
    assert_eq!(out.sent(Token).len(), 2);
    out.caracal.advance(Duration::from_secs(1));
    let late = all(late).await;
    assert!(failures(&early).is_empty() && failures(&late).is_empty());
    assert_eq!(out.sent(Token).len(), 2, "that it was refused was known");
}

#[tokio::test]
async fn one_failed_exchange_fails_only_who_began_it() {
    let out = Outbound::start().await;
    let unavailable = Fault::refusal(StatusCode::SERVICE_UNAVAILABLE, "sts_unavailable");
    out.caracal.inject(Token, unavailable.clone().times(1));
    let spawned = all(spawn_many(&out.client, 10)).await;
    let failed = failures(&spawned);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].code(), failed[0].is_retryable()), ("sts_unavailable", true));
    assert_eq!(out.sent(Token).len(), 2, "the others shared another one");
    drop(spawned);

    let out = Outbound::start().await;
    out.caracal.inject(Token, unavailable);
    let spawned = all(spawn_many(&out.client, 10)).await;
    assert_eq!(failures(&spawned).len(), 10);
    let exchanges = out.sent(Token).len();
    assert!((2..=10).contains(&exchanges), "one retry of each at most: {exchanges}");
    assert_eq!(out.sent(StartSession).len(), 0);
}

#[tokio::test]
async fn who_began_an_exchange_and_gave_up_does_no_harm_to_those_who_wait() {
    let out = Outbound::start().await;
    out.caracal.inject(Token, Fault::delay(Duration::from_secs(2)).times(1));
    let first = tokio::spawn(out.client.mint_mandate(TICKETS, LIFECYCLE).into_future());
    out.arrived(Token, 1).await;
    let others: JoinSet<_> =
        (0..5).map(|_| out.client.mint_mandate(TICKETS, LIFECYCLE).into_future()).collect();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    out.caracal.advance(Duration::from_secs(2));
    for mandate in in_time("all mandates", others.join_all()).await {
        mandate.unwrap();
    }
    assert_eq!(out.sent(Token).len(), 1);
}

#[tokio::test]
async fn a_token_serves_until_a_minute_before_its_end() {
    let out = Outbound::start().await;
    let run = || async { out.client.spawn().run(async |_| ()).await.unwrap() };
    run().await;
    out.caracal.advance(Duration::from_secs(838));
    run().await;
    assert_eq!(out.sent(Token).len(), 1, "62 seconds are left");
    out.caracal.advance(Duration::from_secs(3));
    run().await;
    assert_eq!(out.sent(Token).len(), 2, "59 seconds are left");
    let bearers: Vec<_> = out.sent(StartSession).iter().map(bearer).collect();
    assert!(bearers[0] == bearers[1] && bearers[1] != bearers[2]);
}

fn minted(changes: Value) -> Fault {
    let mut answer = json!({
        "access_token": "made-up", "token_type": "Bearer", "expires_in": 900,
        "scope": "agent:lifecycle",
    });
    for (name, value) in changes.as_object().unwrap() {
        answer[name] = value.clone();
    }
    answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    Fault::answer(StatusCode::OK, answer.to_string())
}

#[tokio::test]
async fn a_short_one_serves_half_its_life() {
    let out = Outbound::start().await;
    out.caracal.inject(Token, minted(json!({ "expires_in": 40 })));
    let mint = || async { out.client.mint_mandate(TICKETS, LIFECYCLE).await.unwrap() };
    assert_eq!(mint().await.expires_in(), Duration::from_secs(40));
    out.caracal.advance(Duration::from_secs(19));
    let left = mint().await.expires_in();
    assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(21), "{left:?}");
    assert_eq!(out.sent(Token).len(), 1);
    out.caracal.advance(Duration::from_secs(2));
    mint().await;
    assert_eq!(out.sent(Token).len(), 2);
}

#[tokio::test]
async fn a_mandate_of_no_session_is_kept_apart_from_the_token_sessions_are_started_with() {
    let out = Outbound::start().await;
    let mint = || async { out.client.mint_mandate(TICKETS, LIFECYCLE).await.unwrap() };
    let first = mint().await;
    out.caracal.advance(Duration::from_secs(100));
    let again = mint().await;
    assert_eq!(first.token().expose(), again.token().expose());
    assert_eq!(first.expires_in(), Duration::from_secs(900));
    assert!(again.expires_in() <= Duration::from_secs(800), "what remains: {again:?}");
    mint().await;
    assert_eq!(out.sent(Token).len(), 1);
    out.client.spawn().run(async |_| ()).await.unwrap();
    assert_eq!(out.sent(Token).len(), 2);
    assert_ne!(bearer(&out.only(StartSession)), first.token().expose());
}

#[tokio::test]
async fn a_mandate_of_a_session_is_minted_anew_for_every_use() {
    let out = Outbound::start().await;
    let root = out.client.spawn().start().await.unwrap();
    let grant = caracal_axum::Grant::narrow(["tickets:write", "tickets:read"]).resource(TICKETS);
    let spawn = out.client.spawn().labels(["writer"]).parent(root.context().clone()).grant(grant);
    let child = spawn.start().await.unwrap();
    let before = out.sent(Token).len();
    let scopes = ["tickets:write", "tickets:read", "tickets:write"];
    let mint = || {
        let mint = out.client.mint_mandate(TICKETS, scopes);
        child.scope(mint.ttl(Duration::from_secs(300)).into_future())
    };
    let (first, second) = tokio::join!(mint(), mint());
    let third = mint().await.unwrap();
    let tokens = [first.unwrap(), second.unwrap(), third];
    let different: HashSet<_> = tokens.iter().map(|minted| minted.token().expose()).collect();
    assert_eq!(different.len(), 3);
    assert_eq!(out.sent(Token).len(), before + 3);
    let context = child.context();
    let fields = [
        ("resource", TICKETS),
        ("scope", "tickets:read tickets:write"),
        ("agent_session_id", context.agent_session_id().unwrap()),
        ("delegation_edge_id", context.delegation_edge_id().unwrap()),
        ("ttl_seconds", "300"),
    ];
    for (name, value) in fields {
        assert_eq!(out.sent(Token)[before].field(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(claims_of(tokens[0].token().expose())["use"], "gateway");
    assert_eq!(tokens[0].expires_in(), Duration::from_secs(300));
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_refused_and_not_kept() {
    let nonsense = [
        ("more than was asked for", minted(json!({ "scope": "agent:lifecycle tickets:read" }))),
        ("something else", minted(json!({ "scope": "tickets:read" }))),
        ("another kind", minted(json!({ "token_type": "MAC" }))),
        ("no kind of word", minted(json!({ "token_type": 7 }))),
        ("no life", minted(json!({ "expires_in": 0 }))),
        ("a past", minted(json!({ "expires_in": -900 }))),
        ("eternity", minted(json!({ "expires_in": 9_000_000_000_000_000_u64 }))),
        ("a part of a second", minted(json!({ "expires_in": 12.5 }))),
        ("a text", minted(json!({ "expires_in": "900" }))),
        ("a truth", minted(json!({ "expires_in": true }))),
        ("no end", minted(json!({ "expires_in": null }))),
        ("no token", minted(json!({ "access_token": null }))),
        ("an empty token", minted(json!({ "access_token": "" }))),
        ("a number", minted(json!({ "access_token": 7 }))),
        ("a list", Fault::answer(StatusCode::OK, "[]")),
        ("a page", Fault::answer(StatusCode::OK, "<html></html>")),
        ("JSON that says it is a page", minted(json!({})).header("content-type", "text/html")),
        ("a flood", minted(json!({ "more": "x".repeat(2_000_000) }))),
    ];
    for (what, fault) in nonsense {
        let out = Outbound::start().await;
        out.caracal.inject(Token, fault.clone().times(1));
        let error = out.client.mint_mandate(TICKETS, LIFECYCLE).await.expect_err(what);
        assert_eq!(error.status(), Some(StatusCode::OK), "{what}: {error:?}");
        assert_eq!(out.sent(Token).len(), 1, "{what}");
        out.client.mint_mandate(TICKETS, LIFECYCLE).await.expect(what);
        assert_eq!(out.sent(Token).len(), 2, "{what} was not kept");

        let out = Outbound::start().await;
        out.caracal.inject(Token, fault.times(1));
        out.client.spawn().start().await.expect_err(what);
        assert_eq!(out.steps(), [Token], "{what}");
    }
    let out = Outbound::start().await;
    out.caracal.inject(Token, minted(json!({ "token_type": null, "scope": null })));
    out.client.mint_mandate(TICKETS, LIFECYCLE).await.unwrap();
}
