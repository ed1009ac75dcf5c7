//! A Caracal control plane in this process: STS, Coordinator and Gateway on loopback ports of their
//! own, for developing and testing services and agents without anything else running.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use caracal_axum::embedded::EmbeddedCaracal;
//!
//! let caracal = EmbeddedCaracal::builder().start().await?;
//! println!("tokens at {}/oauth/2/token", caracal.sts_url());
//! # Ok(())
//! # }
//! ```
//!
//! It grants what Caracal v1.0.0 grants and refuses what that refuses, with the same statuses,
//! codes and members; the texts for people are its own. Everything is in memory: when the
//! [`EmbeddedCaracal`] is dropped, all is forgotten. It is a tool for development. It has no
//! encryption, no persistence and no protection but the loopback address it listens on.
//!
//! # What there is
//!
//! | service | routes |
//! |---|---|
//! | STS | `POST /oauth/2/token`, `GET /.well-known/jwks.json?zone_id=`, `GET /approvals/{id}?wait=`, `POST /approvals/{id}/decision`, `/health`, `/ready` |
//! | Coordinator | sessions: start, end, heartbeat, takeover (`lease`), suspend, resume, detail, lists, effective authority; delegations: create, revoke, lists; `/health`, `/ready` |
//! | Gateway | calls of resources that have an [upstream](Resource::upstream), with any method and path; `/health`, `/ready` |
//!
//! The [`World`] says who and what there is, in the program or from a file
//! ([`World::from_toml`]). Zones, applications, resources and grants can be added while it runs.
//!
//! # Calls through the Gateway
//!
//! A call carries a delegated mandate and names its resource in `X-Caracal-Resource`. It is judged,
//! which uses the mandate up, and passed on with what the upstream of the resource wants to see:
//!
//! ```
//! use caracal_axum::embedded::{
//!     Application, EmbeddedCaracal, Grant, Resource, UpstreamCredential, World, Zone,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let world = World::new().zone(
//!     Zone::new("zone-1")
//!         .application(Application::new("app-1"))
//!         .resource(
//!             Resource::new("resource://tickets")
//!                 .scopes(["tickets:read"])
//!                 .upstream("http://127.0.0.1:3000/v1") // a service with a `CaracalLayer`
//!                 .credential(UpstreamCredential::caracal_mandate()),
//!         )
//!         .grant(Grant::new("app-1", "resource://tickets").role("reader").scopes(["tickets:read"])),
//! );
//! let caracal = EmbeddedCaracal::builder().world(world).start().await?;
//! println!("calls to {}", caracal.gateway_url());
//! # Ok(())
//! # }
//! ```
//!
//! Bodies pass as they come, in both directions. What is revoked ends them: the Gateway knows what
//! resource servers are told, as of a revoked delegation, a second later, and of any other ended
//! session with its next snapshot, every 30 s. A body without a length then ends with the trailer
//! `X-Caracal-Revoked: true` for a caller that sends `TE: trailers`, and one with a length is cut.
//!
//! # People
//!
//! A mint whose scope has an [`ApprovalTier`] is held until an operator ([`approve`], [`reject`]) or
//! a user decides; [`approvals`] lists what waits. Users come from an [`IdentityProvider`]: an
//! application exchanges their identity tokens, starts sessions for them, and lets them decide. What
//! was started for a user ends with their record, and is told to resource servers. The Gateway passes
//! on an approved mandate like any other, and takes no user's token.
//!
//! # Time
//!
//! One [`EmbeddedClock`] moves everything: lifetimes, leases, limits, and what happens by itself.
//! Sweeps suspend lapsed services every 30 s and expire tasks every 60 s, counted from the start;
//! the authority record that a revocation takes along is dead a second later. [`advance`] makes
//! that happen without waiting. `GET /approvals/{id}?wait=` goes by it too, and is answered at once
//! when somebody decides:
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::time::Duration;
//! # use caracal_axum::embedded::EmbeddedCaracal;
//! # let caracal = EmbeddedCaracal::builder().start().await?;
//! caracal.advance(Duration::from_secs(901)); // the lifecycle tokens of before have expired
//! # Ok(())
//! # }
//! ```
//!
//! No two things happen at one moment, also under a clock that stands still: stamps are a
//! microsecond apart at least.
//!
//! # In tests
//!
//! [`verifier`](EmbeddedCaracal::verifier) and [`mandate`](EmbeddedCaracal::mandate) are for a
//! service under test, [`environment`](EmbeddedCaracal::environment) is for a client or an agent.
//! [`inject`](EmbeddedCaracal::inject) makes any endpoint fail, slow or break off, before its
//! effect or after; [`requests`](EmbeddedCaracal::requests) and
//! [`decisions`](EmbeddedCaracal::decisions) tell what happened. Complete examples stand in
//! [`testing`](crate::testing#with-a-whole-caracal).
//!
//! # Where it differs from the real one
//!
//! - A member `__proto__` in a body is ignored like any unknown one; the real Coordinator's
//!   parser refuses it with 400 `internal_error`.
//! - In the digest of an `Idempotency-Key`, `1.0` and `1` in `metadata` are different values.
//! - Unknown routes, wrong methods, paths with broken escapes or segments of more than 100
//!   characters have the real statuses and bodies of their own.
//! - A `ttl_seconds` that overflows at the real STS is refused as too long.
//! - JSON that is nested deeper than 127 levels, or holds half a surrogate pair, a number beyond
//!   those of a double or a byte order mark, is no JSON here.
//! - `agent:lifecycle` is minted at every resource; the real one wants it to have an upstream URL.
//! - A change of policy that makes approvals void is one of the zone's grants: nothing else of it
//!   changes while this runs. Of several tiers the shortest life of a hold counts. A hold is
//!   forgotten a day after it has expired.
//! - Keys of identity providers are fetched from loopback addresses too, and over plain HTTP; they
//!   are kept for five minutes. A key of RSA has at least 2048 bits, one of an elliptic curve has
//!   coordinates of full length, and a header with `crit` is refused.
//! - `privacy` of a tier shows nowhere, as at the real one, and is not even kept.
//! - The Gateway strips what any line of `Connection` names; the real one reads the first alone. It
//!   asks upstreams for no compressed answers, and says `Accept: */*` where the caller says nothing.
//!   Names of upstream hosts are not looked up before they are called, so that only what is written
//!   as an address is refused as one of no service. Of the real one's time limits it has one: an
//!   upstream that has the whole request begins its answer within 30 s, by the system's clock.
//! - The texts of its redirects and of what HTTP itself refuses are its own.
//! - Not there: the operators' bearer secret (what operators do is done with the methods of
//!   [`EmbeddedCaracal`]), `POST /v1/verify`, the Redis streams.
//! - Right after a rotation the Coordinator refuses tokens of the new key for up to 30 s, as the
//!   real one does: it fetches keys no sooner. So does the Gateway with the key of a second rotation
//!   within that time.
//!
//! [`advance`]: EmbeddedCaracal::advance
//! [`approvals`]: EmbeddedCaracal::approvals
//! [`approve`]: EmbeddedCaracal::approve
//! [`reject`]: EmbeddedCaracal::reject

