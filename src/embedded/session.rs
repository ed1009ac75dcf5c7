//! A governed session of an agent.

use serde_json::{Map, Value, json};

use super::{time::Time, world::Limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Active,
    Suspended,
    Terminated,
    Expired,
}

impl Status {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
        }
    }
}

/// What ends a session by itself.
pub(super) enum Lifecycle {
    /// Its ttl, in seconds.
    Task { ttl: u64 },
    /// A lease that nobody renews.
    Service(Lease),
}

pub(super) struct Lease {
    pub(super) deadline: Time,
    pub(super) heartbeat: Time,
    /// Each takeover raises it, so that a former holder is told from the present one.
    pub(super) generation: u64,
}

pub(super) struct Session {
    pub(super) id: String,
    pub(super) application: String,
    pub(super) parent: Option<String>,
    /// The authority record that it was started with.
    pub(super) record: String,
    /// Whose record that is, if it is a user's.
    pub(super) user: Option<String>,
    pub(super) lifecycle: Lifecycle,
    pub(super) labels: Vec<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) depth: u64,
    pub(super) status: Status,
    pub(super) started: Time,
    pub(super) ended: Option<(Time, String)>,
}

impl Session {
    pub(super) fn is_live(&self) -> bool {
        matches!(self.status, Status::Active | Status::Suspended)
    }

    /// When the ttl of a task is over.
    pub(super) fn task_end(&self) -> Option<Time> {
        match self.lifecycle {
            Lifecycle::Task { ttl } => Some(self.started.plus_seconds(ttl)),
            Lifecycle::Service(_) => None,
        }
    }

    pub(super) fn is_past_ttl(&self, now: Time) -> bool {
        self.task_end().is_some_and(|end| end <= now)
    }

    /// Live by the clock, whether a sweep has noticed or not: what takes room in zone and
    /// application.
    pub(super) fn takes_room(&self, now: Time) -> bool {
        self.is_live() && !self.is_past_ttl(now)
    }

    /// Whether it may act and delegate: the clock decides, whether a sweep has noticed or not.
    pub(super) fn can_act(&self, now: Time) -> bool {
        self.status == Status::Active && !self.is_past_ttl(now) && !self.is_past_deadline(now)
    }

    /// Whether the lease of a service has run out.
    pub(super) fn is_past_deadline(&self, now: Time) -> bool {
        self.lease().is_some_and(|lease| lease.deadline <= now)
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        match &self.lifecycle {
            Lifecycle::Service(lease) => Some(lease),
            Lifecycle::Task { .. } => None,
        }
    }

    pub(super) const fn lifecycle_name(&self) -> &'static str {
        match self.lifecycle {
            Lifecycle::Task { .. } => "task",
            Lifecycle::Service(_) => "service",
        }
    }

    /// The sweep that finds it lapsed: a service without heartbeats, a task past its ttl.
    pub(super) fn lapse(&self, start: Time, limits: &Limits) -> Option<Time> {
        match (&self.lifecycle, self.status) {
            (Lifecycle::Service(lease), Status::Active) => {
                Some(lease.deadline.next_tick(start, limits.service_sweep_seconds))
            }
            (Lifecycle::Task { .. }, Status::Active | Status::Suspended) => {
                Some(self.task_end()?.next_tick(start, limits.task_sweep_seconds))
            }
            _ => None,
        }
    }

    fn generation(&self) -> u64 {
        self.lease().map_or(0, |lease| lease.generation)
    }

    /// The members that every answer about a session has.
    fn members(&self, zone: &str) -> Map<String, Value> {
        let ttl = match self.lifecycle {
            Lifecycle::Task { ttl } => Some(ttl),
            Lifecycle::Service(_) => None,
        };
        let members = json!({
            "agent_session_id": self.id,
            "zone_id": zone,
            "application_id": self.application,
            "parent_id": self.parent,
            "subject_authority_record_id": self.record,
            "lifecycle": self.lifecycle_name(),
            "labels": self.labels,
            "status": self.status.name(),
            "depth": self.depth,
            "ttl_seconds": ttl,
            "started_at": self.started.text(),
            "last_heartbeat_at": self.lease().map(|lease| lease.heartbeat.text()),
            "heartbeat_deadline_at": self.lease().map(|lease| lease.deadline.text()),
        });
        let Value::Object(members) = members else { return Map::new() };
        members
    }

    /// The answer to its start.
    pub(super) fn started_json(&self, zone: &str, edge: Option<&str>) -> Value {
        let mut members = self.members(zone);
        members.insert("lease_generation".into(), self.generation().into());
        members.insert("delegation_edge_id".into(), edge.into());
        members.into()
    }

    /// An entry in the list of its parent's children.
    pub(super) fn child_json(&self, zone: &str) -> Value {
        let mut members = self.members(zone);
        members.insert("metadata".into(), self.metadata.clone().into());
        members.into()
    }

    /// The detail. The generation is a string here, as the real one passes on what its database
    /// driver makes of a 64-bit integer (outbound contract §3.9).
    pub(super) fn detail_json(&self, zone: &str) -> Value {
        let mut members = self.members(zone);
        let ended = self.ended.as_ref();
        members.insert("metadata".into(), self.metadata.clone().into());
        members.insert("terminated_at".into(), ended.map(|(at, _)| at.text()).into());
        members.insert("termination_reason".into(), ended.map(|(_, why)| why.clone()).into());
        members.insert("lease_generation".into(), self.generation().to_string().into());
        members.into()
    }
}
