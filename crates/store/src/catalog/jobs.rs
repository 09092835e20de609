//! Work that a commit has promised: done at least once, by whoever runs next.

use std::time::Duration;

use filegate_types::{ChannelId, UnixMillis};

use super::sql::{self, Connection, OptionalExtension as _, Row};
use super::{Catalog, corrupt_column, freeing, relaxed};
use crate::error::StoreError;

/// What a job does. Every kind is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// Remove the blob named by the target; absent is success.
    PurgeBlob,
    /// Copy a file to a channel. Target: `ACCOUNT_ID/FILE_ID/CHANNEL_ID`; without a channel, to the one that
    /// its next call would go to.
    Replicate,
    /// Delete what is no longer anybody's from a channel; absent is success. Target:
    /// `CHANNEL_ID/UPSTREAM_ID/PURPOSE`.
    DeleteReplica,
    /// Tell a client what upstream said of a task. Target: the row of `deliveries`.
    Deliver,
    /// Bring the bytes of an adopted file here. Target: `ACCOUNT_ID/FILE_ID`.
    KeepAdopted,
}

impl JobKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::PurgeBlob, Self::Replicate, Self::DeleteReplica, Self::Deliver, Self::KeepAdopted];

    /// Those that ask nobody but our own stores.
    pub const LOCAL: &[Self] = &[Self::PurgeBlob];

    /// Those that wait for others, who may let them wait.
    pub const REMOTE: &[Self] =
        &[Self::Replicate, Self::DeleteReplica, Self::Deliver, Self::KeepAdopted];

    /// The name in rows and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::PurgeBlob => "purge_blob",
            Self::Replicate => "replicate",
            Self::DeleteReplica => "delete_replica",
            Self::Deliver => "deliver",
            Self::KeepAdopted => "keep_adopted",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A job that is due.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its row.
    pub job_id: i64,
    /// What to do.
    pub kind: JobKind,
    /// To what.
    pub target: String,
    /// How often it has failed.
    pub attempts: u32,
    /// Whether its target is of an upload that was cut off, and not of a file that was deleted.
    pub of_an_upload: bool,
}

/// The columns of [`job`]. Whether the blob of a job was never a file is told by receipts, which files
/// leave.
const JOB: &str = "job_id, kind, target, attempts,
     kind = 'purge_blob' AND NOT EXISTS (
         SELECT 1 FROM receipts WHERE blob_key = jobs.target AND purged_at IS NULL)";

