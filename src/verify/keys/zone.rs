//! The keys of one zone over time: fetched once for all who wait, refreshed before they are old,
//! kept when a refresh fails, and never fetched as often as a caller pleases.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use super::{
    DynKeySource, Key, KeyError, KeyRequest,
    jwk::{KeySet, usable_keys},
};
use crate::{
    Clock,
    observer::{KeyFetch, Observer, notify},
};

/// How soon keys that could not be had at all are asked for again.
const COLD_RETRY: Duration = Duration::from_secs(1);

/// How long keys are good for, and how often they may be fetched.
#[derive(Debug, Clone, Copy)]
pub(in crate::verify) struct KeyPolicy {
    /// Age at which a key set should have been replaced.
    pub(in crate::verify) ttl: Duration,
    /// How much longer it serves while refreshes fail.
    pub(in crate::verify) stale: Duration,
    /// The least time between two fetches while there are keys.
    pub(in crate::verify) cool_down: Duration,
    /// The most a fetch may take, and so the most anybody waits for one.
    pub(in crate::verify) timeout: Duration,
}

/// The keys of one zone. Its tasks hold it weakly and end with it.
pub(in crate::verify) struct ZoneKeys {
    request: KeyRequest,
    source: Arc<dyn DynKeySource>,
    clock: Arc<dyn Clock>,
    policy: KeyPolicy,
    observer: Option<Arc<dyn Observer>>,
    state: Mutex<State>,
    /// Grows whenever the set of keys changes.
    generation: AtomicU64,
    /// Until then (milliseconds of [`Clock::monotonic`]) time alone calls for nothing: no refresh
    /// is due, and the keys are not too old.
    quiet_until: AtomicU64,
}

/// Times are those of [`Clock::monotonic`].
#[derive(Default)]
struct State {
    loaded: Option<Loaded>,
    /// When the last fetch began. Set before it begins: what ends it cannot undo it.
    attempted_at: Option<Duration>,
    flight: Option<Flight>,
    flights: u64,
    error: Option<KeyError>,
    failures: u64,
    tasks: Tasks,
}

struct Loaded {
    keys: KeySet,
    at: Duration,
    refresh_at: Duration,
}

/// A fetch in progress.
#[derive(Clone)]
pub(in crate::verify) struct Flight {
    /// True when it is over.
    over: watch::Receiver<bool>,
    /// Which of the zone's fetches it is.
    number: u64,
    /// By the clock of the system: whether its task still runs is no matter of an injected one.
    began: Instant,
}

/// How much later than its own timeout a fetch is given up by those who wait for it. Its task may
/// live on a runtime that nobody drives any more.
const GRACE: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Tasks {
    fetch: Option<AbortHandle>,
    timer: Option<AbortHandle>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in [self.fetch.take(), self.timer.take()].into_iter().flatten() {
            task.abort();
        }
    }
}

/// What is known about a `kid` without waiting.
pub(in crate::verify) enum Lookup {
    Found(Arc<Key>),
    /// The zone has keys, and none of this name.
    Unknown,
    /// A fetch that may bring it is in progress.
    Pending(Flight),
    Unavailable(KeyError),
}

/// The keys of a zone as they are now, for readiness checks and dashboards.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// The issuer.
    pub issuer: String,
    /// The zone.
    pub zone: String,
    /// The `kid`s of the usable keys, sorted.
    pub key_ids: Vec<String>,
    /// How old the key set is.
    pub age: Option<Duration>,
    /// How long no further fetch may be forced.
    pub cool_down: Option<Duration>,
    /// Why the last fetch failed; `None` when it did not.
    pub last_error: Option<KeyError>,
    /// How many fetches have failed since the start.
    pub failures: u64,
}

impl KeyStatus {
    /// Whether there are keys to verify with; without any, every mandate of the zone is refused with
    /// 503.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.key_ids.is_empty()
    }
}

impl ZoneKeys {
    pub(in crate::verify) fn new(
        request: KeyRequest,
        source: Arc<dyn DynKeySource>,
        clock: Arc<dyn Clock>,
        policy: KeyPolicy,
        observer: Option<Arc<dyn Observer>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            request,
            source,
            clock,
            policy,
            observer,
            state: Mutex::default(),
            generation: AtomicU64::new(0),
            quiet_until: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment away from consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `key` is still the zone's key of this name; `seen` is the generation under which it
    /// last was. Without news, and while no time has come, that is two loads and a look at the
    /// clock.
    pub(in crate::verify) fn holds(
        self: &Arc<Self>,
        kid: &str,
        key: &Key,
        seen: &AtomicU64,
    ) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        let quiet = milliseconds(self.clock.monotonic()) < self.quiet_until.load(Ordering::Acquire);
        if quiet && seen.load(Ordering::Acquire) == generation {
            return true;
        }
        let holds = matches!(self.lookup(kid), Lookup::Found(found) if *found == *key);
        if holds {
            seen.store(generation, Ordering::Release);
        }
        holds
    }

