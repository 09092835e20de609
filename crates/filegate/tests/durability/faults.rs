//! Disks that fail: system calls that return errors, and bytes that are not what was stored.

use std::fs::{self, OpenOptions};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::place::Blob;
use filegate_testkit::server::{Setup, TestServer, eventually};
use filegate_testkit::trace::{Call, Trace};

use crate::kit::{self, Home, LARGE, Ledger, SMALL, text};

/// No round of the jobs disturbs what is counted.
fn quiet() -> Setup {
    kit::setup().config("[jobs]\ninterval = \"1h\"")
}

fn syncs_of(calls: &[Call], path_part: &str) -> usize {
    let sync = |c: &&Call| matches!(c.name.as_str(), "fsync" | "fdatasync");
    calls.iter().filter(sync).filter(|c| c.text.contains(path_part)).count()
}

fn injected(calls: &[Call]) -> usize {
    let on_data = |c: &&Call| c.text.contains("/data/") && c.text.contains("(INJECTED)");
    calls.iter().filter(on_data).count()
}

/// The fault of one call, of which nothing may remain but the answer 1013.
fn one_upload_fails(call: &str, error: &str, len: usize, says: &str) {
    let home = Home::new();
    let ledger = Ledger::default();
    let server = home.start_with(&quiet());
    ledger.upload_once(&server, SMALL).file_id();
    kit::settled(&server);
    let inject = format!("inject={call}:error={error}:when=1");
    let trace = Trace::attach(
        server.pid(),
        &["-e", "trace=openat,fallocate,pwritev,renameat2,fsync,fdatasync", "-e", &inject],
    );
    let reply = ledger.upload_once(&server, len);
    let calls = trace.stop();
    let what = format!("{call} {error} {len}");
    assert_eq!(injected(&calls), 1, "{what}: {calls:#?}");
    kit::down(&reply);
    assert!(reply.message().contains(says), "{what}: {}", reply.message());
    // Tried again, an fsync may lie: once for the file, and never for the log of a commit.
    assert!(syncs_of(&calls, "/data/tmp/") <= 1, "{what}: {calls:#?}");
    assert!(syncs_of(&calls, "/data/blobs/") <= 1, "{what}: {calls:#?}");
    ledger.check(&server);
    // It was that one upload's misfortune.
    ledger.upload_once(&server, len).file_id();
    ledger.check(&server);
    assert_eq!(Request::new(&server.address, "GET", "/readyz").send().status, 200);
    drop(server);
    kit::fsck_clean(&home);
}

#[test]
fn an_upload_whose_file_cannot_be_made_is_refused_without_a_trace() {
    one_upload_fails("openat", "ENOSPC", LARGE, "storage is full");
    one_upload_fails("openat", "EIO", LARGE, "");
    one_upload_fails("openat", "EDQUOT", LARGE, "storage is full");
}

#[test]
fn an_upload_whose_sync_fails_is_refused_without_a_trace() {
    one_upload_fails("fdatasync", "EIO", LARGE, "");
    one_upload_fails("fdatasync", "ENOSPC", LARGE, "storage is full");
    one_upload_fails("fsync", "EIO", LARGE, "");
}

#[test]
fn an_upload_that_cannot_be_named_is_refused_without_a_trace() {
    one_upload_fails("renameat2", "EIO", LARGE, "");
    one_upload_fails("renameat2", "ENOSPC", LARGE, "storage is full");
}

/// The write is the sync, too.
#[test]
fn a_small_upload_whose_pack_fails_is_refused_without_a_trace() {
    one_upload_fails("pwritev", "EIO", SMALL, "");
    one_upload_fails("pwritev", "ENOSPC", SMALL, "storage is full");
    one_upload_fails("pwritev", "EDQUOT", SMALL, "storage is full");
}

