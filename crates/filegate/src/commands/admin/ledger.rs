//! `filegate ledger`.

use clap::{Args, Subcommand, ValueEnum};
use filegate_types::Money;

use super::limits::RowsArg;
use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const LEDGER: Table = Table {
    what: "ledger entries",
    columns: &[
        ("ID", "id"),
        ("AT", "at"),
        ("ACCOUNT", "account"),
        ("KIND", "kind"),
        ("AMOUNT", "amount"),
        ("BALANCE", "balance"),
        ("CALL", "call"),
        ("KEY", "key_id"),
        ("FILE", "file_id"),
        ("REASON", "reason"),
    ],
};

/// Look at money and move it; amounts are decimal, such as 12.5, and exact to six digits
#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    #[value(name = "top_up")]
    TopUp,
    Adjustment,
    Charge,
    Storage,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// List entries, newest first; the sum of an account's is its balance
    #[command(visible_alias = "list")]
    Ls {
        /// Only entries of this account
        #[arg(long)]
        account: Option<String>,
        /// Only entries of this kind
        #[arg(long)]
        kind: Option<Kind>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Add to a balance what was paid in
    #[command(after_help = "\
Example:
  filegate ledger top-up acme 100 --reason 'invoice 17' --idempotency-key invoice-17")]
    TopUp {
        /// The account
        account: String,
        /// How much
        amount: Money,
        /// What for
        #[arg(long)]
        reason: Option<String>,
    },
    /// Correct a balance, up or down
    #[command(after_help = "Example:\n  filegate ledger adjust acme -2.5 --reason 'entered twice'")]
    Adjust {
        /// The account
        account: String,
        /// By how much; below zero takes away
        #[arg(allow_negative_numbers = true)]
        amount: Money,
        /// Why
        #[arg(long)]
        reason: String,
    },
}

pub(crate) fn run(args: LedgerArgs, printer: &Printer) -> Result<Exit, Failure> {
    let call = match args.command {
        LedgerCommand::Ls { account, kind, rows } => {
            let kind = kind.and_then(|kind| kind.to_possible_value());
            Call::list("ledger", &LEDGER, rows.limit)
                .ask("account", account)
                .ask("kind", kind.map(|kind| kind.get_name().to_owned()))
        }
        LedgerCommand::TopUp { account, amount, reason } => Call::post("ledger/top-up")
            .set("account", Some(account))
            .set("amount", Some(amount))
            .set("reason", reason),
        LedgerCommand::Adjust { account, amount, reason } => Call::post("ledger/adjust")
            .set("account", Some(account))
            .set("amount", Some(amount))
            .set("reason", Some(reason)),
    };
    run_calls(&args.admin, vec![call], printer)
}
