//! Idempotency: a request that is sent again under the same key gets the same answer.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{
    Answer,
    refusal::{self, Refusal, refuse_if},
};
use crate::embedded::{
    state::{Receipt, ReceiptKey, Zone},
    time::Time,
    web::joined,
};

const MAX_KEY_BYTES: usize = 255;

/// Receipts that one application may have in a zone.
const MAX_RECEIPTS: usize = 10_000;

const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Of keys that a client library made up.
const GENERATED_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// An `Idempotency-Key` with what it stands for.
pub(super) struct Keyed {
    key: ReceiptKey,
    /// The request with its defaults filled in.
    request: Value,
    retention: Duration,
}

impl Keyed {
    /// Reads the header, if there is one.
    pub(super) fn read(
        headers: &HeaderMap,
        application: &str,
        operation: &'static str,
        request: Value,
    ) -> Result<Option<Self>, Refusal> {
        let Some(key) = joined(headers, "idempotency-key") else { return Ok(None) };
        refuse_if(key.trim() != key || key.is_empty(), refusal::KEY_IS_BLANK)?;
        let is_unfit = key.len() > MAX_KEY_BYTES || key.bytes().any(|byte| byte.is_ascii_control());
        refuse_if(is_unfit, refusal::KEY_IS_UNFIT)?;
        let generated = joined(headers, "idempotency-key-kind").as_deref() == Some("generated");
        let retention = if generated { GENERATED_RETENTION } else { RETENTION };
        let key = (application.to_owned(), operation, key);
        Ok(Some(Self { key, request, retention }))
    }

    /// The first answer, if the request was answered before and what it made is still live.
    pub(super) fn replay(
        &self,
        zone: &mut Zone,
        now: Time,
        is_live: impl FnOnce(&Zone, &str) -> bool,
    ) -> Result<Option<Answer>, Refusal> {
        zone.receipts.retain(|_, receipt| now < receipt.kept_until);
        let Some(receipt) = zone.receipts.get(&self.key) else {
            let count = zone.receipts.keys().filter(|key| key.0 == self.key.0).count();
            refuse_if(count >= MAX_RECEIPTS, refusal::TOO_MANY_RECEIPTS)?;
            return Ok(None);
        };
        refuse_if(receipt.request != self.request, refusal::KEY_CONFLICT)?;
        refuse_if(!is_live(zone, &receipt.result), refusal::RESULT_INACTIVE)?;
        let body = Some(receipt.answer.clone());
        Ok(Some(Answer { status: StatusCode::CREATED, body, replayed: true }))
    }

    /// Keeps the answer to a request that succeeded.
    pub(super) fn keep(self, zone: &mut Zone, result: &str, answer: &Value, now: Time) {
        let receipt = Receipt {
            request: self.request,
            answer: answer.clone(),
            result: result.to_owned(),
            kept_until: now.plus(self.retention),
        };
        zone.receipts.insert(self.key, receipt);
    }
}
