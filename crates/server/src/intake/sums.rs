//! Summing what large uploads have received, two of them at a time where there are as many.
//!
//! SHA-256 is nearly half of the processor time of a large upload, and [two hashes](Summer::update_both) on one thread take
//! less of it than one after the other. So uploads that have something to be summed stand in a row, and few threads go along
//! it: what comes while they are busy is next to another when it is its turn.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use filegate_store::blobs::Summer;

use super::strand::Strand;
use crate::lifecycle::Tasks;

/// An upload's sums, and the pieces that they are still to be of.
pub(super) type Summed<P> = Strand<Summer, Arc<P>>;

/// Those that have something to be summed. Clones are the same.
#[derive(Debug)]
pub(super) struct Sums<P>(Arc<Mutex<Row<P>>>);

#[derive(Debug)]
struct Row<P> {
    waiting: VecDeque<Summed<P>>,
    /// Threads that go along it.
    threads: usize,
    threads_max: usize,
}

impl<P> Clone for Sums<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> Default for Sums<P> {
    fn default() -> Self {
        // Half of what there is: the more threads the fewer of those that wait meet another.
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads_max = processors.div_ceil(2);
        Self(Arc::new(Mutex::new(Row { waiting: VecDeque::new(), threads: 0, threads_max })))
    }
}

impl<P: AsRef<[u8]> + Send + Sync + 'static> Sums<P> {
    /// Has `piece` summed after those that were added to `strand` before. It is dropped when that is done.
    pub(super) fn add(&self, tasks: &Tasks, strand: &Summed<P>, piece: Arc<P>) {
        if strand.add(piece) && self.enter(strand.clone()) {
            let sums = self.clone();
            tasks.blocking(move || sums.run());
        }
    }

    /// Puts `strand` into the row. True if another thread has to [run](Self::run).
    fn enter(&self, strand: Summed<P>) -> bool {
        let mut row = self.row();
        row.waiting.push_back(strand);
        let more = row.threads < row.threads_max;
        row.threads += usize::from(more);
        more
    }

    /// Sums until nobody waits.
    fn run(&self) {
        while let Some((one, other)) = self.next() {
            // A panic is those uploads' whose pieces it was about: their turns are lost with it.
            let left = catch_unwind(AssertUnwindSafe(|| sum(&one, other.as_ref())));
            let (ones, others) = left.unwrap_or_default();
            let mut row = self.row();
            row.waiting.extend(Some(one).filter(|_| ones));
            row.waiting.extend(other.filter(|_| others));
        }
    }

    /// Whose turn it is; `None` if nobody waits, and then the thread is gone.
    fn next(&self) -> Option<(Summed<P>, Option<Summed<P>>)> {
        let mut row = self.row();
        let Some(one) = row.waiting.pop_front() else {
            row.threads -= 1;
            return None;
        };
        let other = row.waiting.pop_front();
        Some((one, other))
    }

    fn row(&self) -> MutexGuard<'_, Row<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sums a piece of each; says which have more.
fn sum<P: AsRef<[u8]>>(one: &Summed<P>, other: Option<&Summed<P>>) -> (bool, bool) {
    match (one.turn(), other.and_then(Strand::turn)) {
        (Some(mut one), Some(mut other)) => {
            let ((summer, piece), (others, piece_of_other)) = (one.parts(), other.parts());
            Summer::update_both(
                (summer, piece.as_ref().as_ref()),
                (others, piece_of_other.as_ref().as_ref()),
            );
            (one.end(), other.end())
        }
        (Some(mut alone), None) => {
            let (summer, piece) = alone.parts();
            summer.update(piece.as_ref().as_ref());
            (alone.end(), false)
        }
        (None, Some(mut alone)) => {
            let (summer, piece) = alone.parts();
            summer.update(piece.as_ref().as_ref());
            (false, alone.end())
        }
        (None, None) => (false, false),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A piece that tells when it is done with, or panics when it is looked at.
    #[derive(Debug)]
    struct Told(Vec<u8>, mpsc::Sender<usize>, bool);

    impl Told {
        fn arc(bytes: Vec<u8>, tell: &mpsc::Sender<usize>, panics: bool) -> Arc<Self> {
            Arc::new(Self(bytes, tell.clone(), panics))
        }
    }

    impl AsRef<[u8]> for Told {
        fn as_ref(&self) -> &[u8] {
            assert!(!self.2, "on purpose");
            &self.0
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.1.send(self.0.len()).unwrap();
        }
    }

    #[tokio::test]
    async fn each_upload_has_the_sums_of_its_own_pieces() {
        let (tasks, sums) = (Tasks::default(), Sums::default());
        let (tell, told) = mpsc::channel();
        let strands: Vec<_> = (0..9).map(|_| Strand::new(Summer::default())).collect();
        for step in 0..40_u8 {
            for (upload, strand) in strands.iter().enumerate() {
                let piece = vec![step; 1000 * upload + 77 * usize::from(step)];
                sums.add(&tasks, strand, Told::arc(piece, &tell, false));
            }
        }
        assert_eq!(told.iter().take(9 * 40).count(), 9 * 40);
        for (upload, strand) in strands.into_iter().enumerate() {
            let mut alone = Summer::default();
            for step in 0..40_u8 {
                alone.update(&vec![step; 1000 * upload + 77 * usize::from(step)]);
            }
            assert_eq!(strand.into_state().unwrap().finish(), alone.finish());
        }
        let row = sums.row();
        assert!(row.threads <= row.threads_max && row.waiting.is_empty());
    }

    #[tokio::test]
    async fn a_panic_ends_the_uploads_that_it_was_about_and_no_other() {
        let (tasks, sums) = (Tasks::default(), Sums::default());
        let (tell, told) = mpsc::channel();
        let broken = Strand::new(Summer::default());
        sums.add(&tasks, &broken, Told::arc(vec![1], &tell, true));
        assert_eq!(told.recv(), Ok(1));
        assert!(broken.into_state().is_none());
        let whole = Strand::new(Summer::default());
        sums.add(&tasks, &whole, Told::arc(vec![2; 2], &tell, false));
        assert_eq!(told.recv(), Ok(2));
        assert_eq!(whole.into_state().unwrap().bytes(), 2);
    }
}
