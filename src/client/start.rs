//! Starting a session.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Caracal, CaracalError, Grant,
    claim::nobody_waits,
    coordinator::{Call, IdempotencyKey, RECORD},
    edges::{Planned, chain_lost},
    grant::{Granted, whole_seconds},
    hooks::Phase,
    http::{Answer, is_uncertain},
    lease::{Lease, Told},
    live::{Guard, Live},
    origin::{Origin, check_id},
    service::read_lease,
    sts::Token,
};
use crate::{
    CaracalContext, Envelope, TraceId,
    context::{Attribution, HeldEdge, MadeEdge, Own, own},
};

/// Everything that was said about a session to be started.
#[derive(Default)]
pub(super) struct Options {
    pub(super) labels: Vec<String>,
    pub(super) grant: Grant,
    pub(super) parent: Option<CaracalContext>,
    pub(super) parent_id: Option<String>,
    pub(super) root: bool,
    pub(super) ttl: Option<Duration>,
    pub(super) metadata: Map<String, Value>,
    pub(super) trace_id: Option<TraceId>,
    pub(super) record: Option<String>,
    pub(super) key: Option<String>,
    pub(super) inherit_edge: Option<String>,
    /// Opened by the client itself, for calls: the start hooks are not called.
    pub(super) quiet: bool,
}

/// A start that is checked as far as that is possible before any request.
struct Checked {
    options: Options,
    service: bool,
    ttl: Option<u64>,
    key: IdempotencyKey,
    origin: Origin,
}

/// A session, and the context it acts in.
pub(super) type Started = (Guard, CaracalContext);

#[derive(Deserialize)]
pub(super) struct Answered {
    pub(super) agent_session_id: String,
    delegation_edge_id: Option<String>,
    #[serde(skip)]
    replayed: bool,
    #[serde(flatten)]
    lease: Told,
}

pub(super) fn read_task(answer: &Answer) -> Result<Answered, &'static str> {
    let mut answered: Answered =
        serde_json::from_slice(&answer.body).map_err(|_| "its body is no session")?;
    let ids = [Some(&answered.agent_session_id), answered.delegation_edge_id.as_ref()];
    if ids.into_iter().flatten().any(|id| check_id("", id).is_err()) {
        return Err("it names no session");
    }
    answered.replayed = answer.is_replay();
    Ok(answered)
}

fn read_service(answer: &Answer) -> Result<Answered, &'static str> {
    match read_task(answer)? {
        answered if answered.lease.lease_generation >= 1 => Ok(answered),
        _ => Err("it gives no lease"),
    }
}

impl Options {
    fn check(self, client: &Caracal, service: bool) -> Result<Checked, CaracalError> {
        let key = match &self.key {
            Some(key) => IdempotencyKey::of_caller(key)?,
            None => IdempotencyKey::generate(),
        };
        let ttl = if service { None } else { self.ttl.or(client.default_ttl()) };
        let ttl = ttl.map(|ttl| whole_seconds("ttl", ttl)).transpose()?;
        let length = |label: &String| label.trim().encode_utf16().count();
        if self.labels.len() > 32
            || self.labels.iter().any(|label| !(1..=64).contains(&length(label)))
        {
            return Err(CaracalError::usage(
                "invalid_labels",
                "at most 32 labels, each of 1 to 64 characters",
            ));
        }
        for (what, id) in [
            ("parent_id", &self.parent_id),
            ("authority_record", &self.record),
            ("inherit_parent_edge", &self.inherit_edge),
        ] {
            id.as_deref().map_or(Ok(()), |id| check_id(what, id))?;
        }
        self.grant.check()?;
        let mut origin = self.origin()?;
        if let Some((zone, application)) = client.fixed_identity() {
            origin.keep_own(zone, application)?;
        }
        if let Granted::Narrow(scope) = &self.grant.0 {
            if origin.session.is_none() {
                return Err(CaracalError::usage(
                    "parent_required",
                    "Grant::narrow gives a part of a parent's authority: start it within a session of \
                     spawn() or spawn_service(), or name one with .parent(..)",
                ));
            }
            super::edges::depth(&origin, scope.constraints.hops())?;
            scope.check_key(self.key.as_deref(), &origin)?;
        }
        if self.inherit_edge.is_some() && !matches!(self.grant.0, Granted::Inherit) {
            return Err(CaracalError::usage(
                "invalid_grant",
                "inherit_parent_edge says what is inherited, and this grant inherits nothing",
            ));
        }
        Ok(Checked { service, ttl, key, origin, options: self })
    }