impl Catalog {
    /// Takes jobs of these kinds whose time has come, oldest first, at most `limit`: whoever asks next gets
    /// others. Those that are neither finished nor put off come back when `lease` has passed, for then their
    /// taker is taken for dead.
    ///
    /// With SQLite nobody else asks, and a job stays due until it is finished: after a crash it is done at
    /// once. On PostgreSQL replicas pass over the rows that others are just taking.
    pub async fn claim_jobs(
        &self,
        kinds: &'static [JobKind],
        now: UnixMillis,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<Job>, StoreError> {
        let until = now.plus(lease);
        let operation = "taking jobs";
        if !self.is_shared() {
            return self
                .engine
                .read(operation, move |c| {
                    let mut statement = c.prepare_cached(&format!(
                        "SELECT {JOB} FROM jobs WHERE kind IN ({}) AND run_at <= ?1
                         ORDER BY run_at LIMIT ?2",
                        names(kinds)
                    ))?;
                    statement.query_map((now.0, limit), job)?.collect()
                })
                .await;
        }
        // Relaxed: a claim that a crash forgets is a job that is done twice.
        self.engine
            .write(relaxed(operation), move |c| {
                let mut statement = c.prepare_cached(&format!(
                    "UPDATE jobs SET run_at = ?3 WHERE job_id = ANY (ARRAY (
                         SELECT job_id FROM jobs WHERE kind IN ({}) AND run_at <= ?1
                         ORDER BY run_at LIMIT ?2 FOR UPDATE SKIP LOCKED))
                     RETURNING {JOB}",
                    names(kinds)
                ))?;
                statement.query_map((now.0, limit, until.0), job)?.collect()
            })
            .await
    }

    /// Promises jobs, but for those that are promised already.
    pub async fn enqueue_jobs(
        &self,
        kind: JobKind,
        mut targets: Vec<String>,
        run_at: UnixMillis,
    ) -> Result<(), StoreError> {
        // In one order everywhere, as in `finish_jobs`.
        targets.sort_unstable();
        self.engine
            .write(super::synced("promising jobs"), move |c| {
                targets.iter().try_for_each(|target| enqueue(c, kind, target, run_at))
            })
            .await
    }

    /// Whether any job of this kind waits that has not failed yet.
    pub async fn has_jobs(&self, kind: JobKind) -> Result<bool, StoreError> {
        self.engine
            .read("looking for jobs", move |c| {
                c.prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM jobs WHERE kind = ?1 AND attempts = 0)",
                )?
                .query_row([kind.name()], |row| row.get(0))
            })
            .await
    }

    /// Removes jobs that are done, and notes the time on the receipts of what they purged.
    pub async fn finish_jobs(&self, mut jobs: Vec<i64>, now: UnixMillis) -> Result<(), StoreError> {
        // In one order everywhere: two replicas may have done the same.
        jobs.sort_unstable();
        self.engine
            .write(freeing("finishing jobs"), move |c| {
                let mut done =
                    c.prepare_cached("DELETE FROM jobs WHERE job_id = ?1 RETURNING kind, target")?;
                let mut purged = c.prepare_cached(
                    "UPDATE receipts SET purged_at = ?2
                     WHERE blob_key = ?1 AND purged_at IS NULL",
                )?;
                for job in &jobs {
                    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
                    let found: Option<(String, String)> = done.query_row([job], row).optional()?;
                    if let Some((kind, target)) = found
                        && kind == JobKind::PurgeBlob.name()
                    {
                        purged.queue((target, now.0))?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// Lets jobs that were claimed and not begun be taken again from `run_at` on.
    pub async fn give_back_jobs(
        &self,
        mut jobs: Vec<i64>,
        run_at: UnixMillis,
    ) -> Result<(), StoreError> {
        // In one order everywhere, as in `finish_jobs`.
        jobs.sort_unstable();
        self.engine
            .write(relaxed("giving jobs back"), move |c| {
                let mut back = c.prepare_cached("UPDATE jobs SET run_at = ?2 WHERE job_id = ?1")?;
                jobs.iter().try_for_each(|job| back.queue((*job, run_at.0)))
            })
            .await
    }

    /// Puts a failed job off until `run_at`.
    pub async fn postpone_job(
        &self,
        job_id: i64,
        run_at: UnixMillis,
        error: String,
    ) -> Result<(), StoreError> {
        self.engine
            .write(freeing("postponing a job"), move |c| {
                c.execute(
                    "UPDATE jobs SET attempts = attempts + 1, run_at = ?2, last_error = ?3
                     WHERE job_id = ?1",
                    (job_id, run_at.0, &error),
                )
                .map(drop)
            })
            .await
    }
}

/// Kinds as a list of SQL. Their names are ours.
fn names(kinds: &[JobKind]) -> String {
    kinds.iter().map(|kind| format!("'{}'", kind.name())).collect::<Vec<_>>().join(", ")
}

fn job(row: &Row<'_>) -> sql::Result<Job> {
    let kind: String = row.get(1)?;
    let unknown = || corrupt_column(1, std::io::Error::other("an unknown kind of job"));
    Ok(Job {
        job_id: row.get(0)?,
        kind: JobKind::of_name(&kind).ok_or_else(unknown)?,
        target: row.get(2)?,
        attempts: row.get(3)?,
        of_an_upload: row.get(4)?,
    })
}

pub(super) fn enqueue(
    c: &Connection,
    kind: JobKind,
    target: &str,
    run_at: UnixMillis,
) -> sql::Result<()> {
    c.prepare_cached(
        "INSERT INTO jobs (kind, target, run_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    )?
    .queue((kind.name(), target, run_at.0))
}

pub(crate) fn enqueue_purge(c: &Connection, blob_key: &str, now: UnixMillis) -> sql::Result<()> {
    enqueue(c, JobKind::PurgeBlob, blob_key, now)
}

/// Has what a channel keeps under `upstream_id` deleted there.
pub(super) fn enqueue_delete_replica(
    c: &Connection,
    channel: ChannelId,
    upstream_id: &str,
    purpose: &str,
    now: UnixMillis,
) -> sql::Result<()> {
    enqueue(c, JobKind::DeleteReplica, &format!("{channel}/{upstream_id}/{purpose}"), now)
}
