//! Requests to resources, with the bound identity.

use std::{fmt, sync::PoisonError, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use reqwest::{Body, ResponseBuilderExt as _};
use serde::Serialize;
use url::Url;

use super::{
    Caracal, CaracalError, ControlPlane, Unreachable,
    calling::{Calling, RESOURCE},
    error::Source,
    revocable::Revocable,
};
use crate::{
    CaracalContext,
    outgoing::{Clients, cause},
};

/// Makes requests in the bound identity; of [`Caracal::transport`]. Cheap to clone.
///
/// A request to a resource whose URL is configured, to the Gateway itself, or that names a resource
/// with `X-Caracal-Resource`, goes through the Gateway with a mandate of its own. Any other goes to
/// where it is addressed, as it is: neither a bearer nor the ids of the context leave with it.
///
/// No redirect is followed and no request is repeated, for a mandate is good for one use. Put no
/// layer that repeats requests around it.
#[derive(Clone)]
#[must_use = "a transport sends nothing by itself"]
pub struct Transport {
    pub(super) calling: Calling,
}

impl Caracal {
    /// Requests in the bound identity.
    ///
    /// ```no_run
    /// # async fn example(caracal: caracal_axum::Caracal) -> Result<(), caracal_axum::CaracalError> {
    /// let tickets = caracal.transport().scopes(["tickets:read"]);
    /// let answer = tickets.get("https://tickets.internal/v1/open").send().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Which authority a call has:
    ///
    /// | the bound session | with `.scopes(..)` | without |
    /// |---|---|---|
    /// | holds a delegation | it mints with that | the same, for those of the scopes configured for the resource that it holds |
    /// | was started here as a root that inherits | refused by the STS | a narrowed child is opened for the resource, with the scopes configured for it, and used for all its calls |
    /// | none, with `.allow_root()` | a pair of sessions of the application's own | the same, with the configured scopes |
    ///
    /// Such a child counts among the 10 children of its session and the sessions of the zone; it ends
    /// with its session. A resource mandate that the Gateway has delivered lives on to its `exp`.
    pub fn transport(&self) -> Transport {
        Transport { calling: Calling::new(self.clone()) }
    }

    /// One request to a resource through the Gateway, by its id: [`transport`](Self::transport) and
    /// [`gateway_request`](Self::gateway_request) in one.
    pub fn fetch(&self, resource: impl Into<String>, path: &str) -> TransportRequest {
        self.transport().fetch(resource, path)
    }

    /// The URL and the header by which the Gateway is asked for a path of a resource; for HTTP
    /// clients of your own, which have to bring a mandate.
    ///
    /// # Errors
    /// When no Gateway is configured, or the path has an origin, a fragment, a dot segment or what
    /// else the Gateway does not take.
    pub fn gateway_request(
        &self,
        resource: &str,
        path: &str,
    ) -> Result<GatewayRequest, CaracalError> {
        self.check_open()?;
        let url = self.routes().gateway_request(path)?;
        let mut headers = HeaderMap::new();
        headers.insert(RESOURCE, resource_value(resource)?);
        Ok(GatewayRequest { url, headers })
    }
}

/// How the Gateway is asked for a path of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayRequest {
    /// Where to.
    pub url: Url,
    /// `X-Caracal-Resource`.
    pub headers: HeaderMap,
}

fn resource_value(resource: &str) -> Result<HeaderValue, CaracalError> {
    HeaderValue::from_str(resource).ok().filter(|_| !resource.trim().is_empty()).ok_or_else(|| {
        CaracalError::usage("invalid_target", "the resource id is blank or no header value")
    })
}

impl Transport {
    pub(super) fn of(calling: Calling) -> Self {
        Self { calling }
    }

    /// The scopes of its calls.
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.calling.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// The context to call in; the bound one unless set.
    pub fn context(mut self, context: CaracalContext) -> Self {
        self.calling.context = Some(context);
        self
    }

    /// Where nothing is bound, calls as the application itself.
    pub fn allow_root(mut self) -> Self {
        self.calling.allow_root = true;
        self
    }

    /// How long its mandates last, in whole seconds from 36 to 3600: 900 unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.calling.ttl = Some(ttl);
        self
    }

    /// An approval that was given, for the next call and no other.
    pub fn approval(self, id: impl Into<String>) -> Self {
        *self.calling.approval.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.into());
        self
    }

    /// Gives the ids, trace and baggage of the context, and never a bearer, to one more origin too.
    ///
    /// # Errors
    /// When it is no http or https URL.
    pub fn propagate_to(mut self, origin: &str) -> Result<Self, CaracalError> {
        let url = Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| CaracalError::usage("invalid_target", "an origin is a URL"))?;
        self.calling.trusted.push(url.origin());
        Ok(self)
    }

    /// A request. The target is judged as it is written, when it is sent: give it as text where it
    /// comes from outside, for a parsed URL has its dot segments resolved already.
    pub fn request(&self, method: Method, target: impl AsRef<str>) -> TransportRequest {
        TransportRequest {
            calling: self.calling.clone(),
            method,
            target: Ok(target.as_ref().to_owned()),
            headers: HeaderMap::new(),
            body: None,
            timeout: None,
        }
    }

    /// A request to a resource through the Gateway, by its id.
    pub fn fetch(&self, resource: impl Into<String>, path: &str) -> TransportRequest {
        let resource = resource.into();
        let asked = self.calling.client.gateway_request(&resource, path);
        let mut request = self.request(Method::GET, "");
        match asked {
            Ok(GatewayRequest { url, headers }) => {
                request.target = Ok(url.into());
                request.headers = headers;
            }
            Err(error) => request.target = Err(error),
        }
        request
    }

    /// A GET request.
    pub fn get(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::GET, target)
    }

    /// A POST request.
    pub fn post(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::POST, target)
    }

    /// A PUT request.
    pub fn put(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::PUT, target)
    }

    /// A PATCH request.
    pub fn patch(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::PATCH, target)
    }

    /// A DELETE request.
    pub fn delete(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::DELETE, target)
    }

    /// A HEAD request.
    pub fn head(&self, target: impl AsRef<str>) -> TransportRequest {
        self.request(Method::HEAD, target)
    }
}

