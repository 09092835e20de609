//! Channels: what the relay reads of them, and what replicas tell each other.

use filegate_types::ChannelCondition::{self, Cooling, KeyRefused, OutOfBalance, Well};
use filegate_types::{
    AccountId, ChannelId, ChannelSettings, ChannelState, FileId, Money, PriceUnit, UnixMillis,
};

use crate::support::{NOW, Store, in_ms, on_both, sql};

on_both!(
    channels_and_costs_are_read_as_they_stand,
    a_condition_is_not_hidden_by_what_was_asked_before,
    of_many_that_note_the_same_one_changes_something,
    a_drain_counts_what_is_elsewhere_and_what_is_not,
);

async fn two_channels(store: &Store) {
    store.account("acme", 1).await;
    let (sealed, nothing) = if store.catalog.is_shared() {
        (r"'\x7365616c6564'", "''")
    } else {
        ("x'7365616c6564'", "x''")
    };
    sql(
        store,
        &r#"INSERT INTO channels (channel_id, name, account_id, base_url, sealed_key, key_hint, state, settings, created_at)
           VALUES (1, 'global', NULL, 'https://api.minimax.io', SEALED, '1a2b', 'active', '{}', 5),
                  (2, 'theirs', 1, 'https://api.minimaxi.com', NOTHING, '9z8y', 'removed',
                   '{"weight":3,"priority":-1,"max_rpm":60,"purposes":["voice_clone"],"region":"cn"}', 6);
           INSERT INTO costs (channel_id, path, unit, amount)
           VALUES (1, '', 'call', 7), (1, '/v1/t2a_v2', 'kilounit', 60000)"#
            .replace("SEALED", sealed)
            .replace("NOTHING", nothing),
    );
}

async fn channels_and_costs_are_read_as_they_stand(store: Store) {
    assert_eq!(store.catalog.channels().await.unwrap(), []);
    assert_eq!(store.catalog.costs().await.unwrap(), []);
    two_channels(&store).await;
    let found = store.beside.channels().await.unwrap();
    assert_eq!(found.len(), 2);
    let (global, theirs) = (&found[0], &found[1]);
    assert_eq!((global.channel_id, global.name.as_str()), (ChannelId(1), "global"));
    assert_eq!((global.account_id, global.state), (None, ChannelState::Active));
    assert_eq!(global.base_url, "https://api.minimax.io");
    assert_eq!((global.sealed_key.as_slice(), global.key_hint.as_str()), (&b"sealed"[..], "1a2b"));
    assert_eq!(global.settings, ChannelSettings::default());
    assert_eq!((global.condition, global.condition_until), (Well, None));
    assert_eq!((theirs.account_id, theirs.state), (Some(AccountId(1)), ChannelState::Removed));
    assert_eq!((theirs.settings.weight, theirs.settings.priority), (3, -1));
    assert_eq!(theirs.settings.max_rpm, Some(60));
    assert_eq!(theirs.settings.purposes.as_ref().unwrap().len(), 1);
    assert_eq!(theirs.created_at, UnixMillis(6));
    let costs = store.catalog.costs().await.unwrap();
    let costs: Vec<_> = costs.iter().map(|c| (c.path.as_str(), c.unit, c.amount)).collect();
    let all = ("", PriceUnit::Call, Money(7));
    assert_eq!(costs, [all, ("/v1/t2a_v2", PriceUnit::Kilounit, Money(60_000))]);
}

/// Notes a condition until `until`; says whether something changed and what is written then.
async fn note(
    store: &Store,
    (condition, until): (ChannelCondition, Option<i64>),
    seen: ChannelCondition,
    at: i64,
) -> (bool, (ChannelCondition, Option<i64>, Option<i64>)) {
    let until = until.map(in_ms);
    let why = condition.name().to_owned();
    let noted = store.replica(u64::try_from(at).unwrap());
    let changed =
        noted.set_condition(ChannelId(1), condition, until, why, seen, in_ms(at)).await.unwrap();
    let row = store.catalog.channels().await.unwrap().remove(0);
    let since = |t: UnixMillis| t.0 - NOW.0;
    (changed, (row.condition, row.condition_until.map(since), row.condition_since.map(since)))
}

