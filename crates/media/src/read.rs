//! The one reader of every walk: buffered, bounded by the file's real length, counting steps.
//!
//! INVARIANT: what is fetched in all is linear in the file. Steps alone do not see to that: a table of
//! offsets could send the walk to and fro, a buffer for each of millions of entries.

use std::io::{Read, Seek, SeekFrom};

use crate::types::{Format, Limits, ProbeError};

/// Bytes fetched from the source at a time, at most.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes fetched after a jump: many walks look at a head and jump on. Twice as many with each fetch that goes on
/// about where the last one ended.
const FIRST_BYTES: usize = 4 << 10;

/// Bytes fetched in all, at most: so many times the file's length, and so many more. Real files of
/// small fragments, the worst, take eight times theirs.
const FETCHED_TIMES_MAX: u64 = 16;
const FETCHED_BYTES_MORE: u64 = 1 << 30;

/// A source with a known length, a read buffer, and a budget of steps.
pub(crate) struct Bounded<'a> {
    source: &'a mut dyn ReadSeek,
    len: u64,
    /// Where the next read of ours starts.
    position: u64,
    buffer: Vec<u8>,
    /// Offset in the source of `buffer[0]`.
    buffer_start: u64,
    /// Bytes of the last fetch, as far as the file has them.
    fetched: usize,
    steps_left: u64,
    /// Bytes that may still be fetched.
    fetch_left: u64,
    /// What the file is read as, once a step has said it.
    format: Format,
}

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

