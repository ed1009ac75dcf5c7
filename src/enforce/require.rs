//! What a route needs beyond a proven identity.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Binding, Denial, Outcome, Place, Proof,
    context::Reporting,
    verify::{Requirements, strings},
};

/// Requirements of a route, on top of what the [`CaracalLayer`](crate::CaracalLayer) proved. They
/// can only refuse more; nothing here weakens the layer or another requirement.
///
/// Add it with `route_layer`, which leaves 404 and 405 as they are. Without a proven identity it
/// refuses: 401 when the request is unbound; 500, with a log line that names the fix, when no
/// layer covers the route, when the path is exempt, or when the identity is only propagated.
///
/// ```
/// use axum::{Router, routing::{get, post}};
/// use caracal_axum::{Denial, Require};
///
/// # async fn handler() {}
/// let app: Router = Router::new()
///     .route("/invoices", get(handler).route_layer(Require::scopes(["invoices:read"])))
///     .route(
///         "/refunds",
///         post(handler).route_layer(
///             Require::scopes(["refunds:create"]).delegation().max_hops(3).and(Require::check(
///                 |proof, parts| match parts.headers.get("x-tenant") {
///                     Some(tenant) if tenant.as_bytes() == proof.zone_id().as_bytes() => Ok(()),
///                     _ => Err(Denial::forbidden("another tenant")),
///                 },
///             )),
///         ),
///     );
/// ```
///
/// To apply several to one route, join them with [`and`](Self::and).
#[derive(Clone, Default)]
#[must_use]
pub struct Require(Arc<Rules>);

#[derive(Clone, Default)]
struct Rules {
    requirements: Requirements,
    checks: Vec<Check>,
}

type Check = Arc<dyn Fn(&Proof, &Parts) -> Result<(), Denial> + Send + Sync>;

impl Require {
    /// A proven identity, and nothing more yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// All of these scopes. They are matched whole; there are no wildcards, and an empty one is
    /// never held.
    pub fn scopes<S: AsRef<str>>(scopes: impl IntoIterator<Item = S>) -> Self {
        Self::new().with(|rules| rules.requirements.scopes = strings(scopes))
    }

    /// A decision of your own, from the proof and the request's head. It is asked last.
    pub fn check(
        check: impl Fn(&Proof, &Parts) -> Result<(), Denial> + Send + Sync + 'static,
    ) -> Self {
        Self::new().with(|rules| rules.checks.push(Arc::new(check)))
    }

    /// Authority for all of these resources; 401 `invalid_token` where one is missing, as
    /// everywhere in Caracal.
    pub fn targets<S: AsRef<str>>(self, targets: impl IntoIterator<Item = S>) -> Self {
        self.with(|rules| rules.requirements.targets.extend(strings(targets)))
    }

    /// A governed agent session.
    pub fn session(self) -> Self {
        self.with(|rules| rules.requirements.session = true)
    }

    /// Delegated authority.
    pub fn delegation(self) -> Self {
        self.with(|rules| rules.requirements.delegation = true)
    }

    /// Authority delegated over at most so many hops. Of several limits the lowest counts.
    pub fn max_hops(self, hops: u32) -> Self {
        let limit = Requirements { max_hops: Some(hops), ..Requirements::default() };
        self.with(|rules| rules.requirements.and(limit))
    }

    /// A delegation chain with all of these applications. The acting one counts where the chain
    /// names it.
    pub fn chain_contains<S: AsRef<str>>(self, applications: impl IntoIterator<Item = S>) -> Self {
        self.with(|rules| rules.requirements.chain.extend(strings(applications)))
    }

    /// These requirements and those of `other`.
    pub fn and(self, other: Self) -> Self {
        self.with(|rules| {
            let other = Arc::unwrap_or_clone(other.0);
            rules.requirements.and(other.requirements);
            rules.checks.extend(other.checks);
        })
    }
}

impl Rules {
    fn judge(&self, parts: &Parts) -> Result<(), Denial> {
        let proof = Binding::of(&parts.extensions)?.proven()?;
        self.requirements.check(proof)?;
        self.checks.iter().try_for_each(|check| check(proof, parts))
    }
}

impl fmt::Debug for Require {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Require")
            .field("requirements", &self.0.requirements)
            .field("checks", &self.0.checks.len())
            .finish()
    }
}

impl<S> Layer<S> for Require {
    type Service = RequireService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireService { rules: Arc::clone(&self.0), inner }
    }
}

/// The service of a [`Require`].
#[derive(Clone)]
pub struct RequireService<S> {
    rules: Arc<Rules>,
    inner: S,
}

impl<S: fmt::Debug> fmt::Debug for RequireService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for RequireService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = RequireFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let reporting = parts.extensions.get::<Reporting>();
        let seen = reporting.map(|reporting| reporting.begin(Place::Route));
        let judged = self.rules.judge(&parts);
        let identity = Binding::of(&parts.extensions).ok().and_then(Binding::context);
        let judged = judged.and_then(|()| match (reporting, seen) {
            (Some(reporting), Some(seen)) => {
                reporting.admit(Outcome::Allowed, identity, &parts, seen)
            }
            _ => Ok(()),
        });
        let state = match judged {
            Ok(()) => State::Passed { future: self.inner.call(Request::from_parts(parts, body)) },
            Err(denial) => {
                let reporting = reporting.cloned().unwrap_or_default();
                let seen = seen.unwrap_or_else(|| reporting.begin(Place::Route));
                State::Refused { response: Some(reporting.refuse(&denial, identity, &parts, seen)) }
            }
        };
        RequireFuture { state }
    }
}

pin_project! {
    /// The response future of [`RequireService`].
    pub struct RequireFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Stage]
    enum State<F> {
        Passed { #[pin] future: F },
        Refused { response: Option<Response> },
    }
}

impl<F> fmt::Debug for RequireFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireFuture").finish_non_exhaustive()
    }
}

impl<F, R, E> Future for RequireFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<axum::BoxError>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Stage::Passed { future } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(response.map(Body::new)))
            }
            Stage::Refused { response } => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
        }
    }
}
