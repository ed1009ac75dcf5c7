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
    is_reading: bool,
    has_ended: bool,
}

impl Watched {
    pub(super) fn new(
        body: reqwest::Body,
        is_sized: bool,
        authority: Authority,
        shared: Arc<Shared>,
    ) -> Self {
        Self { body, is_sized, authority, shared, is_reading: false, has_ended: false }
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
        if self.has_ended {
            return Poll::Ready(None);
        }
        if !self.is_reading && self.authority.is_revoked(&mut self.shared.lock()) {
            self.has_ended = true;
            if self.is_sized {
                return Poll::Ready(Some(Err(Unanswered.into())));
            }
            let trailers = HeaderMap::from_iter([(REVOKED, HeaderValue::from_static("true"))]);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        self.is_reading = true;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.is_reading = false;
        let frame = match frame {
            Some(Ok(frame)) => frame.into_data().ok(),
            Some(Err(error)) => {
                self.has_ended = true;
                return Poll::Ready(Some(Err(error.into())));
            }
            None => None,
        };
        // Trailers of the upstream do not pass.
        self.has_ended = frame.is_none();
        Poll::Ready(frame.map(|data| Ok(Frame::data(data))))
    }
}
