//! The way out for threads that wait.

use std::{fmt, future::Future, pin::Pin, sync::mpsc as answers, thread, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    runtime::{Builder, Handle},
    sync::mpsc,
};
use tracing::Instrument as _;

use super::{
    Caracal, CaracalError, ControlPlane, Transport, TransportRequest, Unreachable, UnusableAnswer,
    error::Source,
};
use crate::outgoing::{Clients, cause};

/// How long the runtime of the client may be silent while a thread waits for it.
const SILENCE: Duration = Duration::from_secs(3);

const ACTION: &str = "call a resource";

impl Caracal {
    /// Requests in the bound identity, for threads that wait; see [`Transport::blocking`].
    pub fn blocking(&self) -> BlockingTransport {
        self.transport().blocking()
    }
}

impl Transport {
    /// The same for threads that wait: with the feature `blocking`.
    ///
    /// This starts a thread, which makes the calls of this handle and of its clones, all at the same
    /// time, over connections of its own. It ends when the last of them is gone, and nobody waits for
    /// that. So keep one; it can be made, used and dropped within async code too.
    ///
    /// Sessions and mandates are still had on the runtime that the client was built on, which has to
    /// run meanwhile. Whoever waits on the only thread of it is told so after 3 seconds, with the
    /// code `runtime_blocked`: build the client on a multi-threaded runtime, or wait in
    /// `tokio::task::spawn_blocking`.
    pub fn blocking(&self) -> BlockingTransport {
        let (jobs, work) = mpsc::unbounded_channel();
        // Without a thread, or one that has no runtime, nobody holds the other end.
        let started = thread::Builder::new().name("caracal-blocking".to_owned());
        drop(started.spawn(move || run(work)));
        let client = &self.calling.client;
        let worker = Worker { jobs, runtime: client.runtime().clone() };
        // A connection lives as long as the runtime that it was made on.
        let clients = client.clients().apart();
        BlockingTransport { transport: self.clone(), clients, worker }
    }
}

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

fn run(mut work: mpsc::UnboundedReceiver<Job>) {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        while let Some(job) = work.recv().await {
            tokio::spawn(job);
        }
    });
}

/// The thread, as whoever waits for it sees it.
#[derive(Clone)]
struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    /// That of the client.
    runtime: Handle,
}

impl Worker {
    /// Has `work` done, and waits for it without any runtime: this may be a thread of one.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CaracalError>> + Send + 'static,
    ) -> Result<T, CaracalError> {
        let (deliver, delivered) = answers::sync_channel(1);
        let silent = silent(self.runtime.clone());
        let job = async move {
            let result = tokio::select! {
                result = work => result,
                () = silent => Err(CaracalError::usage(
                    "runtime_blocked",
                    "the runtime that the client was built on does nothing, perhaps because its only \
                     thread waits for this call: build the client on a multi-threaded one, or wait in \
                     spawn_blocking",
                )),
            };
            // Whoever asked waits for it.
            drop(deliver.send(result));
        };
        self.jobs.send(Box::pin(job.in_current_span())).map_err(|_| gone())?;
        delivered.recv().map_err(|_| gone())?
    }
}

fn gone() -> CaracalError {
    CaracalError::usage(
        "thread_gone",
        "the thread that makes blocking calls could not be started, or has failed",
    )
}

/// Ends when a runtime has done nothing for a while.
async fn silent(runtime: Handle) {
    while tokio::time::timeout(SILENCE, runtime.spawn(async {})).await.is_ok() {
        tokio::time::sleep(SILENCE).await;
    }
}

/// Makes requests in the bound identity, and waits; of [`Caracal::blocking`]. Cheap to clone.
///
/// ```no_run
/// # fn example(caracal: caracal_axum::Caracal) -> Result<(), caracal_axum::CaracalError> {
/// let tickets = caracal.transport().scopes(["tickets:read"]).blocking();
/// let open: Vec<String> = tickets.get("https://tickets.internal/v1/open").send()?.json()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a transport sends nothing by itself"]
pub struct BlockingTransport {
    transport: Transport,
    clients: Option<Clients>,
    worker: Worker,
}

impl BlockingTransport {
    /// A request. The target is judged as it is written, when it is sent.
    pub fn request(&self, method: Method, target: impl AsRef<str>) -> BlockingRequest {
        self.of(self.transport.request(method, target))
    }

    /// A request to a resource through the Gateway, by its id.
    pub fn fetch(&self, resource: impl Into<String>, path: &str) -> BlockingRequest {
        self.of(self.transport.fetch(resource, path))
    }

