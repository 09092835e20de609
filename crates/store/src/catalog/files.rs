//! Uploads in progress and committed files.

use filegate_types::{
    AccountId, BlobKey, FileId, FileRecord, FileState, KeyId, PurposeName, UnixMillis,
};
use rusqlite::{Connection, OptionalExtension};

use super::{Catalog, freeing, jobs, record, relaxed, select_files, synced};
use crate::blobs::BlobSum;
use crate::error::StoreError;

/// A file whose blob has landed, to be committed.
#[derive(Debug, Clone)]
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
    /// Random bits for ids; on a clash the next are tried.
    pub id_bits: [u16; 8],
}

/// How a delete went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// It is gone, and its bytes will be purged.
    Deleted,
    /// The account has no such file.
    NotFound,
    /// The file was uploaded for something else.
    OtherPurpose,
}

impl Catalog {
    /// Notes an upload that will have bytes in the store under `key` (design §4, step 2).
    ///
    /// Relaxed: after a power cut the row may be missing while the blob is there; `fsck` finds it.
    pub async fn begin_upload(
        &self,
        account: AccountId,
        key: BlobKey,
        now: UnixMillis,
        lease_until: UnixMillis,
    ) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("beginning an upload"), move |c| {
                c.prepare_cached(
                    "INSERT INTO uploads (blob_key, account_id, started_at, lease_until)
                     VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute((key.as_str(), account.0, now.0, lease_until.0))
                .map(drop)
            })
            .await
    }

    /// Extends the lease of an upload that makes progress; false if it was reaped.
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

    /// Forgets an upload whose bytes are already gone from the store.
    pub async fn abort_upload(&self, key: BlobKey) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("aborting an upload"), move |c| {
                c.prepare_cached("DELETE FROM uploads WHERE blob_key = ?1")?
                    .execute([key.as_str()])
                    .map(drop)
            })
            .await
    }

    /// Makes an upload a file: the COMMIT POINT of an upload. Synced when it returns.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the reaper took the upload; its blob is then not ours to use.
    pub async fn commit_upload(
        &self,
        account: AccountId,
        file: NewFile,
        now: UnixMillis,
    ) -> Result<FileRecord, StoreError> {
        let committed = self
            .engine
            .write(synced("committing an upload"), move |c| {
                let mut take = c.prepare_cached(
                    "DELETE FROM uploads WHERE blob_key = ?1 AND account_id = ?2",
                )?;
                if take.execute((file.blob_key.as_str(), account.0))? == 0 {
                    return Ok(None);
                }
                let file_id = insert(c, account, &file, now)?;
                Ok(Some(FileRecord {
                    file_id,
                    account_id: account,
                    purpose: file.purpose.clone(),
                    filename: file.filename.clone(),
                    bytes: file.sum.bytes,
                    sha256: file.sum.sha256,
                    media_type: file.media_type.clone(),
                    media: file.media.clone(),
                    blob_key: file.blob_key.clone(),
                    created_at: now,
                    expires_at: file.expires_at,
                    damaged_at: None,
                    key_id: Some(file.key_id),
                    state: file.state,
                    verdict: file.verdict.clone(),
                }))
            })
            .await?;
        committed.ok_or(StoreError::LeaseLost)
    }

    /// A file of the account.
    pub async fn file(
        &self,
        account: AccountId,
        file_id: FileId,
        now: UnixMillis,
    ) -> Result<Option<FileRecord>, StoreError> {
        self.engine
            .read("reading a file row", move |c| {
                c.prepare_cached(select_files!(
                    "WHERE file_id = ?1 AND account_id = ?2
                     AND (expires_at IS NULL OR expires_at > ?3)"
                ))?
                .query_row((file_id.get(), account.0, now.0), record)
                .optional()
            })
            .await
    }

    /// A file of the account with the sums of its blocks, for reading its content.
    pub async fn file_with_sums(
        &self,
        account: AccountId,
        file_id: FileId,
        now: UnixMillis,
    ) -> Result<Option<(FileRecord, Vec<u8>)>, StoreError> {
        self.engine
            .read("reading a file row", move |c| {
                c.prepare_cached(select_files!(
                    ", block_sums",
                    "WHERE file_id = ?1 AND account_id = ?2
                       AND (expires_at IS NULL OR expires_at > ?3)"
                ))?
                .query_row((file_id.get(), account.0, now.0), |row| {
                    Ok((record(row)?, row.get(15)?))
                })
                .optional()
            })
            .await
    }

    /// The account's files, newest first: of any of `purposes` if there are any, below `after`.
    pub async fn list(
        &self,
        account: AccountId,
        purposes: Vec<PurposeName>,
        after: Option<FileId>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<FileRecord>, StoreError> {
        self.engine
            .read("listing files", move |c| {
                let before = after.map_or(i64::MAX, FileId::get);
                let names: Vec<_> = purposes.iter().map(PurposeName::as_str).collect();
                let first = names.first().map(|name| (*name).to_owned());
                let (sql, first, second) = match *names {
                    [] => (
                        select_files!(
                            "WHERE account_id = ?1 AND file_id < ?2
                               AND (expires_at IS NULL OR expires_at > ?3)
                               AND ?5 IS NULL AND ?6 IS NULL
                             ORDER BY file_id DESC LIMIT ?4"
                        ),
                        None,
                        None,
                    ),
                    // A purpose and its twin: what clients ask for.
                    [_] | [_, _] => (
                        select_files!(
                            "WHERE account_id = ?1 AND purpose IN (?5, ?6) AND file_id < ?2
                               AND (expires_at IS NULL OR expires_at > ?3)
                             ORDER BY file_id DESC LIMIT ?4"
                        ),
                        first,
                        names.get(1).copied(),
                    ),
                    // All that a key may touch.
                    _ => (
                        select_files!(
                            "WHERE account_id = ?1 AND file_id < ?2
                               AND purpose IN (SELECT value FROM json_each(?5))
                               AND (expires_at IS NULL OR expires_at > ?3)
                               AND ?6 IS NULL
                             ORDER BY file_id DESC LIMIT ?4"
                        ),
                        Some(serde_json::Value::from(names.clone()).to_string()),
                        None,
                    ),
                };
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement
                    .query_map((account.0, before, now.0, limit, first, second), record)?;
                rows.collect()
            })
            .await
    }

    /// Deletes a file: the COMMIT POINT of a delete. Its bytes are purged by a job that the same
    /// transaction enqueues.
    ///
    /// `purposes`: if not empty, the file's purpose must be among them.
    pub async fn delete_file(
        &self,
        account: AccountId,
        file_id: FileId,
        purposes: Vec<PurposeName>,
        now: UnixMillis,
    ) -> Result<DeleteOutcome, StoreError> {
        self.engine
            .write(freeing("deleting a file"), move |c| {
                let found: Option<(String, String)> = c
                    .prepare_cached(
                        "SELECT blob_key, purpose FROM files
                         WHERE file_id = ?1 AND account_id = ?2
                           AND (expires_at IS NULL OR expires_at > ?3)",
                    )?
                    .query_row((file_id.get(), account.0, now.0), |r| Ok((r.get(0)?, r.get(1)?)))
                    .optional()?;
                let Some((blob_key, purpose)) = found else {
                    return Ok(DeleteOutcome::NotFound);
                };
                if !purposes.is_empty() && !purposes.iter().any(|p| p.as_str() == purpose) {
                    return Ok(DeleteOutcome::OtherPurpose);
                }
                remove(c, file_id.get(), &blob_key, now)?;
                Ok(DeleteOutcome::Deleted)
            })
            .await
    }

    /// Deletes files whose time has come, at most `limit`; says how many.
    pub async fn expire_due(&self, now: UnixMillis, limit: u32) -> Result<usize, StoreError> {
        self.engine
            .write(freeing("expiring files"), move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT file_id, blob_key FROM files WHERE expires_at <= ?1 LIMIT ?2",
                )?;
                let due: Vec<(i64, String)> = statement
                    .query_map((now.0, limit), |r| Ok((r.get(0)?, r.get(1)?)))?
                    .collect::<Result<_, _>>()?;
                for (file_id, blob_key) in &due {
                    remove(c, *file_id, blob_key, now)?;
                }
                Ok(due.len())
            })
            .await
    }

    /// Gives the bytes of uploads whose lease ended by `deadline` to the purge job, at most
    /// `limit`; says how many. With a deadline in the far future: all of them, as at a start.
    pub async fn reap_uploads(
        &self,
        deadline: UnixMillis,
        now: UnixMillis,
        limit: u32,
    ) -> Result<usize, StoreError> {
        self.engine
            .write(freeing("reaping uploads"), move |c| {
                let mut statement = c.prepare_cached(
                    "DELETE FROM uploads WHERE blob_key IN
                         (SELECT blob_key FROM uploads WHERE lease_until <= ?1 LIMIT ?2)
                     RETURNING blob_key",
                )?;
                let lapsed: Vec<String> = statement
                    .query_map((deadline.0, limit), |r| r.get(0))?
                    .collect::<Result<_, _>>()?;
                for blob_key in &lapsed {
                    jobs::enqueue_purge(c, blob_key, now)?;
                }
                Ok(lapsed.len())
            })
            .await
    }

    /// Files after `after` in id order, of all accounts: for the scrub and for fsck.
    pub async fn files_after(&self, after: i64, limit: u32) -> Result<Vec<FileRecord>, StoreError> {
        self.engine
            .read("walking files", move |c| {
                let mut statement = c.prepare_cached(select_files!(
                    "WHERE file_id > ?1 ORDER BY file_id LIMIT ?2"
                ))?;
                let rows = statement.query_map((after, limit), record)?;
                rows.collect()
            })
            .await
    }

    /// Marks a file as damaged, or as whole again.
    pub async fn mark_damaged(
        &self,
        file_id: FileId,
        damaged_at: Option<UnixMillis>,
    ) -> Result<(), StoreError> {
        self.engine
            .write(synced("marking a damaged file"), move |c| {
                c.execute(
                    "UPDATE files SET damaged_at = ?2 WHERE file_id = ?1",
                    (file_id.get(), damaged_at.map(|t| t.0)),
                )
                .map(drop)
            })
            .await
    }

    /// Whether a file, an upload or a purge job refers to `key`.
    pub async fn knows_blob(&self, key: BlobKey) -> Result<bool, StoreError> {
        self.engine
            .read("looking up a blob", move |c| {
                c.prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM files WHERE blob_key = ?1)
                         OR EXISTS (SELECT 1 FROM uploads WHERE blob_key = ?1)
                         OR EXISTS (SELECT 1 FROM jobs WHERE kind = 'purge_blob' AND target = ?1)",
                )?
                .query_row([key.as_str()], |row| row.get(0))
            })
            .await
    }

    /// Has the purge job remove a blob that nothing refers to.
    pub async fn purge_orphan(&self, key: BlobKey, now: UnixMillis) -> Result<(), StoreError> {
        self.engine
            .write(freeing("purging an orphan"), move |c| jobs::enqueue_purge(c, key.as_str(), now))
            .await
    }
}

