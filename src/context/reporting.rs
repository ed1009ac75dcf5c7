//! How the decisions of one boundary are told: to callers, to the log, to an observer.

use std::{sync::Arc, time::Instant};

use axum::{extract::MatchedPath, response::Response};
use http::request::Parts;

use super::{CaracalContext, Proof};
use crate::{
    CacheResult, Decision, Denial, DenialCode, Observer, Outcome, Place, Reason, denial::Rendering,
    observer::notify,
};

/// Carried in the request's extensions where it is not the default, so that extractors and route
/// requirements answer in the same way as the layer.
#[derive(Clone, Default)]
pub(crate) struct Reporting {
    pub(crate) rendering: Rendering,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

/// What is known about a decision beside its outcome.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    place: Place,
    /// Whether nobody was told anything about reporting: most requests.
    pub(crate) plain: bool,
    started: Option<Instant>,
    pub(crate) cache: Option<CacheResult>,
}

impl Reporting {
    /// The reporting of the boundary around a request.
    pub(crate) fn of(parts: &Parts) -> Self {
        parts.extensions.get().cloned().unwrap_or_default()
    }

    /// Whether a layer was told nothing about reporting: it then does as the layer around it.
    pub(crate) fn is_default(&self) -> bool {
        self.rendering.is_default() && self.observer.is_none()
    }

    /// This reporting, and where it says nothing, that of the layer around it.
    pub(crate) fn within(&self, around: &Self) -> Self {
        let (own, outer) = (&self.rendering, &around.rendering);
        Self {
            rendering: Rendering {
                resource_metadata: own
                    .resource_metadata
                    .as_ref()
                    .or(outer.resource_metadata.as_ref())
                    .cloned(),
                renderer: own.renderer.as_ref().or(outer.renderer.as_ref()).cloned(),
            },
            observer: self.observer.as_ref().or(around.observer.as_ref()).cloned(),
        }
    }

    /// Begins a decision. The clock is looked at only for an observer.
    pub(crate) fn begin(&self, place: Place) -> Seen {
        let started = self.observer.is_some().then(Instant::now);
        Seen { place, plain: self.is_default(), started, cache: None }
    }

    /// Tells of a request that is let in. An observer that panics is an audit trail with a gap:
    /// the request is refused.
    pub(crate) fn admit(
        &self,
        outcome: Outcome<'_>,
        identity: Option<&CaracalContext>,
        parts: &Parts,
        seen: Seen,
    ) -> Result<(), Denial> {
        if self.tell(outcome, identity, parts, seen) {
            return Ok(());
        }
        Err(Denial::misconfigured(Reason::ObserverPanicked))
    }

    /// Tells of a refusal, and renders it.
    pub(crate) fn refuse(
        &self,
        denial: &Denial,
        identity: Option<&CaracalContext>,
        parts: &Parts,
        seen: Seen,
    ) -> Response {
        let outcome = match denial.code() {
            DenialCode::VerificationUnavailable => Outcome::Unavailable(denial),
            _ => Outcome::Denied(denial),
        };
        // It is refused as it is: a panic changes nothing.
        self.tell(outcome, identity, parts, seen);
        self.render(denial, parts)
    }

    /// Logs a refusal and renders it.
    pub(crate) fn render(&self, denial: &Denial, parts: &Parts) -> Response {
        denial.log(route(parts));
        self.rendering.render(denial, parts)
    }

    fn tell(
        &self,
        outcome: Outcome<'_>,
        identity: Option<&CaracalContext>,
        parts: &Parts,
        seen: Seen,
    ) -> bool {
        let Some(observer) = &self.observer else { return true };
        let decision = Decision {
            place: seen.place,
            outcome,
            duration: seen.started.map(|started| started.elapsed()).unwrap_or_default(),
            cache: seen.cache,
            route: route(parts),
            zone_id: identity.map(CaracalContext::zone_id),
            application_id: identity.map(CaracalContext::application_id),
            agent_session_id: identity.and_then(CaracalContext::agent_session_id),
            delegation_edge_id: identity.and_then(CaracalContext::delegation_edge_id),
            authority_record_id: identity.and_then(CaracalContext::authority_record_id),
            jti: identity.and_then(CaracalContext::proof).and_then(Proof::jti),
        };
        notify(&**observer, |observer| observer.decision(&decision))
    }
}

/// The template of the route, where the request matched one.
fn route(parts: &Parts) -> Option<&str> {
    parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}
