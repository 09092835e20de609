//! Upstream accounts fail, lie and die while clients use their files: every id goes on working, on whatever account is
//! left, and nobody else's ever does.
//!
//! `TEST_FILES` says how many (2,000 in full), `TEST_SEED` repeats what was found.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::http::{Reply, Request};
use filegate_testkit::random::Random;
use filegate_testkit::server::TestServer;
use serde_json::{Value, json};

use crate::emulated::Emulated;
use crate::kit::{operator, setup};

/// Of the ordinary run.
const FILES: usize = 150;
const ACCOUNTS: usize = 5;
const TENANTS: usize = 3;
const CLIENTS: usize = 8;
/// The price of a call in micro-units.
const PRICE: i64 = 7;
const PATH: &str = "/v1/t2a_async_v2";
/// What a client may be told while accounts fail: all of them say that the call may be tried again.
const FOR_NOW: [i64; 4] = [1000, 1001, 1002, 1013];

#[expect(clippy::print_stderr, reason = "shown when the test fails")]
fn setting<T: FromStr<Err: Debug> + Copy + Display>(name: &str, or: T) -> T {
    let value = std::env::var(name).map_or(or, |text| text.parse().unwrap());
    eprintln!("{name}={value}");
    value
}

struct File {
    id: i64,
    tenant: usize,
    sha256: String,
}

struct World {
    server: TestServer,
    upstream: Emulated,
    keys: Vec<String>,
    files: Vec<File>,
    /// Calls that were answered with success, by tenant.
    done: [AtomicUsize; TENANTS],
    /// What was answered besides, and how often.
    told: Mutex<BTreeMap<i64, usize>>,
    over: AtomicBool,
}

