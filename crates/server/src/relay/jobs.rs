//! Jobs that wait for channels and for clients: beside those that do not, so that a channel that is silent
//! holds up no purge.
//!
//! | job | what it does | safe to repeat because |
//! |---|---|---|
//! | `delete_replica` | deletes what is nobody's any more from a channel | absent is success |
//! | `keep_adopted` | brings the bytes of a file that was born upstream here | its row says whether they are |

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use filegate_store::{Job, JobKind, StoreError};
use filegate_types::{AccountId, ChannelId, FileId};
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::adopt::keep::{Kept, keep};
use super::adopt::{self, Place, Refused};
use crate::app::App;
use crate::jobs::backoff;

/// Jobs at a time.
const PARALLEL: usize = 8;
/// How long one may take.
const JOB_TIME: Duration = Duration::from_mins(10);
/// How long others leave it to whoever took it.
const CLAIM: Duration = Duration::from_mins(11);
/// Tries after which what a client may change (room for a file) is given up: more than a day of them.
const TRIES_MAX: u32 = 160;

/// The kinds that are done here.
const KINDS: &[JobKind] = &[JobKind::DeleteReplica, JobKind::KeepAdopted];

/// What became of a job.
#[derive(Debug)]
enum Outcome {
    Done,
    /// It is tried again.
    Failed(String),
    /// It would fail again.
    GivenUp(String),
}

/// Does what is due until the gateway stops.
pub(crate) async fn run(app: Arc<App>) {
    let mut running = FuturesUnordered::new();
    let mut ids: HashSet<i64> = HashSet::new();
    loop {
        if ids.len() < PARALLEL && !app.tasks.is_stopping() {
            match take(&app, &ids).await {
                Ok(jobs) => {
                    for job in jobs {
                        ids.insert(job.job_id);
                        running.push(one(&app, job));
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "relay.jobs.take.failed"
                    );
                }
            }
        }
        tokio::select! {
            () = app.tasks.stopping() => break,
            Some((job, outcome)) = running.next(), if !running.is_empty() => {
                ids.remove(&job.job_id);
                settle(&app, job, outcome).await;
            }
            () = app.relay.jobs_due.notified() => {}
            () = tokio::time::sleep(app.config.jobs.interval.0) => {}
        }
    }
    drop(running);
    // Nobody would look at them until the claim has ended.
    if let Err(error) = app.catalog.give_back_jobs(ids.into_iter().collect(), app.clock.now()).await
    {
        tracing::debug!(error = &error as &dyn std::error::Error, "relay.jobs.kept");
    }
}

/// Jobs for the places that are free. With SQLite those that run are still due.
async fn take(app: &App, running: &HashSet<i64>) -> Result<Vec<Job>, StoreError> {
    let free = PARALLEL - running.len();
    let limit = if app.catalog.is_shared() { free } else { PARALLEL };
    let now = app.clock.now();
    let mut jobs = app.catalog.claim_jobs(KINDS, now, limit as u32, CLAIM).await?;
    jobs.retain(|job| !running.contains(&job.job_id));
    jobs.truncate(free);
    Ok(jobs)
}

async fn one(app: &Arc<App>, job: Job) -> (Job, Outcome) {
    let work = AssertUnwindSafe(tokio::time::timeout(JOB_TIME, perform(app, &job))).catch_unwind();
    let outcome = match work.await {
        Ok(Ok(Ok(outcome))) => outcome,
        Ok(Ok(Err(error))) => Outcome::Failed(error.to_string()),
        Ok(Err(_late)) => Outcome::Failed("it took too long".to_owned()),
        Err(_panic) => Outcome::Failed("a fault of ours".to_owned()),
    };
    (job, outcome)
}

