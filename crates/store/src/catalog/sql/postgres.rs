//! One connection to PostgreSQL, driven by the thread that uses it.
//!
//! Each has a runtime of its own that runs only while a statement is waited for, and nothing is ever
//! waited for without an end: a database that stalls, or a proxy that takes connections and never
//! answers, costs one timeout and the connection.
//!
//! Statements that are queued are sent with the next that is waited for, in one piece: the server
//! answers them in order, and one round trip is paid for all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Row, Statement};

use super::{Error, Remedy, Result, Value, ValueRef};
use crate::catalog::engine::Tls;

/// Statements that a connection keeps prepared; the catalog has fewer.
const PREPARED_MAX: usize = 512;
/// A transaction may take so many times as long as a statement.
const TRANSACTION_MAX: u32 = 2;
/// What the server gets on top of its own timeout before its connection is given up.
const GRACE: Duration = Duration::from_millis(500);

/// How a connection is made and how long anything may take.
#[derive(Clone)]
pub(in crate::catalog) struct Settings {
    pub(in crate::catalog) config: Config,
    pub(in crate::catalog) tls: Tls,
    pub(crate) connect_timeout: Duration,
    pub(crate) statement_timeout: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the configuration: it has the password.
        f.debug_struct("Settings").field("hosts", &self.config.get_hosts()).finish_non_exhaustive()
    }
}

/// What waits to be sent.
enum Queued {
    Batch(String),
    Prepared(Statement, Vec<Value>),
}

