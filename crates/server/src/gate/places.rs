//! Places for uploads in progress: of the gateway, of an account, of a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filegate_types::{ApiError, ErrorCode, Principal};

use super::Subject;

/// Seconds after which a client that found no place may ask again.
const RETRY_S: u32 = 1;

/// How many uploads are in progress. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    max: usize,
    counts: Arc<Mutex<Counts>>,
}

/// Not more entries than two for each upload in progress.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<Subject, usize>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    counts: Arc<Mutex<Counts>>,
    of: [Subject; 2],
}

impl Places {
    /// `max` uploads at a time, of which one account may have [`share`].
    pub(crate) fn new(max: usize) -> Self {
        Self { max, counts: Arc::default() }
    }

    /// A place for an upload of `principal`, or 1002 that says which limit is used up.
    pub(crate) fn enter(&self, principal: &Principal) -> Result<Place, ApiError> {
        let of = [Subject::Key(principal.key_id), Subject::Account(principal.account_id)];
        let own = [&principal.key_limits, &principal.account_limits];
        let mut counts = lock(&self.counts);
        for (subject, limits) in of.iter().zip(own) {
            if let Some(max) = limits.concurrent_uploads
                && counts.of(*subject) >= max as usize
            {
                return Err(refused(format_args!("{max} uploads at a time of {subject}")));
            }
        }
        if counts.all >= self.max {
            return Err(refused(format_args!("{} uploads are in progress", self.max)));
        }
        let share = share(self.max);
        if counts.of(of[1]) >= share {
            return Err(refused(format_args!(
                "{share} uploads of this account are in progress, the rest is for others"
            )));
        }
        counts.all += 1;
        for subject in of {
            *counts.of.entry(subject).or_default() += 1;
        }
        Ok(Place { counts: Arc::clone(&self.counts), of })
    }
}

/// What one account may have of `max` places: a quarter stays free for others.
fn share(max: usize) -> usize {
    max - max / 4
}

fn refused(limit: std::fmt::Arguments<'_>) -> ApiError {
    ApiError::detailed(ErrorCode::RateLimit, format_args!("{limit}, retry in {RETRY_S} s"))
        .retry_after(RETRY_S)
}

impl Counts {
    fn of(&self, subject: Subject) -> usize {
        self.of.get(&subject).copied().unwrap_or(0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.all -= 1;
        for subject in self.of {
            if let Some(count) = counts.of.get_mut(&subject) {
                *count -= 1;
                if *count == 0 {
                    counts.of.remove(&subject);
                }
            }
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::tests::principal;
    use super::*;

    #[test]
    fn an_account_leaves_a_quarter_to_others() {
        let places = Places::new(8);
        let mut taken: Vec<_> = (0..6).map(|_| places.enter(&principal(1, 1)).unwrap()).collect();
        let refused = places.enter(&principal(1, 1)).unwrap_err();
        assert_eq!(
            refused.message(),
            "rate limit: 6 uploads of this account are in progress, the rest is for others, retry in 1 s"
        );
        taken.push(places.enter(&principal(2, 2)).unwrap());
        taken.push(places.enter(&principal(2, 2)).unwrap());
        let refused = places.enter(&principal(3, 3)).unwrap_err();
        assert_eq!(refused.message(), "rate limit: 8 uploads are in progress, retry in 1 s");
        drop(taken);
        assert_eq!((lock(&places.counts).all, lock(&places.counts).of.len()), (0, 0));
        assert_eq!((share(1), share(2), share(4), share(512)), (1, 2, 3, 384));
    }

    #[test]
    fn limits_of_key_and_account_both_hold() {
        let places = Places::new(100);
        let mut one = principal(1, 1);
        one.key_limits.concurrent_uploads = Some(1);
        one.account_limits.concurrent_uploads = Some(2);
        let mut two = one.clone();
        two.key_id = filegate_types::KeyId(2);
        let first = places.enter(&one).unwrap();
        assert_eq!(
            places.enter(&one).unwrap_err().message(),
            "rate limit: 1 uploads at a time of this key, retry in 1 s"
        );
        let _second = places.enter(&two).unwrap();
        two.key_id = filegate_types::KeyId(3);
        assert!(
            places
                .enter(&two)
                .unwrap_err()
                .message()
                .contains("2 uploads at a time of this account")
        );
        drop(first);
        let _again = places.enter(&one).unwrap();
    }
}
