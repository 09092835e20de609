//! Whole calls, counted in the real binary on its embedded store.
//!
//! The gateway runs under callgrind with settings as they come, one worker thread and one client, which is this
//! program and is not counted. Before each kind of call a few are made uncounted, so that connections, statements
//! and buffers are there.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::profile::Profile;
use crate::{Profiles, callgrind, pieces};

/// How long the gateway may take to start, which takes seconds under callgrind.
const START_MAX: Duration = Duration::from_mins(2);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// Calls that are not counted, before those that are.
const WARM: usize = 20;
/// What a call leaves to be done after its answer, its log line for one, is done after this.
const SETTLED: Duration = Duration::from_millis(150);

/// The kinds of calls, how often they are counted, and how many calls at a time.
const KINDS: [(&str, usize, usize); 4] = [
    ("upload 100 KB wav", 3, 60),
    ("retrieve", 5, 150),
    ("download 100 KB", 4, 80),
    ("relay 1 KB", 5, 150),
];

/// A running gateway. Killed when dropped.
struct Gateway {
    child: Child,
    /// Where callgrind's files are.
    home: PathBuf,
    /// Fresh, and gone with it.
    data: TempDir,
    address: SocketAddr,
    operators: SocketAddr,
    token: String,
    key: String,
}

/// A connection to a gateway.
struct Client {
    stream: TcpStream,
}

/// Counts the calls whose names hold `only`.
pub(crate) fn count(filegate: &Path, home: &Path, only: &str) -> anyhow::Result<Profiles> {
    let kinds: Vec<_> = KINDS.into_iter().filter(|(name, ..)| name.contains(only)).collect();
    if kinds.is_empty() {
        return Ok(Profiles::new());
    }
    let gateway = Gateway::start(filegate, home)?;
    gateway.add_channel(upstream()?)?;
    let mut client = Client::connect(gateway.address)?;
    let upload = gateway.upload();
    let file_id = id_in(&client.call(&upload)?)?;
    let file = |route: &str| {
        gateway.request("GET", &format!("/minimax/v1/files/{route}?file_id={file_id}"), "", &[])
    };
    let mut profiles = Profiles::new();
    let mut part = 0;
    for (name, rounds, calls) in kinds {
        let request = match name {
            "upload 100 KB wav" => upload.clone(),
            "retrieve" => file("retrieve"),
            "download 100 KB" => file("retrieve_content"),
            _ => gateway.request(
                "POST",
                "/minimax/v1/text/chatcompletion_v2",
                "application/json",
                &chat(),
            ),
        };
        for _ in 0..WARM {
            client.call(&request)?;
        }
        // The round with the fewest instructions: what the machine adds, threads that woke up in vain, adds only.
        let mut least: Option<Profile> = None;
        for _ in 0..rounds {
            thread::sleep(SETTLED);
            gateway.tell("zero")?;
            for _ in 0..calls {
                client.call(&request)?;
            }
            thread::sleep(SETTLED);
            gateway.tell("dump")?;
            part += 1;
            let round = callgrind::part(home, "gateway", part, calls as u64)?;
            if least.as_ref().is_none_or(|least| round.all() < least.all()) {
                least = Some(round);
            }
        }
        profiles.extend(least.map(|least| (name.to_owned(), least)));
    }
    Ok(profiles)
}

