//! `filegate price`.

use clap::{Args, Subcommand, ValueEnum};
use filegate_types::{Call as Priced, Money};

use super::limits::RowsArg;
use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const PRICES: Table = Table {
    what: "prices; everything is free",
    columns: &[
        ("CALL", "call"),
        ("UNIT", "unit"),
        ("PURPOSE OR PATH", "purpose"),
        ("AMOUNT", "amount"),
    ],
};

/// Look at prices and set them; what has none is free
#[derive(Debug, Args)]
pub(crate) struct PriceArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: PriceCommand,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unit {
    /// Each call
    Call,
    /// Each MiB of an upload
    Mib,
    /// Each GiB that is stored for a day; of files.storage only
    #[value(name = "gib_day")]
    GibDay,
    /// Each 1,000 units that the reply to a relayed call counts: characters, tokens
    Kilounit,
}

#[derive(Debug, Subcommand)]
enum PriceCommand {
    /// List prices
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Set a price from the next call on
    #[command(after_help = "\
Examples:
  filegate price set files.upload 0.001
  filegate price set files.upload 0.0002 --unit mib --purpose voice_clone
  filegate price set files.storage 0.01 --unit gib_day
  filegate price set relay 0.12 --path /v1/t2a_v2 --unit kilounit
  filegate price set relay 0.001                         every relayed call without a price of its own")]
    Set {
        #[command(flatten)]
        what: WhatArgs,
        /// How much, such as 0.001
        amount: Money,
    },
    /// Remove a price
    Rm {
        #[command(flatten)]
        what: WhatArgs,
    },
}

#[derive(Debug, Args)]
struct WhatArgs {
    /// Of files.upload, files.list, files.retrieve, files.content, files.delete, files.storage, relay
    #[arg(value_name = "CALL")]
    call: Priced,
    /// For what [default: call]
    #[arg(long)]
    unit: Option<Unit>,
    /// For files of this purpose only [default: for all that have no price of their own]
    #[arg(long)]
    purpose: Option<String>,
    /// For relayed calls of this path only, as upstream has it: /v1/t2a_v2
    #[arg(long, conflicts_with = "purpose")]
    path: Option<String>,
}

impl WhatArgs {
    fn into(self, call: Call) -> Call {
        let unit = self.unit.unwrap_or(Unit::Call).to_possible_value();
        call.set("call", Some(self.call))
            .set("unit", unit.map(|unit| unit.get_name().to_owned()))
            .set("purpose", self.purpose)
            .set("path", self.path)
    }
}

pub(crate) fn run(args: PriceArgs, printer: &Printer) -> Result<Exit, Failure> {
    let call = match args.command {
        PriceCommand::Ls { rows } => Call::list("prices", &PRICES, rows.limit),
        PriceCommand::Set { what, amount } => {
            what.into(Call::post("prices")).set("amount", Some(amount)).making()
        }
        PriceCommand::Rm { what } => what.into(Call::post("prices/remove")),
    };
    run_calls(&args.admin, vec![call], printer)
}