async fn perform(app: &Arc<App>, job: &Job) -> Result<Outcome, StoreError> {
    let unreadable = || Ok(Outcome::GivenUp("its target is not one".to_owned()));
    match job.kind {
        JobKind::DeleteReplica => match Deletion::parse(&job.target) {
            Some(deletion) => Ok(delete(app, &deletion).await),
            None => unreadable(),
        },
        JobKind::KeepAdopted => match parse_file(&job.target) {
            Some((account, file)) => Ok(match keep(app, account, file).await? {
                Kept::Done => Outcome::Done,
                Kept::Later(why) if job.attempts >= TRIES_MAX => Outcome::GivenUp(why),
                Kept::Later(why) => Outcome::Failed(why),
                Kept::Never(why) => Outcome::GivenUp(why),
            }),
            None => unreadable(),
        },
        JobKind::PurgeBlob | JobKind::Replicate | JobKind::Deliver => unreadable(),
    }
}

/// What a job deletes.
#[derive(Debug, PartialEq, Eq)]
struct Deletion<'a> {
    channel: ChannelId,
    upstream_id: &'a str,
    purpose: &'a str,
}

impl<'a> Deletion<'a> {
    /// `CHANNEL_ID/UPSTREAM_ID/PURPOSE`.
    fn parse(target: &'a str) -> Option<Self> {
        let (channel, rest) = target.split_once('/')?;
        let (upstream_id, purpose) = rest.rsplit_once('/')?;
        Some(Self { channel: ChannelId(channel.parse().ok()?), upstream_id, purpose })
    }
}

/// `ACCOUNT_ID/FILE_ID`.
fn parse_file(target: &str) -> Option<(AccountId, FileId)> {
    let (account, file) = target.split_once('/')?;
    Some((AccountId(account.parse().ok()?), file.parse().ok()?))
}

async fn delete(app: &Arc<App>, deletion: &Deletion<'_>) -> Outcome {
    let place = Place { channel: deletion.channel, upstream_id: deletion.upstream_id };
    match adopt::delete(app, place, deletion.purpose).await {
        Ok(()) => Outcome::Done,
        // It is not the time that is wrong: some purposes upstream deletes only itself.
        Err(Refused::Theirs(words)) if words.status_code == 2013 => {
            Outcome::GivenUp(words.status_msg)
        }
        Err(refused) if refused.is_gone() => Outcome::Done,
        Err(refused) => Outcome::Failed(refused.why()),
    }
}

async fn settle(app: &App, job: Job, outcome: Outcome) {
    let (name, kind) = match &outcome {
        Outcome::Done => ("done", job.kind.name()),
        Outcome::Failed(_) => ("failed", job.kind.name()),
        Outcome::GivenUp(_) => ("given_up", job.kind.name()),
    };
    metrics::counter!("filegate_jobs_total", "kind" => kind, "outcome" => name).increment(1);
    let now = app.clock.now();
    let settled = match outcome {
        Outcome::Done => app.catalog.finish_jobs(vec![job.job_id], now).await,
        Outcome::GivenUp(why) => {
            tracing::warn!(kind, target = job.target, why, "relay.jobs.given_up");
            app.catalog.finish_jobs(vec![job.job_id], now).await
        }
        Outcome::Failed(why) => {
            tracing::info!(
                kind,
                why,
                attempts = job.attempts,
                "relay.jobs.failed: tried again later"
            );
            app.catalog.postpone_job(job.job_id, now.plus(backoff(job.attempts)), why).await
        }
    };
    if let Err(error) = settled {
        // It is done again: each kind may be.
        tracing::warn!(error = &error as &dyn std::error::Error, "relay.jobs.settle.failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        let deletion = Deletion::parse("3/426/t2a_async").unwrap();
        let expected = Deletion { channel: ChannelId(3), upstream_id: "426", purpose: "t2a_async" };
        assert_eq!(deletion, expected);
        // An id of upstream's is whatever upstream says.
        assert_eq!(Deletion::parse("3/a/b/t2a_async").unwrap().upstream_id, "a/b");
        assert_eq!(Deletion::parse("3/7/").unwrap().purpose, "");
        for wrong in ["", "3", "3/7", "x/7/batch"] {
            assert_eq!(Deletion::parse(wrong), None, "{wrong}");
        }
        assert_eq!(parse_file("1/7"), Some((AccountId(1), FileId::new(7).unwrap())));
        assert_eq!(parse_file("1/0"), None);
    }
}
