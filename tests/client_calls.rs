//! Calls of resources: with which authority, how often, and what becomes of them.
#![cfg(feature = "embedded")]

#[path = "client_calls/authority.rs"]
mod authority;
#[path = "client_calls/children.rs"]
mod children;
#[path = "client_calls/mandates.rs"]
mod mandates;
#[path = "client_calls/pairs.rs"]
mod pairs;
mod support;

use std::collections::HashSet;

use axum::Router;
use caracal_axum::{
    CaracalError,
    embedded::{Application, Endpoint, Grant, Resource, World, Zone},
};
use http::StatusCode;
use reqwest::Response;
use support::{
    agent::TICKETS,
    at_work::{LEDGER, ZONE},
    outbound::{Outbound, bearer},
    serve,
};

/// Where the resources are said to be.
const OPEN: &str = "https://tickets.internal/v1/open";
const BOOKS: &str = "https://ledger.internal/books";
const CONFIGURED: [&str; 2] = ["tickets:read", "tickets:write"];

/// Two resources with this upstream. The application's own id names a role, and `reader` does.
fn world(upstream: &str) -> World {
    let mut zone = Zone::new(ZONE)
        .application(Application::new("app-1"))
        .resource(Resource::new(TICKETS).scopes(CONFIGURED).upstream(upstream))
        .resource(Resource::new(LEDGER).scopes(["ledger:read"]).upstream(upstream));
    for role in ["app-1", "reader"] {
        zone = zone
            .grant(Grant::new("app-1", TICKETS).role(role).scopes(CONFIGURED))
            .grant(Grant::new("app-1", LEDGER).role(role).scopes(["ledger:read"]));
    }
    World::new().zone(zone)
}

/// A client that has them configured.
async fn at(upstream: &str) -> Outbound {
    Outbound::with(world(upstream), |builder| {
        builder.resource(TICKETS, "https://tickets.internal/v1", CONFIGURED).resource(
            LEDGER,
            "https://ledger.internal",
            ["ledger:read"],
        )
    })
    .await
}

async fn start() -> Outbound {
    at(&serve(Router::new().fallback(async || "done")).await).await
}

fn done(answer: Result<Response, CaracalError>) {
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
}

/// How many requests of a kind were sent.
fn count(out: &Outbound, endpoints: [Endpoint; 5]) -> [usize; 5] {
    endpoints.map(|endpoint| out.sent(endpoint).len())
}

/// Exchanges, starts, delegations, calls and ends so far.
fn counts(out: &Outbound) -> [usize; 5] {
    use Endpoint::{Delegate, EndSession, Gateway, StartSession, Token};
    count(out, [Token, StartSession, Delegate, Gateway, EndSession])
}

/// All that calls were made with; each one is another.
fn mandates(out: &Outbound) -> Vec<String> {
    let all: Vec<_> = out.sent(Endpoint::Gateway).iter().map(bearer).collect();
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "a mandate was sent twice");
    all
}
