//! What is judged before any route: rate, path, body, token, ids (outbound contract §3.1–3.2).

use std::net::IpAddr;

use http::{HeaderMap, Method, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::refusal::{self, Refusal, refuse_if};
use crate::embedded::{
    faults::Endpoint,
    keys::text,
    policy::LIFECYCLE,
    registry::{MAX_ID_CHARS, is_path_id},
    state::State,
    time::Time,
    web::{Received, escapes_are_whole},
};

const MAX_TOKEN_CHARS: usize = 4096;

/// How long after its `exp` a token is still looked at.
const TOLERANCE_SECONDS: u64 = 60;

/// Where a request goes, with the ids of its path.
pub(super) enum Route {
    Start,
    Sessions,
    Session(String),
    Children(String),
    Authority(String),
    End(String),
    Heartbeat(String),
    Takeover(String),
    Suspend(String),
    Resume(String),
    Delegate,
    Revoke(String),
    Inbound(String),
    InboundEdge(String, String),
    Outbound(String),
    ActiveEdges,
    /// Traverse and impact of an edge.
    ForOperators(String),
}

/// Who asks, by a token that is proven.
pub(super) struct Caller {
    pub(super) application: String,
    pub(super) subject: String,
    /// The authority record of the token.
    pub(super) record: String,
}

pub(super) struct Entered {
    pub(super) zone: String,
    pub(super) route: Route,
    pub(super) caller: Caller,
    pub(super) body: Option<Value>,
}

/// Lets a request in to its route. `Ok(None)` is the question whether the service is ready.
pub(super) fn enter(
    state: &mut State,
    from: IpAddr,
    head: &http::request::Parts,
    body: &Received,
    issuer: &str,
    now: Time,
) -> Result<Option<Entered>, Refusal> {
    let segments = segments(head.uri.path()).ok_or(refusal::PATH_BROKEN)?;
    let found = route(&head.method, &segments);
    if let Some((zone, route)) = &found {
        let ids = route.ids().into_iter().chain([zone.as_str()]);
        refuse_if(ids.into_iter().any(is_too_long), refusal::PATH_TOO_LONG)?;
    }
    refuse_if(state.over_the_rate(from, now), refusal::RATE_LIMITED)?;
    if head.uri.path() == "/ready" && is_read(&head.method) {
        return Ok(None);
    }
    let body = match (&found, is_read(&head.method)) {
        (Some(_), false) => read_body(&head.headers, body)?,
        _ => None,
    };
    let claims = prove(state, &head.headers, issuer, now)?;
    let token_zone = text(&claims, "zone_id");
    let zone = found.as_ref().map_or(token_zone, |(zone, _)| zone);
    refuse_if(zone != token_zone, refusal::ZONE_MISMATCH)?;
    let caller = identify(state, &claims, now)?;
    let (zone, route) = found.ok_or(refusal::ROUTE_NOT_FOUND)?;
    refuse_if(!route.ids().into_iter().all(is_path_id), refusal::INVALID_PARAMS)?;
    Ok(Some(Entered { zone, route, caller, body }))
}

/// The name of the route that a request goes to.
pub(in crate::embedded) fn endpoint(method: &Method, path: &str) -> Endpoint {
    let found = segments(path).and_then(|segments| route(method, &segments));
    found.map_or(Endpoint::Other, |(_, route)| route.endpoint())
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn is_too_long(id: &str) -> bool {
    id.chars().count() > MAX_ID_CHARS
}

/// The decoded segments of a path; none if an escape is broken.
fn segments(path: &str) -> Option<Vec<String>> {
    let decode = |segment: &str| {
        let whole = escapes_are_whole(segment.as_bytes());
        whole.then(|| percent_decode_str(segment).decode_utf8().ok())?.map(Into::into)
    };
    path.strip_prefix('/').unwrap_or(path).split('/').map(decode).collect()
}

fn route(method: &Method, segments: &[String]) -> Option<(String, Route)> {
    let path: Vec<_> = segments.iter().map(String::as_str).collect();
    let ["zones", zone, path @ ..] = path.as_slice() else { return None };
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let route = match (method.as_str(), path) {
        ("POST", ["agents"]) => Route::Start,
        ("GET", ["agents"]) => Route::Sessions,
        ("GET", ["agents", id]) => Route::Session((*id).into()),
        ("GET", ["agents", id, "children"]) => Route::Children((*id).into()),
        ("GET", ["agents", id, "effective-authority"]) => Route::Authority((*id).into()),
        ("DELETE", ["agents", id]) => Route::End((*id).into()),
        ("POST", ["agents", id, "heartbeat"]) => Route::Heartbeat((*id).into()),
        ("POST", ["agents", id, "lease"]) => Route::Takeover((*id).into()),
        ("PATCH", ["agents", id, "suspend"]) => Route::Suspend((*id).into()),
        ("PATCH", ["agents", id, "resume"]) => Route::Resume((*id).into()),
        ("POST", ["delegations"]) => Route::Delegate,
        ("PATCH", ["delegations", id, "revoke"]) => Route::Revoke((*id).into()),
        ("GET", ["delegations", "active"]) => Route::ActiveEdges,
        ("GET", ["delegations", "inbound", id]) => Route::Inbound((*id).into()),
        ("GET", ["delegations", "inbound", session, id]) => {
            Route::InboundEdge((*session).into(), (*id).into())
        }
        ("GET", ["delegations", "outbound", id]) => Route::Outbound((*id).into()),
        ("GET", ["delegations", id, "traverse" | "impact"]) => Route::ForOperators((*id).into()),
        _ => return None,
    };
    Some(((*zone).to_owned(), route))
}

impl Route {
    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Start => Endpoint::StartSession,
            Self::End(_) => Endpoint::EndSession,
            Self::Heartbeat(_) => Endpoint::Heartbeat,
            Self::Takeover(_) => Endpoint::Takeover,
            Self::Suspend(_) => Endpoint::Suspend,
            Self::Resume(_) => Endpoint::Resume,
            Self::Delegate => Endpoint::Delegate,
            Self::Revoke(_) => Endpoint::RevokeDelegation,
            Self::Sessions
            | Self::Session(_)
            | Self::Children(_)
            | Self::Authority(_)
            | Self::Inbound(_)
            | Self::InboundEdge(..)
            | Self::Outbound(_)
            | Self::ActiveEdges
            | Self::ForOperators(_) => Endpoint::Read,
        }
    }

    fn ids(&self) -> Vec<&str> {
        match self {
            Self::Start | Self::Sessions | Self::Delegate | Self::ActiveEdges => Vec::new(),
            Self::Session(id)
            | Self::Children(id)
            | Self::Authority(id)
            | Self::End(id)
            | Self::Heartbeat(id)
            | Self::Takeover(id)
            | Self::Suspend(id)
            | Self::Resume(id)
            | Self::Revoke(id)
            | Self::ForOperators(id)
            | Self::Inbound(id)
            | Self::Outbound(id) => vec![id],
            Self::InboundEdge(session, id) => vec![session, id],
        }
    }
}

