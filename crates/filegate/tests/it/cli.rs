//! The client commands against a fake server: what is printed where, and the exit codes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fake::{Answer, Fake, Request};

const SUCCESS: &str = r#""base_resp":{"status_code":0,"status_msg":"success"}"#;
const TRACE: &str = "Trace-Id: 0123456789abcdef0123456789abcdef";
/// SHA-256 of `hello` as `Repr-Digest` has it.
const HELLO: &str = "Repr-Digest: sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";

fn filegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
    command.env_remove("FILEGATE_URL").env_remove("FILEGATE_KEY");
    command
}

fn run(url: &str, args: &[impl AsRef<OsStr>]) -> Output {
    filegate().args(["--url", url, "--key", "fg-k"]).args(args).output().unwrap()
}

fn run_in(directory: &Path, url: &str, args: &[&str]) -> Output {
    let mut command = filegate();
    command.current_dir(directory).args(["--url", url, "--key", "fg-k"]).args(args);
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn write(path: &Path, content: &[u8]) {
    File::create(path).unwrap().write_all(content).unwrap();
}

fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn file_json(id: u64, name: &str) -> String {
    let name = serde_json::to_string(name).unwrap();
    format!(
        r#"{{"file_id":{id},"bytes":5,"created_at":1700469398,"filename":{name},"purpose":"voice_clone","media":{{"format":"wav","duration_ms":12500}},"download_url":"http://h/d/{id}"}}"#
    )
}

fn file_reply(id: u64, name: &str) -> Answer {
    Answer::json(&format!(r#"{{"file":{},{SUCCESS}}}"#, file_json(id, name)))
}

fn refusal(code: i64, message: &str) -> Answer {
    Answer::json(&format!(
        r#"{{"file":null,"base_resp":{{"status_code":{code},"status_msg":"{message}"}}}}"#
    ))
    .header(TRACE)
}

fn hello() -> Answer {
    Answer::new("audio/wav", "hello").header(HELLO)
}

/// Answers a download of `hello`, stored as `name`.
fn stored(name: &'static str) -> impl Fn(&Request) -> Answer + Send + Sync {
    move |request| {
        if request.line.contains("retrieve_content") { hello() } else { file_reply(7, name) }
    }
}

#[test]
fn wrong_usage_is_2_and_says_why() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["upload", "a.wav"], "--purpose"),
        (&["info", "0"], "positive integer"),
        (&["rm"], "ID"),
        (&["ls", "--limit", "0"], "1..=10000"),
        (&["ls", "--json", "-q"], "cannot be used with"),
        (&["ls", "--all", "--limit", "5"], "cannot be used with"),
        (&["bench", "--sizes", "lots"], "20MiB"),
    ];
    for (args, says) in cases {
        let output = filegate().env("FILEGATE_KEY", "fg-k").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(says), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn what_clap_cannot_see_is_2_as_well() {
    let cases: [(&str, &[&str], &str); 5] = [
        ("ftp://h", &["ls"], "http://"),
        ("http://h", &["upload", "-", "-p", "voice_clone"], "--name"),
        ("http://h", &["upload", "a", "b", "-p", "voice_clone", "--name", "c"], "single FILE"),
        ("http://h", &["upload", "/no/such/file", "-p", "voice_clone"], "No such file"),
        ("https://h", &["bench"], "plain http://"),
    ];
    for (url, args, says) in cases {
        let output = run(url, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(says), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_key_is_asked_for_and_never_shown() {
    for key in [None, Some("")] {
        let mut command = filegate();
        if let Some(key) = key {
            command.env("FILEGATE_KEY", key);
        }
        let output = command.arg("ls").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("FILEGATE_KEY"), "{}", stderr(&output));
    }
    let output =
        filegate().env("FILEGATE_KEY", "fg-hidden").args(["ls", "--help"]).output().unwrap();
    assert!(!stdout(&output).contains("hidden"), "{}", stdout(&output));
    let output = filegate().args(["--key", "fg hidden", "ls"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("hidden"), "{}", stderr(&output));
}

#[test]
fn every_command_teaches_itself() {
    for command in ["upload", "ls", "info", "get", "rm", "bench"] {
        let output = filegate().args([command, "--help"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}");
        let help = stdout(&output);
        assert!(help.contains("Examples:") && help.contains("FILEGATE_KEY"), "{help}");
    }
    let help = stdout(&filegate().arg("--help").output().unwrap());
    assert!(help.contains("Exit codes: 0 done"), "{help}");
}

#[test]
fn no_server_is_3_and_ends_the_command() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.wav", "b.wav"] {
        write(&directory.path().join(name), b"hello");
    }
    let cases: [&[&str]; 6] = [
        &["ls"],
        &["info", "7", "8"],
        &["get", "7"],
        &["rm", "7", "8"],
        &["upload", "a.wav", "b.wav", "-p", "voice_clone"],
        &["bench"],
    ];
    for args in cases {
        let output = run_in(directory.path(), &closed_port(), args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let text = stderr(&output);
        assert!(text.contains("refused"), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    }
}

#[test]
fn uploads_print_ids_facts_or_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.wav");
    write(&path, b"hello");
    let fake = Fake::start(|_request| file_reply(7, "a.wav"));
    let path = path.to_str().unwrap();
    let output = run(&fake.url, &["upload", path, "-p", "voice_clone"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "7  5 B  a.wav  wav 12.50 s\n");
    assert!(fake.request().body.windows(5).any(|window| window == b"hello"));
    let output = run(&fake.url, &["upload", path, "-p", "voice_clone", "-q"]);
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("7\n", ""));
    let output = run(&fake.url, &["upload", path, "-p", "voice_clone", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["file"]["file_id"], 7);
    assert_eq!(json["path"], path);
}

#[test]
fn a_refused_file_is_1_word_for_word_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.wav", "b.wav"] {
        write(&directory.path().join(name), b"hello");
    }
    let fake = Fake::start(|request| {
        let body = String::from_utf8_lossy(&request.body);
        if body.contains("a.wav") {
            return refusal(2037, "voice duration too short: 8.42 s, at least 10 s");
        }
        file_reply(8, "b.wav")
    });
    let args = ["upload", "a.wav", "b.wav", "-q", "-p", "voice_clone"];
    let output = run_in(directory.path(), &fake.url, &args);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "8\n");
    assert_eq!(
        stderr(&output),
        "error: a.wav: voice duration too short: 8.42 s, at least 10 s (2037) \
         [Trace-Id 0123456789abcdef0123456789abcdef]\n"
    );
    let args = ["upload", "a.wav", "missing.wav", "b.wav", "--json", "-p", "voice_clone"];
    let output = run_in(directory.path(), &fake.url, &args);
    assert_eq!(output.status.code(), Some(2), "the worst counts");
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["base_resp"]["status_code"], 2037);
    assert!(lines[1]["error"].as_str().unwrap().contains("No such file"));
    assert_eq!(lines[2]["file"]["file_id"], 8);
}

#[test]
fn a_fault_of_the_server_is_3() {
    let fake = Fake::start(|_request| refusal(1013, "internal service error"));
    assert_eq!(run(&fake.url, &["ls"]).status.code(), Some(3));
    let fake = Fake::start(|_request| Answer::new("text/html", "").status("502 Bad Gateway"));
    assert_eq!(run(&fake.url, &["ls"]).status.code(), Some(3));
}

#[test]
fn standard_input_is_uploaded_under_a_given_name() {
    let fake = Fake::start(|_request| {
        Answer::json(&format!(
            r#"{{"file":null,"validated":{{"bytes":5,"filename":"x.wav","purpose":"voice_clone","sha256":"00","media":{{"format":"wav"}}}},{SUCCESS}}}"#
        ))
    });
    let mut child = filegate()
        .args(["upload", "-", "--name", "x.wav", "-p", "voice_clone", "--validate-only"])
        .args(["--url", &fake.url, "--key", "fg-k"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "valid  5 B  x.wav  wav\n");
    let request = fake.request();
    assert!(request.line.contains("validate_only=true"), "{}", request.line);
    assert!(String::from_utf8(request.body).unwrap().contains("filename=\"x.wav\""));
}

fn listing(request: &Request) -> Answer {
    let first = !request.line.contains("after=");
    let (files, more) = if first {
        (format!("{},{}", file_json(19, "声音.wav"), file_json(8, "e\u{1b}[2J.wav")), true)
    } else {
        (file_json(7, "last.wav"), false)
    };
    Answer::json(&format!(r#"{{"files":[{files}],"has_more":{more},{SUCCESS}}}"#))
}

#[test]
fn ls_prints_a_table_ids_or_json_lines() {
    let fake = Fake::start(listing);
    let output = run(&fake.url, &["ls", "--purpose", "voice_clone"]);
    assert_eq!(
        stdout(&output),
        "ID  SIZE  CREATED               EXPIRES  PURPOSE      NAME\n\
         19   5 B  2023-11-20 08:36:38Z  never    voice_clone  声音.wav\n \
          8   5 B  2023-11-20 08:36:38Z  never    voice_clone  e\\u{1b}[2J.wav\n"
    );
    assert!(stderr(&output).contains("--after 8"), "{}", stderr(&output));
    assert_eq!(fake.request().line, "GET /v1/files/list?purpose=voice_clone&limit=100 HTTP/1.1");
    assert_eq!(stdout(&run(&fake.url, &["ls", "--all", "-q"])), "19\n8\n7\n");
    let output = run(&fake.url, &["ls", "--all", "--json"]);
    assert_eq!(stdout(&output).lines().count(), 3);
    let empty = Fake::start(|_request| Answer::json(&format!(r#"{{"files":[],{SUCCESS}}}"#)));
    let output = run(&empty.url, &["ls"]);
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("", "no files\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let fake = Fake::start(listing);
    let mut child = filegate()
        .args(["ls", "--all", "--url", &fake.url, "--key", "fg-k"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((child.wait().unwrap().code(), text.as_str()), (Some(0), ""));
}

#[test]
fn info_shows_everything() {
    let fake = Fake::start(|_request| file_reply(7, "a.wav"));
    let text = stdout(&run(&fake.url, &["info", "7"]));
    for line in [
        "id:           7",
        "size:         5 B (5 bytes)",
        "duration_ms:  12500",
        "download_url: http://h/d/7",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
    }
    let json = stdout(&run(&fake.url, &["info", "7", "--json"]));
    assert!(json.contains(r#""download_url":"http://h/d/7""#), "{json}");
}

#[test]
fn rm_goes_on_after_a_refusal() {
    let fake = Fake::start(|request| {
        if request.body.starts_with(br#"{"file_id":7,"#) {
            return refusal(2013, "invalid params, file not found");
        }
        Answer::json(&format!(r#"{{"file_id":8,{SUCCESS}}}"#))
    });
    let output = run(&fake.url, &["rm", "7", "8", "--purpose", "voice_clone"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "deleted 8\n");
    assert!(stderr(&output).starts_with("error: 7: invalid params, file not found (2013)"));
    assert_eq!(fake.request().body, br#"{"file_id":7,"purpose":"voice_clone"}"#);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn get_writes_the_stored_name_once_and_inside_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(stored("../../up.wav"));
    let output = run_in(directory.path(), &fake.url, &["get", "7"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "up.wav  5 B\n");
    assert_eq!(names(directory.path()), ["up.wav"]);
    let path = directory.path().join("up.wav");
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");

    write(&path, b"mine");
    let output = run_in(directory.path(), &fake.url, &["get", "7"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--force"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let output = run_in(directory.path(), &fake.url, &["get", "7", "--force", "--json"]);
    assert!(stdout(&output).contains("2cf24dba5fb0a30e26e83b2ac5b9e29e"), "{}", stdout(&output));
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
}

#[test]
fn get_writes_where_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(stored(".hidden"));
    let output = run(&fake.url, &["get", "7", "-o", "-"]);
    assert_eq!(output.stdout, b"hello");
    let to = directory.path().to_str().unwrap();
    assert_eq!(run(&fake.url, &["get", "7", "-o", to]).status.code(), Some(0));
    assert_eq!(names(directory.path()), ["_hidden"]);
    let output = run(&fake.url, &["get", "7", "-o", &format!("{to}/no/such")]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn get_leaves_nothing_that_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(|_request| Answer::new("audio/wav", "hellO").header(HELLO));
    let output = run_in(directory.path(), &fake.url, &["get", "7", "-o", "a.wav"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    assert!(names(directory.path()).is_empty());
}

#[test]
fn get_goes_on_after_a_break() {
    let directory = tempfile::tempdir().unwrap();
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(move |_request| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => hello().cut(2),
        1 => hello().status("500 Nope").cut(0),
        _ => Answer::new("audio/wav", "llo")
            .status("206 Partial Content")
            .header("Content-Range: bytes 2-4/5")
            .header(HELLO),
    });
    let output = run_in(directory.path(), &fake.url, &["get", "7", "-o", "a.wav"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read(directory.path().join("a.wav")).unwrap(), b"hello");
}

#[test]
fn verbose_says_what_was_answered_and_not_the_key() {
    let fake = Fake::start(|_request| refusal(2013, "no"));
    let output = run(&fake.url, &["-v", "ls"]);
    let text = stderr(&output);
    assert!(text.contains("call=\"list\"") && text.contains("trace_id="), "{text}");
    assert!(!text.contains("fg-k"), "{text}");
}

fn bench(request: &Request) -> Answer {
    if request.line.contains("/upload") {
        file_reply(7, "bench.wav")
    } else if request.line.contains("/retrieve_content") {
        Answer::new("audio/wav", vec![0; 100_000])
    } else if request.line.contains("/retrieve?") {
        file_reply(7, "bench.wav")
    } else {
        Answer::json(&format!(r#"{{"file_id":7,{SUCCESS}}}"#))
    }
}

#[test]
fn bench_measures_and_cleans_up() {
    let fake = Fake::start(bench);
    let args = ["bench", "--sizes", "100KB", "--concurrency", "1,3", "--seconds", "200ms"];
    let output = run(&fake.url, &[&args[..], &["--warm-up", "0s", "--reads", "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let calls: Vec<_> = lines.iter().map(|line| line["call"].as_str().unwrap()).collect();
    assert_eq!(calls, ["upload", "upload", "retrieve", "retrieve", "content", "content"]);
    let mut done = 0;
    for line in &lines {
        assert_eq!(line["failed"], 0, "{line}");
        assert!(line["done"].as_u64().unwrap() > 0, "{line}");
        if line["call"] == "upload" {
            done += line["done"].as_u64().unwrap();
        }
    }
    let (mut uploads, mut deletes) = (0, 0);
    while let Some(request) = fake.try_request() {
        uploads += u64::from(request.line.contains("/upload"));
        deletes += u64::from(request.line.contains("/delete"));
    }
    assert_eq!((uploads, deletes), (done + 2, done + 2));
}

#[test]
fn bench_tells_refusals() {
    let fake = Fake::start(|_request| refusal(1002, "rate limit"));
    let output = run(&fake.url, &["bench", "--sizes", "100KB"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("rate limit (1002)"), "{}", stderr(&output));
}
