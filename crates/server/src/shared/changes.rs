//! Word of changes: whoever changes what operators can change says so on one channel, and every
//! replica forgets whom it has just let in.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{RedisError, Value};

use super::callers::Callers;
use super::link::Link;
use crate::app::App;
use crate::lifecycle::Tasks;

/// The channel, after the prefix.
const CHANNEL: &str = "changed";
/// How often the subscription is tried, once it is there and while it is not.
const PING_EVERY: Duration = Duration::from_millis(500);

/// Tells all replicas of a change that was made. Those that do not hear of it see it within a second.
pub(crate) async fn announce(app: &App) {
    app.callers.forget();
    app.relay.channels.forget();
    let Some(link) = &app.redis else { return };
    if let Err(error) = publish(link).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "redis.announce.failed: other replicas see the change within a second"
        );
    }
}

/// Operators change things rarely, and the command line does so from a process without a connection.
async fn publish(link: &Link) -> Result<(), RedisError> {
    let mut connection = link.connect().await?;
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(link.name(CHANNEL)).arg("1");
    link.in_time(publish.query_async(&mut connection)).await
}

/// Hears of changes until the server stops.
pub(super) async fn listen(link: Arc<Link>, callers: Arc<Callers>, tasks: Tasks) {
    loop {
        let ended = tokio::select! {
            () = tasks.stopping() => return callers.is_deaf(),
            ended = follow(&link, &callers) => ended,
        };
        callers.is_deaf();
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn std::error::Error, "redis.subscription.ended");
        }
        tokio::time::sleep(PING_EVERY).await;
    }
}

/// Subscribes, and forgets callers at each message for as long as the subscription holds.
async fn follow(link: &Link, callers: &Callers) -> Result<(), RedisError> {
    let subscription = link.in_time(link.client().get_async_pubsub()).await?;
    let (mut sink, mut messages) = subscription.split();
    link.in_time(sink.subscribe(link.name(CHANNEL))).await?;
    callers.hears();
    let hearing = async {
        while messages.next().await.is_some() {
            callers.forget();
        }
        Ok(())
    };
    let trying = async {
        loop {
            tokio::time::sleep(PING_EVERY).await;
            link.in_time(sink.ping::<Value>()).await?;
        }
    };
    tokio::select! {
        ended = hearing => ended,
        ended = trying => ended,
    }
}
