//! What a file really is: sniffing and measuring media, bounded in bytes and steps.
//!
//! Two questions are answered here, from the bytes alone and never from a header's claim:
//! [`sniff()`] says what the first bytes look like, and [`probe`] walks the whole file as the
//! [`Format`] its name promised and returns what it measured, or why the file is not that.
//!
//! INVARIANT: every walk is linear in the file and capped by [`Limits`], whatever the bytes say. A
//! length field never causes an allocation or a loop of its own size. Decoders of other crates are
//! only ever given one frame at a time, found by our own walk, inside `catch_unwind`: they can
//! neither run on nor take the process down.

mod avi;
mod bits;
mod bmff;
mod decode;
mod document;
mod image;
mod matroska;
mod mp3;
mod read;
mod sniff;
mod text;
mod types;
mod wav;

use std::io::{Read, Seek};

pub use decode::{caught, decoding};
pub use sniff::sniff;
pub use text::ArchivedText;
pub use types::{DecodeScope, Format, Limits, MediaInfo, ProbeError};

/// Walks `source` from its start as `format` and measures it.
///
/// # Errors
/// [`ProbeError`] says what is wrong in words a client may read; it never carries a path or file
/// content. [`ProbeError::Io`] is the reader's own fault and not the file's.
pub fn probe<R: Read + Seek>(
    source: &mut R,
    format: Format,
    limits: &Limits,
) -> Result<MediaInfo, ProbeError> {
    let mut reader = read::Bounded::new(source, limits)?;
    if reader.len() == 0 {
        return Err(ProbeError::Empty);
    }
    match format {
        Format::Mp3 => mp3::probe(&mut reader, limits),
        Format::Wav => wav::probe(&mut reader, limits),
        Format::M4a | Format::Mp4 | Format::Mov | Format::Heic => {
            bmff::probe(&mut reader, format, limits)
        }
        Format::Mkv => matroska::probe(&mut reader, limits),
        Format::Avi => avi::probe(&mut reader, limits),
        Format::Jpeg | Format::Png | Format::Webp => image::probe(&mut reader, format, limits),
        Format::Txt | Format::Markdown | Format::Csv => text::probe(&mut reader, format),
        Format::Zip => text::probe_zip(&mut reader, limits),
        Format::Json | Format::Jsonl | Format::Pdf | Format::Docx => {
            document::probe(&mut reader, format, limits)
        }
    }
}

/// Shows the texts in a zip archive of them to `visit`, piece by piece, until it answers false.
///
/// # Errors
/// As [`probe`], with the same bounds.
pub fn archived_texts<R: Read + Seek>(
    source: &mut R,
    limits: &Limits,
    visit: &mut dyn FnMut(ArchivedText<'_>) -> bool,
) -> Result<(), ProbeError> {
    text::show_zip(&mut read::Bounded::new(source, limits)?, limits, visit)
}
