//! The time by which mandates, revocations and key sets are judged.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

/// A source of time. Injected, so that expiry and cool-downs are tested without sleeping.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time since the Unix epoch: what `exp`, `nbf` and `iat` are compared with.
    fn unix_time(&self) -> Duration;

    /// Time since some fixed point, never going backwards: what TTLs and cool-downs are measured
    /// with, so that stepping the wall clock neither forgets revocations nor keeps old keys.
    fn monotonic(&self) -> Duration;

    /// Waits until `time` has passed by this clock. Unless overridden it waits in real time, which
    /// needs a Tokio runtime with time; a clock that is moved by hand overrides it.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(time))
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn unix_time(&self) -> Duration {
        C::unix_time(self)
    }

    fn monotonic(&self) -> Duration {
        C::monotonic(self)
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        C::sleep(self, time)
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
pub struct ManualClock(Arc<watch::Sender<Times>>);

#[derive(Debug, Clone, Copy)]
struct Times {
    unix: Duration,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that reads `unix_seconds`.
    #[must_use]
    pub fn new(unix_seconds: u64) -> Self {
        let times = Times { unix: Duration::from_secs(unix_seconds), monotonic: Duration::ZERO };
        Self(Arc::new(watch::Sender::new(times)))
    }

    /// Lets `time` pass, and wakes whoever slept until then.
    pub fn advance(&self, time: Duration) {
        self.0.send_modify(|times| {
            times.unix = times.unix.saturating_add(time);
            times.monotonic = times.monotonic.saturating_add(time);
        });
    }

    /// Steps the wall clock to `unix_seconds`, as an operator would; no time passes.
    pub fn set_unix_time(&self, unix_seconds: u64) {
        self.0.send_modify(|times| times.unix = Duration::from_secs(unix_seconds));
    }
}

impl Clock for ManualClock {
    fn unix_time(&self) -> Duration {
        self.0.borrow().unix
    }

    fn monotonic(&self) -> Duration {
        self.0.borrow().monotonic
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let clock = self.clone();
        let until = self.monotonic().saturating_add(time);
        Box::pin(async move {
            let mut times = clock.0.subscribe();
            // The clock is held, so that its sender cannot go.
            let _ = times.wait_for(|times| times.monotonic >= until).await;
        })
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

    #[tokio::test]
    async fn sleepers_wake_when_the_clock_is_moved_far_enough() {
        let clock = ManualClock::new(100);
        let mut sleep = clock.sleep(Duration::from_secs(10));
        let mut poll = || {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            sleep.as_mut().poll(&mut context).is_ready()
        };
        assert!(!poll());
        clock.advance(Duration::from_secs(9));
        clock.set_unix_time(1_000_000);
        assert!(!poll(), "a step of the wall clock is not time passing");
        clock.advance(Duration::from_secs(1));
        assert!(poll());
    }
}
