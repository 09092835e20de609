//! Starting, stopping, what goes on in between, and who may work on a directory at the same time.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::{Setup, TestServer, clean_environment, eventually};

use crate::kit::{self, Home, LARGE, Ledger, SMALL, text};

/// Background work and time-outs that come soon.
const QUICK: &str = "
[limits]
body_idle = \"1s\"
[jobs]
interval = \"100ms\"
upload_lease = \"1200ms\"
";

fn quick() -> Setup {
    kit::setup().config(QUICK)
}

/// Sends the first `bytes` of an upload of [`LARGE`]; gives the rest.
fn begun(server: &TestServer, number: u64, bytes: usize) -> (Connection, Vec<u8>) {
    let request = kit::upload_of(&server.address, &server.key, number, LARGE).bytes();
    let mut connection = Connection::open(&server.address).unwrap();
    connection.write(&request[..bytes]).unwrap();
    eventually("a piece is on disk", || (!server.stored("tmp").is_empty()).then_some(()));
    (connection, request[bytes..].to_vec())
}

fn nothing_is_left(server: &TestServer) {
    assert!(kit::list(server).is_empty());
    eventually("nothing is on the disk", || {
        (server.stored("tmp").is_empty() && server.stored("blobs").is_empty()).then_some(())
    });
    assert!(!server.log().contains("panic"), "{}", server.log());
}

