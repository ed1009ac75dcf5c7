//! A service: its lease is renewed while the main task is busy, a restarted process takes it over,
//! and whoever held it before is fenced.
//!
//! ```text
//! cargo run --example service_agent --features embedded
//! cargo run --example service_agent --features embedded -- --external
//! ```

use std::{error::Error, process::ExitCode, time::Duration};

use caracal_axum::{ClientEvent, Health, Renewal};
use tokio::sync::mpsc;

#[path = "shared/control_plane.rs"]
mod control_plane;

/// So short only because this does not want to wait for forty seconds; `Renewal::Auto` is the
/// default.
const INTERVAL: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("service_agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (_embedded, caracal) = control_plane::client().await?;
    let (beat, mut beats) = mpsc::unbounded_channel();
    let _ = caracal.on_event(move |event| {
        if let ClientEvent::CoordinatorCall { ok: true, path, .. } = event
            && path.ends_with("/heartbeat")
        {
            let _ = beat.send(());
        }
    });
    let (lost, mut losses) = mpsc::unbounded_channel();

    let first = caracal
        .spawn_service()
        .labels(["worker"])
        .renewal(Renewal::Every(INTERVAL))
        .on_lease_lost(move |lease| {
            let _ = lost.send(lease.error.code().to_owned());
        })
        .start()
        .await?;
    println!("service {} with lease {}", first.agent_session_id(), first.lease_generation());

    // The main task awaits something long; the lease is renewed by a task of its own.
    for _ in 0..2 {
        beats.recv().await.ok_or("nobody renews")?;
    }
    println!("renewed twice while the main task was busy");

    // A second process, or this one after a restart, takes over by the id alone.
    let attached = caracal.attach(first.agent_session_id()).renewal(Renewal::Manual);
    let second = attached.start().await?;
    println!("taken over with lease {}", second.lease_generation());
    let code = losses.recv().await.ok_or("the old holder was not told")?;
    println!("the old holder is told {code}");
    let fenced = first.heartbeat(Health::Healthy).await;
    println!("and can renew no more: {}", fenced.err().ok_or("it was not fenced")?);

    // An orderly restart: let go, and take over again.
    let detached = second.detach();
    println!(
        "let go of {} with lease {}",
        detached.agent_session_id(),
        detached.lease_generation()
    );
    let third = caracal.attach(detached.agent_session_id()).start().await?;
    let beat = third.heartbeat(Health::Degraded).await?;
    println!("held with lease {}, {:?}", third.lease_generation(), beat.state);

    third.close().await?;
    first.close().await?; // there is nothing left that would be its to end
    caracal.close().await;
    println!("the service is ended");
    Ok(())
}
