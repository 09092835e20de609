//! So many connections, so long, as fast as they are answered or at a rate of their own.
//!
//! A **closed** loop sends the next request of a connection when the last was answered. A server that stops for a second is
//! then asked nothing for a second, and only one bad latency per connection is seen of it (coordinated omission). In an
//! **open** loop ([`Plan::rate`]) each call has a time at which it is due, whatever the server does, and its latency counts
//! from there: waiting for a free connection is part of it, and so are calls that could not be sent at all.
//!
//! The connections are spread over a few threads, each with an event loop of its own, so that no call goes from one
//! thread to another.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::http::{CallError, Connection, Reply, Request};

/// After so many failures without a success between them a connection gives up.
const FAILURES_MAX: u32 = 10;

/// What is waited after a failure, so that a refusing server is not measured at refusing.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Longest time for a request and its answer.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);

/// How long an open loop goes on beyond its time with calls that are late, at least.
const LATE_MIN: Duration = Duration::from_secs(2);

/// A thread that is busy for this part of the time may be what limits.
const BUSY: f64 = 0.85;

/// Lateness of this program's own that spoils latencies.
const LAG_MAX: Duration = Duration::from_millis(1);

/// Longest latency that is told apart from longer ones, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// Digits of a latency that are kept.
const DIGITS: u8 = 3;

/// What the calls are.
pub trait Work: Sync {
    /// What is kept of a call that went well, such as an id.
    type Yield: Send;

    /// The request that begins call number `nth`, counted from [`Plan::first`] over all connections.
    fn request(&self, nth: u64) -> Request;

    /// Looks at the answer to the call's request number `step`, from 0.
    fn judge(&self, nth: u64, step: u32, reply: &Reply<'_>)
    -> Result<Next<Self::Yield>, CallError>;

    /// Bytes of content that a call moves.
    fn moves(&self) -> u64 {
        0
    }

    /// Longest body of an answer that [`Work::judge`] gets to see.
    fn keeps(&self) -> usize {
        1 << 20
    }
}

/// What follows an answer.
#[derive(Debug)]
pub enum Next<Y> {
    /// The call went well and is over.
    Done(Y),
    /// One more request belongs to it.
    Send(Request),
}

/// How the calls are made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `host:port`.
    pub address: String,
    /// Connections at once.
    pub connections: u16,
    /// No call starts after this time; those under way are finished and counted.
    pub span: Duration,
    /// No more calls than this.
    pub calls_max: u64,
    /// Calls a second, together; nothing: as many as are answered.
    pub rate: Option<f64>,
    /// The number of the first call.
    pub first: u64,
    /// Threads that the connections are spread over.
    pub threads: usize,
}

