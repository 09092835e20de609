//! The catalog: accounts, keys, uploads, files and jobs.
//!
//! Each method is one transaction, or one read. Methods that touch files of a tenant take the
//! account first, and it is part of the WHERE clause: a foreign file is an absent file.
//!
//! SQLite through `rusqlite` rather than an async wrapper: the engine's writer thread runs closures
//! directly and commits them in groups, which no cancelled request can interrupt.

pub mod admin;
mod books;
mod engine;
mod files;
mod idempotency;
mod jobs;
mod keys;
pub mod moderation;
mod uploads;
mod usage;

use std::io;
use std::path::Path;
use std::sync::Arc;

use filegate_types::{AccountId, BlobKey, FileRecord, KeyId, PurposeName, UnixMillis};
use rusqlite::OptionalExtension;
use serde::de::DeserializeOwned;

pub use books::{BookFault, CallPrices, Short};
pub(crate) use files::drop_lost;
pub use files::{DeleteCause, DeleteOutcome};
pub use idempotency::{FirstAnswer, KeptAnswer};
pub use jobs::{Job, JobKind};
pub use keys::{Caller, KeyDraft, KeyRow, KeySelector};
pub use uploads::{CommitOutcome, NewFile, NewUpload, Quota};
pub use usage::Usage;

use crate::datadir::{DataDir, Reserve};
use crate::error::StoreError;
use engine::{Change, Durability, Engine};

/// The rows of an embedded gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    engine: Arc<Engine>,
}

/// How much is in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Committed files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads in progress.
    pub uploads: u64,
    /// Jobs that wait.
    pub jobs: u64,
}

impl Catalog {
    /// Opens the catalog of `dir`, making or migrating its schema.
    pub fn open(dir: &DataDir, reserve: Arc<Reserve>) -> Result<Self, StoreError> {
        Ok(Self { engine: Arc::new(Engine::open(&dir.catalog_path(), reserve)?) })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        self.engine.path()
    }

    /// Whether a failed write has made the catalog unusable until a restart.
    pub fn is_poisoned(&self) -> bool {
        self.engine.is_poisoned()
    }

    /// A value of the gateway's own, such as a secret.
    pub async fn meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine
            .read("reading a setting", move |c| {
                c.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
                    .query_row([name], |row| row.get(0))
                    .optional()
            })
            .await
    }

    /// Stores `value` unless the name has one already; returns what is stored then, and whether it
    /// is the given one.
    pub async fn meta_init(
        &self,
        name: &'static str,
        value: Vec<u8>,
    ) -> Result<(Vec<u8>, bool), StoreError> {
        let change = synced("storing a setting");
        self.engine
            .write(change, move |c| {
                let made = c.execute(
                    "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    (name, &value),
                )?;
                let stored =
                    c.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get(0))?;
                Ok((stored, made == 1))
            })
            .await
    }

    /// Stores `value`, replacing what was there.
    pub async fn meta_set(&self, name: &'static str, value: Vec<u8>) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("storing a setting"), move |c| {
                c.execute(
                    "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
                    (name, &value),
                )
                .map(drop)
            })
            .await
    }

    /// Answers if the catalog can be read.
    pub async fn ping(&self) -> Result<(), StoreError> {
        if self.is_poisoned() {
            return Err(StoreError::Poisoned);
        }
        self.engine.read("reading the catalog", |c| c.query_row("SELECT 1", [], |_| Ok(()))).await
    }

    /// How much there is. Counts rows: for people, not for the request path.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.engine
            .read("counting", |c| {
                let (files, bytes): (i64, i64) =
                    c.query_row("SELECT count(*), coalesce(sum(bytes), 0) FROM files", [], |r| {
                        Ok((r.get(0)?, r.get(1)?))
                    })?;
                let uploads: i64 = c.query_row("SELECT count(*) FROM uploads", [], |r| r.get(0))?;
                let jobs: i64 = c.query_row("SELECT count(*) FROM jobs", [], |r| r.get(0))?;
                Ok(Counts {
                    files: files.cast_unsigned(),
                    bytes: bytes.cast_unsigned(),
                    uploads: uploads.cast_unsigned(),
                    jobs: jobs.cast_unsigned(),
                })
            })
            .await
    }

    /// SQLite's own check of its pages and indexes: `ok`, or what is wrong.
    pub async fn integrity(&self) -> Result<String, StoreError> {
        self.engine
            .read("checking the catalog", |c| {
                c.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0))
            })
            .await
    }

    /// The version of SQLite that is linked.
    pub fn sqlite_version() -> &'static str {
        rusqlite::version()
    }
}

fn synced(operation: &'static str) -> Change {
    Change { operation, durability: Durability::Synced, frees_space: false }
}

fn relaxed(operation: &'static str) -> Change {
    Change { operation, durability: Durability::Relaxed, frees_space: false }
}

fn freeing(operation: &'static str) -> Change {
    Change { operation, durability: Durability::Synced, frees_space: true }
}

/// A column that our own code wrote did not parse: the row was changed from outside.
fn corrupt_column(
    index: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
}

/// A column of JSON that our own code wrote; NULL is the default.
fn json_or_default<T: DeserializeOwned + Default>(
    row: &rusqlite::Row<'_>,
    index: usize,
) -> rusqlite::Result<T> {
    match row.get_ref(index)?.as_str_or_null().map_err(|e| corrupt_column(index, e))? {
        None | Some("{}") => Ok(T::default()),
        Some(text) => serde_json::from_str(text).map_err(|e| corrupt_column(index, e)),
    }
}

/// A SELECT of the columns of [`record`], in its order, then `$more`, from `files`.
macro_rules! select_files {
    ($rest:literal) => {
        select_files!("", $rest)
    };
    ($more:literal, $rest:literal) => {
        concat!(
            "SELECT file_id, account_id, purpose, filename, bytes, media_type, blob_key, \
             created_at, expires_at, damaged_at, sha256, media, key_id, state, verdict",
            $more,
            " FROM files ",
            $rest
        )
    };
}
use select_files;

fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<FileRecord> {
    let purpose: String = row.get(2)?;
    let blob_key: String = row.get(6)?;
    let media: String = row.get(11)?;
    let state: String = row.get(13)?;
    let verdict: Option<String> = row.get(14)?;
    Ok(FileRecord {
        file_id: filegate_types::FileId::new(row.get(0)?).map_err(|e| corrupt_column(0, e))?,
        account_id: AccountId(row.get(1)?),
        purpose: PurposeName::try_from(purpose).map_err(|e| corrupt_column(2, e))?,
        filename: row.get(3)?,
        bytes: row.get::<_, i64>(4)?.cast_unsigned(),
        media_type: row.get(5)?,
        blob_key: blob_key.parse::<BlobKey>().map_err(|e| corrupt_column(6, e))?,
        created_at: UnixMillis(row.get(7)?),
        expires_at: row.get::<_, Option<i64>>(8)?.map(UnixMillis),
        damaged_at: row.get::<_, Option<i64>>(9)?.map(UnixMillis),
        sha256: row.get(10)?,
        media: serde_json::from_str(&media).map_err(|e| corrupt_column(11, e))?,
        key_id: row.get::<_, Option<i64>>(12)?.map(KeyId),
        state: state.parse().map_err(|why: String| corrupt_column(13, io::Error::other(why)))?,
        verdict: verdict
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|e| corrupt_column(14, e))?,
    })
}
