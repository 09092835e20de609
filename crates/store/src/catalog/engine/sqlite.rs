//! SQLite under the catalog: one writer that commits in groups, a pool of readers.
//!
//! Every change is a closure that waits in a queue for whoever has the writer, which is its own thread or one that may
//! block and would else only wait for that; so a transaction can neither be cancelled with the request that asked for it
//! nor wait for the network. Whatever is queued when the next commit begins shares it, and so one fsync. A closure that
//! fails leaves no trace and does not disturb the others: the whole is rolled back and done again, each in a savepoint.
//! (At first there are none, since hardly any fails and each costs copies of the pages that it changes.)
//!
//! # When a commit fails
//!
//! *No space*: the batch is rolled back. Changes that free space (deletes, jobs) are run again after
//! each step of the reserve file that is given up; the others fail with [`StoreError::Full`].
//! *Anything else*: what reached the disk is unknown, and an fsync that is tried again may lie
//! (Rebello et al., USENIX ATC '20). The catalog is poisoned: every later call fails until a restart
//! reads the log from the disk. Until then nobody touches the log, not even to fold it away.
//!
//! # Changes that follow from records of packs
//!
//! They are durable before they are made, so their commits are not synced. How far they have come (the *through* place)
//! is committed with them, and a start makes those that are missing again: [`replay`](crate::replay()). It has to find all
//! as it was before each of them. So a commit with such a change is synced nevertheless
//!
//! - if relaxed changes are before it that were not synced: a power cut might take them and leave it;
//! - if it is the first of a pack, so that only records of one pack may have to be looked at;
//! - if the commit before it failed: what was refused without a trace is then behind the through place.
//!
//! # Folding the log away
//!
//! The writer's own thread does it when the log is long and all callers have been told. A sync that fails then is no less a failure
//! than that of a commit: what was not synced yet may be lost.
//!
//! # Whether anything was changed
//!
//! SQLite's `data_version` tells a connection whether *another* connection has committed since it last asked, be it
//! of this process or of one beside it. The connection that asks here does nothing else, so to it all are others. The
//! answer stands in memory that all processes share, so it is asked for in place, without a thread that may block.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use filegate_types::BlobPlace;
use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use tokio::sync::{Semaphore, oneshot};

use super::{Change, Durability};
use crate::catalog::packed;
use crate::catalog::sql::{self, Connection};
use crate::datadir::{DataDir, Reserve};
use crate::error::StoreError;

/// Changes that wait for the writer, at most; more make their callers wait.
const QUEUE_MAX: usize = 4096;
/// Changes in one commit, at most.
const BATCH_MAX: usize = 256;
/// So many pages of the log are folded into the database.
const LOG_PAGES: i32 = 1000;
/// Connections for reading. Fewer at first would have callers wait for one another's.
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
    queue: Arc<Queue>,
    /// Places in the queue for those that can wait for one.
    places: Semaphore,
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
        let log_pages = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&log_pages);
        let hook = move |_: &mut Wal, pages| {
            seen.store(pages, Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(|e| StoreError::catalog("opening the catalog", e))?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            readers.push(Connection::Sqlite(connect_to_read(&path)?));
        }
        let watcher = connect_to_read(&path)?;
        // Who cannot be told at once reads.
        let waits = watcher.busy_timeout(Duration::ZERO);
        waits.map_err(|e| StoreError::catalog("opening the catalog", e))?;
        let poisoned = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            connection: Connection::Sqlite(writer),
            reserve,
            poisoned: Arc::clone(&poisoned),
            syncs: None,
            // What was before this process is not known.
            unsynced: true,
            synced_pack: None,
            log_pages,
        };
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            came: Condvar::new(),
            writer: Mutex::new(writer),
        });
        let served = Arc::clone(&queue);
        thread::Builder::new()
            .name("catalog-writer".to_owned())
            .spawn(move || served.serve())
            .map_err(|e| StoreError::io("starting the catalog writer", e))?;
        Ok(Self {
            path,
            queue,
            places: Semaphore::new(QUEUE_MAX),
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
        let _place = self.places.acquire().await.map_err(|_closed| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        // The caller may be gone; the change is made all the same.
        let then = |outcome| drop(reply.send(outcome));
        self.queue.add(Box::new(Task { change, run, value: None, then }));
        self.queue.came.notify_one();
        answer.await.map_err(|_gone| StoreError::Closed)?
    }

    /// As [`write`](Self::write), with others to come: nobody begins before [`commit_queued`](Self::commit_queued), or
    /// somebody else's change. `then` is told by who commits.
    pub(super) fn queue<T: Send + 'static>(
        &self,
        change: Change,
        run: impl FnMut(&Connection) -> sql::Result<T> + Send + 'static,
        then: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) {
        self.queue.add(Box::new(Task { change, run, value: None, then }));
    }

    /// Has what is queued committed: on this thread, which may block, if it is `here` and nobody is at it.
    pub(super) fn commit_queued(&self, here: bool) {
        if here {
            self.queue.commit_here();
        } else {
            self.queue.came.notify_one();
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
                None => Connection::Sqlite(connect_to_read(&engine.path)?),
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

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.queue.waiting().closed = true;
        self.queue.came.notify_one();
    }
}

/// What waits for the writer, and the writer.
struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Waiting {
    works: VecDeque<Box<dyn Work>>,
    /// Whether the log is to be folded away.
    folds: bool,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("waiting", &self.waiting().works.len())
            .finish_non_exhaustive()
    }
}

