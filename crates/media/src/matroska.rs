//! Matroska and WebM.
//!
//! EBML (RFC 8794): elements with an identifier, a size, and a body. Identifiers and sizes are
//! integers of one to eight bytes whose leading zeros say how many; a size of all ones is "unknown",
//! which live writers use for the segment and its clusters. Matroska (RFC 9559):
//!
//! ```text
//! EBML            DocType "matroska" or "webm"
//! Segment
//!   Info          TimestampScale, Duration                §5.1.2
//!   Tracks        TrackEntry: type, codec, size           §5.1.4
//!   Cluster       Timestamp, SimpleBlock, BlockGroup      §5.1.3
//!   Cues, Tags, Attachments, …                            stepped over
//! ```
//!
//! Every element must end inside its parent and the file, so a cut is found wherever it is, except
//! between two clusters of a segment of unknown size: nothing says how many there are. An unknown
//! cluster ends where an element begins that cannot be in one (RFC 8794 §6.2).
//!
//! The duration is measured from the timestamps of all blocks. `Duration` in `Info` is only taken
//! for the fraction at the end that timestamps leave open, that is if it is not far from them.
//!
//! An mkv has a video track: it is accepted for what it shows. Blocks are not decoded.

use crate::read::Bounded;
use crate::sniff::{HEAD_BYTES, sniff};
use crate::types::{Format, Limits, MediaInfo, ProbeError, grouped};

const FORMAT: Format = Format::Mkv;

/// Tracks in a file, at most. A film with many languages has some dozens.
const TRACKS_MAX: usize = 256;

/// Bytes of a string that are looked at.
const TEXT_BYTES_MAX: u64 = 64;

/// `Duration` is believed within this of the last block's end.
const DURATION_SLACK_MS: u64 = 1000;

/// Levels of elements inside the segment that are entered: TrackEntry with its Video and Audio.
const DEPTH_MAX: u8 = 3;

mod id {
    pub(super) const EBML: u32 = 0x1A45_DFA3;
    pub(super) const DOC_TYPE: u32 = 0x4282;
    pub(super) const SEGMENT: u32 = 0x1853_8067;
    pub(super) const SEEK_HEAD: u32 = 0x114D_9B74;
    pub(super) const INFO: u32 = 0x1549_A966;
    pub(super) const TIMESTAMP_SCALE: u32 = 0x2A_D7B1;
    pub(super) const DURATION: u32 = 0x4489;
    pub(super) const TRACKS: u32 = 0x1654_AE6B;
    pub(super) const TRACK_ENTRY: u32 = 0xAE;
    pub(super) const TRACK_NUMBER: u32 = 0xD7;
    pub(super) const TRACK_TYPE: u32 = 0x83;
    pub(super) const CODEC_ID: u32 = 0x86;
    pub(super) const DEFAULT_DURATION: u32 = 0x23_E383;
    pub(super) const VIDEO: u32 = 0xE0;
    pub(super) const PIXEL_WIDTH: u32 = 0xB0;
    pub(super) const PIXEL_HEIGHT: u32 = 0xBA;
    pub(super) const AUDIO: u32 = 0xE1;
    pub(super) const SAMPLING_FREQUENCY: u32 = 0xB5;
    pub(super) const CHANNELS: u32 = 0x9F;
    pub(super) const CLUSTER: u32 = 0x1F43_B675;
    pub(super) const TIMESTAMP: u32 = 0xE7;
    pub(super) const SIMPLE_BLOCK: u32 = 0xA3;
    pub(super) const BLOCK_GROUP: u32 = 0xA0;
    pub(super) const BLOCK: u32 = 0xA1;
    pub(super) const BLOCK_DURATION: u32 = 0x9B;
    pub(super) const CUES: u32 = 0x1C53_BB6B;
    pub(super) const CHAPTERS: u32 = 0x1043_A770;
    pub(super) const TAGS: u32 = 0x1254_C367;
    pub(super) const ATTACHMENTS: u32 = 0x1941_A469;
}

