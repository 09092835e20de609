//! Calls to a real socket: more than one step, answers that come early, servers that refuse.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use bytes::Bytes;
use filegate_load::{CallError, Next, Plan, Reply, Request, Work, run};

/// A server that gives each connection to `serve`.
fn server(serve: fn(TcpStream) -> std::io::Result<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

/// Answers each request, whose body has as many bytes as its Content-Length says, with what it was asked for.
fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut got = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        got.extend_from_slice(&piece[..read]);
        let Some(end) = got.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&got[..end]).into_owned();
        let length = head.split("Length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let length: usize = length.parse().unwrap();
        if got.len() < end + 4 + length {
            continue;
        }
        let path = head.split(' ').nth(1).unwrap();
        let body = String::from_utf8_lossy(&got[end + 4..]).into_owned();
        let answer = format!("{path} {body}");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())?;
        got.clear();
    }
}

/// Two requests each, which share their body.
struct Steps(Bytes);

impl Steps {
    fn step(&self, nth: u64, step: u32) -> Request {
        let head = format!("PUT /{nth}/{step} HTTP/1.1\r\nLength: {}\r\n\r\n", self.0.len());
        Request { head: head.into(), body: self.0.clone(), tail: Bytes::new() }
    }
}

impl Work for Steps {
    type Yield = u64;

    fn request(&self, nth: u64) -> Request {
        self.step(nth, 0)
    }

    fn judge(&self, nth: u64, step: u32, reply: &Reply<'_>) -> Result<Next<u64>, CallError> {
        reply.expect_status(200)?;
        let right = format!("/{nth}/{step} body");
        if reply.body != right.as_bytes() {
            return Err(CallError::Broken(String::from_utf8_lossy(reply.body).into_owned()));
        }
        Ok(if step == 1 { Next::Done(nth) } else { Next::Send(self.step(nth, 1)) })
    }
}

#[test]
fn calls_have_steps_and_numbers_of_their_own() {
    let address = server(echo);
    let plan = Plan { first: 100, ..Plan::calls(address, 3, 50) };
    let mut outcome = run(&plan, &Steps("body".into())).unwrap();
    assert_eq!((outcome.done, outcome.failed, outcome.first_error), (50, 0, None));
    outcome.yields.sort_unstable();
    assert_eq!(outcome.yields, (100..150).collect::<Vec<u64>>());
}

#[test]
fn a_rate_makes_as_many_calls_as_are_due() {
    let address = server(echo);
    let plan = Plan { rate: Some(1000.0), ..Plan::calls(address, 2, 30) };
    let outcome = run(&plan, &Steps("body".into())).unwrap();
    assert_eq!((outcome.done, outcome.failed, outcome.unsent), (30, 0, 0));
}

/// Refuses after the head, and reads no more, but keeps the connection open.
fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    let mut piece = [0; 100];
    stream.read_exact(&mut piece)?;
    stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")?;
    thread::park();
    Ok(())
}

#[test]
fn a_refusal_ends_a_request_that_nobody_reads() {
    let address = server(refuse);
    let large = Steps(vec![b'x'; 50_000_000].into());
    let outcome = run(&Plan::calls(address, 1, 1), &large).unwrap();
    let Some(CallError::Refused { code, message }) = outcome.first_error else {
        panic!("{:?}", outcome.first_error)
    };
    assert!(code == 413 && message.ends_with("no!"), "{message}");
}
