//! Whole conversations that were held with the real services, and their outcomes.

use caracal_axum::{
    AgentSession, Caracal, CaracalContext, Delegation, DelegationConstraints, Grant, Health,
    Renewal, ServiceAgent,
    embedded::{
        Application, EmbeddedCaracal, Endpoint, Grant as Granted, Limits, Resource, World, Zone,
    },
};
use http::HeaderMap;
use serde_json::{Value, json};

use super::{child, hops, reader, root};
use crate::support::{
    agent::{TICKETS, clock},
    at_work::{
        PUBLISHED, ZONE, bearer, body, claims, last, mint, refused_unsent, roomy, sample, seconds,
        sent, status,
    },
};

const TWO: &str = "resource://two";
const THREE: &str = "resource://three";
const FOUR: &str = "resource://four";

/// One application with three services and their resources; a client for each.
async fn three_services() -> (EmbeddedCaracal, [Caracal; 3]) {
    let mut zone = Zone::new(ZONE).application(Application::new("app-1"));
    for (resource, scope) in [(TWO, "two:use"), (THREE, "three:use"), (FOUR, "four:use")] {
        zone = zone
            .resource(Resource::new(resource).scopes([scope]))
            .grant(Granted::new("app-1", resource).scopes([scope]));
    }
    let mut limits = Limits::default();
    limits.requests_per_minute = 10_000;
    let world = World::new().zone(zone).limits(limits);
    let caracal = EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
    let clients = [(); 3].map(|()| caracal.client("app-1").unwrap());
    (caracal, clients)
}

fn within(resources: &[&str], most: u32) -> DelegationConstraints {
    DelegationConstraints::new().resources(resources.iter().copied()).max_hops(most)
}

async fn mint_at(
    client: &Caracal,
    context: &CaracalContext,
    resource: &str,
    scope: &str,
) -> Result<Value, String> {
    let mint = client.mint_mandate(resource, [scope]).context(context.clone()).await;
    let minted = mint.map_err(|error| {
        assert_eq!(error.code(), "access_denied");
        error.to_string()
    })?;
    Ok(claims(minted.token().expose()))
}

fn link(session: &str, edge: Option<&str>) -> Value {
    let mut link = json!({ "application_id": "app-1", "agent_session_id": session });
    if let Some(edge) = edge {
        link["delegation_edge_id"] = json!(edge);
    }
    link
}

#[tokio::test]
async fn a_root_without_labels_and_a_narrowed_child_made_for_it() {
    let (caracal, client) = sample().await;
    let parent = client.spawn().start().await.unwrap();
    let started = json!({ "application_id": "app-1", "parent_authority": "inherit" });
    assert_eq!(body(&caracal, Endpoint::StartSession), started);
    let error = mint(&client, parent.context()).await.unwrap_err();
    assert_eq!((error.code(), error.status().unwrap().as_u16()), ("access_denied", 403));
    let advice = error.to_string();
    assert!(advice.contains("narrow") && advice.contains("accept"), "{advice}");
    let grant = Grant::narrow(["tickets:read", "tickets:write"]).resource(TICKETS);
    let child = client.spawn().parent(parent.context().clone()).labels(["writer"]).grant(grant);
    let child = child.start().await.unwrap();
    let mandate = client
        .mint_mandate(TICKETS, ["tickets:read", "tickets:write"])
        .context(child.context().clone())
        .await
        .unwrap();
    assert!((898..=900).contains(&mandate.expires_in().as_secs()));
    let claims = claims(mandate.token().expose());
    let (first, second) = (parent.agent_session_id(), child.agent_session_id());
    let edge = child.context().delegation_edge_id();
    assert_eq!(claims["hop_count"], 1);
    assert_eq!(claims["delegation_chain"], json!([link(first, edge), link(second, None)]));
    parent.end().await.unwrap();
    child.end().await.unwrap();
    let ends = sent(&caracal, Endpoint::EndSession);
    let ends: Vec<_> = ends.iter().map(|end| end.decision().unwrap().status).collect();
    assert_eq!(ends, [204, 404], "the child ended with its parent");
}

