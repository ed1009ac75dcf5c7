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
    embedded::{self, Application, EmbeddedCaracal, Limits, Resource, World, Zone},
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

/// A mint and the call it is for, by hand.
struct CallByHand {
    http: reqwest::Client,
    sts: String,
    gateway: String,
    session: String,
    edge: String,
}

impl CallByHand {
    async fn call(&self) {
        let form = format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&zone_id=zone-1\
             &application_id=app-1&client_secret=app-1-secret&scope=tickets%3Aread\
             &resource=resource%3A%2F%2Ftickets&agent_session_id={}&delegation_edge_id={}",
            self.session, self.edge
        );
        let minted = self
            .http
            .post(format!("{}/oauth/2/token", self.sts))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let minted: Value = minted.send().await.unwrap().json().await.unwrap();
        let call = self
            .http
            .get(format!("{}/open", self.gateway))
            .bearer_auth(minted["access_token"].as_str().unwrap())
            .header("x-caracal-resource", "resource://tickets");
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        black_box(answer.bytes().await.unwrap());
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
    calls().await;
}

/// Calls through the Gateway, to an upstream that answers at once.
async fn calls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/open", axum::routing::get(|| async { "[]" }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut limits = Limits::default();
    limits.requests_per_minute = u32::MAX;
    limits.mints_per_minute_per_resource_and_application = u32::MAX;
    let tickets = "resource://tickets";
    let zone = Zone::new("zone-1")
        .application(Application::new("app-1").client_secret("app-1-secret"))
        .resource(Resource::new(tickets).scopes(["tickets:read"]).upstream(upstream))
        .grant(embedded::Grant::new("app-1", tickets).role("app-1").scopes(["tickets:read"]));
    let world = World::new().zone(zone).limits(limits);
    let embedded = EmbeddedCaracal::builder().world(world).start().await.unwrap();
    let caracal = embedded
        .client_builder("app-1")
        .resource(tickets, "https://tickets.internal", ["tickets:read"])
        .build()
        .unwrap();
    let parent = caracal.spawn().start().await.unwrap();
    let narrow = Grant::narrow(["tickets:read"]).resource(tickets);
    let child = caracal.spawn().labels(["app-1"]).parent(parent.context().clone()).grant(narrow);
    let child = child.start().await.unwrap();
    let by_hand = CallByHand {
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        sts: embedded.sts_url().to_owned(),
        gateway: embedded.gateway_url().to_owned(),
        session: child.agent_session_id().to_owned(),
        edge: child.context().delegation_edge_id().unwrap().to_owned(),
    };
    let transport = caracal.transport().context(child.context().clone());
    let application = caracal.application_transport(tickets, ["tickets:read"]);
    let [mut floor, mut own, mut pair] = [
        "floor: a mint and the call by hand",
        "transport() in a session with a delegation",
        "application_transport(..), its pair open",
    ]
    .map(Row::new);
    let url = "https://tickets.internal/open";
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            by_hand.call().await;
        }
        floor.add(began.elapsed(), CALLS);
        let began = Instant::now();
        for _ in 0..CALLS {
            let answer = transport.get(url).send().await.unwrap();
            black_box(answer.bytes().await.unwrap());
        }
        own.add(began.elapsed(), CALLS);
        let began = Instant::now();
        for _ in 0..CALLS {
            let answer = application.get(url).send().await.unwrap();
            black_box(answer.bytes().await.unwrap());
        }
        pair.add(began.elapsed(), CALLS);
    }
    for row in [&mut floor, &mut own, &mut pair] {
        row.print();
    }
    child.end().await.unwrap();
    parent.end().await.unwrap();
    caracal.close().await;
}
