//! The STS: tokens, the keys that prove them, and the approvals that some wait for (outbound
//! contract §2).

mod approvals;
mod exchange;
mod federation;
mod form;
mod gateway;
mod holds;
mod references;

use axum::body::Body;
use http::{HeaderValue, StatusCode, header, request::Parts, response::Response};
use serde_json::json;

pub(super) use self::{
    approvals::endpoint as approval_endpoint,
    exchange::Minted,
    form::Form,
    gateway::{Use, exchange as exchange_for_gateway},
};
use super::{
    Shared,
    approvals::Approval,
    faults::Endpoint,
    log,
    state::new_id,
    time::Time,
    web::{self, Answered, Received},
};
use crate::testing::key_document;

/// A refusal: status, code, and a text for people.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    text: Text,
}

/// The text of a refusal; policy's says its reason, a hold's what it is about.
#[derive(Debug, Clone, PartialEq)]
enum Text {
    Plain(&'static str),
    Denied(Option<&'static str>),
    IdToken(&'static str),
    Held(Box<Held>),
}

/// A hold, and when it expires.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    what: Approval,
    expires: Time,
}

pub(super) const fn refusal(status: u16, code: &'static str, text: &'static str) -> Refusal {
    Refusal { status, code, text: Text::Plain(text) }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.text {
            Text::Plain(text) => f.write_str(text),
            Text::Denied(None) => f.write_str("policy denied"),
            Text::Denied(Some(reason)) => write!(f, "policy denied ({reason})"),
            Text::IdToken(what) => write!(f, "invalid subject_token: {what}"),
            Text::Held(held) => {
                let Approval { id, tier, .. } = &held.what;
                write!(f, "a person has to approve this: approval {id}, tier {tier}")
            }
        }
    }
}

impl Refusal {
    /// The answer to the form with this request id.
    fn respond(&self, id: &str) -> Response<Body> {
        let mut body = json!({
            "error": self.code,
            "error_description": self.to_string(),
            "requestId": id,
        });
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        let (Text::Held(held), Some(members)) = (&self.text, body.as_object_mut()) else {
            return web::json(status, &body);
        };
        for (member, value) in [
            ("approval_id", held.what.id.as_str()),
            ("approval_type", "human_approval"),
            ("state", held.what.state.name()),
            ("tier", &held.what.tier),
            ("binding", &held.what.binding),
            ("approval_expires_at", &held.expires.text()),
        ] {
            members.insert(member.into(), value.into());
        }
        let mut response = web::json(status, &body);
        let challenge = HeaderValue::from_static(r#"Bearer error="interaction_required""#);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        response
    }
}

/// Waits for what a request needs from elsewhere: for the decision that it asks after, and for the
/// keys of the identity provider whose token it brings. The lock is free meanwhile.
pub(super) async fn prepare(shared: &Shared, endpoint: Endpoint, head: &Parts, body: &Received) {
    match endpoint {
        Endpoint::Approval => approvals::wait(shared, head).await,
        Endpoint::Token => federation::fetch_keys(shared, head, body).await,
        _ => {}
    }
}

/// Answers one request.
pub(super) fn answer(shared: &Shared, head: &Parts, body: &Received) -> Answered {
    let path = head.uri.path();
    let approval = approvals::Route::of(path);
    let allowed: &[&str] = match path {
        "/oauth/2/token" => &["POST"],
        "/.well-known/jwks.json" | "/health" | "/ready" => &["GET", "HEAD"],
        _ => match &approval {
            Some(approvals::Route::State(_)) => &["GET", "HEAD"],
            Some(approvals::Route::Decision(_)) => &["POST"],
            None => return Answered::plain(plain(StatusCode::NOT_FOUND, "404 page not found")),
        },
    };
    if !allowed.contains(&head.method.as_str()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        if let Ok(allow) = HeaderValue::try_from(allowed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        return Answered::plain(response);
    }
    if let Some(route) = approval {
        return route.answer(shared, head, body);
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
    let result = form.as_ref().map_err(Refusal::clone).and_then(|form| {
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
        Err(refusal) => refusal.respond(&id),
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
