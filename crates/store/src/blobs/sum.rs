//! What is computed of a blob while it is written.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes covered by one CRC: what a read checks before it serves any of them.
pub const BLOB_BLOCK_BYTES: usize = 256 << 10;

/// What is added to one hash before it is another's turn: two blocks of SHA-256, of a hundred instructions each. Half as much
/// and twice as much are slower.
const NEAR_BYTES: usize = 128;

/// A blob's length and sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSum {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole.
    pub sha256: [u8; 32],
    /// CRC-32C of each block of [`BLOB_BLOCK_BYTES`], four bytes little-endian each.
    pub block_sums: Vec<u8>,
}

/// Whether `block`, which starts at byte `start`, is what `block_sums` says.
pub(super) fn is_block(block_sums: &[u8], start: u64, block: &[u8]) -> bool {
    let at = (start / BLOB_BLOCK_BYTES as u64) as usize * 4;
    let stored = block_sums.get(at..at + 4).and_then(|sum| <[u8; 4]>::try_from(sum).ok());
    stored.map(u32::from_le_bytes) == Some(crc32c::crc32c(block))
}

/// Sums pieces of any size as they pass.
#[derive(Debug, Default)]
pub struct Summer {
    sha: Sha256,
    bytes: u64,
    crc: u32,
    block_sums: Vec<u8>,
}

impl Summer {
    /// Bytes summed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of what was summed so far.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha.clone().finalize().into()
    }

    /// Adds `piece`.
    pub fn update(&mut self, piece: &[u8]) {
        self.sha.update(piece);
        self.sum_blocks(piece);
    }

    /// Adds a piece to each of two, in less time than to one after the other.
    ///
    /// Each step of SHA-256 needs the one before, and a processor's instructions for it spend most of their time on that
    /// wait. Steps of another hash fill it, if they are near enough: 1.9 GB/s become 2.6 (`cargo bench -p filegate-store --bench sums`).
    pub fn update_both(one: (&mut Self, &[u8]), other: (&mut Self, &[u8])) {
        let ((one, ones), (other, others)) = (one, other);
        let both = ones.len().min(others.len());
        for (a, b) in ones[..both].chunks(NEAR_BYTES).zip(others[..both].chunks(NEAR_BYTES)) {
            one.sha.update(a);
            other.sha.update(b);
        }
        one.sha.update(&ones[both..]);
        other.sha.update(&others[both..]);
        one.sum_blocks(ones);
        other.sum_blocks(others);
    }

    fn sum_blocks(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let in_block = (self.bytes % BLOB_BLOCK_BYTES as u64) as usize;
            let (now, later) = piece.split_at(piece.len().min(BLOB_BLOCK_BYTES - in_block));
            self.crc = crc32c::crc32c_append(self.crc, now);
            self.bytes += now.len() as u64;
            if in_block + now.len() == BLOB_BLOCK_BYTES {
                self.close_block();
            }
            piece = later;
        }
    }

    /// The sums.
    pub fn finish(mut self) -> BlobSum {
        if !self.bytes.is_multiple_of(BLOB_BLOCK_BYTES as u64) {
            self.close_block();
        }
        BlobSum {
            bytes: self.bytes,
            sha256: self.sha.finalize().into(),
            block_sums: self.block_sums,
        }
    }

    fn close_block(&mut self) {
        self.block_sums.extend_from_slice(&self.crc.to_le_bytes());
        self.crc = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_do_not_matter(len in 0usize..600_000, cuts in prop::collection::vec(1usize..200_000, 1..8)) {
            let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let mut whole = Summer::default();
            whole.update(&data);
            let mut parts = Summer::default();
            let mut rest = data.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                parts.update(now);
                rest = later;
            }
            prop_assert_eq!(whole.finish(), parts.finish());
        }

        #[test]
        fn two_at_a_time_are_as_each_alone(
            pieces in prop::collection::vec((0usize..300_000, 0usize..300_000), 1..5),
        ) {
            let data: Vec<u8> = (0..1_500_000).map(|i| (i * 31 % 251) as u8).collect();
            let (mut one, mut other) = (Summer::default(), Summer::default());
            let (mut ones, mut others) = (data.as_slice(), &data[7..]);
            for (a, b) in pieces {
                let (piece, left) = ones.split_at(a);
                let (piece_of_other, left_of_other) = others.split_at(b);
                Summer::update_both((&mut one, piece), (&mut other, piece_of_other));
                (ones, others) = (left, left_of_other);
            }
            let alone = |data: &[u8]| {
                let mut summer = Summer::default();
                summer.update(data);
                summer.finish()
            };
            prop_assert_eq!(one.finish(), alone(&data[..data.len() - ones.len()]));
            prop_assert_eq!(other.finish(), alone(&data[7..data.len() - others.len()]));
        }
    }
}
