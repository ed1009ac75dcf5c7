//! The Gateway: calls of resources, judged, and passed on to the upstream with a credential of its
//! own (outbound contract §6, inbound contract §8).

mod checks;
mod forward;
mod headers;
mod known;
mod stream;
mod target;

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use serde_json::json;

pub(super) use self::known::{KnownRevocations, UsedMandates};
use super::{
    Shared,
    faults::Endpoint,
    log,
    record::ReceivedRequest,
    server::Unanswered,
    sts::Refusal,
    web::{self, Answered, Received, escapes_are_whole},
};

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 20 * 1024;

/// Receives a request and answers it. The body is passed on as it comes, so that it stands in no
/// record.
pub(super) async fn serve(
    shared: Arc<Shared>,
    from: IpAddr,
    request: Request,
) -> Result<Response, Unanswered> {
    let (head, body) = request.into_parts();
    let endpoint = endpoint(&head);
    let record = ReceivedRequest::new(endpoint, &head, &Received::Whole(Bytes::new()));
    let answer = answer(&shared, from, &head, body);
    shared.attend(endpoint, record, answer).await
}

/// The paths that the Gateway serves itself.
fn is_own(method: &Method, path: &str) -> bool {
    matches!(path, "/health" | "/ready" | "/metrics" | "/metrics.json")
        || (path == "/internal/revocations/reload" && *method == Method::POST)
}

fn endpoint(head: &Parts) -> Endpoint {
    let path = head.uri.path();
    let is_call = path.starts_with('/') && !is_own(&head.method, path);
    if is_call { Endpoint::Gateway } else { Endpoint::Other }
}

async fn answer(shared: &Arc<Shared>, from: IpAddr, head: &Parts, body: Body) -> Answered {
    if let Some(refused) = refused_as_http(head) {
        return Answered::plain(refused);
    }
    let id = headers::request_id(&head.headers);
    let path = head.uri.path();
    let mut answered = if let Some(clean) = target::cleaned(path) {
        Answered::plain(elsewhere(&clean, head.uri.query()))
    } else if is_own(&head.method, path) {
        Answered::plain(own(path))
    } else {
        call(shared, from, head, body, &id).await
    };
    if let (false, Ok(id)) =
        (answered.response.headers().contains_key("x-request-id"), HeaderValue::try_from(&id))
    {
        answered.response.headers_mut().insert("x-request-id", id);
    }
    answered
}

/// What the HTTP layer of the real one answers by itself.
fn refused_as_http(head: &Parts) -> Option<Response> {
    let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let path = head.uri.path();
    if target + head.headers.iter().map(length).sum::<usize>() > MAX_HEAD {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Some((status, "the head of the request is too large").into_response())
    } else if path == "*" && head.method == Method::OPTIONS {
        Some(web::empty(StatusCode::OK))
    } else if head.method == Method::CONNECT {
        Some((StatusCode::NOT_FOUND, "404 page not found").into_response())
    } else if !path.starts_with('/') || !escapes_are_whole(path.as_bytes()) {
        Some((StatusCode::BAD_REQUEST, "the target of the request is malformed").into_response())
    } else {
        None
    }
}

/// A path that is not clean as written stands for another.
fn elsewhere(clean: &str, query: Option<&str>) -> Response {
    let mut response = web::empty(StatusCode::TEMPORARY_REDIRECT);
    let location = query.map_or_else(|| clean.to_owned(), |query| format!("{clean}?{query}"));
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn own(path: &str) -> Response {
    match path {
        "/health" => web::empty(StatusCode::OK),
        "/ready" => web::json(StatusCode::OK, &json!({ "ok": true, "ready": true })),
        // Nobody has the bearers that these take.
        "/metrics" | "/metrics.json" => (StatusCode::UNAUTHORIZED, "unauthorized").into_response(),
        _ => (StatusCode::NOT_FOUND, "not found").into_response(),
    }
}

/// A call of a resource.
async fn call(shared: &Arc<Shared>, from: IpAddr, head: &Parts, body: Body, id: &str) -> Answered {
    let (application, judged) = checks::judge(&mut shared.lock(), head, &shared.issuer);
    let result = match judged {
        Ok(admitted) => forward::forward(shared, from, head, body, admitted, id).await,
        Err(refusal) => Err(refusal),
    };
    let code = result.as_ref().err().map(|refusal| refusal.code);
    let response = result.unwrap_or_else(|refusal| refused(&refusal, id));
    log::gateway(head, response.status(), code, application.as_deref());
    Answered { response, application, code }
}

fn refused(refusal: &Refusal, id: &str) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or_default();
    let body = json!({
        "error": refusal.code,
        "error_description": refusal.to_string(),
        "requestId": id,
    });
    web::json(status, &body)
}
