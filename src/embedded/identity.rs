//! Identity providers: whose tokens a zone takes for its users, and how those are proven (outbound
//! contract §7.1).

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::time::Time;

/// How far the clocks of a provider and of the STS may be apart.
const TOLERANCE_SECONDS: u64 = 60;
const MAX_SUBJECT_BYTES: usize = 512;

/// An identity provider that a zone trusts: who its users are, is told by its tokens.
///
/// ```
/// use caracal_axum::{embedded::{IdentityProvider, Zone}, testing::SigningKey};
/// use serde_json::json;
///
/// let key = SigningKey::generate("idp-key");
/// let provider = IdentityProvider::new("https://idp.example", "portal-users")
///     .keys(json!({ "keys": [key.jwk()] }));
/// let zone = Zone::new("zone-1").identity_provider(provider);
///
/// // What a login would hand to the application, to be exchanged at the STS.
/// let id_token = key.sign(&json!({
///     "iss": "https://idp.example", "aud": "portal-users", "sub": "alice", "exp": 4_102_444_800_u64,
/// }));
/// # let _ = (zone, id_token);
/// ```
#[derive(Debug, Clone)]
pub struct IdentityProvider {
    pub(super) issuer: String,
    pub(super) audience: String,
    /// The document that was given.
    pub(super) document: Option<Value>,
    /// Where it is asked for otherwise.
    pub(super) url: Option<String>,
}

impl IdentityProvider {
    /// A provider by the `iss` of its tokens, exactly, and the `aud` that they must be for. It has
    /// no keys yet.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), audience: audience.into(), document: None, url: None }
    }

    /// Its key document (RFC 7517 §5), in place of what a URL answers.
    #[must_use]
    pub fn keys(mut self, document: Value) -> Self {
        self.document = Some(document);
        self
    }

    /// Where its key document is: asked for when a token comes, kept for five minutes by the clock,
    /// and asked for again when a token names a key that is not in it.
    #[must_use]
    pub fn keys_at(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }
}

/// The signing keys of a provider, by `kid`.
#[derive(Debug, Default)]
pub(super) struct KeySet(HashMap<String, PublicKey>);

