//! `filegate doctor` on what replicas share: each fault by its name, with what to do.

use std::process::Command;

use filegate_testkit::postgres::{Postgres, query};
use filegate_testkit::redis::Redis;
use filegate_testkit::s3::{Fault, Kind, S3Server, When};
use filegate_testkit::server::clean_environment;
use serde_json::Value;

/// What a replica stands on, as the environment says it.
struct Stores {
    postgres: Postgres,
    s3: S3Server,
    redis: Redis,
    database: String,
    home: tempfile::TempDir,
}

impl Stores {
    fn new() -> Self {
        let postgres = Postgres::new();
        let database = postgres.database();
        let home = tempfile::tempdir().unwrap();
        Self { postgres, s3: S3Server::start_new(), redis: Redis::start(), database, home }
    }

    /// Runs the doctor with these changes to a sound installation; gives each finding as `verdict subject: text`.
    fn doctor(&self, wrapper: &[&str], changes: &[(&str, &str)]) -> Vec<String> {
        let mut words = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_filegate")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["doctor", "--json"]);
        clean_environment(&mut command);
        command.envs([
            ("FILEGATE_DATA_DIR", self.home.path().to_str().unwrap()),
            ("FILEGATE_LISTEN", "127.0.0.1:0"),
            ("FILEGATE_ADMIN_LISTEN", "127.0.0.1:0"),
            ("FILEGATE_DATABASE_URL", &self.database),
            ("FILEGATE_BLOB_URL", &self.s3.url("doctor")),
            ("FILEGATE_S3__ACCESS_KEY_ID", self.s3.access_key()),
            ("FILEGATE_S3__SECRET_ACCESS_KEY", self.s3.secret_key()),
            ("FILEGATE_S3__RETRIES", "0"),
            ("FILEGATE_REDIS_URL", self.redis.url()),
            ("FILEGATE_REDIS__TIMEOUT", "3s"),
        ]);
        command.envs(changes.iter().copied());
        let output = command.output().unwrap();
        let found: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| {
                let finding: Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| finding[name].as_str().unwrap().to_owned();
                format!("{} {}: {}", text("verdict"), text("subject"), text("text"))
            })
            .collect();
        let fails = found.iter().any(|finding| finding.starts_with("fail"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(fails)), "{found:#?} {stderr}");
        for secret in [self.s3.secret_key(), "hidden"] {
            assert!(!found.concat().contains(secret) && !stderr.contains(secret), "{found:#?}");
        }
        found
    }

    #[track_caller]
    fn says(&self, changes: &[(&str, &str)], verdict: &str, texts: &[&str]) {
        let found = self.doctor(&[], changes);
        let told = |finding: &&String| {
            finding.starts_with(verdict) && texts.iter().all(|text| finding.contains(text))
        };
        assert!(found.iter().any(|finding| told(&finding)), "{verdict} {texts:?}: {found:#?}");
    }
}

