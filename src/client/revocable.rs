//! Answers of the Gateway, which end early when their authority is revoked.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// The trailer by which the Gateway says that it cut an answer.
const REVOKED: HeaderName = HeaderName::from_static("x-caracal-revoked");

/// The authority that an answer was given on was revoked while it was on its way: what was read of
/// it is not all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the authority of this call was revoked while it was answered: the answer is not complete")]
pub struct Revoked;

pin_project! {
    /// A body that fails at its end where the Gateway cut it.
    pub struct Revocable<B> {
        #[pin]
        inner: B,
    }
}

impl<B> Revocable<B> {
    pub(super) fn new(inner: B) -> Self {
        Self { inner }
    }
}

impl<B> Body for Revocable<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(self.project().inner.poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let revoked = frame
            .trailers_ref()
            .and_then(|trailers| trailers.get(REVOKED))
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
        Poll::Ready(Some(if revoked { Err(Box::new(Revoked)) } else { Ok(frame) }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
