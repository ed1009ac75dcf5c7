//! The course of an action: what was sent, what came of each step, what the client told of itself,
//! and what was left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::Regex;
use serde_json::{Value, json};

use super::{
    names::{Names, token_use},
    steps::text,
};
use crate::support::proxy::{Answer, Exchange};

/// The headers that are compared; the others are an HTTP library's, or of no consequence.
const HEADERS: [&str; 11] = [
    "authorization",
    "baggage",
    "content-type",
    "host",
    "idempotency-key",
    "idempotency-key-kind",
    "referer",
    "traceparent",
    "tracestate",
    "x-caracal-resource",
    "x-own",
];

/// What differs from run to run: an id, or the address of a host.
static ID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|127\.0\.0\.1:\d+").unwrap()
});

/// How an action went, in the words of the recording.
pub(crate) struct Course {
    requests: Vec<Value>,
    /// Nothing can be said about the order of the requests, only how many were alike.
    concurrent: bool,
    /// What came of each step, in the order in which the steps began.
    results: Vec<Value>,
    events: Vec<String>,
    /// The sessions still live afterwards: `task active`.
    pub(crate) left_behind: Vec<String>,
    names: Names,
}

impl Course {
    /// What was recorded of a client in `language`.
    pub(crate) fn recorded(action: &Value, language: &str) -> Self {
        let mut parts = action["go"].as_object().unwrap().clone();
        // Where a recording is none of its own, it says so in a word.
        parts.extend(action[language].as_object().cloned().unwrap_or_default());
        let part = |name: &str| parts.get(name).unwrap_or(&Value::Null);
        let concurrent = !parts.contains_key("requests");
        let requests = part(if concurrent { "requests_in_any_order" } else { "requests" });
        let mut course = Self {
            requests: items(requests).cloned().collect(),
            concurrent,
            results: items(part("results")).cloned().collect(),
            events: comparable(strings(part("events"))),
            left_behind: strings(part("left_behind")),
            names: Names::default(),
        };
        course.give_keys_to_narrows();
        for request in &mut course.requests {
            without(Some(&mut *request), &["fault", "resent_by_http_library"]);
            without(request.get_mut("answer"), &["location", "retry-after"]);
            // Go's alone says what is the default, for the sessions of a pair.
            if text(request, "path").ends_with("/agents") && request["json"]["lifecycle"] == "task"
            {
                without(request.get_mut("json"), &["lifecycle"]);
            }
        }
        for result in &mut course.results {
            without_wording(result);
            fail_with_the_request(result);
        }
        course
    }

    /// The one thing in which all recordings differ from this client: there the delegation of a
    /// narrow has no `Idempotency-Key`, so that it cannot be asked for again when its answer is
    /// lost.
    fn give_keys_to_narrows(&mut self) {
        let delegations = self.requests.iter_mut().filter(|request| {
            request["method"] == "POST" && text(request, "path").ends_with("/delegations")
        });
        for (number, request) in delegations.enumerate() {
            let headers = request["headers"].as_array_mut().unwrap();
            if headers.iter().all(|header| header[0] != "idempotency-key") {
                headers.push(json!(["idempotency-key", format!("${{narrow_key{number}}}")]));
                headers.sort_by_key(ToString::to_string);
            }
        }
    }

    pub(super) fn observed(
        exchanges: &[Exchange],
        results: Vec<Value>,
        events: Vec<String>,
        left_behind: Vec<String>,
        names: Names,
    ) -> Self {
        let requests = exchanges.iter().map(request).collect();
        let events = comparable(events);
        Self { requests, concurrent: false, results, events, left_behind, names }
    }

    /// Traces in which a request has the span of an earlier one.
    pub(crate) fn repeated_spans(&self) -> Vec<String> {
        let headers = self.requests.iter().flat_map(|request| items(&request["headers"]));
        let traces = headers.filter(|header| header[0] == "traceparent");
        let mut seen = BTreeSet::new();
        let repeated = traces.filter(|trace| !seen.insert(trace[1].to_string()));
        repeated.map(|trace| format!("the span of {} is not new", trace[1])).collect()
    }

