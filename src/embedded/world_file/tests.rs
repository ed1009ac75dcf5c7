//! What a file may say, and how what it may not say is told.

use std::fs;

use super::*;
use crate::embedded::Approver;

const SAMPLE: &str = r#"[[zones]]
id = "zone-1"
[[zones.applications]]
id = "app-1"
client_secret = "hush-hush"
[[zones.applications]]
id = "app-2"
[[zones.resources]]
identifier = "resource://tickets"
scopes = ["tickets:read", "tickets:write"]
[[zones.grants]]
application = "app-1"
resource = "resource://tickets"
scopes = ["tickets:read"]
"#;
const LINES: usize = 14;

fn error(text: &str) -> WorldError {
    let error = World::from_toml(text).expect_err(text);
    assert!(!error.to_string().contains("hush-hush"), "{error}");
    error
}

/// What is wrong with the sample and some more: its line, counted from the end of the sample.
#[track_caller]
fn wrong(more: &str, line: usize, word: &str) {
    let error = error(&format!("{SAMPLE}{more}"));
    assert_eq!(error.line(), Some(LINES + line), "{error}");
    assert!(error.to_string().contains(word), "{error}");
    assert!(error.to_string().starts_with(&format!("line {}: ", LINES + line)), "{error}");
}

/// What is wrong with a resource that has these members too.
#[track_caller]
fn wrong_resource(members: &str, line: usize, word: &str) {
    let resource = "[[zones.resources]]\nidentifier = \"resource://mail\"\nscopes = [\"mail\"]\n";
    wrong(&format!("{resource}{members}"), 3 + line, word);
}

#[track_caller]
fn right(more: &str) -> World {
    World::from_toml(&format!("{SAMPLE}{more}")).unwrap()
}

#[test]
fn all_that_is_said_is_taken() {
    let world = right(
        r#"role = "reader"
        [[zones.resources]]
        id = "res-mail"
        identifier = "resource://mail"
        scopes = ["mail:send"]
        [[zones.confinement]]
        label_prefix = "guest:"
        scopes = ["tickets:read"]
        [[zones.risk]]
        scope = "mail:send"
        tier = "high"
        [[zones.approvals]]
        tier = "high"
        ttl_seconds = 5
        [[zones]]
        name = "second"
        restrict = ["incident 7"]
        [[zones.applications]]
        registration = "dcr"
        [limits]
        sweep_seconds = 7
        sessions_per_zone = 3
        "#,
    );
    let [first, second] = world.zones.as_slice() else { panic!("two zones") };
    let [one, two] = first.applications.as_slice() else { panic!("two applications") };
    assert_eq!((first.id.as_str(), one.id.as_str()), ("zone-1", "app-1"));
    assert_eq!((one.client_secret.as_str(), one.dynamic), ("hush-hush", false));
    assert!(two.client_secret.len() >= 32 && two.client_secret != one.client_secret);
    assert!(first.resources[0].id.len() >= 32);
    assert_eq!(first.resources[0].scopes, ["tickets:read", "tickets:write"]);
    assert_eq!(first.resources[1].id, "res-mail");
    assert_eq!(first.grants[0].role, "reader");
    assert_eq!(first.grants[0].scopes, ["tickets:read"]);
    assert_eq!(first.confinement[0].label_prefix, "guest:");
    let [tier] = first.tiers.as_slice() else { panic!("one tier") };
    assert_eq!((tier.name.as_str(), tier.approver), ("high", Approver::Operator));
    assert_eq!(tier.scopes, ["mail:send"]);
    assert_eq!(tier.lifetime().as_secs(), 60);
    assert!(second.id.starts_with("zone-") && second.id.len() >= 32);
    assert_eq!(second.restrictions, ["incident 7"]);
    assert!(second.applications[0].dynamic && second.applications[0].id.len() >= 32);
    let sweeps = (world.limits.service_sweep_seconds, world.limits.task_sweep_seconds);
    assert_eq!((sweeps, world.limits.sessions_per_zone), ((7, 7), 3));
    assert_eq!(world.limits.requests_per_minute, Limits::default().requests_per_minute);

    assert_eq!(right("").zones[0].grants[0].role, "app-1");
    assert!(World::from_toml("").unwrap().zones.is_empty());
}

