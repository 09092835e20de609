//! What the first bytes of a file look like.
//!
//! Signatures and where they are written down: ISO BMFF `ftyp` (ISO/IEC 14496-12 §4.3), QuickTime
//! files without one (QTFF, "Overview of QTFF"), RIFF (Microsoft Multimedia Programming Interface
//! 1.0), RF64/BW64 (EBU Tech 3306, ITU-R BS.2088), EBML (RFC 8794 §11.2.1), PNG (§5.2), JPEG SOI
//! (ITU-T T.81 §B.1), PDF (ISO 32000-1 §7.5.2), zip (APPNOTE 4.3.7, 4.3.16), ID3v2 (§3.1), MPEG
//! audio headers (ISO/IEC 11172-3 §2.4.1.3).
//!
//! This is a hint, good for "it looks like mp3" in a refusal and for telling a text from a binary
//! file. What a file is, the walk of [`crate::probe`] decides.

use crate::types::Format;

/// Bytes of the head that are looked at.
pub(crate) const HEAD_BYTES: usize = 4096;

/// Brands of still images and image sequences coded with HEVC, or whose coding is not said (ISO/IEC 23008-12 §10).
const HEIF_BRANDS: [&[u8; 4]; 9] =
    [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"];

/// Signatures at the very start that need no second look.
const SIGNATURES: [(&[u8], Format); 4] = [
    (b"\x89PNG\r\n\x1a\n", Format::Png),
    (b"\xFF\xD8\xFF", Format::Jpeg),
    (b"\x1A\x45\xDF\xA3", Format::Mkv),
    (b"%PDF-", Format::Pdf),
];

/// What the first bytes look like; up to 4 KiB of them are read.
///
/// `Some(Txt)` means "UTF-8 text, or the start of one": JSON, CSV and Markdown cannot be told from
/// the head. `None` is anything that this crate does not know, such as GIF, FLAC or raw AAC.
pub fn sniff(head: &[u8]) -> Option<Format> {
    let head = head.get(..HEAD_BYTES).unwrap_or(head);
    match head.get(4..8) {
        Some(b"ftyp") => return sniff_brands(head),
        // Text could have these letters there too ("the moov"): a size that is none tells.
        Some(b"moov" | b"mdat" | b"wide" | b"pnot")
            if head.first().is_some_and(|size| *size < b' ') =>
        {
            return Some(Format::Mov);
        }
        _ => {}
    }
    match head.get(..12).and_then(|h| Some((h.first_chunk::<4>()?, h.last_chunk::<4>()?))) {
        Some((b"RIFF" | b"RF64" | b"BW64", b"WAVE")) => return Some(Format::Wav),
        Some((b"RIFF", b"AVI ")) => return Some(Format::Avi),
        Some((b"RIFF", b"WEBP")) => return Some(Format::Webp),
        _ => {}
    }
    if let Some((_, format)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature))
    {
        return Some(*format);
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Some(if holds_word_entry(head) { Format::Docx } else { Format::Zip });
    }
    if looks_like_mp3(head) {
        return Some(Format::Mp3);
    }
    looks_like_text(head).then_some(Format::Txt)
}

/// The format of a file that begins with `ftyp`.
fn sniff_brands(head: &[u8]) -> Option<Format> {
    let size = u32::from_be_bytes(*head.first_chunk::<4>()?) as usize;
    let body = head.get(8..size.max(12)).or_else(|| head.get(8..))?;
    format_of_brands(body)
}

/// The format that the body of an `ftyp` box promises: major brand, version, compatible brands.
pub(crate) fn format_of_brands(body: &[u8]) -> Option<Format> {
    let major = body.first_chunk::<4>()?;
    let compatible = || body.get(8..).unwrap_or_default().chunks_exact(4);
    let is_avif = |brand: &[u8]| matches!(brand, b"avif" | b"avis");
    match major {
        b"M4A " | b"M4B " | b"M4P " => Some(Format::M4a),
        b"qt  " => Some(Format::Mov),
        b"mif1" | b"mif2" | b"msf1" if compatible().any(is_avif) => None,
        b"avif" | b"avis" | b"jxl " | b"jp2 " | b"jpx " | b"crx " => None,
        brand if HEIF_BRANDS.contains(&brand) => Some(Format::Heic),
        _ => Some(Format::Mp4),
    }
}

/// Whether a local header in `head` names something below `word/`.
fn holds_word_entry(head: &[u8]) -> bool {
    // The name starts 30 bytes after the signature (APPNOTE 4.3.7).
    head.windows(35).any(|w| w.starts_with(b"PK\x03\x04") && w.ends_with(b"word/"))
}

