//! AVI, with OpenDML.
//!
//! ```text
//! RIFF size "AVI "
//!   LIST "hdrl"        avih; a LIST "strl" for each stream: strh, strf
//!   LIST "movi"        chunks "##dc" "##db" (video), "##wb" (audio), LIST "rec "
//!   idx1
//! RIFF size "AVIX"     more of LIST "movi", in files beyond 1 GiB (OpenDML 1.02 §3)
//! ```
//!
//! Chunks are a four-character name, a 32-bit little-endian size and a body padded to an even
//! length (Microsoft's AVI RIFF File Reference). A writer to a pipe cannot go back for the sizes of
//! the RIFF and of `movi` and leaves 0 or 0xFFFFFFFF, which is read as "to the end of the file".
//! Any other size beyond the file is a cut.
//!
//! The duration is the number of video chunks times the frame's length in `strh`; a chunk of no
//! bytes repeats a frame and counts. The frames themselves are not decoded.

use crate::read::Bounded;
use crate::sniff::{HEAD_BYTES, sniff};
use crate::types::{Format, Limits, MediaInfo, ProbeError};

const FORMAT: Format = Format::Avi;

/// Streams in a file, at most: chunk names have two digits for them.
const STREAMS_MAX: usize = 100;

pub(crate) fn probe(reader: &mut Bounded<'_>, _limits: &Limits) -> Result<MediaInfo, ProbeError> {
    let found = sniff(reader.peek(HEAD_BYTES)?);
    if found != Some(FORMAT) {
        return Err(ProbeError::Mismatch { expected: FORMAT, found });
    }
    let mut avi = Avi::default();
    let mut file = Walk { next: 0, end: reader.len(), open: false };
    while let Some(riff) = file.next(reader)? {
        // Whatever is behind the last RIFF is not ours, padding for example.
        if riff.list != Some((*b"RIFF", if riff.start == 0 { *b"AVI " } else { *b"AVIX" })) {
            break;
        }
        avi.read_riff(reader, &riff)?;
    }
    avi.finish()
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    name: [u8; 4],
    /// For RIFF and LIST: the name and the kind of list.
    list: Option<([u8; 4], [u8; 4])>,
    start: u64,
    body: u64,
    end: u64,
    /// The size is not known: it may end before `end`.
    open: bool,
}

impl Chunk {
    fn inside(&self) -> Walk {
        Walk { next: self.body, end: self.end, open: self.open }
    }

    fn is(&self, list: [u8; 4]) -> bool {
        self.list == Some((*b"LIST", list))
    }

    /// The first `max` bytes of the body.
    fn bytes(&self, reader: &mut Bounded<'_>, max: u64) -> Result<Vec<u8>, ProbeError> {
        reader.seek_to(self.body);
        let len = self.end.saturating_sub(self.body).min(max).min(reader.remaining());
        Ok(reader.take_vec(len as usize)?.unwrap_or_default())
    }
}

/// The chunks of one parent, in order. It keeps its own place.
#[derive(Debug)]
struct Walk {
    next: u64,
    end: u64,
    open: bool,
}

impl Walk {
    /// The next chunk. Each costs a step and at least eight bytes.
    fn next(&mut self, reader: &mut Bounded<'_>) -> Result<Option<Chunk>, ProbeError> {
        let start = self.next;
        let left = self.end.saturating_sub(start);
        if left < 8 {
            if left > 0 && self.open {
                let detail = format!("it ends with {left} bytes of a chunk");
                return Err(ProbeError::truncated(FORMAT, detail));
            }
            return Ok(None);
        }
        reader.step(FORMAT)?;
        reader.seek_to(start);
        let Some([a, b, c, d, size @ ..]) = reader.take::<8>()? else { return Ok(None) };
        let (name, size) = ([a, b, c, d], u32::from_le_bytes(size));
        let mut body = start + 8;
        let is_list = matches!(&name, b"RIFF" | b"LIST");
        let open = is_list && matches!(size, 0 | u32::MAX);
        let end = if open { self.end } else { body.saturating_add(size.into()) };
        let mut list = None;
        if is_list {
            let Some(kind) = reader.take::<4>()? else {
                return Err(ProbeError::ends_past_file(FORMAT, name_of(name), end, reader.len()));
            };
            list = Some((name, kind));
            body = (body + 4).min(end);
        }
        if end > self.end {
            if end > reader.len() {
                return Err(ProbeError::ends_past_file(FORMAT, name_of(name), end, reader.len()));
            }
            let detail = format!("{} ends outside its parent", name_of(name));
            return Err(ProbeError::undecodable(FORMAT, detail));
        }
        self.next = end.saturating_add(end % 2);
        Ok(Some(Chunk { name, list, start, body, end, open: open || self.open }))
    }
}

