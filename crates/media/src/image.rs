//! JPEG, PNG and WebP: size of the picture, and whether all of it is there.
//!
//! - PNG (W3C PNG, third edition, §5): a signature, then chunks of length, type, data and CRC, from
//!   `IHDR` through `IDAT`s to `IEND`. The CRCs of critical chunks are checked, so a damaged
//!   picture is refused too.
//! - JPEG (ITU-T T.81 §B): segments of marker and length. Behind the header of a scan (`SOS`) come
//!   coded data in which 0xFF is followed by 0x00 or a restart marker, until the next marker.
//!   Width and height are in the frame header (`SOFn`), or the height in `DNL` behind the first
//!   scan. `EOI` must come.
//! - WebP (RFC 9649): RIFF with `VP8 `, `VP8L`, or `VP8X` and more chunks behind.
//!
//! Phones and editors append their own data behind the end of a picture; that is tolerated, as
//! every viewer does. The picture data are not decoded, and an EXIF rotation is not applied.

use flate2::Crc;

use crate::read::Bounded;
use crate::sniff::{HEAD_BYTES, sniff};
use crate::types::{Format, Limits, MediaInfo, ProbeError, grouped};

/// Bytes looked at in one go: what the reader has in its buffer.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) fn probe(
    reader: &mut Bounded<'_>,
    format: Format,
    _limits: &Limits,
) -> Result<MediaInfo, ProbeError> {
    let found = sniff(reader.peek(HEAD_BYTES)?);
    if found != Some(format) {
        return Err(ProbeError::Mismatch { expected: format, found });
    }
    let size = match format {
        Format::Png => read_png(reader)?,
        Format::Webp => read_webp(reader)?,
        _ => read_jpeg(reader)?,
    };
    let Some(Size { width, height }) = size.filter(|size| size.width > 0 && size.height > 0) else {
        return Err(ProbeError::undecodable(format, "it has no width and height"));
    };
    let mut info = MediaInfo::new(format);
    info.width_px = Some(width);
    info.height_px = Some(height);
    Ok(info)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    width: u32,
    height: u32,
}

fn read_png(reader: &mut Bounded<'_>) -> Result<Option<Size>, ProbeError> {
    const FORMAT: Format = Format::Png;
    reader.skip(8);
    let mut size = None;
    let mut has_data = false;
    loop {
        reader.step(FORMAT)?;
        let start = reader.position();
        let Some([a, b, c, d, kind @ ..]) = reader.take::<8>()? else {
            return Err(ProbeError::truncated(FORMAT, "there is no end chunk"));
        };
        let len = u64::from(u32::from_be_bytes([a, b, c, d]));
        if !kind.iter().all(u8::is_ascii_alphabetic) {
            let detail = format!("no chunk begins at byte {}", grouped(start));
            return Err(ProbeError::undecodable(FORMAT, detail));
        }
        let name = kind.map(char::from).iter().collect::<String>();
        let end = reader.position().saturating_add(len).saturating_add(4);
        if end > reader.len() {
            let what = format!("chunk '{name}'");
            return Err(ProbeError::ends_past_file(FORMAT, what, end, reader.len()));
        }
        if size.is_none() {
            if &kind != b"IHDR" || len != 13 {
                return Err(ProbeError::undecodable(FORMAT, "the first chunk is no header"));
            }
            size = parse_ihdr(reader.peek(13)?);
        }
        has_data |= &kind == b"IDAT" && len > 0;
        // Ancillary chunks have a small first letter; decoders step over broken ones.
        if kind.first().is_some_and(u8::is_ascii_uppercase) {
            if !png_crc_holds(reader, kind, len)? {
                return Err(ProbeError::undecodable(
                    FORMAT,
                    format!("chunk '{name}' at byte {} is damaged", grouped(start)),
                ));
            }
        } else {
            reader.seek_to(end);
        }
        if &kind == b"IEND" {
            return if has_data {
                Ok(size)
            } else {
                Err(ProbeError::undecodable(FORMAT, "it has no picture data"))
            };
        }
    }
}

/// Reads a chunk's data and its CRC, which is over type and data.
fn png_crc_holds(reader: &mut Bounded<'_>, kind: [u8; 4], len: u64) -> Result<bool, ProbeError> {
    let mut crc = Crc::new();
    crc.update(&kind);
    let mut left = len;
    while left > 0 {
        let piece = reader.peek(PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES)))?;
        if piece.is_empty() {
            return Ok(false);
        }
        crc.update(piece);
        let read = piece.len() as u64;
        left -= read;
        reader.skip(read);
    }
    Ok(reader.take::<4>()?.map(u32::from_be_bytes) == Some(crc.sum()))
}

