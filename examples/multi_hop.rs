//! A chain of services of one application: each is reached through the Gateway, proves the mandate
//! it got, and goes on below the session of that mandate, with less authority than it was given.
//!
//! ```text
//! cargo run --example multi_hop --features embedded
//! cargo run --example multi_hop --features embedded -- --external
//! ```
//!
//! With `--external` the services listen at `MULTI_HOP_LISTEN` (`127.0.0.1:9002,127.0.0.1:9003,127.0.0.1:9004`),
//! and what an operator has to configure for them is printed.

use std::{env, error::Error, process::ExitCode, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use caracal_axum::{
    BoxVerifier, Caracal, CaracalContext, CaracalError, CaracalLayer, DelegationConstraints, Grant,
    MandateVerifier, MemoryRevocations, Require,
    embedded::{self, EmbeddedCaracal, UpstreamCredential},
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// The services behind the first one: what they are called, and by which scope.
const HOPS: [(&str, &str); 3] = [
    ("resource://two", "two:use"),
    ("resource://three", "three:use"),
    ("resource://four", "four:use"),
];

/// What a service saw of whoever called it, and what those behind it saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    hop: u32,
    chain: Vec<String>,
    trace: String,
    behind: Option<Box<Seen>>,
}

/// One of the services.
#[derive(Clone)]
struct Service {
    caracal: Caracal,
    role: String,
    /// What it calls on its part, and what lies behind that.
    behind: &'static [(&'static str, &'static str)],
}

impl Service {
    /// A part of the authority of the bound session, for all that lies behind: it must reach to the
    /// end, and each service gives on one hop less.
    fn grant(&self) -> Grant {
        let hops = u32::try_from(HOPS.len() + self.behind.len()).unwrap_or(1) - 1;
        let constraints = DelegationConstraints::new()
            .resources(self.behind.iter().map(|(resource, _)| *resource))
            .max_hops(hops);
        let ttl = Duration::from_secs(300 * self.behind.len() as u64);
        Grant::narrow(self.behind.iter().map(|(_, scope)| *scope)).constraints(constraints).ttl(ttl)
    }

    /// Calls the next service within a narrowed child of the bound session.
    async fn call_on(&self) -> Result<Option<Seen>, CaracalError> {
        let [(resource, scope), ..] = self.behind else { return Ok(None) };
        let child = self.caracal.spawn().labels([self.role.as_str()]).grant(self.grant());
        let call = async |_| {
            let next = self.caracal.transport().scopes([*scope]).fetch(*resource, "/do");
            let answer = next.send().await?;
            let status = answer.status();
            let body = answer.bytes().await.unwrap_or_default();
            if status != StatusCode::OK {
                println!("{resource} answered {status}: {}", String::from_utf8_lossy(&body));
            }
            Ok::<_, CaracalError>(serde_json::from_slice(&body).ok())
        };
        child.try_run(call).await
    }
}

/// The layer has proved the mandate, and bound its session: what is called from here is called by it.
async fn work(
    State(service): State<Service>,
    context: CaracalContext,
) -> Result<Json<Seen>, (StatusCode, String)> {
    let behind = service.call_on().await;
    let behind = behind.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    let sessions = context.delegation_chain().iter().filter_map(|link| link.agent_session_id());
    Ok(Json(Seen {
        hop: context.hop(),
        chain: sessions.map(str::to_owned).collect(),
        trace: context.trace_id().map(|id| id.to_string()).unwrap_or_default(),
        behind: behind.map(Box::new),
    }))
}

fn router(service: Service, scope: &str, verifier: BoxVerifier) -> Router {
    Router::new()
        .route("/do", get(work).route_layer(Require::scopes([scope]).delegation()))
        .with_state(service)
        .layer(CaracalLayer::enforce(verifier))
}

/// Serves the three services, and calls the first of them from a session of its own.
async fn run() -> Result<(), Box<dyn Error>> {
    let external = env::args().any(|argument| argument == "--external");
    let addresses = match env::var("MULTI_HOP_LISTEN") {
        Ok(addresses) => addresses,
        Err(_) if external => "127.0.0.1:9002,127.0.0.1:9003,127.0.0.1:9004".to_owned(),
        Err(_) => ["127.0.0.1:0"; HOPS.len()].join(","),
    };
    let mut listeners = Vec::new();
    for address in addresses.split(',') {
        listeners.push(TcpListener::bind(address).await?);
    }
    if listeners.len() != HOPS.len() {
        return Err("MULTI_HOP_LISTEN names three addresses".into());
    }
    let upstreams: Vec<_> =
        listeners.iter().map(|listener| listener.local_addr()).collect::<Result<_, _>>()?;
    let upstreams: Vec<_> = upstreams.iter().map(|address| format!("http://{address}")).collect();
    let (embedded, caracal) = if external {
        let caracal = Caracal::new()?;
        explain(&caracal, &upstreams);
        (None, caracal)
    } else {
        let embedded = embedded_for(&upstreams).await?;
        let caracal = embedded.client("chain")?;
        (Some(embedded), caracal)
    };
    let role = caracal.application_id().unwrap_or_default().to_owned();
    let at = |behind| Service { caracal: caracal.clone(), role: role.clone(), behind };

    for (number, listener) in listeners.into_iter().enumerate() {
        let (resource, scope) = HOPS[number];
        let verifier = match &embedded {
            Some(embedded) => embedded.verifier(resource)?,
            None => verifier(&caracal, resource)?,
        };
        let app = router(at(&HOPS[number + 1..]), scope, BoxVerifier::new(verifier));
        tokio::spawn(async move { axum::serve(listener, app).await });
    }

    let first = at(&HOPS);
    let session = caracal.spawn().labels([role.as_str()]);
    let seen = session.try_run(async |_| first.call_on().await).await?;
    let mut seen = seen.map(Box::new);
    let trace = seen.as_ref().map(|seen| seen.trace.clone()).unwrap_or_default();
    for hop in 1..=HOPS.len() {
        let at = seen.ok_or("a service did not answer")?;
        println!("hop {}: {} sessions, trace {}", at.hop, at.chain.len(), at.trace);
        if (at.hop as usize, at.chain.len()) != (hop, hop + 1) || at.trace != trace {
            return Err(format!("hop {hop} is not what it should be: {at:?}").into());
        }
        seen = at.behind;
    }
    caracal.close().await;
    println!("one trace, and each hop with less than the one before");
    Ok(())
}

async fn embedded_for(upstreams: &[String]) -> Result<EmbeddedCaracal, Box<dyn Error>> {
    use embedded::{Application, Grant, Resource, World, Zone};
    let mut zone = Zone::new("zone-1").application(Application::new("chain"));
    for ((resource, scope), upstream) in HOPS.iter().zip(upstreams) {
        let guarded = Resource::new(*resource).scopes([*scope]).upstream(upstream);
        zone = zone
            .resource(guarded.credential(UpstreamCredential::caracal_mandate()))
            .grant(Grant::new("chain", *resource).role("chain").scopes([*scope]));
    }
    Ok(EmbeddedCaracal::builder().world(World::new().zone(zone)).start().await?)
}

/// A service of one's own, whose revocations nothing feeds here.
fn verifier(caracal: &Caracal, resource: &str) -> Result<MandateVerifier, Box<dyn Error>> {
    let issuer = env::var("CARACAL_STS_URL").unwrap_or("http://localhost:8080".to_owned());
    Ok(MandateVerifier::builder()
        .issuer(issuer)
        .audience(resource)
        .zone(caracal.zone_id().unwrap_or_default())
        .revocations(MemoryRevocations::default())
        .build()?)
}

fn explain(caracal: &Caracal, upstreams: &[String]) {
    let role = caracal.application_id().unwrap_or_default();
    println!("configure for {caracal:?}:");
    for ((resource, scope), upstream) in HOPS.iter().zip(upstreams) {
        println!(
            "  {resource} with scope {scope}, upstream {upstream}, credential caracal_mandate, granted \
             to role {role}"
        );
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("multi_hop: {error}");
            ExitCode::FAILURE
        }
    }
}
