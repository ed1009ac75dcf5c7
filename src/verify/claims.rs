//! The claims of a mandate: one strict pass over the payload, what is checked before a key is asked
//! for, and the proof that they make.

use std::{cell::Cell, fmt};

use serde::de::{Deserializer as _, Error, MapAccess, Visitor};

use super::{
    json::{Name, Names, Strict, TextOrElse, owned},
    seeds::{Audience, Earliest, Id, Link, List, Natural, NaturalOrNull, NonEmpty, Text},
};
use crate::{
    Denial, Proof, Reason, TokenUse,
    context::{ChainLink, MandateClaims},
};

/// How far `nbf` and `iat` may lie ahead, for clocks that differ. `exp` has no leeway.
const LEEWAY_SECONDS: u64 = 60;

/// An issuer and a zone whose mandates are accepted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TrustedZone {
    pub(super) issuer: Box<str>,
    pub(super) zone: Box<str>,
}

/// Claims as they stand in the payload, of the right type where they are there.
#[derive(Debug, Default)]
pub(super) struct Claims {
    issuer: Option<Box<str>>,
    /// Whether `aud` names the audience that was asked about.
    is_for_audience: Option<bool>,
    expires_at: Option<u64>,
    /// `None` also where it is no string: any zone but the configured one is another zone.
    zone: Option<Box<str>>,
    issued_at: Option<u64>,
    /// The first whole second at which `nbf` has come.
    not_before: u64,
    scope: Option<Box<str>>,
    jti: Option<Box<str>>,
    sub: Option<Box<str>>,
    sid: Option<Box<str>>,
    root_sid: Option<Box<str>>,
    client_id: Option<Box<str>>,
    /// The inner `None` for a use that is never accepted.
    token_use: Option<Option<TokenUse>>,
    /// The inner `None` for a type of subject that there is not.
    sub_type: Option<Option<&'static str>>,
    hop_count: Option<u64>,
    epoch: Option<u64>,
    agent_session_id: Option<Box<str>>,
    delegation_edge_id: Option<Box<str>>,
    source_session_id: Option<Box<str>>,
    target_session_id: Option<Box<str>>,
    target: Vec<Box<str>>,
    delegation_path: Vec<Box<str>>,
    delegation_chain: Vec<ChainLink>,
}

impl Claims {
    /// Reads a payload; `audience` is what `aud` is compared with.
    pub(super) fn parse(payload: &[u8], audience: &str) -> Result<Self, Reason> {
        let text = std::str::from_utf8(payload).map_err(|_| Reason::PayloadJson)?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let reading = Cell::new(None);
        let claims = reader
            .deserialize_map(ClaimsVisitor { audience, reading: &reading })
            .and_then(|claims| reader.end().map(|()| claims));
        claims.map_err(|error| match reading.get() {
            Some(claim) if error.is_data() => Reason::Claim(claim),
            _ => Reason::PayloadJson,
        })
    }

