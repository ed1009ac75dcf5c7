//! The `caracal_dev` example as a process of its own.
#![cfg(all(unix, feature = "embedded"))]

mod support;

use std::{
    collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration,
};

use serde_json::{Value, json};
use support::{
    client,
    dev::{Folder, Running, command},
    leaks,
};
use tokio::{process::Command, time::timeout};

/// A secret and a resource that quotes of every kind are needed for.
const WORLD: &str = r#"
[[zones]]
id = "zone-1"

[[zones.applications]]
id = "planner"
client_secret = '''it's "$HOME" \ a `secret`'''

[[zones.applications]]
id = "other"
client_secret = "unseen-secret-of-another"

[[zones.resources]]
identifier = "resource://tickets"
scopes = ["tickets:read"]

[[zones.resources]]
identifier = '''resource://"mail"\'''
scopes = ["mail:send"]

[[zones.grants]]
application = "planner"
resource = "resource://tickets"
scopes = ["tickets:read"]

[[zones.grants]]
application = "planner"
resource = '''resource://"mail"\'''
scopes = ["mail:send"]
"#;
const SECRET: &str = r#"it's "$HOME" \ a `secret`"#;
const MAIL: &str = r#"resource://"mail"\"#;

/// What a call that does not serve ends with: code, stdout, stderr.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    outcome(command(arguments)).await
}

async fn outcome(mut command: Command) -> (i32, String, String) {
    let output = timeout(Duration::from_secs(30), command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A token for the first resource: for the life of sessions, or within a session for its scope.
async fn mint(variables: &HashMap<String, String>, secret: &str, session: Option<&str>) -> Value {
    let mut form = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("zone_id", &variables["CARACAL_ZONE_ID"]),
        ("application_id", &variables["CARACAL_APPLICATION_ID"]),
        ("client_secret", secret),
        ("resource", "resource://tickets"),
        ("scope", session.map_or("agent:lifecycle", |_| "tickets:read")),
    ];
    form.extend(session.map(|id| ("agent_session_id", id)));
    let body = form
        .iter()
        .map(|(name, value)| {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            format!("{name}={encoded}")
        })
        .collect::<Vec<_>>()
        .join("&");
    let sent = client()
        .post(format!("{}/oauth/2/token", variables["CARACAL_STS_URL"]))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(body)
        .send();
    sent.await.unwrap().json().await.unwrap()
}

fn sessions_url(variables: &HashMap<String, String>) -> String {
    let coordinator = &variables["CARACAL_COORDINATOR_URL"];
    format!("{coordinator}/zones/{}/agents", variables["CARACAL_ZONE_ID"])
}

#[tokio::test]
async fn it_prints_what_a_client_needs_and_then_that_it_is_ready() {
    let running = Running::start(&[]).await;
    assert_eq!(running.lines.last().unwrap(), "ready");
    assert!(running.lines.iter().rev().skip(1).all(|line| line.starts_with("export CARACAL_")));
    let variables = running.variables().await;
    for (name, value) in [
        ("CARACAL_ZONE_ID", "zone-1"),
        ("CARACAL_APPLICATION_ID", "app-1"),
        ("CARACAL_APP_CLIENT_SECRET", "app-1-secret"),
        ("CARACAL_APP_RESOURCES", "resource://tickets"),
    ] {
        assert_eq!(variables[name], value);
    }
    for name in ["CARACAL_STS_URL", "CARACAL_COORDINATOR_URL", "CARACAL_GATEWAY_URL"] {
        let url = &variables[name];
        assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":0"), "{url}");
        assert_eq!(client().get(format!("{url}/health")).send().await.unwrap().status(), 200);
    }
    assert!(mint(&variables, "app-1-secret", None).await["access_token"].is_string());
    let (code, log) = running.signal("-INT").await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("in memory"), "{log}");
}

