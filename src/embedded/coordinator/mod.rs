//! The Coordinator: sessions, leases, delegations (outbound contract §3).
//!
//! A request goes through [`gate`] to its route; what a route may refuse with stands in
//! [`refusal`].

mod delegations;
mod gate;
mod leases;
mod members;
mod reads;
mod receipts;
mod refusal;
mod starts;

use std::net::IpAddr;

use axum::body::Body;
use http::{StatusCode, request::Parts, response::Response};
use serde_json::{Value, json};

pub(super) use self::gate::endpoint;
use self::{
    gate::{Caller, Route},
    refusal::{Refusal, refuse_if},
};
use super::{
    Shared, log,
    registry::Registered,
    session::Session,
    state::{self, State},
    time::Time,
    web::{self, Answered, Received},
    world::Limits,
    zone::Zone,
};

/// An answer of a route.
pub(super) struct Answer {
    status: StatusCode,
    body: Option<Value>,
    replayed: bool,
}

impl Answer {
    fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Some(body), replayed: false }
    }

    fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, ..Self::ok(body) }
    }

    fn done() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, replayed: false }
    }

    fn into_response(self) -> Response<Body> {
        let mut response = match &self.body {
            Some(body) => web::json(self.status, body),
            None => web::empty(self.status),
        };
        if self.replayed {
            let replayed = http::HeaderValue::from_static("true");
            response.headers_mut().insert("idempotency-replayed", replayed);
        }
        response
    }
}

/// A request that has come through the gate to its zone.
struct Call<'a> {
    zone: &'a mut Zone,
    known: &'a Registered,
    limits: &'a Limits,
    now: Time,
    zone_id: &'a str,
    caller: &'a Caller,
    head: &'a Parts,
    body: Option<&'a Value>,
}

/// Answers one request.
pub(super) fn answer(shared: &Shared, from: IpAddr, head: &Parts, body: &Received) -> Answered {
    let is_read = matches!(head.method, http::Method::GET | http::Method::HEAD);
    if is_read && head.uri.path() == "/health" && head.uri.query().is_none() {
        return Answered::plain(web::json(StatusCode::OK, &json!({ "ok": true })));
    }
    let id = web::request_id(&head.headers);
    let (result, application) = judge(&mut shared.lock(), from, head, body, &shared.issuer);
    let (response, code) = match result {
        Ok(answer) => (answer.into_response(), None),
        Err(refusal) => (refusal.respond(&id), Some(refusal.code)),
    };
    log::coordinator(head, response.status(), code, application.as_deref());
    Answered { response, application, code }
}

/// The whole of a request's judgement, under one lock. Also says which application asked.
fn judge(
    state: &mut State,
    from: IpAddr,
    head: &Parts,
    body: &Received,
    issuer: &str,
) -> (Result<Answer, Refusal>, Option<String>) {
    let now = state.now();
    let entered = match gate::enter(state, from, head, body, issuer, now) {
        Ok(entered) => entered,
        Err(refusal) => return (Err(refusal), None),
    };
    let Some(entered) = entered else {
        return (Ok(Answer::ok(json!({ "ok": true, "ready": true }))), None);
    };
    let application = Some(entered.caller.application.clone());
    let Some(state::Parts { zone, known, limits }) = state.parts(&entered.zone) else {
        return (Err(refusal::ZONE_MISMATCH), application);
    };
    let call = Call {
        zone,
        known,
        limits,
        now,
        zone_id: &entered.zone,
        caller: &entered.caller,
        head,
        body: entered.body.as_ref(),
    };
    (call.route(&entered.route), application)
}

impl Call<'_> {
    /// A session of the caller's application, whether it lives or not.
    fn own(&self, id: &str) -> Result<&Session, Refusal> {
        let session = self.zone.sessions.get(id).ok_or(refusal::SESSION_NOT_FOUND)?;
        refuse_if(session.application != self.caller.application, refusal::NOT_YOUR_APPLICATION)?;
        Ok(session)
    }

    fn route(self, route: &Route) -> Result<Answer, Refusal> {
        match route {
            Route::Start => self.start(),
            Route::Sessions => self.sessions(),
            Route::Session(id) => self.session(id),
            Route::Children(id) => self.children(id),
            Route::Authority(id) => self.authority(id),
            Route::End(id) => self.end(id),
            Route::Heartbeat(id) => self.heartbeat(id),
            Route::Takeover(id) => self.takeover(id),
            Route::Suspend(id) => self.suspend(id),
            Route::Resume(id) => self.resume(id),
            Route::Delegate => self.delegate(),
            Route::Revoke(id) => self.revoke(id),
            Route::Inbound(session) => self.edges_of(session, |edge| &edge.target),
            Route::Outbound(session) => self.edges_of(session, |edge| &edge.source),
            Route::InboundEdge(session, id) => self.inbound_edge(session, id),
            Route::ActiveEdges => self.active_edges(),
            Route::ForOperators(_) => Err(refusal::ADMIN_REQUIRED),
        }
    }
}
