//! The verified claims of a mandate, by their wire names.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::Proof;

/// The verified claims of the request's mandate; as a handler argument, those of the request.
///
/// Serializes with the wire names; absent ids are `null`, an absent scope or list is empty, and an
/// absent `hop_count` or `delegation_graph_epoch` is 0.
#[derive(Debug, Clone)]
pub struct Mandate {
    proof: Proof,
    claims: Arc<MandateClaims>,
}

/// What only a mandate says, beside what every [`Proof`] does.
#[derive(Debug)]
pub(crate) struct MandateClaims {
    pub(crate) jti: Box<str>,
    pub(crate) sub: Box<str>,
    pub(crate) sub_type: &'static str,
    pub(crate) token_use: TokenUse,
    pub(crate) iat: u64,
    pub(crate) source_session_id: Option<Box<str>>,
    pub(crate) target_session_id: Option<Box<str>>,
    pub(crate) delegation_path: Vec<Box<str>>,
}

/// What a mandate is for: its `use` claim. One-shot gateway mandates are never accepted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenUse {
    /// Calls to a resource server.
    Resource,
    /// Lifecycle operations of the application itself.
    Session,
}

impl TokenUse {
    /// The wire form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Session => "session",
        }
    }

    /// The use of that wire form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Resource, Self::Session].into_iter().find(|token_use| token_use.as_str() == text)
    }
}

/// One application of a delegation chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainLink {
    application_id: Box<str>,
    agent_session_id: Option<Box<str>>,
    delegation_edge_id: Option<Box<str>>,
}

impl ChainLink {
    /// An application, its agent session, and the edge it gave its authority on by.
    #[must_use]
    pub fn new(
        application_id: impl Into<Box<str>>,
        agent_session_id: Option<Box<str>>,
        delegation_edge_id: Option<Box<str>>,
    ) -> Self {
        Self { application_id: application_id.into(), agent_session_id, delegation_edge_id }
    }

    /// The application.
    #[must_use]
    pub fn application_id(&self) -> &str {
        &self.application_id
    }

    /// Its agent session.
    #[must_use]
    pub fn agent_session_id(&self) -> Option<&str> {
        self.agent_session_id.as_deref()
    }

    /// The edge it gave its authority on by; the last application of a chain has none.
    #[must_use]
    pub fn delegation_edge_id(&self) -> Option<&str> {
        self.delegation_edge_id.as_deref()
    }
}

impl Mandate {
    pub(super) fn new(proof: Proof, claims: Arc<MandateClaims>) -> Self {
        Self { proof, claims }
    }

    /// The proof behind the claims.
    #[must_use]
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// `jti`.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.claims.jti
    }

    /// `sub`: the application, or the user it acts for.
    #[must_use]
    pub fn sub(&self) -> &str {
        &self.claims.sub
    }

    /// `sub_type`: `user` or `application`.
    #[must_use]
    pub fn sub_type(&self) -> &str {
        self.claims.sub_type
    }

    /// `use`.
    #[must_use]
    pub fn token_use(&self) -> TokenUse {
        self.claims.token_use
    }

    /// `iat`, in Unix seconds.
    #[must_use]
    pub fn iat(&self) -> u64 {
        self.claims.iat
    }

    /// `source_session_id`: who gave the presented edge.
    #[must_use]
    pub fn source_session_id(&self) -> Option<&str> {
        self.claims.source_session_id.as_deref()
    }

    /// `target_session_id`: who received it.
    #[must_use]
    pub fn target_session_id(&self) -> Option<&str> {
        self.claims.target_session_id.as_deref()
    }

    /// `delegation_path`: edges from the origin to the one presented.
    pub fn delegation_path(&self) -> impl Iterator<Item = &str> {
        self.claims.delegation_path.iter().map(|id| &**id)
    }

    /// `delegation_chain`: applications from the origin to the receiver.
    #[must_use]
    pub fn delegation_chain(&self) -> &[ChainLink] {
        self.proof.delegation_chain()
    }
}

impl Serialize for Mandate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let proof = &self.proof;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("sub", self.sub())?;
        map.serialize_entry("zone_id", proof.zone_id())?;
        map.serialize_entry("client_id", proof.application_id())?;
        map.serialize_entry("sid", &proof.authority_record_id())?;
        map.serialize_entry("root_sid", &proof.root_authority_record_id())?;
        map.serialize_entry("use", &self.token_use())?;
        map.serialize_entry("sub_type", self.sub_type())?;
        map.serialize_entry("jti", self.jti())?;
        map.serialize_entry("iat", &self.iat())?;
        map.serialize_entry("exp", &proof.expires_at())?;
        map.serialize_entry("scope", proof.scope_text().unwrap_or_default())?;
        map.serialize_entry("target", &proof.targets().collect::<Vec<_>>())?;
        map.serialize_entry("agent_session_id", &proof.agent_session_id())?;
        map.serialize_entry("delegation_edge_id", &proof.delegation_edge_id())?;
        map.serialize_entry("source_session_id", &self.source_session_id())?;
        map.serialize_entry("target_session_id", &self.target_session_id())?;
        map.serialize_entry("delegation_path", &self.delegation_path().collect::<Vec<_>>())?;
        map.serialize_entry("delegation_chain", self.delegation_chain())?;
        map.serialize_entry("delegation_graph_epoch", &proof.delegation_epoch().unwrap_or(0))?;
        map.serialize_entry("hop_count", &proof.hop())?;
        map.end()
    }
}
