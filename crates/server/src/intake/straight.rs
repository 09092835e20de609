//! Steps 5 to 7 of most small uploads: received whole, to be kept on the disk, and nobody but us has to be asked about
//! them.
//!
//! Where there are several such uploads at a time, one of them lands many and has them committed by the catalog's writer
//! while it lands the next; what takes long to examine is examined on other threads. While somebody lands, one that is to be
//! summed can wait for [another](super::pairs). One that is alone is examined, summed, landed and committed in place, without
//! another thread. There is no row before the commit, and no sync with it: the record that landed says what the row is made of.
//! Everything else goes the long way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use filegate_media::Format;
use filegate_store::{
    BlobSum, CommitOutcome, FirstAnswer, LocalBlobs, OnChannel, Short, SmallBlob, StoreError,
    WholeUpload,
};
use filegate_types::{ApiError, BlobKey, ErrorCode, FileState, Principal};
use tokio::sync::oneshot;

use super::inspect::{self, Inspected};
use super::pairs::{Pairs, Unsummed};
use super::{Draft, Received, UploadGuard, Uploaded, committed, stage};
use crate::app::{App, random};
use crate::http::reply::store_failed;
use crate::lifecycle::in_place;
use crate::moderation;
use crate::relay::on_upload;

/// How it ended: it was refused, nothing landed, or a blob did and its row was committed or not.
type Ended = Result<(BlobKey, Committed), ApiError>;
/// What was found, and when.
type Examined = (Inspected, Instant);
/// What came of the commit.
type Committed = Result<Result<CommitOutcome, Short>, StoreError>;

/// So many uploads, each of which had nobody beside it, are to have come before one is finished in place.
const ALONE_BEFORE: usize = 8;

/// Uploads that are on this way now.
#[derive(Debug, Default)]
pub(crate) struct Straight {
    now: AtomicUsize,
    /// Those that had nobody beside them, since the last that had.
    alone: AtomicUsize,
    pairs: Pairs,
}

/// One of them.
struct OnWay<'s>(&'s Straight);

impl Straight {
    /// Also says whether it has been alone for a while. To finish it in place makes another thread receive what comes next:
    /// where uploads are alone now and then, all threads would in turn, and memory be spread over all of them.
    fn enter(&self) -> (OnWay<'_>, bool) {
        let alone = self.now.fetch_add(1, Ordering::Relaxed) == 0;
        let before = if alone {
            self.alone.fetch_add(1, Ordering::Relaxed)
        } else {
            self.alone.store(0, Ordering::Relaxed);
            0
        };
        (OnWay(self), before >= ALONE_BEFORE)
    }
}

impl Drop for OnWay<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where the upload will be, if it can take this way.
pub(super) async fn way(
    app: &Arc<App>,
    principal: &Principal,
    received: &Received,
) -> Result<Option<LocalBlobs>, ApiError> {
    let Some(local) = app.blobs.as_local().filter(|local| local.has_packs()) else {
        return Ok(None);
    };
    let limits = &principal.account_limits;
    // Which is asked after the file was examined and before it is written.
    let limited = limits.stored_bytes.is_some() || !limits.files_per_purpose.is_empty();
    let straight = !limited
        && !app.catalog.is_shared()
        && received.spool.is_in_memory()
        && !on_upload::is_wanted(app, principal)
        && moderation::asks_nothing(app).await?;
    Ok(straight.then(|| local.clone()))
}

