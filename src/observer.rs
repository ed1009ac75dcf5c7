//! Watching what the crate decides, for metrics and audit trails.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::Denial;

/// Is told of every decision, key fetch and revocation. All methods do nothing unless implemented.
///
/// They are called in line: return at once. A panic costs the request it happens in a 500 at most.
///
/// ```
/// use caracal_axum::{CaracalLayer, Decision, Observer, Outcome};
///
/// struct Counter;
///
/// impl Observer for Counter {
///     fn decision(&self, decision: &Decision<'_>) {
///         match decision.outcome {
///             Outcome::Denied(denial) => println!("{} at {:?}", denial, decision.route),
///             _ => println!("in {:?}", decision.duration),
///         }
///     }
/// }
///
/// let layer = CaracalLayer::propagate("zone-1", "mesh").observer(Counter);
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A request was judged, at the boundary or by a route's requirements. Once per request and
    /// place.
    fn decision(&self, decision: &Decision<'_>) {
        let _ = decision;
    }

    /// A fetch of a zone's keys ended.
    fn keys_fetched(&self, fetch: &KeyFetch<'_>) {
        let _ = fetch;
    }

    /// A revocation store changed.
    fn revocation_changed(&self, change: &RevocationChange<'_>) {
        let _ = change;
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn decision(&self, decision: &Decision<'_>) {
        O::decision(self, decision);
    }

    fn keys_fetched(&self, fetch: &KeyFetch<'_>) {
        O::keys_fetched(self, fetch);
    }

    fn revocation_changed(&self, change: &RevocationChange<'_>) {
        O::revocation_changed(self, change);
    }
}

/// What became of a request at one place. Ids are those of the bound identity, where there is one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Decision<'a> {
    /// Where it was decided.
    pub place: Place,
    /// What was decided.
    pub outcome: Outcome<'a>,
    /// How long deciding took.
    pub duration: Duration,
    /// Whether the proof came from the cache; `None` when no token was judged there.
    pub cache: Option<CacheResult>,
    /// The route template, where the request matched a route.
    pub route: Option<&'a str>,
    /// The zone.
    pub zone_id: Option<&'a str>,
    /// The application that acts.
    pub application_id: Option<&'a str>,
    /// The agent session.
    pub agent_session_id: Option<&'a str>,
    /// The delegation edge.
    pub delegation_edge_id: Option<&'a str>,
    /// The authority record.
    pub authority_record_id: Option<&'a str>,
    /// The `jti` of the mandate.
    pub jti: Option<&'a str>,
}

/// Where a request is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// The [`CaracalLayer`](crate::CaracalLayer).
    Boundary,
    /// A [`Require`](crate::Require).
    Route,
}

/// What was decided.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// Let in with an identity.
    Allowed,
    /// Let in without one: an optional layer, and no credential.
    Unbound,
    /// Let in unjudged: an exempt path, or a CORS preflight.
    Exempt,
    /// Refused. The [`reason`](Denial::reason) is the exact one.
    Denied(&'a Denial),
    /// Refused because keys or revocations could not be asked, or too much was asked at once.
    Unavailable(&'a Denial),
}

/// Whether a proof came from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheResult {
    /// It did.
    Hit,
    /// The token was not known.
    Miss,
}

/// A fetch of a zone's keys.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeyFetch<'a> {
    /// The issuer.
    pub issuer: &'a str,
    /// The zone.
    pub zone_id: &'a str,
    /// How many usable keys came, or why none did.
    pub result: Result<usize, &'a (dyn std::error::Error + 'static)>,
}

/// A change of a revocation store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RevocationChange<'a> {
    /// An anchor was revoked.
    Revoked {
        /// The record, session or edge.
        anchor: &'a str,
    },
    /// The delegation epoch of a zone rose.
    EpochRaised {
        /// The zone.
        zone_id: &'a str,
        /// The new epoch.
        epoch: u64,
    },
    /// A mark could not be recorded: the store refuses all queries until it is.
    Closed,
    /// Every mark is recorded again.
    Opened,
}

/// Calls an observer; false when it panicked.
pub(crate) fn notify(observer: &dyn Observer, call: impl FnOnce(&dyn Observer)) -> bool {
    let told = catch_unwind(AssertUnwindSafe(|| call(observer))).is_ok();
    if !told {
        tracing::error!(target: "caracal::observer", "an observer panicked");
    }
    told
}
