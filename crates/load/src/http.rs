//! HTTP/1.1 on a plain socket, with as little work as possible: a request is up to three buffers written at once as they
//! are, a reply is its head and as much of its body as is asked for.

use std::fmt;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest head of a reply.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Headers of a reply, at most.
const HEADERS_MAX: usize = 64;

/// Longest reply in chunks.
const CHUNKED_BYTES_MAX: usize = 4 << 20;

/// How much is read at a time.
const READ_BYTES: usize = 256 * 1024;

/// What is sent: three buffers, one after the other. A call that differs from others in its head shares the rest with them.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The head with the empty line, and what of the body belongs to this call alone.
    pub head: Bytes,
    /// What follows.
    pub body: Bytes,
    /// And what ends it.
    pub tail: Bytes,
}

impl Request {
    /// A request in one buffer.
    pub fn whole(request: impl Into<Bytes>) -> Self {
        Self { head: request.into(), ..Self::default() }
    }

    /// Bytes on the wire.
    pub fn wire_bytes(&self) -> u64 {
        (self.head.len() + self.body.len() + self.tail.len()) as u64
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The server refused.
    Refused {
        /// Its code for it, such as that of `base_resp` or the HTTP status.
        code: i64,
        /// What it said.
        message: String,
    },
    /// No answer, or none that makes sense.
    Broken(String),
}

impl CallError {
    fn io(doing: &str, error: &io::Error) -> Self {
        Self::Broken(format!("{doing} failed: {error}"))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => write!(f, "{message} ({code})"),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for CallError {}

/// An answer, as long as nothing else is read from its connection.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The connection can be used again.
    pub keep_alive: bool,
    /// `application/json`.
    pub json: bool,
    /// Length of the body.
    pub body_bytes: u64,
    /// The body; empty if it is longer than is kept.
    pub body: &'a [u8],
    head: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The value of a header, where it is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut lines);
        // It was parsed before.
        parsed.parse(self.head).ok()?;
        let line = parsed.headers.iter().find(|line| line.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(line.value).ok()
    }

