//! What the relay keeps: copies, tasks, voices, files born upstream, and what calls hold.

use std::time::Duration;

use filegate_store::{
    Catalog, Claim, DeleteOutcome, JobKind, KeepOutcome, NewAdopted, NewHold, NewTask, OnChannel,
    Quota, Relayed, RelayedUsage, StoreError, Uploaded, VoiceState,
};
use filegate_types::{AccountId, ChannelId, FileId, KeyId, Money, PurposeName, TenantLimits};
use tokio::task::JoinSet;

use crate::support::{
    LEASE, NOW, Store, blob_key, channel, in_ms, new_file, new_upload, on_both, sql,
};

on_both!(
    of_two_hundred_claims_one_is_mine,
    nothing_is_copied_to_a_channel_that_was_removed,
    a_lapsed_lease_is_taken_over_by_one,
    a_copy_that_upstream_forgot_is_claimed_anew,
    a_file_that_goes_takes_its_copies_along,
    a_file_that_is_deleted_while_it_is_copied_leaves_nothing_upstream,
    a_claim_that_was_taken_over_cannot_be_filled,
    an_id_that_upstream_gives_anew_is_no_longer_the_old_files,
    tasks_are_adopted_once_and_are_the_accounts,
    voices_are_whose_they_are,
    a_copy_comes_with_the_commit_or_is_promised_by_it,
    adopted_files_are_listed_and_deleted_like_others,
    adopted_files_are_adopted_once_and_their_ids_are_not_given_to_others,
    what_is_kept_of_an_adopted_file_is_a_file_with_its_id,
    nothing_is_kept_beyond_the_quota_or_of_what_is_gone,
    adopted_files_expire,
    a_balance_for_ten_holds_exactly_ten_of_a_thousand,
    never_more_is_taken_than_was_held,
    a_hold_is_captured_voided_or_reaped_and_once,
    calls_without_a_price_are_counted,
    jobs_are_taken_by_kind,
);

const KEY: KeyId = KeyId(1);
const ONE: ChannelId = ChannelId(1);
const TWO: ChannelId = ChannelId(2);

async fn claim(
    catalog: &Catalog,
    account: AccountId,
    file: FileId,
    holder: &str,
    at: i64,
) -> Claim {
    let claimed = catalog.claim_replica(account, file, ONE, holder.to_owned(), LEASE, in_ms(at));
    claimed.await.unwrap().expect("the file is there")
}

fn copy(account: AccountId, file_id: FileId, holder: &str, upstream_id: &str) -> Uploaded {
    let (holder, upstream_id) = (holder.to_owned(), upstream_id.to_owned());
    Uploaded { account, file_id, channel_id: ONE, holder, upstream_id, expires_at: None }
}

async fn uploaded(store: &Store, account: AccountId, file: FileId, holder: &str, id: &str) -> bool {
    store.catalog.replica_uploaded(copy(account, file, holder, id), NOW).await.unwrap()
}

/// What is to be deleted upstream.
async fn to_delete(store: &Store) -> Vec<String> {
    let jobs = store.catalog.claim_jobs(JobKind::REMOTE, in_ms(1 << 40), 99, Duration::ZERO).await;
    let mut targets: Vec<_> = jobs.unwrap().into_iter().map(|job| job.target).collect();
    targets.sort_unstable();
    targets
}

async fn of_two_hundred_claims_one_is_mine(store: Store) {
    channel(&store, ONE);
    channel(&store, TWO);
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"bytes").await.file_id;
    let mut claims = JoinSet::new();
    for number in 0..200 {
        let catalog = store.replica(number);
        claims.spawn(async move { claim(&catalog, acme, file, &format!("h{number}"), 0).await });
    }
    let claims = claims.join_all().await;
    let mine: Vec<_> = claims.iter().filter(|c| matches!(c, Claim::Mine { .. })).collect();
    assert_eq!(mine, [&Claim::Mine { lease_until: NOW.plus(LEASE) }]);
    let others = Claim::Others { lease_until: NOW.plus(LEASE) };
    assert_eq!(claims.iter().filter(|c| **c == others).count(), 199);
    // On another channel it is another copy.
    let there = store.catalog.claim_replica(acme, file, TWO, "x".to_owned(), LEASE, NOW).await;
    assert!(matches!(there.unwrap(), Some(Claim::Mine { .. })));
    // Somebody else's file is none.
    let (other, _) = store.account("other", 2).await;
    let theirs = store.catalog.claim_replica(other, file, ONE, "x".to_owned(), LEASE, NOW).await;
    assert_eq!(theirs.unwrap(), None);
    assert!(store.catalog.replicas_of(acme, vec![file]).await.unwrap().is_empty());
}

