//! Summing small uploads, two of them at a time where that costs nobody time.
//!
//! SHA-256 is a quarter of what a small upload takes of the processor, and [two hashes](SmallBlob::sum_both) on one thread take
//! less than one after the other. Who lands uploads is at it for a while, and what comes meanwhile waits for the next write
//! anyhow. So it can wait for another, and is summed by whose thread comes second; or by who lands, when nothing else is left
//! to be written.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filegate_store::{BlobSum, SmallBlob};

/// Small uploads that are to be summed. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Pairs(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// It waits for another.
    one: Option<Unsummed>,
    /// Those who land now, and will look whether one is left.
    landers: usize,
}

/// An upload that is to be summed.
pub(super) struct Unsummed {
    pub(super) small: SmallBlob,
    /// Goes on with it; true if somebody has to land it.
    pub(super) then: Box<dyn FnOnce(SmallBlob, BlobSum) -> bool + Send>,
}

/// Somebody who lands.
#[derive(Debug)]
pub(super) struct Lander {
    pairs: Pairs,
    /// Whether it still does.
    lands: bool,
}

impl Pairs {
    /// Sums an upload, beside another if one waits, and goes on with both; or leaves it to who comes next, or who lands. True
    /// if somebody has to land.
    pub(super) fn sum(&self, one: Unsummed) -> bool {
        let mut inner = self.inner();
        let Some(other) = inner.one.take() else {
            if inner.landers == 0 {
                drop(inner);
                return one.sum();
            }
            inner.one = Some(one);
            return false;
        };
        drop(inner);
        let (sum_of_other, sum) = SmallBlob::sum_both(&other.small, &one.small);
        let lands_other = (other.then)(other.small, sum_of_other);
        (one.then)(one.small, sum) || lands_other
    }

    /// Somebody lands from now on.
    pub(super) fn lander(&self) -> Lander {
        self.inner().landers += 1;
        Lander { pairs: self.clone(), lands: true }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsummed {
    /// As [`Pairs::sum`], without another.
    pub(super) fn sum(self) -> bool {
        let sum = self.small.sum();
        (self.then)(self.small, sum)
    }
}

impl fmt::Debug for Unsummed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsummed").field("bytes", &self.small.len()).finish_non_exhaustive()
    }
}

impl Lander {
    /// One that still waits for another, after all else has landed. If there is none, this is no lander any more.
    pub(super) fn left(&mut self) -> Option<Unsummed> {
        let mut inner = self.pairs.inner();
        let left = inner.one.take();
        if left.is_none() {
            inner.landers -= 1;
            self.lands = false;
        }
        left
    }
}

impl Drop for Lander {
    /// It panicked, or never ran: then perhaps nobody else looks for what waits.
    fn drop(&mut self) {
        if self.lands {
            let mut inner = self.pairs.inner();
            inner.landers -= 1;
            let lost = if inner.landers == 0 { inner.one.take() } else { None };
            drop(inner);
            drop(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Of so many bytes; tells of its sums.
    fn unsummed(bytes: usize, tell: &mpsc::Sender<(usize, bool)>) -> Unsummed {
        let tell = tell.clone();
        let then = Box::new(move |small: SmallBlob, sum: BlobSum| {
            tell.send((small.len(), sum == small.sum())).unwrap();
            small.len() > 5
        });
        Unsummed { small: vec![7; bytes].into(), then }
    }

    #[test]
    fn an_upload_waits_for_another_only_while_somebody_lands() {
        let (pairs, (tell, told)) = (Pairs::default(), mpsc::channel());
        assert!(!pairs.sum(unsummed(1, &tell)));
        assert!(pairs.sum(unsummed(6, &tell)));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(1, true), (6, true)]);

        let mut lander = pairs.lander();
        assert!(!pairs.sum(unsummed(9, &tell)));
        assert_eq!(told.try_iter().count(), 0);
        assert!(pairs.sum(unsummed(2, &tell)), "of the two one has to be landed");
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(9, true), (2, true)]);

        assert!(!pairs.sum(unsummed(3, &tell)));
        assert!(!lander.left().unwrap().sum());
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(3, true)]);
        assert!(lander.left().is_none());
        assert!(!pairs.sum(unsummed(4, &tell)));
        drop(lander);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(4, true)]);
        assert_eq!(pairs.inner().landers, 0);
    }

    #[test]
    fn nobody_waits_for_a_lander_that_is_gone() {
        let (pairs, (tell, told)) = (Pairs::default(), mpsc::channel());
        let (one, other) = (pairs.lander(), pairs.lander());
        assert!(!pairs.sum(unsummed(9, &tell)));
        drop(one);
        assert!(pairs.inner().one.is_some(), "the other looks");
        drop(other);
        drop(tell);
        assert!(told.recv().is_err(), "it was dropped, and nothing told");
        assert!(pairs.inner().one.is_none() && pairs.inner().landers == 0);
    }
}
