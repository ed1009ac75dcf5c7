//! What travels in headers: the bearer, W3C Trace Context and the five `caracal.*` baggage keys.
//!
//! Pure functions on a [`HeaderMap`]. Everything here is unsigned: it says what a peer claims, and
//! only a [`Proof`](crate::Proof) says what is true.
//!
//! ```
//! use caracal_axum::envelope::{from_headers, to_headers};
//! use http::HeaderMap;
//!
//! let mut inbound = HeaderMap::new();
//! inbound.insert("baggage", "caracal.agent_session=s1,caracal.hop=2,tenant=acme".parse().unwrap());
//! let envelope = from_headers(&inbound);
//! assert_eq!(envelope.agent_session_id.as_deref(), Some("s1"));
//! assert_eq!(envelope.hop, 2);
//! assert_eq!(envelope.baggage["tenant"], "acme");
//!
//! let outbound = to_headers(&envelope);
//! assert_eq!(outbound["baggage"], "caracal.agent_session=s1,caracal.hop=2,tenant=acme");
//! ```

mod baggage;
mod bearer;
mod trace;

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub use baggage::{
    BAGGAGE_AGENT_SESSION, BAGGAGE_DELEGATION_EDGE, BAGGAGE_HOP, BAGGAGE_PARENT_EDGE,
    BAGGAGE_SESSION, MAX_BAGGAGE_BYTES, MAX_BAGGAGE_MEMBERS, parse_baggage,
};
pub(crate) use baggage::{OWN_KEYS, join_lines};
pub use bearer::BearerToken;
pub(crate) use bearer::credential;
pub use trace::{TraceContext, TraceFlags, TraceId, parse_traceparent};
pub(crate) use trace::{new_traceparent, trace_lines};

/// The header that carries the bearer.
pub const HEADER_AUTHORIZATION: HeaderName = header::AUTHORIZATION;
/// The header that carries trace id, span id and flags (W3C Trace Context §3.2).
pub const HEADER_TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries vendor trace state (W3C Trace Context §3.3).
pub const HEADER_TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The header that carries baggage (W3C Baggage §3.2).
pub const HEADER_BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The highest hop an envelope carries. A larger one is clamped, never refused. Peers of version
/// 1.0.0 clamp to 10 when they read.
pub const MAX_HOP: u32 = 32;

/// What a request says about itself, unsigned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The bearer of `Authorization`; none when the header is repeated.
    pub subject_token: Option<BearerToken>,
    /// `caracal.agent_session`: the governed session.
    pub agent_session_id: Option<String>,
    /// `caracal.delegation_edge`: the delegation this call is made under.
    pub delegation_edge_id: Option<String>,
    /// `caracal.parent_edge`: the delegation above it.
    pub parent_edge_id: Option<String>,
    /// `caracal.session`: the subject's authority record.
    pub authority_record_id: Option<String>,
    /// Trace id of `traceparent`.
    pub trace_id: Option<TraceId>,
    /// Trace flags of `traceparent`.
    pub trace_flags: Option<TraceFlags>,
    /// `tracestate`, opaque.
    pub trace_state: Option<String>,
    /// `caracal.hop`, at most [`MAX_HOP`].
    pub hop: u32,
    /// Everybody else's baggage. Keys are as on the wire, values percent-decoded.
    pub baggage: BTreeMap<String, String>,
}

/// Reads an envelope. Never fails: what is malformed is absent.
#[must_use]
pub fn decode_envelope(headers: &HeaderMap) -> Envelope {
    let trace = TraceContext::from_headers(headers);
    let mut envelope = Envelope {
        subject_token: bearer::envelope_bearer(headers),
        trace_id: trace.id,
        trace_flags: trace.flags,
        trace_state: trace.state.map(str::to_owned),
        baggage: join_lines(headers).as_deref().map(parse_baggage).unwrap_or_default(),
        ..Envelope::default()
    };
    let mut take = |key| envelope.baggage.remove(key).filter(|value| !value.is_empty());
    envelope.agent_session_id = take(BAGGAGE_AGENT_SESSION);
    envelope.delegation_edge_id = take(BAGGAGE_DELEGATION_EDGE);
    envelope.parent_edge_id = take(BAGGAGE_PARENT_EDGE);
    envelope.authority_record_id = take(BAGGAGE_SESSION);
    envelope.hop = take(BAGGAGE_HOP).map_or(0, |value| baggage::parse_hop(&value));
    envelope
}

