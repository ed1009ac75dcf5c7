//! What a client makes of refusals (redirects, waits that are asked for, errors), and what it tells.
#![cfg(feature = "embedded")]

mod support;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use caracal_axum::{
    Caracal, CaracalError, ClientEvent, ControlPlane,
    embedded::{
        Endpoint::{self, Delegate, EndSession, StartSession, Token},
        Fault,
    },
};
use http::StatusCode;
use serde_json::json;
use support::{
    agent::TICKETS,
    outbound::{Outbound, in_time, reader},
    serve,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, advance, pause, resume},
};

/// A server that counts who comes.
async fn elsewhere() -> (String, Arc<AtomicUsize>) {
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    let app = Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { axum::Json(json!({ "agent_session_id": "stolen", "access_token": "stolen" })) }
    });
    (serve(app).await, visits)
}

#[tokio::test]
async fn nobody_is_followed_to_another_address() {
    let (url, visits) = elsewhere().await;
    for status in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(status).unwrap();
        for endpoint in [Token, StartSession, Delegate, EndSession] {
            for location in [format!("{url}/steal"), "/elsewhere".to_owned()] {
                let out = Outbound::start().await;
                let parent = out.client.spawn().start().await.unwrap();
                if endpoint == Token {
                    out.caracal.advance(Duration::from_secs(890));
                }
                let before = out.sent(endpoint).len();
                let redirect = Fault::answer(status, "").header("location", &location);
                out.caracal.inject(endpoint, redirect.times(1));
                let spawn = out.client.spawn().parent(parent.context().clone()).grant(reader());
                let error = match spawn.start().await {
                    Ok(child) => {
                        let error = child.end().await.unwrap_err();
                        child.end().await.unwrap();
                        error
                    }
                    Err(error) => error,
                };
                let case = format!("{status} of {endpoint:?}: {error:?}");
                assert_eq!(error.status(), Some(status), "{case}");
                assert!(!error.is_retryable(), "{case}");
                for text in [error.to_string(), case.clone()] {
                    assert!(!text.contains("elsewhere") && !text.contains("steal"), "{text}");
                }
                let tries = if endpoint == EndSession { 2 } else { 1 };
                assert_eq!(out.sent(endpoint).len(), before + tries, "{case}");
                assert_eq!(out.sent(Endpoint::Other).len(), 0, "{case}");
                in_time("the close", out.client.close()).await;
                parent.end().await.unwrap();
                assert_eq!(out.live().await, 0, "{case}");
            }
        }
    }
    assert_eq!(visits.load(Ordering::Relaxed), 0);
}

/// Waits for the first start to be refused, lets most of the time pass that it asks to wait, and
/// measures when the second comes.
async fn waited(retry_after: &str, skip: Duration) -> Duration {
    let out = Outbound::start().await;
    let unavailable = Fault::status(StatusCode::SERVICE_UNAVAILABLE);
    out.caracal.inject(StartSession, unavailable.header("retry-after", retry_after).times(1));
    let client = out.client.clone();
    let task = tokio::spawn(async move { client.spawn().run(async |_| ()).await });
    let refused = |event: &ClientEvent| {
        matches!(event, ClientEvent::CoordinatorCall { status: Some(503), .. })
    };
    out.events.until(refused).await;
    let began = Instant::now();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    pause();
    advance(skip).await;
    resume();
    out.arrived(StartSession, 2).await;
    let waited = began.elapsed();
    in_time("the session", task).await.unwrap().unwrap();
    waited
}

#[tokio::test]
async fn a_wait_that_is_asked_for_is_kept_up_to_ten_seconds() {
    let seconds = Duration::from_secs;
    for (asked, skip, least) in [("2", 1, 2), ("0", 0, 0), ("10", 9, 10), ("3600", 9, 10)] {
        let waited = waited(asked, seconds(skip)).await;
        // Timers are good to a millisecond, and the other side may be slow.
        let least = seconds(least).saturating_sub(Duration::from_millis(5));
        assert!(waited >= least && waited < least + seconds(5), "{asked}: {waited:?}");
    }
}

