//! What keys and accounts have used of their minute (GCRA, by the `governor` crate).
//!
//! State is kept for a key or account only while it differs from that of one that was never seen, so
//! forgetting an idle one changes nothing. Limits come with each call, as the catalog has them: one
//! that was changed starts anew.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use filegate_types::tenant::TenantLimits;
use filegate_types::units::Bytes;
use filegate_types::{ApiError, ErrorCode};
use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::Subject;

const MINUTE: Duration = Duration::from_mins(1);
/// Keys and accounts whose state is kept; beyond it the half that was used least lately is forgotten.
const METERS_MAX: usize = 100_000;
/// The largest burst in cells: a minute for each still fits the limiter's clock.
const CELLS_MAX: u32 = 1 << 20;

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>;

/// The meters of all keys and accounts.
pub(crate) struct Meters<C: Clock = DefaultClock> {
    clock: C,
    meters: Mutex<HashMap<Subject, Meter<C>>>,
}

/// What is left of a request limit, for the RateLimit headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests in a minute.
    pub(crate) per_minute: u32,
    /// Requests that may come at once now.
    pub(crate) remaining: u32,
    /// Seconds until nothing is used any more.
    pub(crate) reset_s: u64,
}

struct Meter<C: Clock> {
    requests: Option<Requests<C>>,
    bytes: Option<Volume<C>>,
    used_at: C::Instant,
}

struct Requests<C: Clock> {
    rate: Rate,
    limiter: Limiter<C>,
}

struct Volume<C: Clock> {
    per_minute: Bytes,
    cells: Cells,
    limiter: Limiter<C>,
    /// Cells that came without a declared length and are not charged yet.
    owed: u64,
}

/// A limit on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Requests in a minute.
    pub(crate) per_minute: u32,
    /// Requests that may come at once.
    pub(crate) burst: u32,
}

/// Bytes, in cells of a size that lets a whole minute fit [`CELLS_MAX`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cells {
    /// Bytes of one.
    size: u64,
    /// Cells of a minute.
    pub(crate) count: u32,
}

