//! The token exchange (RFC 8693) of the STS.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::{
    ApprovalState, CaracalError, ClientEvent, Credentials,
    hints::{LIFECYCLE, MINT, MINT_DELEGATED},
    hooks::Hooks,
    http::{Answer, Endpoint},
};
use crate::{BearerToken, Clock, TraceId};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The longest life a token of the STS can have, with room for one that is configured otherwise.
const LONGEST_LIFE: u64 = 86_400;

/// The scope of a token that starts and ends sessions.
pub(super) const LIFECYCLE_SCOPE: &str = "agent:lifecycle";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    /// Trimmed, sorted, each once; the STS sorts as well.
    resources: Vec<String>,
    scopes: Vec<String>,
    pub(super) session: Option<String>,
    pub(super) delegation: Option<String>,
    pub(super) ttl: Option<u64>,
    /// An approval that was given for it.
    pub(super) approval: Option<String>,
    /// Whether it is the client's own, which no caller is given.
    pub(super) own: bool,
}

impl Wanted {
    pub(super) fn new<R, S>(resources: R, scopes: S) -> Self
    where
        R: IntoIterator<Item: AsRef<str>>,
        S: IntoIterator<Item: AsRef<str>>,
    {
        // The STS splits the text of all scopes at blanks.
        let scopes: Vec<String> = scopes
            .into_iter()
            .flat_map(|scopes| {
                let scopes = scopes.as_ref().split_whitespace();
                scopes.map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        Self {
            resources: sorted(resources),
            scopes: sorted(scopes),
            session: None,
            delegation: None,
            ttl: None,
            approval: None,
            own: false,
        }
    }

    /// Whether each use of it needs a mint of its own.
    pub(super) fn is_one_shot(&self) -> bool {
        self.session.is_some() && self.delegation.is_some() || self.approval.is_some()
    }

    fn action(&self) -> &'static str {
        match (&self.delegation, &*self.scopes) {
            (None, [scope]) if scope == LIFECYCLE_SCOPE => LIFECYCLE,
            (None, _) => MINT,
            (Some(_), _) => MINT_DELEGATED,
        }
    }

    fn form(&self, credentials: &Credentials) -> String {
        let mut form = application_form(credentials);
        for resource in &self.resources {
            form.append_pair("resource", resource);
        }
        form.append_pair("scope", &self.scopes.join(" "));
        let ttl = self.ttl.map(|ttl| ttl.to_string());
        let optional = [
            ("agent_session_id", &self.session),
            ("delegation_edge_id", &self.delegation),
            ("ttl_seconds", &ttl),
            ("approval_id", &self.approval),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        form.finish()
    }
}

fn sorted(values: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
    let trimmed = values.into_iter().map(|value| value.as_ref().trim().to_owned());
    trimmed.filter(|value| !value.is_empty()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A token, and for whom it was minted.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) bearer: BearerToken,
    pub(super) zone: Arc<str>,
    pub(super) application: Arc<str>,
    /// The authority record that its bearer acts under, where the token says so.
    pub(super) sid: Option<Arc<str>>,
    /// What it was minted for; nothing is known of one that was given.
    pub(super) wanted: Option<Arc<Wanted>>,
    /// When it was minted and how long it lives, by the monotonic clock; a token that was given
    /// lasts as long as it may.
    pub(super) life: Option<Life>,
}

#[derive(Clone, Copy)]
pub(super) struct Life {
    pub(super) from: Duration,
    pub(super) length: Duration,
}

impl Life {
    pub(super) fn left(&self, now: Duration) -> Duration {
        self.from.saturating_add(self.length).saturating_sub(now)
    }

    /// Whether it lasts for long enough to be handed out again: a minute, or half its life.
    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        self.left(now) > Duration::from_secs(60).min(self.length / 2)
    }
}

impl Token {
    /// A token that was given.
    pub(super) fn given(bearer: BearerToken, zone: &str, application: &str) -> Self {
        let sid = sid(bearer.expose());
        Self {
            bearer,
            zone: zone.into(),
            application: application.into(),
            sid,
            wanted: None,
            life: None,
        }
    }
}

/// The STS.
pub(super) struct Sts {
    pub(super) endpoint: Endpoint,
    /// Of exchanges.
    pub(super) url: Url,
    /// What other routes are below.
    pub(super) base: Url,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hooks: Arc<Hooks>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: Option<String>,
    expires_in: Value,
    scope: Option<String>,
}

impl Sts {
    /// Asks for a token, once: an exchange is never repeated by itself, for each success makes
    /// another authority record.
    pub(super) async fn exchange(
        &self,
        wanted: &Wanted,
        credentials: &Credentials,
    ) -> Result<Token, CaracalError> {
        let started = self.clock.monotonic();
        // By this id the audit trail of the STS knows the exchange, also where no answer comes.
        let request_id = TraceId::random();
        let request = self
            .endpoint
            .request(Method::POST, &self.url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header("x-request-id", request_id.as_str())
            .body(wanted.form(credentials));
        let answered = self.endpoint.send(wanted.action(), request).await;
        let status = answered.as_ref().ok().map(|answer| answer.status.as_u16());
        let token = answered
            .and_then(|answer| self.read(wanted.action(), wanted, credentials, started, &answer))
            .map_err(|error| error.of_request(request_id.as_str()));
        let error = token.as_ref().err();
        self.hooks.tell(&ClientEvent::TokenExchange {
            ok: error.is_none(),
            cached: false,
            resources: wanted.resources.clone(),
            scopes: wanted.scopes.clone(),
            status: status.or_else(|| Some(error?.status()?.as_u16())),
            code: error.map(|error| error.code().to_owned()),
            request_id: Some(request_id.as_str().to_owned()),
            duration: self.clock.monotonic().saturating_sub(started),
        });
        token
    }

    /// Tells of a token that need not be asked for.
    pub(super) fn tell_cached(&self, wanted: &Wanted) {
        self.hooks.tell(&ClientEvent::TokenExchange {
            ok: true,
            cached: true,
            resources: wanted.resources.clone(),
            scopes: wanted.scopes.clone(),
            status: None,
            code: None,
            request_id: None,
            duration: Duration::ZERO,
        });
    }

    /// How an approval stands: `None` where the answer does not say.
    pub(super) async fn approval_state(
        &self,
        path: &str,
        wait: u64,
    ) -> Result<Option<ApprovalState>, CaracalError> {
        #[derive(Deserialize)]
        struct Stands {
            state: Option<ApprovalState>,
        }
        const ACTION: &str = "wait for an approval";
        let url = self.base.join(path).map_err(|_| CaracalError::usage("invalid_id", "no URL"))?;
        let limit = Duration::from_secs(wait + 10);
        let request = self.endpoint.request(Method::GET, &url).timeout(limit);
        let answer = self.endpoint.send(ACTION, request).await?;
        if answer.status != StatusCode::OK {
            return Err(self.endpoint.refusal(ACTION, &answer, &[]));
        }
        let stands: Stands = serde_json::from_slice(&answer.body)
            .map_err(|_| self.endpoint.unusable(ACTION, &answer, "its body says no state"))?;
        Ok(stands.state)
    }

    /// Makes a record of a user, who is known by the token of an identity provider. Never repeated.
    pub(super) async fn federate(
        &self,
        credentials: &Credentials,
        subject_token: &str,
        ttl: Option<u64>,
    ) -> Result<Token, CaracalError> {
        const ACTION: &str = "federate a user";
        let started = self.clock.monotonic();
        let request_id = TraceId::random();
        let request = self
            .endpoint
            .request(Method::POST, &self.url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header("x-request-id", request_id.as_str())
            .body(federation_form(credentials, subject_token, ttl));
        let answered = self.endpoint.send(ACTION, request).await;
        let token = answered.and_then(|answer| {
            if !answer.status.is_success() {
                let secrets = [credentials.secret.expose(), subject_token];
                return Err(self.endpoint.refusal(ACTION, &answer, &secrets));
            }
            let wanted = Wanted { ttl, ..Wanted::new([""; 0], [""; 0]) };
            self.read(ACTION, &wanted, credentials, started, &answer)
        });
        token.map_err(|error| error.of_request(request_id.as_str()))
    }

    fn read(
        &self,
        action: &'static str,
        wanted: &Wanted,
        credentials: &Credentials,
        started: Duration,
        answer: &Answer,
    ) -> Result<Token, CaracalError> {
        if !answer.status.is_success() {
            let secrets = [credentials.secret.expose()];
            return Err(self.endpoint.refusal(action, answer, &secrets));
        }
        let unusable = |problem| self.endpoint.unusable(action, answer, problem);
        if !is_json(answer) {
            return Err(unusable("its content type is not that of JSON"));
        }
        let granted: Granted = serde_json::from_slice(&answer.body)
            .map_err(|_| unusable("its body is no token response"))?;
        // A token goes into a header: what is not visible ASCII is none.
        let token = granted.access_token;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable("its access_token is no bearer token"));
        }
        if granted.token_type.is_some_and(|kind| kind != "Bearer") {
            return Err(unusable("its token_type is not Bearer"));
        }
        let longest = wanted.ttl.unwrap_or(LONGEST_LIFE);
        let lives = granted.expires_in.as_u64().filter(|lives| (1..=longest).contains(lives));
        let lives = lives.ok_or_else(|| unusable("its expires_in makes no sense"))?;
        let scopes = granted.scope.unwrap_or_default();
        let wider = |scope: &str| !wanted.scopes.iter().any(|wanted| wanted == scope);
        if scopes.split_ascii_whitespace().any(wider) {
            return Err(unusable("it grants scopes that were not asked for"));
        }
        Ok(Token {
            sid: sid(&token),
            bearer: BearerToken::new(token),
            zone: Arc::clone(&credentials.zone),
            application: Arc::clone(&credentials.application),
            wanted: Some(Arc::new(wanted.clone())),
            life: Some(Life { from: started, length: Duration::from_secs(lives) }),
        })
    }
}

/// The form that makes a user known. It names no resource, no scope and no session.
fn federation_form(credentials: &Credentials, subject_token: &str, ttl: Option<u64>) -> String {
    let mut form = application_form(credentials);
    form.append_pair("subject_token", subject_token)
        .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:id_token");
    if let Some(ttl) = ttl {
        form.append_pair("ttl_seconds", &ttl.to_string());
    }
    form.finish()
}

/// The beginning of every form: who asks.
fn application_form(credentials: &Credentials) -> form_urlencoded::Serializer<'static, String> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", GRANT_TYPE)
        .append_pair("zone_id", &credentials.zone)
        .append_pair("application_id", &credentials.application)
        .append_pair("client_secret", credentials.secret.expose());
    form
}

fn is_json(answer: &Answer) -> bool {
    let Some(kind) = answer.headers.get(header::CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind == "application/json" || kind.ends_with("+json")
}

pub(super) const SEGMENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `sid` of the token's claims. It is this process's own token: what it says is only repeated to
/// who issued it.
fn sid(token: &str) -> Option<Arc<str>> {
    #[derive(Deserialize)]
    struct Claims {
        sid: Option<String>,
    }
    let payload = SEGMENT.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    claims.sid.filter(|sid| !sid.is_empty()).map(Arc::from)
}
