//! How long files are kept, and what is left of them when they are gone.

use filegate_testkit::server::eventually;

use crate::kit::{books_balance, refused, setup, text, upload_with};

const DAY: i64 = 86_400;

#[test]
fn an_upload_says_how_long_it_is_kept_within_the_accounts_bounds() {
    let server = setup().start();
    let kept = |more: &[(&str, &str)]| {
        let reply = upload_with(&server, &text(1, 100), more).send();
        assert_eq!(reply.code(), 0, "{}", reply.text());
        let file = &reply.json()["file"];
        file["expires_at"].as_i64().map(|at| at - file["created_at"].as_i64().unwrap())
    };
    assert_eq!(kept(&[]), None);
    assert_eq!(kept(&[("expires_after", "3600")]), Some(3_600));
    assert_eq!(kept(&[("expires_after", "2d")]), Some(2 * DAY));
    for bad in ["", "0", "soon", "-5", "1e3"] {
        let message = refused(&upload_with(&server, b"x", &[("expires_after", bad)]).send(), 2013);
        assert!(message.contains("expires_after"), "{message}");
    }
    let twice = [("expires_after", "1d"), ("expires_after", "1d")];
    refused(&upload_with(&server, b"x", &twice).send(), 2013);

    server.sql(r#"UPDATE accounts SET settings = '{"keep_min":"1h","keep_max":"10d"}'"#);
    assert_eq!(kept(&[]), Some(10 * DAY));
    assert_eq!(kept(&[("expires_after", "10d")]), Some(10 * DAY));
    let message = refused(&upload_with(&server, b"x", &[("expires_after", "11d")]).send(), 2013);
    assert!(message.contains("is 11days, this account's longest is 10days"), "{message}");
    let message = refused(&upload_with(&server, b"x", &[("expires_after", "60")]).send(), 2013);
    assert!(message.contains("this account's shortest is 1h"), "{message}");
}

#[test]
fn deleted_and_expired_files_leave_receipts() {
    let server = setup().config("[jobs]\ninterval = \"200ms\"").start();
    let deleted = upload_with(&server, &text(1, 100), &[]).send().file_id();
    let expired = upload_with(&server, &text(2, 100), &[("expires_after", "1")]).send().file_id();
    assert_eq!(server.delete(deleted).code(), 0);
    for (id, cause) in [(deleted, "client"), (expired, "expired")] {
        eventually("it is purged", || {
            let found: i64 = server.value(&format!(
                "SELECT count(*) FROM receipts WHERE file_id = {id} AND cause = '{cause}'
                     AND purged_at >= deleted_at AND bytes = 100 AND length(sha256) = 32"
            ));
            (found == 1).then_some(())
        });
    }
    assert!(server.stored("blobs").is_empty());
    books_balance(&server);
}
