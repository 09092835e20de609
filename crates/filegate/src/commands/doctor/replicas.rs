//! What replicas share: the database, the bucket, Redis.

use std::time::Duration;

use filegate_server::config::{Config, LimitFailure};
use filegate_server::{RedisFacts, Stores};
use filegate_store::{Blobs, LifecycleRule, PostgresFacts, S3Blobs, StoreError};
use filegate_types::{BlobKey, Clock as _, SystemClock};

use super::Findings;

/// The oldest PostgreSQL that is known to do.
const POSTGRES_MIN: i64 = 140_000;
/// Clocks that differ by more make leases end early or late, and links end at the wrong time.
const SKEW_MAX_MS: i64 = 2_000;
/// Calls to Redis that take longer make every limited call slow.
const REDIS_SLOW: Duration = Duration::from_millis(50);
/// PUTs of a few bytes that take longer make every upload slow.
const PUT_SLOW: Duration = Duration::from_millis(500);

/// The database, if there is one: asked without a change to it. Says whether the catalog can be looked at.
pub(super) async fn check_database(config: &Config, found: &mut Findings) -> bool {
    if !config.is_replicated() {
        return true;
    }
    match PostgresFacts::of(Stores::postgres_options(config)).await {
        Ok(facts) => {
            tell_database(config, &facts, found);
            // To open an older schema is to migrate it, which is for `serve` to do.
            facts.schema >= Some(facts.schema_known)
        }
        Err(error) => {
            found.fail("database", format!("{}; {}", words(&error), remedy(&error)));
            false
        }
    }
}

/// The bucket, if there is one.
pub(super) async fn check_bucket(config: &Config, found: &mut Findings) {
    let Ok(Some(options)) = config.s3_options() else { return };
    match Blobs::s3(options, &config.data_dir.join("tmp")) {
        Ok(Blobs::S3(bucket)) => ask_bucket(config, &bucket, found).await,
        Ok(Blobs::Local(_)) => {}
        Err(error) => found.fail("bucket", format!("{}; correct blob_url or [s3]", words(&error))),
    }
}

fn tell_database(config: &Config, facts: &PostgresFacts, found: &mut Findings) {
    if facts.version_number < POSTGRES_MIN {
        let text = format!("PostgreSQL {}: use 14 or later", facts.version);
        found.fail("database", text);
    } else if facts.read_only {
        let text = "it cannot be written to, a standby perhaps: name the primary in database_url";
        found.fail("database", text);
    } else {
        let schema = match facts.schema {
            None => "nothing in it yet".to_owned(),
            Some(version) if version > facts.schema_known => {
                format!("schema {version} of a newer filegate: go on with the upgrade")
            }
            Some(version) if version < facts.schema_known => {
                format!(
                    "schema {version}, which `serve` of this filegate brings to {}",
                    facts.schema_known
                )
            }
            Some(version) => format!("schema {version}"),
        };
        found.ok("database", format!("PostgreSQL {}, {schema}", facts.version));
    }
    if !facts.durable {
        found.fail(
            "durability",
            "fsync, full_page_writes or synchronous_commit is off: a crash loses what was acknowledged; turn \
             them on in postgresql.conf",
        );
    }
    if !facts.encrypted && !is_local(config.database_url.expose()) {
        let text = "the connection is not encrypted: add sslmode=verify-full to database_url";
        found.warn("database TLS", text);
    }
    let (own, free) =
        (config.database.connections as i64, facts.connections_max - facts.connections);
    let text = format!(
        "{} of {} are in use, a replica takes up to {own}",
        facts.connections, facts.connections_max
    );
    if free < own {
        let text = format!(
            "{text}: raise max_connections, lower database.connections, or put a pooler in session mode between"
        );
        found.warn("connections", text);
    } else {
        found.ok("connections", text);
    }
    check_skew("database clock", facts.clock.0, found);
}

