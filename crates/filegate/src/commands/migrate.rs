//! `filegate migrate`: a gateway moves to other stores while it serves.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use filegate_server::Stores;
use filegate_server::config::{Config, Overrides, Secret};
use filegate_store::migrate::{Mover, Passed, Place, unseal};
use filegate_store::{DataDir, StoreError};
use filegate_types::{Clock as _, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Url;
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::size;

/// So few rows that differ are a moment's work after the seal.
const IN_STEP: u64 = 1_000;
/// Passes while the source serves, at most: one that changes faster than it is copied never gets in step.
const PASSES_MAX: usize = 8;

/// Move a gateway to other stores while it serves, and back
///
/// Copies rows and files from one place to another, in either direction between a data directory and
/// PostgreSQL with S3. Each file is read back and held against its SHA-256. The source goes on serving;
/// the command can be ended and run again at any time, and goes on where it was.
///
/// With --cut-over the source is sealed when both are in step: it still answers what is read, and takes no
/// more changes (they are answered 1013). What came meanwhile is copied, everything is compared, and the
/// books are balanced, which takes seconds; then the target can be served. Ids, keys, links, balances and the
/// audit log stay as they are. Uploads in progress at that moment fail, and what they held is free again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate migrate --from ./filegate-data --to-database postgres://filegate:…@db/filegate \\
    --to-blobs 's3://files?endpoint=https://s3.example.com&region=eu-1'
  … the same with --cut-over, then start the replicas and stop the old server

  filegate migrate --from-database postgres://… --from-blobs s3://… --to ./back --cut-over

S3 keys are those of [s3] in --config, FILEGATE_S3__… or AWS_….

Exit codes: 0 in step, or moved; 1 rows still differ: run it again; 3 a store failed.")]
pub(crate) struct MigrateArgs {
    /// The data directory to move from
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,

    /// The database to move from
    #[arg(
        long,
        value_name = "URL",
        env = "FILEGATE_MIGRATE_FROM_DATABASE",
        hide_env_values = true
    )]
    from_database: Option<String>,

    /// The bucket to move from
    #[arg(long, value_name = "URL")]
    from_blobs: Option<String>,

    /// The data directory to move to; made where it is missing
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,

    /// The database to move to; it must be empty
    #[arg(long, value_name = "URL", env = "FILEGATE_MIGRATE_TO_DATABASE", hide_env_values = true)]
    to_database: Option<String>,

    /// The bucket to move to
    #[arg(long, value_name = "URL")]
    to_blobs: Option<String>,

    /// Seal the source, copy what is left, and open the target
    #[arg(long)]
    cut_over: bool,

    /// Only take the seal off the source, to serve it again
    ///
    /// For a cut-over that could not be ended. What was changed in the target since it was opened stays there.
    #[arg(long, conflicts_with = "cut_over")]
    unseal: bool,

    /// Files that are copied at a time
    #[arg(long, value_name = "N", default_value = "8",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,

    /// A file of settings; must exist when given
    #[arg(long, env = "FILEGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// One side of a move.
#[derive(Debug, Clone, Copy)]
struct Side<'a> {
    name: &'static str,
    directory: Option<&'a Path>,
    database: Option<&'a str>,
    blobs: Option<&'a str>,
}

pub(crate) fn run(args: &MigrateArgs, printer: &Printer) -> Result<Exit, Failure> {
    super::server_runtime()?.block_on(migrate(args, printer))
}

