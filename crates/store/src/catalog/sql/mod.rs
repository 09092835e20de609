//! One way to speak to both databases: a connection, statements, rows and values.
//!
//! The catalog's SQL is written once. `?1` and `?` are its parameters on both databases, and what both
//! understand is preferred to what one of them does better; where that cannot be, the code asks
//! [`Connection::dialect`]. Everything here blocks, and runs on threads that may.

mod postgres;
mod value;

use std::time::Duration;

pub(super) use postgres::{Session, Settings, is_uncertain_at_commit};
pub(crate) use value::{FromValue, Params, ToValue, Value, ValueRef};

/// What the functions of the catalog return.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A statement that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite said so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL said so, or the connection to it broke. Its text has its cause, which is no source beside it:
    /// a chain would say it twice.
    #[error("{}", postgres::words(.0))]
    Postgres(tokio_postgres::Error),
    /// PostgreSQL did not answer.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// A row that has to be there is not.
    #[error("a row that has to be there is not")]
    NoRows,
    /// A column is not what our own code writes.
    #[error("column {index} was changed from outside")]
    Column {
        /// Which of the SELECT.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that cannot be, in words.
    #[error("{0}")]
    Other(String),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

/// What helps against an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    Space,
    Time,
    None,
}

impl Error {
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => Remedy::Space,
                _ => Remedy::None,
            },
            Self::Postgres(error) => postgres::remedy(error),
            Self::TimedOut(_) => Remedy::Time,
            Self::NoRows | Self::Column { .. } | Self::Other(_) => Remedy::None,
        }
    }

    /// What an operator has to do something about, in words, if that is what it is.
    pub(crate) fn for_operators(&self) -> Option<String> {
        match self {
            Self::Postgres(error) if postgres::is_refusal(error) => Some(postgres::words(error)),
            _ => None,
        }
    }
}

/// Which database it is, where that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// An open database.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(Box<Session>),
}

impl Connection {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// A statement that is prepared once for each connection.
    pub(crate) fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(match self {
            Self::Sqlite(c) => Statement::Sqlite(c.prepare_cached(sql)?),
            Self::Postgres(session) => Statement::Postgres(session, session.prepare(sql)?),
        })
    }

    /// Statements without parameters, whatever they give.
    pub(crate) fn execute_batch(&self, sql: &str) -> Result<()> {
        match self {
            Self::Sqlite(c) => Ok(c.execute_batch(sql)?),
            Self::Postgres(session) => session.batch(sql),
        }
    }

    /// See [`Statement::execute`].
    pub(crate) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    /// See [`Statement::query_row`].
    pub(crate) fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.prepare_cached(sql)?.query_row(params, read)
    }

    /// Everything that `look` reads is as of one instant.
    pub(crate) fn snapshot<T>(&self, look: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.execute_batch(match self.dialect() {
            Dialect::Sqlite => "BEGIN",
            Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })?;
        let seen = look(self);
        let ended = self.execute_batch("ROLLBACK");
        seen.and_then(|value| ended.map(|()| value))
    }

    /// Waits until no other transaction changes what belongs to the account: its money, its counts, its
    /// files and first answers. SQLite has one writer, and this costs nothing.
    ///
    /// Always before any row of the account is changed, so that two transactions can never wait for
    /// each other; and of two accounts the lower first.
    pub(crate) fn lock_account(&self, account: i64) {
        if let Self::Postgres(session) = self {
            session.queue_batch(format!(
                "SELECT 1 FROM accounts WHERE account_id = {account} FOR NO KEY UPDATE"
            ));
        }
    }
}

/// A prepared statement.
pub(crate) enum Statement<'c> {
    Sqlite(rusqlite::CachedStatement<'c>),
    Postgres(&'c Session, tokio_postgres::Statement),
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "parameters are tuples that are made for the call"
)]
impl Statement<'_> {
    /// Runs it; says how many rows it changed.
    pub(crate) fn execute(&mut self, params: impl Params) -> Result<usize> {
        match self {
            Self::Sqlite(statement) => {
                bind(statement, &params.values())?;
                Ok(statement.raw_execute()?)
            }
            Self::Postgres(session, statement) => {
                session.run(statement, &params.values()).map(|(_, changed)| changed)
            }
        }
    }

    /// Runs it before anything that comes later in the transaction, at the latest with its commit: for
    /// changes of which nothing has to be known but that they were made. PostgreSQL gets it together
    /// with the next statement, so that it costs no round trip.
    pub(crate) fn queue(&mut self, params: impl Params) -> Result<()> {
        match self {
            Self::Sqlite(_) => self.execute(params).map(drop),
            Self::Postgres(session, statement) => {
                session.queue(statement, &params.values());
                Ok(())
            }
        }
    }

    /// The first row; [`Error::NoRows`] if there is none.
    pub(crate) fn query_row<T>(
        &mut self,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Sqlite(statement) => {
                bind(statement, &params.values())?;
                let mut rows = statement.raw_query();
                read(&Row::Sqlite(rows.next()?.ok_or(Error::NoRows)?))
            }
            Self::Postgres(session, statement) => {
                let (rows, _) = session.run(statement, &params.values())?;
                read(&Row::Postgres(rows.first().ok_or(Error::NoRows)?))
            }
        }
    }

    /// Every row.
    pub(crate) fn query_map<T>(
        &mut self,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<std::vec::IntoIter<Result<T>>> {
        let mut all = Vec::new();
        match self {
            Self::Sqlite(statement) => {
                bind(statement, &params.values())?;
                let mut rows = statement.raw_query();
                while let Some(row) = rows.next()? {
                    all.push(read(&Row::Sqlite(row)));
                }
            }
            Self::Postgres(session, statement) => {
                let (rows, _) = session.run(statement, &params.values())?;
                all.extend(rows.iter().map(|row| read(&Row::Postgres(row))));
            }
        }
        Ok(all.into_iter())
    }
}

fn bind(statement: &mut rusqlite::CachedStatement<'_>, values: &[ValueRef<'_>]) -> Result<()> {
    let wanted = statement.parameter_count();
    if wanted != values.len() {
        return Err(rusqlite::Error::InvalidParameterCount(values.len(), wanted).into());
    }
    for (index, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    Ok(())
}

/// A row of an answer.
pub(crate) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

impl Row<'_> {
    /// A column as it is.
    pub(crate) fn value(&self, index: usize) -> Result<ValueRef<'_>> {
        match self {
            Self::Sqlite(row) => ValueRef::of_sqlite(row.get_ref(index)?, index),
            Self::Postgres(row) => Ok(row.try_get(index)?),
        }
    }

    /// A column.
    pub(crate) fn get<T: FromValue>(&self, index: usize) -> Result<T> {
        let value = self.value(index)?;
        T::from_value(value).ok_or_else(|| {
            let source = format!("{} is not a {}", value.kind(), std::any::type_name::<T>()).into();
            Error::Column { index, source }
        })
    }
}

/// [`Error::NoRows`] as `None`.
pub(crate) trait OptionalExtension<T> {
    fn optional(self) -> Result<Option<T>>;
}

impl<T> OptionalExtension<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(Error::NoRows) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
