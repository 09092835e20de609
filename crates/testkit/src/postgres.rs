//! A real PostgreSQL of the test's own: a throwaway cluster on a free port, or databases in one that is
//! shared by a whole test run.
//!
//! `FILEGATE_TEST_POSTGRES`, the URL of a superuser, names the shared one. It is never stopped; a test that
//! stops its database starts a cluster of its own with [`Postgres::own`].

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The variable that names a cluster for the whole run.
pub const SHARED: &str = "FILEGATE_TEST_POSTGRES";
/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The superuser's, of a cluster that lives for a test.
const PASSWORD: &str = "of-a-test";
/// For nothing but tests.
const CERTIFICATE: &[u8] = include_bytes!("tls/cert.pem");
const KEY: &[u8] = include_bytes!("tls/key.pem");

/// A cluster, or a place for databases in one. What it made is gone when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    /// Of the superuser, with the database `postgres`.
    url: String,
    cluster: Option<Cluster>,
    databases: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Cluster {
    home: TempDir,
    port: u16,
    settings: Vec<String>,
    running: Option<Child>,
}

impl Postgres {
    /// The run's cluster if there is one, else one of the test's own.
    pub fn new() -> Self {
        match std::env::var(SHARED) {
            Ok(url) if !url.is_empty() => Self { url, cluster: None, databases: Mutex::default() },
            _ => Self::own(&[]),
        }
    }

    /// A cluster that only this test has, with settings such as `fsync=on`.
    pub fn own(settings: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        init(home.path());
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut cluster = Cluster { home, port: 0, settings, running: None };
        // Somebody may take the port before the server does.
        let started = (0..5).any(|_| {
            cluster.port = free_port();
            cluster.start().is_ok()
        });
        assert!(started, "PostgreSQL does not start:\n{}", cluster.log());
        let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", cluster.port);
        Self { url, cluster: Some(cluster), databases: Mutex::default() }
    }

    /// As [`Self::own`], with TLS. The certificate, which is its own authority, is for `localhost` and
    /// 127.0.0.1; see [`Self::certificate`].
    pub fn own_with_tls() -> Self {
        Self::own(&["ssl=on", "ssl_cert_file=../cert.pem", "ssl_key_file=../key.pem"])
    }

    /// The file with the certificate of [`Self::own_with_tls`].
    pub fn certificate(&self) -> PathBuf {
        self.cluster.as_ref().expect("a cluster of the test's own").home.path().join("cert.pem")
    }

