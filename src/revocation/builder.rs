//! Configuring a [`MemoryRevocations`].

use std::{fmt, sync::Arc, time::Duration};

use super::MemoryRevocations;
use crate::{Clock, SystemClock, observer::Observer};

/// Mandates live an hour at most; a mark must outlive them all.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_CAPACITY: usize = 100_000;

/// Builder of [`MemoryRevocations`].
#[must_use]
pub struct MemoryRevocationsBuilder {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) capacity: usize,
    pub(super) ttl: Duration,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

impl Default for MemoryRevocationsBuilder {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            capacity: DEFAULT_CAPACITY,
            ttl: DEFAULT_TTL,
            observer: None,
        }
    }
}

impl fmt::Debug for MemoryRevocationsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRevocationsBuilder")
            .field("capacity", &self.capacity)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl MemoryRevocationsBuilder {
    /// How many marks and epochs are kept; 100,000 unless set.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.capacity = entries;
        self
    }

    /// How long a mark counts; 24 hours unless set, or set to zero. Below an hour it may end before
    /// a mandate does.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        self
    }

    /// The clock TTLs are measured with.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Who is told of every change.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The store.
    #[must_use]
    pub fn build(self) -> MemoryRevocations {
        MemoryRevocations::new(self)
    }
}
