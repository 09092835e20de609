//! Movie fragments: `moof` with a `traf` for each track and its `trun`s (ISO/IEC 14496-12 §8.8).
//!
//! A run begins at the fragment's base plus its own offset, or where the run before ended. The base
//! is given, or is the start of the `moof`; in old files without either, a later track's base is
//! the end of the data of the one before.

use super::boxes::{Fields, Head, Walk};
use super::movie::{FragmentDefaults, Movie};
use super::samples::{Entries, Table};
use crate::read::Bounded;
use crate::types::{Format, ProbeError, grouped};

/// A sample of a fragment.
#[derive(Debug, Clone, Copy)]
pub(super) struct FragmentSample {
    /// Which track it is of, as an index into [`Movie::tracks`].
    pub(super) track: usize,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) duration: u32,
}

type Visit<'v> = &'v mut dyn FnMut(&mut Bounded<'_>, FragmentSample) -> Result<(), ProbeError>;

/// Shows all samples of all fragments to `visit`, in order. Each costs a step.
///
/// # Errors
/// Truncated if a sample ends behind the file.
pub(super) fn walk(
    reader: &mut Bounded<'_>,
    format: Format,
    movie: &Movie,
    visit: Visit<'_>,
) -> Result<(), ProbeError> {
    let mut boxes = Walk::file(reader, format);
    while let Some(head) = boxes.next(reader)? {
        if &head.kind.0 != b"moof" {
            continue;
        }
        let mut base = head.start;
        let mut inside = Walk::inside(format, &head, 0);
        while let Some(traf) = inside.next(reader)? {
            if &traf.kind.0 == b"traf" {
                let mut fragment = Fragment { format, movie, moof: head.start, base, track: None };
                base = fragment.read(reader, &traf, visit)?;
            }
        }
    }
    Ok(())
}

/// A `traf` being read.
struct Fragment<'m> {
    format: Format,
    movie: &'m Movie,
    moof: u64,
    /// Where the next run begins if it does not say.
    base: u64,
    track: Option<(usize, FragmentDefaults)>,
}

/// The optional fields of a sample in a `trun`, in order, each of 32 bits.
const HAS_DURATION: u32 = 0x100;
const HAS_SIZE: u32 = 0x200;
const HAS_FLAGS: u32 = 0x400;
const HAS_COMPOSITION: u32 = 0x800;

impl Fragment<'_> {
    /// Returns where the data of the last run ended.
    fn read(
        &mut self,
        reader: &mut Bounded<'_>,
        traf: &Head,
        visit: Visit<'_>,
    ) -> Result<u64, ProbeError> {
        let mut anchor = self.base;
        let mut inside = Walk::inside(self.format, traf, 0);
        while let Some(head) = inside.next(reader)? {
            match &head.kind.0 {
                b"tfhd" => {
                    let body = head.read(reader)?;
                    self.read_header(&body).ok_or_else(|| {
                        ProbeError::undecodable(self.format, "box 'tfhd' is too short")
                    })?;
                    anchor = self.base;
                }
                b"trun" => self.read_run(reader, &head, anchor, visit)?,
                _ => {}
            }
        }
        Ok(self.base)
    }

    fn read_header(&mut self, body: &[u8]) -> Option<()> {
        let mut fields = Fields(body);
        let (_, flags) = fields.version_flags()?;
        let track_id = fields.u32()?;
        let known = self.movie.defaults.iter().find(|defaults| defaults.track_id == track_id);
        let mut defaults = known.copied().unwrap_or_default();
        if flags & 1 != 0 {
            self.base = fields.u64()?;
        } else if flags & 0x2_0000 != 0 {
            self.base = self.moof;
        }
        if flags & 2 != 0 {
            fields.skip(4)?;
        }
        if flags & 8 != 0 {
            defaults.duration = fields.u32()?;
        }
        if flags & 16 != 0 {
            defaults.size = fields.u32()?;
        }
        let index = self.movie.tracks.iter().position(|track| track.id == track_id);
        self.track = index.map(|index| (index, defaults));
        Some(())
    }

    fn read_run(
        &mut self,
        reader: &mut Bounded<'_>,
        head: &Head,
        anchor: u64,
        visit: Visit<'_>,
    ) -> Result<(), ProbeError> {
        // A run of a track that nobody announced is nothing a player shows.
        let Some((track, defaults)) = self.track else { return Ok(()) };
        reader.seek_to(head.body);
        let bytes = reader.take_vec(16.min(head.end - head.body) as usize)?.unwrap_or_default();
        let mut fields = Fields(&bytes);
        let mut read = || {
            let (_, flags) = fields.version_flags()?;
            let count = fields.u32()?;
            let offset = if flags & 1 != 0 { Some(fields.u32()? as i32) } else { None };
            Some((flags, count, offset))
        };
        let Some((flags, count, offset)) = read() else {
            return Err(ProbeError::undecodable(self.format, "box 'trun' is too short"));
        };
        let fixed = 8 + 4 * (u64::from(flags & 1 != 0) + u64::from(flags & 4 != 0));
        let optional = [HAS_DURATION, HAS_SIZE, HAS_FLAGS, HAS_COMPOSITION];
        let width = 4 * optional.iter().filter(|flag| flags & **flag != 0).count() as u8;
        let mut entries = Entries::new(if width > 0 {
            Table::new(self.format, head, fixed, count, width)?
        } else {
            Table::default()
        });
        let mut at = offset.map_or(self.base, |by| anchor.saturating_add_signed(by.into()));
        for index in 0..u64::from(count) {
            reader.step(self.format)?;
            let mut sample = FragmentSample {
                track,
                offset: at,
                size: defaults.size,
                duration: defaults.duration,
            };
            if let Some(mut entry) = entries.next(reader)? {
                if flags & HAS_DURATION != 0 {
                    sample.duration = entry.u32().unwrap_or_default();
                }
                if flags & HAS_SIZE != 0 {
                    sample.size = entry.u32().unwrap_or_default();
                }
            }
            at = at.saturating_add(sample.size.into());
            if at > reader.len() {
                let (number, moof) = (grouped(index + 1), grouped(self.moof));
                let what = format!("sample {number} of the fragment at byte {moof}");
                return Err(ProbeError::ends_past_file(self.format, what, at, reader.len()));
            }
            visit(reader, sample)?;
        }
        self.base = at;
        Ok(())
    }
}
