//! Every change and every question of operators, on both databases.

use filegate_store::admin::{
    AccountChange, AdminCall, AdminChange, AdminOutcome, AdminQuestion, AdminSubject, FileAct,
    FileFilter, FileVerb, KeyChange, KeyRights, NewAccount, NewBlocked, NewEntry, NewKey, NewToken,
    Page, PriceChange, Refusal, RotatedKey, TokenRevocation, UsageBy, UsageFilter,
};
use filegate_store::catalog::moderation::BlockedList;
use filegate_store::{Caller, FirstAnswer, JobKind};
use filegate_types::{
    AccountSettings, AdminScope, Call, FileState, KeyHash, Money, PriceUnit, Scopes, TenantLimits,
    UnixMillis,
};
use serde_json::{Value, json};

use crate::support::{LEASE, NOW, Store, blob_key, in_ms, new_upload, on_both};

on_both!(
    accounts_have_money_that_operators_move,
    keys_are_made_changed_rotated_and_revoked,
    files_are_held_back_released_and_deleted,
    prices_and_blocked_entries_come_and_go,
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
