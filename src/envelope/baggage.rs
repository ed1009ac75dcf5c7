//! W3C Baggage, read as Caracal v1.0.0 reads it.

use std::{borrow::Cow, collections::BTreeMap, str};

use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{HEADER_BAGGAGE, MAX_HOP};

/// Baggage key of the governed session.
pub const BAGGAGE_AGENT_SESSION: &str = "caracal.agent_session";
/// Baggage key of the delegation edge.
pub const BAGGAGE_DELEGATION_EDGE: &str = "caracal.delegation_edge";
/// Baggage key of the parent delegation edge.
pub const BAGGAGE_PARENT_EDGE: &str = "caracal.parent_edge";
/// Baggage key of the subject's authority record.
pub const BAGGAGE_SESSION: &str = "caracal.session";
/// Baggage key of the hop count.
pub const BAGGAGE_HOP: &str = "caracal.hop";

/// A longer baggage header is read as none.
pub const MAX_BAGGAGE_BYTES: usize = 8192;
/// A baggage header with more members, empty ones included, is read as none.
pub const MAX_BAGGAGE_MEMBERS: usize = 64;

/// The unreserved characters of RFC 3986 §2.3 stay; everything else is escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The keys that only Caracal writes.
pub(crate) const OWN_KEYS: [&str; 5] = [
    BAGGAGE_AGENT_SESSION,
    BAGGAGE_DELEGATION_EDGE,
    BAGGAGE_PARENT_EDGE,
    BAGGAGE_SESSION,
    BAGGAGE_HOP,
];

fn is_own_key(key: &str) -> bool {
    OWN_KEYS.contains(&key)
}

/// The baggage lines of a request joined by commas; lines that are not UTF-8 do not count. `None`
/// without any, and where they are together too long to be read.
pub(crate) fn join_lines(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let mut lines = headers
        .get_all(HEADER_BAGGAGE)
        .iter()
        .filter_map(|line| str::from_utf8(line.as_bytes()).ok());
    let mut joined = Cow::Borrowed(lines.next()?);
    for line in lines {
        // Before it is copied: there may be any number of lines.
        if joined.len() + 1 + line.len() > MAX_BAGGAGE_BYTES {
            return None;
        }
        let text = joined.to_mut();
        text.push(',');
        text.push_str(line);
    }
    Some(joined).filter(|joined| joined.len() <= MAX_BAGGAGE_BYTES)
}

/// Members of a baggage value, the last of a repeated key counting. Values are percent-decoded,
/// keys are not, and properties are dropped.
///
/// One exception, for peers that join members with `;`: where a member's key is one of the five
/// `caracal.*` keys, a property whose key is one of the five counts as a member, unless a member
/// of its own names that key.
///
/// A value over [`MAX_BAGGAGE_BYTES`] or [`MAX_BAGGAGE_MEMBERS`] is read as empty.
#[must_use]
pub fn parse_baggage(value: &str) -> BTreeMap<String, String> {
    let mut members = BTreeMap::new();
    if value.len() > MAX_BAGGAGE_BYTES || value.split(',').count() > MAX_BAGGAGE_MEMBERS {
        return members;
    }
    let mut joined = BTreeMap::new();
    for member in value.split(',') {
        let Some((key, rest)) = key_and_rest(member) else { continue };
        let mut parts = rest.split(';');
        members.insert(key.to_owned(), decode(parts.next().unwrap_or_default()));
        if is_own_key(key) {
            for (key, value) in parts.filter_map(key_and_rest).filter(|(key, _)| is_own_key(key)) {
                joined.insert(key.to_owned(), decode(value));
            }
        }
    }
    for (key, value) in joined {
        members.entry(key).or_insert(value);
    }
    members
}

/// Splits at the first `=`; a key that is empty after trimming is no key.
fn key_and_rest(member: &str) -> Option<(&str, &str)> {
    let (key, rest) = member.split_once('=')?;
    Some((key.trim(), rest)).filter(|(key, _)| !key.is_empty())
}

