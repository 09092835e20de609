//! A task that wakes itself is polled again in place.
//!
//! Within a connection's task a request's body goes through a channel from the connection to the handler, and a
//! channel's connection is moved by the call that uses it, so each wakes the other while both are being polled. The
//! runtime takes that for a wish to let others go first: it queues the task and wakes another thread to look after the
//! queue, for every request. Going round again at once, a few times at most, is what was meant.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often a task goes round before it lets others go first.
const ROUNDS_MAX: usize = 8;

/// Polls again in place what was woken while it was polled.
#[derive(Debug)]
pub(crate) struct Rounds {
    bell: Arc<Bell>,
    /// Rings `bell`. It is the same each time, so that who has it need not be given it anew.
    waker: Waker,
}

/// A future that goes round in place.
pub(crate) struct InPlace<F> {
    future: F,
    rounds: Rounds,
}

#[derive(Debug, Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Nothing is being polled.
const RESTS: u8 = 0;
/// Something is.
const POLLED: u8 = 1;
/// It was woken meanwhile.
const RUNG: u8 = 2;

impl Default for Rounds {
    fn default() -> Self {
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        Self { bell, waker }
    }
}

impl Rounds {
    /// Polls with `poll`, again for as long as it is not ready and was woken by itself.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { bell, waker } = self;
        bell.task.register(cx.waker());
        for _ in 0..ROUNDS_MAX {
            bell.state.store(POLLED, Ordering::SeqCst);
            let polled = poll(&mut Context::from_waker(waker));
            // From here on a ring wakes the task.
            let rung = bell.state.swap(RESTS, Ordering::SeqCst) == RUNG;
            if polled.is_ready() || !rung {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<F> InPlace<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { future, rounds: Rounds::default() }
    }
}

impl<F: Future + Unpin> Future for InPlace<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, rounds } = &mut *self;
        rounds.poll(cx, |cx| Pin::new(&mut *future).poll(cx))
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
        let mut rounds = InPlace::new(poll_fn(|cx| {
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
        let mut rounds = InPlace::new(told);
        let mut cx = Context::from_waker(&waker);
        assert!(rounds.poll_unpin(&mut cx).is_pending() && rounds.poll_unpin(&mut cx).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        tells.send(1).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(rounds.poll_unpin(&mut cx), Poll::Ready(Ok(1)));
    }
}
