//! The way out: what this process does as an application of its own.

mod application;
mod approvals;
mod authority;
#[cfg(feature = "blocking")]
mod blocking;
mod builder;
mod calling;
mod claim;
mod config;
mod coordinator;
mod credentials;
mod delegation;
mod edges;
mod error;
mod event;
mod federation;
mod grant;
mod headers;
mod hints;
mod hooks;
mod http;
mod inner;
mod layer;
mod lease;
mod live;
#[cfg(feature = "reqwest-middleware")]
mod middleware;
mod mint;
mod opened;
mod origin;
mod pairs;
mod renewal;
mod revocable;
mod routes;
mod service;
mod spawn;
mod start;
mod sts;
mod tokens;
mod transport;

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

pub use application::ApplicationTransport;
pub use approvals::{ApprovalState, PendingApproval, WaitForApproval};
pub use authority::Authority;
#[cfg(feature = "blocking")]
pub use blocking::{BlockingRequest, BlockingResponse, BlockingTransport};
pub use builder::CaracalBuilder;
pub use config::{ConfigSource, ResourceBinding};
pub use credentials::Credentials;
pub use delegation::{AcceptDelegation, Delegate, Delegation, Revocation, RevokeDelegation};
pub use error::{
    CaracalError, ConfigurationProblems, ControlPlane, CredentialsUnavailable, HookFailed, Refusal,
    Unreachable, UnusableAnswer, Usage,
};
pub use event::ClientEvent;
pub use federation::{FederateSubject, FederatedSubject};
pub use grant::{DelegationConstraints, Grant};
pub use headers::{BindContext, BindFromHeaders, OutboundHeaders};
pub use hooks::Subscription;
pub use layer::{TransportFuture, TransportLayer, TransportService};
pub use lease::SessionState;
pub use mint::{MintMandate, MintedMandate};
pub use renewal::{LeaseLost, Renewal};
pub use revocable::{Revocable, Revoked};
pub use service::{Attach, DetachedService, Health, Heartbeat, ServiceAgent, SpawnService};
pub use spawn::{AgentKind, AgentSession, Spawn};
pub use transport::{GatewayRequest, Transport, TransportRequest};

use self::{
    config::Settings,
    coordinator::Coordinator,
    hooks::{Hooks, Phase},
    opened::Root,
    pairs::Pairs,
    routes::Routes,
    tokens::Tokens,
};
use crate::{CaracalContext, CaracalLayer, Clock, NoVerifier, outgoing::Clients};

/// How long [`Caracal::close`] waits for what is still being ended.
const DRAIN: Duration = Duration::from_secs(10);

/// An application's way out: it starts agent sessions, narrows and delegates their authority, and
/// mints mandates. Cheap to clone; clones are one client.
///
/// ```no_run
/// use std::time::Duration;
///
/// use caracal_axum::{Caracal, CaracalError, Grant};
///
/// # async fn example() -> Result<(), CaracalError> {
/// let caracal = Caracal::new()?;
/// let reader = Grant::narrow(["tickets:read"]).resource("resource://tickets");
/// caracal
///     .spawn()
///     .labels(["triage"])
///     .try_run(async |_parent| {
///         let child = caracal.spawn().labels(["reader"]).grant(reader);
///         child
///             .try_run(async |_child| {
///                 let scopes = ["tickets:read"];
///                 let mandate = caracal.mint_mandate("resource://tickets", scopes).await?;
///                 println!("a mandate for {:?}", mandate.expires_in());
///                 Ok(())
///             })
///             .await
///     })
///     .await?;
/// caracal.close().await;
/// # Ok(())
/// # }
/// ```
///
/// # What goes on without you
///
/// Starts, delegations, takeovers, ends and shared exchanges run in tasks of their own, on the
/// runtime the client was built on, until they are done or given up, also when what waits for them is
/// cancelled. A session whose start nobody waits for any more is ended; a delegation is told by
/// [`ClientEvent::DelegationUnclaimed`], a service that was taken over and a session that cannot be
/// ended by [`ClientEvent::LeftBehind`]: those are left to their ttl, or to be suspended.
///
/// # Who acts
///
/// Everything is done with the application's own token. The bound context, or one that is named,
/// says in which session: that of this process, or one that was *proven* and is of the same
/// application. A context that nobody proved gives its trace and foreign baggage, and nothing else.
#[derive(Clone)]
pub struct Caracal(Arc<Client>);

struct Client {
    settings: Settings,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    tasks: TaskTracker,
    closed: AtomicBool,
    hooks: Arc<Hooks>,
    tokens: Tokens,
    coordinator: Coordinator,
    /// For calls.
    clients: Clients,
    routes: Routes,
    pairs: Pairs,
    /// The sessions that were started as roots and live, by their ids.
    roots: Mutex<HashMap<String, Arc<Root>>>,
    default_kind: AgentKind,
}

impl Caracal {
    /// A client configured by the profile that `CARACAL_CONFIG` names, else by `caracal.toml` in the
    /// default configuration directory if there is one, else by the environment. A log line and
    /// [`config_source`](Self::config_source) say which.
    ///
    /// The directory is `$CARACAL_CONFIG_HOME`, else `$XDG_CONFIG_HOME/caracal`, else `~/.config/caracal`
    /// (on macOS `~/Library/Application Support/Caracal`, on Windows `%APPDATA%\Caracal`).
    ///
    /// # Errors
    /// With everything that is wrong with the configuration, or outside of a Tokio runtime.
    pub fn new() -> Result<Self, CaracalError> {
        CaracalBuilder::detect()?.build()
    }

