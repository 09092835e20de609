//! ISO base media files: m4a, mp4, mov; `heif` below does the still images.
//!
//! ```text
//! ftyp            brands                                  ISO/IEC 14496-12 §4.3
//! moov            tracks and their sample tables          §8.2   (first or last)
//! moof mdat …     fragments, each with its own tables     §8.8
//! mdat            the samples                             §8.1.1
//! ```
//!
//! What is checked: every box ends inside its parent and the file, every sample of every track lies
//! inside the file, and of an m4a a window of frames decodes. So a file that was cut is refused
//! wherever it was cut, except exactly between two fragments: nothing says how many there are.
//!
//! Decisions, and why:
//! - The brand does not tell mp4 from mov: phones and editors write `qt  ` into .mp4 and `isom` into
//!   .mov, and every player takes both. Either is accepted as either, and an m4a may have any brand.
//!   QuickTime files from before `ftyp` are accepted too.
//! - An m4a has one audio track of AAC or ALAC (the first counts) and no video; covers and chapter
//!   pictures are no video. An mp4 or mov has a video track.
//! - The duration of AAC and ALAC in an m4a is that of the frames that are there, not of `stts`,
//!   which can claim anything: frames that an edit list shows, times their length, less what it cuts
//!   off the first of them (the encoder's priming). ffmpeg decodes exactly that. As there, the last
//!   frame counts whole and the edit lists of fragmented files are not applied.
//! - The duration of a video is the longer one of its first video and first audio track as edited.
//! - Width and height are those of the sample description (what ffprobe shows), not turned by the
//!   track's matrix; `tkhd`'s if the description has none.

mod boxes;
mod coding;
mod fragments;
mod heif;
mod movie;
mod samples;

use boxes::{Head, Kind, Walk};
use movie::{Movie, Track};
use samples::{Durations, Samples};

use crate::decode::{Coding, FRAME_BYTES_MAX, Trial, in_scope};
use crate::read::Bounded;
use crate::sniff::{HEAD_BYTES, format_of_brands, sniff};
use crate::types::{DecodeScope, Format, Limits, MediaInfo, ProbeError, grouped};

pub(crate) fn probe(
    reader: &mut Bounded<'_>,
    format: Format,
    limits: &Limits,
) -> Result<MediaInfo, ProbeError> {
    let layout = Layout::read(reader, format)?;
    if format == Format::Heic {
        return heif::probe(reader, layout.meta.as_ref(), layout.moov.is_some());
    }
    let Some(moov) = layout.moov else {
        return Err(ProbeError::truncated(format, "there is no 'moov' box"));
    };
    let movie = Movie::read(reader, format, &moov)?;
    let mut counts = vec![Counted::default(); movie.tracks.len()];
    if movie.fragmented {
        if layout.left > 0 {
            let detail = format!("it ends with {} bytes of a box", layout.left);
            return Err(ProbeError::truncated(format, detail));
        }
        fragments::walk(reader, format, &movie, &mut |_, sample| {
            if let Some(counted) = counts.get_mut(sample.track) {
                counted.samples += 1;
                counted.units = counted.units.saturating_add(sample.duration.into());
            }
            Ok(())
        })?;
    }
    let probe = Probe { format, movie: &movie, counts: &counts };
    match format {
        Format::M4a => probe.audio_file(reader, limits),
        _ => probe.video_file(reader),
    }
}

/// The boxes of the file itself.
struct Layout {
    moov: Option<Head>,
    meta: Option<Head>,
    /// Bytes behind the last box.
    left: u64,
}

impl Layout {
    fn read(reader: &mut Bounded<'_>, format: Format) -> Result<Self, ProbeError> {
        let found = sniff(reader.peek(HEAD_BYTES)?);
        let mismatch = || ProbeError::Mismatch { expected: format, found };
        let start = reader.peek(8)?.get(4..8).and_then(|kind| kind.first_chunk::<4>().copied());
        let first = start.map(Kind).ok_or_else(mismatch)?;
        // `sniff` knows the usual ones; a file may begin with padding.
        let is_known = matches!(
            &first.0,
            b"ftyp" | b"moov" | b"mdat" | b"free" | b"skip" | b"wide" | b"pnot" | b"styp" | b"uuid"
        );
        if !is_known || found.is_some_and(|found| !is_bmff(found)) {
            return Err(mismatch());
        }
        let mut layout = Self { moov: None, meta: None, left: 0 };
        let mut is_heif = false;
        let mut walk = Walk::file(reader, format);
        while let Some(head) = walk.next(reader)? {
            match &head.kind.0 {
                b"ftyp" => {
                    let brand = format_of_brands(&head.read(reader)?);
                    is_heif = brand == Some(Format::Heic);
                    if is_heif != (format == Format::Heic) || brand.is_none() {
                        return Err(ProbeError::Mismatch { expected: format, found: brand });
                    }
                }
                b"moov" if layout.moov.is_none() => layout.moov = Some(head),
                b"meta" if layout.meta.is_none() => layout.meta = Some(head),
                _ => {}
            }
        }
        if format == Format::Heic && !is_heif {
            return Err(mismatch());
        }
        layout.left = walk.left();
        Ok(layout)
    }
}