/// A member of a key document, as far as it counts.
#[derive(Deserialize)]
struct Jwk {
    kid: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    #[serde(flatten)]
    key: PublicKey,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kty")]
enum PublicKey {
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
}

impl KeySet {
    /// Reads a key document. What is no signing key of a known kind is nobody's key.
    pub(super) fn read(document: &Value) -> Option<Self> {
        let keys = document.get("keys")?.as_array()?.iter();
        let keys = keys.filter_map(|key| Jwk::deserialize(key).ok());
        let signing =
            keys.filter(|key| key.purpose.as_ref().is_none_or(|purpose| purpose == "sig"));
        Some(Self(signing.map(|key| (key.kid, key.key)).collect()))
    }
}

/// An identity token that is not proven yet.
pub(super) struct Unproven<'t> {
    header: Header,
    claims: Map<String, Value>,
    signed: &'t str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl<'t> Unproven<'t> {
    /// Takes a compact JWS apart (RFC 7515 §7.1).
    pub(super) fn read(token: &'t str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
            signed,
            signature: decode(signature)?,
        })
    }

    pub(super) fn issuer(&self) -> &str {
        self.text("iss")
    }

    /// Whether the key that it names is among these.
    pub(super) fn has_key_in(&self, keys: &KeySet) -> bool {
        self.header.kid.as_ref().is_some_and(|kid| keys.0.contains_key(kid))
    }

    /// The subject of a token that `provider` has signed with one of its keys for this zone, as it
    /// stands there; else what is wrong with it.
    pub(super) fn prove(
        &self,
        provider: &IdentityProvider,
        keys: &KeySet,
        now: Time,
    ) -> Result<String, &'static str> {
        let key = self.header.kid.as_ref().and_then(|kid| keys.0.get(kid));
        let key = key.ok_or("it names no signing key of its issuer")?;
        if self.header.crit.is_some() || !self.is_signed_by(key) {
            return Err("its signature does not verify");
        }
        if self.issuer() != provider.issuer || !self.is_for(&provider.audience) {
            return Err("it is for another audience");
        }
        self.judge_times(now)?;
        let subject = self.text("sub");
        judge_subject(subject)?;
        Ok(subject.to_owned())
    }

    fn text(&self, claim: &str) -> &str {
        self.claims.get(claim).and_then(Value::as_str).unwrap_or_default()
    }

    fn is_signed_by(&self, key: &PublicKey) -> bool {
        let (signed, signature) = (self.signed.as_bytes(), &self.signature);
        match (self.header.alg.as_str(), key) {
            ("ES256", PublicKey::Ec { crv, x, y }) if crv == "P-256" => {
                verify_ec(&ECDSA_P256_SHA256_FIXED, 32, [x, y], signed, signature)
            }
            ("ES384", PublicKey::Ec { crv, x, y }) if crv == "P-384" => {
                verify_ec(&ECDSA_P384_SHA384_FIXED, 48, [x, y], signed, signature)
            }
            ("ES512", PublicKey::Ec { crv, x, y }) if crv == "P-521" => {
                verify_ec(&ECDSA_P521_SHA512_FIXED, 66, [x, y], signed, signature)
            }
            ("RS256", PublicKey::Rsa { n, e }) => {
                verify_rsa(&RSA_PKCS1_2048_8192_SHA256, n, e, signed, signature)
            }
            ("RS384", PublicKey::Rsa { n, e }) => {
                verify_rsa(&RSA_PKCS1_2048_8192_SHA384, n, e, signed, signature)
            }
            ("RS512", PublicKey::Rsa { n, e }) => {
                verify_rsa(&RSA_PKCS1_2048_8192_SHA512, n, e, signed, signature)
            }
            _ => false,
        }
    }

    fn is_for(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one == audience),
            _ => false,
        }
    }

    /// `exp` is needed; `nbf` and `iat` count where they are.
    fn judge_times(&self, now: Time) -> Result<(), &'static str> {
        let number = |claim: &str| match self.claims.get(claim) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or("a time of it is no number"),
        };
        let seconds = |time: u64| std::time::Duration::from_secs(time).as_secs_f64();
        let expires = number("exp")?.ok_or("it does not say when it expires")?;
        if expires <= seconds(now.seconds().saturating_sub(TOLERANCE_SECONDS)) {
            return Err("it has expired");
        }
        let latest = seconds(now.seconds().saturating_add(TOLERANCE_SECONDS));
        if number("nbf")?.is_some_and(|begin| begin > latest) {
            return Err("it is not valid yet");
        }
        if number("iat")?.is_some_and(|issued| issued > latest) {
            return Err("it was issued in the future");
        }
        Ok(())
    }
}

/// Subjects are refused, and never changed.
fn judge_subject(subject: &str) -> Result<(), &'static str> {
    let bidirectional = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if subject.is_empty() {
        return Err("it names no subject");
    }
    if subject.len() > MAX_SUBJECT_BYTES {
        return Err("its subject is longer than 512 bytes");
    }
    if subject.trim() != subject {
        return Err("its subject has blanks around it");
    }
    if subject.starts_with("caracal:") {
        return Err("its subject is a name of Caracal's own");
    }
    if subject.contains(|c: char| c.is_control() || c == '\u{fffd}' || bidirectional(c)) {
        return Err("its subject has characters that cannot be seen");
    }
    Ok(())
}

/// `size` is that of a coordinate.
fn verify_ec(
    algorithm: &'static EcdsaVerificationAlgorithm,
    size: usize,
    coordinates: [&String; 2],
    signed: &[u8],
    signature: &[u8],
) -> bool {
    // The uncompressed point (SEC 1 §2.3.3).
    let mut point = vec![4];
    for coordinate in coordinates {
        match URL_SAFE_NO_PAD.decode(coordinate) {
            Ok(bytes) if bytes.len() == size => point.extend(bytes),
            _ => return false,
        }
    }
    UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
}

