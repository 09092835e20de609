//! The seal: a store that is sealed takes no change, from whatever process it comes, while it still answers
//! what is read.
//!
//! Triggers, and not a flag that servers would have to look at: the server that runs may be older than the
//! seal, and one among many replicas may be forgotten.

use crate::catalog::sql::{Connection, Dialect, Result};

/// Every table that is written to.
pub(super) const SEALED: [&str; 25] = [
    "meta",
    "accounts",
    "keys",
    "uploads",
    "files",
    "jobs",
    "stored",
    "ledger",
    "prices",
    "idempotency",
    "usage",
    "receipts",
    "blocked",
    "admin_tokens",
    "audit",
    "channels",
    "replicas",
    "adopted",
    "tasks",
    "voices",
    "holds",
    "costs",
    "relayed",
    "callbacks",
    "deliveries",
];

/// Seals. What was being changed has ended when this returns.
pub(super) fn seal(c: &Connection) -> Result<()> {
    match c.dialect() {
        Dialect::Sqlite => each(c, |table| {
            ["INSERT", "UPDATE", "DELETE"]
                .map(|change| {
                    format!(
                        "CREATE TRIGGER sealed_{table}_{change} BEFORE {change} ON {table}
                         BEGIN SELECT raise(ABORT, 'this store is sealed'); END;"
                    )
                })
                .concat()
        }),
        Dialect::Postgres => {
            c.execute_batch(
                "CREATE OR REPLACE FUNCTION filegate_sealed() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'this store is sealed' USING ERRCODE = '25006'; END $$",
            )?;
            each(c, |table| {
                format!(
                    "CREATE TRIGGER sealed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
                     FOR EACH STATEMENT EXECUTE FUNCTION filegate_sealed();"
                )
            })
        }
    }
}

/// Takes the seal off, if there is one.
pub(super) fn unseal(c: &Connection) -> Result<()> {
    match c.dialect() {
        Dialect::Sqlite => each(c, |table| {
            ["INSERT", "UPDATE", "DELETE"]
                .map(|change| format!("DROP TRIGGER IF EXISTS sealed_{table}_{change};"))
                .concat()
        }),
        Dialect::Postgres => each(c, |table| format!("DROP TRIGGER IF EXISTS sealed ON {table};")),
    }
}

fn each(c: &Connection, sql: impl Fn(&str) -> String) -> Result<()> {
    SEALED.iter().try_for_each(|table| c.execute_batch(&sql(table)))
}
