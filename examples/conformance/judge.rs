//! One line in, one answer out.
//!
//! `{"id", "kind": "verify", "authorization", "jwks", "options", "now", "repeat"}` answers
//! `{"id", "status", "code", ..}` with `claims` or with the error's texts, and the key documents
//! that were fetched; `{"id", "refused_configuration"}` when the builder refuses the options.
//! `{"id", "kind": "envelope", "headers", "existing"}` answers `{"id", "decoded", "outbound", ..}`.
//! Anything else answers `{"id", "failure"}`.
//!
//! One character of a header value is one byte on the wire.

use std::sync::{Arc, Mutex};

use axum::{Json, Router, body::Body, response::Response, routing::get};
use caracal_axum::{
    CaracalLayer, Envelope, KeyDocument, KeyError, KeyRequest, KeySource, Mandate, MandateVerifier,
    ManualClock, MemoryRevocations, TokenUse, decode_envelope, encode_envelope, to_headers,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Answers one line.
pub(crate) async fn answer_line(line: &[u8]) -> Value {
    let line: Value = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => return json!({"id": null, "failure": format!("not JSON: {error}")}),
    };
    answer(line).await
}

/// Answers one parsed line.
pub(crate) async fn answer(line: Value) -> Value {
    let id = line.get("id").cloned().unwrap_or_default();
    let kind = line.get("kind").and_then(Value::as_str).unwrap_or_default();
    let answered = match kind {
        "verify" => match serde_json::from_value(line.clone()) {
            Ok(case) => verify(case).await,
            Err(error) => Err(error.to_string()),
        },
        "envelope" => serde_json::from_value(line.clone())
            .map_err(|error| error.to_string())
            .and_then(|case| envelope(&case)),
        kind => Err(format!("unknown kind {kind:?}")),
    };
    let mut answer = answered.unwrap_or_else(|failure| json!({"failure": failure}));
    answer["id"] = id;
    answer
}

#[derive(Deserialize)]
struct VerifyCase {
    authorization: Option<OneOrMany>,
    jwks: Option<Jwks>,
    #[serde(default)]
    options: Option<Options>,
    now: Option<u64>,
    repeat: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Options {
    issuer: Option<String>,
    audience: Option<String>,
    zone: Option<String>,
    required_scopes: Option<Vec<String>>,
    required_targets: Option<Vec<String>>,
    required_use: Option<String>,
    require_session: Option<bool>,
    require_delegation: Option<bool>,
    require_chain_contains: Option<Vec<String>>,
    max_hop_count: Option<i64>,
    revoked_anchors: Option<Vec<String>>,
    delegation_epoch: Option<u64>,
    no_revocation_store: Option<bool>,
}

#[derive(Deserialize, Clone)]
struct Jwks {
    status: Option<u16>,
    body: Option<Value>,
    raw: Option<String>,
    raw_hex: Option<String>,
    pad_to: Option<usize>,
    error: Option<bool>,
}

/// The key endpoint of a case, which keeps count.
#[derive(Clone)]
struct Endpoint {
    answer: Option<KeyDocument>,
    fetched: Arc<Mutex<Vec<String>>>,
}

impl KeySource for Endpoint {
    async fn fetch(&self, request: &KeyRequest) -> Result<KeyDocument, KeyError> {
        self.fetched.lock().expect("no panics").push(request.url().to_owned());
        self.answer.clone().ok_or_else(|| KeyError::Unreachable("no connection".into()))
    }
}

impl Jwks {
    fn document(&self) -> Result<Option<KeyDocument>, String> {
        if self.error == Some(true) {
            return Ok(None);
        }
        let mut body = match (&self.raw_hex, &self.raw, &self.body) {
            (Some(hex), ..) => from_hex(hex)?,
            (_, Some(raw), _) => raw.clone().into_bytes(),
            (_, _, Some(body)) => body.to_string().into_bytes(),
            _ => Vec::new(),
        };
        if let Some(length) = self.pad_to {
            body.resize(length.max(body.len()), b' ');
        }
        let status = StatusCode::from_u16(self.status.unwrap_or(200));
        let status = status.map_err(|error| error.to_string())?;
        Ok(Some(KeyDocument { status, body: body.into() }))
    }
}

fn from_hex(hex: &str) -> Result<Vec<u8>, String> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err("raw_hex has an odd length".into());
    }
    digits
        .chunks(2)
        .map(|pair| {
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "raw_hex is not hexadecimal".into())
}

fn wire_value(text: &str) -> Result<HeaderValue, String> {
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    let bytes = bytes.map_err(|_| "a header value has a character above 0xff")?;
    HeaderValue::from_bytes(&bytes).map_err(|_| "no header value may hold these bytes".into())
}

