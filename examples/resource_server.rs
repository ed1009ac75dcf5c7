//! A guarded service that is configured by its environment alone.
//!
//! | variable | meaning |
//! |---|---|
//! | `CARACAL_STS_URL` | the issuer |
//! | `CARACAL_ZONE_ID` | the zone |
//! | `CARACAL_AUDIENCE` | this service, as mandates name it |
//! | `CARACAL_REQUIRED_SCOPES` | scopes that every mandate must hold, separated by spaces or commas; optional |
//! | `CARACAL_REQUIRED_TARGETS` | resources that every mandate must be for; optional |
//! | `BIND` | where to listen; `127.0.0.1:3000` unless set |
//!
//! `GET /whoami` answers the identity bound to the request. `GET /healthz` and `GET /readyz` are
//! exempt; the latter answers 503 while the zone's keys cannot be had, and says why.

use std::{env, error::Error, process::ExitCode};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use caracal_axum::{CaracalContext, CaracalLayer, KeyStatus, MandateVerifier, MemoryRevocations};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

struct Settings {
    issuer: String,
    zone: String,
    audience: String,
    scopes: Vec<String>,
    targets: Vec<String>,
    bind: String,
}

impl Settings {
    /// Reads the environment; the error names everything that is missing.
    fn from_env() -> Result<Self, String> {
        let mut missing = Vec::new();
        let mut required = |name: &'static str| {
            env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| {
                missing.push(name);
                String::new()
            })
        };
        let (issuer, zone, audience) = (
            required("CARACAL_STS_URL"),
            required("CARACAL_ZONE_ID"),
            required("CARACAL_AUDIENCE"),
        );
        if !missing.is_empty() {
            return Err(format!("not set: {}", missing.join(", ")));
        }
        let list = |name| {
            let text = env::var(name).unwrap_or_default();
            text.split([' ', ',']).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
        };
        Ok(Self {
            issuer,
            zone,
            audience,
            scopes: list("CARACAL_REQUIRED_SCOPES"),
            targets: list("CARACAL_REQUIRED_TARGETS"),
            bind: env::var("BIND").unwrap_or_else(|_| "127.0.0.1:3000".into()),
        })
    }
}

async fn whoami(context: CaracalContext) -> Json<CaracalContext> {
    Json(context)
}

async fn readyz(State(verifier): State<MandateVerifier>) -> (StatusCode, Json<Value>) {
    let zones = verifier.status();
    let ready = zones.iter().all(KeyStatus::is_ready);
    let zones: Vec<_> = zones.iter().map(describe).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready, "zones": zones})))
}

fn describe(status: &KeyStatus) -> Value {
    json!({
        "zone_id": status.zone,
        "key_ids": status.key_ids,
        "age_seconds": status.age.map(|age| age.as_secs()),
        "cool_down_seconds": status.cool_down.map(|left| left.as_secs()),
        "failures": status.failures,
        "last_error": status.last_error.as_ref().map(ToString::to_string),
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).init();

    let settings = Settings::from_env()?;
    let verifier = MandateVerifier::builder()
        .issuer(settings.issuer)
        .zone(settings.zone)
        .audience(settings.audience)
        .required_scopes(settings.scopes)
        .required_targets(settings.targets)
        // Nothing feeds this store here: keep a clone, and call `revoke` when authority ends.
        .revocations(MemoryRevocations::default())
        .build()?;
    if let Err(error) = verifier.warm_up().await {
        tracing::warn!(%error, "no keys yet: requests are refused with 503 until there are");
    }
    let app = Router::new()
        .route("/whoami", get(whoami))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .with_state(verifier.clone())
        .layer(CaracalLayer::enforce(verifier).exempt("/healthz").exempt("/readyz"));
    let listener = TcpListener::bind(&settings.bind).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            // Without a signal handler the process is ended the hard way, as it would be anyway.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}
