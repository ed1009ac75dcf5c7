//! What the Gateway needs to know of a resource: where it is, what is shown to it, and what may be
//! asked of it. Data only; the Gateway judges by it in `gateway`.

use std::fmt;

use http::{HeaderName, HeaderValue, Method};

use super::{
    registry::{check, http_url},
    world::{Resource, WorldError},
};

/// The part of a resource that concerns the Gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct Upstream {
    pub(super) url: Option<String>,
    pub(super) credential: UpstreamCredential,
    /// Whether the upstream gets the resource mandate in `X-Caracal-Identity`.
    pub(super) forward_identity: bool,
    /// All that may be asked, where not everything may.
    pub(super) operations: Option<Vec<Operation>>,
}

/// A method and a literal path, and the scope that it takes.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) scope: String,
}

/// What the Gateway shows to the upstream of a resource in place of the caller's mandate.
/// `Debug` shows no secrets.
///
/// ```
/// use caracal_axum::embedded::{Resource, UpstreamCredential};
///
/// let search = Resource::new("resource://search")
///     .scopes(["search:query"])
///     .upstream("https://search.example.com/v1")
///     .credential(UpstreamCredential::api_key("X-Api-Key", "k-123"));
/// # let _ = search;
/// ```
#[derive(Clone, Default)]
pub struct UpstreamCredential {
    pub(super) kind: Kind,
    pub(super) allowed_hosts: Option<Vec<String>>,
}

#[derive(Clone, Default)]
pub(super) enum Kind {
    #[default]
    None,
    CaracalMandate,
    /// A header of this name: the scheme, if there is one, and the secret.
    Header {
        name: String,
        scheme: Option<String>,
        secret: String,
    },
    Query {
        name: String,
        secret: String,
    },
    Basic {
        username: String,
        password: String,
    },
}

impl UpstreamCredential {
    const fn new(kind: Kind) -> Self {
        Self { kind, allowed_hosts: None }
    }

    /// Nothing. It is what a resource has unless something else is said.
    #[must_use]
    pub const fn none() -> Self {
        Self::new(Kind::None)
    }

    /// A mandate made for the resource, in `Authorization`: what a service with a
    /// [`CaracalLayer`](crate::CaracalLayer) wants.
    #[must_use]
    pub const fn caracal_mandate() -> Self {
        Self::new(Kind::CaracalMandate)
    }

    /// A key in a header.
    #[must_use]
    pub fn api_key(header: impl Into<String>, key: impl Into<String>) -> Self {
        Self::new(Kind::Header { name: header.into(), scheme: None, secret: key.into() })
    }

    /// A key in the query.
    #[must_use]
    pub fn api_key_in_query(name: impl Into<String>, key: impl Into<String>) -> Self {
        Self::new(Kind::Query { name: name.into(), secret: key.into() })
    }

    /// `Authorization: Bearer` with a token.
    #[must_use]
    pub fn bearer_token(token: impl Into<String>) -> Self {
        let (name, scheme) = ("Authorization".to_owned(), Some("Bearer".to_owned()));
        Self::new(Kind::Header { name, scheme, secret: token.into() })
    }

    /// HTTP Basic authentication.
    #[must_use]
    pub fn http_basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::new(Kind::Basic { username: username.into(), password: password.into() })
    }

    /// Puts an API key or a bearer token into another header; nothing with the other kinds.
    #[must_use]
    pub fn header(mut self, header: impl Into<String>) -> Self {
        if let Kind::Header { name, .. } = &mut self.kind {
            *name = header.into();
        }
        self
    }

    /// Puts a word before an API key or a bearer token; nothing with the other kinds.
    #[must_use]
    pub fn scheme(mut self, word: impl Into<String>) -> Self {
        if let Kind::Header { scheme, .. } = &mut self.kind {
            *scheme = Some(word.into());
        }
        self
    }

    /// It goes to upstreams of these hosts and no others.
    #[must_use]
    pub fn allowed_hosts(mut self, hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.allowed_hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// Everything has to fit where it will be put.
    fn fits(&self) -> bool {
        match &self.kind {
            Kind::None | Kind::CaracalMandate => true,
            Kind::Header { name, scheme, secret } => {
                is_header_name(name)
                    && scheme.as_deref().is_none_or(is_scheme)
                    && is_header_value(secret)
            }
            Kind::Query { name, secret } => !name.is_empty() && !secret.is_empty(),
            Kind::Basic { username, .. } => is_user_name(username),
        }
    }
}

