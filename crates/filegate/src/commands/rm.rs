//! `filegate rm`.

use clap::Args;
use filegate_client::Client;
use filegate_types::FileId;

use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};

/// Delete files
///
/// There is no undo and no question. An id that does not exist is refused, and does not stop
/// the others.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate rm 426586401755526
  filegate rm 426586401755526 --purpose voice_clone")]
pub(crate) struct RmArgs {
    /// The ids of the files
    #[arg(required = true, value_name = "ID")]
    ids: Vec<FileId>,

    /// Delete only what has this purpose; anything else is refused
    #[arg(short, long)]
    purpose: Option<String>,
}

pub(crate) async fn run(args: RmArgs, client: &Client, printer: &Printer) -> Result<Exit, Failure> {
    let mut worst = Exit::Ok;
    for id in args.ids {
        match client.delete(id, args.purpose.as_deref()).await.map_err(Failure::call(&id)) {
            Ok(reply) => match printer.style() {
                Style::Json => printer.json(&reply)?,
                Style::Ids => printer.result(&id.to_string())?,
                Style::Human => printer.result(&format!("deleted {id}"))?,
            },
            Err(failure) => {
                worst = worst.max(printer.report(&failure));
                if failure.is_connect() {
                    break;
                }
            }
        }
    }
    Ok(worst)
}
