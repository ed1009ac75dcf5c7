//! What operators do: at the real one through its admin API, here by a call.

use uuid::Uuid;

use super::{
    Application, Approval, Approver, EmbeddedCaracal, Grant, Resource, WorldError, Zone, log,
    session::{Session, Status},
    state::State,
    zone,
};

/// Why an operator's action was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// There is no such zone.
    #[error("there is no zone `{0}`")]
    UnknownZone(String),
    /// There is no such session in the zone, or it is not in a state that the action applies to.
    #[error("session `{0}` is unknown, or its state does not allow that")]
    Session(String),
    /// There is no such application in the zone, or it is archived already.
    #[error("there is no application `{0}`")]
    UnknownApplication(String),
    /// There is no such delegation in the zone, or it is revoked already.
    #[error("there is no delegation `{0}` in force")]
    Delegation(String),
    /// There is no such authority record in the zone, or it has ended.
    #[error("there is no authority record `{0}` in force")]
    Record(String),
    /// There is no such user in the zone, or no record of theirs in force.
    #[error("user `{0}` has no authority record in force")]
    User(String),
    /// There is no such approval in the zone, or it is not pending any more.
    #[error("there is no approval `{0}` that is pending")]
    Approval(String),
    /// It is for a user to decide, and for no operator.
    #[error("approval `{0}` is for a user to decide")]
    SubjectApproval(String),
    /// No key could be made.
    #[error("no signing key could be made")]
    Key,
}

impl EmbeddedCaracal {
    /// Adds a zone with all that is in it.
    ///
    /// # Errors
    ///
    /// If it contradicts itself or what there is.
    pub fn add_zone(&self, zone: Zone) -> Result<(), WorldError> {
        self.shared.lock().add_zone(zone)
    }

    /// Adds an application to a zone.
    ///
    /// # Errors
    ///
    /// If there is no such zone, or an application of that id anywhere.
    pub fn add_application(&self, zone: &str, application: Application) -> Result<(), WorldError> {
        self.shared.lock().registry.add_application(zone, application)
    }

    /// Adds a resource to a zone.
    ///
    /// # Errors
    ///
    /// If there is no such zone, or a resource of that name or id.
    pub fn add_resource(&self, zone: &str, resource: Resource) -> Result<(), WorldError> {
        self.shared.lock().registry.add_resource(zone, resource)
    }

    /// Adds a grant to a zone. It counts from the next mint on.
    ///
    /// # Errors
    ///
    /// If it names what there is not, or the resource of another application.
    pub fn add_grant(&self, zone: &str, grant: Grant) -> Result<(), WorldError> {
        self.shared.lock().registry.add_grant(zone, grant)
    }

    /// Signs with a new key from now on, and returns its id. The key before it stays published for
    /// 24 hours, or until the next rotation.
    ///
    /// # Errors
    ///
    /// If there is no such zone.
    pub fn rotate_key(&self, zone: &str) -> Result<String, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let keys = &mut zone_of(&mut state, zone)?.keys;
        let kid = keys.rotate(now).map_err(|_| OperatorError::Key)?.kid.clone();
        drop(state);
        log::operator("rotate key", zone, &kid);
        Ok(kid)
    }

    /// Suspends an active session and the active ones below it; how many.
    ///
    /// # Errors
    ///
    /// If the session is unknown or not active.
    pub fn suspend(&self, zone: &str, session: &str) -> Result<usize, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let known = session_of(&mut state, zone, session, |found| found.status == Status::Active)?;
        let count = known.suspend(session, now);
        drop(state);
        log::operator("suspend", zone, session);
        Ok(count)
    }

    /// Resumes a suspended session and the suspended ones below it; how many.
    ///
    /// # Errors
    ///
    /// If the session is unknown or not suspended.
    pub fn resume(&self, zone: &str, session: &str) -> Result<usize, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let limits = state.limits.clone();
        let known =
            session_of(&mut state, zone, session, |found| found.status == Status::Suspended)?;
        let count = known.resume(session, now, &limits);
        drop(state);
        log::operator("resume", zone, session);
        Ok(count)
    }

    /// Ends a session and all below it, whatever the generation of its lease.
    ///
    /// # Errors
    ///
    /// If the session is unknown or has ended.
    pub fn terminate(&self, zone: &str, session: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let known = session_of(&mut state, zone, session, Session::is_live)?;
        known.end(&[session.to_owned()], Status::Terminated, "requested", now);
        drop(state);
        log::operator("terminate", zone, session);
        Ok(())
    }

    /// Archives an application: its tokens are refused and it gets no new ones. Its sessions go on.
    ///
    /// # Errors
    ///
    /// If there is no such application in the zone.
    pub fn archive_application(&self, zone: &str, application: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let known = state
            .registry
            .zone_mut(zone)
            .map_err(|_| OperatorError::UnknownZone(zone.to_owned()))?;
        let found = known.applications.get_mut(application).filter(|known| !known.archived);
        let found =
            found.ok_or_else(|| OperatorError::UnknownApplication(application.to_owned()))?;
        found.archived = true;
        drop(state);
        log::operator("archive application", zone, application);
        Ok(())
    }

    /// Revokes a session as an operator revokes a subject: it ends with all below it, and resource
    /// servers are told of each and of every delegation that ends with them. Their records live on. (The session's own end tells them nothing: see inbound contract §5.5.)
    ///
    /// # Errors
    ///
    /// If the session is unknown or has ended.
    pub fn revoke_session(&self, zone: &str, session: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let known = session_of(&mut state, zone, session, Session::is_live)?;
        known.revoke_session(session, now);
        drop(state);
        log::operator("revoke session", zone, session);
        Ok(())
    }

    /// Revokes a delegation as its issuer does, with all that follows; how many sessions ended.
    ///
    /// # Errors
    ///
    /// If the delegation is unknown or revoked.
    pub fn revoke_delegation(&self, zone: &str, edge: &str) -> Result<usize, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let known = zone_of(&mut state, zone)?;
        if known.edges.get(edge).is_none_or(|edge| edge.revoked.is_some()) {
            return Err(OperatorError::Delegation(edge.to_owned()));
        }
        let sessions = known.revoke(edge, now).sessions;
        drop(state);
        log::operator("revoke delegation", zone, edge);
        Ok(sessions)
    }

    /// Revokes an authority record (the claim `sid` of a token). Resource servers and the services
    /// themselves know it when it is published.
    ///
    /// # Errors
    ///
    /// If the record is unknown, revoked or past its end.
    pub fn revoke_record(&self, zone: &str, record: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        if !zone_of(&mut state, zone)?.revoke_record(record, now) {
            return Err(OperatorError::Record(record.to_owned()));
        }
        drop(state);
        log::operator("revoke record", zone, record);
        Ok(())
    }
}

