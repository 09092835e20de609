//! The `Idempotency-Key` of a request, and which of them are being worked on.
//!
//! Clients' uploads and operators' changes share both; what is kept of an answer, and which requests are
//! the same, is theirs (`intake::repeat`, `admin::again`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

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