    /// A client configured by the `CARACAL_*` variables of this process, whatever files there are.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_env() -> Result<Self, CaracalError> {
        CaracalBuilder::from_env()?.build()
    }

    /// A client configured by the `CARACAL_*` variables of any map.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_env_map<K, V>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, CaracalError>
    where
        K: Into<String>,
        V: Into<String>,
    {
        CaracalBuilder::from_env_map(variables).build()
    }

    /// A client configured by a `caracal.toml`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_config(path: impl AsRef<Path>) -> Result<Self, CaracalError> {
        CaracalBuilder::from_config(path)?.build()
    }

    /// Configures a client of this application; the URLs and a resource are still needed.
    pub fn from_client_secret(
        zone: impl Into<String>,
        application: impl Into<String>,
        client_secret: impl Into<String>,
    ) -> CaracalBuilder {
        Self::builder().zone(zone).application(application).client_secret(client_secret)
    }

    /// Configures a client.
    pub fn builder() -> CaracalBuilder {
        CaracalBuilder::default()
    }

    /// The zone; none where a credentials source says it anew.
    #[must_use]
    pub fn zone_id(&self) -> Option<&str> {
        self.fixed_identity().map(|(zone, _)| zone)
    }

    /// The application; none where a credentials source says it anew.
    #[must_use]
    pub fn application_id(&self) -> Option<&str> {
        self.fixed_identity().map(|(_, application)| application)
    }

    /// Where the configuration came from.
    #[must_use]
    pub fn config_source(&self) -> &ConfigSource {
        &self.0.settings.source
    }

    /// Where the Gateway is, if that is configured.
    #[must_use]
    pub fn gateway_url(&self) -> Option<&str> {
        self.0.settings.gateway_url.as_deref()
    }

    /// The resources whose calls are known by their URLs, the longest first.
    #[must_use]
    pub fn resources(&self) -> &[ResourceBinding] {
        &self.0.settings.bindings
    }

    /// The scopes that are configured for a resource; none where nothing is.
    #[must_use]
    pub fn resource_scopes(&self, resource_id: &str) -> &[String] {
        self.0.settings.scopes.get(resource_id).map_or(&[], Vec::as_slice)
    }

    /// A layer that binds the context of requests: as it stands, the one that their headers claim
    /// ([`CaracalLayer::propagate`]), with [`verifier`](CaracalLayer::verifier) the one that their
    /// mandates prove.
    ///
    /// Where `CARACAL_ENV` is `production`, claims are not believed: every request that would be judged
    /// is refused with 500 until the layer is given a verifier, or told by
    /// [`trusted_propagation`](CaracalLayer::trusted_propagation) that something in front of the
    /// service verifies.
    #[must_use]
    pub fn layer(&self) -> CaracalLayer<NoVerifier> {
        let identity = self.fixed_identity();
        CaracalLayer::of_client(identity, self.is_production())
    }

    /// Tells `listener` what this client does, from now on, on whatever thread that is done. One that
    /// panics misses the event, and nothing else happens. It is told what is under way, and must not
    /// wait for that.
    pub fn on_event(
        &self,
        listener: impl Fn(&ClientEvent) + Send + Sync + 'static,
    ) -> Subscription {
        self.0.hooks.listen(Arc::new(listener))
    }

    /// Calls `hook` with the context of each session that was started, before anything else is done
    /// in it. If it fails the session is ended, and its start fails. No time limit is set for it.
    ///
    /// ```no_run
    /// # fn example(caracal: caracal_axum::Caracal) {
    /// caracal.on_agent_start(|context| async move {
    ///     println!("started {:?}", context.agent_session_id());
    ///     Ok::<_, std::io::Error>(())
    /// });
    /// # }
    /// ```
    pub fn on_agent_start<F, Fut, E>(&self, hook: F) -> Subscription
    where
        F: Fn(CaracalContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        self.0.hooks.add(Phase::Start, hook)
    }

    /// Calls `hook` with the context of each session that is about to be ended, whatever came of what
    /// was done in it. If it fails the session is ended all the same. It must not wait for another
    /// `end` or `close` of that session: those wait for it.
    pub fn on_agent_end<F, Fut, E>(&self, hook: F) -> Subscription
    where
        F: Fn(CaracalContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        self.0.hooks.add(Phase::End, hook)
    }

    /// Does nothing new any more, waits for what is still under way, 10 s at most, and forgets its
    /// tokens. Sessions that are open stay open, and can still be ended and renewed. A hook that waits
    /// for this waits those 10 s, for it is under way itself.
    pub async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.pairs.close().await;
        self.0.tasks.close();
        let tasks = self.0.tasks.clone();
        // Whoever calls this may run on another runtime, or on none.
        let drained = self.0.runtime.spawn(async move {
            if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
                tracing::warn!(target: "caracal", "closed while sessions were still being ended");
            }
        });
        let _ = drained.await;
        self.0.tokens.forget();
    }
}

impl fmt::Debug for Caracal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.fixed_identity();
        f.debug_struct("Caracal")
            .field("zone_id", &identity.map(|(zone, _)| zone))
            .field("application_id", &identity.map(|(_, application)| application))
            .field("source", &self.0.settings.source)
            .finish_non_exhaustive()
    }
}
