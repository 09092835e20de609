//! What a crash leaves of small uploads, and what a start makes of it.

use std::fs;
use std::path::{Path, PathBuf};

use filegate_store::{BlobSum, Blobs, CommitOutcome, LocalBlobs, Pace, StoreError, sweep_tmp};
use filegate_types::BlobKey;

use crate::support::{NOW, Store, blob_key, new_file};

fn local(blobs: &Blobs) -> &LocalBlobs {
    blobs.as_local().unwrap()
}

/// A store whose start has found that files can have two names.
async fn started() -> Store {
    let store = Store::on_sqlite();
    assert!(!local(&store.blobs).has_links());
    assert_eq!(sweep_tmp(&store.catalog, &store.blobs).await.unwrap(), 0);
    assert!(local(&store.blobs).has_links());
    store
}

fn names(home: &Path, key: &BlobKey) -> [PathBuf; 2] {
    [home.join("tmp").join(key.as_str()), home.join("blobs").join(key.shard()).join(key.as_str())]
}

fn there(home: &Path, key: &BlobKey) -> [bool; 2] {
    names(home, key).map(|path| path.try_exists().unwrap())
}

fn land(store: &Store, seed: u8) -> (BlobKey, BlobSum) {
    let key = blob_key(seed);
    let sum = local(&store.blobs).land_whole(&key, &[seed; 1000]).unwrap();
    (key, sum)
}

#[tokio::test]
async fn what_has_landed_is_read_before_and_after_it_is_settled() {
    let store = started().await;
    let home = store.home.path();
    let (key, sum) = land(&store, 1);
    assert_eq!(there(home, &key), [true, true]);
    let read = || local(&store.blobs).digest(&key, |_| Pace::Go).unwrap();
    assert_eq!(read(), Some((1000, sum.sha256)));
    local(&store.blobs).settle(std::slice::from_ref(&key));
    assert_eq!(there(home, &key), [false, true]);
    assert_eq!(read(), Some((1000, sum.sha256)));
    // A key is used once, whichever name is left of it.
    let again = local(&store.blobs).land_whole(&key, b"other");
    assert!(matches!(again, Err(StoreError::Io { .. })), "{again:?}");
    assert_eq!(there(home, &key), [false, false], "who fails to land removes what is in the way");
}

#[tokio::test]
async fn a_start_keeps_what_a_row_owns_and_removes_the_rest() {
    let store = started().await;
    let home = store.home.path();
    let (acme, _) = store.account("acme", 1).await;
    let mut owned = Vec::new();
    for seed in 1..=3 {
        let (key, sum) = land(&store, seed);
        let file = new_file(key.clone(), sum);
        let done = store.catalog.commit_whole(acme, file, NOW).await.unwrap().unwrap();
        assert!(matches!(done, CommitOutcome::Committed(_)), "{done:?}");
        owned.push(key);
    }
    // The power took the name that nobody had synced.
    fs::remove_file(&names(home, &owned[1])[1]).unwrap();
    // Settled half.
    local(&store.blobs).settle(&owned[2..]);
    let (nobodys, _) = land(&store, 4);
    let (half, _) = land(&store, 5);
    fs::remove_file(&names(home, &half)[1]).unwrap();
    fs::File::create(home.join("tmp/strange")).unwrap();

    assert_eq!(sweep_tmp(&store.catalog, &store.blobs).await.unwrap(), 2);
    for key in &owned {
        assert_eq!(there(home, key), [false, true]);
    }
    for key in [&nobodys, &half] {
        assert_eq!(there(home, key), [false, false]);
    }
    assert_eq!(fs::read_dir(home.join("tmp")).unwrap().count(), 0);
    assert_eq!(sweep_tmp(&store.catalog, &store.blobs).await.unwrap(), 0);
}
