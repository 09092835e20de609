//! Small blobs share files, so that landing one makes no file, no name and no second sync: it is one write to a place
//! that is there already.
//!
//! # Files
//!
//! | in `packs/` | what it is |
//! |---|---|
//! | `0123abcd` | a pack that is complete |
//! | `0123abcd.open` | one that blobs are appended to, or were a moment ago; at a start: that a crash left |
//!
//! A pack is a series of [records](super::record). What is freed becomes a hole, and a pack of holes is removed. No number is used twice, and no place in a pack.
//!
//! # Landing a blob, and what a crash leaves
//!
//! ```text
//! 1 write   the record, with O_DSYNC (or fdatasync after it)    crash: some of the record; the next start frees it
//! 2         the row is committed, not synced                    crash: the whole record, and a row or none. If none, the
//!                                                               next start commits what the entry says
//! ```
//!
//! So one sync makes both durable. How far the catalog has come it says itself, by the place of the last record that it
//! committed or refused: see [`replay`](crate::replay()).
//!
//! A record that is not whole, or that the catalog refused, is freed at a start if its pack is `.open`. Those are two at
//! most, since a pack becomes complete when the one after it is full. By then the rows of all its records are committed or
//! refused.
//!
//! # Who writes
//!
//! Whoever comes with a blob while nobody writes, or has somebody do it: it writes its own and, while there are more, those
//! that came meanwhile, all of them at once. So one alone waits for no other thread, and under load one sync serves many.
//!
//! A write that fails is never tried again at that place: the kernel may have dropped the pages. The blobs of it fail, and
//! the next go to another pack.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filegate_types::{BlobKey, BlobPlace};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::cache::OpenPacks;
use super::memory::{ALIGN, Piece};
use super::record::{
    Head, NewBlob, each_record, entry_of, head, head_at, head_in_memory, start_of,
};
use super::small::{HEAD_BYTES, SmallBlob};
use crate::datadir::sync_dir;
use crate::error::StoreError;

/// A pack with so many bytes takes no more. What a start looks at after a crash is twice that.
const PACK_BYTES: u64 = 64 << 20;
/// So much of the disk is taken at a time, before it is written to: blocks that are there are written to sooner.
const ROOM_BYTES: u64 = 4 << 20;
/// What is written at once, at most.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_RECORDS: usize = 256;

/// A write is durable when it returns: the bytes, and what it takes to find them. (What rustix calls DSYNC is `O_SYNC`,
/// which syncs the times of the file as well.)
const DSYNC: OFlags = OFlags::from_bits_retain(libc::O_DSYNC.cast_unsigned());

/// Told how a landing ended, with the key that the blob has from then on, by whoever wrote it: on a thread that may
/// block, but others wait.
type Landed = Box<dyn FnOnce(Result<BlobKey, StoreError>) + Send>;

/// The packs of a data directory.
#[derive(Debug)]
pub(super) struct Packs {
    dir: PathBuf,
    queue: Mutex<Queue>,
    /// None before [`open`](Self::open) and after [`close`](Self::close), and where packs cannot be.
    appender: Mutex<Option<Appender>>,
    /// Those that were read from.
    read: OpenPacks,
}

/// Blobs on their way.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether somebody appends them, or is about to.
    led: bool,
}

/// A blob on its way.
struct Waiting {
    blob: NewBlob,
    landed: Landed,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Waiting").field(&self.blob.key).finish()
    }
}

/// Where the bytes of a blob are.
pub(super) struct Located {
    pub(super) file: Arc<File>,
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// A record of a pack.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: File,
    /// Where in it the blob begins.
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// The length of the record.
    record: u64,
    path: PathBuf,
}

impl Packs {
    pub(super) fn of(dir: PathBuf) -> Self {
        Self {
            dir,
            queue: Mutex::default(),
            appender: Mutex::default(),
            read: OpenPacks::default(),
        }
    }

