//! The `Idempotency-Key` of a request, and which of them are being worked on.
//!
//! Clients' uploads and operators' changes share both; what is kept of an answer, and which requests are
//! the same, is theirs (`intake::repeat`, `admin::again`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filegate_store::{FirstAnswer, KeptAnswer};
use filegate_types::{ApiError, ErrorCode, Principal};
use http::HeaderMap;

use super::reply::store_failed;
use crate::app::App;

/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// What a client is told of a key that is none.
pub(crate) const NOT_A_KEY: &str = "is not one text of 1 to 255 visible ASCII characters";

/// The header is there and is no key.
#[derive(Debug)]
pub(crate) struct NotAKey;

/// Keys that are being worked on, with their owners.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<(String, String)>>>);

/// A key that is being worked on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) owner: String,
    pub(crate) key: String,
    in_flight: InFlight,
}

impl InFlight {
    /// Takes `key` of `owner`, unless it is taken.
    pub(crate) fn take(&self, owner: String, key: String) -> Option<Taken> {
        let fresh = self.keys().insert((owner.clone(), key.clone()));
        fresh.then(|| Taken { owner, key, in_flight: self.clone() })
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let taken = (std::mem::take(&mut self.owner), std::mem::take(&mut self.key));
        self.in_flight.keys().remove(&taken);
    }
}

/// The key of a client's request, for as long as the request is in progress.
///
/// Uploads and relayed calls share it: a key is for one request of an account, whatever it is.
#[derive(Debug)]
pub(crate) struct Repeatable {
    taken: Taken,
    /// What was answered to the key before.
    kept: Option<KeptAnswer>,
}

impl Repeatable {
    /// Reads the header, takes the key and looks for a first answer. `None` without the header.
    pub(crate) async fn begin(
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

    /// Whether something was answered to the key before.
    pub(crate) fn is_known(&self) -> bool {
        self.kept.is_some()
    }

    /// What is kept with the answer.
    pub(crate) fn first_answer(&self, fingerprint: [u8; 32]) -> FirstAnswer {
        let (owner, key) = (self.taken.owner.clone(), self.taken.key.clone());
        FirstAnswer { owner, key, fingerprint }
    }

    /// The first answer, if there is one.
    ///
    /// # Errors
    /// 2013 if it was to another request: `differs` says what makes it another.
    pub(crate) fn replay(
        &self,
        fingerprint: [u8; 32],
        differs: &str,
    ) -> Result<Option<&KeptAnswer>, ApiError> {
        match &self.kept {
            Some(kept) if kept.fingerprint != fingerprint => Err(ApiError::invalid(format_args!(
                "this Idempotency-Key was used for another {differs} differ"
            ))),
            kept => Ok(kept.as_ref()),
        }
    }
}

/// The key, if the request has one.
pub(crate) fn key_of(headers: &HeaderMap) -> Result<Option<String>, NotAKey> {
    let mut values = headers.get_all("idempotency-key").iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok().map(|text| text.trim_matches('"')),
        (Some(_), Some(_)) => None,
    };
    let fits = |text: &&str| {
        (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'))
    };
    value.filter(fits).map(|text| Some(text.to_owned())).ok_or(NotAKey)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&'static str]) -> Result<Option<String>, NotAKey> {
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
        for bad in [&["", ""][..], &["a", "b"], &["\"\""], &[""]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_taken_until_its_request_ends() {
        let in_flight = InFlight::default();
        let take = |owner: &str| in_flight.take(owner.to_owned(), "k".to_owned());
        let first = take("account:1");
        assert!(first.is_some() && take("account:1").is_none());
        assert!(take("account:2").is_some());
        drop(first);
        assert!(take("account:1").is_some());
    }
}
