//! What an account or a key may use, and how an account's files are kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
}
