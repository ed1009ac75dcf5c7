//! Holds: mints that wait for a person, and what becomes of them (outbound contract §2.8).

use std::{collections::BTreeSet, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use indexmap::IndexMap;
use serde_json::json;
use uuid::Uuid;

use super::{approvers::Approver, sts::Form, time::Time};

/// How long after it was used an approval still brings another token of the same record, for
/// whoever lost the answer.
const RECOVERY: Duration = Duration::from_secs(2 * 60);

/// How long a hold is remembered after it has expired.
const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApprovalState {
    /// Nobody has decided yet.
    Pending,
    /// The mint may be repeated, and is granted once.
    Approved,
    /// The mint is refused until the hold expires.
    Rejected,
    /// Nobody decided in time, or nobody used it.
    Expired,
    /// It has been used.
    Consumed,
}

impl ApprovalState {
    /// Its name, as the STS says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Consumed => "consumed",
        }
    }
}

/// A mint that waits for a person, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Approval {
    /// Its id, as in the answer to the mint.
    pub id: String,
    /// Where it stands.
    pub state: ApprovalState,
    /// The tiers of the scopes, sorted and joined by commas.
    pub tier: String,
    /// Who decides.
    pub approver: Approver,
    /// The application that asks.
    pub application: String,
    /// The session that it asks for.
    pub agent_session_id: Option<String>,
    /// The user whom that session acts for.
    pub user: Option<String>,
    /// The scopes asked for.
    pub scopes: Vec<String>,
    /// The resources asked for.
    pub resources: Vec<String>,
    /// What who decides has to repeat, so that he decides about this and nothing else.
    pub binding: String,
}

pub(super) struct Hold {
    what: Approval,
    pub(super) expires: Time,
    decision: Decision,
}

enum Decision {
    Pending,
    Approved,
    Rejected,
    /// When, and for which authority record.
    Consumed(Time, String),
}

/// What a hold says to the mint that presents it.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Wait,
    Grant,
    /// Grant again, with this record.
    Repeat(String),
    Rejected,
    Expired,
    Consumed,
}

impl Hold {
    pub(super) fn state(&self, now: Time) -> ApprovalState {
        match self.decision {
            Decision::Consumed(..) => ApprovalState::Consumed,
            _ if self.expires <= now => ApprovalState::Expired,
            Decision::Pending => ApprovalState::Pending,
            Decision::Approved => ApprovalState::Approved,
            Decision::Rejected => ApprovalState::Rejected,
        }
    }

    pub(super) fn verdict(&self, now: Time) -> Verdict {
        match (self.state(now), &self.decision) {
            (_, Decision::Consumed(at, record)) if now < at.plus(RECOVERY) => {
                Verdict::Repeat(record.clone())
            }
            (ApprovalState::Pending, _) => Verdict::Wait,
            (ApprovalState::Approved, _) => Verdict::Grant,
            (ApprovalState::Rejected, _) => Verdict::Rejected,
            (ApprovalState::Expired, _) => Verdict::Expired,
            (ApprovalState::Consumed, _) => Verdict::Consumed,
        }
    }

    /// What it is about.
    pub(super) fn what(&self) -> &Approval {
        &self.what
    }

    /// The same for whoever asks from outside.
    pub(super) fn told(&self, now: Time) -> Approval {
        Approval { state: self.state(now), ..self.what.clone() }
    }

    /// Decides, if nobody has; whether it did.
    pub(super) fn decide(&mut self, approved: bool, now: Time) -> bool {
        let is_pending = self.state(now) == ApprovalState::Pending;
        if is_pending {
            self.decision = if approved { Decision::Approved } else { Decision::Rejected };
        }
        is_pending
    }
}

/// The holds of a zone, in the order in which they were raised.
#[derive(Default)]
pub(super) struct Holds(IndexMap<Uuid, Hold>);

