//! Replays recorded HTTP conversations with a control plane and reports every difference.
//!
//! A file holds `transcripts`, each a row of steps: requests with the answer to expect, time that
//! passes, acts of an operator, tokens spoilt on purpose. Answers are compared in a repeatable
//! form, in which known values stand as `${name}` and generated ones as their kind.

mod echo;

use std::collections::{BTreeMap, BTreeSet};
use std::{cmp::Ordering, cmp::Reverse, io, net::SocketAddr, sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use regex::{Captures, Regex};
use serde::Serialize as _;
use serde_json::{Map, Serializer, Value, json, ser::Formatter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::{net::TcpStream, time::timeout};

pub(crate) use self::echo::Echo;

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
/// What an [`Operator`] is asked for; transcripts with other actions are skipped.
#[rustfmt::skip]
const ACTIONS: [&str; 7] = [
    "rotate_key", "suspend", "resume", "terminate", "archive_application", "approve", "reject",
];
/// What any HTTP stack adds to a request, or leaves out.
#[rustfmt::skip]
const ECHO_DROP: [&str; 8] = [
    "user-agent", "accept-encoding", "connection", "date", "host", "content-length",
    "transfer-encoding", "accept",
];
/// How much time a stream takes, at least: what is revoked meanwhile reaches it.
const STREAM: Duration = Duration::from_secs(2);
/// An exchange that takes longer counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// HTTP steps, and those that read a body to its end, of the transcripts that were not skipped, reached or not.
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

/// The bytes of a request, with nothing normalised: the target stands as the step has it.
fn request(step: &Value, host: SocketAddr) -> Vec<u8> {
    let has = |name| pairs(step, "headers").any(|(it, _)| it.eq_ignore_ascii_case(name));
    let (body, media_type) = if step.get("form").is_some() {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let form = form.extend_pairs(pairs(step, "form")).finish();
        (form.into_bytes(), Some("application/x-www-form-urlencoded"))
    } else if let Some(json) = step.get("json") {
        (spaced(json), Some("application/json"))
    } else if let Some(text) = step["text"].as_str() {
        let byte = |it| u8::try_from(it).expect("a transcript sends Latin-1");
        (text.chars().map(byte).collect(), None)
    } else {
        (vec![b'x'; step["fill_body"].as_u64().unwrap_or(0) as usize], None)
    };
    let (method, target) = (word(step, "method"), word(step, "path"));
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in pairs(step, "headers") {
        head += &format!("{name}: {value}\r\n");
    }
    // After those of the step, whose first line counts.
    head += "Connection: close\r\n";
    if let Some(media_type) = media_type.filter(|_| !has("content-type")) {
        head += &format!("Content-Type: {media_type}\r\n");
    }
    // With a transfer coding the text of the step is framed already.
    let sized = !body.is_empty() || ["POST", "PUT", "PATCH"].contains(&method);
    if sized && !has("transfer-encoding") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [(head + "\r\n").into_bytes(), body].concat()
}

/// JSON with the blanks of the recorded client: an upstream shows it as it is.
fn spaced(json: &Value) -> Vec<u8> {
    struct Spaced;

    impl Formatter for Spaced {
        fn begin_array_value<W: ?Sized + io::Write>(
            &mut self,
            to: &mut W,
            first: bool,
        ) -> io::Result<()> {
            if first { Ok(()) } else { to.write_all(b", ") }
        }

        fn begin_object_key<W: ?Sized + io::Write>(
            &mut self,
            to: &mut W,
            first: bool,
        ) -> io::Result<()> {
            if first { Ok(()) } else { to.write_all(b", ") }
        }

        fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
            to.write_all(b": ")
        }
    }

    let mut text = Vec::new();
    json.serialize(&mut Serializer::with_formatter(&mut text, Spaced)).unwrap();
    text
}

#[derive(Clone)]
struct Answer {
    status: u16,
    /// Names in lower case, in the order of the wire.
    headers: Vec<(String, String)>,
    /// The body where it is JSON other than `null`; as text it is for people.
    json: Option<Value>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The head of an answer, and the bytes behind it.
    fn head(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = split_once(bytes, b"\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Some((Self { status, headers: headers.collect::<Option<_>>()?, json: None }, rest))
    }

    /// What came over a connection until it was closed; nothing unless it is complete.
    fn parse(bytes: &[u8], method: &str) -> Option<Self> {
        let (mut answer, rest) = Self::head(bytes)?;
        let mut body = Vec::new();
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
            return Some(answer);
        } else if answer.header("transfer-encoding").is_some_and(|it| it.contains("chunked")) {
            (body, _) = dechunked(rest)?;
        } else if let Some(length) = answer.header("content-length") {
            body.extend_from_slice(rest.get(..length.parse().ok()?)?);
        } else {
            body.extend_from_slice(rest);
        }
        answer.json = serde_json::from_slice(&body).ok().filter(|json: &Value| !json.is_null());
        Some(answer)
    }
}

/// A body that came in chunks, and its trailers; nothing unless it is complete.
fn dechunked(mut rest: &[u8]) -> Option<(Vec<u8>, Map<String, Value>)> {
    let mut body = Vec::new();
    loop {
        let (size, chunk) = split_once(rest, b"\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = chunk;
        if size == 0 {
            break;
        }
        body.extend_from_slice(chunk.get(..size)?);
        rest = chunk.get(size + 2..)?;
    }
    let mut trailers = Map::new();
    loop {
        let (line, after) = split_once(rest, b"\r\n")?;
        let Some((name, value)) = line.split_once(':') else { break };
        trailers.insert(name.to_ascii_lowercase(), json!(value.trim()));
        rest = after;
    }
    Some((body, trailers))
}

/// Latin-1 up to a separator, and the bytes behind it.
fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(String, &'a [u8])> {
    let end = bytes.windows(separator.len()).position(|window| window == separator)?;
    Some((bytes[..end].iter().copied().map(char::from).collect(), &bytes[end + separator.len()..]))
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
fn token_part(token: &str, index: usize) -> Result<Value, String> {
    let decoded = URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap_or_default()).ok();
    let json: Option<Value> = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    json.filter(Value::is_object).ok_or_else(|| format!("part {index} of a token is no object"))
}

fn kind(text: &str) -> Option<&'static str> {
    KINDS.iter().find(|(form, _)| form.is_match(text)).map(|(_, kind)| *kind)
}

/// Values by name, in the order they became known: of several names of a value the first counts.
#[derive(Clone, Default)]
struct Variables(Vec<(String, Value)>);

impl Variables {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Puts variables into a step: `${name}` anywhere in a string.
    fn fill(&self, value: &mut Value) -> Result<(), String> {
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
    /// header that the upstream received. What the claims
    /// and the key of a token are called gets names as well.
    fn keep(&mut self, answer: &Answer, step: &Value) -> Result<(), String> {
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
    fn record(&self, answer: &Answer, step: &Value) -> Value {
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
fn loose(form: &Value) -> Value {
    let mut headers = form["headers"].as_object().cloned().unwrap_or_default();
    headers.retain(|name, _| name != "content-type" && name != "allow");
    json!({"status": form["status"], "headers": headers})
}

/// Where two repeatable forms differ in what matters.
fn differences(expected: &Value, actual: &Value, path: &str) -> Vec<String> {
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
