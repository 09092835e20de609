//! `filegate job`.

use clap::{Args, Subcommand};

use super::limits::RowsArg;
use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const JOBS: Table = Table {
    what: "jobs waiting",
    columns: &[
        ("ID", "id"),
        ("KIND", "kind"),
        ("TARGET", "target"),
        ("RUNS", "run_at"),
        ("ATTEMPTS", "attempts"),
        ("LAST ERROR", "last_error"),
    ],
};

/// Look at the work that waits, and have it done now
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// List jobs that wait, newest first
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Have jobs done at once instead of when they are due
    Run {
        /// Their ids as `job ls` shows them
        #[arg(required = true, value_name = "JOB_ID")]
        ids: Vec<i64>,
    },
}

pub(crate) fn run(args: JobArgs, printer: &Printer) -> Result<Exit, Failure> {
    let calls = match args.command {
        JobCommand::Ls { rows } => vec![Call::list("jobs", &JOBS, rows.limit)],
        JobCommand::Run { ids } => {
            ids.iter().map(|id| Call::post(format!("jobs/{id}/run")).about(id)).collect()
        }
    };
    run_calls(&args.admin, calls, printer)
}
