//! The command line.

use std::fmt;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    admin, bench, demo, doctor, emulate, fsck, get, health, info, ls, migrate, rm, serve, upload,
};
use crate::exit::EXIT_CODES;

/// The server that is called when none is named.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// A file gateway that speaks the MiniMax Files API: server and client in one binary.
#[derive(Debug, Parser)]
#[command(name = "filegate", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Understood by every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Where the server is; a prefix such as /minimax and a final /v1 are understood
    #[arg(long, global = true, env = "FILEGATE_URL", value_name = "URL", default_value = DEFAULT_URL)]
    pub(crate) url: String,

    /// The API key. Prefer FILEGATE_KEY: other users of this machine can read command lines
    #[arg(long, global = true, env = "FILEGATE_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) key: Option<Secret>,

    /// Print results as JSON, one value a line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print ids only, no progress and no notes
    #[arg(short, long, global = true, conflicts_with = "json")]
    pub(crate) quiet: bool,

    /// Say on stderr what was called and answered, with Trace-Ids
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// Text that `Debug` does not show. Parsing it never fails, since clap shows what does not parse.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The commands, each in its own file of `commands/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(serve::ServeArgs),
    Demo(demo::DemoArgs),
    Account(admin::account::AccountArgs),
    Key(admin::key::KeyArgs),
    Channel(admin::channel::ChannelArgs),
    File(admin::file::FileArgs),
    Receipt(admin::receipt::ReceiptArgs),
    Ledger(admin::ledger::LedgerArgs),
    Price(admin::price::PriceArgs),
    Moderation(admin::moderation::ModerationArgs),
    Usage(admin::usage::UsageArgs),
    Audit(admin::audit::AuditArgs),
    Job(admin::job::JobArgs),
    Inflight(admin::inflight::InflightArgs),
    Policy(admin::policy::PolicyArgs),
    Config(admin::config::SettingsArgs),
    Token(admin::token::TokenArgs),
    Backup(admin::backup::BackupArgs),
    Fsck(fsck::FsckArgs),
    Migrate(migrate::MigrateArgs),
    Doctor(doctor::DoctorArgs),
    Health(health::HealthArgs),
    Upload(upload::UploadArgs),
    Ls(ls::LsArgs),
    Info(info::InfoArgs),
    Get(get::GetArgs),
    Rm(rm::RmArgs),
    Emulate(emulate::EmulateArgs),
    Bench(bench::BenchArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_is_in_no_debug_output() {
        let cli = Cli::try_parse_from(["filegate", "--key", "fg-hidden", "ls"]).unwrap();
        assert!(!format!("{cli:?}").contains("hidden"));
    }
}
