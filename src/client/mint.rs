//! Mandates for resources.

use std::{fmt, future::IntoFuture, time::Duration};

use futures_util::future::BoxFuture;

use super::{
    Caracal, CaracalError, delegation::awaited, grant::whole_seconds, origin::Origin, sts::Wanted,
};
use crate::{BearerToken, CaracalContext};

/// A mandate to be minted, when it is awaited; of [`Caracal::mint_mandate`].
#[derive(Debug)]
#[must_use = "nothing is minted before it is awaited"]
pub struct MintMandate {
    client: Caracal,
    resource: String,
    scopes: Vec<String>,
    context: Option<CaracalContext>,
    ttl: Option<Duration>,
    approval: Option<String>,
}

/// A mandate. `Debug` does not print it.
///
/// One of a session with a delegation is for the Gateway, and good for one use there; it must have
/// more than 35 s left then. It goes to nobody else.
#[derive(Clone)]
pub struct MintedMandate {
    token: BearerToken,
    expires_in: Duration,
}

impl MintedMandate {
    /// The token.
    #[must_use]
    pub fn token(&self) -> &BearerToken {
        &self.token
    }

    /// How long it lasts from now on.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }
}

impl fmt::Debug for MintedMandate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedMandate")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

impl Caracal {
    /// A mandate for `resource` with `scopes`, in the session and under the delegation of the bound
    /// context. Each is minted anew, for each is good for one use; only those without session and
    /// delegation, which hold lifecycle authority at most, are kept and shared.
    ///
    /// In a context that nobody proved, and that is not of this process, it is minted without its
    /// session and delegation.
    ///
    /// ```no_run
    /// # async fn example(caracal: caracal_axum::Caracal) -> Result<(), caracal_axum::CaracalError> {
    /// let mandate = caracal.mint_mandate("resource://tickets", ["tickets:read"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn mint_mandate<S: Into<String>>(
        &self,
        resource: impl Into<String>,
        scopes: impl IntoIterator<Item = S>,
    ) -> MintMandate {
        MintMandate {
            client: self.clone(),
            resource: resource.into(),
            scopes: scopes.into_iter().map(Into::into).collect(),
            context: None,
            ttl: None,
            approval: None,
        }
    }
}

impl MintMandate {
    /// The context to mint in; the bound one unless set.
    pub fn context(mut self, context: CaracalContext) -> Self {
        self.context = Some(context);
        self
    }

    /// How long the mandate lasts, in whole seconds from 1 to 3600: 900 unless set. A delegation
    /// that ends earlier ends it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// An approval that was given for it; see [`Caracal::with_approval`].
    pub fn approval(mut self, id: impl Into<String>) -> Self {
        self.approval = Some(id.into());
        self
    }

    async fn mint(self) -> Result<MintedMandate, CaracalError> {
        let Self { client, resource, scopes, context, ttl, approval } = self;
        client.check_open()?;
        if resource.trim().is_empty() || scopes.iter().all(|scope| scope.trim().is_empty()) {
            return Err(CaracalError::usage(
                "invalid_mint",
                "name a resource, and at least one scope",
            ));
        }
        let ttl = ttl.map(|ttl| whole_seconds("ttl", ttl)).transpose()?;
        if ttl.is_some_and(|ttl| ttl > 3600) {
            return Err(CaracalError::usage("invalid_mint", "a mandate lasts an hour at most"));
        }
        let origin = Origin::of(context);
        // The STS says so as well; here it is said more clearly.
        client.check_owner(&origin).await?;
        let mut wanted = Wanted::new([resource], scopes);
        wanted.session = origin.session;
        wanted.delegation = origin.edge;
        wanted.ttl = ttl;
        wanted.approval = approval;
        let minting = client.clone();
        let minting = async move { minting.tokens().mint(wanted).await };
        let token = client.detached(minting).await?;
        let expires_in = client.tokens().left(&token).unwrap_or_default();
        Ok(MintedMandate { token: token.bearer, expires_in })
    }
}

awaited! {
    MintMandate => mint -> MintedMandate;
}
