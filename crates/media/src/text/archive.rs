//! Zip archives, read from their directory and expanded to nowhere.
//!
//! ```text
//! local header, name, extra, data, [descriptor]      APPNOTE 4.3.7 to 4.3.9, for each entry
//! central directory: header, name, extra, comment    4.3.12, for each entry
//! [zip64 end record, zip64 locator]                  4.3.14, 4.3.15
//! end of central directory, comment                  4.3.16
//! ```
//!
//! Whoever expands the archive after us may read it by another end than we do, so archives that two
//! readers could see differently are refused: the directory must end where the end records begin,
//! each local header must say what the directory says, and no two entries may share bytes (which is
//! also how a bomb of nine petabytes fits in 45 kB: D. Fifield, "A better zip bomb").
//!
//! Nothing is believed about sizes. Every entry is inflated, a piece at a time, against one budget
//! for the whole archive; its length and CRC are compared afterwards.
//!
//! A zip of texts has entries ending in `.txt` only, or in `.json` only. Folders, and what macOS
//! leaves behind (`__MACOSX/`, `.DS_Store`), are not looked at, but do count against the budget.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{Fault, Utf8Count};
use crate::document::json::Json;
use crate::read::Bounded;
use crate::sniff::{HEAD_BYTES, sniff};
use crate::types::{Format, Limits, MediaInfo, ProbeError, grouped};

/// The end record (22 bytes) and its comment are at most this long.
const END_BYTES_MAX: u64 = 22 + 0xFFFF;

/// Bytes of a name, at most: all are held until the local headers are read. No file system that
/// people have takes more than 255 for a name, and paths of four such are not met.
const NAME_BYTES_MAX: usize = 1024;

/// Bytes expanded at a time.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) fn probe(reader: &mut Bounded<'_>, limits: &Limits) -> Result<MediaInfo, ProbeError> {
    const FORMAT: Format = Format::Zip;
    let archive = Archive::read(reader, FORMAT, limits, role_in_texts)?;
    let count = |role| archive.entries.iter().filter(|entry| entry.role == role).count();
    let (plain, json) = (count(Role::Txt), count(Role::Json));
    if count(Role::Other) > 0 || (plain > 0) == (json > 0) {
        let detail = "it must hold .txt files only, or .json files only, and at least one";
        return Err(ProbeError::unsupported(FORMAT, detail));
    }
    let mut budget = archive.budget(reader, limits)?;
    let mut characters = 0_u64;
    for entry in &archive.entries {
        let mut text = (entry.role != Role::Ignored).then(|| EntryText::new(entry));
        archive.expand(reader, entry, &mut budget, &mut |piece| match &mut text {
            Some(text) => text.push(piece),
            None => Ok(()),
        })?;
        if let Some(text) = text {
            characters = characters.saturating_add(text.finish()?);
        }
    }
    if characters == 0 {
        return Err(ProbeError::undecodable(FORMAT, "its texts are empty"));
    }
    let mut info = MediaInfo::new(FORMAT);
    info.characters = Some(characters);
    Ok(info)
}

/// What an entry is to us, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Ignored,
    Txt,
    Json,
    ContentTypes,
    WordDocument,
    Other,
}

