//! The pair of sessions that the application's own calls are made in.

use caracal_axum::embedded::{Endpoint, Fault};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::json;

use crate::{
    BOOKS, OPEN, Outbound, counts, done, mandates, start,
    support::{
        agent::TICKETS,
        at_work::{ZONE, body, last, seconds},
        outbound::in_time,
    },
};

fn calling_session(out: &Outbound) -> String {
    last(&out.caracal, Endpoint::Token).field("agent_session_id").unwrap()
}

#[tokio::test]
async fn the_first_call_takes_six_requests_and_the_next_two() {
    for named in [false, true] {
        let out = start().await;
        let call = async || match named {
            true => {
                let tickets = out.client.application_transport(TICKETS, ["tickets:read"]);
                done(tickets.get(OPEN).send().await);
            }
            false => done(out.client.transport().allow_root().get(OPEN).send().await),
        };
        call().await;
        use Endpoint::{Delegate, Gateway, StartSession, Token};
        let first = [Token, StartSession, StartSession, Delegate, Token, Gateway];
        assert_eq!(out.steps(), first);
        assert_eq!(body(&out.caracal, StartSession)["labels"], json!(["app-1"]));
        call().await;
        assert_eq!(out.steps()[6..], [Token, Gateway]);
        mandates(&out);

        let starts = out.sent(StartSession);
        assert!(starts.iter().all(|start| start.json().unwrap()["ttl_seconds"] == 1020));
        let edge = body(&out.caracal, Delegate);
        let (source, target) = (&edge["source_session_id"], &edge["target_session_id"]);
        assert_eq!(calling_session(&out), target.as_str().unwrap());
        out.client.close().await;
        let ends = out.sent(Endpoint::EndSession);
        assert_eq!(ends.len(), 2);
        assert!(ends[0].target().ends_with(source.as_str().unwrap()), "the source first");
        assert!(ends[1].target().ends_with(target.as_str().unwrap()));
        assert_eq!(out.live().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_first_calls_at_once_share_one_pair() {
    let out = start().await;
    let transport = out.client.transport().allow_root();
    let calls = (0..6).map(|_| transport.get(OPEN).send());
    in_time("all calls", join_all(calls)).await.into_iter().for_each(done);
    assert_eq!(counts(&out), [7, 2, 1, 6, 0]);
    mandates(&out);
    done(transport.get(BOOKS).send().await);
    assert_eq!(counts(&out)[1..4], [4, 2, 7], "another resource has another pair");
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_pair_that_somebody_ended_is_replaced_once() {
    for revoked in [false, true] {
        let out = start().await;
        let call = || out.client.transport().allow_root().get(OPEN).send();
        done(call().await);
        let mint = last(&out.caracal, Endpoint::Token);
        if revoked {
            let edge = mint.field("delegation_edge_id").unwrap();
            out.caracal.revoke_delegation(ZONE, &edge).unwrap();
        } else {
            out.caracal.terminate(ZONE, &mint.field("agent_session_id").unwrap()).unwrap();
        }
        done(call().await);
        assert_eq!(counts(&out)[1..4], [4, 2, 2], "one more pair");
        assert_ne!(Some(calling_session(&out)), mint.field("agent_session_id"));
        done(call().await);
        assert_eq!(counts(&out)[1..4], [4, 2, 3]);
        mandates(&out);
        assert_eq!(out.left().await, 0);
    }
}

#[tokio::test]
async fn a_new_pair_that_is_refused_is_the_end_of_it() {
    let out = start().await;
    let transport = out.client.application_transport(TICKETS, ["tickets:read"]);
    let error = transport.clone().labels(["nobody-s"]).get(OPEN).send().await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::FORBIDDEN));
    assert!(error.to_string().contains("role"), "{error}");
    assert_eq!(counts(&out)[1..4], [2, 1, 0], "it was not tried again");
    done(transport.get(OPEN).send().await);
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_replaced_pair_that_is_refused_too_is_the_end_of_it() {
    let out = start().await;
    let call = || out.client.transport().allow_root().get(OPEN).send();
    done(call().await);
    let refused = Fault::refusal(StatusCode::FORBIDDEN, "access_denied");
    // The mint of the pair there is, and that of the next.
    out.caracal.inject(Endpoint::Token, refused.times(5));
    let starts = out.sent(Endpoint::StartSession).len();
    let error = call().await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::FORBIDDEN));
    assert!(out.sent(Endpoint::StartSession).len() <= starts + 2);
    assert_eq!(out.sent(Endpoint::Gateway).len(), 1);
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_lifecycle_token_that_is_refused_is_replaced_and_a_lost_start_leaves_nothing() {
    let out = start().await;
    let unauthorized = Fault::refusal(StatusCode::UNAUTHORIZED, "invalid_token").times(1);
    out.caracal.inject(Endpoint::StartSession, unauthorized);
    done(out.client.transport().allow_root().get(OPEN).send().await);
    assert_eq!(counts(&out)[..4], [3, 3, 1, 1]);
    assert_eq!(out.left().await, 0);

    let out = start().await;
    let lost = Fault::drop_connection().after_effect().times(1);
    out.caracal.inject(Endpoint::StartSession, lost.clone());
    out.caracal.inject(Endpoint::Delegate, lost);
    done(out.client.transport().allow_root().get(OPEN).send().await);
    assert_eq!(out.left().await, 0);
}

#[tokio::test]
async fn a_pair_is_kept_for_the_same_resource_scopes_labels_and_ttl() {
    let out = start().await;
    let tickets = |scopes: [&str; 2]| out.client.application_transport(TICKETS, scopes);
    let read_write = ["tickets:read", "tickets:write"];
    for (transport, starts) in [
        (tickets(read_write), 2),
        (tickets(["tickets:write", "tickets:read"]), 2),
        (tickets(["tickets:read", "tickets:read"]), 4),
        (tickets(read_write).labels(["app-1"]), 4),
        (tickets(read_write).labels(["app-1", "reader"]), 6),
        (tickets(read_write).labels(["reader", "app-1"]), 8),
        (tickets(read_write).ttl(seconds(600)), 10),
        (tickets(read_write).ttl(seconds(900)), 10),
    ] {
        done(transport.get(OPEN).send().await);
        assert_eq!(out.sent(Endpoint::StartSession).len(), starts, "{transport:?}");
    }
    out.caracal.advance(seconds(1020 - 59));
    done(tickets(read_write).get(OPEN).send().await);
    assert_eq!(out.sent(Endpoint::StartSession).len(), 12, "less than a minute was left");
    assert_eq!(out.left().await, 0);
}
