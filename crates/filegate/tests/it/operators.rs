//! The commands of operators against a fake gateway: pages, repeated calls, and what went wrong.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::fake::{Answer, Fake, Request};

fn filegate(url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
    filegate_testkit::server::clean_environment(&mut command);
    command.args(args).args(["--admin-url", url, "--admin-token", "fg-admin-t"]);
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A list of rows that there are `count` of, newest first, in pages of at most `limit`.
fn page(request: &Request, count: u64) -> Answer {
    let target = request.line.split(' ').nth(1).unwrap();
    let asked = |name: &str| {
        let (_, rest) = target.split_once(&format!("{name}="))?;
        rest.split('&').next()?.parse::<u64>().ok()
    };
    let limit = asked("limit").unwrap();
    assert!((1..=1000).contains(&limit), "{target}");
    let first = asked("after").map_or(count, |after| after - 1);
    let last = first.saturating_sub(limit);
    let rows: Vec<Value> =
        (last + 1..=first).rev().map(|id| json!({"id": id, "kind": "charge"})).collect();
    Answer::json(&json!({"data": rows, "has_more": last > 0}).to_string())
}

fn problem(status: &'static str, detail: &str) -> Answer {
    Answer::new("application/problem+json", json!({"detail": detail}).to_string()).status(status)
}

#[test]
fn lists_are_followed_to_the_limit_and_no_further() {
    for (limit, rows, calls) in
        [("5", 5, 1), ("1000", 1000, 1), ("1001", 1001, 2), ("9999", 2500, 3)]
    {
        let fake = Fake::start(|request| page(request, 2500));
        let output = filegate(&fake.url, &["ledger", "ls", "-q", "--limit", limit]);
        let ids: Vec<u64> = stdout(&output).lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(ids, (2501 - rows..=2500).rev().collect::<Vec<_>>(), "{}", stderr(&output));
        for _ in 0..calls {
            let request = fake.request();
            assert_eq!(request.header("authorization"), Some("Bearer fg-admin-t"));
        }
        assert!(fake.try_request().is_none());
    }
    let fake = Fake::start(|request| page(request, 2500));
    let output = filegate(&fake.url, &["ledger", "ls", "--limit", "3"]);
    assert_eq!(stdout(&output).lines().count(), 4);
    assert!(stderr(&output).contains("raise --limit"), "{}", stderr(&output));
    let output = filegate(&fake.url, &["ledger", "ls", "--limit", "3", "--json"]);
    assert_eq!(stdout(&output).lines().next(), Some(r#"{"id":2500,"kind":"charge"}"#));
    assert_eq!(stderr(&output), "");
}

/// An answer that is lost on its way does not say whether the change was made, so it is asked for
/// again under the same name.
#[test]
fn a_change_whose_answer_was_lost_is_sent_again_under_the_same_name() {
    let calls = AtomicUsize::new(0);
    let fake = Fake::start(move |_request| {
        let answer = Answer::json(r#"{"id":7,"balance":"5"}"#);
        match calls.fetch_add(1, Ordering::Relaxed) {
            0 => answer.cut(3),
            1 => problem("409 Conflict", "in progress").header("Retry-After: 0"),
            _ => answer,
        }
    });
    let output = filegate(&fake.url, &["ledger", "top-up", "acme", "5"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let requests = [fake.request(), fake.request(), fake.request()];
    let names = requests.each_ref().map(|request| request.header("idempotency-key").unwrap());
    assert!(names[0].len() > 20 && names.iter().all(|name| *name == names[0]), "{names:?}");
    assert!(requests.iter().all(|request| request.body == requests[0].body));

    let output = filegate(&fake.url, &["ledger", "top-up", "acme", "5"]);
    assert_eq!(output.status.code(), Some(0));
    assert_ne!(fake.request().header("idempotency-key"), Some(names[0]));
    filegate(&fake.url, &["job", "run", "1", "2", "--idempotency-key", "mine"]);
    assert_eq!(fake.request().header("idempotency-key"), Some("mine-0"));
    assert_eq!(fake.request().header("idempotency-key"), Some("mine-1"));
}

#[test]
fn a_conflict_is_not_tried_again() {
    let fake = Fake::start(|_request| problem("409 Conflict", "there is an account already"));
    let output = filegate(&fake.url, &["account", "create", "--name", "acme"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "error: there is an account already (409)\n");
    fake.request();
    assert!(fake.try_request().is_none());
}

#[test]
fn what_went_wrong_is_one_line_and_says_whose_fault_it_is() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let html = Fake::start(|_request| Answer::new("text/html", "<h1>hello</h1>"));
    let broken = Fake::start(|_request| {
        problem("500 Internal Server Error", "unknown error").header("Trace-Id: 0123")
    });
    let stale = Fake::start(|_request| problem("401 Unauthorized", "the token is not known"));
    let sly = Fake::start(|_request| problem("404 Not Found", "\u{1b}[2Jnothing"));
    for (url, code, says) in [
        (&closed, 3, "refused"),
        (&html.url, 3, "not the admin API"),
        (&broken.url, 3, "unknown error (500) [Trace-Id 0123]"),
        (&stale.url, 1, "filegate token create"),
        (&sly.url, 1, "\\u{1b}[2Jnothing (404)"),
        (&"ftp://h".to_owned(), 2, "http://"),
        (&"http://me:pass@h".to_owned(), 2, "password"),
    ] {
        let output = filegate(url, &["account", "show", "acme"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(says) && text.lines().count() == 1, "{text}");
        assert!(!text.contains("fg-admin-t"), "{text}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn every_command_of_operators_teaches_itself() {
    let groups: [(&str, &[&str]); 15] = [
        ("account", &["create", "show", "ls", "set", "disable", "enable"]),
        ("key", &["create", "ls", "list", "show", "set", "revoke", "rotate"]),
        ("file", &["ls", "show", "explain", "quarantine", "release", "rm"]),
        ("receipt", &["ls", "show"]),
        ("ledger", &["ls", "top-up", "adjust"]),
        ("price", &["ls", "set", "rm"]),
        ("moderation", &["ls", "block", "unblock", "reviews"]),
        ("usage", &[]),
        ("audit", &[]),
        ("job", &["ls", "run"]),
        ("inflight", &["ls", "abort"]),
        ("policy", &["ls"]),
        ("config", &["show"]),
        ("token", &["create", "ls", "revoke"]),
        ("backup", &["create", "restore", "verify"]),
    ];
    for (group, commands) in groups {
        let whole: &[&str] = if commands.is_empty() { &[""] } else { commands };
        for command in whole {
            let words: Vec<_> =
                [group, *command, "--help"].into_iter().filter(|w| !w.is_empty()).collect();
            let output = filegate("http://h", &words);
            let help = stdout(&output);
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
            for says in ["FILEGATE_ADMIN_TOKEN", "FILEGATE_ADMIN_URL", "--data-dir", "--dry-run"] {
                assert!(help.contains(says), "{words:?} does not say {says}: {help}");
            }
            assert!(!help.contains("fg-admin-t"), "{help}");
        }
    }
}
