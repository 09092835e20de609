//! SQLite under the catalog: one writer that commits in groups, a pool of readers.
//!
//! Every change is a closure that waits in a queue for whoever has the writer, which is its own thread or one that may
//! block and would else only wait for that; so a transaction can neither be cancelled with the request that asked for it
//! nor wait for the network. Whatever is queued when the next commit begins shares it, and so one fsync. A closure that
//! fails leaves no trace and does not disturb the others: the whole is rolled back and done again, each in a savepoint.
//! (At first there are none, since hardly any fails and each costs copies of the pages that it changes.)
//!
//! # Whether anything was changed
//!
//! SQLite's `data_version` tells a connection whether *another* connection has committed since it last asked, be it
//! of this process or of one beside it. The connection that asks here does nothing else, so to it all are others. The
//! answer stands in memory that all processes share, so it is asked for in place, without a thread that may block.
//!
//! # Reads in place
//!
//! To go to a thread that may block and back costs several times what it takes to find a row by its key in memory. So
//! calls that look for a few rows do it where they are. Whether a row is in memory nobody can say beforehand; but a read
//! that took long was one for which it was not, or had to wait for something else. A number of those that come after it go
//! to threads that may block. So if the catalog is larger than memory, one read of many keeps a worker from its other tasks.

mod writer;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use tokio::sync::{Semaphore, oneshot};

use self::writer::{Task, Work, Writer};
use super::Change;
use crate::catalog::sql::{self, Connection};
use crate::datadir::{DataDir, Reserve};
use crate::error::StoreError;

/// Changes that wait for the writer, at most; more make their callers wait.
const QUEUE_MAX: usize = 4096;
/// Changes in one commit, at most.
const BATCH_MAX: usize = 256;
/// Connections for reading. Fewer at first would have callers wait for one another's.
const READERS: usize = 4;
/// A read that takes longer has waited for something.
const QUICK: Duration = Duration::from_millis(1);
/// So many reads go to another thread after one that has.
const AFTER_SLOW: u32 = 64;
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

/// Handles to the writer and the readers.
#[derive(Debug)]
pub(in crate::catalog) struct Sqlite {
    path: PathBuf,
    queue: Arc<Queue>,
    /// Places in the queue for those that can wait for one.
    places: Semaphore,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    /// How many of the next reads are not to be made in place.
    elsewhere: AtomicU32,
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
            readers.push(Connection::Sqlite(connect_to_read(&path)?));
        }
        let watcher = connect_to_read(&path)?;
        // Who cannot be told at once reads.
        let waits = watcher.busy_timeout(Duration::ZERO);
        waits.map_err(|e| StoreError::catalog("opening the catalog", e))?;
        let poisoned = Arc::new(AtomicBool::new(false));
        let writer = Writer::new(writer, reserve, Arc::clone(&poisoned));
        let writer = writer.map_err(|e| StoreError::catalog("opening the catalog", e))?;
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
            elsewhere: AtomicU32::new(0),
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

    /// As [`read`](Self::read), on this thread, if a reader is free and reads were quick lately: of few rows, found by
    /// their keys.
    pub(super) fn read_here<T>(
        &self,
        operation: &'static str,
        run: &mut impl FnMut(&Connection) -> sql::Result<T>,
    ) -> Option<Result<T, StoreError>> {
        let less = |elsewhere: u32| elsewhere.checked_sub(1);
        if self.elsewhere.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return None;
        }
        let _turn = self.reading.try_acquire().ok()?;
        let reader = self.pool().pop()?;
        let began = Instant::now();
        let result = run(&reader).map_err(|e| StoreError::catalog(operation, e));
        if began.elapsed() > QUICK {
            self.elsewhere.store(AFTER_SLOW, Ordering::Relaxed);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use filegate_types::BlobPlace;

    use super::super::super::synced;
    use super::super::Durability;
    use super::writer::LOG_PAGES;
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
    fn reads_go_elsewhere_for_a_while_after_one_that_took_long() {
        let (_home, sqlite) = opened();
        let read = |nap| {
            let mut run = |c: &Connection| {
                thread::sleep(nap);
                c.prepare_cached("SELECT count(*) FROM prices")?.query_row((), |row| row.get(0))
            };
            let found: Option<Result<i64, _>> = sqlite.read_here("counting", &mut run);
            found.map(Result::unwrap)
        };
        assert_eq!(read(QUICK), Some(0));
        for _ in 0..AFTER_SLOW {
            assert_eq!(read(Duration::ZERO), None);
        }
        assert_eq!(read(Duration::ZERO), Some(0));
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