fn is_bmff(found: Format) -> bool {
    matches!(found, Format::M4a | Format::Mp4 | Format::Mov | Format::Heic)
}

/// Samples of a track in all fragments, and their duration in its units.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    samples: u64,
    units: u64,
}

/// A movie whose boxes are read.
#[derive(Debug, Clone, Copy)]
struct Probe<'m> {
    format: Format,
    movie: &'m Movie,
    /// For each track, what its fragments hold.
    counts: &'m [Counted],
}

impl Probe<'_> {
    fn audio_file(
        self,
        reader: &mut Bounded<'_>,
        limits: &Limits,
    ) -> Result<MediaInfo, ProbeError> {
        let tracks = &self.movie.tracks;
        if tracks.iter().any(|track| track.is_video() && !track.is_picture()) {
            return Err(ProbeError::Mismatch { expected: self.format, found: Some(Format::Mp4) });
        }
        let (index, track) = self.first(Track::is_audio, "it has no audio track")?;
        self.check_readable(track)?;
        if !matches!(track.coding.name.as_str(), "aac" | "alac") {
            let detail = format!("audio coded as {}, not aac or alac", track.coding.name);
            return Err(ProbeError::unsupported(self.format, detail));
        }
        self.check_samples(reader)?;
        let frames = self.decode(reader, index, track, limits.decode)?;
        let samples = self.presented_samples(reader, track, &frames)?;
        let mut info = MediaInfo::new(self.format);
        info.duration_ms = Some(millis(samples.into(), track.coding.frame_rate_hz.into()));
        Self::describe_audio(&mut info, track);
        info.codec = Some(track.coding.name.clone());
        Ok(info)
    }

    fn video_file(self, reader: &mut Bounded<'_>) -> Result<MediaInfo, ProbeError> {
        let is_video = |track: &Track| track.is_video() && !track.is_picture();
        // A film coded as a row of JPEGs is a video as well.
        let (index, track) = match self.first(is_video, "it has no video track") {
            Err(refusal) => match self.first(Track::is_video, "it has no video track") {
                Ok(found) if self.sample_count(found.0) > 1 => found,
                _ => return Err(refusal),
            },
            found => found?,
        };
        self.check_readable(track)?;
        self.check_samples(reader)?;
        let mut info = MediaInfo::new(self.format);
        let mut duration_ms = self.edited_millis(reader, index, track)?;
        if let Ok((index, audio)) = self.first(Track::is_audio, "") {
            Self::describe_audio(&mut info, audio);
            duration_ms = duration_ms.max(self.edited_millis(reader, index, audio)?);
        }
        info.duration_ms = Some(duration_ms);
        info.codec = Some(track.coding.name.clone());
        let (width, height) = match (track.coding.width_px, track.coding.height_px) {
            (0, _) | (_, 0) => track.shown_px,
            size => size,
        };
        info.width_px = Some(width);
        info.height_px = Some(height);
        Ok(info)
    }

    fn describe_audio(info: &mut MediaInfo, track: &Track) {
        info.sample_rate_hz = Some(track.coding.sample_rate_hz).filter(|hz| *hz > 0);
        info.channels = Some(track.coding.channels).filter(|count| *count > 0);
    }

    fn first(
        &self,
        wanted: impl Fn(&Track) -> bool,
        otherwise: &str,
    ) -> Result<(usize, &Track), ProbeError> {
        let found = self.movie.tracks.iter().enumerate().find(|(_, track)| wanted(track));
        found.ok_or_else(|| ProbeError::unsupported(self.format, otherwise))
    }

    fn sample_count(&self, index: usize) -> u64 {
        let in_tables = self.movie.tracks.get(index).map_or(0, |track| track.tables.samples);
        in_tables + self.counts.get(index).map_or(0, |counted| counted.samples)
    }

    fn check_readable(&self, track: &Track) -> Result<(), ProbeError> {
        let detail = if track.coding.encrypted {
            "it is encrypted"
        } else if track.external {
            "its media are in another file"
        } else {
            return Ok(());
        };
        Err(ProbeError::unsupported(self.format, detail))
    }

    /// Every sample of every track lies inside the file, and there are some.
    fn check_samples(&self, reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
        for (index, track) in self.movie.tracks.iter().enumerate() {
            let of_media = track.is_audio() || track.is_video();
            if of_media && !self.movie.fragmented && !track.tables.is_complete() {
                let detail = "a track without its sample tables";
                return Err(ProbeError::undecodable(self.format, detail));
            }
            if of_media && !track.is_picture() && self.sample_count(index) == 0 {
                let detail = "a track without samples";
                return Err(if self.movie.fragmented {
                    ProbeError::truncated(self.format, detail)
                } else {
                    ProbeError::undecodable(self.format, detail)
                });
            }
            if track.external {
                continue;
            }
            let mut samples = Samples::new(reader, self.format, &track.tables)?;
            while samples.next(reader)?.is_some() {}
        }
        Ok(())
    }

    /// The length of a track with its edits, in milliseconds.
    fn edited_millis(
        &self,
        reader: &mut Bounded<'_>,
        index: usize,
        track: &Track,
    ) -> Result<u64, ProbeError> {
        let mut units = u128::from(self.counts.get(index).map_or(0, |counted| counted.units));
        let mut durations = Durations::new(self.format, &track.tables);
        while let Some((count, duration)) = durations.next(reader)? {
            units += u128::from(count) * u128::from(duration);
        }
        let media_ms = millis(units, track.timescale.into());
        if self.movie.fragmented || track.edits.is_empty() || self.movie.timescale == 0 {
            return Ok(media_ms);
        }
        // An edit list can show a part twice; it cannot stretch one.
        Ok(track.edits.iter().fold(0_u64, |sum, edit| {
            let edit_ms = millis(edit.duration.into(), self.movie.timescale.into());
            let shown = match edit.media_time {
                Some(_) if edit.duration == 0 => media_ms,
                Some(_) => edit_ms.min(media_ms),
                None => edit_ms,
            };
            sum.saturating_add(shown)
        }))
    }

    /// Tries the frames in scope and measures all of them.
    fn decode(
        &self,
        reader: &mut Bounded<'_>,
        index: usize,
        track: &Track,
        scope: DecodeScope,
    ) -> Result<Frames, ProbeError> {
        let coding = decoder_coding(track);
        let trial = Trial::new(&coding).map_err(|why| ProbeError::unsupported(self.format, why))?;
        let is_alac = matches!(coding, Coding::Alac { .. });
        let (format, total) = (self.format, self.sample_count(index));
        let frame_samples = u64::from(track.coding.frame_samples);
        let mut decoding = Decoding {
            format,
            scope,
            total,
            frame_samples,
            is_alac,
            trial,
            frames: Frames::default(),
            last: None,
        };
        let mut samples = Samples::new(reader, self.format, &track.tables)?;
        while let Some(run) = samples.next(reader)? {
            if run.description > 1 {
                let detail = "its audio changes its coding";
                return Err(ProbeError::unsupported(self.format, detail));
            }
            for nth in 0..run.count {
                reader.step(self.format)?;
                let offset = run.offset + nth * u64::from(run.size);
                decoding.frame(reader, offset, run.size)?;
            }
        }
        if self.movie.fragmented {
            fragments::walk(reader, self.format, self.movie, &mut |reader, sample| {
                if sample.track == index {
                    decoding.frame(reader, sample.offset, sample.size)?;
                }
                Ok(())
            })?;
        }
        decoding.trial.verdict().map_err(|why| ProbeError::undecodable(self.format, why))?;
        Ok(decoding.frames)
    }

    /// Samples that are heard, of the frames that are there.
    fn presented_samples(
        &self,
        reader: &mut Bounded<'_>,
        track: &Track,
        frames: &Frames,
    ) -> Result<u64, ProbeError> {
        let edits: Vec<_> = track.edits.iter().filter_map(|e| Some((e.media_time?, e))).collect();
        if self.movie.fragmented || edits.is_empty() || self.movie.timescale == 0 {
            return Ok(frames.samples);
        }
        let (rate, scale) = (u128::from(track.coding.frame_rate_hz), u128::from(track.timescale));
        let mut presented = 0_u128;
        for (start, edit) in edits {
            let units = u128::from(edit.duration) * scale / u128::from(self.movie.timescale);
            let end = match edit.duration {
                0 => u64::MAX,
                _ => u64::try_from(units).unwrap_or(u64::MAX).saturating_add(start),
            };
            let shown = Shown::count(reader, self.format, track, start..end)?;
            let whole = u128::from(shown.frames) * u128::from(frames.frame_samples);
            // The last frame of ALAC is a short one, the only one that may be.
            let short = if shown.has_last { frames.missing() } else { 0 };
            let cut = u128::from(shown.cut_units) * rate / scale;
            presented += whole.saturating_sub(u128::from(short)).saturating_sub(cut);
        }
        Ok(u64::try_from(presented).unwrap_or(u64::MAX))
    }
}

