//! The service and the future of the layer.

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, header, request::Parts};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::Span;

use super::{
    body::in_context,
    layer::{Boundary, Mode, accept, claimed},
};
use crate::{
    Binding, CaracalContext, Denial, DenialCode, Inbound, Outcome, Place, Proof, Verifier,
    context::{Bound, Reporting, Seen, scoped, sync_scoped},
    current,
    verify::Memo,
};

/// The service of a [`CaracalLayer`](crate::CaracalLayer).
pub struct CaracalService<V, S> {
    boundary: Arc<Boundary<V>>,
    inner: S,
}

impl<V, S> CaracalService<V, S> {
    pub(super) fn new(boundary: Arc<Boundary<V>>, inner: S) -> Self {
        Self { boundary, inner }
    }
}

impl<V, S: Clone> Clone for CaracalService<V, S> {
    fn clone(&self) -> Self {
        Self { boundary: Arc::clone(&self.boundary), inner: self.inner.clone() }
    }
}

impl<V, S: fmt::Debug> fmt::Debug for CaracalService<V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaracalService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<V, S, B, R> Service<Request<B>> for CaracalService<V, S>
where
    V: Verifier,
    S: Service<Request<B>, Response = Response<R>> + Clone,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = CaracalFuture<V, S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The instance that was polled ready is the one to call; its clone waits for the next.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let (mut parts, body) = request.into_parts();
        let boundary = &self.boundary;
        let credential = match &boundary.mode {
            Mode::Enforce(verifier) => verifier.header(),
            Mode::Propagate { .. } | Mode::Refuse { .. } => header::AUTHORIZATION,
        };
        // Exempt requests may carry them too.
        mark_sensitive(&mut parts.headers, &header::AUTHORIZATION);
        if credential != header::AUTHORIZATION {
            mark_sensitive(&mut parts.headers, &credential);
        }
        let seen = boundary.reporting(&parts).begin(Place::Boundary);
        let let_in = |binding, inner, parts, body| {
            CaracalFuture::unspanned(boundary.enter(inner, parts, body, binding, seen))
        };
        if boundary.is_exempt(&parts) {
            return let_in(Binding::Exempt, inner, parts, body);
        }
        if boundary.may_be_unbound(&parts.headers, &credential) {
            return let_in(Binding::Unbound, inner, parts, body);
        }
        match &boundary.mode {
            Mode::Refuse { reason, .. } => {
                let denial = Denial::misconfigured(reason.clone());
                CaracalFuture::unspanned(boundary.refuse(&denial, &parts, seen))
            }
            Mode::Enforce(verifier) => judge(boundary, verifier, inner, parts, body, seen),
            Mode::Propagate { zone, application } => {
                match claimed(&parts.headers, zone, application) {
                    Ok(context) => let_in(Binding::Bound(context), inner, parts, body),
                    // Whoever is proven already needs nothing that is only claimed.
                    Err(_) if is_proven(&parts) => let_in(Binding::Unbound, inner, parts, body),
                    Err(denial) => CaracalFuture::unspanned(boundary.refuse(&denial, &parts, seen)),
                }
            }
        }
    }
}

/// Whether a layer around this one has proven an identity.
fn is_proven(parts: &Parts) -> bool {
    let binding: Option<&Binding> = parts.extensions.get();
    binding.and_then(Binding::context).is_some_and(CaracalContext::is_proven)
}

/// Keeps the credential out of the logs of whoever prints headers.
fn mark_sensitive(headers: &mut HeaderMap, name: &HeaderName) {
    if headers.get_all(name).iter().nth(1).is_some() {
        let lines = headers.iter_mut().filter(|(line, _)| *line == name);
        lines.for_each(|(_, value)| value.set_sensitive(true));
    } else if let Some(value) = headers.get_mut(name) {
        value.set_sensitive(true);
    }
}

#[inline]
fn call<S, B>(mut inner: S, parts: Parts, body: B) -> S::Future
where
    S: Service<Request<B>>,
{
    inner.call(Request::from_parts(parts, body))
}

/// One span for every request judged; it stays open while the request is handled.
fn span() -> Span {
    tracing::info_span!(
        target: "caracal",
        "caracal.request",
        outcome = tracing::field::Empty,
        code = tracing::field::Empty,
        zone = tracing::field::Empty,
        hop = tracing::field::Empty,
        kid = tracing::field::Empty,
    )
}

/// Asks the verifier, without a box where it can answer at once.
#[inline]
fn judge<V, S, B>(
    boundary: &Arc<Boundary<V>>,
    verifier: &Arc<V>,
    inner: S,
    parts: Parts,
    body: B,
    mut seen: Seen,
) -> CaracalFuture<V, S, B>
where
    V: Verifier,
    S: Service<Request<B>>,
{
    let span = span();
    let inbound = Inbound::new(&parts);
    let judged = span.in_scope(|| verifier.verify_now(&inbound));
    let memo = inbound.into_memo();
    let state = match judged {
        Some(judged) => {
            seen.cache = memo.cache();
            let judged = judged.and_then(|proof| accept(proof, verifier.unix_time()));
            span.in_scope(|| boundary.settle(inner, parts, body, judged, seen, (&span, &memo)))
        }
        None => {
            let verifier = Arc::clone(verifier);
            let judging: Judging = Box::pin(async move {
                let inbound = Inbound::resume(&parts, memo);
                let judged = verifier.verify(&inbound).await;
                let memo = inbound.into_memo();
                let judged = judged.and_then(|proof| accept(proof, verifier.unix_time()));
                (parts, judged, memo)
            });
            State::Judging { judging, request: Some((Arc::clone(boundary), inner, body, seen)) }
        }
    };
    CaracalFuture { span, state }
}

