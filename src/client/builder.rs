//! Configuring a client.

use std::{
    error::Error,
    fmt,
    future::Future,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use reqwest::{Identity as TlsIdentity, Proxy};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use url::Url;

use super::{
    AgentKind, Caracal, CaracalError, Client, ClientEvent, ControlPlane, Credentials,
    ResourceBinding,
    config::{Configuration, Environment, Identity, Secret},
    coordinator::Coordinator,
    credentials::CredentialsSource,
    hooks::Hooks,
    http::Endpoint,
    pairs::Pairs,
    routes::Routes,
    sts::{Sts, Token},
    tokens::{Authority, Tokens},
};
use crate::{
    BearerToken, Clock, SystemClock,
    outgoing::{Clients, Connecting},
};

/// How long the STS may take for an exchange.
const STS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the Coordinator may take for a request, unless it is set.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept open to a service.
const IDLE: usize = 32;

/// Configures a [`Caracal`]; of [`Caracal::builder`].
///
/// ```no_run
/// # fn example() -> Result<(), caracal_axum::CaracalError> {
/// use caracal_axum::Caracal;
///
/// let caracal = Caracal::builder()
///     .sts_url("https://sts.example.com")
///     .coordinator_url("https://coordinator.example.com")
///     .zone("zone-1")
///     .application("app-1")
///     .client_secret(std::fs::read_to_string("/run/secrets/caracal").unwrap_or_default().trim())
///     .resource("resource://tickets", "https://tickets.internal/v1", ["tickets:read"])
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing comes of it before `build`"]
pub struct CaracalBuilder {
    configuration: Configuration,
    resolver: Option<CredentialsSource>,
    clock: Arc<dyn Clock>,
    hooks: Arc<Hooks>,
    connecting: Connecting,
    coordinator_timeout: Duration,
    kind: AgentKind,
}

impl Default for CaracalBuilder {
    fn default() -> Self {
        let mut configuration = Configuration::default();
        match Environment::process() {
            Ok(environment) => configuration.read_mode(&environment),
            Err(error) => configuration.problem(error.to_string()),
        }
        Self::of(configuration)
    }
}

impl CaracalBuilder {
    fn of(configuration: Configuration) -> Self {
        Self {
            configuration,
            resolver: None,
            clock: Arc::new(SystemClock),
            hooks: Arc::default(),
            connecting: Connecting::default(),
            coordinator_timeout: COORDINATOR_TIMEOUT,
            kind: AgentKind::default(),
        }
    }

    /// What [`Caracal::new`] finds, to be configured further.
    ///
    /// # Errors
    /// When there is a profile that cannot be used.
    pub fn detect() -> Result<Self, CaracalError> {
        Configuration::detect(&Environment::process()?).map(Self::of)
    }

    /// The `CARACAL_*` variables of this process, to be configured further.
    ///
    /// # Errors
    /// When one of them is no text.
    pub fn from_env() -> Result<Self, CaracalError> {
        Ok(Self::of(Configuration::from_environment(&Environment::process()?)))
    }

    /// The `CARACAL_*` variables of any map, to be configured further.
    pub fn from_env_map<K, V>(variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let pairs = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self::of(Configuration::from_environment(&Environment::from_iter(pairs)))
    }

    /// A `caracal.toml`, to be configured further.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn from_config(path: impl AsRef<Path>) -> Result<Self, CaracalError> {
        Configuration::from_profile(path.as_ref(), &Environment::process()?).map(Self::of)
    }

    /// A builder that says that there is no such application.
    #[cfg(feature = "embedded")]
    pub(crate) fn of_nobody(application: &str) -> Self {
        let mut configuration = Configuration::default();
        configuration.problem(format!("there is no application {application} in this world"));
        Self::of(configuration)
    }

    /// Where the Coordinator is.
    pub fn coordinator_url(mut self, url: impl Into<String>) -> Self {
        self.configuration.coordinator_url = Some(url.into());
        self
    }

    /// How long the Coordinator may take for a request: 10 seconds unless set.
    pub fn coordinator_timeout(mut self, timeout: Duration) -> Self {
        self.coordinator_timeout = timeout;
        self
    }

    /// Where the STS is.
    pub fn sts_url(mut self, url: impl Into<String>) -> Self {
        self.configuration.sts_url = Some(url.into());
        self
    }

    /// Where the Gateway is.
    pub fn gateway_url(mut self, url: impl Into<String>) -> Self {
        self.configuration.gateway_url = Some(url.into());
        self
    }

    /// The zone.
    pub fn zone(mut self, id: impl Into<String>) -> Self {
        self.configuration.zone = Some(id.into());
        self
    }

    /// The application.
    pub fn application(mut self, id: impl Into<String>) -> Self {
        self.configuration.application = Some(id.into());
        self
    }

    /// The client secret of the application.
    pub fn client_secret(mut self, secret: impl Into<String>) -> Self {
        self.configuration.secret = Some(Secret::new(secret.into()));
        self
    }

    /// Where zone, application and client secret come from, in place of fixed ones: asked before
    /// every exchange, so that a secret can be rotated while this runs. `None` and an error mean
    /// that nothing is exchanged. With others than before, no token is used any more that was minted
    /// for those.
    pub fn credentials<F, Fut, E>(mut self, resolve: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Credentials>, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        self.resolver = Some(CredentialsSource::resolver(resolve));
        self
    }

    /// A lifecycle token that was minted elsewhere, in place of a secret. When it expires this
    /// client can do nothing any more; it cannot mint at all.
    pub fn subject_token(mut self, token: impl Into<String>) -> Self {
        self.configuration.subject_token = Some(BearerToken::new(token.into()));
        self
    }

    /// A resource that lifecycle tokens are minted for. At least one is needed, here or as
    /// [`resource`](Self::resource).
    pub fn audience(mut self, resource_id: impl Into<String>) -> Self {
        self.configuration.audiences.push(resource_id.into());
        self
    }

    /// A resource, the URL its calls begin with, and the scopes they are made with where nothing
    /// else is said.
    pub fn resource<S: Into<String>>(
        mut self,
        id: impl Into<String>,
        upstream_prefix: impl Into<String>,
        scopes: impl IntoIterator<Item = S>,
    ) -> Self {
        let id = id.into();
        let scopes: Vec<String> = scopes.into_iter().map(Into::into).collect();
        if !scopes.is_empty() {
            self.configuration.scopes.insert(id.clone(), scopes);
        }
        self.configuration.bind(ResourceBinding::new(id, upstream_prefix));
        self
    }

    /// What kind of agent sessions are for, unless it is said.
    pub fn default_kind(mut self, kind: AgentKind) -> Self {
        self.kind = kind;
        self
    }

    /// How long task sessions live, unless it is said: whole seconds, from 1 to 86,400.
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        match super::grant::whole_seconds("default_ttl", ttl) {
            Ok(seconds) => self.configuration.default_ttl = Some(seconds),
            Err(error) => self.configuration.problem(error.to_string()),
        }
        self
    }

    /// The clock to go by: the system's unless set.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Whether the rules of production hold: https beyond loopback, and nothing believed unproven.
    /// Unless set, `CARACAL_ENV=production` decides.
    pub fn production(mut self, production: bool) -> Self {
        self.configuration.production = production;
        self
    }

    /// Who is told what the client does; see [`Caracal::on_event`].
    pub fn on_event(self, listener: impl Fn(&ClientEvent) + Send + Sync + 'static) -> Self {
        drop(self.hooks.listen(Arc::new(listener)));
        self
    }

    /// Trusts more certificate authorities, in PEM.
    pub fn root_certificate(mut self, pem: &[u8]) -> Self {
        if !self.connecting.trust(pem) {
            self.configuration.problem("root_certificate holds no certificate in PEM");
        }
        self
    }

    /// A client certificate and its key, in PEM.
    pub fn identity(mut self, pem: &[u8]) -> Self {
        match TlsIdentity::from_pem(pem) {
            Ok(identity) => self.connecting.identity = Some(identity),
            Err(_) => {
                self.configuration.problem("identity holds no certificate and key in PEM");
            }
        }
        self
    }

    /// A proxy for everything but loopback. Unless set, those of the environment are used, for
    /// `https` alone.
    pub fn proxy(mut self, url: &str) -> Self {
        match Proxy::all(url) {
            Ok(proxy) => self.connecting.proxy = Some(proxy),
            Err(_) => self.configuration.problem("proxy is no URL of a proxy"),
        }
        self
    }

    /// How long connecting may take: 3 seconds unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connecting.connect_timeout = Some(timeout);
        self
    }

    /// The client. It runs on the current Tokio runtime, whoever uses it.
    ///
    /// # Errors
    /// With everything that is wrong with the configuration, or outside of a runtime.
    pub fn build(mut self) -> Result<Caracal, CaracalError> {
        if self.kind == AgentKind::Service {
            let problem = "default_kind cannot be Service: spawn_service() starts those";
            self.configuration.problem(problem);
        }
        if self.coordinator_timeout.is_zero() {
            self.configuration.problem("coordinator_timeout must not be zero");
        }
        let now = self.clock.unix_time().as_secs();
        let settings = self.configuration.check(self.resolver.is_some(), now)?;
        let runtime = Handle::try_current().map_err(|_| {
            CaracalError::usage(
                "no_runtime",
                "a client is built within a Tokio runtime, and runs on it",
            )
        })?;
        let clients = self.connecting.clients(IDLE).map_err(|problem| {
            CaracalError::configuration(vec![format!("connections cannot be set up: {problem}")])
        })?;
        let tasks = TaskTracker::new();
        let source = match (&settings.identity, self.resolver) {
            (_, Some(resolver)) => Some(resolver),
            (Identity::Secret { zone, application, secret }, None) => {
                let secret = secret.clone();
                let (zone, application) = (zone.as_str().into(), application.as_str().into());
                Some(CredentialsSource::Fixed(Credentials { zone, application, secret }))
            }
            _ => None,
        };
        let authority = match (&settings.identity, source, &settings.sts_url) {
            (Identity::Token { zone, application, token }, ..) => {
                Authority::Token(Token::given(token.clone(), zone, application))
            }
            (_, Some(source), Some(url)) => {
                let sts = sts(url, &clients, &self.clock, &self.hooks)?;
                Authority::Credentials { source, sts: Arc::new(sts) }
            }
            // `check` has seen to it.
            _ => return Err(CaracalError::configuration(vec!["sts_url is required".to_owned()])),
        };
        let audiences = settings.audiences.clone();
        let tokens = Tokens::new(authority, audiences, runtime.clone(), tasks.clone());
        let coordinator = Coordinator {
            endpoint: Endpoint {
                service: ControlPlane::Coordinator,
                clients: clients.clone(),
                timeout: self.coordinator_timeout,
            },
            url: settings.coordinator_url.clone(),
            tokens: tokens.clone(),
            clock: Arc::clone(&self.clock),
            hooks: Arc::clone(&self.hooks),
        };
        let routes = Routes::new(settings.gateway_url.as_deref(), &settings.bindings)?;
        let calls = clients;
        let client = Client {
            settings,
            clock: self.clock,
            runtime,
            tasks,
            closed: AtomicBool::new(false),
            hooks: self.hooks,
            tokens,
            coordinator,
            clients: calls,
            routes,
            pairs: Pairs::default(),
            roots: Mutex::default(),
            default_kind: self.kind,
        };
        tracing::info!(
            target: "caracal", source = %client.settings.source, "a Caracal client is configured",
        );
        let source = client.settings.source.clone();
        client.hooks.tell(&ClientEvent::Configured { source });
        Ok(Caracal(Arc::new(client)))
    }
}

fn sts(
    url: &str,
    clients: &Clients,
    clock: &Arc<dyn Clock>,
    hooks: &Arc<Hooks>,
) -> Result<Sts, CaracalError> {
    let no_url = |_| CaracalError::configuration(vec!["sts_url is no URL".to_owned()]);
    let base = Url::parse(&format!("{url}/")).map_err(no_url)?;
    let url = base.join("oauth/2/token").map_err(no_url)?;
    let endpoint =
        Endpoint { service: ControlPlane::Sts, clients: clients.clone(), timeout: STS_TIMEOUT };
    Ok(Sts { endpoint, url, base, clock: Arc::clone(clock), hooks: Arc::clone(hooks) })
}

impl fmt::Debug for CaracalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaracalBuilder")
            .field("source", &self.configuration.source)
            .finish_non_exhaustive()
    }
}
