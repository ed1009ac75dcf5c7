//! Proofs of mandates that were seen before, and one verification at a time for each that was not.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use aws_lc_rs::rand;
use highway::{HighwayHash as _, HighwayHasher, Key as HashKey};
use tokio::sync::OnceCell;

use super::keys::Key;
use crate::Proof;

/// Proofs are dropped after so long even when nobody asks for them again. It bounds memory only:
/// whether a proof is still good is judged on every hit.
const HYGIENE_TTL: Duration = Duration::from_secs(3600);

/// What stands for a token: a 128-bit PRF of all of it, under a key that nobody else has. Who does
/// not know the key can neither find two tokens of one id nor aim at one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenId(u128);

/// The secret key of one verifier's [`TokenId`]s: HighwayHash, which was faster than
/// SipHash-2-4-128 when measured (`benches/README.md`).
pub(super) struct TokenIds(HashKey);

impl TokenIds {
    /// A key of its own. `None` when the system has no randomness.
    pub(super) fn random() -> Option<Self> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        Some(Self(HashKey(std::array::from_fn(|_| words.next().unwrap_or_default()))))
    }

    pub(super) fn of(&self, token: &[u8]) -> TokenId {
        let mut hasher = HighwayHasher::new(self.0);
        hasher.append(token);
        let [low, high] = hasher.finalize128();
        TokenId(u128::from(low) | u128::from(high) << 64)
    }
}

/// A mandate whose signature, claims and requirements are good. Whether it is still alive, and its
/// key still published, is asked anew for every request.
pub(super) struct Proven {
    pub(super) proof: Proof,
    /// Which of the verifier's zones it is of.
    pub(super) zone: usize,
    pub(super) key: Arc<Key>,
    /// The earliest time at which `nbf` and `iat` let it in.
    pub(super) not_before: u64,
    /// The generation of the zone's keys under which `key` was last seen among them.
    pub(super) keys_seen: AtomicU64,
    /// The generation of the revocation store under which it was last found alive.
    pub(super) alive_seen: AtomicU64,
}

/// Where proofs are kept; only good ones ever are.
pub(super) trait ProofCache: Send + Sync {
    fn get(&self, id: TokenId) -> Option<Arc<Proven>>;
    fn insert(&self, id: TokenId, proven: Arc<Proven>);
    fn remove(&self, id: TokenId);
}

/// A cache bounded by count.
pub(super) struct BoundedCache(moka::sync::Cache<TokenId, Arc<Proven>>);

impl BoundedCache {
    pub(super) fn new(capacity: u64) -> Self {
        let cache =
            moka::sync::Cache::builder().max_capacity(capacity).time_to_live(HYGIENE_TTL).build();
        Self(cache)
    }
}

impl ProofCache for BoundedCache {
    fn get(&self, id: TokenId) -> Option<Arc<Proven>> {
        self.0.get(&id)
    }

    fn insert(&self, id: TokenId, proven: Arc<Proven>) {
        self.0.insert(id, proven);
    }

    fn remove(&self, id: TokenId) {
        self.0.invalidate(&id);
    }
}

/// A cache that keeps nothing: every request is verified.
pub(super) struct NoCache;

impl ProofCache for NoCache {
    fn get(&self, _: TokenId) -> Option<Arc<Proven>> {
        None
    }

    fn insert(&self, _: TokenId, _: Arc<Proven>) {}

    fn remove(&self, _: TokenId) {}
}

/// Work under way, by token: who comes while it lasts shares its result.
pub(super) struct Flights<T>(Mutex<HashMap<TokenId, Arc<OnceCell<T>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Flights<T> {
    /// Joins the flight of `id`, or starts it.
    pub(super) fn join(&self, id: TokenId) -> Flight<'_, T> {
        let mut leads = false;
        let cell = Arc::clone(self.lock().entry(id).or_insert_with(|| {
            leads = true;
            Arc::default()
        }));
        Flight { flights: self, id, cell, leads }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenId, Arc<OnceCell<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A seat on a flight. A flight that has landed, or that nobody is on, is cleared away.
pub(super) struct Flight<'f, T> {
    flights: &'f Flights<T>,
    id: TokenId,
    cell: Arc<OnceCell<T>>,
    /// Whether it was started here.
    leads: bool,
}

impl<T: Clone> Flight<'_, T> {
    /// The result of the work, done by whoever polls first; when that caller is cancelled, the next
    /// one does it. `None` for a passenger who has waited for `patience`: who does the work may have
    /// stopped polling.
    pub(super) async fn result(
        self,
        work: impl Future<Output = T>,
        patience: Duration,
    ) -> Option<T> {
        let result = self.cell.get_or_init(|| work);
        if self.leads {
            return Some(result.await.clone());
        }
        tokio::time::timeout(patience, result).await.ok().cloned()
    }
}

