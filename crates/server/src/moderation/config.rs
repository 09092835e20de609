//! Settings of moderation. The lists are no settings: they are rows, changed while the server runs.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use filegate_types::units::{Bytes, Span};
use serde::{Deserialize, Serialize};

use super::addresses;

/// Bytes of the webhook's secret, at least.
const SECRET_BYTES_MIN: usize = 16;

/// What is asked about each upload beside the lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moderation {
    /// Whether a term must stand between characters that are neither letters, digits nor `_`.
    pub terms_whole_words: bool,
    /// Bits of 64 in which a picture's hash may differ from a blocked one.
    pub image_distance: u32,
    /// Memory for decoding one picture; two are decoded at a time.
    pub image_memory_max: Bytes,
    /// A virus scanner.
    pub clamd: Clamd,
    /// A service of the operator's that decides.
    pub webhook: Webhook,
}

/// What becomes of a file when whoever was to be asked does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Refused with 1013, to be tried again later.
    Closed,
    /// Taken as if it had passed; the verdict says that it was not asked.
    Open,
    /// Taken, and held for review.
    Review,
}

/// ClamAV's daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clamd {
    /// `unix:/path` or `host:port`. Empty: not asked.
    pub address: String,
    /// Time to connect.
    pub connect_timeout: Span,
    /// Time for everything, a place in the queue included.
    pub timeout: Span,
    /// The daemon's `StreamMaxLength`; longer files are not sent.
    pub stream_max: Bytes,
    /// Files being scanned at a time.
    pub parallel: usize,
    /// What becomes of a file when the daemon fails.
    pub on_failure: OnFailure,
    /// What becomes of a file that is longer than `stream_max`; `closed` refuses it with 1026.
    pub on_too_large: OnFailure,
}

/// A service that is told of each upload over HTTPS and answers allow, deny or review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where it is. Empty: not asked.
    pub url: String,
    /// Signs what is sent.
    pub secret: Secret,
    /// Time for everything.
    pub timeout: Span,
    /// Longest answer that is read.
    pub answer_max: Bytes,
    /// What becomes of a file when the service fails.
    pub on_failure: OnFailure,
    /// Whether it may be at a private or loopback address, and without TLS.
    pub allow_private: bool,
}

/// A setting that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Secret {
    /// What it is, for whoever signs or connects with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "(set)" })
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "(set)" })
    }
}

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClamdAddress {
    Unix(PathBuf),
    Tcp(String),
}

impl Clamd {
    /// Where it is; `None` if it is not asked.
    pub(super) fn parsed(&self) -> Result<Option<ClamdAddress>, String> {
        let address = self.address.trim();
        if address.is_empty() {
            return Ok(None);
        }
        if let Some(path) = address.strip_prefix("unix:") {
            let absolute = path.starts_with('/');
            return absolute
                .then(|| Some(ClamdAddress::Unix(path.into())))
                .ok_or_else(|| format!("{address:?} is not unix: and an absolute path"));
        }
        let port = address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten()
        });
        port.map(|_| Some(ClamdAddress::Tcp(address.to_owned())))
            .ok_or_else(|| format!("{address:?} is neither unix:/path nor host:port"))
    }
}

impl Webhook {
    /// Where it is; `None` if it is not asked.
    pub(super) fn parsed(&self) -> Result<Option<reqwest::Url>, String> {
        if self.url.is_empty() {
            return Ok(None);
        }
        let url = reqwest::Url::parse(&self.url).map_err(|error| error.to_string())?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_private => {}
            "http" => return Err("http:// needs allow_private = true".to_owned()),
            other => return Err(format!("{other:?} is not https")),
        }
        let host = url.host_str().ok_or("it names no host")?;
        // An address in the URL is never resolved, so it is looked at here.
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(address) = literal
            && !self.allow_private
            && !addresses::is_public(address)
        {
            return Err(format!("{address} is not a public address; see allow_private"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it carries credentials; requests are signed instead".to_owned());
        }
        Ok(Some(url))
    }
}

impl Default for Moderation {
    fn default() -> Self {
        Self {
            terms_whole_words: false,
            image_distance: 10,
            image_memory_max: Bytes::mib(256),
            clamd: Clamd {
                address: String::new(),
                connect_timeout: Span::seconds(2),
                timeout: Span::seconds(30),
                stream_max: Bytes::mib(25),
                parallel: 8,
                on_failure: OnFailure::Closed,
                on_too_large: OnFailure::Closed,
            },
            webhook: Webhook {
                url: String::new(),
                secret: Secret::default(),
                timeout: Span::seconds(10),
                answer_max: Bytes::kib(64),
                on_failure: OnFailure::Closed,
                allow_private: false,
            },
        }
    }
}

impl Moderation {
    /// The first setting that cannot be used, and why. `upload_lease` is that of the jobs.
    pub(crate) fn check(&self, upload_lease: Span) -> Result<(), (&'static str, String)> {
        let clamd = self.clamd.parsed().map_err(|why| ("moderation.clamd.address", why))?;
        let webhook = self.webhook.parsed().map_err(|why| ("moderation.webhook.url", why))?;
        // At half of 64 bits any two pictures are alike.
        if self.image_distance > 31 {
            let why = format!("{} is not from 0 to 31", self.image_distance);
            return Err(("moderation.image_distance", why));
        }
        if self.clamd.parallel == 0 || self.clamd.parallel > 1024 {
            let why = format!("{} is not from 1 to 1024", self.clamd.parallel);
            return Err(("moderation.clamd.parallel", why));
        }
        for (setting, span) in [
            ("moderation.clamd.connect_timeout", self.clamd.connect_timeout),
            ("moderation.clamd.timeout", self.clamd.timeout),
            ("moderation.webhook.timeout", self.webhook.timeout),
        ] {
            if span.0.is_zero() {
                return Err((setting, "must be more than 0s".to_owned()));
            }
        }
        // Without one the service could not tell our requests from anybody else's.
        if webhook.is_some() && self.webhook.secret.expose().len() < SECRET_BYTES_MIN {
            let why = format!("a webhook needs a secret of at least {SECRET_BYTES_MIN} bytes");
            return Err(("moderation.webhook.secret", why));
        }
        // A lease is renewed before and after, never meanwhile, and at least half of it is left then.
        let asked = |on: bool, span: Span| if on { span.0 } else { std::time::Duration::ZERO };
        let longest = asked(clamd.is_some(), self.clamd.timeout)
            + asked(webhook.is_some(), self.webhook.timeout);
        if longest >= upload_lease.0 / 2 {
            let why = "moderation.clamd.timeout and moderation.webhook.timeout together must be \
                       shorter than half of jobs.upload_lease";
            return Err(("moderation", why.to_owned()));
        }
        Ok(())
    }
}
