//! Steps 3 and 6: whose everything is that a call names, and the call as a channel gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use filegate_client::{Error as ClientError, Key};
use filegate_types::{ApiError, ChannelId, ChannelState, FileId};
use futures_util::{StreamExt as _, stream};
use http::Method;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::Call;
use super::body::Whole;
use super::callback;
use super::calls::Voice;
use super::channels::{Access, Channel};
use super::health::{Fault, Standing, TroubleKind};
use super::ids::{self, Needs, Refusal, VoiceUse};
use super::json::{Found, Kind, Scan};
use super::named::{ForChannel, Named};
use super::replicate::{self, Endpoint, ReplicateError};
use super::reply::Opening;
use super::route;
use crate::app::App;
use crate::http::reply::store_failed;

/// Files of a call that are copied at a time.
const COPIES: usize = 4;
/// Bytes of a body of form fields that are looked at; of longer ones nobody knows what they name.
const FORM_MAX: u64 = 64 << 10;
/// How upstream says that it does not know a file, or no longer (minimax-wire §3.3).
const GONE: [&str; 4] = ["file_id not exist", "file not found", "file not exist", "file expired"];

/// All channels by their ids.
pub(crate) type All = BTreeMap<ChannelId, Arc<Channel>>;

/// What a call names, and what became of it so far.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) needs: Needs,
    named: Named,
    /// Where the client wants to be told, and the row of the address of ours that upstream was given instead.
    callback: Option<Found>,
    called_back: Option<String>,
    /// Where the name of its voice was claimed for this call.
    claimed: Option<ChannelId>,
    /// Whether copies were made anew for this call: once is enough.
    refreshed: bool,
}

/// Why a call is not ready for a channel.
#[derive(Debug)]
pub(crate) enum There {
    /// The channel cannot take its files now.
    Channel(Fault),
    /// The name of its voice is somebody else's there.
    Taken,
    /// It can go nowhere.
    Call(Refusal),
}

/// Finds out what `call` names, and whose it is.
pub(crate) async fn own(
    app: &Arc<App>,
    call: &Call,
    body: Option<&Whole>,
) -> Result<Owned, Refusal> {
    let finds = match body {
        Some(whole) if !call.rules.request.is_empty() && whole.bytes() > 0 => {
            found(call, whole).await?
        }
        _ => vec![],
    };
    let named = Named::of(&call.rules, &call.target.path, call.query.as_deref(), &finds);
    let mut needs = Needs::default();
    if !named.asked.is_empty() {
        let all = app.relay.channels.all(app).await.map_err(|error| store_failed(&error))?;
        let voice_use = match call.rules.voice {
            None => VoiceUse::Speaks,
            Some(Voice::Makes) => VoiceUse::Makes,
            Some(Voice::Deletes) => VoiceUse::Deletes,
        };
        let account = Some(call.principal.account_id);
        let own = all.values().filter(|channel| channel.facts().row.account_id == account);
        let own: BTreeSet<_> = own.map(|channel| channel.id).collect();
        needs = ids::resolve(app, &call.principal, voice_use, &named.asked, &own).await?;
    }
    let mut callbacks = finds.into_iter().filter(|found| found.kind == Kind::CallbackUrl);
    let callback = callbacks.next();
    if let Some(url) = &callback {
        // Which of two upstream would call nobody knows.
        if !url.exact || callbacks.next().is_some() {
            return Err(ApiError::invalid("callback_url is not one address").into());
        }
        callback::check(&app.config, &url.text)?;
    }
    Ok(Owned { needs, named, callback, ..Owned::default() })
}

/// As [`own`], of a message of a socket's; `None` if it names nothing.
pub(crate) async fn own_message(
    app: &Arc<App>,
    call: &Call,
    text: &str,
) -> Result<Option<Owned>, Refusal> {
    if call.rules.request.is_empty() {
        return Ok(None);
    }
    let message = Whole::Memory(text.as_bytes().to_vec().into());
    let owned = own(app, call, Some(&message)).await?;
    Ok((!owned.named.asked.is_empty()).then_some(owned))
}

/// What the rules of a call find in its body.
async fn found(call: &Call, whole: &Whole) -> Result<Vec<Found>, Refusal> {
    let media = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = media.is_some_and(|media| media.contains("x-www-form-urlencoded"));
    if !call.rules.is_known && is_form {
        return form_names_nothing(call, whole).await.map(|()| vec![]);
    }
    let mut scan = Scan::new(call.rules.request);
    let mut pieces = whole.pieces(0..whole.bytes());
    let mut is_json = None;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| store_failed(&error))?;
        let first = piece.iter().find(|byte| !byte.is_ascii_whitespace());
        is_json = is_json.or(first.map(|byte| b"{[\xEF".contains(byte)));
        // Of what is no document nothing is known, and it names nothing.
        if is_json == Some(false) && !call.rules.is_known {
            return Ok(vec![]);
        }
        scan.push(&piece).map_err(|why| ApiError::invalid(format_args!("json: {why}")))?;
    }
    Ok(scan.finish().map_err(|why| ApiError::invalid(format_args!("json: {why}")))?)
}

