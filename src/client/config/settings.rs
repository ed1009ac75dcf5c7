//! What a client runs with, once everything about it is known to be right.

use std::{collections::BTreeMap, mem, sync::Once};

use super::{
    ConfigSource, Configuration, ResourceBinding, Secret, bindings, scopes, token, ttl,
    urls::{self, PlainHttp, ServiceUrl},
};
use crate::{BearerToken, client::CaracalError};

/// A configuration that is complete, consistent and safe.
#[derive(Debug, Clone)]
pub(in crate::client) struct Settings {
    /// No slash is at the end of it and the others.
    pub(in crate::client) coordinator_url: String,
    /// None with a token that was given: nothing is exchanged then.
    pub(in crate::client) sts_url: Option<String>,
    pub(in crate::client) gateway_url: Option<String>,
    pub(in crate::client) identity: Identity,
    /// What was named, then the resources of the bindings; each once.
    pub(in crate::client) audiences: Vec<String>,
    /// The longest prefix first.
    pub(in crate::client) bindings: Vec<ResourceBinding>,
    pub(in crate::client) scopes: BTreeMap<String, Vec<String>>,
    /// Seconds.
    pub(in crate::client) default_ttl: Option<u64>,
    pub(in crate::client) production: bool,
    pub(in crate::client) source: ConfigSource,
}

/// Who the client is.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::client) enum Identity {
    /// An application that mints with its secret.
    Secret { zone: String, application: String, secret: Secret },
    /// The holder of a token, who cannot mint.
    Token { zone: String, application: String, token: BearerToken },
    /// Whoever the credentials source says at each exchange.
    Dynamic,
}

