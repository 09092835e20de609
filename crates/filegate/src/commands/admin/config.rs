//! `filegate config`.

use clap::{Args, Subcommand};

use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const SETTINGS: Table = Table {
    what: "settings",
    columns: &[("SETTING", "id"), ("ORIGIN", "origin"), ("VALUE", "value")],
};

/// Look at the settings in force
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: SettingsCommand,
}

#[derive(Debug, Subcommand)]
enum SettingsCommand {
    /// Show every setting, its value, and where the value comes from; secrets are left out
    ///
    /// With an admin token these are the running gateway's; else what `serve` would have with the
    /// same --config, --data-dir and environment.
    Show,
}

pub(crate) fn run(args: &SettingsArgs, printer: &Printer) -> Result<Exit, Failure> {
    match args.command {
        SettingsCommand::Show => {
            run_calls(&args.admin, vec![Call::whole("config", &SETTINGS)], printer)
        }
    }
}
