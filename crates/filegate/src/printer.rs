//! Everything that is printed: results on stdout, all else on stderr.
//!
//! A closed stdout (`filegate ls | head`) comes back as an I/O error, which `main` takes for
//! success. What cannot be written to stderr is lost, since there is nowhere else to say so.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::cli::GlobalArgs;
use crate::exit::{Exit, Failure};

/// What results look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Lines and tables for people.
    Human,
    /// `-q`: ids only, one a line.
    Ids,
    /// `--json`: one JSON value a line.
    Json,
}

/// The way out for text.
#[derive(Debug)]
pub(crate) struct Printer {
    style: Style,
    verbose: bool,
}

impl Printer {
    pub(crate) fn new(args: &GlobalArgs) -> Self {
        let style = match (args.json, args.quiet) {
            (true, _) => Style::Json,
            (false, true) => Style::Ids,
            (false, false) => Style::Human,
        };
        Self { style, verbose: args.verbose }
    }

    /// What results are to look like.
    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// A line of the result.
    #[expect(clippy::unused_self, reason = "whoever prints has been given the printer")]
    pub(crate) fn result(&self, line: &str) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{line}")
    }

    /// A result as a line of JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.result(&serde_json::to_string(value)?)
    }

    /// Content, as it is.
    #[expect(clippy::unused_self, reason = "whoever prints has been given the printer")]
    pub(crate) fn content(&self, bytes: &[u8]) -> io::Result<()> {
        io::stdout().lock().write_all(bytes)
    }

    /// The last of the content is on its way.
    #[expect(clippy::unused_self, reason = "whoever prints has been given the printer")]
    pub(crate) fn flush(&self) -> io::Result<()> {
        io::stdout().lock().flush()
    }

    /// Something to know, for people only.
    pub(crate) fn note(&self, text: &str) {
        if self.style == Style::Human {
            let _lost = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Whether `-v` was given.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// What `-v` shows.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            let _lost = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Something that went wrong; always printed.
    #[expect(clippy::unused_self, reason = "whoever prints has been given the printer")]
    pub(crate) fn error(&self, text: &str) {
        let _lost = writeln!(io::stderr().lock(), "error: {text}");
    }

    /// Something to doubt; always printed.
    #[expect(clippy::unused_self, reason = "whoever prints has been given the printer")]
    pub(crate) fn warning(&self, text: &str) {
        let _lost = writeln!(io::stderr().lock(), "warning: {text}");
    }

    /// A failure that does not end the command; gives the exit code that it stands for.
    pub(crate) fn report(&self, failure: &Failure) -> Exit {
        if let Some(text) = failure.text() {
            self.error(&text);
        }
        failure.exit()
    }

    /// Whether a progress bar has somebody to look at it, and no log lines to fight with.
    pub(crate) fn shows_progress(&self) -> bool {
        self.style == Style::Human && !self.verbose && io::stderr().is_terminal()
    }
}
