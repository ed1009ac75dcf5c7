//! By what an application proves itself to the STS.

use std::{
    error::Error, fmt, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::{CaracalError, config::Secret, error::Source};

/// The zone, id and client secret of an application. `Debug` does not print the secret.
#[derive(Clone, PartialEq)]
pub struct Credentials {
    pub(super) zone: Arc<str>,
    pub(super) application: Arc<str>,
    pub(super) secret: Secret,
}

impl Credentials {
    /// Credentials of `application` in `zone`.
    #[must_use]
    pub fn new(
        zone: impl Into<String>,
        application: impl Into<String>,
        client_secret: impl Into<String>,
    ) -> Self {
        Self {
            zone: zone.into().into(),
            application: application.into().into(),
            secret: Secret::new(client_secret.into()),
        }
    }

    fn is_complete(&self) -> bool {
        !self.zone.is_empty() && !self.application.is_empty() && !self.secret.expose().is_empty()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("zone", &self.zone)
            .field("application", &self.application)
            .finish_non_exhaustive()
    }
}

/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(30);

type Resolved = Pin<Box<dyn Future<Output = Result<Option<Credentials>, Source>> + Send>>;

/// Where credentials come from.
#[derive(Clone)]
pub(super) enum CredentialsSource {
    Fixed(Credentials),
    /// Asked before every exchange.
    Resolver(Arc<dyn Fn() -> Resolved + Send + Sync>),
}

impl CredentialsSource {
    pub(super) fn resolver<F, Fut, E>(resolve: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Credentials>, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        Self::Resolver(Arc::new(move || {
            let resolved = resolve();
            Box::pin(async { resolved.await.map_err(|error| Source::from(error.into())) })
        }))
    }

    /// The credentials to be used now.
    pub(super) async fn current(&self) -> Result<Credentials, CaracalError> {
        match self {
            Self::Fixed(credentials) => Ok(credentials.clone()),
            Self::Resolver(resolve) => {
                let asked = AssertUnwindSafe(async { resolve().await }).catch_unwind();
                let resolved = match timeout(PATIENCE, asked).await {
                    Ok(Ok(resolved)) => resolved,
                    Ok(Err(_panic)) => Err(Source::from(Box::from("it panicked"))),
                    Err(_elapsed) => Err(Source::from(Box::from("it took longer than 30 s"))),
                };
                let resolved =
                    resolved.map_err(|source| CaracalError::credentials(Some(source)))?;
                resolved
                    .filter(Credentials::is_complete)
                    .ok_or_else(|| CaracalError::credentials(None))
            }
        }
    }
}
