//! Everything of this crate's client that the recorded actions need: how it is called, and how what
//! it returns reads in the words of the recording.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use caracal_axum::{
    Caracal, CaracalError, ClientEvent, DelegationConstraints, Grant, Health, LeaseLost, Renewal,
    SessionState, Subscription, TraceId,
};
pub(super) use caracal_axum::{CaracalContext as Context, ServiceAgent as Service};
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::steps::{Outcome, text};

/// The options that a session and a service have in common.
macro_rules! start_options {
    ($spawn:expr, $step:expr) => {{
        let step: &Value = $step;
        let mut spawn = $spawn.labels(texts(&step["labels"])).grant(grant(&step["authority"]));
        if let Some(key) = step["key"].as_str() {
            spawn = spawn.idempotency_key(key);
        }
        if let Some(id) = step["trace_id"].as_str() {
            spawn = spawn.trace_id(TraceId::parse(id).unwrap());
        }
        let metadata = metadata(step);
        if metadata.is_empty() { spawn } else { spawn.metadata(metadata) }
    }};
}

/// Why a step did not come to a good end.
#[derive(Debug)]
pub(super) enum Failure {
    Client(CaracalError),
    /// The body's own error, or that of a hook.
    Body,
    Cancelled,
}

impl From<CaracalError> for Failure {
    fn from(error: CaracalError) -> Self {
        match error {
            CaracalError::Hook(_) => Self::Body,
            error => Self::Client(error),
        }
    }
}

impl Failure {
    /// `class`, `code` and `status`, as the recorder notes them.
    pub(super) fn recorded(&self) -> Value {
        let error = match self {
            Self::Body => return json!({ "class": "body" }),
            Self::Cancelled => return json!({ "class": "cancelled" }),
            Self::Client(error) => error,
        };
        match error {
            CaracalError::Refused(refusal) => {
                let class = refusal.service().to_string().to_lowercase();
                let mut note = json!({ "class": class, "status": refusal.status().as_u16() });
                if error.code() != "http_error" {
                    note["code"] = error.code().into();
                }
                // Advice for who has no delegation.
                if error.to_string().contains("Grant::narrow") {
                    note["hint"] = true.into();
                }
                note
            }
            CaracalError::Unreachable(_) => json!({ "class": "network" }),
            _ => json!({ "class": "other" }),
        }
    }
}

/// How a client is made.
pub(super) struct Settings {
    pub(super) sts: String,
    pub(super) coordinator: String,
    pub(super) gateway: Option<String>,
    pub(super) zone: String,
    pub(super) application: String,
    pub(super) secret: String,
    /// A token in place of the secret.
    pub(super) token: Option<String>,
    pub(super) resources: Vec<String>,
    /// The URLs of some of them.
    pub(super) bindings: Vec<(String, String)>,
    pub(super) default_ttl: Option<u64>,
}

