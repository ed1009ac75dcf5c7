//! The session, delegation and record that a mint names (outbound contract §2.5).

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{Refusal, form::Form, refusal};
use crate::embedded::{
    constraints::Constraints,
    registry::Registered,
    session::Session,
    time::Time,
    zone::{Edge, Zone},
};

const fn denied(text: &'static str) -> Refusal {
    refusal(403, "access_denied", text)
}

// In the order in which they are judged.
const RECORD_INACTIVE: Refusal = denied("authority record inactive or expired");
const RECORD_FOREIGN: Refusal = denied("authority record not owned by caller");
const SESSION_INACTIVE: Refusal = denied("session inactive or expired");
const SESSION_FOREIGN: Refusal = denied("session not owned by caller");
const NO_TARGET: Refusal = denied("delegation requires a target Session");
const EDGE_INACTIVE: Refusal = denied("delegation edge inactive or expired");
const EDGE_TARGET: Refusal = denied("delegation edge target mismatch");
const SOURCE_INACTIVE: Refusal = denied("delegation source inactive or expired");
const TARGET_INACTIVE: Refusal = denied("delegation target inactive or unauthorized");
const CONSTRAINTS: Refusal = denied("delegation constraints invalid");
const SCOPES: Refusal = denied("requested scopes exceed delegation scopes");
const TTL: Refusal = denied("requested ttl exceeds delegation ttl");
const PATH: Refusal = denied("delegation path invalid");
const ENDPOINTS: Refusal = denied("delegation chain endpoints mismatch");

/// The platform's most, whatever an edge says.
const MAX_HOPS: u64 = 10;

/// What a mint refers to, once it may.
#[derive(Default)]
pub(super) struct References {
    pub(super) session: Option<Acting>,
    pub(super) delegation: Option<Delegated>,
}

/// The session that acts.
pub(super) struct Acting {
    pub(super) id: String,
    pub(super) labels: Vec<String>,
    /// The user whom it acts for.
    pub(super) user: Option<String>,
}

/// The delegation that it acts under.
pub(super) struct Delegated {
    /// The claims that tell of it.
    pub(super) claims: Map<String, Value>,
    pub(super) expires: Time,
    pub(super) constraints: Constraints,
    /// The identifiers of the resources that it is for.
    pub(super) resources: Vec<String>,
}

impl References {
    pub(super) fn judge(
        form: &Form,
        zone: &Zone,
        known: &Registered,
        now: Time,
    ) -> Result<Self, Refusal> {
        if let Some(record) = &form.record {
            let record = zone.live_record(record, now).ok_or(RECORD_INACTIVE)?;
            if record.application != form.application || record.user.is_some() {
                return Err(RECORD_FOREIGN);
            }
        }
        let (session, path) = match (&form.session, &form.edge) {
            (None, None) => return Ok(Self::default()),
            (None, Some(_)) => return Err(NO_TARGET),
            (Some(session), None) => (own_session(form, session, zone, now)?, Vec::new()),
            (Some(session), Some(edge)) => under_delegation(form, session, edge, zone, now)?,
        };
        let delegation = path.last().map(|edge| Delegated {
            claims: delegation_claims(&path, edge, session, zone.epoch),
            expires: edge.expires,
            constraints: edge.constraints.clone(),
            resources: edge.resources(known),
        });
        let session = Acting {
            id: session.id.clone(),
            labels: session.labels.clone(),
            user: session.user.clone(),
        };
        Ok(Self { session: Some(session), delegation })
    }
}

fn own_session<'z>(
    form: &Form,
    id: &str,
    zone: &'z Zone,
    now: Time,
) -> Result<&'z Session, Refusal> {
    let session = zone.acting(id, now).ok_or(SESSION_INACTIVE)?;
    if session.application == form.application { Ok(session) } else { Err(SESSION_FOREIGN) }
}

/// The session and the edges that lead to it, from the origin to the one presented.
fn under_delegation<'z>(
    form: &Form,
    session: &str,
    edge: &str,
    zone: &'z Zone,
    now: Time,
) -> Result<(&'z Session, Vec<&'z Edge>), Refusal> {
    let live = |id: &str| zone.edges.get(id).filter(|edge| edge.is_live(now));
    let edge = live(edge).ok_or(EDGE_INACTIVE)?;
    if edge.target != session {
        return Err(EDGE_TARGET);
    }
    zone.acting(&edge.source, now).ok_or(SOURCE_INACTIVE)?;
    let target = zone
        .acting(session, now)
        .filter(|target| target.application == form.application)
        .ok_or(TARGET_INACTIVE)?;
    judge_limits(form, edge)?;
    let path = lineage(edge, live).ok_or(PATH)?;
    if path.first().is_none_or(|first| first.issuer != edge.issuer) {
        return Err(ENDPOINTS);
    }
    Ok((target, path))
}

/// The claims that tell of a delegation (inbound contract §7.2).
fn delegation_claims(
    path: &[&Edge],
    edge: &Edge,
    session: &Session,
    epoch: u64,
) -> Map<String, Value> {
    let mut chain: Vec<Value> = path
        .iter()
        .map(|edge| {
            json!({
                "application_id": edge.issuer,
                "agent_session_id": edge.source,
                "delegation_edge_id": edge.id,
            })
        })
        .collect();
    chain.push(json!({
        "application_id": session.application,
        "agent_session_id": session.id,
    }));
    let claims = json!({
        "delegation_edge_id": edge.id,
        "source_session_id": edge.source,
        "target_session_id": edge.target,
        "delegation_path": path.iter().map(|edge| &edge.id).collect::<Vec<_>>(),
        "delegation_chain": chain,
        "hop_count": path.len(),
        "delegation_graph_epoch": epoch,
    });
    let Value::Object(claims) = claims else { return Map::new() };
    claims
}

/// Whether the mint stays within the presented edge. The edges above it are not asked.
fn judge_limits(form: &Form, edge: &Edge) -> Result<(), Refusal> {
    if !edge.constraints.are_known_to_the_sts() {
        return Err(CONSTRAINTS);
    }
    let held: HashSet<_> = edge.scopes.iter().map(String::as_str).collect();
    if !form.scopes().iter().all(|scope| held.contains(scope)) {
        return Err(SCOPES);
    }
    let most = edge.constraints.ttl_seconds();
    if most.is_some_and(|most| u64::try_from(form.ttl).is_ok_and(|ttl| ttl > most)) {
        return Err(TTL);
    }
    Ok(())
}

/// The edges from the root down to `edge`, all of them live. The way up may be as long as the
/// edge's own `max_hops` (`hops.md`).
fn lineage<'z>(edge: &'z Edge, live: impl Fn(&str) -> Option<&'z Edge>) -> Option<Vec<&'z Edge>> {
    let most = edge.constraints.max_hops().min(MAX_HOPS);
    let mut path = vec![edge];
    let mut top = edge;
    while let Some(parent) = &top.parent {
        top = live(parent)?;
        path.push(top);
        if path.len() as u64 > most {
            return None;
        }
    }
    path.reverse();
    Some(path)
}
