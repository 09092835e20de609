//! Money adds up: under load, across crashes, after any sequence of calls.

use std::collections::BTreeMap;

use filegate_store::{
    BlobSum, CommitOutcome, DeleteOutcome, FirstAnswer, JobKind, NewFile, NewHold, Quota, Relayed,
};
use filegate_types::units::Bytes;
use filegate_types::{
    AccountId, BlobKey, Call, ChannelId, FileId, KeyId, Money, PurposeName, TenantLimits,
    UnixMillis,
};
use proptest::prelude::*;
use tokio::task::JoinSet;

use crate::support::{LEASE, NOW, Store, commit_whole, in_ms, new_file, new_upload, on_both, sql};

on_both!(
    a_balance_for_ten_pays_for_exactly_ten_of_a_thousand,
    a_quota_for_ten_takes_exactly_ten_of_a_hundred,
    a_price_that_rises_during_an_upload_is_for_the_next,
    the_price_of_a_purpose_goes_before_that_of_all_and_an_unknown_purpose_holds_the_dearest,
    a_day_of_storage_is_charged_once_and_may_be_owed,
    the_ledger_is_append_only_and_a_cooked_book_is_found,
    the_same_idempotency_key_commits_once,
    a_delete_leaves_a_receipt_that_the_purge_completes,
);

const KEY: KeyId = KeyId(1);
/// Prices: 10 for an upload, 5 for each MiB of it, 3 for a delete, 2 for a retrieve,
/// 4 for a relayed call and 6 for 1,000 units of it.
const PRICES: &str = "INSERT INTO prices (call, purpose, unit, amount) VALUES
    ('files.upload', '', 'call', 10), ('files.upload', '', 'mib', 5),
    ('files.delete', '', 'call', 3), ('files.retrieve', '', 'call', 2),
    ('files.storage', '', 'gib_day', 7), ('relay', '', 'call', 4), ('relay', '', 'kilounit', 6)";

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

fn sum_of(bytes: u64) -> BlobSum {
    BlobSum { bytes, sha256: [7; 32], block_sums: vec![] }
}

fn key_number(number: u64) -> BlobKey {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    BlobKey::mint(NOW, random)
}

fn file_of(number: u64, bytes: u64) -> NewFile {
    let bits = std::array::from_fn(|i| (number.wrapping_mul(8) + i as u64) as u16);
    NewFile { id_bits: bits, ..new_file(key_number(number), sum_of(bytes)) }
}

async fn a_balance_for_ten_pays_for_exactly_ten_of_a_thousand(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, "INSERT INTO prices (call, unit, amount) VALUES ('files.upload', 'call', 1000)");
    top_up(&store, 10_999);
    let mut tasks = JoinSet::new();
    for number in 0..1_000 {
        let catalog = store.replica(number);
        tasks.spawn(async move {
            if number % 2 == 0 {
                // With no row before: it takes the price by itself.
                let done = commit_whole(&catalog, acme, file_of(number, 5)).await;
                return done.is_ok();
            }
            let upload = new_upload(acme, &key_number(number), in_ms(60_000));
            if catalog.begin_upload(upload, NOW).await.unwrap().is_err() {
                return false;
            }
            let done = catalog.commit_upload(acme, file_of(number, 5), NOW).await.unwrap();
            assert!(matches!(done, CommitOutcome::Committed(_)), "{done:?}");
            true
        });
    }
    let paid = tasks.join_all().await.into_iter().filter(|paid| *paid).count();
    assert_eq!(paid, 10);
    assert_eq!(money(&store), (999, 0));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
    let counts = store.catalog.counts().await.unwrap();
    assert_eq!((counts.files, counts.uploads), (10, 0));
}

