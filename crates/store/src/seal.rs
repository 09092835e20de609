//! Keys of channels at rest: sealed with a secret that is not in the database.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version of this layout: 1 |
//! | 4 | which sealing key: the beginning of its SHA-256 under a label |
//! | 12 | the nonce, random for each seal |
//! | n + 16 | ChaCha20-Poly1305 of the text, and its tag |
//!
//! What is sealed is bound to a text that stands beside it in the clear, for a channel its base URL: a row
//! that was changed in the database to point at somebody else does not give up its key.

use std::fmt;
use std::sync::Arc;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

/// Bytes of a sealing key.
pub const SEALING_KEY_BYTES: usize = 32;

const VERSION: u8 = 1;
const NAME_BYTES: usize = 4;

/// Seals with the first of its keys and opens with all.
pub struct Sealer {
    keys: Vec<SealingKey>,
}

struct SealingKey {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

/// A key that is about to be sealed, once it is known for where. `Debug` does not show it.
#[derive(Clone)]
pub struct Unsealed {
    plain: String,
    sealer: Arc<Sealer>,
    nonce: [u8; NONCE_LEN],
}

/// The shortest key of which the last characters are shown.
const HINTED_BYTES_MIN: usize = 12;

impl Unsealed {
    /// A key that `sealer` is to seal. `nonce` is random, and for nothing else.
    pub fn new(plain: String, sealer: Arc<Sealer>, nonce: [u8; NONCE_LEN]) -> Self {
        Self { plain, sealer, nonce }
    }

    /// The last four characters; none of a key so short that they would say much of it.
    pub fn hint(&self) -> &str {
        match self.plain.char_indices().rev().nth(3) {
            Some((at, _)) if self.plain.len() >= HINTED_BYTES_MIN => &self.plain[at..],
            _ => "",
        }
    }

    /// The key, sealed for `bound_to`.
    pub fn seal(&self, bound_to: &str) -> Result<Vec<u8>, SealError> {
        self.sealer.seal(&self.plain, bound_to, self.nonce)
    }
}

impl fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsealed(…)")
    }
}

/// Why something sealed does not open. None of the texts says what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is nothing to seal with.
    #[error("there is no sealing key")]
    NoKey,
    /// The sealing key is not among those that are known.
    #[error("it was sealed with a key that is not known here")]
    UnknownKey,
    /// It is not what was sealed, or not where it was sealed for.
    #[error("it was changed since it was sealed, or what it is bound to was")]
    Changed,
    /// It is not of a layout that this version knows.
    #[error("it is nothing that was sealed here, or by a later version")]
    Unreadable,
}

impl Sealer {
    /// A sealer with these keys; the first seals.
    pub fn new(keys: Vec<[u8; SEALING_KEY_BYTES]>) -> Self {
        Self { keys: keys.into_iter().filter_map(SealingKey::new).collect() }
    }

    /// Seals `plain` to be opened where `bound_to` is the same. `nonce` is random, and never used again.
    ///
    /// # Errors
    /// [`SealError::NoKey`].
    pub fn seal(
        &self,
        plain: &str,
        bound_to: &str,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Vec<u8>, SealError> {
        let first = self.keys.first().ok_or(SealError::NoKey)?;
        let mut text = plain.as_bytes().to_vec();
        let once = Nonce::assume_unique_for_key(nonce);
        first
            .key
            .seal_in_place_append_tag(once, Aad::from(bound_to.as_bytes()), &mut text)
            // Only a text of 256 GiB is too long.
            .map_err(|_unspecified| SealError::Unreadable)?;
        Ok([&[VERSION][..], &first.name, &nonce, &text].concat())
    }

    /// Opens what [`seal`](Self::seal) made.
    pub fn open(&self, sealed: &[u8], bound_to: &str) -> Result<String, SealError> {
        let (name, rest) = named(sealed)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Unreadable)?;
        let mut tried = Err(SealError::UnknownKey);
        // Two keys may have the same name, once in 2^32.
        for key in self.keys.iter().filter(|key| key.name == name) {
            let mut text = text.to_vec();
            let once = Nonce::assume_unique_for_key(*nonce);
            let opened = key.key.open_in_place(once, Aad::from(bound_to.as_bytes()), &mut text);
            tried = match opened.map(|plain| String::from_utf8(plain.to_vec())) {
                Ok(Ok(plain)) => return Ok(plain),
                Ok(Err(_)) | Err(_) => Err(SealError::Changed),
            };
        }
        tried
    }

    /// Whether another key than the first has sealed it.
    pub fn needs_reseal(&self, sealed: &[u8]) -> bool {
        let first = self.keys.first().map(|key| key.name);
        !named(sealed).is_ok_and(|(name, _)| Some(name) == first)
    }
}

