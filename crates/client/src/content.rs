//! A download: streamed, counted, and checked against the digest that the server announced.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use filegate_types::FileId;
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::reply::{next_chunk, text, trace_id};

/// The bytes of a file as they come.
#[derive(Debug)]
pub struct Content {
    pub(crate) id: FileId,
    response: Response,
    idle: Duration,
    /// How many bytes there are to come in all, where the server said so.
    total: Option<u64>,
    received: u64,
    pub(crate) etag: Option<String>,
    media_type: Option<String>,
    expected: Option<[u8; 32]>,
    /// `None` for a part of a file, which has no digest of its own.
    hasher: Option<Sha256>,
    digest: Option<[u8; 32]>,
}

impl Content {
    /// The whole of a file: the answer to a request without `Range`.
    pub(crate) fn whole(id: FileId, response: Response, idle: Duration) -> Result<Self, Error> {
        if response.status() != StatusCode::OK {
            return Err(unexpected(&response));
        }
        let headers = response.headers();
        Ok(Self {
            id,
            idle,
            total: response.content_length(),
            received: 0,
            etag: text(headers, "etag").map(str::to_owned),
            media_type: text(headers, "content-type").map(str::to_owned),
            expected: repr_digest(headers),
            hasher: Some(Sha256::new()),
            digest: None,
            response,
        })
    }

    /// A part: the answer to a request with `Range: bytes=first-`.
    pub(crate) fn part(
        id: FileId,
        response: Response,
        idle: Duration,
        first: u64,
    ) -> Result<Self, Error> {
        let range = part_of(&response, first)?;
        let headers = response.headers();
        Ok(Self {
            id,
            idle,
            total: Some(range.last + 1 - range.first),
            received: 0,
            etag: text(headers, "etag").map(str::to_owned),
            media_type: text(headers, "content-type").map(str::to_owned),
            expected: None,
            hasher: None,
            digest: None,
            response,
        })
    }

    /// Goes on with `response`, the answer to a request for what has not come yet.
    pub(crate) fn go_on(&mut self, response: Response) -> Result<(), Error> {
        let range = part_of(&response, self.received)?;
        let same = self.total.is_none_or(|total| range.of.is_none_or(|of| of == total))
            && (self.expected.is_none() || self.expected == repr_digest(response.headers()));
        if !same {
            return Err(Error::Protocol {
                what: "the file is another one than before".to_owned(),
                trace_id: trace_id(response.headers()),
            });
        }
        self.response = response;
        Ok(())
    }

    /// The next piece; `None` once all have come and are what the server announced.
    ///
    /// After [`Error::Network`] the rest can be asked for with [`crate::Client::resume`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if self.total == Some(self.received) {
            return self.finish();
        }
        let Some(chunk) = next_chunk(&mut self.response, self.idle).await? else {
            return self.finish();
        };
        self.received += chunk.len() as u64;
        if self.total.is_some_and(|total| self.received > total) {
            return Err(self.wrong("more bytes came than were announced"));
        }
        if let Some(hasher) = self.hasher.as_mut() {
            hasher.update(&chunk);
        }
        Ok(Some(chunk))
    }

    fn finish(&mut self) -> Result<Option<Bytes>, Error> {
        if self.total.is_some_and(|total| self.received < total) {
            return Err(self.wrong("fewer bytes came than were announced"));
        }
        if let Some(hasher) = self.hasher.take() {
            let actual: [u8; 32] = hasher.finalize().into();
            self.digest = Some(actual);
            match self.expected {
                Some(expected) if expected != actual => {
                    return Err(Error::Corrupt { expected: hex(&expected), actual: hex(&actual) });
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Protocol { what: what.to_owned(), trace_id: trace_id(self.response.headers()) }
    }

    /// Bytes to come in all, where the server said so.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Bytes that have come.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What it is served as.
    pub fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// Whether the server announced a digest, so that the end of the stream proves the content.
    pub fn is_verifiable(&self) -> bool {
        self.expected.is_some()
    }

    /// Hex SHA-256 of what came, after the end of a whole file.
    pub fn sha256(&self) -> Option<String> {
        self.digest.as_ref().map(hex)
    }
}

/// `Content-Range: bytes first-last/of`.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    first: u64,
    last: u64,
    of: Option<u64>,
}

fn part_of(response: &Response, first: u64) -> Result<Part, Error> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err(unexpected(response));
    }
    text(response.headers(), "content-range")
        .and_then(parse_content_range)
        .filter(|part| part.first == first)
        .ok_or_else(|| Error::Protocol {
            what: "the part is not the one asked for".to_owned(),
            trace_id: trace_id(response.headers()),
        })
}

fn parse_content_range(value: &str) -> Option<Part> {
    let (range, of) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let of = if of == "*" { None } else { Some(of.parse().ok()?) };
    let part = Part { first: first.parse().ok()?, last: last.parse().ok()?, of };
    let inside = part.first <= part.last && part.of.is_none_or(|of| part.last < of);
    inside.then_some(part)
}

/// The SHA-256 of `Repr-Digest: sha-256=:…:`, RFC 9530.
fn repr_digest(headers: &HeaderMap) -> Option<[u8; 32]> {
    text(headers, "repr-digest")?.split(',').find_map(|item| {
        let (name, value) = item.trim().split_once('=')?;
        let base64 = value.strip_prefix(':')?.strip_suffix(':')?;
        let bytes =
            name.eq_ignore_ascii_case("sha-256").then(|| STANDARD.decode(base64).ok())??;
        bytes.try_into().ok()
    })
}

fn unexpected(response: &Response) -> Error {
    Error::Protocol {
        what: format!("HTTP {} where content was asked for", response.status().as_u16()),
        trace_id: trace_id(response.headers()),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(
            parse_content_range("bytes 5-9/10"),
            Some(Part { first: 5, last: 9, of: Some(10) })
        );
        assert_eq!(parse_content_range("bytes 0-0/*"), Some(Part { first: 0, last: 0, of: None }));
        for bad in ["", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "items 0-1/2", "bytes 5/10"]
        {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn digests_are_found_among_others() {
        let digest = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("repr-digest", value.parse().unwrap());
            repr_digest(&headers)
        };
        let encoded = STANDARD.encode([7_u8; 32]);
        assert_eq!(digest(&format!("sha-256=:{encoded}:")), Some([7; 32]));
        assert_eq!(digest(&format!("sha-512=:AAAA:, SHA-256=:{encoded}:")), Some([7; 32]));
        for bad in ["", "sha-256", "sha-256=:AAAA:", "sha-256=AAAA", "md5=:AAAA:"] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }
}
