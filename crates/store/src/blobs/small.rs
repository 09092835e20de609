//! A blob in memory, laid out as it is written to a pack, so that nothing is copied on the way from here to the disk.

use super::memory::{Memory, Piece};
use super::sum::{BlobSum, Summer};

/// Bytes before the blob's in a record.
pub(super) const HEAD_BYTES: usize = 64;

/// The bytes of a blob that is small enough for memory.
#[derive(Debug, Default)]
pub struct SmallBlob {
    memory: Memory,
    /// Room for the head of its record, and the blob; none as long as there is nothing of it.
    piece: Option<Piece>,
}

impl SmallBlob {
    /// With room for `bytes`.
    pub fn with_capacity(memory: &Memory, bytes: usize) -> Self {
        let piece = (bytes > 0).then(|| with_head(memory, bytes));
        Self { memory: memory.clone(), piece }
    }

    /// Appends `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        let piece = self.piece.get_or_insert_with(|| with_head(&self.memory, bytes.len()));
        if piece.len() + bytes.len() > piece.capacity() {
            let room = (piece.len() + bytes.len()).max(2 * piece.capacity());
            let mut larger = self.memory.piece(room);
            larger.take(piece, room);
            *piece = larger;
        }
        piece.take(bytes, usize::MAX);
    }

    /// Its sums.
    pub fn sum(&self) -> BlobSum {
        let mut summer = Summer::default();
        summer.update(self);
        summer.finish()
    }

    /// The sums of two, in [less time](Summer::update_both) than one after the other.
    pub fn sum_both(one: &Self, other: &Self) -> (BlobSum, BlobSum) {
        let (mut ones, mut others) = (Summer::default(), Summer::default());
        Summer::update_both((&mut ones, one), (&mut others, other));
        (ones.finish(), others.finish())
    }

    /// The bytes as a buffer, without copying them.
    pub fn into_bytes(self) -> bytes::Bytes {
        bytes::Bytes::from_owner(self)
    }

    /// The record, whole blocks, with `head` at its beginning and `entry` after the blob.
    pub(super) fn into_record(mut self, head: [u8; HEAD_BYTES], entry: &[u8]) -> Piece {
        self.extend(entry);
        let mut piece = self.piece.unwrap_or_else(|| with_head(&self.memory, 0));
        piece[..HEAD_BYTES].copy_from_slice(&head);
        piece.pad();
        piece
    }
}

fn with_head(memory: &Memory, bytes: usize) -> Piece {
    let mut piece = memory.piece(HEAD_BYTES + bytes);
    piece.take(&[0; HEAD_BYTES], HEAD_BYTES);
    piece
}

impl std::ops::Deref for SmallBlob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.piece.as_ref().and_then(|piece| piece.get(HEAD_BYTES..)).unwrap_or_default()
    }
}

impl AsRef<[u8]> for SmallBlob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for SmallBlob {
    fn from(bytes: Vec<u8>) -> Self {
        let mut blob = Self::default();
        blob.extend(&bytes);
        blob
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::memory::ALIGN;
    use super::*;

    proptest! {
        #[test]
        fn a_record_is_aligned_and_holds_what_was_put_in(
            room in 0usize..100_000,
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30_000), 0..8),
            entry in prop::collection::vec(any::<u8>(), 0..9_000),
        ) {
            let memory = Memory::kept();
            // What is used again is not clean.
            memory.piece(HEAD_BYTES + room).take(&vec![1; room + ALIGN], usize::MAX);
            let mut blob = SmallBlob::with_capacity(&memory, room);
            for piece in &pieces {
                blob.extend(piece);
            }
            let whole = pieces.concat();
            prop_assert_eq!(&*blob, whole.as_slice());
            let record = blob.into_record([7; HEAD_BYTES], &entry);
            prop_assert_eq!(record.len() % ALIGN, 0);
            prop_assert_eq!(record.as_ptr().align_offset(ALIGN), 0);
            let bytes = [&[7; HEAD_BYTES], whole.as_slice(), &entry].concat();
            prop_assert_eq!(&record[..bytes.len()], bytes.as_slice());
            prop_assert!(record[bytes.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn one_of_nothing_is_one_too() {
        let blob = SmallBlob::default();
        assert!(blob.is_empty() && blob.sum().bytes == 0);
        assert_eq!(blob.into_record([1; HEAD_BYTES], &[]).len(), ALIGN);
        assert!(SmallBlob::default().into_bytes().is_empty());
    }
}