/// The key that sealed, and what comes after its name.
fn named(sealed: &[u8]) -> Result<([u8; NAME_BYTES], &[u8]), SealError> {
    match sealed.split_first() {
        Some((&VERSION, rest)) => {
            let (name, rest) = rest.split_first_chunk().ok_or(SealError::Unreadable)?;
            Ok((*name, rest))
        }
        _ => Err(SealError::Unreadable),
    }
}

impl SealingKey {
    fn new(bytes: [u8; SEALING_KEY_BYTES]) -> Option<Self> {
        let mut hash = Sha256::new();
        hash.update(b"filegate sealing key");
        hash.update(bytes);
        let hash: [u8; 32] = hash.finalize().into();
        let name = *hash.first_chunk()?;
        // Never refused: the length is in the type.
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?;
        Some(Self { name, key: LessSafeKey::new(key) })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("keys", &self.keys.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const URL: &str = "https://api.minimax.io";
    const KEY: &str = "eyJhbGciOi.upstream.key";

    #[test]
    fn what_is_sealed_opens_and_shows_nothing() {
        let only = Sealer::new(vec![[1; 32]]);
        let sealed = only.seal(KEY, URL, [9; 12]).unwrap();
        assert_eq!(only.open(&sealed, URL).unwrap(), KEY);
        assert!(!sealed.windows(8).any(|part| KEY.as_bytes().windows(8).any(|of| of == part)));
        assert_ne!(sealed, only.seal(KEY, URL, [8; 12]).unwrap());
        assert_eq!(format!("{only:?}"), "Sealer { keys: 1 }");
    }

    #[test]
    fn it_opens_only_for_the_same_place() {
        let only = Sealer::new(vec![[1; 32]]);
        let sealed = only.seal(KEY, URL, [9; 12]).unwrap();
        for other in ["https://evil.example", "https://api.minimax.io/", ""] {
            assert_eq!(only.open(&sealed, other), Err(SealError::Changed));
        }
    }

    #[test]
    fn keys_are_rotated() {
        let old = Sealer::new(vec![[1; 32]]);
        let both = Sealer::new(vec![[2; 32], [1; 32]]);
        let new = Sealer::new(vec![[2; 32]]);
        let sealed = old.seal(KEY, URL, [9; 12]).unwrap();
        assert!(!old.needs_reseal(&sealed));
        assert!(both.needs_reseal(&sealed));
        assert_eq!(new.open(&sealed, URL), Err(SealError::UnknownKey));
        let again = both.seal(&both.open(&sealed, URL).unwrap(), URL, [7; 12]).unwrap();
        assert!(!both.needs_reseal(&again));
        assert_eq!(new.open(&again, URL).unwrap(), KEY);
        assert_eq!(old.open(&again, URL), Err(SealError::UnknownKey));
        let none = Sealer::new(vec![]);
        assert_eq!(none.seal(KEY, URL, [1; 12]), Err(SealError::NoKey));
        assert_eq!(none.open(&sealed, URL), Err(SealError::UnknownKey));
        assert!(none.needs_reseal(&sealed));
    }

    #[test]
    fn a_later_layout_and_nothing_are_told_apart_from_a_wrong_key() {
        let only = Sealer::new(vec![[1; 32]]);
        let mut sealed = only.seal(KEY, URL, [9; 12]).unwrap();
        sealed[0] = 2;
        for unreadable in [&sealed[..], b"", b"\x01", b"\x01abc"] {
            assert_eq!(only.open(unreadable, URL), Err(SealError::Unreadable));
            assert!(only.needs_reseal(unreadable));
        }
    }

    #[test]
    fn a_key_that_waits_to_be_sealed_shows_its_end_at_most() {
        let only = Arc::new(Sealer::new(vec![[1; 32]]));
        let waiting = |plain: &str| Unsealed::new(plain.to_owned(), Arc::clone(&only), [4; 12]);
        assert_eq!(waiting(KEY).hint(), ".key");
        assert_eq!((waiting("sk-test").hint(), waiting("").hint()), ("", ""));
        assert_eq!(format!("{:?}", waiting(KEY)), "Unsealed(…)");
        assert_eq!(only.open(&waiting(KEY).seal(URL).unwrap(), URL).unwrap(), KEY);
    }

    proptest! {
        #[test]
        fn any_change_is_noticed(at in 0_usize..64, bit in 0_u8..8, plain in ".{0,40}") {
            let only = Sealer::new(vec![[1; 32], [3; 32]]);
            let mut sealed = only.seal(&plain, URL, [9; 12]).unwrap();
            let at = at % sealed.len();
            sealed[at] ^= 1 << bit;
            prop_assert!(only.open(&sealed, URL).is_err());
            sealed.truncate(at);
            prop_assert!(only.open(&sealed, URL).is_err());
        }
    }
}
