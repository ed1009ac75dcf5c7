//! The layer among other layers, routers and services, and the context it binds.

mod support;

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{MatchedPath, WebSocketUpgrade},
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Bytes;
use caracal_axum::{Binding, CaracalContext, CaracalLayer, Mandate, Require, current};
use serde_json::{Value, json};
use support::{Zone, client, serve};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

async fn who(context: CaracalContext) -> Json<CaracalContext> {
    Json(context)
}

async fn maybe(context: Option<CaracalContext>) -> String {
    context.map_or("nobody".into(), |context| context.application_id().to_owned())
}

#[tokio::test]
async fn nested_merged_and_fallback_routes_are_covered() {
    let zone = Zone::new();
    let template = |path: MatchedPath| async move { path.as_str().to_owned() };
    let inner = Router::new().route("/{id}", get(template)).route("/public/x", get(maybe));
    let app = Router::new()
        .nest("/nested", inner.layer(CaracalLayer::enforce(zone.verifier()).exempt("/public")))
        .merge(
            Router::new()
                .route("/merged", get(maybe))
                .layer(CaracalLayer::enforce(zone.verifier())),
        )
        .merge(
            Router::new()
                .route("/covered/{id}", get(template))
                .fallback(|| async { "fallback" })
                .layer(CaracalLayer::enforce(zone.verifier())),
        );
    let url = serve(app).await;
    let token = zone.mandate(json!({}));
    for (path, text) in [
        ("/nested/1", "/nested/{id}"),
        ("/merged", "planner"),
        ("/covered/2", "/covered/{id}"),
        ("/elsewhere", "fallback"),
    ] {
        let url = format!("{url}{path}");
        assert_eq!(client().get(&url).send().await.unwrap().status(), 401, "{path}");
        let response = client().get(&url).bearer_auth(&token).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), text);
    }
    // The nested layer sees the rest of the path.
    let response = client().get(format!("{url}/nested/public/x")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "nobody");
}