impl Plan {
    /// A closed loop with as many threads as there are cores, but no idle ones.
    pub fn new(address: impl Into<String>, connections: u16, span: Duration) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            address: address.into(),
            connections,
            span,
            calls_max: u64::MAX,
            rate: None,
            first: 0,
            threads: cores.min(usize::from(connections)),
        }
    }

    /// So many calls, however long they take.
    pub fn calls(address: impl Into<String>, connections: u16, calls: u64) -> Self {
        Self { calls_max: calls, ..Self::new(address, connections, Duration::MAX) }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome<Y> {
    /// Of every call that went well, and of those that were never sent the time they were due: nanoseconds.
    latencies: Histogram<u64>,
    /// How late this program itself was to send calls that were due, in an open loop: nanoseconds.
    lag: Histogram<u64>,
    /// Calls that went well.
    pub done: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Calls of an open loop that were due and never sent.
    pub unsent: u64,
    /// Bytes of content that were moved.
    pub moved: u64,
    /// From the common start to the end of the last call.
    pub elapsed: Duration,
    /// Processor time of the load itself.
    pub cpu: Duration,
    /// The same of the thread that had most of it.
    pub cpu_most: Duration,
    /// What the calls yielded, in no order.
    pub yields: Vec<Y>,
    /// Why the first of the failed calls failed.
    pub first_error: Option<CallError>,
}

impl<Y> Outcome<Y> {
    fn new() -> io::Result<Self> {
        let histogram = || Histogram::new_with_max(LONGEST, DIGITS).map_err(io::Error::other);
        Ok(Self {
            latencies: histogram()?,
            lag: histogram()?,
            done: 0,
            failed: 0,
            unsent: 0,
            moved: 0,
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            cpu_most: Duration::ZERO,
            yields: Vec::new(),
            first_error: None,
        })
    }

    /// Successful calls a second.
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.seconds()
    }

    /// Content a second, in 10^6 bytes.
    pub fn megabytes_per_second(&self) -> f64 {
        self.moved as f64 / 1e6 / self.seconds()
    }

    /// From the common start to the end of the last call; above 0.
    pub fn seconds(&self) -> f64 {
        self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency that `percent` of the calls did not exceed, in milliseconds; 0 if there was none.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        self.latencies.value_at_quantile(percent / 100.0) as f64 / 1e6
    }

    /// What part of a core the load itself used; above 1 on several.
    pub fn own_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.seconds()
    }

    /// Why this may have measured the load rather than the server, if so.
    pub fn doubt(&self) -> Option<String> {
        let busiest = self.cpu_most.as_secs_f64() / self.seconds();
        if busiest >= BUSY {
            return Some(format!(
                "a thread of the load used {:.0} % of a core: the load may be what limits, not the server",
                busiest * 100.0
            ));
        }
        let lag = Duration::from_nanos(self.lag.value_at_quantile(0.99));
        if lag > LAG_MAX {
            return Some(format!(
                "1 % of the calls were sent {:.1} ms late or more by the load itself, which is in the latencies",
                lag.as_secs_f64() * 1e3
            ));
        }
        (self.unsent > 0).then(|| {
            format!(
                "{} calls were due and could not be sent: the rate is more than is answered",
                self.unsent
            )
        })
    }

    fn succeeded(&mut self, latency: Duration, yielded: Y) {
        record(&mut self.latencies, latency);
        self.done += 1;
        self.yields.push(yielded);
    }

    fn failed(&mut self, error: CallError) {
        self.failed += 1;
        self.first_error.get_or_insert(error);
    }

    fn add(&mut self, part: Self) -> io::Result<()> {
        self.latencies.add(&part.latencies).map_err(io::Error::other)?;
        self.lag.add(&part.lag).map_err(io::Error::other)?;
        self.done += part.done;
        self.failed += part.failed;
        self.cpu += part.cpu;
        self.cpu_most = self.cpu_most.max(part.cpu_most);
        self.yields.extend(part.yields);
        if self.first_error.is_none() {
            self.first_error = part.first_error;
        }
        Ok(())
    }
}

/// Makes the calls and waits for the last; blocks. Each connection is open before the clock starts.
///
/// # Errors
/// If threads cannot be started. Calls that fail are part of the outcome.
pub fn run<W: Work>(plan: &Plan, work: &W) -> io::Result<Outcome<W::Yield>> {
    let threads = plan.threads.clamp(1, usize::from(plan.connections).max(1));
    let runtime = |_| tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtimes = (0..threads).map(runtime).collect::<io::Result<Vec<_>>>()?;
    let load = Load { plan, work, schedule: Schedule::new(plan), ready: Barrier::new(threads + 1) };
    let mut outcome = Outcome::new()?;
    thread::scope(|scope| {
        let begin = |(nth, runtime): (usize, Runtime)| {
            let share = (nth..usize::from(plan.connections)).step_by(threads).count();
            let load = &load;
            scope.spawn(move || runtime.block_on(load.thread(share)))
        };
        let parts: Vec<_> = runtimes.into_iter().enumerate().map(begin).collect();
        load.ready.wait();
        let started = load.schedule.start();
        scope.spawn(|| load.schedule.release(usize::from(plan.connections)));
        for part in parts {
            outcome.add(part.join().map_err(|_panic| io::Error::other("a thread panicked"))??)?;
        }
        outcome.elapsed = started.elapsed();
        load.schedule.end();
        Ok::<(), io::Error>(())
    })?;
    for late in load.schedule.unsent(outcome.elapsed) {
        outcome.unsent += 1;
        record(&mut outcome.latencies, late);
    }
    outcome.moved = outcome.done * work.moves();
    Ok(outcome)
}

/// What all threads share.
struct Load<'a, W> {
    plan: &'a Plan,
    work: &'a W,
    schedule: Schedule,
    /// The threads, and the one that waits for them.
    ready: Barrier,
}

