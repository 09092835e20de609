//! Where clients want to be told of tasks, and what they are still to be told.

use filegate_types::{AccountId, ChannelId, KeyId, UnixMillis};

use super::jobs::{self, JobKind};
use super::sql::{self, Connection, OptionalExtension as _, Row};
use super::{Catalog, freeing, synced};
use crate::error::StoreError;

/// News that wait for one client, at most: upstream tells a handful of each task.
const WAITING_MAX: i64 = 64;

/// A client's address, which upstream does not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// What upstream's address of ours names it by. Random.
    pub callback_id: String,
    /// Whose call asked for it.
    pub account: AccountId,
    /// The key it was made with.
    pub key: KeyId,
    /// Where the call went.
    pub channel: ChannelId,
    /// The path of the call, without ids.
    pub path: String,
    /// Where the client wants to be told.
    pub url: String,
    /// Whether the bytes of files that it tells of are kept here.
    pub keep: bool,
    /// When the call was made.
    pub created_at: UnixMillis,
}

/// Something that a client is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its row.
    pub delivery_id: i64,
    /// What upstream said, with upstream's ids.
    pub body: Vec<u8>,
    /// When upstream said so.
    pub created_at: UnixMillis,
    /// Whom to tell.
    pub callback: Callback,
}

impl Catalog {
    /// Keeps an address before upstream is given ours.
    pub async fn create_callback(&self, new: Callback) -> Result<(), StoreError> {
        self.engine
            .write(synced("keeping a callback"), move |c| {
                c.prepare_cached(
                    "INSERT INTO callbacks (callback_id, account_id, key_id, channel_id, path, url, keep,
                                            created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .queue((
                    &new.callback_id,
                    new.account.0,
                    new.key.0,
                    new.channel.0,
                    &new.path,
                    &new.url,
                    i64::from(new.keep),
                    new.created_at.0,
                ))
            })
            .await
    }

    /// The address that a signed name names. Whoever has the name is upstream, so no account is asked for.
    pub async fn callback(&self, callback_id: String) -> Result<Option<Callback>, StoreError> {
        self.engine
            .read("looking for a callback", move |c| {
                c.prepare_cached(&format!(
                    "SELECT {CALLBACK} FROM callbacks c WHERE callback_id = ?1"
                ))?
                .query_row([&callback_id], |row| callback(row, 0))
                .optional()
            })
            .await
    }

    /// Forgets an address and what waits for it: the call was refused.
    pub async fn drop_callback(
        &self,
        account: AccountId,
        callback_id: String,
    ) -> Result<(), StoreError> {
        self.engine
            .write(freeing("dropping a callback"), move |c| {
                let own =
                    "SELECT created_at FROM callbacks WHERE callback_id = ?1 AND account_id = ?2";
                let own: Option<i64> = c
                    .prepare_cached(own)?
                    .query_row((&callback_id, account.0), |row| row.get(0))
                    .optional()?;
                if own.is_some() {
                    forget(c, &callback_id)?;
                }
                Ok(())
            })
            .await
    }

    /// Keeps what upstream says and promises to tell the client, in one transaction. False: nobody wants to know, or
    /// too much waits for whoever does.
    pub async fn add_delivery(
        &self,
        callback_id: String,
        body: Vec<u8>,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.engine
            .write(synced("keeping news for a client"), move |c| {
                // Two at the same time may both find room for the last: the bound is one on growth, not exact.
                let waiting: Option<i64> = c
                    .prepare_cached(
                        "SELECT (SELECT count(*) FROM deliveries WHERE callback_id = ?1)
                         FROM callbacks WHERE callback_id = ?1",
                    )?
                    .query_row([&callback_id], |row| row.get(0))
                    .optional()?;
                if waiting.is_none_or(|waiting| waiting >= WAITING_MAX) {
                    return Ok(false);
                }
                let id: i64 = c
                    .prepare_cached(
                        "INSERT INTO deliveries (callback_id, body, created_at) VALUES (?1, ?2, ?3)
                         RETURNING delivery_id",
                    )?
                    .query_row((&callback_id, &body[..], now.0), |row| row.get(0))?;
                jobs::enqueue(c, JobKind::Deliver, &id.to_string(), now)?;
                Ok(true)
            })
            .await
    }

    /// The first news that wait for the client for whom `delivery_id` waits, which may be others: they are told in
    /// order. `None`: it is told, or nobody wants to know any more.
    pub async fn first_delivery(&self, delivery_id: i64) -> Result<Option<Delivery>, StoreError> {
        self.engine
            .read("looking for news for a client", move |c| {
                c.prepare_cached(&format!(
                    "SELECT f.delivery_id, f.body, f.created_at, {CALLBACK}
                     FROM deliveries d
                     JOIN callbacks c ON c.callback_id = d.callback_id
                     JOIN deliveries f ON f.callback_id = d.callback_id
                     WHERE d.delivery_id = ?1 ORDER BY f.delivery_id LIMIT 1"
                ))?
                .query_row([delivery_id], |row| {
                    Ok(Delivery {
                        delivery_id: row.get(0)?,
                        body: row.get(1)?,
                        created_at: UnixMillis(row.get(2)?),
                        callback: callback(row, 3)?,
                    })
                })
                .optional()
            })
            .await
    }

    /// The client has been told, or will not be. Its job is finished by whoever does it.
    pub async fn finish_delivery(&self, delivery_id: i64) -> Result<(), StoreError> {
        self.engine
            .write(freeing("finishing news for a client"), move |c| {
                c.prepare_cached("DELETE FROM deliveries WHERE delivery_id = ?1")?
                    .queue([delivery_id])
            })
            .await
    }

    /// Forgets addresses that were kept before `before`, at most `limit`, and what waits for them. Says how many.
    pub async fn forget_callbacks(
        &self,
        before: UnixMillis,
        limit: u32,
    ) -> Result<usize, StoreError> {
        self.engine
            .write(freeing("forgetting callbacks"), move |c| {
                let mut old = c.prepare_cached(
                    "SELECT callback_id FROM callbacks WHERE created_at < ?1
                     ORDER BY created_at, callback_id LIMIT ?2",
                )?;
                let old: Vec<String> = old
                    .query_map((before.0, limit), |row| row.get(0))?
                    .collect::<sql::Result<_>>()?;
                old.iter().try_for_each(|callback| forget(c, callback))?;
                Ok(old.len())
            })
            .await
    }
}

/// What waits for it goes first, which points to it. Jobs that are left find nothing to tell, which is success.
fn forget(c: &Connection, callback_id: &str) -> sql::Result<()> {
    c.prepare_cached("DELETE FROM deliveries WHERE callback_id = ?1")?.queue([callback_id])?;
    c.prepare_cached("DELETE FROM callbacks WHERE callback_id = ?1")?.queue([callback_id])
}

const CALLBACK: &str =
    "c.callback_id, c.account_id, c.key_id, c.channel_id, c.path, c.url, c.keep, c.created_at";

fn callback(row: &Row<'_>, from: usize) -> sql::Result<Callback> {
    Ok(Callback {
        callback_id: row.get(from)?,
        account: AccountId(row.get(from + 1)?),
        key: KeyId(row.get(from + 2)?),
        channel: ChannelId(row.get(from + 3)?),
        path: row.get(from + 4)?,
        url: row.get(from + 5)?,
        keep: row.get::<i64>(from + 6)? == 1,
        created_at: UnixMillis(row.get(from + 7)?),
    })
}
