//! Blobs in the data directory, and the files that larger bodies are received into. Everything here blocks.
//!
//! # Landing a blob that has an upload row, and what a crash leaves
//!
//! ```text
//! 1 create   tmp/KEY                     crash: removed at the next start (the whole of tmp/ is)
//! 2 write    pieces, summed on the way   crash: as above
//! 3 fsync    tmp/KEY                     crash: as above
//! 4 rename   tmp/KEY -> blobs/xx/KEY     crash: a whole blob without a file row. Its upload row is
//! 5 fsync    blobs/xx                    still there, so the reaper purges it; if the power cut took
//!                                        that row too, `fsck --repair` does
//! ```
//!
//! Only after step 5 may a row refer to the blob.
//!
//! # Landing a whole blob without an upload row
//!
//! ```text
//! 1 create   tmp/KEY                     crash: removed at the next start
//! 2 write    all of it, summed
//! 3 link     blobs/xx/KEY                crash: both names are removed at the next start
//! 4 fsync    tmp/KEY                     crash: as above
//! 5 fsync    tmp/                        crash: as above. The catalog does it, once for all rows of a commit
//! 6          the row is committed        crash: the next start finds the row, sees to it that blobs/xx/KEY is there,
//!                                        and removes tmp/KEY
//! 7 unlink   tmp/KEY, after an fsync of blobs/xx
//! ```
//!
//! So the name in `tmp/` is what an upload row is otherwise: it says that nobody may own the blob, and a start looks at
//! no others. It is also the name that is durable before the commit, in the one directory that all uploads share, so
//! that one sync of it serves many. The name in `blobs/` need not be: a start that misses it makes it again.
//!
//! A failed fsync is never tried again: the kernel may have dropped the pages, so the upload fails and its file is
//! removed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use filegate_types::BlobKey;
use rustix::fs::{Advice, CWD, RenameFlags, fadvise, renameat_with};
use sha2::{Digest, Sha256};

use super::direct::{Direct, Written};
use super::sum::{BLOB_BLOCK_BYTES, BlobSum, Summer, is_block};
use super::{Pace, paced};
use crate::datadir::{DataDir, sync_dir};
use crate::error::StoreError;

/// Blobs in the data directory.
#[derive(Debug, Clone)]
pub struct LocalBlobs {
    tmp: PathBuf,
    blobs: PathBuf,
    /// Whether a file can have two names here; false until it was tried.
    links: Arc<AtomicBool>,
}

/// A blob being received: a file in `tmp/` that is removed when this is dropped before it lands.
#[derive(Debug)]
pub struct TempBlob {
    key: BlobKey,
    file: File,
    path: PathBuf,
    summer: Summer,
    /// While it is written past the cache.
    direct: Option<Direct>,
    landed: bool,
}

/// A landed blob, open for reading.
#[derive(Debug)]
pub struct LocalReader {
    key: BlobKey,
    file: File,
    bytes: u64,
    block_sums: Vec<u8>,
}

/// How a blob came to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// It shares the bytes of the original.
    Linked,
    /// It has bytes of its own.
    Copied,
    /// There is no such blob.
    Absent,
}

impl LocalBlobs {
    /// The blobs of `dir`.
    pub fn of(dir: &DataDir) -> Self {
        let links = Arc::default();
        Self { tmp: dir.path().join("tmp"), blobs: dir.path().join("blobs"), links }
    }

