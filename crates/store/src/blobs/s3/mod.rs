//! Blobs in a bucket on S3, under `prefix/xx/KEY`.
//!
//! # Landing a blob, and what a crash leaves
//!
//! ```text
//! 1 receive   in memory, or in tmp/KEY         crash: nothing, or a file that is removed at the next start
//! 2 put       up to part_bytes: one PUT        crash: nothing, or a whole object. The row in `uploads` is
//!                                              still there, so the reaper purges it
//!   or parts  create, parts, complete          crash: as above, or parts without an object, which
//!                                              `abort_unfinished` takes, or the bucket's lifecycle rule
//! ```
//!
//! Only after the store has acknowledged step 2 may a row refer to the blob. A key is ours, random, and used
//! once, so that a request whose answer was lost can be made again: it writes the same bytes. When all
//! tries have failed the last of them may still arrive: whoever gives up purges, and again some time
//! later.

mod http;
mod options;
mod read;
mod survey;
mod unfinished;
mod upload;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use filegate_types::BlobKey;
use object_store::aws::AmazonS3;
use object_store::client::HttpClient;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{Error, ObjectStoreExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

pub use options::{S3Checksum, S3Options, S3Setting};
use read::Getter;
pub use read::S3Reader;
pub(super) use read::S3Stream;
pub use survey::{LifecycleRule, S3Facts, S3Fault};
pub use unfinished::Unfinished;

use super::local;
use super::{Pace, TempBlob, paced};
use crate::error::StoreError;

/// The unit in which memory is counted.
const MEMORY_UNIT: u64 = 64 << 10;

/// Blobs in a bucket.
#[derive(Debug, Clone)]
pub struct S3Blobs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: S3Options,
    /// For requests that end in a given time.
    bucket: AmazonS3,
    /// For reads, which last as long as the client takes them.
    reads: AmazonS3,
    /// For calls that `object_store` has not.
    http: HttpClient,
    tmp: PathBuf,
    /// What of `memory_max` is free, in units.
    memory: Semaphore,
}

impl S3Blobs {
    pub(super) fn new(options: S3Options, spool_dir: &FilePath) -> Result<Self, StoreError> {
        let clients = http::clients(&options).map_err(|error| {
            StoreError::Unusable(format!("the S3 store cannot be used: {error}"))
        })?;
        let http::Clients { bucket, reads, http } = clients;
        let memory = Semaphore::new((options.memory_max / MEMORY_UNIT) as usize);
        let tmp = spool_dir.to_owned();
        Ok(Self { shared: Arc::new(Shared { options, bucket, reads, http, tmp, memory }) })
    }

    /// How the bucket is spoken to.
    pub fn options(&self) -> &S3Options {
        &self.shared.options
    }

    /// Removes what a crash left half received. Only who has the spool directory for himself may. Blocks.
    pub fn clear_tmp(&self) -> Result<u64, StoreError> {
        local::clear(&self.shared.tmp)
    }

    pub(super) fn create(&self, key: BlobKey) -> Result<TempBlob, StoreError> {
        TempBlob::create(&self.shared.tmp, key)
    }

    /// The one place where the name of an object is made.
    fn path_of(&self, key: &BlobKey) -> Path {
        Path::from(format!("{}{}/{key}", self.shared.options.root(), key.shard()))
    }

    /// The blob that an object's name is of.
    fn key_of(&self, name: &str) -> Option<BlobKey> {
        let (shard, key) = name.strip_prefix(&self.shared.options.root())?.split_once('/')?;
        key.parse::<BlobKey>().ok().filter(|key| key.shard() == shard)
    }

    pub(super) fn open(&self, key: &BlobKey, bytes: u64, block_sums: Vec<u8>) -> S3Reader {
        S3Reader::new(self.clone(), key.clone(), bytes, block_sums)
    }

    pub(super) async fn purge(&self, key: &BlobKey) -> Result<(), StoreError> {
        let path = self.path_of(key);
        let purged = match self.shared.bucket.delete(&path).await {
            // A connection that was kept may have ended meanwhile. `object_store` does not send a DELETE again
            // after that; here absent is success, so it may be.
            Err(Error::Generic { .. }) => self.shared.bucket.delete(&path).await,
            purged => purged,
        };
        match purged {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::unavailable("purging a blob", error)),
        }
    }

    pub(super) async fn length(&self, key: &BlobKey) -> Result<Option<u64>, StoreError> {
        match self.shared.bucket.head(&self.path_of(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::unavailable("looking at a blob", error)),
        }
    }

    pub(super) async fn digest(
        &self,
        key: &BlobKey,
        mut pace: impl FnMut(usize) -> Pace + Send,
    ) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        let Some(bytes) = self.length(key).await? else { return Ok(None) };
        let mut getter = Getter::new(self.clone(), key.clone(), 0, bytes, bytes);
        let mut sha = Sha256::new();
        while let Some(piece) = getter.next().await? {
            sha.update(&piece);
            let mut told = piece.len();
            while let Some(nap) = paced(&mut pace, &mut told)? {
                tokio::time::sleep(nap).await;
            }
        }
        Ok(Some((bytes, sha.finalize().into())))
    }

    /// The bytes of a blob whose sums are not known, as the store has them: for an upload that is being
    /// decided. `None` if it is absent.
    pub async fn unchecked(&self, key: &BlobKey) -> Result<Option<(u64, S3Unchecked)>, StoreError> {
        let Some(bytes) = self.length(key).await? else { return Ok(None) };
        let getter = Getter::new(self.clone(), key.clone(), 0, bytes, bytes);
        Ok(Some((bytes, S3Unchecked(getter))))
    }

    pub(super) async fn page(
        &self,
        token: Option<String>,
    ) -> Result<(Vec<(BlobKey, u64)>, Option<String>), StoreError> {
        let options = PaginatedListOptions { page_token: token, ..Default::default() };
        let root = self.shared.options.root();
        let prefix = (!root.is_empty()).then_some(root.as_str());
        let listed = self.shared.bucket.list_paginated(prefix, options).await;
        let listed = listed.map_err(|error| StoreError::unavailable("listing blobs", error))?;
        let blob = |object: &object_store::ObjectMeta| {
            Some((self.key_of(object.location.as_ref())?, object.size))
        };
        let page = listed.result.objects.iter().filter_map(blob).collect();
        Ok((page, listed.page_token))
    }

    /// A URL that gives a blob to whoever has it, for `life`, as `disposition` and `media_type` say.
    pub async fn presign(
        &self,
        key: &BlobKey,
        disposition: &str,
        media_type: &str,
        life: Duration,
    ) -> Result<String, StoreError> {
        let options = SignedUrlOptions::default().with_query([
            ("response-cache-control", "private, no-store"),
            ("response-content-disposition", disposition),
            ("response-content-type", media_type),
        ]);
        let path = self.path_of(key);
        let signed = self.shared.reads.signed_url_opts(Method::GET, &path, life, &options).await;
        let url = signed.map_err(|error| StoreError::unavailable("signing a link", error))?;
        Ok(url.into())
    }
}

/// A blob as the store has it.
#[derive(Debug)]
pub struct S3Unchecked(Getter);

impl S3Unchecked {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, StoreError> {
        self.0.next().await
    }
}