impl<'a> Bounded<'a> {
    pub(crate) fn new<R: Read + Seek>(
        source: &'a mut R,
        limits: &Limits,
    ) -> Result<Self, ProbeError> {
        let len = source.seek(SeekFrom::End(0)).map_err(ProbeError::Io)?;
        Ok(Self {
            source,
            len,
            position: 0,
            buffer: Vec::new(),
            buffer_start: 0,
            fetched: 0,
            steps_left: limits.steps_max,
            fetch_left: len.saturating_mul(FETCHED_TIMES_MAX).saturating_add(FETCHED_BYTES_MORE),
            format: Format::Txt,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.len.saturating_sub(self.position)
    }

    /// Moves to `position`, past the end being the end.
    pub(crate) fn seek_to(&mut self, position: u64) {
        self.position = position.min(self.len);
    }

    /// Moves on by `count`, past the end being the end.
    pub(crate) fn skip(&mut self, count: u64) {
        self.seek_to(self.position.saturating_add(count));
    }

    /// Counts one frame, box, chunk, element or entry.
    pub(crate) fn step(&mut self, format: Format) -> Result<(), ProbeError> {
        self.format = format;
        self.steps_left = self.steps_left.checked_sub(1).ok_or(ProbeError::TooComplex {
            format,
            detail: "more parts than any real file has".to_owned(),
        })?;
        Ok(())
    }

    /// The next bytes without moving: at least one, at most `want`; empty only at the end.
    /// `want` above the buffer size (64 KiB) is cut to it.
    pub(crate) fn peek(&mut self, want: usize) -> Result<&[u8], ProbeError> {
        let want =
            want.min(BUFFER_BYTES).min(usize::try_from(self.remaining()).unwrap_or(usize::MAX));
        let offset = self.position.checked_sub(self.buffer_start);
        let have = offset.and_then(|o| (self.buffer.len() as u64).checked_sub(o)).unwrap_or(0);
        if have < want as u64 {
            self.fill(want)?;
        }
        let start = (self.position - self.buffer_start) as usize;
        Ok(&self.buffer[start..(start + want).min(self.buffer.len())])
    }

    /// The next `N` bytes, moving past them; `None` if the file ends first (nothing is consumed).
    pub(crate) fn take<const N: usize>(&mut self) -> Result<Option<[u8; N]>, ProbeError> {
        if self.remaining() < N as u64 {
            return Ok(None);
        }
        let mut out = [0; N];
        out.copy_from_slice(&self.peek(N)?[..N]);
        self.position += N as u64;
        Ok(Some(out))
    }

    /// `count` bytes, moving past them; `None` if the file ends first. The caller caps `count`.
    pub(crate) fn take_vec(&mut self, count: usize) -> Result<Option<Vec<u8>>, ProbeError> {
        if self.remaining() < count as u64 {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(count);
        while out.len() < count {
            let piece = self.peek(count - out.len())?;
            let n = piece.len();
            out.extend_from_slice(piece);
            self.position += n as u64;
        }
        Ok(Some(out))
    }

    /// Fetches at least `want` bytes, which are there, from where we are.
    fn fill(&mut self, want: usize) -> Result<(), ProbeError> {
        let remaining = usize::try_from(self.remaining()).unwrap_or(usize::MAX);
        // Each fetch counts as a whole buffer: its price is the call rather than the bytes.
        let price = remaining.min(BUFFER_BYTES) as u64;
        self.fetch_left = self.fetch_left.checked_sub(price).ok_or(ProbeError::TooComplex {
            format: self.format,
            detail: "scattered more than any real file is".to_owned(),
        })?;
        let end = self.buffer_start + self.buffer.len() as u64;
        // Over the rest of a frame that the last fetch ended in, too.
        let near = end + self.fetched as u64;
        let goes_on = self.fetched > 0 && (self.buffer_start..=near).contains(&self.position);
        let next = if goes_on { self.fetched * 2 } else { FIRST_BYTES };
        self.fetched = next.max(want).min(BUFFER_BYTES);
        self.source.seek(SeekFrom::Start(self.position)).map_err(ProbeError::Io)?;
        self.buffer.resize(self.fetched.min(remaining), 0);
        self.source.read_exact(&mut self.buffer).map_err(ProbeError::Io)?;
        self.buffer_start = self.position;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn reads_across_the_buffer_and_stops_at_the_end() {
        let data: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let mut cursor = Cursor::new(data.clone());
        let mut reader = Bounded::new(&mut cursor, &Limits::default()).unwrap();
        assert_eq!(reader.take_vec(150_000).unwrap().unwrap(), data[..150_000]);
        assert_eq!(reader.take::<4>().unwrap().unwrap(), data[150_000..150_004]);
        reader.seek_to(199_998);
        assert_eq!(reader.take::<4>().unwrap(), None);
        assert_eq!(reader.peek(10).unwrap(), &data[199_998..]);
        reader.skip(u64::MAX);
        assert_eq!(reader.position(), 200_000);
        assert!(reader.peek(1).unwrap().is_empty());
    }

    #[test]
    fn fetches_are_small_after_a_jump_and_grow_as_the_walk_goes_on() {
        let mut cursor = Cursor::new(vec![7; 10 * BUFFER_BYTES]);
        let mut reader = Bounded::new(&mut cursor, &Limits::default()).unwrap();
        let mut fetched = vec![];
        for _ in 0..6 {
            reader.peek(1).unwrap();
            fetched.push(reader.buffer.len());
            reader.skip(reader.buffer.len() as u64);
        }
        assert_eq!(fetched, [4, 8, 16, 32, 64, 64].map(|kib| kib << 10));
        reader.seek_to(0);
        assert_eq!(reader.peek(10_000).unwrap(), [7; 10_000]);
        reader.skip(9 * BUFFER_BYTES as u64);
        reader.peek(1).unwrap();
        assert_eq!(reader.buffer.len(), FIRST_BYTES);
    }

    #[test]
    fn going_to_and_fro_has_an_end() {
        let mut cursor = Cursor::new(vec![0; 10 * BUFFER_BYTES]);
        let mut reader = Bounded::new(&mut cursor, &Limits::default()).unwrap();
        let fetches_max = (FETCHED_BYTES_MORE / BUFFER_BYTES as u64) + 10 * FETCHED_TIMES_MAX;
        let mut back_and_forth = || {
            reader.seek_to(0);
            reader.peek(1)?;
            reader.seek_to(5 * BUFFER_BYTES as u64);
            reader.peek(1).map(drop)
        };
        for _ in 0..fetches_max / 2 {
            back_and_forth().unwrap();
        }
        assert!(matches!(back_and_forth(), Err(ProbeError::TooComplex { .. })));
    }
}
