//! Federated users: sessions that run for them, and what is told when these end (inbound contract
//! §5.5).

use std::collections::HashSet;

use super::{Publication, Record, Zone};
use crate::embedded::{
    session::{Session, Status},
    time::Time,
};

impl Zone {
    /// Whether the user whom a session runs for, if it does, is still there.
    pub(in crate::embedded) fn has_its_user(&self, session: &Session, now: Time) -> bool {
        session.user.is_none() || self.live_record(&session.record, now).is_some()
    }

    /// A session that the STS takes for live.
    pub(in crate::embedded) fn acting(&self, id: &str, now: Time) -> Option<&Session> {
        let session = self.sessions.get(id)?;
        (session.can_act(now) && self.has_its_user(session, now)).then_some(session)
    }

    /// Tells of sessions that were suspended or have ended, where they ran for a user for whom no
    /// other session is left. Of an application's own sessions nothing is told.
    pub(super) fn publish_users<'i>(
        &mut self,
        ids: impl IntoIterator<Item = &'i String>,
        now: Time,
    ) {
        let gone = ids.into_iter().filter_map(|id| self.sessions.get(id));
        let gone: Vec<_> = gone.filter(|session| session.user.is_some()).collect();
        let is_left = |record: &str| {
            let is_other = |other: &Session| gone.iter().all(|session| session.id != other.id);
            self.sessions
                .values()
                .any(|other| other.record == record && other.is_live() && is_other(other))
        };
        let alone = gone.iter().filter(|session| !is_left(&session.record));
        let told: Vec<_> =
            alone.map(|session| vec![session.record.clone(), session.id.clone()]).collect();
        for anchors in told {
            self.publish(Publication::Revoked(anchors), now);
        }
    }

    /// Revokes a user as an operator revokes a subject: all of their records, the sessions that were
    /// started with these, all below them, and the edges that touch one; how many sessions ended, or
    /// nothing if the user has no record in force. The epoch stays, as the API leaves it.
    pub(in crate::embedded) fn revoke_user(&mut self, user: &str, now: Time) -> Option<usize> {
        let is_theirs = |record: &Record| {
            record.user.as_deref() == Some(user) && record.revoked.is_none() && now < record.expires
        };
        let records = self.records.iter().filter(|(_, record)| is_theirs(record));
        let records: HashSet<_> = records.map(|(id, _)| id.clone()).collect();
        if records.is_empty() {
            return None;
        }
        let roots = self.sessions.values().filter(|session| records.contains(&session.record));
        let roots: Vec<_> = roots.map(|session| session.id.clone()).collect();
        let ended = self.end_sessions(&roots, Status::Terminated, "subject_revoked", now);
        let edges = self.touching(&ended);
        self.revoke_edges(&edges, self.epoch, now);
        let count = ended.len();
        for anchor in edges.into_iter().chain(ended).chain(records) {
            self.publish(Publication::Revoked(vec![anchor]), now);
        }
        Some(count)
    }
}
