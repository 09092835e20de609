//! `filegate inflight`.

use clap::{Args, Subcommand};

use super::limits::RowsArg;
use super::request::{Call, Table, encode};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const UPLOADS: Table = Table {
    what: "uploads in progress",
    columns: &[
        ("ID", "id"),
        ("ACCOUNT", "account"),
        ("KEY", "key_id"),
        ("STARTED", "started_at"),
        ("LEASE UNTIL", "lease_until"),
        ("HOLD", "hold"),
    ],
};

/// Look at uploads in progress, and end them
///
/// Small uploads are kept in memory and are not listed.
#[derive(Debug, Args)]
pub(crate) struct InflightArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: InflightCommand,
}

#[derive(Debug, Subcommand)]
enum InflightCommand {
    /// List uploads in progress: whose, since when, what is held for them
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        rows: RowsArg,
    },
    /// End uploads: they cannot be stored any more, and their holds are void
    Abort {
        /// Their ids as `inflight ls` shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

pub(crate) fn run(args: InflightArgs, printer: &Printer) -> Result<Exit, Failure> {
    let calls = match args.command {
        InflightCommand::Ls { rows } => vec![Call::list("uploads", &UPLOADS, rows.limit)],
        InflightCommand::Abort { ids } => ids
            .iter()
            .map(|id| Call::post(format!("uploads/{}/abort", encode(id))).about(id))
            .collect(),
    };
    run_calls(&args.admin, calls, printer)
}
