//! Sample descriptions (`stsd`, ISO/IEC 14496-12 §8.5.2): which coding a track has.
//!
//! An audio entry is 28 bytes of fields and then boxes. QuickTime puts 16 or 36 bytes between them
//! (versions 1 and 2 of its "sound description", QTFF), and may wrap the codec's own box into a
//! `wave` box. AAC describes itself in `esds`: MPEG-4 descriptors (ISO/IEC 14496-1 §7.2.6) around an
//! `AudioSpecificConfig` (ISO/IEC 14496-3 §1.6.2.1). ALAC does in a box `alac` inside the entry
//! `alac` (Apple's ALACMagicCookieDescription). A video entry is 78 bytes of fields.

use super::boxes::{Fields, Kind};
use crate::bits::Bits;

/// What the sample description says.
#[derive(Debug, Clone, Default)]
pub(super) struct Coding {
    /// The name, in ffmpeg's words where it has one.
    pub(super) name: String,
    /// Common encryption or Apple's DRM hides the samples.
    pub(super) encrypted: bool,
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    pub(super) sample_rate_hz: u32,
    pub(super) channels: u16,
    /// What the audio decoder must know: `AudioSpecificConfig` or the ALAC cookie.
    pub(super) setup: Vec<u8>,
    /// Samples in a frame, at `frame_rate_hz`; 0 where frames are of no fixed length.
    pub(super) frame_samples: u32,
    /// The rate that `frame_samples` counts in: half of `sample_rate_hz` for HE-AAC.
    pub(super) frame_rate_hz: u32,
}

/// Samples in an AAC frame, before any band replication doubles rate and number alike.
const AAC_FRAME_SAMPLES: u32 = 1024;

impl Coding {
    /// Reads the first entry of the body of an `stsd`.
    pub(super) fn read(handler: Kind, stsd: &[u8]) -> Option<Self> {
        let mut fields = Fields(stsd);
        fields.skip(8)?;
        let (kind, entry) = fields.next_child()?;
        match &handler.0 {
            b"soun" => Self::audio(kind, entry),
            b"vide" => Self::video(kind, entry),
            _ => Some(Self { name: name_of(kind), ..Self::default() }),
        }
    }

    fn video(kind: [u8; 4], mut entry: Fields<'_>) -> Option<Self> {
        entry.skip(24)?;
        let (width_px, height_px) = (entry.u16()?.into(), entry.u16()?.into());
        // 50 bytes more of fields; entries that end there have no boxes.
        let boxes = entry.0.get(50..).map_or(Fields(&[]), Fields);
        let mut name = name_of(kind);
        if &kind == b"mp4v"
            && let Some((object_type, _)) = boxes.child(*b"esds").and_then(descriptors)
        {
            name_of_object(object_type).unwrap_or("mpeg4").clone_into(&mut name);
        }
        Some(Self { name, encrypted: &kind == b"encv", width_px, height_px, ..Self::default() })
    }

    fn audio(kind: [u8; 4], mut entry: Fields<'_>) -> Option<Self> {
        entry.skip(8)?;
        let version = entry.u16()?;
        entry.skip(6)?;
        let channels = entry.u16()?;
        entry.skip(6)?;
        let sample_rate_hz = entry.u32()? >> 16;
        let mut coding = Self {
            name: name_of(kind),
            encrypted: matches!(&kind, b"enca" | b"drms"),
            sample_rate_hz,
            channels,
            ..Self::default()
        };
        if version == 2 {
            coding.read_version_2(entry);
        }
        let mut boxes = audio_boxes(entry, version);
        if let Some(wave) = boxes.child(*b"wave") {
            boxes = wave;
        }
        match &kind {
            b"mp4a" => {
                if let Some((object_type, setup)) = boxes.child(*b"esds").and_then(descriptors) {
                    name_of_object(object_type).unwrap_or("mp4a").clone_into(&mut coding.name);
                    coding.setup = setup.to_vec();
                }
                if coding.name == "aac" {
                    coding.read_aac();
                }
            }
            b"alac" => coding.read_alac(boxes),
            _ => {}
        }
        Some(coding)
    }

    /// Fields of QuickTime's version 2: rate as a double, channels as 32 bits.
    fn read_version_2(&mut self, mut entry: Fields<'_>) -> Option<()> {
        entry.skip(4)?;
        let rate = f64::from_bits(entry.u64()?);
        let channels = entry.u32()?;
        if (1.0..10_000_000.0).contains(&rate) {
            self.sample_rate_hz = rate as u32;
        }
        self.channels = u16::try_from(channels).ok()?;
        Some(())
    }