pub(super) fn role_in_texts(name: &[u8]) -> Role {
    let file = name.rsplit(|byte| matches!(byte, b'/' | b'\\')).next().unwrap_or_default();
    let ends = |suffix: &[u8]| {
        let at = file.len().checked_sub(suffix.len());
        at.and_then(|at| file.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    if file.is_empty() || name.starts_with(b"__MACOSX/") || file == b".DS_Store" {
        Role::Ignored
    } else if ends(b".txt") {
        Role::Txt
    } else if ends(b".json") {
        Role::Json
    } else {
        Role::Other
    }
}

/// The text of one entry while it is expanded.
struct EntryText {
    whose: String,
    text: Utf8Count,
    json: Option<Json>,
    at_start: bool,
}

impl EntryText {
    fn new(entry: &Entry) -> Self {
        let json = (entry.role == Role::Json).then(Json::default);
        let whose = format!("entry {}: ", grouped(entry.number));
        Self { whose, text: Utf8Count::default(), json, at_start: true }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), ProbeError> {
        if std::mem::take(&mut self.at_start) {
            let found = sniff(piece.get(..HEAD_BYTES).unwrap_or(piece));
            if let Some(found) = found.filter(|found| *found != Format::Txt) {
                let detail = format!("{}it looks like {found}", self.whose);
                return Err(ProbeError::unsupported(Format::Zip, detail));
            }
        }
        self.text.push(piece).map_err(|fault| self.refuse(fault))?;
        if let Some(json) = &mut self.json {
            json.push(piece).map_err(|why| self.not_json(&why))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<u64, ProbeError> {
        let characters = self.text.finish().map_err(|fault| self.refuse(fault))?;
        if let Some(json) = &self.json {
            json.finish().map_err(|why| self.not_json(&why))?;
        }
        Ok(characters)
    }

    fn refuse(&self, fault: Fault) -> ProbeError {
        fault.refusal(Format::Zip, &self.whose)
    }

    fn not_json(&self, why: &str) -> ProbeError {
        ProbeError::undecodable(Format::Zip, format!("{}{why}", self.whose))
    }
}

/// A file in the archive, of which everything but the content is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Its place in the directory, from 1: names are not shown in refusals.
    number: u64,
    pub(crate) role: Role,
    deflated: bool,
    crc: u32,
    packed: u64,
    unpacked: u64,
    /// Where the local header begins.
    header: u64,
    /// Where the data begin.
    data: u64,
}

/// The directory of an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    format: Format,
    pub(crate) entries: Vec<Entry>,
}

/// What the end records say.
#[derive(Debug, Clone, Copy)]
struct Directory {
    entries: u64,
    start: u64,
    end: u64,
}

impl Archive {
    /// Reads and checks the directory and every local header.
    pub(crate) fn read(
        reader: &mut Bounded<'_>,
        format: Format,
        limits: &Limits,
        role: fn(&[u8]) -> Role,
    ) -> Result<Self, ProbeError> {
        let found = sniff(reader.peek(HEAD_BYTES)?);
        if !matches!(found, Some(Format::Zip | Format::Docx)) {
            return Err(ProbeError::Mismatch { expected: format, found });
        }
        let directory = find_directory(reader, format)?;
        if directory.entries > limits.zip_entries_max {
            let max = grouped(limits.zip_entries_max);
            return Err(ProbeError::too_complex(format, format!("more than {max} entries")));
        }
        let mut archive = Self { format, entries: Vec::new() };
        let mut named = Vec::new();
        reader.seek_to(directory.start);
        for number in 1..=directory.entries {
            reader.step(format)?;
            named.push(archive.read_entry(reader, number, &directory, role)?);
        }
        if reader.position() != directory.end {
            let detail = "its directory is not as long as its end record says";
            return Err(ProbeError::undecodable(format, detail));
        }
        for mut named in named {
            reader.step(format)?;
            archive.read_local(reader, &mut named, &directory)?;
            archive.entries.push(named.entry);
        }
        archive.refuse_overlaps()?;
        Ok(archive)
    }

    /// Bytes that the archive may expand to.
    pub(crate) fn budget(&self, reader: &Bounded<'_>, limits: &Limits) -> Result<u64, ProbeError> {
        let by_ratio = reader.len().saturating_mul(limits.zip_ratio_max);
        let budget = limits.zip_bytes_max.min(by_ratio);
        // What is announced is no proof, but enough to stop early.
        let sizes = self.entries.iter().map(|entry| entry.unpacked);
        if sizes.fold(0_u64, u64::saturating_add) > budget {
            return Err(expands_too_far(self.format, budget));
        }
        Ok(budget)
    }

    /// Shows the content of an entry to `sink`, piece by piece, and takes its length off `budget`.
    ///
    /// # Errors
    /// Too complex when the budget is spent; undecodable if the data are damaged, or their length
    /// or CRC is not what the directory says; what `sink` says.
    pub(crate) fn expand(
        &self,
        reader: &mut Bounded<'_>,
        entry: &Entry,
        budget: &mut u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), ProbeError>,
    ) -> Result<(), ProbeError> {
        let format = self.format;
        let damaged = |what| {
            let number = grouped(entry.number);
            ProbeError::undecodable(format, format!("entry {number}: {what}"))
        };
        let whole = *budget;
        let mut inflate = Decompress::new(false);
        let mut out = vec![0; PIECE_BYTES];
        let (mut left, mut unpacked, mut crc) = (entry.packed, 0_u64, Crc::new());
        reader.seek_to(entry.data);
        let mut ended = !entry.deflated && left == 0;
        while !ended {
            reader.step(format)?;
            let input =
                reader.peek(usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES))?;
            let (read, produced) = if entry.deflated {
                let status = inflate.decompress(input, &mut out, FlushDecompress::None);
                ended = matches!(status, Ok(Status::StreamEnd));
                if status.is_err() {
                    return Err(damaged("its compressed data are damaged"));
                }
                let read = entry.packed.saturating_sub(inflate.total_in());
                (left - read, (inflate.total_out() - unpacked) as usize)
            } else {
                let (piece, _) = out.split_at_mut(input.len());
                piece.copy_from_slice(input);
                (input.len() as u64, input.len())
            };
            if read == 0 && produced == 0 && !ended {
                return Err(damaged("its compressed data end too early"));
            }
            left = left.saturating_sub(read);
            reader.skip(read);
            ended |= !entry.deflated && left == 0;
            let piece = out.get(..produced).unwrap_or_default();
            unpacked += produced as u64;
            *budget = budget
                .checked_sub(produced as u64)
                .ok_or_else(|| expands_too_far(format, whole))?;
            crc.update(piece);
            sink(piece)?;
        }
        if left > 0 {
            return Err(damaged("its compressed data end before their announced end"));
        }
        if unpacked != entry.unpacked {
            return Err(damaged("its length is not the announced one"));
        }
        if crc.sum() != entry.crc {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(())
    }

    fn read_entry(
        &self,
        reader: &mut Bounded<'_>,
        number: u64,
        directory: &Directory,
        role: fn(&[u8]) -> Role,
    ) -> Result<Named, ProbeError> {
        let bad = |what: &str| {
            ProbeError::undecodable(self.format, format!("entry {}: {what}", grouped(number)))
        };
        let refuse = |what: &str| {
            ProbeError::unsupported(self.format, format!("entry {}: {what}", grouped(number)))
        };
        let head = reader.take::<46>()?.filter(|head| head.starts_with(b"PK\x01\x02"));
        let head = head.ok_or_else(|| bad("it is not in the directory"))?;
        let field = Little(&head);
        let (flags, method) = (field.u16(8), field.u16(10));
        let lens = [field.u16(28), field.u16(30), field.u16(32)].map(usize::from);
        let [name_len, extra_len, comment_len] = lens;
        if name_len > NAME_BYTES_MAX {
            return Err(refuse("its name is too long"));
        }
        let name = reader.take_vec(name_len)?.unwrap_or_default();
        let extra = reader.take_vec(extra_len)?.unwrap_or_default();
        reader.skip(comment_len as u64);
        if reader.position() > directory.end || name.is_empty() {
            return Err(bad("its directory entry is cut"));
        }
        // Bits 0, 6 and 13: traditional and strong encryption, hidden headers.
        if flags & 0x2041 != 0 {
            return Err(refuse("it is encrypted"));
        }
        if !matches!(method, 0 | 8) {
            return Err(refuse("it is compressed in another way than deflate"));
        }
        if is_outside(&name) {
            return Err(refuse("its name leads outside the archive"));
        }
        // The upper half is the mode in archives made on Unix (3) and macOS (19).
        let kind = field.u32(38) >> 16 & 0o170_000;
        if matches!(field.u16(4) >> 8, 3 | 19) && !matches!(kind, 0 | 0o100_000 | 0o040_000) {
            return Err(refuse("it is a link or a device"));
        }
        let mut sizes = [field.u32(24), field.u32(20), field.u32(42)].map(u64::from);
        if !widen(&mut sizes, &extra) {
            return Err(bad("its sizes are missing"));
        }
        let [unpacked, packed, header] = sizes;
        if method == 0 && packed != unpacked {
            return Err(bad("its two sizes differ, but it is not compressed"));
        }
        let entry = Entry {
            number,
            role: role(&name),
            deflated: method == 8,
            crc: field.u32(16),
            packed,
            unpacked,
            header,
            data: 0,
        };
        Ok(Named { entry, name, flags })
    }

    /// Finds where the data begin, and compares the local header with the directory.
    fn read_local(
        &self,
        reader: &mut Bounded<'_>,
        named: &mut Named,
        directory: &Directory,
    ) -> Result<(), ProbeError> {
        let number = grouped(named.entry.number);
        let bad =
            |what: &str| ProbeError::undecodable(self.format, format!("entry {number}: {what}"));
        reader.seek_to(named.entry.header);
        let head = reader.take::<30>()?.filter(|head| head.starts_with(b"PK\x03\x04"));
        let head = head.ok_or_else(|| bad("its local header is missing"))?;
        let field = Little(&head);
        let name = reader.take_vec(field.u16(26).into())?.unwrap_or_default();
        let extra = reader.take_vec(field.u16(28).into())?.unwrap_or_default();
        named.entry.data = reader.position();
        let mut sizes = [field.u32(22), field.u32(18), 0].map(u64::from);
        // With bit 3 the sizes follow the data, and are 0 here or anything.
        let sizes_later = field.u16(6) & 8 != 0;
        let same_sizes = sizes_later
            || widen(&mut sizes, &extra) && sizes == [named.entry.unpacked, named.entry.packed, 0];
        let same_method = (field.u16(8) == 8) == named.entry.deflated && field.u16(8) <= 8;
        if name != named.name || !same_method || !same_sizes || named.flags & 8 != field.u16(6) & 8
        {
            return Err(bad("its local header says something else than the directory"));
        }
        if named.entry.data.saturating_add(named.entry.packed) > directory.start {
            return Err(bad("its data end outside the archive"));
        }
        Ok(())
    }

    fn refuse_overlaps(&self) -> Result<(), ProbeError> {
        let ends = |entry: &Entry| (entry.header, entry.data.saturating_add(entry.packed));
        let mut places: Vec<_> = self.entries.iter().map(ends).collect();
        places.sort_unstable();
        let shared = places.windows(2).any(|pair| match pair {
            [(_, end), (start, _)] => start < end,
            _ => false,
        });
        if shared {
            return Err(ProbeError::undecodable(self.format, "its entries share bytes"));
        }
        Ok(())
    }
}

/// An entry with what is only needed to compare its two headers.
struct Named {
    entry: Entry,
    name: Vec<u8>,
    flags: u16,
}

fn expands_too_far(format: Format, budget: u64) -> ProbeError {
    ProbeError::too_complex(format, format!("it expands beyond {} bytes", grouped(budget)))
}

/// Whether a name is absolute or climbs. Both slashes count, as they do on Windows.
fn is_outside(name: &[u8]) -> bool {
    let is_slash = |byte: &u8| matches!(byte, b'/' | b'\\');
    name.first().is_some_and(is_slash)
        || name.get(1) == Some(&b':')
        || name.contains(&0)
        || name.split(is_slash).any(|part| part == b"..")
}

/// Replaces sizes of all ones by those of the zip64 field (tag 1), which has only these, in order
/// (APPNOTE 4.5.3).
fn widen(sizes: &mut [u64; 3], extra: &[u8]) -> bool {
    let all_ones = u64::from(u32::MAX);
    let mut wanted = sizes.iter_mut().filter(|size| **size == all_ones).peekable();
    if wanted.peek().is_none() {
        return true;
    }
    let mut rest = extra;
    while let Some(([a, b, c, d], body)) = rest.split_first_chunk::<4>() {
        let len = u16::from_le_bytes([*c, *d]).into();
        let Some((body, next)) = body.split_at_checked(len) else { return false };
        if u16::from_le_bytes([*a, *b]) == 1 {
            let mut values = body.chunks_exact(8);
            return wanted.all(|size| {
                let value = values.next().and_then(|value| value.first_chunk::<8>());
                value.map(|value| *size = u64::from_le_bytes(*value)).is_some()
            });
        }
        rest = next;
    }
    false
}

/// Little-endian fields by their place; 0 behind the end, which no caller reads.
struct Little<'a>(&'a [u8]);

