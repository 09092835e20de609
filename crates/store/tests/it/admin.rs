//! Every change and every question of operators, on both databases.

use std::sync::Arc;

use filegate_store::admin::{
    AccountChange, AdminCall, AdminChange, AdminOutcome, AdminQuestion, AdminSubject,
    ChannelChange, ChannelFilter, CostChange, FileAct, FileFilter, FileVerb, KeyChange, KeyRights,
    MarginBy, MarginFilter, NewAccount, NewBlocked, NewChannel, NewEntry, NewKey, NewToken, Page,
    PriceChange, Refusal, Resealing, RotatedKey, TokenRevocation, UsageBy, UsageFilter,
};
use filegate_store::catalog::moderation::BlockedList;
use filegate_store::{Caller, ChannelRow, FirstAnswer, JobKind, SealError, Sealer, Unsealed};
use filegate_types::{
    AccountSettings, AdminScope, Call, ChannelCondition, ChannelSettings, ChannelState, FileState,
    KeyHash, Money, PriceUnit, Scopes, TenantLimits, UnixMillis,
};
use serde_json::{Value, json};

use crate::support::{LEASE, NOW, Store, blob_key, in_ms, new_upload, on_both};

on_both!(
    accounts_have_money_that_operators_move,
    keys_are_made_changed_rotated_and_revoked,
    files_are_held_back_released_and_deleted,
    prices_and_blocked_entries_come_and_go,
    channels_are_added_changed_and_removed,
    keys_of_channels_are_sealed_again,
    accounts_are_tied_to_channels_that_are_there,
    costs_and_margins_are_told_by_channel,
    the_last_token_stays_and_the_first_is_made_once,
    uploads_and_jobs_are_ended_and_hurried,
    the_same_request_is_answered_as_before_and_a_dry_run_changes_nothing,
    lists_go_on_where_they_ended_in_the_order_of_bytes,
);

fn call(action: &'static str) -> AdminCall {
    AdminCall {
        actor: "local".to_owned(),
        origin: "here".to_owned(),
        action,
        first_answer: None,
        sealed: None,
        dry_run: false,
        now: NOW,
    }
}

async fn change(store: &Store, change: AdminChange) -> Value {
    match store.catalog.administer(call("test"), change).await.unwrap() {
        AdminOutcome::Done(reply) => reply,
        other => panic!("{other:?}"),
    }
}

