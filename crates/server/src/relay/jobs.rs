//! Jobs that wait for channels and for clients: beside those that do not, so that a channel that is silent
//! holds up no purge.
//!
//! | job | what it does | safe to repeat because |
//! |---|---|---|
//! | `replicate` | copies a file to a channel | what is there is not copied again |
//! | `delete_replica` | deletes what is nobody's any more from a channel | absent is success |
//! | `deliver` | tells a client what upstream said of its task | what is delivered has no row any more |
//! | `keep_adopted` | brings the bytes of a file that was born upstream here | its row says whether they are |
//!
//! A channel that is drained has its files copied elsewhere by jobs, some at a time.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use filegate_store::{Job, JobKind, StoreError};
use filegate_types::{AccountId, ChannelId, ChannelState, FileId, UnixMillis};
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::adopt::keep::{Kept, keep};
use super::adopt::{self, Place, Refused};
use super::callback::{self, Told};
use super::candidates_of;
use super::owned::endpoint;
use super::replicate::{ReplicateError, ensure};
use super::route::{self, Needs};
use crate::app::{App, random};
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
const KINDS: &[JobKind] = JobKind::REMOTE;

/// Files of a channel that is drained whose copying is promised at a time.
const DRAINED_AT_A_TIME: u32 = 100;
/// How long a drain rests when it came to its end: what failed is tried again then.
const DRAIN_PAUSE: Duration = Duration::from_mins(10);

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
        JobKind::Replicate => match parse_copy(&job.target) {
            Some((account, file, channel)) => {
                Ok(match replicate(app, account, file, channel).await? {
                    Outcome::Failed(why) if job.attempts >= TRIES_MAX => Outcome::GivenUp(why),
                    outcome => outcome,
                })
            }
            None => unreadable(),
        },
        JobKind::Deliver => match callback::deliver(app, &job.target).await? {
            Told::Done => Ok(Outcome::Done),
            Told::Later(why) => Ok(Outcome::Failed(why)),
            Told::Never => unreadable(),
        },
        JobKind::PurgeBlob => unreadable(),
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

/// `ACCOUNT_ID/FILE_ID`, and `/CHANNEL_ID` if it has to be that one.
fn parse_copy(target: &str) -> Option<(AccountId, FileId, Option<ChannelId>)> {
    let Some((file, channel)) = target.rsplit_once('/').filter(|(file, _)| file.contains('/'))
    else {
        let (account, file) = parse_file(target)?;
        return Some((account, file, None));
    };
    let (account, file) = parse_file(file)?;
    Some((account, file, Some(ChannelId(channel.parse().ok()?))))
}

/// Copies a file to `channel`, else to the one that its next call would go to.
async fn replicate(
    app: &Arc<App>,
    account: AccountId,
    file_id: FileId,
    channel: Option<ChannelId>,
) -> Result<Outcome, StoreError> {
    let now = app.clock.now();
    let Some(file) = app.catalog.file(account, file_id, now).await? else {
        return Ok(Outcome::Done);
    };
    let Some(terms) = app.catalog.account_terms(account).await? else { return Ok(Outcome::Done) };
    let all = app.relay.channels.all(app).await?;
    let mut candidates = candidates_of(&all, account, &terms.settings, now, |_| false);
    let copies = app.catalog.replicas_of(account, vec![file_id]).await?;
    for one in &mut candidates {
        one.has_files = copies
            .iter()
            .any(|copy| copy.channel_id == one.id && copy.expires_at.is_none_or(|at| at > now));
    }
    let pinned = channel.map(|channel| [channel].into());
    let needs = Needs { pinned, purposes: vec![file.purpose], ..Needs::default() };
    let chosen = match route::choose(&candidates, &needs, u64::from_be_bytes(random())) {
        Ok(chosen) => all.get(&chosen),
        Err(_none) => None,
    };
    let Some(channel) = chosen else {
        return Ok(Outcome::Failed("no channel takes it at the moment".to_owned()));
    };
    let busy = match channel.enter(app).await {
        Ok(busy) => busy,
        Err(_full) => {
            return Ok(Outcome::Failed("its channel has no room at the moment".to_owned()));
        }
    };
    let facts = channel.facts();
    let endpoint = facts.access.as_ref().and_then(|access| endpoint(channel, access));
    let Some(endpoint) = endpoint else {
        return Ok(Outcome::Failed("its channel cannot be called".to_owned()));
    };
    Ok(match ensure(app, account, file_id, &endpoint).await {
        Ok(_id) => {
            busy.answered(app, false);
            Outcome::Done
        }
        Err(ReplicateError::NotFound) => Outcome::Done,
        Err(ReplicateError::Ours(error)) => Outcome::Failed(error.message().to_owned()),
        Err(ReplicateError::Refused { code, message }) => {
            busy.answered(app, false);
            Outcome::GivenUp(format!("{message} ({code})"))
        }
        Err(ReplicateError::Channel(fault)) => {
            busy.failed(app, fault);
            Outcome::Failed(format!("{fault:?}"))
        }
    })
}

/// Promises the copying of what is on channels that are drained, until the gateway stops.
pub(crate) async fn drain(app: Arc<App>) {
    let mut drains: BTreeMap<ChannelId, Drain> = BTreeMap::new();
    loop {
        if let Err(error) = drain_on(&app, &mut drains).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "relay.drain.failed");
        }
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(app.config.jobs.interval.0) => {}
        }
    }
}

/// How far a drain is.
#[derive(Debug, Default)]
struct Drain {
    after: Option<FileId>,
    rests_until: Option<UnixMillis>,
}

async fn drain_on(app: &App, drains: &mut BTreeMap<ChannelId, Drain>) -> Result<(), StoreError> {
    let now = app.clock.now();
    let all = app.relay.channels.all(app).await?;
    let draining = |id: &ChannelId| {
        all.get(id).is_some_and(|one| one.facts().row.state == ChannelState::Draining)
    };
    drains.retain(|id, _| draining(id));
    let lease = DRAIN_PAUSE.max(app.config.jobs.interval.0 * 3);
    for id in all.keys().filter(|id| draining(id)) {
        let drain = drains.entry(*id).or_default();
        if drain.rests_until.is_some_and(|until| until > now)
            || !app.catalog.lead("drain", &app.replica, lease).await?
            || app.catalog.has_jobs(JobKind::Replicate).await?
        {
            continue;
        }
        let files = app.catalog.drain_next(*id, drain.after, DRAINED_AT_A_TIME, now).await?;
        drain.after = files.last().map(|(_, file)| *file);
        drain.rests_until = drain.after.is_none().then(|| now.plus(DRAIN_PAUSE));
        let targets: Vec<_> =
            files.iter().map(|(account, file)| format!("{}/{file}", account.0)).collect();
        if !targets.is_empty() {
            app.catalog.enqueue_jobs(JobKind::Replicate, targets, now).await?;
            app.relay.jobs_due.notify_one();
        }
    }
    Ok(())
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
        let (account, file) = (AccountId(1), FileId::new(7).unwrap());
        assert_eq!(parse_copy("1/7"), Some((account, file, None)));
        assert_eq!(parse_copy("1/7/3"), Some((account, file, Some(ChannelId(3)))));
        for wrong in ["", "1", "1/7/", "1/x/3", "1/7/3/4"] {
            assert_eq!(parse_copy(wrong), None, "{wrong}");
        }
    }
}
