//! Prices.

use filegate_types::{Call, Money, PriceUnit};
use serde_json::{Value, json};

use super::view::{Cursor, Kind, View};
use super::{Applied, Listed, Page, Refusal, Stop};
use crate::catalog::sql::Connection;

/// A price that is set or removed.
#[derive(Debug, Clone)]
pub struct PriceChange {
    /// Of which call.
    pub call: Call,
    /// For what of it.
    pub unit: PriceUnit,
    /// For files of which purpose; empty for all that have no price of their own.
    pub purpose: String,
    /// How much; `None` removes it.
    pub amount: Option<Money>,
}

const ID: &str = "p.call || '/' || p.unit || '/' || p.purpose";

const VIEW: View = View {
    columns: &[
        (ID, "id", Kind::Plain),
        ("p.call", "call", Kind::Plain),
        ("p.unit", "unit", Kind::Plain),
        ("p.purpose", "purpose", Kind::Plain),
        ("p.amount", "amount", Kind::Money),
    ],
    from: "prices p",
    cursor: Cursor::Ascending(ID),
};

pub(super) fn list(c: &Connection, page: &Page) -> Result<Listed, Stop> {
    VIEW.page(c, &[], page)
}

pub(super) fn change(c: &Connection, price: &PriceChange) -> Result<Applied, Stop> {
    let id = format!("{}/{}/{}", price.call, price.unit.name(), price.purpose);
    let look = || VIEW.one(c, "p.call || '/' || p.unit || '/' || p.purpose = ?", &id);
    let before = look()?;
    let key = (price.call.name(), price.unit.name(), &price.purpose);
    match price.amount {
        Some(amount) => {
            c.prepare_cached(
                "INSERT INTO prices (call, unit, purpose, amount) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (call, purpose, unit) DO UPDATE SET amount = excluded.amount",
            )?
            .execute((key.0, key.1, key.2, amount.0))?;
            Ok(Applied::of(target(&id), before, look()?.unwrap_or(Value::Null)))
        }
        None if before.is_none() => {
            Err(Refusal::NotFound(format!("there is no price {id}")).into())
        }
        None => {
            c.prepare_cached("DELETE FROM prices WHERE call = ?1 AND unit = ?2 AND purpose = ?3")?
                .execute(key)?;
            let reply = json!({"id": id, "removed": true});
            Ok(Applied { target: target(&id), before, after: None, reply })
        }
    }
}

fn target(id: &str) -> String {
    format!("price:{id}")
}