async fn refused(store: &Store, change: AdminChange) -> Refusal {
    match store.catalog.administer(call("test"), change).await.unwrap() {
        AdminOutcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn list(store: &Store, question: AdminQuestion) -> Vec<Value> {
    let page = Page { limit: 100, after: None };
    store.catalog.admin_list(question, page).await.unwrap().unwrap().data
}

async fn account(store: &Store, name: &str, balance: i64) -> Value {
    let (limits, settings) = (TenantLimits::default(), AccountSettings::default());
    let balance = Money(balance);
    let new = NewAccount { name: name.to_owned(), balance, limits, settings };
    change(store, AdminChange::CreateAccount(new)).await
}

fn rights() -> KeyRights {
    KeyRights {
        scopes: Scopes::all(),
        purposes: Some(vec!["voice_clone".parse().unwrap()]),
        networks: None,
        limits: TenantLimits::default(),
        expires_at: None,
    }
}

fn hash(seed: u8) -> KeyHash {
    KeyHash::of(&format!("fg-{seed}"))
}

async fn accounts_have_money_that_operators_move(store: Store) {
    let made = account(&store, "acme", 5_000_000).await;
    assert_eq!((&made["balance"], &made["available"]), (&json!("5"), &json!("5")));
    assert_eq!((&made["stored_files"], &made["stored"]), (&json!(0), &json!({})));
    let again = NewAccount {
        name: "acme".to_owned(),
        balance: Money(1),
        limits: TenantLimits::default(),
        settings: AccountSettings::default(),
    };
    assert!(matches!(
        refused(&store, AdminChange::CreateAccount(again)).await,
        Refusal::Conflict(_)
    ));
    let post = |amount| {
        AdminChange::Post(NewEntry {
            account: "acme".to_owned(),
            adjustment: amount < 0,
            amount: Money(amount),
            reason: "why".to_owned(),
        })
    };
    let entry = change(&store, post(-2_000_000)).await;
    assert_eq!((&entry["amount"], &entry["balance"]), (&json!("-2"), &json!("3")));
    assert!(matches!(refused(&store, post(-4_000_000)).await, Refusal::Conflict(_)));
    let off = AccountChange {
        name: "acme".to_owned(),
        active: Some(false),
        limits: None,
        settings: None,
    };
    let changed = change(&store, AdminChange::ChangeAccount(off)).await;
    assert_eq!((&changed["state"], &changed["limits"]), (&json!("disabled"), &made["limits"]));
    let of_acme = AdminQuestion::Ledger { account: Some("acme".to_owned()), kind: None };
    assert_eq!(list(&store, of_acme).await.len(), 2);
    let top_ups = AdminQuestion::Ledger { account: None, kind: Some("top_up".to_owned()) };
    assert_eq!(list(&store, top_ups).await.len(), 1);
    let audited =
        AdminQuestion::Audit { actor: Some("local".to_owned()), action: None, target: None };
    let rows = list(&store, audited).await;
    assert_eq!((rows.len(), &rows[0]["before"]["state"]), (3, &json!("active")));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn keys_are_made_changed_rotated_and_revoked(store: Store) {
    let new = NewKey {
        account: "acme".to_owned(),
        name: "n".to_owned(),
        hash: hash(1),
        hint: "0001".to_owned(),
        rights: rights(),
    };
    let key = change(&store, AdminChange::CreateKey(new)).await;
    let id = key["id"].as_i64().unwrap();
    assert_eq!((&key["account"], &key["purposes"]), (&json!("acme"), &json!(["voice_clone"])));
    assert!(key["scopes"].as_array().unwrap().len() > 1);
    let narrowed = KeyChange {
        key_id: id,
        scopes: Some("files:list".parse().unwrap()),
        purposes: Some(None),
        expires_at: Some(Some(in_ms(5_000))),
        ..KeyChange::default()
    };
    let changed = change(&store, AdminChange::ChangeKey(narrowed)).await;
    assert_eq!((&changed["scopes"], &changed["purposes"]), (&json!(["files:list"]), &Value::Null));
    assert_eq!((&changed["name"], &changed["networks"]), (&json!("n"), &Value::Null));
    let rotated = RotatedKey {
        key_id: id,
        hash: hash(2),
        hint: "0002".to_owned(),
        overlap_until: in_ms(2_000),
    };
    let second = change(&store, AdminChange::RotateKey(rotated)).await;
    assert_eq!(second["replaces"], id);
    let works = |hash, at| store.catalog.authenticate(hash, Call::List, at);
    assert!(works(hash(1), in_ms(1_999)).await.unwrap().is_some());
    assert!(works(hash(1), in_ms(2_000)).await.unwrap().is_none());
    assert!(matches!(works(hash(2), in_ms(2_000)).await.unwrap(), Some(Caller::Active(_))));
    let second_id = second["id"].as_i64().unwrap();
    change(&store, AdminChange::RevokeKey(second_id)).await;
    assert!(works(hash(2), NOW).await.unwrap().is_none());
    let again = KeyChange { key_id: second_id, ..KeyChange::default() };
    assert!(matches!(refused(&store, AdminChange::ChangeKey(again)).await, Refusal::Conflict(_)));
    assert_eq!(list(&store, AdminQuestion::Keys(Some("acme".to_owned()))).await.len(), 2);
    let looked = store.catalog.admin_look(AdminSubject::Key(id), NOW).await.unwrap().unwrap();
    assert_eq!(looked["hint"], "0001");
}

async fn files_are_held_back_released_and_deleted(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 1, b"hello").await;
    let id = file.file_id.get();
    let act = |verb| AdminChange::File(FileAct { file_id: id, verb, reason: "because".to_owned() });
    assert_eq!(change(&store, act(FileVerb::Quarantine)).await["state"], "quarantined");
    assert!(matches!(refused(&store, act(FileVerb::Quarantine)).await, Refusal::Conflict(_)));
    let explained =
        store.catalog.admin_look(AdminSubject::Explain(id), NOW).await.unwrap().unwrap();
    assert_eq!((&explained["readable"], &explained["ledger"]), (&json!(false), &json!([])));
    let found = FileFilter {
        account: Some("acme".to_owned()),
        purpose: Some("voice_clone".to_owned()),
        state: Some(FileState::Quarantined),
        filename: Some("voice.mp3".to_owned()),
        sha256: Some(file.sha256),
    };
    assert_eq!(list(&store, AdminQuestion::Files(found)).await.len(), 1);
    assert_eq!(change(&store, act(FileVerb::Release)).await["state"], "ready");
    store.try_sql("UPDATE files SET state = 'review'").unwrap();
    assert_eq!(list(&store, AdminQuestion::Reviews).await.len(), 1);
    assert_eq!(change(&store, act(FileVerb::Delete)).await["cause"], "operator");
    assert!(matches!(refused(&store, act(FileVerb::Delete)).await, Refusal::NotFound(_)));
    assert_eq!(list(&store, AdminQuestion::Receipts(Some("acme".to_owned()))).await.len(), 1);
    let usage = UsageFilter { by: UsageBy::ALL.to_vec(), ..UsageFilter::default() };
    let used = list(&store, AdminQuestion::Usage(usage)).await;
    assert_eq!((&used[0]["day"], &used[0]["bytes"]), (&json!("2027-01-15"), &json!(5)));
    let sum = list(&store, AdminQuestion::Usage(UsageFilter::default())).await;
    assert_eq!(sum[0]["calls"], 1);
    let looked = store.catalog.admin_look(AdminSubject::Account("acme".to_owned()), NOW).await;
    assert_eq!(looked.unwrap().unwrap()["stored"], json!({}));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn prices_and_blocked_entries_come_and_go(store: Store) {
    let price = |purpose: &str, amount: Option<i64>| {
        AdminChange::Price(PriceChange {
            call: Call::Upload,
            unit: PriceUnit::Call,
            purpose: purpose.to_owned(),
            amount: amount.map(Money),
        })
    };
    change(&store, price("", Some(10))).await;
    let set = change(&store, price("", Some(2_000_000))).await;
    assert_eq!((&set["id"], &set["amount"]), (&json!("files.upload/call/"), &json!("2")));
    assert!(matches!(refused(&store, price("retrieval", None)).await, Refusal::NotFound(_)));
    assert_eq!(list(&store, AdminQuestion::Prices).await.len(), 1);
    change(&store, price("", None)).await;

    let block = |value: &str| {
        AdminChange::Block(NewBlocked {
            list: BlockedList::Term,
            value: value.to_owned(),
            note: String::new(),
        })
    };
    let before = store.catalog.blocked_version().await.unwrap();
    let entry = change(&store, block("spam")).await;
    assert!(matches!(refused(&store, block("spam")).await, Refusal::Conflict(_)));
    let (version, entries) = store.catalog.all_blocked().await.unwrap();
    assert!(version != before && entries.len() == 1);
    assert_eq!(store.catalog.blocked(Some(BlockedList::Term), 0, 9).await.unwrap(), entries);
    assert_eq!(list(&store, AdminQuestion::Blocked(Some(BlockedList::Sha256))).await.len(), 0);
    change(&store, AdminChange::Unblock(entry["id"].as_i64().unwrap())).await;
    assert_ne!(store.catalog.blocked_version().await.unwrap(), version);
    assert_eq!(store.catalog.blocked(None, 0, 9).await.unwrap(), []);
}

fn token(seed: u8) -> NewToken {
    NewToken {
        name: "t".to_owned(),
        hash: hash(seed),
        hint: "tttt".to_owned(),
        scope: AdminScope::Full,
        expires_at: None,
    }
}

async fn the_last_token_stays_and_the_first_is_made_once(store: Store) {
    let mut starts = tokio::task::JoinSet::new();
    for seed in 0..10 {
        let catalog = store.replica(seed);
        starts.spawn(async move { catalog.first_token(token(seed as u8), NOW).await.unwrap() });
    }
    assert_eq!(starts.join_all().await.into_iter().filter(|made| *made).count(), 1);
    let first = list(&store, AdminQuestion::Tokens).await[0]["id"].as_i64().unwrap();
    let revoke = |force| AdminChange::RevokeToken(TokenRevocation { token_id: first, force });
    assert!(matches!(refused(&store, revoke(false)).await, Refusal::Conflict(_)));
    change(&store, AdminChange::CreateToken(token(50))).await;
    change(&store, revoke(false)).await;
    assert!(store.catalog.admin_token(hash(50), NOW).await.unwrap().is_some());
    assert!(store.catalog.admin_token(hash(51), NOW).await.unwrap().is_none());
}

async fn uploads_and_jobs_are_ended_and_hurried(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    store
        .try_sql("INSERT INTO prices (call, unit, amount) VALUES ('files.upload', 'call', 7)")
        .unwrap();
    change(
        &store,
        AdminChange::Post(NewEntry {
            account: "acme".to_owned(),
            adjustment: false,
            amount: Money(100),
            reason: String::new(),
        }),
    )
    .await;
    let key = blob_key(1);
    store.catalog.begin_upload(new_upload(acme, &key, in_ms(9_000)), NOW).await.unwrap().unwrap();
    assert_eq!(list(&store, AdminQuestion::Uploads).await[0]["hold"], "0.000007");
    change(&store, AdminChange::AbortUpload(key.as_str().to_owned())).await;
    let gone = AdminChange::AbortUpload(key.as_str().to_owned());
    assert!(matches!(refused(&store, gone).await, Refusal::NotFound(_)));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
    assert!(store.catalog.claim_jobs(JobKind::LOCAL, NOW, 9, LEASE).await.unwrap().is_empty());
    let job = list(&store, AdminQuestion::Jobs).await[0]["id"].as_i64().unwrap();
    change(&store, AdminChange::RunJob(job)).await;
    assert_eq!(
        store.catalog.claim_jobs(JobKind::LOCAL, NOW, 9, LEASE).await.unwrap()[0].job_id,
        job
    );
}

async fn the_same_request_is_answered_as_before_and_a_dry_run_changes_nothing(store: Store) {
    let new = || {
        AdminChange::CreateAccount(NewAccount {
            name: "acme".to_owned(),
            balance: Money(10),
            limits: TenantLimits::default(),
            settings: AccountSettings::default(),
        })
    };
    let dry = AdminCall { dry_run: true, ..call("account.create") };
    assert!(matches!(store.catalog.administer(dry, new()).await.unwrap(), AdminOutcome::Done(_)));
    assert_eq!(list(&store, AdminQuestion::Accounts(None)).await.len(), 0);
    let first =
        FirstAnswer { owner: "token:1".to_owned(), key: "k".to_owned(), fingerprint: [1; 32] };
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (catalog, change) = (store.replica(n), new());
        let call = AdminCall { first_answer: Some(first.clone()), ..call("account.create") };
        asked.spawn(async move { catalog.administer(call, change).await.unwrap() });
    }
    let (mut done, mut answered) = (0, 0);
    for outcome in asked.join_all().await {
        match outcome {
            AdminOutcome::Done(_) => done += 1,
            AdminOutcome::Answered(_) => answered += 1,
            AdminOutcome::Refused(refusal) => panic!("{refusal:?}"),
        }
    }
    assert_eq!((done, answered), (1, 7));
    let everything = AdminQuestion::Audit { actor: None, action: None, target: None };
    assert_eq!(list(&store, everything).await.len(), 1);
}

async fn lists_go_on_where_they_ended_in_the_order_of_bytes(store: Store) {
    for (n, purpose) in ["b", "A", "a", "B", "_x"].into_iter().enumerate() {
        account(&store, &format!("account {n}"), 0).await;
        let price = PriceChange {
            call: Call::Upload,
            unit: PriceUnit::Call,
            purpose: purpose.to_owned(),
            amount: Some(Money(1)),
        };
        change(&store, AdminChange::Price(price)).await;
    }
    let mut ids: Vec<String> = Vec::new();
    loop {
        let page = Page { limit: 2, after: ids.last().cloned() };
        let part = store.catalog.admin_list(AdminQuestion::Prices, page).await.unwrap().unwrap();
        ids.extend(part.data.iter().map(|row| row["purpose"].as_str().unwrap().to_owned()));
        let last = ids.last_mut().unwrap();
        if !part.has_more {
            break;
        }
        *last = format!("files.upload/call/{last}");
    }
    for id in &mut ids {
        *id = id.rsplit('/').next().unwrap().to_owned();
    }
    assert_eq!(ids, ["A", "B", "_x", "a", "b"]);
    let page = Page { limit: 3, after: Some("account 3".to_owned()) };
    let accounts = store.catalog.admin_list(AdminQuestion::Accounts(None), page).await;
    let accounts = accounts.unwrap().unwrap();
    assert_eq!((accounts.data.len(), &accounts.data[0]["name"]), (3, &json!("account 2")));
    let wrong = Page { limit: 3, after: Some("nobody".to_owned()) };
    let refused = store.catalog.admin_list(AdminQuestion::Accounts(None), wrong).await.unwrap();
    assert!(matches!(refused, Err(Refusal::Invalid(_))));
    assert_eq!(NOW, UnixMillis(1_800_000_000_000));
}

const URL: &str = "https://api.minimax.io";
const KEY: &str = "upstream-key-1a2b";

fn sealer(seeds: &[u8]) -> Arc<Sealer> {
    Arc::new(Sealer::new(seeds.iter().map(|seed| [*seed; 32]).collect()))
}

fn unsealed(key: &str) -> Unsealed {
    Unsealed::new(key.to_owned(), sealer(&[1]), [5; 12])
}

fn new_channel(name: &str, account: Option<&str>) -> AdminChange {
    AdminChange::AddChannel(NewChannel {
        name: name.to_owned(),
        account: account.map(str::to_owned),
        base_url: URL.to_owned(),
        key: unsealed(KEY),
        settings: ChannelSettings { weight: 3, ..ChannelSettings::default() },
    })
}

fn set_state(name: &str, state: ChannelState) -> AdminChange {
    AdminChange::ChannelState(name.to_owned(), state)
}

async fn row(store: &Store, name: &str) -> ChannelRow {
    let rows = store.catalog.channels().await.unwrap().into_iter();
    rows.rev().find(|row| row.name == name).unwrap()
}

async fn channels_are_added_changed_and_removed(store: Store) {
    account(&store, "acme", 0).await;
    let made = change(&store, new_channel("global", None)).await;
    assert_eq!((&made["id"], &made["key_hint"]), (&json!("global"), &json!("1a2b")));
    assert_eq!((&made["state"], &made["condition"]), (&json!("active"), &json!("well")));
    assert_eq!((&made["account"], &made["settings"]["weight"]), (&Value::Null, &json!(3)));
    let theirs = change(&store, new_channel("theirs", Some("acme"))).await;
    assert_eq!(theirs["account"], "acme");
    let twice = refused(&store, new_channel("global", None)).await;
    assert_eq!(twice, Refusal::Conflict("there is a channel \"global\" already".to_owned()));
    let nobody = refused(&store, new_channel("x", Some("nobody"))).await;
    assert!(matches!(nobody, Refusal::NotFound(_)), "{nobody:?}");
    let opened = |row: &ChannelRow| sealer(&[1]).open(&row.sealed_key, &row.base_url);
    assert_eq!(opened(&row(&store, "global").await).unwrap(), KEY);

    // A new key makes it well again, wherever it is.
    let id = row(&store, "global").await.channel_id;
    let (refused_key, well) = (ChannelCondition::KeyRefused, ChannelCondition::Well);
    let why = "2049 invalid api key".to_owned();
    let noted = store.catalog.set_condition(id, refused_key, Some(in_ms(9)), why, well, NOW);
    assert!(noted.await.unwrap());
    let none =
        ChannelChange { name: "global".to_owned(), base_url: None, key: None, settings: None };
    let moved =
        ChannelChange { base_url: Some("https://api.minimaxi.com".to_owned()), ..none.clone() };
    let keyless = refused(&store, AdminChange::ChangeChannel(moved.clone())).await;
    assert!(matches!(keyless, Refusal::Invalid(why) if why.contains("base_url")));
    let key = Some(unsealed("another-key-9z8y"));
    let moved = AdminChange::ChangeChannel(ChannelChange { key, ..moved });
    let moved = change(&store, moved).await;
    assert_eq!((&moved["condition"], &moved["key_hint"]), (&json!("well"), &json!("9z8y")));
    assert_eq!((&moved["condition_why"], &moved["condition_until"]), (&json!(""), &Value::Null));
    assert_eq!(opened(&row(&store, "global").await).unwrap(), "another-key-9z8y");
    let settings = Some(ChannelSettings { priority: -2, ..ChannelSettings::default() });
    let change_of = AdminChange::ChangeChannel(ChannelChange { settings, ..none });
    let changed = change(&store, change_of).await;
    assert_eq!(changed["settings"], json!({"weight": 1, "priority": -2}));

    let drained = change(&store, set_state("global", ChannelState::Draining)).await;
    assert_eq!(drained["state"], "draining");
    let draining = ChannelFilter { account: None, state: Some(ChannelState::Draining) };
    let listed = list(&store, AdminQuestion::Channels(draining)).await;
    assert_eq!(listed, [drained]);
    let of_acme = ChannelFilter { account: Some("acme".to_owned()), state: None };
    assert_eq!(list(&store, AdminQuestion::Channels(of_acme)).await, [theirs]);

    let removed = change(&store, AdminChange::RemoveChannel("global".to_owned())).await;
    assert_eq!((&removed["state"], &removed["key_hint"]), (&json!("removed"), &json!("")));
    assert_eq!(removed["id"], format!("global#{id}"));
    assert_eq!(removed["lost"], json!({"replicas": 0, "tasks": 0, "voices": 0}));
    assert!(row(&store, "global").await.sealed_key.is_empty());
    let again = refused(&store, AdminChange::RemoveChannel("global".to_owned())).await;
    assert!(matches!(again, Refusal::NotFound(_)), "{again:?}");
    assert_eq!(list(&store, AdminQuestion::Channels(ChannelFilter::default())).await.len(), 1);
    // The name is free, and both are told apart.
    change(&store, new_channel("global", None)).await;
    let gone = ChannelFilter { account: None, state: Some(ChannelState::Removed) };
    let gone = list(&store, AdminQuestion::Channels(gone)).await;
    assert_eq!(gone[0]["id"], format!("global#{id}"));
    let look = AdminSubject::Channel("global".to_owned());
    let found = store.catalog.admin_look(look, NOW).await.unwrap().unwrap();
    assert_eq!((&found["id"], &found["state"]), (&json!("global"), &json!("active")));

    let (actor, action) = (None, None);
    let target = Some("channel:global".to_owned());
    let audit = list(&store, AdminQuestion::Audit { actor, action, target }).await;
    assert_eq!(audit.len(), 6);
    let text = serde_json::to_string(&audit).unwrap();
    for secret in [KEY, "another-key", "sealed"] {
        assert!(!text.contains(secret), "{text}");
    }
}

async fn keys_of_channels_are_sealed_again(store: Store) {
    for name in ["one", "two", "gone", "lost"] {
        change(&store, new_channel(name, None)).await;
    }
    change(&store, AdminChange::RemoveChannel("gone".to_owned())).await;
    let key = Some(Unsealed::new(KEY.to_owned(), sealer(&[9]), [5; 12]));
    let (base_url, settings) = (None, None);
    let elsewhere = ChannelChange { name: "lost".to_owned(), base_url, key, settings };
    change(&store, AdminChange::ChangeChannel(elsewhere)).await;
    let reseal = || Resealing { sealer: sealer(&[2, 1]), nonce: [6; 12] };
    let told = change(&store, AdminChange::ResealChannels(reseal())).await;
    assert_eq!(told, json!({"resealed": 2, "kept": 0, "unopened": ["lost"]}));
    let (one, two) = (row(&store, "one").await, row(&store, "two").await);
    assert_ne!(one.sealed_key, two.sealed_key);
    for row in [&one, &two] {
        assert_eq!(sealer(&[2]).open(&row.sealed_key, URL).unwrap(), KEY);
        assert_eq!(sealer(&[1]).open(&row.sealed_key, URL), Err(SealError::UnknownKey));
    }
    let told = change(&store, AdminChange::ResealChannels(reseal())).await;
    assert_eq!(told, json!({"resealed": 0, "kept": 2, "unopened": ["lost"]}));
    assert_eq!(row(&store, "one").await, one);
}

async fn accounts_are_tied_to_channels_that_are_there(store: Store) {
    account(&store, "acme", 0).await;
    account(&store, "other", 0).await;
    change(&store, new_channel("global", None)).await;
    change(&store, new_channel("theirs", Some("acme"))).await;
    let tied = |name: &str, channels: &[&str]| {
        let channels = Some(channels.iter().map(|&name| name.to_owned()).collect());
        let settings = Some(AccountSettings { channels, ..AccountSettings::default() });
        let (name, active, limits) = (name.to_owned(), None, None);
        AdminChange::ChangeAccount(AccountChange { name, active, limits, settings })
    };
    let made = change(&store, tied("acme", &["global", "theirs"])).await;
    assert_eq!(made["settings"]["channels"], json!(["global", "theirs"]));
    for (account, channel, says) in
        [("other", "theirs", "another account's own"), ("other", "nowhere", "no channel")]
    {
        let why = refused(&store, tied(account, &[channel])).await;
        assert!(matches!(&why, Refusal::Invalid(why) if why.contains(says)), "{why:?}");
    }
    let new = NewAccount {
        name: "third".to_owned(),
        balance: Money(0),
        limits: TenantLimits::default(),
        settings: AccountSettings {
            channels: Some(vec!["nowhere".to_owned()]),
            ..AccountSettings::default()
        },
    };
    let why = refused(&store, AdminChange::CreateAccount(new)).await;
    assert!(matches!(why, Refusal::Invalid(_)), "{why:?}");
    // An account does not lose its last way without being asked.
    let why = refused(&store, AdminChange::RemoveChannel("global".to_owned())).await;
    assert!(matches!(&why, Refusal::Conflict(why) if why.contains("acme")), "{why:?}");
    change(&store, tied("acme", &["theirs"])).await;
    change(&store, AdminChange::RemoveChannel("global".to_owned())).await;
}

async fn costs_and_margins_are_told_by_channel(store: Store) {
    account(&store, "acme", 0).await;
    change(&store, new_channel("global", None)).await;
    let cost = |channel: &str, path: &str, amount| {
        let (channel, path) = (channel.to_owned(), path.to_owned());
        AdminChange::Cost(CostChange { channel, path, unit: PriceUnit::Kilounit, amount })
    };
    let set = change(&store, cost("global", "/v1/t2a_v2", Some(Money(60_000)))).await;
    assert_eq!(set["id"], "global/kilounit//v1/t2a_v2");
    assert_eq!(set["amount"], "0.06");
    change(&store, cost("global", "", Some(Money(1)))).await;
    let why = refused(&store, cost("nowhere", "", Some(Money(1)))).await;
    assert!(matches!(why, Refusal::NotFound(_)), "{why:?}");
    let costs = list(&store, AdminQuestion::Costs(Some("global".to_owned()))).await;
    assert_eq!(costs.len(), 2);
    change(&store, cost("global", "", None)).await;
    let why = refused(&store, cost("global", "", None)).await;
    assert!(matches!(why, Refusal::NotFound(_)), "{why:?}");
    assert_eq!(store.catalog.costs().await.unwrap().len(), 1);

    let id = row(&store, "global").await.channel_id;
    let insert = format!(
        "INSERT INTO relayed (day, channel_id, account_id, path, calls, units, charged, cost) VALUES
         ('2026-11-01', {id}, 1, '/v1/t2a_v2', 2, 1500, 200000, 90000),
         ('2026-11-02', {id}, 1, '/v1/t2a_v2', 1, 500, 10000, 30000),
         ('2026-11-02', {id}, 1, '/v1/voice_clone', 1, 0, 5000000, 3000000)"
    );
    crate::support::sql(&store, &insert);
    let margin = async |by: &[MarginBy], from: &str| {
        let filter = MarginFilter {
            channel: Some("global".to_owned()),
            account: Some("acme".to_owned()),
            from: Some(from.to_owned()),
            by: by.to_vec(),
            ..MarginFilter::default()
        };
        list(&store, AdminQuestion::Margin(filter)).await
    };
    let sums = |calls: u64, units: u64, charged: &str, cost: &str, margin: &str| json!({"calls": calls, "units": units, "charged": charged, "cost": cost, "margin": margin});
    assert_eq!(margin(&[], "2026-11-01").await, [sums(4, 2000, "5.21", "3.12", "2.09")]);
    let by_path = margin(&[MarginBy::Channel, MarginBy::Path], "2026-11-02").await;
    let named = |mut row: Value, path: &str| {
        (row["channel"], row["path"]) = (json!("global"), json!(path));
        row
    };
    let speech = named(sums(1, 500, "0.01", "0.03", "-0.02"), "/v1/t2a_v2");
    assert_eq!(by_path, [speech, named(sums(1, 0, "5", "3", "2"), "/v1/voice_clone")]);
    // What it was stays to be seen when it is gone, and its costs go.
    change(&store, AdminChange::RemoveChannel("global".to_owned())).await;
    assert_eq!(store.catalog.costs().await.unwrap(), []);
    let all = MarginFilter { by: vec![MarginBy::Channel], ..MarginFilter::default() };
    let all = list(&store, AdminQuestion::Margin(all)).await;
    assert_eq!(all[0]["channel"], format!("global#{id}"));
}
