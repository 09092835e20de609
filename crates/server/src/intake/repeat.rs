//! `Idempotency-Key` on uploads: the same request again is answered as the first was, and is neither
//! stored nor paid twice.
//!
//! Only a stored upload is kept (for a day, by the transaction that stores it). A refused one has changed
//! nothing, so the same key may be tried again. Which request is "the same" is known when its body is:
//! purpose, name, content and `expires_after` are what counts.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use filegate_store::{FirstAnswer, KeptAnswer};
use filegate_types::wire::FileObject;
use filegate_types::{AccountId, ApiError, ErrorCode, Principal};
use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::Received;
use crate::app::App;
use crate::http::reply::store_failed;

/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// Keys of uploads that are in progress.
#[derive(Debug, Default)]
pub(crate) struct InFlightKeys(Mutex<HashSet<(AccountId, String)>>);

/// The key of an upload, for as long as the upload is in progress.
pub(super) struct Repeatable {
    key: String,
    account: AccountId,
    keys: Arc<InFlightKeys>,
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
        let Some(key) = key_of(headers)? else { return Ok(None) };
        let account = principal.account_id;
        let keys = Arc::clone(&app.in_flight);
        if !keys.taken().insert((account, key.clone())) {
            let why = "a request with this Idempotency-Key is in progress";
            return Err(ApiError::detailed(ErrorCode::RateLimit, why).retry_after(1));
        }
        let mut this = Self { key, account, keys, kept: None };
        let kept = app.catalog.first_answer(this.owner(), this.key.clone(), app.clock.now()).await;
        this.kept = kept.map_err(|error| store_failed(&error))?;
        Ok(Some(this))
    }

    fn owner(&self) -> String {
        format!("account:{}", self.account.0)
    }

    /// What the commit keeps.
    pub(super) fn first_answer(&self, fingerprint: [u8; 32]) -> FirstAnswer {
        FirstAnswer { owner: self.owner(), key: self.key.clone(), fingerprint }
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

impl Drop for Repeatable {
    fn drop(&mut self) {
        self.keys.taken().remove(&(self.account, std::mem::take(&mut self.key)));
    }
}

impl InFlightKeys {
    fn taken(&self) -> std::sync::MutexGuard<'_, HashSet<(AccountId, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

fn key_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok().map(|text| text.trim_matches('"')),
        (Some(_), Some(_)) => None,
    };
    let fits = |text: &&str| {
        (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'))
    };
    value.filter(fits).map(|text| Some(text.to_owned())).ok_or_else(|| {
        ApiError::invalid(format_args!(
            "Idempotency-Key is not one text of 1 to {KEY_BYTES_MAX} visible ASCII characters"
        ))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&'static str]) -> Result<Option<String>, ApiError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("Idempotency-Key", HeaderValue::from_static(value));
        }
        key_of(&headers)
    }

    #[test]
    fn a_key_is_one_short_visible_text() {
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["a b-1"]).unwrap().unwrap(), "a b-1");
        // The IETF draft writes it as a quoted string, most clients do not.
        assert_eq!(of(&["\"a\""]).unwrap().unwrap(), "a");
        for bad in [&[""][..], &["a", "b"], &["\"\""]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