    /// Checks that cost nothing and that no key could change: `exp`, `iss`, `aud`, then the zone.
    /// Returns which of `trusted` the mandate claims to be of.
    pub(super) fn pre_check<'t>(
        &self,
        now: u64,
        trusted: impl Iterator<Item = &'t TrustedZone> + Clone,
    ) -> Result<usize, Denial> {
        let invalid = |reason| Err(Denial::invalid_token(reason));
        match self.expires_at {
            None => return invalid(Reason::Claim("exp")),
            Some(expires_at) if expires_at <= now => return invalid(Reason::Expired),
            Some(_) => {}
        }
        let Some(issuer) = &self.issuer else { return invalid(Reason::Claim("iss")) };
        if !trusted.clone().any(|pair| pair.issuer == *issuer) {
            return invalid(Reason::Issuer);
        }
        match self.is_for_audience {
            None => return invalid(Reason::Claim("aud")),
            Some(false) => return invalid(Reason::Audience),
            Some(true) => {}
        }
        let zone = self.zone.as_deref().unwrap_or_default();
        let mut pairs = trusted.into_iter();
        pairs
            .position(|pair| pair.issuer == *issuer && *pair.zone == *zone)
            .ok_or_else(Denial::invalid_zone)
    }

    /// The proof that these claims make once the signature has been verified, and the time from
    /// which `nbf` and `iat` let the mandate in.
    pub(super) fn into_proof(
        self,
        kid: Box<str>,
        now: u64,
        expected: TokenUse,
    ) -> Result<(Proof, u64), Reason> {
        let issued_at = self.issued_at.ok_or(Reason::Claim("iat"))?;
        if now < issued_at.saturating_sub(LEEWAY_SECONDS) {
            return Err(Reason::IssuedInFuture);
        }
        let not_before = issued_at.max(self.not_before).saturating_sub(LEEWAY_SECONDS);
        if now < not_before {
            return Err(Reason::NotYetValid);
        }
        if self.scope.as_deref() == Some("") {
            return Err(Reason::Claim("scope"));
        }
        let jti = required(self.jti, "jti")?;
        let sub = required(self.sub, "sub")?;
        let sid = required(self.sid, "sid")?;
        let root_sid = required(self.root_sid, "root_sid")?;
        let client_id = required(self.client_id, "client_id")?;
        let token_use = self.token_use.ok_or(Reason::Claim("use"))?;
        let token_use = token_use.filter(|found| *found == expected).ok_or(Reason::Use)?;
        let sub_type = self.sub_type.flatten().ok_or(Reason::Claim("sub_type"))?;
        let zone = required(self.zone, "zone_id")?;
        let expires_at = self.expires_at.ok_or(Reason::Claim("exp"))?;
        // More hops than any limit allows are over the limit, however many more.
        let hop = u32::try_from(self.hop_count.unwrap_or(0)).unwrap_or(u32::MAX);
        let mut proof = Proof::builder(zone, client_id, expires_at)
            .key_id(kid)
            .authority_record_id(sid)
            .root_authority_record_id(root_sid)
            .agent_session_id(self.agent_session_id.unwrap_or_default())
            .delegation_edge_id(self.delegation_edge_id.unwrap_or_default())
            .hop(hop)
            .targets(self.target)
            .delegation_chain(self.delegation_chain);
        if let Some(scope) = self.scope {
            proof = proof.scope_text(scope);
        }
        if let Some(epoch) = self.epoch {
            proof = proof.delegation_epoch(epoch);
        }
        let claims = MandateClaims {
            jti,
            sub,
            sub_type,
            token_use,
            iat: issued_at,
            source_session_id: self.source_session_id,
            target_session_id: self.target_session_id,
            delegation_path: self.delegation_path,
        };
        Ok((proof.mandate(claims).build(), not_before))
    }
}

fn subject_type(text: &str) -> Option<&'static str> {
    ["user", "application"].into_iter().find(|known| *known == text)
}

fn required(claim: Option<Box<str>>, name: &'static str) -> Result<Box<str>, Reason> {
    claim.filter(|text| !text.is_empty()).ok_or(Reason::Claim(name))
}

struct ClaimsVisitor<'c> {
    audience: &'c str,
    /// The claim being read, for the reason of a refusal.
    reading: &'c Cell<Option<&'static str>>,
}

