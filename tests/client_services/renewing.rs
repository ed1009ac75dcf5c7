//! The lease is renewed by a task of its own, until somebody else has it or the session is not
//! active any more.

use std::{sync::mpsc, time::Duration};

use caracal_axum::{
    Caracal, ClientEvent, Health, Renewal, SessionState, SystemClock,
    embedded::{EmbeddedCaracal, Endpoint, Fault},
};
use http::StatusCode;
use serde_json::json;

use crate::support::at_work::{
    Calls, Heard, ZONE, bearer, body, last, pass, sample, seconds, sent, settle, soon, status,
};

/// Something that goes to the control plane and comes back, after all that was under way.
async fn round_trip(client: &Caracal) {
    let session = client.spawn().root().start().await.unwrap();
    session.end().await.unwrap();
}

fn beats(caracal: &EmbeddedCaracal) -> usize {
    sent(caracal, Endpoint::Heartbeat).len()
}

#[tokio::test]
async fn after_a_third_of_the_lease_and_again_and_again() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let service = client.spawn_service().start().await.unwrap();
    for round in 0..20 {
        // 40 s, and a tenth more or less.
        pass(&caracal, seconds(35)).await;
        round_trip(&client).await;
        assert_eq!(beats(&caracal), round, "too early");
        pass(&caracal, seconds(10)).await;
        assert!(calls.next("/heartbeat").await.ok);
        let told = json!({ "status": "healthy", "lease_generation": 1 });
        assert_eq!(body(&caracal, Endpoint::Heartbeat), told);
    }
    assert_eq!(service.state(), SessionState::Active);
    assert_eq!(status(&caracal, service.agent_session_id()).await, "active");
}

#[tokio::test]
async fn after_half_a_minute_where_nothing_is_known_of_the_lease() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let answer = json!({ "agent_session_id": "unknown-to-all", "lease_generation": 1 });
    let fault = Fault::answer(StatusCode::CREATED, answer.to_string()).times(1);
    caracal.inject(Endpoint::StartSession, fault);
    let service = client.spawn_service().start().await.unwrap();
    assert_eq!(service.deadline(), None);
    pass(&caracal, seconds(26)).await;
    round_trip(&client).await;
    assert_eq!(beats(&caracal), 0);
    pass(&caracal, seconds(8)).await;
    assert_eq!(
        calls.next("/heartbeat").await.path,
        format!("/zones/{ZONE}/agents/unknown-to-all/heartbeat")
    );
}

#[tokio::test]
async fn at_a_fixed_interval_to_the_second() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let starting = client.spawn_service().renewal(Renewal::Every(seconds(10)));
    let _service = starting.start().await.unwrap();
    for round in 0..5 {
        pass(&caracal, Duration::from_millis(9_999)).await;
        round_trip(&client).await;
        assert_eq!(beats(&caracal), round);
        pass(&caracal, Duration::from_millis(1)).await;
        assert!(calls.next("/heartbeat").await.ok);
    }
}

#[tokio::test]
async fn by_hand_and_then_never_by_itself() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    for _ in 0..10 {
        pass(&caracal, seconds(60)).await;
    }
    round_trip(&client).await;
    assert_eq!(beats(&caracal), 0);
    let beat = service.heartbeat(Health::Healthy).await.unwrap();
    assert_eq!(beat.state, SessionState::Suspended, "its lease ran out");
}

/// The main task does not so much as look up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_main_task_is_busy() {
    let (caracal, _) = sample().await;
    let client = caracal.client_builder("app-1").clock(SystemClock).build().unwrap();
    let (sender, heard) = mpsc::channel();
    let _ = client.on_event(move |event| {
        if let ClientEvent::CoordinatorCall { path, ok: true, .. } = event
            && path.ends_with("/heartbeat")
        {
            let _ = sender.send(());
        }
    });
    let every = Renewal::Every(Duration::from_millis(5));
    let service = client.spawn_service().renewal(every).start().await.unwrap();
    service
        .scope(async {
            for _ in 0..5 {
                heard.recv_timeout(seconds(20)).expect("the lease is renewed meanwhile");
            }
        })
        .await;
    service.close().await.unwrap();
}

