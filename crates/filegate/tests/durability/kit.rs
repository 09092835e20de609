//! What these tests share: a data directory that outlives its servers, uploads whose content is known
//! from their name, and what has to be true of a store after anything at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use filegate_testkit::http::{Connection, Reply, Request};
use filegate_testkit::server::{Setup, TestServer, clean_environment, eventually};
use serde_json::Value;

/// Received in memory and written at once.
pub(crate) const SMALL: usize = 4_000;
/// Spooled to `tmp/` from its first 256 KiB on while it is received.
pub(crate) const LARGE: usize = 600_000;

pub(crate) fn setup() -> Setup {
    // What is looked at here is a data directory.
    Setup::new(env!("CARGO_BIN_EXE_filegate")).embedded()
}

/// A data directory with a key, for one server after another.
pub(crate) struct Home {
    pub(crate) data: PathBuf,
    pub(crate) key: String,
    _dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::at(dir.path().join("data"), dir)
    }

    /// On `data`, which is below `dir`.
    pub(crate) fn at(data: PathBuf, dir: tempfile::TempDir) -> Self {
        let made = filegate(&data, &["key", "create", "--name", "test"]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        charge_everything(&data);
        Self { key: text(&made.stdout).trim().to_owned(), data, _dir: dir }
    }

    pub(crate) fn start(&self) -> TestServer {
        self.start_with(&setup())
    }

    pub(crate) fn start_with(&self, setup: &Setup) -> TestServer {
        let mut server = setup.start_on(&self.data);
        server.key.clone_from(&self.key);
        server
    }

    /// Runs a command of the binary on the directory.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        filegate(&self.data, arguments)
    }
}

/// Runs a command of the binary.
pub(crate) fn filegate(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
    command.args(arguments).arg("--data-dir").arg(data);
    clean_environment(&mut command);
    command.output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The content of upload `number`: text that no other has, marked every 4 KiB.
pub(crate) fn content(number: u64, len: usize) -> Vec<u8> {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        (0..1 << 20)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                b'a' + (state >> 40) as u8 % 26
            })
            .collect()
    });
    let from = number.wrapping_mul(7_919) as usize % noise.len();
    let mut bytes: Vec<u8> = Vec::with_capacity(len + noise.len());
    bytes.extend_from_slice(&noise[from..]);
    while bytes.len() < len {
        bytes.extend_from_slice(noise);
    }
    bytes.truncate(len);
    let mark = format!("{number:020}\n");
    for at in (0..len.saturating_sub(mark.len())).step_by(4096) {
        bytes[at..at + mark.len()].copy_from_slice(mark.as_bytes());
    }
    bytes
}

fn name_of(number: u64, len: usize) -> String {
    format!("u{number}-{len}.txt")
}

/// Number and length of the upload that was given this name.
fn of_name(name: &str) -> Option<(u64, usize)> {
    let (number, len) = name.strip_prefix('u')?.strip_suffix(".txt")?.split_once('-')?;
    Some((number.parse().ok()?, len.parse().ok()?))
}

/// A request that uploads `number`.
pub(crate) fn upload_of(address: &str, key: &str, number: u64, len: usize) -> Request {
    Request::new(address, "POST", "/minimax/v1/files/upload").bearer(key).form(
        "retrieval",
        &name_of(number, len),
        &content(number, len),
    )
}

/// A file of the list.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

pub(crate) fn list(server: &TestServer) -> BTreeMap<i64, Listed> {
    let reply = server.get("/minimax/v1/files/list?limit=10000");
    assert_eq!(reply.code(), 0, "{}", reply.text());
    let json = reply.json();
    let files = json["files"].as_array().unwrap();
    files
        .iter()
        .map(|file| {
            let name = file["filename"].as_str().unwrap().to_owned();
            let bytes = file["bytes"].as_u64().unwrap();
            (file["file_id"].as_i64().unwrap(), Listed { name, bytes })
        })
        .collect()
}

pub(crate) fn content_request(server: &TestServer, file_id: i64) -> Request {
    server.request("GET", &format!("/minimax/v1/files/retrieve_content?file_id={file_id}"))
}