    /// The parent session, and what travels on.
    fn origin(&self) -> Result<Origin, CaracalError> {
        if self.root && (self.parent.is_some() || self.parent_id.is_some()) {
            return Err(CaracalError::usage("parent_conflict", "a root session has no parent"));
        }
        if let Some(parent) = &self.parent {
            // That one was meant as a parent; a bound one merely is there.
            Origin::of(Some(parent.clone())).session()?;
        }
        let bound = Origin::of(self.parent.clone());
        if self.root {
            return Ok(Origin { carry: bound.carry, context: bound.context, ..Origin::default() });
        }
        match (&self.parent_id, &bound.session) {
            (None, _) => Ok(bound),
            (Some(id), Some(session)) if id == session => Ok(bound),
            (Some(_), Some(_)) => Err(CaracalError::usage(
                "parent_conflict",
                "parent_id is not the session of the bound context; leave one of them out",
            )),
            (Some(id), None) => Ok(Origin {
                session: Some(id.clone()),
                carry: bound.carry,
                context: bound.context,
                ..Origin::default()
            }),
        }
    }

    /// Starts a session. From the first byte that is done in a task of its own: who gives up waiting
    /// for it gets it ended.
    pub(super) async fn start(
        self,
        client: &Caracal,
        service: bool,
    ) -> Result<Started, CaracalError> {
        let _begun = client.enter()?;
        let mut checked = self.check(client, service)?;
        let token = client.tokens().lifecycle().await?;
        checked.origin.keep_own(&token.zone, &token.application)?;
        let planned = match (&checked.options.grant.0, &checked.origin.session) {
            (Granted::Narrow(scope), Some(source)) => {
                Some(client.plan_edge(&checked.origin, source, scope).await?)
            }
            _ => None,
        };
        client.check_open()?;
        let given_up = CancellationToken::new();
        let _waiting = given_up.clone().drop_guard();
        let runtime = client.clone();
        let client = client.clone();
        let establish = async move { checked.establish(client, token, planned, &given_up).await };
        runtime.detached(establish).await
    }
}

/// Tells of a session that may have been started though no answer says so.
struct Witness<'a> {
    client: &'a Caracal,
    service: bool,
    armed: bool,
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if self.armed {
            let error =
                CaracalError::usage("start_unknown", "no answer says whether it was started");
            self.client.left_behind(None, self.service, error);
        }
    }
}

impl Checked {
    async fn establish(
        self,
        client: Caracal,
        token: Token,
        planned: Option<Planned>,
        given_up: &CancellationToken,
    ) -> Result<Started, CaracalError> {
        let carry = self.origin.carry(self.options.trace_id);
        let trace = self.context(&token, "", None, carry.clone());
        let call = Call::new("start a session", Method::POST, "/agents".to_owned())
            .body(self.body(&token))
            .start_key(&self.key)
            .retries(2)
            .trace(Some(&trace));
        let read = if self.service { read_service } else { read_task };
        let mut witness = Witness { client: &client, service: self.service, armed: true };
        let sent = client.coordinator().send_with(token.clone(), call, read).await;
        let uncertain = |error: &CaracalError| sent.uncertain || is_uncertain(error);
        witness.armed = sent.result.as_ref().is_err_and(uncertain);
        drop(witness);
        let mut answered = sent.result?;
        let earlier = answered.replayed && !sent.uncertain;
        let id = answered.agent_session_id;
        if self.service && earlier {
            // The answer is the first one, and its lease may be somebody else's by now.
            let call =
                Call::new("take a service over", Method::POST, format!("/agents/{id}/lease"));
            let call = call.retries(2).trace(Some(&trace));
            answered.lease = client.coordinator().send(call, read_lease).await.result?;
        }
        let lease = self.service.then(|| Lease::new(&answered.lease));
        let guard = Guard::new(Live::new(client.clone(), id.clone(), trace.clone(), lease));

        if given_up.is_cancelled() {
            guard.leave().await?;
            return Err(nobody_waits());
        }
        let mut edge = answered.delegation_edge_id.map(|edge| (edge, self.mirrored()));
        if let Some(planned) = planned {
            let parties = (&*token.application, &*token.application);
            // With a key of the caller's, what is repeated is all of it.
            let key = match self.options.key {
                Some(_) => self.key.clone(),
                None => IdempotencyKey::generate(),
            };
            let made = client.make_edge(planned, Some(&trace), parties, &id, &key, None).await;
            match made {
                Ok(made) if made.descends => edge = Some((made.id, made.held)),
                // It was there before, and goes on.
                Err(error) if earlier => {
                    guard.release();
                    return Err(error);
                }
                // What was made ends with the child.
                Err(error) => {
                    let _told = guard.leave().await;
                    return Err(error);
                }
                Ok(made) => {
                    let undone = guard.leave().await;
                    return Err(chain_lost(undone.map_err(|_| &*made.id)));
                }
            }
        }
        if given_up.is_cancelled() {
            guard.leave().await?;
            return Err(nobody_waits());
        }
        let context = self.context(&token, &id, edge, carry);
        if self.options.quiet {
            return Ok((guard, context));
        }
        if let Err(error) = client.call_hooks(Phase::Start, &context, &id).await {
            let _told = guard.leave().await;
            return Err(error);
        }
        guard.live().start(&context);
        let is_root = self.origin.session.is_none();
        if is_root && matches!(self.options.grant.0, Granted::Inherit) {
            client.add_root(&id, self.options.labels);
        }
        Ok((guard, context))
    }

