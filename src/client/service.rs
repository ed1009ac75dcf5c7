//! Agent sessions that last: services, which hold a lease.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Caracal, CaracalError, Grant, SessionState,
    claim::{Claim, nobody_waits},
    coordinator::{Call, segment},
    http::Answer,
    lease::{Lease, Told},
    live::{Guard, Live},
    origin::{Origin, check_id},
    renewal::{self, LeaseLost, Renewal, Watcher},
    spawn::session_options,
    start::Options,
};
use crate::{
    Bound, CaracalContext, TraceId,
    context::{Attribution, Own, own},
};

/// How a service says it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Not ready yet.
    Starting,
    /// All is well.
    #[default]
    Healthy,
    /// It works, but not as it should.
    Degraded,
    /// It does not work.
    Unhealthy,
}

impl Health {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A service session to be started; of [`Caracal::spawn_service`].
#[must_use = "nothing is started before `start` is awaited"]
pub struct SpawnService {
    client: Caracal,
    options: Options,
    watcher: Watcher,
}

/// A service session to be taken over; of [`Caracal::attach`].
#[must_use = "nothing is taken over before `start` is awaited"]
pub struct Attach {
    client: Caracal,
    id: String,
    watcher: Watcher,
}

/// How the lease is kept, and who is told of it.
macro_rules! lease_options {
    () => {
        /// When the lease is renewed: [`Renewal::Auto`] unless set.
        pub fn renewal(mut self, renewal: Renewal) -> Self {
            self.watcher.renewal = renewal;
            self
        }

        /// Who is told when the renewal finds that the lease is somebody else's, or the session has
        /// ended. The renewal ends then.
        pub fn on_lease_lost(
            mut self,
            callback: impl Fn(&LeaseLost) + Send + Sync + 'static,
        ) -> Self {
            self.watcher.lost = Some(Arc::new(callback));
            self
        }

        /// Who is told when a heartbeat finds the session in another state than before. The renewal
        /// ends when it is no longer active.
        pub fn on_state(
            mut self,
            callback: impl Fn(&SessionState) + Send + Sync + 'static,
        ) -> Self {
            self.watcher.state = Some(Arc::new(callback));
            self
        }
    };
}

impl Caracal {
    /// An agent session that lasts as long as its lease is renewed, which a task of its own does.
    ///
    /// ```no_run
    /// # async fn work() {}
    /// # async fn example(caracal: caracal_axum::Caracal) -> Result<(), caracal_axum::CaracalError> {
    /// let worker = caracal.spawn_service().labels(["billing-worker"]).start().await?;
    /// worker.scope(work()).await;
    /// worker.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn_service(&self) -> SpawnService {
        let watcher = Watcher::default();
        SpawnService { client: self.clone(), options: Options::default(), watcher }
    }

    /// Takes a running service over, for example after a restart: whoever held its lease before can
    /// neither renew nor end it any more. The new holder knows the session and nothing that was
    /// delegated to it; see [`accept_delegation`](Caracal::accept_delegation).
    pub fn attach(&self, agent_session_id: impl Into<String>) -> Attach {
        let id = agent_session_id.into();
        Attach { client: self.clone(), id, watcher: Watcher::default() }
    }
}

impl SpawnService {
    session_options!();
    lease_options!();

    /// Starts the session.
    ///
    /// # Errors
    /// When it could not be started.
    pub async fn start(self) -> Result<ServiceAgent, CaracalError> {
        self.watcher.check()?;
        let (guard, context) = self.options.start(&self.client, true).await?;
        Ok(ServiceAgent::new(guard, context, self.watcher))
    }
}

impl Attach {
    lease_options!();

    /// Takes the session over. That goes on when this is cancelled; the session is then held by
    /// nobody, until somebody takes it over or its lease runs out, which
    /// [`ClientEvent::LeftBehind`](super::ClientEvent) tells.
    ///
    /// # Errors
    /// When it could not be taken over: it has ended, is suspended, is no service or another
    /// application's.
    pub async fn start(self) -> Result<ServiceAgent, CaracalError> {
        let Self { client, id, watcher } = self;
        let _begun = client.enter()?;
        watcher.check()?;
        check_id("agent_session_id", &id)?;
        // It does not belong to what is bound now.
        let carry = Origin::default().carry(Some(TraceId::random()));
        let token = client.tokens().lifecycle().await?;
        client.check_open()?;
        let runtime = client.clone();
        let taking = async move {
            let attribution = Attribution {
                zone: Box::from(&*token.zone),
                application: Box::from(&*token.application),
                agent_session_id: Some(Box::from(&*id)),
                ..Attribution::default()
            };
            let context = own(Own { attribution, edge: None }, carry);
            let path = format!("/agents/{}/lease", segment(&id));
            // The newest generation is the one that counts: a try too many does no harm.
            let call = Call::new("take a service over", Method::POST, path)
                .retries(2)
                .trace(Some(&context));
            let told = client.coordinator().send_with(token, call, read_lease).await.result?;
            let (holder, session) = (client.clone(), id.clone());
            let lost = move || holder.left_behind(Some(&session), true, nobody_waits());
            Ok(Claim::new((client, id, context, told), lost))
        };
        let (client, id, context, told) = runtime.detached(taking).await?.take();
        let live = Live::new(client, id, context.clone(), Some(Lease::new(&told)));
        // Start hooks are for what starts; this goes on.
        live.start(&context);
        Ok(ServiceAgent::new(Guard::new(live), context, watcher))
    }
}

