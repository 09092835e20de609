//! Steps 5 to 7 of most small uploads: received whole, to be kept on the disk, and nobody but us has to be asked about
//! them.
//!
//! Examining, summing, writing and syncing are one piece of work on one thread, and there is no row before the commit:
//! until then the file's name in `tmp/` says that it is nobody's (see `LocalBlobs` for what a crash leaves). Everything
//! else goes the long way.

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use filegate_store::{BlobSum, FirstAnswer, LocalBlobs, OnChannel};
use filegate_types::{ApiError, BlobKey, ErrorCode, FileState, Principal};
use tokio::sync::Notify;

use super::inspect::{self, Inspected};
use super::{Draft, Landing, Received, UploadGuard, Uploaded, stage};
use crate::app::{App, random};
use crate::http::reply::store_failed;
use crate::moderation;
use crate::relay::on_upload;

/// Names in `tmp/` that wait to be taken away, at most, before it is done under load.
const SETTLED_AT_A_TIME: usize = 8192;
/// How long none must have been added for it to be done.
const QUIET: Duration = Duration::from_millis(100);
/// How long they wait at most.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// Where the upload will be, if it can take this way.
pub(super) async fn way(
    app: &Arc<App>,
    principal: &Principal,
    received: &Received,
) -> Result<Option<LocalBlobs>, ApiError> {
    let Some(local) = app.blobs.as_local().filter(|local| local.has_links()) else {
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
    mut guard: UploadGuard,
    first_answer: Option<FirstAnswer>,
) -> Result<Uploaded, ApiError> {
    let Received { purpose, policy, filename, extension, spool, expires_after } = received;
    let _turn = app.gate.turn(principal.account_id).await?;
    let key = BlobKey::mint(app.clock.now(), random());
    let (decode, named) = (app.config.probe.decode, key.clone());
    let work = app.tasks.blocking(move || {
        let inspecting = Instant::now();
        let (spool, inspected) = inspect::inspect(spool, &policy, &extension, decode)?;
        stage("inspect", inspecting);
        let landing = Instant::now();
        let landed = local.land_whole(&named, spool.in_memory());
        let sum = landed.map_err(|error| store_failed(&error))?;
        stage("land", landing);
        Ok::<(Inspected, BlobSum), ApiError>((inspected, sum))
    });
    let (inspected, sum) = work.await.map_err(|_panic| ErrorCode::Unknown)??;
    guard.key = Some(key.clone());
    guard.landing = Landing::Done;

    let committing = Instant::now();
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
    let record = guard.commit(principal, draft).await?;
    app.settling.add(key);
    stage("commit", committing);
    Ok(Uploaded::Stored(Box::new(record)))
}

/// Blobs whose names in `tmp/` are of no use any more.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    keys: Mutex<Vec<BlobKey>>,
    some: Notify,
}

impl Settling {
    /// A row owns the blob.
    fn add(&self, key: BlobKey) {
        let mut keys = self.lock();
        keys.push(key);
        let first = keys.len() == 1;
        drop(keys);
        if first {
            self.some.notify_one();
        }
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<BlobKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes names away until the server stops: many at a time under load, else when nothing happens.
pub(crate) async fn settle(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = app.settling.some.notified() => {}
        }
        let since = Instant::now();
        let mut seen = 0;
        while seen != app.settling.len()
            && app.settling.len() < SETTLED_AT_A_TIME
            && since.elapsed() < SETTLE_WITHIN
            && !app.tasks.is_stopping()
        {
            seen = app.settling.len();
            tokio::time::sleep(QUIET).await;
        }
        settle_now(&app).await;
    }
}

/// Takes away the names that there are.
pub(crate) async fn settle_now(app: &App) {
    let keys = std::mem::take(&mut *app.settling.lock());
    let Some(local) = app.blobs.as_local().cloned() else { return };
    if !keys.is_empty() {
        let _told_in_its_log = tokio::task::spawn_blocking(move || local.settle(&keys)).await;
    }
}
