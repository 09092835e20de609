//! A task that wakes itself is polled again in place.
//!
//! Within a connection's task a request's body goes through a channel from the connection to the handler, so each wakes
//! the other while both are being polled. The runtime takes that for a wish to let others go first: it queues the
//! task and wakes another thread to look after the queue, for every request. Going round again at once, a few times at
//! most, is what was meant.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often a task goes round before it lets others go first.
const ROUNDS_MAX: usize = 8;

/// A future that is polled again in place if it was woken while it was polled.
pub(crate) struct Rounds<F> {
    future: F,
    bell: Arc<Bell>,
    /// Rings `bell`. It is the same each time, so that who has it need not be given it anew.
    waker: Waker,
}

#[derive(Debug, Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

/// The future is not being polled.
const RESTS: u8 = 0;
/// It is.
const POLLED: u8 = 1;
/// It was woken meanwhile.
const RUNG: u8 = 2;

impl<F> Rounds<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        Self { future, bell, waker }
    }
}

impl<F: Future + Unpin> Future for Rounds<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, bell, waker } = &mut *self;
        bell.task.register(cx.waker());
        for _ in 0..ROUNDS_MAX {
            bell.state.store(POLLED, Ordering::SeqCst);
            let polled = Pin::new(&mut *future).poll(&mut Context::from_waker(waker));
            if polled.is_ready() {
                return polled;
            }
            // From here on a ring wakes the task.
            if bell.state.swap(RESTS, Ordering::SeqCst) != RUNG {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let polled = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
            (state != RESTS).then_some(RUNG)
        });
        if polled.is_err() {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_wakes_itself_goes_round_at_once_but_not_for_ever() {
        let woken = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut polls = 0;
        let mut rounds = Rounds::new(poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 3 || polls == 100 { Poll::Ready(polls) } else { Poll::Pending }
        }));
        assert_eq!(rounds.poll_unpin(&mut Context::from_waker(&waker)), Poll::Ready(3));
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert!(rounds.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        drop(rounds);
        assert_eq!((polls, woken.0.load(Ordering::SeqCst)), (3 + ROUNDS_MAX, 1));
    }

    #[test]
    fn who_is_woken_by_others_wakes_its_task() {
        let woken = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let (tells, told) = oneshot::channel();
        let mut rounds = Rounds::new(told);
        let mut cx = Context::from_waker(&waker);
        assert!(rounds.poll_unpin(&mut cx).is_pending() && rounds.poll_unpin(&mut cx).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        tells.send(1).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(rounds.poll_unpin(&mut cx), Poll::Ready(Ok(1)));
    }
}
