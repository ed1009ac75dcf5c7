//! What a request has to stand before it is passed on, in the order of outbound contract §6.1.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header, request::Parts};
use serde_json::{Map, Value};
use url::{Host, Url};

use super::target;
use crate::embedded::{
    keys::text,
    registry::{Registered, http_url},
    state::State,
    sts::{self, Minted, Refusal, refusal},
    time::Time,
    upstream::{Kind, Upstream},
    web::latin1,
};

/// The largest mandate that is looked at, in bytes.
const MAX_BEARER: usize = 4096;

/// How long a mandate must still be good for.
const PREFLIGHT: Duration = Duration::from_secs(35);

const fn invalid(status: u16, text: &'static str) -> Refusal {
    refusal(status, "invalid_token", text)
}

// In the order in which they are judged.
const NO_BEARER: Refusal = invalid(401, "missing bearer token");
const BEARER_TOO_LARGE: Refusal = invalid(401, "bearer token too large");
const MALFORMED: Refusal = invalid(401, "malformed bearer token");
const EXPIRING: Refusal =
    refusal(401, "credential_expired_not_renewable", "the mandate ends within 35 seconds");
const CLIENT_ID: Refusal = invalid(400, "client identity derives from the bearer token");
const NO_RESOURCE: Refusal = invalid(400, "missing routing headers");
const NO_ZONE: Refusal = invalid(401, "missing token zone");
const NO_CLIENT: Refusal = invalid(401, "missing token client");
const TRAVERSAL: Refusal = invalid(400, "path traversal not permitted");
const SIGNATURE: Refusal = invalid(401, "bearer signature invalid");
const REPLAY: Refusal = invalid(401, "token replay detected");
const REVOKED: Refusal = invalid(401, "session revoked");
const NO_UPSTREAM: Refusal = refusal(403, "access_denied", "resource upstream not configured");
const NOT_ADDRESSABLE: Refusal = refusal(502, "internal_error", "upstream not addressable");
const OTHER_HOST: Refusal =
    refusal(502, "internal_error", "provider credential not allowed for upstream host");
pub(super) const UNBUILDABLE: Refusal =
    refusal(400, "internal_error", "upstream request build failed");

/// A request that may be passed on.
pub(super) struct Admitted {
    pub(super) url: Url,
    pub(super) upstream: Upstream,
    /// For the upstream, not signed yet.
    pub(super) mandate: Minted,
    /// How long the mandate that was presented is still good for, in seconds.
    pub(super) expires_in: u64,
    pub(super) authority: Authority,
}

/// What an answer is delivered under.
pub(super) struct Authority {
    zone: String,
    anchors: Vec<String>,
}

impl Authority {
    /// Whether the Gateway knows that it has ended.
    pub(super) fn is_revoked(&self, state: &mut State) -> bool {
        state.now();
        state.zone(&self.zone).is_none_or(|zone| zone.gateway.any(&self.anchors))
    }
}

/// Judges a request. With the verdict comes the application that asked, once that is proven.
pub(super) fn judge(
    state: &mut State,
    head: &Parts,
    issuer: &str,
) -> (Option<String>, Result<Admitted, Refusal>) {
    let now = state.now();
    let proven = Asked::read(head, now).and_then(|asked| asked.prove(state, now));
    match proven {
        Ok(asked) => {
            let admitted = asked.admit(state, head, issuer, now);
            (Some(asked.application), admitted)
        }
        Err(refusal) => (None, Err(refusal)),
    }
}

/// What a request says, as far as that can be used.
struct Asked {
    token: String,
    claims: Map<String, Value>,
    expires: Time,
    resource: String,
    zone: String,
    application: String,
}

impl Asked {
    /// What needs no knowledge to be judged.
    fn read(head: &Parts, now: Time) -> Result<Self, Refusal> {
        let token = bearer(&head.headers).ok_or(NO_BEARER)?;
        if token.len() > MAX_BEARER {
            return Err(BEARER_TOO_LARGE);
        }
        let (claims, expires) = unproven_claims(&token).ok_or(MALFORMED)?;
        if expires.left(now) < PREFLIGHT {
            return Err(EXPIRING);
        }
        let first = |name| head.headers.get(name).map(latin1).unwrap_or_default();
        if !first("x-caracal-client-id").is_empty() {
            return Err(CLIENT_ID);
        }
        let resource = first("x-caracal-resource").trim().to_owned();
        if resource.is_empty() {
            return Err(NO_RESOURCE);
        }
        let id = |name| Some(text(&claims, name).to_owned()).filter(|id| is_routing_id(id));
        let zone = id("zone_id").ok_or(NO_ZONE)?;
        let application = id("client_id").ok_or(NO_CLIENT)?;
        if target::traverses(head.uri.path()) {
            return Err(TRAVERSAL);
        }
        Ok(Self { token, claims, expires, resource, zone, application })
    }