/// Steps 5 to 7.
pub(super) async fn finish(
    app: &Arc<App>,
    principal: &Principal,
    local: LocalBlobs,
    received: Received,
    guard: UploadGuard,
    first_answer: Option<FirstAnswer>,
) -> Result<Uploaded, ApiError> {
    let Received { purpose, policy, filename, extension, spool, expires_after } = received;
    let turn = app.gate.turn(principal.account_id).await?;
    let (tell, ended) = oneshot::channel::<Ended>();
    let walked = Format::from_extension(&extension).is_some_and(Format::is_walked);
    let (to, decode, principal) = (Arc::clone(app), app.config.probe.decode, principal.clone());
    let blobs = local.clone();
    let examine = move || {
        // Others may be examined while this is summed and written.
        let _turn = turn;
        let inspecting = Instant::now();
        let (spool, inspected) = inspect::inspect(spool, &policy, &extension, decode)?;
        stage("inspect", inspecting);
        Ok((spool.into_small(), (inspected, Instant::now())))
    };
    // True if somebody has to land it.
    let begin = move |examined: Result<(SmallBlob, BlobSum, Examined), ApiError>| {
        // Summing, and waiting for another to be summed beside, counts as landing.
        let (small, sum, (inspected, landing)) = match examined {
            Ok(examined) => examined,
            Err(refused) => {
                let _gone = tell.send(Err(refused));
                return false;
            }
        };
        let draft = Draft {
            purpose,
            filename,
            sum,
            inspected,
            expires_after,
            state: FileState::Ready,
            verdict: None,
            first_answer,
            upstream: OnChannel::Nowhere,
        };
        let (account, at) = (principal.account_id, to.clock.now());
        let key = BlobKey::mint(at, random());
        let upload =
            WholeUpload { account, at, file: draft.into_file(&principal, key.clone(), at) };
        let entry = match upload.to_entry() {
            Ok(entry) => entry,
            Err(error) => {
                let _gone = tell.send(Err(store_failed(&error)));
                return false;
            }
        };
        blobs.queue(key, small, entry, move |landed| {
            stage("land", landing);
            let key = match landed {
                Ok(key) => key,
                Err(error) => return drop(tell.send(Err(store_failed(&error)))),
            };
            let committing = Instant::now();
            to.catalog.commit_whole(upload, key.clone(), move |outcome| {
                stage("commit", committing);
                // The client may be gone; the file is there all the same.
                drop(tell.send(Ok((key, outcome))));
            });
        })
    };
    let (on_way, alone) = app.straight.enter();
    if alone {
        in_place(|| {
            let (small, examined) = examine()?;
            let sum = small.sum();
            if begin(Ok((small, sum, examined))) {
                let more = local.append_queued();
                app.catalog.commit_queued(!more);
                if more {
                    app.tasks.blocking(land_queued(app, &local));
                }
            }
            Ok::<_, ApiError>(())
        })?;
    } else if walked {
        // It takes less of the processor than to have another thread do it, which has none to spare then.
        let (small, examined) = examine()?;
        let then = Box::new(move |small, sum| begin(Ok((small, sum, examined))));
        if app.straight.pairs.sum(Unsummed { small, then }) {
            app.tasks.blocking(land_queued(app, &local));
        }
    } else {
        let (there, local) = (Arc::clone(app), local.clone());
        app.tasks.blocking(move || {
            let (small, examined) = match examine() {
                Ok(examined) => examined,
                Err(refused) => {
                    begin(Err(refused));
                    return;
                }
            };
            let then = Box::new(move |small, sum| begin(Ok((small, sum, examined))));
            if there.straight.pairs.sum(Unsummed { small, then }) {
                land_queued(&there, &local)();
            }
        });
    }
    let (key, outcome) = ended.await.map_err(|_panic| ErrorCode::Unknown)??;
    drop(on_way);
    if_nobodys_let_go(app, local, &guard, key, &outcome).await;
    let record = committed(outcome.map_err(|error| store_failed(&error))?)?;
    Ok(Uploaded::Stored(Box::new(record)))
}

/// Frees the blob if it has no row.
async fn if_nobodys_let_go(
    app: &App,
    local: LocalBlobs,
    guard: &UploadGuard,
    key: BlobKey,
    outcome: &Committed,
) {
    // Where it is not known whether there is a row, there will be: the next start sees to it.
    let is_nobodys = match outcome {
        Ok(Ok(CommitOutcome::Committed(_))) => false,
        // It was refused, or nobody tried to.
        Ok(_) | Err(StoreError::Poisoned) => true,
        Err(error) => !guard.is_doubtful(error),
    };
    if is_nobodys {
        let_go(app, local, key, outcome.is_err()).await;
    }
}

/// Frees a blob that has no row. What was refused is refused again by a start that finds it; but if the commit `failed`, a
/// start might make it a file, of which the client is told that there is none: then it is gone when this returns.
async fn let_go(app: &App, local: LocalBlobs, key: BlobKey, failed: bool) {
    let gone = app.tasks.blocking(move || {
        let gone = if failed { local.revoke(&key) } else { Ok(()) };
        if let Err(error) = gone.and_then(|()| local.purge(&key)) {
            tracing::warn!(error = &error as &dyn std::error::Error, "upload.left");
        }
    });
    if failed {
        let _told_in_its_log = gone.await;
    }
}

/// Lands what is queued until nothing is, nor waits to be summed, and has the catalog's writer commit meanwhile.
fn land_queued(app: &Arc<App>, local: &LocalBlobs) -> impl FnOnce() + Send + 'static {
    let (app, local, mut lander) = (Arc::clone(app), local.clone(), app.straight.pairs.lander());
    move || {
        let mut more = true;
        loop {
            while more {
                more = local.append_queued();
                app.catalog.commit_queued(false);
            }
            let Some(left) = lander.left() else { return };
            more = left.sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_finished_in_place_after_several_that_were_alone() {
        let straight = Straight::default();
        for _ in 0..2 {
            for _ in 0..ALONE_BEFORE {
                assert!(!straight.enter().1);
            }
            let (first, in_place) = straight.enter();
            assert!(in_place);
            assert!(!straight.enter().1);
            drop(first);
        }
    }
}
