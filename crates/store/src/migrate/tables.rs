//! Which tables move, in the order in which rows can be put in, and by what their rows are told apart.
//!
//! Not moved: `uploads` and `holds`, which are of uploads and calls in progress somewhere and end there (an
//! account arrives with nothing held), and `leaders`, which say who is at work now. Of `jobs`, those that purge
//! blobs stay behind with their blobs, and the others move under new numbers: what was promised to clients and
//! what has to go upstream does not depend on where the gateway is.

use crate::catalog::sql::Value;

/// A table that moves.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The columns of the primary key come first.
    pub(super) columns: &'static [&'static str],
    /// How many of them are the key.
    pub(super) key: usize,
    /// Whether PostgreSQL numbers its rows by the first column.
    pub(super) numbered: bool,
}

/// A row, in the order of its table's columns.
pub(super) type Row = Vec<Value>;

/// The columns of `files` that are looked at here.
pub(super) mod file {
    pub(in crate::migrate) const ID: usize = 0;
    pub(in crate::migrate) const BYTES: usize = 4;
    pub(in crate::migrate) const BLOB_KEY: usize = 6;
    pub(in crate::migrate) const DAMAGED_AT: usize = 9;
    pub(in crate::migrate) const SHA256: usize = 10;
    pub(in crate::migrate) const BLOCK_SUMS: usize = 12;
}

/// Marks in `meta` that are of one store and do not move.
pub(super) const OWN_MARKS: [&str; 3] =
    [super::MOVED_TO, super::MOVING_FROM, crate::catalog::packed::THROUGH];

pub(super) const FILES: Table = Table {
    name: "files",
    columns: &[
        "file_id",
        "account_id",
        "purpose",
        "filename",
        "bytes",
        "media_type",
        "blob_key",
        "created_at",
        "expires_at",
        "damaged_at",
        "sha256",
        "media",
        "block_sums",
        "key_id",
        "state",
        "verdict",
    ],
    key: 1,
    numbered: false,
};

pub(super) const META: Table =
    Table { name: "meta", columns: &["name", "value"], key: 1, numbered: false };

pub(super) const JOBS: Table = Table {
    name: "jobs",
    // Told apart by what they do: the target numbers its own.
    columns: &["kind", "target", "run_at", "attempts", "last_error"],
    key: 2,
    numbered: false,
};

pub(super) const CALLBACKS: Table = Table {
    name: "callbacks",
    columns: &[
        "callback_id",
        "account_id",
        "key_id",
        "channel_id",
        "path",
        "url",
        "keep",
        "created_at",
    ],
    key: 1,
    numbered: false,
};

pub(super) const TABLES: [Table; 23] = [
    META,
    Table {
        name: "accounts",
        columns: &["account_id", "name", "created_at", "state", "balance", "limits", "settings"],
        key: 1,
        numbered: true,
    },
    Table {
        name: "keys",
        columns: &[
            "key_id",
            "account_id",
            "key_hash",
            "name",
            "hint",
            "scopes",
            "created_at",
            "expires_at",
            "revoked_at",
            "purposes",
            "networks",
            "limits",
            "replaces",
        ],
        key: 1,
        numbered: true,
    },
    Table {
        name: "prices",
        columns: &["call", "purpose", "unit", "amount"],
        key: 3,
        numbered: false,
    },
    Table {
        name: "blocked",
        columns: &["entry_id", "list", "value", "note", "created_at"],
        key: 1,
        numbered: true,
    },
    Table {
        name: "admin_tokens",
        columns: &[
            "token_id",
            "name",
            "token_hash",
            "hint",
            "scope",
            "created_at",
            "expires_at",
            "revoked_at",
        ],
        key: 1,
        numbered: true,
    },
    FILES,
    Table {
        name: "stored",
        columns: &["account_id", "purpose", "files", "bytes"],
        key: 2,
        numbered: false,
    },
    Table {
        name: "ledger",
        columns: &[
            "entry_id",
            "account_id",
            "at",
            "kind",
            "amount",
            "balance",
            "call",
            "key_id",
            "file_id",
            "reason",
            "reference",
        ],
        key: 1,
        numbered: true,
    },
    Table {
        name: "usage",
        columns: &["day", "account_id", "key_id", "purpose", "call", "calls", "bytes", "charged"],
        key: 5,
        numbered: false,
    },
    Table {
        name: "receipts",
        columns: &[
            "file_id",
            "account_id",
            "purpose",
            "filename",
            "bytes",
            "sha256",
            "blob_key",
            "cause",
            "deleted_at",
            "purged_at",
        ],
        key: 1,
        numbered: false,
    },
    Table {
        name: "idempotency",
        columns: &["owner", "key", "fingerprint", "status", "reply", "created_at"],
        key: 2,
        numbered: false,
    },
    Table {
        name: "audit",
        columns: &["audit_id", "at", "actor", "origin", "action", "target", "before", "after"],
        key: 1,
        numbered: true,
    },
    Table {
        name: "channels",
        columns: &[
            "channel_id",
            "name",
            "account_id",
            "base_url",
            "sealed_key",
            "key_hint",
            "state",
            "settings",
            "created_at",
            "condition",
            "condition_until",
            "condition_since",
            "condition_why",
        ],
        key: 1,
        numbered: true,
    },
    Table {
        name: "replicas",
        columns: &[
            "file_id",
            "channel_id",
            "account_id",
            "state",
            "upstream_id",
            "holder",
            "lease_until",
            "created_at",
            "expires_at",
            "used_at",
            "uploads",
        ],
        key: 2,
        numbered: false,
    },
    Table {
        name: "adopted",
        columns: &[
            "file_id",
            "account_id",
            "key_id",
            "purpose",
            "filename",
            "bytes",
            "channel_id",
            "upstream_id",
            "task_id",
            "created_at",
            "expires_at",
        ],
        key: 1,
        numbered: false,
    },
    Table {
        name: "tasks",
        columns: &[
            "task_id",
            "account_id",
            "key_id",
            "channel_id",
            "upstream_id",
            "path",
            "created_at",
        ],
        key: 1,
        numbered: false,
    },
    Table {
        name: "voices",
        columns: &[
            "channel_id",
            "voice_id",
            "account_id",
            "key_id",
            "state",
            "file_id",
            "created_at",
        ],
        key: 2,
        numbered: false,
    },
    Table {
        name: "costs",
        columns: &["channel_id", "path", "unit", "amount"],
        key: 3,
        numbered: false,
    },
    Table {
        name: "relayed",
        columns: &["day", "channel_id", "account_id", "path", "calls", "units", "charged", "cost"],
        key: 4,
        numbered: false,
    },
    CALLBACKS,
    Table {
        name: "deliveries",
        columns: &["delivery_id", "callback_id", "body", "created_at"],
        key: 1,
        numbered: true,
    },
    JOBS,
];

