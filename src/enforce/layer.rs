//! The layer and its options.

use std::{fmt, sync::Arc};

use axum::response::Response;
use http::{HeaderMap, HeaderName, Method, header, request::Parts};
use tower_layer::Layer;
use url::Url;

use super::{CaracalService, exempt::ExemptPaths};
use crate::{
    CaracalContext, Denial, DenialCode, Inbound, MAX_HOP, Observer, Proof, Reason, Verifier,
    context::{Reporting, from_envelope},
    envelope::{HEADER_AUTHORIZATION, decode_envelope},
};

/// Lets a request in only when its authority is proven, and binds who it acts for.
///
/// Add it **last**: `Router::layer` covers the routes added before it, and the fallback.
///
/// ```
/// use axum::{Router, routing::get};
/// use caracal_axum::{CaracalContext, CaracalLayer, MandateVerifier, MemoryRevocations, Require};
///
/// async fn list(ctx: CaracalContext) -> String {
///     format!("hello {}", ctx.application_id())
/// }
///
/// # fn main() -> Result<(), caracal_axum::ConfigurationError> {
/// let verifier = MandateVerifier::builder()
///     .issuer("https://sts.example.com")
///     .audience("resource://tickets")
///     .zone("zone-1")
///     .revocations(MemoryRevocations::default())
///     .build()?;
///
/// let app: Router = Router::new()
///     .route("/tickets", get(list).route_layer(Require::scopes(["tickets:read"])))
///     .route("/healthz", get(|| async { "ok" }))
///     .layer(CaracalLayer::enforce(verifier).exempt("/healthz"));
/// # Ok(())
/// # }
/// ```
pub struct CaracalLayer<V> {
    boundary: Arc<Boundary<V>>,
}

pub(super) struct Boundary<V> {
    pub(super) mode: Mode<V>,
    pub(super) reporting: Reporting,
    optional: bool,
    preflight: bool,
    exempt: ExemptPaths,
}

pub(super) enum Mode<V> {
    Enforce(Arc<V>),
    Propagate {
        zone: Arc<str>,
        application: Arc<str>,
    },
    /// What is bound would be neither proven nor trusted.
    Refuse {
        identity: Option<(Arc<str>, Arc<str>)>,
        reason: Reason,
    },
}

/// The verifier of a layer that has none: see [`CaracalLayer::propagate`].
#[derive(Debug, Clone, Copy)]
pub enum NoVerifier {}

impl Verifier for NoVerifier {
    async fn verify(&self, _: &Inbound<'_>) -> Result<Proof, Denial> {
        match *self {}
    }
}

impl<V: Verifier> CaracalLayer<V> {
    /// Proves every request with `verifier`.
    pub fn enforce(verifier: V) -> Self {
        Self::new(Mode::Enforce(Arc::new(verifier)))
    }
}

impl CaracalLayer<NoVerifier> {
    /// Binds the **unsigned** identity of the request's headers, in `zone` as `application`.
    ///
    /// This states that something in front of this service has already enforced, and that nothing
    /// else can reach it. What it binds satisfies no [`Require`](crate::Require), and it never
    /// replaces an identity that an outer layer proved. A bearer must be there, unless the layer is
    /// [`optional`](Self::optional), but nobody checks it.
    ///
    /// # Panics
    /// When `zone` or `application` is empty.
    #[must_use]
    pub fn propagate(zone: &str, application: &str) -> Self {
        assert!(!zone.is_empty() && !application.is_empty(), "zone and application must be given");
        Self::new(Mode::Propagate { zone: zone.into(), application: application.into() })
    }
}

/// The layer of a client.
#[cfg(feature = "client")]
impl CaracalLayer<NoVerifier> {
    /// Propagates in the zone and as the application of a client, where those are known and it is
    /// not production.
    pub(crate) fn of_client(identity: Option<(&str, &str)>, production: bool) -> Self {
        let identity = identity.map(|(zone, application)| (zone.into(), application.into()));
        Self::new(match identity {
            Some((zone, application)) if !production => Mode::Propagate { zone, application },
            None => Mode::Refuse { identity, reason: Reason::UnknownIdentity },
            identity => Mode::Refuse { identity, reason: Reason::UntrustedPropagation },
        })
    }
}

impl CaracalLayer<NoVerifier> {
    /// Proves every request with `verifier` instead of believing its headers.
    #[must_use]
    pub fn verifier<V: Verifier>(self, verifier: V) -> CaracalLayer<V> {
        let boundary = Arc::unwrap_or_clone(self.boundary);
        CaracalLayer {
            boundary: Arc::new(Boundary {
                mode: Mode::Enforce(Arc::new(verifier)),
                reporting: boundary.reporting,
                optional: boundary.optional,
                preflight: boundary.preflight,
                exempt: boundary.exempt,
            }),
        }
    }