/// What clients were told, and what they asked for without hearing back.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: AtomicU64,
    /// Uploads answered with success, by id: number and length.
    stored: Mutex<BTreeMap<i64, (u64, usize)>>,
    /// Deletes that were sent; true when answered with success.
    deletes: Mutex<BTreeMap<i64, bool>>,
    /// Refusals, with their code.
    refused: Mutex<Vec<(i64, String)>>,
    /// Files whose content was found right since the last [`Ledger::forget_checks`].
    right: Mutex<BTreeSet<i64>>,
}

impl Ledger {
    /// Numbers of uploads that were acknowledged, deleted since or not.
    pub(crate) fn acknowledged(&self) -> usize {
        self.stored.lock().unwrap().len()
    }

    pub(crate) fn refusals(&self) -> Vec<(i64, String)> {
        std::mem::take(&mut self.refused.lock().unwrap())
    }

    /// Uploads one after another on one connection until the server is gone.
    pub(crate) fn upload_on(&self, address: &str, key: &str, sizes: &[usize]) {
        let Ok(mut connection) = Connection::open(address) else { return };
        for len in sizes.iter().cycle() {
            if self.upload(&mut connection, address, key, *len).is_err() {
                return;
            }
        }
    }

    /// One upload; an error when no reply came.
    pub(crate) fn upload(
        &self,
        connection: &mut Connection,
        address: &str,
        key: &str,
        len: usize,
    ) -> io::Result<Reply> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let written = connection.write(&upload_of(address, key, number, len).bytes());
        let reply = connection.reply();
        let reply = reply.map_err(|error| written.err().unwrap_or(error))?;
        if reply.code() == 0 {
            self.stored.lock().unwrap().insert(reply.file_id(), (number, len));
        } else {
            self.refused.lock().unwrap().push((reply.code(), reply.message()));
        }
        Ok(reply)
    }

    /// One upload on a connection of its own.
    pub(crate) fn upload_once(&self, server: &TestServer, len: usize) -> Reply {
        let mut connection = Connection::open(&server.address).unwrap();
        self.upload(&mut connection, &server.address, &server.key, len).unwrap()
    }

    /// Deletes one of the stored files.
    pub(crate) fn delete(
        &self,
        connection: &mut Connection,
        address: &str,
        key: &str,
        file_id: i64,
    ) -> io::Result<Reply> {
        self.deletes.lock().unwrap().insert(file_id, false);
        let request = Request::new(address, "POST", "/minimax/v1/files/delete")
            .bearer(key)
            .header("Content-Type", "application/json")
            .body(format!("{{\"file_id\":{file_id}}}"));
        connection.write(&request.bytes())?;
        let reply = connection.reply()?;
        if reply.code() == 0 {
            self.deletes.lock().unwrap().insert(file_id, true);
        } else {
            self.refused.lock().unwrap().push((reply.code(), reply.message()));
        }
        Ok(reply)
    }

    /// Deletes the newest files, one after another, as long as there are more than `keep`.
    pub(crate) fn delete_on(&self, address: &str, key: &str, keep: usize) {
        let Ok(mut connection) = Connection::open(address) else { return };
        loop {
            let Some(file_id) = self.deletable(keep) else {
                std::thread::sleep(std::time::Duration::from_millis(2));
                // Whether there is still a server.
                if Connection::open(address).is_err() {
                    return;
                }
                continue;
            };
            if self.delete(&mut connection, address, key, file_id).is_err() {
                return;
            }
        }
    }

    fn deletable(&self, keep: usize) -> Option<i64> {
        let (stored, mut deletes) = (self.stored.lock().unwrap(), self.deletes.lock().unwrap());
        let kept = stored.keys().filter(|id| !deletes.contains_key(id)).count();
        let chosen = *stored.keys().rev().find(|id| !deletes.contains_key(id))?;
        // Noted before it is asked for, so that no two clients choose the same.
        (kept > keep).then(|| deletes.insert(chosen, false)).map(|_| chosen)
    }

    /// Has contents checked again that were right before.
    pub(crate) fn forget_checks(&self) {
        self.right.lock().unwrap().clear();
    }

    /// What must hold at any time of a server that has no client but this test: acknowledged files
    /// are there, deleted ones are not, whatever is there is whole, and nothing else is on the disk.
    pub(crate) fn check(&self, server: &TestServer) {
        let listed = list(server);
        self.check_list(&listed);
        self.check_contents(server, &listed);
        eventually("tmp/ is empty and blobs/ holds what is listed, no more", || {
            let (tmp, blobs) = (server.stored("tmp"), server.stored("blobs"));
            (tmp.is_empty() && blobs.len() == listed.len()).then_some(())
        });
    }

    fn check_list(&self, listed: &BTreeMap<i64, Listed>) {
        let mut stored = self.stored.lock().unwrap();
        let mut deletes = self.deletes.lock().unwrap();
        let mut wrong = String::new();
        for (id, upload) in &*stored {
            match (listed.get(id), deletes.get(id)) {
                (None, None) => writeln!(wrong, "lost: {id} {upload:?}").unwrap(),
                (Some(_), Some(true)) => writeln!(wrong, "came back: {id} {upload:?}").unwrap(),
                (Some(file), _) if of_name(&file.name) != Some(*upload) => {
                    writeln!(wrong, "another's name: {id} {upload:?} {file:?}").unwrap();
                }
                _ => {}
            }
        }
        let mut numbers = BTreeSet::new();
        for (id, file) in listed {
            match of_name(&file.name) {
                Some((number, len)) if len as u64 == file.bytes => {
                    if !numbers.insert(number) {
                        writeln!(wrong, "doubled: {id} {file:?}").unwrap();
                    }
                    // Stored without an answer: from now on it must stay.
                    stored.insert(*id, (number, len));
                }
                _ => writeln!(wrong, "torn or unknown: {id} {file:?}").unwrap(),
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
        // What became of deletes without an answer is known now.
        for (id, answered) in &mut *deletes {
            *answered |= !listed.contains_key(id);
        }
        deletes.retain(|_, answered| *answered);
    }

    fn check_contents(&self, server: &TestServer, listed: &BTreeMap<i64, Listed>) {
        let mut connection = Connection::open(&server.address).unwrap();
        for (id, file) in listed {
            if !self.right.lock().unwrap().insert(*id) {
                continue;
            }
            let (number, len) = of_name(&file.name).unwrap();
            connection.write(&content_request(server, *id).bytes()).unwrap();
            let reply = connection.reply().unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(reply.body == content(number, len), "the content of {id} {file:?} is wrong");
        }
    }
}

/// Prices for uploads and deletes, and more money than any test spends: so that whatever is broken on
/// purpose, the books can be held against the files.
fn charge_everything(data: &Path) {
    let connection = rusqlite::Connection::open(data.join("catalog.db")).unwrap();
    connection
        .execute_batch(
            "INSERT INTO prices (call, purpose, unit, amount)
             VALUES ('files.upload', '', 'call', 7), ('files.upload', '', 'mib', 1000),
                    ('files.delete', '', 'call', 3);
             INSERT INTO ledger (account_id, at, kind, amount, balance)
             VALUES (1, 0, 'top_up', 1000000000000, 1000000000000);
             UPDATE accounts SET balance = 1000000000000",
        )
        .unwrap();
}

/// Waits until nothing is being received any more.
pub(crate) fn settled(server: &TestServer) {
    eventually("tmp/ is empty", || server.stored("tmp").is_empty().then_some(()));
}

/// `fsck` finds nothing, books included, and each file that was ever stored was paid once.
#[track_caller]
pub(crate) fn fsck_clean(home: &Home) {
    let output = home.run(&["fsck"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let connection = rusqlite::Connection::open(home.data.join("catalog.db")).unwrap();
    let count = |query: &str| -> i64 { connection.query_row(query, [], |row| row.get(0)).unwrap() };
    let paid = count("SELECT count(DISTINCT file_id) FROM ledger WHERE call = 'files.upload'");
    assert_eq!(paid, count("SELECT count(*) FROM ledger WHERE call = 'files.upload'"));
    let deleted = count("SELECT count(*) FROM receipts");
    assert_eq!(paid, count("SELECT count(*) FROM files") + deleted);
    let clients = count("SELECT count(*) FROM receipts WHERE cause = 'client'");
    assert_eq!(count("SELECT count(*) FROM ledger WHERE call = 'files.delete'"), clients);
    let held = count("SELECT sum(held) FROM accounts");
    assert_eq!(held, count("SELECT coalesce(sum(hold), 0) FROM uploads"));
}

/// Refused with 1013 (contract §4), never as a fault of the request.
#[track_caller]
pub(crate) fn down(reply: &Reply) {
    assert_eq!(reply.code(), 1013, "{}", reply.text());
    assert_eq!(reply.json()["file"], Value::Null);
}
