//! `filegate moderation`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use filegate_server::image_hash;
use filegate_types::hex;
use filegate_types::units::Bytes;
use sha2::{Digest as _, Sha256};

use super::file::FILES;
use super::limits::RowsArg;
use super::request::{Call, Table};
use super::{AdminArgs, run as run_calls};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::text::escape;

const BLOCKED: Table = Table {
    what: "blocked entries",
    columns: &[
        ("ID", "id"),
        ("LIST", "list"),
        ("CREATED", "created_at"),
        ("NOTE", "note"),
        ("VALUE", "value"),
    ],
};

/// Bytes of a file that are read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Memory that decoding a picture may take.
const PICTURE_BYTES_MAX: Bytes = Bytes::mib(512);

/// Block content, and look at what waits for a review
#[derive(Debug, Args)]
pub(crate) struct ModerationArgs {
    #[command(flatten)]
    admin: AdminArgs,

    #[command(subcommand)]
    command: ModerationCommand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum List {
    /// Content with exactly this SHA-256
    Sha256,
    /// Pictures that look like this one
    Image,
    /// File names and texts with this in them
    Term,
}

#[derive(Debug, Subcommand)]
enum ModerationCommand {
    /// List what is blocked, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only this list
        #[arg(long)]
        list: Option<List>,
        #[command(flatten)]
        rows: RowsArg,
    },
    /// Refuse content from the next upload on
    #[command(after_help = "\
Examples:
  filegate moderation block sha256 --file stolen-voice.mp3 --note 'ticket 17'
  filegate moderation block image --file picture.jpg
  filegate moderation block term 'forbidden words'")]
    Block {
        /// What it is compared with
        list: List,
        /// The hash or the term
        #[arg(required_unless_present = "file")]
        value: Option<String>,
        /// A file on this machine whose hash is to be blocked; it is not sent
        #[arg(long, conflicts_with = "value")]
        file: Option<PathBuf>,
        /// Why, for operators
        #[arg(long)]
        note: Option<String>,
    },
    /// Take entries off the lists
    Unblock {
        /// Their ids as `moderation ls` shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<i64>,
    },
    /// List files that wait for a review; `file release` and `file rm` decide
    Reviews {
        #[command(flatten)]
        rows: RowsArg,
    },
}

pub(crate) fn run(args: ModerationArgs, printer: &Printer) -> Result<Exit, Failure> {
    let name = |list: List| list.to_possible_value().map(|value| value.get_name().to_owned());
    let calls = match args.command {
        ModerationCommand::Ls { list, rows } => {
            vec![
                Call::list("moderation/blocked", &BLOCKED, rows.limit)
                    .ask("list", list.and_then(name)),
            ]
        }
        ModerationCommand::Block { list, value, file, note } => {
            let value = match file {
                Some(path) => Some(hash_of(&path, list)?),
                None => value,
            };
            vec![
                Call::post("moderation/blocked")
                    .set("list", name(list))
                    .set("value", value)
                    .set("note", note),
            ]
        }
        ModerationCommand::Unblock { ids } => ids
            .iter()
            .map(|id| Call::post(format!("moderation/blocked/{id}/remove")).about(id))
            .collect(),
        ModerationCommand::Reviews { rows } => {
            vec![Call::list("moderation/reviews", &FILES, rows.limit)]
        }
    };
    run_calls(&args.admin, calls, printer)
}

fn hash_of(path: &Path, list: List) -> Result<String, Failure> {
    let failed = |source| Failure::Local {
        what: format!("cannot read {}", escape(&path.to_string_lossy())),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    match list {
        List::Sha256 => sha256(BufReader::new(file)).map_err(failed),
        List::Image => image_hash(BufReader::new(file), PICTURE_BYTES_MAX).map_err(|error| {
            Failure::Usage(format!("{}: {error}", escape(&path.to_string_lossy())))
        }),
        List::Term => Err(Failure::Usage("a term is given as text, not as a file".to_owned())),
    }
}

fn sha256(mut from: impl Read) -> std::io::Result<String> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hex(&sum.finalize())),
            read => sum.update(&piece[..read]),
        }
    }
}
