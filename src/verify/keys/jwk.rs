//! The strict key filter: which elements of a key document may verify a mandate.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use http::StatusCode;

use super::{KeyDocument, KeyError, MAX_DOCUMENT_BYTES};
use crate::verify::{
    jose::{SIGNATURE_LEN, decode, is_kid},
    json::{Object, Value},
};

const MAX_KEYS: usize = 64;

/// A parsed ES256 key.
pub(in crate::verify) struct Key {
    public: ParsedPublicKey,
    /// Its uncompressed point: what tells two keys of one `kid` apart.
    point: Vec<u8>,
}

impl Key {
    /// ES256 with SHA-256 and a signature of exactly r and s (RFC 7518 §3.4).
    pub(in crate::verify) fn verify(&self, signed: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.public.verify_sig(signed, signature).is_ok()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.point == other.point
    }
}

/// The usable keys of a document, by `kid`.
pub(in crate::verify) type KeySet = HashMap<Box<str>, std::sync::Arc<Key>>;

/// Judges a document and keeps its usable keys.
pub(in crate::verify) fn usable_keys(document: &KeyDocument) -> Result<KeySet, KeyError> {
    if document.status != StatusCode::OK {
        return Err(KeyError::Status(document.status));
    }
    if document.body.len() > MAX_DOCUMENT_BYTES {
        return Err(KeyError::TooLarge);
    }
    let object = Object::parse(&document.body)
        .ok_or(KeyError::Malformed("not a JSON object, or duplicate members"))?;
    let elements = object
        .get("keys")
        .and_then(Value::as_array)
        .ok_or(KeyError::Malformed("no `keys` array"))?;
    if elements.len() > MAX_KEYS {
        return Err(KeyError::Malformed("more than 64 keys"));
    }
    let mut keys = KeySet::new();
    let mut seen = HashSet::new();
    for element in elements {
        // Elements that are no objects, or have no `kid`, are nobody's key.
        let Some(jwk) = element.as_object() else { continue };
        let Some(kid) = jwk.get("kid").and_then(Value::as_str) else { continue };
        let kid: Box<str> = kid.into();
        if !seen.insert(kid.clone()) {
            // Which of the two was meant cannot be told, usable or not.
            keys.remove(&kid);
            continue;
        }
        if let Some(key) = read_key(&jwk).filter(|_| is_kid(&kid)) {
            keys.insert(kid, key.into());
        }
    }
    if keys.is_empty() { Err(KeyError::NoUsableKey) } else { Ok(keys) }
}

