//! Calls that a person has to approve, and users whom sessions act for.
#![cfg(feature = "embedded")]

mod support;

use std::{sync::Arc, time::Duration};

use caracal_axum::{
    AgentSession, ApprovalState, Caracal, CaracalError, ClientEvent, DelegationConstraints, Grant,
    embedded::{
        Application, ApprovalTier, Approver, EmbeddedCaracal, Endpoint, Fault, IdentityProvider,
        Resource, World, Zone,
    },
    testing::SigningKey,
};
use http::StatusCode;
use serde_json::json;
use support::{
    agent::{TICKETS, clock},
    leaks,
    outbound::{Events, in_time},
};

const ZONE: &str = "zone-1";
const SCOPES: [&str; 3] = ["tickets:read", "tickets:write", "tickets:sign"];

/// A clerk at work, whose writing the operators approve.
struct Work {
    caracal: EmbeddedCaracal,
    client: Caracal,
    events: Events,
    idp: SigningKey,
    _parent: AgentSession,
    clerk: AgentSession,
}

impl Work {
    async fn start() -> Self {
        let idp = SigningKey::generate("idp-1");
        let provider = IdentityProvider::new("https://idp.example", "users")
            .keys(json!({ "keys": [idp.jwk()] }));
        let granted = caracal_axum::embedded::Grant::new("app-1", TICKETS);
        let zone = Zone::new(ZONE)
            .application(Application::new("app-1"))
            .resource(Resource::new(TICKETS).scopes(SCOPES))
            .grant(granted.role("clerk").scopes(SCOPES))
            .approval_tier(ApprovalTier::new("changes").scopes(["tickets:write"]))
            .approval_tier(
                ApprovalTier::new("consent").scopes(["tickets:sign"]).approver(Approver::Subject),
            )
            .identity_provider(provider);
        let world = World::new().zone(zone);
        let caracal = EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
        let events = Events::default();
        let builder = caracal.client_builder("app-1").on_event(events.listener());
        let client = builder.build().unwrap();
        let parent = client.spawn().start().await.unwrap();
        let grant = Grant::narrow(SCOPES)
            .resource(TICKETS)
            .constraints(DelegationConstraints::new().max_hops(1));
        let clerk = client.spawn().labels(["clerk"]).parent(parent.context().clone()).grant(grant);
        let clerk = clerk.start().await.unwrap();
        Self { caracal, client, events, idp, _parent: parent, clerk }
    }

    async fn write(&self, approval: Option<String>) -> Result<(), CaracalError> {
        let mint = self.client.mint_mandate(TICKETS, ["tickets:write"]);
        let mint = mint.context(self.clerk.context().clone());
        match approval {
            Some(id) => mint.approval(id).await.map(drop),
            None => mint.await.map(drop),
        }
    }

    /// The id of the approval that writing waits for.
    async fn held(&self) -> String {
        let error = self.write(None).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("interaction_required", false));
        let approval = error.approval().unwrap();
        assert_eq!(approval.tier(), Some("changes"));
        assert!(approval.binding().is_some() && approval.expires_at().is_some());
        approval.approval_id().to_owned()
    }

    fn id_token(&self, sub: &str) -> String {
        let now = caracal_axum::Clock::unix_time(&self.caracal.clock()).as_secs();
        self.idp.sign(&json!({
            "iss": "https://idp.example", "aud": "users", "sub": sub, "iat": now, "exp": now + 300,
        }))
    }

    fn waits(&self) -> Vec<Option<ApprovalState>> {
        let wait = |event| match event {
            ClientEvent::ApprovalWait { state, .. } => Some(state),
            _ => None,
        };
        self.events.all().into_iter().filter_map(wait).collect()
    }
}

#[tokio::test]
async fn what_was_approved_meanwhile_is_done_again_and_once() {
    let work = Arc::new(Work::start().await);
    let asking = Arc::clone(&work);
    let asking = tokio::spawn(async move {
        let work = &*asking;
        work.client.with_approval(async |approval| work.write(approval).await).await
    });
    in_time("the question", work.caracal.received(Endpoint::Approval)).await;
    let approval = work.caracal.approvals(ZONE).unwrap().remove(0);
    work.caracal.approve(ZONE, &approval.id).unwrap();
    in_time("the answer", asking).await.unwrap().unwrap();
    assert_eq!(work.waits(), [Some(ApprovalState::Approved)]);
    let again = work.write(None).await.unwrap_err();
    assert_eq!(again.code(), "interaction_required", "it was good for one mint");
}

