//! Conversations that were held with the real STS, Coordinator and Gateway of v1.0.0, held again with
//! the embedded ones: the same statuses, codes, headers and members.
#![cfg(feature = "embedded")]

mod replay;
mod support;

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use caracal_axum::{
    ManualClock,
    embedded::{EmbeddedCaracal, World},
};
use replay::{Bases, Echo, Operator, Report};
use serde_json::Value;

/// Exchanges that differ, and why they do. The module docs of `embedded` say the same.
const DIFFERENCES: [(&str, &str); 3] = [
    (
        "coordinator coordinator-body-encoding step 10",
        "`__proto__` is an unknown member like any other: the refusal guards a JavaScript parser",
    ),
    (
        "coordinator-idempotency idempotency-same-request step 5",
        "in metadata 1.0 and 1 are different values: they are one to JavaScript",
    ),
    (
        "gateway-forwarding request-headers-removed step 14",
        "every line of `Connection` is read, not only the first",
    ),
];

struct Operated<'c>(&'c EmbeddedCaracal);

impl Operator for Operated<'_> {
    async fn wait(&self, time: Duration) {
        self.0.advance(time);
    }

    async fn patiently<T>(&self, answer: impl Future<Output = T>) -> T {
        let passing = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.0.advance(Duration::from_secs(1));
            }
        };
        tokio::select! {
            answer = answer => answer,
            () = passing => unreachable!("time passes for ever"),
        }
    }

    async fn act(&self, step: &Value) -> Result<(), String> {
        let text = |name: &str| step[name].as_str().unwrap_or_default();
        let (zone, session) = (text("zone"), text("session"));
        let done = match text("action") {
            "rotate_key" => self.0.rotate_key(zone).map(drop),
            "suspend" => self.0.suspend(zone, session).map(drop),
            "resume" => self.0.resume(zone, session).map(drop),
            "terminate" => self.0.terminate(zone, session),
            "approve" => self.0.approve(zone, text("approval_id")),
            "reject" => self.0.reject(zone, text("approval_id")),
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

/// The program, told what operators do by its own route.
#[cfg(unix)]
impl Operator for support::dev::Running {
    async fn wait(&self, time: Duration) {
        let step = serde_json::json!({ "action": "advance", "seconds": time.as_secs_f64() });
        let (status, answer) = self.operate(step).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn act(&self, step: &Value) -> Result<(), String> {
        match self.operate(step.clone()).await {
            (200, _) => Ok(()),
            (status, answer) => Err(format!("{status} {answer}")),
        }
    }
}

fn bases([sts, coordinator, gateway]: [&str; 3]) -> Bases {
    let address = |url: &str| url.strip_prefix("http://").unwrap().parse().unwrap();
    Bases { sts: address(sts), coordinator: address(coordinator), gateway: address(gateway) }
}

/// A file and its world, the limits of the file included.
fn conversation(name: &str) -> (Value, String) {
    let file: Value = serde_json::from_str(&vector(&format!("{name}.json"))).unwrap();
    let mut world = vector(file["world"].as_str().unwrap());
    if let Some(limits) = file["limits"].as_object() {
        world.push_str("\n[limits]\n");
        for (limit, value) in limits {
            writeln!(world, "{limit} = {value}").unwrap();
        }
    }
    (file, world)
}

const WORLD: &str = "world.toml";

/// A world as a file, with the keys of identity providers beside it.
fn world_folder(name: &str, how: &str, world: &str) -> support::dev::Folder {
    let folder = support::dev::Folder::new(&format!("transcripts-{name}-{how}"));
    folder.file("idp_jwks.json", &vector("idp_jwks.json"));
    folder.file(WORLD, world);
    folder
}

/// Replays a file against a control plane of its own, under a clock that only `wait` moves.
async fn replayed(name: &str) -> Report {
    let (file, world) = conversation(name);
    let echo = Echo::start().await;
    let world = echo.serve(&world);
    let folder = world_folder(name, "in-process", &world);
    let clock = ManualClock::new(1_790_000_000);
    // Between two full seconds, where a clock that is read nearly always is.
    clock.advance(Duration::from_millis(400));
    let caracal = EmbeddedCaracal::builder()
        .world(World::from_file(folder.path(WORLD)).unwrap())
        .clock(clock)
        .start()
        .await
        .unwrap();
    let bases = bases([caracal.sts_url(), caracal.coordinator_url(), caracal.gateway_url()]);
    let variables = replay::world_variables(&world);
    let report = replay::replay(name, &file, &variables, &bases, &Operated(&caracal)).await;
    caracal.shutdown().await;
    report
}

/// Replays a file against a process of its own, whose clock is the system's.
#[cfg(unix)]
async fn replayed_by_the_program(name: &str) -> Report {
    let (file, world) = conversation(name);
    let echo = Echo::start().await;
    let world = echo.serve(&world);
    let folder = world_folder(name, "by-the-program", &world);
    let arguments = ["--world", &folder.path(WORLD), "--operator", "0"];
    let program = support::dev::Running::start(&arguments).await;
    let printed = program.variables().await;
    let urls = ["CARACAL_STS_URL", "CARACAL_COORDINATOR_URL", "CARACAL_GATEWAY_URL"];
    let bases = bases(urls.map(|name| &*printed[name]));
    let variables = replay::world_variables(&world);
    let report = replay::replay(name, &file, &variables, &bases, &program).await;
    let (code, log) = program.signal("-TERM").await;
    assert_eq!(code, Some(0), "{log}");
    report
}

/// Compares what differs with what may.
fn holds(name: &str, report: &Report, transcripts: usize, exchanges: usize) {
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
    assert_eq!((report.unreached, &report.skipped), (0, &Vec::new()));
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
    ($($test:ident: $file:literal, $transcripts:literal, $exchanges:literal;)*) => {
        mod in_process {
            $(#[tokio::test]
            async fn $test() {
                super::holds($file, &super::replayed($file).await, $transcripts, $exchanges);
            })*
        }

        #[cfg(unix)]
        mod by_the_program {
            $(#[tokio::test]
            async fn $test() {
                let report = super::replayed_by_the_program($file).await;
                super::holds($file, &report, $transcripts, $exchanges);
            })*
        }
    };
}

files! {
    coordinator: "coordinator", 30, 437;
    coordinator_idempotency: "coordinator-idempotency", 11, 117;
    coordinator_identity: "coordinator-identity", 2, 26;
    coordinator_late_sweep: "coordinator-late-sweep", 4, 36;
    coordinator_leases: "coordinator-leases", 5, 42;
    coordinator_limits: "coordinator-limits", 3, 52;
    coordinator_rate: "coordinator-rate", 1, 39;
    coordinator_services: "coordinator-services", 10, 112;
    coordinator_subjects: "coordinator-subjects", 2, 22;
    delegations: "delegations", 27, 536;
    delegations_hops: "delegations-hops", 18, 681;
    delegations_revoke: "delegations-revoke", 14, 197;
    gateway: "gateway", 20, 224;
    gateway_credentials: "gateway-credentials", 13, 119;
    gateway_forwarding: "gateway-forwarding", 21, 307;
    gateway_rotation: "gateway-rotation", 1, 15;
    sts: "sts", 43, 458;
    sts_approvals: "sts-approvals", 13, 148;
    sts_federation: "sts-federation", 11, 135;
    sts_limits: "sts-limits", 1, 7;
    sts_rotation: "sts-rotation", 1, 16;
}