impl Meters {
    /// Meters that nothing has used.
    pub(crate) fn new() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock + Clone> Meters<C> {
    fn with_clock(clock: C) -> Self {
        Self { clock, meters: Mutex::default() }
    }

    /// Counts a request, or says 1002; and what is left, if requests are limited at all.
    pub(crate) fn request(
        &self,
        subject: Subject,
        limits: &TenantLimits,
    ) -> (Option<Allowance>, Result<(), ApiError>) {
        let Some(rate) = Rate::of(limits) else { return (None, Ok(())) };
        if rate.per_minute == 0 {
            return (Some(rate.nothing_left()), Err(rate.used_up(subject, MINUTE.as_secs())));
        }
        let mut meters = self.lock();
        let meter = self.meter(&mut meters, subject);
        let _changed = meter.requests.take_if(|known| known.rate != rate);
        let requests = meter.requests.get_or_insert_with(|| {
            let limiter = self.limiter(rate.each(), rate.burst);
            Requests { rate, limiter }
        });
        match requests.limiter.check() {
            Ok(state) => (Some(rate.allowance(state.remaining_burst_capacity())), Ok(())),
            Err(not_until) => {
                let wait = whole_seconds(not_until.wait_time_from(self.clock.now()));
                (Some(rate.nothing_left()), Err(rate.used_up(subject, wait)))
            }
        }
    }

    /// Charges the bytes of an upload before it is read, at most a minute's worth; of one without a
    /// declared length a first cell, so that it is refused when nothing is left.
    pub(crate) fn upload(
        &self,
        subject: Subject,
        per_minute: Bytes,
        declared: Option<u64>,
    ) -> Result<(), ApiError> {
        let used_up = |wait_s: u64| bytes_used_up(subject, per_minute, wait_s);
        if per_minute.0 == 0 {
            return Err(used_up(MINUTE.as_secs()));
        }
        let mut meters = self.lock();
        let volume = self.volume(&mut meters, subject, per_minute);
        let charge = volume.cells.of(declared.unwrap_or(1));
        let (each, count) = (volume.cells.each(), u64::from(volume.cells.count));
        // What is owed comes first, a minute's worth at a time.
        while let Some(part) = NonZeroU32::new(volume.owed.min(count) as u32) {
            let left = volume.owed - u64::from(part.get());
            volume.charge(part, &self.clock).map_err(|wait| {
                let behind = u32::try_from(left + u64::from(charge.get())).unwrap_or(u32::MAX);
                used_up(whole_seconds(wait + each * behind))
            })?;
            volume.owed = left;
        }
        volume.charge(charge, &self.clock).map_err(|wait| used_up(whole_seconds(wait)))
    }

    /// Notes what came of an upload without a declared length: it is charged before the next one.
    pub(crate) fn received(&self, subject: Subject, per_minute: Bytes, bytes: u64) {
        if per_minute.0 == 0 || bytes == 0 {
            return;
        }
        let mut meters = self.lock();
        let volume = self.volume(&mut meters, subject, per_minute);
        // One cell of it was charged when it was let in.
        let cells = u64::from(volume.cells.of(bytes).get()) - 1;
        volume.owed += cells;
        if let Some(all) = u32::try_from(volume.owed).ok().and_then(NonZeroU32::new)
            && all.get() <= volume.cells.count
            && volume.charge(all, &self.clock).is_ok()
        {
            volume.owed = 0;
        }
    }

    /// Forgets who is back to having used nothing.
    pub(crate) fn shrink(&self) {
        let now = self.clock.now();
        let mut meters = self.lock();
        meters.retain(|_, meter| now_since(now, meter.used_at) <= meter.recovery());
        if meters.capacity() > 4 * meters.len().max(1024) {
            meters.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Meter<C>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meter<'a>(
        &self,
        meters: &'a mut HashMap<Subject, Meter<C>>,
        subject: Subject,
    ) -> &'a mut Meter<C> {
        let now = self.clock.now();
        if meters.len() >= METERS_MAX && !meters.contains_key(&subject) {
            let mut ages: Vec<_> =
                meters.values().map(|meter| now_since(now, meter.used_at)).collect();
            let middle = ages.len() / 2;
            let median = *ages.select_nth_unstable(middle).1;
            meters.retain(|_, meter| now_since(now, meter.used_at) < median);
        }
        let meter =
            meters.entry(subject).or_insert(Meter { requests: None, bytes: None, used_at: now });
        meter.used_at = now;
        meter
    }

    fn volume<'a>(
        &self,
        meters: &'a mut HashMap<Subject, Meter<C>>,
        subject: Subject,
        per_minute: Bytes,
    ) -> &'a mut Volume<C> {
        let meter = self.meter(meters, subject);
        let _changed = meter.bytes.take_if(|known| known.per_minute != per_minute);
        meter.bytes.get_or_insert_with(|| {
            let cells = Cells::of_minute(per_minute);
            let limiter = self.limiter(cells.each(), cells.count);
            Volume { per_minute, cells, limiter, owed: 0 }
        })
    }

    fn limiter(&self, each: Duration, burst: u32) -> Limiter<C> {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let each = each.max(Duration::from_nanos(1));
        let quota = Quota::with_period(each).expect("a period above nothing").allow_burst(burst);
        RateLimiter::direct_with_clock(quota, self.clock.clone()).with_middleware()
    }
}

impl<C: Clock> Meter<C> {
    /// The longest time after which nothing is used any more.
    fn recovery(&self) -> Duration {
        let requests = self.requests.as_ref();
        let requests = requests
            .map(|r| MINUTE.mul_f64(f64::from(r.rate.burst) / f64::from(r.rate.per_minute)));
        let bytes = self
            .bytes
            .as_ref()
            .map(|volume| MINUTE.mul_f64(1.0 + volume.owed as f64 / f64::from(volume.cells.count)));
        requests.unwrap_or_default().max(bytes.unwrap_or_default())
    }
}

