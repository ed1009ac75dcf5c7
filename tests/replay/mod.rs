//! Replays recorded HTTP conversations with a control plane and reports every difference.
//!
//! A file holds `transcripts`, each a row of steps: requests with the answer to expect, time that
//! passes, acts of an operator, tokens spoilt on purpose. Answers are compared in a repeatable
//! form, in which known values stand as `${name}` and generated ones as their kind.

mod echo;
mod form;
mod wire;

use std::{cmp::Ordering, collections::BTreeMap, io, net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::{net::TcpStream, time::timeout};

pub(crate) use self::echo::Echo;
use self::{
    form::{Variables, differences, loose, token_part},
    wire::{Answer, dechunked, request, split_once},
};

/// What an [`Operator`] is asked for; transcripts with other actions are skipped.
#[rustfmt::skip]
const ACTIONS: [&str; 7] = [
    "rotate_key", "suspend", "resume", "terminate", "archive_application", "approve", "reject",
];
/// How much time a stream takes, at least: what is revoked meanwhile reaches it.
const STREAM: Duration = Duration::from_secs(2);
/// An exchange that takes longer counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the services listen.
pub(crate) struct Bases {
    pub(crate) sts: SocketAddr,
    pub(crate) coordinator: SocketAddr,
    pub(crate) gateway: SocketAddr,
}

/// What a conversation asks of the world beside HTTP.
pub(crate) trait Operator {
    /// Lets time pass; moving the clock of the control plane does as well.
    async fn wait(&self, time: Duration);
    /// Awaits an answer that is put off for some seconds by the clock of the control plane.
    async fn patiently<T>(&self, answer: impl Future<Output = T>) -> T {
        answer.await
    }
    /// Does the `action` of a step, so that the next step sees its effect.
    async fn act(&self, step: &Value) -> Result<(), String>;
}

/// What a replay found. Transcripts that as a whole show only the original servers' HTTP
/// `framework` appear nowhere in it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// HTTP steps, and those that read a body to its end, of the transcripts that were not skipped,
    /// reached or not.
    pub(crate) exchanges: usize,
    /// `FILE TRANSCRIPT step N: ..`, also where there was no answer at all.
    pub(crate) differing: Vec<String>,
    /// Exchanges without an answer, or after a step without which the rest means nothing.
    pub(crate) unreached: usize,
    /// `FILE TRANSCRIPT: needs ..`
    pub(crate) skipped: Vec<String>,
    /// Transcripts that were not skipped.
    pub(crate) transcripts: usize,
}

/// Replays all transcripts of a file, one after the other.
pub(crate) async fn replay(
    file_name: &str,
    file: &Value,
    world_variables: &BTreeMap<String, String>,
    bases: &Bases,
    operator: &impl Operator,
) -> Report {
    let mut variables = Variables::default();
    for (name, value) in world_variables {
        variables.set(name, json!(value));
    }
    variables.set("issuer", json!(format!("http://{}", bases.sts)));
    variables.set("gateway_host", json!(bases.gateway.to_string()));
    let mut report = Report::default();
    for transcript in items(file, "transcripts").filter(|it| it["framework"] != true) {
        let title = format!("{file_name} {}", word(transcript, "name"));
        if let Some(need) = items(transcript, "steps").find_map(lacking) {
            report.skipped.push(format!("{title}: needs {need}"));
            continue;
        }
        let (variables, endings, open) = (variables.clone(), Vec::new(), BTreeMap::new());
        let mut talk = Conversation { variables, bases, operator, endings, open, answered: 0 };
        for (step, number) in items(transcript, "steps").zip(1..) {
            let outcome = talk.take(step).await;
            let ended = outcome.is_err();
            let found = outcome.unwrap_or_else(|reason| vec![reason]).join("\n      ");
            if !found.is_empty() {
                let what = ["action", "method", "path", "note"].map(|name| word(step, name));
                let what = format!("{} {}", word(step, "do"), what.join(" ").trim());
                report.differing.push(format!("{title} step {number}: {what}\n      {found}"));
            }
            if ended {
                break;
            }
        }
        for step in talk.endings.iter().rev() {
            let _ = talk.send(step).await; // the session may have ended already
        }
        let counts = |step: &&Value| ["http", "finish"].contains(&word(step, "do"));
        let exchanges = items(transcript, "steps").filter(counts).count();
        report.exchanges += exchanges;
        report.unreached += exchanges - talk.answered;
        report.transcripts += 1;
    }
    report
}

