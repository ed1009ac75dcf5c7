//! Revocations in memory.

use std::{
    fmt,
    future::{Future, ready},
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    MemoryRevocationsBuilder, RevocationError, RevocationQuery, RevocationStore, Standing,
    marks::Marks,
};
use crate::observer::{RevocationChange, notify};

/// A [`RevocationStore`] in this process. Clones share their content: hand one to the verifier and
/// keep one to revoke with.
///
/// Bounded. Expired marks make room first; a mark that finds none is an error, and the store then
/// refuses every query (503) until expiry makes room and the mark is recorded. It never forgets a
/// revocation to make room for another, and never reports one as recorded that is not.
///
/// ```
/// use caracal_axum::MemoryRevocations;
///
/// let revocations = MemoryRevocations::default();
/// revocations.revoke("agent-session-7")?;
/// revocations.raise_epoch("zone-1", 8)?;
/// # Ok::<(), caracal_axum::RevocationError>(())
/// ```
#[derive(Clone)]
pub struct MemoryRevocations(Arc<Shared>);

struct Shared {
    state: RwLock<Marks>,
    generation: AtomicU64,
    settings: MemoryRevocationsBuilder,
}

impl MemoryRevocations {
    pub(super) fn new(settings: MemoryRevocationsBuilder) -> Self {
        let (state, generation) = (RwLock::default(), AtomicU64::new(0));
        Self(Arc::new(Shared { state, generation, settings }))
    }

    /// A store with another capacity, TTL or clock.
    pub fn builder() -> MemoryRevocationsBuilder {
        MemoryRevocationsBuilder::default()
    }

    /// Revokes an anchor for the default TTL.
    ///
    /// # Errors
    /// [`RevocationError::Full`] when the mark found no room. The store is then closed until it is
    /// recorded, so no mandate is let in meanwhile.
    pub fn revoke(&self, anchor: &str) -> Result<(), RevocationError> {
        self.revoke_for(anchor, self.0.settings.ttl)
    }

    /// Revokes an anchor for `ttl`, which should be no shorter than mandates live; zero stands for
    /// the default. A mark that is there already is never shortened. The empty anchor marks nothing.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_for(&self, anchor: &str, ttl: Duration) -> Result<(), RevocationError> {
        if anchor.is_empty() {
            return Ok(());
        }
        let ttl = if ttl.is_zero() { self.0.settings.ttl } else { ttl };
        self.change(|state, now, capacity| {
            let expiry = now.saturating_add(ttl);
            if state.mark(anchor, expiry, capacity) {
                return Ok(());
            }
            state.reap(now, capacity);
            if state.marks.contains_key(anchor) { Ok(()) } else { Err(RevocationError::Full) }
        })?;
        self.tell(&RevocationChange::Revoked { anchor });
        Ok(())
    }

    /// Raises the delegation epoch of a zone for the default TTL. An epoch that is not higher than
    /// the one known changes nothing, not even the TTL.
    ///
    /// # Errors
    /// [`RevocationError::Full`] when a new zone found no room; the store is then closed for the
    /// TTL.
    pub fn raise_epoch(&self, zone: &str, epoch: u64) -> Result<(), RevocationError> {
        let ttl = self.0.settings.ttl;
        let raised = self.change(|state, now, capacity| {
            let expiry = now.saturating_add(ttl);
            let known = state.epochs.get(zone).filter(|(_, expiry)| *expiry > now);
            if known.map_or(0, |(epoch, _)| *epoch) >= epoch {
                return Ok(false);
            }
            if !state.epochs.contains_key(zone) && state.len() >= capacity {
                state.reap(now, capacity);
                if state.len() >= capacity {
                    state.lose(expiry);
                    return Err(RevocationError::Full);
                }
            }
            state.epochs.insert(zone.into(), (epoch, expiry));
            Ok(true)
        })?;
        if raised {
            self.tell(&RevocationChange::EpochRaised { zone_id: zone, epoch });
        }
        Ok(())
    }

    /// Whether the store refuses to answer because a mark could not be recorded.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.state.read().map_or(true, |state| state.is_closed())
    }

    /// How many marks and epochs it holds, expired ones that were not yet dropped included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.read().map_or(0, |state| state.len())
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn change<T>(
        &self,
        f: impl FnOnce(&mut Marks, Duration, usize) -> Result<T, RevocationError>,
    ) -> Result<T, RevocationError> {
        let now = self.0.settings.clock.monotonic();
        let mut state = self.0.state.write().map_err(poisoned)?;
        let was_closed = state.is_closed();
        // Before the change: who reads the new generation then waits for the lock to ask.
        self.0.generation.fetch_add(1, Ordering::Release);
        let result = f(&mut state, now, self.0.settings.capacity);
        let is_closed = state.is_closed();
        // An observer may ask the store.
        drop(state);
        match (was_closed, is_closed) {
            (false, true) => self.tell(&RevocationChange::Closed),
            (true, false) => self.tell(&RevocationChange::Opened),
            _ => {}
        }
        result
    }

    fn tell(&self, change: &RevocationChange<'_>) {
        if let Some(observer) = &self.0.settings.observer {
            notify(&**observer, |observer| observer.revocation_changed(change));
        }
    }

    fn answer(&self, query: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
        let now = self.0.settings.clock.monotonic();
        let mut state = self.0.state.read().map_err(poisoned)?;
        if state.is_closed() {
            if now < state.next_expiry {
                return Err(RevocationError::Full);
            }
            drop(state);
            self.change(|state, now, capacity| {
                state.reap(now, capacity);
                Ok(())
            })?;
            state = self.0.state.read().map_err(poisoned)?;
            if state.is_closed() {
                return Err(RevocationError::Full);
            }
        }
        let epoch = state.epochs.get(query.zone()).filter(|(_, expiry)| *expiry > now);
        Ok(Standing {
            revoked: query
                .anchors()
                .any(|anchor| state.marks.get(anchor).is_some_and(|expiry| *expiry > now)),
            delegation_epoch: epoch.map_or(0, |(epoch, _)| *epoch),
        })
    }
}

