//! What a verifier proved.

use std::{fmt, sync::Arc};

use super::{ChainLink, Mandate, MandateClaims};
use crate::RevocationQuery;

/// The complete attribution of a request, proven: cheap to clone.
///
/// What a proof does not say is absent; nothing is filled in from headers. A
/// [`MandateVerifier`](crate::MandateVerifier) returns one for every good mandate; a verifier of
/// your own, and tests, build one:
///
/// ```
/// use caracal_axum::Proof;
///
/// let proof = Proof::builder("zone-1", "billing", 1_900_000_000)
///     .agent_session_id("session-7")
///     .scopes(["invoices:read"])
///     .build();
/// assert!(proof.has_scope("invoices:read"));
/// ```
#[derive(Clone)]
pub struct Proof(Arc<ProofInner>);

struct ProofInner {
    attribution: Attribution,
    root_authority_record_id: Option<Box<str>>,
    scope: Option<Box<str>>,
    targets: Vec<Box<str>>,
    expires_at: u64,
    delegation_epoch: Option<u64>,
    key_id: Option<Box<str>>,
    delegation_chain: Vec<ChainLink>,
    mandate: Option<Arc<MandateClaims>>,
}

/// Who acts, whether proven or only claimed.
#[derive(Clone, Default)]
pub(crate) struct Attribution {
    pub(crate) zone: Box<str>,
    pub(crate) application: Box<str>,
    pub(crate) agent_session_id: Option<Box<str>>,
    pub(crate) delegation_edge_id: Option<Box<str>>,
    pub(crate) parent_edge_id: Option<Box<str>>,
    pub(crate) authority_record_id: Option<Box<str>>,
    pub(crate) hop: u32,
}

impl Proof {
    /// A proof that `application` acts in `zone`, until `expires_at` in Unix seconds.
    pub fn builder(
        zone: impl Into<Box<str>>,
        application: impl Into<Box<str>>,
        expires_at: u64,
    ) -> ProofBuilder {
        ProofBuilder(ProofInner {
            attribution: Attribution {
                zone: zone.into(),
                application: application.into(),
                ..Attribution::default()
            },
            root_authority_record_id: None,
            scope: None,
            targets: Vec::new(),
            expires_at,
            delegation_epoch: None,
            key_id: None,
            delegation_chain: Vec::new(),
            mandate: None,
        })
    }

    pub(crate) fn attribution(&self) -> &Attribution {
        &self.0.attribution
    }

    /// The zone.
    #[must_use]
    pub fn zone_id(&self) -> &str {
        &self.0.attribution.zone
    }

    /// The application that acts.
    #[must_use]
    pub fn application_id(&self) -> &str {
        &self.0.attribution.application
    }

    /// The governed agent session.
    #[must_use]
    pub fn agent_session_id(&self) -> Option<&str> {
        self.0.attribution.agent_session_id.as_deref()
    }

    /// The delegation edge the authority came over.
    #[must_use]
    pub fn delegation_edge_id(&self) -> Option<&str> {
        self.0.attribution.delegation_edge_id.as_deref()
    }

    /// The edge above it.
    #[must_use]
    pub fn parent_edge_id(&self) -> Option<&str> {
        self.0.attribution.parent_edge_id.as_deref()
    }

    /// The authority record.
    #[must_use]
    pub fn authority_record_id(&self) -> Option<&str> {
        self.0.attribution.authority_record_id.as_deref()
    }

    /// The authority record at the root of the exchange.
    #[must_use]
    pub fn root_authority_record_id(&self) -> Option<&str> {
        self.0.root_authority_record_id.as_deref()
    }

    /// Over how many delegations the authority came.
    #[must_use]
    pub fn hop(&self) -> u32 {
        self.0.attribution.hop
    }

