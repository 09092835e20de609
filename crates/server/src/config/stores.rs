//! Settings of what holds rows, bytes and counts when that is not this process.

use std::time::Duration;

use filegate_store::{Keeps, S3Checksum, S3Options};
use filegate_types::units::{Bytes, Span};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Secret};

/// Connections to PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Connections of this replica, at most.
    pub connections: usize,
    /// Time to make one.
    pub connect_timeout: Span,
    /// Time for one statement, its wait for locks included.
    pub statement_timeout: Span,
    /// How long a call waits for a free connection.
    pub wait: Span,
}

/// How the S3 store is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// With `secret_access_key`, the static key. Empty: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, else the
    /// role of the instance, container or service account.
    pub access_key_id: String,
    /// See `access_key_id`.
    pub secret_access_key: Secret,
    /// Whether the bucket is in the path (most stores of one's own) or in the host name (AWS).
    pub path_style: bool,
    /// The checksum that is sent with each body.
    pub checksum: Checksum,
    /// `x-amz-server-side-encryption`: `AES256`, `aws:kms` or `aws:kms:dsse`. Empty: what the bucket does.
    pub sse: String,
    /// The key for `aws:kms`. Empty: the account's own.
    pub sse_kms_key: String,
    /// Bodies up to this size go up in one PUT, larger ones in parts of it.
    pub part_bytes: Bytes,
    /// Parts of one body under way at a time.
    pub parts_parallel: usize,
    /// Memory for bodies on their way up, of all uploads together; those up to 256 KiB are not counted.
    pub memory_max: Bytes,
    /// Time to connect.
    pub connect_timeout: Span,
    /// Time for one request, its body included.
    pub request_timeout: Span,
    /// How often a request that failed is made again.
    pub retries: usize,
}

/// The checksum of a body sent to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// `x-amz-checksum-sha256`: the store refuses what arrives changed.
    Sha256,
    /// None, for stores that do not know the header.
    None,
}

/// How Redis is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// What every key and channel of the gateway begins with.
    pub prefix: String,
    /// Time for one call; a slower Redis is one that is away.
    pub timeout: Span,
    /// How long the uploads of a replica that died count as in progress.
    pub lease: Span,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            connections: 16,
            connect_timeout: Span::seconds(3),
            statement_timeout: Span::seconds(10),
            wait: Span::seconds(5),
        }
    }
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            access_key_id: String::new(),
            secret_access_key: Secret::default(),
            path_style: true,
            checksum: Checksum::Sha256,
            sse: String::new(),
            sse_kms_key: String::new(),
            part_bytes: Bytes::mib(8),
            parts_parallel: 2,
            memory_max: Bytes::mib(256),
            connect_timeout: Span::seconds(3),
            request_timeout: Span::seconds(30),
            retries: 3,
        }
    }
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            prefix: "filegate:".to_owned(),
            timeout: Span(Duration::from_millis(250)),
            lease: Span::seconds(30),
        }
    }
}

impl Config {
    /// What is kept in `data_dir` beside what is being received.
    pub fn keeps_here(&self) -> Keeps {
        Keeps { rows: !self.is_replicated(), blobs: self.blob_url.is_empty() }
    }

    /// Whether other processes may serve the same store: its rows are in PostgreSQL.
    pub fn is_replicated(&self) -> bool {
        !self.database_url.expose().is_empty()
    }

    /// How the bucket is spoken to; `None` if the bytes are in the data directory.
    pub fn s3_options(&self) -> Result<Option<S3Options>, ConfigError> {
        if self.blob_url.is_empty() {
            return Ok(None);
        }
        let s3 = &self.s3;
        Ok(Some(S3Options {
            access_key_id: s3.access_key_id.clone(),
            secret_access_key: s3.secret_access_key.expose().to_owned(),
            path_style: s3.path_style,
            checksum: match s3.checksum {
                Checksum::Sha256 => S3Checksum::Sha256,
                Checksum::None => S3Checksum::None,
            },
            sse: s3.sse.clone(),
            sse_kms_key: s3.sse_kms_key.clone(),
            part_bytes: s3.part_bytes.0,
            parts_parallel: s3.parts_parallel,
            memory_max: s3.memory_max.0,
            connect_timeout: s3.connect_timeout.0,
            request_timeout: s3.request_timeout.0,
            retries: s3.retries,
            ..S3Options::parse(&self.blob_url)?
        }))
    }
}
