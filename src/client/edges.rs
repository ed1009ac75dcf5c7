//! Making delegations.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Caracal, CaracalError,
    coordinator::{Call, IdempotencyKey, moment},
    grant::{LONGEST, Scope, whole_seconds},
    http::Answer,
    origin::{Origin, id_segment},
};
use crate::{
    CaracalContext,
    context::{HeldEdge, MadeEdge},
};

/// The ttl of a delegation from a session that holds none.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// The least that must be left of a delegation for another to be made from it without a ttl.
const LEAST_LEFT: Duration = Duration::from_secs(60);

/// A delegation that is about to be made, checked as far as that is possible before.
pub(super) struct Planned {
    body: Map<String, Value>,
    parent: Option<String>,
    scopes: Vec<String>,
    depth: Option<u32>,
    max_hops: u32,
    lives: Duration,
}

/// A delegation that was made.
pub(super) struct MadeDelegation {
    pub(super) id: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<Duration>,
    pub(super) held: HeldEdge,
    /// Whether it descends from the one it was made from. If not, the session that gives holds none
    /// any more, and counts as a root.
    pub(super) descends: bool,
}

#[derive(Deserialize)]
struct Created {
    delegation_edge_id: String,
    #[serde(default)]
    parent_edge_id: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    expires_at: Option<String>,
}

fn read_created(answer: &Answer) -> Result<Created, &'static str> {
    let created: Created =
        serde_json::from_slice(&answer.body).map_err(|_| "its body is no delegation")?;
    match super::origin::check_id("", &created.delegation_edge_id) {
        Ok(()) => Ok(created),
        Err(_) => Err("it names no delegation"),
    }
}

/// Depth of a delegation made from `origin`, where that is known, and whether anything can be
/// minted with it: the arithmetic of hops.
pub(super) fn depth(origin: &Origin, hops: u32) -> Result<Option<u32>, CaracalError> {
    if origin.edge.is_none() {
        return Ok(Some(1));
    }
    let made = origin.held.as_ref().and_then(|held| held.made);
    let Some((made, depth)) = made.and_then(|made| Some((made, made.depth? + 1))) else {
        return Ok(None);
    };
    let above = made.max_hops;
    if above >= 2 && hops < above && hops >= depth {
        return Ok(Some(depth));
    }
    let least = depth + 1;
    Err(CaracalError::usage(
        "max_hops_exhausted",
        if above < least {
            format!(
                "nothing could be minted at depth {depth}: the delegation it is given on from has \
                 max_hops {above}, and {least} is the least; give the first of n delegations \
                 max_hops 2n - 1, and each further one less"
            )
        } else {
            format!(
                "at depth {depth}, below max_hops {above}, max_hops is from {depth} to {}, and not \
                 {hops}",
                above - 1
            )
        },
    ))
}

impl Caracal {
    /// Plans a delegation from `origin`. Asks the Coordinator only where no ttl was given and the
    /// end of what the session holds is not known here.
    pub(super) async fn plan_edge(
        &self,
        origin: &Origin,
        source: &str,
        scope: &Scope,
    ) -> Result<Planned, CaracalError> {
        let max_hops = scope.constraints.hops();
        let depth = depth(origin, max_hops)?;
        let ttl = match scope.ttl.or(scope.constraints.ttl) {
            Some(ttl) => whole_seconds("ttl", ttl)?,
            None => self.default_edge_ttl(origin, source).await?,
        };
        let constraints = scope.constraints();
        let mut body = Map::new();
        body.insert("source_session_id".to_owned(), json!(source));
        body.insert("scopes".to_owned(), json!(scope.scopes));
        body.insert("ttl_seconds".to_owned(), json!(ttl));
        if let Some(parent) = &origin.edge {
            body.insert("parent_edge_id".to_owned(), json!(parent));
        }
        if let Some(resource) = &scope.resource {
            body.insert("resource_id".to_owned(), json!(resource));
        }
        if !constraints.is_empty() {
            body.insert("constraints".to_owned(), Value::Object(constraints));
        }
        let mut lives = scope.constraints.ttl.unwrap_or(Duration::from_secs(ttl));
        if let Some(until) = scope.constraints.expires_at.as_deref().and_then(moment) {
            // The ttl stays a limit for what is made below.
            lives = lives.min(until.saturating_sub(self.clock().unix_time()));
        }
        let (parent, scopes) = (origin.edge.clone(), scope.scopes.clone());
        Ok(Planned { body, parent, scopes, depth, max_hops, lives })
    }