/// The JSON of a body. A body may be absent; one that is there needs the content type.
fn read_body(headers: &HeaderMap, body: &Received) -> Result<Option<Value>, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.map(|value| value.split(';').next().unwrap_or_default().trim());
    let Received::Whole(body) = body else { return Err(refusal::BODY_TOO_LARGE) };
    match media_type.map(str::to_ascii_lowercase).as_deref() {
        None if body.is_empty() => Ok(None),
        Some("application/json") => {
            serde_json::from_slice(body).map(Some).map_err(|_| refusal::BODY_IS_NO_JSON)
        }
        Some("text/plain") => Ok(Some(String::from_utf8_lossy(body).into())),
        _ => Err(refusal::UNSUPPORTED_BODY),
    }
}

/// The claims of the bearer token: signed by the zone that it names, issued by and for the STS,
/// in its time, for lifecycle operations.
fn prove(
    state: &mut State,
    headers: &HeaderMap,
    issuer: &str,
    now: Time,
) -> Result<Map<String, Value>, Refusal> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim)
        .filter(|token| (1..=MAX_TOKEN_CHARS).contains(&token.len()))
        .ok_or(refusal::MISSING_TOKEN)?;
    let claims = signed(state, token, now).ok_or(refusal::INVALID_TOKEN)?;
    let audience = claims.get("aud").and_then(Value::as_array);
    let is_for_us = audience.is_some_and(|audience| audience.iter().any(|one| one == issuer));
    let in_time = claims
        .get("exp")
        .and_then(Value::as_u64)
        .is_some_and(|exp| now.seconds() < exp.saturating_add(TOLERANCE_SECONDS));
    let is_session = text(&claims, "use") == "session"
        && ["zone_id", "sub", "client_id"].iter().all(|claim| !text(&claims, claim).is_empty());
    refuse_if(
        text(&claims, "iss") != issuer || !is_for_us || !in_time || !is_session,
        refusal::INVALID_TOKEN,
    )?;
    let scopes = text(&claims, "scope");
    refuse_if(!scopes.split_whitespace().any(|scope| scope == LIFECYCLE), refusal::MISSING_SCOPE)?;
    Ok(claims)
}

