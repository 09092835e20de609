//! Channels that rest are asked whether they are well again, by one replica, with a call that costs nothing.
//!
//! It shows that a channel answers and knows its key, not that it has money or calls left: those ends are waited for.

use std::sync::Arc;
use std::time::Duration;

use filegate_types::ChannelState;
use http::{HeaderMap, Method};

use super::attempt::{self, Load, Outcome, Outgoing};
use super::body::Whole;
use super::channels::{Channel, describe};
use super::headers::{self, Credentials};
use super::health::{Standing, TroubleKind};
use crate::app::App;

/// How often metrics of channels are set.
const DESCRIBE_EVERY: Duration = Duration::from_secs(5);
/// How long a channel may take to show that it is well; longer it is not waited for, another round comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is asked.
const PATH: &str = "/v1/files/list";
const QUERY: &str = "purpose=voice_clone";

/// Asks until the server stops.
pub(super) async fn run(app: Arc<App>) {
    let every = app.config.relay.probe_interval.0;
    if every.is_zero() {
        return;
    }
    loop {
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(every) => {}
        }
        if let Err(error) = round(&app, every).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "relay.probe.failed");
        }
    }
}

/// Says in metrics how channels are, until the server stops.
pub(super) async fn describe_all(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(DESCRIBE_EVERY) => {}
        }
        if let Ok(all) = app.relay.channels.all(&app).await {
            describe(&all, &*app.clock);
        }
    }
}

async fn round(app: &Arc<App>, every: Duration) -> Result<(), filegate_store::StoreError> {
    let all = app.relay.channels.all(app).await?;
    let ailing: Vec<_> = all.values().filter(|channel| is_asked(app, channel)).collect();
    if ailing.is_empty() || !app.catalog.lead("relay.probe", &app.replica, every * 2).await? {
        return Ok(());
    }
    for channel in ailing {
        ask(app, channel).await;
    }
    Ok(())
}

/// Whether an answer would show something.
fn is_asked(app: &App, channel: &Channel) -> bool {
    let state = channel.facts().row.state;
    matches!(state, ChannelState::Active | ChannelState::Draining)
        && channel
            .trouble()
            .is_some_and(|kind| matches!(kind, TroubleKind::Failing | TroubleKind::KeyRefused))
        && channel.standing(app.clock.now()) != Standing::Well
}

async fn ask(app: &Arc<App>, channel: &Arc<Channel>) {
    let facts = channel.facts();
    let Some(access) = facts.access.as_ref() else { return };
    let Ok(busy) = channel.enter(app).await else { return };
    let query = headers::query(Some(QUERY), facts.row.settings.group_id.as_deref());
    let Some(target) = access.origin.target(PATH, query.as_deref()) else { return };
    let credentials = Credentials { key: &access.key, bearer: &access.bearer, anthropic: false };
    let outgoing = Outgoing {
        method: &Method::GET,
        target,
        headers: headers::request(&HeaderMap::new(), &access.origin.host, credentials, true),
        repeatable: true,
    };
    let nothing = Whole::Memory(bytes::Bytes::new());
    let load = Load::Whole(&nothing, vec![]);
    let asked = attempt::send(&app.relay.transport, app, &busy, access, outgoing, load);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Outcome::Answered(_)) => busy.answered(app, false),
        Ok(Outcome::Failed(failure)) => busy.failed(app, failure.fault),
        Ok(Outcome::Client(_)) => {}
        Err(_late) => busy.failed(app, super::health::Fault::TimedOut),
    }
}
