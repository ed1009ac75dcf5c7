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
//! | STS | `POST /oauth/2/token`, `GET /.well-known/jwks.json?zone_id=`, `/health`, `/ready` |
//! | Coordinator | sessions: start, end, heartbeat, takeover (`lease`), suspend, resume, detail, lists, effective authority; delegations: create, revoke, lists; `/health`, `/ready` |
//!
//! The [`World`] says who and what there is, in the program or from a file
//! ([`World::from_toml`]). Zones, applications, resources and grants can be added while it runs.
//!
//! # Time
//!
//! One [`EmbeddedClock`] moves everything: lifetimes, leases, limits, and what happens by itself.
//! Sweeps suspend lapsed services every 30 s and expire tasks every 60 s, counted from the start;
//! the authority record that a revocation takes along is dead a second later. [`advance`] makes
//! that happen without waiting:
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
//! - Not there: the Gateway, approvals (a scope that needs one is denied) and federation of users,
//!   the operators' bearer secret (what operators do is done with the methods of
//!   [`EmbeddedCaracal`]), `POST /v1/verify`, the Redis streams.
//! - Right after a rotation the Coordinator refuses tokens of the new key for up to 30 s, as the
//!   real one does: it fetches keys no sooner.
//!
//! [`advance`]: EmbeddedCaracal::advance

mod constraints;
mod coordinator;
mod faults;
mod keys;
mod log;
mod policy;
mod record;
mod revocations;
mod server;
mod session;
mod state;
mod sts;
mod time;
mod web;
mod world;
mod world_file;

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{extract::Request, response::Response};
use http::request::Parts;
use tokio::net::TcpListener;

