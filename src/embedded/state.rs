//! What an embedded Caracal remembers. All of it is in memory and gone with the process.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use tokio::sync::watch;
use uuid::Uuid;

use super::{
    approvals::Hold,
    gateway::UsedMandates,
    registry::Registry,
    time::{EmbeddedClock, Time},
    world::{Limits, World, WorldError, Zone as ZoneData},
    zone::{Publication, Zone},
};
use crate::MemoryRevocations;

/// Counters of failures and mints begin anew this long after their first hit.
const WINDOW_SECONDS: u64 = 60;

/// Failed secrets of one application in a window, before it is locked until the window ends.
const FAILED_SECRETS: u32 = 60;

pub(super) struct State {
    pub(super) registry: Registry,
    pub(super) limits: Limits,
    /// What resource servers have been told.
    pub(super) published: MemoryRevocations,
    /// The mandates that the Gateway has seen.
    pub(super) used_mandates: UsedMandates,
    /// Wakes whoever waits for the decision of a person.
    pub(super) decided: watch::Sender<()>,
    clock: EmbeddedClock,
    /// What sweeps count from.
    start: Time,
    last: Time,
    zones: HashMap<String, Zone>,
    failed_secrets: Counters<String>,
    /// The calendar minute, and how often each address has asked in it.
    requests: (u64, HashMap<IpAddr, u32>),
}

impl State {
    pub(super) fn new(world: World, clock: EmbeddedClock) -> Result<Self, WorldError> {
        world.limits.check()?;
        let start = Time::of(&clock);
        let mut state = Self {
            registry: Registry::default(),
            limits: world.limits,
            published: MemoryRevocations::builder().clock(clock.clone()).build(),
            used_mandates: UsedMandates::default(),
            decided: watch::Sender::new(()),
            clock,
            start,
            last: start,
            zones: HashMap::new(),
            failed_secrets: Counters::default(),
            requests: (0, HashMap::new()),
        };
        for zone in world.zones {
            state.add_zone(zone)?;
        }
        Ok(state)
    }

    pub(super) fn add_zone(&mut self, zone: ZoneData) -> Result<(), WorldError> {
        let id = zone.id.clone();
        self.registry.add_zone(zone)?;
        self.zones.insert(id, Zone::default());
        Ok(())
    }

    /// The moment at which a request is judged. What was due before it has happened.
    pub(super) fn now(&mut self) -> Time {
        self.last = Time::after(self.last, &self.clock);
        for (id, zone) in &mut self.zones {
            for told in zone.settle(self.last, self.start, &self.limits) {
                // A store that is full refuses everything from then on: nothing is let through.
                let _ = match told {
                    Publication::Epoch(epoch) => self.published.raise_epoch(id, epoch),
                    Publication::Revoked(anchors) => {
                        anchors.iter().try_for_each(|anchor| self.published.revoke(anchor))
                    }
                };
            }
        }
        self.last
    }

    pub(super) fn zone(&mut self, id: &str) -> Option<&mut Zone> {
        self.zones.get_mut(id)
    }

    /// A hold, which has an id of its own among all zones, with its zone.
    pub(super) fn hold(&self, id: Uuid) -> Option<(&str, &Hold)> {
        self.zones.iter().find_map(|(zone, known)| Some((zone.as_str(), known.holds.get(id)?)))
    }

    /// A zone's memory and its data side by side.
    pub(super) fn parts(&mut self, id: &str) -> Option<Parts<'_>> {
        let known = self.registry.zone(id)?;
        let zone = self.zones.get_mut(id)?;
        Some(Parts { zone, known, limits: &self.limits })
    }

    /// Counts a request to the Coordinator; whether it is one too many.
    pub(super) fn over_the_rate(&mut self, from: IpAddr, now: Time) -> bool {
        let minute = now.seconds() / 60;
        if self.requests.0 != minute {
            self.requests = (minute, HashMap::new());
        }
        let count = self.requests.1.entry(from).or_default();
        *count = count.saturating_add(1);
        *count > self.limits.requests_per_minute
    }

    /// Whether an application is locked for its failed secrets.
    pub(super) fn locked(&self, application: &str, now: Time) -> bool {
        self.failed_secrets.count(application, now) > FAILED_SECRETS
    }

    /// Counts a failed secret; whether that locks the application.
    pub(super) fn secret_failed(&mut self, application: &str, now: Time) -> bool {
        self.failed_secrets.hit(application.to_owned(), now) > FAILED_SECRETS
    }
}

pub(super) struct Parts<'a> {
    pub(super) zone: &'a mut Zone,
    pub(super) known: &'a super::registry::Registered,
    pub(super) limits: &'a Limits,
}

/// Fixed windows that begin with the first hit.
pub(super) struct Counters<K>(HashMap<K, (Time, u32)>);

impl<K> Default for Counters<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Counters<K> {
    pub(super) fn hit(&mut self, key: K, now: Time) -> u32 {
        if self.0.len().is_power_of_two() {
            self.0.retain(|_, (since, _)| now < since.plus_seconds(WINDOW_SECONDS));
        }
        let (since, count) = self.0.entry(key).or_insert((now, 0));
        if now >= since.plus_seconds(WINDOW_SECONDS) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count
    }

    fn count<Q: Hash + Eq + ?Sized>(&self, key: &Q, now: Time) -> u32
    where
        K: std::borrow::Borrow<Q>,
    {
        let live = |since: &Time| now < since.plus_seconds(WINDOW_SECONDS);
        self.0.get(key).filter(|(since, _)| live(since)).map_or(0, |(_, count)| *count)
    }
}

pub(super) fn new_id() -> String {
    Uuid::now_v7().to_string()
}