impl Little<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

fn find_directory(reader: &mut Bounded<'_>, format: Format) -> Result<Directory, ProbeError> {
    let tail_start = reader.len().saturating_sub(END_BYTES_MAX);
    reader.seek_to(tail_start);
    let tail = reader.take_vec(reader.remaining() as usize)?.unwrap_or_default();
    // The record whose comment ends the file; a comment may hold the signature too.
    let record = (0..tail.len().saturating_sub(21)).rev().find_map(|at| {
        let record = tail.get(at..).filter(|record| record.starts_with(b"PK\x05\x06"))?;
        let comment = usize::from(Little(record).u16(20));
        (record.len() == 22 + comment).then_some((tail_start + at as u64, record))
    });
    let Some((mut end, record)) = record else {
        let detail = "its directory at the end is missing";
        return Err(ProbeError::truncated(format, detail));
    };
    let field = Little(record);
    if [field.u16(4), field.u16(6)].iter().any(|disk| !matches!(disk, 0 | 0xFFFF)) {
        return Err(ProbeError::unsupported(format, "it is one of several parts"));
    }
    let mut entries = u64::from(field.u16(10));
    let (mut size, mut start) = (u64::from(field.u32(12)), u64::from(field.u32(16)));
    let is_wide = entries == 0xFFFF || [size, start].contains(&u64::from(u32::MAX));
    let locator = end.checked_sub(20).filter(|_| is_wide);
    if let Some(locator) = locator {
        reader.seek_to(locator);
        let head = reader.take::<20>()?.filter(|head| head.starts_with(b"PK\x06\x07"));
        if let Some(head) = head {
            end = Little(&head).u64(8);
            reader.seek_to(end);
            let wide = reader.take::<56>()?.filter(|head| head.starts_with(b"PK\x06\x06"));
            let Some(wide) = wide else {
                let detail = "its zip64 end record is missing";
                return Err(ProbeError::undecodable(format, detail));
            };
            let wide = Little(&wide);
            (entries, size, start) = (wide.u64(32), wide.u64(40), wide.u64(48));
        }
    }
    if start.checked_add(size) != Some(end) {
        let detail = "its directory is not where its end record says";
        return Err(ProbeError::undecodable(format, detail));
    }
    Ok(Directory { entries, start, end })
}
