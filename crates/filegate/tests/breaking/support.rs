//! Load that remembers what was acknowledged, strace on a running server, and the check after it all.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use filegate_testkit::http::Request;
use filegate_testkit::server::{Setup, TestServer, eventually};

pub(crate) fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_filegate"))
}

/// Settings under which background work and time-outs come soon.
pub(crate) const QUICK: &str = "
[limits]
body_idle = '1s'
head_timeout = '2s'
shutdown = '5s'
[jobs]
interval = '100ms'
upload_lease = '3s'
";

/// Text of `len` bytes that no other seed gives.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.push(b'a' + (state % 26) as u8);
    }
    out
}

/// What clients know of their files.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Acknowledged uploads: id, seed and length of the content.
    pub(crate) stored: Mutex<BTreeMap<i64, (u64, usize)>>,
    /// Acknowledged deletes.
    pub(crate) deleted: Mutex<Vec<i64>>,
    /// Deletes that were sent and not answered: either way is right.
    pub(crate) in_doubt: Mutex<Vec<i64>>,
    seed: AtomicU64,
}

impl Ledger {
    /// Uploads, and now and then deletes, until the server is gone or `calls` are done.
    pub(crate) fn work(&self, address: &str, key: &str, calls: u64) {
        for call in 0..calls {
            let seed = self.seed.fetch_add(1, Ordering::Relaxed) + 1;
            // Small ones stay in memory, every third is spooled to disk in pieces.
            let len = if seed.is_multiple_of(3) { 700_000 } else { 1_000 + seed as usize % 50_000 };
            let request = Request::new(address, "POST", "/v1/files/upload").bearer(key);
            let Ok(reply) = request.form("retrieval", "a.txt", &text(seed, len)).try_send() else {
                return;
            };
            assert_eq!(reply.code(), 0, "{}", reply.text());
            let id = reply.file_id();
            self.stored.lock().unwrap().insert(id, (seed, len));
            if call % 4 == 3 && !self.delete(address, key, id) {
                return;
            }
        }
    }

    fn delete(&self, address: &str, key: &str, id: i64) -> bool {
        let request = Request::new(address, "POST", "/v1/files/delete").bearer(key);
        let request = request.header("Content-Type", "application/json");
        self.stored.lock().unwrap().remove(&id);
        match request.body(format!("{{\"file_id\":{id}}}")).try_send() {
            Ok(reply) => {
                assert_eq!(reply.code(), 0, "{}", reply.text());
                self.deleted.lock().unwrap().push(id);
                true
            }
            Err(_) => {
                self.in_doubt.lock().unwrap().push(id);
                false
            }
        }
    }

    /// Holds a server on the same directory against what clients know.
    pub(crate) fn check(&self, server: &TestServer) {
        let listed = list(server);
        for (id, (seed, len)) in &*self.stored.lock().unwrap() {
            assert!(listed.contains_key(id), "acknowledged file {id} is gone");
            assert_eq!(content(server, *id), text(*seed, *len), "file {id}");
        }
        for id in &*self.deleted.lock().unwrap() {
            assert!(!listed.contains_key(id), "deleted file {id} came back");
        }
        // What was never acknowledged is absent or whole.
        for (id, bytes) in &listed {
            assert_eq!(content(server, *id).len() as u64, *bytes, "file {id}");
        }
        nothing_leaks(server);
    }
}

/// Every file of the key's account: id and length.
pub(crate) fn list(server: &TestServer) -> BTreeMap<i64, u64> {
    let reply = server.get("/v1/files/list?limit=10000");
    assert_eq!(reply.code(), 0, "{}", reply.text());
    let files = reply.json()["files"].as_array().unwrap().clone();
    let entry =
        |f: &serde_json::Value| (f["file_id"].as_i64().unwrap(), f["bytes"].as_u64().unwrap());
    files.iter().map(entry).collect()
}

pub(crate) fn content(server: &TestServer, id: i64) -> Vec<u8> {
    let reply = server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"), "{}", reply.text());
    reply.body
}

/// Nothing lies in `tmp/`, one blob is there for each file, and fsck finds nothing.
pub(crate) fn nothing_leaks(server: &TestServer) {
    let files = list(server).len();
    eventually("as many blobs as files, nothing temporary", || {
        let (blobs, tmp) = (server.stored("blobs").len(), server.stored("tmp").len());
        (blobs == files && tmp == 0).then_some(())
    });
    let report = server.command(&["fsck"]);
    assert!(report.contains("clean"), "{report}");
}

/// strace attached to a running server.
pub(crate) struct Trace(Child);

impl Trace {
    pub(crate) fn attach(server: &TestServer, arguments: &[&str], output: &Path) -> Self {
        let pid = server.pid().to_string();
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "256", "-o"]).arg(output).args(arguments);
        let child = command.args(["-p", &pid]).stderr(Stdio::null()).spawn().unwrap();
        eventually("strace is attached to every thread", || {
            let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let traced = |task: std::io::Result<std::fs::DirEntry>| {
                let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
                Some(!status.contains("TracerPid:\t0\n"))
            };
            tasks.all(|task| traced(task) == Some(true)).then_some(())
        });
        Self(child)
    }

    /// Detaches and waits until the output is whole.
    pub(crate) fn detach(mut self) {
        let pid = self.0.id().to_string();
        let _gone_already = Command::new("kill").args(["-s", "INT", &pid]).status();
        let _reaped = self.0.wait();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Runs `count` copies of `work` and waits for them.
pub(crate) fn at_once(count: usize, work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for n in 0..count {
            let work = &work;
            scope.spawn(move || work(n));
        }
    });
}

pub(crate) fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
