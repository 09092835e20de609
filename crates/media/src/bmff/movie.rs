//! The movie box: tracks, their codings, edits and tables (ISO/IEC 14496-12 §8.2 to §8.8).

use super::boxes::{Fields, Head, Kind, Walk};
use super::coding::Coding;
use super::samples::{Sizes, Table, Tables};
use crate::read::Bounded;
use crate::types::{Format, ProbeError};

/// Tracks in a file, at most. Cameras write up to ten.
const TRACKS_MAX: usize = 128;

/// Edits of a track, at most. One or two are usual, a film cut in QuickTime has some dozens.
const EDITS_MAX: u64 = 4096;

/// What `moov` says.
#[derive(Debug, Default)]
pub(super) struct Movie {
    /// Units a second of edit durations.
    pub(super) timescale: u32,
    pub(super) tracks: Vec<Track>,
    /// There is an `mvex`: samples come in fragments.
    pub(super) fragmented: bool,
    /// What `trex` says for fragments that leave it out.
    pub(super) defaults: Vec<FragmentDefaults>,
}

/// One `trak`.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) id: u32,
    pub(super) handler: Kind,
    /// Units a second of sample durations.
    pub(super) timescale: u32,
    pub(super) coding: Coding,
    /// From `tkhd`: how large it is shown.
    pub(super) shown_px: (u32, u32),
    pub(super) edits: Vec<Edit>,
    pub(super) tables: Tables,
    /// The samples are in another file.
    pub(super) external: bool,
}

/// An entry of `elst`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edit {
    /// In units of the movie; 0 is "to the end" where it makes sense.
    pub(super) duration: u64,
    /// Where in the track it begins, in the track's units; `None` is a pause.
    pub(super) media_time: Option<u64>,
}

/// A `trex`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FragmentDefaults {
    pub(super) track_id: u32,
    pub(super) duration: u32,
    pub(super) size: u32,
}

impl Track {
    pub(super) fn is_video(&self) -> bool {
        &self.handler.0 == b"vide"
    }

    pub(super) fn is_audio(&self) -> bool {
        &self.handler.0 == b"soun"
    }

    /// A cover or chapter picture that only a player's window shows.
    pub(super) fn is_picture(&self) -> bool {
        self.is_video() && matches!(self.coding.name.as_str(), "mjpeg" | "png" | "gif" | "bmp")
    }
}

impl Movie {
    pub(super) fn read(
        reader: &mut Bounded<'_>,
        format: Format,
        moov: &Head,
    ) -> Result<Self, ProbeError> {
        let mut movie = Self::default();
        let mut walk = Walk::inside(format, moov, 0);
        while let Some(head) = walk.next(reader)? {
            match &head.kind.0 {
                b"mvhd" => {
                    movie.timescale = times(&head.read(reader)?)
                        .ok_or_else(|| short(format, head.kind))?
                        .timescale;
                }
                b"trak" => {
                    if movie.tracks.len() >= TRACKS_MAX {
                        let detail = format!("more than {TRACKS_MAX} tracks");
                        return Err(ProbeError::too_complex(format, detail));
                    }
                    movie.tracks.push(TrackReader::new(format).read(reader, &head)?);
                }
                b"mvex" => {
                    movie.fragmented = true;
                    movie.read_defaults(reader, format, &head)?;
                }
                b"cmov" => return Err(ProbeError::unsupported(format, "compressed movie header")),
                _ => {}
            }
        }
        Ok(movie)
    }

    fn read_defaults(
        &mut self,
        reader: &mut Bounded<'_>,
        format: Format,
        mvex: &Head,
    ) -> Result<(), ProbeError> {
        let mut walk = Walk::inside(format, mvex, 0);
        while let Some(head) = walk.next(reader)? {
            if &head.kind.0 != b"trex" || self.defaults.len() >= TRACKS_MAX {
                continue;
            }
            let body = head.read(reader)?;
            let mut fields = Fields(&body);
            let mut read = || {
                fields.version_flags()?;
                let track_id = fields.u32()?;
                fields.skip(4)?;
                Some(FragmentDefaults { track_id, duration: fields.u32()?, size: fields.u32()? })
            };
            self.defaults.push(read().ok_or_else(|| short(format, head.kind))?);
        }
        Ok(())
    }
}

/// The part that `mvhd` and `mdhd` have in common.
struct Times {
    timescale: u32,
}

fn times(body: &[u8]) -> Option<Times> {
    let mut fields = Fields(body);
    let (version, _) = fields.version_flags()?;
    fields.skip(if version == 1 { 16 } else { 8 })?;
    Some(Times { timescale: fields.u32()? })
}

fn short(format: Format, kind: Kind) -> ProbeError {
    ProbeError::undecodable(format, format!("box '{kind}' is too short"))
}

/// Gathers a track from its nested boxes.
struct TrackReader {
    format: Format,
    track: Track,
    description: Option<Head>,
}

impl TrackReader {
    fn new(format: Format) -> Self {
        let track = Track {
            id: 0,
            handler: Kind(*b"    "),
            timescale: 0,
            coding: Coding::default(),
            shown_px: (0, 0),
            edits: Vec::new(),
            tables: Tables::default(),
            external: false,
        };
        Self { format, track, description: None }
    }

    fn read(mut self, reader: &mut Bounded<'_>, trak: &Head) -> Result<Track, ProbeError> {
        self.read_boxes(reader, trak, 0)?;
        // Only now is it sure which kind of track the description is of.
        if let Some(head) = self.description {
            let body = head.read(reader)?;
            if let Some(coding) = Coding::read(self.track.handler, &body) {
                self.track.coding = coding;
            }
        }
        if self.track.timescale == 0 && (self.track.is_audio() || self.track.is_video()) {
            return Err(ProbeError::undecodable(self.format, "a track without a timescale"));
        }
        Ok(self.track)
    }

