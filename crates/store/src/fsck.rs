//! Rows against blobs against SHA-256, and the books against themselves: what `filegate fsck` does.

use filegate_types::{BlobKey, FileId, FileRecord, UnixMillis};

use crate::blobs::{Blobs, Pace};
use crate::catalog::{BookFault, Catalog};
use crate::error::StoreError;

/// Rows fetched at a time.
const PAGE: u32 = 500;
/// A blob younger than this may belong to an upload that a running server is just landing.
const YOUNG_MS: i64 = 3_600_000;

/// What to check and whether to mend it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Mend what can be mended.
    pub repair: bool,
    /// Whether nobody else is at work on the store: the holder of a directory's lock knows. Then a blob that
    /// no row knows is an orphan, however young.
    pub alone: bool,
    /// Read every byte; otherwise only lengths are compared.
    pub digests: bool,
}

/// What was found. `damaged` and `missing` are facts about acknowledged files; the rest is litter.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Rows checked.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files whose blob is absent.
    pub missing: Vec<FileId>,
    /// Files whose blob has the wrong length or digest.
    pub damaged: Vec<FileId>,
    /// Files that were marked damaged and are whole.
    pub whole_again: Vec<FileId>,
    /// Blobs that nothing refers to.
    pub orphans: Vec<BlobKey>,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Files that are not here any more although copies of them on channels were known; these are deleted there.
    /// Without `repair` they are among the faults of the books.
    pub lost_copies: usize,
    /// Accounts whose money or counts are not the sums they have to be. Never mended by itself: which
    /// side is wrong is for a person to say.
    pub books: Vec<BookFault>,
    /// SQLite's own verdict when it is not `ok`.
    pub catalog_fault: Option<String>,
}

impl Report {
    /// Whether everything was as it should be.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.damaged.is_empty()
            && self.whole_again.is_empty()
            && self.orphans.is_empty()
            && self.lost_copies == 0
            && self.books.is_empty()
            && self.catalog_fault.is_none()
    }
}

/// Checks the store; `progress` is told the files checked and bytes read so far.
///
/// It may run beside servers: young unknown blobs are left out then. With `repair`, files
/// that are missing or damaged are marked (their content then answers an error, never wrong bytes),
/// marks on whole files are taken back, orphans are removed, and copies on channels that no file is of.
pub async fn fsck(
    catalog: &Catalog,
    blobs: &Blobs,
    options: Options,
    now: UnixMillis,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let verdict = catalog.integrity().await?;
    report.catalog_fault = (verdict != "ok").then_some(verdict);

    let mut after = 0;
    loop {
        let page = catalog.files_after(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.file_id.get();
        for file in page {
            check_file(catalog, blobs, options, now, &file, &mut report).await?;
            progress(report.files, report.bytes);
        }
    }
    find_orphans(catalog, blobs, options, now, &mut report).await?;
    if options.repair {
        report.lost_copies = catalog.reap_lost_copies(now).await?;
    }
    report.books = catalog.check_books().await?;
    Ok(report)
}

async fn check_file(
    catalog: &Catalog,
    blobs: &Blobs,
    options: Options,
    now: UnixMillis,
    file: &FileRecord,
    report: &mut Report,
) -> Result<(), StoreError> {
    report.files += 1;
    let found = if options.digests {
        blobs.digest(&file.blob_key, |_| Pace::Go).await?
    } else {
        blobs.length(&file.blob_key).await?.map(|bytes| (bytes, file.sha256))
    };
    report.bytes += if options.digests { found.map_or(0, |(bytes, _)| bytes) } else { 0 };
    let whole = found == Some((file.bytes, file.sha256));
    // A file deleted since its row was read is not damaged.
    let gone = !whole && catalog.file(file.account_id, file.file_id, now).await?.is_none();
    if gone && file.expires_at.is_none_or(|at| at > now) {
        return Ok(());
    }
    match (whole, found) {
        (true, _) if file.damaged_at.is_some() => report.whole_again.push(file.file_id),
        (true, _) => return Ok(()),
        (false, None) => report.missing.push(file.file_id),
        (false, Some(_)) => report.damaged.push(file.file_id),
    }
    if options.repair {
        let mark = if whole { None } else { Some(file.damaged_at.unwrap_or(now)) };
        catalog.mark_damaged(file.file_id, mark).await?;
    }
    Ok(())
}

async fn find_orphans(
    catalog: &Catalog,
    blobs: &Blobs,
    options: Options,
    now: UnixMillis,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut listed = blobs.list();
    while let Some(page) = listed.next().await? {
        for blob in page {
            check_orphan(catalog, blobs, options, now, blob, report).await?;
        }
    }
    Ok(())
}

async fn check_orphan(
    catalog: &Catalog,
    blobs: &Blobs,
    options: Options,
    now: UnixMillis,
    (key, bytes): (BlobKey, u64),
    report: &mut Report,
) -> Result<(), StoreError> {
    let young = key.minted_at().0 > now.0 - YOUNG_MS;
    if (young && !options.alone) || catalog.knows_blob(key.clone()).await? {
        return Ok(());
    }
    if options.repair {
        blobs.purge(&key).await?;
    }
    report.orphan_bytes += bytes;
    report.orphans.push(key);
    Ok(())
}