impl fmt::Debug for UpstreamCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::None => "none",
            Kind::CaracalMandate => "caracal_mandate",
            Kind::Header { .. } => "header",
            Kind::Query { .. } => "query",
            Kind::Basic { .. } => "http_basic",
        };
        f.debug_struct("UpstreamCredential")
            .field("kind", &kind)
            .field("allowed_hosts", &self.allowed_hosts)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Whether the Gateway can work with it. No error shows a URL, which may hold a password.
    pub(super) fn check(&self, of: &Resource) -> Result<(), WorldError> {
        let resource = &of.identifier;
        check(self.url.as_deref().is_none_or(|url| http_url(url).is_some()), || {
            format!("the upstream of `{resource}` is no absolute URL with http or https")
        })?;
        check(self.credential.fits(), || {
            format!("the credential of `{resource}` is empty, or does not fit where it is put")
        })?;
        for Operation { method, path, scope } in self.operations.iter().flatten() {
            check(Method::from_bytes(method.as_bytes()).is_ok() && path.starts_with('/'), || {
                format!("`{method} {path}` of `{resource}` is no operation")
            })?;
            check(of.declares(scope), || {
                format!("an operation of `{scope}`, which `{resource}` does not declare")
            })?;
        }
        Ok(())
    }
}

pub(super) fn is_header_name(name: &str) -> bool {
    HeaderName::try_from(name).is_ok()
}

/// The grammar of a scheme is that of a method: a token (RFC 9110, section 11.1).
pub(super) fn is_scheme(word: &str) -> bool {
    Method::from_bytes(word.as_bytes()).is_ok()
}

/// Something that a header can hold.
pub(super) fn is_header_value(text: &str) -> bool {
    !text.is_empty() && HeaderValue::try_from(text).is_ok()
}

/// The first colon ends the name (RFC 7617, section 2).
pub(super) fn is_user_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_shows_no_secret() {
        for credential in [
            UpstreamCredential::api_key("X-Api-Key", "hush"),
            UpstreamCredential::api_key_in_query("key", "hush"),
            UpstreamCredential::bearer_token("hush").header("X-Auth").scheme("Token"),
            UpstreamCredential::http_basic("user", "hush").allowed_hosts(["a.example"]),
        ] {
            assert!(credential.fits());
            assert!(!format!("{credential:?}").contains("hush"));
        }
    }

    #[test]
    fn what_the_gateway_could_not_use_is_refused() {
        let resource = || Resource::new("resource://a").scopes(["a:use"]);
        for (wrong, what) in [
            (resource().upstream("/relative"), "absolute URL"),
            (resource().upstream("ftp://example.com"), "absolute URL"),
            (resource().credential(UpstreamCredential::api_key("no name", "k")), "credential"),
            (resource().credential(UpstreamCredential::bearer_token("a\nb")), "credential"),
            (resource().credential(UpstreamCredential::http_basic("a:b", "c")), "credential"),
            (resource().credential(UpstreamCredential::api_key_in_query("", "c")), "credential"),
            (resource().operation("GET", "relative", "a:use"), "no operation"),
            (resource().operation("GET", "/", "b:use"), "does not declare"),
        ] {
            let error = wrong.upstream.check(&wrong).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let fine =
            resource().upstream("http://127.0.0.1:1/base?a=b").operation("GET", "/", "a:use");
        assert_eq!(fine.upstream.check(&fine), Ok(()));
    }
}