    /// The generation that the next lookup answers for, or a later one.
    pub(in crate::verify) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Looks a key up, and starts the fetch that its absence or the age of the set calls for.
    pub(in crate::verify) fn lookup(self: &Arc<Self>, kid: &str) -> Lookup {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.drop_dead_flight(self.patience());
        let rested =
            state.attempted_at.is_none_or(|at| now.saturating_sub(at) >= self.policy.cool_down);
        let Some(loaded) = state.usable(now, self.policy) else {
            if let (Some(error), Some(at)) = (&state.error, state.attempted_at) {
                let pause = COLD_RETRY.min(self.policy.cool_down);
                if state.flight.is_none() && now.saturating_sub(at) < pause {
                    return Lookup::Unavailable(error.clone());
                }
            }
            return self.join_or_start(&mut state, now);
        };
        if let Some(key) = loaded.keys.get(kid).cloned() {
            if now >= loaded.refresh_at && rested && state.flight.is_none() {
                self.join_or_start(&mut state, now);
            }
            self.set_quiet(&state);
            return Lookup::Found(key);
        }
        if state.flight.is_some() || rested {
            return self.join_or_start(&mut state, now);
        }
        Lookup::Unknown
    }

    /// Waits for what [`lookup`](Self::lookup) started, no longer than a fetch may take.
    pub(in crate::verify) async fn landed(&self, mut flight: Flight, kid: &str) -> Lookup {
        let left = self.patience().saturating_sub(flight.began.elapsed());
        // An error means that the fetch was aborted or given up: over as well.
        let _ = tokio::time::timeout(left, flight.over.wait_for(|over| *over)).await;
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.drop_dead_flight(self.patience());
        match state.usable(now, self.policy) {
            Some(loaded) => loaded.keys.get(kid).cloned().map_or(Lookup::Unknown, Lookup::Found),
            None => Lookup::Unavailable(state.error.clone().unwrap_or(KeyError::Aborted)),
        }
    }

    fn patience(&self) -> Duration {
        self.policy.timeout.saturating_add(GRACE)
    }

    /// Fetches unless there are keys already.
    pub(in crate::verify) async fn warm_up(self: &Arc<Self>) -> Result<(), KeyError> {
        // No key has the empty name.
        let found = match self.lookup("") {
            Lookup::Pending(flight) => self.landed(flight, "").await,
            found => found,
        };
        match found {
            Lookup::Unavailable(error) => Err(error),
            _ => Ok(()),
        }
    }

    pub(in crate::verify) fn status(&self) -> KeyStatus {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.drop_dead_flight(self.patience());
        let loaded = state.usable(now, self.policy);
        let mut key_ids: Vec<String> =
            loaded.iter().flat_map(|loaded| loaded.keys.keys()).map(|kid| (**kid).into()).collect();
        key_ids.sort_unstable();
        let next = state.attempted_at.map(|at| at.saturating_add(self.policy.cool_down));
        KeyStatus {
            issuer: self.request.issuer().into(),
            zone: self.request.zone().into(),
            key_ids,
            age: loaded.map(|loaded| now.saturating_sub(loaded.at)),
            cool_down: next.and_then(|next| next.checked_sub(now)).filter(|left| !left.is_zero()),
            last_error: state.error.clone(),
            failures: state.failures,
        }
    }

