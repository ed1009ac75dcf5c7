//! What the clients of Caracal v1.0.0 made of environments and profiles: the Go client decides,
//! except where it is said why not.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Configuration, Environment, Identity, Settings,
    tests::{Folder, NOW},
};

#[derive(Deserialize)]
struct Recorded {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, File>,
    go: Value,
    typescript: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Text(String),
    WithMode { text: String, mode: String },
}

/// Where this crate answers something else than Go, what it answers, and why.
fn exceptions() -> Vec<(&'static str, Instead, &'static str)> {
    let token = json!({
        "zone": "zone-1", "app": "app-1", "mode": "token", "bindings": [],
        "coordinator": "http://localhost:4000", "gateway": "http://localhost:8081",
    });
    vec![
        ("subject-token", Instead::This(token), "an alias of CARACAL_BOOTSTRAP_TOKEN"),
        (
            "profile-credential-without-resource",
            Instead::Error,
            "Python and TypeScript refuse it; to skip an entry is to lose a resource silently",
        ),
        ("default-profile", Instead::Typescript, "the constructor without arguments looks for one"),
        (
            "default-profile-beats-env",
            Instead::Typescript,
            "a profile that is there is the one meant",
        ),
    ]
}

enum Instead {
    This(Value),
    Error,
    Typescript,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/client_config.json");
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str::<Recorded>(&text).unwrap().cases
}

fn lay_out(case: &Case, folder: &Folder, own: &str) -> Environment {
    let path = |text: &str| text.replace("$D", own);
    for (name, file) in &case.files {
        let (text, mode) = match file {
            File::Text(text) => (text, 0o600),
            File::WithMode { text, mode } => (text, u32::from_str_radix(mode, 8).unwrap()),
        };
        folder.file(&name.replace("cwd:", "cwd/"), &path(text), mode);
    }
    let home = ("HOME".to_owned(), folder.path("home").display().to_string());
    case.env.iter().map(|(name, value)| (name.clone(), path(value))).chain([home]).collect()
}

/// The settings in the form of the recording.
fn shown(settings: &Settings) -> Value {
    let bindings: Vec<_> = settings
        .bindings
        .iter()
        .map(|binding| json!([binding.resource_id(), binding.upstream_prefix()]))
        .collect();
    let mut shown = json!({
        "bindings": bindings,
        "coordinator": settings.coordinator_url,
        "gateway": settings.gateway_url,
    });
    let (zone, app) = match &settings.identity {
        Identity::Secret { zone, application, .. } => {
            shown["mode"] = json!("secret");
            shown["audiences"] = json!(settings.audiences);
            (zone, application)
        }
        Identity::Token { zone, application, .. } => {
            shown["mode"] = json!("token");
            (zone, application)
        }
        Identity::Dynamic => panic!("nobody asked for a credentials source"),
    };
    (shown["zone"], shown["app"]) = (json!(zone), json!(app));
    if let Some(url) = &settings.sts_url {
        shown["sts"] = json!(url);
    }
    if let Some(seconds) = settings.default_ttl {
        shown["ttl"] = json!(seconds);
    }
    shown
}

/// Where no slash is taken from the end of a URL in the recording, it is taken at its use.
fn without_slashes(mut expected: Value) -> Value {
    for service in ["coordinator", "gateway", "sts"] {
        if let Some(Value::String(url)) = expected.get_mut(service) {
            url.truncate(url.trim_end_matches('/').len());
        }
    }
    expected
}

fn run(environment: &Environment) -> Result<Value, String> {
    Configuration::detect(environment)
        .and_then(|configuration| configuration.check(false, NOW))
        .map(|settings| shown(&settings))
        .map_err(|error| error.to_string())
}

#[test]
fn every_case() {
    let cases = cases();
    assert_eq!(cases.len(), 55);
    let exceptions = exceptions();
    for (name, ..) in &exceptions {
        assert!(cases.iter().any(|case| case.name == *name), "{name}");
    }
    for case in cases {
        let folder = Folder::new();
        let own = folder.path("").display().to_string();
        let environment = lay_out(&case, &folder, own.trim_end_matches('/'));
        let exception = exceptions.iter().find(|(name, ..)| *name == case.name);
        let expected = match exception {
            Some((_, Instead::This(value), _)) => value.clone(),
            Some((_, Instead::Error, _)) => json!({"error": true}),
            Some((_, Instead::Typescript, _)) => case.typescript.clone(),
            None => case.go.clone(),
        };
        let actual = if case.files.keys().any(|name| name.starts_with("cwd:")) {
            in_its_folder(&case.name, &folder.path("cwd"))
        } else {
            run(&environment)
        };
        if exception.is_some() {
            let as_go = actual.as_ref().is_ok_and(|actual| *actual == without_slashes(case.go));
            assert!(!as_go, "{}: no exception is needed", case.name);
        }
        match (actual, expected.get("error")) {
            (Ok(actual), None) => {
                assert_eq!(actual, without_slashes(expected), "{}", case.name);
            }
            (Err(error), Some(_)) => {
                assert!(!error.contains("s3cr3t"), "{}: {error}", case.name);
            }
            (actual, _) => panic!("{}: {actual:?} instead of {expected}", case.name),
        }
    }
}

const CASE: &str = "CARACAL_TEST_CASE";

/// The working directory belongs to the whole process, so this takes one of its own.
fn in_its_folder(case: &str, folder: &Path) -> Result<Value, String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["client::config::recorded::a_case_in_its_folder", "--exact", "--nocapture"])
        .env(CASE, case)
        .current_dir(folder)
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let line = output.lines().find_map(|line| Some(line.split_once("RESULT ")?.1));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{output}"))).unwrap()
}

/// Does nothing unless it was started by [`in_its_folder`].
#[test]
fn a_case_in_its_folder() {
    let Ok(name) = std::env::var(CASE) else { return };
    let case = cases().into_iter().find(|case| case.name == name).unwrap();
    assert!(Path::new("caracal.toml").exists());
    let environment = Environment::from_iter(case.env);
    println!("\nRESULT {}", serde_json::to_string(&run(&environment)).unwrap());
}
