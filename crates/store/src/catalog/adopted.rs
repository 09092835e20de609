//! Files that were born upstream and are the account's: listed and read through under ids of ours, until they
//! go there, or their bytes are brought here.

use filegate_types::units::Bytes;
use filegate_types::{
    AccountId, AccountSettings, Call, ChannelId, FileId, FileRecord, KeyId, PurposeName,
    TenantLimits, UnixMillis,
};

use super::books;
use super::files::DeleteOutcome;
use super::replicas::file_id;
use super::sql::{self, Connection, OptionalExtension as _, Row, Value};
use super::tasks::adopt;
use super::uploads::{self, NewFile, Quota};
use super::usage::{self, Usage};
use super::{Catalog, corrupt_column, freeing, jobs, json_or_default, places, relaxed, synced};
use crate::error::StoreError;

/// A file that is upstream only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedFile {
    /// Its id here, which it keeps when its bytes come.
    pub file_id: FileId,
    /// Whose it is.
    pub account_id: AccountId,
    /// The key of the call that it was born of.
    pub key_id: Option<KeyId>,
    /// What it is, as upstream calls it.
    pub purpose: PurposeName,
    /// Its name, as far as is known.
    pub filename: String,
    /// Its length; 0 until it was measured.
    pub bytes: u64,
    /// Where it is.
    pub channel_id: ChannelId,
    /// Its id there.
    pub upstream_id: String,
    /// The task that made it.
    pub task_id: Option<FileId>,
    /// When it was first heard of.
    pub created_at: UnixMillis,
    /// When upstream forgets it, if that is known.
    pub expires_at: Option<UnixMillis>,
}

/// A file that a reply tells of.
#[derive(Debug, Clone)]
pub struct NewAdopted {
    /// Whose call it was.
    pub account: AccountId,
    /// The key it was made with.
    pub key: KeyId,
    /// Where it went.
    pub channel: ChannelId,
    /// The file's id there.
    pub upstream_id: String,
    /// What it is.
    pub purpose: PurposeName,
    /// A name for it.
    pub filename: String,
    /// The task that made it.
    pub task_id: Option<FileId>,
    /// When upstream forgets it, if that is known.
    pub expires_at: Option<UnixMillis>,
    /// Whether its bytes are to be brought here: a job is promised by the same transaction.
    pub keep: bool,
    /// Random bits for ids; on a clash the next are tried.
    pub id_bits: [u16; 8],
}

/// How an account's files are kept, whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountTerms {
    /// Its name.
    pub name: String,
    /// What it may use, as far as it says.
    pub limits: TenantLimits,
    /// How its files are kept.
    pub settings: AccountSettings,
}

/// How the bytes of an adopted file were taken over.
#[derive(Debug, Clone, PartialEq)]
pub enum KeepOutcome {
    /// It is a file like any other, under the id that it had.
    Kept(Box<FileRecord>),
    /// It would not fit what the account may store. Nothing was changed.
    OverQuota(Quota),
    /// It was deleted meanwhile, or kept already. Nothing was changed.
    Gone,
}

impl Catalog {
    /// Gives a file that was born upstream an id, or finds the one that it has, be it that of a file whose
    /// bytes are here. `None`: it is another account's.
    pub async fn adopt_file(
        &self,
        new: NewAdopted,
        now: UnixMillis,
    ) -> Result<Option<FileId>, StoreError> {
        self.engine
            .write(synced("adopting a file"), move |c| {
                let fresh = |id| {
                    let inserted = insert(c, &new, id, now)?;
                    if inserted && new.keep {
                        let target = format!("{}/{id}", new.account.0);
                        jobs::enqueue(c, jobs::JobKind::KeepAdopted, &target, now)?;
                    }
                    Ok(inserted)
                };
                adopt(now, new.id_bits, new.account, || known(c, &new), fresh)
            })
            .await
    }

