//! What a crash leaves of small uploads, and what a start makes of it.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::thread;

use filegate_store::{BlobSum, Blobs, CommitOutcome, StoreError, sweep};
use filegate_types::{AccountId, BlobKey, BlobPlace};

use crate::support::{NOW, Store, append, blob_key, digest, local, new_file, open, started};

fn land(blobs: &Blobs, seed: u8, len: usize) -> (BlobKey, BlobSum) {
    append(blobs, blob_key(seed), &vec![seed; len], vec![seed; len % 300]).unwrap()
}

fn packs(store: &Store) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.home.path().join("packs")).unwrap();
    let mut packs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    packs.sort();
    packs
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
    let late = append(&store.blobs, blob_key(2), b"late", vec![]);
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");

    let (_catalog, blobs) = open(store.home.path());
    local(&blobs).open_packs(None).unwrap();
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
                            append(blobs, blob_key(thread), &content, vec![thread; 700]).unwrap()
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

/// Records that an earlier version wrote say nothing of their rows.
#[tokio::test]
async fn a_record_without_an_entry_is_read_and_freed() {
    let store = started().await;
    let (key, sum) = land(&store.blobs, 1, 5_000);
    let place = key.place().unwrap();
    let [pack] = packs(&store).try_into().unwrap();
    let mut head = [0; 64];
    let file = fs::OpenOptions::new().read(true).write(true).open(&pack).unwrap();
    file.read_exact_at(&mut head, 0).unwrap();
    head[..8].copy_from_slice(b"FGPACK1\n");
    let sum_of_head = crc32c::crc32c(&head[..40]);
    head[40..44].copy_from_slice(&sum_of_head.to_le_bytes());
    head[44..].fill(0);
    file.write_all_at(&head, 0).unwrap();

    assert_eq!(digest(&store.blobs, &key), Some((5_000, sum.sha256)));
    let next = land(&store.blobs, 2, 10);
    assert_eq!(next.0.place().unwrap().block, place.block + 2);
    let mut listed = Vec::new();
    local(&store.blobs).each(|key, _| listed.push(key)).unwrap();
    assert_eq!(listed, [key.clone(), next.0]);
    store.blobs.purge(&key).await.unwrap();
    assert_eq!(digest(&store.blobs, &key), None);
}

/// As in a directory that was restored from a backup, which has the catalog's word of packs and none of them.
#[tokio::test]
async fn packs_have_higher_numbers_than_any_that_the_catalog_knows_of() {
    let store = Store::on_sqlite();
    let through = BlobPlace { pack: u32::MAX - 7, block: 3 };
    local(&store.blobs).open_packs(Some(through)).unwrap();
    let (key, _) = land(&store.blobs, 1, 10);
    assert_eq!(key.place().unwrap(), BlobPlace { pack: u32::MAX - 6, block: 0 });
}
