//! Bearer credentials: the token type, and the two grammars that find it in a header.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{Denial, DenialCode, Reason};

/// An owned bearer token. `Debug` does not print it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(Box<str>);

impl BearerToken {
    /// Wraps a token.
    #[must_use]
    pub fn new(token: impl Into<Box<str>>) -> Self {
        Self(token.into())
    }

    /// The secret itself. Send it only to whom it is meant for, and never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

/// The envelope's grammar: trimmed, `Bearer` in any case, one or more spaces, the rest verbatim.
/// A repeated header holds no token: peers disagree about which line counts.
pub(super) fn envelope_bearer(headers: &HeaderMap) -> Option<BearerToken> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (lines.next(), lines.next()) {
        (Some(value), None) => std::str::from_utf8(value.as_bytes()).ok()?.trim(),
        _ => return None,
    };
    let (scheme, rest) = value.split_once(' ')?;
    let token = rest.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| BearerToken::new(token))
}

/// The verifier's grammar: exactly one header line; with a scheme, the scheme at its very start in
/// any ASCII case, then spaces or tabs; the token is the rest up to trailing spaces and tabs.
/// Whatever it holds is judged as a token.
pub(crate) fn credential<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    scheme: Option<&str>,
) -> Result<&'a [u8], Denial> {
    let mut lines = headers.get_all(name).iter();
    let value = match (lines.next(), lines.next()) {
        (None, _) => return Err(Denial::missing_token()),
        (Some(value), None) => value,
        (Some(_), Some(_)) => {
            return Err(Denial::invalid_request());
        }
    };
    token_of(value, scheme)
        .filter(|token| !token.is_empty())
        .ok_or(Denial::new(DenialCode::MissingToken, Reason::NotBearer))
}

fn token_of<'a>(value: &'a HeaderValue, scheme: Option<&str>) -> Option<&'a [u8]> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut token = value.as_bytes();
    if let Some(scheme) = scheme {
        let (start, rest) = token.split_at_checked(scheme.len())?;
        if !start.eq_ignore_ascii_case(scheme.as_bytes()) || !rest.first().is_some_and(blank) {
            return None;
        }
        token = rest;
    }
    let from = token.iter().position(|byte| !blank(byte))?;
    let to = token.iter().rposition(|byte| !blank(byte))?;
    token.get(from..=to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn strict(values: &[&str]) -> Result<String, Reason> {
        let headers = headers(values);
        credential(&headers, &header::AUTHORIZATION, Some("Bearer"))
            .map(|token| String::from_utf8_lossy(token).into_owned())
            .map_err(|denial| denial.reason().clone())
    }

    #[test]
    fn debug_hides_the_token() {
        assert_eq!(format!("{:?}", BearerToken::new("secret")), "BearerToken(..)");
    }

    #[test]
    fn the_strict_grammar() {
        for value in ["Bearer abc", "bEARER\tabc", "Bearer \t abc \t"] {
            assert_eq!(strict(&[value]), Ok("abc".into()), "{value}");
        }
        for value in ["", "Bearer", "Bearer \t", " Bearer abc", "Bearerabc", "Basic abc", "Bear"] {
            assert_eq!(strict(&[value]), Err(Reason::NotBearer), "{value}");
        }
        assert_eq!(strict(&["Bearer a, b"]), Ok("a, b".into()));
        assert_eq!(strict(&[]), Err(Reason::NoCredential));
        assert_eq!(strict(&["Bearer a", "Bearer a"]), Err(Reason::RepeatedCredential));
        assert_eq!(strict(&["", "Bearer a"]), Err(Reason::RepeatedCredential));
    }

    #[test]
    fn a_header_without_scheme_is_the_token() {
        let headers = headers(&["\tabc "]);
        assert_eq!(credential(&headers, &header::AUTHORIZATION, None).unwrap(), b"abc");
    }

    #[test]
    fn the_envelope_grammar_is_another() {
        let token = |values: &[&str]| envelope_bearer(&headers(values));
        assert_eq!(token(&["  Bearer  abc def "]), Some(BearerToken::new("abc def")));
        assert_eq!(token(&["Bearer\tabc"]), None);
        assert_eq!(token(&["Bearer a", "Bearer a"]), None);
    }
}