    fn join_or_start(self: &Arc<Self>, state: &mut State, now: Duration) -> Lookup {
        if let Some(flight) = &state.flight {
            return Lookup::Pending(flight.clone());
        }
        let Ok(runtime) = Handle::try_current() else {
            return Lookup::Unavailable(KeyError::Aborted);
        };
        let (end, over) = watch::channel(false);
        state.flights += 1;
        let number = state.flights;
        let flight = Flight { over, number, began: Instant::now() };
        state.attempted_at = Some(now);
        state.flight = Some(flight.clone());
        let (zone, source) = (Arc::downgrade(self), Arc::clone(&self.source));
        let (request, timeout) = (self.request.clone(), self.policy.timeout);
        let task = runtime.spawn(async move {
            let fetched = tokio::time::timeout(timeout, source.fetch(&request)).await;
            let keys = fetched
                .unwrap_or(Err(KeyError::Timeout))
                .and_then(|document| usable_keys(&document));
            if let Some(zone) = zone.upgrade() {
                zone.land(number, keys);
            }
            let _ = end.send(true);
        });
        state.tasks.fetch = Some(task.abort_handle());
        // A fetch that never lands (its source panics) must not be the last one.
        self.schedule(state, self.patience().max(self.policy.cool_down).max(COLD_RETRY));
        Lookup::Pending(flight)
    }

    /// Works out how long time alone will call for nothing.
    fn set_quiet(&self, state: &State) {
        let until = state.loaded.as_ref().map_or(Duration::ZERO, |loaded| {
            let rested =
                state.attempted_at.unwrap_or_default().saturating_add(self.policy.cool_down);
            let limit = loaded.at.saturating_add(self.policy.ttl).saturating_add(self.policy.stale);
            loaded.refresh_at.max(rested).min(limit)
        });
        self.quiet_until.store(milliseconds(until), Ordering::Release);
    }

    /// Takes the result of a fetch in. Good keys are never replaced by nothing, and a fetch that was
    /// given up replaces nothing at all.
    fn land(self: &Arc<Self>, number: u64, fetched: Result<KeySet, KeyError>) {
        let now = self.clock.monotonic();
        let result = fetched.as_ref().map(KeySet::len).map_err(Clone::clone);
        let mut state = self.state();
        if state.flight.take_if(|flight| flight.number == number).is_none() {
            return;
        }
        let next = match fetched {
            Ok(keys) => {
                // Jitter, so that a fleet started together does not fetch together.
                let wait = self.policy.ttl.mul_f64(0.75 + 0.15 * fastrand::f64());
                if state.loaded.as_ref().is_none_or(|loaded| loaded.keys != keys) {
                    self.generation.fetch_add(1, Ordering::Release);
                }
                let refresh_at = now.saturating_add(wait);
                state.loaded = Some(Loaded { keys, at: now, refresh_at });
                state.error = None;
                self.set_quiet(&state);
                wait
            }
            Err(error) => {
                state.fail(error);
                self.policy.cool_down
            }
        };
        self.schedule(&mut state, next.max(COLD_RETRY));
        // Whoever is told may ask for the status.
        drop(state);
        self.tell(&result);
    }

    fn tell(&self, result: &Result<usize, KeyError>) {
        let zone = self.request.zone();
        match result {
            Ok(keys) => tracing::debug!(target: "caracal::keys", zone, keys, "keys fetched"),
            Err(error) => tracing::warn!(target: "caracal::keys", zone, %error, "keys not fetched"),
        }
        if let Some(observer) = &self.observer {
            let result = result.as_ref().map(|keys| *keys).map_err(|error| error as &_);
            let fetch = KeyFetch { issuer: self.request.issuer(), zone_id: zone, result };
            notify(&**observer, |observer| observer.keys_fetched(&fetch));
        }
    }

    /// Refreshes after `wait` even when no request comes.
    fn schedule(self: &Arc<Self>, state: &mut State, wait: Duration) {
        let zone = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(zone) = Weak::upgrade(&zone) {
                let now = zone.clock.monotonic();
                let mut state = zone.state();
                state.drop_dead_flight(zone.patience());
                zone.join_or_start(&mut state, now);
            }
        });
        if let Some(before) = state.tasks.timer.replace(task.abort_handle()) {
            before.abort();
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl State {
    fn usable(&self, now: Duration, policy: KeyPolicy) -> Option<&Loaded> {
        let limit = policy.ttl.saturating_add(policy.stale);
        self.loaded.as_ref().filter(|loaded| now.saturating_sub(loaded.at) <= limit)
    }

    fn fail(&mut self, error: KeyError) {
        self.error = Some(error);
        self.failures += 1;
    }

    /// A fetch whose task panicked, went down with its runtime, or is late, has failed.
    fn drop_dead_flight(&mut self, patience: Duration) {
        let dead = |flight: &mut Flight| {
            flight.over.has_changed().is_err() || flight.began.elapsed() >= patience
        };
        if self.flight.take_if(dead).is_some() {
            if let Some(task) = self.tasks.fetch.take() {
                task.abort();
            }
            self.fail(KeyError::Aborted);
        }
    }
}
