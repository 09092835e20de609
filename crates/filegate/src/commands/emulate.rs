//! `filegate emulate`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use filegate_emulator::{AccountOptions, ClockMode, Emulator, Options, Script, made_key};
use filegate_types::units::{Bytes, Span};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Secret;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};

/// Accounts that can be asked for.
const ACCOUNTS_MAX: u16 = 1000;

/// Stand in for MiniMax in tests: its files, voices, speech and videos, with faults on order
///
/// Point a test suite at the printed address instead of api.minimax.io, with the printed key. Everything is
/// answered in upstream's shapes, codes and quirks, from memory, and forgotten at the end. Audio decodes, videos
/// play; neither means anything.
///
/// Served below /v1: files/{upload,list,retrieve,retrieve_content,delete}, voice_clone, get_voice, delete_voice,
/// t2a_v2 (also as a stream, and at /ws/v1/t2a_v2), t2a_async_v2, video_generation, and both queries. Other paths are
/// upstream's plain 404.
///
/// Tests control it under /emulate, without a key: POST clock {"advance":"10m"} makes time pass (tasks end, files and
/// links expire), POST faults makes calls fail, GET calls says what was asked, POST reset forgets it all.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate emulate --listen 127.0.0.1:9090 --key sk-test
  filegate emulate --accounts 5 --json                   five accounts, a1 to a5, for tests of a relay
  filegate emulate --key shop=sk-1 --key blog=sk-2 --faults faults.toml --seed 7
  filegate emulate --clock standing --task-time 1m       time passes only when a test says so

A file of faults, of which the first that strikes a call counts:
  [[fault]]
  path = \"/v1/t2a_v2\"         # all if absent; may end in *
  account = \"a1\"              # all if absent
  kind = \"rate_limited\"       # 1002
  for = \"30s\"                 # from its first hit; or count = 3, skip = 1, probability = 0.1

Kinds: rate_limited banned out_of_balance unverified file_expired code http stall delay reset_request
reset_answer lost_answer truncated slow_request slow_answer task_fails. docs/EMULATOR.md has the table.")]
pub(crate) struct EmulateArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// An account with this key; a name can stand in front. May be repeated [default: one made key]
    // The same id as the global --key, which clap then leaves out here; so the types must agree.
    #[arg(id = "key", long = "key", value_name = "[NAME=]KEY")]
    keys: Vec<Secret>,

    /// So many accounts, a1, a2 and so on, with made keys
    #[arg(long, value_name = "N", conflicts_with = "key",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(ACCOUNTS_MAX)))]
    accounts: Option<u16>,

    /// A TOML file of faults that are in force from the start
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,

    /// Where ids, keys and the luck of faults come from; the same seed, clock standing, gives the same run
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Whether time passes by itself
    #[arg(long, value_enum, default_value_t = ClockArg::Running)]
    clock: ClockArg,

    /// How long a video or a long text takes, by the emulator's clock
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    task_time: Span,

    /// Units that each account may spend (a character of speech is 1) [default: no limit]
    #[arg(long, value_name = "UNITS")]
    balance: Option<u64>,

    /// Bytes of files and results that are held
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    memory_max: Bytes,

    /// Keep headers and so much of the body of each call for /emulate/calls; the last 20,000 are kept
    #[arg(long, value_name = "SIZE", default_value = "0")]
    record_bodies: Bytes,

    /// What links begin with, when clients reach it through something else, such as a TLS proxy
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClockArg {
    /// With the machine's, and whatever it is moved on
    Running,
    /// Only when it is moved on, from 2026-01-01T00:00:00Z
    Standing,
}

impl EmulateArgs {
    fn options(&self) -> Result<Options, Failure> {
        let script = self.faults.as_deref().map(Script::load).transpose();
        let script = script.map_err(|error| Failure::Usage(format!("--faults: {error}")))?;
        Ok(Options {
            listen: self.listen,
            accounts: self.named_accounts()?,
            script: script.unwrap_or_default(),
            seed: self.seed,
            clock: match self.clock {
                ClockArg::Running => ClockMode::Running,
                ClockArg::Standing => ClockMode::Standing,
            },
            memory_max: self.memory_max,
            task_time: self.task_time.0,
            balance: self.balance,
            record_body_max: self.record_bodies,
            public_url: self.public_url.clone(),
        })
    }

    fn named_accounts(&self) -> Result<Vec<AccountOptions>, Failure> {
        let name = |nth: usize| format!("a{}", nth + 1);
        // FILEGATE_KEY arrives as a --key; with --accounts it is meant for other commands.
        if self.accounts.is_some() || self.keys.is_empty() {
            let count = usize::from(self.accounts.unwrap_or(1));
            let made = |nth| AccountOptions { name: name(nth), key: made_key(self.seed, nth) };
            return Ok((0..count).map(made).collect());
        }
        let mut accounts: Vec<AccountOptions> = Vec::new();
        for (nth, Secret(text)) in self.keys.iter().enumerate() {
            let (name, key) = match text.split_once('=') {
                Some((name, key)) => (name.to_owned(), key.to_owned()),
                None => (name(nth), text.clone()),
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                return Err(Failure::Usage(
                    "a name of an account has letters, digits, -, _ and .".to_owned(),
                ));
            }
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Failure::Usage(format!(
                    "the key of {name} is empty or not plain text"
                )));
            }
            if accounts.iter().any(|account| account.name == name || account.key == key) {
                return Err(Failure::Usage(format!(
                    "the name or the key of {name} is given twice"
                )));
            }
            accounts.push(AccountOptions { name, key });
        }
        Ok(accounts)
    }
}

pub(crate) fn run(args: &EmulateArgs, printer: &Printer) -> Result<Exit, Failure> {
    let options = args.options()?;
    if printer.is_verbose() {
        super::log_to_stderr("filegate_emulator=info");
    }
    super::server_runtime()?.block_on(emulate(options, printer))
}

async fn emulate(options: Options, printer: &Printer) -> Result<Exit, Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let (listen, accounts) = (options.listen, options.accounts.clone());
    let emulator = Emulator::start(options)
        .await
        .map_err(|source| Failure::Local { what: format!("cannot listen on {listen}"), source })?;
    announce(&emulator, &accounts, printer)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    emulator.stop().await;
    Ok(Exit::Ok)
}

/// Address and keys, on stdout: scripts read them.
fn announce(
    emulator: &Emulator,
    accounts: &[AccountOptions],
    printer: &Printer,
) -> Result<(), Failure> {
    let url = format!("http://{}", emulator.address);
    match printer.style() {
        Style::Json => {
            let keys: Vec<_> = accounts
                .iter()
                .map(|account| json!({"name": account.name, "key": account.key}))
                .collect();
            printer.json(&json!({"url": url, "accounts": keys}))?;
        }
        Style::Ids => printer.result(&url)?,
        Style::Human => {
            printer.result(&format!("MiniMax is emulated on {url}"))?;
            for account in accounts {
                printer.result(&format!("  account {}  key {}", account.name, account.key))?;
            }
            printer.note("try: curl -s -H \"Authorization: Bearer KEY\" URL/v1/files/list");
            printer.note("control: /emulate/{accounts,calls,clock,faults,reset}; Ctrl-C ends it");
        }
    }
    printer.flush()?;
    Ok(())
}
