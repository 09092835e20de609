//! `filegate audit`.

use clap::Args;

use super::limits::RowsArg;
use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const AUDIT: Table = Table {
    what: "changes",
    columns: &[
        ("ID", "id"),
        ("AT", "at"),
        ("ACTOR", "actor"),
        ("FROM", "origin"),
        ("ACTION", "action"),
        ("TARGET", "target"),
    ],
};

/// Say who changed what, from where; --json also shows what was there before and after
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate audit --target account:acme
  filegate audit --actor token:1 --limit 10 --json | jq .after")]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    admin: AdminArgs,

    /// Only changes by this actor, such as token:1, or local for work on the data directory
    #[arg(long)]
    actor: Option<String>,

    /// Only this action
    #[arg(long)]
    action: Option<String>,

    /// Only changes of this, such as account:acme or key:7
    #[arg(long)]
    target: Option<String>,

    #[command(flatten)]
    rows: RowsArg,
}

pub(crate) fn run(args: AuditArgs, printer: &Printer) -> Result<Exit, Failure> {
    let call = Call::list("audit", &AUDIT, args.rows.limit)
        .ask("actor", args.actor)
        .ask("action", args.action)
        .ask("target", args.target);
    run_calls(&args.admin, vec![call], printer)
}
