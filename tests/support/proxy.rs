//! A proxy in front of the STS, the Coordinator and the Gateway: it records every request, and spoils answers
//! as the recorder of the traces did.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::client;

/// What of a request and an answer concerns a connection, and not who is at its other end.
const CONNECTION: [HeaderName; 4] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::HOST, header::TRANSFER_ENCODING];

/// What happens to a request that fits: to the first after `skip` others, and `times` times (once,
/// if that is left out). The default is that nothing happens.
#[derive(Deserialize, Clone, Default)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Fault {
    to: String,
    method: String,
    /// A regular expression.
    path: String,
    /// A part of the body.
    body: String,
    skip: u32,
    times: Option<u32>,
    /// Seconds before the request goes on.
    delay_before: f64,
    /// The service is never asked, and this is the answer.
    status: Option<u16>,
    json: Option<Value>,
    raw: Option<String>,
    headers: BTreeMap<String, String>,
    /// What stands in place of the body of the service's answer.
    garble: Option<String>,
    /// Seconds before the answer goes back.
    delay_after: f64,
    close: Option<Close>,
}

/// When a connection is closed without an answer.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Close {
    /// The service is never asked.
    Before,
    /// What was asked for has happened.
    After,
}

impl Fault {
    fn fits(&self, exchange: &Exchange) -> bool {
        self.to == exchange.to
            && self.method == exchange.method.as_str()
            && Regex::new(&self.path).unwrap().is_match(&exchange.path)
            && String::from_utf8_lossy(&exchange.body).contains(&self.body)
    }

    /// Whether it happens to this request, which fits.
    fn happens(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let left = self.times.get_or_insert(1);
        let happens = *left > 0;
        *left = left.saturating_sub(1);
        happens
    }

    /// An answer that no service gave.
    fn answer(&self, status: u16) -> Answer {
        let json = self.json.clone().unwrap_or_else(|| json!({ "error": "injected" }));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &self.headers {
            headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: self.raw.clone().unwrap_or_else(|| json.to_string()).into(),
        }
    }
}

/// A request, and what became of it.
#[derive(Clone)]
pub(crate) struct Exchange {
    /// `sts`, `coordinator`, `gateway`; `third` or `upstream` for a host that has no service.
    pub(crate) to: &'static str,
    pub(crate) method: Method,
    /// The path, with the query.
    pub(crate) path: String,
    /// Without `Host` where that is the listener's own address.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the service, or a fault in its place, answered.
    /// It may have been kept from the sender.
    pub(crate) answer: Option<Answer>,
}

#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Where a client of the proxy finds the services. They are gone when it is dropped.
pub(crate) struct Proxy {
    pub(crate) sts: String,
    pub(crate) coordinator: String,
    pub(crate) gateway: String,
    /// A host that has nothing to do with Caracal.
    pub(crate) third: String,
    /// Where resources are said to be. What goes through the Gateway does not come here.
    pub(crate) upstream: String,
    shared: Arc<Shared>,
    listeners: Vec<AbortHandle>,
}

struct Shared {
    http: reqwest::Client,
    faults: Mutex<Vec<Fault>>,
    exchanges: Mutex<Vec<Exchange>>,
    /// Requests under way, and how many have been held up.
    traffic: watch::Sender<Traffic>,
}

#[derive(Default)]
struct Traffic {
    open: usize,
    held: usize,
    beats: usize,
    starts: usize,
    calls: usize,
}

/// A request is not answered: its connection is closed instead.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed on purpose")]
struct Closed;

impl Proxy {
    /// Starts in front of services at these addresses, without faults.
    pub(crate) async fn start(sts: &str, coordinator: &str, gateway: &str) -> Self {
        let shared = Arc::new(Shared {
            http: client(),
            faults: Mutex::default(),
            exchanges: Mutex::default(),
            traffic: watch::Sender::default(),
        });
        let mut listeners = Vec::new();
        let mut start = async |to, service: Option<&str>| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let host = listener.local_addr().unwrap().to_string();
            let (shared, service) = (Arc::clone(&shared), service.map(str::to_owned));
            let end = Arc::new(End { to, host: host.clone(), service });
            let task = tokio::spawn(listen(listener, shared, end));
            listeners.push(task.abort_handle());
            format!("http://{host}")
        };
        let sts = start("sts", Some(sts)).await;
        let coordinator = start("coordinator", Some(coordinator)).await;
        let gateway = start("gateway", Some(gateway)).await;
        let third = start("third", None).await;
        let upstream = start("upstream", None).await;
        Self { sts, coordinator, gateway, third, upstream, shared, listeners }
    }

    /// What goes wrong from now on.
    pub(crate) fn set_faults(&self, faults: Vec<Fault>) {
        *self.shared.faults.lock().unwrap() = faults;
    }

    /// Waits until a request is held up by a fault, if none was before.
    pub(crate) fn held(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut traffic = self.shared.traffic.subscribe();
        async move { drop(traffic.wait_for(|traffic| traffic.held > 0).await) }
    }

    /// Waits until so many starts have been answered.
    pub(crate) async fn started(&self, times: usize) {
        let mut traffic = self.shared.traffic.subscribe();
        drop(traffic.wait_for(|traffic| traffic.starts >= times).await);
    }

    /// Waits until so many calls through the Gateway have been answered.
    pub(crate) async fn called(&self, times: usize) {
        let mut traffic = self.shared.traffic.subscribe();
        drop(traffic.wait_for(|traffic| traffic.calls >= times).await);
    }

    /// Waits until leases have been renewed so many times.
    pub(crate) async fn beaten(&self, times: usize) {
        let mut traffic = self.shared.traffic.subscribe();
        drop(traffic.wait_for(|traffic| traffic.beats >= times).await);
    }

    /// Waits until no request is under way, and none follows from the last answer.
    pub(crate) async fn quiet(&self) {
        const A_WHILE: Duration = Duration::from_millis(300);
        let mut traffic = self.shared.traffic.subscribe();
        loop {
            drop(traffic.wait_for(|traffic| traffic.open == 0).await);
            if timeout(A_WHILE, traffic.changed()).await.is_err() {
                return;
            }
        }
    }

    /// All requests, in the order of their arrival.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

