//! Configuring a [`MandateVerifier`]: refused when incomplete or insecure.

use std::{
    fmt,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use http::{HeaderName, header};
use tokio::sync::Semaphore;

use super::{
    KeyRequest, KeySource, MandateVerifier, Requirements,
    cache::{BoundedCache, Flights, NoCache, TokenIds},
    claims::TrustedZone,
    configuration::{ConfigurationError, check_issuer, required},
    keys::{DynKeySource, HttpKeys, KeyPolicy, ZoneKeys},
    mandate::{Settings, Trusted},
    requirements::strings,
};
use crate::{
    Clock, MAX_HOP, Observer, RevocationStore, SystemClock, TokenUse,
    revocation::DynRevocationStore,
};

const DEFAULT_MAX_HOPS: u32 = 10;
const DEFAULT_MAX_TOKEN_BYTES: usize = 16 * 1024;
const DEFAULT_PROOFS: u64 = 10_000;
/// Each check lets other tasks run before it begins, so this many go on per round of the scheduler.
const CHECKS_PER_CORE: usize = 64;

enum Revocations {
    Unset,
    Store(Arc<dyn DynRevocationStore>),
    Disabled,
}

/// Builder of [`MandateVerifier`].
#[must_use]
pub struct MandateVerifierBuilder {
    issuer: Option<String>,
    zone: Option<String>,
    also: Vec<(String, String)>,
    audience: Option<String>,
    allow_insecure_issuer: bool,
    revocations: Revocations,
    requirements: Requirements,
    token_use: TokenUse,
    header: HeaderName,
    scheme: Option<Box<str>>,
    keys: Option<Arc<dyn DynKeySource>>,
    policy: KeyPolicy,
    revocation_timeout: Duration,
    max_token_bytes: usize,
    clock: Arc<dyn Clock>,
    proof_cache: u64,
    max_checks: usize,
    max_check_wait: Duration,
    observer: Option<Arc<dyn Observer>>,
}

impl Default for MandateVerifierBuilder {
    fn default() -> Self {
        Self {
            issuer: None,
            zone: None,
            also: Vec::new(),
            audience: None,
            allow_insecure_issuer: false,
            revocations: Revocations::Unset,
            requirements: Requirements {
                max_hops: Some(DEFAULT_MAX_HOPS),
                ..Requirements::default()
            },
            token_use: TokenUse::Resource,
            header: header::AUTHORIZATION,
            scheme: Some("Bearer".into()),
            keys: None,
            policy: KeyPolicy {
                ttl: Duration::from_secs(300),
                stale: Duration::from_secs(3600),
                cool_down: Duration::from_secs(30),
                timeout: Duration::from_secs(5),
            },
            revocation_timeout: Duration::from_secs(2),
            max_token_bytes: DEFAULT_MAX_TOKEN_BYTES,
            clock: Arc::new(SystemClock),
            proof_cache: DEFAULT_PROOFS,
            max_checks: CHECKS_PER_CORE * available_parallelism().map_or(1, NonZero::get),
            max_check_wait: Duration::from_millis(500),
            observer: None,
        }
    }
}

impl fmt::Debug for MandateVerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MandateVerifierBuilder")
            .field("zone", &self.zone)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl MandateVerifierBuilder {
    /// The STS whose mandates are accepted: their `iss`, byte for byte, and where keys are fetched.
    pub fn issuer(mut self, url: impl Into<String>) -> Self {
        self.issuer = Some(url.into());
        self
    }

    /// This service, as mandates name it in `aud`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// The zone whose mandates are accepted. It is never taken from a token.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// One more issuer and zone to trust beside [`issuer`](Self::issuer) and [`zone`](Self::zone).
    /// A mandate must name one of the pairs, and is verified with that pair's keys alone.
    pub fn also_trust(mut self, issuer: impl Into<String>, zone: impl Into<String>) -> Self {
        self.also.push((issuer.into(), zone.into()));
        self
    }

    /// Permits an issuer on plain http beyond loopback: whoever is on the path can then forge
    /// keys. For closed test networks only.
    pub fn allow_insecure_issuer(mut self) -> Self {
        self.allow_insecure_issuer = true;
        self
    }

    /// Where revocations are looked up, for every request.
    pub fn revocations(mut self, store: impl RevocationStore) -> Self {
        self.revocations = Revocations::Store(Arc::new(store));
        self
    }

    /// Accepts mandates until they expire, revoked or not. Shows in `Debug`.
    pub fn without_revocation_checks(mut self) -> Self {
        self.revocations = Revocations::Disabled;
        self
    }

    /// Scopes every mandate must hold. Replaces what was set before; routes add to it with
    /// [`Require`](crate::Require).
    pub fn required_scopes<S: AsRef<str>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.requirements.scopes = strings(scopes);
        self
    }

    /// Resources every mandate must be for (`target`); a missing one is `invalid_token`.
    pub fn required_targets<S: AsRef<str>>(mut self, targets: impl IntoIterator<Item = S>) -> Self {
        self.requirements.targets = strings(targets);
        self
    }

    /// The `use` every mandate must have; [`TokenUse::Resource`] unless set.
    pub fn required_use(mut self, token_use: TokenUse) -> Self {
        self.token_use = token_use;
        self
    }

    /// Refuses mandates without a governed session.
    pub fn require_session(mut self) -> Self {
        self.requirements.session = true;
        self
    }

    /// Refuses mandates without a delegation.
    pub fn require_delegation(mut self) -> Self {
        self.requirements.delegation = true;
        self
    }

    /// Applications that must all be in the delegation chain.
    pub fn require_chain_contains<S: AsRef<str>>(
        mut self,
        applications: impl IntoIterator<Item = S>,
    ) -> Self {
        self.requirements.chain = strings(applications);
        self
    }

    /// Over how many delegations authority may have come; 10 unless set, 32 at most, 0 for none.
    pub fn max_hop_count(mut self, hops: u32) -> Self {
        self.requirements.max_hops = Some(hops);
        self
    }

    /// The header the mandate is read from, and the scheme before it. `Authorization` and `Bearer`
    /// unless set; behind a Gateway with identity forwarding, `x-caracal-identity` and `None`.
    pub fn credential(mut self, header: HeaderName, scheme: Option<&str>) -> Self {
        self.header = header;
        self.scheme = scheme.map(Into::into);
        self
    }

    /// Where key documents come from; [`HttpKeys`] unless set.
    pub fn key_source(mut self, source: impl KeySource) -> Self {
        self.keys = Some(Arc::new(source));
        self
    }

    /// At which age a key set is replaced; 5 minutes unless set. It is refreshed before that.
    pub fn key_ttl(mut self, ttl: Duration) -> Self {
        self.policy.ttl = ttl;
        self
    }

    /// How long past that age good keys serve while refreshes fail; 1 hour unless set.
    pub fn key_stale_limit(mut self, limit: Duration) -> Self {
        self.policy.stale = limit;
        self
    }

    /// The least time between two fetches of a zone's keys while it has some; 30 seconds unless
    /// set. So long a mandate signed by a brand-new key may be refused.
    pub fn key_cool_down(mut self, cool_down: Duration) -> Self {
        self.policy.cool_down = cool_down;
        self
    }

    /// The most a key fetch may take; 5 seconds unless set.
    pub fn key_timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = timeout;
        self
    }

    /// The most the revocation store may take before the request is refused with 503; 2 seconds
    /// unless set.
    pub fn revocation_timeout(mut self, timeout: Duration) -> Self {
        self.revocation_timeout = timeout;
        self
    }

    /// A longer token is refused unread; 16 KiB unless set.
    pub fn max_token_bytes(mut self, bytes: usize) -> Self {
        self.max_token_bytes = bytes;
        self
    }

    /// How many proofs are kept, so that a mandate that was seen before costs no signature check;
    /// 10,000 unless set, 0 for none. Expiry, revocation and the key's presence are checked on every
    /// request all the same.
    pub fn proof_cache(mut self, proofs: u64) -> Self {
        self.proof_cache = proofs;
        self
    }

    /// How many signature checks may be in progress at once; 64 per core unless set. Each lets other
    /// requests run before it takes the processor, so this bounds how much longer they wait. Mandates
    /// whose proof is cached need none.
    pub fn max_concurrent_checks(mut self, checks: usize) -> Self {
        self.max_checks = checks;
        self
    }

    /// How long a request may wait for its signature check to begin before it is refused with 503;
    /// half a second unless set. Enough for thousands of new callers at once, and an end to what a
    /// flood of forgeries can ask for.
    pub fn max_check_wait(mut self, wait: Duration) -> Self {
        self.max_check_wait = wait;
        self
    }

    /// Who is told of key fetches. Decisions are told by
    /// [`CaracalLayer::observer`](crate::CaracalLayer::observer).
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The clock mandates and keys are judged by.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The verifier.
    ///
    /// # Errors
    /// When a setting is missing, empty, insecure or out of range.
    pub fn build(self) -> Result<MandateVerifier, ConfigurationError> {
        let audience = required("audience", self.audience.as_deref())?;
        let first =
            (required("issuer", self.issuer.as_deref())?, required("zone", self.zone.as_deref())?);
        let also = self.also.iter().map(|(issuer, zone)| (issuer.as_str(), zone.as_str()));
        let requirements = &self.requirements;
        for (name, entries) in [
            ("required_scopes", &requirements.scopes),
            ("required_targets", &requirements.targets),
            ("require_chain_contains", &requirements.chain),
        ] {
            if entries.iter().any(|entry| entry.is_empty()) {
                return Err(ConfigurationError::Empty(name));
            }
        }
        if requirements.max_hops.is_some_and(|max| max > MAX_HOP) {
            return Err(ConfigurationError::MaxHopCount);
        }
        for (name, duration) in [
            ("key_ttl", self.policy.ttl),
            ("key_timeout", self.policy.timeout),
            ("key_cool_down", self.policy.cool_down),
            ("revocation_timeout", self.revocation_timeout),
        ] {
            if duration.is_zero() {
                return Err(ConfigurationError::Zero(name));
            }
        }
        for (name, limit) in
            [("max_token_bytes", self.max_token_bytes), ("max_concurrent_checks", self.max_checks)]
        {
            if limit == 0 {
                return Err(ConfigurationError::Zero(name));
            }
        }
        let is_token = |scheme: &str| {
            !scheme.is_empty()
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !self.scheme.as_deref().is_none_or(is_token) {
            return Err(ConfigurationError::Scheme);
        }
        let revocations = match self.revocations {
            Revocations::Unset => return Err(ConfigurationError::Missing("revocations")),
            Revocations::Store(store) => Some(store),
            Revocations::Disabled => None,
        };
        let pairs: Vec<_> = std::iter::once(first).chain(also).collect();
        for (issuer, zone) in &pairs {
            if zone.is_empty() {
                return Err(ConfigurationError::Empty("zone"));
            }
            check_issuer(issuer, self.allow_insecure_issuer)?;
        }
        let source = match self.keys {
            Some(source) => source,
            None => Arc::new(HttpKeys::builder().build()?),
        };
        let trust = |(issuer, zone): (&str, &str)| Trusted {
            pair: TrustedZone { issuer: issuer.into(), zone: zone.into() },
            keys: ZoneKeys::new(
                KeyRequest::new(issuer, zone),
                Arc::clone(&source),
                Arc::clone(&self.clock),
                self.policy,
                self.observer.clone(),
            ),
        };
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Ok(MandateVerifier::new(Settings {
            number: COUNT.fetch_add(1, Ordering::Relaxed),
            trusted: pairs.into_iter().map(trust).collect(),
            audience: audience.into(),
            requirements: self.requirements,
            token_use: self.token_use,
            header: self.header,
            scheme: self.scheme,
            revocations,
            revocation_timeout: self.revocation_timeout,
            max_token_bytes: self.max_token_bytes,
            clock: self.clock,
            ids: TokenIds::random().ok_or(ConfigurationError::Randomness)?,
            cache: match self.proof_cache {
                0 => Box::new(NoCache),
                proofs => Box::new(BoundedCache::new(proofs)),
            },
            flights: Flights::default(),
            patience: self.policy.timeout.saturating_add(self.max_check_wait).saturating_mul(2),
            checks: Semaphore::new(self.max_checks.min(Semaphore::MAX_PERMITS)),
            max_check_wait: self.max_check_wait,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryRevocations;

    fn complete() -> MandateVerifierBuilder {
        MandateVerifier::builder()
            .issuer("https://sts.example.com")
            .audience("resource://tickets")
            .zone("zone-1")
            .revocations(MemoryRevocations::default())
    }

    fn refused(builder: MandateVerifierBuilder) -> ConfigurationError {
        builder.build().unwrap_err()
    }

    #[test]
    fn what_is_missing_is_named() {
        use ConfigurationError::{Empty, Missing, Zero};
        assert!(complete().build().is_ok());
        assert_eq!(refused(MandateVerifier::builder()), Missing("audience"));
        assert_eq!(refused(complete().audience("")), Empty("audience"));
        assert_eq!(refused(complete().zone("")), Empty("zone"));
        assert_eq!(refused(complete().also_trust("https://a", "")), Empty("zone"));
        let insecure = ConfigurationError::InsecureIssuer;
        assert_eq!(refused(complete().issuer("http://a.example")), insecure);
        assert_eq!(refused(complete().also_trust("http://a.example", "z")), insecure);
        assert!(complete().issuer("http://a.example").allow_insecure_issuer().build().is_ok());
        assert_eq!(refused(complete().required_scopes(["a", ""])), Empty("required_scopes"));
        assert_eq!(refused(complete().required_targets([""])), Empty("required_targets"));
        assert_eq!(
            refused(complete().require_chain_contains([""])),
            Empty("require_chain_contains")
        );
        assert_eq!(refused(complete().key_ttl(Duration::ZERO)), Zero("key_ttl"));
        assert_eq!(refused(complete().key_cool_down(Duration::ZERO)), Zero("key_cool_down"));
        assert_eq!(refused(complete().max_hop_count(33)), ConfigurationError::MaxHopCount);
        for scheme in ["", "Bearer ", "a b"] {
            let builder = complete().credential(header::AUTHORIZATION, Some(scheme));
            assert_eq!(refused(builder), ConfigurationError::Scheme);
        }
        let unset = MandateVerifier::builder().issuer("https://a").audience("a").zone("z");
        assert_eq!(refused(unset), Missing("revocations"));
    }

    #[test]
    fn opting_out_of_revocation_is_visible() {
        let verifier = MandateVerifier::builder()
            .issuer("https://a")
            .audience("a")
            .zone("z")
            .without_revocation_checks()
            .build()
            .unwrap();
        assert!(format!("{verifier:?}").contains("revocations: \"NOT CHECKED\""));
    }
}