impl<T> Drop for Flight<'_, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let landed = self.cell.initialized();
        // Given back under the lock, so that of two who leave at once one sees itself as the last.
        let cell = std::mem::take(&mut self.cell);
        let ours = flights.get(&self.id).is_some_and(|cell_there| Arc::ptr_eq(cell_there, &cell));
        drop(cell);
        let empty = || flights.get(&self.id).is_some_and(|cell| Arc::strong_count(cell) == 1);
        if ours && (landed || empty()) {
            flights.remove(&self.id);
        }
    }
}

impl fmt::Debug for TokenIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenIds(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::verify::keys::{KeyDocument, usable_keys};

    #[test]
    fn ids_depend_on_the_whole_token_and_on_the_verifier() {
        let (one, two) = (TokenIds::random().unwrap(), TokenIds::random().unwrap());
        let token = "a".repeat(1000);
        let id = one.of(token.as_bytes());
        assert!(id == one.of(token.as_bytes()));
        assert!(id != two.of(token.as_bytes()));
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] ^= 1;
            assert!(id != one.of(&other), "byte {at}");
        }
        assert!(id != one.of(&token.as_bytes()[..999]));
        assert!(one.of(b"") != one.of(b"\0"));
    }

    /// A flood of good mandates pushes proofs out, and never past the bound.
    #[test]
    fn the_cache_is_bounded() {
        let document = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256",
            "x": "8c4znFEPbviCtt5xvTFIdrlM5up34P2Q6QP5nJL6bFE",
            "y": "GaDHtB2cRLhgzxklDzEal2nyK4mMjuytaHglXUUDkI4",
        }]});
        let body = document.to_string().into();
        let document = KeyDocument { status: http::StatusCode::OK, body };
        let key = usable_keys(&document).unwrap().remove("k").unwrap();
        let ids = TokenIds::random().unwrap();
        let cache = BoundedCache::new(8);
        for at in 0u32..1000 {
            let proven = Proven {
                proof: Proof::builder("z", "a", 1).build(),
                zone: 0,
                key: Arc::clone(&key),
                not_before: 0,
                keys_seen: AtomicU64::new(0),
                alive_seen: AtomicU64::new(0),
            };
            cache.insert(ids.of(&at.to_le_bytes()), Arc::new(proven));
        }
        cache.0.run_pending_tasks();
        assert!(cache.0.entry_count() <= 8, "{}", cache.0.entry_count());
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    fn poll_once(future: impl Future) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::pin!(future).poll(&mut context).is_pending());
    }

    #[tokio::test]
    async fn a_flight_is_shared_survives_cancellation_and_is_cleared_away() {
        let ids = TokenIds::random().unwrap();
        let flights = Flights::<usize>::default();
        let done = AtomicUsize::new(0);
        let work = || async {
            tokio::task::yield_now().await;
            done.fetch_add(1, Ordering::Relaxed)
        };
        let id = ids.of(b"token");
        let cancelled = flights.join(id);
        let (other, third) = (flights.join(id), flights.join(id));
        poll_once(cancelled.result(work(), PATIENCE));
        assert_eq!(flights.len(), 1);
        let (one, two) =
            tokio::join!(other.result(work(), PATIENCE), third.result(work(), PATIENCE));
        assert_eq!((one, two, done.load(Ordering::Relaxed)), (Some(0), Some(0), 1));
        assert_eq!(flights.len(), 0);

        poll_once(flights.join(id).result(work(), PATIENCE));
        assert_eq!(flights.len(), 0, "nobody is on it");
    }

    /// A result is for those who came before it, not for those who come after.
    #[tokio::test]
    async fn nobody_joins_a_flight_that_has_landed() {
        let ids = TokenIds::random().unwrap();
        let flights = Flights::<u8>::default();
        let id = ids.of(b"token");
        let (first, second) = (flights.join(id), flights.join(id));
        assert_eq!(first.result(async { 1 }, PATIENCE).await, Some(1));
        assert_eq!(flights.join(id).result(async { 2 }, PATIENCE).await, Some(2));
        assert_eq!(second.result(async { 3 }, PATIENCE).await, Some(1));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_passenger_does_not_wait_for_ever() {
        let ids = TokenIds::random().unwrap();
        let flights = Flights::<u8>::default();
        let id = ids.of(b"token");
        let (first, second) = (flights.join(id), flights.join(id));
        let mut stalled = Box::pin(first.result(std::future::pending(), PATIENCE));
        poll_once(stalled.as_mut());
        assert_eq!(second.result(async { 1 }, PATIENCE).await, None);
    }
}