/// Writes `envelope` over `headers`.
///
/// A valid `traceparent` and a non-empty `tracestate` that are there already stay as they are.
/// Baggage is merged: members of others that are there already win, and the five `caracal.*` keys
/// are always those of `envelope`, so stale ones disappear. `Authorization` is never written: a
/// bearer goes only where the caller sends it.
pub fn encode_envelope(envelope: &Envelope, headers: &mut HeaderMap) {
    if TraceContext::from_headers(headers).id.is_none() {
        let value = new_traceparent(envelope.trace_id, envelope.trace_flags);
        headers.insert(HEADER_TRACEPARENT, value);
    }
    let state = envelope.trace_state.as_deref().unwrap_or_default();
    let blank = |value: &HeaderValue| value.as_bytes().trim_ascii().is_empty();
    let present = !headers.get_all(HEADER_TRACESTATE).iter().all(blank);
    if let (false, false, Ok(value)) =
        (present, state.is_empty(), HeaderValue::from_bytes(state.as_bytes()))
    {
        headers.insert(HEADER_TRACESTATE, value);
    }

    let mut members = envelope.baggage.clone();
    if let Some(existing) = join_lines(headers) {
        members.append(&mut parse_baggage(&existing));
    }
    let ids = [
        (BAGGAGE_AGENT_SESSION, envelope.agent_session_id.as_deref()),
        (BAGGAGE_DELEGATION_EDGE, envelope.delegation_edge_id.as_deref()),
        (BAGGAGE_PARENT_EDGE, envelope.parent_edge_id.as_deref()),
        (BAGGAGE_SESSION, envelope.authority_record_id.as_deref()),
    ];
    for (key, id) in ids {
        members.insert(key.to_owned(), id.unwrap_or_default().to_owned());
    }
    let bound = ids.iter().any(|(_, id)| id.is_some_and(|id| !id.is_empty()));
    let hop = (envelope.hop > 0 || bound).then(|| envelope.hop.min(MAX_HOP).to_string());
    members.insert(BAGGAGE_HOP.to_owned(), hop.unwrap_or_default());

    match baggage::to_header_value(&members) {
        Some(value) => {
            headers.insert(HEADER_BAGGAGE, value);
        }
        None => {
            headers.remove(HEADER_BAGGAGE);
        }
    }
}

/// [`encode_envelope`] onto an empty map.
#[must_use]
pub fn to_headers(envelope: &Envelope) -> HeaderMap {
    let mut headers = HeaderMap::new();
    encode_envelope(envelope, &mut headers);
    headers
}

/// [`decode_envelope`] by its other name.
#[must_use]
pub fn from_headers(headers: &HeaderMap) -> Envelope {
    decode_envelope(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_is_never_written() {
        let envelope =
            Envelope { subject_token: Some(BearerToken::new("secret")), ..Envelope::default() };
        assert!(!to_headers(&envelope).contains_key(HEADER_AUTHORIZATION));
    }

    #[test]
    fn stale_members_disappear_even_when_nothing_else_is_left() {
        let mut headers = HeaderMap::new();
        headers.insert("baggage", HeaderValue::from_static("caracal.agent_session=stale"));
        encode_envelope(&Envelope::default(), &mut headers);
        assert!(!headers.contains_key("baggage"));

        headers.insert("baggage", HeaderValue::from_static("caracal.hop=3,caracal.foo=1"));
        encode_envelope(&Envelope::default(), &mut headers);
        assert_eq!(headers["baggage"], "caracal.foo=1");
    }

    #[test]
    fn an_envelope_never_forges_a_reserved_key_through_its_baggage() {
        let mut envelope = Envelope::default();
        envelope.baggage.insert(BAGGAGE_AGENT_SESSION.into(), "forged".into());
        assert!(!to_headers(&envelope).contains_key("baggage"));
    }

    #[test]
    fn a_hop_beyond_the_maximum_is_clamped_on_both_sides() {
        let envelope = Envelope { hop: 99, ..Envelope::default() };
        let headers = to_headers(&envelope);
        assert_eq!(headers["baggage"], "caracal.hop=32");
        assert_eq!(from_headers(&headers).hop, 32);
    }
}