async fn nothing_is_copied_to_a_channel_that_was_removed(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"bytes").await.file_id;
    assert!(matches!(claim(&store.catalog, acme, file, "a", 0).await, Claim::Mine { .. }));
    sql(&store, "DELETE FROM replicas; UPDATE channels SET state = 'removed'");
    assert!(!uploaded(&store, acme, file, "a", "77").await, "who was at it is told");
    assert_eq!(claim(&store.catalog, acme, file, "a", 0).await, Claim::Nowhere);
    assert!(store.catalog.all_replicas_of(file).await.unwrap().is_empty());
}

async fn a_lapsed_lease_is_taken_over_by_one(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"bytes").await.file_id;
    claim(&store.catalog, acme, file, "dead", 0).await;
    let renew = |holder: &str, until| {
        store.catalog.renew_replica(acme, file, ONE, holder.to_owned(), until)
    };
    assert!(!renew("other", in_ms(99_000)).await.unwrap());
    assert!(renew("dead", in_ms(20_000)).await.unwrap());
    let others = claim(&store.catalog, acme, file, "b", 19_999).await;
    assert_eq!(others, Claim::Others { lease_until: in_ms(20_000) });
    let mut claims = JoinSet::new();
    for number in 0..20 {
        let catalog = store.replica(number);
        claims
            .spawn(async move { claim(&catalog, acme, file, &format!("h{number}"), 20_000).await });
    }
    let claims = claims.join_all().await;
    assert_eq!(claims.iter().filter(|c| matches!(c, Claim::Mine { .. })).count(), 1);
    assert!(!renew("dead", in_ms(99_000)).await.unwrap());
    // Given back, it is anybody's at once.
    let holder = store.rows("SELECT holder FROM replicas")[0][0].clone().unwrap();
    store.catalog.replica_failed(acme, file, ONE, "dead".to_owned()).await.unwrap();
    assert!(matches!(claim(&store.catalog, acme, file, "c", 20_001).await, Claim::Others { .. }));
    store.catalog.replica_failed(acme, file, ONE, holder).await.unwrap();
    assert!(matches!(claim(&store.catalog, acme, file, "c", 20_001).await, Claim::Mine { .. }));
}

async fn a_copy_that_upstream_forgot_is_claimed_anew(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let file = store.upload(acme, 1, b"bytes").await.file_id;
    claim(&store.catalog, acme, file, "a", 0).await;
    let until = Some(in_ms(1_000));
    let first = Uploaded { expires_at: until, ..copy(acme, file, "a", "77") };
    assert!(store.catalog.replica_uploaded(first, NOW).await.unwrap());
    let Claim::Ready(copy) = claim(&store.catalog, acme, file, "b", 999).await else {
        panic!("it is there")
    };
    assert_eq!((copy.upstream_id.as_str(), copy.uploads, copy.expires_at), ("77", 1, until));
    assert_eq!(store.catalog.replicas_of(acme, vec![file]).await.unwrap(), [copy]);
    assert!(store.catalog.replicas_of(other, vec![file]).await.unwrap().is_empty());
    let local = || store.catalog.local_of_upstream(ONE, vec!["1".to_owned(), "77".to_owned()]);
    assert_eq!(local().await.unwrap(), [("77".to_owned(), file, acme)]);
    store.catalog.replica_used(vec![(file, ONE), (file, ONE)], in_ms(500)).await.unwrap();
    let used = store.catalog.all_replicas_of(file).await.unwrap();
    assert_eq!(used[0].used_at, in_ms(500));
    // Its time has come. What may still be there is deleted.
    assert!(matches!(claim(&store.catalog, acme, file, "b", 1_000).await, Claim::Mine { .. }));
    assert_eq!(to_delete(&store).await, ["1/77/voice_clone"]);
    assert!(uploaded(&store, acme, file, "b", "78").await);
    // Only of the copy that was asked about, and only the account's own.
    let gone = |account, id| store.catalog.replica_gone(account, file, ONE, id, NOW);
    gone(acme, "77").await.unwrap();
    gone(other, "78").await.unwrap();
    assert!(matches!(claim(&store.catalog, acme, file, "c", 1).await, Claim::Ready(_)));
    gone(acme, "78").await.unwrap();
    assert!(matches!(claim(&store.catalog, acme, file, "c", 1).await, Claim::Mine { .. }));
    assert_eq!(to_delete(&store).await, ["1/77/voice_clone"]);
}

