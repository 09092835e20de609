//! Where a file's bytes are while it is received: in memory while small, then in `tmp/`.
//!
//! A large file goes to disk in pieces, each with one hop to a thread that may block, and is summed
//! there. While one piece is written the next is received: two pieces of memory for each upload,
//! whatever its size.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;

use filegate_store::blobs::Summer;
use filegate_store::{BlobSum, Blobs, StoreError, TempBlob};
use filegate_types::{ApiError, BlobKey, ErrorCode};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::UploadGuard;
use crate::app::App;
use crate::http::reply::store_failed;

/// Bytes of a piece; a file up to this size stays in memory until it lands.
const PIECE_BYTES: usize = 256 << 10;

/// A file being received, then received.
#[derive(Default)]
pub(crate) struct Spool {
    /// Bytes received and not yet handed to a writer.
    piece: Vec<u8>,
    bytes: u64,
    disk: Disk,
}

#[derive(Default)]
enum Disk {
    /// Nothing is there yet.
    #[default]
    Unused,
    /// A piece is being written.
    Writing(JoinHandle<(Result<TempBlob, StoreError>, Vec<u8>)>),
    /// All pieces so far are written.
    Settled(Box<TempBlob>),
    /// All of it is in the store.
    Landed(Box<BlobSum>),
    /// A write failed; the upload is over.
    Failed,
}

impl Spool {
    /// Bytes received.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more of the file.
    pub(super) async fn push(
        &mut self,
        app: &Arc<App>,
        guard: &mut UploadGuard,
        mut bytes: &[u8],
    ) -> Result<(), ApiError> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.piece.len() == PIECE_BYTES {
                self.spill(app, guard).await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Hands the full piece to a writer.
    async fn spill(&mut self, app: &Arc<App>, guard: &mut UploadGuard) -> Result<(), ApiError> {
        let (temp, spare) = self.settled().await?;
        let full = std::mem::replace(&mut self.piece, spare);
        let key = guard.begin().await?;
        let blobs = app.blobs.clone();
        self.disk = Disk::Writing(app.tasks.blocking(move || {
            let mut full = full;
            let written = (|| {
                let mut temp = match temp {
                    Some(temp) => temp,
                    None => blobs.create(key)?,
                };
                temp.write(&full)?;
                Ok(temp)
            })();
            full.clear();
            (written, full)
        }));
        Ok(())
    }

    /// Waits for the writer; gives the file, if there is one, and an empty buffer.
    async fn settled(&mut self) -> Result<(Option<TempBlob>, Vec<u8>), ApiError> {
        match std::mem::replace(&mut self.disk, Disk::Failed) {
            Disk::Unused => Ok((None, Vec::with_capacity(PIECE_BYTES))),
            Disk::Settled(temp) => Ok((Some(*temp), Vec::with_capacity(PIECE_BYTES))),
            Disk::Writing(writer) => {
                let (written, buffer) = writer.await.map_err(|_panic| ErrorCode::Unknown)?;
                Ok((Some(written.map_err(|error| store_failed(&error))?), buffer))
            }
            Disk::Landed(_) | Disk::Failed => Err(ErrorCode::Internal.into()),
        }
    }

    /// Waits until nothing is being written. The last piece may still be in memory.
    pub(super) async fn settle(&mut self) -> Result<(), ApiError> {
        if matches!(self.disk, Disk::Unused) {
            return Ok(());
        }
        let (temp, _spare) = self.settled().await?;
        self.disk = temp.map_or(Disk::Unused, |temp| Disk::Settled(Box::new(temp)));
        Ok(())
    }

    /// Writes what is still in memory behind what is on disk. Blocks.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        if let Disk::Settled(temp) = &mut self.disk {
            temp.write(&self.piece)?;
            self.piece = Vec::new();
        }
        Ok(())
    }

    /// The whole file, from its start. Blocks. Only after [`flush`](Self::flush) and before it lands.
    pub(crate) fn source(&mut self) -> Result<Source<'_>, StoreError> {
        match &mut self.disk {
            Disk::Settled(temp) => Ok(Source::File(temp.reader()?)),
            Disk::Landed(_) => Err(StoreError::Closed),
            _ => Ok(Source::Memory(Cursor::new(&self.piece))),
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
            _ => Sha256::digest(&self.piece).into(),
        }
    }

    /// The same file, in `tmp/` under `key` even if it is small. Blocks. Only after
    /// [`flush`](Self::flush).
    pub(crate) fn on_disk(mut self, blobs: &Blobs, key: BlobKey) -> Result<Self, StoreError> {
        if matches!(self.disk, Disk::Unused) {
            let mut temp = blobs.create(key)?;
            temp.write(&self.piece)?;
            self.piece = Vec::new();
            self.disk = Disk::Settled(Box::new(temp));
        }
        Ok(self)
    }

    /// Makes the file durable under `key`, once. Only after [`flush`](Self::flush).
    pub(super) async fn land(self, blobs: &Blobs, key: BlobKey) -> Result<Self, StoreError> {
        let Self { piece, bytes, disk } = self;
        let sum = match disk {
            Disk::Landed(sum) => *sum,
            Disk::Settled(temp) => blobs.land(*temp).await?,
            _ => blobs.land_whole(key, piece).await?,
        };
        Ok(Self { piece: Vec::new(), bytes, disk: Disk::Landed(Box::new(sum)) })
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
            _ => {
                let mut summer = Summer::default();
                summer.update(&self.piece);
                summer.finish()
            }
        }
    }
}

/// A received file, to be read.
pub(crate) enum Source<'a> {
    Memory(Cursor<&'a Vec<u8>>),
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
