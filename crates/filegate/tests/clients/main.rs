//! Published clients against the real server, and the snippets of the README.
//!
//! Scripts stand beside this file. They are given the server in `FILEGATE_URL` and `FILEGATE_KEY`, run
//! in a directory that holds `samples/`, and fail by their status.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod curl;
mod emulate;
mod operations;
mod packages;
mod readme;
mod relay;
mod through;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use filegate_testkit::server::{Setup, TestServer, clean_environment};
use tempfile::TempDir;

const FILEGATE: &str = env!("CARGO_BIN_EXE_filegate");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A server with a working directory for its clients.
struct Bench {
    server: TestServer,
    work: TempDir,
}

impl Bench {
    fn start() -> Self {
        Self::of(&Setup::new(FILEGATE))
    }

    fn of(setup: &Setup) -> Self {
        let work = tempfile::tempdir().unwrap();
        let samples = work.path().join("samples");
        fs::create_dir(&samples).unwrap();
        for entry in fs::read_dir(Path::new(REPOSITORY).join("samples")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), samples.join(entry.file_name())).unwrap();
        }
        Self { server: setup.start(), work }
    }

    /// What MiniMax clients take as their base URL.
    fn base(&self) -> String {
        format!("{}/minimax", self.server.url())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Makes a file in the working directory.
    fn write(&self, name: &str, content: &[u8]) {
        File::create(self.path(name)).unwrap().write_all(content).unwrap();
    }

    /// A command in the working directory that knows the server, and no proxy.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        clean_environment(&mut command);
        for proxy in
            ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
        {
            command.env_remove(proxy);
        }
        command
            .current_dir(self.work.path())
            .env("HOME", self.work.path())
            .env("FILEGATE_URL", self.base())
            .env("FILEGATE_KEY", &self.server.key);
        command
    }

    /// How many files the key sees.
    fn files(&self) -> Vec<serde_json::Value> {
        self.server.get("/v1/files/list").json()["files"].as_array().unwrap().clone()
    }
}

/// Runs it to its end; a status other than 0 fails the test with all that it wrote.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", told(command, &output));
    text
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()))
}

fn told(command: &Command, output: &Output) -> String {
    format!(
        "{} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
        command.get_program().display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn python(bench: &Bench, script: &str) -> Command {
    let mut command = bench.command(packages::python());
    command.arg(format!("{SCRIPTS}/{script}")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
fn python_requests() {
    let bench = Bench::start();
    succeed(python(&bench, "python_client.py").arg("requests"));
}

#[test]
fn python_httpx() {
    let bench = Bench::start();
    succeed(python(&bench, "python_client.py").arg("httpx"));
}

/// Node's own `fetch` and `FormData`, which are undici's.
#[test]
fn node_fetch() {
    let bench = Bench::start();
    succeed(bench.command("node").arg(format!("{SCRIPTS}/fetch_client.mjs")));
}

/// The voice_clone tool of the published MCP server. Its second call, `/v1/voice_clone`, is not
/// served here yet; the upload before it has to be.
#[test]
fn minimax_mcp() {
    let bench = Bench::start();
    let told = succeed(
        python(&bench, "mcp_client.py")
            .env("MINIMAX_API_HOST", bench.base())
            .env("MINIMAX_API_KEY", &bench.server.key)
            .env("MINIMAX_MCP_BASE_PATH", bench.work.path()),
    );
    let id: i64 = told.trim().parse().unwrap();
    let [file] = &bench.files()[..] else { panic!("{:?}", bench.files()) };
    assert_eq!(file["file_id"], id);
    assert_eq!(file["filename"], "voice.mp3");
    let content = bench.server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    assert_eq!(content.body, fs::read(bench.path("samples/voice.mp3")).unwrap());
}

/// The published command line `mmx`: upload (file before purpose), list, delete, and a refusal.
#[test]
fn mmx_cli() {
    let bench = Bench::start();
    let program = packages::mmx();
    let mmx = |words: &[&str]| {
        let mut command = bench.command(&program);
        // Without a region it asks the vendor's hosts first.
        command.args(["--base-url", &bench.base(), "--region", "global", "--output", "json"]);
        command.args(["--api-key", &bench.server.key, "--non-interactive", "file"]).args(words);
        command
    };
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();

    let voice = ["upload", "--file", "samples/voice.mp3", "--purpose", "voice_clone"];
    let uploaded = json(succeed(&mut mmx(&voice)));
    let id = uploaded["file_id"].as_i64().unwrap();
    assert_eq!(uploaded["filename"], "voice.mp3");

    let listed = json(succeed(&mut mmx(&["list"])));
    assert_eq!(listed["files"][0]["file_id"], id);

    let long = ["upload", "--file", "samples/too-long.mp3", "--purpose", "voice_clone"];
    let output = run(&mut mmx(&long));
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("voice duration too long: 305 s, at most 300 s"), "{stderr}");

    let deleted = json(succeed(&mut mmx(&["delete", "--file-id", &id.to_string()])));
    assert_eq!(deleted["deleted"], true);
    assert!(bench.files().is_empty());
}
