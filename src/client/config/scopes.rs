//! Which scopes are asked for at which resource.

use std::collections::BTreeMap;

pub(super) const VARIABLE: &str = "CARACAL_RESOURCE_SCOPES";

/// The scopes, each once, or what is wrong with them.
pub(super) fn check<'a>(
    scopes: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<String>, &'static str> {
    let mut found: Vec<String> = Vec::new();
    for scope in scopes {
        // Scopes travel in one string with spaces between them.
        if scope.is_empty() || scope.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("a scope must not be empty, and have no spaces in it");
        }
        if !found.iter().any(|known| known == scope) {
            found.push(scope.to_owned());
        }
    }
    if found.is_empty() { Err("must have at least one scope") } else { Ok(found) }
}

/// `resource=scope scope,resource=scope`. Only a scope may have a `=` in it.
pub(super) fn from_list(list: &str, problems: &mut Vec<String>) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for (position, entry) in (1..).zip(list.split(',').map(str::trim)) {
        if entry.is_empty() {
            continue;
        }
        let parsed = match entry.split_once('=').map(|(id, scopes)| (id.trim(), scopes)) {
            None | Some(("", _)) => Err("must be resource_id=scope scope"),
            Some((id, scopes)) => check(scopes.split_whitespace()).map(|scopes| (id, scopes)),
        };
        let problem = match parsed {
            // To unite them, or to drop one, would be a guess at what was meant.
            Ok((id, _)) if found.contains_key(id) => "names a resource of an earlier entry",
            Ok((id, scopes)) => {
                found.insert(id.to_owned(), scopes);
                continue;
            }
            Err(why) => why,
        };
        problems.push(format!("{VARIABLE} entry {position}: {problem}"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list() {
        let mut problems = Vec::new();
        let list = "resource://a=read  write\tread, resource://b = x=y ,,";
        let found = from_list(list, &mut problems);
        assert_eq!(found["resource://a"], ["read", "write"]);
        assert_eq!(found["resource://b"], ["x=y"]);
        assert_eq!((found.len(), problems.len()), (2, 0));
    }

    #[test]
    fn all_bad_entries_at_once() {
        let mut problems = Vec::new();
        from_list("a,=read,b= ,c=read,,c=write,d=a\0b", &mut problems);
        assert_eq!(
            problems,
            [
                "CARACAL_RESOURCE_SCOPES entry 1: must be resource_id=scope scope",
                "CARACAL_RESOURCE_SCOPES entry 2: must be resource_id=scope scope",
                "CARACAL_RESOURCE_SCOPES entry 3: must have at least one scope",
                "CARACAL_RESOURCE_SCOPES entry 6: names a resource of an earlier entry",
                "CARACAL_RESOURCE_SCOPES entry 7: a scope must not be empty, and have no spaces in it",
            ]
        );
    }
}