async fn verify(case: VerifyCase) -> Result<Value, String> {
    let document = match &case.jwks {
        Some(jwks) => jwks.document()?,
        None => None,
    };
    let endpoint = Endpoint { answer: document, fetched: Arc::default() };
    let options = case.options.unwrap_or_default();
    let verifier = match build(options, endpoint.clone(), case.now) {
        Ok(verifier) => verifier,
        Err(refusal) => return Ok(json!({"refused_configuration": refusal})),
    };
    let lines = match case.authorization {
        None => Vec::new(),
        Some(OneOrMany::One(line)) => vec![line],
        Some(OneOrMany::Many(lines)) => lines,
    };
    let values: Vec<_> = lines.iter().map(|line| wire_value(line)).collect::<Result<_, _>>()?;
    let app = Router::new()
        .route("/", get(|mandate: Mandate| async { Json(mandate) }))
        .layer(CaracalLayer::enforce(verifier));

    let mut last: Option<Value> = None;
    for _ in 0..case.repeat.unwrap_or(1).max(1) {
        let mut request = Request::new(Body::empty());
        for value in &values {
            request.headers_mut().append(header::AUTHORIZATION, value.clone());
        }
        let response = app.clone().oneshot(request).await.map_err(|error| error.to_string())?;
        let answer = read(response).await?;
        if last.as_ref().is_some_and(|last| *last != answer) {
            return Err(format!("the answers to one request differ: {last:?} and {answer}"));
        }
        last = Some(answer);
    }
    let mut answer = last.unwrap_or_default();
    answer["jwks_fetched"] = json!(*endpoint.fetched.lock().expect("no panics"));
    Ok(answer)
}

fn build(options: Options, keys: Endpoint, now: Option<u64>) -> Result<MandateVerifier, String> {
    let mut builder = MandateVerifier::builder().key_source(keys);
    if let Some(issuer) = options.issuer {
        builder = builder.issuer(issuer);
    }
    if let Some(audience) = options.audience {
        builder = builder.audience(audience);
    }
    if let Some(zone) = &options.zone {
        builder = builder.zone(zone.clone());
    }
    if let Some(scopes) = options.required_scopes {
        builder = builder.required_scopes(scopes);
    }
    if let Some(targets) = options.required_targets {
        builder = builder.required_targets(targets);
    }
    if let Some(text) = options.required_use.filter(|text| !text.is_empty()) {
        let token_use = TokenUse::parse(&text);
        builder = builder.required_use(token_use.ok_or("required_use is resource or session")?);
    }
    if options.require_session == Some(true) {
        builder = builder.require_session();
    }
    if options.require_delegation == Some(true) {
        builder = builder.require_delegation();
    }
    if let Some(applications) = options.require_chain_contains {
        builder = builder.require_chain_contains(applications);
    }
    if let Some(hops) = options.max_hop_count.filter(|hops| *hops > 0) {
        builder = builder.max_hop_count(u32::try_from(hops).unwrap_or(u32::MAX));
    }
    if let Some(now) = now {
        builder = builder.clock(ManualClock::new(now));
    }
    if options.no_revocation_store != Some(true) {
        let revocations = MemoryRevocations::default();
        for anchor in options.revoked_anchors.unwrap_or_default() {
            revocations.revoke(&anchor).map_err(|error| error.to_string())?;
        }
        if let (Some(epoch), Some(zone)) = (options.delegation_epoch, &options.zone) {
            revocations.raise_epoch(zone, epoch).map_err(|error| error.to_string())?;
        }
        builder = builder.revocations(revocations);
    }
    builder.build().map_err(|error| error.to_string())
}

async fn read(response: Response) -> Result<Value, String> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    let body: Value =
        serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())?;
    if status == StatusCode::OK {
        return Ok(json!({"status": 200, "code": "ok", "claims": body}));
    }
    Ok(json!({
        "status": status.as_u16(),
        "code": body["error"],
        "error_description": body["error_description"],
        "error_hint": body["error_hint"],
    }))
}

#[derive(Deserialize)]
struct EnvelopeCase {
    headers: Vec<(String, String)>,
    existing: Option<Vec<(String, String)>>,
}

fn envelope(case: &EnvelopeCase) -> Result<Value, String> {
    let envelope = decode_envelope(&header_map(&case.headers)?);
    let mut answer = json!({
        "decoded": decoded(&envelope),
        "outbound": header_list(&to_headers(&envelope)),
    });
    if let Some(existing) = &case.existing {
        let mut headers = header_map(existing)?;
        encode_envelope(&envelope, &mut headers);
        answer["outbound_merged"] = header_list(&headers);
    }
    Ok(answer)
}

fn header_map(list: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        headers.append(name, wire_value(value)?);
    }
    Ok(headers)
}

fn header_list(headers: &HeaderMap) -> Value {
    let text =
        |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
    let mut list: Vec<(&str, String)> =
        headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    // Stable, so that the lines of one name keep their order.
    list.sort_by_key(|(name, _)| *name);
    json!(list)
}

fn decoded(envelope: &Envelope) -> Value {
    json!({
        "subject_token": envelope.subject_token.as_ref().map(|token| token.expose()),
        "session_id": envelope.agent_session_id,
        "delegation_id": envelope.delegation_edge_id,
        "parent_delegation_id": envelope.parent_edge_id,
        "subject_authority_record_id": envelope.authority_record_id,
        "trace_id": envelope.trace_id.map(|id| id.to_string()),
        "trace_flags": envelope.trace_flags.map(|flags| flags.to_string()),
        "trace_state": envelope.trace_state,
        "hop": envelope.hop,
        "baggage": envelope.baggage.iter().collect::<Vec<_>>(),
    })
}
