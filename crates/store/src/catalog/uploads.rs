//! Uploads in progress: begun, renewed, aborted, reaped, and committed to files.

use std::collections::BTreeMap;

use filegate_types::units::Bytes;
use filegate_types::{
    AccountId, BlobKey, Call, ChannelId, FileId, FileRecord, FileState, KeyId, Money, PurposeName,
    TenantLimits, UnixMillis,
};
use serde::{Deserialize, Serialize};

use super::books::{self, Entry, Short};
use super::idempotency::{self, FirstAnswer};
use super::jobs::JobKind;
use super::sql::{self, Connection, Dialect, OptionalExtension as _, Row};
use super::usage::{self, Usage};
use super::{Catalog, freeing, jobs, relaxed, replicas, synced};
use crate::blobs::BlobSum;
use crate::error::StoreError;

/// An upload that will have bytes in the store.
#[derive(Debug, Clone)]
pub struct NewUpload {
    /// Whose it is.
    pub account: AccountId,
    /// The key it is made with.
    pub key: KeyId,
    /// Where its bytes will be.
    pub blob_key: BlobKey,
    /// Until when it may make no progress.
    pub lease_until: UnixMillis,
    /// What it is for, if that is known yet.
    pub purpose: Option<PurposeName>,
    /// The most bytes it can have.
    pub bytes_max: Bytes,
    /// Whether nothing is to be held: it will not be committed.
    pub free: bool,
}

/// A file whose blob has landed, to be committed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewFile {
    /// What it was uploaded for.
    pub purpose: PurposeName,
    /// The cleaned name.
    pub filename: String,
    /// Where its bytes landed; there must be an upload with this key.
    pub blob_key: BlobKey,
    /// Its length and sums.
    pub sum: BlobSum,
    /// What downloads are served as.
    pub media_type: String,
    /// What was measured.
    pub media: serde_json::Value,
    /// When it is to be deleted.
    pub expires_at: Option<UnixMillis>,
    /// The key it was uploaded with.
    pub key_id: KeyId,
    /// Whether its content is given out.
    pub state: FileState,
    /// What moderation said, as JSON, if it was asked.
    pub verdict: Option<serde_json::Value>,
    /// What the account may store.
    pub limits: TenantLimits,
    /// The request's `Idempotency-Key`, if it has one, and what is to be answered to the same again.
    pub first_answer: Option<FirstAnswer>,
    /// Where it is or is to be copied to with its commit.
    pub upstream: OnChannel,
    /// Random bits for ids; on a clash the next are tried.
    pub id_bits: [u16; 8],
}

/// What is of a file on a channel when it is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnChannel {
    /// Nothing: it is copied when a call needs it.
    Nowhere,
    /// A copy.
    There {
        /// On which.
        channel: ChannelId,
        /// Its id there.
        upstream_id: String,
        /// When upstream forgets it, as far as is known.
        expires_at: Option<UnixMillis>,
    },
    /// Nothing yet: a job is promised that copies it.
    Later,
}

/// How a commit went.
#[derive(Debug, Clone, PartialEq)]
pub enum CommitOutcome {
    /// It is a file, and was paid.
    Committed(Box<FileRecord>),
    /// It would not fit what the account may store. Nothing was changed.
    OverQuota(Quota),
    /// Another request with the same `Idempotency-Key` was first. Nothing was changed.
    Repeated,
}

/// What an account may store and a file would exceed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quota {
    /// Bytes of all its files.
    Bytes {
        /// The limit.
        limit: Bytes,
        /// What is stored without the file.
        stored: Bytes,
    },
    /// Files of a purpose.
    Files {
        /// The limit.
        limit: u64,
        /// The purpose.
        purpose: PurposeName,
    },
}