/// Names for what a world file fixes: the first zone is `zone`, the others `zone_NAME`.
pub(crate) fn world_variables(world: &str) -> BTreeMap<String, String> {
    let world: Value = toml::from_str(world).expect("a world file is TOML");
    let mut names = BTreeMap::new();
    let mut name = |name: String, it: &Value, member: &str| {
        let value = it[member].as_str().unwrap_or_else(|| panic!("{name} has no `{member}`"));
        names.insert(name, value.to_owned());
    };
    for (zone, index) in items(&world, "zones").zip(0..) {
        let label = format!("zone_{}", word(zone, "name"));
        name(if index == 0 { "zone".into() } else { label }, zone, "id");
        for application in items(zone, "applications") {
            let label = word(application, "name");
            name(format!("app_{label}"), application, "id");
            name(format!("secret_{label}"), application, "client_secret");
        }
        for resource in items(zone, "resources").filter(|it| it.get("id").is_some()) {
            let label = word(resource, "identifier").split("//").nth(1).unwrap_or_default();
            name(format!("resource_{label}"), resource, "id");
        }
    }
    names
}

/// A text member; empty where there is none.
fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn members<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value[name].as_object().into_iter().flatten()
}

/// Pairs of texts: headers, or the fields of a form.
fn pairs<'a>(step: &'a Value, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    items(step, name).filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)))
}

/// What a step needs that this replay does not have.
fn lacking(step: &Value) -> Option<String> {
    let (to, action) = (word(step, "to"), word(step, "action"));
    match word(step, "do") {
        "http" => (!["sts", "coordinator", "gateway"].contains(&to)).then(|| format!("the {to}")),
        "operator" => (!ACTIONS.contains(&action)).then(|| format!("an operator to {action}")),
        "wait" | "derive" | "relation" | "finish" => None,
        other => Some(format!("steps that {other}")),
    }
}

/// One transcript on its way.
struct Conversation<'a, O> {
    variables: Variables,
    bases: &'a Bases,
    operator: &'a O,
    /// Requests that end the sessions it started.
    endings: Vec<Value>,
    /// Connections with a body that is not read yet, and what came of it with the head.
    open: BTreeMap<String, (TcpStream, Answer, Vec<u8>)>,
    answered: usize,
}

impl<O: Operator> Conversation<'_, O> {
    /// Does a step: what differed, or why the conversation ends here.
    async fn take(&mut self, step: &Value) -> Result<Vec<String>, String> {
        let mut step = step.clone();
        let mut part = |name| step.as_object_mut()?.remove(name);
        let (task, expected) = (part("do").unwrap_or_default(), part("expect").unwrap_or_default());
        self.variables.fill(&mut step)?;
        match task.as_str().unwrap_or_default() {
            "wait" => {
                let seconds = step["seconds"].as_f64().ok_or("no number of seconds")?;
                self.operator.wait(Duration::from_secs_f64(seconds)).await;
            }
            "operator" => self.operator.act(&step).await?,
            "derive" => self.variables.set(word(&step, "keep"), json!(derive(&step)?)),
            "relation" => return relation(&step),
            "finish" => return self.finish(&step, &expected).await,
            _ => return self.exchange(&step, &expected).await,
        }
        Ok(Vec::new())
    }

    async fn exchange(&mut self, step: &Value, expected: &Value) -> Result<Vec<String>, String> {
        let answer = match step["stream"].as_str() {
            Some(name) => self.open(step, name).await,
            None if word(step, "path").contains("?wait=") => {
                self.operator.patiently(self.send(step)).await
            }
            None => self.send(step).await,
        };
        let answer = answer.map_err(|error| format!("no answer, {error}"))?;
        self.answered += 1;
        let kept = self.variables.keep(&answer, step);
        let actual = self.variables.record(&answer, step);
        let form = |it: &Value| if step["framework"] == true { loose(it) } else { it.clone() };
        let mut found = differences(&form(expected), &form(&actual), "");
        let starts = step["method"] == "POST" && word(step, "path").ends_with("/agents");
        if starts && answer.status == 201 {
            self.endings.extend(answer.json.and_then(|session| ending(step, &session)));
        }
        let Err(lost) = kept else { return Ok(found) };
        found.push(format!("a value to keep is missing: {lost}"));
        Err(found.join("\n      "))
    }

    async fn send(&self, step: &Value) -> Result<Answer, String> {
        let base = self.base(step);
        let exchange = async {
            let mut stream = TcpStream::connect(base).await?;
            // A server that refuses a body answers and closes, in the middle of it perhaps.
            let _ = stream.write_all(&request(step, base)).await;
            let mut bytes = Vec::new();
            let closed = stream.read_to_end(&mut bytes).await;
            if bytes.is_empty() { closed.map(|_| bytes) } else { Ok(bytes) }
        };
        let bytes = timeout(PATIENCE, exchange).await.unwrap_or_else(|late| Err(late.into()));
        let bytes = bytes.map_err(|error| error.to_string())?;
        let answer = Answer::parse(&bytes, word(step, "method"));
        answer.ok_or_else(|| format!("but {:?}", String::from_utf8_lossy(&bytes)))
    }

    fn base(&self, step: &Value) -> SocketAddr {
        match word(step, "to") {
            "sts" => self.bases.sts,
            "gateway" => self.bases.gateway,
            _ => self.bases.coordinator,
        }
    }

    /// Sends a request and reads the head of its answer.
    async fn open(&mut self, step: &Value, name: &str) -> Result<Answer, String> {
        let base = self.base(step);
        let exchange = async {
            let mut stream = TcpStream::connect(base).await?;
            stream.write_all(&request(step, base)).await?;
            let mut bytes = Vec::new();
            while split_once(&bytes, b"\r\n\r\n").is_none()
                && stream.read_buf(&mut bytes).await? > 0
            {}
            Ok((stream, bytes))
        };
        let opened = timeout(PATIENCE, exchange).await.unwrap_or_else(|late| Err(late.into()));
        let (stream, bytes) = opened.map_err(|error: io::Error| error.to_string())?;
        let (answer, rest) = Answer::head(&bytes).ok_or("but no head")?;
        self.open.insert(name.to_owned(), (stream, answer.clone(), rest.to_vec()));
        Ok(answer)
    }

    /// Reads an open body to its end: how it ended.
    async fn finish(&mut self, step: &Value, expected: &Value) -> Result<Vec<String>, String> {
        let opened = self.open.remove(word(step, "stream")).ok_or("there is no such stream")?;
        let (mut stream, head, mut bytes) = opened;
        self.operator.wait(STREAM).await;
        // A connection that breaks has ended as well.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        self.answered += 1;
        let (clean, trailers) = match head.header("content-length") {
            Some(length) => (length.parse() == Ok(bytes.len()), Map::new()),
            None => match dechunked(&bytes) {
                Some((_, trailers)) => (true, trailers),
                None => (false, Map::new()),
            },
        };
        let ended = if clean { "clean" } else { "cut" };
        Ok(differences(expected, &json!({"ended": ended, "trailers": trailers}), ""))
    }
}

