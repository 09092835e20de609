//! PostgreSQL under the catalog: a pool of connections, each used by one thread at a time.
//!
//! # What a failure means
//!
//! *Before COMMIT was sent*: nothing was changed. If the connection turned out to be dead (the database
//! was restarted since it was last used), the change runs once more on a fresh one; a deadlock or a
//! conflict runs again a few times; else [`StoreError::Unavailable`] tells.
//! *Once COMMIT was sent*: if the server does not say what became of it, nobody knows:
//! [`StoreError::Uncertain`]. What hangs on it (a blob that has landed) must stay until the rows say.
//!
//! Nothing is poisoned: the next call connects anew.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use filegate_types::UnixMillis;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::error::SqlState;

use super::{Change, Durability, Lock, Tls};
use crate::catalog::sql::{Connection, Error, Result, Session, Settings, is_uncertain_at_commit};
use crate::error::StoreError;

/// How often a change that lost against another is run again.
const AGAIN_MAX: u32 = 6;
/// For statements over whole tables.
const SLOW: Duration = Duration::from_mins(30);
/// For all migrations together, the wait for another replica that makes them included.
const MIGRATING: Duration = Duration::from_mins(10);
/// The oldest PostgreSQL that is known to work.
const OLDEST: i64 = 140_000;

/// Advisory locks are one number for the whole database; these begin with "fgat".
const LOCK_OPERATORS: i64 = 0x6667_6174_0000_0001;
const LOCK_MIGRATION: i64 = 0x6667_6174_0000_0002;

/// A step of the schema.
struct Migration {
    sql: &'static str,
    /// The oldest schema version whose binaries can still work with the database after this step: what
    /// they read and write is still there. A step that only adds (expand) keeps the number; one that
    /// takes away what nobody uses any more (contract) raises it.
    oldest_reader: i64,
}

const MIGRATIONS: [Migration; 2] = [
    Migration {
        sql: include_str!("../../../../../migrations/postgres/0001_catalog.sql"),
        oldest_reader: 1,
    },
    Migration {
        sql: include_str!("../../../../../migrations/postgres/0002_relay.sql"),
        // What is not known there is not touched there: replicas of both versions run side by side.
        oldest_reader: 1,
    },
];

/// Where the database is, and how long it may take.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`. The modes: `disable`; `prefer` (the
    /// default) and `require`, which encrypt and do not check who the server is; `verify-full`, which
    /// does, by the system's authorities or those in the file `sslrootcert=…`.
    pub url: String,
    /// Connections, at most.
    pub connections: usize,
    /// Time to make one.
    pub connect_timeout: Duration,
    /// Time for one statement, its wait for locks included.
    pub statement_timeout: Duration,
    /// How long a call waits for a free connection.
    pub wait: Duration,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL: it has the password.
        f.debug_struct("PostgresOptions")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    fn settings(&self) -> std::result::Result<Settings, StoreError> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            let why = "database_url does not begin with postgres://";
            return Err(StoreError::Unusable(why.to_owned()));
        }
        let (tls, mut config) = Tls::of_url(&self.url)?;
        if config.get_application_name().is_none() {
            config.application_name("filegate");
        }
        config.connect_timeout(self.connect_timeout);
        Ok(Settings {
            config,
            tls,
            connect_timeout: self.connect_timeout,
            statement_timeout: self.statement_timeout,
        })
    }
}

/// What operators want to know of the database, see [`Catalog::postgres_facts`](crate::Catalog::postgres_facts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresFacts {
    /// Such as `15.14 (Debian 15.14-0+deb12u1)`.
    pub version: String,
    /// Such as 150014.
    pub version_number: i64,
    /// Connections that the server takes, of everybody.
    pub connections_max: i64,
    /// Connections that are in use, of everybody.
    pub connections: i64,
    /// The server's time.
    pub clock: UnixMillis,
    /// Whether it cannot be written to: a standby, or a primary that is told so.
    pub read_only: bool,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// Whether commits are on disk when they return (`fsync`, `full_page_writes` and `synchronous_commit`).
    pub durable: bool,
    /// The version of filegate's schema, if there is one.
    pub schema: Option<i64>,
    /// The newest version this filegate knows.
    pub schema_known: i64,
}

