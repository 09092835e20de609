//! What every catalog promises.

use std::time::Duration;

use filegate_store::catalog::KeySelector;
use filegate_store::{CommitOutcome, DeleteOutcome, JobKind, StoreError};
use filegate_types::{Call, FileId, KeyHash, KeyId, UnixMillis};

use crate::support::{LEASE, NOW, Store, blob_key, in_ms, new_file, new_upload, on_both};

on_both!(
    an_upload_becomes_a_file_of_its_account_alone,
    ids_that_clash_are_drawn_again,
    files_are_found_together_and_only_the_accounts_own,
    lists_page_by_purpose,
    a_delete_hides_at_once_and_leaves_a_purge_job,
    an_upload_that_was_reaped_cannot_commit,
    expired_files_are_gone_before_the_expirer_comes,
    keys_stop_at_revocation_and_expiry,
    a_second_process_sees_and_makes_changes,
    changes_are_made_although_their_caller_is_gone,
    many_at_once_all_commit,
    settings_are_made_once,
);

async fn an_upload_becomes_a_file_of_its_account_alone(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let file = store.upload(acme, 9, b"hello").await;

    let (found, sums) =
        store.catalog.file_with_sums(acme, file.file_id, NOW).await.unwrap().unwrap();
    assert_eq!(found, file);
    assert_eq!((found.bytes, sums.len()), (5, 4));

    assert_eq!(store.catalog.file(other, file.file_id, NOW).await.unwrap(), None);
    assert!(store.catalog.list(other, vec![], None, 10, NOW).await.unwrap().is_empty());
    assert_eq!(
        store.catalog.delete_file(other, KeyId(1), file.file_id, vec![], NOW).await.unwrap(),
        DeleteOutcome::NotFound
    );
    assert_eq!(store.catalog.list(acme, vec![], None, 10, NOW).await.unwrap(), [file]);
}

async fn ids_that_clash_are_drawn_again(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let mut ids = Vec::new();
    // Every upload has the same eight random draws and the same clock.
    for seed in 0..40 {
        ids.push(store.upload(acme, seed, b"x").await.file_id);
    }
    let listed = store.catalog.list(acme, vec![], None, 100, NOW).await.unwrap();
    ids.sort_unstable();
    ids.reverse();
    assert_eq!(listed.iter().map(|f| f.file_id).collect::<Vec<_>>(), ids);
    ids.dedup();
    assert_eq!(ids.len(), 40);
}

async fn files_are_found_together_and_only_the_accounts_own(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let mut mine = Vec::new();
    for seed in 0..3 {
        mine.push(store.upload(acme, seed, b"x").await);
    }
    let theirs = store.upload(other, 9, b"x").await;
    let never = FileId::new(7).unwrap();
    let asked = vec![mine[2].file_id, never, theirs.file_id, mine[0].file_id, mine[2].file_id];

    let mut found = store.catalog.files_of(acme, asked.clone(), NOW).await.unwrap();
    found.sort_by_key(|file| file.file_id);
    assert_eq!(found, [mine[0].clone(), mine[2].clone()]);
    assert_eq!(store.catalog.files_of(other, asked, NOW).await.unwrap(), [theirs]);
    assert!(store.catalog.files_of(acme, vec![], NOW).await.unwrap().is_empty());
    let many = (1..=1000).map(|id| FileId::new(id).unwrap()).collect();
    assert!(store.catalog.files_of(acme, many, NOW).await.unwrap().is_empty());
}

async fn lists_page_by_purpose(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    for seed in 0..6 {
        let key = blob_key(seed);
        store.begin(acme, &key, in_ms(1)).await;
        let sum = store.land(&key, b"x").await;
        let purpose = ["t2a_async", "t2a_async_input", "batch"][seed as usize % 3];
        let file =
            filegate_store::NewFile { purpose: purpose.parse().unwrap(), ..new_file(key, sum) };
        store.catalog.commit_upload(acme, file, in_ms(i64::from(seed))).await.unwrap();
    }
    let purposes = || vec!["t2a_async".parse().unwrap(), "t2a_async_input".parse().unwrap()];
    let first = store.catalog.list(acme, purposes(), None, 3, NOW).await.unwrap();
    assert_eq!(first.len(), 3);
    let after = Some(first[2].file_id);
    let rest = store.catalog.list(acme, purposes(), after, 3, NOW).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert!(rest[0].file_id < first[2].file_id);
    let batch = store.catalog.list(acme, vec!["batch".parse().unwrap()], None, 9, NOW).await;
    assert_eq!(batch.unwrap().len(), 2);
    // As many as a key may touch, whatever their number.
    let three = || ["t2a_async", "batch", "t2a_async_input"].map(|p| p.parse().unwrap()).to_vec();
    let all = store.catalog.list(acme, three(), None, 99, NOW).await.unwrap();
    assert_eq!(all.len(), 6);
    assert!(all.is_sorted_by(|one, next| one.file_id > next.file_id));
    let rest = store.catalog.list(acme, three(), Some(all[3].file_id), 99, NOW).await.unwrap();
    assert_eq!(rest, all[4..]);
    let other = ["retrieval", "fine-tune", "assistants"].map(|p| p.parse().unwrap()).to_vec();
    assert!(store.catalog.list(acme, other, None, 99, NOW).await.unwrap().is_empty());
}

