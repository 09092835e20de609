//! What runs the catalog's closures: SQLite in this process, or a pool of connections to PostgreSQL.
//!
//! On both a change is a closure on a connection that runs on a thread of its own to its end, whatever
//! becomes of the caller: no transaction is ever half awaited. It may run twice, so it keeps nothing
//! from one run to the next.
//!
//! # Why it is right with many writers
//!
//! SQLite has one writer, so a change sees nothing happen beside it. On PostgreSQL transactions are READ
//! COMMITTED and run beside each other, on this replica and on others. Each change therefore takes one
//! [`Lock`] first, on what it reads and then changes by what it read; the changes that take none are one
//! statement, or statements that say themselves what they rely on (a WHERE, an ON CONFLICT). The reasons
//! stand at each change. Order, so that no two can wait for each other: operators, then one account, then
//! its rows. What is left of deadlocks is run again.

mod postgres;
mod sqlite;
mod tls;

use std::path::Path;
use std::sync::Arc;

use filegate_types::{AccountId, BlobPlace};

pub(super) use postgres::{Postgres, facts};
pub use postgres::{PostgresFacts, PostgresOptions};
pub(super) use sqlite::Sqlite;
pub(super) use tls::Tls;

use super::sql::{Connection, Result};
use crate::error::StoreError;

/// What a change needs of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// On disk before the caller goes on.
    Synced,
    /// Kept by the page cache, so it survives a kill of the process but not a power cut; on disk
    /// with the next synced change. On PostgreSQL: lost with a crash of the database in the next
    /// fraction of a second.
    Relaxed,
    /// As relaxed, but durable already: it follows from the record at this place of a pack, and is made again from it
    /// if a power cut takes it. Only on SQLite.
    InPack(BlobPlace),
}

/// What a change keeps others from changing until it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// Money, counts, files and first answers of the account: see [`Connection::lock_account`].
    Account(AccountId),
    /// What operators change.
    Operators,
}

/// A change, and what it may do on a full disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) operation: &'static str,
    pub(super) durability: Durability,
    /// Whether it frees space, and so may use the reserve.
    pub(super) frees_space: bool,
    /// What no other transaction may change at the same time.
    pub(super) lock: Option<Lock>,
}

impl Change {
    /// The same, of one account.
    pub(super) fn of(self, account: AccountId) -> Self {
        Self { lock: Some(Lock::Account(account)), ..self }
    }

    /// The same, by operators.
    pub(super) fn by_operators(self) -> Self {
        Self { lock: Some(Lock::Operators), ..self }
    }
}

/// The database of a catalog.
#[derive(Debug)]
pub(super) enum Engine {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

impl Engine {
    /// Runs `run` in a transaction; returns when it is as durable as asked.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: Change,
        run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        match self {
            Self::Sqlite(engine) => engine.write(change, run).await,
            Self::Postgres(engine) => engine.write(change, run).await,
        }
    }

    /// As [`write`](Self::write), from a thread that may block. With SQLite it waits for others, until
    /// [`commit_queued`](Self::commit_queued), and `then` is told by who commits them all, while others wait.
    pub(super) fn queue<T: Send + 'static>(
        &self,
        change: Change,
        run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
        then: impl FnOnce(std::result::Result<T, StoreError>) + Send + 'static,
    ) {
        match self {
            Self::Sqlite(engine) => engine.queue(change, run, then),
            Self::Postgres(engine) => {
                then(tokio::runtime::Handle::current().block_on(engine.write(change, run)));
            }
        }
    }

    /// Has what was queued committed, on this thread if it is `here`, which then may block, and nobody else is at it.
    pub(super) fn commit_queued(&self, here: bool) {
        match self {
            Self::Sqlite(engine) => engine.commit_queued(here),
            Self::Postgres(_) => {}
        }
    }

    /// Runs `run`, which changes nothing.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        match self {
            Self::Sqlite(engine) => engine.read(operation, run).await,
            Self::Postgres(engine) => engine.read(operation, run).await,
        }
    }

    /// As [`Self::read`], of a few rows that are found by their keys: with SQLite on this thread, if that is quick.
    pub(super) async fn read_few<T: Send + 'static>(
        &self,
        operation: &'static str,
        mut run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        if let Self::Sqlite(engine) = self
            && let Some(result) = engine.read_here(operation, &mut run)
        {
            return result;
        }
        self.read(operation, run).await
    }

    /// As [`Self::read`], of whole tables: a statement may take minutes.
    pub(super) async fn read_slowly<T: Send + 'static>(
        &self,
        operation: &'static str,
        run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        match self {
            Self::Sqlite(engine) => engine.read(operation, run).await,
            Self::Postgres(engine) => engine.read_slowly(operation, run).await,
        }
    }

    /// The database file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(engine) => Some(engine.path()),
            Self::Postgres(_) => None,
        }
    }

    /// See [`Sqlite::version`]; `None` on PostgreSQL, which would have to be asked over the network.
    pub(super) fn version(&self) -> Option<i64> {
        match self {
            Self::Sqlite(engine) => engine.version(),
            Self::Postgres(_) => None,
        }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        match self {
            Self::Sqlite(engine) => engine.is_poisoned(),
            Self::Postgres(_) => false,
        }
    }
}
