//! Which upstream belongs to which resource.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::{secret_file, urls};

pub(super) const VARIABLE: &str = "CARACAL_RESOURCES";
pub(super) const FILE_VARIABLE: &str = "CARACAL_RESOURCES_FILE";

const ID: &str = "resource_id";
const PREFIX: &str = "upstream_prefix";

/// A resource, and the beginning of the URLs that stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceBinding {
    resource_id: String,
    upstream_prefix: String,
}

impl ResourceBinding {
    /// Both as they were given; [`Configuration::check`](super::Configuration::check) judges them.
    pub(in crate::client) fn new(
        resource_id: impl Into<String>,
        upstream_prefix: impl Into<String>,
    ) -> Self {
        Self { resource_id: resource_id.into(), upstream_prefix: upstream_prefix.into() }
    }

    /// The identifier of the resource, such as `resource://tickets`.
    #[must_use]
    pub fn resource_id(&self) -> &str {
        &self.resource_id
    }

    /// The beginning of its URLs, such as `https://tickets.internal/v1`.
    #[must_use]
    pub fn upstream_prefix(&self) -> &str {
        &self.upstream_prefix
    }

    /// What is wrong with it, without what it holds.
    pub(super) fn problem(&self) -> Option<String> {
        if self.resource_id.trim().is_empty() {
            return Some(format!("must have a {ID}"));
        }
        urls::absolute(&self.upstream_prefix).err().map(|why| format!("{PREFIX} {why}"))
    }
}

/// Puts later bindings in the place of earlier ones of the same resource.
pub(super) fn merge(bindings: &mut Vec<ResourceBinding>, later: Vec<ResourceBinding>) {
    for binding in later {
        match bindings.iter_mut().find(|known| known.resource_id == binding.resource_id) {
            Some(known) => *known = binding,
            None => bindings.push(binding),
        }
    }
}

/// The order in which prefixes are tried; equally long ones stay as they were.
pub(super) fn longest_first(bindings: &mut [ResourceBinding]) {
    bindings.sort_by_key(|binding| std::cmp::Reverse(binding.upstream_prefix.len()));
}

/// `id=prefix,id=prefix`. Only a prefix may have a `=` in it, and nothing a comma.
pub(super) fn from_list(list: &str, problems: &mut Vec<String>) -> Vec<ResourceBinding> {
    let mut found = Vec::new();
    for (position, entry) in (1..).zip(list.split(',').map(str::trim)) {
        if entry.is_empty() {
            continue;
        }
        let problem = match entry.split_once('=').map(|(id, prefix)| (id.trim(), prefix.trim())) {
            None | Some(("", _) | (_, "")) => Some(format!("must be {ID}={PREFIX}")),
            Some((id, prefix)) => {
                let binding = ResourceBinding::new(id, prefix);
                let problem = binding.problem();
                if problem.is_none() {
                    found.push(binding);
                }
                problem
            }
        };
        problems.extend(problem.map(|why| format!("{VARIABLE} entry {position}: {why}")));
    }
    found
}

/// An object from ids to prefixes, or an array of objects with one of each.
pub(super) fn from_file(path: &Path, problems: &mut Vec<String>) -> Vec<ResourceBinding> {
    match parse_file(path, problems) {
        Ok(bindings) => bindings,
        Err(problem) => {
            problems.push(format!("{FILE_VARIABLE}: {problem}"));
            Vec::new()
        }
    }
}

fn parse_file(path: &Path, problems: &mut Vec<String>) -> Result<Vec<ResourceBinding>, String> {
    let file = secret_file::open(path)?;
    let path = path.display();
    // The parser's own words might quote the file.
    let value = serde_json::from_str(&file.text)
        .map_err(|error| format!("{path} is not JSON (line {})", error.line()))?;
    let entries: Vec<(String, Result<ResourceBinding, String>)> = match value {
        Value::Object(object) => {
            // Sorted, whatever the parser's map does: the order decides between equal lengths.
            let sorted: BTreeMap<String, Value> = object.into_iter().collect();
            let binding = |(id, prefix): (String, Value)| {
                (format!("[{id:?}]"), pair(Value::String(id), prefix))
            };
            sorted.into_iter().map(binding).collect()
        }
        Value::Array(array) => {
            let binding = |(position, entry)| (format!("[{position}]"), exactly_two(entry));
            array.into_iter().enumerate().map(binding).collect()
        }
        _ => return Err(format!("{path} must hold a JSON object or array")),
    };
    let mut found = Vec::new();
    for (place, entry) in entries {
        match entry {
            Ok(binding) => found.push(binding),
            Err(why) => problems.push(format!("{FILE_VARIABLE}: {path}{place}: {why}")),
        }
    }
    Ok(found)
}

fn exactly_two(entry: Value) -> Result<ResourceBinding, String> {
    let Value::Object(mut entry) = entry else {
        return Err("must be an object".to_owned());
    };
    let mut take = |name: &str| Map::remove(&mut entry, name);
    match (take(ID), take(PREFIX)) {
        (Some(id), Some(prefix)) if entry.is_empty() => pair(id, prefix),
        _ => Err(format!("must have exactly {ID} and {PREFIX}")),
    }
}