#[tokio::test]
async fn until_it_is_lost_which_is_told_once() {
    let (caracal, client) = sample().await;
    let other = caracal.client("app-1").unwrap();
    let mut calls = Calls::of(&client);
    for (taken, code) in [(true, "session_lease_fenced"), (false, "session_not_live")] {
        let lost = Heard::default();
        let heard = lost.clone();
        let starting = client.spawn_service().renewal(Renewal::Every(seconds(10)));
        let starting = starting.on_lease_lost(move |what| {
            heard.push((what.agent_session_id.clone(), what.error.code().to_owned()));
        });
        let service = starting.start().await.unwrap();
        let id = service.agent_session_id();
        let holder = if taken {
            let attaching = other.attach(id).renewal(Renewal::Manual);
            Some(attaching.start().await.unwrap())
        } else {
            caracal.terminate(ZONE, id).unwrap();
            None
        };
        pass(&caracal, seconds(10)).await;
        assert_eq!(calls.next("/heartbeat").await.status, Some(409));
        settle().await;
        assert_eq!(lost.all(), [(id.to_owned(), code.to_owned())]);
        let before = beats(&caracal);
        for _ in 0..5 {
            pass(&caracal, seconds(10)).await;
        }
        round_trip(&client).await;
        assert_eq!(beats(&caracal), before, "the renewal has ended");
        assert_eq!(lost.all().len(), 1);
        // What is lost needs no end, and is not ended for the one that has it.
        service.close().await.unwrap();
        if let Some(holder) = holder {
            assert_eq!(status(&caracal, id).await, "active");
            holder.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn and_a_lease_that_is_lost_while_it_is_closed_is_not_told() {
    let (caracal, client) = sample().await;
    let other = caracal.client("app-1").unwrap();
    let lost = Heard::default();
    let heard = lost.clone();
    let starting = client.spawn_service().renewal(Renewal::Every(seconds(10)));
    let service = starting.on_lease_lost(move |_| heard.push(())).start().await.unwrap();
    let id = service.agent_session_id().to_owned();
    // The heartbeat is judged after the takeover.
    caracal.inject(Endpoint::Heartbeat, Fault::delay(seconds(5)).times(1));
    pass(&caracal, seconds(10)).await;
    soon(caracal.received(Endpoint::Heartbeat)).await;
    let closing = tokio::spawn(async move { service.close().await });
    settle().await;
    let holder = other.attach(&*id).renewal(Renewal::Manual).start().await.unwrap();
    caracal.advance(seconds(5));
    soon(closing).await.unwrap().unwrap();
    assert_eq!(lost.all(), []);
    assert_eq!(last(&caracal, Endpoint::Heartbeat).decision().unwrap().status, 409);
    assert_eq!(status(&caracal, &id).await, "active", "somebody else has it");
    holder.close().await.unwrap();
}

#[tokio::test]
async fn until_the_session_is_suspended_which_is_told() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let (states, lost) = (Heard::default(), Heard::default());
    let (on_state, on_lost) = (states.clone(), lost.clone());
    let starting = client.spawn_service().renewal(Renewal::Every(seconds(10)));
    let starting = starting.on_state(move |state| on_state.push(state.clone()));
    let service = starting.on_lease_lost(move |_| on_lost.push(())).start().await.unwrap();
    pass(&caracal, seconds(10)).await;
    calls.next("/heartbeat").await;
    caracal.suspend(ZONE, service.agent_session_id()).unwrap();
    pass(&caracal, seconds(10)).await;
    assert_eq!(calls.next("/heartbeat").await.status, Some(200));
    settle().await;
    assert_eq!(states.all(), [SessionState::Suspended]);
    assert_eq!(service.state(), SessionState::Suspended);
    for _ in 0..5 {
        pass(&caracal, seconds(10)).await;
    }
    round_trip(&client).await;
    assert_eq!(beats(&caracal), 2, "the renewal has ended");
    assert_eq!((states.all().len(), lost.all().len()), (1, 0));
    let beat = service.heartbeat(Health::Healthy).await.unwrap();
    assert_eq!(beat.state, SessionState::Suspended);
    service.close().await.unwrap();
    assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
}

#[tokio::test]
async fn and_goes_on_after_a_lease_that_ran_out() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let (states, lost) = (Heard::default(), Heard::default());
    let (on_state, on_lost) = (states.clone(), lost.clone());
    // Later than the lease lasts, and before the sweep that finds it.
    let starting = client.spawn_service().renewal(Renewal::Every(seconds(130)));
    let starting = starting.on_state(move |state| on_state.push(state.clone()));
    let _service = starting.on_lease_lost(move |_| on_lost.push(())).start().await.unwrap();
    pass(&caracal, seconds(130)).await;
    assert_eq!(calls.next("/heartbeat").await.status, Some(409));
    let decision = last(&caracal, Endpoint::Heartbeat).decision().unwrap().clone();
    assert_eq!(decision.code, Some("session_lease_expired"));
    pass(&caracal, seconds(130)).await;
    assert_eq!(calls.next("/heartbeat").await.status, Some(200));
    settle().await;
    assert_eq!((states.all(), lost.all()), (vec![SessionState::Suspended], vec![]));
}

#[tokio::test]
async fn and_goes_on_after_what_may_pass() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let lost = Heard::default();
    let heard = lost.clone();
    let starting = client.spawn_service().renewal(Renewal::Every(seconds(10)));
    let service = starting.on_lease_lost(move |_| heard.push(())).start().await.unwrap();
    for fault in [
        Fault::status(StatusCode::INTERNAL_SERVER_ERROR),
        Fault::status(StatusCode::TOO_MANY_REQUESTS),
        Fault::refusal(StatusCode::CONFLICT, "session_lease_expired"),
        Fault::drop_connection(),
        Fault::drop_connection().after_effect(),
        Fault::truncate(5).after_effect(),
        Fault::answer(StatusCode::OK, "no JSON"),
    ] {
        let fault = fault.times(1);
        caracal.inject(Endpoint::Heartbeat, fault.clone());
        let before = beats(&caracal);
        pass(&caracal, seconds(10)).await;
        // An answer that makes no sense is one of success all the same.
        let nonsense = fault == Fault::answer(StatusCode::OK, "no JSON").times(1);
        assert_eq!(calls.next("/heartbeat").await.ok, nonsense, "{fault:?}");
        round_trip(&client).await;
        assert_eq!(beats(&caracal), before + 1, "not before the next time: {fault:?}");
        pass(&caracal, seconds(10)).await;
        assert!(calls.next("/heartbeat").await.ok, "{fault:?}");
    }
    assert_eq!(lost.all(), []);
    assert_eq!(service.state(), SessionState::Active);
}

#[tokio::test]
async fn and_a_refused_token_is_replaced_at_once() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let starting = client.spawn_service().renewal(Renewal::Every(seconds(10)));
    let _service = starting.start().await.unwrap();
    let refused = Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked").times(1);
    caracal.inject(Endpoint::Heartbeat, refused);
    pass(&caracal, seconds(10)).await;
    assert_eq!(calls.next("/heartbeat").await.status, Some(401));
    assert_eq!(calls.next("/heartbeat").await.status, Some(200));
    let sent = sent(&caracal, Endpoint::Heartbeat);
    assert_ne!(bearer(&sent[0]), bearer(&sent[1]));
}