pub(super) fn read_lease(answer: &Answer) -> Result<Told, &'static str> {
    let told: Told = serde_json::from_slice(&answer.body).map_err(|_| "its body is no lease")?;
    if told.lease_generation >= 1 { Ok(told) } else { Err("it gives no lease") }
}

/// What a heartbeat was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heartbeat {
    /// How the session is.
    pub state: SessionState,
    /// Until when the lease lasts, by the clock of the Coordinator.
    pub deadline: Option<SystemTime>,
}

/// A service session, and its lease. Dropping it ends the session, in the background.
#[must_use = "dropping it ends the session"]
pub struct ServiceAgent {
    guard: Guard,
    context: CaracalContext,
    watcher: Arc<Watcher>,
}

/// What is needed to take a service over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedService {
    agent_session_id: String,
    lease_generation: u64,
}

impl DetachedService {
    /// The session, for [`Caracal::attach`].
    #[must_use]
    pub fn agent_session_id(&self) -> &str {
        &self.agent_session_id
    }

    /// The generation of its lease; the next holder has a higher one.
    #[must_use]
    pub fn lease_generation(&self) -> u64 {
        self.lease_generation
    }
}

impl ServiceAgent {
    fn new(guard: Guard, context: CaracalContext, watcher: Watcher) -> Self {
        let watcher = Arc::new(watcher);
        renewal::start(Arc::clone(guard.live()), Arc::clone(&watcher));
        Self { guard, context, watcher }
    }

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

    fn lease(&self) -> Option<&Lease> {
        self.guard.live().lease.as_ref()
    }

    /// The generation of the lease that is held. It rises with every takeover.
    #[must_use]
    pub fn lease_generation(&self) -> u64 {
        self.lease().map_or(0, Lease::generation)
    }

    /// Until when the lease lasts, by the clock of the Coordinator, as it was last told.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        self.lease().and_then(Lease::deadline).and_then(|at| UNIX_EPOCH.checked_add(at))
    }

    /// How the session is, as it was last told.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.lease().map_or(SessionState::Active, Lease::state)
    }

    /// Runs `future` with its context bound.
    pub fn scope<F: Future>(&self, future: F) -> Bound<F> {
        self.context.clone().scope(future)
    }

    /// Renews the lease, and says how the service is. Needed only with [`Renewal::Manual`], or to
    /// say anything but healthy.
    ///
    /// # Errors
    /// When the lease could not be renewed: `session_lease_fenced` says that somebody else has it.
    pub async fn heartbeat(&self, health: Health) -> Result<Heartbeat, CaracalError> {
        let live = Arc::clone(self.guard.live());
        let watcher = Arc::clone(&self.watcher);
        let beat = async move { live.beat(health, &watcher).await };
        self.guard.live().client.detached(beat).await
    }

    /// Ends the renewal, once the end hooks have been called, and the session. It goes on when this is cancelled, and can be repeated
    /// until it succeeded; a session that has ended, or that somebody else has taken over, is no
    /// error.
    ///
    /// # Errors
    /// When the session could not be ended, or it was, and an end hook failed.
    pub async fn close(&self) -> Result<(), CaracalError> {
        self.guard.end().await
    }

    /// Lets go of the session without ending it, for whoever takes it over. Its lease runs out after
    /// about two minutes; then it is suspended.
    #[must_use = "without its id nobody takes the session over"]
    pub fn detach(self) -> DetachedService {
        let detached = DetachedService {
            agent_session_id: self.agent_session_id().to_owned(),
            lease_generation: self.lease_generation(),
        };
        self.guard.release();
        detached
    }
}

#[derive(Deserialize)]
struct Beaten {
    agent: Told,
}

impl Live {
    /// Renews the lease, unless the session has ended meanwhile.
    pub(super) async fn beat(
        &self,
        health: Health,
        watcher: &Watcher,
    ) -> Result<Heartbeat, CaracalError> {
        let Some(lease) = self.lease.as_ref().filter(|_| !self.is_over()) else {
            return Err(CaracalError::usage("session_ended", "the session was ended"));
        };
        let body = Map::from_iter([
            ("status".to_owned(), Value::from(health.as_str())),
            ("lease_generation".to_owned(), json!(lease.generation())),
        ]);
        let path = format!("/agents/{}/heartbeat", segment(&self.id));
        let call =
            Call::new("renew a lease", Method::POST, path).body(body).trace(Some(self.trace()));
        let read = |answer: &Answer| {
            let beaten = serde_json::from_slice(&answer.body);
            beaten.map(|Beaten { agent }| agent).map_err(|_| "its body is no heartbeat")
        };
        let told = self.client.coordinator().send(call, read).await.result?;
        let changed = lease.renew(&told);
        let state = lease.state();
        if changed {
            watcher.tell_state(&state);
        }
        let deadline = lease.deadline().and_then(|at| UNIX_EPOCH.checked_add(at));
        Ok(Heartbeat { state, deadline })
    }

    /// What is left of the lease, by the clock of this process.
    pub(super) fn lease_left(&self) -> Option<Duration> {
        let deadline = self.lease.as_ref()?.deadline()?;
        Some(deadline.saturating_sub(self.client.clock().unix_time()))
    }
}

impl fmt::Debug for SpawnService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnService").field("labels", &self.options.labels).finish_non_exhaustive()
    }
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attach").field("agent_session_id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServiceAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAgent")
            .field("context", &self.context)
            .field("lease_generation", &self.lease_generation())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
