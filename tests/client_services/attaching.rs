//! A running service is taken over, after a restart for one: the old holder is fenced.

use caracal_axum::{
    Health, Renewal, SessionState,
    embedded::{Endpoint, Fault},
};
use http::StatusCode;
use serde_json::json;

use crate::support::at_work::{
    Calls, Heard, ZONE, bearer, body, last, neighbours, refused_unsent, sample, seconds, sent,
    soon, status,
};

#[tokio::test]
async fn the_old_holder_can_neither_renew_nor_end_it() {
    let (caracal, client) = sample().await;
    let old = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let restarted = caracal.client("app-1").unwrap();
    let new = restarted.attach(old.agent_session_id()).renewal(Renewal::Manual);
    let new = new.start().await.unwrap();
    assert_eq!(new.agent_session_id(), old.agent_session_id());
    assert_eq!((old.lease_generation(), new.lease_generation()), (1, 2));

    let error = old.heartbeat(Health::Healthy).await.unwrap_err();
    assert_eq!(error.code(), "session_lease_fenced");
    assert_eq!(error.status(), Some(StatusCode::CONFLICT));
    old.close().await.unwrap();
    assert_eq!(body(&caracal, Endpoint::EndSession), json!({ "lease_generation": 1 }));
    assert_eq!(last(&caracal, Endpoint::EndSession).decision().unwrap().status, 409);
    drop(old);
    assert_eq!(status(&caracal, new.agent_session_id()).await, "active");

    assert_eq!(new.heartbeat(Health::Healthy).await.unwrap().state, SessionState::Active);
    let told = json!({ "status": "healthy", "lease_generation": 2 });
    assert_eq!(body(&caracal, Endpoint::Heartbeat), told);
    new.close().await.unwrap();
    assert_eq!(body(&caracal, Endpoint::EndSession), json!({ "lease_generation": 2 }));
    assert_eq!(status(&caracal, new.agent_session_id()).await, "terminated");
}