#[test]
fn recorded_worlds_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/transcripts");
    let mut seen = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let world = World::from_file(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let all = |count: fn(&Zone) -> usize| world.zones.iter().map(count).sum::<usize>();
            seen.push((
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                world.zones.len(),
                all(|zone| zone.applications.len()),
                all(|zone| zone.resources.len()),
                all(|zone| zone.grants.len()),
                all(|zone| zone.tiers.iter().map(|tier| tier.scopes.len()).sum()),
            ));
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            ("world".to_owned(), 2, 3, 7, 10, 1),
            ("world-coordinator".to_owned(), 1, 5, 5, 5, 0),
            ("world-gateway".to_owned(), 1, 1, 15, 30, 0),
            ("world-sts".to_owned(), 8, 12, 14, 20, 7),
            ("world-sts-federation".to_owned(), 2, 3, 2, 2, 5),
        ]
    );
}

#[test]
fn what_is_no_world_is_told_by_its_line() {
    wrong("\nfoo", 2, "`=`");
    wrong("[[zone]]", 1, "unknown field `zone`");
    wrong("[zones]", 1, "duplicate");
    wrong("[zones.risk]\nscope = \"tickets:read\"", 1, "[[zones]]");
    wrong("role = 7", 1, "expected a string");
    wrong("scope = \"tickets:write\"", 1, "unknown field `scope`");
    wrong("scopes = []", 1, "duplicate key");
    wrong("[[zones.grants]]\napplication = \"app-1\"\nscopes = []", 1, "missing field `resource`");
    wrong(
        "[[zones.grants]]\napplication = \"app-1\"\nresource = \"resource://tickets\"",
        1,
        "`scopes`",
    );
    wrong("[[zones.confinement]]\nlabel_prefix = \"guest:\"", 1, "`scopes`");
    wrong("[[zones.applications]]\nnam = \"x\"", 2, "unknown field `nam`");
    wrong("[[zones.applications]]\n\nregistration = \"auto\"", 3, "`managed` or `dcr`");
    wrong("[[zones.resources]]\nscopes = []", 1, "missing field `identifier`");
    // Lines end the way of Windows, and characters are longer than a byte.
    let error = error("# Übergänge ↯\r\n[[zones]]\r\nid = \"zone-1\"\r\nfoo = 1\r\n");
    assert_eq!(error.line(), Some(4));
}

#[test]
fn contradictions_are_told_by_their_line() {
    let grant = |application, resource, scope| {
        format!(
            "\n[[zones.grants]]\napplication = \"{application}\"\nresource = \"{resource}\"\nscopes = [\"{scope}\"]"
        )
    };
    wrong(&grant("app-9", "resource://tickets", "tickets:read"), 2, "`app-9`");
    wrong(&grant("app-1", "resource://nothing", "x"), 2, "`resource://nothing`");
    wrong(&grant("app-1", "resource://tickets", "tickets:burn"), 2, "`tickets:burn`");
    wrong(&grant("app-2", "resource://tickets", "tickets:read"), 2, "belongs to `app-1`");
    wrong("[[zones.applications]]\nid = \"app-1\"", 1, "`app-1` already");
    wrong("[[zones.applications]]\nclient_secret = \"\"", 1, "empty");
    wrong("[[zones.resources]]\nidentifier = \"resource://tickets\"", 1, "already");
    wrong("[[zones.resources]]\nidentifier = \"r\"\nscopes = [\"a b\"]", 1, "blanks");
    wrong("\n\n[[zones]]\nid = \"zone-1\"", 3, "`zone-1` already");
    wrong("[[zones]]\nid = \"a/b\"", 1, "no zone id");
    wrong("[[zones]]\n[[zones.applications]]\nid = \"app-1\"", 2, "`app-1` already");
}

