//! What an embedded Caracal is started with.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use http::request::Parts;
use tokio::net::TcpListener;

use super::{
    EmbeddedCaracal, Shared, World, WorldError, Zone, coordinator,
    faults::{Endpoint, Faults},
    gateway,
    record::Records,
    server::Server,
    state::State,
    sts,
    time::EmbeddedClock,
    web::Received,
};
use crate::{Clock, SystemClock};

/// Configures an [`EmbeddedCaracal`].
pub struct EmbeddedCaracalBuilder {
    world: World,
    clock: Arc<dyn Clock>,
    sts: SocketAddr,
    coordinator: SocketAddr,
    gateway: SocketAddr,
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
    pub(super) fn new() -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            world: World::new(),
            clock: Arc::new(SystemClock),
            sts: free,
            coordinator: free,
            gateway: free,
        }
    }

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

    /// Where the Gateway listens: a free port of loopback unless set.
    #[must_use]
    pub fn gateway_address(mut self, address: SocketAddr) -> Self {
        self.gateway = address;
        self
    }

    /// Starts all services on the current Tokio runtime. They listen when this returns.
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
        let (gateway, gateway_url) = listen(self.gateway).await?;
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
        let for_gateway = Arc::clone(&shared);
        let gateway = Server::start(gateway, move |from, request| {
            gateway::serve(Arc::clone(&for_gateway), from, request)
        });
        let servers = [sts, coordinator, gateway];
        Ok(EmbeddedCaracal { shared, coordinator_url, gateway_url, servers })
    }
}

impl fmt::Debug for EmbeddedCaracalBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCaracalBuilder")
            .field("world", &self.world)
            .field("sts", &self.sts)
            .field("coordinator", &self.coordinator)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, String), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    Ok((listener, url))
}
