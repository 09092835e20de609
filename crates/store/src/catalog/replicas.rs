//! Copies of files on channels.
//!
//! ```text
//!            claim            uploaded
//!   absent ─────────> uploading ─────────> ready ──────> gone      upstream said so
//!      ^                 │  ^                │             │
//!      └── failed ───────┘  └─ lease ended, ─┴─────────────┘
//!                              expired
//! ```
//!
//! One row for a file on a channel, and whoever holds its lease is the one who uploads: of all that need the
//! file there at the same time, on whatever replica of ours, one pays for the way. The rows of a file go with
//! it, in the same transaction, and leave jobs that delete the copies.

use std::time::Duration;

use filegate_types::{AccountId, ChannelId, FileId, UnixMillis};

use super::jobs::{self, JobKind};
use super::sql::{self, Connection, OptionalExtension as _, Row, Value};
use super::{Catalog, corrupt_column, freeing, places, relaxed, synced};
use crate::error::StoreError;

/// A file's copy on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Of which file.
    pub file_id: FileId,
    /// Where.
    pub channel_id: ChannelId,
    /// Its id there; empty while it is uploaded for the first time.
    pub upstream_id: String,
    /// Whether it can be used.
    pub state: ReplicaState,
    /// When it was first claimed.
    pub created_at: UnixMillis,
    /// When upstream forgets it, as far as is known.
    pub expires_at: Option<UnixMillis>,
    /// When a call last needed it.
    pub used_at: UnixMillis,
    /// How often the file was uploaded there.
    pub uploads: u32,
}

/// See [`Replica::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplicaState {
    /// Somebody is at it, until a lease ends.
    Uploading,
    /// It is there.
    Ready,
    /// Upstream said that it is not there any more.
    Gone,
}

impl ReplicaState {
    /// The name in rows and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Ready => "ready",
            Self::Gone => "gone",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Uploading, Self::Ready, Self::Gone].into_iter().find(|state| state.name() == name)
    }
}

/// What came of asking for a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is there.
    Ready(Replica),
    /// It is the caller's to upload, until then.
    Mine {
        /// When others may take it over.
        lease_until: UnixMillis,
    },
    /// Somebody else is at it.
    Others {
        /// When it may be taken over, unless they renew.
        lease_until: UnixMillis,
    },
    /// The channel was removed.
    Nowhere,
}

/// A claimed copy that is there.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// Whose file it is.
    pub account: AccountId,
    /// Of which file.
    pub file_id: FileId,
    /// Where.
    pub channel_id: ChannelId,
    /// Who claimed it.
    pub holder: String,
    /// Its id there.
    pub upstream_id: String,
    /// When upstream forgets it, as far as is known.
    pub expires_at: Option<UnixMillis>,
}

impl Catalog {
    /// The copies of these files of the account that are there, on all channels; of which upstream may
    /// have forgotten some by `now`.
    pub async fn replicas_of(
        &self,
        account: AccountId,
        files: Vec<FileId>,
    ) -> Result<Vec<Replica>, StoreError> {
        self.engine
            .read_few("looking for copies of files", move |c| {
                let mut found = Vec::new();
                for some in files.chunks(IDS_MAX) {
                    let mut statement = c.prepare_cached(&format!(
                        "SELECT {REPLICA} FROM replicas
                         WHERE account_id = ?1 AND state = 'ready' AND file_id IN ({})
                         ORDER BY file_id, channel_id",
                        places(2, some.len())
                    ))?;
                    let ids = some.iter().map(|file| Value::Integer(file.get()));
                    let values: Vec<_> =
                        [Value::Integer(account.0)].into_iter().chain(ids).collect();
                    for row in statement.query_map(&values[..], replica)? {
                        found.push(row?);
                    }
                }
                Ok(found)
            })
            .await
    }

    /// Every copy of a file that there is or was, whoever it belongs to: for operators.
    pub async fn all_replicas_of(&self, file: FileId) -> Result<Vec<Replica>, StoreError> {
        self.engine
            .read("looking for copies of a file", move |c| {
                let mut statement = c.prepare_cached(&format!(
                    "SELECT {REPLICA} FROM replicas WHERE file_id = ?1 ORDER BY channel_id"
                ))?;
                statement.query_map([file.get()], replica)?.collect()
            })
            .await
    }

