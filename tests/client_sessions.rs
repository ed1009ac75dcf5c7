//! Task sessions: what is sent for them, in what context they run, and how they end.
#![cfg(feature = "embedded")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use caracal_axum::{
    AgentKind, CaracalContext, CaracalError, DelegationConstraints, Grant, TraceFlags, TraceId,
    embedded::Endpoint::{self, Delegate, EndSession, StartSession, Token},
    envelope::Envelope,
    from_envelope,
};
use serde_json::{Map, json};
use support::{
    agent::{Agent, TICKETS},
    outbound::{Outbound, bearer, claims_of, is_made_up_key, reader, trace},
};

#[tokio::test]
async fn a_root_session_is_an_exchange_a_start_and_an_end() {
    let out = Outbound::start().await;
    let seen = out.client.spawn().run(async |context| context).await.unwrap();
    assert_eq!(out.steps(), [Token, StartSession, EndSession]);

    let exchange = out.only(Token);
    assert_eq!(exchange.target(), "/oauth/2/token");
    assert_eq!(exchange.header("content-type"), Some("application/x-www-form-urlencoded"));
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", "zone-1"),
        ("application_id", "app-1"),
        ("client_secret", "app-1-secret"),
        ("resource", TICKETS),
        ("scope", "agent:lifecycle"),
    ];
    for (name, value) in fields {
        assert_eq!(exchange.field(name).as_deref(), Some(value), "{name}");
    }
    for name in ["agent_session_id", "delegation_edge_id", "session_id", "subject_token"] {
        assert_eq!(exchange.field(name), None, "{name}");
    }

    let start = out.only(StartSession);
    assert_eq!(start.target(), "/zones/zone-1/agents");
    let body = json!({ "application_id": "app-1", "parent_authority": "inherit" });
    assert_eq!(start.json(), Some(body));
    assert_eq!(start.header("content-type"), Some("application/json"));
    assert!(is_made_up_key(start.header("idempotency-key").unwrap()));
    assert_eq!(start.header("idempotency-key-kind"), Some("generated"));
    assert_eq!(start.header("baggage"), None);

    let end = out.only(EndSession);
    let id = seen.agent_session_id().unwrap();
    assert_eq!(end.target(), format!("/zones/zone-1/agents/{id}"));
    assert!(end.json().is_none() && end.header("content-type").is_none());
    assert_eq!(end.header("idempotency-key"), None);
    assert_eq!(bearer(&end), bearer(&start));
    assert_eq!(trace(&end), trace(&start));
    assert_eq!(trace(&end), seen.trace_id().unwrap().as_str());
    assert_ne!(end.header("traceparent"), start.header("traceparent"), "another span");
    assert_eq!((seen.hop(), seen.delegation_edge_id()), (0, None));
    assert!(seen.is_own() && !seen.is_proven());

    out.client.spawn().run(async |_| ()).await.unwrap();
    assert_eq!(out.steps()[3..], [StartSession, EndSession], "the token serves again");
    assert_eq!(out.live().await, 0);
}

#[tokio::test]
async fn what_is_said_of_a_session_is_sent_as_it_is_said() {
    let out = Outbound::start().await;
    let record = claims_of(&Agent::new(&out.caracal, "app-1").lifecycle().await);
    let record = record["sid"].as_str().unwrap();
    let trace_id = TraceId::random();
    let metadata = Map::from_iter([("task".to_owned(), json!("sort the tickets"))]);
    let session = out
        .client
        .spawn()
        .labels(["reader", "night"])
        .ttl(Duration::from_secs(900))
        .metadata(metadata.clone())
        .trace_id(trace_id)
        .authority_record(record)
        .idempotency_key("job-7")
        .kind(AgentKind::Ephemeral)
        .start()
        .await
        .unwrap();
    let start = out.only(StartSession);
    let mut body = start.json().unwrap();
    // The server does not look at it.
    body.as_object_mut().unwrap().remove("subject_token");
    let expected = json!({
        "application_id": "app-1", "labels": ["reader", "night"], "ttl_seconds": 900,
        "metadata": metadata, "subject_session_id": record, "parent_authority": "inherit",
    });
    assert_eq!(body, expected);
    assert_eq!(start.header("idempotency-key"), Some("job-7"));
    assert_eq!(start.header("idempotency-key-kind"), None, "it was not made up");
    assert_eq!(trace(&start), trace_id.as_str());
    assert_eq!(session.context().trace_id(), Some(trace_id));
    assert_eq!(session.context().authority_record_id(), Some(record));
    session.end().await.unwrap();
}

