//! One contract of blobs, in the data directory and on S3; then what is S3's alone.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use filegate_store::{
    BlobSum, Blobs, DataDir, LifecycleRule, Pace, S3Blobs, S3Checksum, S3Fault, S3Options,
    StoreError, TempBlob,
};
use filegate_testkit::s3::{Fault, Kind, S3Server, When};
use filegate_types::BlobKey;
use sha2::{Digest as _, Sha256};

use crate::support::{NOW, blob_key, in_ms};

const MIB: usize = 1 << 20;
const BLOCK: usize = 256 << 10;

/// A place for blobs, and where its files are.
struct Home {
    blobs: Blobs,
    files: PathBuf,
    server: Option<S3Server>,
    dir: tempfile::TempDir,
}

impl Home {
    fn local() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(&DataDir::open(dir.path()).unwrap());
        Self { blobs, files: dir.path().join("blobs"), server: None, dir }
    }

    fn s3() -> Self {
        Self::s3_with(|_| ())
    }

    fn s3_with(change: impl FnOnce(&mut S3Options)) -> Self {
        let server = S3Server::start_new();
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&server);
        change(&mut options);
        options.check(512 << 20).unwrap();
        let blobs = Blobs::s3(options, dir.path()).unwrap();
        Self { blobs, files: server.root().join("some/where"), server: Some(server), dir }
    }

    fn both() -> [Self; 2] {
        [Self::local(), Self::s3()]
    }

    fn server(&self) -> &S3Server {
        self.server.as_ref().unwrap()
    }

    fn s3_blobs(&self) -> &S3Blobs {
        self.blobs.as_s3().unwrap()
    }

    fn path(&self, key: &BlobKey) -> PathBuf {
        self.files.join(key.shard()).join(key.as_str())
    }

    fn spool(&self, key: &BlobKey, content: &[u8]) -> TempBlob {
        let mut temp = self.blobs.create(key.clone()).unwrap();
        for piece in content.chunks(BLOCK) {
            temp.write(piece).unwrap();
        }
        temp
    }

    async fn land(&self, key: &BlobKey, content: &[u8]) -> Result<BlobSum, StoreError> {
        if content.len() <= BLOCK {
            return self.blobs.land_whole(key.clone(), content.to_vec().into()).await;
        }
        self.blobs.land(self.spool(key, content)).await
    }

    async fn read(
        &self,
        key: &BlobKey,
        sum: &BlobSum,
        start: u64,
        end: u64,
    ) -> Result<Vec<u8>, (Vec<u8>, StoreError)> {
        let mut found = Vec::new();
        let opened = self.blobs.open(key, sum.bytes, sum.block_sums.clone()).await;
        let mut stream = match opened {
            Ok(reader) => reader.stream(start, end),
            Err(error) => return Err((found, error)),
        };
        loop {
            match stream.next().await {
                Ok(Some(piece)) => found.extend_from_slice(&piece),
                Ok(None) => return Ok(found),
                Err(error) => return Err((found, error)),
            }
        }
    }

    async fn listed(&self) -> Vec<(BlobKey, u64)> {
        let (mut list, mut all) = (self.blobs.list(), Vec::new());
        while let Some(page) = list.next().await.unwrap() {
            all.extend(page);
        }
        all.sort();
        all
    }
}

fn options(server: &S3Server) -> S3Options {
    S3Options {
        access_key_id: server.access_key().to_owned(),
        secret_access_key: server.secret_key().to_owned(),
        part_bytes: 5 << 20,
        request_timeout: Duration::from_secs(5),
        ..S3Options::parse(&server.url("some/where")).unwrap()
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8 ^ (i >> 16) as u8).collect()
}

