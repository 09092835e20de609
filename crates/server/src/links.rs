//! Signed download links: `/d/{file_id}?a=ACCOUNT&e=EXPIRY&s=SIGNATURE`, and to the bytes of an upload
//! that is being decided, for the moderation webhook: `/d/pending/{blob_key}?e=EXPIRY&s=SIGNATURE`. Names of callbacks
//! (`relay/callback.rs`) are signed under the same secret.
//!
//! The signature is HMAC-SHA-256 over method, id, account and expiry, all or nothing, under a secret
//! that the first start draws. Whoever has the link has the file until it ends.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use filegate_types::{AccountId, BlobKey, FileId, UnixMillis};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of the secret.
pub(crate) const SECRET_BYTES: usize = 32;

/// Makes and checks links.
#[derive(Clone)]
pub(crate) struct Links {
    secret: [u8; SECRET_BYTES],
}

/// Why a link does not open its file. Both look alike from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkError {
    /// A part is missing, malformed or not what was signed.
    Forged,
    /// It was good once.
    Expired,
}

impl Links {
    /// Links under `secret`; none other than a whole secret is taken.
    pub(crate) fn new(secret: &[u8]) -> Option<Self> {
        let secret: [u8; SECRET_BYTES] = secret.try_into().ok()?;
        (secret != [0; SECRET_BYTES]).then_some(Self { secret })
    }

    /// The path and query that open `file_id` of `account` until `until`.
    pub(crate) fn path(&self, account: AccountId, file_id: FileId, until: UnixMillis) -> String {
        let expiry = until.seconds();
        let mac = self.mac(account.0, file_id, expiry).finalize().into_bytes();
        format!("/d/{file_id}?a={}&e={expiry}&s={}", account.0, URL_SAFE_NO_PAD.encode(mac))
    }

