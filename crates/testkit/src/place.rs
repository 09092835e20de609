//! Where the servers of this run keep what they store, and how a test looks at it.
//!
//! `FILEGATE_TEST_STORE` says which: `embedded` (the default) or `scale-out`, a PostgreSQL database, an S3 store and a Redis of the
//! test's own. They belong to a data directory: whatever is started on the same directory finds the same rows and objects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// What a scale-out server is given in place of its data directory.
#[derive(Debug)]
pub struct Place {
    /// Settings as environment variables.
    environment: Vec<(String, String)>,
}

/// The places that a server or a test holds, by their data directory.
static PLACES: Mutex<BTreeMap<PathBuf, Weak<Place>>> = Mutex::new(BTreeMap::new());

/// Whether servers keep rows and bytes in their data directory.
pub fn is_embedded() -> bool {
    match std::env::var("FILEGATE_TEST_STORE").as_deref() {
        Err(_) | Ok("" | "embedded") => true,
        Ok("scale-out") => false,
        Ok(other) => panic!("FILEGATE_TEST_STORE is embedded or scale-out, not {other}"),
    }
}

/// For tests of what only the embedded store has: says why the test is left out of a run on another, and gives true.
///
/// ```ignore
/// if place::only_embedded("the directory is locked by its server") {
///     return;
/// }
/// ```
#[expect(clippy::print_stderr, reason = "read by whoever looks at what was tested")]
pub fn only_embedded(reason: &str) -> bool {
    if is_embedded() {
        return false;
    }
    eprintln!("left out on this store: {reason}");
    true
}

impl Place {
    /// The place of a data directory, made when nobody holds it; `None` with the embedded store.
    pub fn of(data_dir: &Path) -> Option<Arc<Self>> {
        if is_embedded() {
            return None;
        }
        let mut places = PLACES.lock().expect("no holder panics");
        if let Some(place) = places.get(data_dir).and_then(Weak::upgrade) {
            return Some(place);
        }
        let place = Arc::new(Self::new());
        places.insert(data_dir.to_owned(), Arc::downgrade(&place));
        Some(place)
    }

    fn new() -> Self {
        Self { environment: vec![] }
    }

    /// Leads a command here.
    pub fn lead(&self, command: &mut Command) {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    fn database_url(&self) -> &str {
        ""
    }

    fn objects(&self) -> Vec<(PathBuf, u64)> {
        vec![]
    }

    /// Parts of objects that were begun and neither completed nor aborted.
    fn parts(&self) -> Vec<(PathBuf, u64)> {
        vec![]
    }
}

/// Every file or object of `part`, with its length.
pub(crate) fn stored(data_dir: &Path, place: Option<&Place>, part: &str) -> Vec<(PathBuf, u64)> {
    let mut found = files_below(&data_dir.join(part));
    if let Some(place) = place {
        match part {
            "blobs" => found.extend(place.objects()),
            _ => found.extend(place.parts()),
        }
    }
    found.sort();
    found
}

/// Every file below `directory`, with its length.
fn files_below(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![directory.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                Ok(meta) => found.push((entry.path(), meta.len())),
                Err(_) => {}
            }
        }
    }
    found
}

/// Runs statements in one transaction.
#[track_caller]
pub(crate) fn execute(data_dir: &Path, place: Option<&Place>, statements: &str) {
    match place {
        None => sqlite(data_dir)
            .execute_batch(&format!("BEGIN IMMEDIATE; {statements}; COMMIT"))
            .unwrap_or_else(|error| panic!("{statements}: {error}")),
        Some(place) => drop(postgres(place.database_url(), statements)),
    }
}

/// The first row that a query gives, each column as text.
#[track_caller]
pub(crate) fn row(data_dir: &Path, place: Option<&Place>, query: &str) -> Vec<Option<String>> {
    match place {
        None => sqlite(data_dir)
            .query_row(query, [], |row| {
                let count = row.as_ref().column_count();
                (0..count).map(|at| Ok(text(row.get_ref(at)?))).collect()
            })
            .unwrap_or_else(|error| panic!("{query}: {error}")),
        Some(place) => {
            let rows = postgres(place.database_url(), query);
            rows.into_iter().next().unwrap_or_else(|| panic!("{query}: no row"))
        }
    }
}

/// A text as an SQL literal.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Bytes, given in hex, as an SQL literal.
pub fn blob(hex: &str) -> String {
    if is_embedded() { format!("X'{hex}'") } else { format!("'\\x{hex}'") }
}

fn sqlite(data_dir: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(data_dir.join("catalog.db")).expect("a catalog");
    connection.busy_timeout(Duration::from_secs(10)).expect("a timeout can be set");
    connection
}

/// As PostgreSQL writes it as text.
fn text(value: rusqlite::types::ValueRef<'_>) -> Option<String> {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        ValueRef::Blob(bytes) => {
            let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
            Some(std::iter::once("\\x".to_owned()).chain(hex).collect())
        }
    }
}

/// Runs statements; gives the rows of all of them.
#[track_caller]
fn postgres(url: &str, statements: &str) -> Vec<Vec<Option<String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let rows = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
        let driver = tokio::runtime::Handle::current().spawn(connection);
        let messages = client.simple_query(statements).await?;
        drop(client);
        let _ended = driver.await;
        Ok::<_, tokio_postgres::Error>(messages)
    });
    let rows = rows.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    rows.into_iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect()
}