    fn read_alac(&mut self, boxes: Fields<'_>) {
        let Some(mut cookie) = boxes.child(*b"alac") else { return };
        // The box is a full box; some writers leave the cookie bare.
        if cookie.0.len() >= 28 {
            cookie.0 = cookie.0.get(4..).unwrap_or_default();
        }
        self.setup = cookie.0.to_vec();
        let read = |cookie: &mut Fields<'_>| {
            let frame_samples = cookie.u32()?;
            cookie.skip(5)?;
            let channels = cookie.u8()?;
            cookie.skip(10)?;
            Some((frame_samples, channels, cookie.u32()?))
        };
        if let Some((frame_samples, channels, rate)) = read(&mut cookie) {
            self.frame_samples = frame_samples;
            self.channels = channels.into();
            self.sample_rate_hz = rate;
            self.frame_rate_hz = rate;
        }
    }

    fn read_aac(&mut self) {
        self.frame_samples = AAC_FRAME_SAMPLES;
        self.frame_rate_hz = self.sample_rate_hz;
        let Some(config) = AacConfig::read(&self.setup) else { return };
        self.frame_rate_hz = config.core_rate_hz;
        self.sample_rate_hz = config.output_rate_hz;
        if config.channels > 0 {
            self.channels = config.channels;
        }
        if config.short_frames {
            self.frame_samples = 960;
        }
    }
}

/// The boxes behind an audio entry's fields. Version 1 has 16 more bytes of fields in QuickTime and
/// none in ISO files (14496-12 §12.2.3), so the place where a box stands decides.
fn audio_boxes(entry: Fields<'_>, version: u16) -> Fields<'_> {
    let extra = match version {
        1 => 16,
        2 => 36,
        _ => 0,
    };
    let starts_a_box = |mut fields: Fields<'_>| {
        fields.next_child().is_some_and(|(kind, _)| Kind(kind).is_plausible())
    };
    let at = |skip: usize| Fields(entry.0.get(skip..).unwrap_or_default());
    if starts_a_box(at(extra)) { at(extra) } else { at(0) }
}

/// The object type and the decoder's own configuration in the body of an `esds`.
fn descriptors(mut fields: Fields<'_>) -> Option<(u8, &[u8])> {
    fields.version_flags()?;
    // ES_Descriptor.
    let mut es = descriptor(&mut fields, 3)?;
    es.skip(2)?;
    let flags = es.u8()?;
    if flags & 0x80 != 0 {
        es.skip(2)?;
    }
    if flags & 0x40 != 0 {
        let len = es.u8()?;
        es.skip(len.into())?;
    }
    if flags & 0x20 != 0 {
        es.skip(2)?;
    }
    // DecoderConfigDescriptor and, inside it, DecoderSpecificInfo.
    let mut decoder = descriptor(&mut es, 4)?;
    let object_type = decoder.u8()?;
    let setup = decoder.skip(12).and_then(|()| descriptor(&mut decoder, 5));
    Some((object_type, setup.map_or(&[], |setup| setup.0)))
}

/// The body of the next descriptor, if it has this tag. Lengths are up to four bytes of seven bits.
fn descriptor<'a>(fields: &mut Fields<'a>, tag: u8) -> Option<Fields<'a>> {
    if fields.u8()? != tag {
        return None;
    }
    let mut len = 0_usize;
    for _ in 0..4 {
        let byte = fields.u8()?;
        len = len << 7 | usize::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            break;
        }
    }
    fields.bytes(len.min(fields.0.len())).map(Fields)
}

/// The head of an `AudioSpecificConfig`. That of [`crate::decode`] keeps what a decoder needs of it;
/// here are the words for people.
#[derive(Debug, PartialEq, Eq)]
struct AacConfig {
    core_rate_hz: u32,
    output_rate_hz: u32,
    /// 0: not said here.
    channels: u16,
    short_frames: bool,
}

