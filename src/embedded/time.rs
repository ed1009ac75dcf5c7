//! The time of an embedded Caracal: one clock, and stamps that never repeat.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use jiff::{SignedDuration, civil::DateTime, fmt::temporal::DateTimePrinter};
use tokio::sync::watch;

use crate::Clock;

/// The clock that everything in an embedded Caracal goes by: an injected one, and what it was
/// moved ahead by. Clones share the time; a verifier takes one too.
#[derive(Clone)]
pub struct EmbeddedClock {
    base: Arc<dyn Clock>,
    ahead: Arc<watch::Sender<Duration>>,
}

impl EmbeddedClock {
    pub(super) fn new(base: Arc<dyn Clock>) -> Self {
        Self { base, ahead: Arc::new(watch::Sender::new(Duration::ZERO)) }
    }

    /// Lets `time` pass.
    pub fn advance(&self, time: Duration) {
        self.ahead.send_modify(|ahead| *ahead = ahead.saturating_add(time));
    }

    fn ahead(&self) -> Duration {
        *self.ahead.borrow()
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

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let clock = self.clone();
        let until = self.monotonic().saturating_add(time);
        Box::pin(async move {
            let mut moved = clock.ahead.subscribe();
            loop {
                let left = until.saturating_sub(clock.monotonic());
                if left.is_zero() {
                    return;
                }
                // Moved ahead, or gone on by itself.
                tokio::select! {
                    _ = moved.changed() => {}
                    () = clock.base.sleep(left) => {}
                }
            }
        })
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

    pub(super) const MAX: Self = Self(Duration::MAX);

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
        let every = Duration::from_secs(seconds.max(1)).as_nanos();
        let ticks = self.left(start).as_nanos().div_ceil(every).max(1);
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        start.plus_seconds(ticks.saturating_mul(seconds))
    }

    /// The last tick at or before this moment, of a task that runs at `start` and every `seconds`
    /// from then on.
    pub(super) fn last_tick(self, start: Self, seconds: u64) -> Self {
        let past = self.left(start).as_secs();
        start.plus_seconds(past - past % seconds.max(1))
    }

    /// RFC 3339 in UTC with milliseconds.
    pub(super) fn text(self) -> String {
        let since = SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX);
        let moment = EPOCH.checked_add(since).unwrap_or(DateTime::MAX);
        format!("{}Z", DateTimePrinter::new().precision(Some(3)).datetime_to_string(&moment))
    }

    /// RFC 3339 as the Coordinator takes it: a date and time of day that exist, `T` between them
    /// and `Z` at the end.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let shape = b"dddd-dd-ddTdd:dd:dd";
        let (head, tail) = text.as_bytes().split_at_checked(shape.len())?;
        let in_shape = head.iter().zip(shape).all(|(byte, expected)| match expected {
            b'd' => byte.is_ascii_digit(),
            _ => byte == expected,
        });
        let fraction = tail.strip_suffix(b"Z")?;
        let nanos = match fraction.split_first() {
            None => 0,
            Some((b'.', digits)) if !digits.is_empty() => {
                // What is finer than a nanosecond is cut off.
                let digits = digits.iter().copied().chain(std::iter::repeat(b'0')).enumerate();
                let all = fraction.len().max(10) - 1;
                digits.take(all).try_fold(0, |nanos, (at, digit)| match digit {
                    b'0'..=b'9' if at < 9 => Some(nanos * 10 + u64::from(digit - b'0')),
                    b'0'..=b'9' => Some(nanos),
                    _ => None,
                })?
            }
            Some(_) => return None,
        };
        let leap_second = head.ends_with(b":60");
        if !in_shape || leap_second {
            return None;
        }
        let moment: DateTime = std::str::from_utf8(head).ok()?.parse().ok()?;
        // Before 1970 is the past like any other.
        let since = Duration::try_from(moment.duration_since(EPOCH)).unwrap_or_default();
        Some(Self(since.saturating_add(Duration::from_nanos(nanos))))
    }
}

const EPOCH: DateTime = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);

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
        let last = |at| Time(Duration::from_millis(at)).last_tick(start, 30).seconds();
        assert_eq!([999_000, 1_000_000, 1_029_999, 1_030_000].map(last), [1000, 1000, 1000, 1030]);
        let far = Time(Duration::MAX).next_tick(start, 1);
        assert_eq!(far.next_tick(start, u64::MAX).text(), far.text(), "there is no overflow");
    }

    #[test]
    fn only_utc_with_a_z_is_a_time() {
        for good in ["2099-01-01T00:00:00Z", "2099-01-01T00:00:00.123Z", "9999-12-31T23:59:59Z"] {
            assert!(Time::parse(good).is_some(), "{good}");
        }
        assert_eq!(
            Time::parse("1970-01-01T00:00:01.500Z"),
            Some(Time(Duration::from_millis(1500)))
        );
        let fine = Time::parse("1970-01-01T00:00:01.0123456789012345Z");
        assert_eq!(fine, Some(Time(Duration::from_nanos(1_012_345_678))));
        assert_eq!(Time::parse("9999-12-31T23:59:59Z").unwrap().text(), "9999-12-31T23:59:59.000Z");
        assert_eq!(Time(Duration::MAX).text(), "9999-12-31T23:59:59.999Z");
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
            "2099-01-01T23:59:60Z",
            "2099-01-01T00:00:00.1x2Z",
            "+02099-01-01T00:00:00Z",
            "2099-01-01T00:00:00Z[UTC]",
            "20990101T000000Z",
        ] {
            assert!(Time::parse(bad).is_none(), "{bad}");
        }
    }
}
