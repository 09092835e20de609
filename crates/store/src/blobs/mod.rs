//! Blobs: the bytes of files, under keys of our own, written once.
//!
//! | where | what [`land`](Blobs::land) waits for | module |
//! |---|---|---|
//! | the data directory | fsync, rename, fsync of the directory | [`local`](LocalBlobs) |
//! | the data directory, small ones | one write with `O_DSYNC` | [`packs`] |
//! | a bucket on S3 | the store's acknowledgement | [`s3`](S3Blobs) |
//!
//! Whoever uses [`Blobs`] need not know which. Bodies are received in memory up to a block and then into a
//! file in `tmp/`, a [`TempBlob`], on both.

mod cache;
mod local;
mod memory;
mod packs;
mod record;
mod s3;
mod small;
mod sum;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use filegate_types::BlobKey;

pub(crate) use local::Transfer;
pub use local::{LocalBlobs, LocalReader, TempBlob};
pub use memory::{Memory, Piece};
pub use s3::{
    LifecycleRule, S3Blobs, S3Checksum, S3Facts, S3Fault, S3Options, S3Reader, S3Setting,
    S3Unchecked, Unfinished,
};
pub use small::SmallBlob;
pub use sum::{BLOB_BLOCK_BYTES, BlobSum, Summer};

use crate::datadir::DataDir;
use crate::error::StoreError;

/// The bytes of files, wherever they are.
#[derive(Debug, Clone)]
pub enum Blobs {
    /// In the data directory.
    Local(LocalBlobs),
    /// In a bucket.
    S3(S3Blobs),
}

/// How a reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Go,
    /// After a while; then it is asked again.
    Wait(Duration),
    /// Not at all.
    Stop,
}

/// Asks `pace` about `bytes` more, once: the naps that follow are about none.
fn paced(
    pace: &mut impl FnMut(usize) -> Pace,
    bytes: &mut usize,
) -> Result<Option<Duration>, StoreError> {
    match pace(std::mem::take(bytes)) {
        Pace::Go => Ok(None),
        Pace::Wait(nap) => Ok(Some(nap)),
        Pace::Stop => Err(StoreError::Closed),
    }
}

impl Blobs {
    /// The blobs of a data directory.
    pub fn local(dir: &DataDir) -> Self {
        Self::Local(LocalBlobs::of(dir))
    }

    /// Blobs in a bucket; larger bodies are received into files in `spool_dir`. Asks nobody anything yet.
    pub fn s3(options: S3Options, spool_dir: &Path) -> Result<Self, StoreError> {
        S3Blobs::new(options, spool_dir).map(Self::S3)
    }

    /// The data directory's, if that is where they are.
    pub fn as_local(&self) -> Option<&LocalBlobs> {
        match self {
            Self::Local(local) => Some(local),
            Self::S3(_) => None,
        }
    }

    /// The bucket's, if that is where they are.
    pub fn as_s3(&self) -> Option<&S3Blobs> {
        match self {
            Self::Local(_) => None,
            Self::S3(s3) => Some(s3),
        }
    }

    /// Starts a blob that is too large for memory. Blocks.
    pub fn create(&self, key: BlobKey) -> Result<TempBlob, StoreError> {
        match self {
            Self::Local(local) => local.create(key),
            Self::S3(s3) => s3.create(key),
        }
    }

    /// Makes a received blob durable under its key. When this fails or is dropped the blob may be there, or
    /// come to be there: it is to be purged.
    pub async fn land(&self, temp: TempBlob) -> Result<BlobSum, StoreError> {
        match self {
            Self::Local(local) => {
                let local = local.clone();
                blocking(move || local.land(temp)).await
            }
            Self::S3(s3) => s3.land(temp).await,
        }
    }

    /// As [`land`](Self::land), for a blob that was received in memory.
    pub async fn land_whole(&self, key: BlobKey, bytes: SmallBlob) -> Result<BlobSum, StoreError> {
        match self {
            Self::Local(local) => {
                let local = local.clone();
                blocking(move || {
                    let mut temp = local.create(key)?;
                    temp.write(&bytes)?;
                    local.land(temp)
                })
                .await
            }
            Self::S3(s3) => s3.land_whole(&key, bytes.into_bytes()).await,
        }
    }

    /// Opens a blob whose row says `bytes` and `block_sums`. On S3 the first read finds out whether it is
    /// there.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is absent or has another length.
    pub async fn open(
        &self,
        key: &BlobKey,
        bytes: u64,
        block_sums: Vec<u8>,
    ) -> Result<BlobReader, StoreError> {
        if block_sums.len() as u64 != bytes.div_ceil(BLOB_BLOCK_BYTES as u64) * 4 {
            return Err(StoreError::Damaged(key.to_string()));
        }
        match self {
            Self::Local(local) => {
                let opened = local.open_in_memory(key, bytes, &block_sums);
                let opened = if let Some(opened) = opened {
                    opened
                } else {
                    let (local, key) = (local.clone(), key.clone());
                    blocking(move || local.open(&key, bytes, block_sums)).await?
                };
                Ok(BlobReader::Local(Arc::new(opened)))
            }
            Self::S3(s3) => Ok(BlobReader::S3(s3.open(key, bytes, block_sums))),
        }
    }