/// Forms are not rewritten, and none of upstream's calls takes one with ids: those in them would be upstream's own.
async fn form_names_nothing(call: &Call, whole: &Whole) -> Result<(), Refusal> {
    let refused = || ApiError::invalid("ids in a form are not understood: send JSON").into();
    if whole.bytes() > FORM_MAX {
        return Err(refused());
    }
    let mut form = Vec::new();
    let mut pieces = whole.pieces(0..whole.bytes());
    while let Some(piece) = pieces.next().await {
        form.extend_from_slice(&piece.map_err(|error| store_failed(&error))?);
    }
    match std::str::from_utf8(&form) {
        Ok(form) if call.rules.query_ids(form).is_empty() => Ok(()),
        _ => Err(refused()),
    }
}

/// Whether a channel can be called for `call` at all: what hangs on one that cannot is gone.
pub(super) fn is_alive(app: &App, call: &Call, channel: &Channel) -> bool {
    let facts = channel.facts();
    let others = facts.row.account_id.is_some_and(|owner| owner != call.principal.account_id);
    let refused = matches!(
        channel.standing(app.clock.now()),
        Standing::Out(trouble) if trouble.kind == TroubleKind::KeyRefused
    );
    let state = matches!(facts.row.state, ChannelState::Active | ChannelState::Draining);
    state && facts.access.is_some() && !others && !refused
}

impl Owned {
    /// What the choice of a channel has to know.
    pub(crate) fn route(&self, app: &App, call: &Call, all: &All) -> Result<route::Needs, Refusal> {
        let usable =
            |id| all.get(&id).is_some_and(|channel: &Arc<Channel>| is_alive(app, call, channel));
        Ok(route::Needs {
            pinned: self.needs.pinned(usable)?,
            avoid: self.needs.avoid.clone(),
            purposes: self.needs.files.iter().map(|file| file.purpose.clone()).collect(),
            free: matches!(call.method, Method::GET | Method::HEAD),
        })
    }

    /// Whether all files of the call are on the channel.
    pub(crate) fn has_files(&self, channel: ChannelId) -> bool {
        !self.needs.files.is_empty() && self.needs.copies_on(channel) == self.needs.files.len()
    }

    /// What a client is told where no channel is left because of names that are somebody else's there.
    pub(crate) fn name_refused(call: &Call) -> Refusal {
        match call.rules.voice {
            Some(Voice::Makes) => Refusal::voice_taken(),
            _ => Refusal::unknown_voice(),
        }
    }

    /// Sees that everything is there, and gives the call as the channel gets it.
    pub(crate) async fn there(
        &mut self,
        app: &Arc<App>,
        call: &Call,
        channel: &Channel,
        access: &Access,
    ) -> Result<ForChannel, There> {
        self.copy(app, call, channel, access).await?;
        self.claim(app, call, channel.id).await?;
        let (path, query) = (&call.target.path, call.query.as_deref());
        let mut sent = self.named.for_channel(path, query, &self.needs, channel.id);
        if let Some(url) = &self.callback {
            let (principal, name) = (&call.principal, &call.rules.name);
            let begun = callback::begin(app, principal, channel.id, name, &url.text).await;
            let begun = begun.map_err(|error| There::Call(error.into()))?;
            sent.edits.extend(url.edit(&begun.url));
            sent.edits.sort_by_key(|edit| edit.range.start);
            if let Some(before) = self.called_back.replace(begun.callback_id) {
                callback::refused(app, principal.account_id, before).await;
            }
        }
        Ok(sent)
    }

    async fn copy(
        &mut self,
        app: &Arc<App>,
        call: &Call,
        channel: &Channel,
        access: &Access,
    ) -> Result<(), There> {
        if self.needs.files.is_empty() {
            return Ok(());
        }
        let account = call.principal.account_id;
        let missing: Vec<FileId> = self.needs.missing_on(channel.id).collect();
        if !missing.is_empty() {
            let endpoint = endpoint(channel, access).ok_or(There::Channel(Fault::Failed))?;
            let endpoint = &endpoint;
            let copies = missing.into_iter().map(|file| async move {
                (file, replicate::ensure(app, account, file, endpoint).await)
            });
            let mut copies = stream::iter(copies).buffer_unordered(COPIES);
            while let Some((file, copied)) = copies.next().await {
                match copied {
                    Ok(upstream_id) => self.needs.copied(channel.id, file, upstream_id),
                    Err(ReplicateError::Channel(fault)) => return Err(There::Channel(fault)),
                    Err(error) => return Err(There::Call(error.into())),
                }
            }
        }
        let used = self.needs.files.iter().map(|file| (file.file_id, channel.id));
        replicate::used(app, used);
        Ok(())
    }

