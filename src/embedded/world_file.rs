//! Worlds as TOML. What stands in a file is typed in `tables` and judged in `checks`; here it becomes
//! a world, and every fault is told by its line.

mod checks;
mod people;
mod tables;

use std::{fs, path::Path};

use toml::Spanned;

use self::tables::{
    ApplicationTable, Count, Credential, Enforcement, GrantTable, LimitsTable, OperationTable,
    Registration, ResourceTable, Secret, WorldTable, ZoneTable,
};
use super::{
    registry::Registry,
    upstream::UpstreamCredential,
    world::{Application, Grant, Limits, Resource, World, WorldError, Zone, made_up},
};

impl World {
    /// Reads a world from TOML.
    ///
    /// ```
    /// # use caracal_axum::embedded::World;
    /// let world = World::from_toml(
    ///     r#"
    ///     [[zones]]
    ///     id = "zone-1"
    ///
    ///     [[zones.applications]]
    ///     id = "planner"
    ///
    ///     [[zones.resources]]
    ///     identifier = "resource://tickets"
    ///     scopes = ["tickets:read"]
    ///
    ///     [[zones.grants]]
    ///     application = "planner"
    ///     resource = "resource://tickets"
    ///     scopes = ["tickets:read"]
    ///     "#,
    /// )?;
    /// # Ok::<(), caracal_axum::embedded::WorldError>(())
    /// ```
    ///
    /// | table | members |
    /// |---|---|
    /// | `[[zones]]` | `id`, `name` (for people only), `restrict`: reasons, any of which denies everything in the zone |
    /// | `[[zones.applications]]` | `id`, `name` (for people only), `client_secret`, `registration`: `managed` (default), or `dcr` if registered dynamically |
    /// | `[[zones.resources]]` | `identifier` (needed), `id`: the row id, `scopes` that it declares (none) |
    /// | — for the Gateway | `upstream_url`, `forward_identity` (`false`), `credential` (`none`), `enforcement`: `transport_uniform` (default; any method and path) or `enforced` (only `operations`), `operations`: tables of `method`, `path`, `scope` |
    /// | `[[zones.grants]]` | `application`, `resource` (its identifier), `scopes` (all needed), `role`: the label that sessions must carry (the application's id) |
    /// | `[[zones.confinement]]` | `label_prefix`, `scopes` (both needed): all that sessions with such a label may mint |
    /// | `[[zones.risk]]` | `scope`, `tier` (both needed): minting the scope needs an approval of that tier |
    /// | `[[zones.approvals]]` | `tier` (needed), `approver`: `operator` (default), `subject` or `any`, `ttl_seconds` (4 hours for operators, otherwise 15 minutes; less than 60 counts as 60), `privacy`: `anonymous` or `pseudonymous` |
    /// | `[[zones.issuers]]` | identity providers: `issuer`, `audience`, `jwks_url` (all needed), `jwks_file`: a file beside the world's, used in place of what the URL answers |
    /// | `[limits]` | `service_lease_seconds`, `sweep_seconds` (services and tasks alike), `sessions_per_zone`, `sessions_per_application`, `requests_per_minute`, `mints_per_minute_per_resource_and_application`; the defaults are those of [`Limits`] |
    ///
    /// Ids and secrets left out are made up. A file without zones means those of
    /// [`World::sample`].
    ///
    /// | `credential` | further members |
    /// |---|---|
    /// | `none`, `caracal_mandate` | none |
    /// | `api_key` | `api_key`, and either `header` (with a `scheme` before the key, if any) or `query_param` |
    /// | `bearer_token` | `bearer_token`; `header` (`Authorization`) and `scheme` (`Bearer`) if others are meant |
    /// | `http_basic` | `username`, `password` |
    ///
    /// The last three take `allowed_hosts`: the credential goes to no other upstream host.
    ///
    /// `privacy` is checked and has no effect.
    ///
    /// # Errors
    ///
    /// If the text is no TOML, has members that are not listed here, or contradicts itself. The
    /// error names the line, and never a secret. A `jwks_file` is found by
    /// [`from_file`](Self::from_file) only.
    pub fn from_toml(text: &str) -> Result<Self, WorldError> {
        from_text(text, None)
    }