    /// The account whose file the query opens.
    pub(crate) fn check(
        &self,
        file_id: FileId,
        query: &str,
        now: UnixMillis,
    ) -> Result<AccountId, LinkError> {
        let [mut account, mut expiry, mut signature] = [None; 3];
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').ok_or(LinkError::Forged)?;
            let place = match name {
                "a" => &mut account,
                "e" => &mut expiry,
                "s" => &mut signature,
                // Trackers append their own; they change nothing.
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(LinkError::Forged);
            }
        }
        let (Some(account), Some(expiry), Some(signature)) =
            (number(account), number(expiry), signature)
        else {
            return Err(LinkError::Forged);
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_why| LinkError::Forged)?;
        // Constant time, by the crate's promise.
        let verified = self.mac(account, file_id, expiry).verify_slice(&signature);
        verified.map_err(|_why| LinkError::Forged)?;
        if now.seconds() >= expiry { Err(LinkError::Expired) } else { Ok(AccountId(account)) }
    }

    /// The path and query that open the bytes of an upload until `until`, if they have not landed.
    pub(crate) fn pending_path(&self, key: &BlobKey, until: UnixMillis) -> String {
        let expiry = until.seconds();
        let mac = self.pending_mac(key, expiry).finalize().into_bytes();
        format!("/d/pending/{key}?e={expiry}&s={}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// Whether the query opens the bytes of the upload.
    pub(crate) fn check_pending(
        &self,
        key: &BlobKey,
        query: &str,
        now: UnixMillis,
    ) -> Result<(), LinkError> {
        // Exactly as it was made: it is for programs, and no tracker touches it.
        let parts = query.strip_prefix("e=").and_then(|rest| rest.split_once("&s="));
        let (expiry, signature) = parts.ok_or(LinkError::Forged)?;
        let expiry = number(Some(expiry)).ok_or(LinkError::Forged)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_why| LinkError::Forged)?;
        let verified = self.pending_mac(key, expiry).verify_slice(&signature);
        verified.map_err(|_why| LinkError::Forged)?;
        if now.seconds() >= expiry { Err(LinkError::Expired) } else { Ok(()) }
    }

    /// What upstream calls back a callback of ours by: its id and a signature.
    pub(crate) fn callback_token(&self, callback_id: &str) -> String {
        let mac = self.callback_mac(callback_id).finalize().into_bytes();
        format!("{callback_id}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// The id in `token`, if we have made it.
    pub(crate) fn check_callback(&self, token: &str) -> Option<String> {
        let (callback_id, signature) = token.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.callback_mac(callback_id).verify_slice(&signature).ok()?;
        Some(callback_id.to_owned())
    }

    fn callback_mac(&self, callback_id: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes any key");
        mac.update(format!("CALLBACK\n{callback_id}").as_bytes());
        mac
    }

    /// Begins with another word than links to files do: neither signature opens the other's.
    fn pending_mac(&self, key: &BlobKey, expiry: i64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes any key");
        mac.update(format!("PENDING\n{key}\n{expiry}").as_bytes());
        mac
    }

    fn mac(&self, account: i64, file_id: FileId, expiry: i64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes any key");
        mac.update(format!("GET\n{file_id}\n{account}\n{expiry}").as_bytes());
        mac
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Links(…)")
    }
}

fn number(text: Option<&str>) -> Option<i64> {
    text?.parse().ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn made() -> (Links, FileId, String) {
        let links = Links::new(&[7; 32]).unwrap();
        let id = FileId::new(426_586_401_755_526).unwrap();
        let until = UnixMillis(NOW.0 + 3_600_000);
        let path = links.path(AccountId(3), id, until);
        let query = path.split_once('?').unwrap().1.to_owned();
        (links, id, query)
    }

    #[test]
    fn a_link_opens_its_file_for_its_hour() {
        let (links, id, query) = made();
        assert_eq!(links.check(id, &query, NOW), Ok(AccountId(3)));
        assert_eq!(links.check(id, &format!("{query}&utm=1"), NOW), Ok(AccountId(3)));
        let late = UnixMillis(NOW.0 + 3_600_000);
        assert_eq!(links.check(id, &query, late), Err(LinkError::Expired));
    }

    #[test]
    fn nothing_about_it_can_be_changed() {
        let (links, id, query) = made();
        let other = FileId::new(id.get() + 1).unwrap();
        assert_eq!(links.check(other, &query, NOW), Err(LinkError::Forged));
        for (from, to) in [
            ("a=3", "a=4"),
            ("a=3&", ""),
            ("e=1", "e=2"),
            ("&s=", "&s=A"),
            ("&s=", "&t="),
            ("a=3", "a=3&a=3"),
            ("a=3", "a=-3"),
        ] {
            let forged = query.replacen(from, to, 1);
            assert_ne!(forged, query);
            assert_eq!(links.check(id, &forged, NOW), Err(LinkError::Forged), "{forged}");
        }
        assert_eq!(links.check(id, "", NOW), Err(LinkError::Forged));
        let other = Links::new(&[8; 32]).unwrap();
        assert_eq!(other.check(id, &query, NOW), Err(LinkError::Forged));
    }

    #[test]
    fn a_pending_link_opens_its_upload_alone() {
        let links = Links::new(&[7; 32]).unwrap();
        let key = BlobKey::mint(NOW, [1; 10]);
        let path = links.pending_path(&key, UnixMillis(NOW.0 + 10_000));
        let (path, query) = path.split_once('?').unwrap();
        assert_eq!(path, format!("/d/pending/{key}"));
        assert_eq!(links.check_pending(&key, query, NOW), Ok(()));
        let late = UnixMillis(NOW.0 + 10_000);
        assert_eq!(links.check_pending(&key, query, late), Err(LinkError::Expired));
        let other = BlobKey::mint(NOW, [2; 10]);
        assert_eq!(links.check_pending(&other, query, NOW), Err(LinkError::Forged));
        for forged in [query.replacen("e=1", "e=2", 1), query.replacen("&s=", "&s=A", 1)] {
            assert_eq!(links.check_pending(&key, &forged, NOW), Err(LinkError::Forged));
        }
        assert_eq!(links.check_pending(&key, "", NOW), Err(LinkError::Forged));
    }

    #[test]
    fn a_callback_is_named_by_what_we_signed_alone() {
        let links = Links::new(&[7; 32]).unwrap();
        let token = links.callback_token("0abc");
        assert_eq!(links.check_callback(&token).as_deref(), Some("0abc"));
        let other = Links::new(&[8; 32]).unwrap();
        assert_eq!(other.check_callback(&token), None);
        let cut = &token[..token.len() - 1];
        for forged in
            ["", ".", "0abc", "0abc.", cut, &token.replace("0abc", "0abd"), &format!("{token}.")]
        {
            assert_eq!(links.check_callback(forged), None, "{forged}");
        }
    }

    #[test]
    fn no_secret_no_links() {
        assert!(Links::new(b"").is_none());
        assert!(Links::new(&[0; 32]).is_none());
        assert!(Links::new(&[1; 31]).is_none());
    }
}
