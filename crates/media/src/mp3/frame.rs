//! One frame: its header, its side information, and the Xing, Info or VBRI header that the first
//! one may hold in place of audio.
//!
//! Header, 32 bits (ISO/IEC 11172-3 §2.4.1.3; 13818-3 §2.4.2.3 for the low rates; "MPEG-2.5" is
//! Fraunhofer's extension, with one bit of the sync word taken for the version):
//! sync 11, version 2, layer 2, no CRC 1, bit rate 4, sample rate 2, padding 1, private 1, mode 2,
//! mode extension 2, copyright 1, original 1, emphasis 2. A frame of layer III holds 1152 samples
//! (576 at the low rates) and is `samples / 8 * bit rate / sample rate` bytes long, plus padding.
//!
//! Side information follows (§2.4.1.7): 17 or 32 bytes, at the low rates 9 or 17. It says how many
//! bits each granule has and how far back in the data of *earlier* frames they begin: the bit
//! reservoir.
//!
//! The Xing/Info header stands where the main data of the first frame would; the LAME tag after it
//! has the encoder's delay and padding ("Mp3 Info Tag rev 1", gabriel.mp3-tech.org). VBRI is the
//! same by Fraunhofer, always 32 bytes after the header.

use crate::bits::Bits;

/// Bytes of the longest frame: 320 kbit/s at 32 kHz or 160 at 8 kHz, with padding.
pub(super) const FRAME_BYTES_MAX: usize = 1441;

/// Bytes of a header, a checksum and the longest side information.
pub(super) const FRAME_HEAD_BYTES: usize = 4 + 2 + 32;

/// Samples by which every decoder is late, and what ffmpeg and mpg123 skip beside the encoder's
/// own delay.
const DECODER_DELAY: u32 = 528 + 1;

/// What four bytes turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The header of a frame that we can walk.
    Layer3(Header),
    /// A header of layer III whose bit rate is "free": the length is not in it.
    FreeFormat,
    /// A header of layer I or II, with the length of its frame.
    OtherLayer { layer: u8, bytes: usize },
    /// No header.
    Nothing,
}

/// The header of a layer III frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// MPEG-1, as opposed to the low rates of MPEG-2 and 2.5.
    full_rate: bool,
    pub(super) sample_rate_hz: u32,
    pub(super) channels: u16,
    /// All of the frame, this header included.
    pub(super) bytes: usize,
    checksum: bool,
}

impl Header {
    pub(super) fn samples(&self) -> u32 {
        if self.full_rate { 1152 } else { 576 }
    }

    /// Whether both can be frames of one stream. The sample rate stands for the version too: no
    /// two versions share one.
    pub(super) fn same_stream(&self, other: &Self) -> bool {
        self.sample_rate_hz == other.sample_rate_hz && self.channels == other.channels
    }

    fn side_info_bytes(&self) -> usize {
        match (self.full_rate, self.channels) {
            (true, 1) | (false, 2) => 17,
            (true, _) => 32,
            (false, _) => 9,
        }
    }

    /// Bytes of main data that this frame carries, for itself and later ones.
    fn main_bytes(&self) -> usize {
        let head = 4 + if self.checksum { 2 } else { 0 } + self.side_info_bytes();
        self.bytes.saturating_sub(head)
    }
}

/// Reads the four bytes that `data` starts with.
pub(super) fn parse(data: &[u8]) -> Word {
    const KBPS: [[u32; 15]; 5] = [
        [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let Some(word) = data.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else {
        return Word::Nothing;
    };
    let field = |shift: u32, mask: u32| (word >> shift & mask) as usize;
    let halvings = match field(19, 3) {
        3 => 0,
        2 => 1,
        0 => 2,
        _ => return Word::Nothing,
    };
    let full_rate = halvings == 0;
    let layer = 4 - field(17, 3) as u8;
    let table = match (full_rate, layer) {
        (true, 1..=3) => usize::from(layer) - 1,
        (false, 1) => 3,
        (false, 2..=3) => 4,
        _ => return Word::Nothing,
    };
    let rate = [44_100u32, 48_000, 32_000].get(field(10, 3));
    let kbps = KBPS.get(table).and_then(|row| row.get(field(12, 15)));
    let (Some(rate), Some(&kbps), 0x7ff) = (rate, kbps, field(21, 0x7ff)) else {
        return Word::Nothing;
    };
    let sample_rate_hz = rate >> halvings;
    let padding = field(9, 1);
    let bytes = |per_bit: u32| (per_bit * kbps * 1000 / sample_rate_hz) as usize + padding;
    match (layer, kbps) {
        (3, 0) => Word::FreeFormat,
        (3, _) => Word::Layer3(Header {
            full_rate,
            sample_rate_hz,
            channels: if field(6, 3) == 3 { 1 } else { 2 },
            bytes: bytes(if full_rate { 144 } else { 72 }),
            checksum: field(16, 1) == 0,
        }),
        (2, 1..) => Word::OtherLayer { layer, bytes: bytes(144) },
        (1, 1..) => Word::OtherLayer { layer, bytes: bytes(12) * 4 },
        _ => Word::Nothing,
    }
}

/// Where a frame's main data begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SideInfo {
    /// Bytes before this frame's own main data.
    begin_back_bytes: u64,
    /// Bits of all its granules.
    bits: u64,
}

/// Reads the side information of the frame that starts with `head` ([`FRAME_HEAD_BYTES`] of it, or
/// the whole frame); `None` if it has values that the standard forbids.
fn side_info(header: &Header, head: &[u8]) -> Option<SideInfo> {
    let mut bits = Bits { bytes: head, at: if header.checksum { 48 } else { 32 } };
    let channels = usize::from(header.channels);
    let begin_back_bytes;
    let granules;
    if header.full_rate {
        begin_back_bytes = bits.take(9)?;
        bits.at += if channels == 1 { 5 + 4 } else { 3 + 8 };
        granules = 2 * channels;
    } else {
        begin_back_bytes = bits.take(8)?;
        bits.at += if channels == 1 { 1 } else { 2 };
        granules = channels;
    }
    let mut sum = 0;
    for _ in 0..granules {
        sum += granule_bits(header, &mut bits)?;
    }
    Some(SideInfo { begin_back_bytes: begin_back_bytes.into(), bits: sum.into() })
}

/// The length of one granule of one channel, if what else is said of it makes sense.
fn granule_bits(header: &Header, bits: &mut Bits<'_>) -> Option<u32> {
    let length = bits.take(12)?;
    let pairs = bits.take(9)?;
    bits.at += 8 + if header.full_rate { 4 } else { 9 };
    let switched = bits.take(1)? == 1;
    let block_type = if switched { bits.take(2)? } else { 1 };
    bits.at += usize::from(switched);
    let mut tables_known = true;
    for _ in 0..if switched { 2 } else { 3 } {
        // Tables 4 and 14 do not exist (11172-3 table B.7).
        tables_known &= !matches!(bits.take(5)?, 4 | 14);
    }
    bits.at += if switched { 9 } else { 7 } + if header.full_rate { 3 } else { 2 };
    // 576 lines are 288 pairs; block type 0 is what no switching means.
    (pairs <= 288 && block_type != 0 && tables_known).then_some(length)
}

/// How a frame fits to the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Its data lies behind that of the frame before and inside what has been read.
    Whole,
    /// It begins in frames that have not been seen: the first ones after a start or a cut.
    StartMissing,
    /// It overlaps its predecessor, runs out of the frame, or is nonsense.
    Broken,
}

