//! Headers: which pass, which do not, and which are added (outbound contract §6.2 and §6.3).

use std::{collections::HashSet, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request, response};
use url::Url;

use crate::{
    embedded::web::{escapes_are_whole, joined, latin1},
    envelope::{new_traceparent, parse_traceparent},
};

const EXPIRES_IN: HeaderName = HeaderName::from_static("x-caracal-token-expires-in");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const IDENTITY: HeaderName = HeaderName::from_static("x-caracal-identity");
pub(super) const REVOKED: HeaderName = HeaderName::from_static("x-caracal-revoked");

/// Those of one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What no upstream is told by the caller, beside all that begins with [`CALLERS_CLAIMS`]. Lengths
/// are those of one connection too, as bodies are framed anew; what the caller `Expect`s was answered
/// here.
const NOT_FORWARDED: [&str; 6] =
    ["authorization", "content-length", "expect", "forwarded", "host", "x-real-ip"];
const CALLERS_CLAIMS: [&str; 2] = ["x-caracal-", "x-forwarded-"];

/// What no caller is told by the upstream.
const NOT_RETURNED: [&str; 4] = ["refresh", "server", "x-caracal-identity", "x-powered-by"];

/// The caller's id for the request if it is one, else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let is_id =
        |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_id);
    sent.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// The names in all lines of `Connection`.
fn named_by_connection(headers: &HeaderMap) -> HashSet<String> {
    let lines = headers.get_all(header::CONNECTION).iter().map(latin1).collect::<Vec<_>>();
    let names = lines.iter().flat_map(|line| line.split(','));
    names.map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// The headers of the request to the upstream, without a credential.
pub(super) fn forwarded(head: &request::Parts, from: IpAddr, id: &str) -> HeaderMap {
    let named = named_by_connection(&head.headers);
    let passes = |name: &str| {
        let stays = HOP_BY_HOP.contains(&name) || NOT_FORWARDED.contains(&name);
        let claims = CALLERS_CLAIMS.iter().any(|prefix| name.starts_with(prefix));
        !(stays || claims || named.contains(name))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| passes(name.as_str())) {
        headers.append(name, value.clone());
    }
    match foreign_baggage(&headers) {
        Some(baggage) => drop(headers.insert(BAGGAGE, baggage)),
        None => drop(headers.remove(BAGGAGE)),
    }
    let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    if parent.and_then(parse_traceparent).is_none() {
        headers.insert(TRACEPARENT, new_traceparent(None, None));
    }
    if let Some(host) = head.headers.get(header::HOST) {
        headers.insert("x-forwarded-host", host.clone());
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    for (name, text) in [("x-forwarded-for", from.to_string()), ("x-request-id", id.to_owned())] {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The members of baggage that are not Caracal's, in one line.
fn foreign_baggage(headers: &HeaderMap) -> Option<HeaderValue> {
    let all = joined(headers, BAGGAGE.as_str())?;
    let members = all.split(',').map(str::trim);
    let foreign = members.filter(|member| !member.is_empty() && !member.starts_with("caracal."));
    let bytes: Option<Vec<u8>> =
        foreign.collect::<Vec<_>>().join(",").chars().map(|c| u8::try_from(c).ok()).collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
    HeaderValue::from_bytes(&bytes).ok()
}

/// The headers of the answer to the caller: the Gateway's own come first.
pub(super) fn returned(head: &response::Parts, id: &str, expires_in: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(EXPIRES_IN, HeaderValue::from(expires_in));
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(REQUEST_ID, id);
    }
    let named = named_by_connection(&head.headers);
    let passes = |name: &HeaderName, value: &HeaderValue| {
        let text = name.as_str();
        let stays = HOP_BY_HOP.contains(&text)
            || NOT_RETURNED.contains(&text)
            || text.starts_with("x-aspnet")
            || named.contains(text);
        let leads = [header::LOCATION, header::CONTENT_LOCATION].contains(name);
        // What has not changed has nothing in it.
        let describes = [header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name)
            && head.status == StatusCode::NOT_MODIFIED;
        !(stays || describes || leads && !is_relative(value))
    };
    for (name, value) in head.headers.iter().filter(|(name, value)| passes(name, value)) {
        headers.append(name, value.clone());
    }
    headers.insert(header::TRAILER, HeaderValue::from_static("X-Caracal-Revoked"));
    headers
}

/// Whether a location stays where it is said, in the eyes of a browser too.
fn is_relative(location: &HeaderValue) -> bool {
    let Ok(text) = location.to_str() else { return false };
    let Ok(here) = Url::parse("http://here.invalid/") else { return false };
    let stays = here.join(text).is_ok_and(|there| there.origin() == here.origin());
    Url::parse(text).is_err() && stays && escapes_are_whole(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_requests_are_short_and_printable() {
        let mut headers = HeaderMap::new();
        for (sent, kept) in
            [("my-request/1", true), ("a b", false), ("", false), (&"r".repeat(129), false)]
        {
            headers.insert(REQUEST_ID, HeaderValue::try_from(sent).unwrap());
            assert_eq!(request_id(&headers) == sent, kept, "{sent}");
        }
    }

    #[test]
    fn only_locations_that_stay_are_returned() {
        for (location, stays) in [
            ("/elsewhere", true),
            ("x?y#z", true),
            ("../up", true),
            ("http://127.0.0.1:9/elsewhere", false),
            ("//evil.example/x", false),
            ("/\\evil.example/x", false),
            ("\\\\evil.example", false),
            ("https:x", false),
            ("http:x", false),
            ("javascript:alert(1)", false),
            ("/a%zz", false),
        ] {
            assert_eq!(is_relative(&HeaderValue::from_static(location)), stays, "{location}");
        }
    }

    #[test]
    fn no_line_of_connection_is_overlooked() {
        let request = http::Request::get("/")
            .header("connection", "X-One")
            .header("connection", "close, x-Two ")
            .header("x-one", "1")
            .header("x-two", "2")
            .header("x-three", "3")
            .body(())
            .unwrap();
        let headers = forwarded(&request.into_parts().0, IpAddr::from([127, 0, 0, 1]), "id");
        assert!(!headers.contains_key("x-one") && !headers.contains_key("x-two"));
        assert_eq!(headers["x-three"], "3");
    }
}
