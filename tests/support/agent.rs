//! An application that works against the embedded control plane, call by call.

use std::time::Duration;

use caracal_axum::{ManualClock, embedded::EmbeddedCaracal};
use serde_json::{Value, json};

use super::client;

pub(crate) const TICKETS: &str = "resource://tickets";

/// An application at work.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) http: reqwest::Client,
    pub(crate) sts: String,
    pub(crate) coordinator: String,
    pub(crate) application: String,
    pub(crate) secret: String,
    pub(crate) zone: String,
}

impl Agent {
    pub(crate) fn new(caracal: &EmbeddedCaracal, application: &str) -> Self {
        let environment = caracal.environment(application).unwrap();
        let get = |name| environment.iter().find(|(known, _)| *known == name).unwrap().1.clone();
        Self {
            http: client(),
            sts: get("CARACAL_STS_URL"),
            coordinator: get("CARACAL_COORDINATOR_URL"),
            application: get("CARACAL_APPLICATION_ID"),
            secret: get("CARACAL_APP_CLIENT_SECRET"),
            zone: get("CARACAL_ZONE_ID"),
        }
    }

    pub(crate) async fn exchange(&self, fields: &[(&str, &str)]) -> (u16, Value) {
        let mut form = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("zone_id", &self.zone),
            ("application_id", &self.application),
            ("client_secret", &self.secret),
        ];
        form.extend(fields);
        let form: String =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self
            .http
            .post(format!("{}/oauth/2/token", self.sts))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        answer(request).await
    }

    pub(crate) async fn lifecycle(&self) -> String {
        let (status, token) =
            self.exchange(&[("resource", TICKETS), ("scope", "agent:lifecycle")]).await;
        assert_eq!(status, 200, "{token}");
        token["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn request(&self, method: &str, path: &str, token: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/zones/{}{path}", self.coordinator, self.zone);
        self.http.request(method.parse().unwrap(), url).bearer_auth(token)
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let request = self.request(method, path, token);
        answer(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    pub(crate) async fn start(&self, token: &str, changes: Value) -> Value {
        let mut body = json!({ "application_id": self.application });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let (status, session) = self.call("POST", "/agents", token, Some(body)).await;
        assert_eq!(status, 201, "{session}");
        session
    }

    pub(crate) async fn delegate(&self, token: &str, source: &Value, target: &Value) -> Value {
        let (status, edge) = self.try_delegate(token, source, target, &["tickets:read"]).await;
        assert_eq!(status, 201, "{edge}");
        edge
    }

    pub(crate) async fn try_delegate(
        &self,
        token: &str,
        source: &Value,
        target: &Value,
        scopes: &[&str],
    ) -> (u16, Value) {
        let body = json!({
            "issuer_application_id": self.application,
            "receiver_application_id": self.application,
            "source_session_id": source["agent_session_id"],
            "target_session_id": target["agent_session_id"],
            "resource_id": TICKETS,
            "scopes": scopes,
            "ttl_seconds": 600,
        });
        self.call("POST", "/delegations", token, Some(body)).await
    }

    pub(crate) async fn mint(&self, session: &Value, edge: &Value) -> (u16, Value) {
        self.exchange(&[
            ("resource", TICKETS),
            ("scope", "tickets:read"),
            ("agent_session_id", session["agent_session_id"].as_str().unwrap()),
            ("delegation_edge_id", edge["delegation_edge_id"].as_str().unwrap()),
        ])
        .await
    }

    pub(crate) async fn count(&self, token: &str, path: &str) -> usize {
        let (status, list) = self.call("GET", path, token, None).await;
        assert_eq!(status, 200, "{list}");
        list["items"].as_array().unwrap().len()
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

pub(crate) fn clock() -> ManualClock {
    let clock = ManualClock::new(1_790_000_000);
    clock.advance(Duration::from_millis(400));
    clock
}

/// The sample world under a clock of the test's.
pub(crate) async fn sample() -> (EmbeddedCaracal, Agent) {
    let caracal = EmbeddedCaracal::builder().clock(clock()).start().await.unwrap();
    let agent = Agent::new(&caracal, "app-1");
    (caracal, agent)
}
