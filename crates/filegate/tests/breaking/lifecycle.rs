//! Starting, stopping, and what goes on by itself.

use std::process::Command;
use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::{TestServer, eventually};

use crate::support::{QUICK, at_once, content, list, nothing_leaks, pause, setup, text};

/// An upload cut in two: what to send now, and what later.
fn halves(server: &TestServer, content: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let request = server.request("POST", "/v1/files/upload").form("retrieval", "a.txt", content);
    let mut first = request.bytes();
    let second = first.split_off(first.len() / 2);
    (first, second)
}

fn run(server: &TestServer, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
    let output = command.args(arguments).arg("--data-dir").arg(&server.data_dir).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn one_server_a_directory_and_commands_beside_it() {
    let mut server = setup().start();
    let log = setup().try_start_on(&server.data_dir).unwrap_err();
    assert!(log.contains("is in use by another filegate process"), "{log}");
    let (status, _) =
        run(&server, &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    assert_eq!(status, Some(2));

    let beside = server.make_key("beside", "other");
    assert!(beside.starts_with("fg-") && beside.len() == 46, "the key alone is on stdout");
    let list = Request::new(&server.address, "GET", "/v1/files/list").bearer(&beside);
    assert_eq!(list.send().code(), 0);
    let keys = server.command(&["key", "list", "-q"]);
    let id = keys.lines().last().unwrap();
    server.command(&["key", "revoke", id]);
    assert_eq!(list.send().code(), 2049);
    server.command(&["fsck"]);

    assert!(server.log().contains("admin token"));
    assert_eq!(server.terminate().code(), Some(0));
    let again = setup().start_on(&server.data_dir);
    assert!(!again.log().contains("admin token"), "it is shown once");
}

#[test]
fn sigterm_lets_uploads_end() {
    for len in [30_000, 900_000] {
        let mut server = setup().start();
        let (first, second) = halves(&server, &text(1, len));
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&first).unwrap();
        pause(200);
        server.signal("TERM");
        eventually("no new connections are served", || {
            let ready = Request::new(&server.address, "GET", "/readyz").try_send();
            ready.is_err().then_some(())
        });
        connection.write(&second).unwrap();
        let id = connection.reply().unwrap().file_id();
        assert_eq!(server.wait().code(), Some(0));
        let mut again = setup().start_on(&server.data_dir);
        again.key.clone_from(&server.key);
        assert_eq!(content(&again, id), text(1, len));
    }
}

#[test]
fn a_deadline_bounds_the_drain() {
    let config = "[limits]\nshutdown = '1s'";
    let mut server = setup().config(config).start();
    let (first, _) = halves(&server, &text(1, 900_000));
    let mut connection = Connection::open(&server.address).unwrap();
    connection.write(&first).unwrap();
    pause(200);
    let asked = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(connection.reply().is_err(), "what was cut is not acknowledged");
    let mut again = setup().config(QUICK).start_on(&server.data_dir);
    again.key.clone_from(&server.key);
    assert!(list(&again).is_empty());
    nothing_leaks(&again);
}

#[test]
fn vanished_and_stalled_clients_leave_nothing() {
    let server = setup().config(QUICK).start();
    for len in [30_000, 900_000] {
        let (first, _) = halves(&server, &text(1, len));
        let mut gone = Connection::open(&server.address).unwrap();
        gone.write(&first).unwrap();
        drop(gone);
        let mut half_closed = Connection::open(&server.address).unwrap();
        half_closed.write(&first).unwrap();
        half_closed.half_close();
        assert_eq!(half_closed.reply().unwrap().code(), 2013);
        let mut stalled = Connection::open(&server.address).unwrap();
        stalled.write(&first).unwrap();
        let reply = stalled.reply().unwrap();
        assert_eq!(reply.code(), 1001);
        assert!(reply.message().starts_with("request timeout"), "{}", reply.text());
    }
    assert!(list(&server).is_empty());
    nothing_leaks(&server);
}

#[test]
fn files_expire_also_while_the_server_is_down() {
    let config = format!("{QUICK}\n[purposes.retrieval]\nkeep = '2s'\n");
    let mut server = setup().config(&config).start();
    let reply = server.upload("retrieval", "a.txt", &text(1, 5_000));
    let file = &reply.json()["file"];
    let (created, expires) = (file["created_at"].as_i64(), file["expires_at"].as_i64());
    assert_eq!(expires, created.map(|c| c + 2));
    let id = reply.file_id();
    assert_eq!(server.get(&format!("/v1/files/retrieve?file_id={id}")).code(), 0);
    server.kill();
    pause(2_200);
    let mut again = setup().config(&config).start_on(&server.data_dir);
    again.key.clone_from(&server.key);
    assert_eq!(again.get(&format!("/v1/files/retrieve?file_id={id}")).code(), 2013);
    eventually("its bytes are purged", || again.stored("blobs").is_empty().then_some(()));
}

#[test]
fn doctor_says_what_is_wrong() {
    let mut server = setup().start();
    let doctor = |settings: &[(&str, &str)], data_dir: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
        command
            .envs([("FILEGATE_LISTEN", "127.0.0.1:0"), ("FILEGATE_ADMIN_LISTEN", "127.0.0.1:0")]);
        command.envs(settings.iter().copied()).arg("doctor").arg("--data-dir").arg(data_dir);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, report) = doctor(&[], &server.data_dir);
    assert_eq!(status, Some(0), "{report}");
    assert!(report.contains("one is running here"), "{report}");
    let (status, report) = doctor(&[("FILEGATE_LIMITS__UPLOADS_MAX", "0")], &server.data_dir);
    assert_eq!(status, Some(1));
    assert!(report.contains("limits.uploads_max"), "{report}");
    server.terminate();
    for name in ["catalog.db", "catalog.db-wal"] {
        let path = server.data_dir.join(name);
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &[0xAA; 20_000], 0).unwrap();
    }
    let (status, report) = doctor(&[], &server.data_dir);
    assert_eq!(status, Some(1), "{report}");
    assert!(report.contains("FAIL  catalog"), "{report}");
}

#[test]
fn a_crash_is_recovered_from_at_once() {
    const FILES: usize = 4_000;
    let mut server = setup().start();
    at_once(8, |writer| {
        let mut connection = Connection::open(&server.address).unwrap();
        for n in 0..FILES / 8 {
            let content = text((writer * FILES + n) as u64 + 1, 200);
            let request = server.request("POST", "/v1/files/upload");
            connection.write(&request.form("retrieval", "a.txt", &content).bytes()).unwrap();
            connection.reply().unwrap().file_id();
        }
    });
    server.kill();
    let started = Instant::now();
    let mut again = setup().start_on(&server.data_dir);
    again.key.clone_from(&server.key);
    assert_eq!(list(&again).len(), FILES);
    println!("first list of {FILES} files {:?} after the restart", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(15));
}
