//! Requests to the Coordinator with the application's own token.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use url::Url;

use super::{
    CaracalError, ClientEvent, hints,
    hooks::Hooks,
    http::{Answer, Endpoint, is_transient, is_uncertain, pause},
    sts::Token,
    tokens::Tokens,
};
use crate::{
    CaracalContext, Clock, TraceId,
    envelope::{HEADER_TRACEPARENT, HEADER_TRACESTATE, new_traceparent},
};

const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_KEY_KIND: HeaderName = HeaderName::from_static("idempotency-key-kind");

/// The Coordinator.
pub(super) struct Coordinator {
    pub(super) endpoint: Endpoint,
    /// Without a slash at its end.
    pub(super) url: String,
    pub(super) tokens: Tokens,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hooks: Arc<Hooks>,
}

/// A request, apart from the token and the zone.
pub(super) struct Call {
    pub(super) action: &'static str,
    pub(super) method: Method,
    /// Below the zone, with a slash at its beginning.
    pub(super) path: String,
    pub(super) body: Option<Map<String, Value>>,
    key: Option<IdempotencyKey>,
    /// Whose trace it continues.
    trace: Option<CaracalContext>,
    /// How often it is tried again where nothing is known of its effect.
    pub(super) retries: u32,
    /// Whether its digest holds the authority record of the token: that of a start does.
    is_start: bool,
    /// The resource whose lifecycle token it is made with, in place of one for all that are
    /// configured.
    audience: Option<String>,
}

/// What came of a request.
pub(super) struct Sent<T> {
    pub(super) result: Result<T, CaracalError>,
    /// Whether a try before the last may have had its effect.
    pub(super) uncertain: bool,
}

/// Reads an answer of success.
pub(super) type Read<T> = fn(&Answer) -> Result<T, &'static str>;

impl Call {
    pub(super) fn new(action: &'static str, method: Method, path: String) -> Self {
        Self {
            action,
            method,
            path,
            body: None,
            key: None,
            trace: None,
            retries: 0,
            is_start: false,
            audience: None,
        }
    }

    pub(super) fn body(mut self, body: Map<String, Value>) -> Self {
        self.body = Some(body);
        self
    }

    /// Tried again as often as this where it is not known whether it had its effect.
    pub(super) fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    pub(super) fn audience(mut self, resource: Option<&str>) -> Self {
        self.audience = resource.map(str::to_owned);
        self
    }

    /// Continues the trace of a context, where it has one.
    pub(super) fn trace(mut self, context: Option<&CaracalContext>) -> Self {
        self.trace = context.cloned();
        self
    }

    pub(super) fn key(mut self, key: &IdempotencyKey) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// The key of a start. Of one that is nobody's but this request's the Coordinator is told so,
    /// and keeps it for a shorter time.
    pub(super) fn start_key(mut self, key: &IdempotencyKey) -> Self {
        self.is_start = true;
        self.key(key)
    }

    /// The headers of one try: each is a span of its own.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(key) = &self.key {
            headers.insert(IDEMPOTENCY_KEY, key.value.clone());
            if self.is_start && key.generated {
                headers.insert(IDEMPOTENCY_KEY_KIND, HeaderValue::from_static("generated"));
            }
        }
        if let Some(context) = &self.trace
            && let Some(id) = context.trace_id()
        {
            let parent = new_traceparent(Some(id), context.trace_flags());
            headers.insert(HEADER_TRACEPARENT, parent);
            if let Some(Ok(state)) = context.trace_state().map(HeaderValue::from_str) {
                headers.insert(HEADER_TRACESTATE, state);
            }
        }
        headers
    }
}

/// By what a request that is repeated is known.
#[derive(Clone)]
pub(super) struct IdempotencyKey {
    value: HeaderValue,
    generated: bool,
}

impl IdempotencyKey {
    pub(super) fn generate() -> Self {
        let key: String =
            (0..32).filter_map(|_| char::from_digit(fastrand::u32(..16), 16)).collect();
        // Hex digits are a header value.
        let value = HeaderValue::from_str(&key).unwrap_or(HeaderValue::from_static("0"));
        Self { value, generated: true }
    }

    /// The same, without saying that it was made up.
    pub(super) fn unmarked(self) -> Self {
        Self { generated: false, ..self }
    }

    /// The rules of the Coordinator: 1 to 255 bytes as it counts them, no blanks around, no
    /// controls.
    pub(super) fn of_caller(key: &str) -> Result<Self, CaracalError> {
        // It reads the bytes as Latin-1, so that each above 127 counts twice.
        let length = key.bytes().map(|byte| if byte.is_ascii() { 1 } else { 2 }).sum::<usize>();
        let good = (1..=255).contains(&length)
            && key.trim() == key
            && !key.chars().any(|character| character.is_control());
        let value = HeaderValue::from_bytes(key.as_bytes()).ok().filter(|_| good);
        let value = value.ok_or_else(|| {
            CaracalError::usage(
                "idempotency_key_invalid",
                "an idempotency key has 1 to 255 bytes, no blanks around it and no control characters",
            )
        })?;
        Ok(Self { value, generated: false })
    }
}

/// One segment of a path.
pub(super) fn segment(id: &str) -> String {
    utf8_percent_encode(id, SEGMENT).to_string()
}

