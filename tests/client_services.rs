//! Service sessions: how they are started, kept alive, taken over and ended.
#![cfg(feature = "embedded")]

#[path = "client_services/attaching.rs"]
mod attaching;
#[path = "client_services/closing.rs"]
mod closing;
#[path = "client_services/renewing.rs"]
mod renewing;
mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use caracal_axum::{
    Clock as _, Health, Renewal, SessionState,
    embedded::{EmbeddedCaracal, Endpoint, Fault},
};
use http::StatusCode;
use serde_json::{Value, json};
use support::at_work::{
    Heard, ZONE, bearer, body, claims, pass, sample, seconds, sent, settle, status,
};

/// So many seconds from now, by the clock of the control plane.
fn from_now(caracal: &EmbeddedCaracal, time: u64) -> SystemTime {
    UNIX_EPOCH + caracal.clock().unix_time() + seconds(time)
}

/// Whether two moments are the same to a millisecond, which is as fine as answers are.
fn same(one: SystemTime, other: SystemTime) -> bool {
    let apart = one.duration_since(other).unwrap_or_else(|error| error.duration());
    apart.as_millis() <= 1
}

#[tokio::test]
async fn a_service_is_started_without_a_ttl_and_holds_the_first_generation() {
    let (caracal, _) = sample().await;
    let client = caracal.client_builder("app-1").default_ttl(seconds(60)).build().unwrap();
    let starting = client.spawn_service().labels(["worker"]).renewal(Renewal::Manual);
    let service = starting.start().await.unwrap();
    let told = body(&caracal, Endpoint::StartSession);
    let expected = json!({
        "application_id": "app-1", "lifecycle": "service", "labels": ["worker"],
        "parent_authority": "inherit",
    });
    assert_eq!(told, expected);
    assert_eq!(service.lease_generation(), 1);
    assert_eq!(service.state(), SessionState::Active);
    assert!(same(service.deadline().unwrap(), from_now(&caracal, 120)));
    assert_eq!(service.context().agent_session_id(), Some(service.agent_session_id()));
    assert!(service.context().is_own() && service.context().hop() == 0);
    let bound = service.scope(async { caracal_axum::current().unwrap() }).await;
    assert_eq!(bound.agent_session_id(), Some(service.agent_session_id()));
    service.close().await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_says_how_it_is_and_under_which_generation() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    for (health, word) in [
        (Health::Starting, "starting"),
        (Health::Healthy, "healthy"),
        (Health::Degraded, "degraded"),
        (Health::Unhealthy, "unhealthy"),
    ] {
        caracal.advance(seconds(100));
        let beat = service.heartbeat(health).await.unwrap();
        let told = body(&caracal, Endpoint::Heartbeat);
        assert_eq!(told, json!({ "status": word, "lease_generation": 1 }));
        assert_eq!(beat.state, SessionState::Active);
        assert!(same(beat.deadline.unwrap(), from_now(&caracal, 120)));
        assert_eq!(service.deadline(), beat.deadline);
    }
    let path = format!("/zones/{ZONE}/agents/{}/heartbeat", service.agent_session_id());
    assert!(sent(&caracal, Endpoint::Heartbeat).iter().all(|request| request.target() == path));
}