#[tokio::test]
async fn a_world_is_served_and_its_secrets_stay_out_of_the_log() {
    let folder = Folder::new("world");
    let world = folder.file("world.toml", WORLD);
    let running = Running::start(&["--world", &world, "--operator=0"]).await;
    let variables = running.variables().await;
    assert_eq!(variables["CARACAL_APPLICATION_ID"], "planner");
    assert_eq!(variables["CARACAL_APP_CLIENT_SECRET"], SECRET);
    assert_eq!(variables["CARACAL_APP_RESOURCES"], format!("resource://tickets,{MAIL}"));

    let token = mint(&variables, SECRET, None).await["access_token"].as_str().unwrap().to_owned();
    let refused = mint(&variables, "guessed-secret", None).await;
    assert_eq!(refused["error"], "access_denied");
    // A connection that stays open does not keep it from ending.
    let idle = client();
    let health = format!("{}/health", variables["CARACAL_STS_URL"]);
    assert_eq!(idle.get(health).send().await.unwrap().status(), 200);

    let (code, log) = running.signal("-TERM").await;
    assert_eq!(code, Some(0), "{log}");
    for part in ["planner", "agent:lifecycle", "granted", "access_denied"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    for secret in [SECRET, "a `secret`", "unseen-secret-of-another", "guessed-secret"] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(!leaks(&log, &token), "{log}");
    // Each line is a time of day and a sentence.
    for line in log.lines() {
        let (time, message) = line.split_once(' ').unwrap();
        assert!(time.len() == 13 && time.ends_with('Z') && time[2..].starts_with(':'), "{line}");
        assert!(!message.trim().is_empty() && !message.contains("caracal_axum::"), "{line}");
    }
}

#[tokio::test]
async fn another_application_can_be_chosen() {
    let folder = Folder::new("application");
    let world = folder.file("world.toml", WORLD);
    let running = Running::start(&["--world", &world, "--application", "other"]).await;
    let variables = running.variables().await;
    assert_eq!(variables["CARACAL_APP_CLIENT_SECRET"], "unseen-secret-of-another");
    assert_eq!(variables["CARACAL_APP_RESOURCES"], "");

    let (code, stdout, stderr) =
        run(&["--sts", "0", "--coordinator", "0", "--gateway", "0", "--application", "app-9"])
            .await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("no application `app-9`, only: app-1"), "{stderr}");
}

#[tokio::test]
async fn operators_steps_are_done_over_http() {
    let running = Running::start(&["--operator", "127.0.0.1:0"]).await;
    let variables = running.variables().await;
    let token = || async {
        let minted = mint(&variables, "app-1-secret", None).await;
        minted["access_token"].as_str().unwrap().to_owned()
    };
    let first = token().await;
    let started = client()
        .post(sessions_url(&variables))
        .bearer_auth(&first)
        .json(&json!({"application_id": "app-1", "ttl_seconds": 3600}))
        .send()
        .await
        .unwrap();
    assert!(started.status().is_success(), "{}", started.text().await.unwrap());
    let started: Value = started.json().await.unwrap();
    let session = started["agent_session_id"].as_str().unwrap().to_owned();

    let step = |action: &str| json!({"action": action, "zone": "zone-1", "session": session});
    assert_eq!(running.operate(step("suspend")).await, (200, json!({"sessions": 1})));
    let (status, again) = running.operate(step("suspend")).await;
    assert_eq!(status, 409);
    assert!(again["error_description"].as_str().unwrap().contains(&session), "{again}");
    assert_eq!(running.operate(step("resume")).await, (200, json!({"sessions": 1})));
    assert_eq!(running.operate(step("terminate")).await.0, 200);
    assert_eq!(running.operate(step("terminate")).await.0, 409);

    let kid_of = |token: &str| {
        let header = token.split('.').next().unwrap();
        let json = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, header);
        serde_json::from_slice::<Value>(&json.unwrap()).unwrap()["kid"].clone()
    };
    let (status, rotated) =
        running.operate(json!({"action": "rotate_key", "zone": "zone-1"})).await;
    assert_eq!(status, 200);
    assert_eq!(rotated["kid"], kid_of(&token().await));
    assert_ne!(rotated["kid"], kid_of(&first));

    let listed = |token: String| {
        let request = client().get(sessions_url(&variables)).bearer_auth(token);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(listed(first.clone()).await, 200);
    assert_eq!(running.operate(json!({"action": "advance", "seconds": 3601.5})).await.0, 200);
    assert_eq!(listed(first).await, 401);

    let archive =
        json!({"action": "archive_application", "zone": "zone-1", "application": "app-1"});
    assert_eq!(running.operate(archive).await.0, 200);
    assert_eq!(mint(&variables, "app-1-secret", None).await["error"], "access_denied");
}

