//! Committed files.

use filegate_types::{
    AccountId, BlobKey, Call, FileId, FileRecord, KeyId, PurposeName, UnixMillis,
};
use rusqlite::{Connection, OptionalExtension};

use super::books::{self, Short};
use super::usage::{self, Usage};
use super::{Catalog, freeing, jobs, record, select_files, synced};
use crate::error::StoreError;

/// How a delete went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// It is gone, and its bytes will be purged.
    Deleted,
    /// The account has no such file.
    NotFound,
    /// The file was uploaded for something else.
    OtherPurpose,
    /// The account cannot pay for it.
    Short(Short),
}

/// Why a file is deleted, as its receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteCause {
    /// A client asked.
    Client,
    /// Its time had come.
    Expired,
    /// An operator decided.
    Operator,
}

impl DeleteCause {
    /// The name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Expired => "expired",
            Self::Operator => "operator",
        }
    }
}

impl Catalog {
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
        key: KeyId,
        file_id: FileId,
        purposes: Vec<PurposeName>,
        now: UnixMillis,
    ) -> Result<DeleteOutcome, StoreError> {
        self.engine
            .write(freeing("deleting a file"), move |c| {
                let found: Option<String> = c
                    .prepare_cached(
                        "SELECT purpose FROM files
                         WHERE file_id = ?1 AND account_id = ?2
                           AND (expires_at IS NULL OR expires_at > ?3)",
                    )?
                    .query_row((file_id.get(), account.0, now.0), |r| r.get(0))
                    .optional()?;
                let Some(purpose) = found else { return Ok(DeleteOutcome::NotFound) };
                if !purposes.is_empty() && !purposes.iter().any(|p| p.as_str() == purpose) {
                    return Ok(DeleteOutcome::OtherPurpose);
                }
                let file = Some(file_id);
                let charged = books::charge(c, account, key, Call::Delete, &purpose, file, now)?;
                let charged = match charged {
                    Ok(charged) => charged,
                    Err(short) => return Ok(DeleteOutcome::Short(short)),
                };
                let call = Call::Delete;
                let used = Usage { account, key, purpose, call, calls: 1, bytes: 0, charged };
                usage::add(c, &used, now)?;
                remove(c, file_id.get(), DeleteCause::Client, now)?;
                Ok(DeleteOutcome::Deleted)
            })
            .await
    }

    /// Deletes files whose time has come, at most `limit`; says how many.
    pub async fn expire_due(&self, now: UnixMillis, limit: u32) -> Result<usize, StoreError> {
        self.engine
            .write(freeing("expiring files"), move |c| {
                let mut statement =
                    c.prepare_cached("SELECT file_id FROM files WHERE expires_at <= ?1 LIMIT ?2")?;
                let due: Vec<i64> =
                    statement.query_map((now.0, limit), |r| r.get(0))?.collect::<Result<_, _>>()?;
                for file_id in &due {
                    remove(c, *file_id, DeleteCause::Expired, now)?;
                }
                Ok(due.len())
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

/// Removes the row of a file that `live` says is deleted, with the receipt it has there: for a snapshot
/// that was taken just before.
pub(crate) fn drop_lost(
    snapshot: &Connection,
    live: &Connection,
    file_id: i64,
) -> rusqlite::Result<()> {
    let (cause, deleted_at): (String, i64) = live.query_row(
        "SELECT cause, deleted_at FROM receipts WHERE file_id = ?1",
        [file_id],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let causes = [DeleteCause::Client, DeleteCause::Expired, DeleteCause::Operator];
    let cause = causes.into_iter().find(|known| known.name() == cause);
    let cause = cause.unwrap_or(DeleteCause::Client);
    remove(snapshot, file_id, cause, UnixMillis(deleted_at)).map(drop)
}

/// Removes the row of a file, counts it off, leaves a receipt and has its bytes purged. False if
/// there is none.
pub(super) fn remove(
    c: &Connection,
    file_id: i64,
    cause: DeleteCause,
    now: UnixMillis,
) -> rusqlite::Result<bool> {
    c.prepare_cached(
        "INSERT INTO receipts (file_id, account_id, purpose, filename, bytes, sha256, blob_key,
                               cause, deleted_at)
         SELECT file_id, account_id, purpose, filename, bytes, sha256, blob_key, ?2, ?3
         FROM files WHERE file_id = ?1",
    )?
    .execute((file_id, cause.name(), now.0))?;
    let removed = c
        .prepare_cached(
            "DELETE FROM files WHERE file_id = ?1
             RETURNING account_id, purpose, bytes, blob_key",
        )?
        .query_row([file_id], |row| {
            let (purpose, bytes): (String, i64) = (row.get(1)?, row.get(2)?);
            Ok((AccountId(row.get(0)?), purpose, bytes, row.get::<_, String>(3)?))
        })
        .optional()?;
    let Some((account, purpose, bytes, blob_key)) = removed else { return Ok(false) };
    usage::store(c, account, &purpose, -1, -bytes)?;
    jobs::enqueue_purge(c, &blob_key, now)?;
    Ok(true)
}
