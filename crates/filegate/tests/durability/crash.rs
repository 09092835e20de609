//! kill -9 at every step of an upload, and at any moment under load.
//!
//! After each kill the directory is served again, and [`Ledger::check`] says what must be true.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::http::Connection;
use filegate_testkit::server::{TestServer, eventually};
use filegate_testkit::trace::{Call, Trace};

use crate::kit::{self, Home, LARGE, Ledger, SMALL};

/// A step of an upload, by the call that takes it.
struct Step {
    name: &'static str,
    call: &'static str,
    is: fn(&Call) -> bool,
    /// The process is killed at the first such call of a thread, at the second, … up to this one.
    up_to: u32,
}

/// What every upload does.
const COMMON: [Step; 2] = [
    Step {
        name: "write the log",
        call: "pwrite64",
        is: |c| c.text.contains("catalog.db-wal"),
        up_to: 16,
    },
    Step { name: "answer", call: "writev", is: |c| c.text.contains("HTTP/1.1 200"), up_to: 4 },
];

/// What is in a pack stands for a row.
const OF_SMALL: [Step; 1] =
    [Step { name: "append", call: "pwritev", is: |c| c.text.contains("/data/packs/"), up_to: 6 }];

/// A server makes its pack once, with its first small upload.
const OF_PACKS: [Step; 3] = [
    Step {
        name: "create the pack",
        call: "openat",
        is: |c| c.text.contains("/data/packs/") && c.text.contains("O_EXCL"),
        up_to: 1,
    },
    Step {
        name: "sync the pack and its name",
        call: "fsync",
        is: |c| c.text.contains("/data/packs"),
        up_to: 2,
    },
    Step {
        name: "make room",
        call: "fallocate",
        is: |c| c.text.contains("/data/packs/"),
        up_to: 1,
    },
];

const OF_SPOOLED: [Step; 5] = [
    Step {
        name: "create",
        call: "openat",
        is: |c| c.text.contains("/tmp/") && c.text.contains("O_EXCL"),
        up_to: 3,
    },
    Step { name: "sync", call: "fdatasync", is: |c| c.text.contains("/data/tmp/"), up_to: 3 },
    Step { name: "rename", call: "renameat2", is: |c| c.text.contains("/data/tmp/"), up_to: 3 },
    Step {
        name: "sync the directory",
        call: "fsync",
        is: |c| c.text.contains("/data/blobs/"),
        up_to: 6,
    },
    // Its syncs and those of files are the same call.
    Step {
        name: "sync the log",
        call: "fdatasync",
        is: |c| c.text.contains("catalog.db-wal"),
        up_to: 6,
    },
];

/// Uploads on four connections until the server dies.
fn load(server: &TestServer, ledger: &Ledger, sizes: &[usize]) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| ledger.upload_on(&server.address, &server.key, sizes));
        }
    });
}

/// Kills a server at the `nth` call of a thread; says whether it died in the step.
fn killed_at(home: &Home, ledger: &Ledger, step: &Step, nth: u32, sizes: &[usize]) -> bool {
    let mut server = home.start();
    // The first upload has the log begun anew, which takes calls of its own, and makes the pack.
    if !OF_PACKS.iter().any(|of_packs| of_packs.name == step.name) {
        ledger.upload_once(&server, SMALL).file_id();
    }
    let flags =
        [format!("trace={}", step.call), format!("inject={}:signal=SIGKILL:when={nth}", step.call)];
    let trace = Trace::attach(server.pid(), &["-e", &flags[0], "-e", &flags[1]]);
    load(&server, ledger, sizes);
    let status = server.wait();
    assert!(!status.success(), "{}: {status}", step.name);
    cut_off(&trace.wait()).any(step.is)
}

/// The calls that threads were in when the process was killed.
fn cut_off(calls: &[Call]) -> impl Iterator<Item = &Call> {
    let end = calls.iter().map(|c| c.ended).max();
    calls.iter().filter(move |c| Some(c.ended) == end)
}

