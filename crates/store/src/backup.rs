//! A snapshot of a data directory that is in use.
//!
//! ```text
//! 1 link    every blob into TARGET.partial        crash: TARGET.partial is left, and is no snapshot
//! 2 copy    the catalog, as of one instant        crash: as above
//! 3 settle  link blobs of rows that came since 1; rows whose blob went since 2 are dropped as
//!           the catalog says they were deleted; blobs that no row knows are removed
//! 4 fsync   everything                            crash: as above
//! 5 rename  TARGET.partial -> TARGET              from here on it is a snapshot
//! ```
//!
//! Blobs before rows: the file of a blob is never changed, so a link is as good as a copy, and only files that are
//! deleted while the backup runs have to be looked at again. Where links cannot be made, on another file
//! system, blobs are copied, and so is everywhere what is in a pack, in which deletes make holes. A link shares its bytes with the original: it is a guard against mistakes,
//! not against a failing disk; for that the snapshot is copied elsewhere.
//!
//! Uploads in progress are in the snapshot as rows: the server that is started on it sweeps them up and
//! voids their holds, as after a crash.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use filegate_types::BlobKey;
use rusqlite::OpenFlags;

use crate::blobs::{LocalBlobs, Transfer};
use crate::catalog::drop_lost;
use crate::catalog::sql::{self, Connection, OptionalExtension as _};
use crate::datadir::{DataDir, sync_dir};
use crate::error::StoreError;

/// What is in a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that share their bytes with the original.
    pub linked: u64,
    /// Blobs that were copied.
    pub copied: u64,
    /// Files that were deleted while it was made.
    pub dropped: u64,
}

/// Why no snapshot can be made at `target`, if so.
pub fn refuse(target: &Path) -> Result<(), String> {
    if !target.is_absolute() {
        return Err(format!("{} is not an absolute path", target.display()));
    }
    let parent = target.parent().filter(|parent| parent.is_dir());
    if parent.is_none() || target.file_name().is_none() {
        return Err(format!("{} is not in a directory of the server", target.display()));
    }
    for path in [target, &partial(target)] {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
            Ok(_) => return Err(format!("{} is there already", path.display())),
        }
    }
    Ok(())
}

fn partial(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    target.with_file_name(name)
}

/// Makes a snapshot of the catalog at `catalog` and of `blobs`. Blocks for as long as that takes.
///
/// A failure leaves nothing behind if it can.
pub fn make(catalog: &Path, blobs: &LocalBlobs, target: &Path) -> Result<Made, StoreError> {
    refuse(target).map_err(StoreError::Unusable)?;
    let building = partial(target);
    let making = |e| StoreError::io("making a snapshot", e);
    // Not by `open`, which takes what is there: two backups to one place must not mix.
    DirBuilder::new().mode(0o700).create(&building).map_err(making)?;
    let made = fill(catalog, blobs, &building).and_then(|made| {
        fs::rename(&building, target).map_err(making)?;
        sync_dir(target.parent().unwrap_or(target)).map_err(making)?;
        Ok(made)
    });
    if made.is_err()
        && let Err(error) = fs::remove_dir_all(&building)
    {
        tracing::warn!(%error, directory = %building.display(), "backup.left");
    }
    made
}

