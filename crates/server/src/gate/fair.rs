//! A semaphore that is fair to accounts: whoever waits is served in turn, one permit for each account
//! and round, however many of an account's calls wait. One account has at most its share of them, so
//! that another finds a permit free.
//!
//! A permit travels to its waiter through a channel. A waiter that is dropped takes its place out of
//! the queue; one that is dropped with the permit already on its way drops the permit with it, which
//! gives it to the next. So nothing is lost, whenever a caller goes away.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filegate_types::AccountId;
use tokio::sync::oneshot;

/// Permits, and who waits for them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct FairSemaphore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Permits and waiters of one account.
    share: usize,
    waiters_max: usize,
    state: Mutex<State>,
}

/// INVARIANT: while a permit is free only accounts that have their share wait; an account is in `round`
/// once if it has a queue, and no queue is empty.
#[derive(Debug)]
struct State {
    free: usize,
    held: HashMap<AccountId, usize>,
    queues: HashMap<AccountId, VecDeque<Waiter>>,
    /// Accounts that wait, in the order in which they are served.
    round: VecDeque<AccountId>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    served: oneshot::Sender<Permit>,
}

/// An account has as many waiters as it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// A place at work, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    inner: Arc<Inner>,
    account: AccountId,
}

impl FairSemaphore {
    /// `permits` at a time, of which one account has at most `share`; `waiters_max` calls of one
    /// account wait at most.
    pub(crate) fn new(permits: usize, share: usize, waiters_max: usize) -> Self {
        let (held, queues, round) = (HashMap::new(), HashMap::new(), VecDeque::new());
        let state = Mutex::new(State { free: permits, held, queues, round, next_id: 0 });
        Self { inner: Arc::new(Inner { share, waiters_max, state }) }
    }

    /// A permit, when it is the account's turn.
    pub(crate) async fn acquire(&self, account: AccountId) -> Result<Permit, QueueFull> {
        let waiting = {
            let mut state = self.inner.lock();
            if state.free > 0 && state.holds(account) < self.inner.share {
                state.grant(account);
                return Ok(Permit { inner: Arc::clone(&self.inner), account });
            }
            let (served, permit) = oneshot::channel();
            let id = state.join(account, served, self.inner.waiters_max)?;
            Waiting { inner: Arc::clone(&self.inner), account, id, permit }
        };
        waiting.permit().await
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn join(
        &mut self,
        account: AccountId,
        served: oneshot::Sender<Permit>,
        waiters_max: usize,
    ) -> Result<u64, QueueFull> {
        let queue = self.queues.entry(account).or_default();
        if queue.is_empty() {
            self.round.push_back(account);
        } else if queue.len() >= waiters_max {
            return Err(QueueFull);
        }
        let id = self.next_id;
        self.next_id += 1;
        queue.push_back(Waiter { id, served });
        Ok(id)
    }

    fn holds(&self, account: AccountId) -> usize {
        self.held.get(&account).copied().unwrap_or(0)
    }

    fn grant(&mut self, account: AccountId) {
        self.free -= 1;
        *self.held.entry(account).or_default() += 1;
    }

    fn give_back(&mut self, account: AccountId) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&account) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&account);
            }
        }
    }

    /// The waiter whose turn it is: of the first account in the round that has not its share.
    fn next(&mut self, share: usize) -> Option<(AccountId, Waiter)> {
        let place = self.round.iter().position(|account| self.holds(*account) < share)?;
        let account = self.round.remove(place)?;
        let queue = self.queues.get_mut(&account)?;
        let waiter = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&account);
        } else {
            self.round.push_back(account);
        }
        waiter.map(|waiter| (account, waiter))
    }

    /// Takes out a waiter that was not served, if it is there.
    fn leave(&mut self, account: AccountId, id: u64) {
        let Some(queue) = self.queues.get_mut(&account) else { return };
        queue.retain(|waiter| waiter.id != id);
        if queue.is_empty() {
            self.queues.remove(&account);
            self.round.retain(|waiting| *waiting != account);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.give_back(self.account);
        // One at most: whoever else could go on had a permit free before.
        let Some((account, waiter)) = state.next(self.inner.share) else { return };
        state.grant(account);
        drop(state);
        // Outside the lock: if the waiter has just gone, this drops the permit and comes back here.
        let _gone = waiter.served.send(Self { inner: Arc::clone(&self.inner), account });
    }
}

/// A call in the queue.
struct Waiting {
    inner: Arc<Inner>,
    account: AccountId,
    id: u64,
    permit: oneshot::Receiver<Permit>,
}

