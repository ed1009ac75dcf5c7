//! A session that was started, and its end.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use http::{Method, StatusCode};
use serde_json::{Map, json};
use tokio::{
    sync::{Mutex, OnceCell},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Caracal, CaracalError, ClientEvent,
    coordinator::{Call, segment},
    error::Chain,
    hooks::Phase,
    inner::runtime_gone,
    lease::Lease,
};
use crate::CaracalContext;

/// A session that lives at the Coordinator until it is ended.
pub(super) struct Live {
    pub(super) client: Caracal,
    pub(super) id: String,
    /// Its trace; not always all that its context says.
    trace: CaracalContext,
    /// Its context, from the moment at which the start hooks have completed: then the end hooks are
    /// called with it.
    started: OnceLock<CaracalContext>,
    /// Of a service.
    pub(super) lease: Option<Lease>,
    /// The resource whose lifecycle token it was started with, in place of one for all.
    audience: Option<String>,
    /// What came of the end hooks.
    hooks: OnceCell<Result<(), CaracalError>>,
    /// No renewal of the lease begins any more, and what one finds is nobody's business.
    pub(super) stop: CancellationToken,
    /// Held while the end is asked for, and while the lease is renewed by itself: one after another.
    pub(super) order: Mutex<()>,
    over: AtomicBool,
}

tokio::task_local! {
    /// The session whose end hooks are running.
    static HOOKED: String;
}

impl Live {
    pub(super) fn new(
        client: Caracal,
        id: String,
        trace: CaracalContext,
        lease: Option<Lease>,
    ) -> Self {
        Self {
            client,
            id,
            trace,
            started: OnceLock::new(),
            lease,
            audience: None,
            hooks: OnceCell::new(),
            stop: CancellationToken::new(),
            order: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    pub(super) fn audience(mut self, resource: &str) -> Self {
        self.audience = Some(resource.to_owned());
        self
    }

    /// From now on, end hooks are called with `context`.
    pub(super) fn start(&self, context: &CaracalContext) {
        let _ = self.started.set(context.clone());
    }

    pub(super) fn trace(&self) -> &CaracalContext {
        &self.trace
    }

    /// Calls the end hooks, once, and ends the session, which is tried again until it succeeded.
    pub(super) async fn finish(&self) -> Result<(), CaracalError> {
        if self.is_over() {
            return Ok(());
        }
        let mut first = false;
        let hooks = self.hooks.get_or_init(async || {
            first = true;
            self.call_end_hooks().await
        });
        let hooks = hooks.await.clone();
        // A lease is renewed as long as the hooks take.
        self.stop.cancel();
        // Who comes second finds that it is done, or does it.
        let _first = self.order.lock().await;
        if self.is_over() {
            return Ok(());
        }
        self.request_end().await.inspect_err(|error| {
            let why = Chain(error);
            tracing::warn!(target: "caracal", session = self.id, %why, "a session was not ended");
            self.client.tell(&ClientEvent::EndFailed {
                agent_session_id: self.id.clone(),
                error: error.clone(),
            });
        })?;
        self.set_over();
        if first { hooks } else { Ok(()) }
    }

    async fn call_end_hooks(&self) -> Result<(), CaracalError> {
        let Some(context) = self.started.get() else { return Ok(()) };
        let hooks = self.client.call_hooks(Phase::End, context, &self.id);
        HOOKED.scope(self.id.clone(), hooks).await
    }

    async fn request_end(&self) -> Result<(), CaracalError> {
        let path = format!("/agents/{}", segment(&self.id));
        let mut call =
            Call::new("end a session", Method::DELETE, path).trace(Some(&self.trace)).retries(2);
        call = call.audience(self.audience.as_deref());
        if let Some(lease) = &self.lease {
            let generation = json!(lease.generation());
            call = call.body(Map::from_iter([("lease_generation".to_owned(), generation)]));
        }
        match self.client.coordinator().send(call, |_| Ok(())).await.result {
            Err(error) if is_gone(&error) => Ok(()),
            result => result,
        }
    }

    /// Ends it in a task of its own, for the last time: what does not succeed is told.
    fn leave(self: &Arc<Self>) -> JoinHandle<Result<(), CaracalError>> {
        let mut last = LastTry { live: Arc::clone(self), done: false };
        self.client.spawn_task(async move {
            let result = last.live.finish().await;
            last.done = true;
            match result {
                Ok(()) | Err(CaracalError::Hook(_)) => Ok(()),
                Err(error) => {
                    last.live.left_behind(error.clone());
                    Err(error)
                }
            }
        })
    }

    fn left_behind(&self, error: CaracalError) {
        self.client.left_behind(Some(&self.id), self.lease.is_some(), error);
    }

    /// It has ended, and what was opened below it.
    pub(super) fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.client.remove_root(&self.id);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Caracal {
    /// Tells that nobody will end a session; its id is not always known.
    pub(super) fn left_behind(&self, session: Option<&str>, service: bool, error: CaracalError) {
        let why = Chain(&error);
        tracing::warn!(target: "caracal", session, service, %why, "a session is left behind");
        self.tell(&ClientEvent::LeftBehind {
            agent_session_id: session.map(str::to_owned),
            service,
            error,
        });
    }
}

/// Tells of a session whose end did not even come to an end.
struct LastTry {
    live: Arc<Live>,
    done: bool,
}

impl Drop for LastTry {
    fn drop(&mut self) {
        if !self.done {
            self.live.left_behind(runtime_gone());
        }
    }
}

/// A session that is ended when nobody has it any more.
pub(super) struct Guard {
    live: Arc<Live>,
    armed: bool,
}

impl Guard {
    pub(super) fn new(live: Live) -> Self {
        Self { live: Arc::new(live), armed: true }
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Ends it. The end is not cancelled with this.
    pub(super) async fn end(&self) -> Result<(), CaracalError> {
        // A hook that ends its session is part of that.
        if HOOKED.try_with(|id| *id == self.live.id).unwrap_or(false) {
            return Ok(());
        }
        let live = Arc::clone(&self.live);
        self.live.client.detached(async move { live.finish().await }).await
    }

    /// Ends it, for the last time: what does not succeed is told.
    pub(super) async fn leave(mut self) -> Result<(), CaracalError> {
        self.armed = false;
        // That it crashed or was cancelled has been told by then.
        self.live.leave().await.unwrap_or_else(|_| Err(runtime_gone()))
    }

    /// It has ended with another.
    pub(super) fn disarm(&self) {
        self.live.set_over();
    }

    /// Leaves it as it is.
    pub(super) fn release(mut self) {
        self.armed = false;
        self.live.stop.cancel();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.client.remove_root(&self.id);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed && !self.live.is_over() {
            drop(self.live.leave());
        }
    }
}

/// Whether there is nothing left to be ended, or it is somebody else's.
pub(super) fn is_gone(error: &CaracalError) -> bool {
    let gone = matches!(
        error.code(),
        "already_terminated"
            | "session_not_live"
            | "session_not_found_or_not_active"
            | "session_lease_fenced"
            | "session_subject_inactive"
    );
    error.is_status(StatusCode::NOT_FOUND) || error.is_status(StatusCode::CONFLICT) && gone
}
