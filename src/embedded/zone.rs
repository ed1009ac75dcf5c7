//! What is remembered of one zone: sessions, delegations, records, and what follows from their ends.

mod users;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use indexmap::IndexMap;
use serde_json::Value;

use super::{
    approvals::Holds,
    gateway::KnownRevocations,
    identity::Fetched,
    keys::ZoneKeys,
    session::{Lifecycle, Session, Status},
    state::Counters,
    time::Time,
    world::Limits,
};

/// How long after a change it stands on the stream that resource servers read: the most that the
/// real publisher was seen to need.
const PUBLICATION: Duration = Duration::from_secs(1);

/// An authority record: that a token was issued, until it ends.
pub(super) struct Record {
    pub(super) application: String,
    /// The federated user whom the token was issued for.
    pub(super) user: Option<String>,
    pub(super) expires: Time,
    revoked: Option<Time>,
}

/// An edge of the delegation graph: what one session lets another do.
pub(super) struct Edge {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) target: String,
    pub(super) issuer: String,
    pub(super) receiver: String,
    pub(super) parent: Option<String>,
    /// The row id.
    pub(super) resource: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) constraints: super::constraints::Constraints,
    pub(super) expires: Time,
    pub(super) created: Time,
    pub(super) revoked: Option<Time>,
    /// The epoch of its last change.
    pub(super) version: u64,
}

impl Edge {
    pub(super) fn is_live(&self, now: Time) -> bool {
        self.revoked.is_none() && now < self.expires
    }

    fn touches(&self, sessions: &HashSet<String>) -> bool {
        sessions.contains(&self.source) || sessions.contains(&self.target)
    }
}

/// The answer to a request with an `Idempotency-Key`.
pub(super) struct Receipt {
    /// The request with its defaults filled in.
    pub(super) request: Value,
    pub(super) answer: Value,
    /// The session or edge that was made.
    pub(super) result: String,
    pub(super) kept_until: Time,
}

