//! What the published clients of Caracal v1.0.0 were recorded sending, action by action and under
//! failures, done again with this crate's client: the same requests, results and events, and nothing
//! left behind, but where this client does better on purpose.
#![cfg(feature = "embedded")]

mod drive;
#[path = "replay/echo.rs"]
mod echo;
mod support;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use drive::{Course, EXCEPTIONS, IN_ANY_ORDER};
use echo::Echo;
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

/// Actions that are not done here, and why.
const LEFT_OUT: [(&str, &[&str]); 1] = [(
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
)];

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
    let recorded = |language| Course::recorded(action, language);
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
        .map(|(what, expected, mut found)| {
            let mut expected = expected.to_vec();
            if IN_ANY_ORDER.contains(&name) {
                expected.sort_unstable();
                found.sort();
            }
            (what, expected, found)
        })
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
    found.extend(observed.misplaced_bearers());
    let name = action["name"].as_str().unwrap();
    found.iter().map(|difference| format!("{name}: {difference}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn as_the_published_clients() {
    let file: Value = serde_json::from_str(&vector("client_traces.json")).unwrap();
    let echo = Echo::start().await;
    let world: Arc<str> = echo.serve(&vector("transcripts/world.toml")).into();
    let mut actions: BTreeMap<_, _> = file["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| (action["name"].as_str().unwrap(), action))
        .collect();
    for name in LEFT_OUT.iter().flat_map(|(_, names)| *names) {
        assert!(actions.remove(name).is_some(), "{name}");
    }
    let listed = AS_PYTHON.iter().map(|it| it.0);
    for name in listed.chain(EXCEPTIONS.iter().map(|it| it.action)) {
        assert!(actions.contains_key(name), "{name}");
    }
    assert_eq!(actions.len(), 128, "what is done");
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