#[test]
fn risks_that_nobody_approves_are_refused() {
    let policy = "[[zones.approvals]]\ntier = \"high\"\n";
    let risk = "[[zones.risk]]\nscope = \"tickets:write\"\ntier = \"high\"\n";
    right(&format!("{risk}{policy}"));
    wrong(risk, 1, "no approval policy");
    wrong(
        &format!("{policy}[[zones.risk]]\nscope = \"tickets:wriet\"\ntier = \"high\""),
        3,
        "`tickets:wriet`",
    );
    wrong(&format!("{policy}{risk}{risk}"), 6, "has a tier already");
    wrong(&format!("{policy}{policy}"), 3, "`high` is there already");
    wrong(&format!("{policy}approver = \"boss\""), 3, "`operator`, `subject`, `any`");
    wrong(&format!("{policy}privacy = \"some\""), 3, "`anonymous` or `pseudonymous`");
    wrong(&format!("{policy}ttl_seconds = 0"), 3, "from 1");
    // A policy in another zone is none here.
    wrong(&format!("{risk}[[zones]]\n{policy}"), 1, "no approval policy");
}

#[test]
fn limits_are_positive() {
    for member in ["service_lease_seconds", "sessions_per_application", "requests_per_minute"] {
        for value in ["0", "-1", "1.5", "\"60\"", "4294967296"] {
            wrong(&format!("[limits]\n{member} = {value}"), 2, "a whole number from 1");
        }
    }
    wrong("[limits]\nsessions = 5", 2, "unknown field `sessions`");
    wrong("[[limits]]\nrequests_per_minute = 60", 1, "one pair of brackets");
}

#[test]
fn upstreams_are_absolute_urls() {
    for url in ["/v1", "api.example.com", "ftp://api.example.com", "http://", "hush-hush"] {
        wrong_resource(&format!("\nupstream_url = \"{url}\""), 2, "`upstream_url`");
    }
    right("[[zones.resources]]\nidentifier = \"r\"\nupstream_url = \"http://[::1]:99/v1?a=b\"");
}

#[test]
fn credentials_have_what_they_need_and_nothing_else() {
    let key = "credential = \"api_key\"\napi_key = \"hush-hush\"\n";
    let bearer = "credential = \"bearer_token\"\nbearer_token = \"hush-hush\"\n";
    let basic = "credential = \"http_basic\"\nusername = \"user\"\npassword = \"hush-hush\"\n";
    for good in [
        format!("{key}header = \"X-Key\"\nscheme = \"Token\"\nallowed_hosts = [\"a.example\"]"),
        format!("{key}query_param = \"key\""),
        format!("{bearer}header = \"X-Key\"\nscheme = \"Token\""),
        basic.to_owned(),
    ] {
        right(&format!("[[zones.resources]]\nidentifier = \"resource://mail\"\n{good}"));
    }
    wrong_resource(key, 1, "needs `header` or `query_param`");
    wrong_resource(&format!("{key}header = \"X-Key\"\nquery_param = \"key\""), 4, "in place of");
    wrong_resource(&format!("{key}query_param = \"key\"\nscheme = \"Token\""), 4, "`scheme`");
    wrong_resource(&format!("{key}header = \"X Key\""), 3, "`header` is no name");
    wrong_resource(&format!("{key}header = \"X\"\nscheme = \"a b\""), 4, "`scheme`");
    wrong_resource(&format!("{key}query_param = \"\""), 3, "`query_param` is empty");
    wrong_resource(&format!("{key}header = \"X\"\npassword = \"x\""), 4, "`password`");
    wrong_resource("credential = \"api_key\"\nheader = \"X\"", 1, "needs `api_key`");
    wrong_resource("\ncredential = \"bearer_token\"", 2, "needs `bearer_token`");
    wrong_resource("credential = \"bearer_token\"\nbearer_token = \"hush\\nhush\"", 2, "header");
    wrong_resource("credential = \"http_basic\"\nusername = \"user\"", 1, "needs `password`");
    wrong_resource(&basic.replace("user\"", "u:ser\""), 2, "colon");
    wrong_resource(&format!("{basic}allowed_hosts = [\"http://a.example\"]"), 4, "host names");
    wrong_resource("api_key = \"hush-hush\"", 1, "`api_key` does not go with");
    wrong_resource("credential = \"none\"\nallowed_hosts = []", 2, "`allowed_hosts`");
    wrong_resource("credential = \"hush-hush\"", 1, "\"caracal_mandate\"");
    wrong_resource("forward_identity = \"yes\"", 1, "expected a boolean");
}

