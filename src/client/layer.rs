//! The way out around any HTTP client that is a tower service.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response, Uri, request::Parts};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use url::Url;

use super::{CaracalError, Revocable, Transport, calling::Calling};

impl Transport {
    /// The same for an HTTP client of your own: hyper, tonic, any `Service<http::Request<B>>`.
    pub fn layer(&self) -> TransportLayer {
        TransportLayer { calling: self.calling.clone(), origin: None }
    }
}

/// Gives the requests of a client what those of a [`Transport`] have; of [`Transport::layer`].
///
/// It goes innermost, next to the client, below all that repeats, redirects or caches: each request
/// that comes to it gets a mandate of its own, which is good for one use. The client under it must not
/// repeat or redirect anything by itself either. A request is called in the context of the transport,
/// or else in the one that is bound where the service is called: not where a buffer above it calls it
/// from a task of its own.
///
/// The URI is judged as it stands and is absolute. One that is only a path, as tonic writes it, needs
/// [`origin`](Self::origin), and is refused without: a `Host` says nothing here. What comes out is
/// always absolute, so the client has to connect to where the URI says, as hyper-util's does.
///
/// ```no_run
/// # use caracal_axum::{Caracal, CaracalError};
/// # use tower_layer::Layer as _;
/// # fn example<S>(caracal: Caracal, client: S) -> Result<(), CaracalError> {
/// let tickets = caracal.transport().scopes(["tickets:read"]).layer();
/// let service = tickets.origin("https://tickets.internal")?.layer(client);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put around a client"]
pub struct TransportLayer {
    calling: Calling,
    origin: Option<String>,
}

impl TransportLayer {
    /// Where requests go whose URI is only a path.
    ///
    /// # Errors
    /// When it is anything but `http://host` or `https://host`, with a port or without.
    pub fn origin(mut self, origin: &str) -> Result<Self, CaracalError> {
        let url = Url::parse(origin).ok().filter(|url| {
            // What a parser mends, drops or adds is not an origin.
            url.origin().is_tuple()
                && url.origin().ascii_serialization().len() <= origin.len()
                && matches!(url.scheme(), "http" | "https")
                && !origin.contains(['@', '\\', '?', '#'])
                && url.path() == "/"
        });
        let url = url.ok_or_else(|| {
            CaracalError::usage("invalid_target", "an origin is https://host or https://host:port")
        })?;
        self.origin = Some(url.origin().ascii_serialization());
        Ok(self)
    }
}

impl<S> Layer<S> for TransportLayer {
    type Service = TransportService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TransportService { layer: self.clone(), inner }
    }
}

/// A client in a [`TransportLayer`].
///
/// Its errors are a [`CaracalError`] for what was not sent, and what the client failed with for the
/// rest. An answer that the Gateway cut fails for its reader with [`Revoked`](crate::Revoked).
#[derive(Clone)]
pub struct TransportService<S> {
    layer: TransportLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for TransportService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<Revocable<R>>;
    type Error = BoxError;
    type Future = TransportFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The instance that was polled ready is the one to call; its clone waits for the next.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let (mut parts, body) = request.into_parts();
        let calling = self.layer.calling.bound();
        let origin = self.layer.origin.clone();
        let preparing: Preparing = Box::pin(async move {
            let target = target(&parts.uri, origin.as_deref())?;
            let url = calling.prepare(&target, &mut parts.headers).await?;
            parts.uri = url.as_str().parse().map_err(|_| {
                CaracalError::usage("invalid_target", "the target makes no URI of a request")
            })?;
            Ok(parts)
        });
        TransportFuture { state: State::Preparing { preparing, call: Some((inner, body)) } }
    }
}

/// The target of a request, as it is written.
fn target(uri: &Uri, origin: Option<&str>) -> Result<String, CaracalError> {
    match (uri.authority(), origin) {
        // One without a scheme is judged too, and refused.
        (Some(_), _) => Ok(uri.to_string()),
        (None, Some(origin)) if uri.path().starts_with('/') => Ok(format!("{origin}{uri}")),
        _ => Err(CaracalError::usage(
            "invalid_target",
            "a request whose URI has no host is sent nowhere: say .origin(..) of the layer",
        )),
    }
}

type Preparing = Pin<Box<dyn Future<Output = Result<Parts, CaracalError>> + Send>>;

pin_project! {
    /// The response future of [`TransportService`].
    pub struct TransportFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = Stage]
    enum State<S, B, F> {
        Preparing {
            preparing: Preparing,
            // Taken when prepared.
            call: Option<(S, B)>,
        },
        Called {
            #[pin]
            future: F,
        },
    }
}

impl<S, B, R> Future for TransportFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Revocable<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                Stage::Preparing { preparing, call } => {
                    let parts = ready!(preparing.as_mut().poll(cx))?;
                    let Some((mut inner, body)) = call.take() else { return Poll::Pending };
                    let future = inner.call(Request::from_parts(parts, body));
                    this.state.set(State::Called { future });
                }
                Stage::Called { future } => {
                    let response = ready!(future.poll(cx)).map_err(Into::into)?;
                    return Poll::Ready(Ok(response.map(Revocable::new)));
                }
            }
        }
    }
}

impl fmt::Debug for TransportLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportLayer").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for TransportService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportService").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<S, B> fmt::Debug for TransportFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportFuture").finish_non_exhaustive()
    }
}
