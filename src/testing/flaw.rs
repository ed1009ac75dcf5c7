//! What can be wrong with a mandate, so that a service has to refuse it.

use std::time::Duration;

use aws_lc_rs::{error::Unspecified, hmac};
use serde_json::{Map, Value};

use super::{
    SigningKey,
    key::{compact, header},
};

/// One thing that is wrong with an otherwise good mandate.
///
/// What a service has got wrong that lets it in is [written down here](super#what-a-flaw-shows).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flaw {
    /// Signed by a key that nobody published, under the `kid` of the one that is.
    WrongKey,
    /// Signed by a key that nobody published, under a `kid` of its own.
    UnknownKey,
    /// Not signed: `alg` is `none`, and the signature empty (RFC 7519 §6).
    AlgNone,
    /// `alg` is HS256: the MAC is keyed with the text of the published JWK (RFC 8725 §2.1).
    AlgHs256,
    /// One bit of the signature is another.
    BadSignature,
    /// `exp` is the second in which it is made: over, without any leeway.
    Expired,
    /// `nbf` is an hour after `exp`: beyond any leeway, until it has expired.
    NotYetValid,
    /// More than 16 KiB, which is the most that a
    /// [`MandateVerifier`](crate::MandateVerifier) takes unless configured otherwise.
    Oversize,
    /// `client_id` comes twice, and is another application the second time.
    DuplicateMember,
}

/// What is signed is longer by a third in the token.
const PADDING_BYTES: usize = 16 * 1024;

/// More than any leeway that `nbf` is given.
const BEYOND_SECONDS: u64 = 3600;

impl Flaw {
    /// Every flaw. A service should refuse them all; new ones come without notice.
    pub const ALL: &'static [Self] = &[
        Self::WrongKey,
        Self::UnknownKey,
        Self::AlgNone,
        Self::AlgHs256,
        Self::BadSignature,
        Self::Expired,
        Self::NotYetValid,
        Self::Oversize,
        Self::DuplicateMember,
    ];

    /// The token of these claims with this flaw; `key` is the one that should sign it, `now` since
    /// the Unix epoch.
    pub(super) fn sign(
        self,
        key: &SigningKey,
        mut claims: Map<String, Value>,
        now: Duration,
    ) -> Result<String, Unspecified> {
        let kid = key.kid();
        match self {
            Self::Expired => {
                claims.insert("exp".to_owned(), now.as_secs().into());
            }
            Self::NotYetValid => {
                // Beyond its end, so that it never is, whenever it is judged.
                let end = claims.get("exp").and_then(Value::as_u64).unwrap_or(now.as_secs());
                claims.insert("nbf".to_owned(), end.saturating_add(BEYOND_SECONDS).into());
            }
            Self::Oversize => {
                claims.insert("padding".to_owned(), "x".repeat(PADDING_BYTES).into());
            }
            // So that it comes twice also in a mandate that was to go without.
            Self::DuplicateMember => {
                claims.entry("client_id").or_insert_with(|| "app-1".into());
            }
            _ => {}
        }
        let mut payload = Value::from(claims).to_string();
        match self {
            Self::WrongKey => SigningKey::try_generate(kid)?.try_sign(&payload),
            Self::UnknownKey => SigningKey::try_generate(&format!("not-{kid}"))?.try_sign(&payload),
            Self::AlgNone => compact(&header("none", kid), &payload, |_| Ok(Vec::new())),
            Self::AlgHs256 => compact(&header("HS256", kid), &payload, |signed| {
                let public = key.jwk().to_string();
                let mac_key = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
                Ok(hmac::sign(&mac_key, signed).as_ref().to_vec())
            }),
            Self::BadSignature => compact(&header("ES256", kid), &payload, |signed| {
                let mut signature = key.signature(signed)?;
                signature.iter_mut().take(1).for_each(|byte| *byte ^= 1);
                Ok(signature)
            }),
            Self::DuplicateMember => {
                payload.pop(); // the closing brace
                key.try_sign(&format!(r#"{payload},"client_id":"another"}}"#))
            }
            Self::Expired | Self::NotYetValid | Self::Oversize => key.try_sign(&payload),
        }
    }
}
