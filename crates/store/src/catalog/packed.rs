//! Uploads that were received whole and share a pack: committed without a sync of their own, from what stands in the
//! pack's record beside the blob.

use filegate_types::units::Bytes;
use filegate_types::{AccountId, BlobKey, BlobPlace, UnixMillis};
use serde::{Deserialize, Serialize};

use super::Catalog;
use super::books::{self, Short};
use super::engine::{Change, Durability};
use super::sql::{self, Connection};
use super::uploads::{CommitOutcome, NewFile, committed, obstacle, store};
use crate::error::StoreError;

/// In `meta`: up to where records of packs are committed or refused.
pub(crate) const THROUGH: &str = "packed_through";

/// An upload that was received whole before anything of it was in the store: all that its commit depends on, but for
/// where its bytes are and what is in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WholeUpload {
    /// Whose it is.
    pub account: AccountId,
    /// When it was received.
    pub at: UnixMillis,
    /// What it is to be. Its `blob_key` is the one it was minted with.
    pub file: NewFile,
}

impl WholeUpload {
    /// The entry of its record.
    pub fn to_entry(&self) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(self).map_err(|e| StoreError::io("writing an entry", e.into()))
    }

    /// What an entry says.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if it is of a later version.
    pub(crate) fn from_entry(entry: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(entry).map_err(|error| {
            StoreError::Unusable(format!(
                "a pack has an upload that this filegate cannot read ({error}): start the one that wrote it"
            ))
        })
    }

    fn commit(
        &mut self,
        c: &Connection,
        key: &BlobKey,
    ) -> sql::Result<Result<CommitOutcome, Short>> {
        let Self { account, at, file } = self;
        file.blob_key = key.clone();
        if let Some(obstacle) = obstacle(c, *account, file, *at)? {
            return Ok(Ok(obstacle));
        }
        let bytes = Bytes(file.sum.bytes);
        let price = match books::hold(c, *account, Some(&file.purpose), bytes)? {
            Ok(price) => price,
            Err(short) => return Ok(Err(short)),
        };
        books::release(c, *account, price)?;
        store(c, *account, file, price, *at).map(|record| Ok(committed(record)))
    }
}

impl Catalog {
    /// As [`commit_upload`](Self::commit_upload), of an upload that has no row, whose blob and entry are in a pack in the
    /// data directory beside the catalog. Nothing was held for it, so its price is taken here, if that is there. Called
    /// from a thread that may block, in the order in which records were appended. It waits for others until
    /// [`commit_queued`](Self::commit_queued); `then` is told by who commits, while others wait.
    ///
    /// The record is durable, and so is what follows from it. If `then` is told of an error, the record has to be
    /// [revoked](crate::LocalBlobs::revoke), unless it is not known what came of the commit.
    pub fn commit_whole(
        &self,
        mut upload: WholeUpload,
        key: BlobKey,
        then: impl FnOnce(Result<Result<CommitOutcome, Short>, StoreError>) + Send + 'static,
    ) {
        let change = change(&upload, &key);
        self.engine.queue(change, move |c| upload.commit(c, &key), then);
    }

    /// As [`commit_whole`](Self::commit_whole), at a start. The disk may be full: it may use the reserve, or nothing could
    /// be deleted either.
    pub(crate) async fn commit_again(
        &self,
        mut upload: WholeUpload,
        key: BlobKey,
    ) -> Result<Result<CommitOutcome, Short>, StoreError> {
        let change = Change { frees_space: true, ..change(&upload, &key) };
        self.engine.write(change, move |c| upload.commit(c, &key)).await
    }

    /// The last record of packs that was committed or refused; `None` if there never was any.
    pub async fn packed_through(&self) -> Result<Option<BlobPlace>, StoreError> {
        if self.is_shared() {
            return Ok(None);
        }
        Ok(self.meta(THROUGH).await?.as_deref().and_then(from_meta))
    }
}

fn change(upload: &WholeUpload, key: &BlobKey) -> Change {
    let durability = key.place().map_or(Durability::Synced, Durability::InPack);
    Change { durability, ..super::synced("committing an upload").of(upload.account) }
}

/// Notes how far records are committed or refused.
pub(super) fn note(c: &rusqlite::Connection, place: BlobPlace) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT INTO meta (name, value) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )?
    .execute((THROUGH, to_meta(place)))
    .map(drop)
}

fn to_meta(BlobPlace { pack, block }: BlobPlace) -> [u8; 8] {
    (u64::from(pack) << 32 | u64::from(block)).to_be_bytes()
}

fn from_meta(value: &[u8]) -> Option<BlobPlace> {
    let number = u64::from_be_bytes(value.try_into().ok()?);
    let (pack, block) = ((number >> 32) as u32, number as u32);
    Some(BlobPlace { pack, block })
}
