//! What an account or a key may use, and how an account's files are kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::channel::Replicate;
use crate::purpose::PurposeName;
use crate::units::{Bytes, Span};

/// Limits of an account or of a key; what is absent is not limited.
///
/// Both apply where both are set. Counts of a key are of that key's calls and files alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantLimits {
    /// Requests in a minute, evenly spaced but for the burst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Requests that may come at once. Absent: as many as in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_burst: Option<u32>,
    /// Bytes of upload bodies in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_minute: Option<Bytes>,
    /// Uploads in progress at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_uploads: Option<u32>,
    /// Bytes of stored files. Of accounts only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<Bytes>,
    /// Stored files of a purpose. Of accounts only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files_per_purpose: BTreeMap<PurposeName, u64>,
}

impl TenantLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, and `defaults` where there is none.
    #[must_use]
    pub fn or(mut self, defaults: &Self) -> Self {
        self.requests_per_minute = self.requests_per_minute.or(defaults.requests_per_minute);
        self.request_burst = self.request_burst.or(defaults.request_burst);
        self.bytes_per_minute = self.bytes_per_minute.or(defaults.bytes_per_minute);
        self.concurrent_uploads = self.concurrent_uploads.or(defaults.concurrent_uploads);
        self.stored_bytes = self.stored_bytes.or(defaults.stored_bytes);
        for (purpose, files) in &defaults.files_per_purpose {
            self.files_per_purpose.entry(purpose.clone()).or_insert(*files);
        }
        self
    }
}

/// How an account's files are kept, beside what the purpose says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountSettings {
    /// The shortest `expires_after` that an upload may ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_min: Option<Span>,
    /// The longest time a file is kept, whatever the purpose or the upload says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_max: Option<Span>,
    /// The channels that the account's calls may go to, by name; absent: its own if it has any, else all of the
    /// operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<String>>,
    /// When its files are copied to channels; absent: as `relay.replicate` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicate: Option<Replicate>,
    /// Whether the bytes of what is born upstream are kept here; absent: as `relay.keep_outputs` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_outputs: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fill_each_gap_and_change_nothing_that_is_set() {
        let batch: PurposeName = "batch".parse().unwrap();
        let clone: PurposeName = "voice_clone".parse().unwrap();
        let defaults = TenantLimits {
            requests_per_minute: Some(60),
            request_burst: Some(5),
            bytes_per_minute: Some(Bytes::mib(1)),
            concurrent_uploads: Some(2),
            stored_bytes: Some(Bytes::mib(9)),
            files_per_purpose: [(batch.clone(), 1), (clone.clone(), 2)].into(),
        };
        assert_eq!(TenantLimits::default().or(&defaults), defaults);
        assert_eq!(defaults.clone().or(&TenantLimits::default()), defaults);
        let own = TenantLimits {
            requests_per_minute: Some(0),
            files_per_purpose: [(batch.clone(), 7)].into(),
            ..TenantLimits::default()
        };
        let both = own.or(&defaults);
        assert_eq!((both.requests_per_minute, both.request_burst), (Some(0), Some(5)));
        assert_eq!(both.files_per_purpose, [(batch, 7), (clone, 2)].into());
    }
}
