//! An upload, from its first byte to its row.
//!
//! # Steps, and what a crash between them leaves
//!
//! ```text
//! 1 admit     key, scope, a place among the uploads       nothing
//! 2 receive   form fields; the first 256 KiB in memory    nothing
//! 3 begin     row in `uploads`: blob key, lease           a row: reaped at the next start, or when it has lapsed
//!             (when the memory is full, or before 6)
//! 4 spill     pieces to tmp/KEY, summed on the way        a file in tmp/, swept at the next start; a row
//! 5 inspect   the content against the purpose             as 4. Refused: file and row are removed
//!             Then moderation; for the webhook the bytes go to tmp/KEY first, if they have not, and on S3
//!             they land first
//! 6 land      fsync, rename to blobs/xx/KEY, fsync dir    a whole blob; its row gives it to the reaper
//!             on S3: one PUT, or parts and their end      as above; parts go with it
//! 7 commit    `uploads` row -> `files` row, synced        COMMIT POINT: the file is there for ever
//! 8 reply     status_code 0
//! ```
//!
//! A small file takes steps 3, 4 and 6 together, after 5: what is refused never touches the store. On S3 it
//! has no step 4. On the disk most have no steps 3 and 4: they are appended to a pack with what their row is made of
//! (`straight.rs`). Then 6 is the commit point: what a crash takes of 7 the next start does again.
//!
//! A landing on S3 that failed may still arrive: what gives up on it purges the blob, has it purged again when
//! the lease would have ended, and only then removes the row.
//!
//! INVARIANT: success is answered only after 7. Steps 5 to 7 run on a task of the service that ends
//! even if the client is gone; a client that leaves earlier has its file and row removed by
//! [`UploadGuard`].

mod form;
mod inspect;
mod land;
mod pairs;
mod quota;
mod repeat;
mod spool;
mod straight;
mod strand;
mod sums;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use filegate_store::{
    BlobSum, CommitOutcome, FirstAnswer, NewFile, NewUpload, OnChannel, Short, StoreError,
};
use filegate_types::purpose::{Keep, PurposeName, PurposePolicy};
use filegate_types::units::{Bytes, Span};
use filegate_types::wire::{BaseResp, FileObject};
use filegate_types::{
    AccountId, AccountSettings, ApiError, BlobKey, ErrorCode, FileRecord, FileState, KeyId,
    Principal, UnixMillis,
};
use http::HeaderMap;

use crate::app::{App, random};
use crate::http::body::{Incoming, content_length};
use crate::http::idempotency::Repeatable;
use crate::http::reply::store_failed;
use crate::moderation::{self, What};
use crate::pay;
use crate::relay::on_upload::{self, Placed};
use form::ReceivedForm;
use inspect::Inspected;

pub use inspect::inspect_file;
pub(crate) use land::land;
pub(crate) use spool::{Pieces, Source, Spool};
pub(crate) use straight::Straight;

/// What an upload came to.
#[derive(Debug)]
pub(crate) enum Uploaded {
    /// It is a file now.
    Stored(Box<FileRecord>),
    /// It was stored before: the first answer.
    Repeated(Box<FileObject>),
    /// It passed every check, and nothing was kept.
    Validated(Box<Checked>),
    /// Upstream, which was to have it first, will not have it; nothing was kept.
    Refused(BaseResp),
}

/// A file that passed every check.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) purpose: PurposeName,
    pub(crate) filename: String,
    pub(crate) sum: BlobSum,
    pub(crate) media: serde_json::Value,
}

/// A file received and named, not yet examined.
struct Received {
    purpose: PurposeName,
    policy: PurposePolicy,
    filename: String,
    extension: String,
    spool: Spool,
    expires_after: Option<Span>,
}

/// Takes one upload through all steps. On refusal the rest of the body is drained.
pub(crate) async fn upload(
    app: &Arc<App>,
    principal: &Principal,
    headers: &HeaderMap,
    body: Body,
    validate_only: bool,
) -> Result<Uploaded, ApiError> {
    let mut incoming = Incoming::new(headers, body, app.config.limits.clone());
    let mut label = None;
    let started = Instant::now();
    let result =
        receive_and_finish(app, principal, headers, &mut incoming, validate_only, &mut label);
    let result = result.await;
    incoming.settle().await;
    observe(&result, label.as_ref(), incoming.received(), started);
    if result.is_err() {
        incoming.drain(&app.tasks);
    }
    result
}

