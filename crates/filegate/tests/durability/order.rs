//! The order in which an upload reaches the disk before it is acknowledged, as the kernel sees it.

use filegate_testkit::trace::{Call, Trace};

use crate::kit::{self, Home, LARGE, SMALL};

const CALLS: &str =
    "trace=openat,write,pwrite64,pwritev,writev,sendto,fsync,fdatasync,rename,renameat,renameat2";

/// The only call of this kind.
fn only<'a>(calls: &'a [Call], what: &str, is: impl Fn(&Call) -> bool) -> &'a Call {
    let found: Vec<&Call> = calls.iter().filter(|call| is(call)).collect();
    assert_eq!(found.len(), 1, "{what}: {found:#?} in {calls:#?}");
    found[0]
}

/// All calls of this kind, at least one.
fn all<'a>(calls: &'a [Call], what: &str, is: impl Fn(&Call) -> bool) -> Vec<&'a Call> {
    let found: Vec<&Call> = calls.iter().filter(|call| is(call)).collect();
    assert!(!found.is_empty(), "{what}: none in {calls:#?}");
    found
}

fn is_sync(call: &Call) -> bool {
    matches!(call.name.as_str(), "fsync" | "fdatasync") && call.text.ends_with("= 0")
}

#[track_caller]
fn before(first: &Call, second: &Call) {
    assert!(first.ended < second.begun, "not in order:\n{first:#?}\n{second:#?}");
}

/// What a server did during one upload of `len` bytes.
fn calls_of_an_upload(len: usize) -> Vec<Call> {
    let home = Home::new();
    let server = home.start_with(&kit::setup().config("[jobs]\ninterval = \"1h\""));
    // The first upload opens files and threads that later ones find.
    server.upload("retrieval", "first.txt", b"first").file_id();
    kit::settled(&server);
    let trace = Trace::attach(server.pid(), &["-e", CALLS]);
    let reply = kit::upload_of(&server.address, &server.key, 1, len).send();
    assert_eq!(reply.code(), 0, "{}", reply.text());
    trace.stop()
}

fn is_answer(call: &Call) -> bool {
    matches!(call.name.as_str(), "writev" | "sendto" | "write")
        && call.text.contains("HTTP/1.1 200")
}

#[test]
fn a_small_upload_is_on_disk_before_it_is_acknowledged() {
    let calls = calls_of_an_upload(SMALL);
    let in_pack = |c: &Call| c.text.contains("/data/packs/");
    let land = only(&calls, "landing", |c| c.name == "pwritev" && in_pack(c));
    let in_log = |c: &Call| c.text.contains("/catalog.db-wal>");
    let commit = all(&calls, "commit", |c| c.name == "pwrite64" && in_log(c));
    let answer = only(&calls, "answer", is_answer);

    // Durable when it returns, by how the pack was opened, which was before. What it says is the row.
    assert!(!calls.iter().any(is_sync), "{calls:#?}");
    assert!(!calls.iter().any(|c| c.text.contains("O_EXCL")), "{calls:#?}");
    for write in commit {
        before(land, write);
        before(write, answer);
    }
}

/// The first small upload of a server makes the pack, whose name is durable before anything is in it. The commit of that
/// upload is synced: later ones follow from what comes after it in the pack.
#[test]
fn a_pack_is_made_before_anything_is_in_it() {
    let home = Home::new();
    let server = home.start_with(&kit::setup().config("[jobs]\ninterval = \"1h\""));
    let trace = Trace::attach(server.pid(), &["-e", CALLS]);
    server.upload("retrieval", "first.txt", b"first").file_id();
    let calls = trace.stop();
    let create = only(&calls, "create", |c| {
        c.name == "openat" && c.text.contains("O_EXCL") && c.text.contains("/data/packs/")
    });
    assert!(create.text.contains("O_DSYNC|O_DIRECT"), "{create:?}");
    let sync_names = only(&calls, "names", |c| is_sync(c) && c.text.contains("/data/packs>"));
    let land = only(&calls, "landing", |c| c.name == "pwritev");
    let in_log = |c: &Call| c.text.contains("/catalog.db-wal>");
    let commit =
        all(&calls, "commit", |c| c.name == "pwrite64" && in_log(c) && c.begun > land.ended);
    let synced = all(&calls, "sync of the log", |c| is_sync(c) && in_log(c));
    let answer = only(&calls, "answer", is_answer);
    before(create, sync_names);
    before(sync_names, land);
    before(commit[commit.len() - 1], synced[synced.len() - 1]);
    before(synced[synced.len() - 1], answer);
}

