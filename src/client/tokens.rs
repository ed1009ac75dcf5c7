//! The tokens of a client: those it keeps, and those on their way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{
    ApprovalState, CaracalError, Credentials,
    credentials::CredentialsSource,
    sts::{LIFECYCLE_SCOPE, Sts, Token, Wanted},
};

/// How many tokens are kept at most: those without a session, which hold lifecycle authority.
const KEPT: usize = 1000;

/// Clones share what is kept.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Inner>);

struct Inner {
    authority: Authority,
    /// The resources of a lifecycle token.
    audiences: Vec<String>,
    runtime: Handle,
    tasks: TaskTracker,
    state: Mutex<State>,
}

/// By what a client acts.
pub(super) enum Authority {
    /// By a token that was given, as long as that lasts.
    Token(Token),
    /// By tokens of the STS.
    Credentials { source: CredentialsSource, sts: Arc<Sts> },
}

#[derive(Default)]
struct State {
    /// Those that were used last, and that all that is kept was minted for.
    credentials: Option<Credentials>,
    kept: HashMap<Wanted, Token>,
    flights: HashMap<Wanted, Flight>,
}

/// An exchange under way, in a task of its own.
type Flight = watch::Receiver<Option<Result<Token, CaracalError>>>;

/// What comes of asking for a token.
enum Boarding {
    Kept(Token),
    /// An exchange to wait for, and whether it was begun just now.
    Flight(Flight, bool),
}

impl Tokens {
    pub(super) fn new(
        authority: Authority,
        audiences: Vec<String>,
        runtime: Handle,
        tasks: TaskTracker,
    ) -> Self {
        Self(Arc::new(Inner { authority, audiences, runtime, tasks, state: Mutex::default() }))
    }

    /// The application's own token, for the Coordinator.
    pub(super) async fn lifecycle(&self) -> Result<Token, CaracalError> {
        self.lifecycle_for(None).await
    }

    /// The same, for one resource in place of all that are configured.
    pub(super) async fn lifecycle_for(
        &self,
        resource: Option<&str>,
    ) -> Result<Token, CaracalError> {
        match &self.0.authority {
            Authority::Token(token) => Ok(token.clone()),
            Authority::Credentials { source, sts } => {
                self.shared(self.lifecycle_wanted(resource)?, source, sts).await
            }
        }
    }

    fn lifecycle_wanted(&self, resource: Option<&str>) -> Result<Wanted, CaracalError> {
        if let Some(resource) = resource {
            let mut wanted = Wanted::new([resource], [LIFECYCLE_SCOPE]);
            wanted.own = true;
            return Ok(wanted);
        }
        if self.0.audiences.is_empty() {
            return Err(CaracalError::usage(
                "no_resources",
                "no resources are configured, and a lifecycle token is minted for some: set \
                 CARACAL_APP_RESOURCES, or .audience(..) or .resource(..) of the builder",
            ));
        }
        let mut wanted = Wanted::new(&self.0.audiences, [LIFECYCLE_SCOPE]);
        wanted.own = true;
        Ok(wanted)
    }

    /// A mandate. With a session and a delegation it is good for one use, and minted for it; others
    /// are kept.
    pub(super) async fn mint(&self, wanted: Wanted) -> Result<Token, CaracalError> {
        let (source, sts) = self.exchanging()?;
        if !wanted.is_one_shot() {
            return self.shared(wanted, source, sts).await;
        }
        let credentials = source.current().await?;
        self.use_credentials(&credentials);
        sts.exchange(&wanted, &credentials).await
    }

    /// A user's record, and the token of it.
    pub(super) async fn federate(
        &self,
        subject_token: &str,
        ttl: Option<u64>,
    ) -> Result<Token, CaracalError> {
        let (source, sts) = self.exchanging()?;
        let credentials = source.current().await?;
        self.use_credentials(&credentials);
        sts.federate(&credentials, subject_token, ttl).await
    }

    /// Refuses what needs a mint, where none can be had.
    pub(super) fn check_exchange(&self) -> Result<(), CaracalError> {
        self.exchanging().map(drop)
    }

    /// How an approval stands.
    pub(super) async fn approval_state(
        &self,
        path: &str,
        wait: u64,
    ) -> Result<Option<ApprovalState>, CaracalError> {
        self.exchanging()?.1.approval_state(path, wait).await
    }

    fn exchanging(&self) -> Result<(&CredentialsSource, &Arc<Sts>), CaracalError> {
        match &self.0.authority {
            Authority::Token(_) => Err(CaracalError::usage(
                "exchange_unavailable",
                "this client was given a token, and cannot mint: configure a client secret",
            )),
            Authority::Credentials { source, sts } => Ok((source, sts)),
        }
    }

    /// How much is left of a token; nothing is known of one that was given.
    pub(super) fn left(&self, token: &Token) -> Option<Duration> {
        match &self.0.authority {
            Authority::Token(_) => None,
            Authority::Credentials { sts, .. } => {
                token.life.map(|life| life.left(sts.clock.monotonic()))
            }
        }
    }

