//! The one connection that writes.
//!
//! # When a commit fails
//!
//! *No space*: the batch is rolled back. Changes that free space (deletes, jobs) are run again, first with the log folded
//! away and then after each step of the reserve file that is given up; the others fail with [`StoreError::Full`].
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
//! The writer's own thread does it when the log is long and all callers have been told, or when the disk is full. A sync that
//! fails then is no less a failure than that of a commit: what was not synced yet may be lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use filegate_types::BlobPlace;
use rusqlite::hooks::Wal;

use super::super::{Change, Durability};
use crate::catalog::packed;
use crate::catalog::sql::{self, Connection};
use crate::datadir::Reserve;
use crate::error::StoreError;

/// So many pages of the log are folded into the database.
pub(super) const LOG_PAGES: i32 = 1000;

pub(super) trait Work: Send {
    fn change(&self) -> &Change;
    /// Runs inside the batch's transaction; may run twice.
    fn run(&mut self, connection: &Connection) -> Result<(), StoreError>;
    /// Tells the caller.
    fn done(self: Box<Self>, outcome: Result<(), StoreError>);
}

pub(super) struct Task<T, F, R> {
    pub(super) change: Change,
    pub(super) run: F,
    pub(super) value: Option<T>,
    pub(super) then: R,
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

pub(super) struct Writer {
    connection: Connection,
    reserve: Arc<Reserve>,
    poisoned: Arc<AtomicBool>,
    /// Whether commits are synced as it was last set.
    pub(super) syncs: Option<bool>,
    /// Whether there may be, not synced, what does not follow from records of packs, or what was refused and does.
    pub(super) unsynced: bool,
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
    pub(super) fn new(
        mut connection: rusqlite::Connection,
        reserve: Arc<Reserve>,
        poisoned: Arc<AtomicBool>,
    ) -> rusqlite::Result<Self> {
        let log_pages = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&log_pages);
        let hook = move |_: &mut Wal, pages| {
            seen.store(pages, Ordering::Relaxed);
            Ok(())
        };
        // In the place of SQLite's own, which folds the log away before callers are told and keeps failures to itself.
        connection.wal_hook(Some(hook))?;
        Ok(Self {
            connection: Connection::Sqlite(connection),
            reserve,
            poisoned,
            syncs: None,
            // What was before this process is not known.
            unsynced: true,
            synced_pack: None,
            log_pages,
        })
    }

    pub(super) fn raw(&self) -> &rusqlite::Connection {
        let Connection::Sqlite(connection) = &self.connection else {
            unreachable!("the writer was given one of SQLite")
        };
        connection
    }

    /// Folds the log into the database so that the next start finds it small.
    pub(super) fn close(&self) {
        if !self.poisoned.load(Ordering::Relaxed)
            && let Err(error) = self.raw().pragma_update(None, "wal_checkpoint", "TRUNCATE")
        {
            tracing::debug!(%error, "catalog.checkpoint.failed");
        }
    }

    pub(super) fn commit(&mut self, batch: Vec<Box<dyn Work>>) {
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
            // A log that is folded away is written from its beginning, and needs no space for that.
            self.fold();
            match self.attempt(frees) {
                Ok(()) => return,
                Err(back) => frees = back,
            }
            if !self.reserve.release() {
                return tell_full(frees);
            }
            tracing::warn!("catalog.full: using the reserve for changes that free space");
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

    pub(super) fn has_long_log(&self) -> bool {
        self.log_pages.load(Ordering::Relaxed) >= LOG_PAGES
            && !self.poisoned.load(Ordering::Relaxed)
    }

    /// Folds the log into the database, as far as no reader is in the way.
    pub(super) fn fold(&self) {
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
