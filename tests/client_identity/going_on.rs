//! What is done in the context of a request: all of it where that was proven and is of this
//! application, and little where it was not.

use caracal_axum::{
    Caracal, CaracalContext, Grant,
    embedded::{EmbeddedCaracal, Endpoint},
    from_headers,
};

use super::{TRACE, headers, text, unproven};
use crate::support::{
    agent::TICKETS,
    at_work::{
        LEDGER, bearer, body, claims, last, neighbours, refused_unsent, sample, seconds, sent,
    },
};

/// What a service binds for a call in a session, which a mandate proves.
async fn proven(
    caracal: &EmbeddedCaracal,
    client: &Caracal,
    caller: &CaracalContext,
) -> CaracalContext {
    let session = caller.agent_session_id().unwrap();
    let mandate = caracal.mandate_for(TICKETS, session, caller.delegation_edge_id()).unwrap();
    let received = headers(&[
        ("authorization", &format!("Bearer {}", mandate.sign())),
        ("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01")),
        ("baggage", "tenant=t1,caracal.agent_session=forged"),
    ]);
    let binding = client.bind_from_headers(&received).verifier(caracal.verifier(TICKETS).unwrap());
    binding.await.unwrap()
}

#[tokio::test]
async fn from_an_unproven_one_a_start_takes_its_trace_and_foreign_baggage_alone() {
    let (caracal, client) = sample().await;
    let context = unproven(&client).await;
    let started = client.bind(context).run(async {
        let task = client.spawn().start().await.unwrap();
        let service = client.spawn_service().start().await.unwrap();
        (task, service)
    });
    let (task, service) = started.await;
    for start in sent(&caracal, Endpoint::StartSession) {
        let told = start.json().unwrap();
        for absent in ["parent_id", "subject_session_id", "inherit_parent_edge_id"] {
            assert_eq!(told.get(absent), None);
        }
        assert!(start.header("traceparent").unwrap().starts_with(&format!("00-{TRACE}-")));
        assert_eq!(start.header("tracestate"), Some("vendor=value"));
        assert_eq!(start.header("baggage"), None);
        assert_ne!(bearer(&start), "what-the-caller-sent");
        assert_eq!(claims(&bearer(&start))["client_id"], "app-1");
    }
    for context in [task.context(), service.context()] {
        assert_eq!((context.delegation_edge_id(), context.parent_edge_id()), (None, None));
        assert_eq!((context.authority_record_id(), context.hop()), (None, 0));
        assert_eq!(context.trace_id().map(|id| id.to_string()).as_deref(), Some(TRACE));
        assert_eq!(context.trace_flags().map(|flags| flags.to_string()).as_deref(), Some("00"));
        assert_eq!(context.trace_state(), Some("vendor=value"));
        let out = client.headers().context(context.clone()).await.unwrap();
        let id = context.agent_session_id().unwrap();
        let expected = format!("caracal.agent_session={id},caracal.hop=0,tenant=t1");
        assert_eq!(text(&out, "baggage"), Some(&*expected));
    }
}

#[tokio::test]
async fn from_an_unproven_one_nothing_is_given_on_or_received() {
    let (caracal, client) = sample().await;
    let peer = client.spawn().start().await.unwrap();
    let context = unproven(&client).await;
    let narrow = || Grant::narrow(["tickets:read"]).resource(TICKETS).ttl(seconds(60));
    let delegating = || {
        let delegating = client.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
        delegating.resource(TICKETS).ttl(seconds(60))
    };
    client
        .bind(context.clone())
        .run(async {
            refused_unsent(&caracal, client.spawn().grant(narrow()).start()).await;
            refused_unsent(&caracal, async { delegating().await }).await;
            refused_unsent(&caracal, async { client.accept_delegation("e").await }).await;
            let validating = client.accept_delegation("e").validate();
            refused_unsent(&caracal, async { validating.await }).await;
        })
        .await;
    // Named on purpose it is refused as well.
    refused_unsent(&caracal, client.spawn().parent(context.clone()).start()).await;
    let named = delegating().context(context.clone());
    let error = refused_unsent(&caracal, async { named.await }).await;
    assert!(error.to_string().contains("unproven"), "{error}");
}

#[tokio::test]
async fn from_an_unproven_one_a_mint_names_no_session_and_no_delegation() {
    let (caracal, client) = sample().await;
    let context = unproven(&client).await;
    let minting = client.mint_mandate(TICKETS, ["tickets:read"]);
    let error = client.bind(context.clone()).run(async { minting.await }).await.unwrap_err();
    assert_eq!(error.code(), "access_denied");
    client.mint_mandate(TICKETS, ["agent:lifecycle"]).context(context).await.unwrap();
    let minted = sent(&caracal, Endpoint::Token);
    assert_eq!(minted.len(), 2);
    for request in minted {
        for absent in ["agent_session_id", "delegation_edge_id", "session_id", "subject_token"] {
            assert_eq!(request.field(absent), None);
        }
    }
}

