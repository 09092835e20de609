//! A full disk: a small tmpfs in a mount namespace of the test's own.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::{TestServer, eventually};
use serde_json::json;

use crate::kit::{self, Home, LARGE, Ledger, SMALL, text};

/// Set for the copy of the test that runs inside.
const INSIDE: &str = "DURABILITY_TEST_INSIDE";

/// Runs `body` in a process that may mount: this test once more, in namespaces of its own.
fn where_one_may_mount(test: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let may = |flags: &str| {
        let tried = Command::new("unshare").args([flags, "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let flags = ["-rm", "-m"].into_iter().find(|flags| may(flags)).expect(
        "this test mounts a tmpfs: run it as root, or allow user namespaces \
         (kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)",
    );
    let mut command = Command::new("unshare");
    command.arg(flags).arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env(INSIDE, "1").output().unwrap();
    let said = text(&output.stdout);
    eprintln!("{said}{}", text(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "failed inside the namespace");
}

/// A data directory on a tmpfs with these options.
fn small_disk(options: &str) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "filegate-test"])
        .arg(&disk)
        .output()
        .unwrap();
    assert!(mounted.status.success(), "{}", text(&mounted.stderr));
    Home::at(disk.join("data"), dir)
}

/// What someone else keeps on the same disk.
struct Filler {
    path: PathBuf,
    file: File,
}

impl Filler {
    fn on(home: &Home) -> Self {
        let path = home.data.parent().unwrap().join("filler");
        Self { file: File::create(&path).unwrap(), path }
    }

    /// Leaves not one byte.
    fn fill(&mut self) {
        // What the server has just freed comes back with a delay.
        eventually("the disk is full", || {
            for len in [64 << 10, 4096, 1] {
                while self.file.write_all(&vec![7; len]).is_ok() {}
            }
            (free_blocks(&self.path) == 0).then_some(())
        });
    }

    fn empty(&mut self) {
        self.file = File::create(&self.path).unwrap();
    }
}

fn free_blocks(path: &Path) -> u64 {
    let found = Command::new("stat").args(["-f", "-c", "%a"]).arg(path).output().unwrap();
    text(&found.stdout).trim().parse().unwrap()
}

/// Every refusal so far said that the disk is full, and nothing else.
fn only_full(ledger: &Ledger) -> usize {
    let refusals = ledger.refusals();
    for (code, message) in &refusals {
        assert_eq!((*code, message.contains("storage is full")), (1013, true), "{message}");
    }
    refusals.len()
}

/// Uploads from four clients until each size is refused.
fn fill_by_uploads(server: &TestServer, ledger: &Ledger, sizes: &[usize]) {
    for len in sizes.iter().copied() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = Connection::open(&server.address).unwrap();
                    let (address, key) = (&server.address, &server.key);
                    while ledger.upload(&mut connection, address, key, len).unwrap().code() == 0 {}
                });
            }
        });
    }
    assert!(only_full(ledger) >= 4);
}

fn delete_oldest(server: &TestServer, ledger: &Ledger, count: usize) {
    let mut connection = Connection::open(&server.address).unwrap();
    let oldest: Vec<i64> = kit::list(server).into_keys().take(count).collect();
    assert_eq!(oldest.len(), count);
    for id in oldest {
        let reply = ledger.delete(&mut connection, &server.address, &server.key, id).unwrap();
        assert_eq!(reply.code(), 0, "a delete on a full disk: {}", reply.text());
    }
}

fn well(server: &TestServer, ledger: &Ledger) {
    ledger.forget_checks();
    ledger.check(server);
    assert_eq!(Request::new(&server.address, "GET", "/readyz").send().status, 200);
}

#[test]
fn a_full_disk_refuses_uploads_and_nothing_else() {
    where_one_may_mount("full::a_full_disk_refuses_uploads_and_nothing_else", || {
        let home = small_disk("size=24m");
        let mut filler = Filler::on(&home);
        let ledger = Ledger::default();
        let quick = kit::setup().config("[jobs]\ninterval = \"100ms\"");
        let mut server = home.start_with(&quick);
        for round in 0..3 {
            fill_by_uploads(&server, &ledger, &[LARGE, SMALL]);
            well(&server, &ledger);
            filler.fill();
            kit::down(&ledger.upload_once(&server, SMALL));
            well(&server, &ledger);
            delete_oldest(&server, &ledger, 3);
            if round > 0 {
                // A crash on a full disk, and a start on one.
                filler.fill();
                server.kill();
                server = home.start_with(&quick);
                well(&server, &ledger);
                delete_oldest(&server, &ledger, 3);
            }
            filler.empty();
            // Without a restart.
            eventually("uploads work again", || {
                (ledger.upload_once(&server, LARGE).code() == 0).then_some(())
            });
            only_full(&ledger);
            well(&server, &ledger);
            delete_oldest(&server, &ledger, 10);
        }
        drop(server);
        kit::fsck_clean(&home);
        eprintln!("{} uploads were stored", ledger.acknowledged());
    });
}