    /// The limits and settings of an account.
    pub async fn account_terms(
        &self,
        account: AccountId,
    ) -> Result<Option<AccountTerms>, StoreError> {
        self.engine
            .read_few("reading an account", move |c| {
                c.prepare_cached(
                    "SELECT name, limits, settings FROM accounts WHERE account_id = ?1",
                )?
                .query_row([account.0], |row| {
                    Ok(AccountTerms {
                        name: row.get(0)?,
                        limits: json_or_default(row, 1)?,
                        settings: json_or_default(row, 2)?,
                    })
                })
                .optional()
            })
            .await
    }

    /// An adopted file of the account.
    pub async fn adopted(
        &self,
        account: AccountId,
        file: FileId,
        now: UnixMillis,
    ) -> Result<Option<AdoptedFile>, StoreError> {
        self.engine
            .read_few("looking for an adopted file", move |c| {
                c.prepare_cached(&format!(
                    "SELECT {ADOPTED} FROM adopted WHERE file_id = ?1 AND account_id = ?2
                       AND (expires_at IS NULL OR expires_at > ?3)"
                ))?
                .query_row((file.get(), account.0, now.0), adopted)
                .optional()
            })
            .await
    }

    /// An adopted file, whoever it belongs to: for operators.
    pub async fn adopted_of_any(&self, file: FileId) -> Result<Option<AdoptedFile>, StoreError> {
        self.engine
            .read_few("looking for an adopted file", move |c| {
                c.prepare_cached(&format!("SELECT {ADOPTED} FROM adopted WHERE file_id = ?1"))?
                    .query_row([file.get()], adopted)
                    .optional()
            })
            .await
    }

    /// Whose file it is, of those whose bytes are here: for operators.
    pub async fn owner_of(&self, file: FileId) -> Result<Option<AccountId>, StoreError> {
        self.engine
            .read_few("looking for the owner of a file", move |c| {
                c.prepare_cached("SELECT account_id FROM files WHERE file_id = ?1")?
                    .query_row([file.get()], |row| row.get(0).map(AccountId))
                    .optional()
            })
            .await
    }

    /// The account's adopted files, newest first, as [`list`](Self::list) lists the others.
    pub async fn list_adopted(
        &self,
        account: AccountId,
        purposes: Vec<PurposeName>,
        after: Option<FileId>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<AdoptedFile>, StoreError> {
        self.engine
            .read("listing adopted files", move |c| {
                let before = after.map_or(i64::MAX, FileId::get);
                let mut values =
                    [account.0, before, now.0, i64::from(limit)].map(Value::Integer).to_vec();
                values.extend(purposes.iter().map(|p| Value::Text(p.as_str().to_owned())));
                let of_purpose = match purposes.len() {
                    0 => String::new(),
                    count => format!("AND purpose IN ({})", places(5, count)),
                };
                let mut statement = c.prepare_cached(&format!(
                    "SELECT {ADOPTED} FROM adopted
                     WHERE account_id = ?1 AND file_id < ?2
                       AND (expires_at IS NULL OR expires_at > ?3) {of_purpose}
                     ORDER BY file_id DESC LIMIT ?4"
                ))?;
                statement.query_map(&values[..], adopted)?.collect()
            })
            .await
    }

    /// Writes down what upstream says of an adopted file.
    pub async fn adopted_measured(
        &self,
        account: AccountId,
        file: FileId,
        bytes: u64,
        filename: String,
    ) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("measuring an adopted file"), move |c| {
                c.prepare_cached(
                    "UPDATE adopted SET bytes = ?3, filename = ?4
                     WHERE file_id = ?1 AND account_id = ?2",
                )?
                .queue((file.get(), account.0, bytes.cast_signed(), &filename))
            })
            .await
    }

    /// Forgets an adopted file that upstream says it does not have.
    pub async fn adopted_gone(&self, account: AccountId, file: FileId) -> Result<(), StoreError> {
        self.engine
            .write(freeing("forgetting an adopted file"), move |c| {
                c.prepare_cached("DELETE FROM adopted WHERE file_id = ?1 AND account_id = ?2")?
                    .queue((file.get(), account.0))
            })
            .await
    }

    /// Makes an adopted file one like any other, with bytes of its own: they have landed under
    /// [`NewFile::blob_key`], and there is an upload with that key, begun without a price. Its id stays, and
    /// what is upstream becomes its copy there.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the reaper took the upload.
    pub async fn keep_adopted(
        &self,
        account: AccountId,
        file_id: FileId,
        file: NewFile,
        now: UnixMillis,
    ) -> Result<KeepOutcome, StoreError> {
        let kept = self
            .engine
            .write(synced("keeping an adopted file").of(account), move |c| {
                keep(c, account, file_id, &file, now)
            })
            .await?;
        kept.ok_or(StoreError::LeaseLost)
    }

    /// Forgets adopted files that upstream has forgotten by `now`, at most `limit`; says how many.
    pub async fn expire_adopted(&self, now: UnixMillis, limit: u32) -> Result<usize, StoreError> {
        self.engine
            .write(freeing("expiring adopted files"), move |c| {
                c.prepare_cached(
                    "DELETE FROM adopted WHERE file_id IN (
                         SELECT file_id FROM adopted WHERE expires_at <= ?1
                         ORDER BY expires_at LIMIT ?2)",
                )?
                .execute((now.0, limit))
            })
            .await
    }
}

