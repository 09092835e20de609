//! A real Redis of the test's own: free port, own directory, nothing written to disk.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A Redis, stopped when dropped.
#[derive(Debug)]
pub struct Redis {
    url: String,
    prefix: String,
    /// What its own commands have to say first.
    password: Option<String>,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Redis {
    /// A server of this test's own, which may be stopped and paused.
    pub fn start() -> Self {
        let started = Instant::now();
        loop {
            // Between our look and its start another may take the port.
            let port = free_port();
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut own = Own { dir, port, child: None };
            if own.start() {
                let url = format!("redis://127.0.0.1:{port}/0");
                let prefix = "filegate:".to_owned();
                return Self { url, prefix, password: None, own: Some(own) };
            }
            assert!(started.elapsed() < START_MAX, "no Redis after {START_MAX:?}");
        }
    }

    /// The server that `FILEGATE_TEST_REDIS` names, with a prefix of this test's own; else a new one.
    /// For tests that neither stop nor change it.
    pub fn shared() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Ok(url) = std::env::var("FILEGATE_TEST_REDIS") else { return Self::start() };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let since = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
        let (process, nanos) = (std::process::id(), since.as_nanos());
        let prefix = format!("test-{process}-{nanos}-{count}:");
        Self { url, prefix, password: None, own: None }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What keys of this test begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Settings of a gateway that uses it, the section `[redis]` last.
    pub fn settings(&self) -> String {
        format!("redis_url = \"{}\"\n[redis]\nprefix = \"{}\"\n", self.url, self.prefix)
    }

    /// Ends it at once, with everything in it.
    pub fn stop(&mut self) {
        self.own().stop();
    }

    /// Starts it again on the same port, empty.
    pub fn start_again(&mut self) {
        assert!(self.own().start(), "Redis starts again on its port");
    }

    /// Makes it accept and never answer.
    pub fn pause(&mut self) {
        self.own().signal("STOP");
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        self.own().signal("CONT");
    }

    /// Wants a password from now on, also of those that are connected; none if empty.
    pub fn set_password(&mut self, password: &str) {
        self.command(&["CONFIG", "SET", "requirepass", password]);
        self.password = (!password.is_empty()).then(|| password.to_owned());
        self.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// The answer to a command, its parts on a line each.
    pub fn command(&self, words: &[&str]) -> String {
        let address = self.url.trim_start_matches("redis://").split('/').next();
        let address = address.unwrap_or_default().rsplit('@').next().unwrap_or_default();
        let mut connection = Connection::open(address).expect("Redis listens");
        if let Some(password) = &self.password {
            connection.ask(&["AUTH", password]).expect("Redis answers");
        }
        connection.ask(words).expect("Redis answers")
    }

    fn own(&mut self) -> &mut Own {
        self.own.as_mut().expect("a Redis of the test's own")
    }
}

impl Own {
    /// False if it ended at once, as it does when its port is taken.
    fn start(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("redis-server is installed");
        let started = Instant::now();
        let address = format!("127.0.0.1:{}", self.port);
        while child.try_wait().expect("a child can be waited for").is_none() {
            let answer = Connection::open(&address).and_then(|mut c| c.ask(&["PING"]));
            if answer.is_ok_and(|answer| answer == "PONG") {
                self.child = Some(child);
                return true;
            }
            assert!(started.elapsed() < START_MAX, "no Redis after {START_MAX:?}");
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(status.expect("kill can be run").success());
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// The few words of its protocol that a test needs.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn ask(&mut self, words: &[&str]) -> std::io::Result<String> {
        let each = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let request = format!("*{}\r\n{}", words.len(), each.collect::<String>());
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut lines = Vec::new();
        read_answer(&mut self.0, &mut lines)?;
        Ok(lines.join("\n"))
    }
}

fn read_answer(from: &mut BufReader<TcpStream>, lines: &mut Vec<String>) -> std::io::Result<()> {
    let mut head = String::new();
    if from.read_line(&mut head)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let text = head.trim_end().get(1..).unwrap_or_default().to_owned();
    let count = text.parse::<i64>().unwrap_or(0);
    match head.as_bytes()[0] {
        b'$' if count >= 0 => {
            let mut bytes = vec![0; count as usize + 2];
            from.read_exact(&mut bytes)?;
            lines.push(String::from_utf8_lossy(&bytes[..count as usize]).into_owned());
        }
        b'*' => {
            for _ in 0..count {
                read_answer(from, lines)?;
            }
        }
        b'$' => {}
        _ => lines.push(text),
    }
    Ok(())
}
