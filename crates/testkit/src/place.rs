//! Where the servers of this run keep what they store, and how a test looks at it.
//!
//! `FILEGATE_TEST_STORE` says which: `embedded` (the default) or `scale-out`, a PostgreSQL database, an S3 store and a Redis of the
//! test's own. They belong to a data directory: whatever is started on the same directory finds the same rows and objects.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::garage::Garage;
use crate::postgres::Postgres;
use crate::redis::Redis;
use crate::s3::S3Server;

/// For how long a replica may work with what it read of a key, an account or a price.
const REMEMBERED: Duration = Duration::from_millis(1100);

/// Where a scale-out gateway keeps its things. What it was made of is stopped when nobody holds it any more.
#[derive(Debug)]
pub struct Place {
    /// Settings as environment variables.
    environment: Vec<(String, String)>,
    /// How the test itself gets to the rows.
    database_url: String,
    /// Whose objects can be looked at.
    s3: Option<Arc<S3Server>>,
    _held: Option<(Postgres, Redis)>,
}

/// What leads a gateway to its place.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `database_url`
    pub database_url: String,
    /// `blob_url`
    pub blob_url: String,
    /// `s3.access_key_id` and `s3.secret_access_key`
    pub s3_key: (String, String),
    /// `redis_url`
    pub redis_url: String,
    /// `redis.prefix`
    pub redis_prefix: String,
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
        let place = Arc::new(Self::of_its_own());
        places.insert(data_dir.to_owned(), Arc::downgrade(&place));
        Some(place)
    }

    /// A place whose servers the test has started. Rows are looked at through `database_url`, objects in `s3`.
    pub fn new(settings: &Settings, database_url: &str, s3: Option<Arc<S3Server>>) -> Self {
        let (access_key, secret_key) = &settings.s3_key;
        let environment = [
            ("FILEGATE_DATABASE_URL", &settings.database_url),
            ("FILEGATE_BLOB_URL", &settings.blob_url),
            ("FILEGATE_S3__ACCESS_KEY_ID", access_key),
            ("FILEGATE_S3__SECRET_ACCESS_KEY", secret_key),
            ("FILEGATE_REDIS_URL", &settings.redis_url),
            ("FILEGATE_REDIS__PREFIX", &settings.redis_prefix),
        ];
        let environment =
            environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { environment, database_url: database_url.to_owned(), s3, _held: None }
    }

    /// A database of its own on the shared PostgreSQL, an S3 server, and a prefix of its own on the shared Redis.
    fn of_its_own() -> Self {
        let (postgres, s3, redis) = (Postgres::new(), S3Server::start_new(), Redis::shared());
        let database_url = postgres.database();
        let settings = Settings {
            database_url: database_url.clone(),
            blob_url: s3.url("tests"),
            s3_key: (s3.access_key().to_owned(), s3.secret_key().to_owned()),
            redis_url: redis.url().to_owned(),
            redis_prefix: redis.prefix().to_owned(),
        };
        let place = Self::new(&settings, &database_url, Some(Arc::new(s3)));
        Self { _held: Some((postgres, redis)), ..place }
    }

    /// Leads a command here.
    pub fn lead(&self, command: &mut Command) {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    /// A gateway on three nodes of Garage behind one address; the rest as [`of`](Self::of) has it.
    pub fn on_garage(garage: &Garage, address: &str) -> Self {
        let (postgres, redis) = (Postgres::new(), Redis::shared());
        let database_url = postgres.database();
        let settings = Settings {
            database_url: database_url.clone(),
            blob_url: garage.url(address),
            s3_key: (garage.access_key.clone(), garage.secret_key.clone()),
            redis_url: redis.url().to_owned(),
            redis_prefix: redis.prefix().to_owned(),
        };
        let place = Self::new(&settings, &database_url, None);
        Self { _held: Some((postgres, redis)), ..place }
    }

    fn objects(&self) -> Vec<(PathBuf, u64)> {
        let s3 = self.s3.as_ref().expect("an S3 store of the test's own");
        let objects = s3.objects("").into_iter();
        objects.map(|(name, bytes)| (s3.root().join(name), bytes)).collect()
    }

    /// Uploads in parts that were begun and neither completed nor aborted.
    fn unfinished(&self) -> Vec<(PathBuf, u64)> {
        let count = self.s3.as_ref().expect("an S3 store of the test's own").unfinished();
        vec![(PathBuf::from("an upload in parts"), 0); count]
    }
}