mod approvals;
mod approvers;
mod builder;
mod constraints;
mod coordinator;
mod faults;
mod gateway;
mod identity;
mod keys;
mod kit;
mod log;
mod operators;
mod policy;
mod record;
mod registry;
mod revocations;
mod server;
mod session;
mod state;
mod sts;
mod time;
mod upstream;
mod web;
mod world;
mod world_file;
mod zone;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{extract::Request, response::Response};
use http::{Method, request::Parts};

pub use self::{
    approvals::{Approval, ApprovalState},
    approvers::{ApprovalTier, Approver},
    builder::{EmbeddedCaracalBuilder, StartError},
    faults::{Endpoint, Fault},
    identity::IdentityProvider,
    operators::OperatorError,
    record::{Decision, ReceivedRequest},
    revocations::EmbeddedRevocations,
    time::EmbeddedClock,
    upstream::UpstreamCredential,
    world::{Application, Grant, Limits, Resource, World, WorldError, Zone},
};
use self::{
    faults::Faults,
    record::Records,
    server::{Server, Unanswered},
    state::State,
    web::{Answered, Received},
};

/// What the services share. The lock is held while a request is judged and never across I/O: the
/// guard cannot leave the thread, so that the compiler refuses a future that holds it.
struct Shared {
    state: Mutex<State>,
    issuer: String,
    clock: EmbeddedClock,
    faults: Faults,
    records: Records,
}

