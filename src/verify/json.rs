//! JSON read strictly: no duplicate members at any depth, no number beyond a double, and integers
//! exact. What is let through has one meaning for every reader. [`Object`] is for documents of any
//! shape; claims and JOSE headers are read in one pass with the same parts.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// An object whose whole text has been checked. Members are sorted by name.
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// The checked text of one value.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(&'a str);

impl<'a> Object<'a> {
    /// Reads one object and nothing after it; `None` when the text is anything else.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        check(text).ok()?;
        Self::members(text)
    }

    fn members(text: &'a str) -> Option<Self> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let mut members = reader.deserialize_map(Members).ok()?;
        members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Some(Self(members))
    }

    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        let at = self.0.binary_search_by(|(member, _)| (**member).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| *value)
    }
}

impl<'a> Value<'a> {
    pub(super) fn as_str(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if inner.contains('\\') {
            return serde_json::from_str(self.0).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(inner))
    }

    pub(super) fn as_array(self) -> Option<Vec<Self>> {
        if !self.0.starts_with('[') {
            return None;
        }
        let elements: Vec<&RawValue> = serde_json::from_str(self.0).ok()?;
        Some(elements.into_iter().map(|element| Self(element.get())).collect())
    }

    pub(super) fn as_object(self) -> Option<Object<'a>> {
        if self.0.starts_with('{') { Object::members(self.0) } else { None }
    }
}

/// The text of a number, or of `null`.
#[derive(Clone, Copy)]
pub(super) struct Number<'a>(&'a str);

impl<'de> Number<'de> {
    /// Anything else than a number or `null` is an error.
    pub(super) fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let number = Self(text);
        let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        if is_number || number.is_null() { Ok(number) } else { Err(D::Error::custom("no number")) }
    }

    pub(super) fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// Whether it is an integer of any size; a fraction or an exponent makes a number none.
    pub(super) fn is_integer(self) -> bool {
        let digits = self.0.strip_prefix('-').unwrap_or(self.0);
        digits.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// An integer that fits; `-0` is 0.
    pub(super) fn as_i64(self) -> Option<i64> {
        self.is_integer().then(|| self.0.parse().ok()).flatten()
    }

    /// A number that a double can hold.
    pub(super) fn as_f64(self) -> Option<f64> {
        self.0.parse().ok().filter(|number: &f64| number.is_finite())
    }
}

/// The names of an object's members.
#[derive(Default)]
pub(super) struct Names<'a>(Vec<Cow<'a, str>>);

impl<'a> Names<'a> {
    pub(super) fn push(&mut self, name: Cow<'a, str>) {
        self.0.push(name);
    }

    pub(super) fn all_different<E: Error>(mut self) -> Result<(), E> {
        self.0.sort_unstable();
        if self.0.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            return Err(E::custom("duplicate member"));
        }
        Ok(())
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, Value<'de>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(24);
        while let Some(name) = map.next_key_seed(Name)? {
            members.push((name, Value(map.next_value::<&RawValue>()?.get())));
        }
        Ok(members)
    }
}

/// A member name, borrowed where it has no escapes.
pub(super) struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Walks a whole document. Depth is bounded by `serde_json` (128 levels).
fn check(text: &str) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    Strict.deserialize(&mut reader)?;
    reader.end()
}

/// Any value, read strictly and forgotten.
pub(super) struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = Names::default();
        while let Some(name) = map.next_key_seed(Name)? {
            names.push(name);
            map.next_value_seed(Self)?;
        }
        names.all_different()
    }
}

/// A seed whose visitor is itself; any type it has no method for is refused.
macro_rules! seed {
    ($seed:ident $(<$life:lifetime>)?, $value:ty, $expecting:literal, { $($method:item)* }) => {
        impl<'de> DeserializeSeed<'de> for $seed $(<$life>)? {
            type Value = $value;

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<$value, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl<'de> Visitor<'de> for $seed $(<$life>)? {
            type Value = $value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expecting)
            }

            $($method)*
        }
    };
}

pub(super) use seed;

/// A string as it is.
pub(super) fn owned(text: &str) -> Box<str> {
    text.into()
}

/// A string, as what the function makes of it; anything else is read strictly, and is `None`.
pub(super) struct TextOrElse<F>(pub(super) F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for TextOrElse<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F: FnOnce(&str) -> T> Visitor<'de> for TextOrElse<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some((self.0)(text)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Strict.visit_seq(seq).map(|()| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Strict.visit_map(map).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(text: &str) -> bool {
        Object::parse(text.as_bytes()).is_some()
    }

    #[test]
    fn duplicates_are_refused_at_any_depth() {
        assert!(accepted(r#"{"a":1,"b":{"a":1},"A":2}"#));
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[[{"a":1,"b":[],"a":2}]]}"#,
        ] {
            assert!(!accepted(text), "{text}");
        }
    }

    #[test]
    fn numbers_beyond_a_double_are_refused_wherever_they_stand() {
        assert!(accepted(r#"{"a":1e308,"b":-1.5e-400}"#));
        for text in [r#"{"a":1e400}"#, r#"{"a":[{"b":-1e400}]}"#] {
            assert!(!accepted(text), "{text}");
        }
        assert!(!accepted(&format!(r#"{{"a":{}}}"#, "9".repeat(10_000))));
    }

    #[test]
    fn only_one_object_of_valid_unicode() {
        for text in ["[]", "1", "null", "", "{} {}", "{},", "{\"a\":NaN}", "\u{feff}{}"] {
            assert!(!accepted(text), "{text}");
        }
        assert!(!accepted(r#"{"a":"\ud800"}"#));
        assert!(!accepted("{\"a\":\"\u{1}\"}"));
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_none());
        assert!(accepted(" \r\n\t{} \n"));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepted(&nested(100)));
        assert!(!accepted(&nested(20_000)));
    }

    #[test]
    fn typed_reads() {
        let text = br#"{"s":"a\n\u00e9","p":"plain","l":["x",2],"o":{"k":null}}"#;
        let object = Object::parse(text).unwrap();
        let get = |name| object.get(name).unwrap();
        assert_eq!(get("s").as_str().unwrap(), "a\n\u{e9}");
        assert_eq!(get("p").as_str().unwrap(), "plain");
        assert_eq!(get("l").as_array().unwrap().len(), 2);
        assert!(get("o").as_object().unwrap().get("k").unwrap().as_str().is_none());
        assert!(get("o").as_str().is_none() && get("s").as_array().is_none());
        assert!(object.get("absent").is_none());
    }
}
