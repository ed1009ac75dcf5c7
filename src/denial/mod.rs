//! The one refusal type: what a caller is told, and why it really happened.

mod reason;
mod render;

use std::{borrow::Cow, fmt, time::Duration};

use http::StatusCode;

pub use reason::Reason;
pub(crate) use render::Rendering;

/// The stable code of a refusal: the `error` member of the response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialCode {
    /// The request carries no bearer credential.
    MissingToken,
    /// The request carries its credential in more than one header line.
    InvalidRequest,
    /// Something is wrong with the mandate itself.
    InvalidToken,
    /// The mandate belongs to another zone.
    InvalidZone,
    /// The session, record or delegation behind the mandate was revoked.
    SessionRevoked,
    /// The delegation graph of the zone changed after the mandate was issued.
    DelegationStale,
    /// The mandate lacks a scope the route needs.
    InsufficientScope,
    /// The route needs a governed session.
    SessionRequired,
    /// The route needs delegated authority.
    DelegationRequired,
    /// The delegation chain lacks an application the route needs.
    ChainMismatch,
    /// The mandate was delegated over too many hops.
    HopCountExceeded,
    /// Keys or revocations cannot be asked at the moment.
    VerificationUnavailable,
    /// The service is put together wrongly; the log says how.
    InternalError,
}

impl DenialCode {
    /// The wire form of the code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidToken => "invalid_token",
            Self::InvalidZone => "invalid_zone",
            Self::SessionRevoked => "session_revoked",
            Self::DelegationStale => "delegation_stale",
            Self::InsufficientScope => "insufficient_scope",
            Self::SessionRequired => "session_required",
            Self::DelegationRequired => "delegation_required",
            Self::ChainMismatch => "chain_mismatch",
            Self::HopCountExceeded => "hop_count_exceeded",
            Self::VerificationUnavailable => "verification_unavailable",
            Self::InternalError => "internal_error",
        }
    }

    /// The HTTP status the code is answered with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::MissingToken
            | Self::InvalidToken
            | Self::InvalidZone
            | Self::SessionRevoked
            | Self::DelegationStale => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope
            | Self::SessionRequired
            | Self::DelegationRequired
            | Self::ChainMismatch
            | Self::HopCountExceeded => StatusCode::FORBIDDEN,
            Self::VerificationUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::MissingToken => "Send Authorization: Bearer <Caracal mandate>.",
            Self::InvalidRequest => "Send the credential in exactly one header line.",
            Self::InvalidToken => {
                "Check issuer, audience, signature, expiry, token use, scopes, and targets."
            }
            Self::InvalidZone => "Check the configured zone ID and the mandate zone_id claim.",
            Self::SessionRevoked => "Refresh the mandate or start a new authorized session.",
            Self::DelegationStale => {
                "Refresh the mandate so delegated authority is evaluated against the latest graph."
            }
            Self::InsufficientScope => {
                "Request a mandate that includes every required scope for this route."
            }
            Self::SessionRequired => "Use a resource mandate issued for a governed Session.",
            Self::DelegationRequired => "Use a mandate produced by a delegated grant flow.",
            Self::ChainMismatch => "Check require_chain_contains and the mandate delegation chain.",
            Self::HopCountExceeded => {
                "Reduce delegation depth or raise max_hop_count deliberately."
            }
            Self::VerificationUnavailable => "Retry after the time given in Retry-After.",
            Self::InternalError => return None,
        })
    }

    /// One text per code: which check a token failed is never told to the caller.
    const fn description(self) -> &'static str {
        match self {
            Self::MissingToken => "Missing bearer token",
            Self::InvalidRequest => "More than one credential header",
            Self::InvalidToken => "Token validation failed",
            Self::InvalidZone => "Token zone validation failed",
            Self::SessionRevoked => "Session revoked",
            Self::DelegationStale => "Delegation graph changed",
            Self::InsufficientScope => "Not permitted",
            Self::SessionRequired => "Session required",
            Self::DelegationRequired => "Delegation required",
            Self::ChainMismatch => "Delegation chain validation failed",
            Self::HopCountExceeded => "Hop count exceeded",
            Self::VerificationUnavailable => "Verification is temporarily unavailable",
            Self::InternalError => "Internal server error",
        }
    }
}

