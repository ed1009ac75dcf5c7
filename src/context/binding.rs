//! What the layer left in the request.

use http::Extensions;

use super::{CaracalContext, Proof};
use crate::{Denial, Reason};

/// The extension that a [`CaracalLayer`](crate::CaracalLayer) inserts into every request it lets
/// through. A request without it was not covered by any layer.
///
/// A layer within another never replaces a proven identity by less. A test of a route may insert
/// one by itself:
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use caracal_axum::{Binding, CaracalContext, Proof, Require};
/// use tower::ServiceExt as _;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// async fn handler(context: CaracalContext) -> String {
///     context.application_id().to_owned()
/// }
/// let route = get(handler).route_layer(Require::scopes(["tickets:read"]));
/// let app: Router = Router::new().route("/", route);
///
/// let proof = Proof::builder("zone-1", "planner", u64::MAX).scopes(["tickets:read"]).build();
/// let mut request = Request::new(Body::empty());
/// request.extensions_mut().insert(Binding::Bound(proof.into()));
/// assert_eq!(app.oneshot(request).await.unwrap().status(), 200);
/// # }
/// ```
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