/// A thread that panicked while it changed the state may have left a mark out: stay closed.
fn poisoned<T>(_: T) -> RevocationError {
    RevocationError::Unavailable("its lock is poisoned".into())
}

impl Default for MemoryRevocations {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl fmt::Debug for MemoryRevocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRevocations")
            .field("len", &self.len())
            .field("capacity", &self.0.settings.capacity)
            .field("closed", &self.is_closed())
            .finish()
    }
}

impl RevocationStore for MemoryRevocations {
    fn check(
        &self,
        query: RevocationQuery<'_>,
    ) -> impl Future<Output = Result<Standing, RevocationError>> + Send {
        ready(self.answer(query))
    }

    fn check_now(&self, query: RevocationQuery<'_>) -> Option<Result<Standing, RevocationError>> {
        Some(self.answer(query))
    }

    fn generation(&self) -> Option<u64> {
        Some(self.0.generation.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, revocation::marks::MAX_WAITING};

    fn store(capacity: usize) -> (MemoryRevocations, ManualClock) {
        let clock = ManualClock::new(0);
        let store = MemoryRevocations::builder()
            .capacity(capacity)
            .ttl(Duration::from_secs(100))
            .clock(clock.clone())
            .build();
        (store, clock)
    }

    fn ask(store: &MemoryRevocations, anchor: &str) -> Result<bool, RevocationError> {
        let query = RevocationQuery::new("z", [anchor, "", "", ""]);
        store.answer(query).map(|standing| standing.revoked)
    }

    fn epoch(store: &MemoryRevocations) -> u64 {
        store.answer(RevocationQuery::new("z", [""; 4])).unwrap().delegation_epoch
    }

    #[test]
    fn marks_count_until_their_ttl_and_are_never_shortened() {
        let (store, clock) = store(10);
        store.revoke("a").unwrap();
        store.revoke_for("a", Duration::from_secs(1)).unwrap();
        store.revoke("").unwrap();
        clock.advance(Duration::from_secs(99));
        assert_eq!(ask(&store, "a"), Ok(true));
        assert_eq!(ask(&store, "b"), Ok(false));
        assert_eq!(ask(&store, ""), Ok(false));
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask(&store, "a"), Ok(false));
    }

    #[test]
    fn stepping_the_wall_clock_forgets_nothing() {
        let (store, clock) = store(10);
        store.revoke("a").unwrap();
        clock.set_unix_time(1_000_000);
        assert_eq!(ask(&store, "a"), Ok(true));
    }

