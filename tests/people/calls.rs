//! Calls through the Gateway: of mandates that were approved, and of sessions that run for users.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use caracal_axum::embedded::{Grant, Resource};
use futures_util::stream;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};

use super::{
    Work, ZONE,
    support::{agent::TICKETS, serve},
    text,
};

const PUBLISHED: f64 = 1.1;

/// Work at an upstream that says what it is told to.
async fn start() -> (Work, mpsc::Sender<&'static str>) {
    let (say, said) = mpsc::channel::<&'static str>(8);
    let said = Arc::new(Mutex::new(said));
    let speak = move || {
        let said = Arc::clone(&said);
        async move {
            Body::from_stream(stream::unfold(said, |said| async {
                let word = said.lock().await.recv().await?;
                Some((Ok::<_, Infallible>(word), said))
            }))
        }
    };
    let url = serve(Router::new().fallback(speak)).await;
    (Work::at(Resource::new(TICKETS).upstream(url)).await, say)
}

impl Work {
    async fn mandate(&self, scope: &str, more: &[(&str, &str)]) -> String {
        let (status, minted) = self.mint(scope, more).await;
        assert_eq!(status, 200, "{minted}");
        text(&minted, "access_token")
    }

    /// Suspends the session at work and the one above it.
    async fn suspend_all(&self) {
        let path = format!("/agents/{}", self.session);
        let (_, session) = self.agent.call("GET", &path, &self.token, None).await;
        let path = format!("/agents/{}/suspend", text(&session, "parent_id"));
        let (_, suspended) = self.agent.call("PATCH", &path, &self.token, None).await;
        assert_eq!(suspended["suspended"], 2);
    }

    async fn call(&self, mandate: &str) -> Response {
        let request = self.agent.http.get(self.caracal.gateway_url()).bearer_auth(mandate);
        request.header("x-caracal-resource", TICKETS).send().await.unwrap()
    }

    async fn refused(&self, mandate: &str) -> (u16, String) {
        let response = self.call(mandate).await;
        let status = response.status().as_u16();
        (status, text(&response.json::<Value>().await.unwrap(), "error"))
    }
}

async fn heard(response: &mut Response) -> Option<String> {
    let chunk = timeout(Duration::from_secs(10), response.chunk()).await.unwrap().unwrap();
    chunk.map(|chunk| String::from_utf8(chunk.to_vec()).unwrap())
}

#[tokio::test]
async fn an_approval_is_asked_for_at_the_mint_alone() {
    let (work, _say) = start().await;
    let id = work.held("tickets:write").await;
    work.caracal.approve(ZONE, &id).unwrap();
    let mandate = work.mandate("tickets:write", &[("approval_id", &id)]).await;
    // By now a new mint would have to be approved anew.
    let grant = Grant::new("app-1", TICKETS).role("other").scopes(["tickets:read"]);
    work.caracal.add_grant(ZONE, grant).unwrap();
    work.held("tickets:write").await;
    assert_eq!(work.call(&mandate).await.status(), 200);
    assert_eq!(work.refused(&mandate).await, (401, "invalid_token".to_owned()), "once");
}

#[tokio::test]
async fn nothing_passes_for_a_user_who_was_revoked() {
    let (mut work, _say) = start().await;
    let (user, record) = work.user("alice", "3600").await;
    (work.session, work.edge) = work.clerk(&json!({ "subject_session_id": record })).await;
    let mut mandates = Vec::new();
    for _ in 0..3 {
        mandates.push(work.mandate("tickets:read", &[]).await);
    }
    assert_eq!(work.call(&mandates[0]).await.status(), 200);
    assert_eq!(work.refused(&user).await, (401, "invalid_token".to_owned()), "no mandate for it");
    work.caracal.revoke_user(ZONE, "alice").unwrap();
    let by_the_sts = (403, "access_denied".to_owned());
    assert_eq!(work.refused(&mandates[1]).await, by_the_sts, "which the Gateway asks");
    work.advance(PUBLISHED);
    assert_eq!(work.refused(&mandates[2]).await, (401, "invalid_token".to_owned()));
}

#[tokio::test]
async fn a_stream_ends_a_second_after_the_sessions_of_its_user_were_suspended() {
    let (work, say) = start().await;
    let mut own = work.call(&work.mandate("tickets:read", &[]).await).await;
    work.suspend_all().await;
    work.advance(PUBLISHED);
    for word in ["first", "second"] {
        say.send(word).await.unwrap();
        let heard = heard(&mut own).await;
        assert_eq!(heard.as_deref(), Some(word), "of the application's own nothing is told");
    }

    let (mut work, say) = start().await;
    let (_, record) = work.user("alice", "3600").await;
    (work.session, work.edge) = work.clerk(&json!({ "subject_session_id": record })).await;
    let mut theirs = work.call(&work.mandate("tickets:read", &[]).await).await;
    say.send("first").await.unwrap();
    assert_eq!(heard(&mut theirs).await.as_deref(), Some("first"));
    work.suspend_all().await;
    work.advance(PUBLISHED);
    // It was being waited for.
    say.send("second").await.unwrap();
    assert_eq!(heard(&mut theirs).await.as_deref(), Some("second"));
    assert_eq!(heard(&mut theirs).await, None);
}