/// A connection that nobody uses, and how many of its kind had been lost when it was made.
type Idle = (u64, Connection);

/// The pool.
#[derive(Debug)]
pub(in crate::catalog) struct Postgres {
    settings: Settings,
    wait: Duration,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// Connections lost so far: when one is, those made before it are probably dead as well.
    lost: AtomicU64,
    round_trips: AtomicU64,
}

/// Why a run came to nothing.
enum Failed {
    /// Nothing was changed.
    Before(Error),
    /// Nobody knows.
    AtCommit(Error),
}

impl Postgres {
    /// Connects, and makes or migrates the schema.
    pub(in crate::catalog) async fn open(
        options: PostgresOptions,
    ) -> std::result::Result<Self, StoreError> {
        let settings = options.settings()?;
        let opened = settings.clone();
        tokio::task::spawn_blocking(move || migrate(&opened))
            .await
            .map_err(|_stopped| StoreError::Closed)??;
        Ok(Self {
            settings,
            wait: options.wait,
            turns: Arc::new(Semaphore::new(options.connections.max(1))),
            idle: Mutex::default(),
            lost: AtomicU64::new(0),
            round_trips: AtomicU64::new(0),
        })
    }

    /// Runs `run` in a transaction, on a thread that may block.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        change: Change,
        mut run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        let turn = self.turn(change.operation).await?;
        let pool = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            pool.change(change, &mut run)
        })
        .await
        .map_err(|stopped| panicked(change.operation, &stopped))?
    }

    /// Runs `run` without a transaction: each statement sees what is committed when it begins.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        self.look(operation, None, run).await
    }

    pub(super) async fn read_slowly<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        self.look(operation, Some(SLOW), run).await
    }

    async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        patience: Option<Duration>,
        mut run: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        let turn = self.turn(operation).await?;
        let pool = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let looked = pool.with_connection(|c, session| {
                if let Some(limit) = patience {
                    session.take_time(limit).map_err(Failed::Before)?;
                }
                let seen = run(c);
                if patience.is_some() {
                    // Also after an error: others use the connection next.
                    session.hurry().map_err(Failed::Before)?;
                }
                seen.map_err(Failed::Before)
            });
            looked.map_err(|(Failed::Before(e) | Failed::AtCommit(e))| {
                StoreError::catalog(operation, e)
            })
        })
        .await
        .map_err(|stopped| panicked(operation, &stopped))?
    }

    /// A place among those who use a connection.
    async fn turn(
        &self,
        operation: &'static str,
    ) -> std::result::Result<OwnedSemaphorePermit, StoreError> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        match tokio::time::timeout(self.wait, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_closed)) => Err(StoreError::Closed),
            Err(_elapsed) => {
                let source = format!("no connection was free within {:?}", self.wait).into();
                Err(StoreError::Unavailable { operation, source })
            }
        }
    }

    fn change<T>(
        &self,
        change: Change,
        run: &mut dyn FnMut(&Connection) -> Result<T>,
    ) -> std::result::Result<T, StoreError> {
        let operation = change.operation;
        for again in 0.. {
            let done = self.with_connection(|c, session| transact(c, session, change, run));
            return match done {
                Ok(value) => Ok(value),
                Err(Failed::AtCommit(source)) => Err(StoreError::uncertain(operation, source)),
                Err(Failed::Before(error)) if again < AGAIN_MAX && is_conflict(&error) => {
                    tracing::debug!(%error, operation, "catalog.conflict: run again");
                    thread::sleep(Duration::from_millis(1 << again));
                    continue;
                }
                Err(Failed::Before(error)) => Err(StoreError::catalog(operation, error)),
            };
        }
        unreachable!("the loop ends by returning")
    }

    /// Runs `work` on a connection; once more on a fresh one if the first was dead.
    fn with_connection<T>(
        &self,
        mut work: impl FnMut(&Connection, &Session) -> std::result::Result<T, Failed>,
    ) -> std::result::Result<T, Failed> {
        let mut pooled = self.borrowed();
        loop {
            let was_pooled = pooled.is_some();
            let (born, connection) = match pooled.take() {
                Some(idle) => idle,
                None => self.connect().map_err(Failed::Before)?,
            };
            let Connection::Postgres(session) = &connection else { continue };
            let before = session.round_trips();
            let done = work(&connection, session);
            self.round_trips.fetch_add(session.round_trips() - before, Ordering::Relaxed);
            let usable = session.is_usable();
            if usable {
                self.idle().push((born, connection));
                return done;
            }
            // Those that were made before this one was lost are not tried any more.
            self.lost.fetch_add(1, Ordering::Relaxed);
            drop(connection);
            match done {
                // A database that stalls would stall again: only what is surely gone is tried again.
                Err(Failed::Before(error))
                    if was_pooled && !matches!(error, Error::TimedOut(_)) =>
                {
                    tracing::info!(%error, "catalog.connection.lost: connecting anew");
                }
                done => return done,
            }
        }
    }

    fn connect(&self) -> Result<Idle> {
        let born = self.lost.load(Ordering::Relaxed);
        let session = Session::open(&self.settings)?;
        Ok((born, Connection::Postgres(Box::new(session))))
    }

    /// A connection that is probably good.
    fn borrowed(&self) -> Option<Idle> {
        let lost = self.lost.load(Ordering::Relaxed);
        let mut idle = self.idle();
        // The last that was used: under a light load few are used, and stay warm.
        while let Some((born, connection)) = idle.pop() {
            let usable =
                matches!(&connection, Connection::Postgres(session) if session.is_usable());
            if born == lost && usable {
                return Some((born, connection));
            }
        }
        None
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often connections of this pool have waited for the server.
    pub(in crate::catalog) fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}

