//! An opened store in a temporary directory, and short ways to fill it.

use std::sync::Arc;

use filegate_store::{BlobSum, Caller, Catalog, DataDir, KeyDraft, LocalBlobs, NewFile, Reserve};
use filegate_types::{
    AccountId, BlobKey, FileRecord, FileState, KeyId, PlainKey, Scopes, UnixMillis,
};

pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

pub(crate) struct Store {
    pub(crate) home: tempfile::TempDir,
    pub(crate) catalog: Catalog,
    pub(crate) blobs: LocalBlobs,
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
        match self.catalog.authenticate(key.hash(), NOW).await.unwrap() {
            Some(Caller::Active(principal)) => (principal.account_id, key),
            other => panic!("{other:?}"),
        }
    }

    /// Uploads `content` the way the pipeline does.
    pub(crate) async fn upload(&self, account: AccountId, seed: u8, content: &[u8]) -> FileRecord {
        let key = blob_key(seed);
        self.catalog.begin_upload(account, key.clone(), NOW, in_ms(60_000)).await.unwrap();
        let sum = self.land(&key, content);
        self.catalog.commit_upload(account, new_file(key, sum), NOW).await.unwrap()
    }

    pub(crate) fn land(&self, key: &BlobKey, content: &[u8]) -> BlobSum {
        let mut temp = self.blobs.create(key.clone()).unwrap();
        temp.write(content).unwrap();
        temp.land().unwrap()
    }
}

pub(crate) fn open(path: &std::path::Path) -> (Catalog, LocalBlobs) {
    let dir = DataDir::open(path).unwrap();
    let reserve = Arc::new(Reserve::of(&dir));
    (Catalog::open(&dir, reserve).unwrap(), LocalBlobs::of(&dir))
}

pub(crate) fn in_ms(ms: i64) -> UnixMillis {
    UnixMillis(NOW.0 + ms)
}

pub(crate) fn blob_key(seed: u8) -> BlobKey {
    BlobKey::mint(NOW, [seed; 10])
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
        id_bits: [1, 2, 3, 4, 5, 6, 7, 8],
    }
}
