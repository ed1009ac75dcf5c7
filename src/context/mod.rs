//! The identity bound to a request: what handlers and outbound calls see.

mod binding;
mod current;
mod extract;
mod mandate;
#[cfg(feature = "client")]
mod own;
mod proof;
mod reporting;

use std::{
    collections::BTreeMap,
    fmt, str,
    sync::{Arc, OnceLock},
};

use http::HeaderMap;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use smallvec::SmallVec;

pub use binding::Binding;
pub use current::{Bound, InContext, bind, current};
pub(crate) use current::{scoped, sync_scoped};
pub use extract::ContextRejection;
pub(crate) use mandate::MandateClaims;
pub use mandate::{ChainLink, Mandate, TokenUse};
#[cfg(feature = "client")]
pub(crate) use own::{HeldEdge, MadeEdge, Own};
pub(crate) use proof::Attribution;
pub use proof::{Proof, ProofBuilder};
pub(crate) use reporting::{Reporting, Seen};

use crate::envelope::{
    BearerToken, Envelope, OWN_KEYS, TraceFlags, TraceId, join_lines, parse_baggage,
    parse_traceparent, trace_lines,
};

/// Who a request acts for: a cheap-to-clone handle.
///
/// As a handler argument it is the identity that the [`CaracalLayer`](crate::CaracalLayer) proved;
/// a request without one is refused with 401. `Option<CaracalContext>` accepts both. It owns all
/// it holds, so keeping it does not keep the request's headers.
///
/// Behind `enforce` every id, scope and hop comes from the mandate, and what the mandate does not
/// say is absent; only the trace and other parties' baggage come from headers.
/// [`is_proven`](Self::is_proven) tells.
#[derive(Clone)]
pub struct CaracalContext(Arc<Inner>);

struct Inner {
    identity: Identity,
    /// `traceparent`, `tracestate` and baggage as they came, parsed on demand; within this
    /// allocation where they are as short as usual.
    text: SmallVec<[u8; 120]>,
    parent_len: usize,
    state_len: usize,
    trace: OnceLock<Option<(TraceId, TraceFlags)>>,
    baggage: OnceLock<BTreeMap<String, String>>,
}

enum Identity {
    Proven(Proof),
    Claimed(Box<Claimed>),
    #[cfg(feature = "client")]
    Own(Box<Own>),
}

/// An identity nobody signed for.
struct Claimed {
    attribution: Attribution,
    subject_token: Option<BearerToken>,
}

impl CaracalContext {
    /// The identity of `proof`, with the trace and baggage of the request.
    #[must_use]
    pub fn proven(proof: Proof, headers: &HeaderMap) -> Self {
        let (parent, state) = trace_lines(headers);
        let baggage = join_lines(headers).unwrap_or_default();
        let mut text = SmallVec::new();
        for part in [parent, state, &*baggage] {
            text.extend_from_slice(part.as_bytes());
        }
        Self(Arc::new(Inner {
            identity: Identity::Proven(proof),
            text,
            parent_len: parent.len(),
            state_len: state.len(),
            trace: OnceLock::new(),
            baggage: OnceLock::new(),
        }))
    }

