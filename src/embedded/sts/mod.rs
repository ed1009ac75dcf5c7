//! The STS: tokens and the keys that prove them (outbound contract §2).

mod exchange;
mod form;
mod gateway;
mod references;

use axum::body::Body;
use http::{HeaderValue, StatusCode, header, request::Parts, response::Response};
use serde_json::json;

pub(super) use self::{
    exchange::Minted,
    form::Form,
    gateway::{Use, exchange as exchange_for_gateway},
};
use super::{
    Shared, log,
    state::new_id,
    web::{self, Answered, Received},
};
use crate::testing::key_document;

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

pub(super) const fn refusal(status: u16, code: &'static str, text: &'static str) -> Refusal {
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
pub(super) fn answer(shared: &Shared, head: &Parts, body: &Received) -> Answered {
    let path = head.uri.path();
    let allowed: &[&str] = match path {
        "/oauth/2/token" => &["POST"],
        "/.well-known/jwks.json" | "/health" | "/ready" => &["GET", "HEAD"],
        _ => return Answered::plain(plain(StatusCode::NOT_FOUND, "404 page not found")),
    };
    if !allowed.contains(&head.method.as_str()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        if let Ok(allow) = HeaderValue::try_from(allowed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        return Answered::plain(response);
    }
    match path {
        "/health" => Answered::plain(web::empty(StatusCode::OK)),
        "/ready" => {
            Answered::plain(web::json(StatusCode::OK, &json!({ "ok": true, "ready": true })))
        }
        "/.well-known/jwks.json" => keys(shared, head.uri.query()),
        _ => token(shared, head, body),
    }
}

/// The signing keys of a zone.
fn keys(shared: &Shared, query: Option<&str>) -> Answered {
    let document = |zone: &str| {
        let mut state = shared.lock();
        let now = state.now();
        state.zone(zone)?.keys.document(now)
    };
    let (response, code) = key_document(query, document);
    Answered { response, application: None, code }
}

/// `POST /oauth/2/token`.
fn token(shared: &Shared, head: &Parts, body: &Received) -> Answered {
    let form = Form::read(head, body);
    let result = form.as_ref().map_err(|refusal| *refusal).and_then(|form| {
        let minted = exchange::grant(&mut shared.lock(), form, &shared.issuer)?;
        // The signature needs no state, and so no lock.
        minted.sign()
    });
    log::token(form.as_ref().ok(), result.as_ref().err());
    // Of several ids the first counts; the Coordinator joins them.
    let sent = head.headers.get("x-request-id").filter(|id| !id.is_empty());
    let id = sent.map_or_else(new_id, web::latin1);
    let code = result.as_ref().err().map(|refusal| refusal.code);
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
    let application = form.ok().map(|form| form.application);
    Answered { response, application, code }
}

/// A text of the router, which is no answer of the protocol.
fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
