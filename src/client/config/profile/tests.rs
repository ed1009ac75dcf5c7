use super::*;
use crate::client::{
    CaracalError,
    config::{
        Environment, Identity, Settings,
        tests::{Folder, NOW},
    },
};

const PROFILE: &str = r#"
    zone_id = "zone-p"
    application_id = "app-p"
    app_client_secret = "s3cr3t"
    sts_url = "https://sts.test/"
    zone_url = 7

    [[credentials]]
    resource = "resource://p"
    upstream_prefix = "https://p.test/v1"
    scopes = ["read", "write"]

    [[optional_credentials]]
    resource = "resource://q"
    scopes = ["read"]

    [[optional_credentials]]
    resource = "resource://p"
    upstream_prefix = "https://second.test"
    scopes = ["second"]
"#;

fn check(path: &Path, more: &[(&str, &str)]) -> Result<Settings, CaracalError> {
    let environment: Environment = more.iter().copied().collect();
    Configuration::from_profile(path, &environment)?.check(false, NOW)
}

/// The problems, with `$P` for the path.
fn problems(path: &Path, more: &[(&str, &str)]) -> Vec<String> {
    let error = check(path, more).unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("s3cr3t") && !text.contains("p4ss"), "{text}");
    }
    let CaracalError::Configuration(problems) = error else { panic!("{error}") };
    let path = path.display().to_string();
    problems.problems().iter().map(|problem| problem.replace(&path, "$P")).collect()
}

#[test]
fn a_whole_profile() {
    let folder = Folder::new();
    let path = folder.file("c.toml", PROFILE, 0o600);
    let more = [
        ("CARACAL_ZONE_ID", "zone-1"),
        ("CARACAL_APPLICATION_ID", "app-1"),
        ("CARACAL_APP_CLIENT_SECRET", "other"),
        ("CARACAL_BOOTSTRAP_TOKEN", "other"),
        ("CARACAL_APP_RESOURCES", "resource://other"),
        ("CARACAL_STS_URL", "https://other.test"),
        ("CARACAL_GATEWAY_URL", "https://gw.test/base/"),
        ("CARACAL_DEFAULT_TTL_SECONDS", "77"),
        ("CARACAL_RESOURCES", "resource://n=https://n.test/a/longer/path"),
        ("CARACAL_RESOURCE_SCOPES", "resource://q=write,resource://n=run"),
    ];
    let settings = check(&path, &more).unwrap();
    assert_eq!(
        settings.identity,
        Identity::Secret {
            zone: "zone-p".into(),
            application: "app-p".into(),
            secret: crate::client::config::Secret::new("s3cr3t"),
        }
    );
    assert_eq!(settings.sts_url.as_deref(), Some("https://sts.test"));
    assert_eq!(settings.gateway_url.as_deref(), Some("https://gw.test/base"));
    assert_eq!(settings.coordinator_url, "http://localhost:4000");
    assert_eq!(settings.audiences, ["resource://p", "resource://q", "resource://n"]);
    assert_eq!(
        settings.bindings,
        [
            ResourceBinding::new("resource://n", "https://n.test/a/longer/path"),
            ResourceBinding::new("resource://p", "https://p.test/v1"),
        ]
    );
    assert_eq!(settings.scopes["resource://p"], ["read", "write"]);
    assert_eq!(settings.scopes["resource://q"], ["write"]);
    assert_eq!(settings.scopes["resource://n"], ["run"]);
    assert_eq!(settings.default_ttl, Some(77));
    assert_eq!(settings.source, ConfigSource::Profile(path));
}

