//! Approvals over HTTP: where one stands, and what a user decides (outbound contract §2.8).

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts, response::Response};
use serde_json::{Map, Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use super::{Refusal, refusal};
use crate::{
    Clock as _,
    embedded::{
        Shared,
        approvals::{ApprovalState, Hold},
        approvers::Approver,
        faults::Endpoint,
        keys::text,
        log,
        state::State,
        time::Time,
        web::{self, Answered, Received},
    },
};

/// The longest that an answer is put off.
const MAX_WAIT_SECONDS: u64 = 25;
const MAX_REASON_BYTES: usize = 500;

/// How long after its `exp` the token of a user still says who they are.
const TOLERANCE_SECONDS: u64 = 60;

// In the order in which they are judged.
const NOT_FOUND: Refusal = refusal(404, "resource_not_found", "there is no such approval");
const WAIT: Refusal = refusal(400, "invalid_token", "wait is a whole number of seconds");
const NO_BEARER: Refusal =
    refusal(401, "invalid_token", "send the token of a user as `Authorization: Bearer ..`");
const BODY: Refusal = refusal(400, "invalid_token", "the body is no JSON object of texts");
const DECISION: Refusal =
    refusal(400, "invalid_token", "the decision is neither approved nor rejected");
const REASON: Refusal = refusal(400, "invalid_token", "the reason is longer than 500 bytes");
const TOKEN: Refusal = refusal(401, "invalid_token", "that is no live token of a session");
const NOT_A_USER: Refusal = refusal(403, "access_denied", "only a user decides here");
const RECORD: Refusal = refusal(403, "access_denied", "authority record inactive or expired");
const CLIENT: Refusal = refusal(403, "access_denied", "authority record client mismatch");
const OPERATOR: Refusal = refusal(403, "access_denied", "an operator has to decide this");
const RESERVED: Refusal =
    refusal(403, "access_denied", "the user whom the session acts for has to decide this");
const BINDING: Refusal = refusal(409, "access_denied", "that is the binding of another request");
const NOT_PENDING: Refusal = refusal(409, "access_denied", "the approval is not pending");

/// A route, with the id in its path as it stands there.
#[derive(Clone, Copy)]
pub(super) enum Route<'p> {
    State(&'p str),
    Decision(&'p str),
}

impl<'p> Route<'p> {
    pub(super) fn of(path: &'p str) -> Option<Self> {
        let rest = path.strip_prefix("/approvals/")?;
        match rest.split_once('/') {
            None if !rest.is_empty() => Some(Self::State(rest)),
            Some((id, "decision")) if !id.is_empty() => Some(Self::Decision(id)),
            _ => None,
        }
    }

    pub(super) fn answer(self, shared: &Shared, head: &Parts, body: &Received) -> Answered {
        let (result, application) = match self {
            Self::State(id) => (state(shared, id, head.uri.query()), None),
            Self::Decision(id) => decide(shared, id, &head.headers, body),
        };
        let code = result.as_ref().err().map(|refusal| refusal.code);
        let response = match result {
            Ok(told) => web::json(StatusCode::OK, &told),
            Err(refusal) => respond(&refusal),
        };
        Answered { response, application, code }
    }
}

/// The name of the route that a request goes to.
pub(in crate::embedded) fn endpoint(method: &str, path: &str) -> Option<Endpoint> {
    match (method, Route::of(path)?) {
        ("GET" | "HEAD", Route::State(_)) => Some(Endpoint::Approval),
        ("POST", Route::Decision(_)) => Some(Endpoint::Decision),
        _ => None,
    }
}

/// Neither route knows request ids.
fn respond(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or_default();
    let body = json!({ "error": refusal.code, "error_description": refusal.to_string() });
    let mut response = web::json(status, &body);
    if *refusal == NO_BEARER {
        let challenge = HeaderValue::from_static(r#"Bearer realm="caracal-sts""#);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// How long a caller wants to wait.
fn wait_of(query: Option<&str>) -> Result<Duration, Refusal> {
    let mut fields = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let wait = fields.find(|(name, _)| name == "wait").map(|(_, wait)| wait);
    let wait = wait.filter(|wait| !wait.is_empty()).map_or(Ok(0), |wait| wait.parse::<i64>());
    let seconds = wait.ok().and_then(|wait| u64::try_from(wait).ok()).ok_or(WAIT)?;
    Ok(Duration::from_secs(seconds.min(MAX_WAIT_SECONDS)))
}

/// `GET /approvals/{id}`. Who knows the id may ask.
fn state(shared: &Shared, id: &str, query: Option<&str>) -> Result<Value, Refusal> {
    let id = Uuid::parse_str(id).map_err(|_| NOT_FOUND)?;
    wait_of(query)?;
    let mut state = shared.lock();
    let now = state.now();
    state.hold(id).map(|(_, hold)| told(id, hold, now)).ok_or(NOT_FOUND)
}

fn told(id: Uuid, hold: &Hold, now: Time) -> Value {
    json!({
        "id": id.to_string(),
        "state": hold.state(now).name(),
        "expires_at": hold.expires.text(),
    })
}

/// Puts the answer off until the hold is decided or has expired, for as long as the caller waits.
pub(super) async fn wait(shared: &Shared, head: &Parts) {
    let Some(Route::State(id)) = Route::of(head.uri.path()) else { return };
    let (Ok(id), Ok(wait)) = (Uuid::parse_str(id), wait_of(head.uri.query())) else { return };
    let clock = &shared.clock;
    let deadline = clock.monotonic().saturating_add(wait);
    // Each look subscribes, so that no decision falls between it and the sleep.
    let look = || {
        let patience = deadline.saturating_sub(clock.monotonic());
        let mut state = shared.lock();
        let now = state.now();
        let (_, hold) = state.hold(id)?;
        let left = patience.min(hold.expires.left(now));
        let waits = hold.state(now) == ApprovalState::Pending && !left.is_zero();
        waits.then(|| (state.decided.subscribe(), left))
    };
    while let Some((mut decided, left)) = look() {
        tokio::select! {
            _ = decided.changed() => {}
            () = clock.sleep(left) => {}
        }
    }
}

/// What a user says.
struct Said {
    approved: bool,
    binding: String,
}

impl Said {
    /// The body is JSON whatever its content type says.
    fn read(body: &Received) -> Result<Self, Refusal> {
        let Received::Whole(body) = body else { return Err(BODY) };
        let members: Map<String, Value> = serde_json::from_slice(body).map_err(|_| BODY)?;
        let text = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(BODY),
        };
        let (decision, binding, reason) = (text("decision")?, text("binding")?, text("reason")?);
        let approved = match decision {
            "approved" => true,
            "rejected" => false,
            _ => return Err(DECISION),
        };
        if reason.len() > MAX_REASON_BYTES {
            return Err(REASON);
        }
        Ok(Self { approved, binding: binding.to_owned() })
    }
}

/// `POST /approvals/{id}/decision`, by a user. Also says whose user that is.
fn decide(
    shared: &Shared,
    id: &str,
    headers: &HeaderMap,
    body: &Received,
) -> (Result<Value, Refusal>, Option<String>) {
    let mut application = None;
    let read = || {
        let id = Uuid::parse_str(id).map_err(|_| NOT_FOUND)?;
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let token = token.filter(|token| !token.is_empty()).ok_or(NO_BEARER)?;
        Ok((id, token, Said::read(body)?))
    };
    let result = read().and_then(|(id, token, said)| {
        decide_as(&mut shared.lock(), id, token, &said, &mut application)
    });
    if let (Ok(told), Some(application)) = (&result, &application) {
        log::decision(application, id, told);
    }
    (result, application)
}

fn decide_as(
    state: &mut State,
    id: Uuid,
    token: &str,
    said: &Said,
    application: &mut Option<String>,
) -> Result<Value, Refusal> {
    let now = state.now();
    let zone = state.hold(id).map(|(zone, _)| zone.to_owned()).ok_or(NOT_FOUND)?;
    let zone = state.zone(&zone).ok_or(NOT_FOUND)?;
    let claims = zone.keys.verify(token, now).ok_or(TOKEN)?;
    let ends = claims.get("exp").and_then(Value::as_u64).unwrap_or_default();
    let in_time = now.seconds() < ends.saturating_add(TOLERANCE_SECONDS);
    if !in_time || text(&claims, "use") != "session" {
        return Err(TOKEN);
    }
    *application = Some(text(&claims, "client_id").to_owned());
    if text(&claims, "sub_type") != "user" {
        return Err(NOT_A_USER);
    }
    let record = zone.live_record(text(&claims, "sid"), now).ok_or(RECORD)?;
    let (client, user) = (record.application.clone(), record.user.clone());
    let hold = zone.holds.get_mut(id).ok_or(NOT_FOUND)?;
    if client != hold.what().application {
        return Err(CLIENT);
    }
    if hold.what().approver == Approver::Operator {
        return Err(OPERATOR);
    }
    if hold.what().user.is_some() && hold.what().user != user {
        return Err(RESERVED);
    }
    if said.binding != hold.what().binding {
        return Err(BINDING);
    }
    if !hold.decide(said.approved, now) {
        return Err(NOT_PENDING);
    }
    let told = told(id, hold, now);
    state.decided.send_replace(());
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let route = |path| match Route::of(path) {
            Some(Route::State(id)) => format!("state {id}"),
            Some(Route::Decision(id)) => format!("decision {id}"),
            None => String::new(),
        };
        assert_eq!(route("/approvals/a"), "state a");
        assert_eq!(route("/approvals/a/decision"), "decision a");
        for nothing in [
            "/approvals",
            "/approvals/",
            "/approvals//decision",
            "/approvals/a/decision/",
            "/approvals/a/b",
        ] {
            assert_eq!(route(nothing), "", "{nothing}");
        }
    }

    #[test]
    fn waits_are_whole_seconds_and_not_long() {
        let seconds = |query| wait_of(query).map(|wait| wait.as_secs());
        for (query, wait) in [
            (None, 0),
            (Some(""), 0),
            (Some("wait="), 0),
            (Some("a=1&wait=7&wait=8"), 7),
            (Some("wait=9999"), 25),
        ] {
            assert_eq!(seconds(query), Ok(wait), "{query:?}");
        }
        for wrong in ["wait=-1", "wait=1.5", "wait=soon", "wait=99999999999999999999"] {
            assert_eq!(seconds(Some(wrong)), Err(WAIT), "{wrong}");
        }
    }

    #[test]
    fn what_a_user_says_is_read_as_json() {
        let read = |body: &str| Said::read(&Received::Whole(body.to_owned().into()));
        assert!(
            read(r#"{"decision":"approved","binding":"b","more":7}"#).is_ok_and(|it| it.approved)
        );
        assert!(read(r#"{"decision":"rejected","reason":null}"#).is_ok_and(|it| !it.approved));
        let (long, most) = ("x".repeat(501), "x".repeat(500));
        let said = |reason: &str| format!(r#"{{"decision":"approved","reason":"{reason}"}}"#);
        assert!(read(&said(&most)).is_ok());
        for (body, refusal) in [
            ("", BODY),
            ("[]", BODY),
            (r#"{"decision":7}"#, BODY),
            ("{}", DECISION),
            (r#"{"decision":"approve"}"#, DECISION),
            (&said(&long), REASON),
        ] {
            assert_eq!(read(body).err(), Some(refusal), "{body}");
        }
        assert_eq!(Said::read(&Received::TooLarge).err(), Some(BODY));
    }
}
