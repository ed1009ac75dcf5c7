//! The lease of a service: who holds it, and until when.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;

use super::coordinator::moment;

/// What the Coordinator says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// It may act.
    Active,
    /// It may not, until an operator resumes it: its lease ran out, or somebody suspended it.
    Suspended,
    /// Something else.
    Other(String),
}

impl SessionState {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "suspended" => Self::Suspended,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The lease of a service session.
pub(super) struct Lease(Mutex<Held>);

struct Held {
    generation: u64,
    /// Since the Unix epoch.
    deadline: Option<Duration>,
    state: SessionState,
}

/// What an answer says of a lease.
#[derive(Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    pub(super) lease_generation: u64,
    heartbeat_deadline_at: Option<String>,
    status: Option<String>,
}

impl Lease {
    pub(super) fn new(told: &Told) -> Self {
        let state = told.status.as_deref().map_or(SessionState::Active, SessionState::parse);
        Self(Mutex::new(Held {
            generation: told.lease_generation,
            deadline: told.deadline(),
            state,
        }))
    }

    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.lock().deadline
    }

    pub(super) fn state(&self) -> SessionState {
        self.lock().state.clone()
    }

    /// Takes over what a heartbeat was answered with; whether the state is another now. A
    /// generation never goes back.
    pub(super) fn renew(&self, told: &Told) -> bool {
        let mut held = self.lock();
        held.generation = held.generation.max(told.lease_generation);
        held.deadline = told.deadline();
        let state = told.status.as_deref().map(SessionState::parse);
        match state {
            Some(state) if state != held.state => {
                held.state = state;
                true
            }
            _ => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn deadline(&self) -> Option<Duration> {
        self.heartbeat_deadline_at.as_deref().and_then(moment)
    }
}