/// A public P-256 key for verifying ES256, and for nothing else.
fn read_key(jwk: &Object<'_>) -> Option<Key> {
    let is = |name, expected: &str| {
        jwk.get(name).and_then(Value::as_str).is_some_and(|value| value == expected)
    };
    let for_signatures = match jwk.get("use") {
        None => true,
        Some(key_use) => key_use.as_str().is_some_and(|key_use| matches!(&*key_use, "" | "sig")),
    };
    let may_verify = match jwk.get("key_ops") {
        None => true,
        Some(operations) => operations
            .as_array()?
            .into_iter()
            .any(|operation| operation.as_str().is_some_and(|operation| operation == "verify")),
    };
    let private = jwk.get("d").is_some();
    let ours = is("kty", "EC") && is("crv", "P-256") && is("alg", "ES256");
    if !ours || !for_signatures || !may_verify || private {
        return None;
    }
    let coordinate = |name| {
        let text = jwk.get(name)?.as_str()?;
        decode(&text).ok().filter(|bytes| bytes.len() == 32)
    };
    let point = [vec![0x04], coordinate("x")?, coordinate("y")?].concat();
    // Refuses points that are not on the curve.
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).ok()?;
    Some(Key { public, point })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use bytes::Bytes;
    use serde_json::{Value as Json, json};

    use super::*;

    fn good() -> Json {
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": "k", "alg": "ES256",
            "x": "8c4znFEPbviCtt5xvTFIdrlM5up34P2Q6QP5nJL6bFE",
            "y": "GaDHtB2cRLhgzxklDzEal2nyK4mMjuytaHglXUUDkI4",
        })
    }

    fn with(member: &str, value: Json) -> Json {
        let mut key = good();
        key[member] = value;
        key
    }

    fn without(member: &str) -> Json {
        let mut key = good();
        key.as_object_mut().unwrap().remove(member);
        key
    }

    /// The right 64 bytes, cut into 31 and 33.
    fn split_elsewhere() -> Json {
        let key = good();
        let part = |name: &str| decode(key[name].as_str().unwrap()).unwrap();
        let both = [part("x"), part("y")].concat();
        let mut key = with("x", json!(URL_SAFE_NO_PAD.encode(&both[..31])));
        key["y"] = json!(URL_SAFE_NO_PAD.encode(&both[31..]));
        key
    }

    fn read(body: impl Into<Bytes>) -> Result<Vec<String>, KeyError> {
        let document = KeyDocument { status: StatusCode::OK, body: body.into() };
        let mut kids: Vec<_> = usable_keys(&document)?.into_keys().map(String::from).collect();
        kids.sort();
        Ok(kids)
    }

    fn set(keys: &[Json]) -> Result<Vec<String>, KeyError> {
        read(json!({ "keys": keys }).to_string())
    }

    #[test]
    fn keys_that_pass() {
        for key in [
            good(),
            without("use"),
            with("use", json!("")),
            with("key_ops", json!(["verify"])),
            with("key_ops", json!(["sign", "verify"])),
            with("x5t", json!("anything")),
        ] {
            assert_eq!(
                set(std::slice::from_ref(&key)).as_deref(),
                Ok(["k".to_owned()].as_slice()),
                "{key}"
            );
        }
    }

    #[test]
    fn unusable_keys() {
        for key in [
            with("kty", json!("RSA")),
            without("kty"),
            with("crv", json!("P-384")),
            with("crv", json!("secp256k1")),
            without("crv"),
            with("alg", json!("ES384")),
            with("alg", json!("es256")),
            with("alg", json!(null)),
            without("alg"),
            with("use", json!("enc")),
            with("use", json!(1)),
            with("use", json!(null)),
            with("key_ops", json!(["sign"])),
            with("key_ops", json!([])),
            with("key_ops", json!("verify")),
            with("key_ops", json!(null)),
            with("d", json!("AAAA")),
            with("d", json!(null)),
            without("kid"),
            with("kid", json!("")),
            with("kid", json!(7)),
            with("kid", json!("a b")),
            without("x"),
            with("x", json!("8c4znFEPbviCtt5xvTFIdrlM5up34P2Q6QP5nJL6bFE=")),
            with("x", json!("zjOcUQ9u-IK23nG9MUh2uUzm6nfg_ZDpA_mckvpsUQ")),
            with("y", json!("8c4znFEPbviCtt5xvTFIdrlM5up34P2Q6QP5nJL6bFE")),
            split_elsewhere(),
            json!({"kty": "oct", "kid": "k", "alg": "ES256", "k": "AAAA"}),
        ] {
            assert_eq!(set(std::slice::from_ref(&key)), Err(KeyError::NoUsableKey), "{key}");
        }
    }

    #[test]
    fn one_bad_key_does_not_spoil_a_set() {
        let mut other = good();
        other["kid"] = json!("other");
        let keys = [json!("text"), json!(null), with("alg", json!("RS256")), other];
        assert_eq!(set(&keys), Ok(vec!["other".into()]));
    }

    #[test]
    fn a_kid_used_twice_is_nobodys() {
        let mut other = good();
        other["kid"] = json!("other");
        let rsa = json!({"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"});
        assert_eq!(set(&[good(), other.clone(), good()]), Ok(vec!["other".into()]));
        assert_eq!(set(&[good(), other.clone(), rsa.clone()]), Ok(vec!["other".into()]));
        assert_eq!(set(&[rsa, good(), good(), other]), Ok(vec!["other".into()]));
    }

    #[test]
    fn documents_that_are_refused_as_a_whole() {
        let key = good();
        for body in [
            String::new(),
            "not json".into(),
            json!([key]).to_string(),
            json!({"keys": null}).to_string(),
            json!({"keys": {}}).to_string(),
            json!({"Keys": [key]}).to_string(),
            format!(r#"{{"keys":[{key}],"keys":[]}}"#),
            format!(r#"{{"keys":[{key}],"x":{{"a":1,"a":1}}}}"#),
            format!(r#"{{"keys":[{key}],"x":NaN}}"#),
            format!(r#"{{"keys":[{key}]}} x"#),
            format!("\u{feff}{{\"keys\":[{key}]}}"),
            json!({"keys": vec![json!({}); 65]}).to_string(),
        ] {
            assert!(matches!(read(body.clone()), Err(KeyError::Malformed(_))), "{body}");
        }
        let document = |status: u16| KeyDocument {
            status: StatusCode::from_u16(status).unwrap(),
            body: json!({"keys": [good()]}).to_string().into(),
        };
        for status in [201, 204, 302, 404, 500] {
            let error = usable_keys(&document(status)).err();
            assert_eq!(
                error.unwrap().to_string(),
                KeyError::Status(document(status).status).to_string()
            );
        }
    }

    #[test]
    fn the_size_cap_is_inclusive() {
        let mut body = json!({"keys": [good()]}).to_string();
        body.extend(std::iter::repeat_n(' ', MAX_DOCUMENT_BYTES - body.len()));
        assert!(read(body.clone()).is_ok());
        body.push(' ');
        assert_eq!(read(body), Err(KeyError::TooLarge));
    }
}
