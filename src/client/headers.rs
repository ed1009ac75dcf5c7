//! The bound identity as headers, and headers as the bound identity.

use std::{
    fmt,
    future::{Future, IntoFuture},
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, header};

use super::{Caracal, CaracalError, delegation::awaited, origin::Origin};
use crate::{
    BearerToken, Bound, BoxVerifier, CaracalContext, Denial, Envelope, Inbound, Proof, Verifier,
    context::{Attribution, Own, own, to_envelope},
    current,
    enforce::{accept, claimed},
    envelope::{decode_envelope, encode_envelope},
};

/// Headers to be made, when it is awaited; of [`Caracal::headers`].
#[derive(Debug)]
#[must_use = "no headers are made before it is awaited"]
pub struct OutboundHeaders {
    client: Caracal,
    context: Option<CaracalContext>,
    allow_root: bool,
}

/// Headers to be bound, when it is awaited; of [`Caracal::bind_from_headers`].
#[must_use = "nothing is bound before it is awaited"]
pub struct BindFromHeaders {
    client: Caracal,
    headers: HeaderMap,
    allow_root: bool,
    trusted: bool,
    verifier: Option<BoxVerifier>,
}

/// A context to run something in; of [`Caracal::bind`].
#[derive(Debug)]
#[must_use = "nothing runs before `run` is awaited"]
pub struct BindContext(CaracalContext);

impl BindContext {
    /// Runs `future` with the context bound, as [`CaracalContext::scope`] does.
    pub fn run<F: Future>(self, future: F) -> Bound<F> {
        self.0.scope(future)
    }
}

impl Caracal {
    /// The identity of the bound context as headers: trace, baggage, and a bearer.
    ///
    /// **The bearer of a session of this process is the application's own lifecycle token.** It can
    /// start and end all of the application's sessions: send it to services that verify session
    /// mandates, and to nobody else. The Gateway does not take it.
    ///
    /// A context that was bound unproven goes on with the bearer it came with. A proven one does not
    /// keep its mandate, which was for this service: its headers have no bearer. Nor have those of a
    /// context that was made of an envelope without one.
    ///
    /// # Errors
    /// Awaited, it fails where nothing is bound: no identity is made up. `allow_root` sends that of
    /// the application.
    pub fn headers(&self) -> OutboundHeaders {
        OutboundHeaders { client: self.clone(), context: None, allow_root: false }
    }

    /// Binds `context` around something: a task that is spawned has no context of its own.
    pub fn bind(&self, context: CaracalContext) -> BindContext {
        BindContext(context)
    }

    /// The context that the headers of a request claim, or with a verifier the one that its mandate
    /// proves. Behind axum use [`layer`](Self::layer) or a [`CaracalLayer`](crate::CaracalLayer).
    ///
    /// ```no_run
    /// # use caracal_axum::{Caracal, CaracalError, MandateVerifier};
    /// # async fn handle() {}
    /// # async fn example(caracal: Caracal, verifier: MandateVerifier, headers: http::HeaderMap)
    /// # -> Result<(), CaracalError> {
    /// let context = caracal.bind_from_headers(&headers).verifier(verifier).await?;
    /// caracal.bind(context).run(handle()).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaited, it fails without a bearer (unless `allow_root`), when the verifier refuses, and
    /// without a verifier where `CARACAL_ENV` is `production` (unless `trusted_propagation`).
    pub fn bind_from_headers(&self, headers: &HeaderMap) -> BindFromHeaders {
        BindFromHeaders {
            client: self.clone(),
            headers: headers.clone(),
            allow_root: false,
            trusted: false,
            verifier: None,
        }
    }

    /// The context of the running task; see [`current`].
    #[must_use]
    pub fn current(&self) -> Option<CaracalContext> {
        current()
    }
}

impl OutboundHeaders {
    /// The context; the bound one unless set.
    pub fn context(mut self, context: CaracalContext) -> Self {
        self.context = Some(context);
        self
    }

    /// Where nothing is bound, acts as the application itself, without any session.
    pub fn allow_root(mut self) -> Self {
        self.allow_root = true;
        self
    }

