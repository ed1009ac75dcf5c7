//! The time of an embedded Caracal: one clock, and stamps that never repeat.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

use crate::Clock;

/// The clock that everything in an embedded Caracal goes by: an injected one, and what it was
/// moved ahead by. Clones share the time; a verifier takes one too.
#[derive(Clone)]
pub struct EmbeddedClock {
    base: Arc<dyn Clock>,
    ahead: Arc<Mutex<Duration>>,
}

impl EmbeddedClock {
    pub(super) fn new(base: Arc<dyn Clock>) -> Self {
        Self { base, ahead: Arc::default() }
    }

    /// Lets `time` pass.
    pub fn advance(&self, time: Duration) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        *ahead = ahead.saturating_add(time);
    }

    fn ahead(&self) -> Duration {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for EmbeddedClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedClock").field("unix_time", &self.unix_time()).finish()
    }
}

impl Clock for EmbeddedClock {
    fn unix_time(&self) -> Duration {
        self.base.unix_time().saturating_add(self.ahead())
    }

    fn monotonic(&self) -> Duration {
        self.base.monotonic().saturating_add(self.ahead())
    }
}

/// A moment, since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(Duration);

impl Time {
    /// The next stamp after `last`. Two things never happen at one moment, also where the clock
    /// stands still: what is made later with the same ttl ends later.
    pub(super) fn after(last: Self, clock: &impl Clock) -> Self {
        Self(clock.unix_time().max(last.0.saturating_add(Duration::from_micros(1))))
    }

    pub(super) fn of(clock: &impl Clock) -> Self {
        Self(clock.unix_time())
    }

    pub(super) const fn from_seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole seconds, rounded down: what claims hold.
    pub(super) const fn seconds(self) -> u64 {
        self.0.as_secs()
    }

    pub(super) const fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    pub(super) const fn plus_seconds(self, seconds: u64) -> Self {
        self.plus(Duration::from_secs(seconds))
    }

    /// What is left until this moment.
    pub(super) const fn left(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }

    /// The first tick at or after this moment, of a task that runs every `seconds` from `start` on.
    pub(super) fn next_tick(self, start: Self, seconds: u64) -> Self {
        let since = self.left(start);
        let ticks = since.as_secs() / seconds
            + u64::from(since > Duration::from_secs(since.as_secs() / seconds * seconds));
        start.plus_seconds(ticks.max(1).saturating_mul(seconds))
    }

    /// RFC 3339 in UTC with milliseconds.
    pub(super) fn text(self) -> String {
        let moment = i64::try_from(self.0.as_millis())
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .unwrap_or(Timestamp::MAX);
        DateTimePrinter::new().precision(Some(3)).timestamp_to_string(&moment)
    }

    /// RFC 3339 as the Coordinator takes it: a date and time of day that exist, `T` between them
    /// and `Z` at the end.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let shape = b"dddd-dd-ddTdd:dd:dd";
        let (head, tail) = bytes.split_at_checked(shape.len())?;
        let in_shape = head.iter().zip(shape).all(|(byte, expected)| match expected {
            b'd' => byte.is_ascii_digit(),
            _ => byte == expected,
        });
        let fraction = tail.strip_suffix(b"Z")?;
        let fraction_is_one = match fraction.split_first() {
            None => true,
            Some((b'.', digits)) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
            Some(_) => false,
        };
        if !in_shape || !fraction_is_one {
            return None;
        }
        let moment: Timestamp = text.parse().ok()?;
        // Before 1970 is the past like any other.
        Some(Self(Duration::try_from(moment.as_duration()).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn a_clock_that_stands_still_still_gives_different_stamps() {
        let clock = ManualClock::new(100);
        let first = Time::of(&clock);
        let second = Time::after(first, &clock);
        assert!(second > first && second.seconds() == 100);
        clock.advance(Duration::from_millis(2500));
        assert_eq!(Time::after(second, &clock).text(), "1970-01-01T00:01:42.500Z");
    }

    #[test]
    fn moving_ahead_moves_what_was_injected() {
        let base = ManualClock::new(100);
        let clock = EmbeddedClock::new(Arc::new(base.clone()));
        clock.clone().advance(Duration::from_millis(1500));
        base.advance(Duration::from_secs(10));
        assert_eq!(clock.unix_time(), Duration::from_millis(111_500));
        assert_eq!(clock.monotonic(), Duration::from_millis(11_500));
    }

    #[test]
    fn ticks_count_from_the_start() {
        let start = Time::from_seconds(1000);
        let tick = |at| Time(Duration::from_millis(at)).next_tick(start, 30).seconds();
        assert_eq!(tick(1_000_000), 1030, "nothing is swept at the start itself");
        assert_eq!(tick(1_000_001), 1030);
        assert_eq!(tick(1_030_000), 1030);
        assert_eq!(tick(1_030_001), 1060);
        assert_eq!(tick(1_059_999), 1060);
    }

    #[test]
    fn only_utc_with_a_z_is_a_time() {
        for good in ["2099-01-01T00:00:00Z", "2099-01-01T00:00:00.123Z", "2099-01-01T23:59:59.5Z"] {
            assert!(Time::parse(good).is_some(), "{good}");
        }
        assert_eq!(
            Time::parse("1970-01-01T00:00:01.500Z"),
            Some(Time(Duration::from_millis(1500)))
        );
        assert_eq!(Time::parse("1960-01-01T00:00:00Z"), Some(Time(Duration::ZERO)));
        for bad in [
            "",
            "tomorrow",
            "2099-01-01",
            "2099-01-01T00:00:00",
            "2099-01-01T00:00:00+00:00",
            "2099-01-01 00:00:00Z",
            "2099-02-30T00:00:00Z",
            "2099-01-01t00:00:00Z",
            "2099-01-01T00:00:00z",
            "2099-01-01T00:00:00.Z",
            "2099-01-01T25:00:00Z",
            "+02099-01-01T00:00:00Z",
            "2099-01-01T00:00:00Z[UTC]",
            "20990101T000000Z",
        ] {
            assert!(Time::parse(bad).is_none(), "{bad}");
        }
    }
}
