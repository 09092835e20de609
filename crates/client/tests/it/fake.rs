//! A server of a few lines: threads that read HTTP and answer what they are told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    cut: Option<usize>,
}

impl Answer {
    pub(crate) fn new(media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![format!("Content-Type: {media_type}")];
        Self { status: "200 OK", headers, body: body.into(), cut: None }
    }

    pub(crate) fn json(body: &str) -> Self {
        Self::new("application/json; charset=utf-8", body)
    }

    pub(crate) fn status(mut self, status: &'static str) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Writes it; says whether the connection goes on.
    pub(crate) fn write(&self, stream: &mut TcpStream) -> bool {
        let head = format!(
            "HTTP/1.1 {}\r\n{}\r\nContent-Length: {}\r\n\r\n",
            self.status,
            self.headers.join("\r\n"),
            self.body.len()
        );
        let sent = &self.body[..self.cut.unwrap_or(self.body.len())];
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent)).is_ok()
            && self.cut.is_none()
    }
}

/// A listening fake; its threads end with their connections.
pub(crate) struct Fake {
    pub(crate) url: String,
    requests: Receiver<Request>,
}

impl Fake {
    /// Answers every request with what `answer` says.
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let (sender, requests) = channel();
        let url = listen(move |stream| serve(stream, &answer, &sender));
        Self { url, requests }
    }

    /// The oldest request not yet taken.
    pub(crate) fn request(&self) -> Request {
        self.try_request().unwrap()
    }

    /// The oldest request not yet taken, if one comes soon.
    pub(crate) fn try_request(&self) -> Option<Request> {
        self.requests.recv_timeout(Duration::from_millis(500)).ok()
    }
}

/// Hands every connection to `connection`, each on its own thread.
pub(crate) fn listen(connection: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connection = Arc::new(connection);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = connection.clone();
            std::thread::spawn(move || connection(stream));
        }
    });
    url
}

fn serve(mut stream: TcpStream, answer: &impl Fn(&Request) -> Answer, requests: &Sender<Request>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(mut request) = read_head(&mut reader) {
        if let Some(length) = request.header("content-length") {
            let length: u64 = length.parse().unwrap();
            if (&mut reader).take(length).read_to_end(&mut request.body).is_err() {
                return;
            }
        } else if request.header("transfer-encoding").is_some() {
            request.body = read_chunked(&mut reader);
        }
        let goes_on = answer(&request).write(&mut stream);
        // The test may be over and not want it.
        let _gone = requests.send(request);
        if !goes_on {
            let _closed = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// The request line and the headers; `None` when the client is gone.
pub(crate) fn read_head(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut lines = lines.into_iter();
    let line = lines.next()?;
    let headers = lines
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    Some(Request { line, headers, body: Vec::new() })
}

fn read_chunked(reader: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let size = u64::from_str_radix(size.trim(), 16).unwrap();
        reader.take(size).read_to_end(&mut body).unwrap();
        reader.read_line(&mut String::new()).unwrap();
        if size == 0 {
            return body;
        }
    }
}