/// A request to be completed and sent.
#[must_use = "nothing is sent before `send` is awaited"]
pub struct TransportRequest {
    calling: Calling,
    method: Method,
    target: Result<String, CaracalError>,
    headers: HeaderMap,
    body: Option<Body>,
    timeout: Option<Duration>,
}

impl TransportRequest {
    /// The method.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Adds a header.
    pub fn header<N, V>(mut self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        match (name.try_into(), value.try_into()) {
            (Ok(name), Ok(value)) => {
                // A resource that the request was made for is not named anew.
                if name != RESOURCE || !self.headers.contains_key(RESOURCE) {
                    self.headers.append(name, value);
                }
            }
            _ => self.fail("a header is none"),
        }
        self
    }

    /// Adds headers.
    pub fn headers(mut self, headers: &HeaderMap) -> Self {
        for (name, value) in headers {
            self = self.header(name.clone(), value.clone());
        }
        self
    }

    /// The body. It is streamed, and never sent twice.
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// A JSON body.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => {
                let json = HeaderValue::from_static("application/json");
                self.headers.entry(header::CONTENT_TYPE).or_insert(json);
                self.body(body)
            }
            Err(_) => {
                self.fail("the body makes no JSON");
                self
            }
        }
    }

    /// Adds pairs to the query.
    pub fn query<N: AsRef<str>, V: AsRef<str>>(
        mut self,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        if let Ok(target) = &mut self.target {
            let fragment = target.find('#').map(|at| target.split_off(at)).unwrap_or_default();
            let start = target.find('?').map_or(target.len(), |at| at + 1);
            if start == target.len() && !target.ends_with('?') {
                target.push('?');
            }
            let start = start.max(target.find('?').map_or(0, |at| at + 1));
            let mut query =
                url::form_urlencoded::Serializer::for_suffix(std::mem::take(target), start);
            *target = query.extend_pairs(pairs).finish() + &fragment;
        }
        self
    }

    /// How long it may take until the answer has been read: without limit unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn fail(&mut self, problem: &'static str) {
        if self.target.is_ok() {
            self.target = Err(CaracalError::usage("invalid_request", problem));
        }
    }

    /// Sends it.
    ///
    /// An answer of the Gateway whose stream was cut because its authority was revoked ends with an
    /// error for whoever reads its body.
    ///
    /// # Errors
    /// When it may not be sent, no mandate was to be had, or nobody answered. Whatever is answered is
    /// no error.
    pub async fn send(self) -> Result<reqwest::Response, CaracalError> {
        let clients = self.calling.client.clients().clone();
        self.send_by(&clients).await
    }

    /// The same in the context that is bound now, wherever it is sent then.
    #[cfg(feature = "blocking")]
    pub(super) fn bound(mut self) -> Self {
        self.calling = self.calling.bound();
        self
    }

    pub(super) async fn send_by(
        self,
        clients: &Clients,
    ) -> Result<reqwest::Response, CaracalError> {
        let Self { calling, method, target, mut headers, body, timeout } = self;
        let url = calling.prepare(&target?, &mut headers).await?;
        let client = clients.of(&url);
        let mut request = client.request(method, url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        let answered = request.send().await.map_err(|error| {
            CaracalError::Unreachable(Unreachable {
                service: ControlPlane::Gateway,
                action: "call a resource",
                timed_out: error.is_timeout(),
                unsent: error.is_connect(),
                request_id: None,
                source: Source::from(Box::from(cause(error))),
            })
        })?;
        revocable(answered, url)
    }
}

/// An answer from `url` that fails at its end where the Gateway cut it.
pub(super) fn revocable(
    answered: reqwest::Response,
    url: Url,
) -> Result<reqwest::Response, CaracalError> {
    let (parts, body) = http::Response::from(answered).into_parts();
    let mut builder =
        http::Response::builder().status(parts.status).version(parts.version).url(url);
    if let Some(headers) = builder.headers_mut() {
        *headers = parts.headers;
    }
    let answer = builder.body(Body::wrap(Revocable::new(body)));
    // All of its parts are those of a response.
    answer.map(Into::into).map_err(|_| CaracalError::usage("invalid_response", "no response"))
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("scopes", &self.calling.scopes).finish_non_exhaustive()
    }
}

/// Headers and target may hold what is the caller's secret.
impl fmt::Debug for TransportRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportRequest").field("method", &self.method).finish_non_exhaustive()
    }
}
