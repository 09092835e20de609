//! `filegate token`.

use clap::{Args, Subcommand};
use filegate_types::units::Span;

use super::limits::RowsArg;
use super::request::{Call, Show, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const TOKENS: Table = Table {
    what: "admin tokens",
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("TOKEN", "hint"),
        ("SCOPE", "scope"),
        ("CREATED", "created_at"),
        ("EXPIRES", "expires_at"),
        ("REVOKED", "revoked_at"),
    ],
};

/// Make, list and revoke admin tokens
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, alone, on standard output; it is shown only this once
    ///
    /// On the data directory no token is asked for: this is the way back in when it is lost.
    #[command(after_help = "\
Examples:
  export FILEGATE_ADMIN_TOKEN=$(filegate token create --name me --scope full --data-dir ./filegate-data)
  filegate token create --name dashboard --scope read-only --expires-in 90d")]
    Create {
        /// What to call it, such as who or what uses it
        #[arg(long)]
        name: String,
        /// read-only: look at everything; support: also help clients; full: everything
        #[arg(long, value_parser = ["read-only", "support", "full"])]
        scope: String,
        /// How long it works, such as 12h or 90d [default: until revoked]
        #[arg(long, value_name = "SPAN")]
        expires_in: Option<Span>,
    },
    /// List tokens, newest first
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Refuse a token from the next request on
    Revoke {
        /// Its id as `token ls` shows it
        #[arg(value_name = "TOKEN_ID")]
        id: i64,
        /// Even if it is the last one that can do everything
        #[arg(long)]
        force: bool,
    },
}

pub(crate) fn run(args: TokenArgs, printer: &Printer) -> Result<Exit, Failure> {
    let call = match args.command {
        TokenCommand::Create { name, scope, expires_in } => Call::post("tokens")
            .set("name", Some(name))
            .set("scope", Some(scope))
            .set("expires_in", expires_in)
            .shown(Show::Secret { field: "token", what: "admin token" })
            .making(),
        TokenCommand::Ls { rows } => Call::list("tokens", &TOKENS, rows.limit),
        TokenCommand::Revoke { id, force } => {
            Call::post(format!("tokens/{id}/revoke")).set("force", force.then_some(true))
        }
    };
    run_calls(&args.admin, vec![call], printer)
}
