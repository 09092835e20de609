//! A full disk: a small tmpfs in a mount namespace of the test's own.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::{TestServer, eventually};

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

#[test]
fn a_disk_without_inodes_refuses_uploads_and_nothing_else() {
    where_one_may_mount("full::a_disk_without_inodes_refuses_uploads_and_nothing_else", || {
        let home = small_disk("size=64m,nr_inodes=400");
        let ledger = Ledger::default();
        let mut server = home.start();
        fill_by_uploads(&server, &ledger, &[SMALL]);
        assert!(free_blocks(&home.data) > 1000, "something else ran out");
        well(&server, &ledger);
        delete_oldest(&server, &ledger, 3);
        server.kill();
        server = home.start();
        well(&server, &ledger);
        delete_oldest(&server, &ledger, 3);
        eventually("uploads work again", || {
            (ledger.upload_once(&server, SMALL).code() == 0).then_some(())
        });
        only_full(&ledger);
        well(&server, &ledger);
        drop(server);
        kit::fsck_clean(&home);
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
