//! wav: RIFF, RF64 or BW64 with PCM, float, µ-law or A-law.
//!
//! Layout (Microsoft, "Multimedia Programming Interface and Data Specifications 1.0"): `RIFF`, size
//! 4, `WAVE`, then chunks of name 4, size 4 and as many bytes, padded to even. `fmt ` has the
//! coding, channels, sample rate, bytes a second, bytes of one sample of all channels ("block") and
//! bits; with coding 0xFFFE ("extensible") the real one is in a GUID at byte 24. RF64 (EBU Tech
//! 3306) and BW64 (ITU-R BS.2088) write 0xFFFFFFFF for sizes and the real ones, of 8 bytes, into a
//! first chunk `ds64`.
//!
//! INVARIANT: the duration is of bytes that are there, never of a size field. A size of 0, or one
//! that begins at [`PLACEHOLDER_MIN`] and is more than there is, was written by a program that
//! could not go back (ffmpeg to a pipe: 0xFFFFFFFF, sox: 0x7FFFF000, arecord: 0x80000000, recorders
//! that were switched off: 0), and the data goes to the end of the file. Any other size that is
//! more than there is means that the file was cut.

use crate::decode::in_scope;
use crate::read::Bounded;
use crate::sniff::sniff;
use crate::types::{DecodeScope, Format, Limits, MediaInfo, ProbeError, grouped};

/// Data sizes that nobody means, from here on: 2 GiB less 64 KiB.
const PLACEHOLDER_MIN: u64 = 0x7fff_0000;

/// Bytes of a `fmt ` chunk that are read, at most: all of the extensible one.
const FMT_BYTES_MAX: u64 = 40;

/// The end of the GUIDs whose first two bytes are an ordinary coding.
const GUID_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// Samples a second, at most: four times what the fastest converters do.
const SAMPLE_RATE_HZ_MAX: u32 = 3_072_000;

/// Bytes that float samples are looked at in, one piece.
const PIECE_BYTES: usize = 4096;

/// Floats above this are no audio: full scale is 1, and programs that count in 24-bit integers
/// stay below it.
const FLOAT_MAX: f64 = (1 << 24) as f64;

/// Walks the reader as wav.
pub(crate) fn probe(reader: &mut Bounded<'_>, limits: &Limits) -> Result<MediaInfo, ProbeError> {
    let riff = Riff::read(reader)?;
    let (format, data) = find_chunks(reader, &riff)?;
    let blocks = data.bytes / u64::from(format.block_bytes);
    if blocks == 0 {
        return Err(undecodable("its data chunk is empty"));
    }
    if format.is_float() {
        check_floats(reader, &format, &data, limits.decode)?;
    }
    let rate = u64::from(format.sample_rate_hz);
    let mut info = MediaInfo::new(Format::Wav);
    info.codec = Some(format.codec.to_owned());
    info.duration_ms = Some(blocks.saturating_mul(1000).saturating_add(rate / 2) / rate);
    info.sample_rate_hz = Some(format.sample_rate_hz);
    info.channels = Some(format.channels);
    Ok(info)
}

fn undecodable(detail: impl Into<String>) -> ProbeError {
    ProbeError::undecodable(Format::Wav, detail)
}

fn unsupported(detail: impl Into<String>) -> ProbeError {
    ProbeError::unsupported(Format::Wav, detail)
}

fn truncated(detail: impl Into<String>) -> ProbeError {
    ProbeError::truncated(Format::Wav, detail)
}

/// The first twelve bytes.
struct Riff {
    /// `RF64` or `BW64`: sizes may be in `ds64`.
    wide: bool,
    size: u32,
}