/// The request that ends a root session, and with it its children: left running they would count
/// against the limits that later conversations meet.
fn ending(step: &Value, session: &Value) -> Option<Value> {
    let (zone, id) = (session["zone_id"].as_str()?, session["agent_session_id"].as_str()?);
    let mut ending = json!({
        "to": "coordinator", "method": "DELETE", "path": format!("/zones/{zone}/agents/{id}"),
    });
    let mut headers = pairs(step, "headers");
    let authorization = headers.find(|it| it.0.eq_ignore_ascii_case("authorization"));
    ending["headers"] = json!([authorization?]);
    if session["lifecycle"] == "service" {
        ending["json"] = json!({"lease_generation": session["lease_generation"]});
    }
    session["parent_id"].is_null().then_some(ending)
}

/// A token spoilt on purpose.
fn derive(step: &Value) -> Result<String, String> {
    let token = word(step, "from");
    let parts: Vec<_> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { return Err("not a token".into()) };
    Ok(match word(step, "how") {
        "flip-signature" => {
            let flipped = if signature.starts_with('A') { "B" } else { "A" };
            format!("{header}.{payload}.{flipped}{}", signature.get(1..).unwrap_or_default())
        }
        "drop-signature" => format!("{header}.{payload}."),
        "alg-none" => {
            format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#))
        }
        "other-claims" => {
            let mut claims = token_part(token, 1)?;
            for (claim, value) in members(step, "claims") {
                claims[claim] = value.clone();
            }
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
        }
        other => return Err(format!("unknown way to spoil a token: {other}")),
    })
}

/// Whether a number claim moves from each token to the next as it should: `=`, `<` or `<=`.
fn relation(step: &Value) -> Result<Vec<String>, String> {
    let claim = word(step, "claim");
    let value = |it: &Value| Ok(token_part(it.as_str().unwrap_or_default(), 1)?[claim].as_i64());
    let values = items(step, "tokens").map(value).collect::<Result<Vec<_>, String>>()?;
    let holds = values.windows(2).zip(items(step, "holds")).all(|(pair, how)| {
        let order = pair[0].zip(pair[1]).map(|(before, after)| match before.cmp(&after) {
            Ordering::Less => '<',
            Ordering::Equal => '=',
            Ordering::Greater => '>',
        });
        order.is_some_and(|order| how.as_str().is_some_and(|how| how.contains(order)))
    });
    let problem = (!holds).then(|| format!("{claim} is {values:?}, expected {}", step["holds"]));
    Ok(problem.into_iter().collect())
}
