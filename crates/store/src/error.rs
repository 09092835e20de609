//! What can go wrong in the store, by what the caller can do about it.

use std::io;

pub use crate::catalog::sql::Error as SqlError;
use crate::catalog::sql::Remedy;

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, its inodes or its quota are used up; works again when space is freed.
    #[error("no space left while {operation}")]
    Full {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file operation failed.
    #[error("i/o error while {operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A database operation failed.
    #[error("catalog error while {operation}")]
    Catalog {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        #[source]
        source: SqlError,
    },
    /// The connection broke while a change was being committed: whether it was made is not known, and
    /// the rows will say. What hangs on it must stay until then.
    #[error("the outcome is not known of {operation}")]
    Uncertain {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        #[source]
        source: SqlError,
    },
    /// What holds the rows or the bytes did not answer, or not in time, or not as it should; works again
    /// by itself when it does. No row was changed.
    #[error("store unavailable while {operation}")]
    Unavailable {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An fsync of the catalog failed earlier; what is on disk is known only after a restart.
    #[error("the catalog stopped after a failed write; restart the server")]
    Poisoned,
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// The upload's lease had lapsed and its bytes were given to the reaper.
    #[error("the upload's lease has lapsed")]
    LeaseLost,
    /// The bytes of a blob are not what was stored.
    #[error("blob {0} is damaged or missing")]
    Damaged(String),
    /// The data directory is in use by another process.
    #[error("the data directory {0} is in use by another filegate process")]
    InUse(String),
    /// Something about the data directory that only an operator can change.
    #[error("{0}")]
    Unusable(String),
}

impl StoreError {
    /// An I/O failure, told apart by whether space is what is missing.
    pub fn io(operation: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { operation, source: source.into() }
            }
            _ => Self::Io { operation, source },
        }
    }

    /// A database failure, told apart by what helps: space, or time.
    pub fn catalog(operation: &'static str, source: impl Into<SqlError>) -> Self {
        let source = source.into();
        match source.remedy() {
            Remedy::Space => Self::Full { operation, source: source.into() },
            Remedy::Time => Self::Unavailable { operation, source: source.into() },
            Remedy::None => Self::Catalog { operation, source },
        }
    }

    /// A COMMIT that was not answered.
    pub(crate) fn uncertain(operation: &'static str, source: SqlError) -> Self {
        Self::Uncertain { operation, source }
    }

    /// A failure to use a database at all: what only an operator can mend is said in words.
    pub(crate) fn connecting(operation: &'static str, source: SqlError) -> Self {
        match source.for_operators() {
            Some(why) => Self::Unusable(format!("the database refuses: {why}")),
            None => Self::catalog(operation, source),
        }
    }

    /// The store does not answer as it should.
    pub fn unavailable(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { operation, source: source.into() }
    }

    /// Whether freeing space is the remedy.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}
