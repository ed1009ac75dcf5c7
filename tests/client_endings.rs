//! How task sessions end: hooks, panics, errors, repeated ends, drops, and a client that is closed.
#![cfg(feature = "embedded")]

mod support;

use std::{
    future::IntoFuture as _,
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use caracal_axum::{
    CaracalContext, CaracalError, ClientEvent,
    embedded::{
        Endpoint::{EndSession, StartSession, Token},
        Fault,
    },
};
use futures_util::FutureExt as _;
use http::StatusCode;
use support::{
    agent::{Agent, TICKETS, clock},
    outbound::{Events, Outbound, in_time},
};

/// What happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn pages(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// A hook that notes its name and the bound session.
    fn hook(
        &self,
        name: &'static str,
        result: Result<(), &'static str>,
    ) -> impl Fn(CaracalContext) -> futures_util::future::BoxFuture<'static, Result<(), io::Error>>
    + Send
    + Sync
    + 'static {
        let diary = self.clone();
        move |context| {
            let diary = diary.clone();
            async move {
                let bound = CaracalContext::current().unwrap();
                assert_eq!(bound.agent_session_id(), context.agent_session_id());
                diary.note(name);
                result.map_err(io::Error::other)
            }
            .boxed()
        }
    }
}

/// An error of somebody's own, which can be told from every other.
#[derive(Debug)]
enum Mine {
    Sentinel(Arc<str>),
    Caracal(CaracalError),
}

impl From<CaracalError> for Mine {
    fn from(error: CaracalError) -> Self {
        Self::Caracal(error)
    }
}

#[tokio::test]
async fn hooks_are_called_in_order_with_the_session_bound_and_alive() {
    let out = Outbound::start().await;
    let diary = Diary::default();
    out.client.on_agent_start(diary.hook("start 1", Ok(())));
    let second = out.client.on_agent_start(diary.hook("start 2", Ok(())));
    out.client.on_agent_start(diary.hook("start 3", Ok(())));
    out.client.on_agent_end(diary.hook("end 1", Ok(())));
    let agent = Agent::new(&out.caracal, "app-1");
    let (token, into) = (agent.lifecycle().await, diary.clone());
    out.client.on_agent_end(move |_| {
        let (agent, token, into) = (agent.clone(), token.clone(), into.clone());
        async move {
            let live = agent.count(&token, "/agents?status=active").await;
            into.note(format!("end 2, {live} alive"));
            Ok::<_, io::Error>(())
        }
    });
    let run = || out.client.spawn().run(async |_| diary.note("body"));
    run().await.unwrap();
    let all = ["start 1", "start 2", "start 3", "body", "end 1", "end 2, 1 alive"];
    assert_eq!(diary.pages(), all);
    second.remove();
    run().await.unwrap();
    assert_eq!(diary.pages(), ["start 1", "start 3", "body", "end 1", "end 2, 1 alive"]);
    let failed: Result<(), Mine> =
        out.client.spawn().try_run(async |_| Err(Mine::Sentinel("mine".into()))).await;
    failed.unwrap_err();
    assert_eq!(diary.pages(), ["start 1", "start 3", "end 1", "end 2, 1 alive"]);
}

#[tokio::test]
async fn a_start_hook_that_fails_ends_the_session_and_its_start() {
    let out = Outbound::start().await;
    let diary = Diary::default();
    out.client.on_agent_start(diary.hook("start 1", Ok(())));
    let failing = out.client.on_agent_start(diary.hook("start 2", Err("no room")));
    out.client.on_agent_start(diary.hook("start 3", Ok(())));
    out.client.on_agent_end(diary.hook("end", Ok(())));
    let error = out.client.spawn().run(async |_| diary.note("body")).await.unwrap_err();
    assert_eq!(diary.pages(), ["start 1", "start 2"]);
    assert_eq!(error.code(), "hook_failed");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.downcast_ref::<io::Error>().unwrap().to_string(), "no room");
    out.events.ended().await;
    assert_eq!(out.events.troubles(), ["hook"]);

    failing.remove();
    out.client.on_agent_start(|_| async { explode() });
    let crashed = AssertUnwindSafe(out.client.spawn().run(async |_| diary.note("body")));
    let crashed = crashed.catch_unwind().await;
    assert!(!matches!(crashed, Ok(Ok(()))), "a hook that panics is no success");
    assert_eq!(diary.pages(), ["start 1", "start 3"]);
    assert_eq!(out.left().await, 0);
}

fn explode() -> Result<(), io::Error> {
    panic!("a hook")
}

