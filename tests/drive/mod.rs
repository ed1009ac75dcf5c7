//! Recorded actions of other clients, taken with this crate's.

mod calls;
mod client;
mod course;
mod exceptions;
mod names;
mod steps;

use std::sync::Arc;

use caracal_axum::embedded::{EmbeddedCaracal, World};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::watch;

use self::{
    client::{Client, Settings},
    course::{items, strings},
    names::Names,
    steps::{Driver, text},
};
pub(crate) use self::{
    course::Course,
    exceptions::{EXCEPTIONS, IN_ANY_ORDER},
};
use crate::support::{agent::Agent, proxy::Proxy};

/// Takes an action in a control plane of its own.
pub(crate) async fn take(action: &Value, world: &str) -> Course {
    let world = World::from_toml(world).unwrap();
    let caracal = EmbeddedCaracal::builder().world(world).start().await.unwrap();
    let agent = Agent::new(&caracal, "app-ledger");
    let proxy = Arc::new(Proxy::start(&agent.sts, &agent.coordinator, caracal.gateway_url()).await);
    // Not one that the client gets by itself: to look around with, or to be its only one.
    let form = [("resource", "resource://ledger"), ("scope", "agent:lifecycle")];
    let token = text(&agent.exchange(&form).await.1, "access_token").to_owned();

    let hosts = hosts(&proxy);
    let with_hosts = |part: &str| {
        let fill = |text: String, (name, host): &(String, String)| {
            text.replace(&format!("${{{name}}}"), host)
        };
        let text = hosts.iter().fold(action[part].to_string(), fill);
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let faults = Option::deserialize(with_hosts("faults")).unwrap();
    proxy.set_faults(faults.unwrap_or_default());
    let configured = with_hosts("client");
    let client = Client::new(&Settings {
        sts: proxy.sts.clone(),
        coordinator: proxy.coordinator.clone(),
        gateway: match configured.get("gateway") {
            None => Some(proxy.gateway.clone()),
            Some(other) => other.as_str().map(str::to_owned),
        },
        zone: agent.zone.clone(),
        application: agent.application.clone(),
        secret: agent.secret.clone(),
        token: configured["token"].as_str().map(|_| token.clone()),
        resources: configured.get("resources").map_or_else(all_resources, strings),
        bindings: [("crm", "/v1/crm"), ("ledger", "/v1")]
            .map(|(name, path)| (resource(name), format!("{}{path}", proxy.upstream)))
            .into(),
        default_ttl: configured["default_ttl"].as_u64(),
    });
    let is_timed = action["do"].to_string().contains("\"interval_ms\":400");
    let beats = if is_timed { course::beats(&action["go"]["requests"]) } else { 0 };
    let steps = with_hosts("do");
    let has_pairs = steps.to_string().contains("\"app_transport\"");
    let disturbed = action.get("behind").is_some();
    let done = watch::Sender::new(!disturbed);
    let driver = Driver::new(client.clone(), Arc::clone(&proxy), beats, done.subscribe());
    let behind_its_back = async {
        if disturbed {
            // Of the sessions that the action starts all live.
            if has_pairs {
                proxy.called(1).await;
            } else {
                proxy.started(2).await;
            }
            for session in live(&agent, &token).await {
                // The children of one that was ended have ended with it.
                let _ = caracal.terminate(&agent.zone, text(&session, "agent_session_id"));
            }
            done.send_replace(true);
        }
    };
    let (ended, ()) = tokio::join!(driver.clone().take(steps), behind_its_back);
    assert!(ended.is_ok(), "{}: {ended:?}", text(action, "name"));
    // What nobody waits for comes to its end too. A pair would end with the client.
    if !has_pairs {
        client.close().await;
    }
    proxy.quiet().await;

    let left = live(&agent, &token).await;
    let kind = |it: &Value| format!("{} {}", text(it, "lifecycle"), text(it, "status"));
    let results = driver.results.lock().unwrap().clone();
    let events = client.events.lock().unwrap().clone();
    let known = [
        ("app_ledger", &agent.application),
        ("secret_ledger", &agent.secret),
        ("zone", &agent.zone),
        ("static_token", &token),
    ];
    let hosts = hosts.iter().map(|(name, host)| (name.as_str(), host));
    let names = Names::new(known.into_iter().chain(hosts));
    let left_behind = left.iter().map(kind).collect();
    let mut course = Course::observed(&proxy.exchanges(), results, events, left_behind, names);
    if beats >= 2 {
        course.forget_beats_beyond(beats);
    }
    course
}

fn all_resources() -> Vec<String> {
    ["crm", "ledger", "search"].map(resource).into()
}

fn resource(name: &str) -> String {
    format!("resource://{name}")
}

/// What the hosts are called in a recording: `third`, and `third_name` by the name of its address;
/// each with `_host` for a part of the URL.
fn hosts(proxy: &Proxy) -> Vec<(String, String)> {
    let mut hosts = vec![("gateway".to_owned(), proxy.gateway.clone())];
    for (name, url) in [("third", &proxy.third), ("upstream", &proxy.upstream)] {
        for (name, url) in [
            (name.to_owned(), url.clone()),
            (format!("{name}_name"), url.replace("127.0.0.1", "localhost")),
        ] {
            hosts.push((format!("{name}_host"), url.replace("http://", "")));
            hosts.push((name, url));
        }
    }
    hosts
}

/// The sessions that live, the newest first.
async fn live(agent: &Agent, token: &str) -> Vec<Value> {
    let (status, list) = agent.call("GET", "/agents?limit=100", token, None).await;
    assert_eq!(status, 200, "{list}");
    let lives = |it: &&Value| ["active", "suspended"].contains(&text(it, "status"));
    items(&list["items"]).filter(lives).cloned().collect()
}
