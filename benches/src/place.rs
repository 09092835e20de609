//! Directories on a disk that does not falsify what is measured.
//!
//! ext4 creates files slowly where others were deleted during the last minute. So each turn has a directory of its own,
//! and nothing in it is deleted before the end of the run: its files are only cut to nothing, which gives their
//! blocks back and leaves their names.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// Threads that cut files: each cut waits for the disk.
const CUTTERS: usize = 16;

/// All directories of a run; deleted when dropped.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    next: u64,
    /// Why the directories may lie close to each other.
    pub warning: Option<String>,
}

impl Place {
    /// Makes the root, in which directories are spread over the disk where the file system can do that.
    pub fn new(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?.join(format!("run-{}", std::process::id()));
        fs::create_dir(&root)?;
        // Such directories are put into groups of blocks of their own by ext4.
        let spread = Command::new("chattr").arg("+T").arg(&root).output();
        let warning = match spread {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(format!("chattr: {error}")),
        };
        Ok(Self { root, next: 0, warning })
    }

    /// A directory that was never used.
    pub fn fresh(&mut self) -> io::Result<PathBuf> {
        self.next += 1;
        let path = self.root.join(self.next.to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Waits until nothing is left to be written to the disk by anybody.
    pub fn settle(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }

    /// Bytes that are free.
    pub fn room(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be deleted is left, and lies where it was said to.
        let _left = fs::remove_dir_all(&self.root);
    }
}

/// Cuts all files below `dir` to nothing; gives the bytes that they had.
pub fn empty(dir: &Path) -> io::Result<u64> {
    let mut files = Vec::new();
    find(dir, &mut files)?;
    let bytes = files.iter().map(|(_, length)| length).sum();
    let share = files.len().div_ceil(CUTTERS).max(1);
    thread::scope(|scope| {
        let cut = |part: &[(PathBuf, u64)]| {
            part.iter().try_for_each(|(path, _)| File::options().write(true).open(path)?.set_len(0))
        };
        let parts: Vec<_> =
            files.chunks(share).map(|part| scope.spawn(move || cut(part))).collect();
        parts.into_iter().try_for_each(|part| {
            part.join().map_err(|_panic| io::Error::other("a thread panicked"))?
        })
    })?;
    Ok(bytes)
}

/// All files that hold something, with their lengths.
fn find(dir: &Path, into: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find(&entry.path(), into)?;
        } else if kind.is_file() {
            let length = entry.metadata()?.len();
            if length > 0 {
                into.push((entry.path(), length));
            }
        }
    }
    Ok(())
}

/// Reads and writes so much memory, so that the host has given it before anything is measured. `MemAvailable` bounds it.
pub fn touch_memory() -> io::Result<()> {
    const MOST: u64 = 6 << 30;
    const PIECE: usize = 64 << 20;
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
    let bytes = (kib << 9).min(MOST) as usize;
    let pieces: Vec<Vec<u8>> = (0..bytes / PIECE).map(|_| vec![1; PIECE]).collect();
    std::hint::black_box(&pieces);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_emptied_and_their_names_left() {
        let home = tempfile::tempdir().unwrap();
        let mut place = Place::new(home.path()).unwrap();
        let (first, second) = (place.fresh().unwrap(), place.fresh().unwrap());
        assert_ne!(first, second);
        fs::create_dir(first.join("in")).unwrap();
        let file = first.join("in/file");
        File::create(&file).unwrap().set_len(1000).unwrap();
        assert_eq!(empty(&first).unwrap(), 1000);
        assert_eq!(fs::metadata(&file).unwrap().len(), 0);
        assert!(place.room().unwrap() > 0);
        place.settle().unwrap();
        drop(place);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
