//! Where a bucket is and how it is spoken to: parsed, then checked, with errors that name the setting.

use std::time::Duration;

use object_store::signer::Url;

/// The least that S3 takes as a part that is not the last.
const PART_BYTES_MIN: u64 = 5 << 20;
/// The most that S3 takes as one part or one PUT.
const PART_BYTES_MAX: u64 = 5 << 30;
/// The most parts that S3 takes.
const PARTS_MAX: u64 = 10_000;

/// How a bucket is spoken to.
#[derive(Clone)]
pub struct S3Options {
    /// Its name.
    pub bucket: String,
    /// What all keys begin with; empty or without a slash at either end.
    pub prefix: String,
    /// Where the store is; `None`: AWS.
    pub endpoint: Option<Url>,
    /// Its region; `None`: that of `AWS_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// With `secret_access_key`, the static key. Empty: what the environment says, else the role of the
    /// instance, container or service account.
    pub access_key_id: String,
    /// See `access_key_id`.
    pub secret_access_key: String,
    /// Whether the bucket is in the path or in the host name.
    pub path_style: bool,
    /// The checksum that is sent with each body.
    pub checksum: S3Checksum,
    /// `AES256`, `aws:kms`, `aws:kms:dsse`; empty: what the bucket does.
    pub sse: String,
    /// The key for `aws:kms`; empty: the account's own.
    pub sse_kms_key: String,
    /// Bodies up to this size go up in one PUT, larger ones in parts of it.
    pub part_bytes: u64,
    /// Parts of one body under way at a time.
    pub parts_parallel: usize,
    /// Bytes of all bodies together that are in memory on their way up, those up to a block not counted.
    pub memory_max: u64,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for one request, its body included; for a read, the longest silence.
    pub request_timeout: Duration,
    /// How often a request that failed is made again.
    pub retries: usize,
}

/// The checksum of a body sent to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Checksum {
    /// `x-amz-checksum-sha256`
    Sha256,
    /// None.
    None,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting {setting}: {why}")]
pub struct S3Setting {
    /// Its name.
    pub setting: &'static str,
    /// What is wrong with it.
    pub why: String,
}

fn wrong<T>(setting: &'static str, why: impl Into<String>) -> Result<T, S3Setting> {
    Err(S3Setting { setting, why: why.into() })
}

