//! Signing keys of a zone: one signs, the one before it is still published.

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::Jwk};
use serde_json::{Map, Value, json};

use super::time::Time;
use crate::testing;

/// How long the key before the newest stays published (inbound contract §7.5).
const PREVIOUS_KEY_SECONDS: u64 = 24 * 60 * 60;

/// How long the Coordinator uses the key set that it has, and how soon it asks for another when a
/// token names a key that is not in it.
const KEY_SET_SECONDS: u64 = 10 * 60;
const KEY_SET_COOL_DOWN_SECONDS: u64 = 30;

/// How long the Gateway uses the key set that it has.
const GATEWAY_KEY_SET_SECONDS: u64 = 5 * 60;

/// A key of the zone, and what proves its signatures.
pub(super) struct SigningKey {
    pub(super) kid: String,
    key: testing::SigningKey,
    public: DecodingKey,
}

impl SigningKey {
    fn generate() -> Result<Self, Unspecified> {
        let kid = uuid::Uuid::now_v7().to_string();
        let key = testing::SigningKey::try_generate(&kid)?;
        let jwk: Jwk = serde_json::from_value(key.jwk()).map_err(|_| Unspecified)?;
        let public = DecodingKey::from_jwk(&jwk).map_err(|_| Unspecified)?;
        Ok(Self { kid, key, public })
    }

    /// The key pair itself.
    pub(super) fn pair(&self) -> &testing::SigningKey {
        &self.key
    }

    /// A mandate with these claims.
    pub(super) fn sign(&self, claims: &Map<String, Value>) -> Result<String, Unspecified> {
        let claims = serde_json::to_string(claims).map_err(|_| Unspecified)?;
        self.key.try_sign(&claims)
    }
}

/// The keys of one zone. There are none before the first mint.
#[derive(Default)]
pub(super) struct ZoneKeys {
    newest: Option<(Arc<SigningKey>, Time)>,
    previous: Option<Arc<SigningKey>>,
    /// What the Coordinator fetched last.
    fetched: Option<(Vec<Arc<SigningKey>>, Time)>,
    gateway: GatewayKeys,
}

/// What the Gateway fetched last, and when it last did so for a key that it did not know.
#[derive(Default)]
struct GatewayKeys {
    fetched: Option<(Vec<Arc<SigningKey>>, Time)>,
    asked: Option<Time>,
}

impl ZoneKeys {
    /// The key that signs, made at the first use.
    pub(super) fn signer(&mut self, now: Time) -> Result<Arc<SigningKey>, Unspecified> {
        match &self.newest {
            Some((key, _)) => Ok(Arc::clone(key)),
            None => self.rotate(now),
        }
    }

    /// A new key signs from now on. The one before it stays published for a day; older ones do not.
    pub(super) fn rotate(&mut self, now: Time) -> Result<Arc<SigningKey>, Unspecified> {
        let key = Arc::new(SigningKey::generate()?);
        self.previous = self.newest.replace((Arc::clone(&key), now)).map(|(key, _)| key);
        Ok(key)
    }

    /// The published keys, newest first.
    fn published(&self, now: Time) -> Vec<Arc<SigningKey>> {
        let Some((newest, created)) = &self.newest else { return Vec::new() };
        let previous =
            self.previous.iter().filter(|_| now < created.plus_seconds(PREVIOUS_KEY_SECONDS));
        std::iter::once(newest).chain(previous).map(Arc::clone).collect()
    }

    /// The key document; none without a key.
    pub(super) fn document(&self, now: Time) -> Option<Value> {
        let keys: Vec<_> = self.published(now).iter().map(|key| key.key.jwk()).collect();
        (!keys.is_empty()).then(|| json!({ "keys": keys }))
    }

    /// The claims of a token that a published key has signed. Its times are not judged.
    pub(super) fn verify(&self, token: &str, now: Time) -> Option<Map<String, Value>> {
        claims(token, &self.published(now))
    }

    /// As [`ZoneKeys::verify`], with the keys that the Coordinator knows: for half a minute after
    /// it fetched them it takes no key for real that is new.
    pub(super) fn verify_at_coordinator(
        &mut self,
        token: &str,
        now: Time,
    ) -> Option<Map<String, Value>> {
        let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
        let due = match &self.fetched {
            None => true,
            Some((keys, at)) if keys.iter().any(|key| key.kid == kid) => {
                now >= at.plus_seconds(KEY_SET_SECONDS)
            }
            Some((_, at)) => now >= at.plus_seconds(KEY_SET_COOL_DOWN_SECONDS),
        };
        // A zone without keys has no document that could be kept.
        let published = if due { self.published(now) } else { Vec::new() };
        if !published.is_empty() {
            self.fetched = Some((published, now));
        }
        let (keys, _) = self.fetched.as_ref()?;
        claims(token, keys)
    }