#[tokio::test]
async fn tasks_live_as_long_as_the_client_says_unless_they_say_it() {
    let hour = Duration::from_secs(7200);
    let world = caracal_axum::embedded::World::sample();
    let out = Outbound::with(world, |builder| builder.default_ttl(hour)).await;
    out.client.spawn().run(async |_| ()).await.unwrap();
    out.client.spawn().ttl(Duration::from_secs(60)).run(async |_| ()).await.unwrap();
    let ttls: Vec<_> = out
        .sent(StartSession)
        .iter()
        .map(|start| start.json().unwrap()["ttl_seconds"].as_u64())
        .collect();
    assert_eq!(ttls, [Some(7200), Some(60)]);
}

#[tokio::test]
async fn a_child_inherits_gets_nothing_or_gets_a_part() {
    let out = Outbound::start().await;
    let client = &out.client;
    let parent = client.spawn().start().await.unwrap();
    let (inherits, nothing, part) = parent
        .scope(async {
            let inherits = client.spawn().start().await.unwrap();
            let nothing = client.spawn().grant(Grant::none()).start().await.unwrap();
            let hops = DelegationConstraints::new().max_hops(2);
            let grant = reader().ttl(Duration::from_secs(600)).constraints(hops);
            let part = client.spawn().labels(["reader"]).grant(grant).start().await.unwrap();
            (inherits, nothing, part)
        })
        .await;
    let p = parent.agent_session_id();
    let starts = out.sent(StartSession);
    let body = |number: usize| starts[number].json().unwrap();
    let expected =
        json!({ "application_id": "app-1", "parent_id": p, "parent_authority": "inherit" });
    assert_eq!(body(1), expected);
    assert_eq!(body(2)["parent_authority"], "none");
    assert_eq!((&body(3)["parent_authority"], &body(3)["parent_id"]), (&json!("none"), &json!(p)));
    for child in [&inherits, &nothing, &part] {
        assert_eq!(child.context().trace_id(), parent.context().trace_id());
    }
    for child in [&inherits, &nothing] {
        let context = child.context();
        assert_eq!((context.hop(), context.delegation_edge_id()), (0, None));
    }

    let delegate = out.only(Delegate);
    let expected = json!({
        "issuer_application_id": "app-1", "receiver_application_id": "app-1",
        "source_session_id": p, "target_session_id": part.agent_session_id(),
        "resource_id": TICKETS, "scopes": ["tickets:read"],
        "constraints": { "max_hops": 2 }, "ttl_seconds": 600,
    });
    assert_eq!(delegate.json(), Some(expected));
    assert!(is_made_up_key(delegate.header("idempotency-key").unwrap()));
    assert_eq!(delegate.header("idempotency-key-kind"), None);
    assert_eq!(bearer(&delegate), bearer(&starts[0]));
    assert_eq!(trace(&delegate), trace(&starts[0]));
    let edge = part.context().delegation_edge_id().unwrap();
    assert_eq!((part.context().hop(), part.context().parent_edge_id()), (1, None));

    // Below a part, a child that inherits has a copy of its delegation.
    let copy = client.spawn().parent(part.context().clone()).start().await.unwrap();
    let context = copy.context();
    assert!(context.delegation_edge_id().is_some_and(|copied| copied != edge));
    assert_eq!((context.hop(), context.parent_edge_id()), (2, Some(edge)));
    let bare = client.spawn().parent(part.context().clone()).grant(Grant::none());
    let bare = bare.start().await.unwrap();
    assert_eq!((bare.context().hop(), bare.context().delegation_edge_id()), (1, None));

    for session in [bare, copy, part, nothing, inherits, parent] {
        session.end().await.unwrap();
    }
    assert_eq!(out.live().await, 0);
}

