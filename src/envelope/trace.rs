//! W3C Trace Context: `traceparent` and `tracestate`.

use std::{fmt, str};

use http::{HeaderMap, HeaderValue};

use super::{HEADER_TRACEPARENT, HEADER_TRACESTATE};

/// A trace id: 32 lower-case hex digits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 32]);

/// Trace flags: two lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceFlags([u8; 2]);

fn lower_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digits: [u8; N] = text.try_into().ok()?;
    digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
}

fn not_zero<const N: usize>(digits: [u8; N]) -> Option<[u8; N]> {
    digits.iter().any(|digit| *digit != b'0').then_some(digits)
}

macro_rules! hex_text {
    ($type:ident, $parse:expr) => {
        impl $type {
            /// Parses the text form; `None` when it is not one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                ($parse)(text.as_bytes()).map(Self)
            }

            /// The text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                str::from_utf8(&self.0).unwrap_or_default()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self.as_str())
            }
        }
    };
}

hex_text!(TraceId, |text| lower_hex(text).and_then(not_zero));
hex_text!(TraceFlags, lower_hex);

impl TraceId {
    /// The id of a new trace.
    #[must_use]
    pub fn random() -> Self {
        Self(random_hex())
    }
}

impl TraceFlags {
    /// Only `sampled` is set.
    pub const SAMPLED: Self = Self(*b"01");
}

/// What the trace headers of a request say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext<'a> {
    /// Trace id.
    pub id: Option<TraceId>,
    /// Trace flags; present exactly when `id` is.
    pub flags: Option<TraceFlags>,
    /// `tracestate`, trimmed and otherwise opaque.
    pub state: Option<&'a str>,
}

impl<'a> TraceContext<'a> {
    /// Reads the first line of each header; an invalid first line is not made up for by a second.
    #[must_use]
    pub fn from_headers(headers: &'a HeaderMap) -> Self {
        let (parent, state) = trace_lines(headers);
        let (id, flags) = parse_traceparent(parent).unzip();
        Self { id, flags, state: Some(state.trim()).filter(|state| !state.is_empty()) }
    }
}

/// The first lines of `traceparent` and `tracestate`, empty where there is none that is text.
pub(crate) fn trace_lines(headers: &HeaderMap) -> (&str, &str) {
    let line = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.and_then(|value| str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
    };
    (line(HEADER_TRACEPARENT), line(HEADER_TRACESTATE))
}

/// Trace id and flags of a `traceparent` value (W3C Trace Context §3.2).
///
/// `None` when any part is malformed: the trace is then restarted, and the request goes on. The
/// span id is checked and dropped, for it is the caller's.
#[must_use]
pub fn parse_traceparent(value: &str) -> Option<(TraceId, TraceFlags)> {
    let mut parts = value.trim().split('-').map(str::as_bytes);
    let version: [u8; 2] = lower_hex(parts.next()?)?;
    let id = lower_hex(parts.next()?).and_then(not_zero)?;
    let _span: [u8; 16] = lower_hex(parts.next()?).and_then(not_zero)?;
    let flags = lower_hex(parts.next()?)?;
    let complete = version != *b"00" || parts.next().is_none();
    (version != *b"ff" && complete).then_some((TraceId(id), TraceFlags(flags)))
}

/// A `traceparent` with a fresh span id, continuing `id` or starting a trace.
pub(crate) fn new_traceparent(id: Option<TraceId>, flags: Option<TraceFlags>) -> HeaderValue {
    let id = id.unwrap_or_else(TraceId::random);
    let span: [u8; 16] = random_hex();
    let flags = flags.unwrap_or(TraceFlags::SAMPLED);
    let text = [b"00-".as_slice(), &id.0, b"-", &span, b"-", &flags.0].concat();
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Ids need to be unique, not secret.
fn random_hex<const N: usize>() -> [u8; N] {
    loop {
        let digits =
            std::array::from_fn(|_| fastrand::choice(b"0123456789abcdef").map_or(b'0', |d| *d));
        if let Some(digits) = not_zero(digits) {
            return digits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn traceparent_forms() {
        let good = [
            (format!("00-{ID}-00f067aa0ba902b7-01"), "01"),
            (format!("  00-{ID}-00f067aa0ba902b7-09 "), "09"),
            (format!("01-{ID}-00f067aa0ba902b7-01-x"), "01"),
        ];
        for (value, flags) in good {
            let (id, read) = parse_traceparent(&value).unwrap();
            assert_eq!((id.as_str(), read.as_str()), (ID, flags), "{value}");
        }
        let bad = [
            String::new(),
            format!("00-{ID}-00f067aa0ba902b7-01-x"),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{ID}-00f067aa0ba902b7-1"),
            format!("00-{ID}-00f067aa0ba902b7"),
        ];
        for value in bad {
            assert_eq!(parse_traceparent(&value), None, "{value}");
        }
    }

    #[test]
    fn a_new_traceparent_parses_and_has_a_span_of_its_own() {
        let id = TraceId::parse(ID);
        let one = new_traceparent(id, None);
        let two = new_traceparent(id, None);
        assert_ne!(one, two);
        let (read, flags) = parse_traceparent(one.to_str().unwrap()).unwrap();
        assert_eq!((Some(read), flags), (id, TraceFlags::SAMPLED));
        assert!(parse_traceparent(new_traceparent(None, None).to_str().unwrap()).is_some());
    }
}