    fn body(&self, token: &Token) -> Map<String, Value> {
        let options = &self.options;
        let inherits = matches!(options.grant.0, Granted::Inherit);
        // A session may hold several; this is the one whose authority is carried on here.
        let accepted = self.origin.held.as_ref().is_some_and(|held| held.accepted);
        let carried = self.origin.edge.as_ref().filter(|_| inherits && accepted);
        let inherit_edge = options.inherit_edge.as_ref().or(carried);
        let members: BTreeMap<&str, Option<Value>> = BTreeMap::from([
            ("application_id", Some(json!(&*token.application))),
            ("parent_authority", Some(json!(if inherits { "inherit" } else { "none" }))),
            ("lifecycle", self.service.then(|| json!("service"))),
            ("parent_id", self.origin.session.as_ref().map(|id| json!(id))),
            ("labels", (!options.labels.is_empty()).then(|| json!(options.labels))),
            ("ttl_seconds", self.ttl.map(Value::from)),
            ("metadata", (!options.metadata.is_empty()).then(|| json!(options.metadata))),
            (RECORD, options.record.as_ref().map(|record| json!(record))),
            ("inherit_parent_edge_id", inherit_edge.map(|edge| json!(edge))),
        ]);
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The delegation of a child that inherits: a copy of its parent's, one deeper.
    fn mirrored(&self) -> HeldEdge {
        let held = self.origin.held.as_ref();
        let made = held.and_then(|held| held.made);
        let deeper = |made: MadeEdge| MadeEdge { depth: made.depth.map(|depth| depth + 1), ..made };
        let same =
            self.options.inherit_edge.is_none() || self.options.inherit_edge == self.origin.edge;
        let scopes = held.filter(|_| same).and_then(|held| held.scopes.clone());
        HeldEdge { scopes, accepted: false, made: made.filter(|_| same).map(deeper) }
    }

    fn context(
        &self,
        token: &Token,
        session: &str,
        edge: Option<(String, HeldEdge)>,
        carry: Envelope,
    ) -> CaracalContext {
        let origin = &self.origin;
        let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
        let (edge, held) = edge.unzip();
        let own_identity = Own {
            attribution: Attribution {
                zone: Box::from(&*token.zone),
                application: Box::from(&*token.application),
                agent_session_id: Some(session).filter(|id| !id.is_empty()).map(Box::from),
                hop: origin.hop.saturating_add(u32::from(edge.is_some())),
                delegation_edge_id: boxed(&edge),
                parent_edge_id: boxed(&origin.edge),
                authority_record_id: boxed(&self.options.record).or_else(|| boxed(&origin.record)),
            },
            edge: held,
        };
        own(own_identity, carry)
    }
}