fn name_of(name: [u8; 4]) -> String {
    let plain = |byte: u8| if (0x20..0x7F).contains(&byte) { char::from(byte) } else { '?' };
    format!("chunk '{}'", name.map(plain).iter().collect::<String>())
}

#[derive(Debug, Default)]
struct Stream {
    /// `vids`, `auds`, `txts`, …
    kind: [u8; 4],
    /// From `strh`.
    handler: [u8; 4],
    scale: u32,
    rate: u32,
    /// From `strf`.
    format: Vec<u8>,
    chunks: u64,
}

#[derive(Debug, Default)]
struct Avi {
    streams: Vec<Stream>,
    has_movie: bool,
}

impl Avi {
    fn read_riff(&mut self, reader: &mut Bounded<'_>, riff: &Chunk) -> Result<(), ProbeError> {
        let mut walk = riff.inside();
        while let Some(chunk) = walk.next(reader)? {
            if chunk.is(*b"hdrl") {
                let mut inside = chunk.inside();
                while let Some(list) = inside.next(reader)? {
                    if list.is(*b"strl") {
                        self.read_stream(reader, &list)?;
                    }
                }
            } else if chunk.is(*b"movi") {
                self.has_movie = true;
                self.read_movie(reader, &chunk)?;
            } else if chunk.list.is_none() {
                // Behind a `movi` of unknown size its frames follow here, seen from outside.
                self.count(chunk.name);
            }
        }
        Ok(())
    }

    fn read_stream(&mut self, reader: &mut Bounded<'_>, strl: &Chunk) -> Result<(), ProbeError> {
        if self.streams.len() >= STREAMS_MAX {
            let detail = format!("more than {STREAMS_MAX} streams");
            return Err(ProbeError::too_complex(FORMAT, detail));
        }
        let mut stream = Stream::default();
        let mut walk = strl.inside();
        while let Some(chunk) = walk.next(reader)? {
            match &chunk.name {
                // fccType, fccHandler, flags, priority and language, initial frames, scale, rate.
                b"strh" => {
                    let body = chunk.bytes(reader, 28)?;
                    let field = |at: usize| body.get(at..)?.first_chunk::<4>().copied();
                    stream.kind = field(0).unwrap_or_default();
                    stream.handler = field(4).unwrap_or_default();
                    stream.scale = field(20).map_or(0, u32::from_le_bytes);
                    stream.rate = field(24).map_or(0, u32::from_le_bytes);
                }
                b"strf" => stream.format = chunk.bytes(reader, 40)?,
                _ => {}
            }
        }
        self.streams.push(stream);
        Ok(())
    }

    /// The chunks of `movi`, and of the lists `rec ` inside it, which hold no lists.
    fn read_movie(&mut self, reader: &mut Bounded<'_>, movi: &Chunk) -> Result<(), ProbeError> {
        let mut walk = movi.inside();
        while let Some(chunk) = walk.next(reader)? {
            if chunk.is(*b"rec ") {
                let mut inside = chunk.inside();
                while let Some(chunk) = inside.next(reader)? {
                    self.count(chunk.name);
                }
            } else {
                self.count(chunk.name);
            }
        }
        Ok(())
    }

