//! Who and what there is: zones, applications, resources, and who may do what. Data only; how it
//! is judged stands in `policy`.

use std::fmt;

use super::{
    approvers::ApprovalTier,
    identity::IdentityProvider,
    registry::check,
    upstream::{Operation, Upstream, UpstreamCredential},
};

/// All that an embedded Caracal is started with. One without zones gets those of
/// [`World::sample`].
#[derive(Debug, Clone, Default)]
pub struct World {
    pub(super) zones: Vec<Zone>,
    pub(super) limits: Limits,
}

impl World {
    /// A world without zones.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Zone `zone-1` with the application `app-1` (secret `app-1-secret`) and its resource
    /// `resource://tickets`, whose scopes are `tickets:read` for sessions labelled `reader` and
    /// also `tickets:write` for those labelled `writer`.
    #[must_use]
    pub fn sample() -> Self {
        let resource = "resource://tickets";
        Self::new().zone(
            Zone::new("zone-1")
                .application(Application::new("app-1").client_secret("app-1-secret"))
                .resource(Resource::new(resource).scopes(["tickets:read", "tickets:write"]))
                .grant(Grant::new("app-1", resource).role("reader").scopes(["tickets:read"]))
                .grant(
                    Grant::new("app-1", resource)
                        .role("writer")
                        .scopes(["tickets:read", "tickets:write"]),
                ),
        )
    }

    /// Adds a zone.
    #[must_use]
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zones.push(zone);
        self
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

/// How much there may be of everything, and how often things happen by themselves. The defaults
/// are those of Caracal v1.0.0.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How long a service session lives without a heartbeat, in seconds: 120.
    pub service_lease_seconds: u64,
    /// How often lapsed services are suspended, in seconds: 30.
    pub service_sweep_seconds: u64,
    /// How often tasks past their ttl are expired, in seconds: 60.
    pub task_sweep_seconds: u64,
    /// Live sessions of one zone: 50.
    pub sessions_per_zone: usize,
    /// Live sessions of one application in its zone: 200.
    pub sessions_per_application: usize,
    /// Requests that one address may send to the Coordinator in a calendar minute: 600.
    pub requests_per_minute: u32,
    /// Mints in a minute for one resource by one application: 1000.
    pub mints_per_minute_per_resource_and_application: u32,
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), WorldError> {
        let Self {
            service_lease_seconds,
            service_sweep_seconds,
            task_sweep_seconds,
            sessions_per_zone,
            sessions_per_application,
            requests_per_minute,
            mints_per_minute_per_resource_and_application,
        } = *self;
        let all_are_positive = service_lease_seconds.min(service_sweep_seconds) > 0
            && task_sweep_seconds > 0
            && sessions_per_zone.min(sessions_per_application) > 0
            && requests_per_minute.min(mints_per_minute_per_resource_and_application) > 0;
        check(all_are_positive, || "a limit or a time between sweeps is 0".to_owned())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            service_lease_seconds: 120,
            service_sweep_seconds: 30,
            task_sweep_seconds: 60,
            sessions_per_zone: 50,
            sessions_per_application: 200,
            requests_per_minute: 600,
            mints_per_minute_per_resource_and_application: 1000,
        }
    }
}

/// A zone: a tenant with keys, applications, resources and a policy of its own.
#[derive(Debug, Clone)]
pub struct Zone {
    pub(super) id: String,
    pub(super) applications: Vec<Application>,
    pub(super) resources: Vec<Resource>,
    pub(super) grants: Vec<Grant>,
    pub(super) confinement: Vec<Confinement>,
    pub(super) restrictions: Vec<String>,
    pub(super) tiers: Vec<ApprovalTier>,
    pub(super) providers: Vec<IdentityProvider>,
}

impl Zone {
    /// A zone without anything in it. The id stands in paths: letters, digits and `_ . - :`, at
    /// most 100.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            applications: Vec::new(),
            resources: Vec::new(),
            grants: Vec::new(),
            confinement: Vec::new(),
            restrictions: Vec::new(),
            tiers: Vec::new(),
            providers: Vec::new(),
        }
    }

    /// Adds an application.
    #[must_use]
    pub fn application(mut self, application: Application) -> Self {
        self.applications.push(application);
        self
    }

    /// Adds a resource.
    #[must_use]
    pub fn resource(mut self, resource: Resource) -> Self {
        self.resources.push(resource);
        self
    }

    /// Adds a grant of an application and a resource that stand in the zone.
    #[must_use]
    pub fn grant(mut self, grant: Grant) -> Self {
        self.grants.push(grant);
        self
    }

    /// Sessions with a label that begins with `label_prefix` may mint these scopes and no others,
    /// whatever their roles grant.
    #[must_use]
    pub fn confine(
        mut self,
        label_prefix: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.confinement
            .push(Confinement { label_prefix: label_prefix.into(), scopes: strings(scopes) });
        self
    }

    /// Scopes that a person has to approve before they are minted.
    #[must_use]
    pub fn approval_tier(mut self, tier: ApprovalTier) -> Self {
        self.tiers.push(tier);
        self
    }

    /// Takes the tokens of an identity provider for its users.
    #[must_use]
    pub fn identity_provider(mut self, provider: IdentityProvider) -> Self {
        self.providers.push(provider);
        self
    }

    /// A reason to deny everything in the zone.
    #[must_use]
    pub fn restrict(mut self, reason: impl Into<String>) -> Self {
        self.restrictions.push(reason.into());
        self
    }
}

