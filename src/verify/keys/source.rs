//! Where key documents come from.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::StatusCode;
use url::form_urlencoded;

use super::MAX_DOCUMENT_BYTES;

/// Which key document is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    issuer: Box<str>,
    zone: Box<str>,
    url: Box<str>,
}

impl KeyRequest {
    /// The keys of `zone` at `issuer`.
    #[must_use]
    pub fn new(issuer: &str, zone: &str) -> Self {
        let encoded: String = form_urlencoded::byte_serialize(zone.as_bytes()).collect();
        let base = issuer.trim_end_matches('/');
        Self {
            issuer: issuer.into(),
            zone: zone.into(),
            url: format!("{base}/.well-known/jwks.json?zone_id={encoded}").into(),
        }
    }

    /// The issuer, as configured.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// `{issuer without trailing slashes}/.well-known/jwks.json?zone_id={zone, form-encoded}`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many bytes of a document are worth reading: one more than this refuses it.
    #[must_use]
    pub const fn max_bytes(&self) -> usize {
        MAX_DOCUMENT_BYTES
    }
}

/// What a key endpoint answered.
#[derive(Debug, Clone)]
pub struct KeyDocument {
    /// The status; only 200 counts.
    pub status: StatusCode,
    /// The body, at most a little over [`KeyRequest::max_bytes`] of it.
    pub body: Bytes,
}

/// Why keys could not be had. Holds no URL and nothing the endpoint sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The endpoint could not be reached, or broke off.
    #[error("the key endpoint cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("the key endpoint did not answer in time")]
    Timeout,
    /// Another status than 200; redirects are not followed.
    #[error("the key endpoint answered {0}")]
    Status(StatusCode),
    /// The document is over the size cap.
    #[error("the key document is over the size cap")]
    TooLarge,
    /// The document is not a strict JSON object with a `keys` array of at most 64 elements.
    #[error("the key document is malformed: {0}")]
    Malformed(&'static str),
    /// None of the keys is usable.
    #[error("the key document holds no usable ES256 key")]
    NoUsableKey,
    /// The fetch ended without a result.
    #[error("the fetch ended without a result")]
    Aborted,
}

/// A source of key documents: [`HttpKeys`](super::HttpKeys) unless set, [`StaticKeys`], or one of
/// your own. What it returns is judged in any case: status, size, syntax, and every key.
pub trait KeySource: Send + Sync + 'static {
    /// Fetches one document. Called from a task of its own, and ended after the configured
    /// timeout.
    fn fetch(
        &self,
        request: &KeyRequest,
    ) -> impl Future<Output = Result<KeyDocument, KeyError>> + Send;
}

impl<S: KeySource> KeySource for Arc<S> {
    fn fetch(
        &self,
        request: &KeyRequest,
    ) -> impl Future<Output = Result<KeyDocument, KeyError>> + Send {
        S::fetch(self, request)
    }
}

type FetchFuture<'a> = Pin<Box<dyn Future<Output = Result<KeyDocument, KeyError>> + Send + 'a>>;

/// [`KeySource`] behind a pointer.
pub(in crate::verify) trait DynKeySource: Send + Sync {
    fn fetch<'a>(&'a self, request: &'a KeyRequest) -> FetchFuture<'a>;
}

impl<S: KeySource> DynKeySource for S {
    fn fetch<'a>(&'a self, request: &'a KeyRequest) -> FetchFuture<'a> {
        Box::pin(KeySource::fetch(self, request))
    }
}

/// Fixed key documents, for services without access to their issuer, and for tests.
#[derive(Clone, Default)]
pub struct StaticKeys(HashMap<(Box<str>, Box<str>), Bytes>);

impl StaticKeys {
    /// `document` (a JWK set in JSON) as the keys of `zone` at `issuer`.
    #[must_use]
    pub fn new(issuer: &str, zone: &str, document: impl Into<Bytes>) -> Self {
        Self::default().and(issuer, zone, document)
    }

    /// The keys of one more zone.
    #[must_use]
    pub fn and(mut self, issuer: &str, zone: &str, document: impl Into<Bytes>) -> Self {
        self.0.insert((issuer.into(), zone.into()), document.into());
        self
    }
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl KeySource for StaticKeys {
    async fn fetch(&self, request: &KeyRequest) -> Result<KeyDocument, KeyError> {
        let body = self.0.get(&(request.issuer.clone(), request.zone.clone())).cloned();
        let status = if body.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        Ok(KeyDocument { status, body: body.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = |issuer, zone| KeyRequest::new(issuer, zone).url().to_owned();
        assert_eq!(url("https://sts//", "z"), "https://sts/.well-known/jwks.json?zone_id=z");
        assert_eq!(
            url("https://sts/base", "a b/&=+\u{fc}"),
            "https://sts/base/.well-known/jwks.json?zone_id=a+b%2F%26%3D%2B%C3%BC"
        );
    }
}
