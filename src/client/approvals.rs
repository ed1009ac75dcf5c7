//! Mints that a person has to approve.

use std::{
    future::{Future, IntoFuture},
    time::Duration,
};

use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::{Caracal, CaracalError, ClientEvent, delegation::awaited, origin::id_segment};

/// How long an approval is waited for unless it is said.
const PATIENCE: Duration = Duration::from_secs(300);
/// The longest that the STS waits before it answers.
const LONGEST_POLL: u64 = 25;

/// What has become of an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ApprovalState {
    /// Nobody has decided yet.
    Pending,
    /// It was given.
    Approved,
    /// It was refused.
    Rejected,
    /// Nobody has decided in time.
    Expired,
    /// It was given, and is used.
    Consumed,
}

/// An approval that a mint waits for; of [`CaracalError::approval`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PendingApproval {
    approval_id: String,
    tier: Option<String>,
    binding: Option<String>,
    approval_expires_at: Option<String>,
}

impl PendingApproval {
    /// Its id, to be waited for and to be given to the same mint again. Whoever has it can see how the
    /// approval stands.
    #[must_use]
    pub fn approval_id(&self) -> &str {
        &self.approval_id
    }

    /// What it is about: the tiers that the scopes touch.
    #[must_use]
    pub fn tier(&self) -> Option<&str> {
        self.tier.as_deref()
    }

    /// By what who decides names the same request.
    #[must_use]
    pub fn binding(&self) -> Option<&str> {
        self.binding.as_deref()
    }

    /// Until when it can be decided, in RFC 3339.
    #[must_use]
    pub fn expires_at(&self) -> Option<&str> {
        self.approval_expires_at.as_deref()
    }
}

/// Waits for an approval, when it is awaited; of [`Caracal::wait_for_approval`].
#[derive(Debug)]
#[must_use = "nothing is waited for before it is awaited"]
pub struct WaitForApproval {
    client: Caracal,
    id: String,
    patience: Duration,
}

impl WaitForApproval {
    /// How long to wait at most: 5 minutes unless set. Then it is [`ApprovalState::Pending`] still.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.patience = timeout;
        self
    }

    async fn wait(self) -> Result<ApprovalState, CaracalError> {
        let Self { client, id, patience } = self;
        client.check_open()?;
        let path = format!("approvals/{}", id_segment("the approval", &id)?);
        let runtime = client.clone();
        let waiting = async move {
            let until = client.clock().monotonic().saturating_add(patience);
            let state = loop {
                let left = until.saturating_sub(client.clock().monotonic());
                if left.is_zero() {
                    break ApprovalState::Pending;
                }
                let wait = left.as_secs().clamp(1, LONGEST_POLL);
                match client.tokens().approval_state(&format!("{path}?wait={wait}"), wait).await {
                    Ok(None | Some(ApprovalState::Pending)) => {}
                    Ok(Some(state)) => break state,
                    Err(error) => {
                        client.tell_wait(&id, None);
                        return Err(error);
                    }
                }
            };
            client.tell_wait(&id, Some(state));
            Ok(state)
        };
        runtime.detached(waiting).await
    }
}

impl Caracal {
    /// Waits until an approval is decided.
    pub fn wait_for_approval(&self, approval_id: impl Into<String>) -> WaitForApproval {
        WaitForApproval { client: self.clone(), id: approval_id.into(), patience: PATIENCE }
    }

    /// Does something that may need an approval: `call` is given none first, and if that is what is
    /// missing, once more with the one that was given meanwhile, within 5 minutes.
    ///
    /// ```no_run
    /// # async fn example(caracal: caracal_axum::Caracal) -> Result<(), caracal_axum::CaracalError> {
    /// let mandate = caracal
    ///     .with_approval(async |approval| {
    ///         let mint = caracal.mint_mandate("resource://ledger", ["ledger:pay"]);
    ///         match approval {
    ///             Some(id) => mint.approval(id).await,
    ///             None => mint.await,
    ///         }
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `call` fails with; where the approval was not given, what it failed with first.
    pub async fn with_approval<T, F, Fut>(&self, mut call: F) -> Result<T, CaracalError>
    where
        F: FnMut(Option<String>) -> Fut,
        Fut: Future<Output = Result<T, CaracalError>>,
    {
        let held = match call(None).await {
            Err(error) if error.approval().is_some() => error,
            result => return result,
        };
        let id = held.approval().map(|approval| approval.approval_id.clone()).unwrap_or_default();
        match self.wait_for_approval(&*id).await? {
            ApprovalState::Approved => call(Some(id)).await,
            _ => Err(held),
        }
    }

    fn tell_wait(&self, id: &str, state: Option<ApprovalState>) {
        self.tell(&ClientEvent::ApprovalWait { approval_id: id.to_owned(), state });
    }
}

awaited! {
    WaitForApproval => wait -> ApprovalState;
}