impl Queue {
    fn add(&self, work: Box<dyn Work>) {
        self.waiting().works.push_back(work);
    }

    /// What the next commit is of.
    fn batch(&self) -> Vec<Box<dyn Work>> {
        let mut waiting = self.waiting();
        let count = waiting.works.len().min(BATCH_MAX);
        waiting.works.drain(..count).collect()
    }

    /// Commits what comes until nothing does any more: the writer's own thread.
    fn serve(&self) {
        loop {
            let mut waiting = self.waiting();
            while waiting.works.is_empty() && !waiting.folds && !waiting.closed {
                waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let done = waiting.works.is_empty() && waiting.closed;
            waiting.folds = false;
            drop(waiting);
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            if done {
                return writer.close();
            }
            // Somebody else may have been faster.
            writer.commit(self.batch());
            if writer.has_long_log() {
                writer.fold();
            }
        }
    }

    /// Commits what waits now, unless somebody is at it; what comes meanwhile is for the writer's thread.
    fn commit_here(&self) {
        // Who finds the writer taken may go: its holder looks at what waits once more after having let go.
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        writer.commit(self.batch());
        let folds = writer.has_long_log();
        drop(writer);
        let mut waiting = self.waiting();
        waiting.folds |= folds;
        if waiting.folds || !waiting.works.is_empty() {
            self.came.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect_to_read(path: &Path) -> Result<rusqlite::Connection, StoreError> {
    let connection = connect(path)?;
    let set = connection.pragma_update(None, "query_only", true);
    set.map_err(|e| StoreError::catalog("opening the catalog", e)).map(|()| connection)
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
    /// Whether there may be, not synced, what does not follow from records of packs, or what was refused and does.
    unsynced: bool,
    /// The pack with whose first record a commit was synced.
    synced_pack: Option<u32>,
    /// As of the last commit.
    log_pages: Arc<AtomicI32>,
}

/// The last place among `batch` whose change follows from a record there and was made. One that failed has no trace: its
/// record is revoked.
fn through(batch: &[Box<dyn Work>], outcomes: &[Result<(), StoreError>]) -> Option<BlobPlace> {
    let made = batch.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
    let places = made.filter_map(|(work, _)| match work.change().durability {
        Durability::InPack(place) => Some(place),
        _ => None,
    });
    places.max()
}

impl Writer {
    fn raw(&self) -> &rusqlite::Connection {
        let Connection::Sqlite(connection) = &self.connection else {
            unreachable!("the writer was given one of SQLite")
        };
        connection
    }

    /// Folds the log into the database so that the next start finds it small.
    fn close(&self) {
        if !self.poisoned.load(Ordering::Relaxed)
            && let Err(error) = self.raw().pragma_update(None, "wal_checkpoint", "TRUNCATE")
        {
            tracing::debug!(%error, "catalog.checkpoint.failed");
        }
    }

    fn commit(&mut self, batch: Vec<Box<dyn Work>>) {
        if batch.is_empty() {
            return;
        }
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
        let result = self.run_all(&mut batch).and_then(|outcomes| {
            if let Some(place) = through(&batch, &outcomes) {
                packed::note(self.raw(), place)?;
            }
            self.run_cached("COMMIT")?;
            Ok(outcomes)
        });
        let error = match result {
            Ok(outcomes) => {
                self.committed(&batch, &outcomes);
                for (work, outcome) in batch.into_iter().zip(outcomes) {
                    work.done(outcome);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        self.unsynced = true;
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
        let synced = self.must_sync(batch);
        if self.syncs != Some(synced) {
            // In WAL mode FULL syncs the log at each commit, NORMAL only at checkpoints.
            let mode = if synced { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" };
            self.raw().execute_batch(mode)?;
            self.syncs = Some(synced);
        }
        self.run_cached("BEGIN IMMEDIATE")
    }

    /// Whether the commit of `batch` has to be synced.
    fn must_sync(&self, batch: &[Box<dyn Work>]) -> bool {
        let mut unsynced = self.unsynced;
        batch.iter().any(|work| match work.change().durability {
            Durability::Synced => true,
            Durability::Relaxed => {
                unsynced = true;
                false
            }
            Durability::InPack(place) => unsynced || self.synced_pack != Some(place.pack),
        })
    }

    /// Notes that `batch` was committed.
    fn committed(&mut self, batch: &[Box<dyn Work>], outcomes: &[Result<(), StoreError>]) {
        if self.syncs == Some(true) {
            self.unsynced = false;
            let through = through(batch, outcomes).map(|place| place.pack);
            self.synced_pack = through.or(self.synced_pack);
        } else {
            self.unsynced |= batch.iter().any(|w| w.change().durability == Durability::Relaxed);
        }
    }

    fn has_long_log(&self) -> bool {
        self.log_pages.load(Ordering::Relaxed) >= LOG_PAGES
            && !self.poisoned.load(Ordering::Relaxed)
    }

    /// Folds the log into the database, as far as no reader is in the way.
    fn fold(&self) {
        let folded = self.raw().query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
        match folded.as_ref().err().and_then(rusqlite::Error::sqlite_error_code) {
            None if folded.is_ok() => {}
            Some(
                rusqlite::ErrorCode::DiskFull
                | rusqlite::ErrorCode::DatabaseBusy
                | rusqlite::ErrorCode::DatabaseLocked,
            ) => tracing::debug!(?folded, "catalog.checkpoint.later"),
            _ => {
                tracing::error!(
                    ?folded,
                    "catalog.poisoned: a checkpoint failed; restart the server"
                );
                self.poisoned.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Runs a statement that is compiled once.
    fn run_cached(&self, sql: &str) -> rusqlite::Result<()> {
        self.raw().prepare_cached(sql)?.execute(()).map(drop)
    }

    /// Begins a transaction and makes all changes in it; an outer error ends the whole batch.
    fn run_all(
        &mut self,
        batch: &mut [Box<dyn Work>],
    ) -> rusqlite::Result<Vec<Result<(), StoreError>>> {
        self.begin(batch)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for work in batch.iter_mut() {
            let outcome = self.run_one(work.as_mut())?;
            let failed = outcome.is_err();
            outcomes.push(outcome);
            if failed {
                // Again, so that this one leaves no trace.
                self.raw().execute_batch("ROLLBACK")?;
                self.begin(batch)?;
                return batch.iter_mut().map(|work| self.run_apart(work.as_mut())).collect();
            }
        }
        Ok(outcomes)
    }

    /// The outcome of one change.
    fn run_one(&self, work: &mut dyn Work) -> rusqlite::Result<Result<(), StoreError>> {
        let ran = catch_unwind(AssertUnwindSafe(|| work.run(&self.connection)));
        let outcome = ran.unwrap_or_else(|_panic| {
            tracing::error!(operation = work.change().operation, "catalog.panic");
            Err(StoreError::Closed)
        });
        match outcome {
            // SQLite may already have given up the transaction (full disk, I/O): then all is lost.
            Err(StoreError::Full { .. }) => Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
                None,
            )),
            outcome => Ok(outcome),
        }
    }

    /// The outcome of one change that, if it fails, leaves no trace.
    fn run_apart(&self, work: &mut dyn Work) -> rusqlite::Result<Result<(), StoreError>> {
        self.run_cached("SAVEPOINT one")?;
        let outcome = self.run_one(work)?;
        match outcome {
            Ok(()) => self.run_cached("RELEASE one")?,
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::super::synced;
    use super::*;

    fn opened() -> (tempfile::TempDir, Sqlite) {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        let reserve = Arc::new(Reserve::of(&dir));
        (home, Sqlite::open(&dir, reserve).unwrap())
    }

    /// Queues a change that adds a row and then ends as `end` says; gives what is told of it.
    fn add(
        sqlite: &Sqlite,
        number: i64,
        end: fn() -> sql::Result<()>,
    ) -> mpsc::Receiver<Result<(), StoreError>> {
        let (tell, told) = mpsc::channel();
        let run = move |c: &Connection| {
            c.prepare_cached(
                "INSERT INTO prices (call, purpose, unit, amount) VALUES (?1, '', 'call', 1)",
            )?
            .execute([format!("test-{number}").as_str()])?;
            end()
        };
        sqlite.queue(synced("adding a row"), run, move |outcome| tell.send(outcome).unwrap());
        told
    }

    fn rows(sqlite: &Sqlite) -> Vec<String> {
        let reader = connect_to_read(&sqlite.path).unwrap();
        let mut statement = reader
            .prepare("SELECT call FROM prices WHERE call LIKE 'test-%' ORDER BY call")
            .unwrap();
        let rows = statement.query_map((), |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn one_that_fails_leaves_no_trace_and_the_others_are_committed() {
        let (_home, sqlite) = opened();
        let fails: fn() -> sql::Result<()> = || Err(sql::Error::NoRows);
        let panics: fn() -> sql::Result<()> = || panic!("on purpose");
        let told: Vec<_> = [|| Ok(()), fails, || Ok(()), panics, || Ok(())]
            .into_iter()
            .enumerate()
            .map(|(number, end)| add(&sqlite, number as i64, end))
            .collect();
        sqlite.commit_queued(true);
        let outcomes: Vec<_> = told.iter().map(|told| told.recv().unwrap().is_ok()).collect();
        assert_eq!(outcomes, [true, false, true, false, true]);
        assert_eq!(rows(&sqlite), ["test-0", "test-2", "test-4"]);
    }

    #[test]
    fn what_is_queued_waits_until_somebody_commits() {
        let (_home, sqlite) = opened();
        let first = add(&sqlite, 1, || Ok(()));
        assert!(first.try_recv().is_err() && rows(&sqlite).is_empty());
        sqlite.commit_queued(false);
        first.recv().unwrap().unwrap();
        let second = add(&sqlite, 2, || Ok(()));
        // The writer is somebody else's, who looks at what waits once more.
        let writer = sqlite.queue.writer.lock().unwrap();
        sqlite.commit_queued(true);
        assert!(second.try_recv().is_err());
        drop(writer);
        sqlite.commit_queued(true);
        second.recv().unwrap().unwrap();
    }

    fn in_pack(pack: u32, block: u32) -> Change {
        let place = BlobPlace { pack, block };
        Change { durability: Durability::InPack(place), ..synced("adding a row") }
    }

    /// Commits changes that are as durable as asked; says whether that was synced.
    fn commits(sqlite: &Sqlite, changes: &[Change]) -> bool {
        for change in changes {
            sqlite.queue(*change, |_| Ok(()), |outcome| outcome.unwrap());
        }
        sqlite.commit_queued(true);
        sqlite.queue.writer.lock().unwrap().syncs.unwrap()
    }

    #[test]
    fn what_follows_from_a_pack_is_synced_if_nothing_else_would_show_what_was_before() {
        let (_home, sqlite) = opened();
        let relaxed = crate::catalog::relaxed("adding a row");
        // What was before is not known.
        assert!(commits(&sqlite, &[in_pack(1, 0)]));
        assert!(!commits(&sqlite, &[in_pack(1, 1), in_pack(1, 2)]));
        // Relaxed changes before it, be it in the same commit.
        assert!(!commits(&sqlite, &[in_pack(1, 3), relaxed]));
        assert!(commits(&sqlite, &[in_pack(1, 4)]));
        assert!(commits(&sqlite, &[relaxed, in_pack(1, 5)]));
        assert!(!commits(&sqlite, &[in_pack(1, 6)]));
        // What is asked to be synced.
        assert!(!commits(&sqlite, &[relaxed]));
        assert!(commits(&sqlite, &[synced("adding a row")]));
        assert!(!commits(&sqlite, &[in_pack(1, 7)]));
        // The first of a pack.
        assert!(commits(&sqlite, &[in_pack(1, 8), in_pack(2, 0)]));
        assert!(!commits(&sqlite, &[in_pack(2, 1)]));
        // After a commit that failed.
        sqlite.queue.writer.lock().unwrap().raw().execute_batch("PRAGMA query_only=1").unwrap();
        sqlite.queue(in_pack(2, 2), |_| Ok(()), |outcome| drop(outcome.unwrap_err()));
        sqlite.commit_queued(true);
        assert!(sqlite.queue.writer.lock().unwrap().unsynced);
    }

    #[test]
    fn the_log_is_folded_away_when_it_is_long() {
        let (home, sqlite) = opened();
        let fill = |c: &Connection| {
            c.execute(
                "INSERT INTO meta (name, value) VALUES (hex(randomblob(9)), zeroblob(1000000))",
                (),
            )
            .map(drop)
        };
        let database = home.path().join("catalog.db");
        let before = std::fs::metadata(&database).unwrap().len();
        for _ in 0..LOG_PAGES / 200 {
            sqlite.queue(synced("filling"), fill, |outcome| outcome.unwrap());
            sqlite.commit_queued(true);
        }
        let folded = || std::fs::metadata(&database).unwrap().len() > before + 1_000_000;
        for _ in 0..1000 {
            if folded() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it is not");
    }
}