    fn of(&self, request: TransportRequest) -> BlockingRequest {
        let (clients, worker) = (self.clients.clone(), self.worker.clone());
        BlockingRequest { request, clients, worker }
    }

    /// A GET request.
    pub fn get(&self, target: impl AsRef<str>) -> BlockingRequest {
        self.request(Method::GET, target)
    }

    /// A POST request.
    pub fn post(&self, target: impl AsRef<str>) -> BlockingRequest {
        self.request(Method::POST, target)
    }

    /// A PUT request.
    pub fn put(&self, target: impl AsRef<str>) -> BlockingRequest {
        self.request(Method::PUT, target)
    }

    /// A PATCH request.
    pub fn patch(&self, target: impl AsRef<str>) -> BlockingRequest {
        self.request(Method::PATCH, target)
    }

    /// A DELETE request.
    pub fn delete(&self, target: impl AsRef<str>) -> BlockingRequest {
        self.request(Method::DELETE, target)
    }

    /// A HEAD request.
    pub fn head(&self, target: impl AsRef<str>) -> BlockingRequest {
        self.request(Method::HEAD, target)
    }
}

/// A request to be completed and sent.
#[must_use = "nothing is sent before `send` is called"]
pub struct BlockingRequest {
    request: TransportRequest,
    clients: Option<Clients>,
    worker: Worker,
}

impl BlockingRequest {
    fn map(mut self, change: impl FnOnce(TransportRequest) -> TransportRequest) -> Self {
        self.request = change(self.request);
        self
    }

    /// The method.
    pub fn method(self, method: Method) -> Self {
        self.map(|request| request.method(method))
    }

    /// Adds a header.
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        self.map(|request| request.header(name, value))
    }

    /// Adds headers.
    pub fn headers(self, headers: &HeaderMap) -> Self {
        self.map(|request| request.headers(headers))
    }

    /// The body.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        self.map(|request| request.body(body.into()))
    }

    /// A JSON body.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.map(|request| request.json(value))
    }

    /// Adds pairs to the query.
    pub fn query<N: AsRef<str>, V: AsRef<str>>(
        self,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.map(|request| request.query(pairs))
    }

    /// How long it may take until the answer has been read: without limit unless set.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.map(|request| request.timeout(timeout))
    }

    /// Sends it in the context that is bound here, or in that of the transport, and waits for the
    /// head of the answer.
    ///
    /// # Errors
    /// As [`TransportRequest::send`], and when the runtime of the client does nothing.
    pub fn send(self) -> Result<BlockingResponse, CaracalError> {
        let Self { request, clients, worker } = self;
        let request = request.bound();
        let clients = clients.ok_or_else(gone)?;
        let sent = async move { request.send_by(&clients).await };
        worker.wait(sent).map(|answer| BlockingResponse { answer, worker })
    }
}

/// An answer, whose body is still to be read.
pub struct BlockingResponse {
    answer: reqwest::Response,
    worker: Worker,
}

impl BlockingResponse {
    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }

    /// The whole body, however long.
    ///
    /// # Errors
    /// When it breaks off, or the Gateway cut it.
    pub fn bytes(self) -> Result<Bytes, CaracalError> {
        let Self { answer, worker } = self;
        worker.wait(async move {
            answer.bytes().await.map_err(|error| {
                CaracalError::Unreachable(Unreachable {
                    service: ControlPlane::Gateway,
                    action: ACTION,
                    timed_out: error.is_timeout(),
                    unsent: false,
                    request_id: None,
                    source: Source::from(Box::from(cause(error))),
                })
            })
        })
    }

    /// The same as text; what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn text(self) -> Result<String, CaracalError> {
        self.bytes().map(|body| String::from_utf8_lossy(&body).into_owned())
    }

    /// The same from JSON.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and when it is no JSON of a `T`.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, CaracalError> {
        let status = self.status();
        serde_json::from_slice(&self.bytes()?).map_err(|_| {
            CaracalError::UnusableAnswer(UnusableAnswer {
                service: ControlPlane::Gateway,
                action: ACTION,
                status,
                problem: "its body is no JSON of the type that was asked for",
                request_id: None,
            })
        })
    }
}

impl fmt::Debug for BlockingTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingTransport")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BlockingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingRequest").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Headers may hold what is a secret.
impl fmt::Debug for BlockingResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingResponse").field("status", &self.status()).finish_non_exhaustive()
    }
}
