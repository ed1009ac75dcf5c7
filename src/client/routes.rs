//! Where a request goes: through the Gateway, or elsewhere.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use url::Url;

use super::{CaracalError, ResourceBinding};

/// How often a path is decoded before it is given up on.
const ROUNDS: usize = 8;

/// The Gateway, and the resources that are reached through it.
pub(super) struct Routes {
    gateway: Option<Base>,
    /// The longest prefix first.
    bindings: Vec<(String, Base)>,
}

/// A URL that others begin with.
struct Base {
    url: Url,
    /// Its path, without slashes at the end.
    path: String,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To the Gateway, for a resource where that is known.
    Gateway { url: Url, resource: Option<String> },
    /// To where it was addressed.
    Elsewhere(Url),
}

impl Routes {
    /// The URLs have been checked.
    pub(super) fn new(
        gateway: Option<&str>,
        bindings: &[ResourceBinding],
    ) -> Result<Self, CaracalError> {
        let base = |text: &str| {
            let mut url = Url::parse(text).map_err(|_| refused("the URL is none"))?;
            url.set_query(None);
            url.set_fragment(None);
            let path = url.path().trim_end_matches('/').to_owned();
            Ok::<_, CaracalError>(Base { url, path })
        };
        let bindings = bindings.iter().map(|binding| {
            Ok((binding.resource_id().to_owned(), base(binding.upstream_prefix())?))
        });
        Ok(Self {
            gateway: gateway.map(base).transpose()?,
            bindings: bindings.collect::<Result<_, CaracalError>>()?,
        })
    }

    pub(super) fn has_gateway(&self) -> bool {
        self.gateway.is_some()
    }

    /// Judges `target` as it is written, and says where it goes. `named` is the resource that the
    /// request names.
    pub(super) fn of(&self, target: &str, named: Option<&str>) -> Result<Route, CaracalError> {
        let url = absolute(target)?;
        check_steps(path_of(target))?;
        let within = self.gateway.as_ref().is_some_and(|base| base.holds(&url).is_some());
        let bound = self.bound(&url, named);
        let (resource, suffix) = match bound {
            _ if within => {
                check_path(path_of(target))?;
                let resource = named.map(str::to_owned);
                return Ok(Route::Gateway { url, resource });
            }
            Some(bound) => bound,
            None => return Ok(Route::Elsewhere(url)),
        };
        check_path(path_of(target))?;
        let url = self.through(suffix, url.query())?;
        Ok(Route::Gateway { url, resource: Some(resource.to_owned()) })
    }

    /// The resource a URL belongs to, and what of its path comes after the prefix.
    fn bound<'a>(&'a self, url: &'a Url, named: Option<&'a str>) -> Option<(&'a str, &'a str)> {
        let Some(named) = named else {
            return self.bindings.iter().find_map(|(id, base)| Some((&**id, base.holds(url)?)));
        };
        let base = self.bindings.iter().find(|(id, _)| id == named).map(|(_, base)| base);
        let suffix = base.and_then(|base| base.suffix(url.path())).unwrap_or(url.path());
        Some((named, suffix))
    }

    /// The Gateway's URL for a path.
    fn through(&self, path: &str, query: Option<&str>) -> Result<Url, CaracalError> {
        let gateway = self.gateway.as_ref().ok_or_else(gateway_required)?;
        let mut path = format!("{}/{}", gateway.path, path.trim_start_matches('/'));
        if let Some(query) = query {
            // Writing to a string does not fail.
            let _ = write!(path, "?{query}");
        }
        gateway.url.join(&path).map_err(|_| refused("the path makes no URL"))
    }

    /// The Gateway's URL for a path and query, as they are written.
    pub(super) fn gateway_request(&self, target: &str) -> Result<Url, CaracalError> {
        let no_origin = !target.starts_with("//") && !has_scheme(target);
        if !no_origin || target.contains('#') || target.contains(odd) {
            return Err(refused(
                "a path of the Gateway begins with one slash, and has neither an origin nor a \
                 fragment",
            ));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        check_path(path)?;
        self.through(path, query)
    }
}

impl Base {
    /// What of the path comes after this, if the URL begins with it.
    fn holds<'a>(&self, url: &'a Url) -> Option<&'a str> {
        let same = self.url.scheme() == url.scheme()
            && self.url.host() == url.host()
            && self.url.port_or_known_default() == url.port_or_known_default();
        if same { self.suffix(url.path()) } else { None }
    }

    /// What of a path comes after this one's, on the boundary of a segment.
    fn suffix<'a>(&self, path: &'a str) -> Option<&'a str> {
        let suffix = path.strip_prefix(&self.path)?;
        (suffix.is_empty() || suffix.starts_with('/')).then_some(suffix)
    }
}

