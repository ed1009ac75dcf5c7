//! The embedded control plane beyond the recorded conversations: load, rotation, its own clock,
//! what operators do, what is added while it runs.
#![cfg(feature = "embedded")]

mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use caracal_axum::{
    CaracalLayer, MandateVerifier, MemoryRevocations, TokenUse,
    embedded::{Application, EmbeddedCaracal, Grant, Limits, Resource, World, Zone},
};
use serde_json::{Value, json};
use support::{
    Logs,
    agent::{Agent, TICKETS, answer, sample},
};
use tokio::{io::AsyncWriteExt as _, task::JoinSet};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_agents_come_and_go() {
    const AGENTS: usize = 1000;
    let mut limits = Limits::default();
    limits.sessions_per_zone = 2 * AGENTS;
    limits.sessions_per_application = 2 * AGENTS;
    limits.requests_per_minute = u32::MAX;
    limits.mints_per_minute_per_resource_and_application = u32::MAX;
    let world = World::sample().limits(limits);
    let caracal = EmbeddedCaracal::builder().world(world).start().await.unwrap();
    let agent = Agent::new(&caracal, "app-1");
    let token: Arc<str> = agent.lifecycle().await.into();
    let mut agents = JoinSet::new();
    for _ in 0..AGENTS {
        let (agent, token) = (agent.clone(), Arc::clone(&token));
        agents.spawn(async move {
            let parent = agent.start(&token, json!({})).await;
            let child = json!({
                "parent_id": parent["agent_session_id"], "parent_authority": "none",
                "labels": ["reader"],
            });
            let child = agent.start(&token, child).await;
            let edge = agent.delegate(&token, &parent, &child).await;
            let (status, mandate) = agent.mint(&child, &edge).await;
            assert_eq!(status, 200, "{mandate}");
            let path = format!("/agents/{}", parent["agent_session_id"].as_str().unwrap());
            let (status, _) = agent.call("DELETE", &path, &token, None).await;
            assert_eq!(status, 204);
            let (status, refusal) = agent.mint(&child, &edge).await;
            assert_eq!((status, &refusal["error"]), (403, &json!("access_denied")));
        });
    }
    while let Some(done) = agents.join_next().await {
        done.unwrap();
    }
    assert_eq!(agent.count(&token, "/agents?status=active&limit=500").await, 0);
    assert_eq!(agent.count(&token, "/agents?status=suspended&limit=500").await, 0);
    assert_eq!(agent.count(&token, "/delegations/active?limit=500").await, 0);
    assert_eq!(agent.count(&token, "/agents?status=terminated&limit=500").await, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_traffic() {
    let (caracal, agent) = sample().await;
    let published = async |agent: &Agent| {
        let url = format!("{}/.well-known/jwks.json?zone_id=zone-1", agent.sts);
        let (_, document) = answer(agent.http.get(url)).await;
        let keys = document["keys"].as_array().unwrap().iter();
        keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let minted = Arc::new(AtomicUsize::new(0));
    let mut traffic = JoinSet::new();
    for _ in 0..4 {
        let (agent, minted) = (agent.clone(), Arc::clone(&minted));
        traffic.spawn(async move {
            let mut kids = BTreeSet::new();
            for _ in 0..60 {
                let kid = kid_of(&agent.lifecycle().await);
                assert!(published(&agent).await.contains(&kid), "issued under a published key");
                kids.insert(kid);
                minted.fetch_add(1, Ordering::Relaxed);
            }
            kids
        });
    }
    // One rotation for every so many mints: two in a row would drop a key while it is looked for.
    for rotation in 1..=5 {
        while minted.load(Ordering::Relaxed) < rotation * 30 {
            tokio::task::yield_now().await;
        }
        caracal.rotate_key("zone-1").unwrap();
    }
    let kids: BTreeSet<_> = traffic.join_all().await.into_iter().flatten().collect();
    assert_eq!(kids.len(), 6, "each key has signed");

    let before = agent.lifecycle().await;
    let kid = caracal.rotate_key("zone-1").unwrap();
    let after = agent.lifecycle().await;
    assert_eq!(kid_of(&after), kid);
    assert_eq!(published(&agent).await, [kid, kid_of(&before)]);
    let verifier = MandateVerifier::builder()
        .issuer(caracal.sts_url())
        .audience(caracal.sts_url())
        .zone("zone-1")
        .required_use(TokenUse::Session)
        .revocations(MemoryRevocations::default())
        .clock(caracal.clock())
        .build()
        .unwrap();
    let app = axum::Router::new()
        .route("/", axum::routing::get(|| async {}))
        .layer(CaracalLayer::enforce(verifier));
    let service = support::serve(app).await;
    for token in [before, after] {
        let (status, refusal) = answer(agent.http.get(&service).bearer_auth(token)).await;
        assert_eq!(status, 200, "{refusal}");
    }
}

fn kid_of(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

#[tokio::test]
async fn what_happens_by_itself_happens_at_its_time() {
    let (caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    let service = agent.start(&token, json!({ "lifecycle": "service" })).await;
    let task = agent.start(&token, json!({ "ttl_seconds": 130 })).await;
    let status = async |session: &Value| {
        let path = format!("/agents/{}", session["agent_session_id"].as_str().unwrap());
        let (_, detail) = agent.call("GET", &path, &token, None).await;
        detail["status"].as_str().unwrap().to_owned()
    };
    // The lease of 120 s ran out a moment after the sweep of second 120.
    caracal.advance(Duration::from_millis(149_900));
    assert_eq!((status(&service).await, status(&task).await), ("active".into(), "active".into()));
    caracal.advance(Duration::from_millis(200));
    assert_eq!(status(&service).await, "suspended");
    caracal.advance(Duration::from_millis(29_800));
    assert_eq!(status(&task).await, "active");
    caracal.advance(Duration::from_millis(200));
    assert_eq!(status(&task).await, "expired");
}

#[tokio::test]
async fn a_long_time_passes_at_once() {
    let (caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    for _ in 0..40 {
        agent.start(&token, json!({ "lifecycle": "service" })).await;
    }
    caracal.advance(Duration::from_secs(50 * 365 * 86_400));
    let token = agent.lifecycle().await;
    assert_eq!(agent.count(&token, "/agents?status=suspended").await, 40);
}

#[tokio::test]
async fn a_revocation_kills_the_starting_token_a_second_later() {
    let (caracal, agent) = sample().await;
    let (token, other) = (agent.lifecycle().await, agent.lifecycle().await);
    let parent = agent.start(&other, json!({})).await;
    let child = json!({"parent_id": parent["agent_session_id"], "parent_authority": "none"});
    let child = agent.start(&token, child).await;
    let edge = agent.delegate(&token, &parent, &child).await;
    let path = format!("/delegations/{}/revoke", edge["delegation_edge_id"].as_str().unwrap());
    let (status, revoked) = agent.call("PATCH", &path, &token, None).await;
    assert_eq!(status, 200);
    assert_eq!(
        revoked,
        json!({ "revoked_edges": 1, "affected_sessions": 1, "terminated_sessions": 1 })
    );
    caracal.advance(Duration::from_millis(900));
    assert_eq!(agent.call("GET", "/agents", &token, None).await.0, 200);
    caracal.advance(Duration::from_millis(200));
    let (status, refusal) = agent.call("GET", "/agents", &token, None).await;
    assert_eq!((status, refusal), (401, json!({ "error": "identity_revoked" })));
    assert_eq!(agent.call("GET", "/agents", &other, None).await.0, 200);
}

#[tokio::test]
async fn a_service_past_its_deadline_can_neither_act_nor_delegate() {
    let (caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    let parent = agent.start(&token, json!({})).await;
    let service = json!({ "lifecycle": "service", "labels": ["reader"] });
    let service = agent.start(&token, service).await;
    let edge = agent.delegate(&token, &parent, &service).await;
    // The lease ends just after the sweep of second 120, and the next is at 150.
    caracal.advance(Duration::from_secs(119));
    assert_eq!(agent.mint(&service, &edge).await.0, 200);
    caracal.advance(Duration::from_secs(2));
    assert_eq!(agent.mint(&service, &edge).await.0, 403);
    let (status, refusal) = agent.try_delegate(&token, &parent, &service, &["tickets:read"]).await;
    assert_eq!((status, refusal), (404, json!({ "error": "delegation_endpoint_not_found" })));
    let path = format!("/agents/{}", service["agent_session_id"].as_str().unwrap());
    let (_, detail) = agent.call("GET", &path, &token, None).await;
    assert_eq!(detail["status"], "active", "no sweep has found it");
}

#[tokio::test]
async fn another_token_exchanges_for_nothing() {
    let (caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    let parent = agent.start(&token, json!({})).await;
    let child = json!({
        "parent_id": parent["agent_session_id"], "parent_authority": "none", "labels": ["reader"],
    });
    let child = agent.start(&token, child).await;
    let edge = agent.delegate(&token, &parent, &child).await;
    let (_, mandate) = agent.mint(&child, &edge).await;
    caracal.add_application("zone-1", Application::new("app-2").client_secret("other")).unwrap();
    let exchanged = async |agent: &Agent, subject: &str, more: &[(&str, &str)]| {
        let mut form = vec![
            ("resource", TICKETS),
            ("scope", "agent:lifecycle"),
            ("subject_token", subject),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ];
        form.extend(more);
        let (status, refusal) = agent.exchange(&form).await;
        (status, refusal["error_description"].as_str().unwrap().to_owned())
    };
    let says = |status, text: &str| (status, text.to_owned());
    let mandate = mandate["access_token"].as_str().unwrap();
    assert_eq!(exchanged(&agent, mandate, &[]).await, says(401, "invalid subject_token"));
    let other = Agent::new(&caracal, "app-2");
    let mismatch = says(403, "authority record client mismatch");
    assert_eq!(exchanged(&other, &token, &[]).await, mismatch);
    let record = says(403, "authority record mismatch");
    assert_eq!(exchanged(&agent, &token, &[("session_id", "x")]).await, record);
    let policy = says(403, "policy denied (no_rule_matched)");
    assert_eq!(exchanged(&agent, &token, &[]).await, policy);
    caracal.advance(Duration::from_secs(900));
    assert_eq!(exchanged(&agent, &token, &[]).await, says(401, "invalid subject_token"));

    // A scope that no resource declares never reaches policy, which would give a reason.
    let undeclared = [("resource", TICKETS), ("scope", "tickets:fly")];
    let (status, refusal) = agent.exchange(&undeclared).await;
    assert_eq!((status, &refusal["error_description"]), (403, &json!("policy denied")));
}

#[tokio::test]
async fn what_a_database_cannot_hold_is_refused() {
    let (_caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    for changes in [
        json!({ "parent_id": "" }),
        json!({ "labels": ["a\u{0}b"] }),
        json!({ "metadata": { "deep": [{ "a\u{0}": 1 }] } }),
        json!({ "subject_session_id": "\u{0}" }),
    ] {
        let mut body = json!({ "application_id": "app-1" });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let (status, refusal) = agent.call("POST", "/agents", &token, Some(body)).await;
        assert_eq!((status, &refusal["error"]), (500, &json!("internal_error")), "{changes}");
    }
    assert_eq!(agent.count(&token, "/agents").await, 0);
}

#[tokio::test]
async fn a_budget_counts_scopes() {
    let (_caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    let start = async || agent.start(&token, json!({ "labels": ["reader"] })).await;
    let (giver, middle, taker) = (start().await, start().await, start().await);
    let body = json!({
        "issuer_application_id": "app-1", "receiver_application_id": "app-1",
        "source_session_id": giver["agent_session_id"],
        "target_session_id": middle["agent_session_id"],
        "resource_id": TICKETS, "scopes": ["tickets:read", "tickets:write"], "ttl_seconds": 6000,
        "constraints": { "budget": 1, "max_hops": 3 },
    });
    assert_eq!(agent.call("POST", "/delegations", &token, Some(body)).await.0, 201);
    let below = async |scopes: &[&str]| agent.try_delegate(&token, &middle, &taker, scopes).await.0;
    assert_eq!(below(&["tickets:read", "tickets:write"]).await, 403);
    assert_eq!(below(&["tickets:read"]).await, 201);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_those_who_never_finish() {
    let (caracal, agent) = sample().await;
    let address = agent.sts.strip_prefix("http://").unwrap();
    let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
    slow.write_all(b"POST /oauth/2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na=b")
        .await
        .unwrap();
    agent.lifecycle().await;
    tokio::time::timeout(Duration::from_secs(30), caracal.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_receipt_is_kept_for_a_week_or_a_day() {
    let (caracal, agent) = sample().await;
    let start = async |key: &str, kind: &str| {
        // The record is written out, so that a newer token asks the same.
        let token = agent.lifecycle().await;
        let body = json!({ "application_id": "app-1", "ttl_seconds": 86_400 });
        let request = agent.request("POST", "/agents", &token).json(&body);
        answer(request.header("idempotency-key", key).header("idempotency-key-kind", kind)).await.0
    };
    assert_eq!((start("a", "caller").await, start("b", "generated").await), (201, 201));
    caracal.advance(Duration::from_secs(86_399));
    assert_eq!((start("a", "caller").await, start("b", "generated").await), (409, 409));
    caracal.advance(Duration::from_secs(2));
    assert_eq!((start("a", "caller").await, start("b", "generated").await), (409, 201));
    caracal.advance(Duration::from_secs(6 * 86_400));
    assert_eq!(start("a", "caller").await, 201);
}

#[tokio::test]
async fn the_world_grows_while_it_runs() {
    let (caracal, agent) = sample().await;
    let scope = [("resource", "resource://invoices"), ("scope", "agent:lifecycle")];
    assert_eq!(agent.exchange(&scope).await.0, 403);
    let invoices = Resource::new("resource://invoices").scopes(["invoices:read"]);
    caracal.add_resource("zone-1", invoices.clone()).unwrap();
    assert_eq!(agent.exchange(&scope).await.0, 403, "nobody was granted it");
    let grant =
        |application| Grant::new(application, "resource://invoices").scopes(["invoices:read"]);
    caracal.add_grant("zone-1", grant("app-1")).unwrap();
    assert_eq!(agent.exchange(&scope).await.0, 200);

    caracal.add_application("zone-1", Application::new("app-2")).unwrap();
    assert_eq!(Agent::new(&caracal, "app-2").exchange(&scope).await.0, 403);
    let refused = caracal.add_grant("zone-1", grant("app-2")).unwrap_err().to_string();
    assert!(refused.contains("belongs to `app-1`"), "{refused}");
    let twice = caracal.add_resource("zone-1", invoices).unwrap_err().to_string();
    assert!(twice.contains("already"), "{twice}");
    let nowhere = caracal.add_application("zone-9", Application::new("app-3")).unwrap_err();
    assert!(nowhere.to_string().contains("no zone `zone-9`"), "{nowhere}");

    caracal.add_zone(Zone::new("zone-2").application(Application::new("app-9"))).unwrap();
    assert_eq!(caracal.applications(), ["app-1", "app-2", "app-9"]);
    let taken = Zone::new("zone-3").application(Application::new("app-9"));
    assert!(caracal.add_zone(taken).is_err());
    assert!(caracal.add_zone(Zone::new("zone-3")).is_ok(), "what was refused left nothing behind");
}

#[tokio::test]
async fn operators_act_on_what_there_is() {
    let (caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    let session = agent.start(&token, json!({})).await;
    let id = session["agent_session_id"].as_str().unwrap();
    assert!(caracal.resume("zone-1", id).is_err(), "not suspended");
    assert_eq!(caracal.suspend("zone-1", id), Ok(1));
    assert!(caracal.suspend("zone-1", id).is_err(), "suspended already");
    assert_eq!(caracal.resume("zone-1", id), Ok(1));
    assert!(caracal.suspend("zone-9", id).is_err(), "another zone");
    assert_eq!(caracal.terminate("zone-1", id), Ok(()));
    assert!(caracal.terminate("zone-1", id).is_err(), "ended already");
    assert_eq!(caracal.archive_application("zone-1", "app-1"), Ok(()));
    assert!(caracal.archive_application("zone-1", "app-1").is_err(), "archived already");
    assert!(caracal.rotate_key("zone-9").is_err());
    let (status, refusal) = agent.call("GET", "/agents", &token, None).await;
    assert_eq!((status, &refusal["error"]), (401, &json!("identity_revoked")));
}

#[tokio::test]
async fn a_world_that_contradicts_itself_does_not_start() {
    let wrong = |zone: Zone| World::new().zone(zone);
    let mut no_sweeps = Limits::default();
    no_sweeps.service_sweep_seconds = 0;
    for (world, why) in [
        (wrong(Zone::new("a b")), "no zone id"),
        (wrong(Zone::new("..")), "no zone id"),
        (wrong(Zone::new("z").application(Application::new("a\nb"))), "no application id"),
        (
            wrong(Zone::new("z").resource(Resource::new("a")).resource(Resource::new("b").id("a"))),
            "already",
        ),
        (wrong(Zone::new("z")).zone(Zone::new("z")), "already"),
        (wrong(Zone::new("z").grant(Grant::new("app", TICKETS))), "no application"),
        (World::new().limits(no_sweeps), "sweep"),
    ] {
        let refused =
            EmbeddedCaracal::builder().world(world).start().await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_world_without_zones_gets_the_sample_s() {
    let mut limits = Limits::default();
    limits.sessions_per_zone = 1;
    let world = World::new().limits(limits);
    let caracal = EmbeddedCaracal::builder().world(world).start().await.unwrap();
    let agent = Agent::new(&caracal, "app-1");
    let token = agent.lifecycle().await;
    agent.start(&token, json!({})).await;
    let body = json!({ "application_id": "app-1" });
    let (status, refusal) = agent.call("POST", "/agents", &token, Some(body)).await;
    assert_eq!((status, refusal), (429, json!({ "error": "session_zone_limit_exceeded" })));
}

#[tokio::test]
async fn ports_are_free_again_when_it_ends() {
    let (caracal, agent) = sample().await;
    let sts = caracal.sts_url().strip_prefix("http://").unwrap().parse().unwrap();
    let taken = EmbeddedCaracal::builder().sts_address(sts).start().await.unwrap_err();
    assert!(taken.to_string().contains("cannot listen"), "{taken}");
    agent.lifecycle().await;
    drop(agent);
    caracal.shutdown().await;
    let again = EmbeddedCaracal::builder().sts_address(sts).start().await.unwrap();
    assert_eq!(again.sts_url(), format!("http://{sts}"));
}

#[tokio::test]
async fn nothing_secret_is_logged_or_shown() {
    let logs = Logs::capture();
    let (caracal, agent) = sample().await;
    let token = agent.lifecycle().await;
    agent.start(&token, json!({})).await;
    agent.call("GET", "/agents/x\u{7}y", &token, None).await;
    agent.call("GET", &format!("/agents/{token}"), &token, None).await;
    agent.exchange(&[("client_secret", "guess"), ("resource", "a\nb")]).await;
    agent.exchange(&[("resource", "a\nb"), ("scope", "\u{1b}[2J")]).await;
    let shown = format!("{caracal:?} {:?} {:?}", EmbeddedCaracal::builder(), World::sample());
    let logged = logs.end();
    for text in [&shown, &logged] {
        assert!(!text.contains("app-1-secret"), "{text}");
        assert!(!text.contains(token.get(..20).unwrap()), "{text}");
    }
    assert!(
        logged.contains("sts app-1: agent:lifecycle at resource://tickets -> granted"),
        "{logged}"
    );
    assert!(logged.contains("coordinator app-1: POST /zones/zone-1/agents -> 201"), "{logged}");
    assert!(
        logged.contains(r"sts app-1: \u{1b}[2J at a\nb -> 403 access_denied: policy denied"),
        "{logged}"
    );
}
