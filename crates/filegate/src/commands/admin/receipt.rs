//! `filegate receipt`.

use clap::{Args, Subcommand};
use filegate_types::FileId;

use super::limits::RowsArg;
use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const RECEIPTS: Table = Table {
    what: "receipts",
    columns: &[
        ("FILE", "id"),
        ("ACCOUNT", "account"),
        ("SIZE", "bytes"),
        ("CAUSE", "cause"),
        ("DELETED", "deleted_at"),
        ("PURGED", "purged_at"),
        ("PURPOSE", "purpose"),
        ("NAME", "filename"),
    ],
};

/// Look at what became of deleted files: why and when they went, and when their bytes did
#[derive(Debug, Args)]
pub(crate) struct ReceiptArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: ReceiptCommand,
}

#[derive(Debug, Subcommand)]
enum ReceiptCommand {
    /// List receipts, newest file first
    #[command(visible_alias = "list")]
    Ls {
        /// Only files of this account
        #[arg(long)]
        account: Option<String>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Show the receipt of a file
    Show {
        /// The id of the file
        #[arg(value_name = "FILE_ID")]
        id: FileId,
    },
}

pub(crate) fn run(args: ReceiptArgs, printer: &Printer) -> Result<Exit, Failure> {
    let call = match args.command {
        ReceiptCommand::Ls { account, rows } => {
            Call::list("receipts", &RECEIPTS, rows.limit).ask("account", account)
        }
        ReceiptCommand::Show { id } => Call::get(format!("receipts/{id}")),
    };
    run_calls(&args.admin, vec![call], printer)
}
