//! What the Gateway remembers: the mandates that it has seen, and what it knows of revocations.

use std::collections::{HashMap, HashSet};

use super::super::time::Time;

/// How often it reads anew from the database what has ended, counted from the start.
const SNAPSHOT_SECONDS: u64 = 30;

/// The ids of the mandates that were used, until they expire.
#[derive(Default)]
pub(in crate::embedded) struct UsedMandates(HashMap<String, Time>);

impl UsedMandates {
    /// Marks a mandate as used; whether that is its first use.
    pub(super) fn mark(&mut self, id: &str, expires: Time, now: Time) -> bool {
        if self.0.len().is_power_of_two() {
            self.0.retain(|_, expires| now < *expires);
        }
        self.0.insert(id.to_owned(), expires).is_none()
    }
}

/// The records, sessions and delegations of a zone that the Gateway knows to have ended: those of
/// its last snapshot, and what it heard on the stream since.
#[derive(Default)]
pub(in crate::embedded) struct KnownRevocations {
    anchors: HashSet<String>,
    loaded: Option<Time>,
}

impl KnownRevocations {
    /// The moment of the snapshot to load now, if one is due.
    pub(in crate::embedded) fn due(&self, now: Time, start: Time) -> Option<Time> {
        let last = now.last_tick(start, SNAPSHOT_SECONDS);
        self.loaded.is_none_or(|loaded| loaded < last).then_some(last)
    }

    /// Replaces what it knew, also what it knew from the stream alone.
    pub(in crate::embedded) fn load(&mut self, at: Time, ended: HashSet<String>) {
        (self.loaded, self.anchors) = (Some(at), ended);
    }

    /// Something came on the stream at a moment.
    pub(in crate::embedded) fn hear(&mut self, at: Time, anchors: &[String]) {
        if self.loaded.is_none_or(|loaded| loaded <= at) {
            self.anchors.extend(anchors.iter().cloned());
        }
    }

    pub(super) fn any(&self, anchors: &[String]) -> bool {
        anchors.iter().any(|anchor| self.anchors.contains(anchor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_takes_the_place_of_what_came_before() {
        let at = Time::from_seconds;
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut known = KnownRevocations::default();
        assert_eq!(known.due(at(1005), at(1000)), Some(at(1000)));
        known.load(at(1000), HashSet::new());
        assert_eq!(known.due(at(1029), at(1000)), None);
        known.hear(at(1010), &ids(&["a"]));
        assert!(known.any(&ids(&["b", "a"])) && !known.any(&ids(&["b"])));
        assert_eq!(known.due(at(1061), at(1000)), Some(at(1060)));
        known.load(at(1060), HashSet::from(["b".to_owned()]));
        known.hear(at(1059), &ids(&["c"]));
        assert!(known.any(&ids(&["b"])) && !known.any(&ids(&["a", "c"])));
    }

    #[test]
    fn a_mandate_is_used_once_and_forgotten_with_its_end() {
        let at = Time::from_seconds;
        let mut used = UsedMandates::default();
        assert!(used.mark("a", at(10), at(1)));
        assert!(!used.mark("a", at(10), at(2)));
        assert!(used.mark("b", at(10), at(3)));
        assert!(used.mark("c", at(90), at(11)), "the others are no more");
        assert_eq!(used.0.len(), 1);
    }
}