#[tokio::test]
async fn below_a_session_that_holds_a_delegation() {
    let (caracal, client) = roomy().await;
    let top = root(&client).await;
    // Of no label: it holds, and cannot mint.
    let unlabelled = client.spawn().parent(top.context().clone());
    let unlabelled = unlabelled.grant(reader().ttl(seconds(600))).start().await.unwrap();
    assert_eq!(mint(&client, unlabelled.context()).await.unwrap_err().code(), "access_denied");
    let narrowing = client.spawn().parent(unlabelled.context().clone());
    refused_unsent(&caracal, narrowing.grant(reader().ttl(seconds(300))).start()).await;

    let grant = reader().ttl(seconds(600)).constraints(hops(3));
    let holder = child(&client, top.context(), grant).await;
    for (scopes, ttl) in [
        (vec!["tickets:read"], 600),
        (vec!["tickets:read"], 3600),
        (vec!["tickets:read", "tickets:write"], 590),
    ] {
        let grant = Grant::narrow(scopes).resource(TICKETS).ttl(seconds(ttl));
        let narrowing = client.spawn().parent(holder.context().clone()).labels(["writer"]);
        let error = narrowing.grant(grant.constraints(hops(2))).start().await.unwrap_err();
        assert_eq!(error.code(), "delegation_exceeds_parent_authority");
        let target = body(&caracal, Endpoint::Delegate)["target_session_id"].clone();
        assert_eq!(status(&caracal, target.as_str().unwrap()).await, "terminated");
    }
    let narrowing = client.spawn().parent(holder.context().clone()).labels(["reader"]);
    refused_unsent(&caracal, narrowing.grant(reader().ttl(seconds(590))).start()).await;
    let grant = reader().ttl(seconds(590)).constraints(hops(2));
    let below = child(&client, holder.context(), grant).await;
    assert_eq!(mint(&client, below.context()).await.unwrap()["hop_count"], 2);
}

struct Chain {
    source: AgentSession,
    services: [ServiceAgent; 2],
    edges: [Delegation; 2],
    contexts: [CaracalContext; 2],
}

/// One delegates to the service session of two, and that to the one of three.
async fn chain([one, two, three]: &[Caracal; 3]) -> Chain {
    let source = one.spawn().labels(["app-1"]).start().await.unwrap();
    let serve = async |client: &Caracal| {
        let starting = client.spawn_service().labels(["app-1"]).renewal(Renewal::Manual);
        starting.start().await.unwrap()
    };
    let (second, third) = (serve(two).await, serve(three).await);
    let first_edge = one
        .delegate(second.agent_session_id())
        .context(source.context().clone())
        .scopes(["three:use", "four:use"])
        .constraints(within(&[THREE, FOUR], 3))
        .ttl(seconds(900))
        .await
        .unwrap();
    let accepting = two.accept_delegation(first_edge.delegation_edge_id());
    let at_two = second.scope(async { accepting.validate().await }).await.unwrap();
    let second_edge = two
        .delegate(third.agent_session_id())
        .context(at_two.clone())
        .scopes(["four:use"])
        .constraints(within(&[FOUR], 2))
        .ttl(seconds(600))
        .await
        .unwrap();
    let accepting = three.accept_delegation(second_edge.delegation_edge_id());
    let at_three = third.scope(async { accepting.validate().await }).await.unwrap();
    Chain {
        source,
        services: [second, third],
        edges: [first_edge, second_edge],
        contexts: [at_two, at_three],
    }
}

#[tokio::test]
async fn each_service_delegates_to_the_next_ones_own_session() {
    let (caracal, clients) = three_services().await;
    let chain = chain(&clients).await;
    let [one, two, three] = &clients;
    let ids = chain.edges.each_ref().map(Delegation::delegation_edge_id);
    assert_eq!(body(&caracal, Endpoint::Delegate)["parent_edge_id"], ids[0]);
    let sessions = [
        chain.source.agent_session_id(),
        chain.services[0].agent_session_id(),
        chain.services[1].agent_session_id(),
    ];
    let [at_two, at_three] = &chain.contexts;
    let minted = mint_at(two, at_two, THREE, "three:use").await.unwrap();
    assert_eq!(minted["hop_count"], 1);
    let expected = json!([link(sessions[0], Some(ids[0])), link(sessions[1], None)]);
    assert_eq!(minted["delegation_chain"], expected);
    let minted = mint_at(three, at_three, FOUR, "four:use").await.unwrap();
    assert_eq!((&minted["hop_count"], &minted["delegation_path"]), (&json!(2), &json!(ids)));
    let expected = json!([
        link(sessions[0], Some(ids[0])),
        link(sessions[1], Some(ids[1])),
        link(sessions[2], None),
    ]);
    assert_eq!(minted["delegation_chain"], expected);

    // One cannot call with what it gave away.
    let own = chain.source.context().clone();
    let given = one.accept_delegation(ids[0]).context(own).await.unwrap();
    let refused = mint_at(one, &given, THREE, "three:use").await.unwrap_err();
    assert!(refused.contains("target mismatch"), "{refused}");

    let revoking = one.revoke_delegation(ids[0]).context(chain.source.context().clone());
    let revoked = revoking.await.unwrap();
    assert_eq!((revoked.revoked_edges, revoked.terminated_sessions), (2, 2));
    let refused = mint_at(three, at_three, FOUR, "four:use").await.unwrap_err();
    assert!(refused.contains("inactive or expired"), "{refused}");
    caracal.advance(seconds(3));
    for service in &chain.services {
        let error = service.heartbeat(Health::Healthy).await.unwrap_err();
        assert_eq!(error.code(), "session_not_live", "with a new token");
        service.close().await.unwrap();
    }
    root(three).await.end().await.unwrap();
    chain.source.end().await.unwrap();
}