#[tokio::test]
async fn what_a_refusal_says_is_in_its_error() {
    let requests = [
        r#"{"error":"e_1","error_description":"d","requestId":"r-1"}"#,
        r#"{"error":"e_1","detail":"d","request_id":"r-1"}"#,
        r#"{"error":"e_1","message":"d"}"#,
    ];
    for body in requests {
        for endpoint in [Token, StartSession] {
            let out = Outbound::start().await;
            let fault = Fault::answer(StatusCode::TOO_MANY_REQUESTS, body)
                .header("x-request-id", "r-1")
                .header("retry-after", "7");
            out.caracal.inject(endpoint, fault);
            let error = out.client.spawn().start().await.unwrap_err();
            assert_eq!(error.code(), "e_1");
            assert_eq!(error.status(), Some(StatusCode::TOO_MANY_REQUESTS));
            assert_eq!(error.request_id(), Some("r-1"), "{body}");
            assert!(error.is_retryable());
            let CaracalError::Refused(refusal) = &error else { panic!("{error:?}") };
            assert_eq!(refusal.description(), Some("d"));
            assert_eq!(refusal.retry_after(), Some(Duration::from_secs(7)));
            let service =
                if endpoint == Token { ControlPlane::Sts } else { ControlPlane::Coordinator };
            assert_eq!((refusal.service(), refusal.excerpt()), (service, None));
            let told = error.to_string();
            assert!(["429", "e_1", "d", "r-1"].iter().all(|part| told.contains(part)), "{told}");
        }
    }
}

#[tokio::test]
async fn what_may_work_later_is_told_from_what_will_not() {
    for (status, retryable) in [
        (400, false),
        (401, false),
        (403, false),
        (404, false),
        (408, true),
        (409, false),
        (425, true),
        (429, true),
        (500, true),
        (503, true),
    ] {
        let out = Outbound::start().await;
        out.caracal.inject(Token, Fault::status(StatusCode::from_u16(status).unwrap()));
        let error = out.client.spawn().start().await.unwrap_err();
        assert_eq!(error.is_retryable(), retryable, "{status}");
        assert_eq!(error.code(), "injected_fault");
    }
}

#[tokio::test]
async fn a_body_that_is_no_object_is_shown_in_part() {
    let bodies = [
        r#"["an","array"]"#.to_owned(),
        "\"text\"".to_owned(),
        "null".to_owned(),
        "<html>".to_owned(),
        "x".repeat(100_000),
        "ü".repeat(50_000),
    ];
    for body in bodies {
        for endpoint in [Token, StartSession] {
            let out = Outbound::start().await;
            out.caracal.inject(endpoint, Fault::answer(StatusCode::BAD_REQUEST, body.clone()));
            let error = out.client.spawn().start().await.unwrap_err();
            assert_eq!(error.status(), Some(StatusCode::BAD_REQUEST));
            assert!(!error.is_retryable());
            let CaracalError::Refused(refusal) = &error else { panic!("{error:?}") };
            let excerpt = refusal.excerpt().unwrap();
            assert!(excerpt.starts_with(&body.chars().take(5).collect::<String>()));
            assert!(excerpt.chars().count() <= 2048 + 20, "{}", excerpt.len());
            assert!(error.to_string().len() < 10_000);
        }
    }
}

#[tokio::test]
async fn a_refusal_is_final_however_much_it_says() {
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, Fault::answer(StatusCode::FORBIDDEN, "x".repeat(3_000_000)));
    let error = out.client.spawn().start().await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::FORBIDDEN));
    assert!(!error.is_retryable(), "{error:?}");
    assert_eq!(out.sent(StartSession).len(), 1);
}

/// A Coordinator that refuses, and breaks off in the middle of its explanation.
async fn breaking_off() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 99\r\n\r\n{\"error\":\"";
            stream.write_all(answer).await.unwrap();
        }
    });
    (url, visits)
}

#[tokio::test]
async fn a_refusal_is_final_also_when_the_rest_of_it_is_lost() {
    let (url, visits) = breaking_off().await;
    let out = Outbound::with(caracal_axum::embedded::World::sample(), |builder| {
        builder.coordinator_url(url)
    })
    .await;
    let error = in_time("an error", out.client.spawn().start()).await.unwrap_err();
    assert_eq!(visits.load(Ordering::Relaxed), 1, "{error:?}");
    assert_eq!(error.status(), Some(StatusCode::FORBIDDEN), "{error:?}");
}

/// An error and everything that it comes from, in words.
fn words(error: &CaracalError) -> String {
    let mut words = format!("{error} {error:?}");
    let mut next = error.source();
    while let Some(source) = next {
        words += &format!(" {source} {source:?}");
        next = source.source();
    }
    words
}

