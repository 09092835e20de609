//! What a crash leaves of small uploads, and what a start makes of it.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use filegate_store::{
    BlobSum, Blobs, CommitOutcome, LocalBlobs, Pace, SmallBlob, StoreError, sweep,
};
use filegate_types::{AccountId, BlobKey};

use crate::support::{NOW, Store, blob_key, new_file, open};

fn local(blobs: &Blobs) -> &LocalBlobs {
    blobs.as_local().unwrap()
}

/// A store whose start has found that there can be packs.
async fn started() -> Store {
    let store = Store::on_sqlite();
    assert!(!local(&store.blobs).has_packs());
    assert_eq!(sweep(&store.catalog, &store.blobs).await.unwrap(), 0);
    assert!(local(&store.blobs).has_packs());
    store
}

fn append(blobs: &Blobs, key: BlobKey, content: &[u8]) -> Result<(BlobKey, BlobSum), StoreError> {
    let blob = SmallBlob::from(content.to_vec());
    let (sum, (tell, told)) = (blob.sum(), mpsc::channel());
    if local(blobs).queue(key, blob, move |landed| tell.send(landed).unwrap()) {
        while local(blobs).append_queued() {}
    }
    told.recv().unwrap().map(|key| (key, sum))
}

fn land(blobs: &Blobs, seed: u8, len: usize) -> (BlobKey, BlobSum) {
    append(blobs, blob_key(seed), &vec![seed; len]).unwrap()
}

fn packs(store: &Store) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.home.path().join("packs")).unwrap();
    let mut packs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    packs.sort();
    packs
}

fn digest(blobs: &Blobs, key: &BlobKey) -> Option<(u64, [u8; 32])> {
    local(blobs).digest(key, |_| Pace::Go).unwrap()
}

async fn own(store: &Store, acme: AccountId, key: &BlobKey, sum: BlobSum) {
    let file = new_file(key.clone(), sum);
    let done = store.commit_whole(acme, file).await.unwrap();
    assert!(matches!(done, CommitOutcome::Committed(_)), "{done:?}");
}

#[tokio::test]
async fn what_was_appended_is_read_until_it_is_purged() {
    let store = started().await;
    let blobs = &store.blobs;
    let lens = [1, 4032, 4033, 100_000, 262_144];
    let landed: Vec<_> = (1..).zip(lens).map(|(seed, len)| land(blobs, seed, len)).collect();
    for ((key, sum), len) in landed.iter().zip(lens) {
        assert_eq!(key.as_str().parse::<BlobKey>().as_ref(), Ok(key));
        assert_eq!((key.minted_at(), key.place().is_some()), (NOW, true));
        assert_eq!(digest(blobs, key), Some((len as u64, sum.sha256)));
        assert_eq!(blobs.length(key).await.unwrap(), Some(len as u64));
        let reader = local(blobs).open(key, sum.bytes, sum.block_sums.clone()).unwrap();
        assert_eq!(reader.block_at(0).unwrap().1.len(), len);
    }
    let mut listed = Vec::new();
    local(blobs).each(|key, bytes| listed.push((key, bytes))).unwrap();
    let expected: Vec<_> = landed.iter().map(|(key, sum)| (key.clone(), sum.bytes)).collect();
    assert_eq!(listed, expected);

    blobs.purge(&landed[2].0).await.unwrap();
    blobs.purge(&landed[2].0).await.unwrap();
    assert_eq!(digest(blobs, &landed[2].0), None);
    for (key, sum) in [&landed[1], &landed[3]] {
        assert_eq!(digest(blobs, key), Some((sum.bytes, sum.sha256)));
    }
    // Another's key for the same place is nobody's.
    let place = landed[3].0.place().unwrap();
    let other = blob_key(99).at(place);
    assert_eq!(digest(blobs, &other), None);
    blobs.purge(&other).await.unwrap();
    assert!(digest(blobs, &landed[3].0).is_some());
}

