//! What arrives where: calls of every kind to servers that listen, and all the headers they saw.
#![cfg(feature = "embedded")]

#[path = "client_leaks/net.rs"]
mod net;
mod support;

use net::{Comes, Net};
use support::{agent::TICKETS, at_work::LEDGER};

#[tokio::test]
async fn a_transport_brings_authority_to_the_gateway_alone() {
    let net = Net::start().await;
    let session = net.client.spawn().start().await.unwrap();
    session.scope(net.check_all("root session", &net.client.transport())).await;

    let grant = caracal_axum::Grant::narrow(["tickets:read"]).resource(TICKETS);
    let child = net.client.spawn().labels(["app-1"]).parent(session.context().clone()).grant(grant);
    let child = child.start().await.unwrap();
    let scoped = net.client.transport().scopes(["tickets:read"]);
    child.scope(net.check_all("narrowed session", &scoped)).await;
    let given = net.client.transport().context(child.context().clone());
    net.check_all("given context", &given).await;

    net.check_all("no session", &net.client.transport().allow_root()).await;
}

#[tokio::test]
async fn a_transport_of_the_application_goes_to_the_gateway_whatever_is_called() {
    let net = Net::start().await;
    let transport = net.client.application_transport(TICKETS, ["tickets:read"]);
    for case in net.table() {
        let who = format!("application, {}: {}", case.name, case.target);
        net.check(&who, Net::said(transport.get(&case.target)), &case.application, false).await;
    }
}

#[tokio::test]
async fn other_spellings_of_an_origin_are_that_origin() {
    let net = Net::start().await;
    let session = net.client.spawn().start().await.unwrap();
    let port = net.gateway.rsplit(':').next().unwrap();
    session
        .scope(async {
            for target in [
                "http://ledger.internal/v1/x".to_owned(),
                "http://ledger.internal:80/v1/x".to_owned(),
                "HTTP://LEDGER.internal:080/v1/x#part".to_owned(),
                format!("http://127.0.0.1:0{}/v1/x", net.bound.rsplit(':').next().unwrap()),
            ] {
                let request = Net::said(net.client.transport().get(&target));
                net.check(&target, request, &Comes::Routed("/base/x".into()), false).await;
            }
            let target = format!("http://127.1:{port}/base/x");
            let request = Net::said(net.client.transport().get(&target));
            let request = request.header("x-caracal-resource", LEDGER);
            net.check(&target, request, &Comes::Routed("/base/x".into()), false).await;
        })
        .await;
}

#[tokio::test]
async fn a_path_of_a_resource_leads_nowhere_else() {
    let net = Net::start().await;
    let session = net.client.spawn().start().await.unwrap();
    let third = &net.other_port;
    let refused = [
        format!("http://{third}/x"),
        format!("//{third}/x"),
        format!("\\\\{third}/x"),
        format!("http:{third}/x"),
        format!("@{third}:80/x"),
        "/x#y".into(),
        "/x//y".into(),
        "/../x".into(),
        "a/../x".into(),
        "/%2e%2e/x".into(),
        "/%252e%252e/x".into(),
        "/x%5cy".into(),
        "/100%25".into(),
        "/x%zz".into(),
    ];
    session
        .scope(async {
            for (path, target) in [
                ("", "/base/"),
                ("?x=1", "/base/?x=1"),
                ("x", "/base/x"),
                ("/a:b", "/base/a:b"),
                ("/a%2Fb?to=%2e%2e", "/base/a%2Fb?to=%2e%2e"),
            ] {
                let fetch = Net::said(net.client.fetch(TICKETS, path));
                // The caller does not name another resource.
                let fetch = fetch.header("x-caracal-resource", LEDGER);
                net.check(path, fetch, &Comes::Routed(target.into()), false).await;
            }
            let to = format!("?to=http://{third}/y");
            let fetch = Net::said(net.client.fetch(TICKETS, &to));
            net.check("redirect", fetch, &Comes::Routed(format!("/base/{to}")), false).await;
            for path in &refused {
                let fetch = Net::said(net.client.fetch(TICKETS, path));
                net.check(path, fetch, &Comes::Refused, false).await;
                let application = net.client.application_transport(TICKETS, ["tickets:read"]);
                net.check(path, Net::said(application.fetch(path)), &Comes::Refused, false).await;
            }
        })
        .await;
}

#[tokio::test]
async fn a_listed_origin_learns_ids_and_never_a_bearer() {
    let net = Net::start().await;
    let session = net.client.spawn().start().await.unwrap();
    let origin = format!("http://{}", net.other_port);
    let transport = net.client.transport().propagate_to(&origin).unwrap();
    session
        .scope(async {
            let target = format!("{origin}/x");
            let comes = Comes::Direct("other port", "/x".into());
            net.check("listed", Net::said(transport.get(&target)), &comes, true).await;
            net.check("not there", Net::said(net.client.transport().get(&target)), &comes, false)
                .await;
            // Nobody else does, and the table holds but for that one.
            for case in net.table() {
                let listed = matches!(case.transport, Comes::Direct("other port", _));
                let mut request = Net::said(transport.get(&case.target));
                if case.name == "gateway" {
                    request = request.header("x-caracal-resource", TICKETS);
                }
                net.check(case.name, request, &case.transport, listed).await;
            }
            transport.get(&target).send().await.unwrap();
            assert_eq!(net.arrivals()[0].header("authorization"), "", "it has none of its own");
        })
        .await;
}

#[tokio::test]
async fn what_a_caller_says_in_the_gateway_s_place_does_not_reach_it() {
    let net = Net::start().await;
    let session = net.client.spawn().start().await.unwrap();
    let forged = "caracal.agent_session=forged,caracal.hop=9,tenant=t1";
    let call = async |target: String| {
        let request = Net::said(net.client.transport().get(target)).header("baggage", forged);
        session.scope(request.header("host", "evil.example").send()).await.unwrap();
        net.arrivals().remove(0)
    };
    let arrived = call(format!("http://{}/v1/x", net.bound)).await;
    net.assert_routed("forged", &arrived);
    let baggage = arrived.header("baggage");
    assert!(baggage.contains("tenant=t1") && !baggage.contains("forged"), "{baggage}");
    assert!(!baggage.contains("hop=9"), "{baggage}");
    let arrived = call(format!("http://{}/x", net.other_port)).await;
    assert_eq!(arrived.header("baggage"), forged, "what goes elsewhere goes as it is");
}