/// What of a track an edit shows.
#[derive(Debug, Default)]
struct Shown {
    frames: u64,
    /// Units of the first frame that lie before the edit.
    cut_units: u64,
    has_last: bool,
}

impl Shown {
    /// Counts frames by their times in `stts`, a run of equal ones at once.
    fn count(
        reader: &mut Bounded<'_>,
        format: Format,
        track: &Track,
        edit: std::ops::Range<u64>,
    ) -> Result<Self, ProbeError> {
        let mut shown = Self::default();
        let mut durations = Durations::new(format, &track.tables);
        let (mut time, mut index) = (0_u64, 0_u64);
        while let Some((count, duration)) = durations.next(reader)? {
            let duration = u64::from(duration);
            let first = match duration {
                0 if time < edit.start => count,
                0 => 0,
                _ => (edit.start.saturating_sub(time) / duration).min(count),
            };
            let behind = match duration {
                0 if time >= edit.end => 0,
                0 => count,
                _ => edit.end.saturating_sub(time).div_ceil(duration).min(count),
            };
            if behind > first {
                if shown.frames == 0 {
                    let begins = time.saturating_add(first.saturating_mul(duration));
                    shown.cut_units = edit.start.saturating_sub(begins);
                }
                shown.frames += behind - first;
                shown.has_last = index + behind == track.tables.samples;
            }
            index += count;
            time = time.saturating_add(count.saturating_mul(duration));
        }
        Ok(shown)
    }
}