/// `url` with another `host:port`.
pub fn through(url: &str, address: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let user = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}{address}{}", &rest[..user], &rest[end..])
}

/// Every file or object of `part`, with its length.
pub(crate) fn stored(data_dir: &Path, place: Option<&Place>, part: &str) -> Vec<(PathBuf, u64)> {
    let mut found = files_below(&data_dir.join(part));
    if part == "blobs" {
        found.extend(packed(data_dir).into_iter().map(|blob| (blob.path, blob.bytes)));
    }
    if let Some(place) = place {
        match part {
            "blobs" => found.extend(place.objects()),
            _ => found.extend(place.unfinished()),
        }
    }
    found.sort();
    found
}

/// A blob on the disk of a data directory: a file of its own, or a record of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The file it is in.
    pub path: PathBuf,
    /// Where in it.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
}

impl Blob {
    /// Its content.
    #[track_caller]
    pub fn read(&self) -> Vec<u8> {
        let mut content = vec![0; self.bytes as usize];
        let read =
            File::open(&self.path).and_then(|file| file.read_exact_at(&mut content, self.start));
        read.unwrap_or_else(|error| panic!("{self:?}: {error}"));
        content
    }

    /// Writes over it, from byte `at` of it on.
    #[track_caller]
    pub fn write_at(&self, bytes: &[u8], at: u64) {
        let written = File::options()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.write_all_at(bytes, self.start + at));
        written.unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }
}

/// The blobs of a data directory of so many bytes.
pub fn blobs_of(data_dir: &Path, bytes: u64) -> Vec<Blob> {
    let files = files_below(&data_dir.join("blobs")).into_iter();
    let own = files.map(|(path, bytes)| Blob { path, start: 0, bytes });
    own.chain(packed(data_dir)).filter(|blob| blob.bytes == bytes).collect()
}

/// The records of all packs. They begin with a word of eight letters; 16 bytes on is the length of what begins after 64,
/// and 40 bytes on of what comes after that.
fn packed(data_dir: &Path) -> Vec<Blob> {
    let mut found = Vec::new();
    for (path, length) in files_below(&data_dir.join("packs")) {
        // It may be removed or renamed meanwhile.
        let Ok(file) = File::open(&path) else { continue };
        let mut at = 0;
        while at < length {
            let mut head = [0; 44];
            let is_record = file.read_exact_at(&mut head, at).is_ok() && head[..8] == *b"FGPACK2\n";
            let length = |at: usize| head[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
            if is_record {
                let bytes = u64::from(length(16));
                found.push(Blob { path: path.clone(), start: at + 64, bytes });
                at += bytes + 64 + u64::from(length(40));
            }
            at = if is_record { at.next_multiple_of(4096) } else { at + 4096 };
        }
    }
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
        Some(place) => {
            drop(ask(&place.database_url, statements));
            // The gateway was not told, and is not asked to be that quick.
            if ["accounts", "keys", "prices"].iter().any(|table| statements.contains(table)) {
                std::thread::sleep(REMEMBERED);
            }
        }
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
            let rows = ask(&place.database_url, query);
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
fn ask(url: &str, statements: &str) -> Vec<Vec<Option<String>>> {
    crate::postgres::query(url, statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_led_elsewhere() {
        for (url, led) in [
            ("postgres://a:b@h:1/db?x=y", "postgres://a:b@p:2/db?x=y"),
            ("http://h:1", "http://p:2"),
            ("redis://h/0", "redis://p:2/0"),
        ] {
            assert_eq!(through(url, "p:2"), led);
        }
    }
}
