//! The whole story in one process: an issuer, a protected service on a real port, and every way a
//! request can fare, over real HTTP.
//!
//! ```text
//! cargo run --example quickstart             # runs the story, and fails if a step differs
//! cargo run --example quickstart -- --serve  # keeps running, and prints curl lines to paste
//! ```

use std::{error::Error, process::ExitCode, time::Duration};

use axum::{
    Json, Router,
    routing::{get, post},
};
use caracal_axum::{
    CaracalContext, CaracalLayer, MandateVerifier, MemoryRevocations, Require,
    testing::{Flaw, Issuer},
};
use http::Method;
use serde_json::Value;
use tokio::net::TcpListener;

const AUDIENCE: &str = "resource://tickets";

/// A service that lets in mandates of `issuer`, whose keys it fetches as those of an STS.
async fn start_service(
    issuer: &Issuer,
    revocations: MemoryRevocations,
) -> Result<String, Box<dyn Error>> {
    let verifier = MandateVerifier::builder()
        .issuer(issuer.url())
        .audience(AUDIENCE)
        .zone(issuer.zone())
        .revocations(revocations)
        // So short only because the story does not want to wait 30 seconds for new keys.
        .key_cool_down(Duration::from_millis(1))
        .build()?;
    let app = Router::new()
        .route("/tickets", get(tickets).route_layer(Require::scopes(["tickets:read"])))
        .route("/refunds", post(tickets).route_layer(Require::scopes(["refunds:create"])))
        .route("/healthz", get(|| async { "ok" }))
        .layer(CaracalLayer::enforce(verifier).exempt("/healthz"));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(url)
}

async fn tickets(context: CaracalContext) -> Json<CaracalContext> {
    Json(context)
}

/// Tells the story: sends each request and compares, or prints the curl line that sends it.
struct Story {
    client: Option<reqwest::Client>,
    steps: usize,
    differing: usize,
}

impl Story {
    /// One request, the status it should have, and the `error` of its body, if it is refused.
    async fn step(
        &mut self,
        title: &str,
        (method, url): (Method, String),
        token: Option<&str>,
        expected: (u16, Option<&str>),
    ) -> Result<(), reqwest::Error> {
        self.steps += 1;
        let Some(client) = &self.client else {
            let credential = token.map(|token| format!(" -H 'Authorization: Bearer {token}'"));
            println!("# {title}: {}", expected.0);
            println!("curl -i -X {method}{} {url}\n", credential.unwrap_or_default());
            return Ok(());
        };
        let mut request = client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let body: Value = response.json().await?;
        let good = (status, body["error"].as_str()) == expected;
        self.differing += usize::from(!good);
        println!("{} {title}", if good { "ok  " } else { "FAIL" });
        println!("       expected {} {}", expected.0, expected.1.unwrap_or("the handler's answer"));
        println!("       got      {status} {body}");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let serve = std::env::args().any(|argument| argument == "--serve");
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut story = Story { client: Some(client).filter(|_| !serve), steps: 0, differing: 0 };

    let issuer = Issuer::start().await?;
    let revocations = MemoryRevocations::default();
    let service = start_service(&issuer, revocations.clone()).await?;
    let tickets = || (Method::GET, format!("{service}/tickets"));
    let refunds = || (Method::POST, format!("{service}/refunds"));
    let mandate = issuer.mandate(AUDIENCE).scopes(["tickets:read"]).session("session-7");

    story.step("no credential", tickets(), None, (401, Some("missing_token"))).await?;

    let good = mandate.sign();
    story.step("a good mandate", tickets(), Some(&good), (200, None)).await?;

    let refused = (403, Some("insufficient_scope"));
    story.step("a scope is missing", refunds(), Some(&good), refused).await?;

    let zone = mandate.clone().claim("zone_id", "zone-2").sign();
    let refused = (401, Some("invalid_zone"));
    story.step("a mandate of another zone", tickets(), Some(&zone), refused).await?;

    let expired = mandate.clone().broken(Flaw::Expired).sign();
    let refused = (401, Some("invalid_token"));
    story.step("an expired mandate", tickets(), Some(&expired), refused).await?;

    let forged = mandate.clone().broken(Flaw::WrongKey).sign();
    story.step("a forged mandate", tickets(), Some(&forged), refused).await?;

    let ended = mandate.clone().session("session-8").sign();
    revocations.revoke("session-8")?;
    let refused = (401, Some("session_revoked"));
    story.step("its session was revoked", tickets(), Some(&ended), refused).await?;

    issuer.rotate();
    let rotated = issuer.mandate(AUDIENCE).scopes(["tickets:read"]).sign();
    story.step("signed by a new key", tickets(), Some(&rotated), (200, None)).await?;

    let gone = Issuer::start().await?;
    let orphan = gone.mandate(AUDIENCE).scopes(["tickets:read"]).sign();
    let cold = start_service(&gone, MemoryRevocations::default()).await?;
    gone.stop().await;
    let refused = (503, Some("verification_unavailable"));
    let url = (Method::GET, format!("{cold}/tickets"));
    story.step("the issuer is gone, no key is cached", url, Some(&orphan), refused).await?;

    if serve {
        println!("# serving until Ctrl-C; the mandates are good for 15 minutes");
        tokio::signal::ctrl_c().await?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{} of {} steps as expected", story.steps - story.differing, story.steps);
    Ok(if story.differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