/// What a listener is for.
struct End {
    to: &'static str,
    host: String,
    /// Who is asked. A host without a service answers by itself.
    service: Option<String>,
}

async fn listen(listener: TcpListener, shared: Arc<Shared>, end: Arc<End>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, end) = (Arc::clone(&shared), Arc::clone(&end));
        let answer = service_fn(move |request: Request<Incoming>| {
            let (shared, end) = (Arc::clone(&shared), Arc::clone(&end));
            let call = usize::from(end.to == "gateway");
            // On a task of its own: a request goes on when its sender has given up.
            let start = usize::from(request.uri().path().ends_with("/agents"));
            let beat = usize::from(request.uri().path().ends_with("/heartbeat"));
            let exchange = tokio::spawn(async move {
                shared.traffic.send_modify(|traffic| traffic.open += 1);
                let answer = shared.exchange(&end, request).await;
                shared.traffic.send_modify(|traffic| {
                    traffic.open -= 1;
                    traffic.beats += beat;
                    traffic.starts += start;
                    traffic.calls += call;
                });
                answer
            });
            async move { exchange.await.unwrap_or(Err(Closed)) }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

impl Shared {
    async fn exchange(
        &self,
        end: &End,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Closed> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let (method, mut headers) = (head.method, head.headers);
        if headers.get(header::HOST).is_some_and(|host| host == &end.host) {
            headers.remove(header::HOST);
        }
        let exchange = Exchange { to: end.to, method, path, headers, body, answer: None };
        let (number, fault) = self.arrived(exchange.clone());
        self.hold(fault.delay_before).await;
        if fault.close == Some(Close::Before) {
            return Err(Closed);
        }
        let mut answer = match (fault.status, &end.service) {
            (Some(status), _) => fault.answer(status),
            (None, Some(service)) => self.forward(service, &exchange).await?,
            (None, None) => by_itself(&exchange.path),
        };
        if let Some(body) = &fault.garble {
            answer.body = Bytes::from(body.clone());
        }
        self.exchanges.lock().unwrap()[number].answer = Some(answer.clone());
        self.hold(fault.delay_after).await;
        if fault.close.is_some() {
            return Err(Closed);
        }
        let mut response = Response::new(Body::from(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }

    async fn hold(&self, seconds: f64) {
        if seconds > 0.0 {
            self.traffic.send_modify(|traffic| traffic.held += 1);
            sleep(Duration::from_secs_f64(seconds)).await;
        }
    }

    /// Records a request; its number, and what happens to it.
    fn arrived(&self, exchange: Exchange) -> (usize, Fault) {
        let mut exchanges = self.exchanges.lock().unwrap();
        let mut faults = self.faults.lock().unwrap();
        let mut fitting = faults.iter_mut().filter(|fault| fault.fits(&exchange));
        let fault = fitting.find_map(|fault| fault.happens().then(|| fault.clone()));
        let fault = fault.unwrap_or_default();
        exchanges.push(exchange);
        (exchanges.len() - 1, fault)
    }

    async fn forward(&self, service: &str, exchange: &Exchange) -> Result<Answer, Closed> {
        let url = format!("{service}{}", exchange.path);
        let request = self
            .http
            .request(exchange.method.clone(), url)
            .headers(without_connection(&exchange.headers))
            .body(exchange.body.clone());
        let response = request.send().await.map_err(|_| Closed)?;
        Ok(Answer {
            status: response.status(),
            headers: without_connection(response.headers()),
            body: response.bytes().await.map_err(|_| Closed)?,
        })
    }
}

/// The answer of a host without a service: it redirects where it is told to.
fn by_itself(path: &str) -> Answer {
    let mut headers = HeaderMap::new();
    let status = match path.strip_prefix("/redirect?to=") {
        Some(to) => {
            headers.insert(header::LOCATION, to.parse().unwrap());
            StatusCode::FOUND
        }
        None => StatusCode::OK,
    };
    Answer { status, headers, body: Bytes::from_static(b"{}") }
}

fn without_connection(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in &CONNECTION {
        headers.remove(name);
    }
    headers
}