#[tokio::test]
async fn a_part_that_names_no_time_lasts_nine_tenths_of_what_is_left() {
    let out = Outbound::start().await;
    let client = &out.client;
    let hops = |hops| DelegationConstraints::new().max_hops(hops);
    let root = client.spawn().start().await.unwrap();
    let grant = reader().constraints(hops(5));
    let first = client.spawn().parent(root.context().clone()).grant(grant).start().await.unwrap();
    out.caracal.advance(Duration::from_secs(600));
    let below = |grant| client.spawn().parent(first.context().clone()).grant(grant);
    let second = below(reader().constraints(hops(4))).start().await.unwrap();
    let ttls: Vec<_> = out
        .sent(Delegate)
        .iter()
        .map(|edge| edge.json().unwrap()["ttl_seconds"].as_u64().unwrap())
        .collect();
    assert_eq!(ttls[0], 3600);
    assert!((2690..=2700).contains(&ttls[1]), "{ttls:?}");
    let parent = out.sent(Delegate)[1].json().unwrap()["parent_edge_id"].clone();
    assert_eq!(parent, first.context().delegation_edge_id().unwrap());
    assert_eq!((second.context().hop(), second.context().parent_edge_id().is_some()), (2, true));

    // Under a minute is no use to anybody.
    out.caracal.advance(Duration::from_secs(2945));
    let error = below(reader().constraints(hops(4))).start().await.unwrap_err();
    assert!(matches!(error, CaracalError::Usage(_)), "{error:?}");
    assert_eq!(out.sent(StartSession).len(), 3, "refused before anything was started");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_the_first_request() {
    let out = Outbound::start().await;
    let spawn = || out.client.spawn();
    let second = Duration::from_secs(1);
    let budget = reader().constraints(DelegationConstraints::new().budget(3));
    let actions = reader().constraints(DelegationConstraints::new().actions(["read"]));
    let refused = [
        ("narrow without a parent", spawn().grant(reader())),
        ("a budget", spawn().parent_id("session-1").grant(budget)),
        ("actions", spawn().parent_id("session-1").grant(actions)),
        ("no resource", spawn().parent_id("session-1").grant(Grant::narrow(["tickets:read"]))),
        ("no ttl at all", spawn().ttl(Duration::ZERO)),
        ("half a second", spawn().ttl(Duration::from_millis(500))),
        ("more than a day", spawn().ttl(86_401 * second)),
        ("no key", spawn().idempotency_key("")),
        ("a blank before", spawn().idempotency_key(" job")),
        ("a blank behind", spawn().idempotency_key("job ")),
        ("a line end", spawn().idempotency_key("a\nb")),
        ("DEL", spawn().idempotency_key("a\u{7f}b")),
        ("a long key", spawn().idempotency_key("k".repeat(256))),
        ("umlauts", spawn().idempotency_key("ü".repeat(128))),
    ];
    for (what, spawn) in refused {
        let error = spawn.start().await.expect_err(what);
        assert!(matches!(error, CaracalError::Usage(_)), "{what}: {error:?}");
        assert!(!error.is_retryable() && error.status().is_none(), "{what}");
    }
    let error = spawn().kind(AgentKind::Service).start().await.unwrap_err();
    assert!(error.to_string().contains("spawn_service"), "{error}");
    assert_eq!(out.steps(), [], "nothing was sent");

    let session = spawn().idempotency_key("k".repeat(255)).ttl(86_400 * second).start();
    session.await.unwrap().end().await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_used_again_gives_the_first_session() {
    let out = Outbound::start().await;
    let first = out.client.spawn().idempotency_key("job-7").start().await.unwrap();
    let again = out.client.spawn().idempotency_key("job-7").start().await.unwrap();
    assert_eq!(first.agent_session_id(), again.agent_session_id());
    first.end().await.unwrap();
    again.end().await.unwrap();
    assert_eq!(out.live().await, 0);
}

#[tokio::test]
async fn a_parent_is_the_bound_session_or_a_named_one_and_never_two() {
    let out = Outbound::start().await;
    let client = &out.client;
    let parent = client.spawn().start().await.unwrap();
    let other = client.spawn().start().await.unwrap();
    let parent_of =
        |start: usize| out.sent(StartSession)[start].json().unwrap()["parent_id"].clone();
    let bound = parent
        .scope(async {
            let before = out.steps().len();
            let two = client.spawn().parent_id(other.agent_session_id()).start().await;
            assert!(matches!(two, Err(CaracalError::Usage(_))), "{two:?}");
            assert_eq!(out.steps().len(), before);
            let same = client.spawn().parent_id(parent.agent_session_id()).start().await.unwrap();
            let root = client.spawn().root().start().await.unwrap();
            (same, root)
        })
        .await;
    assert_eq!(parent_of(2), parent.agent_session_id());
    assert_eq!(parent_of(3), json!(null), "a root has none");
    assert_eq!(bound.1.context().trace_id(), parent.context().trace_id(), "its trace goes on");

    let named = client.spawn().parent_id(parent.agent_session_id()).start().await.unwrap();
    assert_eq!(parent_of(4), parent.agent_session_id());
    assert_ne!(named.context().trace_id(), parent.context().trace_id(), "an id has no trace");
    let chosen = client.spawn().parent(other.context().clone()).start().await.unwrap();
    assert_eq!(parent_of(5), other.agent_session_id());
    assert_eq!(chosen.context().trace_id(), other.context().trace_id());
}

#[tokio::test]
async fn of_a_context_that_nobody_proved_only_trace_and_baggage_go_on() {
    let out = Outbound::start().await;
    let trace_id = TraceId::random();
    let mut envelope = Envelope::default();
    envelope.agent_session_id = Some("session-7".to_owned());
    envelope.delegation_edge_id = Some("edge-7".to_owned());
    envelope.hop = 4;
    envelope.trace_id = Some(trace_id);
    envelope.trace_flags = Some(TraceFlags::SAMPLED);
    envelope.baggage.insert("tenant".to_owned(), "t1".to_owned());
    let claimed = from_envelope(envelope, "zone-1", "app-1");
    let session = claimed.scope(out.client.spawn().start()).await.unwrap();
    let body = json!({ "application_id": "app-1", "parent_authority": "inherit" });
    assert_eq!(out.only(StartSession).json(), Some(body));
    let context = session.context();
    assert_eq!(context.trace_id(), Some(trace_id));
    assert_eq!(context.baggage().get("tenant").map(String::as_str), Some("t1"));
    assert_eq!(
        (context.hop(), context.parent_edge_id(), context.delegation_edge_id()),
        (0, None, None)
    );
    session.end().await.unwrap();
}

#[tokio::test]
async fn bodies_of_both_forms_run_in_tasks_with_their_context_bound() {
    let out = Outbound::start().await;
    let (first, second) = (out.client.clone(), out.client.clone());
    let (seen, other) = (Arc::new(Mutex::new(None)), "borrowed by nobody".to_owned());
    let into = Arc::clone(&seen);
    let old = tokio::spawn(async move {
        let body = |context: CaracalContext| async move {
            *into.lock().unwrap() = CaracalContext::current();
            context
        };
        first.spawn().run(body).await
    });
    let new = tokio::spawn(async move {
        second
            .spawn()
            .try_run(async |context| {
                tokio::task::yield_now().await;
                let bound = CaracalContext::current().unwrap();
                assert_eq!(bound.agent_session_id(), context.agent_session_id());
                Ok::<_, CaracalError>(other.len())
            })
            .await
    });
    let context = old.await.unwrap().unwrap();
    let bound = seen.lock().unwrap().take().unwrap();
    assert_eq!(bound.agent_session_id(), context.agent_session_id());
    assert_eq!(new.await.unwrap().unwrap(), 18);
    assert!(CaracalContext::current().is_none());
    let looked_into = out.client.spawn().run(async |_| Err::<(), _>("mine")).await.unwrap();
    assert_eq!(looked_into, Err("mine"), "a result is not looked into");
    let count = |at: Endpoint| out.sent(at).len();
    assert_eq!((count(StartSession), count(EndSession)), (3, 3));
}