fn decoder_coding(track: &Track) -> Coding {
    let coding = &track.coding;
    if coding.name == "alac" {
        return Coding::Alac { cookie: coding.setup.clone() };
    }
    Coding::Aac {
        config: coding.setup.clone(),
        sample_rate_hz: coding.frame_rate_hz,
        channels: coding.channels,
    }
}

/// The frames of a track, measured.
#[derive(Debug, Default)]
struct Frames {
    count: u64,
    samples: u64,
    frame_samples: u64,
}

impl Frames {
    /// Samples that the last frame is short of a whole one.
    fn missing(&self) -> u64 {
        self.count.saturating_mul(self.frame_samples).saturating_sub(self.samples)
    }
}

/// The state of trying the frames of a track.
struct Decoding {
    format: Format,
    scope: DecodeScope,
    total: u64,
    frame_samples: u64,
    is_alac: bool,
    trial: Trial,
    frames: Frames,
    /// Number of the last frame that was tried.
    last: Option<u64>,
}

impl Decoding {
    fn frame(
        &mut self,
        reader: &mut Bounded<'_>,
        offset: u64,
        size: u32,
    ) -> Result<(), ProbeError> {
        let index = self.frames.count;
        self.frames.count += 1;
        self.frames.frame_samples = self.frame_samples;
        let size = size as usize;
        if size > FRAME_BYTES_MAX {
            let (number, size) = (grouped(index + 1), grouped(size as u64));
            let detail = format!("audio frame {number} has {size} bytes");
            return Err(ProbeError::undecodable(self.format, detail));
        }
        reader.seek_to(offset);
        self.frames.samples = self.frames.samples.saturating_add(if self.is_alac {
            let announced = alac_samples(reader.peek(size.min(8))?);
            announced.unwrap_or(u64::MAX).min(self.frame_samples)
        } else {
            self.frame_samples
        });
        if !in_scope(self.scope, index, self.total) {
            return Ok(());
        }
        let bytes = reader.take_vec(size)?.unwrap_or_default();
        let follows = index == 0 || self.last == index.checked_sub(1);
        if !follows {
            self.trial.jump();
        }
        self.last = Some(index);
        // An element that ends an AAC frame at once is in order to the decoder, but is no audio.
        let is_blank = !self.is_alac && bytes.first().is_some_and(|byte| byte >> 5 == 7);
        self.trial.frame(if is_blank { &[] } else { &bytes });
        Ok(())
    }
}

/// The number of samples that an ALAC frame announces if it is a short one: after the element's tag
/// and number (3 + 4 bits), 12 bits unused, comes a flag for that, 3 bits, and the number in 32.
fn alac_samples(frame: &[u8]) -> Option<u64> {
    let bits = frame.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let bits = bits << (8 * 8_usize.saturating_sub(frame.len()).min(7));
    (bits >> 44 & 1 == 1).then_some(bits >> 9 & 0xFFFF_FFFF)
}

/// `units / per_second` in milliseconds, rounded.
fn millis(units: u128, per_second: u64) -> u64 {
    let per_second = u128::from(per_second.max(1));
    u64::try_from((units * 1000 + per_second / 2) / per_second).unwrap_or(u64::MAX)
}
