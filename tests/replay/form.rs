//! The repeatable form of answers, in which known values stand as `${name}` and generated ones as
//! their kind, and where two of them differ.

use std::{cmp::Reverse, collections::BTreeSet, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use regex::{Captures, Regex};
use serde_json::{Map, Value, json};

use super::{members, pairs, wire::Answer};

/// Texts for people, and members that only explain others: free to differ.
#[rustfmt::skip]
const SOFT: [&str; 6] = [
    "error_description", "message", "detail", "error_hint", "details", "text",
];
/// Headers that belong to the protocol; all others are the business of an HTTP stack.
#[rustfmt::skip]
const KEEP_HEADERS: [&str; 19] = [
    "content-type", "cache-control", "www-authenticate", "retry-after", "idempotency-replayed",
    "location", "allow", "x-caracal-token-expires-in", "x-caracal-identity", "x-upstream", "x-kept",
    "set-cookie", "server", "x-powered-by", "x-aspnet-version", "x-aspnetmvc-version", "refresh",
    "content-location", "x-request-id",
];
/// Lists in no defined order.
const UNORDERED: [&str; 2] = ["inbound_edges", "parent_edges_considered"];
/// Numbers that depend on what happened in the zone before.
const COUNTERS: [&str; 3] = ["delegation_graph_epoch", "edge_version", "affected_sessions"];
/// What any HTTP stack adds to a request, or leaves out.
#[rustfmt::skip]
const ECHO_DROP: [&str; 8] = [
    "user-agent", "accept-encoding", "connection", "date", "host", "content-length",
    "transfer-encoding", "accept",
];
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\$\{([\w.]+)\}").unwrap());
static COORDINATE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[\w-]{43}$").unwrap());
/// What a generated value looks like on its own, and what stands for it.
static KINDS: LazyLock<[(Regex, &str); 5]> = LazyLock::new(|| {
    [
        (r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "<uuid>"),
        (r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", "<time>"),
        (r"^eyJ[\w-]+\.[\w-]+\.[\w-]+$", "<jwt>"),
        (r"^[0-9a-f]{64}$", "<hex64>"),
        (r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$", "<traceparent>"),
    ]
    .map(|(form, kind)| (Regex::new(form).unwrap(), kind))
});
/// The same within a longer text.
static EMBEDDED: LazyLock<[(Regex, &str); 2]> = LazyLock::new(|| {
    [
        (r"\bBearer eyJ[\w-]+\.[\w-]+\.[\w-]+", "Bearer <jwt>"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
    ]
    .map(|(form, kind)| (Regex::new(form).unwrap(), kind))
});

/// What an upstream received, without what any HTTP stack adds and in one order.
fn echo(mut answer: Value) -> Value {
    if answer["echo"] == true
        && let Some(headers) = answer["headers"].as_array_mut()
    {
        headers.retain(|pair| pair[0].as_str().is_some_and(|name| !ECHO_DROP.contains(&name)));
        headers.sort_by_cached_key(Value::to_string);
    }
    answer
}

/// A header that the upstream received, a token without its scheme.
fn echoed(answer: &Value, name: &str) -> Option<Value> {
    let (_, value) = pairs(answer, "headers").find(|(it, _)| *it == name)?;
    Some(json!(value.strip_prefix("Bearer ").unwrap_or(value)))
}

fn token(value: Option<&Value>) -> Option<&str> {
    value?.as_str().filter(|text| kind(text) == Some("<jwt>"))
}

/// Header or claims of a token.
pub(super) fn token_part(token: &str, index: usize) -> Result<Value, String> {
    let decoded = URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap_or_default()).ok();
    let json: Option<Value> = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    json.filter(Value::is_object).ok_or_else(|| format!("part {index} of a token is no object"))
}

fn kind(text: &str) -> Option<&'static str> {
    KINDS.iter().find(|(form, _)| form.is_match(text)).map(|(_, kind)| *kind)
}

/// Values by name, in the order they became known: of several names of a value the first counts.
#[derive(Clone, Default)]
pub(super) struct Variables(Vec<(String, Value)>);

impl Variables {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Puts variables into a step: `${name}` anywhere in a string.
    pub(super) fn fill(&self, value: &mut Value) -> Result<(), String> {
        match value {
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.fill(item)),
            Value::Object(members) => members.values_mut().try_for_each(|member| self.fill(member)),
            Value::String(text) => {
                let mut missing = Ok(());
                let filled = VARIABLE.replace_all(text, |found: &Captures<'_>| {
                    match self.get(&found[1]) {
                        Some(Value::String(value)) => return value.clone(),
                        Some(value) => return value.to_string(),
                        None => missing = Err(format!("variable {} was never kept", &found[1])),
                    }
                    String::new()
                });
                *text = filled.into_owned();
                missing
            }
            _ => Ok(()),
        }
    }

    /// Keeps values of an answer under names: by JSON pointer, `header:NAME`, or `echo:NAME` for a
    /// header that the upstream received. The ids in a token's claims and its key get names as well.
    pub(super) fn keep(&mut self, answer: &Answer, step: &Value) -> Result<(), String> {
        for (name, source) in members(step, "keep") {
            let source = source.as_str().unwrap_or_default();
            let json = answer.json.as_ref();
            let value = match source.split_once(':') {
                Some(("header", name)) => answer.header(name).map(|value| json!(value)),
                Some(("echo", name)) => json.and_then(|json| echoed(json, name)),
                _ => json.and_then(|json| json.pointer(source)).cloned(),
            };
            let value = value.ok_or_else(|| format!("no {source} to keep as {name}"))?;
            self.set(name, value.clone());
            let Some(token) = token(Some(&value)) else { continue };
            let (header, claims) = (token_part(token, 0)?, token_part(token, 1)?);
            let kid = header.get("kid").filter(|kid| !matches!(kid.as_str(), None | Some("")));
            let claims = ["sid", "root_sid", "jti"].map(|claim| (claim, claims.get(claim)));
            for (member, value) in [("kid", kid)].into_iter().chain(claims) {
                if let Some(value) = value.filter(|it| !self.0.iter().any(|(_, old)| old == *it)) {
                    self.set(&format!("{name}.{member}"), value.clone());
                }
            }
        }
        Ok(())
    }

    /// The repeatable form of an answer, once its kept values have names.
    pub(super) fn record(&self, answer: &Answer, step: &Value) -> Value {
        let mut headers = Map::new();
        for (name, value) in KEEP_HEADERS.iter().filter_map(|it| Some((*it, answer.header(it)?))) {
            let mut value = self.shape_text(value, "");
            if name == "content-type" {
                value.truncate(value.find(';').unwrap_or(value.len()));
            }
            headers.insert(name.into(), json!(value));
        }
        let mut form = json!({"status": answer.status, "headers": headers});
        if let Some(json) = &answer.json {
            form["json"] = self.shape(&echo(json.clone()), "");
        }
        for (name, _) in members(step, "keep") {
            if let Some(token) = token(self.get(name)) {
                form["tokens"][name] = self.shape_token(token);
            }
        }
        form
    }

    fn shape_token(&self, token: &str) -> Value {
        let [mut header, claims] = [0, 1].map(|part| token_part(token, part).unwrap_or_default());
        if let Some(kid) = header.get_mut("kid") {
            *kid = json!("<kid>");
        }
        let lifetime = claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(end, at)| end - at);
        json!({"header": header, "lifetime": lifetime, "claims": self.shape(&claims, "")})
    }

    /// The repeatable form of a value under a member name.
    fn shape(&self, value: &Value, key: &str) -> Value {
        match value {
            Value::Object(members) => {
                members.iter().map(|(key, value)| (key.clone(), self.shape(value, key))).collect()
            }
            Value::Array(items) => items.iter().map(|item| self.shape(item, key)).collect(),
            Value::Number(_) if ["exp", "iat", "nbf"].contains(&key) => json!("<seconds>"),
            Value::Number(_) if COUNTERS.contains(&key) => json!("<int>"),
            Value::String(text) => json!(self.shape_text(text, key)),
            other => other.clone(),
        }
    }

    fn shape_text(&self, text: &str, key: &str) -> String {
        let known = self.0.iter().filter_map(|(name, value)| Some((value.as_str()?, name)));
        // A shorter value might be a part of anything.
        let mut known: Vec<_> = known.filter(|(value, _)| value.chars().count() >= 6).collect();
        if let Some((_, name)) = known.iter().find(|(value, _)| *value == text) {
            return format!("${{{name}}}");
        }
        known.sort_by_key(|(value, _)| Reverse(value.len()));
        let text = known.iter().fold(text.to_owned(), |text, (value, name)| {
            text.replace(value, &format!("${{{name}}}"))
        });
        if let Some(kind) = kind(&text) {
            return kind.into();
        } else if ["x", "y"].contains(&key) && COORDINATE.is_match(&text) {
            return "<coordinate>".into();
        }
        let mark =
            |text: String, (form, kind): &(Regex, &str)| form.replace_all(&text, *kind).into();
        EMBEDDED.iter().fold(text, mark)
    }
}