impl fmt::Display for DenialCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused request.
///
/// What the caller sees is the [`code`](Self::code), a fixed text per code and a challenge; the
/// exact [`reason`](Self::reason) is for logs and never leaves the service. `Display` prints both,
/// so do not send it to callers.
///
/// As a response (`IntoResponse`) it is JSON, `{"error", "error_description", "error_hint"}`, with
/// `Cache-Control: no-store` and, for 400, 401 and 403, a `WWW-Authenticate: Bearer` challenge
/// (RFC 6750 §3). Refusals of a [`CaracalLayer`](crate::CaracalLayer), of a
/// [`Require`](crate::Require) and of an extractor are rendered as the layer is told to, and gRPC
/// requests get the matching `grpc-status`; a `Denial` that a handler itself returns is JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Denial {
    code: DenialCode,
    reason: Reason,
    /// The missing scope or application, named in the description.
    missing: Option<Box<str>>,
    /// Every scope the route needs, as one `scope` challenge parameter.
    needs: Option<Box<str>>,
    retry_after: Option<Duration>,
}

impl Denial {
    pub(crate) const fn new(code: DenialCode, reason: Reason) -> Self {
        Self { code, reason, missing: None, needs: None, retry_after: None }
    }

    /// 401: the request has no credential, or none of the scheme expected.
    #[must_use]
    pub const fn missing_token() -> Self {
        Self::new(DenialCode::MissingToken, Reason::NoCredential)
    }

    /// 400: the request carries its credential more than once.
    #[must_use]
    pub const fn invalid_request() -> Self {
        Self::new(DenialCode::InvalidRequest, Reason::RepeatedCredential)
    }

    /// 401: the token is not acceptable, for `reason`.
    #[must_use]
    pub fn invalid_token(reason: impl Into<Reason>) -> Self {
        Self::new(DenialCode::InvalidToken, reason.into())
    }

    /// 401: the token was issued for another zone.
    #[must_use]
    pub const fn invalid_zone() -> Self {
        Self::new(DenialCode::InvalidZone, Reason::Zone)
    }

    /// 401: the authority behind the token was revoked.
    #[must_use]
    pub const fn session_revoked() -> Self {
        Self::new(DenialCode::SessionRevoked, Reason::Revoked)
    }

    /// 401: the delegation graph moved on since the token was issued.
    #[must_use]
    pub const fn delegation_stale() -> Self {
        Self::new(DenialCode::DelegationStale, Reason::DelegationStale)
    }

    /// 403: `missing` is the first scope the caller lacks, `needed` all that the route needs.
    #[must_use]
    pub fn insufficient_scope<S: AsRef<str>>(
        missing: &str,
        needed: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut needs = String::new();
        for scope in needed {
            if !needs.is_empty() {
                needs.push(' ');
            }
            needs.push_str(scope.as_ref());
        }
        Self {
            missing: Some(missing.into()),
            needs: Some(needs.into()),
            ..Self::new(DenialCode::InsufficientScope, Reason::ScopeMissing)
        }
    }

    /// 403 `insufficient_scope` for a rule of your own: authentic, but not allowed to do this.
    #[must_use]
    pub fn forbidden(reason: impl Into<Reason>) -> Self {
        Self::new(DenialCode::InsufficientScope, reason.into())
    }

    /// 403: the route needs a governed session.
    #[must_use]
    pub const fn session_required() -> Self {
        Self::new(DenialCode::SessionRequired, Reason::SessionMissing)
    }

    /// 403: the route needs delegated authority.
    #[must_use]
    pub const fn delegation_required() -> Self {
        Self::new(DenialCode::DelegationRequired, Reason::DelegationMissing)
    }

    /// 403: `application` is not in the delegation chain.
    #[must_use]
    pub fn chain_mismatch(application: &str) -> Self {
        Self {
            missing: Some(application.into()),
            ..Self::new(DenialCode::ChainMismatch, Reason::ChainMissing)
        }
    }

