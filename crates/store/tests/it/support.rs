//! An opened store in a temporary directory, and short ways to fill it.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use filegate_store::{
    BlobSum, Blobs, Caller, Catalog, CommitOutcome, DataDir, KeyDraft, LocalBlobs, NewFile,
    NewUpload, OnChannel, Pace, PostgresOptions, Reserve, Short, SmallBlob, StoreError,
    WholeUpload, sweep,
};
use filegate_testkit::postgres::{Postgres, query};
use filegate_testkit::server::eventually;
use filegate_types::units::Bytes;
use filegate_types::{
    AccountId, BlobKey, Call, ChannelId, FileRecord, FileState, KeyId, PlainKey, Scopes,
    TenantLimits, UnixMillis,
};

pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// How long a job may take in these tests.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// Each test named, on both databases.
macro_rules! on_both {
    ($($name:ident,)+) => {
        mod sqlite {
            use crate::support::Store;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(Store::on_sqlite()).await;
                }
            )+
        }
        mod postgres {
            use crate::support::Store;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(Store::on_postgres().await).await;
                }
            )+
        }
    };
}
pub(crate) use on_both;

/// A store with what is beside it. On PostgreSQL there are two replicas; what runs in parallel goes
/// through both, see [`Store::replica`].
pub(crate) struct Store {
    pub(crate) home: tempfile::TempDir,
    pub(crate) catalog: Catalog,
    pub(crate) beside: Catalog,
    pub(crate) blobs: Blobs,
    database: Option<(Postgres, String)>,
}