async fn a_delete_hides_at_once_and_leaves_a_purge_job(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"bytes").await;
    let other = vec!["prompt_audio".parse().unwrap()];
    let delete = |purposes| store.catalog.delete_file(acme, KeyId(1), file.file_id, purposes, NOW);
    assert_eq!(delete(other).await.unwrap(), DeleteOutcome::OtherPurpose);
    assert_eq!(delete(vec![file.purpose.clone()]).await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!(delete(vec![]).await.unwrap(), DeleteOutcome::NotFound);
    assert_eq!(store.catalog.file(acme, file.file_id, NOW).await.unwrap(), None);

    let jobs = store.catalog.claim_jobs(JobKind::LOCAL, NOW, 10, LEASE).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].target, file.blob_key.as_str());
    store.catalog.postpone_job(jobs[0].job_id, in_ms(50), "disk".to_owned()).await.unwrap();
    assert!(
        store.catalog.claim_jobs(JobKind::LOCAL, in_ms(49), 10, LEASE).await.unwrap().is_empty()
    );
    assert_eq!(
        store.catalog.claim_jobs(JobKind::LOCAL, in_ms(50), 10, LEASE).await.unwrap()[0].attempts,
        1
    );
    // Given back it is not one attempt more.
    store.catalog.give_back_jobs(vec![jobs[0].job_id], in_ms(60)).await.unwrap();
    assert!(
        store.catalog.claim_jobs(JobKind::LOCAL, in_ms(59), 10, LEASE).await.unwrap().is_empty()
    );
    assert_eq!(
        store.catalog.claim_jobs(JobKind::LOCAL, in_ms(60), 10, LEASE).await.unwrap()[0].attempts,
        1
    );
    store.catalog.finish_jobs(vec![jobs[0].job_id], NOW).await.unwrap();
    assert!(
        store.catalog.claim_jobs(JobKind::LOCAL, in_ms(99), 10, LEASE).await.unwrap().is_empty()
    );
}

async fn an_upload_that_was_reaped_cannot_commit(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let key = blob_key(1);
    store.begin(acme, &key, in_ms(1_000)).await;
    assert!(store.catalog.renew_upload(key.clone(), in_ms(2_000)).await.unwrap());
    assert_eq!(store.catalog.reap_uploads(in_ms(1_999), NOW, 10).await.unwrap(), 0);
    assert_eq!(store.catalog.reap_uploads(in_ms(2_000), NOW, 10).await.unwrap(), 1);
    assert!(!store.catalog.renew_upload(key.clone(), in_ms(9_000)).await.unwrap());
    let sum = store.land(&key, b"late").await;
    let result = store.catalog.commit_upload(acme, new_file(key.clone(), sum), NOW).await;
    assert!(matches!(result, Err(StoreError::LeaseLost)), "{result:?}");
    assert_eq!(
        store.catalog.claim_jobs(JobKind::LOCAL, NOW, 10, LEASE).await.unwrap()[0].target,
        key.as_str()
    );
    assert_eq!(store.catalog.counts().await.unwrap().files, 0);
}

async fn expired_files_are_gone_before_the_expirer_comes(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let key = blob_key(1);
    store.begin(acme, &key, in_ms(1_000)).await;
    let sum = store.land(&key, b"x").await;
    let file = filegate_store::NewFile { expires_at: Some(in_ms(500)), ..new_file(key, sum) };
    let file = store.commit(acme, file).await;
    assert!(store.catalog.file(acme, file.file_id, in_ms(499)).await.unwrap().is_some());
    assert!(store.catalog.file(acme, file.file_id, in_ms(500)).await.unwrap().is_none());
    assert!(store.catalog.list(acme, vec![], None, 9, in_ms(500)).await.unwrap().is_empty());
    assert_eq!(store.catalog.expire_due(in_ms(499), 10).await.unwrap(), 0);
    assert_eq!(store.catalog.expire_due(in_ms(500), 10).await.unwrap(), 1);
    assert_eq!(
        store.catalog.claim_jobs(JobKind::LOCAL, in_ms(500), 10, LEASE).await.unwrap().len(),
        1
    );
}

