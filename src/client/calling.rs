//! A call to a resource: where it goes, and on whose authority.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Deserialize;
use url::Url;

use super::{
    Caracal, CaracalError,
    grant::whole_seconds,
    headers::authorization,
    origin::Origin,
    routes::Route,
    sts::{SEGMENT, Token, Wanted},
};
use crate::{
    BearerToken, CaracalContext, Envelope, context::to_envelope, current, envelope::encode_envelope,
};

/// The header that names a resource to the Gateway.
pub(super) const RESOURCE: HeaderName = HeaderName::from_static("x-caracal-resource");

/// The Gateway takes no mandate that ends sooner, and one of whole seconds loses up to one.
const LEAST_LIFE: Duration = Duration::from_secs(36);

/// How calls are made.
#[derive(Clone)]
pub(super) struct Calling {
    pub(super) client: Caracal,
    pub(super) context: Option<CaracalContext>,
    pub(super) scopes: Option<Vec<String>>,
    pub(super) ttl: Option<Duration>,
    pub(super) allow_root: bool,
    /// Spent by the first call.
    pub(super) approval: Arc<Mutex<Option<String>>>,
    /// Who gets the envelope too, and no bearer.
    pub(super) trusted: Vec<url::Origin>,
    /// Where all calls are made as the application itself, to one resource.
    pub(super) application: Option<Arc<AsApplication>>,
}

/// Calls as the application itself.
pub(super) struct AsApplication {
    pub(super) resource: String,
    /// Of its sessions; the application's id where there are none.
    pub(super) labels: Vec<String>,
}

/// What a mandate is minted for.
pub(super) struct Purpose<'a> {
    pub(super) resource: &'a str,
    pub(super) scopes: &'a [String],
    pub(super) ttl: Option<u64>,
    pub(super) approval: Option<String>,
}

impl Calling {
    pub(super) fn new(client: Caracal) -> Self {
        Self {
            client,
            context: None,
            scopes: None,
            ttl: None,
            allow_root: false,
            approval: Arc::default(),
            trusted: Vec::new(),
            application: None,
        }
    }

    /// The same in the context that is bound now, whoever goes on with it.
    pub(super) fn bound(&self) -> Self {
        let mut bound = self.clone();
        bound.context = bound.context.or_else(current);
        bound
    }

    /// Judges where a request goes, as its target is written, and gives it the headers it goes with.
    /// A mandate is minted for it and for nothing else.
    pub(super) async fn prepare(
        &self,
        target: &str,
        headers: &mut HeaderMap,
    ) -> Result<Url, CaracalError> {
        let _begun = self.client.enter()?;
        let bound = self.context.clone().or_else(current);
        let context = bound.clone().filter(|_| self.application.is_none());
        if context.is_none() && !self.allow_root {
            return Err(CaracalError::usage(
                "context_required",
                "no identity is bound: call within spawn() or bind(ctx), or name one with \
                 .context(ctx); .allow_root() calls as the application itself",
            ));
        }
        let named = match (&self.application, named_resource(headers)?) {
            (Some(pinned), Some(other)) if pinned.resource != other => {
                return Err(CaracalError::usage(
                    "invalid_target",
                    format!(
                        "these calls are to {}, and the request names another",
                        pinned.resource
                    ),
                ));
            }
            (Some(pinned), _) if pinned.resource.trim().is_empty() => {
                return Err(CaracalError::usage("invalid_target", "the resource id is blank"));
            }
            (Some(pinned), _) => Some(pinned.resource.clone()),
            (None, named) => named,
        };
        let routes = self.client.routes();
        if self.scopes.is_some() && !routes.has_gateway() {
            return Err(super::routes::gateway_required());
        }
        match routes.of(target, named.as_deref())? {
            Route::Elsewhere(url) => {
                if self.trusted.contains(&url.origin()) {
                    encode_envelope(&shown(context.as_ref()), headers);
                }
                Ok(url)
            }
            Route::Gateway { url, resource } => {
                // The longest road of the client: boxed, so that the futures of callers stay small.
                let authorized = Box::pin(self.authorize(context, resource.as_deref()));
                let (bearer, acting) = authorized.await?;
                encode_envelope(&acting_for(acting.as_ref(), bound.as_ref()), headers);
                // Whatever the caller had there is not for the Gateway.
                headers.insert(header::AUTHORIZATION, authorization(&bearer)?);
                headers.remove(header::HOST);
                // It says by a trailer that it cut an answer, to whoever takes trailers.
                headers.entry(header::TE).or_insert(HeaderValue::from_static("trailers"));
                if let Some(resource) = resource {
                    let resource = HeaderValue::from_str(&resource)
                        .map_err(|_| CaracalError::usage("invalid_target", "no resource id"))?;
                    headers.insert(RESOURCE, resource);
                }
                Ok(url)
            }
        }
    }

