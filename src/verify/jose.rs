//! The strict compact JWS: exactly what a Caracal STS emits, in one spelling.

use std::{fmt, sync::LazyLock};

use base64::{
    DecodeSliceError, Engine as _,
    engine::{Simd, general_purpose::NO_PAD},
};
use serde::de::{Deserializer as _, MapAccess, Visitor};

use super::json::{Name, Names, Strict, TextOrElse, owned};
use crate::Reason;

/// The length of an ES256 signature: r and s, 32 bytes each (RFC 7518 §3.4).
pub(super) const SIGNATURE_LEN: usize = 64;

const MAX_KID_CHARS: usize = 256;

/// Parameters that would change which key is used or what is signed. A Caracal STS sends none.
const REFUSED: [&str; 6] = ["crit", "b64", "jku", "jwk", "x5u", "x5c"];

/// A token taken apart. Nothing in it is proven yet.
pub(super) struct Compact {
    /// How much of the token the signature is over.
    signed_len: usize,
    pub(super) kid: Box<str>,
    pub(super) payload: Vec<u8>,
    pub(super) signature: [u8; SIGNATURE_LEN],
}

impl Compact {
    pub(super) fn parse(token: &[u8], max_bytes: usize) -> Result<Self, Reason> {
        if token.len() > max_bytes {
            return Err(Reason::TooLarge);
        }
        // As text, which std searches faster than bytes.
        let text = std::str::from_utf8(token).map_err(|_| Reason::Encoding)?;
        let mut segments = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(Reason::NotCompact);
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Reason::NotCompact);
        }
        let kid = read_header(&decode(header)?)?;
        let signature = decode_signature(signature)?;
        let signed_len = header.len() + 1 + payload.len();
        Ok(Self { signed_len, kid, payload: decode(payload)?, signature })
    }

    /// The part of `token`, which it was parsed from, that the signature is over.
    pub(super) fn signed<'t>(&self, token: &'t [u8]) -> &'t [u8] {
        token.get(..self.signed_len).unwrap_or_default()
    }
}

/// The engine that takes the processor's vector instructions where it has them.
static BASE64: LazyLock<Simd> = LazyLock::new(|| Simd::url_safe(NO_PAD));

/// Unpadded base64url whose unused bits are zero: each value has one spelling.
pub(super) fn decode(segment: &str) -> Result<Vec<u8>, Reason> {
    BASE64.decode(segment).map_err(|_| Reason::Encoding)
}

fn decode_signature(segment: &str) -> Result<[u8; SIGNATURE_LEN], Reason> {
    let mut signature = [0; SIGNATURE_LEN];
    match BASE64.decode_slice(segment, &mut signature) {
        Ok(SIGNATURE_LEN) => Ok(signature),
        Ok(_) | Err(DecodeSliceError::OutputSliceTooSmall) => Err(Reason::Signature),
        Err(DecodeSliceError::DecodeError(_)) => Err(Reason::Encoding),
    }
}

fn read_header(text: &[u8]) -> Result<Box<str>, Reason> {
    let text = std::str::from_utf8(text).map_err(|_| Reason::HeaderJson)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let header = reader.deserialize_map(HeaderVisitor).map_err(|_| Reason::HeaderJson)?;
    reader.end().map_err(|_| Reason::HeaderJson)?;
    if let Some(name) = header.refused {
        return Err(Reason::HeaderParameter(name));
    }
    if header.is_es256 != Some(true) {
        return Err(Reason::Algorithm);
    }
    if header.is_mandate.is_some_and(|is_mandate| is_mandate != Some(true)) {
        return Err(Reason::TokenType);
    }
    header.kid.filter(|kid| is_kid(kid)).ok_or(Reason::KeyId)
}

/// What a header says; `None` where it says nothing, or no string.
#[derive(Default)]
struct Header {
    is_es256: Option<bool>,
    kid: Option<Box<str>>,
    /// By its `typ`; the outer `None` where there is no such member.
    is_mandate: Option<Option<bool>>,
    refused: Option<&'static str>,
}

/// `JWT` or `at+jwt` in any case, with or without `application/` (RFC 7515 §4.1.9).
fn is_mandate_type(typ: &str) -> bool {
    const PREFIX: &str = "application/";
    let rest = match typ.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => typ,
    };
    ["jwt", "at+jwt"].iter().any(|known| rest.eq_ignore_ascii_case(known))
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut names = Names::default();
        while let Some(name) = map.next_key_seed(Name)? {
            match &*name {
                "alg" => {
                    header.is_es256 =
                        map.next_value_seed(TextOrElse(|alg: &str| alg == "ES256"))?;
                }
                "kid" => header.kid = map.next_value_seed(TextOrElse(owned))?,
                "typ" => {
                    header.is_mandate = Some(map.next_value_seed(TextOrElse(is_mandate_type))?);
                }
                other => {
                    header.refused =
                        header.refused.or(REFUSED.into_iter().find(|name| *name == other));
                    map.next_value_seed(Strict)?;
                }
            }
            names.push(name);
        }
        names.all_different()?;
        Ok(header)
    }
}