async fn keys_stop_at_revocation_and_expiry(store: Store) {
    let (acme, key) = store.account("acme", 1).await;
    let (again, second) = store.account("acme", 2).await;
    assert_eq!(acme, again);
    let auth = |hash| store.catalog.authenticate(hash, Call::List, NOW);
    assert!(auth(KeyHash::of("fg-unknown")).await.unwrap().is_none());

    let revoke = |key| store.catalog.revoke_key(key, NOW);
    assert!(revoke(KeySelector::Hash(key.hash())).await.unwrap());
    assert!(revoke(KeySelector::Hash(key.hash())).await.unwrap());
    assert!(!revoke(KeySelector::Hash(KeyHash::of("fg-unknown"))).await.unwrap());
    assert!(auth(key.hash()).await.unwrap().is_none());
    let rows = store.catalog.keys().await.unwrap();
    assert_eq!((rows.len(), rows[0].revoked_at), (2, Some(NOW)));
    assert!(revoke(KeySelector::Id(rows[1].key_id)).await.unwrap());
    assert!(auth(second.hash()).await.unwrap().is_none());
}

async fn a_second_process_sees_and_makes_changes(store: Store) {
    let beside = store.reopened().await;
    let (_, key) = store.account("acme", 7).await;
    assert!(beside.authenticate(key.hash(), Call::List, NOW).await.unwrap().is_some());
    beside.revoke_key(KeySelector::Hash(key.hash()), NOW).await.unwrap();
    assert!(store.catalog.authenticate(key.hash(), Call::List, NOW).await.unwrap().is_none());
}

async fn changes_are_made_although_their_caller_is_gone(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    for seed in 0..50 {
        let begin =
            store.catalog.begin_upload(new_upload(acme, &blob_key(seed), in_ms(1_000)), NOW);
        let _cut = tokio::time::timeout(Duration::ZERO, begin).await;
    }
    store.settled().await;
    let uploads = store.catalog.counts().await.unwrap().uploads;
    let reaped = store.catalog.reap_uploads(UnixMillis(i64::MAX), NOW, 100).await.unwrap();
    assert_eq!(reaped as u64, uploads);
}

async fn many_at_once_all_commit(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..100u8 {
        let (catalog, key) = (store.replica(seed.into()), blob_key(seed));
        let sum = store.land(&key, &[seed]).await;
        tasks.spawn(async move {
            let upload = new_upload(acme, &key, in_ms(60_000));
            catalog.begin_upload(upload, NOW).await.unwrap().unwrap();
            match catalog.commit_upload(acme, new_file(key, sum), NOW).await.unwrap() {
                CommitOutcome::Committed(file) => *file,
                other => panic!("{other:?}"),
            }
        });
    }
    let files = tasks.join_all().await;
    let mut ids: Vec<_> = files.iter().map(|f| f.file_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    assert_eq!(store.catalog.counts().await.unwrap().files, 100);
}

async fn settings_are_made_once(store: Store) {
    assert_eq!(store.catalog.meta("secret").await.unwrap(), None);
    let first = store.catalog.meta_init("secret", b"one".to_vec()).await.unwrap();
    let second = store.catalog.meta_init("secret", b"two".to_vec()).await.unwrap();
    assert_eq!((first, second), ((b"one".to_vec(), true), (b"one".to_vec(), false)));
    store.catalog.meta_set("secret", b"three".to_vec()).await.unwrap();
    assert_eq!(store.catalog.meta("secret").await.unwrap(), Some(b"three".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_another_one_after_each_commit_whoever_made_it() {
    let store = Store::on_sqlite();
    let beside = store.reopened().await;
    let mut last = store.catalog.version().unwrap();
    let mut is_another = || {
        let version = store.catalog.version().unwrap();
        std::mem::replace(&mut last, version) != version
    };
    assert!(!is_another());
    let (acme, key) = store.account("acme", 1).await;
    assert!(is_another() && !is_another());
    store.upload(acme, 9, b"hello").await;
    assert!(is_another() && !is_another());
    // Reads are none, and what is folded into the database may be one or not.
    store.catalog.authenticate(key.hash(), Call::List, NOW).await.unwrap();
    assert!(!is_another());
    store.try_sql("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    is_another();
    beside.revoke_key(KeySelector::Hash(key.hash()), NOW).await.unwrap();
    assert!(is_another() && !is_another());
    store.catalog.meta_set("relaxed", vec![1]).await.unwrap();
    assert!(is_another() && !is_another());
    store.try_sql("UPDATE accounts SET balance = 7").unwrap();
    assert!(is_another() && !is_another());
}
