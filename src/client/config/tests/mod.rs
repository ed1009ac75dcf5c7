//! From what was given to the settings, with files in folders of their own.

mod production;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

pub(super) const NOW: u64 = 1_800_000_000;

/// A folder that goes away.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("caracal-config-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // What is there may not be writable.
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        #[cfg(not(unix))]
        let _ = mode;
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SECRET: [(&str, &str); 3] = [
    ("CARACAL_ZONE_ID", "zone-1"),
    ("CARACAL_APPLICATION_ID", "app-1"),
    ("CARACAL_APP_CLIENT_SECRET", "s3cr3t"),
];

const TOKEN: [(&str, &str); 3] = [
    ("CARACAL_ZONE_ID", "zone-1"),
    ("CARACAL_APPLICATION_ID", "app-1"),
    ("CARACAL_BOOTSTRAP_TOKEN", "t0ken"),
];

fn environment(base: &[(&str, &str)], more: &[(&str, &str)]) -> Environment {
    base.iter().chain(more).copied().collect()
}

fn check(base: &[(&str, &str)], more: &[(&str, &str)]) -> Result<Settings, CaracalError> {
    Configuration::from_environment(&environment(base, more)).check(false, NOW)
}

fn problems<T>(result: Result<T, CaracalError>) -> Vec<String> {
    let Err(error) = result else { panic!("there should be a problem") };
    for text in [error.to_string(), format!("{error:?}")] {
        for hidden in ["s3cr3t", "t0ken", "p4ss"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
    match error {
        CaracalError::Configuration(problems) => problems.problems().to_vec(),
        other => panic!("{other}"),
    }
}

fn builder() -> Configuration {
    Configuration {
        coordinator_url: Some("https://co.test/".into()),
        sts_url: Some("https://sts.test//".into()),
        zone: Some("zone-1".into()),
        application: Some("app-1".into()),
        secret: Some(Secret::new("s3cr3t")),
        ..Configuration::default()
    }
}

#[test]
fn everything_missing_is_told_at_once() {
    assert_eq!(
        problems(check(&[], &[("CARACAL_ENV", "production"), ("CARACAL_RESOURCES", "x")])),
        [
            "CARACAL_RESOURCES entry 1: must be resource_id=upstream_prefix",
            "CARACAL_ZONE_ID is required",
            "CARACAL_APPLICATION_ID is required",
            "CARACAL_APP_CLIENT_SECRET or CARACAL_APP_CLIENT_SECRET_FILE, or \
             CARACAL_BOOTSTRAP_TOKEN, is required",
            "CARACAL_COORDINATOR_URL is required when CARACAL_ENV=production",
            "CARACAL_STS_URL is required when CARACAL_ENV=production",
            "CARACAL_GATEWAY_URL is required when CARACAL_ENV=production",
        ]
    );
    assert_eq!(
        problems(Configuration::default().check(false, NOW)),
        [
            "zone is required",
            "application is required",
            "client_secret, or subject_token, is required",
            "coordinator_url is required",
            "sts_url is required",
        ]
    );
    let blank = [("CARACAL_ZONE_ID", " "), ("CARACAL_APP_CLIENT_SECRET", " ")];
    assert_eq!(problems(check(&SECRET, &blank)).len(), 2);
}

#[test]
fn one_identity() {
    let settings = check(&SECRET, &[]).unwrap();
    let (zone, application) = ("zone-1".to_owned(), "app-1".to_owned());
    let secret = Secret::new("s3cr3t");
    assert!(!format!("{settings:?}").contains("s3cr3t"));
    assert_eq!(
        settings.identity,
        Identity::Secret { zone: zone.clone(), application: application.clone(), secret }
    );
    let token = BearerToken::new("t0ken");
    let identity = Identity::Token { zone, application, token };
    for more in [&[][..], &[("CARACAL_SUBJECT_TOKEN", "t0ken")]] {
        let settings = check(&TOKEN, more).unwrap();
        assert!(!format!("{settings:?}").contains("t0ken"));
        assert_eq!((settings.identity, settings.sts_url), (identity.clone(), None));
    }
    let alias = [TOKEN[0], TOKEN[1], ("CARACAL_SUBJECT_TOKEN", "t0ken")];
    assert_eq!(check(&alias, &[]).unwrap().identity, identity);
    let differ = problems(check(&TOKEN, &[("CARACAL_SUBJECT_TOKEN", "t0ken2")]));
    assert!(differ[0].starts_with("CARACAL_BOOTSTRAP_TOKEN and CARACAL_SUBJECT_TOKEN"));
    assert_eq!(
        problems(check(&TOKEN, &SECRET)),
        ["only one of CARACAL_APP_CLIENT_SECRET or CARACAL_APP_CLIENT_SECRET_FILE, and \
          CARACAL_BOOTSTRAP_TOKEN, may be set"]
    );
    let folder = Folder::new();
    let file = folder.file("s", "s3cr3t", 0o600).display().to_string();
    let both = problems(check(&SECRET, &[("CARACAL_APP_CLIENT_SECRET_FILE", &file)]));
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(both[0].starts_with("only one of CARACAL_APP_CLIENT_SECRET and"), "{both:?}");
    let token_and_no_file = problems(check(&TOKEN, &[("CARACAL_APP_CLIENT_SECRET_FILE", "/none")]));
    assert_eq!(token_and_no_file.len(), 2, "{token_and_no_file:?}");
}

#[test]
fn tokens_are_looked_at() {
    // {"alg":"none"}, and {"exp":1800000000}.
    for token in ["eyJhbGciOiJub25lIn0.e30.t0ken", "e30.eyJleHAiOjE4MDAwMDAwMDB9.t0ken", "t0ken\n"]
    {
        let found = problems(check(&TOKEN, &[("CARACAL_BOOTSTRAP_TOKEN", token)]));
        assert!(found[0].starts_with("CARACAL_BOOTSTRAP_TOKEN "), "{found:?}");
    }
    let alive =
        environment(&TOKEN, &[("CARACAL_BOOTSTRAP_TOKEN", "e30.eyJleHAiOjE4MDAwMDAwMDB9.s")]);
    assert!(Configuration::from_environment(&alive).check(false, NOW - 1).is_ok());
}

#[test]
fn a_credentials_source_stands_alone() {
    let urls = builder();
    let dynamic = Configuration {
        coordinator_url: urls.coordinator_url,
        sts_url: urls.sts_url,
        ..Configuration::default()
    };
    assert_eq!(dynamic.clone().check(true, NOW).unwrap().identity, Identity::Dynamic);
    let none_of = |change: fn(&mut Configuration), name: &str| {
        let mut configuration = dynamic.clone();
        change(&mut configuration);
        let problem = format!("{name} must not be set beside a credentials source");
        assert_eq!(problems(configuration.check(true, NOW)), [problem]);
    };
    none_of(|c| c.zone = Some("zone-1".into()), "zone");
    none_of(|c| c.application = Some("app-1".into()), "application");
    none_of(|c| c.secret = Some(Secret::new("s3cr3t")), "client_secret");
    none_of(|c| c.subject_token = Some(BearerToken::new("t0ken")), "subject_token");
    let no_urls = problems(Configuration::default().check(true, NOW));
    assert_eq!(no_urls, ["coordinator_url is required", "sts_url is required"]);
    let file = environment(&[], &[("CARACAL_APP_CLIENT_SECRET_FILE", "/none")]);
    assert_eq!(problems(Configuration::from_environment(&file).check(true, NOW)).len(), 2);
}

#[test]
fn what_a_builder_gives() {
    let mut built = builder();
    built.audiences = vec!["resource://b".into(), "resource://a".into(), "resource://b".into()];
    built.bindings = vec![
        ResourceBinding::new("resource://a", "https://a.test"),
        ResourceBinding::new("resource://c", "http://c.test/v1/long"),
        ResourceBinding::new("resource://a", "https://a2.test"),
    ];
    built.scopes.insert("resource://z".into(), vec!["read".into(), "read".into()]);
    built.default_ttl = Some(60);
    built.production = true;
    let settings = built.check(false, NOW).unwrap();
    assert_eq!(settings.coordinator_url, "https://co.test");
    assert_eq!(settings.sts_url.as_deref(), Some("https://sts.test"));
    assert_eq!(settings.gateway_url, None);
    assert_eq!(settings.audiences, ["resource://b", "resource://a", "resource://c"]);
    assert_eq!(
        settings.bindings,
        [
            ResourceBinding::new("resource://c", "http://c.test/v1/long"),
            ResourceBinding::new("resource://a", "https://a2.test"),
        ]
    );
    assert_eq!(settings.scopes["resource://z"], ["read"]);
    assert_eq!((settings.default_ttl, settings.source), (Some(60), ConfigSource::Builder));

    let mut empty_gateway = builder();
    empty_gateway.gateway_url = Some(String::new());
    assert_eq!(empty_gateway.check(false, NOW).unwrap().gateway_url, None);
    let mut with_token = builder();
    (with_token.sts_url, with_token.secret) = (None, None);
    with_token.subject_token = Some(BearerToken::new("t0ken"));
    assert_eq!(with_token.check(false, NOW).unwrap().sts_url, None);
}

#[test]
fn what_a_builder_gives_wrong_even_on_top_of_the_environment() {
    let base = [
        (builder(), "default_ttl"),
        (
            Configuration::from_environment(&environment(&SECRET, &[])),
            "CARACAL_DEFAULT_TTL_SECONDS",
        ),
    ];
    for (mut built, ttl) in base {
        built.audiences = vec![" ".into()];
        built.bindings = vec![
            ResourceBinding::new("", "https://a.test"),
            ResourceBinding::new("resource://a", "https://u:p4ss@a.test"),
            ResourceBinding::new("resource://b", "/rel"),
        ];
        built.scopes.insert("resource://a".into(), vec!["a b".into()]);
        built.scopes.insert("resource://b".into(), vec![]);
        built.default_ttl = Some(86_401);
        assert_eq!(
            problems(built.check(false, NOW)),
            [
                "a resource has an empty identifier",
                "the binding of \"\": must have a resource_id",
                "the binding of \"resource://a\": upstream_prefix must not hold a user or password",
                "the binding of \"resource://b\": upstream_prefix must be an absolute http or \
                 https URL",
                "the scopes of \"resource://a\": a scope must not be empty, and have no spaces in it",
                "the scopes of \"resource://b\": must have at least one scope",
                &format!("{ttl} must be a whole number of seconds from 1 to 86400"),
            ]
        );
    }
}

#[test]
fn scopes_and_lifetimes_of_the_environment() {
    let settings = check(
        &SECRET,
        &[
            ("CARACAL_RESOURCE_SCOPES", "resource://a=read write,resource://b=read"),
            ("CARACAL_RESOURCES", "resource://a=https://a.test"),
            ("CARACAL_APP_RESOURCES", "resource://c, resource://a"),
            ("CARACAL_DEFAULT_TTL_SECONDS", "900"),
        ],
    )
    .unwrap();
    assert_eq!(settings.scopes["resource://a"], ["read", "write"]);
    assert_eq!(settings.scopes["resource://b"], ["read"]);
    assert_eq!(settings.audiences, ["resource://c", "resource://a"]);
    assert_eq!(settings.bindings.len(), 1);
    assert_eq!(settings.default_ttl, Some(900));
    let bad = [("CARACAL_RESOURCE_SCOPES", "x"), ("CARACAL_DEFAULT_TTL_SECONDS", "15m")];
    assert_eq!(
        problems(check(&SECRET, &bad)),
        [
            "CARACAL_DEFAULT_TTL_SECONDS must be a whole number of seconds from 1 to 86400",
            "CARACAL_RESOURCE_SCOPES entry 1: must be resource_id=scope scope",
        ]
    );
}

#[test]
fn what_is_not_read() {
    let legacy = [
        ("CARACAL_ZONE_URL", "not a URL"),
        ("CARACAL_RUN_CREDENTIALS", "not JSON"),
        ("CARACAL_RUN_CREDENTIALS_FILE", "/none"),
        ("CARACAL_CONFIG", "/none"),
        ("NODE_ENV", "production"),
    ];
    let settings = check(&SECRET, &legacy).unwrap();
    assert_eq!(settings.sts_url.as_deref(), Some("http://localhost:8080"));
    assert!(settings.audiences.is_empty() && !settings.production);
    // The secret of an application in the folder of the configuration.
    let folder = Folder::new();
    folder.file("runtime/zone-1/app-1/client-secret", "s3cr3t", 0o600);
    let home = folder.path("").display().to_string();
    assert_eq!(problems(check(&SECRET[..2], &[("CARACAL_CONFIG_HOME", &home)])).len(), 1);
}
