//! The embedded Gateway beyond the recorded conversations: whole calls with a guarded service behind
//! it, bodies that are never whole, failing upstreams, faults, what HTTP itself refuses.
#![cfg(feature = "embedded")]

mod support;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Json, Router, body::Body, extract::Request, http::StatusCode, routing::any};
use caracal_axum::{
    CaracalContext, CaracalLayer, ManualClock,
    embedded::{
        Application, EmbeddedCaracal, Endpoint, Fault, Grant, Resource, UpstreamCredential, World,
        Zone,
    },
};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use support::{
    Logs,
    agent::{Agent, TICKETS, answer, clock},
    client, leaks, serve,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

/// The sample world with an upstream.
async fn start(
    upstream: impl FnOnce(Resource) -> Resource,
    clock: ManualClock,
) -> (EmbeddedCaracal, Call) {
    let resource = upstream(Resource::new(TICKETS).scopes(["tickets:read"]));
    let world = World::new().zone(
        Zone::new("zone-1")
            .application(Application::new("app-1"))
            .resource(resource)
            .grant(Grant::new("app-1", TICKETS).role("reader").scopes(["tickets:read"])),
    );
    let caracal = EmbeddedCaracal::builder().world(world).clock(clock).start().await.unwrap();
    let call = Call::new(&caracal).await;
    (caracal, call)
}

/// An agent with a narrowed child that may call.
struct Call {
    agent: Agent,
    gateway: String,
    token: String,
    child: Value,
    edge: Value,
}

impl Call {
    async fn new(caracal: &EmbeddedCaracal) -> Self {
        let agent = Agent::new(caracal, "app-1");
        let token = agent.lifecycle().await;
        let parent = agent.start(&token, json!({})).await;
        let child = json!({
            "parent_id": parent["agent_session_id"], "parent_authority": "none", "labels": ["reader"],
        });
        let child = agent.start(&token, child).await;
        let edge = agent.delegate(&token, &parent, &child).await;
        Self { agent, gateway: caracal.gateway_url().to_owned(), token, child, edge }
    }

    async fn mandate(&self) -> String {
        let (status, minted) = self.agent.mint(&self.child, &self.edge).await;
        assert_eq!(status, 200, "{minted}");
        minted["access_token"].as_str().unwrap().to_owned()
    }

    fn with(&self, method: &str, path: &str, mandate: &str) -> RequestBuilder {
        let request = client().request(method.parse().unwrap(), format!("{}{path}", self.gateway));
        request.bearer_auth(mandate).header("x-caracal-resource", TICKETS)
    }

    /// A call with a mandate of its own.
    async fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.with(method, path, &self.mandate().await)
    }

    async fn refusal(&self, method: &str, path: &str) -> (u16, String) {
        let (status, refusal) = answer(self.request(method, path).await).await;
        assert!(refusal["requestId"].is_string(), "{refusal}");
        (status, refusal["error"].as_str().unwrap().to_owned())
    }

    /// Revokes the delegation, or ends the session.
    async fn revoke(&self) {
        let path =
            format!("/delegations/{}/revoke", self.edge["delegation_edge_id"].as_str().unwrap());
        assert_eq!(self.agent.call("PATCH", &path, &self.token, None).await.0, 200);
    }

    async fn end_session(&self) {
        let path = format!("/agents/{}", self.child["agent_session_id"].as_str().unwrap());
        assert_eq!(self.agent.call("DELETE", &path, &self.token, None).await.0, 204);
    }
}

/// An upstream that shows what it received.
async fn echo() -> String {
    async fn received(request: Request) -> Json<Value> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        Json(json!({
            "target": request.uri().to_string(), "authorization": header("authorization"),
            "identity": header("x-caracal-identity"), "host": header("host"),
        }))
    }
    serve(Router::new().fallback(received)).await
}

