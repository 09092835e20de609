//! Tasks that were begun upstream, under ids of ours.

use filegate_types::{AccountId, ChannelId, FileId, KeyId, UnixMillis};

use super::replicas::{IDS_MAX, file_id};
use super::sql::{self, Connection, OptionalExtension as _, Row, Value};
use super::{Catalog, places, synced};
use crate::error::StoreError;

/// A task that a call of the account began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    /// Its id here. Minted as those of files are.
    pub task_id: FileId,
    /// Whose it is.
    pub account_id: AccountId,
    /// Where it is.
    pub channel_id: ChannelId,
    /// Its id there.
    pub upstream_id: String,
    /// The path of the call that began it.
    pub path: String,
    /// When it was begun.
    pub created_at: UnixMillis,
}

/// A task that a reply tells of.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Whose call it was.
    pub account: AccountId,
    /// The key it was made with.
    pub key: KeyId,
    /// Where it went.
    pub channel: ChannelId,
    /// The task's id there.
    pub upstream_id: String,
    /// The path of the call, without ids.
    pub path: String,
    /// Random bits for ids; on a clash the next are tried.
    pub id_bits: [u16; 8],
}

impl Catalog {
    /// A task of the account.
    pub async fn task(
        &self,
        account: AccountId,
        task_id: FileId,
    ) -> Result<Option<TaskRow>, StoreError> {
        self.engine
            .read_few("looking for a task", move |c| {
                c.prepare_cached(&format!(
                    "SELECT {TASK} FROM tasks WHERE task_id = ?1 AND account_id = ?2"
                ))?
                .query_row((task_id.get(), account.0), task)
                .optional()
            })
            .await
    }

    /// The account's tasks among these of a channel.
    pub async fn tasks_of_upstream(
        &self,
        account: AccountId,
        channel: ChannelId,
        upstream_ids: Vec<String>,
    ) -> Result<Vec<TaskRow>, StoreError> {
        self.engine
            .read("looking for tasks by their ids upstream", move |c| {
                let mut found = Vec::new();
                for some in upstream_ids.chunks(IDS_MAX) {
                    let mut statement = c.prepare_cached(&format!(
                        "SELECT {TASK} FROM tasks
                         WHERE account_id = ?1 AND channel_id = ?2 AND upstream_id IN ({})",
                        places(3, some.len())
                    ))?;
                    let mut values = vec![Value::Integer(account.0), Value::Integer(channel.0)];
                    values.extend(some.iter().map(|id| Value::Text(id.clone())));
                    for row in statement.query_map(&values[..], task)? {
                        found.push(row?);
                    }
                }
                Ok(found)
            })
            .await
    }

    /// Gives a task of upstream an id, or finds the one that it has. `None`: it is another account's.
    ///
    /// Of two that adopt one task at the same time, the second waits for the first at the unique index, and
    /// finds its row.
    pub async fn adopt_task(
        &self,
        new: NewTask,
        now: UnixMillis,
    ) -> Result<Option<FileId>, StoreError> {
        self.engine
            .write(synced("adopting a task"), move |c| {
                adopt(
                    now,
                    new.id_bits,
                    new.account,
                    || known(c, &new),
                    |id| insert(c, &new, id, now),
                )
            })
            .await
    }
}

/// The id that `known` finds, if it is the account's, else one under which `insert` puts a row. `insert` says
/// whether it did: not if the id is taken, or somebody else has adopted the same in between.
pub(super) fn adopt(
    now: UnixMillis,
    id_bits: [u16; 8],
    account: AccountId,
    known: impl Fn() -> sql::Result<Option<(FileId, AccountId)>>,
    insert: impl Fn(FileId) -> sql::Result<bool>,
) -> sql::Result<Option<FileId>> {
    for millisecond in 0..16 {
        for bits in id_bits {
            if let Some((id, owner)) = known()? {
                return Ok((owner == account).then_some(id));
            }
            let id = FileId::mint(UnixMillis(now.0 + millisecond), bits);
            if insert(id)? {
                return Ok(Some(id));
            }
        }
    }
    Err(sql::Error::Other("no free id".to_owned()))
}

const TASK: &str = "task_id, account_id, channel_id, upstream_id, path, created_at";

fn task(row: &Row<'_>) -> sql::Result<TaskRow> {
    Ok(TaskRow {
        task_id: file_id(row, 0)?,
        account_id: AccountId(row.get(1)?),
        channel_id: ChannelId(row.get(2)?),
        upstream_id: row.get(3)?,
        path: row.get(4)?,
        created_at: UnixMillis(row.get(5)?),
    })
}

fn known(c: &Connection, new: &NewTask) -> sql::Result<Option<(FileId, AccountId)>> {
    c.prepare_cached(
        "SELECT task_id, account_id FROM tasks WHERE channel_id = ?1 AND upstream_id = ?2",
    )?
    .query_row((new.channel.0, &new.upstream_id), |row| {
        Ok((file_id(row, 0)?, AccountId(row.get(1)?)))
    })
    .optional()
}

fn insert(c: &Connection, new: &NewTask, id: FileId, now: UnixMillis) -> sql::Result<bool> {
    c.prepare_cached(
        "INSERT INTO tasks (task_id, account_id, key_id, channel_id, upstream_id, path, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
    )?
    .execute((
        id.get(),
        new.account.0,
        new.key.0,
        new.channel.0,
        &new.upstream_id,
        &new.path,
        now.0,
    ))
    .map(|inserted| inserted == 1)
}
