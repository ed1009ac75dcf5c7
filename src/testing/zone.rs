//! The keys of an issuer, as its endpoint and its verifiers ask for them.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use http::StatusCode;
use serde_json::{Value, json};

use super::SigningKey;
use crate::{KeyDocument, KeyError, KeyRequest, KeySource};

/// A zone and its keys: one signs, the one before it is still published.
pub(super) struct Zone {
    pub(super) issuer: String,
    pub(super) id: String,
    keys: Mutex<Keys>,
}

struct Keys {
    newest: SigningKey,
    previous: Option<SigningKey>,
    /// How many there have been.
    made: usize,
}

impl Zone {
    pub(super) fn new(issuer: String, id: String) -> Self {
        let keys = Keys { newest: key(1), previous: None, made: 1 };
        Self { issuer, id, keys: Mutex::new(keys) }
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that signs.
    pub(super) fn signer(&self) -> SigningKey {
        self.keys().newest.clone()
    }

    /// Signs with a new key from now on; its `kid`.
    pub(super) fn rotate(&self) -> String {
        let mut keys = self.keys();
        keys.made += 1;
        let new = key(keys.made);
        let kid = new.kid().to_owned();
        keys.previous = Some(std::mem::replace(&mut keys.newest, new));
        kid
    }

    /// The key document, newest first (inbound contract §7.6).
    pub(super) fn document(&self) -> Value {
        let keys = self.keys();
        let published = std::iter::once(&keys.newest).chain(&keys.previous);
        json!({ "keys": published.map(SigningKey::jwk).collect::<Vec<_>>() })
    }
}

fn key(number: usize) -> SigningKey {
    SigningKey::generate(&format!("key-{number}"))
}

fn gone() -> KeyError {
    KeyError::Unreachable("the issuer was stopped".to_owned())
}

/// The keys without the way over HTTP. It does not keep the issuer alive.
pub(super) struct Published(pub(super) Weak<Zone>);

impl KeySource for Published {
    async fn fetch(&self, request: &KeyRequest) -> Result<KeyDocument, KeyError> {
        let zone = self.0.upgrade().ok_or_else(gone)?;
        if (request.issuer(), request.zone()) != (&*zone.issuer, &*zone.id) {
            return Err(KeyError::Status(StatusCode::NOT_FOUND));
        }
        Ok(KeyDocument { status: StatusCode::OK, body: zone.document().to_string().into() })
    }
}
