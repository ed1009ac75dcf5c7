//! An STS of one zone that signs whatever it is asked for.

use std::{fmt, io, net::Ipv4Addr, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::net::TcpListener;

use super::{
    MandateBuilder,
    endpoint::Endpoint,
    zone::{Published, Zone},
};
use crate::{
    Clock, ConfigurationError, MandateVerifier, MandateVerifierBuilder, MemoryRevocations,
    SystemClock,
};

/// An issuer in this process: a zone with keys, their endpoint on a free port of loopback, and
/// mandates of any content. It grants whatever it is asked for; a real Caracal does not.
///
/// Dropping it closes the endpoint, and its verifiers get no keys any more. As many as you like
/// live side by side; none accepts the mandates of another.
pub struct Issuer {
    zone: Arc<Zone>,
    clock: Arc<dyn Clock>,
    revocations: MemoryRevocations,
    endpoint: Endpoint,
}

/// Builder of [`Issuer`].
#[must_use]
pub struct IssuerBuilder {
    zone: String,
    clock: Arc<dyn Clock>,
}

impl IssuerBuilder {
    /// The zone; `zone-1` unless set.
    pub fn zone(mut self, id: impl Into<String>) -> Self {
        self.zone = id.into();
        self
    }

    /// The clock that mandates are dated and judged by; the system's unless set. With a
    /// [`ManualClock`](crate::ManualClock), tests of expiry need not sleep.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts the issuer. It runs on the tokio runtime of the caller.
    ///
    /// # Errors
    /// When no port of loopback can be listened on.
    ///
    /// # Panics
    /// When the system has no randomness for a key.
    pub async fn start(self) -> io::Result<Issuer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let zone = Arc::new(Zone::new(url, self.zone));
        Ok(Issuer {
            endpoint: Endpoint::start(listener, &zone),
            zone,
            revocations: MemoryRevocations::builder().clock(Arc::clone(&self.clock)).build(),
            clock: self.clock,
        })
    }
}

impl Issuer {
    /// Starts an issuer of the zone `zone-1` that goes by the clock of the system.
    ///
    /// # Errors
    /// When no port of loopback can be listened on.
    ///
    /// # Panics
    /// When the system has no randomness for a key.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// A builder, for another zone or clock.
    pub fn builder() -> IssuerBuilder {
        IssuerBuilder { zone: "zone-1".to_owned(), clock: Arc::new(SystemClock) }
    }

    /// The URL of the issuer: what mandates name in `iss`, and what a service under test is
    /// configured with.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.zone.issuer
    }

    /// The zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone.id
    }

    /// A good mandate for `audience`, to be changed at will.
    pub fn mandate(&self, audience: impl Into<String>) -> MandateBuilder {
        let now = self.clock.unix_time();
        MandateBuilder::new(self.url(), self.zone(), self.zone.signer(), now, audience)
    }

    /// Signs any claims with the newest key.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        self.zone.signer().sign(claims)
    }

    /// Signs with a new key from now on, and returns its `kid`. The key before it stays published,
    /// older ones do not.
    ///
    /// The issuer's own verifiers learn of it as soon as the clock has moved since they fetched
    /// keys; others when their [`key_cool_down`](MandateVerifierBuilder::key_cool_down) is over.
    ///
    /// # Panics
    /// When the system has no randomness for a key.
    pub fn rotate(&self) -> String {
        self.zone.rotate()
    }

    /// The revocations that its verifiers ask, to revoke with; they go by the issuer's clock.
    #[must_use]
    pub fn revocations(&self) -> MemoryRevocations {
        self.revocations.clone()
    }

    /// A verifier for the service that mandates name `audience`: with the issuer's keys, clock and
    /// revocations.
    ///
    /// # Errors
    /// When the audience or the zone is empty.
    pub fn verifier(
        &self,
        audience: impl Into<String>,
    ) -> Result<MandateVerifier, ConfigurationError> {
        self.verifier_builder(audience).build()
    }

    /// The builder of such a verifier, to be configured further.
    ///
    /// Keys come without the way over HTTP, and with the least
    /// [`key_cool_down`](MandateVerifierBuilder::key_cool_down) that there is; everything else is as
    /// in production. To trust another issuer too, give it a
    /// [`key_source`](MandateVerifierBuilder::key_source) that knows both, like
    /// [`HttpKeys`](crate::HttpKeys).
    pub fn verifier_builder(&self, audience: impl Into<String>) -> MandateVerifierBuilder {
        MandateVerifier::builder()
            .issuer(self.url())
            .zone(self.zone())
            .audience(audience)
            .revocations(self.revocations())
            .clock(Arc::clone(&self.clock))
            .key_source(Published(Arc::downgrade(&self.zone)))
            .key_cool_down(Duration::from_nanos(1))
    }

    /// Closes the key endpoint, and waits until nothing listens any more.
    pub async fn stop(self) {
        self.endpoint.close().await;
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("url", &self.url())
            .field("zone", &self.zone())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerBuilder").field("zone", &self.zone).finish_non_exhaustive()
    }
}
