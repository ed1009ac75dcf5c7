//! The marks of a store, and what becomes of those that find no room.

use std::{collections::HashMap, time::Duration};

/// Marks beyond the capacity that are remembered for recording later.
pub(super) const MAX_WAITING: usize = 1024;

/// Times are those of [`Clock::monotonic`] at which an entry stops counting.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) marks: HashMap<Box<str>, Duration>,
    pub(super) epochs: HashMap<Box<str>, (u64, Duration)>,
    /// Marks that found no room.
    pub(super) waiting: HashMap<Box<str>, Duration>,
    /// When the last mark that was not even kept waiting stops mattering.
    pub(super) lost_until: Option<Duration>,
    /// When the next entry expires, as of the last reaping: before that, reaping finds nothing.
    pub(super) next_expiry: Duration,
}

impl Marks {
    pub(super) fn is_closed(&self) -> bool {
        !self.waiting.is_empty() || self.lost_until.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len() + self.epochs.len()
    }

    /// Drops what has expired, then records what has been waiting.
    pub(super) fn reap(&mut self, now: Duration, capacity: usize) {
        self.marks.retain(|_, expiry| *expiry > now);
        self.epochs.retain(|_, (_, expiry)| *expiry > now);
        self.waiting.retain(|_, expiry| *expiry > now);
        self.lost_until = self.lost_until.filter(|expiry| *expiry > now);
        let room = capacity.saturating_sub(self.len());
        let admitted: Vec<_> = self.waiting.keys().take(room).cloned().collect();
        for anchor in admitted {
            if let Some(expiry) = self.waiting.remove(&anchor) {
                self.marks.insert(anchor, expiry);
            }
        }
        let epochs = self.epochs.values().map(|(_, expiry)| expiry);
        let expiries = self.marks.values().chain(epochs).chain(self.waiting.values());
        self.next_expiry = expiries.chain(&self.lost_until).min().copied().unwrap_or(Duration::MAX);
    }

    /// Keeps the store closed for an entry that cannot be remembered at all.
    pub(super) fn lose(&mut self, expiry: Duration) {
        self.lost_until = self.lost_until.max(Some(expiry));
        self.next_expiry = self.next_expiry.min(expiry);
    }

    /// A mark must not shorten one that is there.
    pub(super) fn mark(&mut self, anchor: &str, expiry: Duration, capacity: usize) -> bool {
        if let Some(present) = self.marks.get_mut(anchor) {
            *present = expiry.max(*present);
            return true;
        }
        if self.len() < capacity {
            self.marks.insert(anchor.into(), expiry);
            return true;
        }
        if let Some(present) = self.waiting.get_mut(anchor) {
            *present = expiry.max(*present);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(anchor.into(), expiry);
        } else {
            self.lose(expiry);
        }
        false
    }
}
