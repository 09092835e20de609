//! `filegate file`.

use clap::{Args, Subcommand, ValueEnum};
use filegate_types::FileId;

use super::limits::RowsArg;
use super::request::{Call, Show, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// Of all lists of files that operators see.
pub(super) const FILES: Table = Table {
    what: "files",
    columns: &[
        ("ID", "id"),
        ("ACCOUNT", "account"),
        ("SIZE", "bytes"),
        ("CREATED", "created_at"),
        ("EXPIRES", "expires_at"),
        ("STATE", "state"),
        ("DAMAGED", "damaged_at"),
        ("PURPOSE", "purpose"),
        ("NAME", "filename"),
    ],
};

/// Look for files of all accounts, say why one can be read or not, hold back, release, delete
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: FileCommand,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Ready,
    Review,
    Quarantined,
}

#[derive(Debug, Subcommand)]
enum FileCommand {
    /// List files of all accounts, newest first
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  filegate file ls --account acme --state quarantined
  filegate file ls --sha256 \"$(sha256sum voice.mp3 | cut -d' ' -f1)\" --json"
    )]
    Ls {
        /// Only files of this account
        #[arg(long)]
        account: Option<String>,
        /// Only files of this purpose
        #[arg(long)]
        purpose: Option<String>,
        /// Only files in this state
        #[arg(long)]
        state: Option<State>,
        /// Only files of exactly this name
        #[arg(long)]
        filename: Option<String>,
        /// Only files with this content, in hex digits
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Show what is written of files, also of those that are only upstream
    Show {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<FileId>,
    },
    /// Say why a file can be read or not, where it is, and where its next call would go
    ///
    /// First in words: whose it is, whether it can be read and what is in the way, whether its bytes are here or
    /// only upstream, which channels have a copy, and what each channel is to its next call. Then everything that
    /// is known: verdict, damage, receipt, key, what it cost. All of it as one object with --json.
    #[command(after_help = "\
Examples:
  filegate file explain 462000000000001
  filegate file explain 462000000000001 --json | jq -r '.relay.channels[] | .channel + \": \" + .why'")]
    Explain {
        /// Its id; also of a file that is deleted
        #[arg(value_name = "ID")]
        id: FileId,
    },
    /// Give the content of files out no more; they stay listed
    Quarantine(WhyArgs),
    /// Give the content of files out that were held back by a review or a quarantine
    Release {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<FileId>,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
    },
    /// Delete files, whoever they belong to, and their copies on channels; there is no undo
    #[command(visible_alias = "delete")]
    Rm(WhyArgs),
}

#[derive(Debug, Args)]
struct WhyArgs {
    /// Their ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<FileId>,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
}

pub(crate) fn run(args: FileArgs, printer: &Printer) -> Result<Exit, Failure> {
    let each = |ids: Vec<FileId>, verb: &str, reason: Option<&str>| -> Vec<Call> {
        let call =
            |id: FileId| Call::post(format!("files/{id}/{verb}")).set("reason", reason).about(&id);
        ids.into_iter().map(call).collect()
    };
    let calls = match args.command {
        FileCommand::Ls { account, purpose, state, filename, sha256, rows } => {
            let state = state.and_then(|state| state.to_possible_value());
            vec![
                Call::list("files", &FILES, rows.limit)
                    .ask("account", account)
                    .ask("purpose", purpose)
                    .ask("state", state.map(|state| state.get_name().to_owned()))
                    .ask("filename", filename)
                    .ask("sha256", sha256),
            ]
        }
        FileCommand::Show { ids } => {
            ids.into_iter().map(|id| Call::get(format!("files/{id}")).about(&id)).collect()
        }
        FileCommand::Explain { id } => {
            vec![Call::get(format!("files/{id}/explain")).shown(Show::Explained)]
        }
        FileCommand::Quarantine(why) => each(why.ids, "quarantine", Some(&why.reason)),
        FileCommand::Release { ids, reason } => each(ids, "release", reason.as_deref()),
        FileCommand::Rm(why) => each(why.ids, "delete", Some(&why.reason)),
    };
    run_calls(&args.admin, calls, printer)
}