impl Catalog {
    /// Notes an upload that will have bytes in the store, and holds its price (design §4, step 2).
    ///
    /// Relaxed: after a power cut the row may be missing, and the hold with it, while the blob is
    /// there; `fsck` finds it.
    ///
    /// No lock: the UPDATE that holds the money says itself that it is there, and waits for others that
    /// change the same account.
    pub async fn begin_upload(
        &self,
        upload: NewUpload,
        now: UnixMillis,
    ) -> Result<Result<(), Short>, StoreError> {
        self.engine
            .write(relaxed("beginning an upload"), move |c| {
                let purpose = upload.purpose.as_ref();
                let reserved = if upload.free {
                    Ok(Money::ZERO)
                } else {
                    books::hold(c, upload.account, purpose, upload.bytes_max)?
                };
                let hold = match reserved {
                    Ok(hold) => hold,
                    Err(short) => return Ok(Err(short)),
                };
                c.prepare_cached(
                    "INSERT INTO uploads
                         (blob_key, account_id, started_at, lease_until, key_id, hold)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .queue((
                    upload.blob_key.as_str(),
                    upload.account.0,
                    now.0,
                    upload.lease_until.0,
                    upload.key.0,
                    hold.0,
                ))?;
                Ok(Ok(()))
            })
            .await
    }

    /// Extends the lease of an upload that makes progress; false if it was reaped. One statement: it and
    /// the reaper's DELETE, which asks for the lease again, come one after the other.
    pub async fn renew_upload(
        &self,
        key: BlobKey,
        lease_until: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.engine
            .write(relaxed("renewing an upload"), move |c| {
                c.prepare_cached("UPDATE uploads SET lease_until = ?2 WHERE blob_key = ?1")?
                    .execute((key.as_str(), lease_until.0))
                    .map(|changed| changed == 1)
            })
            .await
    }

    /// Whether there is an upload in progress with this key.
    pub async fn has_upload(&self, key: BlobKey) -> Result<bool, StoreError> {
        self.engine
            .read("looking for an upload", move |c| {
                c.prepare_cached("SELECT EXISTS (SELECT 1 FROM uploads WHERE blob_key = ?1)")?
                    .query_row([key.as_str()], |row| row.get(0))
            })
            .await
    }

    /// Forgets an upload whose bytes are already gone from the store, and voids its hold.
    pub async fn abort_upload(&self, key: BlobKey) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("aborting an upload"), move |c| {
                lock_owner(c, key.as_str())?;
                take(c, key.as_str()).map(drop)
            })
            .await
    }

    /// Makes an upload a file: the COMMIT POINT of an upload. Captures the hold, counts what is stored,
    /// and keeps the first answer, all in the one transaction. Synced when it returns.
    ///
    /// The account is locked first: of two commits with one `Idempotency-Key` the second finds the answer
    /// of the first, what is stored is not more than it seems to be, and neither reaper nor operator
    /// takes the upload at the same time.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the reaper took the upload; its blob is then not ours to use.
    pub async fn commit_upload(
        &self,
        account: AccountId,
        file: NewFile,
        now: UnixMillis,
    ) -> Result<CommitOutcome, StoreError> {
        let committed = self
            .engine
            .write(synced("committing an upload").of(account), move |c| {
                commit(c, account, &file, now)
            })
            .await?;
        committed.ok_or(StoreError::LeaseLost)
    }

    /// Has all that was queued committed: on this thread, which may block, if it is `here` and nobody is at it.
    pub fn commit_queued(&self, here: bool) {
        self.engine.commit_queued(here);
    }

    /// Whether a file of `bytes` would exceed what the account may store, as things are now. The
    /// commit asks again.
    pub async fn over_quota(
        &self,
        account: AccountId,
        limits: TenantLimits,
        purpose: Option<PurposeName>,
        bytes: Bytes,
    ) -> Result<Option<Quota>, StoreError> {
        self.engine
            .read("reading what is stored", move |c| {
                over_quota(c, account, &limits, purpose.as_ref(), bytes)
            })
            .await
    }

    /// Gives the bytes of uploads whose lease ended by `deadline` to the purge job and voids their
    /// holds, at most `limit`; says how many. With a deadline in the far future: all of them, as at
    /// a start.
    ///
    /// Uploads are taken account by account, each in a transaction that locks the account as a commit
    /// does: an upload is either committed or reaped, and another replica's reaper finds it gone.
    pub async fn reap_uploads(
        &self,
        deadline: UnixMillis,
        now: UnixMillis,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let lapsed = self
            .engine
            .read("looking for lapsed uploads", move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT account_id, blob_key FROM uploads WHERE lease_until <= ?1
                     ORDER BY lease_until LIMIT ?2",
                )?;
                let rows = statement.query_map((deadline.0, limit), |row| {
                    Ok((row.get::<i64>(0)?, row.get::<String>(1)?))
                })?;
                rows.collect::<sql::Result<Vec<_>>>()
            })
            .await?;
        let mut reaped = 0;
        for (account, blob_keys) in by_account(lapsed) {
            let change = freeing("reaping uploads").of(account);
            reaped +=
                self.engine.write(change, move |c| reap(c, &blob_keys, deadline, now)).await?;
        }
        Ok(reaped)
    }
}

/// What belongs to the same account together.
pub(super) fn by_account<T>(rows: Vec<(i64, T)>) -> BTreeMap<AccountId, Vec<T>> {
    let mut all: BTreeMap<AccountId, Vec<T>> = BTreeMap::new();
    for (account, row) in rows {
        all.entry(AccountId(account)).or_default().push(row);
    }
    all
}