impl World {
    fn start(files: usize) -> Self {
        let upstream = Emulated::start(
            ACCOUNTS,
            &["--task-time", "1h", "--record-bodies", "512", "--seed", "5"],
        );
        let settings = "[relay]\ncool_down = \"1s\"\nbreaker_pause = \"500ms\"\nprobe_interval = \"1s\"\n\
                        retry_percent = 100\nattempts_max = 5\n";
        let server = setup().config(settings).start();
        upstream.add_to(&server);
        let keys: Vec<String> =
            (0..TENANTS).map(|t| server.make_key("chaos", &format!("tenant{t}"))).collect();
        server.sql(
            "UPDATE accounts SET balance = 1000000000000;
             INSERT INTO ledger (account_id, at, kind, amount, balance)
             SELECT account_id, 0, 'top_up', balance, balance FROM accounts;",
        );
        server.sql(&format!(
            "INSERT INTO prices (call, purpose, unit, amount) VALUES ('relay', '{PATH}', 'call', {PRICE})"
        ));
        let files = (0..files)
            .map(|n| {
                let (tenant, text) = (n % TENANTS, format!("Text number {n}."));
                let upload = Request::new(&server.address, "POST", "/v1/files/upload")
                    .bearer(&keys[tenant])
                    .form("t2a_async_input", &format!("text{n}.txt"), text.as_bytes());
                let sha256 = sha256_hex(text.as_bytes());
                File { id: upload.send().file_id(), tenant, sha256 }
            })
            .collect();
        Self {
            server,
            upstream,
            keys,
            files,
            done: Default::default(),
            told: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    fn ask(&self, tenant: usize, file: &Value) -> Reply {
        let body = json!({
            "model": "speech-02-hd",
            "text_file_id": file,
            "voice_setting": {"voice_id": "female-shaonv"},
        });
        let request = Request::new(&self.server.address, "POST", PATH)
            .bearer(&self.keys[tenant])
            .header("Content-Type", "application/json")
            .body(body.to_string());
        let reply = request.send();
        if code(&reply) == 0 {
            self.done[tenant].fetch_add(1, Ordering::SeqCst);
        }
        reply
    }

    /// Uses files until it is told to stop: mostly its own, at times what is not.
    fn client(&self, mut random: Random) {
        while !self.over.load(Ordering::SeqCst) {
            let file = &self.files[random.below(self.files.len() as u64) as usize];
            if random.chance(150) {
                let other = (file.tenant + 1) % TENANTS;
                let stolen = self.ask(other, &json!(file.id));
                assert_eq!(
                    (stolen.code(), stolen.message()),
                    unknown(),
                    "{} of another tenant",
                    file.id
                );
                continue;
            }
            let reply = self.ask(file.tenant, &json!(file.id));
            let code = code(&reply);
            assert!(code == 0 || FOR_NOW.contains(&code), "{}: {}", file.id, reply.text());
            *self.told.lock().unwrap().entry(code).or_default() += 1;
            // The emulator remembers so many calls and no more.
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A file is used until that is answered with success.
    #[track_caller]
    fn works(&self, file: &File) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let reply = self.ask(file.tenant, &json!(file.id));
            let code = code(&reply);
            if code == 0 {
                return;
            }
            assert!(FOR_NOW.contains(&code), "{}: {}", file.id, reply.text());
            assert!(Instant::now() < until, "{} does not work again: {}", file.id, reply.text());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What an answer says. A load balancer's 502 to a call that may have been carried out is passed on as it came, and so
/// is half an answer.
fn code(reply: &Reply) -> i64 {
    let said: Option<Value> = serde_json::from_slice(&reply.body).ok();
    said.map_or(1000, |said| said["base_resp"]["status_code"].as_i64().unwrap())
}

/// What a client is told of an id that is not its own, whether it exists or not.
fn unknown() -> (i64, String) {
    (2013, "invalid params, text_file_id not exist".to_owned())
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    filegate_types::hex(&sha2::Sha256::digest(bytes))
}

/// How an upstream account dies.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// Upstream refuses its key.
    Banned,
    /// It has no money.
    Broke,
    /// An operator takes it away.
    Removed,
    /// An operator switches it off.
    Disabled,
}

fn kill(world: &World, account: &str, death: Death) {
    let change = |path: &str| {
        let reply = operator(&world.server, &format!("/channels/{account}/{path}"), &json!({}));
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    match death {
        Death::Banned => {
            world.upstream.control("/accounts", &json!({"account": account, "banned": true}));
        }
        Death::Broke => {
            world.upstream.control("/accounts", &json!({"account": account, "balance": 0}));
        }
        Death::Removed => change("remove"),
        Death::Disabled => change("disable"),
    }
}

/// Something that passes.
fn trouble(world: &World, random: &mut Random) {
    let account = format!("a{}", 1 + random.below(ACCOUNTS as u64));
    let fault = match random.below(6) {
        0 => json!({"kind": "rate_limited", "account": account, "count": 5}),
        1 => json!({"kind": "http", "status": 502, "account": account, "count": 3}),
        2 => json!({"kind": "lost_answer", "path": PATH, "account": account, "count": 1}),
        3 => json!({"kind": "reset_answer", "path": PATH, "account": account, "count": 1}),
        4 => json!({"kind": "truncated", "path": PATH, "account": account, "count": 1}),
        _ => json!({"kind": "code", "code": 1039, "account": account, "count": 4}),
    };
    world.upstream.control("/faults", &fault);
}

#[test]
fn accounts_die_and_every_id_goes_on_working() {
    let (files, seed) = (setting("TEST_FILES", FILES), setting("TEST_SEED", 11u64));
    let world = World::start(files);
    let mut random = Random::new(seed);
    let mut deaths = [Death::Banned, Death::Broke, Death::Removed, Death::Disabled];
    for at in (1..deaths.len()).rev() {
        deaths.swap(at, random.below(at as u64 + 1) as usize);
    }
    let mut accounts: Vec<String> = (1..=ACCOUNTS).map(|n| format!("a{n}")).collect();
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (world, random) = (&world, Random::new(seed * 1000 + n as u64));
            scope.spawn(move || world.client(random));
        }
        // Long enough for most files to have been on some account before it dies.
        let pause = Duration::from_millis(300 + 3 * files as u64);
        for death in deaths {
            for _ in 0..4 {
                thread::sleep(pause / 4 + Duration::from_millis(random.below(100)));
                trouble(&world, &mut random);
            }
            let account = accounts.remove(random.below(accounts.len() as u64) as usize);
            eprintln!("{account}: {death:?}");
            kill(&world, &account, death);
        }
        thread::sleep(pause);
        world.over.store(true, Ordering::SeqCst);
    });
    let clear = Request::new(world.upstream.address(), "DELETE", "/emulate/faults").send();
    assert_eq!(clear.status, 200);
    eprintln!("left: {accounts:?}; answers by code: {:?}", world.told.lock().unwrap());

    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let world = &world;
            scope.spawn(move || {
                world.files.iter().skip(n).step_by(CLIENTS).for_each(|f| world.works(f));
            });
        }
    });
    nobody_elses_works(&world, &mut random);
    uploads_are_few_and_ids_are_right(&world);
    books_are_exact(&world);
}