    /// Nine tenths of what is left of the delegation that the session holds, for what is made later
    /// must end earlier; an hour where it holds none.
    async fn default_edge_ttl(&self, origin: &Origin, source: &str) -> Result<u64, CaracalError> {
        let Some(edge) = &origin.edge else { return Ok(DEFAULT_TTL.as_secs()) };
        let made = origin.held.as_ref().and_then(|held| held.made);
        let left = match made {
            Some(made) => made.ends.saturating_sub(self.clock().monotonic()),
            None => self.left_of(origin, source, edge).await?,
        };
        if left < LEAST_LEFT {
            return Err(CaracalError::usage(
                "delegation_ends",
                "less than a minute is left of the delegation that this session holds; name a ttl if \
                 that is enough",
            ));
        }
        Ok((left.saturating_mul(9).as_secs() / 10).min(LONGEST))
    }

    /// What is left of a delegation that was not made here.
    async fn left_of(
        &self,
        origin: &Origin,
        session: &str,
        edge: &str,
    ) -> Result<Duration, CaracalError> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Inbound>,
            next_cursor: Option<String>,
        }
        #[derive(Deserialize)]
        struct Inbound {
            id: String,
            expires_at: String,
            #[serde(default)]
            constraints_json: Map<String, Value>,
        }
        const ACTION: &str = "read what a session holds";
        let client = self.clone();
        let inbound =
            format!("/delegations/inbound/{}?limit=500", id_segment("a session", session)?);
        let mut path = inbound.clone();
        let mut seen = None;
        loop {
            let call = Call::new(ACTION, Method::GET, path).trace(origin.context.as_ref());
            let client = client.clone();
            let read = |answer: &Answer| {
                serde_json::from_slice(&answer.body).map_err(|_| "its body is no list")
            };
            let asking = async move { client.coordinator().send(call, read).await.result };
            let page: Page = self.detached(asking).await?;
            if let Some(found) = page.items.iter().find(|item| item.id == edge) {
                let ends = moment(&found.expires_at).unwrap_or_default();
                let left = ends.saturating_sub(self.clock().unix_time());
                let longest = found.constraints_json.get("ttl_seconds").and_then(Value::as_u64);
                return Ok(longest.map_or(left, |longest| left.min(Duration::from_secs(longest))));
            }
            match page.next_cursor {
                Some(cursor) if seen.as_ref() != Some(&cursor) => {
                    path = format!("{inbound}&cursor={}", id_segment("a cursor", &cursor)?);
                    seen = Some(cursor);
                }
                _ => {
                    return Err(CaracalError::usage(
                        "delegation_unknown",
                        "the delegation of this context is none that its session holds",
                    ));
                }
            }
        }
    }

    /// Makes a planned delegation.
    pub(super) async fn make_edge(
        &self,
        planned: Planned,
        trace: Option<&CaracalContext>,
        (issuer, receiver): (&str, &str),
        target: &str,
        key: &IdempotencyKey,
        audience: Option<&str>,
    ) -> Result<MadeDelegation, CaracalError> {
        let Planned { mut body, parent, scopes, depth, max_hops, lives } = planned;
        body.insert("issuer_application_id".to_owned(), json!(issuer));
        body.insert("receiver_application_id".to_owned(), json!(receiver));
        body.insert("target_session_id".to_owned(), json!(target));
        let ends = self.clock().monotonic().saturating_add(lives);
        let call = Call::new("make a delegation", Method::POST, "/delegations".to_owned())
            .body(body)
            .key(key)
            .retries(1)
            .trace(trace)
            .audience(audience);
        let created = self.coordinator().send(call, read_created).await.result?;
        // With a parent that was not known of, nothing is known of the depth.
        let depth = depth.filter(|_| parent == created.parent_edge_id);
        Ok(MadeDelegation {
            descends: parent.is_none() || parent == created.parent_edge_id,
            id: created.delegation_edge_id,
            scopes: created.scopes,
            expires_at: created.expires_at.as_deref().and_then(moment),
            held: HeldEdge {
                scopes: Some(scopes.into()),
                accepted: false,
                made: Some(MadeEdge { depth, max_hops, ends }),
            },
        })
    }
}

/// The delegation was made, and is not what it was meant to be.
pub(super) fn chain_lost(undone: Result<(), &str>) -> CaracalError {
    let outcome = match undone {
        Ok(()) => "which was undone".to_owned(),
        Err(id) => format!("which could not be undone: revoke {id}"),
    };
    CaracalError::usage(
        "delegation_chain_lost",
        format!(
            "the session that gives no longer holds the delegation of its context: the Coordinator \
             made a new root with more authority than that had, {outcome}; undoing it ends the \
             receiving session"
        ),
    )
}
