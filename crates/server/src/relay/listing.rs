//! Answers that show all that is on a channel: whose what is, and whom else to ask.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use filegate_types::{ApiError, ChannelId, ErrorCode};

use super::attempt::Outcome;
use super::body::RequestBody;
use super::calls::List;
use super::channels::Busy;
use super::lists::{self, LIST_MAX, NotAList, VoicesOf};
use super::owned::{Owned, is_alive};
use super::reply::Opening;
use super::{Call, once};
use crate::app::App;
use crate::http::reply::store_failed;

/// Cuts a list down to what is the caller's; an answer that is no list stays as it is. On a channel that the account
/// brought itself all is its own.
pub(super) async fn cut(
    app: &Arc<App>,
    call: &Call,
    owned: &mut Owned,
    busy: &Busy,
    opening: &mut Opening,
    body: &mut RequestBody,
) -> Result<(), ApiError> {
    let Some(list) = call.rules.list else { return Ok(()) };
    let own = busy.channel().facts().row.account_id == Some(call.principal.account_id);
    if own || opening.parts.status.as_u16() >= 400 {
        return Ok(());
    }
    opening.look_on(LIST_MAX).await;
    if opening.code.is_some_and(|code| code != 0) {
        return Ok(());
    }
    let Some(reply) = opening.all() else { return Err(unlisted(&NotAList::TooLong)) };
    let cut = match list {
        List::Voices => voices(app, call, owned, busy, &reply, body).await?,
        List::Videos => videos(app, call, busy.channel().id, &reply).await?,
    };
    opening.looked = [Bytes::from(cut)].into();
    Ok(())
}

async fn videos(
    app: &App,
    call: &Call,
    channel: ChannelId,
    reply: &[u8],
) -> Result<Vec<u8>, ApiError> {
    let ids = lists::video_ids(reply).map_err(|why| unlisted(&why))?;
    let tasks = app.catalog.tasks_of_upstream(call.principal.account_id, channel, ids).await;
    let tasks = tasks.map_err(|error| store_failed(&error))?;
    let own: HashMap<_, _> =
        tasks.into_iter().map(|task| (task.upstream_id, task.task_id)).collect();
    lists::videos(reply, &own).map_err(|why| unlisted(&why))
}

/// The caller's voices of all channels that have some; a channel that does not answer hides its own.
async fn voices(
    app: &Arc<App>,
    call: &Call,
    owned: &mut Owned,
    busy: &Busy,
    reply: &[u8],
    body: &mut RequestBody,
) -> Result<Vec<u8>, ApiError> {
    let all = app.catalog.all_voices(call.principal.account_id).await;
    let mut names: BTreeMap<ChannelId, HashSet<String>> = BTreeMap::new();
    for voice in all.map_err(|error| store_failed(&error))? {
        names.entry(voice.channel_id).or_default().insert(voice.voice_id);
    }
    let here = names.remove(&busy.channel().id).unwrap_or_default();
    let asked: BTreeSet<_> = names.keys().copied().collect();
    let mut replies = Vec::new();
    for channel in asked {
        if let Some(reply) = ask(app, call, owned, channel, body).await {
            replies.push((channel, reply));
        }
    }
    let others: Vec<_> = replies
        .iter()
        .filter_map(|(channel, reply)| Some(VoicesOf { reply, own: names.get(channel)? }))
        .collect();
    lists::voices(VoicesOf { reply, own: &here }, &others).map_err(|why| unlisted(&why))
}

/// The same call on another channel.
async fn ask(
    app: &Arc<App>,
    call: &Call,
    owned: &mut Owned,
    channel: ChannelId,
    body: &mut RequestBody,
) -> Option<Vec<u8>> {
    let all = app.relay.channels.all(app).await.ok()?;
    let channel = all.get(&channel).filter(|channel| is_alive(app, call, channel))?;
    let busy = channel.enter(app).await.ok()?;
    let facts = busy.channel().facts();
    let access = facts.access.as_ref()?;
    let sent = owned.there(app, call, busy.channel(), access).await.ok()?;
    match once(app, call, &busy, access, sent, body).await {
        Outcome::Answered(mut opening) => {
            busy.answered(app, false);
            opening.look_on(LIST_MAX).await;
            opening.all()
        }
        Outcome::Failed(failure) => {
            busy.failed(app, failure.fault);
            None
        }
        Outcome::Client(_) => None,
    }
}

fn unlisted(why: &NotAList) -> ApiError {
    tracing::error!(%why, "relay.list.unreadable");
    ApiError::detailed(ErrorCode::Internal, "upstream's list cannot be read")
}
