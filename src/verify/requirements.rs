//! What an authority must hold: one check for verifiers and for routes.

use crate::{Denial, Proof, Reason};

/// Owned copies of what a builder was given.
pub(crate) fn strings<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Vec<Box<str>> {
    entries.into_iter().map(|entry| entry.as_ref().into()).collect()
}

/// Requirements on a proof. More of them can only refuse more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requirements {
    pub(crate) scopes: Vec<Box<str>>,
    pub(crate) targets: Vec<Box<str>>,
    pub(crate) session: bool,
    pub(crate) delegation: bool,
    pub(crate) max_hops: Option<u32>,
    pub(crate) chain: Vec<Box<str>>,
}

impl Requirements {
    /// Checks in the order of the Go verifier, which decides the code where several fail.
    ///
    /// A missing target is `invalid_token`, as everywhere in Caracal.
    pub(crate) fn check(&self, proof: &Proof) -> Result<(), Denial> {
        if let Some(missing) = self.scopes.iter().find(|scope| !proof.has_scope(scope)) {
            return Err(Denial::insufficient_scope(missing, &self.scopes));
        }
        if !self.targets.iter().all(|target| proof.targets().any(|held| held == &**target)) {
            return Err(Denial::invalid_token(Reason::TargetMissing));
        }
        if self.session && proof.agent_session_id().is_none() {
            return Err(Denial::session_required());
        }
        if self.delegation && proof.delegation_edge_id().is_none() {
            return Err(Denial::delegation_required());
        }
        if self.max_hops.is_some_and(|max| proof.hop() > max) {
            return Err(Denial::hop_count_exceeded());
        }
        match self.chain.iter().find(|application| !proof.chain_contains(application)) {
            Some(missing) => Err(Denial::chain_mismatch(missing)),
            None => Ok(()),
        }
    }

    /// Both: lists are joined, the lower hop limit counts.
    pub(crate) fn and(&mut self, other: Self) {
        for (mine, theirs) in [
            (&mut self.scopes, other.scopes),
            (&mut self.targets, other.targets),
            (&mut self.chain, other.chain),
        ] {
            for entry in theirs {
                if !mine.contains(&entry) {
                    mine.push(entry);
                }
            }
        }
        self.session |= other.session;
        self.delegation |= other.delegation;
        self.max_hops = match (self.max_hops, other.max_hops) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DenialCode;

    fn list(entries: &[&str]) -> Vec<Box<str>> {
        entries.iter().map(|entry| Box::from(*entry)).collect()
    }

    fn code(requirements: &Requirements, proof: &Proof) -> Option<DenialCode> {
        requirements.check(proof).err().map(|denial| denial.code())
    }

    #[test]
    fn the_order_decides_the_code() {
        let mut requirements = Requirements {
            scopes: list(&["s"]),
            targets: list(&["t"]),
            session: true,
            delegation: true,
            max_hops: Some(1),
            chain: list(&["c"]),
        };
        let bare = Proof::builder("z", "a", 1).hop(2).build();
        let mut seen = Vec::new();
        let mut next = |requirements: &Requirements| seen.push(code(requirements, &bare).unwrap());
        next(&requirements);
        requirements.scopes.clear();
        next(&requirements);
        requirements.targets.clear();
        next(&requirements);
        requirements.session = false;
        next(&requirements);
        requirements.delegation = false;
        next(&requirements);
        requirements.max_hops = None;
        next(&requirements);
        assert_eq!(
            seen,
            [
                DenialCode::InsufficientScope,
                DenialCode::InvalidToken,
                DenialCode::SessionRequired,
                DenialCode::DelegationRequired,
                DenialCode::HopCountExceeded,
                DenialCode::ChainMismatch,
            ]
        );
        requirements.chain.clear();
        assert_eq!(code(&requirements, &bare), None);
    }

    #[test]
    fn a_scope_is_a_whole_word_in_its_case() {
        let proof = Proof::builder("z", "a", 1).scopes(["tickets:read", "tickets:*"]).build();
        for (scope, held) in [
            ("tickets:read", true),
            ("tickets:write", false),
            ("tickets", false),
            ("Tickets:read", false),
            ("tickets:read tickets:*", false),
            ("", false),
        ] {
            let requirements = Requirements { scopes: list(&[scope]), ..Requirements::default() };
            assert_eq!(requirements.check(&proof).is_ok(), held, "{scope:?}");
        }
    }

    #[test]
    fn the_acting_application_is_not_of_the_chain() {
        let proof = Proof::builder("z", "app", 1).build();
        let requirements = Requirements { chain: list(&["app"]), ..Requirements::default() };
        assert_eq!(code(&requirements, &proof), Some(DenialCode::ChainMismatch));
    }

    fn any_requirements() -> impl Strategy<Value = Requirements> {
        let lists = || proptest::collection::vec("[ab]".prop_map(String::into_boxed_str), 0..3);
        (lists(), lists(), any::<bool>(), any::<bool>(), proptest::option::of(0u32..4)).prop_map(
            |(scopes, targets, session, delegation, max_hops)| Requirements {
                scopes,
                targets,
                session,
                delegation,
                max_hops,
                chain: Vec::new(),
            },
        )
    }

    proptest! {
        /// Adding a requirement never lets in what was refused before, in whatever order.
        #[test]
        fn and_is_intersection(
            one in any_requirements(),
            two in any_requirements(),
            scopes in proptest::collection::vec("[ab]", 0..3),
            targets in proptest::collection::vec("[ab]", 0..3),
            session in "[s]?",
            edge in "[e]?",
            hop in 0u32..4,
        ) {
            let proof = Proof::builder("z", "a", 1)
                .scopes(scopes)
                .targets(targets)
                .agent_session_id(session)
                .delegation_edge_id(edge)
                .hop(hop)
                .build();
            let both = one.check(&proof).is_ok() && two.check(&proof).is_ok();
            let mut joined = one.clone();
            joined.and(two.clone());
            prop_assert_eq!(joined.check(&proof).is_ok(), both);
            let mut reversed = two;
            reversed.and(one);
            prop_assert_eq!(reversed.check(&proof).is_ok(), both);
        }
    }
}
