//! Texts: UTF-8, counted in Unicode scalar values, and zip archives of them (see `text/archive.rs`).
//!
//! A byte order mark is allowed and not counted. Text that looks like another format, or holds a
//! control character that no text has (see [`crate::sniff()`]), is refused: it would cost the caller
//! characters and come out as noise. Every format here that begins with text (PDF) says so by its
//! signature.

mod archive;
mod show;

pub(crate) use archive::{Archive, Role, probe as probe_zip};
pub(crate) use show::show as show_zip;

pub use show::ArchivedText;

use crate::read::Bounded;
use crate::sniff::{HEAD_BYTES, is_binary_control, sniff};
use crate::types::{Format, MediaInfo, ProbeError, grouped};

/// Bytes checked in one go: what the reader has in its buffer.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) fn probe(reader: &mut Bounded<'_>, format: Format) -> Result<MediaInfo, ProbeError> {
    refuse_other_formats(reader, format)?;
    let mut text = Utf8Count::default();
    feed(reader, |piece| text.push(piece).map_err(|fault| fault.refusal(format, "")))?;
    let characters = text.finish().map_err(|fault| fault.refusal(format, ""))?;
    if characters == 0 {
        return Err(ProbeError::Empty);
    }
    let mut info = MediaInfo::new(format);
    info.characters = Some(characters);
    Ok(info)
}

/// A mismatch if the head looks like anything but text.
pub(crate) fn refuse_other_formats(
    reader: &mut Bounded<'_>,
    format: Format,
) -> Result<(), ProbeError> {
    let head = reader.peek(HEAD_BYTES)?;
    // UTF-16 has a zero in nearly every character; its mark says it plainly.
    if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
        return Err(ProbeError::unsupported(format, "it is UTF-16, not UTF-8"));
    }
    let found = sniff(head);
    let is_binary = head.iter().any(|byte| is_binary_control(*byte));
    match found {
        Some(Format::Txt) => Ok(()),
        None if !is_binary => Ok(()),
        found => Err(ProbeError::Mismatch { expected: format, found }),
    }
}

/// Shows the rest of the file to `check`, piece by piece.
pub(crate) fn feed(
    reader: &mut Bounded<'_>,
    mut check: impl FnMut(&[u8]) -> Result<(), ProbeError>,
) -> Result<(), ProbeError> {
    loop {
        let piece = reader.peek(PIECE_BYTES)?;
        if piece.is_empty() {
            return Ok(());
        }
        check(piece)?;
        let read = piece.len() as u64;
        reader.skip(read);
    }
}

/// Why bytes are no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The byte at this offset is not UTF-8.
    NotUtf8(u64),
    /// The byte at this offset is a control character that no text has.
    Binary(u64),
    /// The text ends inside a character.
    Cut,
}

impl Fault {
    /// In words; `whose` is empty or says which part of the file, with a space behind.
    pub(crate) fn refusal(self, format: Format, whose: &str) -> ProbeError {
        match self {
            Self::NotUtf8(at) => {
                let detail = format!("{whose}byte {} is not UTF-8", grouped(at));
                ProbeError::undecodable(format, detail)
            }
            Self::Binary(at) => {
                let detail = format!("{whose}byte {} is a binary control character", grouped(at));
                ProbeError::undecodable(format, detail)
            }
            Self::Cut => {
                ProbeError::truncated(format, format!("{whose}text ends inside a character"))
            }
        }
    }
}

/// Checks and counts UTF-8 that comes in pieces cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Utf8Count {
    /// The start of a character whose end is in the next piece.
    carry: [u8; 4],
    carried: usize,
    offset: u64,
    characters: u64,
    has_mark: bool,
}

impl Utf8Count {
    pub(crate) fn push(&mut self, mut piece: &[u8]) -> Result<(), Fault> {
        while self.carried > 0 {
            let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
            let Some(free) = self.carry.get_mut(self.carried) else {
                return Err(Fault::NotUtf8(self.offset));
            };
            (*free, piece) = (*byte, rest);
            self.carried += 1;
            let bytes = self.carry;
            let bytes = bytes.get(..self.carried).unwrap_or_default();
            match std::str::from_utf8(bytes) {
                Ok(text) => {
                    self.count(text);
                    self.offset += self.carried as u64;
                    self.carried = 0;
                }
                Err(error) if error.error_len().is_some() => {
                    return Err(Fault::NotUtf8(self.offset));
                }
                Err(_) => {}
            }
        }
        if let Some(at) = piece.iter().position(|byte| is_binary_control(*byte)) {
            return Err(Fault::Binary(self.offset + at as u64));
        }
        let (text, rest) = match std::str::from_utf8(piece) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (valid, rest) = piece.split_at(error.valid_up_to());
                if error.error_len().is_some() {
                    return Err(Fault::NotUtf8(self.offset + valid.len() as u64));
                }
                (std::str::from_utf8(valid).unwrap_or_default(), rest)
            }
        };
        self.count(text);
        self.offset += text.len() as u64;
        for (free, byte) in self.carry.iter_mut().zip(rest) {
            *free = *byte;
        }
        self.carried = rest.len();
        Ok(())
    }

    /// The number of characters, without a byte order mark.
    pub(crate) fn finish(&self) -> Result<u64, Fault> {
        if self.carried > 0 {
            return Err(Fault::Cut);
        }
        Ok(self.characters - u64::from(self.has_mark))
    }

    fn count(&mut self, text: &str) {
        if self.offset == 0 && text.starts_with('\u{FEFF}') {
            self.has_mark = true;
        }
        self.characters += text.chars().count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bytes: &[u8], pieces: usize) -> Result<u64, Fault> {
        let mut text = Utf8Count::default();
        for piece in bytes.chunks(pieces) {
            text.push(piece)?;
        }
        text.finish()
    }

    #[test]
    fn counts_the_same_however_it_is_cut() {
        let text = "\u{FEFF}a é 世界 🎧\r\n";
        for pieces in 1..=text.len() {
            assert_eq!(count(text.as_bytes(), pieces), Ok(10), "{pieces}");
            assert_eq!(count(b"ok \xC3\x28", pieces), Err(Fault::NotUtf8(3)), "{pieces}");
            assert_eq!(count(b"ok \xF0\x9F\x8E", pieces), Err(Fault::Cut), "{pieces}");
            assert_eq!(count(b"\xC3\xA9\0", pieces), Err(Fault::Binary(2)), "{pieces}");
            // A surrogate and an overlong slash.
            assert_eq!(count(b"\xED\xA0\x80", pieces), Err(Fault::NotUtf8(0)), "{pieces}");
            assert_eq!(count(b"\xC0\xAF", pieces), Err(Fault::NotUtf8(0)), "{pieces}");
        }
        assert_eq!(count(b"", 1), Ok(0));
    }
}
