//! What resource servers know of revocations.

use std::{fmt, sync::Arc};

use super::Shared;
use crate::{RevocationError, RevocationQuery, RevocationStore, Standing};

/// The revocations that an [`EmbeddedCaracal`](super::EmbeddedCaracal) has published, for
/// [`MandateVerifierBuilder::revocations`](crate::MandateVerifierBuilder::revocations).
///
/// What is published is what the real Coordinator writes to its streams, a second after it happened
/// (inbound contract §5.5): every change of the delegation graph raises the zone's epoch, and the
/// revocation of a delegation marks it, a session and an authority record. The end or suspension of a
/// session marks it and its record if that is a user's and no other session is left on it. Otherwise
/// it marks nothing: where no delegation ends with it, mandates live on to their expiry.
#[derive(Clone)]
pub struct EmbeddedRevocations {
    shared: Arc<Shared>,
}

impl EmbeddedRevocations {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What has been published by now.
    fn published(&self) -> crate::MemoryRevocations {
        let mut state = self.shared.lock();
        state.now();
        state.published.clone()
    }
}

impl RevocationStore for EmbeddedRevocations {
    async fn check(&self, query: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
        self.published().check(query).await
    }

    fn check_now(&self, query: RevocationQuery<'_>) -> Option<Result<Standing, RevocationError>> {
        self.published().check_now(query)
    }

    fn generation(&self) -> Option<u64> {
        self.published().generation()
    }
}

impl fmt::Debug for EmbeddedRevocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedRevocations").finish_non_exhaustive()
    }
}