/// Takes those of the uploads that have still lapsed; says how many.
fn reap(
    c: &Connection,
    blob_keys: &[String],
    deadline: UnixMillis,
    now: UnixMillis,
) -> sql::Result<usize> {
    let mut reaped = 0;
    for blob_key in blob_keys {
        let taken = c
            .prepare_cached(
                "DELETE FROM uploads WHERE blob_key = ?1 AND lease_until <= ?2
                 RETURNING account_id, hold",
            )?
            .query_row((blob_key, deadline.0), owner_and_hold)
            .optional()?;
        if let Some((account, hold)) = taken {
            books::release(c, account, hold)?;
            jobs::enqueue_purge(c, blob_key, now)?;
            reaped += 1;
        }
    }
    Ok(reaped)
}

fn owner_and_hold(row: &Row<'_>) -> sql::Result<(AccountId, Money)> {
    Ok((AccountId(row.get(0)?), Money(row.get(1)?)))
}

/// Locks the account of an upload, if there is such an upload: before its row is touched.
pub(super) fn lock_owner(c: &Connection, blob_key: &str) -> sql::Result<()> {
    let owner = c
        .prepare_cached("SELECT account_id FROM uploads WHERE blob_key = ?1")?
        .query_row([blob_key], |row| row.get(0))
        .optional()?;
    if let Some(owner) = owner {
        c.lock_account(owner);
    }
    Ok(())
}

/// Removes the row of an upload and its hold; says whose it was and what it held. Its account must be
/// locked.
pub(super) fn take(c: &Connection, blob_key: &str) -> sql::Result<Option<(AccountId, Money)>> {
    let taken = c
        .prepare_cached("DELETE FROM uploads WHERE blob_key = ?1 RETURNING account_id, hold")?
        .query_row([blob_key], owner_and_hold)
        .optional()?;
    if let Some((account, hold)) = taken {
        books::release(c, account, hold)?;
    }
    Ok(taken)
}

fn commit(
    c: &Connection,
    account: AccountId,
    file: &NewFile,
    now: UnixMillis,
) -> sql::Result<Option<CommitOutcome>> {
    if let Some(obstacle) = obstacle(c, account, file, now)? {
        return Ok(Some(obstacle));
    }
    let Some((owner, hold)) = take(c, file.blob_key.as_str())? else { return Ok(None) };
    if owner != account {
        return Err(sql::Error::NoRows);
    }
    // What was held is the most that is taken: a price that rose since is for the next upload.
    let charged = if hold.is_zero() {
        Money::ZERO
    } else {
        books::upload_price(c, file.purpose.as_str(), Bytes(file.sum.bytes))?.min(hold)
    };
    store(c, account, file, charged, now).map(|record| Some(committed(record)))
}

pub(super) fn committed(record: FileRecord) -> CommitOutcome {
    CommitOutcome::Committed(Box::new(record))
}

/// Why a file is not to be committed. Asked before anything is changed: an outcome that is no error does not roll back.
pub(super) fn obstacle(
    c: &Connection,
    account: AccountId,
    file: &NewFile,
    now: UnixMillis,
) -> sql::Result<Option<CommitOutcome>> {
    if let Some(first) = &file.first_answer
        && idempotency::find(c, &first.owner, &first.key, now)?.is_some()
    {
        return Ok(Some(CommitOutcome::Repeated));
    }
    let bytes = Bytes(file.sum.bytes);
    let quota = over_quota(c, account, &file.limits, Some(&file.purpose), bytes)?;
    Ok(quota.map(CommitOutcome::OverQuota))
}

/// Makes the file, and takes `charged` for it.
pub(super) fn store(
    c: &Connection,
    account: AccountId,
    file: &NewFile,
    charged: Money,
    now: UnixMillis,
) -> sql::Result<FileRecord> {
    let file_id = insert(c, account, file, now)?;
    match &file.upstream {
        OnChannel::Nowhere => {}
        OnChannel::There { channel, upstream_id, expires_at } => {
            let at = (file_id, *channel);
            replicas::insert_ready(c, account, at, upstream_id, *expires_at, now)?;
        }
        OnChannel::Later => {
            let target = format!("{}/{file_id}", account.0);
            jobs::enqueue(c, JobKind::Replicate, &target, now)?;
        }
    }
    let purpose = file.purpose.as_str();
    let reference = format!("upload:{}", file.blob_key);
    let entry = Entry {
        call: Some(Call::Upload),
        key: Some(file.key_id),
        file: Some(file_id),
        reference: Some(&reference),
        ..Entry::of(account, now, "charge", Money(-charged.0))
    };
    books::post(c, &entry)?;
    usage::store(c, account, purpose, 1, file.sum.bytes.cast_signed())?;
    usage::add(
        c,
        &Usage {
            account,
            key: file.key_id,
            purpose: purpose.to_owned(),
            call: Call::Upload,
            calls: 1,
            bytes: file.sum.bytes,
            charged,
        },
        now,
    )?;
    let record = record_of(account, file, file_id, now);
    if let Some(first) = &file.first_answer {
        let reply = serde_json::to_vec(&record.to_wire()).unwrap_or_default();
        idempotency::keep(c, first, 200, &reply, now)?;
    }
    Ok(record)
}

