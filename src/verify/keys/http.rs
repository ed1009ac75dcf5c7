//! Key documents over HTTP.

use std::{error::Error as _, time::Duration};

use bytes::BytesMut;
use http::StatusCode;
use reqwest::{Certificate, Client, redirect};
use url::{Host, Url};

use super::{KeyDocument, KeyError, KeyRequest, KeySource};
use crate::ConfigurationError;

/// Fetches key documents from the issuer: no redirects, no credentials, at most 256 KiB.
///
/// Proxy variables of the environment apply, but never to loopback.
#[derive(Debug, Clone)]
pub struct HttpKeys {
    direct: Client,
    proxied: Client,
}

/// Builder of [`HttpKeys`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HttpKeysBuilder {
    roots: Vec<Certificate>,
    connect_timeout: Option<Duration>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

impl HttpKeysBuilder {
    /// Trusts more certificate authorities, in PEM.
    ///
    /// # Errors
    /// When `pem` holds no certificate.
    pub fn root_certificate(mut self, pem: &[u8]) -> Result<Self, ConfigurationError> {
        match Certificate::from_pem_bundle(pem) {
            Ok(certificates) if !certificates.is_empty() => self.roots.extend(certificates),
            _ => return Err(ConfigurationError::Certificate),
        }
        Ok(self)
    }

    /// How long connecting may take; 3 seconds unless set. The whole fetch is bounded by the
    /// verifier's own timeout.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// The source.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub fn build(self) -> Result<HttpKeys, ConfigurationError> {
        let client = |proxied: bool| {
            let mut builder = Client::builder()
                .redirect(redirect::Policy::none())
                .referer(false)
                .retry(reqwest::retry::never())
                .connect_timeout(self.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
                .pool_max_idle_per_host(1)
                .no_gzip()
                .no_brotli()
                .no_deflate()
                .no_zstd()
                .user_agent(concat!("caracal-axum/", env!("CARGO_PKG_VERSION")));
            if !proxied {
                builder = builder.no_proxy();
            }
            let builder = self
                .roots
                .iter()
                .cloned()
                .fold(builder, |builder, root| builder.add_root_certificate(root));
            builder.build().map_err(|error| ConfigurationError::Http(error.to_string()))
        };
        Ok(HttpKeys { direct: client(false)?, proxied: client(true)? })
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
        let client = if is_loopback(&url) { &self.direct } else { &self.proxied };
        let mut response = client.get(url).send().await.map_err(unreachable)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(KeyError::Status(status));
        }
        let too_large = |bytes: u64| bytes > request.max_bytes() as u64;
        if response.content_length().is_some_and(too_large) {
            return Err(KeyError::TooLarge);
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if too_large(body.len() as u64) {
                return Err(KeyError::TooLarge);
            }
        }
        Ok(KeyDocument { status, body: body.freeze() })
    }
}

/// The innermost cause without the URL, which may hold what the operator wants in no log.
fn unreachable(error: reqwest::Error) -> KeyError {
    if error.is_timeout() {
        return KeyError::Timeout;
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    KeyError::Unreachable(if text.is_empty() {
        error.source().map_or_else(|| error.to_string(), ToString::to_string)
    } else {
        text
    })
}

/// `localhost`, 127.0.0.0/8 and `::1`.
pub(in crate::verify) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
