//! `filegate health`: whether a server takes uploads, for schedulers that ask by running a command.

use std::time::Duration;

use clap::Args;
use filegate_types::units::Span;
use reqwest::{Client, Url};
use serde_json::json;

use crate::cli::GlobalArgs;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::escape;

/// How much of the reason is read.
const ANSWER_BYTES_MAX: usize = 4096;

/// Ask a server whether it takes uploads
///
/// Calls /readyz of --url and says `ready`, or why not. With --live it calls /healthz, which answers as long as
/// the process does, whatever becomes of its stores. Made for HEALTHCHECK in containers and for scripts
/// that wait for a start; needs no key.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it does; 3 it does not, or does not answer.

Examples:
  filegate health
  until filegate health --quiet; do sleep 1; done")]
pub(crate) struct HealthArgs {
    /// Ask only whether the process answers
    #[arg(long)]
    live: bool,

    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "5s")]
    timeout: Span,
}

pub(crate) fn run(
    args: &HealthArgs,
    global: &GlobalArgs,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let mut url = Url::parse(global.url.trim())
        .map_err(|error| Failure::Usage(format!("--url cannot be used: {error}")))?;
    url.set_path(if args.live { "/healthz" } else { "/readyz" });
    url.set_query(None);
    super::block_on(tokio::runtime::Builder::new_current_thread(), async {
        match ask(&url, args.timeout.0).await {
            Ok(()) => {
                say(printer, true, if args.live { "alive" } else { "ready" })?;
                Ok(Exit::Ok)
            }
            Err(why) => {
                say(printer, false, &why)?;
                Ok(Exit::Unavailable)
            }
        }
    })
}

fn say(printer: &Printer, ready: bool, text: &str) -> Result<(), Failure> {
    match printer.style() {
        Style::Json => printer.json(&json!({"ready": ready, "text": text})),
        Style::Human => printer.result(text),
        // The exit code says it.
        Style::Ids => Ok(()),
    }
    .map_err(Failure::from)
}

/// What keeps it from taking uploads, if something does.
async fn ask(url: &Url, timeout: Duration) -> Result<(), String> {
    let told = |error: reqwest::Error| {
        let cause = anyhow::Error::from(error.without_url());
        format!("no answer from {}: {cause:#}", escape(url.origin().ascii_serialization().as_str()))
    };
    let mut builder =
        Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none());
    if url.scheme() == "http" {
        // Plain HTTP must work where no CA certificates are installed.
        builder = builder.no_proxy().tls_certs_only([]);
    }
    let mut reply = builder.build().map_err(told)?.get(url.clone()).send().await.map_err(told)?;
    if reply.status().is_success() {
        return Ok(());
    }
    let mut body = Vec::new();
    while let Some(piece) = reply.chunk().await.map_err(told)? {
        body.extend_from_slice(&piece);
        if body.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = json["base_resp"]["status_msg"].as_str().unwrap_or("it does not say why");
    Err(format!("not ready ({}): {}", reply.status().as_u16(), escape(why)))
}