fn panicked(operation: &'static str, stopped: &tokio::task::JoinError) -> StoreError {
    // Its connection went with it, and so its transaction.
    if stopped.is_panic() {
        tracing::error!(operation, "catalog.panic");
    }
    StoreError::Closed
}

/// One run of a change in its transaction.
fn transact<T>(
    c: &Connection,
    session: &Session,
    change: Change,
    run: &mut dyn FnMut(&Connection) -> Result<T>,
) -> std::result::Result<T, Failed> {
    session.begin(change.durability == Durability::Relaxed);
    match change.lock {
        None => {}
        Some(Lock::Account(account)) => session.begin_with(&format!(
            "SELECT 1 FROM accounts WHERE account_id = {} FOR NO KEY UPDATE",
            account.0
        )),
        Some(Lock::Operators) => {
            session.begin_with(&format!("SELECT pg_advisory_xact_lock({LOCK_OPERATORS})"));
        }
    }
    let value = match run(c) {
        Ok(value) => value,
        Err(error) => {
            session.rollback();
            return Err(Failed::Before(error));
        }
    };
    match session.commit() {
        Ok(()) => Ok(value),
        Err(error) if is_uncertain_at_commit(&error) => Err(Failed::AtCommit(error)),
        Err(error) => {
            session.rollback();
            Err(Failed::Before(error))
        }
    }
}

/// Whether another transaction was in the way, and may not be the next time.
fn is_conflict(error: &Error) -> bool {
    let Error::Postgres(error) = error else { return false };
    error.code().is_some_and(|code| {
        [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED].contains(&code)
    })
}

