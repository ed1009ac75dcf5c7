//! The STS: tokens and the keys that prove them (outbound contract §2).

mod exchange;
mod form;
mod references;

use axum::body::Body;
use http::{HeaderValue, Request, StatusCode, header, response::Response};
use serde_json::json;

pub(super) use self::form::Form;
use super::{Shared, log, state::new_id, web};

/// The largest form that is read.
const MAX_FORM: usize = 65_536;

/// A refusal: status, code, and a text for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    text: Text,
}

/// The text of a refusal; policy's says its reason.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Text {
    Plain(&'static str),
    Denied(Option<&'static str>),
}

const fn refusal(status: u16, code: &'static str, text: &'static str) -> Refusal {
    Refusal { status, code, text: Text::Plain(text) }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.text {
            Text::Plain(text) => f.write_str(text),
            Text::Denied(None) => f.write_str("policy denied"),
            Text::Denied(Some(reason)) => write!(f, "policy denied ({reason})"),
        }
    }
}

/// Answers one request.
pub(super) async fn answer(shared: &Shared, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let allowed: &[&str] = match path {
        "/oauth/2/token" => &["POST"],
        "/.well-known/jwks.json" | "/health" | "/ready" => &["GET", "HEAD"],
        _ => return plain(StatusCode::NOT_FOUND, "404 page not found"),
    };
    if !allowed.contains(&request.method().as_str()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        if let Ok(allow) = HeaderValue::try_from(allowed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        return response;
    }
    match path {
        "/health" => web::empty(StatusCode::OK),
        "/ready" => web::json(StatusCode::OK, &json!({ "ok": true, "ready": true })),
        "/.well-known/jwks.json" => key_document(shared, request.uri().query()),
        _ => token(shared, request).await,
    }
}

/// The signing keys of a zone. Of several zones the first counts.
fn key_document(shared: &Shared, query: Option<&str>) -> Response<Body> {
    let zone = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "zone_id")
        .map(|(_, zone)| zone)
        .filter(|zone| !zone.is_empty());
    let Some(zone) = zone else {
        let body = json!({ "error": "invalid_token", "error_description": "name a zone_id" });
        return web::json(StatusCode::BAD_REQUEST, &body);
    };
    let mut state = shared.lock();
    let now = state.now();
    let Some(keys) = state.zone(&zone).and_then(|zone| zone.keys.document(now)) else {
        let text = "the zone is unknown, or nothing was minted in it yet";
        let body = json!({ "error": "resource_not_found", "error_description": text });
        return web::json(StatusCode::NOT_FOUND, &body);
    };
    let mut response = web::json(StatusCode::OK, &keys);
    let headers = response.headers_mut();
    let caching = HeaderValue::from_static("public, max-age=300, must-revalidate");
    headers.insert(header::CACHE_CONTROL, caching);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `POST /oauth/2/token`.
async fn token(shared: &Shared, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    // Read before the state is looked at, so that nothing waits for a slow sender.
    let body = web::receive(body, MAX_FORM).await;
    let form = Form::read(&head, &body);
    let result = form.as_ref().map_err(|refusal| *refusal).and_then(|form| {
        let minted = exchange::grant(&mut shared.lock(), form, &shared.issuer)?;
        // The signature needs no state, and so no lock.
        minted.sign()
    });
    log::token(form.as_ref().ok(), result.as_ref().err());
    // Of several ids the first counts; the Coordinator joins them.
    let sent = head.headers.get("x-request-id").filter(|id| !id.is_empty());
    let id = sent.map_or_else(new_id, web::latin1);
    let mut response = match result {
        Ok(answer) => web::json(StatusCode::OK, &answer),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status).unwrap_or_default();
            let body = json!({
                "error": refusal.code,
                "error_description": refusal.to_string(),
                "requestId": id,
            });
            web::json(status, &body)
        }
    };
    if let Some(id) = sent.cloned().or_else(|| HeaderValue::try_from(&id).ok()) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// A text of the router, which is no answer of the protocol.
fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
