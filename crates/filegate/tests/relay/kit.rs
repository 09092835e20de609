//! What tests of the relay share: an upstream that does exactly what a test says, on plain sockets, and channels.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use filegate_testkit::http::{Reply, Request};
use filegate_testkit::server::{Setup, TestServer};
use serde_json::{Value, json};

/// What seals the keys of channels.
const SEALING: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The key of a channel that a test says nothing about.
pub(crate) const KEY: &str = "upstream-key-0001";

pub(crate) fn setup() -> Setup {
    // Replicas cannot make one of their own.
    Setup::new(env!("CARGO_BIN_EXE_filegate")).env("FILEGATE_RELAY__SECRET_KEY", SEALING)
}

/// A request as an upstream has read it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method and target.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// A connection, for an upstream that reads or writes in its own way.
pub(crate) struct Talk {
    reader: BufReader<TcpStream>,
}

impl Talk {
    /// Reads a head; `None` at the end of the connection.
    pub(crate) fn head(&mut self) -> Option<Seen> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let mut headers = vec![];
        loop {
            let mut field = String::new();
            self.reader.read_line(&mut field).ok()?;
            let Some((name, value)) = field.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        Some(Seen { line, headers, body: vec![] })
    }

    /// Reads the body that belongs to `seen`.
    pub(crate) fn body(&mut self, seen: &mut Seen) -> io::Result<()> {
        if seen.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk()? {
                seen.body.extend(chunk);
            }
        } else if let Some(length) = seen.header("content-length") {
            let mut body = vec![0; length.parse().map_err(io::Error::other)?];
            self.reader.read_exact(&mut body)?;
            seen.body = body;
        }
        Ok(())
    }

    /// The next chunk; `None` for the last.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut size = String::new();
        self.reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim_end(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    pub(crate) fn exact(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        self.reader.read_exact(&mut read)?;
        Ok(read)
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}

/// An upstream. It listens until it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: Arc<AtomicBool>,
}

impl Upstream {
    /// Answers each request by `answer`, which gives all bytes of the answer; the connection is kept. `None`: it is
    /// closed without an answer.
    pub(crate) fn answering(
        answer: impl Fn(&Seen) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::talking(move |talk, seen| {
            while let Some(mut asked) = talk.head() {
                if talk.body(&mut asked).is_err() {
                    return;
                }
                seen.lock().unwrap().push(asked.clone());
                let Some(bytes) = answer(&asked) else { return };
                if talk.write(bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// Always the same.
    pub(crate) fn always(answer: Vec<u8>) -> Self {
        Self::answering(move |_| Some(answer.clone()))
    }

    /// Does as `talks` says on each connection. What it notes in the list is what [`seen`](Self::seen) gives.
    pub(crate) fn talking(
        talks: impl Fn(&mut Talk, &Mutex<Vec<Seen>>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, ended) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(AtomicBool::new(false)));
        let (noted, over, talks) = (Arc::clone(&seen), Arc::clone(&ended), Arc::new(talks));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let (noted, talks) = (Arc::clone(&noted), Arc::clone(&talks));
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || talks(&mut Talk { reader: BufReader::new(stream) }, &noted));
            }
        });
        Self { address, seen, ended }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _wakes_it = TcpStream::connect(self.address);
    }
}

/// An answer with a length.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "HTTP/1.1 {status} Some Reason\r\n{}content-length: {}\r\n\r\n",
        fields.concat(),
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A native answer with this code.
pub(crate) fn native(code: i64) -> Vec<u8> {
    let body =
        json!({ "base_resp": { "status_code": code, "status_msg": format!("upstream {code}") } });
    answer(200, &[("content-type", "application/json")], body.to_string().as_bytes())
}

/// An address where nobody listens.
pub(crate) fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Adds a channel.
#[track_caller]
pub(crate) fn add(server: &TestServer, name: &str, url: &str, settings: Value) {
    add_for(server, name, url, settings, None);
}

/// Adds a channel, perhaps an account's own.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a literal where it is called")]
pub(crate) fn add_for(
    server: &TestServer,
    name: &str,
    url: &str,
    settings: Value,
    account: Option<&str>,
) {
    let mut body = json!({ "name": name, "base_url": url, "key": KEY, "settings": settings });
    if let Some(account) = account {
        body["account"] = account.into();
    }
    let reply = operator(server, "/channels", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// A change of an operator's.
pub(crate) fn operator(server: &TestServer, path: &str, body: &Value) -> Reply {
    server
        .admin("POST", path)
        .header("Content-Type", "application/json")
        .body(body.to_string())
        .send()
}

/// A call with a JSON body.
pub(crate) fn call(server: &TestServer, path: &str, body: &Value) -> Request {
    server.request("POST", path).header("Content-Type", "application/json").body(body.to_string())
}

/// What the channel's row says of it.
pub(crate) fn condition(server: &TestServer, name: &str) -> String {
    server.value(&format!("SELECT condition FROM channels WHERE name = '{name}'"))
}

/// Long enough for whatever should not happen to have happened.
pub(crate) fn a_while() {
    thread::sleep(Duration::from_millis(300));
}
