//! The operator's own service, asked over HTTPS: allow, deny or review.
//!
//! It gets what is known of the file and a signed URL of its bytes, which lie in `tmp/` until the
//! upload is decided: the URL opens them for the time of the question and not longer. The request is
//! signed, follows no redirect, uses no proxy, and goes to public addresses only unless the operator
//! has said otherwise.

use std::time::Duration;

use filegate_types::hex;
use filegate_types::units::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::config::{self, Secret};
use crate::outgoing;

/// The header with the signature: `sha256=` and the HMAC-SHA-256 of the body in hex.
const SIGNATURE: &str = "x-filegate-signature";
/// Characters of a reason that are kept.
const REASON_CHARS_MAX: usize = 256;

/// What the service is told.
#[derive(Debug, Serialize)]
pub(super) struct Question<'a> {
    pub(super) sent_at: i64,
    pub(super) account_id: i64,
    pub(super) key_id: i64,
    pub(super) purpose: &'a str,
    pub(super) filename: &'a str,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) media_type: &'a str,
    pub(super) media: &'a serde_json::Value,
    /// Opens the bytes until `download_until`, in Unix seconds.
    pub(super) download_url: String,
    pub(super) download_until: i64,
}

/// What the service wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Decision {
    Allow,
    Deny,
    Review,
}

/// What the service answers; fields that we do not know are its own.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) verdict: Decision,
    #[serde(default)]
    reason: Option<String>,
}

impl Answer {
    /// Its reason, cut to what is kept.
    pub(super) fn reason(&self) -> Option<String> {
        let reason = self.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
        reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookError {
    #[error("asking the webhook")]
    Http(#[source] reqwest::Error),
    #[error("the webhook answered HTTP {0}")]
    Status(StatusCode),
    #[error("the webhook's answer is too long")]
    TooLong,
    #[error("the webhook's answer is not one")]
    Garbage(#[source] serde_json::Error),
}

/// A service that can be asked.
pub(super) struct Webhook {
    http: reqwest::Client,
    url: Url,
    secret: Secret,
    answer_max: Bytes,
    /// Time for a question.
    pub(super) timeout: Duration,
}

impl Webhook {
    /// The service of the settings; `None` if there is none.
    pub(super) fn new(config: &config::Webhook) -> Result<Option<Self>, String> {
        let Some(url) = config.parsed()? else { return Ok(None) };
        let public = !config.allow_private;
        let mut builder = outgoing::builder(public)
            .https_only(public)
            .connect_timeout(config.timeout.0)
            .timeout(config.timeout.0);
        if url.scheme() == "http" {
            // Plain HTTP must work where no CA certificates are installed, as in small containers.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| error.to_string())?;
        let (secret, answer_max) = (config.secret.clone(), config.answer_max);
        Ok(Some(Self { http, url, secret, answer_max, timeout: config.timeout.0 }))
    }

    /// Asks.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Answer, WebhookError> {
        // What came from a client is text and numbers; it serialises.
        let body = serde_json::to_vec(question).map_err(WebhookError::Garbage)?;
        // The URL may have a token of the operator's: it is not for the log.
        let http = |error: reqwest::Error| WebhookError::Http(error.without_url());
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header(SIGNATURE, signature(self.secret.expose(), &body))
            .body(body);
        let mut response = request.send().await.map_err(http)?;
        if response.status() != StatusCode::OK {
            return Err(WebhookError::Status(response.status()));
        }
        let mut answer = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(http)? {
            if (answer.len() + piece.len()) as u64 > self.answer_max.0 {
                return Err(WebhookError::TooLong);
            }
            answer.extend_from_slice(&piece);
        }
        serde_json::from_slice(&answer).map_err(WebhookError::Garbage)
    }
}

fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    format!("sha256={}", hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha256_of_the_body() {
        // RFC 4231, test case 2.
        assert_eq!(
            signature("Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn only_the_three_words_are_answers() {
        for (text, verdict) in [
            (r#"{"verdict":"allow"}"#, Decision::Allow),
            (r#"{"verdict":"deny","reason":null,"score":0.9}"#, Decision::Deny),
            (r#"{"verdict":"review","reason":" why "}"#, Decision::Review),
        ] {
            assert_eq!(serde_json::from_str::<Answer>(text).unwrap().verdict, verdict, "{text}");
        }
        let answer: Answer = serde_json::from_str(r#"{"verdict":"deny","reason":" x "}"#).unwrap();
        assert_eq!(answer.reason().as_deref(), Some("x"));
        for garbage in ["", "{}", "allow", r#"{"verdict":"ALLOW"}"#, r#"{"verdict":true}"#, "<p>"] {
            assert!(serde_json::from_str::<Answer>(garbage).is_err(), "{garbage}");
        }
    }
}
