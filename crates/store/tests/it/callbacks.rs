//! Where clients want to be told of tasks, and what they are still to be told.

use filegate_store::{Callback, JobKind};
use filegate_types::{AccountId, ChannelId, KeyId};

use crate::support::{LEASE, NOW, Store, channel, in_ms, on_both};

on_both!(
    news_are_kept_with_a_job_and_told_in_order,
    nobody_is_told_who_does_not_want_to_know,
    a_refused_call_leaves_no_callback,
    old_callbacks_are_forgotten_with_what_waits_for_them,
    what_waits_for_one_client_is_bounded,
);

const ONE: ChannelId = ChannelId(1);

fn new(account: AccountId, id: &str, at: i64) -> Callback {
    Callback {
        callback_id: id.to_owned(),
        account,
        key: KeyId(1),
        channel: ONE,
        path: "/v1/video_generation".to_owned(),
        url: "https://client.example/told?x=1".to_owned(),
        keep: at % 2 == 1,
        created_at: in_ms(at),
    }
}

async fn kept(store: &Store, id: &str, at: i64) -> AccountId {
    let (account, _) = store.account(id, id.as_bytes()[0]).await;
    store.catalog.create_callback(new(account, id, at)).await.unwrap();
    account
}

async fn add(store: &Store, id: &str, body: &[u8]) -> bool {
    store.beside.add_delivery(id.to_owned(), body.to_vec(), NOW).await.unwrap()
}

async fn due(store: &Store) -> Vec<i64> {
    let jobs = store.catalog.claim_jobs(&[JobKind::Deliver], in_ms(1 << 30), 999, LEASE).await;
    let mut ids: Vec<i64> = jobs.unwrap().iter().map(|job| job.target.parse().unwrap()).collect();
    ids.sort_unstable();
    ids
}

async fn news_are_kept_with_a_job_and_told_in_order(store: Store) {
    channel(&store, ONE);
    let acme = kept(&store, "a", 1).await;
    assert_eq!(store.catalog.callback("a".to_owned()).await.unwrap(), Some(new(acme, "a", 1)));
    assert_eq!(store.catalog.callback("b".to_owned()).await.unwrap(), None);
    assert!(add(&store, "a", b"{\"n\":1}").await);
    assert!(add(&store, "a", b"\0\xFF").await);
    let ids = due(&store).await;
    assert_eq!(ids.len(), 2);
    // Whichever job comes first, the first news do.
    for id in &ids {
        let first = store.catalog.first_delivery(*id).await.unwrap().unwrap();
        assert_eq!((first.delivery_id, &first.body[..]), (ids[0], &b"{\"n\":1}"[..]));
        assert_eq!((first.callback, first.created_at), (new(acme, "a", 1), NOW));
    }
    store.catalog.finish_delivery(ids[0]).await.unwrap();
    assert_eq!(store.catalog.first_delivery(ids[0]).await.unwrap(), None);
    let second = store.beside.first_delivery(ids[1]).await.unwrap().unwrap();
    assert_eq!((second.delivery_id, &second.body[..]), (ids[1], &b"\0\xFF"[..]));
}

async fn nobody_is_told_who_does_not_want_to_know(store: Store) {
    assert!(!add(&store, "never", b"{}").await);
    assert_eq!(due(&store).await, [0; 0]);
}

async fn a_refused_call_leaves_no_callback(store: Store) {
    channel(&store, ONE);
    let acme = kept(&store, "a", 0).await;
    let other = kept(&store, "b", 0).await;
    assert!(add(&store, "a", b"{}").await);
    store.catalog.drop_callback(other, "a".to_owned()).await.unwrap();
    assert!(store.catalog.callback("a".to_owned()).await.unwrap().is_some());
    let waiting = due(&store).await;
    assert!(store.catalog.first_delivery(waiting[0]).await.unwrap().is_some());
    store.catalog.drop_callback(acme, "a".to_owned()).await.unwrap();
    assert_eq!(store.catalog.callback("a".to_owned()).await.unwrap(), None);
    assert_eq!(store.catalog.first_delivery(waiting[0]).await.unwrap(), None);
    assert!(!add(&store, "a", b"{}").await);
}

async fn old_callbacks_are_forgotten_with_what_waits_for_them(store: Store) {
    channel(&store, ONE);
    for (id, at) in [("a", 0), ("b", 10), ("c", 20)] {
        kept(&store, id, at).await;
        assert!(add(&store, id, b"{}").await);
    }
    assert_eq!(store.catalog.forget_callbacks(in_ms(20), 1).await.unwrap(), 1);
    assert_eq!(store.catalog.callback("a".to_owned()).await.unwrap(), None);
    assert_eq!(store.catalog.forget_callbacks(in_ms(20), 9).await.unwrap(), 1);
    assert_eq!(store.catalog.forget_callbacks(in_ms(20), 9).await.unwrap(), 0);
    let mut left = 0;
    for id in due(&store).await {
        left += usize::from(store.catalog.first_delivery(id).await.unwrap().is_some());
    }
    assert_eq!(left, 1);
    assert!(store.catalog.callback("c".to_owned()).await.unwrap().is_some());
}

async fn what_waits_for_one_client_is_bounded(store: Store) {
    channel(&store, ONE);
    kept(&store, "a", 0).await;
    for n in 0..64 {
        assert!(add(&store, "a", b"{}").await, "{n}");
    }
    assert!(!add(&store, "a", b"{}").await);
    let first = due(&store).await[0];
    store.catalog.finish_delivery(first).await.unwrap();
    assert!(add(&store, "a", b"{}").await);
}