/// The request of a large upload, and how much of it makes a first piece on disk.
fn half_sent(server: &TestServer) -> (Connection, Vec<u8>) {
    let bytes = kit::upload_of(&server.address, &server.key, 99_999, LARGE).bytes();
    let mut connection = Connection::open(&server.address).unwrap();
    let half = bytes.len() / 2 + (64 << 10);
    connection.write(&bytes[..half]).unwrap();
    (connection, bytes[half..].to_vec())
}

#[test]
fn an_upload_that_cannot_be_written_is_refused_without_a_trace() {
    for (error, says) in [("EIO", ""), ("ENOSPC", "storage is full"), ("EDQUOT", "storage is full")]
    {
        let home = Home::new();
        let ledger = Ledger::default();
        let server = home.start_with(&quiet());
        ledger.upload_once(&server, SMALL).file_id();
        kit::settled(&server);
        let (mut connection, rest) = half_sent(&server);
        let tmp = eventually("a first piece is on disk", || {
            server.stored("tmp").into_iter().find(|(_, len)| *len > 0)
        });
        let path = tmp.0.canonicalize().unwrap();
        let inject = format!("inject=pwrite64:error={error}:when=1");
        let flags = ["-P", path.to_str().unwrap(), "-e", "trace=pwrite64", "-e", &inject];
        let trace = Trace::attach(server.pid(), &flags);
        connection.write(&rest).unwrap();
        let reply = connection.reply().unwrap();
        assert_eq!(injected(&trace.stop()), 1);
        kit::down(&reply);
        assert!(reply.message().contains(says), "{error}: {}", reply.message());
        ledger.check(&server);
        ledger.upload_once(&server, LARGE).file_id();
        ledger.check(&server);
    }
}

/// A fault of the write-ahead log. What was acknowledged stays; the commit it hit is not.
fn the_log_fails(call: &str, error: &str, len: usize, stops: bool) {
    let what = format!("{call} {error}");
    let home = Home::new();
    let ledger = Ledger::default();
    let server = home.start_with(&quiet());
    for len in [SMALL, LARGE, SMALL] {
        ledger.upload_once(&server, len).file_id();
    }
    let log = home.data.join("catalog.db-wal").canonicalize().unwrap();
    let inject = format!("inject={call}:error={error}:when=1");
    let path = log.to_str().unwrap();
    let trace = Trace::attach(
        server.pid(),
        &["-P", path, "-e", "trace=pwrite64,fsync,fdatasync", "-e", &inject],
    );
    let reply = ledger.upload_once(&server, len);
    kit::down(&reply);
    let later = ledger.upload_once(&server, SMALL);
    let calls = trace.stop();
    assert_eq!(injected(&calls), 1, "{what}: {calls:#?}");
    let ready = Request::new(&server.address, "GET", "/readyz").send();
    if stops {
        kit::down(&later);
        assert_eq!(syncs_of(&calls, "catalog.db-wal"), usize::from(call == "fdatasync"), "{what}");
        assert_eq!((ready.status, ready.code()), (503, 1013), "{what}");
        kit::down(&ledger.upload_once(&server, LARGE));
        assert!(server.log().contains("restart the server"), "{what}: {}", server.log());
    } else {
        assert_eq!((later.code(), ready.status), (0, 200), "{what}: {}", later.text());
        ledger.check(&server);
    }
    // What is there is served either way.
    for id in kit::list(&server).keys() {
        assert_eq!(kit::content_request(&server, *id).send().status, 200, "{what}");
    }
    let mut server = server;
    if stops {
        // In order, too: what the log holds must not be folded away by a process that mistrusts it.
        let trace =
            Trace::attach(server.pid(), &["-e", "trace=fsync,fdatasync,pwrite64,ftruncate,unlink"]);
        assert!(server.terminate().success());
        let calls = trace.wait();
        assert!(!calls.iter().any(|c| c.text.contains("catalog.db")), "{what}: {calls:#?}");
    } else {
        server.kill();
    }
    drop(server);
    let server = home.start();
    ledger.check(&server);
    if stops {
        // Of the one that met the fault it was not known what it came to. Those after it were refused, and stay so.
        let numbered =
            |file: &kit::Listed, number: u64| file.name.starts_with(&format!("u{number}-"));
        assert!(!kit::list(&server).values().any(|file| numbered(file, 4)), "{what}");
    }
    ledger.upload_once(&server, SMALL).file_id();
    ledger.check(&server);
    drop(server);
    kit::fsck_clean(&home);
}