/// What counts of an answer that only the HTTP framework of the original server made.
pub(super) fn loose(form: &Value) -> Value {
    let mut headers = form["headers"].as_object().cloned().unwrap_or_default();
    headers.retain(|name, _| name != "content-type" && name != "allow");
    json!({"status": form["status"], "headers": headers})
}

/// Where two repeatable forms differ in what matters.
pub(super) fn differences(expected: &Value, actual: &Value, path: &str) -> Vec<String> {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            let names: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
            let names = names.into_iter().filter(|name| !SOFT.contains(&name.as_str()));
            let compare = |name: &String| match (expected.get(name), actual.get(name)) {
                (Some(it), Some(other)) => differences(it, other, &format!("{path}/{name}")),
                (Some(missing), _) => vec![format!("{path}/{name}: missing, expected {missing}")],
                (_, found) => {
                    vec![format!("{path}/{name}: unexpected {}", found.unwrap_or(&Value::Null))]
                }
            };
            names.flat_map(compare).collect()
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            let [mut expected, mut actual] = [expected.clone(), actual.clone()];
            if path.rsplit('/').next().is_some_and(|name| UNORDERED.contains(&name)) {
                expected.sort_by_cached_key(Value::to_string);
                actual.sort_by_cached_key(Value::to_string);
            }
            let compare = |(at, (it, other))| differences(it, other, &format!("{path}/{at}"));
            expected.iter().zip(&actual).enumerate().flat_map(compare).collect()
        }
        _ if same(expected, actual, path) => Vec::new(),
        _ => vec![format!("{path}: {actual}, expected {expected}")],
    }
}

