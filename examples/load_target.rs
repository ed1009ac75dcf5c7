//! The same handler bare and protected, on two ports of loopback, for `benches/load.sh`.
//!
//! Prints `BARE=..`, `PROTECTED=..` and `TOKEN=..` as shell lines, and serves until it is ended.

use std::{error::Error, io::Write as _};

use axum::{Router, routing::get};
use caracal_axum::{CaracalLayer, testing::Issuer};
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
    let verifier = issuer.verifier(AUDIENCE)?;
    verifier.warm_up().await?;
    let mandate = issuer
        .mandate(AUDIENCE)
        .scopes(["tickets:read"])
        .session("session-7")
        .delegated_over([("root", "s-1", "edge-1"), ("middle", "s-2", "edge-2")]);
    println!("BARE={}", serve(router()).await?);
    let protected = router().layer(CaracalLayer::enforce(verifier));
    println!("PROTECTED={}", serve(protected).await?);
    println!("TOKEN={}", mandate.sign());
    std::io::stdout().flush()?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
