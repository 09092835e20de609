//! Where the key of a channel comes from: never from the command line.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::Secret;
use crate::exit::Failure;

/// More than any key has.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// A key that has to be given.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = "The key")]
pub(super) struct KeyArgs {
    /// The name of the environment variable that it is in
    #[arg(long, value_name = "VARIABLE")]
    key_env: Option<String>,

    /// The file that it is in; `-` for standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// A key that may be given.
#[derive(Debug, Args)]
#[group(multiple = false)]
#[command(next_help_heading = "The key")]
pub(super) struct OptionalKeyArgs {
    /// The name of the environment variable that it is in
    #[arg(long, value_name = "VARIABLE")]
    key_env: Option<String>,

    /// The file that it is in; `-` for standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl KeyArgs {
    /// The key.
    pub(super) fn read(self) -> Result<String, Failure> {
        let Self { key_env, key_file } = self;
        let read = OptionalKeyArgs { key_env, key_file }.read()?;
        read.ok_or_else(|| Failure::Usage("no key: give --key-env or --key-file".to_owned()))
    }
}

impl OptionalKeyArgs {
    /// The key, if one was given.
    pub(super) fn read(self) -> Result<Option<String>, Failure> {
        let (key, place) = match (self.key_env, self.key_file) {
            (Some(variable), _) => (of_variable(&variable)?, variable),
            (None, Some(path)) if path == Path::new("-") => {
                (of_reader(io::stdin(), "standard input")?, "standard input".to_owned())
            }
            (None, Some(path)) => {
                let what = path.display().to_string();
                let file = std::fs::File::open(&path);
                let file = file.map_err(|source| unreadable(&what, source))?;
                (of_reader(file, &what)?, what)
            }
            (None, None) => return Ok(None),
        };
        let key = key.0.trim().to_owned();
        if key.is_empty() {
            return Err(Failure::Usage(format!("there is no key in {place}")));
        }
        Ok(Some(key))
    }
}

fn of_variable(name: &str) -> Result<Secret, Failure> {
    // Whoever gives the key itself here has shown it already, but not in our words.
    let unset = || {
        Failure::Usage(
            "the variable that --key-env names is not set, or not text; it takes the name of a \
             variable, not the key"
                .to_owned(),
        )
    };
    std::env::var(name).map(Secret).map_err(|_unset| unset())
}

fn of_reader(reader: impl io::Read, what: &str) -> Result<Secret, Failure> {
    let mut text = String::new();
    reader
        .take(KEY_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|source| unreadable(what, source))?;
    Ok(Secret(text))
}

fn unreadable(what: &str, source: io::Error) -> Failure {
    Failure::Local { what: format!("cannot read the key from {what}"), source }
}
