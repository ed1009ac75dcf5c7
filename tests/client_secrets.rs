//! What the client is trusted with appears nowhere but where it is sent to.
#![cfg(feature = "embedded")]

mod support;

use std::{
    fmt::Write as _,
    io,
    sync::{Arc, Mutex},
};

use caracal_axum::{
    CaracalBuilder, CaracalError, Credentials, Grant, Health, Renewal,
    embedded::{Application, EmbeddedCaracal, Endpoint, Fault, Resource, World, Zone},
};
use http::{HeaderMap, StatusCode, header};
use support::leaks;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

const SECRET: &str = "a client secret / with + and ö, long enough to be found";
const TICKETS: &str = "resource://tickets";

/// Everything that anybody logs in this process: a test binary of its own, for tasks log as well.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn bearer(headers: &HeaderMap) -> String {
    let value = &headers[header::AUTHORIZATION];
    assert!(value.is_sensitive());
    value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

/// The secret as it is, and as the form writes it.
fn spellings(secret: &str) -> [String; 2] {
    let encoded = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    [secret.to_owned(), encoded]
}

#[tokio::test]
async fn no_secret_and_no_token_in_debug_display_events_or_any_log() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace"))
        .with_writer(log.clone())
        .init();
    let role = caracal_axum::embedded::Grant::new("app-1", TICKETS).role("reader");
    let zone = Zone::new("zone-1")
        .application(Application::new("app-1").client_secret(SECRET))
        .resource(Resource::new(TICKETS).scopes(["tickets:read"]))
        .grant(role.scopes(["tickets:read"]));
    let embedded = EmbeddedCaracal::builder().world(World::new().zone(zone)).start().await.unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&seen);
    let see = {
        let seen = Arc::clone(&seen);
        move |what: &dyn std::fmt::Debug| {
            writeln!(seen.lock().unwrap(), "{what:?} {what:#?}").unwrap();
        }
    };
    let see_error = {
        let seen = Arc::clone(&seen);
        move |error: &CaracalError| {
            let mut text = seen.lock().unwrap();
            writeln!(text, "{error} {error:?} {error:#?}").unwrap();
            let mut source = std::error::Error::source(error);
            while let Some(error) = source {
                writeln!(text, "{error} {error:?}").unwrap();
                source = error.source();
            }
        }
    };
    let builder = embedded.client_builder("app-1");
    see(&builder);
    let caracal = builder
        .on_event(move |event| writeln!(told.lock().unwrap(), "{event:?} {event:#?}").unwrap())
        .build()
        .unwrap();
    see(&caracal);
    let mut tokens = Vec::new();

    // All goes well.
    let spawn = caracal.spawn().labels(["reader"]);
    see(&spawn);
    let parent = spawn.start().await.unwrap();
    see(&parent);
    let headers = caracal.headers().context(parent.context().clone());
    see(&headers);
    let headers = headers.await.unwrap();
    see(&headers);
    let lifecycle = bearer(&headers);
    tokens.push(lifecycle.clone());
    let narrow = Grant::narrow(["tickets:read"]).resource(TICKETS);
    let child = caracal.spawn().labels(["reader"]).grant(narrow);
    let child = child.parent(parent.context().clone()).start().await.unwrap();
    let mint = caracal.mint_mandate(TICKETS, ["tickets:read"]).context(child.context().clone());
    see(&mint);
    let mandate = mint.await.unwrap();
    see(&mandate);
    tokens.push(mandate.token().expose().to_owned());
    let service = caracal.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    see(&service);
    service.heartbeat(Health::Healthy).await.unwrap();
    let bound = caracal.bind_from_headers(&headers);
    see(&bound);
    see(&bound.await.unwrap());

    // Services and whatever stands before them answer with what they were sent.
    let echoes = |secret: &str| {
        spellings(secret)
            .into_iter()
            .flat_map(|secret| {
                let long = format!("{}{secret}", "x".repeat(2040));
                [
                    serde_json::json!({ "error": secret, "error_description": secret }).to_string(),
                    serde_json::json!({ "error": "e", "detail": format!("you sent {secret}!") })
                        .to_string(),
                    format!("<p>{secret}</p>"),
                    long,
                ]
            })
            .collect::<Vec<_>>()
    };
    for body in echoes(SECRET) {
        embedded.inject(Endpoint::Token, Fault::answer(StatusCode::BAD_REQUEST, body).times(1));
        let refused = caracal.mint_mandate(TICKETS, ["tickets:read"]);
        see_error(&refused.context(child.context().clone()).await.unwrap_err());
    }
    for body in echoes(&lifecycle) {
        let fault = Fault::answer(StatusCode::CONFLICT, body);
        embedded.inject(Endpoint::Heartbeat, fault.times(1));
        see_error(&service.heartbeat(Health::Healthy).await.unwrap_err());
    }
    // And one that cannot be reached, or wants to be asked elsewhere.
    embedded.inject(Endpoint::Heartbeat, Fault::drop_connection().times(1));
    see_error(&service.heartbeat(Health::Healthy).await.unwrap_err());
    let moved = Fault::answer(StatusCode::TEMPORARY_REDIRECT, "");
    let moved = moved.header("location", "http://127.0.0.1:9/elsewhere");
    embedded.inject(Endpoint::Heartbeat, moved.times(1));
    see_error(&service.heartbeat(Health::Healthy).await.unwrap_err());
    child.end().await.unwrap();
    parent.end().await.unwrap();
    service.close().await.unwrap();

    // Credentials that change, and are refused.
    let wrong = "a wrong client secret, long enough as well";
    let credentials = Credentials::new("zone-1", "app-1", wrong);
    see(&credentials);
    let stranger = CaracalBuilder::default()
        .sts_url(embedded.sts_url())
        .coordinator_url(embedded.coordinator_url())
        .audience(TICKETS)
        .credentials(move || {
            let credentials = credentials.clone();
            async { Ok::<_, io::Error>(Some(credentials)) }
        })
        .build()
        .unwrap();
    see(&stranger);
    see_error(&stranger.spawn().start().await.unwrap_err());
    // A configuration with everything wrong.
    let bad = CaracalBuilder::default()
        .sts_url(format!("http://user:{SECRET}@sts"))
        .client_secret(SECRET)
        .subject_token(lifecycle.clone());
    see(&bad);
    see_error(&bad.build().unwrap_err());
    caracal.close().await;

    let seen = seen.lock().unwrap().clone();
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(seen.contains("[redacted]") && logged.contains("caracal"), "{logged}");
    for crates in ["hyper", "reqwest"] {
        assert!(logged.contains(crates), "{crates} logged nothing, so that nothing is shown");
    }
    for secret in spellings(SECRET).iter().chain(&spellings(wrong)).chain(&tokens) {
        for (what, text) in [("seen", &seen), ("logged", &logged)] {
            let leaked = text.lines().find(|line| leaks(line, secret));
            assert_eq!(leaked, None, "{secret} was {what}");
        }
    }
}