    /// That the status is this one; else what the server said.
    pub fn expect_status(&self, status: u16) -> Result<(), CallError> {
        if self.status == status {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        let message =
            format!("the server answered HTTP {} where {status} is right: {said}", self.status);
        Err(CallError::Refused { code: i64::from(self.status), message })
    }
}

/// The head of a reply, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where the body begins.
    end: usize,
    length: Length,
    keep_alive: bool,
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunked,
}

/// A connection that is kept between calls.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The last reply: its head and what is kept of its body.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `host:port`, with TCP_NODELAY.
    pub async fn open(address: &str) -> Result<Self, CallError> {
        let connect = TcpStream::connect(address);
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(stream) => stream.map_err(|error| CallError::io("connecting", &error))?,
            Err(_elapsed) => return Err(CallError::Broken("connecting took over 10 s".to_owned())),
        };
        stream.set_nodelay(true).map_err(|error| CallError::io("connecting", &error))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends `request` and reads the reply to its end, of which up to `keep` bytes of body are kept; within `timeout`.
    pub async fn call(
        &mut self,
        request: &Request,
        keep: usize,
        timeout: Duration,
    ) -> Result<Reply<'_>, CallError> {
        let exchange = tokio::time::timeout(timeout, self.exchange(request, keep)).await;
        match exchange {
            Ok(Ok((head, body_bytes))) => Ok(self.reply(head, body_bytes, keep)),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => {
                Err(CallError::Broken(format!("a call took over {} s", timeout.as_secs())))
            }
        }
    }

    fn reply(&self, head: Head, body_bytes: u64, keep: usize) -> Reply<'_> {
        let (start, body) = self.buffer.split_at(head.end);
        let kept = body_bytes <= keep as u64;
        Reply {
            status: head.status,
            keep_alive: head.keep_alive,
            json: head.json,
            body_bytes,
            body: if kept { body } else { &[] },
            head: start,
        }
    }

    async fn exchange(&mut self, request: &Request, keep: usize) -> Result<(Head, u64), CallError> {
        self.buffer.clear();
        let sent = self.send(request).await;
        // A refusal may be there although the request was not written to its end.
        let reply = self.read(keep).await;
        match (sent, reply) {
            (Ok(true), reply) => reply,
            (_, Ok((head, bytes))) => Ok((Head { keep_alive: false, ..head }, bytes)),
            (Err(error), Err(_)) => Err(CallError::io("sending", &error)),
            (Ok(false), Err(error)) => Err(error),
        }
    }

    /// False: the answer came first, and the rest of the request was not sent.
    async fn send(&mut self, request: &Request) -> io::Result<bool> {
        let mut slices =
            [&request.head, &request.body, &request.tail].map(|part| IoSlice::new(part));
        let mut left = &mut slices[..];
        // What is empty is left out.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.stream.try_write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let either = self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
                    if either.is_readable() && self.early()? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Something of an answer is there already.
    fn early(&mut self) -> io::Result<bool> {
        match self.stream.try_read_buf(&mut self.buffer) {
            Ok(read) => Ok(read > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a reply into the buffer; gives its head and the length of its body.
    async fn read(&mut self, keep: usize) -> Result<(Head, u64), CallError> {
        let head = loop {
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(CallError::Broken("the head of the reply does not end".to_owned()));
            }
            self.more().await?;
        };
        let body_bytes = match head.length {
            Length::Known(length) => self.read_known(head.end, length, keep).await?,
            Length::Chunked => self.read_chunked(head.end).await?,
        };
        Ok((head, body_bytes))
    }

    async fn read_known(
        &mut self,
        start: usize,
        length: u64,
        keep: usize,
    ) -> Result<u64, CallError> {
        let mut received = (self.buffer.len() - start) as u64;
        while received < length {
            if length > keep as u64 {
                self.buffer.truncate(start);
            }
            received += self.more().await? as u64;
        }
        if received > length {
            return Err(CallError::Broken("more bytes came than the reply has".to_owned()));
        }
        Ok(length)
    }

    async fn read_chunked(&mut self, start: usize) -> Result<u64, CallError> {
        loop {
            if let Some(body) = unchunk(&self.buffer[start..])? {
                self.buffer.truncate(start);
                self.buffer.extend_from_slice(&body);
                return Ok(body.len() as u64);
            }
            if self.buffer.len() > CHUNKED_BYTES_MAX {
                return Err(CallError::Broken(
                    "a reply in chunks is too long to be read".to_owned(),
                ));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<usize, CallError> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(CallError::Broken("the server closed the connection".to_owned())),
            Ok(read) => Ok(read),
            Err(error) => Err(CallError::io("receiving", &error)),
        }
    }
}

/// Nothing if the head is not there to its end.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, CallError> {
    let broken = |what: &str| CallError::Broken(what.to_owned());
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut lines);
    let end = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(why) => return Err(broken(&format!("the reply is not HTTP/1.1: {why}"))),
    };
    if parsed.version != Some(1) {
        return Err(broken("the reply is not HTTP/1.1"));
    }
    let status = parsed.code.unwrap_or(0);
    let (mut length, mut keep_alive, mut json) = (None, true, false);
    for line in parsed.headers.iter() {
        let value = line.value;
        if line.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(value).ok();
            let bytes = text.and_then(|text| text.parse().ok());
            length = Some(Length::Known(bytes.ok_or_else(|| broken("a bad Content-Length"))?));
        } else if line.name.eq_ignore_ascii_case("transfer-encoding") {
            length = Some(Length::Chunked);
        } else if line.name.eq_ignore_ascii_case("content-type") {
            json = value.starts_with(b"application/json");
        } else if line.name.eq_ignore_ascii_case("connection") {
            keep_alive = !value.eq_ignore_ascii_case(b"close");
        }
    }
    let bodiless = matches!(status, 100..200 | 204 | 304).then_some(Length::Known(0));
    let length = bodiless
        .or(length)
        .ok_or_else(|| broken("a reply without Content-Length, which is not read"))?;
    Ok(Some(Head { status, end, length, keep_alive, json }))
}

/// The content of a body in chunks, if its end is there.
fn unchunk(bytes: &[u8]) -> Result<Option<Vec<u8>>, CallError> {
    let broken = || CallError::Broken("a reply in chunks that are none".to_owned());
    let (mut body, mut rest) = (Vec::new(), bytes);
    loop {
        let (at, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((at, size))) => (at, size as usize),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_invalid) => return Err(broken()),
        };
        // With the line's end behind it; no trailers are spoken.
        let Some(chunk) = rest.get(at..at.saturating_add(size).saturating_add(2)) else {
            return Ok(None);
        };
        if !chunk.ends_with(b"\r\n") {
            return Err(broken());
        }
        if size == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[at + size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nContent-Type: application/json\r\nConnection: close\r\n\r\nbody";
        let expected = Head {
            status: 200,
            end: text.len() - 4,
            length: Length::Known(12),
            keep_alive: false,
            json: true,
        };
        assert_eq!(parse_head(text).unwrap(), Some(expected));
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nConte").unwrap(), None);
        let empty = parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((empty.status, empty.length), (204, Length::Known(0)));
        for bad in ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 2\r\n\r\n"] {
            assert!(parse_head(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn chunks() {
        let of = |text: &str| unchunk(text.as_bytes());
        assert_eq!(of("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap().unwrap(), b"abcde");
        assert_eq!(of("0\r\n\r\n").unwrap().unwrap(), b"");
        for part in ["", "3", "3\r\nab", "3\r\nabc\r\n", "3\r\nabc\r\n0\r\n"] {
            assert_eq!(of(part).unwrap(), None, "{part:?}");
        }
        assert!(of("3\r\nabcde").is_err());
        assert!(of("x\r\n").is_err());
    }
}
