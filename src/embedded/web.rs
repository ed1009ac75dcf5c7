//! Reading requests as both services do: bodies up to a size, escapes that are whole, ids.

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, response::Response};
use serde_json::Value;

/// What a body was found to be.
pub(super) enum Received {
    Whole(Bytes),
    TooLarge,
}

/// The connection broke before the body was whole.
pub(super) struct Broken;

/// The largest body that is read.
const MAX_BODY: usize = 262_144;

/// Reads a body.
pub(super) async fn receive(body: Body) -> Result<Received, Broken> {
    let error = match to_bytes(body, MAX_BODY).await {
        Ok(body) => return Ok(Received::Whole(body)),
        Err(error) => error.into_inner(),
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if error.is::<hyper::Error>() {
            return Err(Broken);
        }
        cause = error.source();
    }
    Ok(Received::TooLarge)
}

/// An answer, and what was decided by it.
pub(super) struct Answered {
    pub(super) response: Response<Body>,
    /// Who asked, as far as it is known.
    pub(super) application: Option<String>,
    pub(super) code: Option<&'static str>,
}

impl Answered {
    /// An answer that decides nothing.
    pub(super) fn plain(response: Response<Body>) -> Self {
        Self { response, application: None, code: None }
    }
}

/// Whether every `%` is followed by two hexadecimal digits.
pub(super) fn escapes_are_whole(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let Some(after) = rest.get(at + 3..) else { return false };
        if !rest.iter().skip(at + 1).take(2).all(u8::is_ascii_hexdigit) {
            return false;
        }
        rest = after;
    }
    true
}

/// What JavaScript trims: Unicode's white space and U+FEFF, but not U+0085.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}')
}

/// All lines of a header, joined by commas, its bytes read as Latin-1; none if there is nothing
/// in it.
pub(super) fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut lines = headers.get_all(name).iter().map(latin1).peekable();
    lines.peek()?;
    Some(lines.collect::<Vec<_>>().join(", "))
}

/// The text of a header value, each of its bytes a character.
pub(super) fn latin1(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// The caller's request id, exactly as sent, or a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    joined(headers, "x-request-id").filter(|id| !id.is_empty()).unwrap_or_else(super::state::new_id)
}

pub(super) fn json(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_escapes_are_found() {
        for whole in ["", "a", "%20", "a%2Fb%c3%A9"] {
            assert!(escapes_are_whole(whole.as_bytes()), "{whole}");
        }
        for broken in ["%", "%2", "%zz", "%20%", "%%20"] {
            assert!(!escapes_are_whole(broken.as_bytes()), "{broken}");
        }
    }

    #[test]
    fn repeated_headers_are_joined() {
        let mut headers = HeaderMap::new();
        assert_eq!(joined(&headers, "x"), None);
        headers.append("x", HeaderValue::from_static("a"));
        headers.append("x", HeaderValue::from_bytes(b"\xe9").unwrap());
        assert_eq!(joined(&headers, "x").as_deref(), Some("a, é"));
    }
}
