//! Calls as the application itself: pairs of sessions, of which one delegates to the other.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Method;
use serde_json::{Map, Value, json};

use super::{
    Caracal, CaracalError, DelegationConstraints,
    calling::Purpose,
    coordinator::{Call, IdempotencyKey},
    grant::Scope,
    live::{Guard, Live},
    opened::Opened,
    origin::Origin,
    start::read_task,
    sts::Token,
};
use crate::{
    CaracalContext, Envelope,
    context::{Attribution, Own, own},
};

/// How many pairs are kept: 19 pairs and room for 12 more sessions are what a zone has by default.
const KEPT: usize = 19;
/// How long a mandate lives unless it is said.
const MANDATE_TTL: u64 = 900;
/// How much longer than a mandate a pair lives.
const REST: u64 = 120;

/// The pairs of a client, the one that was opened last at the end.
#[derive(Default)]
pub(super) struct Pairs {
    kept: Mutex<Vec<(Key, Arc<Opened>)>>,
    /// Held while a pair is opened: one after another, so that many first calls open one.
    opening: tokio::sync::Mutex<()>,
}

/// What a pair is for.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    zone: String,
    application: String,
    resource: String,
    scopes: BTreeSet<String>,
    labels: Vec<String>,
    ttl: u64,
}

impl Pairs {
    /// Mints in the pair for a purpose, with a new one if that has ended.
    pub(super) async fn mint(
        &self,
        client: &Caracal,
        labels: &[String],
        purpose: &Purpose<'_>,
    ) -> Result<(Token, CaracalContext), CaracalError> {
        let ttl = purpose.ttl.unwrap_or(MANDATE_TTL);
        if ttl > 3600 {
            return Err(CaracalError::usage("invalid_ttl", "a mandate lasts an hour at most"));
        }
        let mut last = None;
        for _ in 0..2 {
            let (key, pair) = self.pair(client, labels, purpose, ttl).await?;
            let purpose =
                Purpose { approval: purpose.approval.clone(), ttl: Some(ttl), ..*purpose };
            match pair.mint(client, purpose).await {
                Ok(Some(token)) => return Ok((token, pair.context.clone())),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
            last = Some(key.resource.clone());
            self.forget(&key, &pair);
        }
        let resource = last.unwrap_or_default();
        Err(CaracalError::usage(
            "pair_ended",
            format!(
                "the sessions for calls to {resource} are ended by somebody as soon as they are there"
            ),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Key, Arc<Opened>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, client: &Caracal, key: &Key) -> Option<Arc<Opened>> {
        let kept = self.lock();
        let (_, pair) = kept.iter().find(|(known, _)| known == key)?;
        pair.is_usable(client).then(|| Arc::clone(pair))
    }

    fn forget(&self, key: &Key, pair: &Arc<Opened>) {
        self.lock().retain(|(known, kept)| known != key || !Arc::ptr_eq(kept, pair));
    }

    async fn pair(
        &self,
        client: &Caracal,
        labels: &[String],
        purpose: &Purpose<'_>,
        ttl: u64,
    ) -> Result<(Key, Arc<Opened>), CaracalError> {
        let (zone, application) = client.identity_for(purpose.resource).await?;
        let labels = if labels.is_empty() { vec![application.clone()] } else { labels.to_vec() };
        let scopes = purpose.scopes.iter().cloned().collect();
        let resource = purpose.resource.to_owned();
        let key = Key { zone, application, resource, scopes, labels, ttl };
        if let Some(pair) = self.known(client, &key) {
            return Ok((key, pair));
        }
        let _opening = self.opening.lock().await;
        client.check_open()?;
        if let Some(pair) = self.known(client, &key) {
            return Ok((key, pair));
        }
        let opened = client.detached(open(client.clone(), key.clone())).await?;
        let opened = Arc::new(opened);
        let mut kept = self.lock();
        // What is used up is ended now, not at its time to live: it counts among the zone's sessions.
        let used_up: Vec<_> = kept.extract_if(.., |(_, pair)| !pair.is_usable(client)).collect();
        // Where there are too many, the first one is ended.
        let evicted = (kept.len() >= KEPT).then(|| kept.remove(0));
        kept.push((key.clone(), Arc::clone(&opened)));
        drop(kept);
        drop((used_up, evicted));
        Ok((key, opened))
    }

    /// Ends all pairs, each source first.
    pub(super) async fn close(&self) {
        let pairs = std::mem::take(&mut *self.lock());
        for (_, pair) in pairs {
            for guard in &pair.guards {
                // What does not succeed is told when the pair goes.
                let _told = guard.end().await;
            }
        }
    }
}

/// Opens a pair: two sessions, and a delegation from one to the other.
async fn open(client: Caracal, key: Key) -> Result<Opened, CaracalError> {
    let ttl = key.ttl + REST;
    let source = start(&client, &key, ttl).await?;
    let target = match start(&client, &key, ttl).await {
        Ok(target) => target,
        Err(error) => return Err(given_up([source], error).await),
    };
    let scope = Scope {
        scopes: key.scopes.iter().cloned().collect(),
        ttl: Some(Duration::from_secs(ttl)),
        constraints: DelegationConstraints::new().resources([&key.resource]),
        ..Scope::default()
    };
    let ends = client.clock().monotonic().saturating_add(Duration::from_secs(ttl));
    let origin = Origin::nowhere(&source.live().id);
    let delegated = async {
        let planned = client.plan_edge(&origin, &source.live().id, &scope).await?;
        let parties = (&*key.application, &*key.application);
        let idempotency = IdempotencyKey::generate();
        let target = &target.live().id;
        client.make_edge(planned, None, parties, target, &idempotency, Some(&key.resource)).await
    };
    let edge = match delegated.await {
        Ok(edge) => edge,
        Err(error) => return Err(given_up([source, target], error).await),
    };
    let attribution = Attribution {
        zone: key.zone.into(),
        application: key.application.into(),
        agent_session_id: Some(target.live().id.as_str().into()),
        delegation_edge_id: Some(edge.id.into()),
        ..Attribution::default()
    };
    // Each call is of the trace it is made in.
    let context = own(Own { attribution, edge: Some(edge.held) }, Envelope::default());
    Ok(Opened::new(vec![source, target], context, ends))
}

async fn given_up<const N: usize>(guards: [Guard; N], error: CaracalError) -> CaracalError {
    for guard in guards {
        // What does not succeed has been told.
        let _told = guard.leave().await;
    }
    error
}

async fn start(client: &Caracal, key: &Key, ttl: u64) -> Result<Guard, CaracalError> {
    let body = Map::from_iter([
        ("application_id".to_owned(), json!(key.application)),
        ("labels".to_owned(), json!(key.labels)),
        ("ttl_seconds".to_owned(), Value::from(ttl)),
    ]);
    let call = Call::new("start a session", Method::POST, "/agents".to_owned())
        .body(body)
        .start_key(&IdempotencyKey::generate().unmarked())
        .retries(2)
        .audience(Some(&key.resource));
    let answered = client.coordinator().send(call, read_task).await.result?;
    let trace = own(Own { attribution: Attribution::default(), edge: None }, Envelope::default());
    let id = answered.agent_session_id;
    Ok(Guard::new(Live::new(client.clone(), id, trace, None).audience(&key.resource)))
}
