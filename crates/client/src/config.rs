//! Where the server is, who calls, and how long to wait.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::error::Error;

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `http://127.0.0.1:8080`; a prefix (`/minimax`) and a final `/v1` are understood.
    pub base_url: String,
    /// The API key; `None` for [`crate::Client::health`] alone.
    pub key: Option<Key>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time in which no byte moves, either way.
    pub idle_timeout: Duration,
    /// Longest wait for the answer after the last byte of a request: the server decodes and
    /// syncs meanwhile.
    pub answer_timeout: Duration,
    /// The `GroupId` that old accounts of MiniMax need in the query of every call.
    pub group_id: Option<String>,
}

impl ClientConfig {
    /// The usual timeouts: 10 s to connect, 60 s idle, 180 s for the answer; no `GroupId`.
    pub fn new(base_url: impl Into<String>, key: Option<Key>) -> Self {
        Self {
            base_url: base_url.into(),
            key,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(1),
            answer_timeout: Duration::from_mins(3),
            group_id: None,
        }
    }
}

/// An API key that can stand in a header. `Debug` does not show it.
#[derive(Clone)]
pub struct Key(String);

impl Key {
    /// The key without surrounding white space, such as the line end of a key file.
    ///
    /// # Errors
    /// [`Error::Config`] when nothing is left or it has characters that no key has.
    pub fn new(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::Config("the key is empty".to_owned()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Config(
                "the key has white space or characters outside ASCII in it".to_owned(),
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The secret itself, to be sent and never shown.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn bearer(&self) -> Result<HeaderValue, Error> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))
            .map_err(|_invalid| Error::Config("the key cannot stand in a header".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The base URL, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    /// Up to and without `/v1`, no final slash.
    api: String,
    /// Where `/healthz` is: without the MiniMax prefix either.
    root: String,
    /// Whether TLS is needed at all.
    pub(crate) https: bool,
    /// Whether the server is on this machine, where no proxy is wanted.
    pub(crate) loopback: bool,
    /// In the query of every call, if there is one.
    pub(crate) group_id: Option<String>,
}

impl Base {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Config(format!("the URL {text:?} cannot be used: {why}"));
        let url = Url::parse(text.trim()).map_err(|error| bad(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("it must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Config("the URL must not carry a user name or password".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it must end after the path"));
        }
        let loopback = match url.host_str() {
            None => return Err(bad("it names no host")),
            Some(host) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost"
                    || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        };
        let origin = url.origin().ascii_serialization();
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/');
        let below = ["/minimaxi", "/minimax"].iter().find_map(|prefix| path.strip_suffix(prefix));
        Ok(Self {
            api: format!("{origin}{path}"),
            root: format!("{origin}{}", below.unwrap_or(path)),
            https: url.scheme() == "https",
            loopback,
            group_id: None,
        })
    }

    /// `{base}/v1/files/{word}` with `query`.
    pub(crate) fn files(&self, word: &str, query: &[(&str, String)]) -> Result<Url, Error> {
        let mut url = Self::join(&format!("{}/v1/files/{word}", self.api))?;
        if let Some(group) = &self.group_id {
            url.query_pairs_mut().append_pair("GroupId", group);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// `/{path}` outside the API.
    pub(crate) fn outside(&self, path: &str) -> Result<Url, Error> {
        Self::join(&format!("{}/{path}", self.root))
    }

    fn join(text: &str) -> Result<Url, Error> {
        Url::parse(text).map_err(|error| Error::Config(format!("the URL {text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_come_out_the_same() {
        for (given, list, health) in [
            ("http://h:1", "http://h:1/v1/files/list", "http://h:1/healthz"),
            ("http://h:1/", "http://h:1/v1/files/list", "http://h:1/healthz"),
            ("http://h:1/v1", "http://h:1/v1/files/list", "http://h:1/healthz"),
            ("http://h:1/v1/", "http://h:1/v1/files/list", "http://h:1/healthz"),
            ("http://h/minimax", "http://h/minimax/v1/files/list", "http://h/healthz"),
            ("http://h/minimaxi/v1", "http://h/minimaxi/v1/files/list", "http://h/healthz"),
            ("https://h/a/minimax/v1/", "https://h/a/minimax/v1/files/list", "https://h/a/healthz"),
            ("http://[::1]:8/v1", "http://[::1]:8/v1/files/list", "http://[::1]:8/healthz"),
            (" http://h ", "http://h/v1/files/list", "http://h/healthz"),
        ] {
            let base = Base::parse(given).unwrap();
            assert_eq!(base.files("list", &[]).unwrap().as_str(), list, "{given}");
            assert_eq!(base.outside("healthz").unwrap().as_str(), health, "{given}");
        }
        for bad in ["", "h:1", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http://h#a"] {
            assert!(matches!(Base::parse(bad), Err(Error::Config(_))), "{bad}");
        }
        for (given, loopback) in [
            ("http://127.0.0.1:1", true),
            ("http://localhost", true),
            ("http://[::1]", true),
            ("http://h", false),
        ] {
            assert_eq!(Base::parse(given).unwrap().loopback, loopback, "{given}");
        }
    }

    #[test]
    fn query_values_are_encoded() {
        let base = Base::parse("http://h").unwrap();
        let url = base.files("list", &[("purpose", "a&b c".to_owned())]).unwrap();
        assert_eq!(url.as_str(), "http://h/v1/files/list?purpose=a%26b+c");
        let grouped = Base { group_id: Some("17 1".to_owned()), ..base };
        let url = grouped.files("list", &[("purpose", "a".to_owned())]).unwrap();
        assert_eq!(url.as_str(), "http://h/v1/files/list?GroupId=17+1&purpose=a");
        assert_eq!(
            grouped.files("upload", &[]).unwrap().query(),
            Some("GroupId=17+1"),
            "in the query of calls that have no other"
        );
    }

    #[test]
    fn the_key_is_trimmed_and_never_shown() {
        let key = Key::new(" fg-secret\n").unwrap();
        assert_eq!(key.expose(), "fg-secret");
        let config = ClientConfig::new("http://h", Some(key));
        assert!(!format!("{config:?}").contains("secret"));
        for bad in ["", " ", "a b", "schlüssel", "a\nb"] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
    }
}
