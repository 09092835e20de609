//! Ids that were found in a call and in its reply: whose they are, and what stands there instead.
//!
//! An id in a request is the account's, or the call is refused in the words in which upstream refuses one that does
//! not exist: the same for one that never was and for one that is somebody else's. What hangs on an upstream
//! account (a task, a voice, a file that was born there) pins the call to its channel; a file of ours goes
//! wherever the call goes.
//!
//! An id in a reply is one of upstream's. It is ours by the time the client sees it, and never somebody else's.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use filegate_store::{AdoptedFile, NewAdopted, NewTask, StoreError, TaskRow};
use filegate_types::wire::BaseResp;
use filegate_types::{
    AccountId, ApiError, ChannelId, FileId, FileRecord, Principal, PurposeName, UnixMillis,
};

use super::adopt;
use super::json::Kind;
use super::replicate::ReplicateError;
use crate::app::{App, random};
use crate::gate::purposes;
use crate::http::content;
use crate::http::reply::store_failed;

/// Ids of files, tasks and voices in one call, each counted once.
const DISTINCT_MAX: usize = 256;

/// Something found in a request, where it stands in no matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What it is.
    pub(crate) kind: Kind,
    /// As the client wrote it, escapes undone; of `mm_file://` what follows.
    pub(crate) text: String,
    /// Whether that is all that stands there; if not it is no id and no name.
    pub(crate) exact: bool,
    /// The key or parameter that it is the value of.
    pub(crate) name: Cow<'static, str>,
}

impl Asked {
    fn id(&self) -> Result<FileId, Refusal> {
        let id = self.text.parse().ok().filter(|_| self.exact);
        id.ok_or_else(|| unknown(self))
    }
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// By us.
    Ours(ApiError),
    /// In words of upstream's that our own table does not have.
    Upstreams {
        /// Its code.
        code: i64,
        /// Its words.
        message: String,
    },
}

impl Refusal {
    /// As native calls and sockets tell it.
    pub(crate) fn base_resp(&self) -> BaseResp {
        match self {
            Self::Ours(error) => BaseResp::of(error),
            Self::Upstreams { code, message } => {
                BaseResp { status_code: *code, status_msg: message.clone() }
            }
        }
    }

    /// How upstream refuses a voice that it does not know.
    pub(crate) fn unknown_voice() -> Self {
        Self::Upstreams { code: 20132, message: "invalid samples or voice_id".to_owned() }
    }

    /// How upstream refuses to make a voice that is there already.
    pub(crate) fn voice_taken() -> Self {
        Self::Upstreams { code: 2039, message: "voice clone voice id duplicate".to_owned() }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Ours(error)
    }
}

/// What a call does with the voice that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoiceUse {
    /// It speaks.
    Speaks,
    /// It makes it.
    Makes,
    /// It deletes it.
    Deletes,
}

/// What a call hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tied {
    File,
    Task,
    Voice,
}

impl Tied {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Task => "task",
            Self::Voice => "voice",
        }
    }
}

/// What is to stand in the place of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stands {
    /// What stands there.
    Same,
    /// The id of the file's copy on the channel.
    Copy(FileId),
    /// An id of the channel that the call is pinned to.
    Upstream(String),
}

/// What a call needs of the channel that it goes to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    /// Files that have to be there.
    pub(crate) files: Vec<FileRecord>,
    /// Channels on which one of these names is somebody else's voice.
    pub(crate) avoid: BTreeSet<ChannelId>,
    /// The one task of ours that is asked about, for what its answer tells of.
    pub(crate) task: Option<FileId>,
    /// The voice that is made or deleted.
    pub(crate) voice: Option<String>,
    /// Where the voice that is to be made is already: upstream says so best itself.
    remade: BTreeSet<ChannelId>,
    /// Where each thing is that is in some places only.
    pins: Vec<(Tied, BTreeSet<ChannelId>)>,
    /// For each of what was asked, in order.
    stands: Vec<Stands>,
    /// Copies that are there already.
    copies: HashMap<(ChannelId, FileId), Arc<str>>,
}