impl<'de> Visitor<'de> for ClaimsVisitor<'_> {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut names = Names::default();
        let mut claims = Claims::default();
        let mut seen = 0_u32;
        /// Reads a claim that may come once; each has a bit of its own.
        macro_rules! claim {
            ($bit:literal, $name:literal, $field:ident, $seed:expr) => {{
                if seen & 1 << $bit != 0 {
                    return Err(A::Error::custom("duplicate member"));
                }
                seen |= 1 << $bit;
                self.reading.set(Some($name));
                claims.$field = map.next_value_seed($seed)?;
                self.reading.set(None);
            }};
        }
        while let Some(name) = map.next_key_seed(Name)? {
            match &*name {
                "iss" => claim!(0, "iss", issuer, Text(owned)),
                "aud" => claim!(1, "aud", is_for_audience, Audience(self.audience)),
                "exp" => claim!(2, "exp", expires_at, Natural),
                "zone_id" => claim!(3, "zone_id", zone, TextOrElse(owned)),
                "iat" => claim!(4, "iat", issued_at, Natural),
                "nbf" => claim!(5, "nbf", not_before, Earliest),
                "scope" => claim!(6, "scope", scope, Text(owned)),
                "jti" => claim!(7, "jti", jti, Text(owned)),
                "sub" => claim!(8, "sub", sub, Text(owned)),
                "sid" => claim!(9, "sid", sid, Text(owned)),
                "root_sid" => claim!(10, "root_sid", root_sid, Text(owned)),
                "client_id" => claim!(11, "client_id", client_id, Text(owned)),
                "use" => claim!(12, "use", token_use, Text(TokenUse::parse)),
                "sub_type" => claim!(13, "sub_type", sub_type, Text(subject_type)),
                "hop_count" => claim!(14, "hop_count", hop_count, NaturalOrNull),
                "delegation_graph_epoch" => {
                    claim!(15, "delegation_graph_epoch", epoch, NaturalOrNull);
                }
                "agent_session_id" => claim!(16, "agent_session_id", agent_session_id, Id),
                "delegation_edge_id" => claim!(17, "delegation_edge_id", delegation_edge_id, Id),
                "source_session_id" => claim!(18, "source_session_id", source_session_id, Id),
                "target_session_id" => claim!(19, "target_session_id", target_session_id, Id),
                "target" => claim!(20, "target", target, List(NonEmpty)),
                "delegation_path" => {
                    claim!(21, "delegation_path", delegation_path, List(NonEmpty));
                }
                "delegation_chain" => claim!(22, "delegation_chain", delegation_chain, List(Link)),
                _ => {
                    map.next_value_seed(Strict)?;
                    names.push(name);
                }
            }
        }
        names.all_different()?;
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(members: &str) -> Result<Claims, Reason> {
        Claims::parse(format!("{{{members}}}").as_bytes(), "me")
    }

    #[test]
    fn nbf_is_exact_where_it_is_an_integer() {
        let read = |text: &str| parse(&format!("\"nbf\":{text}")).map(|claims| claims.not_before);
        assert_eq!(read("9007199254740993"), Ok(9_007_199_254_740_993));
        assert_eq!(read("9223372036854775807"), Ok(i64::MAX as u64));
        assert_eq!(read("-1"), Ok(0));
        assert_eq!(read("-0"), Ok(0));
        assert_eq!(read("100.5"), Ok(101));
        assert_eq!(read("-1.5e3"), Ok(0));
        assert_eq!(read("1e300"), Ok(u64::MAX));
        for text in
            ["9223372036854775808", "-9223372036854775809", "null", "\"1\"", "true", "[]", "1e400"]
        {
            assert_eq!(read(text), Err(Reason::Claim("nbf")), "{text}");
        }
    }

    #[test]
    fn integers_are_exact() {
        let read = |text: &str| parse(&format!("\"exp\":{text}")).map(|claims| claims.expires_at);
        assert_eq!(read("9007199254740993"), Ok(Some(9_007_199_254_740_993)));
        assert_eq!(read("9223372036854775807"), Ok(Some(i64::MAX as u64)));
        assert_eq!(read("-0"), Ok(Some(0)));
        for text in
            ["9223372036854775808", "-7", "1.0", "-0.0", "1e3", "\"1\"", "true", "null", "[1]"]
        {
            assert_eq!(read(text), Err(Reason::Claim("exp")), "{text}");
        }
        let hop =
            |text: &str| parse(&format!("\"hop_count\":{text}")).map(|claims| claims.hop_count);
        assert_eq!((hop("null"), hop("3")), (Ok(None), Ok(Some(3))));
        assert_eq!(hop("true"), Err(Reason::Claim("hop_count")));
    }

    #[test]
    fn a_mistyped_claim_is_named_and_a_mistyped_zone_is_another_zone() {
        for (members, claim) in [
            (r#""aud":{}"#, "aud"),
            (r#""aud":["me",1]"#, "aud"),
            (r#""target":[""]"#, "target"),
            (r#""delegation_chain":[{"application_id":""}]"#, "delegation_chain"),
            (r#""delegation_chain":[{}]"#, "delegation_chain"),
            (r#""delegation_chain":[{"application_id":"a","x":1,"x":2}]"#, "delegation_chain"),
            (r#""agent_session_id":1"#, "agent_session_id"),
            (r#""scope":null"#, "scope"),
        ] {
            assert_eq!(parse(members).unwrap_err(), Reason::Claim(claim), "{members}");
        }
        for zone in ["null", "1", "-1", "1.5", "true", "[[]]", r#"{"a":1}"#] {
            assert_eq!(parse(&format!("\"zone_id\":{zone}")).unwrap().zone, None);
        }
    }

    #[test]
    fn payloads_are_strict_json() {
        assert!(parse(r#""unknown":{"a":[1]},"sub":"a\u00e9""#).is_ok());
        for members in [
            r#""exp":1,"exp":1"#,
            r#""sub":"a","s\u0075b":"a""#,
            r#""x":1,"x":1"#,
            r#""x":{"a":1,"a":2}"#,
            r#""zone_id":{"a":1,"a":2}"#,
            r#""x":1e400"#,
            r#""sub":"\ud800""#,
            r#""sub":"a"#,
        ] {
            assert!(parse(members).is_err(), "{members}");
        }
        for payload in ["", "[]", "null", "{} {}", "{},", "\u{feff}{}"] {
            let read = Claims::parse(payload.as_bytes(), "me");
            assert_eq!(read.unwrap_err(), Reason::PayloadJson, "{payload}");
        }
        assert_eq!(Claims::parse(b"{\"sub\":\"\xff\"}", "me").unwrap_err(), Reason::PayloadJson);
    }
}
