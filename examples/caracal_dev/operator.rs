//! What operators do, over HTTP: at the real one through its admin API, here through one route.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header::ORIGIN},
    routing::post,
};
use caracal_axum::embedded::{Approval, EmbeddedCaracal, OperatorError};
use serde::Deserialize;
use serde_json::{Value, json};

/// All that is due on the way happens one by one, which takes its time.
const FARTHEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Action {
    Advance { seconds: f64 },
    RotateKey { zone: String },
    Suspend { zone: String, session: String },
    Resume { zone: String, session: String },
    Terminate { zone: String, session: String },
    Approvals { zone: String },
    Approve { zone: String, approval_id: String },
    Reject { zone: String, approval_id: String },
    RevokeUser { zone: String, user: String },
    ArchiveApplication { zone: String, application: String },
}

type Answer = (StatusCode, Json<Value>);

/// The route keeps nothing alive, so that whoever started the control plane can end it.
pub(crate) fn routes(caracal: &Arc<EmbeddedCaracal>) -> Router {
    Router::new().route("/operator", post(operate)).with_state(Arc::downgrade(caracal))
}

async fn operate(
    State(caracal): State<Weak<EmbeddedCaracal>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Answer> {
    // Browsers always say where a request of a page comes from. No page has any business here.
    if headers.contains_key(ORIGIN) {
        return Err(refusal(StatusCode::FORBIDDEN, "access_denied", "no web page may do this"));
    }
    let body =
        body.map_err(|error| refusal(error.status(), "invalid_request", &error.body_text()))?;
    let invalid = |what: &str| refusal(StatusCode::BAD_REQUEST, "invalid_request", what);
    let action = serde_json::from_slice(&body).map_err(|error| invalid(&error.to_string()))?;
    let Some(caracal) = caracal.upgrade() else {
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "ending", "the process is ending"));
    };
    let done = match action {
        Action::Advance { seconds } => {
            let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= FARTHEST);
            let time = time.ok_or_else(|| invalid("`seconds` are from 0 to those of a year"))?;
            caracal.advance(time);
            Ok(json!({}))
        }
        Action::RotateKey { zone } => caracal.rotate_key(&zone).map(|kid| json!({"kid": kid})),
        Action::Suspend { zone, session } => caracal.suspend(&zone, &session).map(sessions),
        Action::Resume { zone, session } => caracal.resume(&zone, &session).map(sessions),
        Action::Terminate { zone, session } => {
            caracal.terminate(&zone, &session).map(|()| json!({}))
        }
        Action::Approvals { zone } => caracal.approvals(&zone).map(approvals),
        Action::Approve { zone, approval_id } => {
            caracal.approve(&zone, &approval_id).map(|()| json!({}))
        }
        Action::Reject { zone, approval_id } => {
            caracal.reject(&zone, &approval_id).map(|()| json!({}))
        }
        Action::RevokeUser { zone, user } => caracal.revoke_user(&zone, &user).map(sessions),
        Action::ArchiveApplication { zone, application } => {
            caracal.archive_application(&zone, &application).map(|()| json!({}))
        }
    };
    done.map(Json).map_err(|error| {
        let (status, code) = match error {
            OperatorError::Session(_) => (StatusCode::CONFLICT, "session"),
            OperatorError::Approval(_) => (StatusCode::CONFLICT, "approval"),
            OperatorError::SubjectApproval(_) => {
                (StatusCode::FORBIDDEN, "subject_approval_required")
            }
            OperatorError::Key => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            _ => (StatusCode::NOT_FOUND, "not_found"),
        };
        refusal(status, code, &error.to_string())
    })
}

fn sessions(count: usize) -> Value {
    json!({"sessions": count})
}

fn approvals(all: Vec<Approval>) -> Value {
    let all: Vec<_> = all
        .into_iter()
        .map(|approval| {
            json!({
                "approval_id": approval.id,
                "state": approval.state.name(),
                "tier": approval.tier,
                "application": approval.application,
                "session": approval.agent_session_id,
                "user": approval.user,
                "scopes": approval.scopes,
                "resources": approval.resources,
            })
        })
        .collect();
    json!({"approvals": all})
}

fn refusal(status: StatusCode, code: &str, what: &str) -> Answer {
    (status, Json(json!({"error": code, "error_description": what})))
}