    /// Asks for a copy of a file on a channel. `None`: the account has no such file.
    ///
    /// A copy that upstream has forgotten, or whose lease has ended, is claimed anew. The account is locked:
    /// of two that claim one copy, the second sees what the first wrote.
    pub async fn claim_replica(
        &self,
        account: AccountId,
        file: FileId,
        channel: ChannelId,
        holder: String,
        lease: Duration,
        now: UnixMillis,
    ) -> Result<Option<Claim>, StoreError> {
        self.engine
            .write(relaxed("claiming a copy").of(account), move |c| {
                claim(c, account, (file, channel), &holder, now.plus(lease), now)
            })
            .await
    }

    /// Writes down that a claimed copy is there. False if it is nobody's use any more: the file was deleted
    /// meanwhile, or the lease ended and somebody else has taken it over; then what was uploaded is deleted
    /// from the channel by a job.
    pub async fn replica_uploaded(
        &self,
        copy: Uploaded,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.engine
            .write(synced("noting a copy").of(copy.account), move |c| {
                let Uploaded { account, file_id: file, channel_id: channel, .. } = copy;
                let (holder, upstream_id) = (&copy.holder, &copy.upstream_id);
                forget_older(c, channel, upstream_id, file)?;
                let noted = c
                    .prepare_cached(
                        "UPDATE replicas SET state = 'ready', upstream_id = ?5, expires_at = ?6,
                             holder = '', lease_until = NULL, used_at = ?7, uploads = uploads + 1
                         WHERE file_id = ?1 AND channel_id = ?2 AND account_id = ?3 AND holder = ?4
                           AND state = 'uploading'",
                    )?
                    .execute((
                        file.get(),
                        channel.0,
                        account.0,
                        holder,
                        upstream_id,
                        copy.expires_at.map(|at| at.0),
                        now.0,
                    ))?;
                if noted == 0 {
                    let purpose = purpose_of(c, file)?;
                    jobs::enqueue_delete_replica(c, channel, upstream_id, &purpose, now)?;
                }
                Ok(noted == 1)
            })
            .await
    }

    /// Gives a claim back: the upload failed.
    pub async fn replica_failed(
        &self,
        account: AccountId,
        file: FileId,
        channel: ChannelId,
        holder: String,
    ) -> Result<(), StoreError> {
        self.engine
            .write(relaxed("giving up a copy"), move |c| {
                c.prepare_cached(
                    "UPDATE replicas SET state = 'gone', holder = '', lease_until = NULL
                     WHERE file_id = ?1 AND channel_id = ?2 AND account_id = ?3 AND holder = ?4
                       AND state = 'uploading'",
                )?
                .queue((file.get(), channel.0, account.0, &holder))
            })
            .await
    }

    /// Writes down that upstream has forgotten a copy, if it is still that one.
    pub async fn replica_gone(
        &self,
        account: AccountId,
        file: FileId,
        channel: ChannelId,
        upstream_id: &str,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let upstream_id = upstream_id.to_owned();
        self.engine
            .write(relaxed("noting that a copy is gone"), move |c| {
                c.prepare_cached(
                    "UPDATE replicas SET state = 'gone', expires_at = ?5
                     WHERE file_id = ?1 AND channel_id = ?2 AND account_id = ?3 AND upstream_id = ?4
                       AND state = 'ready'",
                )?
                .queue((file.get(), channel.0, account.0, &upstream_id, now.0))
            })
            .await
    }

    /// Writes down that calls needed these copies.
    pub async fn replica_used(
        &self,
        mut used: Vec<(FileId, ChannelId)>,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        // In one order everywhere, so that replicas of ours wait in turn.
        used.sort_unstable();
        used.dedup();
        self.engine
            .write(relaxed("noting the use of copies"), move |c| {
                let mut note = c.prepare_cached(
                    "UPDATE replicas SET used_at = ?3
                     WHERE file_id = ?1 AND channel_id = ?2 AND used_at < ?3",
                )?;
                used.iter()
                    .try_for_each(|(file, channel)| note.queue((file.get(), channel.0, now.0)))
            })
            .await
    }

    /// Extends the lease of an upload that goes on; false if it is the holder's no more.
    pub async fn renew_replica(
        &self,
        account: AccountId,
        file: FileId,
        channel: ChannelId,
        holder: String,
        lease_until: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.engine
            .write(relaxed("renewing the claim of a copy"), move |c| {
                c.prepare_cached(
                    "UPDATE replicas SET lease_until = ?5
                     WHERE file_id = ?1 AND channel_id = ?2 AND account_id = ?3 AND holder = ?4
                       AND state = 'uploading'",
                )?
                .execute((file.get(), channel.0, account.0, &holder, lease_until.0))
                .map(|changed| changed == 1)
            })
            .await
    }

