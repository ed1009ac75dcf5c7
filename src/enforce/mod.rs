//! The boundary: the layer that proves every request, and the requirements of routes.

mod body;
mod exempt;
mod layer;
mod require;
mod service;

pub use layer::{CaracalLayer, NoVerifier};
#[cfg(feature = "client")]
pub(crate) use layer::{accept, claimed};
pub use require::{Require, RequireFuture, RequireService};
pub use service::{CaracalFuture, CaracalService};
