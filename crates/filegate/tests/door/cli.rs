//! The commands of operators, over HTTP and on the data directory.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use filegate_testkit::place::{Place, only_embedded};
use filegate_testkit::server::{TestServer, clean_environment, eventually};
use serde_json::Value;

use crate::kit::{books_balance, setup, text};

/// Where the commands go.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// To the running server, with its first token.
    Http(&'a TestServer),
    /// To a data directory.
    Local(&'a Path),
}

impl Way<'_> {
    fn run(self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
        clean_environment(&mut command);
        command.args(words);
        match self {
            Self::Http(server) => {
                command.env("FILEGATE_ADMIN_URL", format!("http://{}", server.admin_address));
                command.env("FILEGATE_ADMIN_TOKEN", server.admin_token());
            }
            Self::Local(directory) => {
                // A token of the environment is no reason to go elsewhere.
                command.env("FILEGATE_ADMIN_TOKEN", "fg-admin-lost");
                command.arg("--data-dir").arg(directory);
                let place = Place::of(directory);
                if let Some(place) = &place {
                    place.lead(&mut command);
                }
                // It is held until the command has ended.
                return command.output().unwrap();
            }
        }
        command.output().unwrap()
    }

    #[track_caller]
    fn ok(self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The lines of JSON that the command prints.
    #[track_caller]
    fn json(self, words: &[&str]) -> Vec<Value> {
        let text = self.ok(&[words, &["--json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn refused(self, words: &[&str], code: i32, says: &str) {
        let output = self.run(words);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(says), "{words:?}: {text}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{words:?}");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What differs between two stores that were told the same: the time.
fn without_times(mut rows: Vec<Value>) -> Vec<Value> {
    for row in &mut rows {
        let fields = row.as_object_mut().unwrap();
        fields.retain(|name, _| name != "at" && !name.ends_with("_at"));
        for secret in ["key", "token", "hint", "actor", "origin"] {
            fields.remove(secret);
        }
    }
    rows
}

/// Accounts, keys, money, prices and lists, each made, changed and looked at.
fn story(way: Way<'_>) -> Vec<Vec<Value>> {
    let words: [&[&str]; 24] = [
        &["account", "create", "--name", "acme", "--balance", "0.01"],
        &["account", "show", "acme"],
        &["account", "set", "acme", "--requests-per-minute", "60", "--keep-max", "7d"],
        &["account", "set", "acme", "--stored-bytes", "1GiB", "--files-per-purpose", "batch=3"],
        &["account", "set", "acme", "--requests-per-minute", "none"],
        &["account", "disable", "acme"],
        &["account", "enable", "acme"],
        &[
            "key",
            "create",
            "--name",
            "one",
            "--account",
            "acme",
            "--scopes",
            "files:read,files:list",
        ],
        &["key", "set", "2", "--networks", "192.0.2.0/24", "--purposes", "voice_clone,batch"],
        &["key", "set", "2", "--networks", "any", "--expires-in", "30d", "--request-burst", "5"],
        &["key", "rotate", "2", "--overlap", "1h"],
        &["key", "revoke", "2"],
        &["key", "ls", "--account", "acme"],
        &["price", "set", "files.upload", "0.001"],
        &["price", "set", "files.storage", "0.5", "--unit", "gib_day"],
        &["price", "set", "files.upload", "0.2", "--unit", "mib", "--purpose", "batch"],
        &["price", "rm", "files.upload", "--unit", "mib", "--purpose", "batch"],
        &["price", "ls"],
        &["ledger", "top-up", "acme", "5", "--reason", "invoice 17"],
        &["ledger", "adjust", "acme", "-0.5", "--reason", "entered twice"],
        &["ledger", "ls", "--account", "acme", "--kind", "top_up"],
        &["moderation", "block", "term", "forbidden words", "--note", "ticket 17"],
        &["moderation", "ls", "--list", "term"],
        &["account", "show", "acme"],
    ];
    words.iter().map(|words| without_times(way.json(words))).collect()
}

#[test]
fn both_ways_lead_to_the_same() {
    let (over_http, beside) = (setup().start(), setup().start());
    let http = story(Way::Http(&over_http));
    let local = story(Way::Local(&beside.data_dir));
    assert_eq!(http, local);
    let account = &http.last().unwrap()[0];
    assert_eq!(account["balance"], "4.51");
    assert_eq!(account["limits"]["stored_bytes"], "1GiB");
    assert_eq!(account["limits"].get("requests_per_minute"), None);
    let keys = &http[12];
    assert_eq!((&keys[0]["replaces"], &keys[0]["limits"]["request_burst"]), (&2.into(), &5.into()));
    let actors = |way: Way<'_>| way.json(&["audit", "--limit", "1"])[0]["actor"].clone();
    assert_eq!(actors(Way::Http(&over_http)), "token:1");
    assert_eq!(actors(Way::Local(&beside.data_dir)), "local");
    books_balance(&over_http);
    books_balance(&beside);
}

#[test]
fn the_commands_of_the_issue_work_as_written() {
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("data");
    let _one_place_for_all = Place::of(&data_dir);
    let way = Way::Local(&data_dir);
    way.ok(&["account", "create", "--name", "acme", "--balance", "0.01"]);
    way.ok(&["price", "set", "files.upload", "0.001"]);
    let account = way.json(&["account", "show", "acme"]);
    assert_eq!((&account[0]["name"], &account[0]["available"]), (&"acme".into(), &"0.01".into()));
    let table = way.ok(&["account", "ls"]);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("acme"), "{table}");
    assert_eq!(way.ok(&["account", "ls", "-q"]), "acme\n");
    assert!(way.ok(&["price", "ls"]).contains("files.upload  call   0.001"));
}

#[test]
fn a_key_is_alone_on_stdout_and_works_at_once() {
    let server = setup().start();
    let way = Way::Local(&server.data_dir);
    let key = way.ok(&["key", "create", "--name", "one", "--account", "acme"]);
    let key = key.trim_end();
    let list = |key: &str| {
        let request =
            filegate_testkit::http::Request::new(&server.address, "GET", "/v1/files/list");
        request.bearer(key).send().code()
    };
    assert_eq!(list(key), 0);
    let new = way.ok(&["key", "rotate", "2", "--overlap", "1h"]);
    assert_eq!((list(key), list(new.trim_end())), (0, 0));
    // Who found a key in a log has nothing but the key.
    way.ok(&["key", "revoke", key]);
    assert_eq!((list(key), list(new.trim_end())), (2049, 0));
    way.refused(&["key", "revoke", key], 1, "no such key that works");
    way.refused(&["key", "revoke", "seven"], 2, "not the id of a key");
    Way::Http(&server).refused(&["key", "revoke", key], 2, "give its id");
    way.refused(&["key", "revoke", "77"], 1, "no key 77 (404)");
    for table in [way.ok(&["key", "ls"]), way.ok(&["audit", "--json"])] {
        assert!(!table.contains(key) && !table.contains(new.trim_end()), "{table}");
    }
}

#[test]
fn looking_makes_no_directory() {
    if only_embedded("a database is made before the gateway is") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let absent = home.path().join("typo");
    let reading: [&[&str]; 4] =
        [&["key", "ls"], &["account", "show", "acme"], &["audit"], &["key", "revoke", "7"]];
    for words in reading {
        Way::Local(&absent).refused(words, 2, "not a filegate data directory");
    }
    assert!(!absent.try_exists().unwrap());
}

#[test]
fn wrong_usage_is_2_before_anything_is_called() {
    let server = setup().start();
    let way = Way::Http(&server);
    let cases: [(&[&str], &str); 9] = [
        (&["account", "create", "--name", "a", "--balance", "1e3"], "not an amount"),
        (&["account", "set", "default"], "nothing to set"),
        (&["account", "set", "default", "--stored-bytes", "lots"], "`none`"),
        (&["key", "create", "--name", "n", "--scopes", "files:fly"], "files:fly"),
        (&["ledger", "adjust", "default", "1"], "--reason"),
        (&["price", "set", "files.fly", "1"], "calls are files.upload"),
        (&["moderation", "block", "sha256"], "<VALUE>"),
        (&["moderation", "block", "sha256", "--file", "/no/such/file"], "No such file"),
        (&["backup", "create", "here"], "beginning with /"),
    ];
    for (words, says) in cases {
        way.refused(words, 2, says);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
    clean_environment(&mut command);
    let output = command.args(["key", "ls", "--admin-url", "http://h"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("FILEGATE_ADMIN_TOKEN"), "{}", stderr(&output));
}

#[test]
fn a_dry_run_says_what_would_be_and_a_name_makes_a_change_once() {
    let server = setup().start();
    for way in [Way::Http(&server), Way::Local(&server.data_dir)] {
        let before = way.json(&["audit"]);
        let tried = way.json(&["ledger", "top-up", "default", "5", "--dry-run"]);
        assert_eq!(tried[0]["dry_run"], true);
        let output = way.run(&["account", "create", "--name", "tried", "--dry-run"]);
        assert!(stderr(&output).contains("dry run: nothing was changed"), "{}", stderr(&output));
        assert_eq!(way.json(&["audit"]), before);
        way.refused(
            &["ledger", "adjust", "default", "-99", "--reason", "x", "--dry-run"],
            1,
            "(409)",
        );
    }
    let way = Way::Http(&server);
    let paid = ["ledger", "top-up", "default", "5", "--idempotency-key", "invoice-17"];
    assert_eq!(way.json(&paid), way.json(&paid));
    assert_eq!(way.json(&["account", "show", "default"])[0]["balance"], "5");
    let other = ["ledger", "top-up", "default", "6", "--idempotency-key", "invoice-17"];
    way.refused(&other, 1, "another request");
    // The answer to the first call was lost: the same words give the same key again.
    let key = ["key", "create", "--name", "again", "--idempotency-key", "key-1"];
    assert_eq!(way.ok(&key), way.ok(&key));
    let local = Way::Local(&server.data_dir);
    let key = ["key", "create", "--name", "again", "--idempotency-key", "key-2"];
    local.ok(&key);
    local.refused(&key, 1, "made before");
}

#[test]
fn files_are_held_back_explained_released_and_deleted() {
    let server = setup().start();
    let way = Way::Http(&server);
    let ids: Vec<String> = (0..2)
        .map(|n| server.upload("retrieval", "a.txt", &text(n, 100)).file_id().to_string())
        .collect();
    assert_eq!(way.ok(&["file", "ls", "-q"]), format!("{}\n{}\n", ids[1], ids[0]));
    let file = &way.json(&["file", "show", &ids[0]])[0];
    let hash = file["sha256"].as_str().unwrap();
    assert_eq!(way.ok(&["file", "ls", "--sha256", hash, "-q"]).trim_end(), ids[0]);

    way.ok(&["file", "quarantine", &ids[0], &ids[1], "--reason", "ticket 17"]);
    let held = ["file", "ls", "--state", "quarantined", "--account", "default", "-q"];
    assert_eq!(way.ok(&held).lines().count(), 2);
    let explained = way.ok(&["file", "explain", &ids[0]]);
    assert!(explained.contains("it is quarantined"), "{explained}");
    // One that is not there is said, and does not keep the others.
    let output = way.run(&["file", "release", "1", &ids[0]]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "error: 1: there is no file 1 (404)\n");
    assert_eq!(way.ok(&held).trim_end(), ids[1]);

    way.ok(&["file", "rm", &ids[1], "--reason", "ticket 17"]);
    let receipt = eventually("the bytes are purged", || {
        let receipt = way.json(&["receipt", "show", &ids[1]]).remove(0);
        receipt["purged_at"].is_i64().then_some(receipt)
    });
    assert_eq!(receipt["cause"], "operator");
    assert_eq!(way.ok(&["receipt", "ls", "-q"]).trim_end(), ids[1]);
    assert!(way.ok(&["file", "explain", &ids[1]]).contains("deleted (operator)"));
    let actions: Vec<_> = way.json(&["audit", "--target", &format!("file:{}", ids[1])]);
    assert_eq!(actions.len(), 2, "{actions:?}");
}

#[test]
fn what_is_blocked_by_its_file_is_refused_until_it_is_unblocked() {
    let server = setup().start();
    let way = Way::Http(&server);
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("stolen.txt");
    File::create(&path).unwrap().write_all(&text(1, 1000)).unwrap();
    let block = ["moderation", "block", "sha256", "--file", path.to_str().unwrap()];
    let entry = &way.json(&block)[0];
    way.refused(&block, 1, "already");
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/../media/tests/data/progressive-48x32.jpg");
    let block = |file| ["moderation", "block", "image", "--file", file];
    let hash = way.json(&block(picture))[0]["value"].clone();
    assert_eq!(hash.as_str().unwrap().len(), 16);
    way.refused(&block(path.to_str().unwrap()), 2, "cannot be decoded");
    let upload = || server.upload("retrieval", "other.txt", &text(1, 1000)).code();
    eventually("the list is in force", || (upload() == 1026).then_some(()));
    way.ok(&["moderation", "unblock", &entry["id"].to_string()]);
    eventually("the list is free again", || (upload() == 0).then_some(()));

    let id = server.upload("retrieval", "look.txt", &text(2, 100)).file_id();
    server.sql(&format!("UPDATE files SET state = 'review' WHERE file_id = {id}"));
    assert_eq!(way.ok(&["moderation", "reviews", "-q"]).trim_end(), id.to_string());
    way.ok(&["file", "release", &id.to_string(), "--reason", "harmless"]);
    assert_eq!(way.ok(&["moderation", "reviews", "-q"]), "");
}

#[test]
fn usage_work_and_settings_are_shown() {
    let server = setup().start();
    server.upload("retrieval", "a.txt", &text(1, 100));
    let way = Way::Http(&server);
    let sums = way.json(&["usage", "--by", "account,call"]);
    assert_eq!((&sums[0]["account"], &sums[0]["calls"]), (&"default".into(), &1.into()));
    let csv = way.ok(&["usage", "--by", "account,call", "--csv"]);
    assert!(
        csv.starts_with("account,call,calls,bytes,charged\r\ndefault,files.upload,1,"),
        "{csv}"
    );
    assert!(way.ok(&["policy", "ls"]).contains("voice_clone"));
    let listen = |way: Way<'_>| {
        let settings = way.json(&["config", "show"]);
        settings.into_iter().find(|setting| setting["id"] == "data_dir").unwrap()
    };
    assert_eq!(listen(way)["origin"], "command line");
    assert_eq!(listen(Way::Local(&server.data_dir))["origin"], "command line");
    assert_eq!(way.ok(&["inflight", "ls", "-q"]), "");
    way.refused(&["inflight", "abort", "../x"], 1, "(404)");
    way.refused(&["job", "run", "77"], 1, "no job 77");
}

#[test]
fn who_lost_the_last_token_comes_back_in() {
    let server = setup().start();
    let http = Way::Http(&server);
    http.refused(&["token", "revoke", "1"], 1, "last");
    http.ok(&["token", "revoke", "1", "--force"]);
    http.refused(&["account", "ls"], 1, "filegate token create");
    let way = Way::Local(&server.data_dir);
    let token = way.ok(&["token", "create", "--name", "me", "--scope", "full"]);
    let reply = server.admin_as(token.trim_end(), "GET", "/accounts").send();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(way.ok(&["token", "ls"]).contains("REVOKED"));
}

#[test]
fn a_snapshot_is_verified_restored_and_served() {
    if only_embedded("backup copies a data directory; PostgreSQL and S3 have their own") {
        return;
    }
    let mut server = setup().start();
    let content = text(1, 300_000);
    let id = server.upload("retrieval", "a.txt", &content).file_id();
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let snapshot = path("snapshot");
    let source = snapshot.to_str().unwrap();
    Way::Http(&server).ok(&["backup", "create", source]);
    Way::Http(&server).refused(&["backup", "create", source], 1, "directory");
    server.delete(id);
    let busy = server.data_dir.to_str().unwrap();
    Way::Local(&path("other")).refused(&["backup", "restore", busy], 2, "a server is using it");
    server.terminate();

    let entries = |directory: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        (names, fs::read(directory.join("catalog.db")).unwrap())
    };
    let before = entries(&snapshot);
    let verify =
        |directory: &str| Way::Local(&path("unused")).run(&["backup", "verify", directory]);
    assert_eq!(verify(source).status.code(), Some(0));
    assert!(before == entries(&snapshot), "looking at a snapshot changed it");

    let restored = path("restored");
    let restore = ["backup", "restore", source];
    let output = Way::Local(&restored).run(&[&restore[..], &["--dry-run"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!restored.try_exists().unwrap());
    assert!(Way::Local(&restored).ok(&restore).contains("clean"));
    Way::Local(&restored).refused(&restore, 2, "not empty");
    Way::Local(&path("other")).refused(&["backup", "restore", "/tmp"], 2, "not a snapshot");

    let mut again = setup().start_on(&restored);
    again.key = server.key.clone();
    let reply = again.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    assert!(reply.body == content);

    // The copy is a copy: damage of the snapshot is found there, and the restored store is whole.
    let blob = files_below(&snapshot.join("blobs")).remove(0);
    fs::remove_file(&blob).unwrap();
    File::create(&blob).unwrap().write_all(b"something else").unwrap();
    let output = verify(source);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    books_balance(&again);
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] });
    all.collect()
}
