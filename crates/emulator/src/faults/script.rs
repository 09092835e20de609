//! Faults as people write them.

use std::path::Path;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use filegate_types::units::{Bytes, Span};
use serde::{Deserialize, Serialize};

/// Faults from a file: `[[fault]]` tables, and a seed for their luck.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// For `probability`; the emulator's own if absent.
    #[serde(default)]
    pub seed: Option<u64>,
    /// In order: the first that strikes counts.
    #[serde(default)]
    pub fault: Vec<Fault>,
}

/// What goes wrong, for which calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// The path of the calls, or how it begins when it ends in `*`; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The account's name; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// So many calls are spared first.
    #[serde(default)]
    pub skip: u64,
    /// So many calls meet it; no end if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How many of the calls meet it, from 0 to 1; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// How long it lasts from its first hit, by the emulator's clock.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Span>,
    /// `code`: the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// Kinds that answer with a code: another text than upstream's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `http`: the status, 502 if absent. Kinds that answer with a code: 200 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `http` and kinds that answer with a code: a `Retry-After`, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Span>,
    /// Resets and `truncated`: how much passes first; half of what is known to come if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Bytes>,
    /// `slow_request`, `slow_answer`: bytes in a second; 16 KiB if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<Bytes>,
    /// `stall`: after so long the connection is closed; 10 minutes if absent. `delay`: how long, 1 s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
}

/// The ways to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 1002, nothing carried out.
    RateLimited,
    /// 1004, nothing carried out: the account is banned.
    Banned,
    /// 1008, nothing carried out.
    OutOfBalance,
    /// 2038, nothing carried out.
    Unverified,
    /// 2013 "file expired", nothing carried out.
    FileExpired,
    /// Any code, nothing carried out.
    Code,
    /// A status with a page of HTML, as a load balancer answers, nothing carried out.
    Http,
    /// The request is read, then nothing comes, and nothing is carried out.
    Stall,
    /// The answer comes later. Carried out at once.
    Delay,
    /// The connection is reset in the middle of the request's body, nothing carried out.
    ResetRequest,
    /// Carried out, and the connection is reset in the middle of the answer's body.
    ResetAnswer,
    /// Carried out, and the connection is reset instead of an answer.
    LostAnswer,
    /// Carried out, and the answer's body is a whole HTTP body with half of the JSON.
    Truncated,
    /// The request's body is read slowly. Carried out.
    SlowRequest,
    /// Carried out, and the answer's body comes slowly.
    SlowAnswer,
    /// The task that the call makes will fail. Carried out.
    TaskFails,
}

/// A script that cannot be used. The text says where and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ScriptError(String);

impl Script {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is no script.
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        let read = Figment::from(Toml::file_exact(path)).extract::<Self>();
        read.map_err(|error| ScriptError(error.to_string()))?.checked()
    }

    /// Reads a text.
    ///
    /// # Errors
    /// When it is no script.
    pub fn from_toml(text: &str) -> Result<Self, ScriptError> {
        let read = Figment::from(Toml::string(text)).extract::<Self>();
        read.map_err(|error| ScriptError(error.to_string()))?.checked()
    }

    /// Looks for what the types cannot rule out.
    ///
    /// # Errors
    /// With the first that is wrong.
    pub fn checked(self) -> Result<Self, ScriptError> {
        if self.fault.len() > super::FAULTS_MAX {
            return Err(ScriptError(format!("more than {} faults", super::FAULTS_MAX)));
        }
        for (nth, fault) in self.fault.iter().enumerate() {
            fault.check().map_err(|why| ScriptError(format!("fault {}: {why}", nth + 1)))?;
        }
        Ok(self)
    }
}

impl Fault {
    fn check(&self) -> Result<(), &'static str> {
        if self.probability.is_some_and(|chance| !(0.0..=1.0).contains(&chance)) {
            return Err("probability must be from 0 to 1");
        }
        if self.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err("status must be from 200 to 599");
        }
        if self.bytes_per_second.is_some_and(|rate| rate.0 == 0) {
            return Err("bytes_per_second must not be 0");
        }
        match (self.kind == Kind::Code, self.code) {
            (true, None) => Err("the kind `code` needs a code"),
            (false, Some(_)) => Err("only the kind `code` takes a code"),
            _ => Ok(()),
        }
    }

    pub(super) fn is_meant_for(&self, path: &str, account: Option<&str>) -> bool {
        let path_fits = self.path.as_deref().is_none_or(|asked| match asked.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == asked,
        });
        let account_fits = self.account.as_deref().is_none_or(|asked| account == Some(asked));
        path_fits && account_fits
    }
}

impl Kind {
    /// Whether nobody looks at the request.
    pub(crate) fn is_in_front(self) -> bool {
        matches!(self, Self::Http | Self::Stall | Self::ResetRequest)
    }

    /// Its name in scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Banned => "banned",
            Self::OutOfBalance => "out_of_balance",
            Self::Unverified => "unverified",
            Self::FileExpired => "file_expired",
            Self::Code => "code",
            Self::Http => "http",
            Self::Stall => "stall",
            Self::Delay => "delay",
            Self::ResetRequest => "reset_request",
            Self::ResetAnswer => "reset_answer",
            Self::LostAnswer => "lost_answer",
            Self::Truncated => "truncated",
            Self::SlowRequest => "slow_request",
            Self::SlowAnswer => "slow_answer",
            Self::TaskFails => "task_fails",
        }
    }
}