/// What the documentation warns of: these two are open.
#[tokio::test]
async fn the_traps_of_layer_order() {
    let zone = Zone::new();
    let after = Router::new()
        .route("/before", get(maybe))
        .layer(CaracalLayer::enforce(zone.verifier()))
        .route("/after", get(|| async { "open" }));
    let url = serve(after).await;
    assert_eq!(client().get(format!("{url}/before")).send().await.unwrap().status(), 401);
    assert_eq!(client().get(format!("{url}/after")).send().await.unwrap().status(), 200);

    let route_layer = Router::new()
        .route("/route", get(maybe))
        .fallback(|| async { "open" })
        .route_layer(CaracalLayer::enforce(zone.verifier()));
    let url = serve(route_layer).await;
    assert_eq!(client().get(format!("{url}/route")).send().await.unwrap().status(), 401);
    assert_eq!(client().get(format!("{url}/other")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_websocket_is_refused_before_the_upgrade() {
    let zone = Zone::new();
    let app = Router::new()
        .route(
            "/ws",
            any(|upgrade: WebSocketUpgrade, _: CaracalContext| async move {
                upgrade.on_upgrade(|_| async {})
            }),
        )
        .layer(CaracalLayer::enforce(zone.verifier()));
    let url = serve(app).await;
    let upgrade = || {
        client()
            .get(format!("{url}/ws"))
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    assert_eq!(upgrade().send().await.unwrap().status(), 401);
    let response = upgrade().bearer_auth(zone.mandate(json!({}))).send().await.unwrap();
    assert_eq!(response.status(), 101);
}

fn body_that_names_the_caller() -> Body {
    let mut left = 2;
    let frames = std::iter::from_fn(move || {
        left -= 1;
        (left >= 0).then(|| {
            let name =
                current().map_or("nobody".into(), |context| context.application_id().to_owned());
            Ok::<_, Infallible>(Bytes::from(format!("{name};")))
        })
    });
    Body::from_stream(futures_stream::Iter(frames))
}

/// A stream of an iterator, polled anew for every frame.
mod futures_stream {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    pub(super) struct Iter<I>(pub(super) I);

    impl<I: Iterator + Unpin> futures_core::Stream for Iter<I> {
        type Item = I::Item;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
            Poll::Ready(self.0.next())
        }
    }
}

#[tokio::test]
async fn the_current_context_reaches_handlers_what_they_await_and_the_body_they_stream() {
    async fn deeper() -> String {
        tokio::task::yield_now().await;
        current().unwrap().application_id().to_owned()
    }
    let zone = Zone::new();
    let app = Router::new()
        .route("/awaited", get(deeper))
        .route("/streamed", get(|| async { body_that_names_the_caller().into_response() }))
        .route(
            "/spawned",
            get(|context: CaracalContext| async move {
                let lost = tokio::spawn(async { current().is_none() }).await.unwrap();
                let kept = tokio::spawn(context.scope(deeper())).await.unwrap();
                format!("{lost} {kept}")
            }),
        )
        .layer(CaracalLayer::enforce(zone.verifier()));
    let url = serve(app).await;
    let token = zone.mandate(json!({}));
    for (path, text) in
        [("/awaited", "planner"), ("/streamed", "planner;planner;"), ("/spawned", "true planner")]
    {
        let response =
            client().get(format!("{url}{path}")).bearer_auth(&token).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), text, "{path}");
    }
    assert!(current().is_none());
}

/// Any tower service: here one without axum, with bodies of its own.
#[tokio::test]
async fn around_a_plain_tower_service() {
    let zone = Zone::new();
    let inner = service_fn(|request: Request<String>| async move {
        let Some(Binding::Bound(context)) = request.extensions().get() else { panic!("unbound") };
        let text = format!("{} {}", request.body(), context.application_id());
        Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from(text))))
    });
    let service = CaracalLayer::enforce(zone.verifier()).layer(inner);
    let request = |token: Option<String>| {
        let mut request = Request::new("hello".to_owned());
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        request
    };
    let response = service.clone().oneshot(request(Some(zone.mandate(json!({}))))).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
    assert_eq!(body, "hello planner");
    let response = service.oneshot(request(None)).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn propagation_binds_what_nobody_signed_and_nothing_takes_it_for_more() {
    let zone = Zone::new();
    let app = Router::new()
        .route("/who", get(who))
        .route("/scoped", get(who).route_layer(Require::new()))
        .route("/mandate", get(|mandate: Mandate| async { Json(mandate) }))
        .layer(CaracalLayer::propagate("zone-9", "mesh"));
    let url = serve(app).await;
    let get = |path: &str| {
        client()
            .get(format!("{url}{path}"))
            .header("baggage", "caracal.agent_session=s1,caracal.hop=40")
    };
    let body: Value = get("/who").bearer_auth("opaque").send().await.unwrap().json().await.unwrap();
    assert_eq!(body["proven"], false);
    assert_eq!(
        (&body["zone_id"], &body["application_id"], &body["agent_session_id"], &body["hop"]),
        (&json!("zone-9"), &json!("mesh"), &json!("s1"), &json!(32))
    );
    assert_eq!(body["scopes"], json!([]));
    assert_eq!(get("/who").send().await.unwrap().status(), 401);
    let twice = get("/who").bearer_auth("a").header(header::AUTHORIZATION, "Bearer b");
    assert_eq!(twice.send().await.unwrap().status(), 400);
    for path in ["/scoped", "/mandate"] {
        assert_eq!(get(path).bearer_auth("opaque").send().await.unwrap().status(), 500, "{path}");
    }

    let within = Router::new()
        .route("/who", axum::routing::get(who))
        .layer(CaracalLayer::propagate("zone-9", "mesh"))
        .layer(CaracalLayer::enforce(zone.verifier()));
    let url = serve(within).await;
    let response = client()
        .get(format!("{url}/who"))
        .bearer_auth(zone.mandate(json!({})))
        .header("baggage", "caracal.agent_session=forged")
        .send()
        .await
        .unwrap();
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["proven"], &body["agent_session_id"]), (&json!(true), &json!("session-7")));
}

