//! Money in integer micro-units, so that sums are exact.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// Micro-units in one unit of the operator's currency.
const MICROS: i64 = 1_000_000;
/// Digits after the point.
const DIGITS: usize = 6;
/// The largest amount: sums of a thousand of them still fit.
const MAX: i64 = 9_000_000_000_000_000;

/// An amount in micro-units of whatever currency the operator means: `1.5` is 1,500,000.
///
/// Written as a decimal string everywhere outside, never as a float.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Money(pub i64);

/// The text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an amount such as 12.5 or 0.001: at most six digits after the point, at most 9000000000"
)]
pub struct MoneyError(String);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum; saturates, which the largest amount keeps out of reach.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference; saturates.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This amount for each MiB of `bytes`, rounded up to a whole micro-unit.
    #[must_use]
    pub fn per_mib(self, bytes: Bytes) -> Self {
        self.share(u128::from(bytes.0), 1 << 20)
    }

    /// This amount for each GiB of `bytes`, rounded up to a whole micro-unit.
    #[must_use]
    pub fn per_gib(self, bytes: Bytes) -> Self {
        self.share(u128::from(bytes.0), 1 << 30)
    }

    /// This amount for each 1,000 units, rounded up to a whole micro-unit.
    #[must_use]
    pub fn per_thousand(self, units: u64) -> Self {
        self.share(u128::from(units), 1_000)
    }

    fn share(self, count: u128, of: u128) -> Self {
        let price = u128::try_from(self.0).unwrap_or(0);
        Self(i64::try_from((price * count).div_ceil(of)).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Money {
    /// Without trailing zeros: `0.001`, `12`, `-3.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.unsigned_abs();
        let (whole, rest) = (micros / MICROS.unsigned_abs(), micros % MICROS.unsigned_abs());
        let sign = if self.0 < 0 { "-" } else { "" };
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{rest:06}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for Money {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let wrong = || MoneyError(text.chars().take(40).collect());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let fits = (1..=10).contains(&whole.len())
            && (1..=DIGITS).contains(&fraction.len())
            && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
        if !fits {
            return Err(wrong());
        }
        let whole: i64 = whole.parse().map_err(|_why| wrong())?;
        let scaled: i64 = format!("{fraction:0<DIGITS$}").parse().map_err(|_why| wrong())?;
        let micros = whole * MICROS + scaled;
        if micros > MAX {
            return Err(wrong());
        }
        Ok(Self(if negative { -micros } else { micros }))
    }
}

impl TryFrom<String> for Money {
    type Error = MoneyError;

    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimal_strings_are_exact() {
        for (text, micros, shown) in [
            ("0", 0, "0"),
            ("0.01", 10_000, "0.01"),
            ("12.500000", 12_500_000, "12.5"),
            ("-3.5", -3_500_000, "-3.5"),
            ("0.000001", 1, "0.000001"),
            ("9000000000", MAX, "9000000000"),
            ("-0", 0, "0"),
        ] {
            assert_eq!(text.parse::<Money>().unwrap(), Money(micros), "{text}");
            assert_eq!(Money(micros).to_string(), shown);
        }
        for bad in
            ["", ".", "1.", ".5", "1e3", "+1", "1.0000001", "--1", " 1", "1,5", "9000000000.1", "٣"]
        {
            assert!(bad.parse::<Money>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(Money(100).per_mib(Bytes::mib(3)), Money(300));
        assert_eq!(Money(100).per_mib(Bytes(1)), Money(1));
        assert_eq!(Money(0).per_mib(Bytes(u64::MAX)), Money(0));
        assert_eq!(Money(7).per_gib(Bytes(1 << 30)), Money(7));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(micros in -MAX..=MAX) {
            prop_assert_eq!(Money(micros).to_string().parse::<Money>().unwrap(), Money(micros));
        }
    }
}
