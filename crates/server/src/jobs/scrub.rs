//! The scrub: re-reads every blob at a bounded rate and compares its SHA-256, so that bit rot is
//! found before a client finds it. Also gives blobs that no row knows to the purge job.
//!
//! Where it is stands in the catalog, so a restart goes on from there; of several replicas one does it, and
//! another when that one is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use filegate_store::{Pace, StoreError};
use filegate_types::{BlobKey, FileRecord};

use crate::app::App;

/// Rows fetched at a time.
const PAGE: u32 = 100;
/// An unknown blob younger than this may be one that is just landing.
const ORPHAN_AGE: Duration = Duration::from_hours(1);

const CURSOR: &str = "scrub_after";
/// How long the replica that scrubs is alone with it after it has begun a file: far longer than one takes.
const LEASE: Duration = Duration::from_mins(10);
/// How often the others look whether it is still there.
const LOOK_EVERY: Duration = Duration::from_mins(1);

pub(super) async fn run(app: Arc<App>) {
    if app.config.jobs.scrub_rate.0 == 0 {
        return;
    }
    let mut pause = app.config.jobs.scrub_first_pause.0;
    loop {
        tokio::select! {
            () = app.tasks.stopping() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match round(&app).await {
            Ok(true) => app.config.jobs.scrub_pause.0,
            Ok(false) => app.config.jobs.scrub_pause.0.min(LOOK_EVERY),
            Err(error) => {
                if !app.tasks.is_stopping() {
                    tracing::error!(error = &error as &dyn std::error::Error, "scrub.failed");
                }
                app.config.jobs.scrub_pause.0.min(LOOK_EVERY)
            }
        };
    }
}

/// Goes on to the end of the files; false if another replica is at it.
async fn round(app: &Arc<App>) -> Result<bool, StoreError> {
    if !leads(app).await? {
        return Ok(false);
    }
    let stored = app.catalog.meta(CURSOR).await?.and_then(|bytes| bytes.try_into().ok());
    let mut after = stored.map_or(0, i64::from_be_bytes);
    while !app.tasks.is_stopping() {
        let page = app.catalog.files_after(after, PAGE).await?;
        let Some(last) = page.last() else {
            app.catalog.meta_set(CURSOR, 0i64.to_be_bytes().to_vec()).await?;
            return orphans(app).await.map(|()| true);
        };
        after = last.file_id.get();
        for file in page {
            if !leads(app).await? {
                return Ok(false);
            }
            check(app, file).await?;
        }
        app.catalog.meta_set(CURSOR, after.to_be_bytes().to_vec()).await?;
    }
    Ok(true)
}

async fn leads(app: &App) -> Result<bool, StoreError> {
    app.catalog.lead("scrub", &app.replica, LEASE).await
}

async fn check(app: &Arc<App>, file: FileRecord) -> Result<(), StoreError> {
    let whole = Some((file.bytes, file.sha256));
    if read(app, &file.blob_key).await? == whole || file.damaged_at.is_some() {
        return Ok(());
    }
    // Memory or a network may have changed the bytes on their way here: damage is what is found twice.
    if read(app, &file.blob_key).await? == whole {
        tracing::warn!(blob = %file.blob_key, "scrub.differed: whole when it was read again");
        return Ok(());
    }
    let now = app.clock.now();
    if app.catalog.file(file.account_id, file.file_id, now).await?.is_none() {
        // Deleted since its row was read.
        return Ok(());
    }
    metrics::counter!("filegate_scrub_damaged_total").increment(1);
    tracing::error!(file_id = %file.file_id, blob = %file.blob_key,
        "scrub.damaged: the content of this file is not what was stored");
    app.catalog.mark_damaged(file.file_id, Some(now)).await
}

/// Reads a blob at the rate of the settings.
async fn read(app: &Arc<App>, key: &BlobKey) -> Result<Option<(u64, [u8; 32])>, StoreError> {
    let (rate, tasks) = (app.config.jobs.scrub_rate.0, app.tasks.clone());
    let (started, mut read) = (Instant::now(), 0u64);
    let pace = move |bytes: usize| {
        read += bytes as u64;
        metrics::counter!("filegate_scrub_bytes_total").increment(bytes as u64);
        if tasks.is_stopping() {
            return Pace::Stop;
        }
        let due = Duration::from_secs_f64(read as f64 / rate as f64);
        match due.checked_sub(started.elapsed()) {
            // Short naps, so that a shutdown is not kept waiting.
            Some(early) if !early.is_zero() => Pace::Wait(early.min(Duration::from_millis(100))),
            _ => Pace::Go,
        }
    };
    app.blobs.digest(key, pace).await
}

async fn orphans(app: &Arc<App>) -> Result<(), StoreError> {
    let before = app.clock.now().minus(ORPHAN_AGE);
    let mut listed = app.blobs.list();
    while let Some(page) = listed.next().await? {
        for (key, _) in page.into_iter().filter(|(key, _)| key.minted_at() < before) {
            if !app.catalog.knows_blob(key.clone()).await? {
                tracing::warn!(blob = %key, "scrub.orphan: no row knows this blob; it is purged");
                app.catalog.purge_orphan(key, app.clock.now()).await?;
            }
        }
        if app.tasks.is_stopping() {
            return Ok(());
        }
    }
    Ok(())
}
