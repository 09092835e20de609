//! An opened store in a temporary directory, and short ways to fill it.

use std::sync::Arc;

use filegate_store::{
    BlobSum, Blobs, Caller, Catalog, CommitOutcome, DataDir, KeyDraft, NewFile, NewUpload, Reserve,
};
use filegate_types::units::Bytes;
use filegate_types::{
    AccountId, BlobKey, Call, FileRecord, FileState, KeyId, PlainKey, Scopes, TenantLimits,
    UnixMillis,
};

pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

pub(crate) struct Store {
    pub(crate) home: tempfile::TempDir,
    pub(crate) catalog: Catalog,
    pub(crate) blobs: Blobs,
}

impl Store {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (catalog, blobs) = open(home.path());
        Self { home, catalog, blobs }
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

    pub(crate) async fn land(&self, key: &BlobKey, content: &[u8]) -> BlobSum {
        self.blobs.land_whole(key.clone(), content.to_vec()).await.unwrap()
    }
}

pub(crate) fn open(path: &std::path::Path) -> (Catalog, Blobs) {
    let dir = DataDir::open(path).unwrap();
    let reserve = Arc::new(Reserve::of(&dir));
    (Catalog::open(&dir, reserve).unwrap(), Blobs::local(&dir))
}

/// Changes rows as an operator would, but without the operator's door.
pub(crate) fn sql(store: &Store, statement: &str) {
    let connection = rusqlite::Connection::open(store.catalog.path()).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    connection.execute_batch(statement).unwrap();
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
        id_bits: [1, 2, 3, 4, 5, 6, 7, 8],
    }
}
