//! Mandates of any content.

use std::{iter, time::Duration};

use serde_json::{Map, Value, json};

use super::{Flaw, SigningKey};
use crate::TokenUse;

/// As long as an STS makes them when nobody asks for another lifetime (inbound contract §7.4).
const LIFETIME: Duration = Duration::from_secs(900);

/// Builder of a mandate: a good one, unless told otherwise.
///
/// | claim | unless set otherwise |
/// |---|---|
/// | `iss`, `zone_id` | those of the issuer |
/// | `aud`, `target` | the one audience |
/// | `sub`, `client_id` | the application `app-1`; `sub_type` is `application` |
/// | `jti`, `sid`, `root_sid` | other ones for every mandate signed |
/// | `use` | `resource` |
/// | `iat`, `exp` | the time at which the builder was made, and 15 minutes later |
///
/// Times go by the issuer's clock. There is no session, no scope and no delegation.
#[derive(Debug, Clone)]
#[must_use]
pub struct MandateBuilder {
    issuer: String,
    zone: String,
    key: SigningKey,
    now: Duration,
    audience: String,
    application: String,
    session: Option<String>,
    scope: Option<String>,
    token_use: TokenUse,
    lifetime: Duration,
    hops: Vec<Hop>,
    /// In the order in which they were asked for; `None` is a claim to go without.
    changes: Vec<(String, Option<Value>)>,
    flaw: Option<Flaw>,
}

/// Who gave authority on, in which session, by which edge.
#[derive(Debug, Clone)]
struct Hop {
    application: String,
    session: String,
    edge: String,
}

impl MandateBuilder {
    /// A good mandate for `audience`; `now` since the Unix epoch.
    pub(crate) fn new(
        issuer: impl Into<String>,
        zone: impl Into<String>,
        key: SigningKey,
        now: Duration,
        audience: impl Into<String>,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            zone: zone.into(),
            key,
            now,
            audience: audience.into(),
            application: "app-1".to_owned(),
            session: None,
            scope: None,
            token_use: TokenUse::Resource,
            lifetime: LIFETIME,
            hops: Vec::new(),
            changes: Vec::new(),
            flaw: None,
        }
    }

    /// The scopes granted; none removes the claim.
    pub fn scopes<S: AsRef<str>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        let mut words = scopes.into_iter();
        self.scope = words.next().map(|first| {
            words.fold(first.as_ref().to_owned(), |text, word| text + " " + word.as_ref())
        });
        self
    }

    /// The governed session, `agent_session_id`.
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.session = Some(id.into());
        self
    }

    /// The application that acts: `client_id`, and `sub`.
    pub fn application(mut self, id: impl Into<String>) -> Self {
        self.application = id.into();
        self
    }

    /// What it is for, `use`. Nothing else changes: a session token of an STS names the issuer in
    /// `aud`.
    pub fn token_use(mut self, token_use: TokenUse) -> Self {
        self.token_use = token_use;
        self
    }

    /// From `iat` to `exp`, cut to whole seconds.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// The delegations that the authority came over: who gave it on, in which session, by which
    /// edge, from the origin to the one whose edge is presented.
    ///
    /// Sets every delegation claim as an STS does (inbound contract §7.2), with an epoch of one per
    /// edge. The session is `session-1` unless [set](Self::session), because delegated authority
    /// always has one. Whether an STS would grant such a chain is not judged.
    ///
    /// ```
    /// # async fn example() -> std::io::Result<()> {
    /// # let issuer = caracal_axum::testing::Issuer::start().await?;
    /// let mandate = issuer
    ///     .mandate("resource://tickets")
    ///     .delegated_over([("planner", "session-1", "edge-1")])
    ///     .application("worker")
    ///     .session("session-2");
    /// # Ok(())
    /// # }
    /// ```
    pub fn delegated_over<S: Into<String>>(
        mut self,
        hops: impl IntoIterator<Item = (S, S, S)>,
    ) -> Self {
        let hop = |(application, session, edge): (S, S, S)| Hop {
            application: application.into(),
            session: session.into(),
            edge: edge.into(),
        };
        self.hops = hops.into_iter().map(hop).collect();
        self
    }

    /// One more claim, or another value for one. It counts over what other methods set.
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.changes.push((name.into(), Some(value.into())));
        self
    }

    /// Removes a claim.
    pub fn without(mut self, name: impl Into<String>) -> Self {
        self.changes.push((name.into(), None));
        self
    }

    /// Breaks it. There is one flaw at a time, the last; it counts over what other methods set.
    pub fn broken(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }

    /// The mandate. Signing twice makes two, with a `jti` and an authority record each.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test cannot go on without a mandate")]
    pub fn sign(&self) -> String {
        let claims = self.claims();
        match self.flaw {
            None => self.key.try_sign(&Value::from(claims).to_string()),
            Some(flaw) => flaw.sign(&self.key, claims, self.now),
        }
        .expect("the system has randomness for a signature")
    }

    /// Inbound contract §7.2.
    fn claims(&self) -> Map<String, Value> {
        let mut claims = Map::new();
        let mut set = |name: &str, value: Value| {
            claims.insert(name.to_owned(), value);
        };
        set("iss", json!(self.issuer));
        set("sub", json!(self.application));
        set("aud", json!([self.audience]));
        set("exp", json!(self.now.saturating_add(self.lifetime).as_secs()));
        set("iat", json!(self.now.as_secs()));
        set("jti", json!(new_id()));
        set("zone_id", json!(self.zone));
        set("client_id", json!(self.application));
        set("sid", json!(new_id()));
        set("root_sid", json!(new_id()));
        set("use", json!(self.token_use));
        set("sub_type", json!("application"));
        set("target", json!([self.audience]));
        if let Some(scope) = &self.scope {
            set("scope", json!(scope));
        }
        let mut session = self.session.as_deref();
        if let Some(presented) = self.hops.last() {
            let receiver = session.get_or_insert("session-1");
            let path: Vec<_> = self.hops.iter().map(|hop| &hop.edge).collect();
            let given = self.hops.iter().map(|hop| {
                json!({
                    "application_id": hop.application,
                    "agent_session_id": hop.session,
                    "delegation_edge_id": hop.edge,
                })
            });
            let received =
                json!({ "application_id": self.application, "agent_session_id": receiver });
            set("delegation_edge_id", json!(presented.edge));
            set("source_session_id", json!(presented.session));
            set("target_session_id", json!(receiver));
            set("delegation_path", json!(path));
            set("delegation_chain", given.chain(iter::once(received)).collect());
            set("hop_count", json!(self.hops.len()));
            set("delegation_graph_epoch", json!(self.hops.len()));
        }
        if let Some(session) = session {
            set("agent_session_id", json!(session));
        }
        for (name, value) in &self.changes {
            match value {
                Some(value) => claims.insert(name.clone(), value.clone()),
                None => claims.remove(name),
            };
        }
        claims
    }
}

/// An id that there was not yet.
fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}
