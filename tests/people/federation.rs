//! Users: whose tokens stand for them, what runs for them, and what ends with them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use caracal_axum::{
    embedded::{ApprovalTier, EmbeddedCaracal, IdentityProvider, OperatorError, World},
    testing::SigningKey,
};
use serde_json::{Value, json};

use super::{
    ISSUER, Work, ZONE, claims, id_claims,
    support::{
        agent::{Agent, clock},
        serve,
    },
    text, zone,
};

const PUBLISHED: f64 = 1.1;

/// A provider that publishes its keys over HTTP.
#[derive(Clone, Default)]
struct Idp {
    document: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Idp {
    fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        *self.document.lock().unwrap() = Some(json!({ "keys": keys }));
    }

    async fn answer(State(idp): State<Self>) -> Result<Json<Value>, StatusCode> {
        idp.asked.fetch_add(1, Ordering::SeqCst);
        let document = idp.document.lock().unwrap().clone();
        document.map(Json).ok_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

#[tokio::test]
async fn keys_are_fetched_when_they_are_needed() {
    let idp = Idp::default();
    let url = serve(Router::new().route("/keys", get(Idp::answer)).with_state(idp.clone())).await;
    let provider = IdentityProvider::new(ISSUER, "users").keys_at(format!("{url}/keys"));
    let world = World::new().zone(zone(provider));
    let caracal = EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
    let agent = Agent::new(&caracal, "app-1");
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let federate = async |key: &SigningKey| {
        let token = key.sign(&id_claims("alice"));
        let id_token = "urn:ietf:params:oauth:token-type:id_token";
        let form = [("subject_token", token.as_str()), ("subject_token_type", id_token)];
        let (status, answer) = agent.exchange(&form).await;
        let code = if status == 200 { "" } else { answer["error"].as_str().unwrap() };
        (status, code.to_owned(), idp.asked.load(Ordering::SeqCst))
    };
    let refused = |asked| (401, "invalid_token".to_owned(), asked);
    let granted = |asked| (200, String::new(), asked);

    assert_eq!(federate(&old).await, refused(1), "its keys cannot be had");
    idp.publish(&[&old]);
    assert_eq!(federate(&old).await, granted(2), "a failure is not kept");
    assert_eq!(federate(&old).await, granted(2), "what is known is not asked for");
    idp.publish(&[&new]);
    assert_eq!(federate(&old).await, granted(2), "and used for five minutes");
    assert_eq!(federate(&new).await, granted(3), "but a new key is asked for at once");
    assert_eq!(federate(&old).await, refused(4));
    caracal.advance(std::time::Duration::from_secs(301));
    *idp.document.lock().unwrap() = None;
    assert_eq!(federate(&new).await, refused(5), "old keys are no keys");
}

#[tokio::test]
async fn whose_token_is_not_trusted_makes_nobody_ask() {
    let work = Work::start().await;
    let other = SigningKey::generate("idp-1");
    for (token, ttl) in [
        (other.sign(&id_claims("alice")), "0"),
        (work.idp.sign(&json!({ "iss": "https://evil.example" })), "0"),
        ("a.b.c".to_owned(), "0"),
    ] {
        let (status, refusal) = work.federate(&token, ttl).await;
        assert_eq!((status, &refusal["error"]), (401, &json!("invalid_token")));
    }
    for (ttl, status) in [("3600", 200), ("3601", 400), ("-1", 400)] {
        assert_eq!(work.federate(&work.id_token("alice"), ttl).await.0, status, "{ttl}");
    }
}

#[tokio::test]
async fn a_service_ends_at_its_takeover_when_its_user_is_gone() {
    let work = Work::start().await;
    let (_, record) = work.user("alice", "60").await;
    let start = json!({ "lifecycle": "service", "subject_session_id": record });
    let service = text(&work.agent.start(&work.token, start).await, "agent_session_id");
    work.advance(61.0);
    let path = format!("/agents/{service}");
    let takeover = format!("{path}/lease");
    let (status, refusal) = work.agent.call("POST", &takeover, &work.token, None).await;
    assert_eq!((status, &refusal["error"]), (409, &json!("session_subject_inactive")));
    let (_, detail) = work.agent.call("GET", &path, &work.token, None).await;
    assert_eq!(detail["termination_reason"], "subject_authority_inactive");
    work.advance(PUBLISHED);
    assert!(work.is_revoked(&service) && work.is_revoked(&record));
}

#[tokio::test]
async fn the_end_of_a_user_s_last_session_is_told_and_ends_the_record() {
    let work = Work::start().await;
    let (user, record) = work.user("alice", "3600").await;
    let start = async || {
        let start = json!({ "subject_session_id": record });
        text(&work.agent.start(&work.token, start).await, "agent_session_id")
    };
    let (first, second) = (start().await, start().await);
    let end = async |id: &str| {
        work.agent.call("DELETE", &format!("/agents/{id}"), &work.token, None).await.0
    };
    assert_eq!(end(&first).await, 204);
    work.advance(PUBLISHED);
    assert!(!work.is_revoked(&first) && !work.is_revoked(&record), "the user has another one");
    assert_eq!(end(&second).await, 204);
    assert!(!work.is_revoked(&second), "nobody has told it yet");
    work.advance(PUBLISHED);
    assert!(!work.is_revoked(&first) && work.is_revoked(&second) && work.is_revoked(&record));
    // The STS reads the same stream.
    let again = json!({ "application_id": "app-1", "subject_session_id": record });
    let (status, refusal) = work.agent.call("POST", "/agents", &work.token, Some(again)).await;
    assert_eq!((status, &refusal["error"]), (404, &json!("session_not_found")));
    let (_, hold) = work.mint("tickets:sign", &[]).await;
    let url = format!("{}/approvals/{}/decision", work.agent.sts, text(&hold, "approval_id"));
    let decision = json!({ "decision": "approved", "binding": hold["binding"] });
    let post = work.agent.http.post(url).bearer_auth(user).json(&decision);
    assert_eq!(super::answer(post).await.0, 403, "a user who is gone decides nothing");
}

#[tokio::test]
async fn a_tree_of_one_user_is_told_session_by_session() {
    let mut work = Work::start().await;
    let (_, record) = work.user("alice", "3600").await;
    (work.session, work.edge) = work.clerk(&json!({ "subject_session_id": record })).await;
    let (status, minted) = work.mint("tickets:read", &[]).await;
    assert_eq!(status, 200);
    let minted = claims(&text(&minted, "access_token"));
    assert_eq!(minted["sub"], "app-1", "mints stay the application's");
    let (_, child) = {
        let path = format!("/agents/{}", work.session);
        work.agent.call("GET", &path, &work.token, None).await
    };
    let root = text(&child, "parent_id");
    let path = format!("/agents/{root}/suspend");
    let (_, suspended) = work.agent.call("PATCH", &path, &work.token, None).await;
    assert_eq!(suspended["suspended"], 2);
    work.advance(PUBLISHED);
    for anchor in [&root, &work.session, &record] {
        assert!(work.is_revoked(anchor), "{anchor}");
    }
    assert!(!work.is_revoked(minted["sid"].as_str().unwrap()), "a mint has a record of its own");
    // Resumed or not, the record is dead, and the STS takes the sessions for dead.
    let path = format!("/agents/{root}/resume");
    assert_eq!(work.agent.call("PATCH", &path, &work.token, None).await.0, 200);
    assert_eq!(work.mint("tickets:read", &[]).await.0, 403);
}

#[tokio::test]
async fn a_lapsed_service_of_a_user_is_told() {
    let work = Work::start().await;
    let (_, record) = work.user("alice", "3600").await;
    let start = json!({ "lifecycle": "service", "subject_session_id": record });
    let service = text(&work.agent.start(&work.token, start).await, "agent_session_id");
    work.advance(120.0 + 30.0 + PUBLISHED);
    assert!(work.is_revoked(&service) && work.is_revoked(&record));
}

#[tokio::test]
async fn operators_revoke_a_user_with_all_that_runs_for_them() {
    let mut work = Work::start().await;
    let own = work.session.clone();
    let (_, first) = work.user("alice", "3600").await;
    let (_, second) = work.user("alice", "3600").await;
    let (_, bob) = work.user("bob", "3600").await;
    (work.session, work.edge) = work.clerk(&json!({ "subject_session_id": first })).await;
    assert_eq!(work.caracal.revoke_user(ZONE, "alice"), Ok(2));
    assert_eq!(work.mint("tickets:read", &[]).await.0, 403);
    work.advance(PUBLISHED);
    for anchor in [&first, &second, &work.session, &work.edge] {
        assert!(work.is_revoked(anchor), "{anchor}");
    }
    assert!(!work.is_revoked(&bob) && !work.is_revoked(&own));
    let gone = OperatorError::User("alice".to_owned());
    assert_eq!(work.caracal.revoke_user(ZONE, "alice"), Err(gone));
    assert!(work.caracal.revoke_user("zone-9", "bob").is_err());
}

#[tokio::test]
async fn a_user_s_record_is_no_application_s() {
    let mut work = Work::start().await;
    let (user, record) = work.user("alice", "3600").await;
    (work.session, work.edge) = work.clerk(&json!({ "subject_session_id": record })).await;
    let id = work.held("tickets:write").await;
    assert_eq!(work.caracal.approvals(ZONE).unwrap()[0].user.as_deref(), Some("alice"));
    work.caracal.approve(ZONE, &id).unwrap();
    let (status, refusal) = work.mint("tickets:read", &[("session_id", &record)]).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("access_denied")));
    assert_eq!(work.agent.call("GET", "/agents", &user, None).await.0, 403);
}

#[test]
fn a_world_that_contradicts_itself_is_none() {
    let good = || IdentityProvider::new(ISSUER, "users");
    let wrong = |zone, word: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = World::new().zone(zone);
        let started = runtime.block_on(EmbeddedCaracal::builder().world(world).start());
        let error = started.map(drop).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    wrong(zone(good().keys(json!({}))), "no key document");
    wrong(zone(good().keys_at("/keys")), "no absolute URL");
    wrong(zone(IdentityProvider::new(ISSUER, "")), "audience");
    wrong(zone(IdentityProvider::new("", "users")), "without an issuer");
    wrong(zone(good()).identity_provider(good()), "already");
    let tier = |name: &str, scope: &str| ApprovalTier::new(name).scopes([scope]);
    wrong(zone(good()).approval_tier(tier("changes", "tickets:read")), "is there already");
    wrong(zone(good()).approval_tier(tier("more", "tickets:write")), "has a tier already");
    wrong(zone(good()).approval_tier(tier("more", "tickets:none")), "declares");
    wrong(zone(good()).approval_tier(tier("a,b", "tickets:read")), "no name of a tier");
}
