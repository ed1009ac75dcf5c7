//! Conversations that were held with the real STS and Coordinator of v1.0.0, held again with the
//! embedded ones: the same statuses, codes, headers and members.
#![cfg(feature = "embedded")]

mod replay;

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use caracal_axum::{
    ManualClock,
    embedded::{EmbeddedCaracal, World},
};
use replay::{Bases, Operator, Report};
use serde_json::Value;

/// Exchanges that differ, and why they do. The module docs of `embedded` say the same.
const DIFFERENCES: [(&str, &str); 4] = [
    (
        "coordinator coordinator-body-encoding step 10",
        "`__proto__` is an unknown member like any other: the refusal guards a JavaScript parser",
    ),
    (
        "coordinator-idempotency idempotency-same-request step 5",
        "in metadata 1.0 and 1 are different values: they are one to JavaScript",
    ),
    ("sts request-ids-on-other-routes step 2", "there are no approvals yet"),
    ("sts request-ids-on-other-routes step 3", "there are no approvals yet"),
];

struct Operated<'c>(&'c EmbeddedCaracal);

impl Operator for Operated<'_> {
    async fn wait(&self, time: Duration) {
        self.0.advance(time);
    }

    async fn act(&self, step: &Value) -> Result<(), String> {
        let text = |name: &str| step[name].as_str().unwrap_or_default();
        let (zone, session) = (text("zone"), text("session"));
        let done = match text("action") {
            "rotate_key" => self.0.rotate_key(zone).map(drop),
            "suspend" => self.0.suspend(zone, session).map(drop),
            "resume" => self.0.resume(zone, session).map(drop),
            "terminate" => self.0.terminate(zone, session),
            "archive_application" => self.0.archive_application(zone, text("application")),
            other => return Err(format!("no operator does `{other}`")),
        };
        done.map_err(|error| error.to_string())
    }
}

fn vector(name: &str) -> String {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/transcripts").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replays a file against a control plane of its own, under a clock that only `wait` moves.
async fn replayed(name: &str) -> Report {
    let file: Value = serde_json::from_str(&vector(&format!("{name}.json"))).unwrap();
    let mut world = vector(file["world"].as_str().unwrap());
    let variables = replay::world_variables(&world);
    if let Some(limits) = file["limits"].as_object() {
        world.push_str("\n[limits]\n");
        for (limit, value) in limits {
            writeln!(world, "{limit} = {value}").unwrap();
        }
    }
    let clock = ManualClock::new(1_790_000_000);
    // Between two full seconds, where a clock that is read nearly always is.
    clock.advance(Duration::from_millis(400));
    let caracal = EmbeddedCaracal::builder()
        .world(World::from_toml(&world).unwrap())
        .clock(clock)
        .start()
        .await
        .unwrap();
    let address = |url: &str| url.strip_prefix("http://").unwrap().parse().unwrap();
    let bases =
        Bases { sts: address(caracal.sts_url()), coordinator: address(caracal.coordinator_url()) };
    let report = replay::replay(name, &file, &variables, &bases, &Operated(&caracal)).await;
    caracal.shutdown().await;
    report
}

/// Replays and compares what differs with what may. What needs a Gateway is left out: of
/// `sts-rotation` that is everything.
async fn holds(name: &str, transcripts: usize, exchanges: usize) {
    let report = replayed(name).await;
    let unlisted: Vec<_> = report
        .differing
        .iter()
        .filter(|found| {
            !DIFFERENCES.iter().any(|(known, _)| found.starts_with(&format!("{known}:")))
        })
        .collect();
    assert!(unlisted.is_empty(), "{} differ:\n{}", unlisted.len(), texts(&unlisted));
    let listed =
        DIFFERENCES.iter().filter(|(known, _)| known.starts_with(&format!("{name} "))).count();
    assert_eq!(report.differing.len(), listed, "a listed difference is none");
    assert_eq!(report.unreached, 0);
    assert_eq!(
        (report.transcripts, report.exchanges),
        (transcripts, exchanges),
        "what was replayed"
    );
}

fn texts(found: &[&String]) -> String {
    found.iter().map(|text| format!("{text}\n")).collect()
}

macro_rules! files {
    ($($test:ident: $file:literal, $transcripts:literal, $exchanges:literal;)*) => {$(
        #[tokio::test]
        async fn $test() {
            holds($file, $transcripts, $exchanges).await;
        }
    )*};
}

files! {
    coordinator: "coordinator", 29, 427;
    coordinator_idempotency: "coordinator-idempotency", 11, 117;
    coordinator_identity: "coordinator-identity", 2, 26;
    coordinator_late_sweep: "coordinator-late-sweep", 4, 36;
    coordinator_leases: "coordinator-leases", 5, 42;
    coordinator_limits: "coordinator-limits", 3, 52;
    coordinator_rate: "coordinator-rate", 1, 39;
    coordinator_services: "coordinator-services", 10, 112;
    delegations: "delegations", 24, 497;
    delegations_hops: "delegations-hops", 15, 642;
    delegations_revoke: "delegations-revoke", 10, 143;
    sts: "sts", 41, 444;
    sts_limits: "sts-limits", 1, 7;
}
