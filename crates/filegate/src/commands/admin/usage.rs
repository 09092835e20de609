//! `filegate usage`.

use clap::{Args, ValueEnum};

use super::limits::RowsArg;
use super::request::{Call, Show, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const USAGE: Table = Table {
    what: "calls",
    columns: &[
        ("DAY", "day"),
        ("ACCOUNT", "account"),
        ("KEY", "key"),
        ("PURPOSE OR PATH", "purpose"),
        ("CALL", "call"),
        ("CALLS", "calls"),
        ("SIZE", "bytes"),
        ("CHARGED", "charged"),
    ],
};

/// Sum up calls that succeeded: how many, how many bytes, what was charged
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate usage --by account
  filegate usage --account acme --from 2026-11-01 --to 2026-11-30 --by day,purpose --csv > acme.csv")]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    admin: AdminArgs,

    /// The columns to sum by, with commas between them [default: day,account]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    by: Vec<By>,

    /// Only calls of this account
    #[arg(long)]
    account: Option<String>,

    /// Only calls with the key of this id
    #[arg(long, value_name = "KEY_ID")]
    key_id: Option<i64>,

    /// Only calls on files of this purpose; of relayed calls, only those of this path
    #[arg(long)]
    purpose: Option<String>,

    /// From this UTC day on
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<String>,

    /// Up to this UTC day, itself counted
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<String>,

    /// As CSV, for spreadsheets; at most 36,600 rows
    #[arg(long, conflicts_with_all = ["json", "quiet", "limit"])]
    csv: bool,

    #[command(flatten)]
    rows: RowsArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Day,
    Account,
    Key,
    Purpose,
    Call,
}

pub(crate) fn run(args: UsageArgs, printer: &Printer) -> Result<Exit, Failure> {
    let by: Vec<_> = args
        .by
        .iter()
        .filter_map(ValueEnum::to_possible_value)
        .map(|by| by.get_name().to_owned())
        .collect();
    let call = Call::list("usage", &USAGE, args.rows.limit)
        .ask("account", args.account)
        .ask("key", args.key_id)
        .ask("purpose", args.purpose)
        .ask("from", args.from)
        .ask("to", args.to)
        .ask("by", (!by.is_empty()).then(|| by.join(",")));
    let call = if args.csv { call.ask("format", Some("csv")).shown(Show::Raw) } else { call };
    run_calls(&args.admin, vec![call], printer)
}
