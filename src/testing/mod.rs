//! Testing your service: an issuer in the test, and mandates that are good, or broken in one way.
//!
//! Give the service its verifier from outside, as it is given its database. In production that is
//! one of the STS; in a test it is [`Issuer::verifier`], and everything else stays as it is:
//!
//! ```
//! use std::{error::Error, time::Duration};
//!
//! use axum::{
//!     Router,
//!     body::Body,
//!     http::{Request, StatusCode},
//!     routing::{get, post},
//! };
//! use caracal_axum::{
//!     CaracalContext, CaracalLayer, ManualClock, MandateVerifier, Require,
//!     testing::{Flaw, Issuer},
//! };
//! use tower::ServiceExt as _;
//!
//! // The service under test.
//! fn app(verifier: MandateVerifier) -> Router {
//!     let whoami = async |ctx: CaracalContext| ctx.application_id().to_owned();
//!     Router::new()
//!         .route("/tickets", get(whoami).route_layer(Require::scopes(["tickets:read"])))
//!         .route("/refunds", post(whoami).route_layer(Require::scopes(["refunds:create"])))
//!         .layer(CaracalLayer::enforce(verifier))
//! }
//!
//! async fn status(app: &Router, call: &str, mandate: &str) -> Result<StatusCode, Box<dyn Error>> {
//!     let (method, path) = call.split_once(' ').unwrap_or(("GET", call));
//!     let request = Request::builder()
//!         .method(method)
//!         .uri(path)
//!         .header("authorization", format!("Bearer {mandate}"))
//!         .body(Body::empty())?;
//!     Ok(app.clone().oneshot(request).await?.status())
//! }
//!
//! #[tokio::main] // in your tests: #[tokio::test]
//! async fn main() -> Result<(), Box<dyn Error>> {
//!     let clock = ManualClock::new(1_900_000_000);
//!     let issuer = Issuer::builder().clock(clock.clone()).start().await?;
//!     let app = app(issuer.verifier("resource://tickets")?);
//!     let mandate = issuer
//!         .mandate("resource://tickets")
//!         .scopes(["tickets:read"])
//!         .session("session-7");
//!
//!     // A good mandate is let in, but not where it lacks a scope.
//!     let good = mandate.sign();
//!     assert_eq!(status(&app, "GET /tickets", &good).await?, StatusCode::OK);
//!     assert_eq!(status(&app, "POST /refunds", &good).await?, StatusCode::FORBIDDEN);
//!
//!     // A broken one is not: one by one, or all that there are.
//!     let forged = mandate.clone().broken(Flaw::WrongKey).sign();
//!     assert_eq!(status(&app, "GET /tickets", &forged).await?, StatusCode::UNAUTHORIZED);
//!     let unsigned = mandate.clone().broken(Flaw::AlgNone).sign();
//!     assert_eq!(status(&app, "GET /tickets", &unsigned).await?, StatusCode::UNAUTHORIZED);
//!     for flaw in Flaw::ALL {
//!         let broken = mandate.clone().broken(*flaw).sign();
//!         let status = status(&app, "GET /tickets", &broken).await?;
//!         assert_eq!(status, StatusCode::UNAUTHORIZED, "{flaw:?}");
//!     }
//!
//!     // Its session ends, and with it every mandate of the session.
//!     issuer.revocations().revoke("session-7")?;
//!     assert_eq!(status(&app, "GET /tickets", &good).await?, StatusCode::UNAUTHORIZED);
//!
//!     // Time passes, and nobody sleeps.
//!     let other = mandate.clone().session("session-8").sign();
//!     assert_eq!(status(&app, "GET /tickets", &other).await?, StatusCode::OK);
//!     clock.advance(Duration::from_secs(900));
//!     assert_eq!(status(&app, "GET /tickets", &other).await?, StatusCode::UNAUTHORIZED);
//!     Ok(())
//! }
//! ```
//!
//! A service in a process of its own is configured with [`Issuer::url`] and [`Issuer::zone`] as it
//! would be with those of an STS, and fetches the keys over HTTP. The issuer then goes by the clock
//! of the system, and the service has revocations of its own.
//!
//! # What a mandate says
//!
//! [`MandateBuilder`] lists the claims of a good mandate. What has no method is a
//! [`claim`](MandateBuilder::claim):
//!
//! | for | write |
//! |---|---|
//! | a user whom the application acts for | `.claim("sub", "user-1").claim("sub_type", "user")` |
//! | an authority record that is going to be revoked | `.claim("sid", "record-1")` |
//! | a mandate for several resources | `.claim("aud", json!(["resource://a", "resource://b"]))` |
//! | another zone, 401 `invalid_zone` | `.claim("zone_id", "zone-2")` |
//! | delegations that have changed since, 401 `delegation_stale` | `.delegated_over([("planner", "session-1", "edge-1")])`, then `revocations().raise_epoch("zone-1", 100)` |
//!
//! # What a flaw shows
//!
//! A [`MandateVerifier`](crate::MandateVerifier) refuses every [`Flaw`] with 401 `invalid_token`, for
//! the [`Reason`](crate::Reason) below. A service that lets one in, because it leaves its layer out or
//! has a verifier of its own, has this wrong:
//!
//! | flaw | reason | who lets it in |
//! |---|---|---|
//! | [`WrongKey`](Flaw::WrongKey) | `Signature` | does not check signatures |
//! | [`UnknownKey`](Flaw::UnknownKey) | `UnknownKey` | takes what it has no key for |
//! | [`AlgNone`](Flaw::AlgNone) | `NotCompact` | lets the token say that it needs no signature |
//! | [`AlgHs256`](Flaw::AlgHs256) | `Algorithm` | lets the token say that the public key is a secret |
//! | [`BadSignature`](Flaw::BadSignature) | `Signature` | checks signatures, but not all of them |
//! | [`Expired`](Flaw::Expired) | `Expired` | does not look at `exp`, or gives it leeway |
//! | [`NotYetValid`](Flaw::NotYetValid) | `NotYetValid` | does not look at `nbf` |
//! | [`Oversize`](Flaw::Oversize) | `TooLarge` | reads tokens of any size |
//! | [`DuplicateMember`](Flaw::DuplicateMember) | `PayloadJson` | may read another claim than who judged it |
//!
//! An [`Observer`](crate::Observer) is told the reason; the caller never is.
//!
//! # Without mandates
//!
//! A handler is tested without any layer by a request with
//! [`Binding::Bound`](crate::Binding::Bound) among its extensions, and a layer without mandates by a
//! [`verifier_fn`](crate::verifier_fn) that returns a [`Proof`](crate::Proof) of anything.
#![cfg_attr(feature = "embedded", doc = include_str!("embedded.md"))]

mod endpoint;
mod flaw;
mod issuer;
mod key;
mod mandate;
mod zone;

#[cfg(feature = "embedded")]
pub(crate) use self::endpoint::key_document;
pub use self::{
    flaw::Flaw,
    issuer::{Issuer, IssuerBuilder},
    key::SigningKey,
    mandate::MandateBuilder,
};