#[tokio::test]
async fn an_end_hook_that_fails_keeps_nothing_from_its_end() {
    let out = Outbound::start().await;
    let diary = Diary::default();
    let failing = out.client.on_agent_end(diary.hook("end 1", Err("full disk")));
    out.client.on_agent_end(diary.hook("end 2", Ok(())));
    assert_eq!(out.client.spawn().run(async |_| 7).await.unwrap(), 7);
    assert_eq!(diary.pages(), ["end 1"], "the first failure is the last call");
    assert_eq!(out.events.troubles(), ["hook"]);
    let told = out.events.all().into_iter().find_map(|event| match event {
        ClientEvent::HookFailed { error, .. } => Some(error),
        _ => None,
    });
    assert_eq!(told.unwrap().code(), "hook_failed");

    failing.remove();
    let panicking = out.client.on_agent_end(|_| async { explode() });
    assert_eq!(out.client.spawn().run(async |_| 8).await.unwrap(), 8);
    panicking.remove();

    let session = out.client.spawn().start().await.unwrap();
    out.client.on_agent_end(diary.hook("end 3", Err("full disk")));
    let error = session.end().await.unwrap_err();
    assert_eq!(error.code(), "hook_failed", "who ends it himself is told");
    assert_eq!(out.sent(EndSession).len(), 3);
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_panic_in_the_body_goes_on_after_the_end() {
    let out = Outbound::start().await;
    let diary = Diary::default();
    out.client.on_agent_end(diary.hook("end", Ok(())));
    let task = tokio::spawn({
        let client = out.client.clone();
        async move { client.spawn().run(async |_| explode_with::<()>(41)).await }
    });
    let panic = task.await.unwrap_err().into_panic();
    assert_eq!(*panic.downcast::<u32>().unwrap(), 41, "the very same panic");
    assert_eq!(out.steps(), [Token, StartSession, EndSession], "ended before it went on");
    assert_eq!(diary.pages(), ["end"]);

    // Also before there is a future, and in a body that can fail.
    let client = &out.client;
    let early = client.spawn().run(|_| -> std::future::Ready<()> { explode_with(42) });
    AssertUnwindSafe(early).catch_unwind().await.unwrap_err();
    let fallible = client.spawn().try_run(async |_| explode_with::<Result<(), Mine>>(43));
    AssertUnwindSafe(fallible).catch_unwind().await.unwrap_err();
    assert_eq!(out.sent(EndSession).len(), 3);
    assert_eq!(out.live().await, 0);
}

fn explode_with<T>(number: u32) -> T {
    std::panic::panic_any(number)
}

#[tokio::test]
async fn what_the_body_returns_is_returned_whatever_becomes_of_the_end() {
    let out = Outbound::start().await;
    let diary = Diary::default();
    out.client.on_agent_end(diary.hook("end", Err("full disk")));
    out.caracal.inject(EndSession, Fault::status(StatusCode::FORBIDDEN));
    let sentinel: Arc<str> = "mine".into();
    let body = async |_| Err::<(), _>(Mine::Sentinel(Arc::clone(&sentinel)));
    match out.client.spawn().try_run(body).await {
        Err(Mine::Sentinel(returned)) => assert!(Arc::ptr_eq(&returned, &sentinel)),
        other => panic!("{other:?}"),
    }
    assert_eq!(out.events.troubles(), ["hook", "end", "left"]);
    assert_eq!(out.client.spawn().run(async |_| 7).await.unwrap(), 7);
    let ok = out.client.spawn().try_run(async |_| Ok::<_, Mine>(8)).await;
    assert_eq!(ok.unwrap(), 8);
    assert_eq!(out.events.troubles(), ["hook", "end", "left"].repeat(3));
    let left = out.events.all().into_iter().find_map(|event| match event {
        ClientEvent::LeftBehind { agent_session_id, service, .. } => {
            Some((agent_session_id, service))
        }
        _ => None,
    });
    let (id, service) = left.unwrap();
    assert!(out.sent(EndSession)[0].target().ends_with(&id.unwrap()) && !service);

    out.caracal.inject(StartSession, Fault::status(StatusCode::FORBIDDEN));
    let not_started = out.client.spawn().try_run(async |_| Ok::<_, Mine>(8)).await;
    assert!(matches!(not_started, Err(Mine::Caracal(error)) if error.code() == "injected_fault"));
}

#[tokio::test]
async fn an_end_can_be_repeated_until_it_succeeded() {
    let out = Outbound::start().await;
    let session = out.client.spawn().start().await.unwrap();
    out.caracal.inject(EndSession, Fault::status(StatusCode::FORBIDDEN).times(2));
    for _ in 0..2 {
        let error = session.end().await.unwrap_err();
        assert_eq!((error.code(), error.status()), ("injected_fault", Some(StatusCode::FORBIDDEN)));
    }
    session.end().await.unwrap();
    assert_eq!(out.sent(EndSession).len(), 3);
    session.end().await.unwrap();
    drop(session);
    assert_eq!(out.left().await, 0);
    assert_eq!(out.sent(EndSession).len(), 3, "what is over is not ended again");
}

#[tokio::test]
async fn two_who_end_it_at_once_are_both_answered() {
    let out = Outbound::start().await;
    let session = out.client.spawn().start().await.unwrap();
    let (first, second) = tokio::join!(session.end(), session.end());
    first.unwrap();
    second.unwrap();
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_session_that_ended_elsewhere_is_no_error() {
    let out = Outbound::start().await;
    let session = out.client.spawn().start().await.unwrap();
    out.caracal.terminate("zone-1", session.agent_session_id()).unwrap();
    session.end().await.unwrap();
    assert_eq!(out.sent(EndSession).len(), 1);
    // A child that its parent ended is one of them.
    let parent = out.client.spawn().start().await.unwrap();
    let child = parent.scope(out.client.spawn().start()).await.unwrap();
    parent.end().await.unwrap();
    child.end().await.unwrap();
    assert_eq!(out.events.troubles(), [""; 0]);
}

#[tokio::test]
async fn a_dropped_session_is_ended_in_the_background() {
    let out = Outbound::start().await;
    let diary = Diary::default();
    out.client.on_agent_end(diary.hook("end", Ok(())));
    drop(out.client.spawn().start().await.unwrap());
    out.events.ended().await;
    assert_eq!(diary.pages(), ["end"]);
    let session = out.client.spawn().start().await.unwrap();
    // Where there is no runtime, too.
    std::thread::spawn(move || drop(session)).join().unwrap();
    assert_eq!(out.left().await, 0);
    assert_eq!(out.sent(EndSession).len(), 2);
    assert_eq!(out.events.troubles(), [""; 0]);
}

#[tokio::test]
async fn a_closed_client_begins_nothing_and_ends_everything() {
    let out = Outbound::start().await;
    let client = &out.client;
    let open = client.spawn().start().await.unwrap();
    drop(client.spawn().start().await.unwrap());
    let clone = client.clone();
    in_time("the close", client.close()).await;
    let ended: Vec<_> =
        out.sent(EndSession).into_iter().filter_map(|end| end.decision().cloned()).collect();
    assert_eq!(ended.len(), 1, "it waited for what was being ended");
    assert!(ended[0].is_granted());

    let before = out.steps().len();
    let errors = [
        clone.spawn().start().await.unwrap_err(),
        clone.spawn().run(async |_| ()).await.unwrap_err(),
        clone.spawn_service().start().await.unwrap_err(),
        clone.attach(open.agent_session_id()).start().await.unwrap_err(),
        clone.mint_mandate(TICKETS, ["agent:lifecycle"]).await.unwrap_err(),
        clone.headers().allow_root().await.unwrap_err(),
        open.scope(clone.headers().into_future()).await.unwrap_err(),
        open.scope(clone.delegate("session-7").scopes(["x"]).resource(TICKETS).into_future())
            .await
            .unwrap_err(),
        clone.revoke_delegation("edge-7").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.code(), "client_closed");
    }
    assert_eq!(out.steps().len(), before, "nothing was sent");

    open.end().await.unwrap();
    assert!(out.sent(EndSession)[1].decision().unwrap().is_granted());
    in_time("another close", client.close()).await;
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_body_that_closes_the_client_is_still_ended() {
    let out = Outbound::start().await;
    let started = AtomicUsize::new(0);
    out.client
        .spawn()
        .run(async |_| {
            started.fetch_add(1, Ordering::Relaxed);
            out.client.close().await;
        })
        .await
        .unwrap();
    assert_eq!(started.into_inner(), 1);
    assert_eq!(out.sent(EndSession).len(), 1);
    assert_eq!(out.live().await, 0);
}

#[test]
fn what_cannot_be_ended_because_its_runtime_has_gone_is_told() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (world, own) = (runtime(), runtime());
    let caracal = caracal_axum::embedded::EmbeddedCaracal::builder().clock(clock());
    let caracal = world.block_on(caracal.start()).unwrap();
    let events = Events::default();
    let builder = caracal.client_builder("app-1").on_event(events.listener());
    let (client, dropped, kept) = own.block_on(async {
        let client = builder.build().unwrap();
        let dropped = client.spawn().start().await.unwrap();
        let kept = client.spawn().start().await.unwrap();
        (client, dropped, kept)
    });
    let id = dropped.agent_session_id().to_owned();
    own.shutdown_background();
    drop(dropped);
    world.block_on(in_time(
        "the event",
        events.until(|event| {
            matches!(event, ClientEvent::LeftBehind { agent_session_id, service: false, error, .. }
                if agent_session_id.as_ref() == Some(&id) && error.code() == "runtime_gone")
        }),
    ));
    world.block_on(in_time("an error", kept.end())).unwrap_err();
    world.block_on(in_time("an error", client.spawn().start())).unwrap_err();
}
