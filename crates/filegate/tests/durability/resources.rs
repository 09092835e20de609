//! Bounded memory, and clients that would tie a server up.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Field, Request, form};
use filegate_testkit::server::{TestServer, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::kit::{self, SMALL};

/// Peak resident memory in MiB.
fn peak_mib(server: &TestServer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Another client's upload and list, while something goes on.
fn others_are_served(server: &TestServer, what: &str) {
    let started = Instant::now();
    let reply = kit::upload_of(&server.address, &server.key, 7, SMALL).send();
    assert_eq!(reply.code(), 0, "{what}: {}", reply.text());
    assert_eq!(server.get("/minimax/v1/files/list").code(), 0);
    let took = started.elapsed();
    eprintln!("{what}: another client was served in {took:?}");
    assert!(took < Duration::from_secs(3), "{what}: {took:?}");
}

/// A connection of the request that asks, at most.
fn no_connections(server: &TestServer) -> Option<()> {
    (server.metric("filegate_connections") <= 1.0).then_some(())
}

fn allow_open_files(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(hard >= count, "this test opens {count} files: raise ulimit -Hn, which is {hard}");
    if limit.current.is_some_and(|soft| soft < count) {
        let raised = Rlimit { current: Some(count), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).unwrap();
    }
}

#[test]
fn memory_is_bounded_by_the_uploads_not_by_their_size() {
    const CLIENTS: usize = 64;
    const BYTES: usize = 64 << 20;
    // The uploads hold a fifth of it at a time. The rest is the program, and what the allocator keeps of what was freed.
    const MIB_MAX: u64 = 128;
    let server = kit::setup().config("[log]\nfilter = \"warn\"").start();
    // A box that readers pass over makes a small film large.
    let film = filegate_testkit::samples::sample_bytes("mp4");
    let pad = BYTES - film.len();
    let mut padding = (pad as u32).to_be_bytes().to_vec();
    padding.extend_from_slice(b"free");
    padding.resize(pad, 0x5A);
    let content = [film, padding].concat();
    let (content_type, body) = form(&[
        Field::Text("purpose", "video_understanding"),
        Field::File("file", "a.mp4", &content),
    ]);
    let request = server.request("POST", "/minimax/v1/files/upload");
    let head = request
        .header("Content-Type", &content_type)
        .header("Content-Length", &body.len().to_string());
    let head = head.bytes();
    let idle = peak_mib(&server);
    let started = Instant::now();
    let ids: Vec<i64> = thread::scope(|scope| {
        let upload = || {
            let mut connection = Connection::open(&server.address).unwrap();
            connection.write(&head).unwrap();
            connection.write(&body).unwrap();
            connection.reply().unwrap().file_id()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(upload)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let received = started.elapsed();
    let peak = peak_mib(&server);
    eprintln!(
        "{CLIENTS} uploads of {} MiB in {received:?}: peak {peak} MiB, idle {idle} MiB",
        BYTES >> 20
    );
    assert!(peak < MIB_MAX, "{peak} MiB");
    // And on the way out.
    thread::scope(|scope| {
        for id in &ids[..8] {
            scope.spawn(|| {
                let reply = kit::content_request(&server, *id).send();
                assert!(reply.body == content);
            });
        }
    });
    let peak = peak_mib(&server);
    assert!(peak < MIB_MAX, "{peak} MiB after downloads");
}

const SHORT: &str = "
[limits]
head_timeout = \"2s\"
body_idle = \"2s\"
body_rate_min = \"10KiB\"
body_grace = \"1s\"
write_idle = \"2s\"
drain_time = \"1s\"
[jobs]
interval = \"200ms\"
upload_lease = \"5s\"
[log]
filter = \"warn\"
";

#[test]
fn slow_clients_tie_up_nothing() {
    const EACH: u64 = 75;
    allow_open_files(2_000);
    let server = kit::setup().config(SHORT).start();
    let large = kit::upload_of(&server.address, &server.key, 1, 12 << 20).send().file_id();
    let request = |number| kit::upload_of(&server.address, &server.key, number, 400_000).bytes();
    let begun = |number: u64| {
        let mut connection = Connection::open(&server.address).unwrap();
        // Enough for a first piece on disk, for some.
        let part = if number.is_multiple_of(2) { 300_000 } else { 1_000 };
        connection.write(&request(number)[..part]).unwrap();
        connection
    };
    let stalled: Vec<_> = (0..EACH).map(begun).collect();
    let half_closed: Vec<_> = (0..EACH).map(begun).collect();
    half_closed.iter().for_each(Connection::half_close);
    drop((0..EACH).map(begun).collect::<Vec<_>>());
    let mut slow: Vec<_> = (0..EACH).map(begun).collect();
    // These ask for much and take nothing.
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = Connection::open(&server.address).unwrap();
            connection.write(&kit::content_request(&server, large).bytes()).unwrap();
            connection
        })
        .collect();
    let started = Instant::now();
    let mut others = 0;
    while started.elapsed() < Duration::from_secs(4) {
        for connection in &mut slow {
            let _may_be_cut = connection.write(b"1234567890");
        }
        if started.elapsed() > Duration::from_secs(others) {
            others += 1;
            others_are_served(&server, "300 slow clients");
        }
        thread::sleep(Duration::from_millis(10));
    }
    eventually("all their connections are gone", || no_connections(&server));
    assert!(server.metric("filegate_uploads_in_flight") < 0.5);
    eventually("and all their bytes", || {
        let files = kit::list(&server).len();
        (server.stored("tmp").is_empty() && server.stored("blobs").len() == files).then_some(())
    });
    assert_eq!(kit::list(&server).len() as u64, 1 + others);
    drop((stalled, slow, deaf, half_closed));
}

#[test]
fn a_head_that_trickles_is_cut_off() {
    let server = kit::setup().config(SHORT).start();
    let mut streams: Vec<TcpStream> =
        (0..50).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    let started = Instant::now();
    for stream in &mut streams {
        stream.write_all(b"GET /v1/files/list HTTP/1.1\r\n").unwrap();
    }
    // Bytes that come do not prolong it.
    while started.elapsed() < Duration::from_millis(2_500) {
        for stream in &mut streams {
            let _may_be_cut = stream.write_all(b"x: y\r\n");
        }
        thread::sleep(Duration::from_millis(50));
    }
    others_are_served(&server, "50 endless heads");
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    eventually("all their connections are gone", || no_connections(&server));
}

#[test]
fn a_body_that_trickles_is_cut_off() {
    let config = SHORT.replace("10KiB", "1MiB");
    let server = kit::setup().config(&config).start();
    let bytes = kit::upload_of(&server.address, &server.key, 1, 400_000).bytes();
    let mut connection = Connection::open(&server.address).unwrap();
    let started = Instant::now();
    let (head, rest) = bytes.split_at(bytes.len() - 300_000);
    connection.write(head).unwrap();
    // It never stalls, and would still last for days.
    for byte in rest {
        if connection.write(std::slice::from_ref(byte)).is_err()
            || started.elapsed() > Duration::from_secs(4)
        {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let reply = connection.reply().unwrap();
    assert_eq!(reply.code(), 1001, "{}", reply.text());
    assert!(reply.message().contains("slower than"), "{}", reply.text());
}

#[test]
fn a_connection_over_the_cap_waits_for_a_place() {
    let server = kit::setup().config("[limits]\nconnections_max = 20").start();
    let mut held: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    for stream in &mut held {
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    }
    eventually("all places are taken", || {
        (server.metric("filegate_connections") >= 20.0).then_some(())
    });
    let mut waiting = TcpStream::connect(&server.address).unwrap();
    let request = Request::new(&server.address, "GET", "/healthz").header("Connection", "close");
    waiting.write_all(&request.bytes()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let early = waiting.read(&mut [0; 1]).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    held.pop();
    waiting.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_thousand_idle_connections_hurt_nobody() {
    allow_open_files(3_000);
    let server = kit::setup().start();
    let before = peak_mib(&server);
    let mut idle: Vec<Connection> =
        (0..1_000).map(|_| Connection::open(&server.address).unwrap()).collect();
    // Half of them have been of use.
    for connection in idle.iter_mut().step_by(2) {
        connection.write(&Request::new(&server.address, "GET", "/healthz").bytes()).unwrap();
        assert_eq!(connection.reply().unwrap().status, 200);
    }
    eventually("all are accepted", || {
        (server.metric("filegate_connections") >= 1_000.0).then_some(())
    });
    others_are_served(&server, "1,000 idle connections");
    let peak = peak_mib(&server);
    eprintln!("1,000 idle connections: peak {peak} MiB, {before} MiB without");
    assert!(peak < 128, "{peak} MiB");
}