/// An application: who asks for tokens and owns resources.
#[derive(Clone)]
pub struct Application {
    pub(super) id: String,
    pub(super) client_secret: String,
    pub(super) dynamic: bool,
    pub(super) archived: bool,
}

impl Application {
    /// An application with a secret made up for it.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), client_secret: made_up(), dynamic: false, archived: false }
    }

    /// Sets the client secret.
    #[must_use]
    pub fn client_secret(mut self, secret: impl Into<String>) -> Self {
        self.client_secret = secret.into();
        self
    }

    /// Registered dynamically: one session at a time, a task without parent and children.
    #[must_use]
    pub fn dynamically_registered(mut self) -> Self {
        self.dynamic = true;
        self
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application")
            .field("id", &self.id)
            .field("dynamic", &self.dynamic)
            .field("archived", &self.archived)
            .finish_non_exhaustive()
    }
}

/// A resource: what mandates are for.
#[derive(Debug, Clone)]
pub struct Resource {
    pub(super) id: String,
    pub(super) identifier: String,
    pub(super) scopes: Vec<String>,
    pub(super) upstream: Upstream,
}

impl Resource {
    /// A resource by its identifier, such as `resource://tickets`.
    #[must_use]
    pub fn new(identifier: impl Into<String>) -> Self {
        Self {
            id: made_up(),
            identifier: identifier.into(),
            scopes: Vec::new(),
            upstream: Upstream::default(),
        }
    }

    /// Sets the row id, which serves in requests as the identifier does. Made up otherwise.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// The scopes that it declares.
    #[must_use]
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.scopes = strings(scopes);
        self
    }

    /// Where it is: the Gateway passes requests for it on to this URL, an absolute one with `http` or
    /// `https`. Its path is put before theirs, and its query is added to theirs. Without it the
    /// Gateway refuses them; tokens are minted all the same, `agent:lifecycle` too, for which the
    /// real STS wants every resource to have one.
    #[must_use]
    pub fn upstream(mut self, url: impl Into<String>) -> Self {
        self.upstream.url = Some(url.into());
        self
    }

    /// What the Gateway shows to the upstream: nothing unless set.
    #[must_use]
    pub fn credential(mut self, credential: UpstreamCredential) -> Self {
        self.upstream.credential = credential;
        self
    }

    /// The upstream gets the resource mandate in `X-Caracal-Identity`, beside its own credential.
    #[must_use]
    pub fn forward_identity(mut self) -> Self {
        self.upstream.forward_identity = true;
        self
    }

    /// Lets the Gateway pass on nothing but [operations](Self::operation).
    #[must_use]
    pub fn enforce_operations(mut self) -> Self {
        self.upstream.operations.get_or_insert_default();
        self
    }

    /// Declares an operation, and lets the Gateway pass on nothing else: requests of this method and
    /// exactly this path, of mandates that carry the scope.
    #[must_use]
    pub fn operation(
        mut self,
        method: impl Into<String>,
        path: impl Into<String>,
        scope: impl Into<String>,
    ) -> Self {
        let (method, path, scope) = (method.into(), path.into(), scope.into());
        let operations = self.upstream.operations.get_or_insert_default();
        operations.push(Operation { method, path, scope });
        self
    }

    pub(super) fn declares(&self, scope: &str) -> bool {
        self.scopes.iter().any(|declared| declared == scope)
    }
}

/// What sessions of an application that carry a role as a label may do at a resource.
#[derive(Debug, Clone)]
pub struct Grant {
    pub(super) application: String,
    pub(super) resource: String,
    pub(super) role: String,
    pub(super) scopes: Vec<String>,
}

impl Grant {
    /// A grant of nothing yet, for the role that bears the application's id.
    #[must_use]
    pub fn new(application: impl Into<String>, resource: impl Into<String>) -> Self {
        let application = application.into();
        let role = application.clone();
        Self { application, resource: resource.into(), role, scopes: Vec::new() }
    }

    /// The label that sessions must carry.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = role.into();
        self
    }

    /// The scopes granted.
    #[must_use]
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.scopes = strings(scopes);
        self
    }
}

#[derive(Debug, Clone)]
pub(super) struct Confinement {
    pub(super) label_prefix: String,
    pub(super) scopes: Vec<String>,
}

/// What is wrong with a world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", .line.map_or(String::new(), |line| format!("line {line}: ")))]
pub struct WorldError {
    pub(super) line: Option<usize>,
    pub(super) what: String,
}

impl WorldError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { line: None, what: what.into() }
    }

    /// The line of the file that it stands in, counted from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

fn strings(values: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    values.into_iter().map(Into::into).collect()
}

/// An id or secret that was left out.
pub(super) fn made_up() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