fn parse_ihdr(body: &[u8]) -> Option<Size> {
    let width = u32::from_be_bytes(*body.first_chunk()?);
    let height = u32::from_be_bytes(*body.get(4..)?.first_chunk()?);
    // "Zero is an invalid value", and 2^31 - 1 the largest (§11.2.1).
    let valid = |side| i32::try_from(side).is_ok_and(|side| side > 0);
    (valid(width) && valid(height)).then_some(Size { width, height })
}

fn read_jpeg(reader: &mut Bounded<'_>) -> Result<Option<Size>, ProbeError> {
    const FORMAT: Format = Format::Jpeg;
    const SOI: u8 = 0xD8;
    const EOI: u8 = 0xD9;
    const SOS: u8 = 0xDA;
    const DNL: u8 = 0xDC;
    let mut size: Option<Size> = None;
    let mut has_scan = false;
    reader.skip(2);
    loop {
        reader.step(FORMAT)?;
        let start = reader.position();
        let marker = next_marker(reader)?;
        match marker {
            EOI if has_scan => return Ok(size),
            EOI => return Err(ProbeError::undecodable(FORMAT, "it has no picture data")),
            // TEM and restart markers stand alone.
            0x01 | 0xD0..=0xD7 => continue,
            0x00 | SOI => {
                let detail = format!("no segment begins at byte {}", grouped(start));
                return Err(ProbeError::undecodable(FORMAT, detail));
            }
            _ => {}
        }
        let body = reader.position();
        let Some(len) = reader.take::<2>()?.map(u16::from_be_bytes) else {
            return Err(no_end_of_image());
        };
        let end = body + u64::from(len.max(2));
        if end > reader.len() {
            let what = format!("segment {marker:X}");
            return Err(ProbeError::ends_past_file(FORMAT, what, end, reader.len()));
        }
        match marker {
            // All start-of-frame markers; C4, C8 and CC are other things.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF if size.is_none() => {
                size = parse_sof(reader.peek(5)?);
            }
            DNL => {
                let height = reader.peek(2)?.first_chunk().map(|b| u16::from_be_bytes(*b).into());
                if let (Some(size), Some(height)) = (&mut size, height) {
                    size.height = if size.height == 0 { height } else { size.height };
                }
            }
            SOS if size.is_none() => {
                return Err(ProbeError::undecodable(FORMAT, "a scan before the frame header"));
            }
            _ => {}
        }
        reader.seek_to(end);
        if marker == SOS {
            has_scan = true;
            skip_scan(reader)?;
        }
    }
}

fn no_end_of_image() -> ProbeError {
    ProbeError::truncated(Format::Jpeg, "there is no end-of-image marker")
}

/// Reads a marker's second byte. Any number of 0xFF may stand before it (§B.1.1.2).
fn next_marker(reader: &mut Bounded<'_>) -> Result<u8, ProbeError> {
    let start = reader.position();
    if reader.peek(1)?.first().is_some_and(|byte| *byte != 0xFF) {
        let detail = format!("no segment begins at byte {}", grouped(start));
        return Err(ProbeError::undecodable(Format::Jpeg, detail));
    }
    loop {
        let piece = reader.peek(PIECE_BYTES)?;
        if piece.is_empty() {
            return Err(no_end_of_image());
        }
        let fill = piece.iter().position(|byte| *byte != 0xFF);
        let marker = fill.and_then(|at| piece.get(at)).copied();
        let read = fill.map_or(piece.len(), |at| at + 1) as u64;
        reader.skip(read);
        if let Some(marker) = marker {
            return Ok(marker);
        }
    }
}

