//! Reads that the page cache answers, and the files of packs that are kept open for them.
//!
//! What is in memory is read at once on the thread that asks; to go to one that may block and back takes longer than to
//! copy 100 KB. `RWF_NOWAIT` (preadv2(2)) tells which: such a read never waits for a disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Files kept open, at most: 4 GiB of packs.
const FILES_MAX: usize = 64;

/// Fills `buffer` with what is in `file` from `at` on, if all of it is in memory. Where it is not, or the file system cannot
/// tell, `buffer` holds anything.
pub(super) fn read_in_memory(file: &File, buffer: &mut [u8], at: u64) -> bool {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut [IoSliceMut::new(&mut buffer[filled..])];
        match preadv2(file, rest, at + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => return false,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Packs that were read from not long ago, open.
#[derive(Debug, Default)]
pub(super) struct OpenPacks(Mutex<HashMap<u32, Arc<File>>>);

impl OpenPacks {
    /// The file of `pack`, if it is open.
    pub(super) fn get(&self, pack: u32) -> Option<Arc<File>> {
        self.files().get(&pack).cloned()
    }

    /// Keeps the file of `pack` open.
    pub(super) fn keep(&self, pack: u32, file: File) -> io::Result<Arc<File>> {
        // Who reads one blob does not want its neighbours.
        fadvise(&file, 0, None, Advice::Random)?;
        let file = Arc::new(file);
        let mut files = self.files();
        if files.len() >= FILES_MAX
            && !files.contains_key(&pack)
            && let Some(one) = files.keys().next().copied()
        {
            files.remove(&one);
        }
        files.insert(pack, Arc::clone(&file));
        Ok(file)
    }

    /// Closes the file of `pack`, whose space is to be given back.
    pub(super) fn forget(&self, pack: u32) {
        self.files().remove(&pack);
    }

    fn files(&self) -> MutexGuard<'_, HashMap<u32, Arc<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_just_written_is_in_memory_and_what_is_behind_its_end_is_not() {
        // Not in /tmp, which may be one of the file systems that do not know the flag.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; 100_000]).unwrap();
        let mut buffer = vec![0; 90_000];
        let flag = ReadWriteFlags::NOWAIT;
        let known = preadv2(&file, &mut [IoSliceMut::new(&mut [0])], 0, flag).is_ok();
        assert_eq!(read_in_memory(&file, &mut buffer, 9_999), known);
        assert!(!known || buffer == vec![7; 90_000]);
        assert!(!read_in_memory(&file, &mut buffer, 10_001));
        assert!(!read_in_memory(&file, &mut buffer, 200_000));
    }

    #[test]
    fn so_many_files_are_open_and_no_more() {
        let open = OpenPacks::default();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        for pack in 0..3 * FILES_MAX as u32 {
            open.keep(pack, file.try_clone().unwrap()).unwrap();
            assert!(open.get(pack).is_some());
        }
        assert_eq!(open.files().len(), FILES_MAX);
        open.keep(7, file.try_clone().unwrap()).unwrap();
        assert!(open.files().len() == FILES_MAX && open.get(7).is_some());
        open.forget(7);
        assert!(open.get(7).is_none());
    }
}
