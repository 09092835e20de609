//! HTTP/1.1 by hand on a plain socket: tests say exactly what goes over the wire and see exactly what
//! comes back.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a read may wait.
const READ_MAX: Duration = Duration::from_mins(1);

/// A request to be sent on a connection of its own.
#[derive(Debug, Clone)]
pub struct Request {
    address: String,
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without credentials or body.
    pub fn new(address: &str, method: &str, target: &str) -> Self {
        Self {
            address: address.to_owned(),
            line: format!("{method} {target} HTTP/1.1"),
            headers: vec![("Host".to_owned(), address.to_owned())],
            body: vec![],
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds the key, if it is not empty.
    #[must_use]
    pub fn bearer(self, key: &str) -> Self {
        if key.is_empty() { self } else { self.header("Authorization", &format!("Bearer {key}")) }
    }

    /// Sets the body and its length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// Sets an upload form: purpose, then file.
    #[must_use]
    pub fn form(self, purpose: &str, filename: &str, content: &[u8]) -> Self {
        let (content_type, body) =
            form(&[Field::Text("purpose", purpose), Field::File("file", filename, content)]);
        self.header("Content-Type", &content_type).body(body)
    }

    /// The bytes of the request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.line).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it and reads the reply. A write that the server cuts off is no failure as long as a reply
    /// comes.
    pub fn send(&self) -> Reply {
        self.try_send().unwrap_or_else(|error| panic!("{}: {error}", self.line))
    }

    /// As [`send`](Self::send); fails when no reply comes.
    pub fn try_send(&self) -> io::Result<Reply> {
        let mut connection = Connection::open(&self.address)?;
        let written = connection.write(&self.bytes());
        let reply = connection.reply_to(self.line.starts_with("HEAD "));
        reply.map_err(|error| written.err().unwrap_or(error))
    }
}

/// A field of a form.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    /// Name and value.
    Text(&'a str, &'a str),
    /// Name, file name and content.
    File(&'a str, &'a str, &'a [u8]),
}

/// A multipart/form-data body and its content type.
pub fn form(fields: &[Field<'_>]) -> (String, Vec<u8>) {
    let boundary = "filegate-test-boundary-7f3a9c";
    let mut body = Vec::new();
    for field in fields {
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Disposition: form-data; ").as_bytes(),
        );
        match field {
            Field::Text(name, value) => {
                body.extend_from_slice(format!("name=\"{name}\"\r\n\r\n{value}").as_bytes());
            }
            Field::File(name, filename, content) => {
                let head = format!(
                    "name=\"{name}\"; filename=\"{filename}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
                );
                body.extend_from_slice(head.as_bytes());
                body.extend_from_slice(content);
            }
        }
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// A connection on which anything can be sent.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Read and not yet given out.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_MAX))?;
        stream.set_write_timeout(Some(READ_MAX))?;
        Ok(Self { stream, buffer: vec![] })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        let _gone_already = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads the next reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        self.reply_to(false)
    }

    /// Reads the next reply; one to HEAD has no body.
    pub fn reply_to(&mut self, head_request: bool) -> io::Result<Reply> {
        loop {
            let reply = self.one_reply(head_request)?;
            // 100 Continue is not the answer.
            if reply.status >= 200 {
                return Ok(reply);
            }
        }
    }

    /// Reads the next reply, `100 Continue` included.
    pub fn interim(&mut self) -> io::Result<Reply> {
        self.one_reply(false)
    }

    /// Whether the server has closed its side and nothing more came.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        self.buffer.is_empty() && matches!(self.stream.read(&mut byte), Ok(0) | Err(_))
    }

    fn one_reply(&mut self, head_request: bool) -> io::Result<Reply> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {head}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Reply { status, headers, body: vec![] };
        if head_request || status < 200 || matches!(status, 204 | 304) {
            return Ok(reply);
        }
        if reply.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
            self.chunked(&mut reply.body)?;
        } else if let Some(length) = reply.header("content-length") {
            let length: usize = length.parse().map_err(io::Error::other)?;
            self.exactly(length, &mut reply.body)?;
        } else {
            while self.more().is_ok() {}
            reply.body = std::mem::take(&mut self.buffer);
        }
        Ok(reply)
    }

    fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        while self.buffer.len() < length {
            self.more()?;
        }
        body.extend(self.buffer.drain(..length));
        Ok(())
    }

    fn chunked(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let end = loop {
                if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break at;
                }
                self.more()?;
            };
            let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&line[..end]).into_owned();
            let size = usize::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
            self.exactly(size, body)?;
            let mut line_end = Vec::new();
            self.exactly(2, &mut line_end)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = vec![0; 64 << 10];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(())
            }
        }
    }
}

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    /// The body, unchunked.
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON ({}): {}", self.status, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `base_resp.status_code`.
    pub fn code(&self) -> i64 {
        self.json()["base_resp"]["status_code"].as_i64().expect("base_resp.status_code")
    }

    /// `base_resp.status_msg`.
    pub fn message(&self) -> String {
        self.json()["base_resp"]["status_msg"].as_str().expect("base_resp.status_msg").to_owned()
    }

    /// `file.file_id` of a reply that succeeded.
    pub fn file_id(&self) -> i64 {
        assert_eq!(self.code(), 0, "{}", self.text());
        self.json()["file"]["file_id"].as_i64().expect("file.file_id")
    }
}