#[derive(Clone)]
pub(super) struct Client {
    pub(super) caracal: Caracal,
    /// What the client told of itself, in the words of the recorder.
    pub(super) events: Arc<Mutex<Vec<String>>>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut builder = Caracal::builder()
            .sts_url(&settings.sts)
            .coordinator_url(&settings.coordinator)
            .zone(&settings.zone)
            .application(&settings.application);
        builder = match &settings.token {
            Some(token) => builder.subject_token(token),
            None => builder.client_secret(&settings.secret),
        };
        for resource in &settings.resources {
            let binding = settings.bindings.iter().find(|(bound, _)| bound == resource);
            builder = match binding {
                Some((_, url)) => builder.resource(resource, url, [""; 0]),
                None => builder.audience(resource),
            };
        }
        if let Some(url) = &settings.gateway {
            builder = builder.gateway_url(url);
        }
        if let Some(ttl) = settings.default_ttl {
            builder = builder.default_ttl(Duration::from_secs(ttl));
        }
        let heard = Arc::clone(&events);
        let builder = builder.on_event(move |event| heard.lock().unwrap().extend(told(event)));
        Self { caracal: builder.build().unwrap(), events }
    }

    pub(super) async fn session<B>(
        &self,
        step: &Value,
        body: impl FnOnce(Context) -> B + Send,
    ) -> Outcome
    where
        B: Future<Output = Outcome> + Send,
    {
        let hook = self.hook(text(step, "hook"));
        let mut spawn = start_options!(self.caracal.spawn(), step);
        if let Some(ttl) = seconds(&step["ttl"]) {
            spawn = spawn.ttl(ttl);
        }
        let done = spawn.try_run(body).await;
        hook.into_iter().for_each(Subscription::remove);
        done
    }

    /// A hook that fails.
    fn hook(&self, which: &str) -> Option<Subscription> {
        let events = Arc::clone(&self.events);
        match which {
            "start_fails" => Some(self.caracal.on_agent_start(|_| async { Err("start hook") })),
            "end_fails" => Some(self.caracal.on_agent_end(move |_| {
                events.lock().unwrap().push("end hook ran".to_owned());
                async { Err("end hook") }
            })),
            _ => None,
        }
    }

    /// Starts a service or, where a session is given, takes its lease over.
    pub(super) async fn service(&self, step: &Value, session: &str) -> Result<Service, Failure> {
        let renewal = match step["interval_ms"].as_u64() {
            Some(0) => Renewal::Manual,
            Some(every) => Renewal::Every(Duration::from_millis(every)),
            None => Renewal::Auto,
        };
        let (losses, states) = (Arc::clone(&self.events), Arc::clone(&self.events));
        let lost = move |lost: &LeaseLost| {
            losses.lock().unwrap().push(format!("lease lost: {}", lost.error.code()));
        };
        let changed = move |state: &SessionState| {
            states.lock().unwrap().push(format!("state {}", state_name(state)));
        };
        let started = if session.is_empty() {
            let spawn = start_options!(self.caracal.spawn_service(), step);
            spawn.renewal(renewal).on_lease_lost(lost).on_state(changed).start().await
        } else {
            let attach = self.caracal.attach(session);
            attach.renewal(renewal).on_lease_lost(lost).on_state(changed).start().await
        };
        Ok(started?)
    }

    pub(super) async fn delegate(&self, step: &Value, to: &str) -> Result<Value, Failure> {
        // The recorder's default.
        let ttl = seconds(&step["ttl"]).unwrap_or(Duration::from_secs(600));
        let delegate = self
            .caracal
            .delegate(to)
            .scopes(texts(&step["scopes"]))
            .resource(text(step, "resource"))
            .constraints(constraints(&step["constraints"]))
            .ttl(ttl);
        let made = delegate.await?;
        let scopes: Vec<_> = made.scopes().iter().map(ToString::to_string).collect();
        Ok(json!({ "id": made.delegation_edge_id(), "scopes": scopes }))
    }

    pub(super) async fn accept(&self, edge: &str, validate: bool) -> Result<Context, Failure> {
        let accept = self.caracal.accept_delegation(edge);
        Ok(if validate { accept.validate().await } else { accept.await }?)
    }

    pub(super) async fn revoke(&self, edge: &str) -> Outcome {
        self.caracal.revoke_delegation(edge).await?;
        Ok(())
    }

    pub(super) async fn headers(&self, as_application: bool) -> Result<HeaderMap, Failure> {
        let headers = self.caracal.headers();
        Ok(if as_application { headers.allow_root().await } else { headers.await }?)
    }

    pub(super) async fn bind_from(
        &self,
        headers: &HeaderMap,
        as_application: bool,
    ) -> Result<Context, Failure> {
        let bind = self.caracal.bind_from_headers(headers);
        Ok(if as_application { bind.allow_root().await } else { bind.await }?)
    }

    pub(super) async fn within<F: Future>(&self, context: Context, body: F) -> F::Output {
        self.caracal.bind(context).run(body).await
    }

    /// A mandate, and for how many seconds it is good.
    pub(super) async fn mint(&self, step: &Value) -> Result<(String, u64), Failure> {
        let scopes: Vec<_> = texts(&step["scopes"]).collect();
        let mut mint = self.caracal.mint_mandate(text(step, "resource"), scopes);
        if let Some(ttl) = seconds(&step["ttl"]) {
            mint = mint.ttl(ttl);
        }
        let minted = mint.await?;
        Ok((minted.token().expose().to_owned(), minted.expires_in().as_secs()))
    }

    /// The bound authority.
    pub(super) fn describe(&self) -> Value {
        let authority = self.caracal.describe_authority(None).unwrap();
        let mut note = json!({
            "chain": authority.chain,
            "hop": authority.hop,
            "session": authority.agent_session_id,
            "trace_id": authority.trace_id.map(|id| id.to_string()),
        });
        note_some(&mut note, "delegation", authority.delegation_edge_id.as_deref());
        note
    }

    pub(super) async fn close(&self) {
        self.caracal.close().await;
    }
}

