//! What is obviously wrong with a token that was given once and for all. Only the services can
//! prove it.

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Value};

/// With or without padding: whether its spelling is right is not judged here.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What is wrong with the token, where anything is. What is not a JWT, or cannot be decoded, is
/// left to the services.
pub(super) fn problem(token: &str, now: u64) -> Option<&'static str> {
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("has characters that no token has, such as a line break");
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let algorithm = object(header).and_then(|header| Some(header.get("alg")?.as_str()?.to_owned()));
    if algorithm.is_some_and(|algorithm| algorithm.eq_ignore_ascii_case("none")) {
        return Some("is unsigned (alg none)");
    }
    let expiry = object(payload).and_then(|payload| payload.get("exp")?.as_f64());
    // As in the Go client, 0 is no expiry.
    let expired = expiry.is_some_and(|expiry| expiry != 0.0 && expiry <= now as f64);
    expired.then_some("has expired")
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn jwt(header: &str, payload: &str) -> String {
        format!("{}.{}.sig", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn unsigned() {
        let unsigned = Some("is unsigned (alg none)");
        for alg in ["none", "None", "NONE", "nOnE"] {
            assert_eq!(problem(&jwt(&format!(r#"{{"alg":"{alg}"}}"#), "{}"), NOW), unsigned);
        }
        let padded = format!("{}.x.", URL_SAFE.encode(r#"{"alg":"none"}"#));
        assert!(padded.contains('='));
        assert_eq!(problem(&padded, NOW), unsigned);
        for header in [r#"{"alg":"ES256"}"#, r#"{"alg":"none2"}"#, r#"{"alg":7}"#, "{}", "[]", "x"]
        {
            assert_eq!(problem(&jwt(header, "{}"), NOW), None, "{header}");
        }
    }

    #[test]
    fn expired() {
        let of =
            |exp: &str| problem(&jwt(r#"{"alg":"ES256"}"#, &format!(r#"{{"exp":{exp}}}"#)), NOW);
        for exp in ["1", "-1", "1799999999", "1800000000", "1799999999.5"] {
            assert_eq!(of(exp), Some("has expired"), "{exp}");
        }
        for exp in ["0", "1800000001", "1e300", "\"1\"", "null"] {
            assert_eq!(of(exp), None, "{exp}");
        }
        let padded = format!("e30=.{}.s", URL_SAFE.encode(r#"{"exp":1}"#));
        assert_eq!(problem(&padded, NOW), Some("has expired"));
        assert_eq!(
            problem(&format!("!.{}.s", URL_SAFE.encode(r#"{"exp":1}"#)), NOW),
            Some("has expired")
        );
    }

    #[test]
    fn anything_else_is_left_to_the_services() {
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for token in
            ["opaque", "a.b", "..", "...", &none, &format!("{none}.x"), &format!("{none}.x.y.z")]
        {
            assert_eq!(problem(token, NOW), None, "{token}");
        }
    }

    #[test]
    fn what_no_header_can_carry() {
        for token in ["opaque\n", " opaque", "op aque", "opàque", "op\0aque"] {
            assert!(problem(token, NOW).is_some(), "{token:?}");
        }
    }
}
