//! The `resource_server` example as a process of its own.

mod support;

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
};

use caracal_axum::testing::Issuer;
use serde_json::{Value, json};
use support::{AUDIENCE, ZONE, client, error_of};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// `cargo test` builds the examples beside the tests.
fn command(example: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let target: PathBuf = test.parent().unwrap().parent().unwrap().join("examples").join(example);
    assert!(target.exists(), "build the examples first: cargo build --examples");
    let mut command = Command::new(target);
    command.env_clear().kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads what a server prints until it says where it listens; the rest is gathered.
async fn listening(child: &mut Child) -> (String, Arc<Mutex<String>>) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = loop {
        let line = lines.next_line().await.unwrap().expect("it ended before it listened");
        if let Some((_, url)) = line.split_once("listening on ") {
            break url.trim().to_owned();
        }
    };
    let log = Arc::new(Mutex::new(String::new()));
    let gathered = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            gathered.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    (url, log)
}

#[tokio::test]
async fn resource_server_is_configured_by_its_environment() {
    let issuer = Issuer::start().await.unwrap();
    let mut server = command("resource_server")
        .env("CARACAL_STS_URL", issuer.url())
        .env("CARACAL_ZONE_ID", issuer.zone())
        .env("CARACAL_AUDIENCE", AUDIENCE)
        .env("CARACAL_REQUIRED_SCOPES", "tickets:read")
        .env("CARACAL_REQUIRED_TARGETS", AUDIENCE)
        .env("BIND", "127.0.0.1:0")
        // Loopback is never asked for through a proxy.
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .spawn()
        .unwrap();
    let (url, log) = listening(&mut server).await;
    let healthz = client().get(format!("{url}/healthz")).send().await.unwrap();
    assert_eq!(healthz.status(), 200);

    let readyz = client().get(format!("{url}/readyz")).send().await.unwrap();
    assert_eq!(readyz.status(), 200);
    let ready: Value = readyz.json().await.unwrap();
    assert_eq!((&ready["ready"], &ready["zones"][0]["key_ids"]), (&json!(true), &json!(["key-1"])));

    let mandate = issuer.mandate(AUDIENCE).scopes(["tickets:read"]).session("session-7");
    let token = mandate.sign();
    let whoami = |token: &str| client().get(format!("{url}/whoami")).bearer_auth(token).send();
    let body: Value = whoami(&token).await.unwrap().json().await.unwrap();
    assert_eq!((&body["agent_session_id"], &body["proven"]), (&json!("session-7"), &json!(true)));

    let other = mandate.scopes(["tickets:write"]).sign();
    assert_eq!(error_of(whoami(&other).await.unwrap()).await, "insufficient_scope");
    let missing = client().get(format!("{url}/whoami")).send().await.unwrap();
    assert_eq!(error_of(missing).await, "missing_token");

    server.kill().await.unwrap();
    let log = log.lock().unwrap().clone();
    assert!(log.contains("insufficient_scope"), "{log}");
    assert!(!support::leaks(&log, &token) && !support::leaks(&log, &other), "{log}");
}

