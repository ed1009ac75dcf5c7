//! A response body that streams with the request's context as the current one.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{CaracalContext, context::sync_scoped};

pin_project! {
    struct ContextBody<B> {
        context: Option<CaracalContext>,
        #[pin]
        inner: B,
    }
}

/// `body` with `context`, or explicitly with none, bound while it is polled; one that has nothing to
/// stream stays as it is.
pub(super) fn in_context<B>(context: Option<CaracalContext>, body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    if body.is_end_stream() {
        Body::new(body)
    } else {
        Body::new(ContextBody { context, inner: body })
    }
}

impl<B: HttpBody> HttpBody for ContextBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        sync_scoped(this.context.clone(), || this.inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