const ADOPTED: &str = "file_id, account_id, key_id, purpose, filename, bytes, channel_id, \
                       upstream_id, task_id, created_at, expires_at";

fn adopted(row: &Row<'_>) -> sql::Result<AdoptedFile> {
    let purpose: String = row.get(3)?;
    let task: Option<i64> = row.get(8)?;
    Ok(AdoptedFile {
        file_id: file_id(row, 0)?,
        account_id: AccountId(row.get(1)?),
        key_id: row.get::<Option<i64>>(2)?.map(KeyId),
        purpose: PurposeName::try_from(purpose).map_err(|e| corrupt_column(3, e))?,
        filename: row.get(4)?,
        bytes: row.get::<i64>(5)?.cast_unsigned(),
        channel_id: ChannelId(row.get(6)?),
        upstream_id: row.get(7)?,
        task_id: task.map(|_| file_id(row, 8)).transpose()?,
        created_at: UnixMillis(row.get(9)?),
        expires_at: row.get::<Option<i64>>(10)?.map(UnixMillis),
    })
}

fn known(c: &Connection, new: &NewAdopted) -> sql::Result<Option<(FileId, AccountId)>> {
    c.prepare_cached(
        "SELECT file_id, account_id FROM adopted WHERE channel_id = ?1 AND upstream_id = ?2
         UNION ALL
         SELECT file_id, account_id FROM replicas WHERE channel_id = ?1 AND upstream_id = ?2",
    )?
    .query_row((new.channel.0, &new.upstream_id), |row| {
        Ok((file_id(row, 0)?, AccountId(row.get(1)?)))
    })
    .optional()
}

fn insert(c: &Connection, new: &NewAdopted, id: FileId, now: UnixMillis) -> sql::Result<bool> {
    // Files have ids of the same kind, and this may become one.
    let is_file = c
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM files WHERE file_id = ?1)")?
        .query_row([id.get()], |row| row.get::<bool>(0))?;
    if is_file {
        return Ok(false);
    }
    let values = vec![
        Value::Integer(id.get()),
        Value::Integer(new.account.0),
        Value::Integer(new.key.0),
        Value::Text(new.purpose.as_str().to_owned()),
        Value::Text(new.filename.clone()),
        Value::Integer(new.channel.0),
        Value::Text(new.upstream_id.clone()),
        new.task_id.map_or(Value::Null, |task| Value::Integer(task.get())),
        Value::Integer(now.0),
        new.expires_at.map_or(Value::Null, |at| Value::Integer(at.0)),
    ];
    c.prepare_cached(
        "INSERT INTO adopted (file_id, account_id, key_id, purpose, filename, channel_id,
                              upstream_id, task_id, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )?
    .execute(&values[..])
    .map(|inserted| inserted == 1)
}

/// Takes an adopted file's row; says where the file is.
fn take(c: &Connection, account: AccountId, file: FileId) -> sql::Result<Option<AdoptedFile>> {
    c.prepare_cached(&format!(
        "DELETE FROM adopted WHERE file_id = ?1 AND account_id = ?2 RETURNING {ADOPTED}"
    ))?
    .query_row((file.get(), account.0), adopted)
    .optional()
}

