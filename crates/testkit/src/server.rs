//! The real binary as a server of the test's own, on free ports and a directory of its own.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{Reply, Request};
use crate::place::{self, Blob, Place};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(30);

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    binary: PathBuf,
    /// A command put in front of the binary, such as strace with its flags.
    wrapper: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    config: Option<String>,
    store: Store,
}

/// Where a server keeps its things.
#[derive(Debug, Clone)]
enum Store {
    /// Where this run is about.
    OfTheRun,
    /// In its data directory.
    Embedded,
    At(Arc<Place>),
}

impl Setup {
    /// The binary as it is: pass `env!("CARGO_BIN_EXE_filegate")`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            wrapper: vec![],
            environment: vec![],
            config: None,
            store: Store::OfTheRun,
        }
    }

    /// Keeps everything in the data directory, whatever store the run is about: for tests of that directory.
    #[must_use]
    pub fn embedded(mut self) -> Self {
        self.store = Store::Embedded;
        self
    }

    /// Keeps everything there, whatever store the run is about.
    #[must_use]
    pub fn at(mut self, place: &Arc<Place>) -> Self {
        self.store = Store::At(Arc::clone(place));
        self
    }

    /// Adds settings in TOML.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs the binary under another command, such as `["strace", "-f", "-o", …]`.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// A server on a fresh directory, with a key.
    pub fn start(&self) -> TestServer {
        let home = tempfile::tempdir().expect("a temporary directory");
        let data_dir = home.path().join("data");
        let mut server = self.start_on(&data_dir);
        server.home = Some(home);
        server.key = server.make_key("test", "default");
        server
    }

    /// A server on `data_dir`, without a key.
    pub fn start_on(&self, data_dir: &Path) -> TestServer {
        self.try_start_on(data_dir).unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// As [`start_on`](Self::start_on); a failed start gives what it wrote to stderr.
    pub fn try_start_on(&self, data_dir: &Path) -> Result<TestServer, String> {
        let mut words = self.wrapper.iter().cloned().chain([self.binary.clone().into_os_string()]);
        let mut command = Command::new(words.next().expect("a binary"));
        command.args(words).arg("serve").arg("--data-dir").arg(data_dir);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        let config_file = self.config.as_ref().map(|toml| {
            let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a temporary file");
            std::io::Write::write_all(&mut file.as_file(), toml.as_bytes()).expect("room for it");
            file
        });
        if let Some(file) = &config_file {
            command.arg("--config").arg(file.path());
        }
        clean_environment(&mut command);
        let place = match &self.store {
            Store::OfTheRun => Place::of(data_dir),
            Store::Embedded => None,
            Store::At(place) => Some(Arc::clone(place)),
        };
        if let Some(place) = &place {
            place.lead(&mut command);
        }
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server can be run");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let reader_log = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let mut log = reader_log.lock().expect("no reader panics");
                log.push_str(&String::from_utf8_lossy(&line));
                log.push('\n');
            }
        });
        let started = Instant::now();
        loop {
            let text = log.lock().expect("no reader panics").clone();
            if let Some((address, admin_address)) = addresses(&text) {
                return Ok(TestServer {
                    child,
                    binary: self.binary.clone(),
                    data_dir: data_dir.to_owned(),
                    address,
                    admin_address,
                    key: String::new(),
                    log,
                    home: None,
                    place,
                    _config_file: config_file,
                });
            }
            if child.try_wait().expect("a child can be waited for").is_some() {
                thread::sleep(Duration::from_millis(50));
                return Err(log.lock().expect("no reader panics").clone());
            }
            assert!(started.elapsed() < START_MAX, "no server after {START_MAX:?}:\n{text}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Settings of the machine that runs the tests must not reach what is tested.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FILEGATE_") {
            command.env_remove(name);
        }
    }
}

