//! What replicas share through Redis: limits, places of uploads, and word of changes.
//!
//! | module | what is there |
//! |---|---|
//! | [`link`] | the connection: one call, its timeout, and whether Redis is up |
//! | [`meters`] | requests and bytes in a minute |
//! | [`leases`] | uploads in progress |
//! | [`changes`] | "something was changed", told to all |
//! | [`facts`] | what `doctor` asks |
//! | [`callers`] | who was just let in, kept for less than a second |
//! | [`known`] | the same without Redis, kept until the embedded catalog changes |
//!
//! Redis is never the truth about anything that is kept: losing all of it forgets what was used of the
//! current minute, and no more. Each script is one step for Redis and reads the time there, so that
//! clocks of replicas do not matter. All keys of a call are in one database; Redis Cluster is not
//! supported.

pub(crate) mod callers;
mod changes;
mod facts;
pub(crate) mod known;
pub(crate) mod leases;
pub(crate) mod link;
pub(crate) mod meters;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use filegate_types::{ApiError, ErrorCode};

use crate::app::App;
use crate::config::{Config, LimitFailure, LimitScope};
use crate::lifecycle::Tasks;
use leases::Leases;
use link::{Away, Link};
use meters::SharedMeters;

pub(crate) use changes::announce;
pub use facts::{RedisFacts, RedisFault};

/// Seconds after which a client may ask again that was refused because Redis is away.
const RETRY_S: u32 = 1;

/// Limits that are counted for all replicas together.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) meters: SharedMeters,
    pub(crate) leases: Arc<Leases>,
    pub(crate) tasks: Tasks,
    on_failure: LimitFailure,
}

impl Shared {
    /// Limits in Redis, if that is where they are to be counted.
    pub(crate) fn new(config: &Config, link: Option<&Arc<Link>>, tasks: &Tasks) -> Option<Self> {
        let link = link.filter(|_| config.limits.scope == LimitScope::Shared)?;
        let leases = Leases::new(Arc::clone(link), config.redis.lease.0, tasks.clone());
        Some(Self {
            meters: SharedMeters::new(Arc::clone(link)),
            leases: Arc::new(leases),
            tasks: tasks.clone(),
            on_failure: config.limits.on_failure,
        })
    }

    /// Whether this replica may count by itself; else 1013.
    pub(crate) fn without(&self, Away: Away) -> Result<(), ApiError> {
        match self.on_failure {
            LimitFailure::Local => Ok(()),
            LimitFailure::Refuse => Err(ApiError::plain(ErrorCode::Internal).retry_after(RETRY_S)),
        }
    }
}

/// Connects, and keeps connection, leases and subscription until the server stops. Returns when Redis
/// has answered or has not: the first request is then counted where it should be.
pub(crate) async fn start(app: &Arc<App>) {
    let Some(link) = &app.redis else { return };
    link.check().await;
    app.tasks.spawn(link::keep(Arc::clone(link), app.tasks.clone()));
    if let Some(shared) = app.gate.shared() {
        app.tasks.spawn(leases::keep(Arc::clone(&shared.leases), app.tasks.clone()));
    }
    if app.config.is_replicated() {
        let (callers, tasks) = (Arc::clone(&app.callers), app.tasks.clone());
        app.tasks.spawn(changes::listen(Arc::clone(link), callers, tasks));
    }
}
