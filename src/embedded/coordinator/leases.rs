//! What is done to a session: end, heartbeat, takeover, suspension (outbound contract §3.4–3.6,
//! §3.9).

use serde_json::json;

use super::{
    Answer, Call,
    members::Members,
    reads::Query,
    refusal::{self, Refusal, refuse_if},
};
use crate::embedded::{
    constraints::integer,
    session::{Lease, Lifecycle, Status},
    zone::Zone,
};

/// The largest generation that a client can write without losing digits.
const MAX_GENERATION: u64 = (1 << 53) - 1;

impl Call<'_> {
    pub(super) fn end(self, id: &str) -> Result<Answer, Refusal> {
        let query = Query::read(self.head.uri.query());
        let reason = query.text("reason", 256)?.unwrap_or("requested");
        let generation = self.generation_of_body()?;
        let session = self.own(id)?;
        if let Some(lease) = session.lease() {
            let generation = generation.ok_or(refusal::GENERATION_REQUIRED)?;
            refuse_if(generation != lease.generation, refusal::LEASE_FENCED)?;
        }
        refuse_if(!session.is_live(), refusal::SESSION_NOT_FOUND)?;
        self.zone.end(&[id.to_owned()], Status::Terminated, reason, self.now);
        Ok(Answer::done())
    }

    /// The generation in a body that may be absent or null. This route names no faults.
    fn generation_of_body(&self) -> Result<Option<u64>, Refusal> {
        let Some(body) = self.body.filter(|body| !body.is_null()) else { return Ok(None) };
        let members = body.as_object().ok_or(refusal::INVALID_BODY)?;
        let Some(value) = members.get("lease_generation") else { return Ok(None) };
        let generation = integer(value).filter(|generation| *generation >= 1);
        generation.map(Some).ok_or(refusal::INVALID_BODY)
    }

    pub(super) fn heartbeat(self, id: &str) -> Result<Answer, Refusal> {
        let mut members = Members::of(self.body)?;
        members.word("status", &["healthy", "starting", "degraded", "unhealthy"]);
        let generation = members.required_integer("lease_generation", 1, MAX_GENERATION);
        let service = members.optional_string("service_id");
        let invocations = members.integer("active_invocations", 0, MAX_GENERATION).unwrap_or(0);
        members.object("metadata");
        members.check()?;
        let session = self.own(id)?;
        refuse_if(!session.is_live(), refusal::SESSION_NOT_LIVE)?;
        let lease = session.lease().ok_or(refusal::SESSION_NOT_SERVICE)?;
        if !self.zone.has_its_user(session, self.now) {
            return Err(self.without_user(id));
        }
        refuse_if(lease.generation != generation, refusal::LEASE_FENCED)?;
        let status = session.status;
        if status == Status::Active && lease.deadline <= self.now {
            self.zone.suspend(id, self.now);
            return Err(refusal::LEASE_EXPIRED);
        }
        // No service endpoint is ever registered here.
        refuse_if(service.is_some(), refusal::SERVICE_NOT_FOUND)?;
        let lease = lease_mut(self.zone, id).ok_or(refusal::SESSION_NOT_SERVICE)?;
        lease.heartbeat = self.now;
        lease.deadline = self.now.plus_seconds(self.limits.service_lease_seconds);
        Ok(Answer::ok(json!({
            "agent": {
                "id": id,
                "zone_id": self.zone_id,
                "application_id": self.caller.application,
                "status": status.name(),
                "last_active_at": self.now.text(),
                "last_heartbeat_at": self.now.text(),
                "heartbeat_deadline_at": lease.deadline.text(),
                "lease_generation": lease.generation,
            },
            "service": null,
            "active_invocations": invocations,
        })))
    }

    pub(super) fn takeover(self, id: &str) -> Result<Answer, Refusal> {
        let session = self.own(id)?;
        let lease = session.lease().ok_or(refusal::SESSION_NOT_SERVICE)?;
        refuse_if(session.status == Status::Suspended, refusal::SESSION_SUSPENDED)?;
        refuse_if(!session.is_live(), refusal::SESSION_NOT_LIVE)?;
        if !self.zone.has_its_user(session, self.now) {
            return Err(self.without_user(id));
        }
        if lease.deadline <= self.now {
            self.zone.suspend(id, self.now);
            return Err(refusal::LEASE_EXPIRED);
        }
        let lease = lease_mut(self.zone, id).ok_or(refusal::SESSION_NOT_SERVICE)?;
        lease.generation += 1;
        lease.deadline = self.now.plus_seconds(self.limits.service_lease_seconds);
        Ok(Answer::ok(json!({
            "status": "active",
            "heartbeat_deadline_at": lease.deadline.text(),
            "lease_generation": lease.generation,
        })))
    }

    /// Ends a service whose user is gone.
    fn without_user(self, id: &str) -> Refusal {
        let root = [id.to_owned()];
        self.zone.end(&root, Status::Terminated, "subject_authority_inactive", self.now);
        refusal::SUBJECT_INACTIVE
    }

    pub(super) fn suspend(self, id: &str) -> Result<Answer, Refusal> {
        refuse_if(self.own(id)?.status != Status::Active, refusal::NOT_ACTIVE)?;
        Ok(Answer::ok(json!({ "suspended": self.zone.suspend(id, self.now) })))
    }

    pub(super) fn resume(self, id: &str) -> Result<Answer, Refusal> {
        refuse_if(self.own(id)?.status != Status::Suspended, refusal::NOT_SUSPENDED)?;
        Ok(Answer::ok(json!({ "resumed": self.zone.resume(id, self.now, self.limits) })))
    }
}

fn lease_mut<'z>(zone: &'z mut Zone, id: &str) -> Option<&'z mut Lease> {
    match &mut zone.sessions.get_mut(id)?.lifecycle {
        Lifecycle::Service(lease) => Some(lease),
        Lifecycle::Task { .. } => None,
    }
}
