//! Granting a token: credentials, references, policy, lifetime, claims (outbound contract §2.3–2.5,
//! inbound contract §7).

use std::{sync::Arc, time::Duration};

use aws_lc_rs::constant_time;
use serde_json::{Map, Value, json};

use super::{
    Refusal, Text,
    form::{Form, Subject},
    references::{Delegated, References},
    refusal,
};
use crate::embedded::{
    keys::{SigningKey, text},
    policy::{self, LIFECYCLE, Question},
    registry::Registered,
    state::{Parts, State, new_id},
    time::Time,
    world::Limits,
    zone::Zone,
};

const DEFAULT_TTL: Duration = Duration::from_secs(900);
/// The longest life of a token, without a subject token and with one.
const MAX_TTL_SECONDS: u64 = 3600;
const MAX_TTL_SECONDS_WITH_SUBJECT: u64 = 900;

// In the order in which they are judged, references (`references`) before the resources.
const LOCKED: Refusal =
    refusal(429, "provider_rate_limited", "too many wrong secrets; wait a minute");
pub(super) const CREDENTIALS: Refusal = refusal(401, "access_denied", "invalid client credentials");
const ZONE: Refusal = refusal(
    403,
    "zone_invalid",
    "the application is registered in another zone than the one named",
);
const FEDERATION: Refusal =
    refusal(401, "invalid_token", "the zone accepts no identity provider's tokens");
const NO_RESOURCE: Refusal = refusal(400, "invalid_token", "name at least one resource");
pub(super) const SUBJECT: Refusal = refusal(401, "invalid_token", "invalid subject_token");
const SUBJECT_FOREIGN: Refusal = refusal(403, "access_denied", "authority record client mismatch");
const SUBJECT_RECORD: Refusal = refusal(403, "access_denied", "authority record mismatch");
const APPROVAL: Refusal = refusal(401, "access_denied", "there is no such approval");
const NEEDS_APPROVAL: Refusal =
    refusal(403, "access_denied", "a scope needs approval, which cannot be given here yet");
const TTL_NEGATIVE: Refusal = refusal(400, "invalid_token", "ttl_seconds must be positive");
const TTL_TOO_LONG: Refusal = refusal(400, "invalid_token", "ttl_seconds exceeds the most");
const CONSTRAINT_EXPIRED: Refusal = refusal(403, "access_denied", "delegation constraint expired");
pub(super) const BROKEN: Refusal = refusal(500, "internal_error", "the token could not be signed");

/// A token that is granted and not signed yet.
pub(in crate::embedded) struct Minted {
    key: Arc<SigningKey>,
    pub(super) claims: Map<String, Value>,
    expires_in: u64,
}

impl Minted {
    /// The answer to the form.
    /// The token alone.
    pub(in crate::embedded) fn token(&self) -> Result<String, Refusal> {
        self.key.sign(&self.claims).map_err(|_| BROKEN)
    }

    /// The answer of the token endpoint.
    pub(super) fn sign(self) -> Result<Value, Refusal> {
        let token = self.token()?;
        let mut answer = json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "target_resources": self.claims.get("target"),
        });
        if let (Some(members), Some(scope)) = (answer.as_object_mut(), self.claims.get("scope")) {
            members.insert("scope".into(), scope.clone());
        }
        Ok(answer)
    }
}

/// Judges a form and grants its token.
pub(super) fn grant(state: &mut State, form: &Form, issuer: &str) -> Result<Minted, Refusal> {
    let now = state.now();
    if state.locked(&form.application, now) {
        return Err(LOCKED);
    }
    judge_credentials(state, form, now)?;
    if matches!(form.subject, Some(Subject::IdToken)) {
        return Err(FEDERATION);
    }
    if form.resources.is_empty() {
        return Err(NO_RESOURCE);
    }
    let Parts { zone, known, limits } = state.parts(&form.zone).ok_or(CREDENTIALS)?;
    if let Some(Subject::AccessToken(token)) = &form.subject {
        judge_subject(form, token, zone, now)?;
    }
    if form.approval.is_some() {
        return Err(APPROVAL);
    }
    let references = References::judge(form, zone, known, now)?;
    let scopes = form.scopes();
    let scopes = scopes.as_slice();
    let mut asked = Asked { form, scopes, references: &references, known, limits, reason: None };
    let mut targets = Vec::new();
    for name in &form.resources {
        targets.extend(asked.grants(name, zone, now));
    }
    if targets.is_empty() {
        return Err(Refusal {
            status: 403,
            code: "access_denied",
            text: Text::Denied(asked.reason),
        });
    }
    if known.approvals_needed.iter().any(|scope| scopes.contains(&scope.as_str())) {
        return Err(NEEDS_APPROVAL);
    }
    targets.sort();
    let lifetime = lifetime(form, references.delegation.as_ref(), now)?;
    mint(form, references, &targets, lifetime, zone, issuer, now)
}

/// Whether the secret is that of the application, and the zone the one it is registered in.
fn judge_credentials(state: &mut State, form: &Form, now: Time) -> Result<(), Refusal> {
    let found = state.registry.application(&form.application).filter(|(_, application)| {
        let (given, right) = (form.secret.as_bytes(), application.client_secret.as_bytes());
        !application.archived && constant_time::verify_slices_are_equal(given, right).is_ok()
    });
    match found.map(|(zone, _)| zone == form.zone) {
        Some(true) => Ok(()),
        Some(false) if !form.zone.is_empty() => Err(ZONE),
        _ if state.secret_failed(&form.application, now) => Err(LOCKED),
        _ => Err(CREDENTIALS),
    }
}