#[tokio::test]
async fn a_receiver_of_two_delegations_says_which_it_gives_on() {
    let (caracal, clients) = three_services().await;
    let chain = chain(&clients).await;
    let [one, two, three] = &clients;
    let [second, third] = &chain.services;
    one.delegate(second.agent_session_id())
        .context(chain.source.context().clone())
        .scopes(["three:use"])
        .resource(THREE)
        .ttl(seconds(900))
        .await
        .unwrap();
    let delegate = |context: &CaracalContext| {
        two.delegate(third.agent_session_id())
            .context(context.clone())
            .scopes(["four:use"])
            .resource(FOUR)
            .constraints(hops(2))
            .ttl(seconds(60))
    };
    let error = delegate(second.context()).await.unwrap_err();
    assert_eq!(error.code(), "parent_delegation_ambiguous");
    delegate(&chain.contexts[0]).await.unwrap();
    let first = chain.edges[0].delegation_edge_id();
    assert_eq!(body(&caracal, Endpoint::Delegate)["parent_edge_id"], first);
    // An inheriting child says it as well, for it would be ambiguous.
    let inheriting = two.spawn().parent(chain.contexts[0].clone()).labels(["app-1"]);
    let inheriting = inheriting.start().await.unwrap();
    assert_eq!(body(&caracal, Endpoint::StartSession)["inherit_parent_edge_id"], first);
    let minted = mint_at(two, inheriting.context(), FOUR, "four:use").await.unwrap();
    assert_eq!(minted["delegation_path"][0], first);
    assert_eq!(minted["hop_count"], 2);
    drop(three.clone());
}

/// What a service binds for a call that comes through the Gateway.
async fn received(
    caracal: &EmbeddedCaracal,
    client: &Caracal,
    resource: &str,
    caller: &CaracalContext,
) -> CaracalContext {
    let session = caller.agent_session_id().unwrap();
    let mandate = caracal.mandate_for(resource, session, caller.delegation_edge_id()).unwrap();
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {}", mandate.sign());
    headers.insert("authorization", bearer.parse().unwrap());
    let verifier = caracal.verifier(resource).unwrap();
    client.bind_from_headers(&headers).verifier(verifier).await.unwrap()
}

