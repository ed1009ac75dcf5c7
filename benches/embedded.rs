//! The embedded control plane over loopback, beside a server that answers nothing but `{}`.
//!
//! ```text
//! cargo bench --features embedded --bench embedded
//! ```

use std::time::{Duration, Instant};

use axum::{Router, routing::post};
use caracal_axum::embedded::{EmbeddedCaracal, Limits, World};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const ROUNDS: usize = 15;
const CALLS: u32 = 200;

/// Sessions that are live while the busy rows are measured.
const SESSIONS: usize = 1000;

struct Client {
    http: reqwest::Client,
    coordinator: String,
    sts: String,
    token: String,
}

impl Client {
    async fn of(caracal: &EmbeddedCaracal) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut client = Self {
            http,
            coordinator: caracal.coordinator_url().to_owned(),
            sts: caracal.sts_url().to_owned(),
            token: String::new(),
        };
        client.token = client.mint().await;
        client
    }

    async fn mint(&self) -> String {
        let form = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&zone_id=zone-1\
                    &application_id=app-1&client_secret=app-1-secret&scope=agent%3Alifecycle\
                    &resource=resource%3A%2F%2Ftickets";
        let request = self
            .http
            .post(format!("{}/oauth/2/token", self.sts))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn start(&self) -> String {
        let request = self
            .http
            .post(format!("{}/zones/zone-1/agents", self.coordinator))
            .bearer_auth(&self.token)
            .json(&json!({ "application_id": "app-1" }));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["agent_session_id"].as_str().unwrap().to_owned()
    }

    async fn end(&self, session: &str) {
        let url = format!("{}/zones/zone-1/agents/{session}", self.coordinator);
        let answer = self.http.delete(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    }
}

/// The median of rounds of calls, in µs per call.
async fn median<F: Future<Output = ()>>(calls: u32, mut call: impl FnMut() -> F) -> f64 {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..calls {
            call().await;
        }
        rounds.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(calls));
    }
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn print(row: &str, micros: f64) {
    println!("{row:50} {micros:>9.1} µs");
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut limits = Limits::default();
    limits.sessions_per_zone = usize::MAX;
    limits.sessions_per_application = usize::MAX;
    limits.requests_per_minute = u32::MAX;
    limits.mints_per_minute_per_resource_and_application = u32::MAX;
    let world = World::sample().limits(limits);
    let caracal = EmbeddedCaracal::builder().world(world).start().await.unwrap();
    let client = Client::of(&caracal).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let floor = format!("http://{}/", listener.local_addr().unwrap());
    let app = Router::new().route("/", post(|| async { axum::Json(json!({})) }));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let body = json!({ "application_id": "app-1" });
    let bare = async || {
        let request = client.http.post(&floor).bearer_auth(&client.token).json(&body);
        let _: Value = request.send().await.unwrap().json().await.unwrap();
    };

    print("floor: a request to a server that does nothing", median(CALLS, bare).await);
    print("a lifecycle token", median(CALLS, async || drop(client.mint().await)).await);
    let start_and_end = async || client.end(&client.start().await).await;
    print("a session started and ended (two requests)", median(CALLS, start_and_end).await);
    for _ in 0..SESSIONS {
        client.start().await;
    }
    print("the same beside 1,000 live and 3,000 ended ones", median(50, start_and_end).await);
    let from_nothing = async || {
        let caracal = EmbeddedCaracal::builder().start().await.unwrap();
        drop(caracal);
    };
    print("a control plane started and dropped", median(50, from_nothing).await);
    // What was dropped ends in the background.
    tokio::time::timeout(Duration::from_secs(5), caracal.shutdown()).await.unwrap();
}