    /// Whether the mandate is genuine.
    fn prove(mut self, state: &mut State, now: Time) -> Result<Self, Refusal> {
        let zone = state.zone(&self.zone).ok_or(SIGNATURE)?;
        // The claims are those that were read, for they are the ones that were signed.
        self.claims = zone.keys.verify_at_gateway(&self.token, now).ok_or(SIGNATURE)?;
        Ok(self)
    }

    /// Whether the mandate is good for this request, which uses it up whatever comes after.
    fn admit(
        &self,
        state: &mut State,
        head: &Parts,
        issuer: &str,
        now: Time,
    ) -> Result<Admitted, Refusal> {
        let claim = |name| text(&self.claims, name).to_owned();
        let id = claim("jti");
        let once = !id.is_empty() && claim("use") != "session";
        if once && !state.used_mandates.mark(&id, self.expires, now) {
            return Err(REPLAY);
        }
        let anchors = ["sid", "root_sid", "agent_session_id", "delegation_edge_id"].map(claim);
        let authority = Authority { zone: self.zone.clone(), anchors: anchors.into() };
        if authority.is_revoked(state) {
            return Err(REVOKED);
        }
        let used = sts::Use {
            token: &self.token,
            zone: &self.zone,
            application: &self.application,
            resource: &self.resource,
            method: &head.method,
            path: head.uri.path(),
        };
        let mandate = sts::exchange_for_gateway(state, &used, issuer)?;
        let known = state.registry.zone(&self.zone).ok_or(NO_UPSTREAM)?;
        let (url, upstream) = upstream(known, &self.resource)?;
        let url = target(url, upstream, head)?;
        let expires_in = self.expires.left(now).as_secs();
        Ok(Admitted { url, upstream: upstream.clone(), mandate, expires_in, authority })
    }
}

/// The token of the first line of `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let line = latin1(headers.get(header::AUTHORIZATION)?);
    let (scheme, token) = line.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// The claims of a token and its end, whoever signed it.
fn unproven_claims(token: &str) -> Option<(Map<String, Value>, Time)> {
    let parts: Vec<_> = token.split('.').collect();
    let [_, payload, _] = parts[..] else { return None };
    let claims: Map<String, Value> =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let expires = claims.get("exp")?.as_i64().filter(|exp| *exp != 0)?;
    // Before 1970 is the past like any other.
    let expires = Time::from_seconds(u64::try_from(expires).unwrap_or_default());
    Some((claims, expires))
}

fn is_routing_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

/// Where a resource is, by its identifier: a row id is none here.
fn upstream<'r>(known: &'r Registered, resource: &str) -> Result<(Url, &'r Upstream), Refusal> {
    let upstream = known.resource_named(resource).map(|resource| &resource.upstream);
    let upstream = upstream.ok_or(NO_UPSTREAM)?;
    let url = upstream.url.as_deref().ok_or(NO_UPSTREAM)?;
    let url = http_url(url).filter(is_addressable).ok_or(NOT_ADDRESSABLE)?;
    let host = url.host_str().unwrap_or_default();
    let allowed = upstream.credential.allowed_hosts.as_ref();
    if allowed.is_some_and(|hosts| !hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)))
    {
        return Err(OTHER_HOST);
    }
    Ok((url, upstream))
}

/// Link-local, multicast and unspecified addresses are those of no service.
fn is_addressable(url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical(),
        Some(Host::Domain(_)) => return true,
        None => return false,
    };
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_link_local || address.is_multicast() || address.is_unspecified())
}

/// The URL of the request to the upstream.
fn target(mut url: Url, upstream: &Upstream, head: &Parts) -> Result<Url, Refusal> {
    let credential = match &upstream.credential.kind {
        Kind::Query { name, secret } => Some((name.as_str(), secret.as_str())),
        _ => None,
    };
    let query = target::query(url.query(), head.uri.query(), credential)
        .map_err(|target::Undecodable| UNBUILDABLE)?;
    url.set_path(&target::path(url.path(), head.uri.path()));
    url.set_query(query.as_deref());
    // Neither means anything in a request.
    url.set_fragment(None);
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return Err(UNBUILDABLE);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_and_a_tab_is_no_space() {
        for (line, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("BEARER   a.b.c ", Some("a.b.c")),
            ("Bearer\ta.b.c", None),
            ("Bearer ", None),
            ("Basic a", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("authorization", line.parse().unwrap());
            headers.append("authorization", "Bearer x.y.z".parse().unwrap());
            assert_eq!(bearer(&headers).as_deref(), token, "{line}");
        }
    }

    #[test]
    fn no_service_is_at_some_addresses() {
        for url in [
            "http://169.254.10.10/",
            "http://0.0.0.0",
            "http://224.0.0.1",
            "http://[::]",
            "http://[fe80::1]",
            "http://[::ffff:169.254.10.10]",
        ] {
            assert!(!is_addressable(&Url::parse(url).unwrap()), "{url}");
        }
        for url in ["http://127.0.0.1", "http://10.0.0.1", "http://[::1]", "http://a.example"] {
            assert!(is_addressable(&Url::parse(url).unwrap()), "{url}");
        }
    }
}