impl Gateway {
    fn start(filegate: &Path, home: &Path) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let log = home.join("gateway.log");
        let child = callgrind::command(filegate, home, "gateway")
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(data.path())
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot run valgrind")?;
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gateway = Self {
            child,
            home: home.to_owned(),
            data,
            address: nowhere,
            operators: nowhere,
            token: String::new(),
            key: String::new(),
        };
        let text = gateway.announced(&log)?;
        gateway.address = word(&text, "listening on http://")?.parse()?;
        gateway.operators = word(&text, "operators: http://")?.parse()?;
        word(&text, "shown only this once: ")?.clone_into(&mut gateway.token);
        let made = Command::new(filegate)
            .args(["key", "create", "--name", "counts", "--data-dir"])
            .arg(gateway.data.path())
            .output()?;
        String::from_utf8(made.stdout)?.trim().clone_into(&mut gateway.key);
        if gateway.key.is_empty() {
            bail!("no key: {}", String::from_utf8_lossy(&made.stderr));
        }
        Ok(gateway)
    }

    /// What it says when it has started.
    fn announced(&mut self, log: &Path) -> anyhow::Result<String> {
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(log)?;
            if text.contains("make an API key") {
                return Ok(text);
            }
            if self.child.try_wait()?.is_some() || began.elapsed() > START_MAX {
                bail!("the gateway did not start under callgrind: {text}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn tell(&self, what: &str) -> anyhow::Result<()> {
        callgrind::tell(&self.home, self.child.id(), what)
    }

    /// Adds the channel that calls are relayed to.
    fn add_channel(&self, upstream: SocketAddr) -> anyhow::Result<()> {
        let channel = format!(
            r#"{{"name":"counts","base_url":"http://{upstream}","key":"upstream-key","settings":{{}}}}"#
        );
        let request = whole(
            "POST",
            "/admin/v1/channels",
            &self.token,
            "application/json",
            channel.as_bytes(),
        );
        Client::connect(self.operators)?.exchange(&request).map(drop)
    }

    fn upload(&self) -> Vec<u8> {
        let (content_type, body) = pieces::form("voice_clone", "voice.wav", &pieces::wav());
        self.request("POST", "/minimax/v1/files/upload", &content_type, &body)
    }

    fn request(&self, method: &str, target: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
        whole(method, target, &self.key, content_type, body)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Client {
    fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream })
    }

    /// Sends a request and gives the body of the answer, which must be one of success: what is JSON, of ours or of
    /// the upstream, says so again.
    fn call(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (head, body) = self.exchange(request)?;
        let says_so = String::from_utf8_lossy(&body).contains("\"status_code\":0");
        if head.contains("application/json") && !says_so {
            bail!("the answer was no success: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// Sends a request and gives the answer with status 200.
    fn exchange(&mut self, request: &[u8]) -> anyhow::Result<(String, Vec<u8>)> {
        self.stream.write_all(request)?;
        let (head, body) = message(&mut self.stream)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            bail!("the answer was no success: {head}{}", String::from_utf8_lossy(&body));
        }
        Ok((head, body))
    }
}

fn whole(method: &str, target: &str, key: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let describes = match length {
        0 => String::new(),
        _ => format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"),
    };
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: counts\r\nAuthorization: Bearer {key}\r\n{describes}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Reads one request or answer: its head, and a body as long as that says.
fn message(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut more = |bytes: &mut Vec<u8>| match stream.read(&mut buffer)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        n => {
            bytes.extend_from_slice(&buffer[..n]);
            Ok(())
        }
    };
    let end = loop {
        match bytes.windows(END.len()).position(|window| window == END) {
            Some(at) => break at + END.len(),
            None => more(&mut bytes)?,
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize =
        length.map_or(Ok(0), |length| length.trim().parse()).map_err(io::Error::other)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    while bytes.len() < end + length {
        more(&mut bytes)?;
    }
    Ok((head, bytes.split_off(end)))
}

/// What stands behind `before`, up to white space or a punctuation mark of the announcement.
fn word<'t>(text: &'t str, before: &str) -> anyhow::Result<&'t str> {
    let (_, rest) =
        text.split_once(before).with_context(|| format!("the gateway did not say {before:?}"))?;
    Ok(rest.split([' ', ')', ',', '\n']).next().unwrap_or_default())
}

/// The id of the file that an upload made.
fn id_in(answer: &[u8]) -> anyhow::Result<i64> {
    let answer: serde_json::Value = serde_json::from_slice(answer)?;
    answer["file"]["file_id"].as_i64().with_context(|| format!("no file_id in {answer}"))
}

/// A question of 1 KB.
fn chat() -> Vec<u8> {
    let text = "What is said does not matter; that somebody says it does. ".repeat(15);
    format!(r#"{{"model":"MiniMax-M2","messages":[{{"role":"user","content":"{text}"}}],"stream":false}}"#).into_bytes()
}

/// An upstream that answers every request with 1 KB, on threads of this program.
fn upstream() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let text = "It was the best of times. ".repeat(34);
    let body = format!(
        r#"{{"id":"0","choices":[{{"finish_reason":"stop","index":0,"message":{{"content":"{text}","role":"assistant"}}}}],"usage":{{"total_tokens":300}},"base_resp":{{"status_code":0,"status_msg":""}}}}"#
    );
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || answer_all(stream, &answer));
        }
    });
    Ok(address)
}

fn answer_all(mut stream: TcpStream, answer: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        message(&mut stream)?;
        stream.write_all(answer.as_bytes())?;
    }
}
