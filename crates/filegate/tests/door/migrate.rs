//! `filegate migrate`: between a data directory and PostgreSQL with S3, while the gateway serves.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use filegate_testkit::http::Request;
use filegate_testkit::place::{Place, Settings};
use filegate_testkit::postgres::Postgres;
use filegate_testkit::redis::Redis;
use filegate_testkit::s3::S3Server;
use filegate_testkit::server::{Setup, TestServer, clean_environment, eventually};
use serde_json::Value;

use crate::kit;

/// Where a gateway moves to: a database, a bucket and Redis of the test's own.
struct Elsewhere {
    _postgres: Postgres,
    database: String,
    s3: Arc<S3Server>,
    place: Arc<Place>,
    _redis: Redis,
}

impl Elsewhere {
    fn new() -> Self {
        let (postgres, s3) = (Postgres::new(), Arc::new(S3Server::start_new()));
        let (redis, database) = (Redis::shared(), postgres.database());
        let settings = Settings {
            database_url: database.clone(),
            blob_url: s3.url("moved"),
            s3_key: (s3.access_key().to_owned(), s3.secret_key().to_owned()),
            redis_url: redis.url().to_owned(),
            redis_prefix: redis.prefix().to_owned(),
        };
        let place = Arc::new(Place::new(&settings, &database, Some(Arc::clone(&s3))));
        Self { _postgres: postgres, database, s3, place, _redis: redis }
    }

    fn migrate(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
        clean_environment(&mut command);
        command.args(["migrate", "--json"]).args(words);
        command.env("FILEGATE_S3__ACCESS_KEY_ID", self.s3.access_key());
        command.env("FILEGATE_S3__SECRET_ACCESS_KEY", self.s3.secret_key());
        command
    }

    /// From a data directory to here.
    fn fill(&self, from: &Path, more: &[&str]) -> Command {
        let mut command = self.migrate(more);
        command.arg("--from").arg(from);
        command.args(["--to-database", &self.database, "--to-blobs", &self.s3.url("moved")]);
        command
    }

    /// From here to a data directory.
    fn empty(&self, to: &Path, more: &[&str]) -> Command {
        let mut command = self.migrate(more);
        command.args(["--from-database", &self.database, "--from-blobs", &self.s3.url("moved")]);
        command.arg("--to").arg(to);
        command
    }
}

fn embedded() -> Setup {
    kit::setup().embedded()
}

#[track_caller]
fn told(output: &Output) -> Value {
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    serde_json::from_slice(out).unwrap_or_else(|error| panic!("{error}: {err}"))
}

#[track_caller]
fn refused(output: &Output, says: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains(says), "{err}");
}

/// Everything that an account sees and has, as text: list, contents, balance, ledger.
fn everything(server: &TestServer) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let list = server.get("/v1/files/list").json();
    for file in list["files"].as_array().unwrap() {
        let id = &file["file_id"];
        let content = server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
        all.insert(format!("file {id}"), format!("{file} {}", content.text()));
    }
    for command in [["account", "show", "default"], ["ledger", "ls", "--json"]] {
        let told: String = server
            .command(&command)
            .lines()
            // An upload that the seal cut off goes on holding its price in the old store.
            .filter(|line| !line.starts_with("held:") && !line.starts_with("available:"))
            .collect();
        all.insert(command.join(" "), told);
    }
    let relay = RELAYED.map(|select| format!("{:?}", server.row(select)));
    all.insert("relay".to_owned(), relay.join("\n"));
    all
}

/// What the relay knows, as far as a row of each table says.
const RELAYED: [&str; 10] = [
    "SELECT count(*), max(name), max(base_url), max(state), max(settings), max(key_hint) FROM channels",
    "SELECT count(*), max(file_id), max(state), max(upstream_id), max(expires_at), max(uploads) FROM replicas",
    "SELECT count(*), max(file_id), max(account_id), max(purpose), max(upstream_id), max(task_id), max(expires_at) FROM adopted",
    "SELECT count(*), max(task_id), max(account_id), max(upstream_id), max(path) FROM tasks",
    "SELECT count(*), max(voice_id), max(account_id), max(state), max(file_id) FROM voices",
    "SELECT count(*), max(path), max(unit), max(amount) FROM costs",
    "SELECT count(*), max(day), max(path), max(calls), max(units), max(charged), max(cost) FROM relayed",
    "SELECT count(*), max(callback_id), max(url) FROM callbacks",
    "SELECT count(*), max(delivery_id), max(callback_id), max(created_at) FROM deliveries",
    "SELECT count(*), max(target), max(run_at), max(attempts), max(last_error) FROM jobs WHERE kind = 'delete_replica'",
];