async fn a_quota_for_ten_takes_exactly_ten_of_a_hundred(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let limits = TenantLimits { stored_bytes: Some(Bytes(1_099)), ..TenantLimits::default() };
    let mut kept = 0;
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let (catalog, limits) = (store.replica(number), limits.clone());
        tasks.spawn(async move {
            let upload = new_upload(acme, &key_number(number), in_ms(60_000));
            catalog.begin_upload(upload, NOW).await.unwrap().unwrap();
            let file = NewFile { limits, ..file_of(number, 100) };
            catalog.commit_upload(acme, file, NOW).await.unwrap()
        });
    }
    for done in tasks.join_all().await {
        match done {
            CommitOutcome::Committed(_) => kept += 1,
            CommitOutcome::OverQuota(quota) => {
                assert_eq!(quota, Quota::Bytes { limit: Bytes(1_099), stored: Bytes(1_000) });
            }
            CommitOutcome::Repeated => panic!("it was not"),
        }
    }
    assert_eq!(kept, 10);
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn a_price_that_rises_during_an_upload_is_for_the_next(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, PRICES);
    top_up(&store, 100);
    store.begin(acme, &key_number(1), in_ms(60_000)).await;
    assert_eq!(money(&store), (100, 15));
    sql(&store, "UPDATE prices SET amount = 90 WHERE call = 'files.upload'");
    store.commit(acme, file_of(1, 1 << 20)).await;
    assert_eq!(money(&store), (85, 0));
    let refused =
        store.catalog.begin_upload(new_upload(acme, &key_number(2), in_ms(60_000)), NOW).await;
    let short = refused.unwrap().unwrap_err();
    assert_eq!((short.price, short.available), (Money(180), Money(85)));
}

async fn the_price_of_a_purpose_goes_before_that_of_all_and_an_unknown_purpose_holds_the_dearest(
    store: Store,
) {
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, PRICES);
    sql(
        &store,
        "INSERT INTO prices VALUES ('files.upload', 'voice_clone', 'call', 0),
                                   ('files.upload', 'retrieval', 'call', 40)",
    );
    top_up(&store, 100);
    store.begin(acme, &key_number(1), in_ms(60_000)).await;
    assert_eq!(money(&store).1, 5);
    let unknown = filegate_store::NewUpload {
        purpose: None,
        ..new_upload(acme, &key_number(2), in_ms(60_000))
    };
    store.catalog.begin_upload(unknown, NOW).await.unwrap().unwrap();
    assert_eq!(money(&store).1, 5 + 45);
    store.commit(acme, file_of(2, 1 << 19)).await;
    // Half a MiB at 5 is 2.5, rounded up.
    assert_eq!(money(&store), (97, 5));
}

async fn a_day_of_storage_is_charged_once_and_may_be_owed(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, "INSERT INTO prices VALUES ('files.storage', '', 'gib_day', 1000)");
    top_up(&store, 1_500);
    for number in 1..=3 {
        store.begin(acme, &key_number(number), in_ms(60_000)).await;
        store.commit(acme, file_of(number, 1 << 29)).await;
    }
    let charge = |day: &str, end| store.catalog.charge_storage(day.to_owned(), end, NOW);
    // They were not there yet when this day ended.
    assert_eq!(charge("2027-01-14", NOW).await.unwrap(), 0);
    assert_eq!(charge("2027-01-15", in_ms(1)).await.unwrap(), 1);
    assert_eq!(charge("2027-01-15", in_ms(1)).await.unwrap(), 0);
    assert_eq!(money(&store).0, 0);
    assert_eq!(charge("2027-01-16", in_ms(2)).await.unwrap(), 1);
    assert_eq!(money(&store).0, -1_500);
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

async fn the_ledger_is_append_only_and_a_cooked_book_is_found(store: Store) {
    store.account("acme", 1).await;
    top_up(&store, 100);
    let truncate = store.catalog.is_shared().then_some("TRUNCATE ledger");
    for statement in
        ["UPDATE ledger SET amount = 1", "DELETE FROM ledger"].into_iter().chain(truncate)
    {
        let refused = store.try_sql(statement).unwrap_err();
        assert!(refused.contains("append-only"), "{refused}");
    }
    sql(&store, "UPDATE accounts SET balance = 5, held = 1");
    let faults = store.catalog.check_books().await.unwrap();
    let found: Vec<_> =
        faults.iter().map(|fault| (fault.what, fault.kept, fault.counted)).collect();
    assert_eq!(found, [("balance", 5, 100), ("held", 1, 0)]);
}