#[tokio::test]
async fn resource_server_is_not_ready_without_keys() {
    let mut server = command("resource_server")
        .env("CARACAL_STS_URL", "http://127.0.0.1:1")
        .env("CARACAL_ZONE_ID", ZONE)
        .env("CARACAL_AUDIENCE", AUDIENCE)
        .env("BIND", "127.0.0.1:0")
        .spawn()
        .unwrap();
    let (url, _) = listening(&mut server).await;
    let readyz = client().get(format!("{url}/readyz")).send().await.unwrap();
    assert_eq!(readyz.status(), 503);
    let ready: Value = readyz.json().await.unwrap();
    assert_eq!(ready["ready"], false);
    assert!(ready["zones"][0]["last_error"].as_str().unwrap().contains("cannot be reached"));
    assert_eq!(client().get(format!("{url}/healthz")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn resource_server_names_everything_that_is_missing() {
    let output = command("resource_server").env("CARACAL_ZONE_ID", "z").output().await.unwrap();
    assert!(!output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: not set: CARACAL_STS_URL, CARACAL_AUDIENCE\n"
    );
}

#[tokio::test]
async fn quickstart_tells_its_story() {
    let output = command("quickstart").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.ends_with("9 of 9 steps as expected\n"), "{text}");
}

#[cfg(all(unix, feature = "embedded"))]
mod agents {
    use std::collections::HashMap;

    use axum::{Router, routing::post};

    use super::*;
    use support::dev::{Folder, Running};

    /// Runs an example to its end.
    async fn told(example: &str, variables: Option<&HashMap<String, String>>) -> String {
        let mut command = command(example);
        if let Some(variables) = variables {
            command.arg("--external").envs(variables);
        }
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// The variables of a control plane of its own process, and those of the example.
    async fn external() -> (Running, HashMap<String, String>) {
        let running = Running::start(&[]).await;
        let mut variables = running.variables().await;
        for (name, value) in [
            ("CARACAL_RESOURCE_ID", "resource://tickets"),
            ("CARACAL_RESOURCE_SCOPES", "resource://tickets=tickets:read"),
            ("CARACAL_ROLE", "reader"),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
        }
        (running, variables)
    }

    #[tokio::test]
    async fn the_agent_mints_delegates_and_revokes_here_and_elsewhere() {
        let (_running, variables) = external().await;
        for variables in [None, Some(&variables)] {
            let text = told("agent", variables).await;
            let lines = ["child   mints: a mandate", "peer    mints: a mandate"];
            assert!(lines.iter().all(|line| text.contains(line)), "{text}");
            assert!(text.contains("peer    mints: refused"), "{text}");
            // The resource of the other control plane leads nowhere.
            let called = if variables.is_some() { "403 Forbidden" } else { "200 OK" };
            assert!(text.contains(&format!("child   calls: {called}")), "{text}");
            assert!(text.ends_with("all sessions are ended\n"), "{text}");
        }
    }

    #[tokio::test]
    async fn the_service_is_renewed_taken_over_and_ended_here_and_elsewhere() {
        let (_running, variables) = external().await;
        for variables in [None, Some(&variables)] {
            let text = told("service_agent", variables).await;
            assert!(text.contains("the old holder is told session_lease_fenced"), "{text}");
            assert!(text.contains("held with lease 3, Active"), "{text}");
            assert!(text.ends_with("the service is ended\n"), "{text}");
        }
    }

    /// A control plane of its own process, whose Gateway leads to a server of the test's.
    const TUTORIAL: &str = r#"
[[zones]]
id = "zone-1"

[[zones.applications]]
id = "shop"
client_secret = "shop-secret"

[[zones.resources]]
identifier = "resource://billing-api"
upstream_url = "UPSTREAM"
scopes = ["charge:create"]
credential = "none"

[[zones.grants]]
application = "shop"
resource = "resource://billing-api"
role = "shop"
scopes = ["charge:create"]
"#;

    #[tokio::test]
    async fn the_tutorial_works_as_it_is_written_here_and_elsewhere() {
        let upstream = Router::new().route("/charge", post(|body: String| async { body }));
        let url = support::serve(upstream).await;
        let folder = Folder::new("tutorial");
        let world = folder.file("world.toml", &TUTORIAL.replace("UPSTREAM", &url));
        let running = Running::start(&["--world", &world]).await;
        let mut variables = running.variables().await;
        for (name, value) in [
            ("CARACAL_RESOURCE_ID", "resource://billing-api"),
            ("CARACAL_RESOURCE_PATH", "/charge"),
            ("CARACAL_RESOURCE_SCOPES", "resource://billing-api=charge:create"),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
        }
        let text = told("tutorial", None).await;
        assert!(text.contains(r#"{"charged":1200}"#), "{text}");
        let text = told("tutorial", Some(&variables)).await;
        assert!(text.contains(r#"{"amount":1200}"#), "{text}");
        assert!(text.contains("200 OK, in the audit trail as Some("), "{text}");
    }

    #[tokio::test]
    async fn each_service_of_a_chain_goes_on_with_less() {
        let text = told("multi_hop", None).await;
        for hop in ["hop 1: 2 sessions", "hop 2: 3 sessions", "hop 3: 4 sessions"] {
            assert!(text.contains(hop), "{text}");
        }
        assert!(text.ends_with("each hop with less than the one before\n"), "{text}");
    }

    #[tokio::test]
    async fn what_is_not_configured_is_named_all_at_once() {
        let output = command("agent").arg("--external").output().await.unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for name in ["CARACAL_ZONE_ID", "CARACAL_APPLICATION_ID", "CARACAL_APP_CLIENT_SECRET"] {
            assert!(text.contains(name), "{text}");
        }
    }
}
