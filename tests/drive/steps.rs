//! The steps of a recorded action, taken one by one with this crate's client.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::{
    Proxy, calls,
    client::{self, Client, Context, Failure, Service},
    names::token_use,
};

pub(super) type Outcome = Result<(), Failure>;
type Taking = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Takes steps, and notes what came of each.
#[derive(Clone)]
pub(super) struct Driver {
    client: Client,
    /// One for each step, in the order in which they were begun.
    pub(super) results: Arc<Mutex<Vec<Value>>>,
    kept: Arc<Mutex<Kept>>,
    proxy: Arc<Proxy>,
    /// How often a lease is renewed at least while a step sleeps.
    beats: usize,
    /// Whether somebody else has done, meanwhile, what he does.
    undisturbed: watch::Receiver<bool>,
}

/// What later steps refer to.
#[derive(Default)]
struct Kept {
    contexts: BTreeMap<String, Context>,
    services: BTreeMap<String, Arc<Service>>,
    tokens: BTreeMap<String, String>,
    last_service: String,
    /// The delegation made last.
    edge: String,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        proxy: Arc<Proxy>,
        beats: usize,
        undisturbed: watch::Receiver<bool>,
    ) -> Self {
        let (results, kept) = (Arc::default(), Arc::default());
        Self { client, results, kept, proxy, beats, undisturbed }
    }

    /// Takes steps until one fails that may not. Boxed, because steps hold steps.
    pub(super) fn take(self, steps: Value) -> Taking {
        Box::pin(async move {
            for step in steps.as_array().into_iter().flatten() {
                self.step(step).await?;
            }
            Ok(())
        })
    }

    async fn step(&self, step: &Value) -> Outcome {
        let entry = Entry::open(&self.results, text(step, "op"));
        // Boxed, or the futures of a deep action would fill the stack of a thread in debug builds.
        let done = Box::pin(self.act(step, &entry));
        // It was recorded by the clock; what it hits is the request that is held up.
        let done = if step.get("cancel_ms").is_some() {
            let held = self.proxy.held();
            tokio::select! {
                done = done => done,
                () = held => Err(Failure::Cancelled),
            }
        } else {
            done.await
        };
        entry.close(&done);
        if step["catch"] == true { Ok(()) } else { done }
    }

    async fn act(&self, step: &Value, entry: &Entry) -> Outcome {
        let client = &self.client;
        match text(step, "op") {
            "session" => {
                let (driver, entry, inner) = (self.clone(), entry.clone(), step.clone());
                let body = move |context: Context| {
                    entry.note("context", client::context(&context));
                    driver.keep(&inner, context);
                    driver.take(inner["body"].clone())
                };
                client.session(step, body).await
            }
            "service" | "attach" => {
                let session = self.session_id(text(step, "session"));
                let service = client.service(step, &session).await?;
                entry.note("handle", client::handle(&service, true));
                self.keep(step, client::service_context(&service));
                self.keep_service(text(step, "as"), service);
                Ok(())
            }
            "heartbeat" => {
                let service = self.service(step);
                client::heartbeat(&service, text(step, "status")).await?;
                entry.note("handle", client::handle(&service, false));
                Ok(())
            }
            "close_handle" => client::close_service(&self.service(step)).await,
            "with_ctx" => {
                let context = self.kept.lock().unwrap().contexts[text(step, "ctx")].clone();
                self.within(context, step).await
            }
            "delegate" => {
                let delegation = client.delegate(step, &self.session_id(text(step, "to"))).await?;
                self.kept.lock().unwrap().edge = text(&delegation, "id").to_owned();
                entry.note("delegation", delegation);
                Ok(())
            }
            "accept" => {
                let context = client.accept(&self.edge(step), step["validate"] == true).await?;
                entry.note("context", client::context(&context));
                self.within(context, step).await
            }
            "revoke" => client.revoke(&self.edge(step)).await,
            "headers" => {
                let headers = client.headers(step["as_application"] == true).await?;
                entry.note("headers", listed(&headers));
                Ok(())
            }
            "bind" => {
                let context =
                    client.bind_from(&self.inbound(step), step["as_application"] == true).await?;
                entry.note("context", client::inbound_context(&context));
                self.within(context, step).await
            }
            "mint" => {
                let (token, seconds) = client.mint(step).await?;
                // The recording is in tens of seconds: a part of a second is gone already.
                let seconds = seconds.next_multiple_of(10);
                let used = token_use(&token);
                entry
                    .note("mandate", json!({ "expires_in": seconds, "token": token, "use": used }));
                if let Some(name) = step["as"].as_str() {
                    self.kept.lock().unwrap().tokens.insert(name.to_owned(), token);
                }
                Ok(())
            }
            "describe" => {
                entry.note("authority", client.describe());
                Ok(())
            }
            "transport" => {
                entry.note("answers", calls::transport(client, step, &self.proxy.third).await);
                Ok(())
            }
            "app_transport" => {
                entry.note("answers", calls::app_transport(client, step).await);
                Ok(())
            }
            "fetch" => {
                entry.note("answers", calls::fetch(client, step).await?);
                Ok(())
            }
            "gateway_request" => {
                let (url, headers) = calls::gateway_request(client, step)?;
                entry.note("url", url.into());
                entry.note("headers", listed(&headers));
                Ok(())
            }
            "close" => {
                client.close().await;
                Ok(())
            }
            other => self.act_without_client(other, step, entry).await,
        }
    }

    async fn act_without_client(&self, op: &str, step: &Value, entry: &Entry) -> Outcome {
        match op {
            "sleep" => {
                // On a busy machine beats take their time, and so does what somebody else does.
                self.proxy.beaten(self.beats).await;
                drop(self.undisturbed.clone().wait_for(|it| *it).await);
                // Where there was more than one, there would be still more.
                if self.beats < 2 {
                    sleep(Duration::from_millis(step["ms"].as_u64().unwrap())).await;
                }
                // So do answers that were held up.
                self.proxy.quiet().await;
                Ok(())
            }
            "fail" => Err(Failure::Body),
            "panic" => {
                entry.close(&Ok(()));
                // Without the panic hook, which would write about it.
                resume_unwind(Box::new("on purpose"))
            }
            "recover" => {
                let body = AssertUnwindSafe(self.clone().take(step["body"].clone()));
                body.catch_unwind().await.unwrap_or(Err(Failure::Body))
            }
            "gather" => {
                let number = step["n"].as_u64().unwrap();
                let outcomes = join_all((0..number).map(|_| self.aside(&step["body"]))).await;
                let failed: Vec<_> = outcomes.iter().filter_map(|it| it.as_ref().err()).collect();
                entry.note("succeeded", json!(outcomes.len() - failed.len()));
                // The recorder kept three of them.
                entry.note("failed", failed.iter().take(3).map(|it| it.recorded()).collect());
                Ok(())
            }
            "parallel" => {
                let bodies = step["bodies"].as_array().unwrap();
                let outcomes = join_all(bodies.iter().map(|body| self.aside(body))).await;
                let answer =
                    |it: &Outcome| it.as_ref().map_or_else(Failure::recorded, |()| "ok".into());
                entry.note("answers", outcomes.iter().map(answer).collect());
                Ok(())
            }
            other => panic!("nobody knows how to do `{other}`"),
        }
    }

    /// Takes steps whose own results nobody noted.
    fn aside(&self, steps: &Value) -> Taking {
        Self { results: Arc::default(), ..self.clone() }.take(steps.clone())
    }

    /// Takes the steps of a body with this context bound.
    async fn within(&self, context: Context, step: &Value) -> Outcome {
        self.client.within(context, self.clone().take(step["body"].clone())).await
    }

    fn keep(&self, step: &Value, context: Context) {
        if let Some(name) = step["as"].as_str() {
            self.kept.lock().unwrap().contexts.insert(name.to_owned(), context);
        }
    }

    fn keep_service(&self, name: &str, service: Service) {
        let mut kept = self.kept.lock().unwrap();
        kept.last_service = name.to_owned();
        kept.services.insert(name.to_owned(), Arc::new(service));
    }

    fn service(&self, step: &Value) -> Arc<Service> {
        let kept = self.kept.lock().unwrap();
        Arc::clone(&kept.services[step["handle"].as_str().unwrap_or(&kept.last_service)])
    }

    /// The id of a session, which may be given by the name of its context.
    fn session_id(&self, name: &str) -> String {
        let kept = self.kept.lock().unwrap();
        let known = kept.contexts.get(name).and_then(|context| context.agent_session_id());
        known.unwrap_or(name).to_owned()
    }

    fn edge(&self, step: &Value) -> String {
        match text(step, "id") {
            "edge" => self.kept.lock().unwrap().edge.clone(),
            id => id.to_owned(),
        }
    }

    /// The headers of a request that came in, with the tokens for which they hold names.
    fn inbound(&self, step: &Value) -> HeaderMap {
        let kept = self.kept.lock().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in step["headers"].as_object().unwrap() {
            let mut value = value.as_str().unwrap().to_owned();
            for (name, token) in &kept.tokens {
                value = value.replace(&format!("${name}"), token);
            }
            let name: http::HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }
}

