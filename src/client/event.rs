//! What a client tells of itself.

use std::time::Duration;

use super::{ApprovalState, CaracalError, ConfigSource};

/// Something that a client did, or could not do. No token and no secret is in it; paths hold the
/// ids of zones, sessions and delegations.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientEvent {
    /// A token was asked for: at the STS, or found among those kept. Who joins an exchange under
    /// way causes none.
    #[non_exhaustive]
    TokenExchange {
        /// Whether there is one.
        ok: bool,
        /// Whether it was one of those kept.
        cached: bool,
        /// The resources.
        resources: Vec<String>,
        /// The scopes.
        scopes: Vec<String>,
        /// The status of the answer, where there was one.
        status: Option<u16>,
        /// [`CaracalError::code`] of the failure.
        code: Option<String>,
        /// By what id the STS knows the exchange.
        request_id: Option<String>,
        /// How long it took.
        duration: Duration,
    },
    /// A request to the Coordinator.
    #[non_exhaustive]
    CoordinatorCall {
        /// Whether it was answered with success.
        ok: bool,
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// The status of the answer, where there was one.
        status: Option<u16>,
        /// [`CaracalError::code`] of the failure.
        code: Option<String>,
        /// By what id the Coordinator knows the request.
        request_id: Option<String>,
        /// Whether it is the answer of an earlier request with the same `Idempotency-Key`.
        replayed: bool,
        /// How long it took.
        duration: Duration,
    },
    /// An approval was waited for.
    #[non_exhaustive]
    ApprovalWait {
        /// The approval.
        approval_id: String,
        /// What has become of it; unknown where that could not be asked.
        state: Option<ApprovalState>,
    },
    /// A delegation was accepted, or not.
    #[non_exhaustive]
    DelegationAccept {
        /// Whether it was.
        ok: bool,
        /// The delegation.
        delegation_edge_id: String,
        /// The session that accepted it.
        agent_session_id: String,
    },
    /// A session could not be ended.
    #[non_exhaustive]
    EndFailed {
        /// The session.
        agent_session_id: String,
        /// Why.
        error: CaracalError,
    },
    /// A start or end hook failed.
    #[non_exhaustive]
    HookFailed {
        /// The session.
        agent_session_id: String,
        /// The failure.
        error: CaracalError,
    },
    /// Nobody of this process will end this session any more: a task is left to its ttl, a service is
    /// suspended when its lease runs out, until an operator ends it.
    #[non_exhaustive]
    LeftBehind {
        /// The session; unknown where it may have been started and the answer never came.
        agent_session_id: Option<String>,
        /// Whether it is a service.
        service: bool,
        /// Why.
        error: CaracalError,
    },
    /// A delegation was made for somebody who no longer waited for it. It lasts until its end, unless
    /// it is revoked.
    #[non_exhaustive]
    DelegationUnclaimed {
        /// The delegation.
        delegation_edge_id: String,
    },
    /// The client was configured.
    #[non_exhaustive]
    Configured {
        /// By what.
        source: ConfigSource,
    },
}