impl EmbeddedCaracal {
    /// Revokes a user in a zone: all of their authority records, the sessions that run for them, all
    /// below these, and every delegation that touches one; how many sessions ended. Resource servers
    /// are told of all of it.
    ///
    /// # Errors
    ///
    /// If the user has no record in force.
    pub fn revoke_user(&self, zone: &str, user: &str) -> Result<usize, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let ended = zone_of(&mut state, zone)?.revoke_user(user, now);
        let ended = ended.ok_or_else(|| OperatorError::User(user.to_owned()))?;
        drop(state);
        log::operator("revoke user", zone, user);
        Ok(ended)
    }

    /// The mints of a zone that a person was asked to approve, in the order in which they were held,
    /// decided ones included.
    ///
    /// # Errors
    ///
    /// If there is no such zone.
    pub fn approvals(&self, zone: &str) -> Result<Vec<Approval>, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        Ok(zone_of(&mut state, zone)?.holds.all().map(|hold| hold.told(now)).collect())
    }

    /// Approves a mint: the same request is granted once, until the hold expires. Whoever waits for
    /// it is told at once.
    ///
    /// # Errors
    ///
    /// If there is no such approval in the zone, it is decided or has expired, or it is for a user to
    /// decide.
    pub fn approve(&self, zone: &str, approval: &str) -> Result<(), OperatorError> {
        self.decide(zone, approval, true)
    }

    /// Rejects a mint: the same request is refused until the hold expires.
    ///
    /// # Errors
    ///
    /// As [`approve`](Self::approve).
    pub fn reject(&self, zone: &str, approval: &str) -> Result<(), OperatorError> {
        self.decide(zone, approval, false)
    }

    fn decide(&self, zone: &str, approval: &str, approved: bool) -> Result<(), OperatorError> {
        let unknown = || OperatorError::Approval(approval.to_owned());
        let mut state = self.shared.lock();
        let now = state.now();
        let holds = &mut zone_of(&mut state, zone)?.holds;
        let id = Uuid::parse_str(approval).map_err(|_| unknown())?;
        let hold = holds.get_mut(id).ok_or_else(unknown)?;
        if hold.what().approver == Approver::Subject {
            return Err(OperatorError::SubjectApproval(approval.to_owned()));
        }
        if !hold.decide(approved, now) {
            return Err(unknown());
        }
        state.decided.send_replace(());
        drop(state);
        log::operator(if approved { "approve" } else { "reject" }, zone, approval);
        Ok(())
    }
}

pub(super) fn zone_of<'s>(
    state: &'s mut State,
    zone: &str,
) -> Result<&'s mut zone::Zone, OperatorError> {
    state.zone(zone).ok_or_else(|| OperatorError::UnknownZone(zone.to_owned()))
}

fn session_of<'s>(
    state: &'s mut State,
    zone: &str,
    session: &str,
    fits: impl FnOnce(&Session) -> bool,
) -> Result<&'s mut zone::Zone, OperatorError> {
    let known = zone_of(state, zone)?;
    match known.sessions.get(session) {
        Some(found) if fits(found) => Ok(known),
        _ => Err(OperatorError::Session(session.to_owned())),
    }
}
