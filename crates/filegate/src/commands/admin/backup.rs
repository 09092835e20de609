//! `filegate backup`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::request::Call;
use super::{AdminArgs, restore, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// How long a snapshot may take: it may have to copy every byte.
const SNAPSHOT_MAX: Duration = Duration::from_hours(24);

/// Take snapshots of the store while it runs, check them, restore them
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Take a consistent snapshot into a new directory on the server's machine, while it serves
    ///
    /// On the same file system the contents of files are shared with the store by hard links and take no
    /// space; copy the directory elsewhere for a backup that outlives the disk.
    #[command(after_help = "\
Example:
  filegate backup create /backups/filegate-$(date +%F)")]
    Create {
        /// The directory to make; it must not be there
        directory: PathBuf,
    },
    /// Copy a snapshot into a new data directory and check it there
    #[command(after_help = "\
Example:
  filegate backup restore /backups/filegate-2026-11-24 --data-dir /var/lib/filegate")]
    Restore {
        /// The directory of the snapshot
        snapshot: PathBuf,
    },
    /// Hold the rows of a snapshot against its files against SHA-256; changes nothing
    Verify {
        /// The directory of the snapshot
        snapshot: PathBuf,
    },
}

pub(crate) fn run(args: BackupArgs, printer: &Printer) -> Result<Exit, Failure> {
    match args.command {
        BackupCommand::Create { directory } => {
            let directory = on_the_server(&directory, args.admin.is_remote()?)?;
            let call = Call::post("backup").set("directory", Some(directory)).patient(SNAPSHOT_MAX);
            run_calls(&args.admin, vec![call], printer)
        }
        BackupCommand::Restore { snapshot } => {
            let Some(target) = &args.admin.directory.data_dir else {
                return Err(Failure::Usage("name the new directory with --data-dir".to_owned()));
            };
            restore::restore(&snapshot, target, args.admin.dry_run, printer)
        }
        BackupCommand::Verify { snapshot } => restore::verify(&snapshot, printer),
    }
}

/// The directory as the server finds it: what it runs in is not what this command runs in.
fn on_the_server(directory: &Path, remote: bool) -> Result<PathBuf, Failure> {
    if directory.is_absolute() {
        return Ok(directory.to_owned());
    }
    if remote {
        return Err(Failure::Usage(
            "give the whole path of the directory, beginning with /: it is made on the server's \
             machine"
                .to_owned(),
        ));
    }
    std::path::absolute(directory)
        .map_err(|source| Failure::Local { what: "cannot find this directory".to_owned(), source })
}
