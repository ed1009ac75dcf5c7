//! An agent at work: it gives a child a part of its authority, which mints with it and calls through
//! the Gateway; it delegates to a peer, and takes that back.
//!
//! ```text
//! cargo run --example agent --features embedded                 # against a Caracal of its own
//! cargo run --example agent --features embedded -- --external   # against that of CARACAL_*
//! ```
//!
//! With `--external`, `CARACAL_RESOURCE_ID` names a resource of the application, and
//! `CARACAL_RESOURCE_SCOPES="resource://tickets=tickets:read tickets:write"` the scopes that a role
//! has there: the one that `CARACAL_ROLE` names, else one named like the application.

use std::{env, error::Error, process::ExitCode};

use caracal_axum::{Caracal, CaracalContext, CaracalError, DelegationConstraints, Grant};

#[path = "shared/control_plane.rs"]
mod control_plane;

/// What the agent works with.
struct Resource {
    id: String,
    scopes: Vec<String>,
}

impl Resource {
    fn find(caracal: &Caracal) -> Result<Self, Box<dyn Error>> {
        if !control_plane::is_external() {
            let scopes = control_plane::SCOPES.map(str::to_owned).to_vec();
            return Ok(Self { id: control_plane::RESOURCE.to_owned(), scopes });
        }
        let id = env::var("CARACAL_RESOURCE_ID").map_err(|_| "CARACAL_RESOURCE_ID is not set")?;
        let scopes = caracal.resource_scopes(&id).to_vec();
        if scopes.is_empty() {
            return Err(format!("CARACAL_RESOURCE_SCOPES names no scopes of {id}").into());
        }
        Ok(Self { id, scopes })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (_embedded, caracal) = control_plane::client().await?;
    let resource = Resource::find(&caracal)?;
    println!("{caracal:?}");

    // Whatever happens in the body, the session is ended behind it.
    let application = caracal.application_id().unwrap_or_default();
    let role = env::var("CARACAL_ROLE").unwrap_or_else(|_| application.to_owned());
    let agent = caracal.spawn().labels([role.as_str()]);
    agent.try_run(async |context| work(&caracal, context, &resource, &role).await).await?;

    caracal.close().await;
    println!("all sessions are ended");
    Ok(())
}

async fn work(
    caracal: &Caracal,
    agent: CaracalContext,
    Resource { id: resource, scopes }: &Resource,
    role: &str,
) -> Result<(), Box<dyn Error>> {
    println!("agent   session {}", id(&agent));

    // A session on its own mints nothing: authority comes over a delegation.
    let refused = caracal.mint_mandate(resource, scopes).await;
    println!("agent   mints: {}", outcome(&refused));

    let narrow = Grant::narrow(scopes)
        .resource(resource)
        .constraints(DelegationConstraints::new().max_hops(1));
    let child = caracal.spawn().labels([role]).grant(narrow);
    let minted = child
        .try_run(async |child| {
            println!("child   session {} with {scopes:?} on {resource}", id(&child));
            let minted = caracal.mint_mandate(resource, scopes).await;
            println!("child   mints: {}", outcome(&minted));
            // A call mints for itself: a mandate is good for one.
            let call = caracal.transport().scopes(scopes).fetch(resource, "/open").send();
            match call.await {
                Ok(answer) => println!("child   calls: {}", answer.status()),
                Err(error) => println!("child   calls: refused, {error}"),
            }
            minted
        })
        .await;
    minted?;

    // A peer is a session of its own. It learns the id of the delegation by your own means.
    let peer = caracal.spawn().root().labels([role]).start().await?;
    let delegation =
        caracal.delegate(peer.agent_session_id()).scopes(scopes).resource(resource).await?;
    println!("agent   delegates {}", delegation.delegation_edge_id());
    let accepted = caracal
        .accept_delegation(delegation.delegation_edge_id())
        .context(peer.context().clone())
        .validate()
        .await?;
    let minted = caracal.mint_mandate(resource, scopes).context(accepted.clone()).await;
    println!("peer    mints: {}", outcome(&minted));
    minted?;

    let revoked = caracal.revoke_delegation(delegation.delegation_edge_id()).await?;
    println!("agent   revokes it, which ends {} session", revoked.terminated_sessions);
    let refused = caracal.mint_mandate(resource, scopes).context(accepted).await;
    println!("peer    mints: {}", outcome(&refused));
    if refused.is_ok() {
        return Err("a revoked delegation still mints".into());
    }
    Ok(())
}

fn id(context: &CaracalContext) -> &str {
    context.agent_session_id().unwrap_or("none")
}

fn outcome<T>(result: &Result<T, CaracalError>) -> String {
    match result {
        Ok(_) => "a mandate".to_owned(),
        Err(error) => format!("refused, {error}"),
    }
}
