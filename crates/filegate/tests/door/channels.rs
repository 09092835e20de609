//! Channels as operators see them: their keys, what is told of them, and how they come and go.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use filegate_testkit::place::only_embedded;
use filegate_testkit::server::{Setup, TestServer, clean_environment, read};
use serde_json::{Value, json};

use crate::admin::{get, post, refused, send, setup};

/// Sealing keys in base64: 32 times the byte 1, and 2.
const SEALING: [&str; 2] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
];

/// Upstream's stand-in, in a process of its own.
pub(crate) struct Upstream {
    child: Child,
    pub(crate) url: String,
}

impl Upstream {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
        clean_environment(&mut command);
        command.arg("emulate").args(arguments).arg("--json").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        Self { child, url: said["url"].as_str().unwrap().to_owned() }
    }

    fn files(&self, key: &str) -> usize {
        let address = self.url.strip_prefix("http://").unwrap();
        let target = "/v1/files/list?purpose=t2a_async_input";
        let listed =
            filegate_testkit::http::Request::new(address, "GET", target).bearer(key).send();
        listed.json()["files"].as_array().unwrap().len()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A gateway whose keys of channels are sealed with a setting, and which knows these regions.
pub(crate) fn relaying(regions: &[&Upstream]) -> Setup {
    let regions: Vec<&str> = regions.iter().map(|region| region.url.as_str()).collect();
    setup().config(&format!("[relay]\nsecret_key = '{}'\nregions = {regions:?}\n", SEALING[0]))
}

/// Runs a command of operators against the server, with `secret` in the variable UPSTREAM_KEY and on
/// standard input.
fn run(server: &TestServer, words: &[&str], secret: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
    clean_environment(&mut command);
    command.args(words).env("UPSTREAM_KEY", secret);
    command.env("FILEGATE_ADMIN_URL", format!("http://{}", server.admin_address));
    command.env("FILEGATE_ADMIN_TOKEN", server.admin_token());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may be gone by now.
    let _unread = writeln!(child.stdin.take().unwrap(), "{secret}");
    child.wait_with_output().unwrap()
}

#[track_caller]
fn ok(server: &TestServer, words: &[&str], secret: &str) -> String {
    let output = run(server, words, secret);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn add(server: &TestServer, name: &str, base_url: &str, key: &str) -> Value {
    post(server, "/channels", &json!({"name": name, "base_url": base_url, "key": key}))
}

/// Every byte of every file below a directory.
fn everything_below(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            all.extend(everything_below(&entry.path()));
        } else {
            all.extend(read(&entry.path()));
        }
    }
    all
}

