//! Memory for bodies on their way to the disk, which is used again for the next.
//!
//! It begins where the disk takes it from, past the page cache. Asking the system for it anew costs more than to fill it (a
//! fault for each 4096 bytes), and an allocator gives back what is free at its end again and again. So what is done with
//! goes to the next that asks for as much; what nobody asks for goes back to the system.

use std::alloc::{Layout, handle_alloc_error};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

/// What lengths, places in the file and places in memory are multiples of, where bytes go past the page cache. Blocks of
/// disks have 512 or 4096 bytes.
pub(super) const ALIGN: usize = 4096;
/// What is kept for the next, at most.
const SPARE_BYTES_MAX: usize = 16 << 20;

/// Where pieces come from and go to. Clones are the same; the default keeps nothing.
#[derive(Debug, Clone, Default)]
pub struct Memory(Option<Arc<Mutex<Spare>>>);

#[derive(Debug, Default)]
struct Spare {
    /// The one that was used last is last.
    maps: Vec<MmapMut>,
    bytes: usize,
    /// Whether somebody asked since it was tidied up.
    asked: bool,
}

/// Bytes of a body: filled, and read by who writes or sums them.
#[derive(Debug)]
pub struct Piece {
    /// Always there until it is dropped.
    map: Option<MmapMut>,
    filled: usize,
    memory: Memory,
}

impl Memory {
    /// One that keeps what was used for the next.
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    /// What is given to who asks for `bytes`: a multiple of 4096, of which there are four for each power of two, so that
    /// those who ask for nearly the same have each other's.
    pub fn size_of(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(step(bytes))
    }

    /// The largest of these sizes that is at most `bytes`, which are at least 4096.
    pub fn size_within(bytes: usize) -> usize {
        bytes - bytes % step(bytes)
    }

    /// An empty piece with room for [`size_of(bytes)`](Self::size_of). Memory that was never filled is not taken from the
    /// system.
    pub fn piece(&self, bytes: usize) -> Piece {
        let size = Self::size_of(bytes);
        let map = self.spare(size).unwrap_or_else(|| {
            MmapMut::map_anon(size).unwrap_or_else(|_none| handle_alloc_error(layout(size)))
        });
        Piece { map: Some(map), filled: 0, memory: self.clone() }
    }

    /// Gives back to the system what nobody has asked for since the last time.
    pub fn tidy(&self) {
        let Some(mut spare) = self.locked() else { return };
        let unused = if std::mem::take(&mut spare.asked) {
            Vec::new()
        } else {
            std::mem::take(&mut spare.maps)
        };
        spare.bytes -= unused.iter().map(|map| map.len()).sum::<usize>();
        drop(spare);
        drop(unused);
    }

    fn spare(&self, size: usize) -> Option<MmapMut> {
        let mut spare = self.locked()?;
        spare.asked = true;
        let (mut given_back, mut bytes) = (Vec::new(), 0);
        let found = spare.maps.iter().rposition(|map| map.len() == size);
        let map = if let Some(at) = found {
            Some(spare.maps.remove(at))
        } else {
            // More is taken from the system only while nothing is spare.
            while bytes < size && !spare.maps.is_empty() {
                let map = spare.maps.remove(0);
                bytes += map.len();
                given_back.push(map);
            }
            None
        };
        spare.bytes -= bytes + map.as_ref().map_or(0, |map| map.len());
        drop(spare);
        drop(given_back);
        map
    }

    fn take_back(&self, map: MmapMut) {
        let Some(mut spare) = self.locked() else { return };
        if spare.bytes + map.len() <= SPARE_BYTES_MAX {
            spare.bytes += map.len();
            spare.maps.push(map);
        }
    }

    fn locked(&self) -> Option<MutexGuard<'_, Spare>> {
        self.0.as_ref().map(|spare| spare.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What sizes from the power of two below `bytes` up to the next differ by.
fn step(bytes: usize) -> usize {
    (bytes.max(1).next_power_of_two() / 8).max(ALIGN)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).unwrap_or(Layout::new::<u8>())
}

impl Piece {
    /// Bytes that it has room for in all.
    pub fn capacity(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.len())
    }

