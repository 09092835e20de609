//! What is computed of a blob while it is written.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes covered by one CRC: what a read checks before it serves any of them.
pub const BLOB_BLOCK_BYTES: usize = 256 << 10;

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
    pub fn update(&mut self, mut piece: &[u8]) {
        self.sha.update(piece);
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
    }
}