pub(super) async fn heartbeat(service: &Service, health: &str) -> Outcome {
    let health = match health {
        "" | "healthy" => Health::Healthy,
        "degraded" => Health::Degraded,
        other => panic!("no step reports `{other}`"),
    };
    service.heartbeat(health).await?;
    Ok(())
}

pub(super) async fn close_service(service: &Service) -> Outcome {
    Ok(service.close().await?)
}

pub(super) fn service_context(service: &Service) -> Context {
    service.context().clone()
}

/// A service as the recorder notes it, after its start with the id of its session.
pub(super) fn handle(service: &Service, with_session: bool) -> Value {
    let state = state_name(&service.state());
    let mut note = json!({ "generation": service.lease_generation(), "status": state });
    note_some(&mut note, "session", with_session.then(|| service.agent_session_id()));
    note
}

/// The context of a session.
pub(super) fn context(context: &Context) -> Value {
    let mut note = json!({ "hop": context.hop() });
    note_some(&mut note, "session", context.agent_session_id());
    note_some(&mut note, "delegation", context.delegation_edge_id());
    note_some(&mut note, "parent_delegation", context.parent_edge_id());
    note_some(&mut note, "record", context.authority_record_id());
    note
}

/// The context of a request that came in: all of it.
pub(super) fn inbound_context(inbound: &Context) -> Value {
    let mut note = context(inbound);
    note["baggage"] = json!(inbound.baggage());
    note_some(&mut note, "trace_id", inbound.trace_id().as_ref().map(|id| id.as_str()));
    note_some(&mut note, "trace_flags", inbound.trace_flags().as_ref().map(|it| it.as_str()));
    note_some(&mut note, "trace_state", inbound.trace_state());
    note
}

/// An event in the words of the recorder; nothing for those that only this client has.
fn told(event: &ClientEvent) -> Option<String> {
    let failed = |status: &Option<u16>, code: &Option<String>| match (status, code) {
        (None, _) => " 0".to_owned(),
        // A refusal without a code has this one here.
        (Some(status), Some(code)) if code != "http_error" => format!(" {status} {code}"),
        (Some(status), _) => format!(" {status}"),
    };
    Some(match event {
        ClientEvent::TokenExchange { ok: true, cached, .. } => {
            format!("token.exchange ok{}", if *cached { " cached" } else { "" })
        }
        ClientEvent::TokenExchange { status, code, .. } => {
            format!("token.exchange failed{}", failed(status, code))
        }
        ClientEvent::CoordinatorCall { ok: true, method, status, replayed, .. } => {
            let replayed = if *replayed { " replayed" } else { "" };
            format!("coordinator.call ok {method} {}{replayed}", status.unwrap_or_default())
        }
        ClientEvent::CoordinatorCall { method, status, code, .. } => {
            format!("coordinator.call failed {method}{}", failed(status, code))
        }
        ClientEvent::DelegationAccept { ok, .. } => {
            format!("delegation.accept {}", if *ok { "ok" } else { "failed" })
        }
        _ => return None,
    })
}

fn state_name(state: &SessionState) -> String {
    match state {
        SessionState::Active => "active".to_owned(),
        SessionState::Suspended => "suspended".to_owned(),
        other => format!("{other:?}"),
    }
}

fn grant(authority: &Value) -> Grant {
    match authority {
        Value::Null => Grant::inherit(),
        Value::String(none) if none == "none" => Grant::none(),
        narrow => Grant::narrow(texts(&narrow["scopes"]))
            .resource(text(narrow, "resource"))
            .ttl(seconds(&narrow["ttl"]).unwrap())
            .constraints(constraints(&narrow["constraints"])),
    }
}

fn constraints(constraints: &Value) -> DelegationConstraints {
    let hops = constraints["max_hops"].as_u64().map(|hops| u32::try_from(hops).unwrap());
    hops.map_or_else(DelegationConstraints::new, |hops| DelegationConstraints::new().max_hops(hops))
}

fn metadata(step: &Value) -> Map<String, Value> {
    let mut metadata = step["metadata"].as_object().cloned().unwrap_or_default();
    metadata.extend(step.get("task").map(|task| ("task".to_owned(), task.clone())));
    metadata
}

fn note_some(note: &mut Value, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        note[name] = value.into();
    }
}

pub(super) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn seconds(number: &Value) -> Option<Duration> {
    number.as_u64().map(Duration::from_secs)
}
