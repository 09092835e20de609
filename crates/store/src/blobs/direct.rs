//! Writing past the page cache, for bodies that are much larger than it pays to keep there.
//!
//! A buffered write copies a body into pages that are to be written at once and read by nobody: for gigabytes that is a
//! third of the processor's work, and the sync at the end waits for what is left. With `O_DIRECT` the disk takes the
//! bytes from here. It wants lengths, places in the file and places in memory that are multiples of its block; so bytes
//! are gathered in a buffer that begins at such a place, and the end of the file, which is no multiple, is written as
//! usual. While one buffer is written another is filled.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use memmap2::MmapMut;
use rustix::fs::OFlags;

use super::TempBlob;
use crate::error::StoreError;

/// The way past the cache to a file that is written from its beginning.
#[derive(Debug)]
pub(super) struct Direct {
    file: Arc<File>,
    filling: Buffer,
    /// Where in the file it goes.
    at: u64,
    other: Other,
}

/// The other buffer.
#[derive(Debug)]
enum Other {
    /// Nothing was written yet.
    Unmade,
    Idle(Buffer),
    Writing(JoinHandle<(io::Result<()>, Buffer)>),
}

/// What happened to bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// They were taken.
    Taken,
    /// The file system will not have it: from where in the file on it is to be written as usual.
    Refused(u64),
}

impl Direct {
    /// With two buffers of `buffer_bytes`, a multiple of 4096. `None` where the file system has no such way.
    pub(super) fn open(path: &Path, buffer_bytes: usize) -> Option<Self> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        let filling = Buffer::new(buffer_bytes)?;
        Some(Self { file: Arc::new(file), filling, at: 0, other: Other::Unmade })
    }

    /// Appends `bytes`. If it is refused, what is left of them and of what was gathered is written to `usual`.
    pub(super) fn write(&mut self, mut bytes: &[u8], usual: &File) -> io::Result<Written> {
        while !bytes.is_empty() {
            bytes = self.filling.take(bytes);
            if !self.filling.is_full() {
                continue;
            }
            let full = self.filling.gathered().len() as u64;
            if let Other::Unmade = self.other {
                // The first shows whether it can be at all.
                match self.file.write_all_at(self.filling.gathered(), self.at) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        usual.write_all_at(self.filling.gathered(), self.at)?;
                        usual.write_all_at(bytes, self.at + full)?;
                        return Ok(Written::Refused(self.at + full + bytes.len() as u64));
                    }
                    Err(error) => return Err(error),
                }
                self.filling.filled = 0;
                self.other = Buffer::new(full as usize).map_or(Other::Unmade, Other::Idle);
            } else {
                let empty = self.settled()?;
                let buffer = std::mem::replace(&mut self.filling, empty);
                let (file, at) = (Arc::clone(&self.file), self.at);
                self.other = Other::Writing(thread::spawn(move || {
                    (file.write_all_at(buffer.gathered(), at), buffer)
                }));
            }
            self.at += full;
        }
        Ok(Written::Taken)
    }

    /// Writes what is gathered to `usual`: the end of the file.
    pub(super) fn finish(mut self, usual: &File) -> io::Result<()> {
        if !matches!(self.other, Other::Unmade) {
            self.settled()?;
        }
        usual.write_all_at(self.filling.gathered(), self.at)
    }

    /// Waits for the other buffer; gives it, empty.
    fn settled(&mut self) -> io::Result<Buffer> {
        match std::mem::replace(&mut self.other, Other::Unmade) {
            Other::Idle(buffer) => Ok(buffer),
            Other::Writing(writer) => {
                let joined = writer.join();
                let (written, mut buffer) =
                    joined.map_err(|_panic| io::Error::other("the writer has panicked"))?;
                buffer.filled = 0;
                written.map(|()| buffer)
            }
            Other::Unmade => Err(io::Error::other("an earlier write has failed")),
        }
    }
}

impl TempBlob {
    /// Goes on as usual, where it went past the cache until now, and gives back the memory that this takes.
    pub fn write_as_usual(&mut self) -> Result<(), StoreError> {
        let end = self.reader()?.seek(SeekFrom::End(0));
        end.map(drop).map_err(|e| StoreError::io("writing a blob", e))
    }
}

/// Memory that begins where the disk takes it from. It is a mapping of its own, so that all of it goes back to the system
/// at once: an allocator would keep it for the next, and more of everything from then on (glibc's threshold moves).
#[derive(Debug)]
struct Buffer {
    memory: MmapMut,
    filled: usize,
}

impl Buffer {
    fn new(bytes: usize) -> Option<Self> {
        let memory = MmapMut::map_anon(bytes).ok()?;
        Some(Self { memory, filled: 0 })
    }

    /// Takes the beginning of `bytes`, gives what it has no room for.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.memory.len() - self.filled;
        let (now, later) = bytes.split_at(bytes.len().min(room));
        self.memory[self.filled..self.filled + now.len()].copy_from_slice(now);
        self.filled += now.len();
        later
    }

    fn is_full(&self) -> bool {
        self.filled == self.memory.len()
    }

    fn gathered(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}
