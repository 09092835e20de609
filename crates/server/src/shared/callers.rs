//! Who was just let in. With PostgreSQL each call would else read its key, account and prices anew. (The embedded
//! catalog says itself whether it was changed: see [`known`](super::known).)
//!
//! Why a revoked key works for no longer than a second: an entry answers for [`LIFE`] from the moment
//! at which the read that made it *began*, so it can miss only changes of the last second. That holds
//! without a single message. Messages make it shorter: each replica forgets all entries when it hears
//! of any change, when the subscription begins, and when it ends; without one nothing is kept. A read
//! that began before a message is not kept after it, since it may have seen what was before the change:
//! that is what the [`Ticket`] is for.
//!
//! Why nothing is spent twice: an entry decides only whether a call is tried. What a call costs and
//! whether that is there is decided by the database, in the transaction that takes or holds the money.
//! `available` is used for an early refusal alone, and before that refusal it is read anew. A price
//! that was set a moment ago may be missed by reads for as long as a revoked key works.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use filegate_store::{Caller, StoreError};
use filegate_types::{Call, KeyHash, Principal};

use crate::app::App;
use crate::pay;

/// How long an entry is used, from the beginning of the read that made it.
const LIFE: Duration = Duration::from_secs(1);
/// Entries, at most; one has about a kilobyte.
const ENTRIES_MAX: usize = 10_000;

/// Those who were let in during the last second.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether changes are heard of.
    live: bool,
    /// Counts what was forgotten.
    generation: u64,
    entries: HashMap<([u8; 32], Call), Entry>,
}

#[derive(Debug)]
struct Entry {
    read_at: Instant,
    principal: Arc<Principal>,
}

/// A read of the catalog that is about to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    generation: u64,
    read_at: Instant,
}

impl Callers {
    /// From now on changes are heard of.
    pub(super) fn hears(&self) {
        let mut state = self.lock();
        state.forget();
        state.live = true;
    }

    /// From now on they are not.
    pub(super) fn is_deaf(&self) {
        let mut state = self.lock();
        state.forget();
        state.live = false;
    }

    /// Something was changed.
    pub(super) fn forget(&self) {
        self.lock().forget();
    }

    pub(super) fn get(&self, hash: KeyHash, call: Call, now: Instant) -> Option<Arc<Principal>> {
        let state = self.lock();
        let entry = state.entries.get(&(*hash.as_bytes(), call))?;
        (now.duration_since(entry.read_at) < LIFE).then(|| Arc::clone(&entry.principal))
    }

    pub(super) fn ticket(&self, now: Instant) -> Option<Ticket> {
        let state = self.lock();
        state.live.then_some(Ticket { generation: state.generation, read_at: now })
    }

    pub(super) fn put(&self, ticket: Ticket, hash: KeyHash, call: Call, principal: &Principal) {
        let mut state = self.lock();
        if !state.live || state.generation != ticket.generation {
            return;
        }
        if state.entries.len() >= ENTRIES_MAX {
            let fresh = |entry: &Entry| ticket.read_at.duration_since(entry.read_at) < LIFE;
            state.entries.retain(|_, entry| fresh(entry));
            if state.entries.len() >= ENTRIES_MAX {
                return;
            }
        }
        let entry = Entry { read_at: ticket.read_at, principal: Arc::new(principal.clone()) };
        state.entries.insert((*hash.as_bytes(), call), entry);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self) {
        self.generation += 1;
        self.entries.clear();
    }
}

/// Who presents a key with this hash at `now`, to make `call`, as [`Catalog::authenticate`] says or has
/// just said.
///
/// [`Catalog::authenticate`]: filegate_store::Catalog::authenticate
pub(crate) async fn authenticate(
    app: &App,
    hash: KeyHash,
    call: Call,
    now: Instant,
) -> Result<Option<Caller>, StoreError> {
    let version = app.catalog.version();
    if let Some(version) = version
        && let Some(principal) = app.known.get(version, hash, call, app.clock.now())
    {
        return Ok(Some(Caller::Active(principal)));
    }
    if let Some(principal) = app.callers.get(hash, call, now)
        && pay::can_pay(&principal).is_ok()
    {
        return Ok(Some(Caller::Active(Box::new(Principal::clone(&principal)))));
    }
    let ticket = app.callers.ticket(now);
    let caller = app.catalog.authenticate(hash, call, app.clock.now()).await?;
    if let Some(Caller::Active(principal)) = &caller {
        if let Some(version) = version {
            app.known.put(version, hash, call, principal);
        }
        if let Some(ticket) = ticket {
            app.callers.put(ticket, hash, call, principal);
        }
    }
    Ok(caller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests::principal;

    const CALL: Call = Call::List;

    fn hash(n: usize) -> KeyHash {
        KeyHash::of(&format!("fg-{n}"))
    }

    fn live() -> (Callers, Instant) {
        let callers = Callers::default();
        callers.hears();
        (callers, Instant::now())
    }

    #[test]
    fn an_entry_answers_for_a_second_from_the_beginning_of_its_read() {
        let (callers, began) = live();
        let ticket = callers.ticket(began).unwrap();
        callers.put(ticket, hash(1), CALL, &principal(1, 1));
        let at = |millis| callers.get(hash(1), CALL, began + Duration::from_millis(millis));
        assert_eq!(at(0).unwrap().key_id.0, 1);
        assert!(at(999).is_some() && at(1000).is_none());
        // Of another key or call nothing is known.
        assert!(callers.get(hash(2), CALL, began).is_none());
        assert!(callers.get(hash(1), Call::Upload, began).is_none());
    }

    #[test]
    fn a_read_that_began_before_a_change_is_not_kept_after_it() {
        let (callers, now) = live();
        let ticket = callers.ticket(now).unwrap();
        callers.forget();
        callers.put(ticket, hash(1), CALL, &principal(1, 1));
        assert!(callers.get(hash(1), CALL, now).is_none());
        callers.put(callers.ticket(now).unwrap(), hash(1), CALL, &principal(1, 1));
        assert!(callers.get(hash(1), CALL, now).is_some());
        callers.forget();
        assert!(callers.get(hash(1), CALL, now).is_none());
    }

    #[test]
    fn nothing_is_kept_while_changes_are_not_heard_of() {
        let (callers, now) = live();
        let ticket = callers.ticket(now).unwrap();
        callers.put(ticket, hash(1), CALL, &principal(1, 1));
        callers.is_deaf();
        assert!(callers.get(hash(1), CALL, now).is_none());
        assert!(callers.ticket(now).is_none());
        callers.put(ticket, hash(1), CALL, &principal(1, 1));
        callers.hears();
        assert!(callers.get(hash(1), CALL, now).is_none());
        // A read from before the silence is none of after it.
        callers.put(ticket, hash(1), CALL, &principal(1, 1));
        assert!(callers.get(hash(1), CALL, now).is_none());
    }

    #[test]
    fn never_more_entries_than_the_bound() {
        let (callers, now) = live();
        let ticket = callers.ticket(now).unwrap();
        for n in 0..ENTRIES_MAX + 10 {
            callers.put(ticket, hash(n), CALL, &principal(1, 1));
        }
        assert_eq!(callers.lock().entries.len(), ENTRIES_MAX);
        // Those whose second has passed make room.
        let later = callers.ticket(now + LIFE).unwrap();
        callers.put(later, hash(ENTRIES_MAX + 20), CALL, &principal(1, 1));
        assert_eq!(callers.lock().entries.len(), 1);
    }
}
