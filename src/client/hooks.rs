//! Who listens to a client, and who is called when its sessions start and end.

use std::{
    error::Error,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt as _;

use super::{
    CaracalError, ClientEvent,
    error::{HookFailed, Source},
};
use crate::CaracalContext;

type Listener = Arc<dyn Fn(&ClientEvent) + Send + Sync>;
type Called = Pin<Box<dyn Future<Output = Result<(), Source>> + Send>>;
type Hook = Arc<dyn Fn(CaracalContext) -> Called + Send + Sync>;

/// When a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Start,
    End,
}

/// Everybody who is called. No lock is held while anybody is.
#[derive(Default)]
pub(super) struct Hooks {
    listeners: Callbacks<Listener>,
    starts: Callbacks<Hook>,
    ends: Callbacks<Hook>,
}

impl Hooks {
    pub(super) fn listen(&self, listener: Listener) -> Subscription {
        self.listeners.add(listener)
    }

    pub(super) fn add<F, Fut, E>(&self, phase: Phase, hook: F) -> Subscription
    where
        F: Fn(CaracalContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let hook: Hook = Arc::new(move |context| {
            let called = hook(context);
            Box::pin(called.map(|result| result.map_err(|error| Source::from(error.into()))))
        });
        self.of(phase).add(hook)
    }

    fn of(&self, phase: Phase) -> &Callbacks<Hook> {
        match phase {
            Phase::Start => &self.starts,
            Phase::End => &self.ends,
        }
    }

    /// Tells everybody. Who panics misses something, and nobody else does.
    pub(super) fn tell(&self, event: &ClientEvent) {
        for listener in self.listeners.all() {
            let told = catch_unwind(AssertUnwindSafe(|| listener(event)));
            if told.is_err() {
                tracing::error!(target: "caracal", "an on_event callback panicked");
            }
        }
    }

    /// Calls the hooks one after another, in the order in which they were added, with the context
    /// bound. The first that fails is the last that is called.
    pub(super) async fn call(
        &self,
        phase: Phase,
        context: &CaracalContext,
    ) -> Result<(), CaracalError> {
        for hook in self.of(phase).all() {
            let called = async { hook(context.clone()).await };
            let called = AssertUnwindSafe(context.clone().scope(called)).catch_unwind().await;
            let result = called.unwrap_or_else(|_| Err(Source::from(Box::from("it panicked"))));
            result.map_err(|source| {
                let phase = if phase == Phase::Start { "start" } else { "end" };
                CaracalError::Hook(HookFailed { phase, source })
            })?;
        }
        Ok(())
    }
}

/// Callbacks of one kind, in the order in which they were added.
struct Callbacks<C>(Arc<Mutex<Vec<(u64, C)>>>);

impl<C> Default for Callbacks<C> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<C: Clone + Send + 'static> Callbacks<C> {
    fn add(&self, callback: C) -> Subscription {
        let mut all = lock(&self.0);
        let id = all.last().map_or(0, |(id, _)| id + 1);
        all.push((id, callback));
        let callbacks = Arc::downgrade(&self.0);
        Subscription(Box::new(move || {
            let Some(callbacks) = callbacks.upgrade() else { return };
            let mut all = lock(&callbacks);
            let at = all.iter().position(|(known, _)| *known == id);
            let removed = at.map(|at| all.remove(at));
            drop(all);
            // What it owns may do anything when it goes.
            drop(removed);
        }))
    }

    fn all(&self) -> Vec<C> {
        lock(&self.0).iter().map(|(_, callback)| callback.clone()).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A callback that was added. It stays when this is dropped; [`remove`](Self::remove) takes it
/// back.
pub struct Subscription(Box<dyn FnOnce() + Send + Sync>);

impl Subscription {
    /// Takes the callback back.
    pub fn remove(self) {
        (self.0)();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription(..)")
    }
}