impl Holds {
    pub(super) fn get(&self, id: Uuid) -> Option<&Hold> {
        self.0.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: Uuid) -> Option<&mut Hold> {
        self.0.get_mut(&id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Hold> {
        self.0.values()
    }

    /// The hold that a request names, if it is that very request's.
    pub(super) fn presented(&self, id: &str, binding: &str) -> Option<(Uuid, &Hold)> {
        let id = Uuid::parse_str(id).ok()?;
        self.get(id).filter(|hold| hold.what.binding == binding).map(|hold| (id, hold))
    }

    /// The hold that a request has raised before, unless it has been used or has expired.
    pub(super) fn standing(&self, binding: &str, now: Time) -> Option<(Uuid, &Hold)> {
        let stands = |hold: &Hold| {
            !matches!(hold.state(now), ApprovalState::Consumed | ApprovalState::Expired)
        };
        let found = self.0.iter().find(|(_, hold)| hold.what.binding == binding && stands(hold));
        found.map(|(id, hold)| (*id, hold))
    }

    /// Raises a hold in place of those of the request that have expired.
    pub(super) fn raise(&mut self, what: Approval, expires: Time, now: Time) -> &Hold {
        self.0.retain(|_, hold| {
            let replaced =
                hold.what.binding == what.binding && hold.state(now) == ApprovalState::Expired;
            !replaced && now < hold.expires.plus(MEMORY)
        });
        let id = Uuid::new_v4();
        let what = Approval { id: id.to_string(), ..what };
        let hold = Hold { what, expires, decision: Decision::Pending };
        self.0.entry(id).or_insert(hold)
    }

    /// The approval has been used for a token of this record.
    pub(super) fn consume(&mut self, id: Uuid, record: &str, now: Time) {
        if let Some(hold) = self.0.get_mut(&id) {
            hold.decision = Decision::Consumed(now, record.to_owned());
        }
    }
}

/// What a request is, whatever the order and repetition of its parts, under the policy of a moment:
/// another one needs another approval. The lifetime it asks for is no part of it.
pub(super) fn binding(form: &Form, policy: u64) -> String {
    let scopes: BTreeSet<_> = form.scope.split_whitespace().collect();
    let resources: BTreeSet<_> = form.resources.iter().map(|name| name.to_lowercase()).collect();
    let request = json!([
        form.zone,
        form.application,
        resources,
        scopes,
        form.record,
        form.session,
        form.edge,
        policy,
    ]);
    let digest = digest(&SHA256, request.to_string().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(binding: &str) -> Approval {
        Approval {
            id: String::new(),
            state: ApprovalState::Pending,
            tier: "t".into(),
            approver: Approver::Operator,
            application: "app-1".into(),
            agent_session_id: None,
            user: None,
            scopes: Vec::new(),
            resources: Vec::new(),
            binding: binding.into(),
        }
    }

    #[test]
    fn a_hold_is_decided_once_and_used_once() {
        let at = Time::from_seconds;
        let mut holds = Holds::default();
        let id = holds.raise(what("b"), at(100), at(0)).what.id.clone();
        let (id, hold) = holds.presented(&id, "b").unwrap();
        assert_eq!(hold.verdict(at(99)), Verdict::Wait);
        assert!(holds.get_mut(id).unwrap().decide(true, at(1)));
        assert!(!holds.get_mut(id).unwrap().decide(false, at(2)), "it is decided");
        assert_eq!(holds.get(id).unwrap().verdict(at(99)), Verdict::Grant);
        holds.consume(id, "record-1", at(50));
        let verdict = |seconds| holds.get(id).unwrap().verdict(at(seconds));
        assert_eq!(verdict(169), Verdict::Repeat("record-1".into()), "also past its end");
        assert_eq!(verdict(170), Verdict::Consumed);
        assert!(holds.standing("b", at(60)).is_none());
        assert!(holds.presented(&id.to_string(), "c").is_none(), "another request's");
    }

    #[test]
    fn an_expired_hold_stays_until_its_request_comes_again() {
        let at = Time::from_seconds;
        let mut holds = Holds::default();
        let first = holds.raise(what("b"), at(100), at(0)).what.id.clone();
        let first = Uuid::parse_str(&first).unwrap();
        assert!(!holds.get_mut(first).unwrap().decide(true, at(100)), "too late");
        holds.raise(what("other"), at(300), at(200));
        assert_eq!(holds.get(first).unwrap().state(at(200)), ApprovalState::Expired);
        holds.raise(what("b"), at(300), at(200));
        assert!(holds.get(first).is_none());
        assert_eq!(holds.all().count(), 2);
        let later = at(300).plus(MEMORY);
        holds.raise(what("last"), later.plus_seconds(100), later);
        assert_eq!(holds.all().count(), 1, "nothing is remembered for ever");
    }
}
