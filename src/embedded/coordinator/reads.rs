//! Reading sessions and delegations (outbound contract §3.8–3.9).

use std::{borrow::Cow, collections::BTreeSet};

use serde_json::{Value, json};

use super::{
    Answer, Call,
    refusal::{self, Refusal, refuse_if},
};
use crate::embedded::{session::Session, zone::Edge};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 500;

/// The parameters of a query. Unknown ones are ignored; one that is known may stand once.
pub(super) struct Query<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> Query<'q> {
    pub(super) fn read(query: Option<&'q str>) -> Self {
        Self(url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// A text of 1 to `longest` characters, or nothing.
    pub(super) fn text(&self, name: &str, longest: usize) -> Result<Option<&str>, Refusal> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value);
        let Some(value) = values.next() else { return Ok(None) };
        let fits = (1..=longest).contains(&value.encode_utf16().count());
        refuse_if(!fits || values.next().is_some(), refusal::INVALID_QUERY)?;
        Ok(Some(value))
    }

    /// One of some words, or nothing.
    fn word(&self, name: &str, words: &[&str]) -> Result<Option<&str>, Refusal> {
        let word = self.text(name, usize::MAX)?;
        refuse_if(word.is_some_and(|word| !words.contains(&word)), refusal::INVALID_QUERY)?;
        Ok(word)
    }

    /// A page of `items`, which come newest first: of those after the cursor the ones that are
    /// `wanted`, as many as the limit says. The cursor of the next is the last id of a full page,
    /// whether anything follows or not.
    fn page<'i, T: 'i>(
        &self,
        mut items: impl Iterator<Item = &'i T>,
        wanted: impl Fn(&T) -> bool,
        id: impl Fn(&T) -> &str,
        json: impl Fn(&T) -> Value,
    ) -> Result<Answer, Refusal> {
        let limit = match self.text("limit", usize::MAX)? {
            None => DEFAULT_LIMIT,
            Some(text) => text.parse().map_err(|_| refusal::INVALID_QUERY)?,
        };
        refuse_if(!(1..=MAX_LIMIT).contains(&limit), refusal::INVALID_QUERY)?;
        if let Some(cursor) = self.text("cursor", usize::MAX)? {
            items.find(|item| id(item) == cursor).ok_or(refusal::INVALID_CURSOR)?;
        }
        let page: Vec<_> = items.filter(|item| wanted(item)).take(limit).collect();
        let next = page.last().filter(|_| page.len() == limit).map(|item| id(item));
        let items: Vec<_> = page.iter().map(|item| json(item)).collect();
        Ok(Answer::ok(json!({ "items": items, "next_cursor": next })))
    }
}

