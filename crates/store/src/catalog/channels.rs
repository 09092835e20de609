//! Channels as the relay sees them: where calls go, and what became of the last ones.

use std::io;
use std::time::Duration;

use filegate_types::{
    AccountId, ChannelCondition, ChannelId, ChannelSettings, ChannelState, FileId, Money,
    PriceUnit, UnixMillis,
};

use super::sql::{self, Row};
use super::{Catalog, corrupt_column, json_or_default, relaxed};
use crate::error::StoreError;

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRow {
    /// Its row.
    pub channel_id: ChannelId,
    /// What operators call it; of those that are not removed, only one has the name.
    pub name: String,
    /// The account that brought it, and alone uses it; `None` for the operator's.
    pub account_id: Option<AccountId>,
    /// Where it is, without a path of the API and without a slash at its end.
    pub base_url: String,
    /// Its key, sealed for `base_url`; empty once it is removed.
    pub sealed_key: Vec<u8>,
    /// The last four characters of the key.
    pub key_hint: String,
    /// What operators want of it.
    pub state: ChannelState,
    /// How it is used.
    pub settings: ChannelSettings,
    /// When it was added.
    pub created_at: UnixMillis,
    /// What its answers say of it.
    pub condition: ChannelCondition,
    /// When it may be asked again, if it is not well.
    pub condition_until: Option<UnixMillis>,
    /// Since when it is as it is.
    pub condition_since: Option<UnixMillis>,
    /// Why, in words for operators.
    pub condition_why: String,
}

/// What upstream takes on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostRow {
    /// On which.
    pub channel_id: ChannelId,
    /// For calls of this normalised path; empty for all that have no cost of their own.
    pub path: String,
    /// For what of them.
    pub unit: PriceUnit,
    /// How much.
    pub amount: Money,
}

/// How far a channel is drained of files, and what stays on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainProgress {
    /// Files with a copy there that were used of late.
    pub total: u64,
    /// Of them, those that another live channel has as well.
    pub moved: u64,
    /// Of them, those that could not be copied so far.
    pub failed: u64,
    /// Tasks there that may still run or have results: of the last seven days.
    pub tasks: u64,
    /// Voices there. They cannot be copied.
    pub voices: u64,
}

/// A file that was not used for so long stays where it is when its channel is drained: whoever needs it
/// again has it copied then.
const DRAINED_OF_LAST: Duration = Duration::from_hours(30 * 24);
/// Upstream keeps no task longer.
const TASKS_OF_LAST: Duration = Duration::from_hours(7 * 24);

/// Whether the file of `$file` has a usable copy on a live channel beside ?1; ?2 is the time.
macro_rules! elsewhere {
    ($file:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM replicas o JOIN channels oc ON oc.channel_id = o.channel_id
                     WHERE o.file_id = ",
            $file,
            " AND o.channel_id <> ?1 AND o.state = 'ready' AND oc.state = 'active'
                       AND (o.expires_at IS NULL OR o.expires_at > ?2))"
        )
    };
}

impl Catalog {
    /// How far a channel is drained. Counts rows: for people, and for the end of a drain.
    ///
    /// A file could not be copied so far if the job that copies it has failed: its target is
    /// `ACCOUNT_ID/FILE_ID`, and may have more after a slash, before which the digit 0 comes next.
    pub async fn drain_progress(
        &self,
        channel: ChannelId,
        now: UnixMillis,
    ) -> Result<DrainProgress, StoreError> {
        self.engine
            .read_slowly("looking how far a channel is drained", move |c| {
                let (total, moved, failed): (i64, i64, i64) = c.query_row(
                    concat!(
                        "SELECT count(*), CAST(coalesce(sum(moved), 0) AS BIGINT),
                                CAST(coalesce(sum(CASE WHEN moved = 0 THEN failed ELSE 0 END), 0) AS BIGINT)
                         FROM (SELECT CASE WHEN ",
                        elsewhere!("r.file_id"),
                        " THEN 1 ELSE 0 END AS moved,
                                      CASE WHEN EXISTS (
                                          SELECT 1 FROM jobs j WHERE j.kind = 'replicate' AND j.attempts > 0
                                              AND (j.target = r.account_id || '/' || r.file_id
                                                   OR (j.target > r.account_id || '/' || r.file_id || '/'
                                                       AND j.target < r.account_id || '/' || r.file_id || '0')))
                                      THEN 1 ELSE 0 END AS failed
                               FROM replicas r
                               WHERE r.channel_id = ?1 AND r.state = 'ready' AND r.used_at >= ?3
                                 AND (r.expires_at IS NULL OR r.expires_at > ?2)) AS there"
                    ),
                    (channel.0, now.0, now.minus(DRAINED_OF_LAST).0),
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                )?;
                let tasks: i64 = c.query_row(
                    "SELECT count(*) FROM tasks WHERE channel_id = ?1 AND created_at >= ?2",
                    (channel.0, now.minus(TASKS_OF_LAST).0),
                    |row| row.get(0),
                )?;
                let voices: i64 = c.query_row(
                    "SELECT count(*) FROM voices WHERE channel_id = ?1 AND state = 'ready'",
                    [channel.0],
                    |row| row.get(0),
                )?;
                Ok(DrainProgress {
                    total: total.cast_unsigned(),
                    moved: moved.cast_unsigned(),
                    failed: failed.cast_unsigned(),
                    tasks: tasks.cast_unsigned(),
                    voices: voices.cast_unsigned(),
                })
            })
            .await
    }

