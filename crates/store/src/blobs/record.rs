//! The records of packs: a blob, where it is, and what its row is made of.
//!
//! Each begins at a multiple of 4096 bytes and is filled up with zeros to the next. It is a head of 64 bytes, the blob, and
//! its entry, which is what its row in the catalog is made of:
//!
//! ```text
//!  0  8  FGPACK2\n
//!  8  4  number of the pack          little-endian, as all numbers
//! 12  4  block: where it begins, in units of 4096 bytes
//! 16  4  length of the blob
//! 20 20  the beginning of its key
//! 40  4  length of the entry
//! 44  4  CRC-32C of the entry
//! 48  4  CRC-32C of the 48 bytes before
//! 52 12  zeros
//! ```
//!
//! Those that begin with FGPACK1 have no entry, and at 40 the CRC-32C of the 40 bytes before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use filegate_types::{BlobKey, BlobPlace};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::cache::read_in_memory;
use super::memory::ALIGN;
use super::small::{HEAD_BYTES, SmallBlob};

const MAGIC: [u8; 8] = *b"FGPACK2\n";
/// Bytes of a head that say something.
const HEAD_USED: usize = 52;
/// Of records without an entry.
const MAGIC_1: [u8; 8] = *b"FGPACK1\n";

/// What a record is made of.
pub(super) struct NewBlob {
    /// It begins as its key will.
    pub(super) key: BlobKey,
    pub(super) blob: SmallBlob,
    pub(super) entry: Vec<u8>,
}

/// What a head says.
pub(super) struct Head {
    /// How the key of the blob begins.
    pub(super) beginning: String,
    /// The length of the blob.
    pub(super) bytes: u64,
    /// The length of the entry.
    pub(super) entry_bytes: u64,
    entry_sum: u32,
}

impl NewBlob {
    /// What its record takes.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(self.blob.len() as u64, self.entry.len() as u64)
    }
}

impl Head {
    /// What the record takes.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(self.bytes, self.entry_bytes)
    }
}

fn record_bytes(bytes: u64, entry_bytes: u64) -> u64 {
    (HEAD_BYTES as u64 + bytes + entry_bytes).next_multiple_of(ALIGN as u64)
}

pub(super) fn head(
    key: &BlobKey,
    place: BlobPlace,
    bytes: usize,
    entry: &[u8],
) -> [u8; HEAD_BYTES] {
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&place.pack.to_le_bytes());
    head[12..16].copy_from_slice(&place.block.to_le_bytes());
    head[16..20].copy_from_slice(&number(bytes));
    head[20..40].copy_from_slice(key.beginning().as_bytes());
    head[40..44].copy_from_slice(&number(entry.len()));
    head[44..48].copy_from_slice(&crc32c::crc32c(entry).to_le_bytes());
    let sum = crc32c::crc32c(&head[..48]);
    head[48..HEAD_USED].copy_from_slice(&sum.to_le_bytes());
    head
}

/// The head at `place`, if a record begins there.
pub(super) fn head_at(file: &File, place: BlobPlace) -> io::Result<Option<Head>> {
    let mut head = [0; HEAD_USED];
    match file.read_exact_at(&mut head, start_of(place)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    Ok(parsed(&head, place))
}

/// The head at `place`, if a record begins there and it is in memory.
pub(super) fn head_in_memory(file: &File, place: BlobPlace) -> Option<Head> {
    let mut head = [0; HEAD_USED];
    read_in_memory(file, &mut head, start_of(place)).then(|| parsed(&head, place))?
}

/// Where in its pack a record begins.
pub(super) fn start_of(place: BlobPlace) -> u64 {
    u64::from(place.block) * ALIGN as u64
}

fn parsed(head: &[u8; HEAD_USED], place: BlobPlace) -> Option<Head> {
    let number = |at: usize| head[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    let (summed, entry_bytes, entry_sum) = match head.first_chunk() {
        Some(&MAGIC) => (48, number(40), number(44)),
        Some(&MAGIC_1) => (40, 0, 0),
        _ => return None,
    };
    let is_one = number(summed) == crc32c::crc32c(&head[..summed])
        && (number(8), number(12)) == (place.pack, place.block);
    let beginning = std::str::from_utf8(&head[20..40]).ok().filter(|_| is_one);
    beginning.map(|beginning| Head {
        beginning: beginning.to_owned(),
        bytes: u64::from(number(16)),
        entry_bytes: u64::from(entry_bytes),
        entry_sum,
    })
}

/// The entry of a record, if it has one and that is whole.
pub(super) fn entry_of(file: &File, key: &BlobKey, head: &Head) -> io::Result<Option<Vec<u8>>> {
    let Some(place) = key.place().filter(|_| head.entry_bytes > 0) else { return Ok(None) };
    let mut entry = vec![0; head.entry_bytes as usize];
    let start = start_of(place) + HEAD_BYTES as u64 + head.bytes;
    match file.read_exact_at(&mut entry, start) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    Ok((crc32c::crc32c(&entry) == head.entry_sum).then_some(entry))
}

/// Visits the records of a pack from the one at `from` on.
pub(super) fn each_record(
    file: &File,
    from: BlobPlace,
    mut visit: impl FnMut(BlobKey, &Head) -> io::Result<()>,
) -> io::Result<()> {
    let pack = from.pack;
    let mut at = u64::from(from.block) * ALIGN as u64;
    loop {
        let place = BlobPlace { pack, block: u32::try_from(at / ALIGN as u64).unwrap_or(u32::MAX) };
        if let Some(head) = head_at(file, place)? {
            if let Some(key) = key_of(&head.beginning, place) {
                visit(key, &head)?;
            }
            at += head.record_bytes();
            continue;
        }
        // A hole, the end, or what a failed write left.
        let next = match seek(file, SeekFrom::Data(at)) {
            Ok(next) => next - next % ALIGN as u64,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        at = if next > at { next } else { at + ALIGN as u64 };
    }
}

fn key_of(beginning: &str, place: BlobPlace) -> Option<BlobKey> {
    let BlobPlace { pack, block } = place;
    format!("{beginning}p{pack:08x}{block:06x}").parse().ok()
}
