//! Channels: upstream accounts that relayed calls go to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::purpose::PurposeName;

/// A channel's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelId(pub i64);

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What operators want of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelState {
    /// Calls go to it.
    Active,
    /// Only calls that can go nowhere else: to tasks and voices that are there.
    Draining,
    /// No call goes to it; what is there is kept.
    Disabled,
    /// It is gone, and its key with it. Its row stays for what hung on it.
    Removed,
}

impl ChannelState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Active, Self::Draining, Self::Disabled, Self::Removed];

    /// The name in rows and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
        }
    }
}

impl FromStr for ChannelState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| format!("{text:?} is not active, draining, disabled or removed"))
    }
}

/// What a channel's own answers say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelCondition {
    /// It answers.
    Well,
    /// It asked for a pause (1002, 1039, 1041, `Retry-After`), or fails too often.
    Cooling,
    /// It has no money (1008).
    OutOfBalance,
    /// Its key was refused (1004, 2049, HTTP 401 or 403).
    KeyRefused,
}

impl ChannelCondition {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Well, Self::Cooling, Self::OutOfBalance, Self::KeyRefused];

    /// The name in rows and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Cooling => "cooling",
            Self::OutOfBalance => "out_of_balance",
            Self::KeyRefused => "key_refused",
        }
    }
}

impl FromStr for ChannelCondition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|condition| condition.name() == text)
            .ok_or_else(|| format!("{text:?} is not a condition of a channel"))
    }
}

/// How a channel is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelSettings {
    /// Its share of the calls among channels of the same priority. 0: only what can go nowhere else.
    pub weight: u32,
    /// Channels with a higher priority are used first.
    pub priority: i32,
    /// Calls in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rpm: Option<u32>,
    /// Calls in progress at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// The purposes of files that may be copied there; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purposes: Option<Vec<PurposeName>>,
    /// Where the account is, for operators: `global`, `cn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The `GroupId` that old accounts need in the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            weight: 1,
            priority: 0,
            max_rpm: None,
            max_concurrency: None,
            purposes: None,
            region: None,
            group_id: None,
        }
    }
}

/// When files are copied to channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replicate {
    /// On the first call that needs the file there.
    #[default]
    OnUse,
    /// With the upload, so that upstream's refusal is its answer; later when upstream is away.
    OnUpload,
}
