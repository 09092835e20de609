//! Places for uploads in progress: of the gateway, of an account, of a key.
//!
//! What a tenant may have at a time is a limit: over it an upload is refused at once. What the gateway
//! has for all is shared in turn: over it an upload waits a little, unread, before it is refused.
//!
//! A tenant's uploads are counted here in any case; where replicas share limits, their leases decide
//! ([`shared::leases`](crate::shared::leases)), and this count while Redis is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use filegate_types::{ApiError, ErrorCode, Principal};

use super::fair::{FairSemaphore, Permit};
use super::{Subject, limits_of};
use crate::shared::Shared;
use crate::shared::leases::Lease;

/// Seconds after which a client that found no place may ask again.
const RETRY_S: u32 = 1;
/// Uploads of one account that wait for a place.
const WAITERS_MAX: usize = 4_096;

/// How many uploads are in progress. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    max: usize,
    /// How long an upload waits for one.
    wait: Duration,
    all: FairSemaphore,
    of: Arc<Mutex<Counts>>,
}

/// Of keys and accounts with an upload in progress or waiting.
type Counts = HashMap<Subject, usize>;

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Permit,
    counted: Counted,
}

/// Uploads that are counted as their tenant's.
#[derive(Debug)]
struct Counted {
    _here: CountedHere,
    /// Where replicas share limits, and one applies.
    lease: Option<Lease>,
}

#[derive(Debug)]
struct CountedHere {
    counts: Arc<Mutex<Counts>>,
    of: [Subject; 2],
}

impl Places {
    /// `max` uploads at a time, of which one account may have [`share`].
    pub(crate) fn new(max: usize, wait: Duration) -> Self {
        let all = FairSemaphore::new(max, share(max), WAITERS_MAX);
        Self { max, wait, all, of: Arc::default() }
    }

    /// A place for an upload of `principal`, or 1002 that says which limit is used up.
    pub(crate) async fn enter(
        &self,
        principal: &Principal,
        shared: Option<&Shared>,
    ) -> Result<Place, ApiError> {
        let counted = self.count(principal, shared).await?;
        let permit = tokio::time::timeout(self.wait, self.all.acquire(principal.account_id)).await;
        if let Ok(Ok(permit)) = permit {
            return Ok(Place { _permit: permit, counted });
        }
        counted.leave().await;
        Err(refused(format_args!(
            "{} uploads are in progress, at most {} of one account",
            self.max,
            share(self.max)
        )))
    }

    /// Counts the upload as one of its key and its account, if they may have one more.
    async fn count(
        &self,
        principal: &Principal,
        shared: Option<&Shared>,
    ) -> Result<Counted, ApiError> {
        let subjects = limits_of(principal);
        let of = subjects.map(|(subject, _)| subject);
        let limited = subjects.into_iter();
        let asked: Vec<(Subject, u32)> = limited
            .filter_map(|(subject, limits)| Some((subject, limits.concurrent_uploads?)))
            .collect();
        let Some(shared) = shared.filter(|_| !asked.is_empty()) else {
            return Ok(Counted { _here: self.count_here(of, &asked)?, lease: None });
        };
        match shared.leases.take(&asked).await {
            Ok(Ok(lease)) => Ok(Counted { _here: self.count_here(of, &[])?, lease: Some(lease) }),
            Ok(Err(over)) => Err(none_left(asked[over])),
            Err(away) => {
                shared.without(away)?;
                let here = self.count_here(of, &asked)?;
                let lease = shared.leases.hold(asked.iter().map(|(subject, _)| *subject));
                Ok(Counted { _here: here, lease: Some(lease) })
            }
        }
    }

    /// Counts it among those of this process, if each of `asked` may have one more.
    fn count_here(
        &self,
        of: [Subject; 2],
        asked: &[(Subject, u32)],
    ) -> Result<CountedHere, ApiError> {
        let mut counts = lock(&self.of);
        for (subject, max) in asked {
            if counts.get(subject).copied().unwrap_or(0) >= *max as usize {
                return Err(none_left((*subject, *max)));
            }
        }
        for subject in of {
            *counts.entry(subject).or_default() += 1;
        }
        Ok(CountedHere { counts: Arc::clone(&self.of), of })
    }
}

impl Place {
    /// Gives it back, and ends when that is known everywhere: the next upload of somebody who waits for
    /// the answer to this one finds it free, whichever replica it goes to.
    pub(crate) async fn leave(self) {
        let Self { _permit, counted } = self;
        counted.leave().await;
    }
}

impl Counted {
    async fn leave(self) {
        if let Some(lease) = self.lease {
            lease.leave().await;
        }
    }
}

fn none_left((subject, max): (Subject, u32)) -> ApiError {
    refused(format_args!("{max} uploads at a time of {subject}"))
}

/// What one account may have of `max` places: a quarter stays free for others.
fn share(max: usize) -> usize {
    max - max / 4
}

fn refused(limit: std::fmt::Arguments<'_>) -> ApiError {
    ApiError::detailed(ErrorCode::RateLimit, format_args!("{limit}, retry in {RETRY_S} s"))
        .retry_after(RETRY_S)
}

impl Drop for CountedHere {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        for subject in self.of {
            if let Some(count) = counts.get_mut(&subject) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&subject);
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

    fn places(max: usize) -> Places {
        Places::new(max, Duration::from_secs(5))
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_leaves_a_quarter_to_others() {
        let places = places(8);
        let mut taken = vec![];
        for _ in 0..6 {
            taken.push(places.enter(&principal(1, 1), None).await.unwrap());
        }
        let refused = places.enter(&principal(1, 1), None).await.unwrap_err();
        assert_eq!(
            refused.message(),
            "rate limit: 8 uploads are in progress, at most 6 of one account, retry in 1 s"
        );
        taken.push(places.enter(&principal(2, 2), None).await.unwrap());
        taken.push(places.enter(&principal(2, 2), None).await.unwrap());
        assert!(places.enter(&principal(3, 3), None).await.is_err());
        let (waiting, own) = (places.clone(), principal(1, 1));
        let waits = async move { waiting.enter(&own, None).await };
        let leaves = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            taken.truncate(5);
        };
        let (entered, ()) = tokio::join!(waits, leaves);
        drop((entered.unwrap(), taken));
        assert!(lock(&places.of).is_empty());
        assert_eq!((share(1), share(2), share(4), share(512)), (1, 2, 3, 384));
    }

    #[tokio::test]
    async fn limits_of_key_and_account_both_hold() {
        let places = places(100);
        let mut one = principal(1, 1);
        one.key_limits.concurrent_uploads = Some(1);
        one.account_limits.concurrent_uploads = Some(2);
        let mut two = one.clone();
        two.key_id = filegate_types::KeyId(2);
        let first = places.enter(&one, None).await.unwrap();
        let refused = places.enter(&one, None).await.unwrap_err();
        assert_eq!(refused.message(), "rate limit: 1 uploads at a time of this key, retry in 1 s");
        let _second = places.enter(&two, None).await.unwrap();
        two.key_id = filegate_types::KeyId(3);
        let refused = places.enter(&two, None).await.unwrap_err();
        assert!(refused.message().contains("2 uploads at a time of this account"), "{refused}");
        drop(first);
        let _again = places.enter(&one, None).await.unwrap();
    }
}
