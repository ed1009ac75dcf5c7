//! Who acts, in words.

use super::Caracal;
use crate::{CaracalContext, TraceId, current};

/// What is known of the authority of a context. No token is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Authority {
    /// Whether a verifier proved it. What is neither proven nor of this process is whatever its caller
    /// claims.
    pub proven: bool,
    /// Whether it is of this process.
    pub own: bool,
    /// The zone.
    pub zone_id: String,
    /// The application.
    pub application_id: String,
    /// The authority record, where one was named.
    pub subject_authority_record_id: Option<String>,
    /// The agent session.
    pub agent_session_id: Option<String>,
    /// The delegation it acts under.
    pub delegation_edge_id: Option<String>,
    /// The delegation above that.
    pub parent_edge_id: Option<String>,
    /// The trace.
    pub trace_id: Option<TraceId>,
    /// Over how many delegations the authority came.
    pub hop: u32,
    /// The same from the subject to the delegation, each as `kind:id`: `subject`, `session`,
    /// `parent-delegation`, `delegation`.
    pub chain: Vec<String>,
}

impl Caracal {
    /// Describes the authority of a context, or of the bound one; nothing where none is bound. Asks
    /// nobody: it says what the context says.
    #[must_use]
    pub fn describe_authority(&self, context: Option<&CaracalContext>) -> Option<Authority> {
        let context = context.cloned().or_else(current)?;
        let owned = |id: Option<&str>| id.map(str::to_owned);
        let links = [
            ("subject", context.authority_record_id()),
            ("session", context.agent_session_id()),
            ("parent-delegation", context.parent_edge_id()),
            ("delegation", context.delegation_edge_id()),
        ];
        let chain = links.into_iter().filter_map(|(kind, id)| Some(format!("{kind}:{}", id?)));
        Some(Authority {
            proven: context.is_proven(),
            own: context.is_own(),
            zone_id: context.zone_id().to_owned(),
            application_id: context.application_id().to_owned(),
            subject_authority_record_id: owned(context.authority_record_id()),
            agent_session_id: owned(context.agent_session_id()),
            delegation_edge_id: owned(context.delegation_edge_id()),
            parent_edge_id: owned(context.parent_edge_id()),
            trace_id: context.trace_id(),
            hop: context.hop(),
            chain: chain.collect(),
        })
    }
}
