//! Files and receipts, whoever they belong to.

use filegate_types::{FileState, UnixMillis};
use serde_json::{Value, json};

use super::view::{Cursor, Kind, View, text};
use super::{Applied, Listed, Page, Refusal, Stop, accounts, keys, ledger};
use crate::catalog::adopted;
use crate::catalog::files::{self, DeleteCause};
use crate::catalog::sql::{Connection, OptionalExtension as _, Value as Sql};

/// Which files are looked for. What is absent does not matter.
#[derive(Debug, Clone, Default)]
pub struct FileFilter {
    /// Of this account.
    pub account: Option<String>,
    /// Of this purpose.
    pub purpose: Option<String>,
    /// In this state.
    pub state: Option<FileState>,
    /// Of exactly this name.
    pub filename: Option<String>,
    /// With this content.
    pub sha256: Option<[u8; 32]>,
}

/// What is done to a file.
#[derive(Debug, Clone)]
pub struct FileAct {
    /// To which.
    pub file_id: i64,
    /// What.
    pub verb: FileVerb,
    /// Why.
    pub reason: String,
}

/// See [`FileAct`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileVerb {
    /// Its content is not given out any more.
    Quarantine,
    /// Its content is given out again.
    Release,
    /// It goes.
    Delete,
}

const VIEW: View = View {
    columns: &[
        ("f.file_id", "id", Kind::Plain),
        ("a.name", "account", Kind::Plain),
        ("f.key_id", "key_id", Kind::Plain),
        ("f.purpose", "purpose", Kind::Plain),
        ("f.filename", "filename", Kind::Plain),
        ("f.bytes", "bytes", Kind::Plain),
        ("f.media_type", "media_type", Kind::Plain),
        ("f.media", "media", Kind::Json),
        ("f.sha256", "sha256", Kind::Hex),
        ("f.blob_key", "blob_key", Kind::Plain),
        ("f.state", "state", Kind::Plain),
        ("f.verdict", "verdict", Kind::Json),
        ("f.created_at", "created_at", Kind::Time),
        ("f.expires_at", "expires_at", Kind::Time),
        ("f.damaged_at", "damaged_at", Kind::Time),
    ],
    from: "files f JOIN accounts a USING (account_id)",
    cursor: Cursor::Number("f.file_id"),
};

/// Files that were born upstream and have no bytes here.
const ADOPTED: View = View {
    columns: &[
        ("d.file_id", "id", Kind::Plain),
        ("a.name", "account", Kind::Plain),
        ("d.key_id", "key_id", Kind::Plain),
        ("d.purpose", "purpose", Kind::Plain),
        ("d.filename", "filename", Kind::Plain),
        ("d.bytes", "bytes", Kind::Plain),
        ("'upstream'", "state", Kind::Plain),
        ("c.name", "channel", Kind::Plain),
        ("d.upstream_id", "upstream_id", Kind::Plain),
        ("d.task_id", "task_id", Kind::Plain),
        ("d.created_at", "created_at", Kind::Time),
        ("d.expires_at", "expires_at", Kind::Time),
    ],
    from: "adopted d JOIN accounts a USING (account_id) JOIN channels c USING (channel_id)",
    cursor: Cursor::Number("d.file_id"),
};

const RECEIPTS: View = View {
    columns: &[
        ("r.file_id", "id", Kind::Plain),
        ("r.file_id", "file_id", Kind::Plain),
        ("a.name", "account", Kind::Plain),
        ("r.purpose", "purpose", Kind::Plain),
        ("r.filename", "filename", Kind::Plain),
        ("r.bytes", "bytes", Kind::Plain),
        ("r.sha256", "sha256", Kind::Hex),
        ("r.cause", "cause", Kind::Plain),
        ("r.deleted_at", "deleted_at", Kind::Time),
        ("r.purged_at", "purged_at", Kind::Time),
    ],
    from: "receipts r JOIN accounts a USING (account_id)",
    cursor: Cursor::Number("r.file_id"),
};

/// Ledger entries that an explanation shows at most; a file has few.
const ENTRIES_MAX: u32 = 100;

pub(super) fn list(c: &Connection, filter: &FileFilter, page: &Page) -> Result<Listed, Stop> {
    let account = filter.account.as_deref().map(|name| accounts::id(c, name)).transpose()?;
    let filters = [
        ("f.account_id = ?", account.map(|id| Sql::Integer(id.0))),
        ("f.purpose = ?", text(filter.purpose.as_deref())),
        ("f.state = ?", text(filter.state.map(FileState::name))),
        ("f.filename = ?", text(filter.filename.as_deref())),
        ("f.sha256 = ?", filter.sha256.map(|hash| Sql::Blob(hash.to_vec()))),
    ];
    VIEW.page(c, &filters, page)
}

pub(super) fn reviews(c: &Connection, page: &Page) -> Result<Listed, Stop> {
    // As the partial index says it, so that it is used.
    VIEW.page(c, &[("f.state <> 'ready' AND f.state = ?", text(Some("review")))], page)
}

