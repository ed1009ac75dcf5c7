//! Where something is done from: the session it belongs to, and what travels on from there.

use super::{CaracalError, coordinator::segment};
use crate::{
    CaracalContext, Envelope, TraceFlags, TraceId,
    context::{HeldEdge, to_envelope},
    current,
};

/// What the context, in which something is done, contributes to it.
///
/// A context that nobody proved, and that is not of this process, contributes trace, state and
/// foreign baggage and nothing else: whoever called chose the rest.
#[derive(Default)]
pub(super) struct Origin {
    pub(super) session: Option<String>,
    pub(super) edge: Option<String>,
    pub(super) held: Option<HeldEdge>,
    pub(super) record: Option<String>,
    pub(super) hop: u32,
    /// Zone and application of the session.
    pub(super) owner: Option<(String, String)>,
    /// Trace, state and foreign baggage.
    pub(super) carry: Envelope,
    pub(super) context: Option<CaracalContext>,
}

impl Origin {
    /// The context that was named, or the one that is bound.
    pub(super) fn of(context: Option<CaracalContext>) -> Self {
        let Some(context) = context.or_else(current) else { return Self::default() };
        let told = to_envelope(&context);
        let carry = Envelope {
            trace_id: told.trace_id,
            trace_flags: told.trace_flags,
            trace_state: told.trace_state,
            baggage: told.baggage,
            ..Envelope::default()
        };
        let held = match context.own() {
            Some(own) => own.edge.clone(),
            // Received, and perhaps one of several that the session holds.
            None => Some(HeldEdge { accepted: true, ..HeldEdge::default() }),
        };
        if !context.is_own() && !context.is_proven() {
            return Self { carry, context: Some(context), ..Self::default() };
        }
        Self {
            session: told.agent_session_id,
            edge: told.delegation_edge_id,
            held,
            record: told.authority_record_id,
            hop: told.hop,
            owner: Some((context.zone_id().to_owned(), context.application_id().to_owned())),
            carry,
            context: Some(context),
        }
    }

    /// A session that no context is known of.
    pub(super) fn nowhere(session: &str) -> Self {
        Self { session: Some(session.to_owned()), ..Self::default() }
    }

    /// Refuses the session of another application, and forgets whatever else is another's.
    pub(super) fn keep_own(&mut self, zone: &str, application: &str) -> Result<(), CaracalError> {
        match self.belongs_to(zone, application) {
            Err(error) if self.session.is_some() => Err(error),
            Err(_) => {
                let (carry, context) = (std::mem::take(&mut self.carry), self.context.take());
                *self = Self { carry, context, ..Self::default() };
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The session that something can be given on from.
    pub(super) fn session(&self) -> Result<&str, CaracalError> {
        self.session.as_deref().ok_or_else(|| {
            CaracalError::usage(
                "session_required",
                match &self.context {
                    Some(context) if !context.is_own() && !context.is_proven() => {
                        "the bound context is unproven, and its session is whatever its caller \
                         claims: verify it, or act within a session of spawn() or spawn_service()"
                    }
                    _ => {
                        "this needs a session: act within spawn() or spawn_service(), or name its \
                          context"
                    }
                },
            )
        })
    }

    /// Refuses the context of another application: this one can do nothing in it.
    pub(super) fn belongs_to(&self, zone: &str, application: &str) -> Result<(), CaracalError> {
        match &self.owner {
            Some((owner_zone, owner)) if owner_zone != zone || owner != application => {
                Err(CaracalError::usage(
                    "foreign_context",
                    format!(
                        "the context belongs to application {owner} in zone {owner_zone}, and this \
                         client is {application} in {zone}: start a session of its own with .root(), \
                         or let {owner} delegate to one"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Trace, state and baggage of something new that is done from here.
    pub(super) fn carry(&self, trace: Option<TraceId>) -> Envelope {
        let mut carry = self.carry.clone();
        carry.trace_id = trace.or(carry.trace_id).or_else(|| Some(TraceId::random()));
        carry.trace_flags = carry.trace_flags.or(Some(TraceFlags::SAMPLED));
        carry
    }
}

/// An id as the Coordinator takes it, as a segment of a path.
pub(super) fn id_segment(what: &str, id: &str) -> Result<String, CaracalError> {
    check_id(what, id).map(|()| segment(id))
}

/// Refuses what the Coordinator would not take as an id.
pub(super) fn check_id(what: &str, id: &str) -> Result<(), CaracalError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:".contains(&byte);
    // `.` and `..` are no segments but steps.
    let steps = matches!(id, "." | "..");
    if (1..=100).contains(&id.len()) && id.bytes().all(good) && !steps {
        return Ok(());
    }
    Err(CaracalError::usage(
        "invalid_id",
        format!("{what} is no id: 1 to 100 of A-Z a-z 0-9 _ . - and : make one"),
    ))
}
