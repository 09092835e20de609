//! Uploads in parts that a crash left. `object_store` cannot list them: the request is made with a URL that
//! it has signed.

use filegate_types::{BlobKey, UnixMillis};
use object_store::Error;
use object_store::client::{HttpError, HttpRequestBody};
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer as _};
use serde::Deserialize;
use std::time::Duration;

use super::S3Blobs;
use crate::error::StoreError;

/// How long a URL works that is used at once.
const SIGNED_FOR: Duration = Duration::from_mins(5);
/// The most of an answer that is read.
pub(super) const ANSWER_MAX: usize = 4 << 20;

const LISTING: &str = "listing uploads in parts";
const ABORTING: &str = "aborting an upload in parts";

/// `ListMultipartUploadsResult`, as far as it is of use.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    upload: Vec<ListedUpload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedUpload {
    key: String,
    upload_id: String,
}

/// An answer of the store to a request of our own.
pub(super) struct Answer {
    pub(super) status: http::StatusCode,
    pub(super) date: Option<String>,
    pub(super) body: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Sign(#[from] Error),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the answer is too long")]
    TooLong,
    #[error("the signed URL is not one")]
    Url(#[from] http::Error),
}

/// An upload in parts that has neither been completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The blob that it was to become.
    pub key: BlobKey,
    id: String,
}

impl S3Blobs {
    /// Uploads in parts whose blob was minted before `before`. A crash left them, unless it is one that has
    /// been received for that long.
    pub async fn unfinished(&self, before: UnixMillis) -> Result<Vec<Unfinished>, StoreError> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (String::new(), String::new());
        loop {
            let page = self.unfinished_page(&key_marker, &id_marker).await?;
            found.extend(page.upload.into_iter().filter_map(|upload| {
                let key = self.key_of(&upload.key).filter(|key| key.minted_at() < before)?;
                Some(Unfinished { key, id: upload.upload_id })
            }));
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if !page.is_truncated || next == (key_marker.clone(), id_marker.clone()) {
                return Ok(found);
            }
            (key_marker, id_marker) = next;
        }
    }

    /// Removes the parts of an upload; its absence is success.
    pub async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
        let path = self.path_of(&upload.key);
        match self.shared.bucket.abort_multipart(&path, &upload.id).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::unavailable(ABORTING, error)),
        }
    }

    /// As [`unfinished`](Self::unfinished), and removes their parts. Says how many.
    pub async fn abort_unfinished(&self, before: UnixMillis) -> Result<u64, StoreError> {
        let found = self.unfinished(before).await?;
        for upload in &found {
            self.abort(upload).await?;
        }
        Ok(found.len() as u64)
    }

    /// Removes the parts of uploads that were to become the blob of `key`, which nobody is at work on any more.
    ///
    /// A store that does not list them, or not for our key, is left to its lifecycle rule.
    pub async fn abort_parts_of(&self, key: &BlobKey) -> Result<(), StoreError> {
        let path = self.path_of(key);
        let answer = self.ask_uploads(path.as_ref(), "", "").await?;
        if answer.status.is_client_error() || answer.status == http::StatusCode::NOT_IMPLEMENTED {
            tracing::debug!(status = answer.status.as_u16(), "blobs.parts.unlisted");
            return Ok(());
        }
        for upload in listed(&answer)?.upload {
            match self.shared.bucket.abort_multipart(&path, &upload.upload_id).await {
                // Some stores refuse where S3 says that there is none.
                Ok(()) | Err(Error::NotFound { .. } | Error::PermissionDenied { .. }) => {}
                Err(error) => return Err(StoreError::unavailable(ABORTING, error)),
            }
        }
        Ok(())
    }

    async fn unfinished_page(
        &self,
        key_marker: &str,
        id_marker: &str,
    ) -> Result<Listed, StoreError> {
        let root = self.shared.options.root();
        listed(&self.ask_uploads(&root, key_marker, id_marker).await?)
    }

    async fn ask_uploads(
        &self,
        prefix: &str,
        key_marker: &str,
        id_marker: &str,
    ) -> Result<Answer, StoreError> {
        let mut query = vec![("uploads", ""), ("prefix", prefix)];
        if !key_marker.is_empty() {
            query.extend([("key-marker", key_marker), ("upload-id-marker", id_marker)]);
        }
        let asked = self.ask(&Path::default(), &query).await;
        asked.map_err(|error| StoreError::unavailable(LISTING, error))
    }

    /// Makes a GET that `object_store` does not know.
    pub(super) async fn ask(
        &self,
        path: &Path,
        query: &[(&str, &str)],
    ) -> Result<Answer, AskError> {
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = SignedUrlOptions::default().with_query(query);
        let bucket = &self.shared.bucket;
        let url = bucket.signed_url_opts(Method::GET, path, SIGNED_FOR, &options).await?;
        let request = http::Request::get(url.as_str()).body(HttpRequestBody::empty())?;
        let (parts, body) = self.shared.http.execute(request).await?.into_parts();
        let date = parts.headers.get("date").and_then(|date| date.to_str().ok());
        let mut text = Vec::new();
        let mut pieces = body.bytes_stream();
        while let Some(piece) = futures_util::StreamExt::next(&mut pieces).await {
            text.extend_from_slice(&piece?);
            if text.len() > ANSWER_MAX {
                return Err(AskError::TooLong);
            }
        }
        Ok(Answer {
            status: parts.status,
            date: date.map(str::to_owned),
            body: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

fn listed(answer: &Answer) -> Result<Listed, StoreError> {
    if !answer.status.is_success() {
        let why = format!("HTTP {}: {}", answer.status, answer.body);
        return Err(StoreError::unavailable(LISTING, why));
    }
    quick_xml::de::from_str(&answer.body).map_err(|error| StoreError::unavailable(LISTING, error))
}