#[tokio::test]
async fn a_guarded_service_behind_it_sees_whose_call_it_is() {
    // The service has to know the control plane, and that its address.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let upstream = |resource: Resource| {
        resource.upstream(url).credential(UpstreamCredential::caracal_mandate())
    };
    let (caracal, call) = start(upstream, clock()).await;
    let who = |context: CaracalContext| async move {
        Json(json!({ "session": context.agent_session_id(), "hop": context.hop() }))
    };
    let service = Router::new()
        .route("/v1/tickets", any(who))
        .layer(CaracalLayer::enforce(caracal.verifier(TICKETS).unwrap()));
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });

    let mandate = call.mandate().await;
    let (status, seen) = answer(call.with("GET", "/tickets", &mandate)).await;
    assert_eq!(status, 200, "{seen}");
    assert_eq!(seen, json!({ "session": call.child["agent_session_id"], "hop": 1 }));
    let (status, refusal) = answer(call.with("GET", "/tickets", &mandate)).await;
    assert_eq!((status, &refusal["error"]), (401, &json!("invalid_token")), "each is used once");

    let decisions: Vec<_> = caracal.decisions();
    let calls: Vec<_> =
        decisions.iter().filter(|decision| decision.endpoint == Endpoint::Gateway).collect();
    assert_eq!(calls.iter().map(|call| call.status).collect::<Vec<_>>(), [200, 401]);
    assert!(calls.iter().all(|call| call.application.as_deref() == Some("app-1")));
    assert!(calls[0].is_granted() && calls[1].code == Some("invalid_token"));
    assert_eq!(caracal.received(Endpoint::Gateway).await.target(), "/tickets");
}

#[tokio::test]
async fn an_upstream_never_sees_the_caller_s_mandate() {
    let url = echo().await;
    for credential in [
        UpstreamCredential::none(),
        UpstreamCredential::api_key("X-Api-Key", "k"),
        UpstreamCredential::api_key_in_query("key", "k"),
        UpstreamCredential::bearer_token("other"),
        UpstreamCredential::caracal_mandate(),
    ] {
        let upstream =
            |resource: Resource| resource.upstream(&url).credential(credential).forward_identity();
        let (_caracal, call) = start(upstream, clock()).await;
        let mandate = call.mandate().await;
        let (status, seen) = answer(call.with("GET", "/", &mandate)).await;
        assert_eq!(status, 200);
        assert!(!seen.to_string().contains(&mandate), "{seen}");
        let identity = seen["identity"].as_str().unwrap();
        assert_eq!(identity.split('.').count(), 3);
        assert_eq!(seen["host"], url.strip_prefix("http://").unwrap());
    }
}

#[tokio::test]
async fn what_the_world_does_not_have_is_refused() {
    let (_caracal, call) = start(|resource| resource, clock()).await;
    assert_eq!(call.refusal("GET", "/").await, (403, "access_denied".into()), "no upstream");

    let url = echo().await;
    let (caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    assert_eq!(answer(call.request("GET", "/").await).await.0, 200);
    let mandate = call.mandate().await;
    caracal.archive_application("zone-1", "app-1").unwrap();
    let (status, refusal) = answer(call.with("GET", "/", &mandate)).await;
    assert_eq!((status, &refusal["error"]), (401, &json!("access_denied")));
}

#[tokio::test]
async fn a_call_counts_as_a_mint_and_a_use() {
    let url = echo().await;
    let mut limits = caracal_axum::embedded::Limits::default();
    // The lifecycle token takes one.
    limits.mints_per_minute_per_resource_and_application = 4;
    let world = World::new().limits(limits).zone(
        Zone::new("zone-1")
            .application(Application::new("app-1"))
            .resource(Resource::new(TICKETS).scopes(["tickets:read"]).upstream(url))
            .grant(Grant::new("app-1", TICKETS).role("reader").scopes(["tickets:read"])),
    );
    let caracal = EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
    let call = Call::new(&caracal).await;
    let (one, two) = (call.mandate().await, call.mandate().await);
    assert_eq!(answer(call.with("GET", "/", &one)).await.0, 200);
    assert_eq!(answer(call.with("GET", "/", &two)).await.0, 403);
    caracal.advance(Duration::from_secs(61));
    assert_eq!(answer(call.with("GET", "/", &two)).await.0, 401, "it was used up");
}

#[tokio::test]
async fn bodies_pass_in_both_directions_before_they_are_whole() {
    // What arrives goes back, piece by piece.
    let mirror = |request: Request| async { Body::new(request.into_body()) };
    let url = serve(Router::new().fallback(mirror)).await;
    let (_caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    for method in ["POST", "GET"] {
        let (send, mut pieces) = mpsc::channel::<&'static str>(1);
        let body = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
        let body = Body::from_stream(body.map(Ok::<_, Infallible>));
        let request = http::Request::builder()
            .method(method)
            .uri("/")
            .header("host", "gateway")
            .header("authorization", format!("Bearer {}", call.mandate().await))
            .header("x-caracal-resource", TICKETS)
            .header("transfer-encoding", "chunked")
            .body(body)
            .unwrap();
        let address: SocketAddr = call.gateway.strip_prefix("http://").unwrap().parse().unwrap();
        let stream = hyper_util::rt::TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        send.send("one").await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        for (came, next) in [("one", Some("two")), ("two", Some("three")), ("three", None)] {
            let frame = timeout(Duration::from_secs(10), body.frame()).await.unwrap();
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), came);
            if let Some(next) = next {
                send.send(next).await.unwrap();
            }
        }
        drop(send);
        assert!(body.frame().await.is_none_or(|frame| frame.unwrap().is_trailers()));
    }
}

