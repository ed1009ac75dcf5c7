//! Granting a token: credentials, references, policy, lifetime, claims (outbound contract §2.3–2.5,
//! inbound contract §7).

use std::{sync::Arc, time::Duration};

use aws_lc_rs::constant_time;
use serde_json::{Map, Value, json};

use super::{
    Refusal, Text, federation,
    form::{Form, Subject},
    holds,
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
const NO_RESOURCE: Refusal = refusal(400, "invalid_token", "name at least one resource");
pub(super) const SUBJECT: Refusal = refusal(401, "invalid_token", "invalid subject_token");
const SUBJECT_FOREIGN: Refusal = refusal(403, "access_denied", "authority record client mismatch");
const SUBJECT_RECORD: Refusal = refusal(403, "access_denied", "authority record mismatch");
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
        });
        let Some(members) = answer.as_object_mut() else { return Err(BROKEN) };
        for (member, claim) in [("scope", "scope"), ("target_resources", "target")] {
            if let Some(value) = self.claims.get(claim) {
                members.insert(member.into(), value.clone());
            }
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
    if let Some(Subject::IdToken(token)) = &form.subject {
        let user = federation::judge(state, form, token, now)?;
        let lifetime = lifetime(form, None, now)?;
        let zone = state.zone(&form.zone).ok_or(CREDENTIALS)?;
        let term = Term::new(form, Some(&user), lifetime, zone, now);
        return mint_for_user(form, &user, &term, zone, issuer, now);
    }
    if form.resources.is_empty() {
        return Err(NO_RESOURCE);
    }
    let Parts { zone, known, limits } = state.parts(&form.zone).ok_or(CREDENTIALS)?;
    if let Some(Subject::AccessToken(token)) = &form.subject {
        judge_subject(form, token, zone, now)?;
    }
    let named = holds::judge_named(form, zone, known, now)?;
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
    let permit = match named {
        Some(permit) => Some(permit),
        None => holds::judge(form, &references, zone, known, now)?,
    };
    targets.sort();
    let lifetime = lifetime(form, references.delegation.as_ref(), now)?;
    let used = permit.as_ref().and_then(|permit| permit.record.as_ref());
    let term = match used {
        Some((record, end)) => Term::again(record, *end, lifetime, now),
        None => Term::new(form, None, lifetime, zone, now),
    };
    let minted = mint(form, references, &targets, &term, zone, issuer, now)?;
    if let Some(permit) = permit {
        permit.consume(zone, &term.record, now);
    }
    Ok(minted)
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
    let most = match form.subject {
        Some(Subject::AccessToken(_)) => MAX_TTL_SECONDS_WITH_SUBJECT,
        Some(Subject::IdToken(_)) | None => MAX_TTL_SECONDS,
    };
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

/// An authority record, and how long its token lives.
pub(super) struct Term {
    record: String,
    lifetime: Duration,
    expires: Time,
}

impl Term {
    /// A new record; for a user where there is one.
    pub(super) fn new(
        form: &Form,
        user: Option<&str>,
        lifetime: Duration,
        zone: &mut Zone,
        now: Time,
    ) -> Self {
        let expires = Time::from_seconds(now.plus(lifetime).seconds());
        let record = zone.add_record(&form.application, user, expires, now);
        Self { record, lifetime, expires }
    }

    /// The record that an approval was used for before. It lives no longer by that.
    fn again(record: &str, end: Time, lifetime: Duration, now: Time) -> Self {
        let lifetime = lifetime.min(end.left(now));
        let expires = Time::from_seconds(now.plus(lifetime).seconds());
        Self { record: record.to_owned(), lifetime, expires }
    }
}

/// The claims of inbound contract §7.2.
pub(super) fn mint(
    form: &Form,
    references: References,
    targets: &[String],
    term: &Term,
    zone: &mut Zone,
    issuer: &str,
    now: Time,
) -> Result<Minted, Refusal> {
    let key = zone.keys.signer(now).map_err(|_| BROKEN)?;
    let claims = json!({
        "iss": issuer,
        "sub": form.application,
        "aud": [issuer],
        "exp": term.expires.seconds(),
        "iat": now.seconds(),
        "jti": new_id(),
        "zone_id": form.zone,
        "client_id": form.application,
        "sid": term.record,
        "root_sid": term.record,
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
    Ok(Minted { key, claims, expires_in: term.lifetime.as_secs() })
}

/// The session mandate of a user, which by itself is for nothing.
fn mint_for_user(
    form: &Form,
    user: &str,
    term: &Term,
    zone: &mut Zone,
    issuer: &str,
    now: Time,
) -> Result<Minted, Refusal> {
    let key = zone.keys.signer(now).map_err(|_| BROKEN)?;
    let claims = json!({
        "iss": issuer,
        "sub": user,
        "aud": [issuer],
        "exp": term.expires.seconds(),
        "iat": now.seconds(),
        "jti": new_id(),
        "zone_id": form.zone,
        "client_id": form.application,
        "sid": term.record,
        "root_sid": term.record,
        "use": "session",
        "sub_type": "user",
    });
    let Value::Object(claims) = claims else { return Err(BROKEN) };
    Ok(Minted { key, claims, expires_in: term.lifetime.as_secs() })
}
