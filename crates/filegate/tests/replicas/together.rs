//! What one replica has done is done for all of them.

use std::time::{Duration, Instant};

use filegate_testkit::http::{Connection, Request};
use filegate_testkit::proxy::Faults;
use filegate_testkit::server::eventually;

use crate::fleet::Fleet;
use crate::uploads::listed;

/// How long a revoked key may still work elsewhere.
const REVOKED_MAX: Duration = Duration::from_secs(1);
/// The settings of these replicas give a database 1 s to connect, 5 s for a statement and 3 s for a free connection.
const AWAY_MAX: Duration = Duration::from_secs(10);

#[test]
fn what_one_stores_all_others_have_at_once() {
    let fleet = Fleet::start(3, 1);
    for (from, len) in [(0, 1000), (1, 700_000), (2, 11 << 20)] {
        let content: Vec<u8> = (0..len).map(|i: usize| b'a' + (i / 7 % 26) as u8).collect();
        let upload = fleet.request_to(from, "POST", "/v1/files/upload");
        let id = upload.form("retrieval", "a.txt", &content).send().file_id();
        for at in 0..3 {
            let get = |target: &str| fleet.request_to(at, "GET", target).send();
            let file = get(&format!("/v1/files/retrieve?file_id={id}")).json()["file"].clone();
            assert_eq!(file["bytes"], len, "{file}");
            assert!(get(&format!("/v1/files/retrieve_content?file_id={id}")).body == content);
            assert_eq!(listed(&fleet, at), [id]);
            // The link that one has signed works with the others.
            let link = file["download_url"].as_str().unwrap();
            let path = link.split_once("/d/").unwrap().1;
            let other = fleet.request_to((at + 1) % 3, "GET", &format!("/d/{path}"));
            assert!(other.send().body == content);
        }
        let other = (from + 1) % 3;
        let delete = fleet.request_to(other, "POST", "/v1/files/delete");
        assert_eq!(delete.body(format!("{{\"file_id\":{id}}}")).send().code(), 0);
        for at in 0..3 {
            let get = |target: &str| fleet.request_to(at, "GET", target).send();
            assert_eq!(get(&format!("/v1/files/retrieve?file_id={id}")).code(), 2013);
            assert_eq!(get(&format!("/v1/files/retrieve_content?file_id={id}")).code(), 2013);
            assert_eq!(listed(&fleet, at), [0; 0]);
        }
    }
    fleet.nothing_left_over(0);
    fleet.fsck_clean();
}

#[test]
fn a_revoked_key_is_refused_everywhere_within_a_second() {
    let fleet = Fleet::start(3, 1);
    for round in 0..3 {
        let key = fleet.look(|replica| replica.make_key(&format!("key {round}"), "default"));
        let id: i64 = fleet.look(|replica| {
            replica.value(&format!("SELECT key_id FROM keys WHERE name = 'key {round}'"))
        });
        let code = |at: usize| {
            let address = fleet.replicas[at].lock().unwrap().address.clone();
            Request::new(&address, "GET", "/v1/files/list").bearer(&key).send().code()
        };
        // Whatever a replica remembers of keys, it remembers now.
        for at in 0..3 {
            assert_eq!((code(at), code(at)), (0, 0));
        }
        let revoked = fleet.admin(round, "POST", &format!("/keys/{id}/revoke"));
        assert_eq!(revoked.status, 200, "{}", revoked.text());
        let answered = Instant::now();
        assert_eq!(code(round), 2049, "the replica that revoked it");
        for at in 0..3 {
            eventually("it is refused", || (code(at) == 2049).then_some(()));
            assert!(answered.elapsed() < REVOKED_MAX, "replica {at}: {:?}", answered.elapsed());
        }
    }
}

#[test]
fn a_replica_killed_in_the_middle_of_an_upload_leaves_nothing() {
    let fleet = Fleet::start(3, 1);
    fleet.look(|replica| {
        replica.sql(
            "INSERT INTO prices (call, purpose, unit, amount) VALUES ('files.upload', '', 'mib', 10);
             UPDATE accounts SET balance = 1000000;
             INSERT INTO ledger (account_id, at, kind, amount, balance)
             SELECT account_id, 0, 'top_up', balance, balance FROM accounts",
        );
    });
    // Its row is there; then, sent whole and on its way to the store, parts of it, too.
    for whole in [false, true] {
        if whole {
            let bytes_per_second = Some(3 << 20);
            fleet.to_s3.set(Faults { bytes_per_second, ..Faults::default() });
        }
        let body = vec![b'x'; 12 << 20];
        let request = fleet.request_to(1, "POST", "/v1/files/upload");
        let bytes = request.form("retrieval", "a.txt", &body).bytes();
        let sent = if whole { bytes.len() } else { 400_000 };
        let address = fleet.replicas[1].lock().unwrap().address.clone();
        let mut connection = Connection::open(&address).unwrap();
        connection.write(&bytes[..sent]).unwrap();
        eventually("it is under way", || {
            let held = "SELECT held FROM accounts WHERE account_id = 1";
            let held: i64 = fleet.look(|replica| replica.value(held));
            (held > 0 && (!whole || fleet.s3.unfinished() > 0)).then_some(())
        });
        fleet.kill(1);
        fleet.to_s3.pass();
        assert!(connection.reply().is_err());
        fleet.nothing_left_over(0);
        assert_eq!(fleet.s3.unfinished(), 0, "its parts went with it");
        assert_eq!(
            fleet.look(|replica| replica.value::<i64>("SELECT balance FROM accounts")),
            1_000_000
        );
        fleet.start_again(1);
    }
    fleet.fsck_clean();
}

/// A database that refuses, or that takes connections and is silent, costs every call some seconds and no more,
/// and nobody has to do anything when it is back.
#[test]
fn a_database_that_is_away_is_told_in_time_and_is_used_again_when_it_is_back() {
    let fleet = Fleet::start(1, 1);
    let kept = fleet.request_to(0, "POST", "/v1/files/upload").form("retrieval", "a.txt", b"kept");
    let kept = kept.send().file_id();
    for silent in [false, true] {
        if silent {
            fleet.to_database.stall();
        } else {
            fleet.to_database.away();
        }
        // What is remembered of the key ends first.
        eventually("the key has to be looked up", || {
            let reply = fleet.request_to(0, "GET", "/v1/files/list").send();
            (reply.code() == 1013).then_some(())
        });
        for (method, target) in [("GET", "/v1/files/list"), ("POST", "/v1/files/upload")] {
            let request = fleet.request_to(0, method, target);
            let request = match method {
                "POST" => request.form("retrieval", "b.txt", b"while it is away"),
                _ => request,
            };
            let asked = Instant::now();
            let reply = request.send();
            assert_eq!((reply.status, reply.code()), (200, 1013), "{}", reply.text());
            assert!(reply.header("retry-after").is_some());
            assert!(asked.elapsed() < AWAY_MAX, "{:?}", asked.elapsed());
        }
        assert_eq!(fleet.request_to(0, "GET", "/readyz").send().status, 503);
        assert_eq!(fleet.request_to(0, "GET", "/healthz").send().status, 200);
        fleet.to_database.pass();
        fleet.wait_until_ready();
        let content = format!("/v1/files/retrieve_content?file_id={kept}");
        assert_eq!(fleet.request_to(0, "GET", &content).send().body, b"kept");
    }
    fleet.nothing_left_over(1);
    fleet.fsck_clean();
}