    /// The bearer for a call to the Gateway, and the context that it is made in.
    async fn authorize(
        &self,
        context: Option<CaracalContext>,
        resource: Option<&str>,
    ) -> Result<(BearerToken, Option<CaracalContext>), CaracalError> {
        let Some(context) = context else {
            return self.as_application(resource).await;
        };
        if !context.is_own() && !context.is_proven() {
            return self.forward(&context).map(|bearer| (bearer, Some(context)));
        }
        let origin = Origin::of(Some(context.clone()));
        self.client.check_owner(&origin).await?;
        if origin.session.is_none() && context.is_own() {
            return self.as_application(resource).await;
        }
        let resource = resource.ok_or_else(resource_required)?;
        // A mandate that names no session is nobody's to call on with.
        origin.session()?;
        let scopes = self.scopes_for(resource, &context)?;
        let purpose = self.purpose(resource, &scopes)?;
        match (&origin.session, &origin.edge) {
            (Some(session), None) if self.scopes.is_none() => {
                let root = self.client.root(session).ok_or_else(|| {
                    CaracalError::usage(
                        "delegation_required",
                        "this session holds no delegation, and was not started by this client as a \
                         root that inherits: narrow a child of it with Grant::narrow, or accept a \
                         delegation in it",
                    )
                })?;
                let (token, child) = root.mint(&self.client, &context, &purpose).await?;
                Ok((token.bearer, Some(child)))
            }
            _ => {
                let token = mint(&self.client, &origin, purpose).await?;
                Ok((token.bearer, Some(context)))
            }
        }
    }

    /// As the application itself, by a pair of sessions of its own.
    async fn as_application(
        &self,
        resource: Option<&str>,
    ) -> Result<(BearerToken, Option<CaracalContext>), CaracalError> {
        let resource = resource.ok_or_else(resource_required)?;
        let scopes = self.configured_scopes(resource)?;
        self.client.tokens().check_exchange()?;
        let purpose = self.purpose(resource, &scopes)?;
        let labels = self.application.as_ref().map_or(&[][..], |pinned| &pinned.labels);
        let (token, context) = self.client.pairs().mint(&self.client, labels, &purpose).await?;
        Ok((token.bearer, Some(context)))
    }