async fn a_file_that_goes_takes_its_copies_along(store: Store) {
    channel(&store, ONE);
    channel(&store, TWO);
    let (acme, _) = store.account("acme", 1).await;
    let deleted = store.upload(acme, 1, b"bytes").await.file_id;
    let key = blob_key(2);
    store.begin(acme, &key, in_ms(1_000)).await;
    let sum = store.land(&key, b"x").await;
    let file = filegate_store::NewFile { expires_at: Some(in_ms(500)), ..new_file(key, sum) };
    let expiring = store.commit(acme, file).await.file_id;
    for (file, id) in [(deleted, "10"), (expiring, "20")] {
        claim(&store.catalog, acme, file, "a", 0).await;
        assert!(uploaded(&store, acme, file, "a", id).await);
    }
    store.catalog.claim_replica(acme, deleted, TWO, "a".to_owned(), LEASE, NOW).await.unwrap();
    let gone = store.catalog.delete_file(acme, KEY, deleted, vec![], NOW).await.unwrap();
    assert_eq!(gone, DeleteOutcome::Deleted);
    assert_eq!(store.catalog.expire_due(in_ms(500), 9).await.unwrap(), 1);
    assert_eq!(to_delete(&store).await, ["1/10/voice_clone", "1/20/voice_clone"]);
    assert!(store.rows("SELECT 1 FROM replicas").is_empty());
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn a_file_that_is_deleted_while_it_is_copied_leaves_nothing_upstream(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"bytes").await.file_id;
    claim(&store.catalog, acme, file, "a", 0).await;
    store.catalog.delete_file(acme, KEY, file, vec![], NOW).await.unwrap();
    assert!(to_delete(&store).await.is_empty());
    assert!(!uploaded(&store, acme, file, "a", "10").await);
    assert_eq!(to_delete(&store).await, ["1/10/voice_clone"]);
    assert!(store.rows("SELECT 1 FROM replicas").is_empty());
}

async fn a_claim_that_was_taken_over_cannot_be_filled(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"bytes").await.file_id;
    claim(&store.catalog, acme, file, "slow", 0).await;
    claim(&store.catalog, acme, file, "quick", 10_000).await;
    assert!(uploaded(&store, acme, file, "quick", "2").await);
    assert!(!uploaded(&store, acme, file, "slow", "1").await);
    assert_eq!(to_delete(&store).await, ["1/1/voice_clone"]);
    assert_eq!(store.catalog.replicas_of(acme, vec![file]).await.unwrap()[0].upstream_id, "2");
}

async fn an_id_that_upstream_gives_anew_is_no_longer_the_old_files(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let old = store.upload(acme, 1, b"old").await.file_id;
    let new = store.upload(acme, 2, b"new").await.file_id;
    for file in [old, new] {
        claim(&store.catalog, acme, file, "a", 0).await;
        assert!(uploaded(&store, acme, file, "a", "10").await);
    }
    let local = store.catalog.local_of_upstream(ONE, vec!["10".to_owned()]).await.unwrap();
    assert_eq!(local, [("10".to_owned(), new, acme)]);
    assert!(matches!(claim(&store.catalog, acme, old, "b", 0).await, Claim::Mine { .. }));
}

async fn a_copy_comes_with_the_commit_or_is_promised_by_it(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let mut files = vec![];
    for (seed, upstream) in [
        OnChannel::Nowhere,
        OnChannel::There { channel: ONE, upstream_id: "9".to_owned(), expires_at: Some(in_ms(7)) },
        OnChannel::Later,
        // An id that upstream gives anew.
        OnChannel::There { channel: ONE, upstream_id: "9".to_owned(), expires_at: None },
    ]
    .into_iter()
    .enumerate()
    {
        let key = blob_key(seed as u8);
        store.begin(acme, &key, in_ms(1_000)).await;
        let sum = store.land(&key, b"x").await;
        let file = filegate_store::NewFile { upstream, ..new_file(key, sum) };
        files.push(store.commit(acme, file).await.file_id);
    }
    let copies = store.catalog.replicas_of(acme, files.clone()).await.unwrap();
    assert_eq!(copies.len(), 1);
    assert_eq!((copies[0].file_id, copies[0].upstream_id.as_str()), (files[3], "9"));
    assert_eq!((copies[0].uploads, copies[0].expires_at), (1, None));
    assert_eq!(to_delete(&store).await, [format!("{}/{}", acme.0, files[2])]);
    assert!(store.catalog.has_jobs(JobKind::Replicate).await.unwrap());
    assert!(!store.catalog.has_jobs(JobKind::Deliver).await.unwrap());
}

