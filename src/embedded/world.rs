//! Who and what there is: zones, applications, resources, and who may do what. Data only; how it
//! is judged stands in `policy`.

use std::fmt;

use indexmap::IndexMap;

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
    pub(super) approvals_needed: Vec<String>,
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
            approvals_needed: Vec::new(),
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
}

impl Resource {
    /// A resource by its identifier, such as `resource://tickets`.
    #[must_use]
    pub fn new(identifier: impl Into<String>) -> Self {
        Self { id: made_up(), identifier: identifier.into(), scopes: Vec::new() }
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

/// The parts of a world, found by their ids and consistent with each other.
#[derive(Debug, Default)]
pub(super) struct Registry(IndexMap<String, Registered>);

#[derive(Debug, Default)]
pub(super) struct Registered {
    pub(super) applications: IndexMap<String, Application>,
    /// By row id.
    pub(super) resources: IndexMap<String, Resource>,
    pub(super) grants: Vec<Grant>,
    pub(super) confinement: Vec<Confinement>,
    pub(super) restrictions: Vec<String>,
    /// Scopes that a person has to approve.
    pub(super) approvals_needed: Vec<String>,
}

impl Registry {
    /// Adds a zone with all that is in it, or nothing.
    pub(super) fn add_zone(&mut self, zone: Zone) -> Result<(), WorldError> {
        let Zone { id, .. } = &zone;
        // HTTP clients take dots for steps up the path.
        check(is_path_id(id) && !id.chars().all(|c| c == '.'), || {
            format!("`{id}` is no zone id: 1 to 100 of A-Z a-z 0-9 _ . - :")
        })?;
        check(!self.0.contains_key(id), || format!("there is a zone `{id}` already"))?;
        let id = id.clone();
        self.0.insert(id.clone(), Registered::default());
        let filled = self.fill_zone(zone);
        if filled.is_err() {
            self.0.shift_remove(&id);
        }
        filled
    }

    fn fill_zone(&mut self, zone: Zone) -> Result<(), WorldError> {
        let id = zone.id;
        let registered = self.zone_mut(&id)?;
        registered.restrictions = zone.restrictions;
        registered.confinement = zone.confinement;
        for application in zone.applications {
            self.add_application(&id, application)?;
        }
        for resource in zone.resources {
            self.add_resource(&id, resource)?;
        }
        for grant in zone.grants {
            self.add_grant(&id, grant)?;
        }
        for scope in zone.approvals_needed {
            self.need_approval(&id, scope)?;
        }
        Ok(())
    }

    /// Application ids are unique over all zones.
    pub(super) fn add_application(
        &mut self,
        zone: &str,
        application: Application,
    ) -> Result<(), WorldError> {
        let Application { id, client_secret, .. } = &application;
        check(is_name(id), || format!("`{id}` is no application id"))?;
        check(!client_secret.is_empty(), || format!("the secret of `{id}` is empty"))?;
        check(self.application(id).is_none(), || {
            format!("there is an application `{id}` already")
        })?;
        self.zone_mut(zone)?.applications.insert(application.id.clone(), application);
        Ok(())
    }

    /// Row ids are unique over all zones, identifiers in theirs.
    pub(super) fn add_resource(
        &mut self,
        zone: &str,
        resource: Resource,
    ) -> Result<(), WorldError> {
        let Resource { id, identifier, scopes } = &resource;
        check(is_name(id), || format!("`{id}` is no resource id"))?;
        check(is_name(identifier), || format!("`{identifier}` is no resource identifier"))?;
        check(
            scopes.iter().all(|scope| is_name(scope) && !scope.contains(char::is_whitespace)),
            || format!("a scope of `{identifier}` is empty or has blanks"),
        )?;
        let taken = self.0.values().any(|zone| zone.resources.contains_key(id));
        check(!taken, || format!("there is a resource with the id `{id}` already"))?;
        let zone = self.zone_mut(zone)?;
        // A row id serves as a name, and must not be another's.
        for name in [identifier, id] {
            check(zone.resource(name).is_none(), || {
                format!("there is a resource `{name}` already")
            })?;
        }
        zone.resources.insert(resource.id.clone(), resource);
        Ok(())
    }

    /// One application owns a resource: the one of its grants.
    pub(super) fn add_grant(&mut self, zone: &str, grant: Grant) -> Result<(), WorldError> {
        let zone = self.zone_mut(zone)?;
        let Grant { application, resource, role, scopes } = &grant;
        check(zone.applications.contains_key(application), || {
            format!("a grant for `{application}`, which is no application of the zone")
        })?;
        check(is_name(role), || format!("a grant at `{resource}` for a role that is no label"))?;
        let declared = zone
            .resource(resource)
            .filter(|found| found.identifier == *resource)
            .ok_or_else(|| {
                WorldError::new(format!(
                    "a grant at `{resource}`, which is no resource of the zone"
                ))
            })?;
        for scope in scopes {
            check(declared.declares(scope), || {
                format!("a grant of `{scope}`, which `{resource}` does not declare")
            })?;
        }
        if let Some(owner) = zone.owner(resource) {
            check(owner == application, || {
                format!("`{resource}` belongs to `{owner}`: `{application}` cannot be granted it")
            })?;
        }
        zone.grants.push(grant);
        Ok(())
    }

    /// From now on minting `scope` needs a person's approval.
    pub(super) fn need_approval(&mut self, zone: &str, scope: String) -> Result<(), WorldError> {
        self.zone_mut(zone)?.approvals_needed.push(scope);
        Ok(())
    }

    pub(super) fn zone(&self, id: &str) -> Option<&Registered> {
        self.0.get(id)
    }

    pub(super) fn zone_mut(&mut self, id: &str) -> Result<&mut Registered, WorldError> {
        self.0.get_mut(id).ok_or_else(|| WorldError::new(format!("there is no zone `{id}`")))
    }

    pub(super) fn zones(&self) -> impl Iterator<Item = (&String, &Registered)> {
        self.0.iter()
    }

    /// The zone that has a resource of that name, else the first one.
    pub(super) fn zone_of(&self, identifier: &str) -> String {
        let has_it = |(_, zone): &(&String, &Registered)| zone.resource_named(identifier).is_some();
        let zone = self.0.iter().find(has_it).or_else(|| self.0.first());
        zone.map_or_else(String::new, |(id, _)| id.clone())
    }

    /// An application of any zone, with the zone's id.
    pub(super) fn application(&self, id: &str) -> Option<(&str, &Application)> {
        self.0.iter().find_map(|(zone, known)| {
            known.applications.get(id).map(|found| (zone.as_str(), found))
        })
    }
}

impl Registered {
    /// A resource by its row id or its identifier.
    pub(super) fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.get(name).or_else(|| self.resource_named(name))
    }

    pub(super) fn resource_named(&self, identifier: &str) -> Option<&Resource> {
        self.resources.values().find(|resource| resource.identifier == identifier)
    }

    /// The identifiers of the resources that an application owns.
    pub(super) fn owned(&self, application: &str) -> Vec<String> {
        let names = self.resources.values().map(|resource| &resource.identifier);
        names.filter(|name| self.owner(name) == Some(application)).cloned().collect()
    }

    /// The application that owns a resource.
    pub(super) fn owner(&self, identifier: &str) -> Option<&str> {
        self.grants
            .iter()
            .find(|grant| grant.resource == identifier)
            .map(|grant| grant.application.as_str())
    }
}

/// The longest segment of a path that reaches a route of the Coordinator.
pub(super) const MAX_ID_CHARS: usize = 100;

/// What may stand in a path of the Coordinator.
pub(super) fn is_path_id(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-:".contains(&byte))
}

/// The STS trims what it is sent, so that nothing with blanks around it could be named.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && !name.contains(char::is_control)
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), WorldError> {
    if holds { Ok(()) } else { Err(WorldError::new(otherwise())) }
}

fn strings(values: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    values.into_iter().map(Into::into).collect()
}

/// An id or secret that was left out.
pub(super) fn made_up() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
