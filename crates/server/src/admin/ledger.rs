//! `ledger` and `prices`.

use filegate_store::admin::{AdminChange, AdminQuestion, NewEntry, PriceChange};
use filegate_types::{Call, Money, PriceUnit};
use serde::Deserialize;

use super::ask::{self, Ask};
use super::channels::relayed_path;
use super::problem::Problem;
use super::{Asked, Plan, Planned};

/// What entries there are.
const KINDS: [&str; 4] = ["top_up", "adjustment", "charge", "storage"];

pub(super) fn list(ask: &Ask) -> Asked {
    let kind = ask.text("kind");
    if let Some(kind) = kind.as_deref().filter(|kind| !KINDS.contains(kind)) {
        let why = format!("{kind:?} is not {}", KINDS.join(", "));
        return Err(Problem::invalid("kind", why));
    }
    Ok(AdminQuestion::Ledger { account: ask.text("account"), kind })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    account: String,
    amount: Money,
    reason: Option<String>,
}

pub(super) fn top_up(ask: &Ask) -> Planned {
    let asked: Entry = ask.json()?;
    Ok(Plan::of(AdminChange::Post(NewEntry {
        account: asked.account,
        adjustment: false,
        amount: ask::above_zero("amount", asked.amount)?,
        reason: ask::note("reason", asked.reason.unwrap_or_default())?,
    })))
}

pub(super) fn adjust(ask: &Ask) -> Planned {
    let asked: Entry = ask.json()?;
    if asked.amount.is_zero() {
        return Err(Problem::invalid("amount", "0 adjusts nothing"));
    }
    Ok(Plan::of(AdminChange::Post(NewEntry {
        account: asked.account,
        adjustment: true,
        amount: asked.amount,
        reason: ask::reason(asked.reason)?,
    })))
}

pub(super) fn prices(_: &Ask) -> Asked {
    Ok(AdminQuestion::Prices)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    call: Call,
    unit: Option<PriceUnit>,
    purpose: Option<String>,
    path: Option<String>,
    amount: Money,
}

pub(super) fn set_price(ask: &Ask) -> Planned {
    let asked: Set = ask.json()?;
    let unit = asked.unit.unwrap_or(match asked.call {
        Call::Storage => PriceUnit::GibDay,
        _ => PriceUnit::Call,
    });
    if !unit.fits(asked.call) {
        let why = format!("{} has no price by {}", asked.call, unit.name());
        return Err(Problem::invalid("unit", why));
    }
    if asked.amount < Money::ZERO {
        return Err(Problem::invalid("amount", format_args!("{} is below 0", asked.amount)));
    }
    let (call, amount) = (asked.call, Some(asked.amount));
    let purpose = of(call, asked.purpose, asked.path)?;
    if call != Call::Relay && !purpose.is_empty() {
        super::known_purpose(ask, "purpose", &purpose)?;
    }
    Ok(Plan::of(AdminChange::Price(PriceChange { call, unit, purpose, amount })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    call: Call,
    unit: Option<PriceUnit>,
    purpose: Option<String>,
    path: Option<String>,
}

/// What of a call has the price: a purpose of files, or a path of what is relayed.
fn of(call: Call, purpose: Option<String>, path: Option<String>) -> Result<String, Problem> {
    match (call, purpose.filter(|text| !text.is_empty()), path) {
        (Call::Relay, None, path) => relayed_path("path", path.unwrap_or_default()),
        (Call::Relay, Some(_), _) => {
            Err(Problem::invalid("purpose", "relayed calls have prices by path"))
        }
        (_, _, Some(_)) => Err(Problem::invalid("path", "only relayed calls have prices by path")),
        (_, purpose, None) => Ok(purpose.unwrap_or_default()),
    }
}

/// The purpose may be one that is not configured any more.
pub(super) fn remove_price(ask: &Ask) -> Planned {
    let asked: Remove = ask.json()?;
    let unit = asked.unit.unwrap_or(match asked.call {
        Call::Storage => PriceUnit::GibDay,
        _ => PriceUnit::Call,
    });
    let (call, amount) = (asked.call, None);
    let purpose = of(call, asked.purpose, asked.path)?;
    Ok(Plan::of(AdminChange::Price(PriceChange { call, unit, purpose, amount })))
}
