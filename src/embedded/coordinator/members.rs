//! The members of a JSON body: each with its type, one issue for each fault.

use serde_json::{Map, Value};

use super::refusal::{Issue, Refusal, invalid_body};
use crate::embedded::{constraints::integer, time::Time, web::trimmed};

/// A body that is read member by member. What is wrong is gathered; [`Members::check`] tells.
pub(super) struct Members<'b> {
    members: &'b Map<String, Value>,
    issues: Vec<Issue>,
}

impl<'b> Members<'b> {
    /// A body that must be an object.
    pub(super) fn of(body: Option<&'b Value>) -> Result<Self, Refusal> {
        match body {
            Some(Value::Object(members)) => Ok(Self { members, issues: Vec::new() }),
            other => Err(invalid_body(vec![Issue {
                path: Vec::new(),
                message: format!("expected an object, received {}", kind(other)),
            }])),
        }
    }

    /// Refuses if anything was wrong.
    pub(super) fn check(self) -> Result<(), Refusal> {
        if self.issues.is_empty() { Ok(()) } else { Err(invalid_body(self.issues)) }
    }

    pub(super) fn wrong(&mut self, path: &[&str], message: impl Into<String>) {
        let path = path.iter().map(|part| (*part).to_owned()).collect();
        self.issues.push(Issue { path, message: message.into() });
    }

    fn unexpected(&mut self, path: &[&str], expected: &str, value: Option<&Value>) {
        self.wrong(path, format!("expected {expected}, received {}", kind(value)));
    }

    pub(super) fn get(&self, name: &str) -> Option<&'b Value> {
        self.members.get(name)
    }

    /// A string that is not empty.
    pub(super) fn string(&mut self, name: &str) -> &'b str {
        self.text(&[name], self.members.get(name)).unwrap_or_default()
    }

    /// The same, or nothing. Null is not nothing.
    pub(super) fn optional_string(&mut self, name: &str) -> Option<&'b str> {
        let value = self.members.get(name)?;
        self.text(&[name], Some(value))
    }

    /// The same, or null, which is nothing.
    pub(super) fn nullable_string(&mut self, name: &str) -> Option<&'b str> {
        match self.members.get(name) {
            Some(Value::Null) => None,
            _ => self.optional_string(name),
        }
    }

    /// A string of any length, or null, or nothing.
    pub(super) fn nullable_text(&mut self, name: &str) -> Option<&'b str> {
        match self.members.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => {
                self.unexpected(&[name], "a string", Some(other));
                None
            }
        }
    }

    fn text(&mut self, path: &[&str], value: Option<&'b Value>) -> Option<&'b str> {
        match value.and_then(Value::as_str) {
            Some("") => self.wrong(path, "expected at least 1 character"),
            Some(text) => return Some(text),
            None => self.unexpected(path, "a string", value),
        }
        None
    }

    /// An integer within a range.
    pub(super) fn required_integer(&mut self, name: &str, least: u64, most: u64) -> u64 {
        if !self.members.contains_key(name) {
            self.unexpected(&[name], "an integer", None);
        }
        self.integer(name, least, most).unwrap_or_default()
    }

    /// An integer within a range, or nothing.
    pub(super) fn integer(&mut self, name: &str, least: u64, most: u64) -> Option<u64> {
        let value = self.members.get(name)?;
        let number = integer(value).filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let expected = format!("an integer from {least} to {most}");
            self.unexpected(&[name], &expected, Some(value));
        }
        number
    }

    /// One of some words, or the first of them.
    pub(super) fn word(&mut self, name: &str, words: &[&'static str]) -> &'static str {
        let default = words.first().copied().unwrap_or_default();
        let Some(value) = self.members.get(name) else { return default };
        let word = value.as_str().and_then(|text| words.iter().find(|word| **word == text));
        if word.is_none() {
            self.unexpected(&[name], &format!("one of {}", words.join(", ")), Some(value));
        }
        word.copied().unwrap_or(default)
    }

    /// An object, or an empty one.
    pub(super) fn object(&mut self, name: &str) -> Map<String, Value> {
        match self.members.get(name) {
            None => Map::new(),
            Some(Value::Object(object)) => object.clone(),
            other => {
                self.unexpected(&[name], "an object", other);
                Map::new()
            }
        }
    }

    /// A list of strings that are not empty, or an empty one.
    pub(super) fn strings(&mut self, name: &str) -> Vec<String> {
        self.list(name, usize::MAX, str::to_owned, usize::MAX)
    }

    /// At most 32 labels, each trimmed and then of 1 to 64 UTF-16 units.
    pub(super) fn labels(&mut self, name: &str) -> Vec<String> {
        self.list(name, 32, |label| trimmed(label).to_owned(), 64)
    }

    fn list(
        &mut self,
        name: &str,
        most: usize,
        read: impl Fn(&str) -> String,
        longest: usize,
    ) -> Vec<String> {
        let Some(value) = self.members.get(name) else { return Vec::new() };
        let Some(list) = value.as_array() else {
            self.unexpected(&[name], "an array", Some(value));
            return Vec::new();
        };
        if list.len() > most {
            self.wrong(&[name], format!("expected at most {most} items"));
        }
        let mut items = Vec::with_capacity(list.len().min(most));
        for (at, entry) in list.iter().enumerate() {
            let at = at.to_string();
            let path = [name, at.as_str()];
            let Some(text) = entry.as_str() else {
                self.unexpected(&path, "a string", Some(entry));
                continue;
            };
            let item = read(text);
            if item.is_empty() {
                self.wrong(&path, "expected at least 1 character");
            } else if item.encode_utf16().count() > longest {
                self.wrong(&path, format!("expected at most {longest} characters"));
            }
            items.push(item);
        }
        items
    }

    /// A moment in UTC, or nothing.
    pub(super) fn time(&mut self, name: &str) -> Option<Time> {
        let value = self.members.get(name)?;
        let time = value.as_str().and_then(Time::parse);
        if time.is_none() {
            self.unexpected(&[name], "an RFC 3339 time that ends with Z", Some(value));
        }
        time
    }
}

fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "nothing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a string",
        Some(Value::Array(_)) => "an array",
        Some(Value::Object(_)) => "an object",
    }
}
