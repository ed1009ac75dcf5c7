//! What the integration tests share.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

#[cfg(feature = "embedded")]
pub(crate) mod agent;
#[cfg(feature = "embedded")]
pub(crate) mod at_work;
#[cfg(feature = "embedded")]
pub(crate) mod dev;
#[cfg(feature = "embedded")]
pub(crate) mod outbound;
#[cfg(feature = "embedded")]
pub(crate) mod proxy;

use std::{cell::RefCell, sync::Once};

use axum::Router;
pub(crate) use caracal_axum::testing::SigningKey;
use caracal_axum::{
    MandateVerifier, MandateVerifierBuilder, ManualClock, MemoryRevocations, StaticKeys,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const ISSUER: &str = "https://sts.example.test";
pub(crate) const ZONE: &str = "zone-1";
pub(crate) const AUDIENCE: &str = "resource://tickets";
pub(crate) const NOW: u64 = 1_790_000_000;

/// A zone with one key, without any network.
pub(crate) struct Zone {
    pub(crate) key: SigningKey,
    pub(crate) clock: ManualClock,
    pub(crate) revocations: MemoryRevocations,
}

impl Zone {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new(NOW);
        Self {
            key: SigningKey::generate("key-1"),
            revocations: MemoryRevocations::builder().clock(clock.clone()).build(),
            clock,
        }
    }

    pub(crate) fn document(&self) -> String {
        json!({"keys": [self.key.jwk()]}).to_string()
    }

    /// A verifier for this zone, to be configured further.
    pub(crate) fn builder(&self) -> MandateVerifierBuilder {
        MandateVerifier::builder()
            .issuer(ISSUER)
            .audience(AUDIENCE)
            .zone(ZONE)
            .revocations(self.revocations.clone())
            .key_source(StaticKeys::new(ISSUER, ZONE, self.document()))
            .clock(self.clock.clone())
    }

    pub(crate) fn verifier(&self) -> MandateVerifier {
        self.builder().build().unwrap()
    }

    pub(crate) fn claims(&self) -> Value {
        claims()
    }

    /// A good mandate with some claims changed; null removes one.
    pub(crate) fn mandate(&self, changes: Value) -> String {
        self.key.sign(&with(claims(), changes))
    }
}

pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": [AUDIENCE], "zone_id": ZONE, "target": [AUDIENCE],
        "sub": "planner", "sub_type": "application", "client_id": "planner",
        "sid": "record-7", "root_sid": "record-1", "jti": "mandate-1",
        "use": "resource", "iat": NOW, "exp": NOW + 900,
        "agent_session_id": "session-7", "scope": "tickets:read",
    })
}

/// Claims of authority that came over two delegations.
pub(crate) fn delegated() -> Value {
    json!({
        "delegation_edge_id": "edge-2", "hop_count": 2, "delegation_graph_epoch": 7,
        "delegation_path": ["edge-1", "edge-2"],
        "delegation_chain": [
            {"application_id": "root", "agent_session_id": "s-1", "delegation_edge_id": "edge-1"},
            {"application_id": "middle", "agent_session_id": "s-2", "delegation_edge_id": "edge-2"},
            {"application_id": "planner", "agent_session_id": "session-7"},
        ],
    })
}

pub(crate) fn with(mut claims: Value, changes: Value) -> Value {
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// Serves `app` on a free port of loopback.
pub(crate) async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

/// The `error` member of a refusal.
pub(crate) async fn error_of(response: reqwest::Response) -> String {
    let body: Value = response.json().await.unwrap();
    body["error"].as_str().unwrap_or_default().to_owned()
}

/// Everything that is logged on this thread, at TRACE. One subscriber serves the whole process:
/// tracing remembers for every call site whether anybody listens, so coming and going is no good.
pub(crate) struct Logs;

thread_local! {
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

impl Logs {
    /// Begins to capture.
    pub(crate) fn capture() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
                .with_ansi(false)
                .with_writer(|| Captured)
                .init();
        });
        CAPTURED.set(Some(Vec::new()));
        Self
    }

    /// Ends capturing; what has been captured.
    pub(crate) fn end(self) -> String {
        String::from_utf8_lossy(&CAPTURED.take().unwrap_or_default()).into_owned()
    }
}

struct Captured;

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        CAPTURED.with_borrow_mut(|captured| {
            if let Some(captured) = captured {
                captured.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether `text` holds any 16 characters in a row of `secret`.
pub(crate) fn leaks(text: &str, secret: &str) -> bool {
    secret
        .as_bytes()
        .windows(16)
        .any(|window| text.as_bytes().windows(16).any(|other| other == window))
}