    /// Whether a refused token can be made up for by another.
    pub(super) fn can_exchange(&self) -> bool {
        matches!(self.0.authority, Authority::Credentials { .. })
    }

    /// A token like `refused`, which is kept no longer. Another one of its kind, kept since, serves.
    pub(super) async fn renew(&self, refused: &Token) -> Result<Token, CaracalError> {
        match (&self.0.authority, &refused.wanted) {
            (Authority::Credentials { source, sts }, Some(wanted)) => {
                self.drop_refused(wanted, refused);
                self.shared(Wanted::clone(wanted), source, sts).await
            }
            _ => Ok(refused.clone()),
        }
    }

    fn drop_refused(&self, wanted: &Wanted, refused: &Token) {
        let mut state = self.lock();
        if state.kept.get(wanted).is_some_and(|kept| kept.bearer == refused.bearer) {
            state.kept.remove(wanted);
        }
    }

    /// Keeps nothing any longer.
    pub(super) fn forget(&self) {
        self.lock().kept.clear();
    }

    /// A token that everybody who wants it shares.
    async fn shared(
        &self,
        wanted: Wanted,
        source: &CredentialsSource,
        sts: &Arc<Sts>,
    ) -> Result<Token, CaracalError> {
        let mut disappointed = false;
        loop {
            let (mut flight, begun) = match self.board(&wanted, sts, source) {
                Boarding::Kept(token) => {
                    sts.tell_cached(&wanted);
                    return Ok(token);
                }
                Boarding::Flight(flight, begun) => (flight, begun),
            };
            let landed = flight.wait_for(Option::is_some).await.map(|result| result.clone());
            let landed = landed.ok().flatten().unwrap_or_else(|| Err(super::inner::runtime_gone()));
            match landed {
                // It was begun for somebody else, and may have failed for a reason that has passed.
                Err(_) if !begun && !disappointed => disappointed = true,
                landed => return landed,
            }
        }
    }

    fn board(&self, wanted: &Wanted, sts: &Arc<Sts>, source: &CredentialsSource) -> Boarding {
        let mut state = self.lock();
        let now = sts.clock.monotonic();
        let fresh = |token: &&Token| token.life.is_some_and(|life| life.is_fresh(now));
        if let Some(token) = state.kept.get(wanted).filter(fresh) {
            return Boarding::Kept(token.clone());
        }
        if let Some(flight) = state.flights.get(wanted) {
            return Boarding::Flight(flight.clone(), false);
        }
        let (land, flight) = watch::channel(None);
        state.flights.insert(wanted.clone(), flight.clone());
        drop(state);
        let landing = Landing { tokens: self.clone(), wanted: wanted.clone(), land: Some(land) };
        let (sts, source) = (Arc::clone(sts), source.clone());
        let exchange = async move {
            let result = landing.tokens.exchange(&landing.wanted, &source, &sts).await;
            landing.land(result);
        };
        self.0.tasks.spawn_on(exchange.in_current_span(), &self.0.runtime);
        Boarding::Flight(flight, true)
    }

    async fn exchange(
        &self,
        wanted: &Wanted,
        source: &CredentialsSource,
        sts: &Sts,
    ) -> Result<Token, CaracalError> {
        let credentials = source.current().await?;
        self.use_credentials(&credentials);
        let token = sts.exchange(wanted, &credentials).await?;
        let now = sts.clock.monotonic();
        let mut state = self.lock();
        // What was minted for others than are used by now is nobody's to share.
        if state.credentials.as_ref() == Some(&credentials) {
            let lives = |token: &Token| token.life.is_some_and(|life| !life.left(now).is_zero());
            state.kept.retain(|_, token| lives(token));
            if state.kept.len() >= KEPT {
                state.kept.clear();
            }
            state.kept.insert(wanted.clone(), token.clone());
        }
        Ok(token)
    }

    /// Notes the credentials that are used now: with others than before, nothing that was kept
    /// counts.
    fn use_credentials(&self, credentials: &Credentials) {
        let mut state = self.lock();
        if state.credentials.as_ref() != Some(credentials) {
            state.kept.clear();
            state.credentials = Some(credentials.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clears the flight away when it lands or crashes. Nobody joins one that has landed: who is
/// disappointed by it begins another.
struct Landing {
    tokens: Tokens,
    wanted: Wanted,
    land: Option<watch::Sender<Option<Result<Token, CaracalError>>>>,
}

impl Landing {
    /// What it brings is kept by now.
    fn land(mut self, result: Result<Token, CaracalError>) {
        if let Some(land) = self.clear() {
            land.send_replace(Some(result));
        }
    }

    fn clear(&mut self) -> Option<watch::Sender<Option<Result<Token, CaracalError>>>> {
        let land = self.land.take()?;
        self.tokens.lock().flights.remove(&self.wanted);
        Some(land)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.clear();
    }
}
