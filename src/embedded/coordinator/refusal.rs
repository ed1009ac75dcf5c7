//! Every refusal of the Coordinator: one table, in the order in which they are judged.

use axum::body::Body;
use http::{StatusCode, response::Response};
use serde_json::{Value, json};

use crate::embedded::web;

/// A refusal: its status, its code, and what stands beside the code.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    status: u16,
    pub(super) code: &'static str,
    more: More,
}

#[derive(Debug, Clone, PartialEq)]
enum More {
    Nothing,
    /// A text for people, and the request id as `requestId`.
    Described(&'static str),
    Issues(Vec<Issue>),
    Message(&'static str),
    /// A text for people, and the request id as `request_id`.
    Identified(&'static str),
    Detail(&'static str),
}

/// What is wrong with one member of a body.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Issue {
    pub(super) path: Vec<String>,
    pub(super) message: String,
}

const fn refusal(status: u16, code: &'static str) -> Refusal {
    Refusal { status, code, more: More::Nothing }
}

const fn unreadable(status: u16, what: &'static str) -> Refusal {
    Refusal { status, code: "internal_error", more: More::Described(what) }
}

// Before any route, in this order (outbound contract §3.2).
pub(super) const PATH_TOO_LONG: Refusal = refusal(414, "invalid_params");
pub(super) const PATH_BROKEN: Refusal = refusal(400, "invalid_params");
pub(super) const RATE_LIMITED: Refusal = refusal(429, "rate_limited");
pub(super) const UNSUPPORTED_BODY: Refusal =
    unreadable(415, "send JSON with the content type application/json");
pub(super) const BODY_TOO_LARGE: Refusal = unreadable(413, "the body is larger than 256 KiB");
pub(super) const BODY_IS_NO_JSON: Refusal = unreadable(400, "the body is not JSON");
pub(super) const MISSING_TOKEN: Refusal = refusal(401, "missing_token");
pub(super) const INVALID_TOKEN: Refusal = refusal(401, "invalid_token");
pub(super) const MISSING_SCOPE: Refusal = refusal(403, "missing_scope");
pub(super) const ZONE_MISMATCH: Refusal = refusal(403, "zone_mismatch");
pub(super) const IDENTITY_REVOKED: Refusal = refusal(401, "identity_revoked");
pub(super) const ROUTE_NOT_FOUND: Refusal = refusal(404, "route_not_found");
pub(super) const INVALID_PARAMS: Refusal = refusal(400, "invalid_params");
pub(super) const INVALID_QUERY: Refusal = refusal(400, "invalid_query");
pub(super) const INVALID_CURSOR: Refusal = refusal(400, "invalid_cursor");

/// What the database of the real one cannot store.
pub(super) const CANNOT_BE_STORED: Refusal =
    unreadable(500, "an empty parent, or U+0000 in a text, cannot be stored");

/// A body of the right syntax with wrong members.
pub(super) fn invalid_body(issues: Vec<Issue>) -> Refusal {
    Refusal { status: 400, code: "invalid_body", more: More::Issues(issues) }
}

/// The form of the routes that tell no more.
pub(super) const INVALID_BODY: Refusal = refusal(400, "invalid_body");

// A start, in this order (§3.3).
pub(super) const NOT_YOUR_APPLICATION: Refusal = refusal(403, "application_ownership_required");
pub(super) const KEY_IS_BLANK: Refusal = Refusal {
    status: 400,
    code: "idempotency_key_invalid",
    more: More::Identified("an Idempotency-Key is not empty and has no blanks around it"),
};
pub(super) const KEY_IS_UNFIT: Refusal = Refusal {
    status: 400,
    code: "idempotency_key_invalid",
    more: More::Identified("an Idempotency-Key has at most 255 bytes and no control characters"),
};
pub(super) const KEY_CONFLICT: Refusal = Refusal {
    status: 409,
    code: "idempotency_key_conflict",
    more: More::Message("another request was sent with this Idempotency-Key before"),
};
pub(super) const TOO_MANY_RECEIPTS: Refusal = refusal(429, "idempotency_receipt_limit_exceeded");
pub(super) const RESULT_INACTIVE: Refusal = Refusal {
    status: 409,
    code: "idempotency_result_inactive",
    more: More::Message("what this request made has ended; send a new one with another key"),
};
pub(super) const DYNAMIC_HOSTS_NO_SERVICE: Refusal =
    refusal(409, "dcr_application_cannot_host_service");
pub(super) const DYNAMIC_IS_NO_CHILD: Refusal = refusal(409, "dcr_application_cannot_be_child");
pub(super) const RECORD_NOT_FOUND: Refusal = Refusal {
    status: 404,
    code: "session_not_found",
    more: More::Detail("subject_session_id names no live authority record of the zone"),
};
pub(super) const ZONE_IS_FULL: Refusal = refusal(429, "session_zone_limit_exceeded");
pub(super) const DYNAMIC_IS_BOUND: Refusal = refusal(409, "dcr_application_already_bound");
pub(super) const APPLICATION_IS_FULL: Refusal = refusal(429, "session_limit_exceeded");
pub(super) const PARENT_NOT_FOUND: Refusal = refusal(404, "parent_not_found");
pub(super) const DYNAMIC_STARTS_NO_CHILD: Refusal =
    refusal(409, "dcr_application_cannot_start_child");
pub(super) const TASK_STARTS_NO_SERVICE: Refusal =
    refusal(409, "task_session_cannot_start_service");
pub(super) const NOT_YOUR_PARENT: Refusal = refusal(403, "parent_ownership_required");
pub(super) const TOO_MANY_CHILDREN: Refusal = refusal(429, "session_children_limit_exceeded");
pub(super) const TOO_DEEP: Refusal = refusal(429, "session_depth_limit_exceeded");
pub(super) const INHERITS_NOTHING: Refusal = refusal(409, "inherit_parent_edge_not_active");
pub(super) const INHERITS_WHICH: Refusal = refusal(409, "inherit_parent_edge_ambiguous");

// What is done to a session, each in the order of its own route (§3.4–3.6, §3.9).
pub(super) const SESSION_NOT_FOUND: Refusal = refusal(404, "session_not_found");
pub(super) const GENERATION_REQUIRED: Refusal = refusal(400, "lease_generation_required");
pub(super) const SESSION_NOT_LIVE: Refusal = refusal(409, "session_not_live");
pub(super) const SESSION_NOT_SERVICE: Refusal = refusal(409, "session_not_service");
pub(super) const SUBJECT_INACTIVE: Refusal = refusal(409, "session_subject_inactive");
pub(super) const SESSION_SUSPENDED: Refusal = refusal(409, "session_suspended");
pub(super) const LEASE_FENCED: Refusal = refusal(409, "session_lease_fenced");
pub(super) const LEASE_EXPIRED: Refusal = refusal(409, "session_lease_expired");
pub(super) const SERVICE_NOT_FOUND: Refusal = refusal(404, "agent_service_not_found");
pub(super) const NOT_ACTIVE: Refusal = refusal(409, "session_not_found_or_not_active");
pub(super) const NOT_SUSPENDED: Refusal = refusal(409, "session_not_found_or_not_suspended");

// A delegation, in this order (§3.7).
pub(super) const fn wrong_constraint(code: &'static str) -> Refusal {
    refusal(400, code)
}
pub(super) const EXPIRY_REQUIRED: Refusal = refusal(400, "delegation_expiry_required");
pub(super) const NOT_YOUR_DELEGATION: Refusal = refusal(403, "issuer_ownership_required");
pub(super) const SELF_DELEGATION: Refusal = refusal(400, "self_delegation_denied");
pub(super) const BROAD_DELEGATION: Refusal = refusal(403, "broad_delegation_permission_required");
pub(super) const ENDPOINT_NOT_FOUND: Refusal = refusal(404, "delegation_endpoint_not_found");
pub(super) const ENDPOINT_MISMATCH: Refusal = refusal(409, "delegation_application_mismatch");
pub(super) const RESOURCE_NOT_FOUND: Refusal = refusal(404, "resource_not_found");
pub(super) const RESOURCE_MISMATCH: Refusal = refusal(400, "delegation_resource_scope_mismatch");
pub(super) const SCOPES_EXCEED_RESOURCE: Refusal =
    refusal(403, "delegation_scopes_exceed_resource");
pub(super) const PARENT_EDGE_NOT_ACTIVE: Refusal = refusal(403, "parent_delegation_not_active");
pub(super) const PARENT_EDGE_WHICH: Refusal = refusal(409, "parent_delegation_ambiguous");
pub(super) const EXCEEDS_PARENT: Refusal = refusal(403, "delegation_exceeds_parent_authority");
pub(super) const CYCLE: Refusal = refusal(409, "delegation_cycle_denied");
pub(super) const DELEGATION_EXPIRED: Refusal = refusal(400, "delegation_expired");

pub(super) const DELEGATION_NOT_FOUND: Refusal = refusal(404, "delegation_not_found");
pub(super) const ADMIN_REQUIRED: Refusal = refusal(403, "coordinator_admin_required");

impl Refusal {
    pub(super) fn respond(&self, request_id: &str) -> Response<Body> {
        let code = self.code;
        let body = match &self.more {
            More::Nothing => json!({ "error": code }),
            More::Described(what) => {
                json!({ "error": code, "error_description": what, "requestId": request_id })
            }
            More::Issues(issues) => {
                let issues: Vec<Value> = issues
                    .iter()
                    .map(|issue| json!({ "path": issue.path, "message": issue.message }))
                    .collect();
                json!({
                    "error": code,
                    "error_description": "a member of the body is missing or wrong",
                    "requestId": request_id,
                    "details": { "issues": issues },
                })
            }
            More::Message(what) => json!({ "error": code, "message": what }),
            More::Identified(what) => {
                json!({ "error": code, "message": what, "request_id": request_id })
            }
            More::Detail(what) => json!({ "error": code, "detail": what }),
        };
        web::json(StatusCode::from_u16(self.status).unwrap_or_default(), &body)
    }
}

/// Refuses where `holds`.
pub(super) fn refuse_if(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Err(refusal) } else { Ok(()) }
}
