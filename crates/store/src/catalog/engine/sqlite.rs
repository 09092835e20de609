//! SQLite under the catalog: one writer thread that commits in groups, a pool of readers.
//!
//! Every change is a closure that runs on the writer thread, so a transaction can neither be
//! cancelled with the request that asked for it nor wait for the network. Whatever is queued when
//! the thread comes round shares one commit, and so one fsync. Each closure has its savepoint: one
//! that fails leaves no trace and does not disturb the others.
//!
//! # When a commit fails
//!
//! *No space*: the batch is rolled back. Changes that free space (deletes, jobs) are run again after
//! each step of the reserve file that is given up; the others fail with [`StoreError::Full`].
//! *Anything else*: what reached the disk is unknown, and an fsync that is tried again may lie
//! (Rebello et al., USENIX ATC '20). The catalog is poisoned: every later call fails until a restart
//! reads the log from the disk. Until then nobody touches the log, not even to fold it away.
//!
//! # Whether anything was changed
//!
//! SQLite's `data_version` tells a connection whether *another* connection has committed since it last asked, be it
//! of this process or of one beside it. The connection that asks here does nothing else, so to it all are others. The
//! answer stands in memory that all processes share, so it is asked for in place, without a thread that may block.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Change, Durability};
use crate::catalog::sql::{self, Connection};
use crate::datadir::{DataDir, Reserve};
use crate::error::StoreError;

/// Changes that wait for the writer, at most; more make their callers wait.
const QUEUE_MAX: usize = 4096;
/// Changes in one commit, at most.
const BATCH_MAX: usize = 256;
/// Connections for reading.
const READERS: usize = 4;
/// How long another process (the CLI beside a server) may hold the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Compiled statements that each connection keeps.
const STATEMENTS: usize = 128;

/// The schema, step by step; the count of steps applied is SQLite's `user_version`.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../../../../migrations/sqlite/0001_files.sql"),
    include_str!("../../../../../migrations/sqlite/0002_tenants.sql"),
    include_str!("../../../../../migrations/sqlite/0003_relay.sql"),
];

