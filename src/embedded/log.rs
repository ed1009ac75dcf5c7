//! One readable line for each decision, as a `tracing` event of the target
//! `caracal_axum::embedded`. No line holds a secret or a token.

use http::StatusCode;

use super::sts::{Form, Refusal};

const TARGET: &str = "caracal_axum::embedded";

/// A request to the Coordinator and what became of it.
pub(super) fn coordinator(
    head: &http::request::Parts,
    status: StatusCode,
    code: Option<&str>,
    application: Option<&str>,
) {
    let who = application.unwrap_or("unknown");
    let (method, path) = (&head.method, head.uri.path());
    let code = code.map(|code| format!(" {code}")).unwrap_or_default();
    tracing::info!(target: TARGET, "coordinator {who}: {method} {path} -> {}{code}", status.as_u16());
}

/// A request to the token endpoint and what became of it. What the form says is written escaped.
pub(super) fn token(form: Option<&Form>, refusal: Option<&Refusal>) {
    let asked = form.map_or_else(
        || "a form that is none".to_owned(),
        |form| {
            let resources: Vec<_> =
                form.resources.iter().map(|name| name.escape_debug().to_string()).collect();
            let session =
                form.session.as_ref().map(|id| format!(" in session {}", id.escape_debug()));
            format!(
                "{}: {} at {}{}",
                form.application.escape_debug(),
                form.scope.escape_debug(),
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

/// Something that an operator did.
pub(super) fn operator(what: &str, zone: &str, id: &str) {
    tracing::info!(target: TARGET, "operator: {what} {zone} {id}");
}