fn a_kill_at_any_step_loses_nothing_and_leaves_nothing(sizes: &[usize], own: &[Step]) {
    let home = Home::new();
    let ledger = Ledger::default();
    for step in own.iter().chain(&COMMON) {
        let mut hits = 0;
        // Every log write of a commit is worth a kill; elsewhere two are enough.
        let (enough, stride) = if step.call == "pwrite64" { (5, 3) } else { (2, 1) };
        // Which thread comes to the call first is chance: a miss is tried again.
        let nths = (1..=step.up_to).step_by(stride);
        for nth in nths.cycle().take(24) {
            hits += u32::from(killed_at(&home, &ledger, step, nth, sizes));
            let mut server = home.start();
            ledger.check(&server);
            // In order, so that the next start has nothing to do that would count as a call.
            assert!(server.terminate().success());
            if hits == enough {
                break;
            }
        }
        assert!(hits > 0, "no kill hit the step {:?}", step.name);
        kit::fsck_clean(&home);
    }
    let server = home.start();
    ledger.forget_checks();
    ledger.check(&server);
    eprintln!("{} uploads were stored", ledger.acknowledged());
}

#[test]
fn a_kill_at_any_step_of_small_uploads() {
    a_kill_at_any_step_loses_nothing_and_leaves_nothing(&[SMALL], &OF_SMALL);
}

#[test]
fn a_kill_at_any_step_of_spooled_uploads() {
    a_kill_at_any_step_loses_nothing_and_leaves_nothing(&[LARGE], &OF_SPOOLED);
}

#[test]
fn a_kill_while_a_pack_is_made() {
    a_kill_at_any_step_loses_nothing_and_leaves_nothing(&[SMALL], &OF_PACKS);
}

/// At a write of a file that is being received, the first after it has a piece on disk or a later one.
#[test]
fn a_kill_in_the_middle_of_a_file() {
    let home = Home::new();
    let ledger = Ledger::default();
    for nth in 1..=3 {
        let mut server = home.start();
        ledger.upload_once(&server, SMALL).file_id();
        kit::settled(&server);
        let request = kit::upload_of(&server.address, &server.key, 99_990 + nth, 2 * LARGE).bytes();
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&request[..300_000]).unwrap();
        let (path, _) = eventually("a first piece is on disk", || {
            server.stored("tmp").into_iter().find(|(_, len)| *len > 0)
        });
        let path = path.canonicalize().unwrap();
        let inject = format!("inject=pwrite64:signal=SIGKILL:when={nth}");
        let flags = ["-P", path.to_str().unwrap(), "-e", "trace=pwrite64", "-e", &inject];
        let trace = Trace::attach(server.pid(), &flags);
        // The pieces of a file may be written by different threads, each of which is counted alone: it may be stored.
        let _cut = connection.write(&request[300_000..]);
        thread::sleep(Duration::from_millis(100));
        server.signal("KILL");
        assert!(!server.wait().success());
        let calls = trace.wait();
        assert!(nth > 1 || cut_off(&calls).any(|c| c.name == "pwrite64"), "{calls:#?}");
        ledger.check(&home.start());
    }
    kit::fsck_clean(&home);
}

/// A power cut takes of the log what was not synced: here all since the first upload of a pack, be it whole pages or a part
/// of one.
#[test]
fn a_power_cut_loses_no_small_upload() {
    let home = Home::new();
    let ledger = Ledger::default();
    let log = home.data.join("catalog.db-wal");
    for round in 0..8 {
        // Nothing is synced for another's sake.
        let quiet = kit::setup().config("[jobs]\ninterval = \"1h\"");
        let mut server = home.start_with(&quiet);
        ledger.upload_once(&server, SMALL).file_id();
        let trace = Trace::attach(server.pid(), &["-e", "trace=fsync,fdatasync"]);
        let synced = std::fs::metadata(&log).unwrap().len();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = Connection::open(&server.address).unwrap();
                    for len in [SMALL, 20_000, 1, 100_000, SMALL] {
                        let (address, key) = (&server.address, &server.key);
                        ledger.upload(&mut connection, address, key, len).unwrap().file_id();
                    }
                });
            }
        });
        server.kill();
        let calls = trace.wait();
        let written = std::fs::metadata(&log).unwrap().len();
        let syncs: Vec<_> = calls.iter().filter(|c| c.text.contains("catalog.db")).collect();
        assert!(syncs.is_empty() && written > synced, "{synced} {written} {syncs:#?}");
        let kept = synced + (written - synced) * round / 8;
        let file = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
        file.set_len(kept).unwrap();
        // Which index of the log there was is no matter after a power cut.
        std::fs::remove_file(home.data.join("catalog.db-shm")).unwrap();
        if round % 2 == 1 {
            // A command that comes before the server sees all of it, too.
            kit::fsck_clean(&home);
        }
        let mut server = home.start();
        ledger.check(&server);
        assert!(server.terminate().success());
    }
    kit::fsck_clean(&home);
    assert_eq!(ledger.acknowledged(), 8 * 21);
}

