//! The tags around the frames, and how long they are: all that has to be known of them.
//!
//! In front: ID3v2 (id3.org, "ID3 tag version 2.4.0" §3.1): `ID3`, version 2, flags 1, size 4 in
//! seven bits each ("synchsafe"), then so many bytes, then a footer of 10 if flag 0x10 is set.
//! Several in a row happen. At the end, from the last: ID3v1 (`TAG`, 128 bytes, with `TAG+` of 227
//! before it), Lyrics3 v2 (`LYRICSBEGIN` … size in 6 digits `LYRICS200`), APEv1/v2 (a footer of 32
//! bytes with the size, maybe a header of 32), ID3v2.4 with its footer `3DI`.

use crate::read::Bounded;
use crate::types::{Format, ProbeError, grouped};

/// Tags at one end of a file, at most. More are left for the walk to stumble over.
const TAGS_MAX: usize = 16;

/// Moves past the ID3v2 tags at the reader's place and says whether there were any.
pub(super) fn skip_leading(reader: &mut Bounded<'_>) -> Result<bool, ProbeError> {
    let mut any = false;
    while let Some(bytes) = id3v2_bytes(reader.peek(10)?) {
        reader.step(Format::Mp3)?;
        skip_whole(reader, "ID3v2", bytes)?;
        any = true;
    }
    Ok(any)
}

/// Moves past a tag in the midst of the frames, as joined files have, or at their end.
pub(super) fn skip_inner(reader: &mut Bounded<'_>) -> Result<bool, ProbeError> {
    let head = reader.peek(32)?;
    if let Some(bytes) = id3v2_bytes(head) {
        skip_whole(reader, "ID3v2", bytes)?;
    } else if head.starts_with(b"TAG") {
        skip_whole(reader, "ID3v1", 128)?;
    } else if let Some(size) = ape_bytes(head) {
        skip_whole(reader, "APE", size.saturating_add(32))?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Where the tags at the end of the file begin, or the end itself. The reader stays in place.
pub(super) fn audio_end(reader: &mut Bounded<'_>) -> Result<u64, ProbeError> {
    let start = reader.position();
    let mut end = reader.len();
    for _ in 0..TAGS_MAX {
        let Some(bytes) = last_tag_bytes(reader, start, end)? else { break };
        end = end.saturating_sub(bytes);
    }
    reader.seek_to(start);
    Ok(end)
}

fn skip_whole(reader: &mut Bounded<'_>, name: &str, bytes: u64) -> Result<(), ProbeError> {
    let left = reader.remaining();
    if left < bytes {
        let (bytes, left) = (grouped(bytes), grouped(left));
        let detail = format!("its {name} tag has {bytes} bytes, {left} are left");
        return Err(ProbeError::truncated(Format::Mp3, detail));
    }
    reader.skip(bytes);
    Ok(())
}

/// The length of the tag that ends at `end`, if one does, wholly behind `start`.
fn last_tag_bytes(
    reader: &mut Bounded<'_>,
    start: u64,
    end: u64,
) -> Result<Option<u64>, ProbeError> {
    let room = end.saturating_sub(start);
    let mut tail = [0; 32];
    if before(reader, start, end, 128, &mut tail)? && tail.starts_with(b"TAG") {
        let extended = before(reader, start, end, 128 + 227, &mut tail)?;
        return Ok(Some(if extended && tail.starts_with(b"TAG+") { 128 + 227 } else { 128 }));
    }
    if !before(reader, start, end, 32, &mut tail)? {
        return Ok(None);
    }
    let bytes = if let Some(size) = ape_bytes(&tail) {
        // The size has the footer in it, but not the header that flag 31 tells of.
        size.saturating_add(if tail[23] & 0x80 == 0 { 0 } else { 32 })
    } else if tail.ends_with(b"LYRICS200") {
        let digits = std::str::from_utf8(&tail[17..23]).ok();
        digits.and_then(|digits| digits.parse::<u64>().ok()).map_or(0, |size| size + 15)
    } else if tail[22..].starts_with(b"3DI") {
        id3v2_size(&tail[22..]).map_or(0, |size| size.saturating_add(20))
    } else {
        0
    };
    Ok((1..=room).contains(&bytes).then_some(bytes))
}

/// Reads the 32 bytes that start `back` before `end`, if they are behind `start`.
fn before(
    reader: &mut Bounded<'_>,
    start: u64,
    end: u64,
    back: u64,
    out: &mut [u8; 32],
) -> Result<bool, ProbeError> {
    let Some(at) = end.checked_sub(back).filter(|at| *at >= start) else { return Ok(false) };
    reader.seek_to(at);
    if let Some(bytes) = reader.take::<32>()? {
        *out = bytes;
        return Ok(true);
    }
    Ok(false)
}

/// The whole length of the ID3v2 tag that starts with `head`.
fn id3v2_bytes(head: &[u8]) -> Option<u64> {
    let flags = *head.get(5)?;
    if !head.starts_with(b"ID3") || head.get(3..5)?.contains(&0xff) {
        return None;
    }
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    Some(id3v2_size(head)?.saturating_add(10 + footer))
}

fn id3v2_size(head: &[u8]) -> Option<u64> {
    let size = head.get(6..10)?;
    if size.iter().any(|b| b & 0x80 != 0) {
        return None;
    }
    Some(size.iter().fold(0, |sum, b| (sum << 7) | u64::from(*b)))
}

/// The size in an APE header or footer: of items and footer.
fn ape_bytes(head: &[u8]) -> Option<u64> {
    let size = head.strip_prefix(b"APETAGEX")?.get(4..8)?.first_chunk()?;
    Some(u64::from(u32::from_le_bytes(*size))).filter(|size| *size >= 32)
}