impl Riff {
    fn read(reader: &mut Bounded<'_>) -> Result<Self, ProbeError> {
        let head = reader.peek(4096)?;
        let wide = head.starts_with(b"RF64") || head.starts_with(b"BW64");
        let named = wide || head.starts_with(b"RIFF");
        if named && head.len() < 12 {
            return Err(truncated(format!("it ends after {} bytes", head.len())));
        }
        if !named || head.get(8..12) != Some(b"WAVE") {
            return Err(ProbeError::Mismatch { expected: Format::Wav, found: sniff(head) });
        }
        let size =
            head.get(4..).and_then(|h| h.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
        reader.skip(12);
        Ok(Self { wide, size })
    }

    /// Whether the whole size is what a program would have written that knew it.
    fn size_is_known(&self, len: u64) -> bool {
        let end = u64::from(self.size).saturating_add(8);
        end == len || end == len.saturating_add(1)
    }
}

/// Where the samples are.
struct Data {
    start: u64,
    /// Bytes that are there.
    bytes: u64,
}

/// Walks the chunks until format and data are known, in any order.
fn find_chunks(reader: &mut Bounded<'_>, riff: &Riff) -> Result<(Pcm, Data), ProbeError> {
    let mut format = None;
    let mut data = None;
    let mut wide_data_size = None;
    while let Some([a, b, c, d, size @ ..]) = reader.take::<8>()? {
        reader.step(Format::Wav)?;
        let size = u32::from_le_bytes(size);
        let start = reader.position();
        let next = start.saturating_add(u64::from(size)).saturating_add(u64::from(size & 1));
        match &[a, b, c, d] {
            b"ds64" if riff.wide => {
                // The size of the whole, then that of the data.
                let sizes = reader.take::<16>()?.unwrap_or_default();
                wide_data_size = sizes.last_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            }
            b"fmt " if format.is_none() => format = Some(Pcm::read(reader, size)?),
            b"data" if data.is_none() => {
                let size = match wide_data_size {
                    Some(wide) if size == u32::MAX => wide,
                    _ => u64::from(size),
                };
                let found = measure(reader, riff, size)?;
                let end = found.start.saturating_add(found.bytes);
                data = Some(found);
                reader.seek_to(end.saturating_add(end & 1));
                if format.is_some() {
                    break;
                }
                continue;
            }
            _ => {}
        }
        reader.seek_to(next);
    }
    match (format, data) {
        (Some(format), Some(data)) => Ok((format, data)),
        (format, _) => {
            let missing = if format.is_none() { "fmt" } else { "data" };
            if u64::from(riff.size).saturating_add(8) > reader.len() {
                return Err(truncated(format!("it ends before its {missing} chunk")));
            }
            Err(undecodable(format!("it has no {missing} chunk")))
        }
    }
}

/// The data chunk at the reader's place, that claims to have `size` bytes.
fn measure(reader: &Bounded<'_>, riff: &Riff, size: u64) -> Result<Data, ProbeError> {
    let (start, left) = (reader.position(), reader.remaining());
    let unknown = match size {
        0 => !riff.size_is_known(reader.len()),
        _ => size >= PLACEHOLDER_MIN && size > left,
    };
    if unknown {
        return Ok(Data { start, bytes: left });
    }
    if size > left {
        let (size, left) = (grouped(size), grouped(left));
        return Err(truncated(format!("its data chunk has {size} bytes, {left} are left")));
    }
    Ok(Data { start, bytes: size })
}

/// How samples are written.
struct Pcm {
    /// In ffmpeg's words.
    codec: &'static str,
    channels: u16,
    sample_rate_hz: u32,
    /// Bytes of one sample of all channels.
    block_bytes: u16,
}

impl Pcm {
    fn read(reader: &mut Bounded<'_>, size: u32) -> Result<Self, ProbeError> {
        let wanted = u64::from(size).min(FMT_BYTES_MAX) as usize;
        let Some(fmt) = reader.take_vec(wanted)? else {
            return Err(truncated("it ends in its fmt chunk"));
        };
        let word = |at: usize| {
            fmt.get(at..).and_then(|f| f.first_chunk()).map(|bytes| u16::from_le_bytes(*bytes))
        };
        let long = |at| Some(u32::from(word(at)?) | u32::from(word(at + 2)?) << 16);
        let (Some(mut coding), Some(channels), Some(rate), Some(block_bytes), Some(bits)) =
            (word(0), word(2), long(4), word(12), word(14))
        else {
            return Err(undecodable(format!("its fmt chunk has only {wanted} bytes")));
        };
        if coding == 0xfffe {
            coding = fmt
                .get(24..)
                .and_then(|guid| guid.strip_suffix(&GUID_TAIL))
                .and_then(|coding| coding.first_chunk())
                .map(|coding| u16::from_le_bytes(*coding))
                .ok_or_else(|| unsupported("an extensible coding that is not known"))?;
        }
        let (codec, bytes) = coding_of(coding, bits).ok_or_else(|| {
            unsupported(format!("{}, only pcm, float and g.711 are accepted", name(coding, bits)))
        })?;
        if channels == 0 || rate == 0 || rate > SAMPLE_RATE_HZ_MAX {
            return Err(undecodable(format!("{channels} channels at {rate} Hz")));
        }
        if channels.checked_mul(bytes) != Some(block_bytes) {
            return Err(undecodable(format!(
                "{channels} channels of {bytes} bytes in blocks of {block_bytes}"
            )));
        }
        Ok(Self { codec, channels, sample_rate_hz: rate, block_bytes })
    }

