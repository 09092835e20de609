//! Channels, and what upstream takes on them.
//!
//! A view has the end of a key and never more, so neither has an answer or the audit log.

use std::sync::Arc;

use filegate_types::{
    AccountId, AccountSettings, ChannelSettings, ChannelState, Money, PriceUnit, UnixMillis,
};
use serde_json::{Value, json};

use super::accounts::{self, json as column};
use super::view::{Cursor, Kind, View, text};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::json_or_default;
use crate::catalog::sql::{self, Connection, OptionalExtension as _};
use crate::seal::{SealError, Sealer, Unsealed};

/// A channel to be added.
#[derive(Debug, Clone)]
pub struct NewChannel {
    /// What it is called; no other that is not removed has the name.
    pub name: String,
    /// The account that brings it, and alone may use it.
    pub account: Option<String>,
    /// Where it is.
    pub base_url: String,
    /// Its key.
    pub key: Unsealed,
    /// How it is used.
    pub settings: ChannelSettings,
}

/// A change of a channel. What is absent stays.
#[derive(Debug, Clone)]
pub struct ChannelChange {
    /// Which.
    pub name: String,
    /// Where it is; only together with a key, which is sealed for it.
    pub base_url: Option<String>,
    /// Its key.
    pub key: Option<Unsealed>,
    /// How it is used.
    pub settings: Option<ChannelSettings>,
}

/// Keys of channels that are to be sealed again.
#[derive(Debug, Clone)]
pub struct Resealing {
    /// What opens them, and seals with its first key.
    pub sealer: Arc<Sealer>,
    /// Random; each key gets another nonce made from it.
    pub nonce: [u8; 12],
}

/// A cost that is set or removed.
#[derive(Debug, Clone)]
pub struct CostChange {
    /// On which channel.
    pub channel: String,
    /// Of calls of this normalised path; empty for all that have no cost of their own.
    pub path: String,
    /// For what of them.
    pub unit: PriceUnit,
    /// How much; `None` removes it.
    pub amount: Option<Money>,
}

/// A channel's name; those that are removed have their number with it, for others may have the name now.
macro_rules! shown_name {
    () => {
        "CASE ch.state WHEN 'removed' THEN ch.name || '#' || ch.channel_id ELSE ch.name END"
    };
}
pub(super) use shown_name;

const VIEW: View = View {
    columns: &[
        (shown_name!(), "id", Kind::Plain),
        ("ch.channel_id", "channel_id", Kind::Plain),
        ("ch.name", "name", Kind::Plain),
        ("a.name", "account", Kind::Plain),
        ("ch.base_url", "base_url", Kind::Plain),
        ("ch.key_hint", "key_hint", Kind::Plain),
        ("ch.state", "state", Kind::Plain),
        ("ch.condition", "condition", Kind::Plain),
        ("ch.condition_until", "condition_until", Kind::Time),
        ("ch.condition_since", "condition_since_at", Kind::Time),
        ("ch.condition_why", "condition_why", Kind::Plain),
        ("ch.settings", "settings", Kind::Json),
        ("ch.created_at", "created_at", Kind::Time),
    ],
    from: "channels ch LEFT JOIN accounts a USING (account_id)",
    cursor: Cursor::Named(
        "ch.channel_id",
        concat!("SELECT ch.channel_id FROM channels ch WHERE ", shown_name!(), " = ?"),
    ),
};

/// Which channels are listed.
#[derive(Debug, Clone, Default)]
pub struct ChannelFilter {
    /// Those that this account brought.
    pub account: Option<String>,
    /// Those of this state; absent: all that are not removed.
    pub state: Option<ChannelState>,
}

pub(super) fn list(c: &Connection, filter: &ChannelFilter, page: &Page) -> Result<Listed, Stop> {
    let account = filter.account.as_deref();
    if let Some(name) = account {
        accounts::id(c, name)?;
    }
    let there = filter.state.is_none().then_some(ChannelState::Removed.name());
    let filters = [
        ("a.name = ?", text(account)),
        ("ch.state = ?", text(filter.state.map(ChannelState::name))),
        ("ch.state <> ?", text(there)),
    ];
    VIEW.page(c, &filters, page)
}

pub(super) fn look(c: &Connection, name: &str) -> Result<Value, Stop> {
    let found = VIEW.one(c, "ch.state <> 'removed' AND ch.name = ?", name)?;
    Ok(found.ok_or_else(|| unknown(name))?)
}

fn unknown(name: &str) -> Refusal {
    Refusal::NotFound(format!("there is no channel {name:?}"))
}

/// The row of the channel called `name`.
pub(super) fn id(c: &Connection, name: &str) -> Result<i64, Stop> {
    let found = c
        .prepare_cached("SELECT channel_id FROM channels WHERE name = ?1 AND state <> 'removed'")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(found.ok_or_else(|| unknown(name))?)
}

