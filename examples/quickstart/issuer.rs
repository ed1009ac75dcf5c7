//! A token issuer in this process: a zone with ES256 keys, its key endpoint on loopback, and
//! mandates of any content. It grants whatever it is asked for; a real Caracal does not.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// The zone that the issuer has keys for.
pub(crate) const ZONE: &str = "zone-1";

/// A running issuer.
pub(crate) struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<SigningKey>>>,
    server: JoinHandle<()>,
}

/// A key pair and its public half as a JWK.
#[derive(Clone)]
pub(crate) struct SigningKey {
    private: EncodingKey,
    kid: String,
    jwk: Value,
}

impl SigningKey {
    /// A new key.
    pub(crate) fn generate(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness");
        let pkcs8 = pair.to_pkcs8v1().expect("a P-256 key");
        // The uncompressed point: 0x04, then 32 bytes each of x and y.
        let point = pair.public_key().as_ref();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        });
        let private = EncodingKey::from_ec_der(pkcs8.as_ref());
        Self { private, kid: kid.to_owned(), jwk }
    }

    /// The public key as a key document lists it.
    pub(crate) fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// A mandate with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A JWS of any header and payload.
    pub(crate) fn sign_text(&self, header: &str, payload: &str) -> String {
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature =
            jsonwebtoken::crypto::sign(signed.as_bytes(), &self.private, Algorithm::ES256);
        format!("{signed}.{}", signature.expect("a P-256 key signs"))
    }
}

impl Issuer {
    /// Starts the issuer on a free port of loopback.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let keys = Arc::new(Mutex::new(vec![SigningKey::generate("key-1")]));
        let app = Router::new()
            .route("/.well-known/jwks.json", get(key_document))
            .with_state(Arc::clone(&keys));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the key endpoint ended: {error}");
            }
        });
        Ok(Self { url, keys, server })
    }

    /// The issuer URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The claims of a good mandate for `audience`, to be changed at will.
    pub(crate) fn claims(&self, audience: &str) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        json!({
            "iss": self.url, "aud": [audience], "zone_id": ZONE, "target": [audience],
            "sub": "planner", "sub_type": "application", "client_id": "planner",
            "sid": "record-7", "root_sid": "record-1", "jti": format!("mandate-{now}"),
            "use": "resource", "iat": now, "exp": now + 900,
            "agent_session_id": "session-7", "scope": "tickets:read",
        })
    }

    /// Signs claims with the newest key.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        lock(&self.keys).first().expect("an issuer has a key").sign(claims)
    }

    /// Signs with a new key from now on; the one before stays published, as a real STS does it.
    pub(crate) fn rotate(&self) {
        let mut keys = lock(&self.keys);
        let kid = format!("key-{}", keys.len() + 1);
        keys.insert(0, SigningKey::generate(&kid));
        keys.truncate(2);
    }

    /// Closes the key endpoint.
    pub(crate) async fn stop(self) {
        self.server.abort();
        // Ends with the error that says it was aborted.
        let _ = self.server.await;
    }
}

fn lock(keys: &Mutex<Vec<SigningKey>>) -> MutexGuard<'_, Vec<SigningKey>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct KeyQuery {
    zone_id: String,
}

async fn key_document(
    State(keys): State<Arc<Mutex<Vec<SigningKey>>>>,
    Query(query): Query<KeyQuery>,
) -> Response {
    if query.zone_id != ZONE {
        return StatusCode::NOT_FOUND.into_response();
    }
    let keys: Vec<Value> = lock(&keys).iter().map(SigningKey::jwk).collect();
    Json(json!({ "keys": keys })).into_response()
}
