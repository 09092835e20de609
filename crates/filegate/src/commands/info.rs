//! `filegate info`.

use clap::Args;
use filegate_client::Client;
use filegate_types::FileId;
use filegate_types::wire::FileObject;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, size, time};

/// Show everything known of files, with a download URL
///
/// The URL is signed and works without a key for a while (one hour unless the server is
/// configured otherwise). Times are UTC.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate info 426586401755526
  curl -O \"$(filegate info 426586401755526 --json | jq -r .download_url)\"")]
pub(crate) struct InfoArgs {
    /// The ids of the files
    #[arg(required = true, value_name = "ID")]
    ids: Vec<FileId>,
}

pub(crate) async fn run(
    args: InfoArgs,
    client: &Client,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let mut worst = Exit::Ok;
    for (nth, id) in args.ids.into_iter().enumerate() {
        match client.retrieve(id).await.map_err(Failure::call(&id)) {
            Ok(file) => print(&file, nth > 0, printer)?,
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

fn print(file: &FileObject, apart: bool, printer: &Printer) -> Result<(), Failure> {
    match printer.style() {
        Style::Json => printer.json(file)?,
        Style::Ids => printer.result(&file.file_id.to_string())?,
        Style::Human => {
            if apart {
                printer.result("")?;
            }
            let lines = lines(file);
            let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
            for (name, value) in lines {
                printer.result(&format!("{:width$} {value}", name + ":"))?;
            }
        }
    }
    Ok(())
}

fn lines(file: &FileObject) -> Vec<(String, String)> {
    let mut lines = vec![
        ("id".to_owned(), file.file_id.to_string()),
        ("name".to_owned(), escape(&file.filename)),
        ("purpose".to_owned(), escape(&file.purpose)),
        ("size".to_owned(), format!("{} ({} bytes)", size(file.bytes), file.bytes)),
        ("created".to_owned(), time(file.created_at)),
        ("expires".to_owned(), file.expires_at.map_or_else(|| "never".to_owned(), time)),
    ];
    if let Some(Value::Object(media)) = &file.media {
        for (name, value) in media {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            lines.push((escape(name), escape(&value)));
        }
    }
    if let Some(url) = &file.download_url {
        lines.push(("download_url".to_owned(), escape(url)));
    }
    lines
}
