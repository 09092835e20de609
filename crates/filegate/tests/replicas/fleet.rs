//! The replicas, what they depend on, and proxies between them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::balancer::Balancer;
use filegate_testkit::http::{Reply, Request};
use filegate_testkit::place::{Place, Settings, through};
use filegate_testkit::postgres::Postgres;
use filegate_testkit::proxy::Proxy;
use filegate_testkit::redis::Redis;
use filegate_testkit::s3::S3Server;
use filegate_testkit::server::{Setup, TestServer};

/// How long until everything is well again after everything was broken.
const WELL_MAX: Duration = Duration::from_mins(1);

/// How long until nothing is left of the dead.
const REAPED_MAX: Duration = Duration::from_secs(150);

/// Fast enough for a test: what a dead replica leaves is reaped after some seconds.
const CONFIG: &str = "
[limits]
body_idle = '2s'
[jobs]
interval = '300ms'
upload_lease = '4s'
[database]
connect_timeout = '1s'
statement_timeout = '5s'
wait = '3s'
[s3]
part_bytes = '5MiB'
connect_timeout = '1s'
request_timeout = '5s'
";

/// What seals the keys of channels.
const SEALING: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Replicas behind a balancer. Everything ends when dropped.
pub(crate) struct Fleet {
    pub(crate) balancer: Balancer,
    pub(crate) replicas: Vec<Mutex<TestServer>>,
    pub(crate) postgres: Mutex<Postgres>,
    pub(crate) redis: Mutex<Redis>,
    /// Between the replicas and PostgreSQL.
    pub(crate) to_database: Proxy,
    /// Between the replicas and S3.
    pub(crate) to_s3: Proxy,
    pub(crate) s3: Arc<S3Server>,
    pub(crate) key: String,
    pub(crate) admin_token: String,
    setup: Setup,
    home: tempfile::TempDir,
}

impl Fleet {
    pub(crate) fn start(count: usize, seed: u64) -> Self {
        let postgres = Postgres::own(&[]);
        let database_url = postgres.database();
        let (redis, s3) = (Redis::start(), Arc::new(S3Server::start_new()));
        let to_database = Proxy::start(address_of(&database_url), seed);
        let to_s3 = Proxy::start(&s3.address().to_string(), seed + 1);
        let settings = Settings {
            database_url: through(&database_url, &to_database.address()),
            blob_url: s3.url("files").replace(&s3.address().to_string(), &to_s3.address()),
            s3_key: (s3.access_key().to_owned(), s3.secret_key().to_owned()),
            redis_url: redis.url().to_owned(),
            redis_prefix: redis.prefix().to_owned(),
        };
        let place = Arc::new(Place::new(&settings, &database_url, Some(Arc::clone(&s3))));
        let setup = Setup::new(env!("CARGO_BIN_EXE_filegate")).config(CONFIG).at(&place);
        let setup = setup.env("FILEGATE_RELAY__SECRET_KEY", SEALING);
        let home = tempfile::tempdir().unwrap();
        let data_dir = |at: usize| data_dir(&home, at);
        let first = setup.start_on(&data_dir(0));
        let (key, admin_token) = (first.make_key("test", "default"), first.admin_token());
        let replicas: Vec<Mutex<TestServer>> = std::iter::once(first)
            .chain((1..count).map(|at| setup.start_on(&data_dir(at))))
            .map(|mut replica| {
                replica.key.clone_from(&key);
                Mutex::new(replica)
            })
            .collect();
        let balancer = Balancer::start(&[]);
        for replica in &replicas {
            balancer.add(&replica.lock().unwrap().address);
        }
        Self {
            balancer,
            replicas,
            postgres: Mutex::new(postgres),
            redis: Mutex::new(redis),
            to_database,
            to_s3,
            s3,
            key,
            admin_token,
            setup,
            home,
        }
    }

    /// A request to whichever replica's turn it is.
    pub(crate) fn request(&self, method: &str, target: &str) -> Request {
        Request::new(&self.balancer.address(), method, target).bearer(&self.key)
    }

    /// A request to one replica.
    pub(crate) fn request_to(&self, at: usize, method: &str, target: &str) -> Request {
        let address = self.replicas[at].lock().unwrap().address.clone();
        Request::new(&address, method, target).bearer(&self.key)
    }

    /// A request to one replica's admin API.
    pub(crate) fn admin(&self, at: usize, method: &str, path: &str) -> Reply {
        let replica = self.replicas[at].lock().unwrap();
        replica.admin_as(&self.admin_token, method, path).body("{}").send()
    }

    /// Ends a replica as a crash would. The balancer finds out by itself.
    pub(crate) fn kill(&self, at: usize) {
        self.replicas[at].lock().unwrap().kill();
    }

    /// Starts a replica that has ended, on another port.
    pub(crate) fn start_again(&self, at: usize) {
        let mut replica = self.replicas[at].lock().unwrap();
        self.balancer.remove(&replica.address);
        let started = Instant::now();
        // A replica may refuse to start while what it depends on is away.
        *replica = loop {
            match self.setup.try_start_on(&data_dir(&self.home, at)) {
                Ok(replica) => break replica,
                Err(log) => assert!(started.elapsed() < WELL_MAX, "it does not start:\n{log}"),
            }
            thread::sleep(Duration::from_millis(100));
        };
        replica.key.clone_from(&self.key);
        self.balancer.add(&replica.address);
    }

    /// Waits until every replica says that it is ready.
    pub(crate) fn wait_until_ready(&self) {
        for at in 0..self.replicas.len() {
            let ready = || {
                let request = self.request_to(at, "GET", "/readyz");
                request.try_send().is_ok_and(|reply| reply.status == 200).then_some(())
            };
            within(WELL_MAX, "a replica is ready", ready);
        }
    }

    /// Looks at rows and objects.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&TestServer) -> T) -> T {
        look(&self.replicas[0].lock().unwrap())
    }

    /// Nothing is left of uploads that did not end: no row, no hold, no object but those of files. Parts that no
    /// object was made of stay for an hour, since they may be those of an upload that goes on.
    pub(crate) fn nothing_left_over(&self, files: usize) {
        let started = Instant::now();
        loop {
            let rows: usize = self.look(|replica| replica.value("SELECT count(*) FROM uploads"));
            let held: i64 = self.look(|replica| replica.value("SELECT sum(held) FROM accounts"));
            let objects = self.look(|replica| replica.stored("blobs").len());
            if (rows, held, objects) == (0, 0, files) {
                return;
            }
            let jobs = self.look(|replica| {
                replica.row(
                    "SELECT count(*), max(attempts), max(run_at) - CAST(extract(epoch FROM now()) * 1000 AS BIGINT),
                            max(last_error) FROM jobs",
                )
            });
            assert!(
                started.elapsed() < REAPED_MAX,
                "left over: {rows} rows, {held} held, {objects} objects for {files} files; jobs: {jobs:?}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The store is consistent, books included.
    #[track_caller]
    pub(crate) fn fsck_clean(&self) {
        let report = self.look(|replica| replica.command(&["fsck", "--json"]));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["clean"], true, "{report}");
    }
}

/// What a replica keeps for itself.
fn data_dir(home: &tempfile::TempDir, at: usize) -> PathBuf {
    home.path().join(format!("replica-{at}"))
}

/// `host:port` of a URL.
fn address_of(url: &str) -> &str {
    let (_, rest) = url.split_once('@').unwrap();
    rest.split('/').next().unwrap()
}

/// Tries until `check` gives a value, at most so long.
pub(crate) fn within<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