pub(crate) fn probe(reader: &mut Bounded<'_>, _limits: &Limits) -> Result<MediaInfo, ProbeError> {
    let found = sniff(reader.peek(HEAD_BYTES)?);
    if found != Some(FORMAT) {
        return Err(ProbeError::Mismatch { expected: FORMAT, found });
    }
    let file_end = reader.len();
    let mut file = Walk { next: 0, end: file_end };
    let mut segment = Segment::default();
    let mut known_type = false;
    while let Some(element) = file.next(reader)? {
        match element.id {
            id::EBML => {
                let mut inside = element.inside()?;
                while let Some(field) = inside.next(reader)? {
                    if field.id == id::DOC_TYPE {
                        known_type = matches!(field.text(reader)?.as_str(), "matroska" | "webm");
                    }
                }
            }
            id::SEGMENT => {
                if !known_type {
                    let detail = "its document type is neither matroska nor webm";
                    return Err(ProbeError::unsupported(FORMAT, detail));
                }
                segment.read(reader, &element)?;
                return segment.finish();
            }
            _ => {}
        }
    }
    Err(ProbeError::truncated(FORMAT, "there is no segment"))
}

/// Where an element is.
#[derive(Debug, Clone, Copy)]
struct Element {
    id: u32,
    body: u64,
    /// Where it ends, or the most that it can if its size is unknown.
    end: u64,
    unknown_size: bool,
}

impl Element {
    /// The elements in it.
    fn inside(&self) -> Result<Walk, ProbeError> {
        self.check_size()?;
        Ok(Walk { next: self.body, end: self.end })
    }

