//! The commands of operators: each makes calls of the admin API and shows the answers.
//!
//! A command of this directory only says which calls it makes ([`Call`]) and how the answer is to be
//! looked at ([`Show`]). [`transport`] brings the call to a running gateway or to a data directory,
//! [`pages`] follows the lists, [`show`] prints.

pub(crate) mod account;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod channel;
pub(crate) mod config;
mod explained;
pub(crate) mod file;
pub(crate) mod inflight;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod ledger;
mod limits;
pub(crate) mod moderation;
mod pages;
pub(crate) mod policy;
pub(crate) mod price;
pub(crate) mod receipt;
mod request;
mod restore;
mod show;
pub(crate) mod token;
mod transport;
pub(crate) mod usage;

use clap::Args;
use filegate_server::Stores;
use filegate_server::config::Config;
use tokio::runtime::Builder;

use self::request::{Call, Show};
use self::transport::{Attempt, Transport};
use super::serve::ConfigArgs;
use crate::cli::Secret;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};

/// Where operators connect when no address is named.
const DEFAULT_URL: &str = "http://127.0.0.1:8081";

/// Understood by all commands of operators.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reaching the gateway")]
pub(crate) struct AdminArgs {
    /// Where operators connect to the running gateway [default: http://127.0.0.1:8081]
    #[arg(long, global = true, env = "FILEGATE_ADMIN_URL", value_name = "URL")]
    admin_url: Option<String>,

    /// The admin token: with it the running gateway is called. Without it, or with --data-dir, the
    /// command works on the data directory itself, also beside a running server. Prefer
    /// FILEGATE_ADMIN_TOKEN: other users of this machine can read command lines
    #[arg(
        long,
        global = true,
        env = "FILEGATE_ADMIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    admin_token: Option<Secret>,

    #[command(flatten)]
    pub(super) directory: ConfigArgs,

    /// Check and compute everything, change nothing
    #[arg(long, global = true)]
    dry_run: bool,

    /// Name this change: given again with the same name it is not done twice [default: a fresh name]
    #[arg(long, global = true, value_name = "NAME")]
    idempotency_key: Option<String>,
}

impl AdminArgs {
    /// Whether the command is meant for a running gateway. A store that is named wins over a token
    /// from the environment: it is the way back in when the token is lost.
    fn is_remote(&self) -> Result<bool, Failure> {
        if self.directory.data_dir.is_some() || self.directory.database_url.is_some() {
            return Ok(false);
        }
        let token = self.admin_token.as_ref().is_some_and(|token| !token.0.trim().is_empty());
        let url = self.admin_url.as_ref().is_some_and(|url| !url.trim().is_empty());
        if url && !token {
            return Err(Failure::Usage(
                "no admin token for --admin-url: set FILEGATE_ADMIN_TOKEN; or name the store, with \
                 --data-dir on the server's machine or with --database-url"
                    .to_owned(),
            ));
        }
        Ok(token)
    }

    /// The settings of a store, which has to be there if it is a directory.
    fn existing_store(&self) -> Result<Config, Failure> {
        let config = self.directory.load()?;
        let told = |error| Failure::Usage(format!("{:#}", anyhow::Error::from(error)));
        Stores::refuse_absent(&config).map_err(told)?;
        Ok(config)
    }
}

/// Makes the calls one after the other until one cannot reach anybody; the highest exit code counts.
fn run(args: &AdminArgs, calls: Vec<Call>, printer: &Printer) -> Result<Exit, Failure> {
    super::block_on(Builder::new_multi_thread(), async {
        let makes = calls.iter().any(|call| call.makes_directory);
        let transport = Transport::open(args, makes, printer).await?;
        let worst = each(&transport, args, calls, printer).await;
        transport.close().await;
        worst
    })
}

async fn each(
    transport: &Transport,
    args: &AdminArgs,
    calls: Vec<Call>,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let mut worst = Exit::Ok;
    let several = calls.len() > 1;
    for (nth, mut call) in calls.into_iter().enumerate() {
        let attempt = Attempt::new(args, several.then_some(nth))?;
        match one(transport, &mut call, &attempt, nth, printer).await {
            Ok(()) => {}
            Err(failure @ Failure::Problem { .. }) => {
                let failure = failure.of(several.then_some(call.about.as_str()));
                worst = worst.max(printer.report(&failure));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(worst)
}

async fn one(
    transport: &Transport,
    call: &mut Call,
    attempt: &Attempt,
    nth: usize,
    printer: &Printer,
) -> Result<(), Failure> {
    if !call.merge.is_empty() {
        let there = Call::get(call.path.clone());
        let there = transport.json(&there, attempt, &[], printer).await?;
        for (name, new) in std::mem::take(&mut call.merge) {
            call.put(name, limits::merged(there.get(name), &new).into());
        }
    }
    let call = &*call;
    match &call.show {
        Show::List { table, limit } => {
            pages::list(transport, call, attempt, (table, *limit), printer).await
        }
        Show::Raw => {
            let answer = transport.answer(call, attempt, &[], printer).await?;
            printer.content(&answer.body)?;
            Ok(printer.flush()?)
        }
        Show::Record => {
            let value = transport.json(call, attempt, &[], printer).await?;
            if nth > 0 && printer.style() == Style::Human {
                printer.result("")?;
            }
            show::record(&value, printer)?;
            tell_dry(attempt, call, printer);
            Ok(())
        }
        Show::Explained => {
            let value = transport.json(call, attempt, &[], printer).await?;
            explained::show(&value, printer)
        }
        Show::Secret { field, what } => {
            let value = transport.json(call, attempt, &[], printer).await?;
            show::secret(&value, field, what, attempt.dry_run, printer)?;
            tell_dry(attempt, call, printer);
            Ok(())
        }
    }
}

fn tell_dry(attempt: &Attempt, call: &Call, printer: &Printer) {
    if attempt.dry_run && call.is_change() {
        printer.note("dry run: nothing was changed");
    }
}
