//! What only a database that replicas share has to promise: it may stall, vanish and come back, and others
//! work beside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use filegate_store::{
    BlobSum, Catalog, CommitOutcome, FirstAnswer, JobKind, NewFile, PostgresFacts, PostgresOptions,
    StoreError,
};
use filegate_testkit::postgres::{Postgres, query};
use filegate_types::{BlobKey, Call, FileId, PlainKey, UnixMillis};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{LEASE, NOW, Store, blob_key, in_ms, new_file, new_upload, options, sql};

fn number_key(number: u64) -> BlobKey {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    BlobKey::mint(NOW, random)
}

fn file_of(number: u64) -> NewFile {
    let sum = BlobSum { bytes: 5, sha256: [7; 32], block_sums: vec![1; 4] };
    let bits = std::array::from_fn(|i| (number.wrapping_mul(8) + i as u64) as u16);
    NewFile { id_bits: bits, ..new_file(number_key(number), sum) }
}

/// Short of patience, as a server is.
fn hasty(url: &str) -> PostgresOptions {
    PostgresOptions {
        connect_timeout: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(1),
        wait: Duration::from_secs(1),
        ..options(url)
    }
}

/// The longest that a call on a [`hasty`] catalog may take: it waits for its turn, for one statement that
/// is not answered, and for a connection.
const BOUND: Duration = Duration::from_secs(5);

