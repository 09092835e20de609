//! Bytes held in memory, counted against one bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use filegate_types::hex;
use sha2::{Digest as _, Sha256};

use crate::reply::Refusal;

/// Bytes are kept in blocks of this size, so that no copy of a whole file is made while it grows.
const BLOCK_BYTES: usize = 64 << 10;

/// How much is held, and how much may be.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    held: Arc<AtomicU64>,
    max: u64,
}

impl Memory {
    pub(super) fn new(max: u64) -> Self {
        Self { held: Arc::default(), max }
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<(), Refusal> {
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|sum| *sum <= self.max)
        });
        taken.map(drop).map_err(|_held| Refusal::full("--memory-max"))
    }
}

/// A part of [`Memory`]; given back when dropped.
#[derive(Debug)]
struct Hold {
    memory: Memory,
    bytes: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Content that is arriving.
#[derive(Debug)]
pub(crate) struct Spool {
    blocks: Vec<Bytes>,
    open: BytesMut,
    digest: Sha256,
    hold: Hold,
}

impl Spool {
    pub(crate) fn new(memory: &Memory) -> Self {
        let hold = Hold { memory: memory.clone(), bytes: 0 };
        Self { blocks: Vec::new(), open: BytesMut::new(), digest: Sha256::new(), hold }
    }

    pub(crate) fn len(&self) -> u64 {
        self.hold.bytes
    }

    /// Takes in more, or refuses when the memory is full.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        self.hold.memory.take(bytes.len() as u64)?;
        self.hold.bytes += bytes.len() as u64;
        self.digest.update(bytes);
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.open.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.open.extend_from_slice(now);
            if self.open.len() == BLOCK_BYTES {
                self.blocks.push(self.open.split().freeze());
            }
            bytes = later;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Arc<Stored> {
        if !self.open.is_empty() {
            self.blocks.push(self.open.freeze());
        }
        let sha256 = hex(&self.digest.finalize());
        Arc::new(Stored { blocks: self.blocks, sha256, hold: self.hold })
    }
}

/// Content that is kept.
#[derive(Debug)]
pub(crate) struct Stored {
    blocks: Vec<Bytes>,
    pub(crate) sha256: String,
    hold: Hold,
}

impl Stored {
    /// Keeps what was made.
    pub(crate) fn of(memory: &Memory, bytes: Vec<u8>) -> Result<Arc<Self>, Refusal> {
        memory.take(bytes.len() as u64)?;
        let hold = Hold { memory: memory.clone(), bytes: bytes.len() as u64 };
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok(Arc::new(Self { blocks: vec![bytes.into()], sha256, hold }))
    }

    pub(crate) fn len(&self) -> u64 {
        self.hold.bytes
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = Bytes> + Send + use<> {
        self.blocks.clone().into_iter()
    }

    /// All of it in one piece: for samples and texts, which are small.
    pub(crate) fn whole(&self) -> Vec<u8> {
        self.blocks.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_given_back() {
        let memory = Memory::new(200_000);
        let mut spool = Spool::new(&memory);
        spool.push(&vec![7; 150_000]).unwrap();
        spool.push(&vec![8; 50_000]).unwrap();
        assert_eq!(spool.push(&[9]).unwrap_err().code, 1013);
        let stored = spool.finish();
        assert_eq!((stored.len(), memory.held()), (200_000, 200_000));
        assert_eq!(stored.whole(), [vec![7; 150_000], vec![8; 50_000]].concat());
        assert!(Stored::of(&memory, vec![1]).is_err());
        drop(stored);
        assert_eq!(memory.held(), 0);
        assert!(Stored::of(&memory, vec![1]).is_ok());
    }
}
