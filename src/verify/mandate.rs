//! The verifier of Caracal mandates.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderName;
use tokio::sync::Semaphore;

use super::{
    Inbound, KeyError, KeyStatus, MandateVerifierBuilder, Requirements, Verifier,
    cache::{Flights, ProofCache, Proven, TokenId, TokenIds},
    claims::{Claims, TrustedZone},
    jose::Compact,
    keys::{Key, Lookup, ZoneKeys},
};
use crate::{
    CacheResult, Clock, Denial, Proof, Reason, RevocationError, Standing, TokenUse,
    revocation::DynRevocationStore,
};

/// What a caller is told to wait when keys or revocations could not be asked.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// No generation of a revocation store: a proof that was not found alive yet.
const NEVER: u64 = u64::MAX;

/// Proves Caracal mandates: ES256 JWTs of a configured zone, issued for this service, alive.
///
/// Cheap to clone; clones share the key cache. The order of checks is size, JOSE header, `exp`,
/// `iss`, `aud`, `zone_id`, key, signature, the other claims, requirements, revocation. A token
/// that fails before the key never causes a key fetch.
///
/// It runs on a tokio runtime with I/O and time enabled, as `axum::serve` does.
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
    /// Unlike that of every other verifier of this process.
    pub(super) number: u64,
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
    pub(super) ids: TokenIds,
    pub(super) cache: Box<dyn ProofCache>,
    pub(super) flights: Flights<Result<Arc<Proven>, Denial>>,
    /// How long to wait for a check that another request does.
    pub(super) patience: Duration,
    pub(super) checks: Semaphore,
    pub(super) max_check_wait: Duration,
}

