//! Proving a request: the [`Verifier`] trait, and the [`MandateVerifier`] that implements it for
//! Caracal mandates.

mod builder;
mod cache;
mod claims;
mod configuration;
mod jose;
mod json;
mod keys;
mod mandate;
mod requirements;
mod seeds;
#[cfg(test)]
mod wycheproof;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use http::{HeaderMap, HeaderName, Method, Uri, header, request::Parts};

pub use builder::MandateVerifierBuilder;
pub use configuration::ConfigurationError;
pub use keys::{
    HttpKeys, HttpKeysBuilder, KeyDocument, KeyError, KeyRequest, KeySource, KeyStatus, StaticKeys,
};
use mandate::Front;
pub use mandate::MandateVerifier;
pub(crate) use requirements::{Requirements, strings};

use crate::{
    BearerToken, CacheResult, Clock, Denial, Proof, Reason, SystemClock, envelope::credential,
};

/// The request under judgement: everything but its body.
pub struct Inbound<'a> {
    parts: &'a Parts,
    memo: Memo,
}

/// What is remembered of a request between [`Verifier::verify_now`] and [`Verifier::verify`].
#[derive(Default)]
pub(crate) struct Memo {
    cache: OnceLock<CacheResult>,
    /// The `kid` of the token, where a trusted key has it: anything else is the caller's text.
    kid: OnceLock<Box<str>>,
    /// A token that has passed all but its key.
    front: Mutex<Option<Box<Front>>>,
}

impl<'a> Inbound<'a> {
    /// The request whose head is `parts`.
    #[must_use]
    pub fn new(parts: &'a Parts) -> Self {
        Self { parts, memo: Memo::default() }
    }

    /// Goes on with what is remembered.
    pub(crate) fn resume(parts: &'a Parts, memo: Memo) -> Self {
        Self { parts, memo }
    }

    pub(crate) fn into_memo(self) -> Memo {
        self.memo
    }

    /// Notes whether the proof came from a cache; the first note counts.
    fn note(&self, result: CacheResult) {
        let _ = self.memo.cache.set(result);
    }

    fn note_key(&self, kid: &str) {
        let _ = self.memo.kid.set(kid.into());
    }

    fn keep(&self, front: Box<Front>) {
        *self.memo.front.lock().unwrap_or_else(PoisonError::into_inner) = Some(front);
    }

    fn take(&self) -> Option<Box<Front>> {
        self.memo.front.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> &'a Method {
        &self.parts.method
    }

    /// The target.
    #[must_use]
    pub const fn uri(&self) -> &'a Uri {
        &self.parts.uri
    }

    /// The headers.
    #[must_use]
    pub const fn headers(&self) -> &'a HeaderMap {
        &self.parts.headers
    }

    /// The whole head.
    #[must_use]
    pub const fn parts(&self) -> &'a Parts {
        self.parts
    }

    /// The bearer token of `Authorization`.
    ///
    /// # Errors
    /// `missing_token` without one, `invalid_request` with more than one header line,
    /// `invalid_token` when it is not text.
    pub fn bearer(&self) -> Result<BearerToken, Denial> {
        let token = self.credential(&header::AUTHORIZATION, Some("Bearer"))?;
        std::str::from_utf8(token)
            .map(BearerToken::new)
            .map_err(|_| Denial::invalid_token(Reason::Encoding))
    }

    /// The credential of one header: what follows `scheme` and blanks, or the whole value where
    /// there is no scheme.
    ///
    /// # Errors
    /// `missing_token` without one, `invalid_request` with more than one header line.
    pub fn credential(&self, name: &HeaderName, scheme: Option<&str>) -> Result<&'a [u8], Denial> {
        credential(self.headers(), name, scheme)
    }
}

impl Memo {
    pub(crate) fn cache(&self) -> Option<CacheResult> {
        self.cache.get().copied()
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.get().map(|kid| &**kid)
    }
}

/// The head may hold credentials anywhere: only what routes it is printed.
impl fmt::Debug for Inbound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("method", self.method())
            .field("path", &self.uri().path())
            .finish_non_exhaustive()
    }
}