impl Store {
    pub(crate) fn on_sqlite() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (catalog, blobs) = open(home.path());
        Self { home, beside: catalog.clone(), catalog, blobs, database: None }
    }

    pub(crate) async fn on_postgres() -> Self {
        Self::in_cluster(Postgres::new()).await
    }

    pub(crate) async fn in_cluster(cluster: Postgres) -> Self {
        let home = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(&DataDir::open(home.path()).unwrap());
        let url = cluster.database();
        let catalog = Catalog::connect(options(&url)).await.unwrap();
        let beside = Catalog::connect(options(&url)).await.unwrap();
        Self { home, catalog, beside, blobs, database: Some((cluster, url)) }
    }

    /// The replica that the n-th call goes to.
    pub(crate) fn replica(&self, n: u64) -> Catalog {
        if n.is_multiple_of(2) { self.catalog.clone() } else { self.beside.clone() }
    }

    /// What a new process opens.
    pub(crate) async fn reopened(&self) -> Catalog {
        match &self.database {
            None => open(self.home.path()).0,
            Some((_, url)) => Catalog::connect(options(url)).await.unwrap(),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.database.as_ref().expect("it is on PostgreSQL").1
    }

    pub(crate) fn cluster(&mut self) -> &mut Postgres {
        &mut self.database.as_mut().expect("it is on PostgreSQL").0
    }

    /// Returns when every change whose caller is gone has been made.
    pub(crate) async fn settled(&self) {
        match &self.database {
            // It queues behind them.
            None => self.catalog.meta_set("settled", vec![]).await.unwrap(),
            Some((_, url)) => eventually("no transaction is open", || {
                let others = "SELECT count(*) FROM pg_stat_activity
                              WHERE datname = current_database() AND pid <> pg_backend_pid()
                                AND state <> 'idle'";
                (query(url, others).unwrap()[0][0].as_deref() == Some("0")).then_some(())
            }),
        }
    }

    /// Rows as text.
    pub(crate) fn rows(&self, select: &str) -> Vec<Vec<Option<String>>> {
        self.try_sql(select).unwrap()
    }

    /// Runs statements as somebody would who goes around the catalog.
    pub(crate) fn try_sql(&self, statements: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        if let Some((_, url)) = &self.database {
            return query(url, statements);
        }
        let connection = rusqlite::Connection::open(self.catalog.path().unwrap()).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        sqlite_rows(&connection, statements).map_err(|error| error.to_string())
    }

    pub(crate) async fn account(&self, name: &str, seed: u8) -> (AccountId, PlainKey) {
        let key = PlainKey::from_random([seed; 32]);
        let draft = KeyDraft {
            account: name.to_owned(),
            name: "test".to_owned(),
            hash: key.hash(),
            hint: key.hint().to_owned(),
            scopes: Scopes::all(),
            expires_at: None,
        };
        self.catalog.create_key(draft, NOW).await.unwrap();
        match self.catalog.authenticate(key.hash(), Call::List, NOW).await.unwrap() {
            Some(Caller::Active(principal)) => (principal.account_id, key),
            other => panic!("{other:?}"),
        }
    }

    /// Uploads `content` the way the pipeline does.
    pub(crate) async fn upload(&self, account: AccountId, seed: u8, content: &[u8]) -> FileRecord {
        let key = blob_key(seed);
        self.begin(account, &key, in_ms(60_000)).await;
        let sum = self.land(&key, content).await;
        self.commit(account, new_file(key, sum)).await
    }

    pub(crate) async fn begin(&self, account: AccountId, key: &BlobKey, lease_until: UnixMillis) {
        let upload = new_upload(account, key, lease_until);
        self.catalog.begin_upload(upload, NOW).await.unwrap().unwrap();
    }

    pub(crate) async fn commit(&self, account: AccountId, file: NewFile) -> FileRecord {
        match self.catalog.commit_upload(account, file, NOW).await.unwrap() {
            CommitOutcome::Committed(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    /// As an upload that has no row before.
    pub(crate) async fn commit_whole(
        &self,
        account: AccountId,
        file: NewFile,
    ) -> Result<CommitOutcome, Short> {
        commit_whole(&self.catalog, account, file).await
    }

    pub(crate) async fn land(&self, key: &BlobKey, content: &[u8]) -> BlobSum {
        self.blobs.land_whole(key.clone(), content.to_vec().into()).await.unwrap()
    }
}

pub(crate) async fn commit_whole(
    catalog: &Catalog,
    account: AccountId,
    file: NewFile,
) -> Result<CommitOutcome, Short> {
    let catalog = catalog.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    let calling = tokio::task::spawn_blocking(move || {
        let key = file.blob_key.clone();
        let upload = WholeUpload { account, at: NOW, file };
        catalog.commit_whole(upload, key, |outcome| drop(tell.send(outcome)));
        catalog.commit_queued(true);
    });
    calling.await.unwrap();
    told.await.unwrap().unwrap()
}

/// A store whose start has found that there can be packs.
pub(crate) async fn started() -> Store {
    let store = Store::on_sqlite();
    assert!(!local(&store.blobs).has_packs());
    assert_eq!(sweep(&store.catalog, &store.blobs).await.unwrap(), 0);
    assert!(local(&store.blobs).has_packs());
    store
}

pub(crate) fn local(blobs: &Blobs) -> &LocalBlobs {
    blobs.as_local().unwrap()
}

/// Appends a blob with its entry to a pack.
pub(crate) fn append(
    blobs: &Blobs,
    key: BlobKey,
    content: &[u8],
    entry: Vec<u8>,
) -> Result<(BlobKey, BlobSum), StoreError> {
    let blob = SmallBlob::from(content.to_vec());
    let (sum, (tell, told)) = (blob.sum(), mpsc::channel());
    if local(blobs).queue(key, blob, entry, move |landed| tell.send(landed).unwrap()) {
        while local(blobs).append_queued() {}
    }
    told.recv().unwrap().map(|key| (key, sum))
}

pub(crate) fn digest(blobs: &Blobs, key: &BlobKey) -> Option<(u64, [u8; 32])> {
    local(blobs).digest(key, |_| Pace::Go).unwrap()
}

pub(crate) fn open(path: &std::path::Path) -> (Catalog, Blobs) {
    let dir = DataDir::open(path).unwrap();
    let reserve = Arc::new(Reserve::of(&dir));
    (Catalog::open(&dir, reserve).unwrap(), Blobs::local(&dir))
}

pub(crate) fn options(url: &str) -> PostgresOptions {
    PostgresOptions {
        url: url.to_owned(),
        connections: 6,
        connect_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(10),
        wait: Duration::from_mins(1),
    }
}

fn sqlite_rows(
    connection: &rusqlite::Connection,
    statements: &str,
) -> rusqlite::Result<Vec<Vec<Option<String>>>> {
    let Ok(mut statement) = connection.prepare(statements) else {
        connection.execute_batch(statements)?;
        return Ok(vec![]);
    };
    if statement.column_count() == 0 {
        drop(statement);
        connection.execute_batch(statements)?;
        return Ok(vec![]);
    }
    let columns = statement.column_count();
    let text = |value: rusqlite::types::Value| match value {
        rusqlite::types::Value::Null => None,
        rusqlite::types::Value::Integer(number) => Some(number.to_string()),
        rusqlite::types::Value::Text(text) => Some(text),
        other => Some(format!("{other:?}")),
    };
    statement.query_map([], |row| (0..columns).map(|i| row.get(i).map(text)).collect())?.collect()
}

/// Changes rows as an operator would, but without the operator's door.
pub(crate) fn sql(store: &Store, statements: &str) {
    store.try_sql(statements).unwrap();
}

/// Makes a channel.
pub(crate) fn channel(store: &Store, id: ChannelId) {
    let empty = if store.catalog.is_shared() { "''" } else { "x''" };
    sql(
        store,
        &format!(
            "INSERT INTO channels (channel_id, name, base_url, sealed_key, key_hint, created_at)
             VALUES ({id}, 'channel {id}', 'https://api.example', {empty}, 'abcd', 0)"
        ),
    );
}

pub(crate) fn in_ms(ms: i64) -> UnixMillis {
    UnixMillis(NOW.0 + ms)
}

pub(crate) fn blob_key(seed: u8) -> BlobKey {
    BlobKey::mint(NOW, [seed; 10])
}

pub(crate) fn new_upload(
    account: AccountId,
    blob_key: &BlobKey,
    lease_until: UnixMillis,
) -> NewUpload {
    NewUpload {
        account,
        key: KeyId(1),
        blob_key: blob_key.clone(),
        lease_until,
        purpose: Some("voice_clone".parse().unwrap()),
        bytes_max: Bytes::mib(1),
        free: false,
    }
}

pub(crate) fn new_file(blob_key: BlobKey, sum: BlobSum) -> NewFile {
    NewFile {
        purpose: "voice_clone".parse().unwrap(),
        filename: "voice.mp3".to_owned(),
        blob_key,
        sum,
        media_type: "audio/mpeg".to_owned(),
        media: serde_json::json!({"format": "mp3"}),
        expires_at: None,
        key_id: KeyId(1),
        state: FileState::Ready,
        verdict: None,
        limits: TenantLimits::default(),
        first_answer: None,
        upstream: OnChannel::Nowhere,
        id_bits: [1, 2, 3, 4, 5, 6, 7, 8],
    }
}
