//! Headers are believed, proven or refused.

use caracal_axum::{
    Caracal, CaracalContext, Denial, DenialCode, MAX_HOP, Proof,
    embedded::{EmbeddedCaracal, Endpoint},
    verifier_fn,
};
use http::HeaderMap;

use super::{TRACE, said, text, without};
use crate::support::{
    agent::TICKETS,
    at_work::{refused_unsent, sample, sent},
};

fn production(caracal: &EmbeddedCaracal) -> Caracal {
    // The addresses are of loopback, which production allows; it wants one of a Gateway too.
    let builder = caracal.client_builder("app-1").gateway_url(caracal.sts_url());
    builder.production(true).build().unwrap()
}

/// What stays of an envelope whatever is bound.
fn assert_carried(context: &CaracalContext) {
    assert_eq!(context.trace_id().map(|id| id.to_string()).as_deref(), Some(TRACE));
    assert_eq!(context.trace_flags().map(|flags| flags.to_string()).as_deref(), Some("00"));
    assert_eq!(context.trace_state(), Some("vendor=value"));
    assert_eq!(context.baggage().get("tenant").map(String::as_str), Some("t1"));
    assert_eq!(context.baggage().len(), 1);
}

fn mandate(caracal: &EmbeddedCaracal) -> HeaderMap {
    let mandate = caracal.mandate(TICKETS).application("app-9").session("proven-session");
    let mut headers = said();
    headers.insert("authorization", format!("Bearer {}", mandate.sign()).parse().unwrap());
    headers
}

#[tokio::test]
async fn a_closed_client_binds_nothing() {
    let (caracal, client) = sample().await;
    client.close().await;
    for allow in [false, true] {
        for received in [said(), HeaderMap::new()] {
            let binding = client.bind_from_headers(&received);
            let binding = if allow { binding.allow_root() } else { binding };
            let error = refused_unsent(&caracal, async { binding.await }).await;
            assert_eq!(error.status(), None);
        }
    }
    refused_unsent(&caracal, async { client.headers().allow_root().await }).await;
}

#[tokio::test]
async fn to_prove_and_to_believe_are_not_for_one_request() {
    let (caracal, client) = sample().await;
    let verifier = caracal.verifier(TICKETS).unwrap();
    for received in [said(), HeaderMap::new(), mandate(&caracal)] {
        let binding = client.bind_from_headers(&received).allow_root();
        let binding = binding.trusted_propagation().verifier(verifier.clone());
        refused_unsent(&caracal, async { binding.await }).await;
    }
}

#[tokio::test]
async fn in_production_headers_are_not_believed_unless_something_else_is() {
    let (caracal, _) = sample().await;
    let client = production(&caracal);
    let binding = client.bind_from_headers(&said());
    let error = refused_unsent(&caracal, async { binding.await }).await;
    let told = error.to_string();
    assert!(told.contains("verifier") && told.contains("trusted_propagation"), "{told}");
    let binding = client.bind_from_headers(&said()).allow_root();
    refused_unsent(&caracal, async { binding.await }).await;

    let context = client.bind_from_headers(&said()).trusted_propagation().await.unwrap();
    assert_eq!(context.agent_session_id(), Some("claimed-session"));
    let binding = client.bind_from_headers(&mandate(&caracal));
    let context = binding.verifier(caracal.verifier(TICKETS).unwrap()).await.unwrap();
    assert!(context.is_proven());
    // The application itself needs neither.
    let none = without(said(), "authorization");
    let context = client.bind_from_headers(&none).allow_root().await.unwrap();
    assert!(context.is_own() && context.agent_session_id().is_none());
}

#[tokio::test]
async fn without_a_bearer_it_is_refused_or_the_application_itself() {
    let (caracal, client) = sample().await;
    let never = verifier_fn(|_| async { panic!("it is not asked: nothing is there to prove") });
    for authorization in [None, Some("Basic abc"), Some("Bearer"), Some("")] {
        let mut received = without(said(), "authorization");
        if let Some(value) = authorization {
            received.insert("authorization", value.parse().unwrap());
        }
        let binding = client.bind_from_headers(&received);
        refused_unsent(&caracal, async { binding.await }).await;
    }
    let none = without(said(), "authorization");
    let error = client.bind_from_headers(&none).await.unwrap_err();
    assert_eq!(error.code(), "missing_token");
    let binding = client.bind_from_headers(&none).verifier(caracal.verifier(TICKETS).unwrap());
    assert_eq!(binding.await.unwrap_err().code(), "missing_token");

    let believed = client.bind_from_headers(&none).allow_root();
    let proven = client.bind_from_headers(&none).allow_root().verifier(never);
    for binding in [believed, proven] {
        let context = binding.await.unwrap();
        assert!(context.is_own() && !context.is_proven());
        assert_eq!((context.zone_id(), context.application_id()), ("zone-1", "app-1"));
        assert_eq!((context.agent_session_id(), context.delegation_edge_id()), (None, None));
        assert_eq!((context.parent_edge_id(), context.authority_record_id()), (None, None));
        assert_eq!(context.hop(), 0);
        assert_carried(&context);
        let out = client.headers().context(context).await.unwrap();
        assert_eq!(text(&out, "baggage"), Some("tenant=t1"), "nothing of the caller's ids");
    }
}