fn looks_like_mp3(head: &[u8]) -> bool {
    if head.starts_with(b"ID3") {
        // Versions 2.2 to 2.4; the size is "synchsafe", so no byte of it has its top bit.
        return matches!(head.get(3), Some(2..=4))
            && head.get(6..10).is_some_and(|size| size.iter().all(|b| b & 0x80 == 0));
    }
    let Some(first) = mp3_frame_bytes(head) else { return false };
    // Two in a row: four bytes alone are too easily right by chance.
    head.get(first..).is_none_or(|next| next.len() < 4 || mp3_frame_bytes(next).is_some())
}

/// The length of the layer III frame whose header `data` starts with.
fn mp3_frame_bytes(data: &[u8]) -> Option<usize> {
    const KBPS_V1: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const KBPS_V2: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    let header = u32::from_be_bytes(*data.first_chunk::<4>()?);
    let (version, layer) = (header >> 19 & 3, header >> 17 & 3);
    if header >> 21 != 0x7FF || version == 1 || layer != 1 {
        return None;
    }
    let (table, samples, halvings) = match version {
        3 => (KBPS_V1, 144, 0),
        2 => (KBPS_V2, 72, 1),
        _ => (KBPS_V2, 72, 2),
    };
    let kbps = *table.get((header >> 12 & 15) as usize).filter(|kbps| **kbps > 0)?;
    let hz = *[44_100_u32, 48_000, 32_000].get((header >> 10 & 3) as usize)? >> halvings;
    Some((samples * kbps * 1000 / hz + (header >> 9 & 1)) as usize)
}

/// Whether `head` is the start of a UTF-8 text: a character cut at its end is forgiven.
fn looks_like_text(head: &[u8]) -> bool {
    if head.is_empty() || head.iter().any(|byte| is_binary_control(*byte)) {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && error.valid_up_to() > 0,
    }
}

/// Control characters that no text has: all but BEL to CR and ESC, the same line that file(1) draws
/// (`text_chars` in its encoding.c).
pub(crate) fn is_binary_control(byte: u8) -> bool {
    matches!(byte, 0x00..=0x06 | 0x0E..=0x1A | 0x1C..=0x1F | 0x7F)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_formats_by_their_first_bytes() {
        let cases: [(&[u8], Option<Format>); 26] = [
            (b"", None),
            (b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42", Some(Format::M4a)),
            (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", Some(Format::Mp4)),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", Some(Format::Mov)),
            (b"\0\0\0\x08wide\0\0\x10\0mdat", Some(Format::Mov)),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Some(Format::Heic)),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", None),
            (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", None),
            (b"RIFF\x24\0\0\0WAVEfmt ", Some(Format::Wav)),
            (b"RF64\xFF\xFF\xFF\xFFWAVEds64", Some(Format::Wav)),
            (b"RIFF\x24\0\0\0AVI LIST", Some(Format::Avi)),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some(Format::Webp)),
            (b"\x89PNG\r\n\x1a\n\0\0\0\x0D", Some(Format::Png)),
            (b"\xFF\xD8\xFF\xE0", Some(Format::Jpeg)),
            (b"\x1A\x45\xDF\xA3\x9F", Some(Format::Mkv)),
            (b"%PDF-1.7\n", Some(Format::Pdf)),
            (b"PK\x05\x06\0\0\0\0", Some(Format::Zip)),
            (b"ID3\x04\0\0\0\0\0\x7F", Some(Format::Mp3)),
            (b"ID3 tags are text", Some(Format::Txt)),
            (b"\xFF\xFB\x90\x64\0\0", Some(Format::Mp3)),
            (b"\xFF\xF1\x50\x80\0\0", None),
            (b"{\"a\": 1}", Some(Format::Txt)),
            ("héllo, 世界".as_bytes(), Some(Format::Txt)),
            (b"caf\xC3", Some(Format::Txt)),
            (b"caf\xE9 au lait", None),
            (b"a\0b", None),
        ];
        for (head, expected) in cases {
            assert_eq!(sniff(head), expected, "{:?}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn one_header_by_chance_is_no_mp3() {
        let mut head = vec![0xAA; 4096];
        head[..4].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x64]);
        assert_eq!(sniff(&head), None);
        head[417..421].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x64]);
        assert_eq!(sniff(&head), Some(Format::Mp3));
    }

    #[test]
    fn a_docx_is_told_from_a_zip_by_its_names() {
        let mut head = b"PK\x03\x04".to_vec();
        head.extend([0; 26]);
        head.extend(b"word/document.xml");
        assert_eq!(sniff(&head), Some(Format::Docx));
        head[30..34].copy_from_slice(b"text");
        assert_eq!(sniff(&head), Some(Format::Zip));
    }
}