    /// From now on blobs can be appended, if the file system has all that it takes. Only the holder of the directory's
    /// lock may, after it has [completed](Self::complete) what was [left open](Self::left_open). `through` is where the
    /// catalog has come to: new packs have higher numbers, even if there are none here.
    pub(super) fn open(&self, through: Option<BlobPlace>) -> Result<(), StoreError> {
        let opening = |e| StoreError::io("opening the packs", e);
        if let Err(error) = self.try_holes() {
            tracing::info!(%error, "store.packs.none: small blobs have files of their own");
            return Ok(());
        }
        let there = numbers(&self.dir).map_err(opening)?.into_iter().map(|(pack, _)| pack);
        let last = there.chain(through.map(|place| place.pack)).max();
        if let Some(parent) = self.dir.parent() {
            sync_dir(parent).map_err(opening)?;
        }
        *self.appender() = Some(Appender::new(&self.dir, last));
        Ok(())
    }

    /// Whether a file can be given room and have it taken back.
    fn try_holes(&self) -> io::Result<()> {
        let path = self.dir.join("hole-test");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        let made = fallocate(&file, FallocateFlags::empty(), 0, 2 * ALIGN as u64)
            .and_then(|()| punch(&file, 0, ALIGN as u64));
        let _absent_is_as_good = fs::remove_file(&path);
        Ok(made?)
    }

    /// Whether blobs can be appended.
    pub(super) fn is_open(&self) -> bool {
        match self.appender.try_lock() {
            Ok(appender) => appender.is_some(),
            // Somebody is at it.
            Err(_) => true,
        }
    }

    /// Nothing is appended any more, and each record has a row or was freed: the next start has nothing to look at.
    pub(super) fn close(&self) {
        let Some(mut appender) = self.appender().take() else { return };
        for pack in [appender.before.take(), appender.current.take()].into_iter().flatten() {
            pack.complete(&self.dir);
        }
    }

    /// Has `blob` made durable with its `entry`, under a key that begins as `key` does; `landed` is told. True if nobody is
    /// at it: then somebody has to [append](Self::append_queued).
    #[must_use]
    pub(super) fn queue(
        &self,
        key: BlobKey,
        blob: SmallBlob,
        entry: Vec<u8>,
        landed: Landed,
    ) -> bool {
        let mut queue = self.queued();
        queue.waiting.push_back(Waiting { blob: NewBlob { key, blob, entry }, landed });
        !std::mem::replace(&mut queue.led, true)
    }

    /// Appends of what waits what goes into one write, and tells those that it is of. True if there is more: then somebody
    /// has to do this again. Blocks.
    #[must_use]
    pub(super) fn append_queued(&self) -> bool {
        let _lead = Lead(self);
        let (records, told): (Vec<_>, Vec<_>) =
            self.batch().into_iter().map(|one| (one.blob, one.landed)).unzip();
        let outcome = match self.appender().as_mut() {
            Some(open) => open.append(records).map_err(|e| Cause::of(&e)),
            None => Err(Cause::Closed),
        };
        tell(told, outcome);
        let mut queue = self.queued();
        queue.led = !queue.waiting.is_empty();
        queue.led
    }

    /// What is written at once of what waits.
    fn batch(&self) -> Vec<Waiting> {
        let waiting = &mut self.queued().waiting;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = waiting.front() {
            bytes += next.blob.record_bytes() as usize;
            if !batch.is_empty() && (bytes > BATCH_BYTES || batch.len() == BATCH_RECORDS) {
                break;
            }
            batch.extend(waiting.pop_front());
        }
        batch
    }

    /// Where the blob of `key` is, if it is there, in a file that is kept open for the next who reads.
    pub(super) fn find_to_read(&self, key: &BlobKey) -> io::Result<Option<Located>> {
        let Some(place) = key.place() else { return Ok(None) };
        let file = match self.read.get(place.pack) {
            Some(file) => file,
            None => match self.file_of(place.pack, false)? {
                Some((file, _)) => self.read.keep(place.pack, file)?,
                None => return Ok(None),
            },
        };
        Ok(located(key, place, head_at(&file, place)?, file))
    }

    /// As [`find_to_read`](Self::find_to_read), if that can be said without waiting for a disk.
    pub(super) fn find_in_memory(&self, key: &BlobKey) -> Option<Located> {
        let place = key.place()?;
        let file = self.read.get(place.pack)?;
        located(key, place, head_in_memory(&file, place), file)
    }