/// Moves to the first marker behind coded data.
fn skip_scan(reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
    loop {
        let piece = reader.peek(PIECE_BYTES)?;
        let len = piece.len();
        let mut at = 0;
        let found = loop {
            let rest = piece.get(at..).unwrap_or_default();
            let Some(next) = memchr::memchr(0xFF, rest) else { break None };
            at += next;
            match piece.get(at + 1) {
                // Zero is a stuffed byte; RSTn go on with the same scan; 0xFF may be fill.
                Some(0x00 | 0xD0..=0xD7) => at += 2,
                Some(0xFF) => at += 1,
                Some(_) => break Some(at),
                // The pair is cut by the piece, which begins with it next time.
                None => break None,
            }
        };
        if let Some(found) = found {
            reader.skip(found as u64);
            return Ok(());
        }
        // A lone 0xFF at the end of the piece is kept, unless it is all there is.
        let keep = usize::from(piece.last() == Some(&0xFF) && at + 1 == len);
        if len <= keep {
            return Err(no_end_of_image());
        }
        reader.skip((len - keep) as u64);
    }
}

/// Precision, height, width.
fn parse_sof(body: &[u8]) -> Option<Size> {
    let side = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?).into());
    Some(Size { height: side(1)?, width: side(3)? })
}

fn read_webp(reader: &mut Bounded<'_>) -> Result<Option<Size>, ProbeError> {
    const FORMAT: Format = Format::Webp;
    let head = reader.take::<12>()?.unwrap_or_default();
    let riff = head.get(4..).and_then(|size| size.first_chunk().copied()).unwrap_or_default();
    let riff_end = 8 + u64::from(u32::from_le_bytes(riff));
    if riff_end > reader.len() {
        return Err(ProbeError::ends_past_file(FORMAT, "the RIFF", riff_end, reader.len()));
    }
    let (mut canvas, mut size) = (None, None);
    let mut frames = 0_u64;
    while riff_end.saturating_sub(reader.position()) >= 8 {
        reader.step(FORMAT)?;
        let Some([a, b, c, d, len @ ..]) = reader.take::<8>()? else { break };
        let len = u64::from(u32::from_le_bytes(len));
        let body = reader.position();
        let end = body + len;
        if end > riff_end {
            return Err(ProbeError::undecodable(FORMAT, "a chunk ends outside the RIFF"));
        }
        let head = reader.peek(10.min(len as usize))?;
        match &[a, b, c, d] {
            b"VP8X" => canvas = parse_vp8x(head),
            b"VP8 " if size.is_none() => size = Some(parse_vp8(head, len)),
            b"VP8L" if size.is_none() => size = Some(parse_vp8l(head)),
            b"ANMF" => frames += 1,
            _ => {}
        }
        reader.seek_to(end + end % 2);
    }
    match (canvas, size) {
        (Some(canvas), Some(Some(_))) => Ok(Some(canvas)),
        (Some(canvas), None) if frames > 0 => Ok(Some(canvas)),
        (None, Some(Some(size))) => Ok(Some(size)),
        (_, Some(None)) => Err(ProbeError::undecodable(FORMAT, "its picture has no header")),
        _ => Err(ProbeError::undecodable(FORMAT, "it has no picture data")),
    }
}

/// Flags, and the canvas less one in 24 bits each (§2.7).
fn parse_vp8x(body: &[u8]) -> Option<Size> {
    let side = |at: usize| {
        let [a, b, c] = *body.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes([a, b, c, 0]) + 1)
    };
    Some(Size { width: side(4)?, height: side(7)? })
}

/// A key frame: a tag with the length of the first partition, a start code, 14 bits a side with a
/// scale above them (RFC 6386 §9.1).
fn parse_vp8(body: &[u8], len: u64) -> Option<Size> {
    let [a, b, c, rest @ ..] = *body.first_chunk::<10>()?;
    let tag = u32::from_le_bytes([a, b, c, 0]);
    let [0x9D, 0x01, 0x2A, w0, w1, h0, h1] = rest else { return None };
    let is_key = tag & 1 == 0;
    let partition = u64::from(tag >> 5);
    let side = |a, b| u32::from(u16::from_le_bytes([a, b]) & 0x3FFF);
    (is_key && partition <= len).then(|| Size { width: side(w0, w1), height: side(h0, h1) })
}

/// A signature, 14 bits a side less one, a bit for alpha and a version of 0 (RFC 9649 §3.4).
fn parse_vp8l(body: &[u8]) -> Option<Size> {
    let [0x2F, bits @ ..] = *body.first_chunk::<5>()? else { return None };
    let bits = u32::from_le_bytes(bits);
    let size = Size { width: (bits & 0x3FFF) + 1, height: (bits >> 14 & 0x3FFF) + 1 };
    (bits >> 29 == 0).then_some(size)
}
