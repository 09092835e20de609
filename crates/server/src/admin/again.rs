//! `Idempotency-Key`: the same request again is answered as the first was.
//!
//! The answer is kept by the transaction that makes the change. A secret in it (a new key, a new token)
//! is kept sealed, under a key made from the `Idempotency-Key` and the token that was presented: the
//! caller has both, the database neither. On the data directory itself there is no token, so the secret
//! is not kept at all.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use filegate_store::{FirstAnswer, KeptAnswer};
use http::HeaderMap;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use sha2::{Digest as _, Sha256};

use super::auth::Operator;
use super::problem::Problem;
use crate::app::random;

/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// Keys of requests that are being worked on.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<(String, String)>>>);

/// A request with a key, for as long as it is worked on.
#[derive(Debug)]
pub(super) struct Repeatable {
    pub(super) first: FirstAnswer,
    token: Option<String>,
    in_flight: InFlight,
}

impl Repeatable {
    /// Takes the key of the request; `None` without the header.
    pub(super) fn begin(
        in_flight: &InFlight,
        operator: &Operator,
        headers: &HeaderMap,
        fingerprint: [u8; 32],
    ) -> Result<Option<Self>, Problem> {
        let Some(key) = key_of(headers)? else { return Ok(None) };
        let owner = operator.name.clone();
        if !in_flight.taken().insert((owner.clone(), key.clone())) {
            return Err(Problem::in_flight());
        }
        let first = FirstAnswer { owner, key, fingerprint };
        let token = operator.token.clone();
        Ok(Some(Self { first, token, in_flight: in_flight.clone() }))
    }

    /// The kept answer's bytes, if this is the same request.
    pub(super) fn replay<'a>(&self, kept: &'a KeptAnswer) -> Result<&'a [u8], Problem> {
        if kept.fingerprint == self.first.fingerprint {
            Ok(&kept.reply)
        } else {
            Err(Problem::reused())
        }
    }

    /// Seals a secret for whoever sends this request again.
    pub(super) fn seal(&self, secret: &str) -> Option<String> {
        let nonce: [u8; NONCE_LEN] = random();
        let mut text = secret.as_bytes().to_vec();
        let aad = Aad::from(self.first.fingerprint);
        self.key()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)
            .ok()?;
        Some(STANDARD_NO_PAD.encode([nonce.as_slice(), &text].concat()))
    }

    /// Opens what [`seal`](Self::seal) made.
    pub(super) fn open(&self, sealed: &str) -> Option<String> {
        let bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let (mut text, aad) = (text.to_vec(), Aad::from(self.first.fingerprint));
        let opened =
            self.key()?.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text).ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }

    fn key(&self) -> Option<LessSafeKey> {
        let token = self.token.as_ref()?;
        let material = Salt::new(HKDF_SHA256, b"filegate first answer").extract(token.as_bytes());
        let info = [self.first.key.as_bytes()];
        let derived = material.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

impl Drop for Repeatable {
    fn drop(&mut self) {
        let taken = (self.first.owner.clone(), self.first.key.clone());
        self.in_flight.taken().remove(&taken);
    }
}

impl InFlight {
    fn taken(&self) -> std::sync::MutexGuard<'_, HashSet<(String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes two requests the same.
pub(super) fn fingerprint(target: &str, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((target.len() as u64).to_be_bytes());
    hash.update(target.as_bytes());
    hash.update(body);
    hash.finalize().into()
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
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
        let why = "is not one text of 1 to 255 visible ASCII characters";
        Problem::invalid("Idempotency-Key", why)
    })
}

#[cfg(test)]
mod tests {
    use filegate_types::AdminScope;

    use super::*;

    fn request(token: Option<&str>, key: &'static str) -> Repeatable {
        let operator = Operator {
            name: "token:1".to_owned(),
            scope: AdminScope::Full,
            origin: String::new(),
            token: token.map(str::to_owned),
        };
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", http::HeaderValue::from_static(key));
        let again = Repeatable::begin(&InFlight::default(), &operator, &headers, [7; 32]);
        again.unwrap().unwrap()
    }

    #[test]
    fn a_sealed_secret_opens_only_for_the_same_token_and_key() {
        let sealed = request(Some("a"), "k").seal("fg-secret").unwrap();
        assert_eq!(request(Some("a"), "k").open(&sealed).unwrap(), "fg-secret");
        assert_eq!(request(Some("b"), "k").open(&sealed), None);
        assert_eq!(request(Some("a"), "l").open(&sealed), None);
        assert_eq!(request(None, "k").seal("fg-secret"), None);
        let again = request(Some("a"), "k").seal("fg-secret").unwrap();
        assert_ne!(again, sealed);
    }

    #[test]
    fn a_key_in_use_is_in_flight_until_its_request_ends() {
        let in_flight = InFlight::default();
        let operator = Operator {
            name: "token:1".to_owned(),
            scope: AdminScope::Full,
            origin: String::new(),
            token: None,
        };
        let mut headers = HeaderMap::new();
        let begin =
            |headers: &HeaderMap| Repeatable::begin(&in_flight, &operator, headers, [0; 32]);
        assert!(begin(&headers).unwrap().is_none());
        headers.insert("idempotency-key", http::HeaderValue::from_static("k"));
        let first = begin(&headers).unwrap();
        assert!(begin(&headers).is_err());
        drop(first);
        assert!(begin(&headers).unwrap().is_some());
    }
}
