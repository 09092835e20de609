//! A snapshot becomes a data directory again, or is checked where it lies.
//!
//! A snapshot is a data directory without `tmp`, `lock` and `reserve`: `catalog.db` and `blobs/`. Restoring
//! copies the blobs first and the catalog last, under its name only when it is whole and synced: what a
//! restore that is cut off leaves is not taken for a data directory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use filegate_store::DataDir;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::commands::fsck;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::text::{escape, size};

const CATALOG: &str = "catalog.db";
/// What a catalog that was copied as it ran has beside it.
const LOG: &str = "catalog.db-wal";

/// Copies `snapshot` to `target` and checks it there.
pub(super) fn restore(
    snapshot: &Path,
    target: &Path,
    dry_run: bool,
    printer: &Printer,
) -> Result<Exit, Failure> {
    is_snapshot(snapshot)?;
    if !is_free(target).map_err(failed("look into", target))? {
        return Err(Failure::Usage(format!(
            "{} is not empty: restore into a new directory",
            escape(&target.to_string_lossy())
        )));
    }
    if dry_run {
        printer.note("dry run: nothing was copied");
        return Ok(Exit::Ok);
    }
    let copied = copy(snapshot, target).map_err(|source| Failure::Local {
        what: format!(
            "cannot restore; remove {} before another try",
            escape(&target.to_string_lossy())
        ),
        source,
    })?;
    printer.note(&format!("copied {} files, {}", copied.files, size(copied.bytes)));
    fsck::check_directory(target, printer)
}

/// Checks `snapshot` without a change to it: opening a catalog may write beside it, so a copy of it is
/// opened, with the blobs as they are.
pub(super) fn verify(snapshot: &Path, printer: &Printer) -> Result<Exit, Failure> {
    is_snapshot(snapshot)?;
    let beside =
        tempfile::tempdir().map_err(failed("make a directory in", &std::env::temp_dir()))?;
    let prepared = || {
        for name in [CATALOG, LOG] {
            if snapshot.join(name).try_exists()? {
                fs::copy(snapshot.join(name), beside.path().join(name))?;
            }
        }
        symlink(snapshot.join("blobs").canonicalize()?, beside.path().join("blobs"))
    };
    prepared().map_err(failed("read", snapshot))?;
    fsck::check_directory(beside.path(), printer)
}

fn is_snapshot(directory: &Path) -> Result<(), Failure> {
    let there = |part: &str| directory.join(part).try_exists().map_err(failed("read", directory));
    if there(CATALOG)? && there("blobs")? {
        return if is_served(directory).map_err(failed("look into", directory))? {
            Err(Failure::Usage(format!(
                "{} is no snapshot, a server is using it: `filegate backup create` takes one",
                escape(&directory.to_string_lossy())
            )))
        } else {
            Ok(())
        };
    }
    Err(Failure::Usage(format!(
        "{} is not a snapshot: it has no {CATALOG} or no blobs",
        escape(&directory.to_string_lossy())
    )))
}

/// Whether a server works there, whose rows and files would not match when they are copied.
fn is_served(directory: &Path) -> io::Result<bool> {
    match File::open(directory.join("lock")) {
        Ok(lock) => match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_free(target: &Path) -> io::Result<bool> {
    match fs::read_dir(target) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

#[derive(Default)]
struct Copied {
    files: u64,
    bytes: u64,
}

fn copy(snapshot: &Path, target: &Path) -> io::Result<Copied> {
    let mut copied = Copied::default();
    // Makes the directories with the rights that a data directory has.
    DataDir::open(target).map_err(io::Error::other)?;
    for shard in fs::read_dir(snapshot.join("blobs"))? {
        let shard = shard?;
        let into = target.join("blobs").join(shard.file_name());
        for blob in fs::read_dir(shard.path())? {
            let blob = blob?;
            copied.bytes += copy_synced(&blob.path(), &into.join(blob.file_name()))?;
            copied.files += 1;
        }
        File::open(&into)?.sync_all()?;
    }
    // The log first: a catalog without the log that belongs to it would be an older one.
    if snapshot.join(LOG).try_exists()? {
        copy_synced(&snapshot.join(LOG), &target.join(LOG))?;
    }
    let unfinished = target.join("catalog.db.restoring");
    copy_synced(&snapshot.join(CATALOG), &unfinished)?;
    fs::rename(unfinished, target.join(CATALOG))?;
    File::open(target)?.sync_all()?;
    Ok(copied)
}

fn copy_synced(from: &Path, to: &Path) -> io::Result<u64> {
    let bytes = fs::copy(from, to)?;
    File::open(to)?.sync_all()?;
    Ok(bytes)
}

fn failed<'a>(verb: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Failure + use<'a> {
    move |source| Failure::Local {
        what: format!("cannot {verb} {}", escape(&path.to_string_lossy())),
        source,
    }
}
