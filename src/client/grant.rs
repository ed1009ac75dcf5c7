//! What authority a child session, or a receiver, gets.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{CaracalError, origin::Origin};

/// How much of its parent's authority a child session gets.
///
/// ```
/// use std::time::Duration;
///
/// use caracal_axum::{DelegationConstraints, Grant};
///
/// let reader = Grant::narrow(["tickets:read"])
///     .resource("resource://tickets")
///     .ttl(Duration::from_secs(600))
///     .constraints(DelegationConstraints::new().max_hops(3));
/// # let _ = reader;
/// ```
#[derive(Debug, Clone, Default)]
pub struct Grant(pub(super) Granted);

#[derive(Debug, Clone, Default)]
pub(super) enum Granted {
    #[default]
    Inherit,
    Nothing,
    Narrow(Box<Scope>),
    /// Details were given of what has none.
    Misplaced,
}

/// A part of somebody's authority, to be given on.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    pub(super) scopes: Vec<String>,
    pub(super) resource: Option<String>,
    pub(super) ttl: Option<Duration>,
    pub(super) constraints: DelegationConstraints,
}

impl Grant {
    /// What the parent has: the application's authority at a root, or the parent's delegation, of
    /// which the child gets a copy with the same end. Such a copy counts as a hop: the parent's
    /// `max_hops` must allow for it, or the child can mint nothing.
    #[must_use]
    pub fn inherit() -> Self {
        Self::default()
    }

    /// Nothing: the child can start and end sessions.
    #[must_use]
    pub fn none() -> Self {
        Self(Granted::Nothing)
    }

    /// These scopes and no others, on a resource to be named with [`resource`](Self::resource) or
    /// [`DelegationConstraints::resources`], by a delegation from the parent session.
    #[must_use]
    pub fn narrow<S: Into<String>>(scopes: impl IntoIterator<Item = S>) -> Self {
        let scopes = scopes.into_iter().map(Into::into).collect();
        Self(Granted::Narrow(Box::new(Scope { scopes, ..Scope::default() })))
    }

    /// The resource of a [`narrow`](Self::narrow) grant. A grant of another kind that is given one is
    /// refused when it is used.
    #[must_use]
    pub fn resource(self, resource: impl Into<String>) -> Self {
        self.change(|scope| scope.resource = Some(resource.into()))
    }

    /// How long a [`narrow`](Self::narrow) grant lasts, in whole seconds from 1 to 86,400: nine
    /// tenths of what is left of the parent's own delegation unless set, or an hour where it has
    /// none.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.change(|scope| scope.ttl = Some(ttl))
    }

    /// Further limits of a [`narrow`](Self::narrow) grant.
    #[must_use]
    pub fn constraints(self, constraints: DelegationConstraints) -> Self {
        self.change(|scope| scope.constraints = constraints)
    }

    fn change(mut self, change: impl FnOnce(&mut Scope)) -> Self {
        match &mut self.0 {
            Granted::Narrow(scope) => change(scope),
            // Refused when it is used, for it may have been meant to limit something.
            other => *other = Granted::Misplaced,
        }
        self
    }

    pub(super) fn check(&self) -> Result<(), CaracalError> {
        match &self.0 {
            Granted::Inherit | Granted::Nothing => Ok(()),
            Granted::Narrow(scope) => scope.check(),
            Granted::Misplaced => {
                Err(invalid("only Grant::narrow(..) takes a resource, a ttl or constraints"))
            }
        }
    }
}

/// Limits of a delegation beside scopes and resource.
///
/// `max_hops` decides how far the authority can be given on. For a path of `n` delegations the first
/// needs `2n − 1`, and each further one has one less; each session that inherits on the way needs one
/// more at the first. Absent it is 1: the receiver acts, and gives nothing on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DelegationConstraints {
    pub(super) resources: Vec<String>,
    actions: Vec<String>,
    max_depth: Option<u32>,
    max_hops: Option<u32>,
    pub(super) ttl: Option<Duration>,
    budget: Option<u32>,
    policy_approved: Option<bool>,
    pub(super) expires_at: Option<String>,
    broad_reason: Option<String>,
}

impl DelegationConstraints {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The resources, at most 64.
    #[must_use]
    pub fn resources<S: Into<String>>(mut self, resources: impl IntoIterator<Item = S>) -> Self {
        self.resources = resources.into_iter().map(Into::into).collect();
        self
    }

    /// Actions. Caracal v1.0.0 has no such limit: a delegation with them is refused here.
    #[must_use]
    pub fn actions<S: Into<String>>(mut self, actions: impl IntoIterator<Item = S>) -> Self {
        self.actions = actions.into_iter().map(Into::into).collect();
        self
    }

    /// [`max_hops`](Self::max_hops) by its older name; where both are given they must be equal.
    #[must_use]
    pub fn max_depth(mut self, depth: u32) -> Self {
        self.max_depth = Some(depth);
        self
    }

    /// How far the authority can be given on, from 1 to 10.
    #[must_use]
    pub fn max_hops(mut self, hops: u32) -> Self {
        self.max_hops = Some(hops);
        self
    }

