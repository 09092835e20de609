//! Every fault that fsck names is made here on purpose.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use filegate_store::fsck::{Options, Report, fsck};
use filegate_store::{Blobs, JobKind, S3Options};
use filegate_testkit::s3::S3Server;
use filegate_types::{BlobKey, ChannelId, FileId};

use crate::support::{NOW, Store, blob_key, channel, in_ms, on_both, sql};

on_both!(
    a_sound_store_is_clean,
    damage_is_named_marked_and_unmarked,
    orphans_are_removed_and_uploads_in_flight_are_not,
    copies_of_files_that_an_older_gateway_deleted_are_deleted_upstream,
);

const LOOK: Options = Options { repair: false, alone: false, digests: true };
const MEND: Options = Options { repair: true, alone: true, digests: true };

async fn run(store: &Store, options: Options) -> Report {
    // Two hours later, so that blobs of NOW are not taken for uploads in flight.
    fsck(&store.catalog, &store.blobs, options, in_ms(7_200_000), |_, _| ()).await.unwrap()
}

fn path(store: &Store, key: &BlobKey) -> std::path::PathBuf {
    store.home.path().join("blobs").join(key.shard()).join(key.as_str())
}

async fn a_sound_store_is_clean(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    for seed in 0..5 {
        store.upload(acme, seed, &vec![seed; 300_000]).await;
    }
    let report = run(&store, LOOK).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.files, report.bytes), (5, 1_500_000));
}

async fn damage_is_named_marked_and_unmarked(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let flipped = store.upload(acme, 1, &[1; 1000]).await;
    let cut = store.upload(acme, 2, &[2; 1000]).await;
    let lost = store.upload(acme, 3, &[3; 1000]).await;
    let whole = store.upload(acme, 4, &[4; 1000]).await;
    let file = fs::OpenOptions::new().write(true).open(path(&store, &flipped.blob_key)).unwrap();
    file.write_all_at(&[9], 500).unwrap();
    let cut_file = fs::OpenOptions::new().write(true).open(path(&store, &cut.blob_key)).unwrap();
    cut_file.set_len(999).unwrap();
    fs::remove_file(path(&store, &lost.blob_key)).unwrap();
    store.catalog.mark_damaged(whole.file_id, Some(NOW)).await.unwrap();

    for options in [LOOK, MEND] {
        let report = run(&store, options).await;
        let mut damaged = report.damaged.clone();
        damaged.sort_unstable();
        let mut expected = vec![flipped.file_id, cut.file_id];
        expected.sort_unstable();
        assert_eq!(damaged, expected);
        assert_eq!(report.missing, [lost.file_id]);
        assert_eq!(report.whole_again, [whole.file_id]);
    }
    let mark = |id| {
        let catalog = store.catalog.clone();
        async move { catalog.file(acme, id, NOW).await.unwrap().unwrap().damaged_at }
    };
    assert!(mark(flipped.file_id).await.is_some());
    assert!(mark(lost.file_id).await.is_some());
    assert!(mark(whole.file_id).await.is_none());

    file.write_all_at(&[1], 500).unwrap();
    assert_eq!(run(&store, MEND).await.whole_again, [flipped.file_id]);
    assert!(mark(flipped.file_id).await.is_none());
}

async fn orphans_are_removed_and_uploads_in_flight_are_not(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let kept = store.upload(acme, 1, b"kept").await;
    let (flying, orphan) = (blob_key(2), blob_key(3));
    store.begin(acme, &flying, in_ms(60_000)).await;
    store.land(&flying, b"landed, not committed").await;
    store.land(&orphan, b"litter").await;
    for options in [LOOK, MEND] {
        let report = run(&store, options).await;
        assert_eq!(
            (report.orphans.as_slice(), report.orphan_bytes),
            ([orphan.clone()].as_slice(), 6)
        );
    }
    assert!(!path(&store, &orphan).try_exists().unwrap());
    assert!(path(&store, &flying).try_exists().unwrap());
    assert!(path(&store, &kept.blob_key).try_exists().unwrap());
    assert!(run(&store, LOOK).await.is_clean());
}

async fn copies_of_files_that_an_older_gateway_deleted_are_deleted_upstream(store: Store) {
    channel(&store, ChannelId(1));
    let (acme, _) = store.account("acme", 1).await;
    let kept = store.upload(acme, 1, b"kept").await.file_id;
    let lost: FileId = "123456789".parse().unwrap();
    let copy = |file: FileId, id: &str| {
        sql(
            &store,
            &format!(
                "INSERT INTO replicas (file_id, channel_id, account_id, state, upstream_id, created_at, used_at)
                 VALUES ({file}, 1, {}, 'ready', '{id}', 0, 0)",
                acme.0
            ),
        );
    };
    copy(kept, "71");
    copy(lost, "72");
    let report = run(&store, LOOK).await;
    assert_eq!((report.lost_copies, report.books.len()), (0, 1), "{report:?}");
    let report = run(&store, MEND).await;
    assert_eq!((report.lost_copies, report.books.len()), (1, 0), "{report:?}");
    let jobs = store.catalog.claim_jobs(JobKind::REMOTE, in_ms(1 << 40), 9, Duration::ZERO).await;
    let targets: Vec<_> = jobs.unwrap().into_iter().map(|job| job.target).collect();
    assert_eq!(targets, ["1/72/"]);
    assert!(run(&store, LOOK).await.is_clean());
}

#[tokio::test]
async fn a_store_on_s3_is_checked_and_mended_alike() {
    let server = S3Server::start_new();
    let mut store = Store::on_sqlite();
    let options = S3Options {
        access_key_id: server.access_key().to_owned(),
        secret_access_key: server.secret_key().to_owned(),
        ..S3Options::parse(&server.url("p")).unwrap()
    };
    store.blobs = Blobs::s3(options, store.home.path()).unwrap();
    let (acme, _) = store.account("acme", 1).await;
    let object = |key: &BlobKey| server.root().join("p").join(key.shard()).join(key.as_str());
    let flipped = store.upload(acme, 1, &[1; 1000]).await;
    let lost = store.upload(acme, 2, &[2; 1000]).await;
    store.upload(acme, 3, &vec![3; 300_000]).await;
    store.land(&blob_key(4), b"nobody's").await;
    let file = fs::OpenOptions::new().write(true).open(object(&flipped.blob_key)).unwrap();
    file.write_all_at(&[9], 500).unwrap();
    fs::remove_file(object(&lost.blob_key)).unwrap();

    for options in [LOOK, MEND] {
        let report = run(&store, options).await;
        assert_eq!((report.files, report.bytes), (3, 302_000 - 1000));
        assert_eq!((report.damaged, report.missing), (vec![flipped.file_id], vec![lost.file_id]));
        assert_eq!((report.orphans, report.orphan_bytes), (vec![blob_key(4)], 8));
    }
    let report = run(&store, LOOK).await;
    assert!(report.orphans.is_empty() && server.objects("p").len() == 2, "{report:?}");
}
