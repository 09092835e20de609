//! HTTP/1.1 on a plain socket, with as little work as possible: a request is one buffer written
//! as it is, a reply is its head and a known number of bytes.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use filegate_client::Key;
use filegate_types::FileId;
use filegate_types::wire::{ErrorReply, UploadReply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::exit::Exit;

/// Longest time for a call, from the first byte to the last.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);

/// Longest head of a reply.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Longest JSON reply that is kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// How much is read at a time.
const READ_BYTES: usize = 256 * 1024;

/// The server, and what every request to it has in its head.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `host:port`.
    address: String,
    /// As in the URL.
    host: String,
    /// `/…/v1/files/`.
    path: String,
    key: Key,
}

impl Target {
    /// Takes apart the URL of the upload call.
    pub(crate) fn parse(upload_url: &str, key: Key) -> Result<Self, String> {
        let Some(rest) = upload_url.strip_prefix("http://") else {
            return Err("bench speaks plain http:// only".to_owned());
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.strip_suffix("upload").unwrap_or(path);
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let address = if has_port { host.to_owned() } else { format!("{host}:80") };
        Ok(Self { address, host: host.to_owned(), path: format!("/{path}"), key })
    }

    /// The head of a request, with the empty line.
    pub(crate) fn head(
        &self,
        method: &str,
        call: &str,
        query: &str,
        content_type: &str,
        length: Option<u64>,
    ) -> String {
        let content = length.map_or_else(String::new, |length| {
            format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n")
        });
        format!(
            "{method} {}{call}{query} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             User-Agent: filegate-bench/{}\r\n{content}\r\n",
            self.path,
            self.host,
            self.key.expose(),
            env!("CARGO_PKG_VERSION"),
        )
    }

    /// A GET of something of a file.
    pub(crate) fn get(&self, call: &str, id: FileId) -> Bytes {
        self.head("GET", call, &format!("?file_id={id}"), "", None).into()
    }

    /// A delete.
    pub(crate) fn delete(&self, id: FileId) -> Bytes {
        let body = format!("{{\"file_id\":{id}}}");
        let length = Some(body.len() as u64);
        (self.head("POST", "delete", "", "application/json", length) + &body).into()
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The server refused: a code that is not 0.
    Refused { code: i64, message: String },
    /// No answer, or none that makes sense.
    Broken(String),
}

impl CallError {
    /// The exit code it stands for.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Refused { .. } => Exit::Refused,
            Self::Broken(_) => Exit::Unavailable,
        }
    }

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

/// A reply, with its body when it is JSON.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) keep_alive: bool,
    body_bytes: u64,
    json: Vec<u8>,
}

impl Reply {
    /// The id of the file that was uploaded.
    pub(crate) fn uploaded(&self) -> Result<FileId, CallError> {
        self.success()?;
        serde_json::from_slice::<UploadReply>(&self.json)
            .ok()
            .and_then(|reply| reply.file)
            .map(|file| file.file_id)
            .ok_or_else(|| CallError::Broken("the reply to an upload has no file".to_owned()))
    }

    /// That `base_resp` says success.
    pub(crate) fn success(&self) -> Result<(), CallError> {
        let reply: ErrorReply = serde_json::from_slice(&self.json).map_err(|_not_json| {
            CallError::Broken("the reply is not the JSON of the Files API".to_owned())
        })?;
        let base = reply.base_resp;
        if base.status_code == 0 {
            return Ok(());
        }
        Err(CallError::Refused { code: base.status_code, message: base.status_msg })
    }

    /// That it was content of `size` bytes.
    pub(crate) fn content(&self, size: u64) -> Result<(), CallError> {
        if !self.json.is_empty() {
            self.success()?;
        }
        if self.body_bytes == size {
            return Ok(());
        }
        let what = format!("{} bytes of content where {size} were uploaded", self.body_bytes);
        Err(CallError::Broken(what))
    }
}