trait Work: Send {
    fn change(&self) -> &Change;
    /// Runs inside the batch's transaction; may run twice.
    fn run(&mut self, connection: &Connection) -> Result<(), StoreError>;
    /// Tells the caller.
    fn done(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Task<T, F, R> {
    change: Change,
    run: F,
    value: Option<T>,
    then: R,
}

impl<T, F, R> Work for Task<T, F, R>
where
    T: Send,
    F: FnMut(&Connection) -> sql::Result<T> + Send,
    R: FnOnce(Result<T, StoreError>) + Send,
{
    fn change(&self) -> &Change {
        &self.change
    }

    fn run(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let operation = self.change.operation;
        self.value = Some((self.run)(connection).map_err(|e| StoreError::catalog(operation, e))?);
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { value, then, .. } = *self;
        then(outcome.and_then(|()| value.ok_or(StoreError::Closed)));
    }
}

/// Handles to the writer and the readers.
#[derive(Debug)]
pub(in crate::catalog) struct Sqlite {
    path: PathBuf,
    queue: mpsc::Sender<Box<dyn Work>>,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    /// Asks whether anything was changed, and nothing else.
    watcher: Mutex<rusqlite::Connection>,
    poisoned: Arc<AtomicBool>,
}

impl Sqlite {
    pub(in crate::catalog) fn open(
        dir: &DataDir,
        reserve: Arc<Reserve>,
    ) -> Result<Self, StoreError> {
        let path = dir.catalog_path();
        let mut writer = connect(&path)?;
        migrate(&mut writer)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = connect(&path)?;
            reader
                .pragma_update(None, "query_only", true)
                .map_err(|e| StoreError::catalog("opening the catalog", e))?;
            readers.push(Connection::Sqlite(reader));
        }
        let watcher = connect(&path)?;
        watcher
            .pragma_update(None, "query_only", true)
            // Who cannot be told at once reads.
            .and_then(|()| watcher.busy_timeout(Duration::ZERO))
            .map_err(|e| StoreError::catalog("opening the catalog", e))?;
        let (queue, changes) = mpsc::channel(QUEUE_MAX);
        let poisoned = Arc::new(AtomicBool::new(false));
        let thread_poisoned = Arc::clone(&poisoned);
        thread::Builder::new()
            .name("catalog-writer".to_owned())
            .spawn(move || {
                Writer {
                    connection: Connection::Sqlite(writer),
                    reserve,
                    poisoned: thread_poisoned,
                    syncs: None,
                }
                .serve(changes);
            })
            .map_err(|e| StoreError::io("starting the catalog writer", e))?;
        Ok(Self {
            path,
            queue,
            readers: Mutex::new(readers),
            reading: Semaphore::new(READERS),
            watcher: Mutex::new(watcher),
            poisoned,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    /// A number that is another one after each commit, whoever made it; `None` if it cannot be told without waiting.
    pub(super) fn version(&self) -> Option<i64> {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = watcher.prepare_cached("PRAGMA data_version").ok()?;
        statement.query_row((), |row| row.get(0)).ok()
    }

    /// Runs `run` in a transaction with others that wait; returns when it is as durable as asked.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: Change,
        run: impl FnMut(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        // The caller may be gone; the change is made all the same.
        let then = |outcome| drop(reply.send(outcome));
        let task = Box::new(Task { change, run, value: None, then });
        self.queue.send(task).await.map_err(|_gone| StoreError::Closed)?;
        answer.await.map_err(|_gone| StoreError::Closed)?
    }

    /// As [`write`](Self::write), from a thread that may block; `then` is told.
    pub(super) fn write_then<T: Send + 'static>(
        &self,
        change: Change,
        run: impl FnMut(&Connection) -> sql::Result<T> + Send + 'static,
        then: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) {
        let task = Box::new(Task { change, run, value: None, then });
        if let Err(mpsc::error::SendError(task)) = self.queue.blocking_send(task) {
            task.done(Err(StoreError::Closed));
        }
    }

    /// Runs `run` on a reader, on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        mut run: impl FnMut(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = Arc::clone(self);
        let _turn = self.reading.acquire().await.map_err(|_closed| StoreError::Closed)?;
        tokio::task::spawn_blocking(move || {
            let lent = engine.pool().pop();
            let reader = match lent {
                Some(reader) => reader,
                None => Connection::Sqlite(connect(&engine.path)?),
            };
            let result = run(&reader).map_err(|e| StoreError::catalog(operation, e));
            let mut pool = engine.pool();
            if pool.len() < READERS {
                pool.push(reader);
            }
            result
        })
        .await
        .map_err(|_stopped| StoreError::Closed)?
    }

    /// As [`read`](Self::read), on this thread, if a reader is free: for what each call asks first, of rows that are few and
    /// therefore in memory. A hop to another thread and back would take longer than that.
    pub(super) fn read_here<T>(
        &self,
        operation: &'static str,
        run: &mut impl FnMut(&Connection) -> sql::Result<T>,
    ) -> Option<Result<T, StoreError>> {
        let _turn = self.reading.try_acquire().ok()?;
        let reader = self.pool().pop()?;
        let result = run(&reader).map_err(|e| StoreError::catalog(operation, e));
        self.pool().push(reader);
        Some(result)
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(path: &Path) -> Result<rusqlite::Connection, StoreError> {
    let opening = |e| StoreError::catalog("opening the catalog", e);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags).map_err(opening)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(opening)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    for (name, value) in [("journal_mode", "wal"), ("synchronous", "full"), ("foreign_keys", "on")]
    {
        connection.pragma_update(None, name, value).map_err(opening)?;
    }
    // Else SQLite compiles a statement anew whenever it is given other values, which costs more than to run it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(opening)?;
    // SQLite would fold a log away that we no longer trust; the writer does it when all is well.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(opening)?;
    Ok(connection)
}

fn migrate(connection: &mut rusqlite::Connection) -> Result<(), StoreError> {
    let migrating = |e| StoreError::catalog("migrating the catalog", e);
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(migrating)?;
    let done: usize = transaction
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .map_err(migrating)?
        .try_into()
        .unwrap_or(usize::MAX);
    if done == MIGRATIONS.len() {
        // Not even the version is written again: a start on a full disk has no room for it.
        return Ok(());
    }
    if done > MIGRATIONS.len() {
        return Err(StoreError::Unusable(format!(
            "the catalog has schema version {done}, this filegate knows {}: use a newer filegate",
            MIGRATIONS.len()
        )));
    }
    for step in &MIGRATIONS[done..] {
        transaction.execute_batch(step).map_err(migrating)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(migrating)?;
    transaction.commit().map_err(migrating)
}

struct Writer {
    connection: Connection,
    reserve: Arc<Reserve>,
    poisoned: Arc<AtomicBool>,
    /// Whether commits are synced as it was last set.
    syncs: Option<bool>,
}

impl Writer {
    fn raw(&self) -> &rusqlite::Connection {
        let Connection::Sqlite(connection) = &self.connection else {
            unreachable!("the writer was given one of SQLite")
        };
        connection
    }

    fn serve(mut self, mut changes: mpsc::Receiver<Box<dyn Work>>) {
        while let Some(first) = changes.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(next) = changes.try_recv()
            {
                batch.push(next);
            }
            self.commit(batch);
        }
        if self.poisoned.load(Ordering::Relaxed) {
            return;
        }
        // Closed: fold the log into the database so that the next start finds it small.
        if let Err(error) = self.raw().pragma_update(None, "wal_checkpoint", "TRUNCATE") {
            tracing::debug!(%error, "catalog.checkpoint.failed");
        }
    }

    fn commit(&mut self, batch: Vec<Box<dyn Work>>) {
        let batch = match self.attempt(batch) {
            Ok(()) => return,
            Err(batch) => batch,
        };
        // The disk is full. What frees space gets the reserve; the rest is told.
        let (mut frees, rest): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|w| w.change().frees_space);
        tell_full(rest);
        while !frees.is_empty() {
            let released = self.reserve.release();
            tracing::warn!(released, "catalog.full: using the reserve for changes that free space");
            match self.attempt(frees) {
                Ok(()) => return,
                Err(back) => frees = back,
            }
            if !released {
                return tell_full(frees);
            }
        }
    }

    /// Runs and commits `batch`, telling every caller, unless the disk is full: then nothing has
    /// happened and the batch comes back.
    fn attempt(&mut self, mut batch: Vec<Box<dyn Work>>) -> Result<(), Vec<Box<dyn Work>>> {
        if self.poisoned.load(Ordering::Relaxed) {
            for work in batch {
                work.done(Err(StoreError::Poisoned));
            }
            return Ok(());
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        let result = self.begin(&batch).and_then(|()| {
            for work in &mut batch {
                outcomes.push(self.run_one(work.as_mut())?);
            }
            self.run_cached("COMMIT")
        });
        let Err(error) = result else {
            for (work, outcome) in batch.into_iter().zip(outcomes) {
                work.done(outcome);
            }
            return Ok(());
        };
        if !self.raw().is_autocommit() {
            let _already_failed = self.raw().execute_batch("ROLLBACK");
        }
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => return Err(batch),
            // Another process holds the lock: nothing was written.
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                tracing::warn!(%error, "catalog.busy: another process held the write lock");
            }
            _ => {
                tracing::error!(%error, "catalog.poisoned: a commit failed; restart the server");
                self.poisoned.store(true, Ordering::Relaxed);
            }
        }
        for work in batch {
            let operation = work.change().operation;
            let source = rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
                Some("the batch it was in failed".to_owned()),
            );
            work.done(Err(StoreError::catalog(operation, source)));
        }
        Ok(())
    }

