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
//! Blobs that were received whole share files: see [`packs`](super::packs).
//!
//! A failed fsync is never tried again: the kernel may have dropped the pages, so the upload fails and its file is
//! removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filegate_types::{BlobKey, BlobPlace};
use rustix::fs::{Advice, CWD, OFlags, RenameFlags, fadvise, renameat_with};
use sha2::{Digest, Sha256};

use super::cache::read_in_memory;
use super::memory::ALIGN;
use super::packs::{Found, Located, Packs};
use super::small::SmallBlob;
use super::sum::{BLOB_BLOCK_BYTES, BlobSum, Summer, is_block};
use super::{Pace, paced};
use crate::datadir::{DataDir, sync_dir};
use crate::error::StoreError;

/// Blobs in the data directory.
#[derive(Debug, Clone)]
pub struct LocalBlobs {
    tmp: PathBuf,
    blobs: PathBuf,
    packs: Arc<Packs>,
}

/// A blob being received: a file in `tmp/` that is removed when this is dropped before it lands.
#[derive(Debug)]
pub struct TempBlob {
    key: BlobKey,
    file: File,
    path: PathBuf,
    /// Bytes written.
    bytes: u64,
    summer: Summer,
    /// The same file, while it is written past the cache.
    direct: Option<File>,
    landed: bool,
}

