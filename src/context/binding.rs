//! What the layer left in the request.

use http::Extensions;

use super::{CaracalContext, Proof};
use crate::{Denial, Reason};

/// The extension that a [`CaracalLayer`](crate::CaracalLayer) inserts into every request it lets
/// through. A request without it was not covered by any layer.
#[derive(Debug, Clone)]
pub enum Binding {
    /// An identity is bound.
    Bound(CaracalContext),
    /// No credential was sent, and the layer is `optional`.
    Unbound,
    /// The path, or a CORS preflight, is exempt.
    Exempt,
}

impl Binding {
    /// The binding of a request; an error that names the fix where the layer is missing.
    pub(crate) fn of(extensions: &Extensions) -> Result<&Self, Denial> {
        extensions.get().ok_or_else(|| Denial::misconfigured(Reason::NoLayer))
    }

    /// The identity, where one is bound.
    pub(crate) fn context(&self) -> Option<&CaracalContext> {
        match self {
            Self::Bound(context) => Some(context),
            Self::Unbound | Self::Exempt => None,
        }
    }

    /// The identity, for code that cannot do without one.
    pub(crate) fn required(&self) -> Result<&CaracalContext, Denial> {
        match self {
            Self::Bound(context) => Ok(context),
            Self::Unbound => Err(Denial::missing_token()),
            Self::Exempt => Err(Denial::misconfigured(Reason::Exempt)),
        }
    }

    /// The proof, for code that trusts nothing less.
    pub(crate) fn proven(&self) -> Result<&Proof, Denial> {
        self.required()?.proof().ok_or_else(|| Denial::misconfigured(Reason::NotProven))
    }
}