/// Inserts the row under a fresh id; the primary key decides whether it is fresh.
fn insert(
    c: &Connection,
    account: AccountId,
    file: &NewFile,
    now: UnixMillis,
) -> rusqlite::Result<FileId> {
    let mut statement = c.prepare_cached(
        "INSERT INTO files (file_id, account_id, purpose, filename, bytes, media_type, blob_key,
                            created_at, expires_at, sha256, media, block_sums, key_id, state,
                            verdict)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (file_id) DO NOTHING",
    )?;
    // After eight clashes in one millisecond, the next millisecond's ids.
    for millisecond in 0..16 {
        for bits in file.id_bits {
            let file_id = FileId::mint(UnixMillis(now.0 + millisecond), bits);
            let inserted = statement.execute((
                file_id.get(),
                account.0,
                file.purpose.as_str(),
                &file.filename,
                file.sum.bytes.cast_signed(),
                &file.media_type,
                file.blob_key.as_str(),
                now.0,
                file.expires_at.map(|t| t.0),
                &file.sum.sha256,
                file.media.to_string(),
                &file.sum.block_sums,
                file.key_id.0,
                file.state.name(),
                file.verdict.as_ref().map(ToString::to_string),
            ))?;
            if inserted == 1 {
                return Ok(file_id);
            }
        }
    }
    Err(rusqlite::Error::StatementChangedRows(0))
}

fn remove(c: &Connection, file_id: i64, blob_key: &str, now: UnixMillis) -> rusqlite::Result<()> {
    c.prepare_cached("DELETE FROM files WHERE file_id = ?1")?.execute([file_id])?;
    jobs::enqueue_purge(c, blob_key, now)
}
