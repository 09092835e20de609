//! `moderation`.

use filegate_store::admin::{AdminChange, AdminQuestion, NewBlocked};
use filegate_store::catalog::moderation::BlockedList;
use serde::Deserialize;

use super::ask::{self, Ask};
use super::problem::Problem;
use super::{Asked, Plan, Planned};

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
    let list: BlockedList = asked.list.parse().map_err(|why| Problem::invalid("list", why))?;
    let value = list.clean(&asked.value).map_err(|why| Problem::invalid("value", why))?;
    let note = ask::note("note", asked.note)?;
    Ok(Plan::of(AdminChange::Block(NewBlocked { list, value, note })))
}

pub(super) fn unblock(ask: &Ask) -> Planned {
    super::nothing(ask)?;
    Ok(Plan::of(AdminChange::Unblock(ask.path_id("id")?)))
}
