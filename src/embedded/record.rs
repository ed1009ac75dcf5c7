//! What was asked and what was decided, to assert on.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Method, request::Parts};
use serde_json::Value;
use tokio::sync::watch;

use super::{faults::Endpoint, web::Received};

/// The most requests that are remembered: the last ones.
const MOST: usize = 10_000;

/// What the control plane decided about a request. A fault may have kept its answer from the
/// caller.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// The route.
    pub endpoint: Endpoint,
    /// Who asked, where that was proven (by a token) or claimed (in a form of the STS).
    pub application: Option<String>,
    /// The status.
    pub status: u16,
    /// The `error` of a refusal.
    pub code: Option<&'static str>,
    /// Whether the answer repeats that to an earlier request with the same `Idempotency-Key`.
    pub replayed: bool,
}

impl Decision {
    /// Whether what was asked was granted.
    #[must_use]
    pub fn is_granted(&self) -> bool {
        self.code.is_none() && self.status < 400
    }
}

/// A request as it was received. It holds what the caller sent, secrets included; `Debug` does not
/// show them.
#[derive(Clone)]
pub struct ReceivedRequest {
    endpoint: Endpoint,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    pub(super) decision: Option<Decision>,
}

impl ReceivedRequest {
    pub(super) fn new(endpoint: Endpoint, head: &Parts, body: &Received) -> Self {
        let body = match body {
            Received::Whole(body) => body.clone(),
            Received::TooLarge => Bytes::new(),
        };
        Self {
            endpoint,
            method: head.method.clone(),
            target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            headers: head.headers.clone(),
            body,
            decision: None,
        }
    }

    /// The route.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, and the query if there is one.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The first value of a field of a form.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        let mut fields = url::form_urlencoded::parse(&self.body);
        fields.find(|(field, _)| field == name).map(|(_, value)| value.into_owned())
    }

    /// What was decided; nothing where a fault came first.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }
}

impl fmt::Debug for ReceivedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedRequest")
            .field("endpoint", &self.endpoint)
            .field("method", &self.method)
            .field("decision", &self.decision)
            .finish_non_exhaustive()
    }
}

/// The last requests, in the order in which they arrived.
#[derive(Default)]
pub(super) struct Records {
    kept: Mutex<Kept>,
    arrivals: watch::Sender<()>,
}

#[derive(Default)]
struct Kept {
    requests: VecDeque<ReceivedRequest>,
    /// The number of the first one kept.
    first: usize,
}

impl Records {
    /// Keeps a request; its number.
    pub(super) fn add(&self, request: ReceivedRequest) -> usize {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.requests.len() == MOST {
            kept.requests.pop_front();
            kept.first += 1;
        }
        kept.requests.push_back(request);
        self.arrivals.send_replace(());
        kept.first + kept.requests.len() - 1
    }

    /// Waits until there is a request to this endpoint; the last one.
    pub(super) async fn received(&self, endpoint: Endpoint) -> ReceivedRequest {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            if let Some(last) = self.last(endpoint) {
                return last;
            }
            // The sender is a part of this, and so never gone.
            let _ = arrivals.changed().await;
        }
    }

    /// Tells what was decided about a request.
    pub(super) fn decide(&self, number: usize, decision: Decision) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = number.checked_sub(kept.first);
        if let Some(request) = at.and_then(|at| kept.requests.get_mut(at)) {
            request.decision = Some(decision);
        }
    }

    fn last(&self, endpoint: Endpoint) -> Option<ReceivedRequest> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.requests.iter().rfind(|request| request.endpoint == endpoint).cloned()
    }

    pub(super) fn all(&self) -> Vec<ReceivedRequest> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.requests.iter().cloned().collect()
    }
}
