//! A client at work against the embedded control plane, and what it was seen to do.

use std::{future::Future, sync::Arc, time::Duration};

use caracal_axum::{
    Caracal, CaracalBuilder, ClientEvent, Grant,
    embedded::{EmbeddedCaracal, Endpoint, ReceivedRequest, World},
};
use serde_json::Value;
use tokio::sync::watch;

use super::agent::{Agent, TICKETS, clock};

/// The sample world, a client of its application, and everything that client tells.
pub(crate) struct Outbound {
    pub(crate) caracal: EmbeddedCaracal,
    pub(crate) client: Caracal,
    pub(crate) events: Events,
}

impl Outbound {
    pub(crate) async fn start() -> Self {
        Self::with(World::sample(), |builder| builder).await
    }

    pub(crate) async fn with(
        world: World,
        configure: impl FnOnce(CaracalBuilder) -> CaracalBuilder,
    ) -> Self {
        let caracal = EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
        let events = Events::default();
        let builder = caracal.client_builder("app-1").on_event(events.listener());
        let client = configure(builder).build().unwrap();
        Self { caracal, client, events }
    }

    /// The routes of all requests so far.
    pub(crate) fn steps(&self) -> Vec<Endpoint> {
        self.caracal.requests().iter().map(ReceivedRequest::endpoint).collect()
    }

    /// All requests to a route.
    pub(crate) fn sent(&self, endpoint: Endpoint) -> Vec<ReceivedRequest> {
        let mut requests = self.caracal.requests();
        requests.retain(|request| request.endpoint() == endpoint);
        requests
    }

    /// The only request to a route.
    pub(crate) fn only(&self, endpoint: Endpoint) -> ReceivedRequest {
        let mut sent = self.sent(endpoint);
        assert_eq!(sent.len(), 1, "{endpoint:?}");
        sent.remove(0)
    }

    /// Waits until so many requests to a route have arrived.
    pub(crate) async fn arrived(&self, endpoint: Endpoint, number: usize) {
        in_time("a request", async {
            while self.sent(endpoint).len() < number {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// How many sessions are alive. This sends requests of its own, and takes back all faults.
    pub(crate) async fn live(&self) -> usize {
        self.caracal.clear_faults();
        let agent = Agent::new(&self.caracal, "app-1");
        let token = agent.lifecycle().await;
        agent.count(&token, "/agents?status=active&limit=500").await
    }

    /// The same, when the client has done all that it does in the background.
    pub(crate) async fn left(&self) -> usize {
        in_time("the end of it all", self.client.close()).await;
        self.live().await
    }
}

/// A part of the authority over tickets.
pub(crate) fn reader() -> Grant {
    Grant::narrow(["tickets:read"]).resource(TICKETS)
}

/// What a client told.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<watch::Sender<Vec<ClientEvent>>>);

impl Events {
    pub(crate) fn listener(&self) -> impl Fn(&ClientEvent) + Send + Sync + 'static {
        let told = Arc::clone(&self.0);
        move |event| told.send_modify(|events| events.push(event.clone()))
    }

    pub(crate) fn all(&self) -> Vec<ClientEvent> {
        self.0.borrow().clone()
    }

    /// Waits for an event.
    pub(crate) async fn until(&self, is: impl Fn(&ClientEvent) -> bool) {
        let mut told = self.0.subscribe();
        let found = told.wait_for(|events| events.iter().any(&is));
        let _ = in_time("an event", found).await;
    }

    /// Waits until a session was ended.
    pub(crate) async fn ended(&self) {
        self.until(|event| {
            matches!(event, ClientEvent::CoordinatorCall { ok: true, method, .. }
                if method == "DELETE")
        })
        .await;
    }

    /// Which sessions could not be ended, which were left, and whose hooks failed.
    pub(crate) fn troubles(&self) -> Vec<&'static str> {
        let trouble = |event: &ClientEvent| match event {
            ClientEvent::EndFailed { .. } => Some("end"),
            ClientEvent::LeftBehind { .. } => Some("left"),
            ClientEvent::HookFailed { .. } => Some("hook"),
            _ => None,
        };
        self.0.borrow().iter().filter_map(trouble).collect()
    }
}

/// What `future` comes to, or a failed test instead of one that never ends.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come"),
    }
}

/// The claims of a token, unverified.
pub(crate) fn claims_of(token: &str) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// The bearer of a request.
pub(crate) fn bearer(request: &ReceivedRequest) -> String {
    request.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

/// The trace id of a request.
pub(crate) fn trace(request: &ReceivedRequest) -> String {
    request.header("traceparent").unwrap().split('-').nth(1).unwrap().to_owned()
}

pub(crate) fn is_made_up_key(key: &str) -> bool {
    key.len() == 32 && key.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