/// The file that the row says.
pub(super) fn record_of(
    account: AccountId,
    file: &NewFile,
    file_id: FileId,
    created_at: UnixMillis,
) -> FileRecord {
    FileRecord {
        file_id,
        account_id: account,
        purpose: file.purpose.clone(),
        filename: file.filename.clone(),
        bytes: file.sum.bytes,
        sha256: file.sum.sha256,
        media_type: file.media_type.clone(),
        media: file.media.clone(),
        blob_key: file.blob_key.clone(),
        created_at,
        expires_at: file.expires_at,
        damaged_at: None,
        key_id: Some(file.key_id),
        state: file.state,
        verdict: file.verdict.clone(),
    }
}

pub(super) fn over_quota(
    c: &Connection,
    account: AccountId,
    limits: &TenantLimits,
    purpose: Option<&PurposeName>,
    bytes: Bytes,
) -> sql::Result<Option<Quota>> {
    if let Some(limit) = limits.stored_bytes {
        let stored: i64 = c
            .prepare_cached(
                "SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM stored WHERE account_id = ?1",
            )?
            .query_row([account.0], |row| row.get(0))?;
        let stored = Bytes(stored.cast_unsigned());
        if stored.0.saturating_add(bytes.0) > limit.0 {
            return Ok(Some(Quota::Bytes { limit, stored }));
        }
    }
    let Some(purpose) = purpose else { return Ok(None) };
    let Some(&limit) = limits.files_per_purpose.get(purpose) else { return Ok(None) };
    let files: Option<i64> = c
        .prepare_cached("SELECT files FROM stored WHERE account_id = ?1 AND purpose = ?2")?
        .query_row((account.0, purpose.as_str()), |row| row.get(0))
        .optional()?;
    let full = files.unwrap_or(0).cast_unsigned() >= limit;
    Ok(full.then(|| Quota::Files { limit, purpose: purpose.clone() }))
}

/// Inserts the row under a fresh id; the primary keys decide whether it is fresh.
fn insert(
    c: &Connection,
    account: AccountId,
    file: &NewFile,
    now: UnixMillis,
) -> sql::Result<FileId> {
    // After eight clashes in one millisecond, the next millisecond's ids.
    for millisecond in 0..16 {
        for bits in file.id_bits {
            let file_id = FileId::mint(UnixMillis(now.0 + millisecond), bits);
            if insert_as(c, account, file, file_id, now)? {
                return Ok(file_id);
            }
        }
    }
    Err(sql::Error::Other("no free id for a file".to_owned()))
}

macro_rules! insert_files {
    ($row:literal) => {
        concat!(
            "INSERT INTO files (file_id, account_id, purpose, filename, bytes, media_type, blob_key,
                                created_at, expires_at, sha256, media, block_sums, key_id, state,
                                verdict) ",
            $row,
            " ON CONFLICT (file_id) DO NOTHING"
        )
    };
}

/// Inserts the row under this id; false if it is taken, be it by a file that is upstream only.
pub(super) fn insert_as(
    c: &Connection,
    account: AccountId,
    file: &NewFile,
    file_id: FileId,
    created_at: UnixMillis,
) -> sql::Result<bool> {
    // One statement for one round trip; SQLite would keep a journal of its own for it, and has no round trips.
    let insert = match c.dialect() {
        Dialect::Postgres => insert_files!(
            "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15
             WHERE NOT EXISTS (SELECT 1 FROM adopted WHERE file_id = ?1)"
        ),
        Dialect::Sqlite => {
            let mut adopted = c.prepare_cached("SELECT 1 FROM adopted WHERE file_id = ?1")?;
            if adopted.query_row([file_id.get()], |_| Ok(())).optional()?.is_some() {
                return Ok(false);
            }
            insert_files!(
                "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
            )
        }
    };
    c.prepare_cached(insert)?
        .execute((
            file_id.get(),
            account.0,
            file.purpose.as_str(),
            &file.filename,
            file.sum.bytes.cast_signed(),
            &file.media_type,
            file.blob_key.as_str(),
            created_at.0,
            file.expires_at.map(|t| t.0),
            &file.sum.sha256,
            file.media.to_string(),
            &file.sum.block_sums,
            file.key_id.0,
            file.state.name(),
            file.verdict.as_ref().map(ToString::to_string),
        ))
        .map(|inserted| inserted == 1)
}