#[tokio::test]
async fn a_start_keeps_what_a_row_owns_and_frees_the_rest() {
    let store = started().await;
    let (acme, _) = store.account("acme", 1).await;
    let owned = land(&store.blobs, 1, 5_000);
    own(&store, acme, &owned.0, owned.1.clone()).await;
    let nobodys = land(&store.blobs, 2, 6_000);
    let last = land(&store.blobs, 3, 7_000);
    own(&store, acme, &last.0, last.1.clone()).await;
    let [pack] = packs(&store).try_into().unwrap();
    assert_eq!(pack.extension().unwrap(), "open");
    // What a write that was cut off leaves: bytes without a head, at the end.
    let end = u64::from(last.0.place().unwrap().block + 2) * 4096;
    let file = fs::OpenOptions::new().write(true).open(&pack).unwrap();
    file.write_all_at(&[9; 5_000], end).unwrap();
    fs::File::create(store.home.path().join("tmp/strange")).unwrap();

    // The next start; this store is still there, as after a kill.
    let (catalog, blobs) = open(store.home.path());
    assert_eq!(sweep(&catalog, &blobs).await.unwrap(), 2);
    for (key, sum) in [&owned, &last] {
        assert_eq!(digest(&blobs, key), Some((sum.bytes, sum.sha256)));
    }
    assert_eq!(digest(&blobs, &nobodys.0), None);
    let complete = pack.with_extension("");
    assert_eq!(packs(&store), std::slice::from_ref(&complete));
    assert_eq!(fs::metadata(&complete).unwrap().len(), end);
    assert_eq!(fs::read_dir(store.home.path().join("tmp")).unwrap().count(), 0);
    // Its number is not used again, and it goes with the last of what is in it.
    let next = land(&blobs, 4, 10);
    assert!(next.0.place().unwrap().pack > owned.0.place().unwrap().pack);
    blobs.purge(&owned.0).await.unwrap();
    assert!(complete.try_exists().unwrap());
    blobs.purge(&last.0).await.unwrap();
    assert!(!complete.try_exists().unwrap());
}

#[tokio::test]
async fn a_pack_that_is_closed_is_as_long_as_what_is_in_it_or_gone() {
    let store = started().await;
    let (key, sum) = land(&store.blobs, 1, 5_000);
    local(&store.blobs).close_packs();
    let [pack] = packs(&store).try_into().unwrap();
    assert_eq!((pack.extension(), fs::metadata(&pack).unwrap().len()), (None, 8_192));
    assert_eq!(digest(&store.blobs, &key), Some((5_000, sum.sha256)));
    let late = append(&store.blobs, blob_key(2), b"late");
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");

    let (_catalog, blobs) = open(store.home.path());
    local(&blobs).open_packs().unwrap();
    let (key, _) = land(&blobs, 3, 5_000);
    blobs.purge(&key).await.unwrap();
    local(&blobs).close_packs();
    assert_eq!(packs(&store), [pack]);
}

/// Many threads at once, over the end of packs: each blob is where its key says, and no two are in one place.
#[tokio::test]
async fn many_append_at_once_and_packs_follow_one_another() {
    let store = started().await;
    let blobs = &store.blobs;
    let landed: Vec<(BlobKey, BlobSum)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8u8)
            .map(|thread| {
                scope.spawn(move || {
                    (0..80u8)
                        .map(|n| {
                            let mut content = vec![n; 250_000];
                            content[0] = thread;
                            append(blobs, blob_key(thread), &content).unwrap()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for (key, sum) in &landed {
        assert_eq!(digest(blobs, key), Some((250_000, sum.sha256)));
    }
    let mut all = Vec::new();
    local(blobs).each(|key, _| all.push(key)).unwrap();
    let mut keys: Vec<_> = landed.into_iter().map(|(key, _)| key).collect();
    keys.sort();
    all.sort();
    assert_eq!((all.len(), all == keys), (640, true));
    // The last two may still be written to.
    let open = packs(&store).iter().filter(|path| path.extension().is_some()).count();
    assert_eq!((packs(&store).len(), open), (3, 2));
}