    /// Reads a world from a file, and the files that it names from beside it.
    ///
    /// # Errors
    ///
    /// As [`from_toml`](Self::from_toml), and if a file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, WorldError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path)
            .map_err(|error| WorldError::new(format!("it cannot be read: {error}")))?;
        from_text(&text, Some(path.parent().unwrap_or(Path::new(""))))
    }
}

fn from_text(text: &str, folder: Option<&Path>) -> Result<World, WorldError> {
    read(text, folder).map_err(|Fault { at, what }| {
        let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        WorldError { line: Some(line), what }
    })
}

/// What is wrong, and at which byte of the file.
struct Fault {
    at: usize,
    what: String,
}

impl Fault {
    fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }

    /// Gives what the registry finds wrong its place.
    fn at(at: usize) -> impl FnOnce(WorldError) -> Self {
        move |error| Self::new(at, error.what)
    }
}

impl From<toml::de::Error> for Fault {
    /// Takes the bare message: the error as a whole shows the line as it is, secrets included.
    fn from(error: toml::de::Error) -> Self {
        let mut what = error.message().to_owned();
        if what == "invalid type: map, expected a sequence" {
            what = "there can be several of these: the name stands in two pairs of brackets, \
                    as in [[zones]]"
                .to_owned();
        }
        // What is there instead may be a secret in the wrong place.
        let wrong_value = ["invalid type", "invalid value", "unknown variant"]
            .iter()
            .any(|problem| what.starts_with(problem));
        if let (true, Some((_, right))) = (wrong_value, what.rsplit_once(", expected ")) {
            what = format!("expected {right}");
        }
        Self::new(error.span().map_or(0, |span| span.start), what)
    }
}

fn read(text: &str, folder: Option<&Path>) -> Result<World, Fault> {
    let table: WorldTable = toml::from_str(text)?;
    // Only there to find contradictions: it is the one that knows what may be.
    let mut registry = Registry::default();
    let mut world = World::new().limits(limits(&table.limits));
    for zone in table.zones {
        world = world.zone(read_zone(zone, folder, &mut registry)?);
    }
    Ok(world)
}

fn read_zone(
    zone: Spanned<ZoneTable>,
    folder: Option<&Path>,
    registry: &mut Registry,
) -> Result<Zone, Fault> {
    let (at, table) = apart(zone);
    let id = table.id.unwrap_or_else(|| format!("zone-{}", made_up()));
    let mut zone = Zone::new(&id);
    registry.add_zone(zone.clone()).map_err(Fault::at(at))?;
    for application in table.applications {
        let (at, application) = apart(application);
        let application = read_application(application);
        registry.add_application(&id, application.clone()).map_err(Fault::at(at))?;
        zone = zone.application(application);
    }
    for resource in table.resources {
        let (at, resource) = apart(resource);
        resource.check()?;
        let resource = read_resource(resource);
        registry.add_resource(&id, resource.clone()).map_err(Fault::at(at))?;
        zone = zone.resource(resource);
    }
    for grant in table.grants {
        let (at, grant) = apart(grant);
        let grant = read_grant(grant);
        registry.add_grant(&id, grant.clone()).map_err(Fault::at(at))?;
        zone = zone.grant(grant);
    }
    for confinement in table.confinement {
        zone = zone.confine(confinement.label_prefix, confinement.scopes);
    }
    zone.restrictions = table.restrict;
    for (at, tier) in people::tiers(table.approvals, table.risk, &zone)? {
        registry.add_tier(&id, tier.clone()).map_err(Fault::at(at))?;
        zone = zone.approval_tier(tier);
    }
    for issuer in table.issuers {
        let (at, issuer) = apart(issuer);
        let provider = people::provider(issuer, folder)?;
        registry.add_provider(&id, provider.clone()).map_err(Fault::at(at))?;
        zone = zone.identity_provider(provider);
    }
    Ok(zone)
}

