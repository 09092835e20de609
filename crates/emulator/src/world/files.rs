//! Files: uploads, and what tasks produce.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use filegate_types::purpose::{AcceptRule, Keep, PurposeName, PurposePolicy, defaults};
use filegate_types::{UnixMillis, hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{AccountIx, Stored, World};
use crate::reply::Refusal;

/// Files in an account.
const FILES_MAX: usize = 100_000;

/// Extensions, sizes and retention of each purpose: the documented ones, which are the gateway's defaults as well.
/// Nothing else of those rules is applied here, since upstream does not.
static PURPOSES: LazyLock<BTreeMap<PurposeName, PurposePolicy>> = LazyLock::new(defaults);

/// A file of an account.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) id: i64,
    pub(crate) purpose: String,
    pub(crate) filename: String,
    pub(crate) created_at: UnixMillis,
    pub(crate) content: Arc<Stored>,
    expiry: Option<Expiry>,
}

/// When a file ends, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// From then on "file expired".
    Says(UnixMillis),
    /// From then on it was never there.
    Vanishes(UnixMillis),
}

/// A file to be.
#[derive(Debug)]
pub(crate) struct NewFile<'a> {
    pub(crate) purpose: &'a str,
    pub(crate) filename: String,
    pub(crate) content: Arc<Stored>,
    /// Results of tasks are there only later.
    pub(crate) created_at: UnixMillis,
    pub(crate) expiry: Option<Expiry>,
}

/// What uploads for `purpose` may be, if it is one to upload for.
pub(crate) fn accept_rule(
    purpose: &str,
    extension: &str,
) -> Result<(&'static PurposePolicy, &'static AcceptRule), Refusal> {
    let name = purpose.parse::<PurposeName>().ok();
    let policy = name.and_then(|name| PURPOSES.get(&name)).filter(|policy| policy.upload);
    let policy = policy.ok_or_else(Refusal::invalid_purpose)?;
    let rule = policy.rule_for(extension);
    let rule = rule.ok_or_else(|| {
        Refusal::invalid(format_args!("invalid file ext for {}", purpose.replace('_', " ")))
    })?;
    Ok((policy, rule))
}

impl Expiry {
    /// How long an upload is kept.
    pub(crate) fn of_upload(policy: &PurposePolicy, now: UnixMillis) -> Option<Self> {
        match policy.keep {
            Keep::For(span) => Some(Self::Says(now.plus(span.0))),
            Keep::UntilDeleted => None,
        }
    }
}

impl File {
    /// As replies show it. Generated videos have 0 bytes there, as upstream's have.
    pub(crate) fn object(&self) -> Value {
        let bytes = if self.purpose == "video_generation" { 0 } else { self.content.len() };
        json!({
            "file_id": self.id,
            "bytes": bytes,
            "created_at": self.created_at.seconds(),
            "filename": self.filename,
            "purpose": self.purpose,
        })
    }

    pub(crate) fn expire(&mut self, now: UnixMillis) {
        self.expiry = Some(Expiry::Says(now));
    }

    fn is_there(&self, now: UnixMillis) -> bool {
        self.created_at <= now && !matches!(self.expiry, Some(Expiry::Vanishes(at)) if at <= now)
    }
}

impl World {
    pub(crate) fn add_file(
        &mut self,
        ix: AccountIx,
        new: NewFile<'_>,
        now: UnixMillis,
    ) -> Result<&File, Refusal> {
        if self.account(ix).files.len() >= FILES_MAX {
            return Err(Refusal::full("files of the account"));
        }
        let id = self.mint(now);
        let file = File {
            id,
            purpose: new.purpose.to_owned(),
            filename: new.filename,
            created_at: new.created_at,
            content: new.content,
            expiry: new.expiry,
        };
        Ok(self.account_mut(ix).files.entry(id).or_insert(file))
    }

    /// The file, if the account has it now. Another account's is not there.
    pub(crate) fn file(&self, ix: AccountIx, id: i64, now: UnixMillis) -> Result<&File, Refusal> {
        let file = self.account(ix).files.get(&id).filter(|file| file.is_there(now));
        let file = file.ok_or_else(Refusal::file_not_found)?;
        match file.expiry {
            Some(Expiry::Says(at)) if at <= now => Err(Refusal::new(2013, "file expired")),
            _ => Ok(file),
        }
    }

    /// The newest first.
    pub(crate) fn files(&self, ix: AccountIx, now: UnixMillis) -> impl Iterator<Item = &File> {
        let all = self.account(ix).files.values().rev();
        all.filter(move |file| {
            file.is_there(now) && !matches!(file.expiry, Some(Expiry::Says(at)) if at <= now)
        })
    }

    /// Removes a file that is there, expired or not.
    pub(crate) fn delete_file(
        &mut self,
        ix: AccountIx,
        id: i64,
        purpose: Option<&str>,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let files = &mut self.account_mut(ix).files;
        let file = files.get(&id).filter(|file| file.is_there(now));
        let file = file.ok_or_else(Refusal::file_not_found)?;
        let same = |asked: &str| {
            let is_text = |purpose: &str| purpose.starts_with("t2a_async");
            asked == file.purpose || (is_text(asked) && is_text(&file.purpose))
        };
        if !purpose.is_none_or(same) {
            return Err(Refusal::invalid_purpose());
        }
        files.remove(&id);
        Ok(())
    }
}

/// A token nobody can guess from the outside of a run.
pub(crate) fn token(seed: u64, about: &str) -> String {
    hex(&Sha256::digest(format!("{seed} {about}"))[..16])
}