    /// Which of a channel's ids are of files here, be they copies or born there: with the id here, and whose.
    pub async fn local_of_upstream(
        &self,
        channel: ChannelId,
        upstream_ids: Vec<String>,
    ) -> Result<Vec<(String, FileId, AccountId)>, StoreError> {
        self.engine
            .read("looking for files by their ids upstream", move |c| {
                let mut found = Vec::new();
                for some in upstream_ids.chunks(IDS_MAX) {
                    let places = places(2, some.len());
                    let mut statement = c.prepare_cached(&format!(
                        "SELECT upstream_id, file_id, account_id FROM adopted
                         WHERE channel_id = ?1 AND upstream_id IN ({places})
                         UNION ALL
                         SELECT upstream_id, file_id, account_id FROM replicas
                         WHERE channel_id = ?1 AND upstream_id IN ({places})"
                    ))?;
                    let ids = some.iter().map(|id| Value::Text(id.clone()));
                    let values: Vec<_> =
                        [Value::Integer(channel.0)].into_iter().chain(ids).collect();
                    let rows = statement.query_map(&values[..], |row| {
                        Ok((row.get(0)?, file_id(row, 1)?, AccountId(row.get(2)?)))
                    })?;
                    for row in rows {
                        found.push(row?);
                    }
                }
                Ok(found)
            })
            .await
    }

    /// Removes what is written of copies of files that are not here any more, and has the copies deleted: a gateway
    /// that knew nothing of copies has deleted the files. Gives of how many files.
    pub async fn reap_lost_copies(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let lost = self
            .engine
            .read("looking for copies without files", |c| {
                c.prepare_cached(
                    "SELECT DISTINCT r.account_id, r.file_id FROM replicas r
                     LEFT JOIN files f USING (file_id, account_id) WHERE f.file_id IS NULL",
                )?
                .query_map((), |row| Ok((AccountId(row.get(0)?), file_id(row, 1)?)))?
                .collect::<sql::Result<Vec<_>>>()
            })
            .await?;
        for (account, file) in &lost {
            let file = *file;
            self.engine
                .write(freeing("forgetting the copies of a lost file").of(*account), move |c| {
                    remove_of(c, file.get(), &purpose_of(c, file)?, now)
                })
                .await?;
        }
        Ok(lost.len())
    }

    /// Has something deleted from a channel that is nobody's use here.
    pub async fn delete_upstream(
        &self,
        channel: ChannelId,
        upstream_id: String,
        purpose: String,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.engine
            .write(freeing("promising the deletion of a copy"), move |c| {
                jobs::enqueue_delete_replica(c, channel, &upstream_id, &purpose, now)
            })
            .await
    }
}

/// Ids looked up by one statement.
pub(super) const IDS_MAX: usize = 100;

/// The columns of [`replica`].
const REPLICA: &str =
    "file_id, channel_id, upstream_id, state, created_at, expires_at, used_at, uploads";

fn replica(row: &Row<'_>) -> sql::Result<Replica> {
    let state: String = row.get(3)?;
    let unknown = || corrupt_column(3, std::io::Error::other("an unknown state of a copy"));
    Ok(Replica {
        file_id: file_id(row, 0)?,
        channel_id: ChannelId(row.get(1)?),
        upstream_id: row.get::<Option<String>>(2)?.unwrap_or_default(),
        state: ReplicaState::of_name(&state).ok_or_else(unknown)?,
        created_at: UnixMillis(row.get(4)?),
        expires_at: row.get::<Option<i64>>(5)?.map(UnixMillis),
        used_at: UnixMillis(row.get(6)?),
        uploads: row.get(7)?,
    })
}

/// A column that is an id of ours.
pub(super) fn file_id(row: &Row<'_>, index: usize) -> sql::Result<FileId> {
    FileId::new(row.get(index)?).map_err(|error| corrupt_column(index, error))
}

