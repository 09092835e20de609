//! The emulator's time: the machine's, moved on by what was asked, or standing until it is moved.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use filegate_types::{Clock as _, SystemClock, UnixMillis};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Where a clock that stands begins: 2026-01-01T00:00:00Z.
const STANDING_START: UnixMillis = UnixMillis(1_767_225_600_000);

/// The furthest that one call may move the clock: ten years.
pub(crate) const ADVANCE_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// How time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockMode {
    /// With the machine's clock, plus what it was moved on.
    Running,
    /// Only when it is moved on, from 2026-01-01T00:00:00Z.
    Standing,
}

#[derive(Debug)]
pub(crate) struct Clock {
    mode: ClockMode,
    advanced_ms: AtomicI64,
    moved: Notify,
}

impl Clock {
    pub(crate) fn new(mode: ClockMode) -> Self {
        Self { mode, advanced_ms: AtomicI64::new(0), moved: Notify::new() }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        let base = match self.mode {
            ClockMode::Running => SystemClock.now(),
            ClockMode::Standing => STANDING_START,
        };
        UnixMillis(base.0.saturating_add(self.advanced_ms.load(Ordering::Relaxed)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let by = i64::try_from(by.min(ADVANCE_MAX).as_millis()).unwrap_or(i64::MAX);
        let _previous = self
            .advanced_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ms| Some(ms.saturating_add(by)));
        self.moved.notify_waiters();
    }

    /// Notices each move of the clock from now on. Taken before looking at what is due, so that nothing is missed.
    pub(crate) fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// Waits until the clock shows `at` or was moved; a clock that stands shows nothing new until it is moved.
    pub(crate) async fn until(&self, at: Option<UnixMillis>, moved: Notified<'_>) {
        match (self.mode, at) {
            (ClockMode::Running, Some(at)) => {
                let wait = u64::try_from(at.0.saturating_sub(self.now().0)).unwrap_or(0);
                let _either = tokio::time::timeout(Duration::from_millis(wait), moved).await;
            }
            _ => moved.await,
        }
    }

    /// Something that depends on the clock has changed.
    pub(crate) fn nudge(&self) {
        self.moved.notify_waiters();
    }
}