#[tokio::test]
async fn operators_are_told_what_cannot_be_done() {
    let running = Running::start(&["--operator", "localhost:0"]).await;
    let listed = running.operate(json!({"action": "approvals", "zone": "zone-1"})).await;
    assert_eq!(listed, (200, json!({"approvals": []})));
    for (step, status, word) in [
        (json!({"action": "approve", "zone": "zone-1"}), 400, "`approval_id`"),
        (json!({"action": "approve", "zone": "zone-1", "approval_id": "a-9"}), 409, "`a-9`"),
        (json!({"action": "reject", "zone": "zone-9", "approval_id": "a-9"}), 404, "`zone-9`"),
        (json!({"action": "approvals", "zone": "zone-9"}), 404, "`zone-9`"),
        (json!({"action": "revoke_user", "zone": "zone-1", "user": "alice"}), 404, "`alice`"),
        (json!({"zone": "zone-1"}), 400, "`action`"),
        (json!({"action": "suspend", "zone": "zone-1"}), 400, "`session`"),
        (json!({"action": "suspend", "zone": "zone-1", "session": "s-9"}), 409, "`s-9`"),
        (json!({"action": "suspend", "zone": "zone-9", "session": "s-9"}), 404, "`zone-9`"),
        (json!({"action": "rotate_key", "zone": "zone-9"}), 404, "`zone-9`"),
        (
            json!({"action": "archive_application", "zone": "zone-1", "application": "app-9"}),
            404,
            "`app-9`",
        ),
        (json!({"action": "advance", "seconds": -1}), 400, "`seconds`"),
        (json!({"action": "advance", "seconds": 1e300}), 400, "`seconds`"),
        (json!({"action": "advance", "seconds": 1e9}), 400, "`seconds`"),
        (json!({"action": "advance", "seconds": "1"}), 400, "f64"),
        (json!([]), 400, ""),
    ] {
        let (found, body) = running.operate(step.clone()).await;
        assert_eq!(found, status, "{step}: {body}");
        assert!(body["error_description"].as_str().unwrap().contains(word), "{step}: {body}");
    }
    let post = || client().post(running.operator_url());
    for body in ["", "{", "\u{0}"] {
        let refused = post().body(body).send().await.unwrap();
        assert_eq!(refused.status(), 400);
        assert_eq!(support::error_of(refused).await, "invalid_request");
    }
    let large = post().body("x".repeat(3 << 20)).send().await.unwrap();
    assert_eq!(large.status(), 413);
    let page = post()
        .header("Origin", "http://evil.example")
        .body(json!({"action": "rotate_key", "zone": "zone-1"}).to_string());
    assert_eq!(page.send().await.unwrap().status(), 403);
    assert_eq!(client().get(running.operator_url()).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn without_the_option_there_is_no_operator() {
    let running = Running::start(&[]).await;
    assert!(!running.lines.iter().any(|line| line.starts_with("operator")));
    let variables = running.variables().await;
    for name in ["CARACAL_STS_URL", "CARACAL_COORDINATOR_URL", "CARACAL_GATEWAY_URL"] {
        let sent = client()
            .post(format!("{}/operator", variables[name]))
            .json(&json!({"action": "advance", "seconds": 1}));
        assert!(sent.send().await.unwrap().status().is_client_error());
    }
}

#[tokio::test]
async fn production_is_refused() {
    for value in ["production", " Production "] {
        let mut command = command(&[]);
        command.env("CARACAL_ENV", value);
        let (code, stdout, stderr) = outcome(command).await;
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.starts_with("error: CARACAL_ENV is production"), "{stderr}");
    }
}

#[tokio::test]
async fn configurations_are_for_their_owner_alone_and_never_overwritten() {
    let folder = Folder::new("config");
    let world = folder.file("world.toml", WORLD);
    let (one, two) = (folder.path("caracal.toml"), folder.path("other.toml"));
    let arguments = ["--world", &world, "--write-config", &one, "--write-config", &two];
    let running = Running::start(&arguments).await;
    let variables = running.variables().await;
    let read = |file: &str| fs::read_to_string(file).unwrap();
    let table: toml::Table = toml::from_str(&read(&one)).unwrap();
    for (key, name) in [
        ("zone_id", "CARACAL_ZONE_ID"),
        ("application_id", "CARACAL_APPLICATION_ID"),
        ("sts_url", "CARACAL_STS_URL"),
        ("coordinator_url", "CARACAL_COORDINATOR_URL"),
        ("gateway_url", "CARACAL_GATEWAY_URL"),
        ("app_client_secret", "CARACAL_APP_CLIENT_SECRET"),
    ] {
        assert_eq!(table[key].as_str(), Some(variables[name].as_str()), "{key}");
    }
    let credentials = table["credentials"].as_array().unwrap();
    let resources: Vec<_> =
        credentials.iter().map(|one| one["resource"].as_str().unwrap()).collect();
    assert_eq!(resources, ["resource://tickets", MAIL]);
    assert_eq!(table.len(), 7);
    assert_eq!(read(&one), read(&two));
    let mode = |file: &str| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&one), mode(&two)), (0o600, 0o600));
    assert_eq!(running.signal("-TERM").await.0, Some(0));

    let kept = read(&one);
    let ports = ["--sts", "0", "--coordinator", "0", "--gateway", "0"];
    let (code, stdout, stderr) = run(&[&ports[..], &["--write-config", &one]].concat()).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("is there already") && stderr.contains("--force"), "{stderr}");
    assert_eq!(read(&one), kept);

    // What is replaced keeps neither its mode nor what a link leads to.
    fs::set_permissions(&one, fs::Permissions::from_mode(0o644)).unwrap();
    let link = folder.path("link.toml");
    std::os::unix::fs::symlink(&two, &link).unwrap();
    let running =
        Running::start(&["--write-config", &one, "--write-config", &link, "--force"]).await;
    assert_eq!((mode(&one), mode(&link)), (0o600, 0o600));
    assert!(read(&one).contains("app-1-secret") && read(&link).contains("app-1-secret"));
    assert_eq!(read(&two), kept);
    drop(running);

    let nowhere = folder.path("no/such/folder.toml");
    let (code, _, stderr) = run(&[&ports[..], &["--write-config", &nowhere]].concat()).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot write"), "{stderr}");
}