/// All but what was small at first and the last piece go to the disk from where they were received.
#[test]
fn a_long_upload_goes_past_the_page_cache() {
    const LONG: usize = 12_000_000;
    let calls = calls_of_an_upload(LONG);
    let result = |call: &Call| call.text.rsplit_once("= ").unwrap().1.to_owned();
    let open = only(&calls, "way past the cache", |c| {
        c.name == "openat" && c.text.contains("/data/tmp/") && c.text.contains("O_DIRECT")
    });
    let way = result(open);
    let fd = format!("{}<", way.split('<').next().unwrap());
    let past = calls.iter().filter(|c| c.name == "pwrite64" && c.text.contains(&fd));
    let bytes: usize = past.map(|call| result(call).trim().parse::<usize>().unwrap()).sum();
    assert!((10_000_000..=LONG).contains(&bytes), "{bytes} of {LONG}: {calls:#?}");
}

#[test]
fn a_spooled_upload_is_on_disk_before_it_is_acknowledged() {
    let calls = calls_of_an_upload(LARGE);
    let (_, path) = {
        let landed = only(&calls, "rename", |c| c.name.starts_with("rename"));
        assert!(landed.text.contains("RENAME_NOREPLACE") && landed.text.ends_with("= 0"));
        let paths: Vec<&str> = landed.text.split('"').skip(1).step_by(2).collect();
        (landed, [paths[0].to_owned(), paths[1].to_owned()])
    };
    let [tmp, blob] = path;
    let shard = blob.rsplit_once('/').unwrap().0;
    assert!(tmp.contains("/data/tmp/") && shard.contains("/data/blobs/"), "{tmp} {blob}");
    let on = |call: &Call, path: &str| call.text.contains(&format!("<{path}>"));

    let create = only(&calls, "create", |c| c.name == "openat" && c.text.contains("O_EXCL"));
    let writes = all(&calls, "pwrite64", |c| c.name == "pwrite64" && on(c, &tmp));
    let sync = only(&calls, "sync of the file", |c| is_sync(c) && on(c, &tmp));
    let rename = only(&calls, "rename", |c| c.name.starts_with("rename"));
    let sync_dir = only(&calls, "sync of the directory", |c| is_sync(c) && on(c, shard));
    let in_log = |c: &Call| c.text.contains("/catalog.db-wal>");
    let sync_log = only(&calls, "sync of the log", |c| is_sync(c) && in_log(c));
    let begun =
        all(&calls, "log", |c| c.name == "pwrite64" && in_log(c) && c.ended < sync_dir.begun);
    let commit =
        all(&calls, "commit", |c| c.name == "pwrite64" && in_log(c) && c.begun > sync_dir.ended);
    let answer = only(&calls, "answer", is_answer);

    // The row that gives the blob to the reaper is there before the blob is.
    before(begun[0], create);
    before(create, writes[0]);
    for write in writes {
        before(write, sync);
    }
    before(sync, rename);
    before(rename, sync_dir);
    for write in commit {
        before(write, sync_log);
    }
    before(sync_dir, sync_log);
    before(sync_log, answer);
}

#[test]
fn a_delete_is_on_disk_before_it_is_acknowledged() {
    let home = Home::new();
    let server = home.start();
    let id = server.upload("retrieval", "a.txt", b"content").file_id();
    let trace = Trace::attach(server.pid(), &["-e", &format!("{CALLS},fallocate")]);
    assert_eq!(server.delete(id).code(), 0);
    filegate_testkit::server::eventually("the blob is purged", || {
        server.stored("blobs").is_empty().then_some(())
    });
    let calls = trace.stop();
    let in_log = |c: &Call| c.text.contains("/catalog.db-wal>");
    let commit = all(&calls, "commit", |c| c.name == "pwrite64" && in_log(c))[0];
    let sync = all(&calls, "sync", |c| is_sync(c) && in_log(c))[0];
    let answer = only(&calls, "answer", |c| c.name == "writev" && c.text.contains("HTTP/1.1 200"));
    let purge = only(&calls, "purge", |c| c.name == "fallocate" && c.text.contains("PUNCH_HOLE"));
    before(commit, sync);
    before(sync, answer);
    before(sync, purge);
}