impl<C: Clock> Volume<C> {
    fn charge(&self, cells: NonZeroU32, clock: &C) -> Result<(), Duration> {
        match self.limiter.check_n(cells) {
            Ok(Ok(_state)) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(clock.now())),
            // Not reached: no charge is above a minute's.
            Err(_never_enough) => Err(MINUTE),
        }
    }
}

impl Rate {
    /// The limit on requests, if there is one.
    pub(crate) fn of(limits: &TenantLimits) -> Option<Self> {
        let per_minute = limits.requests_per_minute?;
        let burst = limits.request_burst.unwrap_or(per_minute).clamp(1, CELLS_MAX);
        Some(Self { per_minute, burst })
    }

    /// The time in which one more may come.
    pub(crate) fn each(self) -> Duration {
        MINUTE / self.per_minute.max(1)
    }

    /// When so many may still come at once.
    pub(crate) fn allowance(self, remaining: u32) -> Allowance {
        let used = self.burst - remaining.min(self.burst);
        let each = MINUTE.as_secs_f64() / f64::from(self.per_minute);
        let reset_s = (each * f64::from(used)).ceil() as u64;
        Allowance { per_minute: self.per_minute, remaining, reset_s }
    }

    /// When none may.
    pub(crate) fn nothing_left(self) -> Allowance {
        match self.per_minute {
            0 => Allowance { per_minute: 0, remaining: 0, reset_s: MINUTE.as_secs() },
            _ => self.allowance(0),
        }
    }

    /// 1002 for the next one.
    pub(crate) fn used_up(self, subject: Subject, wait_s: u64) -> ApiError {
        let per_minute = self.per_minute;
        let what = format_args!("{per_minute} requests per minute of {subject} are used up");
        refused(what, wait_s)
    }
}

impl Cells {
    /// Those of a minute.
    pub(crate) fn of_minute(per_minute: Bytes) -> Self {
        let size = per_minute.0.div_ceil(CELLS_MAX.into()).max(1);
        Self { size, count: (per_minute.0 / size).clamp(1, CELLS_MAX.into()) as u32 }
    }

    /// Those of so many bytes: at least one, at most a minute's.
    pub(crate) fn of(&self, bytes: u64) -> NonZeroU32 {
        let cells = bytes.div_ceil(self.size).min(self.count.into()) as u32;
        NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN)
    }

    /// The time in which one more may come.
    pub(crate) fn each(&self) -> Duration {
        MINUTE / self.count
    }
}

impl Allowance {
    /// The one that leaves less.
    pub(crate) fn tightest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let rank = |allowance: &Self| (allowance.remaining, u64::MAX - allowance.reset_s);
        one.into_iter().chain(other).min_by_key(rank)
    }

    /// The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    pub(crate) fn policy(&self) -> String {
        format!("\"requests\";q={};w={}", self.per_minute, MINUTE.as_secs())
    }

    /// The value of `RateLimit`.
    pub(crate) fn state(&self) -> String {
        format!("\"requests\";r={};t={}", self.remaining, self.reset_s)
    }
}

impl<C: Clock> std::fmt::Debug for Meters<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

fn now_since<P: Reference>(now: P, then: P) -> Duration {
    now.duration_since(then).into()
}

/// What is said of a wait: never less than it takes, and never nothing.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_nanos().div_ceil(1_000_000_000) as u64).max(1)
}

/// 1002 for an upload when the bytes of the minute are used up.
pub(crate) fn bytes_used_up(subject: Subject, per_minute: Bytes, wait_s: u64) -> ApiError {
    refused(format_args!("{per_minute} of uploads per minute of {subject} are used up"), wait_s)
}