impl Needs {
    /// The channels that the call can go to, of those that `usable` says are there for the account; `None` for any.
    pub(crate) fn pinned(
        &self,
        usable: impl Fn(ChannelId) -> bool,
    ) -> Result<Option<BTreeSet<ChannelId>>, Refusal> {
        let mut left: Option<BTreeSet<ChannelId>> = None;
        for (tied, places) in &self.pins {
            let there: BTreeSet<_> = places.iter().copied().filter(|id| usable(*id)).collect();
            if there.is_empty() {
                let what = tied.name();
                return Err(ApiError::invalid(format_args!(
                    "the upstream account of this {what} is gone, and the {what} with it: make it again"
                ))
                .into());
            }
            left = Some(match left {
                None => there,
                Some(others) => &others & &there,
            });
        }
        let remade: BTreeSet<_> = self.remade.iter().copied().filter(|id| usable(*id)).collect();
        if !remade.is_empty() {
            left = Some(left.map_or_else(|| remade.clone(), |others| &others & &remade));
        }
        if left.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(ApiError::invalid(
                "what this call names is on different upstream accounts and cannot be used together: \
                 make the voices, tasks or generated files again so that they are on one",
            )
            .into());
        }
        Ok(left)
    }

    /// The files that are there already: channels that have more of them are better.
    pub(crate) fn copies_on(&self, channel: ChannelId) -> usize {
        self.files.iter().filter(|file| self.copy(channel, file.file_id).is_some()).count()
    }

    /// The id of a copy.
    pub(crate) fn copy(&self, channel: ChannelId, file: FileId) -> Option<&Arc<str>> {
        self.copies.get(&(channel, file))
    }

    /// Notes a copy that was made.
    pub(crate) fn copied(&mut self, channel: ChannelId, file: FileId, upstream_id: Arc<str>) {
        self.copies.insert((channel, file), upstream_id);
    }

    /// Forgets a copy.
    pub(crate) fn forget_copy(&mut self, channel: ChannelId, file: FileId) {
        self.copies.remove(&(channel, file));
    }

    /// The files that are not on a channel.
    pub(crate) fn missing_on(&self, channel: ChannelId) -> impl Iterator<Item = FileId> {
        let files = self.files.iter().map(|file| file.file_id);
        files.filter(move |file| self.copy(channel, *file).is_none())
    }

    /// The copies on a channel.
    pub(crate) fn copies(&self, channel: ChannelId) -> Vec<(FileId, Arc<str>)> {
        let files = self.files.iter().map(|file| file.file_id);
        files.filter_map(|id| Some((id, Arc::clone(self.copy(channel, id)?)))).collect()
    }

    /// Whether the account has the voice on a channel that it is about to make there.
    pub(crate) fn has_voice_on(&self, channel: ChannelId) -> bool {
        self.remade.contains(&channel)
    }

    /// What stands on `channel` in the place of the `index`th of what was asked; `None` for the same.
    pub(crate) fn replacement(&self, index: usize, channel: ChannelId) -> Option<&str> {
        let stands = self.stands.get(index)?;
        match stands {
            Stands::Same => None,
            Stands::Copy(file) => self.copy(channel, *file).map(|id| &**id),
            Stands::Upstream(id) => Some(id),
        }
    }
}

/// Whose everything is that a request names.
///
/// `own`: the channels that the account brought itself, where names that are not known here are its own.
pub(crate) async fn resolve(
    app: &App,
    principal: &Principal,
    voice_use: VoiceUse,
    asked: &[Asked],
    own: &BTreeSet<ChannelId>,
) -> Result<Needs, Refusal> {
    let distinct: BTreeSet<_> = asked.iter().map(|one| (one.kind as u8, &one.text)).collect();
    if distinct.len() > DISTINCT_MAX {
        return Err(ApiError::invalid(format_args!(
            "more than {DISTINCT_MAX} files, tasks and voices in one call"
        ))
        .into());
    }
    let mut needs = Needs { stands: vec![Stands::Same; asked.len()], ..Needs::default() };
    files(app, principal, asked, &mut needs).await?;
    tasks(app, principal, asked, &mut needs).await?;
    voices(app, principal, voice_use, asked, own, &mut needs).await?;
    Ok(needs)
}

