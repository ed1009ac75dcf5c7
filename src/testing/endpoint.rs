//! The key endpoint of an issuer (inbound contract §7.6).

use std::sync::{Arc, Weak};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    routing::get,
};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::zone::Zone;

/// A key endpoint that listens. It closes when it is dropped.
pub(super) struct Endpoint {
    task: JoinHandle<()>,
    /// Its end ends the task, and the connections that are open.
    _open: oneshot::Sender<()>,
}

impl Endpoint {
    /// Serves the keys of `zone` for as long as there is one.
    pub(super) fn start(listener: TcpListener, zone: &Arc<Zone>) -> Self {
        let app = Router::new()
            .route("/.well-known/jwks.json", get(answer))
            .with_state(Arc::downgrade(zone));
        let (open, closed) = oneshot::channel::<()>();
        let served = axum::serve(listener, app).with_graceful_shutdown(async {
            // An error: nothing is ever sent.
            let _ = closed.await;
        });
        let task = tokio::spawn(async move {
            // It ends when it is told to, and with no error.
            let _ = served.await;
        });
        Self { task, _open: open }
    }

    /// Waits until nothing listens any more, but not for who is in the middle of a request.
    pub(super) async fn close(self) {
        self.task.abort();
        // Ends with the error that says it was aborted.
        let _ = self.task.await;
    }
}

async fn answer(State(zone): State<Weak<Zone>>, RawQuery(query): RawQuery) -> Response<Body> {
    let keys = |asked: &str| {
        let zone = zone.upgrade().filter(|zone| zone.id == asked)?;
        Some(zone.document())
    };
    key_document(query.as_deref(), keys).0
}

/// The answer of a key endpoint to this query, and the code it refuses with. Of several zones the
/// first counts; `keys` is the document of one.
pub(crate) fn key_document(
    query: Option<&str>,
    keys: impl FnOnce(&str) -> Option<Value>,
) -> (Response<Body>, Option<&'static str>) {
    let zone = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "zone_id")
        .map(|(_, zone)| zone)
        .filter(|zone| !zone.is_empty());
    let Some(zone) = zone else {
        return refusal(StatusCode::BAD_REQUEST, "invalid_token", "name a zone_id");
    };
    let Some(document) = keys(&zone) else {
        let text = "the zone is unknown, or has no key yet";
        return refusal(StatusCode::NOT_FOUND, "resource_not_found", text);
    };
    let mut response = json(StatusCode::OK, &document);
    let headers = response.headers_mut();
    let caching = HeaderValue::from_static("public, max-age=300, must-revalidate");
    headers.insert(header::CACHE_CONTROL, caching);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    (response, None)
}

fn refusal(
    status: StatusCode,
    code: &'static str,
    text: &str,
) -> (Response<Body>, Option<&'static str>) {
    let body = serde_json::json!({ "error": code, "error_description": text });
    (json(status, &body), Some(code))
}

fn json(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
