//! The proof cache changes what a request costs, and nothing else.

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    routing::get,
};
use caracal_axum::{
    CaracalContext, CaracalLayer, Denial, Inbound, KeyDocument, KeyError, KeyRequest, KeySource,
    MandateVerifier, ManualClock, MemoryRevocations, Proof, Reason, RevocationError,
    RevocationQuery, RevocationStore, Standing, Verifier,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{AUDIENCE, ISSUER, NOW, SigningKey, ZONE, Zone, claims, with};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tower::ServiceExt as _;

fn service(verifier: MandateVerifier) -> Router {
    Router::new()
        .route("/", get(|_: CaracalContext| async {}))
        .layer(CaracalLayer::enforce(verifier))
}

/// Status and `error` of the answer.
async fn ask(app: &Router, token: &str) -> (u16, String) {
    let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    (status, body["error"].as_str().unwrap_or("ok").to_owned())
}

/// A store that counts questions and generations, answers when it is let, and can break.
#[derive(Default)]
struct Store {
    asked: AtomicUsize,
    generation: AtomicU64,
    /// Whether it answers at once.
    at_once: bool,
    broken: std::sync::atomic::AtomicBool,
    revoked: Mutex<Vec<String>>,
}

impl Store {
    fn answer(&self, query: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return Err(RevocationError::Unavailable("broken".into()));
        }
        let revoked = self.revoked.lock().unwrap();
        let revoked = query.anchors().any(|anchor| revoked.iter().any(|mark| mark == anchor));
        Ok(Standing { revoked, ..Standing::default() })
    }

    fn revoke(&self, anchor: &str) {
        self.revoked.lock().unwrap().push(anchor.into());
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl RevocationStore for Store {
    async fn check(&self, query: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
        tokio::task::yield_now().await;
        self.answer(query)
    }

    fn check_now(&self, query: RevocationQuery<'_>) -> Option<Result<Standing, RevocationError>> {
        self.at_once.then(|| self.answer(query))
    }

    fn generation(&self) -> Option<u64> {
        Some(self.generation.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn an_unchanged_store_is_not_asked_again() {
    for at_once in [true, false] {
        let zone = Zone::new();
        let store = Arc::new(Store { at_once, ..Store::default() });
        let app = service(zone.builder().revocations(Arc::clone(&store)).build().unwrap());
        let token = zone.mandate(json!({}));
        for _ in 0..5 {
            assert_eq!(ask(&app, &token).await.0, 200);
        }
        assert_eq!(store.asked.load(Ordering::SeqCst), 1);
        store.revoke("another");
        for _ in 0..5 {
            assert_eq!(ask(&app, &token).await.0, 200);
        }
        assert_eq!(store.asked.load(Ordering::SeqCst), 2);
        store.revoke("session-7");
        for asked in 3..6 {
            assert_eq!(ask(&app, &token).await, (401, "session_revoked".into()));
            assert_eq!(store.asked.load(Ordering::SeqCst), asked, "a refusal is not kept");
        }
    }
}

/// Threat 23.
#[tokio::test]
async fn a_store_that_breaks_closes_the_door_for_cached_mandates_too() {
    let zone = Zone::new();
    let store = Arc::new(Store { at_once: true, ..Store::default() });
    let app = service(zone.builder().revocations(Arc::clone(&store)).build().unwrap());
    let token = zone.mandate(json!({}));
    assert_eq!(ask(&app, &token).await.0, 200);
    store.broken.store(true, Ordering::SeqCst);
    store.revoke("another");
    assert_eq!(ask(&app, &token).await, (503, "verification_unavailable".into()));
    store.broken.store(false, Ordering::SeqCst);
    assert_eq!(ask(&app, &token).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_503_after_its_time() {
    struct Hanging;
    impl RevocationStore for Hanging {
        async fn check(&self, _: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
            std::future::pending().await
        }
    }
    let zone = Zone::new();
    let app = service(zone.builder().revocations(Hanging).build().unwrap());
    let started = tokio::time::Instant::now();
    assert_eq!(ask(&app, &zone.mandate(json!({}))).await.0, 503);
    assert_eq!(started.elapsed().as_secs(), 2);
}

/// A mandate that expires while the store is being asked is expired.
#[tokio::test]
async fn expiry_is_judged_after_the_store_has_answered() {
    struct Slow(ManualClock);
    impl RevocationStore for Slow {
        async fn check(&self, _: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
            self.0.advance(Duration::from_secs(900));
            Ok(Standing::default())
        }
    }
    let zone = Zone::new();
    let verifier = zone.builder().revocations(Slow(zone.clock.clone())).build().unwrap();
    let token = format!("Bearer {}", zone.mandate(json!({})));
    let request = Request::get("/").header("authorization", token).body(()).unwrap();
    let parts = request.into_parts().0;
    let denial = verifier.verify(&Inbound::new(&parts)).await.unwrap_err();
    assert_eq!(denial.reason(), &Reason::Expired);
}

#[tokio::test]
async fn a_store_without_generations_is_always_asked() {
    #[derive(Default)]
    struct Plain(AtomicUsize);
    impl RevocationStore for Plain {
        async fn check(&self, _: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Standing::default())
        }
    }
    let zone = Zone::new();
    let store = Arc::new(Plain::default());
    let app = service(zone.builder().revocations(Arc::clone(&store)).build().unwrap());
    let token = zone.mandate(json!({}));
    for _ in 0..5 {
        assert_eq!(ask(&app, &token).await.0, 200);
    }
    assert_eq!(store.0.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_verifier_never_answers_from_anothers_cache() {
    let zone = Zone::new();
    let token = zone.mandate(json!({"aud": [AUDIENCE, "resource://other"]}));
    let lenient = service(zone.verifier());
    let strict = service(zone.builder().required_scopes(["refunds:create"]).build().unwrap());
    let other = service(zone.builder().audience("resource://third").build().unwrap());
    for _ in 0..2 {
        assert_eq!(ask(&lenient, &token).await.0, 200);
        assert_eq!(ask(&strict, &token).await, (403, "insufficient_scope".into()));
        assert_eq!(ask(&other, &token).await, (401, "invalid_token".into()));
    }
}

/// A mandate that is cached is one byte string: no other spelling and no prefix of it is.
#[tokio::test]
async fn a_cached_mandate_lends_its_proof_to_no_other_token() {
    let zone = Zone::new();
    let app = service(zone.verifier());
    let token = zone.mandate(json!({}));
    assert_eq!(ask(&app, &token).await.0, 200);
    for at in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        assert_eq!(ask(&app, &other).await.0, 401, "byte {at}");
    }
    for other in [&token[..token.len() - 1], &format!("{token}="), &format!("{token}.")] {
        assert_eq!(ask(&app, other).await.0, 401);
    }
}

/// Keys on demand, which count how often they were asked for.
#[derive(Clone)]
struct Keys(Arc<Mutex<Vec<SigningKey>>>);

impl KeySource for Keys {
    async fn fetch(&self, _: &KeyRequest) -> Result<KeyDocument, KeyError> {
        let keys: Vec<Value> = self.0.lock().unwrap().iter().map(SigningKey::jwk).collect();
        let body = json!({ "keys": keys }).to_string().into();
        Ok(KeyDocument { status: StatusCode::OK, body })
    }
}

#[tokio::test]
async fn a_key_that_leaves_the_set_or_changes_takes_its_proofs_along() {
    let zone = Zone::new();
    let keys = Keys(Arc::new(Mutex::new(vec![zone.key.clone()])));
    let builder = zone.builder().key_source(keys.clone()).key_cool_down(Duration::from_millis(1));
    let verifier = builder.build().unwrap();
    let app = service(verifier.clone());
    let token = zone.mandate(json!({"exp": NOW + 100_000}));
    assert_eq!(ask(&app, &token).await.0, 200);

    let unknown = SigningKey::generate("new").sign(&zone.claims());
    // The same name, another key: an unknown kid brings the new set in.
    zone.clock.advance(Duration::from_millis(1));
    *keys.0.lock().unwrap() = vec![SigningKey::generate("key-1")];
    assert_eq!(ask(&app, &token).await.0, 200);
    assert_eq!(ask(&app, &unknown).await.0, 401);
    assert_eq!(ask(&app, &token).await, (401, "invalid_token".into()));

    *keys.0.lock().unwrap() = vec![zone.key.clone()];
    zone.clock.advance(Duration::from_millis(1));
    assert_eq!(ask(&app, &unknown).await.0, 401);
    assert_eq!(ask(&app, &token).await.0, 200);
    *keys.0.lock().unwrap() = vec![SigningKey::generate("other")];
    zone.clock.advance(Duration::from_millis(1));
    assert_eq!(ask(&app, &unknown).await.0, 401);
    assert_eq!(ask(&app, &token).await.0, 401);
}

/// A request that is still waiting for the store lends its proof to nobody who comes after the key
/// has gone.
#[tokio::test]
async fn a_proof_in_the_making_does_not_outlive_its_key() {
    struct Gated(Semaphore, Notify);
    impl RevocationStore for Gated {
        async fn check(&self, _: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
            self.1.notify_one();
            let _permit = self.0.acquire().await;
            Ok(Standing::default())
        }
    }
    for proofs in [0, 100] {
        let zone = Zone::new();
        let store = Arc::new(Gated(Semaphore::new(0), Notify::new()));
        let keys = Keys(Arc::new(Mutex::new(vec![zone.key.clone()])));
        let builder = zone.builder().revocations(Arc::clone(&store)).key_source(keys.clone());
        let verifier = builder
            .proof_cache(proofs)
            .revocation_timeout(Duration::from_secs(60))
            .key_cool_down(Duration::from_millis(1))
            .build()
            .unwrap();
        let app = service(verifier.clone());
        let token = zone.mandate(json!({}));
        let waiting = tokio::spawn({
            let (app, token) = (app.clone(), token.clone());
            async move { ask(&app, &token).await.0 }
        });
        store.1.notified().await;
        *keys.0.lock().unwrap() = vec![SigningKey::generate("key-1")];
        zone.clock.advance(Duration::from_millis(1));
        let unknown = SigningKey::generate("unknown").sign(&zone.claims());
        assert_eq!(ask(&app, &unknown).await.0, 401);
        assert_eq!(ask(&app, &token).await, (401, "invalid_token".into()), "{proofs}");
        store.0.add_permits(10);
        assert_eq!(waiting.await.unwrap(), 401, "nor does it get in itself");
    }
}

/// A key that goes while a check with it is waiting its turn is gone when its turn comes.
#[tokio::test]
async fn a_check_that_waited_is_judged_by_the_keys_there_are_then() {
    let zone = Zone::new();
    let keys = Keys(Arc::new(Mutex::new(vec![zone.key.clone()])));
    let verifier = zone
        .builder()
        .key_source(keys.clone())
        .key_cool_down(Duration::from_millis(1))
        .max_concurrent_checks(1)
        .max_check_wait(Duration::from_secs(60))
        .build()
        .unwrap();
    verifier.warm_up().await.unwrap();
    let app = service(verifier);
    let first = zone.mandate(json!({"jti": "first"}));
    let mut stalled = Box::pin(ask(&app, &first));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(stalled.as_mut().poll(&mut context).is_pending(), "it has the permit");
    let second = zone.mandate(json!({"jti": "second"}));
    let mut waiting = Box::pin(ask(&app, &second));
    assert!(waiting.as_mut().poll(&mut context).is_pending(), "it waits for the permit");

    *keys.0.lock().unwrap() = vec![SigningKey::generate("key-1")];
    zone.clock.advance(Duration::from_millis(1));
    let unknown = SigningKey::generate("unknown").sign(&zone.claims());
    assert_eq!(ask(&app, &unknown).await.0, 401);
    drop(stalled);
    assert_eq!(waiting.await, (401, "invalid_token".into()));
}

/// A key that goes while the store is asked is gone when it has answered.
#[tokio::test]
async fn a_key_that_goes_while_the_store_is_asked_takes_the_mandate_along() {
    #[derive(Clone, Default)]
    struct Slow(Arc<Notify>);
    impl RevocationStore for Slow {
        async fn check(&self, _: RevocationQuery<'_>) -> Result<Standing, RevocationError> {
            self.0.notified().await;
            Ok(Standing::default())
        }
    }
    let zone = Zone::new();
    let keys = Keys(Arc::new(Mutex::new(vec![zone.key.clone()])));
    let store = Slow::default();
    let verifier = zone
        .builder()
        .key_source(keys.clone())
        .key_cool_down(Duration::from_millis(1))
        .revocations(store.clone())
        .revocation_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let app = service(verifier);
    let token = zone.mandate(json!({}));
    store.0.notify_one();
    assert_eq!(ask(&app, &token).await.0, 200);

    let mut waiting = Box::pin(ask(&app, &token));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending(), "it waits for the store");
    *keys.0.lock().unwrap() = vec![SigningKey::generate("key-1")];
    zone.clock.advance(Duration::from_millis(1));
    let unknown = SigningKey::generate("unknown").sign(&zone.claims());
    assert_eq!(ask(&app, &unknown).await.0, 401);
    store.0.notify_one();
    assert_eq!(waiting.await, (401, "invalid_token".into()));
}

/// A verifier around a verifier, with another clock: the one inside goes by its own.
#[tokio::test]
async fn a_verifier_goes_by_its_own_clock_whatever_is_around_it() {
    struct Around(MandateVerifier);
    impl Verifier for Around {
        async fn verify(&self, inbound: &Inbound<'_>) -> Result<Proof, Denial> {
            self.0.verify(inbound).await
        }

        fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
            self.0.verify_now(inbound)
        }
    }
    let zone = Zone::new();
    let app = Router::new()
        .route("/", get(|_: CaracalContext| async {}))
        .layer(CaracalLayer::enforce(Around(zone.verifier())));
    let far = 10_000_000_000_u64;
    let token = zone.mandate(json!({"exp": NOW + far}));
    assert_eq!(ask(&app, &token).await.0, 200);
    zone.clock.advance(Duration::from_secs(far));
    assert_eq!(ask(&app, &token).await.0, 401);
}

/// What one verifier has read of a request is nothing to another.
#[tokio::test]
async fn verifiers_share_a_request_but_not_what_they_know_of_it() {
    struct Both(MandateVerifier, MandateVerifier);
    impl Verifier for Both {
        async fn verify(&self, inbound: &Inbound<'_>) -> Result<Proof, Denial> {
            self.1.verify(inbound).await
        }

        fn verify_now(&self, inbound: &Inbound<'_>) -> Option<Result<Proof, Denial>> {
            assert!(self.0.verify_now(inbound).is_none(), "it must first ask for the keys");
            None
        }

        fn unix_time(&self) -> u64 {
            self.0.unix_time()
        }
    }
    let zone = Zone::new();
    let other = zone.builder().audience("resource://other").build().unwrap();
    let app = Router::new()
        .route("/", get(|_: CaracalContext| async {}))
        .layer(CaracalLayer::enforce(Both(zone.verifier(), other)));
    assert_eq!(ask(&app, &zone.mandate(json!({}))).await, (401, "invalid_token".into()));
}

/// One permit, and nobody waits for it: of the tokens that need a check all but one are turned
/// away, while a mandate that is known goes on.
#[tokio::test]
async fn a_flood_of_forgeries_is_turned_away_and_known_mandates_go_on() {
    let zone = Zone::new();
    let builder = zone.builder().max_concurrent_checks(1).max_check_wait(Duration::ZERO);
    let app = service(builder.build().unwrap());
    let known = zone.mandate(json!({}));
    assert_eq!(ask(&app, &known).await.0, 200);
    let forger = SigningKey::generate("key-1");
    let mut flood = JoinSet::new();
    for at in 0..100 {
        let token = forger.sign(&with(claims(), json!({"jti": format!("f-{at}")})));
        let (app, known) = (app.clone(), known.clone());
        flood.spawn(async move { (ask(&app, &token).await, ask(&app, &known).await) });
    }
    let mut turned_away = 0;
    for (forged, known) in flood.join_all().await {
        assert_eq!(known.0, 200);
        match forged.0 {
            503 => turned_away += 1,
            status => assert_eq!(status, 401),
        }
    }
    assert!(turned_away > 0);
    // And when the flood is over, new mandates are checked again.
    assert_eq!(ask(&app, &zone.mandate(json!({"jti": "later"}))).await.0, 200);
}

/// Many requests with one new mandate need one check between them, and one permit.
#[tokio::test]
async fn one_mandate_is_checked_once_for_all_who_bring_it() {
    let zone = Zone::new();
    let builder = zone.builder().max_concurrent_checks(1).max_check_wait(Duration::ZERO);
    let app = service(builder.build().unwrap());
    let token = zone.mandate(json!({}));
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let (app, token) = (app.clone(), token.clone());
        callers.spawn(async move { ask(&app, &token).await.0 });
    }
    assert!(callers.join_all().await.iter().all(|status| *status == 200));
}

#[tokio::test]
async fn a_burst_of_new_callers_waits_its_turn() {
    let zone = Zone::new();
    let builder = zone.builder().max_concurrent_checks(1).max_check_wait(Duration::from_secs(60));
    let app = service(builder.build().unwrap());
    let mut burst = JoinSet::new();
    for at in 0..50 {
        let token = zone.mandate(json!({"jti": format!("m-{at}")}));
        let app = app.clone();
        burst.spawn(async move { ask(&app, &token).await.0 });
    }
    assert!(burst.join_all().await.iter().all(|status| *status == 200));
}

/// Threat 30: a storm of callers that give up at every point leaves nothing behind.
#[tokio::test]
async fn cancelled_verifications_neither_block_nor_leak_permits() {
    let zone = Zone::new();
    let builder = zone.builder().max_concurrent_checks(2).max_check_wait(Duration::from_secs(60));
    let app = service(builder.build().unwrap());
    let gate = Arc::new(Semaphore::new(0));
    for round in 0..20 {
        let mut storm = JoinSet::new();
        for at in 0..10 {
            let token = zone.mandate(json!({"jti": format!("m-{round}-{}", at % 3)}));
            let (app, gate) = (app.clone(), Arc::clone(&gate));
            storm.spawn(async move {
                tokio::select! {
                    biased;
                    answer = ask(&app, &token) => assert_eq!(answer.0, 200),
                    _ = gate.acquire() => {}
                }
            });
        }
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        storm.shutdown().await;
        assert_eq!(ask(&app, &zone.mandate(json!({"jti": format!("n-{round}")}))).await.0, 200);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Verify(usize),
    Revoke(usize),
    RaiseEpoch(u64),
    Rotate(usize),
    Advance(u64),
    SetWallClock(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..8).prop_map(Step::Verify),
        1 => (0usize..8).prop_map(Step::Revoke),
        1 => (5u64..10).prop_map(Step::RaiseEpoch),
        1 => (0usize..4).prop_map(Step::Rotate),
        2 => (0u64..200).prop_map(Step::Advance),
        1 => (-100i64..100).prop_map(Step::SetWallClock),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Threat 22: whatever happens in whatever order, the cached layer answers as one that verifies
/// every request. A cache of two keeps evicting.
#[test]
fn a_cached_layer_answers_as_its_uncached_twin() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let signers: Vec<_> = (0..4).map(|at| SigningKey::generate(&format!("key-{at}"))).collect();
    let tokens: Vec<_> = (0u64..8)
        .map(|at| {
            let changes = json!({
                "jti": format!("m-{at}"), "agent_session_id": format!("s-{}", at % 3),
                "sid": format!("r-{at}"), "exp": NOW + 100 * (at + 1), "iat": NOW + 40 * at,
                "nbf": NOW + 50 * (at % 4), "delegation_graph_epoch": 4 + at,
                "scope": if at == 7 { "other" } else { "tickets:read" },
            });
            signers[at as usize % 4].sign(&with(claims(), changes))
        })
        .collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    runner
        .run(&steps(), |steps| {
            runtime.block_on(async {
                let clock = ManualClock::new(NOW);
                let store = MemoryRevocations::builder().clock(clock.clone()).build();
                let published = Keys(Arc::new(Mutex::new(signers[..2].to_vec())));
                let twin = |proofs| {
                    let builder = MandateVerifier::builder()
                        .issuer(ISSUER)
                        .audience(AUDIENCE)
                        .zone(ZONE)
                        .revocations(store.clone())
                        .required_scopes(["tickets:read"])
                        .key_source(published.clone())
                        .key_cool_down(Duration::from_millis(1))
                        .key_ttl(Duration::from_secs(1))
                        .key_stale_limit(Duration::ZERO)
                        .clock(clock.clone())
                        .proof_cache(proofs);
                    service(builder.build().unwrap())
                };
                let (cached, tiny, uncached) = (twin(100), twin(2), twin(0));
                let mut unix = NOW;
                for step in steps {
                    match step {
                        Step::Verify(at) => {
                            let expected = ask(&uncached, &tokens[at]).await;
                            for app in [&cached, &tiny] {
                                let answer = ask(app, &tokens[at]).await;
                                prop_assert_eq!(&answer, &expected, "token {}", at);
                            }
                        }
                        Step::Revoke(at) => store.revoke(&format!("r-{at}")).unwrap(),
                        Step::RaiseEpoch(epoch) => store.raise_epoch(ZONE, epoch).unwrap(),
                        Step::Rotate(at) => {
                            let next = vec![signers[at].clone(), signers[(at + 1) % 4].clone()];
                            *published.0.lock().unwrap() = next;
                            // Longer than the keys are good for: all three fetch anew.
                            clock.advance(Duration::from_secs(2));
                            unix += 2;
                        }
                        Step::Advance(seconds) => {
                            clock.advance(Duration::from_secs(seconds + 2));
                            unix += seconds + 2;
                        }
                        Step::SetWallClock(seconds) => {
                            unix = unix.saturating_add_signed(seconds);
                            clock.set_unix_time(unix);
                        }
                    }
                }
                Ok(())
            })
        })
        .unwrap();
}
