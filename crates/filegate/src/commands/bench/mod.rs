//! `filegate bench`: load on a running server, and what it takes.
//!
//! The load must cost less than what it measures: bodies are made before the clock starts and are
//! written as one buffer to plain sockets (see `filegate_load`). What the load does cost is printed, as
//! the client's own share of a CPU, and said loudly when it may be what limits.

mod cell;
mod http;

use clap::Args;
use filegate_client::Key;
use filegate_load::{CallError, Outcome, Plan, Work as _};
use filegate_types::FileId;
use filegate_types::units::{Bytes as Size, Span};
use tokio::runtime::Builder;

use self::cell::Summary;
use self::http::{Load, Target, exit_of};
use super::{block_on, client};
use crate::cli::GlobalArgs;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, table};

/// Connections that delete afterwards.
const CLEANERS: u16 = 8;

/// Load a running server and measure what it takes
///
/// Uploads valid files of each size from so many clients at once, each on its own connection, and
/// prints uploads a second and latencies in milliseconds. No new upload starts after --seconds;
/// those under way are finished and counted. OWN CPU is what this program itself used, 100 % being
/// one whole core: on a machine shared with the server it is missing there. A warning says when this
/// program itself may have been what limits.
///
/// Without --rate each client sends its next request when the last was answered (a closed loop): while
/// the server is slow it is asked less, and the time that others would have waited is not seen. With
/// --rate so many calls a second are due at even distances, whatever the server does (an open loop), and
/// a latency counts from when the call was due: waiting for a free client is in it, so is what could not
/// be sent at all. Use it to see latencies at a load you expect, below what the server takes at most.
#[derive(Debug, Args)]
#[command(after_help = "\
What was uploaded is deleted after each line of the table, outside the measured time, unless
--keep is given. Until then it needs room on the server: 20 MB at 30 uploads a second for 10
seconds are 6 GB. The limits of the key (requests, bytes and uploads at once) apply; use a key
without them.

Examples:
  filegate bench
  filegate bench --sizes 100KB --concurrency 1,8,64 --seconds 30s
  filegate bench --sizes 100KB --concurrency 64 --rate 500
  filegate bench --reads --json > bench.jsonl

Only plain http:// is spoken: TLS would measure this program.")]
pub(crate) struct BenchArgs {
    /// Sizes of the files: 100KB is 100,000 bytes, 100KiB is 102,400
    #[arg(long, value_delimiter = ',', default_value = "100KB,20MB", value_name = "SIZES")]
    sizes: Vec<Size>,

    /// How many clients at once
    #[arg(long, value_delimiter = ',', default_value = "1,32,256", value_name = "COUNTS",
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: Vec<u16>,

    /// How long to start calls for each size and concurrency
    #[arg(long, default_value = "10s", value_name = "TIME")]
    seconds: Span,

    /// How long to load the server beforehand, uncounted
    #[arg(long, default_value = "2s", value_name = "TIME")]
    warm_up: Span,

    /// Calls a second, over all clients, whatever the server does; without it as many as are answered
    #[arg(long, value_name = "CALLS", value_parser = rate)]
    rate: Option<f64>,

    /// What the files are uploaded for: a purpose that takes wav files, or one that takes txt
    #[arg(short, long, default_value = "voice_clone")]
    purpose: String,

    /// Measure retrieve and downloads as well
    #[arg(long)]
    reads: bool,

    /// Leave what was uploaded on the server
    #[arg(long)]
    keep: bool,
}

/// A number of calls a second.
fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.001..=1e6).contains(rate))
        .ok_or_else(|| format!("{text:?} is not a number of calls from 0.001 to 1000000"))
}

/// Runs the benchmark on as many threads as there are cores.
pub(crate) fn run(
    args: &BenchArgs,
    global: &GlobalArgs,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let (client, key) = client(global)?;
    let upload_url =
        client.endpoint("upload").map_err(|error| Failure::Usage(error.to_string()))?;
    let bench = Bench::new(args, &upload_url, key)?;
    block_on(Builder::new_current_thread(), bench.run(printer))
}

struct Bench<'a> {
    args: &'a BenchArgs,
    target: Target,
}

impl<'a> Bench<'a> {
    fn new(args: &'a BenchArgs, upload_url: &str, key: Key) -> Result<Self, Failure> {
        let target = Target::parse(upload_url, key).map_err(Failure::Usage)?;
        Ok(Self { args, target })
    }

    async fn run(&self, printer: &Printer) -> Result<Exit, Failure> {
        let mut report = Report { rows: Vec::new(), first_error: None, exit: Exit::Ok };
        let sizes = self.args.sizes.iter();
        let uploads: Vec<Load> =
            sizes.map(|size| self.target.upload(&self.args.purpose, size.0)).collect();
        self.warm_up(&uploads).await?;
        for load in &uploads {
            for &clients in &self.args.concurrency {
                let (summary, outcome) = self.cell("upload", load, clients).await?;
                self.clean(&outcome.yields).await?;
                report.add(&summary, outcome.first_error, printer)?;
            }
        }
        if self.args.reads {
            for (nth, upload) in uploads.iter().enumerate() {
                self.reads(upload, nth == 0, &mut report, printer).await?;
            }
        }
        report.print(printer)
    }

