//! Agent sessions that are tasks.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    time::Duration,
};

use futures_util::FutureExt as _;
use serde_json::{Map, Value};

use super::{Caracal, CaracalError, Grant, live::Guard, start::Options};
use crate::{Bound, CaracalContext, TraceId};

/// What kind of agent a session is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentKind {
    /// An agent that does a task; its session is one of a limited life.
    #[default]
    Instance,
    /// An agent for a moment: for the Coordinator the same.
    Ephemeral,
    /// An agent that lasts. That is what [`Caracal::spawn_service`] starts; `spawn` refuses it.
    Service,
}

/// The options that sessions of both kinds have.
macro_rules! session_options {
    () => {
        /// What the session is called in policy and audit, at most 32. One of them must be a role
        /// for the session to mint with a delegation.
        pub fn labels<S: Into<String>>(mut self, labels: impl IntoIterator<Item = S>) -> Self {
            self.options.labels = labels.into_iter().map(Into::into).collect();
            self
        }

        /// How much of its parent's authority it gets: [`Grant::inherit`] unless set.
        pub fn grant(mut self, grant: Grant) -> Self {
            self.options.grant = grant;
            self
        }

        /// The context whose session is its parent; the bound one unless set. It must be of this
        /// process or proven, and of the same application.
        pub fn parent(mut self, context: CaracalContext) -> Self {
            self.options.parent = Some(context);
            self
        }

        /// The session that is its parent, by its id. Where one is bound, it must be that.
        pub fn parent_id(mut self, id: impl Into<String>) -> Self {
            self.options.parent_id = Some(id.into());
            self
        }

        /// Without a parent, whatever is bound: of a bound context only trace and baggage go on.
        pub fn root(mut self) -> Self {
            self.options.root = true;
            self
        }

        /// What the session is described by at the Coordinator.
        pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
            self.options.metadata = metadata;
            self
        }

        /// The trace it belongs to: that of its parent unless set, or a new one.
        pub fn trace_id(mut self, id: TraceId) -> Self {
            self.options.trace_id = Some(id);
            self
        }

        /// The authority record it acts under: that of the lifecycle token unless set.
        pub fn authority_record(mut self, id: impl Into<String>) -> Self {
            self.options.record = Some(id.into());
            self
        }

        /// A key that makes the start repeatable: a second one with the same key, of the same
        /// content and under the same authority record, gives the first's session, as long as that
        /// lives. Whoever has it then ends it for all: `run` does so too. A service that was started
        /// before is taken over. A key that is not set is made up, and covers the tries of this
        /// start.
        pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
            self.options.key = Some(key.into());
            self
        }

        /// Which delegation of its parent it inherits, where that holds several.
        pub fn inherit_parent_edge(mut self, id: impl Into<String>) -> Self {
            self.options.inherit_edge = Some(id.into());
            self
        }
    };
}
pub(super) use session_options;

/// An agent session to be started; of [`Caracal::spawn`].
#[must_use = "nothing is started before `run`, `try_run` or `start` is awaited"]
pub struct Spawn {
    client: Caracal,
    options: Options,
    kind: AgentKind,
}

impl Caracal {
    /// An agent session for a task: started, bound while something runs in it, and ended.
    ///
    /// ```no_run
    /// # async fn example(caracal: caracal_axum::Caracal) -> Result<(), caracal_axum::CaracalError> {
    /// let answer = caracal
    ///     .spawn()
    ///     .labels(["triage"])
    ///     .run(async |context| {
    ///         println!("session {:?}", context.agent_session_id());
    ///         42
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn(&self) -> Spawn {
        Spawn { client: self.clone(), options: Options::default(), kind: self.default_kind() }
    }
}

impl Spawn {
    session_options!();

    /// How long the session lives if nobody ends it, in whole seconds from 1 to 86,400. Unless set
    /// it is the client's default, or the Coordinator's (an hour).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = Some(ttl);
        self
    }

    /// What kind of agent it is for.
    pub fn kind(mut self, kind: AgentKind) -> Self {
        self.kind = kind;
        self
    }

    /// Starts the session, runs what `body` makes of its context, and ends the session: when that is
    /// done, when it panicked, and when this is cancelled (then in the background). What comes of
    /// `body` is returned, whatever it is; a `Result` is not looked into. If only the end fails,
    /// that is logged and told ([`ClientEvent`](super::ClientEvent)), and the value returned.
    ///
    /// The session is not ended where a panic aborts the process.
    ///
    /// # Errors
    /// When the session could not be started.
    ///
    /// # Panics
    /// When `body` does.
    pub async fn run<T, F, Fut>(self, body: F) -> Result<T, CaracalError>
    where
        F: FnOnce(CaracalContext) -> Fut,
        Fut: Future<Output = T>,
    {
        let AgentSession { guard, context } = self.start().await?;
        let running = async { body(context.clone()).await };
        let outcome = AssertUnwindSafe(context.clone().scope(running)).catch_unwind().await;
        // What does not succeed has been told.
        let _told = guard.leave().await;
        match outcome {
            Ok(value) => Ok(value),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The same for a body that can fail: its error is returned as it is.
    ///
    /// # Errors
    /// When the session could not be started, or `body` failed.
    ///
    /// # Panics
    /// When `body` does.
    pub async fn try_run<T, E, F, Fut>(self, body: F) -> Result<T, E>
    where
        E: From<CaracalError>,
        F: FnOnce(CaracalContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.run(body).await?
    }

    /// Starts the session, which is ended by [`AgentSession::end`], or in the background when that
    /// is dropped.
    ///
    /// # Errors
    /// When the session could not be started.
    pub async fn start(self) -> Result<AgentSession, CaracalError> {
        if self.kind == AgentKind::Service {
            return Err(CaracalError::usage(
                "service_kind",
                "a service is started with spawn_service(), which keeps its lease",
            ));
        }
        let (guard, context) = self.options.start(&self.client, false).await?;
        Ok(AgentSession { guard, context })
    }
}

/// A session that was started. Dropping it ends the session, in the background.
#[must_use = "dropping it ends the session"]
pub struct AgentSession {
    guard: Guard,
    context: CaracalContext,
}

impl AgentSession {
    /// The context to act in.
    #[must_use]
    pub fn context(&self) -> &CaracalContext {
        &self.context
    }

    /// Its id.
    #[must_use]
    pub fn agent_session_id(&self) -> &str {
        &self.guard.live().id
    }

    /// Runs `future` with its context bound.
    pub fn scope<F: Future>(&self, future: F) -> Bound<F> {
        self.context.clone().scope(future)
    }

    /// Ends the session. It goes on when this is cancelled, and can be repeated until it succeeded;
    /// a session that has ended already is no error.
    ///
    /// # Errors
    /// When the session could not be ended, or it was, and an end hook failed.
    pub async fn end(&self) -> Result<(), CaracalError> {
        self.guard.end().await
    }
}

impl fmt::Debug for Spawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawn").field("labels", &self.options.labels).finish_non_exhaustive()
    }
}

impl fmt::Debug for AgentSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSession").field("context", &self.context).finish_non_exhaustive()
    }
}