impl S3Options {
    /// What `s3://bucket/prefix?endpoint=…&region=…` says, and defaults for all else.
    pub fn parse(text: &str) -> Result<Self, S3Setting> {
        const SETTING: &str = "blob_url";
        let Some(rest) = text.strip_prefix("s3://") else {
            return wrong(SETTING, format!("{text:?} does not start with s3://"));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_matches('/');
        if let Err(why) = check_bucket(bucket).and_then(|()| check_prefix(prefix)) {
            return wrong(SETTING, why);
        }
        let mut options = Self::named(bucket.to_owned(), prefix.to_owned());
        // Only for its reading of queries.
        let Ok(query) = Url::parse(&format!("s3://x/?{query}")) else {
            return wrong(SETTING, format!("{query:?} is not a query"));
        };
        for (name, value) in query.query_pairs() {
            match name.as_ref() {
                "endpoint" => match check_endpoint(&value) {
                    Ok(endpoint) => options.endpoint = Some(endpoint),
                    Err(why) => return wrong(SETTING, why),
                },
                "region" if is_region(&value) => options.region = Some(value.into_owned()),
                "region" => return wrong(SETTING, format!("{value:?} is not a region")),
                name => return wrong(SETTING, format!("{name:?} is neither endpoint nor region")),
            }
        }
        Ok(options)
    }

    fn named(bucket: String, prefix: String) -> Self {
        Self {
            bucket,
            prefix,
            endpoint: None,
            region: None,
            access_key_id: String::new(),
            secret_access_key: String::new(),
            path_style: true,
            checksum: S3Checksum::Sha256,
            sse: String::new(),
            sse_kms_key: String::new(),
            part_bytes: 8 << 20,
            parts_parallel: 2,
            memory_max: 256 << 20,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(30),
            retries: 3,
        }
    }

    /// Whether a store could be spoken to with this, and take files of `largest` bytes.
    pub fn check(&self, largest: u64) -> Result<(), S3Setting> {
        match (self.access_key_id.is_empty(), self.secret_access_key.is_empty()) {
            (true, false) => return wrong("s3.access_key_id", "missing beside secret_access_key"),
            (false, true) => return wrong("s3.secret_access_key", "missing beside access_key_id"),
            _ => {}
        }
        if !matches!(self.sse.as_str(), "" | "AES256" | "aws:kms" | "aws:kms:dsse") {
            let why = format!("{:?} is not AES256, aws:kms or aws:kms:dsse", self.sse);
            return wrong("s3.sse", why);
        }
        if !self.sse_kms_key.is_empty() && !self.sse.starts_with("aws:kms") {
            return wrong("s3.sse_kms_key", "is for s3.sse = \"aws:kms\" or \"aws:kms:dsse\"");
        }
        let part = self.part_bytes;
        if !(PART_BYTES_MIN..=PART_BYTES_MAX).contains(&part) {
            return wrong("s3.part_bytes", format!("{part} B is not from 5 MiB to 5 GiB"));
        }
        if largest.div_ceil(part) > PARTS_MAX {
            let why =
                format!("{largest} B, the largest file, are over {PARTS_MAX} parts of {part} B");
            return wrong("s3.part_bytes", why);
        }
        if self.parts_parallel == 0 || self.parts_parallel > 100 {
            let why = format!("{} is not from 1 to 100", self.parts_parallel);
            return wrong("s3.parts_parallel", why);
        }
        if self.memory_max < part || self.memory_max > 1 << 40 {
            let why = format!("{} B is not from s3.part_bytes to 1 TiB", self.memory_max);
            return wrong("s3.memory_max", why);
        }
        for (setting, span) in [
            ("s3.connect_timeout", self.connect_timeout),
            ("s3.request_timeout", self.request_timeout),
        ] {
            if span.is_zero() {
                return wrong(setting, "must be more than 0s");
            }
        }
        if self.retries > 20 {
            return wrong("s3.retries", format!("{} is more than 20", self.retries));
        }
        Ok(())
    }

    /// What is put in front of a blob's shard.
    pub(super) fn root(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint.as_ref().map(Url::as_str))
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

fn check_bucket(bucket: &str) -> Result<(), String> {
    let letters = bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if letters && (3..=255).contains(&bucket.len()) {
        return Ok(());
    }
    Err(format!("{bucket:?} is not the name of a bucket: 3 or more of a-z, 0-9, dot and hyphen"))
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(plain);
    if prefix.is_empty() || (prefix.len() <= 512 && prefix.split('/').all(segment)) {
        return Ok(());
    }
    Err(format!(
        "{prefix:?} is not a prefix: words of a-z, 0-9, dot, hyphen and underscore between slashes"
    ))
}

fn check_endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("endpoint {text:?}: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("endpoint {text:?} is not http://host or https://host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the endpoint carries credentials: give s3.access_key_id".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("endpoint {text:?} has more than a host and a port"));
    }
    Ok(url)
}

fn is_region(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_the_bucket_is() {
        let o = S3Options::parse("s3://files/a/b/?endpoint=http://127.0.0.1:3900&region=garage");
        let o = o.unwrap();
        assert_eq!((o.bucket.as_str(), o.root().as_str()), ("files", "a/b/"));
        assert_eq!(o.endpoint.as_ref().map(Url::as_str), Some("http://127.0.0.1:3900/"));
        assert_eq!(o.region.as_deref(), Some("garage"));
        o.check(512 << 20).unwrap();
        let o = S3Options::parse("s3://files").unwrap();
        assert_eq!((o.root().as_str(), o.endpoint, o.region), ("", None, None));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, says) in [
            ("", "\"\" does not start with s3://"),
            ("https://x/y", "does not start with s3://"),
            ("s3://ab", "\"ab\" is not the name of a bucket"),
            ("s3:///prefix", "\"\" is not the name of a bucket"),
            ("s3://bucket/a//b", "\"a//b\" is not a prefix"),
            ("s3://bucket/../b", "\"../b\" is not a prefix"),
            ("s3://bucket/a b", "\"a b\" is not a prefix"),
            ("s3://bucket?endpoint=garage:3900", "endpoint \"garage:3900\" is not http://host"),
            ("s3://bucket?endpoint=http://a:b@host", "carries credentials"),
            ("s3://bucket?endpoint=http://host/path", "more than a host and a port"),
            ("s3://bucket?region=", "\"\" is not a region"),
            ("s3://bucket?regoin=x", "\"regoin\" is neither endpoint nor region"),
        ] {
            let error = S3Options::parse(url).unwrap_err();
            assert_eq!(error.setting, "blob_url");
            assert!(error.why.contains(says), "{url}: {error}");
        }
        let is = |change: fn(&mut S3Options), setting: &str| {
            let mut options = S3Options::parse("s3://bucket").unwrap();
            change(&mut options);
            assert_eq!(options.check(512 << 20).unwrap_err().setting, setting);
        };
        is(|o| o.part_bytes = (5 << 20) - 1, "s3.part_bytes");
        is(|o| o.parts_parallel = 0, "s3.parts_parallel");
        is(|o| o.memory_max = 1 << 20, "s3.memory_max");
        is(|o| o.sse = "aes".to_owned(), "s3.sse");
        is(|o| o.sse_kms_key = "k".to_owned(), "s3.sse_kms_key");
        is(|o| o.access_key_id = "k".to_owned(), "s3.secret_access_key");
        is(|o| o.secret_access_key = "k".to_owned(), "s3.access_key_id");
        is(|o| o.request_timeout = Duration::ZERO, "s3.request_timeout");
        let least = S3Options { part_bytes: 5 << 20, ..S3Options::parse("s3://bucket").unwrap() };
        assert!(least.check(10_000 * (5 << 20)).is_ok());
        assert!(least.check(10_000 * (5 << 20) + 1).is_err());
    }
}
