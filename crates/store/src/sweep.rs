//! What a crash left in the temporary directory.

use crate::blobs::Blobs;
use crate::catalog::Catalog;
use crate::error::StoreError;

/// Keys looked up at a time.
const BATCH: usize = 500;

/// Removes what a crash left of uploads that are nobody's, and completes what it left of those that are. Only the holder
/// of the directory's lock may. Says how many were removed.
///
/// What is in `tmp/` under a blob's key was being received, or had landed without an upload row and was committed, or
/// was about to be: whether there is a row decides (see [`LocalBlobs`](crate::LocalBlobs)).
pub async fn sweep_tmp(catalog: &Catalog, blobs: &Blobs) -> Result<u64, StoreError> {
    let local = match blobs {
        Blobs::S3(s3) => return s3.clear_tmp(),
        Blobs::Local(local) => local,
    };
    let mut removed = 0;
    for keys in local.left_in_tmp()?.chunks(BATCH) {
        let owned = catalog.owned_blobs(keys.to_vec()).await?;
        for key in keys {
            if owned.contains(key) {
                local.settle_left(key)?;
            } else {
                local.disown(key)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