    fn is_float(&self) -> bool {
        self.codec.starts_with("pcm_f")
    }
}

/// The coding's name and the bytes of a sample. Bits that do not fill a byte are padded (20 in 24).
fn coding_of(coding: u16, bits: u16) -> Option<(&'static str, u16)> {
    Some(match (coding, bits) {
        (1, 1..=8) => ("pcm_u8", 1),
        (1, 9..=16) => ("pcm_s16le", 2),
        (1, 17..=24) => ("pcm_s24le", 3),
        (1, 25..=32) => ("pcm_s32le", 4),
        (3, 32) => ("pcm_f32le", 4),
        (3, 64) => ("pcm_f64le", 8),
        // 8 bits; some writers put the 16 that it decodes to.
        (6, _) => ("pcm_alaw", 1),
        (7, _) => ("pcm_mulaw", 1),
        _ => return None,
    })
}

/// A word for a coding that is not accepted (the numbers are those of RFC 2361).
fn name(coding: u16, bits: u16) -> String {
    match coding {
        1 => format!("pcm of {bits} bits"),
        2 => "microsoft adpcm".to_owned(),
        3 => format!("float of {bits} bits"),
        0x11 => "ima adpcm".to_owned(),
        0x31 => "gsm 6.10".to_owned(),
        0x50 => "mpeg audio in wav".to_owned(),
        0x55 => "mp3 in wav".to_owned(),
        0xff | 0x1610 => "aac in wav".to_owned(),
        _ => format!("coding {coding:#06x}"),
    }
}

/// Integers can be anything, but floats cannot: of random bytes, four in ten are far above any
/// scale or no number. One in ten of those looked at is where a file is refused.
fn check_floats(
    reader: &mut Bounded<'_>,
    format: &Pcm,
    data: &Data,
    scope: DecodeScope,
) -> Result<(), ProbeError> {
    let pieces = data.bytes.div_ceil(PIECE_BYTES as u64);
    let (mut looked_at, mut wild) = (0u64, 0u64);
    for index in (0..pieces).filter(|index| in_scope(scope, *index, pieces)) {
        let offset = index.saturating_mul(PIECE_BYTES as u64);
        reader.seek_to(data.start.saturating_add(offset));
        let bytes =
            reader.peek(data.bytes.saturating_sub(offset).min(PIECE_BYTES as u64) as usize)?;
        let sane = |value: f64| value.abs() <= FLOAT_MAX;
        let (count, bad) = if format.codec == "pcm_f32le" {
            let floats = bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
            (bytes.len() / 4, floats.filter(|f| !sane(*f)).count())
        } else {
            let floats = bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b));
            (bytes.len() / 8, floats.filter(|f| !sane(*f)).count())
        };
        looked_at += count as u64;
        wild += bad as u64;
    }
    if wild.saturating_mul(10) > looked_at {
        return Err(undecodable(format!("{wild} of {looked_at} floats looked at are no samples")));
    }
    Ok(())
}
