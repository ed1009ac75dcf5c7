//! What tests need beside a control plane: verifiers, mandates, faults, records.

use std::{sync::Arc, time::Duration};

use super::{
    Decision, EmbeddedCaracal, EmbeddedRevocations, Endpoint, Fault, OperatorError,
    ReceivedRequest, operators::zone_of,
};
use crate::{
    Caracal, CaracalBuilder, CaracalError, Clock as _, ConfigurationError, MandateVerifier,
    MandateVerifierBuilder, testing::MandateBuilder,
};

impl EmbeddedCaracal {
    /// A client that acts as `application`, with this control plane's clock. It is built within a
    /// Tokio runtime, and runs on it.
    ///
    /// # Errors
    ///
    /// If the application is unknown.
    pub fn client(&self, application: &str) -> Result<Caracal, CaracalError> {
        self.client_builder(application).build()
    }

    /// The same, to be configured further.
    pub fn client_builder(&self, application: &str) -> CaracalBuilder {
        match self.environment(application) {
            Some(environment) => CaracalBuilder::from_env_map(environment).clock(self.clock()),
            None => CaracalBuilder::of_nobody(application),
        }
    }

    /// What resource servers know of revocations, as a store for a verifier. What happens is known
    /// to it a second later, as on the stream of the real one; see [`EmbeddedRevocations`].
    #[must_use]
    pub fn revocations(&self) -> EmbeddedRevocations {
        EmbeddedRevocations::new(Arc::clone(&self.shared))
    }

    /// A verifier for the service `audience`: it trusts this STS and the zone that has a resource of
    /// that name (the first zone, if none has), goes by this clock and knows the
    /// [`revocations`](Self::revocations).
    ///
    /// # Errors
    ///
    /// If the audience is empty.
    pub fn verifier(&self, audience: &str) -> Result<MandateVerifier, ConfigurationError> {
        self.verifier_builder(audience).build()
    }

    /// The same, to be configured further. Keys are fetched over HTTP, so that faults of
    /// [`Endpoint::Keys`] reach it; an unknown key is asked for whenever the clock has moved since
    /// the last fetch, and not only half a minute later. After a fetch that failed it waits for a
    /// second of the clock.
    pub fn verifier_builder(&self, audience: &str) -> MandateVerifierBuilder {
        let mut state = self.shared.lock();
        let now = state.now();
        let zone = state.registry.zone_of(audience);
        // A zone without a key has no key document, and a verifier that can judge nothing. Where
        // none can be made there is no mandate either.
        let _ = state.zone(&zone).map(|known| known.keys.signer(now));
        drop(state);
        MandateVerifier::builder()
            .issuer(self.sts_url())
            .audience(audience)
            .zone(zone)
            .clock(self.clock())
            .revocations(self.revocations())
            .key_cool_down(Duration::from_nanos(1))
    }

    /// A resource mandate for the service `audience`, signed by the key of its zone: what the
    /// Gateway would hand to the service, with any claims. Nobody judges whether it would.
    ///
    /// # Panics
    ///
    /// When the system has no randomness for a key.
    #[expect(clippy::expect_used, reason = "a test cannot go on without a key")]
    pub fn mandate(&self, audience: &str) -> MandateBuilder {
        let mut state = self.shared.lock();
        let now = state.now();
        let zone = state.registry.zone_of(audience);
        let keys = state.zone(&zone).map(|known| &mut known.keys);
        let key = keys.and_then(|keys| keys.signer(now).ok()).expect("randomness, and a zone");
        let now = self.shared.clock.unix_time();
        MandateBuilder::new(self.sts_url(), zone, key.pair().clone(), now, audience)
    }

    /// The same for a session that exists, and for a delegation to it: application, session and
    /// every delegation claim are those of the graph, whether they are still in force or not. Its own
    /// authority record (`sid`) is another one for each mandate, as at the real STS.
    ///
    /// # Errors
    ///
    /// If the session or the delegation is unknown in the audience's zone.
    ///
    /// # Panics
    ///
    /// When the system has no randomness for a key.
    pub fn mandate_for(
        &self,
        audience: &str,
        session: &str,
        delegation: Option<&str>,
    ) -> Result<MandateBuilder, OperatorError> {
        let mandate = self.mandate(audience);
        let mut state = self.shared.lock();
        let zone = state.registry.zone_of(audience);
        let known = zone_of(&mut state, &zone)?;
        let found = known.sessions.get(session);
        let found = found.ok_or_else(|| OperatorError::Session(session.to_owned()))?;
        let mandate = mandate.application(&*found.application).session(session);
        let Some(edge) = delegation else { return Ok(mandate) };
        let mut path = Vec::new();
        let mut next = known.edges.get(edge).filter(|edge| edge.target == session);
        while let Some(edge) = next {
            path.push((edge.issuer.clone(), edge.source.clone(), edge.id.clone()));
            next = edge.parent.as_ref().and_then(|parent| known.edges.get(parent));
        }
        if path.is_empty() {
            return Err(OperatorError::Delegation(edge.to_owned()));
        }
        path.reverse();
        Ok(mandate.delegated_over(path).claim("delegation_graph_epoch", known.epoch))
    }

    /// Lets the next requests to `endpoint` go wrong. Faults of one endpoint happen in the order in
    /// which they were injected, one for each request.
    pub fn inject(&self, endpoint: Endpoint, fault: Fault) {
        self.shared.faults.inject(endpoint, fault);
    }

    /// Takes back all faults that no request has met yet.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// The requests received, the last 10,000 of them, in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.records.all()
    }

    /// Waits until a request to `endpoint` has arrived, and returns the last one.
    pub async fn received(&self, endpoint: Endpoint) -> ReceivedRequest {
        self.shared.records.received(endpoint).await
    }

    /// What was decided about them, in the same order.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decision> {
        self.requests().into_iter().filter_map(|request| request.decision).collect()
    }
}
