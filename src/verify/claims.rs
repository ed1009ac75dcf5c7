//! The claims of a mandate: what is checked before a key is asked for, and the typed read after.

use super::json::{Object, Value};
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

/// Checks that cost nothing and that no key could change: `exp`, `iss`, `aud`, then the zone.
/// Returns which of `trusted` the mandate claims to be of.
pub(super) fn pre_check<'t>(
    payload: &Object<'_>,
    now: u64,
    audience: &str,
    trusted: impl Iterator<Item = &'t TrustedZone> + Clone,
) -> Result<usize, Denial> {
    let exp = natural(payload, "exp").map_err(Denial::invalid_token)?;
    if exp <= now {
        return Err(Denial::invalid_token(Reason::Expired));
    }
    let issuer = payload.get("iss").and_then(Value::as_str);
    let issuer = issuer.ok_or_else(|| Denial::invalid_token(Reason::Claim("iss")))?;
    if !trusted.clone().any(|pair| *pair.issuer == *issuer) {
        return Err(Denial::invalid_token(Reason::Issuer));
    }
    if !is_for(payload, audience).map_err(Denial::invalid_token)? {
        return Err(Denial::invalid_token(Reason::Audience));
    }
    let zone = payload.get("zone_id").and_then(Value::as_str).unwrap_or_default();
    trusted
        .into_iter()
        .position(|pair| *pair.issuer == *issuer && *pair.zone == *zone)
        .ok_or_else(Denial::invalid_zone)
}

fn is_for(payload: &Object<'_>, audience: &str) -> Result<bool, Reason> {
    const BAD: Reason = Reason::Claim("aud");
    let claim = payload.get("aud").ok_or(BAD)?;
    if let Some(only) = claim.as_str() {
        return Ok(only == audience);
    }
    let mut found = false;
    for member in claim.as_array().ok_or(BAD)? {
        found |= member.as_str().ok_or(BAD)? == audience;
    }
    Ok(found)
}

/// Reads every claim with its type, and the time from which `nbf` and `iat` let the mandate in.
/// Called when the signature has been verified.
pub(super) fn read(
    payload: &Object<'_>,
    kid: &str,
    now: u64,
    expected: TokenUse,
) -> Result<(Proof, u64), Reason> {
    let iat = natural(payload, "iat")?;
    let mut not_before = iat.saturating_sub(LEEWAY_SECONDS);
    if now < not_before {
        return Err(Reason::IssuedInFuture);
    }
    if let Some(nbf) = payload.get("nbf") {
        let nbf = earliest(nbf).ok_or(Reason::Claim("nbf"))?;
        not_before = not_before.max(nbf.saturating_sub(LEEWAY_SECONDS));
        if now < not_before {
            return Err(Reason::NotYetValid);
        }
    }
    let scope = match payload.get("scope") {
        None => None,
        Some(scope) => {
            Some(scope.as_str().filter(|scope| !scope.is_empty()).ok_or(Reason::Claim("scope"))?)
        }
    };
    let jti = text(payload, "jti")?;
    let sub = text(payload, "sub")?;
    let sid = text(payload, "sid")?;
    let root_sid = text(payload, "root_sid")?;
    let client_id = text(payload, "client_id")?;
    let token_use = TokenUse::parse(&text(payload, "use")?)
        .filter(|token_use| *token_use == expected)
        .ok_or(Reason::Use)?;
    let sub_type = text(payload, "sub_type")?;
    if !matches!(&*sub_type, "user" | "application") {
        return Err(Reason::Claim("sub_type"));
    }
    // More hops than any limit allows are over the limit, however many more.
    let hop = optional_natural(payload, "hop_count")?.unwrap_or(0);
    let mut proof = Proof::builder(text(payload, "zone_id")?, client_id, natural(payload, "exp")?)
        .key_id(kid)
        .authority_record_id(sid)
        .root_authority_record_id(root_sid)
        .agent_session_id(id(payload, "agent_session_id")?.unwrap_or_default())
        .delegation_edge_id(id(payload, "delegation_edge_id")?.unwrap_or_default())
        .hop(u32::try_from(hop).unwrap_or(u32::MAX))
        .targets(texts(payload, "target")?);
    if let Some(scope) = scope {
        proof = proof.scope_text(scope);
    }
    if let Some(epoch) = optional_natural(payload, "delegation_graph_epoch")? {
        proof = proof.delegation_epoch(epoch);
    }
    let claims = MandateClaims {
        jti,
        sub,
        sub_type,
        token_use,
        iat,
        source_session_id: id(payload, "source_session_id")?,
        target_session_id: id(payload, "target_session_id")?,
        delegation_path: texts(payload, "delegation_path")?.into(),
        delegation_chain: chain(payload)?.into(),
    };
    Ok((proof.mandate(claims).build(), not_before))
}

