//! Boxes and the few shapes they hold.
//!
//! A box is a 32-bit size that counts its own header, a four-character type, and a body; size 1
//! puts a 64-bit size behind the type, size 0 means "to the end" (ISO/IEC 14496-12 §4.2). A "full
//! box" starts its body with a version byte and 24 flags.

use std::fmt;

use crate::read::Bounded;
use crate::types::{Format, ProbeError};

/// Bytes of a small box (`tkhd`, `stsd`, …) that are looked at. A sample description with its
/// codec's parameter sets is a few hundred bytes; tables are read in blocks instead.
const BODY_BYTES_MAX: u64 = 64 << 10;

/// Where a box is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) start: u64,
    pub(super) body: u64,
    pub(super) end: u64,
}

impl Head {
    /// The first bytes of the body: all of it unless it is larger than any real one.
    pub(super) fn read(&self, reader: &mut Bounded<'_>) -> Result<Vec<u8>, ProbeError> {
        reader.seek_to(self.body);
        let len = self.end.saturating_sub(self.body).min(BODY_BYTES_MAX).min(reader.remaining());
        Ok(reader.take_vec(len as usize)?.unwrap_or_default())
    }
}

/// A four-character type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(pub(super) [u8; 4]);

impl Kind {
    /// Printable, or Apple's `©` in Mac Roman. Anything else is no type that was ever registered.
    pub(super) fn is_plausible(self) -> bool {
        self.0.iter().all(|byte| matches!(byte, 0x20..=0x7E | 0xA9))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            0x20..=0x7E => write!(f, "{}", char::from(*byte)),
            _ => f.write_str("?"),
        })
    }
}

/// The boxes of one parent, or of the file, in order. It keeps its own place, so the reader may be
/// moved between two of them.
#[derive(Debug)]
pub(super) struct Walk {
    format: Format,
    next: u64,
    end: u64,
    is_file: bool,
}

impl Walk {
    pub(super) fn file(reader: &Bounded<'_>, format: Format) -> Self {
        Self { format, next: 0, end: reader.len(), is_file: true }
    }

    /// The boxes inside `parent`, after `skip` bytes of its own fields.
    pub(super) fn inside(format: Format, parent: &Head, skip: u64) -> Self {
        Self { format, next: parent.body.saturating_add(skip), end: parent.end, is_file: false }
    }

    /// The next box, or `None` at the end. Each costs a step and at least eight bytes.
    ///
    /// QuickTime ends some lists with four zero bytes, so fewer than eight left over are no error.
    pub(super) fn next(&mut self, reader: &mut Bounded<'_>) -> Result<Option<Head>, ProbeError> {
        let start = self.next;
        if self.end.saturating_sub(start) < 8 {
            return Ok(None);
        }
        reader.step(self.format)?;
        reader.seek_to(start);
        let Some([a, b, c, d, kind @ ..]) = reader.take::<8>()? else { return Ok(None) };
        let kind = Kind(kind);
        let (header, size) = match u32::from_be_bytes([a, b, c, d]) {
            0 => (8, self.end - start),
            1 => match reader.take::<8>()? {
                Some(size) => (16, u64::from_be_bytes(size)),
                None => return Err(self.beyond(kind, start.saturating_add(16), reader.len())),
            },
            size => (8, u64::from(size)),
        };
        if size < header {
            let detail = format!("a box of {size} bytes at byte {start}");
            return Err(ProbeError::undecodable(self.format, detail));
        }
        let end = start.saturating_add(size);
        if end > self.end {
            if self.is_file && !kind.is_plausible() {
                return Ok(None);
            }
            return Err(self.beyond(kind, end, reader.len()));
        }
        self.next = end;
        Ok(Some(Head { kind, start, body: start + header, end }))
    }

    /// Bytes behind the last box.
    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }

    fn beyond(&self, kind: Kind, end: u64, len: u64) -> ProbeError {
        if end > len {
            return ProbeError::ends_past_file(self.format, format_args!("box '{kind}'"), end, len);
        }
        ProbeError::undecodable(self.format, format!("box '{kind}' ends outside its parent"))
    }
}

/// Big-endian fields of a body in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// An integer of `width` bytes, 0 to 8; 0 bytes are the number 0.
    pub(super) fn uint(&mut self, width: usize) -> Option<u64> {
        let bytes = self.bytes(width)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        self.bytes(count).map(drop)
    }

    /// Version and flags of a full box.
    pub(super) fn version_flags(&mut self) -> Option<(u8, u32)> {
        let word = self.u32()?;
        Some(((word >> 24) as u8, word & 0x00FF_FFFF))
    }

    /// The body of the first child box of this kind.
    pub(super) fn child(mut self, kind: [u8; 4]) -> Option<Fields<'a>> {
        loop {
            let (found, body) = self.next_child()?;
            if found == kind {
                return Some(body);
            }
        }
    }

    /// The next child box; sizes that do not fit end the list.
    pub(super) fn next_child(&mut self) -> Option<([u8; 4], Fields<'a>)> {
        let size = self.u32()? as usize;
        let kind = self.array()?;
        let body = if size == 0 { self.0.len() } else { size.checked_sub(8)? };
        Some((kind, Fields(self.bytes(body)?)))
    }
}
