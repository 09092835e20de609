//! HEIF still images: width, height and completeness.
//!
//! The `meta` box of the file names the primary item (`pitm`), where the data of each item is
//! (`iloc`), what kind it is (`iinf`) and what properties it has: `ipco` holds them, `ipma` says
//! which are whose (ISO/IEC 14496-12 §8.11, ISO/IEC 23008-12 §6 and §9).
//!
//! Width and height are as shown: `ispe`, then cut by `clap` and swapped by `irot` in the order in
//! which the item has them. Apple's cameras write nearly every portrait as a turned landscape. The
//! HEVC data themselves are not decoded.

use super::boxes::{Fields, Head, Kind, Walk};
use crate::read::Bounded;
use crate::types::{Format, MediaInfo, ProbeError, grouped};

const FORMAT: Format = Format::Heic;

/// Properties in a file, at most: what their index in `ipma` can name.
const PROPERTIES_MAX: usize = 0x7FFF;

pub(super) fn probe(
    reader: &mut Bounded<'_>,
    meta: Option<&Head>,
    has_movie: bool,
) -> Result<MediaInfo, ProbeError> {
    let Some(meta) = meta else {
        return Err(if has_movie {
            ProbeError::unsupported(FORMAT, "it has moving pictures only")
        } else {
            ProbeError::truncated(FORMAT, "there is no 'meta' box")
        });
    };
    let mut image = Image::default();
    // Two passes, as what belongs to the primary item is only known with `pitm`.
    for pass in [Pass::Find, Pass::Read] {
        let mut walk = Walk::inside(FORMAT, meta, 4);
        while let Some(head) = walk.next(reader)? {
            image.read(reader, &head, pass)?;
        }
    }
    image.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Find,
    Read,
}

#[derive(Debug, Clone, Copy)]
enum Property {
    /// `ispe`.
    Size(u32, u32),
    /// `clap`.
    Cut(u32, u32),
    /// `irot` by 90° or 270°.
    Turned,
    Other,
}

#[derive(Debug, Default)]
struct Image {
    primary: Option<u32>,
    kind: Option<Kind>,
    has_hevc: bool,
    properties: Vec<Property>,
    /// Indexes of the primary item's properties, from 1.
    of_primary: Vec<u16>,
    /// Bytes in `idat`.
    idat_len: u64,
    /// Bytes of the primary item.
    primary_bytes: u64,
}

impl Image {
    fn read(
        &mut self,
        reader: &mut Bounded<'_>,
        head: &Head,
        pass: Pass,
    ) -> Result<(), ProbeError> {
        match (&head.kind.0, pass) {
            (b"pitm", Pass::Find) => {
                let body = head.read(reader)?;
                let mut fields = Fields(&body);
                let version = fields.version_flags().map(|(version, _)| version);
                self.primary = version.and_then(|version| item_id(&mut fields, version > 0));
            }
            (b"idat", Pass::Find) => self.idat_len = head.end.saturating_sub(head.body),
            (b"iprp", Pass::Read) => {
                let mut walk = Walk::inside(FORMAT, head, 0);
                while let Some(inner) = walk.next(reader)? {
                    match &inner.kind.0 {
                        b"ipco" => self.read_properties(reader, &inner)?,
                        b"ipma" => self.read_associations(reader, &inner)?,
                        _ => {}
                    }
                }
            }
            (b"iinf", Pass::Read) => self.read_kinds(reader, head)?,
            (b"iloc", Pass::Read) => self.read_places(reader, head)?,
            _ => {}
        }
        Ok(())
    }

    fn read_kinds(&mut self, reader: &mut Bounded<'_>, iinf: &Head) -> Result<(), ProbeError> {
        reader.seek_to(iinf.body);
        let version = reader.peek(1)?.first().copied().unwrap_or(0);
        let mut walk = Walk::inside(FORMAT, iinf, if version == 0 { 6 } else { 8 });
        while let Some(head) = walk.next(reader)? {
            let body = head.read(reader)?;
            let mut fields = Fields(&body);
            let mut read = || {
                let (version, _) = fields.version_flags()?;
                let id = item_id(&mut fields, version > 2)?;
                fields.skip(2)?;
                Some((id, Kind(fields.array()?)))
            };
            let Some((id, kind)) = read() else { continue };
            self.has_hevc |= matches!(&kind.0, b"hvc1" | b"hev1");
            if Some(id) == self.primary {
                self.kind = Some(kind);
            }
        }
        Ok(())
    }

    fn read_properties(&mut self, reader: &mut Bounded<'_>, ipco: &Head) -> Result<(), ProbeError> {
        let mut walk = Walk::inside(FORMAT, ipco, 0);
        while let Some(head) = walk.next(reader)? {
            if self.properties.len() >= PROPERTIES_MAX {
                let detail = format!("more than {} properties", grouped(PROPERTIES_MAX as u64));
                return Err(ProbeError::too_complex(FORMAT, detail));
            }
            let property = match &head.kind.0 {
                b"ispe" | b"clap" | b"irot" => property(head.kind, &head.read(reader)?),
                _ => Some(Property::Other),
            };
            self.properties.push(property.unwrap_or(Property::Other));
        }
        Ok(())
    }