#[tokio::test]
async fn each_service_goes_on_below_the_session_of_the_mandate_it_received() {
    let (caracal, [one, two, three]) = three_services().await;
    let narrow = |scopes: &[&str], resources: &[&str], most: u32, ttl: u64| {
        let grant = Grant::narrow(scopes.iter().copied()).ttl(seconds(ttl));
        grant.constraints(within(resources, most))
    };
    let step = async |client: &Caracal, parent: &CaracalContext, grant: Grant| {
        let starting = client.spawn().parent(parent.clone()).labels(["app-1"]).grant(grant);
        starting.start().await.unwrap()
    };
    let source = root(&one).await;
    let all = ["two:use", "three:use", "four:use"];
    let grant = narrow(&all, &[TWO, THREE, FOUR], 5, 900);
    let first = step(&one, source.context(), grant).await;
    mint_at(&one, first.context(), TWO, "two:use").await.unwrap();

    let at_two = received(&caracal, &two, TWO, first.context()).await;
    let before = sent(&caracal, Endpoint::StartSession).len();
    let grant = narrow(&all[1..], &[THREE, FOUR], 4, 600);
    let second = step(&two, &at_two, grant).await;
    let starts = sent(&caracal, Endpoint::StartSession).split_off(before);
    let [start] = &starts[..] else { panic!("{starts:?}") };
    assert_eq!(start.json().unwrap()["parent_id"], first.agent_session_id());
    assert_eq!(start.json().unwrap()["parent_authority"], "none");
    let issued = claims(&bearer(start));
    assert_eq!((&issued["use"], &issued["client_id"]), (&json!("session"), &json!("app-1")));
    let edge = first.context().delegation_edge_id();
    assert_eq!(body(&caracal, Endpoint::Delegate)["parent_edge_id"].as_str(), edge);
    assert_eq!(bearer(&last(&caracal, Endpoint::Delegate)), bearer(start));
    assert_eq!(second.context().hop(), 2);
    mint_at(&two, second.context(), THREE, "three:use").await.unwrap();

    let at_three = received(&caracal, &three, THREE, second.context()).await;
    assert_eq!(at_three.hop(), 2);
    let third = step(&three, &at_three, narrow(&all[2..], &[FOUR], 3, 300)).await;
    let minted = mint_at(&three, third.context(), FOUR, "four:use").await.unwrap();
    assert_eq!(minted["hop_count"], 3);
    let path = [&first, &second, &third].map(|one| one.context().delegation_edge_id());
    assert_eq!(minted["delegation_path"], json!(path));

    // With the received session and edge themselves: granted, at the same hop.
    let minted = mint_at(&two, &at_two, THREE, "three:use").await.unwrap();
    assert_eq!(minted["hop_count"], 1);

    let revoked = one.revoke_delegation(edge.unwrap()).await.unwrap();
    assert_eq!((revoked.revoked_edges, revoked.terminated_sessions), (3, 3));
    mint_at(&three, third.context(), FOUR, "four:use").await.unwrap_err();
    caracal.advance(seconds(3));
    for (client, session) in [(&one, &first), (&two, &second), (&three, &third)] {
        session.end().await.unwrap();
        root(client).await.end().await.unwrap();
    }
    source.end().await.unwrap();
}

#[tokio::test]
async fn a_revocation_and_the_client_s_own_token() {
    let (caracal, client) = sample().await;
    let (giver, taker) = (root(&client).await, root(&client).await);
    let service = client.spawn_service().renewal(Renewal::Manual).start().await.unwrap();
    let narrowed =
        child(&client, giver.context(), reader().constraints(hops(3)).ttl(seconds(600))).await;
    let delegate = |context: &CaracalContext, ttl: u64| {
        let delegating = client.delegate(taker.agent_session_id()).context(context.clone());
        let delegating = delegating.scopes(["tickets:read"]).resource(TICKETS);
        delegating.constraints(hops(2)).ttl(seconds(ttl))
    };
    let from_child = delegate(narrowed.context(), 300).await.unwrap();
    let from_root = delegate(giver.context(), 300).await.unwrap();
    let mut contexts = Vec::new();
    for edge in [&from_child, &from_root] {
        let accepting = client.accept_delegation(edge.delegation_edge_id());
        let context = accepting.context(taker.context().clone()).await.unwrap();
        mint(&client, &context).await.unwrap();
        contexts.push(context);
    }
    let revoked = client.revoke_delegation(from_child.delegation_edge_id());
    let revoked = revoked.context(narrowed.context().clone()).await.unwrap();
    assert_eq!((revoked.revoked_edges, revoked.terminated_sessions), (1, 1));
    for context in &contexts {
        let error = mint(&client, context).await.unwrap_err();
        assert_eq!(error.code(), "access_denied", "with any edge to it");
    }
    mint(&client, narrowed.context()).await.unwrap();
    caracal.advance(PUBLISHED);
    mint(&client, narrowed.context()).await.unwrap();
    service.heartbeat(Health::Healthy).await.unwrap();
    taker.end().await.unwrap();
    for session in [&narrowed, &giver] {
        session.end().await.unwrap();
        assert_eq!(status(&caracal, session.agent_session_id()).await, "terminated");
    }
    service.close().await.unwrap();
    assert!(caracal.decisions().iter().all(|decision| decision.status != 401));
}

/// An end met a token that died: it is not left behind.
#[tokio::test]
async fn an_end_after_the_record_of_its_token_was_revoked_succeeds() {
    let (caracal, client) = sample().await;
    let session = root(&client).await;
    let token = bearer(&last(&caracal, Endpoint::StartSession));
    caracal.revoke_record(ZONE, claims(&token)["sid"].as_str().unwrap()).unwrap();
    caracal.advance(PUBLISHED);
    session.end().await.unwrap();
    let ends = sent(&caracal, Endpoint::EndSession);
    let ends: Vec<_> = ends.iter().map(|end| end.decision().unwrap().status).collect();
    assert_eq!(ends, [401, 204]);
    assert_eq!(status(&caracal, session.agent_session_id()).await, "terminated");
}
