//! The parts of a world, found by their ids and consistent with each other.

use indexmap::IndexMap;
use url::Url;

use super::{
    approvers::ApprovalTier,
    identity::{IdentityProvider, KeySet},
    world::{Application, Confinement, Grant, Resource, WorldError, Zone},
};

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
    pub(super) tiers: Vec<ApprovalTier>,
    providers: Vec<IdentityProvider>,
    /// How often policy has changed: approvals are for the policy that they were asked under.
    pub(super) policy: u64,
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
        for tier in zone.tiers {
            self.add_tier(&id, tier)?;
        }
        for provider in zone.providers {
            self.add_provider(&id, provider)?;
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
        let Resource { id, identifier, scopes, upstream } = &resource;
        check(is_name(id), || format!("`{id}` is no resource id"))?;
        check(is_name(identifier), || format!("`{identifier}` is no resource identifier"))?;
        check(
            scopes.iter().all(|scope| is_name(scope) && !scope.contains(char::is_whitespace)),
            || format!("a scope of `{identifier}` is empty or has blanks"),
        )?;
        upstream.check(&resource)?;
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
        zone.policy += 1;
        Ok(())
    }

    /// A scope has one tier.
    pub(super) fn add_tier(&mut self, zone: &str, tier: ApprovalTier) -> Result<(), WorldError> {
        let zone = self.zone_mut(zone)?;
        let name = &tier.name;
        // Answers join the names of tiers by commas.
        check(is_name(name) && !name.contains(','), || format!("`{name}` is no name of a tier"))?;
        check(zone.tiers.iter().all(|known| known.name != *name), || {
            format!("the tier `{name}` is there already")
        })?;
        for scope in &tier.scopes {
            check(zone.resources.values().any(|resource| resource.declares(scope)), || {
                format!("a tier of `{scope}`, which no resource of the zone declares")
            })?;
            check(zone.tiers_of(&[scope]).is_empty(), || {
                format!("the scope `{scope}` has a tier already")
            })?;
        }
        zone.tiers.push(tier);
        zone.policy += 1;
        Ok(())
    }

    /// Providers are told apart by their issuers.
    pub(super) fn add_provider(
        &mut self,
        zone: &str,
        provider: IdentityProvider,
    ) -> Result<(), WorldError> {
        let zone = self.zone_mut(zone)?;
        let IdentityProvider { issuer, audience, document, url } = &provider;
        check(!issuer.is_empty(), || "an identity provider without an issuer".to_owned())?;
        check(!audience.is_empty(), || format!("the audience for `{issuer}` is empty"))?;
        check(zone.provider(issuer).is_none(), || {
            format!("there is an identity provider `{issuer}` already")
        })?;
        let can_be_asked = url.as_ref().is_none_or(|url| http_url(url).is_some());
        check(can_be_asked, || {
            format!("the keys of `{issuer}` are at no absolute URL with http or https")
        })?;
        let is_read = document.as_ref().is_none_or(|document| KeySet::read(document).is_some());
        check(is_read, || format!("the keys of `{issuer}` are no key document"))?;
        zone.providers.push(provider);
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

    /// Whether the keys of any identity provider are to be asked for.
    pub(super) fn asks_for_keys(&self) -> bool {
        let asks =
            |provider: &IdentityProvider| provider.url.is_some() && provider.document.is_none();
        self.0.values().any(|zone| zone.providers.iter().any(asks))
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

    /// The tiers that scopes fall under, in the order of their names.
    pub(super) fn tiers_of(&self, scopes: &[&str]) -> Vec<&ApprovalTier> {
        let is_touched =
            |tier: &&ApprovalTier| tier.scopes.iter().any(|scope| scopes.contains(&scope.as_str()));
        let mut tiers: Vec<_> = self.tiers.iter().filter(is_touched).collect();
        tiers.sort_by_key(|tier| &tier.name);
        tiers
    }

    /// The identity provider that issues tokens as `issuer`.
    pub(super) fn provider(&self, issuer: &str) -> Option<&IdentityProvider> {
        self.providers.iter().find(|provider| provider.issuer == issuer)
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

/// An absolute URL with http or https.
pub(super) fn http_url(text: &str) -> Option<Url> {
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    Url::parse(text).ok().filter(is_http)
}

pub(super) fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), WorldError> {
    if holds { Ok(()) } else { Err(WorldError::new(otherwise())) }
}