#[tokio::test]
async fn it_asks_without_a_body_and_knows_the_session_alone() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().start().await.unwrap().detach();
    let restarted = caracal.client("app-1").unwrap();
    let hooks = Heard::default();
    let (starts, ends) = (hooks.clone(), hooks.clone());
    let _ = restarted.on_agent_start(move |_| {
        starts.push("start");
        async { Ok::<_, std::io::Error>(()) }
    });
    let _ = restarted.on_agent_end(move |_| {
        ends.push("end");
        async { Ok::<_, std::io::Error>(()) }
    });
    // What is bound around it is somebody else's.
    let attaching = restarted.attach(service.agent_session_id()).renewal(Renewal::Manual);
    let task = client.spawn().start().await.unwrap();
    let held = task.scope(attaching.start()).await.unwrap();
    let asked = last(&caracal, Endpoint::Takeover);
    let path = format!("/zones/{ZONE}/agents/{}/lease", service.agent_session_id());
    assert_eq!((asked.method().as_str(), asked.target()), ("POST", &*path));
    assert_eq!((asked.header("content-type"), asked.json()), (None, None));
    assert!(asked.header("traceparent").is_some());

    let context = held.context();
    assert!(context.is_own());
    assert_eq!((context.zone_id(), context.application_id()), (ZONE, "app-1"));
    assert_eq!(context.agent_session_id(), Some(service.agent_session_id()));
    assert_eq!((context.delegation_edge_id(), context.parent_edge_id()), (None, None));
    assert_eq!((context.authority_record_id(), context.hop()), (None, 0));
    assert!(context.trace_id().is_some());
    assert_ne!(context.trace_id(), task.context().trace_id());
    assert_eq!(held.state(), SessionState::Active);
    assert!(held.deadline().is_some());

    held.close().await.unwrap();
    assert_eq!(hooks.all(), ["end"], "nothing was started, and something ended");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_the_newest_generation_counts() {
    let (caracal, client) = sample().await;
    for fault in [
        Fault::drop_connection(),
        Fault::status(StatusCode::BAD_GATEWAY),
        Fault::truncate(10),
        Fault::answer(StatusCode::OK, "{}"),
    ] {
        let service = client.spawn_service().start().await.unwrap().detach();
        caracal.inject(Endpoint::Takeover, fault.clone().after_effect().times(1));
        let restarted = caracal.client("app-1").unwrap();
        let attaching = restarted.attach(service.agent_session_id()).renewal(Renewal::Manual);
        let held = attaching.start().await.unwrap();
        assert_eq!(held.lease_generation(), 3, "{fault:?}");
        held.heartbeat(Health::Healthy).await.unwrap();
        held.close().await.unwrap();
        assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().start().await.unwrap().detach();
    let refused = || Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked");
    caracal.inject(Endpoint::Takeover, refused().times(1));
    let held = client.attach(service.agent_session_id()).start().await.unwrap();
    let asked = sent(&caracal, Endpoint::Takeover);
    assert_eq!(asked.len(), 2);
    assert_ne!(bearer(&asked[0]), bearer(&asked[1]));
    caracal.inject(Endpoint::Takeover, refused());
    let error = client.attach(service.agent_session_id()).start().await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(sent(&caracal, Endpoint::Takeover).len(), 4);
    held.close().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_taken_over_says_why_and_is_left_as_it_is() {
    let (caracal, client, neighbour) = neighbours().await;
    let task = client.spawn().start().await.unwrap();
    let ended = client.spawn_service().start().await.unwrap();
    ended.close().await.unwrap();
    let suspended = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    caracal.suspend(ZONE, suspended.agent_session_id()).unwrap();
    let foreign = neighbour.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let before = sent(&caracal, Endpoint::EndSession).len();
    for (id, status, code) in [
        (task.agent_session_id(), 409, "session_not_service"),
        ("nobody-knows-it", 404, "session_not_found"),
        (ended.agent_session_id(), 409, "session_not_live"),
        (suspended.agent_session_id(), 409, "session_suspended"),
        (foreign.agent_session_id(), 403, "application_ownership_required"),
    ] {
        let error = client.attach(id).start().await.unwrap_err();
        assert_eq!(error.code(), code);
        assert_eq!(error.status().map(|status| status.as_u16()), Some(status), "{code}");
        assert!(!error.is_retryable(), "{code}");
    }
    assert_eq!(sent(&caracal, Endpoint::Takeover).len(), 5, "none was tried again");
    assert_eq!(sent(&caracal, Endpoint::EndSession).len(), before, "none was ended");
    foreign.heartbeat(Health::Healthy).await.unwrap();

    let lapsed = client.spawn_service().start().await.unwrap().detach();
    caracal.advance(seconds(121));
    let error = client.attach(lapsed.agent_session_id()).start().await.unwrap_err();
    assert_eq!(error.code(), "session_lease_expired");
    for id in ["", "..", "a/b", "a b", &"x".repeat(101)] {
        let error = refused_unsent(&caracal, client.attach(id).start()).await;
        assert_eq!(error.status(), None);
    }
}

#[tokio::test]
async fn a_takeover_nobody_waits_for_ends_nothing() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().start().await.unwrap().detach();
    let restarted = caracal.client("app-1").unwrap();
    let mut calls = Calls::of(&restarted);
    caracal.inject(Endpoint::Takeover, Fault::delay(seconds(5)).times(1));
    tokio::select! {
        biased;
        held = restarted.attach(service.agent_session_id()).start() => panic!("it waits: {held:?}"),
        _ = soon(caracal.received(Endpoint::Takeover)) => {}
    }
    caracal.advance(seconds(5));
    assert!(calls.next("/lease").await.ok, "it went on");
    restarted.close().await;
    assert_eq!(sent(&caracal, Endpoint::EndSession).len(), 0);
    assert_eq!(status(&caracal, service.agent_session_id()).await, "active");
    let held = client.attach(service.agent_session_id()).start().await.unwrap();
    assert_eq!(held.lease_generation(), 3);
    held.close().await.unwrap();
}

#[tokio::test]
async fn it_renews_with_its_own_generation() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().start().await.unwrap().detach();
    let restarted = caracal.client("app-1").unwrap();
    let mut calls = Calls::of(&restarted);
    let attaching = restarted.attach(service.agent_session_id());
    let _held = attaching.renewal(Renewal::Every(seconds(10))).start().await.unwrap();
    crate::support::at_work::pass(&caracal, seconds(10)).await;
    assert!(calls.next("/heartbeat").await.ok);
    let told = json!({ "status": "healthy", "lease_generation": 2 });
    assert_eq!(body(&caracal, Endpoint::Heartbeat), told);
}