pub(super) fn receipts(c: &Connection, account: Option<&str>, page: &Page) -> Result<Listed, Stop> {
    let account = account.map(|name| accounts::id(c, name)).transpose()?;
    RECEIPTS.page(c, &[("r.account_id = ?", account.map(|id| Sql::Integer(id.0)))], page)
}

pub(super) fn look(c: &Connection, id: i64) -> Result<Value, Stop> {
    if let Some(file) = VIEW.one(c, "f.file_id = ?", id)? {
        return Ok(file);
    }
    Ok(ADOPTED.one(c, "d.file_id = ?", id)?.ok_or_else(|| unknown(id))?)
}

pub(super) fn receipt(c: &Connection, id: i64) -> Result<Value, Stop> {
    let found = RECEIPTS.one(c, "r.file_id = ?", id)?;
    let why = || Refusal::NotFound(format!("there is no receipt of a file {id}"));
    Ok(found.ok_or_else(why)?)
}

fn unknown(id: i64) -> Refusal {
    Refusal::NotFound(format!("there is no file {id}"))
}

/// Everything that says whether the file can be read, in one object.
pub(super) fn explain(c: &Connection, id: i64, now: UnixMillis) -> Result<Value, Stop> {
    let file = VIEW.one(c, "f.file_id = ?", id)?;
    let receipt = RECEIPTS.one(c, "r.file_id = ?", id)?;
    let known = file.as_ref().or(receipt.as_ref()).ok_or_else(|| unknown(id))?;
    let account = accounts::look(c, known["account"].as_str().unwrap_or_default())?;
    let key = match known["key_id"].as_i64() {
        Some(key) => keys::look(c, key)?,
        None => Value::Null,
    };
    let reasons = match &file {
        Some(file) => obstacles(file, &account, now),
        None => vec![format!("it is deleted ({})", known["cause"].as_str().unwrap_or_default())],
    };
    let page = Page { limit: ENTRIES_MAX, after: None };
    let entries = ledger::VIEW.page(c, &[("l.file_id = ?", Some(Sql::Integer(id)))], &page)?;
    Ok(json!({
        "id": id, "readable": reasons.is_empty(), "reasons": reasons, "file": file,
        "account": account, "key": key, "receipt": receipt, "ledger": entries.data,
    }))
}

/// Why the account's own keys cannot read it.
fn obstacles(file: &Value, account: &Value, now: UnixMillis) -> Vec<String> {
    let mut reasons = Vec::new();
    if account["state"] != "active" {
        reasons.push("its account is disabled".to_owned());
    }
    match file["state"].as_str() {
        Some("review") => reasons.push("moderation wants a person to look at it first".to_owned()),
        Some("quarantined") => reasons.push("it is quarantined".to_owned()),
        _ => {}
    }
    if file["damaged_at"].is_i64() {
        reasons.push("its bytes are not what was stored".to_owned());
    }
    if file["expires_at"].as_i64().is_some_and(|at| at <= now.seconds()) {
        reasons.push("its time has come".to_owned());
    }
    reasons
}

pub(super) fn act(c: &Connection, act: &FileAct, now: UnixMillis) -> Result<Applied, Stop> {
    let id = act.file_id;
    lock_owner(c, id)?;
    let before = look(c, id)?;
    let is_upstream = before["state"] == "upstream";
    let state = match act.verb {
        FileVerb::Delete if is_upstream => {
            adopted::remove(c, id, now)?;
            return Ok(with_reason(act, before.clone(), before));
        }
        _ if is_upstream => {
            let why =
                format!("the content of file {id} is not here, but upstream: it can be deleted");
            return Err(Refusal::Conflict(why).into());
        }
        FileVerb::Delete => {
            files::remove(c, id, DeleteCause::Operator, now)?;
            return Ok(with_reason(act, before, receipt(c, id)?));
        }
        FileVerb::Quarantine => FileState::Quarantined,
        FileVerb::Release => FileState::Ready,
    };
    if before["state"] == state.name() {
        return Err(Refusal::Conflict(format!("file {id} is {} already", state.name())).into());
    }
    c.prepare_cached("UPDATE files SET state = ?2 WHERE file_id = ?1")?
        .execute((id, state.name()))?;
    Ok(with_reason(act, before, look(c, id)?))
}

/// Locks the account of a file, so that it is not deleted or expired at the same time.
fn lock_owner(c: &Connection, id: i64) -> Result<(), Stop> {
    let owner = c
        .prepare_cached(
            "SELECT account_id FROM files WHERE file_id = ?1
             UNION ALL SELECT account_id FROM adopted WHERE file_id = ?1 LIMIT 1",
        )?
        .query_row([id], |row| row.get(0))
        .optional()?;
    c.lock_account(owner.ok_or_else(|| unknown(id))?);
    Ok(())
}

/// The reason is the audit log's: the file itself does not keep it.
fn with_reason(act: &FileAct, before: Value, reply: Value) -> Applied {
    let mut after = reply.clone();
    after["reason"] = act.reason.as_str().into();
    let target = format!("file:{}", act.file_id);
    Applied { target, before: Some(before), after: Some(after), reply }
}