pub(super) fn add(c: &Connection, new: &NewChannel, now: UnixMillis) -> Result<Applied, Stop> {
    let account = new.account.as_deref().map(|name| accounts::id(c, name)).transpose()?;
    let made = c
        .prepare_cached(
            "INSERT INTO channels (name, account_id, base_url, sealed_key, key_hint, settings, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        )?
        .execute((
            &new.name,
            account.map(|id| id.0),
            &new.base_url,
            sealed(&new.key, &new.base_url)?,
            new.key.hint(),
            column(&new.settings),
            now.0,
        ))?;
    if made == 0 {
        let why = format!("there is a channel {:?} already", new.name);
        return Err(Refusal::Conflict(why).into());
    }
    Ok(Applied::of(target(&new.name), None, look(c, &new.name)?))
}

pub(super) fn change(
    c: &Connection,
    change: &ChannelChange,
    now: UnixMillis,
) -> Result<Applied, Stop> {
    let before = look(c, &change.name)?;
    let id = id(c, &change.name)?;
    if let Some(settings) = &change.settings {
        c.prepare_cached("UPDATE channels SET settings = ?2 WHERE channel_id = ?1")?
            .execute((id, column(settings)))?;
    }
    if let Some(key) = &change.key {
        let base_url = match &change.base_url {
            Some(given) => given,
            None => before["base_url"].as_str().unwrap_or_default(),
        };
        c.prepare_cached(
            "UPDATE channels SET base_url = ?2, sealed_key = ?3, key_hint = ?4 WHERE channel_id = ?1",
        )?
        .execute((id, base_url, sealed(key, base_url)?, key.hint()))?;
        forget_condition(c, id, now)?;
    } else if change.base_url.is_some() {
        let why = "base_url: give the key as well: it is sealed for where it is sent";
        return Err(Refusal::Invalid(why.to_owned()).into());
    }
    Ok(Applied::of(target(&change.name), Some(before), look(c, &change.name)?))
}

fn sealed(key: &Unsealed, base_url: &str) -> Result<Vec<u8>, Refusal> {
    key.seal(base_url).map_err(|why| Refusal::Conflict(format!("the key cannot be sealed: {why}")))
}

/// What answers said before says nothing any more.
fn forget_condition(c: &Connection, id: i64, now: UnixMillis) -> sql::Result<()> {
    c.prepare_cached(
        "UPDATE channels SET condition = 'well', condition_until = NULL, condition_since = ?2,
                             condition_why = ''
         WHERE channel_id = ?1 AND condition <> 'well'",
    )?
    .execute((id, now.0))
    .map(drop)
}

/// A channel that is enabled is asked again at once, whatever it answered before.
pub(super) fn set_state(
    c: &Connection,
    name: &str,
    state: ChannelState,
    now: UnixMillis,
) -> Result<Applied, Stop> {
    let before = look(c, name)?;
    let id = id(c, name)?;
    c.prepare_cached("UPDATE channels SET state = ?2 WHERE channel_id = ?1")?
        .execute((id, state.name()))?;
    if state == ChannelState::Active {
        forget_condition(c, id, now)?;
    }
    Ok(Applied::of(target(name), Some(before), look(c, name)?))
}

/// The key is erased. The row stays for the tasks and voices that point at it, and gives its name back.
pub(super) fn remove(c: &Connection, name: &str) -> Result<Applied, Stop> {
    let before = look(c, name)?;
    let id = id(c, name)?;
    let tied = tied_to(c, name)?;
    if !tied.is_empty() {
        let why = format!(
            "calls of {} may go there: give them other channels first (settings.channels)",
            tied.join(", ")
        );
        return Err(Refusal::Conflict(why).into());
    }
    let count = |sql: &str| -> sql::Result<i64> {
        c.prepare_cached(sql)?.query_row([id], |row| row.get(0))
    };
    let lost = json!({
        "replicas": count("SELECT count(*) FROM replicas WHERE channel_id = ?1 AND state = 'ready'")?,
        "tasks": count("SELECT count(*) FROM tasks WHERE channel_id = ?1")?,
        "voices": count("SELECT count(*) FROM voices WHERE channel_id = ?1 AND state = 'ready'")?,
    });
    c.prepare_cached("DELETE FROM replicas WHERE channel_id = ?1")?.execute([id])?;
    c.prepare_cached("DELETE FROM costs WHERE channel_id = ?1")?.execute([id])?;
    c.prepare_cached(
        "UPDATE channels SET state = 'removed', sealed_key = ?2, key_hint = '' WHERE channel_id = ?1",
    )?
    .execute((id, Vec::<u8>::new()))?;
    let mut reply = VIEW.one(c, "ch.channel_id = ?", id)?.unwrap_or_default();
    let after = reply.clone();
    reply["lost"] = lost;
    Ok(Applied { target: target(name), before: Some(before), after: Some(after), reply })
}

/// The accounts whose settings name the channel.
fn tied_to(c: &Connection, channel: &str) -> sql::Result<Vec<String>> {
    let mut statement = c.prepare_cached(
        "SELECT name, settings FROM accounts WHERE settings LIKE '%\"channels\"%' ORDER BY name",
    )?;
    let rows = statement.query_map((), |row| {
        let settings: AccountSettings = json_or_default(row, 1)?;
        Ok((row.get::<String>(0)?, settings.channels.unwrap_or_default()))
    })?;
    let mut tied = Vec::new();
    for row in rows {
        let (account, channels) = row?;
        if channels.iter().any(|name| name == channel) {
            tied.push(account);
        }
    }
    Ok(tied)
}

/// Refuses settings that name a channel which is not there, or which another account brought.
pub(super) fn check_tied(
    c: &Connection,
    account: AccountId,
    settings: &AccountSettings,
) -> Result<(), Stop> {
    for name in settings.channels.iter().flatten() {
        let owner: Option<Option<i64>> = c
            .prepare_cached(
                "SELECT account_id FROM channels WHERE name = ?1 AND state <> 'removed'",
            )?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let why = match owner {
            None => format!("settings.channels: there is no channel {name:?}"),
            Some(Some(other)) if other != account.0 => {
                format!("settings.channels: channel {name:?} is another account's own")
            }
            Some(_) => continue,
        };
        return Err(Refusal::Invalid(why).into());
    }
    Ok(())
}

/// Seals every key with the first sealing key. Those that do not open stay as they are, and are named.
pub(super) fn reseal(c: &Connection, with: &Resealing) -> Result<Applied, Stop> {
    let mut statement = c.prepare_cached(
        "SELECT channel_id, name, base_url, sealed_key FROM channels
         WHERE state <> 'removed' ORDER BY channel_id",
    )?;
    let rows = statement.query_map((), |row| {
        Ok((
            row.get::<i64>(0)?,
            row.get::<String>(1)?,
            row.get::<String>(2)?,
            row.get::<Vec<u8>>(3)?,
        ))
    })?;
    let mut update =
        c.prepare_cached("UPDATE channels SET sealed_key = ?2 WHERE channel_id = ?1")?;
    let (mut resealed, mut kept, mut unopened) = (0_u64, 0_u64, Vec::new());
    for (nth, row) in rows.enumerate() {
        let (id, name, base_url, sealed) = row?;
        // What is changed or lost is found where it is looked for, also under the right key.
        let opened = with.sealer.open(&sealed, &base_url);
        match opened {
            Ok(_) if !with.sealer.needs_reseal(&sealed) => kept += 1,
            Ok(plain) => {
                let again = with.sealer.seal(&plain, &base_url, nonce(with.nonce, nth as u64));
                update.execute((id, again.map_err(refused)?))?;
                resealed += 1;
            }
            Err(_) => unopened.push(name),
        }
    }
    let reply = json!({"resealed": resealed, "kept": kept, "unopened": unopened});
    Ok(Applied::of("channels".to_owned(), None, reply))
}

fn refused(why: SealError) -> Refusal {
    Refusal::Conflict(format!("keys cannot be sealed: {why}"))
}

/// Another nonce for each `nth`.
fn nonce(random: [u8; 12], nth: u64) -> [u8; 12] {
    let mut nonce = random;
    for (byte, of_nth) in nonce.iter_mut().zip(nth.to_be_bytes()) {
        *byte ^= of_nth;
    }
    nonce
}

fn target(name: &str) -> String {
    format!("channel:{name}")
}

const COST_ID: &str = "ch.name || '/' || k.unit || '/' || k.path";

const COSTS: View = View {
    columns: &[
        (COST_ID, "id", Kind::Plain),
        ("ch.name", "channel", Kind::Plain),
        ("k.unit", "unit", Kind::Plain),
        ("k.path", "path", Kind::Plain),
        ("k.amount", "amount", Kind::Money),
    ],
    from: "costs k JOIN channels ch USING (channel_id)",
    cursor: Cursor::Ascending(COST_ID),
};

pub(super) fn list_costs(
    c: &Connection,
    channel: Option<&str>,
    page: &Page,
) -> Result<Listed, Stop> {
    if let Some(name) = channel {
        id(c, name)?;
    }
    COSTS.page(c, &[("ch.name = ?", text(channel))], page)
}

pub(super) fn change_cost(c: &Connection, cost: &CostChange) -> Result<Applied, Stop> {
    let channel = id(c, &cost.channel)?;
    let shown = format!("{}/{}/{}", cost.channel, cost.unit.name(), cost.path);
    let look = || COSTS.one(c, "ch.name || '/' || k.unit || '/' || k.path = ?", &shown);
    let before = look()?;
    let target = format!("cost:{shown}");
    let key = (channel, &cost.path, cost.unit.name());
    match cost.amount {
        Some(amount) => {
            c.prepare_cached(
                "INSERT INTO costs (channel_id, path, unit, amount) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (channel_id, path, unit) DO UPDATE SET amount = excluded.amount",
            )?
            .execute((key.0, key.1, key.2, amount.0))?;
            Ok(Applied::of(target, before, look()?.unwrap_or(Value::Null)))
        }
        None if before.is_none() => {
            Err(Refusal::NotFound(format!("there is no cost {shown}")).into())
        }
        None => {
            c.prepare_cached(
                "DELETE FROM costs WHERE channel_id = ?1 AND path = ?2 AND unit = ?3",
            )?
            .execute(key)?;
            let reply = json!({"id": shown, "removed": true});
            Ok(Applied { target, before, after: None, reply })
        }
    }
}