fn holds(all: &[u8], text: &str) -> bool {
    all.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn a_key_is_sealed_at_rest_and_shown_by_nothing() {
    const KEY: &str = "sk-api-upstream-hush-hush-9f3e";
    const SECOND: &str = "sk-api-second-quiet-quiet-77aa";
    let upstream = Upstream::start(&["--key", KEY, "--key", SECOND]);
    let server = relaying(&[&upstream]).env("FILEGATE_LOG__FILTER", "trace").start();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("key");
    File::create(&file).unwrap().write_all(KEY.as_bytes()).unwrap();
    let (file, url) = (file.to_str().unwrap(), upstream.url.as_str());
    let mut told = Vec::new();
    let commands: &[&[&str]] = &[
        &["add", "one", "--base-url", url, "--key-env", "UPSTREAM_KEY", "--idempotency-key", "k"],
        &["add", "one", "--base-url", url, "--key-env", "UPSTREAM_KEY", "--idempotency-key", "k"],
        &["add", "two", "--base-url", url, "--key-file", file, "--dry-run"],
        &["add", "two", "--base-url", url, "--key-file", file, "--weight", "3"],
        &["add", "three", "--base-url", url, "--key-file", "-", "--account", "default"],
        &["set", "three", "--base-url", url, "--key-env", "UPSTREAM_KEY"],
        &["set", "two", "--max-rpm", "60", "--purposes", "voice_clone", "--region", "cn"],
        &["ls"],
        &["show", "one"],
        &["test", "one"],
        &["test", "--base-url", url, "--key-env", "UPSTREAM_KEY"],
        &["cost", "set", "one", "0.06", "--path", "/v1/t2a_v2", "--unit", "kilounit"],
        &["cost", "ls"],
        &["margin"],
        &["drain", "one"],
        &["enable", "one"],
        &["disable", "one"],
        &["reseal"],
        &["rm", "three"],
        &["ls", "--state", "removed"],
        // And what does not work.
        &["add", "one", "--base-url", url, "--key-env", "UPSTREAM_KEY"],
        &["add", "four", "--base-url", "nowhere", "--key-env", "UPSTREAM_KEY"],
        &["test", "nobody"],
    ];
    for (nth, words) in commands.iter().enumerate() {
        let style: &[&str] = if nth % 2 == 0 { &["-v"] } else { &["-v", "--json"] };
        let words = [&["channel"], *words, style].concat();
        let output = run(&server, &words, KEY);
        let failed = nth >= commands.len() - 3;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), !failed, "{words:?}: {stderr}");
        told.extend(output.stdout);
        told.extend(output.stderr);
    }
    // Keys that cannot be sent, or are said where none belongs.
    for body in [
        json!({"name": "x", "base_url": url, "key": format!("{SECOND} x")}),
        json!({"name": "x", "base_url": url, "key": [SECOND]}),
        json!({"name": "x", "base_url": format!("{url}?key={SECOND}"), "key": "k"}),
        json!({"name": "x", "base_url": "https://[", "key": SECOND, "colour": 1}),
    ] {
        let reply = send(&server, "/channels", &body);
        assert!((400..500).contains(&reply.status), "{}", reply.text());
        told.extend(reply.text().into_bytes());
    }
    for list in ["audit", "channels", "config", "jobs", "costs"] {
        told.extend(get(&server, &format!("/{list}")).to_string().into_bytes());
    }
    assert!(holds(&told, "9f3e") && holds(&told, "upload: works"));
    told.extend(server.log().into_bytes());
    told.extend(everything_below(&server.data_dir));
    let answers: String = server.value("SELECT CAST(count(*) AS TEXT) FROM audit");
    assert!(answers.parse::<u32>().unwrap() > 8);
    for secret in ["hush-hush", "quiet-quiet"] {
        assert!(!holds(&told, secret), "{secret} is shown");
    }
    // What is stored opens only with the key that is not there.
    let sealed: String =
        server.value("SELECT name FROM channels WHERE length(sealed_key) > 45 AND name = 'one'");
    assert_eq!(sealed, "one");
    assert_eq!(get(&server, "/channels/one")["key_hint"], "9f3e");
}

#[test]
fn the_test_of_a_channel_tells_where_its_key_belongs() {
    let global = Upstream::start(&["--key", "sk-global-key-0001"]);
    let mainland = Upstream::start(&["--key", "sk-mainland-key-02"]);
    let server = relaying(&[&global, &mainland]).start();
    let test = |name: &str| {
        let output = run(&server, &["channel", "test", name, "--json"], "");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), told)
    };
    add(&server, "right", &global.url, "sk-global-key-0001");
    let (code, told) = test("right");
    assert_eq!((code, &told["verdict"]), (0, &json!("well")), "{told}");
    let hosts = told["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 2);
    let own = &hosts[0];
    assert_eq!((&own["own"], &own["known"], &own["code"]), (&json!(true), &json!(true), &json!(0)));
    // Upstream's own code and words of the other region.
    let other = &hosts[1];
    assert_eq!((&other["own"], &other["known"]), (&json!(false), &json!(false)));
    assert!([1004, 2049].map(|code| json!(code)).contains(&other["code"]), "{other}");
    assert_eq!(other["message"], "invalid api key", "{other}");
    assert_eq!(
        told["upload"],
        json!({"worked": true, "code": 0, "message": "success", "deleted": true})
    );
    assert_eq!(global.files("sk-global-key-0001"), 0);

    add(&server, "wrong", &global.url, "sk-mainland-key-02");
    let (code, told) = test("wrong");
    assert_eq!((code, &told["verdict"]), (1, &json!("elsewhere")), "{told}");
    assert!(told["advice"].as_str().unwrap().contains(&mainland.url), "{told}");
    assert_eq!(told["upload"], Value::Null);
    let shown = run(&server, &["channel", "test", "wrong"], "");
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("unknown") && shown.contains("elsewhere: the key belongs to"),
        "{shown}"
    );

    add(&server, "nobody", &global.url, "sk-of-nobody-at-all");
    assert_eq!(test("nobody").1["verdict"], "key_refused");
    add(&server, "away", "http://127.0.0.1:1", "sk-of-nobody-at-all");
    let (code, told) = test("away");
    assert_eq!((code, &told["verdict"]), (3, &json!("unreachable")), "{told}");
    assert_eq!(told["hosts"].as_array().unwrap().len(), 3);
    // Before it is added.
    let words = ["channel", "test", "--base-url", &mainland.url, "--key-env", "UPSTREAM_KEY"];
    assert!(ok(&server, &words, "sk-mainland-key-02").contains("well"));
    let words = [&words[..], &["--dry-run", "--json"]].concat();
    let tried: Value = serde_json::from_str(&ok(&server, &words, "sk-mainland-key-02")).unwrap();
    assert_eq!(tried["hosts"][0], json!({"base_url": mainland.url}));
}

