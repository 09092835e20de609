//! `filegate get`.
//!
//! The bytes go to a hidden temporary file beside the target, which takes the target's
//! name only when all of them have come and their digest is right. Whatever ends the command
//! before that removes it.

use std::fs::Permissions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use filegate_client::{Client, Content, Error as ClientError};
use filegate_types::FileId;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::progress::{self, Bar};
use crate::text::{escape, local_name, size};

/// How long to wait before going on with a download that broke off.
const RESUME_AFTER: Duration = Duration::from_secs(1);

/// Download a file
///
/// Writes the stored name into the current directory unless -o says otherwise. The file appears
/// under its name only when it is complete and its SHA-256 is what the server announced. A
/// download that breaks off goes on where it broke.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate get 426586401755526
  filegate get 426586401755526 -o sample.mp3 --force
  filegate get 426586401755526 -o - | ffplay -")]
pub(crate) struct GetArgs {
    /// The id of the file
    #[arg(value_name = "ID")]
    id: FileId,

    /// Where to write: a file, a directory, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace a file that is there already
    #[arg(short, long)]
    force: bool,

    /// How often to go on with a download that breaks off
    #[arg(long, value_name = "N", default_value_t = 3)]
    retries: u32,
}

pub(crate) async fn run(
    args: GetArgs,
    client: &Client,
    printer: &Printer,
) -> Result<Exit, Failure> {
    if args.output.as_deref() == Some(Path::new("-")) {
        let content = fetch(&args, client, printer, "", &mut |bytes| {
            printer.content(bytes).map_err(Failure::Output)
        })
        .await?;
        printer.flush()?;
        warn_unverified(&content, printer);
        return Ok(Exit::Ok);
    }
    let target = target(&args, client).await?;
    let shown = escape(&target.to_string_lossy());
    let write_failed = |source| Failure::Local { what: format!("cannot write {shown}"), source };
    let mut file = temporary(&target).map_err(write_failed)?;
    let content = fetch(&args, client, printer, &shown, &mut |bytes| {
        file.write_all(bytes).map_err(write_failed)
    })
    .await?;
    file.as_file().sync_all().map_err(write_failed)?;
    let kept = if args.force { file.persist(&target) } else { file.persist_noclobber(&target) };
    kept.map_err(|error| write_failed(error.error))?;
    warn_unverified(&content, printer);
    match printer.style() {
        Style::Ids => printer.result(&args.id.to_string())?,
        Style::Human => printer.result(&format!("{shown}  {}", size(content.received())))?,
        Style::Json => printer.json(&json!({
            "file_id": args.id,
            "path": target.to_string_lossy(),
            "bytes": content.received(),
            "sha256": content.sha256(),
        }))?,
    }
    Ok(Exit::Ok)
}

/// The path to write, free unless --force is given.
async fn target(args: &GetArgs, client: &Client) -> Result<PathBuf, Failure> {
    let target = match &args.output {
        Some(path) if !path.is_dir() => path.clone(),
        directory => {
            let stored = client.retrieve(args.id).await.map_err(Failure::call(&args.id))?;
            let name = local_name(&stored.filename, args.id);
            directory.clone().unwrap_or_default().join(name)
        }
    };
    // Asked before the download and not only after it; the final rename asks again.
    if !args.force && target.symlink_metadata().is_ok() {
        let shown = escape(&target.to_string_lossy());
        return Err(Failure::Usage(format!("{shown} exists already: give --force or -o FILE")));
    }
    Ok(target)
}

/// A file beside `target`, with the permissions that a new file has.
fn temporary(target: &Path) -> std::io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".filegate-")
        .suffix(".part")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
}

/// Hands all bytes to `write`, going on after breaks, until the end is verified.
async fn fetch(
    args: &GetArgs,
    client: &Client,
    printer: &Printer,
    shown: &str,
    write: &mut (dyn FnMut(&[u8]) -> Result<(), Failure> + Send),
) -> Result<Content, Failure> {
    let failed = Failure::call(&args.id);
    let mut content = client.content(args.id).await.map_err(&failed)?;
    let bar: Bar = progress::bar(printer, shown, content.total());
    let handle = bar.handle();
    let mut retries = args.retries;
    loop {
        let error = match content.chunk().await {
            Ok(None) => return Ok(content),
            Ok(Some(bytes)) => {
                write(&bytes)?;
                handle.set_position(content.received());
                continue;
            }
            Err(error) => error,
        };
        go_on(&mut content, client, &mut retries, error).await.map_err(&failed)?;
    }
}

/// Asks for the rest of a download that ended with `error`, as long as there are `retries`.
async fn go_on(
    content: &mut Content,
    client: &Client,
    retries: &mut u32,
    mut error: ClientError,
) -> Result<(), ClientError> {
    while *retries > 0 && matches!(error, ClientError::Network { .. }) {
        *retries -= 1;
        tokio::time::sleep(RESUME_AFTER).await;
        match client.resume(content).await {
            Ok(()) => return Ok(()),
            Err(again) => error = again,
        }
    }
    Err(error)
}

fn warn_unverified(content: &Content, printer: &Printer) {
    if !content.is_verifiable() {
        printer.note("the server announced no digest: the content is not verified");
    }
}
