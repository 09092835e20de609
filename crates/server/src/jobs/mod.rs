//! Work in the background. All state is in rows, so a restart goes on where the last process stopped.
//!
//! | job | what it does | safe to repeat because |
//! |---|---|---|
//! | purge | removes the bytes of deleted, expired and reaped blobs | absent is success |
//! | reaper | gives the bytes of lapsed uploads to purge, voids lapsed holds | one transaction |
//! | expirer | deletes files whose time has come | one transaction |
//! | counts | writes down calls that were counted in memory | they are taken out of memory first |
//! | storage | charges accounts for each UTC day | an account is charged once for a day |
//! | answers | forgets first answers after a day | deleting again deletes nothing |
//! | callbacks | forgets addresses of clients after seven days | deleting again deletes nothing |
//! | unfinished | removes the parts of uploads to S3 that a crash left | absent is success |
//! | scrub | re-reads every blob, see [`scrub`] | it only marks |
//!
//! What waits for channels runs beside these: [`relay::jobs`].

mod scrub;
mod storage;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use filegate_store::{Job, JobKind, S3Blobs, StoreError};
use filegate_types::{BlobKey, UnixMillis};
use futures_util::stream::{self, StreamExt as _};

use crate::app::App;
use crate::pay;
use crate::relay::{self, callback};

/// Blobs purged at a time.
const PURGES: usize = 16;
/// How often uploads in parts that a crash left are looked for.
const UNFINISHED_EVERY: Duration = Duration::from_hours(1);
/// An upload in parts whose blob is younger may be one that is just landing.
const UNFINISHED_AGE: Duration = Duration::from_hours(1);

/// Rows taken at a time.
pub(crate) const BATCH: u32 = 500;
/// How long a replica may take for the jobs that it took at a time before others take them for its leavings.
const CLAIM: Duration = Duration::from_mins(1);
/// Longest pause before a failed job is tried again.
const BACKOFF_MAX: Duration = Duration::from_mins(10);

/// Starts all of them.
pub(crate) fn start(app: &Arc<App>) {
    app.tasks.spawn(run(Arc::clone(app)));
    app.tasks.spawn(scrub::run(Arc::clone(app)));
    app.tasks.spawn(unfinished(Arc::clone(app)));
    app.tasks.spawn(relay::jobs::run(Arc::clone(app)));
    app.tasks.spawn(relay::jobs::drain(Arc::clone(app)));
}

async fn unfinished(app: Arc<App>) {
    let Some(s3) = app.blobs.as_s3().cloned() else { return };
    loop {
        if let Err(error) = abort_unfinished(&app, &s3).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "jobs.unfinished.failed");
        }
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(UNFINISHED_EVERY) => {}
        }
    }
}

/// Removes parts that no upload in progress is of. Its row comes before them and goes after.
async fn abort_unfinished(app: &App, s3: &S3Blobs) -> Result<(), StoreError> {
    if !app.catalog.lead("unfinished", &app.replica, UNFINISHED_EVERY / 2).await? {
        return Ok(());
    }
    for upload in s3.unfinished(app.clock.now().minus(UNFINISHED_AGE)).await? {
        if !app.catalog.knows_blob(upload.key.clone()).await? {
            s3.abort(&upload).await?;
            tracing::info!(blob = %upload.key, "jobs.unfinished.aborted");
        }
    }
    Ok(())
}

async fn run(app: Arc<App>) {
    loop {
        if let Err(error) = round(&app).await {
            tracing::error!(error = &error as &dyn std::error::Error, "jobs.round.failed");
        }
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = app.jobs_due.notified() => {}
            () = tokio::time::sleep(app.config.jobs.interval.0) => {}
        }
    }
}

/// Everything that is due now.
async fn round(app: &Arc<App>) -> Result<(), StoreError> {
    app.pieces.tidy();
    let done = all(app).await;
    // Whatever became of the round: it may have freed something.
    if let Some(reserve) = app.reserve.clone() {
        let _told_in_its_log = app.tasks.blocking(move || reserve.restore()).await;
    }
    done
}

