//! Starting a session (outbound contract §3.3).

use serde_json::{Map, Value, json};

use super::{
    Answer, Call,
    members::Members,
    receipts::Keyed,
    refusal::{self, Refusal, refuse_if},
};
use crate::embedded::{
    session::{Lease, Lifecycle, Session, Status},
    state::new_id,
    time::Time,
    zone::{Edge, Zone},
};

const MAX_CHILDREN: usize = 10;
const MAX_DEPTH: u64 = 10;
const DEFAULT_TTL_SECONDS: u64 = 3600;
pub(super) const MAX_TTL_SECONDS: u64 = 86_400;

/// The body of a start.
struct Start<'b> {
    application: &'b str,
    record: Option<&'b str>,
    parent: Option<&'b str>,
    service: bool,
    labels: Vec<String>,
    ttl: u64,
    inherit: bool,
    inherited_edge: Option<&'b str>,
    metadata: Map<String, Value>,
}

impl<'b> Start<'b> {
    fn read(body: Option<&'b Value>) -> Result<Self, Refusal> {
        let mut members = Members::of(body)?;
        let application = members.string("application_id");
        let record = members.optional_string("subject_session_id");
        let parent = members.nullable_text("parent_id");
        let service = members.word("lifecycle", &["task", "service"]) == "service";
        let labels = members.labels("labels");
        let ttl = members.integer("ttl_seconds", 1, MAX_TTL_SECONDS);
        let inherit = members.word("parent_authority", &["inherit", "none"]) == "inherit";
        let inherited_edge = members.optional_string("inherit_parent_edge_id");
        let metadata = members.object("metadata");
        if service && ttl.is_some() {
            members.wrong(&["ttl_seconds"], "a service has a lease that it renews, and no ttl");
        }
        members.check()?;
        let ttl = ttl.unwrap_or(DEFAULT_TTL_SECONDS);
        Ok(Self {
            application,
            record,
            parent,
            service,
            labels,
            ttl,
            inherit,
            inherited_edge,
            metadata,
        })
    }

    /// Whether a database could not store it.
    fn cannot_be_stored(&self) -> bool {
        let texts = [Some(self.application), self.record, self.parent, self.inherited_edge];
        self.parent == Some("")
            || texts.into_iter().flatten().any(|text| text.contains('\0'))
            || self.labels.iter().any(|label| label.contains('\0'))
            || self.metadata.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
    }