    /// Files that were used of late and whose only usable copy on a live channel is there, or on none: the
    /// next after `after`, in the order of their ids, at most `limit`.
    pub async fn drain_next(
        &self,
        channel: ChannelId,
        after: Option<FileId>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<(AccountId, FileId)>, StoreError> {
        self.engine
            .read("looking for files to be drained", move |c| {
                let mut statement = c.prepare_cached(concat!(
                    "SELECT r.account_id, r.file_id FROM replicas r
                     WHERE r.channel_id = ?1 AND r.state = 'ready' AND r.used_at >= ?3
                       AND (r.expires_at IS NULL OR r.expires_at > ?2) AND r.file_id > ?4
                       AND NOT ",
                    elsewhere!("r.file_id"),
                    " ORDER BY r.file_id LIMIT ?5"
                ))?;
                let since = now.minus(DRAINED_OF_LAST);
                let after = after.map_or(0, FileId::get);
                let rows = statement.query_map(
                    (channel.0, now.0, since.0, after, i64::from(limit)),
                    |row| {
                        let id = FileId::new(row.get(1)?).map_err(|e| corrupt_column(1, e))?;
                        Ok((AccountId(row.get(0)?), id))
                    },
                )?;
                rows.collect()
            })
            .await
    }

    /// Every channel, oldest first. Those that are removed too: whose a task or a voice was is still asked.
    pub async fn channels(&self) -> Result<Vec<ChannelRow>, StoreError> {
        self.engine
            .read("listing channels", |c| {
                let mut statement = c.prepare_cached(
                    "SELECT channel_id, name, account_id, base_url, sealed_key, key_hint, state,
                            settings, created_at, condition, condition_until, condition_since,
                            condition_why
                     FROM channels ORDER BY channel_id",
                )?;
                statement.query_map((), channel)?.collect()
            })
            .await
    }

    /// Notes what answers of a channel say of it, for every replica to see. False if nothing changed.
    ///
    /// What is worse than what is written is always written. What is better only over `seen`, the condition
    /// that the caller knew when it asked the channel: an answer that was on its way does not hide what
    /// another replica has learned since. The same again only makes its time longer.
    pub async fn set_condition(
        &self,
        channel: ChannelId,
        condition: ChannelCondition,
        until: Option<UnixMillis>,
        why: String,
        seen: ChannelCondition,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        // One statement: of two replicas the second sees what the first has written.
        self.engine
            .write(relaxed("noting the condition of a channel"), move |c| {
                let changed = c.execute(
                    "UPDATE channels
                     SET condition = ?2, condition_until = ?3, condition_why = ?4,
                         condition_since = CASE WHEN condition = ?2 THEN condition_since ELSE ?5 END
                     WHERE channel_id = ?1 AND state <> 'removed'
                       AND CASE WHEN condition = ?2
                                THEN coalesce(condition_until, 0) < coalesce(CAST(?3 AS BIGINT), 0)
                                ELSE condition = ?6
                                     OR CASE condition WHEN 'well' THEN 0 WHEN 'cooling' THEN 1
                                                       ELSE 2 END <= CAST(?7 AS BIGINT)
                           END",
                    (
                        channel.0,
                        condition.name(),
                        until.map(|t| t.0),
                        &why,
                        now.0,
                        seen.name(),
                        severity(condition),
                    ),
                )?;
                Ok(changed == 1)
            })
            .await
    }

    /// What upstream takes, on all channels.
    pub async fn costs(&self) -> Result<Vec<CostRow>, StoreError> {
        self.engine
            .read("reading costs", |c| {
                let mut statement = c.prepare_cached(
                    "SELECT channel_id, path, unit, amount FROM costs
                     ORDER BY channel_id, path, unit",
                )?;
                let rows = statement.query_map((), |row| {
                    let unit: String = row.get(2)?;
                    Ok(CostRow {
                        channel_id: ChannelId(row.get(0)?),
                        path: row.get(1)?,
                        unit: parsed(&unit, 2)?,
                        amount: Money(row.get(3)?),
                    })
                })?;
                rows.collect()
            })
            .await
    }
}

/// How bad it is; the order of the `CASE` in [`Catalog::set_condition`].
fn severity(condition: ChannelCondition) -> i64 {
    match condition {
        ChannelCondition::Well => 0,
        ChannelCondition::Cooling => 1,
        ChannelCondition::OutOfBalance | ChannelCondition::KeyRefused => 2,
    }
}

fn channel(row: &Row<'_>) -> sql::Result<ChannelRow> {
    let state: String = row.get(6)?;
    let condition: String = row.get(9)?;
    Ok(ChannelRow {
        channel_id: ChannelId(row.get(0)?),
        name: row.get(1)?,
        account_id: row.get::<Option<i64>>(2)?.map(AccountId),
        base_url: row.get(3)?,
        sealed_key: row.get(4)?,
        key_hint: row.get(5)?,
        state: parsed(&state, 6)?,
        settings: json_or_default(row, 7)?,
        created_at: UnixMillis(row.get(8)?),
        condition: parsed(&condition, 9)?,
        condition_until: row.get::<Option<i64>>(10)?.map(UnixMillis),
        condition_since: row.get::<Option<i64>>(11)?.map(UnixMillis),
        condition_why: row.get(12)?,
    })
}

fn parsed<T: std::str::FromStr<Err = String>>(text: &str, index: usize) -> sql::Result<T> {
    text.parse().map_err(|why: String| corrupt_column(index, io::Error::other(why)))
}
