//! The constraints of a delegation: a closed list of keys, each with its type
//! (outbound contract §3.7).

use serde_json::{Map, Number, Value};

use super::time::Time;

/// Constraints that have been checked. They are kept as they were written, because answers show
/// them so.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Constraints(Map<String, Value>);

/// A key, the code of its refusal, and what it must be.
type Key = (&'static str, &'static str, fn(&Value) -> bool);

/// In the order in which the Coordinator judges them.
const KEYS: [Key; 8] = [
    ("resources", "invalid_resources", is_resource_list),
    ("max_depth", "invalid_max_depth", |value| is_within(value, 1, 10)),
    ("max_hops", "invalid_max_hops", |value| is_within(value, 1, 10)),
    ("budget", "invalid_budget", |value| is_within(value, 1, 64)),
    ("ttl_seconds", "invalid_ttl_seconds", |value| is_within(value, 1, 86_400)),
    ("policy_approved", "invalid_policy_approved", Value::is_boolean),
    ("expires_at", "invalid_expires_at", is_time),
    ("broad_reason", "invalid_broad_reason", is_reason),
];

impl Constraints {
    /// Takes `constraints` and its other name, the former over the latter, and the `ttl_seconds`
    /// of the request where they have none. An error is the code of the refusal.
    pub(super) fn read(
        constraints: Option<&Value>,
        other_name: Option<&Value>,
        ttl_seconds: Option<u64>,
    ) -> Result<Self, &'static str> {
        const NOT_ONE: &str = "invalid_delegation_constraint";
        let mut members = Map::new();
        for given in [other_name, constraints].into_iter().flatten() {
            let given = given.as_object().ok_or(NOT_ONE)?;
            members.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        for (key, code, is_right) in KEYS {
            if members.get(key).is_some_and(|value| !is_right(value)) {
                return Err(code);
            }
        }
        if members.keys().any(|key| !KEYS.iter().any(|(known, ..)| known == key)) {
            return Err(NOT_ONE);
        }
        // 1.0 is an integer to the Coordinator; it is shown as 1.
        for value in members.values_mut() {
            if let Some(whole) = integer(value) {
                *value = whole.into();
            }
        }
        match (members.get("max_depth").cloned(), members.get("max_hops")) {
            (Some(depth), None) => drop(members.insert("max_hops".into(), depth)),
            (Some(depth), Some(hops)) if depth != *hops => return Err("invalid_max_hops"),
            _ => {}
        }
        if let (Some(ttl), false) = (ttl_seconds, members.contains_key("ttl_seconds")) {
            members.insert("ttl_seconds".into(), ttl.into());
        }
        Ok(Self(members))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).and_then(integer)
    }

    pub(super) fn ttl_seconds(&self) -> Option<u64> {
        self.number("ttl_seconds")
    }

    pub(super) fn max_hops(&self) -> u64 {
        self.number("max_hops").unwrap_or(1)
    }

    pub(super) fn budget(&self) -> Option<u64> {
        self.number("budget")
    }

    pub(super) fn expires_at(&self) -> Option<Time> {
        self.0.get("expires_at").and_then(Value::as_str).and_then(Time::parse)
    }

    pub(super) fn resources(&self) -> Vec<&str> {
        let list = self.0.get("resources").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    pub(super) fn broad_reason(&self) -> Option<&str> {
        self.0.get("broad_reason").and_then(Value::as_str)
    }

    /// Whether the STS can read them. It does not know `budget`, which the Coordinator takes: such
    /// an edge never mints.
    pub(super) fn are_known_to_the_sts(&self) -> bool {
        self.budget().is_none()
    }

    pub(super) fn json(&self) -> Value {
        self.0.clone().into()
    }
}

/// The value of a JSON number that is whole and not negative, however it is written.
pub(super) fn integer(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    number.as_u64().or_else(|| whole(number))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn whole(number: &Number) -> Option<u64> {
    /// Above it a double is no longer exact.
    const MOST: f64 = 9_007_199_254_740_992.0;
    let number = number.as_f64()?;
    ((0.0..=MOST).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

fn is_within(value: &Value, least: u64, most: u64) -> bool {
    integer(value).is_some_and(|number| (least..=most).contains(&number))
}

fn is_resource_list(value: &Value) -> bool {
    let is_name = |entry: &Value| entry.as_str().is_some_and(|name| !name.is_empty());
    value.as_array().is_some_and(|list| list.len() <= 64 && list.iter().all(is_name))
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| Time::parse(text).is_some())
}

fn is_reason(value: &Value) -> bool {
    value.as_str().is_some_and(|text| (1..=256).contains(&text.encode_utf16().count()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_key_may_be_left_out_and_none_may_be_null() {
        for (key, code, _) in KEYS {
            let mut members = Map::new();
            members.insert(key.to_owned(), Value::Null);
            assert_eq!(Constraints::read(Some(&members.into()), None, None), Err(code));
        }
        assert_eq!(Constraints::read(None, None, None), Ok(Constraints::default()));
        assert!(Constraints::read(Some(&Value::Null), None, None).is_err());
    }

    #[test]
    fn what_is_stored() {
        let read = |constraints: Value, other: Value, ttl| {
            Constraints::read(Some(&constraints), Some(&other), ttl).map(|read| read.json())
        };
        assert_eq!(
            read(json!({"max_hops": 3.0}), json!({"max_hops": 2, "broad_reason": "b"}), Some(600)),
            Ok(json!({"max_hops": 3, "broad_reason": "b", "ttl_seconds": 600}))
        );
        assert_eq!(
            read(json!({"max_depth": 4}), json!({"ttl_seconds": 60}), Some(600)),
            Ok(json!({"max_depth": 4, "max_hops": 4, "ttl_seconds": 60}))
        );
        assert_eq!(
            read(json!({"max_hops": 3, "max_depth": 4}), json!({}), None),
            Err("invalid_max_hops")
        );
    }
}
