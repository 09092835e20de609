//! Everything breaks, again and again, while clients upload.
//!
//! `TEST_UPLOADS` says how many (10,000 in full), `TEST_SEED` repeats what was found.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use filegate_testkit::proxy::{Answers, Faults, Resets};
use filegate_testkit::random::Random;
use filegate_testkit::s3::{Fault, When};

use crate::fleet::Fleet;
use crate::uploads::{Uploads, listed};

/// Of the ordinary run.
const UPLOADS: u64 = 300;
const CLIENTS: usize = 16;
const REPLICAS: usize = 3;

/// What an upload costs: the call, and each MiB.
const PRICES: &str = "INSERT INTO prices (call, purpose, unit, amount)
    VALUES ('files.upload', '', 'call', 7), ('files.upload', '', 'mib', 1000);
    UPDATE accounts SET balance = 1000000000000;
    INSERT INTO ledger (account_id, at, kind, amount, balance)
    SELECT account_id, 0, 'top_up', balance, balance FROM accounts";

/// What is done to the fleet, in an order that the seed decides.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    KillReplica,
    KillTwoReplicas,
    RestartReplica,
    RestartDatabase,
    CutDatabase,
    StallDatabase,
    RestartRedis,
    PauseRedis,
    RefuseS3,
    OverloadS3,
    LoseAnswersOfS3,
    ResetS3,
    SlowS3,
    StallS3,
}

const ALL: [Trouble; 14] = [
    Trouble::KillReplica,
    Trouble::KillTwoReplicas,
    Trouble::RestartReplica,
    Trouble::RestartDatabase,
    Trouble::CutDatabase,
    Trouble::StallDatabase,
    Trouble::RestartRedis,
    Trouble::PauseRedis,
    Trouble::RefuseS3,
    Trouble::OverloadS3,
    Trouble::LoseAnswersOfS3,
    Trouble::ResetS3,
    Trouble::SlowS3,
    Trouble::StallS3,
];

#[expect(clippy::print_stderr, reason = "shown when the test fails")]
fn setting<T: FromStr<Err: Debug> + Copy + std::fmt::Display>(name: &str, or: T) -> T {
    let value = std::env::var(name).map_or(or, |text| text.parse().unwrap());
    eprintln!("{name}={value}");
    value
}

#[expect(clippy::print_stderr, reason = "shown when the test fails")]
fn make(trouble: Trouble, fleet: &Fleet, random: &mut Random) {
    let a_while = Duration::from_millis(100 + random.below(900));
    let at = random.below(REPLICAS as u64) as usize;
    eprintln!("{trouble:?}, replica {at}, {a_while:?}");
    let faults = |faults: Faults| {
        fleet.to_s3.set(faults);
        // Connections that were there before have a fate already.
        fleet.to_s3.drop_all();
        thread::sleep(a_while * 2);
        fleet.to_s3.pass();
    };
    match trouble {
        Trouble::KillReplica => {
            fleet.kill(at);
            thread::sleep(a_while);
            fleet.start_again(at);
        }
        Trouble::KillTwoReplicas => {
            let other = (at + 1) % REPLICAS;
            fleet.kill(at);
            fleet.kill(other);
            thread::sleep(a_while);
            fleet.start_again(other);
            fleet.start_again(at);
        }
        Trouble::RestartReplica => {
            fleet.replicas[at].lock().unwrap().terminate();
            fleet.start_again(at);
        }
        Trouble::RestartDatabase => {
            let mut postgres = fleet.postgres.lock().unwrap();
            if random.chance(500) {
                postgres.stop();
            } else {
                postgres.kill();
            }
            thread::sleep(a_while);
            postgres.start();
        }
        Trouble::CutDatabase => fleet.to_database.drop_all(),
        Trouble::StallDatabase => {
            fleet.to_database.stall();
            thread::sleep(a_while * 2);
            fleet.to_database.pass();
        }
        Trouble::RestartRedis => {
            let mut redis = fleet.redis.lock().unwrap();
            redis.stop();
            thread::sleep(a_while);
            redis.start_again();
        }
        Trouble::PauseRedis => {
            let mut redis = fleet.redis.lock().unwrap();
            redis.pause();
            thread::sleep(a_while);
            redis.resume();
        }
        Trouble::RefuseS3 => {
            fleet.to_s3.away();
            thread::sleep(a_while);
            fleet.to_s3.pass();
        }
        Trouble::OverloadS3 => {
            // Beside requests on connections that there are, some new connections.
            fleet.s3.fail(When::Every(2), Fault::SlowDown);
            faults(Faults { answers: Some(Answers::slow_down(300)), ..Faults::default() });
            fleet.s3.heal();
        }
        Trouble::LoseAnswersOfS3 => {
            fleet.s3.fail(When::Every(3), Fault::LoseAnswer);
            thread::sleep(a_while * 2);
            fleet.s3.heal();
        }
        Trouble::ResetS3 => {
            let resets = Some(Resets { per_mille: 700, within: 50_000 });
            faults(Faults { resets, ..Faults::default() });
        }
        Trouble::SlowS3 => {
            let delay = Duration::from_millis(5);
            faults(Faults { delay, bytes_per_second: Some(200_000), ..Faults::default() });
        }
        Trouble::StallS3 => faults(Faults { stall: true, ..Faults::default() }),
    }
}

