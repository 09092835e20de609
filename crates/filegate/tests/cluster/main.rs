//! Two replicas on three nodes of Garage that keep each object three times. `./test --cluster` runs it.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use filegate_testkit::balancer::Balancer;
use filegate_testkit::garage::Garage;
use filegate_testkit::http::{Reply, Request};
use filegate_testkit::place::Place;
use filegate_testkit::random::Random;
use filegate_testkit::server::{Setup, TestServer};

/// Refused while nodes are away, and tried again.
const UNAVAILABLE: i64 = 1013;

/// How long until something is well again.
const WELL_MAX: Duration = Duration::from_mins(1);

/// Quick to give up, and to reap what a failure left.
const CONFIG: &str = "
[limits]
body_idle = '3s'
[jobs]
interval = '500ms'
upload_lease = '6s'
[s3]
part_bytes = '5MiB'
connect_timeout = '1s'
request_timeout = '10s'
retries = 3
";

struct Cluster {
    garage: Garage,
    /// Before the nodes: the one address that the replicas know.
    _s3: Balancer,
    replicas: [TestServer; 2],
    key: String,
    _home: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let garage = Garage::start();
        let nodes: Vec<String> = (0..3).map(|node| garage.address(node)).collect();
        let s3 = Balancer::start(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
        let place = Arc::new(Place::on_garage(&garage, &s3.address()));
        let setup = Setup::new(env!("CARGO_BIN_EXE_filegate")).config(CONFIG).at(&place);
        let home = tempfile::tempdir().unwrap();
        let replicas = ["one", "two"].map(|name| setup.start_on(&home.path().join(name)));
        let key = replicas[0].make_key("test", "default");
        Self { garage, replicas, key, _s3: s3, _home: home }
    }

    fn kill(&mut self, node: usize) {
        self.garage.kill(node);
    }

    fn request(&self, number: u64, method: &str, target: &str) -> Request {
        let address = &self.replicas[number as usize % 2].address;
        Request::new(address, method, target).bearer(&self.key)
    }

    fn upload(&self, number: u64) -> Reply {
        self.request(number, "POST", "/v1/files/upload")
            .header("Idempotency-Key", &format!("upload {number}"))
            .form("retrieval", "a.txt", &content(number))
            .send()
    }

    /// Uploads it, as often as it takes; gives the id.
    fn until_stored(&self, number: u64) -> i64 {
        let started = Instant::now();
        loop {
            let reply = self.upload(number);
            if reply.code() == 0 {
                return reply.file_id();
            }
            assert!([1002, UNAVAILABLE].contains(&reply.code()), "{}", reply.text());
            assert!(started.elapsed() < WELL_MAX, "still refused: {}", reply.text());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Each file is there, through the other replica, and is what was sent.
    fn check(&self, stored: &BTreeMap<u64, i64>) {
        for (number, id) in stored {
            let target = format!("/v1/files/retrieve_content?file_id={id}");
            let reply = self.request(number + 1, "GET", &target).send();
            assert_eq!(reply.status, 200, "{number}: {}", reply.text());
            assert!(reply.body == content(*number), "the content of {number} is wrong");
        }
    }
}

/// Texts of some KiB, of some parts, and in between.
fn content(number: u64) -> Vec<u8> {
    let len = match number % 8 {
        0 => 12 << 20,
        4 => 1 << 20,
        _ => 2000 + number as usize * 97,
    };
    let mut random = Random::new(number);
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        text.extend_from_slice(format!("{:016x}", random.number()).as_bytes());
    }
    text.truncate(len);
    text
}

#[test]
fn a_node_killed_in_the_middle_of_uploads_loses_nothing() {
    let mut cluster = Cluster::start();
    let (next, stored) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let upload_until = |cluster: &Cluster, end: u64| {
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    while let Ok(number) =
                        next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                            (n < end).then_some(n + 1)
                        })
                    {
                        let id = cluster.until_stored(number);
                        stored.lock().unwrap().insert(number, id);
                    }
                });
            }
        });
    };
    upload_until(&cluster, 20);
    for node in [1, 2] {
        // Killed while uploads run: by its process id, since the cluster is in use.
        let victim = cluster.garage.pid(node);
        let from = next.load(Ordering::Relaxed);
        thread::scope(|scope| {
            scope.spawn(|| upload_until(&cluster, from + 30));
            while next.load(Ordering::Relaxed) < from + 10 {
                thread::sleep(Duration::from_millis(5));
            }
            let killed =
                std::process::Command::new("kill").args(["-9", &victim.to_string()]).status();
            assert!(killed.unwrap().success());
        });
        cluster.kill(node);
        cluster.check(&stored.lock().unwrap());
        cluster.garage.start_node(node);
    }
    let stored = stored.into_inner().unwrap();
    assert_eq!(stored.len(), 80);
    cluster.check(&stored);
    cluster.garage.wait_until_well();
    let report = cluster.replicas[0].command(&["fsck", "--json"]);
    assert!(report.contains("\"clean\":true"), "{report}");
}

#[test]
fn without_two_nodes_uploads_are_refused_and_with_one_back_they_work() {
    let mut cluster = Cluster::start();
    let mut stored: BTreeMap<u64, i64> = (0..10).map(|n| (n, cluster.until_stored(n))).collect();
    cluster.kill(0);
    cluster.kill(1);
    for number in [11, 12] {
        let asked = Instant::now();
        let reply = cluster.upload(number);
        assert_eq!(reply.code(), UNAVAILABLE, "{}", reply.text());
        assert!(asked.elapsed() < WELL_MAX, "{:?}", asked.elapsed());
    }
    cluster.garage.start_node(1);
    for number in 11..20 {
        stored.insert(number, cluster.until_stored(number));
    }
    cluster.check(&stored);
    cluster.garage.start_node(0);
    cluster.garage.wait_until_well();
    let report = cluster.replicas[1].command(&["fsck", "--json"]);
    assert!(report.contains("\"clean\":true"), "{report}");
}
