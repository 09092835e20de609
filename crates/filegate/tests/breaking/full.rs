//! A disk without room. The server runs in a mount namespace of its own, with its data on a small
//! tmpfs; `/proc/PID/root` shows it to the test.

use std::path::{Path, PathBuf};

use filegate_testkit::server::{TestServer, eventually};

use crate::support::{QUICK, list, setup, text};

/// A server whose data directory is a tmpfs with these mount options.
fn start(home: &Path, options: &str) -> TestServer {
    let data_dir = home.join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let key_file = home.join("key");
    let script = "mount -t tmpfs -o \"$MOUNT_OPTIONS\" tmpfs \"$DATA_DIR\" \
                  && \"$0\" key create --name full --data-dir \"$DATA_DIR\" > \"$KEY_FILE\" \
                  && exec \"$0\" \"$@\"";
    let mut server = setup()
        .config(QUICK)
        .env("MOUNT_OPTIONS", options)
        .env("DATA_DIR", data_dir.to_str().unwrap())
        .env("KEY_FILE", key_file.to_str().unwrap())
        .under(&["unshare", "-rm", "sh", "-c", script])
        .start_on(&data_dir);
    server.key = std::fs::read_to_string(key_file).unwrap().trim().to_owned();
    server
}

fn inside(server: &TestServer) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", server.pid()));
    root.join(server.data_dir.strip_prefix("/").unwrap())
}

/// Uploads until one is refused; gives the ids and seeds that were acknowledged.
fn fill(server: &TestServer, len: usize) -> Vec<(i64, u64)> {
    let mut stored = Vec::new();
    for seed in 1..4000 {
        let reply = server.upload("retrieval", "a.txt", &text(seed, len));
        if reply.code() != 0 {
            assert_eq!(reply.code(), 1013, "{}", reply.text());
            assert_eq!(reply.message(), "internal service error: storage is full");
            return stored;
        }
        stored.push((reply.file_id(), seed));
    }
    panic!("the disk never filled");
}

fn check(server: &TestServer, stored: &[(i64, u64)], len: usize) {
    let listed = list(server);
    assert_eq!(listed.len(), stored.len());
    for (id, seed) in stored {
        let reply = server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
        assert!(reply.body == text(*seed, len), "file {id}: {}", reply.text());
    }
}

#[test]
fn no_bytes_left() {
    for len in [40_000, 900_000] {
        let home = tempfile::tempdir().unwrap();
        let server = start(home.path(), "size=24m");
        let mut stored = fill(&server, len);
        assert!(!stored.is_empty());
        // Not one byte: somebody else has taken the rest.
        let filler = inside(&server).join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        drop(file);
        check(&server, &stored, len);
        assert_eq!(server.upload("retrieval", "a.txt", &text(9_999, len)).code(), 1013);

        // Deletes work, and what they free can be used again, without a restart.
        for _ in 0..stored.len().min(3) {
            let (id, _) = stored.pop().unwrap();
            assert_eq!(server.delete(id).code(), 0);
        }
        std::fs::remove_file(filler).unwrap();
        let seed = 10_000;
        let id = eventually("an upload is taken again", || {
            let reply = server.upload("retrieval", "a.txt", &text(seed, len));
            (reply.code() == 0).then(|| reply.file_id())
        });
        stored.push((id, seed));
        check(&server, &stored, len);
        assert!(!server.log().contains("panic"), "{}", server.log());
    }
}

#[test]
fn no_inodes_left() {
    let home = tempfile::tempdir().unwrap();
    // 256 directories of blobs and a few files are there from the start.
    let server = start(home.path(), "size=64m,nr_inodes=400");
    let mut stored = fill(&server, 2_000);
    assert!(stored.len() > 50, "{}", stored.len());
    check(&server, &stored, 2_000);
    let (id, _) = stored.pop().unwrap();
    assert_eq!(server.delete(id).code(), 0);
    let id = eventually("an upload is taken again", || {
        let reply = server.upload("retrieval", "a.txt", &text(5_000, 2_000));
        (reply.code() == 0).then(|| reply.file_id())
    });
    stored.push((id, 5_000));
    check(&server, &stored, 2_000);
}
