//! Where a file's bytes are while it is received: in memory while small, then in `tmp/`.
//!
//! A large file goes to disk in pieces, each with one hop to a thread that may block. What comes from the socket is copied
//! into a piece, so that the connection reads into the same memory again and again, which stays in the processor's cache;
//! from the piece it goes to the disk as it is, past the page cache if the file is long. An upload has several: one is filled
//! while others are written and summed, each of which goes on at its own pace ([`Strand`]). How many and how large they are
//! depends on how many large uploads there are ([`Pieces`]), so that all of them together have a bound.
//!
//! More than [`CROWD`] of them are a crowd, in which memory counts for more than the time of one: connections read less at
//! once, and an upload has one piece, so it takes nothing while that is written. There are others meanwhile.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use filegate_store::blobs::Summer;
use filegate_store::{BlobSum, Blobs, Memory, Piece, SmallBlob, StoreError, TempBlob};
use filegate_types::{ApiError, BlobKey, ErrorCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::UploadGuard;
use super::strand::Strand;
use super::sums::{Summed, Sums};
use crate::app::App;
use crate::http::reply::store_failed;

/// A file up to this size stays in memory until it lands.
pub(super) const SMALL_BYTES: usize = 256 << 10;
/// What all large uploads have in memory together, as long as there are not more of them than [`PIECE_BYTES_MIN`] allows.
const PIECES_BYTES: usize = 15 << 20;
/// The smallest piece: about two reads of a connection in a crowd.
const PIECE_BYTES_MIN: usize = 28 << 10;
/// Pieces of an upload that is alone: so many that receiving, summing and writing seldom wait for one another.
const PIECES_ALONE: usize = 8;
/// Pieces of an upload beside others: one is filled while the other is written.
const PIECES_BESIDE_OTHERS: usize = 2;
/// Up to so many uploads pieces have the same size and an upload has fewer of them the more there are; then they get smaller.
/// Larger ones are not faster, and do not stay in the processor's cache on their way.
const UPLOADS_WITH_LARGEST: usize = 8;
/// The smallest that is summed on another thread than it is written on.
const BESIDE_BYTES_MIN: usize = 512 << 10;

/// From this length on a file goes past the page cache, ...
const DIRECT_BYTES_MIN: u64 = 8 << 20;
/// ... as long as its pieces have so many bytes: the more the disk is given at once the faster it is.
const DIRECT_PIECE_BYTES_MIN: usize = 256 << 10;

/// More large uploads than these are a crowd.
const CROWD: usize = 32;
/// What a connection reads at once in a crowd. A little less than a power of two: of one that a read fills hyper makes the next.
const READ_BYTES_CROWD: usize = 15 << 10;
/// Pieces that are written at once: enough for the disk, and few threads.
const WRITERS: usize = 16;
/// The disk is told to begin when there is so much for it to write.
const WRITE_BACK_BYTES: u64 = 256 << 10;

/// How much memory is given to large uploads.
#[derive(Debug, Clone)]
pub(crate) struct Pieces {
    memory: Memory,
    uploads: Arc<AtomicUsize>,
    writers: Arc<Semaphore>,
    sums: Sums<Lent>,
}

/// One large upload, for as long as it is received.
#[derive(Debug)]
struct Share(Pieces);

impl Default for Pieces {
    fn default() -> Self {
        let writers = Arc::new(Semaphore::new(WRITERS));
        let (memory, sums) = (Memory::kept(), Sums::default());
        Self { memory, uploads: Arc::default(), writers, sums }
    }
}

impl Pieces {
    /// What a connection reads at once, at most; `None` for as much as it has room for.
    pub(crate) fn read_bytes_max(&self) -> Option<u64> {
        self.are_a_crowd().then_some(READ_BYTES_CROWD as u64)
    }

    /// Gives back memory that no upload has asked for since the last time.
    pub(crate) fn tidy(&self) {
        self.memory.tidy();
    }

    fn are_a_crowd(&self) -> bool {
        self.uploads.load(Ordering::Relaxed) > CROWD
    }

    fn enter(&self) -> Share {
        self.uploads.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }
}

impl Share {
    /// How many pieces the upload may have, and bytes of each.
    fn pieces(&self) -> (usize, usize) {
        // One more or less does not make another size: what others are done with can be used again.
        let uploads = self.0.uploads.load(Ordering::Relaxed).max(1).next_power_of_two();
        let bytes = PIECES_BYTES / PIECES_BESIDE_OTHERS / uploads.max(UPLOADS_WITH_LARGEST);
        let bytes = Memory::size_within(bytes.max(PIECE_BYTES_MIN));
        // What connections have read is as much again in a crowd.
        let pieces_max = if uploads > CROWD { 1 } else { PIECES_ALONE };
        ((PIECES_BYTES / uploads / bytes).clamp(1, pieces_max), bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file being received, then received.
#[derive(Default)]
pub(crate) struct Spool {
    /// A small file, or the beginning of one that turns out to be large.
    small: SmallBlob,
    bytes: u64,
    /// Bytes of the body, if it says so.
    length: u64,
    /// While a large file is received.
    large: Option<Box<Large>>,
    /// The end of a large file that was received, before it is written.
    last: Option<Piece>,
    disk: Disk,
}

#[derive(Default)]
enum Disk {
    /// Nothing is there.
    #[default]
    Unused,
    /// All but the last piece is written.
    Settled(Box<TempBlob>),
    /// All of it is in the store.
    Landed(Box<BlobSum>),
    /// A write failed; the upload is over.
    Failed,
}

/// A large file on its way to the disk.
struct Large {
    share: Share,
    /// What is being filled.
    piece: Option<Piece>,
    /// Pieces that were handed on, and are told of when all are done with them.
    lent: usize,
    home: UnboundedSender<()>,
    back: UnboundedReceiver<()>,
    /// From the first piece on that was full.
    writer: Option<Strand<Target, Write>>,
    sums: Summed<Lent>,
    /// Whether pieces are summed on another thread than they are written on, for which they are to be large.
    beside: bool,
    /// A write failed: what is received need not be.
    failed: Arc<AtomicBool>,
    /// Bytes handed on, ...
    handed: u64,
    /// ... and those of them that the disk was told to write.
    written_back: u64,
}

/// A piece of which the upload is told when all are done with it.
#[derive(Debug)]
struct Lent {
    /// Dropped first, so that it can be had by who is told.
    piece: Piece,
    _told: Told,
}

#[derive(Debug)]
struct Told(UnboundedSender<()>);

/// What pieces are written to.
enum Target {
    New(Blobs, BlobKey),
    Open(TempBlob),
    Failed(StoreError),
}

/// A piece to be written.
struct Write {
    piece: Arc<Lent>,
    past_cache: bool,
    /// From where on the disk is told to begin.
    begin_at: Option<u64>,
    /// Who sums it after that, if nobody does beside it.
    sums: Option<Summed<Lent>>,
}

impl std::ops::Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.piece
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _may_be_gone = self.0.send(());
    }
}

impl Target {
    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        if let Self::New(blobs, key) = self {
            let mut temp = blobs.create(key.clone())?;
            if write.past_cache {
                temp.write_past_cache();
            }
            *self = Self::Open(temp);
        }
        let Self::Open(temp) = self else { return Ok(()) };
        if !write.past_cache {
            temp.write_as_usual();
        }
        temp.write_unsummed(&write.piece)?;
        if let Some(start) = write.begin_at {
            temp.write_back(start);
        }
        Ok(())
    }
}

fn sum(summer: &mut Summer, piece: &Arc<Lent>) {
    summer.update(piece);
}

impl Large {
    fn new(share: Share) -> Self {
        let (home, back) = unbounded_channel();
        let beside = share.pieces().1 >= BESIDE_BYTES_MIN;
        Self {
            share,
            piece: None,
            lent: 0,
            home,
            back,
            writer: None,
            sums: Strand::new(Summer::default()),
            beside,
            failed: Arc::default(),
            handed: 0,
            written_back: 0,
        }
    }

    /// A piece to fill. Waits while all that the upload may have are being written.
    async fn empty_piece(&mut self) -> Result<Piece, ApiError> {
        loop {
            while self.back.try_recv().is_ok() {
                self.lent -= 1;
            }
            let (pieces_max, bytes) = self.share.pieces();
            if self.lent < pieces_max {
                return Ok(self.share.0.memory.piece(bytes));
            }
            self.back.recv().await.ok_or(ErrorCode::Internal)?;
            self.lent -= 1;
        }
    }

    /// Adds to the piece, and hands it on when it is full.
    async fn take(
        &mut self,
        app: &Arc<App>,
        guard: &mut UploadGuard,
        length: u64,
        mut bytes: &[u8],
    ) -> Result<(), ApiError> {
        while !bytes.is_empty() {
            let mut piece = match self.piece.take() {
                Some(piece) => piece,
                None => self.empty_piece().await?,
            };
            // The first goes soon: a large upload is not to be all in memory.
            let unused = self.writer.is_none();
            let limit = piece.capacity().min(if unused { SMALL_BYTES } else { usize::MAX });
            bytes = piece.take(bytes, limit);
            if piece.len() < limit {
                self.piece = Some(piece);
            } else {
                self.hand_on(app, guard, length, piece).await?;
            }
        }
        Ok(())
    }

    /// Hands `piece` to who writes and who sums.
    async fn hand_on(
        &mut self,
        app: &Arc<App>,
        guard: &mut UploadGuard,
        length: u64,
        piece: Piece,
    ) -> Result<(), ApiError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(self.end().await.err().unwrap_or(ErrorCode::Internal.into()));
        }
        let key = guard.begin().await?;
        let writer =
            self.writer.get_or_insert_with(|| Strand::new(Target::New(app.blobs.clone(), key)));
        self.handed += piece.len() as u64;
        let due = self.handed - self.written_back >= WRITE_BACK_BYTES;
        let begin_at = due.then(|| std::mem::replace(&mut self.written_back, self.handed));
        let large = piece.capacity() >= DIRECT_PIECE_BYTES_MIN;
        let past_cache = large && length >= DIRECT_BYTES_MIN && app.blobs.as_local().is_some();
        // Once summed after writing they always are: else one might overtake another.
        self.beside &= piece.capacity() >= BESIDE_BYTES_MIN;
        let piece = Arc::new(Lent { piece, _told: Told(self.home.clone()) });
        self.lent += 1;
        let then_sum = (!self.beside).then(|| self.sums.clone());
        if self.beside {
            app.pieces.sums.add(&app.tasks, &self.sums, Arc::clone(&piece));
        }
        if writer.add(Write { piece, past_cache, begin_at, sums: then_sum }) {
            let turn = Arc::clone(&app.pieces.writers).acquire_owned().await;
            let turn = turn.map_err(|_closed| ErrorCode::Internal)?;
            let (writer, failed) = (writer.clone(), Arc::clone(&self.failed));
            app.tasks.blocking(move || {
                let _turn: OwnedSemaphorePermit = turn;
                writer.run(|target, write| {
                    if let Err(error) = target.write(write) {
                        *target = Target::Failed(error);
                        failed.store(true, Ordering::Relaxed);
                    }
                    if let Some(sums) = &write.sums
                        && sums.add(Arc::clone(&write.piece))
                    {
                        sums.run(sum);
                    }
                });
            });
        }
        Ok(())
    }

    /// Waits until nothing is being written; gives the file, if there is one.
    async fn end(&mut self) -> Result<Option<TempBlob>, ApiError> {
        let Some(writer) = self.writer.take() else { return Ok(None) };
        while self.lent > 0 && self.back.recv().await.is_some() {
            self.lent -= 1;
        }
        match (writer.into_state(), self.sums.clone().into_state()) {
            (Some(Target::Open(mut temp)), Some(summer)) => {
                temp.return_summer(summer);
                Ok(Some(temp))
            }
            (Some(Target::Failed(error)), _) => Err(store_failed(&error)),
            // One panicked.
            _ => Err(ErrorCode::Unknown.into()),
        }
    }
}

