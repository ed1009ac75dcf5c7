//! Idempotency: a request that is sent again under the same key gets the same answer.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{
    Answer,
    refusal::{self, Refusal, refuse_if},
};
use crate::embedded::{
    time::Time,
    web::{joined, trimmed},
    zone::{Receipt, ReceiptKey, Zone},
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
        refuse_if(trimmed(&key) != key || key.is_empty(), refusal::KEY_IS_BLANK)?;
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn keyed(application: &str, key: &str) -> Keyed {
        let headers = HeaderMap::from_iter([(
            "idempotency-key".parse().unwrap(),
            HeaderValue::try_from(key).unwrap(),
        )]);
        Keyed::read(&headers, application, "start", json!({})).unwrap().unwrap()
    }

    #[test]
    fn an_application_has_so_many_receipts_and_no_more() {
        let mut zone = Zone::default();
        let now = Time::from_seconds(0);
        for number in 0..MAX_RECEIPTS {
            keyed("app-1", &number.to_string()).keep(&mut zone, "session", &json!({}), now);
        }
        let mut replay = |application: &str, key: &str, now| {
            keyed(application, key)
                .replay(&mut zone, now, |_, _| true)
                .map(|answer| answer.is_some())
        };
        assert_eq!(replay("app-1", "one more", now), Err(refusal::TOO_MANY_RECEIPTS));
        assert_eq!(replay("app-1", "7", now), Ok(true), "what is kept replays");
        assert_eq!(replay("app-2", "one more", now), Ok(false), "another application has room");
        assert_eq!(replay("app-1", "one more", now.plus(RETENTION)), Ok(false), "a week later");
    }
}
