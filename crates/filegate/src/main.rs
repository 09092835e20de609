//! The file gateway for MiniMax clients: server and client in one binary.

mod cli;
mod commands;
mod exit;
mod printer;
mod progress;
mod text;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::printer::Printer;

fn main() -> ExitCode {
    // Fails only when one is installed already, and nothing ran before this.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // The terminal is gone; there is nobody to tell.
            let _gone = error.print();
            return exit.into();
        }
    };
    let printer = Printer::new(&cli.global);
    match commands::run(cli, &printer) {
        Ok(exit) => exit.into(),
        Err(failure) => printer.report(&failure).into(),
    }
}
