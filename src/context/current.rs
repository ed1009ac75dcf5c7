//! The context of the running task.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;

use super::CaracalContext;

tokio::task_local! {
    /// `None` inside a layer that let a request in without an identity.
    static CURRENT: Option<CaracalContext>;
}

/// The context of the running task: in a handler behind a [`CaracalLayer`](crate::CaracalLayer),
/// in everything it awaits and in the body it streams. Not in tasks it spawns: give those a
/// context with [`CaracalContext::scope`].
#[must_use]
pub fn current() -> Option<CaracalContext> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Runs `future` with `context` as the [`current`] one.
pub fn bind<F: Future>(context: CaracalContext, future: F) -> Bound<F> {
    context.scope(future)
}

pin_project! {
    /// A future with a [`current`] context.
    #[must_use = "futures do nothing unless polled"]
    pub struct Bound<F> {
        #[pin]
        inner: TaskLocalFuture<Option<CaracalContext>, F>,
    }
}

/// Runs `future` with this context, or explicitly with none, as the [`current`] one.
pub(crate) fn scoped<F: Future>(context: Option<CaracalContext>, future: F) -> Bound<F> {
    Bound { inner: CURRENT.scope(context, future) }
}

/// Calls `f` with this context, or explicitly with none, as the [`current`] one.
pub(crate) fn sync_scoped<T>(context: Option<CaracalContext>, f: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(context, f)
}

impl<F> std::fmt::Debug for Bound<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}

impl<F: Future> Future for Bound<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}

impl CaracalContext {
    /// The context of the running task; see [`current`].
    #[must_use]
    pub fn current() -> Option<Self> {
        current()
    }

    /// Runs `future` with this as the [`current`] context, for example in a spawned task:
    ///
    /// ```
    /// # use caracal_axum::CaracalContext;
    /// # async fn later() {}
    /// fn in_background(context: CaracalContext) {
    ///     tokio::spawn(context.scope(later()));
    /// }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> Bound<F> {
        scoped(Some(self), future)
    }

    /// Calls `f` with this as the [`current`] context.
    pub fn sync_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        sync_scoped(Some(self.clone()), f)
    }
}

/// [`CaracalContext::scope`] in postfix form.
pub trait InContext: Future + Sized {
    /// Runs this future with `context` as the [`current`] one.
    fn in_context(self, context: CaracalContext) -> Bound<Self> {
        context.scope(self)
    }
}

impl<F: Future> InContext for F {}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::Proof;

    fn context(application: &str) -> CaracalContext {
        CaracalContext::proven(Proof::builder("z", application, 1).build(), &HeaderMap::new())
    }

    fn application() -> Option<String> {
        current().map(|context| context.application_id().to_owned())
    }

    #[tokio::test]
    async fn scopes_nest_and_end() {
        assert_eq!(application(), None);
        bind(context("outer"), async {
            assert_eq!(application().as_deref(), Some("outer"));
            let inner = async { application() }.in_context(context("inner"));
            assert_eq!(inner.await.as_deref(), Some("inner"));
            assert_eq!(application().as_deref(), Some("outer"));
            let spawned = tokio::spawn(async { application() }).await.unwrap();
            assert_eq!(spawned, None);
        })
        .await;
        assert_eq!(application(), None);
    }
}
