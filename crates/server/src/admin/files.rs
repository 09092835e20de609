//! `files` and `receipts`.

use filegate_store::admin::{
    AdminChange, AdminQuestion, AdminSubject, FileAct, FileFilter, FileVerb,
};
use filegate_types::FileId;
use serde::Deserialize;

use super::ask::{self, Ask};
use super::problem::Problem;
use super::{Answer, Answered, Asked, Plan, Planned, Sought};
use crate::relay::explain;

pub(super) fn list(ask: &Ask) -> Asked {
    let sha256 = ask
        .text("sha256")
        .map(|text| unhex(&text).ok_or_else(|| Problem::invalid("sha256", "is not 64 hex digits")));
    Ok(AdminQuestion::Files(FileFilter {
        account: ask.text("account"),
        purpose: ask.text("purpose"),
        state: ask.value("state")?,
        filename: ask.text("filename"),
        sha256: sha256.transpose()?,
    }))
}

pub(super) fn look(ask: &Ask) -> Sought {
    Ok(AdminSubject::File(ask.path_id("id")?))
}

/// What rows say of a file, and where it is upstream.
pub(super) async fn explain(ask: Ask) -> Answered {
    let (app, id) = (&ask.app, ask.path_id("id")?);
    let file_id =
        FileId::new(id).map_err(|_why| Problem::not_found("ids of files are positive"))?;
    if let Some(file) = app.catalog.adopted_of_any(file_id).await? {
        let terms = app.catalog.account_terms(file.account_id).await?;
        let terms = terms.ok_or_else(|| Problem::not_found("its account is gone"))?;
        return Ok(Answer::Json(explain::adopted(app, &terms, &file).await?));
    }
    let mut told = app.catalog.admin_look(AdminSubject::Explain(id), ask.now).await??;
    if let Some(account) = app.catalog.owner_of(file_id).await?
        && let Some(terms) = app.catalog.account_terms(account).await?
    {
        let purpose = told["file"]["purpose"].as_str().and_then(|purpose| purpose.parse().ok());
        let relay = explain::stored(app, account, &terms, file_id, purpose.as_ref()).await?;
        told["relay"] = relay;
    }
    Ok(Answer::Json(told))
}

pub(super) fn receipts(ask: &Ask) -> Asked {
    Ok(AdminQuestion::Receipts(ask.text("account")))
}

pub(super) fn receipt(ask: &Ask) -> Sought {
    Ok(AdminSubject::Receipt(ask.path_id("id")?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: Option<String>,
}

pub(super) fn quarantine(ask: &Ask) -> Planned {
    let reason = ask::reason(ask.json::<Reason>()?.reason)?;
    act(ask, FileVerb::Quarantine, reason)
}

pub(super) fn release(ask: &Ask) -> Planned {
    let reason = ask.json::<Reason>()?.reason.unwrap_or_default();
    act(ask, FileVerb::Release, ask::note("reason", reason)?)
}

pub(super) fn delete(ask: &Ask) -> Planned {
    let reason = ask::reason(ask.json::<Reason>()?.reason)?;
    Ok(Plan { wakes_jobs: true, ..act(ask, FileVerb::Delete, reason)? })
}

fn act(ask: &Ask, verb: FileVerb, reason: String) -> Planned {
    let file_id = ask.path_id("id")?;
    Ok(Plan::of(AdminChange::File(FileAct { file_id, verb, reason })))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