/// Decides whether a request is authentic and alive, and for whom it acts.
///
/// [`MandateVerifier`] proves Caracal mandates, [`verifier_fn`] makes one of a closure. Whatever a
/// verifier says, the layer itself refuses a proof that has expired, that names no zone or
/// application, or whose hop is above [`MAX_HOP`](crate::MAX_HOP).
///
/// To choose a verifier at run time, wrap it in a [`BoxVerifier`].
///
/// ```
/// use caracal_axum::{Denial, Inbound, Proof, Verifier};
/// use http::{HeaderName, header::HeaderName as Name};
///
/// /// Keys of partners, in a header of their own.
/// struct ApiKeys;
///
/// impl Verifier for ApiKeys {
///     async fn verify(&self, inbound: &Inbound<'_>) -> Result<Proof, Denial> {
///         match inbound.credential(&self.header(), None)? {
///             b"a key that a table holds" => Ok(Proof::builder("zone-1", "partner", u64::MAX).build()),
///             _ => Err(Denial::invalid_token("unknown API key")),
///         }
///     }
///
///     fn header(&self) -> HeaderName {
///         Name::from_static("x-api-key")
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Verifier`",
    note = "a `MandateVerifierBuilder` becomes one by `.build()?`; a verifier chosen at run time goes \
            into a `BoxVerifier`"
)]
pub trait Verifier: Send + Sync + 'static {
    /// Judges a request.
    ///
    /// # Errors
    /// The refusal that the caller gets.
    fn verify(&self, inbound: &Inbound<'_>) -> impl Future<Output = Result<Proof, Denial>> + Send;

    /// The same without waiting, where the answer is at hand: what it decides costs no boxed
    /// future. `None` means "ask [`verify`](Self::verify)".
    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
        let _ = inbound;
        None
    }

    /// The header the credential is read from. The layer marks its value sensitive, and an
    /// `optional` layer lets through only requests without it.
    fn header(&self) -> HeaderName {
        header::AUTHORIZATION
    }

    /// The time proofs are judged by, in Unix seconds.
    fn unix_time(&self) -> u64 {
        SystemClock.unix_time().as_secs()
    }
}

impl<V: Verifier> Verifier for Arc<V> {
    fn verify(&self, inbound: &Inbound<'_>) -> impl Future<Output = Result<Proof, Denial>> + Send {
        V::verify(self, inbound)
    }

    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
        V::verify_now(self, inbound)
    }

    fn header(&self) -> HeaderName {
        V::header(self)
    }

    fn unix_time(&self) -> u64 {
        V::unix_time(self)
    }
}

/// A verifier of any type behind one pointer; cheap to clone.
#[derive(Clone)]
pub struct BoxVerifier(Arc<dyn DynVerifier>);

impl BoxVerifier {
    /// Boxes `verifier`.
    pub fn new(verifier: impl Verifier) -> Self {
        Self(Arc::new(verifier))
    }
}

impl fmt::Debug for BoxVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxVerifier").finish_non_exhaustive()
    }
}

trait DynVerifier: Send + Sync {
    fn verify<'a>(
        &'a self,
        inbound: &'a Inbound<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Proof, Denial>> + Send + 'a>>;
    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>>;
    fn header(&self) -> HeaderName;
    fn unix_time(&self) -> u64;
}

impl<V: Verifier> DynVerifier for V {
    fn verify<'a>(
        &'a self,
        inbound: &'a Inbound<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Proof, Denial>> + Send + 'a>> {
        Box::pin(Verifier::verify(self, inbound))
    }

    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
        Verifier::verify_now(self, inbound)
    }

    fn header(&self) -> HeaderName {
        Verifier::header(self)
    }

    fn unix_time(&self) -> u64 {
        Verifier::unix_time(self)
    }
}

impl Verifier for BoxVerifier {
    async fn verify(&self, inbound: &Inbound<'_>) -> Result<Proof, Denial> {
        self.0.verify(inbound).await
    }

    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
        self.0.verify_now(inbound)
    }

    fn header(&self) -> HeaderName {
        self.0.header()
    }

    fn unix_time(&self) -> u64 {
        self.0.unix_time()
    }
}

/// A verifier of a closure over the bearer token, for credentials of another kind or for tests.
///
/// ```
/// use caracal_axum::{BearerToken, CaracalLayer, Denial, Proof, verifier_fn};
///
/// let verifier = verifier_fn(|token: BearerToken| async move {
///     match token.expose() {
///         "open sesame" => Ok(Proof::builder("cave", "ali-baba", u64::MAX).build()),
///         _ => Err(Denial::invalid_token("another word")),
///     }
/// });
/// let layer = CaracalLayer::enforce(verifier);
/// ```
pub fn verifier_fn<F, Fut>(f: F) -> VerifierFn<F>
where
    F: Fn(BearerToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Proof, Denial>> + Send,
{
    VerifierFn(f)
}

/// The verifier that [`verifier_fn`] makes.
#[derive(Clone)]
pub struct VerifierFn<F>(F);

impl<F> fmt::Debug for VerifierFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierFn").finish_non_exhaustive()
    }
}

impl<F, Fut> Verifier for VerifierFn<F>
where
    F: Fn(BearerToken) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Proof, Denial>> + Send,
{
    fn verify(&self, inbound: &Inbound<'_>) -> impl Future<Output = Result<Proof, Denial>> + Send {
        let judged = inbound.bearer().map(&self.0);
        async move { judged?.await }
    }

    fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
        inbound.credential(&header::AUTHORIZATION, Some("Bearer")).err().map(Err)
    }
}
