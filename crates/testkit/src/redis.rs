//! A real Redis of the test's own: free port, own directory, nothing written to disk.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
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
    tls_port: Option<u16>,
    child: Option<Child>,
}

impl Redis {
    /// A server of this test's own, which may be stopped and paused.
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// As [`start`](Self::start), and with TLS at [`tls_url`](Self::tls_url).
    pub fn start_tls() -> Self {
        Self::start_with(true)
    }

    fn start_with(tls: bool) -> Self {
        let started = Instant::now();
        loop {
            // Between our look and its start another may take the port.
            let port = free_port();
            let dir = tempfile::tempdir().expect("a temporary directory");
            if tls {
                make_certificates(dir.path());
            }
            let mut own = Own { dir, port, tls_port: tls.then(free_port), child: None };
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

    /// Where it speaks TLS, with a certificate that is signed by [`authority`](Self::authority).
    pub fn tls_url(&self) -> String {
        let port = self.own.as_ref().and_then(|own| own.tls_port).expect("started with TLS");
        format!("rediss://localhost:{port}/0")
    }

    /// The file with the certificate of who has signed that of this Redis.
    pub fn authority(&self) -> PathBuf {
        self.own.as_ref().expect("a Redis of the test's own").dir.path().join("ca.pem")
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
        if let Some(port) = self.tls_port {
            command.arg("--tls-port").arg(port.to_string()).args(["--tls-auth-clients", "no"]);
            for (setting, file) in [
                ("--tls-cert-file", "cert.pem"),
                ("--tls-key-file", "key.pem"),
                ("--tls-ca-cert-file", "ca.pem"),
            ] {
                command.arg(setting).arg(self.dir.path().join(file));
            }
        }
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

/// Makes an authority, and a certificate for `localhost` that it has signed.
fn make_certificates(dir: &Path) {
    let openssl = |line: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(dir).args(line.split(' ')).stdin(Stdio::null());
        let output = command.output().expect("openssl is installed");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2");
    openssl(
        "req -newkey rsa:2048 -nodes -keyout key.pem -out cert.req -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost",
    );
    openssl(
        "x509 -req -in cert.req -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem \
             -days 2 -copy_extensions copy",
    );
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