async fn receive_and_finish(
    app: &Arc<App>,
    principal: &Principal,
    headers: &HeaderMap,
    incoming: &mut Incoming,
    validate_only: bool,
    label: &mut Option<PurposeName>,
) -> Result<Uploaded, ApiError> {
    let (place, tally) = app.gate.upload(principal, content_length(headers)).await?;
    incoming.count(tally);
    let _in_flight = InFlight::enter();
    let received = receive(app, principal, headers, incoming, validate_only, label).await;
    let (received, guard, repeatable) = match received {
        Ok(received) => received,
        Err(error) => {
            place.leave().await;
            return Err(error);
        }
    };
    // From here on the service owns the work, whether or not the client stays.
    let app = Arc::clone(app);
    let tasks = app.tasks.clone();
    let work = finish(app, principal.clone(), received, guard, validate_only, repeatable);
    let work = async {
        let finished = work.await;
        place.leave().await;
        finished
    };
    let finished = tasks.to_its_end(work).await;
    finished.unwrap_or_else(|_panic| Err(ErrorCode::Unknown.into()))
}

/// Steps 1 to 4, once there is a place.
async fn receive(
    app: &Arc<App>,
    principal: &Principal,
    headers: &HeaderMap,
    incoming: &mut Incoming,
    validate_only: bool,
    label: &mut Option<PurposeName>,
) -> Result<(Received, UploadGuard, Option<Repeatable>), ApiError> {
    let repeatable =
        if validate_only { None } else { Repeatable::begin(app, principal, headers).await? };
    let mut guard = UploadGuard::new(app, principal);
    // What is only checked, or was paid before, costs nothing.
    guard.free = validate_only || repeatable.as_ref().is_some_and(Repeatable::is_known);
    if !guard.free {
        pay::can_pay(principal)?;
    }
    let receiving = Instant::now();
    let received = form::receive(app, principal, headers, incoming, &mut guard, label).await?;
    stage("receive", receiving);
    Ok((received, guard, repeatable))
}

/// Steps 5 to 7.
async fn finish(
    app: Arc<App>,
    principal: Principal,
    received: Received,
    mut guard: UploadGuard,
    validate_only: bool,
    repeatable: Option<Repeatable>,
) -> Result<Uploaded, ApiError> {
    let (received, first_answer) = match repeatable {
        None => (received, None),
        Some(ref repeatable) => match repeated(&app, received, &mut guard, repeatable).await? {
            Repeated::Before(file) => return Ok(Uploaded::Repeated(file)),
            Repeated::Never(received, first) => (*received, Some(first)),
        },
    };
    if !validate_only && let Some(local) = straight::way(&app, &principal, &received).await? {
        return straight::finish(&app, &principal, local, received, guard, first_answer).await;
    }
    let Received { purpose, policy, filename, extension, spool, expires_after } = received;
    let inspecting = Instant::now();
    let turn = app.gate.turn(principal.account_id).await?;
    let decode = app.config.probe.decode;
    let inspection =
        app.tasks.blocking(move || inspect::inspect(spool, &policy, &extension, decode)).await;
    let (spool, inspected) = inspection.map_err(|_panic| ErrorCode::Unknown)??;
    stage("inspect", inspecting);
    // Moderation may wait for others for seconds.
    drop(turn);
    if !validate_only {
        let bytes = Bytes(spool.bytes());
        quota::check(&app, &principal, Some(&purpose), bytes).await?;
        guard.purpose = Some(purpose.clone());
        guard.bytes_max = bytes;
    }

    let moderating = Instant::now();
    let Inspected { media_type, media, .. } = &inspected;
    let what = What { purpose: &purpose, filename: &filename, media_type, media, validate_only };
    let (spool, verdict) = moderation::check(&app, &principal, &mut guard, spool, what).await?;
    stage("moderate", moderating);
    if validate_only {
        let sum = spool.into_sum();
        guard.abort().await;
        let checked = Checked { purpose, filename, sum, media: inspected.media };
        return Ok(Uploaded::Validated(Box::new(checked)));
    }

    // On the disk, landing and committing share one turn.
    let mut turn = None;
    if app.blobs.as_local().is_some() {
        turn = Some(app.gate.turn(principal.account_id).await?);
    }
    let sum = land(&app, &principal, &mut guard, spool).await?.into_sum();
    let mut upstream = OnChannel::Nowhere;
    if verdict.state == FileState::Ready && on_upload::is_wanted(&app, &principal) {
        // Others do not wait for a channel.
        drop(turn.take());
        let placing = Instant::now();
        let key = guard.begin().await?;
        let place = on_upload::place(&app, &principal, &purpose, &filename, (&key, &sum));
        match guard.renewed_while(place).await? {
            Placed::Refused(words) => return Ok(Uploaded::Refused(words)),
            Placed::Goes(goes) => upstream = goes,
        }
        stage("upstream", placing);
    }
    let _turn = match turn {
        Some(turn) => turn,
        None => app.gate.turn(principal.account_id).await?,
    };

    let committing = Instant::now();
    let named = purpose.clone();
    let draft = Draft {
        purpose,
        filename,
        sum,
        inspected,
        expires_after,
        state: verdict.state,
        verdict: verdict.json,
        first_answer,
        upstream: upstream.clone(),
    };
    let outcome = guard.commit(&principal, draft).await;
    after_commit(&app, outcome.as_ref().ok(), upstream, &named).await;
    let record = outcome?;
    stage("commit", committing);
    Ok(Uploaded::Stored(Box::new(record)))
}