fn pair(id: Value, prefix: Value) -> Result<ResourceBinding, String> {
    let (Value::String(id), Value::String(prefix)) = (id, prefix) else {
        return Err(format!("{ID} and {PREFIX} must be strings"));
    };
    let binding = ResourceBinding::new(id, prefix);
    match binding.problem() {
        None => Ok(binding),
        Some(problem) => Err(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::config::tests::Folder;

    fn pairs(bindings: &[ResourceBinding]) -> Vec<(&str, &str)> {
        bindings.iter().map(|binding| (binding.resource_id(), binding.upstream_prefix())).collect()
    }

    #[test]
    fn a_list() {
        let mut problems = Vec::new();
        let list = " r1 = https://a.test/x?a=b ,, r2=http://b.test,";
        let found = from_list(list, &mut problems);
        assert_eq!(pairs(&found), [("r1", "https://a.test/x?a=b"), ("r2", "http://b.test")]);
        assert!(problems.is_empty());
    }

    #[test]
    fn all_bad_entries_of_a_list_at_once() {
        let mut problems = Vec::new();
        let list = "noequals,=https://x.test,r= ,r2=ftp://x.test,,r3=/rel,r4=https://ok.test,\
                    r5=https://u:p4ss@x.test, =https://x.test";
        from_list(list, &mut problems);
        assert_eq!(
            problems,
            [
                "CARACAL_RESOURCES entry 1: must be resource_id=upstream_prefix",
                "CARACAL_RESOURCES entry 2: must be resource_id=upstream_prefix",
                "CARACAL_RESOURCES entry 3: must be resource_id=upstream_prefix",
                "CARACAL_RESOURCES entry 4: upstream_prefix must be an absolute http or https URL",
                "CARACAL_RESOURCES entry 6: upstream_prefix must be an absolute http or https URL",
                "CARACAL_RESOURCES entry 8: upstream_prefix must not hold a user or password",
                "CARACAL_RESOURCES entry 9: must be resource_id=upstream_prefix",
            ]
        );
    }

    fn file(text: &str) -> (Vec<ResourceBinding>, Vec<String>) {
        let folder = Folder::new();
        // No secret is in it, so everybody may read it.
        let path = folder.file("r.json", text, 0o666);
        let mut problems = Vec::new();
        let found = from_file(&path, &mut problems);
        let prefix = format!("CARACAL_RESOURCES_FILE: {}", path.display());
        let cut = |problem: String| problem.strip_prefix(&prefix).unwrap().to_owned();
        (found, problems.into_iter().map(cut).collect())
    }

    #[test]
    fn both_shapes_of_a_file() {
        let (object, problems) = file(r#"{"r2":"https://b.test","r1":"https://a.test"}"#);
        assert_eq!(pairs(&object), [("r1", "https://a.test"), ("r2", "https://b.test")]);
        assert!(problems.is_empty());
        let (array, problems) = file(
            r#"[{"resource_id":"r2","upstream_prefix":"https://b.test"},
                {"upstream_prefix":"https://a.test","resource_id":"r1"}]"#,
        );
        assert_eq!(pairs(&array), [("r2", "https://b.test"), ("r1", "https://a.test")]);
        assert!(problems.is_empty());
    }

    #[test]
    fn all_bad_entries_of_a_file_at_once() {
        let (_, problems) = file(
            r#"[{"resource_id":" ","upstream_prefix":"https://a.test"}, {"resource_id":"r"}, 3,
                {"resource_id":"r","upstream_prefix":"https://u:p4ss@a.test"},
                {"resource_id":"r","upstream_prefix":"/rel"},
                {"resource_id":"r","upstream_prefix":7},
                {"resource_id":"r","upstream_prefix":"https://a.test","scopes":[]}]"#,
        );
        assert_eq!(
            problems,
            [
                "[0]: must have a resource_id",
                "[1]: must have exactly resource_id and upstream_prefix",
                "[2]: must be an object",
                "[3]: upstream_prefix must not hold a user or password",
                "[4]: upstream_prefix must be an absolute http or https URL",
                "[5]: resource_id and upstream_prefix must be strings",
                "[6]: must have exactly resource_id and upstream_prefix",
            ]
        );
        let (_, problems) = file(r#"{"":"https://a.test","r":null}"#);
        assert_eq!(
            problems,
            [
                r#"[""]: must have a resource_id"#,
                r#"["r"]: resource_id and upstream_prefix must be strings"#,
            ]
        );
    }

    #[test]
    fn files_that_are_something_else() {
        for text in ["3", "null", "\"r=https://a.test\""] {
            assert_eq!(file(text).1, [" must hold a JSON object or array"], "{text}");
        }
        assert_eq!(file("{\n\"p4ss\"").1, [" is not JSON (line 2)"]);
        let mut problems = Vec::new();
        from_file(&Folder::new().path("none"), &mut problems);
        assert!(problems.concat().ends_with("none does not exist"), "{problems:?}");
    }

    #[test]
    fn later_ones_win_and_long_ones_come_first() {
        let mut bindings = from_list("a=https://h,b=https://h/v1,c=https://i", &mut Vec::new());
        merge(&mut bindings, from_list("a=https://j,d=https://h/v1/long", &mut Vec::new()));
        longest_first(&mut bindings);
        let expected = [
            ("d", "https://h/v1/long"),
            ("b", "https://h/v1"),
            ("a", "https://j"),
            ("c", "https://i"),
        ];
        assert_eq!(pairs(&bindings), expected);
    }
}