async fn migrate(args: &MigrateArgs, printer: &Printer) -> Result<Exit, Failure> {
    let from = Side {
        name: "from",
        directory: args.from.as_deref(),
        database: args.from_database.as_deref(),
        blobs: args.from_blobs.as_deref(),
    };
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let source = from.config(args.config.as_deref(), scratch.path())?;
    let opened = Stores::open_existing(&source).await.map_err(failed)?;
    if args.unseal {
        unseal(&opened.catalog).await.map_err(failed)?;
        printer.result("unsealed: the source can be served again")?;
        return Ok(Exit::Ok);
    }
    let to = Side {
        name: "to",
        directory: args.to.as_deref(),
        database: args.to_database.as_deref(),
        blobs: args.to_blobs.as_deref(),
    };
    let target = to.config(args.config.as_deref(), scratch.path())?;
    // Nobody may serve a directory that is being filled.
    let dir = DataDir::open_for(&target.data_dir, target.keeps_here()).map_err(failed)?;
    let _lock = dir.lock().map_err(failed)?;
    let into = Stores::open(&target).await.map_err(failed)?;
    let total = opened.catalog.counts().await.context("cannot count the files")?;
    let place = |stores: Stores| Place { catalog: stores.catalog, blobs: stores.blobs };
    let mover = Mover::new(place(opened), place(into), usize::from(args.parallel));
    let bar = bar(printer, total.files);
    let mut brought = 0;
    let mut progress = |passed: &Passed| {
        bar.set_position(brought + passed.blobs);
        bar.set_message(format!("{}, {} rows", size(passed.bytes), passed.rows));
    };
    let id = filegate_server::random_id();
    mover.begin(id).await.map_err(failed)?;
    let mut all = Passed::default();
    for _ in 0..PASSES_MAX {
        let passed = mover.pass(SystemClock.now(), &mut progress).await.map_err(failed)?;
        all.blobs += passed.blobs;
        all.bytes += passed.bytes;
        all.damaged += passed.damaged;
        all.rows = passed.rows;
        all.later = passed.differences();
        if all.later <= IN_STEP {
            break;
        }
    }
    if args.cut_over {
        brought = all.blobs;
        let mut progress = |passed: &Passed| {
            bar.set_position(brought + passed.blobs);
            bar.set_message("cutting over".to_owned());
        };
        let name = to.shown();
        let last = mover.cut_over(name, SystemClock.now(), &mut progress).await.map_err(failed)?;
        all.blobs += last.blobs;
        all.bytes += last.bytes;
        all.damaged += last.damaged;
        all.rows = last.rows;
        all.later = 0;
    }
    bar.finish_and_clear();
    tell(args, &to, all, printer)
}

fn tell(
    args: &MigrateArgs,
    to: &Side<'_>,
    all: Passed,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let in_step = all.later <= IN_STEP;
    if printer.style() == Style::Json {
        printer.json(&json!({
            "moved": args.cut_over, "rows": all.rows, "files_copied": all.blobs, "bytes_copied": all.bytes,
            "damaged": all.damaged, "differed_in_last_pass": all.later,
        }))?;
    } else {
        printer.result(&format!(
            "{} rows compared, {} files copied and read back ({}), {} damaged in the source",
            all.rows,
            all.blobs,
            size(all.bytes),
            all.damaged
        ))?;
        let verdict = match (args.cut_over, in_step) {
            (true, _) => format!("moved: the books balance, serve {}", to.shown()),
            (false, true) => "in step; when you are ready run the same with --cut-over".to_owned(),
            (false, false) => format!("{} rows differed in the last pass: run it again", all.later),
        };
        printer.result(&verdict)?;
    }
    Ok(if args.cut_over || in_step { Exit::Ok } else { Exit::Refused })
}

impl Side<'_> {
    /// The settings of this side: those of the file and the environment, with other stores.
    fn config(&self, file: Option<&Path>, scratch: &Path) -> Result<Config, Failure> {
        let name = self.name;
        if self.directory.is_none() && (self.database.is_none() || self.blobs.is_none()) {
            return Err(Failure::Usage(format!(
                "name the place with --{name} DIR, or with --{name}-database and --{name}-blobs"
            )));
        }
        // What of the stores stands in the file is replaced below; it need not fit together.
        let overrides = Overrides {
            database_url: Some(String::new()),
            blob_url: Some(String::new()),
            ..Overrides::default()
        };
        let mut config =
            Config::load(file, &overrides).map_err(|error| Failure::Usage(error.to_string()))?;
        config.downloads.mode = filegate_server::config::DownloadMode::Own;
        // In a directory that holds no store, bodies lie on their way to a bucket.
        config.data_dir = self.directory.unwrap_or(scratch).to_owned();
        config.database_url = Secret::from(self.database.unwrap_or_default().to_owned());
        config.blob_url = self.blobs.unwrap_or_default().to_owned();
        Ok(config)
    }

    /// The place in words, without passwords.
    fn shown(&self) -> String {
        let rows = match (self.database.map(Url::parse), self.directory) {
            (Some(Ok(url)), _) => {
                format!("postgres://{}{}", url.host_str().unwrap_or("localhost"), url.path())
            }
            (Some(Err(_)), _) => "PostgreSQL".to_owned(),
            (None, Some(directory)) => directory.display().to_string(),
            (None, None) => String::new(),
        };
        match self.blobs.and_then(|url| url.split('?').next()) {
            Some(bucket) => format!("{rows} with {bucket}"),
            None => rows,
        }
    }
}

fn failed(error: StoreError) -> Failure {
    match error {
        StoreError::InUse(_) | StoreError::Unusable(_) => Failure::Usage(error.to_string()),
        other => Failure::Fault(other.into()),
    }
}

fn bar(printer: &Printer, files: u64) -> ProgressBar {
    if !printer.shows_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files, {msg}, {elapsed}");
    ProgressBar::new(files).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
