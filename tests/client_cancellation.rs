//! Whoever gives up half way leaves nothing behind.
#![cfg(feature = "embedded")]

mod support;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use caracal_axum::{
    AgentSession, ClientEvent,
    embedded::{
        Endpoint::{self, Delegate, EndSession, StartSession, Token},
        Fault, World,
    },
};
use support::outbound::{Outbound, in_time, reader};

/// What `future` comes to, if it does so within so many polls.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            // The last poll is followed by no other.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn a_spawn_that_is_given_up_at_any_await_leaves_no_session() {
    for narrowed in [false, true] {
        let mut done = false;
        for polls in 0.. {
            let out = Outbound::start().await;
            let parent = out.client.spawn().start().await.unwrap();
            let mut spawn = out.client.spawn().labels(["reader"]);
            if narrowed {
                spawn = spawn.parent(parent.context().clone()).grant(reader());
            }
            let finished = polled(polls, spawn.run(async |_| tokio::task::yield_now().await)).await;
            // The parent's end would take a child with it: what was started is ended for itself.
            if polls > 0 {
                out.arrived(EndSession, 1).await;
            }
            let (started, ended) = (out.sent(StartSession).len(), out.sent(EndSession).len());
            assert_eq!(
                started,
                ended + 1,
                "narrowed: {narrowed}, {polls} polls: {:?}",
                out.steps()
            );
            assert_eq!(out.live().await, 1, "narrowed: {narrowed}, {polls} polls");
            parent.end().await.unwrap();
            if finished.is_some() {
                done = true;
                break;
            }
        }
        assert!(done);
    }
}

/// Holds a request of a narrowed spawn, gives the spawn up meanwhile, and lets the request go on.
async fn given_up_at(held: Endpoint, fault: Fault) -> Outbound {
    let out = Outbound::start().await;
    let parent = out.client.spawn().start().await.unwrap();
    if held == Token {
        // The token of before serves no more.
        out.caracal.advance(Duration::from_secs(890));
    }
    let before = out.sent(held).len();
    out.caracal.inject(held, fault.times(1));
    let spawn = out.client.spawn().labels(["reader"]).parent(parent.context().clone());
    let task = tokio::spawn(spawn.grant(reader()).run(async |_| ()));
    out.arrived(held, before + 1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    out.caracal.advance(Duration::from_secs(5));
    if held == Token {
        // Others share an exchange, so that it goes on; but nothing is started with it.
        out.client.close().await;
        assert_eq!(out.sent(StartSession).len(), 1);
    } else {
        out.arrived(EndSession, 1).await;
    }
    let steps = out.steps();
    assert_eq!(out.live().await, 1, "the parent lives, and nobody else: {held:?}: {steps:?}");
    drop(parent);
    out
}

const HELD: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_spawn_that_is_given_up_while_a_request_is_under_way_leaves_no_session() {
    for held in [Token, StartSession, Delegate, EndSession] {
        given_up_at(held, Fault::delay(HELD)).await;
        given_up_at(held, Fault::delay(HELD).after_effect()).await;
    }
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing_when_its_answer_is_lost() {
    let lost = || Fault::drop_connection().after_effect().times(1);
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, lost());
    out.caracal.inject(StartSession, Fault::delay(HELD).times(1));
    let task = tokio::spawn(out.client.spawn().run(async |_| ()));
    out.arrived(StartSession, 2).await;
    task.abort();
    task.await.unwrap_err();
    out.caracal.advance(HELD);
    out.arrived(EndSession, 1).await;
    assert_eq!(out.live().await, 0);
    assert_eq!(out.steps()[..4], [Token, StartSession, StartSession, EndSession]);
    let keys: Vec<_> = out
        .sent(StartSession)
        .iter()
        .map(|start| start.header("idempotency-key").map(str::to_owned))
        .collect();
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn nor_one_that_is_given_up_between_two_tries() {
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, Fault::drop_connection().after_effect().times(1));
    let task = tokio::spawn(out.client.spawn().run(async |_| ()));
    let failed = |event: &ClientEvent| {
        matches!(event, ClientEvent::CoordinatorCall { ok: false, status: None, .. })
    };
    out.events.until(failed).await;
    task.abort();
    task.await.unwrap_err();
    out.arrived(EndSession, 1).await;
    assert_eq!(out.live().await, 0);
    assert_eq!(out.sent(StartSession).len(), 2);
}

#[tokio::test]
async fn a_start_hook_that_nobody_waits_for_any_more_is_followed_by_the_end() {
    let out = Outbound::start().await;
    let (inside, mut entered) = tokio::sync::mpsc::unbounded_channel();
    let (go, gone) = tokio::sync::watch::channel(false);
    out.client.on_agent_start(move |_| {
        let (inside, mut gone) = (inside.clone(), gone.clone());
        async move {
            inside.send(()).unwrap();
            gone.wait_for(|gone| *gone).await.map(drop)
        }
    });
    let task = tokio::spawn(out.client.spawn().run(async |_| ()));
    entered.recv().await.unwrap();
    task.abort();
    task.await.unwrap_err();
    go.send(true).unwrap();
    out.arrived(EndSession, 1).await;
    assert_eq!(out.live().await, 0);
}

#[tokio::test]
async fn an_end_that_is_given_up_goes_on() {
    let out = Outbound::start().await;
    let session = out.client.spawn().start().await.unwrap();
    out.caracal.inject(EndSession, Fault::delay(HELD).times(1));
    let ending = tokio::spawn(async move {
        let result = session.end().await;
        (result, session)
    });
    out.arrived(EndSession, 1).await;
    ending.abort();
    assert!(ending.await.unwrap_err().is_cancelled());
    out.caracal.advance(HELD);
    assert_eq!(out.left().await, 0);
    assert_eq!(out.events.troubles(), [""; 0]);
}

#[tokio::test]
async fn a_body_that_is_given_up_is_ended() {
    let out = Outbound::start().await;
    let (inside, entered) = tokio::sync::oneshot::channel();
    let client = out.client.clone();
    let task = tokio::spawn(async move {
        let body = async |_| {
            inside.send(()).unwrap();
            std::future::pending::<()>().await;
        };
        client.spawn().run(body).await
    });
    entered.await.unwrap();
    task.abort();
    task.await.unwrap_err();
    out.events.ended().await;
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn many_that_are_given_up_at_once_leave_nothing() {
    let out = Outbound::with(World::sample(), |builder| builder).await;
    let spawn = || tokio::spawn(out.client.spawn().start());
    let tasks: Vec<tokio::task::JoinHandle<Result<AgentSession, _>>> =
        (0..20).map(|_| spawn()).collect();
    out.arrived(StartSession, 3).await;
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        drop(task.await);
    }
    out.arrived(EndSession, 20).await;
    assert_eq!(out.live().await, 0);
}

#[tokio::test]
async fn a_close_waits_for_the_end_of_what_nobody_waits_for() {
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, Fault::delay(HELD).times(1));
    let task = tokio::spawn(out.client.spawn().start());
    out.arrived(StartSession, 1).await;
    task.abort();
    task.await.unwrap_err();
    let (closed, ()) = tokio::join!(in_time("the close", out.client.close()), async {
        out.caracal.advance(HELD);
    });
    let () = closed;
    let ends = out.sent(EndSession);
    assert_eq!(ends.len(), 1, "the session was ended before the close returned");
    assert!(ends[0].decision().unwrap().is_granted());
}