#[tokio::test]
async fn a_bad_world_is_told_by_its_line() {
    let folder = Folder::new("bad");
    let world = folder.file("bad.toml", "[[zones]]\nid = \"zone-1\"\n\nowner = \"me\"\n");
    let (code, stdout, stderr) = run(&["--world", &world]).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains(&format!("{world}: line 4: unknown field `owner`")), "{stderr}");

    let nothing = folder.path("nothing.toml");
    let (code, _, stderr) = run(&["--world", &nothing]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&nothing), "{stderr}");
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused() {
    for (arguments, word) in [
        (&["--wrld", "x"][..], "`--wrld`"),
        (&["world.toml"], "`world.toml`"),
        (&["--world"], "--world needs a value"),
        (&["--force=yes"], "--force takes no value"),
        (&["--sts", "65536"], "`65536`"),
        (&["--sts", "::1"], "HOST:PORT"),
        (&["--operator", "localhost"], "HOST:PORT"),
    ] {
        let (code, stdout, stderr) = run(arguments).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains(word) && stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        [&*address, "0", "0", "0"],
        ["0", &address, "0", "0"],
        ["0", "0", &address, "0"],
        ["0", "0", "0", &address],
    ] {
        let names = ["--sts", "--coordinator", "--gateway", "--operator"];
        let arguments: Vec<_> =
            names.into_iter().zip(arguments).flat_map(<[&str; 2]>::from).collect();
        let (code, stdout, stderr) = run(&arguments).await;
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(stderr.contains(&format!("cannot listen on {address}: ")), "{stderr}");
    }
}

#[tokio::test]
async fn help_says_all_there_is() {
    let (code, help, stderr) = run(&["--help"]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    for word in [
        "--world",
        "--sts",
        "--coordinator",
        "--gateway",
        "--operator",
        "--application",
        "--write-config",
        "--force",
        "in memory",
        "production",
        "ready",
    ] {
        assert!(help.contains(word), "{word}");
    }
}

#[tokio::test]
async fn only_a_host_of_its_own_opens_it_to_others() {
    let running = Running::start(&["--operator", "0.0.0.0:0"]).await;
    let (_, log) = running.signal("-TERM").await;
    assert!(log.contains("0.0.0.0:0 can be reached from other machines"), "{log}");
}

#[tokio::test]
async fn recorded_worlds_are_served() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/transcripts");
    let world = folder.join("world.toml");
    let running = Running::start(&["--world", world.to_str().unwrap()]).await;
    let variables = running.variables().await;
    assert_eq!(variables["CARACAL_APPLICATION_ID"], "app-ledger");
    assert_eq!(
        variables["CARACAL_APP_RESOURCES"].split(',').collect::<Vec<_>>(),
        ["resource://ledger", "resource://crm", "resource://search", "resource://offline"]
    );
}
