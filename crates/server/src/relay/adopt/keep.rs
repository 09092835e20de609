//! The bytes of an adopted file are brought here.
//!
//! ```text
//! 1 row      in `uploads`, with a lease                            crash: reaped
//! 2 spool    from upstream into tmp/, capped                       crash: reaped
//! 3 land     durable                                               crash: reaped, purged
//! 4 commit   a row in `files` under the same id. COMMIT POINT      crash before: the job does it again
//! ```

use std::sync::Arc;
use std::time::Duration;

use filegate_store::{BlobSum, KeepOutcome, NewFile, NewUpload, OnChannel, StoreError, TempBlob};
use filegate_types::purpose::PurposePolicy;
use filegate_types::units::Bytes;
use filegate_types::{AccountId, BlobKey, FileId, FileState, KeyId, UnixMillis};
use futures_util::StreamExt as _;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use super::{Content, Refused, bytes_of, media_type};
use crate::app::{App, random};
use crate::intake::{expiry, id_bits};

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is here now, or nobody has it any more.
    Done,
    /// It is not here yet, and may be later.
    Later(String),
    /// It will never be.
    Never(String),
}

/// Brings the bytes of an adopted file here.
///
/// # Errors
/// Those of the store.
pub(crate) async fn keep(
    app: &Arc<App>,
    account: AccountId,
    file_id: FileId,
) -> Result<Kept, StoreError> {
    let Some(file) = app.catalog.adopted(account, file_id, app.clock.now()).await? else {
        return Ok(Kept::Done);
    };
    let Some(terms) = app.catalog.account_terms(account).await? else { return Ok(Kept::Done) };
    let (content, length) = match bytes_of(app, &file).await {
        Ok((content, length)) if content.status == StatusCode::OK => (content, length),
        Ok((content, _)) => return Ok(Kept::Later(format!("HTTP {}", content.status))),
        Err(refused) if refused.is_gone() => return Ok(Kept::Done),
        Err(Refused::Theirs(words)) if words.status_code == 2013 => {
            return Ok(Kept::Never(words.status_msg));
        }
        Err(refused) => return Ok(Kept::Later(refused.why())),
    };
    // One that ends with its connection may have been cut off.
    if ![CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| content.headers.contains_key(name)) {
        return Ok(Kept::Later("its length is not told".to_owned()));
    }
    let policy = app.config.purposes.get(&file.purpose);
    let cap = policy.map(PurposePolicy::bytes_max).filter(|cap| cap.0 > 0);
    let cap = cap.unwrap_or(app.config.relay.body_max);
    let media_type = media_type(&content.headers).to_str().unwrap_or_default().to_owned();
    let mut lease = Lease::begin(app, account, file.key_id, cap).await?;
    let landed = spool(app, &mut lease, content, cap).await;
    let sum = match landed {
        Ok(Ok(sum)) if length > 0 && sum.bytes != length => {
            lease.give_up(app).await?;
            let why = format!("{} bytes came of {length}", sum.bytes);
            return Ok(Kept::Later(why));
        }
        Ok(Ok(sum)) => sum,
        Ok(Err(why)) => {
            lease.give_up(app).await?;
            return Ok(why);
        }
        Err(error) => {
            lease.give_up(app).await?;
            return Err(error);
        }
    };
    let now = app.clock.now();
    let new = NewFile {
        purpose: file.purpose.clone(),
        filename: file.filename.clone(),
        blob_key: lease.key.clone(),
        sum,
        media_type,
        media: serde_json::json!({}),
        expires_at: policy.and_then(|policy| expiry(policy.keep, None, &terms.settings, now)),
        key_id: file.key_id.unwrap_or(KeyId(0)),
        state: FileState::Ready,
        verdict: None,
        limits: terms.limits.or(&app.config.limits.account),
        first_answer: None,
        upstream: OnChannel::Nowhere,
        id_bits: id_bits(),
    };
    match app.catalog.keep_adopted(account, file_id, new, now).await? {
        KeepOutcome::Kept(record) => {
            tracing::info!(%file_id, bytes = record.bytes, "relay.adopted.kept");
            Ok(Kept::Done)
        }
        KeepOutcome::OverQuota(_) => {
            lease.give_up(app).await?;
            Ok(Kept::Later("the account has no room for it".to_owned()))
        }
        KeepOutcome::Gone => {
            lease.give_up(app).await?;
            Ok(Kept::Done)
        }
    }
}

/// Steps 2 and 3; the inner error says why there is no blob.
async fn spool(
    app: &Arc<App>,
    lease: &mut Lease,
    mut content: Content,
    cap: Bytes,
) -> Result<Result<BlobSum, Kept>, StoreError> {
    let mut temp = lease.create(app).await?;
    while let Some(piece) = content.body.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => return Ok(Err(Kept::Later(format!("it broke off: {error}")))),
        };
        if temp.bytes() + piece.len() as u64 > cap.0 {
            return Ok(Err(Kept::Never(format!("it has more than {cap}"))));
        }
        let written = app.tasks.blocking(move || temp.write(&piece).map(|()| temp)).await;
        temp = written.map_err(|_panic| StoreError::Closed)??;
        lease.renew(app).await?;
    }
    // An S3 store may take its time.
    let pause = app.config.jobs.upload_lease.0 / 4;
    let mut landing = std::pin::pin!(app.blobs.land(temp));
    loop {
        tokio::select! {
            landed = &mut landing => return landed.map(Ok),
            () = tokio::time::sleep(pause) => lease.renew(app).await?,
        }
    }
}

/// The row of the upload, for as long as it is renewed.
struct Lease {
    key: BlobKey,
    until: UnixMillis,
    length: Duration,
}

impl Lease {
    async fn begin(
        app: &App,
        account: AccountId,
        key_id: Option<KeyId>,
        bytes_max: Bytes,
    ) -> Result<Self, StoreError> {
        let (now, length) = (app.clock.now(), app.config.jobs.upload_lease.0);
        let lease = Self { key: BlobKey::mint(now, random()), until: now.plus(length), length };
        let upload = NewUpload {
            account,
            key: key_id.unwrap_or(KeyId(0)),
            blob_key: lease.key.clone(),
            lease_until: lease.until,
            purpose: None,
            bytes_max,
            free: true,
        };
        let _free = app.catalog.begin_upload(upload, now).await?;
        Ok(lease)
    }

    async fn create(&self, app: &App) -> Result<TempBlob, StoreError> {
        let (blobs, key) = (app.blobs.clone(), self.key.clone());
        let made = app.tasks.blocking(move || blobs.create(key)).await;
        made.map_err(|_panic| StoreError::Closed)?
    }

    /// When half of it is used up.
    async fn renew(&mut self, app: &App) -> Result<(), StoreError> {
        let now = app.clock.now();
        if now < self.until.minus(self.length / 2) {
            return Ok(());
        }
        self.until = now.plus(self.length);
        let renewed = app.catalog.renew_upload(self.key.clone(), self.until).await?;
        if renewed { Ok(()) } else { Err(StoreError::LeaseLost) }
    }

    /// Removes what there is. Where that fails the row stays, and the reaper does it.
    async fn give_up(self, app: &App) -> Result<(), StoreError> {
        app.blobs.purge_upload(&self.key).await?;
        app.catalog.abort_upload(self.key).await
    }
}