impl Shared {
    /// Receives a request and answers it, with the fault that waits for it. The body is read before
    /// anything is judged, so that nothing waits for a slow sender.
    async fn serve(
        &self,
        request: Request,
        endpoint: fn(&Method, &str) -> Endpoint,
        answer: impl FnOnce(&Self, &Parts, &Received) -> Answered,
    ) -> Result<Response, Unanswered> {
        let (head, body) = request.into_parts();
        // What never arrived whole was never asked.
        let body = web::receive(body).await.map_err(|web::Broken| Unanswered)?;
        let endpoint = endpoint(&head.method, head.uri.path());
        let record = ReceivedRequest::new(endpoint, &head, &body);
        let answer = async {
            sts::prepare(self, endpoint, &head, &body).await;
            answer(self, &head, &body)
        };
        self.attend(endpoint, record, answer).await
    }

    /// Answers a request that has been received, with the fault that waits for it.
    async fn attend(
        &self,
        endpoint: Endpoint,
        record: ReceivedRequest,
        answer: impl Future<Output = Answered>,
    ) -> Result<Response, Unanswered> {
        let number = self.records.add(record);
        let fault = self.faults.take(endpoint);
        if let Some(fault) = &fault
            && let Some(instead) = fault.before(&self.clock).await?
        {
            return Ok(instead);
        }
        let Answered { response, application, code } = answer.await;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let decision = Decision { endpoint, application, status, code, replayed };
        self.records.decide(number, decision);
        match &fault {
            Some(fault) => fault.after(&self.clock, response).await,
            None => Ok(response),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running control plane. Dropping it ends it.
pub struct EmbeddedCaracal {
    shared: Arc<Shared>,
    coordinator_url: String,
    gateway_url: String,
    servers: [Server; 3],
}

impl EmbeddedCaracal {
    /// Configures one.
    #[must_use]
    pub fn builder() -> EmbeddedCaracalBuilder {
        EmbeddedCaracalBuilder::new()
    }

    /// The URL of the STS, without a slash at its end. It is the issuer of all mandates.
    #[must_use]
    pub fn sts_url(&self) -> &str {
        &self.shared.issuer
    }

    /// The URL of the Coordinator, without a slash at its end.
    #[must_use]
    pub fn coordinator_url(&self) -> &str {
        &self.coordinator_url
    }

    /// The URL of the Gateway, without a slash at its end.
    #[must_use]
    pub fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    /// The clock that everything goes by, to be given to whoever must agree with it.
    #[must_use]
    pub fn clock(&self) -> EmbeddedClock {
        self.shared.clock.clone()
    }

    /// Lets time pass, and happen what is due meanwhile.
    pub fn advance(&self, time: Duration) {
        self.shared.clock.advance(time);
        self.shared.lock().now();
    }

    /// The ids of all applications, in the order of the world.
    #[must_use]
    pub fn applications(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.registry.zones().flat_map(|(_, zone)| zone.applications.keys().cloned()).collect()
    }

    /// The environment that a client of `application` is configured with, its secret included;
    /// nothing for an application that is unknown.
    #[must_use]
    pub fn environment(&self, application: &str) -> Option<Vec<(&'static str, String)>> {
        let state = self.shared.lock();
        let (zone, known) = state.registry.application(application)?;
        let secret = known.client_secret.clone();
        let resources =
            state.registry.zone(zone).map_or_else(Vec::new, |known| known.owned(application));
        Some(vec![
            ("CARACAL_STS_URL", self.sts_url().to_owned()),
            ("CARACAL_COORDINATOR_URL", self.coordinator_url().to_owned()),
            ("CARACAL_GATEWAY_URL", self.gateway_url().to_owned()),
            ("CARACAL_ZONE_ID", zone.to_owned()),
            ("CARACAL_APPLICATION_ID", application.to_owned()),
            ("CARACAL_APP_CLIENT_SECRET", secret),
            ("CARACAL_APP_RESOURCES", resources.join(",")),
        ])
    }

    /// Takes no more requests, waits for those under way, 5 s at most, and ends. The ports are free
    /// then; after a mere drop they are so a moment later.
    pub async fn shutdown(self) {
        for server in &self.servers {
            server.close();
        }
        let [sts, coordinator, gateway] = self.servers;
        tokio::join!(sts.closed(), coordinator.closed(), gateway.closed());
    }
}

impl fmt::Debug for EmbeddedCaracal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCaracal")
            .field("sts_url", &self.sts_url())
            .field("coordinator_url", &self.coordinator_url)
            .field("gateway_url", &self.gateway_url)
            .finish_non_exhaustive()
    }
}