    /// The longest life of a mandate under the delegation, in whole seconds from 1 to 86,400. Where
    /// the delegation itself is given no ttl, it is this.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// A number of uses. Caracal v1.0.0 stores it, and then can mint nothing under the delegation:
    /// one with it is refused here.
    #[must_use]
    pub fn budget(mut self, budget: u32) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Whether policy has approved.
    #[must_use]
    pub fn policy_approved(mut self, approved: bool) -> Self {
        self.policy_approved = Some(approved);
        self
    }

    /// When it ends at the latest: RFC 3339 with `Z`.
    #[must_use]
    pub fn expires_at(mut self, moment: impl Into<String>) -> Self {
        self.expires_at = Some(moment.into());
        self
    }

    /// Why it is broad, in 1 to 256 characters.
    #[must_use]
    pub fn broad_reason(mut self, reason: impl Into<String>) -> Self {
        self.broad_reason = Some(reason.into());
        self
    }

    /// How far it can be given on, with what is meant where nothing is said.
    pub(super) fn hops(&self) -> u32 {
        self.max_hops.or(self.max_depth).unwrap_or(1)
    }
}

/// The longest ttl the Coordinator takes, in seconds.
pub(super) const LONGEST: u64 = 86_400;

/// Whole seconds from 1 to 86,400.
pub(super) fn whole_seconds(name: &str, ttl: Duration) -> Result<u64, CaracalError> {
    let seconds = ttl.as_secs();
    if ttl.subsec_nanos() == 0 && (1..=LONGEST).contains(&seconds) {
        return Ok(seconds);
    }
    Err(CaracalError::usage(
        "invalid_ttl",
        format!("{name} must be whole seconds from 1 to 86,400, and is {ttl:?}"),
    ))
}

fn invalid(problem: impl Into<String>) -> CaracalError {
    CaracalError::usage("invalid_grant", problem)
}

impl Scope {
    /// Refuses what the Coordinator would refuse, and what it would take and then never honour.
    pub(super) fn check(&self) -> Result<(), CaracalError> {
        let DelegationConstraints { resources, actions, max_depth, max_hops, budget, .. } =
            &self.constraints;
        if budget.is_some() || !actions.is_empty() {
            return Err(invalid(
                "Caracal v1.0.0 knows no budget and no actions: it would store such a delegation, and \
                 mint nothing under it",
            ));
        }
        let blank = |text: &String| text.trim().is_empty();
        let no_scope = |scope: &String| scope.is_empty() || scope.contains(char::is_whitespace);
        if self.scopes.is_empty() || self.scopes.iter().any(no_scope) {
            return Err(invalid("name at least one scope, each without blanks"));
        }
        if self.resource.is_none() && resources.is_empty() {
            return Err(invalid(
                "name the resource, with .resource(..) or constraints.resources(..)",
            ));
        }
        if self.resource.iter().chain(resources).any(blank) || resources.len() > 64 {
            return Err(invalid("at most 64 resources, and no empty one"));
        }
        if max_hops.iter().chain(max_depth).any(|hops| !(1..=10).contains(hops)) {
            return Err(invalid("max_hops and max_depth are from 1 to 10"));
        }
        if max_hops.is_some() && max_depth.is_some() && max_hops != max_depth {
            return Err(invalid("max_hops and max_depth must be equal where both are given"));
        }
        for (name, ttl) in [("ttl", self.ttl), ("constraints.ttl", self.constraints.ttl)] {
            ttl.map(|ttl| whole_seconds(name, ttl)).transpose()?;
        }
        if let Some(reason) = &self.constraints.broad_reason
            && !(1..=256).contains(&reason.encode_utf16().count())
        {
            return Err(invalid("broad_reason has 1 to 256 characters"));
        }
        if let Some(text) = &self.constraints.expires_at
            && (!text.ends_with('Z') || super::coordinator::moment(text).is_none())
        {
            return Err(invalid("expires_at is RFC 3339 with Z at its end"));
        }
        Ok(())
    }

    /// A key repeats what is the same each time, and the ttl would not be.
    pub(super) fn check_key(&self, key: Option<&str>, origin: &Origin) -> Result<(), CaracalError> {
        let ttl = self.ttl.or(self.constraints.ttl);
        if key.is_some() && ttl.is_none() && origin.edge.is_some() {
            return Err(invalid(
                "with an idempotency key, below a delegation, name the ttl: what is left of that \
                 is something else each time",
            ));
        }
        Ok(())
    }

    /// The constraints as the Coordinator takes them: what is not there is left out.
    pub(super) fn constraints(&self) -> Map<String, Value> {
        let of = &self.constraints;
        let members = [
            ("resources", (!of.resources.is_empty()).then(|| json!(of.resources))),
            ("max_depth", of.max_depth.map(Value::from)),
            ("max_hops", of.max_hops.map(Value::from)),
            ("ttl_seconds", of.ttl.map(|ttl| Value::from(ttl.as_secs()))),
            ("policy_approved", of.policy_approved.map(Value::from)),
            ("expires_at", of.expires_at.as_deref().map(Value::from)),
            ("broad_reason", of.broad_reason.as_deref().map(Value::from)),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