fn refused(used_up: std::fmt::Arguments<'_>, wait_s: u64) -> ApiError {
    ApiError::detailed(ErrorCode::RateLimit, format_args!("{used_up}, retry in {wait_s} s"))
        .retry_after(u32::try_from(wait_s).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use filegate_types::{AccountId, KeyId};
    use governor::clock::FakeRelativeClock;

    use super::*;

    const KEY: Subject = Subject::Key(KeyId(1));
    const ACCOUNT: Subject = Subject::Account(AccountId(1));

    fn meters() -> (Meters<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        // The clock's first instant is not one in which anything was measured.
        clock.advance(Duration::from_hours(1));
        (Meters::with_clock(clock.clone()), clock)
    }

    fn requests(per_minute: u32, burst: Option<u32>) -> TenantLimits {
        TenantLimits {
            requests_per_minute: Some(per_minute),
            request_burst: burst,
            ..TenantLimits::default()
        }
    }

    #[test]
    fn a_burst_then_one_for_each_interval() {
        let (meters, clock) = meters();
        let limits = requests(60, Some(3));
        let left = |remaining, reset_s| Some(Allowance { per_minute: 60, remaining, reset_s });
        for (remaining, reset_s) in [(2, 1), (1, 2), (0, 3)] {
            assert_eq!(meters.request(KEY, &limits), (left(remaining, reset_s), Ok(())));
        }
        let (allowance, over) = meters.request(KEY, &limits);
        let over = over.unwrap_err();
        assert_eq!(allowance, left(0, 3));
        assert_eq!(
            over.message(),
            "rate limit: 60 requests per minute of this key are used up, retry in 1 s"
        );
        assert_eq!((over.code, over.retry_after_s), (ErrorCode::RateLimit, Some(1)));
        clock.advance(Duration::from_millis(999));
        assert!(meters.request(KEY, &limits).1.is_err());
        clock.advance(Duration::from_millis(1));
        assert!(meters.request(KEY, &limits).1.is_ok());
        assert!(meters.request(KEY, &limits).1.is_err());
        // Another's state is its own.
        assert!(meters.request(ACCOUNT, &limits).1.is_ok());
    }

    #[test]
    fn without_a_burst_a_whole_minute_may_come_at_once() {
        let (meters, clock) = meters();
        let limits = requests(7, None);
        for _ in 0..7 {
            assert!(meters.request(ACCOUNT, &limits).1.is_ok());
        }
        let over = meters.request(ACCOUNT, &limits).1.unwrap_err();
        assert_eq!(
            over.message(),
            "rate limit: 7 requests per minute of this account are used up, retry in 9 s"
        );
        clock.advance(Duration::from_secs(u64::from(over.retry_after_s.unwrap())));
        assert!(meters.request(ACCOUNT, &limits).1.is_ok());
    }

    #[test]
    fn extremes_neither_panic_nor_let_everything_through() {
        let (meters, _clock) = meters();
        let none = meters.request(KEY, &requests(0, Some(5)));
        assert!(none.1.unwrap_err().message().ends_with("retry in 60 s"));
        assert!(meters.upload(KEY, Bytes(0), Some(1)).is_err());
        assert!(meters.request(KEY, &requests(u32::MAX, None)).1.is_ok());
        assert!(meters.request(KEY, &requests(1, Some(u32::MAX))).1.is_ok());
        assert!(meters.request(KEY, &requests(1, Some(0))).1.is_ok());
        assert!(meters.request(KEY, &requests(1, Some(0))).1.is_err());
        assert!(meters.upload(KEY, Bytes(u64::MAX), Some(u64::MAX)).is_ok());
        assert!(meters.upload(KEY, Bytes(u64::MAX), Some(u64::MAX)).is_err());
        assert!(meters.upload(KEY, Bytes(1), Some(1)).is_ok());
        assert!(meters.upload(KEY, Bytes(1), None).is_err());
        meters.shrink();
    }

    #[test]
    fn a_changed_limit_applies_at_once() {
        let (meters, _clock) = meters();
        assert!(meters.request(KEY, &requests(1, None)).1.is_ok());
        assert!(meters.request(KEY, &requests(1, None)).1.is_err());
        assert!(meters.request(KEY, &requests(2, None)).1.is_ok());
        assert_eq!(meters.request(KEY, &TenantLimits::default()), (None, Ok(())));
    }

    #[test]
    fn bytes_are_charged_as_declared_and_at_most_a_minute() {
        let (meters, clock) = meters();
        let limit = Bytes::kib(60);
        assert!(meters.upload(KEY, limit, Some(40 << 10)).is_ok());
        let over = meters.upload(KEY, limit, Some(30 << 10)).unwrap_err();
        assert_eq!(
            over.message(),
            "rate limit: 60KiB of uploads per minute of this key are used up, retry in 10 s"
        );
        assert!(meters.upload(KEY, limit, Some(20 << 10)).is_ok());
        clock.advance(MINUTE);
        // Larger than a minute's worth: taken when the whole minute is there.
        assert!(meters.upload(KEY, limit, Some(1 << 30)).is_ok());
        assert!(meters.upload(KEY, limit, Some(1)).is_err());
        clock.advance(MINUTE);
        assert!(meters.upload(KEY, limit, Some(1 << 30)).is_ok());
    }

    #[test]
    fn what_came_without_a_length_is_charged_afterwards() {
        let (meters, clock) = meters();
        let limit = Bytes::kib(60);
        // Two at a time, each of them over what the minute has: one fits, one is owed.
        assert!(meters.upload(KEY, limit, None).is_ok());
        assert!(meters.upload(KEY, limit, None).is_ok());
        meters.received(KEY, limit, 50 << 10);
        meters.received(KEY, limit, 1 << 30);
        let over = meters.upload(KEY, limit, None).unwrap_err();
        assert_eq!(over.retry_after_s, Some(51), "{over}");
        clock.advance(Duration::from_secs(52));
        assert!(meters.upload(KEY, limit, None).is_ok());
        assert!(meters.upload(KEY, limit, Some(30 << 10)).is_err());
    }

    #[test]
    fn the_idle_are_forgotten_when_it_changes_nothing() {
        let (meters, clock) = meters();
        for id in 0..100 {
            let _ = meters.request(Subject::Key(KeyId(id)), &requests(60, Some(30)));
        }
        let slow = requests(1, Some(10));
        let _ = meters.request(ACCOUNT, &slow);
        clock.advance(Duration::from_secs(31));
        meters.shrink();
        assert_eq!(meters.lock().len(), 1);
        clock.advance(Duration::from_mins(10));
        meters.shrink();
        assert_eq!(meters.lock().len(), 0);
    }

    #[test]
    fn never_more_state_than_the_bound() {
        let (meters, clock) = meters();
        for id in 0..=METERS_MAX as i64 {
            clock.advance(Duration::from_nanos(1));
            let _ = meters.request(Subject::Key(KeyId(id)), &requests(1, None));
        }
        assert!(meters.lock().len() <= METERS_MAX);
        let latest = Subject::Key(KeyId(METERS_MAX as i64));
        assert!(meters.request(latest, &requests(1, None)).1.is_err(), "the latest is remembered");
    }

    #[test]
    fn headers_tell_of_the_tightest() {
        let one = Allowance { per_minute: 60, remaining: 59, reset_s: 1 };
        let other = Allowance { per_minute: 600, remaining: 12, reset_s: 3 };
        assert_eq!(Allowance::tightest(Some(one), Some(other)), Some(other));
        assert_eq!(Allowance::tightest(Some(one), None), Some(one));
        assert_eq!(one.policy(), "\"requests\";q=60;w=60");
        assert_eq!(one.state(), "\"requests\";r=59;t=1");
    }
}