fn read_application(table: ApplicationTable) -> Application {
    let mut application = Application::new(table.id.unwrap_or_else(made_up));
    if let Some(secret) = table.client_secret {
        application = application.client_secret(secret.0);
    }
    match table.registration {
        Registration::Managed => application,
        Registration::Dcr => application.dynamically_registered(),
    }
}

fn read_resource(table: ResourceTable) -> Resource {
    let credential = read_credential(&table);
    let mut resource = Resource::new(table.identifier).scopes(table.scopes).credential(credential);
    if let Some(url) = table.upstream_url {
        resource = resource.upstream(url.into_inner());
    }
    if table.forward_identity {
        resource = resource.forward_identity();
    }
    if table.enforcement == Enforcement::Enforced {
        resource = resource.enforce_operations();
    }
    for operation in table.operations {
        let OperationTable { method, path, scope } = operation.into_inner();
        resource = resource.operation(method, path, scope);
    }
    match table.id {
        Some(id) => resource.id(id),
        None => resource,
    }
}

/// What is missing here was found missing before.
fn read_credential(table: &ResourceTable) -> UpstreamCredential {
    let secret = |member: &Option<Spanned<Secret>>| {
        member.as_ref().map_or_else(String::new, |secret| secret.get_ref().0.clone())
    };
    let word = |member: &Option<Spanned<String>>| member.as_ref().map(|it| it.get_ref().clone());
    let kind = table.credential.as_ref().map_or(Credential::None, |kind| *kind.get_ref());
    let mut credential = match (kind, word(&table.query_param)) {
        (Credential::None, _) => UpstreamCredential::none(),
        (Credential::CaracalMandate, _) => UpstreamCredential::caracal_mandate(),
        (Credential::ApiKey, Some(name)) => {
            UpstreamCredential::api_key_in_query(name, secret(&table.api_key))
        }
        (Credential::ApiKey, None) => {
            let header = word(&table.header).unwrap_or_default();
            UpstreamCredential::api_key(header, secret(&table.api_key))
        }
        (Credential::BearerToken, _) => {
            UpstreamCredential::bearer_token(secret(&table.bearer_token))
        }
        (Credential::HttpBasic, _) => {
            let username = word(&table.username).unwrap_or_default();
            UpstreamCredential::http_basic(username, secret(&table.password))
        }
    };
    if let Some(header) = word(&table.header) {
        credential = credential.header(header);
    }
    if let Some(scheme) = word(&table.scheme) {
        credential = credential.scheme(scheme);
    }
    match &table.allowed_hosts {
        Some(hosts) => credential.allowed_hosts(hosts.get_ref()),
        None => credential,
    }
}

fn read_grant(table: GrantTable) -> Grant {
    let grant = Grant::new(table.application, table.resource).scopes(table.scopes);
    match table.role {
        Some(role) => grant.role(role),
        None => grant,
    }
}

fn limits(table: &LimitsTable) -> Limits {
    fn set<T: TryFrom<u32>>(limit: &mut T, count: Option<Count>) {
        if let Some(count) = count.and_then(|Count(count)| T::try_from(count).ok()) {
            *limit = count;
        }
    }
    let mut limits = Limits::default();
    set(&mut limits.service_lease_seconds, table.service_lease_seconds);
    set(&mut limits.service_sweep_seconds, table.sweep_seconds);
    set(&mut limits.task_sweep_seconds, table.sweep_seconds);
    set(&mut limits.sessions_per_zone, table.sessions_per_zone);
    set(&mut limits.sessions_per_application, table.sessions_per_application);
    set(&mut limits.requests_per_minute, table.requests_per_minute);
    set(
        &mut limits.mints_per_minute_per_resource_and_application,
        table.mints_per_minute_per_resource_and_application,
    );
    limits
}

/// A value, and where it begins.
fn apart<T>(spanned: Spanned<T>) -> (usize, T) {
    (spanned.span().start, spanned.into_inner())
}

#[cfg(test)]
mod tests;
