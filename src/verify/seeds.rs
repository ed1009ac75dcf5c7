//! How single claims are read: each type of claim is a seed of its own.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::json::{Name, Names, Number, Strict, seed};
use crate::ChainLink;

/// A string, as what the function makes of it.
pub(super) struct Text<F>(pub(super) F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Text<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F: FnOnce(&str) -> T> Visitor<'de> for Text<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some((self.0)(text)))
    }
}

/// An optional id: absent, null and empty are the same.
#[derive(Clone, Copy)]
pub(super) struct Id;

seed!(Id, Option<Box<str>>, "a string or null", {
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
});

#[derive(Clone, Copy)]
pub(super) struct NonEmpty;

seed!(NonEmpty, Box<str>, "a non-empty string", {
    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.is_empty() { Err(E::custom("empty")) } else { Ok(text.into()) }
    }
});

/// A string, or a list of strings; whether the audience is among them.
pub(super) struct Audience<'a>(pub(super) &'a str);

seed!(Audience<'_>, Option<bool>, "a string or a list of strings", {
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text == self.0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut found = false;
        while let Some(is_audience) = seq.next_element_seed(Member(self.0))? {
            found |= is_audience;
        }
        Ok(Some(found))
    }
});

struct Member<'a>(&'a str);

seed!(Member<'_>, bool, "a string", {
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text == self.0)
    }
});

/// A list of `T`, or null for none.
pub(super) struct List<T>(pub(super) T);

impl<'de, T: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for List<T> {
    type Value = Vec<T::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: DeserializeSeed<'de> + Copy> Visitor<'de> for List<T> {
    type Value = Vec<T::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element_seed(self.0)? {
            list.push(element);
        }
        Ok(list)
    }
}

/// One application of the chain.
#[derive(Clone, Copy)]
pub(super) struct Link;

seed!(Link, ChainLink, "an object", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut application = None;
        let mut session = None;
        let mut edge = None;
        let mut names = Names::default();
        while let Some(name) = map.next_key_seed(Name)? {
            match &*name {
                "application_id" => application = Some(map.next_value_seed(NonEmpty)?),
                "agent_session_id" => session = map.next_value_seed(Id)?,
                "delegation_edge_id" => edge = map.next_value_seed(Id)?,
                _ => map.next_value_seed(Strict)?,
            }
            names.push(name);
        }
        names.all_different()?;
        let application = application.ok_or_else(|| A::Error::missing_field("application_id"))?;
        Ok(ChainLink::new(application, session, edge))
    }
});

/// A number whose text decides what it is worth.
macro_rules! number {
    ($seed:ident, $value:ty, $expecting:literal, $read:expr) => {
        pub(super) struct $seed;

        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = $value;

            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<$value, D::Error> {
                let number = Number::read(deserializer)?;
                ($read)(number).ok_or_else(|| D::Error::custom(concat!("not ", $expecting)))
            }
        }
    };
}

/// Exact, as every peer can represent it.
fn natural(number: Number<'_>) -> Option<u64> {
    number.as_i64()?.try_into().ok()
}

number!(Natural, Option<u64>, "a non-negative integer", |number| natural(number).map(Some));

number!(NaturalOrNull, Option<u64>, "a non-negative integer or null", |number: Number<'_>| {
    if number.is_null() { Some(None) } else { natural(number).map(Some) }
});

number!(Earliest, u64, "a number", earliest);

/// The first whole second at which `nbf` has come, 0 where that was before 1970. An integer is
/// exact and must fit an i64; a number with a fraction or an exponent is as exact as a double.
fn earliest(nbf: Number<'_>) -> Option<u64> {
    if nbf.is_integer() {
        return nbf.as_i64().map(|seconds| seconds.try_into().unwrap_or(0));
    }
    // The cast saturates at both ends.
    nbf.as_f64().map(|seconds| seconds.ceil() as u64)
}
