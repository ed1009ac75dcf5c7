//! Is the authority behind a mandate still alive?
//!
//! A mandate names up to four *anchors*: its authority record, the record at the root, the agent
//! session and the delegation edge. Revoking any of them ends it. A zone also has a *delegation
//! epoch* that grows whenever its delegation graph changes; a mandate issued under an older one is
//! stale.

mod builder;
mod marks;
mod memory;

use std::{future::Future, pin::Pin, sync::Arc};

pub use builder::MemoryRevocationsBuilder;
pub use memory::MemoryRevocations;

/// What one mandate stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevocationQuery<'a> {
    zone: &'a str,
    anchors: [&'a str; 4],
}

impl<'a> RevocationQuery<'a> {
    /// A query for the `anchors` of a mandate of `zone`; empty anchors do not count.
    #[must_use]
    pub const fn new(zone: &'a str, anchors: [&'a str; 4]) -> Self {
        Self { zone, anchors }
    }

    /// The zone whose delegation epoch is asked for.
    #[must_use]
    pub const fn zone(&self) -> &'a str {
        self.zone
    }

    /// The distinct anchors, none of them empty.
    pub fn anchors(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.anchors.iter().enumerate().filter_map(|(at, anchor)| {
            let repeated = self.anchors.iter().take(at).any(|before| before == anchor);
            (!anchor.is_empty() && !repeated).then_some(*anchor)
        })
    }
}

/// What a store knows about a [`RevocationQuery`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether any of the anchors is revoked.
    pub revoked: bool,
    /// The delegation epoch of the zone; 0 when none is known.
    pub delegation_epoch: u64,
}

/// A store that cannot answer, or cannot record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// The store is full; the mark is not in it, and it answers no query until it is.
    #[error(
        "the revocation store is full: a mark is not recorded, and it stays closed until it is"
    )]
    Full,
    /// The store cannot be asked.
    #[error("the revocation store cannot be asked: {0}")]
    Unavailable(String),
}

/// Where revocations are looked up.
///
/// One call answers for everything a mandate stands on. An error refuses the request with 503:
/// a store that does not know must not say "live". There is no way to take a revocation back.
pub trait RevocationStore: Send + Sync + 'static {
    /// Answers for all anchors and the zone's epoch.
    fn check(
        &self,
        query: RevocationQuery<'_>,
    ) -> impl Future<Output = Result<Standing, RevocationError>> + Send;

    /// The same at once, for a store that holds its answers in memory. `None` means "ask
    /// [`check`](Self::check)".
    fn check_now(&self, query: RevocationQuery<'_>) -> Option<Result<Standing, RevocationError>> {
        let _ = query;
        None
    }

    /// A number that changes before any answer can have become stricter, so that a caller who got
    /// "live" under it may keep that answer while it stays the same. `None` means "always ask".
    fn generation(&self) -> Option<u64> {
        None
    }
}

impl<S: RevocationStore> RevocationStore for Arc<S> {
    fn check(
        &self,
        query: RevocationQuery<'_>,
    ) -> impl Future<Output = Result<Standing, RevocationError>> + Send {
        S::check(self, query)
    }

    fn check_now(&self, query: RevocationQuery<'_>) -> Option<Result<Standing, RevocationError>> {
        S::check_now(self, query)
    }

    fn generation(&self) -> Option<u64> {
        S::generation(self)
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`RevocationStore`] behind a pointer.
pub(crate) trait DynRevocationStore: Send + Sync {
    fn check<'a>(
        &'a self,
        query: RevocationQuery<'a>,
    ) -> BoxFuture<'a, Result<Standing, RevocationError>>;
    fn check_now(&self, query: RevocationQuery<'_>) -> Option<Result<Standing, RevocationError>>;
    fn generation(&self) -> Option<u64>;
}

impl<S: RevocationStore> DynRevocationStore for S {
    fn check<'a>(
        &'a self,
        query: RevocationQuery<'a>,
    ) -> BoxFuture<'a, Result<Standing, RevocationError>> {
        Box::pin(RevocationStore::check(self, query))
    }

    fn check_now(&self, query: RevocationQuery<'_>) -> Option<Result<Standing, RevocationError>> {
        RevocationStore::check_now(self, query)
    }

    fn generation(&self) -> Option<u64> {
        RevocationStore::generation(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_distinct_and_not_empty() {
        let anchors = |anchors| RevocationQuery::new("z", anchors).anchors().collect::<Vec<_>>();
        assert_eq!(anchors(["a", "a", "", "b"]), ["a", "b"]);
        assert_eq!(anchors(["", "", "", ""]), [""; 0]);
        assert_eq!(anchors(["a", "b", "c", "d"]), ["a", "b", "c", "d"]);
    }
}
