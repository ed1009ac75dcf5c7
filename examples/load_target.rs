//! The same handler bare and protected, on two ports of loopback, for `benches/load.sh`.
//!
//! Prints `BARE=..`, `PROTECTED=..` and `TOKEN=..` as shell lines, and serves until it is ended.

#[path = "quickstart/issuer.rs"]
#[allow(dead_code, reason = "the story needs more of it")]
mod issuer;

use std::{error::Error, io::Write as _};

use axum::{Router, routing::get};
use caracal_axum::{CaracalLayer, MandateVerifier, MemoryRevocations};
use issuer::{Issuer, ZONE};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const AUDIENCE: &str = "resource://tickets";

fn router() -> Router {
    Router::new().route("/", get(|| async { "ok" }))
}

async fn serve(app: Router) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(url)
}

// One core for the server: the other is the client's.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = Issuer::start().await?;
    let verifier = MandateVerifier::builder()
        .issuer(issuer.url())
        .audience(AUDIENCE)
        .zone(ZONE)
        .revocations(MemoryRevocations::default())
        .build()?;
    verifier.warm_up().await?;
    let mut claims = issuer.claims(AUDIENCE);
    let delegated = json!({
        "delegation_edge_id": "edge-2", "hop_count": 2, "delegation_graph_epoch": 7,
        "delegation_path": ["edge-1", "edge-2"],
        "delegation_chain": [
            {"application_id": "root", "agent_session_id": "s-1", "delegation_edge_id": "edge-1"},
            {"application_id": "middle", "agent_session_id": "s-2", "delegation_edge_id": "edge-2"},
            {"application_id": "planner", "agent_session_id": "session-7"},
        ],
    });
    if let (Value::Object(claims), Value::Object(delegated)) = (&mut claims, delegated) {
        claims.extend(delegated);
    }
    println!("BARE={}", serve(router()).await?);
    let protected = router().layer(CaracalLayer::enforce(verifier));
    println!("PROTECTED={}", serve(protected).await?);
    println!("TOKEN={}", issuer.sign(&claims));
    std::io::stdout().flush()?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
