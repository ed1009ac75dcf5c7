//! Requests as bytes, and answers of bytes: nothing between the replay and the wire normalises them.

use std::{io, net::SocketAddr};

use serde::Serialize as _;
use serde_json::{Map, Serializer, Value, json, ser::Formatter};

use super::{pairs, word};

/// The bytes of a request, with nothing normalised: the target stands as the step has it.
pub(super) fn request(step: &Value, host: SocketAddr) -> Vec<u8> {
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
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case, in the order of the wire.
    pub(super) headers: Vec<(String, String)>,
    /// The body where it is JSON other than `null`; as text it is for people.
    pub(super) json: Option<Value>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The head of an answer, and the bytes behind it.
    pub(super) fn head(bytes: &[u8]) -> Option<(Self, &[u8])> {
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
    pub(super) fn parse(bytes: &[u8], method: &str) -> Option<Self> {
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
pub(super) fn dechunked(mut rest: &[u8]) -> Option<(Vec<u8>, Map<String, Value>)> {
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
pub(super) fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(String, &'a [u8])> {
    let end = bytes.windows(separator.len()).position(|window| window == separator)?;
    Some((bytes[..end].iter().copied().map(char::from).collect(), &bytes[end + separator.len()..]))
}