    /// The superuser's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes an empty database; gives its URL.
    pub fn database(&self) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let mut random = [0; 6];
        let source = fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random));
        source.expect("random bytes");
        let name = random.iter().fold(format!("filegate_test_{number}_"), |mut name, byte| {
            let _never_fails = write!(name, "{byte:02x}");
            name
        });
        let made = query(&self.url, &format!("CREATE DATABASE {name} TEMPLATE template0"));
        made.expect("a database can be made");
        let url = with_database(&self.url, &name);
        self.databases.lock().expect("no test panics here").push(name);
        url
    }

    fn own_cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("only a cluster of the test's own is stopped")
    }

    /// Starts it again, on the same port with the same data.
    pub fn start(&mut self) {
        let cluster = self.own_cluster();
        let started = Instant::now();
        // What is left of a killed one may still be dying.
        while let Err(why) = cluster.start() {
            assert!(started.elapsed() < PATIENCE, "PostgreSQL does not start: {why}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it in order, cutting connections ("fast").
    pub fn stop(&mut self) {
        let cluster = self.own_cluster();
        cluster.signal("INT");
        cluster.wait();
    }

    /// Ends all of its processes at once, as a crash would.
    pub fn kill(&mut self) {
        self.own_cluster().kill();
    }

    /// Halts all of its processes: connections stay open, and nobody answers.
    pub fn pause(&self) {
        self.cluster
            .as_ref()
            .expect("only a cluster of the test's own is halted")
            .signal_all("STOP");
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.cluster
            .as_ref()
            .expect("only a cluster of the test's own is halted")
            .signal_all("CONT");
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            return cluster.kill();
        }
        for name in self.databases.get_mut().expect("no test panics here").drain(..) {
            let dropped = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            let _left_to_the_run = query(&self.url, &dropped);
        }
    }
}

impl Cluster {
    fn start(&mut self) -> Result<(), String> {
        let mut words = vec!["-D".to_owned(), "data".to_owned()];
        words.extend(["-p".to_owned(), self.port.to_string(), "-k".to_owned(), String::new()]);
        // Loopback only, and no fsync: the machine does not lose power during a test.
        let always = ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=400"];
        for setting in always.iter().map(ToString::to_string).chain(self.settings.iter().cloned()) {
            words.extend(["-c".to_owned(), setting]);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path());
        let log = log.expect("a log can be written");
        // A shell between them stops the server when this process is gone, and with it the pipe.
        let watched = "\"$@\" & server=$!; cat > /dev/null; kill -QUIT $server 2> /dev/null; wait";
        let mut command = Command::new("sh");
        command.args(["-c", watched, "sh"]).args(as_server("postgres")).args(&words);
        command.current_dir(self.home.path()).stdin(Stdio::piped());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        self.running = Some(command.spawn().map_err(|error| error.to_string())?);
        let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", self.port);
        let started = Instant::now();
        loop {
            match query(&url, "SELECT 1") {
                Ok(_) if self.pid().is_some() => return Ok(()),
                _ if started.elapsed() > PATIENCE => break,
                // The pid file is there from the first moment of a server that comes up.
                _ if started.elapsed() > Duration::from_secs(2) && self.pid().is_none() => break,
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        self.kill();
        Err(self.log())
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The postmaster, if it runs.
    fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.home.path().join("data/postmaster.pid")).ok()?;
        let pid = text.lines().next()?.parse().ok()?;
        Path::new(&format!("/proc/{pid}")).try_exists().ok()?.then_some(pid)
    }

    fn signal(&self, name: &str) {
        if let Some(pid) = self.pid() {
            send(name, &[pid]);
        }
    }

    fn signal_all(&self, name: &str) {
        let Some(pid) = self.pid() else { return };
        // The parent first when it is to stop, so that no child is missed that it is just making.
        send(name, &[pid]);
        send(name, &children_of(pid));
    }

    fn kill(&mut self) {
        if let Some(pid) = self.pid() {
            let mut all = children_of(pid);
            all.push(pid);
            send("STOP", &[pid]);
            all.extend(children_of(pid));
            send("KILL", &all);
        }
        self.wait();
    }

    /// Waits until the server and its shell are gone.
    fn wait(&mut self) {
        let started = Instant::now();
        while self.pid().is_some() {
            assert!(started.elapsed() < PATIENCE, "PostgreSQL does not stop:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
        if let Some(mut shell) = self.running.take() {
            drop(shell.stdin.take());
            let _its_status_says_nothing = shell.wait();
        }
    }
}

fn send(signal: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let mut command = Command::new("kill");
    command.args(["-s", signal]).args(pids.iter().map(ToString::to_string));
    // Some may have ended by themselves.
    let _gone = command.stderr(Stdio::null()).status().expect("kill can be run");
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may have any characters: state, then the parent.
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        rest.split(' ').nth(1).and_then(|text| text.parse().ok()) == Some(parent)
    };
    numbers.filter(of_parent).collect()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A program of PostgreSQL as a command, by a user that is not root: it refuses root.
fn as_server(program: &str) -> Vec<String> {
    let program = find(program).to_string_lossy().into_owned();
    match server_user() {
        None => vec![program],
        Some((user, group)) => vec![
            "setpriv".to_owned(),
            format!("--reuid={user}"),
            format!("--regid={group}"),
            "--clear-groups".to_owned(),
            program,
        ],
    }
}

/// `None` unless the test is root.
fn server_user() -> Option<(u32, u32)> {
    let id = |flag: &str, user: &[&str]| {
        let output = Command::new("id").arg(flag).args(user).output().expect("id can be run");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if id("-u", &[]) != Some(0) {
        return None;
    }
    let of = |user: &str| Some((id("-u", &[user])?, id("-g", &[user])?));
    of("postgres").or_else(|| of("nobody"))
}

/// The newest of Debian's versions, or what is in the PATH.
fn find(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| -> u32 {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.parse().unwrap_or(0)
    };
    let mut homes: Vec<_> = versions.map(|version| version.path()).collect();
    homes.sort_by_key(|path| std::cmp::Reverse(number(path)));
    let programs = homes.into_iter().map(|home| home.join("bin").join(program));
    let found = programs.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from(program))
}

fn init(home: &Path) {
    if let Some((user, group)) = server_user() {
        chown(home, Some(user), Some(group)).expect("root may give a directory away");
    }
    let password = home.join("password");
    let mut file = fs::File::create(&password).expect("a file in it");
    io::Write::write_all(&mut file, PASSWORD.as_bytes()).expect("room for it");
    for (name, text) in [("cert.pem", CERTIFICATE), ("key.pem", KEY)] {
        let mut file = fs::OpenOptions::new();
        let file = file.create_new(true).write(true).mode(0o600).open(home.join(name));
        io::Write::write_all(&mut file.expect("a file in it"), text).expect("room for it");
        if let Some((user, group)) = server_user() {
            chown(home.join(name), Some(user), Some(group)).expect("root may give it away");
        }
    }
    let words = as_server("initdb");
    let init = |locale: &[&str]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["-D", "data", "-U", "postgres", "--no-sync"]);
        command.args(["--encoding=UTF8", "--auth=scram-sha-256", "--pwfile=password"]);
        command.args(locale).current_dir(home).output().expect("initdb can be run")
    };
    // The order of a language by default, so that a column that forgets to say "C" is found out.
    let of_language = ["--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"];
    let mut output = init(&of_language);
    if !output.status.success() {
        let _half_made = fs::remove_dir_all(home.join("data"));
        output = init(&["--locale=C.UTF-8"]);
    }
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

/// `url` with another database.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, q)| (base, Some(q)));
    let (scheme, rest) = base.split_once("://").expect("a URL");
    let host = rest.split('/').next().unwrap_or(rest);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{host}/{name}{query}")
}

/// Runs statements on the database at `url`; gives the rows of all of them, as text.
///
/// # Errors
/// What the server said.
pub fn query(url: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    // On a thread of its own: the caller may be within a runtime.
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let asked = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            let answered = tokio::time::timeout(PATIENCE, ask(&url, &sql)).await;
            answered.unwrap_or_else(|_elapsed| Err("no answer".to_owned()))
        })
    });
    asked.join().expect("asking does not panic")
}

async fn ask(url: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let said = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(db) => db.to_string(),
        None => error.to_string(),
    };
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(said)?;
    let asking = async {
        let answers = client.simple_query(sql).await.map_err(said);
        drop(client);
        answers
    };
    let (answers, _ended) = tokio::join!(asking, connection);
    let mut rows = Vec::new();
    for answer in answers? {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = answer {
            rows.push((0..row.len()).map(|i| row.get(i).map(ToOwned::to_owned)).collect());
        }
    }
    Ok(rows)
}