/// A token presented by its own application, live and for lifecycle operations. Policy then
/// refuses it all the same: only the Gateway may exchange tokens.
fn judge_subject(form: &Form, token: &str, zone: &Zone, now: Time) -> Result<(), Refusal> {
    let claims = zone.keys.verify(token, now).ok_or(SUBJECT)?;
    let in_time = claims.get("exp").and_then(Value::as_u64).is_some_and(|exp| now.seconds() < exp);
    let record = text(&claims, "sid");
    if !in_time || text(&claims, "use") != "session" || zone.live_record(record, now).is_none() {
        return Err(SUBJECT);
    }
    if text(&claims, "client_id") != form.application {
        return Err(SUBJECT_FOREIGN);
    }
    if form.record.as_ref().is_some_and(|named| named != record) {
        return Err(SUBJECT_RECORD);
    }
    Ok(())
}

/// A form, and what is known when its resources are judged.
struct Asked<'a> {
    form: &'a Form,
    scopes: &'a [&'a str],
    references: &'a References,
    known: &'a Registered,
    limits: &'a Limits,
    /// The first reason that policy gave.
    reason: Option<&'static str>,
}

impl Asked<'_> {
    /// The identifier of a resource that is granted. One that is unknown, does not declare the
    /// scopes, lies outside the delegation or was minted for too often is passed over without a
    /// word; what policy denies leaves its reason.
    fn grants(&mut self, name: &str, zone: &mut Zone, now: Time) -> Option<String> {
        let resource = self.known.resource(name)?;
        let declared =
            self.scopes.iter().all(|scope| *scope == LIFECYCLE || resource.declares(scope));
        let delegation = self.references.delegation.as_ref();
        let outside = delegation.is_some_and(|edge| !edge.resources.contains(&resource.identifier));
        if !declared || outside {
            return None;
        }
        let counter = (resource.identifier.clone(), self.form.application.clone());
        let most = self.limits.mints_per_minute_per_resource_and_application;
        if zone.mints.hit(counter, now) > most {
            return None;
        }
        let question = Question {
            application: &self.form.application,
            resource: &resource.identifier,
            scopes: self.scopes,
            subject: self.form.subject.is_some(),
            session: self.references.session.as_ref().map(|session| &*session.labels),
            delegated: delegation.is_some(),
        };
        match policy::judge(self.known, &question) {
            Ok(()) => Some(resource.identifier.clone()),
            Err(reason) => {
                self.reason.get_or_insert(reason);
                None
            }
        }
    }
}

/// How long the token lives: as asked or by default, cut to what its delegation has left.
pub(super) fn lifetime(
    form: &Form,
    delegation: Option<&Delegated>,
    now: Time,
) -> Result<Duration, Refusal> {
    let asked = u64::try_from(form.ttl).map_err(|_| TTL_NEGATIVE)?;
    let most = if form.subject.is_some() { MAX_TTL_SECONDS_WITH_SUBJECT } else { MAX_TTL_SECONDS };
    if asked > most {
        return Err(TTL_TOO_LONG);
    }
    let mut lifetime = if asked == 0 { DEFAULT_TTL } else { Duration::from_secs(asked) };
    if let Some(delegation) = delegation {
        lifetime = lifetime.min(delegation.expires.left(now));
        if let Some(ttl) = delegation.constraints.ttl_seconds() {
            lifetime = lifetime.min(Duration::from_secs(ttl));
        }
        if let Some(end) = delegation.constraints.expires_at() {
            lifetime = lifetime.min(end.left(now));
        }
        if lifetime.is_zero() {
            return Err(CONSTRAINT_EXPIRED);
        }
    }
    Ok(lifetime)
}

/// The claims of inbound contract §7.2, with a new authority record.
pub(super) fn mint(
    form: &Form,
    references: References,
    targets: &[String],
    lifetime: Duration,
    zone: &mut Zone,
    issuer: &str,
    now: Time,
) -> Result<Minted, Refusal> {
    let expires = Time::from_seconds(now.plus(lifetime).seconds());
    let key = zone.keys.signer(now).map_err(|_| BROKEN)?;
    let record = zone.add_record(&form.application, expires, now);
    let claims = json!({
        "iss": issuer,
        "sub": form.application,
        "aud": [issuer],
        "exp": expires.seconds(),
        "iat": now.seconds(),
        "jti": new_id(),
        "zone_id": form.zone,
        "client_id": form.application,
        "sid": record,
        "root_sid": record,
        "use": if references.delegation.is_some() { "gateway" } else { "session" },
        "sub_type": "application",
        "target": targets,
    });
    let Value::Object(mut claims) = claims else { return Err(BROKEN) };
    if !form.scope.is_empty() {
        claims.insert("scope".into(), form.scope.clone().into());
    }
    if let Some(session) = references.session {
        claims.insert("agent_session_id".into(), session.id.into());
    }
    if let Some(delegation) = references.delegation {
        claims.extend(delegation.claims);
    }
    Ok(Minted { key, claims, expires_in: lifetime.as_secs() })
}