#[tokio::test]
async fn a_lost_or_unusable_answer_of_a_start_is_asked_for_again_under_its_key() {
    let (caracal, client) = sample().await;
    let useless =
        |text: Value| Fault::answer(StatusCode::CREATED, text.to_string()).after_effect().times(1);
    for fault in [
        Fault::drop_connection().after_effect().times(1),
        useless(json!({ "agent_session_id": "somebody" })),
        useless(json!({ "agent_session_id": "somebody", "lease_generation": 0 })),
        useless(json!({ "lease_generation": 1 })),
    ] {
        let before = sent(&caracal, Endpoint::StartSession).len();
        caracal.inject(Endpoint::StartSession, fault);
        let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
        let starts = sent(&caracal, Endpoint::StartSession).split_off(before);
        let keys: Vec<_> = starts.iter().map(|start| start.header("idempotency-key")).collect();
        assert!(keys.len() == 2 && keys[0] == keys[1] && keys[0].is_some(), "{keys:?}");
        assert_eq!(
            starts.iter().map(|s| s.decision().unwrap().replayed).collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(service.lease_generation(), 1);
        service.close().await.unwrap();
        assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_at_a_heartbeat_once() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let token = bearer(&sent(&caracal, Endpoint::StartSession)[0]);
    caracal.revoke_record(ZONE, claims(&token)["sid"].as_str().unwrap()).unwrap();
    caracal.advance(seconds(2));
    service.heartbeat(Health::Healthy).await.unwrap();
    let beats = sent(&caracal, Endpoint::Heartbeat);
    let decided: Vec<_> = beats.iter().map(|beat| beat.decision().unwrap().status).collect();
    assert_eq!(decided, [401, 200]);
    assert_eq!(bearer(&beats[0]), token);
    assert_ne!(bearer(&beats[1]), token);
    assert_eq!(sent(&caracal, Endpoint::Token).len(), 2);

    let refused = Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked");
    caracal.inject(Endpoint::Heartbeat, refused.times(2));
    let error = service.heartbeat(Health::Healthy).await.unwrap_err();
    assert_eq!(
        (error.code(), error.status()),
        ("identity_revoked", Some(StatusCode::UNAUTHORIZED))
    );
    assert_eq!(sent(&caracal, Endpoint::Heartbeat).len(), 4, "one new token, and not another");
    service.heartbeat(Health::Healthy).await.unwrap();
}

#[tokio::test]
async fn a_generation_never_goes_back() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let second = client.attach(service.agent_session_id()).renewal(Renewal::Manual);
    let second = second.start().await.unwrap();
    assert_eq!(second.lease_generation(), 2);
    for stale in [
        json!({ "status": "active", "lease_generation": 1 }),
        json!({ "status": "active", "lease_generation": 0 }),
        json!({ "status": "active" }),
    ] {
        let answer = json!({ "agent": stale }).to_string();
        caracal.inject(Endpoint::Heartbeat, Fault::answer(StatusCode::OK, answer).times(1));
        // Whether such an answer is an error or not, the generation is kept.
        let _ = second.heartbeat(Health::Healthy).await;
        assert_eq!(second.lease_generation(), 2, "{stale}");
    }
    second.heartbeat(Health::Healthy).await.unwrap();
}

#[tokio::test]
async fn a_state_is_told_when_it_is_another_one_and_a_heartbeat_by_hand_goes_on() {
    let (caracal, client) = sample().await;
    let states = Heard::default();
    let heard = states.clone();
    let starting = client.spawn_service().renewal(Renewal::Manual);
    let starting = starting.on_state(move |state| heard.push(state.clone()));
    let service = starting.start().await.unwrap();
    service.heartbeat(Health::Healthy).await.unwrap();
    assert_eq!(states.all(), [], "it was active before");
    caracal.suspend(ZONE, service.agent_session_id()).unwrap();
    for _ in 0..2 {
        let beat = service.heartbeat(Health::Healthy).await.unwrap();
        assert_eq!(beat.state, SessionState::Suspended);
    }
    assert_eq!(service.state(), SessionState::Suspended);
    caracal.resume(ZONE, service.agent_session_id()).unwrap();
    assert_eq!(service.heartbeat(Health::Healthy).await.unwrap().state, SessionState::Active);
    assert_eq!(states.all(), [SessionState::Suspended, SessionState::Active]);
}

#[tokio::test]
async fn callbacks_that_panic_harm_nothing() {
    let (caracal, client) = sample().await;
    let called = Heard::default();
    let (lost, state) = (called.clone(), called.clone());
    let service = client
        .spawn_service()
        .renewal(Renewal::Every(seconds(10)))
        .on_lease_lost(move |_| {
            lost.push("lost");
            panic!("a callback of a test");
        })
        .on_state(move |_| {
            state.push("state");
            panic!("a callback of a test");
        })
        .start()
        .await
        .unwrap();
    caracal.suspend(ZONE, service.agent_session_id()).unwrap();
    let beat = service.heartbeat(Health::Healthy).await.unwrap();
    assert_eq!(beat.state, SessionState::Suspended);
    caracal.resume(ZONE, service.agent_session_id()).unwrap();
    let _ = service.heartbeat(Health::Healthy).await.unwrap();
    caracal.terminate(ZONE, service.agent_session_id()).unwrap();
    let mut calls = support::at_work::Calls::of(&client);
    pass(&caracal, seconds(10)).await;
    assert_eq!(calls.next("/heartbeat").await.status, Some(409));
    settle().await;
    assert_eq!(called.all(), ["state", "state", "lost"]);
    service.close().await.unwrap();
    let next = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    next.close().await.unwrap();
}

#[tokio::test]
async fn a_service_below_a_task_is_refused_and_leaves_nothing() {
    let (caracal, client) = sample().await;
    let task = client.spawn().start().await.unwrap();
    let starting = client.spawn_service().parent(task.context().clone());
    let error = starting.start().await.unwrap_err();
    assert_eq!(error.code(), "task_session_cannot_start_service");
    assert_eq!(error.status(), Some(StatusCode::CONFLICT));
    assert!(!error.is_retryable());
    assert_eq!(sent(&caracal, Endpoint::StartSession).len(), 2, "it was not tried again");
    assert_eq!(status(&caracal, task.agent_session_id()).await, "active");

    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let below = client.spawn_service().parent(service.context().clone()).start().await.unwrap();
    let told = body(&caracal, Endpoint::StartSession);
    assert_eq!(told["parent_id"], json!(service.agent_session_id()));
    below.close().await.unwrap();
}
