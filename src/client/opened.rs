//! Sessions that the client opens by itself, to call with.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;

use super::{
    Caracal, CaracalError,
    calling::{Purpose, mint},
    grant::{Grant, Granted, Scope},
    live::Guard,
    origin::Origin,
    start::Options,
    sts::Token,
};
use crate::CaracalContext;

/// What must be left of a delegation for it to be used again.
pub(super) const MARGIN: Duration = Duration::from_secs(60);
/// How long the delegation of a child is asked for.
const CHILD_TTL: Duration = Duration::from_secs(3600);

/// A session that holds a delegation, and whoever must live for it.
pub(super) struct Opened {
    /// The source first.
    pub(super) guards: Vec<Guard>,
    pub(super) context: CaracalContext,
    /// By the monotonic clock.
    pub(super) ends: Duration,
    /// Whether anything was minted with it: what is refused then has ended meanwhile.
    pub(super) minted: AtomicBool,
}

impl Opened {
    pub(super) fn new(guards: Vec<Guard>, context: CaracalContext, ends: Duration) -> Self {
        Self { guards, context, ends, minted: AtomicBool::new(false) }
    }

    pub(super) fn is_usable(&self, client: &Caracal) -> bool {
        self.ends.saturating_sub(client.clock().monotonic()) >= MARGIN
    }

    /// Mints with it. What is refused though it was granted before says that it has ended: nothing.
    pub(super) async fn mint(
        &self,
        client: &Caracal,
        purpose: Purpose<'_>,
    ) -> Result<Option<Token>, CaracalError> {
        let origin = Origin::of(Some(self.context.clone()));
        match mint(client, &origin, purpose).await {
            Ok(token) => {
                self.minted.store(true, Ordering::Relaxed);
                Ok(Some(token))
            }
            Err(error)
                if error.is_status(StatusCode::FORBIDDEN)
                    && error.code() == "access_denied"
                    && self.minted.load(Ordering::Relaxed) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves its sessions to end by themselves: they soon do, and a call may still be under way.
    pub(super) fn outlive(&self) {
        self.guards.iter().for_each(Guard::disarm);
    }
}

/// A session that was started as a root, and its children for calls: one for each resource.
pub(super) struct Root {
    labels: Vec<String>,
    children: Mutex<HashMap<String, Arc<Child>>>,
}

/// The child for a resource: opened by the first who needs it, for all.
type Child = tokio::sync::Mutex<Option<Arc<Opened>>>;

impl Root {
    pub(super) fn new(labels: Vec<String>) -> Self {
        Self { labels, children: Mutex::default() }
    }

    /// Mints in the child for a resource.
    pub(super) async fn mint(
        &self,
        client: &Caracal,
        context: &CaracalContext,
        purpose: &Purpose<'_>,
    ) -> Result<(Token, CaracalContext), CaracalError> {
        for _ in 0..2 {
            let child = self.child(client, context, purpose).await?;
            let purpose = Purpose { approval: purpose.approval.clone(), ..*purpose };
            let resource = purpose.resource;
            if let Some(token) = child.mint(client, purpose).await.map_err(|error| {
                let labels = self.labels_of(context).join(", ");
                error.explained(format!(
                    "the child that was opened for this call is labelled {labels}: one of its labels \
                     must name a role that is granted all of the scopes"
                ))
            })? {
                return Ok((token, child.context.clone()));
            }
            self.forget(resource, &child).await;
        }
        Err(CaracalError::usage(
            "session_ended",
            "the session that calls are made in has ended, or what it calls with is ended by somebody",
        ))
    }

    fn labels_of(&self, context: &CaracalContext) -> Vec<String> {
        match &*self.labels {
            [] => vec![context.application_id().to_owned()],
            labels => labels.to_vec(),
        }
    }

    fn cell(&self, resource: &str) -> Arc<Child> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(children.entry(resource.to_owned()).or_default())
    }

    async fn child(
        &self,
        client: &Caracal,
        context: &CaracalContext,
        purpose: &Purpose<'_>,
    ) -> Result<Arc<Opened>, CaracalError> {
        let cell = self.cell(purpose.resource);
        let mut child = cell.lock().await;
        if let Some(opened) = child.as_ref().filter(|opened| opened.is_usable(client)) {
            return Ok(Arc::clone(opened));
        }
        let ends = client.clock().monotonic().saturating_add(CHILD_TTL);
        let scope = Scope {
            scopes: purpose.scopes.to_vec(),
            resource: Some(purpose.resource.to_owned()),
            ttl: Some(CHILD_TTL),
            ..Scope::default()
        };
        let options = Options {
            labels: self.labels_of(context),
            grant: Grant(Granted::Narrow(Box::new(scope))),
            parent: Some(context.clone()),
            // No shorter than its delegation, whatever the client's default is.
            ttl: Some(CHILD_TTL),
            quiet: true,
            ..Options::default()
        };
        let (guard, context) = options.start(client, false).await?;
        let opened = Arc::new(Opened::new(vec![guard], context, ends));
        if let Some(former) = child.replace(Arc::clone(&opened)) {
            former.outlive();
        }
        Ok(opened)
    }

    async fn forget(&self, resource: &str, ended: &Arc<Opened>) {
        let cell = self.cell(resource);
        let mut child = cell.lock().await;
        if child.as_ref().is_some_and(|child| Arc::ptr_eq(child, ended)) {
            *child = None;
        }
    }

    /// The parent has ended, and all its children with it.
    pub(super) fn over(&self) {
        let children =
            std::mem::take(&mut *self.children.lock().unwrap_or_else(PoisonError::into_inner));
        for child in children.into_values().filter_map(|cell| cell.try_lock().ok()?.take()) {
            child.outlive();
        }
    }
}