/// A file that is about to be one.
struct Draft {
    purpose: PurposeName,
    filename: String,
    sum: BlobSum,
    inspected: Inspected,
    expires_after: Option<Span>,
    state: FileState,
    verdict: Option<serde_json::Value>,
    first_answer: Option<FirstAnswer>,
    upstream: OnChannel,
}

impl Draft {
    fn into_file(self, principal: &Principal, blob_key: BlobKey, now: UnixMillis) -> NewFile {
        let Inspected { media_type, media, keep } = self.inspected;
        NewFile {
            purpose: self.purpose,
            filename: self.filename,
            blob_key,
            sum: self.sum,
            media_type: media_type.to_owned(),
            media,
            expires_at: expiry(keep, self.expires_after, &principal.settings, now),
            key_id: principal.key_id,
            state: self.state,
            verdict: self.verdict,
            limits: principal.account_limits.clone(),
            first_answer: self.first_answer,
            upstream: self.upstream,
            id_bits: id_bits(),
        }
    }
}

/// Sees to what is upstream of a file that was committed, or was not.
async fn after_commit(
    app: &App,
    committed: Option<&FileRecord>,
    upstream: OnChannel,
    purpose: &PurposeName,
) {
    match (committed, upstream) {
        (Some(_), OnChannel::Later) => app.relay.jobs_due.notify_one(),
        // A copy of nothing. If there is a file after all, its next call finds the copy gone.
        (None, OnChannel::There { channel, upstream_id, .. }) => {
            let now = app.clock.now();
            let gone = app.catalog.delete_upstream(channel, upstream_id, purpose.to_string(), now);
            if let Err(error) = gone.await {
                tracing::warn!(error = &error as &dyn std::error::Error, "upload.copy.left");
            }
        }
        _ => {}
    }
}

/// When the file goes: what the upload asked for, else what the purpose says, and never later than the
/// account's longest.
pub(crate) fn expiry(
    keep: Keep,
    asked: Option<Span>,
    settings: &AccountSettings,
    now: UnixMillis,
) -> Option<UnixMillis> {
    let usual = match keep {
        Keep::UntilDeleted => None,
        Keep::For(span) => Some(span),
    };
    let wanted = asked.or(usual);
    let kept = match (wanted, settings.keep_max) {
        (Some(wanted), Some(longest)) => Some(wanted.min(longest)),
        (wanted, longest) => wanted.or(longest),
    };
    kept.map(|span| now.plus(span.0))
}

/// Whether a request with an `Idempotency-Key` was made before.
enum Repeated {
    /// It was, and this was answered.
    Before(Box<FileObject>),
    /// It was not; this is what to keep.
    Never(Box<Received>, FirstAnswer),
}

async fn repeated(
    app: &Arc<App>,
    received: Received,
    guard: &mut UploadGuard,
    repeatable: &Repeatable,
) -> Result<Repeated, ApiError> {
    let summed = app.tasks.blocking(move || {
        let mut received = received;
        let sha256 = received.spool.digest()?;
        Ok::<_, StoreError>((received, sha256))
    });
    let (received, sha256) =
        summed.await.map_err(|_panic| ErrorCode::Unknown)?.map_err(|e| store_failed(&e))?;
    let fingerprint = repeat::fingerprint(&received, &sha256);
    if !repeatable.is_known() {
        let first = repeatable.first_answer(fingerprint);
        return Ok(Repeated::Never(Box::new(received), first));
    }
    drop(received);
    guard.abort().await;
    repeat::replay(repeatable, fingerprint).map(Repeated::Before)
}