    /// Bearers that left the client for where they do not belong, and mandates used twice.
    pub(crate) fn misplaced_bearers(&self) -> Vec<String> {
        let mut used = BTreeSet::new();
        let mut found = Vec::new();
        for request in &self.requests {
            let mut headers = items(&request["headers"]);
            let Some(bearer) = headers.find(|it| it[0] == "authorization") else { continue };
            let bearer = bearer[1].as_str().unwrap().trim_start_matches("Bearer ");
            let fine = match text(request, "to") {
                "gateway" => token_use(bearer).as_deref() == Some("gateway") && used.insert(bearer),
                "third" | "upstream" => bearer == "mine",
                _ => token_use(bearer).as_deref() == Some("session"),
            };
            if !fine {
                found.push(format!("the bearer of {} does not belong there", shape(request)));
            }
        }
        found
    }

    /// Leaves out renewals of a lease that were too many for their time, and what told of them.
    pub(crate) fn forget_beats_beyond(&mut self, times: usize) {
        for _ in times..beats(&Value::from(self.requests.clone())) {
            let last = self.requests.iter().rposition(is_beat).unwrap();
            self.requests.remove(last);
            let event =
                self.events.iter().rposition(|event| event == "coordinator.call ok POST 200");
            self.events.remove(event.unwrap());
        }
    }

    /// The requests in short: `POST /agents -> 201`.
    pub(crate) fn shapes(&self) -> Vec<String> {
        self.requests.iter().map(shape).collect()
    }

    /// The results in short: `session ok`.
    pub(crate) fn outcomes(&self) -> Vec<String> {
        let outcome = |result: &Value| {
            let code = |error: &Value| {
                let code = error.get("code").unwrap_or(&error["class"]);
                code.as_str().unwrap_or("ok").to_owned()
            };
            let answers = result.get("answers").and_then(Value::as_array);
            let several = result["op"] != "parallel" && answers.is_some();
            let outcome = if several {
                let answer = |it: &Value| it.as_u64().map_or_else(|| code(it), |it| it.to_string());
                items(&result["answers"]).map(answer).collect::<Vec<_>>().join(" ")
            } else {
                code(&result["error"])
            };
            format!("{} {outcome}", text(result, "op"))
        };
        self.results.iter().map(outcome).collect()
    }

    /// In what the course differs from a recorded one.
    pub(crate) fn differences(&self, recorded: &Self) -> Vec<String> {
        let mut names = self.names.clone();
        let mut found = Vec::new();
        if recorded.concurrent {
            found.extend(differing_numbers(&recorded.requests, &self.requests, &names));
        } else {
            compare_all("request", &recorded.requests, &self.requests, &mut names, &mut found);
        }
        compare_all("result", &recorded.results, &self.results, &mut names, &mut found);
        let (events, wanted) = if recorded.concurrent {
            (counted(&self.events), recorded.events.clone())
        } else {
            (self.events.clone(), recorded.events.clone())
        };
        if events != wanted {
            let (events, wanted) = (events.join("\n  "), wanted.join("\n  "));
            found.push(format!("events\n  {events}\nand not\n  {wanted}"));
        }
        if self.left_behind != recorded.left_behind {
            let (left, wanted) = (&self.left_behind, &recorded.left_behind);
            found.push(format!("left behind {left:?} and not {wanted:?}"));
        }
        found
    }
}

fn compare_all(
    what: &str,
    recorded: &[Value],
    observed: &[Value],
    names: &mut Names,
    found: &mut Vec<String>,
) {
    if recorded.len() != observed.len() {
        let lines =
            |values: &[Value]| values.iter().map(|it| format!("\n  {it}")).collect::<String>();
        found.push(format!("{what}s{}\nand not{}", lines(observed), lines(recorded)));
        return;
    }
    for (number, (recorded, observed)) in recorded.iter().zip(observed).enumerate() {
        let differs = names.compare(recorded, observed).err();
        found.extend(differs.map(|why| format!("{what} {number}{why}")));
    }
}

/// Each request recorded with its number, against how many there were like it.
fn differing_numbers(recorded: &[Value], observed: &[Value], names: &Names) -> Vec<String> {
    let mut found = Vec::new();
    let mut total = 0;
    for request in recorded {
        let mut request = request.clone();
        let times = request["times"].take();
        without(Some(&mut request), &["times"]);
        let alike = observed.iter().filter(|it| names.clone().compare(&request, it).is_ok());
        let alike = alike.count();
        if times != alike {
            found.push(format!("{alike} and not {times} requests {request}"));
        }
        total += alike;
    }
    if total != observed.len() {
        let shapes: Vec<_> = observed.iter().map(shape).collect();
        found.push(format!("unknown ones among {:#?}", counted(&shapes)));
    }
    found
}

