//! How a command ends: the exit code, and the line on stderr.

use std::io;
use std::process::ExitCode;

use filegate_client::Error as ClientError;

use crate::text::escape;

/// The exit codes, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// 0: everything was done; also when the reader of a pipe went away.
    Ok = 0,
    /// 1: the server understood and refused at least one thing.
    Refused = 1,
    /// 2: the command line is wrong, or a file on this side cannot be read or written.
    Usage = 2,
    /// 3: the server is at fault or out of reach.
    Unavailable = 3,
    /// 130: ended with Ctrl-C, as shells write it.
    Interrupted = 130,
}

/// The same, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the server refused; 2 wrong usage, or a local file cannot be read or \
written; 3 server or network failed. Of several failures the highest counts.";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be.
    Usage(String),
    /// A file on this side cannot be read or written.
    Local {
        /// Which, and what was to be done with it.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A call did not succeed.
    Call {
        /// The file or id it was about, as shown to the user.
        about: Option<String>,
        /// Why not.
        error: ClientError,
    },
    /// The benchmark cannot begin.
    Bench {
        /// The exit code it stands for.
        exit: Exit,
        /// Why not.
        text: String,
    },
    /// The admin API refused.
    Problem {
        /// The exit code it stands for.
        exit: Exit,
        /// What it said.
        text: String,
    },
    /// Standard output cannot be written.
    Output(io::Error),
    /// A fault of a server-side command, told with its causes.
    Fault(anyhow::Error),
}

impl Failure {
    /// A call about `about` that failed.
    pub(crate) fn call(about: &(impl ToString + ?Sized)) -> impl Fn(ClientError) -> Self {
        let about = about.to_string();
        move |error| Self::Call { about: Some(about.clone()), error }
    }

    /// The same, said of one of several things.
    pub(crate) fn of(self, about: Option<&str>) -> Self {
        match (self, about) {
            (Self::Problem { exit, text }, Some(about)) => {
                Self::Problem { exit, text: format!("{}: {text}", escape(about)) }
            }
            (failure, _) => failure,
        }
    }

    /// Whether no connection could be made, so that other calls will fail as well.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Self::Call { error, .. } if error.is_connect())
    }

    /// The exit code it stands for.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Usage(_) | Self::Local { .. } | Self::Output(_) => Exit::Usage,
            Self::Call { error, .. } => exit_of(error),
            Self::Bench { exit, .. } | Self::Problem { exit, .. } => *exit,
            Self::Fault(_) => Exit::Unavailable,
        }
    }

    /// The line for stderr, if one is called for.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            Self::Output(error) => Some(format!("cannot write the output: {error}")),
            Self::Usage(text) | Self::Bench { text, .. } => Some(escape(text)),
            // Escaped where it was read: it has text of ours in it.
            Self::Problem { text, .. } => Some(text.clone()),
            Self::Local { what, source } => Some(format!("{what}: {source}")),
            Self::Call { about: None, error } => Some(describe(error)),
            Self::Call { about: Some(about), error } => {
                Some(format!("{}: {}", escape(about), describe(error)))
            }
            Self::Fault(error) => Some(format!("{error:#}")),
        }
    }
}

impl From<io::Error> for Failure {
    /// The only I/O that commands pass on without a word of their own is the printer's.
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Fault(error)
    }
}

/// Refusals are 1 unless the code says that the fault is the server's.
pub(crate) fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::Config(_) | ClientError::Source(_) => Exit::Usage,
        error if error.is_unavailable() => Exit::Unavailable,
        _ => Exit::Refused,
    }
}

/// The message as the server gave it, when to try again, and the id to ask the operator about.
pub(crate) fn describe(error: &ClientError) -> String {
    let mut text = escape(&error.to_string());
    if let ClientError::Refused { retry_after_s: Some(seconds), .. } = error {
        text.extend(["; try again in ", &seconds.to_string(), " s"]);
    }
    if let Some(trace_id) = error.trace_id() {
        text.extend([" [Trace-Id ", &escape(trace_id), "]"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i64) -> ClientError {
        ClientError::Refused {
            code,
            message: "voice duration too short: 8.42 s, at least 10 s".to_owned(),
            trace_id: Some("0123".to_owned()),
            status: 200,
            retry_after_s: None,
        }
    }

    #[test]
    fn exit_codes_follow_whose_fault_it_is() {
        for (code, exit) in [
            (2013, Exit::Refused),
            (2037, Exit::Refused),
            (1002, Exit::Refused),
            (1004, Exit::Refused),
            (1000, Exit::Unavailable),
            (1013, Exit::Unavailable),
        ] {
            assert_eq!(exit_of(&refused(code)), exit, "{code}");
        }
        assert_eq!(exit_of(&ClientError::Config(String::new())), Exit::Usage);
        assert_eq!(exit_of(&ClientError::Http { status: 502, trace_id: None }), Exit::Unavailable);
        let pipe = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((pipe.exit(), pipe.text()), (Exit::Ok, None));
        assert!(Exit::Refused < Exit::Usage && Exit::Usage < Exit::Unavailable);
    }

    #[test]
    fn a_refusal_is_shown_word_for_word_with_its_trace() {
        let failure = Failure::call("a\u{1b}[2J.wav")(refused(2037));
        assert_eq!(
            failure.text().unwrap(),
            "a\\u{1b}[2J.wav: voice duration too short: 8.42 s, at least 10 s (2037) [Trace-Id 0123]"
        );
    }
}
