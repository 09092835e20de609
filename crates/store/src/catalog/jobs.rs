//! Work that a commit has promised: done at least once, by whoever runs next.

use std::time::Duration;

use filegate_types::UnixMillis;

use super::sql::{self, Connection, OptionalExtension as _, Row};
use super::{Catalog, freeing, relaxed};
use crate::error::StoreError;

/// What a job does. Every kind is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// Remove the blob named by the target; absent is success.
    PurgeBlob,
}

impl JobKind {
    /// The name in rows and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::PurgeBlob => "purge_blob",
        }
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
}

impl Catalog {
    /// Takes jobs whose time has come, oldest first, at most `limit`: whoever asks next gets others. Those
    /// that are neither finished nor put off come back when `lease` has passed, for then their taker is
    /// taken for dead.
    ///
    /// With SQLite nobody else asks, and a job stays due until it is finished: after a crash it is done at
    /// once. On PostgreSQL replicas pass over the rows that others are just taking.
    pub async fn claim_jobs(
        &self,
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
                    let mut statement = c.prepare_cached(
                        "SELECT job_id, target, attempts FROM jobs
                     WHERE kind = 'purge_blob' AND run_at <= ?1 ORDER BY run_at LIMIT ?2",
                    )?;
                    statement.query_map((now.0, limit), job)?.collect()
                })
                .await;
        }
        // Relaxed: a claim that a crash forgets is a job that is done twice.
        self.engine
            .write(relaxed(operation), move |c| {
                let mut statement = c.prepare_cached(
                    "UPDATE jobs SET run_at = ?3 WHERE job_id = ANY (ARRAY (
                         SELECT job_id FROM jobs WHERE kind = 'purge_blob' AND run_at <= ?1
                         ORDER BY run_at LIMIT ?2 FOR UPDATE SKIP LOCKED))
                     RETURNING job_id, target, attempts",
                )?;
                statement.query_map((now.0, limit, until.0), job)?.collect()
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
                    c.prepare_cached("DELETE FROM jobs WHERE job_id = ?1 RETURNING target")?;
                let mut purged = c.prepare_cached(
                    "UPDATE receipts SET purged_at = ?2
                     WHERE blob_key = ?1 AND purged_at IS NULL",
                )?;
                for job in &jobs {
                    let target: Option<String> =
                        done.query_row([job], |row| row.get(0)).optional()?;
                    if let Some(target) = target {
                        purged.queue((target, now.0))?;
                    }
                }
                Ok(())
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

fn job(row: &Row<'_>) -> sql::Result<Job> {
    let kind = JobKind::PurgeBlob;
    Ok(Job { job_id: row.get(0)?, kind, target: row.get(1)?, attempts: row.get(2)? })
}

pub(crate) fn enqueue_purge(c: &Connection, blob_key: &str, now: UnixMillis) -> sql::Result<()> {
    c.prepare_cached(
        "INSERT INTO jobs (kind, target, run_at) VALUES ('purge_blob', ?1, ?2) ON CONFLICT DO NOTHING",
    )?
    .queue((blob_key, now.0))
}
