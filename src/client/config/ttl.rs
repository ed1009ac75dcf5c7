//! The lifetime of sessions where a call names none.

pub(super) const VARIABLE: &str = "CARACAL_DEFAULT_TTL_SECONDS";

const MAX: u64 = 86_400;

const RULE: &str = "must be a whole number of seconds from 1 to 86400";

/// Decimal digits and nothing else: no sign, no unit, no space.
pub(super) fn from_digits(text: &str) -> Result<u64, &'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RULE);
    }
    check(text.parse().map_err(|_| RULE)?)
}

pub(super) fn check(seconds: u64) -> Result<u64, &'static str> {
    if (1..=MAX).contains(&seconds) { Ok(seconds) } else { Err(RULE) }
}

pub(super) fn from_integer(seconds: i64) -> Result<u64, &'static str> {
    check(seconds.try_into().map_err(|_| RULE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        for (text, seconds) in [("1", 1), ("900", 900), ("0060", 60), ("86400", 86_400)] {
            assert_eq!(from_digits(text), Ok(seconds), "{text}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "+900",
            " 900",
            "900 ",
            "15m",
            "1.5",
            "1e3",
            "0x10",
            "٣",
            "86401",
            "18446744073709551617",
        ] {
            assert_eq!(from_digits(bad), Err(RULE), "{bad}");
        }
    }

    #[test]
    fn integers() {
        assert_eq!(from_integer(55), Ok(55));
        for bad in [0, -1, 86_401, i64::MIN] {
            assert_eq!(from_integer(bad), Err(RULE), "{bad}");
        }
    }
}
