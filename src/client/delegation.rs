//! Giving authority to another session, receiving it, and taking it back.

use std::{
    future::IntoFuture,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::{
    Caracal, CaracalError, ClientEvent, DelegationConstraints,
    claim::Claim,
    coordinator::{Call, IdempotencyKey},
    edges::chain_lost,
    grant::Scope,
    http::{Answer, is_transient},
    origin::{Origin, check_id, id_segment},
};
use crate::{
    CaracalContext,
    context::{Attribution, HeldEdge, Own, own},
};

/// A delegation to be made, when it is awaited; of [`Caracal::delegate`].
#[derive(Debug)]
#[must_use = "nothing is delegated before it is awaited"]
pub struct Delegate {
    client: Caracal,
    target: String,
    receiver: Option<String>,
    scope: Scope,
    context: Option<CaracalContext>,
    key: Option<String>,
}

/// A delegation that was made. It is the receiving session's to use: hand its id over, in a body or a
/// header of your own, and let that session [accept](Caracal::accept_delegation) it. Dropping this
/// changes nothing; it ends with its ttl, with either session, or when it is
/// [revoked](Caracal::revoke_delegation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    id: String,
    scopes: Vec<String>,
    expires_at: Option<SystemTime>,
}

impl Delegation {
    /// Its id, for the receiver.
    #[must_use]
    pub fn delegation_edge_id(&self) -> &str {
        &self.id
    }

    /// The scopes it gives.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// When it ends, by the clock of the Coordinator.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }
}

/// A delegation to be accepted, when it is awaited; of [`Caracal::accept_delegation`].
#[derive(Debug)]
#[must_use = "nothing is accepted before it is awaited"]
pub struct AcceptDelegation {
    client: Caracal,
    id: String,
    context: Option<CaracalContext>,
    validate: bool,
}

/// A delegation to be revoked, when it is awaited; of [`Caracal::revoke_delegation`].
#[derive(Debug)]
#[must_use = "nothing is revoked before it is awaited"]
pub struct RevokeDelegation {
    client: Caracal,
    id: String,
    context: Option<CaracalContext>,
}

/// What a revocation ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Revocation {
    /// The delegation and those made below it.
    pub revoked_edges: u64,
    /// The authority records of the receiving sessions.
    pub affected_sessions: u64,
    /// The sessions that were ended.
    pub terminated_sessions: u64,
}

impl Caracal {
    /// Gives a part of the bound session's authority to another session.
    ///
    /// The session that gives does not use the delegation: its own context stays as it is. If it no
    /// longer holds the delegation that its context names, the Coordinator makes a new root instead,
    /// with more authority than was meant: that is an error, and is undone by revoking it, which ends
    /// the receiving session.
    ///
    /// ```no_run
    /// # async fn example(caracal: caracal_axum::Caracal, peer: String) -> Result<(), caracal_axum::CaracalError> {
    /// let delegation = caracal
    ///     .delegate(peer)
    ///     .scopes(["tickets:read"])
    ///     .resource("resource://tickets")
    ///     .await?;
    /// println!("hand over {}", delegation.delegation_edge_id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn delegate(&self, to_session_id: impl Into<String>) -> Delegate {
        Delegate {
            client: self.clone(),
            target: to_session_id.into(),
            receiver: None,
            scope: Scope::default(),
            context: None,
            key: None,
        }
    }

    /// A context like the bound one, of its session and application, that acts under a delegation
    /// which that session received.
    pub fn accept_delegation(&self, delegation_edge_id: impl Into<String>) -> AcceptDelegation {
        let id = delegation_edge_id.into();
        AcceptDelegation { client: self.clone(), id, context: None, validate: false }
    }

    /// Takes a delegation back that this application made. **That ends the receiving session**, all
    /// sessions below it, and every other delegation to and from them, whoever made it. Nothing is
    /// minted any more under what was revoked; a resource mandate that was delivered before lasts
    /// until its `exp`, or until the receiver knows of the revocation.
    ///
    /// The lifecycle token that the receiving session was started with dies with it about a second
    /// later. Where that is this client's own, others of its sessions go on with a new one.
    pub fn revoke_delegation(&self, delegation_edge_id: impl Into<String>) -> RevokeDelegation {
        RevokeDelegation { client: self.clone(), id: delegation_edge_id.into(), context: None }
    }
}

impl Delegate {
    /// The application of the receiving session: this one unless set.
    pub fn to_application(mut self, id: impl Into<String>) -> Self {
        self.receiver = Some(id.into());
        self
    }