#[test]
fn a_sound_installation_is_told_to_be_one_and_left_as_it_was() {
    let stores = Stores::new();
    let found = stores.doctor(&[], &[]);
    let subject = |name: &str| {
        let finding = found.iter().find(|finding| finding.contains(&format!(" {name}: ")));
        finding.unwrap_or_else(|| panic!("{name}: {found:#?}")).as_str()
    };
    assert!(subject("database").ends_with("nothing in it yet"));
    for name in ["database", "connections", "database clock", "bucket", "redis", "redis clock"] {
        assert!(subject(name).starts_with("ok "), "{}", subject(name));
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(query(&stores.database, tables).unwrap(), [[Some("0".to_owned())]]);
    assert_eq!(stores.s3.objects(""), []);
}

#[test]
fn what_is_wrong_with_the_database_is_named() {
    let stores = Stores::new();
    let named = |name: &str| {
        let (server, _) = stores.database.rsplit_once('/').unwrap();
        format!("{server}/{name}")
    };
    let url = |url: &str| [("FILEGATE_DATABASE_URL", url.to_owned())];
    let says = |change: [(&str, String); 1], texts: &[&str]| {
        let [(name, value)] = &change;
        stores.says(&[(name, value)], "fail database: ", texts);
    };
    says(url("postgres://me:hidden@127.0.0.1:1/x"), &["refused", "check host, port and network"]);
    says(url("postgres://nobody:hidden@127.0.0.1"), &[]);
    says(url(&named("absent")), &["\"absent\" does not exist", "correct it in database_url"]);
    stores.says(
        &[("FILEGATE_DATABASE__CONNECTIONS", "9000")],
        "warn connections: ",
        &["takes up to 9000", "raise max_connections"],
    );
    query(&stores.database, "CREATE TABLE filegate_schema (version BIGINT, oldest_reader BIGINT)")
        .unwrap();
    query(&stores.database, "INSERT INTO filegate_schema VALUES (999, 998)").unwrap();
    stores.says(&[], "ok database: ", &["schema 999 of a newer filegate"]);
    stores.says(&[], "fail catalog: ", &["schema version 999", "use a newer filegate"]);
    let name = stores.database.rsplit_once('/').unwrap().1;
    let standby = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on");
    query(stores.postgres.url(), &standby).unwrap();
    stores.says(&[], "fail database: ", &["cannot be written to", "name the primary"]);
}

#[test]
fn what_is_wrong_with_the_bucket_is_named() {
    let stores = Stores::new();
    let absent = stores.s3.url("doctor").replace("s3://", "s3://absent-");
    let fail = "fail bucket: ";
    stores.says(&[("FILEGATE_BLOB_URL", &absent)], fail, &["no such bucket", "make the bucket"]);
    let secret = [("FILEGATE_S3__SECRET_ACCESS_KEY", "hidden")];
    stores.says(&secret, fail, &["check s3.access_key_id and s3.secret_access_key"]);
    for (kind, status, code, texts) in [
        (Kind::List, 400, "AuthorizationHeaderMalformed", ["the region is another", "?region="]),
        (Kind::Put, 400, "InvalidDigest", ["checksum is refused", "s3.checksum = \"none\""]),
        (Kind::Put, 403, "AccessDenied", ["writing an object is not allowed", "PutObject"]),
        (Kind::Delete, 403, "AccessDenied", ["deleting an object is not allowed", "DeleteObject"]),
    ] {
        stores.s3.fail(When::All(kind), Fault::Refuse(status, code));
        stores.says(&[], fail, &texts);
        stores.s3.heal();
    }
    stores.s3.fail(When::All(Kind::Other), Fault::Refuse(404, "NoSuchLifecycleConfiguration"));
    stores.says(&[], "warn lifecycle: ", &["AbortIncompleteMultipartUpload"]);
    stores.s3.stop();
    stores.says(&[], fail, &["does not answer", "check endpoint in blob_url"]);
}

#[test]
fn what_is_wrong_with_redis_is_named() {
    let mut stores = Stores::new();
    let none = [("FILEGATE_REDIS_URL", ""), ("FILEGATE_LIMITS__SCOPE", "shared")];
    stores.says(&none, "warn redis: ", &["per-replica"]);
    stores.redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    stores.says(&[], "warn redis memory: ", &["allkeys-lru", "use noeviction"]);
    stores.redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    stores.says(&[], "fail redis: ", &["takes no writes", "name a primary"]);
    stores.redis.stop();
    let url = stores.redis.url().replace("redis://", "redis://:hidden@");
    let away = [("FILEGATE_REDIS_URL", url.as_str())];
    stores.says(&away, "fail redis: ", &["check redis_url", "each replica counts by itself"]);
}

/// The clock of this program is put forward, and so that of nobody else.
#[test]
fn clocks_that_differ_are_told() {
    let stores = Stores::new();
    let found = stores.doctor(&["faketime", "-f", "+10m"], &[]);
    for (finding, text) in [
        ("warn database clock: ", "600.0 s behind ours: run NTP"),
        ("warn redis clock: ", "600.0 s behind ours: run NTP"),
        ("fail bucket: ", "the clocks differ"),
    ] {
        let told = |line: &&String| line.starts_with(finding) && line.contains(&text[5..]);
        assert!(found.iter().any(|line| told(&line)), "{finding} {text}: {found:#?}");
    }
}
