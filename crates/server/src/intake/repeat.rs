//! `Idempotency-Key` on uploads: the same request again is answered as the first was, and is neither
//! stored nor paid twice.
//!
//! Only a stored upload is kept (for a day, by the transaction that stores it). A refused one has changed
//! nothing, so the same key may be tried again. Which request is "the same" is known when its body is:
//! purpose, name, content and `expires_after` are what counts.

use filegate_types::wire::FileObject;
use filegate_types::{ApiError, ErrorCode};
use sha2::{Digest, Sha256};

use super::Received;
use crate::http::idempotency::Repeatable;

/// The first answer, if this is the same upload.
pub(super) fn replay(
    repeatable: &Repeatable,
    fingerprint: [u8; 32],
) -> Result<Box<FileObject>, ApiError> {
    let kept = repeatable.replay(fingerprint, "upload: its purpose, file or expires_after")?;
    let reply = kept.map_or(&[][..], |kept| &kept.reply);
    serde_json::from_slice(reply).map(Box::new).map_err(|error| {
        tracing::error!(%error, "idempotency.reply.damaged");
        ErrorCode::Unknown.into()
    })
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
