//! The calls that there are: what scopes allow, prices charge and usage counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::key::Scope;

/// A call of the Files API, or one that is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Call {
    /// An upload that was stored.
    Upload,
    /// A list.
    List,
    /// A retrieve.
    Retrieve,
    /// A content or a part of one. Downloads by link were paid with the retrieve that made the link.
    Content,
    /// A delete.
    Delete,
    /// A day of storage: charged by the gateway itself.
    Storage,
    /// A call that goes upstream. In prices and usage its path, such as `/v1/t2a_v2`, stands where that of a file
    /// has its purpose.
    Relay,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Upload,
        Self::List,
        Self::Retrieve,
        Self::Content,
        Self::Delete,
        Self::Storage,
        Self::Relay,
    ];

    /// The name in prices, usage and the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "files.upload",
            Self::List => "files.list",
            Self::Retrieve => "files.retrieve",
            Self::Content => "files.content",
            Self::Delete => "files.delete",
            Self::Storage => "files.storage",
            Self::Relay => "relay",
        }
    }

    /// The scope that a key needs for it; none needs one for storage.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Self::Upload => Some(Scope::FilesWrite),
            Self::List => Some(Scope::FilesList),
            Self::Retrieve | Self::Content => Some(Scope::FilesRead),
            Self::Delete => Some(Scope::FilesDelete),
            Self::Storage => None,
            Self::Relay => Some(Scope::Relay),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|call| call.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|call| call.name()).collect();
            format!("{text:?} is not a call; calls are {}", names.join(", "))
        })
    }
}

impl TryFrom<String> for Call {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Call> for &'static str {
    fn from(call: Call) -> Self {
        call.name()
    }
}

/// What a price is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceUnit {
    /// Each call.
    Call,
    /// Each MiB of an upload, parts of one in proportion.
    Mib,
    /// Each GiB that is stored at the end of a UTC day, parts of one in proportion.
    GibDay,
    /// Each 1,000 units that the reply to a relayed call counts (`usage_characters`, `total_tokens`), parts of
    /// them in proportion.
    Kilounit,
}

impl PriceUnit {
    /// The name in rows and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Mib => "mib",
            Self::GibDay => "gib_day",
            Self::Kilounit => "kilounit",
        }
    }

    /// Whether `call` can have a price for this unit.
    pub fn fits(self, call: Call) -> bool {
        match self {
            Self::Call => call != Call::Storage,
            Self::Mib => call == Call::Upload,
            Self::GibDay => call == Call::Storage,
            Self::Kilounit => call == Call::Relay,
        }
    }
}

impl FromStr for PriceUnit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Call, Self::Mib, Self::GibDay, Self::Kilounit]
            .into_iter()
            .find(|unit| unit.name() == text)
            .ok_or_else(|| format!("{text:?} is not call, mib, gib_day or kilounit"))
    }
}
