//! Faults on purpose: what a client or a service does when the control plane fails it.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response::Response};
use http_body::Frame;
use serde_json::json;

use super::{server::Unanswered, sts, time::EmbeddedClock, web};
use crate::Clock as _;

/// A route of the control plane, as faults and records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST /oauth/2/token` of the STS.
    Token,
    /// `GET /.well-known/jwks.json` of the STS.
    Keys,
    /// `GET /approvals/{id}` of the STS.
    Approval,
    /// `POST /approvals/{id}/decision` of the STS.
    Decision,
    /// `POST /zones/{zone}/agents`.
    StartSession,
    /// `DELETE /zones/{zone}/agents/{id}`.
    EndSession,
    /// `POST /zones/{zone}/agents/{id}/heartbeat`.
    Heartbeat,
    /// `POST /zones/{zone}/agents/{id}/lease`.
    Takeover,
    /// `PATCH /zones/{zone}/agents/{id}/suspend`.
    Suspend,
    /// `PATCH /zones/{zone}/agents/{id}/resume`.
    Resume,
    /// `POST /zones/{zone}/delegations`.
    Delegate,
    /// `PATCH /zones/{zone}/delegations/{id}/revoke`.
    RevokeDelegation,
    /// `GET` of sessions, delegations and lists of them.
    Read,
    /// Any request to the Gateway but those to paths of its own, such as `/health`. Its body stands in
    /// no record: it is passed on as it comes.
    Gateway,
    /// Any other request.
    Other,
}

impl Endpoint {
    pub(super) fn of_sts(method: &Method, path: &str) -> Self {
        match (method.as_str(), path) {
            ("POST", "/oauth/2/token") => Self::Token,
            ("GET" | "HEAD", "/.well-known/jwks.json") => Self::Keys,
            (method, path) => sts::approval_endpoint(method, path).unwrap_or(Self::Other),
        }
    }
}

/// What goes wrong with a request. Before its effect unless said otherwise, and until it is
/// cleared unless a number of times is given.
///
/// ```
/// use std::time::Duration;
///
/// use caracal_axum::embedded::Fault;
/// use http::StatusCode;
///
/// let twice_unavailable = Fault::status(StatusCode::SERVICE_UNAVAILABLE).times(2);
/// // The session is started, and its answer is lost.
/// let lost_answer = Fault::drop_connection().after_effect().times(1);
/// let slow = Fault::delay(Duration::from_secs(10));
/// # let _ = (twice_unavailable, lost_answer, slow);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    what: What,
    after_effect: bool,
    left: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Answer { status: StatusCode, headers: HeaderMap, body: Bytes },
    Delay(Duration),
    Drop,
    Truncate(usize),
}

impl Fault {
    const fn new(what: What) -> Self {
        Self { what, after_effect: false, left: None }
    }

    /// The request is answered with this status, a final one, and the body
    /// `{"error":"injected_fault"}`.
    #[must_use]
    pub fn status(status: StatusCode) -> Self {
        Self::refusal(status, "injected_fault")
    }

    /// The request is answered with this status and code.
    #[must_use]
    pub fn refusal(status: StatusCode, code: &str) -> Self {
        Self::answer(status, json!({ "error": code }).to_string())
    }

    /// The request is answered with this status and body, which is said to be JSON whatever it is.
    #[must_use]
    pub fn answer(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self::new(What::Answer { status, headers, body: body.into() })
    }

