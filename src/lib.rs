//! Enforces the authority of AI agents at the boundary of an axum service.
//!
//! Caracal gives agents *mandates*: short-lived ES256 JWTs that say which application acts, in
//! which agent session, over which delegation chain, with which scopes, on which resource; and
//! that can be revoked at once. [`CaracalLayer`] lets a request in only when its mandate proves
//! authentic, meant for this service, sufficient for the route, and alive; handlers take the
//! proven identity as a [`CaracalContext`].
//!
//! ```
//! use axum::{Router, routing::{get, post}};
//! use caracal_axum::{CaracalContext, CaracalLayer, MandateVerifier, MemoryRevocations, Require};
//!
//! async fn list(ctx: CaracalContext) -> String {
//!     format!("tickets of {} for {:?}", ctx.application_id(), ctx.agent_session_id())
//! }
//!
//! # fn main() -> Result<(), caracal_axum::ConfigurationError> {
//! let revocations = MemoryRevocations::default();
//! let verifier = MandateVerifier::builder()
//!     .issuer("https://sts.example.com")
//!     .audience("resource://tickets")
//!     .zone("zone-1")
//!     .revocations(revocations.clone())
//!     .build()?; // refuses an incomplete or insecure configuration
//!
//! let app: Router = Router::new()
//!     .route("/tickets", get(list))
//!     .route("/refunds", post(list).route_layer(Require::scopes(["refunds:create"]).delegation()))
//!     .layer(CaracalLayer::enforce(verifier).exempt("/healthz")); // last: covers what is above
//! # Ok(())
//! # }
//! ```
//!
//! # Order of layers
//!
//! `Router::layer` covers the routes that were added **before** it, and the fallback; a route added
//! after it is open. `Router::route_layer` leaves the fallback open. So add [`CaracalLayer`] with
//! `layer`, last, and [`Require`] with `route_layer`, on single routes. A handler that takes a
//! [`CaracalContext`] is safe either way: without the layer it answers 500.
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | what is proven, and how | [`MandateVerifier`] |
//! | requirements of a route | [`Require`] |
//! | who a request acts for | [`CaracalContext`], [`Mandate`] |
//! | revoking | [`MemoryRevocations`], [`RevocationStore`] |
//! | a verifier of your own | [`Verifier`], [`verifier_fn`] |
//! | what refusals look like | [`Denial`] |
//! | metrics and audit trails | [`Observer`], [`MandateVerifier::status`] |
#![cfg_attr(
    feature = "client",
    doc = "| acting for oneself: sessions, delegations, mandates | [`Caracal`] |"
)]
//! | testing | [`Binding`], [`verifier_fn`], [`Proof::builder`], [`StaticKeys`], [`ManualClock`] |
#![cfg_attr(feature = "testing", doc = "| testing with mandates, good and broken | [`testing`] |")]
#![cfg_attr(
    feature = "embedded",
    doc = "| a whole Caracal, for development and tests | [`embedded`] |"
)]
//! | reading and writing headers | [`envelope`] |

#![warn(
    clippy::dbg_macro,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::todo,
    clippy::unwrap_used
)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "client")]
mod client;
mod clock;
mod context;
mod denial;
#[cfg(feature = "embedded")]
pub mod embedded;
mod enforce;
pub mod envelope;
mod observer;
mod outgoing;
mod revocation;
#[cfg(feature = "testing")]
pub mod testing;
mod verify;

#[cfg(feature = "client")]
pub use client::{
    AcceptDelegation, AgentKind, AgentSession, ApplicationTransport, ApprovalState, Attach,
    Authority, BindContext, BindFromHeaders, Caracal, CaracalBuilder, CaracalError, ClientEvent,
    ConfigSource, ConfigurationProblems, ControlPlane, Credentials, CredentialsUnavailable,
    Delegate, Delegation, DelegationConstraints, DetachedService, FederateSubject,
    FederatedSubject, GatewayRequest, Grant, Health, Heartbeat, HookFailed, LeaseLost, MintMandate,
    MintedMandate, OutboundHeaders, PendingApproval, Refusal, Renewal, ResourceBinding, Revocable,
    Revocation, RevokeDelegation, Revoked, ServiceAgent, SessionState, Spawn, SpawnService,
    Subscription, Transport, TransportFuture, TransportLayer, TransportRequest, TransportService,
    Unreachable, UnusableAnswer, Usage, WaitForApproval,
};
#[cfg(feature = "blocking")]
pub use client::{BlockingRequest, BlockingResponse, BlockingTransport};
pub use clock::{Clock, ManualClock, SystemClock};
pub use context::{
    Binding, Bound, CaracalContext, ChainLink, ContextRejection, InContext, Mandate, Proof,
    ProofBuilder, TokenUse, bind, current, from_envelope, to_envelope, with_overrides,
};
pub use denial::{Denial, DenialCode, Reason};
pub use enforce::{
    CaracalFuture, CaracalLayer, CaracalService, NoVerifier, Require, RequireFuture, RequireService,
};
pub use envelope::{
    BAGGAGE_AGENT_SESSION, BAGGAGE_DELEGATION_EDGE, BAGGAGE_HOP, BAGGAGE_PARENT_EDGE,
    BAGGAGE_SESSION, BearerToken, Envelope, HEADER_AUTHORIZATION, HEADER_BAGGAGE,
    HEADER_TRACEPARENT, HEADER_TRACESTATE, MAX_BAGGAGE_BYTES, MAX_BAGGAGE_MEMBERS, MAX_HOP,
    TraceContext, TraceFlags, TraceId, decode_envelope, encode_envelope, from_headers,
    parse_baggage, parse_traceparent, to_headers,
};
pub use observer::{CacheResult, Decision, KeyFetch, Observer, Outcome, Place, RevocationChange};
pub use revocation::{
    MemoryRevocations, MemoryRevocationsBuilder, RevocationError, RevocationQuery, RevocationStore,
    Standing,
};
pub use verify::{
    BoxVerifier, ConfigurationError, HttpKeys, HttpKeysBuilder, Inbound, KeyDocument, KeyError,
    KeyRequest, KeySource, KeyStatus, MandateVerifier, MandateVerifierBuilder, StaticKeys,
    Verifier, VerifierFn, verifier_fn,
};