#[tokio::test]
async fn what_lands_reads_back() {
    for home in Home::both() {
        let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * MIB, 5 * MIB + 1, 13 * MIB];
        let mut expected = Vec::new();
        for (seed, size) in (0..).zip(sizes) {
            let (key, content) = (blob_key(seed), content(size));
            let sum = home.land(&key, &content).await.unwrap();
            assert_eq!(sum.bytes, size as u64);
            assert_eq!(sum.sha256, <[u8; 32]>::from(Sha256::digest(&content)));
            let found = home.read(&key, &sum, 0, sum.bytes).await.unwrap();
            assert!(found == content, "{size}");
            assert_eq!(home.blobs.length(&key).await.unwrap(), Some(sum.bytes));
            let digest = home.blobs.digest(&key, |_| Pace::Go).await.unwrap();
            assert_eq!(digest, Some((sum.bytes, sum.sha256)));
            expected.push((key, sum.bytes));
        }
        expected.sort();
        assert_eq!(home.listed().await, expected);
        for (key, _) in &expected {
            home.blobs.purge(key).await.unwrap();
            home.blobs.purge(key).await.unwrap();
            assert_eq!(home.blobs.length(key).await.unwrap(), None);
            assert_eq!(home.blobs.digest(key, |_| Pace::Go).await.unwrap(), None);
        }
        assert_eq!(home.listed().await, []);
    }
}

#[tokio::test]
async fn ranges_are_exact() {
    for home in Home::both() {
        let (key, content) = (blob_key(1), content(6 * MIB + 77));
        let sum = home.land(&key, &content).await.unwrap();
        let len = content.len();
        for (start, end) in [
            (0, 1),
            (1, 1),
            (len - 1, len),
            (0, BLOCK),
            (BLOCK, 2 * BLOCK),
            (BLOCK - 1, BLOCK + 1),
            (100, 5 * MIB + 3),
            (len - 78, len),
            (5 * MIB, len + 1000),
        ] {
            let found = home.read(&key, &sum, start as u64, end as u64).await.unwrap();
            assert!(found == content[start..end.min(len)], "{start}..{end}");
        }
    }
}

#[tokio::test]
async fn one_stretch_is_one_request() {
    let home = Home::s3();
    let (key, content) = (blob_key(1), content(3 * MIB));
    let sum = home.land(&key, &content).await.unwrap();
    home.read(&key, &sum, 7, sum.bytes - 7).await.unwrap();
    assert_eq!(home.server().requests(Kind::Get), 1);
    assert_eq!(home.server().requests(Kind::Head), 0);
}

#[tokio::test]
async fn wrong_bytes_are_never_given_out() {
    for home in Home::both() {
        let (key, content) = (blob_key(1), content(3 * BLOCK));
        let sum = home.land(&key, &content).await.unwrap();
        let damaged = |result: Result<_, (Vec<u8>, StoreError)>| match result.unwrap_err() {
            (found, StoreError::Damaged(_)) => found,
            (_, other) => panic!("{other:?}"),
        };
        let mut changed = content.clone();
        changed[2 * BLOCK + 5] ^= 1;
        write(&home.path(&key), &changed);
        let found = damaged(home.read(&key, &sum, 0, sum.bytes).await);
        assert!(found == content[..2 * BLOCK]);
        assert!(home.read(&key, &sum, 0, 2 * BLOCK as u64).await.is_ok());

        write(&home.path(&key), &content[..BLOCK]);
        assert!(damaged(home.read(&key, &sum, 0, sum.bytes).await).is_empty());
        assert!(damaged(home.read(&key, &sum, sum.bytes - 1, sum.bytes).await).is_empty());
        std::fs::remove_file(home.path(&key)).unwrap();
        assert!(damaged(home.read(&key, &sum, 0, sum.bytes).await).is_empty());
    }
}

fn write(path: &std::path::Path, content: &[u8]) {
    use std::io::Write as _;
    std::fs::File::create(path).unwrap().write_all(content).unwrap();
}

#[tokio::test]
async fn what_is_not_a_blob_is_not_listed() {
    for home in Home::both() {
        let key = blob_key(1);
        home.land(&key, b"x").await.unwrap();
        write(&home.path(&key).with_file_name("notes.txt"), b"x");
        write(&home.path(&key).with_file_name("0".repeat(31)), b"x");
        assert_eq!(home.listed().await, [(key, 1)]);
    }
}

#[tokio::test]
async fn a_digest_can_be_slowed_and_stopped() {
    for home in Home::both() {
        let key = blob_key(1);
        home.land(&key, &content(3 * BLOCK)).await.unwrap();
        let mut told = 0;
        let (sender, said) = std::sync::mpsc::channel();
        let pace = move |bytes| {
            told += bytes;
            sender.send(told).unwrap();
            if bytes > 0 { Pace::Wait(Duration::from_nanos(1)) } else { Pace::Go }
        };
        assert!(home.blobs.digest(&key, pace).await.unwrap().is_some());
        assert_eq!(said.iter().last(), Some(3 * BLOCK));
        let stopped = home.blobs.digest(&key, |_| Pace::Stop).await;
        assert!(matches!(stopped, Err(StoreError::Closed)));
    }
}

