//! `filegate policy`.

use clap::{Args, Subcommand};

use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const POLICIES: Table = Table {
    what: "purposes",
    columns: &[
        ("PURPOSE", "id"),
        ("UPLOAD", "upload"),
        ("KEEP", "keep"),
        ("SAME AS", "same_as"),
        ("ACCEPTS", "accept"),
    ],
};

/// Look at the purposes in force: what they take, and how long it is kept
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// List purposes
    #[command(visible_alias = "list")]
    Ls,
}

pub(crate) fn run(args: &PolicyArgs, printer: &Printer) -> Result<Exit, Failure> {
    match args.command {
        PolicyCommand::Ls => {
            run_calls(&args.admin, vec![Call::whole("policies", &POLICIES)], printer)
        }
    }
}