#[tokio::test]
async fn a_body_of_more_than_10_mib_is_refused_on_its_way() {
    let sink = |request: Request| async {
        request.into_body().collect().await.map(drop).is_ok().to_string()
    };
    let url = serve(Router::new().fallback(sink)).await;
    let (_caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    const MOST: usize = 10 << 20;
    let request = call.request("PUT", "/").await.body(vec![b'x'; MOST]);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let (status, refusal) = answer(call.request("PUT", "/").await.body(vec![b'x'; MOST + 1])).await;
    assert_eq!((status, &refusal["error"]), (413, &json!("payload_too_large")));
}

/// An upstream that says what it is told to, with a length or without.
async fn speaker(fixed: bool) -> (String, mpsc::Sender<&'static str>) {
    let (say, said) = mpsc::channel::<&'static str>(8);
    let said = std::sync::Arc::new(tokio::sync::Mutex::new(said));
    let speak = move |_: Request| {
        let said = said.clone();
        async move {
            let said = futures_util::stream::unfold(said, |said| async {
                let word = said.lock().await.recv().await?;
                Some((Ok::<_, Infallible>(word), said))
            });
            let mut response = http::Response::new(Body::from_stream(said));
            if fixed {
                response.headers_mut().insert("content-length", 1000.into());
            }
            response
        }
    };
    (serve(Router::new().fallback(speak)).await, say)
}

/// Opens a stream over a plain connection, and reads until `end` has come.
async fn open(call: &Call) -> TcpStream {
    let address = call.gateway.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mandate = call.mandate().await;
    let head = format!(
        "GET /events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {mandate}\r\n\
         X-Caracal-Resource: {TICKETS}\r\nTE: trailers\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains(end) {
            if stream.read_buf(&mut text).await.unwrap_or_default() == 0 {
                panic!("it ended: {}", String::from_utf8_lossy(&text));
            }
        }
    };
    timeout(Duration::from_secs(10), read).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    let _ = timeout(Duration::from_secs(10), read).await.unwrap();
    text
}

