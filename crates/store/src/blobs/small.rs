//! A blob in memory, laid out as it is written to a pack, so that nothing is copied on the way from here to the disk.

use super::piece::ALIGN;
use super::sum::{BlobSum, Summer};

/// Bytes before the blob's in a record.
pub(super) const HEAD_BYTES: usize = 64;

/// The bytes of a blob that is small enough for memory.
#[derive(Debug, Default)]
pub struct SmallBlob {
    /// Up to `start` nothing, then the record: its head, and the blob. It never moves.
    memory: Vec<u8>,
    start: usize,
}

impl SmallBlob {
    /// With room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(bytes + HEAD_BYTES + 2 * ALIGN);
        let start = memory.as_ptr().align_offset(ALIGN);
        // It may be anything where it cannot be known: then it is written through the page cache.
        let start = if start < ALIGN { start } else { 0 };
        memory.resize(start + HEAD_BYTES, 0);
        Self { memory, start }
    }

    /// Appends `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        // What fills up the last block at the end must not move the rest.
        if self.memory.len() + bytes.len() + ALIGN > self.memory.capacity() {
            let len = self.len();
            let mut larger = Self::with_capacity((len + bytes.len()).max(2 * len));
            larger.memory.extend_from_slice(self);
            *self = larger;
        }
        self.memory.extend_from_slice(bytes);
    }

    /// Its sums.
    pub fn sum(&self) -> BlobSum {
        let mut summer = Summer::default();
        summer.update(self);
        summer.finish()
    }

    /// The bytes as a buffer of their own, without copying them.
    pub fn into_bytes(self) -> bytes::Bytes {
        let from = self.memory.len() - self.len();
        bytes::Bytes::from(self.memory).slice(from..)
    }

    /// The record, whole blocks, with `head` at its beginning.
    pub(super) fn into_record(mut self, head: [u8; HEAD_BYTES]) -> Record {
        if self.memory.is_empty() {
            self = Self::with_capacity(0);
        }
        let Self { mut memory, start } = self;
        memory[start..start + HEAD_BYTES].copy_from_slice(&head);
        let bytes = (memory.len() - start).next_multiple_of(ALIGN);
        memory.resize(start + bytes, 0);
        Record { memory, start }
    }
}

impl std::ops::Deref for SmallBlob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start + HEAD_BYTES..).unwrap_or_default()
    }
}

impl From<Vec<u8>> for SmallBlob {
    fn from(bytes: Vec<u8>) -> Self {
        let mut blob = Self::with_capacity(bytes.len());
        blob.extend(&bytes);
        blob
    }
}

/// What is written.
#[derive(Debug)]
pub(super) struct Record {
    memory: Vec<u8>,
    start: usize,
}

impl std::ops::Deref for Record {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_aligned_and_holds_what_was_put_in(
            room in 0usize..100_000,
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30_000), 0..8),
        ) {
            let mut blob = SmallBlob::with_capacity(room);
            for piece in &pieces {
                blob.extend(piece);
            }
            let whole = pieces.concat();
            prop_assert_eq!(&*blob, whole.as_slice());
            let record = blob.into_record([7; HEAD_BYTES]);
            prop_assert_eq!(record.len() % ALIGN, 0);
            prop_assert_eq!(record.as_ptr().align_offset(ALIGN), 0);
            prop_assert_eq!(&record[..HEAD_BYTES], [7u8; HEAD_BYTES].as_slice());
            prop_assert_eq!(&record[HEAD_BYTES..HEAD_BYTES + whole.len()], whole.as_slice());
            prop_assert!(record[HEAD_BYTES + whole.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn one_of_nothing_is_one_too() {
        let blob = SmallBlob::default();
        assert!(blob.is_empty() && blob.sum().bytes == 0);
        assert_eq!(blob.into_record([1; HEAD_BYTES]).len(), ALIGN);
        assert!(SmallBlob::default().into_bytes().is_empty());
    }
}