#[tokio::test]
async fn from_a_proven_one_of_this_application_the_chain_goes_on() {
    let (caracal, client) = sample().await;
    let root = client.spawn().start().await.unwrap();
    let narrow = |most: u32, ttl: u64| {
        let grant = Grant::narrow(["tickets:read"]).resource(TICKETS).ttl(seconds(ttl));
        grant.constraints(caracal_axum::DelegationConstraints::new().max_hops(most))
    };
    let caller = client.spawn().parent(root.context().clone()).grant(narrow(5, 900));
    let caller = caller.labels(["reader"]).start().await.unwrap();
    let edge = caller.context().delegation_edge_id().unwrap();

    let service = caracal.client("app-1").unwrap();
    let context = proven(&caracal, &service, caller.context()).await;
    let child = service.spawn().labels(["reader"]).grant(narrow(4, 600));
    let child = service.bind(context.clone()).run(child.start()).await.unwrap();
    let start = last(&caracal, Endpoint::StartSession);
    assert_eq!(start.json().unwrap()["parent_id"], caller.agent_session_id());
    assert!(start.header("traceparent").unwrap().starts_with(&format!("00-{TRACE}-")));
    assert_eq!(claims(&bearer(&start))["use"], "session");
    let told = last(&caracal, Endpoint::Delegate);
    assert_eq!(told.json().unwrap()["source_session_id"], caller.agent_session_id());
    assert_eq!(told.json().unwrap()["parent_edge_id"], edge);
    assert_eq!(bearer(&told), bearer(&start));
    assert_eq!(child.context().parent_edge_id(), Some(edge));
    assert_eq!(child.context().hop(), 2);
    assert_eq!(child.context().baggage().get("tenant").map(String::as_str), Some("t1"));
    let out = service.headers().context(child.context().clone()).await.unwrap();
    assert_eq!(from_headers(&out).agent_session_id.as_deref(), Some(child.agent_session_id()));

    // An inheriting child names the edge, and a delegation does.
    let inheriting = service.spawn().parent(context.clone()).start().await.unwrap();
    assert_eq!(body(&caracal, Endpoint::StartSession)["inherit_parent_edge_id"], edge);
    assert_eq!(body(&caracal, Endpoint::StartSession)["parent_authority"], "inherit");
    assert_eq!(inheriting.context().hop(), 2);
    let peer = service.spawn().root().start().await.unwrap();
    let delegating = service.delegate(peer.agent_session_id()).scopes(["tickets:read"]);
    let delegating = delegating.resource(TICKETS).context(context.clone()).ttl(seconds(60));
    delegating.await.unwrap();
    assert_eq!(body(&caracal, Endpoint::Delegate)["parent_edge_id"], edge);
    let minting = service.mint_mandate(TICKETS, ["tickets:read"]).context(context);
    minting.await.unwrap();
    let minted = last(&caracal, Endpoint::Token);
    assert_eq!(minted.field("agent_session_id").as_deref(), Some(caller.agent_session_id()));
    assert_eq!(minted.field("delegation_edge_id").as_deref(), Some(edge));
}

/// A proven caller of `app-1` at a service of `app-2`.
async fn foreign(caracal: &EmbeddedCaracal, first: &Caracal, second: &Caracal) -> CaracalContext {
    let caller = first.spawn().start().await.unwrap();
    let context = proven(caracal, second, caller.context()).await;
    assert_eq!(context.application_id(), "app-1");
    std::mem::forget(caller);
    context
}

#[tokio::test]
async fn from_a_proven_one_of_another_application_nothing_is_done_but_what_is_its_own() {
    let (caracal, first, second) = neighbours().await;
    let context = foreign(&caracal, &first, &second).await;
    let peer = second.spawn().start().await.unwrap();
    let narrow = || Grant::narrow(["ledger:read"]).resource(LEDGER).ttl(seconds(60));
    let delegating = || {
        let delegating = second.delegate(peer.agent_session_id()).scopes(["ledger:read"]);
        delegating.resource(LEDGER).ttl(seconds(60))
    };
    let rooted = second
        .bind(context)
        .run(async {
            for error in [
                refused_unsent(&caracal, second.spawn().start()).await,
                refused_unsent(&caracal, second.spawn().grant(narrow()).start()).await,
                refused_unsent(&caracal, second.spawn().grant(Grant::none()).start()).await,
                refused_unsent(&caracal, second.spawn_service().start()).await,
                refused_unsent(&caracal, async { delegating().await }).await,
                refused_unsent(&caracal, async {
                    second.mint_mandate(LEDGER, ["ledger:read"]).await
                })
                .await,
            ] {
                assert_eq!(error.status(), None);
                assert!(error.to_string().contains("app-1"), "{error}");
            }
            second.spawn().root().start().await.unwrap()
        })
        .await;
    assert_eq!(body(&caracal, Endpoint::StartSession).get("parent_id"), None);
    assert_eq!(rooted.context().trace_id().map(|id| id.to_string()).as_deref(), Some(TRACE));
    rooted.end().await.unwrap();
}

/// A context that was accepted in goes out with the application's own token: never in the name of
/// somebody else's session.
#[tokio::test]
async fn from_a_proven_one_of_another_application_nothing_is_accepted() {
    let (caracal, first, second) = neighbours().await;
    let context = foreign(&caracal, &first, &second).await;
    let own = second.headers().allow_root().await.unwrap();
    let accepted = second.accept_delegation("edge-1").context(context).await;
    let Ok(accepted) = accepted else { return };
    let headers = second.headers().context(accepted).await;
    let sent = headers.as_ref().ok().and_then(|headers| text(headers, "authorization"));
    assert!(sent != text(&own, "authorization"), "the application's token, in another's session");
}