fn verify_rsa(
    parameters: &'static RsaParameters,
    n: &str,
    e: &str,
    signed: &[u8],
    signature: &[u8],
) -> bool {
    let (Ok(n), Ok(e)) = (URL_SAFE_NO_PAD.decode(n), URL_SAFE_NO_PAD.decode(e)) else {
        return false;
    };
    RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
}

/// The keys that were fetched from one provider, and when.
pub(super) type Fetched = (Arc<KeySet>, Time);

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };
    use serde_json::json;

    use super::*;
    use crate::testing::SigningKey;

    const NOW: u64 = 1_000_000;

    fn provider() -> IdentityProvider {
        IdentityProvider::new("https://idp.example", "users")
    }

    fn claims(changes: &Value) -> Value {
        let mut claims = json!({
            "iss": "https://idp.example", "aud": "users", "sub": "alice", "exp": NOW + 900,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn judged(changes: &Value) -> Result<String, &'static str> {
        let key = SigningKey::generate("key-1");
        let keys = KeySet::read(&json!({ "keys": [key.jwk()] })).unwrap();
        let token = key.sign(&claims(changes));
        Unproven::read(&token).unwrap().prove(&provider(), &keys, Time::from_seconds(NOW))
    }

    #[test]
    fn clocks_may_be_a_minute_apart() {
        assert_eq!(judged(&json!({})).as_deref(), Ok("alice"));
        for right in [
            json!({ "exp": NOW - 59 }),
            json!({ "nbf": NOW + 60, "iat": NOW + 60 }),
            json!({ "exp": 1_000_000.5 }),
        ] {
            assert!(judged(&right).is_ok(), "{right}");
        }
        for wrong in [
            json!({ "exp": NOW - 60 }),
            json!({ "exp": "soon" }),
            json!({ "exp": null }),
            json!({ "nbf": NOW + 61 }),
            json!({ "iat": NOW + 61 }),
            json!({ "iat": "now" }),
        ] {
            assert!(judged(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn subjects_are_refused_and_never_changed() {
        for right in ["a", "auth0|Ünïcode user@example.org", "Caracal:alice", "ali\u{200d}ce"] {
            assert_eq!(judged(&json!({ "sub": right })).as_deref(), Ok(right));
        }
        for wrong in ["", "\u{a0}alice", "alice\u{3000}", "caracal:alice", "a\u{85}b", "a\u{2066}b"]
        {
            assert!(judged(&json!({ "sub": wrong })).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_header_cannot_ask_for_what_nobody_here_understands() {
        let key = SigningKey::generate("key-1");
        let keys = KeySet::read(&json!({ "keys": [key.jwk()] })).unwrap();
        let prove = |header: &str| {
            let token = key.sign_text(header, &claims(&json!({})).to_string());
            Unproven::read(&token).unwrap().prove(&provider(), &keys, Time::from_seconds(NOW))
        };
        assert!(prove(r#"{"alg":"ES256","kid":"key-1"}"#).is_ok());
        assert!(prove(r#"{"alg":"ES256","kid":"key-1","crit":["b64"],"b64":false}"#).is_err());
        assert!(prove(r#"{"alg":"ES384","kid":"key-1"}"#).is_err());
        for nothing in ["", "a", "a.b", "a.b.c", "e30.e30.", "e30.e30.e30.e30"] {
            assert!(Unproven::read(nothing).is_none(), "{nothing}");
        }
    }

    #[test]
    fn es512_is_p_521_with_sha_512() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let [x, y] = [&point[1..67], &point[67..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        let document = json!({ "keys": [
            { "kty": "EC", "kid": "key-5", "crv": "P-521", "alg": "ES512", "x": x, "y": y },
            { "kty": "OKP", "kid": "key-6", "crv": "X25519", "x": x }, 7,
        ] });
        let keys = KeySet::read(&document).unwrap();
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES512","kid":"key-5"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims(&json!({})).to_string()));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let proven = Unproven::read(&token).unwrap();
        assert!(proven.prove(&provider(), &keys, Time::from_seconds(NOW)).is_ok());
    }
}
