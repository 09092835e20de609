//! Reading: one GET for a run of blocks, each checked before any of it is given out.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use filegate_types::BlobKey;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::client::HttpError;
use object_store::{Error, GetOptions, GetRange, ObjectStore as _};

use super::S3Blobs;
use crate::blobs::sum::{BLOB_BLOCK_BYTES, is_block};
use crate::error::StoreError;

const OPERATION: &str = "reading a blob";
/// The first pause before a reading that broke off goes on; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// A blob that a row says is there.
#[derive(Debug, Clone)]
pub struct S3Reader {
    blobs: S3Blobs,
    key: BlobKey,
    bytes: u64,
    block_sums: Arc<[u8]>,
}

impl S3Reader {
    pub(super) fn new(blobs: S3Blobs, key: BlobKey, bytes: u64, block_sums: Vec<u8>) -> Self {
        Self { blobs, key, bytes, block_sums: block_sums.into() }
    }

    pub(in crate::blobs) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(in crate::blobs) async fn confirm(&self) -> Result<(), StoreError> {
        if self.blobs.length(&self.key).await? == Some(self.bytes) {
            return Ok(());
        }
        Err(StoreError::Damaged(self.key.to_string()))
    }

    pub(in crate::blobs) fn stream(&self, start: u64, end: u64) -> S3Stream {
        let block = BLOB_BLOCK_BYTES as u64;
        let first = start / block * block;
        let last = end.next_multiple_of(block).min(self.bytes).max(first);
        let (blobs, key) = (self.blobs.clone(), self.key.clone());
        let getter = Getter::new(blobs, key, first, last, self.bytes);
        let sums = Arc::clone(&self.block_sums);
        S3Stream { getter, sums, block_start: first, rest: Bytes::new(), start, end }
    }
}

/// Blocks of a blob, as they arrive.
#[derive(Debug)]
pub(in crate::blobs) struct S3Stream {
    getter: Getter,
    sums: Arc<[u8]>,
    /// Where the next block starts.
    block_start: u64,
    /// Bytes of the next block that came with the one before.
    rest: Bytes,
    start: u64,
    end: u64,
}

impl S3Stream {
    /// The next block, as far as it is within the stretch.
    pub(in crate::blobs) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.start >= self.end || self.block_start >= self.end {
            return Ok(None);
        }
        let len = (self.getter.total - self.block_start).min(BLOB_BLOCK_BYTES as u64) as usize;
        let block = self.whole_block(len).await?;
        if !is_block(&self.sums, self.block_start, &block) {
            return Err(StoreError::Damaged(self.getter.key.to_string()));
        }
        let from = self.start.saturating_sub(self.block_start) as usize;
        let to = ((self.end - self.block_start) as usize).min(len);
        self.block_start += len as u64;
        Ok(Some(block.slice(from..to)))
    }

    async fn whole_block(&mut self, len: usize) -> Result<Bytes, StoreError> {
        let mut block = BytesMut::with_capacity(len);
        loop {
            let now = self.rest.split_to(self.rest.len().min(len - block.len()));
            block.extend_from_slice(&now);
            if block.len() == len {
                return Ok(block.freeze());
            }
            let Some(piece) = self.getter.next().await? else {
                // The getter ends where the last block does: this is not reached.
                return Err(StoreError::Damaged(self.getter.key.to_string()));
            };
            self.rest = piece;
        }
    }
}

type Body = BoxStream<'static, object_store::Result<Bytes>>;

/// Bytes of a blob that has to have `total`.
async fn get(
    blobs: &S3Blobs,
    key: &BlobKey,
    range: Range<u64>,
    total: u64,
) -> Result<Body, StoreError> {
    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    let damaged = || StoreError::Damaged(key.to_string());
    match blobs.shared.reads.get_opts(&blobs.path_of(key), options).await {
        Ok(got) if got.meta.size == total => Ok(got.into_stream()),
        Ok(_) | Err(Error::NotFound { .. }) => Err(damaged()),
        Err(error) => {
            // A range outside of a shorter object is refused with an error of many meanings.
            if was_answered(&error)
                && blobs.length(key).await.is_ok_and(|found| found != Some(total))
            {
                return Err(damaged());
            }
            Err(StoreError::unavailable(OPERATION, error))
        }
    }
}

/// Whether the store said something, and not the network.
fn was_answered(error: &Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    !causes.any(|cause| cause.downcast_ref::<HttpError>().is_some())
}

/// A stretch of an object. When the connection breaks it goes on from the byte it had reached.
pub(super) struct Getter {
    blobs: S3Blobs,
    key: BlobKey,
    at: u64,
    end: u64,
    /// How long the object has to be.
    total: u64,
    body: Option<Body>,
    /// Breaks since `gained_from`.
    breaks: usize,
    gained_from: u64,
}

impl std::fmt::Debug for Getter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Getter")
            .field("key", &self.key)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Getter {
    pub(super) fn new(blobs: S3Blobs, key: BlobKey, start: u64, end: u64, total: u64) -> Self {
        Self { blobs, key, at: start, end, total, body: None, breaks: 0, gained_from: start }
    }

    /// The next bytes; `None` at the end of the stretch.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.at < self.end {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => get(&self.blobs, &self.key, self.at..self.end, self.total).await?,
            };
            match body.next().await {
                Some(Ok(mut piece)) => {
                    piece.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
                    self.at += piece.len() as u64;
                    self.body = Some(body);
                    if !piece.is_empty() {
                        return Ok(Some(piece));
                    }
                }
                Some(Err(error)) => self.broke_off(error.into()).await?,
                None => self.broke_off("the answer ended early".into()).await?,
            }
        }
        Ok(None)
    }

    /// Counts a break, and waits before the next try; too many without a block between them are the end.
    async fn broke_off(
        &mut self,
        cause: Box<dyn std::error::Error + Send + Sync>,
    ) -> Result<(), StoreError> {
        if self.at - self.gained_from >= BLOB_BLOCK_BYTES as u64 {
            (self.gained_from, self.breaks) = (self.at, 0);
        }
        if self.breaks >= self.blobs.shared.options.retries {
            return Err(StoreError::Unavailable { operation: OPERATION, source: cause });
        }
        tracing::info!(error = &*cause as &dyn std::error::Error, at = self.at, "s3.read.resumed");
        tokio::time::sleep(BACKOFF_FIRST * (1 << self.breaks.min(5))).await;
        self.breaks += 1;
        Ok(())
    }
}
