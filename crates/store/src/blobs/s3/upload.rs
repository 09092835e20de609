//! Landing: one PUT, or parts read from the spool.

use std::sync::Arc;

use bytes::Bytes;
use filegate_types::BlobKey;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutPayload};
use tokio::sync::SemaphorePermit;

use super::{MEMORY_UNIT, S3Blobs};
use crate::blobs::sum::{BlobSum, Summer};
use crate::blobs::{TempBlob, blocking};
use crate::error::StoreError;

const OPERATION: &str = "landing a blob";

impl S3Blobs {
    /// A body that never was on the disk. Its memory is the upload's own.
    pub(in crate::blobs) async fn land_whole(
        &self,
        key: &BlobKey,
        bytes: Bytes,
    ) -> Result<BlobSum, StoreError> {
        let mut summer = Summer::default();
        summer.update(&bytes);
        self.put(&self.path_of(key), bytes).await?;
        Ok(summer.finish())
    }

    /// A body from the spool.
    pub(in crate::blobs) async fn land(&self, temp: TempBlob) -> Result<BlobSum, StoreError> {
        let path = self.path_of(temp.key());
        let (bytes, temp) = (temp.bytes(), Arc::new(temp));
        if bytes <= self.shared.options.part_bytes {
            let _memory = self.memory_for(bytes).await?;
            let body = read(&temp, 0, bytes as usize).await?;
            self.put(&path, body).await?;
        } else {
            self.put_parts(&path, &temp, bytes).await?;
        }
        blocking(move || {
            let temp = Arc::into_inner(temp).ok_or(StoreError::Closed)?;
            Ok(temp.into_sum())
        })
        .await
    }

    async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.shared.bucket.put(path, PutPayload::from(bytes)).await;
        put.map(drop).map_err(|error| StoreError::unavailable(OPERATION, error))
    }

    async fn put_parts(
        &self,
        path: &Path,
        temp: &Arc<TempBlob>,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let failed = |error| StoreError::unavailable(OPERATION, error);
        let store = &self.shared.bucket;
        let id = store.create_multipart(path).await.map_err(failed)?;
        let landed = async {
            let parts = self.send_parts(path, temp, bytes, &id).await?;
            match store.complete_multipart(path, &id, parts).await {
                Ok(_) => Ok(()),
                // The answer to an earlier try may have been lost: nobody but us writes this key.
                Err(error) => match store.head(path).await {
                    Ok(meta) if meta.size == bytes => Ok(()),
                    _ => Err(failed(error)),
                },
            }
        };
        let landed = landed.await;
        if landed.is_err()
            && let Err(error) = store.abort_multipart(path, &id).await
            && !matches!(error, Error::NotFound { .. })
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "s3.parts.left: they are aborted in an hour"
            );
        }
        landed
    }

    async fn send_parts(
        &self,
        path: &Path,
        temp: &Arc<TempBlob>,
        bytes: u64,
        id: &String,
    ) -> Result<Vec<PartId>, StoreError> {
        let part_bytes = self.shared.options.part_bytes;
        let parts = bytes.div_ceil(part_bytes) as usize;
        let send = |index: usize| async move {
            let start = index as u64 * part_bytes;
            let len = part_bytes.min(bytes - start);
            // Before the part is read, and until the store has it.
            let _memory = self.memory_for(len).await?;
            let part = read(temp, start, len as usize).await?;
            let sent = self.shared.bucket.put_part(path, id, index, PutPayload::from(part)).await;
            sent.map_err(|error| StoreError::unavailable(OPERATION, error))
        };
        let parallel = self.shared.options.parts_parallel;
        stream::iter((0..parts).map(send)).buffered(parallel).try_collect().await
    }

    /// Waits until so much more may be in memory.
    async fn memory_for(&self, bytes: u64) -> Result<SemaphorePermit<'_>, StoreError> {
        let all = self.shared.options.memory_max / MEMORY_UNIT;
        let units = bytes.div_ceil(MEMORY_UNIT).min(all) as u32;
        self.shared.memory.acquire_many(units).await.map_err(|_closed| StoreError::Closed)
    }
}

async fn read(temp: &Arc<TempBlob>, start: u64, len: usize) -> Result<Bytes, StoreError> {
    let temp = Arc::clone(temp);
    blocking(move || temp.piece(start, len).map(Bytes::from)).await
}