#[test]
fn an_account_that_may_not_upload_is_told_in_upstreams_words() {
    let home = tempfile::tempdir().unwrap();
    let faults = home.path().join("faults.toml");
    let fault = "[[fault]]\npath = \"/v1/files/upload\"\nkind = \"out_of_balance\"\n";
    File::create(&faults).unwrap().write_all(fault.as_bytes()).unwrap();
    let upstream =
        Upstream::start(&["--key", "sk-poor-key-0001", "--faults", faults.to_str().unwrap()]);
    let server = relaying(&[]).start();
    add(&server, "poor", &upstream.url, "sk-poor-key-0001");
    let output = run(&server, &["channel", "test", "poor"], "");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("upload: refused, 1008 ") && shown.contains("balance"), "{shown}");
}

#[test]
fn sealing_keys_are_rotated_and_a_lost_one_is_told() {
    const KEY: &str = "sk-rotated-key-0001";
    if only_embedded("replicas share no data directory, and their sealing key is a setting") {
        return;
    }
    let upstream = Upstream::start(&["--key", KEY]);
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let regions = setup().config("[relay]\nregions = []\n");
    let mut server = regions.start_on(&data);
    let secret = data.join("secret.key");
    assert!(!secret.try_exists().unwrap());
    add(&server, "one", &upstream.url, KEY);
    assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let works = |server: &TestServer| {
        assert_eq!(post(server, "/channels/one/test", &json!({}))["verdict"], "well");
    };
    works(&server);
    // The running server finds the new key, and does without the old one afterwards.
    let old = fs::read_to_string(&secret).unwrap();
    let write = |text: &str| File::create(&secret).unwrap().write_all(text.as_bytes()).unwrap();
    write(&format!("{}\n{old}", SEALING[1]));
    let told = post(&server, "/reseal", &json!({}));
    assert_eq!(told, json!({"resealed": 1, "kept": 0, "unopened": []}));
    let told: Value =
        serde_json::from_str(&ok(&server, &["channel", "reseal", "--json"], "")).unwrap();
    assert_eq!(told, json!({"resealed": 0, "kept": 1, "unopened": []}));
    write(SEALING[1]);
    server.terminate();
    let mut server = regions.start_on(&data);
    let token = server.command(&["token", "create", "--name", "t", "--scope", "full"]);
    let test = |server: &TestServer| {
        server.admin_as(&token, "POST", "/channels/one/test").body("{}").send()
    };
    assert_eq!(test(&server).json()["verdict"], "well");
    // Somebody else's: everything but channels works, and what helps is said.
    server.terminate();
    write(SEALING[0]);
    let server = regions.start_on(&data);
    refused(&test(&server), 409, "give back the sealing key");
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_filegate"));
    clean_environment(&mut doctor);
    let told = doctor.args(["doctor", "--data-dir"]).arg(&data).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("the key of channel \"one\" does not open"), "{told}");
    let told = server.admin_as(&token, "POST", "/reseal").body("{}").send().json();
    assert_eq!(told, json!({"resealed": 0, "kept": 0, "unopened": ["one"]}));
    let key = json!({"key": KEY}).to_string();
    assert_eq!(server.admin_as(&token, "POST", "/channels/one").body(key).send().status, 200);
    assert_eq!(test(&server).json()["verdict"], "well");
    drop(server);
    write("not a key\n");
    let log = regions.try_start_on(&data).unwrap_err();
    assert!(log.contains("secret.key: line 1 is not 32 bytes in base64"), "{log}");
    // A row that was pointed elsewhere does not give up its key.
    write(SEALING[0]);
    let server = regions.start_on(&data);
    server.sql("UPDATE channels SET base_url = 'http://127.0.0.1:1'");
    refused(&test(&server), 409, "it was changed since it was sealed");
}