    /// States that something in front of this service verifies, and that nothing else can reach it:
    /// what a client's layer needs to propagate in production.
    #[must_use]
    pub fn trusted_propagation(mut self) -> Self {
        let boundary = self.change();
        if let Mode::Refuse { identity: Some((zone, application)), .. } = &boundary.mode {
            let (zone, application) = (Arc::clone(zone), Arc::clone(application));
            boundary.mode = Mode::Propagate { zone, application };
        }
        self
    }
}

impl<V> CaracalLayer<V> {
    fn new(mode: Mode<V>) -> Self {
        Self {
            boundary: Arc::new(Boundary {
                mode,
                reporting: Reporting::default(),
                optional: false,
                preflight: false,
                exempt: ExemptPaths::default(),
            }),
        }
    }

    fn change(&mut self) -> &mut Boundary<V> {
        Arc::make_mut(&mut self.boundary)
    }

    /// Lets a request without any credential header through, unbound. One that has such a header
    /// is judged, whatever it holds.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.change().optional = true;
        self
    }

    /// Lets requests under a path prefix through unjudged, matched on segment boundaries of the
    /// path this layer sees (inside `Router::nest`, the rest of the path). A path with dot
    /// segments, `//`, `\` or an encoded `/`, `.` or `\` is never exempt.
    ///
    /// # Panics
    /// When the prefix would exempt everything (`/`), does not start with `/`, or could never
    /// match.
    #[must_use]
    #[expect(clippy::panic, reason = "a wrong route table is a programming error, as in axum")]
    pub fn exempt(mut self, prefix: &str) -> Self {
        if let Err(problem) = self.change().exempt.add(prefix) {
            panic!("cannot exempt `{prefix}`: {problem}");
        }
        self
    }

    /// Lets CORS preflights through: `OPTIONS` with `Origin` and `Access-Control-Request-Method`.
    /// Browsers send them without credentials; a CORS layer should answer them.
    #[must_use]
    pub fn preflight(mut self) -> Self {
        self.change().preflight = true;
        self
    }

    /// Names the protected resource in every challenge (`resource_metadata`, RFC 9728 §5.1), as
    /// MCP clients expect. `resource` is its URL, or that of its metadata document; from the former
    /// the latter is made by inserting `/.well-known/oauth-protected-resource` before the path
    /// (§3.1).
    ///
    /// # Panics
    /// When `resource` is not an absolute URL with a host, or has a user, password or fragment.
    #[must_use]
    #[expect(clippy::panic, reason = "a wrong constant is a programming error")]
    pub fn resource_metadata(mut self, resource: &str) -> Self {
        let Some(url) = metadata_url(resource) else {
            panic!("not an absolute URL with a host and without user and fragment");
        };
        self.change().reporting.rendering.resource_metadata = Some(url.into());
        self
    }

    /// Renders every refusal behind this layer with `renderer`, those of routes and extractors
    /// included. It should not tell the caller the [`Reason`]. `Cache-Control`, `Retry-After` and the
    /// challenge are added where its response lacks them.
    #[must_use]
    pub fn render_denials(
        mut self,
        renderer: impl Fn(&Denial, &Parts) -> Response + Send + Sync + 'static,
    ) -> Self {
        self.change().reporting.rendering.renderer = Some(Arc::new(renderer));
        self
    }

    /// Who is told of every decision of this layer, and of the route requirements behind it.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.change().reporting.observer = Some(Arc::new(observer));
        self
    }
}

fn metadata_url(resource: &str) -> Option<String> {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    let mut url = Url::parse(resource).ok().filter(Url::has_host)?;
    let public = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let is_metadata = url
        .path()
        .strip_prefix(WELL_KNOWN)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !is_metadata {
        let path = if url.path() == "/" { "" } else { url.path() };
        let path = format!("{WELL_KNOWN}{path}");
        url.set_path(&path);
    }
    public.then(|| url.into())
}

impl<V> Boundary<V> {
    pub(super) fn is_exempt(&self, parts: &Parts) -> bool {
        self.exempt.cover(parts.uri.path()) || self.preflight && is_preflight(parts)
    }

    pub(super) fn may_be_unbound(&self, headers: &HeaderMap, credential: &HeaderName) -> bool {
        self.optional && !headers.contains_key(credential)
    }
}

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(header::ORIGIN)
        && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The checks no verifier is trusted with.
