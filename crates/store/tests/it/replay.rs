//! What a power cut may take of the catalog, and that a start commits it again.
//!
//! The log of SQLite can lose all that was written since it was last synced, from any place on. So copies of a directory
//! are made whose log is cut at each of them.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use filegate_store::{
    CommitOutcome, FirstAnswer, NewFile, Short, StoreError, WholeUpload, is_behind, replay, sweep,
};
use filegate_types::{AccountId, BlobKey, FileId, KeyId};

use crate::support::{
    NOW, Store, append, blob_key, commit_whole, digest, local, new_file, open, started,
};

/// Bytes of the log's own head, and of a page with its.
const LOG_HEAD: u64 = 32;
const FRAME: u64 = 24 + 4096;

/// A small upload, from its record to its commit.
async fn upload(
    store: &Store,
    account: AccountId,
    seed: u8,
    edit: impl FnOnce(&mut NewFile),
) -> Result<CommitOutcome, Short> {
    let (key, file) = recorded(store, account, seed, edit);
    commit_whole(&store.catalog, account, NewFile { blob_key: key, ..file }).await
}

/// The record of a small upload, nothing more.
fn recorded(
    store: &Store,
    account: AccountId,
    seed: u8,
    edit: impl FnOnce(&mut NewFile),
) -> (BlobKey, NewFile) {
    let content = vec![seed; 3_000 * usize::from(seed)];
    let sum = filegate_store::SmallBlob::from(content.clone()).sum();
    let mut file = NewFile { id_bits: [seed.into(); 8], ..new_file(blob_key(seed), sum) };
    edit(&mut file);
    let entry = WholeUpload { account, at: NOW, file: file.clone() }.to_entry().unwrap();
    let (key, _) = append(&store.blobs, blob_key(seed), &content, entry).unwrap();
    (key, file)
}

fn id(outcome: Result<CommitOutcome, Short>) -> FileId {
    match outcome {
        Ok(CommitOutcome::Committed(record)) => record.file_id,
        other => panic!("{other:?}"),
    }
}

fn log_bytes(home: &Path) -> u64 {
    fs::metadata(home.join("catalog.db-wal")).unwrap().len()
}

/// A copy of the directory whose log has only its first `bytes`.
fn cut(home: &Path, bytes: u64) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("packs")).unwrap();
    let packs = fs::read_dir(home.join("packs")).unwrap();
    let packs = packs.map(|entry| Path::new("packs").join(entry.unwrap().file_name()));
    for file in packs.chain(["catalog.db", "catalog.db-wal"].map(Into::into)) {
        fs::copy(home.join(&file), copy.path().join(&file)).unwrap();
    }
    let log = fs::OpenOptions::new().write(true).open(copy.path().join("catalog.db-wal"));
    log.unwrap().set_len(bytes).unwrap();
    copy
}

