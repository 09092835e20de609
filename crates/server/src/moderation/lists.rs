//! The blocked lists, ready to be asked, and how a change of their rows comes here.
//!
//! Rows are changed by this process and by others (the command line on the data directory), so an
//! upload that finds the lists not looked at for a second looks whether they are still the same. It
//! waits for a changed list to be read: an entry works for whatever is uploaded a second after it was
//! committed, or at once if [`Watched::changed`] was called.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use filegate_store::catalog::moderation::{BlockedEntry, BlockedList, BlockedVersion};
use filegate_types::{ApiError, ErrorCode};
use tokio::sync::Mutex;

use super::image;
use super::terms::Terms;
use crate::app::App;
use crate::http::reply::store_failed;

/// How long the lists are taken to be unchanged.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is refused, at one moment.
#[derive(Default)]
pub(super) struct Lists {
    sha256: HashMap<[u8; 32], i64>,
    images: Vec<(u64, i64)>,
    pub(super) terms: Option<Terms>,
}

impl Lists {
    fn build(
        entries: &[BlockedEntry],
        whole_words: bool,
    ) -> Result<Self, aho_corasick::BuildError> {
        let mut lists = Self::default();
        for entry in entries {
            let id = entry.entry_id;
            let taken = match entry.list {
                BlockedList::Sha256 => {
                    parse_sha256(&entry.value).map(|hash| lists.sha256.extend([(hash, id)]))
                }
                BlockedList::Image => {
                    image::parse(&entry.value).map(|hash| lists.images.push((hash, id)))
                }
                BlockedList::Term => Some(()),
            };
            if taken.is_none() {
                tracing::warn!(entry_id = id, list = %entry.list, "moderation.entry.malformed");
            }
        }
        let terms = entries.iter().filter(|entry| entry.list == BlockedList::Term);
        let terms = terms.map(|entry| (entry.entry_id, entry.value.as_str()));
        lists.terms = Terms::build(terms, whole_words)?;
        Ok(lists)
    }

    pub(super) fn has_files(&self) -> bool {
        !self.sha256.is_empty()
    }

    pub(super) fn has_images(&self) -> bool {
        !self.images.is_empty()
    }

    /// The entry of a file with this SHA-256.
    pub(super) fn file(&self, sha256: &[u8; 32]) -> Option<i64> {
        self.sha256.get(sha256).copied()
    }

    /// The entry of the nearest picture within `distance` bits.
    pub(super) fn image(&self, hash: u64, distance: u32) -> Option<i64> {
        let near = self.images.iter().map(|(blocked, id)| ((blocked ^ hash).count_ones(), *id));
        near.filter(|(bits, _)| *bits <= distance).min().map(|(_, id)| id)
    }
}

fn parse_sha256(value: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if value.len() != 64 || !value.is_ascii() {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(value.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// The lists with what is known of their age.
pub(super) struct Watched {
    held: Mutex<Option<Held>>,
    changed: AtomicBool,
}

struct Held {
    lists: Arc<Lists>,
    version: BlockedVersion,
    looked: Instant,
}

impl Watched {
    pub(super) fn new() -> Self {
        Self { held: Mutex::new(None), changed: AtomicBool::new(false) }
    }

    /// Has the next upload look at the rows, however lately that was done.
    pub(super) fn changed(&self) {
        self.changed.store(true, Ordering::Release);
    }

    /// The lists as they are now.
    pub(super) async fn current(&self, app: &Arc<App>) -> Result<Arc<Lists>, ApiError> {
        // Whoever comes while they are being read waits for them.
        let mut held = self.held.lock().await;
        let changed = self.changed.swap(false, Ordering::AcqRel);
        if let Some(held) = &*held
            && !changed
            && held.looked.elapsed() < LOOK_EVERY
        {
            return Ok(Arc::clone(&held.lists));
        }
        let looked = Instant::now();
        let version = app.catalog.blocked_version().await.map_err(|e| store_failed(&e))?;
        if let Some(held) = &mut *held
            && held.version == version
        {
            held.looked = looked;
            return Ok(Arc::clone(&held.lists));
        }
        let (version, entries) = app.catalog.all_blocked().await.map_err(|e| store_failed(&e))?;
        let whole_words = app.config.moderation.terms_whole_words;
        let count = entries.len();
        let building = app.tasks.blocking(move || Lists::build(&entries, whole_words)).await;
        let built = building.map_err(|_panic| ErrorCode::Unknown)?.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "moderation.lists.failed");
            ApiError::plain(ErrorCode::Internal).retry_after(5)
        })?;
        tracing::info!(entries = count, "moderation.lists.read");
        let lists = Arc::new(built);
        *held = Some(Held { lists: Arc::clone(&lists), version, looked });
        Ok(lists)
    }
}

#[cfg(test)]
mod tests {
    use filegate_types::UnixMillis;

    use super::*;

    fn entry(entry_id: i64, list: BlockedList, value: &str) -> BlockedEntry {
        let created_at = UnixMillis(0);
        BlockedEntry { entry_id, list, value: value.to_owned(), note: String::new(), created_at }
    }

    #[test]
    fn entries_are_found_by_what_they_refuse() {
        let hash = "ab".repeat(32);
        let entries = [
            entry(1, BlockedList::Sha256, &hash),
            entry(2, BlockedList::Image, "00000000000000ff"),
            entry(3, BlockedList::Image, "000000000000000f"),
            entry(4, BlockedList::Term, "spam"),
            entry(5, BlockedList::Sha256, "not one"),
            entry(6, BlockedList::Image, "+000000000000000"),
        ];
        let lists = Lists::build(&entries, false).unwrap();
        assert_eq!(lists.file(&[0xAB; 32]), Some(1));
        assert_eq!(lists.file(&[0xAC; 32]), None);
        assert_eq!(lists.image(0xFE, 10), Some(2));
        assert_eq!(lists.image(0x1F, 10), Some(3));
        assert_eq!(lists.image(0xFFFF_FF00_0000_0000, 10), None);
        assert_eq!(lists.image(0xFF, 0), Some(2));
        assert_eq!(lists.terms.unwrap().find("Spam.txt"), Some(4));
    }
}