pub(crate) fn accept(proof: Proof, now: u64) -> Result<Proof, Denial> {
    if proof.zone_id().is_empty() || proof.application_id().is_empty() {
        return Err(Denial::invalid_token(Reason::EmptyIdentity));
    }
    if proof.expires_at() <= now {
        return Err(Denial::invalid_token(Reason::Expired));
    }
    if proof.hop() > MAX_HOP {
        return Err(Denial::hop_count_exceeded());
    }
    Ok(proof)
}

/// The unsigned identity of a request.
pub(crate) fn claimed(
    headers: &HeaderMap,
    zone: &str,
    application: &str,
) -> Result<CaracalContext, Denial> {
    let envelope = decode_envelope(headers);
    if envelope.subject_token.is_some() {
        return Ok(from_envelope(envelope, zone, application));
    }
    Err(match headers.get_all(HEADER_AUTHORIZATION).iter().count() {
        0 => Denial::missing_token(),
        1 => Denial::new(DenialCode::MissingToken, Reason::NotBearer),
        _ => Denial::invalid_request(),
    })
}

impl<V, S> Layer<S> for CaracalLayer<V> {
    type Service = CaracalService<V, S>;

    fn layer(&self, inner: S) -> Self::Service {
        CaracalService::new(Arc::clone(&self.boundary), inner)
    }
}

impl<V> Clone for CaracalLayer<V> {
    fn clone(&self) -> Self {
        Self { boundary: Arc::clone(&self.boundary) }
    }
}

impl<V> Clone for Boundary<V> {
    fn clone(&self) -> Self {
        Self {
            mode: self.mode.clone(),
            reporting: self.reporting.clone(),
            optional: self.optional,
            preflight: self.preflight,
            exempt: self.exempt.clone(),
        }
    }
}

impl<V> Clone for Mode<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Enforce(verifier) => Self::Enforce(Arc::clone(verifier)),
            Self::Propagate { zone, application } => {
                Self::Propagate { zone: Arc::clone(zone), application: Arc::clone(application) }
            }
            Self::Refuse { identity, reason } => {
                Self::Refuse { identity: identity.clone(), reason: reason.clone() }
            }
        }
    }
}

impl<V: fmt::Debug> fmt::Debug for CaracalLayer<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode: &dyn fmt::Debug = match &self.boundary.mode {
            Mode::Enforce(verifier) => verifier,
            Mode::Propagate { .. } => &"propagate (unsigned)",
            Mode::Refuse { .. } => &"refuse (a verifier is missing)",
        };
        f.debug_struct("CaracalLayer")
            .field("mode", mode)
            .field("optional", &self.boundary.optional)
            .field("preflight", &self.boundary.preflight)
            .field("exempt", &self.boundary.exempt)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_urls_are_made_by_path_insertion() {
        for (resource, expected) in [
            ("https://a.example", "https://a.example/.well-known/oauth-protected-resource"),
            ("https://a.example/", "https://a.example/.well-known/oauth-protected-resource"),
            (
                "https://a.example/x/y?q=1",
                "https://a.example/.well-known/oauth-protected-resource/x/y?q=1",
            ),
            (
                "https://a.example/.well-known/oauth-protected-resource/x",
                "https://a.example/.well-known/oauth-protected-resource/x",
            ),
        ] {
            assert_eq!(metadata_url(resource).as_deref(), Some(expected));
        }
        for bad in ["resource", "https://user:pw@a.example", "https://a.example#f"] {
            assert_eq!(metadata_url(bad), None, "{bad}");
        }
        let other = metadata_url("https://a.example/.well-known/oauth-protected-resource-x");
        assert!(
            other
                .unwrap()
                .ends_with("/oauth-protected-resource/.well-known/oauth-protected-resource-x")
        );
    }

    #[test]
    #[should_panic(expected = "cannot exempt `/`: it would exempt every path")]
    fn exempting_everything_panics() {
        let _ = CaracalLayer::propagate("z", "a").exempt("/");
    }

    #[test]
    fn a_proof_is_not_taken_on_trust() {
        let reason = |proof: Proof| accept(proof, 100).unwrap_err().reason().clone();
        assert_eq!(reason(Proof::builder("", "a", 101).build()), Reason::EmptyIdentity);
        assert_eq!(reason(Proof::builder("z", "", 101).build()), Reason::EmptyIdentity);
        assert_eq!(reason(Proof::builder("z", "a", 100).build()), Reason::Expired);
        assert_eq!(reason(Proof::builder("z", "a", 101).hop(33).build()), Reason::HopLimit);
        assert!(accept(Proof::builder("z", "a", 101).hop(32).build(), 100).is_ok());
    }
}
