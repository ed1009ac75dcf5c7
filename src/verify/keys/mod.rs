//! The keys of a zone: where they come from, which are usable, and how long.

mod http;
mod jwk;
mod source;
mod zone;

pub use http::{HttpKeys, HttpKeysBuilder};
pub(super) use jwk::Key;
#[cfg(test)]
pub(super) use jwk::usable_keys;
pub(super) use source::DynKeySource;
pub use source::{KeyDocument, KeyError, KeyRequest, KeySource, StaticKeys};
pub use zone::KeyStatus;
pub(super) use zone::{KeyPolicy, Lookup, ZoneKeys};

/// A larger key document is refused.
pub(super) const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