    /// The keys of what a crash left in `tmp/`, received half or whole; what has no key for a name is removed. Finds
    /// out, too, whether [`land_whole`](Self::land_whole) can be used. Only the holder of the directory's lock may.
    pub fn left_in_tmp(&self) -> Result<Vec<BlobKey>, StoreError> {
        let operation = "clearing the temporary directory";
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.tmp).map_err(|e| StoreError::io(operation, e))? {
            let entry = entry.map_err(|e| StoreError::io(operation, e))?;
            match entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                Some(key) => left.push(key),
                None => fs::remove_file(entry.path()).map_err(|e| StoreError::io(operation, e))?,
            }
        }
        self.links.store(self.try_link(), Ordering::Relaxed);
        Ok(left)
    }

    /// Whether a file can have a name in `tmp/` and another in `blobs/`: so on all usual file systems, unless somebody
    /// has mounted them apart.
    fn try_link(&self) -> bool {
        let (one, other) = (self.tmp.join("link-test"), self.blobs.join("link-test"));
        let _left_by_a_crash = fs::remove_file(&other);
        let made = File::create(&one).and_then(|_file| fs::hard_link(&one, &other));
        let _either_may_be_absent = (fs::remove_file(&one), fs::remove_file(&other));
        if let Err(error) = &made {
            tracing::info!(%error, "store.links.none: small uploads take the way of large ones");
        }
        made.is_ok()
    }

    /// Whether [`land_whole`](Self::land_whole) can be used. It cannot before [`left_in_tmp`](Self::left_in_tmp) was
    /// asked, which a start does.
    pub fn has_links(&self) -> bool {
        self.links.load(Ordering::Relaxed)
    }

    /// Makes `bytes` a blob under `key` that nobody owns yet, steps 1 to 4 of the module's second table. Its name in `tmp/`,
    /// which [`Catalog::commit_whole`](crate::Catalog::commit_whole) makes durable, stays until [`settle`](Self::settle)
    /// or [`disown`](Self::disown), or is found by the next start.
    pub fn land_whole(&self, key: &BlobKey, bytes: &[u8]) -> Result<BlobSum, StoreError> {
        let mut temp = TempBlob::create(&self.tmp, key.clone())?;
        let landed = self.land_linked(&mut temp, bytes);
        if landed.is_err() {
            let _best_effort = fs::remove_file(self.path_of(key));
            // Dropped, it removes the other name.
            return landed;
        }
        temp.landed = true;
        landed
    }

    fn land_linked(&self, temp: &mut TempBlob, bytes: &[u8]) -> Result<BlobSum, StoreError> {
        temp.write(bytes)?;
        // Before the sync, which then writes both names together. It never replaces.
        let target = self.path_of(&temp.key);
        fs::hard_link(&temp.path, target).map_err(|e| StoreError::io("landing a blob", e))?;
        temp.file.sync_data().map_err(|e| StoreError::io("syncing a blob", e))?;
        Ok(std::mem::take(&mut temp.summer).finish())
    }

    /// Takes away the names in `tmp/` of blobs that a row owns, once their names in `blobs/` are durable. What cannot be
    /// taken away the next start finds.
    pub fn settle(&self, keys: &[BlobKey]) {
        let mut shards: BTreeMap<&str, Vec<&BlobKey>> = BTreeMap::new();
        for key in keys {
            shards.entry(key.shard()).or_default().push(key);
        }
        for (shard, keys) in shards {
            let settled = sync_dir(&self.blobs.join(shard)).and_then(|()| {
                keys.iter().try_for_each(|key| fs::remove_file(self.tmp.join(key.as_str())))
            });
            if let Err(error) = settled {
                tracing::warn!(%error, "store.tmp.left: removed at the next start");
            }
        }
    }

    /// At a start: a blob of `tmp/` that a row owns, after whatever happened.
    pub fn settle_left(&self, key: &BlobKey) -> Result<(), StoreError> {
        let operation = "settling a blob";
        match fs::hard_link(self.tmp.join(key.as_str()), self.path_of(key)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io(operation, error));
            }
            Err(_) => {}
            Ok(()) => tracing::info!(blob = %key, "store.settled: a name was lost with the power"),
        }
        // The only durable name goes.
        sync_dir(&self.shard(key)).map_err(|e| StoreError::io(operation, e))?;
        fs::remove_file(self.tmp.join(key.as_str())).map_err(|e| StoreError::io(operation, e))
    }

    /// Removes a blob that no row owns or will own, under whatever names it has.
    pub fn disown(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.purge(key)?;
        match fs::remove_file(self.tmp.join(key.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("removing a blob", error))
            }
            _ => Ok(()),
        }
    }

    /// Starts a blob.
    pub fn create(&self, key: BlobKey) -> Result<TempBlob, StoreError> {
        TempBlob::create(&self.tmp, key)
    }

    /// Makes a blob durable under its key (steps 3 to 5 of the module's table).
    pub fn land(&self, mut temp: TempBlob) -> Result<BlobSum, StoreError> {
        temp.finish_writing()?;
        temp.file.sync_data().map_err(|e| StoreError::io("syncing a blob", e))?;
        let home = self.shard(&temp.key);
        let target = home.join(temp.key.as_str());
        rename_new(&temp.path, &target).map_err(|e| StoreError::io("landing a blob", e))?;
        temp.landed = true;
        if let Err(error) = sync_dir(&home) {
            let _best_effort = fs::remove_file(&target);
            return Err(StoreError::io("syncing a blob directory", error));
        }
        Ok(std::mem::take(&mut temp.summer).finish())
    }

    /// Opens the bytes of an upload that has not landed; `None` once it has, or was refused.
    pub fn open_pending(&self, key: &BlobKey) -> Result<Option<File>, StoreError> {
        match File::open(self.tmp.join(key.as_str())) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("opening an upload", error)),
        }
    }

    /// Opens a blob whose row says `bytes` and `block_sums`.
    pub fn open(
        &self,
        key: &BlobKey,
        bytes: u64,
        block_sums: Vec<u8>,
    ) -> Result<LocalReader, StoreError> {
        let file = match File::open(self.path_of(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Damaged(key.to_string()));
            }
            Err(error) => return Err(StoreError::io("opening a blob", error)),
        };
        let found = file.metadata().map_err(|e| StoreError::io("opening a blob", e))?.len();
        if found != bytes || block_sums.len() as u64 != bytes.div_ceil(BLOB_BLOCK_BYTES as u64) * 4
        {
            return Err(StoreError::Damaged(key.to_string()));
        }
        Ok(LocalReader { key: key.clone(), file, bytes, block_sums })
    }

    /// Removes a blob; its absence is success.
    pub fn purge(&self, key: &BlobKey) -> Result<(), StoreError> {
        match fs::remove_file(self.path_of(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("purging a blob", error))
            }
            _ => Ok(()),
        }
    }

    /// Reads a whole blob and says its length and SHA-256; `None` if it is absent. `pace` is told of
    /// every piece read, and says how to go on.
    pub fn digest(
        &self,
        key: &BlobKey,
        mut pace: impl FnMut(usize) -> Pace,
    ) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        let operation = "verifying a blob";
        let mut file = match File::open(self.path_of(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(operation, error)),
        };
        let (mut sha, mut bytes) = (Sha256::new(), 0u64);
        let mut buffer = vec![0u8; BLOB_BLOCK_BYTES];
        loop {
            let n = file.read(&mut buffer).map_err(|e| StoreError::io(operation, e))?;
            if n == 0 {
                return Ok(Some((bytes, sha.finalize().into())));
            }
            sha.update(&buffer[..n]);
            bytes += n as u64;
            let mut told = n;
            while let Some(nap) = paced(&mut pace, &mut told)? {
                std::thread::sleep(nap);
            }
        }
    }

    /// The length of a landed blob; `None` if it is absent.
    pub fn length(&self, key: &BlobKey) -> Result<Option<u64>, StoreError> {
        match fs::metadata(self.path_of(key)) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("looking at a blob", error)),
        }
    }

    /// The landed blobs of one of the 256 shards; entries that are not blobs are skipped.
    pub fn shard_of(&self, shard: u8) -> Result<Vec<(BlobKey, u64)>, StoreError> {
        let operation = "listing blobs";
        let dir = self.blobs.join(format!("{shard:02x}"));
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| StoreError::io(operation, e))? {
            let entry = entry.map_err(|e| StoreError::io(operation, e))?;
            let key = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // A file may be purged between the listing and this look.
            if let (Some(key), Ok(meta)) = (key, entry.metadata()) {
                found.push((key, meta.len()));
            }
        }
        Ok(found)
    }

    /// Every landed blob, shard by shard.
    pub fn each(&self, mut visit: impl FnMut(BlobKey, u64)) -> Result<(), StoreError> {
        for shard in 0..=255u8 {
            self.shard_of(shard)?.into_iter().for_each(|(key, bytes)| visit(key, bytes));
        }
        Ok(())
    }

    /// Has the blob in `other` as well, as a link where that can be and as a copy elsewhere. Whether it is
    /// durable there is for [`sync_shards`](Self::sync_shards).
    pub(crate) fn transfer(&self, key: &BlobKey, other: &Self) -> Result<Transfer, StoreError> {
        let operation = "copying a blob";
        let (from, to) = (self.path_of(key), other.path_of(key));
        match fs::hard_link(&from, &to) {
            Ok(()) => return Ok(Transfer::Linked),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Transfer::Absent),
            // Another file system, or one without links.
            Err(_) => {}
        }
        let mut source = match File::open(&from) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Transfer::Absent),
            Err(error) => return Err(StoreError::io(operation, error)),
        };
        let copied = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
        let copied = copied.and_then(|mut copy| {
            io::copy(&mut source, &mut copy)?;
            copy.sync_all()
        });
        copied.map(|()| Transfer::Copied).map_err(|e| StoreError::io(operation, e))
    }

    /// Makes the names of all blobs durable.
    pub(crate) fn sync_shards(&self) -> Result<(), StoreError> {
        let syncing = |e| StoreError::io("syncing a blob directory", e);
        for shard in 0..=255u8 {
            sync_dir(&self.blobs.join(format!("{shard:02x}"))).map_err(syncing)?;
        }
        sync_dir(&self.blobs).map_err(syncing)
    }

    fn shard(&self, key: &BlobKey) -> PathBuf {
        self.blobs.join(key.shard())
    }

    /// The one place where the path of a blob is made.
    fn path_of(&self, key: &BlobKey) -> PathBuf {
        self.shard(key).join(key.as_str())
    }
}

