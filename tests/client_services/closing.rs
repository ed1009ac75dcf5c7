//! A service is ended by its holder, with its generation, and until that succeeded.

use caracal_axum::{
    Health, Renewal,
    embedded::{Endpoint, Fault},
};
use http::StatusCode;
use serde_json::json;

use crate::support::at_work::{
    Calls, Heard, bearer, body, last, pass, sample, seconds, sent, soon, status,
};

#[tokio::test]
async fn with_its_generation_and_once() {
    let (caracal, client) = sample().await;
    let service =
        client.spawn_service().renewal(Renewal::Every(seconds(10))).start().await.unwrap();
    service.close().await.unwrap();
    service.close().await.unwrap();
    let [end] = &sent(&caracal, Endpoint::EndSession)[..] else { panic!("one end") };
    assert_eq!(end.json().unwrap(), json!({ "lease_generation": 1 }));
    assert_eq!(end.header("content-type"), Some("application/json"));
    assert_eq!(end.decision().unwrap().status, 204);
    for _ in 0..5 {
        pass(&caracal, seconds(10)).await;
    }
    let error = service.heartbeat(Health::Healthy).await.unwrap_err();
    assert_eq!(error.status(), None, "it is known to have ended");
    assert_eq!(sent(&caracal, Endpoint::Heartbeat).len(), 0);
    drop(service);
    client.close().await;
    assert_eq!(sent(&caracal, Endpoint::EndSession).len(), 1, "it had been ended");
}

#[tokio::test]
async fn a_close_that_failed_is_done_again() {
    let (caracal, client) = sample().await;
    let faults = [
        (Fault::status(StatusCode::INTERNAL_SERVER_ERROR), 3),
        (Fault::drop_connection(), 3),
        (Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked"), 2),
        (Fault::status(StatusCode::TOO_MANY_REQUESTS), 1),
        (Fault::refusal(StatusCode::BAD_REQUEST, "lease_generation_required"), 1),
    ];
    for (fault, tries) in faults {
        let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
        let before = sent(&caracal, Endpoint::EndSession).len();
        caracal.inject(Endpoint::EndSession, fault.clone());
        service.close().await.unwrap_err();
        service.close().await.unwrap_err();
        let tried = sent(&caracal, Endpoint::EndSession).len() - before;
        assert_eq!(tried, 2 * tries, "{fault:?}");
        assert_eq!(status(&caracal, service.agent_session_id()).await, "active");
        caracal.clear_faults();
        service.close().await.unwrap();
        assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
    }
}

#[tokio::test]
async fn a_refused_token_a_failure_and_a_lost_answer_are_no_errors() {
    let (caracal, client) = sample().await;
    for fault in [
        Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked").times(1),
        Fault::status(StatusCode::INTERNAL_SERVER_ERROR).times(2),
        Fault::drop_connection().times(2),
        Fault::drop_connection().after_effect().times(1),
    ] {
        let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
        caracal.inject(Endpoint::EndSession, fault);
        service.close().await.unwrap();
        assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
        let told = body(&caracal, Endpoint::EndSession);
        assert_eq!(told, json!({ "lease_generation": 1 }), "at every try");
    }
    let tokens: Vec<_> = sent(&caracal, Endpoint::EndSession).iter().map(bearer).collect();
    assert_ne!(tokens[0], tokens[1], "the refused token was replaced");
}

#[tokio::test]
async fn a_close_that_was_cancelled_goes_on_and_can_be_waited_for_again() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    caracal.inject(Endpoint::EndSession, Fault::delay(seconds(5)).times(1));
    tokio::select! {
        biased;
        ended = service.close() => panic!("it waits: {ended:?}"),
        _ = soon(caracal.received(Endpoint::EndSession)) => {}
    }
    caracal.advance(seconds(5));
    soon(service.close()).await.unwrap();
    assert_eq!(sent(&caracal, Endpoint::EndSession).len(), 1);
    assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
}

#[tokio::test]
async fn a_close_that_was_cancelled_and_failed_is_done_again() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let path = format!("/agents/{}", service.agent_session_id());
    let refused = Fault::status(StatusCode::FORBIDDEN).times(1);
    caracal.inject(Endpoint::EndSession, refused);
    tokio::select! {
        biased;
        ended = service.close() => panic!("it waits: {ended:?}"),
        _ = soon(caracal.received(Endpoint::EndSession)) => {}
    }
    assert_eq!(calls.next(&path).await.status, Some(403));
    assert_eq!(status(&caracal, service.agent_session_id()).await, "active");
    service.close().await.unwrap();
    assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
}

