//! The first steps with Caracal: one agent session, and one call to a resource behind the Gateway.
//!
//! ```text
//! cargo run --example tutorial --features embedded                 # against a Caracal of its own
//! cargo run --example tutorial --features embedded -- --external   # against that of CARACAL_*
//! ```
//!
//! With `--external`, `CARACAL_RESOURCE_ID` and `CARACAL_RESOURCE_PATH` say what is called, and
//! `CARACAL_RESOURCE_SCOPES="resource://billing-api=charge:create"` with which scopes. A role that is
//! named like the application must be granted them.

use std::{env, error::Error, process::ExitCode};

use axum::{Json, Router, routing::post};
use caracal_axum::{
    Caracal,
    embedded::{Application, EmbeddedCaracal, Grant, Resource, World, Zone},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What is called, and the Caracal it is called through where that is one of the example's own.
struct Setting {
    caracal: Caracal,
    resource: String,
    path: String,
    _embedded: Option<EmbeddedCaracal>,
}

impl Setting {
    fn external() -> Result<Self, Box<dyn Error>> {
        let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
        let caracal = Caracal::new()?;
        let resource = variable("CARACAL_RESOURCE_ID")?;
        let path = variable("CARACAL_RESOURCE_PATH")?;
        Ok(Self { caracal, resource, path, _embedded: None })
    }

    /// A billing service, and a Caracal whose Gateway guards it.
    async fn own() -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let upstream = format!("http://{}", listener.local_addr()?);
        let billing = Router::new().route("/charge", post(charge));
        tokio::spawn(async move { axum::serve(listener, billing).await });

        let (application, resource) = ("shop", "resource://billing-api");
        let grant = Grant::new(application, resource).role(application).scopes(["charge:create"]);
        let zone = Zone::new("zone-1")
            .application(Application::new(application))
            .resource(Resource::new(resource).scopes(["charge:create"]).upstream(upstream))
            .grant(grant);
        let embedded = EmbeddedCaracal::builder().world(World::new().zone(zone)).start().await?;
        // What CARACAL_RESOURCES and CARACAL_RESOURCE_SCOPES say elsewhere.
        let caracal = embedded
            .client_builder(application)
            .resource(resource, "https://billing.internal", ["charge:create"])
            .build()?;
        let (resource, path) = (resource.to_owned(), "/charge".to_owned());
        Ok(Self { caracal, resource, path, _embedded: Some(embedded) })
    }
}

async fn charge(Json(charge): Json<Value>) -> Json<Value> {
    Json(json!({ "charged": charge["amount"] }))
}

async fn run() -> Result<(), Box<dyn Error>> {
    let external = env::args().any(|argument| argument == "--external");
    let setting = if external { Setting::external()? } else { Setting::own().await? };
    let Setting { caracal, resource, path, .. } = &setting;

    caracal
        .spawn()
        .try_run(async |_session| {
            let request = caracal.gateway_request(resource, path)?;
            let response = caracal
                .transport()
                .post(request.url)
                .headers(&request.headers)
                .json(&json!({ "amount": 1200 }))
                .send()
                .await?;
            let status = response.status();
            let id = response.headers().get("x-request-id").cloned();
            println!("{}", response.text().await?);
            println!("{status}, in the audit trail as {id:?}");
            if status.is_success() { Ok(()) } else { Err(format!("answered {status}").into()) }
        })
        .await
        .map_err(|error: Box<dyn Error>| error)?;
    caracal.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tutorial: {error}");
            ExitCode::FAILURE
        }
    }
}