    /// As [`ZoneKeys::verify`], with the keys that the Gateway knows: it asks for one that it does
    /// not know at once, but not twice in half a minute.
    pub(super) fn verify_at_gateway(
        &mut self,
        token: &str,
        now: Time,
    ) -> Option<Map<String, Value>> {
        let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
        let GatewayKeys { fetched, asked } = &self.gateway;
        let current = fetched
            .as_ref()
            // A zone without keys has no document that could be kept.
            .filter(|(keys, _)| !keys.is_empty())
            .filter(|(_, at)| now < at.plus_seconds(GATEWAY_KEY_SET_SECONDS))
            .map(|(keys, _)| keys);
        let known = current.is_some_and(|keys| keys.iter().any(|key| key.kid == kid));
        let may_ask = asked.is_none_or(|at| now >= at.plus_seconds(KEY_SET_COOL_DOWN_SECONDS));
        if current.is_none() || (!known && may_ask) {
            let asked = if current.is_some() { Some(now) } else { *asked };
            self.gateway = GatewayKeys { fetched: Some((self.published(now), now)), asked };
        }
        let (keys, _) = self.gateway.fetched.as_ref()?;
        claims(token, keys)
    }
}

/// The text of a claim; empty if there is none.
pub(super) fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> &'c str {
    claims.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn claims(token: &str, keys: &[Arc<SigningKey>]) -> Option<Map<String, Value>> {
    let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
    let key = keys.iter().find(|key| key.kid == kid)?;
    let mut validation = Validation::new(Algorithm::ES256);
    // Whose clock and which audience count is the caller's to say.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode(token, &key.public, &validation).ok().map(|proven| proven.claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kids(keys: &ZoneKeys, seconds: u64) -> Vec<String> {
        keys.published(Time::from_seconds(seconds)).iter().map(|key| key.kid.clone()).collect()
    }

    #[test]
    fn one_previous_key_stays_for_a_day() {
        let mut keys = ZoneKeys::default();
        assert_eq!(keys.document(Time::from_seconds(0)), None);
        let first = keys.signer(Time::from_seconds(0)).unwrap().kid.clone();
        let second = keys.rotate(Time::from_seconds(10)).unwrap().kid.clone();
        assert_eq!(kids(&keys, 10), [second.clone(), first]);
        let third = keys.rotate(Time::from_seconds(20)).unwrap().kid.clone();
        assert_eq!(kids(&keys, 20 + 86_399), [third.clone(), second]);
        assert_eq!(kids(&keys, 20 + 86_400), [third]);
    }

    #[test]
    fn the_coordinator_learns_of_a_rotation_after_half_a_minute() {
        let mut keys = ZoneKeys::default();
        let at = Time::from_seconds;
        let claims = Map::from_iter([("sub".to_owned(), json!("app-1"))]);
        let old = keys.signer(at(0)).unwrap().sign(&claims).unwrap();
        assert!(keys.verify_at_coordinator(&old, at(1)).is_some());
        let new = keys.rotate(at(2)).unwrap().sign(&claims).unwrap();
        assert!(keys.verify(&new, at(2)).is_some());
        assert!(keys.verify_at_coordinator(&new, at(30)).is_none());
        assert!(keys.verify_at_coordinator(&old, at(30)).is_some());
        assert!(keys.verify_at_coordinator(&new, at(31)).is_some());
    }

    #[test]
    fn the_gateway_asks_for_an_unknown_key_once_in_half_a_minute() {
        let mut keys = ZoneKeys::default();
        let at = Time::from_seconds;
        let claims = Map::from_iter([("sub".to_owned(), json!("app-1"))]);
        let first = keys.signer(at(0)).unwrap().sign(&claims).unwrap();
        assert!(keys.verify_at_gateway(&first, at(1)).is_some());
        let second = keys.rotate(at(2)).unwrap().sign(&claims).unwrap();
        assert!(keys.verify_at_gateway(&second, at(3)).is_some(), "asked for at once");
        let third = keys.rotate(at(4)).unwrap().sign(&claims).unwrap();
        assert!(keys.verify_at_gateway(&third, at(32)).is_none());
        assert!(keys.verify_at_gateway(&first, at(32)).is_some(), "withdrawn, but still known");
        assert!(keys.verify_at_gateway(&third, at(33)).is_some());
        assert!(keys.verify_at_gateway(&first, at(33)).is_none());
        let fourth = keys.rotate(at(34)).unwrap().sign(&claims).unwrap();
        assert!(keys.verify_at_gateway(&fourth, at(62)).is_none());
        let fifth = keys.rotate(at(63)).unwrap().sign(&claims).unwrap();
        assert!(keys.verify_at_gateway(&fifth, at(33 + 300)).is_some(), "what it has is too old");
    }

    #[test]
    fn another_zone_s_token_is_nothing() {
        let (mut ours, mut theirs) = (ZoneKeys::default(), ZoneKeys::default());
        let now = Time::from_seconds(0);
        ours.signer(now).unwrap();
        let token = theirs.signer(now).unwrap().sign(&Map::new()).unwrap();
        assert_eq!(ours.verify(&token, now), None);
        assert_eq!(ours.verify("a.b.c", now), None);
        assert_eq!(theirs.verify(&token, now), Some(Map::new()));
    }
}
