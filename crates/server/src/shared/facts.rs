//! What `doctor` asks Redis about itself.

use std::fmt;
use std::time::Duration;

use redis::{InfoDict, RedisError, Value};

use super::link::Link;
use crate::config::Config;

/// What a Redis says of itself, and whether it does what a gateway asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisFacts {
    /// Such as `7.0.15`.
    pub version: String,
    /// Whether it takes writes: a replica of another Redis does not.
    pub writable: bool,
    /// What it does when its memory is full, such as `noeviction`; empty if it does not say.
    pub eviction: String,
    /// Whether it is one of a cluster.
    pub cluster: bool,
    /// Milliseconds since 1970 by its clock.
    pub clock_ms: i64,
    /// How long a write took.
    pub write: Duration,
}

/// Why Redis cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisFault(String);

impl fmt::Display for RedisFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RedisFacts {
    /// Asks the Redis of `config`; `None` if it names none.
    pub async fn of(config: &Config) -> Result<Option<Self>, RedisFault> {
        let Some(link) = Link::new(config).map_err(RedisFault)? else { return Ok(None) };
        ask(&link).await.map(Some).map_err(|error| RedisFault(error.to_string()))
    }
}

async fn ask(link: &Link) -> Result<RedisFacts, RedisError> {
    let mut connection = link.connect().await?;
    let info: InfoDict = link.in_time(redis::cmd("INFO").query_async(&mut connection)).await?;
    let clock: (i64, i64) = link.in_time(redis::cmd("TIME").query_async(&mut connection)).await?;
    let probe = link.name("doctor");
    let started = std::time::Instant::now();
    let mut write = redis::cmd("SET");
    write.arg(&probe).arg("1").arg("PX").arg(1000);
    let written: Result<Value, _> = link.in_time(write.query_async(&mut connection)).await;
    let took = started.elapsed();
    // Refused because it is a replica or its memory is full: worth telling with the rest.
    let writable = match written {
        Ok(_) => true,
        Err(error) if error.is_io_error() => return Err(error),
        Err(_) => false,
    };
    let text = |name: &str| info.get::<String>(name).unwrap_or_default();
    Ok(RedisFacts {
        version: text("redis_version"),
        writable,
        eviction: text("maxmemory_policy"),
        cluster: text("cluster_enabled") == "1",
        clock_ms: clock.0 * 1000 + clock.1 / 1000,
        write: took,
    })
}
