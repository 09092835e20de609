//! The connection to Redis.
//!
//! All calls share one connection, and each waits for `redis.timeout` at most. One that fails in any
//! way (cut off, too late, refused, out of memory, read-only) means that Redis is away: the connection
//! is dropped, and no call asks again before [`Link::check`] has written something, which it tries
//! every [`CHECK_EVERY`]. So a Redis that is gone costs one call its timeout and not each of them.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo as _, ProtocolVersion,
    RedisError, Script, ScriptInvocation,
};
use tokio::sync::Notify;

use crate::config::{Config, LimitFailure, LimitScope};
use crate::lifecycle::Tasks;

/// How often it is tried whether Redis takes a write; also how long it counts as away at least.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Calls that are queued for the connection; more wait for room in it.
const QUEUE_MAX: usize = 1024;

/// A write that is refused whenever those of the other scripts would be.
static TRY: LazyLock<Script> =
    LazyLock::new(|| Script::new("redis.call('SET', KEYS[1], '1', 'PX', 1000) return 1"));

/// Redis did not answer, or not with what was asked. The log has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away;

/// The connection of this process.
pub(crate) struct Link {
    client: Client,
    prefix: String,
    timeout: Duration,
    /// What is said of limits when Redis goes.
    meanwhile: &'static str,
    state: Mutex<State>,
    /// Told when Redis is there again; the leases wait for it.
    back: Notify,
}

struct State {
    connection: Option<MultiplexedConnection>,
    /// Counts connections: who failed on an older one says nothing of this one.
    epoch: u64,
    /// What the log has said last.
    told: Option<bool>,
}

impl Link {
    /// Where the configuration says, not connected yet.
    pub(crate) fn new(config: &Config) -> Result<Option<Arc<Self>>, String> {
        let url = config.redis_url.expose();
        if url.is_empty() {
            return Ok(None);
        }
        let client = client(url)?;
        let meanwhile = match (config.limits.scope, config.limits.on_failure) {
            (LimitScope::PerReplica, _) => "keys are read from the catalog for each call",
            (_, LimitFailure::Local) => "limits are counted by this replica alone",
            (_, LimitFailure::Refuse) => "calls that a limit applies to are refused",
        };
        let state = Mutex::new(State { connection: None, epoch: 0, told: None });
        Ok(Some(Arc::new(Self {
            client,
            prefix: config.redis.prefix.clone(),
            timeout: config.redis.timeout.0,
            meanwhile,
            state,
            back: Notify::new(),
        })))
    }

    /// Whether Redis took the last write.
    pub(crate) fn is_up(&self) -> bool {
        self.lock().connection.is_some()
    }

    /// A key or channel of ours.
    pub(super) fn name(&self, rest: impl fmt::Display) -> String {
        format!("{}{rest}", self.prefix)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a script.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Away> {
        let (mut connection, epoch) = self.connection().ok_or(Away)?;
        match self.in_time(script.invoke_async(&mut connection)).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.lose(epoch, &error);
                Err(Away)
            }
        }
    }

    /// What `asking` gives, if it does in time.
    pub(super) async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        let asked = tokio::time::timeout(self.timeout, asking).await;
        asked.unwrap_or_else(|_late| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    /// A connection of the caller's own.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE_MAX);
        self.in_time(self.client.get_multiplexed_async_connection_with_config(&config)).await
    }

    /// Writes something, on a new connection where there is none; gives the connection.
    async fn write(
        &self,
        known: Option<MultiplexedConnection>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = match known {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let write = TRY.key(self.name("up"));
        self.in_time(write.invoke_async::<i64>(&mut connection)).await?;
        Ok(connection)
    }

    /// Finds out whether Redis is up, connecting where it was not.
    pub(crate) async fn check(&self) {
        let (known, epoch) = match self.connection() {
            Some((connection, epoch)) => (Some(connection), epoch),
            None => (None, 0),
        };
        let fresh = known.is_none();
        match self.write(known).await {
            Ok(connection) if fresh => self.found(connection),
            Ok(_) => {}
            Err(error) if fresh => self.tell_away(&mut self.lock(), &error),
            Err(error) => self.lose(epoch, &error),
        }
    }

    /// Ends when Redis is there again.
    pub(super) async fn back(&self) {
        self.back.notified().await;
    }

    fn connection(&self) -> Option<(MultiplexedConnection, u64)> {
        let state = self.lock();
        state.connection.clone().map(|connection| (connection, state.epoch))
    }

    fn found(&self, connection: MultiplexedConnection) {
        let mut state = self.lock();
        state.connection = Some(connection);
        state.epoch += 1;
        if state.told.replace(true) == Some(false) {
            tracing::info!("redis.back: limits are shared again");
        }
        metrics::gauge!("filegate_redis_up").set(1.0);
        self.back.notify_one();
    }

    fn lose(&self, epoch: u64, error: &RedisError) {
        let mut state = self.lock();
        if state.epoch == epoch && state.connection.take().is_some() {
            self.tell_away(&mut state, error);
        }
    }

    fn tell_away(&self, state: &mut State, error: &RedisError) {
        metrics::gauge!("filegate_redis_up").set(0.0);
        if state.told.replace(false) != Some(false) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "redis.away: until it is back {}", self.meanwhile);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Connects again whenever the connection was lost, and sees it when nobody asks.
pub(super) async fn keep(link: Arc<Link>, tasks: Tasks) {
    loop {
        tokio::select! {
            () = tasks.stopping() => return,
            () = tokio::time::sleep(CHECK_EVERY) => link.check().await,
        }
    }
}

/// What connects to `url`; why not, without what opens it.
pub(crate) fn client(url: &str) -> Result<Client, String> {
    let wrong = |why: &str| Err(format!("{}: {why}", without_password(url)));
    if !(url.starts_with("redis://") || url.starts_with("rediss://")) {
        return wrong("does not start with redis:// or rediss://");
    }
    if url.contains('#') {
        return wrong("has a fragment; certificates are always checked");
    }
    let info = match url.into_connection_info() {
        Ok(info) => info,
        Err(error) => return wrong(error.category()),
    };
    // Replies of RESP2 are all that is needed, and every server has it.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    let tcp = TcpSettings::default().set_nodelay(true);
    Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp))
        .or_else(|error| wrong(error.category()))
}

/// A URL as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "(not a URL)".to_owned() };
    // The last `@`: one in a password that should have been escaped is part of it.
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_named_without_its_password() {
        for (url, says) in [
            ("localhost:6379", "(not a URL): does not start with redis:// or rediss://"),
            ("http://me:geheim@host/0", "http://…@host/0: does not start with redis://"),
            ("redis://me:geheim@host/nought", "redis://…@host/nought: "),
            ("redis://me:ge@heim@host:x/0", "redis://…@host:x/0: "),
            ("redis://:geheim@/0", "redis://…@/0: "),
            ("rediss://:geheim@host/0#insecure", "certificates are always checked"),
        ] {
            let why = client(url).unwrap_err();
            assert!(why.contains(says) && !why.contains("heim"), "{url}: {why}");
        }
        for url in ["redis://127.0.0.1", "rediss://me:secret@host:6380/3", "redis://[::1]:1/"] {
            assert!(client(url).is_ok(), "{url}");
        }
    }
}
