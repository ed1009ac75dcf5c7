//! Who acts: the bound identity, as headers and from headers.
#![cfg(feature = "embedded")]

#[path = "client_identity/going_on.rs"]
mod going_on;
#[path = "client_identity/inbound.rs"]
mod inbound;
#[path = "client_identity/layer.rs"]
mod layer;
mod support;

use caracal_axum::{
    Caracal, CaracalContext, CaracalError, Grant, current, embedded::Endpoint, from_headers,
};
use http::HeaderMap;
use support::{
    agent::TICKETS,
    at_work::{bearer, claims, last, neighbours, refused_unsent, sample, sent},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// What a caller says of itself, with a bearer that nobody knows.
fn said() -> HeaderMap {
    headers(&[
        ("authorization", "Bearer what-the-caller-sent"),
        ("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-00")),
        ("tracestate", "vendor=value"),
        (
            "baggage",
            "caracal.agent_session=claimed-session,caracal.delegation_edge=claimed-edge,\
             caracal.parent_edge=claimed-parent,caracal.session=claimed-record,caracal.hop=4,\
             tenant=t1",
        ),
    ])
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn without(mut headers: HeaderMap, name: &str) -> HeaderMap {
    headers.remove(name);
    headers
}

async fn unproven(client: &Caracal) -> CaracalContext {
    client.bind_from_headers(&said()).await.unwrap()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

fn name(context: Option<&CaracalContext>) -> Option<String> {
    context.and_then(CaracalContext::agent_session_id).map(str::to_owned)
}

#[tokio::test]
async fn where_nothing_is_bound_no_identity_is_made_up() {
    let (caracal, client) = sample().await;
    let error = refused_unsent(&caracal, async { client.headers().await }).await;
    let told = error.to_string();
    assert!(told.contains("allow_root") && told.contains("bind"), "{told}");
    assert_eq!(error.status(), None);
    assert!(caracal.requests().is_empty());
}

#[tokio::test]
async fn the_application_itself_on_demand_with_a_trace_and_without_ids() {
    let (caracal, client) = sample().await;
    let headers = client.headers().allow_root().await.unwrap();
    let parent = text(&headers, "traceparent").unwrap();
    assert!(caracal_axum::parse_traceparent(parent).is_some(), "{parent}");
    assert_eq!(headers.get("baggage"), None);
    let sent_token = text(&headers, "authorization").unwrap().strip_prefix("Bearer ").unwrap();
    let claims = claims(sent_token);
    assert_eq!(
        (claims["use"].as_str(), claims["client_id"].as_str()),
        (Some("session"), Some("app-1"))
    );
    assert_eq!(claims.get("agent_session_id"), None);
    let again = client.headers().allow_root().await.unwrap();
    assert_ne!(text(&again, "traceparent"), Some(parent), "a trace of its own each time");
    assert_eq!(sent(&caracal, Endpoint::Token).len(), 1);
}

#[tokio::test]
async fn a_session_of_this_process_with_its_ids_and_a_fresh_token() {
    let (caracal, client) = sample().await;
    let parent = client.spawn().labels(["reader"]).start().await.unwrap();
    let id = parent.agent_session_id();
    for allow in [false, true] {
        let making = client.headers();
        let making = if allow { making.allow_root() } else { making };
        let headers = parent.scope(async { making.await }).await.unwrap();
        let expected = format!("caracal.agent_session={id},caracal.hop=0");
        assert_eq!(text(&headers, "baggage"), Some(&*expected));
        let trace = from_headers(&headers).trace_id;
        assert_eq!(trace, parent.context().trace_id());
        assert!(trace.is_some());
    }
    let grant = Grant::narrow(["tickets:read"]).resource(TICKETS);
    let child = client.spawn().parent(parent.context().clone()).grant(grant);
    let child = child.start().await.unwrap();
    let making = || client.headers().context(child.context().clone());
    let headers = making().await.unwrap();
    let edge = child.context().delegation_edge_id().unwrap();
    let expected = format!(
        "caracal.agent_session={},caracal.delegation_edge={edge},caracal.hop=1",
        child.agent_session_id()
    );
    assert_eq!(text(&headers, "baggage"), Some(&*expected));
    let token = text(&headers, "authorization").unwrap();
    caracal.advance(support::at_work::seconds(1000));
    let later = making().await.unwrap();
    assert_ne!(text(&later, "authorization"), Some(token), "not the one it was started with");
}

#[tokio::test]
async fn the_bearer_is_marked_and_printed_nowhere() {
    let (_caracal, client) = sample().await;
    let session = client.spawn().start().await.unwrap();
    let pinned = unproven(&client).await;
    for making in [
        client.headers().allow_root(),
        client.headers().context(session.context().clone()),
        client.headers().context(pinned.clone()),
    ] {
        let headers = making.await.unwrap();
        let value = headers.get("authorization").unwrap();
        assert!(value.is_sensitive());
        let token = value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        assert!(!format!("{headers:?} {pinned:?} {session:?}").contains(&token));
    }
}

#[tokio::test]
async fn what_a_caller_was_bound_with_is_sent_on_and_never_replaced() {
    let (caracal, client) = sample().await;
    let context = unproven(&client).await;
    for _ in 0..2 {
        let making = client.headers().context(context.clone()).allow_root();
        let headers = making.await.unwrap();
        assert_eq!(text(&headers, "authorization"), Some("Bearer what-the-caller-sent"));
        let envelope = from_headers(&headers);
        assert_eq!(envelope.agent_session_id.as_deref(), Some("claimed-session"));
        assert_eq!(envelope.hop, 4);
        assert_eq!(text(&headers, "tracestate"), Some("vendor=value"));
        let parent = text(&headers, "traceparent").unwrap();
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"));
        assert!(!parent.contains("00f067aa0ba902b7"), "a span of its own");
        // Whatever happens to the application's own token meanwhile.
        client.headers().allow_root().await.unwrap();
        caracal.advance(support::at_work::seconds(1000));
    }
}

#[tokio::test]
async fn a_proven_caller_gets_no_token_of_the_application_s() {
    let (caracal, client) = sample().await;
    let mandate = caracal.mandate(TICKETS).session("their-session").sign();
    let received = headers(&[("authorization", &format!("Bearer {mandate}")), ("baggage", "a=b")]);
    let binding = client.bind_from_headers(&received).verifier(caracal.verifier(TICKETS).unwrap());
    let context = binding.await.unwrap();
    client.headers().allow_root().await.unwrap();
    let headers = client.headers().context(context).allow_root().await.unwrap();
    let own = bearer_of(&client).await;
    assert_ne!(text(&headers, "authorization"), Some(&*own));
    let envelope = from_headers(&headers);
    assert_eq!(envelope.agent_session_id.as_deref(), Some("their-session"));
    assert_eq!(envelope.baggage.get("a").map(String::as_str), Some("b"));
}

async fn bearer_of(client: &Caracal) -> String {
    let headers = client.headers().allow_root().await.unwrap();
    text(&headers, "authorization").unwrap().to_owned()
}

/// Two clients in one process: what one of them started is not sent with the other's token.
#[tokio::test]
async fn the_session_of_another_application_gets_no_token_of_this_one_s() {
    let (_caracal, first, second) = neighbours().await;
    let session = first.spawn().start().await.unwrap();
    let own = bearer_of(&second).await;
    match second.headers().context(session.context().clone()).await {
        Err(error) => assert_eq!(error.status(), None),
        Ok(headers) => assert!(text(&headers, "authorization") != Some(&*own), "its own token"),
    }
}

#[tokio::test]
async fn what_is_bound_is_current_within_and_not_in_tasks_that_are_spawned() {
    let (_caracal, client) = sample().await;
    assert!(client.current().is_none());
    let elsewhere = || async { tokio::spawn(async { name(current().as_ref()) }).await.unwrap() };
    let seen = client
        .spawn()
        .run(async |context: CaracalContext| {
            tokio::task::yield_now().await;
            assert_eq!(name(client.current().as_ref()), name(Some(&context)));
            assert_eq!(elsewhere().await, None);
            // Unless it is bound there too.
            let bound = client.bind(context.clone()).run(async { name(current().as_ref()) });
            assert_eq!(tokio::spawn(bound).await.unwrap(), name(Some(&context)));
            name(Some(&context))
        })
        .await
        .unwrap();
    assert!(seen.is_some());
    assert!(client.current().is_none());

    let outer = client.spawn().start().await.unwrap();
    let tried = client.spawn().parent(outer.context().clone()).try_run(async |context| {
        assert_eq!(name(current().as_ref()), name(Some(&context)));
        assert_ne!(name(Some(&context)), name(Some(outer.context())));
        assert_eq!(elsewhere().await, None);
        Ok::<_, CaracalError>(())
    });
    let around = outer.scope(async {
        tried.await.unwrap();
        name(current().as_ref())
    });
    assert_eq!(around.await, name(Some(outer.context())), "as before");
    let bound = client.bind(outer.context().clone());
    let seen = bound.run(async { (name(current().as_ref()), elsewhere().await) }).await;
    assert_eq!(seen, (name(Some(outer.context())), None));
    assert!(client.current().is_none());
}

#[tokio::test]
async fn an_authority_is_described_and_holds_no_token() {
    let (caracal, client) = sample().await;
    assert_eq!(client.describe_authority(None), None);
    let root = client.spawn().start().await.unwrap();
    let id = root.agent_session_id();
    let described = client.describe_authority(Some(root.context())).unwrap();
    assert_eq!((&*described.zone_id, &*described.application_id), ("zone-1", "app-1"));
    assert_eq!(described.agent_session_id.as_deref(), Some(id));
    assert_eq!(described.subject_authority_record_id, None);
    assert_eq!(described.trace_id, root.context().trace_id());
    assert_eq!((described.hop, described.chain), (0, vec![format!("session:{id}")]));

    let context = unproven(&client).await;
    let described = client.bind(context).run(async { client.describe_authority(None) }).await;
    let described = described.unwrap();
    let chain = [
        "subject:claimed-record",
        "session:claimed-session",
        "parent-delegation:claimed-parent",
        "delegation:claimed-edge",
    ];
    assert_eq!(described.chain, chain);
    assert_eq!(described.subject_authority_record_id.as_deref(), Some("claimed-record"));
    assert_eq!(described.delegation_edge_id.as_deref(), Some("claimed-edge"));
    assert_eq!(described.parent_edge_id.as_deref(), Some("claimed-parent"));
    assert_eq!(described.trace_id.map(|id| id.to_string()).as_deref(), Some(TRACE));
    assert_eq!(described.hop, 4);
    assert!(!format!("{described:?}").contains("what-the-caller-sent"));
    let token = bearer(&last(&caracal, Endpoint::StartSession));
    let own = client.describe_authority(Some(root.context()));
    assert!(!format!("{own:?}").contains(&token));
}
