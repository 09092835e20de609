//! `filegate emulate`: published clients against it, the page that describes it, and its command line.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use filegate_testkit::http::Request;
use filegate_testkit::samples;
use filegate_testkit::server::clean_environment;
use serde_json::{Value, json};

use crate::readme::{interpreter, snippets};
use crate::{Bench, FILEGATE, REPOSITORY, SCRIPTS, packages, run, succeed, told};

/// A running emulator. Killed when dropped.
pub(crate) struct Emulated {
    child: Child,
    url: String,
    pub(crate) key: String,
}

impl Emulated {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = emulate(arguments);
        let mut child = command.arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self { child, url: text(&said["url"]), key: text(&said["accounts"][0]["key"]) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Paths, codes and accounts of all calls, in order.
    fn calls(&self) -> Vec<(String, i64)> {
        let calls = Request::new(self.address(), "GET", "/emulate/calls").send().json();
        let calls = calls["calls"].as_array().unwrap().iter();
        calls
            .map(|call| {
                (call["path"].as_str().unwrap().to_owned(), call["code"].as_i64().unwrap_or(-1))
            })
            .collect()
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn emulate(arguments: &[&str]) -> Command {
    let mut command = Command::new(FILEGATE);
    clean_environment(&mut command);
    command.arg("emulate").args(arguments);
    command
}

/// A line that was printed is the path of audio that decodes, this long at least.
#[track_caller]
pub(crate) fn plays(bench: &Bench, line: &str, least_ms: u64) {
    let (audio, lasts_ms) = samples::decoded(&bench.path(line));
    assert_eq!((audio.codec, audio.sample_rate_hz), ("mp3", 32_000));
    assert!(lasts_ms >= least_ms, "{line} lasts {lasts_ms} ms");
}

#[test]
fn minimax_mcp_clones_and_speaks() {
    let bench = Bench::start();
    let emulated = Emulated::start(&["--seed", "7", "--clock", "standing"]);
    let told = succeed(
        bench
            .command(packages::python())
            .arg(format!("{SCRIPTS}/mcp_emulated.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("MINIMAX_API_HOST", &emulated.url)
            .env("MINIMAX_API_KEY", &emulated.key)
            .env("MINIMAX_API_RESOURCE_MODE", "local")
            .env("MINIMAX_MCP_BASE_PATH", bench.work.path()),
    );
    let lines: Vec<&str> = told.lines().collect();
    let [preview, speech, video] = lines[..] else { panic!("{told}") };
    plays(&bench, preview, 300);
    plays(&bench, speech, 1500);
    let video = samples::ffprobe(&bench.path(video));
    let shape =
        ["codec_name", "width", "height", "nb_frames"].map(|name| &video["streams"][0][name]);
    assert_eq!(shape, [&json!("h264"), &json!(1366), &json!(768), &json!("150")]);
    let calls = emulated.calls();
    let first: Vec<(&str, i64)> = calls.iter().take(4).map(|(p, c)| (p.as_str(), *c)).collect();
    let [upload, clone, (download, -1), speech] = first[..] else { panic!("{first:?}") };
    assert_eq!(upload, ("/v1/files/upload", 0));
    assert_eq!(clone, ("/v1/voice_clone", 0));
    assert!(download.starts_with("/emulate/oss/made/"));
    assert_eq!(speech, ("/v1/t2a_v2", 0));
}

#[test]
fn mmx_uploads_speaks_and_makes_a_video() {
    let bench = Bench::start();
    let emulated = Emulated::start(&["--key", "shop=sk-test", "--task-time", "1ms"]);
    let program = packages::mmx();
    let mmx = |words: &[&str]| {
        let mut command = bench.command(&program);
        command.args(["--base-url", &emulated.url, "--region", "global", "--output", "json"]);
        command.args(["--api-key", "sk-test", "--non-interactive"]).args(words);
        command
    };
    let parsed = |text: String| serde_json::from_str::<Value>(&text).unwrap();

    let upload = ["file", "upload", "--file", "samples/voice.mp3", "--purpose", "voice_clone"];
    let id = parsed(succeed(&mut mmx(&upload)))["file_id"].as_i64().unwrap();
    let clone = format!(r#"{{"file_id":{id},"voice_id":"my-voice-1"}}"#);
    let clone =
        Request::new(emulated.address(), "POST", "/v1/voice_clone").bearer("sk-test").body(clone);
    assert_eq!(clone.send().code(), 0);

    let speak = ["speech", "synthesize", "--text", "Hello from a test", "--voice", "my-voice-1"];
    let spoken = parsed(succeed(mmx(&speak).args(["--out", "hello.mp3"])));
    plays(&bench, "hello.mp3", spoken["duration_ms"].as_u64().unwrap() - 100);
    assert!(succeed(&mut mmx(&["speech", "voices"])).contains("female-shaonv"));

    let video = ["video", "generate", "--model", "MiniMax-Hailuo-2.3", "--prompt", "a cat"];
    let task = parsed(succeed(mmx(&video).arg("--no-wait")))["taskId"].as_str().unwrap().to_owned();
    let shown = parsed(succeed(&mut mmx(&["video", "task", "get", "--task-id", &task])));
    assert_eq!(shown["status"], "Success", "{shown}");

    let nobody = run(mmx(&speak).args(["--voice", "nobody-0001", "--out", "x.mp3"]));
    assert!(!nobody.status.success());
    let deleted = parsed(succeed(&mut mmx(&["file", "delete", "--file-id", &id.to_string()])));
    assert_eq!(deleted["deleted"], true);
}

#[test]
fn the_examples_of_the_page_work() {
    let page = fs::read_to_string(Path::new(REPOSITORY).join("docs/EMULATOR.md")).unwrap();
    let all = snippets(&page);
    let languages: Vec<&str> = all.iter().map(|snippet| snippet.language.as_str()).collect();
    assert_eq!(languages, ["python", "js"]);
    let bench = Bench::start();
    for snippet in &all {
        let mut command = interpreter(&bench, "sh");
        let file = if snippet.language == "js" { "example.mjs" } else { "test_example.py" };
        bench.write(file, snippet.text.as_bytes());
        match snippet.language.as_str() {
            "js" => command.arg("node example.mjs"),
            _ => command.arg("\"$PYTHON\" -m pytest -q -p no:cacheprovider test_example.py"),
        };
        let output =
            run(command.env("PYTHON", packages::python()).env("PYTHONDONTWRITEBYTECODE", "1"));
        assert!(output.status.success(), "line {}: {}", snippet.line, told(&command, &output));
        if snippet.language == "python" {
            assert!(String::from_utf8_lossy(&output.stdout).contains("2 passed"));
        }
    }
}

#[test]
fn the_page_names_every_fault_and_its_file_is_valid() {
    let page = fs::read_to_string(Path::new(REPOSITORY).join("docs/EMULATOR.md")).unwrap();
    let help = succeed(emulate(&["--help"]).env("COLUMNS", "400"));
    let (_, kinds) = help.split_once("Kinds: ").unwrap();
    let kinds: Vec<&str> = kinds.split_once(". docs/").unwrap().0.split_whitespace().collect();
    assert_eq!(kinds.len(), 16);
    let emulated = Emulated::start(&[]);
    for kind in kinds {
        assert!(page.contains(&format!("\n| `{kind}` |")), "{kind}");
        let code = if kind == "code" { ",\"code\":1000" } else { "" };
        let fault = format!("{{\"kind\":\"{kind}\"{code}}}");
        let reply = Request::new(emulated.address(), "POST", "/emulate/faults").body(fault).send();
        assert_eq!(reply.status, 200, "{kind}: {}", reply.text());
    }
    let toml = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let file = write(toml);
    let _starts = Emulated::start(&["--faults", file.path().to_str().unwrap()]);
}

fn write(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
    file
}

#[test]
fn wrong_command_lines_say_what_is_wrong() {
    let faults = write("[[fault]]\nkind = \"explode\"\n");
    let taken = Emulated::start(&[]);
    for (arguments, says) in [
        (&["--faults", "/nowhere/faults.toml"][..], "--faults"),
        (&["--faults", faults.path().to_str().unwrap()], "explode"),
        (&["--key", "a=1", "--key", "a=2"], "given twice"),
        (&["--key", "a b=1"], "a name of an account"),
        (&["--accounts", "0"], "--accounts"),
        (&["--accounts", "2", "--key", "x"], "--accounts"),
        (&["--listen", taken.address()], "cannot listen on"),
    ] {
        let output = run(&mut emulate(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[test]
fn accounts_are_made_named_or_taken_from_the_environment() {
    let accounts = |mut command: Command| -> Vec<(String, String)> {
        let mut child = command.arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(child.wait().unwrap().success(), "SIGTERM ends it in order");
        let said: Value = serde_json::from_str(&line).unwrap();
        let all = said["accounts"].as_array().unwrap().iter();
        all.map(|a| (a["name"].as_str().unwrap().to_owned(), a["key"].as_str().unwrap().to_owned()))
            .collect()
    };
    let made = accounts(emulate(&["--accounts", "5", "--seed", "3"]));
    assert_eq!(made.len(), 5);
    assert_eq!((made[0].0.as_str(), made[4].0.as_str()), ("a1", "a5"));
    assert_eq!(made, accounts(emulate(&["--accounts", "5", "--seed", "3"])));
    assert_ne!(made, accounts(emulate(&["--accounts", "5", "--seed", "4"])));
    let pair = |name: &str, key: &str| (name.to_owned(), key.to_owned());
    assert_eq!(
        accounts(emulate(&["--key", "shop=sk-1", "--key", "sk-2"])),
        [pair("shop", "sk-1"), pair("a2", "sk-2")]
    );
    let mut command = emulate(&[]);
    command.env("FILEGATE_KEY", "sk-env");
    assert_eq!(accounts(command), [pair("a1", "sk-env")]);
}
