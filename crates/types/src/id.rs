//! The id of a file, as the MiniMax surface shows it (contract §2, "The id").

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::UnixMillis;

/// 2023-04-15T10:00:00Z, where upstream's ids count from, in Unix milliseconds.
const EPOCH_MS: i64 = 1_681_552_800_000;

/// Random bits below the milliseconds.
const RANDOM_BITS: u32 = 12;

/// Ids stay below this so that JavaScript's `JSON.parse` keeps them exact.
const MINTED_LIMIT: u64 = 1 << 53;

/// A file id: positive, at most 2^63 - 1 when read, below 2^53 when minted by us.
///
/// On the wire it is a JSON number; a string of decimal digits is accepted wherever one is read.
/// It never passes through a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u64);

/// The text or number is not a file id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("file_id must be a positive integer, as a number or as decimal digits in a string")]
pub struct FileIdError;

impl FileId {
    /// An id from `now` and twelve bits of `random`; unique only by the primary key it is stored
    /// under, so the store retries with other bits on a clash.
    pub fn mint(now: UnixMillis, random: u16) -> Self {
        let since = u64::try_from(now.0.saturating_sub(EPOCH_MS)).unwrap_or(0).max(1);
        let low = u64::from(random) & ((1 << RANDOM_BITS) - 1);
        let id = since.saturating_mul(1 << RANDOM_BITS) | low;
        // INVARIANT: 2^53 is reached in 2092 (minimax-wire §1.7); a clock beyond it is a fault of
        // the machine, and the id wraps into the past rather than losing bits in clients.
        Self(if id < MINTED_LIMIT { id } else { (id % MINTED_LIMIT).max(1) })
    }

    /// An id from an integer.
    ///
    /// # Errors
    /// [`FileIdError`] for zero, a negative or one of 2^63 and above.
    pub fn new(value: i64) -> Result<Self, FileIdError> {
        match u64::try_from(value) {
            Ok(value) if value > 0 => Ok(Self(value)),
            _ => Err(FileIdError),
        }
    }

    /// The id as the signed integer that databases keep.
    pub fn get(self) -> i64 {
        // Both constructors keep it below 2^63.
        self.0.cast_signed()
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for FileId {
    type Err = FileIdError;

    /// Canonical decimal digits only: no sign, no space, no leading zero, no other script's digits.
    fn from_str(text: &str) -> Result<Self, FileIdError> {
        let canonical = matches!(text.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
        if !canonical {
            return Err(FileIdError);
        }
        text.parse::<i64>().map_err(|_overflow| FileIdError).and_then(Self::new)
    }
}

impl Serialize for FileId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for FileId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = FileId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a positive integer, as a number or as decimal digits in a string")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<FileId, E> {
                i64::try_from(value)
                    .map_err(|_overflow| FileIdError)
                    .and_then(FileId::new)
                    .map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<FileId, E> {
                FileId::new(value).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FileId, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mints_ids_that_look_like_upstreams() {
        // 426586401755526 was observed on 2026-08-02 (minimax-wire §1.7).
        let id = FileId::mint(UnixMillis(1_785_700_000_000), 0xABC);
        assert_eq!(id.to_string().len(), 15);
        assert_eq!(id.get() & 0xFFF, 0xABC);
        assert_eq!((id.get() >> 12) + EPOCH_MS, 1_785_700_000_000);
    }

    #[test]
    fn a_clock_before_the_epoch_still_gives_a_positive_id() {
        assert!(FileId::mint(UnixMillis(0), 0).get() > 0);
        assert!(FileId::mint(UnixMillis(i64::MAX), 0).get() < 1 << 53);
    }

    #[test]
    fn reads_numbers_and_canonical_digits_only() {
        for good in ["1", "426586401755526", "9223372036854775807"] {
            let id: FileId = good.parse().unwrap();
            assert_eq!(id.to_string(), good);
            assert_eq!(serde_json::from_str::<FileId>(good).unwrap(), id);
            assert_eq!(serde_json::from_str::<FileId>(&format!("\"{good}\"")).unwrap(), id);
        }
        for bad in [
            "",
            "0",
            "-1",
            "+1",
            "01",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x10",
            "１２",
            "9223372036854775808",
            "99999999999999999999",
            "1;drop table files",
            "NaN",
            "1_000",
        ] {
            assert!(bad.parse::<FileId>().is_err(), "{bad:?}");
        }
        for bad in
            ["0", "-1", "1.0", "1e3", "[1]", "{}", "null", "true", "\"01\"", "9223372036854775808"]
        {
            assert!(serde_json::from_str::<FileId>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_id_survives_the_wire(value in 1..=i64::MAX) {
            let id = FileId::new(value).unwrap();
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(&json, &value.to_string());
            prop_assert_eq!(serde_json::from_str::<FileId>(&json).unwrap(), id);
        }
    }
}