/// The note of what came of a step. It is written when the step begins, so that notes stand in that
/// order, and completed when it ends.
#[derive(Clone)]
struct Entry {
    notes: Arc<Mutex<Vec<Value>>>,
    number: usize,
}

impl Entry {
    fn open(notes: &Arc<Mutex<Vec<Value>>>, op: &str) -> Self {
        let notes = Arc::clone(notes);
        let mut all = notes.lock().unwrap();
        // Until it ends otherwise, it was cancelled: a future that is dropped cannot tell.
        all.push(json!({ "op": op, "ok": false, "error": Failure::Cancelled.recorded() }));
        let number = all.len() - 1;
        drop(all);
        Self { notes, number }
    }

    fn note(&self, name: &str, value: Value) {
        self.notes.lock().unwrap()[self.number][name] = value;
    }

    fn close(&self, outcome: &Outcome) {
        match outcome {
            Ok(()) => {
                let note = &mut self.notes.lock().unwrap()[self.number];
                let members = note.as_object_mut().unwrap();
                members.remove("ok");
                members.remove("error");
            }
            Err(failure) => self.note("error", failure.recorded()),
        }
    }
}

/// Headers as the recorder lists them.
fn listed(headers: &HeaderMap) -> Value {
    let mut list: Vec<_> = headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]))
        .collect();
    list.sort_by_key(ToString::to_string);
    list.into()
}

/// A text member; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