async fn all(app: &Arc<App>) -> Result<(), StoreError> {
    let now = app.clock.now();
    let reaped = app.catalog.reap_uploads(now, now, BATCH).await?;
    if reaped > 0 {
        tracing::info!(uploads = reaped, "jobs.reaped");
    }
    let voided = app.catalog.reap_holds(now, BATCH).await?;
    if voided > 0 {
        tracing::warn!(holds = voided, "jobs.voided: calls that nobody has settled");
    }
    match write_down(app, now).await {
        // What frees space has a reserve, and goes on.
        Err(StoreError::Full { .. }) => tracing::warn!("jobs.full: counts were not written down"),
        written => written?,
    }
    app.catalog.forget_answers(now, BATCH).await?;
    callback::forget(app, now, BATCH).await?;
    while !app.tasks.is_stopping() {
        let expired = app.catalog.expire_due(now, BATCH).await?;
        if expired < BATCH as usize {
            break;
        }
    }
    app.catalog.expire_adopted(now, BATCH).await?;
    while !app.tasks.is_stopping() {
        let due = app.catalog.claim_jobs(JobKind::LOCAL, now, BATCH, CLAIM).await?;
        let last_batch = due.len() < BATCH as usize;
        let answers = purge(app, due).await?;
        if last_batch || !answers {
            break;
        }
    }
    Ok(())
}

async fn write_down(app: &Arc<App>, now: UnixMillis) -> Result<(), StoreError> {
    pay::write_down(app).await?;
    relay::write_down(app).await?;
    storage::charge(app, now).await
}

/// Does these jobs; false if it stopped because the store is away, which would make each of them wait.
async fn purge(app: &Arc<App>, jobs: Vec<Job>) -> Result<bool, StoreError> {
    let purge_one = |job: Job| async move {
        let result = match job.target.parse::<BlobKey>() {
            Ok(key) if job.of_an_upload => app.blobs.purge_upload(&key).await,
            Ok(key) => app.blobs.purge(&key).await,
            Err(_) => Err(StoreError::Damaged(job.target.clone())),
        };
        (job, result)
    };
    let mut waiting: HashSet<i64> = jobs.iter().map(|job| job.job_id).collect();
    let mut purged = stream::iter(jobs.into_iter().map(purge_one)).buffer_unordered(PURGES);
    let (mut done, mut answers) = (Vec::new(), true);
    while let Some((job, result)) = purged.next().await {
        waiting.remove(&job.job_id);
        let outcome = if result.is_ok() { "done" } else { "failed" };
        metrics::counter!("filegate_jobs_total", "kind" => job.kind.name(), "outcome" => outcome)
            .increment(1);
        match result {
            Ok(()) => done.push(job.job_id),
            Err(error) => {
                answers = !matches!(error, StoreError::Unavailable { .. });
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    attempts = job.attempts,
                    "jobs.purge.failed: tried again later"
                );
                let run_at = app.clock.now().plus(backoff(job.attempts));
                app.catalog.postpone_job(job.job_id, run_at, error.to_string()).await?;
            }
        }
        if !answers || app.tasks.is_stopping() {
            break;
        }
    }
    drop(purged);
    if !done.is_empty() {
        app.catalog.finish_jobs(done, app.clock.now()).await?;
    }
    if !waiting.is_empty() {
        // Nobody would look at them until the claim has ended.
        let soon = app.clock.now().plus(backoff(0));
        app.catalog.give_back_jobs(waiting.into_iter().collect(), soon).await?;
    }
    Ok(answers)
}

/// 1 s, 2 s, 4 s … up to ten minutes.
pub(crate) fn backoff(attempts: u32) -> Duration {
    Duration::from_secs(1 << attempts.min(10)).min(BACKOFF_MAX)
}