#[test]
fn bindings_of_the_file_and_then_of_the_variable_win() {
    let folder = Folder::new();
    let profile = folder.file("c.toml", PROFILE, 0o600);
    let file = folder.file("r.json", r#"{"resource://p":"https://file.test"}"#, 0o600);
    let file = file.display().to_string();
    let prefix = |more: &[(&str, &str)]| {
        check(&profile, more).unwrap().bindings[0].upstream_prefix().to_owned()
    };
    let file = ("CARACAL_RESOURCES_FILE", &*file);
    assert_eq!(prefix(&[]), "https://p.test/v1");
    assert_eq!(prefix(&[file]), "https://file.test");
    let variable = ("CARACAL_RESOURCES", "resource://p=https://variable.test");
    assert_eq!(prefix(&[file, variable]), "https://variable.test");
}

#[test]
fn everything_that_is_wrong_inside() {
    let folder = Folder::new();
    let text = r#"
        zone_id = 7
        application_id = ""
        coordinator_url = "https://u:p4ss@co.test"
        app_client_secret = "s3cr3t"
        app_client_secret_file = "s3cr3t"
        default_ttl_seconds = "55"
        optional_credentials = "resource://a"
        credentials = [
            3, {}, { resource = " " }, { resource = 7 },
            { resource = "a", upstream_prefix = "/rel" },
            { resource = "a", upstream_prefix = "https://u:p4ss@a.test" },
            { resource = "b", upstream_prefix = 7 },
            { resource = "c", scopes = "read" },
            { resource = "d", scopes = ["read", 7] },
            { resource = "e", scopes = ["read write"] },
            { resource = "f", scopes = [] },
        ]
    "#;
    let path = folder.file("c.toml", text, 0o600);
    let expected = [
        "zone_id in $P must be a string",
        "default_ttl_seconds in $P must be a whole number of seconds from 1 to 86400",
        "credentials[0] in $P must be a table",
        "credentials[1].resource in $P is required",
        "credentials[2].resource in $P is required",
        "credentials[3].resource in $P must be a string",
        "credentials[3].resource in $P is required",
        "credentials[4] in $P is wrong: upstream_prefix must be an absolute http or https URL",
        "credentials[5] in $P is wrong: upstream_prefix must not hold a user or password",
        "credentials[6].upstream_prefix in $P must be a string",
        "credentials[7].scopes in $P is wrong: must be an array of strings",
        "credentials[8].scopes in $P is wrong: must be an array of strings",
        "credentials[9].scopes in $P is wrong: a scope must not be empty, and have no spaces in it",
        "credentials[10].scopes in $P is wrong: must have at least one scope",
        "optional_credentials in $P must be an array of tables",
        "only one of app_client_secret and app_client_secret_file may be set in $P",
        "zone_id in $P is required",
        "application_id in $P is required",
        "coordinator_url in $P, or CARACAL_COORDINATOR_URL, must not hold a user or password",
    ];
    assert_eq!(problems(&path, &[]), expected);
}

#[test]
fn a_secret_there_and_nowhere_else() {
    let folder = Folder::new();
    let profile = |line: &str| {
        let text = format!("zone_id = \"z\"\napplication_id = \"a\"\n{line}");
        folder.file("c.toml", &text, 0o600)
    };
    let secret = folder.file("secret", "s3cr3t\n", 0o600);
    let path = profile(&format!("app_client_secret_file = {:?}", secret.display().to_string()));
    assert!(matches!(
        check(&path, &[]).unwrap().identity,
        Identity::Secret { secret, .. } if secret.expose() == "s3cr3t"
    ));
    folder.file("secret", "s3cr3t\n", 0o644);
    #[cfg(unix)]
    assert_eq!(problems(&path, &[]).len(), 1);
    let elsewhere = [("CARACAL_APP_CLIENT_SECRET", "s3cr3t"), ("CARACAL_BOOTSTRAP_TOKEN", "t")];
    assert_eq!(
        problems(&profile(""), &elsewhere),
        ["app_client_secret or app_client_secret_file in $P is required"]
    );
}

#[test]
fn production_asks_for_urls_here_or_there() {
    let folder = Folder::new();
    let path = folder.file("c.toml", PROFILE, 0o600);
    assert_eq!(
        problems(&path, &[("CARACAL_ENV", "production")]),
        ["coordinator", "gateway"].map(|name| format!(
            "{name}_url in $P, or CARACAL_{}_URL, is required when CARACAL_ENV=production",
            name.to_uppercase()
        ))
    );
}

#[cfg(unix)]
#[test]
fn modes() {
    let folder = Folder::new();
    let secret = folder.file("secret", "s3cr3t", 0o600);
    let without = PROFILE.replace(
        "app_client_secret = \"s3cr3t\"",
        &format!("app_client_secret_file = {:?}", secret.display().to_string()),
    );
    for (mode, inline_is_fine, without_is_fine) in [
        (0o600, true, true),
        (0o400, true, true),
        (0o640, false, true),
        (0o604, false, true),
        (0o610, false, true),
        (0o644, false, true),
        (0o620, false, false),
        (0o602, false, false),
        (0o666, false, false),
    ] {
        let inline = folder.file("inline.toml", PROFILE, mode);
        assert_eq!(check(&inline, &[]).is_ok(), inline_is_fine, "{mode:o}");
        let path = folder.file("without.toml", &without, mode);
        assert_eq!(check(&path, &[]).is_ok(), without_is_fine, "{mode:o}");
        let link = folder.path(&format!("link-{mode:o}"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(check(&link, &[]).is_ok(), without_is_fine, "{mode:o}");
    }
    let inline = folder.file("inline.toml", PROFILE, 0o640);
    assert_eq!(
        problems(&inline, &[]),
        ["$P holds a secret, and must be accessible to its owner only (chmod 600)"]
    );
    let writable = folder.file("without.toml", &without, 0o660);
    assert_eq!(problems(&writable, &[]), ["$P must be writable by its owner only (chmod go-w)"]);
}

#[test]
fn no_profile() {
    let folder = Folder::new();
    assert_eq!(problems(&folder.path("none"), &[]), ["$P does not exist"]);
    let broken = "zone_id = \"z\"\napp_client_secret = \"s3cr3t\nx = 1\n";
    let path = folder.file("c.toml", broken, 0o600);
    assert_eq!(problems(&path, &[]), ["$P is not TOML (line 2)"]);
}

#[test]
fn which_one_is_detected() {
    let folder = Folder::new();
    let named = folder.file("named.toml", PROFILE, 0o600);
    let named_text = named.display().to_string();
    let home = folder.path("home").display().to_string();
    let source = |more: &[(&str, &str)]| {
        let complete = [
            ("CARACAL_ZONE_ID", "zone-1"),
            ("CARACAL_APPLICATION_ID", "app-1"),
            ("CARACAL_APP_CLIENT_SECRET", "s3cr3t"),
            ("CARACAL_CONFIG_HOME", &*home),
        ];
        let environment = complete.iter().chain(more).copied().collect();
        Configuration::detect(&environment).map(|found| found.source)
    };
    let own = folder.path("home/caracal.toml");
    let variable = ("CARACAL_CONFIG", &*named_text);
    assert_eq!(source(&[]).unwrap(), ConfigSource::Environment);
    folder.file("home/caracal.toml", PROFILE, 0o600);
    assert_eq!(source(&[]).unwrap(), ConfigSource::Profile(own.clone()));
    assert_eq!(source(&[variable]).unwrap(), ConfigSource::Profile(named.clone()));
    // One that is named, or there, has to be right.
    assert!(source(&[("CARACAL_CONFIG", "/none/caracal.toml")]).is_err());
    folder.file("home/caracal.toml", "x", 0o600);
    assert!(source(&[]).is_err());
    #[cfg(unix)]
    {
        std::fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink("nothing", &own).unwrap();
        assert!(source(&[]).is_err());
    }
}
