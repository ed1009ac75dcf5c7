//! A `caracal.toml`.

#[cfg(test)]
mod tests;

use std::path::Path;

use toml::{Table, Value};

use super::{ConfigSource, Configuration, ResourceBinding, scopes, secret_file, ttl};

/// What a profile says by itself. What makes it unusable as a whole is the error; what is wrong in
/// it is kept for the check.
pub(super) fn read(path: &Path) -> Result<Configuration, String> {
    let file = secret_file::open(path)?;
    if file.is_writable_by_others() {
        return Err(format!("{} must be writable by its owner only (chmod go-w)", path.display()));
    }
    // The parser's own words quote the line, and the line may hold the secret.
    let table: Table = toml::from_str(&file.text).map_err(|error| {
        let before = error.span().and_then(|span| file.text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("{} is not TOML (line {line})", path.display())
    })?;
    let mut found = Configuration {
        source: ConfigSource::Profile(path.to_owned()),
        ..Configuration::default()
    };
    let mut reader = Reader { table: &table, path, problems: Vec::new() };
    found.zone = reader.text("zone_id");
    found.application = reader.text("application_id");
    found.coordinator_url = reader.text("coordinator_url");
    found.sts_url = reader.text("sts_url");
    found.gateway_url = reader.text("gateway_url");
    found.default_ttl = reader.ttl("default_ttl_seconds");
    let inline = reader.text("app_client_secret");
    let secret_path = reader.text("app_client_secret_file");
    if inline.is_some() && file.is_open_to_others() {
        reader.problems.push(format!(
            "{} holds a secret, and must be accessible to its owner only (chmod 600)",
            path.display()
        ));
    }
    reader.entries("credentials", &mut found);
    reader.entries("optional_credentials", &mut found);
    found.problems = reader.problems;
    found.take_secret(
        inline,
        secret_path.as_deref(),
        &format!(
            "only one of app_client_secret and app_client_secret_file may be set in {}",
            path.display()
        ),
    );
    Ok(found)
}

struct Reader<'a> {
    table: &'a Table,
    path: &'a Path,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, place: &str, why: &str) {
        self.problems.push(format!("{place} in {} {why}", self.path.display()));
    }

    /// A text that is there and not empty.
    fn text(&mut self, key: &str) -> Option<String> {
        self.text_of(self.table.get(key), key)
    }

    fn text_of(&mut self, value: Option<&Value>, place: &str) -> Option<String> {
        match value? {
            Value::String(text) => (!text.is_empty()).then(|| text.clone()),
            _ => {
                self.problem(place, "must be a string");
                None
            }
        }
    }

    fn ttl(&mut self, key: &str) -> Option<u64> {
        // A text is refused, even one of digits.
        let seconds = match self.table.get(key)? {
            Value::Integer(seconds) => *seconds,
            _ => 0,
        };
        match ttl::from_integer(seconds) {
            Ok(seconds) => Some(seconds),
            Err(why) => {
                self.problem(key, why);
                None
            }
        }
    }

    /// The entries of a list; the first one of a resource counts.
    fn entries(&mut self, list: &str, found: &mut Configuration) {
        let entries = match self.table.get(list) {
            None => return,
            Some(Value::Array(entries)) => entries,
            Some(_) => return self.problem(list, "must be an array of tables"),
        };
        for (position, entry) in entries.iter().enumerate() {
            let place = format!("{list}[{position}]");
            let Value::Table(entry) = entry else {
                self.problem(&place, "must be a table");
                continue;
            };
            let resource = self.text_of(entry.get("resource"), &format!("{place}.resource"));
            let Some(resource) = resource.filter(|resource| !resource.trim().is_empty()) else {
                self.problem(&format!("{place}.resource"), "is required");
                continue;
            };
            let prefix_place = format!("{place}.upstream_prefix");
            let prefix = self.text_of(entry.get("upstream_prefix"), &prefix_place);
            let mut binding = prefix.map(|prefix| ResourceBinding::new(&*resource, prefix));
            if let Some(why) = binding.as_ref().and_then(ResourceBinding::problem) {
                self.problem(&place, &format!("is wrong: {why}"));
                binding = None;
            }
            let scopes = self.scopes(entry.get("scopes"), &format!("{place}.scopes"));
            if found.audiences.contains(&resource) {
                continue;
            }
            found.bindings.extend(binding);
            found.scopes.extend(scopes.map(|scopes| (resource.clone(), scopes)));
            found.audiences.push(resource);
        }
    }

    fn scopes(&mut self, value: Option<&Value>, place: &str) -> Option<Vec<String>> {
        let scopes: Option<Vec<&str>> = match value? {
            Value::Array(values) => values.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let checked =
            scopes.ok_or("must be an array of strings").and_then(|scopes| scopes::check(scopes));
        match checked {
            Ok(scopes) => Some(scopes),
            Err(why) => {
                self.problem(place, &format!("is wrong: {why}"));
                None
            }
        }
    }
}