    /// The record of `key`, if it is there.
    pub(super) fn find(&self, key: &BlobKey, writable: bool) -> io::Result<Option<Found>> {
        let Some(place) = key.place() else { return Ok(None) };
        let Some((file, path)) = self.file_of(place.pack, writable)? else { return Ok(None) };
        let found = head_at(&file, place)?.filter(|head| head.beginning == key.beginning());
        Ok(found.map(|head| Found {
            file,
            start: start_of(place) + HEAD_BYTES as u64,
            bytes: head.bytes,
            record: head.record_bytes(),
            path,
        }))
    }

    fn file_of(&self, pack: u32, writable: bool) -> io::Result<Option<(File, PathBuf)>> {
        let (complete, open) = (self.dir.join(name(pack)), self.dir.join(open_name(pack)));
        // Twice the first: it may become complete between the two.
        for path in [&complete, &open, &complete] {
            match OpenOptions::new().read(true).write(writable).open(path) {
                Ok(file) => return Ok(Some((file, path.clone()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Gives the space of a blob back; true if it was there.
    pub(super) fn free(&self, key: &BlobKey) -> io::Result<bool> {
        let Some(Found { file, start, record, path, .. }) = self.find(key, true)? else {
            return Ok(false);
        };
        punch(&file, start - HEAD_BYTES as u64, record)?;
        // What is open may be appended to.
        if path.extension().is_none() && is_all_holes(&file)? {
            key.place().into_iter().for_each(|place| self.read.forget(place.pack));
            fs::remove_file(&path)?;
        }
        Ok(true)
    }

    /// As [`free`](Self::free) of one that the catalog refused without noting so: durably, so that no start commits what
    /// its entry says.
    pub(super) fn revoke(&self, key: &BlobKey) -> io::Result<()> {
        let Some(Found { file, start, record, .. }) = self.find(key, true)? else { return Ok(()) };
        punch(&file, start - HEAD_BYTES as u64, record)?;
        file.sync_data()
    }

    /// The entries of the records that come after `place` in its pack, in their order. A record that is not whole is
    /// among them if its entry is.
    pub(super) fn entries_after(&self, place: BlobPlace) -> io::Result<Vec<(BlobKey, Vec<u8>)>> {
        let Some((file, _)) = self.file_of(place.pack, false)? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        each_record(&file, place, |key, head| {
            if key.place() > Some(place)
                && let Some(entry) = entry_of(&file, &key, head)?
            {
                entries.push((key, entry));
            }
            Ok(())
        })?;
        Ok(entries)
    }

    /// Numbers of packs.
    pub(super) fn all(&self) -> io::Result<Vec<u32>> {
        let mut all: Vec<_> = numbers(&self.dir)?.into_iter().map(|(pack, _)| pack).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Those that were open when the server ended.
    pub(super) fn left_open(&self) -> io::Result<Vec<u32>> {
        let all = numbers(&self.dir)?;
        Ok(all.into_iter().filter_map(|(pack, open)| open.then_some(pack)).collect())
    }

    /// The blobs of a pack with their lengths, in their order.
    pub(super) fn blobs_of(&self, pack: u32) -> io::Result<Vec<(BlobKey, u64)>> {
        let Some((file, _)) = self.file_of(pack, false)? else { return Ok(Vec::new()) };
        let mut blobs = Vec::new();
        each_record(&file, BlobPlace { pack, block: 0 }, |key, head| {
            blobs.push((key, head.bytes));
            Ok(())
        })?;
        Ok(blobs)
    }

    /// Makes a pack complete that a crash left.
    pub(super) fn complete(&self, pack: u32) -> Result<(), StoreError> {
        let completed = || {
            let mut end = 0;
            if let Some((file, _)) = self.file_of(pack, false)? {
                each_record(&file, BlobPlace { pack, block: 0 }, |key, head| {
                    let block = key.place().map_or(0, |place| place.block);
                    end = u64::from(block) * ALIGN as u64 + head.record_bytes();
                    Ok(())
                })?;
            }
            complete(&self.dir, pack, end)
        };
        completed().map_err(|e| StoreError::io("completing a pack", e))
    }

    fn queued(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn appender(&self) -> MutexGuard<'_, Option<Appender>> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blob of `key` in `file`, if the head at its place is its own.
fn located(
    key: &BlobKey,
    place: BlobPlace,
    head: Option<Head>,
    file: Arc<File>,
) -> Option<Located> {
    let head = head.filter(|head| head.beginning == key.beginning())?;
    Some(Located { file, start: start_of(place) + HEAD_BYTES as u64, bytes: head.bytes })
}

/// If who appends panics, nobody waits for what was still to be appended.
struct Lead<'p>(&'p Packs);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queued();
            queue.led = false;
            let waiting = std::mem::take(&mut queue.waiting);
            drop(queue);
            tell(waiting.into_iter().map(|one| one.landed).collect(), Err(Cause::Closed));
        }
    }
}

/// Why nothing was appended, for each of those that are told.
#[derive(Debug, Clone, Copy)]
enum Cause {
    Closed,
    Os(i32),
    Other(io::ErrorKind),
}

impl Cause {
    fn of(error: &io::Error) -> Self {
        error.raw_os_error().map_or_else(|| Self::Other(error.kind()), Self::Os)
    }

    fn error(self) -> StoreError {
        match self {
            Self::Closed => StoreError::Closed,
            Self::Os(code) => StoreError::io("writing a blob", io::Error::from_raw_os_error(code)),
            Self::Other(kind) => StoreError::io("writing a blob", kind.into()),
        }
    }
}

/// Tells each its own key, or all the same failure.
fn tell(told: Vec<Landed>, outcome: Result<Vec<BlobKey>, Cause>) {
    match outcome {
        Ok(keys) => told.into_iter().zip(keys).for_each(|(landed, key)| landed(Ok(key))),
        Err(cause) => told.into_iter().for_each(|landed| landed(Err(cause.error()))),
    }
}

/// What appends.
#[derive(Debug)]
struct Appender {
    dir: PathBuf,
    /// The last number that was used.
    last: Option<u32>,
    current: Option<Pack>,
    /// Full, and complete when the current one is.
    before: Option<Pack>,
}

/// A pack that is appended to.
#[derive(Debug)]
struct Pack {
    number: u32,
    path: PathBuf,
    file: File,
    /// Whether a write is durable when it returns; else a sync follows.
    is_direct: bool,
    /// Where the next record begins.
    at: u64,
    /// Up to where there is room.
    room: u64,
}

impl Appender {
    fn new(dir: &Path, last: Option<u32>) -> Self {
        Self { dir: dir.to_owned(), last, current: None, before: None }
    }

    /// Makes the blobs durable; gives their keys.
    fn append(&mut self, blobs: Vec<NewBlob>) -> io::Result<Vec<BlobKey>> {
        let bytes = blobs.iter().map(NewBlob::record_bytes).sum::<u64>();
        let full = self.current.as_ref().is_some_and(|pack| pack.at + bytes > PACK_BYTES);
        if full || self.current.is_none() {
            self.next_pack(blobs.first().map_or(0, |blob| blob.key.minted_at().seconds()))?;
        }
        let Some(pack) = self.current.as_mut() else {
            return Err(io::Error::other("there is no pack"));
        };
        let appended = pack.append(blobs, bytes);
        if let Err(error) = &appended
            && !is_full(error)
        {
            // What there is of it after this is not known. What can be done is done so that no start commits what was
            // refused.
            let _best_effort = punch(&pack.file, pack.at, bytes).map(|()| pack.file.sync_data());
            tracing::error!(%error, pack = pack.number, "store.pack.failed: left as it is");
            self.before = self.current.take();
        }
        appended
    }

    fn next_pack(&mut self, seconds: i64) -> io::Result<()> {
        // Of the clock, so that none is used again even if all are gone.
        let clock = u32::try_from(seconds).unwrap_or_default();
        let number = self.last.map_or(clock, |last| clock.max(last.saturating_add(1)));
        let next = Pack::create(&self.dir, number)?;
        self.last = Some(number);
        let full = self.current.replace(next);
        if let Some(before) = std::mem::replace(&mut self.before, full) {
            before.complete(&self.dir);
        }
        Ok(())
    }
}

impl Pack {
    /// An empty one, whose name is durable.
    fn create(dir: &Path, number: u32) -> io::Result<Self> {
        let path = dir.join(open_name(number));
        let create = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).unwrap_or_default();
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).custom_flags(flags).open(&path)
        };
        let (file, is_direct) = match create(OFlags::DIRECT.union(DSYNC)) {
            Ok(file) => (file, true),
            // Some make it first and refuse it then.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                let _may_be_there = fs::remove_file(&path);
                (create(OFlags::empty())?, false)
            }
            Err(error) => return Err(error),
        };
        file.sync_all()?;
        sync_dir(dir)?;
        Ok(Self { number, path, file, is_direct, at: 0, room: 0 })
    }

    fn append(&mut self, blobs: Vec<NewBlob>, bytes: u64) -> io::Result<Vec<BlobKey>> {
        self.make_room(self.at + bytes)?;
        let (mut keys, mut records) = (Vec::new(), Vec::new());
        let mut at = self.at;
        for NewBlob { key, blob, entry } in blobs {
            let block = u32::try_from(at / ALIGN as u64).map_err(io::Error::other)?;
            let place = BlobPlace { pack: self.number, block };
            let head = head(&key, place, blob.len(), &entry);
            keys.push(key.at(place));
            let record = blob.into_record(head, &entry);
            at += record.len() as u64;
            records.push(record);
        }
        self.write(&records)?;
        if !self.is_direct {
            self.file.sync_data()?;
        }
        self.at = at;
        Ok(keys)
    }

    /// Nothing is appended any more.
    fn complete(self, dir: &Path) {
        if let Err(error) = complete(dir, self.number, self.at) {
            tracing::warn!(%error, "store.pack.left: completed at the next start");
        }
    }

    fn make_room(&mut self, end: u64) -> io::Result<()> {
        if end <= self.room {
            return Ok(());
        }
        let wanted = end.next_multiple_of(ROOM_BYTES);
        // A disk that is nearly full has room for what is needed, if not for more.
        self.room = match fallocate(&self.file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) => wanted,
            Err(_) => fallocate(&self.file, FallocateFlags::empty(), 0, end).map(|()| end)?,
        };
        Ok(())
    }

