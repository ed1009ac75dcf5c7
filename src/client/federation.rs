//! Users that an application acts for.

use std::{fmt, future::IntoFuture, time::Duration};

use futures_util::future::BoxFuture;

use super::{Caracal, CaracalError, delegation::awaited, grant::whole_seconds};
use crate::BearerToken;

/// A user to be federated, when it is awaited; of [`Caracal::federate_subject`].
#[must_use = "nobody is federated before it is awaited"]
pub struct FederateSubject {
    client: Caracal,
    id_token: BearerToken,
    ttl: Option<Duration>,
}

/// A user that Caracal knows for a while. `Debug` does not print the token.
#[derive(Clone)]
pub struct FederatedSubject {
    record: String,
    token: BearerToken,
    expires_in: Duration,
}

impl FederatedSubject {
    /// The user's authority record: start sessions under it with
    /// [`authority_record`](super::Spawn::authority_record).
    #[must_use]
    pub fn authority_record_id(&self) -> &str {
        &self.record
    }

    /// The user's own mandate, with which approvals are decided. It starts no sessions and passes no
    /// Gateway.
    #[must_use]
    pub fn token(&self) -> &BearerToken {
        &self.token
    }

    /// How long the record lasts; sessions under it end with it.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }
}

impl Caracal {
    /// Makes a user known by the id token of an identity provider that the zone trusts, for sessions
    /// that act for that user. Each time it is another record.
    pub fn federate_subject(&self, id_token: impl Into<String>) -> FederateSubject {
        let id_token = BearerToken::new(id_token.into());
        FederateSubject { client: self.clone(), id_token, ttl: None }
    }
}

impl FederateSubject {
    /// How long the record lasts, in whole seconds from 1 to 3600: 900 unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn federate(self) -> Result<FederatedSubject, CaracalError> {
        let Self { client, id_token, ttl } = self;
        client.check_open()?;
        let ttl = ttl.map(|ttl| whole_seconds("ttl", ttl)).transpose()?;
        if id_token.expose().trim().is_empty() || ttl.is_some_and(|ttl| ttl > 3600) {
            return Err(CaracalError::usage(
                "invalid_subject",
                "federating needs an id token, and lasts an hour at most",
            ));
        }
        let runtime = client.clone();
        let federating = async move {
            let token = client.tokens().federate(id_token.expose(), ttl).await?;
            let expires_in = client.tokens().left(&token).unwrap_or_default();
            let record = token.sid.as_deref().map(str::to_owned).ok_or_else(|| {
                CaracalError::usage("federation_failed", "the mandate of the user names no record")
            })?;
            Ok(FederatedSubject { record, token: token.bearer, expires_in })
        };
        runtime.detached(federating).await
    }
}

impl fmt::Debug for FederateSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FederateSubject").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl fmt::Debug for FederatedSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FederatedSubject")
            .field("authority_record_id", &self.record)
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

awaited! {
    FederateSubject => federate -> FederatedSubject;
}
