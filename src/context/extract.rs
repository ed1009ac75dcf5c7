//! Contexts and mandates as handler arguments.

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use super::{Binding, CaracalContext, Mandate, Reporting};
use crate::{Denial, Reason};

/// A handler argument that could not be had: rendered as the layer renders its refusals.
#[derive(Debug)]
pub struct ContextRejection {
    denial: Denial,
    response: Box<Response>,
}

impl ContextRejection {
    fn new(denial: Denial, parts: &Parts) -> Self {
        let response = Box::new(Reporting::of(parts).render(&denial, parts));
        Self { denial, response }
    }

    /// Why the argument could not be had. For logs; its `Display` is not meant for callers.
    #[must_use]
    pub fn denial(&self) -> &Denial {
        &self.denial
    }

    /// The status that is answered.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }
}

impl IntoResponse for ContextRejection {
    fn into_response(self) -> Response {
        *self.response
    }
}

impl<S: Sync> FromRequestParts<S> for CaracalContext {
    type Rejection = ContextRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ContextRejection> {
        Binding::of(&parts.extensions)
            .and_then(Binding::required)
            .cloned()
            .map_err(|denial| ContextRejection::new(denial, parts))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for CaracalContext {
    type Rejection = ContextRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, ContextRejection> {
        match Binding::of(&parts.extensions) {
            Ok(Binding::Bound(context)) => Ok(Some(context.clone())),
            Ok(Binding::Unbound | Binding::Exempt) => Ok(None),
            Err(denial) => Err(ContextRejection::new(denial, parts)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Mandate {
    type Rejection = ContextRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ContextRejection> {
        Binding::of(&parts.extensions)
            .and_then(Binding::proven)
            .and_then(|proof| {
                proof.mandate().ok_or_else(|| Denial::misconfigured(Reason::NoMandate))
            })
            .map_err(|denial| ContextRejection::new(denial, parts))
    }
}
