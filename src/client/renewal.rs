//! Renewing a lease, in a task of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tracing::Instrument as _;

use super::{
    CaracalError, Health, SessionState,
    error::Chain,
    live::{Live, is_gone},
};

/// When the lease of a service is renewed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Renewal {
    /// After a third of what is left of it, from 1 s to 5 min and a little at random; after 30 s
    /// where nothing is known of that.
    #[default]
    Auto,
    /// At this interval.
    Every(Duration),
    /// By [`ServiceAgent::heartbeat`](super::ServiceAgent::heartbeat) alone.
    Manual,
}

/// The lease of a service is no longer held.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LeaseLost {
    /// The service.
    pub agent_session_id: String,
    /// How that was found: `session_lease_fenced` says that somebody else has it.
    pub error: CaracalError,
}

/// How a lease is kept, and who is told of it.
#[derive(Default)]
pub(super) struct Watcher {
    pub(super) renewal: Renewal,
    pub(super) lost: Option<Callback<LeaseLost>>,
    pub(super) state: Option<Callback<SessionState>>,
}

type Callback<E> = Arc<dyn Fn(&E) + Send + Sync>;

impl Watcher {
    pub(super) fn check(&self) -> Result<(), CaracalError> {
        if self.renewal == Renewal::Every(Duration::ZERO) {
            return Err(CaracalError::usage(
                "invalid_renewal",
                "an interval of zero renews without a pause; Renewal::Manual is never",
            ));
        }
        Ok(())
    }

    pub(super) fn tell_state(&self, state: &SessionState) {
        tell(self.state.as_ref(), state);
    }
}

fn tell<E>(callback: Option<&Callback<E>>, event: &E) {
    let Some(callback) = callback else { return };
    if catch_unwind(AssertUnwindSafe(|| callback(event))).is_err() {
        tracing::error!(target: "caracal", "a callback of a service panicked");
    }
}

/// Renews the lease in a task of its own, until the session is stopped.
pub(super) fn start(live: Arc<Live>, watcher: Arc<Watcher>) {
    if watcher.renewal != Renewal::Manual {
        let runtime = live.client.runtime().clone();
        runtime.spawn(renew(live, watcher).in_current_span());
    }
}

async fn renew(live: Arc<Live>, watcher: Arc<Watcher>) {
    let stop = live.stop.clone();
    loop {
        let delay = match watcher.renewal {
            Renewal::Every(interval) => interval,
            _ => jittered(live.lease_left()),
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = live.client.clock().sleep(delay) => {}
        }
        let order = live.order.lock().await;
        if stop.is_cancelled() {
            return;
        }
        let beaten = live.beat(Health::Healthy, &watcher).await;
        drop(order);
        match beaten {
            Ok(beat) if beat.state == SessionState::Active => {}
            Ok(_) => return,
            Err(_) if stop.is_cancelled() => return,
            Err(error) if is_gone(&error) => {
                let why = Chain(&error);
                tracing::warn!(target: "caracal", session = live.id, %why, "a lease is lost");
                let agent_session_id = live.id.clone();
                return tell(watcher.lost.as_ref(), &LeaseLost { agent_session_id, error });
            }
            Err(error) => {
                let why = Chain(&error);
                tracing::warn!(target: "caracal", session = live.id, %why, "a lease was not renewed");
            }
        }
    }
}

/// A third of what is left, and some more or less, so that services that were started at once do
/// not come back at once.
fn jittered(left: Option<Duration>) -> Duration {
    let third = left.map(|left| (left / 3).clamp(Duration::from_secs(1), Duration::from_secs(300)));
    third.unwrap_or(Duration::from_secs(30)).mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_what_is_left_within_bounds() {
        for (left, about) in [
            (Some(120), 40.0),
            (Some(0), 1.0),
            (Some(2), 1.0),
            (Some(1_000_000), 300.0),
            (None, 30.0),
        ] {
            for _ in 0..100 {
                let delay = jittered(left.map(Duration::from_secs)).as_secs_f64();
                assert!((about * 0.9..=about * 1.1).contains(&delay), "{left:?}: {delay}");
            }
        }
    }
}