/// How often a token is looked up among those kept differs from language to language. And some
/// events that name no code end with the blank before it.
fn comparable(mut events: Vec<String>) -> Vec<String> {
    events.retain(|event| event != "token.exchange ok cached");
    events.iter().map(|event| event.trim_end().to_owned()).collect()
}

/// Sorted, and how often each was there.
fn counted(events: &[String]) -> Vec<String> {
    let mut numbers = BTreeMap::<_, u32>::new();
    for event in events {
        *numbers.entry(event).or_default() += 1;
    }
    numbers.iter().map(|(event, number)| format!("{number} x {event}")).collect()
}

fn request(exchange: &Exchange) -> Value {
    let headers = HEADERS.iter().filter_map(|name| {
        let value = exchange.headers.get(*name)?.to_str().unwrap();
        Some(json!([name, value]))
    });
    let mut request = json!({
        "to": exchange.to,
        "method": exchange.method.as_str(),
        "path": exchange.path,
        "headers": headers.collect::<Value>(),
    });
    if exchange.to == "sts" {
        request["form"] = form(&exchange.body);
    } else if !exchange.body.is_empty() {
        request["json"] = serde_json::from_slice(&exchange.body).unwrap();
    }
    if let Some(given) = &exchange.answer {
        request["answer"] = answer(given);
    }
    request
}

fn answer(answer: &Answer) -> Value {
    let mut note = json!({ "status": answer.status.as_u16() });
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if let Some(code) = body["error"].as_str() {
        note["error"] = code.into();
    }
    if answer.headers.contains_key("idempotency-replayed") {
        note["replayed"] = true.into();
    }
    note
}

/// A form as the recorder writes it: a list where a field is there more than once.
fn form(body: &[u8]) -> Value {
    let mut fields = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        fields.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    let several = |values: Vec<String>| match <[String; 1]>::try_from(values) {
        Ok([one]) => json!(one),
        Err(several) => json!(several),
    };
    fields.into_iter().map(|(name, values)| (name, several(values))).collect()
}

fn shape(request: &Value) -> String {
    let (method, path) = (text(request, "method"), text(request, "path"));
    let path = path.strip_prefix("/zones/zone-main").unwrap_or(path);
    let answer = &request["answer"];
    let status = answer["status"].as_u64().map_or("cut".to_owned(), |status| status.to_string());
    let replayed = if answer["replayed"] == true { " replayed" } else { "" };
    // A call is judged by its headers too.
    let to = match text(request, "to") {
        to @ ("gateway" | "third" | "upstream") => format!("{to} "),
        _ => return format!("{method} {} -> {status}{replayed}", ID.replace_all(path, "*")),
    };
    let headers = items(&request["headers"]).map(|header| {
        let part = usize::from(header[0] == "baggage");
        format!(" {}", header[part].as_str().unwrap())
    });
    let headers = headers.collect::<String>();
    ID.replace_all(&format!("{to}{method} {path} -> {status}{headers}"), "*").into_owned()
}

/// Leaves out of a result what is a language's own: texts, and that a context has a token source.
fn without_wording(result: &mut Value) {
    for (name, words) in [("error", "text"), ("context", "own_token")] {
        without(result.get_mut(name), &[words]);
    }
    for list in ["failed", "answers"] {
        for failed in result.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            without(Some(failed), &["text"]);
        }
    }
}

/// Where a recorded client makes no transport for the application, its first request fails here.
fn fail_with_the_request(result: &mut Value) {
    if result["op"] == "app_transport" && result.get("error").is_some() {
        result["answers"] = json!([result["error"].take()]);
        without(Some(result), &["ok", "error"]);
    }
}

fn without(value: Option<&mut Value>, names: &[&str]) {
    if let Some(members) = value.and_then(Value::as_object_mut) {
        for name in names {
            members.remove(*name);
        }
    }
}

pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

pub(super) fn strings(list: &Value) -> Vec<String> {
    items(list).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// How many of these requests renew a lease.
pub(super) fn beats(requests: &Value) -> usize {
    items(requests).filter(|request| is_beat(request)).count()
}

fn is_beat(request: &Value) -> bool {
    text(request, "path").ends_with("/heartbeat")
}
