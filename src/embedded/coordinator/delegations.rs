//! Making and revoking delegations (outbound contract §3.7–3.8).

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use super::{
    Answer, Call,
    members::Members,
    receipts::Keyed,
    refusal::{self, Refusal, refuse_if},
    starts::MAX_TTL_SECONDS,
};
use crate::embedded::{
    constraints::Constraints,
    registry::Registered,
    state::new_id,
    time::Time,
    zone::{Edge, Zone},
};

/// The body of a delegation.
struct Delegation<'b> {
    issuer: &'b str,
    source: &'b str,
    target: &'b str,
    receiver: &'b str,
    parent: Option<&'b str>,
    resource: Option<&'b str>,
    scopes: Vec<String>,
    constraints: Constraints,
    /// When it says that it ends; its ttl says otherwise.
    expires_at: Option<Time>,
}

impl<'b> Delegation<'b> {
    fn read(body: Option<&'b Value>) -> Result<Self, Refusal> {
        let mut members = Members::of(body)?;
        let issuer = members.string("issuer_application_id");
        let source = members.string("source_session_id");
        let target = members.string("target_session_id");
        let receiver = members.string("receiver_application_id");
        let parent = members.optional_string("parent_edge_id");
        let resource = members.nullable_string("resource_id");
        let scopes = members.strings("scopes");
        let ttl = members.integer("ttl_seconds", 1, MAX_TTL_SECONDS);
        let expires_at = members.time("expires_at");
        let (constraints, other) = (members.get("constraints"), members.get("constraints_json"));
        members.check()?;
        let constraints =
            Constraints::read(constraints, other, ttl).map_err(refusal::wrong_constraint)?;
        let expires_at = expires_at.or(constraints.expires_at());
        refuse_if(
            expires_at.is_none() && constraints.ttl_seconds().is_none(),
            refusal::EXPIRY_REQUIRED,
        )?;
        Ok(Self {
            issuer,
            source,
            target,
            receiver,
            parent,
            resource,
            scopes,
            constraints,
            expires_at,
        })
    }

    /// What a key stands for. The order of scopes does not count, how the resource is named does.
    fn digest(&self, subject: &str) -> Value {
        let mut scopes = self.scopes.clone();
        scopes.sort();
        json!({
            "subject": subject,
            "issuer": self.issuer,
            "source": self.source,
            "target": self.target,
            "receiver": self.receiver,
            "parent": self.parent,
            "resource": self.resource,
            "scopes": scopes,
            "constraints": self.constraints.json(),
            "expires_at": self.expires_at.map(Time::text),
        })
    }

    fn end(&self, now: Time) -> Time {
        let by_ttl = || now.plus_seconds(self.constraints.ttl_seconds().unwrap_or_default());
        self.expires_at.unwrap_or_else(by_ttl)
    }

    /// Whether both ends can act and belong to the applications named.
    fn judge_ends(&self, zone: &Zone, now: Time) -> Result<(), Refusal> {
        let live = |id| zone.sessions.get(id).filter(|session| session.can_act(now));
        let (Some(source), Some(target)) = (live(self.source), live(self.target)) else {
            return Err(refusal::ENDPOINT_NOT_FOUND);
        };
        refuse_if(
            source.application != self.issuer || target.application != self.receiver,
            refusal::ENDPOINT_MISMATCH,
        )
    }

    /// The row id of the resource, if one is named, and the identifiers of all that are named or
    /// listed, once they are known and declare the scopes.
    fn judge_resources(
        &self,
        known: &Registered,
    ) -> Result<(Option<String>, Vec<String>), Refusal> {
        let listed = self.constraints.resources();
        let mut declaring = Vec::new();
        let resource = match self.resource {
            Some(name) => Some(known.resource(name).ok_or(refusal::RESOURCE_NOT_FOUND)?),
            None => None,
        };
        declaring.extend(resource);
        for name in &listed {
            declaring.push(known.resource_named(name).ok_or(refusal::RESOURCE_NOT_FOUND)?);
        }
        let is_listed = |name: &String| listed.is_empty() || listed.contains(&name.as_str());
        refuse_if(
            resource.is_some_and(|resource| !is_listed(&resource.identifier)),
            refusal::RESOURCE_MISMATCH,
        )?;
        let is_declared = |scope: &String| declaring.iter().any(|one| one.declares(scope));
        refuse_if(!self.scopes.iter().all(is_declared), refusal::SCOPES_EXCEED_RESOURCE)?;
        // The one named first, then those listed.
        let others: BTreeSet<_> = listed
            .into_iter()
            .filter(|name| resource.is_none_or(|resource| resource.identifier != *name))
            .collect();
        let named = resource.map(|resource| resource.identifier.as_str()).into_iter();
        let named = named.chain(others).map(str::to_owned).collect();
        Ok((resource.map(|resource| resource.id.clone()), named))
    }