    fn read_associations(
        &mut self,
        reader: &mut Bounded<'_>,
        ipma: &Head,
    ) -> Result<(), ProbeError> {
        let body = ipma.read(reader)?;
        let mut fields = Fields(&body);
        let short = || ProbeError::undecodable(FORMAT, "box 'ipma' is too short");
        let (version, flags) = fields.version_flags().ok_or_else(short)?;
        let entries = fields.u32().ok_or_else(short)?;
        for _ in 0..entries {
            reader.step(FORMAT)?;
            let id = item_id(&mut fields, version > 0).ok_or_else(short)?;
            let count = fields.u8().ok_or_else(short)?;
            for _ in 0..count {
                // The top bit says that the property is essential.
                let index = match flags & 1 {
                    0 => u16::from(fields.u8().ok_or_else(short)? & 0x7F),
                    _ => fields.u16().ok_or_else(short)? & 0x7FFF,
                };
                if Some(id) == self.primary && self.of_primary.len() < usize::from(u8::MAX) {
                    self.of_primary.push(index);
                }
            }
        }
        Ok(())
    }

    /// Every extent of every item lies inside the file, or inside `idat`.
    fn read_places(&mut self, reader: &mut Bounded<'_>, iloc: &Head) -> Result<(), ProbeError> {
        let body = iloc.read(reader)?;
        let mut fields = Fields(&body);
        let short = || ProbeError::undecodable(FORMAT, "box 'iloc' is too short");
        let (version, _) = fields.version_flags().ok_or_else(short)?;
        let [a, b] = fields.array().ok_or_else(short)?;
        let width = |nibble: u8| usize::from(nibble & 15);
        let [offset_width, len_width, base_width] = [width(a >> 4), width(a), width(b >> 4)];
        let index_width = if version > 0 { width(b) } else { 0 };
        if [offset_width, len_width, base_width, index_width].iter().any(|w| ![0, 4, 8].contains(w))
        {
            return Err(ProbeError::undecodable(FORMAT, "item places of an unknown width"));
        }
        let items = fields.uint(if version < 2 { 2 } else { 4 }).ok_or_else(short)?;
        for _ in 0..items {
            reader.step(FORMAT)?;
            let id = item_id(&mut fields, version > 1).ok_or_else(short)?;
            let method = if version > 0 { fields.u16().ok_or_else(short)? & 15 } else { 0 };
            fields.skip(2).ok_or_else(short)?;
            let base = fields.uint(base_width).ok_or_else(short)?;
            let extents = fields.u16().ok_or_else(short)?;
            for _ in 0..extents {
                reader.step(FORMAT)?;
                fields.skip(index_width).ok_or_else(short)?;
                let offset = fields.uint(offset_width).ok_or_else(short)?;
                let len = fields.uint(len_width).ok_or_else(short)?;
                let place = Extent { id, method, start: base.saturating_add(offset), len };
                self.check_place(reader, place)?;
            }
        }
        Ok(())
    }

    fn check_place(&mut self, reader: &Bounded<'_>, place: Extent) -> Result<(), ProbeError> {
        let end = place.start.saturating_add(place.len);
        let id = place.id;
        match place.method {
            0 if end > reader.len() => {
                let what = format_args!("item {id}").to_string();
                return Err(ProbeError::ends_past_file(FORMAT, what, end, reader.len()));
            }
            1 if end > self.idat_len => {
                let detail = format!("item {id} ends outside its box 'idat'");
                return Err(ProbeError::undecodable(FORMAT, detail));
            }
            _ => {}
        }
        if Some(id) == self.primary {
            // Length 0 is "all there is" (§8.11.3.3).
            let all = if place.method == 1 { self.idat_len } else { reader.len() };
            let len = if place.len == 0 { all.saturating_sub(place.start) } else { place.len };
            self.primary_bytes = self.primary_bytes.saturating_add(len);
        }
        Ok(())
    }

    fn finish(self) -> Result<MediaInfo, ProbeError> {
        if self.primary.is_none() {
            return Err(ProbeError::undecodable(FORMAT, "it names no primary image"));
        }
        if !self.has_hevc {
            let coding = self.kind.map_or_else(|| "unknown".to_owned(), |kind| kind.to_string());
            let detail = format!("an image of type '{coding}', not hevc");
            return Err(ProbeError::unsupported(FORMAT, detail));
        }
        if self.primary_bytes == 0 {
            return Err(ProbeError::undecodable(FORMAT, "its primary image has no data"));
        }
        let mut size = None;
        for index in &self.of_primary {
            let index = usize::from(*index).checked_sub(1);
            match index.and_then(|index| self.properties.get(index)) {
                Some(Property::Size(w, h)) => size = Some((*w, *h)),
                Some(Property::Cut(w, h)) => {
                    size = size.map(|(width, height)| (width.min(*w), height.min(*h)));
                }
                Some(Property::Turned) => size = size.map(|(w, h)| (h, w)),
                Some(Property::Other) | None => {}
            }
        }
        let Some((width, height)) = size.filter(|(w, h)| *w > 0 && *h > 0) else {
            return Err(ProbeError::undecodable(FORMAT, "its primary image has no size"));
        };
        let mut info = MediaInfo::new(FORMAT);
        info.width_px = Some(width);
        info.height_px = Some(height);
        Ok(info)
    }
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    id: u32,
    /// 0: offsets count in the file. 1: in `idat`. 2: in another item.
    method: u16,
    start: u64,
    len: u64,
}

fn item_id(fields: &mut Fields<'_>, wide: bool) -> Option<u32> {
    if wide { fields.u32() } else { fields.u16().map(u32::from) }
}

fn property(kind: Kind, body: &[u8]) -> Option<Property> {
    let mut fields = Fields(body);
    Some(match &kind.0 {
        b"ispe" => {
            fields.version_flags()?;
            Property::Size(fields.u32()?, fields.u32()?)
        }
        // Fractions; the offsets that follow do not matter for the size.
        b"clap" => {
            let [width, over, height, height_over] =
                [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
            Property::Cut(width.checked_div(over)?, height.checked_div(height_over)?)
        }
        _ if fields.u8()? & 1 == 1 => Property::Turned,
        _ => Property::Other,
    })
}
