//! `filegate bench`: load on a running server, and what it takes.
//!
//! The load must cost less than what it measures: bodies are made before the clock starts and are
//! written as one buffer to plain sockets (see [`http`]). What the load does cost is printed, as
//! the client's own share of a CPU.

mod body;
mod cell;
mod http;

use bytes::Bytes;
use clap::Args;
use filegate_client::Key;
use filegate_types::FileId;
use filegate_types::units::{Bytes as Size, Span};
use tokio::runtime::Builder;

use self::cell::{Cell, Load, measure};
use self::http::{Connection, Target};
use super::{block_on, client};
use crate::cli::GlobalArgs;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, table};

/// Connections that delete afterwards.
const CLEANERS: usize = 8;

/// Load a running server and measure what it takes
///
/// Uploads valid files of each size from so many clients at once, each on its own connection, and
/// prints uploads a second and latencies in milliseconds. No new upload starts after --seconds;
/// those under way are finished and counted. OWN CPU is what this program itself used, 100 % being
/// one whole core: on a machine shared with the server it is missing there.
#[derive(Debug, Args)]
#[command(after_help = "\
What was uploaded is deleted after each line of the table, outside the measured time, unless
--keep is given. Until then it needs room on the server: 20 MB at 30 uploads a second for 10
seconds are 6 GB. The limits of the key (requests, bytes and uploads at once) apply; use a key
without them.

Examples:
  filegate bench
  filegate bench --sizes 100KB --concurrency 1,8,64 --seconds 30s
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
    block_on(Builder::new_multi_thread(), bench.run(printer))
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
        let uploads: Vec<(u64, Bytes)> = self
            .args
            .sizes
            .iter()
            .map(|size| body::upload(&self.target, &self.args.purpose, size.0))
            .collect();
        self.warm_up(&uploads).await?;
        for (size, request) in &uploads {
            for &clients in &self.args.concurrency {
                let load = Load::upload(request.clone(), *size);
                let cell = self.cell(&load, clients, self.args.seconds).await;
                self.clean(&cell.uploaded).await;
                report.add("upload", Some(*size), cell, printer)?;
            }
        }
        if self.args.reads {
            for (nth, (size, request)) in uploads.iter().enumerate() {
                self.reads(*size, request, nth == 0, &mut report, printer).await?;
            }
        }
        report.print(printer)
    }

    async fn reads(
        &self,
        size: u64,
        upload: &Bytes,
        retrieve: bool,
        report: &mut Report,
        printer: &Printer,
    ) -> Result<(), Failure> {
        let id = self.one_upload(upload).await?;
        let mut loads = Vec::new();
        if retrieve {
            // What is known of a file does not grow with it.
            loads.push(("retrieve", None, Load::json(self.target.get("retrieve", id))));
        }
        let content = Load::content(self.target.get("retrieve_content", id), size);
        loads.push(("content", Some(size), content));
        for (call, size, load) in loads {
            for &clients in &self.args.concurrency {
                let cell = self.cell(&load, clients, self.args.seconds).await;
                report.add(call, size, cell, printer)?;
            }
        }
        self.clean(&[id]).await;
        Ok(())
    }

    async fn cell(&self, load: &Load, clients: u16, span: Span) -> Cell {
        measure(&self.target, load, clients, span.0).await
    }

    /// Sees that the server takes the first file at all, and then loads it for a while.
    async fn warm_up(&self, uploads: &[(u64, Bytes)]) -> Result<(), Failure> {
        let Some((size, request)) = uploads.first() else { return Ok(()) };
        let first = self.one_upload(request).await?;
        self.clean(&[first]).await;
        if let Some(&clients) = self.args.concurrency.iter().max() {
            let load = Load::upload(request.clone(), *size);
            let cell = self.cell(&load, clients, self.args.warm_up).await;
            self.clean(&cell.uploaded).await;
        }
        Ok(())
    }

    async fn one_upload(&self, request: &Bytes) -> Result<FileId, Failure> {
        let failed =
            |error: http::CallError| Failure::Bench { exit: error.exit(), text: error.to_string() };
        let mut connection = Connection::open(&self.target).await.map_err(failed)?;
        let reply = connection.call(request).await.map_err(failed)?;
        reply.uploaded().map_err(failed)
    }

    /// Deletes; what cannot be deleted is left, and the server's to keep.
    async fn clean(&self, ids: &[FileId]) {
        if self.args.keep || ids.is_empty() {
            return;
        }
        let share = ids.len().div_ceil(CLEANERS);
        let mut tasks = tokio::task::JoinSet::new();
        for part in ids.chunks(share) {
            let requests: Vec<Bytes> = part.iter().map(|id| self.target.delete(*id)).collect();
            let target = self.target.clone();
            tasks.spawn(async move {
                let mut connection = None;
                for request in requests {
                    let mut open = match connection.take() {
                        Some(open) => open,
                        None => match Connection::open(&target).await {
                            Ok(open) => open,
                            Err(_gone) => return,
                        },
                    };
                    if open.call(&request).await.is_ok_and(|reply| reply.keep_alive) {
                        connection = Some(open);
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
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
        call: &str,
        size: Option<u64>,
        measured: Cell,
        printer: &Printer,
    ) -> Result<(), Failure> {
        let summary = measured.summary(call, size);
        if let Some(error) = measured.first_error {
            self.exit = self.exit.max(error.exit());
            self.first_error.get_or_insert_with(|| format!("{call}: {error}"));
        }
        match printer.style() {
            Style::Json => printer.json(&summary)?,
            Style::Human | Style::Ids => {
                printer.note(&summary.line());
                self.rows.push(summary.row());
            }
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