#[tokio::test]
async fn one_that_is_dropped_is_ended_in_the_background() {
    let (caracal, client) = sample().await;
    let service =
        client.spawn_service().renewal(Renewal::Every(seconds(10))).start().await.unwrap();
    let id = service.agent_session_id().to_owned();
    let mut calls = Calls::of(&client);
    drop(service);
    assert!(calls.next(&format!("/agents/{id}")).await.ok);
    assert_eq!(body(&caracal, Endpoint::EndSession), json!({ "lease_generation": 1 }));
    assert_eq!(status(&caracal, &id).await, "terminated");
    for _ in 0..5 {
        pass(&caracal, seconds(10)).await;
    }
    client.spawn().start().await.unwrap().end().await.unwrap();
    assert_eq!(sent(&caracal, Endpoint::Heartbeat).len(), 0);
}

#[tokio::test]
async fn one_whose_close_failed_is_ended_when_it_is_dropped() {
    let (caracal, client) = sample().await;
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let id = service.agent_session_id().to_owned();
    caracal.inject(Endpoint::EndSession, Fault::status(StatusCode::FORBIDDEN).times(1));
    service.close().await.unwrap_err();
    let mut calls = Calls::of(&client);
    drop(service);
    assert!(calls.next(&format!("/agents/{id}")).await.ok);
    assert_eq!(status(&caracal, &id).await, "terminated");
}

#[tokio::test]
async fn end_hooks_are_called_once_and_it_is_ended_although_one_fails() {
    let (caracal, client) = sample().await;
    let heard = Heard::default();
    let to = heard.clone();
    let _ = client.on_agent_end(move |context| {
        to.push(context.agent_session_id().map(str::to_owned));
        async { Err::<(), _>(std::io::Error::other("a hook of a test")) }
    });
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let id = service.agent_session_id().to_owned();
    let error = service.close().await.unwrap_err();
    assert_eq!(error.status(), None);
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("a hook of a test"));
    assert_eq!(status(&caracal, &id).await, "terminated");
    service.close().await.unwrap();
    assert_eq!(heard.all(), [Some(id)]);
}

#[tokio::test]
async fn it_is_let_go_without_being_ended_or_renewed() {
    let (caracal, client) = sample().await;
    let service =
        client.spawn_service().renewal(Renewal::Every(seconds(10))).start().await.unwrap();
    let id = service.agent_session_id().to_owned();
    let detached = service.detach();
    assert_eq!((detached.agent_session_id(), detached.lease_generation()), (&*id, 1));
    let written = serde_json::to_string(&detached).unwrap();
    assert_eq!(serde_json::from_str::<caracal_axum::DetachedService>(&written).unwrap(), detached);
    for _ in 0..5 {
        pass(&caracal, seconds(10)).await;
    }
    client.close().await;
    assert_eq!(sent(&caracal, Endpoint::Heartbeat).len(), 0);
    assert_eq!(sent(&caracal, Endpoint::EndSession).len(), 0);
    assert_eq!(status(&caracal, &id).await, "active");

    let restarted = caracal.client("app-1").unwrap();
    let service = restarted.attach(detached.agent_session_id()).start().await.unwrap();
    assert_eq!((service.agent_session_id(), service.lease_generation()), (&*id, 2));
    assert_eq!(last(&caracal, Endpoint::Takeover).decision().unwrap().status, 200);
    service.close().await.unwrap();
    assert_eq!(body(&caracal, Endpoint::EndSession), json!({ "lease_generation": 2 }));
}

#[tokio::test]
async fn after_its_client_was_closed_it_is_still_renewed_and_ended() {
    let (caracal, client) = sample().await;
    let mut calls = Calls::of(&client);
    let service =
        client.spawn_service().renewal(Renewal::Every(seconds(10))).start().await.unwrap();
    client.close().await;
    pass(&caracal, seconds(10)).await;
    assert!(calls.next("/heartbeat").await.ok);
    service.heartbeat(Health::Degraded).await.unwrap();
    service.close().await.unwrap();
    assert_eq!(status(&caracal, service.agent_session_id()).await, "terminated");
    let error = client.spawn_service().start().await.unwrap_err();
    assert_eq!(error.status(), None);
    let attaching = client.attach(service.agent_session_id()).start().await;
    assert_eq!(attaching.unwrap_err().code(), error.code(), "nothing new any more");
}