impl TempBlob {
    /// An empty file for `key` in the directory `tmp`.
    pub(super) fn create(tmp: &Path, key: BlobKey) -> Result<Self, StoreError> {
        let path = tmp.join(key.as_str());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| StoreError::io("creating a blob", e))?;
        Ok(Self { key, file, path, summer: Summer::default(), direct: None, landed: false })
    }

    /// From its beginning on it goes past the page cache, where that can be: for one that is long. It is whole only after
    /// [`finish_writing`](Self::finish_writing). Until then it has two buffers of `buffer_bytes`, a multiple of 4096.
    pub fn write_past_cache(&mut self, buffer_bytes: usize) {
        self.direct = Direct::open(&self.path, buffer_bytes);
    }

    /// All of it was written: until now some may be in memory.
    pub fn finish_writing(&mut self) -> Result<(), StoreError> {
        let Some(direct) = self.direct.take() else { return Ok(()) };
        let finished = direct.finish(&self.file);
        finished.map_err(|e| StoreError::io("writing a blob", e))
    }

    /// The key it will land under.
    pub fn key(&self) -> &BlobKey {
        &self.key
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.summer.bytes()
    }

    /// Appends `piece` without summing it: somebody else does, who has [`lent_summer`](Self::lend_summer).
    pub fn write_unsummed(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let writing = |e| StoreError::io("writing a blob", e);
        if let Some(direct) = &mut self.direct {
            if let Written::Refused(at) = direct.write(piece, &self.file).map_err(writing)? {
                self.file.seek(SeekFrom::Start(at)).map_err(writing)?;
                self.direct = None;
            }
            return Ok(());
        }
        self.file.write_all(piece).map_err(writing)
    }

    /// The sums so far, to be gone on with beside the writing.
    pub fn lend_summer(&mut self) -> Summer {
        std::mem::take(&mut self.summer)
    }

    /// The sums of all that was written.
    pub fn return_summer(&mut self, summer: Summer) {
        self.summer = summer;
    }

    /// Has what was written from byte `start` on begin to go to the disk, so that the sync at the end finds little left.
    pub fn write_back(&self, start: u64) {
        if self.direct.is_some() {
            return;
        }
        // Linux then starts to write what is dirty, and waits for nothing.
        let _a_hint = fadvise(&self.file, start, None, Advice::DontNeed);
    }

    /// Appends `piece`.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.write_unsummed(piece)?;
        self.summer.update(piece);
        Ok(())
    }

    /// The file, to be inspected. Its position is moved by that; nothing is written after.
    pub fn reader(&mut self) -> Result<&mut File, StoreError> {
        self.finish_writing()?;
        self.file.rewind().map_err(|e| StoreError::io("reading a blob back", e))?;
        Ok(&mut self.file)
    }

    /// `len` bytes of the file from `start`, wherever its position is.
    pub(super) fn piece(&self, start: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut piece = vec![0u8; len];
        let read = self.file.read_exact_at(&mut piece, start);
        read.map_err(|e| StoreError::io("reading a blob back", e)).map(|()| piece)
    }

    /// SHA-256 of what is written so far.
    pub fn sha256(&self) -> [u8; 32] {
        self.summer.sha256()
    }

    /// The sums so far, without landing.
    pub fn into_sum(mut self) -> BlobSum {
        std::mem::take(&mut self.summer).finish()
    }
}

