//! The environment.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
};

use crate::client::CaracalError;

/// Variables and their values. An empty one counts as unset.
///
/// There is no `Debug`: secrets and tokens are among them.
#[derive(Clone, Default)]
pub(in crate::client) struct Environment(HashMap<String, String>);

impl Environment {
    /// The variables of this process.
    ///
    /// # Errors
    /// When a `CARACAL_*` variable is not UTF-8: to overlook it would be to run with a setting
    /// that nobody chose.
    pub(in crate::client) fn process() -> Result<Self, CaracalError> {
        Self::from_os(std::env::vars_os())
    }

    fn from_os(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, CaracalError> {
        let mut problems = Vec::new();
        let mut found = Vec::new();
        for (name, value) in variables {
            // A name that is not UTF-8 is not one that anybody asks for.
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => found.push((name, value)),
                Err(_) if name.starts_with("CARACAL_") => {
                    problems.push(format!("{name} is not UTF-8"));
                }
                Err(_) => {}
            }
        }
        if problems.is_empty() {
            Ok(found.into_iter().collect())
        } else {
            problems.sort();
            Err(CaracalError::configuration(problems))
        }
    }

    /// The value of a variable that is set.
    pub(in crate::client) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// The entries of a list with commas, each once.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let mut seen = HashSet::new();
        self.get(name)
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty() && seen.insert(*entry))
            .map(str::to_owned)
            .collect()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(variables.filter(|(_, value)| !value.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_counts_as_unset() {
        let environment = Environment::from_iter([("A", ""), ("B", " ")]);
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.owned("A"), None);
        assert_eq!(environment.get("B"), Some(" "));
    }

    #[test]
    fn lists() {
        let environment = Environment::from_iter([("L", " a ,, b,a,c d")]);
        assert_eq!(environment.list("L"), ["a", "b", "c d"]);
        assert!(environment.list("none").is_empty());
    }

    #[test]
    fn the_process_has_a_path() {
        assert!(Environment::process().unwrap().get("PATH").is_some());
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text() {
        use std::os::unix::ffi::OsStringExt as _;

        let bytes = || OsString::from_vec(b"s3cr3t\xff".to_vec());
        let name = |name: &str| OsString::from(name);
        let error = Environment::from_os([
            (name("CARACAL_ZONE_ID"), bytes()),
            (name("CARACAL_APP_CLIENT_SECRET"), bytes()),
        ])
        .err()
        .unwrap();
        assert_eq!(
            error.to_string(),
            "Caracal is not configured: CARACAL_APP_CLIENT_SECRET is not UTF-8; CARACAL_ZONE_ID is \
             not UTF-8"
        );
        let environment = Environment::from_os([
            (name("LS_COLORS"), bytes()),
            (bytes(), name("x")),
            (name("CARACAL_ENV"), name("production")),
        ])
        .ok()
        .unwrap();
        assert_eq!(environment.get("LS_COLORS"), None);
        assert_eq!(environment.get("CARACAL_ENV"), Some("production"));
    }
}