async fn the_same_idempotency_key_commits_once(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let first =
        FirstAnswer { owner: "account:1".to_owned(), key: "k".to_owned(), fingerprint: [1; 32] };
    let with_key = |number| NewFile { first_answer: Some(first.clone()), ..file_of(number, 5) };
    for number in [1, 2] {
        store.begin(acme, &key_number(number), in_ms(60_000)).await;
    }
    let file = store.commit(acme, with_key(1)).await;
    let again = store.catalog.commit_upload(acme, with_key(2), NOW).await.unwrap();
    assert_eq!(again, CommitOutcome::Repeated);
    let answer = |at| store.catalog.first_answer("account:1".to_owned(), "k".to_owned(), at);
    let kept = answer(NOW).await.unwrap().unwrap();
    assert_eq!(kept.fingerprint, [1; 32]);
    let reply: serde_json::Value = serde_json::from_slice(&kept.reply).unwrap();
    assert_eq!(reply["file_id"], file.file_id.get());
    let next_day = in_ms(86_400_000);
    assert!(answer(next_day).await.unwrap().is_none());
    assert_eq!(store.catalog.forget_answers(next_day, 10).await.unwrap(), 1);
}

async fn a_delete_leaves_a_receipt_that_the_purge_completes(store: Store) {
    let (acme, _) = store.account("acme", 1).await;
    let file = store.upload(acme, 9, b"hello").await;
    let deleted = store.catalog.delete_file(acme, KEY, file.file_id, vec![], NOW).await.unwrap();
    assert_eq!(deleted, DeleteOutcome::Deleted);
    let receipt = || store.rows("SELECT cause, bytes, deleted_at, purged_at FROM receipts");
    let expected = |purged_at: Option<i64>| {
        let columns = ["client".to_owned(), "5".to_owned(), NOW.0.to_string()].map(Some);
        let purged_at = purged_at.map(|at| at.to_string());
        vec![columns.into_iter().chain([purged_at]).collect::<Vec<_>>()]
    };
    assert_eq!(receipt(), expected(None));
    let jobs = store.catalog.claim_jobs(JobKind::LOCAL, NOW, 10, LEASE).await.unwrap();
    store.catalog.finish_jobs(vec![jobs[0].job_id], in_ms(9)).await.unwrap();
    assert_eq!(receipt(), expected(Some(NOW.0 + 9)));
}

/// What may happen to an account, in any order.
#[derive(Debug, Clone)]
enum Step {
    TopUp(i64),
    Begin(u64),
    /// Of the n-th upload in progress, with this share of its bytes.
    Commit(usize, u64),
    /// At once, with no upload in progress before.
    Whole(u64),
    Abort(usize),
    Reap,
    Delete(usize),
    Retrieve,
    Storage,
    /// For at most so many units, until this time.
    Hold(u64, i64),
    /// Of the n-th relayed call in progress, with so many units.
    Capture(usize, u64),
    Void(usize),
    /// Of the n-th, until this time.
    Renew(usize, i64),
    /// Of those whose lease has ended by this time.
    ReapHolds(i64),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1i64..200).prop_map(Step::TopUp),
        5 => (1u64..4 << 20).prop_map(Step::Begin),
        5 => (any::<usize>(), 1u64..=4).prop_map(|(n, quarter)| Step::Commit(n, quarter)),
        3 => (1u64..256 << 10).prop_map(Step::Whole),
        2 => any::<usize>().prop_map(Step::Abort),
        1 => Just(Step::Reap),
        3 => any::<usize>().prop_map(Step::Delete),
        2 => Just(Step::Retrieve),
        1 => Just(Step::Storage),
        5 => (0u64..20_000, 0i64..10).prop_map(|(units, until)| Step::Hold(units, until)),
        4 => (any::<usize>(), 0u64..40_000).prop_map(|(n, units)| Step::Capture(n, units)),
        2 => any::<usize>().prop_map(Step::Void),
        1 => (any::<usize>(), 0i64..10).prop_map(|(n, until)| Step::Renew(n, until)),
        1 => (0i64..10).prop_map(Step::ReapHolds),
        2 => Just(Step::Crash),
    ]
}

