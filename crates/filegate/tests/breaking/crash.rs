//! kill -9, at each step of an upload and at any moment.
//!
//! strace delivers SIGKILL as the process enters the n-th call of a kind, so every step between two
//! calls is hit on the real binary: creating and writing `tmp/KEY` (openat, write), syncing it
//! (fdatasync), landing (renameat2), syncing its directory and the catalog's log (fsync), writing that
//! log (pwrite64), answering (sendto, writev).

use std::thread;

use filegate_testkit::server::TestServer;

use crate::support::{Ledger, QUICK, Trace, at_once, pause, setup};

const WRITERS: usize = 4;
/// Calls a writer makes at most, should the moment never come.
const CALLS_MAX: u64 = 200;

#[test]
fn at_each_step() {
    let scratch = tempfile::tempdir().unwrap();
    for (call, moments) in [
        ("openat", &[2, 7, 23][..]),
        ("write", &[2, 9, 30]),
        ("fdatasync", &[1, 2, 6]),
        ("renameat2", &[1, 3, 8]),
        ("fsync", &[1, 2, 3, 6, 11]),
        ("pwrite64", &[3, 20, 47]),
        ("sendto", &[1, 4]),
        ("writev", &[1, 4]),
        ("unlink", &[1, 2]),
    ] {
        for moment in moments {
            let server = setup().config(QUICK).start();
            let inject = format!("inject={call}:signal=SIGKILL:when={moment}");
            let filter = format!("trace={call}");
            let log = scratch.path().join("strace");
            let trace = Trace::attach(&server, &["-e", &filter, "-e", &inject], &log);
            let ledger = Ledger::default();
            at_once(WRITERS, |_| ledger.work(&server.address, &server.key, CALLS_MAX));
            trace.detach();
            check_after_restart(server, &ledger, &format!("{call} {moment}"));
        }
    }
}

#[test]
fn at_any_moment() {
    let rounds: u64 = std::env::var("FILEGATE_TEST_KILLS").map_or(12, |n| n.parse().unwrap());
    let mut acknowledged = 0;
    for round in 0..rounds {
        let mut server = setup().config(QUICK).start();
        let ledger = Ledger::default();
        let (address, key) = (server.address.clone(), server.key.clone());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| ledger.work(&address, &key, u64::MAX));
            }
            pause(50 + (round * 137) % 700);
            server.kill();
        });
        acknowledged += ledger.stored.lock().unwrap().len() + ledger.deleted.lock().unwrap().len();
        check_after_restart(server, &ledger, &format!("round {round}"));
    }
    println!("{rounds} kills, {acknowledged} acknowledged uploads, none lost");
    assert!(acknowledged > 0);
}

fn check_after_restart(mut server: TestServer, ledger: &Ledger, when: &str) {
    server.kill();
    let mut again = setup().config(QUICK).start_on(&server.data_dir);
    again.key.clone_from(&server.key);
    println!("killed at {when}: {} acknowledged", ledger.stored.lock().unwrap().len());
    ledger.check(&again);
}
