//! The key endpoint as an adversary, on a real local server that counts what it is asked.

mod support;

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    routing::get,
};
use caracal_axum::{
    CaracalContext, CaracalLayer, Clock, HttpKeys, KeyDocument, KeyError, KeyRequest, KeySource,
    MandateVerifier, ManualClock, MemoryRevocations,
};
use serde_json::{Value, json};
use support::{AUDIENCE, NOW, SigningKey, ZONE, with};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{Notify, watch},
    task::JoinSet,
};
use tower::ServiceExt as _;

const TIMEOUT: Duration = Duration::from_millis(400);
/// Long enough for the slowest machine, and short of forever.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
enum Answer {
    /// 200 with this body.
    Body(String),
    /// This head, and this body whatever the head says.
    Raw(String, String),
    /// 200 and more bytes than anybody wants.
    Endless,
    /// 200, then a byte now and then.
    Drip,
    /// Takes the request and says nothing.
    Silence,
    /// Closes without a word.
    Close,
}

/// A key endpoint that answers what it is told.
#[derive(Clone)]
struct Endpoint {
    url: String,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    arrived: Arc<Notify>,
    /// How many connections the other side has closed on a silent endpoint.
    hung_up: watch::Receiver<usize>,
}

impl Endpoint {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (closed, hung_up) = watch::channel(0);
        let endpoint = Self {
            url,
            answer: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
            arrived: Arc::default(),
            hung_up,
        };
        let server = endpoint.clone();
        let closed = Arc::new(closed);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(server.clone().serve(stream, Arc::clone(&closed)));
            }
        });
        endpoint
    }

    async fn serve(self, mut stream: TcpStream, closed: Arc<watch::Sender<usize>>) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.arrived.notify_waiters();
        let answer = self.answer.lock().unwrap().clone();
        let head = |length: usize| {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
        };
        // The other side may hang up at any time: that is for it to decide.
        let _ = match answer {
            Answer::Body(body) => stream.write_all((head(body.len()) + &body).as_bytes()).await,
            Answer::Raw(head, body) => {
                stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n{body}").as_bytes()).await
            }
            Answer::Endless => {
                async {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{").await?;
                    for _ in 0..50 * 1024 {
                        stream.write_all(&[b' '; 1024]).await?;
                    }
                    Ok(())
                }
                .await
            }
            Answer::Drip => {
                async {
                    stream.write_all(head(4096).as_bytes()).await?;
                    let mut tick = tokio::time::interval(TIMEOUT / 8);
                    loop {
                        tick.tick().await;
                        stream.write_all(b" ").await?;
                    }
                }
                .await
            }
            Answer::Silence => {
                let end = stream.read_u8().await;
                closed.send_modify(|count| *count += 1);
                end.map(drop)
            }
            Answer::Close => Ok(()),
        };
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn document(keys: &[&SigningKey]) -> Answer {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    Answer::Body(json!({ "keys": keys }).to_string())
}

/// A guarded service whose keys come from `endpoint`.
struct Service {
    clock: ManualClock,
    verifier: MandateVerifier,
    app: Router,
    issuer: String,
}

impl Service {
    fn new(endpoint: &Endpoint) -> Self {
        Self::with_timeout(endpoint, TIMEOUT)
    }

    fn with_timeout(endpoint: &Endpoint, timeout: Duration) -> Self {
        let clock = ManualClock::new(NOW);
        let verifier = MandateVerifier::builder()
            .issuer(&endpoint.url)
            .audience(AUDIENCE)
            .zone(ZONE)
            .revocations(MemoryRevocations::default())
            .clock(clock.clone())
            .key_timeout(timeout)
            .build()
            .unwrap();
        let app = Router::new()
            .route("/", get(|_: CaracalContext| async {}))
            .layer(CaracalLayer::enforce(verifier.clone()));
        Self { clock, verifier, app, issuer: endpoint.url.clone() }
    }

    fn mandate(&self, key: &SigningKey) -> String {
        key.sign(&with(support::claims(), json!({"iss": self.issuer, "exp": NOW + 100_000})))
    }

    async fn ask(&self, token: &str) -> u16 {
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        let response = self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await;
        response.unwrap().status().as_u16()
    }

    /// Lets so much time pass, and the refresh that it brings about.
    async fn pass(&self, time: Duration, endpoint: &Endpoint, token: &str) {
        let failures = self.verifier.status()[0].failures;
        let before = endpoint.asked();
        self.clock.advance(time);
        self.ask(token).await;
        // The refresh runs in the background; it has ended when the status shows what came of it.
        while endpoint.asked() == before
            || self.verifier.status()[0].failures == failures
                && self.verifier.status()[0].age.is_none_or(|age| !age.is_zero())
        {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn every_bad_answer_is_503_and_the_next_good_one_heals() {
    let key = SigningKey::generate("k");
    let good = document(&[&key]);
    let other = Endpoint::start(good.clone()).await;
    let Answer::Body(body) = good.clone() else { unreachable!() };
    let redirect = |code: &str| {
        let head =
            format!("{code}\r\nlocation: {}/.well-known/jwks.json?zone_id={ZONE}", other.url);
        Answer::Raw(head + "\r\ncontent-length: 0", String::new())
    };
    let full =
        |head: &str| Answer::Raw(format!("{head}\r\ncontent-length: {}", body.len()), body.clone());
    let bad = [
        redirect("301 Moved"),
        redirect("302 Found"),
        redirect("307 Temporary"),
        redirect("308 Permanent"),
        full("404 Not Found"),
        full("500 Oops"),
        full("201 Created"),
        full("203 Proxied"),
        Answer::Body("<html>hello</html>".into()),
        Answer::Body(r#"{"keys":[]}"#.into()),
        Answer::Body(String::new()),
        Answer::Endless,
        Answer::Raw("200 OK\r\ncontent-length: 52428800".into(), body.clone()),
        Answer::Raw("200 OK\r\ncontent-length: 5000".into(), body.clone()),
        Answer::Raw("200 OK\r\ntransfer-encoding: chunked".into(), "ffffffff\r\n{".into()),
        Answer::Raw(
            "200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4".into(),
            "\x1f\u{b}xx".into(),
        ),
        Answer::Raw("nonsense".into(), String::new()),
        Answer::Drip,
        Answer::Silence,
        Answer::Close,
    ];
    // Setting up TLS takes a while: not while anybody's time is running.
    let mut services = Vec::new();
    for answer in bad {
        let endpoint = Endpoint::start(answer).await;
        services.push((Service::new(&endpoint), endpoint));
    }
    let mut tried = JoinSet::new();
    for (at, (service, endpoint)) in services.into_iter().enumerate() {
        let (key, good) = (key.clone(), good.clone());
        tried.spawn(async move {
            let token = service.mandate(&key);
            let asked = tokio::time::timeout(PATIENCE, service.ask(&token)).await;
            assert_eq!(asked, Ok(503), "answer {at}");
            // Not asked again at once ..
            assert_eq!(service.ask(&token).await, 503);
            assert_eq!(endpoint.asked(), 1, "answer {at}");
            let status = service.verifier.status().remove(0);
            assert_eq!((status.failures, status.key_ids.len()), (1, 0));
            assert!(status.last_error.is_some());
            // .. but a second later.
            endpoint.set(good);
            service.clock.advance(Duration::from_secs(1));
            assert_eq!(service.ask(&token).await, 200, "answer {at}");
            assert_eq!(service.verifier.status()[0].last_error, None);
        });
    }
    while let Some(result) = tried.join_next().await {
        result.unwrap();
    }
    assert_eq!(other.asked(), 0, "no redirect was followed");
}

/// The source itself reads no more than it must, whatever judges its answer afterwards.
#[tokio::test]
async fn a_source_refuses_statuses_and_sizes_by_itself() {
    let keys = HttpKeys::builder().build().unwrap();
    let big = || "x".repeat(300_000);
    for (answer, error) in [
        (Answer::Endless, KeyError::TooLarge),
        (Answer::Raw("200 OK\r\ncontent-length: 300000".into(), String::new()), KeyError::TooLarge),
        (Answer::Raw("200 OK\r\nconnection: close".into(), big()), KeyError::TooLarge),
        (
            Answer::Raw("404 Not Found\r\ncontent-length: 2".into(), "{}".into()),
            KeyError::Status(StatusCode::NOT_FOUND),
        ),
    ] {
        let endpoint = Endpoint::start(answer).await;
        let fetched = keys.fetch(&KeyRequest::new(&endpoint.url, ZONE)).await;
        assert_eq!(fetched.map(|document| document.body.len()), Err(error));
    }
    assert!(HttpKeys::builder().root_certificate(b"no certificate").is_err());
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_503() {
    let endpoint = Endpoint::start(Answer::Close).await;
    let gone = Endpoint { url: "http://127.0.0.1:1".into(), ..endpoint };
    let service = Service::new(&gone);
    let token = service.mandate(&SigningKey::generate("k"));
    assert_eq!(service.ask(&token).await, 503);
    let error = service.verifier.warm_up().await.unwrap_err();
    assert!(matches!(error, KeyError::Unreachable(_)), "{error}");
    assert!(!error.to_string().contains("127.0.0.1:1/"), "{error}");
}

#[tokio::test]
async fn all_who_wait_for_keys_share_one_fetch() {
    let key = SigningKey::generate("k");
    let endpoint = Endpoint::start(document(&[&key])).await;
    let service = Arc::new(Service::new(&endpoint));
    let mut waiting = JoinSet::new();
    for _ in 0..200 {
        let (service, token) = (Arc::clone(&service), service.mandate(&key));
        waiting.spawn(async move { service.ask(&token).await });
    }
    assert!(waiting.join_all().await.iter().all(|status| *status == 200));
    service.verifier.warm_up().await.unwrap();
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn warm_up_fetches_before_the_first_request() {
    let key = SigningKey::generate("k");
    let endpoint = Endpoint::start(document(&[&key])).await;
    let service = Service::new(&endpoint);
    service.verifier.warm_up().await.unwrap();
    assert_eq!(endpoint.asked(), 1);
    let status = service.verifier.status().remove(0);
    assert_eq!((status.zone.as_str(), status.key_ids), (ZONE, vec!["k".to_owned()]));
    endpoint.set(Answer::Close);
    assert_eq!(service.ask(&service.mandate(&key)).await, 200);
}

/// Threat 21.
#[tokio::test]
async fn a_storm_of_unknown_kids_forces_one_fetch_per_cool_down() {
    let key = SigningKey::generate("k");
    let endpoint = Endpoint::start(document(&[&key])).await;
    let service = Service::new(&endpoint);
    let good = service.mandate(&key);
    assert_eq!(service.ask(&good).await, 200);
    let claims = with(support::claims(), json!({"iss": endpoint.url})).to_string();
    for minute in 0..4 {
        for at in 0..2500 {
            let header = format!(r#"{{"alg":"ES256","kid":"{minute}-{at}"}}"#);
            let token = key.sign_text(&header, &claims);
            assert_eq!(service.ask(&token).await, 401);
            if at % 100 == 0 {
                assert_eq!(service.ask(&good).await, 200);
            }
        }
        // The first minute lies in the cool-down of the first fetch.
        assert_eq!(endpoint.asked(), 1 + minute);
        service.clock.advance(Duration::from_secs(30));
    }
}

#[tokio::test]
async fn a_forced_fetch_that_fails_counts_and_good_keys_stay() {
    let key = SigningKey::generate("k");
    let endpoint = Endpoint::start(document(&[&key])).await;
    let service = Service::new(&endpoint);
    let good = service.mandate(&key);
    let unknown = service.mandate(&SigningKey::generate("unknown"));
    assert_eq!(service.ask(&good).await, 200);
    endpoint.set(Answer::Body(r#"{"keys":[]}"#.into()));
    service.clock.advance(Duration::from_secs(30));
    for _ in 0..5 {
        assert_eq!(service.ask(&unknown).await, 401);
        assert_eq!(service.ask(&good).await, 200, "never replaced by nothing");
    }
    assert_eq!(endpoint.asked(), 2);
    let status = service.verifier.status().remove(0);
    assert_eq!(status.last_error, Some(KeyError::NoUsableKey));
    assert_eq!(status.cool_down, Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn a_new_key_is_found_after_the_cool_down() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let endpoint = Endpoint::start(document(&[&old])).await;
    let service = Service::new(&endpoint);
    assert_eq!(service.ask(&service.mandate(&old)).await, 200);
    endpoint.set(document(&[&new, &old]));
    assert_eq!(service.ask(&service.mandate(&new)).await, 401);
    service.clock.advance(Duration::from_secs(30));
    assert_eq!(service.ask(&service.mandate(&new)).await, 200);
    assert_eq!(service.ask(&service.mandate(&old)).await, 200);
    assert_eq!(endpoint.asked(), 2);
}

#[tokio::test]
async fn keys_are_refreshed_before_they_are_old() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let endpoint = Endpoint::start(document(&[&old])).await;
    let service = Service::new(&endpoint);
    let token = service.mandate(&old);
    assert_eq!(service.ask(&token).await, 200);
    endpoint.set(document(&[&new]));
    service.clock.advance(Duration::from_secs(224));
    assert_eq!(service.ask(&token).await, 200);
    assert_eq!(endpoint.asked(), 1, "three quarters of the TTL have not passed");
    service.pass(Duration::from_secs(75), &endpoint, &token).await;
    assert_eq!(endpoint.asked(), 2);
    // The key that left the set is good for nothing any more.
    assert_eq!(service.ask(&token).await, 401);
    assert_eq!(service.ask(&service.mandate(&new)).await, 200);
}

#[tokio::test]
async fn good_keys_serve_an_hour_past_failing_refreshes_and_no_longer() {
    let key = SigningKey::generate("k");
    let endpoint = Endpoint::start(document(&[&key])).await;
    let service = Service::new(&endpoint);
    let token = service.mandate(&key);
    assert_eq!(service.ask(&token).await, 200);
    endpoint.set(Answer::Close);
    for failures in 1..=4 {
        service.pass(Duration::from_secs(900), &endpoint, &token).await;
        assert_eq!(service.ask(&token).await, 200);
        assert_eq!(service.verifier.status()[0].failures, failures);
    }
    service.clock.advance(Duration::from_secs(300));
    assert_eq!(service.ask(&token).await, 200, "5 minutes and an hour old");
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(service.ask(&token).await, 503);
    endpoint.set(document(&[&key]));
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(service.ask(&token).await, 200);
}

#[tokio::test]
async fn a_flapping_endpoint_is_no_outage() {
    let key = SigningKey::generate("k");
    let good = document(&[&key]);
    let endpoint = Endpoint::start(good.clone()).await;
    let service = Service::new(&endpoint);
    let token = service.mandate(&key);
    assert_eq!(service.ask(&token).await, 200);
    let bad = [Answer::Close, Answer::Body("<html>".into()), Answer::Drip, Answer::Silence];
    for answer in bad {
        for answer in [answer, good.clone()] {
            endpoint.set(answer);
            service.pass(Duration::from_secs(299), &endpoint, &token).await;
            assert_eq!(service.ask(&token).await, 200);
        }
        assert_eq!(service.verifier.status()[0].last_error, None);
    }
    assert_eq!(service.verifier.status()[0].failures, 4);
}

#[tokio::test]
async fn requests_with_known_keys_do_not_wait_for_a_refresh() {
    let key = SigningKey::generate("k");
    let endpoint = Endpoint::start(document(&[&key])).await;
    let service = Service::new(&endpoint);
    let token = service.mandate(&key);
    assert_eq!(service.ask(&token).await, 200);
    endpoint.set(Answer::Silence);
    service.clock.advance(Duration::from_secs(299));
    let arrived = endpoint.arrived.notified();
    assert_eq!(service.ask(&token).await, 200);
    arrived.await;
    // The refresh is under way, and unanswered.
    for _ in 0..100 {
        assert_eq!(service.ask(&token).await, 200);
    }
    assert_eq!(*endpoint.hung_up.borrow(), 0);
}

/// Threat 30.
#[tokio::test]
async fn a_cancelled_caller_neither_ends_the_fetch_nor_frees_another() {
    let key = SigningKey::generate("k");
    let endpoint = Endpoint::start(document(&[&key])).await;
    let service = Arc::new(Service::new(&endpoint));
    assert_eq!(service.ask(&service.mandate(&key)).await, 200);
    endpoint.set(Answer::Silence);
    service.clock.advance(Duration::from_secs(30));
    let unknown = service.mandate(&SigningKey::generate("unknown"));
    let mut callers = JoinSet::new();
    let arrived = endpoint.arrived.notified();
    for _ in 0..50 {
        let (service, token) = (Arc::clone(&service), unknown.clone());
        callers.spawn(async move { service.ask(&token).await });
    }
    arrived.await;
    callers.shutdown().await;
    // The fetch goes on until its timeout, and whoever comes meanwhile waits for that one.
    assert_eq!(service.ask(&unknown).await, 401);
    assert_eq!(service.ask(&unknown).await, 401);
    assert_eq!(endpoint.asked(), 2);
    assert_eq!(service.verifier.status()[0].last_error, Some(KeyError::Timeout));
}

#[tokio::test]
async fn nobody_waits_longer_than_the_fetch_may_take() {
    let endpoint = Endpoint::start(Answer::Silence).await;
    let service = Arc::new(Service::new(&endpoint));
    let token = service.mandate(&SigningKey::generate("k"));
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (service, token) = (Arc::clone(&service), token.clone());
        callers.spawn(async move { tokio::time::timeout(PATIENCE, service.ask(&token)).await });
    }
    for answer in callers.join_all().await {
        assert_eq!(answer, Ok(503));
    }
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn tasks_end_with_the_verifier() {
    let endpoint = Endpoint::start(Answer::Silence).await;
    let service = Service::with_timeout(&endpoint, PATIENCE * 100);
    let token = service.mandate(&SigningKey::generate("k"));
    let arrived = endpoint.arrived.notified();
    let waiting = async {
        let _ = service.ask(&token).await;
        pending::<()>().await;
    };
    tokio::select! {
        () = waiting => unreachable!(),
        () = arrived => {}
    }
    drop(service);
    // The connection is closed by the end of the task, not by its timeout.
    let mut hung_up = endpoint.hung_up.clone();
    let closed = tokio::time::timeout(PATIENCE, hung_up.wait_for(|count| *count == 1)).await;
    assert!(closed.is_ok_and(|closed| closed.is_ok()));
}

/// A fetch that panics, or whose runtime went away or stands still, has failed; the next begins anew.
#[test]
fn a_fetch_that_never_ends_is_given_up() {
    type Answers = fn(usize) -> Option<KeyDocument>;
    struct Source(AtomicUsize, Answers);
    impl KeySource for Source {
        async fn fetch(&self, _: &KeyRequest) -> Result<KeyDocument, KeyError> {
            match (self.1)(self.0.fetch_add(1, Ordering::SeqCst)) {
                Some(document) => Ok(document),
                None => pending().await,
            }
        }
    }
    fn good() -> Option<KeyDocument> {
        let body = json!({"keys": [SigningKey::generate("k").jwk()]}).to_string().into();
        Some(KeyDocument { status: StatusCode::OK, body })
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let verifier = |answers: Answers| {
        MandateVerifier::builder()
            .issuer(support::ISSUER)
            .audience(AUDIENCE)
            .zone(ZONE)
            .revocations(MemoryRevocations::default())
            .key_cool_down(Duration::from_nanos(1))
            .key_timeout(TIMEOUT)
            .key_source(Source(AtomicUsize::new(0), answers))
            .build()
            .unwrap()
    };
    let start = |verifier: &MandateVerifier, runtime: &Runtime| {
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = verifier.warm_up() => unreachable!(),
                () = tokio::task::yield_now() => {}
            }
        });
    };

    let panicking = verifier(|at| if at == 0 { panic!("source") } else { good() });
    runtime().block_on(async {
        assert_eq!(panicking.warm_up().await, Err(KeyError::Aborted));
        assert_eq!(panicking.warm_up().await, Ok(()));
    });

    let hanging: Answers = |at| if at == 0 { None } else { good() };
    let stranded = verifier(hanging);
    let gone = runtime();
    start(&stranded, &gone);
    drop(gone);
    assert_eq!(runtime().block_on(stranded.warm_up()), Ok(()));

    // This runtime stays, and nobody drives it.
    let stuck = verifier(hanging);
    let still = runtime();
    start(&stuck, &still);
    let other = runtime();
    let waited = other.block_on(async { tokio::time::timeout(PATIENCE, stuck.warm_up()).await });
    assert_eq!(waited, Ok(Err(KeyError::Aborted)));
    assert_eq!(other.block_on(stuck.warm_up()), Ok(()));
    drop(still);
}

/// A fetch that was given up and ends after all does not bring old keys back.
#[test]
fn a_late_fetch_replaces_nothing() {
    struct Source {
        asked: AtomicUsize,
        started: std::sync::mpsc::SyncSender<()>,
        held: Mutex<std::sync::mpsc::Receiver<()>>,
    }
    impl KeySource for Source {
        async fn fetch(&self, _: &KeyRequest) -> Result<KeyDocument, KeyError> {
            let first = self.asked.fetch_add(1, Ordering::SeqCst) == 0;
            if first {
                self.started.send(()).unwrap();
                // Nothing can end a task that does not yield.
                let _ = self.held.lock().unwrap().recv();
            }
            let kid = if first { "old" } else { "new" };
            let body = json!({"keys": [SigningKey::generate(kid).jwk()]}).to_string().into();
            Ok(KeyDocument { status: StatusCode::OK, body })
        }
    }
    let (started, has_started) = std::sync::mpsc::sync_channel(1);
    let (release, held) = std::sync::mpsc::channel();
    let verifier = MandateVerifier::builder()
        .issuer(support::ISSUER)
        .audience(AUDIENCE)
        .zone(ZONE)
        .revocations(MemoryRevocations::default())
        .key_cool_down(Duration::from_nanos(1))
        .key_timeout(TIMEOUT)
        .key_source(Source { asked: AtomicUsize::new(0), started, held: Mutex::new(held) })
        .build()
        .unwrap();
    let busy =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = verifier.clone();
    busy.spawn(async move { first.warm_up().await });
    has_started.recv_timeout(PATIENCE).unwrap();
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(other.block_on(verifier.warm_up()), Err(KeyError::Aborted));
    assert_eq!(other.block_on(verifier.warm_up()), Ok(()));
    assert_eq!(verifier.status()[0].key_ids, ["new"]);
    release.send(()).unwrap();
    // Waits for the poll under way, which lands the first fetch.
    busy.shutdown_timeout(PATIENCE);
    assert_eq!(verifier.status()[0].key_ids, ["new"]);
}

/// A verifier that goes by tokio's clock, and how often its keys were fetched; the fetches named in
/// `panics` panic.
fn on_paused_time(panics: &'static [usize]) -> (MandateVerifier, Arc<AtomicUsize>) {
    struct Paused(tokio::time::Instant);
    impl Clock for Paused {
        fn unix_time(&self) -> Duration {
            Duration::from_secs(NOW) + self.0.elapsed()
        }

        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
    }
    struct Counting(Arc<AtomicUsize>, &'static [usize]);
    impl KeySource for Counting {
        async fn fetch(&self, _: &KeyRequest) -> Result<KeyDocument, KeyError> {
            assert!(!self.1.contains(&self.0.fetch_add(1, Ordering::SeqCst)), "source");
            let body = json!({"keys": [SigningKey::generate("k").jwk()]}).to_string().into();
            Ok(KeyDocument { status: StatusCode::OK, body })
        }
    }
    let fetched = Arc::new(AtomicUsize::new(0));
    let verifier = MandateVerifier::builder()
        .issuer(support::ISSUER)
        .audience(AUDIENCE)
        .zone(ZONE)
        .revocations(MemoryRevocations::default())
        .key_source(Counting(Arc::clone(&fetched), panics))
        .clock(Paused(tokio::time::Instant::now()))
        .build()
        .unwrap();
    (verifier, fetched)
}

/// The paused clock runs ahead to whatever is due next.
async fn pass(time: Duration) {
    tokio::time::timeout(time, pending::<()>()).await.unwrap_err();
}

/// Without any request, the keys are fresh all the same.
#[tokio::test(start_paused = true)]
async fn keys_are_refreshed_while_nobody_asks() {
    let (verifier, count) = on_paused_time(&[]);
    verifier.warm_up().await.unwrap();
    pass(Duration::from_secs(1500)).await;
    let fetched = count.load(Ordering::SeqCst);
    assert!((6..=8).contains(&fetched), "{fetched} fetches in 25 minutes");
    assert!(verifier.status()[0].age.unwrap() < Duration::from_secs(300));
    drop(verifier);
    pass(Duration::from_secs(1500)).await;
    assert_eq!(count.load(Ordering::SeqCst), fetched, "and no more when it is dropped");
}

/// A source that panics, at first or later, does not end the refreshes.
#[tokio::test(start_paused = true)]
async fn keys_are_refreshed_after_a_source_that_panicked() {
    let (verifier, _) = on_paused_time(&[0, 2]);
    assert_eq!(verifier.warm_up().await, Err(KeyError::Aborted));
    pass(Duration::from_secs(31)).await;
    assert!(verifier.status()[0].is_ready(), "without a request");
    let mut waited = 0;
    while verifier.status()[0].last_error.is_none() {
        pass(Duration::from_secs(1)).await;
        waited += 1;
        assert!(waited <= 270, "the refresh is due by then, and panics");
    }
    assert_eq!(verifier.status()[0].last_error, Some(KeyError::Aborted));
    pass(Duration::from_secs(1500)).await;
    let status = verifier.status().remove(0);
    assert!(status.age.unwrap() < Duration::from_secs(300));
    assert_eq!(status.last_error, None);
}

/// Keys come and go while requests run: each is answered as its key deserves at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_traffic() {
    let keys: Vec<_> = (0..6).map(|at| SigningKey::generate(&format!("key-{at}"))).collect();
    let endpoint = Endpoint::start(document(&[&keys[0]])).await;
    let service = Arc::new(Service::new(&endpoint));
    let tokens: Vec<_> = keys.iter().map(|key| service.mandate(key)).collect();
    let forged = service.mandate(&SigningKey::generate("key-0"));
    assert_eq!(service.ask(&tokens[0]).await, 200);
    for at in 1..keys.len() {
        // The one before stays published, as a real STS does it.
        endpoint.set(document(&[&keys[at], &keys[at - 1]]));
        service.clock.advance(Duration::from_secs(30));
        let mut traffic = JoinSet::new();
        for _ in 0..40 {
            for (token, expected) in [(&tokens[at], 200), (&tokens[at - 1], 200), (&forged, 401)] {
                let (service, token) = (Arc::clone(&service), token.clone());
                traffic.spawn(async move { (service.ask(&token).await, expected) });
            }
        }
        for (status, expected) in traffic.join_all().await {
            assert_eq!(status, expected, "rotation {at}");
        }
        if at > 1 {
            assert_eq!(service.ask(&tokens[at - 2]).await, 401);
        }
        assert_eq!(endpoint.asked(), 1 + at);
    }
}
