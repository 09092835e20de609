//! `moderation`.

use filegate_store::admin::{AdminChange, AdminQuestion, BlockList, NewBlocked};
use serde::Deserialize;

use super::ask::{self, Ask};
use super::problem::Problem;
use super::{Asked, Plan, Planned};

/// Longest term, and longest text of an image's hash.
const VALUE_BYTES_MAX: usize = 256;

pub(super) fn blocked(ask: &Ask) -> Asked {
    Ok(AdminQuestion::Blocked(ask.value("list")?))
}

pub(super) fn reviews(_: &Ask) -> Asked {
    Ok(AdminQuestion::Reviews)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    list: String,
    value: String,
    #[serde(default)]
    note: String,
}

pub(super) fn block(ask: &Ask) -> Planned {
    let asked: Block = ask.json()?;
    let list: BlockList = asked.list.parse().map_err(|why| Problem::invalid("list", why))?;
    let value = checked(list, asked.value).map_err(|why| Problem::invalid("value", why))?;
    let note = ask::note("note", asked.note)?;
    Ok(Plan::of(AdminChange::Block(NewBlocked { list, value, note })))
}

fn checked(list: BlockList, value: String) -> Result<String, &'static str> {
    let short = (1..=VALUE_BYTES_MAX).contains(&value.len());
    match list {
        BlockList::Sha256 if value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(value.to_ascii_lowercase())
        }
        BlockList::Sha256 => Err("is not a SHA-256: 64 hex digits"),
        BlockList::Image if short && value.bytes().all(|b| b.is_ascii_graphic()) => Ok(value),
        BlockList::Image => Err("is not the hash of an image: 1 to 256 characters of its text"),
        BlockList::Term if short && !value.trim().is_empty() => Ok(value),
        BlockList::Term => Err("a term has 1 to 256 bytes and is not blank"),
    }
}

pub(super) fn unblock(ask: &Ask) -> Planned {
    super::nothing(ask)?;
    Ok(Plan::of(AdminChange::Unblock(ask.path_id("id")?)))
}