use self::{
    faults::Faults,
    record::Records,
    server::{Server, Unanswered},
    session::Status,
    state::State,
    web::{Answered, Received},
};
pub use self::{
    faults::{Endpoint, Fault},
    record::{Decision, ReceivedRequest},
    revocations::EmbeddedRevocations,
    time::EmbeddedClock,
    world::{Application, Grant, Limits, Resource, World, WorldError, Zone},
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
        answer: impl FnOnce(&Self, &Parts, &Received) -> Answered,
    ) -> Result<Response, Unanswered> {
        let (head, body) = request.into_parts();
        let body = web::receive(body).await;
        let endpoint = Endpoint::of(&head.method, head.uri.path());
        let number = self.records.add(ReceivedRequest::new(endpoint, &head, &body));
        let fault = self.faults.take(endpoint);
        if let Some(fault) = &fault
            && let Some(instead) = fault.before(&self.clock).await?
        {
            return Ok(instead);
        }
        let Answered { response, application, code } = answer(self, &head, &body);
        let status = response.status().as_u16();
        self.records.decide(number, Decision { endpoint, application, status, code });
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

/// Why an operator's action was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// There is no such zone.
    #[error("there is no zone `{0}`")]
    UnknownZone(String),
    /// There is no such session in the zone, or it is not in a state that the action applies to.
    #[error("session `{0}` is unknown, or its state does not allow that")]
    Session(String),
    /// There is no such application in the zone, or it is archived already.
    #[error("there is no application `{0}`")]
    UnknownApplication(String),
    /// There is no such delegation in the zone, or it is revoked already.
    #[error("there is no delegation `{0}` in force")]
    Delegation(String),
    /// There is no such authority record in the zone, or it has ended.
    #[error("there is no authority record `{0}` in force")]
    Record(String),
    /// No key could be made.
    #[error("no signing key could be made")]
    Key,
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
            async move { shared.serve(request, sts::answer).await }
        });
        let for_coordinator = Arc::clone(&shared);
        let coordinator = Server::start(coordinator, move |from, request| {
            let shared = Arc::clone(&for_coordinator);
            let answer = move |shared: &Shared, head: &Parts, body: &Received| {
                coordinator::answer(shared, from, head, body)
            };
            async move { shared.serve(request, answer).await }
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

    /// Adds a zone with all that is in it.
    ///
    /// # Errors
    ///
    /// If it contradicts itself or what there is.
    pub fn add_zone(&self, zone: Zone) -> Result<(), WorldError> {
        self.shared.lock().add_zone(zone)
    }

    /// Adds an application to a zone.
    ///
    /// # Errors
    ///
    /// If there is no such zone, or an application of that id anywhere.
    pub fn add_application(&self, zone: &str, application: Application) -> Result<(), WorldError> {
        self.shared.lock().registry.add_application(zone, application)
    }

    /// Adds a resource to a zone.
    ///
    /// # Errors
    ///
    /// If there is no such zone, or a resource of that name or id.
    pub fn add_resource(&self, zone: &str, resource: Resource) -> Result<(), WorldError> {
        self.shared.lock().registry.add_resource(zone, resource)
    }

    /// Adds a grant to a zone. It counts from the next mint on.
    ///
    /// # Errors
    ///
    /// If it names what there is not, or the resource of another application.
    pub fn add_grant(&self, zone: &str, grant: Grant) -> Result<(), WorldError> {
        self.shared.lock().registry.add_grant(zone, grant)
    }

    /// Signs with a new key from now on, and returns its id. The key before it stays published for
    /// 24 hours, or until the next rotation.
    ///
    /// # Errors
    ///
    /// If there is no such zone.
    pub fn rotate_key(&self, zone: &str) -> Result<String, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let keys = &mut zone_of(&mut state, zone)?.keys;
        let kid = keys.rotate(now).map_err(|_| OperatorError::Key)?.kid.clone();
        drop(state);
        log::operator("rotate key", zone, &kid);
        Ok(kid)
    }

    /// Suspends an active session and the active ones below it; how many.
    ///
    /// # Errors
    ///
    /// If the session is unknown or not active.
    pub fn suspend(&self, zone: &str, session: &str) -> Result<usize, OperatorError> {
        let mut state = self.shared.lock();
        state.now();
        let known = session_of(&mut state, zone, session, Status::Active)?;
        let count = known.suspend(session);
        drop(state);
        log::operator("suspend", zone, session);
        Ok(count)
    }

    /// Resumes a suspended session and the suspended ones below it; how many.
    ///
    /// # Errors
    ///
    /// If the session is unknown or not suspended.
    pub fn resume(&self, zone: &str, session: &str) -> Result<usize, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let limits = state.limits.clone();
        let known = session_of(&mut state, zone, session, Status::Suspended)?;
        let count = known.resume(session, now, &limits);
        drop(state);
        log::operator("resume", zone, session);
        Ok(count)
    }

    /// Ends a session and all below it, whatever the generation of its lease.
    ///
    /// # Errors
    ///
    /// If the session is unknown or has ended.
    pub fn terminate(&self, zone: &str, session: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let known = zone_of(&mut state, zone)?;
        if !known.sessions.get(session).is_some_and(session::Session::is_live) {
            return Err(OperatorError::Session(session.to_owned()));
        }
        known.end(&[session.to_owned()], Status::Terminated, "requested", now);
        drop(state);
        log::operator("terminate", zone, session);
        Ok(())
    }

    /// Archives an application: its tokens are refused and it gets no new ones. Its sessions go on.
    ///
    /// # Errors
    ///
    /// If there is no such application in the zone.
    pub fn archive_application(&self, zone: &str, application: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let known = state
            .registry
            .zone_mut(zone)
            .map_err(|_| OperatorError::UnknownZone(zone.to_owned()))?;
        let found = known.applications.get_mut(application).filter(|known| !known.archived);
        let found =
            found.ok_or_else(|| OperatorError::UnknownApplication(application.to_owned()))?;
        found.archived = true;
        drop(state);
        log::operator("archive application", zone, application);
        Ok(())
    }

    /// Revokes a session as an operator does: it ends with all below it, and resource servers are
    /// told of each. (The session's own end tells them nothing: see inbound contract §5.5.)
    ///
    /// # Errors
    ///
    /// If the session is unknown or has ended.
    pub fn revoke_session(&self, zone: &str, session: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let known = zone_of(&mut state, zone)?;
        if !known.sessions.get(session).is_some_and(session::Session::is_live) {
            return Err(OperatorError::Session(session.to_owned()));
        }
        known.revoke_session(session, now);
        drop(state);
        log::operator("revoke session", zone, session);
        Ok(())
    }

    /// Revokes a delegation as its issuer does, with all that follows; how many sessions ended.
    ///
    /// # Errors
    ///
    /// If the delegation is unknown or revoked.
    pub fn revoke_delegation(&self, zone: &str, edge: &str) -> Result<usize, OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        let known = zone_of(&mut state, zone)?;
        if known.edges.get(edge).is_none_or(|edge| edge.revoked.is_some()) {
            return Err(OperatorError::Delegation(edge.to_owned()));
        }
        let sessions = known.revoke(edge, now).sessions;
        drop(state);
        log::operator("revoke delegation", zone, edge);
        Ok(sessions)
    }

    /// Revokes an authority record (the claim `sid` of a token). Resource servers and the services
    /// themselves know it when it is published.
    ///
    /// # Errors
    ///
    /// If the record is unknown, revoked or past its end.
    pub fn revoke_record(&self, zone: &str, record: &str) -> Result<(), OperatorError> {
        let mut state = self.shared.lock();
        let now = state.now();
        if !zone_of(&mut state, zone)?.revoke_record(record, now) {
            return Err(OperatorError::Record(record.to_owned()));
        }
        drop(state);
        log::operator("revoke record", zone, record);
        Ok(())
    }

    /// What resource servers know of revocations, as a store for a verifier. What happens is known
    /// to it a second later, as on the stream of the real one; see [`EmbeddedRevocations`].
    #[must_use]
    pub fn revocations(&self) -> EmbeddedRevocations {
        EmbeddedRevocations::new(Arc::clone(&self.shared))
    }

    /// Lets the next requests to `endpoint` go wrong. Faults of one endpoint happen in the order in
    /// which they were injected, one for each request.
    pub fn inject(&self, endpoint: Endpoint, fault: Fault) {
        self.shared.faults.inject(endpoint, fault);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// The requests received, the last 10,000 of them, in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.records.all()
    }

    /// What was decided about them, in the same order.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decision> {
        self.requests().into_iter().filter_map(|request| request.decision).collect()
    }

    /// Takes no more requests, waits for those under way, 5 s at most for each service, and ends.
    pub async fn shutdown(self) {
        for server in &self.servers {
            server.close();
        }
        for server in self.servers {
            server.closed().await;
        }
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

fn zone_of<'s>(state: &'s mut State, zone: &str) -> Result<&'s mut state::Zone, OperatorError> {
    state.zone(zone).ok_or_else(|| OperatorError::UnknownZone(zone.to_owned()))
}

fn session_of<'s>(
    state: &'s mut State,
    zone: &str,
    session: &str,
    status: Status,
) -> Result<&'s mut state::Zone, OperatorError> {
    let known = zone_of(state, zone)?;
    match known.sessions.get(session) {
        Some(found) if found.status == status => Ok(known),
        _ => Err(OperatorError::Session(session.to_owned())),
    }
}
