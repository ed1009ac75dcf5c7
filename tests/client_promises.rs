//! What the client promises beside doing what it is asked: to tell what it leaves, to close for
//! good, to act in its own contexts alone, to show nothing it was trusted with.
#![cfg(feature = "embedded")]

mod support;

use std::time::Duration;

use caracal_axum::{
    AgentKind, CaracalError, ClientEvent, ConfigSource, Credentials, Denial, Grant, Inbound, Proof,
    Renewal, Verifier,
    embedded::{
        Endpoint::{Delegate, EndSession, Heartbeat, StartSession, Takeover, Token},
        Fault, World,
    },
};
use http::{HeaderMap, HeaderName, StatusCode};
use support::{
    agent::TICKETS,
    at_work::neighbours,
    outbound::{Outbound, in_time, reader},
};

/// The sessions that were left, as far as they are known.
fn left(out: &Outbound) -> Vec<(Option<String>, bool)> {
    let left = |event| match event {
        ClientEvent::LeftBehind { agent_session_id, service, .. } => {
            Some((agent_session_id, service))
        }
        _ => None,
    };
    out.events.all().into_iter().filter_map(left).collect()
}

#[tokio::test]
async fn a_start_whose_answers_are_all_lost_is_told() {
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, Fault::drop_connection().after_effect());
    let error = out.client.spawn_service().start().await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("unreachable", true));
    assert!(error.request_id().is_some(), "by it the audit trail knows the last of them");
    assert_eq!(left(&out), [(None, true)]);
    assert_eq!(out.live().await, 1, "and there it is");
}

#[tokio::test]
async fn nothing_is_told_of_what_was_refused_or_never_asked() {
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, Fault::status(StatusCode::CONFLICT));
    out.client.spawn().start().await.unwrap_err();
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody =
        |builder: caracal_axum::CaracalBuilder| builder.coordinator_url(format!("http://{gone}"));
    let deaf = Outbound::with(World::sample(), nobody).await;
    let error = deaf.client.spawn().start().await.unwrap_err();
    assert!(error.to_string().contains("check its URL"), "{error}");
    assert_eq!((left(&out), left(&deaf)), (vec![], vec![]));
}