impl Waiting {
    async fn permit(mut self) -> Result<Permit, QueueFull> {
        // The sender is only ever used or taken out by our own drop.
        (&mut self.permit).await.map_err(|_never| QueueFull)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.inner.lock().leave(self.account, self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    type Acquiring = Pin<Box<dyn Future<Output = Result<Permit, QueueFull>>>>;

    fn start(fair: &FairSemaphore, account: i64) -> Acquiring {
        let fair = fair.clone();
        let mut waiting: Acquiring =
            Box::pin(async move { fair.acquire(AccountId(account)).await });
        assert!(poll(&mut waiting).is_none(), "nothing is free");
        waiting
    }

    fn poll(waiting: &mut Acquiring) -> Option<Permit> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit.unwrap()),
            Poll::Pending => None,
        }
    }

    fn take(fair: &FairSemaphore, account: i64) -> Permit {
        let fair = fair.clone();
        let mut now: Acquiring = Box::pin(async move { fair.acquire(AccountId(account)).await });
        poll(&mut now).expect("a permit is free")
    }

    fn at_rest(fair: &FairSemaphore, permits: usize) {
        let state = fair.inner.lock();
        assert_eq!((state.free, state.queues.len(), state.round.len()), (permits, 0, 0));
        assert!(state.held.is_empty());
    }

    #[test]
    fn accounts_are_served_in_turn() {
        let fair = FairSemaphore::new(1, 1, 100);
        let mut permit = take(&fair, 1);
        // Account 1 floods, then 2 and 3 come with two each.
        let accounts = [1, 1, 1, 1, 1, 2, 2, 3, 3];
        let mut waiting: Vec<_> = accounts.iter().map(|a| (*a, start(&fair, *a))).collect();
        let mut served = vec![];
        while !waiting.is_empty() {
            drop(permit);
            let ready = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(i, (account, call))| poll(call).map(|permit| (i, *account, permit)));
            let (i, account, next) = ready.expect("somebody is served");
            served.push(account);
            drop(waiting.remove(i));
            permit = next;
        }
        assert_eq!(served, [1, 2, 3, 1, 2, 3, 1, 1, 1]);
        drop(permit);
        at_rest(&fair, 1);
    }

    #[test]
    fn waiters_of_one_account_are_bounded_and_do_not_fill_anothers_queue() {
        let fair = FairSemaphore::new(1, 1, 2);
        let permit = take(&fair, 1);
        let waiting = [start(&fair, 1), start(&fair, 1)];
        let over = fair.clone();
        let mut third = Box::pin(async move { over.acquire(AccountId(1)).await });
        let polled = third.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Err(QueueFull))));
        let other = start(&fair, 2);
        // One that left makes room.
        let [first, second] = waiting;
        drop(first);
        let again = start(&fair, 1);
        drop((permit, second, other, again, third));
        at_rest(&fair, 1);
    }

    #[test]
    fn an_account_with_its_share_waits_although_permits_are_free() {
        let fair = FairSemaphore::new(4, 2, 9);
        let first = take(&fair, 1);
        let second = take(&fair, 1);
        let mut third = start(&fair, 1);
        let other = take(&fair, 2);
        drop(other);
        assert!(poll(&mut third).is_none());
        drop(first);
        let third = poll(&mut third).expect("its account has less than its share");
        drop((second, third));
        at_rest(&fair, 4);
    }

    #[test]
    fn a_waiter_that_goes_with_its_permit_on_the_way_passes_it_on() {
        let fair = FairSemaphore::new(1, 1, 9);
        let permit = take(&fair, 1);
        let first = start(&fair, 1);
        let mut second = start(&fair, 2);
        drop(permit); // on its way to the first, which never looks
        assert!(poll(&mut second).is_none());
        drop(first);
        let passed_on = poll(&mut second);
        assert!(passed_on.is_some());
        drop((passed_on, second));
        at_rest(&fair, 1);
    }

    proptest! {
        /// Whatever comes, goes, ends and is cut off: never more at work than permits, never a
        /// permit idle while somebody waits, and all of them back in the end.
        #[test]
        fn no_permit_is_lost_or_made(
            permits in 1..4usize,
            share in 1..4usize,
            steps in prop::collection::vec((0..4u8, 0..3i64, any::<prop::sample::Index>()), 0..200),
        ) {
            let fair = FairSemaphore::new(permits, share, 5);
            let mut waiting: Vec<Acquiring> = vec![];
            let mut working: Vec<Permit> = vec![];
            for (step, account, which) in steps {
                match step {
                    0 | 1 => {
                        let own = fair.clone();
                        let mut call: Acquiring =
                            Box::pin(async move { own.acquire(AccountId(account)).await });
                        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                            Poll::Ready(Ok(permit)) => working.push(permit),
                            Poll::Ready(Err(QueueFull)) => {}
                            Poll::Pending => waiting.push(call),
                        }
                    }
                    2 if !working.is_empty() => drop(working.swap_remove(which.index(working.len()))),
                    3 if !waiting.is_empty() => drop(waiting.swap_remove(which.index(waiting.len()))),
                    _ => {}
                }
                // Half of the time the served do not look at once.
                if step % 2 == 0 {
                    let mut still = vec![];
                    for mut call in waiting {
                        match poll(&mut call) {
                            Some(permit) => working.push(permit),
                            None => still.push(call),
                        }
                    }
                    waiting = still;
                    let state = fair.inner.lock();
                    let stuck = |account: &AccountId| state.holds(*account) >= share;
                    prop_assert!(state.free == 0 || state.round.iter().all(stuck));
                    prop_assert!(state.held.values().all(|held| *held <= share));
                }
                prop_assert!(working.len() <= permits);
            }
            drop(waiting);
            drop(working);
            at_rest(&fair, permits);
        }
    }
}
