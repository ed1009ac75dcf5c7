//! What the published clients of Caracal v1.0.0 were recorded sending, action by action and under
//! failures, done again with this crate's client: the same requests, results and events, and nothing
//! left behind, but where this client does better on purpose.
#![cfg(feature = "embedded")]

mod drive;
mod support;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use drive::{Course, EXCEPTIONS};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

/// Actions that are not done here, and why.
const LEFT_OUT: [(&str, &[&str]); 3] = [
    (
        "calls through the Gateway, which the control plane of the tests does not have",
        &[
            "outbound-merge",
            "narrowed-call",
            "two-calls-two-mints",
            "call-post",
            "call-explicit-resource",
            "call-gateway-directly",
            "call-gateway-base-path",
            "call-third-party",
            "call-third-party-as-application",
            "call-other-spellings",
            "call-without-scopes",
            "call-without-context",
            "call-dot-segments",
            "call-escapes",
            "redirect-relative",
            "redirect-elsewhere",
            "redirect-to-gateway",
            "redirect-to-bound",
            "gateway-cuts-second-call",
            "fetch-resource-header",
            "fetch",
            "gateway-request",
            "sts-mint-503",
        ],
    ),
    (
        "calls as the application, which go through the Gateway as well",
        &[
            "app-transport",
            "app-transport-options",
            "app-transport-not-pinned",
            "app-transport-at-once",
            "app-transport-no-gateway",
            "app-transport-target-start-500",
            "app-transport-start-answer-lost",
            "app-transport-401",
            "app-transport-mint-denied",
            "app-transport-pair-gone",
        ],
    ),
    (
        "approvals and federation, which neither the client nor that control plane has",
        &[
            "approval-approved",
            "approval-rejected",
            "approval-wait-ends",
            "approval-with-transport",
            "approval-answer-in-two-pieces",
            "approval-wait-unknown",
            "federate-refused",
        ],
    ),
];

/// Requests (by position) of steps that need a Gateway, in actions that are done without them.
const PASSED_OVER: [(&str, &[usize]); 6] = [
    ("static-token", &[]),
    ("no-resources", &[0, 1, 2, 3, 4, 5]),
    ("delegate-and-accept", &[5, 6]),
    ("bind-and-carry-on", &[1, 2]),
    ("call-without-delegation", &[2]),
    ("close", &[]),
];

/// Actions in which this client is not as Go's is, but as Python's, and why. Where Go's HTTP library
/// sent a request again without being asked, this client is always as Python's.
const AS_PYTHON: [(&str, &str); 6] = [
    ("sts-503-for-ten", "when a shared exchange fails, one who waited for it tries again"),
    ("sts-leader-cancelled", "a shared exchange goes on when the one who began it gives up"),
    ("cancel-exchange", "an exchange that was begun is finished"),
    ("cancel-body", "the same"),
    ("cancel-end", "the caller's future is dropped; the session is ended all the same"),
    ("cancel-service-end", "a close that was cancelled can be done again"),
];

fn vector(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// In what the course of an action differs from what it should be.
fn judge(action: &Value, observed: &Course) -> Vec<String> {
    let name = action["name"].as_str().unwrap();
    let passed_over = PASSED_OVER.iter().find(|(known, _)| *known == name);
    let recorded =
        |language| Course::recorded(action, language, passed_over.map_or(&[], |it| it.1));
    let from_go = observed.differences(&recorded("go"));
    let resent = action["go"].to_string().contains("resent_by_http_library");
    let differences = if let Some((_, why)) = AS_PYTHON.iter().find(|(known, _)| *known == name) {
        if from_go.is_empty() {
            return vec![format!("is to go as Python's ({why}), and goes as Go's")];
        }
        observed.differences(&recorded("python"))
    } else if resent {
        observed.differences(&recorded("python"))
    } else {
        from_go
    };
    match EXCEPTIONS.iter().find(|it| it.action == name) {
        None => differences,
        Some(it) if differences.is_empty() => {
            vec![format!("is an exception ({}), and goes as recorded", it.why)]
        }
        Some(it) => [
            ("requests", it.requests, observed.shapes()),
            ("results", it.results, observed.outcomes()),
            ("left behind", it.left_behind, observed.left_behind.clone()),
        ]
        .into_iter()
        .filter(|(_, expected, found)| expected != found)
        .map(|(what, expected, found)| format!("{what} {found:#?}\nand not {expected:#?}"))
        .collect(),
    }
}

async fn differing(action: Value, world: Arc<str>, places: Arc<Semaphore>) -> Vec<String> {
    let _place = places.acquire().await.unwrap();
    let observed = drive::take(&action, &world).await;
    let mut found = judge(&action, &observed);
    found.extend(observed.repeated_spans());
    let name = action["name"].as_str().unwrap();
    found.iter().map(|difference| format!("{name}: {difference}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn as_the_published_clients() {
    let file: Value = serde_json::from_str(&vector("client_traces.json")).unwrap();
    let world: Arc<str> = vector("transcripts/world.toml").into();
    let mut actions: BTreeMap<_, _> = file["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| (action["name"].as_str().unwrap(), action))
        .collect();
    for name in LEFT_OUT.iter().flat_map(|(_, names)| *names) {
        assert!(actions.remove(name).is_some(), "{name}");
    }
    let listed = PASSED_OVER.iter().map(|it| it.0).chain(AS_PYTHON.iter().map(|it| it.0));
    for name in listed.chain(EXCEPTIONS.iter().map(|it| it.action)) {
        assert!(actions.contains_key(name), "{name}");
    }
    assert_eq!(actions.len(), 95, "what is done");
    // All at once they would be in each other's way.
    let places = Arc::new(Semaphore::new(16));
    let mut running = JoinSet::new();
    // Those that last are among the last.
    for action in actions.into_values().rev() {
        running.spawn(differing(action.clone(), Arc::clone(&world), Arc::clone(&places)));
    }
    let differing = running.join_all().await.concat();
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.concat());
}