impl Table {
    /// A page of rows after `after`, in the order of the key.
    pub(super) fn select(&self, after: bool, limit: u32) -> String {
        let key = self.columns[..self.key].join(", ");
        let beyond = if after {
            format!("WHERE ({key}) > ({})", places(1, self.key))
        } else {
            String::new()
        };
        let columns = self.columns.join(", ");
        format!("SELECT {columns} FROM {} {beyond} ORDER BY {key} LIMIT {limit}", self.name)
    }

    pub(super) fn insert(&self) -> String {
        format!(
            "INSERT INTO {} ({}) VALUES ({})",
            self.name,
            self.columns.join(", "),
            places(1, self.columns.len())
        )
    }

    /// Takes the row as [`insert`](Self::insert) does.
    pub(super) fn update(&self) -> String {
        let set: Vec<_> = (self.key..self.columns.len())
            .map(|at| format!("{} = ?{}", self.columns[at], at + 1))
            .collect();
        format!("UPDATE {} SET {} WHERE {}", self.name, set.join(", "), self.named(1))
    }

    /// Takes the row's key.
    pub(super) fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {}", self.name, self.named(1))
    }

    fn named(&self, from: usize) -> String {
        let parts: Vec<_> =
            (0..self.key).map(|at| format!("{} = ?{}", self.columns[at], at + from)).collect();
        parts.join(" AND ")
    }
}

fn places(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use filegate_testkit::postgres::{Postgres, query};

    use super::super::seal::SEALED;
    use super::*;
    use crate::catalog::{Catalog, PostgresOptions};
    use crate::datadir::{DataDir, Reserve};

    type Columns = BTreeMap<String, BTreeSet<String>>;

    /// What stays behind, and why is said at the top.
    const STAY: [&str; 4] = ["uploads", "holds", "leaders", "filegate_schema"];

    fn moved() -> Columns {
        let columns = |table: &Table| {
            let columns = table.columns.iter().map(ToString::to_string);
            (table.name.to_owned(), columns.collect())
        };
        TABLES.iter().map(columns).collect()
    }

    /// Whoever adds a table or a column has to say here whether it moves.
    #[track_caller]
    fn complete(mut schema: Columns) {
        schema.get_mut("accounts").unwrap().remove("held");
        schema.get_mut("jobs").unwrap().remove("job_id");
        let sealed: BTreeSet<_> = SEALED.iter().map(ToString::to_string).collect();
        let written =
            schema.keys().filter(|name| !["leaders", "filegate_schema"].contains(&name.as_str()));
        assert_eq!(written.cloned().collect::<BTreeSet<_>>(), sealed);
        schema.retain(|name, _| !STAY.contains(&name.as_str()));
        assert_eq!(schema, moved());
    }

    #[test]
    fn every_column_of_sqlite_moves() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        Catalog::open(&dir, std::sync::Arc::new(Reserve::of(&dir))).unwrap();
        let c = rusqlite::Connection::open(dir.catalog_path()).unwrap();
        let mut statement = c
            .prepare(
                "SELECT m.name, i.name FROM sqlite_master m, pragma_table_info(m.name) i
                 WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'",
            )
            .unwrap();
        let mut schema = Columns::new();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        for (table, column) in rows.map(Result::unwrap) {
            schema.entry(table).or_default().insert(column);
        }
        complete(schema);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_column_of_postgres_moves() {
        let cluster = Postgres::new();
        let url = cluster.database();
        let second = std::time::Duration::from_secs(5);
        let options = PostgresOptions {
            url: url.clone(),
            connections: 1,
            connect_timeout: second,
            statement_timeout: second,
            wait: second,
        };
        Catalog::connect(options).await.unwrap();
        let columns = "SELECT table_name, column_name FROM information_schema.columns
                       WHERE table_schema = 'public'";
        let mut schema = Columns::new();
        for row in tokio::task::spawn_blocking(move || query(&url, columns)).await.unwrap().unwrap()
        {
            let [table, column] = row.try_into().unwrap();
            schema.entry(table.unwrap()).or_default().insert(column.unwrap());
        }
        complete(schema);
    }
}