#[test]
fn a_log_that_cannot_be_synced_stops_the_catalog_until_a_restart() {
    the_log_fails("fdatasync", "EIO", LARGE, true);
    the_log_fails("fdatasync", "ENOSPC", LARGE, true);
}

#[test]
fn a_log_that_cannot_be_written_stops_the_catalog_until_a_restart() {
    the_log_fails("pwrite64", "EIO", SMALL, true);
    the_log_fails("pwrite64", "EIO", LARGE, true);
}

#[test]
fn a_log_without_space_refuses_that_upload_alone() {
    the_log_fails("pwrite64", "ENOSPC", SMALL, false);
    the_log_fails("pwrite64", "ENOSPC", LARGE, false);
}

/// Small uploads do not have the log synced; whoever folds it into the database does.
#[test]
fn a_log_that_cannot_be_folded_away_stops_the_catalog_until_a_restart() {
    let home = Home::new();
    let ledger = Ledger::default();
    let server = home.start_with(&quiet());
    ledger.upload_once(&server, SMALL).file_id();
    let log = home.data.join("catalog.db-wal").canonicalize().unwrap();
    let trace = Trace::attach(
        server.pid(),
        &[
            "-P",
            log.to_str().unwrap(),
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            "inject=fdatasync,fsync:error=EIO:when=1",
        ],
    );
    let mut connection = Connection::open(&server.address).unwrap();
    let refused = (0..2_000).find_map(|_| {
        let reply = ledger.upload(&mut connection, &server.address, &server.key, 1).unwrap();
        (reply.code() != 0).then_some(reply)
    });
    kit::down(&refused.expect("the log is never folded away"));
    assert_eq!(injected(&trace.stop()), 1);
    assert!(server.log().contains("a checkpoint failed"), "{}", server.log());
    drop(server);
    let server = home.start();
    ledger.check(&server);
    drop(server);
    kit::fsck_clean(&home);
}

/// The blob of the only file of this length.
fn flip(blob: &Blob, at: u64) {
    let byte = blob.read()[usize::try_from(at).unwrap()];
    blob.write_at(&[byte ^ 1], at);
}

/// Whether all of the content came, as a success.
fn whole_success(server: &TestServer, id: i64) -> bool {
    match kit::content_request(server, id).try_send() {
        Ok(reply) => reply.header("content-type") != Some("application/json"),
        Err(_cut) => false,
    }
}

