//! Who was let in since the embedded catalog last changed: a call then needs no read on another thread.
//!
//! An entry is as good as a read, not only nearly: it is used only while the catalog's [version] is the one that was
//! asked for *before* the read that made it, and any commit, of this process or of a command beside it, makes that
//! another one. So what was revoked, disabled, paid in or priced anew a moment ago is seen by the very next call. The
//! one thing that changes by itself is whether a key has ended, which is looked at each time.
//!
//! [version]: filegate_store::Catalog::version

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use filegate_types::{Call, KeyHash, Principal, UnixMillis};

/// Entries, at most; one has about a kilobyte.
const ENTRIES_MAX: usize = 10_000;

/// Those who were let in since the catalog last changed.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of the catalog, when all entries were made.
    version: i64,
    entries: HashMap<([u8; 32], Call), Principal>,
}

impl Known {
    /// Who presents a key with this hash at `now` to make `call`, while the catalog has this version.
    pub(super) fn get(
        &self,
        version: i64,
        hash: KeyHash,
        call: Call,
        now: UnixMillis,
    ) -> Option<Box<Principal>> {
        let state = self.lock();
        if state.version != version {
            return None;
        }
        let principal = state.entries.get(&(*hash.as_bytes(), call))?;
        let ended = principal.key_expires_at.is_some_and(|at| at <= now);
        (!ended).then(|| Box::new(principal.clone()))
    }

    /// Notes what a read has found that began after the catalog had this version.
    pub(super) fn put(&self, version: i64, hash: KeyHash, call: Call, principal: &Principal) {
        let mut state = self.lock();
        if state.version != version {
            state.version = version;
            state.entries.clear();
        }
        if state.entries.len() < ENTRIES_MAX {
            state.entries.insert((*hash.as_bytes(), call), principal.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests::principal;

    const NOW: UnixMillis = UnixMillis(1_000);

    fn hash(n: usize) -> KeyHash {
        KeyHash::of(&format!("fg-{n}"))
    }

    #[test]
    fn an_entry_is_used_while_the_version_is_the_one_before_its_read() {
        let known = Known::default();
        let of = |version| known.get(version, hash(1), Call::List, NOW).map(|p| p.key_id.0);
        assert_eq!(of(0), None);
        known.put(7, hash(1), Call::List, &principal(1, 1));
        assert_eq!(of(7), Some(1));
        assert_eq!((of(6), of(8)), (None, None));
        // Of another key or call nothing is known.
        assert!(known.get(7, hash(2), Call::List, NOW).is_none());
        assert!(known.get(7, hash(1), Call::Upload, NOW).is_none());
        // What was made at another version is gone, also for a read that was late.
        known.put(8, hash(2), Call::List, &principal(2, 1));
        assert_eq!((of(7), of(8)), (None, None));
    }

    #[test]
    fn a_key_ends_by_itself() {
        let known = Known::default();
        let mut ends = principal(1, 1);
        ends.key_expires_at = Some(NOW);
        known.put(1, hash(1), Call::List, &ends);
        assert!(known.get(1, hash(1), Call::List, UnixMillis(NOW.0 - 1)).is_some());
        assert!(known.get(1, hash(1), Call::List, NOW).is_none());
    }

    #[test]
    fn never_more_entries_than_the_bound() {
        let known = Known::default();
        for n in 0..ENTRIES_MAX + 10 {
            known.put(1, hash(n), Call::List, &principal(1, 1));
        }
        assert_eq!(known.lock().entries.len(), ENTRIES_MAX);
    }
}