#[tokio::test]
async fn a_delegation_that_nobody_waits_for_is_told() {
    let out = Outbound::start().await;
    let giver = out.client.spawn().start().await.unwrap();
    let peer = out.client.spawn().start().await.unwrap();
    out.caracal.inject(Delegate, Fault::delay(Duration::from_secs(5)).times(1));
    let making = out.client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
    let making = making.resource(TICKETS).context(giver.context().clone());
    let task = tokio::spawn(async move { making.await });
    out.arrived(Delegate, 1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    out.caracal.advance(Duration::from_secs(5));
    out.events.until(|event| matches!(event, ClientEvent::DelegationUnclaimed { .. })).await;
}

#[tokio::test]
async fn a_takeover_that_nobody_waits_for_is_told_and_ends_nothing() {
    let out = Outbound::start().await;
    let service = out.client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    out.caracal.inject(Takeover, Fault::delay(Duration::from_secs(5)).times(1));
    let taking = out.client.attach(service.agent_session_id()).start();
    let task = tokio::spawn(taking);
    out.arrived(Takeover, 1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    out.caracal.advance(Duration::from_secs(5));
    out.events.until(|event| matches!(event, ClientEvent::LeftBehind { .. })).await;
    assert_eq!(left(&out), [(Some(service.agent_session_id().to_owned()), true)]);
    assert_eq!(out.sent(EndSession).len(), 0);
}

#[tokio::test]
async fn nothing_begins_after_the_client_was_closed() {
    let out = Outbound::start().await;
    out.caracal.inject(Token, Fault::delay(Duration::from_secs(5)).times(1));
    let starting = tokio::spawn(out.client.spawn().start());
    out.arrived(Token, 1).await;
    let client = out.client.clone();
    let closing = tokio::spawn(async move { client.close().await });
    while out.client.revoke_delegation("no id").await.unwrap_err().code() != "client_closed" {
        tokio::task::yield_now().await;
    }
    out.caracal.advance(Duration::from_secs(5));
    let given_up = in_time("the start", starting).await.unwrap().unwrap_err();
    assert_eq!(given_up.code(), "client_closed");
    in_time("the close", closing).await.unwrap();
    assert_eq!(out.sent(StartSession).len(), 0);
}

#[tokio::test]
async fn a_resolver_that_panics_has_no_credentials_and_harms_nobody() {
    let caracal = Outbound::start().await.caracal;
    let ready = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = std::sync::Arc::clone(&ready);
    let client = caracal_axum::Caracal::builder()
        .sts_url(caracal.sts_url())
        .coordinator_url(caracal.coordinator_url())
        .audience(TICKETS)
        .credentials(move || {
            let ready = asked.load(std::sync::atomic::Ordering::Relaxed);
            async move {
                assert!(ready, "not yet");
                Ok::<_, std::io::Error>(Some(Credentials::new("zone-1", "app-1", "app-1-secret")))
            }
        })
        .build()
        .unwrap();
    let error = client.spawn().start().await.unwrap_err();
    assert_eq!(error.code(), "credentials_unavailable");
    ready.store(true, std::sync::atomic::Ordering::Relaxed);
    client.spawn().run(async |_| ()).await.unwrap();
}

#[tokio::test]
async fn a_parent_that_is_named_must_be_a_session() {
    let out = Outbound::start().await;
    let nobody = Proof::builder("zone-1", "app-1", u64::MAX).build().into();
    let root = out.client.bind_from_headers(&HeaderMap::new()).allow_root().await.unwrap();
    for context in [nobody, root] {
        let error = out.client.spawn().parent(context).start().await.unwrap_err();
        assert_eq!(error.code(), "session_required");
    }
    assert_eq!(out.sent(StartSession).len(), 0);
}

#[tokio::test]
async fn the_context_of_another_client_is_never_acted_in() {
    let (caracal, first, second) = neighbours().await;
    let root = first.bind_from_headers(&HeaderMap::new()).allow_root().await.unwrap();
    let session = first.spawn().start().await.unwrap();
    let before = caracal.requests().len();
    let error = second.headers().context(root.clone()).await.unwrap_err();
    assert_eq!(error.code(), "foreign_context");
    let mint = second.mint_mandate("resource://ledger", ["agent:lifecycle"]).context(root);
    assert_eq!(mint.await.unwrap_err().code(), "foreign_context");
    let accept = second.accept_delegation("edge").context(session.context().clone());
    assert_eq!(accept.await.unwrap_err().code(), "foreign_context");
    assert_eq!(caracal.requests().len(), before, "nothing was sent");

    // What a foreign proof says without a session goes nowhere with a root of one's own.
    let proof = Proof::builder("zone-1", "app-1", u64::MAX)
        .authority_record_id("record")
        .delegation_edge_id("edge")
        .hop(u32::MAX);
    let own = second.spawn().start();
    let own = caracal_axum::bind(proof.build().into(), own).await.unwrap();
    let context = own.context();
    assert_eq!((context.authority_record_id(), context.hop()), (None, 0));
    assert_eq!(context.parent_edge_id(), None);
}

#[tokio::test]
async fn a_narrowed_start_is_repeated_as_a_whole() {
    let out = Outbound::start().await;
    let parent = out.client.spawn().start().await.unwrap();
    let start = || {
        let child = out.client.spawn().parent(parent.context().clone()).labels(["reader"]);
        child.grant(reader()).idempotency_key("job-8").start()
    };
    let (one, two) = (start().await.unwrap(), start().await.unwrap());
    assert_eq!(one.agent_session_id(), two.agent_session_id());
    let edge = |session: &caracal_axum::AgentSession| {
        session.context().delegation_edge_id().map(str::to_owned)
    };
    assert_eq!(edge(&one), edge(&two), "there is no second delegation to it");
    // A repeated start whose delegation fails does not end what another holds.
    out.caracal.inject(Delegate, Fault::status(StatusCode::FORBIDDEN).times(1));
    start().await.unwrap_err();
    assert_eq!(out.sent(EndSession).len(), 0);
    out.client
        .mint_mandate(TICKETS, ["tickets:read"])
        .context(one.context().clone())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_service_that_was_started_before_is_taken_over() {
    let out = Outbound::start().await;
    let start = || {
        let service = out.client.spawn_service().renewal(Renewal::Manual);
        service.idempotency_key("worker-1").start()
    };
    let (first, second) = (start().await.unwrap(), start().await.unwrap());
    assert_eq!(first.agent_session_id(), second.agent_session_id());
    assert_eq!((first.lease_generation(), second.lease_generation()), (1, 2));
    let fenced = first.heartbeat(caracal_axum::Health::Healthy).await.unwrap_err();
    assert_eq!(fenced.code(), "session_lease_fenced");
    second.heartbeat(caracal_axum::Health::Healthy).await.unwrap();
}

#[tokio::test]
async fn with_a_key_of_ones_own_below_a_delegation_the_ttl_is_named() {
    let out = Outbound::start().await;
    let parent = out.client.spawn().labels(["reader"]).start().await.unwrap();
    let hops = caracal_axum::DelegationConstraints::new();
    let wide = reader().constraints(hops.clone().max_hops(3));
    let child = out.client.spawn().parent(parent.context().clone()).grant(wide);
    let child = child.start().await.unwrap();
    let below = |grant: Grant| {
        let spawn = out.client.spawn().parent(child.context().clone()).idempotency_key("job");
        spawn.grant(grant.constraints(hops.clone().max_hops(2))).start()
    };
    assert_eq!(below(reader()).await.unwrap_err().code(), "invalid_grant");
    let made = below(reader().ttl(Duration::from_secs(600))).await.unwrap();
    made.end().await.unwrap();
}

#[tokio::test]
async fn what_services_say_is_shown_in_one_line_and_without_what_they_were_sent() {
    let out = Outbound::start().await;
    let service = out.client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let headers = out.client.headers().allow_root().await.unwrap();
    let token = headers["authorization"].to_str().unwrap().replace("Bearer ", "");
    let part = &token[40..70];
    for body in [
        format!(r#"{{"error":"e","message":"you sent {part}\u001b[31m\nand more"}}"#),
        format!("<p>{part}\u{1b}[31m\n</p>"),
    ] {
        out.caracal.inject(Heartbeat, Fault::answer(StatusCode::CONFLICT, body).times(1));
        let error = service.heartbeat(caracal_axum::Health::Healthy).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("[redacted]") && !support::leaks(&shown, &token), "{shown}");
        assert!(!shown.contains(['\u{1b}', '\n']), "{shown}");
    }
}

#[tokio::test]
async fn where_the_configuration_came_from_is_told() {
    let out = Outbound::start().await;
    let told = out.events.all().into_iter().find_map(|event| match event {
        ClientEvent::Configured { source, .. } => Some(source),
        _ => None,
    });
    assert_eq!(told, Some(ConfigSource::Environment));
    assert_eq!(out.client.config_source(), &ConfigSource::Environment);
    let unknown = out.caracal.client("nobody").unwrap_err();
    assert!(unknown.to_string().contains("no application nobody"), "{unknown}");
    let kind = out.caracal.client_builder("app-1").default_kind(AgentKind::Service).build();
    assert_eq!(kind.unwrap_err().code(), "invalid_configuration");
}

/// Whatever a verifier looks at, a bearer that is there is judged: it does not become the application.
#[tokio::test]
async fn a_bearer_beside_the_verifiers_own_header_is_no_absence() {
    struct Keys;
    impl Verifier for Keys {
        async fn verify(&self, inbound: &Inbound<'_>) -> Result<Proof, Denial> {
            inbound.credential(&self.header(), None)?;
            Ok(Proof::builder("zone-1", "app-1", u64::MAX).build())
        }

        fn header(&self) -> HeaderName {
            HeaderName::from_static("x-api-key")
        }
    }
    let out = Outbound::start().await;
    let bind =
        |headers: &HeaderMap| out.client.bind_from_headers(headers).verifier(Keys).allow_root();
    let mut headers = HeaderMap::new();
    assert!(bind(&headers).await.unwrap().is_own(), "nothing is there");
    headers.insert("authorization", "Bearer whatever".parse().unwrap());
    assert_eq!(bind(&headers).await.unwrap_err().code(), "missing_token");
    headers.insert("x-api-key", "key".parse().unwrap());
    assert!(bind(&headers).await.unwrap().is_proven());
}

/// An end hook that ends its own session is part of that end, and does not wait for itself.
#[tokio::test]
async fn an_end_hook_may_end_its_session() {
    let out = Outbound::start().await;
    let session = std::sync::Arc::new(out.client.spawn().start().await.unwrap());
    let ended = std::sync::Arc::clone(&session);
    let _ = out.client.on_agent_end(move |_| {
        let ended = std::sync::Arc::clone(&ended);
        async move { ended.end().await }
    });
    in_time("the end", session.end()).await.unwrap();
    assert_eq!(out.sent(EndSession).len(), 1);
}

#[tokio::test]
async fn a_client_of_one_runtime_serves_callers_on_another() {
    let out = Outbound::start().await;
    let client = out.client.clone();
    let elsewhere = std::thread::spawn(move || {
        // No time and no network: nothing of the client's may run here.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            client
                .spawn()
                .labels(["reader"])
                .try_run(async |_parent| {
                    let child = client.spawn().labels(["reader"]).grant(reader());
                    child
                        .try_run(async |context| {
                            client.mint_mandate(TICKETS, ["tickets:read"]).await?;
                            let edge = context.delegation_edge_id().unwrap();
                            client.accept_delegation(edge).validate().await?;
                            Ok::<_, CaracalError>(())
                        })
                        .await
                })
                .await?;
            client.close().await;
            Ok::<_, CaracalError>(())
        })
    });
    let done = tokio::task::spawn_blocking(move || elsewhere.join().unwrap());
    in_time("all of it", done).await.unwrap().unwrap();
}
