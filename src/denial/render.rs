//! Turning a [`Denial`] into a response.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::{Denial, DenialCode, Reason};

/// A function that renders every refusal in place of the built-in bodies.
type Renderer = Arc<dyn Fn(&Denial, &Parts) -> Response + Send + Sync>;

/// How the refusals of one boundary look; carried in the request's extensions so that extractors
/// and route requirements answer in the same way as the layer.
#[derive(Clone, Default)]
pub(crate) struct Rendering {
    pub(crate) resource_metadata: Option<Arc<str>>,
    pub(crate) renderer: Option<Renderer>,
}

impl Rendering {
    pub(crate) fn is_default(&self) -> bool {
        self.resource_metadata.is_none() && self.renderer.is_none()
    }

    pub(crate) fn render(&self, denial: &Denial, parts: &Parts) -> Response {
        let metadata = self.resource_metadata.as_deref();
        if let Some(renderer) = &self.renderer {
            let mut response = renderer(denial, parts);
            add_headers(denial, metadata, response.headers_mut());
            return response;
        }
        match grpc_type(&parts.headers) {
            Some(content_type) => grpc(denial, content_type),
            None => json(denial, metadata),
        }
    }
}

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        self.log(None);
        json(&self, None)
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_hint: Option<&'a str>,
}

fn body(denial: &Denial) -> Bytes {
    let body = serde_json::to_vec(&ErrorBody {
        error: denial.code.as_str(),
        error_description: &denial.description(),
        error_hint: denial.hint(),
    });
    body.unwrap_or_default().into()
}

/// The body of a token that is not acceptable, whatever is wrong with it: what a flood of garbage
/// gets, so it is written once.
static INVALID_TOKEN: LazyLock<Bytes> =
    LazyLock::new(|| body(&Denial::invalid_token(Reason::Signature)));

fn json(denial: &Denial, resource_metadata: Option<&str>) -> Response {
    let body = match denial.code {
        DenialCode::InvalidToken => INVALID_TOKEN.clone(),
        _ => body(denial),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = denial.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    add_headers(denial, resource_metadata, headers);
    response
}

/// What every refusal over HTTP says beside its body, unless it says so already.
fn add_headers(denial: &Denial, resource_metadata: Option<&str>, headers: &mut HeaderMap) {
    let no_store = Some(HeaderValue::from_static("no-store"));
    let retry_after = denial.retry_after.map(|wait| {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        HeaderValue::from(seconds.max(1))
    });
    for (name, value) in [
        (header::CACHE_CONTROL, no_store),
        (header::WWW_AUTHENTICATE, challenge(denial, resource_metadata)),
        (header::RETRY_AFTER, retry_after),
    ] {
        if let Some(value) = value {
            headers.entry(name).or_insert(value);
        }
    }
}

/// The challenge of RFC 6750 §3: no `error` when no credential was sent. A 503 or 500 says nothing
/// about the credential, so it carries none.
fn challenge(denial: &Denial, resource_metadata: Option<&str>) -> Option<HeaderValue> {
    let error = match denial.status() {
        _ if denial.code == DenialCode::MissingToken => None,
        StatusCode::BAD_REQUEST => Some("invalid_request"),
        StatusCode::UNAUTHORIZED => Some("invalid_token"),
        StatusCode::FORBIDDEN => Some("insufficient_scope"),
        _ => return None,
    };
    let mut text = String::with_capacity(64);
    text.push_str("Bearer");
    let mut separator = ' ';
    for (name, value) in [
        ("error", error),
        ("scope", denial.needed_scopes()),
        ("resource_metadata", resource_metadata),
    ] {
        if let Some(value) = value {
            text.push(separator);
            separator = ',';
            push_parameter(&mut text, name, value);
        }
    }
    HeaderValue::try_from(text).ok()
}

/// `name="value"` as a quoted-string (RFC 9110 §5.6.4); what no quoted-string may hold becomes `?`.
fn push_parameter(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            ' '..='~' => text.push(character),
            _ => text.push('?'),
        }
    }
    text.push('"');
}

/// The media type of a gRPC or gRPC-Web request, without parameters: `application/grpc`,
/// `application/grpc+proto`, `application/grpc-web`, ..
fn grpc_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let media_type = value.split(';').next()?.trim_end();
    let variant = media_type.strip_prefix("application/grpc")?;
    let variant = variant.strip_prefix("-web").unwrap_or(variant);
    let variant = variant.strip_prefix("-text").unwrap_or(variant);
    let is_grpc = variant.is_empty() || variant.starts_with('+');
    is_grpc.then(|| HeaderValue::from_str(media_type).ok()).flatten()
}

