//! `filegate key create|list|revoke`: on the data directory itself, also while a server runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use filegate_store::catalog::KeySelector;
use filegate_store::{Catalog, DataDir, KeyDraft, KeyRow, Reserve};
use filegate_types::{Clock as _, KeyHash, KeyId, PlainKey, Scopes, SystemClock, UnixMillis};
use serde_json::json;

use super::serve::ConfigArgs;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, table, time};

/// Make, list and revoke API keys
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it, alone, on standard output; it is shown only this once
    #[command(after_help = "\
Examples:
  export FILEGATE_KEY=$(filegate key create --name laptop)
  filegate key create --name reader --account acme --scopes files:read,files:list --expires-in 30d")]
    Create(CreateArgs),
    /// List keys: id, account, name, the last four characters, state
    List(ListArgs),
    /// Revoke a key from the next request on
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// What to call the key, such as who or what uses it
    #[arg(long)]
    name: String,

    /// The account whose files it reaches; made on first mention
    #[arg(long, default_value = "default")]
    account: String,

    /// What it may do, of files:write, files:read, files:list, files:delete, relay [default: all]
    #[arg(long, value_name = "SCOPES")]
    scopes: Option<Scopes>,

    /// How long it works, such as 12h or 30d [default: until revoked]
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The id of the key as `key list` shows it
    // Not `key`: arguments are told apart by field name, and that one is the global --key.
    #[arg(value_name = "KEY_ID")]
    revoked: String,
}

pub(crate) fn run(args: KeyArgs, printer: &Printer) -> Result<Exit, Failure> {
    let runtime = super::server_runtime()?;
    match args.command {
        KeyCommand::Create(args) => runtime.block_on(create(args, printer)),
        KeyCommand::List(args) => runtime.block_on(list(&args, printer)),
        KeyCommand::Revoke(args) => runtime.block_on(revoke(&args, printer)),
    }
}

fn open(config: &ConfigArgs, make: bool) -> Result<Catalog, Failure> {
    let path = config.load()?.data_dir;
    let dir = if make { DataDir::open(&path) } else { DataDir::open_existing(&path) };
    let dir = dir.map_err(|error| Failure::Usage(format!("{:#}", anyhow::Error::from(error))))?;
    let reserve = Arc::new(Reserve::of(&dir));
    Ok(Catalog::open(&dir, reserve).context("cannot open the catalog")?)
}

async fn create(args: CreateArgs, printer: &Printer) -> Result<Exit, Failure> {
    for (what, text) in [("--name", &args.name), ("--account", &args.account)] {
        if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
            let why = format!("{what} must be 1 to 255 bytes without control characters");
            return Err(Failure::Usage(why));
        }
    }
    let catalog = open(&args.config, true)?;
    let now = SystemClock.now();
    let key = filegate_server::new_key();
    let draft = KeyDraft {
        account: args.account.clone(),
        name: args.name.clone(),
        hash: key.hash(),
        hint: key.hint().to_owned(),
        scopes: args.scopes.unwrap_or_else(Scopes::all),
        expires_at: args.expires_in.map(|span| now.plus(span)),
    };
    let key_id = catalog.create_key(draft, now).await.context("cannot create the key")?;
    show(&key, key_id, &args, printer)
}

fn show(
    key: &PlainKey,
    key_id: KeyId,
    args: &CreateArgs,
    printer: &Printer,
) -> Result<Exit, Failure> {
    if printer.style() == Style::Json {
        printer.json(&json!({
            "key": key.expose(), "key_id": key_id.0, "name": args.name, "account": args.account,
        }))?;
        return Ok(Exit::Ok);
    }
    printer.result(key.expose())?;
    printer.note(&format!(
        "key {key_id} ({}) of account {}; it is not shown again",
        escape(&args.name),
        escape(&args.account)
    ));
    Ok(Exit::Ok)
}

async fn list(args: &ListArgs, printer: &Printer) -> Result<Exit, Failure> {
    let catalog = open(&args.config, false)?;
    let keys = catalog.keys().await.context("cannot list the keys")?;
    let now = SystemClock.now();
    match printer.style() {
        Style::Json => {
            for key in &keys {
                printer.json(&json!({
                    "key_id": key.key_id.0, "account": key.account, "name": key.name,
                    "hint": key.hint, "scopes": key.scopes.to_string(), "state": state(key, now),
                    "created_at": key.created_at.seconds(),
                    "expires_at": key.expires_at.map(UnixMillis::seconds),
                    "revoked_at": key.revoked_at.map(UnixMillis::seconds),
                }))?;
            }
        }
        Style::Ids => {
            for key in &keys {
                printer.result(&key.key_id.to_string())?;
            }
        }
        Style::Human => {
            let row = |key: &KeyRow| {
                vec![
                    key.key_id.to_string(),
                    escape(&key.account),
                    escape(&key.name),
                    format!("…{}", key.hint),
                    state(key, now).to_owned(),
                    time(key.created_at.seconds()),
                    key.scopes.to_string(),
                ]
            };
            let rows: Vec<_> = keys.iter().map(row).collect();
            let titles = ["ID", "ACCOUNT", "NAME", "KEY", "STATE", "CREATED", "SCOPES"];
            for line in table(&titles, &["ID"], &rows) {
                printer.result(&line)?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn state(key: &KeyRow, now: UnixMillis) -> &'static str {
    if key.revoked_at.is_some() {
        "revoked"
    } else if key.expires_at.is_some_and(|at| at <= now) {
        "expired"
    } else {
        "active"
    }
}

async fn revoke(args: &RevokeArgs, printer: &Printer) -> Result<Exit, Failure> {
    let selector = match args.revoked.parse::<i64>() {
        Ok(id) => KeySelector::Id(KeyId(id)),
        // Somebody who has only the key itself, such as one found in a log, can revoke it too.
        Err(_) if args.revoked.starts_with("fg-") => KeySelector::Hash(KeyHash::of(&args.revoked)),
        Err(_) => {
            return Err(Failure::Usage(format!(
                "{} is not the id of a key; `filegate key list` shows them",
                escape(&args.revoked)
            )));
        }
    };
    let catalog = open(&args.config, false)?;
    let found = catalog.revoke_key(selector, SystemClock.now()).await;
    if !found.context("cannot revoke the key")? {
        printer.error("there is no such key; `filegate key list` shows them");
        return Ok(Exit::Refused);
    }
    printer.note("revoked; the next request with it is refused");
    Ok(Exit::Ok)
}