/// Whether a value will do. Ids need not be UUIDs, nor have key ids one form, and a second may
/// begin between two readings of a clock.
fn same(expected: &Value, actual: &Value, path: &str) -> bool {
    let seconds = |value: &Value| match path {
        _ if path.ends_with("x-caracal-token-expires-in") => value.as_str()?.parse().ok(),
        _ if path.ends_with("expires_in") || path.ends_with("lifetime") => value.as_i64(),
        _ => None,
    };
    if let (Some(expected), Some(actual)) = (seconds(expected), seconds(actual)) {
        return expected.abs_diff(actual) <= 2;
    }
    let any = expected == "<uuid>" || expected == "<kid>";
    expected == actual
        || any && actual.as_str().is_some_and(|text| !text.is_empty())
        || expected.is_number() && expected.as_f64() == actual.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(value: Value) -> Value {
        let mut variables = Variables::default();
        variables.set("zone", json!("zone-main"));
        variables.set("again", json!("zone-main"));
        variables.set("longer", json!("zone-main-2"));
        variables.set("short", json!("zone-"));
        variables.shape(&value, "")
    }

    #[test]
    fn known_values_stand_as_their_first_name_and_the_longest_first() {
        let texts = json!(["zone-main", "at /zone-main-2/zone-main", "zone-other"]);
        assert_eq!(shape(texts), json!(["${zone}", "at /${longer}/${zone}", "zone-other"]));
    }

    #[test]
    fn generated_values_stand_as_their_kind() {
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let answer = json!({
            "id": uuid, "at": "2026-01-02T03:04:05.6Z", "token": "eyJh.eyJi.c-_", "hash": "0a".repeat(32),
            "text": format!("no {uuid} for Bearer eyJh.eyJi.c"), "x": "A".repeat(43), "z": "A".repeat(43),
            "exp": 5, "other": 5, "edge_version": 5, "yes": true, "nearly": uuid.to_uppercase(),
        });
        let form = json!({
            "id": "<uuid>", "at": "<time>", "token": "<jwt>", "hash": "<hex64>",
            "text": "no <uuid> for Bearer <jwt>", "x": "<coordinate>", "z": "A".repeat(43),
            "exp": "<seconds>", "other": 5, "edge_version": "<int>", "yes": true,
            "nearly": uuid.to_uppercase(),
        });
        assert_eq!(shape(answer), form);
    }

    #[test]
    fn what_matters_may_not_differ() {
        let found = |expected, actual| differences(&expected, &actual, "");
        let (expected, actual) = (json!({"a": 1, "b": [1, 2]}), json!({"b": [2, 1], "c": null}));
        let all = ["/a: missing, expected 1", "/b/0: 2, expected 1", "/b/1: 1, expected 2"];
        assert_eq!(found(expected, actual), [&all[..], &["/c: unexpected null"]].concat());
        assert_eq!(found(json!({"expires_in": 900}), json!({"expires_in": 903})).len(), 1);
        assert_eq!(found(json!({"depth": 1}), json!({"depth": 2})).len(), 1);
        assert_eq!(found(json!("<uuid>"), json!("")).len(), 1);
        assert_eq!(found(json!("<time>"), json!("then")).len(), 1);
        assert_eq!(found(json!(["a"]), json!(["a", "a"])).len(), 1);
    }

    #[test]
    fn what_does_not_matter_may() {
        let expected = json!({"expires_in": 900, "message": "a", "id": "<uuid>", "n": 1,
            "inbound_edges": ["c", "a", "b"]});
        let actual = json!({"expires_in": 898, "detail": "b", "id": "session-1", "n": 1.0,
            "inbound_edges": ["b", "c", "a"]});
        assert_eq!(differences(&expected, &actual, ""), [""; 0]);
    }
}