/// The instance of the inner service that was polled ready is the one that is called.
#[tokio::test]
async fn the_ready_service_is_called() {
    #[derive(Default)]
    struct Exact(bool);
    impl Clone for Exact {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Request<Body>> for Exact {
        type Response = Response;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            assert!(self.0, "called a service that was not ready");
            std::future::ready(Ok(Response::new(Body::empty())))
        }
    }
    let zone = Zone::new();
    let mut service = CaracalLayer::enforce(zone.verifier()).layer(Exact::default());
    for _ in 0..3 {
        let token = format!("Bearer {}", zone.mandate(json!({})));
        let request = Request::get("/").header(header::AUTHORIZATION, token);
        let ready = service.ready().await.unwrap();
        let response = ready.call(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}

/// Some services do their work before they return a future.
#[tokio::test]
async fn the_current_context_is_there_when_the_service_is_called() {
    let zone = Zone::new();
    let inner = service_fn(|_: Request<Body>| {
        let name = current().map(|context| context.application_id().to_owned());
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::from(name.unwrap_or_default()))))
    });
    let token = format!("Bearer {}", zone.mandate(json!({})));
    let request = Request::get("/").header(header::AUTHORIZATION, token);
    let service = CaracalLayer::enforce(zone.verifier()).layer(inner);
    let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(axum::body::to_bytes(response.into_body(), 100).await.unwrap(), "planner");
}

/// Layers within layers: what is proven stays, and the two ways to ask agree.
#[tokio::test]
async fn nested_layers_never_replace_a_proven_identity_by_less() {
    async fn both(context: Option<CaracalContext>) -> String {
        let name = |context: Option<CaracalContext>| {
            context.map_or("nobody".to_owned(), |context| context.application_id().to_owned())
        };
        let (extracted, current) = (name(context), name(current()));
        assert_eq!(extracted, current);
        extracted
    }
    let zone = Zone::new();
    let other = header::HeaderName::from_static("x-caracal-identity");
    let elsewhere = zone.builder().credential(other, None).build().unwrap();
    let route = || Router::new().route("/x", get(both));
    let enforce = || CaracalLayer::enforce(zone.verifier());
    let propagate = || CaracalLayer::propagate("z", "mesh");
    let apps = [
        (
            "exempt within enforce",
            route().layer(enforce().exempt("/x")).layer(enforce()),
            "planner",
        ),
        (
            "optional within enforce",
            route().layer(CaracalLayer::enforce(elsewhere).optional()).layer(enforce()),
            "planner",
        ),
        ("propagate within enforce", route().layer(propagate()).layer(enforce()), "planner"),
        ("propagate, exempt", route().layer(propagate().exempt("/x")).layer(enforce()), "planner"),
        ("enforce within propagate", route().layer(enforce()).layer(propagate()), "planner"),
        (
            "exempt within propagate",
            route().layer(enforce().exempt("/x")).layer(propagate()),
            "nobody",
        ),
    ];
    for (what, app, expected) in apps {
        let request = client().get(format!("{}/x", serve(app).await));
        let response = request.bearer_auth(zone.mandate(json!({}))).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), expected, "{what}");
    }
}

/// What the inner layer is told nothing about, it does as the one around it.
#[tokio::test]
async fn reporting_is_inherited_piece_by_piece() {
    let zone = Zone::new();
    let inner = CaracalLayer::enforce(zone.verifier()).resource_metadata("https://a.example/x");
    let app = Router::new().route("/", get(maybe)).layer(inner).layer(
        CaracalLayer::propagate("z", "mesh")
            .render_denials(|denial, _| (denial.status(), "outer").into_response()),
    );
    let response = client().get(serve(app).await).bearer_auth("x").send().await.unwrap();
    let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned();
    assert!(challenge.contains("/.well-known/oauth-protected-resource/x"), "{challenge}");
    assert_eq!(response.text().await.unwrap(), "outer");
}

#[tokio::test]
async fn an_inner_layer_reports_as_the_one_around_it() {
    let zone = Zone::new();
    let app = Router::new()
        .route("/", get(maybe).route_layer(Require::scopes(["x"])))
        .layer(CaracalLayer::enforce(zone.verifier()))
        .layer(
            CaracalLayer::propagate("z", "mesh")
                .render_denials(|denial, _| (denial.status(), "outer").into_response()),
        );
    let url = serve(app).await;
    for token in ["x", &zone.mandate(json!({}))] {
        let response = client().get(&url).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
        assert_eq!(response.text().await.unwrap(), "outer");
    }
}
