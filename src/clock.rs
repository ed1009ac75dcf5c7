//! The time by which mandates, revocations and key sets are judged.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A source of time. Injected, so that expiry and cool-downs are tested without sleeping.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time since the Unix epoch: what `exp`, `nbf` and `iat` are compared with.
    fn unix_time(&self) -> Duration;

    /// Time since some fixed point, never going backwards: what TTLs and cool-downs are measured
    /// with, so that stepping the wall clock neither forgets revocations nor keeps old keys.
    fn monotonic(&self) -> Duration;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn unix_time(&self) -> Duration {
        C::unix_time(self)
    }

    fn monotonic(&self) -> Duration {
        C::monotonic(self)
    }
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    fn unix_time(&self) -> Duration {
        // A clock before 1970 is wrong: it reads as the end of time, when everything has expired.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::MAX)
    }

    fn monotonic(&self) -> Duration {
        START.elapsed()
    }
}

/// A clock that stands still until it is moved. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Times>>);

#[derive(Debug)]
struct Times {
    unix: Duration,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that reads `unix_seconds`.
    #[must_use]
    pub fn new(unix_seconds: u64) -> Self {
        Self(Arc::new(Mutex::new(Times {
            unix: Duration::from_secs(unix_seconds),
            monotonic: Duration::ZERO,
        })))
    }

    /// Lets `time` pass.
    pub fn advance(&self, time: Duration) {
        self.with(|times| {
            times.unix = times.unix.saturating_add(time);
            times.monotonic = times.monotonic.saturating_add(time);
        });
    }

    /// Steps the wall clock to `unix_seconds`, as an operator would; no time passes.
    pub fn set_unix_time(&self, unix_seconds: u64) {
        self.with(|times| times.unix = Duration::from_secs(unix_seconds));
    }

    fn with<T>(&self, f: impl FnOnce(&mut Times) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clock for ManualClock {
    fn unix_time(&self) -> Duration {
        self.with(|times| times.unix)
    }

    fn monotonic(&self) -> Duration {
        self.with(|times| times.monotonic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_not_time_passing() {
        let clock = ManualClock::new(100);
        let other = clock.clone();
        other.advance(Duration::from_secs(5));
        assert_eq!((clock.unix_time().as_secs(), clock.monotonic().as_secs()), (105, 5));
        other.set_unix_time(50);
        assert_eq!((clock.unix_time().as_secs(), clock.monotonic().as_secs()), (50, 5));
    }
}