fn addresses(log: &str) -> Option<(String, String)> {
    let line = log.lines().find(|line| line.contains(" listening on http://"))?;
    let mut urls = line.split("http://").skip(1).map(|rest| {
        rest.split(|c: char| !(c.is_ascii_alphanumeric() || ".:[]".contains(c)))
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    Some((urls.next()?, urls.next()?))
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct TestServer {
    child: Child,
    binary: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where clients connect: `host:port`.
    pub address: String,
    /// Where operators connect.
    pub admin_address: String,
    /// A key with all scopes of the account `default`, if [`Setup::start`] made it.
    pub key: String,
    log: Arc<Mutex<String>>,
    home: Option<tempfile::TempDir>,
    place: Option<Arc<Place>>,
    _config_file: Option<tempfile::NamedTempFile>,
}

impl TestServer {
    /// The process id (of the wrapper, if there is one).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `http://host:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    /// Runs a command of the binary on this data directory; gives its standard output.
    pub fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data-dir").arg(&self.data_dir);
        clean_environment(&mut command);
        if let Some(place) = self.place() {
            place.lead(&mut command);
        }
        let output = command.output().expect("the command can be run");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// Makes a key with all scopes.
    pub fn make_key(&self, name: &str, account: &str) -> String {
        self.command(&["key", "create", "--name", name, "--account", account])
    }

    /// A request with this server's key.
    pub fn request(&self, method: &str, target: &str) -> Request {
        Request::new(&self.address, method, target).bearer(&self.key)
    }

    /// The admin token that a first start prints.
    pub fn admin_token(&self) -> String {
        eventually("the admin token is printed", || {
            let log = self.log();
            let (_, rest) = log.split_once("admin token, shown only this once: ")?;
            rest.split_once('\n').map(|(token, _)| token.to_owned())
        })
    }

    /// A request below `/admin/v1` with the admin token of the first start.
    pub fn admin(&self, method: &str, path: &str) -> Request {
        self.admin_as(&self.admin_token(), method, path)
    }

    /// A request below `/admin/v1` with any token.
    pub fn admin_as(&self, token: &str, method: &str, path: &str) -> Request {
        let target = format!("/admin/v1{path}");
        Request::new(&self.admin_address, method, &target).bearer(token)
    }

    /// `GET` with the key.
    pub fn get(&self, target: &str) -> Reply {
        self.request("GET", target).send()
    }

    /// Uploads with the key, the way most clients do.
    pub fn upload(&self, purpose: &str, filename: &str, content: &[u8]) -> Reply {
        self.request("POST", "/minimax/v1/files/upload").form(purpose, filename, content).send()
    }

    /// Deletes with the key.
    pub fn delete(&self, file_id: i64) -> Reply {
        let body = format!("{{\"file_id\":{file_id}}}");
        self.request("POST", "/minimax/v1/files/delete")
            .header("Content-Type", "application/json")
            .body(body)
            .send()
    }

    /// Every file or object of `part`, `blobs` or `tmp`, with its length: what is stored.
    pub fn stored(&self, part: &str) -> Vec<(PathBuf, u64)> {
        place::stored(&self.data_dir, self.place(), part)
    }

    /// The one blob in the data directory that has so many bytes.
    #[track_caller]
    pub fn blob(&self, bytes: usize) -> Blob {
        let mut found = place::blobs_of(&self.data_dir, bytes as u64);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// Changes rows beside the server, in one transaction: it keeps nothing of an account in memory.
    #[track_caller]
    pub fn sql(&self, statements: &str) {
        place::execute(&self.data_dir, self.place(), statements);
    }

    /// The one value that a query of the catalog gives.
    #[track_caller]
    pub fn value<T: FromStr>(&self, query: &str) -> T {
        let row = self.row(query);
        let text = row.first().cloned().flatten().unwrap_or_else(|| panic!("{query}: null"));
        text.parse().unwrap_or_else(|_| panic!("{query}: {text}"))
    }

    /// The first row that a query of the catalog gives, each column as PostgreSQL writes it as text.
    #[track_caller]
    pub fn row(&self, query: &str) -> Vec<Option<String>> {
        place::row(&self.data_dir, self.place(), query)
    }

    /// What it keeps elsewhere than in its data directory, if it does.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_deref()
    }

    /// The value of a metric's line on `/metrics` that starts with `name`, 0 if absent.
    pub fn metric(&self, name: &str) -> f64 {
        let page = Request::new(&self.admin_address, "GET", "/metrics").send();
        let text = String::from_utf8_lossy(&page.body).into_owned();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// The temporary directory that is removed with the server, if [`Setup::start`] made it.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_ref().map(tempfile::TempDir::path)
    }

    /// Asks it to stop and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().expect("a child can be waited for")
    }

    /// Sends a signal to the server's process.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.expect("kill can be run").success());
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for TestServer {
    #[expect(clippy::print_stderr, reason = "shown by the test runner when a test fails")]
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let mut log = self.log();
            let from = log.len().saturating_sub(8_000);
            let from = (from..=log.len()).find(|i| log.is_char_boundary(*i)).unwrap_or(0);
            eprintln!("--- the server's log ends with\n{}", log.split_off(from));
        }
    }
}

/// Tries until `check` gives a value, or panics with `what` after ten seconds.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The whole of a file that a test made.
pub fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|mut f| f.read_to_end(&mut bytes)).expect("a readable file");
    bytes
}
