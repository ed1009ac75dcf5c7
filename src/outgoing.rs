//! The HTTP clients of this crate: what every outgoing request has in common.

use std::{error::Error, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy, Response, redirect};
use url::{Host, Url};

/// How long connecting may take unless it is set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How connections are made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connecting {
    pub(crate) roots: Vec<Certificate>,
    pub(crate) identity: Option<Identity>,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) connect_timeout: Option<Duration>,
}

/// Clients that follow no redirects, send no referer and repeat nothing by themselves.
///
/// A proxy of the environment is used for `https` alone: what is plain would be told to it. One
/// that was set is used for everything but loopback.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    direct: Client,
    proxied: Client,
    explicit: bool,
    #[cfg(feature = "blocking")]
    made: Box<(Connecting, usize)>,
}

impl Connecting {
    /// Trusts the certificates of a PEM bundle too; whether there was any.
    pub(crate) fn trust(&mut self, pem: &[u8]) -> bool {
        match Certificate::from_pem_bundle(pem) {
            Ok(certificates) if !certificates.is_empty() => {
                self.roots.extend(certificates);
                true
            }
            _ => false,
        }
    }

    /// The clients, with at most `idle` connections kept open to a host.
    pub(crate) fn clients(&self, idle: usize) -> Result<Clients, String> {
        let build = |builder: ClientBuilder| builder.build().map_err(|error| error.to_string());
        let proxied = match &self.proxy {
            Some(proxy) => self.builder(idle).no_proxy().proxy(proxy.clone()),
            None => self.builder(idle),
        };
        Ok(Clients {
            direct: build(self.builder(idle).no_proxy())?,
            proxied: build(proxied)?,
            explicit: self.proxy.is_some(),
            #[cfg(feature = "blocking")]
            made: Box::new((self.clone(), idle)),
        })
    }

    fn builder(&self, idle: usize) -> ClientBuilder {
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connection_verbose(false)
            .connect_timeout(self.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
            .pool_max_idle_per_host(idle)
            .pool_idle_timeout(Duration::from_secs(20))
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .user_agent(concat!("caracal-axum/", env!("CARGO_PKG_VERSION")));
        for root in &self.roots {
            builder = builder.add_root_certificate(root.clone());
        }
        match &self.identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
    }
}

impl Clients {
    /// The client for requests to `url`.
    pub(crate) fn of(&self, url: &Url) -> &Client {
        if self.may_proxy(url) { &self.proxied } else { &self.direct }
    }

    /// The same with connections of their own; what could be set up once can be again.
    #[cfg(feature = "blocking")]
    pub(crate) fn apart(&self) -> Option<Self> {
        let (connecting, idle) = &*self.made;
        connecting.clients(*idle).ok()
    }

    fn may_proxy(&self, url: &Url) -> bool {
        !is_loopback(url) && (self.explicit || url.scheme() == "https")
    }
}

/// Why a body was not read to its end.
pub(crate) enum Unread {
    TooLarge,
    Broken(reqwest::Error),
}

/// The whole body, if it has at most `limit` bytes.
pub(crate) async fn read_body(mut response: Response, limit: usize) -> Result<Bytes, Unread> {
    let too_large = |bytes: u64| bytes > limit as u64;
    if response.content_length().is_some_and(too_large) {
        return Err(Unread::TooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        body.extend_from_slice(&chunk);
        if too_large(body.len() as u64) {
            return Err(Unread::TooLarge);
        }
    }
    Ok(body.freeze())
}

/// The innermost cause in words, without the URL, which may hold what the operator wants in no log.
pub(crate) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    if text.is_empty() {
        error.source().map_or_else(|| error.to_string(), ToString::to_string)
    } else {
        text
    }
}

/// `localhost`, 127.0.0.0/8 and `::1`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_meets_no_proxy_that_was_not_set_and_loopback_none_at_all() {
        let found = Connecting::default().clients(1).unwrap();
        let proxy = Proxy::all("http://proxy.example:3128").unwrap();
        let set = Connecting { proxy: Some(proxy), ..Connecting::default() }.clients(1).unwrap();
        for (url, by_environment, when_set) in [
            ("https://sts.example", true, true),
            ("http://sts.example", false, true),
            ("http://10.0.0.1:8080", false, true),
            ("http://localhost:8080", false, false),
            ("https://127.0.0.1", false, false),
            ("http://[::1]:4000", false, false),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(found.may_proxy(&url), by_environment, "{url}");
            assert_eq!(set.may_proxy(&url), when_set, "{url}");
        }
    }
}
