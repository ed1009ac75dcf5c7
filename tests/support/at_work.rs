//! Clients at work against the embedded control plane, and what it saw of them.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caracal_axum::{
    Caracal, CaracalContext, CaracalError, ClientEvent,
    embedded::{
        Application, EmbeddedCaracal, Endpoint, Grant, Limits, ReceivedRequest, Resource, World,
        Zone,
    },
};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use super::agent::{Agent, TICKETS, clock};

pub(crate) const ZONE: &str = "zone-1";
pub(crate) const LEDGER: &str = "resource://ledger";

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// When revocations have been published.
pub(crate) const PUBLISHED: Duration = Duration::from_millis(1100);

/// The sample world, and a client of its application, under a clock of the test's.
pub(crate) async fn sample() -> (EmbeddedCaracal, Caracal) {
    start(World::sample()).await
}

/// The same without limits to speak of.
pub(crate) async fn roomy() -> (EmbeddedCaracal, Caracal) {
    let mut limits = Limits::default();
    limits.sessions_per_zone = 10_000;
    limits.sessions_per_application = 10_000;
    limits.requests_per_minute = u32::MAX;
    start(World::sample().limits(limits)).await
}

/// `app-1` with `resource://tickets`, and `app-2` with `resource://ledger`.
pub(crate) async fn neighbours() -> (EmbeddedCaracal, Caracal, Caracal) {
    let grant = |application: &str, resource: &str, scopes: [&str; 2]| {
        Grant::new(application, resource).role("reader").scopes(scopes)
    };
    let tickets = ["tickets:read", "tickets:write"];
    let ledger = ["ledger:read", "ledger:write"];
    let zone = Zone::new(ZONE)
        .application(Application::new("app-1"))
        .application(Application::new("app-2"))
        .resource(Resource::new(TICKETS).scopes(tickets))
        .resource(Resource::new(LEDGER).scopes(ledger))
        .grant(grant("app-1", TICKETS, tickets))
        .grant(grant("app-2", LEDGER, ledger));
    let (caracal, first) = start(World::new().zone(zone)).await;
    let second = caracal.client("app-2").unwrap();
    (caracal, first, second)
}

async fn start(world: World) -> (EmbeddedCaracal, Caracal) {
    let caracal = EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
    let client = caracal.client("app-1").unwrap();
    (caracal, client)
}

/// The requests to one endpoint.
pub(crate) fn sent(caracal: &EmbeddedCaracal, endpoint: Endpoint) -> Vec<ReceivedRequest> {
    let mut all = caracal.requests();
    all.retain(|request| request.endpoint() == endpoint);
    all
}

/// The last request to one endpoint.
pub(crate) fn last(caracal: &EmbeddedCaracal, endpoint: Endpoint) -> ReceivedRequest {
    sent(caracal, endpoint).pop().unwrap()
}

/// The body of the last request to one endpoint.
pub(crate) fn body(caracal: &EmbeddedCaracal, endpoint: Endpoint) -> Value {
    last(caracal, endpoint).json().unwrap()
}

/// Lets every task that can go on without the network do so.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass for tasks that wait for it.
pub(crate) async fn pass(caracal: &EmbeddedCaracal, time: Duration) {
    settle().await;
    caracal.advance(time);
    settle().await;
}

/// Fails a test that would wait for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(seconds(20), future).await.expect("it never happened")
}

/// How a session is.
pub(crate) async fn status(caracal: &EmbeddedCaracal, session: &str) -> String {
    let agent = Agent::new(caracal, "app-1");
    let path = format!("/agents/{session}");
    let (status, detail) = agent.call("GET", &path, &agent.lifecycle().await, None).await;
    assert_eq!(status, 200, "{detail}");
    detail["status"].as_str().unwrap().to_owned()
}

/// The live delegations that a session has received.
pub(crate) async fn held(caracal: &EmbeddedCaracal, session: &str) -> Vec<String> {
    let agent = Agent::new(caracal, "app-1");
    let path = format!("/delegations/inbound/{session}");
    let (status, list) = agent.call("GET", &path, &agent.lifecycle().await, None).await;
    assert_eq!(status, 200, "{list}");
    let live = |edge: &&Value| edge["status"] == "active" && edge["revoked_at"].is_null();
    let items = list["items"].as_array().unwrap().iter().filter(live);
    items.map(|edge| edge["id"].as_str().unwrap().to_owned()).collect()
}

/// A call of a client, when it has been answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: Option<u16>,
    pub(crate) ok: bool,
}

/// The calls that a client makes from now on.
pub(crate) struct Calls(mpsc::UnboundedReceiver<Answered>);

impl Calls {
    pub(crate) fn of(client: &Caracal) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        // It stays for as long as the client.
        let _ = client.on_event(move |event| {
            if let ClientEvent::CoordinatorCall { method, path, status, ok, .. } = event {
                let (method, path) = (method.clone(), path.clone());
                let _ = sender.send(Answered { method, path, status: *status, ok: *ok });
            }
        });
        Self(receiver)
    }

    /// The next one whose path ends like this.
    pub(crate) async fn next(&mut self, suffix: &str) -> Answered {
        soon(async {
            loop {
                let call = self.0.recv().await.unwrap();
                if call.path.ends_with(suffix) {
                    return call;
                }
            }
        })
        .await
    }
}

/// What callbacks were called with.
#[derive(Clone)]
pub(crate) struct Heard<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Heard<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Heard<T> {
    pub(crate) fn push(&self, what: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which accepted delegations a client has told of.
pub(crate) fn acceptances(client: &Caracal) -> Heard<(bool, String, String)> {
    let heard = Heard::default();
    let to = heard.clone();
    let _ = client.on_event(move |event| {
        if let ClientEvent::DelegationAccept { ok, delegation_edge_id, agent_session_id, .. } =
            event
        {
            to.push((*ok, delegation_edge_id.clone(), agent_session_id.clone()));
        }
    });
    heard
}

/// The claims of a token; nobody proves it here.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Mints `tickets:read` in a context; the claims.
pub(crate) async fn mint(
    client: &Caracal,
    context: &CaracalContext,
) -> Result<Value, CaracalError> {
    let mint = client.mint_mandate(TICKETS, ["tickets:read"]).context(context.clone());
    Ok(claims(mint.await?.token().expose()))
}

/// The token that a request was sent with.
pub(crate) fn bearer(request: &ReceivedRequest) -> String {
    let header = request.header("authorization").unwrap();
    header.strip_prefix("Bearer ").unwrap().to_owned()
}

/// An error, and that nothing was sent on its account.
pub(crate) async fn refused_unsent<T>(
    caracal: &EmbeddedCaracal,
    attempt: impl Future<Output = Result<T, CaracalError>>,
) -> CaracalError {
    let before = caracal.requests().len();
    let error = attempt.await.err().expect("it was not refused");
    assert_eq!(caracal.requests().len(), before, "it was sent: {error}");
    error
}