    /// The edge that it descends from: a session with authority passes on a part of that, one
    /// without any begins anew, whatever parent it names.
    fn parent_edge<'z>(&self, inbound: &[&'z Edge]) -> Result<Option<&'z Edge>, Refusal> {
        match (inbound, self.parent) {
            ([], _) => Ok(None),
            (inbound, Some(id)) => {
                let named = inbound.iter().find(|edge| edge.id == id).copied();
                named.map(Some).ok_or(refusal::PARENT_EDGE_NOT_ACTIVE)
            }
            ([only], None) => Ok(Some(only)),
            (_, None) => Err(refusal::PARENT_EDGE_WHICH),
        }
    }

    /// Whether it stays within what its parent edge allows.
    fn is_within(&self, parent: &Edge, edge: &Edge, known: &Registered) -> bool {
        let (resources, of_parent) = (edge.resources(known), parent.resources(known));
        let held: HashSet<_> = parent.scopes.iter().collect();
        let ttl_fits = parent
            .constraints
            .ttl_seconds()
            .is_none_or(|most| edge.constraints.ttl_seconds().is_some_and(|ttl| ttl <= most));
        // Without a budget of its own it spends one for each scope.
        let budget = edge.constraints.budget().unwrap_or(edge.scopes.len() as u64);
        let budget_fits = parent.constraints.budget().is_none_or(|most| budget <= most);
        let hops = parent.constraints.max_hops();
        edge.scopes.iter().all(|scope| held.contains(scope))
            && resources.iter().all(|resource| of_parent.contains(resource))
            && edge.expires <= parent.expires
            && ttl_fits
            && budget_fits
            && hops >= 2
            && edge.constraints.max_hops() < hops
    }
}

impl Edge {
    /// The identifiers of the resources that it is for: the one named, else those listed.
    pub(in crate::embedded) fn resources(&self, known: &Registered) -> Vec<String> {
        match &self.resource {
            Some(id) => {
                known.resource(id).map(|found| found.identifier.clone()).into_iter().collect()
            }
            None => self.constraints.resources().into_iter().map(str::to_owned).collect(),
        }
    }

    /// An entry in lists.
    pub(super) fn json(&self, zone: &str) -> Value {
        json!({
            "id": self.id,
            "zone_id": zone,
            "source_session_id": self.source,
            "target_session_id": self.target,
            "issuer_application_id": self.issuer,
            "receiver_application_id": self.receiver,
            "parent_edge_id": self.parent,
            "resource_id": self.resource,
            "scopes": self.scopes,
            "constraints_json": self.constraints.json(),
            "status": if self.revoked.is_some() { "revoked" } else { "active" },
            "expires_at": self.expires.text(),
            "edge_version": self.version,
            "revoked_at": self.revoked.map(Time::text),
            "created_at": self.created.text(),
        })
    }

    /// The answer to its creation.
    fn created_json(&self, zone: &str, resources: &[String], considered: &[String]) -> Value {
        let authority = if self.parent.is_some() {
            "parent_authority_narrowed"
        } else {
            "source_authority_root"
        };
        let mut json = self.json(zone);
        if let Some(members) = json.as_object_mut() {
            members.remove("id");
            members.insert("delegation_edge_id".into(), self.id.clone().into());
            members.insert("warnings".into(), json!([]));
            members.insert(
                "allow_reason".into(),
                json!([
                    "same_zone_endpoints_active",
                    "resource_scope_checked",
                    authority,
                    "typed_constraints_validated",
                ]),
            );
            members.insert(
                "effective_authority".into(),
                json!({
                    "source_session_id": self.source,
                    "target_session_id": self.target,
                    "parent_edge_id": self.parent,
                    "resource_id": self.resource,
                    "resources": resources,
                    "scopes": self.scopes,
                    "expires_at": self.expires.text(),
                    "max_hops": self.constraints.max_hops(),
                    "ttl_seconds": self.constraints.ttl_seconds(),
                    "broad": false,
                    "parent_edges_considered": considered,
                }),
            );
        }
        json
    }
}

