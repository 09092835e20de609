//! The same calls with the bytes on S3: everything works, and when the store does not, nothing is lost, wrong
//! or left.

use std::time::Duration;

use filegate_testkit::http::{Reply, Request};
use filegate_testkit::s3::{Fault, Kind, S3Server, When};
use filegate_testkit::server::{Setup, TestServer, eventually};

use crate::kit;

const PREFIX: &str = "gate/one";
/// Patience of the gateway: as little as makes a test quick.
const IMPATIENT: &str = "request_timeout = '1s'\nretries = 1\npart_bytes = '5MiB'\n";

fn settings(s3: &S3Server) -> String {
    s3.settings(PREFIX) + IMPATIENT
}

/// With rows in the data directory: here it is the bytes that are elsewhere.
fn setup(toml: &str) -> Setup {
    kit::setup().embedded().config(toml)
}

fn start(s3: &S3Server) -> TestServer {
    setup(&settings(s3)).start()
}

fn content_of(server: &TestServer, id: i64) -> Reply {
    server.get(&format!("/v1/files/retrieve_content?file_id={id}"))
}

fn link_of(server: &TestServer, id: i64) -> String {
    let json = kit::success(server.get(&format!("/v1/files/retrieve?file_id={id}"))).json();
    json["file"]["download_url"].as_str().unwrap().to_owned()
}

/// Follows no redirect.
fn fetch(url: &str, method: &str) -> Reply {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    Request::new(address, method, &format!("/{path}")).send()
}

#[track_caller]
fn unavailable(reply: Reply) {
    let reply = kit::refused(reply, 1013, "internal service error");
    assert_eq!(reply.header("retry-after"), Some("5"));
}

/// Neither objects, nor parts of any, nor files on the disk.
#[track_caller]
fn nothing_left(server: &TestServer, s3: &S3Server) {
    eventually("nothing is left of the upload", || {
        (s3.objects(PREFIX).is_empty() && s3.unfinished() == 0 && server.stored("tmp").is_empty())
            .then_some(())
    });
    assert_eq!(server.stored("blobs"), []);
}

#[test]
fn files_of_every_size_go_up_come_back_and_go() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    let sizes = [1, 5, 256 << 10, (256 << 10) + 1, 900_000, 5 << 20, (5 << 20) + 1, 23 << 20];
    let mut ids = vec![];
    for size in sizes {
        let text = kit::text(size);
        let file = kit::uploaded(server.upload("retrieval", "a.txt", &text));
        let id = file["file_id"].as_i64().unwrap();
        let reply = kit::content(content_of(&server, id), 200);
        assert!(reply.body == text, "{size}");
        assert_eq!(reply.header("content-length"), Some(size.to_string().as_str()));
        ids.push(id);
    }
    let speech = kit::wav(12_500);
    let file = kit::uploaded(server.upload("t2a_async_input", "a.txt", b"spoken"));
    ids.push(file["file_id"].as_i64().unwrap());
    let file = kit::uploaded(server.upload("voice_clone", "speech.wav", &speech));
    ids.push(file["file_id"].as_i64().unwrap());
    assert!(kit::content(content_of(&server, ids[9]), 200).body == speech);

    assert_eq!(s3.objects(PREFIX).len(), ids.len());
    assert_eq!(s3.unfinished(), 0);
    assert_eq!((server.stored("blobs"), server.stored("tmp")), (vec![], vec![]));
    for id in ids {
        kit::success(server.delete(id));
        kit::refused(content_of(&server, id), 2013, "invalid params");
    }
    eventually("the objects go", || s3.objects(PREFIX).is_empty().then_some(()));
}

#[test]
fn ranges_heads_and_tags_are_as_ever() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    let text = kit::text(700_000);
    let id = server.upload("retrieval", "a.txt", &text).file_id();
    let target = format!("/v1/files/retrieve_content?file_id={id}");
    let ranged = |range: &str| server.request("GET", &target).header("Range", range).send();
    let part = kit::content(ranged("bytes=262143-524289"), 206);
    assert!(part.body == text[262_143..=524_289]);
    assert_eq!(part.header("content-range"), Some("bytes 262143-524289/700000"));
    assert!(kit::content(ranged("bytes=-5"), 206).body == text[699_995..]);
    let several = kit::content(ranged("bytes=0-1,699999-"), 206);
    assert!(several.header("content-type").unwrap().starts_with("multipart/byteranges"));
    assert_eq!(ranged("bytes=700000-").status, 416);

    let gets = s3.requests(Kind::Get);
    let head = kit::content(server.request("HEAD", &target).send(), 200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("700000"), 0));
    let etag = head.header("etag").unwrap();
    let same = server.request("GET", &target).header("If-None-Match", etag).send();
    kit::content(same, 304);
    assert_eq!(s3.requests(Kind::Get), gets, "neither reads the object");
}