/// The bit reservoir, as far as frames can be checked against it without decoding: the main data
/// of all frames is one stream of bytes, in which each frame has its own stretch of bits.
#[derive(Debug, Default)]
pub(super) struct Reservoir {
    /// Bytes of main data seen.
    bytes: u64,
    /// Bits that are taken by the frames so far.
    taken_bits: u64,
}

impl Reservoir {
    /// Adds the frame that starts with `head`.
    pub(super) fn add(&mut self, header: &Header, head: &[u8]) -> Fit {
        let before = self.bytes;
        self.bytes = self.bytes.saturating_add(header.main_bytes() as u64);
        let Some(info) = side_info(header, head) else {
            self.taken_bits = before.saturating_mul(8);
            return Fit::Broken;
        };
        let Some(begin) = before.checked_sub(info.begin_back_bytes) else {
            return Fit::StartMissing;
        };
        let begin_bits = begin.saturating_mul(8);
        let end_bits = begin_bits.saturating_add(info.bits);
        if begin_bits < self.taken_bits || end_bits > self.bytes.saturating_mul(8) {
            self.taken_bits = before.saturating_mul(8);
            return Fit::Broken;
        }
        self.taken_bits = end_bits;
        Fit::Whole
    }
}

/// What the first frame says instead of audio.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    /// Audio frames in the file, this one not counted.
    pub(super) frames: Option<u32>,
    /// Bytes from this frame to the last.
    pub(super) bytes: Option<u32>,
    /// Samples to be left out at the start, of which the decoder's own delay is a part.
    pub(super) skip_start: u32,
    /// Samples to be left out at the end.
    pub(super) skip_end: u32,
}

impl Announced {
    /// Reads the header that is in the place of audio, if there is one.
    pub(super) fn read(header: &Header, frame: &[u8]) -> Option<Self> {
        let xing = frame.get(4 + header.side_info_bytes()..)?;
        if xing.starts_with(b"Xing") || xing.starts_with(b"Info") {
            return Self::read_xing(xing);
        }
        let vbri = frame.get(4 + 32..)?.strip_prefix(b"VBRI")?;
        // Version, delay and quality of two bytes each, then bytes and frames.
        let word = |at: usize| Some(u32::from_be_bytes(*vbri.get(at..)?.first_chunk()?));
        Some(Self { bytes: Some(word(6)?), frames: Some(word(10)?), ..Self::default() })
    }

    fn read_xing(xing: &[u8]) -> Option<Self> {
        let mut rest = xing.get(4..)?;
        let flags = take_u32(&mut rest)?;
        let mut found = Self::default();
        if flags & 1 != 0 {
            // Encoders that could not go back to the start leave zeros.
            found.frames = take_u32(&mut rest).filter(|frames| *frames > 0);
        }
        if flags & 2 != 0 {
            found.bytes = take_u32(&mut rest).filter(|bytes| *bytes > 0);
        }
        let skip = if flags & 4 != 0 { 100 } else { 0 } + if flags & 8 != 0 { 4 } else { 0 };
        let tag = rest.get(skip..).unwrap_or_default();
        // The names that ffmpeg believes; others put other things in the same place.
        let known = [b"LAME", b"Lavf", b"Lavc"].iter().any(|name| tag.starts_with(*name));
        if let Some([a, b, c]) = tag.get(21..24).filter(|_| known) {
            let delays = u32::from_be_bytes([0, *a, *b, *c]);
            found.skip_start = (delays >> 12) + DECODER_DELAY;
            found.skip_end = (delays & 0xfff).saturating_sub(DECODER_DELAY);
        }
        Some(found)
    }
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (word, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*word))
}