async fn a_condition_is_not_hidden_by_what_was_asked_before(store: Store) {
    two_channels(&store).await;
    let now = async |what, seen, at| note(&store, what, seen, at).await;
    // Well as it was.
    assert_eq!(now((Well, None), Well, 1).await, (false, (Well, None, None)));
    let cooling = (Cooling, Some(50), Some(2));
    assert_eq!(now((Cooling, Some(50)), Well, 2).await, (true, cooling));
    // A success of a call that was on its way when the limit was said.
    assert_eq!(now((Well, None), Well, 3).await, (false, cooling));
    // A shorter pause changes nothing, a longer one the end only.
    assert_eq!(now((Cooling, Some(40)), Well, 4).await, (false, cooling));
    assert_eq!(now((Cooling, Some(60)), Well, 5).await, (true, (Cooling, Some(60), Some(2))));
    // Worse is always written, and a pause does not hide it.
    let refused = (KeyRefused, Some(300), Some(6));
    assert_eq!(now((KeyRefused, Some(300)), Well, 6).await, (true, refused));
    assert_eq!(now((Cooling, Some(900)), Well, 7).await, (false, refused));
    assert_eq!(now((Well, None), Cooling, 8).await, (false, refused));
    let broke = (OutOfBalance, Some(310), Some(9));
    assert_eq!(now((OutOfBalance, Some(310)), Well, 9).await, (true, broke));
    // Who asked it knowing that it was out of money knows that it is well again.
    assert_eq!(now((Well, None), OutOfBalance, 10).await, (true, (Well, None, Some(10))));
    let row = store.catalog.channels().await.unwrap().remove(0);
    assert_eq!(row.condition_why, "well");
    // Of one that is removed nothing is noted, of one that never was neither.
    for id in [2, 3] {
        let (why, seen) = (String::new(), Well);
        let noted = store.catalog.set_condition(ChannelId(id), KeyRefused, None, why, seen, NOW);
        assert!(!noted.await.unwrap());
    }
}

async fn of_many_that_note_the_same_one_changes_something(store: Store) {
    two_channels(&store).await;
    let mut notes = tokio::task::JoinSet::new();
    for n in 0..20 {
        let catalog = store.replica(n);
        notes.spawn(async move {
            let why = "limited".to_owned();
            catalog.set_condition(ChannelId(1), Cooling, Some(in_ms(50)), why, Well, NOW).await
        });
    }
    let changed = notes.join_all().await.into_iter().filter(|noted| *noted.as_ref().unwrap());
    assert_eq!(changed.count(), 1);
}

async fn a_drain_counts_what_is_elsewhere_and_what_is_not(store: Store) {
    two_channels(&store).await;
    let day = 86_400_000;
    let now = NOW.0;
    let old = now - 31 * day;
    sql(
        &store,
        &format!(
            "UPDATE channels SET state = 'active';
             INSERT INTO replicas (file_id, channel_id, account_id, state, upstream_id, created_at, expires_at, used_at)
             VALUES (11, 1, 1, 'ready', 'a', 1, NULL, {now}), (11, 2, 1, 'ready', 'a', 1, NULL, {now}),
                    (12, 1, 1, 'ready', 'b', 1, NULL, {now}), (12, 2, 1, 'gone', 'b', 1, NULL, {now}),
                    (13, 1, 1, 'ready', 'c', 1, NULL, {now}), (13, 2, 1, 'ready', 'c', 1, {now}, {now}),
                    (14, 1, 1, 'ready', 'd', 1, NULL, {old}), (15, 1, 1, 'uploading', NULL, 1, NULL, {now}),
                    (16, 1, 1, 'ready', 'e', 1, {now}, {now}), (1200, 1, 1, 'ready', 'f', 1, NULL, {now}),
                    (17, 2, 1, 'ready', 'g', 1, NULL, {now});
             INSERT INTO jobs (kind, target, run_at, attempts)
             VALUES ('replicate', '1/12/2', 0, 1), ('replicate', '1/13', 0, 0), ('replicate', '1/11', 0, 3);
             INSERT INTO tasks (task_id, account_id, channel_id, upstream_id, path, created_at)
             VALUES (1, 1, 1, 'x', '/v1/t2a_async_v2', {now}), (2, 1, 1, 'y', '/v1/t2a_async_v2', {now} - 8 * {day});
             INSERT INTO voices (channel_id, voice_id, account_id, state, created_at)
             VALUES (1, 'mine', 1, 'ready', 0), (1, 'no', 1, 'deleted', 0), (2, 'mine', 1, 'ready', 0);"
        ),
    );
    let progress = store.catalog.drain_progress(ChannelId(1), NOW).await.unwrap();
    let seen = (progress.total, progress.moved, progress.failed, progress.tasks, progress.voices);
    assert_eq!(seen, (4, 1, 1, 1, 1));
    let next = async |after: Option<i64>, limit| {
        let after = after.map(|id| FileId::new(id).unwrap());
        let next = store.catalog.drain_next(ChannelId(1), after, limit, NOW).await.unwrap();
        next.into_iter().map(|(account, file)| (account.0, file.get())).collect::<Vec<_>>()
    };
    assert_eq!(next(None, 10).await, [(1, 12), (1, 13), (1, 1200)]);
    assert_eq!(next(None, 1).await, [(1, 12)]);
    assert_eq!(next(Some(12), 10).await, [(1, 13), (1, 1200)]);
    // A copy on a channel that is drained itself is no copy.
    sql(&store, "UPDATE channels SET state = 'draining' WHERE channel_id = 2");
    assert_eq!(next(None, 10).await.len(), 4);
    assert_eq!(store.catalog.drain_progress(ChannelId(1), NOW).await.unwrap().moved, 0);
}
