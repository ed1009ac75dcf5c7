//! What a person can do about a refusal.

use http::StatusCode;

use super::ControlPlane;

/// What to do about a refusal, where its code alone does not say it. For people: nothing else
/// depends on it.
pub(super) fn of(
    service: ControlPlane,
    action: &str,
    status: StatusCode,
    code: Option<&str>,
) -> Option<&'static str> {
    match service {
        ControlPlane::Sts => of_sts(action, status, code?),
        ControlPlane::Coordinator => of_coordinator(code?),
        ControlPlane::Gateway => None,
    }
}

pub(super) const MINT: &str = "mint a mandate";
pub(super) const MINT_DELEGATED: &str = "mint a delegated mandate";
pub(super) const LIFECYCLE: &str = "get a lifecycle token";

fn of_sts(action: &str, status: StatusCode, code: &str) -> Option<&'static str> {
    Some(match (status.as_u16(), code) {
        (401, "access_denied") => "check the application id and the client secret",
        (403, "zone_invalid") => "the application belongs to another zone; check the zone id",
        (429, "provider_rate_limited") => {
            "too many wrong client secrets for this application; it is locked for a minute"
        }
        (403, "access_denied") if action == MINT => {
            "without a delegation an application gets lifecycle authority only: narrow the session \
             with Grant::narrow, accept a delegation in it, or call as the application"
        }
        (403, "access_denied") if action == MINT_DELEGATED => {
            "the delegation must be live and cover resource and scopes, one of the session's labels \
             must be a role that is granted all of the scopes, and max_hops must suffice: for the \
             delegation at depth d it must be at least d, and each one above it one more; without a \
             reason it may be the limit of mints, of which each call takes two: 500 calls a minute by \
             default for a resource and an application"
        }
        (403, "access_denied") if action == LIFECYCLE => {
            "the configured resources must be granted to this application"
        }
        (_, "unexpected_redirect") => "no redirect is followed; check the STS URL",
        _ => return None,
    })
}

/// The Coordinator refused a token that was minted just before, or is the only one there is.
pub(super) fn of_token(code: &str, minted: bool) -> &'static str {
    if code == "missing_token" {
        "the token did not arrive: the Coordinator takes 4096 characters at most"
    } else if minted {
        "a token minted just now was refused as well; for up to 30 s after a key rotation the \
         Coordinator does not know the new key yet, and an archived application has no good ones"
    } else {
        "the token that this client was given has expired, or was revoked"
    }
}

fn of_coordinator(code: &str) -> Option<&'static str> {
    Some(match code {
        "session_zone_limit_exceeded" | "session_limit_exceeded" => {
            "end sessions that are no longer needed; all live ones of the zone and of the application count"
        }
        "session_children_limit_exceeded" => "a session has at most 10 live children",
        "session_depth_limit_exceeded" => "sessions nest at most 10 deep",
        "parent_not_found" => "the parent session has ended or is suspended",
        "parent_ownership_required" => "a child must be of its parent's application",
        "task_session_cannot_start_service" => {
            "a service is started at the root or below a service, never below a task"
        }
        "inherit_parent_edge_ambiguous" => {
            "the parent holds several delegations; name one with inherit_parent_edge"
        }
        "inherit_parent_edge_not_active" => {
            "what the parent held has run out or was revoked; use Grant::none or Grant::narrow"
        }
        "idempotency_key_conflict" => {
            "the key was used with another content, or for a start under another lifecycle token; \
             authority_record makes a start independent of the token"
        }
        "idempotency_result_inactive" => "what was made under this key has ended; use another key",
        "delegation_exceeds_parent_authority" => {
            "only scopes and resources of the delegation that is given on, for a shorter ttl and with a \
             smaller max_hops; that delegation needs a max_hops of at least 2"
        }
        "delegation_scopes_exceed_resource" => "the resource does not declare all of the scopes",
        "delegation_endpoint_not_found" => "one of the two sessions has ended or is suspended",
        "delegation_application_mismatch" => {
            "the receiving session belongs to another application; name it with to_application"
        }
        "parent_delegation_ambiguous" => {
            "the session holds several delegations; accept the one to give on from"
        }
        "issuer_ownership_required" => "only the application that made a delegation can revoke it",
        "session_lease_fenced" => "somebody else has taken the service over",
        "session_lease_expired" | "session_suspended" => {
            "the service is suspended; an operator has to resume it"
        }
        "session_not_service" => "only services have a lease",
        "unexpected_redirect" => "no redirect is followed; check the Coordinator URL",
        _ => return None,
    })
}
