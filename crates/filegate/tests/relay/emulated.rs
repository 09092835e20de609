//! Upstream as `filegate emulate`: accounts, what was asked of them, and faults.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use filegate_testkit::http::Request;
use filegate_testkit::server::{TestServer, clean_environment};
use serde_json::{Value, json};

use crate::kit::operator;

/// A running emulator. Killed when dropped.
pub(crate) struct Emulated {
    child: Child,
    pub(crate) url: String,
    /// Names and keys.
    pub(crate) accounts: Vec<(String, String)>,
}

impl Emulated {
    /// An emulator of so many accounts, `a1` and on.
    pub(crate) fn start(accounts: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_filegate"));
        clean_environment(&mut command);
        command.args(["emulate", "--json", "--accounts", &accounts.to_string()]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = said["accounts"].as_array().unwrap().iter();
        let accounts = all.map(|one| (text(&one["name"]), text(&one["key"]))).collect();
        Self { child, url: text(&said["url"]), accounts }
    }

    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Adds each account as a channel of its name.
    pub(crate) fn add_to(&self, server: &TestServer) {
        for (name, key) in &self.accounts {
            self.add_one(server, name, key, &json!({}));
        }
    }

    #[track_caller]
    pub(crate) fn add_one(&self, server: &TestServer, name: &str, key: &str, settings: &Value) {
        let body = json!({ "name": name, "base_url": self.url, "key": key, "settings": settings });
        let reply = operator(server, "/channels", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// A call of the control API.
    #[track_caller]
    pub(crate) fn control(&self, path: &str, body: &Value) -> Value {
        let target = format!("/emulate{path}");
        let reply = Request::new(self.address(), "POST", &target).body(body.to_string()).send();
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Calls to `path` (which may end in `*`), in their order.
    pub(crate) fn calls(&self, path: &str) -> Vec<Value> {
        let target = format!("/emulate/calls?path={path}");
        let reply = Request::new(self.address(), "GET", &target).send().json();
        reply["calls"].as_array().unwrap().clone()
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
