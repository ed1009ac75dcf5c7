//! Why exactly a request was refused.

use std::borrow::Cow;

/// The exact cause of a [`Denial`](crate::Denial), for logs and tests.
///
/// Nothing in it comes from a token: variants carry only names that this crate or the service's
/// own configuration chose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No credential header line.
    #[error("no credential header")]
    NoCredential,
    /// A credential header that holds no token of the expected scheme.
    #[error("the credential header holds no token of the expected scheme")]
    NotBearer,
    /// More than one credential header line.
    #[error("more than one credential header line")]
    RepeatedCredential,
    /// The token is longer than the configured cap.
    #[error("token over the size cap")]
    TooLarge,
    /// Not exactly three non-empty segments.
    #[error("not a compact JWS of three segments")]
    NotCompact,
    /// A segment is not canonical unpadded base64url.
    #[error("a segment is not canonical base64url")]
    Encoding,
    /// The protected header is not a strict JSON object.
    #[error("the header is not a strict JSON object")]
    HeaderJson,
    /// The payload is not a strict JSON object.
    #[error("the payload is not a strict JSON object")]
    PayloadJson,
    /// `alg` is not ES256.
    #[error("alg is not ES256")]
    Algorithm,
    /// `kid` is missing or not acceptable.
    #[error("kid is missing or not well-formed")]
    KeyId,
    /// `typ` is neither absent, `JWT` nor `at+jwt`.
    #[error("typ is not that of a mandate")]
    TokenType,
    /// A header parameter that is never accepted (`crit`, `b64`, `jku`, `jwk`, `x5u`, `x5c`).
    #[error("header parameter {0} is refused")]
    HeaderParameter(&'static str),
    /// A claim is missing, of the wrong type, or out of range.
    #[error("claim {0} is missing or not well-formed")]
    Claim(&'static str),
    /// `exp` has passed.
    #[error("expired")]
    Expired,
    /// `nbf` lies ahead.
    #[error("not valid yet")]
    NotYetValid,
    /// `iat` lies ahead.
    #[error("issued in the future")]
    IssuedInFuture,
    /// `iss` is none of the trusted issuers.
    #[error("another issuer")]
    Issuer,
    /// `aud` does not contain this service.
    #[error("another audience")]
    Audience,
    /// `zone_id` is not the configured zone.
    #[error("another zone")]
    Zone,
    /// `use` is not the one expected.
    #[error("another token use")]
    Use,
    /// No usable key of the zone has the token's `kid`.
    #[error("no key of the zone has this kid")]
    UnknownKey,
    /// The signature does not verify.
    #[error("signature does not verify")]
    Signature,
    /// A required target is not granted.
    #[error("a required target is not granted")]
    TargetMissing,
    /// A required scope is not granted.
    #[error("a required scope is not granted")]
    ScopeMissing,
    /// No governed session.
    #[error("no governed session")]
    SessionMissing,
    /// No delegation.
    #[error("no delegation")]
    DelegationMissing,
    /// Over the hop limit.
    #[error("over the hop limit")]
    HopLimit,
    /// A required application is not in the chain.
    #[error("a required application is not in the delegation chain")]
    ChainMissing,
    /// One of the authority's anchors is revoked.
    #[error("an anchor of the authority is revoked")]
    Revoked,
    /// The zone's delegation epoch is above the token's.
    #[error("the zone's delegation epoch is above the token's")]
    DelegationStale,
    /// No usable key set could be had.
    #[error("no usable key set could be had")]
    KeysUnavailable,
    /// The revocation store could not answer.
    #[error("the revocation store could not answer")]
    RevocationUnavailable,
    /// Too many signatures were being checked at once.
    #[error("too many signatures are being checked")]
    Overloaded,
    /// An [`Observer`](crate::Observer) panicked.
    #[error("an observer panicked")]
    ObserverPanicked,
    /// The verifier returned a proof without zone or application.
    #[error("the verifier returned a proof without zone or application")]
    EmptyIdentity,
    /// A client's layer without a verifier in production.
    #[error(
        "with CARACAL_ENV=production the client's layer believes no headers: give it a \
         `.verifier(..)`, or say `.trusted_propagation()`"
    )]
    UntrustedPropagation,
    /// A client's layer without a verifier, of a client with a credentials source.
    #[error(
        "a client with a credentials source has no fixed zone and application to propagate: give \
         its layer a `.verifier(..)`, or use `CaracalLayer::propagate(zone, application)`"
    )]
    UnknownIdentity,
    /// No [`CaracalLayer`](crate::CaracalLayer) covers the route.
    #[error(
        "no CaracalLayer covers this route: add `.layer(CaracalLayer::enforce(verifier))` after \
         the last route of the Router; a Require belongs inside it, on the route (`route_layer`)"
    )]
    NoLayer,
    /// A route that needs an identity lies under an exempt path.
    #[error(
        "the path is exempt from the CaracalLayer, but its route asks for an identity: narrow \
         `.exempt(..)` or drop the requirement"
    )]
    Exempt,
    /// An unsigned identity cannot satisfy a requirement.
    #[error(
        "the identity is only propagated, not proven, and cannot satisfy a requirement: use \
         `CaracalLayer::enforce(verifier)`"
    )]
    NotProven,
    /// The identity was proven by a verifier that supplies no mandate claims.
    #[error("the verifier supplied no mandate claims, but the handler asks for `Mandate`")]
    NoMandate,
    /// A reason of the service's own.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

impl From<&'static str> for Reason {
    fn from(text: &'static str) -> Self {
        Self::Other(Cow::Borrowed(text))
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Other(Cow::Owned(text))
    }
}