#[test]
fn operations_are_those_of_enforced_resources() {
    let operations = "operations = [\n{ method = \"GET\", path = \"/\", scope = \"mail\" },\n";
    right(&format!(
        "[[zones.resources]]\nidentifier = \"r\"\nscopes = [\"mail\"]\nenforcement = \"enforced\"\n{operations}]"
    ));
    wrong_resource(&format!("{operations}]"), 2, "enforcement = \"enforced\"");
    wrong_resource(&format!("enforcement = \"transport_uniform\"\n{operations}]"), 3, "enforced");
    wrong_resource("enforcement = \"loose\"", 1, "`transport_uniform` or `enforced`");
    let enforced = format!("enforcement = \"enforced\"\n{operations}");
    for (operation, word) in [
        ("method = \"G T\", path = \"/\", scope = \"mail\"", "no HTTP method"),
        ("method = \"GET\", path = \"x\", scope = \"mail\"", "begin with `/`"),
        ("method = \"GET\", path = \"/\", scope = \"post\"", "`post`"),
        ("method = \"GET\", path = \"/\"", "missing field `scope`"),
    ] {
        wrong_resource(&format!("{enforced}{{ {operation} }},\n]"), 4, word);
    }
}

#[test]
fn issuers_can_be_asked_for_keys() {
    let issuer = |url: &str, audience: &str| {
        format!(
            "[[zones.issuers]]\nissuer = \"https://idp.example\"\naudience = \"{audience}\"\njwks_url = \"{url}\"\n"
        )
    };
    let good = issuer("https://idp.example/keys", "users");
    right(&good);
    wrong(&format!("{good}jwks_file = \"idp.json\""), 5, "this world is in none");
    wrong(&issuer("/keys", "users"), 4, "`jwks_url`");
    wrong(&issuer("https://idp.example/keys", ""), 3, "`audience`");
    wrong(&format!("{good}jwks_file = \"\""), 5, "`jwks_file`");
    wrong(&format!("{good}{good}"), 5, "`https://idp.example` already");
    wrong("[[zones.issuers]]\nissuer = \"https://idp.example\"", 1, "missing field `audience`");
}

#[test]
fn key_documents_stand_beside_the_world() {
    let folder = std::env::temp_dir().join(format!("caracal-world-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let issuer = "[[zones.issuers]]\nissuer = \"i\"\naudience = \"a\"\n\
                  jwks_url = \"https://idp.example/keys\"\njwks_file = \"idp.json\"\n";
    let path = folder.join("world.toml");
    fs::write(&path, format!("{SAMPLE}{issuer}")).unwrap();
    let wrong = |word: &str| {
        let error = World::from_file(&path).unwrap_err();
        assert!(error.line() == Some(LINES + 5) && error.to_string().contains(word), "{error}");
    };
    wrong("`idp.json` cannot be read");
    for document in ["", "[]", "{}", "{\"keys\": 7}"] {
        fs::write(folder.join("idp.json"), document).unwrap();
        wrong("`idp.json` is no key document");
    }
    fs::write(folder.join("idp.json"), "{\"keys\": []}").unwrap();
    let world = World::from_file(&path).unwrap();
    assert!(world.zones[0].providers[0].document.is_some());
    let error = World::from_file(folder.join("nothing.toml")).unwrap_err();
    assert_eq!(error.line(), None);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn no_error_shows_a_secret() {
    for secret in ["hush-hush", "'hush-hush", "\"hush-hush", "['hush-hush']", "{ a = 'hush-hush' }"]
    {
        for member in ["client_secret", "nobody"] {
            wrong(&format!("[[zones.applications]]\n{member} = {secret}"), 2, "");
        }
        for member in ["api_key", "bearer_token", "password", "credential"] {
            wrong_resource(&format!("{member} = {secret}"), 1, "");
        }
    }
    for members in
        ["scopes = 'hush-hush'", "enforcement = 'hush-hush'", "forward_identity = 'hush-hush'"]
    {
        let told = error(&format!("{SAMPLE}[[zones.resources]]\n{members}")).to_string();
        assert!(!told.contains("hush-hush") && told.contains("expected"), "{told}");
    }
    wrong(
        "[[zones.applications]]\nclient_secret = 12345",
        2,
        "a secret is text: it stands in quotes",
    );
    assert!(
        !error(&format!("{SAMPLE}[[zones.applications]]\nclient_secret = 12345"))
            .to_string()
            .contains("12345")
    );
}