    /// Whether a verifier proved this identity. One that is not proven satisfies no requirement.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proof().is_some()
    }

    /// The proof, where there is one.
    #[must_use]
    pub fn proof(&self) -> Option<&Proof> {
        match &self.0.identity {
            Identity::Proven(proof) => Some(proof),
            _ => None,
        }
    }

    /// Whether it is an identity of this process: an agent session that its
    #[cfg_attr(feature = "client", doc = "[`Caracal`](crate::Caracal) client")]
    #[cfg_attr(not(feature = "client"), doc = "client")]
    /// started or took over, or the application itself. Nobody proved that one; it is not a
    /// caller's either.
    #[must_use]
    pub fn is_own(&self) -> bool {
        match &self.0.identity {
            Identity::Proven(_) | Identity::Claimed(_) => false,
            #[cfg(feature = "client")]
            Identity::Own(_) => true,
        }
    }

    #[cfg(feature = "client")]
    pub(crate) fn own(&self) -> Option<&Own> {
        match &self.0.identity {
            Identity::Own(own) => Some(own),
            _ => None,
        }
    }

    fn attribution(&self) -> &Attribution {
        match &self.0.identity {
            Identity::Proven(proof) => proof.attribution(),
            Identity::Claimed(claimed) => &claimed.attribution,
            #[cfg(feature = "client")]
            Identity::Own(own) => &own.attribution,
        }
    }

    /// The zone (`zone_id` of the mandate).
    #[must_use]
    pub fn zone_id(&self) -> &str {
        &self.attribution().zone
    }

    /// The application that acts (`client_id` of the mandate).
    #[must_use]
    pub fn application_id(&self) -> &str {
        &self.attribution().application
    }

    /// The governed agent session.
    #[must_use]
    pub fn agent_session_id(&self) -> Option<&str> {
        self.attribution().agent_session_id.as_deref()
    }

    /// The delegation edge the authority came over.
    #[must_use]
    pub fn delegation_edge_id(&self) -> Option<&str> {
        self.attribution().delegation_edge_id.as_deref()
    }

    /// The edge above it. A mandate does not name one.
    #[must_use]
    pub fn parent_edge_id(&self) -> Option<&str> {
        self.attribution().parent_edge_id.as_deref()
    }

    /// The authority record (`sid` of the mandate).
    #[must_use]
    pub fn authority_record_id(&self) -> Option<&str> {
        self.attribution().authority_record_id.as_deref()
    }

    /// Over how many delegations the authority came.
    #[must_use]
    pub fn hop(&self) -> u32 {
        self.attribution().hop
    }

    /// The scopes held, each a word. None where nothing is proven.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.proof().into_iter().flat_map(Proof::scopes)
    }

    /// Whether exactly this scope is held; there are no wildcards.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|held| held == scope)
    }

    /// The resources the authority is for. None where nothing is proven.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.proof().into_iter().flat_map(Proof::targets)
    }

    /// The applications that the authority came through, from the origin to the one that acts. None
    /// where nothing is proven.
    #[must_use]
    pub fn delegation_chain(&self) -> &[ChainLink] {
        self.proof().map_or(&[], Proof::delegation_chain)
    }

    /// When the authority ends, in Unix seconds. `None` where nothing is proven.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.proof().map(Proof::expires_at)
    }

    fn trace(&self) -> Option<(TraceId, TraceFlags)> {
        *self.0.trace.get_or_init(|| self.text(0, self.0.parent_len).and_then(parse_traceparent))
    }

    fn text(&self, from: usize, length: usize) -> Option<&str> {
        str::from_utf8(self.0.text.get(from..from + length)?).ok()
    }

    /// The trace this request belongs to.
    #[must_use]
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace().map(|(id, _)| id)
    }

    /// The flags of that trace.
    #[must_use]
    pub fn trace_flags(&self) -> Option<TraceFlags> {
        self.trace().map(|(_, flags)| flags)
    }

    /// Vendor trace state, opaque.
    #[must_use]
    pub fn trace_state(&self) -> Option<&str> {
        let state = self.text(self.0.parent_len, self.0.state_len)?.trim();
        Some(state).filter(|state| !state.is_empty())
    }

    /// Other parties' baggage; unsigned, whoever the caller is.
    #[must_use]
    pub fn baggage(&self) -> &BTreeMap<String, String> {
        self.0.baggage.get_or_init(|| {
            let from = self.0.parent_len + self.0.state_len;
            let raw = self.text(from, self.0.text.len() - from).unwrap_or_default();
            let mut members = parse_baggage(raw);
            OWN_KEYS.iter().for_each(|own| drop(members.remove(*own)));
            members
        })
    }

    /// The bearer an unproven envelope came with. A proven context does not keep its mandate, and
    /// one of this process has no lasting one.
    #[must_use]
    pub fn subject_token(&self) -> Option<&BearerToken> {
        match &self.0.identity {
            Identity::Claimed(claimed) => claimed.subject_token.as_ref(),
            _ => None,
        }
    }
}

/// A proven identity without trace and baggage: for tests of handlers.
impl From<Proof> for CaracalContext {
    fn from(proof: Proof) -> Self {
        Self::proven(proof, &HeaderMap::new())
    }
}

/// What `context` says about itself to the next service.
#[must_use]
pub fn to_envelope(context: &CaracalContext) -> Envelope {
    let attribution = context.attribution();
    let owned = |id: &Option<Box<str>>| id.as_deref().map(str::to_owned);
    Envelope {
        subject_token: context.subject_token().cloned(),
        agent_session_id: owned(&attribution.agent_session_id),
        delegation_edge_id: owned(&attribution.delegation_edge_id),
        parent_edge_id: owned(&attribution.parent_edge_id),
        authority_record_id: owned(&attribution.authority_record_id),
        trace_id: context.trace_id(),
        trace_flags: context.trace_flags(),
        trace_state: context.trace_state().map(str::to_owned),
        hop: context.hop(),
        baggage: context.baggage().clone(),
    }
}

/// An **unproven** context that believes `envelope`, in `zone` as `application`.
#[must_use]
pub fn from_envelope(mut envelope: Envelope, zone: &str, application: &str) -> CaracalContext {
    let boxed = |id: Option<String>| id.filter(|id| !id.is_empty()).map(String::into_boxed_str);
    let claimed = Claimed {
        attribution: Attribution {
            zone: zone.into(),
            application: application.into(),
            agent_session_id: boxed(envelope.agent_session_id.take()),
            delegation_edge_id: boxed(envelope.delegation_edge_id.take()),
            parent_edge_id: boxed(envelope.parent_edge_id.take()),
            authority_record_id: boxed(envelope.authority_record_id.take()),
            hop: envelope.hop,
        },
        subject_token: envelope.subject_token.take(),
    };
    unsigned(Identity::Claimed(Box::new(claimed)), envelope)
}

