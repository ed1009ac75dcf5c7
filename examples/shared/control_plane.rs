//! The Caracal that an example works against: one in this process, or that of the environment.

use std::{env, error::Error};

use axum::{Router, http::Uri};
use caracal_axum::{
    Caracal,
    embedded::{Application, EmbeddedCaracal, Grant, Resource, World, Zone},
};
use tokio::net::TcpListener;

pub(crate) const RESOURCE: &str = "resource://tickets";
pub(crate) const SCOPES: [&str; 2] = ["tickets:read", "tickets:write"];

/// A client, and the Caracal it works against where that is one of the example's own: not with
/// `--external`, when it is the one that the `CARACAL_*` variables name.
pub(crate) async fn client() -> Result<(Option<EmbeddedCaracal>, Caracal), Box<dyn Error>> {
    if is_external() {
        return Ok((None, Caracal::new()?));
    }
    let application = "helpdesk";
    // A role is what one of a session's labels names; here it is the application's id.
    let grant = Grant::new(application, RESOURCE).role(application).scopes(SCOPES);
    let zone = Zone::new("zone-1")
        .application(Application::new(application).client_secret("a secret for development"))
        .resource(Resource::new(RESOURCE).scopes(SCOPES).upstream(upstream().await?))
        .grant(grant);
    let embedded = EmbeddedCaracal::builder().world(World::new().zone(zone)).start().await?;
    let client = embedded.client(application)?;
    Ok((Some(embedded), client))
}

/// A ticket system behind the Gateway.
async fn upstream() -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let tickets = Router::new().fallback(|uri: Uri| async move { format!("tickets at {uri}") });
    tokio::spawn(async move { axum::serve(listener, tickets).await });
    Ok(url)
}

pub(crate) fn is_external() -> bool {
    env::args().any(|argument| argument == "--external")
}