async fn files(
    app: &App,
    principal: &Principal,
    asked: &[Asked],
    needs: &mut Needs,
) -> Result<(), Refusal> {
    let mut wanted: HashMap<FileId, Vec<usize>> = HashMap::new();
    for (index, one) in asked.iter().enumerate() {
        if matches!(one.kind, Kind::FileId | Kind::MmFile) {
            let id = one.id()?;
            wanted.entry(id).or_default().push(index);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let (account, now) = (principal.account_id, app.clock.now());
    let found = app.catalog.files_of(account, wanted.keys().copied().collect(), now).await;
    for file in found.map_err(failed)? {
        purposes::check(principal, &file.purpose)?;
        content::check_given_out(&file)?;
        for index in wanted.remove(&file.file_id).unwrap_or_default() {
            needs.stands[index] = Stands::Copy(file.file_id);
        }
        needs.files.push(file);
    }
    // In the order in which they stand there, so that the same call is always refused for the same id.
    let mut born: Vec<_> = wanted.into_iter().collect();
    born.sort_by_key(|(_, indices)| indices[0]);
    for (id, indices) in born {
        let found = app.catalog.adopted(account, id, now).await.map_err(failed)?;
        let Some(AdoptedFile { channel_id, upstream_id, purpose, .. }) = found else {
            return Err(unknown(&asked[indices[0]]));
        };
        purposes::check(principal, &purpose)?;
        for index in indices {
            needs.stands[index] = Stands::Upstream(upstream_id.clone());
        }
        needs.pins.push((Tied::File, [channel_id].into()));
    }
    if needs.files.is_empty() {
        return Ok(());
    }
    let ids = needs.files.iter().map(|file| file.file_id).collect();
    for copy in app.catalog.replicas_of(account, ids).await.map_err(failed)? {
        if copy.expires_at.is_some_and(|at| at <= now) {
            continue;
        }
        needs.copies.insert((copy.channel_id, copy.file_id), copy.upstream_id.into());
    }
    Ok(())
}

async fn tasks(
    app: &App,
    principal: &Principal,
    asked: &[Asked],
    needs: &mut Needs,
) -> Result<(), Refusal> {
    let mut known: HashMap<&str, TaskRow> = HashMap::new();
    for (index, one) in asked.iter().enumerate() {
        if one.kind != Kind::TaskId {
            continue;
        }
        if !known.contains_key(one.text.as_str()) {
            let found = app.catalog.task(principal.account_id, one.id()?).await.map_err(failed)?;
            let task = found.ok_or_else(|| unknown(one))?;
            needs.pins.push((Tied::Task, [task.channel_id].into()));
            needs.task = needs.task.or(Some(task.task_id));
            known.insert(&one.text, task);
        }
        let upstream_id = known[one.text.as_str()].upstream_id.clone();
        needs.stands[index] = Stands::Upstream(upstream_id);
    }
    Ok(())
}

async fn voices(
    app: &App,
    principal: &Principal,
    voice_use: VoiceUse,
    asked: &[Asked],
    own: &BTreeSet<ChannelId>,
    needs: &mut Needs,
) -> Result<(), Refusal> {
    if asked.iter().any(|one| one.kind == Kind::VoiceId && !one.exact) {
        return Err(Refusal::unknown_voice());
    }
    // White space around a name is none of it: who adds some means the same voice, and upstream may think so too.
    let voices = asked.iter().filter(|one| one.kind == Kind::VoiceId);
    let names: BTreeSet<String> = voices.map(|one| one.text.trim().to_owned()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let account = principal.account_id;
    let all: Vec<_> = names.iter().cloned().collect();
    let mut mine: HashMap<String, BTreeSet<ChannelId>> = HashMap::new();
    for voice in app.catalog.voices(account, all.clone()).await.map_err(failed)? {
        mine.entry(voice.voice_id).or_default().insert(voice.channel_id);
    }
    for (_, channel, owner) in app.catalog.voice_owners(all).await.map_err(failed)? {
        if owner != account {
            needs.avoid.insert(channel);
        }
    }
    for name in &names {
        match (mine.remove(name), voice_use) {
            (Some(places), VoiceUse::Makes) => needs.remade.extend(places),
            (Some(places), _) => needs.pins.push((Tied::Voice, places)),
            // One that every upstream account has, or one that operators made there.
            (None, VoiceUse::Speaks | VoiceUse::Makes) => {}
            // Those are not for clients to delete, unless the channel is their own.
            (None, VoiceUse::Deletes) if own.is_empty() => return Err(Refusal::unknown_voice()),
            (None, VoiceUse::Deletes) => needs.pins.push((Tied::Voice, own.clone())),
        }
    }
    if voice_use != VoiceUse::Speaks {
        needs.voice = names.into_iter().next();
    }
    Ok(())
}

/// How upstream refuses an id that it does not know. NEVER say more: of an id that somebody else has, too.
fn unknown(one: &Asked) -> Refusal {
    let name = match (one.kind, &*one.name) {
        (Kind::TaskId, _) => "task_id",
        (Kind::FileId, "text_file_id") => "text_file_id",
        _ => "file_id",
    };
    ApiError::invalid(format_args!("{name} not exist")).into()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: StoreError) -> Refusal {
    store_failed(&error).into()
}

impl From<ReplicateError> for Refusal {
    /// What a client is told of a file that could not be copied, where that is the end of its call.
    fn from(error: ReplicateError) -> Self {
        match error {
            ReplicateError::NotFound => ApiError::invalid("file_id not exist").into(),
            ReplicateError::Ours(error) => error.into(),
            ReplicateError::Refused { code, message } => Self::Upstreams { code, message },
            ReplicateError::Channel(_) => {
                ApiError::plain(filegate_types::ErrorCode::Internal).retry_after(5).into()
            }
        }
    }
}

/// Whose what is that a reply tells of.
#[derive(Debug, Clone)]
pub(crate) struct Born {
    account: AccountId,
    principal: Principal,
    channel: ChannelId,
    /// The path of the call, without ids.
    path: String,
    /// What files are that the reply tells of.
    purpose: PurposeName,
    /// The task that they are of, as far as it is known.
    task: Option<FileId>,
}

impl Born {
    /// For the reply of `channel` to a call of `principal`.
    pub(crate) fn new(
        principal: &Principal,
        channel: ChannelId,
        path: &str,
        purpose: PurposeName,
        task: Option<FileId>,
    ) -> Self {
        let (account, path) = (principal.account_id, path.to_owned());
        Self { account, principal: principal.clone(), channel, path, purpose, task }
    }

    /// What stands in the place of `text`, which upstream has written; `None` for the same.
    ///
    /// Its row is durable when this returns. An id that cannot be anybody's, or is another account's, becomes one
    /// that is nobody's: an upstream account may have several of ours, and its answers know nothing of that.
    pub(crate) async fn ours(
        &mut self,
        app: &App,
        kind: Kind,
        text: &str,
    ) -> Result<Option<String>, StoreError> {
        let now = app.clock.now();
        Ok(match kind {
            Kind::TaskId => {
                let task = self.task_of(app, text, now).await?;
                self.task = self.task.or(task);
                Some(shown(task))
            }
            Kind::FileId => Some(shown(self.file_of(app, text, now).await?)),
            Kind::MmFile => self.known_file(app, text).await?.map(shown),
            Kind::VoiceId
            | Kind::CallbackUrl
            | Kind::StatusCode
            | Kind::StatusMessage
            | Kind::Units => None,
        })
    }

    async fn task_of(
        &self,
        app: &App,
        text: &str,
        now: UnixMillis,
    ) -> Result<Option<FileId>, StoreError> {
        let new = NewTask {
            account: self.account,
            key: self.principal.key_id,
            channel: self.channel,
            upstream_id: text.to_owned(),
            path: self.path.clone(),
            id_bits: id_bits(),
        };
        app.catalog.adopt_task(new, now).await
    }

    async fn file_of(
        &self,
        app: &App,
        text: &str,
        now: UnixMillis,
    ) -> Result<Option<FileId>, StoreError> {
        if let Some(known) = self.known_file(app, text).await? {
            return Ok(known);
        }
        let new = NewAdopted {
            account: self.account,
            key: self.principal.key_id,
            channel: self.channel,
            upstream_id: text.to_owned(),
            purpose: self.purpose.clone(),
            filename: name_of(&self.purpose).to_owned(),
            task_id: self.task,
            expires_at: adopt::lifetime(self.purpose.as_str()).map(|life| now.plus(life)),
            keep: self.principal.settings.keep_outputs.unwrap_or(app.config.relay.keep_outputs),
            id_bits: id_bits(),
        };
        app.catalog.adopt_file(new, now).await
    }

    /// The file that has this id upstream, if we know it; `Some(None)` if it is somebody else's.
    async fn known_file(
        &self,
        app: &App,
        text: &str,
    ) -> Result<Option<Option<FileId>>, StoreError> {
        let found = app.catalog.local_of_upstream(self.channel, vec![text.to_owned()]).await?;
        Ok(found.into_iter().next().map(|(_, id, owner)| (owner == self.account).then_some(id)))
    }
}

/// An id, or one that is nobody's.
fn shown(id: Option<FileId>) -> String {
    id.map_or_else(|| "0".to_owned(), |id| id.to_string())
}

/// What a file is called whose name upstream does not tell with its id.
fn name_of(purpose: &PurposeName) -> &'static str {
    match purpose.as_str() {
        "t2a_async" => "speech.tar",
        "video_generation" => "output.mp4",
        _ => "output",
    }
}

fn id_bits() -> [u16; 8] {
    let bytes: [u8; 16] = random();
    std::array::from_fn(|i| u16::from_be_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(channels: &[i64]) -> BTreeSet<ChannelId> {
        channels.iter().copied().map(ChannelId).collect()
    }

    fn pinned(
        pins: &[(Tied, &[i64])],
        usable: &[i64],
    ) -> Result<Option<BTreeSet<ChannelId>>, Refusal> {
        let pins = pins.iter().map(|(tied, places)| (*tied, set(places))).collect();
        let usable = set(usable);
        Needs { pins, ..Needs::default() }.pinned(|channel| usable.contains(&channel))
    }

    fn words(refusal: &Refusal) -> String {
        match refusal {
            Refusal::Ours(error) => error.to_string(),
            Refusal::Upstreams { code, message } => format!("{message} ({code})"),
        }
    }

    #[test]
    fn a_call_goes_where_all_is_that_it_names() {
        assert_eq!(pinned(&[], &[1]).unwrap(), None);
        assert_eq!(pinned(&[(Tied::Task, &[2])], &[1, 2]).unwrap(), Some(set(&[2])));
        let two = [(Tied::Voice, &[1, 2][..]), (Tied::Voice, &[2, 3])];
        assert_eq!(pinned(&two, &[1, 2, 3]).unwrap(), Some(set(&[2])));
        let apart = pinned(&[(Tied::Voice, &[1]), (Tied::File, &[2])], &[1, 2]).unwrap_err();
        assert!(words(&apart).contains("different upstream accounts"), "{}", words(&apart));
        assert!(words(&apart).ends_with("(2013)"));
        // One of the two is not there any more, and the other is elsewhere.
        let apart = pinned(&two, &[1, 3]).unwrap_err();
        assert!(words(&apart).contains("different upstream accounts"));
    }

    #[test]
    fn what_died_with_its_account_says_so() {
        for (tied, name) in [(Tied::File, "file"), (Tied::Task, "task"), (Tied::Voice, "voice")] {
            let gone = words(&pinned(&[(tied, &[2])], &[1]).unwrap_err());
            assert!(
                gone.contains(&format!("the upstream account of this {name} is gone")),
                "{gone}"
            );
        }
    }

    #[test]
    fn a_voice_is_made_again_elsewhere_only_if_its_account_is_gone() {
        let needs = Needs { remade: set(&[2]), ..Needs::default() };
        assert_eq!(needs.pinned(|_| true).unwrap(), Some(set(&[2])));
        assert_eq!(needs.pinned(|channel| channel != ChannelId(2)).unwrap(), None);
    }

    #[test]
    fn each_channel_has_its_own_ids_of_a_file() {
        let [one, two] = [1, 2].map(|id| FileId::new(id).unwrap());
        let (here, there) = (ChannelId(1), ChannelId(2));
        let mut needs = Needs {
            stands: vec![
                Stands::Copy(one),
                Stands::Upstream("77".to_owned()),
                Stands::Same,
                Stands::Copy(two),
            ],
            ..Needs::default()
        };
        needs.copied(here, one, "11".into());
        needs.copied(there, one, "21".into());
        let on = |needs: &Needs, channel| {
            (0..5).map(|n| needs.replacement(n, channel).map(str::to_owned)).collect::<Vec<_>>()
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(on(&needs, here), [is("11"), is("77"), None, None, None]);
        needs.copied(there, two, "22".into());
        assert_eq!(on(&needs, there), [is("21"), is("77"), None, is("22"), None]);
    }

    #[test]
    fn ids_that_are_none_are_refused_as_those_that_do_not_exist() {
        let asked = |kind, text: &str, exact, name: &'static str| Asked {
            kind,
            text: text.to_owned(),
            exact,
            name: name.into(),
        };
        for text in ["0", "-1", "1.0", "1e3", "01", " 1", "9223372036854775808", "abc", "12/34"] {
            for kind in [Kind::FileId, Kind::MmFile] {
                let refused = asked(kind, text, true, "file_id").id().unwrap_err();
                assert_eq!(words(&refused), "invalid params, file_id not exist (2013)");
            }
        }
        let cut = asked(Kind::FileId, "1", false, "file_id").id().unwrap_err();
        assert_eq!(words(&cut), "invalid params, file_id not exist (2013)");
        let task = asked(Kind::TaskId, "x", true, "source_task_id").id().unwrap_err();
        assert_eq!(words(&task), "invalid params, task_id not exist (2013)");
        let text = asked(Kind::FileId, "x", true, "text_file_id").id().unwrap_err();
        assert_eq!(words(&text), "invalid params, text_file_id not exist (2013)");
    }
}
