//! The way out, beside what it cannot do without: the same requests by hand.
//!
//! ```text
//! cargo bench --features embedded --bench client
//! ```

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use caracal_axum::{
    Caracal, Grant, TraceId, current,
    embedded::{EmbeddedCaracal, Limits, World},
    to_envelope, to_headers,
};
use serde_json::{Value, json};

const ROUNDS: usize = 15;
const CALLS: u32 = 100;

/// The requests of a session, by hand and with a token that is there already.
struct ByHand {
    http: reqwest::Client,
    coordinator: String,
    token: String,
}

impl ByHand {
    async fn of(embedded: &EmbeddedCaracal, caracal: &Caracal) -> Self {
        let headers = caracal.headers().allow_root().await.unwrap();
        let token = headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ");
        Self {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            coordinator: embedded.coordinator_url().to_owned(),
            token: token.to_owned(),
        }
    }

    async fn session(&self) {
        let agents = format!("{}/zones/zone-1/agents", self.coordinator);
        let body = json!({ "application_id": "app-1", "parent_authority": "inherit" });
        let (key, trace) = (TraceId::random(), TraceId::random());
        let started = self
            .http
            .post(&agents)
            .bearer_auth(&self.token)
            .header("idempotency-key", key.as_str())
            .header("idempotency-key-kind", "generated")
            .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
            .json(&body);
        let started: Value = started.send().await.unwrap().json().await.unwrap();
        let session = started["agent_session_id"].as_str().unwrap();
        let end = self.http.delete(format!("{agents}/{session}")).bearer_auth(&self.token);
        assert_eq!(end.send().await.unwrap().status(), 204);
    }
}

/// Microseconds for each call, the median of the rounds.
struct Row {
    name: &'static str,
    rounds: Vec<f64>,
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self { name, rounds: Vec::new() }
    }

    fn add(&mut self, time: Duration, calls: u32) {
        self.rounds.push(time.as_secs_f64() * 1e6 / f64::from(calls));
    }

    fn print(&mut self) {
        self.rounds.sort_by(f64::total_cmp);
        println!("{:<52} {:>9.2} µs", self.name, self.rounds[self.rounds.len() / 2]);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut limits = Limits::default();
    limits.requests_per_minute = u32::MAX;
    let embedded =
        EmbeddedCaracal::builder().world(World::new().limits(limits)).start().await.unwrap();
    let caracal = embedded.client("app-1").unwrap();
    let by_hand = ByHand::of(&embedded, &caracal).await;

    let [mut floor, mut session] =
        ["floor: start and end by hand", "spawn().run(..): start and end"].map(Row::new);
    let [mut envelope, mut headers, mut narrowed] = [
        "floor: to_headers(to_envelope(context))",
        "headers() in a session",
        "a narrowed child: start, delegation, end",
    ]
    .map(Row::new);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            by_hand.session().await;
        }
        floor.add(began.elapsed(), CALLS);
        let began = Instant::now();
        for _ in 0..CALLS {
            caracal.spawn().run(async |_| ()).await.unwrap();
        }
        session.add(began.elapsed(), CALLS);

        let parent = caracal.spawn().labels(["reader"]).start().await.unwrap();
        parent
            .scope(async {
                let calls = CALLS * 100;
                let began = Instant::now();
                for _ in 0..calls {
                    black_box(to_headers(&to_envelope(&current().unwrap())));
                }
                envelope.add(began.elapsed(), calls);
                let began = Instant::now();
                for _ in 0..calls {
                    black_box(caracal.headers().await.unwrap());
                }
                headers.add(began.elapsed(), calls);
                let began = Instant::now();
                for _ in 0..CALLS {
                    let narrow = Grant::narrow(["tickets:read"]).resource("resource://tickets");
                    caracal.spawn().grant(narrow).run(async |_| ()).await.unwrap();
                }
                narrowed.add(began.elapsed(), CALLS);
            })
            .await;
        parent.end().await.unwrap();
    }
    for row in [&mut floor, &mut session, &mut narrowed, &mut envelope, &mut headers] {
        row.print();
    }
}
