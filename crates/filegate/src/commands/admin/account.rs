//! `filegate account`.

use clap::{Args, Subcommand};
use filegate_types::Money;

use super::limits::{AccountLimitArgs, RowsArg, merged};
use super::request::{Call, Table, encode};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const ACCOUNTS: Table = Table {
    what: "accounts",
    columns: &[
        ("NAME", "name"),
        ("STATE", "state"),
        ("BALANCE", "balance"),
        ("HELD", "held"),
        ("AVAILABLE", "available"),
        ("FILES", "stored_files"),
        ("STORED", "stored_bytes"),
        ("KEYS", "keys"),
        ("CREATED", "created_at"),
    ],
};

/// Make, look at and change accounts: who owns keys, files and a balance
#[derive(Debug, Args)]
pub(crate) struct AccountArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Make an account
    #[command(after_help = "\
Examples:
  filegate account create --name acme --balance 0.01
  filegate account create --name acme --requests-per-minute 600 --stored-bytes 50GiB --keep-max 30d")]
    Create {
        /// What to call it; nothing else may have the name
        #[arg(long)]
        name: String,
        /// What it can spend from the start, such as 12.5 [default: 0]
        #[arg(long, value_name = "AMOUNT")]
        balance: Option<Money>,
        #[command(flatten)]
        limits: AccountLimitArgs,
    },
    /// Show one: balance, what is held, what is stored, limits
    #[command(after_help = "Example:\n  filegate account show acme --json | jq -r .available")]
    Show {
        /// Its name
        name: String,
    },
    /// List accounts, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only the one of this name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Change limits and settings; what is not named stays
    #[command(after_help = "\
Examples:
  filegate account set acme --requests-per-minute 60 --files-per-purpose voice_clone=100
  filegate account set acme --stored-bytes none --keep-max 7d
  filegate account set acme --channels global,spare --replicate on_upload --keep-outputs true")]
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        limits: AccountLimitArgs,
    },
    /// Refuse all calls of its keys from the next one on; its files stay
    Disable {
        /// Its name
        name: String,
    },
    /// Take its keys again
    Enable {
        /// Its name
        name: String,
    },
}

pub(crate) fn run(args: AccountArgs, printer: &Printer) -> Result<Exit, Failure> {
    let path = |name: &str| format!("accounts/{}", encode(name));
    let call = match args.command {
        AccountCommand::Create { name, balance, limits } => Call::post("accounts")
            .set("name", Some(name))
            .set("balance", balance)
            .set("limits", limits.limits().map(|given| merged(None, &given)))
            .set("settings", limits.settings().map(|given| merged(None, &given)))
            .making(),
        AccountCommand::Show { name } => Call::get(path(&name)),
        AccountCommand::Ls { name, rows } => {
            Call::list("accounts", &ACCOUNTS, rows.limit).ask("name", name)
        }
        AccountCommand::Set { name, limits } => {
            let given = [("limits", limits.limits()), ("settings", limits.settings())];
            if given.iter().all(|(_, fields)| fields.is_none()) {
                return Err(Failure::Usage("nothing to set; see `account set --help`".to_owned()));
            }
            Call::post(path(&name)).merging(given)
        }
        AccountCommand::Disable { name } => Call::post(path(&name)).set("state", Some("disabled")),
        AccountCommand::Enable { name } => Call::post(path(&name)).set("state", Some("active")),
    };
    run_calls(&args.admin, vec![call], printer)
}
