//! Key documents over HTTP.

use std::time::Duration;

use http::StatusCode;
use url::Url;

use super::{KeyDocument, KeyError, KeyRequest, KeySource};
use crate::{
    ConfigurationError,
    outgoing::{Clients, Connecting, Unread, cause, read_body},
};

/// Fetches key documents from the issuer: no redirects, no credentials, at most 256 KiB.
///
/// Proxy variables of the environment apply to `https`, but never to loopback.
#[derive(Debug, Clone)]
pub struct HttpKeys(Clients);

/// Builder of [`HttpKeys`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HttpKeysBuilder(Connecting);

impl HttpKeysBuilder {
    /// Trusts more certificate authorities, in PEM.
    ///
    /// # Errors
    /// When `pem` holds no certificate.
    pub fn root_certificate(mut self, pem: &[u8]) -> Result<Self, ConfigurationError> {
        if self.0.trust(pem) { Ok(self) } else { Err(ConfigurationError::Certificate) }
    }

    /// How long connecting may take; 3 seconds unless set. The whole fetch is bounded by the
    /// verifier's own timeout.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.0.connect_timeout = Some(timeout);
        self
    }

    /// The source.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub fn build(self) -> Result<HttpKeys, ConfigurationError> {
        self.0.clients(1).map(HttpKeys).map_err(ConfigurationError::Http)
    }
}

impl HttpKeys {
    /// A builder.
    pub fn builder() -> HttpKeysBuilder {
        HttpKeysBuilder::default()
    }
}

impl KeySource for HttpKeys {
    async fn fetch(&self, request: &KeyRequest) -> Result<KeyDocument, KeyError> {
        let url: Url = request.url().parse().map_err(|_| KeyError::Malformed("not a URL"))?;
        let client = self.0.of(&url);
        let response = client.get(url).send().await.map_err(unreachable)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(KeyError::Status(status));
        }
        match read_body(response, request.max_bytes()).await {
            Ok(body) => Ok(KeyDocument { status, body }),
            Err(Unread::TooLarge) => Err(KeyError::TooLarge),
            Err(Unread::Broken(error)) => Err(unreachable(error)),
        }
    }
}

fn unreachable(error: reqwest::Error) -> KeyError {
    if error.is_timeout() { KeyError::Timeout } else { KeyError::Unreachable(cause(error)) }
}