impl Call<'_> {
    fn query(&self) -> Query<'_> {
        Query::read(self.head.uri.query())
    }

    pub(super) fn sessions(self) -> Result<Answer, Refusal> {
        let query = self.query();
        let statuses = ["active", "suspended", "terminated", "expired"];
        let status = query.word("status", &statuses)?;
        let lifecycle = query.word("lifecycle", &["task", "service"])?;
        let application = query.text("application_id", usize::MAX)?;
        let label = query.text("label", usize::MAX)?;
        let wanted = |session: &Session| {
            status.is_none_or(|status| session.status.name() == status)
                && lifecycle.is_none_or(|lifecycle| session.lifecycle_name() == lifecycle)
                && application.is_none_or(|application| session.application == application)
                && label.is_none_or(|label| session.labels.iter().any(|one| one == label))
        };
        let json = |session: &Session| session.detail_json(self.zone_id);
        query.page(self.zone.sessions.values().rev(), wanted, |session| &session.id, json)
    }

    pub(super) fn session(self, id: &str) -> Result<Answer, Refusal> {
        let session = self.zone.sessions.get(id).ok_or(refusal::SESSION_NOT_FOUND)?;
        Ok(Answer::ok(session.detail_json(self.zone_id)))
    }

    pub(super) fn children(self, id: &str) -> Result<Answer, Refusal> {
        let is_child = |session: &&Session| session.parent.as_deref() == Some(id);
        let children = self.zone.sessions.values().rev().filter(is_child);
        let json = |session: &Session| session.child_json(self.zone_id);
        self.query().page(children, |_| true, |session| &session.id, json)
    }

    /// Whether a session is the caller's. Whose it is otherwise is not told.
    fn is_own(&self, session: &str) -> Result<(), Refusal> {
        self.own(session).map(drop).map_err(|_| refusal::SESSION_NOT_FOUND)
    }

    /// The edges that reach or leave a session, revoked and lapsed ones too.
    pub(super) fn edges_of(
        self,
        session: &str,
        end: impl Fn(&Edge) -> &String,
    ) -> Result<Answer, Refusal> {
        let query = self.query();
        let edges = self.zone.edges.values().rev().filter(|edge| end(edge) == session);
        // A wrong query answers before an unknown session.
        let page = query.page(edges, |_| true, |edge| &edge.id, |edge| edge.json(self.zone_id));
        match page {
            Err(refusal) if refusal == refusal::INVALID_QUERY => Err(refusal),
            page => self.is_own(session).and(page),
        }
    }

    pub(super) fn inbound_edge(self, session: &str, id: &str) -> Result<Answer, Refusal> {
        self.own(session).map_err(|_| refusal::DELEGATION_NOT_FOUND)?;
        let edge = self.zone.edges.get(id).filter(|edge| edge.target == session);
        let edge =
            edge.filter(|edge| edge.is_live(self.now)).ok_or(refusal::DELEGATION_NOT_FOUND)?;
        Ok(Answer::ok(json!({ "id": edge.id, "status": "active" })))
    }

    /// The edges in force that the caller gave or received.
    pub(super) fn active_edges(self) -> Result<Answer, Refusal> {
        let application = &self.caller.application;
        let edges = self.zone.edges.values().rev().filter(|edge| {
            edge.is_live(self.now) && [&edge.issuer, &edge.receiver].contains(&application)
        });
        let json = |edge: &Edge| {
            let mut json = edge.json(self.zone_id);
            if let Some(members) = json.as_object_mut() {
                members.insert("broad_reason".into(), edge.constraints.broad_reason().into());
            }
            json
        };
        self.query().page(edges, |_| true, |edge| &edge.id, json)
    }

    /// What a session holds by all edges in force: the scopes that they have in common, the
    /// resources of any.
    pub(super) fn authority(self, id: &str) -> Result<Answer, Refusal> {
        self.is_own(id)?;
        let edges = self.zone.live_inbound(id, self.now);
        let Some((first, others)) = edges.split_first() else {
            return Ok(Answer::ok(json!({
                "agent_session_id": id,
                "inbound_edges": [],
                "effective_scopes": [],
                "effective_resources": [],
                "effective_max_hops": 0,
                "effective_ttl_seconds": null,
                "earliest_expires_at": null,
            })));
        };
        let mut scopes: BTreeSet<&String> = first.scopes.iter().collect();
        for edge in others {
            let held: BTreeSet<_> = edge.scopes.iter().collect();
            scopes.retain(|scope| held.contains(scope));
        }
        let resource_ids: BTreeSet<_> =
            edges.iter().filter_map(|edge| edge.resource.as_ref()).collect();
        let resources: BTreeSet<_> =
            edges.iter().flat_map(|edge| edge.resources(self.known)).collect();
        Ok(Answer::ok(json!({
            "agent_session_id": id,
            "inbound_edges": edges.iter().map(|edge| &edge.id).collect::<Vec<_>>(),
            "effective_scopes": scopes,
            "effective_resource_ids": resource_ids,
            "effective_resources": resources,
            "effective_resource_constrained": true,
            "effective_max_hops": edges.iter().map(|edge| edge.constraints.max_hops()).min(),
            "effective_ttl_seconds":
                edges.iter().filter_map(|edge| edge.constraints.ttl_seconds()).min(),
            "earliest_expires_at": edges.iter().map(|edge| edge.expires).min().map(|end| end.text()),
        })))
    }
}