/// Gives it something to know, of which nothing is done while the test runs.
fn relay_some(server: &TestServer, file: i64) {
    server.command(&["account", "create", "--name", "other"]);
    server.sql(&format!(
        "INSERT INTO channels (channel_id, name, base_url, sealed_key, key_hint, state, created_at)
             VALUES (7, 'one', 'https://api.example', x'0102', 'abcd', 'disabled', 5);
         INSERT INTO replicas (file_id, channel_id, account_id, state, upstream_id, created_at, used_at, uploads)
             VALUES ({file}, 7, 1, 'ready', '426', 5, 6, 2);
         INSERT INTO adopted (file_id, account_id, purpose, filename, channel_id, upstream_id, task_id, created_at)
             VALUES (9, 2, 't2a_async', 'a.tar', 7, '427', 11, 5);
         INSERT INTO tasks (task_id, account_id, channel_id, upstream_id, path, created_at)
             VALUES (11, 2, 7, '428', '/v1/t2a_async_v2', 5);
         INSERT INTO voices (channel_id, voice_id, account_id, state, created_at)
             VALUES (7, 'anna', 2, 'ready', 5);
         INSERT INTO costs (channel_id, path, unit, amount) VALUES (7, '', 'call', 3);
         INSERT INTO relayed (day, channel_id, account_id, path, calls, units, charged, cost)
             VALUES ('2026-11-25', 7, 2, '/v1/t2a_v2', 1, 2, 3, 4);
         INSERT INTO callbacks (callback_id, account_id, key_id, channel_id, path, url, keep, created_at)
             VALUES ('c', 2, 1, 7, '/v1/x', 'https://client.invalid/', 1, 9000000000000000),
                    ('d', 2, 1, 7, '/v1/x', 'https://client.invalid/', 0, 9000000000000000);
         INSERT INTO jobs (kind, target, run_at, attempts, last_error)
             VALUES ('delete_replica', '7/429/batch', 9000000000000000, 3, 'away');"
    ));
}

/// Uploads until told to stop; says what was acknowledged, and that nothing but 0 and 1013 was answered.
fn upload_until(server: &TestServer, stop: &AtomicBool) -> Vec<(i64, Vec<u8>)> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let content = kit::text(n, 2_000);
        let reply = server.upload("retrieval", "busy.txt", &content);
        match reply.code() {
            0 => {
                acknowledged.push((reply.file_id(), content));
                thread::sleep(Duration::from_millis(10));
            }
            1013 => thread::sleep(Duration::from_millis(20)),
            other => panic!("{other}: {}", reply.text()),
        }
    }
    acknowledged
}

#[track_caller]
fn same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) {
    assert_eq!(one.len(), other.len());
    for (name, value) in one {
        assert!(other.get(name) == Some(value), "{name}: {value:.500} is {:.500}", other[name]);
    }
}

fn content_of(server: &TestServer, id: i64) -> Vec<u8> {
    server.get(&format!("/v1/files/retrieve_content?file_id={id}")).body
}

#[test]
fn a_gateway_moves_while_it_serves_and_comes_back() {
    let elsewhere = Elsewhere::new();
    let mut old = embedded().start();
    old.command(&["ledger", "top-up", "default", "100"]);
    old.command(&["price", "set", "files.upload", "0.001"]);
    old.command(&["price", "set", "files.delete", "0.0001"]);
    let gone = old.upload("retrieval", "gone.txt", b"gone").file_id();
    for n in 0..30 {
        old.upload("retrieval", "a.txt", &kit::text(n, 300 + n as usize));
    }
    let large = kit::text(77, 700_000);
    let large_id = old.upload("retrieval", "large.txt", &large).file_id();
    let link = old.get(&format!("/v1/files/retrieve?file_id={large_id}")).json();
    let link = link["file"]["download_url"].as_str().unwrap().to_owned();
    let link = &link[link.find("/d/").unwrap()..];

    relay_some(&old, large_id);
    // While it serves, as often as one likes; what is there is not copied again.
    let first = told(&elsewhere.fill(&old.data_dir, &[]).output().unwrap());
    assert_eq!((&first["moved"], &first["files_copied"]), (&false.into(), &32.into()), "{first}");
    old.delete(gone);
    old.sql("DELETE FROM callbacks WHERE callback_id = 'd'");
    old.command(&["key", "create", "--name", "second"]);
    let again = told(&elsewhere.fill(&old.data_dir, &[]).output().unwrap());
    assert_eq!(again["files_copied"], 0, "{again}");
    let refusal = kit::setup().at(&elsewhere.place).try_start_on(&old.home().unwrap().join("new"));
    assert!(refusal.unwrap_err().contains("is being filled"));

    // Cut over under load: what was acknowledged is there, what was not is answered 1013.
    let stop = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| {
        let busy = [(); 4].map(|()| scope.spawn(|| upload_until(&old, &stop)));
        eventually("some are stored", || (old.stored("blobs").len() > 60).then_some(()));
        let moved = told(&elsewhere.fill(&old.data_dir, &["--cut-over"]).output().unwrap());
        assert_eq!((&moved["moved"], &moved["damaged"]), (&true.into(), &0.into()), "{moved}");
        assert_eq!(old.upload("retrieval", "late.txt", b"late").code(), 1013);
        stop.store(true, Ordering::Relaxed);
        busy.map(|busy| busy.join().unwrap()).concat()
    });
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    // The old one still answers what is read.
    let before = everything(&old);
    assert_eq!(before.len(), acknowledged.len() + 31 + 3);

    let mut new = kit::setup().at(&elsewhere.place).start_on(&old.home().unwrap().join("new"));
    new.key.clone_from(&old.key);
    same(&everything(&new), &before);
    for (id, content) in &acknowledged {
        assert!(content_of(&new, *id) == *content);
    }
    assert!(Request::new(&new.address, "GET", link).send().body == large);
    assert_eq!(elsewhere.s3.objects("moved").len(), acknowledged.len() + 31);
    kit::books_balance(&new);
    let id = new.upload("retrieval", "new.txt", b"of the new one").file_id();
    assert!(id > acknowledged.iter().map(|(id, _)| *id).max().unwrap());
    new.command(&["account", "create", "--name", "later"]);

    // And back, into another directory.
    let back = old.home().unwrap().join("back");
    told(&elsewhere.empty(&back, &["--cut-over"]).output().unwrap());
    let moved = everything(&new);
    drop(new);
    let mut third = embedded().start_on(&back);
    third.key.clone_from(&old.key);
    same(&everything(&third), &moved);
    kit::books_balance(&third);
    assert!(third.upload("retrieval", "third.txt", b"of the third").code() == 0);

    // Sealed stores are not served.
    old.kill();
    let refusal = embedded().try_start_on(&old.data_dir).unwrap_err();
    assert!(refusal.contains("was moved to postgres://127.0.0.1"), "{refusal}");
    assert!(!refusal.contains("password"), "{refusal}");
}

