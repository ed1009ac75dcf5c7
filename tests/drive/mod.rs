//! Recorded actions of other clients, taken with this crate's.

mod client;
mod course;
mod exceptions;
mod names;
mod steps;

use std::sync::Arc;

use caracal_axum::embedded::{EmbeddedCaracal, World};
use serde_json::Value;
use tokio::sync::watch;

use self::{
    client::{Client, Settings},
    course::{items, strings},
    names::Names,
    steps::{Driver, text},
};
pub(crate) use self::{course::Course, exceptions::EXCEPTIONS};
use crate::support::{agent::Agent, proxy::Proxy};

/// Takes an action in a control plane of its own.
pub(crate) async fn take(action: &Value, world: &str) -> Course {
    let world = World::from_toml(world).unwrap();
    let caracal = EmbeddedCaracal::builder().world(world).start().await.unwrap();
    let agent = Agent::new(&caracal, "app-ledger");
    let proxy = Arc::new(Proxy::start(&agent.sts, &agent.coordinator).await);
    // Not one that the client gets by itself: to look around with, or to be its only one.
    let form = [("resource", "resource://ledger"), ("scope", "agent:lifecycle")];
    let token = text(&agent.exchange(&form).await.1, "access_token").to_owned();

    let third_name = proxy.third.replace("127.0.0.1", "localhost");
    let faults = action["faults"].to_string();
    let faults = faults.replace("${third}", &proxy.third).replace("${third_name}", &third_name);
    proxy.set_faults(serde_json::from_str::<Option<_>>(&faults).unwrap().unwrap_or_default());
    let configured = &action["client"];
    let client = Client::new(&Settings {
        sts: proxy.sts.clone(),
        coordinator: proxy.coordinator.clone(),
        zone: agent.zone.clone(),
        application: agent.application.clone(),
        secret: agent.secret.clone(),
        token: configured["token"].as_str().map(|_| token.clone()),
        resources: configured.get("resources").map_or_else(all_resources, strings),
        default_ttl: configured["default_ttl"].as_u64(),
    });
    let is_timed = action["do"].to_string().contains("\"interval_ms\":400");
    let beats = if is_timed { course::beats(&action["go"]["requests"]) } else { 0 };
    let disturbed = action.get("behind").is_some();
    let done = watch::Sender::new(!disturbed);
    let driver = Driver::new(client.clone(), Arc::clone(&proxy), beats, done.subscribe());
    let behind_its_back = async {
        if disturbed {
            // Of the sessions that the action starts all live.
            proxy.started(2).await;
            for session in live(&agent, &token).await {
                // The children of one that was ended have ended with it.
                let _ = caracal.terminate(&agent.zone, text(&session, "agent_session_id"));
            }
            done.send_replace(true);
        }
    };
    let (ended, ()) = tokio::join!(driver.clone().take(action["do"].clone()), behind_its_back);
    assert!(ended.is_ok(), "{}: {ended:?}", text(action, "name"));
    // What nobody waits for comes to its end too.
    client.close().await;
    proxy.quiet().await;

    let left = live(&agent, &token).await;
    let kind = |it: &Value| format!("{} {}", text(it, "lifecycle"), text(it, "status"));
    let results = driver.results.lock().unwrap().clone();
    let events = client.events.lock().unwrap().clone();
    let names = Names::new(&[
        ("app_ledger", &agent.application),
        ("secret_ledger", &agent.secret),
        ("zone", &agent.zone),
        ("static_token", &token),
    ]);
    let left_behind = left.iter().map(kind).collect();
    let mut course = Course::observed(&proxy.exchanges(), results, events, left_behind, names);
    if beats >= 2 {
        course.forget_beats_beyond(beats);
    }
    course
}

fn all_resources() -> Vec<String> {
    ["crm", "ledger", "search"].map(|name| format!("resource://{name}")).into()
}

/// The sessions that live, the newest first.
async fn live(agent: &Agent, token: &str) -> Vec<Value> {
    let (status, list) = agent.call("GET", "/agents?limit=100", token, None).await;
    assert_eq!(status, 200, "{list}");
    let lives = |it: &&Value| ["active", "suspended"].contains(&text(it, "status"));
    items(&list["items"]).filter(lives).cloned().collect()
}
