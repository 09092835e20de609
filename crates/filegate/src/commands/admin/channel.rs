//! `filegate channel`.

mod cost;
mod key;
mod margin;
mod trial;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::runtime::Builder;

use self::cost::CostArgs;
use self::key::{KeyArgs, OptionalKeyArgs};
use self::margin::MarginArgs;
use self::trial::TrialArgs;
use super::limits::{NamesOrAny, OrNone, RowsArg, merged};
use super::request::{Call, Table, encode};
use super::transport::{Attempt, Transport};
use super::{AdminArgs, run as run_calls, show};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::text::escape;

const CHANNELS: Table = Table {
    what: "channels; calls that are not for files are refused",
    columns: &[
        ("NAME", "id"),
        ("ACCOUNT", "account"),
        ("BASE URL", "base_url"),
        ("KEY", "key_hint"),
        ("STATE", "state"),
        ("CONDITION", "condition"),
        ("UNTIL", "condition_until"),
        ("PRIORITY", "settings.priority"),
        ("WEIGHT", "settings.weight"),
        ("REGION", "settings.region"),
        ("CREATED", "created_at"),
        ("WHY", "condition_why"),
    ],
};

/// How often it is asked how far a drain is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Add, look at, test and remove channels: the MiniMax accounts that calls are relayed to
///
/// With the first channel the gateway begins to relay: speech, voices, videos and whatever else clients call
/// beside files goes to a channel, with the channel's key and never the client's.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  export MINIMAX_API_KEY=…                      a key of platform.minimax.io
  filegate channel add global --base-url https://api.minimax.io --key-env MINIMAX_API_KEY
  filegate channel test global                  is the key known there, and do uploads work?
  filegate channel ls                           who is well, who is limited, and why
  filegate channel drain global                 before it goes: its files are copied elsewhere
  filegate channel rm global")]
pub(crate) struct ChannelArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: ChannelCommand,
}

#[derive(Debug, Subcommand)]
enum ChannelCommand {
    /// Add a channel
    ///
    /// The key is sealed before it is stored, and shown by nothing again but for its last four characters. It is
    /// read from a variable, a file or standard input, since other users of this machine can read command lines.
    #[command(after_help = "\
Examples:
  filegate channel add global --base-url https://api.minimax.io --key-env MINIMAX_API_KEY
  filegate channel add cn --base-url https://api.minimaxi.com --region cn --key-file /run/secrets/cn --weight 3
  pass show minimax | filegate channel add spare --base-url https://api.minimax.io --priority -1 --key-file -
  filegate channel add acme-own --account acme --base-url https://api.minimax.io --key-env ACME_KEY")]
    Add(Box<AddArgs>),
    /// List channels, newest first: where they are, what their answers say of them
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that this account brought
        #[arg(long)]
        account: Option<String>,
        /// Only those of this state [default: all that are not removed]
        #[arg(long)]
        state: Option<State>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Show one: where it is, the end of its key, limits, condition
    Show {
        /// Its name
        name: String,
    },
    /// Change a channel; what is not named stays
    ///
    /// A new key is used from the next call on. A new base URL comes with its key only: the key is sealed for the
    /// place that it is sent to.
    #[command(after_help = "\
Examples:
  filegate channel set global --key-env NEW_KEY
  filegate channel set global --weight 2 --max-rpm 120 --purposes voice_clone,prompt_audio
  filegate channel set global --base-url https://api.minimaxi.com --key-env CN_KEY --region cn")]
    Set(Box<SetArgs>),
    Test(TrialArgs),
    /// Take no new work on a channel, and have its files copied to others
    ///
    /// Calls that can go nowhere else still go there: to tasks that run and voices that were made there. Files that
    /// were used in the last 30 days are copied by the running gateway; this waits until all are. Then tasks and
    /// voices that stay are told.
    #[command(after_help = "\
Examples:
  filegate channel drain global
  filegate channel drain global --no-wait; filegate channel enable global   # and back")]
    Drain {
        /// Its name
        name: String,
        /// Return at once; given again without it, the command goes on waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Send no call to a channel; what is there stays
    Disable {
        /// Its name
        name: String,
    },
    /// Send calls to a channel again, whatever it answered before
    Enable {
        /// Its name
        name: String,
    },
    /// Remove a channel: its key is erased, and its name is free
    ///
    /// Files stay: they are copied to another channel when a call needs them. Tasks and voices that were made there
    /// are lost to clients; the answer counts them.
    Rm {
        /// Its name
        name: String,
    },
    /// Seal the keys of all channels with the first sealing key; for its rotation
    #[command(after_help = "\
The sealing keys are one a line in relay.secret_key_file, or in secret.key of the data directory:
  1  put a new one before the old: openssl rand -base64 32 (on all replicas; they read the file when they need it)
  2  filegate channel reseal
  3  remove the old one, when `unopened` of the answer is empty")]
    Reseal,
    Cost(CostArgs),
    Margin(MarginArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Active,
    Draining,
    Disabled,
    Removed,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// What to call it: letters, digits, dots, hyphens, underscores
    name: String,

    /// Where it is, such as `https://api.minimax.io`; a final /v1 is taken off
    #[arg(long, value_name = "URL")]
    base_url: String,

    /// The account that brings it, and alone may use it [default: the operator's, for all]
    #[arg(long)]
    account: Option<String>,

    #[command(flatten)]
    key: KeyArgs,

    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// Its name
    name: String,

    /// Where it is from now on
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,

    #[command(flatten)]
    key: OptionalKeyArgs,

    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "How it is used (`none` takes a value away)")]
struct SettingsArgs {
    /// Its share of the calls among channels of the same priority; 0: only what can go nowhere else [default: 1]
    #[arg(long, value_name = "N")]
    weight: Option<u32>,

