//! Where a file's bytes are while it is received: in memory while small, then in `tmp/`.
//!
//! A large file goes to disk in pieces, each with one hop to a thread that may block, as the buffers in which it came
//! from the socket: nothing is copied. While one piece is written and summed the next is received. How large pieces are
//! depends on how many large uploads there are ([`Pieces`]), so that all of them together have a bound.
//!
//! More than [`CROWD`] of them are a crowd, in which memory counts for more than the time of one: connections read less at
//! once, what they read is copied into the one piece that an upload has, in memory that it uses again for the next, and it
//! receives nothing while that is written. There are others meanwhile.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use filegate_store::blobs::Summer;
use filegate_store::{BlobSum, Blobs, SmallBlob, StoreError, TempBlob};
use filegate_types::{ApiError, BlobKey, ErrorCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::UploadGuard;
use crate::app::App;
use crate::http::reply::store_failed;

/// A file up to this size stays in memory until it lands.
pub(super) const SMALL_BYTES: usize = 256 << 10;
/// What all large uploads have in memory together, as long as there are not more of them than [`PIECE_BYTES_MIN`] allows.
const PIECES_BYTES: usize = 15 << 20;
/// The smallest piece: two reads of a connection in a crowd.
const PIECE_BYTES_MIN: usize = 2 * READ_BYTES_CROWD;
/// The largest piece. Larger ones do not stay in the processor's cache on their way.
const PIECE_BYTES_MAX: usize = 2 << 20;
/// The smallest that is summed on another thread than it is written on.
const BESIDE_BYTES_MIN: usize = 512 << 10;

/// What is kept as it came: half of what a connection reads at once, so that at most as much again is kept with it.
const KEPT_BYTES_MIN: usize = 32 << 10;

/// More large uploads than these are a crowd.
const CROWD: usize = 32;
/// What a connection reads at once in a crowd. A little less than a power of two: of one that a read fills hyper makes the next.
const READ_BYTES_CROWD: usize = 15 << 10;
/// Pieces that are written at once: enough for the disk, and few threads.
const WRITERS: usize = 16;
/// The disk is told to begin when there is so much for it to write.
const WRITE_BACK_BYTES: u64 = 256 << 10;

/// From this length on a file goes past the page cache, with two buffers more, ...
const DIRECT_BYTES_MIN: u64 = 8 << 20;
/// ... each of so many bytes: the more the disk is given at once the faster it is, ...
const BUFFER_BYTES: usize = 512 << 10;
/// ... which matters to one that is alone; where there are several it has enough to do.
const BUFFER_BYTES_ALONE: usize = 4 << 20;
/// What all such buffers have of [`PIECES_BYTES`], at most.
const BUFFERS_BYTES: usize = 11 << 20;

/// How much memory is given to large uploads.
#[derive(Debug, Clone)]
pub(crate) struct Pieces {
    uploads: Arc<AtomicUsize>,
    /// Bytes of buffers on the way past the page cache.
    buffers: Arc<AtomicUsize>,
    writers: Arc<Semaphore>,
}

/// One large upload, for as long as it is received.
#[derive(Debug)]
struct Share(Pieces);

/// Two buffers of so many bytes.
#[derive(Debug)]
struct Buffers(Pieces, usize);

impl Default for Pieces {
    fn default() -> Self {
        let writers = Arc::new(Semaphore::new(WRITERS));
        Self { uploads: Arc::default(), buffers: Arc::default(), writers }
    }
}

impl Pieces {
    /// What a connection reads at once, at most; `None` for as much as it has room for.
    pub(crate) fn read_bytes_max(&self) -> Option<u64> {
        self.are_a_crowd().then_some(READ_BYTES_CROWD as u64)
    }

    fn are_a_crowd(&self) -> bool {
        self.uploads.load(Ordering::Relaxed) > CROWD
    }

    fn enter(&self) -> Share {
        self.uploads.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }

    /// What a file of `length` bytes needs to go past the page cache, if it is long enough and there is room.
    fn past_cache(&self, length: u64) -> Option<Buffers> {
        let held = self.buffers.load(Ordering::Relaxed);
        let alone = held == 0 && self.uploads.load(Ordering::Relaxed) <= 1;
        let bytes = if alone { BUFFER_BYTES_ALONE } else { BUFFER_BYTES };
        if length < DIRECT_BYTES_MIN || held + 2 * bytes > BUFFERS_BYTES || self.are_a_crowd() {
            return None;
        }
        self.buffers.fetch_add(2 * bytes, Ordering::Relaxed);
        Some(Buffers(self.clone(), bytes))
    }
}

impl Share {
    /// Bytes of the next piece, of which an upload has two: one comes while the other goes. In a crowd it has one.
    fn piece_bytes(&self) -> usize {
        let Pieces { uploads, buffers, .. } = &self.0;
        let left = PIECES_BYTES.saturating_sub(buffers.load(Ordering::Relaxed));
        let uploads = uploads.load(Ordering::Relaxed).max(1);
        (left / 2 / uploads).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.0.buffers.fetch_sub(2 * self.1, Ordering::Relaxed);
    }
}

/// A file being received, then received.
#[derive(Default)]
pub(crate) struct Spool {
    /// A small file, or the beginning of one that turns out to be large.
    small: SmallBlob,
    /// What of a large file was received and not yet handed to a writer.
    piece: Vec<Bytes>,
    /// The end of the piece, put together of small parts.
    parts: BytesMut,
    /// Bytes of both.
    piece_bytes: usize,
    bytes: u64,
    /// Bytes that the disk was told to write.
    written_back: u64,
    /// Bytes of the body, if it says so.
    length: u64,
    /// While a large file is received.
    share: Option<Share>,
    /// While it goes past the page cache.
    past_cache: Option<Buffers>,
    disk: Disk,
}

#[derive(Default)]
enum Disk {
    /// Nothing is there yet.
    #[default]
    Unused,
    /// A piece is being written.
    Writing(Writing),
    /// All pieces so far are written.
    Settled(Box<TempBlob>),
    /// All of it is in the store.
    Landed(Box<BlobSum>),
    /// A write failed; the upload is over.
    Failed,
}

/// A piece on its way, and summed beside it.
struct Writing {
    writer: JoinHandle<Result<TempBlob, StoreError>>,
    /// None for a small piece, which its writer sums: a second thread would be dearer than the wait.
    summer: Option<JoinHandle<Summer>>,
}

impl Spool {
    /// For a file of a body of `length` bytes, if that is known. It may be anything, and is not believed: it says only
    /// what is to be made ready.
    pub(super) fn expecting(length: Option<u64>) -> Self {
        let length = length.unwrap_or(0);
        let small = match usize::try_from(length) {
            Ok(length) if length <= SMALL_BYTES => SmallBlob::with_capacity(length),
            _ => SmallBlob::default(),
        };
        Self { small, length, ..Self::default() }
    }

    /// Bytes received.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more of the file; `large` if it is known to be. What takes it calls [`pass_on`](Self::pass_on) when it has let
    /// go of `bytes`.
    pub(super) fn push(&mut self, app: &App, bytes: Bytes, large: bool) {
        self.bytes += bytes.len() as u64;
        if self.share.is_none() {
            if !large && self.small.len() + bytes.len() <= SMALL_BYTES {
                self.small.extend(&bytes);
                return;
            }
            self.share = Some(app.pieces.enter());
            let small = std::mem::take(&mut self.small).into_bytes();
            self.take(small);
        }
        self.take(bytes);
    }

    /// Adds to the piece. What came in small parts is put together: each would else keep a whole buffer of the
    /// connection's.
    fn take(&mut self, bytes: Bytes) {
        self.piece_bytes += bytes.len();
        if bytes.len() >= KEPT_BYTES_MIN {
            self.put_together();
            self.piece.push(bytes);
            return;
        }
        self.parts.extend_from_slice(&bytes);
        if self.parts.len() >= KEPT_BYTES_MIN && !self.is_in_crowd() {
            self.put_together();
        }
    }

    /// In a crowd the memory of the last piece is used again, which nobody has any more.
    fn put_together(&mut self) {
        if !self.parts.is_empty() {
            self.piece.push(self.parts.split().freeze());
        }
    }

    fn is_in_crowd(&self) -> bool {
        self.share.as_ref().is_some_and(|share| share.0.are_a_crowd())
    }

    /// Hands what was received to a writer, if it is enough for a piece.
    pub(super) async fn pass_on(
        &mut self,
        app: &Arc<App>,
        guard: &mut UploadGuard,
    ) -> Result<(), ApiError> {
        let Some(share) = &self.share else { return Ok(()) };
        let enough = share.piece_bytes();
        // The first goes soon: a large upload is not to be all in memory.
        let enough =
            if matches!(self.disk, Disk::Unused) { enough.min(SMALL_BYTES) } else { enough };
        if self.piece_bytes < enough {
            return Ok(());
        }
        self.spill(app, guard).await?;
        if self.is_in_crowd()
            && let Some(temp) = self.settled().await?
        {
            self.disk = Disk::Settled(Box::new(temp));
        }
        Ok(())
    }

    /// Hands the piece to a writer and to who sums it.
    async fn spill(&mut self, app: &Arc<App>, guard: &mut UploadGuard) -> Result<(), ApiError> {
        let mut temp = self.settled().await?;
        let turn = Arc::clone(&app.pieces.writers).acquire_owned().await;
        let turn = turn.map_err(|_closed| ErrorCode::Internal)?;
        self.put_together();
        let (piece, bytes) = (std::mem::take(&mut self.piece), self.piece_bytes);
        self.piece_bytes = 0;
        let key = guard.begin().await?;
        let blobs = app.blobs.clone();
        if temp.is_none() && blobs.as_local().is_some() {
            self.past_cache = app.pieces.past_cache(self.length);
        }
        let buffer_bytes = self.past_cache.as_ref().map(|buffers| buffers.1);
        let given_back = if self.is_in_crowd() { self.past_cache.take() } else { None };
        let due = self.bytes - self.written_back >= WRITE_BACK_BYTES;
        let write_back = due.then(|| std::mem::replace(&mut self.written_back, self.bytes));
        let beside = bytes >= BESIDE_BYTES_MIN;
        let summer = beside.then(|| {
            let mut summer = temp.as_mut().map(TempBlob::lend_summer).unwrap_or_default();
            let parts = piece.clone();
            app.tasks.blocking(move || {
                for part in parts {
                    summer.update(&part);
                }
                summer
            })
        });
        let writer = app.tasks.blocking(move || {
            let _turn: OwnedSemaphorePermit = turn;
            let mut temp = if let Some(temp) = temp {
                temp
            } else {
                let mut temp = blobs.create(key)?;
                if let Some(buffer_bytes) = buffer_bytes {
                    temp.write_past_cache(buffer_bytes);
                }
                temp
            };
            if let Some(buffers) = given_back {
                temp.write_as_usual()?;
                drop(buffers);
            }
            // Each part goes as soon as it is written.
            piece.into_iter().try_for_each(|part| {
                if beside { temp.write_unsummed(&part) } else { temp.write(&part) }
            })?;
            if let Some(start) = write_back {
                temp.write_back(start);
            }
            Ok(temp)
        });
        self.disk = Disk::Writing(Writing { writer, summer });
        Ok(())
    }

    /// Waits for the writer; gives the file, if there is one.
    async fn settled(&mut self) -> Result<Option<TempBlob>, ApiError> {
        match std::mem::replace(&mut self.disk, Disk::Failed) {
            Disk::Unused => Ok(None),
            Disk::Settled(temp) => Ok(Some(*temp)),
            Disk::Writing(Writing { writer, summer }) => {
                let written = writer.await.map_err(|_panic| ErrorCode::Unknown)?;
                let mut temp = written.map_err(|error| store_failed(&error))?;
                if let Some(summer) = summer {
                    temp.return_summer(summer.await.map_err(|_panic| ErrorCode::Unknown)?);
                }
                Ok(Some(temp))
            }
            Disk::Landed(_) | Disk::Failed => Err(ErrorCode::Internal.into()),
        }
    }

    /// All of it was received: waits until nothing is being written. The last piece may still be in memory.
    pub(super) async fn settle(&mut self) -> Result<(), ApiError> {
        self.share = None;
        self.past_cache = None;
        self.put_together();
        self.parts = BytesMut::new();
        self.disk = if let Some(temp) = self.settled().await? {
            Disk::Settled(Box::new(temp))
        } else {
            // It was to be large, and is not.
            self.piece.drain(..).for_each(|part| self.small.extend(&part));
            Disk::Unused
        };
        Ok(())
    }

    /// Whether all of it is in memory and none of it on disk. Only after [`settle`](Self::settle).
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.disk, Disk::Unused)
    }

    /// What is in memory.
    pub(super) fn into_small(self) -> SmallBlob {
        self.small
    }

    /// Writes what is still in memory behind what is on disk. Blocks.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        if let Disk::Settled(temp) = &mut self.disk {
            for part in std::mem::take(&mut self.piece) {
                temp.write(&part)?;
            }
            temp.finish_writing()?;
        }
        Ok(())
    }

    /// The whole file, from its start. Blocks. Only after [`flush`](Self::flush) and before it lands.
    pub(crate) fn source(&mut self) -> Result<Source<'_>, StoreError> {
        match &mut self.disk {
            Disk::Settled(temp) => Ok(Source::File(temp.reader()?)),
            Disk::Landed(_) => Err(StoreError::Closed),
            _ => Ok(Source::Memory(Cursor::new(&*self.small))),
        }
    }

    /// The SHA-256 of the whole file. Blocks. Only after [`settle`](Self::settle).
    pub(super) fn digest(&mut self) -> Result<[u8; 32], StoreError> {
        self.flush()?;
        Ok(self.sha256())
    }

    /// SHA-256 of the whole. Only after [`flush`](Self::flush).
    pub(crate) fn sha256(&self) -> [u8; 32] {
        match &self.disk {
            Disk::Settled(temp) => temp.sha256(),
            Disk::Landed(sum) => sum.sha256,
            _ => Sha256::digest(&*self.small).into(),
        }
    }

    /// The same file, in `tmp/` under `key` even if it is small. Blocks. Only after
    /// [`flush`](Self::flush).
    pub(crate) fn on_disk(mut self, blobs: &Blobs, key: BlobKey) -> Result<Self, StoreError> {
        if matches!(self.disk, Disk::Unused) {
            let mut temp = blobs.create(key)?;
            temp.write(&self.small)?;
            self.small = SmallBlob::default();
            self.disk = Disk::Settled(Box::new(temp));
        }
        Ok(self)
    }

    /// Makes the file durable under `key`, once. Only after [`flush`](Self::flush).
    pub(super) async fn land(self, blobs: &Blobs, key: BlobKey) -> Result<Self, StoreError> {
        let Self { small, bytes, disk, .. } = self;
        let sum = match disk {
            Disk::Landed(sum) => *sum,
            Disk::Settled(temp) => blobs.land(*temp).await?,
            _ => blobs.land_whole(key, small).await?,
        };
        Ok(Self { bytes, disk: Disk::Landed(Box::new(sum)), ..Self::default() })
    }

    /// Whether it is in the store.
    pub(super) fn has_landed(&self) -> bool {
        matches!(self.disk, Disk::Landed(_))
    }

    /// The sums; what has not landed is not kept.
    pub(super) fn into_sum(self) -> BlobSum {
        match self.disk {
            Disk::Landed(sum) => *sum,
            Disk::Settled(temp) => temp.into_sum(),
            _ => self.small.sum(),
        }
    }
}

