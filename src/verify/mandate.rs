//! The verifier of Caracal mandates.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    Inbound, KeyError, KeyStatus, MandateVerifierBuilder, Requirements, Verifier,
    claims::{TrustedZone, pre_check, read},
    jose::Compact,
    json::Object,
    keys::{Key, Lookup, ZoneKeys},
};
use crate::{
    Clock, Denial, Proof, Reason, RevocationError, Standing, TokenUse,
    revocation::DynRevocationStore,
};

/// What a caller is told to wait when keys or revocations could not be asked.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Proves Caracal mandates: ES256 JWTs of a configured zone, issued for this service, alive.
///
/// Cheap to clone; clones share the key cache. The order of checks is size, JOSE header, `exp`,
/// `iss`, `aud`, `zone_id`, key, signature, the other claims, requirements, revocation. A token
/// that fails before the key never causes a key fetch.
///
/// ```
/// use caracal_axum::{MandateVerifier, MemoryRevocations};
///
/// let verifier = MandateVerifier::builder()
///     .issuer("https://sts.example.com")
///     .audience("resource://tickets")
///     .zone("zone-1")
///     .revocations(MemoryRevocations::default())
///     .build()?;
/// # Ok::<(), caracal_axum::ConfigurationError>(())
/// ```
#[derive(Clone)]
pub struct MandateVerifier(Arc<Settings>);

pub(super) struct Settings {
    pub(super) trusted: Vec<Trusted>,
    pub(super) audience: Box<str>,
    pub(super) requirements: Requirements,
    pub(super) token_use: TokenUse,
    pub(super) header: HeaderName,
    pub(super) scheme: Option<Box<str>>,
    pub(super) revocations: Option<Arc<dyn DynRevocationStore>>,
    pub(super) revocation_timeout: Duration,
    pub(super) max_token_bytes: usize,
    pub(super) clock: Arc<dyn Clock>,
}

pub(super) struct Trusted {
    pub(super) pair: TrustedZone,
    pub(super) keys: Arc<ZoneKeys>,
}

impl MandateVerifier {
    pub(super) fn new(settings: Settings) -> Self {
        Self(Arc::new(settings))
    }

    /// A builder. Issuer, audience, zone and revocations must be set.
    pub fn builder() -> MandateVerifierBuilder {
        MandateVerifierBuilder::default()
    }

    /// Fetches the keys of every trusted zone, so that the first request need not wait. Call it
    /// before serving; a service that starts without keys refuses with 503 until it has them.
    ///
    /// # Errors
    /// When a zone's keys cannot be had.
    pub async fn warm_up(&self) -> Result<(), KeyError> {
        for trusted in &self.0.trusted {
            trusted.keys.warm_up().await?;
        }
        Ok(())
    }

    /// The keys of every trusted zone as they are now.
    #[must_use]
    pub fn status(&self) -> Vec<KeyStatus> {
        self.0.trusted.iter().map(|trusted| trusted.keys.status()).collect()
    }

    fn now(&self) -> u64 {
        self.0.clock.unix_time().as_secs()
    }

    fn token<'a>(&self, inbound: &Inbound<'a>) -> Result<&'a [u8], Denial> {
        inbound.credential(&self.0.header, self.0.scheme.as_deref())
    }

    async fn prove(&self, token: &[u8]) -> Result<Proof, Denial> {
        let settings = &*self.0;
        let compact =
            Compact::parse(token, settings.max_token_bytes).map_err(Denial::invalid_token)?;
        let payload = Object::parse(&compact.payload)
            .ok_or_else(|| Denial::invalid_token(Reason::PayloadJson))?;
        let trusted = pre_check(
            &payload,
            self.now(),
            &settings.audience,
            &settings.trusted,
            |trusted: &Trusted| &trusted.pair,
        )?;
        let key = trusted.key(&compact.kid).await?;
        tracing::Span::current().record("kid", &*compact.kid);
        if !key.verify(compact.signed, &compact.signature) {
            return Err(Denial::invalid_token(Reason::Signature));
        }
        let proof = read(&payload, compact.kid, self.now(), settings.token_use)
            .map_err(Denial::invalid_token)?;
        settings.requirements.check(&proof)?;
        self.check_alive(&proof).await?;
        Ok(proof)
    }

    /// Expiry and revocation, of a proof whose signature and claims are good.
    async fn check_alive(&self, proof: &Proof) -> Result<(), Denial> {
        if proof.expires_at() <= self.now() {
            return Err(Denial::invalid_token(Reason::Expired));
        }
        let Some(store) = &self.0.revocations else { return Ok(()) };
        let query = proof.revocation_query();
        let answer = match store.check_now(query) {
            Some(answer) => answer,
            None => tokio::time::timeout(self.0.revocation_timeout, store.check(query))
                .await
                .unwrap_or_else(|_| Err(RevocationError::Unavailable("no answer in time".into()))),
        };
        judge(proof, answer)
    }
}

/// Any revoked anchor ends the authority; so does an older epoch than the zone's. An epoch of 0 is
/// an epoch, an absent one is not.
fn judge(proof: &Proof, answer: Result<Standing, RevocationError>) -> Result<(), Denial> {
    let standing = answer.map_err(|error| {
        tracing::warn!(target: "caracal::revocation", %error, "revocations cannot be asked");
        Denial::unavailable(Reason::RevocationUnavailable, RETRY_AFTER)
    })?;
    if standing.revoked {
        return Err(Denial::session_revoked());
    }
    if proof.delegation_epoch().is_some_and(|epoch| standing.delegation_epoch > epoch) {
        return Err(Denial::delegation_stale());
    }
    Ok(())
}

impl Trusted {
    async fn key(&self, kid: &str) -> Result<Arc<Key>, Denial> {
        let found = match self.keys.lookup(kid) {
            Lookup::Pending(flight) => self.keys.landed(flight, kid).await,
            found => found,
        };
        match found {
            Lookup::Found(key) => Ok(key),
            Lookup::Unknown => Err(Denial::invalid_token(Reason::UnknownKey)),
            Lookup::Pending(_) | Lookup::Unavailable(_) => {
                Err(Denial::unavailable(Reason::KeysUnavailable, RETRY_AFTER))
            }
        }
    }
}

impl Verifier for MandateVerifier {
    fn verify(&self, inbound: &Inbound<'_>) -> impl Future<Output = Result<Proof, Denial>> + Send {
        let token = self.token(inbound);
        async move { self.prove(token?).await }
    }

    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
        self.token(inbound).err().map(Err)
    }

    fn header(&self) -> HeaderName {
        self.0.header.clone()
    }

    fn unix_time(&self) -> u64 {
        self.now()
    }
}

impl fmt::Debug for MandateVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &*self.0;
        let trusted: Vec<_> = settings.trusted.iter().map(|trusted| &trusted.pair).collect();
        f.debug_struct("MandateVerifier")
            .field("trusted", &trusted)
            .field("audience", &settings.audience)
            .field("requirements", &settings.requirements)
            .field(
                "revocations",
                &if settings.revocations.is_some() { "checked" } else { "NOT CHECKED" },
            )
            .finish_non_exhaustive()
    }
}
