//! Moderation with the bytes on S3: the webhook's fetch may come to any replica.

use filegate_testkit::http::Request;
use filegate_testkit::s3::S3Server;
use filegate_testkit::server::eventually;
use sha2::{Digest as _, Sha256};

use super::moderation_kit::{Hook, answer, refused, setup};

const PREFIX: &str = "door";

fn fetch(url: &str) -> (u16, Vec<u8>) {
    let rest = url.strip_prefix("http://").expect("an http link");
    let (host, path) = rest.split_once('/').expect("a path");
    let reply = Request::new(host, "GET", &format!("/{path}")).send();
    (reply.status, reply.body)
}

#[test]
fn what_is_being_decided_is_fetched_from_the_store() {
    // Allows what it could fetch whole, and has no other text but one in it.
    let hook = Hook::start(|asked| {
        let json = asked.json();
        let (status, bytes) = fetch(json["download_url"].as_str().expect("a link"));
        let same = json["sha256"] == filegate_types::hex(&Sha256::digest(&bytes)).as_str();
        let allowed = status == 200 && same && !bytes.starts_with(b"denied");
        let verdict = if allowed { "allow" } else { "deny" };
        answer("200 OK", &format!("{{\"verdict\":\"{verdict}\"}}"))
    });
    let s3 = S3Server::start_new();
    let server = setup(&(s3.settings(PREFIX) + &hook.settings(""))).embedded().start();
    let large = vec![b'a'; 900_000];
    for content in [b"small".to_vec(), large.clone()] {
        let id = server.upload("retrieval", "a.txt", &content).file_id();
        let stored = server.get(&format!("/v1/files/retrieve_content?file_id={id}"));
        assert!(stored.body == content);
        // It is decided: the link has nothing to give any more.
        let asked = hook.asked().pop().expect("it was asked").json();
        assert_eq!(fetch(asked["download_url"].as_str().expect("a link")).0, 404);
    }
    assert_eq!(s3.objects(PREFIX).len(), 2);
    assert_eq!((server.stored("tmp"), server.stored("blobs")), (vec![], vec![]));

    let told = "input sensitive: the moderation service refused the file";
    let denied = [b"denied ".to_vec(), large].concat();
    for content in [b"denied".as_slice(), &denied] {
        refused(&server.upload("retrieval", "a.txt", content), 1026, told);
    }
    eventually("nothing is left of what was refused", || {
        let uploads: i64 = server.value("SELECT count(*) FROM uploads");
        (s3.objects(PREFIX).len() == 2 && uploads == 0).then_some(())
    });
    assert_eq!(fetch(hook.asked()[3].json()["download_url"].as_str().expect("a link")).0, 404);
}