    fn write(&mut self, records: &[Piece]) -> io::Result<()> {
        let (mut at, mut first, mut skip) = (self.at, 0, 0);
        while first < records.len() {
            let rest = records[first..].iter().enumerate();
            let slices: Vec<_> = rest
                .map(|(n, record)| IoSlice::new(&record[if n == 0 { skip } else { 0 }..]))
                .collect();
            let written = match rustix::io::pwritev(&self.file, &slices, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(Errno::INVAL) if self.is_direct && at == self.at => {
                    // The file system takes the flag, and then nothing that comes with it.
                    self.file = OpenOptions::new().write(true).open(&self.path)?;
                    self.is_direct = false;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            at += written as u64;
            skip += written;
            while first < records.len() && skip >= records[first].len() {
                skip -= records[first].len();
                first += 1;
            }
        }
        Ok(())
    }
}

/// Cuts off what the pack does not need, and says with its name that it is complete.
fn complete(dir: &Path, pack: u32, end: u64) -> io::Result<()> {
    let open = dir.join(open_name(pack));
    let file = OpenOptions::new().write(true).open(&open)?;
    file.set_len(end)?;
    if is_all_holes(&file)? {
        fs::remove_file(open)?;
    } else {
        file.sync_all()?;
        fs::rename(&open, dir.join(name(pack)))?;
    }
    sync_dir(dir)
}

fn name(pack: u32) -> String {
    format!("{pack:08x}")
}

fn open_name(pack: u32) -> String {
    format!("{pack:08x}.open")
}

/// Numbers of packs with whether they are open. What has no number is none.
fn numbers(dir: &Path) -> io::Result<Vec<(u32, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?.file_name();
        let Some(entry) = entry.to_str() else { continue };
        let (number, open) = match entry.strip_suffix(".open") {
            Some(number) => (number, true),
            None => (entry, false),
        };
        if number.len() == 8
            && let Ok(number) = u32::from_str_radix(number, 16)
        {
            found.push((number, open));
        }
    }
    Ok(found)
}

fn punch(file: &File, start: u64, bytes: u64) -> rustix::io::Result<()> {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, bytes)
}

fn is_all_holes(file: &File) -> io::Result<bool> {
    match seek(file, SeekFrom::Data(0)) {
        Err(Errno::NXIO) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
