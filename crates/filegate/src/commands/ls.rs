//! `filegate ls`.

use clap::Args;
use filegate_client::{Client, ListQuery};
use filegate_types::FileId;
use filegate_types::wire::FileObject;

use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, size, table, time};

/// List files, newest first
///
/// Shows id, size, when the file was created and when it will be deleted (UTC), its purpose and
/// its name.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate ls
  filegate ls --purpose voice_clone --limit 10
  filegate ls --all --json | jq -s 'map(.bytes) | add'
  filegate ls --all -q --purpose batch | xargs filegate rm")]
pub(crate) struct LsArgs {
    /// Only files of this purpose
    #[arg(short, long)]
    purpose: Option<String>,

    /// At most so many files
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    /// Only files older than the one with this id
    #[arg(long, value_name = "ID", conflicts_with = "all")]
    after: Option<FileId>,

    /// All files, fetched page by page
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(args: LsArgs, client: &Client, printer: &Printer) -> Result<Exit, Failure> {
    let call = |error| Failure::Call { about: None, error };
    if args.all {
        let mut pages = client.pages(args.purpose.as_deref());
        let mut first = true;
        while let Some(files) = pages.next().await.map_err(call)? {
            print(&files, first, printer)?;
            first = false;
        }
        return Ok(Exit::Ok);
    }
    let query = ListQuery { purpose: args.purpose, limit: Some(args.limit), after: args.after };
    let reply = client.list(&query).await.map_err(call)?;
    print(&reply.files, true, printer)?;
    match reply.files.last() {
        Some(last) if reply.has_more == Some(true) => {
            printer.note(&format!("more files follow: --all, or --after {}", last.file_id));
        }
        Some(_) => {}
        None => printer.note("no files"),
    }
    Ok(Exit::Ok)
}

fn print(files: &[FileObject], header: bool, printer: &Printer) -> Result<(), Failure> {
    match printer.style() {
        Style::Json => files.iter().try_for_each(|file| printer.json(file))?,
        Style::Ids => {
            files.iter().try_for_each(|file| printer.result(&file.file_id.to_string()))?;
        }
        Style::Human if files.is_empty() => {}
        Style::Human => {
            let rows: Vec<_> = files.iter().map(row).collect();
            let titles = ["ID", "SIZE", "CREATED", "EXPIRES", "PURPOSE", "NAME"];
            let lines = table(&titles, &["ID", "SIZE"], &rows);
            let skip = usize::from(!header);
            lines.iter().skip(skip).try_for_each(|line| printer.result(line))?;
        }
    }
    Ok(())
}

fn row(file: &FileObject) -> Vec<String> {
    vec![
        file.file_id.to_string(),
        size(file.bytes),
        time(file.created_at),
        file.expires_at.map_or_else(|| "never".to_owned(), time),
        escape(&file.purpose),
        escape(&file.filename),
    ]
}
