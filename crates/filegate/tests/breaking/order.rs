//! The order of the system calls that make an upload durable.

use filegate_testkit::server::eventually;

use crate::support::{Trace, setup, text};

#[test]
fn sync_rename_sync_commit_reply() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, len) in [("small", 50_000), ("spooled", 700_000)] {
        let server = setup().start();
        let log = scratch.path().join(name);
        let calls = "trace=write,pwrite64,fdatasync,fsync,renameat2,sendto,writev,sendmsg";
        let trace = Trace::attach(&server, &["-e", calls], &log);
        server.upload("retrieval", "a.txt", &text(1, len)).file_id();
        trace.detach();
        let lines = eventually("the trace is written", || {
            let log = std::fs::read_to_string(&log).ok()?;
            log.contains("status_code").then(|| log.lines().map(str::to_owned).collect::<Vec<_>>())
        });

        let find = |what: &str, from: usize, words: &[&str]| {
            let found = lines.iter().skip(from).position(|l| words.iter().all(|w| l.contains(w)));
            let tail = lines[from.min(lines.len())..].join("\n");
            from + found.unwrap_or_else(|| panic!("{name}: no {what} after line {from}:\n{tail}"))
        };
        let written = find("write of the blob", 0, &["write(", "/tmp/0"]);
        let synced = find("sync of the blob", written, &["fdatasync(", "/tmp/0"]);
        let later =
            lines[synced + 1..].iter().any(|l| l.contains("write(") && l.contains("/tmp/0"));
        assert!(!later, "{name}: the blob is written to after its sync");
        let renamed = find("rename", synced, &["renameat2(", "/blobs/"]);
        let directory = find("sync of the directory", renamed, &["fsync(", "/blobs/"]);
        let row = find("write of the row", directory, &["pwrite64(", "catalog.db-wal"]);
        let committed = find("sync of the row", row, &["sync(", "catalog.db-wal"]);
        let replied = find("reply", committed, &["status_code"]);
        assert!(!lines[..replied].iter().any(|l| l.contains("status_code")), "{name}: two replies");
    }
}
