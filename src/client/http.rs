//! Requests to the control plane, and what their answers mean.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use reqwest::RequestBuilder;
use serde_json::Value;
use url::Url;

use super::{
    CaracalError, ControlPlane, Refusal, Unreachable, UnusableAnswer, error::Source, hints,
};
use crate::outgoing::{Clients, Unread, cause, read_body};

/// The most bytes of an answer: the longest, a full page of delegations, has about 500 KiB.
const MAX_ANSWER: usize = 1 << 20;
/// How much of an answer that makes no sense is shown.
const EXCERPT: usize = 2048;
/// The longest wait that a `Retry-After` is taken for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// One service of the control plane.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) service: ControlPlane,
    pub(super) clients: Clients,
    pub(super) timeout: Duration,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Whether it is that of an earlier request with the same key.
    pub(super) fn is_replay(&self) -> bool {
        self.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
    }
}

impl Endpoint {
    /// A request to be completed and given to [`send`](Self::send).
    pub(super) fn request(&self, method: http::Method, url: &Url) -> RequestBuilder {
        self.clients.of(url).request(method, url.clone()).timeout(self.timeout)
    }

    /// Sends a request, and reads the answer to its end.
    pub(super) async fn send(
        &self,
        action: &'static str,
        request: RequestBuilder,
    ) -> Result<Answer, CaracalError> {
        let unreachable = |error: reqwest::Error| {
            CaracalError::Unreachable(Unreachable {
                service: self.service,
                action,
                timed_out: error.is_timeout(),
                unsent: error.is_connect(),
                request_id: None,
                source: Source::from(Box::from(cause(error))),
            })
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        match read_body(response, MAX_ANSWER).await {
            Ok(body) => Ok(Answer { status, headers, body }),
            // Of a refusal the status says enough.
            Err(_) if !status.is_success() => Ok(Answer { status, headers, body: Bytes::new() }),
            Err(Unread::Broken(error)) => Err(unreachable(error)),
            Err(Unread::TooLarge) => {
                let answer = Answer { status, headers, body: Bytes::new() };
                Err(self.unusable(action, &answer, "its body is larger than any of its should be"))
            }
        }
    }

    /// The error of an answer that says success.
    pub(super) fn unusable(
        &self,
        action: &'static str,
        answer: &Answer,
        problem: &'static str,
    ) -> CaracalError {
        CaracalError::UnusableAnswer(UnusableAnswer {
            service: self.service,
            action,
            status: answer.status,
            problem,
            request_id: header_text(&answer.headers, "x-request-id"),
        })
    }

    /// The error of an answer that does not. `secrets` are in none of it, whatever was echoed.
    pub(super) fn refusal(
        &self,
        action: &'static str,
        answer: &Answer,
        secrets: &[&str],
    ) -> CaracalError {
        let body: Option<serde_json::Map<String, Value>> =
            serde_json::from_slice(&answer.body).ok();
        let text = |name: &str| {
            let text = body.as_ref()?.get(name)?.as_str()?.trim();
            (!text.is_empty()).then(|| presentable(text, secrets))
        };
        // Nobody is followed to another address: it would get what was sent here.
        let code = if answer.status.is_redirection() {
            Some("unexpected_redirect".to_owned())
        } else {
            text("error")
        };
        let is_hold = code.as_deref() == Some("interaction_required");
        let approval = is_hold.then(|| serde_json::from_slice(&answer.body).ok()).flatten();
        let retry_after = answer.headers.get(header::RETRY_AFTER);
        let excerpt = (code.is_none() && !answer.body.is_empty())
            .then(|| presentable(&String::from_utf8_lossy(&answer.body), secrets));
        let hint = hints::of(self.service, action, answer.status, code.as_deref());
        CaracalError::Refused(Box::new(Refusal {
            service: self.service,
            action,
            status: answer.status,
            description: ["error_description", "detail", "message"]
                .iter()
                .find_map(|name| text(name)),
            request_id: text("requestId")
                .or_else(|| text("request_id"))
                .or_else(|| header_text(&answer.headers, "x-request-id"))
                .map(|id| presentable(&id, secrets)),
            retry_after: retry_after.and_then(|value| seconds(value.to_str().ok()?)),
            code,
            excerpt,
            approval,
            hint: hint.map(Into::into),
        }))
    }
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    (!text.is_empty()).then(|| shorten(text))
}

/// `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
fn seconds(value: &str) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number beyond all bounds is a long wait too.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(at.duration_since(jiff::Timestamp::now()).try_into().unwrap_or(Duration::ZERO))
}

/// At most as many characters as are worth showing.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… (truncated)", text.get(..end).unwrap_or_default()),
    }
}

/// As much of a secret as may be shown by chance.
const WINDOW: usize = 16;

/// The beginning of a text, in one line and without any part of what was sent in confidence, as it
/// is and as a form writes it.
fn presentable(text: &str, secrets: &[&str]) -> String {
    // Longer than what is shown, for it may become shorter.
    let text: String = text.chars().take(4 * EXCERPT).collect();
    let mut hidden = vec![false; text.len()];
    for secret in secrets {
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        for spelling in [secret.as_bytes(), encoded.as_bytes(), encoded.to_lowercase().as_bytes()] {
            // A short secret counts as a whole.
            let length = WINDOW.min(spelling.len()).max(1);
            let parts: HashSet<&[u8]> = spelling.windows(length).collect();
            for (at, part) in text.as_bytes().windows(length).enumerate() {
                if parts.contains(part) {
                    hidden.iter_mut().skip(at).take(length).for_each(|hidden| *hidden = true);
                }
            }
        }
    }
    let mut shown = String::with_capacity(text.len());
    let mut redacting = false;
    for (at, character) in text.char_indices() {
        let hide = hidden.get(at).copied().unwrap_or(true);
        match character {
            _ if hide && redacting => {}
            _ if hide => shown.push_str("[redacted]"),
            character if character.is_control() => shown.push(' '),
            character => shown.push(character),
        }
        redacting = hide;
    }
    shorten(&shown)
}

/// How long to wait before the next try, after `failures` of them.
pub(super) fn pause(failures: u32, error: &CaracalError) -> Duration {
    let asked = match error {
        CaracalError::Refused(refusal) => refusal.retry_after,
        _ => None,
    };
    let wait = match asked {
        Some(wait) => wait.min(MAX_RETRY_AFTER),
        None => Duration::from_millis(250) * failures,
    };
    wait + Duration::from_millis(fastrand::u64(..100))
}

/// Whether a service may have done what it was asked, though its answer does not say so.
pub(super) fn is_uncertain(error: &CaracalError) -> bool {
    let unsent = matches!(error, CaracalError::Unreachable(Unreachable { unsent: true, .. }));
    is_transient(error) && !unsent
}

/// Whether the same may work if it is asked again.
pub(super) fn is_transient(error: &CaracalError) -> bool {
    match error {
        CaracalError::Unreachable(_) | CaracalError::UnusableAnswer(_) => true,
        CaracalError::Refused(refusal) => refusal.status.is_server_error(),
        _ => false,
    }
}