#[tokio::test]
async fn who_cannot_be_reached_is_not_named_and_the_cause_is_kept() {
    let gone = "http://127.0.0.1:9/some/path";
    for (sts, coordinator) in [(true, false), (false, true)] {
        let out = Outbound::with(caracal_axum::embedded::World::sample(), |mut builder| {
            if sts {
                builder = builder.sts_url(gone);
            }
            if coordinator {
                builder = builder.coordinator_url(gone);
            }
            builder
        })
        .await;
        let error = in_time("an error", out.client.spawn().start()).await.unwrap_err();
        assert_eq!((error.code(), error.status()), ("unreachable", None));
        assert!(error.is_retryable());
        assert!(error.source().is_some());
        let words = words(&error);
        for part in ["http://", "127.0.0.1", "some/path", "/oauth"] {
            assert!(!words.contains(part), "{words}");
        }
    }
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_told_from_who_is_not_there() {
    let short = Duration::from_millis(100);
    let out = Outbound::with(caracal_axum::embedded::World::sample(), |builder| {
        builder.coordinator_timeout(short)
    })
    .await;
    out.caracal.inject(StartSession, Fault::delay(Duration::from_secs(60)));
    let error = in_time("an error", out.client.spawn().start()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("timeout", true));
    assert_eq!(out.sent(StartSession).len(), 3, "a slow one is tried again");
}

#[tokio::test]
async fn a_secret_that_comes_back_is_not_repeated() {
    let out = Outbound::start().await;
    let echo = json!({ "error": "bad", "error_description": "client_secret=app-1-secret" });
    out.caracal.inject(Token, Fault::answer(StatusCode::BAD_REQUEST, echo.to_string()).times(1));
    out.caracal.inject(Token, Fault::answer(StatusCode::BAD_REQUEST, "app-1-secret").times(1));
    for _ in 0..2 {
        let error = out.client.spawn().start().await.unwrap_err();
        assert!(!words(&error).contains("app-1-secret"), "{}", words(&error));
    }
    for event in out.events.all() {
        assert!(!format!("{event:?}").contains("app-1-secret"), "{event:?}");
    }
}

#[tokio::test]
async fn a_refused_mint_says_what_is_missing_and_keeps_its_code() {
    let out = Outbound::start().await;
    let mint = |client: Caracal| async move {
        client.mint_mandate(TICKETS, ["tickets:read"]).await.map(drop)
    };
    let client = out.client.clone();
    let bare = client.spawn().labels(["reader"]).try_run(async |_| mint(client.clone()).await);
    let error = bare.await.unwrap_err();
    assert_eq!((error.code(), error.status()), ("access_denied", Some(StatusCode::FORBIDDEN)));
    assert!(error.request_id().is_some());
    let told = error.to_string();
    assert!(told.contains("narrow") && told.contains("delegation"), "{told}");
}

#[tokio::test]
async fn what_a_client_does_is_told() {
    let out = Outbound::start().await;
    // Who panics disturbs nobody, and who is told may listen for more.
    let client = out.client.clone();
    out.client.on_event(move |_| {
        client.on_event(|_| ()).remove();
        panic!("a listener")
    });
    let refused = Fault::status(StatusCode::INTERNAL_SERVER_ERROR).after_effect().times(1);
    out.caracal.inject(StartSession, refused);
    out.client.spawn().run(async |_| ()).await.unwrap();
    out.client.spawn().run(async |_| ()).await.unwrap();
    let told: Vec<String> = out
        .events
        .all()
        .iter()
        .map(|event| match event {
            ClientEvent::TokenExchange { ok, cached, status, resources, scopes, .. } => {
                assert_eq!(
                    (&resources[..], &scopes[..]),
                    (&[TICKETS.to_owned()][..], &["agent:lifecycle".to_owned()][..])
                );
                format!("token {ok} {cached} {status:?}")
            }
            ClientEvent::CoordinatorCall { ok, method, path, status, code, replayed, .. } => {
                assert!(path.starts_with("/zones/zone-1/agents"));
                format!("{method} {ok} {status:?} {code:?} {replayed}")
            }
            other => format!("{other:?}"),
        })
        .collect();
    let expected = [
        "Configured { source: Environment }",
        "token true false Some(200)",
        "POST false Some(500) Some(\"injected_fault\") false",
        "POST true Some(201) None true",
        "token true true None",
        "DELETE true Some(204) None false",
        "token true true None",
        "POST true Some(201) None false",
        "token true true None",
        "DELETE true Some(204) None false",
    ];
    assert_eq!(told, expected);
}