    #[test]
    fn epochs_only_rise_and_an_equal_one_does_not_renew_the_ttl() {
        let (store, clock) = store(10);
        store.raise_epoch("z", 7).unwrap();
        store.raise_epoch("z", 6).unwrap();
        assert_eq!(epoch(&store), 7);
        clock.advance(Duration::from_secs(60));
        store.raise_epoch("z", 7).unwrap();
        clock.advance(Duration::from_secs(40));
        assert_eq!(epoch(&store), 0);
        store.raise_epoch("z", 2).unwrap();
        assert_eq!(epoch(&store), 2);
    }

    #[test]
    fn an_anchor_named_like_an_epoch_is_only_an_anchor() {
        let (store, _) = store(10);
        store.revoke("delegation-epoch:z").unwrap();
        assert_eq!(epoch(&store), 0);
    }

    #[test]
    fn expired_entries_make_room() {
        let (store, clock) = store(2);
        store.revoke("a").unwrap();
        store.revoke("b").unwrap();
        clock.advance(Duration::from_secs(100));
        store.revoke("c").unwrap();
        assert!(!store.is_closed());
        assert_eq!(ask(&store, "c"), Ok(true));
    }

    #[test]
    fn a_mark_without_room_closes_the_store_until_it_is_recorded() {
        let (store, clock) = store(2);
        store.revoke("a").unwrap();
        clock.advance(Duration::from_secs(50));
        store.revoke("b").unwrap();
        assert_eq!(store.revoke("c"), Err(RevocationError::Full));
        assert!(store.is_closed());
        assert_eq!(ask(&store, "other"), Err(RevocationError::Full));
        // A mark that is there already still succeeds, and opens nothing.
        store.revoke("b").unwrap();
        assert_eq!(ask(&store, "other"), Err(RevocationError::Full));

        clock.advance(Duration::from_secs(50));
        assert_eq!(ask(&store, "other"), Ok(false));
        assert_eq!(ask(&store, "c"), Ok(true), "recorded as soon as `a` made room");
        assert!(!store.is_closed());
    }

    /// A mark that counts for no time would be a revocation that was reported and never made.
    #[test]
    fn no_ttl_is_the_default_ttl() {
        let (store, clock) = store(10);
        store.revoke_for("a", Duration::ZERO).unwrap();
        clock.advance(Duration::from_secs(99));
        assert_eq!(ask(&store, "a"), Ok(true));
        let store = MemoryRevocations::builder().ttl(Duration::ZERO).build();
        store.revoke("a").unwrap();
        assert_eq!(ask(&store, "a"), Ok(true));
    }

    #[test]
    fn marks_that_cannot_even_wait_keep_the_store_closed_for_their_ttl() {
        let (store, clock) = store(0);
        for at in 0..=MAX_WAITING {
            assert_eq!(store.revoke(&at.to_string()), Err(RevocationError::Full));
        }
        clock.advance(Duration::from_secs(99));
        assert_eq!(ask(&store, "x"), Err(RevocationError::Full));
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask(&store, "x"), Ok(false));
    }

    #[test]
    fn an_epoch_without_room_closes_the_store_too() {
        for capacity in [0, 1] {
            let (store, clock) = store(capacity);
            if capacity == 1 {
                store.revoke("a").unwrap();
            }
            assert_eq!(store.raise_epoch("z", 1), Err(RevocationError::Full));
            clock.advance(Duration::from_secs(99));
            assert_eq!(ask(&store, "x"), Err(RevocationError::Full));
            clock.advance(Duration::from_secs(1));
            assert_eq!(ask(&store, "x"), Ok(false));
        }
    }

    #[test]
    fn the_generation_changes_with_every_change_and_not_with_queries() {
        let (store, _) = store(1);
        let mut last = store.generation();
        let mut changed = || {
            let now = store.generation();
            std::mem::replace(&mut last, now) != now
        };
        store.revoke("a").unwrap();
        assert!(changed());
        ask(&store, "a").unwrap();
        assert!(!changed());
        store.revoke("b").unwrap_err();
        assert!(changed(), "closing is a change");
    }

    #[test]
    fn a_poisoned_lock_is_unavailable_not_live() {
        let (store, _) = store(10);
        let clone = store.clone();
        let panicked = std::thread::spawn(move || {
            let _guard = clone.0.state.write();
            panic!("poison");
        });
        assert!(panicked.join().is_err());
        assert!(matches!(ask(&store, "a"), Err(RevocationError::Unavailable(_))));
        assert!(matches!(store.revoke("a"), Err(RevocationError::Unavailable(_))));
        assert!(store.is_closed());
    }
}
