//! What becomes of a session when the control plane fails it, at every step and in every way.
#![cfg(feature = "embedded")]

mod support;

use std::time::Duration;

use caracal_axum::{
    CaracalError,
    embedded::{
        Endpoint::{self, Delegate, EndSession, StartSession, Token},
        Fault, ReceivedRequest,
    },
};
use http::StatusCode;
use support::outbound::{Outbound, bearer, claims_of, in_time, is_made_up_key, reader};
use tokio::task::JoinSet;

fn status(code: u16) -> Fault {
    Fault::status(StatusCode::from_u16(code).unwrap())
}

fn garbled(code: u16) -> Fault {
    Fault::answer(StatusCode::from_u16(code).unwrap(), "<html>it works</html>")
}

/// What a step is failed with, and the name of it.
type Failure = (&'static str, Fault);

/// What may succeed when it is tried again.
fn transient() -> Vec<Failure> {
    vec![
        ("500", status(500)),
        ("502", status(502)),
        ("503", status(503)),
        ("cut off before", Fault::drop_connection()),
        ("cut off after", Fault::drop_connection().after_effect()),
        ("half a refusal", Fault::truncate(5)),
        ("half an answer", Fault::truncate(5).after_effect()),
        ("500 after it was done", status(500).after_effect()),
    ]
}

/// What is no better the next time.
fn refusals() -> Vec<Failure> {
    let mut refusals: Vec<Failure> = vec![("a redirect to nowhere", status(307))];
    for (name, code) in
        [("400", 400), ("403", 403), ("408", 408), ("409", 409), ("422", 422), ("425", 425)]
    {
        refusals.push((name, status(code)));
    }
    refusals.push(("429", status(429).header("retry-after", "1")));
    refusals.push(("an array", Fault::answer(StatusCode::BAD_REQUEST, r#"["no"]"#)));
    refusals.push(("a page", garbled(403)));
    refusals
}

/// A spawn, and what it came to.
#[derive(Clone, Copy)]
enum What {
    Root,
    /// A child with a part of the authority of a parent, which is there before.
    Narrowed,
}

/// Runs a session while `endpoint` fails so many times in a row, in so many ways; checks that the
/// requests are `steps`, that `ok` is what came of it, and that no session is left.
async fn each(
    failures: Vec<Failure>,
    what: What,
    (endpoint, times): (Endpoint, u32),
    steps: &'static [Endpoint],
    ok: bool,
) {
    let mut cases = JoinSet::new();
    for (name, fault) in failures {
        cases.spawn(async move {
            let case = format!("{endpoint:?} {name}, {times} times");
            let out = Outbound::start().await;
            let mut spawn = out.client.spawn();
            let mut parent = None;
            if matches!(what, What::Narrowed) {
                let started = out.client.spawn().start().await.unwrap();
                spawn = spawn.labels(["reader"]).parent(started.context().clone()).grant(reader());
                parent = Some(started);
            }
            let before = out.steps().len();
            out.caracal.inject(endpoint, fault.times(times));
            let result = in_time(&case, spawn.run(async |_| 7)).await;
            in_time(&case, out.client.close()).await;
            assert_eq!(out.steps()[before..], *steps, "{case}");
            assert_eq!(result.is_ok(), ok, "{case}: {result:?}");
            assert_eq!(
                out.live().await,
                usize::from(parent.is_some()),
                "{case}: a session is left"
            );
            one_key(&out.sent(endpoint)[before.min(1)..], &case);
            drop(parent);
        });
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

/// Tries of one thing have one key.
fn one_key(tries: &[ReceivedRequest], case: &str) {
    let Some(key) = tries.last().and_then(|last| last.header("idempotency-key")) else { return };
    assert!(is_made_up_key(key), "{case}");
    let last = tries.last().unwrap();
    for one in tries.iter().filter(|one| one.json() == last.json()) {
        assert_eq!(one.header("idempotency-key"), Some(key), "{case}");
    }
}

#[tokio::test]
async fn an_exchange_is_never_tried_again() {
    let mut failures = transient();
    failures.extend(refusals());
    failures.push(("401", status(401)));
    failures.push(("nothing", Fault::answer(StatusCode::OK, "")));
    failures.push(("a page that says 200", garbled(200)));
    each(failures, What::Root, (Token, 1), &[Token], false).await;
}

#[tokio::test]
async fn a_start_is_tried_three_times_under_one_key() {
    let mut failures = transient();
    failures.push(("nothing", Fault::answer(StatusCode::CREATED, "").after_effect()));
    failures.push(("a page that says 201", garbled(201)));
    failures.push(("no id", Fault::answer(StatusCode::CREATED, "{}").after_effect()));
    const TWO: &[Endpoint] = &[Token, StartSession, StartSession, EndSession];
    each(failures.clone(), What::Root, (StartSession, 1), TWO, true).await;
    const THREE: &[Endpoint] = &[Token, StartSession, StartSession, StartSession, EndSession];
    each(failures, What::Root, (StartSession, 2), THREE, true).await;
    let nothing_done = vec![
        ("503", status(503)),
        ("cut off", Fault::drop_connection()),
        ("half a refusal", Fault::truncate(5)),
        ("a page that says 201", garbled(201)),
    ];
    const IN_VAIN: &[Endpoint] = &[Token, StartSession, StartSession, StartSession];
    each(nothing_done, What::Root, (StartSession, 9), IN_VAIN, false).await;
}

#[tokio::test]
async fn a_start_that_is_refused_is_not_tried_again() {
    each(refusals(), What::Root, (StartSession, 9), &[Token, StartSession], false).await;
    each(refusals(), What::Narrowed, (StartSession, 9), &[StartSession], false).await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_minted_anew_once() {
    let refused = || vec![("401", status(401))];
    const START: &[Endpoint] = &[Token, StartSession, Token, StartSession, EndSession];
    each(refused(), What::Root, (StartSession, 1), START, true).await;
    const IN_VAIN: &[Endpoint] = &[Token, StartSession, Token, StartSession];
    each(refused(), What::Root, (StartSession, 9), IN_VAIN, false).await;
    const DELEGATE: &[Endpoint] = &[StartSession, Delegate, Token, Delegate, EndSession];
    each(refused(), What::Narrowed, (Delegate, 1), DELEGATE, true).await;
    each(refused(), What::Narrowed, (Delegate, 9), DELEGATE, false).await;
    const END: &[Endpoint] = &[Token, StartSession, EndSession, Token, EndSession];
    each(refused(), What::Root, (EndSession, 1), END, true).await;
}

#[tokio::test]
async fn the_delegation_of_a_part_is_tried_twice_or_the_session_ended() {
    const TWO: &[Endpoint] = &[StartSession, Delegate, Delegate, EndSession];
    let mut failures = transient();
    failures.push(("nothing", Fault::answer(StatusCode::CREATED, "").after_effect()));
    failures.push(("a page that says 201", garbled(201).after_effect()));
    each(failures, What::Narrowed, (Delegate, 1), TWO, true).await;
    each(transient(), What::Narrowed, (Delegate, 9), TWO, false).await;
    const ONE: &[Endpoint] = &[StartSession, Delegate, EndSession];
    each(refusals(), What::Narrowed, (Delegate, 9), ONE, false).await;
}

#[tokio::test]
async fn a_delegation_whose_answer_was_lost_is_made_once() {
    let out = Outbound::start().await;
    let parent = out.client.spawn().start().await.unwrap();
    out.caracal.inject(Delegate, Fault::drop_connection().after_effect().times(1));
    let spawn = out.client.spawn().parent(parent.context().clone()).grant(reader());
    let child = spawn.start().await.unwrap();
    let sent = out.sent(Delegate);
    assert!(sent[1].decision().unwrap().replayed);
    assert_eq!(sent[0].header("idempotency-key"), sent[1].header("idempotency-key"));
    child.end().await.unwrap();
    parent.end().await.unwrap();
}

#[tokio::test]
async fn an_end_is_tried_three_times() {
    const TWO: &[Endpoint] = &[Token, StartSession, EndSession, EndSession];
    each(transient(), What::Root, (EndSession, 1), TWO, true).await;
    const THREE: &[Endpoint] = &[Token, StartSession, EndSession, EndSession, EndSession];
    // Half of a refusal is one: 404, because the first end had its effect.
    let (halves, others) = transient().into_iter().partition(|(name, _)| *name == "half an answer");
    each(halves, What::Root, (EndSession, 2), TWO, true).await;
    each(others, What::Root, (EndSession, 2), THREE, true).await;
}

#[tokio::test]
async fn a_session_whose_end_is_refused_is_told_and_left() {
    let mut failures = refusals();
    failures.push(("three times 503", status(503)));
    failures.push(("three times cut off", Fault::drop_connection()));
    failures.push(("401 with every token", status(401)));
    for (name, fault) in failures {
        let out = Outbound::start().await;
        out.caracal.inject(EndSession, fault);
        assert_eq!(in_time(name, out.client.spawn().run(async |_| 7)).await.unwrap(), 7);
        assert_eq!(out.events.troubles(), ["end", "left"], "{name}");
        assert_eq!(out.live().await, 1, "{name}: it is left to its ttl");
    }
}

#[tokio::test]
async fn what_is_gone_has_been_ended() {
    let codes = [
        (404, "session_not_found"),
        (404, "whatever"),
        (409, "already_terminated"),
        (409, "session_not_live"),
        (409, "session_not_found_or_not_active"),
        (409, "session_lease_fenced"),
        (409, "session_subject_inactive"),
    ];
    for (status, code) in codes {
        let out = Outbound::start().await;
        let gone = Fault::refusal(StatusCode::from_u16(status).unwrap(), code);
        out.caracal.inject(EndSession, gone);
        let session = out.client.spawn().start().await.unwrap();
        session.end().await.unwrap();
        assert_eq!(out.sent(EndSession).len(), 1, "{status} {code}");
        assert_eq!(out.events.troubles(), [""; 0], "{status} {code}");
    }
}

/// The bodies and bearers of the starts.
fn starts(out: &Outbound) -> Vec<(Option<String>, String)> {
    let record = |start: &ReceivedRequest| {
        let body = start.json().unwrap();
        (body["subject_session_id"].as_str().map(str::to_owned), bearer(start))
    };
    out.sent(StartSession).iter().map(record).collect()
}

#[tokio::test]
async fn a_token_that_is_refused_at_first_names_no_record() {
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, status(401).times(1));
    out.client.spawn().run(async |_| ()).await.unwrap();
    let starts = starts(&out);
    assert_eq!((&starts[0].0, &starts[1].0), (&None, &None), "nothing can have been started");
    assert_ne!(starts[0].1, starts[1].1);
}

#[tokio::test]
async fn a_start_that_may_have_happened_names_the_first_record_with_a_new_token() {
    let lost = [
        Fault::drop_connection(),
        status(500),
        Fault::truncate(3),
        garbled(201),
        Fault::answer(StatusCode::CREATED, ""),
    ];
    for lost in lost {
        let case = format!("{lost:?}");
        let out = Outbound::start().await;
        out.caracal.inject(StartSession, lost.after_effect().times(1));
        out.caracal.inject(StartSession, Fault::refusal(StatusCode::UNAUTHORIZED, "x").times(1));
        let session = in_time(&case, out.client.spawn().start()).await.unwrap();
        let expected = [Token, StartSession, StartSession, Token, StartSession];
        assert_eq!(out.steps(), expected, "{case}");
        let starts = starts(&out);
        let sid = claims_of(&starts[0].1)["sid"].as_str().map(str::to_owned);
        let named: Vec<_> = starts.iter().map(|(record, _)| record.clone()).collect();
        assert_eq!(named, [None, None, sid], "{case}");
        one_key(&out.sent(StartSession), &case);
        let sent = out.sent(StartSession);
        assert!(sent[2].decision().unwrap().replayed, "{case}");
        assert_eq!(sent[0].header("idempotency-key"), sent[2].header("idempotency-key"));
        session.end().await.unwrap();
        assert_eq!(out.left().await, 0, "{case}: there was one session");
    }
}

/// The first answer is lost; while the second start is held the first token's record is revoked.
async fn lost_then_revoked(lost: Fault) -> Outbound {
    let out = Outbound::start().await;
    out.caracal.inject(StartSession, lost.times(1));
    out.caracal.inject(StartSession, Fault::delay(Duration::from_secs(2)).times(1));
    let task = tokio::spawn(out.client.spawn().start());
    out.arrived(StartSession, 2).await;
    let sid = claims_of(&starts(&out)[0].1)["sid"].as_str().unwrap().to_owned();
    out.caracal.revoke_record("zone-1", &sid).unwrap();
    out.caracal.advance(Duration::from_secs(3));
    let session = in_time("a session", task).await.unwrap().unwrap();
    assert_eq!(out.sent(StartSession)[1].decision().unwrap().code, Some("identity_revoked"));
    assert_eq!(starts(&out)[2].0, Some(sid));
    session.end().await.unwrap();
    out
}

#[tokio::test]
async fn also_when_that_record_was_revoked_meanwhile() {
    let out = lost_then_revoked(Fault::drop_connection().after_effect()).await;
    assert!(out.sent(StartSession)[2].decision().unwrap().replayed);
    let steps = [Token, StartSession, StartSession, Token, StartSession, EndSession];
    assert_eq!(out.steps(), steps);
    assert_eq!(out.live().await, 0);
}

#[tokio::test]
async fn and_starts_it_under_the_same_key_when_it_turns_out_that_it_had_not_happened() {
    let out = lost_then_revoked(Fault::drop_connection()).await;
    let steps = [Token, StartSession, StartSession, Token, StartSession, StartSession, EndSession];
    assert_eq!(out.steps(), steps);
    let sent = out.sent(StartSession);
    assert_eq!(sent[2].decision().unwrap().code, Some("session_not_found"));
    assert_eq!(starts(&out)[3].0, None);
    assert!(!sent[3].decision().unwrap().replayed);
    assert_eq!(sent[0].header("idempotency-key"), sent[3].header("idempotency-key"));
    assert_eq!(out.live().await, 0);
}

#[tokio::test]
async fn an_error_of_a_delegation_is_not_replaced_by_one_of_the_clean_up() {
    let out = Outbound::start().await;
    let parent = out.client.spawn().start().await.unwrap();
    out.caracal.inject(Delegate, Fault::refusal(StatusCode::FORBIDDEN, "the_first"));
    out.caracal.inject(EndSession, Fault::refusal(StatusCode::FORBIDDEN, "the_second"));
    let spawn = out.client.spawn().parent(parent.context().clone()).grant(reader());
    let error = spawn.run(async |_| ()).await.unwrap_err();
    assert_eq!(error.code(), "the_first");
    assert!(matches!(error, CaracalError::Refused(_)));
    out.events.until(|event| matches!(event, caracal_axum::ClientEvent::LeftBehind { .. })).await;
}