impl AacConfig {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut bits = Bits::new(bytes);
        let mut object = bits.aac_object_type()?;
        let (_, core_rate_hz) = bits.aac_rate()?;
        let mut channels = match bits.take(4)? {
            count @ 1..=6 => count as u16,
            11 => 7,
            7 | 12 | 14 => 8,
            _ => 0,
        };
        let mut output_rate_hz = core_rate_hz;
        let mut stereo = object == 29;
        let explicit = object == 5 || object == 29;
        if explicit {
            (_, output_rate_hz) = bits.aac_rate()?;
            object = bits.aac_object_type()?;
        }
        let short_frames = bits.take(1)? == 1;
        // GASpecificConfig of the plain kinds goes on with one bit and no fields; what may follow
        // is the backward compatible way of naming SBR (0x2b7) and parametric stereo (0x548).
        if !explicit && object == 2 && bits.take(2) == Some(0) && bits.take(11) == Some(0x2B7) {
            let band_replication = bits.take(5) == Some(5) && bits.take(1) == Some(1);
            if band_replication && let Some((_, rate)) = bits.aac_rate() {
                output_rate_hz = rate;
                stereo = bits.take(11) == Some(0x548) && bits.take(1) == Some(1);
            }
        }
        if stereo && channels == 1 {
            channels = 2;
        }
        Some(Self { core_rate_hz, output_rate_hz, channels, short_frames })
    }
}

/// Names for the object types of MPEG-4 systems (ISO/IEC 14496-1 table 5 and the MP4 registry).
fn name_of_object(object_type: u8) -> Option<&'static str> {
    Some(match object_type {
        0x20 => "mpeg4",
        0x21 => "h264",
        0x23 => "hevc",
        0x40 | 0x66..=0x68 => "aac",
        0x60..=0x65 => "mpeg2video",
        0x69 | 0x6B => "mp3",
        0x6A => "mpeg1video",
        0x6C => "mjpeg",
        0x6D => "png",
        0xA5 => "ac3",
        0xA6 => "eac3",
        0xA9 => "dts",
        0xAD => "opus",
        0xDD => "vorbis",
        _ => return None,
    })
}

fn name_of(kind: [u8; 4]) -> String {
    match &kind {
        b"avc1" | b"avc2" | b"avc3" | b"avc4" => "h264",
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => "hevc",
        b"vvc1" | b"vvi1" => "vvc",
        b"av01" => "av1",
        b"vp08" => "vp8",
        b"vp09" => "vp9",
        b"mp4v" => "mpeg4",
        b"s263" | b"h263" | b"H263" => "h263",
        b"jpeg" | b"mjpa" | b"mjpb" => "mjpeg",
        b"png " => "png",
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "prores",
        b".mp3" | b"ms\0U" => "mp3",
        b"ac-3" => "ac3",
        b"ec-3" => "eac3",
        b"Opus" => "opus",
        b"fLaC" => "flac",
        b"samr" => "amr_nb",
        b"sawb" => "amr_wb",
        b"sowt" => "pcm_s16le",
        b"twos" => "pcm_s16be",
        b"in24" => "pcm_s24be",
        b"ulaw" => "pcm_mulaw",
        b"alaw" => "pcm_alaw",
        _ => return Kind(kind).to_string().trim().to_ascii_lowercase(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_audio_specific_configs() {
        let config = |core_rate_hz, output_rate_hz, channels| {
            Some(AacConfig { core_rate_hz, output_rate_hz, channels, short_frames: false })
        };
        assert_eq!(AacConfig::read(&[0x12, 0x10]), config(44_100, 44_100, 2));
        // HE-AAC named at once, HE-AAC v2 named at once, HE-AAC named behind an LC config.
        assert_eq!(AacConfig::read(&[0x2B, 0x92, 0x08, 0x00]), config(22_050, 44_100, 2));
        assert_eq!(AacConfig::read(&[0xEB, 0x8A, 0x08, 0x00]), config(22_050, 44_100, 2));
        assert_eq!(AacConfig::read(&[0x13, 0x90, 0x56, 0xE5, 0xA0]), config(22_050, 44_100, 2));
        assert_eq!(AacConfig::read(&[0x12]), None);
        assert!(AacConfig::read(&[0x12, 0x14]).is_some_and(|c| c.short_frames));
    }

    #[test]
    fn lengths_of_descriptors_never_reach_outside() {
        let mut fields = Fields(&[3, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2]);
        assert_eq!(descriptor(&mut fields, 3).map(|f| f.0), Some(&[1_u8, 2][..]));
        assert!(descriptor(&mut Fields(&[3, 0x80]), 3).is_none());
        assert!(descriptor(&mut Fields(&[4, 0]), 3).is_none());
    }
}
