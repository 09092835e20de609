//! Sample tables: where the samples of a track are and how long each lasts.
//!
//! `stts` runs of (count, duration), `stsc` runs of (first chunk, samples in each, description),
//! `stsz` or `stz2` one size each or one for all, `stco` or `co64` one offset for each chunk
//! (ISO/IEC 14496-12 §8.6.1, §8.7). The tables of a long film are megabytes, so they are read in
//! blocks as the walk goes along and never held whole.

use super::boxes::{Fields, Head};
use crate::read::Bounded;
use crate::types::{Format, ProbeError, grouped};

/// Bytes of a table that are held at a time: what the reader fetches at once.
const BLOCK_BYTES: u64 = 64 << 10;

/// Entries of a fixed width in the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Table {
    pub(super) start: u64,
    pub(super) entries: u64,
    pub(super) width: u8,
}

impl Table {
    /// A table of `entries` that begins `skip` bytes into the body of `head`.
    pub(super) fn new(
        format: Format,
        head: &Head,
        skip: u64,
        entries: u32,
        width: u8,
    ) -> Result<Self, ProbeError> {
        let start = head.body.saturating_add(skip);
        let entries = u64::from(entries);
        let holds = head.end.saturating_sub(start) / u64::from(width).max(1);
        if entries > holds {
            let (kind, said, holds) = (head.kind, grouped(entries), grouped(holds));
            let detail = format!("box '{kind}' announces {said} entries and holds {holds}");
            return Err(ProbeError::undecodable(format, detail));
        }
        Ok(Self { start, entries, width })
    }
}

/// A table being read. It keeps its own place and block, so that several can be read side by side.
#[derive(Debug)]
pub(super) struct Entries {
    table: Table,
    block: Vec<u8>,
    used: usize,
}

impl Entries {
    pub(super) fn new(table: Table) -> Self {
        Self { table, block: Vec::new(), used: 0 }
    }

    /// The next entry, or `None` behind the last.
    pub(super) fn next(
        &mut self,
        reader: &mut Bounded<'_>,
    ) -> Result<Option<Fields<'_>>, ProbeError> {
        let width = usize::from(self.table.width);
        if self.used >= self.block.len() {
            if self.table.entries == 0 || width == 0 {
                return Ok(None);
            }
            let entries = self.table.entries.min(BLOCK_BYTES / width as u64);
            reader.seek_to(self.table.start);
            let bytes = entries * width as u64;
            let Some(block) = reader.take_vec(bytes as usize)? else { return Ok(None) };
            (self.block, self.used) = (block, 0);
            self.table.start = self.table.start.saturating_add(bytes);
            self.table.entries -= entries;
        }
        let entry = self.block.get(self.used..self.used.saturating_add(width));
        self.used = self.used.saturating_add(width);
        Ok(entry.map(Fields))
    }
}

/// The sizes of all samples.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Sizes {
    #[default]
    Missing,
    /// All have this one.
    Same(u32),
    /// One entry each of 1, 2 or 4 bytes.
    Each(Table),
    /// Two to a byte (`stz2` with fields of 4 bits).
    Nibbles(Table),
}

/// The tables of one track.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tables {
    pub(super) samples: u64,
    pub(super) sizes: Sizes,
    pub(super) durations: Option<Table>,
    pub(super) to_chunks: Option<Table>,
    pub(super) chunks: Option<Table>,
}

impl Tables {
    pub(super) fn is_complete(&self) -> bool {
        !matches!(self.sizes, Sizes::Missing)
            && self.durations.is_some()
            && self.to_chunks.is_some()
            && self.chunks.is_some()
    }
}

/// Samples that follow one another in the file and are of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) count: u64,
    /// Which sample description they have, from 1.
    pub(super) description: u32,
}

/// All samples of a track in order: one by one, or a chunk at a time where all are of one size (raw
/// audio has 48,000 "samples" a second).
#[derive(Debug)]
pub(super) struct Samples {
    format: Format,
    total: u64,
    same_size: Option<u32>,
    sizes: SizeEntries,
    to_chunks: Entries,
    chunks: Entries,
    wide_offsets: bool,
    /// Number of the chunk that comes next, from 1.
    chunk: u64,
    current: ChunkRun,
    next: ChunkRun,
    /// Samples of the chunk that are left, and where the next of them begins.
    left: u64,
    at: u64,
    done: u64,
}

/// An entry of `stsc`: from chunk `first` on, each holds `samples`.
#[derive(Debug, Clone, Copy, Default)]
struct ChunkRun {
    first: u64,
    samples: u32,
    description: u32,
}

#[derive(Debug)]
struct SizeEntries {
    entries: Entries,
    width: usize,
    /// The second of two sizes in a byte.
    nibble: Option<u32>,
}

