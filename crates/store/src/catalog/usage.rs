//! What is stored, and what was called: counted in the transactions that change it.

use filegate_types::{AccountId, Call, KeyId, Money, UnixMillis};

use super::sql::{self, Connection};
use super::{Catalog, relaxed};
use crate::error::StoreError;

/// Calls of one kind that succeeded, on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Whose calls.
    pub account: AccountId,
    /// With which key.
    pub key: KeyId,
    /// On files of which purpose; empty where a call is of none.
    pub purpose: String,
    /// Which call.
    pub call: Call,
    /// How many.
    pub calls: u64,
    /// Bytes that were uploaded or handed out.
    pub bytes: u64,
    /// What was charged for them.
    pub charged: Money,
}

impl Catalog {
    /// Adds calls that no transaction of their own has counted, such as reads.
    pub async fn add_usage(&self, mut used: Vec<Usage>, now: UnixMillis) -> Result<(), StoreError> {
        // In one order everywhere, so that replicas that count at the same time wait in turn.
        used.sort_by(|one, other| order(one).cmp(&order(other)));
        self.engine
            .write(relaxed("counting calls"), move |c| {
                used.iter().try_for_each(|one| add(c, one, now))
            })
            .await
    }
}

fn order(used: &Usage) -> (AccountId, KeyId, &str, &str) {
    (used.account, used.key, &used.purpose, used.call.name())
}

/// Adds to the counts of the UTC day of `now`.
pub(super) fn add(c: &Connection, used: &Usage, now: UnixMillis) -> sql::Result<()> {
    c.prepare_cached(
        "INSERT INTO usage (day, account_id, key_id, purpose, call, calls, bytes, charged)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (day, account_id, key_id, purpose, call) DO UPDATE SET
             calls = usage.calls + excluded.calls, bytes = usage.bytes + excluded.bytes,
             charged = usage.charged + excluded.charged",
    )?
    .queue((
        day(now),
        used.account.0,
        used.key.0,
        &used.purpose,
        used.call.name(),
        used.calls.cast_signed(),
        used.bytes.cast_signed(),
        used.charged.0,
    ))
}

/// The UTC day, `YYYY-MM-DD`.
pub(super) fn day(at: UnixMillis) -> String {
    // Days to a date of the Gregorian calendar, in years that begin in March.
    let days = at.0.div_euclid(86_400_000) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Changes what an account has stored of a purpose. The account must be locked.
pub(super) fn store(
    c: &Connection,
    account: AccountId,
    purpose: &str,
    files: i64,
    bytes: i64,
) -> sql::Result<()> {
    // The CHECKs see the row of an upsert before the one that it becomes: none below zero.
    let change = if files < 0 {
        "UPDATE stored SET files = files + ?3, bytes = bytes + ?4
         WHERE account_id = ?1 AND purpose = ?2"
    } else {
        "INSERT INTO stored (account_id, purpose, files, bytes) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (account_id, purpose) DO UPDATE SET
             files = stored.files + excluded.files, bytes = stored.bytes + excluded.bytes"
    };
    c.prepare_cached(change)?.queue((account.0, purpose, files, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_800_000_000, "2027-01-15"),
            (4_107_542_399, "2100-02-28"),
            (4_107_542_400, "2100-03-01"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(day(UnixMillis(seconds * 1000)), date);
        }
    }
}