/// What a key belongs to: application, operation, key.
pub(super) type ReceiptKey = (String, &'static str, String);

/// What resource servers are told, on the streams of inbound contract §5.5.
pub(super) enum Publication {
    /// The delegation graph has changed.
    Epoch(u64),
    /// A record, a session and an edge have ended, or some of them.
    Revoked(Vec<String>),
}

/// What a revocation did.
pub(super) struct Revoked {
    pub(super) edges: usize,
    pub(super) records: usize,
    pub(super) sessions: usize,
}

/// What is remembered of one zone. Sessions and edges stand in the order in which they were made.
#[derive(Default)]
pub(super) struct Zone {
    pub(super) keys: ZoneKeys,
    pub(super) sessions: IndexMap<String, Session>,
    pub(super) edges: IndexMap<String, Edge>,
    pub(super) receipts: HashMap<ReceiptKey, Receipt>,
    /// Mints by resource and application.
    pub(super) mints: Counters<(String, String)>,
    pub(super) epoch: u64,
    /// What the Gateway knows of all that has ended.
    pub(super) gateway: KnownRevocations,
    pub(super) holds: Holds,
    /// Keys of identity providers, by issuer.
    pub(super) fetched: HashMap<String, Fetched>,
    records: HashMap<String, Record>,
    /// What is to be published, and when. Records among it are dead from then on.
    outbox: Vec<(Time, Publication)>,
    /// No sweep finds anything before; unknown after a start or a resumption.
    quiet_until: Option<Time>,
}

impl Zone {
    /// A new authority record. Ended ones are forgotten: they are as good as unknown.
    pub(super) fn add_record(
        &mut self,
        application: &str,
        user: Option<&str>,
        expires: Time,
        now: Time,
    ) -> String {
        if self.records.len().is_power_of_two() {
            self.records.retain(|_, record| now < record.expires);
        }
        let id = uuid::Uuid::now_v7().to_string();
        let (application, user) = (application.to_owned(), user.map(str::to_owned));
        let record = Record { application, user, expires, revoked: None };
        self.records.insert(id.clone(), record);
        id
    }

    /// A record that is neither revoked nor past its end.
    pub(super) fn live_record(&self, id: &str, now: Time) -> Option<&Record> {
        self.records.get(id).filter(|record| record.revoked.is_none() && now < record.expires)
    }

    /// Lets happen what background tasks would have done until `now`, each at its own time.
    /// Returns what resource servers are told meanwhile.
    pub(super) fn settle(&mut self, now: Time, start: Time, limits: &Limits) -> Vec<Publication> {
        self.sweep(now, start, limits);
        let due: Vec<_> = self.outbox.extract_if(.., |(at, _)| *at <= now).collect();
        for (at, told) in &due {
            if let Publication::Revoked(anchors) = told {
                for anchor in anchors {
                    if let Some(record) = self.records.get_mut(anchor) {
                        record.revoked.get_or_insert(*at);
                    }
                }
            }
        }
        if let Some(snapshot) = self.gateway.due(now, start) {
            self.gateway.load(snapshot, self.ended_by(snapshot));
        }
        for (at, told) in &due {
            if let Publication::Revoked(anchors) = told {
                self.gateway.hear(*at, anchors);
            }
        }
        due.into_iter().map(|(_, told)| told).collect()
    }

    /// The records, sessions and edges whose end the database showed at a moment. Sessions that
    /// expired are not among them.
    fn ended_by(&self, moment: Time) -> HashSet<String> {
        let records = self.records.iter().map(|(id, record)| (id, record.revoked));
        let terminated = |session: &&Session| session.status == Status::Terminated;
        let sessions = self
            .sessions
            .values()
            .filter(terminated)
            .map(|session| (&session.id, session.ended.as_ref().map(|(at, _)| *at)));
        let edges = self.edges.values().map(|edge| (&edge.id, edge.revoked));
        let all = records.chain(sessions).chain(edges);
        all.filter(|(_, end)| end.is_some_and(|end| end <= moment))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn publish(&mut self, what: Publication, now: Time) {
        self.outbox.push((now.plus(PUBLICATION), what));
    }

    /// The delegation graph has changed; its new epoch.
    fn next_epoch(&mut self, now: Time) -> u64 {
        self.epoch += 1;
        self.publish(Publication::Epoch(self.epoch), now);
        self.epoch
    }

    /// Suspends and expires what sweeps have found until `now`.
    fn sweep(&mut self, now: Time, start: Time, limits: &Limits) {
        if self.quiet_until.is_some_and(|quiet| now < quiet) {
            return;
        }
        let mut lapses: Vec<_> = self
            .sessions
            .values()
            .filter_map(|session| Some((session.lapse(start, limits)?, session.id.clone())))
            .collect();
        lapses.sort();
        self.quiet_until =
            Some(lapses.iter().map(|(at, _)| *at).find(|at| now < *at).unwrap_or(Time::MAX));
        for (at, id) in lapses.into_iter().take_while(|(at, _)| *at <= now) {
            // What another one has taken along does not lapse any more.
            match self.sessions.get(&id).filter(|session| session.lapse(start, limits).is_some()) {
                Some(Session { lifecycle: Lifecycle::Service(_), .. }) => {
                    self.suspend(&id, at);
                }
                Some(_) => drop(self.end(&[id], Status::Expired, "ttl", at)),
                None => {}
            }
        }
    }

    /// Adds a session.
    pub(super) fn add_session(&mut self, session: Session) {
        self.quiet_until = None;
        self.sessions.insert(session.id.clone(), session);
    }

    /// `root` and what is connected to it from above, of those that `counts`.
    fn subtree(&self, root: &str, counts: impl Fn(&Session) -> bool) -> Vec<String> {
        let mut found = HashSet::new();
        let mut ids = Vec::new();
        // A child is always younger than its parent, so that one pass finds all.
        for (id, session) in &self.sessions {
            let connected = id == root
                || session.parent.as_ref().is_some_and(|parent| found.contains(parent.as_str()));
            if connected && counts(session) {
                found.insert(id.as_str());
                ids.push(id.clone());
            }
        }
        ids
    }

    fn set_status(&mut self, ids: &[String], status: Status) {
        for id in ids {
            if let Some(session) = self.sessions.get_mut(id) {
                session.status = status;
            }
        }
    }

    /// Suspends a session and the active ones below it; how many.
    pub(super) fn suspend(&mut self, root: &str, now: Time) -> usize {
        let ids = self.subtree(root, |session| session.status == Status::Active);
        self.set_status(&ids, Status::Suspended);
        self.publish_users(&ids, now);
        ids.len()
    }

    /// Resumes a session and the suspended ones below it; how many. Services get a new deadline.
    pub(super) fn resume(&mut self, root: &str, now: Time, limits: &Limits) -> usize {
        let ids = self.subtree(root, |session| session.status == Status::Suspended);
        self.set_status(&ids, Status::Active);
        self.quiet_until = None;
        for id in &ids {
            if let Some(Lifecycle::Service(lease)) =
                self.sessions.get_mut(id).map(|session| &mut session.lifecycle)
            {
                lease.deadline = now.plus_seconds(limits.service_lease_seconds);
            }
        }
        ids.len()
    }

    /// Ends sessions as `status` for `reason`, with all below them, and revokes every delegation
    /// that touches one of them. Returns how many sessions ended.
    pub(super) fn end(
        &mut self,
        roots: &[String],
        status: Status,
        reason: &str,
        now: Time,
    ) -> usize {
        let ended = self.end_sessions(roots, status, reason, now);
        let touched = self.touching(&ended);
        if !touched.is_empty() {
            let epoch = self.next_epoch(now);
            self.revoke_edges(&touched, epoch, now);
        }
        self.publish_users(&ended, now);
        ended.len()
    }

    fn end_sessions(
        &mut self,
        roots: &[String],
        status: Status,
        reason: &str,
        now: Time,
    ) -> HashSet<String> {
        let mut ended = HashSet::new();
        for root in roots {
            for id in self.subtree(root, Session::is_live) {
                let is_root = roots.contains(&id);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.status = if is_root { status } else { Status::Terminated };
                    let reason = if is_root { reason } else { "parent_terminated" };
                    session.ended = Some((now, reason.to_owned()));
                }
                ended.insert(id);
            }
        }
        ended
    }

    /// The edges in force that touch one of these sessions.
    fn touching(&self, sessions: &HashSet<String>) -> Vec<String> {
        let touched = |edge: &&Edge| edge.revoked.is_none() && edge.touches(sessions);
        self.edges.values().filter(touched).map(|edge| edge.id.clone()).collect()
    }

    fn revoke_edges(&mut self, edges: &[String], epoch: u64, now: Time) {
        for id in edges {
            if let Some(edge) = self.edges.get_mut(id) {
                (edge.revoked, edge.version) = (Some(now), epoch);
            }
        }
    }

    /// Revokes an edge and all that leave its target, theirs, and so on; the sessions that these
    /// edges reach end, and the records that those were started with die a moment later.
    pub(super) fn revoke(&mut self, edge: &str, now: Time) -> Revoked {
        let mut edges = vec![edge.to_owned()];
        let mut targets: Vec<String> = Vec::new();
        let mut next = 0;
        while let Some(edge) = edges.get(next).and_then(|id| self.edges.get(id)) {
            next += 1;
            let target = edge.target.clone();
            if targets.contains(&target) {
                continue;
            }
            let leaving = self.edges.values().filter(|edge| {
                edge.source == target && edge.revoked.is_none() && !edges.contains(&edge.id)
            });
            let leaving: Vec<_> = leaving.map(|edge| edge.id.clone()).collect();
            edges.extend(leaving);
            targets.push(target);
        }
        let epoch = self.next_epoch(now);
        self.revoke_edges(&edges, epoch, now);
        // One publication for each record, with the first session that was started with it.
        let mut records = HashSet::new();
        for target in &targets {
            let record = self.sessions.get(target).map(|session| session.record.clone());
            if let Some(record) = record.filter(|record| records.insert(record.clone())) {
                let anchors = vec![record, target.clone(), edge.to_owned()];
                self.publish(Publication::Revoked(anchors), now);
            }
        }
        let sessions = self.end(&targets, Status::Terminated, "delegation_revoked", now);
        Revoked { edges: edges.len(), records: records.len(), sessions }
    }

    /// Ends a session and all below it as an operator's revocation does: resource servers are told
    /// of each, and of every edge that ends with them. The epoch stays, as the API leaves it.
    pub(super) fn revoke_session(&mut self, session: &str, now: Time) {
        let root = [session.to_owned()];
        let ended = self.end_sessions(&root, Status::Terminated, "subject_revoked", now);
        let edges = self.touching(&ended);
        self.revoke_edges(&edges, self.epoch, now);
        for anchor in edges.into_iter().chain(ended) {
            self.publish(Publication::Revoked(vec![anchor]), now);
        }
    }

    /// Revokes an authority record; whether there is one in force.
    pub(super) fn revoke_record(&mut self, record: &str, now: Time) -> bool {
        let is_live = self.live_record(record, now).is_some();
        if is_live {
            self.publish(Publication::Revoked(vec![record.to_owned()]), now);
        }
        is_live
    }

    /// The edges that reach a session and are in force.
    pub(super) fn live_inbound(&self, session: &str, now: Time) -> Vec<&Edge> {
        self.edges.values().filter(|edge| edge.target == session && edge.is_live(now)).collect()
    }

    /// Adds an edge; the graph has changed.
    pub(super) fn add_edge(&mut self, mut edge: Edge) -> &Edge {
        edge.version = self.next_epoch(edge.created);
        self.edges.entry(edge.id.clone()).or_insert(edge)
    }
}