    /// Only the segment and its clusters may be of unknown size.
    fn check_size(&self) -> Result<(), ProbeError> {
        if self.unknown_size {
            let detail = format!("element {:X} has no size", self.id);
            return Err(ProbeError::undecodable(FORMAT, detail));
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.end.saturating_sub(self.body)
    }

    fn bytes(&self, reader: &mut Bounded<'_>, max: u64) -> Result<Vec<u8>, ProbeError> {
        reader.seek_to(self.body);
        let len = self.len().min(max).min(reader.remaining());
        Ok(reader.take_vec(len as usize)?.unwrap_or_default())
    }

    fn uint(&self, reader: &mut Bounded<'_>) -> Result<u64, ProbeError> {
        if self.len() > 8 {
            let detail = format!("a number of {} bytes", grouped(self.len()));
            return Err(ProbeError::undecodable(FORMAT, detail));
        }
        let bytes = self.bytes(reader, 8)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A float of four or eight bytes; anything else, and what is no finite number above 0, is 0.
    fn float(&self, reader: &mut Bounded<'_>) -> Result<f64, ProbeError> {
        let bytes = self.bytes(reader, 9)?;
        let value = match bytes.len() {
            4 => bytes.first_chunk().map_or(0.0, |b| f32::from_be_bytes(*b).into()),
            8 => bytes.first_chunk().map_or(0.0, |b| f64::from_be_bytes(*b)),
            _ => 0.0,
        };
        Ok(if value.is_finite() && value > 0.0 { value } else { 0.0 })
    }

    /// A short string without the zeros that may pad it.
    fn text(&self, reader: &mut Bounded<'_>) -> Result<String, ProbeError> {
        let bytes = self.bytes(reader, TEXT_BYTES_MAX)?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

/// The elements of one parent, in order. It keeps its own place.
#[derive(Debug)]
struct Walk {
    next: u64,
    end: u64,
}

impl Walk {
    /// The next element. Each costs a step and at least two bytes.
    fn next(&mut self, reader: &mut Bounded<'_>) -> Result<Option<Element>, ProbeError> {
        if self.next >= self.end {
            return Ok(None);
        }
        reader.step(FORMAT)?;
        reader.seek_to(self.next);
        let head = reader.peek(12)?;
        let truncated = |at: u64| {
            let detail = format!("it ends inside the head of the element at byte {}", grouped(at));
            ProbeError::truncated(FORMAT, detail)
        };
        let first = head.first().copied().ok_or_else(|| truncated(self.next))?;
        let id_len = first.leading_zeros() as usize + 1;
        if id_len > 4 {
            let detail = format!("no element begins at byte {}", grouped(self.next));
            return Err(ProbeError::undecodable(FORMAT, detail));
        }
        let id = head.get(..id_len).ok_or_else(|| truncated(self.next))?;
        let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
        let size = vint(head.get(id_len..).unwrap_or_default());
        let (size, size_len) = size.ok_or_else(|| truncated(self.next))?;
        let body = self.next + id_len as u64 + size_len;
        let end = size.map_or(self.end, |size| body.saturating_add(size));
        if end > self.end || body > self.end {
            if end > reader.len() {
                let what = format_args!("element {id:X}").to_string();
                return Err(ProbeError::ends_past_file(FORMAT, what, end, reader.len()));
            }
            let detail = format!("element {id:X} ends outside its parent");
            return Err(ProbeError::undecodable(FORMAT, detail));
        }
        self.next = end;
        Ok(Some(Element { id, body, end, unknown_size: size.is_none() }))
    }
}

/// A size or track number: its value, `None` if all bits are ones, and how many bytes it takes.
fn vint(bytes: &[u8]) -> Option<(Option<u64>, u64)> {
    let first = *bytes.first()?;
    let len = first.leading_zeros() as usize + 1;
    if len > 8 {
        return None;
    }
    let marker = 1_u64 << (7 * len);
    let raw = bytes.get(..len)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let value = raw & (marker - 1);
    Some(((value != marker - 1).then_some(value), len as u64))
}

#[derive(Debug, Default)]
struct Track {
    number: u64,
    kind: u64,
    codec: String,
    /// Nanoseconds of a frame, 0 if not said.
    frame_ns: u64,
    width_px: u32,
    height_px: u32,
    sample_rate_hz: u32,
    channels: u16,
    blocks: u64,
    /// In units of the segment: where the last block begins, how long the one before lasted, and
    /// where the latest one ends.
    last: i64,
    step: i64,
    end: i64,
}

const VIDEO_TRACK: u64 = 1;
const AUDIO_TRACK: u64 = 2;

#[derive(Debug)]
struct Segment {
    /// Nanoseconds of a unit.
    scale_ns: u64,
    /// In units.
    duration: f64,
    tracks: Vec<Track>,
    /// Timestamp of the cluster that is being read.
    cluster: i64,
}

impl Default for Segment {
    fn default() -> Self {
        Self { scale_ns: 1_000_000, duration: 0.0, tracks: Vec::new(), cluster: 0 }
    }
}

impl Segment {
    fn read(&mut self, reader: &mut Bounded<'_>, segment: &Element) -> Result<(), ProbeError> {
        let mut walk = Walk { next: segment.body, end: segment.end };
        while let Some(element) = walk.next(reader)? {
            match element.id {
                id::INFO | id::TRACKS => self.read_fields(reader, &element, 0)?,
                // The next one begins where this one really ends.
                id::CLUSTER => walk.next = self.read_cluster(reader, &element)?,
                // A second segment or file behind a first of unknown size is not ours.
                id::EBML | id::SEGMENT => break,
                _ => element.check_size()?,
            }
        }
        Ok(())
    }

    fn read_fields(
        &mut self,
        reader: &mut Bounded<'_>,
        parent: &Element,
        depth: u8,
    ) -> Result<(), ProbeError> {
        let mut walk = parent.inside()?;
        while let Some(element) = walk.next(reader)? {
            match element.id {
                id::TIMESTAMP_SCALE => self.scale_ns = element.uint(reader)?,
                id::DURATION => self.duration = element.float(reader)?,
                id::TRACK_ENTRY | id::VIDEO | id::AUDIO if depth < DEPTH_MAX => {
                    if element.id == id::TRACK_ENTRY {
                        if self.tracks.len() >= TRACKS_MAX {
                            let detail = format!("more than {TRACKS_MAX} tracks");
                            return Err(ProbeError::too_complex(FORMAT, detail));
                        }
                        self.tracks.push(Track::default());
                    }
                    self.read_fields(reader, &element, depth + 1)?;
                }
                _ => {
                    if let Some(track) = self.tracks.last_mut() {
                        track.read_field(reader, &element)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns where the cluster ends.
    fn read_cluster(
        &mut self,
        reader: &mut Bounded<'_>,
        cluster: &Element,
    ) -> Result<u64, ProbeError> {
        self.cluster = 0;
        let mut walk = Walk { next: cluster.body, end: cluster.end };
        loop {
            let start = walk.next;
            let Some(element) = walk.next(reader)? else { return Ok(cluster.end) };
            if cluster.unknown_size && is_outside_clusters(element.id) {
                return Ok(start);
            }
            match element.id {
                id::TIMESTAMP => {
                    self.cluster = i64::try_from(element.uint(reader)?).unwrap_or(i64::MAX);
                }
                id::SIMPLE_BLOCK => self.read_block(reader, &element, None)?,
                id::BLOCK_GROUP => self.read_group(reader, &element)?,
                _ => element.check_size()?,
            }
        }
    }

    fn read_group(&mut self, reader: &mut Bounded<'_>, group: &Element) -> Result<(), ProbeError> {
        let (mut block, mut duration) = (None, None);
        let mut walk = group.inside()?;
        while let Some(element) = walk.next(reader)? {
            match element.id {
                id::BLOCK => block = Some(element),
                id::BLOCK_DURATION => duration = Some(element.uint(reader)?),
                _ => {}
            }
        }
        let Some(block) = block else {
            return Err(ProbeError::undecodable(FORMAT, "a block group without a block"));
        };
        self.read_block(reader, &block, duration)
    }

    /// A block begins with its track's number, its time from that of the cluster in 16 bits, and
    /// flags (RFC 9559 §10.1).
    fn read_block(
        &mut self,
        reader: &mut Bounded<'_>,
        block: &Element,
        duration: Option<u64>,
    ) -> Result<(), ProbeError> {
        block.check_size()?;
        let head = block.bytes(reader, 11)?;
        let parsed = vint(&head).and_then(|(number, len)| {
            let time = head.get(len as usize..)?.first_chunk::<2>()?;
            head.get(len as usize + 2)?;
            Some((number?, i16::from_be_bytes(*time)))
        });
        let Some((number, offset)) = parsed else {
            return Err(ProbeError::undecodable(FORMAT, "a block without its head"));
        };
        let Some(track) = self.tracks.iter_mut().find(|track| track.number == number) else {
            let detail = format!("a block of track {number}, which is not announced");
            return Err(ProbeError::undecodable(FORMAT, detail));
        };
        let time = self.cluster.saturating_add(offset.into());
        if track.blocks > 0 && time > track.last {
            track.step = time.saturating_sub(track.last);
        }
        track.blocks += 1;
        track.last = time;
        let units = duration.map(|units| i64::try_from(units).unwrap_or(i64::MAX)).or_else(|| {
            let units = track.frame_ns.checked_div(self.scale_ns)?;
            (units > 0).then_some(units as i64)
        });
        track.end = track.end.max(time.saturating_add(units.unwrap_or(track.step)));
        Ok(())
    }

    fn finish(self) -> Result<MediaInfo, ProbeError> {
        let first = |kind| self.tracks.iter().find(|track: &&Track| track.kind == kind);
        let Some(video) = first(VIDEO_TRACK) else {
            return Err(if self.tracks.is_empty() {
                ProbeError::truncated(FORMAT, "it has no tracks")
            } else {
                ProbeError::unsupported(FORMAT, "it has no video track")
            });
        };
        if video.blocks == 0 {
            return Err(ProbeError::truncated(FORMAT, "its video track has no blocks"));
        }
        let to_ms = |units: i64| {
            let ns = u128::from(units.max(0) as u64) * u128::from(self.scale_ns);
            u64::try_from((ns + 500_000) / 1_000_000).unwrap_or(u64::MAX)
        };
        let media = self.tracks.iter().filter(|t| matches!(t.kind, VIDEO_TRACK | AUDIO_TRACK));
        let measured_ms = to_ms(media.map(|track| track.end).max().unwrap_or(0));
        // `as` saturates, so the largest float is a large number and not a panic.
        let said_ms = (self.duration * self.scale_ns as f64 / 1e6).round() as u64;
        let believed = said_ms > 0 && said_ms.abs_diff(measured_ms) <= DURATION_SLACK_MS;

        let mut info = MediaInfo::new(FORMAT);
        info.duration_ms = Some(if believed { said_ms } else { measured_ms });
        info.codec = Some(codec_name(&video.codec));
        info.width_px = Some(video.width_px);
        info.height_px = Some(video.height_px);
        if let Some(audio) = first(AUDIO_TRACK) {
            // Opus always decodes to 48 kHz; the field holds what it was made from (RFC 7845 §5.1).
            let rate_hz = if audio.codec == "A_OPUS" { 48_000 } else { audio.sample_rate_hz };
            info.sample_rate_hz = Some(rate_hz).filter(|hz| *hz > 0);
            // One channel is what leaving it out means (RFC 9559 §5.1.4.1.29.3).
            info.channels = Some(audio.channels.max(1));
        }
        Ok(info)
    }
}

impl Track {
    fn read_field(
        &mut self,
        reader: &mut Bounded<'_>,
        element: &Element,
    ) -> Result<(), ProbeError> {
        match element.id {
            id::TRACK_NUMBER => self.number = element.uint(reader)?,
            id::TRACK_TYPE => self.kind = element.uint(reader)?,
            id::CODEC_ID => self.codec = element.text(reader)?,
            id::DEFAULT_DURATION => self.frame_ns = element.uint(reader)?,
            id::PIXEL_WIDTH => self.width_px = clamp(element.uint(reader)?),
            id::PIXEL_HEIGHT => self.height_px = clamp(element.uint(reader)?),
            id::SAMPLING_FREQUENCY => self.sample_rate_hz = element.float(reader)? as u32,
            id::CHANNELS => {
                self.channels = u16::try_from(element.uint(reader)?).unwrap_or(u16::MAX);
            }
            _ => {}
        }
        Ok(())
    }
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn is_outside_clusters(element: u32) -> bool {
    matches!(
        element,
        id::CLUSTER
            | id::CUES
            | id::CHAPTERS
            | id::TAGS
            | id::ATTACHMENTS
            | id::INFO
            | id::TRACKS
            | id::SEEK_HEAD
            | id::SEGMENT
            | id::EBML
    )
}

/// ffmpeg's name for a Matroska codec identifier.
fn codec_name(id: &str) -> String {
    match id {
        "V_MPEG4/ISO/AVC" => "h264",
        "V_MPEGH/ISO/HEVC" => "hevc",
        "V_MPEGI/ISO/VVC" => "vvc",
        "V_AV1" => "av1",
        "V_VP8" => "vp8",
        "V_VP9" => "vp9",
        "V_MPEG4/ISO/SP" | "V_MPEG4/ISO/ASP" | "V_MPEG4/ISO/AP" => "mpeg4",
        "V_MPEG1" => "mpeg1video",
        "V_MPEG2" => "mpeg2video",
        "V_MJPEG" => "mjpeg",
        "V_THEORA" => "theora",
        "V_PRORES" => "prores",
        "V_FFV1" => "ffv1",
        other => {
            let name = other.strip_prefix("V_").unwrap_or(other);
            return name.chars().filter(char::is_ascii_graphic).collect::<String>().to_lowercase();
        }
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_integers_of_any_length() {
        assert_eq!(vint(&[0x81]), Some((Some(1), 1)));
        assert_eq!(vint(&[0x40, 0x7F]), Some((Some(0x7F), 2)));
        assert_eq!(vint(&[0xFF]), Some((None, 1)));
        assert_eq!(vint(&[1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), Some((None, 8)));
        assert_eq!(vint(&[1, 0, 0, 0, 0, 0, 0, 2]), Some((Some(2), 8)));
        assert_eq!(vint(&[0x40]), None);
        assert_eq!(vint(&[0]), None);
        assert_eq!(vint(&[]), None);
    }
}
