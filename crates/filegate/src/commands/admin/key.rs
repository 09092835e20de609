//! `filegate key`.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use filegate_server::Stores;
use filegate_store::Caller;
use filegate_types::units::Span;
use filegate_types::{Call as Priced, Clock as _, KeyHash, Scopes, SystemClock};

use super::limits::{LimitArgs, NamesOrAny, OrNone, RowsArg, merged};
use super::request::{Call, Show, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::text::escape;

const KEYS: Table = Table {
    what: "keys",
    columns: &[
        ("ID", "id"),
        ("ACCOUNT", "account"),
        ("NAME", "name"),
        ("KEY", "hint"),
        ("CREATED", "created_at"),
        ("EXPIRES", "expires_at"),
        ("REVOKED", "revoked_at"),
        ("REPLACES", "replaces"),
        ("PURPOSES", "purposes"),
        ("NETWORKS", "networks"),
        ("SCOPES", "scopes"),
    ],
};

/// A key is shown once, alone on standard output.
const KEY: Show = Show::Secret { field: "key", what: "key" };

/// Make, list, change, rotate and revoke API keys
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it, alone, on standard output; it is shown only this once
    #[command(after_help = "\
Examples:
  export FILEGATE_KEY=$(filegate key create --name laptop)
  filegate key create --name reader --account acme --scopes files:read,files:list --expires-in 30d
  filegate key create --name office --account acme --networks 192.0.2.0/24 --purposes voice_clone")]
    Create(Box<CreateArgs>),
    /// List keys, newest first: id, account, name, the last four characters, what they may do
    #[command(visible_alias = "list")]
    Ls {
        /// Only keys of this account
        #[arg(long)]
        account: Option<String>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Show one: rights, limits, when it ends
    Show {
        /// Its id as `key ls` shows it
        #[arg(value_name = "KEY_ID")]
        key_id: i64,
    },
    /// Change a key's rights and limits; what is not named stays
    #[command(after_help = "\
Examples:
  filegate key set 7 --scopes files:read,files:list
  filegate key set 7 --networks any --requests-per-minute 60 --expires-in none")]
    Set(Box<SetArgs>),
    /// Refuse a key from the next request on
    Revoke {
        /// Its id as `key ls` shows it; on the data directory also the key itself
        // Not `key`: arguments are told apart by field name, and that one is the global --key.
        #[arg(value_name = "KEY_ID")]
        revoked: String,
    },
    /// Make a key with the same rights, which replaces this one after a time in which both work
    #[command(after_help = "Example:\n  filegate key rotate 7 --overlap 24h")]
    Rotate {
        /// Its id as `key ls` shows it
        #[arg(value_name = "KEY_ID")]
        key_id: i64,
        /// How long the old key still works [default: 24h]
        #[arg(long, value_name = "SPAN")]
        overlap: Option<Span>,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What to call the key, such as who or what uses it
    #[arg(long)]
    name: String,

    /// The account whose files it reaches; made on first mention [default: default]
    #[arg(long)]
    account: Option<String>,

    #[command(flatten)]
    rights: RightsArgs,

    /// How long it works, such as 12h or 30d [default: until revoked]
    #[arg(long, value_name = "SPAN")]
    expires_in: Option<Span>,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// Its id as `key ls` shows it
    #[arg(value_name = "KEY_ID")]
    key_id: i64,

    /// What to call it
    #[arg(long)]
    name: Option<String>,

    #[command(flatten)]
    rights: RightsArgs,

    /// How long it works from now, such as 12h or 30d; `none`: until revoked
    #[arg(long, value_name = "SPAN")]
    expires_in: Option<OrNone<Span>>,
}

#[derive(Debug, Args)]
struct RightsArgs {
    /// What it may do, of files:write, files:read, files:list, files:delete, relay [default: all]
    #[arg(long, value_name = "SCOPES")]
    scopes: Option<Scopes>,

    /// Only files of these purposes, with commas between them; `any`
    #[arg(long, value_name = "PURPOSES")]
    purposes: Option<NamesOrAny>,

    /// Only from these networks, such as 192.0.2.0/24,2001:db8::/32; `any`
    #[arg(long, value_name = "NETWORKS")]
    networks: Option<NamesOrAny>,

    #[command(flatten)]
    limits: LimitArgs,
}

impl RightsArgs {
    fn into(self, call: Call) -> Call {
        call.set("scopes", self.scopes.map(|scopes| scopes.to_string()))
            .set("purposes", self.purposes)
            .set("networks", self.networks)
    }
}

pub(crate) fn run(args: KeyArgs, printer: &Printer) -> Result<Exit, Failure> {
    let call = match args.command {
        KeyCommand::Create(args) => {
            let limits = args.rights.limits.of_key().map(|given| merged(None, &given));
            let call = Call::post("keys")
                .set("name", Some(args.name))
                .set("account", args.account)
                .set("limits", limits)
                .set("expires_in", args.expires_in);
            args.rights.into(call).shown(KEY).making()
        }
        KeyCommand::Ls { account, rows } => {
            Call::list("keys", &KEYS, rows.limit).ask("account", account)
        }
        KeyCommand::Show { key_id } => Call::get(format!("keys/{key_id}")),
        KeyCommand::Set(args) => {
            let limits = args.rights.limits.of_key();
            let call = Call::post(format!("keys/{}", args.key_id))
                .set("name", args.name)
                .set("expires_in", args.expires_in)
                .merging([("limits", limits)]);
            args.rights.into(call)
        }
        KeyCommand::Revoke { revoked } => {
            Call::post(format!("keys/{}/revoke", id_of(&revoked, &args.admin)?))
        }
        KeyCommand::Rotate { key_id, overlap } => {
            Call::post(format!("keys/{key_id}/rotate")).set("overlap", overlap).shown(KEY)
        }
    };
    run_calls(&args.admin, vec![call], printer)
}

/// The id of a key, which on the data directory can also be named by the key itself: somebody who has
/// only that, such as one found in a log, can revoke it too.
fn id_of(text: &str, admin: &AdminArgs) -> Result<i64, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    if !text.starts_with("fg-") {
        return Err(Failure::Usage(format!(
            "{} is not the id of a key; `filegate key ls` shows them",
            escape(text)
        )));
    }
    if admin.is_remote()? {
        return Err(Failure::Usage(
            "the key itself is looked up in the catalog only: give its id; `filegate key ls` \
             shows the last four characters of each"
                .to_owned(),
        ));
    }
    let found = super::super::server_runtime()?.block_on(async {
        let stores = Stores::open(&admin.existing_store()?).await;
        let catalog = stores.context("cannot open the catalog")?.catalog;
        let who = catalog.authenticate(KeyHash::of(text), Priced::List, SystemClock.now()).await;
        who.context("cannot look the key up").map_err(Failure::from)
    })?;
    match found {
        Some(Caller::Active(principal)) => Ok(principal.key_id.0),
        Some(Caller::Disabled(key_id)) => Ok(key_id.0),
        None => Err(Failure::Problem {
            exit: Exit::Refused,
            text: "there is no such key that works; `filegate key ls` shows all".to_owned(),
        }),
    }
}