pub(crate) fn id_bits() -> [u16; 8] {
    let bytes: [u8; 16] = random();
    std::array::from_fn(|i| u16::from_be_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

/// How far an upload's bytes have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Landing {
    /// Nothing is in the store.
    Never,
    /// Something may be, or come to be: a request whose answer was lost can arrive later.
    Begun,
    /// All of it is.
    Done,
}

/// The upload's row and blob key. Dropped before [`commit`](Self::commit) it removes what there is. One that goes the
/// straight way has neither.
pub(crate) struct UploadGuard {
    app: Arc<App>,
    account: AccountId,
    api_key: KeyId,
    key: Option<BlobKey>,
    lease_until: UnixMillis,
    landing: Landing,
    /// Whether nothing is held for it.
    free: bool,
    /// As far as it is known.
    purpose: Option<PurposeName>,
    /// The most that the file can have, as far as it is known.
    bytes_max: Bytes,
}

impl UploadGuard {
    fn new(app: &Arc<App>, principal: &Principal) -> Self {
        Self {
            app: Arc::clone(app),
            account: principal.account_id,
            api_key: principal.key_id,
            key: None,
            lease_until: UnixMillis(0),
            landing: Landing::Never,
            free: false,
            purpose: None,
            bytes_max: Bytes(app.config.largest_file()),
        }
    }

    /// Step 3, once; returns the blob key.
    pub(crate) async fn begin(&mut self) -> Result<BlobKey, ApiError> {
        if let Some(key) = &self.key {
            let key = key.clone();
            self.renew().await?;
            return Ok(key);
        }
        let now = self.app.clock.now();
        let key = BlobKey::mint(now, random());
        // Noted first: if this future is dropped, the row may be there all the same.
        self.key = Some(key.clone());
        self.lease_until = now.plus(self.app.config.jobs.upload_lease.0);
        let upload = NewUpload {
            account: self.account,
            key: self.api_key,
            blob_key: key.clone(),
            lease_until: self.lease_until,
            purpose: self.purpose.clone(),
            bytes_max: self.bytes_max,
            free: self.free,
        };
        let began = self.app.catalog.begin_upload(upload, now).await;
        match began.map_err(|error| store_failed(&error))? {
            Ok(()) => Ok(key),
            Err(short) => {
                self.key = None;
                Err(pay::refused(short))
            }
        }
    }

    /// Extends the lease when half of it is used up.
    async fn renew(&mut self) -> Result<(), ApiError> {
        let now = self.app.clock.now();
        let lease = self.app.config.jobs.upload_lease.0;
        let Some(key) = self.key.clone() else { return Ok(()) };
        if now < self.lease_until.minus(lease / 2) {
            return Ok(());
        }
        self.lease_until = now.plus(lease);
        let renewed = self.app.catalog.renew_upload(key, self.lease_until).await;
        match renewed {
            Ok(true) => Ok(()),
            Ok(false) => Err(store_failed(&StoreError::LeaseLost)),
            Err(error) => Err(store_failed(&error)),
        }
    }

    /// Step 7.
    async fn commit(mut self, principal: &Principal, draft: Draft) -> Result<FileRecord, ApiError> {
        let key = self.key.clone().ok_or(ErrorCode::Unknown)?;
        let (catalog, now) = (&self.app.catalog, self.app.clock.now());
        let file = draft.into_file(principal, key, now);
        match catalog.commit_upload(self.account, file, now).await {
            Ok(outcome) => {
                // If nothing was changed: dropped, the guard removes blob and row.
                let record = committed(Ok(outcome))?;
                self.key = None;
                Ok(record)
            }
            Err(error) => {
                if self.is_doubtful(&error) {
                    // Whether the row is on disk is not known: the blob must stay for it. The
                    // reaper finds out when the lease has ended, or the next start, and purges it
                    // if the upload is still one.
                    self.key = None;
                }
                Err(store_failed(&error))
            }
        }
    }

    /// Whether there may be a file after all.
    fn is_doubtful(&self, error: &StoreError) -> bool {
        match error {
            StoreError::Poisoned | StoreError::Closed | StoreError::Uncertain { .. } => true,
            // Without a row no reaper would look. SQLite knows of each other error that nothing came of it.
            StoreError::Catalog { .. } => self.key.is_some() || self.app.catalog.is_poisoned(),
            _ => false,
        }
    }

    /// Removes the row of an upload whose temporary file is gone.
    async fn abort(&mut self) {
        if let Some(key) = self.key.take()
            && let Err(error) = self.app.catalog.abort_upload(key).await
        {
            // The lease ends by itself and the reaper does the rest.
            tracing::warn!(error = &error as &dyn std::error::Error, "upload.abort.failed");
        }
    }
}

/// The file, if it is one now. Else nothing was changed.
fn committed(outcome: Result<CommitOutcome, Short>) -> Result<FileRecord, ApiError> {
    match outcome {
        Ok(CommitOutcome::Committed(record)) => Ok(*record),
        Ok(CommitOutcome::OverQuota(quota)) => Err(quota::refused(&quota)),
        Ok(CommitOutcome::Repeated) => {
            let why = "a request with this Idempotency-Key was made at the same time";
            Err(ApiError::detailed(ErrorCode::RateLimit, why).retry_after(1))
        }
        Err(short) => Err(pay::refused(short)),
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let app = Arc::clone(&self.app);
        let landing = self.landing;
        self.app.tasks.spawn(async move {
            // Where a step fails the row stays, so the reaper tries again when the lease has ended.
            if landing != Landing::Never && app.blobs.purge(&key).await.is_err() {
                return;
            }
            if landing == Landing::Begun && app.blobs.as_s3().is_some() {
                let later = app.clock.now().plus(app.config.jobs.upload_lease.0);
                if app.catalog.purge_orphan(key.clone(), later).await.is_err() {
                    return;
                }
            }
            let _reaped_otherwise = app.catalog.abort_upload(key).await;
        });
    }
}

/// Counts an upload in flight for as long as it lives.
struct InFlight;

impl InFlight {
    fn enter() -> Self {
        metrics::gauge!("filegate_uploads_in_flight").increment(1);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!("filegate_uploads_in_flight").decrement(1);
    }
}

fn stage(name: &'static str, since: Instant) {
    metrics::histogram!("filegate_upload_stage_seconds", "stage" => name)
        .record(since.elapsed().as_secs_f64());
}

fn observe(
    result: &Result<Uploaded, ApiError>,
    purpose: Option<&PurposeName>,
    received: u64,
    started: Instant,
) {
    let purpose = purpose.map_or_else(|| "(unknown)".to_owned(), ToString::to_string);
    let outcome = match result {
        Ok(Uploaded::Stored(_)) => "stored".to_owned(),
        Ok(Uploaded::Repeated(_)) => "repeated".to_owned(),
        Ok(Uploaded::Validated(_)) => "validated".to_owned(),
        Ok(Uploaded::Refused(words)) => words.status_code.to_string(),
        Err(error) => error.code.number().to_string(),
    };
    metrics::counter!("filegate_upload_received_bytes_total").increment(received);
    if let Ok(Uploaded::Stored(record)) = result {
        metrics::counter!("filegate_upload_stored_bytes_total", "purpose" => purpose.clone())
            .increment(record.bytes);
    }
    if let Err(error) = result {
        tracing::info!(purpose, error = error.message(), "upload.refused");
    }
    metrics::histogram!("filegate_upload_seconds", "outcome" => outcome.clone())
        .record(started.elapsed().as_secs_f64());
    metrics::counter!("filegate_uploads_total", "purpose" => purpose, "outcome" => outcome)
        .increment(1);
}

impl ReceivedForm {
    /// Holds what was received against what an upload needs.
    fn complete(self) -> Result<Received, ApiError> {
        let (purpose, policy) =
            self.purpose.ok_or_else(|| ApiError::invalid("purpose is missing"))?;
        let file = self.file.ok_or_else(|| ApiError::invalid("file is missing"))?;
        let extension = file.extension;
        let Some(rule) = policy.rule_for(&extension) else {
            return Err(ApiError::invalid_extension(purpose.as_str(), ""));
        };
        let bytes = file.spool.bytes();
        if bytes == 0 {
            return Err(ApiError::invalid("file is empty"));
        }
        form::check_size(bytes, rule.bytes_max)?;
        let (filename, spool) = (file.filename, file.spool);
        let expires_after = self.expires_after;
        Ok(Received { purpose, policy, filename, extension, spool, expires_after })
    }
}