    /// Removes a blob; its absence is success.
    pub async fn purge(&self, key: &BlobKey) -> Result<(), StoreError> {
        match self {
            Self::Local(local) => {
                let (local, key) = (local.clone(), key.clone());
                blocking(move || local.purge(&key)).await
            }
            Self::S3(s3) => s3.purge(key).await,
        }
    }

    /// As [`purge`](Self::purge), of an upload that was cut off: also the parts that had come to the store.
    pub async fn purge_upload(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.purge(key).await?;
        match self {
            Self::Local(_) => Ok(()),
            Self::S3(s3) => s3.abort_parts_of(key).await,
        }
    }

    /// Reads a whole blob and says its length and SHA-256; `None` if it is absent. `pace` is told of
    /// every piece read, and says how to go on.
    pub async fn digest(
        &self,
        key: &BlobKey,
        pace: impl FnMut(usize) -> Pace + Send + 'static,
    ) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        match self {
            Self::Local(local) => {
                let (local, key) = (local.clone(), key.clone());
                blocking(move || local.digest(&key, pace)).await
            }
            Self::S3(s3) => s3.digest(key, pace).await,
        }
    }

    /// The length of a landed blob; `None` if it is absent.
    pub async fn length(&self, key: &BlobKey) -> Result<Option<u64>, StoreError> {
        match self {
            Self::Local(local) => {
                let (local, key) = (local.clone(), key.clone());
                blocking(move || local.length(&key)).await
            }
            Self::S3(s3) => s3.length(key).await,
        }
    }

    /// Every landed blob with its length, page by page: by shard, and then by pack. What is not a blob is skipped.
    pub fn list(&self) -> BlobList {
        BlobList { blobs: self.clone(), next: Next::First }
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}

/// A landed blob, to be read.
#[derive(Debug, Clone)]
pub enum BlobReader {
    /// From the data directory.
    Local(Arc<LocalReader>),
    /// From a bucket.
    S3(S3Reader),
}

impl BlobReader {
    /// Length of the blob.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Local(reader) => reader.bytes(),
            Self::S3(reader) => reader.bytes(),
        }
    }

    /// Whether it is there whole, as far as that can be said without reading it.
    pub async fn confirm(&self) -> Result<(), StoreError> {
        match self {
            // Opening it has found out.
            Self::Local(_) => Ok(()),
            Self::S3(reader) => reader.confirm().await,
        }
    }

    /// Its bytes from `start` to before `end`, which is at most its length.
    pub fn stream(&self, start: u64, end: u64) -> BlobStream {
        let end = end.min(self.bytes());
        BlobStream(match self {
            Self::Local(reader) => Stream::Local { reader: Arc::clone(reader), at: start, end },
            Self::S3(reader) => Stream::S3(Box::new(reader.stream(start, end))),
        })
    }
}

/// A stretch of a blob, block by block, each checked against its sum before any of it is given out.
#[derive(Debug)]
pub struct BlobStream(Stream);

#[derive(Debug)]
enum Stream {
    Local { reader: Arc<LocalReader>, at: u64, end: u64 },
    S3(Box<s3::S3Stream>),
}

impl BlobStream {
    /// The next bytes, at most a block; `None` at the end.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they are not those that were stored.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        match &mut self.0 {
            Stream::S3(stream) => stream.next().await,
            Stream::Local { reader, at, end } => {
                if at >= end {
                    return Ok(None);
                }
                let start = *at;
                let (block_start, block) = if let Some(block) = reader.block_in_memory(start) {
                    block?
                } else {
                    let reader = Arc::clone(reader);
                    blocking(move || reader.block_at(start)).await?
                };
                let block = Bytes::from(block);
                let from = (start - block_start) as usize;
                let to = ((*end - block_start) as usize).min(block.len());
                *at = block_start + to as u64;
                Ok(Some(block.slice(from..to)))
            }
        }
    }
}

/// A listing under way.
#[derive(Debug)]
pub struct BlobList {
    blobs: Blobs,
    next: Next,
}

#[derive(Debug)]
enum Next {
    First,
    Shard(u8),
    /// Those that are left, the next last.
    Packs(Vec<u32>),
    Token(String),
    End,
}

impl BlobList {
    /// The next page, which may be empty; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<(BlobKey, u64)>>, StoreError> {
        match (&self.blobs, &self.next) {
            (_, Next::End) => Ok(None),
            (Blobs::Local(local), Next::Packs(packs)) => {
                let (local, mut packs) = (local.clone(), packs.clone());
                let Some(pack) = packs.pop() else {
                    self.next = Next::End;
                    return Ok(None);
                };
                let page = blocking(move || local.blobs_of_pack(pack)).await?;
                self.next = Next::Packs(packs);
                Ok(Some(page))
            }
            (Blobs::Local(local), next) => {
                let shard = if let Next::Shard(shard) = next { *shard } else { 0 };
                let local = local.clone();
                let (page, packs) = blocking(move || {
                    let packs = if shard == u8::MAX { local.packs()? } else { Vec::new() };
                    Ok((local.shard_of(shard)?, packs))
                })
                .await?;
                self.next = shard.checked_add(1).map_or(Next::Packs(packs), Next::Shard);
                Ok(Some(page))
            }
            (Blobs::S3(s3), next) => {
                let token = if let Next::Token(token) = next { Some(token.clone()) } else { None };
                let (page, token) = s3.page(token).await?;
                self.next = token.map_or(Next::End, Next::Token);
                Ok(Some(page))
            }
        }
    }
}
