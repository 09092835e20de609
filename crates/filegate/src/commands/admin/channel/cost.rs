//! `filegate channel cost`.

use clap::{Args, Subcommand, ValueEnum};
use filegate_types::Money;

use super::super::limits::RowsArg;
use super::super::request::{Call, Table};

const COSTS: Table = Table {
    what: "costs; every relayed call is taken to cost nothing",
    columns: &[("CHANNEL", "channel"), ("PATH", "path"), ("UNIT", "unit"), ("AMOUNT", "amount")],
};

/// Say what upstream takes on a channel; `channel margin` sets it against what was charged
#[derive(Debug, Args)]
pub(super) struct CostArgs {
    #[command(subcommand)]
    command: CostCommand,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unit {
    /// Each call
    Call,
    /// Each 1,000 units that the reply counts: characters, tokens
    Kilounit,
}

#[derive(Debug, Subcommand)]
enum CostCommand {
    /// List costs
    #[command(visible_alias = "list")]
    Ls {
        /// Only of this channel
        channel: Option<String>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Set a cost, for calls from now on
    #[command(after_help = "\
Examples:
  filegate channel cost set global 0.06 --path /v1/t2a_v2 --unit kilounit
  filegate channel cost set global 3 --path /v1/voice_clone
  filegate channel cost set global 0.001                  all paths that have no cost of their own")]
    Set {
        /// The channel's name
        channel: String,
        /// How much, such as 0.06
        amount: Money,
        #[command(flatten)]
        what: WhatArgs,
    },
    /// Remove a cost
    Rm {
        /// The channel's name
        channel: String,
        #[command(flatten)]
        what: WhatArgs,
    },
}

#[derive(Debug, Args)]
struct WhatArgs {
    /// For calls of this path, as upstream has it: /v1/t2a_v2 [default: all that have no cost of their own]
    #[arg(long)]
    path: Option<String>,
    /// For what [default: call]
    #[arg(long)]
    unit: Option<Unit>,
}

impl WhatArgs {
    fn into(self, channel: String, call: Call) -> Call {
        let unit = self.unit.unwrap_or(Unit::Call).to_possible_value();
        call.set("channel", Some(channel))
            .set("unit", unit.map(|unit| unit.get_name().to_owned()))
            .set("path", self.path)
    }
}

impl CostArgs {
    pub(super) fn call(self) -> Call {
        match self.command {
            CostCommand::Ls { channel, rows } => {
                Call::list("costs", &COSTS, rows.limit).ask("channel", channel)
            }
            CostCommand::Set { channel, amount, what } => {
                what.into(channel, Call::post("costs")).set("amount", Some(amount))
            }
            CostCommand::Rm { channel, what } => what.into(channel, Call::post("costs/remove")),
        }
    }
}
