//! What an admin token may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The scope of an admin token. Each has all that the one before it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum AdminScope {
    /// Look at everything.
    ReadOnly,
    /// Help clients: hold files back or delete them, block content, revoke and rotate keys, end uploads.
    Support,
    /// Everything: accounts, keys, money, tokens, backups.
    Full,
}

impl AdminScope {
    /// Every scope, the least first.
    pub const ALL: [Self; 3] = [Self::ReadOnly, Self::Support, Self::Full];

    /// The name in rows, replies and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Support => "support",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for AdminScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AdminScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| format!("{text:?} is not read-only, support or full"))
    }
}

impl TryFrom<String> for AdminScope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AdminScope> for &'static str {
    fn from(scope: AdminScope) -> Self {
        scope.name()
    }
}