#[test]
fn a_store_that_is_away_is_told_and_comes_back() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    let text = kit::text(900_000);
    let id = server.upload("retrieval", "a.txt", &text).file_id();
    s3.stop();
    unavailable(content_of(&server, id));
    for len in [5, 900_000, 6 << 20] {
        unavailable(server.upload("retrieval", "b.txt", &kit::text(len)));
    }
    // What needs no bytes works on.
    let list = kit::success(server.get("/v1/files/list")).json();
    assert_eq!(list["files"].as_array().unwrap().len(), 1);
    s3.start();
    assert!(kit::content(content_of(&server, id), 200).body == text);
    let again = server.upload("retrieval", "b.txt", &text).file_id();
    assert_eq!(s3.objects(PREFIX).len(), 2);
    // A delete while it is away is a delete: the object goes later.
    s3.stop();
    kit::success(server.delete(id));
    kit::success(server.delete(again));
    s3.start();
    eventually("the objects go", || s3.objects(PREFIX).is_empty().then_some(()));
    kit::no_panic(&server);
}

#[test]
fn a_landing_that_fails_leaves_nothing() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    for (kind, fault, len) in [
        (Kind::Put, Fault::SlowDown, 5),
        (Kind::Put, Fault::Refuse(403, "AccessDenied"), 900_000),
        // It arrives each time, and we never hear of it.
        (Kind::Put, Fault::LoseAnswer, 5),
        (Kind::Put, Fault::StallAnswer, 900_000),
        (Kind::Create, Fault::SlowDown, 11 << 20),
        (Kind::UploadPart, Fault::Reset, 11 << 20),
        (Kind::UploadPart, Fault::Stall, 11 << 20),
        (Kind::Complete, Fault::SlowDown, 11 << 20),
    ] {
        s3.fail(When::All(kind), fault);
        unavailable(server.upload("retrieval", "a.txt", &kit::text(len)));
        nothing_left(&server, &s3);
        s3.heal();
    }
    // An answer that is lost is not a loss.
    s3.fail(When::Nth(Kind::Complete, 1), Fault::LoseAnswer);
    s3.fail(When::Nth(Kind::Put, 1), Fault::LoseAnswer);
    for len in [5, 11 << 20] {
        let text = kit::text(len);
        let id = kit::uploaded(server.upload("retrieval", "a.txt", &text))["file_id"].as_i64();
        assert!(kit::content(content_of(&server, id.unwrap()), 200).body == text);
    }
    assert_eq!(
        kit::success(server.get("/v1/files/list")).json()["files"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn refused_files_cost_the_store_nothing() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    kit::upload_refused(server.upload("voice_clone", "a.mp3", &kit::text(700_000)), 2013, "");
    kit::upload_refused(server.upload("voice_clone", "a.mp3", b"nonsense"), 2013, "");
    let target = "/v1/files/upload?validate_only=true";
    for len in [5, 700_000] {
        let form = server.request("POST", target).form("retrieval", "a.txt", &kit::text(len));
        kit::success(form.send());
    }
    for kind in [Kind::Put, Kind::Create, Kind::UploadPart] {
        assert_eq!(s3.requests(kind), 0, "{kind:?}");
    }
    nothing_left(&server, &s3);
}

#[test]
fn wrong_bytes_are_never_a_whole_answer() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    let text = kit::text(700_000);
    let id = server.upload("retrieval", "a.txt", &text).file_id();
    let damaged = "internal service error: the stored copy is damaged";
    // In the first block: an error. In a later one: the connection ends.
    s3.fail(When::All(Kind::Get), Fault::Corrupt(100));
    kit::refused(content_of(&server, id), 1013, damaged);
    s3.heal();
    s3.fail(When::All(Kind::Get), Fault::Corrupt(600_000));
    let target = format!("/v1/files/retrieve_content?file_id={id}");
    assert!(server.request("GET", &target).try_send().is_err());
    s3.heal();
    assert!(kit::content(content_of(&server, id), 200).body == text);

    // A connection that breaks is not noticed.
    s3.fail(When::Nth(Kind::Get, 1), Fault::Reset);
    assert!(kit::content(content_of(&server, id), 200).body == text);
    s3.heal();
    let (name, _) = s3.objects(PREFIX).remove(0);
    let object = s3.root().join(name);
    std::fs::File::options().write(true).open(&object).unwrap().set_len(600_000).unwrap();
    kit::refused(content_of(&server, id), 1013, damaged);
    std::fs::remove_file(object).unwrap();
    kit::refused(content_of(&server, id), 1013, damaged);
}

#[test]
fn a_crash_between_landing_and_commit_is_reaped() {
    let s3 = S3Server::start_new();
    let mut server = start(&s3);
    s3.fail(When::All(Kind::Put), Fault::StallAnswer);
    let request = server.request("POST", "/v1/files/upload").form("retrieval", "a.txt", b"hello");
    let client = std::thread::spawn(move || request.try_send().is_err());
    eventually("the object is there", || (s3.objects(PREFIX).len() == 1).then_some(()));
    server.kill();
    assert!(client.join().unwrap(), "nothing was acknowledged");
    s3.heal();
    assert_eq!(s3.objects(PREFIX).len(), 1);
    let again = setup(&settings(&s3)).start_on(&server.data_dir);
    eventually("the object is purged", || s3.objects(PREFIX).is_empty().then_some(()));
    let list = again.request("GET", "/v1/files/list").bearer(&server.key).send();
    assert_eq!(kit::success(list).json()["files"], serde_json::json!([]));
}