    /// Takes the name of the voice that is to be made.
    async fn claim(&mut self, app: &App, call: &Call, channel: ChannelId) -> Result<(), There> {
        let (Some(Voice::Makes), Some(voice)) = (call.rules.voice, &self.needs.voice) else {
            return Ok(());
        };
        let (account, key) = (call.principal.account_id, call.principal.key_id);
        let file = self.needs.files.first().map(|file| file.file_id);
        let now = app.clock.now();
        let claimed = app.catalog.claim_voice(account, key, channel, voice.clone(), file, now);
        if claimed.await.map_err(|error| There::Call(store_failed(&error).into()))? {
            // What was claimed before may be there, its answer lost: a refusal says nothing of that.
            self.claimed = (!self.needs.has_voice_on(channel)).then_some(channel);
            return Ok(());
        }
        self.needs.avoid.insert(channel);
        Err(There::Taken)
    }

    /// Gives back what was taken for a call that has certainly done nothing.
    pub(crate) async fn not_done(&mut self, app: &App, call: &Call) {
        self.not_made(app, call).await;
        if let Some(callback) = self.called_back.take() {
            callback::refused(app, call.principal.account_id, callback).await;
        }
    }

    /// Gives back the name of a voice that was certainly not made.
    pub(crate) async fn not_made(&mut self, app: &App, call: &Call) {
        let (Some(channel), Some(voice)) = (self.claimed.take(), self.needs.voice.clone()) else {
            return;
        };
        let account = call.principal.account_id;
        if let Err(error) = app.catalog.voice_unclaimed(account, channel, voice).await {
            // It stays claimed: the account alone can use it.
            tracing::warn!(error = &error as &dyn std::error::Error, "relay.voice.unclaim");
        }
    }

    /// Whether upstream's answer says that it does not know a file that it had, and the copies on the channel are now
    /// to be made anew. Once for a call.
    pub(crate) async fn lost(
        &mut self,
        app: &Arc<App>,
        call: &Call,
        channel: &Channel,
        access: &Access,
        opening: &Opening,
    ) -> bool {
        if self.refreshed || self.needs.copies_on(channel.id) == 0 || !says_gone(opening) {
            return false;
        }
        self.refreshed = true;
        let copies = self.needs.copies(channel.id);
        let gone = match copies.len() {
            1 => copies,
            _ => unknown_there(app, channel, access, copies).await,
        };
        let (account, now) = (call.principal.account_id, app.clock.now());
        for (file, upstream_id) in &gone {
            let noted = app.catalog.replica_gone(account, *file, channel.id, upstream_id, now);
            if let Err(error) = noted.await {
                let _logged = store_failed(&error);
                return false;
            }
            self.needs.forget_copy(channel.id, *file);
        }
        metrics::counter!("filegate_relay_replicas_gone_total").increment(gone.len() as u64);
        true
    }
}

/// Those of `copies` that the channel says it does not know; all of them if it says so of none.
async fn unknown_there(
    app: &Arc<App>,
    channel: &Channel,
    access: &Access,
    copies: Vec<(FileId, Arc<str>)>,
) -> Vec<(FileId, Arc<str>)> {
    let client = endpoint(channel, access).and_then(|to| replicate::client(app, &to).ok());
    let Some(client) = client else { return copies };
    let asked = copies.clone().into_iter().map(|(file, upstream_id)| {
        let client = client.clone();
        async move {
            let id = upstream_id.parse().ok()?;
            let refused = client.retrieve(id).await.err()?;
            matches!(refused, ClientError::Refused { code: 2013, .. })
                .then_some((file, upstream_id))
        }
    });
    let asked: Vec<_> = stream::iter(asked).buffered(COPIES).collect().await;
    let gone: Vec<_> = asked.into_iter().flatten().collect();
    if gone.is_empty() { copies } else { gone }
}

/// Where copies on a channel are made.
pub(crate) fn endpoint(channel: &Channel, access: &Access) -> Option<Endpoint> {
    let facts = channel.facts();
    Some(Endpoint {
        channel_id: channel.id,
        base_url: facts.row.base_url.clone(),
        key: Key::new(access.key.to_str().ok()?).ok()?,
        group_id: facts.row.settings.group_id.clone(),
    })
}

/// What refusals look like, of both shapes.
#[derive(Deserialize)]
struct Said {
    base_resp: Option<BaseResp>,
    error: Option<OpenAi>,
}

#[derive(Deserialize)]
struct BaseResp {
    status_code: i64,
    #[serde(default)]
    status_msg: String,
}

#[derive(Deserialize)]
struct OpenAi {
    #[serde(default)]
    message: String,
}

fn says_gone(opening: &Opening) -> bool {
    if !opening.whole {
        return false;
    }
    let text: Vec<u8> = opening.looked.iter().flat_map(|piece| piece.iter().copied()).collect();
    let Ok(said) = serde_json::from_slice::<Said>(&text) else { return false };
    let words = match (said.base_resp, said.error) {
        (Some(BaseResp { status_code: 2013, status_msg }), _) => status_msg,
        (_, Some(error)) if opening.parts.status.is_client_error() => error.message,
        _ => return false,
    };
    GONE.iter().any(|gone| words.contains(gone))
}