    /// The scopes to give.
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scope.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// The resource; or name several with [`DelegationConstraints::resources`].
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.scope.resource = Some(resource.into());
        self
    }

    /// How long it lasts, in whole seconds from 1 to 86,400: nine tenths of what is left of the
    /// giving session's own delegation unless set, or an hour where it has none.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.scope.ttl = Some(ttl);
        self
    }

    /// Further limits.
    pub fn constraints(mut self, constraints: DelegationConstraints) -> Self {
        self.scope.constraints = constraints;
        self
    }

    /// The context whose session gives; the bound one unless set.
    pub fn context(mut self, context: CaracalContext) -> Self {
        self.context = Some(context);
        self
    }

    /// A key that makes it repeatable; see [`Spawn::idempotency_key`](super::Spawn).
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    async fn make(self) -> Result<Delegation, CaracalError> {
        let Self { client, target, receiver, scope, context, key: idempotency } = self;
        let _begun = client.enter()?;
        check_id("the receiving session", &target)?;
        let key = idempotency
            .as_deref()
            .map_or_else(|| Ok(IdempotencyKey::generate()), IdempotencyKey::of_caller)?;
        scope.check()?;
        let origin = Origin::of(context);
        let source = origin.session()?.to_owned();
        scope.check_key(idempotency.as_deref(), &origin)?;
        client.check_fixed_owner(&origin)?;
        super::edges::depth(&origin, scope.constraints.hops())?;
        let token = client.tokens().lifecycle().await?;
        origin.belongs_to(&token.zone, &token.application)?;
        let planned = client.plan_edge(&origin, &source, &scope).await?;
        client.check_open()?;
        let runtime = client.clone();
        let making = async move {
            let issuer = &*token.application;
            let parties = (issuer, receiver.as_deref().unwrap_or(issuer));
            let trace = origin.context.as_ref();
            let made = client.make_edge(planned, trace, parties, &target, &key, None).await?;
            if !made.descends {
                let undone = client.revoke(&made.id, trace).await;
                return Err(chain_lost(undone.map(drop).map_err(|_| &*made.id)));
            }
            let expires_at = made.expires_at.and_then(|at| UNIX_EPOCH.checked_add(at));
            let made = Delegation { id: made.id, scopes: made.scopes, expires_at };
            let delegation_edge_id = made.id.clone();
            let lost =
                move || client.tell(&ClientEvent::DelegationUnclaimed { delegation_edge_id });
            Ok(Claim::new(made, lost))
        };
        runtime.detached(making).await.map(Claim::take)
    }
}

impl AcceptDelegation {
    /// The context whose session received it; the bound one unless set.
    pub fn context(mut self, context: CaracalContext) -> Self {
        self.context = Some(context);
        self
    }

    /// Asks the Coordinator first whether the session holds it, and it is alive. Otherwise the first
    /// mint tells.
    pub fn validate(mut self) -> Self {
        self.validate = true;
        self
    }

    async fn accept(self) -> Result<CaracalContext, CaracalError> {
        #[derive(Deserialize)]
        struct Inbound {
            status: String,
        }
        let Self { client, id, context, validate } = self;
        client.check_open()?;
        let edge = id_segment("the delegation", &id)?;
        let origin = Origin::of(context);
        let session = origin.session()?.to_owned();
        client.check_owner(&origin).await?;
        let owner = origin.owner.clone().unwrap_or_default();
        let mut accepted = Ok(());
        if validate {
            let path =
                format!("/delegations/inbound/{}/{edge}", id_segment("the session", &session)?);
            let call =
                Call::new("accept a delegation", Method::GET, path).trace(origin.context.as_ref());
            let asking = client.clone();
            let read = |answer: &Answer| {
                let inbound: Inbound = serde_json::from_slice(&answer.body)
                    .map_err(|_| "its body is no delegation")?;
                if inbound.status == "active" {
                    Ok(())
                } else {
                    Err("the delegation is not active")
                }
            };
            let asking = async move { asking.coordinator().send(call, read).await.result };
            accepted = client.detached(asking).await;
        }
        client.tell(&ClientEvent::DelegationAccept {
            ok: accepted.is_ok(),
            delegation_edge_id: id.clone(),
            agent_session_id: session.clone(),
        });
        accepted?;
        let attribution = Attribution {
            zone: owner.0.into(),
            application: owner.1.into(),
            agent_session_id: Some(session.into()),
            delegation_edge_id: Some(id.into()),
            parent_edge_id: origin.edge.as_deref().map(Box::from),
            authority_record_id: origin.record.as_deref().map(Box::from),
            hop: origin.hop.saturating_add(1),
        };
        let edge = Some(HeldEdge { accepted: true, ..HeldEdge::default() });
        Ok(own(Own { attribution, edge }, origin.carry(None)))
    }
}

impl RevokeDelegation {
    /// The context it is revoked in, for the trace; the bound one unless set.
    pub fn context(mut self, context: CaracalContext) -> Self {
        self.context = Some(context);
        self
    }

    async fn revoke(self) -> Result<Revocation, CaracalError> {
        let Self { client, id, context } = self;
        client.check_open()?;
        check_id("the delegation", &id)?;
        let origin = Origin::of(context);
        let runtime = client.clone();
        let revoking = async move { client.revoke(&id, origin.context.as_ref()).await };
        runtime.detached(revoking).await
    }
}

impl Caracal {
    /// Revokes, and keeps no token any longer that may die of it.
    async fn revoke(
        &self,
        id: &str,
        trace: Option<&CaracalContext>,
    ) -> Result<Revocation, CaracalError> {
        let path = format!("/delegations/{}/revoke", super::coordinator::segment(id));
        let call = Call::new("revoke a delegation", Method::PATCH, path).retries(2).trace(trace);
        let sent = self.coordinator().send(call, |answer| {
            serde_json::from_slice(&answer.body).map_err(|_| "its body is no revocation")
        });
        let sent = sent.await;
        // Whatever may have happened is taken to have.
        let refused = |error: &CaracalError| !sent.uncertain && !is_transient(error);
        if !sent.result.as_ref().is_err_and(refused) {
            self.tokens().forget();
        }
        match sent.result {
            // A try before this one did it, and its answer was lost.
            Err(error) if sent.uncertain && error.is_status(StatusCode::NOT_FOUND) => {
                Ok(Revocation::default())
            }
            result => result,
        }
    }
}

/// Builders that do what they are for when they are awaited.
macro_rules! awaited {
    ($($builder:ty => $method:ident -> $output:ty;)*) => {$(
        impl IntoFuture for $builder {
            type Output = Result<$output, CaracalError>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.$method())
            }
        }
    )*};
}
pub(super) use awaited;

awaited! {
    Delegate => make -> Delegation;
    AcceptDelegation => accept -> CaracalContext;
    RevokeDelegation => revoke -> Revocation;
}