pub(super) fn gateway_required() -> CaracalError {
    CaracalError::usage(
        "gateway_required",
        "a resource is reached through the Gateway, and none is configured: set \
         CARACAL_GATEWAY_URL, or gateway_url(..) of the builder",
    )
}

fn refused(problem: &'static str) -> CaracalError {
    CaracalError::usage("invalid_target", problem)
}

/// What a parser would mend or drop without a word.
fn odd(character: char) -> bool {
    character.is_control() || character == '\\'
}

/// `a:b` is one, `/a:b` is none.
fn has_scheme(target: &str) -> bool {
    let first = target.split(['/', '?', '#']).next().unwrap_or_default();
    first.contains(':')
}

/// An absolute URL, judged as it is written: a parser mends what is odd.
fn absolute(target: &str) -> Result<Url, CaracalError> {
    if target.contains(odd) || target.trim() != target {
        return Err(refused(
            "a URL has no blanks around it, no control characters and no backslash",
        ));
    }
    let after = target.split_once("://").map(|(_, after)| after);
    let authority = after.and_then(|after| after.split(['/', '?', '#']).next());
    let url = Url::parse(target).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    match (authority, url) {
        (Some(authority), Some(_)) if authority.contains('@') => {
            Err(refused("a URL with user or password is not sent anywhere"))
        }
        (Some(authority), Some(mut url)) if !authority.is_empty() => {
            url.set_fragment(None);
            Ok(url)
        }
        _ => Err(refused("a target is an absolute http or https URL")),
    }
}

/// The path of a URL, as it is written.
fn path_of(target: &str) -> &str {
    let after = target.split_once("://").map_or(target, |(_, after)| after);
    let path = after.find('/').and_then(|at| after.get(at..)).unwrap_or_default();
    // A query or fragment may come before the first slash.
    match after.find(['/', '?', '#']) {
        Some(at) if after.get(at..).is_some_and(|rest| rest.starts_with('/')) => {
            path.split(['?', '#']).next().unwrap_or_default()
        }
        _ => "",
    }
}

/// Refuses paths that step up, however often they are encoded: whoever resolves that, and when,
/// decides where the request goes.
fn check_steps(path: &str) -> Result<(), CaracalError> {
    decoded(path, |path| {
        let steps = |segment: &str| matches!(segment, "." | "..");
        if path.contains('\\') || path.split('/').any(steps) {
            return Err(refused("a path has no dot segments and no backslash, encoded or not"));
        }
        Ok(())
    })
    .map(drop)
}

/// Refuses what the Gateway would refuse or redirect.
fn check_path(path: &str) -> Result<(), CaracalError> {
    check_steps(path)?;
    if path.contains("//") {
        return Err(refused("the Gateway takes no path with an empty segment"));
    }
    if !decoded(path, |_| Ok(()))? {
        return Err(refused(
            "the Gateway takes no path with a literal percent sign, or with a broken escape",
        ));
    }
    Ok(())
}

/// Shows a path to `judge` in each state of decoding; whether it comes to an end, with every percent
/// sign the beginning of an escape.
fn decoded(
    path: &str,
    judge: impl Fn(&str) -> Result<(), CaracalError>,
) -> Result<bool, CaracalError> {
    let mut path = path.to_owned();
    for _ in 0..ROUNDS {
        judge(&path)?;
        if !path.contains('%') {
            return Ok(true);
        }
        if !escapes_are_whole(&path) {
            return Ok(false);
        }
        let Ok(next) = percent_decode_str(&path).decode_utf8() else { return Ok(false) };
        path = next.into_owned();
    }
    Err(refused("a path is encoded once, or a few times at most"))
}