impl Samples {
    pub(super) fn new(
        reader: &mut Bounded<'_>,
        format: Format,
        tables: &Tables,
    ) -> Result<Self, ProbeError> {
        let (same_size, table, width) = match tables.sizes {
            Sizes::Missing => (Some(0), Table::default(), 0),
            Sizes::Same(size) => (Some(size), Table::default(), 0),
            Sizes::Each(table) => (None, table, usize::from(table.width)),
            Sizes::Nibbles(table) => (None, table, 0),
        };
        let mut samples = Self {
            format,
            total: tables.samples,
            same_size,
            sizes: SizeEntries { entries: Entries::new(table), width, nibble: None },
            to_chunks: Entries::new(tables.to_chunks.unwrap_or_default()),
            chunks: Entries::new(tables.chunks.unwrap_or_default()),
            wide_offsets: tables.chunks.is_some_and(|table| table.width == 8),
            chunk: 1,
            current: ChunkRun::default(),
            next: ChunkRun::default(),
            left: 0,
            at: 0,
            done: 0,
        };
        samples.next = samples.read_chunk_run(reader)?;
        Ok(samples)
    }

    /// The next run, or `None` behind the last sample. Each costs a step.
    ///
    /// # Errors
    /// Truncated if a sample ends behind the file; undecodable if the tables disagree.
    pub(super) fn next(&mut self, reader: &mut Bounded<'_>) -> Result<Option<Run>, ProbeError> {
        if self.done >= self.total {
            return Ok(None);
        }
        while self.left == 0 {
            self.open_chunk(reader)?;
        }
        reader.step(self.format)?;
        let (size, count) = match self.same_size {
            Some(size) => (size, self.left.min(self.total - self.done)),
            None => (self.sizes.next(reader)?.ok_or_else(|| self.short("sizes"))?, 1),
        };
        let run = Run { offset: self.at, size, count, description: self.current.description };
        let end = u64::from(size).saturating_mul(count).saturating_add(self.at);
        if end > reader.len() {
            let last = self.done.saturating_add(count);
            let what = format_args!("sample {}", grouped(last)).to_string();
            return Err(ProbeError::ends_past_file(self.format, what, end, reader.len()));
        }
        self.at = end;
        self.left -= count;
        self.done += count;
        Ok(Some(run))
    }

    /// Moves to the next chunk.
    fn open_chunk(&mut self, reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
        reader.step(self.format)?;
        // INVARIANT: runs that start at or before this chunk are used up, so this ends.
        while self.next.first != 0 && self.next.first <= self.chunk {
            self.current = self.next;
            self.next = self.read_chunk_run(reader)?;
        }
        let wide = self.wide_offsets;
        let offset = self
            .chunks
            .next(reader)?
            .and_then(|mut entry| if wide { entry.u64() } else { entry.u32().map(u64::from) });
        self.at = offset.ok_or_else(|| self.short("chunks"))?;
        self.left = self.current.samples.into();
        self.chunk += 1;
        Ok(())
    }

    /// The next entry of `stsc`; `first` is 0 behind the last.
    fn read_chunk_run(&mut self, reader: &mut Bounded<'_>) -> Result<ChunkRun, ProbeError> {
        let run = self.to_chunks.next(reader)?.and_then(|mut entry| {
            Some(ChunkRun {
                first: entry.u32()?.into(),
                samples: entry.u32()?,
                description: entry.u32()?,
            })
        });
        let Some(run) = run else { return Ok(ChunkRun::default()) };
        reader.step(self.format)?;
        if run.first == 0 || run.first < self.next.first {
            return Err(ProbeError::undecodable(self.format, "chunks are not in order"));
        }
        Ok(run)
    }

    fn short(&self, what: &str) -> ProbeError {
        let (done, total) = (grouped(self.done), grouped(self.total));
        let detail = format!("the sample table has {what} for {done} of {total} samples");
        ProbeError::undecodable(self.format, detail)
    }
}

impl SizeEntries {
    fn next(&mut self, reader: &mut Bounded<'_>) -> Result<Option<u32>, ProbeError> {
        if let Some(size) = self.nibble.take() {
            return Ok(Some(size));
        }
        let Some(mut entry) = self.entries.next(reader)? else { return Ok(None) };
        if self.width > 0 {
            return Ok(entry.uint(self.width).map(|size| size as u32));
        }
        let byte = entry.u8().map(u32::from);
        self.nibble = byte.map(|byte| byte & 15);
        Ok(byte.map(|byte| byte >> 4))
    }
}

/// The runs of `stts`, cut or stretched to the number of samples: ffmpeg too goes on with the last
/// duration where the table ends early.
#[derive(Debug)]
pub(super) struct Durations {
    format: Format,
    entries: Entries,
    left: u64,
    last: u32,
}

impl Durations {
    pub(super) fn new(format: Format, tables: &Tables) -> Self {
        let entries = Entries::new(tables.durations.unwrap_or_default());
        Self { format, entries, left: tables.samples, last: 0 }
    }

    /// How many samples last how long each; `None` behind the last. Each costs a step.
    pub(super) fn next(
        &mut self,
        reader: &mut Bounded<'_>,
    ) -> Result<Option<(u64, u32)>, ProbeError> {
        if self.left == 0 {
            return Ok(None);
        }
        reader.step(self.format)?;
        let entry = self.entries.next(reader)?;
        let (count, duration) = match entry.and_then(|mut e| Some((e.u32()?, e.u32()?))) {
            Some((count, duration)) => (u64::from(count).min(self.left), duration),
            None => (self.left, self.last),
        };
        self.left -= count;
        self.last = duration;
        Ok(Some((count, duration)))
    }
}