/// A token that has passed everything but its key.
pub(super) struct Front {
    /// Whose rules it has passed.
    verifier: u64,
    id: TokenId,
    compact: Compact,
    claims: Claims,
    zone: usize,
    /// Its key, where that could be had at once, and the generation of keys it was found in.
    key: Option<(Arc<Key>, u64)>,
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
    /// The first failure, when every zone has been tried; [`status`](Self::status) has them all.
    pub async fn warm_up(&self) -> Result<(), KeyError> {
        let mut result = Ok(());
        for trusted in &self.0.trusted {
            result = result.and(trusted.keys.warm_up().await);
        }
        result
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

    /// A proof of this token that is still good for as much as time and keys can tell.
    fn cached(&self, id: TokenId, now: u64) -> Option<Arc<Proven>> {
        let proven = self.0.cache.get(id)?;
        let zone = self.0.trusted.get(proven.zone)?;
        let kid = proven.proof.key_id()?;
        if !zone.keys.holds(kid, &proven.key, &proven.keys_seen) {
            self.0.cache.remove(id);
            return None;
        }
        (proven.not_before <= now).then_some(proven)
    }

    /// Everything that can be said about a token without its key.
    fn front(&self, id: TokenId, token: &[u8], now: u64) -> Result<Box<Front>, Denial> {
        let Settings { audience, trusted, max_token_bytes, .. } = &*self.0;
        let compact = Compact::parse(token, *max_token_bytes).map_err(Denial::invalid_token)?;
        let claims = Claims::parse(&compact.payload, audience).map_err(Denial::invalid_token)?;
        let zone = claims.pre_check(now, trusted.iter().map(|trusted| &trusted.pair))?;
        Ok(Box::new(Front { verifier: self.0.number, id, compact, claims, zone, key: None }))
    }

    /// Looks the key up that the token names; fails where it is known that there is none.
    fn find_key(&self, front: &mut Front) -> Result<(), Denial> {
        let Some(trusted) = self.0.trusted.get(front.zone) else { return Ok(()) };
        // Before the lookup: a key that leaves the set meanwhile is noticed at the next request.
        let generation = trusted.keys.generation();
        match trusted.keys.lookup(&front.compact.kid) {
            Lookup::Pending(_) => {}
            found => front.key = Some((found_key(found)?, generation)),
        }
        Ok(())
    }

    async fn prove(&self, token: &[u8], inbound: &Inbound<'_>) -> Result<Proof, Denial> {
        let looked_up = inbound.take().filter(|front| front.verifier == self.0.number);
        let front = match looked_up {
            Some(front) => front,
            None => {
                let (id, now) = (self.0.ids.of(token), self.now());
                if let Some(proven) = self.cached(id, now) {
                    inbound.note(CacheResult::Hit);
                    self.check_alive(&proven).await?;
                    return Ok(proven.proof.clone());
                }
                inbound.note(CacheResult::Miss);
                self.front(id, token, now)?
            }
        };
        let id = front.id;
        let work = self.authenticate(front, token, inbound);
        let proven = match self.0.flights.join(id).result(work, self.0.patience).await {
            Some(proven) => proven?,
            // Who should have done it does not go on.
            None => {
                let front = self.front(id, token, self.now())?;
                self.authenticate(front, token, inbound).await?
            }
        };
        self.check_key(&proven).await?;
        self.check_alive(&proven).await?;
        Ok(proven.proof.clone())
    }

    /// Whether the key that signed is still published: the check may have taken a while, or been
    /// another request's.
    async fn check_key(&self, proven: &Proven) -> Result<(), Denial> {
        let (Some(trusted), Some(kid)) = (self.0.trusted.get(proven.zone), proven.proof.key_id())
        else {
            return Err(Denial::invalid_zone());
        };
        if trusted.keys.holds(kid, &proven.key, &proven.keys_seen) {
            return Ok(());
        }
        let key = trusted.key(kid).await?;
        if *key == *proven.key { Ok(()) } else { Err(Denial::invalid_token(Reason::UnknownKey)) }
    }

    /// Key, signature, claims and requirements; what passes is remembered.
    async fn authenticate(
        &self,
        front: Box<Front>,
        token: &[u8],
        inbound: &Inbound<'_>,
    ) -> Result<Arc<Proven>, Denial> {
        let Front { id, compact, claims, zone, key, .. } = *front;
        let Some(trusted) = self.0.trusted.get(zone) else { return Err(Denial::invalid_zone()) };
        let (key, keys_seen) = match key {
            Some(found) => found,
            None => {
                let generation = trusted.keys.generation();
                (trusted.key(&compact.kid).await?, generation)
            }
        };
        if let Err(denial) = self.check_signature(&key, &compact, token).await {
            inbound.note_key(&compact.kid);
            return Err(denial);
        }
        let (proof, not_before) = claims
            .into_proof(compact.kid, self.now(), self.0.token_use)
            .map_err(Denial::invalid_token)?;
        self.0.requirements.check(&proof)?;
        let proven = Arc::new(Proven {
            proof,
            zone,
            key,
            not_before,
            keys_seen: AtomicU64::new(keys_seen),
            alive_seen: AtomicU64::new(NEVER),
        });
        self.0.cache.insert(id, Arc::clone(&proven));
        Ok(proven)
    }

    /// The one costly step. Only so many requests do it at once, and others wait briefly; each lets
    /// other work run before it takes the processor.
    async fn check_signature(
        &self,
        key: &Key,
        compact: &Compact,
        token: &[u8],
    ) -> Result<(), Denial> {
        let permit = match self.0.checks.try_acquire() {
            Ok(permit) => Ok(permit),
            Err(_) => tokio::time::timeout(self.0.max_check_wait, self.0.checks.acquire())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(Denial::unavailable(Reason::Overloaded, RETRY_AFTER)),
        };
        let _permit = permit?;
        tokio::task::yield_now().await;
        if key.verify(compact.signed(token), &compact.signature) {
            Ok(())
        } else {
            Err(Denial::invalid_token(Reason::Signature))
        }
    }

    /// Expiry and revocation, where that can be told at once.
    fn alive_now(&self, proven: &Proven, now: u64) -> Option<Result<(), Denial>> {
        if proven.proof.expires_at() <= now {
            return Some(Err(Denial::invalid_token(Reason::Expired)));
        }
        let Some(store) = &self.0.revocations else { return Some(Ok(())) };
        // Before the question, so that an answer is never kept for a later generation.
        let generation = store.generation();
        if generation
            .is_some_and(|now| now != NEVER && proven.alive_seen.load(Ordering::Acquire) == now)
        {
            return Some(Ok(()));
        }
        let answer = store.check_now(proven.proof.revocation_query())?;
        Some(judge(proven, generation, answer))
    }

    async fn check_alive(&self, proven: &Proven) -> Result<(), Denial> {
        if let Some(judged) = self.alive_now(proven, self.now()) {
            return judged;
        }
        let Some(store) = &self.0.revocations else { return Ok(()) };
        let generation = store.generation();
        let query = proven.proof.revocation_query();
        let answer = tokio::time::timeout(self.0.revocation_timeout, store.check(query))
            .await
            .unwrap_or_else(|_| Err(RevocationError::Unavailable("no answer in time".into())));
        judge(proven, generation, answer)?;
        // Asking took time, in which the key may have gone and the end may have come.
        self.check_key(proven).await?;
        if proven.proof.expires_at() <= self.now() {
            return Err(Denial::invalid_token(Reason::Expired));
        }
        Ok(())
    }
}

/// Any revoked anchor ends the authority; so does an older epoch than the zone's. An epoch of 0 is
/// an epoch, an absent one is not.
fn judge(
    proven: &Proven,
    generation: Option<u64>,
    answer: Result<Standing, RevocationError>,
) -> Result<(), Denial> {
    let standing = answer.map_err(|error| {
        tracing::warn!(target: "caracal::revocation", %error, "revocations cannot be asked");
        Denial::unavailable(Reason::RevocationUnavailable, RETRY_AFTER)
    })?;
    if standing.revoked {
        return Err(Denial::session_revoked());
    }
    if proven.proof.delegation_epoch().is_some_and(|epoch| standing.delegation_epoch > epoch) {
        return Err(Denial::delegation_stale());
    }
    if let Some(generation) = generation {
        proven.alive_seen.store(generation, Ordering::Release);
    }
    Ok(())
}

impl Trusted {
    async fn key(&self, kid: &str) -> Result<Arc<Key>, Denial> {
        let found = match self.keys.lookup(kid) {
            Lookup::Pending(flight) => self.keys.landed(flight, kid).await,
            found => found,
        };
        found_key(found)
    }
}

fn found_key(found: Lookup) -> Result<Arc<Key>, Denial> {
    match found {
        Lookup::Found(key) => Ok(key),
        Lookup::Unknown => Err(Denial::invalid_token(Reason::UnknownKey)),
        Lookup::Pending(_) | Lookup::Unavailable(_) => {
            Err(Denial::unavailable(Reason::KeysUnavailable, RETRY_AFTER))
        }
    }
}

impl Verifier for MandateVerifier {
    fn verify(&self, inbound: &Inbound<'_>) -> impl Future<Output = Result<Proof, Denial>> + Send {
        let token = self.token(inbound);
        async move { self.prove(token?, inbound).await }
    }

    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
        let token = match self.token(inbound) {
            Ok(token) => token,
            Err(denial) => return Some(Err(denial)),
        };
        let (id, now) = (self.0.ids.of(token), self.now());
        if let Some(proven) = self.cached(id, now) {
            inbound.note(CacheResult::Hit);
            let alive = self.alive_now(&proven, now)?;
            return Some(alive.map(|()| proven.proof.clone()));
        }
        inbound.note(CacheResult::Miss);
        let front = self.front(id, token, now).and_then(|mut front| {
            self.find_key(&mut front)?;
            Ok(front)
        });
        match front {
            Ok(front) => {
                inbound.keep(front);
                None
            }
            Err(denial) => Some(Err(denial)),
        }
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
