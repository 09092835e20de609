//! Memory, and clients that tie things up.

use std::io::Write as _;
use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::server::{TestServer, eventually};

use crate::support::{QUICK, at_once, list, nothing_leaks, setup, text};

/// Peak resident memory in MiB.
fn peak_mib(server: &TestServer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn large_uploads_at_once_in_bounded_memory() {
    const CLIENTS: usize = 64;
    const MIB: usize = 64;
    let server = setup().start();
    let idle = peak_mib(&server);
    let piece = text(7, 1 << 20);
    let form = filegate_testkit::http::form(&[
        filegate_testkit::http::Field::Text("purpose", "retrieval"),
        filegate_testkit::http::Field::File("file", "a.txt", b"@"),
    ]);
    let at = form.1.iter().position(|b| *b == b'@').unwrap();
    let (head, tail) = (&form.1[..at], &form.1[at + 1..]);
    at_once(CLIENTS, |_| {
        let length = head.len() + tail.len() + MIB * piece.len();
        let request = server.request("POST", "/v1/files/upload");
        let request = request.header("Content-Type", &form.0);
        let request = request.header("Content-Length", &length.to_string());
        let mut connection = Connection::open(&server.address).unwrap();
        let send = |bytes: &[u8]| connection.stream().write_all(bytes).unwrap();
        send(&request.bytes());
        send(head);
        for _ in 0..MIB {
            send(&piece);
        }
        send(tail);
        connection.reply().unwrap().file_id();
    });
    let peak = peak_mib(&server);
    println!("{CLIENTS} uploads of {MIB} MiB at once: peak {peak} MiB, idle {idle} MiB");
    assert!(peak < 96, "peak RSS is {peak} MiB");
}

#[test]
fn stalled_clients_tie_up_nothing() {
    let server = setup().config(QUICK).start();
    let upload =
        server.request("POST", "/v1/files/upload").form("retrieval", "a.txt", &text(1, 400_000));
    let bytes = upload.bytes();
    let open = |sent: &[u8]| {
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(sent).unwrap();
        connection
    };
    let mut held: Vec<Connection> = Vec::new();
    for n in 0..100 {
        held.push(open(b""));
        held.push(open(b"POST /v1/files/upload HTTP/1.1\r\nHost: x\r\n"));
        held.push(open(&bytes[..1_000 + n * 3_900]));
    }
    let started = Instant::now();
    server.upload("retrieval", "b.txt", &text(2, 400_000)).file_id();
    assert_eq!(list(&server).len(), 1);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    eventually("all of them are let go", || {
        (server.metric("filegate_connections ") <= 2.0).then_some(())
    });
    nothing_leaks(&server);
}

#[test]
fn a_trickle_is_cut_although_it_never_stalls() {
    let config = format!("{QUICK}\n");
    let server = setup()
        .config(&config.replace(
            "body_idle = '1s'",
            "body_idle = '1s'\nbody_rate_min = '1MiB'\nbody_grace = '1s'",
        ))
        .start();
    let upload =
        server.request("POST", "/v1/files/upload").form("retrieval", "a.txt", &text(1, 400_000));
    let bytes = upload.bytes();
    let mut connection = Connection::open(&server.address).unwrap();
    let started = Instant::now();
    let head = bytes.len() - 300_000;
    connection.write(&bytes[..head]).unwrap();
    for byte in &bytes[head..] {
        if connection.write(std::slice::from_ref(byte)).is_err()
            || started.elapsed() > Duration::from_secs(4)
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let reply = connection.reply().unwrap();
    assert_eq!(reply.code(), 1001, "{}", reply.text());
    assert!(reply.message().contains("slower than"), "{}", reply.text());
}

#[test]
fn connections_over_the_cap_wait_for_a_place() {
    let server = setup().config("[limits]\nconnections_max = 20").start();
    let held: Vec<_> = (0..20).map(|_| Connection::open(&server.address).unwrap()).collect();
    let mut waiting = Connection::open(&server.address).unwrap();
    waiting.write(&Request::new(&server.address, "GET", "/healthz").bytes()).unwrap();
    waiting.stream().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(waiting.reply().is_err(), "there was no place");
    drop(held);
    waiting.stream().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(waiting.reply().unwrap().status, 200);
}

#[test]
fn idle_connections_do_not_hurt() {
    let server = setup().start();
    let idle: Vec<_> = (0..1_000).map(|_| Connection::open(&server.address).unwrap()).collect();
    let started = Instant::now();
    server.upload("retrieval", "b.txt", &text(2, 400_000)).file_id();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    println!("{} idle connections: peak {} MiB", idle.len(), peak_mib(&server));
}
