//! Keys and what they allow (contract §5).

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::UnixMillis;
use crate::money::Money;
use crate::purpose::PurposeName;
use crate::tenant::{AccountSettings, TenantLimits};

/// What every key starts with. NEVER change it: secret scanners and users know keys by it.
const PREFIX: &str = "fg-";

/// Base-62 digits of 256 bits.
const DIGITS: usize = 43;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The row id of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(pub i64);

/// The row id of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub i64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key in the clear. Exists only between its making and its one showing.
pub struct PlainKey(String);

impl PlainKey {
    /// The key that 256 bits from the system's generator spell.
    pub fn from_random(mut bits: [u8; 32]) -> Self {
        // Long division by 62, most significant byte first; 62^43 > 2^256, so nothing is lost.
        let mut digits = [0u8; DIGITS];
        for digit in digits.iter_mut().rev() {
            let mut remainder = 0u32;
            for byte in &mut bits {
                let value = (remainder << 8) | u32::from(*byte);
                *byte = (value / 62) as u8;
                remainder = value % 62;
            }
            *digit = ALPHABET[remainder as usize];
        }
        let mut key = String::with_capacity(PREFIX.len() + DIGITS);
        key.push_str(PREFIX);
        key.extend(digits.iter().map(|&d| char::from(d)));
        Self(key)
    }

    /// The text, to be shown once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    /// The last four characters, by which people tell keys apart.
    pub fn hint(&self) -> &str {
        &self.0[self.0.len() - 4..]
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey(…)")
    }
}

/// The SHA-256 of a key. No slow hash: a key has 256 random bits, which cannot be guessed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a presented key, whatever it looks like.
    pub fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }

    /// The bytes, as the key of the look-up.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time with stored bytes.
    pub fn matches(&self, stored: &[u8]) -> bool {
        self.0.ct_eq(stored).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// One thing that a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Upload files.
    FilesWrite,
    /// Retrieve files and their content.
    FilesRead,
    /// List files.
    FilesList,
    /// Delete files.
    FilesDelete,
    /// Call everything else through a channel.
    Relay,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] =
        [Self::FilesWrite, Self::FilesRead, Self::FilesList, Self::FilesDelete, Self::Relay];

    /// The name, as it is written in commands and rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::FilesWrite => "files:write",
            Self::FilesRead => "files:read",
            Self::FilesList => "files:list",
            Self::FilesDelete => "files:delete",
            Self::Relay => "relay",
        }
    }

    fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|s| s.name()).collect();
            format!("{text:?} is not a scope; scopes are {}", names.join(", "))
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Everything.
    pub fn all() -> Self {
        Self::from_iter(Scope::ALL)
    }

    /// Whether `scope` is in the set.
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The scopes in the set, in their usual order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.allow(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl FromStr for Scopes {
    type Err = String;

    /// Names separated by spaces or commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split([' ', ',']).filter(|name| !name.is_empty());
        names.map(str::parse::<Scope>).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.iter().enumerate() {
            write!(f, "{}{scope}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// Who is calling: the outcome of authentication, and the only way to an account's files.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The account that owns what the call touches.
    pub account_id: AccountId,
    /// The key that was presented.
    pub key_id: KeyId,
    /// When the key ends, if it does.
    pub key_expires_at: Option<UnixMillis>,
    /// What the key may do.
    pub scopes: Scopes,
    /// The purposes the key may touch; `None` for all.
    pub purposes: Option<Vec<PurposeName>>,
    /// Where the key may be used from; empty for anywhere.
    pub networks: Vec<IpNet>,
    /// What the key may use.
    pub key_limits: TenantLimits,
    /// What the account may use.
    pub account_limits: TenantLimits,
    /// How the account's files are kept.
    pub settings: AccountSettings,
    /// What the account could spend when it was looked up: its balance without what is held.
    pub available: Money,
    /// What the call costs at least, whatever the purpose turns out to be.
    pub least_price: Money,
    /// Whether the call costs something for some purpose.
    pub priced: bool,
}

impl Principal {
    /// Whether the key may touch files of `purpose`.
    pub fn may_touch(&self, purpose: &PurposeName) -> bool {
        self.purposes.as_ref().is_none_or(|allowed| allowed.contains(purpose))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_form() {
        let zero = PlainKey::from_random([0; 32]);
        assert_eq!(zero.expose(), format!("fg-{}", "0".repeat(43)));
        let full = PlainKey::from_random([0xFF; 32]);
        assert_eq!(full.expose().len(), 46);
        assert!(full.expose()[3..].bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(zero.hash(), full.hash());
        assert!(full.hash().matches(KeyHash::of(full.expose()).as_bytes()));
        assert!(!format!("{full:?} {:?}", full.hash()).contains(full.hint()));
    }

    #[test]
    fn scopes_read_and_write() {
        let scopes: Scopes = "files:read,files:list".parse().unwrap();
        assert!(scopes.allow(Scope::FilesRead) && !scopes.allow(Scope::FilesWrite));
        assert_eq!(scopes.to_string(), "files:read files:list");
        assert_eq!(Scopes::all().to_string().parse::<Scopes>().unwrap(), Scopes::all());
        assert!("files:everything".parse::<Scopes>().unwrap_err().contains("files:write"));
    }
}