#[tokio::test]
async fn what_was_rejected_fails_as_it_did_first() {
    let work = Work::start().await;
    let id = work.held().await;
    work.caracal.reject(ZONE, &id).unwrap();
    let state = work.client.wait_for_approval(&*id).await.unwrap();
    assert_eq!(state, ApprovalState::Rejected);
    let refused = work.write(None).await.unwrap_err();
    assert_eq!(refused.status(), Some(StatusCode::FORBIDDEN));
}

/// Its own deadline is no error, and an answer in two pieces is one.
#[tokio::test]
async fn a_wait_that_ends_is_pending_still() {
    let work = Arc::new(Work::start().await);
    let id = work.held().await;
    let waiting = work.client.wait_for_approval(&*id).timeout(Duration::from_secs(30));
    let waiting = tokio::spawn(async move { waiting.await });
    in_time("the question", work.caracal.received(Endpoint::Approval)).await;
    let polls = || {
        let requests = work.caracal.requests();
        requests.iter().filter(|request| request.endpoint() == Endpoint::Approval).count()
    };
    work.caracal.advance(Duration::from_secs(25));
    in_time("the second question", async {
        while polls() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    work.caracal.advance(Duration::from_secs(6));
    let state = in_time("the end", waiting).await.unwrap().unwrap();
    assert_eq!((state, work.waits()), (ApprovalState::Pending, vec![Some(ApprovalState::Pending)]));
}

#[tokio::test]
async fn a_wait_that_fails_says_so() {
    let work = Work::start().await;
    let id = work.held().await;
    for (fault, code) in [
        (Fault::status(StatusCode::SERVICE_UNAVAILABLE), "injected_fault"),
        (Fault::drop_connection(), "unreachable"),
        (Fault::answer(StatusCode::OK, "[]"), "unusable_answer"),
        (Fault::answer(StatusCode::OK, r#"{"state":"odd"}"#), "unusable_answer"),
    ] {
        work.caracal.inject(Endpoint::Approval, fault.times(1));
        let error = work.client.wait_for_approval(&*id).await.unwrap_err();
        assert_eq!(error.code(), code);
    }
    let unknown = work.client.wait_for_approval("01900000-0000-4000-8000-000000000000").await;
    assert_eq!(unknown.unwrap_err().status(), Some(StatusCode::NOT_FOUND));
    let odd = work.client.wait_for_approval("../x").await.unwrap_err();
    assert_eq!(odd.code(), "invalid_id");
    assert_eq!(work.waits(), [None; 5]);
}

#[tokio::test]
async fn a_session_acts_for_a_user_until_the_record_ends() {
    let work = Work::start().await;
    let token = work.id_token("alice");
    let federating = work.client.federate_subject(&*token).ttl(Duration::from_secs(300));
    assert!(!leaks(&format!("{federating:?}"), &token));
    let subject = federating.await.unwrap();
    assert!(subject.expires_in() <= Duration::from_secs(300));
    assert!(!leaks(&format!("{subject:?}"), subject.token().expose()));
    let other = work.client.federate_subject(&*token).await.unwrap();
    assert_ne!(subject.authority_record_id(), other.authority_record_id(), "never kept");

    let session = work.client.spawn_service().authority_record(subject.authority_record_id());
    let session = session.start().await.unwrap();
    assert_eq!(session.context().authority_record_id(), Some(subject.authority_record_id()));
    work.caracal.advance(Duration::from_secs(301));
    let error = session.heartbeat(caracal_axum::Health::Healthy).await.unwrap_err();
    assert_eq!(error.code(), "session_subject_inactive");
}

#[tokio::test]
async fn a_user_whom_nobody_vouches_for_is_refused_and_not_shown() {
    let work = Work::start().await;
    let stranger = SigningKey::generate("idp-1").sign(&json!({ "iss": "https://idp.example" }));
    let error = work.client.federate_subject(&*stranger).await.unwrap_err();
    assert_eq!((error.code(), error.status()), ("invalid_token", Some(StatusCode::UNAUTHORIZED)));
    work.caracal.inject(
        Endpoint::Token,
        Fault::answer(StatusCode::BAD_REQUEST, format!("you sent {stranger}")).times(1),
    );
    let error = work.client.federate_subject(&*stranger).await.unwrap_err();
    assert!(!leaks(&format!("{error} {error:?}"), &stranger), "{error}");
    let before = work.caracal.requests().len();
    for (token, ttl) in [(" ", 900), ("token", 3601)] {
        let error = work.client.federate_subject(token).ttl(Duration::from_secs(ttl));
        assert_eq!(error.await.unwrap_err().code(), "invalid_subject");
    }
    assert_eq!(work.caracal.requests().len(), before, "nothing was sent");
}