impl Call<'_> {
    pub(super) fn delegate(self) -> Result<Answer, Refusal> {
        let asked = Delegation::read(self.body)?;
        refuse_if(asked.issuer != self.caller.application, refusal::NOT_YOUR_DELEGATION)?;
        refuse_if(asked.source == asked.target, refusal::SELF_DELEGATION)?;
        // A token of an application never has the scopes that a broad delegation needs.
        let is_broad = asked.resource.is_none() && asked.constraints.resources().is_empty();
        refuse_if(is_broad, refusal::BROAD_DELEGATION)?;
        let digest = asked.digest(&self.caller.subject);
        let keyed = Keyed::read(&self.head.headers, asked.issuer, "delegate", digest)?;
        let Self { zone, known, now, .. } = self;
        if let Some(keyed) = &keyed {
            let is_live =
                |zone: &Zone, id: &str| zone.edges.get(id).is_some_and(|edge| edge.is_live(now));
            if let Some(answer) = keyed.replay(zone, now, is_live)? {
                return Ok(answer);
            }
        }
        asked.judge_ends(zone, now)?;
        let (resource, resources) = asked.judge_resources(known)?;
        let inbound = zone.live_inbound(asked.source, now);
        let considered: Vec<_> = inbound.iter().map(|edge| edge.id.clone()).collect();
        let parent = asked.parent_edge(&inbound)?;
        let edge = Edge {
            id: new_id(),
            source: asked.source.to_owned(),
            target: asked.target.to_owned(),
            issuer: asked.issuer.to_owned(),
            receiver: asked.receiver.to_owned(),
            parent: parent.map(|parent| parent.id.clone()),
            resource,
            scopes: asked.scopes.clone(),
            constraints: asked.constraints.clone(),
            expires: asked.end(now),
            created: now,
            revoked: None,
            version: 0,
        };
        let within = parent.is_none_or(|parent| asked.is_within(parent, &edge, known));
        refuse_if(!within, refusal::EXCEEDS_PARENT)?;
        refuse_if(reaches(zone, asked.target, asked.source, now), refusal::CYCLE)?;
        let expired = match parent {
            Some(_) => refusal::EXCEEDS_PARENT,
            None => refusal::DELEGATION_EXPIRED,
        };
        refuse_if(edge.expires <= now, expired)?;
        let edge = zone.add_edge(edge);
        let (id, answer) =
            (edge.id.clone(), edge.created_json(self.zone_id, &resources, &considered));
        if let Some(keyed) = keyed {
            keyed.keep(zone, &id, &answer, now);
        }
        Ok(Answer::created(answer))
    }

    pub(super) fn revoke(self, id: &str) -> Result<Answer, Refusal> {
        let edge = self.zone.edges.get(id).ok_or(refusal::DELEGATION_NOT_FOUND)?;
        refuse_if(edge.issuer != self.caller.application, refusal::NOT_YOUR_DELEGATION)?;
        refuse_if(edge.revoked.is_some(), refusal::DELEGATION_NOT_FOUND)?;
        let revoked = self.zone.revoke(id, self.now);
        Ok(Answer::ok(json!({
            "revoked_edges": revoked.edges,
            "affected_sessions": revoked.records,
            "terminated_sessions": revoked.sessions,
        })))
    }
}

/// Whether authority flows from one session to another already.
fn reaches(zone: &Zone, from: &str, to: &str, now: Time) -> bool {
    let mut seen = HashSet::from([from]);
    let mut next = vec![from];
    while let Some(session) = next.pop() {
        let leaving =
            zone.edges.values().filter(|edge| edge.source == session && edge.is_live(now));
        for edge in leaving {
            if edge.target == to {
                return true;
            }
            if seen.insert(&edge.target) {
                next.push(&edge.target);
            }
        }
    }
    false
}