#[test]
fn a_move_that_is_killed_goes_on_where_it_was() {
    let elsewhere = Elsewhere::new();
    let old = embedded().start();
    for n in 0..300 {
        old.upload("retrieval", "a.txt", &kit::text(n, 1_000));
    }
    let landed = |most: usize| elsewhere.s3.objects("moved").len() > most;
    for round in 1..=3 {
        let mut child: Child = elsewhere
            .fill(&old.data_dir, &["--parallel", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed in the middle, wherever that is.
        eventually("it is at work", || landed(round * 50).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = told(&elsewhere.fill(&old.data_dir, &["--cut-over"]).output().unwrap());
    let copied = last["files_copied"].as_u64().unwrap();
    assert!(copied < 300 - 150, "{last}");
    let mut new = kit::setup().at(&elsewhere.place).start_on(&old.home().unwrap().join("new"));
    new.key.clone_from(&old.key);
    same(&everything(&new), &everything(&old));
    kit::books_balance(&new);
}

#[test]
fn nothing_is_mixed_and_a_seal_can_be_taken_off() {
    let elsewhere = Elsewhere::new();
    let old = embedded().start();
    let id = old.upload("retrieval", "a.txt", b"content").file_id();

    // A target that has something of another gateway.
    let other = embedded().start();
    let mut command = elsewhere.migrate(&[]);
    command.arg("--from").arg(&old.data_dir).arg("--to").arg(&other.data_dir);
    refused(&command.output().unwrap(), "in use by another");
    refused(&elsewhere.migrate(&[]).output().unwrap(), "--from DIR");
    let mut command = elsewhere.migrate(&["--from", "/nowhere/at/all", "--to", "/tmp/x"]);
    refused(&command.output().unwrap(), "is not a filegate data directory");

    told(&elsewhere.fill(&old.data_dir, &["--cut-over"]).output().unwrap());
    assert_eq!(old.upload("retrieval", "a.txt", b"late").code(), 1013);
    assert_eq!(content_of(&old, id), b"content");
    assert_eq!(old.get("/v1/files/list").code(), 0);
    let mut command = elsewhere.migrate(&["--unseal"]);
    let output = command.arg("--from").arg(&old.data_dir).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(old.upload("retrieval", "a.txt", b"goes on").code(), 0);
}

/// A file whose bytes are wrong moves as what it is, and does not keep the others.
#[test]
fn a_damaged_file_is_marked_and_moves_without_its_content() {
    let elsewhere = Elsewhere::new();
    let old = embedded().start();
    let whole = old.upload("retrieval", "a.txt", b"whole").file_id();
    let damaged = old.upload("retrieval", "b.txt", b"to be damaged").file_id();
    old.blob(13).write_at(b"X", 0);
    let moved = told(&elsewhere.fill(&old.data_dir, &["--cut-over"]).output().unwrap());
    assert_eq!(moved["damaged"], 1, "{moved}");
    let mut new = kit::setup().at(&elsewhere.place).start_on(&old.home().unwrap().join("new"));
    new.key.clone_from(&old.key);
    assert_eq!(content_of(&new, whole), b"whole");
    let reply = new.get(&format!("/v1/files/retrieve_content?file_id={damaged}"));
    assert_ne!(reply.code(), 0, "{}", reply.text());
}