#[tokio::test]
async fn a_received_blob_that_does_not_land_leaves_nothing() {
    for home in Home::both() {
        let received = home.spool(&blob_key(1), &content(BLOCK + 1));
        let tmp = if home.server.is_some() {
            home.dir.path().to_owned()
        } else {
            home.dir.path().join("tmp")
        };
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 1);
        drop(received);
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
        home.land(&blob_key(2), &content(BLOCK + 1)).await.unwrap();
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
        std::mem::forget(home.spool(&blob_key(3), b"left by a crash"));
        match &home.blobs {
            Blobs::Local(local) => assert_eq!(local.clear_tmp().unwrap(), 1),
            Blobs::S3(s3) => assert_eq!(s3.clear_tmp().unwrap(), 1),
        }
        assert_eq!(home.listed().await.len(), 1);
    }
}

#[tokio::test]
async fn small_bodies_never_touch_the_disk() {
    let home = Home::s3();
    let (blobs, server) = (home.blobs.clone(), home.server.unwrap());
    drop(home.dir);
    blobs.land_whole(blob_key(1), content(BLOCK).into()).await.unwrap();
    assert_eq!(server.objects("some/where").len(), 1);
    assert_eq!((server.requests(Kind::Put), server.requests(Kind::Create)), (1, 0));
}

/// Whatever happens to whichever request: whole or not there, and what is left can be found.
#[tokio::test]
async fn an_upload_in_parts_survives_or_fails_whole() {
    let steps = [
        (Kind::Create, 1),
        (Kind::UploadPart, 1),
        (Kind::UploadPart, 2),
        (Kind::UploadPart, 3),
        (Kind::Complete, 1),
    ];
    let faults = [
        Fault::SlowDown,
        Fault::Refuse(403, "AccessDenied"),
        Fault::Refuse(500, "InternalError"),
        Fault::Reset,
        Fault::LoseAnswer,
    ];
    let home = Home::s3();
    let (server, content) = (home.server(), content(11 * MIB));
    let mut landed = 0;
    for (seed, (kind, nth)) in (0..).zip(steps) {
        for (more, fault) in (0..).zip(faults) {
            let key = blob_key(seed * 10 + more);
            server.heal();
            server.fail(When::Nth(kind, nth), fault);
            let result = home.land(&key, &content).await;
            server.heal();
            let says = format!("{fault:?} at {kind:?} {nth}: {result:?}");
            if let Ok(sum) = result {
                landed += 1;
                assert!(home.read(&key, &sum, 0, sum.bytes).await.unwrap() == content, "{says}");
            }
            // The parts of a first try at `Create` whose answer was lost are nobody's.
            home.s3_blobs().abort_unfinished(in_ms(1_000_000)).await.unwrap();
            assert_eq!(server.unfinished(), 0, "{says}");
            home.blobs.purge(&key).await.unwrap();
            assert_eq!(server.objects("some/where"), [], "{says}");
        }
    }
    // All but the 403s and the answers to the very first request that were lost.
    assert!(landed >= 19, "{landed}");
}

