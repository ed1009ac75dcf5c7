//! The form of the token endpoint (outbound contract §2.2): what is refused before anybody asks
//! who sends it.

use std::collections::{BTreeSet, HashSet};

use http::{HeaderMap, header};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::{Refusal, refusal};
use crate::embedded::{
    keys::text,
    web::{Received, escapes_are_whole},
};

/// The largest form that is taken.
const MAX_FORM: usize = 65_536;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// Any of them claims that the Gateway sends the form.
const GATEWAY_HEADERS: [&str; 3] =
    ["x-caracal-gateway-timestamp", "x-caracal-gateway-request", "x-caracal-gateway-signature"];

// In the order in which they are judged.
const QUERY: Refusal = refusal(400, "invalid_token", "this endpoint takes no query");
const CONTENT_TYPE: Refusal =
    refusal(415, "invalid_token", "send a form: application/x-www-form-urlencoded");
const TOO_LARGE: Refusal = refusal(413, "payload_too_large", "the form is larger than 64 KiB");
const UNDECODABLE: Refusal = refusal(400, "invalid_token", "the form cannot be decoded");
const REPEATED: Refusal =
    refusal(400, "invalid_token", "only `resource` may stand in a form more than once");
const ACTOR_TOKEN: Refusal = refusal(400, "invalid_token", "actor_token is not supported");
const CLIENT_ASSERTION: Refusal =
    refusal(400, "invalid_token", "client_assertion is not supported: use client_secret");
const CLIENT_ASSERTION_TYPE: Refusal =
    refusal(400, "invalid_token", "client_assertion_type is not supported: use client_secret");
const TTL: Refusal = refusal(400, "invalid_token", "ttl_seconds is no integer");
const GATEWAY: Refusal = refusal(401, "access_denied", "that is not the Gateway's signature");
const BLANK_RESOURCE: Refusal = refusal(400, "invalid_token", "a resource is blank");
const GRANT: Refusal = refusal(400, "invalid_token", "the grant_type must be a token exchange");
const TOKEN_TYPE: Refusal = refusal(400, "invalid_token", "unsupported subject_token_type");
const TYPE_MISSING: Refusal =
    refusal(400, "invalid_token", "subject_token needs a subject_token_type");
const TOKEN_MISSING: Refusal =
    refusal(400, "invalid_token", "subject_token_type needs a subject_token");

/// A token presented in the form.
pub(in crate::embedded) enum Subject {
    AccessToken(String),
    /// Of an identity provider, for one of its users.
    IdToken(String),
}

/// A form of the right syntax.
pub(in crate::embedded) struct Form {
    pub(in crate::embedded) zone: String,
    pub(in crate::embedded) application: String,
    pub(super) secret: String,
    /// Trimmed, without doubles, sorted.
    pub(in crate::embedded) resources: BTreeSet<String>,
    /// As sent.
    pub(in crate::embedded) scope: String,
    pub(in crate::embedded) session: Option<String>,
    pub(in crate::embedded) edge: Option<String>,
    pub(in crate::embedded) record: Option<String>,
    pub(super) approval: Option<String>,
    /// 0 asks for the default.
    pub(super) ttl: i64,
    pub(super) subject: Option<Subject>,
}

impl Form {
    pub(super) fn read(head: &http::request::Parts, body: &Received) -> Result<Self, Refusal> {
        if head.uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(QUERY);
        }
        if !is_form(&head.headers) {
            return Err(CONTENT_TYPE);
        }
        let Received::Whole(body) = body else { return Err(TOO_LARGE) };
        if body.len() > MAX_FORM {
            return Err(TOO_LARGE);
        }
        if !escapes_are_whole(body) || body.contains(&b';') {
            return Err(UNDECODABLE);
        }
        let fields: Vec<_> = form_urlencoded::parse(body).into_owned().collect();
        let mut seen = HashSet::new();
        if !fields.iter().all(|(name, _)| name == "resource" || seen.insert(name)) {
            return Err(REPEATED);
        }
        for (name, refusal) in [
            ("actor_token", ACTOR_TOKEN),
            ("client_assertion", CLIENT_ASSERTION),
            ("client_assertion_type", CLIENT_ASSERTION_TYPE),
        ] {
            if seen.contains(&name.to_owned()) {
                return Err(refusal);
            }
        }
        let get =
            |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, v)| v.as_str());
        let given = |name: &str| get(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let ttl = given("ttl_seconds").map_or(Ok(0), |ttl| ttl.parse().map_err(|_| TTL))?;
        let is_from_gateway = GATEWAY_HEADERS
            .iter()
            .any(|name| head.headers.get(*name).is_some_and(|v| !v.is_empty()));
        if is_from_gateway {
            return Err(GATEWAY);
        }
        let named = fields.iter().filter(|(name, _)| name == "resource");
        let resources: BTreeSet<_> = named.map(|(_, value)| value.trim().to_owned()).collect();
        if resources.contains("") {
            return Err(BLANK_RESOURCE);
        }
        if get("grant_type") != Some(GRANT_TYPE) {
            return Err(GRANT);
        }
        let subject = match (given("subject_token"), given("subject_token_type").as_deref()) {
            (None, None) => None,
            (_, Some(other)) if ![ACCESS_TOKEN, ID_TOKEN].contains(&other) => {
                return Err(TOKEN_TYPE);
            }
            (Some(_), None) => return Err(TYPE_MISSING),
            (None, Some(_)) => return Err(TOKEN_MISSING),
            (Some(token), Some(ID_TOKEN)) => Some(Subject::IdToken(token)),
            (Some(token), Some(_)) => Some(Subject::AccessToken(token)),
        };
        let trimmed = |name| get(name).unwrap_or_default().trim().to_owned();
        Ok(Self {
            zone: trimmed("zone_id"),
            application: trimmed("application_id"),
            secret: get("client_secret").unwrap_or_default().to_owned(),
            resources,
            scope: get("scope").unwrap_or_default().to_owned(),
            session: given("agent_session_id"),
            edge: given("delegation_edge_id"),
            record: given("session_id"),
            approval: given("approval_id"),
            ttl,
            subject,
        })
    }

    /// What the Gateway asks for in the place of who presents a mandate with these claims: its
    /// scopes, session and delegation at one resource.
    pub(super) fn of_mandate(claims: &Map<String, Value>, resource: &str) -> Self {
        let given = |name| Some(text(claims, name)).filter(|it| !it.is_empty()).map(str::to_owned);
        Self {
            zone: text(claims, "zone_id").to_owned(),
            application: text(claims, "client_id").to_owned(),
            secret: String::new(),
            resources: BTreeSet::from([resource.to_owned()]),
            scope: text(claims, "scope").to_owned(),
            session: given("agent_session_id"),
            edge: given("delegation_edge_id"),
            record: None,
            approval: None,
            ttl: 0,
            subject: None,
        }
    }

    /// The scopes asked, doubles included.
    pub(super) fn scopes(&self) -> Vec<&str> {
        self.scope.split_whitespace().collect()
    }
}

/// Whether the content type is that of a form, each of its parameters with a value.
fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut parts = content_type.unwrap_or_default().split(';');
    let media_type = parts.next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && parts.all(|parameter| {
            parameter.trim().is_empty()
                || parameter
                    .split_once('=')
                    .is_some_and(|(name, value)| ![name, value].map(str::trim).contains(&""))
        })
}