/// The head of a reply, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: u64,
    keep_alive: bool,
    json: bool,
}

/// A connection that is kept between calls.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self, CallError> {
        let connect = TcpStream::connect(target.address.as_str());
        let stream = match tokio::time::timeout(Duration::from_secs(10), connect).await {
            Ok(stream) => stream.map_err(|error| CallError::io("connecting", &error))?,
            Err(_elapsed) => return Err(CallError::Broken("connecting took over 10 s".to_owned())),
        };
        stream.set_nodelay(true).map_err(|error| CallError::io("connecting", &error))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends `request` and reads the reply to its end.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<Reply, CallError> {
        match tokio::time::timeout(CALL_TIMEOUT, self.exchange(request)).await {
            Ok(reply) => reply,
            Err(_elapsed) => Err(CallError::Broken("a call took over 120 s".to_owned())),
        }
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Reply, CallError> {
        let written = self.stream.write_all(request).await;
        // An early refusal may be there although the request could not be written to its end.
        let reply = self.read().await;
        match (written, reply) {
            (Ok(()), reply) => reply,
            (Err(_), Ok(reply)) => Ok(Reply { keep_alive: false, ..reply }),
            (Err(error), Err(_)) => Err(CallError::io("sending", &error)),
        }
    }

    async fn read(&mut self) -> Result<Reply, CallError> {
        self.buffer.clear();
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(CallError::Broken("the head of the reply does not end".to_owned()));
            }
            self.more().await?;
        };
        let head = parse_head(&self.buffer[..end])?;
        self.buffer.drain(..end);
        let kept = head.json && head.length <= KEPT_BYTES_MAX as u64;
        let mut received = self.buffer.len() as u64;
        while received < head.length {
            if !kept {
                self.buffer.clear();
            }
            received += self.more().await? as u64;
        }
        if received > head.length {
            return Err(CallError::Broken("more bytes came than the reply has".to_owned()));
        }
        if head.status != 200 && !kept {
            return Err(CallError::Broken(format!("the server answered HTTP {}", head.status)));
        }
        let json = if kept { std::mem::take(&mut self.buffer) } else { Vec::new() };
        Ok(Reply { keep_alive: head.keep_alive, body_bytes: head.length, json })
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

fn parse_head(head: &[u8]) -> Result<Head, CallError> {
    let broken = |what: &str| CallError::Broken(what.to_owned());
    let text =
        std::str::from_utf8(head).map_err(|_binary| broken("the head of the reply is not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| broken("the reply is not HTTP/1.1"))?;
    let mut parsed = Head { status, length: 0, keep_alive: true, json: false };
    let mut has_length = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                parsed.length = value.parse().map_err(|_bad| broken("a bad Content-Length"))?;
                has_length = true;
            }
            "content-type" => parsed.json = value.starts_with("application/json"),
            "connection" => parsed.keep_alive = !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    if !has_length {
        return Err(broken("a reply without Content-Length, which bench does not read"));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, String> {
        Target::parse(url, Key::new("fg-k").unwrap())
    }

    #[test]
    fn targets() {
        for (url, address, path) in [
            ("http://h:1/v1/files/upload", "h:1", "/v1/files/"),
            ("http://h/minimax/v1/files/upload", "h:80", "/minimax/v1/files/"),
            ("http://[::1]/v1/files/upload", "[::1]:80", "/v1/files/"),
            ("http://[::1]:8/v1/files/upload", "[::1]:8", "/v1/files/"),
        ] {
            let target = target(url).unwrap();
            assert_eq!((target.address.as_str(), target.path.as_str()), (address, path));
        }
        assert!(target("https://h/v1/files/upload").is_err());
    }

    #[test]
    fn heads() {
        let head = parse_head(
            b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        );
        let expected = Head { status: 200, length: 12, keep_alive: false, json: true };
        assert_eq!(head.unwrap(), expected);
        for bad in ["", "HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 2\r\n\r\n"]
        {
            assert!(parse_head(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
