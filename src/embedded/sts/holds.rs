//! Whether a mint waits for a person (outbound contract §2.8).

use uuid::Uuid;

use super::{Held, Refusal, Text, form::Form, references::References, refusal};
use crate::embedded::{
    approvals::{self, Approval, ApprovalState, Hold, Verdict},
    approvers,
    registry::Registered,
    time::Time,
    zone::Zone,
};

const NOT_FOUND: Refusal =
    refusal(401, "access_denied", "there is no such approval, or it is for another request");
const EXPIRED: Refusal = refusal(401, "access_denied", "the approval has expired");
const REJECTED: Refusal = refusal(403, "access_denied", "the approval was rejected");
const CONSUMED: Refusal = refusal(409, "approval_consumed", "the approval has been used");
const SEPARATE: Refusal =
    refusal(403, "access_denied", "an operator and a user would have to approve: ask separately");

/// A mint that a person has approved.
pub(super) struct Permit {
    hold: Uuid,
    /// The authority record of the token that the approval was used for, if it was.
    pub(super) record: Option<(String, Time)>,
}

impl Permit {
    /// The approval has been used for a token of this record.
    pub(super) fn consume(&self, zone: &mut Zone, record: &str, now: Time) {
        if self.record.is_none() {
            zone.holds.consume(self.hold, record, now);
        }
    }
}

/// Judges the approval that a form names, whether its scopes need one or not.
pub(super) fn judge_named(
    form: &Form,
    zone: &Zone,
    known: &Registered,
    now: Time,
) -> Result<Option<Permit>, Refusal> {
    let Some(id) = &form.approval else { return Ok(None) };
    let binding = approvals::binding(form, known.policy);
    let (id, hold) = zone.holds.presented(id, &binding).ok_or(NOT_FOUND)?;
    match hold.verdict(now) {
        // Whether it would be granted is judged before it is told again to wait.
        Verdict::Wait => Ok(None),
        verdict => permit(id, &verdict, zone, now).map(Some),
    }
}

/// Lets a mint that policy allows go on, or holds it. Nothing of it is granted before, also not what
/// needs no approval.
pub(super) fn judge(
    form: &Form,
    references: &References,
    zone: &mut Zone,
    known: &Registered,
    now: Time,
) -> Result<Option<Permit>, Refusal> {
    let scopes = form.scopes();
    let tiers = known.tiers_of(&scopes);
    if tiers.is_empty() {
        return Ok(None);
    }
    let approver = approvers::joint(&tiers).ok_or(SEPARATE)?;
    let binding = approvals::binding(form, known.policy);
    if let Some((id, hold)) = zone.holds.standing(&binding, now) {
        return match hold.verdict(now) {
            Verdict::Wait => Err(held(hold)),
            verdict => permit(id, &verdict, zone, now).map(Some),
        };
    }
    let session = references.session.as_ref();
    let what = Approval {
        id: String::new(),
        state: ApprovalState::Pending,
        tier: tiers.iter().map(|tier| tier.name.as_str()).collect::<Vec<_>>().join(","),
        approver,
        application: form.application.clone(),
        agent_session_id: session.map(|session| session.id.clone()),
        user: session.and_then(|session| session.user.clone()),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        resources: form.resources.iter().cloned().collect(),
        binding,
    };
    let shortest = tiers.iter().map(|tier| tier.lifetime()).min().unwrap_or_default();
    Err(held(zone.holds.raise(what, now.plus(shortest), now)))
}

fn permit(hold: Uuid, verdict: &Verdict, zone: &Zone, now: Time) -> Result<Permit, Refusal> {
    match verdict {
        Verdict::Grant => Ok(Permit { hold, record: None }),
        Verdict::Repeat(record) => {
            // No longer than the record, which may have been revoked.
            let end = zone.live_record(record, now).ok_or(CONSUMED)?.expires;
            Ok(Permit { hold, record: Some((record.clone(), end)) })
        }
        Verdict::Rejected => Err(REJECTED),
        Verdict::Consumed => Err(CONSUMED),
        Verdict::Wait | Verdict::Expired => Err(EXPIRED),
    }
}

fn held(hold: &Hold) -> Refusal {
    let held = Held { what: hold.what().clone(), expires: hold.expires };
    Refusal { status: 401, code: "interaction_required", text: Text::Held(Box::new(held)) }
}
