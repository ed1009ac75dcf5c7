//! Who may not call, and what he is told; whose bearer goes on.

use caracal_axum::{Caracal, CaracalContext, CaracalError, Grant, embedded::Endpoint};
use http::HeaderMap;
use serde_json::json;

use crate::{
    CONFIGURED, OPEN, Outbound, done, start,
    support::{
        agent::TICKETS,
        at_work::{refused_unsent, sent},
        outbound::bearer,
    },
};

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let baggage =
        "caracal.agent_session=claimed,caracal.delegation_edge=claimed-edge,caracal.hop=1";
    headers.insert("baggage", baggage.parse().unwrap());
    headers
}

async fn refused(out: &Outbound, context: &CaracalContext) -> CaracalError {
    let call = out.client.transport().context(context.clone()).get(OPEN).send();
    refused_unsent(&out.caracal, call).await
}

#[tokio::test]
async fn nobody_calls_as_nobody() {
    let out = start().await;
    let error = refused_unsent(&out.caracal, out.client.transport().get(OPEN).send()).await;
    assert!(error.to_string().contains("allow_root"), "{error}");
    let error = refused_unsent(&out.caracal, out.client.fetch(TICKETS, "/x").send()).await;
    assert!(error.to_string().contains("allow_root"), "{error}");
}

#[tokio::test]
async fn sessions_without_authority_are_told_what_to_add() {
    let out = start().await;
    let root = out.client.spawn().start().await.unwrap();
    let none = out.client.spawn().parent(root.context().clone()).grant(Grant::none());
    let none = none.start().await.unwrap();
    // A service that another client has started, and left.
    let starter = out.caracal.client("app-1").unwrap();
    let service = starter.spawn_service().start().await.unwrap().detach();
    let attached = out.client.attach(service.agent_session_id()).start().await.unwrap();
    let proven = out
        .caracal
        .mandate(TICKETS)
        .application("app-1")
        .session("theirs")
        .scopes(["tickets:read"])
        .sign();
    let binding = out.client.bind_from_headers(&headers(&proven));
    let inbound = binding.verifier(out.caracal.verifier(TICKETS).unwrap()).await.unwrap();
    assert!(inbound.is_proven());
    let all = [("none", none.context()), ("attached", attached.context()), ("inbound", &inbound)];
    for (what, context) in all {
        let error = refused(&out, context).await;
        assert_eq!(error.code(), "delegation_required", "{what}");
        let told = error.to_string();
        assert!(told.contains("Grant::narrow") && told.contains("accept"), "{what}: {told}");
    }
}

#[tokio::test]
async fn an_unproven_context_lends_its_bearer_and_nothing_else() {
    let out = start().await;
    let bound = async |token: &str| {
        out.client.bind_from_headers(&headers(token)).trusted_propagation().await.unwrap()
    };
    let of = |class: &str| {
        let mandate = out.caracal.mandate(TICKETS).application("app-1").session("theirs");
        mandate.claim("use", class).sign()
    };
    for class in ["session", "resource"] {
        let error = refused(&out, &bound(&of(class)).await).await;
        assert_eq!(error.code(), "gateway_mandate_required", "{class}");
    }
    for token in [of("gateway"), "opaque".to_owned()] {
        let before = out.sent(Endpoint::Token).len();
        let context = bound(&token).await;
        let answer = out.client.transport().context(context.clone()).get(OPEN).send().await;
        // What the Gateway makes of it is its own affair.
        answer.unwrap();
        assert_eq!(bearer(&sent(&out.caracal, Endpoint::Gateway).pop().unwrap()), token);
        assert_eq!(out.sent(Endpoint::Token).len(), before, "nothing was minted for it");
        // What its caller claims is no reason to mint.
        let scoped = out.client.transport().scopes(["tickets:read"]).context(context);
        let error = refused_unsent(&out.caracal, scoped.get(OPEN).send()).await;
        assert_eq!(error.code(), "unproven_context");
    }
}

#[tokio::test]
async fn without_a_gateway_nothing_leaves() {
    let out = start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let environment = out.caracal.environment("app-1").unwrap();
    let secret = environment.iter().find(|(name, _)| *name == "CARACAL_APP_CLIENT_SECRET");
    let client = Caracal::builder()
        .zone("zone-1")
        .application("app-1")
        .client_secret(&secret.unwrap().1)
        .sts_url(out.caracal.sts_url())
        .coordinator_url(out.caracal.coordinator_url())
        .resource(TICKETS, &upstream, CONFIGURED)
        .clock(out.caracal.clock())
        .build()
        .unwrap();
    assert_eq!(client.gateway_url(), None);
    let session = client.spawn().start().await.unwrap();
    let target = format!("{upstream}/x");
    let scoped = client.transport().scopes(["tickets:read"]);
    let application = client.application_transport(TICKETS, ["tickets:read"]);
    for request in [
        client.transport().get(&target),
        scoped.get(&target),
        client.transport().allow_root().get(&target),
        client.fetch(TICKETS, "/x"),
        application.get(&target),
        application.fetch("/x"),
        scoped.get("http://127.0.0.1:9/x").header("x-caracal-resource", TICKETS),
        // Scopes are for a resource, whatever this is.
        scoped.get("http://127.0.0.1:9/x"),
    ] {
        let call = session.scope(request.send());
        assert_eq!(refused_unsent(&out.caracal, call).await.code(), "gateway_required");
    }
    assert_eq!(client.gateway_request(TICKETS, "/x").unwrap_err().code(), "gateway_required");
    let arrived = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(arrived.is_err(), "somebody came");
}

#[tokio::test]
async fn a_token_given_from_outside_mints_nothing() {
    let out = start().await;
    let client = Caracal::builder()
        .zone("zone-1")
        .application("app-1")
        .subject_token("opaque")
        .sts_url(out.caracal.sts_url())
        .coordinator_url(out.caracal.coordinator_url())
        .gateway_url(out.caracal.gateway_url())
        .resource(TICKETS, "https://tickets.internal/v1", CONFIGURED)
        .build()
        .unwrap();
    let application = client.application_transport(TICKETS, ["tickets:read"]);
    refused_unsent(&out.caracal, application.get(OPEN).send()).await;
    let scoped = client.transport().allow_root().scopes(["tickets:read"]);
    refused_unsent(&out.caracal, scoped.get(OPEN).send()).await;
}

#[tokio::test]
async fn a_call_after_the_close_is_refused() {
    let out = start().await;
    let transport = out.client.transport().allow_root();
    done(transport.get(OPEN).send().await);
    out.client.close().await;
    let error = refused_unsent(&out.caracal, transport.get(OPEN).send()).await;
    assert_eq!(error.code(), "client_closed");
    assert_eq!(json!(out.live().await), 0);
}