impl Spool {
    /// For a file of a body of `length` bytes, if that is known. It may be anything, and is not believed: it says only
    /// what is to be made ready.
    pub(super) fn expecting(pieces: &Pieces, length: Option<u64>) -> Self {
        let length = length.unwrap_or(0);
        let room = usize::try_from(length).ok().filter(|length| *length <= SMALL_BYTES);
        let small = SmallBlob::with_capacity(&pieces.memory, room.unwrap_or(0));
        Self { small, length, ..Self::default() }
    }

    /// Bytes received.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more of the file; `large` if it is known to be. Waits while all that it may have in memory is being written.
    pub(super) async fn push(
        &mut self,
        app: &Arc<App>,
        guard: &mut UploadGuard,
        bytes: &[u8],
        large: bool,
    ) -> Result<(), ApiError> {
        self.bytes += bytes.len() as u64;
        if let Some(large) = &mut self.large {
            return large.take(app, guard, self.length, bytes).await;
        }
        if !large && self.small.len() + bytes.len() <= SMALL_BYTES {
            self.small.extend(bytes);
            return Ok(());
        }
        let large = self.large.insert(Box::new(Large::new(app.pieces.enter())));
        let small = std::mem::take(&mut self.small);
        large.take(app, guard, self.length, &small).await?;
        drop(small);
        large.take(app, guard, self.length, bytes).await
    }