/// Makes or migrates the schema, one replica at a time.
fn migrate(settings: &Settings) -> std::result::Result<(), StoreError> {
    let opening = |e| StoreError::connecting("connecting to the database", e);
    let migrating = |e| StoreError::connecting("migrating the catalog", e);
    let session = Session::open(settings).map_err(opening)?;
    session.take_time(MIGRATING).map_err(opening)?;
    let c = Connection::Postgres(Box::new(session));
    let number: i64 = c
        .query_row("SELECT CAST(current_setting('server_version_num') AS BIGINT)", (), |r| r.get(0))
        .map_err(opening)?;
    if number < OLDEST {
        return Err(StoreError::Unusable(format!(
            "the database is PostgreSQL {}, which is older than {}: use a newer one",
            number / 10_000,
            OLDEST / 10_000
        )));
    }
    // Most starts find everything made, and need no lock.
    if check_schema(schema(&c).map_err(opening)?)? {
        return Ok(());
    }
    c.execute_batch("SET lock_timeout = 0").map_err(migrating)?;
    // Of the session, and ended with it. A transaction that waited would still believe what it looked up
    // before: that there is no schema.
    c.execute_batch(&format!("SELECT pg_advisory_lock({LOCK_MIGRATION})")).map_err(migrating)?;
    c.execute_batch("BEGIN").map_err(migrating)?;
    let found = schema(&c).map_err(migrating)?;
    if check_schema(found)? {
        return Ok(());
    }
    let done = found.map_or(0, |(version, _)| version);
    for step in MIGRATIONS.iter().skip(usize::try_from(done).unwrap_or(usize::MAX)) {
        c.execute_batch(step.sql).map_err(migrating)?;
    }
    let oldest_reader = MIGRATIONS.last().map_or(0, |step| step.oldest_reader);
    c.execute("DELETE FROM filegate_schema", ()).map_err(migrating)?;
    c.execute(
        "INSERT INTO filegate_schema (version, oldest_reader) VALUES (?1, ?2)",
        (known(), oldest_reader),
    )
    .map_err(migrating)?;
    c.execute_batch("COMMIT").map_err(migrating)
}

/// The newest schema that this filegate knows.
fn known() -> i64 {
    MIGRATIONS.len() as i64
}

/// The schema's version, and the oldest whose binaries can work with it.
fn schema(c: &Connection) -> Result<Option<(i64, i64)>> {
    let there: bool =
        c.query_row("SELECT to_regclass('filegate_schema') IS NOT NULL", (), |row| row.get(0))?;
    if !there {
        return Ok(None);
    }
    let read = |row: &crate::catalog::sql::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    c.query_row("SELECT version, oldest_reader FROM filegate_schema", (), read).map(Some)
}

/// Whether the schema can be used as it is; false if it has to be migrated.
fn check_schema(found: Option<(i64, i64)>) -> std::result::Result<bool, StoreError> {
    let Some((version, oldest_reader)) = found else { return Ok(false) };
    if oldest_reader > known() {
        return Err(StoreError::Unusable(format!(
            "the database has schema version {version}, which works with {oldest_reader} and later; \
             this filegate knows {}: use a newer filegate",
            known()
        )));
    }
    Ok(version >= known())
}

impl PostgresFacts {
    /// Asks a database, whether or not it has a schema; changes nothing.
    pub async fn of(options: PostgresOptions) -> std::result::Result<Self, StoreError> {
        let settings = options.settings()?;
        tokio::task::spawn_blocking(move || {
            let asking = |e| StoreError::connecting("asking the database about itself", e);
            let session = Session::open(&settings).map_err(asking)?;
            facts(&Connection::Postgres(Box::new(session))).map_err(asking)
        })
        .await
        .map_err(|_stopped| StoreError::Closed)?
    }
}

pub(in crate::catalog) fn facts(c: &Connection) -> Result<PostgresFacts> {
    let schema = schema(c)?.map(|(version, _)| version);
    c.query_row(
        "SELECT current_setting('server_version'),
                CAST(current_setting('server_version_num') AS BIGINT),
                CAST(current_setting('max_connections') AS BIGINT),
                (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
                CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT),
                pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on',
                coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), FALSE),
                current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'
                    AND current_setting('synchronous_commit') <> 'off'",
        (),
        |row| {
            Ok(PostgresFacts {
                version: row.get(0)?,
                version_number: row.get(1)?,
                connections_max: row.get(2)?,
                connections: row.get(3)?,
                clock: UnixMillis(row.get(4)?),
                read_only: row.get(5)?,
                encrypted: row.get(6)?,
                durable: row.get(7)?,
                schema,
                schema_known: known(),
            })
        },
    )
}
