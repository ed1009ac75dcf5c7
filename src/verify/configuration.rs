//! What a verifier may not be built from.

use url::Url;

use crate::outgoing::is_loopback;

/// A configuration that would not be safe, or not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// A required setting is missing.
    #[error("MandateVerifier needs .{0}(..)")]
    Missing(&'static str),
    /// A setting is empty, or holds an empty entry.
    #[error(".{0}(..) must not be empty")]
    Empty(&'static str),
    /// The issuer is not an absolute URL without user, query and fragment.
    #[error("the issuer must be an absolute http(s) URL without user, query or fragment")]
    IssuerUrl,
    /// The issuer is plain http beyond loopback.
    #[error(
        "the issuer must be https, or http on loopback; `.allow_insecure_issuer()` overrides this"
    )]
    InsecureIssuer,
    /// A limit above what an envelope can carry.
    #[error("max_hop_count must be at most 32")]
    MaxHopCount,
    /// The scheme before the credential is none.
    #[error("the scheme of .credential(..) must be letters, digits and hyphens")]
    Scheme,
    /// A duration or limit of zero where none makes sense.
    #[error(".{0}(..) must not be zero")]
    Zero(&'static str),
    /// The system has no randomness for the key of the proof cache.
    #[error("the system has no randomness")]
    Randomness,
    /// The HTTP client for key documents cannot be set up.
    #[error("the HTTP client for key documents cannot be set up: {0}")]
    Http(String),
    /// No certificate in PEM.
    #[error("not a certificate in PEM")]
    Certificate,
}

pub(super) fn required<'a>(
    name: &'static str,
    value: Option<&'a str>,
) -> Result<&'a str, ConfigurationError> {
    match value {
        None => Err(ConfigurationError::Missing(name)),
        Some("") => Err(ConfigurationError::Empty(name)),
        Some(value) => Ok(value),
    }
}

/// The URL of an issuer: https, or http on loopback, and spelled as it will be compared.
pub(super) fn check_issuer(issuer: &str, allow_insecure: bool) -> Result<(), ConfigurationError> {
    // The parser would mend these; but `iss` is compared with the text as it is.
    let odd = |character: char| !character.is_ascii_graphic() || "\\@".contains(character);
    if issuer.contains(odd) || !issuer.contains("://") {
        return Err(ConfigurationError::IssuerUrl);
    }
    let url = Url::parse(issuer).map_err(|_| ConfigurationError::IssuerUrl)?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.has_host();
    if !plain {
        return Err(ConfigurationError::IssuerUrl);
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if allow_insecure || is_loopback(&url) => Ok(()),
        "http" => Err(ConfigurationError::InsecureIssuer),
        _ => Err(ConfigurationError::IssuerUrl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers() {
        for good in [
            "https://sts.example.com",
            "https://sts.example.com/base//",
            "http://localhost:9",
            "http://127.9.9.9:9",
            "http://[::1]:9",
        ] {
            assert_eq!(check_issuer(good, false), Ok(()), "{good}");
        }
        for bad in [
            "http://sts.example.com",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1",
        ] {
            assert_eq!(check_issuer(bad, false), Err(ConfigurationError::InsecureIssuer), "{bad}");
            assert_eq!(check_issuer(bad, true), Ok(()));
        }
        for bad in [
            "sts.example.com",
            "ftp://sts.example.com",
            "file:///etc",
            "https://user@sts.example.com",
            "https://:pw@sts.example.com",
            "https://sts.example.com?x=1",
            "https://sts.example.com#f",
            "data:text/plain,x",
            "https://sts.example.com\n",
            " https://sts.example.com",
            "ht\ttps://sts.example.com",
            "https:sts.example.com",
            "https:\\\\sts.example.com",
            "https://@sts.example.com",
            "https://sts.example.com\\@evil.example",
        ] {
            assert_eq!(check_issuer(bad, true), Err(ConfigurationError::IssuerUrl), "{bad}");
        }
    }
}
