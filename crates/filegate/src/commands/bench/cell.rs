//! One line of the table: one call, one size, so many clients, for so long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use filegate_types::FileId;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::http::{CallError, Connection, Reply, Target};

/// After so many failures without a success between them a client gives up.
const FAILURES_MAX: u32 = 10;

/// What is waited after a failure, so that a refusing server is not measured at refusing.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// The titles of [`Summary::row`].
pub(crate) const TITLES: [&str; 12] = [
    "CALL",
    "BYTES",
    "CLIENTS",
    "DONE",
    "FAILED",
    "PER SECOND",
    "MB/S",
    "P50 ms",
    "P90 ms",
    "P99 ms",
    "MAX ms",
    "OWN CPU",
];

/// A call to repeat.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    request: Bytes,
    /// Bytes of content that a call moves.
    moves: u64,
    expect: Expect,
}

#[derive(Debug, Clone, Copy)]
enum Expect {
    Upload,
    Json,
    Content,
}

impl Load {
    /// An upload of `size` bytes.
    pub(crate) fn upload(request: Bytes, size: u64) -> Self {
        Self { request, moves: size, expect: Expect::Upload }
    }

    /// A call that answers JSON.
    pub(crate) fn json(request: Bytes) -> Self {
        Self { request, moves: 0, expect: Expect::Json }
    }

    /// A download of `size` bytes.
    pub(crate) fn content(request: Bytes, size: u64) -> Self {
        Self { request, moves: size, expect: Expect::Content }
    }

    fn check(&self, reply: &Reply) -> Result<Option<FileId>, CallError> {
        match self.expect {
            Expect::Upload => reply.uploaded().map(Some),
            Expect::Json => reply.success().map(|()| None),
            Expect::Content => reply.content(self.moves).map(|()| None),
        }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    clients: u16,
    /// Of every successful call, ascending.
    latencies_us: Vec<u64>,
    failed: u64,
    /// From the common start to the end of the last call.
    elapsed: Duration,
    cpu: Duration,
    moved: u64,
    /// The files that are on the server now.
    pub(crate) uploaded: Vec<FileId>,
    pub(crate) first_error: Option<CallError>,
}

/// The numbers of a [`Cell`], as `--json` prints them.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    call: String,
    bytes: Option<u64>,
    clients: u16,
    done: usize,
    failed: u64,
    seconds: f64,
    per_second: f64,
    megabytes_per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    own_cpu_percent: f64,
}

impl Cell {
    pub(crate) fn summary(&self, call: &str, bytes: Option<u64>) -> Summary {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let done = self.latencies_us.len();
        Summary {
            call: call.to_owned(),
            bytes,
            clients: self.clients,
            done,
            failed: self.failed,
            seconds,
            per_second: done as f64 / seconds,
            megabytes_per_second: self.moved as f64 / 1e6 / seconds,
            p50_ms: self.percentile_ms(50),
            p90_ms: self.percentile_ms(90),
            p99_ms: self.percentile_ms(99),
            max_ms: self.percentile_ms(100),
            own_cpu_percent: 100.0 * self.cpu.as_secs_f64() / seconds,
        }
    }

    /// The smallest latency that `percent` of the calls did not exceed.
    fn percentile_ms(&self, percent: usize) -> f64 {
        let rank = (self.latencies_us.len() * percent).div_ceil(100).max(1);
        self.latencies_us.get(rank - 1).map_or(0.0, |us| *us as f64 / 1000.0)
    }
}

impl Summary {
    /// What is said while the benchmark goes on.
    pub(crate) fn line(&self) -> String {
        let size = self.bytes.map_or_else(String::new, |bytes| format!(" of {bytes} bytes"));
        format!(
            "{}{size} from {} clients: {:.1} per second, {} failed",
            self.call, self.clients, self.per_second, self.failed
        )
    }

    /// The cells of the table, in the order of [`TITLES`].
    pub(crate) fn row(&self) -> Vec<String> {
        let mut row = vec![
            self.call.clone(),
            self.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            self.clients.to_string(),
            self.done.to_string(),
            self.failed.to_string(),
            format!("{:.1}", self.per_second),
            format!("{:.1}", self.megabytes_per_second),
        ];
        row.extend(
            [self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms].map(|ms| format!("{ms:.1}")),
        );
        row.push(format!("{:.0} %", self.own_cpu_percent));
        row
    }
}

/// Repeats `load` from `clients` connections at once for `span`.
pub(crate) async fn measure(target: &Target, load: &Load, clients: u16, span: Duration) -> Cell {
    let ready = Arc::new(Barrier::new(usize::from(clients) + 1));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (target, load, ready) = (target.clone(), load.clone(), ready.clone());
        tasks.spawn(async move { client(&target, &load, &ready, span).await });
    }
    ready.wait().await;
    let (started, cpu) = (Instant::now(), cpu_time());
    let mut cell = Cell { clients, ..Cell::default() };
    while let Some(part) = tasks.join_next().await {
        let Ok(part) = part else { continue };
        cell.latencies_us.extend(part.latencies_us);
        cell.failed += part.failed;
        cell.uploaded.extend(part.uploaded);
        cell.first_error = cell.first_error.or(part.first_error);
    }
    cell.elapsed = started.elapsed();
    cell.cpu = cpu_time().saturating_sub(cpu);
    cell.latencies_us.sort_unstable();
    cell.moved = cell.latencies_us.len() as u64 * load.moves;
    cell
}

async fn client(target: &Target, load: &Load, ready: &Barrier, span: Duration) -> Cell {
    let mut part = Cell::default();
    let mut connection = Some(Connection::open(target).await);
    ready.wait().await;
    let deadline = Instant::now() + span;
    let mut failures = 0;
    while Instant::now() < deadline && failures < FAILURES_MAX {
        let open = match connection.take() {
            Some(open) => open,
            None => Connection::open(target).await,
        };
        let started = Instant::now();
        let outcome = match open {
            Ok(open) => call(open, load).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((kept, id)) => {
                part.latencies_us.push(started.elapsed().as_micros() as u64);
                part.uploaded.extend(id);
                connection = kept.map(Ok);
                failures = 0;
            }
            Err(error) => {
                part.failed += 1;
                part.first_error.get_or_insert(error);
                failures += 1;
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
    part
}

/// One call; gives the connection back if it can be used again.
async fn call(
    mut open: Connection,
    load: &Load,
) -> Result<(Option<Connection>, Option<FileId>), CallError> {
    let reply = open.call(&load.request).await?;
    let id = load.check(&reply)?;
    Ok((reply.keep_alive.then_some(open), id))
}

/// What this process has used of all cores so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_calls() {
        let cell = Cell { latencies_us: (1..=200).map(|n| n * 1000).collect(), ..Cell::default() };
        let of = |percent| cell.percentile_ms(percent).round() as u64;
        assert_eq!((of(50), of(90), of(99), of(100)), (100, 180, 198, 200));
        assert_eq!(Cell::default().percentile_ms(99).to_bits(), 0.0_f64.to_bits());
        let one = Cell { latencies_us: vec![7000], ..Cell::default() };
        assert_eq!(one.percentile_ms(1).round() as u64, 7);
    }

    #[test]
    fn a_row_has_a_cell_for_every_title() {
        assert_eq!(Cell::default().summary("upload", Some(1)).row().len(), TITLES.len());
    }
}
