//! A committed file, and the key of its bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::id::FileId;
use crate::key::{AccountId, KeyId};
use crate::purpose::PurposeName;
use crate::wire::FileObject;

/// The name of a blob: ours alone, never made from client text, never used twice.
///
/// 48 bits of milliseconds and 80 random bits in 32 hex digits, so that keys sort by age. Of a blob that shares a file with
/// others, a [pack](BlobPlace), the second half of them says where it is there: 20 digits, `p`, 8 digits of the pack and
/// 6 of the block.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobKey(String);

/// Where a blob is that shares a file with others. What is appended later is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobPlace {
    /// The number of the file.
    pub pack: u32,
    /// Where its record begins there, in units of 4096 bytes: less than 2^24.
    pub block: u32,
}

/// Digits of a key that say nothing of a place.
const BEGINNING: usize = 20;

/// The text is not a blob key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a blob key")]
pub struct BlobKeyError;

/// Bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

impl BlobKey {
    /// A fresh key.
    pub fn mint(now: UnixMillis, random: [u8; 10]) -> Self {
        let millis = now.0.max(0).cast_unsigned() & 0xFFFF_FFFF_FFFF;
        Self(format!("{millis:012x}{}", hex(&random)))
    }

    /// The same blob's key if it is in a pack. The key keeps the time and 32 of the random bits.
    #[must_use]
    pub fn at(&self, place: BlobPlace) -> Self {
        let BlobPlace { pack, block } = place;
        Self(format!("{}p{pack:08x}{block:06x}", self.beginning()))
    }

    /// Where it is, if in a pack.
    pub fn place(&self) -> Option<BlobPlace> {
        let place = self.0.get(BEGINNING..)?.strip_prefix('p')?;
        let pack = u32::from_str_radix(place.get(..8)?, 16).ok()?;
        let block = u32::from_str_radix(place.get(8..)?, 16).ok()?;
        Some(BlobPlace { pack, block })
    }

    /// Its first 20 digits, which a key in a pack has of its own.
    pub fn beginning(&self) -> &str {
        &self.0[..BEGINNING]
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last two digits: the directory it is kept in, so that 256 directories fill evenly.
    pub fn shard(&self) -> &str {
        &self.0[self.0.len() - 2..]
    }

    /// When the key was minted.
    pub fn minted_at(&self) -> UnixMillis {
        UnixMillis(i64::from_str_radix(&self.0[..12], 16).unwrap_or(0))
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<BlobKey> for String {
    fn from(key: BlobKey) -> Self {
        key.0
    }
}

impl TryFrom<String> for BlobKey {
    type Error = BlobKeyError;

    fn try_from(text: String) -> Result<Self, BlobKeyError> {
        text.parse()
    }
}

impl FromStr for BlobKey {
    type Err = BlobKeyError;

    fn from_str(text: &str) -> Result<Self, BlobKeyError> {
        let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let whole = text.len() == 32 && is_hex(text);
        let packed = || match text.split_at_checked(BEGINNING) {
            Some((beginning, place)) => {
                let place = place.strip_prefix('p').filter(|place| place.len() == 14);
                is_hex(beginning) && place.is_some_and(is_hex)
            }
            None => false,
        };
        if whole || packed() { Ok(Self(text.to_owned())) } else { Err(BlobKeyError) }
    }
}

/// Whether a file's content is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// It is.
    Ready,
    /// Moderation wants a person to look first.
    Review,
    /// An operator has taken it out of use.
    Quarantined,
}

impl FileState {
    /// The name in rows and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Review => "review",
            Self::Quarantined => "quarantined",
        }
    }
}

impl FromStr for FileState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Ready, Self::Review, Self::Quarantined]
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| format!("{text:?} is not ready, review or quarantined"))
    }
}

/// A committed file: what its row says.
#[derive(Debug, Clone, PartialEq)]
pub struct FileRecord {
    /// Its id on the wire.
    pub file_id: FileId,
    /// Who owns it.
    pub account_id: AccountId,
    /// What it was uploaded for.
    pub purpose: PurposeName,
    /// The cleaned name the client gave, at most 255 bytes.
    pub filename: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
    /// What downloads are served as.
    pub media_type: String,
    /// What the probe measured, as JSON.
    pub media: serde_json::Value,
    /// Where the bytes are.
    pub blob_key: BlobKey,
    /// When the upload was committed.
    pub created_at: UnixMillis,
    /// When it will be deleted, if ever.
    pub expires_at: Option<UnixMillis>,
    /// When its bytes were found to be wrong or missing, if they were.
    pub damaged_at: Option<UnixMillis>,
    /// The key it was uploaded with; `None` for files older than this record.
    pub key_id: Option<KeyId>,
    /// Whether its content is given out.
    pub state: FileState,
    /// What moderation said, as JSON, if it was asked.
    pub verdict: Option<serde_json::Value>,
}

impl FileRecord {
    /// What upload and list show of it.
    pub fn to_wire(&self) -> FileObject {
        FileObject {
            file_id: self.file_id,
            bytes: self.bytes,
            created_at: self.created_at.seconds(),
            filename: self.filename.clone(),
            purpose: self.purpose.as_str().to_owned(),
            download_url: None,
            expires_at: self.expires_at.map(UnixMillis::seconds),
            state: (self.state != FileState::Ready).then(|| self.state.name().to_owned()),
            media: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_keys_sort_by_age_and_read_back() {
        let early = BlobKey::mint(UnixMillis(1_000), [0xFF; 10]);
        let late = BlobKey::mint(UnixMillis(2_000), [0; 10]);
        assert!(early < late);
        assert_eq!(late.minted_at(), UnixMillis(2_000));
        assert_eq!(late.as_str().parse::<BlobKey>().unwrap(), late);
        assert_eq!(early.shard(), "ff");
        for bad in ["", "../../etc/passwd", "00", &"A".repeat(32), &"0".repeat(33)] {
            assert!(bad.parse::<BlobKey>().is_err(), "{bad}");
        }
    }
}
