//! Which scopes a person has to approve, and which person (outbound contract §2.8).

use std::time::Duration;

/// How soon a hold expires at the earliest, whatever its tier says.
const LEAST_TTL: Duration = Duration::from_secs(60);

/// Who decides about a hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Approver {
    /// An operator.
    #[default]
    Operator,
    /// A federated user of the application; where the session acts for a user, that one.
    Subject,
    /// Either of them, whoever comes first.
    Any,
}

impl Approver {
    const fn default_ttl(self) -> Duration {
        match self {
            Self::Operator => Duration::from_secs(4 * 60 * 60),
            Self::Subject | Self::Any => Duration::from_secs(15 * 60),
        }
    }

    const fn longest_ttl(self) -> Duration {
        match self {
            Self::Operator => Duration::from_secs(7 * 24 * 60 * 60),
            Self::Subject | Self::Any => Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Scopes that are minted only once a person has approved it.
///
/// ```
/// use caracal_axum::embedded::{Application, ApprovalTier, Approver, Grant, Resource, Zone};
///
/// let payments = ApprovalTier::new("payments").scopes(["pay:large"]).approver(Approver::Operator);
/// let zone = Zone::new("zone-1")
///     .application(Application::new("app-1"))
///     .resource(Resource::new("resource://pay").scopes(["pay:small", "pay:large"]))
///     .grant(Grant::new("app-1", "resource://pay").role("clerk").scopes(["pay:small", "pay:large"]))
///     .approval_tier(payments);
/// # let _ = zone;
/// ```
#[derive(Debug, Clone)]
pub struct ApprovalTier {
    pub(super) name: String,
    pub(super) scopes: Vec<String>,
    pub(super) approver: Approver,
    ttl: Option<Duration>,
}

impl ApprovalTier {
    /// A tier of no scopes yet, decided by operators.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), scopes: Vec::new(), approver: Approver::default(), ttl: None }
    }

    /// The scopes that need it.
    #[must_use]
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Who decides.
    #[must_use]
    pub fn approver(mut self, approver: Approver) -> Self {
        self.approver = approver;
        self
    }

    /// How long a hold waits, and its approval is good for: 4 hours for operators and 15 minutes for
    /// others unless set, a minute at least, a week for operators and a day for others at most.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    pub(super) fn lifetime(&self) -> Duration {
        let ttl = self.ttl.unwrap_or(self.approver.default_ttl());
        ttl.clamp(LEAST_TTL, self.approver.longest_ttl())
    }
}

/// Who decides where several tiers are touched at once. Nobody can where an operator has to and a
/// user has to.
pub(super) fn joint(tiers: &[&ApprovalTier]) -> Option<Approver> {
    tiers.iter().try_fold(Approver::Any, |joint, tier| match (joint, tier.approver) {
        (joint, Approver::Any) => Some(joint),
        (Approver::Any, other) => Some(other),
        (one, other) => (one == other).then_some(one),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_joins_either_and_they_do_not_join_each_other() {
        use Approver::{Any, Operator, Subject};
        let joined = |approvers: &[Approver]| {
            let tiers: Vec<_> =
                approvers.iter().map(|one| ApprovalTier::new("t").approver(*one)).collect();
            joint(&tiers.iter().collect::<Vec<_>>())
        };
        assert_eq!(joined(&[Any, Any]), Some(Any));
        assert_eq!(joined(&[Operator, Any, Operator]), Some(Operator));
        assert_eq!(joined(&[Any, Subject]), Some(Subject));
        assert_eq!(joined(&[Subject, Any, Operator]), None);
    }

    #[test]
    fn a_hold_lives_for_a_minute_at_least_and_not_for_ever() {
        let lifetime = |approver, ttl: Option<u64>| {
            let tier = ApprovalTier::new("t").approver(approver);
            let ttl = ttl.map(Duration::from_secs);
            ttl.into_iter().fold(tier, ApprovalTier::ttl).lifetime().as_secs()
        };
        assert_eq!(lifetime(Approver::Operator, None), 14_400);
        assert_eq!(lifetime(Approver::Any, None), 900);
        assert_eq!(lifetime(Approver::Subject, Some(5)), 60);
        assert_eq!(lifetime(Approver::Subject, Some(1_000_000)), 86_400);
        assert_eq!(lifetime(Approver::Operator, Some(1_000_000)), 604_800);
    }
}
