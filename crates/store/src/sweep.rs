//! What a crash left of blobs.

use crate::blobs::Blobs;
use crate::catalog::Catalog;
use crate::error::StoreError;

/// Keys looked up at a time.
const BATCH: usize = 500;

/// Removes, after a [replay](crate::replay()), what a crash left of blobs that are nobody's: all of `tmp/`, and those of
/// open packs that no row owns. From then on packs are appended to. Only the holder of the directory's lock may. Says how
/// many were removed.
pub async fn sweep(catalog: &Catalog, blobs: &Blobs) -> Result<u64, StoreError> {
    let local = match blobs {
        Blobs::S3(s3) => return s3.clear_tmp(),
        Blobs::Local(local) => local,
    };
    let mut removed = local.clear_tmp()?;
    for keys in local.left_in_packs()?.chunks(BATCH) {
        let owned = catalog.owned_blobs(keys.to_vec()).await?;
        for key in keys.iter().filter(|key| !owned.contains(*key)) {
            local.purge(key)?;
            removed += 1;
        }
    }
    local.open_packs(catalog.packed_through().await?)?;
    Ok(removed)
}