    fn begin(&mut self, batch: &[Box<dyn Work>]) -> rusqlite::Result<()> {
        let synced = batch.iter().any(|work| work.change().durability == Durability::Synced);
        if self.syncs != Some(synced) {
            // In WAL mode FULL syncs the log at each commit, NORMAL only at checkpoints.
            let mode = if synced { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" };
            self.raw().execute_batch(mode)?;
            self.syncs = Some(synced);
        }
        self.run_cached("BEGIN IMMEDIATE")
    }

    /// Runs a statement that is compiled once.
    fn run_cached(&self, sql: &str) -> rusqlite::Result<()> {
        self.raw().prepare_cached(sql)?.execute(()).map(drop)
    }

    /// The outcome of one change; an outer error ends the whole batch.
    fn run_one(&self, work: &mut dyn Work) -> rusqlite::Result<Result<(), StoreError>> {
        self.run_cached("SAVEPOINT one")?;
        let ran = catch_unwind(AssertUnwindSafe(|| work.run(&self.connection)));
        let outcome = ran.unwrap_or_else(|_panic| {
            tracing::error!(operation = work.change().operation, "catalog.panic");
            Err(StoreError::Closed)
        });
        match outcome {
            Ok(()) => self.run_cached("RELEASE one")?,
            // SQLite may already have given up the transaction (full disk, I/O): then all is lost.
            Err(StoreError::Full { .. }) => {
                return Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
                    None,
                ));
            }
            Err(_) => self.raw().execute_batch("ROLLBACK TO one; RELEASE one")?,
        }
        Ok(outcome)
    }
}

fn tell_full(batch: Vec<Box<dyn Work>>) {
    for work in batch {
        let operation = work.change().operation;
        work.done(Err(StoreError::Full { operation, source: "the disk is full".into() }));
    }
}