#[tokio::test]
async fn a_store_that_goes_on_failing_is_told_as_such() {
    let home = Home::s3();
    let server = home.server();
    for fault in [Fault::SlowDown, Fault::Reset, Fault::Refuse(403, "AccessDenied")] {
        for kind in [Kind::Put, Kind::UploadPart, Kind::Complete, Kind::Create] {
            server.fail(When::All(kind), fault);
            let len = if kind == Kind::Put { 2 * BLOCK } else { 6 * MIB };
            let error = home.land(&blob_key(1), &content(len)).await.unwrap_err();
            assert!(
                matches!(error, StoreError::Unavailable { .. }),
                "{kind:?} {fault:?}: {error:?}"
            );
            server.heal();
            home.blobs.purge(&blob_key(1)).await.unwrap();
            if (kind, fault) == (Kind::Create, Fault::Reset) {
                // Those whose id we were never told.
                home.s3_blobs().abort_unfinished(in_ms(1_000_000)).await.unwrap();
            }
            assert_eq!(server.unfinished(), 0, "{kind:?} {fault:?}");
            assert_eq!(server.objects("some/where"), []);
        }
    }
    let key = blob_key(2);
    let sum = home.land(&key, &content(2 * BLOCK)).await.unwrap();
    for fault in [Fault::SlowDown, Fault::Refuse(403, "AccessDenied")] {
        for kind in [Kind::Get, Kind::Head, Kind::Delete, Kind::List] {
            server.fail(When::All(kind), fault);
        }
        let unavailable = |error: &StoreError| matches!(error, StoreError::Unavailable { .. });
        assert!(unavailable(&home.read(&key, &sum, 0, sum.bytes).await.unwrap_err().1));
        assert!(unavailable(&home.blobs.length(&key).await.unwrap_err()));
        assert!(unavailable(&home.blobs.purge(&key).await.unwrap_err()));
        assert!(unavailable(&home.blobs.list().next().await.unwrap_err()));
        server.heal();
    }
    assert!(home.read(&key, &sum, 0, sum.bytes).await.is_ok());
}

#[tokio::test]
async fn now_and_then_a_fault_is_not_noticed() {
    let home = Home::s3();
    for every in [2, 3, 5] {
        for fault in [Fault::SlowDown, Fault::Reset] {
            home.server().fail(When::Every(every), fault);
            let (key, content) = (blob_key(every as u8), content(6 * MIB));
            let sum = home.land(&key, &content).await.unwrap();
            assert!(home.read(&key, &sum, 0, sum.bytes).await.unwrap() == content);
            home.blobs.purge(&key).await.unwrap();
            home.server().heal();
        }
    }
}