fn bits(number: u16) -> [u16; 8] {
    std::array::from_fn(|i| number * 8 + i as u16)
}

fn task(account: AccountId, upstream: &str, number: u16) -> NewTask {
    NewTask {
        account,
        key: KEY,
        channel: ONE,
        upstream_id: upstream.to_owned(),
        path: "/v1/t2a_async_v2".to_owned(),
        id_bits: bits(number),
    }
}

async fn tasks_are_adopted_once_and_are_the_accounts(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let mut adopting = JoinSet::new();
    for number in 0..20 {
        let catalog = store.replica(number);
        let new = task(acme, "900", number as u16);
        adopting.spawn(async move { catalog.adopt_task(new, NOW).await.unwrap().unwrap() });
    }
    let mut ids = adopting.join_all().await;
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(store.catalog.adopt_task(task(other, "900", 1), NOW).await.unwrap(), None);
    let found = store.catalog.task(acme, ids[0]).await.unwrap().unwrap();
    assert_eq!(
        (found.upstream_id.as_str(), found.channel_id, found.account_id),
        ("900", ONE, acme)
    );
    assert_eq!(store.catalog.task(other, ids[0]).await.unwrap(), None);
    let of = |account| store.catalog.tasks_of_upstream(account, ONE, vec!["900".to_owned()]);
    assert_eq!(of(acme).await.unwrap(), [found]);
    assert!(of(other).await.unwrap().is_empty());
    // With the same bits the next are tried.
    let next = store.catalog.adopt_task(task(acme, "901", 0), NOW).await.unwrap().unwrap();
    assert_ne!(next, ids[0]);
}

async fn voices_are_whose_they_are(store: Store) {
    channel(&store, ONE);
    channel(&store, TWO);
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let name = || "anna".to_owned();
    let claim = |account, channel| {
        store.catalog.claim_voice(account, KEY, channel, name(), FileId::new(7).ok(), NOW)
    };
    assert!(claim(acme, ONE).await.unwrap());
    assert!(!claim(other, ONE).await.unwrap());
    assert!(claim(other, TWO).await.unwrap());
    let owners = store.catalog.voice_owners(vec![name(), "bob".to_owned()]).await.unwrap();
    assert_eq!(owners.len(), 2);
    assert!(owners.contains(&(name(), ONE, acme)) && owners.contains(&(name(), TWO, other)));
    // Refused by upstream, it is free; once it is there, it is not.
    store.catalog.voice_unclaimed(other, ONE, name()).await.unwrap();
    assert!(!claim(other, ONE).await.unwrap());
    assert!(store.catalog.voice_ready(acme, ONE, name(), NOW).await.unwrap());
    assert!(!store.catalog.voice_ready(other, ONE, name(), NOW).await.unwrap());
    assert!(claim(acme, ONE).await.unwrap());
    store.catalog.voice_unclaimed(acme, ONE, name()).await.unwrap();
    let own = store.catalog.voices(acme, vec![name()]).await.unwrap();
    assert_eq!((own.len(), own[0].state, own[0].channel_id), (1, VoiceState::Ready, ONE));
    assert_eq!(store.catalog.all_voices(acme).await.unwrap(), own);
    assert_eq!(store.catalog.all_voices(other).await.unwrap()[0].channel_id, TWO);
    // Deleted, its name is anybody's.
    store.catalog.voice_deleted(other, ONE, name()).await.unwrap();
    assert!(!claim(other, ONE).await.unwrap());
    store.catalog.voice_deleted(acme, ONE, name()).await.unwrap();
    assert!(store.catalog.all_voices(acme).await.unwrap().is_empty());
    assert!(claim(other, ONE).await.unwrap());
    assert_eq!(store.catalog.voices(other, vec![name()]).await.unwrap().len(), 2);
}