    async fn reads(
        &self,
        upload: &Load,
        retrieve: bool,
        report: &mut Report,
        printer: &Printer,
    ) -> Result<(), Failure> {
        let id = self.one_upload(upload).await?;
        let mut loads = Vec::new();
        if retrieve {
            // What is known of a file does not grow with it.
            loads.push(("retrieve", self.target.retrieve(id)));
        }
        loads.push(("content", self.target.content(id, upload.moves())));
        for (call, load) in loads {
            for &clients in &self.args.concurrency {
                let (summary, outcome) = self.cell(call, &load, clients).await?;
                report.add(&summary, outcome.first_error, printer)?;
            }
        }
        self.clean(&[Some(id)]).await
    }

    /// One line of the table.
    async fn cell(
        &self,
        call: &str,
        load: &Load,
        clients: u16,
    ) -> Result<(Summary, Outcome<Option<FileId>>), Failure> {
        let rate = self.args.rate;
        let plan = Plan { rate, ..self.plan(clients, self.args.seconds) };
        let outcome = measure(plan, load).await?;
        let bytes = Some(load.moves()).filter(|bytes| *bytes > 0);
        Ok((Summary::new(call, bytes, clients, rate, &outcome), outcome))
    }

    fn plan(&self, clients: u16, span: Span) -> Plan {
        Plan::new(&self.target.address, clients, span.0)
    }

    /// Sees that the server takes the first file at all, and then loads it for a while.
    async fn warm_up(&self, uploads: &[Load]) -> Result<(), Failure> {
        let Some(load) = uploads.first() else { return Ok(()) };
        let first = self.one_upload(load).await?;
        self.clean(&[Some(first)]).await?;
        if let Some(&clients) = self.args.concurrency.iter().max() {
            let outcome = measure(self.plan(clients, self.args.warm_up), load).await?;
            self.clean(&outcome.yields).await?;
        }
        Ok(())
    }

    async fn one_upload(&self, load: &Load) -> Result<FileId, Failure> {
        let mut outcome = measure(Plan::calls(&self.target.address, 1, 1), load).await?;
        match (outcome.yields.pop().flatten(), outcome.first_error) {
            (Some(id), _) => Ok(id),
            (None, error) => {
                let nothing = || CallError::Broken("the server did not answer".to_owned());
                let error = error.unwrap_or_else(nothing);
                Err(Failure::Bench { exit: exit_of(&error), text: error.to_string() })
            }
        }
    }

    /// Deletes; what cannot be deleted is left, and the server's to keep.
    async fn clean(&self, ids: &[Option<FileId>]) -> Result<(), Failure> {
        let ids: Vec<FileId> = ids.iter().copied().flatten().collect();
        if self.args.keep || ids.is_empty() {
            return Ok(());
        }
        let plan = Plan::calls(&self.target.address, CLEANERS, ids.len() as u64);
        measure(plan, &self.target.deletes(&ids)).await.map(drop)
    }
}

/// Makes the calls, on threads of their own.
async fn measure(plan: Plan, load: &Load) -> Result<Outcome<Option<FileId>>, Failure> {
    let load = load.clone();
    let calls = tokio::task::spawn_blocking(move || filegate_load::run(&plan, &load));
    let outcome = calls.await.map_err(std::io::Error::other).flatten();
    outcome.map_err(|source| Failure::Local { what: "cannot make calls".to_owned(), source })
}

/// The lines of the table, and what went wrong.
struct Report {
    rows: Vec<Vec<String>>,
    first_error: Option<String>,
    exit: Exit,
}

impl Report {
    fn add(
        &mut self,
        summary: &Summary,
        first_error: Option<CallError>,
        printer: &Printer,
    ) -> Result<(), Failure> {
        if let Some(error) = first_error {
            self.exit = self.exit.max(exit_of(&error));
            self.first_error.get_or_insert_with(|| format!("{}: {error}", summary.call()));
        }
        match printer.style() {
            Style::Json => printer.json(summary)?,
            Style::Human | Style::Ids => {
                printer.note(&summary.line());
                self.rows.push(summary.row());
            }
        }
        if let Some(doubt) = summary.doubt() {
            printer.warning(doubt);
        }
        Ok(())
    }

    fn print(self, printer: &Printer) -> Result<Exit, Failure> {
        if printer.style() != Style::Json {
            printer.note("");
            let titles = cell::TITLES;
            for line in table(&titles, &titles[1..], &self.rows) {
                printer.result(&line)?;
            }
        }
        if let Some(error) = self.first_error {
            printer.error(&format!("the first of the failed calls: {}", escape(&error)));
        }
        Ok(self.exit)
    }
}