#[tokio::test]
async fn a_bearer_that_is_wrong_is_never_made_the_application_itself() {
    let (caracal, client) = sample().await;
    let verifier = caracal.verifier(TICKETS).unwrap();
    for broken in ["Bearer nonsense", "bearer a.b.c"] {
        let mut received = said();
        received.insert("authorization", broken.parse().unwrap());
        let binding = client.bind_from_headers(&received).allow_root().verifier(verifier.clone());
        let error = binding.await.unwrap_err();
        assert_eq!(error.code(), "invalid_token", "{broken}: {error}");
    }
    assert!(sent(&caracal, Endpoint::Token).is_empty(), "no token was fetched for it");
}

#[tokio::test]
async fn two_bearers_are_none() {
    let (caracal, client) = sample().await;
    let mut received = said();
    received.append("authorization", "Bearer another".parse().unwrap());
    let binding = client.bind_from_headers(&received).allow_root();
    refused_unsent(&caracal, async { binding.await }).await;
}

#[tokio::test]
async fn the_refusal_of_a_verifier_is_the_error() {
    let (_caracal, client) = sample().await;
    let refusing = verifier_fn(|_| async { Err(Denial::delegation_stale()) });
    let binding = client.bind_from_headers(&said()).verifier(refusing);
    let error = binding.await.unwrap_err();
    assert_eq!(error.code(), DenialCode::DelegationStale.as_str());
}

#[tokio::test]
async fn what_is_proven_replaces_all_that_is_claimed_with_absence_too() {
    let (caracal, client) = sample().await;
    let binding = client.bind_from_headers(&mandate(&caracal));
    let context = binding.verifier(caracal.verifier(TICKETS).unwrap()).await.unwrap();
    assert!(context.is_proven() && !context.is_own());
    assert_eq!((context.zone_id(), context.application_id()), ("zone-1", "app-9"));
    assert_eq!(context.agent_session_id(), Some("proven-session"));
    assert_eq!((context.delegation_edge_id(), context.parent_edge_id()), (None, None));
    assert_ne!(context.authority_record_id(), Some("claimed-record"));
    assert_eq!(context.hop(), 0);
    assert_carried(&context);
}

#[tokio::test]
async fn what_is_proven_is_validated() {
    let (_caracal, client) = sample().await;
    let proofs: [(&str, &str, u32, bool); 5] = [
        ("zone-1", "app-9", 0, true),
        ("zone-1", "app-9", MAX_HOP, true),
        ("zone-1", "app-9", MAX_HOP + 1, false),
        ("", "app-9", 0, false),
        ("zone-1", "", 0, false),
    ];
    for (zone, application, hop, good) in proofs {
        let proof = Proof::builder(zone, application, u64::MAX).hop(hop).build();
        let verifier = verifier_fn(move |_| {
            let proof = proof.clone();
            async move { Ok(proof) }
        });
        let bound = client.bind_from_headers(&said()).verifier(verifier).await;
        assert_eq!(bound.is_ok(), good, "{zone} {application} {hop}");
    }
}

#[tokio::test]
async fn elsewhere_the_headers_are_believed_in_the_client_s_own_zone_and_name() {
    let (caracal, client) = sample().await;
    let binding = client.bind_from_headers(&said());
    let context = binding.await.unwrap();
    assert!(!context.is_proven() && !context.is_own());
    assert_eq!((context.zone_id(), context.application_id()), ("zone-1", "app-1"));
    assert_eq!(context.agent_session_id(), Some("claimed-session"));
    assert_eq!(context.delegation_edge_id(), Some("claimed-edge"));
    assert_eq!(context.parent_edge_id(), Some("claimed-parent"));
    assert_eq!(context.authority_record_id(), Some("claimed-record"));
    assert_eq!(context.hop(), 4);
    assert_carried(&context);
    assert!(caracal.requests().is_empty());
}