/// The first whole second at which `nbf` has come, 0 where that was before 1970. An integer is
/// exact and must fit an i64; a number with a fraction or an exponent is as exact as a double.
fn earliest(nbf: Value<'_>) -> Option<u64> {
    if let Some(seconds) = nbf.as_i64() {
        return Some(seconds.try_into().unwrap_or(0));
    }
    // The cast saturates at both ends.
    (!nbf.is_integer()).then(|| nbf.as_f64()).flatten().map(|seconds| seconds.ceil() as u64)
}

/// A non-negative integer that fits an i64: exact, as every peer can represent it.
fn natural(object: &Object<'_>, name: &'static str) -> Result<u64, Reason> {
    object
        .get(name)
        .and_then(Value::as_i64)
        .and_then(|number| number.try_into().ok())
        .ok_or(Reason::Claim(name))
}

fn optional_natural(object: &Object<'_>, name: &'static str) -> Result<Option<u64>, Reason> {
    match object.get(name) {
        Some(value) if !value.is_null() => natural(object, name).map(Some),
        _ => Ok(None),
    }
}

/// A required, non-empty string.
fn text(object: &Object<'_>, name: &'static str) -> Result<Box<str>, Reason> {
    object
        .get(name)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .map(Into::into)
        .ok_or(Reason::Claim(name))
}

/// An optional id: absent, null and empty are the same.
fn id(object: &Object<'_>, name: &'static str) -> Result<Option<Box<str>>, Reason> {
    match object.get(name) {
        Some(value) if !value.is_null() => {
            let text = value.as_str().ok_or(Reason::Claim(name))?;
            Ok(Some(text).filter(|text| !text.is_empty()).map(Into::into))
        }
        _ => Ok(None),
    }
}

fn array<'a>(object: &Object<'a>, name: &'static str) -> Result<Vec<Value<'a>>, Reason> {
    match object.get(name) {
        Some(value) if !value.is_null() => value.as_array().ok_or(Reason::Claim(name)),
        _ => Ok(Vec::new()),
    }
}

/// An optional list of non-empty strings.
fn texts(object: &Object<'_>, name: &'static str) -> Result<Vec<Box<str>>, Reason> {
    let text = |value: Value<'_>| {
        let text = value.as_str().filter(|text| !text.is_empty());
        text.map(Into::into).ok_or(Reason::Claim(name))
    };
    array(object, name)?.into_iter().map(text).collect()
}

fn chain(payload: &Object<'_>) -> Result<Vec<ChainLink>, Reason> {
    const NAME: &str = "delegation_chain";
    let link = |value: Value<'_>| {
        let link = value.as_object().ok_or(Reason::Claim(NAME))?;
        Ok(ChainLink {
            application_id: text(&link, "application_id")?,
            agent_session_id: id(&link, "agent_session_id")?,
            delegation_edge_id: id(&link, "delegation_edge_id")?,
        })
    };
    let links: Result<_, Reason> = array(payload, NAME)?.into_iter().map(link).collect();
    links.map_err(|_| Reason::Claim(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nbf_is_exact_where_it_is_an_integer() {
        let read = |text: &str| {
            let object = format!("{{\"nbf\":{text}}}");
            Object::parse(object.as_bytes()).unwrap().get("nbf").and_then(earliest)
        };
        assert_eq!(read("9007199254740993"), Some(9_007_199_254_740_993));
        assert_eq!(read("9223372036854775807"), Some(i64::MAX as u64));
        assert_eq!(read("-1"), Some(0));
        assert_eq!(read("-0"), Some(0));
        assert_eq!(read("100.5"), Some(101));
        assert_eq!(read("-1.5e3"), Some(0));
        assert_eq!(read("1e300"), Some(u64::MAX));
        for text in ["9223372036854775808", "-9223372036854775809", "null", "\"1\"", "true", "[]"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