/// What may stand unescaped in `grpc-message` is printable ASCII without `%`.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// A trailers-only gRPC response: the status in headers, no body.
fn grpc(denial: &Denial, content_type: HeaderValue) -> Response {
    let status = match denial.status() {
        StatusCode::BAD_REQUEST => "3",
        StatusCode::FORBIDDEN => "7",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::SERVICE_UNAVAILABLE => "14",
        _ => "13",
    };
    let mut message = String::from(denial.code.as_str());
    let _ = write!(message, ": {}", utf8_percent_encode(&denial.description(), GRPC_MESSAGE));
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn challenge_of(denial: &Denial) -> Option<String> {
        let response = denial.clone().into_response();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let value = response.headers().get(header::WWW_AUTHENTICATE)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn challenges_follow_the_table() {
        let table = [
            (Denial::missing_token(), Some("Bearer")),
            (
                Denial::new(DenialCode::InvalidRequest, Reason::RepeatedCredential),
                Some(r#"Bearer error="invalid_request""#),
            ),
            (Denial::invalid_token(Reason::Expired), Some(r#"Bearer error="invalid_token""#)),
            (Denial::invalid_zone(), Some(r#"Bearer error="invalid_token""#)),
            (Denial::session_revoked(), Some(r#"Bearer error="invalid_token""#)),
            (Denial::delegation_stale(), Some(r#"Bearer error="invalid_token""#)),
            (
                Denial::insufficient_scope("b", ["a", "b"]),
                Some(r#"Bearer error="insufficient_scope",scope="a b""#),
            ),
            (Denial::session_required(), Some(r#"Bearer error="insufficient_scope""#)),
            (Denial::delegation_required(), Some(r#"Bearer error="insufficient_scope""#)),
            (Denial::chain_mismatch("a"), Some(r#"Bearer error="insufficient_scope""#)),
            (Denial::hop_count_exceeded(), Some(r#"Bearer error="insufficient_scope""#)),
            (Denial::unavailable(Reason::KeysUnavailable, Duration::from_secs(1)), None),
            (Denial::misconfigured(Reason::NoLayer), None),
        ];
        for (denial, expected) in table {
            assert_eq!(challenge_of(&denial).as_deref(), expected, "{denial}");
        }
    }

    #[test]
    fn resource_metadata_is_on_every_challenge() {
        let parts = http::Request::new(()).into_parts().0;
        let rendering = Rendering { resource_metadata: Some("https://a/b".into()), renderer: None };
        let header = |denial: &Denial| {
            let response = rendering.render(denial, &parts);
            response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
        };
        assert_eq!(header(&Denial::missing_token()), r#"Bearer resource_metadata="https://a/b""#);
        assert_eq!(
            header(&Denial::insufficient_scope("s", ["s"])),
            r#"Bearer error="insufficient_scope",scope="s",resource_metadata="https://a/b""#
        );
    }

    #[test]
    fn quoted_strings_are_escaped() {
        let denial = Denial::insufficient_scope("x", ["a\"b\\c\r\nX: 1\u{e9}"]);
        assert_eq!(
            challenge_of(&denial).unwrap(),
            r#"Bearer error="insufficient_scope",scope="a\"b\\c??X: 1?""#
        );
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_zero() {
        for (wait, expected) in [(0, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
            let denial = Denial::unavailable(Reason::KeysUnavailable, Duration::from_millis(wait));
            assert_eq!(denial.into_response().headers()[header::RETRY_AFTER], expected);
        }
    }

    #[test]
    fn grpc_statuses() {
        let mut request = http::Request::new(());
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("Application/gRPC+proto"));
        let parts = request.into_parts().0;
        let table = [
            (Denial::missing_token(), "16"),
            (Denial::session_required(), "7"),
            (Denial::new(DenialCode::InvalidRequest, Reason::RepeatedCredential), "3"),
            (Denial::unavailable(Reason::KeysUnavailable, Duration::from_secs(1)), "14"),
            (Denial::misconfigured(Reason::NoLayer), "13"),
        ];
        for (denial, status) in table {
            let response = Rendering::default().render(&denial, &parts);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["grpc-status"], status);
        }
        for (content_type, answered) in [
            ("application/grpc", Some("application/grpc")),
            ("application/grpc; x=y", Some("application/grpc")),
            ("application/grpc-web+proto", Some("application/grpc-web+proto")),
            ("application/grpc-web-text", Some("application/grpc-web-text")),
            ("application/grpcfoo", None),
            ("application/json", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(grpc_type(&headers).as_ref().map(|t| t.to_str().unwrap()), answered);
        }
        let denial = Denial::insufficient_scope("\u{e9}%\n", [""]);
        let response = Rendering::default().render(&denial, &parts);
        assert_eq!(
            response.headers()["grpc-message"],
            "insufficient_scope: Missing scope: %C3%A9%25%0A"
        );
    }
}
