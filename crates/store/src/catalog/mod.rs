//! The catalog: accounts, keys, uploads, files, jobs, and what the relay knows.
//!
//! Each method is one transaction, or one read. Methods that touch files of a tenant take the
//! account first, and it is part of the WHERE clause: a foreign file is an absent file.
//!
//! One text of SQL and one function for both databases, SQLite and PostgreSQL; see [`sql`] and `engine`. Not
//! an async library: a change is a closure that runs on a thread to its end, which no cancelled request
//! can interrupt.

pub mod admin;
mod adopted;
mod books;
mod callbacks;
mod channels;
mod engine;
mod files;
mod holds;
mod idempotency;
mod jobs;
mod keys;
pub mod moderation;
pub(crate) mod packed;
mod replicas;
pub(crate) mod sql;
mod tasks;
mod uploads;
mod usage;
mod voices;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use filegate_types::{AccountId, BlobKey, FileRecord, KeyId, PurposeName, UnixMillis};
use serde::de::DeserializeOwned;

pub use adopted::{AccountTerms, AdoptedFile, KeepOutcome, NewAdopted};
pub use books::{BookFault, CallPrices, Short};
pub use callbacks::{Callback, Delivery};
pub use channels::{ChannelRow, CostRow, DrainProgress};
pub(crate) use files::drop_lost;
pub use files::{DeleteCause, DeleteOutcome};
pub use holds::{Held, NewHold, RelayPrices, Relayed, RelayedUsage};
pub use idempotency::{FirstAnswer, KeptAnswer};
pub(crate) use jobs::enqueue_purge;
pub use jobs::{Job, JobKind};
pub use keys::{Caller, KeyDraft, KeyRow, KeySelector};
pub use packed::WholeUpload;
pub use replicas::{Claim, Replica, ReplicaState, Uploaded};
pub use tasks::{NewTask, TaskRow};
pub use uploads::{CommitOutcome, NewFile, NewUpload, OnChannel, Quota};
pub use usage::Usage;
pub use voices::{VoiceRow, VoiceState};

use crate::datadir::{DataDir, Reserve};
use crate::error::StoreError;
use engine::{Change, Durability, Engine, Postgres, Sqlite};
pub use engine::{PostgresFacts, PostgresOptions};
use sql::{Dialect, OptionalExtension as _, ValueRef};

