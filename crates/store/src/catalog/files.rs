//! Committed files.

use std::collections::HashSet;

use filegate_types::{
    AccountId, BlobKey, Call, FileId, FileRecord, KeyId, PurposeName, UnixMillis,
};

use super::books::{self, Short};
use super::sql::{self, Connection, Dialect, OptionalExtension as _, Value};
use super::uploads::by_account;
use super::usage::{self, Usage};
use super::{Catalog, adopted, freeing, jobs, record, replicas, select_files, synced};
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
            .read_few("reading a file row", move |c| {
                c.prepare_cached(select_files!(
                    "WHERE file_id = ?1 AND account_id = ?2
                     AND (expires_at IS NULL OR expires_at > ?3)"
                ))?
                .query_row((file_id.get(), account.0, now.0), record)
                .optional()
            })
            .await
    }

    /// Those of `file_ids` that are files of the account, in no order.
    pub async fn files_of(
        &self,
        account: AccountId,
        mut file_ids: Vec<FileId>,
        now: UnixMillis,
    ) -> Result<Vec<FileRecord>, StoreError> {
        file_ids.sort_unstable();
        file_ids.dedup();
        let Some(last) = file_ids.last().copied() else { return Ok(vec![]) };
        // Few different statements: the last id is asked for until there are 2^n.
        file_ids.resize(file_ids.len().next_power_of_two(), last);
        self.engine
            .read_few("reading file rows", move |c| {
                let places: Vec<_> = (3..file_ids.len() + 3).map(|n| format!("?{n}")).collect();
                let sql = format!(
                    "{} WHERE account_id = ?1 AND (expires_at IS NULL OR expires_at > ?2)
                       AND file_id IN ({})",
                    select_files!(""),
                    places.join(", ")
                );
                let mut values = [account.0, now.0].map(Value::Integer).to_vec();
                values.extend(file_ids.iter().map(|id| Value::Integer(id.get())));
                c.prepare_cached(&sql)?.query_map(&values[..], record)?.collect()
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
            .read_few("reading a file row", move |c| {
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
                let mut values =
                    [account.0, before, now.0, i64::from(limit)].map(Value::Integer).to_vec();
                values.extend(purposes.iter().map(|p| Value::Text(p.as_str().to_owned())));
                let mut statement = c.prepare_cached(&list_sql(c.dialect(), purposes.len()))?;
                statement.query_map(&values[..], record)?.collect()
            })
            .await
    }

    /// Deletes a file: the COMMIT POINT of a delete. Its bytes are purged by a job that the same
    /// transaction enqueues.
    ///
    /// `purposes`: if not empty, the file's purpose must be among them.
    ///
    /// One that is upstream only is deleted there by a job, in the same way.
    ///
    /// The account is locked first: a file that is deleted or expires at the same time is paid for, counted
    /// off and receipted once.
    pub async fn delete_file(
        &self,
        account: AccountId,
        key: KeyId,
        file_id: FileId,
        purposes: Vec<PurposeName>,
        now: UnixMillis,
    ) -> Result<DeleteOutcome, StoreError> {
        self.engine
            .write(freeing("deleting a file").of(account), move |c| {
                let found: Option<String> = c
                    .prepare_cached(
                        "SELECT purpose FROM files
                         WHERE file_id = ?1 AND account_id = ?2
                           AND (expires_at IS NULL OR expires_at > ?3)",
                    )?
                    .query_row((file_id.get(), account.0, now.0), |r| r.get(0))
                    .optional()?;
                let Some(purpose) = found else {
                    let deleted = adopted::delete(c, account, key, file_id, &purposes, now)?;
                    return Ok(deleted.unwrap_or(DeleteOutcome::NotFound));
                };
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
        let due = self
            .engine
            .read("looking for expired files", move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT account_id, file_id FROM files WHERE expires_at <= ?1
                     ORDER BY expires_at LIMIT ?2",
                )?;
                let rows = statement.query_map((now.0, limit), |row| {
                    Ok((row.get::<i64>(0)?, row.get::<i64>(1)?))
                })?;
                rows.collect::<sql::Result<Vec<_>>>()
            })
            .await?;
        let mut expired = 0;
        // Account by account, each locked as by a delete: a file goes once, with one receipt.
        for (account, files) in by_account(due) {
            let change = freeing("expiring files").of(account);
            let gone = self.engine.write(change, move |c| {
                files.iter().try_fold(0, |gone, file_id| {
                    Ok(gone + usize::from(remove(c, *file_id, DeleteCause::Expired, now)?))
                })
            });
            expired += gone.await?;
        }
        Ok(expired)
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

    /// Those of `keys` whose blobs belong to a file.
    pub async fn owned_blobs(&self, keys: Vec<BlobKey>) -> Result<HashSet<BlobKey>, StoreError> {
        self.engine
            .read("looking up blobs", move |c| {
                let mut find = c.prepare_cached("SELECT 1 FROM files WHERE blob_key = ?1")?;
                let mut owned = HashSet::new();
                for key in &keys {
                    if find.query_row([key.as_str()], |_| Ok(())).optional()?.is_some() {
                        owned.insert(key.clone());
                    }
                }
                Ok(owned)
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

/// The SELECT of a list of files of so many purposes, or of any. Each purpose is a walk down an index that
/// ends at the limit, however many files there are.
///
/// PostgreSQL is led to that index by a range of one in place of an equality, and by its column in the
/// order: else it may prefer a walk over the files of everybody by their ids, where it takes the account
/// for a large one, and an account of few files waits for the end of that. SQLite uses only the first
/// column of such a range.
fn list_sql(dialect: Dialect, purposes: usize) -> String {
    let one = |n: usize| {
        let columns = select_files!("");
        let purpose = n + 5;
        let below = match dialect {
            Dialect::Sqlite => format!("purpose = ?{purpose} AND file_id < ?2"),
            Dialect::Postgres => {
                format!("purpose >= ?{purpose} AND (purpose, file_id) < (?{purpose}, ?2)")
            }
        };
        format!(
            "SELECT * FROM (
                 {columns} WHERE account_id = ?1 AND {below}
                   AND (expires_at IS NULL OR expires_at > ?3)
                 ORDER BY purpose DESC, file_id DESC LIMIT ?4) AS of_{n}"
        )
    };
    if purposes > 0 {
        let all: Vec<_> = (0..purposes).map(one).collect();
        let all = all.join(" UNION ALL ");
        return format!("SELECT * FROM ({all}) AS all_of_them ORDER BY file_id DESC LIMIT ?4");
    }
    let any = match dialect {
        Dialect::Sqlite => select_files!(
            "WHERE account_id = ?1 AND file_id < ?2 AND (expires_at IS NULL OR expires_at > ?3)
             ORDER BY file_id DESC LIMIT ?4"
        ),
        Dialect::Postgres => select_files!(
            "WHERE account_id >= ?1 AND (account_id, file_id) < (?1, ?2)
               AND (expires_at IS NULL OR expires_at > ?3)
             ORDER BY account_id DESC, file_id DESC LIMIT ?4"
        ),
    };
    any.to_owned()
}

/// Removes the row of a file that `live` says is deleted, with the receipt it has there: for a snapshot
/// that was taken just before.
pub(crate) fn drop_lost(snapshot: &Connection, live: &Connection, file_id: i64) -> sql::Result<()> {
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

/// Removes the row of a file, counts it off, leaves a receipt and has its bytes purged and its copies on
/// channels deleted. False if
/// there is none. Its account must be locked.
pub(super) fn remove(
    c: &Connection,
    file_id: i64,
    cause: DeleteCause,
    now: UnixMillis,
) -> sql::Result<bool> {
    let removed = c
        .prepare_cached(
            "DELETE FROM files WHERE file_id = ?1
             RETURNING account_id, purpose, filename, bytes, sha256, blob_key",
        )?
        .query_row([file_id], |row| {
            let (account, purpose, filename) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (bytes, sha256, blob_key) = (row.get(3)?, row.get(4)?, row.get(5)?);
            Ok(Removed { account, purpose, filename, bytes, sha256, blob_key })
        })
        .optional()?;
    let Some(file) = removed else { return Ok(false) };
    c.prepare_cached(
        "INSERT INTO receipts (file_id, account_id, purpose, filename, bytes, sha256, blob_key,
                               cause, deleted_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .queue((
        file_id,
        file.account,
        &file.purpose,
        &file.filename,
        file.bytes,
        &file.sha256,
        &file.blob_key,
        cause.name(),
        now.0,
    ))?;
    usage::store(c, AccountId(file.account), &file.purpose, -1, -file.bytes)?;
    replicas::remove_of(c, file_id, &file.purpose, now)?;
    jobs::enqueue_purge(c, &file.blob_key, now)?;
    Ok(true)
}

/// What a receipt says of a file.
struct Removed {
    account: i64,
    purpose: String,
    filename: String,
    bytes: i64,
    sha256: Vec<u8>,
    blob_key: String,
}