fn escapes_are_whole(path: &str) -> bool {
    path.split('%').skip(1).all(|after| {
        after.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let bindings = [
            ResourceBinding::new("ledger", "https://ledger.internal/v1"),
            ResourceBinding::new("wiki", "https://wiki.internal"),
        ];
        Routes::new(Some("https://gw.example/base/"), &bindings).unwrap()
    }

    fn of(target: &str, named: Option<&str>) -> String {
        match routes().of(target, named) {
            Ok(Route::Gateway { url, resource }) => {
                format!("{url} for {}", resource.as_deref().unwrap_or("none"))
            }
            Ok(Route::Elsewhere(url)) => format!("{url} itself"),
            Err(error) => error.code().to_owned(),
        }
    }

    #[test]
    fn a_bound_prefix_goes_through_the_gateway_on_segment_boundaries() {
        for (target, expected) in [
            ("https://ledger.internal/v1/a?x=1#f", "https://gw.example/base/a?x=1 for ledger"),
            ("https://ledger.internal/v1", "https://gw.example/base/ for ledger"),
            ("https://LEDGER.internal:443/v1/a", "https://gw.example/base/a for ledger"),
            (
                "https://ledger.internal/v1/a%2Fb/c%20d?y=a%2Fb",
                "https://gw.example/base/a%2Fb/c%20d?y=a%2Fb for ledger",
            ),
            ("https://ledger.internal/v1beta/a", "https://ledger.internal/v1beta/a itself"),
            ("http://ledger.internal/v1/a", "http://ledger.internal/v1/a itself"),
            ("https://ledger.internal:8443/v1/a", "https://ledger.internal:8443/v1/a itself"),
            ("https://wiki.internal?x", "https://gw.example/base/?x for wiki"),
            ("https://elsewhere.example/100%25", "https://elsewhere.example/100%25 itself"),
        ] {
            assert_eq!(of(target, None), expected, "{target}");
        }
    }

    #[test]
    fn the_gateway_itself_is_known_by_its_base_path() {
        for (target, expected) in [
            ("https://gw.example/base/a", "https://gw.example/base/a for none"),
            ("https://gw.example/base", "https://gw.example/base for none"),
            ("https://gw.example/basement", "https://gw.example/basement itself"),
            ("https://gw.example/elsewhere", "https://gw.example/elsewhere itself"),
        ] {
            assert_eq!(of(target, None), expected, "{target}");
        }
        assert_eq!(of("https://gw.example/base/a", Some("x")), "https://gw.example/base/a for x");
    }

    #[test]
    fn a_named_resource_is_routed_from_anywhere() {
        for (target, expected) in [
            ("https://any.example/a?x=1", "https://gw.example/base/a?x=1 for ledger"),
            ("https://any.example/v1/a", "https://gw.example/base/a for ledger"),
            ("https://any.example/v1beta/a", "https://gw.example/base/v1beta/a for ledger"),
        ] {
            assert_eq!(of(target, Some("ledger")), expected, "{target}");
        }
        assert_eq!(of("https://any.example/a", Some("new")), "https://gw.example/base/a for new");
    }

    #[test]
    fn what_steps_up_or_could_be_mended_is_refused_wherever_it_goes() {
        for target in [
            "https://ledger.internal/v1/../secret",
            "https://ledger.internal/v1/%2e%2e/secret",
            "https://ledger.internal/v1/%252e%252E/secret",
            "https://ledger.internal/v1/..%2fsecret",
            "https://ledger.internal/v1/a%5c..%5cb",
            "https://ledger.internal/v1\\a",
            "https://ledger.internal/v1/./a",
            "https://elsewhere.example/a/../b",
            "https://elsewhere.example/a/%2E",
            "https://gw.example/base/../x",
            "https://user@ledger.internal/v1/a",
            "https://user:pw@elsewhere.example/",
            "https://@elsewhere.example/",
            "https:/elsewhere.example/",
            "https:elsewhere.example",
            "/v1/a",
            "ftp://ledger.internal/v1",
            " https://ledger.internal/v1",
            "https://ledger.internal/v1/a\n",
            "https://ledger.internal/v1/a\tb",
            "https://ledger.internal/v1/100%25",
            "https://ledger.internal/v1/a%2",
            "https://ledger.internal/v1/a//b",
            "https://gw.example/base/%ff",
        ] {
            assert_eq!(of(target, None), "invalid_target", "{target}");
        }
        let deep = format!("https://ledger.internal/v1/%{}2e", "25".repeat(9));
        assert_eq!(of(&deep, None), "invalid_target");
    }

    #[test]
    fn paths_of_the_gateway() {
        let path = |path: &str| {
            let url = routes().gateway_request(path);
            url.map_or_else(|error| error.code().to_owned(), String::from)
        };
        for (given, expected) in [
            ("v1/items?x=1", "https://gw.example/base/v1/items?x=1"),
            ("", "https://gw.example/base/"),
            ("/", "https://gw.example/base/"),
            ("/a%2Fb", "https://gw.example/base/a%2Fb"),
            ("/a:b", "https://gw.example/base/a:b"),
            ("?x=1", "https://gw.example/base/?x=1"),
            ("/a b", "https://gw.example/base/a%20b"),
            ("/a?q=../b", "https://gw.example/base/a?q=../b"),
        ] {
            assert_eq!(path(given), expected, "{given}");
        }
        for bad in [
            "/a/%2e%2e/b",
            "https://x/",
            "//x/y",
            "/a#f",
            "a:b",
            "/a//b",
            "/100%25",
            "/a\\b",
            "/..",
        ] {
            assert_eq!(path(bad), "invalid_target", "{bad}");
        }
    }

    #[test]
    fn without_a_gateway_nothing_that_needs_it_goes_direct() {
        let bindings = [ResourceBinding::new("ledger", "https://ledger.internal/v1")];
        let routes = Routes::new(None, &bindings).unwrap();
        for (target, named) in
            [("https://ledger.internal/v1/a", None), ("https://any.example/", Some("x"))]
        {
            assert_eq!(routes.of(target, named).unwrap_err().code(), "gateway_required");
        }
        assert!(routes.of("https://any.example/", None).is_ok());
    }
}
