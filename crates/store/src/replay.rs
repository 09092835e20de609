//! What was durable in packs and not yet in the catalog when a machine stopped.
//!
//! A small upload is acknowledged when its record is in a pack and its row is committed, of which only the record is
//! synced. A power cut may take the last commits of such uploads; nothing else, since a synced commit makes all before it
//! durable. How far the catalog has come it says itself. What comes after that in the pack is committed again, in its
//! order, before anything else is changed: so each commit finds what it found the first time, and has the same outcome.
//! What was deleted does not come back, since the delete was synced and with it that the record was committed.
//!
//! A record that was never committed, because the process ended in between, is a file from now on: nobody was told of it,
//! nor that there is none. One that is not whole was not acknowledged.

use filegate_types::BlobKey;

use crate::blobs::{Blobs, LocalBlobs, Pace};
use crate::catalog::{Catalog, CommitOutcome, WholeUpload};
use crate::error::StoreError;

/// Whether there is something for [`replay`] to look at: after a crash, and while a server commits.
pub async fn is_behind(catalog: &Catalog, blobs: &Blobs) -> Result<bool, StoreError> {
    let Some(local) = blobs.as_local() else { return Ok(false) };
    let Some(through) = catalog.packed_through().await? else { return Ok(false) };
    Ok(!local.entries_after(through)?.is_empty())
}

/// Commits what a crash kept from the catalog; says how many files there are more. Only the holder of the directory's lock
/// may, before it does anything else with the catalog.
pub async fn replay(catalog: &Catalog, blobs: &Blobs) -> Result<u64, StoreError> {
    let Some(local) = blobs.as_local() else { return Ok(0) };
    // Of the first record of a pack the commit is synced, so without a place nothing was acknowledged, nor in another pack.
    let Some(through) = catalog.packed_through().await? else { return Ok(0) };
    let mut files = 0;
    for (key, entry) in local.entries_after(through)? {
        let upload = WholeUpload::from_entry(&entry)?;
        if !is_whole(local, &key, &upload)? {
            tracing::warn!(blob = %key, "replay.torn: its write did not end");
            continue;
        }
        match catalog.commit_again(upload, key.clone()).await {
            Ok(Ok(CommitOutcome::Committed(_))) => files += 1,
            Ok(refused) => tracing::info!(blob = %key, ?refused, "replay.refused"),
            // As the first time.
            Err(error @ StoreError::Catalog { .. }) if !catalog.is_poisoned() => {
                tracing::warn!(blob = %key, error = &error as &dyn std::error::Error, "replay.refused");
            }
            Err(error) => return Err(error),
        }
    }
    if files > 0 {
        tracing::info!(files, "replay.committed: from packs, after a crash");
    }
    Ok(files)
}

/// Whether the bytes are those that were summed.
fn is_whole(local: &LocalBlobs, key: &BlobKey, upload: &WholeUpload) -> Result<bool, StoreError> {
    let sum = &upload.file.sum;
    let found = local.digest(key, |_| Pace::Go)?;
    Ok(found == Some((sum.bytes, sum.sha256)))
}
