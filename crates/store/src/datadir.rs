//! The directory an embedded gateway lives in, and the lock that keeps a second process out.
//!
//! | entry | what it is |
//! |---|---|
//! | `catalog.db` (+ `-wal`, `-shm`) | the rows |
//! | `blobs/00` … `blobs/ff` | landed blobs, one file each, named by their key |
//! | `packs/` | landed blobs that are small, many to a file |
//! | `tmp/` | blobs being received; whatever is here at start is a crash's and is removed |
//! | `reserve` | space that is given up when the disk is full, so that deletes still work |
//! | `lock` | held by the one server of the directory |

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FlockOperation, flock};

use crate::error::StoreError;

/// Bytes kept back for deletes on a full disk: room for some thousand rows in the write-ahead log.
const RESERVE_BYTES: u64 = 4 << 20;
/// What is given up of it at a time: room for some ten deletes.
const RESERVE_STEP_BYTES: u64 = 256 << 10;

/// What a data directory is for, beside what is being received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeps {
    /// The catalog.
    pub rows: bool,
    /// Landed blobs.
    pub blobs: bool,
}

impl Keeps {
    /// Everything.
    pub const ALL: Self = Self { rows: true, blobs: true };

    /// Whether anything is.
    pub fn any(self) -> bool {
        self.rows || self.blobs
    }
}

/// An opened data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Whether this call made the directory's contents.
    pub fresh: bool,
}

impl DataDir {
    /// Opens `path` for everything, making the directory and its parts where they are missing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_for(path, Keeps::ALL)
    }

    /// As [`open`](Self::open), making only the parts that are used.
    pub fn open_for(path: &Path, keeps: Keeps) -> Result<Self, StoreError> {
        let open = |source| StoreError::io("opening the data directory", source);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(open)?;
        let path = path.canonicalize().map_err(open)?;
        let known = if keeps.rows { "catalog.db" } else { "blobs" };
        let fresh = !path.join(known).try_exists().map_err(open)?;
        builder.create(path.join("tmp")).map_err(open)?;
        if keeps.blobs {
            builder.create(path.join("blobs")).map_err(open)?;
            builder.create(path.join("packs")).map_err(open)?;
            for shard in 0..=255u8 {
                builder.create(path.join(format!("blobs/{shard:02x}"))).map_err(open)?;
            }
        }
        if fresh && keeps.any() {
            if keeps.blobs {
                sync_dir(&path.join("blobs")).map_err(open)?;
            }
            sync_dir(&path).map_err(open)?;
            if let Some(parent) = path.parent() {
                sync_dir(parent).map_err(open)?;
            }
        }
        Ok(Self { path, fresh })
    }

    /// Opens `path` only if it already is a data directory.
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        match path.join("catalog.db").try_exists() {
            Ok(true) => Self::open(path),
            Ok(false) => Err(StoreError::Unusable(format!(
                "{} is not a filegate data directory (it has no catalog.db)",
                path.display()
            ))),
            Err(source) => Err(StoreError::io("opening the data directory", source)),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database file.
    pub fn catalog_path(&self) -> PathBuf {
        self.path.join("catalog.db")
    }

    /// Takes the directory for one server, until the returned file is dropped.
    pub fn lock(&self) -> Result<File, StoreError> {
        let busy = || StoreError::InUse(self.path.display().to_string());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join("lock"))
            .map_err(|source| StoreError::io("opening the lock file", source))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            if errno == rustix::io::Errno::WOULDBLOCK {
                busy()
            } else {
                StoreError::io("locking the data directory", errno.into())
            }
        })?;
        // For people who look; the lock itself is the flock. A full disk must not stop a start.
        let _informative = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(file)
    }
}

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Space that is given up on a full disk so that deletes can still be written.
///
/// It is given up step by step, since uploads that wait for space may take a step first, and taken
/// again as far as there is room: a part of it is better than none.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    /// Bytes of the file that this process has written.
    held: Mutex<u64>,
}

impl Reserve {
    /// The reserve of `dir`; call [`restore`](Self::restore) to fill it.
    pub fn of(dir: &DataDir) -> Self {
        Self { path: dir.path.join("reserve"), held: Mutex::new(0) }
    }

    /// Gives a step of the space up. True if there was any.
    pub fn release(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let left = held.saturating_sub(RESERVE_STEP_BYTES);
        let released = *held > 0
            && OpenOptions::new()
                .write(true)
                .open(&self.path)
                .and_then(|f| f.set_len(left))
                .is_ok();
        *held = left;
        released
    }

    /// Takes what is missing of the space again, if it can be had; a full disk is no error here.
    pub fn restore(&self) {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = *held;
        if before == RESERVE_BYTES {
            return;
        }
        let written = (|| {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.path)?;
            // Real blocks: a sparse file would reserve nothing.
            let zeros = vec![0u8; 64 << 10];
            while *held < RESERVE_BYTES {
                let missing = (RESERVE_BYTES - *held).min(zeros.len() as u64) as usize;
                *held += file.write_at(&zeros[..missing], *held)? as u64;
            }
            file.sync_all()
        })();
        if let Err(error) = written
            && *held <= before
        {
            tracing::warn!(%error, held = *held, "store.reserve.short: no room for the reserve file");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&home.path().join("new/data")).unwrap();
        assert!(dir.fresh);
        let lock = dir.lock().unwrap();
        assert!(matches!(dir.lock(), Err(StoreError::InUse(_))));
        drop(lock);
        dir.lock().unwrap();
    }

    #[test]
    fn the_reserve_is_given_up_in_steps_and_taken_again() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        let reserve = Reserve::of(&dir);
        let len = || fs::metadata(home.path().join("reserve")).unwrap().len();
        assert!(!reserve.release());
        reserve.restore();
        assert_eq!(len(), RESERVE_BYTES);
        assert!(reserve.release());
        assert_eq!(len(), RESERVE_BYTES - RESERVE_STEP_BYTES);
        reserve.restore();
        assert_eq!(len(), RESERVE_BYTES);
        for _ in 0..RESERVE_BYTES / RESERVE_STEP_BYTES {
            assert!(reserve.release());
        }
        assert_eq!(len(), 0);
        assert!(!reserve.release());
        // Another process finds the file and takes it over.
        reserve.restore();
        let next = Reserve::of(&dir);
        next.restore();
        assert_eq!(len(), RESERVE_BYTES);
        assert!(next.release());
    }
}
