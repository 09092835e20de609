//! `filegate upload`.

use std::path::{Path, PathBuf};

use clap::Args;
use filegate_client::{Client, Error as ClientError, Upload};
use filegate_types::wire::{FileObject, UploadReply, Validated};
use serde_json::json;

use crate::exit::{Exit, Failure, describe, exit_of};
use crate::printer::{Printer, Style};
use crate::progress::{self, Bar};
use crate::text::{escape, facts, size};

/// Upload files, one after another
///
/// Prints the id, size, name and what the server measured. A file that is refused does not stop
/// the others. With --validate-only the server checks everything and stores nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate upload voice.mp3 --purpose voice_clone
  filegate upload -q *.wav --purpose voice_clone > ids.txt
  filegate upload draft.m4a --purpose voice_clone --validate-only
  ffmpeg -i film.mkv -t 60 -f wav - | filegate upload - --name a.wav --purpose voice_clone

Purposes of a server with its default configuration: voice_clone (mp3, m4a, wav; 10 to 300 s;
20 MiB), prompt_audio (mp3, m4a, wav; under 8 s; 20 MiB), t2a_async_input (txt, zip; 20 MiB),
video_understanding (mp4, avi, mov, mkv; 512 MiB; kept 7 days), video_generation_input (images,
mp4, mov, wav, mp3; kept 7 days), retrieval, fine-tune, assistants, batch, role-recognition.

With --json: one object a file, {\"path\", \"file\" or \"validated\" or null, \"base_resp\"}, or
{\"path\", \"error\"} when there was no answer.")]
pub(crate) struct UploadArgs {
    /// The files; - for standard input, which needs --name
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// What the files are for; decides which formats, sizes and lengths are allowed
    #[arg(short, long)]
    purpose: String,

    /// The name to store the file under; its extension tells the format
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Have the server run all checks and store nothing
    #[arg(long)]
    validate_only: bool,
}

pub(crate) async fn run(
    args: UploadArgs,
    client: &Client,
    printer: &Printer,
) -> Result<Exit, Failure> {
    if args.files.len() > 1 && args.name.is_some() {
        return Err(Failure::Usage("--name is for a single FILE".to_owned()));
    }
    if args.name.is_none() && args.files.iter().any(|path| is_stdin(path)) {
        return Err(Failure::Usage("standard input has no name: give --name NAME".to_owned()));
    }
    let mut worst = Exit::Ok;
    for path in &args.files {
        let shown = path.to_string_lossy();
        match upload(path, &args, client, printer).await {
            Ok(reply) => print_reply(&shown, reply, client, printer).await?,
            Err(error) => {
                worst = worst.max(exit_of(&error));
                print_error(&shown, &error, printer)?;
                if error.is_connect() {
                    // The others would fail in the same way.
                    break;
                }
            }
        }
    }
    Ok(worst)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

async fn upload(
    path: &Path,
    args: &UploadArgs,
    client: &Client,
    printer: &Printer,
) -> Result<UploadReply, ClientError> {
    let upload = match &args.name {
        Some(name) if is_stdin(path) => {
            Upload::from_reader(&args.purpose, name, None, tokio::io::stdin())
        }
        Some(name) => Upload::from_path(&args.purpose, path).await?.named(name),
        None => Upload::from_path(&args.purpose, path).await?,
    };
    let bar: Bar = progress::bar(printer, &path.to_string_lossy(), upload.length());
    let handle = bar.handle();
    let upload =
        upload.validate_only(args.validate_only).on_progress(move |sent| handle.set_position(sent));
    client.upload(upload).await
}

async fn print_reply(
    path: &str,
    reply: UploadReply,
    client: &Client,
    printer: &Printer,
) -> Result<(), Failure> {
    if printer.style() == Style::Json {
        let mut value = json!({ "path": path, "file": reply.file, "base_resp": reply.base_resp });
        if let Some(validated) = reply.validated {
            value["validated"] = json!(validated);
        }
        return Ok(printer.json(&value)?);
    }
    if let Some(file) = reply.file {
        print_file(&file, client, printer).await?;
    } else if let Some(validated) = reply.validated {
        print_validated(&validated, printer)?;
    }
    Ok(())
}

async fn print_file(file: &FileObject, client: &Client, printer: &Printer) -> Result<(), Failure> {
    if printer.style() == Style::Ids {
        return Ok(printer.result(&file.file_id.to_string())?);
    }
    let mut media = file.media.clone();
    if media.is_none() {
        // The reply to an upload has no room for what was measured. A key that may not read its
        // files back has uploaded this one all the same.
        media = client.retrieve(file.file_id).await.ok().and_then(|file| file.media);
    }
    let measured = media.as_ref().map(facts).unwrap_or_default();
    let line = [file.file_id.to_string(), size(file.bytes), escape(&file.filename), measured];
    Ok(printer.result(line.join("  ").trim_end())?)
}

fn print_validated(validated: &Validated, printer: &Printer) -> Result<(), Failure> {
    if printer.style() == Style::Human {
        let name = escape(&validated.filename);
        let line = ["valid".to_owned(), size(validated.bytes), name, facts(&validated.media)];
        printer.result(line.join("  ").trim_end())?;
    }
    Ok(())
}

fn print_error(path: &str, error: &ClientError, printer: &Printer) -> Result<(), Failure> {
    if printer.style() == Style::Json {
        printer.json(&match error {
            ClientError::Refused { code, message, trace_id, .. } => json!({
                "path": path,
                "file": null,
                "base_resp": { "status_code": code, "status_msg": message },
                "trace_id": trace_id,
            }),
            other => {
                json!({ "path": path, "error": other.to_string(), "trace_id": other.trace_id() })
            }
        })?;
    }
    printer.error(&format!("{}: {}", escape(path), describe(error)));
    Ok(())
}
