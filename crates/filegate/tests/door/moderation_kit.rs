//! What the tests of moderation share: the lists, a virus scanner, and a service that decides.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use filegate_testkit::http::Reply;
use filegate_testkit::place::quoted;
use filegate_testkit::server::{Setup, TestServer, eventually};
use serde_json::Value;

/// The secret of every webhook here.
pub(crate) const SECRET: &str = "a secret of the tests";

pub(crate) fn start(toml: &str) -> TestServer {
    setup(toml).start()
}

pub(crate) fn setup(toml: &str) -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_filegate")).config(toml)
}

/// Adds an entry behind the server's back; gives its id.
pub(crate) fn block(server: &TestServer, list: &str, value: &str) -> i64 {
    let (list, value) = (quoted(list), quoted(value));
    server
        .sql(&format!("INSERT INTO blocked (list, value, created_at) VALUES ({list}, {value}, 1)"));
    server.value(&format!("SELECT entry_id FROM blocked WHERE list = {list} AND value = {value}"))
}

/// The state of the newest file, and the stages of its verdict as `stage outcome`.
pub(crate) fn verdict(server: &TestServer) -> (String, Vec<String>) {
    let newest = "SELECT state, verdict FROM files ORDER BY file_id DESC LIMIT 1";
    let mut row = server.row(newest).into_iter();
    let state = row.next().flatten().expect("a state");
    let Some(verdict) = row.next().flatten() else { return (state, vec![]) };
    let verdict: Value = serde_json::from_str(&verdict).expect("a verdict is JSON");
    let word = |stage: &Value, name: &str| stage[name].as_str().expect("a word").to_owned();
    let stages = verdict["stages"].as_array().expect("stages").iter();
    let said = stages.map(|stage| {
        assert!(stage["ms"].is_u64(), "{stage}");
        format!("{} {}", word(stage, "stage"), word(stage, "outcome"))
    });
    (state, said.collect())
}

/// An upload that was refused with `code` and this message.
#[track_caller]
pub(crate) fn refused(reply: &Reply, code: i64, message: &str) {
    assert_eq!((reply.status, reply.code()), (200, code), "{}", reply.text());
    assert_eq!(reply.message(), message);
    assert_eq!(reply.json()["file"], Value::Null);
}

/// Neither bytes nor rows are there, of files or of uploads.
#[track_caller]
pub(crate) fn nothing_kept(server: &TestServer) {
    if server.place().is_none() {
        assert_eq!(server.stored("blobs"), []);
    }
    // What was asked about in an S3 store is an object already, which the purge removes.
    eventually("the temporary file, the object and the row are gone", || {
        let uploads: i64 = server.value("SELECT count(*) FROM uploads");
        let bytes = [server.stored("tmp"), server.stored("blobs")].concat();
        (bytes.is_empty() && uploads == 0).then_some(())
    });
    assert_eq!(server.value::<i64>("SELECT count(*) FROM files"), 0);
}

/// The EICAR test file. In two parts, so that no scanner takes this source for it.
pub(crate) fn eicar() -> Vec<u8> {
    let (head, tail) =
        ("X5O!P%@AP[4\\PZX54(P^)7CC)7}$", "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*");
    [head.as_bytes(), tail.as_bytes()].concat()
}

/// Debian's clamd with a signature of EICAR alone, taking streams of 1 MiB. Killed when dropped.
pub(crate) struct Clamd {
    child: Child,
    home: tempfile::TempDir,
    port: u16,
}

impl Clamd {
    pub(crate) fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let at = home.path();
        std::fs::create_dir(at.join("db")).expect("a directory");
        let hex = eicar().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes it");
            hex
        });
        put(&at.join("db/test.ndb"), &format!("Test.Signature:0:*:{hex}\n"));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("a free port").port();
        let settings = format!(
            "Foreground yes\nLocalSocket {0}/socket\nDatabaseDirectory {0}/db\nLogFile {0}/log\n\
             TCPSocket {port}\nTCPAddr 127.0.0.1\nStreamMaxLength 1M\nMaxThreads 4\n",
            at.display()
        );
        put(&at.join("clamd.conf"), &settings);
        let child = Command::new("clamd")
            .arg("--config-file")
            .arg(at.join("clamd.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("clamd can be run (Debian: clamav-daemon)");
        let clamd = Self { child, home, port };
        eventually("clamd listens", || {
            std::os::unix::net::UnixStream::connect(clamd.socket()).ok()
        });
        clamd
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// The setting `moderation.clamd.address`, over TCP.
    pub(crate) fn tcp_address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The setting `moderation.clamd.address`.
    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn put(path: &Path, text: &str) {
    let mut file = std::fs::File::create(path).expect("a file can be made");
    file.write_all(text.as_bytes()).expect("there is room");
}

/// A request that the service received.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the question is JSON")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut named = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    }
}

/// A service that decides, as the test says. Its threads end with the test's process.
pub(crate) struct Hook {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Hook {
    /// `decide` gives the whole answer, head included; nothing for silence.
    pub(crate) fn start(decide: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, decide) = (Arc::clone(&asked), Arc::new(decide));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (noted, decide) = (Arc::clone(&noted), Arc::clone(&decide));
                thread::spawn(move || serve(stream, &noted, &*decide));
            }
        });
        Self { address, asked }
    }

    /// One that answers every question with this verdict.
    pub(crate) fn saying(verdict: &str) -> Self {
        let body = format!("{{\"verdict\":\"{verdict}\",\"reason\":\"of the test\"}}");
        Self::start(move |_| answer("200 OK", &body))
    }

    /// Settings that ask it, with more of its section.
    pub(crate) fn settings(&self, more: &str) -> String {
        format!(
            "[moderation.webhook]\nurl = 'http://{}/decide'\nsecret = '{SECRET}'\n\
             allow_private = true\n{more}\n",
            self.address
        )
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no holder panics").clone()
    }
}

/// An answer of HTTP with its body.
pub(crate) fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn serve(mut stream: TcpStream, noted: &Mutex<Vec<Asked>>, decide: &dyn Fn(&Asked) -> String) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let end = read.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let mut asked = Asked { head, body: read[end + 4..].to_vec() };
            let length = asked.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            while asked.body.len() < length {
                match stream.read(&mut piece) {
                    Ok(n) if n > 0 => asked.body.extend_from_slice(&piece[..n]),
                    _ => return,
                }
            }
            noted.lock().expect("no holder panics").push(asked.clone());
            let answer = decide(&asked);
            if answer.is_empty() {
                // Silence: until the other side has had enough.
                let _ended = stream.read(&mut piece);
            }
            let _gone = stream.write_all(answer.as_bytes());
            return;
        }
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => read.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
}