#[test]
fn every_file_can_be_deleted_while_others_take_each_byte_that_is_freed() {
    where_one_may_mount(
        "full::every_file_can_be_deleted_while_others_take_each_byte_that_is_freed",
        || {
            let home = small_disk("size=8m");
            let mut filler = Filler::on(&home);
            let ledger = Ledger::default();
            let mut server = home.start_with(&kit::setup().config("[jobs]\ninterval = \"100ms\""));
            fill_by_uploads(&server, &ledger, &[SMALL]);
            let files = kit::list(&server).len();
            for deleted in 0..files {
                filler.fill();
                delete_oldest(&server, &ledger, 1);
                if deleted % 100 == 99 {
                    server.kill();
                    server = home.start();
                }
            }
            only_full(&ledger);
            well(&server, &ledger);
            assert!(kit::list(&server).is_empty());
            eprintln!("{files} files deleted, one by one");
        },
    );
}

/// The size of one that is not in a pack.
const OWN_FILE: usize = 300_000;

#[test]
fn a_disk_without_inodes_refuses_uploads_and_nothing_else() {
    where_one_may_mount("full::a_disk_without_inodes_refuses_uploads_and_nothing_else", || {
        let home = small_disk("size=64m,nr_inodes=400");
        let ledger = Ledger::default();
        let mut server = home.start();
        fill_by_uploads(&server, &ledger, &[OWN_FILE]);
        assert!(free_blocks(&home.data) > 1000, "something else ran out");
        well(&server, &ledger);
        delete_oldest(&server, &ledger, 3);
        server.kill();
        server = home.start();
        well(&server, &ledger);
        delete_oldest(&server, &ledger, 3);
        eventually("uploads work again", || {
            (ledger.upload_once(&server, OWN_FILE).code() == 0).then_some(())
        });
        only_full(&ledger);
        well(&server, &ledger);
        drop(server);
        kit::fsck_clean(&home);
    });
}

/// A channel that counts the calls it gets and answers each that all is well.
fn upstream() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap() <= 2 {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            io::copy(&mut stream.by_ref().take(length), &mut io::sink()).unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = r#"{"base_resp":{"status_code":0,"status_msg":"success"}}"#;
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
            let length = answer.len();
            write!(stream.get_mut(), "{head}\r\ncontent-length: {length}\r\n\r\n{answer}").unwrap();
        }
    });
    (url, calls)
}

#[test]
fn a_call_whose_body_has_no_room_is_refused_and_not_sent() {
    where_one_may_mount("full::a_call_whose_body_has_no_room_is_refused_and_not_sent", || {
        let home = small_disk("size=24m");
        let mut filler = Filler::on(&home);
        let server = home.start();
        let (base_url, calls) = upstream();
        let channel = json!({"name": "one", "base_url": base_url, "key": "k", "settings": {}});
        let added = server.admin("POST", "/channels").header("content-type", "application/json");
        assert_eq!(added.body(channel.to_string()).send().status, 200);
        let call = |text: usize| {
            let body = json!({"model": "speech-2.8-hd", "text": "x".repeat(text)});
            let call =
                server.request("POST", "/v1/t2a_v2").header("content-type", "application/json");
            call.body(body.to_string()).send()
        };
        // What fits into memory (relay.body_memory) needs no room.
        for (text, room) in [(1_000, true), (1_000_000, true), (1_000_000, false), (1_000, false)] {
            if room {
                filler.empty();
            } else {
                filler.fill();
            }
            let before = calls.load(Ordering::SeqCst);
            let reply = call(text);
            let sent = calls.load(Ordering::SeqCst) - before;
            if room || text == 1_000 {
                assert_eq!((reply.code(), sent), (0, 1), "{text}, {room}: {}", reply.text());
            } else {
                assert_eq!((reply.code(), sent), (1013, 0), "{}", reply.text());
                assert!(reply.text().contains("storage is full"), "{}", reply.text());
            }
        }
        filler.empty();
        // Without a restart, and nothing is left of the one that was refused.
        eventually("long calls work again", || (call(1_000_000).code() == 0).then_some(()));
        assert_eq!(fs::read_dir(home.data.join("tmp")).unwrap().count(), 0);
    });
}

/// The first start needs room; without it it says so and can be tried again.
#[test]
fn a_first_start_on_a_full_disk_says_so() {
    where_one_may_mount("full::a_first_start_on_a_full_disk_says_so", || {
        let home = small_disk("size=4m");
        let other: &Path = &home.data.parent().unwrap().join("other");
        let mut filler = Filler::on(&home);
        filler.fill();
        let log = kit::setup().try_start_on(other).unwrap_err();
        assert!(log.contains("no space left while opening"), "{log}");
        filler.empty();
        kit::setup().start_on(other);
    });
}
