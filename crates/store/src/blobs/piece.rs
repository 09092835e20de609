//! Memory that begins where the disk takes it from.

use std::io;

use memmap2::MmapMut;

/// What lengths, places in the file and places in memory are multiples of, where bytes go past the page cache. Blocks of
/// disks have 512 or 4096 bytes.
pub(super) const ALIGN: usize = 4096;

/// A piece of a large body: filled, written and summed, and then filled again. It is a mapping of its own, so that all of it
/// goes back to the system at once: an allocator would keep it for the next, and more of everything from then on (glibc's
/// threshold moves).
#[derive(Debug)]
pub struct Piece {
    memory: MmapMut,
    filled: usize,
}

impl Piece {
    /// An empty one with room for `bytes`. Memory that is not filled is not taken from the system.
    pub fn with_capacity(bytes: usize) -> io::Result<Self> {
        Ok(Self { memory: MmapMut::map_anon(bytes)?, filled: 0 })
    }

    /// Bytes that it has room for in all.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Takes the beginning of `bytes`, until there are `limit` of them in all; gives the rest.
    pub fn take<'b>(&mut self, bytes: &'b [u8], limit: usize) -> &'b [u8] {
        let room = limit.min(self.capacity()).saturating_sub(self.filled);
        let (now, later) = bytes.split_at(bytes.len().min(room));
        self.memory[self.filled..self.filled + now.len()].copy_from_slice(now);
        self.filled += now.len();
        later
    }

    /// Empties it; the memory stays.
    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

impl std::ops::Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_what_it_has_room_for_and_can_be_used_again() {
        let mut piece = Piece::with_capacity(8).unwrap();
        assert!(piece.is_empty() && piece.capacity() == 8);
        assert_eq!(piece.take(b"abc", 8), b"");
        assert_eq!(piece.take(b"defgh", 5), b"fgh");
        assert_eq!(piece.take(b"fgh", 5), b"fgh");
        assert_eq!(piece.take(b"fghij", 100), b"ij");
        assert_eq!(&*piece, b"abcdefgh");
        assert_eq!(piece.as_ptr().align_offset(ALIGN), 0);
        piece.clear();
        assert_eq!(piece.take(b"xy", 8), b"");
        assert_eq!(&*piece, b"xy");
    }
}
