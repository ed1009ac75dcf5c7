//! What may be the URL of a service, and the prefix of an upstream. What is refused is never
//! printed: it may hold a password.

use std::sync::Once;

use url::Url;

use crate::outgoing::is_loopback;

/// Where a URL is given, and what it is elsewhere than in production when it is not.
pub(super) struct ServiceUrl {
    pub(super) key: &'static str,
    pub(super) variable: &'static str,
    pub(super) default: &'static str,
}

pub(super) const COORDINATOR: ServiceUrl = ServiceUrl {
    key: "coordinator_url",
    variable: "CARACAL_COORDINATOR_URL",
    default: "http://localhost:4000",
};

pub(super) const STS: ServiceUrl =
    ServiceUrl { key: "sts_url", variable: "CARACAL_STS_URL", default: "http://localhost:8080" };

pub(super) const GATEWAY: ServiceUrl = ServiceUrl {
    key: "gateway_url",
    variable: "CARACAL_GATEWAY_URL",
    default: "http://localhost:8081",
};

/// What plain http is allowed beyond loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlainHttp {
    /// All of it, elsewhere than in production.
    Free,
    /// None, in production.
    Refused,
    /// All of it, in production, because somebody insisted.
    Tolerated,
}

/// The URL of a service without the slashes at its end, and whether it was only tolerated.
pub(super) fn service(text: &str, plain_http: PlainHttp) -> Result<(String, bool), &'static str> {
    let url = absolute(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        // Paths are appended to it.
        return Err("must not have a query or a fragment");
    }
    let plain = url.scheme() == "http" && !is_loopback(&url);
    if plain && plain_http == PlainHttp::Refused {
        return Err("must be https in production, or http on loopback; \
                    CARACAL_ALLOW_INSECURE_CONFIG_URLS=true overrides this");
    }
    let tolerated = plain && plain_http == PlainHttp::Tolerated;
    Ok((text.trim_end_matches('/').to_owned(), tolerated))
}

/// An absolute http or https URL with a host and without a user.
pub(super) fn absolute(text: &str) -> Result<Url, &'static str> {
    const ABSOLUTE: &str = "must be an absolute http or https URL";
    // The parser would mend these, and then the text would say one host and the parser another.
    if text.contains(|character: char| {
        character.is_whitespace() || character.is_control() || character == '\\'
    }) {
        return Err(ABSOLUTE);
    }
    let (_, rest) = text.split_once("://").ok_or(ABSOLUTE)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // An empty user is one as well, and the parser does not tell.
    if authority.contains('@') {
        return Err("must not hold a user or password");
    }
    let url = Url::parse(text).map_err(|_| ABSOLUTE)?;
    if authority.is_empty() || !matches!(url.scheme(), "http" | "https") {
        return Err(ABSOLUTE);
    }
    Ok(url)
}

/// Says, the first time, that secrets and tokens can be read on their way.
pub(super) fn warn_of_plain_http(said: &Once) {
    said.call_once(|| {
        tracing::warn!(
            target: "caracal",
            "CARACAL_ALLOW_INSECURE_CONFIG_URLS sends secrets and tokens over plain http in production"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::{PlainHttp::*, *};

    #[test]
    fn absolute_urls() {
        for good in [
            "https://a.test",
            "HTTPS://A.test:8443/base//",
            "http://10.0.0.1/@scope/x",
            "http://[2001:db8::1]:80",
        ] {
            assert!(absolute(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "sts.test",
            "/rel",
            "//a.test",
            "ftp://a.test",
            "file:///etc",
            "https:a.test",
            "https:///a.test",
            "https://",
            "https://?x",
            "https://:80",
            "https:\\\\a.test",
            "https://a.test\\b",
            " https://a.test",
            "https://a.test\n",
            "ht\ttps://a.test",
            "https://a.test/a b",
            "https://a.test:x",
        ] {
            assert_eq!(absolute(bad), Err("must be an absolute http or https URL"), "{bad:?}");
        }
        for bad in
            ["https://u@a.test", "https://u:p@a.test/", "https://@a.test", "http://:p@a.test?x"]
        {
            assert_eq!(absolute(bad), Err("must not hold a user or password"), "{bad}");
        }
    }

    #[test]
    fn slashes_at_the_end_go_and_the_rest_stays_as_it_was() {
        for (given, kept) in [
            ("https://A.test:443//", "https://A.test:443"),
            ("https://a.test/Base/", "https://a.test/Base"),
            ("https://a.test", "https://a.test"),
        ] {
            assert_eq!(service(given, Refused), Ok((kept.to_owned(), false)));
        }
    }

    #[test]
    fn nothing_stands_behind_the_path() {
        for bad in ["https://a.test?x=1", "https://a.test/#f", "https://a.test?"] {
            assert_eq!(service(bad, Free), Err("must not have a query or a fragment"), "{bad}");
        }
    }

    #[test]
    fn plain_http() {
        for loopback in
            ["http://localhost:1", "http://LOCALHOST", "http://127.8.9.1", "http://[::1]:3"]
        {
            for rule in [Free, Refused, Tolerated] {
                assert_eq!(service(loopback, rule), Ok((loopback.to_owned(), false)));
            }
        }
        for beyond in [
            "http://a.test",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://localhost.a.test",
            "http://127.0.0.1.a.test",
            "http://[::2]",
        ] {
            assert_eq!(service(beyond, Free), Ok((beyond.to_owned(), false)), "{beyond}");
            assert_eq!(service(beyond, Tolerated), Ok((beyond.to_owned(), true)), "{beyond}");
            assert!(service(beyond, Refused).unwrap_err().contains("must be https"), "{beyond}");
        }
        assert_eq!(service("https://a.test", Tolerated), Ok(("https://a.test".to_owned(), false)));
    }
}