#[test]
fn a_second_server_is_refused_and_commands_work_beside_the_first() {
    let home = Home::new();
    let server = home.start();
    let id = server.upload("retrieval", "a.txt", b"content").file_id();

    let mut second = Command::new(env!("CARGO_BIN_EXE_filegate"));
    second.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    second.arg("--data-dir").arg(&home.data);
    clean_environment(&mut second);
    let second = second.output().unwrap();
    assert_eq!(second.status.code(), Some(2), "{}", text(&second.stderr));
    let said = text(&second.stderr);
    assert!(said.contains("is in use by another filegate process"), "{said}");

    let ok = |output: Output| {
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let key = ok(home.run(&["key", "create", "--name", "other"])).trim().to_owned();
    let list = || Request::new(&server.address, "GET", "/v1/files/list").bearer(&key).send();
    assert_eq!(list().code(), 0);
    let keys = ok(home.run(&["key", "list"]));
    let line = keys.lines().find(|line| line.contains("other")).unwrap();
    ok(home.run(&["key", "revoke", line.split_whitespace().next().unwrap()]));
    assert_eq!(list().code(), 2049);
    assert!(ok(home.run(&["fsck"])).contains("clean"));
    assert_eq!(kit::content_request(&server, id).send().body, b"content");
}

#[test]
fn sigterm_waits_for_an_upload_and_takes_no_new_connections() {
    let home = Home::new();
    let mut server = home.start();
    let idle = TcpStream::connect(&server.address).unwrap();
    let (mut connection, rest) = begun(&server, 1, LARGE / 2);
    server.signal("TERM");
    eventually("new connections are refused", || {
        TcpStream::connect(&server.address).is_err().then_some(())
    });
    for piece in rest.chunks(rest.len() / 8) {
        connection.write(piece).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    let id = connection.reply().unwrap().file_id();
    assert!(server.wait().success());
    drop(idle);
    let server = home.start();
    assert!(kit::content_request(&server, id).send().body == kit::content(1, LARGE));
    assert_eq!(kit::list(&server).len(), 1);
}

/// Step 1 of a stop: what a balancer sends before it has heard is still answered, and each answer ends its connection.
#[test]
fn a_draining_server_answers_and_sends_everybody_away() {
    let home = Home::new();
    let mut server = home.start_with(&kit::setup().config("[limits]\ndrain = \"3s\""));
    let ready = || Request::new(&server.address, "GET", "/readyz").send().status;
    assert_eq!(ready(), 200);
    let started = Instant::now();
    server.signal("TERM");
    eventually("it is not ready", || (ready() == 503).then_some(()));
    let reply = Request::new(&server.address, "GET", "/v1/files/list").bearer(&server.key).send();
    assert_eq!((reply.code(), reply.header("connection")), (0, Some("close")));
    assert_eq!(Request::new(&server.address, "GET", "/healthz").send().status, 200);
    assert!(started.elapsed() < Duration::from_secs(3), "the machine is too slow for this test");
    assert!(server.wait().success());
    assert!(started.elapsed() > Duration::from_secs(3));
}

#[test]
fn the_deadline_of_a_shutdown_cuts_what_is_not_acknowledged() {
    let home = Home::new();
    let setup = kit::setup().config("[limits]\nshutdown = \"1s\"");
    let mut server = home.start_with(&setup);
    let (mut connection, _rest) = begun(&server, 1, LARGE / 2 + 1);
    let started = Instant::now();
    server.signal("TERM");
    let status = server.wait();
    let took = started.elapsed();
    assert!(status.success(), "{status}");
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    assert!(connection.reply().is_err());
    eventually("the log is read", || server.log().contains("serve.deadline").then_some(()));
    assert!(!server.log().contains("panic"), "{}", server.log());
    drop(server);
    let server = home.start();
    nothing_is_left(&server);
    drop(server);
    kit::fsck_clean(&home);
}

#[test]
fn a_second_signal_ends_at_once() {
    let home = Home::new();
    let mut server = home.start();
    let (_connection, _rest) = begun(&server, 1, LARGE / 2 + 1);
    server.signal("TERM");
    eventually("it is stopping", || server.log().contains("stopping").then_some(()));
    let started = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(3));
    let server = home.start();
    nothing_is_left(&server);
}

#[test]
fn a_client_that_stalls_or_goes_leaves_nothing() {
    let home = Home::new();
    let server = home.start_with(&quick());
    let (mut stalled, _rest) = begun(&server, 1, LARGE / 2 + 1);
    let reply = stalled.reply().unwrap();
    assert_eq!(reply.code(), 1001, "{}", reply.text());
    nothing_is_left(&server);
    let (gone, _rest) = begun(&server, 2, LARGE / 2 + 1);
    drop(gone);
    nothing_is_left(&server);
    let (mut half_closed, _rest) = begun(&server, 3, LARGE / 2 + 1);
    half_closed.half_close();
    assert_ne!(half_closed.reply().map_or(-1, |reply| reply.code()), 0);
    nothing_is_left(&server);
    drop(server);
    kit::fsck_clean(&home);
}

/// Each piece renews the lease, so only a process that stood still finds it lapsed: then the reaper
/// and the upload race, and either may win.
#[test]
fn an_upload_over_a_standstill_is_whole_or_leaves_nothing() {
    let home = Home::new();
    let server = home.start_with(&quick());
    let mut outcomes = vec![];
    for number in 0..4 {
        let (mut connection, rest) = begun(&server, number, LARGE / 2 + 1);
        server.signal("STOP");
        connection.write(&rest).unwrap();
        thread::sleep(Duration::from_millis(1_400));
        server.signal("CONT");
        let reply = connection.reply().unwrap();
        if reply.code() == 0 {
            let content = kit::content_request(&server, reply.file_id()).send();
            assert!(content.body == kit::content(number, LARGE));
            assert_eq!(server.delete(reply.file_id()).code(), 0);
        } else {
            assert!([1000, 1001].contains(&reply.code()), "{}", reply.text());
        }
        outcomes.push(reply.code());
        nothing_is_left(&server);
    }
    eprintln!("answers after a standstill: {outcomes:?}");
    drop(server);
    kit::fsck_clean(&home);
}

#[test]
fn files_expire_with_and_without_a_server() {
    let home = Home::new();
    let expiring =
        kit::setup().config("[jobs]\ninterval = \"100ms\"\n[purposes.retrieval]\nkeep = \"1s\"\n");
    let mut server = home.start_with(&expiring);
    let id = server.upload("retrieval", "a.txt", b"first").file_id();
    let kept = server.upload("fine-tune", "b.txt", b"kept").file_id();
    let gone = |server: &TestServer, id: i64| {
        eventually("the file expires", || (!kit::list(server).contains_key(&id)).then_some(()));
        assert_eq!(kit::content_request(server, id).send().code(), 2013);
        eventually("its bytes go", || (server.stored("blobs").len() == 1).then_some(()));
    };
    gone(&server, id);
    let id = server.upload("retrieval", "c.txt", b"second").file_id();
    server.kill();
    // Its time comes while nobody serves the directory; by then the setting is another.
    thread::sleep(Duration::from_millis(1100));
    let server = home.start();
    assert!(!kit::list(&server).contains_key(&id));
    gone(&server, id);
    assert_eq!(kit::content_request(&server, kept).send().body, b"kept");
    drop(server);
    kit::fsck_clean(&home);
}

#[test]
fn the_admin_token_is_shown_once_and_goes_on_working() {
    const SAYS: &str = "admin token, shown only this once: ";
    let home = Home::new();
    let server = home.start();
    let token = eventually("the token is shown", || {
        let log = server.log();
        log.lines().find_map(|line| line.strip_prefix(SAYS).map(str::to_owned))
    });
    let admits = |server: &TestServer, token: &str| {
        let request = Request::new(&server.admin_address, "GET", "/admin/v1/status").bearer(token);
        request.send().status
    };
    assert_eq!(admits(&server, &token), 200);
    drop(server);
    for file in walk(&home.data) {
        let bytes = filegate_testkit::server::read(&file);
        assert!(!bytes.windows(token.len()).any(|w| w == token.as_bytes()), "{}", file.display());
    }
    let server = home.start();
    assert_eq!(admits(&server, &token), 200);
    assert_ne!(admits(&server, &format!("{token}x")), 200);
    assert!(!server.log().contains(SAYS));
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn the_doctor_says_what_is_wrong() {
    // The temporary directory may be a tmpfs, of which the doctor warns.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let doctor = |data: &Path, environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
        command.arg("doctor").arg("--data-dir").arg(data);
        clean_environment(&mut command);
        command.env("FILEGATE_LISTEN", "127.0.0.1:0");
        command.env("FILEGATE_ADMIN_LISTEN", "127.0.0.1:0");
        let output = command.envs(environment.iter().copied()).output().unwrap();
        (output.status.code(), text(&output.stdout))
    };
    let home = Home::at(dir.path().join("data"), dir);
    let (code, said) = doctor(&home.data, &[]);
    assert!(code == Some(0) && !said.contains("FAIL"), "{said}");
    let server = home.start();
    let (code, said) = doctor(&home.data, &[]);
    assert_eq!(code, Some(0), "{said}");
    drop(server);

    // Nobody can write here, root included.
    let (code, said) = doctor(Path::new("/proc"), &[]);
    assert!(code == Some(1) && said.contains("cannot write to the data directory"), "{said}");
    let (code, said) = doctor(&home.data, &[("FILEGATE_LIMITS__BODY_IDEL", "1s")]);
    assert!(code == Some(1) && said.contains("body_idel"), "{said}");
    let (code, said) = doctor(&home.data, &[("FILEGATE_LIMITS__UPLOADS_MAX", "0")]);
    assert!(code == Some(1) && said.contains("limits.uploads_max"), "{said}");
}

#[test]
fn ten_thousand_files_are_served_soon_after_a_crash() {
    const FILES: usize = 10_000;
    const CLIENTS: usize = 16;
    let home = Home::new();
    let quiet = kit::setup().config("[log]\nfilter = \"warn\"");
    let mut server = home.start_with(&quiet);
    let started = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || {
                let mut connection = Connection::open(&server.address).unwrap();
                for file in (client..FILES).step_by(CLIENTS) {
                    let name = format!("{file}.txt");
                    let request = server.request("POST", "/minimax/v1/files/upload");
                    let form = request.form("t2a_async_input", &name, name.as_bytes());
                    connection.write(&form.bytes()).unwrap();
                    connection.reply().unwrap().file_id();
                }
            });
        }
    });
    let filled = started.elapsed();
    // In the middle of something.
    let ledger = Ledger::default();
    thread::scope(|scope| {
        scope.spawn(|| ledger.upload_on(&server.address, &server.key, &[LARGE, SMALL]));
        thread::sleep(Duration::from_millis(200));
        server.signal("KILL");
    });
    server.kill();
    let started = Instant::now();
    let server = home.start_with(&quiet);
    let listed = server.get("/minimax/v1/files/list?limit=10000&purpose=t2a_async_input");
    let took = started.elapsed();
    eprintln!("{FILES} files made in {filled:?}; first list {took:?} after the start");
    assert_eq!(listed.json()["files"].as_array().unwrap().len(), FILES);
    assert!(took < Duration::from_secs(15), "{took:?}");
    drop(server);
    let check = home.run(&["fsck"]);
    assert!(check.status.success(), "{}", text(&check.stdout));
}

/// What reads standard error may go away; the server stays.
#[test]
fn a_server_outlives_the_reader_of_its_log() {
    let home = Home::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(&home.data).stderr(Stdio::piped());
    clean_environment(&mut command);
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    std::io::BufRead::read_line(&mut lines, &mut first).unwrap();
    let address = first.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    drop(lines);
    for number in 0..20 {
        let reply = kit::upload_of(&address, &home.key, number, SMALL).try_send();
        let code = reply.map_or(-1, |reply| reply.code());
        assert!(
            code == 0 || {
                let _end = child.kill();
                false
            },
            "upload {number}: {code}"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
