//! `filegate fsck`.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use filegate_server::Stores;
use filegate_server::config::Config;
use filegate_store::fsck::{Options, Report, fsck};
use filegate_store::{BookFault, DataDir, StoreError};
use filegate_types::{Clock as _, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::serve::ConfigArgs;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, size};

/// Check rows against files against SHA-256, and the books
///
/// Without --repair it changes nothing and may run beside servers. With it a server on a data directory
/// must be stopped; replicas may go on. Then files whose content is wrong or gone are marked (their content is then refused, never
/// served wrong), files that are whole again are unmarked, bytes that no row knows are removed, and copies on
/// channels that no file is of are deleted there.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 everything is as it should be, or was mended and nothing is lost; 1 something is not.")]
pub(crate) struct FsckArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Mend what can be mended; needs the server of a data directory stopped
    #[arg(long)]
    repair: bool,

    /// Compare lengths only, do not read the files
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &FsckArgs, printer: &Printer) -> Result<Exit, Failure> {
    super::server_runtime()?.block_on(check(args, printer))
}

/// Checks a directory that nobody serves, such as one that was just restored; changes nothing.
pub(crate) fn check_directory(directory: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let config = Config { data_dir: directory.to_owned(), ..Config::default() };
    super::server_runtime()?.block_on(check_stores(&config, false, true, printer))
}

async fn check(args: &FsckArgs, printer: &Printer) -> Result<Exit, Failure> {
    check_stores(&args.config.load()?, args.repair, !args.quick, printer).await
}

async fn check_stores(
    config: &Config,
    repair: bool,
    digests: bool,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let usage = |error: StoreError| Failure::Usage(format!("{:#}", anyhow::Error::from(error)));
    let stores = Stores::open_existing(config).await.map_err(usage)?;
    // Replicas cannot be locked out: beside them a repair leaves alone what may be just landing.
    let alone = repair && !config.is_replicated();
    let _lock = if alone {
        let dir = DataDir::open_existing(&config.data_dir).map_err(usage)?;
        Some(dir.lock().map_err(usage)?)
    } else {
        None
    };
    let Stores { catalog, blobs, .. } = stores;
    let total = catalog.counts().await.context("cannot count the files")?.files;
    let bar = bar(printer, total);
    let progress = |files, bytes| {
        bar.set_position(files);
        bar.set_message(size(bytes));
    };
    let options = Options { repair, digests, alone };
    let report = fsck(&catalog, &blobs, options, SystemClock.now(), progress).await;
    bar.finish_and_clear();
    print(&report.context("the check stopped")?, repair, printer)
}

fn book_fault(fault: &BookFault) -> String {
    let BookFault { account, what, kept, counted } = fault;
    format!("{what} of account {} is {kept}, its rows add up to {counted}", escape(account))
}

fn bar(printer: &Printer, files: u64) -> ProgressBar {
    if !printer.shows_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{bar:30} {pos}/{len} files, {msg} read, {per_sec}, {eta} left",
    );
    ProgressBar::new(files).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(report: &Report, repaired: bool, printer: &Printer) -> Result<Exit, Failure> {
    let lost = report.missing.len() + report.damaged.len();
    let sound = report.is_clean()
        || (repaired && lost == 0 && report.books.is_empty() && report.catalog_fault.is_none());
    let exit = if sound { Exit::Ok } else { Exit::Refused };
    if printer.style() == Style::Json {
        printer.json(&json!({
            "files": report.files, "bytes": report.bytes,
            "missing": report.missing, "damaged": report.damaged,
            "whole_again": report.whole_again,
            "orphans": report.orphans.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "orphan_bytes": report.orphan_bytes, "lost_copies": report.lost_copies,
            "catalog_fault": report.catalog_fault,
            "books": report.books.iter().map(book_fault).collect::<Vec<_>>(),
            "repaired": repaired, "clean": report.is_clean(),
        }))?;
        return Ok(exit);
    }
    for id in &report.missing {
        printer.result(&format!("missing: file {id} has no content on disk"))?;
    }
    for id in &report.damaged {
        printer.result(&format!("damaged: the content of file {id} is not what was stored"))?;
    }
    for id in &report.whole_again {
        printer.result(&format!("whole again: file {id} was marked damaged and is not"))?;
    }
    for key in &report.orphans {
        printer.result(&format!("orphan: no row knows blob {key}"))?;
    }
    if report.lost_copies > 0 {
        printer.result(&format!(
            "copies: those of {} files that are not here any more are being deleted from their channels",
            report.lost_copies
        ))?;
    }
    for fault in &report.books {
        printer.result(&format!("books: {}", book_fault(fault)))?;
    }
    if let Some(fault) = &report.catalog_fault {
        printer.result(&format!("catalog: {fault}; restore it from a backup"))?;
    }
    let verdict = match (report.is_clean(), repaired) {
        (true, _) => "clean".to_owned(),
        (false, true) => "mended what can be mended".to_owned(),
        (false, false) => "not clean; see `filegate fsck --help` for --repair".to_owned(),
    };
    printer.result(&format!(
        "{} files, {} read, {} orphans ({}): {verdict}",
        report.files,
        size(report.bytes),
        report.orphans.len(),
        size(report.orphan_bytes)
    ))?;
    Ok(exit)
}
