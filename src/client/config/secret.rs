//! A secret in memory.

use std::fmt;

/// A client secret. `Debug` does not print it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::client) struct Secret(Box<str>);

impl Secret {
    pub(in crate::client) fn new(secret: impl Into<Box<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the form that is sent to the STS and nothing else.
    pub(in crate::client) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_printed() {
        let secret = Secret::new("s3cr3t");
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(..) Secret(..)");
        assert_eq!(secret.expose(), "s3cr3t");
        assert_ne!(secret, Secret::new("other"));
    }
}