/// A context of this process, with the trace and the foreign baggage of `envelope`.
#[cfg(feature = "client")]
pub(crate) fn own(own: Own, envelope: Envelope) -> CaracalContext {
    unsigned(Identity::Own(Box::new(own)), envelope)
}

fn unsigned(identity: Identity, envelope: Envelope) -> CaracalContext {
    let text = SmallVec::from_vec(envelope.trace_state.unwrap_or_default().into_bytes());
    CaracalContext(Arc::new(Inner {
        identity,
        trace: OnceLock::from(envelope.trace_id.zip(envelope.trace_flags)),
        parent_len: 0,
        state_len: text.len(),
        text,
        baggage: OnceLock::from(envelope.baggage),
    }))
}

/// The current context with some of its envelope changed; `None` outside of any.
///
/// The result is **unproven**, whatever the current context is: nobody signed for the change.
pub fn with_overrides(change: impl FnOnce(&mut Envelope)) -> Option<CaracalContext> {
    let context = current()?;
    let mut envelope = to_envelope(&context);
    change(&mut envelope);
    Some(from_envelope(envelope, context.zone_id(), context.application_id()))
}

impl fmt::Debug for CaracalContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaracalContext")
            .field("proven", &self.is_proven())
            .field("own", &self.is_own())
            .field("zone_id", &self.zone_id())
            .field("application_id", &self.application_id())
            .field("agent_session_id", &self.agent_session_id())
            .field("delegation_edge_id", &self.delegation_edge_id())
            .field("hop", &self.hop())
            .field("trace_id", &self.trace_id())
            .finish_non_exhaustive()
    }
}

/// The identity by the names of its accessors; no token, no baggage.
impl Serialize for CaracalContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut state = serializer.serialize_struct("CaracalContext", 12)?;
        state.serialize_field("proven", &self.is_proven())?;
        state.serialize_field("zone_id", self.zone_id())?;
        state.serialize_field("application_id", self.application_id())?;
        state.serialize_field("agent_session_id", &self.agent_session_id())?;
        state.serialize_field("delegation_edge_id", &self.delegation_edge_id())?;
        state.serialize_field("parent_edge_id", &self.parent_edge_id())?;
        state.serialize_field("authority_record_id", &self.authority_record_id())?;
        state.serialize_field("hop", &self.hop())?;
        state.serialize_field("scopes", &self.scopes().collect::<Vec<_>>())?;
        state.serialize_field("targets", &self.targets().collect::<Vec<_>>())?;
        state.serialize_field("expires_at", &self.expires_at())?;
        state.serialize_field("trace_id", &self.trace_id().as_ref().map(TraceId::as_str))?;
        state.end()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn proof() -> Proof {
        Proof::builder("zone", "app", 100)
            .agent_session_id("real")
            .hop(1)
            .scopes(["a", "b"])
            .build()
    }

    fn spoofed() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("baggage", "caracal.agent_session=forged,caracal.delegation_edge=forged,tenant=t"),
            ("baggage", "caracal.hop=9"),
            ("tracestate", " k=v "),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_proof_replaces_every_id_even_with_absence() {
        let context = CaracalContext::proven(proof(), &spoofed());
        assert_eq!(context.agent_session_id(), Some("real"));
        assert_eq!(context.delegation_edge_id(), None);
        assert_eq!(context.hop(), 1);
        assert_eq!(context.trace_state(), Some("k=v"));
        assert_eq!(context.baggage().len(), 1);
        assert_eq!(context.baggage()["tenant"], "t");
        assert!(context.has_scope("a") && !context.has_scope("a b"));
    }

    #[test]
    fn an_envelope_goes_round_unproven() {
        let envelope = crate::envelope::decode_envelope(&spoofed());
        let context = from_envelope(envelope.clone(), "zone", "app");
        assert!(!context.is_proven());
        assert_eq!(context.agent_session_id(), Some("forged"));
        assert_eq!((context.scopes().count(), context.expires_at()), (0, None));
        assert_eq!(to_envelope(&context), envelope);
    }

    #[test]
    fn overrides_are_unproven() {
        let context = CaracalContext::proven(proof(), &HeaderMap::new());
        let changed = context
            .sync_scope(|| with_overrides(|envelope| envelope.agent_session_id = Some("x".into())))
            .unwrap();
        assert_eq!(changed.agent_session_id(), Some("x"));
        assert_eq!(changed.zone_id(), "zone");
        assert!(!changed.is_proven());
        assert!(with_overrides(|_| ()).is_none());
    }

    #[test]
    fn a_context_does_not_pin_the_header_block() {
        let value = HeaderValue::from_bytes(b"tenant=t").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("baggage", value);
        let context = CaracalContext::proven(proof(), &headers);
        drop(headers);
        assert_eq!(context.baggage()["tenant"], "t");
    }
}