impl<V> Boundary<V> {
    /// Goes on with a judged request, or refuses it; writes into the request's span.
    #[inline]
    fn settle<S, B>(
        &self,
        inner: S,
        parts: Parts,
        body: B,
        judged: Result<Proof, Denial>,
        seen: Seen,
        (span, memo): (&Span, &Memo),
    ) -> State<V, S, B, S::Future>
    where
        S: Service<Request<B>>,
    {
        match judged {
            Ok(proof) => {
                span.record("outcome", "allowed");
                span.record("zone", proof.zone_id());
                span.record("hop", proof.hop());
                span.record("kid", proof.key_id());
                let context = CaracalContext::proven(proof, &parts.headers);
                self.enter(inner, parts, body, Binding::Bound(context), seen)
            }
            Err(denial) => {
                let unavailable = denial.code() == DenialCode::VerificationUnavailable;
                span.record("outcome", if unavailable { "unavailable" } else { "denied" });
                span.record("code", denial.code().as_str());
                span.record("kid", memo.kid());
                self.refuse(&denial, &parts, seen)
            }
        }
    }

    /// Lets a request in. An identity that a layer around this one has proven is never replaced by
    /// less; otherwise, what this layer found is what the request and [`current`](crate::current)
    /// hold.
    #[inline]
    fn enter<S, B>(
        &self,
        inner: S,
        mut parts: Parts,
        body: B,
        binding: Binding,
        seen: Seen,
    ) -> State<V, S, B, S::Future>
    where
        S: Service<Request<B>>,
    {
        if !seen.plain {
            let outcome = match &binding {
                Binding::Bound(_) => Outcome::Allowed,
                Binding::Unbound => Outcome::Unbound,
                Binding::Exempt => Outcome::Exempt,
            };
            let reporting = self.reporting(&parts);
            if let Err(denial) = reporting.admit(outcome, binding.context(), &parts, seen) {
                return State::Refused { response: Some(reporting.render(&denial, &parts)) };
            }
            let reporting = reporting.into_owned();
            parts.extensions.insert(reporting);
        }
        let context = binding.context().cloned();
        let proven = context.as_ref().is_some_and(CaracalContext::is_proven);
        if !proven && is_proven(&parts) {
            return State::Passed { future: call(inner, parts, body) };
        }
        parts.extensions.insert(binding);
        if context.is_none() && current().is_none() {
            return State::Passed { future: call(inner, parts, body) };
        }
        // Some services do their work in `call` already.
        let future = sync_scoped(context.clone(), || call(inner, parts, body));
        State::Bound { future: scoped(context.clone(), future), context }
    }

    fn refuse<S, B>(&self, denial: &Denial, parts: &Parts, seen: Seen) -> State<V, S, B, S::Future>
    where
        S: Service<Request<B>>,
    {
        let response = self.reporting(parts).refuse(denial, None, parts, seen);
        State::Refused { response: Some(response) }
    }

    /// What this layer was told about reporting, and for the rest the layer around it.
    fn reporting<'a>(&'a self, parts: &'a Parts) -> Cow<'a, Reporting> {
        let own = &self.reporting;
        match parts.extensions.get::<Reporting>() {
            None => Cow::Borrowed(own),
            Some(around) if own.is_default() => Cow::Borrowed(around),
            Some(around) => Cow::Owned(own.within(around)),
        }
    }
}

pin_project! {
    /// The response future of [`CaracalService`].
    pub struct CaracalFuture<V, S, B>
    where
        S: Service<Request<B>>,
    {
        span: Span,
        #[pin]
        state: State<V, S, B, S::Future>,
    }
}

pin_project! {
    #[project = Stage]
    enum State<V, S, B, F> {
        Judging {
            judging: Judging,
            // Taken when judged.
            request: Option<(Arc<Boundary<V>>, S, B, Seen)>,
        },
        Bound {
            #[pin]
            future: Bound<F>,
            context: Option<CaracalContext>,
        },
        Passed {
            #[pin]
            future: F,
        },
        Refused {
            response: Option<Response>,
        },
    }
}

type Judging = Pin<Box<dyn Future<Output = (Parts, Result<Proof, Denial>, Memo)> + Send>>;

impl<V, S: Service<Request<B>>, B> CaracalFuture<V, S, B> {
    fn unspanned(state: State<V, S, B, S::Future>) -> Self {
        Self { span: Span::none(), state }
    }
}

impl<V, S, B> fmt::Debug for CaracalFuture<V, S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaracalFuture").finish_non_exhaustive()
    }
}

impl<V, S, B, R> Future for CaracalFuture<V, S, B>
where
    V: Verifier,
    S: Service<Request<B>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<axum::BoxError>,
{
    type Output = Result<Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.span.enter();
        loop {
            match this.state.as_mut().project() {
                Stage::Judging { judging, request } => {
                    let (parts, judged, memo) = ready!(judging.as_mut().poll(cx));
                    let Some((boundary, inner, body, mut seen)) = request.take() else {
                        return Poll::Pending;
                    };
                    seen.cache = memo.cache();
                    let told = (&*this.span, &memo);
                    let next = boundary.settle(inner, parts, body, judged, seen, told);
                    this.state.set(next);
                }
                Stage::Bound { future, context } => {
                    let response = ready!(future.poll(cx))?;
                    let context = context.clone();
                    return Poll::Ready(Ok(response.map(|body| in_context(context, body))));
                }
                Stage::Passed { future } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(response.map(Body::new)));
                }
                Stage::Refused { response } => {
                    return response
                        .take()
                        .map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
            }
        }
    }
}