impl Configuration {
    /// The settings. With `dynamic`, zone, application and secret come from a credentials source;
    /// `now` is in Unix seconds.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub(in crate::client) fn check(
        self,
        dynamic: bool,
        now: u64,
    ) -> Result<Settings, CaracalError> {
        static SAID: Once = Once::new();
        self.check_and_warn(dynamic, now, &SAID)
    }

    /// The same; `said` is whether the warning about plain http was given.
    pub(super) fn check_and_warn(
        mut self,
        dynamic: bool,
        now: u64,
        said: &Once,
    ) -> Result<Settings, CaracalError> {
        let mut problems = mem::take(&mut self.problems);
        let with_token = self.subject_token.is_some() && self.secret.is_none() && !dynamic;
        let identity = self.identity(dynamic, now, &mut problems);

        let mut tolerated = false;
        let mut url = |service: &ServiceUrl, given: Option<String>| {
            let (url, plain) = self.url(service, given).unwrap_or_else(|problem| {
                problems.push(problem);
                Default::default()
            });
            tolerated |= plain;
            url
        };
        let given = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
        let by_builder = self.source == ConfigSource::Builder;
        let coordinator_url = url(&urls::COORDINATOR, given(&self.coordinator_url));
        let sts_url = match given(&self.sts_url) {
            Some(_) if with_token => None,
            None if with_token && by_builder => None,
            // The three variables go together in production, whatever is done with them.
            None if with_token => url(&urls::STS, None).and(None),
            given => url(&urls::STS, given),
        };
        let gateway_url = match given(&self.gateway_url) {
            None if by_builder => None,
            given => url(&urls::GATEWAY, given),
        };

        self.check_resources(&mut problems);
        if let Some(Err(why)) = self.default_ttl.map(ttl::check) {
            let name = self.name("default_ttl", "default_ttl_seconds", ttl::VARIABLE);
            problems.push(format!("{name} {why}"));
        }

        bindings::longest_first(&mut self.bindings);
        let mut audiences: Vec<String> = Vec::new();
        let bound = self.bindings.iter().map(ResourceBinding::resource_id);
        for id in self.audiences.iter().map(String::as_str).chain(bound) {
            if !audiences.iter().any(|known| known == id) {
                audiences.push(id.to_owned());
            }
        }

        match (identity, coordinator_url) {
            (Some(identity), Some(coordinator_url)) if problems.is_empty() => {
                if tolerated {
                    urls::warn_of_plain_http(said);
                }
                Ok(Settings {
                    coordinator_url,
                    sts_url,
                    gateway_url,
                    identity,
                    audiences,
                    bindings: self.bindings,
                    scopes: self.scopes,
                    default_ttl: self.default_ttl,
                    production: self.production,
                    source: self.source,
                })
            }
            _ => Err(CaracalError::configuration(problems)),
        }
    }

    /// How a setting is called where this configuration comes from.
    fn name(&self, builder: &str, key: &str, variable: &str) -> String {
        match &self.source {
            ConfigSource::Builder => builder.to_owned(),
            ConfigSource::Environment => variable.to_owned(),
            ConfigSource::Profile(path) => format!("{key} in {}", path.display()),
        }
    }

    fn identity(
        &mut self,
        dynamic: bool,
        now: u64,
        problems: &mut Vec<String>,
    ) -> Option<Identity> {
        let not_blank = |text: &String| !text.trim().is_empty();
        let zone = self.zone.take().filter(not_blank);
        let application = self.application.take().filter(not_blank);
        let secret = self.secret.take().filter(|secret| !secret.expose().trim().is_empty());
        let token = self.subject_token.take().filter(|token| !token.expose().is_empty());
        let zone_name = self.name("zone", "zone_id", "CARACAL_ZONE_ID");
        let application_name = self.name("application", "application_id", "CARACAL_APPLICATION_ID");
        let secret_name = self.name(
            "client_secret",
            "app_client_secret or app_client_secret_file",
            "CARACAL_APP_CLIENT_SECRET or CARACAL_APP_CLIENT_SECRET_FILE",
        );
        let token_name = match self.source {
            ConfigSource::Environment => "CARACAL_BOOTSTRAP_TOKEN",
            _ => "subject_token",
        };
        if dynamic {
            let given = [
                (zone.is_some(), zone_name),
                (application.is_some(), application_name),
                (secret.is_some() || self.secret_unusable, secret_name),
                (token.is_some(), token_name.to_owned()),
            ];
            let given = given.into_iter().filter(|(given, _)| *given);
            let before = problems.len();
            problems
                .extend(given.map(|(_, name)| {
                    format!("{name} must not be set beside a credentials source")
                }));
            return (problems.len() == before).then_some(Identity::Dynamic);
        }
        for (missing, name) in
            [(zone.is_none(), zone_name), (application.is_none(), application_name)]
        {
            if missing {
                problems.push(format!("{name} is required"));
            }
        }
        if let Some(why) = token.as_ref().and_then(|token| token::problem(token.expose(), now)) {
            problems.push(format!("{token_name} {why}"));
        }
        match (secret, token) {
            (Some(_), Some(_)) => {
                problems.push(format!("only one of {secret_name}, and {token_name}, may be set"));
                None
            }
            (Some(secret), None) => {
                Some(Identity::Secret { zone: zone?, application: application?, secret })
            }
            (None, Some(token)) => {
                if self.secret_unusable {
                    problems
                        .push(format!("only one of {secret_name}, and {token_name}, may be set"));
                }
                Some(Identity::Token { zone: zone?, application: application?, token })
            }
            (None, None) => {
                if !self.secret_unusable {
                    let or_token = match self.source {
                        ConfigSource::Profile(_) => String::new(),
                        _ => format!(", or {token_name},"),
                    };
                    problems.push(format!("{secret_name}{or_token} is required"));
                }
                None
            }
        }
    }

    /// The URL of a service, and whether it was only tolerated.
    fn url(
        &self,
        service: &ServiceUrl,
        given: Option<String>,
    ) -> Result<(Option<String>, bool), String> {
        let &ServiceUrl { key, variable, default } = service;
        let mut name = self.name(key, key, variable);
        if let ConfigSource::Profile(_) = self.source {
            name = format!("{name}, or {variable},");
        }
        let plain_http = match (self.production, self.allow_insecure) {
            (false, _) => PlainHttp::Free,
            (true, false) => PlainHttp::Refused,
            (true, true) => PlainHttp::Tolerated,
        };
        match given {
            Some(given) => urls::service(&given, plain_http)
                .map(|(url, tolerated)| (Some(url), tolerated))
                .map_err(|why| format!("{name} {why}")),
            None if self.source == ConfigSource::Builder => Err(format!("{name} is required")),
            None if self.production => {
                Err(format!("{name} is required when CARACAL_ENV=production"))
            }
            None => Ok((Some(default.to_owned()), false)),
        }
    }

    /// What a builder gave. What was read was judged where its place was known, and left out when
    /// it was wrong.
    fn check_resources(&mut self, problems: &mut Vec<String>) {
        if self.audiences.iter().any(|id| id.trim().is_empty()) {
            problems.push("a resource has an empty identifier".to_owned());
        }
        for binding in &self.bindings {
            if let Some(why) = binding.problem() {
                problems.push(format!("the binding of {:?}: {why}", binding.resource_id()));
            }
        }
        let given = mem::take(&mut self.bindings);
        bindings::merge(&mut self.bindings, given);
        for (id, given) in &mut self.scopes {
            match scopes::check(given.iter().map(String::as_str)) {
                Ok(scopes) => *given = scopes,
                Err(why) => problems.push(format!("the scopes of {id:?}: {why}")),
            }
        }
    }
}