/// An open connection.
pub(crate) struct Session {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    client: Client,
    prepared: RefCell<HashMap<String, Statement>>,
    queued: RefCell<Vec<Queued>>,
    statement_timeout: Duration,
    /// The client's patience with the statement that is waited for.
    patience: Cell<Duration>,
    /// When the transaction has to be ready for its COMMIT.
    deadline: Cell<Option<Instant>>,
    /// Whether it cannot be used any more.
    broken: Cell<bool>,
    /// Whether a statement of the transaction has failed.
    failed: Cell<bool>,
    round_trips: Cell<u64>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("broken", &self.broken).finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Runtimes refuse to be dropped where waiting is not allowed; this one has nothing to wait for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Answer = std::result::Result<(Vec<Row>, usize), tokio_postgres::Error>;
type Asked<'a> = Pin<Box<dyn Future<Output = Answer> + 'a>>;

impl Session {
    /// Connects, in at most `connect_timeout`.
    pub(in crate::catalog) fn open(settings: &Settings) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Other(format!("starting a runtime for a connection: {e}")))?;
        let limit = settings.connect_timeout;
        let statement_ms = settings.statement_timeout.as_millis().max(1);
        let connecting = async {
            let (client, connection) = settings.tls.connect(&settings.config).await?;
            // Ends with the runtime, that is with the session.
            let _until_then = runtime.spawn(connection);
            client
                .batch_execute(&format!(
                    "SET statement_timeout = {statement_ms}; SET lock_timeout = {statement_ms};
                     SET idle_in_transaction_session_timeout = {};
                     SET client_min_messages = warning; SET bytea_output = 'hex'",
                    statement_ms * 2
                ))
                .await?;
            Ok::<_, tokio_postgres::Error>(client)
        };
        let connected = runtime.block_on(async { tokio::time::timeout(limit, connecting).await });
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                runtime.shutdown_background();
                return Err(error.into());
            }
            Err(_elapsed) => {
                runtime.shutdown_background();
                return Err(Error::TimedOut(limit));
            }
        };
        Ok(Self {
            runtime: Some(runtime),
            client,
            prepared: RefCell::default(),
            queued: RefCell::default(),
            statement_timeout: settings.statement_timeout,
            patience: Cell::new(settings.statement_timeout + GRACE),
            deadline: Cell::new(None),
            broken: Cell::new(false),
            failed: Cell::new(false),
            round_trips: Cell::new(0),
        })
    }

    /// Whether it can be used again.
    pub(crate) fn is_usable(&self) -> bool {
        !self.broken.get() && !self.client.is_closed()
    }

    /// How often it waited for the server.
    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips.get()
    }

    /// Lets the statements that follow take as long as `limit`, until [`Self::hurry`].
    pub(crate) fn take_time(&self, limit: Duration) -> Result<()> {
        self.batch(&format!("SET statement_timeout = {}", limit.as_millis()))?;
        self.patience.set(limit + GRACE);
        Ok(())
    }

    /// Undoes [`Self::take_time`].
    pub(crate) fn hurry(&self) -> Result<()> {
        self.patience.set(self.statement_timeout + GRACE);
        self.batch(&format!("SET statement_timeout = {}", self.statement_timeout.as_millis()))
    }

    /// Waits for `future`, but not for ever.
    fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        let mut limit = self.patience.get();
        if let Some(deadline) = self.deadline.get() {
            limit = limit.min(deadline.saturating_duration_since(Instant::now()));
        }
        let runtime = self.runtime.as_ref().expect("it is there until the session is dropped");
        self.round_trips.set(self.round_trips.get() + 1);
        let done = runtime.block_on(async { tokio::time::timeout(limit, future).await });
        done.map_err(|_elapsed| {
            self.broken.set(true);
            Error::TimedOut(limit)
        })
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<Statement> {
        if let Some(known) = self.prepared.borrow().get(sql) {
            return Ok(known.clone());
        }
        let statement =
            self.wait(self.client.prepare(&numbered(sql)))?.map_err(|e| self.note(e))?;
        let mut prepared = self.prepared.borrow_mut();
        if prepared.len() >= PREPARED_MAX {
            prepared.clear();
        }
        prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub(super) fn queue_batch(&self, sql: String) {
        self.queued.borrow_mut().push(Queued::Batch(sql));
    }

    pub(super) fn queue(&self, statement: &Statement, values: &[ValueRef<'_>]) {
        let values = values.iter().map(|value| value.owned()).collect();
        self.queued.borrow_mut().push(Queued::Prepared(statement.clone(), values));
    }

    /// Sends what is queued and `statement`; gives the answer to the latter.
    pub(super) fn run(
        &self,
        statement: &Statement,
        values: &[ValueRef<'_>],
    ) -> Result<(Vec<Row>, usize)> {
        let queued = self.queued.take();
        let last = self.ask(statement, values);
        self.send(&queued, last).map_err(|e| self.failing(e))
    }

    pub(super) fn batch(&self, sql: &str) -> Result<()> {
        let queued = self.queued.take();
        let last = self.ask_batch(sql);
        self.send(&queued, last).map(drop).map_err(|e| self.failing(e))
    }

    fn failing(&self, error: Error) -> Error {
        self.failed.set(true);
        error
    }

    fn ask<'a>(&'a self, statement: &'a Statement, values: &[ValueRef<'a>]) -> Asked<'a> {
        let values = values.to_vec();
        Box::pin(async move {
            let mut stream = std::pin::pin!(self.client.query_raw(statement, values).await?);
            let mut rows = Vec::new();
            while let Some(row) = stream.try_next().await? {
                rows.push(row);
            }
            let changed = stream.rows_affected().unwrap_or(0);
            Ok((rows, usize::try_from(changed).unwrap_or(usize::MAX)))
        })
    }

    fn ask_batch<'a>(&'a self, sql: &'a str) -> Asked<'a> {
        Box::pin(async move { self.client.batch_execute(sql).await.map(|()| (Vec::new(), 0)) })
    }

    /// The answer to the last, or the first error.
    fn send<'a>(&'a self, queued: &'a [Queued], last: Asked<'a>) -> Result<(Vec<Row>, usize)> {
        let mut asked: Vec<Asked<'a>> = queued
            .iter()
            .map(|one| match one {
                Queued::Batch(sql) => self.ask_batch(sql),
                Queued::Prepared(statement, values) => {
                    let values: Vec<_> = values.iter().map(Value::as_ref).collect();
                    self.ask(statement, &values)
                }
            })
            .collect();
        asked.push(last);
        let mut answers: Vec<Option<Answer>> = asked.iter().map(|_| None).collect();
        let all = poll_fn(|context| {
            // In this order: what is polled first is sent first.
            for (one, answer) in asked.iter_mut().zip(&mut answers) {
                if answer.is_none()
                    && let Poll::Ready(ready) = one.as_mut().poll(context)
                {
                    *answer = Some(ready);
                }
            }
            if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        });
        self.wait(all)?;
        let answers: std::result::Result<Vec<_>, _> = answers.into_iter().flatten().collect();
        let mut answers = answers.map_err(|e| self.note(e))?;
        answers.pop().ok_or(Error::NoRows)
    }

    /// An error, after which the connection may be of no use.
    fn note(&self, error: tokio_postgres::Error) -> Error {
        if is_lost(&error) || error.as_db_error().is_none() {
            self.broken.set(true);
        }
        if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) {
            // A migration changed what a prepared statement gives: prepared anew, it is right.
            self.broken.set(true);
        }
        error.into()
    }

    /// Begins a transaction: nothing is sent before its first statement.
    pub(crate) fn begin(&self, relaxed: bool) {
        self.failed.set(false);
        // A database that answers each statement just in time is as good as one that does not.
        self.deadline.set(Some(Instant::now() + self.statement_timeout * TRANSACTION_MAX));
        self.queued.borrow_mut().clear();
        self.queue_batch(if relaxed {
            "BEGIN; SET LOCAL synchronous_commit = off".to_owned()
        } else {
            "BEGIN".to_owned()
        });
    }

    /// Adds to what is sent with the first statement.
    pub(crate) fn begin_with(&self, sql: &str) {
        if let Some(Queued::Batch(batch)) = self.queued.borrow_mut().first_mut() {
            let _never_fails = write!(batch, "; {sql}");
        }
    }

    /// Whether the transaction has not been heard of by the server.
    fn is_unsent(&self) -> bool {
        matches!(self.queued.borrow().first(), Some(Queued::Batch(sql)) if sql.starts_with("BEGIN"))
    }

    /// Commits; an error after which the outcome is unknown is told by [`is_uncertain_at_commit`].
    pub(crate) fn commit(&self) -> Result<()> {
        // However late it is: better to wait than not to know.
        self.deadline.set(None);
        if self.failed.get() {
            // PostgreSQL would answer COMMIT with a rollback, and no error.
            return Err(Error::Other("a statement of the transaction has failed".to_owned()));
        }
        if self.is_unsent() && self.queued.borrow().len() == 1 {
            self.queued.borrow_mut().clear();
            return Ok(());
        }
        self.batch("COMMIT")
    }

    /// Gives the transaction up.
    pub(crate) fn rollback(&self) {
        self.deadline.set(None);
        let unsent = self.is_unsent();
        self.queued.borrow_mut().clear();
        if unsent || self.broken.get() {
            return;
        }
        if self.batch("ROLLBACK").is_err() {
            self.broken.set(true);
        }
    }
}