    /// What a key stands for: the request with its defaults, as this caller sends it.
    fn digest(&self, subject: &str, record: &str) -> Value {
        json!({
            "subject": subject,
            "application": self.application,
            "record": record,
            "parent": self.parent,
            "service": self.service,
            "labels": self.labels,
            "ttl": self.ttl,
            "inherit": self.inherit,
            "inherited_edge": self.inherited_edge,
            "metadata": self.metadata,
        })
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

impl Call<'_> {
    pub(super) fn start(self) -> Result<Answer, Refusal> {
        let start = Start::read(self.body)?;
        refuse_if(start.application != self.caller.application, refusal::NOT_YOUR_APPLICATION)?;
        let record = start.record.unwrap_or(&self.caller.record);
        let digest = start.digest(&self.caller.subject, record);
        let keyed = Keyed::read(&self.head.headers, start.application, "start", digest)?;
        let Self { zone, known, limits, .. } = self;
        if let Some(keyed) = &keyed {
            let is_live = |zone: &Zone, id: &str| {
                zone.sessions.get(id).is_some_and(|session| is_live_result(session, self.now))
            };
            if let Some(answer) = keyed.replay(zone, self.now, is_live)? {
                return Ok(answer);
            }
        }
        refuse_if(start.cannot_be_stored(), refusal::CANNOT_BE_STORED)?;
        let dynamic = known.applications.get(start.application).is_some_and(|known| known.dynamic);
        refuse_if(dynamic && start.service, refusal::DYNAMIC_HOSTS_NO_SERVICE)?;
        refuse_if(dynamic && start.parent.is_some(), refusal::DYNAMIC_IS_NO_CHILD)?;
        let user = zone.live_record(record, self.now).map(|record| record.user.clone());
        let user = user.ok_or(refusal::RECORD_NOT_FOUND)?;
        let in_zone: Vec<_> =
            zone.sessions.values().filter(|session| session.takes_room(self.now)).collect();
        let own = in_zone.iter().filter(|session| session.application == start.application).count();
        refuse_if(in_zone.len() >= limits.sessions_per_zone, refusal::ZONE_IS_FULL)?;
        refuse_if(dynamic && own > 0, refusal::DYNAMIC_IS_BOUND)?;
        refuse_if(own >= limits.sessions_per_application, refusal::APPLICATION_IS_FULL)?;
        let parent = match start.parent {
            Some(parent) => Some(find_parent(&start, parent, zone, |application| {
                known.applications.get(application).is_some_and(|known| known.dynamic)
            })?),
            None => None,
        };
        let depth = parent.map_or(0, |parent| parent.depth + 1);
        let inherited = match parent {
            Some(parent) if start.inherit => inherited_edge(&start, parent, zone, self.now)?,
            _ => None,
        };
        let lifecycle = if start.service {
            Lifecycle::Service(Lease {
                deadline: self.now.plus_seconds(limits.service_lease_seconds),
                heartbeat: self.now,
                generation: 1,
            })
        } else {
            Lifecycle::Task { ttl: start.ttl }
        };
        let session = Session {
            id: new_id(),
            application: start.application.to_owned(),
            parent: start.parent.map(str::to_owned),
            record: record.to_owned(),
            user,
            lifecycle,
            labels: start.labels,
            metadata: start.metadata,
            depth,
            status: Status::Active,
            started: self.now,
            ended: None,
        };
        let edge = inherited.map(|edge| {
            let mirror = Edge { id: new_id(), target: session.id.clone(), ..edge };
            zone.add_edge(mirror).id.clone()
        });
        let answer = session.started_json(self.zone_id, edge.as_deref());
        let id = session.id.clone();
        zone.add_session(session);
        if let Some(keyed) = keyed {
            keyed.keep(zone, &id, &answer, self.now);
        }
        Ok(Answer::created(answer))
    }
}

/// A session that a replay may answer with: a suspended one is, one past its end is not.
fn is_live_result(session: &Session, now: Time) -> bool {
    let lapsed = session.status == Status::Active && session.is_past_deadline(now);
    session.takes_room(now) && !lapsed
}

fn find_parent<'z>(
    start: &Start<'_>,
    id: &str,
    zone: &'z Zone,
    is_dynamic: impl Fn(&str) -> bool,
) -> Result<&'z Session, Refusal> {
    let parent = zone
        .sessions
        .get(id)
        .filter(|parent| parent.status == Status::Active)
        .ok_or(refusal::PARENT_NOT_FOUND)?;
    refuse_if(is_dynamic(&parent.application), refusal::DYNAMIC_STARTS_NO_CHILD)?;
    refuse_if(start.service && parent.lease().is_none(), refusal::TASK_STARTS_NO_SERVICE)?;
    refuse_if(parent.application != start.application, refusal::NOT_YOUR_PARENT)?;
    let is_child = |session: &&Session| session.parent.as_deref() == Some(id) && session.is_live();
    let children = zone.sessions.values().filter(is_child).count();
    refuse_if(children >= MAX_CHILDREN, refusal::TOO_MANY_CHILDREN)?;
    refuse_if(parent.depth >= MAX_DEPTH, refusal::TOO_DEEP)?;
    Ok(parent)
}

/// The mirror of the delegation that a child takes over, but for its id and target. A parent that
/// never had one hands on none.
fn inherited_edge(
    start: &Start<'_>,
    parent: &Session,
    zone: &Zone,
    now: Time,
) -> Result<Option<Edge>, Refusal> {
    let received = |edge: &&Edge| edge.target == parent.id && edge.receiver == start.application;
    let edges: Vec<_> = zone.edges.values().filter(received).collect();
    let mut live = edges.iter().filter(|edge| edge.is_live(now));
    let edge = match start.inherited_edge {
        Some(id) => live.find(|edge| edge.id == id).ok_or(refusal::INHERITS_NOTHING)?,
        None if edges.is_empty() => return Ok(None),
        None => {
            let edge = live.next().ok_or(refusal::INHERITS_NOTHING)?;
            refuse_if(live.next().is_some(), refusal::INHERITS_WHICH)?;
            edge
        }
    };
    Ok(Some(Edge {
        id: String::new(),
        source: parent.id.clone(),
        target: String::new(),
        issuer: start.application.to_owned(),
        receiver: start.application.to_owned(),
        parent: Some(edge.id.clone()),
        resource: edge.resource.clone(),
        scopes: edge.scopes.clone(),
        constraints: edge.constraints.clone(),
        expires: edge.expires,
        created: now,
        revoked: None,
        version: 0,
    }))
}