/// A received file, to be read.
pub(crate) enum Source<'a> {
    Memory(Cursor<&'a [u8]>),
    File(&'a mut std::fs::File),
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(cursor) => cursor.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

impl Seek for Source<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Memory(cursor) => cursor.seek(position),
            Self::File(file) => file.seek(position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_large_uploads_there_are_the_smaller_are_their_pieces() {
        let pieces = Pieces::default();
        let first = pieces.enter();
        assert_eq!(first.piece_bytes(), PIECE_BYTES_MAX);
        let mut others: Vec<_> = (1..256).map(|_| pieces.enter()).collect();
        assert_eq!(first.piece_bytes() * 256 * 2, PIECES_BYTES);
        others.extend((256..1024).map(|_| pieces.enter()));
        assert_eq!(first.piece_bytes(), PIECE_BYTES_MIN);
        drop(others);
        assert_eq!(first.piece_bytes(), PIECE_BYTES_MAX);
    }

    #[test]
    fn what_goes_past_the_cache_has_its_memory_of_the_same() {
        let pieces = Pieces::default();
        assert!(pieces.past_cache(DIRECT_BYTES_MIN - 1).is_none());
        let first = pieces.past_cache(DIRECT_BYTES_MIN).unwrap();
        assert_eq!(first.1, BUFFER_BYTES_ALONE);
        let mut all: Vec<_> = std::iter::from_fn(|| pieces.past_cache(u64::MAX)).collect();
        assert!(all.len() == 3 && all.iter().all(|other| other.1 == BUFFER_BYTES));
        let mut shares: Vec<_> = (0..CROWD).map(|_| pieces.enter()).collect();
        let held = pieces.buffers.load(Ordering::Relaxed);
        assert_eq!(held + CROWD * 2 * shares[0].piece_bytes(), PIECES_BYTES);
        all.pop();
        assert!(pieces.past_cache(u64::MAX).is_some());
        // A crowd has none, and reads less at once.
        assert_eq!(pieces.read_bytes_max(), None);
        shares.push(pieces.enter());
        assert!(pieces.past_cache(u64::MAX).is_none());
        assert_eq!(pieces.read_bytes_max(), Some(READ_BYTES_CROWD as u64));
        drop((first, all));
        assert_eq!(pieces.buffers.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_comes_in_small_parts_is_put_together() {
        let mut spool = Spool::default();
        let large = Bytes::from(vec![1; KEPT_BYTES_MIN]);
        let mut expected = Vec::new();
        for part in
            [Bytes::from_static(b"a"), Bytes::from_static(b"b"), large, Bytes::from_static(b"c")]
        {
            expected.extend_from_slice(&part);
            spool.take(part);
        }
        assert_eq!(spool.piece_bytes, expected.len());
        spool.put_together();
        assert_eq!(spool.piece.iter().map(Bytes::len).collect::<Vec<_>>(), [2, KEPT_BYTES_MIN, 1]);
        assert_eq!(spool.piece.concat(), expected);
    }
}