fn born(account: AccountId, upstream: &str, number: u16, purpose: &str) -> NewAdopted {
    NewAdopted {
        account,
        key: KEY,
        channel: ONE,
        upstream_id: upstream.to_owned(),
        purpose: purpose.parse().unwrap(),
        filename: "output.mp4".to_owned(),
        task_id: None,
        expires_at: None,
        keep: false,
        id_bits: bits(number),
    }
}

async fn adopt(store: &Store, new: NewAdopted) -> FileId {
    store.catalog.adopt_file(new, NOW).await.unwrap().unwrap()
}

async fn adopted_files_are_listed_and_deleted_like_others(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let video = adopt(&store, born(acme, "1", 1, "video_generation")).await;
    let speech = adopt(&store, born(acme, "2", 2, "t2a_async")).await;
    let list = |account, purposes: &[&str], after, limit| {
        let purposes: Vec<PurposeName> = purposes.iter().map(|p| p.parse().unwrap()).collect();
        store.catalog.list_adopted(account, purposes, after, limit, NOW)
    };
    let ids = |found: Result<Vec<filegate_store::AdoptedFile>, StoreError>| -> Vec<FileId> {
        found.unwrap().into_iter().map(|file| file.file_id).collect()
    };
    assert_eq!(ids(list(acme, &[], None, 9).await), [speech, video]);
    assert_eq!(ids(list(acme, &[], None, 1).await), [speech]);
    assert_eq!(ids(list(acme, &[], Some(speech), 9).await), [video]);
    assert_eq!(ids(list(acme, &["t2a_async_input", "t2a_async"], None, 9).await), [speech]);
    assert!(list(other, &[], None, 9).await.unwrap().is_empty());
    assert_eq!(store.catalog.adopted(other, video, NOW).await.unwrap(), None);
    store.catalog.adopted_measured(other, video, 9, "no".to_owned()).await.unwrap();
    store.catalog.adopted_measured(acme, video, 5, "yes.mp4".to_owned()).await.unwrap();
    let found = store.catalog.adopted(acme, video, NOW).await.unwrap().unwrap();
    assert_eq!((found.bytes, found.filename.as_str()), (5, "yes.mp4"));

    let delete = |account, file, purpose: &str| {
        store.catalog.delete_file(account, KEY, file, vec![purpose.parse().unwrap()], NOW)
    };
    assert_eq!(delete(other, video, "video_generation").await.unwrap(), DeleteOutcome::NotFound);
    assert_eq!(delete(acme, video, "t2a_async").await.unwrap(), DeleteOutcome::OtherPurpose);
    sql(&store, "INSERT INTO prices (call, unit, amount) VALUES ('files.delete', 'call', 5)");
    let short = delete(acme, video, "video_generation").await.unwrap();
    assert!(matches!(short, DeleteOutcome::Short(_)), "{short:?}");
    sql(&store, "DELETE FROM prices");
    assert_eq!(delete(acme, video, "video_generation").await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!(delete(acme, video, "video_generation").await.unwrap(), DeleteOutcome::NotFound);
    assert_eq!(to_delete(&store).await, ["1/1/video_generation"]);
}

async fn adopted_files_are_adopted_once_and_their_ids_are_not_given_to_others(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let mut adopting = JoinSet::new();
    for number in 0..20 {
        let catalog = store.replica(number);
        let new = born(acme, "1", number as u16, "t2a_async");
        adopting.spawn(async move { catalog.adopt_file(new, NOW).await.unwrap().unwrap() });
    }
    let mut ids = adopting.join_all().await;
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(
        store.catalog.adopt_file(born(other, "1", 1, "t2a_async"), NOW).await.unwrap(),
        None
    );
    let local = store.catalog.local_of_upstream(ONE, vec!["1".to_owned()]).await.unwrap();
    assert_eq!(local, [("1".to_owned(), ids[0], acme)]);
    // An upload whose every first choice is taken gets a later id; so does an adoption among files.
    let taken =
        adopt(&store, NewAdopted { id_bits: [4000; 8], ..born(acme, "2", 0, "batch") }).await;
    let key = blob_key(1);
    store.begin(acme, &key, in_ms(1_000)).await;
    let sum = store.land(&key, b"x").await;
    let file = filegate_store::NewFile { id_bits: [4000; 8], ..new_file(key, sum) };
    let file = store.commit(acme, file).await.file_id;
    assert_ne!(file, taken);
    let third =
        adopt(&store, NewAdopted { id_bits: [4000; 8], ..born(acme, "3", 0, "batch") }).await;
    assert!(third != file && third != taken);
}

/// Brings the bytes of an adopted file here, as the job does.
async fn keep(store: &Store, account: AccountId, file: FileId, seed: u8) -> KeepOutcome {
    let key = blob_key(seed);
    let upload =
        filegate_store::NewUpload { free: true, ..new_upload(account, &key, in_ms(1_000)) };
    store.catalog.begin_upload(upload, NOW).await.unwrap().unwrap();
    let sum = store.land(&key, b"bytes").await;
    let limits = TenantLimits {
        files_per_purpose: [("batch".parse().unwrap(), 0)].into(),
        ..TenantLimits::default()
    };
    let purpose = store.catalog.adopted(account, file, NOW).await.unwrap();
    let purpose = purpose.map_or_else(|| "t2a_async".parse().unwrap(), |file| file.purpose);
    let new = filegate_store::NewFile { purpose, limits, ..new_file(key, sum) };
    store.catalog.keep_adopted(account, file, new, in_ms(9)).await.unwrap()
}

async fn what_is_kept_of_an_adopted_file_is_a_file_with_its_id(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let expires_at = Some(in_ms(60_000));
    let new = NewAdopted { keep: true, expires_at, ..born(acme, "55", 1, "t2a_async") };
    let file = adopt(&store, new.clone()).await;
    assert_eq!(to_delete(&store).await, [format!("{}/{file}", acme.0)]);
    let KeepOutcome::Kept(record) = keep(&store, acme, file, 1).await else { panic!("it fits") };
    assert_eq!((record.file_id, record.created_at, record.bytes), (file, NOW, 5));
    assert_eq!(store.catalog.file(acme, file, NOW).await.unwrap().as_ref(), Some(&*record));
    assert_eq!(store.catalog.adopted(acme, file, NOW).await.unwrap(), None);
    let copy = &store.catalog.replicas_of(acme, vec![file]).await.unwrap()[0];
    assert_eq!((copy.upstream_id.as_str(), copy.expires_at), ("55", expires_at));
    // Heard of again, it is still that file.
    assert_eq!(adopt(&store, new).await, file);
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
    let counts = store.catalog.counts().await.unwrap();
    assert_eq!((counts.files, counts.bytes, counts.uploads), (1, 5, 0));
}

async fn nothing_is_kept_beyond_the_quota_or_of_what_is_gone(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    let batch = adopt(&store, born(acme, "1", 1, "batch")).await;
    let over = keep(&store, acme, batch, 1).await;
    assert!(matches!(over, KeepOutcome::OverQuota(Quota::Files { .. })), "{over:?}");
    assert!(store.catalog.adopted(acme, batch, NOW).await.unwrap().is_some());
    let speech = adopt(&store, born(acme, "2", 2, "t2a_async")).await;
    assert_eq!(keep(&store, other, speech, 2).await, KeepOutcome::Gone);
    store.catalog.adopted_gone(acme, speech).await.unwrap();
    assert_eq!(keep(&store, acme, speech, 3).await, KeepOutcome::Gone);
    // What landed for them is the reaper's.
    assert_eq!(store.catalog.counts().await.unwrap().uploads, 3);
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn adopted_files_expire(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let expires_at = Some(in_ms(500));
    let file = adopt(&store, NewAdopted { expires_at, ..born(acme, "1", 1, "t2a_async") }).await;
    let kept = adopt(&store, born(acme, "2", 2, "t2a_async")).await;
    assert!(store.catalog.adopted(acme, file, in_ms(499)).await.unwrap().is_some());
    assert!(store.catalog.adopted(acme, file, in_ms(500)).await.unwrap().is_none());
    let listed = store.catalog.list_adopted(acme, vec![], None, 9, in_ms(500)).await.unwrap();
    assert_eq!(listed.iter().map(|file| file.file_id).collect::<Vec<_>>(), [kept]);
    assert_eq!(store.catalog.expire_adopted(in_ms(499), 9).await.unwrap(), 0);
    assert_eq!(store.catalog.expire_adopted(in_ms(500), 9).await.unwrap(), 1);
    assert!(to_delete(&store).await.is_empty());
}

const PRICES: &str = "INSERT INTO prices (call, purpose, unit, amount) VALUES
    ('relay', '', 'call', 10), ('relay', '/v1/t2a_v2', 'kilounit', 1000),
    ('relay', '/v1/free', 'call', 0), ('relay', '/v1/t2a_v2', 'call', 20)";

fn top_up(store: &Store, amount: i64) {
    sql(
        store,
        &format!(
            "BEGIN; UPDATE accounts SET balance = balance + {amount} WHERE account_id = 1;
             INSERT INTO ledger (account_id, at, kind, amount, balance)
             SELECT 1, 0, 'top_up', {amount}, balance FROM accounts WHERE account_id = 1;
             COMMIT;"
        ),
    );
}

fn money(store: &Store) -> (i64, i64) {
    let row = &store.rows("SELECT balance, held FROM accounts WHERE account_id = 1")[0];
    let number = |text: &Option<String>| text.as_ref().unwrap().parse().unwrap();
    (number(&row[0]), number(&row[1]))
}

fn hold(account: AccountId, name: &str, path: &str, units_max: u64) -> NewHold {
    NewHold {
        hold_id: name.to_owned(),
        account,
        key: KEY,
        path: path.to_owned(),
        units_max,
        lease_until: in_ms(1_000),
    }
}

fn relayed(path: &str, units: u64) -> Relayed {
    Relayed {
        key: KEY,
        channel: ONE,
        path: path.to_owned(),
        units,
        cost: Money(3),
        first_answer: None,
    }
}

async fn a_balance_for_ten_holds_exactly_ten_of_a_thousand(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, PRICES);
    top_up(&store, 109);
    let mut tasks = JoinSet::new();
    for number in 0..1_000 {
        let catalog = store.replica(number);
        tasks.spawn(async move {
            let new = hold(acme, &format!("h{number}"), "/v1/other", 5_000);
            catalog.hold_relay(new, NOW).await.unwrap().is_ok()
        });
    }
    let held = tasks.join_all().await.into_iter().filter(|held| *held).count();
    assert_eq!(held, 10);
    assert_eq!(money(&store), (109, 100));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn never_more_is_taken_than_was_held(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, PRICES);
    top_up(&store, 1_000);
    let path = "/v1/t2a_v2";
    let held = store.catalog.hold_relay(hold(acme, "a", path, 101), NOW).await.unwrap().unwrap();
    // 20 for the call, and 101 of a thousand units at 1,000.
    assert_eq!((held.amount, held.prices.of(1)), (Money(121), Money(21)));
    assert_eq!(money(&store), (1_000, 121));
    let capture = |name: &str, units| {
        store.catalog.capture_relay(acme, name.to_owned(), relayed(path, units), NOW)
    };
    assert_eq!(capture("a", 50).await.unwrap(), Money(70));
    assert_eq!(money(&store), (930, 0));
    store.catalog.hold_relay(hold(acme, "b", path, 10), NOW).await.unwrap().unwrap();
    sql(&store, "UPDATE prices SET amount = amount * 9");
    assert_eq!(capture("b", 1 << 40).await.unwrap(), Money(30));
    assert_eq!(money(&store), (900, 0));
    let short = store.catalog.hold_relay(hold(acme, "c", path, 1_000), NOW).await.unwrap();
    let short = short.unwrap_err();
    assert_eq!((short.price, short.available), (Money(9_180), Money(900)));
    let ledger = store.rows(
        "SELECT kind, amount, call, key_id, reason, reference FROM ledger WHERE kind = 'charge'
         ORDER BY entry_id",
    );
    let entry = |amount: &str, reference: &str| {
        ["charge", amount, "relay", "1", path, reference].map(|text| Some(text.to_owned())).to_vec()
    };
    assert_eq!(ledger, [entry("-70", "relay:a"), entry("-30", "relay:b")]);
    let counted = store.rows("SELECT path, calls, units, charged, cost FROM relayed");
    let units = ((1u64 << 40) + 50).to_string();
    assert_eq!(counted, [[path, "2", &units, "100", "6"].map(|text| Some(text.to_owned()))]);
    let used = store.rows("SELECT purpose, call, calls, charged FROM usage");
    assert_eq!(used, [[path, "relay", "2", "100"].map(|text| Some(text.to_owned()))]);
}

async fn a_hold_is_captured_voided_or_reaped_and_once(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    sql(&store, PRICES);
    top_up(&store, 100);
    for name in ["captured", "voided", "reaped", "renewed"] {
        store.catalog.hold_relay(hold(acme, name, "/v1/x", 0), NOW).await.unwrap().unwrap();
    }
    assert_eq!(money(&store), (100, 40));
    // Nobody else's.
    store.catalog.void_relay(other, "voided".to_owned()).await.unwrap();
    let capture = |account, name: &str| {
        store.catalog.capture_relay(account, name.to_owned(), relayed("/v1/x", 0), NOW)
    };
    assert_eq!(capture(other, "captured").await.unwrap(), Money::ZERO);
    assert_eq!(money(&store), (100, 40));
    assert_eq!(capture(acme, "captured").await.unwrap(), Money(10));
    assert_eq!(capture(acme, "captured").await.unwrap(), Money::ZERO);
    for _ in 0..2 {
        store.catalog.void_relay(acme, "voided".to_owned()).await.unwrap();
    }
    assert_eq!(money(&store), (90, 20));
    let names = ["renewed", "voided"].map(str::to_owned).to_vec();
    assert_eq!(store.catalog.renew_holds(names, in_ms(2_000)).await.unwrap(), 1);
    assert_eq!(store.catalog.reap_holds(in_ms(999), 9).await.unwrap(), 0);
    assert_eq!(store.catalog.reap_holds(in_ms(1_999), 9).await.unwrap(), 1);
    assert_eq!(money(&store), (90, 10));
    // A call whose hold was reaped is free, and counted.
    assert_eq!(capture(acme, "reaped").await.unwrap(), Money::ZERO);
    assert_eq!(store.catalog.reap_holds(in_ms(2_000), 9).await.unwrap(), 1);
    assert_eq!(money(&store), (90, 0));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn calls_without_a_price_are_counted(store: Store) {
    channel(&store, ONE);
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, PRICES);
    let held = store.catalog.hold_relay(hold(acme, "a", "/v1/free", 99), NOW).await.unwrap();
    assert_eq!(held.unwrap().amount, Money::ZERO);
    assert!(store.rows("SELECT 1 FROM holds").is_empty());
    let used = RelayedUsage {
        account: acme,
        key: KEY,
        channel: ONE,
        path: "/v1/free".to_owned(),
        calls: 2,
        units: 7,
        bytes: 11,
        cost: Money(5),
    };
    store.catalog.add_relayed(vec![used.clone(), used], NOW).await.unwrap();
    let counted = store.rows("SELECT calls, units, charged, cost FROM relayed");
    assert_eq!(counted, [["4", "14", "0", "10"].map(|text| Some(text.to_owned()))]);
    let used = store.rows("SELECT purpose, call, calls, bytes FROM usage");
    assert_eq!(used, [["/v1/free", "relay", "4", "22"].map(|text| Some(text.to_owned()))]);
}

async fn jobs_are_taken_by_kind(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"bytes").await;
    store.catalog.delete_file(acme, KEY, file.file_id, vec![], NOW).await.unwrap();
    for kind in JobKind::REMOTE {
        for _ in 0..2 {
            store.catalog.enqueue_jobs(*kind, vec![file.blob_key.to_string()], NOW).await.unwrap();
        }
    }
    let purges = store.catalog.claim_jobs(JobKind::LOCAL, NOW, 9, LEASE).await.unwrap();
    assert_eq!(purges.iter().map(|job| job.kind).collect::<Vec<_>>(), [JobKind::PurgeBlob]);
    let mut jobs = store.catalog.claim_jobs(JobKind::REMOTE, NOW, 9, LEASE).await.unwrap();
    jobs.sort_by_key(|job| job.job_id);
    assert_eq!(jobs.iter().map(|job| job.kind).collect::<Vec<_>>(), JobKind::REMOTE);
    // Another kind of job about something of the same name is not the purge.
    let done = jobs.iter().map(|job| job.job_id).collect();
    store.catalog.finish_jobs(done, NOW).await.unwrap();
    assert_eq!(store.rows("SELECT purged_at FROM receipts"), [[None]]);
    assert_eq!(store.catalog.counts().await.unwrap().jobs, 1);
}
