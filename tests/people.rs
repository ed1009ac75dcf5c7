//! People in the embedded control plane, beyond the recorded conversations: who approves mints, and
//! users whom sessions run for, and what both mean at the Gateway.
#![cfg(feature = "embedded")]

#[path = "people/approvals.rs"]
mod approvals;
#[path = "people/calls.rs"]
mod calls;
#[path = "people/federation.rs"]
mod federation;
mod support;

use std::time::Duration;

use caracal_axum::{
    RevocationQuery, RevocationStore as _,
    embedded::{
        Application, ApprovalTier, Approver, EmbeddedCaracal, Grant, IdentityProvider, Resource,
        World, Zone,
    },
    testing::SigningKey,
};
use serde_json::{Value, json};
use support::agent::{Agent, TICKETS, answer, clock};

const ZONE: &str = "zone-1";
const ISSUER: &str = "https://idp.example";
const SCOPES: [&str; 4] = ["tickets:read", "tickets:write", "tickets:delete", "tickets:sign"];

/// A zone whose operators approve writing and whose users approve signing.
fn zone(provider: IdentityProvider) -> Zone {
    zone_of(provider, Resource::new(TICKETS))
}

fn zone_of(provider: IdentityProvider, tickets: Resource) -> Zone {
    let hour = Duration::from_secs(3600);
    Zone::new(ZONE)
        .application(Application::new("app-1"))
        .resource(tickets.scopes(SCOPES))
        .resource(Resource::new("resource://other").scopes(["other:read"]))
        .grant(Grant::new("app-1", TICKETS).role("clerk").scopes(SCOPES))
        .approval_tier(ApprovalTier::new("changes").scopes(["tickets:write"]).ttl(hour))
        .approval_tier(
            ApprovalTier::new("consent").scopes(["tickets:sign"]).approver(Approver::Subject),
        )
        .identity_provider(provider)
}

/// An application at work, with a clerk's session under a delegation of everything.
struct Work {
    caracal: EmbeddedCaracal,
    agent: Agent,
    idp: SigningKey,
    token: String,
    session: String,
    edge: String,
}

impl Work {
    async fn start() -> Self {
        Self::at(Resource::new(TICKETS)).await
    }

    async fn at(tickets: Resource) -> Self {
        let idp = SigningKey::generate("idp-1");
        let provider = IdentityProvider::new(ISSUER, "users").keys(json!({ "keys": [idp.jwk()] }));
        let world = World::new().zone(zone_of(provider, tickets));
        let caracal = EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
        let agent = Agent::new(&caracal, "app-1");
        let token = agent.lifecycle().await;
        let mut work =
            Self { caracal, agent, idp, token, session: String::new(), edge: String::new() };
        (work.session, work.edge) = work.clerk(&json!({})).await;
        work
    }

    /// A session that holds a delegation of everything.
    async fn clerk(&self, changes: &Value) -> (String, String) {
        let parent = self.agent.start(&self.token, changes.clone()).await;
        let mut child = changes.clone();
        child["parent_id"] = parent["agent_session_id"].clone();
        child["parent_authority"] = json!("none");
        child["labels"] = json!(["clerk"]);
        let child = self.agent.start(&self.token, child).await;
        let edge = self.agent.try_delegate(&self.token, &parent, &child, &SCOPES).await;
        assert_eq!(edge.0, 201, "{}", edge.1);
        (text(&child, "agent_session_id"), text(&edge.1, "delegation_edge_id"))
    }

    async fn mint(&self, scope: &str, more: &[(&str, &str)]) -> (u16, Value) {
        let mut fields = vec![
            ("resource", TICKETS),
            ("scope", scope),
            ("agent_session_id", self.session.as_str()),
            ("delegation_edge_id", self.edge.as_str()),
        ];
        fields.extend(more);
        self.agent.exchange(&fields).await
    }

    /// The id of the approval that a mint waits for.
    async fn held(&self, scope: &str) -> String {
        let (status, hold) = self.mint(scope, &[]).await;
        assert_eq!((status, &hold["error"]), (401, &json!("interaction_required")), "{hold}");
        text(&hold, "approval_id")
    }

    fn poll(&self, id: &str, wait: u32) -> reqwest::RequestBuilder {
        self.agent.http.get(format!("{}/approvals/{id}?wait={wait}", self.agent.sts))
    }

    async fn state(&self, id: &str) -> String {
        text(&answer(self.poll(id, 0)).await.1, "state")
    }

    fn id_token(&self, sub: &str) -> String {
        self.idp.sign(&id_claims(sub))
    }

    /// A session mandate of a user, and its record.
    async fn user(&self, sub: &str, ttl: &str) -> (String, String) {
        let (status, answer) = self.federate(&self.id_token(sub), ttl).await;
        assert_eq!(status, 200, "{answer}");
        let token = text(&answer, "access_token");
        let record = text(&claims(&token), "sid");
        (token, record)
    }

    async fn federate(&self, id_token: &str, ttl: &str) -> (u16, Value) {
        self.agent
            .exchange(&[
                ("subject_token", id_token),
                ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"),
                ("ttl_seconds", ttl),
            ])
            .await
    }

    /// Whether resource servers are told that a session or record has ended.
    fn is_revoked(&self, anchor: &str) -> bool {
        let query = RevocationQuery::new(ZONE, [anchor, "", "", ""]);
        self.caracal.revocations().check_now(query).unwrap().unwrap().revoked
    }

    fn advance(&self, seconds: f64) {
        self.caracal.advance(Duration::from_secs_f64(seconds));
    }
}

fn id_claims(sub: &str) -> Value {
    json!({ "iss": ISSUER, "aud": "users", "sub": sub, "exp": 4_102_444_800_u64 })
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {value}")).to_owned()
}

fn claims(token: &str) -> Value {
    jsonwebtoken::dangerous::insecure_decode(token)
        .map(|decoded: jsonwebtoken::TokenData<Value>| decoded.claims)
        .unwrap()
}
