//! Configuration: what a builder, the environment or a profile gave, and what it has to be.

mod bindings;
mod environment;
mod paths;
mod profile;
// Modes of files are part of the recording.
#[cfg(test)]
#[cfg(unix)]
mod recorded;
mod scopes;
mod secret;
mod secret_file;
mod settings;
#[cfg(test)]
mod tests;
mod token;
mod ttl;
mod urls;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

pub use bindings::ResourceBinding;
pub(in crate::client) use environment::Environment;
use paths::Platform;
pub(in crate::client) use secret::Secret;
pub(in crate::client) use settings::{Identity, Settings};

use super::CaracalError;
use crate::BearerToken;

/// Where the configuration of a client comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigSource {
    /// A builder's own calls.
    #[default]
    Builder,
    /// The `CARACAL_*` variables.
    Environment,
    /// This `caracal.toml`.
    Profile(PathBuf),
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builder => f.write_str("builder"),
            Self::Environment => f.write_str("environment"),
            Self::Profile(path) => path.display().fmt(f),
        }
    }
}

/// What was given, nothing checked yet.
///
/// There is no `Debug`: an unchecked URL may hold a password.
#[derive(Clone, Default)]
pub(in crate::client) struct Configuration {
    pub(in crate::client) coordinator_url: Option<String>,
    pub(in crate::client) sts_url: Option<String>,
    pub(in crate::client) gateway_url: Option<String>,
    pub(in crate::client) zone: Option<String>,
    pub(in crate::client) application: Option<String>,
    pub(in crate::client) secret: Option<Secret>,
    pub(in crate::client) subject_token: Option<BearerToken>,
    pub(in crate::client) audiences: Vec<String>,
    pub(in crate::client) bindings: Vec<ResourceBinding>,
    /// The scopes of resources, with or without a binding.
    pub(in crate::client) scopes: BTreeMap<String, Vec<String>>,
    /// Seconds.
    pub(in crate::client) default_ttl: Option<u64>,
    pub(in crate::client) production: bool,
    /// Plain http beyond loopback, in production too.
    pub(in crate::client) allow_insecure: bool,
    pub(in crate::client) source: ConfigSource,
    /// What could not be read. It is kept until [`check`](Self::check), so that nobody has to mend
    /// one thing after the other.
    problems: Vec<String>,
    /// A secret was named, and a problem says why it is not here.
    secret_unusable: bool,
}

/// Whether there is nothing at a path. What cannot be looked at is there.
fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    })
}

impl Configuration {
    /// The profile that `CARACAL_CONFIG` names, else the profile of this machine's user, else the
    /// environment.
    ///
    /// # Errors
    /// When there is a profile that cannot be used. What is wrong inside it, or in the environment,
    /// is told by [`check`](Self::check).
    pub(in crate::client) fn detect(environment: &Environment) -> Result<Self, CaracalError> {
        if let Some(path) = environment.get("CARACAL_CONFIG") {
            return Self::from_profile(Path::new(path), environment);
        }
        match paths::default_profile(Platform::CURRENT, environment) {
            // A link to nothing is a profile that is missing, and not a reason to be someone else.
            Some(path) if !is_missing(&path) => Self::from_profile(&path, environment),
            _ => Ok(Self::from_environment(environment)),
        }
    }

    /// The `CARACAL_*` variables, whatever files there are.
    pub(in crate::client) fn from_environment(environment: &Environment) -> Self {
        let mut found = Self { source: ConfigSource::Environment, ..Self::default() };
        found.zone = environment.owned("CARACAL_ZONE_ID");
        found.application = environment.owned("CARACAL_APPLICATION_ID");
        found.take_secret(
            environment.owned("CARACAL_APP_CLIENT_SECRET"),
            environment.get("CARACAL_APP_CLIENT_SECRET_FILE"),
            "only one of CARACAL_APP_CLIENT_SECRET and CARACAL_APP_CLIENT_SECRET_FILE may be set",
        );
        let token = environment.get("CARACAL_BOOTSTRAP_TOKEN");
        let alias = environment.get("CARACAL_SUBJECT_TOKEN");
        if token.is_some() && alias.is_some() && token != alias {
            found.problems.push(
                "CARACAL_BOOTSTRAP_TOKEN and CARACAL_SUBJECT_TOKEN are two names of one thing, and \
                 differ"
                    .to_owned(),
            );
        }
        found.subject_token = token.or(alias).map(BearerToken::new);
        found.audiences = environment.list("CARACAL_APP_RESOURCES");
        found.complete_from(environment);
        found
    }

    /// A `caracal.toml`, with the variables for what may stand there as well.
    ///
    /// # Errors
    /// When the file cannot be read, may be written by others, or is not TOML.
    pub(in crate::client) fn from_profile(
        path: &Path,
        environment: &Environment,
    ) -> Result<Self, CaracalError> {
        let mut found =
            profile::read(path).map_err(|problem| CaracalError::configuration(vec![problem]))?;
        found.complete_from(environment);
        Ok(found)
    }

    /// Whether the rules of production hold, which is nowhere but in the environment.
    pub(in crate::client) fn read_mode(&mut self, environment: &Environment) {
        self.production = environment.get("CARACAL_ENV") == Some("production");
        self.allow_insecure = environment.get("CARACAL_ALLOW_INSECURE_CONFIG_URLS") == Some("true");
    }

    /// Adds a binding, in place of one of the same resource.
    pub(in crate::client) fn bind(&mut self, binding: ResourceBinding) {
        bindings::merge(&mut self.bindings, vec![binding]);
    }

    /// Notes what is wrong beside what [`check`](Self::check) finds.
    pub(in crate::client) fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// What the environment adds to a profile and to itself. What is already there stays, but for
    /// bindings and scopes of the same resource.
    fn complete_from(&mut self, environment: &Environment) {
        self.read_mode(environment);
        for (url, variable) in [
            (&mut self.coordinator_url, urls::COORDINATOR.variable),
            (&mut self.sts_url, urls::STS.variable),
            (&mut self.gateway_url, urls::GATEWAY.variable),
        ] {
            if url.is_none() {
                *url = environment.owned(variable);
            }
        }
        if self.default_ttl.is_none() {
            match environment.get(ttl::VARIABLE).map(ttl::from_digits).transpose() {
                Ok(seconds) => self.default_ttl = seconds,
                Err(why) => self.problems.push(format!("{} {why}", ttl::VARIABLE)),
            }
        }
        let problems = &mut self.problems;
        if let Some(path) = environment.get(bindings::FILE_VARIABLE) {
            bindings::merge(&mut self.bindings, bindings::from_file(Path::new(path), problems));
        }
        if let Some(list) = environment.get(bindings::VARIABLE) {
            bindings::merge(&mut self.bindings, bindings::from_list(list, problems));
        }
        if let Some(list) = environment.get(scopes::VARIABLE) {
            self.scopes.extend(scopes::from_list(list, problems));
        }
    }

    /// The secret itself or the one in a file, but not both.
    fn take_secret(&mut self, inline: Option<String>, file: Option<&str>, both: &str) {
        let secret = match (inline, file) {
            (Some(_), Some(_)) => Err(both.to_owned()),
            (Some(secret), None) => Ok(Some(Secret::new(secret))),
            (None, Some(path)) => secret_file::read(Path::new(path)).map(Some),
            (None, None) => Ok(None),
        };
        match secret {
            Ok(secret) => self.secret = secret,
            Err(problem) => {
                self.problems.push(problem);
                self.secret_unusable = true;
            }
        }
    }
}