    /// The boxes of `parent` and, as they nest in a fixed way, of those inside it.
    fn read_boxes(
        &mut self,
        reader: &mut Bounded<'_>,
        parent: &Head,
        depth: u8,
    ) -> Result<(), ProbeError> {
        // trak, mdia, minf, stbl or dinf: deeper is nothing of ours.
        const DEPTH_MAX: u8 = 3;
        let mut walk = Walk::inside(self.format, parent, 0);
        while let Some(head) = walk.next(reader)? {
            match &head.kind.0 {
                b"mdia" | b"minf" | b"stbl" | b"dinf" | b"edts" if depth < DEPTH_MAX => {
                    self.read_boxes(reader, &head, depth + 1)?;
                }
                b"elst" => self.read_edits(reader, &head)?,
                b"stsd" => self.description = Some(head),
                b"stts" | b"stsc" | b"stsz" | b"stz2" | b"stco" | b"co64" => {
                    self.read_table(reader, &head)?;
                }
                b"tkhd" | b"mdhd" | b"hdlr" | b"dref" => {
                    let body = head.read(reader)?;
                    // QuickTime has a second `hdlr` in `minf`, for the data: the first counts.
                    let of_data = &head.kind.0 == b"hdlr" && &parent.kind.0 != b"mdia";
                    if !of_data {
                        self.read_fields(head.kind, &body)
                            .ok_or_else(|| short(self.format, head.kind))?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_fields(&mut self, kind: Kind, body: &[u8]) -> Option<()> {
        let mut fields = Fields(body);
        match &kind.0 {
            b"mdhd" => self.track.timescale = times(body)?.timescale,
            b"hdlr" => {
                fields.skip(8)?;
                self.track.handler = Kind(fields.array()?);
            }
            b"tkhd" => {
                let (version, _) = fields.version_flags()?;
                fields.skip(if version == 1 { 16 } else { 8 })?;
                self.track.id = fields.u32()?;
                // Reserved, duration, reserved, layer, group, volume, reserved, matrix.
                fields.skip(4 + if version == 1 { 8 } else { 4 } + 8 + 8 + 36)?;
                self.track.shown_px = (fields.u32()? >> 16, fields.u32()? >> 16);
            }
            _ => {
                // `dref`: flag 1 is "in this file". An entry without that and without an address
                // cannot mean another one.
                fields.skip(8)?;
                while let Some((_, mut entry)) = fields.next_child() {
                    let (_, flags) = entry.version_flags()?;
                    self.track.external |= flags & 1 == 0 && !entry.0.is_empty();
                }
            }
        }
        Some(())
    }

    fn read_edits(&mut self, reader: &mut Bounded<'_>, head: &Head) -> Result<(), ProbeError> {
        let body = head.read(reader)?;
        let mut fields = Fields(&body);
        let too_short = || short(self.format, head.kind);
        let (version, _) = fields.version_flags().ok_or_else(too_short)?;
        let count = u64::from(fields.u32().ok_or_else(too_short)?);
        if count > EDITS_MAX {
            let detail = format!("more than {EDITS_MAX} edits");
            return Err(ProbeError::too_complex(self.format, detail));
        }
        for _ in 0..count {
            let mut read = || {
                let (duration, media_time) = if version == 1 {
                    (fields.u64()?, fields.u64()? as i64)
                } else {
                    (fields.u32()?.into(), i64::from(fields.u32()? as i32))
                };
                fields.skip(4)?;
                Some(Edit { duration, media_time: u64::try_from(media_time).ok() })
            };
            self.track.edits.push(read().ok_or_else(too_short)?);
        }
        Ok(())
    }

    fn read_table(&mut self, reader: &mut Bounded<'_>, head: &Head) -> Result<(), ProbeError> {
        let format = self.format;
        reader.seek_to(head.body);
        let too_short = || short(format, head.kind);
        let fields = reader.take::<8>()?.filter(|_| head.end - head.body >= 8);
        let [.., a, b, c, d] = fields.ok_or_else(too_short)?;
        let word = u32::from_be_bytes([a, b, c, d]);
        let tables = &mut self.track.tables;
        match &head.kind.0 {
            b"stts" => tables.durations = Some(Table::new(format, head, 8, word, 8)?),
            b"stsc" => tables.to_chunks = Some(Table::new(format, head, 8, word, 12)?),
            b"stco" => tables.chunks = Some(Table::new(format, head, 8, word, 4)?),
            b"co64" => tables.chunks = Some(Table::new(format, head, 8, word, 8)?),
            kind => {
                let count = reader.take::<4>()?.filter(|_| head.end - head.body >= 12);
                let count = u32::from_be_bytes(count.ok_or_else(too_short)?);
                tables.samples = count.into();
                tables.sizes = match (kind, word, d) {
                    (b"stsz", 0, _) => Sizes::Each(Table::new(format, head, 12, count, 4)?),
                    (b"stsz", size, _) => Sizes::Same(size),
                    (_, _, 4) => {
                        Sizes::Nibbles(Table::new(format, head, 12, count.div_ceil(2), 1)?)
                    }
                    (_, _, 8 | 16) => Sizes::Each(Table::new(format, head, 12, count, d / 8)?),
                    _ => {
                        let detail = format!("sample sizes of {d} bits");
                        return Err(ProbeError::undecodable(format, detail));
                    }
                };
            }
        }
        Ok(())
    }
}