/// Neither another tenant's id nor one of upstream's own, as a number or a string.
fn nobody_elses_works(world: &World, random: &mut Random) {
    let uploads = world.upstream.calls("/v1/files/upload");
    for _ in 0..50 {
        let file = &world.files[random.below(world.files.len() as u64) as usize];
        let upload = &uploads[random.below(uploads.len() as u64) as usize];
        let raw = &upload["note"]["file_id"];
        if raw.is_null() {
            continue;
        }
        for tenant in (0..TENANTS).filter(|tenant| *tenant != file.tenant) {
            let stolen = world.ask(tenant, &json!(file.id));
            assert_eq!((stolen.code(), stolen.message()), unknown());
        }
        for tenant in 0..TENANTS {
            let guessed = world.ask(tenant, raw);
            assert_eq!((guessed.code(), guessed.message()), unknown(), "{raw} is upstream's");
        }
    }
}

/// An account has had a file once, and once more for each answer to an upload that was lost; and what was asked of
/// upstream names the file that the client meant.
fn uploads_are_few_and_ids_are_right(world: &World) {
    assert_eq!(world.upstream.calls("*")[0]["nth"], 1, "no call is forgotten");
    let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut stored: BTreeMap<(String, i64), String> = BTreeMap::new();
    for call in world.upstream.calls("/v1/files/upload") {
        let note = &call["note"];
        let (Some(id), Some(sha256)) = (note["file_id"].as_i64(), note["sha256"].as_str()) else {
            continue;
        };
        let account = call["account"].as_str().unwrap().to_owned();
        *times.entry((account.clone(), sha256.to_owned())).or_default() += 1;
        stored.insert((account, id), sha256.to_owned());
    }
    for ((account, sha256), times) in &times {
        let all = world.upstream.calls("*").into_iter().filter(|call| call["account"] == **account);
        let shown = |call: &Value| {
            let [nth, at, path, code, fault, note, body] =
                ["nth", "at_ms", "path", "code", "fault", "note", "body"].map(|name| &call[name]);
            format!("{nth} {at} {path} {code} {fault} {note} {body}\n")
        };
        assert!(
            *times <= 1,
            "{account} was given {sha256} {times} times:\n{}",
            all.map(|call| shown(&call)).collect::<String>()
        );
    }
    let ours: Vec<&str> = world.files.iter().map(|file| file.sha256.as_str()).collect();
    let (mut asked, mut used) = (0, BTreeMap::<String, usize>::new());
    for call in world.upstream.calls(PATH) {
        let body: Value = serde_json::from_str(call["body"].as_str().unwrap()).unwrap();
        let id = body["text_file_id"].as_i64().unwrap();
        let account = call["account"].as_str().unwrap().to_owned();
        if call["code"] == 0 {
            let sha256 = stored.get(&(account, id)).expect("an id that was given there");
            assert!(ours.contains(&sha256.as_str()));
            *used.entry(sha256.clone()).or_default() += 1;
            asked += 1;
        }
    }
    assert_eq!(used.len(), world.files.len(), "each file was used under its own bytes");
    let done: usize = world.done.iter().map(|done| done.load(Ordering::SeqCst)).sum();
    assert!(asked >= done, "{done} successes of {asked} calls upstream");
}

/// One charge for each success, none for anything else, nothing held, and the balance is what is left.
fn books_are_exact(world: &World) {
    for (tenant, done) in world.done.iter().enumerate() {
        let of =
            format!("account_id = (SELECT account_id FROM accounts WHERE name = 'tenant{tenant}')");
        let entries = format!("FROM ledger WHERE kind = 'charge' AND {of}");
        let done = done.load(Ordering::SeqCst) as i64;
        assert_eq!(world.server.value::<i64>(&format!("SELECT count(*) {entries}")), done);
        let charged = format!("SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) {entries}");
        assert_eq!(world.server.value::<i64>(&charged), -PRICE * done);
        let left = format!("SELECT balance FROM accounts WHERE {of}");
        assert_eq!(world.server.value::<i64>(&left), 1_000_000_000_000 - PRICE * done);
        let held = format!("SELECT held FROM accounts WHERE {of}");
        assert_eq!(world.server.value::<i64>(&held), 0);
    }
    let report: Value = serde_json::from_str(&world.server.command(&["fsck", "--json"])).unwrap();
    assert_eq!(report["clean"], true, "{report}");
}
