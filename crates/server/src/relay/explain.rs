//! Where a file is upstream, and where its next call would go and why: for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use filegate_store::{AccountTerms, AdoptedFile, Replica, StoreError};
use filegate_types::{AccountId, ChannelId, FileId, PurposeName, UnixMillis};
use serde_json::{Value, json};

use super::candidates_of;
use super::channels::Channel;
use super::health::Standing;
use super::route::{self, Needs};
use crate::app::App;

type All = BTreeMap<ChannelId, Arc<Channel>>;

/// A file that has its bytes here: its copies, and what each channel is to its next call.
pub(crate) async fn stored(
    app: &App,
    account: AccountId,
    terms: &AccountTerms,
    file: FileId,
    purpose: Option<&PurposeName>,
) -> Result<Value, StoreError> {
    let all = app.relay.channels.all(app).await?;
    let copies = app.catalog.all_replicas_of(file).await?;
    let now = app.clock.now();
    let usable =
        |copy: &Replica| copy.state.name() == "ready" && copy.expires_at.is_none_or(|at| at > now);
    let ready: Vec<ChannelId> =
        copies.iter().filter(|copy| usable(copy)).map(|copy| copy.channel_id).collect();
    let needs = Needs { purposes: purpose.cloned().into_iter().collect(), ..Needs::default() };
    let shown: Vec<Value> = copies.iter().map(|copy| copy_of(&all, copy)).collect();
    let channels = choices(&all, account, terms, &needs, &ready, now);
    let next: Vec<&Value> =
        channels.iter().filter(|one| one["chosen"] == true).map(|one| &one["channel"]).collect();
    Ok(json!({ "copies": shown, "next": next, "channels": channels }))
}

/// One that is upstream only: where, and whether that can be asked.
pub(crate) async fn adopted(
    app: &App,
    terms: &AccountTerms,
    file: &AdoptedFile,
) -> Result<Value, StoreError> {
    let all = app.relay.channels.all(app).await?;
    let now = app.clock.now();
    let needs = Needs { pinned: Some([file.channel_id].into()), free: true, ..Needs::default() };
    let mut channels = choices(&all, file.account_id, terms, &needs, &[], now);
    let name = name_of(&all, file.channel_id);
    channels.retain(|one| one["channel"] == name);
    let mut reasons: Vec<String> = Vec::new();
    if file.expires_at.is_some_and(|at| at <= now) {
        reasons.push("upstream has forgotten it by now".to_owned());
    }
    for one in channels.iter().filter(|one| one["chosen"] != true) {
        reasons.push(format!("its channel: {}", one["why"].as_str().unwrap_or_default()));
    }
    Ok(json!({
        "id": file.file_id,
        "readable": reasons.is_empty(),
        "reasons": reasons,
        "file": {
            "id": file.file_id,
            "account": terms.name,
            "key_id": file.key_id.map(|key| key.0),
            "purpose": file.purpose,
            "filename": file.filename,
            "bytes": file.bytes,
            "state": "upstream",
            "created_at": file.created_at.seconds(),
            "expires_at": file.expires_at.map(UnixMillis::seconds),
            "task_id": file.task_id,
        },
        "relay": {
            "born_on": {"channel": name, "upstream_id": file.upstream_id},
            "channels": channels,
        },
    }))
}

fn name_of(all: &All, channel: ChannelId) -> String {
    all.get(&channel).map_or_else(|| channel.to_string(), |one| one.facts().row.name.clone())
}

fn copy_of(all: &All, copy: &Replica) -> Value {
    let upstream_id = Some(&copy.upstream_id).filter(|id| !id.is_empty());
    json!({
        "channel": name_of(all, copy.channel_id),
        "state": copy.state.name(),
        "upstream_id": upstream_id,
        "created_at": copy.created_at.seconds(),
        "expires_at": copy.expires_at.map(UnixMillis::seconds),
        "used_at": copy.used_at.seconds(),
        "uploads": copy.uploads,
    })
}

/// Every channel that is not removed, as the choice for the account's next call sees it now.
fn choices(
    all: &All,
    account: AccountId,
    terms: &AccountTerms,
    needs: &Needs,
    ready: &[ChannelId],
    now: UnixMillis,
) -> Vec<Value> {
    let mut candidates = candidates_of(all, account, &terms.settings, now, |_| false);
    for one in &mut candidates {
        one.has_files = ready.contains(&one.id);
    }
    let each = route::explain(&candidates, needs).into_iter().filter_map(|(id, why)| {
        let channel = all.get(&id)?;
        let state = channel.facts().row.state;
        let until = match channel.standing(now) {
            Standing::Out(trouble) => Some(trouble.until.seconds()),
            Standing::Well | Standing::Try => None,
        };
        let has_file = ready.contains(&id);
        let chosen = if has_file { "it is next: the file is there" } else { "it is next" };
        (state.name() != "removed" || needs.pinned.is_some()).then(|| {
            json!({
                "channel": name_of(all, id),
                "state": state.name(),
                "chosen": why.is_none(),
                "why": why.map_or(chosen, route::Out::why),
                "until": until,
            })
        })
    });
    each.collect()
}
