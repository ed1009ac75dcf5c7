//! What the parts of the client have in common.

use std::{
    collections::HashMap,
    future::Future,
    panic::resume_unwind,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use super::{
    AgentKind, Caracal, CaracalError, ClientEvent, config::Identity, coordinator::Coordinator,
    error::Chain, hooks::Phase, opened::Root, origin::Origin, pairs::Pairs, routes::Routes,
    tokens::Tokens,
};
use crate::{CaracalContext, Clock, outgoing::Clients};

impl Caracal {
    pub(super) fn check_open(&self) -> Result<(), CaracalError> {
        if self.0.closed.load(Ordering::Acquire) { Err(CaracalError::closed()) } else { Ok(()) }
    }

    /// Keeps [`close`](Self::close) waiting until something has begun.
    pub(super) fn enter(&self) -> Result<TaskTrackerToken, CaracalError> {
        let begun = self.0.tasks.token();
        self.check_open().map(|()| begun)
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    pub(super) fn coordinator(&self) -> &Coordinator {
        &self.0.coordinator
    }

    pub(super) fn clients(&self) -> &Clients {
        &self.0.clients
    }

    pub(super) fn routes(&self) -> &Routes {
        &self.0.routes
    }

    pub(super) fn pairs(&self) -> &Pairs {
        &self.0.pairs
    }

    pub(super) fn roots(&self) -> MutexGuard<'_, HashMap<String, Arc<Root>>> {
        self.0.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn root(&self, session: &str) -> Option<Arc<Root>> {
        self.roots().get(session).cloned()
    }

    pub(super) fn add_root(&self, session: &str, labels: Vec<String>) {
        self.roots().insert(session.to_owned(), Arc::new(Root::new(labels)));
    }

    pub(super) fn remove_root(&self, session: &str) {
        let root = self.roots().remove(session);
        if let Some(root) = root {
            root.over();
        }
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    pub(super) fn default_kind(&self) -> AgentKind {
        self.0.default_kind
    }

    pub(super) fn default_ttl(&self) -> Option<Duration> {
        self.0.settings.default_ttl.map(Duration::from_secs)
    }

    pub(super) fn is_production(&self) -> bool {
        self.0.settings.production
    }

    /// Zone and application, where they are configured.
    pub(super) fn fixed_identity(&self) -> Option<(&str, &str)> {
        match &self.0.settings.identity {
            Identity::Secret { zone, application, .. }
            | Identity::Token { zone, application, .. } => Some((zone, application)),
            Identity::Dynamic => None,
        }
    }

    /// Zone and application, of the credentials source where that has to be asked.
    pub(super) async fn identity(&self) -> Result<(String, String), CaracalError> {
        if let Some((zone, application)) = self.fixed_identity() {
            return Ok((zone.to_owned(), application.to_owned()));
        }
        let token = self.tokens().lifecycle().await?;
        Ok((token.zone.to_string(), token.application.to_string()))
    }

    /// The same, of a token for one resource, so that none need be configured.
    pub(super) async fn identity_for(
        &self,
        resource: &str,
    ) -> Result<(String, String), CaracalError> {
        if let Some((zone, application)) = self.fixed_identity() {
            return Ok((zone.to_owned(), application.to_owned()));
        }
        let token = self.tokens().lifecycle_for(Some(resource)).await?;
        Ok((token.zone.to_string(), token.application.to_string()))
    }

    /// Refuses what is done in a context of another application.
    pub(super) async fn check_owner(&self, origin: &Origin) -> Result<(), CaracalError> {
        let (zone, application) = self.identity().await?;
        origin.belongs_to(&zone, &application)
    }

    /// The same before any request, where that is possible.
    pub(super) fn check_fixed_owner(&self, origin: &Origin) -> Result<(), CaracalError> {
        match self.fixed_identity() {
            Some((zone, application)) => origin.belongs_to(zone, application),
            None => Ok(()),
        }
    }

    pub(super) fn tell(&self, event: &ClientEvent) {
        self.0.hooks.tell(event);
    }

    /// Calls the hooks of a session, and tells of one that fails.
    pub(super) async fn call_hooks(
        &self,
        phase: Phase,
        context: &CaracalContext,
        session: &str,
    ) -> Result<(), CaracalError> {
        self.0.hooks.call(phase, context).await.inspect_err(|error| {
            let why = Chain(error);
            tracing::warn!(target: "caracal", session, %why, "a hook failed");
            let agent_session_id = session.to_owned();
            self.tell(&ClientEvent::HookFailed { agent_session_id, error: error.clone() });
        })
    }

    /// Runs `work` in a task that [`close`](Self::close) waits for.
    pub(super) fn spawn_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.tasks.spawn_on(work.in_current_span(), &self.0.runtime)
    }

    /// The same, and waits for it. It goes on when nobody waits any more.
    pub(super) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CaracalError>> + Send + 'static,
    ) -> Result<T, CaracalError> {
        let (deliver, delivered) = oneshot::channel();
        let task = self.spawn_task(async move {
            // What nobody waits for ends here, where `close` still waits.
            drop(deliver.send(work.await));
        });
        match delivered.await {
            Ok(result) => result,
            Err(_) => match task.await {
                Err(failed) if failed.is_panic() => resume_unwind(failed.into_panic()),
                _ => Err(runtime_gone()),
            },
        }
    }
}

/// Nothing runs any more.
pub(super) fn runtime_gone() -> CaracalError {
    CaracalError::usage(
        "runtime_gone",
        "the Tokio runtime that the client was built on has ended; build it on one that lasts",
    )
}
