//! By what a client acts: fixed credentials, a source of them, or a token from elsewhere.
#![cfg(feature = "embedded")]

mod support;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use caracal_axum::{
    Caracal, CaracalError, Credentials,
    embedded::{
        Application, EmbeddedCaracal,
        Endpoint::{self, StartSession, Token},
        Fault, Grant, Resource,
    },
};
use http::StatusCode;
use support::{
    agent::{Agent, TICKETS},
    outbound::{bearer, claims_of, reader},
};

const BILLS: &str = "resource://bills";
const LIFECYCLE: [&str; 1] = ["agent:lifecycle"];

/// What a credentials source says next, and how often it was asked.
type Source = Arc<Mutex<(Result<Option<Credentials>, &'static str>, usize)>>;

async fn resolved() -> (EmbeddedCaracal, Caracal, Source) {
    let caracal = EmbeddedCaracal::builder().clock(support::agent::clock()).start().await.unwrap();
    let second = Application::new("app-2").client_secret("app-2-secret");
    caracal.add_application("zone-1", second).unwrap();
    caracal.add_resource("zone-1", Resource::new(BILLS).scopes(["bills:read"])).unwrap();
    caracal.add_grant("zone-1", Grant::new("app-2", BILLS).scopes(["bills:read"])).unwrap();
    let source: Source =
        Arc::new(Mutex::new((Ok(Some(Credentials::new("zone-1", "app-1", "app-1-secret"))), 0)));
    let asked = Arc::clone(&source);
    let client = Caracal::builder()
        .sts_url(caracal.sts_url())
        .coordinator_url(caracal.coordinator_url())
        .audience(TICKETS)
        .audience(BILLS)
        .clock(caracal.clock())
        .credentials(move || {
            let (answer, number) = &mut *asked.lock().unwrap();
            *number += 1;
            let answer = answer.clone().map_err(io::Error::other);
            async move { answer }
        })
        .build()
        .unwrap();
    (caracal, client, source)
}

fn count(caracal: &EmbeddedCaracal, endpoint: Endpoint) -> usize {
    caracal.requests().iter().filter(|request| request.endpoint() == endpoint).count()
}

#[tokio::test]
async fn credentials_are_asked_for_before_every_exchange() {
    let (caracal, client, source) = resolved().await;
    for exchange in 1..4 {
        client.spawn().run(async |_| ()).await.unwrap();
        assert_eq!(count(&caracal, Token), exchange);
        assert!(source.lock().unwrap().1 >= exchange);
        caracal.advance(Duration::from_secs(900));
    }
    let before = caracal.requests().len();
    let unavailable = [
        Ok(None),
        Err("the vault is sealed"),
        Ok(Some(Credentials::new("", "app-1", "app-1-secret"))),
        Ok(Some(Credentials::new("zone-1", "", "app-1-secret"))),
        Ok(Some(Credentials::new("zone-1", "app-1", ""))),
    ];
    for answer in unavailable {
        let failed = answer.is_err();
        source.lock().unwrap().0 = answer;
        for error in [
            client.spawn().start().await.map(drop).unwrap_err(),
            client.mint_mandate(TICKETS, LIFECYCLE).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.code(), "credentials_unavailable");
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            assert_eq!(cause.as_deref(), failed.then_some("the vault is sealed"));
        }
    }
    assert_eq!(caracal.requests().len(), before, "no traffic");
}

#[tokio::test]
async fn with_other_credentials_no_token_of_the_former_is_used() {
    let (caracal, client, source) = resolved().await;
    client.spawn().run(async |_| ()).await.unwrap();
    let mint = |resource| client.mint_mandate(resource, LIFECYCLE).into_future();
    mint(TICKETS).await.unwrap();
    source.lock().unwrap().0 = Ok(Some(Credentials::new("zone-1", "app-2", "app-2-secret")));
    // An exchange, by which the client learns of them at the latest.
    let other = mint(BILLS).await.unwrap();
    assert_eq!(claims_of(other.token().expose())["client_id"], "app-2");
    let session = client.spawn().start().await.unwrap();
    assert_eq!(session.context().application_id(), "app-2");
    let start = caracal.received(StartSession).await;
    assert_eq!(start.json().unwrap()["application_id"], "app-2");
    assert_eq!(claims_of(&bearer(&start))["client_id"], "app-2");
    mint(TICKETS).await.expect_err("what app-1 had is not served to app-2");
    session.end().await.unwrap();
}

#[tokio::test]
async fn also_when_a_mint_for_one_use_is_where_they_are_first_seen() {
    let (caracal, client, source) = resolved().await;
    let parent = client.spawn().start().await.unwrap();
    let spawn = client.spawn().labels(["reader"]).parent(parent.context().clone());
    let child = spawn.grant(reader()).start().await.unwrap();
    source.lock().unwrap().0 = Ok(Some(Credentials::new("zone-1", "app-2", "app-2-secret")));
    let mint = client.mint_mandate(TICKETS, ["tickets:read"]).context(child.context().clone());
    mint.await.expect_err("it is not app-2's session");
    let session = client.spawn().start().await.unwrap();
    assert_eq!(session.context().application_id(), "app-2");
    drop((session, child, parent, caracal));
}

#[tokio::test]
async fn a_token_from_elsewhere_serves_as_it_is_and_mints_nothing() {
    let caracal = EmbeddedCaracal::builder().clock(support::agent::clock()).start().await.unwrap();
    let token = Agent::new(&caracal, "app-1").lifecycle().await;
    let client = Caracal::builder()
        .coordinator_url(caracal.coordinator_url())
        .zone("zone-1")
        .application("app-1")
        .subject_token(&token)
        .clock(caracal.clock())
        .build()
        .unwrap();
    client
        .spawn()
        .try_run(async |_| {
            let child = client.spawn().labels(["reader"]).grant(reader());
            child
                .try_run(async |_| {
                    let minted = client.mint_mandate(TICKETS, ["tickets:read"]).await;
                    assert!(matches!(minted, Err(CaracalError::Usage(_))), "{minted:?}");
                    Ok(())
                })
                .await
        })
        .await
        .map_err(|error: CaracalError| error)
        .unwrap();
    client.mint_mandate(TICKETS, LIFECYCLE).await.unwrap_err();
    assert_eq!(count(&caracal, Token), 1, "that of the test");
    assert_eq!(bearer(&caracal.received(StartSession).await), token);

    let before = count(&caracal, StartSession);
    caracal.inject(StartSession, Fault::refusal(StatusCode::UNAUTHORIZED, "identity_revoked"));
    let error = client.spawn().start().await.unwrap_err();
    assert_eq!(
        (error.code(), error.status()),
        ("identity_revoked", Some(StatusCode::UNAUTHORIZED))
    );
    assert_eq!((count(&caracal, StartSession), count(&caracal, Token)), (before + 1, 1));
}