impl<W: Work> Load<'_, W> {
    /// The work of one thread: `share` connections.
    async fn thread(&self, share: usize) -> io::Result<Outcome<W::Yield>> {
        let address = self.plan.address.as_str();
        let open = (0..share).map(|_| Connection::open(address)).collect::<FuturesUnordered<_>>();
        let open: Vec<_> = open.collect().await;
        // Blocks this thread, which has nothing else to do.
        self.ready.wait();
        let cpu = cpu_time(ClockId::ThreadCPUTime);
        let part = Mutex::new(Outcome::new()?);
        let mut calls: FuturesUnordered<_> =
            open.into_iter().map(|open| self.connection(open, &part)).collect();
        while calls.next().await.is_some() {}
        drop(calls);
        let mut part = part.into_inner().unwrap_or_else(PoisonError::into_inner);
        part.cpu = cpu_time(ClockId::ThreadCPUTime).saturating_sub(cpu);
        part.cpu_most = part.cpu;
        Ok(part)
    }

    /// The calls of one connection, which is opened again when it breaks. What came of them goes to `part`, which nobody but
    /// the connections of this thread looks at.
    async fn connection(
        &self,
        open: Result<Connection, CallError>,
        part: &Mutex<Outcome<W::Yield>>,
    ) {
        let mut connection = Some(open);
        let mut failures = 0;
        let note = || part.lock().unwrap_or_else(PoisonError::into_inner);
        while failures < FAILURES_MAX {
            let asked = Instant::now();
            let Some((nth, due)) = self.schedule.next().await else { break };
            if let Some(due) = due
                && due > asked
            {
                record(&mut note().lag, due.elapsed());
            }
            let open = match connection.take() {
                Some(open) => open,
                None => Connection::open(&self.plan.address).await,
            };
            let started = due.unwrap_or_else(Instant::now);
            let outcome = match open {
                Ok(open) => self.call(open, self.plan.first + nth).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok((kept, yielded)) => {
                    note().succeeded(started.elapsed(), yielded);
                    connection = kept.map(Ok);
                    failures = 0;
                }
                Err(error) => {
                    note().failed(error);
                    failures += 1;
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    /// One call; gives the connection back if it can be used again.
    async fn call(
        &self,
        mut open: Connection,
        nth: u64,
    ) -> Result<(Option<Connection>, W::Yield), CallError> {
        let mut request = self.work.request(nth);
        for step in 0.. {
            let reply = open.call(&request, self.work.keeps(), CALL_TIMEOUT).await?;
            let keep_alive = reply.keep_alive;
            match self.work.judge(nth, step, &reply)? {
                Next::Done(yielded) => return Ok((keep_alive.then_some(open), yielded)),
                Next::Send(next) => request = next,
            }
            if !keep_alive {
                open = Connection::open(&self.plan.address).await?;
            }
        }
        Err(CallError::Broken("a call has no end".to_owned()))
    }
}

/// Hands out the numbers of calls, when it is time for them.
struct Schedule {
    started: OnceLock<Instant>,
    /// Calls handed out.
    taken: AtomicU64,
    calls_max: u64,
    span: Duration,
    open: Option<Open>,
}

/// The schedule of an open loop.
struct Open {
    rate: f64,
    /// Calls in the whole of it.
    total: u64,
    /// A permit for each call that is due.
    due: Semaphore,
    ended: AtomicBool,
}

impl Schedule {
    fn new(plan: &Plan) -> Self {
        let open = plan.rate.map(|rate| {
            let in_time = (plan.span.as_secs_f64() * rate).ceil() as u64;
            let total = in_time.clamp(1, plan.calls_max);
            Open { rate, total, due: Semaphore::new(0), ended: AtomicBool::new(false) }
        });
        let calls_max = open.as_ref().map_or(plan.calls_max, |open| open.total);
        let (started, taken) = (OnceLock::new(), AtomicU64::new(0));
        Self { started, taken, calls_max, span: plan.span, open }
    }

    /// The common start, which is when this is first asked.
    fn start(&self) -> Instant {
        *self.started.get_or_init(Instant::now)
    }

    /// The next call, in an open loop with the time it is due, which has come. Nothing: there is no more.
    async fn next(&self) -> Option<(u64, Option<Instant>)> {
        let since = self.start().elapsed();
        let Some(open) = &self.open else {
            return (since < self.span).then(|| self.take()).flatten().map(|nth| (nth, None));
        };
        // A connection that is free takes the call that is due longest; the permits are in the order of the calls.
        open.due.acquire().await.ok()?.forget();
        let late_max = self.span.saturating_add(self.span.max(LATE_MIN));
        if self.start().elapsed() > late_max {
            return None;
        }
        self.take().map(|nth| (nth, Some(self.start() + open.at(nth))))
    }

    fn take(&self) -> Option<u64> {
        let nth = self.taken.fetch_add(1, Ordering::Relaxed);
        (nth < self.calls_max).then_some(nth)
    }

    /// Lets each call of an open loop go when it is due. The timers of the event loops count whole milliseconds, which
    /// is too coarse; this thread sleeps to a tenth of one.
    fn release(&self, connections: usize) {
        let Some(open) = &self.open else { return };
        let mut released = 0;
        while released < open.total && !open.ended.load(Ordering::Relaxed) {
            let due = (self.start().elapsed().as_secs_f64() * open.rate) as u64 + 1;
            let due = due.min(open.total);
            open.due.add_permits((due - released) as usize);
            released = due;
            let next = open.at(released).saturating_sub(self.start().elapsed());
            thread::sleep(next.min(Duration::from_millis(100)));
        }
        // Each connection is told that there is no more.
        open.due.add_permits(connections);
    }

    /// No call is taken any more.
    fn end(&self) {
        if let Some(open) = &self.open {
            open.ended.store(true, Ordering::Relaxed);
        }
    }

    /// How late each call is that was due and never sent, at the end of an open loop that took `elapsed`.
    fn unsent(&self, elapsed: Duration) -> impl Iterator<Item = Duration> {
        let taken = self.taken.load(Ordering::Relaxed);
        let open = self.open.iter();
        open.flat_map(move |open| {
            (taken..open.total).map(move |nth| elapsed.saturating_sub(open.at(nth)))
        })
    }
}

impl Open {
    /// When a call is due, from the start.
    fn at(&self, nth: u64) -> Duration {
        Duration::from_secs_f64(nth as f64 / self.rate)
    }
}

/// Counts a time; one of more than an hour as an hour.
fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(time.as_nanos() as u64);
}

/// What this thread has used of all cores so far.
fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_calls() {
        let mut outcome = Outcome::<()>::new().unwrap();
        assert_eq!(outcome.percentile_ms(99.0).to_bits(), 0.0_f64.to_bits());
        (1..=200).for_each(|ms| outcome.succeeded(Duration::from_millis(ms), ()));
        let of = |percent| outcome.percentile_ms(percent).round() as u64;
        assert_eq!((of(50.0), of(90.0), of(99.0), of(100.0)), (100, 180, 198, 200));
    }

    fn schedule(rate: f64, calls_max: u64) -> Schedule {
        let plan = Plan::new("h:1", 1, Duration::from_secs(2));
        Schedule::new(&Plan { rate: Some(rate), calls_max, ..plan })
    }

    #[test]
    fn calls_of_an_open_loop_that_were_never_sent_count_from_when_they_were_due() {
        let schedule = schedule(10.0, u64::MAX);
        assert_eq!((schedule.calls_max, schedule.take()), (20, Some(0)));
        let unsent: Vec<Duration> = schedule.unsent(Duration::from_secs(3)).collect();
        assert_eq!(unsent.len(), 19);
        // The second was due after a tenth of a second.
        assert_eq!(unsent[0], Duration::from_millis(2900));
        assert_eq!(unsent[18].as_millis(), 1100);
    }

    #[test]
    fn an_open_loop_ends_with_the_last_call_that_is_due() {
        let schedule = schedule(1000.0, 3);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let calls = thread::scope(|scope| {
            scope.spawn(|| schedule.release(2));
            runtime.block_on(async {
                let mut calls = Vec::new();
                while let Some((nth, due)) = schedule.next().await {
                    assert!(due.unwrap() <= Instant::now());
                    calls.push(nth);
                }
                calls
            })
        });
        assert_eq!(calls, [0, 1, 2]);
        assert_eq!(schedule.unsent(Duration::from_secs(9)).count(), 0);
    }

    #[test]
    fn a_busy_thread_is_doubted() {
        let mut outcome = Outcome::<()>::new().unwrap();
        outcome.elapsed = Duration::from_secs(1);
        outcome.cpu_most = Duration::from_millis(500);
        assert_eq!(outcome.doubt(), None);
        outcome.cpu_most = Duration::from_millis(900);
        assert!(outcome.doubt().unwrap().contains("90 % of a core"));
    }
}
