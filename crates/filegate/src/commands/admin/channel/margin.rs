//! `filegate channel margin`.

use clap::{Args, ValueEnum};

use super::super::limits::RowsArg;
use super::super::request::{Call, Show, Table};

const MARGIN: Table = Table {
    what: "relayed calls",
    columns: &[
        ("DAY", "day"),
        ("CHANNEL", "channel"),
        ("ACCOUNT", "account"),
        ("PATH", "path"),
        ("CALLS", "calls"),
        ("UNITS", "units"),
        ("CHARGED", "charged"),
        ("COST", "cost"),
        ("MARGIN", "margin"),
    ],
};

/// Sum up relayed calls that succeeded: what they brought, what they cost, what is left
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate channel margin                                  by channel and path
  filegate channel margin --by account --from 2026-11-01 --to 2026-11-30
  filegate channel margin --by day,channel --csv > margin.csv

What is charged is set with `filegate price set relay`, what it costs with `filegate channel cost set`.")]
pub(super) struct MarginArgs {
    /// The columns to sum by, with commas between them [default: channel,path]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    by: Vec<By>,

    /// Only calls on this channel; one that is removed has its number with it, as `channel ls --state removed` shows
    #[arg(long)]
    channel: Option<String>,

    /// Only calls of this account
    #[arg(long)]
    account: Option<String>,

    /// Only calls of this path
    #[arg(long)]
    path: Option<String>,

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
    Channel,
    Account,
    Path,
}

impl MarginArgs {
    pub(super) fn call(self) -> Call {
        let by = self.by.iter().filter_map(ValueEnum::to_possible_value);
        let by: Vec<_> = by.map(|by| by.get_name().to_owned()).collect();
        let call = Call::list("margin", &MARGIN, self.rows.limit)
            .ask("channel", self.channel)
            .ask("account", self.account)
            .ask("path", self.path)
            .ask("from", self.from)
            .ask("to", self.to)
            .ask("by", (!by.is_empty()).then(|| by.join(",")));
        if self.csv { call.ask("format", Some("csv")).shown(Show::Raw) } else { call }
    }
}