/// Whether the connection is gone, or is going: what was not committed was not done.
pub(crate) fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        None => error.is_closed() || is_io(error),
        Some(db) => [
            &SqlState::ADMIN_SHUTDOWN,
            &SqlState::CRASH_SHUTDOWN,
            &SqlState::CANNOT_CONNECT_NOW,
            &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            &SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(&db.code()),
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

/// Whether after this error of a COMMIT nobody knows if it was made: the server has not said.
pub(crate) fn is_uncertain_at_commit(error: &Error) -> bool {
    match error {
        Error::TimedOut(_) => true,
        Error::Postgres(error) => match error.as_db_error() {
            None => true,
            Some(db) => [&SqlState::ADMIN_SHUTDOWN, &SqlState::CRASH_SHUTDOWN].contains(&db.code()),
        },
        _ => false,
    }
}

/// What helps against the error: most of those that are not about a statement's text pass by themselves.
pub(super) fn remedy(error: &tokio_postgres::Error) -> Remedy {
    let Some(db) = error.as_db_error() else {
        return if is_lost(error) || is_about_connecting(error) {
            Remedy::Time
        } else {
            Remedy::None
        };
    };
    match db.code().code() {
        "53100" => Remedy::Space,
        // Conflicts, resources, operators who intervene, standbys, timeouts, refused connections.
        code if ["40", "53", "57", "08", "28", "3D"].contains(&&code[..2]) => Remedy::Time,
        "25006" | "55P03" => Remedy::Time,
        _ => Remedy::None,
    }
}

/// Whether the server refuses what it is asked for as long as nobody changes its settings or ours.
pub(super) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map_or("", SqlState::code);
    ["28", "3D", "42"].iter().any(|class| code.starts_with(class)) || code == "25006"
}

/// Neither an answer nor a value of ours: TLS, authentication and the like.
fn is_about_connecting(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    ["connect", "TLS", "authentication", "timeout"].iter().any(|word| text.contains(word))
}

/// The error and its cause in one line: the former alone is only "db error".
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// `?` and `?3` as PostgreSQL writes them. Not within quotes.
fn numbered(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 16);
    let mut chars = sql.chars().peekable();
    let (mut quoted, mut next) = (false, 1);
    while let Some(c) = chars.next() {
        quoted ^= c == '\'';
        if c != '?' || quoted {
            out.push(c);
            continue;
        }
        out.push('$');
        if chars.peek().is_some_and(char::is_ascii_digit) {
            continue;
        }
        let _never_fails = write!(out, "{next}");
        next += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_outside_of_quotes() {
        assert_eq!(numbered("a = ? AND b = '?' AND c = ?"), "a = $1 AND b = '?' AND c = $2");
        assert_eq!(numbered("?2, ?1, ?15"), "$2, $1, $15");
        assert_eq!(numbered("x = 'it''s ?' AND y = ?1"), "x = 'it''s ?' AND y = $1");
    }
}
