//! `filegate channel test`.

use clap::Args;
use serde_json::Value;
use tokio::runtime::Builder;

use super::super::request::Call;
use super::super::transport::{Attempt, Transport};
use super::super::{AdminArgs, show};
use super::key::OptionalKeyArgs;
use super::path;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::{escape, table};

/// Ask where a channel's key is known, and whether uploads work there
///
/// The gateway shows the key to the channel's host and to the hosts of upstream's regions (relay.regions), in a list
/// of files that changes nothing: a key of one region is unknown in the others. On the channel's own host it uploads
/// a file of a few bytes and deletes it again. Exits with 1 unless the key is known there and uploads work.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate channel test global
  filegate channel test --base-url https://api.minimax.io --key-env MINIMAX_API_KEY    before it is added")]
pub(super) struct TrialArgs {
    /// Its name
    #[arg(required_unless_present = "base_url", conflicts_with_all = ["base_url", "key_env", "key_file"])]
    name: Option<String>,

    /// Instead of a channel that is there: where it would be
    #[arg(long, value_name = "URL", requires = "OptionalKeyArgs")]
    base_url: Option<String>,

    /// And its GroupId, if it is an old account
    #[arg(long, value_name = "ID", requires = "base_url")]
    group_id: Option<String>,

    #[command(flatten)]
    key: OptionalKeyArgs,
}

pub(super) fn run(admin: &AdminArgs, args: TrialArgs, printer: &Printer) -> Result<Exit, Failure> {
    let call = match args.name {
        Some(name) => Call::post(format!("{}/test", path(&name))),
        None => {
            Call::post("channel-test").set("base_url", args.base_url).set("key", args.key.read()?)
        }
    };
    super::super::super::block_on(Builder::new_multi_thread(), async {
        let transport = Transport::open(admin, false, printer).await?;
        let attempt = Attempt::new(admin, None)?;
        let told = transport.json(&call, &attempt, &[], printer).await;
        transport.close().await;
        let told = told?;
        print(&told, printer)?;
        Ok(exit(&told))
    })
}

fn exit(told: &Value) -> Exit {
    match told["verdict"].as_str() {
        Some("well") | None => Exit::Ok,
        Some("unreachable") => Exit::Unavailable,
        Some(_) => Exit::Refused,
    }
}

fn print(told: &Value, printer: &Printer) -> Result<(), Failure> {
    if printer.style() != Style::Human || told["dry_run"] == true {
        return match printer.style() {
            Style::Ids => Ok(printer.result(&text(&told["verdict"]))?),
            Style::Json | Style::Human => show::record(told, printer),
        };
    }
    let hosts = told["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
    for line in table(&["", "HOST", "KEY", "CODE", "MS", "SAYS"], &["CODE", "MS"], &rows) {
        printer.result(&line)?;
    }
    let upload = &told["upload"];
    if upload.is_object() {
        let deleted =
            if upload["deleted"] == false { ", but the file was not deleted" } else { "" };
        printer.result(&match upload["worked"].as_bool() {
            Some(true) => format!("upload: works{deleted}"),
            _ => format!("upload: refused, {} {}", text(&upload["code"]), text(&upload["message"])),
        })?;
    }
    printer.result(&format!("{}: {}", text(&told["verdict"]), text(&told["advice"])))?;
    Ok(())
}

/// A host; the channel's own has a mark.
fn row(host: &Value) -> Vec<String> {
    let known = match host["known"].as_bool() {
        Some(true) => "known",
        Some(false) => "unknown",
        None => "?",
    };
    let own = if host["own"] == true { "*" } else { "" };
    let fields = [own.to_owned(), text(&host["base_url"]), known.to_owned()];
    let said = ["code", "took_ms", "message"].map(|field| text(&host[field]));
    fields.into_iter().chain(said).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}