#[test]
fn the_store_can_hand_the_bytes_out_itself() {
    let s3 = S3Server::start_new();
    let mut server = start(&s3);
    let text = kit::text(700_000);
    let id = server.upload("retrieval", "声 '1'.txt", &text).file_id();
    let own = link_of(&server, id);
    assert!(own.starts_with(&server.url()), "{own}");
    let path = own.strip_prefix(&server.url()).unwrap().to_owned();
    let ours = kit::content(fetch(&own, "GET"), 200);
    server.terminate();

    let redirecting = settings(&s3) + "[downloads]\nmode = 'redirect'\n";
    let again = setup(&redirecting).start_on(&server.data_dir);
    let retrieve = |id: i64| {
        let target = format!("/v1/files/retrieve?file_id={id}");
        kit::success(again.request("GET", &target).bearer(&server.key).send()).json()["file"]
            .clone()
    };
    let url = retrieve(id)["download_url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&s3.endpoint()) && url.contains("X-Amz-Signature="), "{url}");
    let theirs = fetch(&url, "GET");
    assert!(theirs.status == 200 && theirs.body == text);
    for name in ["content-type", "content-disposition", "cache-control"] {
        assert_eq!(theirs.header(name), ours.header(name), "{name}");
    }
    assert_eq!(fetch(&url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"), "GET").status, 403);

    // Links given out before still answer.
    let sent_on = fetch(&format!("{}{path}", again.url()), "GET");
    assert_eq!((sent_on.status, sent_on.body.len()), (302, 0));
    assert_eq!(sent_on.header("cache-control"), Some("private, no-store"));
    assert!(fetch(sent_on.header("location").unwrap(), "GET").body == text);
    let head = kit::content(fetch(&format!("{}{path}", again.url()), "HEAD"), 200);
    assert_eq!(head.header("content-length"), Some("700000"));
    assert_eq!(fetch(&format!("{}{path}x", again.url()), "GET").status, 403);
    // The content itself is ours as ever.
    let target = format!("/v1/files/retrieve_content?file_id={id}");
    let reply = again.request("GET", &target).bearer(&server.key).send();
    assert!(kit::content(reply, 200).body == text);

    let body = format!("{{\"file_id\":{id}}}");
    let delete = again.request("POST", "/v1/files/delete").bearer(&server.key);
    kit::success(delete.header("Content-Type", "application/json").body(body).send());
    assert_eq!(fetch(&format!("{}{path}", again.url()), "GET").status, 404);
    eventually("the object goes", || s3.objects(PREFIX).is_empty().then_some(()));
    assert_eq!(fetch(&url, "GET").status, 404);
}

#[test]
fn many_uploads_at_a_time_survive_a_store_that_stumbles() {
    let s3 = S3Server::start_new();
    // A quarter of all requests fails: of some hundred requests one fails four times in a row now and then.
    let settings = s3.settings(PREFIX) + "part_bytes = '5MiB'\nretries = 10\n";
    let server = setup(&settings).start();
    s3.fail(When::Every(7), Fault::SlowDown);
    s3.fail(When::Every(11), Fault::Reset);
    let server = &server;
    let stored: Vec<(i64, usize)> = std::thread::scope(|scope| {
        let work = |worker: usize| {
            move || {
                let one = |n: usize| {
                    let len = [100, 300_000, 6 << 20][(worker + n) % 3];
                    let file = kit::uploaded(server.upload("retrieval", "a.txt", &kit::text(len)));
                    (file["file_id"].as_i64().unwrap(), len)
                };
                (0..6).map(one).collect::<Vec<_>>()
            }
        };
        let workers: Vec<_> = (0..4).map(|worker| scope.spawn(work(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(stored.len(), 24);
    for (id, len) in stored {
        assert!(kit::content(content_of(server, id), 200).body == kit::text(len), "{len}");
    }
    s3.heal();
    eventually("there is an object for each file", || {
        (s3.objects(PREFIX).len() == 24).then_some(())
    });
}

#[test]
fn a_snapshot_of_the_directory_is_refused_with_what_to_do() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    let target = server.home().unwrap().join("snapshot");
    let body = serde_json::json!({"directory": target});
    let request = server.admin("POST", "/backup").header("Content-Type", "application/json");
    let reply = request.body(body.to_string()).send();
    assert_eq!(reply.status, 409, "{}", reply.text());
    assert!(reply.text().contains("pg_dump"), "{}", reply.text());
}

#[test]
fn a_slow_store_is_waited_for() {
    let s3 = S3Server::start_new();
    let server = start(&s3);
    let text = kit::text(400_000);
    s3.fail(When::All(Kind::Put), Fault::Slow(Duration::from_millis(10)));
    s3.fail(When::All(Kind::Get), Fault::Slow(Duration::from_millis(10)));
    let id = kit::uploaded(server.upload("retrieval", "a.txt", &text))["file_id"].as_i64().unwrap();
    assert!(kit::content(content_of(&server, id), 200).body == text);
}