#[test]
fn replicas_need_a_sealing_key_that_is_set() {
    if filegate_testkit::place::is_embedded() {
        return;
    }
    let server = setup().start();
    let body = json!({"name": "a", "base_url": "https://api.minimax.io", "key": "sk-1"});
    refused(&send(&server, "/channels", &body), 409, "relay.secret_key_file or relay.secret_key");
}

#[test]
fn a_channel_comes_and_goes() {
    let server = relaying(&[]).start();
    let account =
        |settings: Value| send(&server, "/accounts/default", &json!({"settings": settings}));
    add(&server, "one", "https://api.minimax.io/v1/", "sk-1");
    assert_eq!(get(&server, "/channels/one")["base_url"], "https://api.minimax.io");
    for (body, status, says) in [
        (json!({"name": "one", "base_url": "https://a.example", "key": "k"}), 409, "already"),
        (json!({"name": "a b", "base_url": "https://a.example", "key": "k"}), 422, "name"),
        (json!({"name": "b", "base_url": "https://a.example", "key": ""}), 422, "key"),
        (
            json!({"name": "b", "base_url": "https://a.example", "key": "k", "account": "x"}),
            404,
            "x",
        ),
        (
            json!({"name": "b", "base_url": "https://a.example", "key": "k", "settings": {"purposes": ["x"]}}),
            422,
            "settings.purposes",
        ),
        (
            json!({"name": "b", "base_url": "https://a.example", "key": "k", "settings": {"max_rpm": 0}}),
            422,
            "settings.max_rpm",
        ),
        (
            json!({"name": "b", "base_url": "https://a.example", "key": "k", "settings": {"speed": 1}}),
            400,
            "speed",
        ),
    ] {
        refused(&send(&server, "/channels", &body), status, says);
    }
    let moved = send(&server, "/channels/one", &json!({"base_url": "https://a.example"}));
    refused(&moved, 422, "comes with its key");
    refused(&account(json!({"channels": ["two"]})), 422, "no channel \"two\"");
    assert_eq!(account(json!({"channels": ["one"], "keep_outputs": true})).status, 200);
    refused(&send(&server, "/channels/one/remove", &json!({})), 409, "default");
    ok(
        &server,
        &["account", "set", "default", "--channels", "any", "--replicate", "on_upload"],
        "",
    );
    let settings = &get(&server, "/accounts/default")["settings"];
    assert_eq!(*settings, json!({"keep_outputs": true, "replicate": "on_upload"}));
    ok(
        &server,
        &["account", "set", "default", "--replicate", "none", "--keep-outputs", "none"],
        "",
    );
    assert_eq!(get(&server, "/accounts/default")["settings"], json!({}));
    let removed: Value =
        serde_json::from_str(&ok(&server, &["channel", "rm", "one", "--json"], "")).unwrap();
    assert_eq!((&removed["state"], &removed["key_hint"]), (&json!("removed"), &json!("")));
    assert_eq!(server.value::<i64>("SELECT length(sealed_key) FROM channels"), 0);
    refused(&send(&server, "/channels/one/enable", &json!({})), 404, "one");
    add(&server, "one", "https://api.minimaxi.com", "sk-2");
    let actions: Vec<_> = get(&server, "/audit?target=channel:one")["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(actions, ["channel.add", "channel.remove", "channel.add"]);
}

#[test]
fn a_drain_waits_until_everything_is_elsewhere() {
    let upstream = Upstream::start(&["--key", "sk-drained-key-01", "--key", "b=sk-second-key-002"]);
    let server = relaying(&[]).start();
    add(&server, "first", &upstream.url, "sk-drained-key-01");
    add(&server, "second", &upstream.url, "sk-second-key-002");
    let uploaded = server.upload("retrieval", "a.txt", b"to be copied");
    let id = uploaded.json()["file"]["file_id"].as_i64().unwrap();
    let copy = |channel: &str| {
        format!(
            "INSERT INTO replicas (file_id, channel_id, account_id, state, upstream_id, created_at, used_at)
             SELECT {id}, channel_id, 1, 'ready', 'up-1', 0, 4000000000000 FROM channels WHERE name = '{channel}'
             ON CONFLICT (file_id, channel_id) DO NOTHING"
        )
    };
    server.sql(&copy("first"));
    let begun = ok(&server, &["channel", "drain", "first", "--no-wait", "--json"], "");
    assert_eq!(serde_json::from_str::<Value>(&begun).unwrap()["state"], "draining");
    let waited = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(1500));
            server.sql(&copy("second"));
        });
        ok(&server, &["channel", "drain", "first", "--json"], "")
    });
    let told: Value = serde_json::from_str(&waited).unwrap();
    assert_eq!(
        (&told["files"], &told["moved"], &told["done"]),
        (&json!(1), &json!(1), &json!(true))
    );
    assert_eq!(
        (&told["failed"], &told["tasks"], &told["voices"]),
        (&json!(0), &json!(0), &json!(0))
    );
}

