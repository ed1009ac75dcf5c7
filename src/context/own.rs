//! Identities that this process acquired for itself.

use std::{sync::Arc, time::Duration};

use super::Attribution;

/// An application identity of this process, in an agent session of its own or in none.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) attribution: Attribution,
    /// What is known of the delegation it holds.
    pub(crate) edge: Option<HeldEdge>,
}

/// The delegation that a session of this process holds.
#[derive(Clone, Default)]
pub(crate) struct HeldEdge {
    /// The scopes it gives, where they are known.
    pub(crate) scopes: Option<Arc<[String]>>,
    /// Whether it was accepted, and is perhaps one of several.
    pub(crate) accepted: bool,
    /// Where this process made it: how far it may be passed on.
    pub(crate) made: Option<MadeEdge>,
}

/// A delegation that this process made.
#[derive(Clone, Copy)]
pub(crate) struct MadeEdge {
    /// 1 for one without a parent, else one more than its parent; none where a parent is not known.
    pub(crate) depth: Option<u32>,
    pub(crate) max_hops: u32,
    /// When it ends, by the monotonic clock.
    pub(crate) ends: Duration,
}
