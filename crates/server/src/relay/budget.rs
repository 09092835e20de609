//! How many calls may be sent again: when every channel ails, trying each call on all of them makes it worse.

use std::sync::{Mutex, PoisonError};

use filegate_types::UnixMillis;

/// Seconds that are looked back.
const SECONDS: usize = 10;
/// What always may be, in that time.
const ALWAYS: u32 = 10;

/// Calls of the last seconds, and how many of them were sent again.
#[derive(Debug, Default)]
pub(crate) struct Budget(Mutex<[Second; SECONDS]>);

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    at: i64,
    calls: u32,
    again: u32,
}

impl Budget {
    /// A call came.
    pub(crate) fn call(&self, now: UnixMillis) {
        self.with(now, |second, _| second.calls += 1);
    }

    /// Whether one may be sent again, of which `percent` of all may; if so it counts as sent.
    pub(crate) fn again(&self, now: UnixMillis, percent: u32) -> bool {
        self.with(now, |second, (calls, again)| {
            let most = (u64::from(calls) * u64::from(percent) / 100).max(ALWAYS.into());
            let may = u64::from(again) < most;
            second.again += u32::from(may);
            may
        })
    }

    fn with<T>(&self, now: UnixMillis, then: impl FnOnce(&mut Second, (u32, u32)) -> T) -> T {
        let mut seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.seconds();
        let oldest = at - SECONDS as i64;
        let sum = seconds.iter().filter(|second| second.at > oldest && second.at <= at);
        let sum = sum.fold((0, 0), |(calls, again), s| (calls + s.calls, again + s.again));
        let second = &mut seconds[at.rem_euclid(SECONDS as i64) as usize];
        if second.at != at {
            *second = Second { at, calls: 0, again: 0 };
        }
        then(second, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_always_may_and_then_a_share_of_what_came() {
        let budget = Budget::default();
        let now = |seconds: i64| UnixMillis(seconds * 1000);
        let granted = |at: i64| (0..1000).filter(|_| budget.again(now(at), 20)).count();
        assert_eq!(granted(100), 10);
        assert_eq!(granted(105), 0);
        for _ in 0..100 {
            budget.call(now(105));
        }
        assert_eq!(granted(105), 10);
        assert_eq!(granted(109), 0);
        // What was sent again in second 100 is forgotten, what was in 105 is not.
        assert_eq!(granted(110), 10);
        assert_eq!(granted(120), 10);
    }
}
