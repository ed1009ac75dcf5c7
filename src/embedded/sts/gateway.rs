//! What the Gateway asks the STS for: a mandate for one resource in exchange for the one that was
//! presented (outbound contract §6.1, step 14).

use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::{
    Refusal, Text,
    exchange::{BROKEN, CREDENTIALS, Minted, SUBJECT, Term, lifetime, mint},
    form::Form,
    references::References,
    refusal,
};
use crate::embedded::{
    keys::text,
    policy::{self, Question},
    registry::Registered,
    state::{Parts, State},
    time::Time,
    world::Resource,
    zone::Zone,
};

const UNDECLARED: Refusal =
    refusal(403, "operation_not_permitted", "the resource declares no such operation");
const SCOPE_MISSING: Refusal =
    refusal(403, "operation_not_permitted", "the operation takes a scope that the mandate lacks");

/// The use of a mandate.
pub(in crate::embedded) struct Use<'a> {
    pub(in crate::embedded) token: &'a str,
    pub(in crate::embedded) zone: &'a str,
    pub(in crate::embedded) application: &'a str,
    pub(in crate::embedded) resource: &'a str,
    pub(in crate::embedded) method: &'a Method,
    /// As sent, without the query.
    pub(in crate::embedded) path: &'a str,
}

/// Judges the use of a mandate and grants one for the resource. A person has approved it, where that
/// was needed, when it was minted.
pub(in crate::embedded) fn exchange(
    state: &mut State,
    used: &Use<'_>,
    issuer: &str,
) -> Result<Minted, Refusal> {
    let now = state.now();
    let Parts { zone, known, limits } = state.parts(used.zone).ok_or(CREDENTIALS)?;
    let registered = known.applications.get(used.application);
    registered.filter(|application| !application.archived).ok_or(CREDENTIALS)?;
    let presented = presented(used, zone, now)?;
    let form = Form::of_mandate(&presented, used.resource);
    let references = References::judge(&form, zone, known, now)?;
    let delegation = references.delegation.as_ref().ok_or(SUBJECT)?;
    let resource = known
        .resource(used.resource)
        .filter(|resource| delegation.resources.contains(&resource.identifier))
        .ok_or_else(|| denied(None))?;
    let scopes = form.scopes();
    judge_operation(resource, used, &scopes)?;
    let counter = (resource.identifier.clone(), form.application.clone());
    if zone.mints.hit(counter, now) > limits.mints_per_minute_per_resource_and_application {
        return Err(denied(None));
    }
    judge_policy(known, resource, &references, &presented, &scopes)?;
    let lifetime = lifetime(&form, Some(delegation), now)?;
    let targets = [resource.identifier.clone()];
    let term = Term::new(&form, None, lifetime, zone, now);
    let mut minted = mint(&form, references, &targets, &term, zone, issuer, now)?;
    // It speaks for whom the presented one spoke, to the resource.
    let Value::Object(instead) = json!({
        "use": "resource",
        "aud": targets,
        "root_sid": presented.get("root_sid"),
        "sub": presented.get("sub"),
        "sub_type": presented.get("sub_type"),
    }) else {
        return Err(BROKEN);
    };
    minted.claims.extend(instead);
    Ok(minted)
}

/// The claims of a mandate for the Gateway that is in force.
fn presented(used: &Use<'_>, zone: &Zone, now: Time) -> Result<Map<String, Value>, Refusal> {
    let claims = zone.keys.verify(used.token, now).ok_or(SUBJECT)?;
    let in_time = claims.get("exp").and_then(Value::as_u64).is_some_and(|exp| now.seconds() < exp);
    let is_live = zone.live_record(text(&claims, "sid"), now).is_some();
    let holds = in_time && is_live && text(&claims, "use") == "gateway";
    if holds && text(&claims, "client_id") == used.application { Ok(claims) } else { Err(SUBJECT) }
}

const fn denied(reason: Option<&'static str>) -> Refusal {
    Refusal { status: 403, code: "access_denied", text: Text::Denied(reason) }
}

/// Operations are pairs of a method in upper case and a literal path.
fn judge_operation(resource: &Resource, used: &Use<'_>, scopes: &[&str]) -> Result<(), Refusal> {
    let Some(operations) = &resource.upstream.operations else { return Ok(()) };
    let method = used.method.as_str().to_ascii_uppercase();
    let path = percent_decode_str(used.path).decode_utf8_lossy();
    let declared = operations
        .iter()
        .find(|declared| declared.method == method && declared.path == path.trim())
        .ok_or(UNDECLARED)?;
    if scopes.contains(&declared.scope.as_str()) { Ok(()) } else { Err(SCOPE_MISSING) }
}

fn judge_policy(
    known: &Registered,
    resource: &Resource,
    references: &References,
    presented: &Map<String, Value>,
    scopes: &[&str],
) -> Result<(), Refusal> {
    let question = Question {
        application: text(presented, "client_id"),
        resource: &resource.identifier,
        scopes,
        subject: false,
        session: references.session.as_ref().map(|session| &*session.labels),
        delegated: true,
    };
    let targets = presented.get("target").and_then(Value::as_array);
    let is_target = targets.is_some_and(|all| all.contains(&json!(resource.identifier)));
    policy::judge_use(known, &question, is_target).map_err(|reason| denied(Some(reason)))
}