    /// Adds a header to the answer of [`status`](Self::status), [`refusal`](Self::refusal) or
    /// [`answer`](Self::answer); in place of one of that name.
    ///
    /// # Panics
    ///
    /// When one or the other is no header, or the fault has no answer.
    #[must_use]
    #[expect(clippy::panic, reason = "a test with a wrong constant")]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        match (&mut self.what, HeaderValue::from_str(value)) {
            (What::Answer { headers, .. }, Ok(value)) => {
                headers.insert(HeaderName::from_static(name), value);
            }
            _ => panic!("not a header, or there is no answer that could have it: {name}"),
        }
        self
    }

    /// The answer comes when the control plane's clock has moved by this much since the request
    /// arrived: wait for that with [`received`](super::EmbeddedCaracal::received), then
    /// [`advance`](super::EmbeddedCaracal::advance). A caller who gives up meanwhile takes his
    /// request back; with [`after_effect`](Self::after_effect) it has taken effect by then. Not for
    /// tests under Tokio's paused time, which runs on while this waits.
    #[must_use]
    pub const fn delay(time: Duration) -> Self {
        Self::new(What::Delay(time))
    }

    /// The connection is closed without an answer.
    #[must_use]
    pub const fn drop_connection() -> Self {
        Self::new(What::Drop)
    }

    /// The body of the answer is cut off after so many bytes, one less than all at most, though its
    /// head promises all of it. Before the effect that is the answer of a bad gateway (502).
    #[must_use]
    pub const fn truncate(bytes: usize) -> Self {
        Self::new(What::Truncate(bytes))
    }

    /// The request takes effect first: a session is started, a token is minted, and only its
    /// answer is at fault.
    #[must_use]
    pub const fn after_effect(mut self) -> Self {
        self.after_effect = true;
        self
    }

    /// It happens so many times and no more.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// What happens before the request takes effect: an answer in its place, or nothing that keeps
    /// it from going on.
    pub(super) async fn before(
        &self,
        clock: &EmbeddedClock,
    ) -> Result<Option<Response<Body>>, Unanswered> {
        if self.after_effect { Ok(None) } else { self.befall(clock, None).await }
    }

    /// What becomes of the answer once the request has taken effect.
    pub(super) async fn after(
        &self,
        clock: &EmbeddedClock,
        answer: Response<Body>,
    ) -> Result<Response<Body>, Unanswered> {
        if !self.after_effect {
            return Ok(answer);
        }
        Ok(self.befall(clock, Some(answer)).await?.unwrap_or_default())
    }

    async fn befall(
        &self,
        clock: &EmbeddedClock,
        answer: Option<Response<Body>>,
    ) -> Result<Option<Response<Body>>, Unanswered> {
        match &self.what {
            What::Drop => Err(Unanswered),
            What::Answer { status, headers, body } => {
                let mut answer = Response::new(Body::from(body.clone()));
                *answer.status_mut() = *status;
                *answer.headers_mut() = headers.clone();
                Ok(Some(answer))
            }
            What::Delay(time) => {
                clock.sleep(*time).await;
                Ok(answer)
            }
            What::Truncate(bytes) => {
                let answer = answer.unwrap_or_else(bad_gateway);
                cut(answer, *bytes).await.map(Some)
            }
        }
    }
}

fn bad_gateway() -> Response<Body> {
    web::json(StatusCode::BAD_GATEWAY, &json!({ "error": "injected_fault" }))
}

async fn cut(answer: Response<Body>, bytes: usize) -> Result<Response<Body>, Unanswered> {
    let (mut head, body) = answer.into_parts();
    // Answers are made in memory: they end, and cannot fail.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    // Of nothing there is no part.
    let most = body.len().checked_sub(1).ok_or(Unanswered)?;
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(Response::from_parts(head, Body::new(Cut::Begin(body.slice(..bytes.min(most))))))
}

/// A body that fails where it should go on.
enum Cut {
    Begin(Bytes),
    /// What came first is on its way before the connection breaks.
    Flush,
    Break,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Unanswered;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unanswered>>> {
        match std::mem::replace(&mut *self, Self::Break) {
            Self::Begin(bytes) => {
                *self = Self::Flush;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Flush => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Break => Poll::Ready(Some(Err(Unanswered))),
        }
    }
}

/// The faults that wait for their requests, in the order in which they were injected.
#[derive(Default)]
pub(super) struct Faults(Mutex<Vec<(Endpoint, Fault)>>);

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Vec<(Endpoint, Fault)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inject(&self, endpoint: Endpoint, fault: Fault) {
        self.lock().push((endpoint, fault));
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// The fault for a request that arrives, used up by it.
    pub(super) fn take(&self, endpoint: Endpoint) -> Option<Fault> {
        let mut faults = self.lock();
        faults.retain(|(_, fault)| fault.left != Some(0));
        let (_, fault) = faults.iter_mut().find(|(at, _)| *at == endpoint)?;
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        Some(fault.clone())
    }
}