/// A landed blob, open for reading.
#[derive(Debug)]
pub struct LocalReader {
    key: BlobKey,
    file: Arc<File>,
    /// Where in the file it begins.
    start: u64,
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
        let packs = Arc::new(Packs::of(dir.path().join("packs")));
        Self { tmp: dir.path().join("tmp"), blobs: dir.path().join("blobs"), packs }
    }

    /// Removes what a crash left in `tmp/`; says how many there were. Only the holder of the directory's lock may.
    pub fn clear_tmp(&self) -> Result<u64, StoreError> {
        clear(&self.tmp)
    }

    /// The blobs of packs that were open when a server ended, for its next start to [purge](Self::purge) those that no row
    /// owns, and to say then that [that is done](Self::open_packs).
    pub fn left_in_packs(&self) -> Result<Vec<BlobKey>, StoreError> {
        let left = self.packs.left_open().and_then(|packs| {
            packs.into_iter().map(|pack| self.packs.blobs_of(pack)).collect::<io::Result<Vec<_>>>()
        });
        let left = left.map_err(|e| StoreError::io("looking at packs", e))?;
        Ok(left.into_iter().flatten().map(|(key, _)| key).collect())
    }

    /// From now on small blobs are appended to packs, if the file system has all that it takes. Only the holder of the
    /// directory's lock may, once. `through` is where the [catalog has come to](crate::Catalog::packed_through).
    pub fn open_packs(&self, through: Option<BlobPlace>) -> Result<(), StoreError> {
        let left = self.packs.left_open().map_err(|e| StoreError::io("looking at packs", e))?;
        left.into_iter().try_for_each(|pack| self.packs.complete(pack))?;
        self.packs.open(through)
    }

    /// Nothing is appended any more, and each blob has a row or was purged: the next start then has nothing to look at.
    pub fn close_packs(&self) {
        self.packs.close();
    }

    /// Whether there are packs to append to.
    pub fn has_packs(&self) -> bool {
        self.packs.is_open()
    }

    /// Has `blob` made durable, under a key that begins as `key` does, with `entry`, from which a start commits its row if
    /// the catalog has [not come so far](crate::replay()). `landed` is told the key, or what went wrong, by who
    /// appends it. True if that is for the caller to see to: somebody has to call [`append_queued`](Self::append_queued).
    ///
    /// A blob that no row owns in the end is to be [purged](Self::purge); the next start does that if there is one soon.
    #[must_use]
    pub fn queue(
        &self,
        key: BlobKey,
        blob: SmallBlob,
        entry: Vec<u8>,
        landed: impl FnOnce(Result<BlobKey, StoreError>) + Send + 'static,
    ) -> bool {
        self.packs.queue(key, blob, entry, Box::new(landed))
    }

    /// Appends of what is queued what goes into one write, and tells those that it is of. True if there is more: then
    /// somebody has to call this again. Blocks.
    #[must_use]
    pub fn append_queued(&self) -> bool {
        self.packs.append_queued()
    }

    /// Starts a blob.
    pub fn create(&self, key: BlobKey) -> Result<TempBlob, StoreError> {
        TempBlob::create(&self.tmp, key)
    }

    /// Makes a blob durable under its key (steps 3 to 5 of the module's table).
    pub fn land(&self, mut temp: TempBlob) -> Result<BlobSum, StoreError> {
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
        let opening = |e| StoreError::io("opening a blob", e);
        let found = match self.packs.find_to_read(key).map_err(opening)? {
            Some(found) => Some(found),
            None => self.find_alone(key).map_err(opening)?,
        };
        let opened = found.and_then(|found| LocalReader::of(key, found, bytes, block_sums));
        opened.ok_or_else(|| StoreError::Damaged(key.to_string()))
    }

    /// As [`open`](Self::open), without blocking; `None` if that cannot be, or it is not there.
    pub(super) fn open_in_memory(
        &self,
        key: &BlobKey,
        bytes: u64,
        block_sums: &[u8],
    ) -> Option<LocalReader> {
        let found = self.packs.find_in_memory(key)?;
        LocalReader::of(key, found, bytes, block_sums.to_vec())
    }

    /// Where the bytes of a landed blob are, by what is in the directory now.
    fn find(&self, key: &BlobKey) -> io::Result<Option<Located>> {
        match self.packs.find(key, false)? {
            Some(Found { file, start, bytes, .. }) => {
                Ok(Some(Located { file: Arc::new(file), start, bytes }))
            }
            None => self.find_alone(key),
        }
    }

    /// Where they are if it has a file of its own, as may one with the key of a pack that came from another directory.
    fn find_alone(&self, key: &BlobKey) -> io::Result<Option<Located>> {
        match File::open(self.path_of(key)) {
            Ok(file) => {
                let bytes = file.metadata()?.len();
                Ok(Some(Located { file: Arc::new(file), start: 0, bytes }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob; its absence is success.
    pub fn purge(&self, key: &BlobKey) -> Result<(), StoreError> {
        let freed =
            self.packs.free(key).and_then(|freed| match fs::remove_file(self.path_of(key)) {
                Err(error) if !freed && error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            });
        freed.map_err(|e| StoreError::io("purging a blob", e))
    }

    /// Removes a blob from its pack, durably: one whose row could not be committed, so that no start does that either.
    pub fn revoke(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.packs.revoke(key).map_err(|e| StoreError::io("revoking a blob", e))
    }

    /// The entries that come after `place` in its pack, in their order.
    pub(crate) fn entries_after(
        &self,
        place: BlobPlace,
    ) -> Result<Vec<(BlobKey, Vec<u8>)>, StoreError> {
        self.packs.entries_after(place).map_err(|e| StoreError::io("looking at a pack", e))
    }

    /// Reads a whole blob and says its length and SHA-256; `None` if it is absent. `pace` is told of
    /// every piece read, and says how to go on.
    pub fn digest(
        &self,
        key: &BlobKey,
        mut pace: impl FnMut(usize) -> Pace,
    ) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        let operation = "verifying a blob";
        let found = self.find(key).map_err(|e| StoreError::io(operation, e))?;
        let Some(Located { file, start, bytes: whole }) = found else { return Ok(None) };
        let (mut sha, mut bytes) = (Sha256::new(), 0u64);
        let mut buffer = vec![0u8; BLOB_BLOCK_BYTES];
        loop {
            let left = (whole - bytes).min(BLOB_BLOCK_BYTES as u64) as usize;
            let read = file.read_at(&mut buffer[..left], start + bytes);
            let n = read.map_err(|e| StoreError::io(operation, e))?;
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
        let found = self.find(key).map_err(|e| StoreError::io("looking at a blob", e))?;
        Ok(found.map(|found| found.bytes))
    }

    /// The numbers of all packs.
    pub(super) fn packs(&self) -> Result<Vec<u32>, StoreError> {
        self.packs.all().map_err(|e| StoreError::io("listing packs", e))
    }

    /// The blobs of a pack.
    pub(super) fn blobs_of_pack(&self, pack: u32) -> Result<Vec<(BlobKey, u64)>, StoreError> {
        self.packs.blobs_of(pack).map_err(|e| StoreError::io("listing blobs", e))
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

    /// Every landed blob, shard by shard, then pack by pack.
    pub fn each(&self, mut visit: impl FnMut(BlobKey, u64)) -> Result<(), StoreError> {
        for shard in 0..=255u8 {
            self.shard_of(shard)?.into_iter().for_each(|(key, bytes)| visit(key, bytes));
        }
        for pack in self.packs()? {
            self.blobs_of_pack(pack)?.into_iter().for_each(|(key, bytes)| visit(key, bytes));
        }
        Ok(())
    }

    /// Has the blob in `other` as well, as a link where that can be and as a copy elsewhere. Whether it is
    /// durable there is for [`sync_shards`](Self::sync_shards).
    pub(crate) fn transfer(&self, key: &BlobKey, other: &Self) -> Result<Transfer, StoreError> {
        let operation = "copying a blob";
        let (from, to) = (self.path_of(key), other.path_of(key));
        if let Some(Found { file, start, bytes, .. }) =
            self.packs.find(key, false).map_err(|e| StoreError::io(operation, e))?
        {
            // Packs are not for ever as they are: what is deleted is taken out of them.
            let mut source = file;
            let copied =
                source.seek(SeekFrom::Start(start)).and_then(|_| copy(source.take(bytes), &to));
            return copied.map_err(|e| StoreError::io(operation, e));
        }
        match fs::hard_link(&from, &to) {
            Ok(()) => return Ok(Transfer::Linked),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Transfer::Absent),
            // Another file system, or one without links.
            Err(_) => {}
        }
        match File::open(&from) {
            Ok(source) => copy(source, &to).map_err(|e| StoreError::io(operation, e)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Transfer::Absent),
            Err(error) => Err(StoreError::io(operation, error)),
        }
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

/// Makes a durable file of `source`.
fn copy(mut source: impl Read, to: &Path) -> io::Result<Transfer> {
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.sync_all()?;
    Ok(Transfer::Copied)
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
        let summer = Summer::default();
        Ok(Self { key, file, path, bytes: 0, summer, direct: None, landed: false })
    }

    /// From now on whole blocks go past the page cache, if they are where the disk takes them from (a
    /// [`Piece`](super::Piece) is) and the file system has such a way.
    ///
    /// A buffered write copies a body into pages that are to be written at once and read by nobody: for gigabytes that is a
    /// third of the processor's work, and the sync at the end waits for what is left. The end of the file, which is no whole
    /// block, is written as usual.
    pub fn write_past_cache(&mut self) {
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        self.direct = OpenOptions::new().write(true).custom_flags(flags).open(&self.path).ok();
    }

    /// From now on everything is written through the page cache.
    pub fn write_as_usual(&mut self) {
        self.direct = None;
    }

    /// The key it will land under.
    pub fn key(&self) -> &BlobKey {
        &self.key
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends `piece` without summing it: somebody else does, who has [`lent_summer`](Self::lend_summer).
    pub fn write_unsummed(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let writing = |e| StoreError::io("writing a blob", e);
        let mut usual = piece;
        if let Some(direct) = &self.direct
            && self.bytes.is_multiple_of(ALIGN as u64)
            && piece.as_ptr().align_offset(ALIGN) == 0
        {
            let (blocks, rest) = piece.split_at(piece.len() - piece.len() % ALIGN);
            match direct.write_all_at(blocks, self.bytes) {
                Ok(()) => usual = rest,
                // The file system takes the flag, and then nothing that comes with it.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.direct = None,
                Err(error) => return Err(writing(error)),
            }
        }
        let at = self.bytes + (piece.len() - usual.len()) as u64;
        self.file.write_all_at(usual, at).map_err(writing)?;
        self.bytes += piece.len() as u64;
        Ok(())
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
    /// What reads the blob that was found, if it is as its row says.
    fn of(key: &BlobKey, found: Located, bytes: u64, block_sums: Vec<u8>) -> Option<Self> {
        let Located { file, start, bytes: there } = found;
        let blocks = bytes.div_ceil(BLOB_BLOCK_BYTES as u64);
        (there == bytes && block_sums.len() as u64 == blocks * 4).then(|| Self {
            key: key.clone(),
            file,
            start,
            bytes,
            block_sums,
        })
    }

    /// Length of the blob.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The block that holds byte `offset`, checked against its sum: `(where it starts, its bytes)`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the bytes are not those that were stored. They are never returned.
    pub fn block_at(&self, offset: u64) -> Result<(u64, Vec<u8>), StoreError> {
        let (start, mut block) = self.room_for(offset);
        self.file.read_exact_at(&mut block, self.start + start).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                StoreError::Damaged(self.key.to_string())
            } else {
                StoreError::io("reading a blob", error)
            }
        })?;
        self.checked(start, block)
    }

    /// As [`block_at`](Self::block_at), without blocking; `None` if it is not in memory.
    pub(super) fn block_in_memory(
        &self,
        offset: u64,
    ) -> Option<Result<(u64, Vec<u8>), StoreError>> {
        let (start, mut block) = self.room_for(offset);
        read_in_memory(&self.file, &mut block, self.start + start)
            .then(|| self.checked(start, block))
    }

    /// Where the block begins that holds byte `offset`, and room for it.
    fn room_for(&self, offset: u64) -> (u64, Vec<u8>) {
        let start = offset - offset % BLOB_BLOCK_BYTES as u64;
        let len = self.bytes.saturating_sub(start).min(BLOB_BLOCK_BYTES as u64);
        (start, vec![0; len as usize])
    }

    fn checked(&self, start: u64, block: Vec<u8>) -> Result<(u64, Vec<u8>), StoreError> {
        if !is_block(&self.block_sums, start, &block) {
            return Err(StoreError::Damaged(self.key.to_string()));
        }
        Ok((start, block))
    }
}

#[cfg(test)]
mod tests {
    use filegate_types::UnixMillis;

    use super::super::Memory;
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
        let data: Vec<u8> = (0..600_000u32).map(|i| (i * 7 + (i >> 10)) as u8).collect();
        // Of each first the pieces that go past it, if the file system has such a way, and then one that does not.
        for (n, (pieces, usual)) in [
            (&[][..], 0),
            (&[5], 0),
            (&[4096], 0),
            (&[4096], 1),
            (&[65_536, 65_536, 4095], 100_003),
            (&[65_536, 65_537, 65_536], 0),
            (&[131_072, 8192, 100], 4096),
        ]
        .into_iter()
        .enumerate()
        {
            let key = key(10 + n as u8);
            let mut temp = blobs.create(key.clone()).unwrap();
            temp.write_past_cache();
            let mut rest = data.as_slice();
            for bytes in pieces {
                let mut piece = Memory::default().piece(*bytes);
                rest = piece.take(rest, *bytes);
                temp.write(&piece).unwrap();
            }
            // It is where no disk takes it from.
            temp.write(&rest[1..8]).unwrap();
            temp.write_as_usual();
            temp.write(&rest[8..8 + usual]).unwrap();
            let all: usize = pieces.iter().sum();
            let written = [&data[..all], &rest[1..8 + usual]].concat();
            let mut read = vec![];
            temp.reader().unwrap().read_to_end(&mut read).unwrap();
            assert!(read == written, "pieces of {pieces:?}, then {usual}");
            let sum = blobs.land(temp).unwrap();
            assert_eq!(sum.sha256, <[u8; 32]>::from(Sha256::digest(&written)));
            let digest = blobs.digest(&key, |_| Pace::Go).unwrap();
            assert_eq!(digest, Some((written.len() as u64, sum.sha256)));
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