fn signed(state: &mut State, token: &str, now: Time) -> Option<Map<String, Value>> {
    // Unproven yet: it only says whose keys to prove it with.
    let claimed: Map<String, Value> =
        jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    let zone = state.zone(text(&claimed, "zone_id"))?;
    zone.keys.verify_at_coordinator(token, now)
}

/// Who the claims speak for, as long as that application and the token's record are live.
fn identify(state: &mut State, claims: &Map<String, Value>, now: Time) -> Result<Caller, Refusal> {
    let (zone, application, record) =
        (text(claims, "zone_id"), text(claims, "client_id"), text(claims, "sid"));
    let parts = state.parts(zone).ok_or(refusal::IDENTITY_REVOKED)?;
    let known = parts.known.applications.get(application);
    let is_live = known.is_some_and(|application| !application.archived)
        && parts.zone.live_record(record, now).is_some();
    refuse_if(!is_live, refusal::IDENTITY_REVOKED)?;
    Ok(Caller {
        application: application.to_owned(),
        subject: text(claims, "sub").to_owned(),
        record: record.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::{
        ManualClock,
        embedded::{time::EmbeddedClock, world::World},
    };

    const ISSUER: &str = "http://127.0.0.1:8080";
    const NOW: u64 = 1_000_000;

    /// What becomes of a lifecycle token with some claims changed.
    fn judged(changes: &Value) -> Result<(), Refusal> {
        let clock = EmbeddedClock::new(Arc::new(ManualClock::new(NOW)));
        let mut state = State::new(World::sample(), clock).unwrap();
        let now = state.now();
        let claims = json!({
            "iss": ISSUER, "aud": [ISSUER], "zone_id": "zone-1", "sub": "app-1",
            "client_id": "app-1", "sid": "record", "use": "session", "scope": LIFECYCLE,
            "iat": NOW, "exp": NOW + 900,
        });
        let Value::Object(mut claims) = claims else { unreachable!() };
        claims.extend(changes.as_object().unwrap().clone());
        let key = state.zone("zone-1").unwrap().keys.signer(now).unwrap();
        let token = format!("Bearer {}", key.sign(&claims).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::try_from(token).unwrap());
        let later = now.plus(Duration::from_millis(1));
        prove(&mut state, &headers, ISSUER, later).map(drop)
    }

    #[test]
    fn a_token_must_be_a_session_s_of_the_sts_and_for_it() {
        assert_eq!(judged(&json!({})), Ok(()));
        assert_eq!(judged(&json!({ "scope": "a agent:lifecycle" })), Ok(()));
        assert_eq!(judged(&json!({ "exp": NOW - 59 })), Ok(()), "within the tolerance");
        for spoilt in [
            json!({ "iss": "http://127.0.0.1:8081" }),
            json!({ "iss": format!("{ISSUER}/") }),
            json!({ "aud": ["resource://tickets"] }),
            json!({ "aud": [] }),
            json!({ "use": "gateway" }),
            json!({ "use": "resource" }),
            json!({ "sub": "" }),
            json!({ "client_id": null }),
            json!({ "exp": NOW - 60 }),
            json!({ "exp": "soon" }),
        ] {
            assert_eq!(judged(&spoilt), Err(refusal::INVALID_TOKEN), "{spoilt}");
        }
        assert_eq!(judged(&json!({ "scope": "agent:life" })), Err(refusal::MISSING_SCOPE));
    }
}