async fn ask_bucket(config: &Config, bucket: &S3Blobs, found: &mut Findings) {
    let now = SystemClock.now();
    let random = filegate_server::random_id();
    let mut bits = [0; 10];
    bits.copy_from_slice(&random[..10]);
    let facts = bucket.survey(&BlobKey::mint(now, bits), now).await;
    for fault in &facts.faults {
        found.fail("bucket", format!("{fault}; {}", fault.remedy()));
    }
    if !facts.faults.is_empty() {
        return;
    }
    let place = config.blob_url.split('?').next().unwrap_or_default();
    match facts.put {
        Some(put) if put > PUT_SLOW => {
            found.warn(
                "bucket",
                format!("{place}: a PUT takes {put:.0?}, and every upload waits for one"),
            );
        }
        put => {
            let took = put.map(|put| format!(", a PUT takes {put:.1?}")).unwrap_or_default();
            found.ok("bucket", format!("{place}: written, read and deleted{took}"));
        }
    }
    match facts.lifecycle {
        LifecycleRule::Aborts(days) => {
            found.ok("lifecycle", format!("parts of broken uploads go after {days} days"));
        }
        LifecycleRule::Missing => found.warn(
            "lifecycle",
            "no rule aborts incomplete multipart uploads: what a crash leaves is removed by the server within \
             two hours, and by nobody if no server runs; add AbortIncompleteMultipartUpload after a day",
        ),
        LifecycleRule::Unknown => found.ok(
            "lifecycle",
            "the store does not tell its rules; the server removes parts of broken uploads itself",
        ),
    }
    if let Some(ahead) = facts.clock_ahead_s {
        check_skew("bucket clock", SystemClock.now().0 + ahead * 1000, found);
    }
}

/// What of limits replicas share.
pub(super) async fn check_redis(config: &Config, found: &mut Findings) {
    match RedisFacts::of(config).await {
        Ok(None) if config.is_replicated() => found.warn(
            "redis",
            "no redis_url: `serve` wants limits.scope = \"per-replica\" then, and each replica lets as much \
             through as all together should",
        ),
        Ok(None) => {}
        Err(why) => {
            let then = match config.limits.on_failure {
                LimitFailure::Local => "each replica counts by itself meanwhile",
                LimitFailure::Refuse => "calls that a limit applies to are answered 1013 meanwhile",
            };
            found.fail("redis", format!("{why}; check redis_url and the network; {then}"));
        }
        Ok(Some(facts)) => tell_redis(&facts, found),
    }
}

fn tell_redis(facts: &RedisFacts, found: &mut Findings) {
    if facts.cluster {
        found.fail("redis", "it is a cluster, which is not supported: use one primary");
    } else if !facts.writable {
        let text =
            "it takes no writes, a replica or one with full memory: name a primary with room";
        found.fail("redis", text);
    } else if facts.write > REDIS_SLOW {
        let text = format!("{}, but a write takes {:.0?}", facts.version, facts.write);
        found.warn("redis", format!("{text}: use one that is nearer"));
    } else {
        found.ok("redis", format!("{}, a write takes {:.1?}", facts.version, facts.write));
    }
    if !matches!(facts.eviction.as_str(), "" | "noeviction")
        && !facts.eviction.starts_with("volatile")
    {
        let text = format!(
            "maxmemory-policy is {}: limits are forgotten when memory is short; use noeviction",
            facts.eviction
        );
        found.warn("redis memory", text);
    }
    check_skew("redis clock", facts.clock_ms, found);
}

fn check_skew(subject: &'static str, theirs_ms: i64, found: &mut Findings) {
    let ahead = theirs_ms - SystemClock.now().0;
    if ahead.abs() <= SKEW_MAX_MS {
        found.ok(subject, "agrees with ours");
    } else {
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        let text = format!(
            "{:.1} s {side} ours: run NTP on all of them; leases and links end at the wrong time",
            ahead.abs() as f64 / 1000.0
        );
        found.warn(subject, text);
    }
}

/// A socket or loopback, where nobody listens in.
fn is_local(url: &str) -> bool {
    reqwest::Url::parse(url).ok().is_none_or(|url| {
        let host = url.host_str().unwrap_or_default();
        host.is_empty() || host == "localhost" || host.starts_with("127.") || host == "[::1]"
    })
}

fn words(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

fn remedy(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { .. } => "check host, port and network of database_url",
        StoreError::Unusable(_) => "correct it in database_url or at the server",
        _ => "see what it says",
    }
}
