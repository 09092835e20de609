//! Work that is done in its order, by one thread at a time, without a thread that waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Jobs on something that one thread at a time may have. Whoever [adds](Self::add) a job while nobody works has somebody
/// [run](Self::run); who works goes on until nothing is left, so that a thread is woken only after a pause.
#[derive(Debug)]
pub(super) struct Strand<S, J>(Arc<Mutex<Inner<S, J>>>);

#[derive(Debug)]
struct Inner<S, J> {
    /// None while somebody works on it; for ever if that panicked.
    state: Option<S>,
    jobs: VecDeque<J>,
    running: bool,
}

impl<S, J> Clone for Strand<S, J> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, J> Strand<S, J> {
    pub(super) fn new(state: S) -> Self {
        let inner = Inner { state: Some(state), jobs: VecDeque::new(), running: false };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Adds a job; true if somebody has to [run](Self::run). After a panic it is dropped.
    #[must_use]
    pub(super) fn add(&self, job: J) -> bool {
        let mut inner = self.inner();
        if !inner.running && inner.state.is_none() {
            return false;
        }
        inner.jobs.push_back(job);
        !std::mem::replace(&mut inner.running, true)
    }

    /// Does `work` for each job until nothing is left. When the last job is dropped, the state can be had. Blocks as `work`
    /// does.
    pub(super) fn run(&self, mut work: impl FnMut(&mut S, &J)) {
        while let Some(mut turn) = self.turn() {
            let (state, job) = turn.parts();
            work(state, job);
            if !turn.end() {
                return;
            }
        }
    }

    /// The next job, for who has to [run](Self::run) them and does one at a time; `None` if there is none.
    pub(super) fn turn(&self) -> Option<Turn<S, J>> {
        let mut inner = self.inner();
        let job = inner.jobs.pop_front()?;
        let work = inner.state.take().map(|state| (state, job));
        drop(inner);
        work.map(|work| Turn { strand: self.clone(), work: Some(work) })
    }

    /// What was worked on, when all jobs are done; `None` if one panicked.
    pub(super) fn into_state(self) -> Option<S> {
        self.inner().state.take()
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S, J>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job under way. One that is dropped before its [end](Self::end) was lost in a panic: then nobody waits for what was still
/// to be done.
#[derive(Debug)]
pub(super) struct Turn<S, J> {
    strand: Strand<S, J>,
    /// Always there until the end.
    work: Option<(S, J)>,
}

impl<S, J> Turn<S, J> {
    /// What is worked on, and the job.
    pub(super) fn parts(&mut self) -> (&mut S, &J) {
        let (state, job) = self.work.as_mut().expect("a turn that has not ended");
        (state, job)
    }

    /// The job is done. True if there are more.
    #[must_use]
    pub(super) fn end(mut self) -> bool {
        let Some((state, job)) = self.work.take() else { return false };
        let mut inner = self.strand.inner();
        inner.state = Some(state);
        inner.running = !inner.jobs.is_empty();
        let more = inner.running;
        drop(inner);
        // Who is told by that finds the state there.
        drop(job);
        more
    }
}

impl<S, J> Drop for Turn<S, J> {
    fn drop(&mut self) {
        if self.work.is_some() {
            let mut inner = self.strand.inner();
            inner.running = false;
            let jobs = std::mem::take(&mut inner.jobs);
            drop(inner);
            drop(jobs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn jobs_are_done_in_their_order_whoever_runs_them() {
        let strand = Strand::new(Vec::with_capacity(1000));
        thread::scope(|scope| {
            for job in 0..1000 {
                if strand.add(job) {
                    scope.spawn(|| strand.run(|done, job| done.push(*job)));
                }
            }
        });
        assert_eq!(strand.into_state().unwrap(), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn the_state_can_be_had_when_the_last_job_is_dropped() {
        struct Told(mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        for _ in 0..200 {
            let (tell, told) = mpsc::channel();
            let strand = Strand::new(0);
            assert!(strand.add(Told(tell.clone())));
            let runner = strand.clone();
            let thread = thread::spawn(move || runner.run(|done, _| *done += 1));
            told.recv().unwrap();
            assert_eq!(strand.into_state(), Some(1));
            thread.join().unwrap();
        }
    }

    #[test]
    fn after_a_panic_jobs_are_dropped_and_the_state_is_gone() {
        let strand = Strand::new(());
        let job = Arc::new(());
        assert!(strand.add(Arc::clone(&job)));
        assert!(!strand.add(Arc::clone(&job)));
        let ran = catch_unwind(AssertUnwindSafe(|| strand.run(|(), _| panic!("on purpose"))));
        assert!(ran.is_err());
        assert!(!strand.add(Arc::clone(&job)));
        assert_eq!(Arc::strong_count(&job), 1);
        assert_eq!(strand.into_state(), None);
    }
}