#[test]
fn relayed_calls_have_prices_costs_and_a_margin() {
    let server = relaying(&[]).start();
    add(&server, "global", "https://api.minimax.io", "sk-1");
    ok(
        &server,
        &["price", "set", "relay", "0.12", "--path", "/v1/t2a_v2", "--unit", "kilounit"],
        "",
    );
    ok(&server, &["price", "set", "relay", "0.001"], "");
    let prices = ok(&server, &["price", "ls"], "");
    assert!(prices.contains("/v1/t2a_v2") && prices.contains("kilounit"), "{prices}");
    ok(&server, &["price", "rm", "relay"], "");
    for (body, says) in [
        (json!({"call": "relay", "path": "t2a_v2", "amount": "1"}), "path"),
        (
            json!({"call": "relay", "path": "/minimax/v1/t2a_v2", "amount": "1"}),
            "as upstream has it",
        ),
        (json!({"call": "relay", "purpose": "voice_clone", "amount": "1"}), "purpose"),
        (json!({"call": "files.list", "path": "/v1/x", "amount": "1"}), "path"),
        (json!({"call": "files.list", "unit": "kilounit", "amount": "1"}), "unit"),
        (json!({"call": "relay", "unit": "mib", "amount": "1"}), "unit"),
    ] {
        refused(&send(&server, "/prices", &body), 422, says);
    }
    let cost = json!({"channel": "global", "unit": "mib", "amount": "1"});
    refused(&send(&server, "/costs", &cost), 422, "unit");
    ok(&server, &["channel", "cost", "set", "global", "0.06", "--path", "/v1/t2a_v2"], "");
    assert!(ok(&server, &["channel", "cost", "ls", "global"], "").contains("0.06"));
    ok(&server, &["channel", "cost", "rm", "global", "--path", "/v1/t2a_v2"], "");
    server.sql(
        "INSERT INTO relayed (day, channel_id, account_id, path, calls, units, charged, cost)
         SELECT '2026-11-01', channel_id, 1, '/v1/t2a_v2', 2, 1500, 180000, 90000 FROM channels;
         INSERT INTO usage (day, account_id, key_id, purpose, call, calls, bytes, charged)
         VALUES ('2026-11-01', 1, 1, '/v1/t2a_v2', 'relay', 2, 0, 180000)",
    );
    let margin = ok(&server, &["channel", "margin", "--by", "channel,account", "--json"], "");
    assert_eq!(
        serde_json::from_str::<Value>(&margin).unwrap(),
        json!({"channel": "global", "account": "default", "calls": 2, "units": 1500,
               "charged": "0.18", "cost": "0.09", "margin": "0.09"})
    );
    let csv = ok(&server, &["channel", "margin", "--csv"], "");
    assert_eq!(
        csv,
        "channel,path,calls,units,charged,cost,margin\r\nglobal,/v1/t2a_v2,2,1500,0.18,0.09,0.09\r\n"
    );
    let words = ["usage", "--by", "call,purpose", "--purpose", "/v1/t2a_v2"];
    let usage = ok(&server, &words, "");
    assert!(usage.contains("relay") && usage.contains("0.18"), "{usage}");
}