impl Drop for TempBlob {
    fn drop(&mut self) {
        if !self.landed
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "store.tmp.left: removed at the next start");
        }
    }
}

/// Removes every file of the directory `tmp`; says how many.
pub(super) fn clear(tmp: &Path) -> Result<u64, StoreError> {
    let operation = "clearing the temporary directory";
    let mut removed = 0;
    for entry in fs::read_dir(tmp).map_err(|e| StoreError::io(operation, e))? {
        let entry = entry.map_err(|e| StoreError::io(operation, e))?;
        fs::remove_file(entry.path()).map_err(|e| StoreError::io(operation, e))?;
        removed += 1;
    }
    Ok(removed)
}

/// Renames without ever replacing: a blob key is used once.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems do not know the flag; keys are random, so a plain rename is as good.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        result => Ok(result?),
    }
}

impl LocalReader {
    /// Length of the blob.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The block that holds byte `offset`, checked against its sum: `(where it starts, its bytes)`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the bytes are not those that were stored. They are never returned.
    pub fn block_at(&self, offset: u64) -> Result<(u64, Vec<u8>), StoreError> {
        let index = offset / BLOB_BLOCK_BYTES as u64;
        let start = index * BLOB_BLOCK_BYTES as u64;
        let len = (self.bytes.saturating_sub(start)).min(BLOB_BLOCK_BYTES as u64) as usize;
        let mut block = vec![0u8; len];
        self.file.read_exact_at(&mut block, start).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                StoreError::Damaged(self.key.to_string())
            } else {
                StoreError::io("reading a blob", error)
            }
        })?;
        if !is_block(&self.block_sums, start, &block) {
            return Err(StoreError::Damaged(self.key.to_string()));
        }
        Ok((start, block))
    }
}

