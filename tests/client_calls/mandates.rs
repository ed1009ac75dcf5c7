//! One mandate is for one request, and what cuts an answer is no end.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body};
use caracal_axum::{AgentSession, Grant, embedded::Endpoint};
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Mutex, mpsc},
};

use crate::{
    CONFIGURED, OPEN, Outbound, at, done, mandates, start,
    support::{
        agent::TICKETS,
        at_work::{PUBLISHED, ZONE, seconds},
        outbound::in_time,
        serve,
    },
    world,
};

/// A session that holds a delegation of so many seconds.
async fn narrowed(out: &Outbound, ttl: u64) -> (AgentSession, AgentSession) {
    let root = out.client.spawn().start().await.unwrap();
    let grant = Grant::narrow(["tickets:read"]).resource(TICKETS).ttl(seconds(ttl));
    let spawn = out.client.spawn().labels(["reader"]).parent(root.context().clone());
    (spawn.grant(grant).start().await.unwrap(), root)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_once_and_calls_in_a_row_have_mandates_of_their_own() {
    let out = start().await;
    let (session, _root) = narrowed(&out, 600).await;
    let call = || session.scope(out.client.transport().get(OPEN).send());
    let (one, two) = tokio::join!(call(), call());
    for answer in [one, two, call().await, call().await] {
        done(answer);
    }
    assert_eq!(mandates(&out).len(), 4);
}

#[tokio::test]
async fn a_mandate_that_is_about_to_end_is_not_sent() {
    let out = start().await;
    let (session, _root) = narrowed(&out, 100).await;
    let call = || session.scope(out.client.transport().get(OPEN).send());
    done(call().await);
    out.caracal.advance(seconds(62));
    done(call().await);
    out.caracal.advance(seconds(4));
    let error = call().await.unwrap_err();
    assert_eq!(error.code(), "delegation_ends", "{error}");
    assert!(error.to_string().contains("delegation"), "{error}");
    assert_eq!(out.sent(Endpoint::Gateway).len(), 2);
    for ttl in [0, 1, 35, 3601] {
        let transport = out.client.transport().ttl(seconds(ttl));
        session.scope(transport.get(OPEN).send()).await.unwrap_err();
    }
    assert_eq!(out.sent(Endpoint::Gateway).len(), 2);
}

#[tokio::test]
async fn an_approval_is_for_the_first_call() {
    let out = start().await;
    let (session, _root) = narrowed(&out, 600).await;
    let before = out.sent(Endpoint::Token).len();
    let id = "0a0a0a0a-0a0a-4a0a-8a0a-0a0a0a0a0a0a";
    let transport = out.client.transport().scopes(["tickets:read"]).approval(id);
    for _ in 0..2 {
        // Nobody knows the id, and what comes of that is not what this is about.
        let _ = session.scope(transport.clone().get(OPEN).send()).await;
    }
    let again = transport.clone();
    let _ = session.scope(again.get(OPEN).send()).await;
    let mints = out.sent(Endpoint::Token).split_off(before);
    let ids: Vec<_> = mints.iter().map(|mint| mint.field("approval_id")).collect();
    assert_eq!(ids, [Some(id.to_owned()), None, None]);
}

#[tokio::test]
async fn an_answer_that_a_revocation_cut_is_not_complete() {
    let (say, said) = mpsc::channel::<&'static str>(1);
    let said = Arc::new(Mutex::new(said));
    let speak = move || {
        let words = stream::unfold(Arc::clone(&said), |said| async {
            let word = said.lock().await.recv().await?;
            Some((Ok::<_, Infallible>(word), said))
        });
        async { Body::from_stream(words) }
    };
    let out = at(&serve(Router::new().fallback(speak)).await).await;
    let (session, _root) = narrowed(&out, 600).await;
    let call = || session.scope(out.client.transport().get(OPEN).send());

    say.send("first").await.unwrap();
    let mut answer = call().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "first");
    let edge = session.context().delegation_edge_id().unwrap().to_owned();
    out.caracal.revoke_delegation(ZONE, &edge).unwrap();
    out.caracal.advance(PUBLISHED);
    say.send("second").await.unwrap();
    let end = in_time("the end of the answer", async {
        loop {
            match answer.chunk().await {
                // It goes on until the Gateway looks again.
                Ok(Some(_)) => drop(say.try_send("more")),
                end => break end,
            }
        }
    });
    end.await.expect_err("it ended as if it were complete");
}

/// A Gateway that answers the first request on a connection and cuts at the second.
async fn cutting() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let arrived = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&arrived);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""] {
                    let mut text = Vec::new();
                    while !text.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut text).await.unwrap_or_default() == 0 {
                            return;
                        }
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (url, arrived)
}

#[tokio::test]
async fn a_request_on_a_used_connection_that_is_cut_is_not_sent_again() {
    let (gateway, arrived) = cutting().await;
    let out = Outbound::with(world("http://127.0.0.1:9"), |builder| {
        builder.gateway_url(gateway).resource(TICKETS, "https://tickets.internal/v1", CONFIGURED)
    })
    .await;
    let (session, _root) = narrowed(&out, 600).await;
    let call = || session.scope(out.client.transport().get(OPEN).send());
    let mints = out.sent(Endpoint::Token).len();
    done(call().await);
    let error = call().await.unwrap_err();
    assert_eq!(error.code(), "unreachable", "{error}");
    assert_eq!(arrived.load(Ordering::SeqCst), 2, "it did not come again");
    assert_eq!(out.sent(Endpoint::Token).len(), mints + 2);
}
