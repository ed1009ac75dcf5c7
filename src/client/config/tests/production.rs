//! URLs, and what production asks of them.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, Once},
};

use super::*;

#[test]
fn defaults_are_not_for_production() {
    let settings = check(&SECRET, &[]).unwrap();
    assert_eq!(settings.coordinator_url, "http://localhost:4000");
    assert_eq!(settings.sts_url.as_deref(), Some("http://localhost:8080"));
    assert_eq!(settings.gateway_url.as_deref(), Some("http://localhost:8081"));
    assert!(!settings.production);
    assert_eq!(settings.source, ConfigSource::Environment);
    for not_quite in ["PRODUCTION", "prod", " production"] {
        assert!(check(&SECRET, &[("CARACAL_ENV", not_quite)]).is_ok());
    }
    let missing = problems(check(&TOKEN, &[("CARACAL_ENV", "production")]));
    assert_eq!(missing.len(), 3, "{missing:?}");
}

#[test]
fn plain_http_is_not_for_production() {
    let urls = [
        ("CARACAL_STS_URL", "http://sts.test"),
        ("CARACAL_COORDINATOR_URL", "http://co.test"),
        ("CARACAL_GATEWAY_URL", "http://gw.test"),
    ];
    assert!(check(&SECRET, &urls).is_ok());
    let production = [&urls[..], &[("CARACAL_ENV", "production")]].concat();
    let refused = problems(check(&SECRET, &production));
    assert_eq!(refused.len(), 3, "{refused:?}");
    for (problem, name) in refused.iter().zip(["COORDINATOR", "STS", "GATEWAY"]) {
        assert!(problem.starts_with(&format!("CARACAL_{name}_URL must be https")), "{problem}");
    }
    // The STS is not asked for anything with a token.
    let refused = problems(check(&TOKEN, &production));
    assert_eq!(refused.len(), 2, "{refused:?}");
    for (value, allowed) in [("true", true), ("1", false), ("TRUE", false)] {
        let insist = [&production[..], &[("CARACAL_ALLOW_INSECURE_CONFIG_URLS", value)]].concat();
        assert_eq!(check(&SECRET, &insist).is_ok(), allowed, "{value}");
    }
    let mut built = builder();
    built.gateway_url = Some("http://gw.test".into());
    built.production = true;
    assert!(problems(built.clone().check(false, NOW))[0].starts_with("gateway_url must be https"));
    built.allow_insecure = true;
    assert!(built.check(false, NOW).unwrap().production);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn plain_http_in_production_is_told_once() {
    let logged = |sts_url: &str, production: bool| {
        let mut configuration = builder();
        configuration.sts_url = Some(sts_url.into());
        (configuration.production, configuration.allow_insecure) = (production, true);
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || {
            let said = Once::new();
            for _ in 0..2 {
                configuration.clone().check_and_warn(false, NOW, &said).unwrap();
            }
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        log.matches("WARN caracal: CARACAL_ALLOW_INSECURE_CONFIG_URLS ").count()
    };
    assert_eq!(logged("http://sts.test", true), 1);
    // Nothing is overridden.
    assert_eq!(logged("http://sts.test", false), 0);
    assert_eq!(logged("https://sts.test", true), 0);
    assert_eq!(logged("http://localhost:8080", true), 0);
}

#[test]
fn urls_are_named_and_not_printed() {
    let urls = [
        ("CARACAL_STS_URL", "https://u:p4ss@sts.test"),
        ("CARACAL_COORDINATOR_URL", "p4ss.test"),
        ("CARACAL_GATEWAY_URL", "https://gw.test?p4ss"),
        ("CARACAL_RESOURCES", "a=https://u:p4ss@a.test"),
    ];
    assert_eq!(
        problems(check(&SECRET, &urls)),
        [
            "CARACAL_RESOURCES entry 1: upstream_prefix must not hold a user or password",
            "CARACAL_COORDINATOR_URL must be an absolute http or https URL",
            "CARACAL_STS_URL must not hold a user or password",
            "CARACAL_GATEWAY_URL must not have a query or a fragment",
        ]
    );
}