/// All that uploads change, as text.
fn rows(home: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(home.join("catalog.db")).unwrap();
    let mut all = Vec::new();
    for table in [
        "files",
        "accounts",
        "ledger",
        "stored",
        "usage",
        "idempotency",
        "receipts",
        "jobs",
        "meta",
    ] {
        let mut select = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values =
                (0..columns).map(|at| format!("{:?}", row.get::<_, rusqlite::types::Value>(at)));
            all.push(format!("{table}: {}", values.collect::<Vec<_>>().join(" ")));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn whatever_a_power_cut_takes_is_committed_again_and_nothing_else() {
    let store = started().await;
    let home = store.home.path();
    let (acme, _) = store.account("acme", 1).await;
    let (poor, _) = store.account("poor", 2).await;
    let (at_acme, at_poor) = (acme.0, poor.0);
    store
        .try_sql(&format!(
            "INSERT INTO prices (call, purpose, unit, amount) VALUES ('files.upload', '', 'call', 5);
             INSERT INTO ledger (account_id, at, kind, amount, balance)
             VALUES ({at_acme}, 0, 'top_up', 1000, 1000), ({at_poor}, 0, 'top_up', 9, 9);
             UPDATE accounts SET balance = 1000 WHERE account_id = {at_acme};
             UPDATE accounts SET balance = 9 WHERE account_id = {at_poor}"
        ))
        .unwrap();
    let first = |key: &str| FirstAnswer {
        owner: format!("account:{at_acme}"),
        key: key.to_owned(),
        fingerprint: [7; 32],
    };

    // The commit of the first of a pack is synced.
    id(upload(&store, acme, 1, |_| {}).await);
    let first_synced = log_bytes(home);
    let deleted = id(upload(&store, acme, 2, |_| {}).await);
    id(upload(&store, poor, 3, |_| {}).await);
    let mut takes = vec![(first_synced, log_bytes(home))];
    store.catalog.delete_file(acme, KeyId(1), deleted, vec![], NOW).await.unwrap();
    let synced = log_bytes(home);
    // What it cut loses is not what a delete had seen.
    id(upload(&store, acme, 4, |file| file.first_answer = Some(first("a"))).await);
    let short = upload(&store, poor, 5, |_| {}).await;
    assert!(matches!(short, Err(Short { .. })), "{short:?}");
    let repeated = upload(&store, acme, 6, |file| file.first_answer = Some(first("a"))).await;
    assert_eq!(repeated, Ok(CommitOutcome::Repeated));
    id(upload(&store, acme, 7, |file| file.filename = "\u{1F3A4} \"voice\".mp3".to_owned()).await);
    takes.push((synced, log_bytes(home)));

    let whole = rows(home);
    let (from, to) = takes.pop().unwrap();
    assert!((LOG_HEAD + FRAME..to).contains(&from) && (to - LOG_HEAD).is_multiple_of(FRAME));
    let mut replayed = Vec::new();
    for bytes in (from..=to).step_by(FRAME as usize).flat_map(|at| [at, at + 1_000]) {
        let copy = cut(home, bytes.min(to));
        let (catalog, blobs) = open(copy.path());
        let behind = is_behind(&catalog, &blobs).await.unwrap();
        let files = replay(&catalog, &blobs).await.unwrap();
        assert!(behind || files == 0);
        replayed.push(files);
        assert_eq!(rows(copy.path()), whole, "cut at {bytes} of {from}..{to}");
        assert_eq!(replay(&catalog, &blobs).await.unwrap(), 0);
        // What was deleted and what was refused.
        assert_eq!(sweep(&catalog, &blobs).await.unwrap(), 3);
        for row in store.rows("SELECT blob_key FROM files") {
            let key = row[0].as_deref().unwrap().parse().unwrap();
            assert_eq!(digest(&blobs, &key), digest(&store.blobs, &key));
            assert!(digest(&blobs, &key).is_some());
        }
    }
    assert_eq!((replayed[0], replayed.last()), (2, Some(&0)), "{replayed:?}");

    // Before the delete: what it deleted is a file.
    let (from, _) = takes.pop().unwrap();
    let copy = cut(home, from);
    let (catalog, blobs) = open(copy.path());
    assert_eq!(replay(&catalog, &blobs).await.unwrap(), 4);
}

#[tokio::test]
async fn what_was_recorded_and_never_committed_is_a_file_if_it_is_whole() {
    let store = started().await;
    let (acme, _) = store.account("acme", 1).await;
    id(upload(&store, acme, 1, |_| {}).await);
    let (whole, _) = recorded(&store, acme, 2, |_| {});
    let (torn, _) = recorded(&store, acme, 3, |_| {});
    let (last, _) = recorded(&store, acme, 4, |_| {});
    let pack = fs::read_dir(store.home.path().join("packs")).unwrap().next().unwrap().unwrap();
    let file = fs::OpenOptions::new().write(true).open(pack.path()).unwrap();
    file.write_all_at(&[0; 4096], u64::from(torn.place().unwrap().block + 1) * 4096).unwrap();

    let (catalog, blobs) = open(store.home.path());
    assert_eq!(replay(&catalog, &blobs).await.unwrap(), 2);
    assert_eq!(sweep(&catalog, &blobs).await.unwrap(), 1);
    assert!(digest(&blobs, &whole).is_some() && digest(&blobs, &last).is_some());
    assert_eq!(digest(&blobs, &torn), None);
    assert_eq!(catalog.counts().await.unwrap().files, 3);
}

#[tokio::test]
async fn what_was_revoked_is_not_committed() {
    let store = started().await;
    let (acme, _) = store.account("acme", 1).await;
    id(upload(&store, acme, 1, |_| {}).await);
    let (revoked, _) = recorded(&store, acme, 2, |_| {});
    local(&store.blobs).revoke(&revoked).unwrap();
    local(&store.blobs).revoke(&revoked).unwrap();
    assert!(!is_behind(&store.catalog, &store.blobs).await.unwrap());
    assert_eq!(replay(&store.catalog, &store.blobs).await.unwrap(), 0);
}

#[tokio::test]
async fn an_entry_of_a_later_version_is_kept_for_that() {
    let store = started().await;
    let (acme, _) = store.account("acme", 1).await;
    id(upload(&store, acme, 1, |_| {}).await);
    let (later, _) = append(&store.blobs, blob_key(2), b"later", b"{\"v\":9}".to_vec()).unwrap();
    let refused = replay(&store.catalog, &store.blobs).await;
    assert!(
        matches!(&refused, Err(StoreError::Unusable(why)) if why.contains("cannot read")),
        "{refused:?}"
    );
    assert!(digest(&store.blobs, &later).is_some());
}