    /// Channels with a higher priority are used first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,

    /// Calls in a minute
    #[arg(long, value_name = "N")]
    max_rpm: Option<OrNone<u32>>,

    /// Calls in progress at a time
    #[arg(long, value_name = "N")]
    max_concurrency: Option<OrNone<u32>>,

    /// Only files of these purposes may be copied there, with commas between them; `any`
    #[arg(long, value_name = "PURPOSES")]
    purposes: Option<NamesOrAny>,

    /// Where the account is, for people: global, cn
    #[arg(long, value_name = "REGION")]
    region: Option<OrNone<String>>,

    /// The GroupId that old accounts need in the query
    #[arg(long, value_name = "ID")]
    group_id: Option<OrNone<String>>,
}

impl SettingsArgs {
    /// What was given, if anything.
    fn given(&self) -> Option<Map<String, Value>> {
        let fields = [
            ("weight", self.weight.map(|v| json!(v))),
            ("priority", self.priority.map(|v| json!(v))),
            ("max_rpm", self.max_rpm.as_ref().map(|v| json!(v))),
            ("max_concurrency", self.max_concurrency.as_ref().map(|v| json!(v))),
            ("purposes", self.purposes.as_ref().map(|v| json!(v))),
            ("region", self.region.as_ref().map(|v| json!(v))),
            ("group_id", self.group_id.as_ref().map(|v| json!(v))),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Some(given.collect::<Map<_, _>>()).filter(|fields| !fields.is_empty())
    }
}

pub(crate) fn run(args: ChannelArgs, printer: &Printer) -> Result<Exit, Failure> {
    let act = |name: &str, what: &str| Call::post(format!("{}/{what}", path(name)));
    let call = match args.command {
        ChannelCommand::Add(add) => Call::post("channels")
            .set("name", Some(add.name))
            .set("base_url", Some(add.base_url))
            .set("account", add.account)
            .set("settings", add.settings.given().map(|given| merged(None, &given)))
            .set("key", Some(add.key.read()?))
            .making(),
        ChannelCommand::Ls { account, state, rows } => {
            let state = state.and_then(|state| state.to_possible_value());
            Call::list("channels", &CHANNELS, rows.limit)
                .ask("account", account)
                .ask("state", state.map(|state| state.get_name().to_owned()))
        }
        ChannelCommand::Show { name } => Call::get(path(&name)),
        ChannelCommand::Set(set) => change(*set)?,
        ChannelCommand::Test(trial) => return trial::run(&args.admin, trial, printer),
        ChannelCommand::Drain { name, no_wait } if no_wait || args.admin.dry_run => {
            act(&name, "drain")
        }
        ChannelCommand::Drain { name, .. } => return drain(&args.admin, &name, printer),
        ChannelCommand::Disable { name } => act(&name, "disable"),
        ChannelCommand::Enable { name } => act(&name, "enable"),
        ChannelCommand::Rm { name } => act(&name, "remove"),
        ChannelCommand::Reseal => Call::post("reseal"),
        ChannelCommand::Cost(costs) => costs.call(),
        ChannelCommand::Margin(margin) => margin.call(),
    };
    run_calls(&args.admin, vec![call], printer)
}

fn path(name: &str) -> String {
    format!("channels/{}", encode(name))
}

fn change(set: SetArgs) -> Result<Call, Failure> {
    let (key, settings) = (set.key.read()?, set.settings.given());
    if key.is_none() && settings.is_none() && set.base_url.is_none() {
        return Err(Failure::Usage("nothing to set; see `channel set --help`".to_owned()));
    }
    if key.is_none() && set.base_url.is_some() {
        let why =
            "--base-url comes with --key-env or --key-file: the key is sealed for where it is sent";
        return Err(Failure::Usage(why.to_owned()));
    }
    Ok(Call::post(path(&set.name))
        .set("base_url", set.base_url)
        .set("key", key)
        .merging([("settings", settings)]))
}

/// Begins a drain, and waits until the gateway has copied what it can.
fn drain(admin: &AdminArgs, name: &str, printer: &Printer) -> Result<Exit, Failure> {
    super::super::block_on(Builder::new_multi_thread(), async {
        let transport = Transport::open(admin, false, printer).await?;
        let drained = wait_for_drain(&transport, admin, name, printer).await;
        transport.close().await;
        drained
    })
}

async fn wait_for_drain(
    transport: &Transport,
    admin: &AdminArgs,
    name: &str,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let attempt = Attempt::new(admin, None)?;
    let begin = Call::post(format!("{}/drain", path(name)));
    transport.json(&begin, &attempt, &[], printer).await?;
    let look = Call::get(format!("{}/drain", path(name)));
    let mut bar = None;
    loop {
        let progress = transport.json(&look, &attempt, &[], printer).await?;
        let number = |field: &str| progress[field].as_u64().unwrap_or(0);
        if progress["state"] != "draining" {
            let text = format!("{} is not being drained any more", escape(name));
            return Err(Failure::Problem { exit: Exit::Refused, text });
        }
        let shown = bar.get_or_insert_with(|| bar_of(printer, number("files")));
        shown.set_length(number("files"));
        shown.set_position(number("moved") + number("failed"));
        if progress["done"] == true {
            shown.finish_and_clear();
            show::record(&progress, printer)?;
            return Ok(told(number("failed"), printer));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn told(failed: u64, printer: &Printer) -> Exit {
    if failed == 0 {
        return Exit::Ok;
    }
    printer.error(&format!("{failed} files are nowhere else yet; `filegate job ls` says why"));
    Exit::Refused
}

fn bar_of(printer: &Printer, files: u64) -> ProgressBar {
    if files > 0 {
        printer.note("the running gateway copies files; Ctrl-C ends the waiting only");
    }
    if !printer.shows_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files, {elapsed}");
    ProgressBar::new(files).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