fn claim(
    c: &Connection,
    account: AccountId,
    (file, channel): (FileId, ChannelId),
    holder: &str,
    until: UnixMillis,
    now: UnixMillis,
) -> sql::Result<Option<Claim>> {
    let purpose: Option<String> = c
        .prepare_cached(
            "SELECT purpose FROM files WHERE file_id = ?1 AND account_id = ?2
               AND (expires_at IS NULL OR expires_at > ?3)",
        )?
        .query_row((file.get(), account.0, now.0), |row| row.get(0))
        .optional()?;
    let Some(purpose) = purpose else { return Ok(None) };
    let found = c
        .prepare_cached(&format!(
            "SELECT {REPLICA}, lease_until FROM replicas WHERE file_id = ?1 AND channel_id = ?2"
        ))?
        .query_row((file.get(), channel.0), |row| Ok((replica(row)?, row.get::<Option<i64>>(8)?)))
        .optional()?;
    if let Some((found, lease_until)) = found {
        let is_forgotten = found.expires_at.is_some_and(|at| at <= now);
        match found.state {
            ReplicaState::Ready if !is_forgotten => return Ok(Some(Claim::Ready(found))),
            // It may be there all the same: when upstream forgets is only believed.
            ReplicaState::Ready => {
                jobs::enqueue_delete_replica(c, channel, &found.upstream_id, &purpose, now)?;
            }
            ReplicaState::Uploading => {
                let lease_until = UnixMillis(lease_until.unwrap_or_default());
                if lease_until > now {
                    return Ok(Some(Claim::Others { lease_until }));
                }
            }
            ReplicaState::Gone => {}
        }
    }
    // Said by the INSERT itself: a removal may come between two statements.
    let claimed = c
        .prepare_cached(
            "INSERT INTO replicas (file_id, channel_id, account_id, state, holder, lease_until,
                                   created_at, used_at)
             SELECT ?1, channel_id, ?3, 'uploading', ?4, ?5, ?6, ?6 FROM channels
             WHERE channel_id = ?2 AND state <> 'removed'
             ON CONFLICT (file_id, channel_id) DO UPDATE SET
                 state = 'uploading', upstream_id = NULL, holder = excluded.holder,
                 lease_until = excluded.lease_until, expires_at = NULL, used_at = excluded.used_at",
        )?
        .execute((file.get(), channel.0, account.0, holder, until.0, now.0))?;
    Ok(Some(if claimed == 1 { Claim::Mine { lease_until: until } } else { Claim::Nowhere }))
}

/// What a file is or was for. Channels want to be told that when it is deleted.
fn purpose_of(c: &Connection, file: FileId) -> sql::Result<String> {
    let purpose = c
        .prepare_cached(
            "SELECT purpose FROM files WHERE file_id = ?1
             UNION ALL SELECT purpose FROM receipts WHERE file_id = ?1 LIMIT 1",
        )?
        .query_row([file.get()], |row| row.get(0))
        .optional()?;
    Ok(purpose.unwrap_or_default())
}

/// Writes down a copy that is there before its file is.
pub(super) fn insert_ready(
    c: &Connection,
    account: AccountId,
    (file, channel): (FileId, ChannelId),
    upstream_id: &str,
    expires_at: Option<UnixMillis>,
    now: UnixMillis,
) -> sql::Result<()> {
    forget_older(c, channel, upstream_id, file)?;
    c.prepare_cached(
        "INSERT INTO replicas (file_id, channel_id, account_id, state, upstream_id, created_at,
                               expires_at, used_at, uploads)
         VALUES (?1, ?2, ?3, 'ready', ?4, ?6, ?5, ?6, 1)",
    )?
    .queue((file.get(), channel.0, account.0, upstream_id, expires_at.map(|at| at.0), now.0))
}

/// An id that upstream has just given to `file` cannot be that of something older: a row that says so is of
/// before upstream lost what it had.
fn forget_older(
    c: &Connection,
    channel: ChannelId,
    upstream_id: &str,
    file: FileId,
) -> sql::Result<()> {
    c.prepare_cached(
        "UPDATE replicas SET state = 'gone', upstream_id = NULL
         WHERE channel_id = ?1 AND upstream_id = ?2 AND file_id <> ?3",
    )?
    .queue((channel.0, upstream_id, file.get()))
}

/// Removes the rows of a file's copies and has the copies deleted. Its account must be locked, so that
/// whoever is just uploading one finds it gone, and has it deleted then.
pub(super) fn remove_of(
    c: &Connection,
    file_id: i64,
    purpose: &str,
    now: UnixMillis,
) -> sql::Result<()> {
    c.prepare_cached(
        "INSERT INTO jobs (kind, target, run_at)
         SELECT ?3, channel_id || '/' || upstream_id || '/' || ?2, ?4 FROM replicas
         WHERE file_id = ?1 AND state = 'ready' AND upstream_id IS NOT NULL
         ON CONFLICT DO NOTHING",
    )?
    .queue((file_id, purpose, JobKind::DeleteReplica.name(), now.0))?;
    c.prepare_cached("DELETE FROM replicas WHERE file_id = ?1")?.queue([file_id])
}
