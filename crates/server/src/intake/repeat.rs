//! `Idempotency-Key` on uploads: the same request again is answered as the first was, and is neither
//! stored nor paid twice.
//!
//! Only a stored upload is kept (for a day, by the transaction that stores it). A refused one has changed
//! nothing, so the same key may be tried again. Which request is "the same" is known when its body is:
//! purpose, name, content and `expires_after` are what counts.

use filegate_store::{FirstAnswer, KeptAnswer};
use filegate_types::wire::FileObject;
use filegate_types::{ApiError, ErrorCode, Principal};
use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::Received;
use crate::app::App;
use crate::http::idempotency::{NOT_A_KEY, NotAKey, Taken, key_of};
use crate::http::reply::store_failed;

/// The key of an upload, for as long as the upload is in progress.
pub(super) struct Repeatable {
    taken: Taken,
    /// What was answered to the key before.
    pub(super) kept: Option<KeptAnswer>,
}

impl Repeatable {
    /// Reads the header, takes the key and looks for a first answer. `None` without the header.
    pub(super) async fn begin(
        app: &App,
        principal: &Principal,
        headers: &HeaderMap,
    ) -> Result<Option<Self>, ApiError> {
        let key = key_of(headers)
            .map_err(|NotAKey| ApiError::invalid(format_args!("Idempotency-Key {NOT_A_KEY}")))?;
        let Some(key) = key else { return Ok(None) };
        let owner = format!("account:{}", principal.account_id.0);
        let taken = app.in_flight.take(owner, key).ok_or_else(|| {
            let why = "a request with this Idempotency-Key is in progress";
            ApiError::detailed(ErrorCode::RateLimit, why).retry_after(1)
        })?;
        let (owner, key) = (taken.owner.clone(), taken.key.clone());
        let kept = app.catalog.first_answer(owner, key, app.clock.now()).await;
        Ok(Some(Self { taken, kept: kept.map_err(|error| store_failed(&error))? }))
    }

    /// What the commit keeps.
    pub(super) fn first_answer(&self, fingerprint: [u8; 32]) -> FirstAnswer {
        let (owner, key) = (self.taken.owner.clone(), self.taken.key.clone());
        FirstAnswer { owner, key, fingerprint }
    }

    /// The first answer, if this is the same request.
    pub(super) fn replay(
        kept: &KeptAnswer,
        fingerprint: [u8; 32],
    ) -> Result<Box<FileObject>, ApiError> {
        if kept.fingerprint != fingerprint {
            return Err(ApiError::invalid(
                "this Idempotency-Key was used for another upload: its purpose, file or expires_after differ",
            ));
        }
        serde_json::from_slice(&kept.reply).map(Box::new).map_err(|error| {
            tracing::error!(%error, "idempotency.reply.damaged");
            ErrorCode::Unknown.into()
        })
    }
}

/// What makes two uploads the same request.
pub(super) fn fingerprint(received: &Received, sha256: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let expires = received.expires_after.map(|span| span.to_string()).unwrap_or_default();
    for field in [received.purpose.as_str(), &received.filename, &expires] {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field.as_bytes());
    }
    hash.update(sha256);
    hash.finalize().into()
}