    /// Takes the beginning of `bytes`, until there are `limit` of them in all; gives the rest.
    pub fn take<'b>(&mut self, bytes: &'b [u8], limit: usize) -> &'b [u8] {
        let room = limit.min(self.capacity()).saturating_sub(self.filled);
        let (now, later) = bytes.split_at(bytes.len().min(room));
        self.more(now.len()).copy_from_slice(now);
        later
    }

    /// Fills it up with zeros to a multiple of [`ALIGN`].
    pub(super) fn pad(&mut self) {
        let bytes = self.filled.next_multiple_of(ALIGN) - self.filled;
        self.more(bytes).fill(0);
    }

    /// So many bytes more, which are anything.
    fn more(&mut self, bytes: usize) -> &mut [u8] {
        let from = self.filled;
        self.filled += bytes;
        let map = self.map.as_deref_mut().unwrap_or_default();
        &mut map[from..self.filled]
    }
}

impl std::ops::Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let map = self.map.as_deref().unwrap_or_default();
        &map[..self.filled]
    }
}

impl std::ops::DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        let map = self.map.as_deref_mut().unwrap_or_default();
        &mut map[..self.filled]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.memory.take_back(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare(memory: &Memory) -> (usize, usize) {
        let spare = memory.locked().unwrap();
        assert_eq!(spare.bytes, spare.maps.iter().map(|map| map.len()).sum::<usize>());
        (spare.maps.len(), spare.bytes)
    }

    #[test]
    fn a_piece_takes_what_it_has_room_for() {
        let mut piece = Memory::default().piece(5000);
        assert!(piece.is_empty() && piece.capacity() == 8192);
        assert_eq!(piece.as_ptr().align_offset(ALIGN), 0);
        assert_eq!(piece.take(b"abc", 8), b"");
        assert_eq!(piece.take(b"defgh", 5), b"fgh");
        assert_eq!(piece.take(b"fgh", 5), b"fgh");
        assert_eq!(piece.take(&[7; 9000], usize::MAX).len(), 9000 - (8192 - 5));
        assert_eq!(&piece[..6], b"abcde\x07");
    }

    #[test]
    fn what_was_in_memory_before_is_not_in_the_next_piece() {
        let memory = Memory::kept();
        let mut first = memory.piece(ALIGN);
        first.take(&[1; ALIGN], ALIGN);
        let at = first.as_ptr();
        drop(first);
        let mut second = memory.piece(ALIGN);
        assert!(second.as_ptr() == at && second.is_empty());
        second.take(b"abc", ALIGN);
        second.pad();
        assert!(second.len() == ALIGN && second[3..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn sizes_are_few_and_never_too_small() {
        let mut sizes: Vec<_> = (0..(1 << 20)).step_by(97).map(Memory::size_of).collect();
        for (bytes, size) in (0..(1 << 20)).step_by(97).zip(&sizes) {
            assert!(*size >= bytes && size.is_multiple_of(ALIGN), "{size} for {bytes}");
            assert!(
                *size <= ALIGN || *size < bytes + bytes.div_ceil(4) + ALIGN,
                "{size} for {bytes}"
            );
            assert_eq!(Memory::size_of(*size), *size);
            assert_eq!(Memory::size_within(*size), *size);
            let below = Memory::size_within(bytes.max(ALIGN));
            assert!(below <= bytes.max(ALIGN) && Memory::size_of(below + 1) >= *size);
        }
        sizes.dedup();
        assert!(sizes.len() < 40, "{}", sizes.len());
    }

    #[test]
    fn more_is_taken_only_while_nothing_is_spare() {
        let memory = Memory::kept();
        let large = [memory.piece(1 << 20), memory.piece(1 << 20)];
        drop(large);
        assert_eq!(spare(&memory), (2, 2 << 20));
        let small = memory.piece(100_000);
        assert_eq!(spare(&memory), (1, 1 << 20));
        let larger = memory.piece(2 << 20);
        assert_eq!(spare(&memory), (0, 0));
        drop((small, larger));
        assert_eq!(spare(&memory).0, 2);
        assert_eq!(memory.piece(100_000).capacity(), 114_688);
        assert_eq!(spare(&memory).0, 2);
    }

    #[test]
    fn what_nobody_asks_for_goes_back_to_the_system_and_never_more_than_a_bound_is_kept() {
        let memory = Memory::kept();
        let many: Vec<_> = (0..20).map(|_| memory.piece(1 << 20)).collect();
        drop(many);
        assert_eq!(spare(&memory), (16, SPARE_BYTES_MAX));
        memory.tidy();
        assert_eq!(spare(&memory), (16, SPARE_BYTES_MAX));
        memory.tidy();
        assert_eq!(spare(&memory), (0, 0));
        drop(memory.piece(1));
        assert_eq!(spare(&memory), (1, ALIGN));
    }
}
