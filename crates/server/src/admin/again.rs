//! `Idempotency-Key`: the same request again is answered as the first was.
//!
//! The answer is kept by the transaction that makes the change. A secret in it (a new key, a new token)
//! is kept sealed, under a key made from the `Idempotency-Key` and the token that was presented: the
//! caller has both, the database neither. On the data directory itself there is no token, so the secret
//! is not kept at all.

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
use crate::http::idempotency::{InFlight, NOT_A_KEY, NotAKey, Taken, key_of};

/// A request with a key, for as long as it is worked on.
#[derive(Debug)]
pub(super) struct Repeatable {
    pub(super) first: FirstAnswer,
    token: Option<String>,
    _taken: Taken,
}

impl Repeatable {
    /// Takes the key of the request; `None` without the header.
    pub(super) fn begin(
        in_flight: &InFlight,
        operator: &Operator,
        headers: &HeaderMap,
        fingerprint: [u8; 32],
    ) -> Result<Option<Self>, Problem> {
        let key = key_of(headers);
        let key = key.map_err(|NotAKey| Problem::invalid("Idempotency-Key", NOT_A_KEY))?;
        let Some(key) = key else { return Ok(None) };
        let taken = in_flight.take(operator.name.clone(), key).ok_or_else(Problem::in_flight)?;
        let (owner, key) = (taken.owner.clone(), taken.key.clone());
        let first = FirstAnswer { owner, key, fingerprint };
        Ok(Some(Self { first, token: operator.token.clone(), _taken: taken }))
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

/// What makes two requests the same.
pub(super) fn fingerprint(target: &str, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((target.len() as u64).to_be_bytes());
    hash.update(target.as_bytes());
    hash.update(body);
    hash.finalize().into()
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
}