/// 1 to 256 visible ASCII characters.
pub(super) fn is_kid(kid: &str) -> bool {
    (1..=MAX_KID_CHARS).contains(&kid.len()) && kid.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn token(header: &str) -> String {
        let signature = URL_SAFE_NO_PAD.encode([1; SIGNATURE_LEN]);
        format!("{}.e30.{signature}", URL_SAFE_NO_PAD.encode(header))
    }

    fn parse(token: &str) -> Result<Box<str>, Reason> {
        Compact::parse(token.as_bytes(), 16 * 1024).map(|compact| compact.kid)
    }

    fn header(header: &str) -> Result<Box<str>, Reason> {
        parse(&token(header))
    }

    #[test]
    fn headers_that_pass() {
        for text in [
            r#"{"alg":"ES256","kid":"k"}"#,
            r#"{"alg":"ES256","kid":"k","typ":"JWT","cty":"JWT","unknown":[1]}"#,
            r#"{"alg":"ES256","kid":"k","typ":"AT+jwt"}"#,
            r#"{"alg":"ES256","kid":"k","typ":"application/at+jwt"}"#,
        ] {
            assert_eq!(header(text).as_deref(), Ok("k"), "{text}");
        }
    }

    #[test]
    fn algorithms_other_than_es256() {
        for alg in [
            "\"none\"",
            "\"None\"",
            "\"NONE\"",
            "\"\"",
            "\"HS256\"",
            "\"RS256\"",
            "\"PS256\"",
            "\"ES384\"",
            "\"EdDSA\"",
            "\"es256\"",
            "\"ES256 \"",
            "null",
            "1",
            "[\"ES256\"]",
        ] {
            let text = format!(r#"{{"alg":{alg},"kid":"k"}}"#);
            assert_eq!(header(&text), Err(Reason::Algorithm), "{alg}");
        }
        assert_eq!(header(r#"{"kid":"k"}"#), Err(Reason::Algorithm));
    }

    #[test]
    fn parameters_never_accepted_whatever_their_value() {
        for name in REFUSED {
            for value in ["null", "[]", "\"b64\"", "[\"alg\"]", "true", "{}"] {
                let text = format!(r#"{{"alg":"ES256","kid":"k","{name}":{value}}}"#);
                assert_eq!(header(&text), Err(Reason::HeaderParameter(name)), "{text}");
            }
        }
    }

    #[test]
    fn types_of_other_tokens() {
        for typ in
            ["\"dpop+jwt\"", "\"id_token\"", "\"logout+jwt\"", "\"JWE\"", "\"\"", "null", "1"]
        {
            let text = format!(r#"{{"alg":"ES256","kid":"k","typ":{typ}}}"#);
            assert_eq!(header(&text), Err(Reason::TokenType), "{typ}");
        }
    }

    #[test]
    fn key_ids() {
        let kid = |kid: &str| header(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#));
        assert!(kid(&format!("\"{}\"", "k".repeat(256))).is_ok());
        for bad in
            ["\"\"", "null", "1", "[\"k\"]", "\"a b\"", "\"a\\u0000\"", "\"\u{e9}\"", "\"a\\n\""]
        {
            assert_eq!(kid(bad), Err(Reason::KeyId), "{bad}");
        }
        assert_eq!(kid(&format!("\"{}\"", "k".repeat(257))), Err(Reason::KeyId));
        assert_eq!(header(r#"{"alg":"ES256"}"#), Err(Reason::KeyId));
    }

    #[test]
    fn headers_are_strict_json() {
        for text in [
            "[]",
            "",
            r#"{"alg":"none","alg":"ES256","kid":"k"}"#,
            r#"{"alg":"ES256","kid":"k"} x"#,
            r#"{"alg":"ES256","kid":"k","x":{"a":1,"a":1}}"#,
        ] {
            let expected = if text.is_empty() { Reason::NotCompact } else { Reason::HeaderJson };
            assert_eq!(header(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn three_non_empty_segments() {
        let good = token(r#"{"alg":"ES256","kid":"k"}"#);
        assert!(parse(&good).is_ok());
        let segments: Vec<_> = good.split('.').collect();
        let (header, payload, signature) = (segments[0], segments[1], segments[2]);
        for bad in [
            String::new(),
            "..".into(),
            header.into(),
            format!("{header}.{payload}"),
            format!("{good}."),
            format!(".{good}"),
            format!("{good}.x"),
            format!("{header}..{signature}"),
            format!("{header}.{payload}."),
            format!(".{payload}.{signature}"),
            format!("{good}.{payload}.{signature}"),
        ] {
            assert_eq!(parse(&bad), Err(Reason::NotCompact), "{bad}");
        }
    }

    #[test]
    fn one_spelling_per_token() {
        let good = token(r#"{"alg":"ES256","kid":"k"}"#);
        let (rest, last) = good.split_at(good.len() - 1);
        for bad in [
            format!("{good}="),
            format!("{good}=="),
            format!("{rest}{}", if last == "Q" { 'R' } else { 'B' }),
            good.replacen('.', " .", 1),
            good.replacen('.', "\n.", 1),
            format!("{rest}+"),
            format!("{rest}/"),
            format!("{rest}\u{e9}"),
        ] {
            assert!(matches!(parse(&bad), Err(Reason::Encoding)), "{bad}");
        }
    }

    #[test]
    fn size_and_signature_length() {
        let good = token(r#"{"alg":"ES256","kid":"k"}"#);
        assert!(Compact::parse(good.as_bytes(), good.len()).is_ok());
        assert!(matches!(Compact::parse(good.as_bytes(), good.len() - 1), Err(Reason::TooLarge)));
        let short =
            format!("{}.e30.{}", good.split('.').next().unwrap(), URL_SAFE_NO_PAD.encode([1; 63]));
        assert_eq!(parse(&short), Err(Reason::Signature));
    }
}
