//! One line of the table: one call, one size, so many clients, for so long.

use filegate_load::Outcome;
use serde::Serialize;

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

/// The numbers of a cell, as `--json` prints them.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    call: String,
    bytes: Option<u64>,
    clients: u16,
    /// Calls a second that were to be made; nothing: as many as are answered.
    rate: Option<f64>,
    done: u64,
    failed: u64,
    /// Calls that were due at that rate and could not be made.
    unsent: u64,
    seconds: f64,
    per_second: f64,
    megabytes_per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    own_cpu_percent: f64,
    /// Why the figures may not be the server's.
    doubt: Option<String>,
}

impl Summary {
    /// The numbers of `outcome`.
    pub(crate) fn new<Y>(
        call: &str,
        bytes: Option<u64>,
        clients: u16,
        rate: Option<f64>,
        outcome: &Outcome<Y>,
    ) -> Self {
        Self {
            call: call.to_owned(),
            bytes,
            clients,
            rate,
            done: outcome.done,
            failed: outcome.failed,
            unsent: outcome.unsent,
            seconds: outcome.seconds(),
            per_second: outcome.per_second(),
            megabytes_per_second: outcome.megabytes_per_second(),
            p50_ms: outcome.percentile_ms(50.0),
            p90_ms: outcome.percentile_ms(90.0),
            p99_ms: outcome.percentile_ms(99.0),
            max_ms: outcome.percentile_ms(100.0),
            own_cpu_percent: 100.0 * outcome.own_share(),
            doubt: outcome.doubt(),
        }
    }

    /// What is said while the benchmark goes on.
    pub(crate) fn line(&self) -> String {
        let size = self.bytes.map_or_else(String::new, |bytes| format!(" of {bytes} bytes"));
        format!(
            "{}{size} from {} clients: {:.1} per second, {} failed",
            self.call, self.clients, self.per_second, self.failed
        )
    }

    /// Which call it was.
    pub(crate) fn call(&self) -> &str {
        &self.call
    }

    /// Why the figures may not be the server's.
    pub(crate) fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
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