#[cfg(test)]
mod tests {
    use filegate_types::UnixMillis;

    use super::*;

    fn store() -> (tempfile::TempDir, LocalBlobs) {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        (home, LocalBlobs::of(&dir))
    }

    fn key(n: u8) -> BlobKey {
        BlobKey::mint(UnixMillis(1_000), [n; 10])
    }

    fn keys(blobs: &LocalBlobs) -> Vec<BlobKey> {
        let mut all = vec![];
        blobs.each(|key, _| all.push(key)).unwrap();
        all
    }

    #[test]
    fn a_landed_blob_reads_back_and_an_abandoned_one_is_gone() {
        let (home, blobs) = store();
        let data: Vec<u8> = (0..600_000u32).map(|i| (i * 7) as u8).collect();
        let mut temp = blobs.create(key(1)).unwrap();
        for piece in data.chunks(100_003) {
            temp.write(piece).unwrap();
        }
        let sum = blobs.land(temp).unwrap();
        assert_eq!((sum.bytes, sum.block_sums.len()), (600_000, 12));
        assert_eq!(sum.sha256, <[u8; 32]>::from(Sha256::digest(&data)));
        assert_eq!(blobs.digest(&key(1), |_| Pace::Go).unwrap(), Some((600_000, sum.sha256)));

        let reader = blobs.open(&key(1), sum.bytes, sum.block_sums).unwrap();
        let (start, block) = reader.block_at(300_000).unwrap();
        assert_eq!((start, block.as_slice()), (262_144, &data[262_144..524_288]));
        assert_eq!(reader.block_at(599_999).unwrap().1, &data[524_288..]);

        let mut temp = blobs.create(key(2)).unwrap();
        temp.write(b"half").unwrap();
        drop(temp);
        assert_eq!(fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(keys(&blobs), [key(1)]);

        blobs.purge(&key(1)).unwrap();
        blobs.purge(&key(1)).unwrap();
        assert_eq!(blobs.digest(&key(1), |_| Pace::Go).unwrap(), None);
    }

    #[test]
    fn what_goes_past_the_cache_is_the_same() {
        let (_home, blobs) = store();
        // The last is refused by file systems that have such a way: it is no multiple of a block.
        for (round, buffer) in [64 << 10, 1000].into_iter().enumerate() {
            passes_the_cache(&blobs, (10 + round * 20) as u8, buffer);
        }
    }

    fn passes_the_cache(blobs: &LocalBlobs, first_key: u8, buffer: usize) {
        let data: Vec<u8> = (0..9 * buffer as u32).map(|i| (i * 7 + (i >> 10)) as u8).collect();
        for (n, (len, piece)) in [
            (0, 1),
            (5, 2),
            (4096, 4096),
            (buffer - 1, 100_003),
            (buffer, 100_003),
            (buffer + 1, buffer + 1),
            (2 * buffer + 4097, 65_536),
            (3 * buffer, 3 * buffer),
            (9 * buffer - 1, 1000),
        ]
        .into_iter()
        .enumerate()
        {
            let mut temp = blobs.create(key(first_key + n as u8)).unwrap();
            temp.write_past_cache(buffer);
            for piece in data[..len].chunks(piece) {
                temp.write(piece).unwrap();
            }
            let mut read = vec![];
            temp.reader().unwrap().read_to_end(&mut read).unwrap();
            assert!(read == data[..len], "{len} bytes in pieces of {piece}");
            let sum = blobs.land(temp).unwrap();
            assert_eq!(sum.sha256, <[u8; 32]>::from(Sha256::digest(&data[..len])));
            let digest = blobs.digest(&key(first_key + n as u8), |_| Pace::Go).unwrap();
            assert_eq!(digest, Some((len as u64, sum.sha256)));
        }
    }

    #[test]
    fn a_changed_byte_is_never_served() {
        let (_home, blobs) = store();
        let mut temp = blobs.create(key(3)).unwrap();
        temp.write(&vec![5u8; 300_000]).unwrap();
        let sum = blobs.land(temp).unwrap();
        let file = OpenOptions::new().write(true).open(blobs.path_of(&key(3))).unwrap();
        file.write_all_at(b"!", 299_999).unwrap();
        let reader = blobs.open(&key(3), sum.bytes, sum.block_sums.clone()).unwrap();
        assert!(reader.block_at(0).is_ok());
        assert!(matches!(reader.block_at(262_144), Err(StoreError::Damaged(_))));
        file.set_len(10).unwrap();
        assert!(matches!(
            blobs.open(&key(3), sum.bytes, sum.block_sums),
            Err(StoreError::Damaged(_))
        ));
    }

    #[test]
    fn a_key_is_never_used_twice() {
        let (_home, blobs) = store();
        let mut first = blobs.create(key(4)).unwrap();
        first.write(b"first").unwrap();
        blobs.land(first).unwrap();
        let mut second = blobs.create(key(4)).unwrap();
        second.write(b"second").unwrap();
        assert!(blobs.land(second).is_err());
        assert_eq!(fs::read(blobs.path_of(&key(4))).unwrap(), b"first");
    }

    #[test]
    fn an_empty_blob_has_no_blocks() {
        let (_home, blobs) = store();
        let sum = blobs.land(blobs.create(key(5)).unwrap()).unwrap();
        assert_eq!((sum.bytes, sum.block_sums.len()), (0, 0));
        blobs.open(&key(5), 0, vec![]).unwrap();
    }
}