/// Trims and percent-decodes; a value with a malformed escape, or that decodes to no UTF-8, stays
/// raw, so that every peer that escapes it again says the same.
fn decode(value: &str) -> String {
    let value = value.trim();
    let well_formed = value.split('%').skip(1).all(|rest| {
        rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    let decoded = well_formed.then(|| percent_decode_str(value).decode_utf8().ok()).flatten();
    decoded.map_or_else(|| value.to_owned(), Cow::into_owned)
}

/// ASCII digits, clamped; anything else is hop 0.
pub(super) fn parse_hop(value: &str) -> u32 {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let significant = value.trim_start_matches('0');
    if significant.len() > 2 {
        return MAX_HOP;
    }
    significant.parse().unwrap_or(0).min(MAX_HOP)
}

/// The header value: sorted by key, `,` between members, empty values left out, and with them
/// every key that could not be read back or put into a header.
pub(super) fn to_header_value(members: &BTreeMap<String, String>) -> Option<HeaderValue> {
    let mut text = String::new();
    for (key, value) in members {
        let unwritable =
            |byte: u8| matches!(byte, b',' | b'=' | 0x7f) || byte < b' ' && byte != b'\t';
        if value.is_empty() || key.is_empty() || key.bytes().any(unwritable) {
            continue;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(key);
        text.push('=');
        text.extend(utf8_percent_encode(value, ESCAPED));
    }
    // `unwritable` leaves nothing that a header value refuses.
    HeaderValue::from_bytes(text.as_bytes()).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: &str) -> Vec<(String, String)> {
        parse_baggage(value).into_iter().collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn members_are_read_as_the_contract_says() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("a=1,a=2", &[("a", "2")]),
            ("a = 1 ; p=q , b=2", &[("a", "1"), ("b", "2")]),
            ("=x,b=2", &[("b", "2")]),
            ("a", &[]),
            ("a=", &[("a", "")]),
            ("a=b=c", &[("a", "b=c")]),
            ("%41=x+y", &[("%41", "x+y")]),
            ("a=%2C%3B", &[("a", ",;")]),
            ("a=%41%", &[("a", "%41%")]),
            ("a=%C3", &[("a", "%C3")]),
            ("a=%C3%A9", &[("a", "\u{e9}")]),
            ("a=%\u{e9}", &[("a", "%\u{e9}")]),
        ];
        for (value, expected) in table {
            assert_eq!(members(value), pairs(expected), "{value}");
        }
    }

    #[test]
    fn limits_count_empty_members_but_not_properties() {
        assert_eq!(members(&format!("a=1{}", ",".repeat(63))), pairs(&[("a", "1")]));
        assert_eq!(members(&format!("a=1{}", ",".repeat(64))), []);
        assert_eq!(members(&format!("a={}", "x".repeat(MAX_BAGGAGE_BYTES - 2))).len(), 1);
        assert_eq!(members(&format!("a={}", "x".repeat(MAX_BAGGAGE_BYTES - 1))), []);
        assert_eq!(members(&format!("a=1{}", ";p".repeat(100))), pairs(&[("a", "1")]));
    }

    #[test]
    fn joined_properties_count_only_for_own_keys_that_no_member_names() {
        let table: &[(&str, &[(&str, &str)])] = &[
            (
                "caracal.agent_session=s; caracal.hop=3;x=1",
                &[("caracal.agent_session", "s"), ("caracal.hop", "3")],
            ),
            ("tenant=t;caracal.hop=3", &[("tenant", "t")]),
            (
                "caracal.session=,caracal.agent_session=s;caracal.session=evil",
                &[("caracal.agent_session", "s"), ("caracal.session", "")],
            ),
            (
                "caracal.agent_session=s;caracal.hop=3;caracal.hop=%34",
                &[("caracal.agent_session", "s"), ("caracal.hop", "4")],
            ),
        ];
        for (value, expected) in table {
            assert_eq!(members(value), pairs(expected), "{value}");
        }
    }

    #[test]
    fn hops() {
        for (value, hop) in
            [("0", 0), ("007", 7), ("32", 32), ("33", 32), ("", 0), ("+3", 0), ("4.0", 0)]
        {
            assert_eq!(parse_hop(value), hop, "{value}");
        }
        assert_eq!(parse_hop(&"9".repeat(8000)), 32);
        assert_eq!(parse_hop(&format!("{}5", "0".repeat(8000))), 5);
    }

    #[test]
    fn unwritable_keys_are_left_out() {
        let members = BTreeMap::from(
            [("a,b", "1"), ("c=d", "1"), ("e\r\n", "1"), ("", "1"), ("f g", "h i"), ("j", "")]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        assert_eq!(to_header_value(&members).unwrap(), "f g=h%20i");
    }
}