    /// All of it was received: waits until nothing is being written. The last piece may still be in memory.
    pub(super) async fn settle(&mut self) -> Result<(), ApiError> {
        let Some(mut large) = self.large.take() else { return Ok(()) };
        self.last = large.piece.take();
        self.disk = Disk::Failed;
        self.disk = if let Some(temp) = large.end().await? {
            Disk::Settled(Box::new(temp))
        } else {
            // It was to be large, and is not.
            self.small.extend(self.last.take().as_deref().unwrap_or_default());
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
        if let Disk::Settled(temp) = &mut self.disk
            && let Some(last) = self.last.take()
        {
            temp.write(&last)?;
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
    fn the_more_large_uploads_there_are_the_less_memory_has_each() {
        let pieces = Pieces::default();
        let first = pieces.enter();
        let alone = first.pieces();
        assert_eq!(alone.0, PIECES_ALONE);
        let mut others = Vec::new();
        while others.len() < 255 {
            others.push(pieces.enter());
            let (count, bytes) = first.pieces();
            assert!(bytes == alone.1 || count <= PIECES_BESIDE_OTHERS);
            assert_eq!(bytes, Memory::size_of(bytes));
            assert!(count * bytes * (1 + others.len()) <= PIECES_BYTES);
        }
        assert_eq!(first.pieces().0, 1);
        others.extend((256..1024).map(|_| pieces.enter()));
        assert_eq!(first.pieces(), (1, PIECE_BYTES_MIN));
        drop(others);
        assert_eq!(first.pieces(), alone);
    }

    #[test]
    fn connections_of_a_crowd_read_less_at_once() {
        let pieces = Pieces::default();
        let mut shares: Vec<_> = (0..CROWD).map(|_| pieces.enter()).collect();
        assert_eq!(pieces.read_bytes_max(), None);
        shares.push(pieces.enter());
        assert_eq!(pieces.read_bytes_max(), Some(READ_BYTES_CROWD as u64));
        shares.pop();
        assert_eq!(pieces.read_bytes_max(), None);
    }

    #[tokio::test]
    async fn an_upload_waits_when_all_its_pieces_are_lent() {
        let pieces = Pieces::default();
        let mut large = Large::new(pieces.enter());
        let mut lent = Vec::new();
        while lent.len() < PIECES_ALONE {
            let piece = large.empty_piece().await.unwrap();
            large.lent += 1;
            lent.push(Lent { piece, _told: Told(large.home.clone()) });
        }
        let at = lent[0].as_ptr();
        tokio::select! {
            biased;
            _ = large.empty_piece() => panic!("there is none"),
            () = std::future::ready(()) => {}
        }
        drop(lent.remove(0));
        assert_eq!(large.empty_piece().await.unwrap().as_ptr(), at);
        // Beside others it may have fewer.
        let _others: Vec<_> = (0..8).map(|_| pieces.enter()).collect();
        large.lent += 1;
        drop(lent.drain(..2));
        tokio::select! {
            biased;
            _ = large.empty_piece() => panic!("it has more than it may"),
            () = std::future::ready(()) => {}
        }
    }
}