impl Coordinator {
    /// Sends a request, once more with a new token if that is refused, and again as often as the
    /// call says.
    pub(super) async fn send<T>(&self, call: Call, read: Read<T>) -> Sent<T> {
        match self.tokens.lifecycle_for(call.audience.as_deref()).await {
            Ok(token) => self.send_with(token, call, read).await,
            Err(error) => Sent { result: Err(error), uncertain: false },
        }
    }

    /// The same, beginning with this token.
    pub(super) async fn send_with<T>(
        &self,
        token: Token,
        mut call: Call,
        read: Read<T>,
    ) -> Sent<T> {
        let mut uncertain = false;
        let result = self.try_all(token, &mut call, read, &mut uncertain).await;
        Sent { result, uncertain }
    }

    async fn try_all<T>(
        &self,
        mut token: Token,
        call: &mut Call,
        read: Read<T>,
        uncertain: &mut bool,
    ) -> Result<T, CaracalError> {
        let first_record = token.sid.clone();
        let (mut refreshed, mut failures, mut named) = (false, 0, false);
        loop {
            let error = match self.once(call, &token, read).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_status(StatusCode::UNAUTHORIZED) && !refreshed && self.tokens.can_exchange()
            {
                refreshed = true;
                token = self.tokens.renew(&token).await?;
                // The digest of a start holds the record of the token: what may have been started
                // under the first is found again by naming that.
                if *uncertain && let Some(record) = &first_record {
                    named = call.name_record(record);
                }
            } else if named && error.code() == "session_not_found" {
                // Nothing was started, and the record is gone.
                named = false;
                call.unname_record();
            } else if is_transient(&error) && failures < call.retries {
                failures += 1;
                *uncertain |= is_uncertain(&error);
                tokio::time::sleep(pause(failures, &error)).await;
            } else if error.is_status(StatusCode::UNAUTHORIZED) {
                let hint = hints::of_token(error.code(), refreshed);
                return Err(error.hinted(hint));
            } else {
                return Err(error);
            }
        }
    }

    async fn once<T>(&self, call: &Call, token: &Token, read: Read<T>) -> Result<T, CaracalError> {
        let started = self.clock.monotonic();
        let path = format!("/zones/{}{}", segment(&token.zone), call.path);
        let request_id = TraceId::random();
        let answered = self.ask(call, &path, token, &request_id).await;
        let status = answered.as_ref().ok().map(|answer| answer.status.as_u16());
        let replayed = answered.as_ref().is_ok_and(Answer::is_replay);
        let answered = answered.and_then(|answer| {
            if answer.status.is_success() {
                return Ok(answer);
            }
            Err(self.endpoint.refusal(call.action, &answer, &[token.bearer.expose()]))
        });
        let answered = answered.map_err(|error| error.of_request(request_id.as_str()));
        let error = answered.as_ref().err();
        self.hooks.tell(&ClientEvent::CoordinatorCall {
            ok: error.is_none(),
            method: call.method.to_string(),
            path,
            status,
            code: error.map(|error| error.code().to_owned()),
            request_id: Some(request_id.as_str().to_owned()),
            replayed,
            duration: self.clock.monotonic().saturating_sub(started),
        });
        let answer = answered?;
        read(&answer).map_err(|problem| {
            let unusable = self.endpoint.unusable(call.action, &answer, problem);
            unusable.of_request(request_id.as_str())
        })
    }

    async fn ask(
        &self,
        call: &Call,
        path: &str,
        token: &Token,
        request_id: &TraceId,
    ) -> Result<Answer, CaracalError> {
        let unusable = || CaracalError::usage("invalid_zone", "the zone id makes no URL");
        let url = Url::parse(&format!("{}{path}", self.url)).map_err(|_| unusable())?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.bearer.expose()))
            .map_err(|_| CaracalError::usage("invalid_token", "the token is no header value"))?;
        bearer.set_sensitive(true);
        let mut request = self
            .endpoint
            .request(call.method.clone(), &url)
            .headers(call.headers())
            .header(header::AUTHORIZATION, bearer)
            .header(header::ACCEPT, "application/json")
            // By this id the audit trail knows the request, also where no answer comes.
            .header("x-request-id", request_id.as_str());
        if let Some(body) = &call.body {
            let body = Value::Object(body.clone()).to_string();
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        self.endpoint.send(call.action, request).await
    }
}

/// The member of a start that names the authority record it is done under.
pub(super) const RECORD: &str = "subject_session_id";

impl Call {
    /// Names this record, where the call may and named none before; whether it did.
    fn name_record(&mut self, record: &str) -> bool {
        match &mut self.body {
            Some(body) if self.is_start && !body.contains_key(RECORD) => {
                body.insert(RECORD.to_owned(), Value::from(record));
                true
            }
            _ => false,
        }
    }

    fn unname_record(&mut self) {
        if let Some(body) = &mut self.body {
            body.remove(RECORD);
        }
    }
}

/// A moment as the Coordinator writes it, since the Unix epoch.
pub(super) fn moment(text: &str) -> Option<Duration> {
    let at: jiff::Timestamp = text.parse().ok()?;
    at.duration_since(jiff::Timestamp::UNIX_EPOCH).try_into().ok()
}
