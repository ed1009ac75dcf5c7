//! Keys that sign mandates.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    error::Unspecified,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A P-256 key pair that signs ES256, and the `kid` it is published under.
///
/// For mandates that a [`MandateBuilder`](super::MandateBuilder) does not make, and for a
/// [`KeySource`](crate::KeySource) of your own:
///
/// ```
/// use caracal_axum::{StaticKeys, testing::SigningKey};
/// use serde_json::json;
///
/// let key = SigningKey::generate("key-1");
/// let document = json!({ "keys": [key.jwk()] }).to_string();
/// let keys = StaticKeys::new("https://sts.example.com", "zone-1", document);
/// let token = key.sign(&json!({ "iss": "https://sts.example.com" })); // and the other claims
/// # assert_eq!(token.split('.').count(), 3);
/// ```
#[derive(Clone)]
pub struct SigningKey {
    kid: Box<str>,
    pair: Arc<EcdsaKeyPair>,
    jwk: Value,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test cannot go on without a key")]
    pub fn generate(kid: &str) -> Self {
        Self::try_generate(kid).expect("the system has randomness for a key")
    }

    pub(crate) fn try_generate(kid: &str) -> Result<Self, Unspecified> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        // The uncompressed point: 0x04, then 32 bytes each of x and y.
        let point = pair.public_key().as_ref();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
            return Err(Unspecified);
        };
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": kid, "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        Ok(Self { kid: kid.into(), pair: Arc::new(pair), jwk })
    }

    /// The `kid`.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key, as a key document lists it (inbound contract §7.6).
    #[must_use]
    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// A token of these claims, with the header of an STS.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_text(&header("ES256", &self.kid), &claims.to_string())
    }

    /// A compact JWS of this header and payload, whatever they say.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test cannot go on without a signature")]
    pub fn sign_text(&self, header: &str, payload: &str) -> String {
        self.try_sign_text(header, payload).expect("the system has randomness for a signature")
    }

    /// A token of these claims, written as JSON.
    pub(crate) fn try_sign(&self, claims: &str) -> Result<String, Unspecified> {
        self.try_sign_text(&header("ES256", &self.kid), claims)
    }

    fn try_sign_text(&self, header: &str, payload: &str) -> Result<String, Unspecified> {
        compact(header, payload, |signed| self.signature(signed))
    }

    /// r and s, 32 bytes each (RFC 7518 §3.4).
    pub(super) fn signature(&self, signed: &[u8]) -> Result<Vec<u8>, Unspecified> {
        Ok(self.pair.sign(&SystemRandom::new(), signed)?.as_ref().to_vec())
    }
}

/// The header of an STS (inbound contract §7.1), with this `alg`.
pub(super) fn header(alg: &str, kid: &str) -> String {
    json!({ "alg": alg, "kid": kid, "typ": "JWT" }).to_string()
}

/// A compact JWS (RFC 7515 §5.1), signed by `signature` of what is to be signed.
pub(super) fn compact(
    header: &str,
    payload: &str,
    signature: impl FnOnce(&[u8]) -> Result<Vec<u8>, Unspecified>,
) -> Result<String, Unspecified> {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(signature(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}