    /// Counts a chunk of samples for its stream.
    fn count(&mut self, name: [u8; 4]) {
        let [tens @ b'0'..=b'9', ones @ b'0'..=b'9', kind @ ..] = name else { return };
        let index = usize::from(tens - b'0') * 10 + usize::from(ones - b'0');
        let Some(stream) = self.streams.get_mut(index) else { return };
        if &stream.kind != b"vids" || matches!(&kind, b"dc" | b"db") {
            stream.chunks += 1;
        }
    }

    fn finish(self) -> Result<MediaInfo, ProbeError> {
        let first = |kind: &[u8; 4]| self.streams.iter().find(|stream| &stream.kind == kind);
        let Some(video) = first(b"vids") else {
            return Err(if self.streams.is_empty() {
                ProbeError::truncated(FORMAT, "it has no stream headers")
            } else {
                ProbeError::unsupported(FORMAT, "it has no video track")
            });
        };
        if !self.has_movie || video.chunks == 0 {
            return Err(ProbeError::truncated(FORMAT, "it has no frames"));
        }
        if video.scale == 0 || video.rate == 0 {
            return Err(ProbeError::undecodable(FORMAT, "its video has no frame rate"));
        }
        let mut info = MediaInfo::new(FORMAT);
        let rate = u128::from(video.rate);
        let ms = u128::from(video.chunks) * u128::from(video.scale) * 1000;
        info.duration_ms = Some(u64::try_from((ms + rate / 2) / rate).unwrap_or(u64::MAX));
        info.codec = Some(video_codec(video));
        // BITMAPINFOHEADER: size, width, height (negative if the rows go down), …
        let field = |at: usize| Some(i32::from_le_bytes(*video.format.get(at..)?.first_chunk()?));
        let (Some(width), Some(height)) = (field(4), field(8)) else {
            return Err(ProbeError::undecodable(FORMAT, "its video has no size"));
        };
        info.width_px = Some(width.unsigned_abs());
        info.height_px = Some(height.unsigned_abs());
        if let Some(audio) = first(b"auds") {
            // WAVEFORMATEX: tag, channels, samples a second, …
            let at = |at: usize| audio.format.get(at..);
            info.channels = at(2).and_then(|b| Some(u16::from_le_bytes(*b.first_chunk()?)));
            info.sample_rate_hz = at(4).and_then(|b| Some(u32::from_le_bytes(*b.first_chunk()?)));
        }
        Ok(info)
    }
}

/// ffmpeg's name for the coding of a video stream.
fn video_codec(video: &Stream) -> String {
    // biCompression says it; the handler only which program wrote it.
    let code = video.format.get(16..).and_then(|bytes| bytes.first_chunk::<4>().copied());
    let code = code.unwrap_or(video.handler).map(|byte| byte.to_ascii_uppercase());
    match &code {
        b"H264" | b"X264" | b"AVC1" | b"DAVC" => "h264",
        b"HEVC" | b"H265" | b"X265" | b"HVC1" => "hevc",
        b"XVID" | b"DIVX" | b"DX50" | b"FMP4" | b"MP4V" | b"3IV2" => "mpeg4",
        b"MP42" | b"DIV2" => "msmpeg4v2",
        b"MP43" | b"DIV3" => "msmpeg4v3",
        b"MJPG" | b"JPEG" => "mjpeg",
        b"MPG1" => "mpeg1video",
        b"MPG2" => "mpeg2video",
        b"VP80" => "vp8",
        b"VP90" => "vp9",
        b"AV01" => "av1",
        b"FFV1" => "ffv1",
        b"HFYU" => "huffyuv",
        b"CVID" => "cinepak",
        b"DVSD" => "dvvideo",
        b"\0\0\0\0" | b"DIB " => "rawvideo",
        other => {
            let plain = other.iter().filter(|byte| byte.is_ascii_graphic());
            return plain.map(|byte| char::from(*byte).to_ascii_lowercase()).collect();
        }
    }
    .to_owned()
}
