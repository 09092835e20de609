//! `replicate = "on_upload"`: a file goes to a channel before it is committed here, so that what upstream will
//! not have is refused at once and in its own words.
//!
//! It goes to the channel that its next call would go to. Where that cannot take it now, the file is committed all
//! the same, and a job copies it later. A crash between upstream's answer and the commit leaves a copy upstream that
//! nobody knows.

use std::sync::Arc;

use filegate_store::{BlobSum, OnChannel};
use filegate_types::wire::BaseResp;
use filegate_types::{BlobKey, ChannelState, Principal, PurposeName, Replicate};

use super::candidates;
use super::owned::endpoint;
use super::replicate::{ReplicateError, Sent, send};
use super::route::{self, Candidate, Needs};
use crate::app::{App, random};

/// What became of it.
#[derive(Debug)]
pub(crate) enum Placed {
    /// To be committed with the file.
    Goes(OnChannel),
    /// Upstream will not have it.
    Refused(BaseResp),
}

/// Whether files of this account go upstream with their upload.
pub(crate) fn is_wanted(app: &App, principal: &Principal) -> bool {
    let usual = app.config.relay.replicate;
    principal.settings.replicate.unwrap_or(usual) == Replicate::OnUpload
}

/// Brings a file that has landed and is not committed yet to a channel.
pub(crate) async fn place(
    app: &Arc<App>,
    principal: &Principal,
    purpose: &PurposeName,
    filename: &str,
    (key, sum): (&BlobKey, &BlobSum),
) -> Placed {
    let Ok(all) = app.relay.channels.all(app).await else { return Placed::Goes(OnChannel::Later) };
    let candidates = candidates(&all, principal, app.clock.now(), |_| false);
    let needs = Needs { purposes: vec![purpose.clone()], ..Needs::default() };
    let chosen = route::choose(&candidates, &needs, u64::from_be_bytes(random()));
    let Some(channel) = chosen.ok().and_then(|id| all.get(&id)) else {
        let any = candidates.iter().any(|one| may_later(one, purpose));
        return Placed::Goes(if any { OnChannel::Later } else { OnChannel::Nowhere });
    };
    let facts = channel.facts();
    let Some(endpoint) = facts.access.as_ref().and_then(|access| endpoint(channel, access)) else {
        return Placed::Goes(OnChannel::Later);
    };
    let Ok(busy) = channel.enter(app).await else { return Placed::Goes(OnChannel::Later) };
    let sent = Sent { purpose, filename, bytes: sum.bytes, blob_key: key, sums: &sum.block_sums };
    match send(app, &endpoint, sent).await {
        Ok(copy) => {
            busy.answered(app, false);
            Placed::Goes(OnChannel::There {
                channel: channel.id,
                upstream_id: copy.upstream_id.to_string(),
                expires_at: copy.expires_at,
            })
        }
        Err(ReplicateError::Refused { code, message }) => {
            busy.answered(app, false);
            Placed::Refused(BaseResp { status_code: code, status_msg: message })
        }
        Err(ReplicateError::Channel(fault)) => {
            busy.failed(app, fault);
            Placed::Goes(OnChannel::Later)
        }
        Err(ReplicateError::NotFound | ReplicateError::Ours(_)) => Placed::Goes(OnChannel::Later),
    }
}

/// Whether the file could go there at some other time.
fn may_later(one: &Candidate, purpose: &PurposeName) -> bool {
    let takes = one.purposes.as_ref().is_none_or(|taken| taken.contains(purpose));
    one.allowed && !one.others && takes && one.state == ChannelState::Active
}