#[test]
fn a_kill_at_any_step_of_deletes() {
    let home = Home::new();
    let ledger = Ledger::default();
    for (call, path, up_to) in [
        ("pwrite64", "catalog.db-wal", 12),
        ("fdatasync", "catalog.db-wal", 3),
        ("writev", "HTTP/1.1 200", 3),
        ("unlink", "/data/blobs/", 3),
        ("fallocate", "/data/packs/", 3),
    ] {
        let mut hits = 0;
        for nth in 1..=up_to {
            let mut server = home.start();
            for len in [SMALL, SMALL, LARGE, SMALL, LARGE, SMALL, SMALL] {
                ledger.upload_once(&server, len).file_id();
            }
            kit::settled(&server);
            let flags =
                [format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={nth}")];
            let trace = Trace::attach(server.pid(), &["-e", &flags[0], "-e", &flags[1]]);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| ledger.delete_on(&server.address, &server.key, 0));
                }
            });
            assert!(!server.wait().success());
            hits += usize::from(cut_off(&trace.wait()).any(|c| c.text.contains(path)));
            let mut server = home.start();
            ledger.check(&server);
            assert!(server.terminate().success());
        }
        assert!(hits > 0, "no kill hit {call} of {path}");
    }
    kit::fsck_clean(&home);
}

/// Kills while a start tidies up what the last kill left.
#[test]
fn a_kill_of_a_start_that_tidies_up() {
    let home = Home::new();
    let ledger = Ledger::default();
    for after_ms in [0, 20, 40, 80, 120, 160] {
        let mut server = home.start();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ledger.upload_on(&server.address, &server.key, &[LARGE, SMALL]));
            }
            thread::sleep(Duration::from_millis(150));
            server.signal("KILL");
        });
        server.kill();
        let mut start = std::process::Command::new(env!("CARGO_BIN_EXE_filegate"));
        start.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        start.arg("--data-dir").arg(&home.data).stderr(std::process::Stdio::null());
        let mut start = start.spawn().unwrap();
        thread::sleep(Duration::from_millis(after_ms));
        start.kill().unwrap();
        start.wait().unwrap();
        let server = home.start();
        ledger.check(&server);
    }
    kit::fsck_clean(&home);
}

/// xorshift64*: a seed gives the same run of pauses.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % end
    }
}

fn number_from(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn a_kill_at_any_moment_under_load() {
    let rounds = number_from("FILEGATE_TEST_KILLS").unwrap_or(25);
    let fresh = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = number_from("FILEGATE_TEST_SEED").unwrap_or_else(fresh);
    eprintln!("FILEGATE_TEST_SEED={seed} FILEGATE_TEST_KILLS={rounds}");
    let mut random = Random(seed | 1);
    let home = Home::new();
    let ledger = Ledger::default();
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        let mut server = home.start();
        let pause = Duration::from_millis(50 + random.below(350));
        thread::scope(|scope| {
            for client in 0..8usize {
                let (ledger, server) = (&ledger, &server);
                let sizes = [[SMALL, 20_000], [LARGE, SMALL]][client % 2];
                scope.spawn(move || ledger.upload_on(&server.address, &server.key, &sizes));
            }
            for _ in 0..2 {
                scope.spawn(|| ledger.delete_on(&server.address, &server.key, 20));
            }
            thread::sleep(pause);
            server.signal("KILL");
        });
        server.kill();
        let started = Instant::now();
        let server = home.start();
        slowest = slowest.max(started.elapsed());
        ledger.check(&server);
    }
    kit::fsck_clean(&home);
    ledger.forget_checks();
    ledger.check(&home.start());
    eprintln!(
        "{rounds} kills, {} uploads stored, slowest restart {slowest:?}",
        ledger.acknowledged()
    );
    assert!(ledger.acknowledged() > rounds as usize, "too little was done to show anything");
}