fn fill(catalog: &Path, blobs: &LocalBlobs, building: &Path) -> Result<Made, StoreError> {
    let dir = DataDir::open(building)?;
    let copies = LocalBlobs::of(&dir);
    let mut made = Made::default();
    let mut all = Vec::new();
    blobs.each(|key, _| all.push(key))?;
    for key in &all {
        made.note(blobs.transfer(key, &copies)?);
    }

    let live = open(catalog, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let copying = |e| StoreError::catalog("copying the catalog", e);
    let copy = dir.catalog_path();
    live.execute("VACUUM INTO ?1", [&*copy.to_string_lossy()]).map_err(copying)?;
    let snapshot = open(&copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    settle(&live, &snapshot, blobs, &copies, &mut made)?;
    drop(snapshot);

    let syncing = |e| StoreError::io("syncing a snapshot", e);
    File::open(&copy).and_then(|file| file.sync_all()).map_err(syncing)?;
    copies.sync_shards()?;
    sync_dir(dir.path()).map_err(syncing)?;
    Ok(made)
}

impl Made {
    fn note(&mut self, transfer: Transfer) {
        match transfer {
            Transfer::Linked => self.linked += 1,
            Transfer::Copied => self.copied += 1,
            Transfer::Absent => {}
        }
    }
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let opening = |e| StoreError::catalog("opening the catalog", e);
    let connection = rusqlite::Connection::open_with_flags(path, flags).map_err(opening)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(opening)?;
    connection.pragma_update(None, "foreign_keys", "on").map_err(opening)?;
    Ok(Connection::Sqlite(connection))
}

/// Step 3: rows and blobs of the snapshot are made to agree.
fn settle(
    live: &Connection,
    snapshot: &Connection,
    blobs: &LocalBlobs,
    copies: &LocalBlobs,
    made: &mut Made,
) -> Result<(), StoreError> {
    let settling = |e| StoreError::catalog("settling a snapshot", e);
    let rows: Vec<(i64, String, i64)> = snapshot
        .prepare_cached("SELECT file_id, blob_key, bytes FROM files")
        .and_then(|mut statement| {
            statement.query_map((), |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect()
        })
        .map_err(settling)?;
    snapshot.execute_batch("BEGIN").map_err(settling)?;
    for (file_id, blob_key, bytes) in rows {
        let key: BlobKey =
            blob_key.parse().map_err(|_why| StoreError::Damaged(blob_key.clone()))?;
        if copies.length(&key)?.is_none() {
            let transfer = blobs.transfer(&key, copies)?;
            made.note(transfer);
            if matches!(transfer, Transfer::Absent)
                && is_deleted(live, file_id).map_err(settling)?
            {
                drop_lost(snapshot, live, file_id).map_err(settling)?;
                made.dropped += 1;
                continue;
            }
            // Absent, and not deleted: the original has lost it too, which `fsck` says of both.
        }
        made.files += 1;
        made.bytes += bytes.cast_unsigned();
    }
    snapshot.execute_batch("COMMIT").map_err(settling)?;
    let mut strangers = Vec::new();
    copies.each(|key, _| strangers.push(key))?;
    let mut known = snapshot
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM files WHERE blob_key = ?1)
                 OR EXISTS (SELECT 1 FROM uploads WHERE blob_key = ?1)",
        )
        .map_err(settling)?;
    for key in strangers {
        let is_known: bool = known.query_row([key.as_str()], |row| row.get(0)).map_err(settling)?;
        if !is_known {
            copies.purge(&key)?;
        }
    }
    Ok(())
}

fn is_deleted(live: &Connection, file_id: i64) -> sql::Result<bool> {
    let there = live
        .prepare_cached("SELECT 1 FROM files WHERE file_id = ?1")?
        .query_row([file_id], |_| Ok(()))
        .optional()?;
    Ok(there.is_none())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use filegate_types::units::Bytes;
    use filegate_types::{FileRecord, FileState, PlainKey, Scopes, TenantLimits, UnixMillis};

    use super::*;
    use crate::catalog::{Caller, Catalog, CommitOutcome, KeyDraft, NewFile, NewUpload, OnChannel};
    use crate::datadir::Reserve;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn opened(path: &Path) -> (DataDir, Catalog, LocalBlobs) {
        let dir = DataDir::open(path).unwrap();
        let catalog = Catalog::open(&dir, Arc::new(Reserve::of(&dir))).unwrap();
        let blobs = LocalBlobs::of(&dir);
        (dir, catalog, blobs)
    }

    async fn upload(catalog: &Catalog, blobs: &LocalBlobs, seed: u8) -> FileRecord {
        let plain = PlainKey::from_random([9; 32]);
        let call = filegate_types::Call::Upload;
        let caller = catalog.authenticate(plain.hash(), call, NOW).await.unwrap();
        let Some(Caller::Active(principal)) = caller else {
            let draft = KeyDraft {
                account: "test".to_owned(),
                name: "test".to_owned(),
                hash: plain.hash(),
                hint: plain.hint().to_owned(),
                scopes: Scopes::all(),
                expires_at: None,
            };
            catalog.create_key(draft, NOW).await.unwrap();
            return Box::pin(upload(catalog, blobs, seed)).await;
        };
        let blob_key = BlobKey::mint(NOW, [seed; 10]);
        let begun = NewUpload {
            account: principal.account_id,
            key: principal.key_id,
            blob_key: blob_key.clone(),
            lease_until: NOW,
            purpose: None,
            bytes_max: Bytes(10),
            free: true,
        };
        catalog.begin_upload(begun, NOW).await.unwrap().unwrap();
        let mut temp = blobs.create(blob_key.clone()).unwrap();
        temp.write(&[seed; 10]).unwrap();
        let file = NewFile {
            purpose: "retrieval".parse().unwrap(),
            filename: "a.txt".to_owned(),
            blob_key,
            sum: blobs.land(temp).unwrap(),
            media_type: "text/plain".to_owned(),
            media: serde_json::json!({}),
            expires_at: None,
            key_id: principal.key_id,
            state: FileState::Ready,
            verdict: None,
            limits: TenantLimits::default(),
            first_answer: None,
            upstream: OnChannel::Nowhere,
            id_bits: [u16::from(seed); 8],
        };
        match catalog.commit_upload(principal.account_id, file, NOW).await.unwrap() {
            CommitOutcome::Committed(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn rows_and_blobs_agree_whatever_happens_while_it_is_made() {
        let home = tempfile::tempdir().unwrap();
        let (dir, catalog, blobs) = opened(&home.path().join("live"));
        let linked = upload(&catalog, &blobs, 1).await;
        let deleted = upload(&catalog, &blobs, 2).await;
        let lost = upload(&catalog, &blobs, 3).await;
        let late = upload(&catalog, &blobs, 4).await;
        let copy_dir = DataDir::open(&home.path().join("copy")).unwrap();
        let copies = LocalBlobs::of(&copy_dir);
        blobs.transfer(&linked.blob_key, &copies).unwrap();
        // Deleted after it was linked and before the rows were copied.
        let stranger = BlobKey::mint(NOW, [5; 10]);
        copies.land(copies.create(stranger.clone()).unwrap()).unwrap();

        let live = open(&dir.catalog_path(), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        let path = copy_dir.catalog_path();
        live.execute("VACUUM INTO ?1", [&*path.to_string_lossy()]).unwrap();
        let key = deleted.key_id.unwrap();
        catalog.delete_file(deleted.account_id, key, deleted.file_id, vec![], NOW).await.unwrap();
        for gone in [&deleted, &lost] {
            blobs.purge(&gone.blob_key).unwrap();
        }
        let snapshot = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        let mut made = Made::default();
        settle(&live, &snapshot, &blobs, &copies, &mut made).unwrap();
        drop(snapshot);

        assert_eq!((made.files, made.bytes, made.dropped), (3, 30, 1));
        assert_eq!(copies.length(&late.blob_key).unwrap(), Some(10));
        assert_eq!(copies.length(&stranger).unwrap(), None);
        let (_, reopened, _) = opened(copy_dir.path());
        assert_eq!(reopened.check_books().await.unwrap(), []);
        let of = |file: &FileRecord| reopened.file(file.account_id, file.file_id, NOW);
        assert!(of(&deleted).await.unwrap().is_none());
        // What the original has lost as well is not hidden.
        assert!(of(&lost).await.unwrap().is_some());
    }
}
