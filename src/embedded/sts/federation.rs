//! A user of an identity provider, and the session mandate that an application gets for them
//! (outbound contract §7.1).

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use serde_json::Value;
use url::Url;

use super::{
    Refusal, Text,
    form::{Form, Subject},
    refusal,
};
use crate::{
    embedded::{
        Shared,
        identity::{KeySet, Unproven},
        state::State,
        time::Time,
        web::Received,
    },
    outgoing::{Connecting, read_body},
};

/// How long fetched keys are used.
const KEYS_SECONDS: u64 = 5 * 60;
/// How long a provider may take to answer with its keys, and how many bytes these may have.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_DOCUMENT: usize = 262_144;

const ALONE: Refusal = refusal(
    400,
    "invalid_token",
    "an identity token is exchanged alone: without resource, scope, session, delegation, record and approval",
);

const fn invalid(what: &'static str) -> Refusal {
    Refusal { status: 401, code: "invalid_token", text: Text::IdToken(what) }
}

/// The user that an identity token names.
pub(super) fn judge(
    state: &mut State,
    form: &Form,
    token: &str,
    now: Time,
) -> Result<String, Refusal> {
    let is_alone = form.resources.is_empty()
        && form.scope.is_empty()
        && [&form.session, &form.edge, &form.record, &form.approval].iter().all(|it| it.is_none());
    if !is_alone {
        return Err(ALONE);
    }
    let unproven = Unproven::read(token).ok_or(invalid("it is no JWT"))?;
    let known = state.registry.zone(&form.zone);
    let provider = known.and_then(|known| known.provider(unproven.issuer())).cloned();
    let provider = provider.ok_or(invalid("the zone does not trust its issuer"))?;
    let keys = match &provider.document {
        Some(document) => KeySet::read(document).map(Arc::new),
        None => state.zone(&form.zone).and_then(|zone| {
            let (keys, at) = zone.fetched.get(&provider.issuer)?;
            is_fresh(*at, now).then(|| Arc::clone(keys))
        }),
    };
    let keys = keys.ok_or(invalid("the keys of its issuer cannot be had"))?;
    unproven.prove(&provider, &keys, now).map_err(invalid)
}

fn is_fresh(fetched: Time, now: Time) -> bool {
    now < fetched.plus_seconds(KEYS_SECONDS)
}

/// Asks the provider of an identity token for its keys, if they are needed.
pub(super) async fn fetch_keys(shared: &Shared, head: &Parts, body: &Received) {
    if !shared.lock().registry.asks_for_keys() {
        return;
    }
    let Ok(form) = Form::read(head, body) else { return };
    let Some(Subject::IdToken(token)) = &form.subject else { return };
    let Some(unproven) = Unproven::read(token) else { return };
    let Some(url) = missing(&mut shared.lock(), &form.zone, &unproven) else { return };
    let Some(keys) = fetch(&url).await else { return };
    let mut state = shared.lock();
    let now = state.now();
    if let Some(zone) = state.zone(&form.zone) {
        zone.fetched.insert(unproven.issuer().to_owned(), (Arc::new(keys), now));
    }
}

/// Where the keys for a token are, unless they are there.
fn missing(state: &mut State, zone: &str, unproven: &Unproven<'_>) -> Option<Url> {
    let now = state.now();
    let provider = state.registry.zone(zone)?.provider(unproven.issuer())?;
    let url = provider.url.as_ref().filter(|_| provider.document.is_none())?;
    let url = Url::parse(url).ok()?;
    let known = state.zone(zone)?.fetched.get(unproven.issuer());
    let is_there = known.is_some_and(|(keys, at)| is_fresh(*at, now) && unproven.has_key_in(keys));
    (!is_there).then_some(url)
}

async fn fetch(url: &Url) -> Option<KeySet> {
    let clients = Connecting::default().clients(0).ok()?;
    let response = clients.of(url).get(url.clone()).timeout(PATIENCE).send().await.ok()?;
    let response = response.error_for_status().ok()?;
    let body = read_body(response, MAX_DOCUMENT).await.ok()?;
    let document: Value = serde_json::from_slice(&body).ok()?;
    KeySet::read(&document)
}