    /// The scopes held: the words of the scope text, split at Unicode whitespace.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope_text().unwrap_or_default().split_whitespace()
    }

    /// Whether exactly this scope is held.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|held| held == scope)
    }

    /// The scopes as one text, as the mandate carries them.
    #[must_use]
    pub fn scope_text(&self) -> Option<&str> {
        self.0.scope.as_deref()
    }

    /// The resources the authority is for.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.0.targets.iter().map(|target| &**target)
    }

    /// When the proof ends, in Unix seconds. At that second it is no longer good.
    #[must_use]
    pub fn expires_at(&self) -> u64 {
        self.0.expires_at
    }

    /// The delegation epoch the mandate was issued under.
    #[must_use]
    pub fn delegation_epoch(&self) -> Option<u64> {
        self.0.delegation_epoch
    }

    /// The `kid` of the key that signed.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// The `jti` of the mandate.
    #[must_use]
    pub fn jti(&self) -> Option<&str> {
        self.0.mandate.as_ref().map(|claims| &*claims.jti)
    }

    /// The claims of the mandate, where a mandate is what was proven.
    #[must_use]
    pub fn mandate(&self) -> Option<Mandate> {
        let claims = self.0.mandate.clone()?;
        Some(Mandate::new(self.clone(), claims))
    }

    /// The applications that the authority came through, from the origin to the one that acts.
    #[must_use]
    pub fn delegation_chain(&self) -> &[ChainLink] {
        &self.0.delegation_chain
    }

    /// Whether `application` is one of the delegation chain's. The acting application counts only
    /// when the chain names it.
    #[must_use]
    pub fn chain_contains(&self, application: &str) -> bool {
        self.delegation_chain().iter().any(|link| link.application_id() == application)
    }

    /// The anchors whose revocation ends this authority, and the zone of its epoch.
    #[must_use]
    pub fn revocation_query(&self) -> RevocationQuery<'_> {
        let attribution = &self.0.attribution;
        let anchors = [
            &attribution.authority_record_id,
            &self.0.root_authority_record_id,
            &attribution.agent_session_id,
            &attribution.delegation_edge_id,
        ];
        RevocationQuery::new(
            &attribution.zone,
            anchors.map(|anchor| anchor.as_deref().unwrap_or_default()),
        )
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("zone_id", &self.zone_id())
            .field("application_id", &self.application_id())
            .field("agent_session_id", &self.agent_session_id())
            .field("delegation_edge_id", &self.delegation_edge_id())
            .field("hop", &self.hop())
            .field("scope", &self.scope_text())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

/// Builder of a [`Proof`]. Empty ids are absent.
#[must_use]
pub struct ProofBuilder(ProofInner);

impl fmt::Debug for ProofBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofBuilder").finish_non_exhaustive()
    }
}

fn present(id: impl Into<Box<str>>) -> Option<Box<str>> {
    Some(id.into()).filter(|id| !id.is_empty())
}

impl ProofBuilder {
    /// The governed agent session.
    pub fn agent_session_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.0.attribution.agent_session_id = present(id);
        self
    }

    /// The delegation edge.
    pub fn delegation_edge_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.0.attribution.delegation_edge_id = present(id);
        self
    }

    /// The edge above it.
    pub fn parent_edge_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.0.attribution.parent_edge_id = present(id);
        self
    }

    /// The authority record.
    pub fn authority_record_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.0.attribution.authority_record_id = present(id);
        self
    }

    /// The authority record at the root.
    pub fn root_authority_record_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.0.root_authority_record_id = present(id);
        self
    }

    /// Over how many delegations the authority came.
    pub fn hop(mut self, hop: u32) -> Self {
        self.0.attribution.hop = hop;
        self
    }

    /// The scopes held. A scope with whitespace in it is several.
    pub fn scopes<S: AsRef<str>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        let mut text = String::new();
        for scope in scopes {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(scope.as_ref());
        }
        self.scope_text(text)
    }

    pub(crate) fn scope_text(mut self, scope: impl Into<Box<str>>) -> Self {
        self.0.scope = present(scope);
        self
    }

    /// The resources the authority is for.
    pub fn targets<S: Into<Box<str>>>(mut self, targets: impl IntoIterator<Item = S>) -> Self {
        self.0.targets = targets.into_iter().map(Into::into).collect();
        self
    }

    /// The delegation epoch the authority was granted under.
    pub fn delegation_epoch(mut self, epoch: u64) -> Self {
        self.0.delegation_epoch = Some(epoch);
        self
    }

    /// The applications that the authority came through, from the origin to the one that acts.
    pub fn delegation_chain(mut self, chain: impl IntoIterator<Item = ChainLink>) -> Self {
        self.0.delegation_chain = chain.into_iter().collect();
        self
    }

    /// The `kid` of the key that signed.
    pub fn key_id(mut self, kid: impl Into<Box<str>>) -> Self {
        self.0.key_id = present(kid);
        self
    }

    pub(crate) fn mandate(mut self, claims: MandateClaims) -> Self {
        self.0.mandate = Some(Arc::new(claims));
        self
    }

    /// The proof.
    #[must_use]
    pub fn build(self) -> Proof {
        Proof(Arc::new(self.0))
    }
}
