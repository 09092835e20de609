//! The commands, one a file, and what they share.

pub(crate) mod admin;
pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod emulate;
pub(crate) mod fsck;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod migrate;
pub(crate) mod rm;
pub(crate) mod serve;
pub(crate) mod upload;

use filegate_client::{Client, ClientConfig, Error as ClientError, Key};
use tokio::runtime::{Builder, Runtime};

use crate::cli::{Cli, Command, GlobalArgs};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// Runs the command.
pub(crate) fn run(cli: Cli, printer: &Printer) -> Result<Exit, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(&args, printer),
        Command::Demo(args) => demo::run(&args, printer),
        Command::Account(args) => admin::account::run(args, printer),
        Command::Channel(args) => admin::channel::run(args, printer),
        Command::Key(args) => admin::key::run(args, printer),
        Command::File(args) => admin::file::run(args, printer),
        Command::Receipt(args) => admin::receipt::run(args, printer),
        Command::Ledger(args) => admin::ledger::run(args, printer),
        Command::Price(args) => admin::price::run(args, printer),
        Command::Moderation(args) => admin::moderation::run(args, printer),
        Command::Usage(args) => admin::usage::run(args, printer),
        Command::Audit(args) => admin::audit::run(args, printer),
        Command::Job(args) => admin::job::run(args, printer),
        Command::Inflight(args) => admin::inflight::run(args, printer),
        Command::Policy(args) => admin::policy::run(&args, printer),
        Command::Config(args) => admin::config::run(&args, printer),
        Command::Token(args) => admin::token::run(args, printer),
        Command::Backup(args) => admin::backup::run(args, printer),
        Command::Fsck(args) => fsck::run(&args, printer),
        Command::Migrate(args) => migrate::run(&args, printer),
        Command::Doctor(args) => doctor::run(&args, printer),
        Command::Health(args) => health::run(&args, &global, printer),
        Command::Upload(args) => {
            client_command(&global, async |client| upload::run(args, &client, printer).await)
        }
        Command::Ls(args) => {
            client_command(&global, async |client| ls::run(args, &client, printer).await)
        }
        Command::Info(args) => {
            client_command(&global, async |client| info::run(args, &client, printer).await)
        }
        Command::Get(args) => {
            client_command(&global, async |client| get::run(args, &client, printer).await)
        }
        Command::Rm(args) => {
            client_command(&global, async |client| rm::run(args, &client, printer).await)
        }
        Command::Emulate(args) => emulate::run(&args, printer),
        Command::Bench(args) => bench::run(&args, &global, printer),
    }
}

/// Threads for what blocks: more than work for the disk and the connections to a database together, and few enough that their
/// stacks are no burden.
const BLOCKING_THREADS: usize = 128;

/// The runtime of commands that serve or work on a data directory.
fn server_runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|source| Failure::Local { what: "cannot start".to_owned(), source })
}

/// Runs a command that talks to a server, until it ends or Ctrl-C is pressed.
fn client_command(
    global: &GlobalArgs,
    command: impl AsyncFnOnce(Client) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let (client, _key) = client(global)?;
    block_on(Builder::new_current_thread(), command(client))
}

/// The client of the server and key that the command line names.
fn client(global: &GlobalArgs) -> Result<(Client, Key), Failure> {
    let usage = |error: ClientError| Failure::Usage(error.to_string());
    let secret = global.key.as_ref().map(|secret| secret.0.as_str()).unwrap_or_default();
    if secret.trim().is_empty() {
        return Err(Failure::Usage("no API key: set FILEGATE_KEY or give --key; `filegate key create --name NAME` on the server makes one".to_owned()));
    }
    let key = Key::new(secret).map_err(usage)?;
    if global.verbose {
        // A line for every answer.
        log_to_stderr("filegate_client=debug");
    }
    let config = ClientConfig::new(&global.url, Some(key.clone()));
    Ok((Client::new(&config).map_err(usage)?, key))
}

/// What `-v` shows, on stderr.
fn log_to_stderr(filter: &str) {
    // Fails only when one is set already.
    let _set = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .try_init();
}

/// Runs `command` on a runtime of its own. What holds files or connections is dropped when it
/// ends, so that Ctrl-C leaves no half-written file.
fn block_on(
    mut builder: Builder,
    command: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    let runtime: Runtime = builder
        .enable_all()
        .build()
        .map_err(|source| Failure::Local { what: "cannot start".to_owned(), source })?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = command => result,
            pressed = tokio::signal::ctrl_c() => match pressed {
                Ok(()) => Ok(Exit::Interrupted),
                Err(source) => {
                    Err(Failure::Local { what: "cannot listen for Ctrl-C".to_owned(), source })
                }
            },
        }
    });
    // A read of stdin that nobody will answer must not keep the process.
    runtime.shutdown_background();
    result
}