#[tokio::test]
async fn a_stream_ends_a_second_after_the_delegation_was_revoked() {
    let (url, say) = speaker(false).await;
    let (caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    let mut stream = open(&call).await;
    say.send("first").await.unwrap();
    let head = read_until(&mut stream, "first").await;
    assert!(head.contains("trailer: X-Caracal-Revoked\r\n"), "{head}");
    call.revoke().await;
    say.send("second").await.unwrap();
    read_until(&mut stream, "second").await;
    caracal.advance(Duration::from_millis(1100));
    // It was being waited for.
    say.send("third").await.unwrap();
    let rest = rest(stream).await;
    assert!(rest.contains("third"), "{rest}");
    assert!(rest.ends_with("0\r\nx-caracal-revoked: true\r\n\r\n"), "{rest}");
}

#[tokio::test]
async fn a_stream_goes_on_until_the_snapshot_after_its_session_s_end() {
    let (url, say) = speaker(true).await;
    let (caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    let mut stream = open(&call).await;
    say.send("first").await.unwrap();
    read_until(&mut stream, "first").await;
    call.end_session().await;
    caracal.advance(Duration::from_secs(25));
    for word in ["second", "third"] {
        say.send(word).await.unwrap();
        read_until(&mut stream, word).await;
    }
    caracal.advance(Duration::from_secs(6));
    say.send("fourth").await.unwrap();
    assert_eq!(rest(stream).await, "fourth", "cut, for its length was said");
}

#[tokio::test]
async fn upstreams_that_fail_use_the_mandate_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-", "no HTTP at all\r\n\r\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let (caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    // The last one finds nobody there.
    for _ in 0..4 {
        let mandate = call.mandate().await;
        let (status, refusal) = answer(call.with("POST", "/", &mandate).body("x")).await;
        assert_eq!((status, &refusal["error"]), (502, &json!("internal_error")));
        assert_eq!(answer(call.with("POST", "/", &mandate)).await.0, 401);
    }
    assert!(caracal.decisions().iter().any(|decision| decision.code == Some("internal_error")));
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_given_up() {
    let (arrive, mut arrived) = mpsc::channel(1);
    let silent = move |_: Request| {
        let arrive = arrive.clone();
        async move {
            arrive.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    };
    let url = serve(Router::new().fallback(silent)).await;
    let (_caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    let answered = tokio::spawn(answer(call.request("GET", "/").await));
    arrived.recv().await.unwrap();
    // From here on nothing but that time limit is waited for.
    tokio::time::pause();
    let (status, refusal) = answered.await.unwrap();
    assert_eq!((status, &refusal["error"]), (504, &json!("internal_error")));
}

#[tokio::test]
async fn faults_come_before_a_call_or_after_it() {
    let url = echo().await;
    let (caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    let mandate = call.mandate().await;
    let unavailable = Fault::refusal(StatusCode::SERVICE_UNAVAILABLE, "sts_unavailable").times(1);
    caracal.inject(Endpoint::Gateway, unavailable);
    caracal.inject(Endpoint::Gateway, Fault::drop_connection().after_effect().times(1));
    assert_eq!(answer(call.with("GET", "/", &mandate)).await.0, 503);
    assert!(call.with("GET", "/", &mandate).send().await.is_err());
    assert_eq!(answer(call.with("GET", "/", &mandate)).await.0, 401, "the answer alone was lost");
    caracal.inject(Endpoint::Gateway, Fault::truncate(5).after_effect().times(1));
    let response = call.request("GET", "/").await.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());
    let health = client().get(format!("{}/health", call.gateway)).send().await.unwrap();
    assert_eq!(health.status(), 200, "a path of its own meets no fault");
}

#[tokio::test]
async fn http_itself_is_answered_without_a_look_at_the_mandate() {
    let (_caracal, call) = start(|resource| resource, clock()).await;
    let address = call.gateway.strip_prefix("http://").unwrap();
    let long = "x".repeat(21_000);
    for (line, status) in [
        ("OPTIONS * HTTP/1.1", "200"),
        ("CONNECT example.com:443 HTTP/1.1", "404"),
        ("GET /a%zz HTTP/1.1", "400"),
        (&format!("GET / HTTP/1.1\r\nX-Long: {long}"), "431"),
        ("GET //a/./b?c HTTP/1.1", "307"),
        ("GET http://example.com/a HTTP/1.1", "401"),
        ("GET /metrics HTTP/1.1", "401"),
        ("POST /internal/revocations/reload HTTP/1.1", "404"),
        ("GET /a HTTP/1.0", "401"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{line}\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{line}: {answer}");
        assert_eq!(answer.contains("location: /a/b?c\r\n"), status == "307", "{answer}");
    }
}

#[tokio::test]
async fn it_ends_with_the_control_plane_whoever_still_listens() {
    let (url, say) = speaker(false).await;
    let (caracal, call) = start(|resource| resource.upstream(url), clock()).await;
    let mut stream = open(&call).await;
    say.send("first").await.unwrap();
    read_until(&mut stream, "first").await;
    drop(caracal);
    rest(stream).await;
}

#[tokio::test]
async fn the_log_tells_of_a_call_without_its_secrets() {
    const KEY: &str = "a-key-of-the-upstream-0123456789";
    let url = echo().await;
    let upstream = |resource: Resource| {
        resource.upstream(url).credential(UpstreamCredential::api_key("X-Api-Key", KEY))
    };
    let (_caracal, call) = start(upstream, clock()).await;
    let mandate = call.mandate().await;
    let logs = Logs::capture();
    assert_eq!(answer(call.with("GET", "/a?token=hush", &mandate)).await.0, 200);
    let text = logs.end();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("caracal_axum")).collect();
    let all = lines.join("\n");
    assert!(all.contains("gateway app-1: GET /a at resource://tickets -> 200"), "{text}");
    assert!(!leaks(&all, &mandate) && !leaks(&all, KEY) && !all.contains("hush"), "{all}");
}