/// Forgets an adopted file and has it deleted upstream. Its account must be locked.
pub(super) fn remove(c: &Connection, file: i64, now: UnixMillis) -> sql::Result<()> {
    let found = c
        .prepare_cached(
            "DELETE FROM adopted WHERE file_id = ?1 RETURNING channel_id, upstream_id, purpose",
        )?
        .query_row([file], |row| {
            Ok((ChannelId(row.get(0)?), row.get::<String>(1)?, row.get::<String>(2)?))
        })
        .optional()?;
    match found {
        Some((channel, id, purpose)) => {
            jobs::enqueue_delete_replica(c, channel, &id, &purpose, now)
        }
        None => Ok(()),
    }
}

fn keep(
    c: &Connection,
    account: AccountId,
    id: FileId,
    file: &NewFile,
    now: UnixMillis,
) -> sql::Result<Option<KeepOutcome>> {
    // Before anything is changed: an outcome that is no error does not roll back.
    let bytes = Bytes(file.sum.bytes);
    let is_there = c
        .prepare_cached("SELECT 1 FROM adopted WHERE file_id = ?1 AND account_id = ?2")?
        .query_row((id.get(), account.0), |_| Ok(()))
        .optional()?;
    if is_there.is_none() {
        return Ok(Some(KeepOutcome::Gone));
    }
    if let Some(quota) = uploads::over_quota(c, account, &file.limits, Some(&file.purpose), bytes)?
    {
        return Ok(Some(KeepOutcome::OverQuota(quota)));
    }
    let Some((owner, _)) = uploads::take(c, file.blob_key.as_str())? else { return Ok(None) };
    // The account is locked, but an operator's expiry is not: then all of this is undone.
    let born = take(c, account, id)?.filter(|_| owner == account).ok_or(sql::Error::NoRows)?;
    if !uploads::insert_as(c, account, file, id, born.created_at)? {
        return Err(sql::Error::Other("the id of an adopted file is taken".to_owned()));
    }
    c.prepare_cached(
        "INSERT INTO replicas (file_id, channel_id, account_id, state, upstream_id, created_at,
                               expires_at, used_at)
         VALUES (?1, ?2, ?3, 'ready', ?4, ?5, ?6, ?7)",
    )?
    .queue((
        id.get(),
        born.channel_id.0,
        account.0,
        &born.upstream_id,
        born.created_at.0,
        born.expires_at.map(|at| at.0),
        now.0,
    ))?;
    usage::store(c, account, file.purpose.as_str(), 1, file.sum.bytes.cast_signed())?;
    let record = uploads::record_of(account, file, id, born.created_at);
    Ok(Some(KeepOutcome::Kept(Box::new(record))))
}

/// Deletes an adopted file for a client: charges for it, and has it deleted upstream. `None`: there is none.
/// The account must be locked.
pub(super) fn delete(
    c: &Connection,
    account: AccountId,
    key: KeyId,
    file: FileId,
    purposes: &[PurposeName],
    now: UnixMillis,
) -> sql::Result<Option<DeleteOutcome>> {
    let found: Option<String> = c
        .prepare_cached(
            "SELECT purpose FROM adopted WHERE file_id = ?1 AND account_id = ?2
               AND (expires_at IS NULL OR expires_at > ?3)",
        )?
        .query_row((file.get(), account.0, now.0), |row| row.get(0))
        .optional()?;
    let Some(purpose) = found else { return Ok(None) };
    if !purposes.is_empty() && !purposes.iter().any(|p| p.as_str() == purpose) {
        return Ok(Some(DeleteOutcome::OtherPurpose));
    }
    let call = Call::Delete;
    let charged = match books::charge(c, account, key, call, &purpose, Some(file), now)? {
        Ok(charged) => charged,
        Err(short) => return Ok(Some(DeleteOutcome::Short(short))),
    };
    if let Some(gone) = take(c, account, file)? {
        jobs::enqueue_delete_replica(c, gone.channel_id, &gone.upstream_id, &purpose, now)?;
    }
    usage::add(c, &Usage { account, key, purpose, call, calls: 1, bytes: 0, charged }, now)?;
    Ok(Some(DeleteOutcome::Deleted))
}