    /// 403: delegated over more hops than allowed.
    #[must_use]
    pub const fn hop_count_exceeded() -> Self {
        Self::new(DenialCode::HopCountExceeded, Reason::HopLimit)
    }

    /// 503: whether the token is good cannot be told now. `retry_after` is rounded up to seconds.
    #[must_use]
    pub fn unavailable(reason: impl Into<Reason>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(DenialCode::VerificationUnavailable, reason.into())
        }
    }

    /// 500: the service is put together wrongly. The caller learns nothing else.
    #[must_use]
    pub fn misconfigured(reason: impl Into<Reason>) -> Self {
        Self::new(DenialCode::InternalError, reason.into())
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> DenialCode {
        self.code
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// Why exactly; for logs, never for the caller.
    #[must_use]
    pub const fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The text a caller may read.
    #[must_use]
    pub fn description(&self) -> Cow<'static, str> {
        match (self.code, &self.missing) {
            (DenialCode::InsufficientScope, Some(scope)) => {
                format!("Missing scope: {scope}").into()
            }
            (DenialCode::ChainMismatch, Some(application)) => {
                format!("Delegation chain missing application: {application}").into()
            }
            _ => self.code.description().into(),
        }
    }

    /// What the caller can do about it, where there is something.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self.code {
            // A rule of the service's own: no other scope would help.
            DenialCode::InsufficientScope if self.missing.is_none() => None,
            code => code.hint(),
        }
    }

    /// How long to wait before trying again, for a 503.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// One event per refusal; faults of the service itself stand out from refused callers.
    pub(crate) fn log(&self, route: Option<&str>) {
        let (code, reason) = (self.code.as_str(), &self.reason);
        match self.code {
            DenialCode::InternalError => {
                tracing::error!(target: "caracal::denial", code, route, %reason, "misconfigured");
            }
            DenialCode::VerificationUnavailable => {
                tracing::warn!(target: "caracal::denial", code, route, %reason, "unavailable");
            }
            _ => tracing::info!(target: "caracal::denial", code, route, %reason, "denied"),
        }
    }

    /// Every scope the route needs, separated by spaces, where scopes are what is missing.
    #[must_use]
    pub fn needed_scopes(&self) -> Option<&str> {
        self.needs.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_status_of_the_contract() {
        let table = [
            (DenialCode::MissingToken, 401),
            (DenialCode::InvalidRequest, 400),
            (DenialCode::InvalidToken, 401),
            (DenialCode::InvalidZone, 401),
            (DenialCode::SessionRevoked, 401),
            (DenialCode::DelegationStale, 401),
            (DenialCode::InsufficientScope, 403),
            (DenialCode::SessionRequired, 403),
            (DenialCode::DelegationRequired, 403),
            (DenialCode::ChainMismatch, 403),
            (DenialCode::HopCountExceeded, 403),
            (DenialCode::VerificationUnavailable, 503),
            (DenialCode::InternalError, 500),
        ];
        for (code, status) in table {
            assert_eq!(code.status().as_u16(), status, "{code}");
        }
    }

    #[test]
    fn descriptions_name_what_is_missing_and_nothing_else() {
        assert_eq!(Denial::insufficient_scope("b", ["a", "b"]).description(), "Missing scope: b");
        assert_eq!(Denial::insufficient_scope("b", ["a", "b"]).needed_scopes(), Some("a b"));
        assert_eq!(Denial::forbidden("amount").description(), "Not permitted");
        assert_eq!(Denial::forbidden("amount").hint(), None);
        assert_eq!(
            Denial::chain_mismatch("app").description(),
            "Delegation chain missing application: app"
        );
        assert_eq!(
            Denial::invalid_token(Reason::Expired).description(),
            Denial::invalid_token(Reason::Signature).description(),
        );
    }

    #[test]
    fn display_is_for_logs() {
        let denial = Denial::invalid_token(Reason::Claim("exp"));
        assert_eq!(denial.to_string(), "invalid_token: claim exp is missing or not well-formed");
    }
}