    fn purpose<'a>(
        &self,
        resource: &'a str,
        scopes: &'a [String],
    ) -> Result<Purpose<'a>, CaracalError> {
        let ttl = self.ttl.map(|ttl| whole_seconds("ttl", ttl)).transpose()?;
        if ttl.is_some_and(|ttl| !(36..=3600).contains(&ttl)) {
            return Err(CaracalError::usage(
                "invalid_ttl",
                "the mandate of a call lasts from 36 seconds, of which the Gateway wants 35, to an hour",
            ));
        }
        let approval = self.approval.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Purpose { resource, scopes, ttl, approval })
    }

    /// The scopes that were said, or else configured.
    fn configured_scopes(&self, resource: &str) -> Result<Vec<String>, CaracalError> {
        let scopes = self.scopes.as_deref().unwrap_or(self.client.resource_scopes(resource));
        if scopes.is_empty() {
            return Err(CaracalError::usage(
                "scopes_required",
                format!(
                    "no scopes are known for {resource}: say .scopes([..]), or configure them with \
                     CARACAL_RESOURCE_SCOPES or `scopes` in its credentials"
                ),
            ));
        }
        Ok(scopes.to_vec())
    }

    /// The same, and of those that are configured only such as the context holds.
    fn scopes_for(
        &self,
        resource: &str,
        context: &CaracalContext,
    ) -> Result<Vec<String>, CaracalError> {
        let mut scopes = self.configured_scopes(resource)?;
        if self.scopes.is_none() {
            if context.is_proven() {
                scopes.retain(|scope| context.has_scope(scope));
            } else if let Some(held) =
                context.own().and_then(|own| own.edge.as_ref()?.scopes.as_deref())
            {
                scopes.retain(|scope| held.contains(scope));
            }
            if scopes.is_empty() {
                return Err(CaracalError::usage(
                    "scopes_required",
                    format!("this context holds none of the scopes configured for {resource}"),
                ));
            }
        }
        Ok(scopes)
    }

    /// The bearer that an unproven context came with: it was the Gateway's to judge, and is again.
    fn forward(&self, context: &CaracalContext) -> Result<BearerToken, CaracalError> {
        if self.scopes.is_some() {
            return Err(CaracalError::usage(
                "unproven_context",
                "the bound context is unproven, and its session is whatever its caller claims: verify \
                 it before calling with authority of this application",
            ));
        }
        let bearer = context.subject_token().ok_or_else(|| {
            CaracalError::usage(
                "bearer_required",
                "the bound context is unproven and has no bearer",
            )
        })?;
        match token_use(bearer.expose()).as_deref() {
            None | Some("gateway") => Ok(bearer.clone()),
            Some(other) => Err(CaracalError::usage(
                "gateway_mandate_required",
                format!(
                    "the Gateway takes mandates of use `gateway`, and the bound bearer is of use \
                     `{other}`: call with .scopes([..]) in a session of this process"
                ),
            )),
        }
    }
}

/// What the context of a call tells of itself, in the trace and with the foreign baggage of the one
/// that is bound where it has none of its own.
fn acting_for(acting: Option<&CaracalContext>, bound: Option<&CaracalContext>) -> Envelope {
    let mut told = shown(acting);
    if told.trace_id.is_none() {
        let bound = shown(bound);
        told.trace_id = bound.trace_id;
        told.trace_flags = bound.trace_flags;
        told.trace_state = bound.trace_state;
        told.baggage = bound.baggage;
    }
    told
}

/// What a context tells of itself; of none, a trace of its own.
fn shown(context: Option<&CaracalContext>) -> Envelope {
    context.map(to_envelope).unwrap_or_default()
}

fn resource_required() -> CaracalError {
    CaracalError::usage(
        "resource_required",
        "the Gateway must be told the resource: call the URL of a configured one, or set the header \
         X-Caracal-Resource",
    )
}

/// The resource that a request names itself.
fn named_resource(headers: &HeaderMap) -> Result<Option<String>, CaracalError> {
    let mut lines = headers.get_all(RESOURCE).iter();
    let invalid = |problem: &str| Err(CaracalError::usage("invalid_target", problem));
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => invalid("X-Caracal-Resource names one resource, once"),
        (Some(value), None) => match value.to_str() {
            Ok(name) if !name.trim().is_empty() => Ok(Some(name.to_owned())),
            _ => invalid("X-Caracal-Resource names no resource"),
        },
    }
}

/// Mints for one call, and for long enough.
pub(super) async fn mint(
    client: &Caracal,
    origin: &Origin,
    purpose: Purpose<'_>,
) -> Result<Token, CaracalError> {
    let mut wanted = Wanted::new([purpose.resource], purpose.scopes);
    wanted.session.clone_from(&origin.session);
    wanted.delegation.clone_from(&origin.edge);
    wanted.ttl = purpose.ttl;
    wanted.approval = purpose.approval;
    let minting = client.clone();
    let minting = async move { minting.tokens().mint(wanted).await };
    let token = client.detached(minting).await?;
    if client.tokens().left(&token).is_some_and(|left| left < LEAST_LIFE) {
        return Err(CaracalError::usage(
            "delegation_ends",
            "the mandate ends within 36 s, and the Gateway takes none of that kind: the delegation it \
             is minted under is about to end, or .ttl(..) is too short",
        ));
    }
    Ok(token)
}

/// `use` of a token that says so. It is only asked what it is for, not believed.
fn token_use(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(rename = "use")]
        token_use: Option<String>,
    }
    let payload = SEGMENT.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    claims.token_use.filter(|token_use| !token_use.is_empty())
}
