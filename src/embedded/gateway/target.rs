//! Paths and queries: which are refused, and what becomes of the others on their way to the upstream
//! (outbound contract §6.1, step 9, and §6.2).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use crate::embedded::web::escapes_are_whole;

/// What stands escaped in a path.
const PATH: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// What stands escaped in a query; of a blank becomes a plus.
const QUERY: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// The clean form of a path that is not clean as written: one without empty and dot segments.
pub(super) fn cleaned(path: &str) -> Option<String> {
    let mut kept = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    let clean = format!("/{}{slash}", kept.join("/"));
    (clean != path).then_some(clean)
}

/// Whether a path leads elsewhere when somebody decodes it, however often: by dot segments or
/// backslashes. One that does not decode at some point might as well.
pub(super) fn traverses(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    loop {
        let dots = path.split(|byte| *byte == b'/').any(|part| part == b"." || part == b"..");
        if dots || path.contains(&b'\\') || !escapes_are_whole(&path) {
            return true;
        }
        let decoded: Vec<u8> = percent_decode(&path).collect();
        if decoded == path {
            return false;
        }
        path = decoded;
    }
}

/// The path at an upstream whose own is `base`: behind it, decoded and escaped anew. With a base
/// empty segments and a slash at the end are lost.
pub(super) fn path(base: &str, sent: &str) -> String {
    let decoded = |path: &str| percent_decode(path.as_bytes()).collect::<Vec<u8>>();
    let (base, sent) = (decoded(base), decoded(sent));
    let joined = match (&*base, &*sent) {
        (b"" | b"/", _) => sent,
        (_, b"/") => base,
        _ => {
            let parts = [base, sent].concat();
            let parts = parts.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            parts.flat_map(|part| [b"/", part].concat()).collect()
        }
    };
    percent_encode(&joined, &PATH).to_string()
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The query at an upstream that has one of its `own`, sorted by keys and escaped anew: what was
/// `sent` under keys that are not the upstream's, and the credential in the place of all that bear its
/// name. `Err` when what was sent is none.
pub(super) fn query(
    own: Option<&str>,
    sent: Option<&str>,
    credential: Option<(&str, &str)>,
) -> Result<Option<String>, Undecodable> {
    let mut pairs = pairs(sent.unwrap_or_default())?;
    let own = self::pairs(own.unwrap_or_default()).unwrap_or_default();
    pairs.retain(|(key, _)| own.iter().all(|(mine, _)| mine != key));
    pairs.extend(own);
    if let Some((name, secret)) = credential {
        pairs.retain(|(key, _)| key != name.as_bytes());
        pairs.push((name.into(), secret.into()));
    }
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let escaped = |text: &[u8]| percent_encode(text, &QUERY).to_string().replace(' ', "+");
    let pairs = pairs.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value)));
    let query = pairs.collect::<Vec<_>>().join("&");
    Ok(Some(query).filter(|query| !query.is_empty()))
}

/// A query that holds a semicolon or a broken escape.
#[derive(Debug, PartialEq)]
pub(super) struct Undecodable;

/// The pairs of a query, as bytes: they need not be text.
fn pairs(query: &str) -> Result<Pairs, Undecodable> {
    if query.contains(';') || !escapes_are_whole(query.as_bytes()) {
        return Err(Undecodable);
    }
    let decoded = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    Ok(pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_not_clean_have_a_clean_form() {
        for (path, clean) in [
            ("//a", "/a"),
            ("/a/../b", "/b"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a//b/", "/a/b/"),
            ("/a/.", "/a"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/x/../health", "/health"),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(clean), "{path}");
        }
        for clean in ["/", "/a", "/a/", "/a/b.c/...", "/a%2F%2e"] {
            assert_eq!(cleaned(clean), None, "{clean}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_found() {
        for path in [
            "/a/%2e%2e/b",
            "/.%2E",
            "/%25252e",
            "/a%2F..%2Fb",
            "/a\\b",
            "/a%5cb",
            "/100%25",
            "/a%25zz",
        ] {
            assert!(traverses(path), "{path}");
        }
        for path in ["/", "/a%2541", "/a%2Fb", "/...", "/a%ff", "/a%20b"] {
            assert!(!traverses(path), "{path}");
        }
    }

    #[test]
    fn paths_are_put_behind_that_of_the_upstream() {
        for (base, sent, joined) in [
            ("/", "/a/b/", "/a/b/"),
            ("/", "/%2Fa", "//a"),
            ("/base/", "/", "/base/"),
            ("/base/", "/a/b/", "/base/a/b"),
            ("/base", "/a%2F%2Fb", "/base/a/b"),
            ("/b%20c", "/%41%7e%252F", "/b%20c/A~%252F"),
            ("/", "/a:b@c;d=e,f!$&'()*", "/a:b@c;d=e,f%21$&%27%28%29%2A"),
            ("/", "/%ff", "/%FF"),
        ] {
            assert_eq!(path(base, sent), joined, "{base} {sent}");
        }
    }

    #[test]
    fn the_query_of_the_upstream_wins() {
        let own = Some("tenant=t1&z=a&z=b");
        for (sent, joined) in [
            (None, "tenant=t1&z=a&z=b"),
            (Some("b=2&a=1&b=1"), "a=1&b=2&b=1&tenant=t1&z=a&z=b"),
            (Some("tenant=evil&&x"), "tenant=t1&x=&z=a&z=b"),
            (Some("a=b%20c+%2B~*%ff"), "a=b+c+%2B~%2A%FF&tenant=t1&z=a&z=b"),
        ] {
            assert_eq!(query(own, sent, None), Ok(Some(joined.to_owned())), "{sent:?}");
        }
        assert_eq!(query(None, Some("&"), None), Ok(None));
        for broken in ["a=1;b=2", "a=%zz", "%=1"] {
            assert_eq!(query(own, Some(broken), None), Err(Undecodable), "{broken}");
        }
        let key = Some(("key", "a b+c"));
        let joined = query(Some("z=1"), Some("key=own&key=other&z=9"), key);
        assert_eq!(joined, Ok(Some("key=a+b%2Bc&z=1".to_owned())));
    }
}