/// Trouble after trouble, each kind in each round, until told to end.
fn trouble(fleet: &Fleet, random: &mut Random, rounds: &AtomicUsize, end: &AtomicBool) {
    let mut order = ALL;
    while !end.load(Ordering::Relaxed) {
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at as u64 + 1) as usize);
        }
        for trouble in order {
            thread::sleep(Duration::from_millis(random.below(300)));
            make(trouble, fleet, random);
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a round at its end, however that comes: clients do not wait for trouble that is over.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_breaks() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = setting("TEST_SEED", seed);
    let uploads = setting("TEST_UPLOADS", UPLOADS);
    let fleet = Fleet::start(REPLICAS, seed);
    fleet.look(|replica| replica.sql(PRICES));
    let (clients, rounds, end) = (Uploads::default(), AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (fleet, clients, rounds, end) = (&fleet, &clients, &rounds, &end);
        let breaking = scope.spawn(move || {
            let _if_it_fails = Counted(rounds);
            trouble(fleet, &mut Random::new(seed), rounds, end);
        });
        // So many at least, and until each kind of trouble was there.
        let more = move |number| number < uploads || rounds.load(Ordering::Relaxed) == 0;
        let workers: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(move || clients.run(fleet, more))).collect();
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        end.store(true, Ordering::Relaxed);
        breaking.join().unwrap();
        for result in results {
            result.unwrap();
        }
    });
    all_is_well(&fleet, &clients);
}

#[expect(clippy::print_stderr, reason = "says what was tested")]
fn all_is_well(fleet: &Fleet, clients: &Uploads) {
    fleet.wait_until_ready();
    let stored = clients.stored.lock().unwrap().clone();
    eprintln!(
        "{} uploads acknowledged, {} requests repeated; S3: {} connections, {} broken off, {} answered 503",
        stored.len(),
        clients.repeated.load(Ordering::Relaxed),
        fleet.to_s3.accepted(),
        fleet.to_s3.reset(),
        fleet.to_s3.answered()
    );
    let mut ids: Vec<i64> = stored.values().copied().collect();
    ids.sort_unstable();
    for at in 0..REPLICAS {
        assert!(listed(fleet, at) == ids, "replica {at} does not list what was acknowledged");
    }
    clients.check_all(fleet);
    fleet.nothing_left_over(ids.len());
    let count = |query: &str| fleet.look(|replica| replica.value::<usize>(query));
    let charges = "FROM ledger WHERE call = 'files.upload'";
    assert_eq!(count(&format!("SELECT count(*) {charges}")), ids.len());
    assert_eq!(count(&format!("SELECT count(DISTINCT file_id) {charges}")), ids.len());
    fleet.fsck_clean();
    for replica in &fleet.replicas {
        let log = replica.lock().unwrap().log();
        assert!(!log.contains("panicked"), "{log}");
    }
}
