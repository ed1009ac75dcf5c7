//! A Caracal control plane in this process: STS and Coordinator on loopback ports of their own,
//! for developing and testing services and agents without anything else running.
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
//!
//! The [`World`] says who and what there is, in the program or from a file
//! ([`World::from_toml`]). Zones, applications, resources and grants can be added while it runs.
//!
//! # People
//!
//! A mint whose scope has an [`ApprovalTier`] is held until an operator ([`approve`], [`reject`]) or
//! a user decides; [`approvals`] lists what waits. Users come from an [`IdentityProvider`]: an
//! application exchanges their identity tokens, starts sessions for them, and lets them decide. What
//! was started for a user ends with their record, and is told to resource servers.
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
//! - `agent:lifecycle` is minted at every resource; the real one wants it to have an upstream URL,
//!   which nothing here has a use for yet.
//! - A change of policy that makes approvals void is one of the zone's grants: nothing else of it
//!   changes while this runs. Of several tiers the shortest life of a hold counts. A hold is
//!   forgotten a day after it has expired.
//! - Keys of identity providers are fetched from loopback addresses too, and over plain HTTP; they
//!   are kept for five minutes. A key of RSA has at least 2048 bits, one of an elliptic curve has
//!   coordinates of full length, and a header with `crit` is refused.
//! - `privacy` of a tier shows nowhere, as at the real one, and is not even kept.
//! - Not there: the Gateway, the operators' bearer secret (what operators do is done with the
//!   methods of [`EmbeddedCaracal`]), `POST /v1/verify`, the Redis streams.
//! - Right after a rotation the Coordinator refuses tokens of the new key for up to 30 s, as the
//!   real one does: it fetches keys no sooner.
//!
//! [`advance`]: EmbeddedCaracal::advance
//! [`approvals`]: EmbeddedCaracal::approvals
//! [`approve`]: EmbeddedCaracal::approve
//! [`reject`]: EmbeddedCaracal::reject

mod approvals;
mod approvers;
mod constraints;
mod coordinator;
mod faults;
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
mod web;
mod world;
mod world_file;
mod zone;

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{extract::Request, response::Response};
use http::{Method, request::Parts};
use tokio::net::TcpListener;

pub use self::{
    approvals::{Approval, ApprovalState},
    approvers::{ApprovalTier, Approver},
    faults::{Endpoint, Fault},
    identity::IdentityProvider,
    operators::OperatorError,
    record::{Decision, ReceivedRequest},
    revocations::EmbeddedRevocations,
    time::EmbeddedClock,
    world::{Application, Grant, Limits, Resource, World, WorldError, Zone},
};
use self::{
    faults::Faults,
    record::Records,
    server::{Server, Unanswered},
    state::State,
    web::{Answered, Received},
};
use crate::{Clock, SystemClock};

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
        let number = self.records.add(ReceivedRequest::new(endpoint, &head, &body));
        let fault = self.faults.take(endpoint);
        if let Some(fault) = &fault
            && let Some(instead) = fault.before(&self.clock).await?
        {
            return Ok(instead);
        }
        sts::prepare(self, endpoint, &head, &body).await;
        let Answered { response, application, code } = answer(self, &head, &body);
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
    servers: [Server; 2],
}

/// Configures an [`EmbeddedCaracal`].
pub struct EmbeddedCaracalBuilder {
    world: World,
    clock: Arc<dyn Clock>,
    sts: SocketAddr,
    coordinator: SocketAddr,
}

/// Why an [`EmbeddedCaracal`] did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The world contradicts itself.
    #[error(transparent)]
    World(#[from] WorldError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl EmbeddedCaracalBuilder {
    /// Who and what there is. Without zones it gets those of [`World::sample`].
    #[must_use]
    pub fn world(mut self, world: World) -> Self {
        self.world = world;
        self
    }

    /// Adds a zone to the world.
    #[must_use]
    pub fn zone(mut self, zone: Zone) -> Self {
        self.world.zones.push(zone);
        self
    }

    /// The clock to go by, in place of the system's. Set to whole seconds it makes tokens that
    /// have a full last second; move it by a fraction for the lifetimes of a real clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Where the STS listens: a free port of loopback unless set. The issuer is made of it, so that
    /// an address of all interfaces (`0.0.0.0`) names no host that clients could reach.
    #[must_use]
    pub fn sts_address(mut self, address: SocketAddr) -> Self {
        self.sts = address;
        self
    }

    /// Where the Coordinator listens: a free port of loopback unless set.
    #[must_use]
    pub fn coordinator_address(mut self, address: SocketAddr) -> Self {
        self.coordinator = address;
        self
    }

    /// Starts both services on the current Tokio runtime. They listen when this returns.
    ///
    /// # Errors
    ///
    /// If the world contradicts itself or an address is taken.
    pub async fn start(self) -> Result<EmbeddedCaracal, StartError> {
        let clock = EmbeddedClock::new(self.clock);
        let mut world = self.world;
        if world.zones.is_empty() {
            world.zones = World::sample().zones;
        }
        let state = State::new(world, clock.clone())?;
        let (sts, sts_url) = listen(self.sts).await?;
        let (coordinator, coordinator_url) = listen(self.coordinator).await?;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            issuer: sts_url,
            clock,
            faults: Faults::default(),
            records: Records::default(),
        });
        let for_sts = Arc::clone(&shared);
        let sts = Server::start(sts, move |_, request| {
            let shared = Arc::clone(&for_sts);
            async move { shared.serve(request, Endpoint::of_sts, sts::answer).await }
        });
        let for_coordinator = Arc::clone(&shared);
        let coordinator = Server::start(coordinator, move |from, request| {
            let shared = Arc::clone(&for_coordinator);
            let answer = move |shared: &Shared, head: &Parts, body: &Received| {
                coordinator::answer(shared, from, head, body)
            };
            async move { shared.serve(request, coordinator::endpoint, answer).await }
        });
        Ok(EmbeddedCaracal { shared, coordinator_url, servers: [sts, coordinator] })
    }
}

impl fmt::Debug for EmbeddedCaracalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCaracalBuilder")
            .field("world", &self.world)
            .field("sts", &self.sts)
            .field("coordinator", &self.coordinator)
            .finish_non_exhaustive()
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, String), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    Ok((listener, url))
}

impl EmbeddedCaracal {
    /// Configures one.
    #[must_use]
    pub fn builder() -> EmbeddedCaracalBuilder {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        EmbeddedCaracalBuilder {
            world: World::new(),
            clock: Arc::new(SystemClock),
            sts: free,
            coordinator: free,
        }
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
        let [sts, coordinator] = self.servers;
        tokio::join!(sts.closed(), coordinator.closed());
    }
}

impl fmt::Debug for EmbeddedCaracal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCaracal")
            .field("sts_url", &self.sts_url())
            .field("coordinator_url", &self.coordinator_url)
            .finish_non_exhaustive()
    }
}