fn is_unavailable<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_on_all_replicas_at_once_makes_one_file() {
    let store = Store::on_postgres().await;
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, "INSERT INTO prices (call, unit, amount) VALUES ('files.upload', 'call', 10)");
    sql(
        &store,
        "BEGIN; UPDATE accounts SET balance = 1000;
         INSERT INTO ledger (account_id, at, kind, amount, balance)
         VALUES (1, 0, 'top_up', 1000, 1000); COMMIT",
    );
    for round in 0..5 {
        let first = FirstAnswer {
            owner: "account:1".to_owned(),
            key: format!("key {round}"),
            fingerprint: [1; 32],
        };
        let mut commits = JoinSet::new();
        for n in 0..8 {
            let (catalog, number) = (store.replica(n), round * 8 + n);
            let file = NewFile { first_answer: Some(first.clone()), ..file_of(number) };
            commits.spawn(async move {
                let upload = new_upload(acme, &number_key(number), in_ms(60_000));
                catalog.begin_upload(upload, NOW).await.unwrap().unwrap();
                let done = catalog.commit_upload(acme, file, NOW).await.unwrap();
                match done {
                    CommitOutcome::Committed(_) => true,
                    CommitOutcome::Repeated => {
                        catalog.abort_upload(number_key(number)).await.unwrap();
                        false
                    }
                    CommitOutcome::OverQuota(quota) => panic!("{quota:?}"),
                }
            });
        }
        assert_eq!(commits.join_all().await.into_iter().filter(|made| *made).count(), 1);
    }
    assert_eq!(store.catalog.counts().await.unwrap().files, 5);
    assert_eq!(store.rows("SELECT balance, held FROM accounts"), store.rows("SELECT 950, 0"));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_committed_or_reaped_and_a_file_deleted_or_expired_never_both() {
    let store = Store::on_postgres().await;
    let (acme, _) = store.account("acme", 1).await;
    let count = 60;
    for number in 0..count {
        let upload = new_upload(acme, &number_key(number), in_ms(1_000));
        store.catalog.begin_upload(upload, NOW).await.unwrap().unwrap();
    }
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let catalog = store.replica(number);
        tasks.spawn(async move {
            let file = NewFile { expires_at: Some(in_ms(500)), ..file_of(number) };
            match catalog.commit_upload(acme, file, NOW).await {
                Ok(CommitOutcome::Committed(file)) => Some(file.file_id),
                Err(StoreError::LeaseLost) => None,
                other => panic!("{other:?}"),
            }
        });
    }
    let mut reapers = JoinSet::new();
    for n in 0..4 {
        let catalog = store.replica(n);
        reapers.spawn(async move { catalog.reap_uploads(in_ms(1_000), NOW, 7).await.unwrap() });
    }
    let files: Vec<FileId> = tasks.join_all().await.into_iter().flatten().collect();
    let reaped: usize = reapers.join_all().await.into_iter().sum();
    assert_eq!(files.len() + reaped, count as usize);

    let mut removals = JoinSet::new();
    for (n, file_id) in files.iter().copied().enumerate() {
        let catalog = store.replica(n as u64);
        removals.spawn(async move {
            let key = filegate_types::KeyId(1);
            let deleted = catalog.delete_file(acme, key, file_id, vec![], NOW).await.unwrap();
            usize::from(deleted == filegate_store::DeleteOutcome::Deleted)
        });
        if n % 10 == 0 {
            let catalog = store.replica(n as u64 + 1);
            removals.spawn(async move { catalog.expire_due(in_ms(500), 100).await.unwrap() });
        }
    }
    let removed: usize = removals.join_all().await.into_iter().sum();
    assert_eq!(removed, files.len());
    let receipts = store.rows("SELECT count(*) FROM receipts")[0][0].clone();
    assert_eq!(receipts, Some(files.len().to_string()));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
    let counts = store.catalog.counts().await.unwrap();
    assert_eq!((counts.files, counts.jobs), (0, count));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_storage_is_charged_once_by_all_replicas_together() {
    let store = Store::on_postgres().await;
    sql(&store, "INSERT INTO prices (call, unit, amount) VALUES ('files.storage', 'gib_day', 100)");
    for seed in 1..=5 {
        let (account, _) = store.account(&format!("account {seed}"), seed).await;
        store.upload(account, seed, b"x").await;
    }
    let mut charging = JoinSet::new();
    for n in 0..6 {
        let catalog = store.replica(n);
        charging.spawn(async move {
            catalog.charge_storage("2027-01-15".to_owned(), in_ms(1), NOW).await.unwrap()
        });
    }
    assert_eq!(charging.join_all().await.into_iter().sum::<usize>(), 5);
    assert_eq!(store.rows("SELECT DISTINCT balance FROM accounts"), store.rows("SELECT -1"));
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_one_taker_until_its_lease_has_passed() {
    let store = Store::on_postgres().await;
    for seed in 0..50 {
        store.catalog.purge_orphan(blob_key(seed), NOW).await.unwrap();
    }
    let mut taking = JoinSet::new();
    for n in 0..10 {
        let catalog = store.replica(n);
        taking
            .spawn(async move { catalog.claim_jobs(JobKind::LOCAL, NOW, 7, LEASE).await.unwrap() });
    }
    let mut taken: Vec<i64> =
        taking.join_all().await.into_iter().flatten().map(|j| j.job_id).collect();
    // Rows that another was just looking at are passed over, so some may be left.
    taken.extend(
        store
            .catalog
            .claim_jobs(JobKind::LOCAL, NOW, 50, LEASE)
            .await
            .unwrap()
            .iter()
            .map(|j| j.job_id),
    );
    let once: BTreeSet<i64> = taken.iter().copied().collect();
    assert_eq!((taken.len(), once.len()), (50, 50));
    store.catalog.finish_jobs(taken[..20].to_vec(), NOW).await.unwrap();
    let before = in_ms(LEASE.as_millis() as i64 - 1);
    assert!(store.beside.claim_jobs(JobKind::LOCAL, before, 50, LEASE).await.unwrap().is_empty());
    let after = in_ms(LEASE.as_millis() as i64);
    assert_eq!(store.beside.claim_jobs(JobKind::LOCAL, after, 50, LEASE).await.unwrap().len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_leads_until_its_lease_has_passed() {
    let store = Store::on_postgres().await;
    let lead = |n, holder, lease| {
        let catalog = store.replica(n);
        async move { catalog.lead("scrub", holder, Duration::from_millis(lease)).await.unwrap() }
    };
    assert!(lead(0, "a", 600_000).await);
    assert!(!lead(1, "b", 600_000).await);
    assert!(lead(0, "a", 1).await);
    let started = Instant::now();
    while !lead(1, "b", 600_000).await {
        assert!(started.elapsed() < Duration::from_secs(5), "the lease does not end");
    }
    assert!(!lead(0, "a", 600_000).await);
    assert!(store.catalog.lead("other", "a", Duration::from_mins(1)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_make_the_schema_once_and_of_a_newer_one_use_what_they_can() {
    let cluster = Postgres::new();
    let url = cluster.database();
    let mut starts = JoinSet::new();
    for _ in 0..6 {
        let options = options(&url);
        starts.spawn(async move { Catalog::connect(options).await.map(drop) });
    }
    for started in starts.join_all().await {
        started.unwrap();
    }
    let schema = || query(&url, "SELECT version, oldest_reader FROM filegate_schema").unwrap();
    assert_eq!(schema(), [[Some("2".to_owned()), Some("1".to_owned())]]);

    // An expansion of the next release: this one goes on with it.
    let expanded = "ALTER TABLE files ADD COLUMN of_the_future TEXT;
                    UPDATE filegate_schema SET version = 3";
    let running = Catalog::connect(options(&url)).await.unwrap();
    running.counts().await.unwrap();
    running.files_after(0, 10).await.unwrap();
    query(&url, expanded).unwrap();
    running.files_after(0, 10).await.unwrap();
    Catalog::connect(options(&url)).await.unwrap().meta_set("a", vec![1]).await.unwrap();
    assert_eq!(schema()[0][0], Some("3".to_owned()));
    // The contraction of the one after.
    query(&url, "UPDATE filegate_schema SET version = 4, oldest_reader = 3").unwrap();
    let refused = Catalog::connect(options(&url)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unusable(why) if why.contains("newer filegate")));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_leave_no_transaction() {
    let store = Store::on_postgres().await;
    let (acme, _) = store.account("acme", 1).await;
    for number in 0..100 {
        let catalog = store.replica(number);
        let upload = new_upload(acme, &number_key(number), in_ms(60_000));
        let patience = Duration::from_micros(number * 20);
        let _cut = tokio::time::timeout(patience, catalog.begin_upload(upload, NOW)).await;
        let commit = catalog.commit_upload(acme, file_of(number), NOW);
        let _cut = tokio::time::timeout(patience, commit).await;
    }
    store.settled().await;
    let idle = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in%'";
    assert_eq!(store.rows(idle), store.rows("SELECT 0"));
    // Every connection is as good as new.
    for n in 0..20 {
        store.replica(n).meta_set("a", vec![1]).await.unwrap();
    }
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_halts_costs_a_bounded_time_and_is_used_again_when_it_goes_on() {
    let mut store = Store::in_cluster(Postgres::own(&[])).await;
    let (acme, key) = store.account("acme", 1).await;
    let catalog = Catalog::connect(hasty(store.url())).await.unwrap();
    catalog.ping().await.unwrap();
    store.cluster().pause();
    let mut calls = JoinSet::new();
    for number in 0..20 {
        let (catalog, hash) = (catalog.clone(), key.hash());
        calls.spawn(async move {
            let started = Instant::now();
            let refused = if number % 2 == 0 {
                is_unavailable(&catalog.authenticate(hash, Call::List, NOW).await)
            } else {
                let upload = new_upload(acme, &number_key(number), in_ms(60_000));
                is_unavailable(&catalog.begin_upload(upload, NOW).await)
            };
            (refused, started.elapsed())
        });
    }
    for (refused, took) in calls.join_all().await {
        assert!(refused && took < BOUND, "{refused} after {took:?}");
    }
    assert!(is_unavailable(&Catalog::connect(hasty(store.url())).await));
    store.cluster().resume();
    catalog.ping().await.unwrap();
    catalog.meta_set("a", vec![1]).await.unwrap();
    // What was refused was not done behind the caller's back.
    assert_eq!(catalog.counts().await.unwrap().uploads, 0);
}

/// Takes connections and never says a word, as a proxy does whose database is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_never_answers_costs_a_bounded_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://me:secret-word@127.0.0.1:{port}/db?sslmode=prefer");
    let started = Instant::now();
    let refused = Catalog::connect(hasty(&url)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    assert!(started.elapsed() < BOUND);
    drop(listener);
    let gone = Catalog::connect(hasty(&url)).await.unwrap_err();
    assert!(matches!(gone, StoreError::Unavailable { .. }), "{gone:?}");
    for error in [refused, gone] {
        assert!(!format!("{error:?} {error}").contains("secret-word"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_wrong_is_refused_without_saying_the_password() {
    // Of its own, which asks for the password.
    let cluster = Postgres::own(&[]);
    let url = cluster.database();
    for wrong in [
        "postgresql:/me:secret-word@host/db",
        "mysql://me:secret-word@host/db?a=b",
        "postgres://me:secret-word@host/db?sslmode=maybe",
        "postgres://me:secret-word?sec=ret@host:x/db",
        "postgres://me:secret-word@host/db?sslmode=verify-full&sslrootcert=/nowhere.pem",
        &url.replace("postgres:of-a-test@", "postgres:secret-word@"),
        &url.replace("/filegate_test_", "/no_such_"),
    ] {
        let refused = Catalog::connect(hasty(wrong)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unusable(_)), "{wrong}: {refused:?}");
        assert!(!format!("{refused:?} {refused}").contains("secret-word"), "{refused}");
        assert!(!format!("{:?}", hasty(wrong)).contains("secret-word"));
    }
}

/// Uploads for as long as it is told to; what was acknowledged, what was surely not made, and how often
/// nobody could say.
async fn upload_until(
    stop: Arc<AtomicBool>,
    catalog: Catalog,
    acme: filegate_types::AccountId,
    from: u64,
) -> (Vec<FileId>, u64) {
    let (mut kept, mut unsure) = (Vec::new(), 0);
    let mut number = from;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let upload = new_upload(acme, &number_key(number), in_ms(60_000));
        match catalog.begin_upload(upload, NOW).await {
            Ok(begun) => begun.unwrap(),
            Err(StoreError::Unavailable { .. } | StoreError::Uncertain { .. }) => continue,
            Err(other) => panic!("{other:?}"),
        }
        match catalog.commit_upload(acme, file_of(number), NOW).await {
            Ok(CommitOutcome::Committed(file)) => kept.push(file.file_id),
            Err(StoreError::Uncertain { .. }) => unsure += 1,
            // A relaxed row may go with the crash; then the upload is as good as reaped.
            Err(StoreError::Unavailable { .. } | StoreError::LeaseLost) => {}
            other => panic!("{other:?}"),
        }
    }
    (kept, unsure)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_under_load_loses_nothing_that_was_acknowledged() {
    let mut store = Store::in_cluster(Postgres::own(&["fsync=on"])).await;
    let (acme, _) = store.account("acme", 1).await;
    sql(&store, "INSERT INTO prices (call, unit, amount) VALUES ('files.upload', 'call', 1)");
    sql(
        &store,
        "BEGIN; UPDATE accounts SET balance = 1000000;
         INSERT INTO ledger (account_id, at, kind, amount, balance)
         VALUES (1, 0, 'top_up', 1000000, 1000000); COMMIT",
    );
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = JoinSet::new();
    for n in 0..6 {
        let catalog = Catalog::connect(hasty(store.url())).await.unwrap();
        loads.spawn(upload_until(Arc::clone(&stop), catalog, acme, (n + 1) << 32));
    }
    let files = |store: &Store| {
        query(store.url(), "SELECT count(*) FROM files").map(|rows| rows[0][0].clone().unwrap())
    };
    for round in 0..4 {
        let before = files(&store).unwrap();
        let moved = || (files(&store).unwrap() != before).then_some(());
        filegate_testkit::server::eventually("uploads go on", moved);
        if round % 2 == 0 {
            store.cluster().kill();
        } else {
            store.cluster().stop();
        }
        store.cluster().start();
    }
    stop.store(true, Ordering::Relaxed);
    let ended = loads.join_all().await;
    let kept: Vec<FileId> = ended.iter().flat_map(|(kept, _)| kept.clone()).collect();
    let unsure: u64 = ended.iter().map(|(_, unsure)| unsure).sum();
    let there: BTreeSet<i64> = store
        .rows("SELECT file_id FROM files")
        .into_iter()
        .map(|row| row[0].as_ref().unwrap().parse().unwrap())
        .collect();
    let lost = kept.iter().filter(|id| !there.contains(&id.get())).count();
    assert_eq!(lost, 0, "of {}", kept.len());
    assert!(there.len() as u64 <= kept.len() as u64 + unsure, "{} {}", there.len(), kept.len());
    store.catalog.reap_uploads(UnixMillis(i64::MAX), NOW, 100_000).await.unwrap();
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
    let balance = store.rows("SELECT balance, held FROM accounts");
    let expected = (1_000_000 - there.len()).to_string();
    assert_eq!(balance, [[Some(expected), Some("0".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_while_nobody_used_them_cost_no_error() {
    let mut store = Store::in_cluster(Postgres::own(&[])).await;
    let (acme, _) = store.account("acme", 1).await;
    store.upload(acme, 1, b"x").await;
    store.cluster().stop();
    store.cluster().start();
    store.upload(acme, 2, b"y").await;
    assert_eq!(store.beside.counts().await.unwrap().files, 2);
    // One that an administrator ends in the middle of nothing, too.
    query(
        store.url(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .unwrap();
    store.upload(acme, 3, b"z").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_connection_is_taken_the_wait_has_an_end() {
    let store = Store::on_postgres().await;
    let few = PostgresOptions {
        connections: 1,
        wait: Duration::from_millis(50),
        statement_timeout: Duration::from_secs(2),
        ..options(store.url())
    };
    let catalog = Catalog::connect(few).await.unwrap();
    store.account("acme", 1).await;
    // Somebody holds the row that the first call waits for, until that gives up.
    let url = store.url().to_owned();
    let holder = std::thread::spawn(move || {
        query(&url, "BEGIN; SELECT 1 FROM accounts FOR UPDATE; SELECT pg_sleep(3); COMMIT")
    });
    let sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'
                    AND datname = current_database()";
    filegate_testkit::server::eventually("the row is held", || {
        (!store.rows(sleeping).is_empty()).then_some(())
    });
    let commit = catalog.commit_upload(filegate_types::AccountId(1), file_of(1), NOW);
    let (locked, queued) = tokio::join!(commit, async {
        tokio::task::yield_now().await;
        catalog.ping().await
    });
    assert!(is_unavailable(&locked), "{locked:?}");
    assert!(is_unavailable(&queued), "{queued:?}");
    catalog.ping().await.unwrap();
    holder.join().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_as_the_url_says() {
    let cluster = Postgres::own_with_tls();
    let url = cluster.database();
    let roots = cluster.certificate();
    let named = url.replace("127.0.0.1", "localhost");
    let at = |url: &str, parameters: &str| PostgresFacts::of(hasty(&format!("{url}?{parameters}")));
    let encrypted =
        async |url: &str, parameters: &str| at(url, parameters).await.unwrap().encrypted;
    assert!(!encrypted(&url, "sslmode=disable").await);
    assert!(encrypted(&url, "").await);
    assert!(encrypted(&url, "sslmode=require").await);
    let trusted = format!("sslmode=verify-full&sslrootcert={}", roots.display());
    assert!(encrypted(&url, &trusted).await);
    assert!(encrypted(&named, &trusted).await);
    // Nobody on this machine vouches for it.
    let stranger = at(&url, "sslmode=verify-full").await.unwrap_err();
    assert!(is_unavailable::<()>(&Err(stranger)));
    // What is asked for is not given up where the server has none.
    let plain = Postgres::own(&[]);
    assert!(!encrypted(plain.url(), "sslmode=prefer").await);
    let refused = at(plain.url(), "sslmode=require").await.unwrap_err();
    assert!(is_unavailable::<()>(&Err(refused)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_says_what_a_doctor_asks() {
    let store = Store::on_postgres().await;
    let facts = store.catalog.postgres_facts().await.unwrap().unwrap();
    assert!(facts.version_number >= 140_000 && !facts.version.is_empty());
    assert!(facts.connections_max > facts.connections && facts.connections > 0);
    assert!(!facts.read_only && !facts.encrypted);
    assert_eq!((facts.schema, facts.schema_known), (Some(2), 2));
    assert!(facts.clock.0 > 1_600_000_000_000);
    assert_eq!(store.catalog.integrity().await.unwrap(), "ok");
    assert!(store.catalog.is_shared() && store.catalog.path().is_none());
    let cluster = Postgres::new();
    let empty = PostgresFacts::of(options(&cluster.database())).await.unwrap();
    assert_eq!(empty.schema, None);
}

/// Between a catalog and its database: forwards until the client sends COMMIT, and then cuts the connection,
/// before the COMMIT has passed or after the database has answered it.
async fn cutting_proxy(port: u16, armed: Arc<AtomicBool>, passes: bool) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let armed = Arc::clone(&armed);
            connections.spawn(async move {
                let database = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_database, mut to_database) = database.into_split();
                let cut = Arc::new(AtomicBool::new(false));
                let cut_answers = Arc::clone(&cut);
                let answers = async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(n @ 1..) = from_database.read(&mut buffer).await {
                        if cut_answers.load(Ordering::SeqCst) {
                            return;
                        }
                        to_client.write_all(&buffer[..n]).await.unwrap();
                    }
                };
                let questions = async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                        let piece = &buffer[..n];
                        let commits = piece.windows(6).any(|word| word == b"COMMIT");
                        if commits && armed.swap(false, Ordering::SeqCst) {
                            cut.store(true, Ordering::SeqCst);
                            if !passes {
                                return;
                            }
                        }
                        to_database.write_all(piece).await.unwrap();
                    }
                };
                tokio::select! { () = answers => {} () = questions => {} }
            });
        }
    });
    (own, accepting)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_not_answered_is_told_as_uncertain_and_either_made_or_not() {
    let store = Store::on_postgres().await;
    let (acme, _) = store.account("acme", 1).await;
    let (front, rest) = store.url().split_once("@127.0.0.1:").unwrap();
    let (port, database) = rest.split_once('/').unwrap();
    for (number, passes) in [(1, false), (2, true)] {
        let armed = Arc::new(AtomicBool::new(false));
        let (proxy, _until_then) =
            cutting_proxy(port.parse().unwrap(), Arc::clone(&armed), passes).await;
        let url = format!("{front}@127.0.0.1:{proxy}/{database}?sslmode=disable");
        let catalog = Catalog::connect(hasty(&url)).await.unwrap();
        let upload = new_upload(acme, &number_key(number), in_ms(60_000));
        catalog.begin_upload(upload, NOW).await.unwrap().unwrap();
        armed.store(true, Ordering::SeqCst);
        let cut = catalog.commit_upload(acme, file_of(number), NOW).await;
        assert!(matches!(cut, Err(StoreError::Uncertain { .. })), "{cut:?}");
        // The next call has a connection of its own.
        catalog.ping().await.unwrap();
        store.settled().await;
        let made = store.rows("SELECT count(*) FROM files")[0][0].clone();
        assert_eq!(made.as_deref(), Some(if passes { "1" } else { "0" }));
    }
    // What was not made is the reaper's, with its bytes.
    assert_eq!(store.catalog.reap_uploads(UnixMillis(i64::MAX), NOW, 9).await.unwrap(), 1);
    let jobs = store.catalog.claim_jobs(JobKind::LOCAL, NOW, 9, LEASE).await.unwrap();
    assert_eq!(jobs[0].target, number_key(1).as_str());
    assert_eq!(store.catalog.check_books().await.unwrap(), []);
}

/// An account that the planner takes for a large one and that has no files must not walk over those of
/// all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_walks_over_the_files_of_its_account_alone() {
    let store = Store::on_postgres().await;
    let (acme, _) = store.account("acme", 1).await;
    let (other, _) = store.account("other", 2).await;
    assert_eq!((acme.0, other.0), (1, 2));
    let insert = "INSERT INTO files (file_id, account_id, purpose, filename, bytes, media_type,
                                     blob_key, created_at, sha256, media, block_sums)";
    let rest = "decode(repeat('07', 32), 'hex'), '{}', decode('00', 'hex')";
    let key = number_key(1);
    sql(
        &store,
        &format!(
            "{insert} SELECT i, 1, 'voice_clone', 'f', 5, 't', 'k' || i, 0, {rest}
                      FROM generate_series(1, 30000) i;
             {insert} SELECT 30001, 2, 'retrieval', 'f', 5, 't', '{key}', 0, {rest};
             ANALYZE"
        ),
    );
    let listed = |purposes: Vec<filegate_types::PurposeName>| {
        let catalog = store.catalog.clone();
        async move { catalog.list(other, purposes, None, 100, NOW).await.unwrap().len() }
    };
    let both = || vec!["voice_clone".parse().unwrap(), "voice_clone_input".parse().unwrap()];
    // Often enough for a plan that does not look at the parameters.
    for _ in 0..20 {
        assert_eq!(listed(vec![]).await, 1);
        assert_eq!(listed(both()).await, 0);
        assert_eq!(listed(both()[..1].to_vec()).await, 0);
    }
    // What the server has counted comes with a delay of up to a second, in the end whole.
    let seen = "SELECT idx_scan, idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = '";
    let of = |index: &str| {
        let row = store.rows(&format!("{seen}{index}'")).remove(0);
        row.into_iter().map(|n| n.unwrap().parse::<u64>().unwrap()).collect::<Vec<_>>()
    };
    filegate_testkit::server::eventually("the scans are counted", || {
        (of("files_by_account")[0] >= 20 && of("files_by_purpose")[0] >= 60).then_some(())
    });
    assert!(of("files_by_account")[1] <= 40 && of("files_by_purpose")[1] <= 40);
    assert_eq!(of("files_pkey")[1], 0);
}

/// Each costs what the network costs: they are counted so that nobody adds one unawares.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_the_database_six_times_and_a_retrieve_twice() {
    let store = Store::on_postgres().await;
    let (acme, _) = store.account("acme", 1).await;
    let key = PlainKey::from_random([1; 32]);
    // One connection, with every statement prepared.
    let catalog = Catalog::connect(PostgresOptions { connections: 1, ..options(store.url()) });
    let catalog = catalog.await.unwrap();
    let upload = async |number| {
        let begun = new_upload(acme, &number_key(number), in_ms(60_000));
        catalog.authenticate(key.hash(), Call::Upload, NOW).await.unwrap().unwrap();
        catalog.begin_upload(begun, NOW).await.unwrap().unwrap();
        match catalog.commit_upload(acme, file_of(number), NOW).await.unwrap() {
            CommitOutcome::Committed(file) => file,
            other => panic!("{other:?}"),
        }
    };
    let retrieve = async |file: FileId| {
        catalog.authenticate(key.hash(), Call::Retrieve, NOW).await.unwrap().unwrap();
        catalog.file(acme, file, NOW).await.unwrap().unwrap();
    };
    let warm = upload(1).await;
    retrieve(warm.file_id).await;
    let counted = |before: u64| catalog.round_trips() - before;
    let before = catalog.round_trips();
    let file = upload(2).await;
    assert_eq!(counted(before), 6);
    let before = catalog.round_trips();
    retrieve(file.file_id).await;
    assert_eq!(counted(before), 2);
    sql(&store, "INSERT INTO prices (call, unit, amount) VALUES ('files.upload', 'call', 1)");
    sql(
        &store,
        "BEGIN; UPDATE accounts SET balance = 100;
         INSERT INTO ledger (account_id, at, kind, amount, balance)
         VALUES (1, 0, 'top_up', 100, 100); COMMIT",
    );
    upload(3).await;
    let before = catalog.round_trips();
    upload(4).await;
    assert_eq!(counted(before), 9);
    let before = catalog.round_trips();
    let deleted = catalog.delete_file(acme, filegate_types::KeyId(1), file.file_id, vec![], NOW);
    deleted.await.unwrap();
    assert!(counted(before) > 4, "statements are prepared the first time");
    let before = catalog.round_trips();
    let deleted = catalog.delete_file(acme, filegate_types::KeyId(1), warm.file_id, vec![], NOW);
    deleted.await.unwrap();
    assert_eq!(counted(before), 4);
    assert_eq!(catalog.check_books().await.unwrap(), []);
}