    async fn make(self) -> Result<HeaderMap, CaracalError> {
        let Self { client, context, allow_root } = self;
        client.check_open()?;
        let context = context.or_else(current);
        if context.as_ref().is_some_and(CaracalContext::is_own) {
            client.check_owner(&Origin::of(context.clone())).await?;
        }
        let bearer = match &context {
            None if !allow_root => {
                return Err(CaracalError::usage(
                    "context_required",
                    "no identity is bound: make headers within spawn() or bind(ctx), or name one with \
                     .context(ctx); .allow_root() sends the application's own identity",
                ));
            }
            Some(context) if !context.is_own() => context.subject_token().cloned(),
            _ => Some(client.tokens().lifecycle().await?.bearer),
        };
        let envelope = context.as_ref().map(to_envelope).unwrap_or_default();
        let mut headers = HeaderMap::new();
        encode_envelope(&envelope, &mut headers);
        if let Some(bearer) = bearer {
            headers.insert(header::AUTHORIZATION, authorization(&bearer)?);
        }
        Ok(headers)
    }
}

pub(super) fn authorization(bearer: &BearerToken) -> Result<HeaderValue, CaracalError> {
    let value = HeaderValue::from_str(&format!("Bearer {}", bearer.expose()));
    let mut value =
        value.map_err(|_| CaracalError::usage("invalid_token", "the bearer is no header value"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl BindFromHeaders {
    /// Binds the application itself where there is no bearer: of the headers, trace and foreign
    /// baggage count and nothing else. A bearer that is there is judged all the same.
    pub fn allow_root(mut self) -> Self {
        self.allow_root = true;
        self
    }

    /// Something in front of this service has verified the request, and nothing else can reach it:
    /// in production too, headers are believed.
    pub fn trusted_propagation(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Proves the request; what it proves counts, and no header beside trace and foreign baggage.
    pub fn verifier<V: Verifier>(mut self, verifier: V) -> Self {
        self.verifier = Some(BoxVerifier::new(verifier));
        self
    }

    async fn bind(self) -> Result<CaracalContext, CaracalError> {
        let Self { client, headers, allow_root, trusted, verifier } = self;
        client.check_open()?;
        if trusted && verifier.is_some() {
            return Err(CaracalError::usage(
                "binding_conflict",
                "a verifier proves, trusted_propagation believes: choose one",
            ));
        }
        let credential = verifier.as_ref().map_or(header::AUTHORIZATION, Verifier::header);
        let judged = [credential, header::AUTHORIZATION];
        if allow_root && !judged.iter().any(|name| headers.contains_key(name)) {
            return client.bind_root(decode_envelope(&headers)).await;
        }
        if let Some(verifier) = verifier {
            let proof = prove(&verifier, headers.clone()).await.map_err(CaracalError::Denied)?;
            return Ok(CaracalContext::proven(proof, &headers));
        }
        let identity = client.identity().await?;
        let claimed = claimed(&headers, &identity.0, &identity.1).map_err(CaracalError::Denied)?;
        if client.is_production() && !trusted {
            return Err(CaracalError::usage(
                "unverified",
                "with CARACAL_ENV=production headers are not believed: give a .verifier(..), or say \
                 .trusted_propagation() where something in front of this service verifies",
            ));
        }
        Ok(claimed)
    }
}

async fn prove(verifier: &BoxVerifier, headers: HeaderMap) -> Result<Proof, Denial> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers = headers;
    let proof = verifier.verify(&Inbound::new(&parts)).await?;
    accept(proof, verifier.unix_time())
}

impl Caracal {
    /// The application itself, in the trace of `envelope`.
    async fn bind_root(&self, envelope: Envelope) -> Result<CaracalContext, CaracalError> {
        let token = self.tokens().lifecycle().await?;
        let attribution = Attribution {
            zone: Box::from(&*token.zone),
            application: Box::from(&*token.application),
            ..Attribution::default()
        };
        Ok(own(Own { attribution, edge: None }, envelope))
    }
}

impl fmt::Debug for BindFromHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindFromHeaders")
            .field("allow_root", &self.allow_root)
            .field("trusted_propagation", &self.trusted)
            .field("verified", &self.verifier.is_some())
            .finish_non_exhaustive()
    }
}

awaited! {
    OutboundHeaders => make -> HeaderMap;
    BindFromHeaders => bind -> CaracalContext;
}
