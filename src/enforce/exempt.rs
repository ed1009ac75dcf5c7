//! Paths that go through unjudged.

use percent_encoding::percent_decode_str;

/// Path prefixes, matched on segment boundaries.
#[derive(Debug, Clone, Default)]
pub(super) struct ExemptPaths(Vec<Box<str>>);

impl ExemptPaths {
    /// Adds a prefix, unless it would exempt everything or could never match.
    pub(super) fn add(&mut self, prefix: &str) -> Result<(), &'static str> {
        let trimmed = prefix.trim_end_matches('/');
        if !prefix.starts_with('/') {
            return Err("it must start with `/`");
        }
        if trimmed.is_empty() {
            return Err("it would exempt every path");
        }
        let never = |character: char| !character.is_ascii_graphic() || "?#".contains(character);
        if !is_plain(trimmed) || trimmed.contains(never) {
            return Err("no plain path starts like this, so it could never match");
        }
        self.0.push(trimmed.into());
        Ok(())
    }

    /// Whether `path` lies under one of the prefixes however a router or a proxy may read it: a
    /// path that could be normalised into another one is never exempt.
    pub(super) fn cover(&self, path: &str) -> bool {
        let under = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.iter().any(|prefix| under(prefix)) && is_plain(path)
    }
}

/// Whether nobody could read the path as another one: no dot segments, empty segments, backslashes
/// or path parameters, and no escape that stands for one, for an escape, or for no text.
fn is_plain(path: &str) -> bool {
    let escapes_are_plain = path.split('%').skip(1).all(|rest| {
        let byte = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| !matches!(byte, b'/' | b'.' | b'\\' | b'%' | b';' | 0..=31 | 127))
    });
    let is_text = percent_decode_str(path).decode_utf8().is_ok();
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    escapes_are_plain && is_text && !dots && !path.contains("//") && !path.contains(['\\', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exempt(prefix: &str) -> ExemptPaths {
        let mut paths = ExemptPaths::default();
        paths.add(prefix).unwrap();
        paths
    }

    #[test]
    fn segments_are_matched_whole() {
        for prefix in ["/healthz", "/healthz/"] {
            let paths = exempt(prefix);
            for path in ["/healthz", "/healthz/", "/healthz/live"] {
                assert!(paths.cover(path), "{path}");
            }
            for path in ["/", "/health", "/healthzz", "/healthz;x", "/x/healthz", "/Healthz", ""] {
                assert!(!paths.cover(path), "{path}");
            }
        }
    }

    #[test]
    fn paths_that_may_mean_another_are_never_exempt() {
        let paths = exempt("/public");
        for path in [
            "/public/../admin",
            "/public/./x",
            "/public/..",
            "/public//admin",
            "/public/\\..\\admin",
            "/public/%2e%2e/admin",
            "/public/%2E./admin",
            "/public%2fadmin",
            "/public/..%2Fadmin",
            "/public/%5c..%5Cadmin",
            "/public/..;/admin",
            "/public/..;x=1/admin",
            "/public/%3b",
            "/public/%252e%252e/admin",
            "/public/%c0%ae%c0%ae/admin",
            "/public/.%00./admin",
            "/public/%",
            "/public/%zz",
        ] {
            assert!(!paths.cover(path), "{path}");
        }
        assert!(paths.cover("/public/a%20b"));
        assert!(paths.cover("/public/caf%C3%A9"));
        assert!(paths.cover("/public/...x"));
    }

    #[test]
    fn prefixes_that_are_refused() {
        for prefix in [
            "/", "//", "", "healthz", "/a/../b", "/a//b", "/a%2fb", "/a b", "/a?b", "/a#b",
            "/\u{e9}",
        ] {
            assert!(ExemptPaths::default().add(prefix).is_err(), "{prefix}");
        }
    }
}