#[test]
fn damaged_content_is_never_a_whole_answer_and_fsck_finds_it() {
    let home = Home::new();
    let server = home.start();
    let upload =
        |number, len| kit::upload_of(&server.address, &server.key, number, len).send().file_id();
    let (whole, first, later) = (upload(1, 3_000), upload(2, 5_000), upload(3, LARGE));
    let (short, gone, long) = (upload(4, 600_001), upload(5, 600_002), upload(6, 600_003));
    flip(&server.blob(5_000), 4_321);
    flip(&server.blob(LARGE), LARGE as u64 - 1);
    let resize = |bytes, to| {
        let file = OpenOptions::new().write(true).open(server.blob(bytes).path).unwrap();
        file.set_len(to).unwrap();
    };
    resize(600_001, 600_000);
    fs::remove_file(server.blob(600_002).path).unwrap();
    // In a pack, the head of the record.
    let headless = upload(7, 9_000);
    let head = server.blob(9_000);
    Blob { start: head.start - 64, bytes: 64, ..head }.write_at(&[0; 64], 0);
    resize(600_003, 600_004);
    // A blob that no row knows; its name is a key of long ago.
    let orphan = home.data.join("blobs/00").join("0".repeat(32));
    fs::copy(server.blob(3_000).path, &orphan).unwrap();

    for id in [first, short, gone, headless, long] {
        let reply = kit::content_request(&server, id).send();
        assert_eq!((reply.status, reply.code()), (200, 1013), "{id}: {}", reply.text());
        assert!(reply.message().contains("damaged"), "{}", reply.message());
    }
    // Its first blocks are right and are sent, the last is not: the connection is cut.
    let cut = kit::content_request(&server, later).try_send();
    assert!(cut.is_err(), "{cut:?}");
    let start = kit::content_request(&server, later).header("Range", "bytes=0-262143").send();
    assert_eq!(start.status, 206);
    assert!(start.body == kit::content(3, LARGE)[..262_144]);
    assert!(whole_success(&server, whole));

    // Beside the server, changing nothing.
    let named = |output: &std::process::Output| {
        let said = text(&output.stdout);
        for id in [first, short, long, later] {
            assert!(said.contains(&format!("damaged: the content of file {id}")), "{said}");
        }
        for id in [gone, headless] {
            assert!(said.contains(&format!("missing: file {id}")), "{said}");
        }
        assert!(!said.contains(&whole.to_string()), "{said}");
        assert!(said.contains(&format!("orphan: no row knows blob {}", "0".repeat(32))), "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
    };
    named(&home.run(&["fsck"]));
    named(&home.run(&["fsck"]));
    let busy = home.run(&["fsck", "--repair"]);
    assert_eq!(busy.status.code(), Some(2), "{}", text(&busy.stderr));
    assert!(text(&busy.stderr).contains("in use"), "{}", text(&busy.stderr));
    drop(server);
    named(&home.run(&["fsck", "--repair"]));
    assert!(!orphan.try_exists().unwrap());

    // Marked: not even the first blocks are served, and the rest is as it was.
    let server = home.start();
    for id in [first, short, gone, headless, long, later] {
        assert!(!whole_success(&server, id));
        let reply = kit::content_request(&server, id).header("Range", "bytes=0-9").send();
        assert_eq!(reply.code(), 1013);
    }
    assert!(whole_success(&server, whole));
    // A copy from a backup makes it whole again.
    flip(&server.blob(5_000), 4_321);
    drop(server);
    let mended = home.run(&["fsck", "--repair"]);
    assert!(text(&mended.stdout).contains(&format!("whole again: file {first}")));
    let server = home.start();
    assert!(whole_success(&server, first));
    for id in [short, gone, headless, long, later] {
        assert_eq!(server.delete(id).code(), 0);
    }
    drop(server);
    kit::fsck_clean(&home);
}

#[test]
fn the_scrub_finds_damage_and_orphans_before_a_client_does() {
    let home = Home::new();
    let scrubbing = kit::setup().config(
        "[jobs]\ninterval = \"200ms\"\nscrub_rate = \"512MiB\"\nscrub_pause = \"300ms\"\nscrub_first_pause = \"100ms\"",
    );
    let server = home.start_with(&scrubbing);
    let whole = kit::upload_of(&server.address, &server.key, 1, SMALL).send().file_id();
    let rotten = kit::upload_of(&server.address, &server.key, 2, LARGE).send().file_id();
    flip(&server.blob(LARGE), 300_000);
    let orphan = home.data.join("blobs/00").join("0".repeat(32));
    fs::copy(server.blob(SMALL).path, &orphan).unwrap();
    eventually("the scrub marks the file and purges the orphan", || {
        let marked = server.metric("filegate_scrub_damaged_total") >= 1.0;
        (marked && !orphan.try_exists().unwrap()).then_some(())
    });
    eventually("its first, right block is not served either", || {
        let start = kit::content_request(&server, rotten).header("Range", "bytes=0-9").send();
        (start.status == 200 && start.code() == 1013).then_some(())
    });
    assert!(server.log().contains("scrub.damaged"), "{}", server.log());
    assert!(whole_success(&server, whole));
}
