//! The body of an answer on its way to the caller, for as long as its authority lasts.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;

use super::{checks::Authority, headers::REVOKED};
use crate::embedded::{Shared, server::Unanswered};

/// Before each read it is asked whether the authority has been revoked, as the real one asks: what a
/// silent upstream says next still arrives. Then a body without a length ends with a trailer, and one
/// with a length is cut.
pub(super) struct Watched {
    body: reqwest::Body,
    is_sized: bool,
    authority: Authority,
    shared: Arc<Shared>,
    stage: Stage,
}

enum Stage {
    /// About to read.
    Ready,
    Reading,
    /// What came last is on its way before the connection breaks.
    Cut,
    Ended,
}

impl Watched {
    pub(super) fn new(
        body: reqwest::Body,
        is_sized: bool,
        authority: Authority,
        shared: Arc<Shared>,
    ) -> Self {
        Self { body, is_sized, authority, shared, stage: Stage::Ready }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ready if self.authority.is_revoked(&mut self.shared.lock()) => {
                if self.is_sized {
                    self.stage = Stage::Cut;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let trailers = HeaderMap::from_iter([(REVOKED, HeaderValue::from_static("true"))]);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Stage::Ready | Stage::Reading => self.stage = Stage::Reading,
            Stage::Cut => return Poll::Ready(Some(Err(Unanswered.into()))),
            Stage::Ended => return Poll::Ready(None),
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.stage = Stage::Ended;
        // Trailers of the upstream do not pass.
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                self.stage = Stage::Ready;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            Some(Ok(Err(_))) | None => Poll::Ready(None),
        }
    }
}
