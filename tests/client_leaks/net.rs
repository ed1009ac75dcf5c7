//! Servers that listen, and what a call must come to there.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex},
};

use axum::{Router, extract::Request, response::IntoResponse as _};
use caracal_axum::{
    Caracal, CaracalError, Transport, TransportRequest,
    embedded::{Application, EmbeddedCaracal, Grant, Resource, World, Zone},
};
use http::{HeaderMap, StatusCode, header};
use reqwest::Response;
use tokio::net::TcpListener;

use crate::support::{
    agent::{TICKETS, clock},
    at_work::{LEDGER, ZONE, claims},
};

/// What the caller says of itself, to whomever.
const OWN: &str = "Bearer the-caller-s-own";
/// What a call through the Gateway brings there.
const ROUTED: [&str; 9] = [
    "accept",
    "authorization",
    "baggage",
    "host",
    "te",
    "traceparent",
    "user-agent",
    "x-caracal-resource",
    "x-own",
];
/// What any other brings to where it goes.
const DIRECT: [&str; 5] = ["accept", "authorization", "host", "user-agent", "x-own"];
/// The same to an origin that was listed.
const LISTED: [&str; 7] =
    ["accept", "authorization", "baggage", "host", "traceparent", "user-agent", "x-own"];

pub(crate) struct Arrived {
    at: &'static str,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

impl Arrived {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn names(&self) -> BTreeSet<&str> {
        self.headers.keys().map(header::HeaderName::as_str).collect()
    }
}

/// Servers that tell what arrived, and one client that calls.
pub(crate) struct Net {
    pub(crate) embedded: EmbeddedCaracal,
    pub(crate) client: Caracal,
    seen: Arc<Mutex<Vec<Arrived>>>,
    /// Authorities.
    pub(crate) gateway: String,
    pub(crate) other_host: String,
    pub(crate) other_port: String,
    pub(crate) bound: String,
    mandates: Mutex<HashSet<String>>,
}

/// Listens, tells, and redirects where the query says so.
async fn listen(at: &'static str, address: &str, seen: &Arc<Mutex<Vec<Arrived>>>) -> String {
    let listener = TcpListener::bind(address).await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let seen = Arc::clone(seen);
    let app = Router::new().fallback(move |request: Request| {
        let (head, _) = request.into_parts();
        let to = head.uri.query().and_then(|query| query.strip_prefix("to="));
        let answer = match to {
            Some(to) => {
                let location = [(header::LOCATION, to.to_owned())];
                (StatusCode::TEMPORARY_REDIRECT, location).into_response()
            }
            None => StatusCode::OK.into_response(),
        };
        let target = head.uri.to_string();
        seen.lock().unwrap().push(Arrived { at, target, headers: head.headers });
        async { answer }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    authority
}

impl Net {
    pub(crate) async fn start() -> Self {
        let seen = Arc::default();
        let gateway = listen("gateway", "127.0.0.1:0", &seen).await;
        let port = gateway.rsplit(':').next().unwrap();
        let other_host = listen("other host", &format!("127.0.0.2:{port}"), &seen).await;
        let other_port = listen("other port", "127.0.0.1:0", &seen).await;
        let bound = listen("bound", "127.0.0.1:0", &seen).await;
        let scopes = ["tickets:read"];
        let zone = Zone::new(ZONE)
            .application(Application::new("app-1"))
            .resource(Resource::new(TICKETS).scopes(scopes))
            .resource(Resource::new(LEDGER).scopes(scopes))
            .grant(Grant::new("app-1", TICKETS).role("app-1").scopes(scopes))
            .grant(Grant::new("app-1", LEDGER).role("app-1").scopes(scopes));
        let world = World::new().zone(zone);
        let embedded =
            EmbeddedCaracal::builder().world(world).clock(clock()).start().await.unwrap();
        let client = embedded
            .client_builder("app-1")
            .gateway_url(format!("http://{gateway}/base/"))
            .resource(TICKETS, format!("http://{bound}/v1"), scopes)
            .resource(LEDGER, "http://Ledger.internal/v1", scopes)
            .build()
            .unwrap();
        let mandates = Mutex::default();
        Self { embedded, client, seen, gateway, other_host, other_port, bound, mandates }
    }

    /// The calls of one kind, each with what must come of it.
    pub(crate) fn table(&self) -> Vec<Case> {
        let Self { gateway, other_host, other_port, bound, .. } = self;
        let direct = |at, target: &str| Comes::Direct(at, target.to_owned());
        let same = |target: &str| (Comes::Routed(target.to_owned()), target.to_owned());
        let redirect =
            |to: &str| (direct("other port", &format!("/x?to={to}")), format!("/base/x?to={to}"));
        let plain = |at, target: &str| (direct(at, target), format!("/base{target}"));
        let nowhere = |target: &str| (Comes::Nowhere, target.to_owned());
        let third = format!("http://{other_port}");
        let away = format!("?to={third}/y");
        // What is called, what comes of it, and where it arrives when the resource is named.
        let sent = [
            (
                "gateway",
                format!("http://{gateway}/base/a%2Fb?q=%2e%2e"),
                same("/base/a%2Fb?q=%2e%2e"),
            ),
            ("bound", format!("http://{bound}/v1/a%2Fb%3Fc?d"), same("/base/a%2Fb%3Fc?d")),
            ("beside bound", format!("http://{bound}/v1beta/x"), plain("bound", "/v1beta/x")),
            ("other host", format!("http://{other_host}/base/x"), plain("other host", "/base/x")),
            ("other base", format!("http://{gateway}/elsewhere"), plain("gateway", "/elsewhere")),
            (
                "longer base",
                format!("http://{gateway}/basement/x"),
                plain("gateway", "/basement/x"),
            ),
            ("other port", format!("{third}/base/x"), plain("other port", "/base/x")),
            ("other scheme", format!("https://{gateway}/base/x"), nowhere("/base/base/x")),
            ("bound by other scheme", format!("https://{bound}/v1/x"), nowhere("/base/x")),
            (
                "redirect from the gateway",
                format!("http://{bound}/v1/x{away}"),
                same(&format!("/base/x{away}")),
            ),
            (
                "redirect to bound",
                format!("{third}/x?to=http://{bound}/v1/y"),
                redirect(&format!("http://{bound}/v1/y")),
            ),
            (
                "redirect to the gateway",
                format!("{third}/x?to=http://{gateway}/base/y"),
                redirect(&format!("http://{gateway}/base/y")),
            ),
        ];
        let case =
            |name, target, transport, application| Case { name, target, transport, application };
        let sent = sent.into_iter().map(|(name, target, (transport, application))| {
            case(name, target, transport, Comes::Routed(application))
        });
        let mut cases: Vec<_> = sent.collect();
        for base in [format!("{gateway}/base"), format!("{bound}/v1"), other_host.clone()] {
            let user = format!("http://user:secret@{base}/x");
            cases.push(case("userinfo", user, Comes::Refused, Comes::Refused));
            let empty = format!("http://@{base}/x");
            cases.push(case("empty userinfo", empty, Comes::Refused, Comes::Refused));
            for path in [
                "/../x",
                "/./x",
                "/x/..",
                "/x/.",
                "/%2e%2e/x",
                "/%2E./x",
                "/%252e%252e/x",
                "/x%5c..%5cy",
                "/x%2F..%2Fy",
                "/..\\x",
                "/.\t./x",
                "/%25252e%25252e/x",
            ] {
                let steps = format!("http://{base}{path}");
                cases.push(case("dot segments", steps, Comes::Refused, Comes::Refused));
            }
        }
        cases
    }

    /// What arrived since it was last asked.
    pub(crate) fn arrivals(&self) -> Vec<Arrived> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// A request that says all that a caller may say.
    pub(crate) fn said(request: TransportRequest) -> TransportRequest {
        request.header("authorization", OWN).header("x-own", "1")
    }

    /// Sends, and compares.
    pub(crate) async fn check(
        &self,
        who: &str,
        request: TransportRequest,
        comes: &Comes,
        listed: bool,
    ) {
        let before = self.embedded.requests().len();
        let answer = request.send().await;
        let arrived = self.arrivals();
        let all: Vec<_> = arrived.iter().map(|one| format!("{} {}", one.at, one.target)).collect();
        match comes {
            Comes::Routed(target) => {
                assert_eq!(all, [format!("gateway {target}")], "{who}: {answer:?}");
                self.assert_routed(who, &arrived[0]);
            }
            Comes::Direct(at, target) => {
                assert_eq!(all, [format!("{at} {target}")], "{who}: {answer:?}");
                let names = if listed { LISTED.as_slice() } else { &DIRECT };
                assert_eq!(arrived[0].names(), names.iter().copied().collect(), "{who}");
                assert_eq!(arrived[0].header("authorization"), OWN, "{who}");
                let ids = arrived[0].header("baggage").contains("caracal.agent_session");
                assert_eq!(ids, listed, "{who}");
            }
            Comes::Nowhere | Comes::Refused => assert!(all.is_empty(), "{who}: {all:?}"),
        }
        let mintless = !matches!(comes, Comes::Routed(_));
        assert!(!mintless || self.embedded.requests().len() == before, "{who}: needless requests");
        assert_answer(who, answer, comes);
    }

    pub(crate) fn assert_routed(&self, who: &str, arrived: &Arrived) {
        assert_eq!(arrived.names(), ROUTED.into_iter().collect(), "{who}");
        assert_eq!(arrived.headers.get_all("authorization").iter().count(), 1, "{who}");
        assert_eq!(arrived.headers.get_all("x-caracal-resource").iter().count(), 1, "{who}");
        assert_eq!(arrived.header("host"), self.gateway, "{who}");
        assert!([TICKETS, LEDGER].contains(&arrived.header("x-caracal-resource")), "{who}");
        assert!(arrived.header("baggage").contains("caracal.agent_session"), "{who}");
        let bearer = arrived.header("authorization").strip_prefix("Bearer ").unwrap();
        assert_eq!(claims(bearer)["use"], "gateway", "{who}");
        assert!(self.mandates.lock().unwrap().insert(bearer.to_owned()), "{who}: used twice");
    }

    pub(crate) async fn check_all(&self, who: &str, transport: &Transport) {
        for case in self.table() {
            let mut request = Self::said(transport.get(&case.target));
            if case.name == "gateway" {
                request = request.header("x-caracal-resource", TICKETS);
            }
            let who = format!("{who}, {}: {}", case.name, case.target);
            self.check(&who, request, &case.transport, false).await;
        }
    }
}

fn assert_answer(who: &str, answer: Result<Response, CaracalError>, comes: &Comes) {
    match (answer, comes) {
        (Ok(answer), Comes::Routed(target) | Comes::Direct(_, target)) => {
            let redirected = if target.contains("to=") { 307 } else { 200 };
            assert_eq!(answer.status(), redirected, "{who}");
        }
        (Err(error), Comes::Refused) => assert_eq!(error.code(), "invalid_target", "{who}"),
        (Err(error), Comes::Nowhere) => assert_eq!(error.code(), "unreachable", "{who}"),
        (answer, _) => panic!("{who}: {answer:?}"),
    }
}

/// What comes of a call.
pub(crate) enum Comes {
    /// It arrives at the Gateway, with a mandate.
    Routed(String),
    /// It arrives where it was addressed, as it was.
    Direct(&'static str, String),
    /// Nobody there speaks its language.
    Nowhere,
    Refused,
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) target: String,
    pub(crate) transport: Comes,
    pub(crate) application: Comes,
}
