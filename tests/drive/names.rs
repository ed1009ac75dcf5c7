//! The names that stand for values in a recording: `${session1}` for one that is the same wherever
//! it stands, `${session*}` and `<span>` for any of its kind.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;
use serde_json::Value;

static HOLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$\{(\w+\*?)\}|<(span|uuid|hex32)>").unwrap());

/// What the names stand for in this run. They are bound where they first appear.
#[derive(Clone, Default)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    pub(super) fn new<'a>(known: impl Iterator<Item = (&'a str, &'a String)>) -> Self {
        Self(known.map(|(name, value)| (name.into(), value.clone())).collect())
    }

    /// Compares a value with the recorded one; where it differs, and how.
    pub(super) fn compare(&mut self, recorded: &Value, found: &Value) -> Result<(), String> {
        match (recorded, found) {
            (Value::String(recorded), Value::String(found)) if self.text(recorded, found) => Ok(()),
            (Value::Array(recorded), Value::Array(found)) if recorded.len() == found.len() => {
                for (number, (recorded, found)) in recorded.iter().zip(found).enumerate() {
                    self.compare(recorded, found).map_err(|why| format!("[{number}]{why}"))?;
                }
                Ok(())
            }
            (Value::Object(recorded), Value::Object(found)) => {
                for (name, found) in found {
                    let recorded = recorded.get(name).unwrap_or(&Value::Null);
                    self.compare(recorded, found).map_err(|why| format!(".{name}{why}"))?;
                }
                match recorded.iter().find(|(name, _)| !found.contains_key(*name)) {
                    Some((name, recorded)) => Err(format!(".{name}: {recorded} is missing")),
                    None => Ok(()),
                }
            }
            _ if recorded == found => Ok(()),
            _ => Err(format!(": {found} and not {}", self.filled(recorded))),
        }
    }

    /// The recorded value, as far as its names are bound.
    fn filled(&self, recorded: &Value) -> String {
        let fill = |hole: &regex::Captures<'_>| {
            let bound = hole.get(1).and_then(|name| self.0.get(name.as_str()));
            bound.map_or_else(|| hole[0].to_owned(), Clone::clone)
        };
        HOLE.replace_all(&recorded.to_string(), fill).into_owned()
    }

    fn text(&mut self, recorded: &str, found: &str) -> bool {
        let mut pattern = String::from("^");
        let (mut at, mut new) = (0, Vec::new());
        for hole in HOLE.captures_iter(recorded) {
            let whole = hole.get(0).unwrap();
            pattern += &regex::escape(&recorded[at..whole.start()]);
            at = whole.end();
            let name = hole.get(1).or(hole.get(2)).unwrap().as_str();
            if let Some(known) = self.0.get(name) {
                pattern += &regex::escape(known);
            } else if name.ends_with('*') || hole.get(2).is_some() {
                pattern += form(name);
            } else {
                pattern += &format!("({})", form(name));
                new.push(name.to_owned());
            }
        }
        pattern += &regex::escape(&recorded[at..]);
        pattern += "$";
        let Some(values) = Regex::new(&pattern).unwrap().captures(found) else { return false };
        new.into_iter().zip(values.iter().skip(1)).all(|(name, value)| {
            let value = value.unwrap().as_str();
            // Two names are two values, and a token is one of the use that its name says.
            let free = self.0.values().all(|known| known != value) && right_use(&name, value);
            free && self.0.insert(name, value.to_owned()).is_none()
        })
    }
}

/// What the values of a name look like.
fn form(name: &str) -> &'static str {
    match name.trim_end_matches(|last: char| last.is_ascii_digit() || last == '*') {
        "session" | "edge" | "record" | "uuid" => "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "trace" | "key" | "narrow_key" | "hex" => "[0-9a-f]{32}",
        "span" => "[0-9a-f]{16}",
        "lifecycle" | "mandate" => r"[\w-]+\.[\w-]+\.[\w-]+",
        _ => panic!("nobody knows what ${{{name}}} looks like"),
    }
}

fn right_use(name: &str, value: &str) -> bool {
    let wanted = match name.trim_end_matches(|last: char| last.is_ascii_digit()) {
        "lifecycle" => "session",
        "mandate" => "gateway",
        _ => return true,
    };
    token_use(value).as_deref() == Some(wanted)
}

/// The claim `use` of a token.
pub(super) fn token_use(token: &str) -> Option<String> {
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    claims["use"].as_str().map(str::to_owned)
}
