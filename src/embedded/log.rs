//! One readable line for each decision, as a `tracing` event of the target
//! `caracal_axum::embedded`. No line holds a secret or a token.

use http::StatusCode;

use super::{
    registry::MAX_ID_CHARS,
    sts::{Form, Refusal},
    web,
};

const TARGET: &str = "caracal_axum::embedded";

/// A request to the Coordinator and what became of it.
pub(super) fn coordinator(
    head: &http::request::Parts,
    status: StatusCode,
    code: Option<&str>,
    application: Option<&str>,
) {
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    let who = application.unwrap_or("unknown");
    let (method, path) = (&head.method, readable(head.uri.path()));
    let code = code.map(|code| format!(" {code}")).unwrap_or_default();
    tracing::info!(target: TARGET, "coordinator {who}: {method} {path} -> {}{code}", status.as_u16());
}

/// A request to the Gateway and what became of it. The query is the caller's and the upstream's affair.
pub(super) fn gateway(
    head: &http::request::Parts,
    status: StatusCode,
    code: Option<&str>,
    application: Option<&str>,
) {
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    let who = application.unwrap_or("unknown");
    let (method, path) = (readable(head.method.as_str()), readable(head.uri.path()));
    let resource = head.headers.get("x-caracal-resource").map(web::latin1).unwrap_or_default();
    let code = code.map(|code| format!(" {code}")).unwrap_or_default();
    tracing::info!(
        target: TARGET,
        "gateway {who}: {method} {path} at {} -> {}{code}", readable(&resource), status.as_u16()
    );
}

/// A request to the token endpoint and what became of it. What the form says is written escaped.
pub(super) fn token(form: Option<&Form>, refusal: Option<&Refusal>) {
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    let asked = form.map_or_else(
        || "a form that is none".to_owned(),
        |form| {
            let resources: Vec<_> =
                form.resources.iter().take(5).map(|name| readable(name)).collect();
            let session = form.session.as_ref().map(|id| format!(" in session {}", readable(id)));
            format!(
                "{}: {} at {}{}",
                readable(&form.application),
                readable(&form.scope),
                resources.join(", "),
                session.unwrap_or_default(),
            )
        },
    );
    match refusal {
        None => tracing::info!(target: TARGET, "sts {asked} -> granted"),
        Some(refusal) => {
            tracing::info!(target: TARGET, "sts {asked} -> {} {}: {refusal}", refusal.status, refusal.code);
        }
    }
}

/// What somebody sent, on one line, and no longer than a line. A segment of a path that is longer
/// than any id is a secret in the wrong place, or nonsense.
fn readable(text: &str) -> String {
    const LONGEST: usize = 200;
    let segments: Vec<_> = text
        .split('/')
        .map(|segment| if segment.chars().count() > MAX_ID_CHARS { ".." } else { segment })
        .collect();
    let mut line: String = segments.join("/").escape_debug().take(LONGEST).collect();
    if line.len() >= LONGEST {
        line.push_str("..");
    }
    line
}

/// Something that an operator did.
pub(super) fn operator(what: &str, zone: &str, id: &str) {
    tracing::info!(target: TARGET, "operator: {what} {zone} {id}");
}

/// What a user of an application decided about a hold.
pub(super) fn decision(application: &str, id: &str, told: &serde_json::Value) {
    let state = told.get("state").and_then(serde_json::Value::as_str).unwrap_or_default();
    tracing::info!(target: TARGET, "sts {application}: approval {} {state} by its user", readable(id));
}