/// The account as it should be.
#[derive(Default)]
struct Model {
    balance: i64,
    uploads: BTreeMap<u64, (u64, i64)>,
    files: Vec<(FileId, u64)>,
    /// What each holds, and until when.
    holds: BTreeMap<String, (i64, i64)>,
    next: u64,
    day: i64,
}

impl Model {
    fn held(&self) -> i64 {
        let uploads: i64 = self.uploads.values().map(|(_, hold)| hold).sum();
        uploads + self.holds.values().map(|(amount, _)| amount).sum::<i64>()
    }

    fn pick_hold(&self, n: usize) -> Option<String> {
        let count = self.holds.len();
        (count > 0).then(|| self.holds.keys().nth(n % count).unwrap().clone())
    }

    fn can_spend(&self, amount: i64) -> bool {
        self.balance - self.held() >= amount
    }

    fn pick_upload(&self, n: usize) -> Option<(u64, u64)> {
        let count = self.uploads.len();
        (count > 0).then(|| self.uploads.iter().nth(n % count).map(|(k, v)| (*k, v.0)).unwrap())
    }
}

fn relay_price(units: u64) -> i64 {
    4 + (units * 6).div_ceil(1_000) as i64
}

fn upload_price(bytes: u64) -> i64 {
    10 + (bytes * 5).div_ceil(1 << 20) as i64
}

async fn take(store: &mut Store, acme: AccountId, model: &mut Model, step: Step) {
    match step {
        Step::TopUp(amount) => {
            top_up(store, amount);
            model.balance += amount;
        }
        Step::Begin(bytes) => {
            model.next += 1;
            let upload = filegate_store::NewUpload {
                bytes_max: Bytes(bytes),
                ..new_upload(acme, &key_number(model.next), in_ms(1_000))
            };
            let began = store.catalog.begin_upload(upload, NOW).await.unwrap();
            let price = upload_price(bytes);
            assert_eq!(began.is_ok(), model.can_spend(price));
            if began.is_ok() {
                model.uploads.insert(model.next, (bytes, price));
            }
        }
        Step::Commit(n, quarter) => {
            let Some((number, bytes_max)) = model.pick_upload(n) else { return };
            let bytes = (bytes_max * quarter / 4).max(1);
            let file = file_of(number, bytes);
            let done = store.catalog.commit_upload(acme, file, NOW).await.unwrap();
            let CommitOutcome::Committed(record) = done else { panic!("{done:?}") };
            model.uploads.remove(&number);
            model.balance -= upload_price(bytes);
            model.files.push((record.file_id, bytes));
        }
        Step::Whole(bytes) => {
            model.next += 1;
            let file = file_of(model.next, bytes);
            let done = store.commit_whole(acme, file).await;
            let price = upload_price(bytes);
            assert_eq!(done.is_ok(), model.can_spend(price));
            if let Ok(done) = done {
                let CommitOutcome::Committed(record) = done else { panic!("{done:?}") };
                model.balance -= price;
                model.files.push((record.file_id, bytes));
            }
        }
        Step::Abort(n) => {
            let Some((number, _)) = model.pick_upload(n) else { return };
            store.catalog.abort_upload(key_number(number)).await.unwrap();
            model.uploads.remove(&number);
        }
        Step::Reap => {
            let reaped = store.catalog.reap_uploads(UnixMillis(i64::MAX), NOW, 1_000).await;
            assert_eq!(reaped.unwrap(), model.uploads.len());
            model.uploads.clear();
        }
        Step::Delete(n) => {
            if model.files.is_empty() {
                return;
            }
            let n = n % model.files.len();
            let deleted =
                store.catalog.delete_file(acme, KEY, model.files[n].0, vec![], NOW).await.unwrap();
            if model.can_spend(3) {
                assert_eq!(deleted, DeleteOutcome::Deleted);
                model.files.swap_remove(n);
                model.balance -= 3;
            } else {
                assert!(matches!(deleted, DeleteOutcome::Short(_)), "{deleted:?}");
            }
        }
        Step::Retrieve => {
            let purpose: Option<PurposeName> = Some("voice_clone".parse().unwrap());
            let paid = store.catalog.charge_call(acme, KEY, Call::Retrieve, purpose, None, NOW);
            let paid = paid.await.unwrap();
            assert_eq!(paid.is_ok(), model.can_spend(2));
            model.balance -= if paid.is_ok() { 2 } else { 0 };
        }
        Step::Storage => {
            model.day += 1;
            let day = format!("day {}", model.day);
            store.catalog.charge_storage(day.clone(), in_ms(1), NOW).await.unwrap();
            store.catalog.charge_storage(day, in_ms(1), NOW).await.unwrap();
            let stored: u64 = model.files.iter().map(|(_, bytes)| bytes).sum();
            model.balance -= (stored * 7).div_ceil(1 << 30) as i64;
        }
        Step::Hold(..)
        | Step::Capture(..)
        | Step::Void(_)
        | Step::Renew(..)
        | Step::ReapHolds(_) => relay(store, acme, model, step).await,
        // What a kill leaves of a catalog is what a new process opens.
        Step::Crash => {
            store.catalog = store.reopened().await;
        }
    }
}