/// The rows of a gateway: embedded, or shared by its replicas. Cheap to clone.
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
        let engine = Sqlite::open(dir, reserve)?;
        Ok(Self { engine: Arc::new(Engine::Sqlite(Arc::new(engine))) })
    }

    /// Connects to a catalog that replicas share, making or migrating its schema.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for what only an operator can change, [`StoreError::Unavailable`] for what may
    /// pass.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        let engine = Postgres::open(options).await?;
        Ok(Self { engine: Arc::new(Engine::Postgres(Arc::new(engine))) })
    }

    /// Whether other replicas may use it too: it is on PostgreSQL.
    pub fn is_shared(&self) -> bool {
        matches!(*self.engine, Engine::Postgres(_))
    }

    /// The database file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        self.engine.path()
    }

    /// A number that is another one after every commit to the catalog, by this process or by any other, and the same as
    /// long as there is none. It is told within microseconds and without waiting; `None` if that cannot be, and on
    /// PostgreSQL.
    ///
    /// What a read that began after it was asked has seen still holds if it is the same later.
    pub fn version(&self) -> Option<i64> {
        self.engine.version()
    }

    /// How often this catalog has waited for PostgreSQL; 0 with SQLite.
    pub fn round_trips(&self) -> u64 {
        match &*self.engine {
            Engine::Sqlite(_) => 0,
            Engine::Postgres(pool) => pool.round_trips(),
        }
    }

    /// What operators want to know of the database; `None` with SQLite.
    pub async fn postgres_facts(&self) -> Result<Option<PostgresFacts>, StoreError> {
        if !self.is_shared() {
            return Ok(None);
        }
        self.engine.read("asking the database about itself", engine::facts).await.map(Some)
    }

    /// Whether `holder` is the one replica that does `task` until `lease` has passed; to go on, it asks
    /// again before. With SQLite there is only one.
    ///
    /// One statement, by the database's clock: of two that ask at the same time, the second waits for
    /// the first and sees what it wrote.
    pub async fn lead(
        &self,
        task: &'static str,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, StoreError> {
        if !self.is_shared() {
            return Ok(true);
        }
        let holder = holder.to_owned();
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX >> 1);
        self.engine
            .write(relaxed("choosing a leader"), move |c| {
                c.execute(
                    "INSERT INTO leaders (task, holder, until)
                     VALUES (?1, ?2, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) + ?3)
                     ON CONFLICT (task) DO UPDATE SET holder = excluded.holder, until = excluded.until
                     WHERE leaders.holder = excluded.holder OR leaders.until <= excluded.until - ?3",
                    (task, &holder, lease_ms),
                )
                .map(|taken| taken == 1)
            })
            .await
    }

    /// Whether a failed write has made the catalog unusable until a restart.
    pub fn is_poisoned(&self) -> bool {
        self.engine.is_poisoned()
    }

    /// Reads whole tables, for a move.
    pub(crate) async fn run_read<T: Send + 'static>(
        &self,
        operation: &'static str,
        run: impl FnMut(&sql::Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.engine.read_slowly(operation, run).await
    }

    /// Writes whole tables, for a move: by itself, so it takes no lock.
    pub(crate) async fn run_write<T: Send + 'static>(
        &self,
        operation: &'static str,
        run: impl FnMut(&sql::Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.engine.write(synced(operation), run).await
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
    /// is the given one. Of two that store at the same time the second waits for the first, and then sees
    /// its value.
    pub async fn meta_init(
        &self,
        name: &'static str,
        value: Vec<u8>,
    ) -> Result<(Vec<u8>, bool), StoreError> {
        // Most have it already, and nothing is written for those: a store that is sealed can be opened.
        if let Some(stored) = self.meta(name).await? {
            return Ok((stored, false));
        }
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
                    "INSERT INTO meta (name, value) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
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
        self.engine.read("reading the catalog", |c| c.query_row("SELECT 1", (), |_| Ok(()))).await
    }

    /// How much there is. Counts rows: for people, not for the request path.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.engine
            .read_slowly("counting", |c| {
                let (files, bytes): (i64, i64) = c.query_row(
                    "SELECT count(*), CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM files",
                    (),
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )?;
                let uploads: i64 = c.query_row("SELECT count(*) FROM uploads", (), |r| r.get(0))?;
                let jobs: i64 = c.query_row("SELECT count(*) FROM jobs", (), |r| r.get(0))?;
                Ok(Counts {
                    files: files.cast_unsigned(),
                    bytes: bytes.cast_unsigned(),
                    uploads: uploads.cast_unsigned(),
                    jobs: jobs.cast_unsigned(),
                })
            })
            .await
    }

    /// The database's own check of itself: `ok`, or what is wrong. SQLite walks its pages and indexes;
    /// PostgreSQL says what it has noticed: pages whose checksum failed, indexes that are not whole.
    pub async fn integrity(&self) -> Result<String, StoreError> {
        self.engine
            .read_slowly("checking the catalog", |c| {
                let check = match c.dialect() {
                    Dialect::Sqlite => "PRAGMA integrity_check(1)",
                    Dialect::Postgres => {
                        "SELECT CASE
                             WHEN (SELECT coalesce(checksum_failures, 0) FROM pg_stat_database
                                   WHERE datname = current_database()) > 0
                                 THEN 'pages of the database have failed their checksum'
                             WHEN EXISTS (SELECT 1 FROM pg_index JOIN pg_class ON oid = indrelid
                                          WHERE NOT indisvalid AND relnamespace = current_schema()::regnamespace)
                                 THEN 'an index of the database is not valid'
                             ELSE 'ok' END"
                    }
                };
                c.query_row(check, (), |r| r.get(0))
            })
            .await
    }

    /// The version of SQLite that is linked.
    pub fn sqlite_version() -> &'static str {
        rusqlite::version()
    }
}

fn synced(operation: &'static str) -> Change {
    Change { operation, durability: Durability::Synced, frees_space: false, lock: None }
}

fn relaxed(operation: &'static str) -> Change {
    Change { durability: Durability::Relaxed, ..synced(operation) }
}

fn freeing(operation: &'static str) -> Change {
    Change { frees_space: true, ..synced(operation) }
}

/// Parameters of a list from `?from` on.
fn places(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ")
}

/// A column that our own code wrote did not parse: the row was changed from outside.
fn corrupt_column(
    index: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> sql::Error {
    sql::Error::Column { index, source: Box::new(error) }
}

/// A column of JSON that our own code wrote; NULL is the default.
fn json_or_default<T: DeserializeOwned + Default>(
    row: &sql::Row<'_>,
    index: usize,
) -> sql::Result<T> {
    match row.value(index)? {
        ValueRef::Null | ValueRef::Text("{}") => Ok(T::default()),
        ValueRef::Text(text) => serde_json::from_str(text).map_err(|e| corrupt_column(index, e)),
        other => Err(corrupt_column(index, io::Error::other(format!("{other:?} is not JSON")))),
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

fn record(row: &sql::Row<'_>) -> sql::Result<FileRecord> {
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
        bytes: row.get::<i64>(4)?.cast_unsigned(),
        media_type: row.get(5)?,
        blob_key: blob_key.parse::<BlobKey>().map_err(|e| corrupt_column(6, e))?,
        created_at: UnixMillis(row.get(7)?),
        expires_at: row.get::<Option<i64>>(8)?.map(UnixMillis),
        damaged_at: row.get::<Option<i64>>(9)?.map(UnixMillis),
        sha256: row.get(10)?,
        media: serde_json::from_str(&media).map_err(|e| corrupt_column(11, e))?,
        key_id: row.get::<Option<i64>>(12)?.map(KeyId),
        state: state.parse().map_err(|why: String| corrupt_column(13, io::Error::other(why)))?,
        verdict: verdict
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|e| corrupt_column(14, e))?,
    })
}
