//! Project Wycheproof: ES256 rows at the signature, JWK rows at the key filter, base64 rows at the
//! decoder.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    jose::{Compact, decode},
    keys::{KeyDocument, usable_keys},
};

fn groups(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/wycheproof/{file}", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["testGroups"].as_array().unwrap().clone()
}

fn rows(file: &str, wanted: impl Fn(u64) -> bool) -> Vec<(Value, u64, Value, bool)> {
    let mut rows = Vec::new();
    for group in groups(file) {
        for test in group["tests"].as_array().unwrap() {
            let id = test["tcId"].as_u64().unwrap();
            if wanted(id) {
                let valid = test["result"] == "valid";
                rows.push((group.clone(), id, test["jws"].clone(), valid));
            }
        }
    }
    rows
}

/// Whether `jws` verifies under a key that the filter lets through.
fn verifies(keys: &Value, jws: &str) -> bool {
    let body = Bytes::from(json!({ "keys": keys }).to_string());
    let document = KeyDocument { status: StatusCode::OK, body };
    let Ok(keys) = usable_keys(&document) else { return false };
    let Ok(compact) = Compact::parse(jws.as_bytes(), 16 * 1024) else { return false };
    keys.get(&compact.kid)
        .is_some_and(|key| key.verify(compact.signed(jws.as_bytes()), &compact.signature))
}

#[test]
fn signatures() {
    let wanted = |id| matches!(id, 18..=32 | 354 | 356 | 378..=401);
    let rows = rows("json_web_signature_test.json", wanted);
    assert_eq!(rows.len(), 41);
    for (group, id, jws, valid) in rows {
        let mut key = group["public"].clone();
        // These two keys come without `alg`; only their use must be what refuses them.
        if matches!(id, 354 | 356) {
            key["alg"] = json!("ES256");
        }
        assert_eq!(verifies(&json!([key]), jws.as_str().unwrap()), valid, "tcId {id}");
    }
}

#[test]
fn the_use_of_a_key_is_what_refuses_rows_354_and_356() {
    for (group, id, jws, _) in rows("json_web_signature_test.json", |id| matches!(id, 354 | 356)) {
        let mut key = group["public"].clone();
        key["alg"] = json!("ES256");
        key.as_object_mut().unwrap().remove("use");
        key.as_object_mut().unwrap().remove("key_ops");
        assert!(verifies(&json!([key]), jws.as_str().unwrap()), "tcId {id}");
    }
}

#[test]
fn keys() {
    let rows = rows("json_web_key_test.json", |id| matches!(id, 1..=4 | 19..=26));
    assert_eq!(rows.len(), 12);
    for (group, id, jws, _) in rows {
        // Row 2 is valid for its HS256 and RS256 keys; no row has a key for ES256 and this filter.
        let keys = [&group["public"], &group["private"]].into_iter().find(|set| set.is_object());
        let jws = jws.as_str().map_or_else(|| jws.to_string(), str::to_owned);
        assert!(!verifies(&keys.unwrap()["keys"], &jws), "tcId {id}");
    }
}

#[test]
fn base64() {
    let rows = rows("json_web_signature_test.json", |id| (357..=377).contains(&id));
    assert_eq!(rows.len(), 21);
    for (_, id, jws, valid) in rows {
        let decodes = jws.as_str().unwrap().split('.').all(|part| decode(part).is_ok());
        let expected = match id {
            // A stray `?` is tolerated by some libraries; one token has one spelling here.
            372 | 373 => false,
            // Valid base64url as printed: what is wrong with them is the MAC.
            367 | 370 => true,
            _ => valid,
        };
        assert_eq!(decodes, expected, "tcId {id}");
    }
}