async fn relay(store: &Store, acme: AccountId, model: &mut Model, step: Step) {
    let catalog = &store.catalog;
    match step {
        Step::Hold(units_max, until) => {
            model.next += 1;
            let new = NewHold {
                hold_id: format!("h{}", model.next),
                account: acme,
                key: KEY,
                path: "/v1/t2a_v2".to_owned(),
                units_max,
                lease_until: in_ms(until),
            };
            let (name, price) = (new.hold_id.clone(), relay_price(units_max));
            let held = catalog.hold_relay(new, NOW).await.unwrap();
            assert_eq!(held.is_ok(), model.can_spend(price));
            if held.is_ok() {
                model.holds.insert(name, (price, until));
            }
        }
        Step::Capture(n, units) => {
            let Some(name) = model.pick_hold(n) else { return };
            let call = Relayed {
                key: KEY,
                channel: ChannelId(1),
                path: "/v1/t2a_v2".to_owned(),
                units,
                cost: Money(1),
                first_answer: None,
            };
            let (held, _) = model.holds.remove(&name).unwrap();
            let owed = relay_price(units).min(held);
            let taken = catalog.capture_relay(acme, name.clone(), call.clone(), NOW).await;
            assert_eq!(taken.unwrap(), Money(owed));
            let again = catalog.capture_relay(acme, name, call, NOW).await.unwrap();
            assert_eq!(again, Money::ZERO);
            model.balance -= owed;
        }
        Step::Void(n) => {
            let Some(name) = model.pick_hold(n) else { return };
            catalog.void_relay(acme, name.clone()).await.unwrap();
            model.holds.remove(&name);
        }
        Step::Renew(n, until) => {
            let Some(name) = model.pick_hold(n) else { return };
            let renewed = catalog.renew_holds(vec![name.clone()], in_ms(until)).await.unwrap();
            assert_eq!(renewed, 1);
            model.holds.get_mut(&name).unwrap().1 = until;
        }
        Step::ReapHolds(deadline) => {
            let count = model.holds.len();
            model.holds.retain(|_, (_, until)| *until > deadline);
            let reaped = catalog.reap_holds(in_ms(deadline), 1_000).await.unwrap();
            assert_eq!(reaped, count - model.holds.len());
        }
        other => panic!("{other:?} is not the relay's"),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}

async fn follow(mut store: Store, steps: Vec<Step>) {
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, PRICES);
    let mut model = Model::default();
    for step in steps {
        take(&mut store, acme, &mut model, step).await;
        assert_eq!(money(&store), (model.balance, model.held()));
    }
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
    let counts = store.catalog.counts().await.unwrap();
    assert_eq!(counts.files as usize, model.files.len());
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_books_balance_after_any_sequence(steps in steps()) {
        block_on(async { follow(Store::on_sqlite(), steps).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_books_of_postgres_balance_after_any_sequence(steps in steps()) {
        block_on(async { follow(Store::on_postgres().await, steps).await });
    }
}