#[tokio::test]
async fn a_reading_that_breaks_off_goes_on() {
    let home = Home::s3();
    let (key, content) = (blob_key(1), content(8 * MIB));
    let sum = home.land(&key, &content).await.unwrap();
    for nth in 1..=3 {
        home.server().fail(When::Nth(Kind::Get, nth), Fault::Reset);
    }
    let before = home.server().requests(Kind::Get);
    assert!(home.read(&key, &sum, 0, sum.bytes).await.unwrap() == content);
    assert_eq!(home.server().requests(Kind::Get) - before, 4);
    home.server().heal();

    // Without end: what was given out is right, and it ends.
    home.server().fail(When::All(Kind::Get), Fault::Reset);
    let (found, error) = home.read(&key, &sum, 0, sum.bytes).await.unwrap_err();
    assert!(content.starts_with(&found) && found.len() >= 4 * MIB, "{}", found.len());
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn bytes_that_change_on_their_way_are_not_given_out() {
    let home = Home::s3();
    let (key, content) = (blob_key(1), content(3 * BLOCK));
    let sum = home.land(&key, &content).await.unwrap();
    for at in [0, BLOCK, 2 * BLOCK + 1] {
        home.server().fail(When::Nth(Kind::Get, 1), Fault::Corrupt(at));
        let (found, error) = home.read(&key, &sum, 0, sum.bytes).await.unwrap_err();
        assert!(found == content[..at / BLOCK * BLOCK]);
        assert!(matches!(error, StoreError::Damaged(_)), "{error:?}");
        home.server().heal();
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_noticed_in_time_and_comes_back() {
    let home = Home::s3_with(|options| {
        options.request_timeout = Duration::from_millis(500);
        options.retries = 1;
    });
    let key = blob_key(1);
    let sum = home.land(&key, b"before").await.unwrap();
    home.server().stop();
    let error = home.land(&blob_key(2), b"meanwhile").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    home.server().start();
    assert_eq!(home.read(&key, &sum, 0, 6).await.unwrap(), b"before");

    home.server().fail(When::Next(u64::MAX), Fault::Stall);
    let started = std::time::Instant::now();
    let error = home.land(&blob_key(2), b"meanwhile").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let (_, error) = home.read(&key, &sum, 0, 6).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    home.server().heal();
    home.land(&blob_key(2), b"after").await.unwrap();
}

#[tokio::test]
async fn memory_is_bounded_however_large_the_bodies() {
    const PART: u64 = 5 << 20;
    let home = Home::s3_with(|options| {
        options.parts_parallel = 3;
        options.memory_max = 4 * PART;
    });
    let server = home.server();
    // Slow enough for parts to meet.
    server.fail(When::All(Kind::UploadPart), Fault::Slow(Duration::from_millis(1)));
    let one = content(64 * MIB);
    home.land(&blob_key(1), &one).await.unwrap();
    let most = server.most_in_flight();
    assert!((2 * PART..=3 * PART).contains(&most), "{most}");
    let body = content(12 * MIB);
    let all = (2..7u8).map(|seed| {
        let (home, body) = (&home, &body);
        async move { home.land(&blob_key(seed), body).await.unwrap() }
    });
    futures_util::future::join_all(all).await;
    let most = server.most_in_flight();
    assert!((3 * PART..=4 * PART).contains(&most), "{most}");
    assert_eq!(std::fs::read_dir(home.dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_signed_link_is_for_anybody_and_says_what_it_gives() {
    let home = Home::s3();
    let key = blob_key(1);
    home.land(&key, b"spoken word").await.unwrap();
    let disposition = "attachment; filename=\"a_b.mp3\"; filename*=UTF-8''a%22%E5%A3%B0.mp3";
    let life = Duration::from_mins(1);
    let signed = home.s3_blobs().presign(&key, disposition, "audio/mpeg", life);
    let url = signed.await.unwrap();
    let target = url.strip_prefix(&home.server().endpoint()).unwrap().to_owned();
    let address = home.server().address().to_string();
    let fetched = tokio::task::spawn_blocking(move || {
        let get =
            |target: &str| filegate_testkit::http::Request::new(&address, "GET", target).send();
        (
            get(&target),
            get(&target.replace("a_b.mp3", "x.html")),
            get(target.split('?').next().unwrap()),
        )
    });
    let (reply, forged, unsigned) = fetched.await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"spoken word".as_slice()));
    assert_eq!(reply.header("content-type"), Some("audio/mpeg"));
    assert_eq!(reply.header("content-disposition"), Some(disposition));
    assert_eq!(reply.header("cache-control"), Some("private, no-store"));
    assert_eq!((forged.status, unsigned.status), (403, 403));
}

#[tokio::test]
async fn what_a_crash_left_of_an_upload_is_found_by_its_age() {
    let home = Home::s3();
    let server = home.server();
    server.fail(When::All(Kind::Complete), Fault::SlowDown);
    server.fail(When::All(Kind::Abort), Fault::SlowDown);
    home.land(&blob_key(1), &content(6 * MIB)).await.unwrap_err();
    server.heal();
    assert_eq!(server.unfinished(), 1);
    let s3 = home.s3_blobs();
    assert_eq!(s3.unfinished(NOW).await.unwrap(), []);
    let found = s3.unfinished(in_ms(1_000_000)).await.unwrap();
    assert_eq!(found.iter().map(|upload| &upload.key).collect::<Vec<_>>(), [&blob_key(1)]);
    assert_eq!(s3.abort_unfinished(NOW).await.unwrap(), 0);
    assert_eq!(s3.abort_unfinished(in_ms(1_000_000)).await.unwrap(), 1);
    assert_eq!(server.unfinished(), 0);
}

#[tokio::test]
async fn a_sound_bucket_has_no_faults() {
    let home = Home::s3();
    let now = filegate_types::Clock::now(&filegate_types::SystemClock);
    let facts = home.s3_blobs().survey(&blob_key(1), now).await;
    assert_eq!(facts.faults, []);
    assert_eq!(facts.lifecycle, LifecycleRule::Unknown);
    assert!(facts.put.is_some());
    assert_eq!(home.server().objects(""), []);
    assert_eq!(home.server().unfinished(), 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_bucket_is_named() {
    let now = filegate_types::Clock::now(&filegate_types::SystemClock);
    let faults = async |home: &Home| home.s3_blobs().survey(&blob_key(1), now).await.faults;
    let said = |faults: Vec<S3Fault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>();

    let home = Home::s3_with(|options| options.bucket = "nowhere".to_owned());
    let found = faults(&home).await;
    assert!(matches!(found.as_slice(), [S3Fault::NoBucket(_)]), "{found:?}");

    let home = Home::s3_with(|options| options.secret_access_key = "another".to_owned());
    let found = faults(&home).await;
    assert!(matches!(found.as_slice(), [S3Fault::WrongKey(_)]), "{found:?}");

    let home = Home::s3_with(|options| options.retries = 0);
    let server = home.server();
    let refusals = [
        (Kind::List, 400, "AuthorizationHeaderMalformed", "the region is another"),
        (Kind::List, 403, "RequestTimeTooSkewed", "the clocks differ"),
        (Kind::Put, 400, "InvalidDigest", "the checksum is refused"),
        (Kind::Put, 403, "AccessDenied", "writing an object is not allowed"),
        (Kind::Get, 403, "AccessDenied", "reading an object is not allowed"),
        (Kind::Delete, 403, "AccessDenied", "deleting an object is not allowed"),
        (Kind::UploadPart, 403, "AccessDenied", "uploading in parts is not allowed"),
        (Kind::ListUploads, 501, "NotImplemented", "listing uploads in parts fails"),
    ];
    for (kind, status, code, says) in refusals {
        server.fail(When::All(kind), Fault::Refuse(status, code));
        let said = said(faults(&home).await);
        server.heal();
        assert_eq!(said.len(), 1, "{kind:?}: {said:?}");
        assert!(said[0].starts_with(says) && said[0].contains(code), "{kind:?}: {said:?}");
    }
    server.stop();
    let found = faults(&home).await;
    assert!(matches!(found.as_slice(), [S3Fault::Unreachable(_)]), "{found:?}");
}

#[tokio::test]
async fn https_is_spoken_with_the_provider_that_is_installed() {
    // The server is one of plain HTTP: that it is not understood is told, and nothing panics.
    let home = Home::s3_with(|options| {
        let plain = options.endpoint.take().unwrap();
        let encrypted = plain.as_str().replace("http://", "https://");
        options.endpoint = Some(encrypted.parse().unwrap());
        options.retries = 0;
    });
    let error = home.land(&blob_key(1), b"x").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert_eq!(home.server().requests(Kind::Put), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let home = Home::s3();
    home.server().fail(When::All(Kind::Put), Fault::Refuse(307, "TemporaryRedirect"));
    let error = home.land(&blob_key(1), b"x").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert_eq!(home.server().requests(Kind::Put), 1);
}

/// The head of the one PUT that a blob is, as a store that looks at nothing else hears it.
async fn head_of_a_put(change: impl FnOnce(&mut S3Options)) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let hears = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        let end = loop {
            let n = stream.read(&mut buffer).unwrap();
            heard.extend_from_slice(&buffer[..n]);
            if let Some(end) = heard.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
        };
        let answer =
            "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&heard[..end]).to_ascii_lowercase()
    });
    let dir = tempfile::tempdir().unwrap();
    let mut options = S3Options::parse(&format!("s3://bucket/p?endpoint={endpoint}")).unwrap();
    "key".clone_into(&mut options.access_key_id);
    "secret".clone_into(&mut options.secret_access_key);
    change(&mut options);
    options.check(512 << 20).unwrap();
    let blobs = Blobs::s3(options, dir.path()).unwrap();
    blobs.land_whole(blob_key(1), b"body".to_vec().into()).await.unwrap();
    hears.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_settings_say_of_checksum_and_encryption_is_sent() {
    let sse = "x-amz-server-side-encryption";
    let head = head_of_a_put(|_| ()).await;
    assert!(head.starts_with("put /bucket/p/"), "{head}");
    assert!(head.contains("x-amz-checksum-sha256: ") && !head.contains(sse), "{head}");
    let head = head_of_a_put(|options| {
        options.checksum = S3Checksum::None;
        options.sse = "AES256".to_owned();
    });
    let head = head.await;
    assert!(!head.contains("x-amz-checksum"), "{head}");
    assert!(head.contains(&format!("{sse}: aes256")), "{head}");
    let head = head_of_a_put(|options| {
        options.sse = "aws:kms".to_owned();
        options.sse_kms_key = "key-of-ours".to_owned();
    });
    let head = head.await;
    assert!(head.contains(&format!("{sse}: aws:kms\r\n")), "{head}");
    assert!(head.contains(&format!("{sse}-aws-kms-key-id: key-of-ours")), "{head}");
}
