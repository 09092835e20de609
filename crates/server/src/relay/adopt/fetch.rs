//! A `download_url` of upstream's is opened: plain HTTP by address, as whoever upstream gives it to would.
//!
//! Upstream is believed about where a file is, and no further: the address has to be public unless it is the
//! channel's own, each redirect is looked at in the same way, and nothing of ours is sent along.

use std::io;
use std::net::IpAddr;
use std::sync::OnceLock;

use futures_util::StreamExt as _;
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use reqwest::Url;

use super::{Content, Refused, away};
use crate::app::App;
use crate::config::Relay as Settings;
use crate::moderation::addresses::is_public;
use crate::outgoing;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 3;

/// Opens links of upstream's.
#[derive(Debug, Default)]
pub(crate) struct Downloads {
    /// For public addresses.
    public: OnceLock<Result<reqwest::Client, String>>,
    /// For channels themselves, which an operator has named.
    home: OnceLock<Result<reqwest::Client, String>>,
}

impl Downloads {
    /// The content at `url`; `home`: host and port of the channel that told of it.
    pub(super) async fn fetch(
        &self,
        app: &App,
        url: &str,
        home: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Content, Refused> {
        let mut url = Url::parse(url).map_err(|_bad| away("its link is no URL"))?;
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client(&app.config.relay, &url, home)?;
            let sent = client.get(url.clone()).headers(headers.clone()).send();
            let limit = app.config.relay.answer_timeout.0;
            let answer = tokio::time::timeout(limit, sent).await;
            let answer = answer.map_err(|_late| away("its link does not answer in time"))?;
            // Without its URL, which opens the file.
            let answer = answer.map_err(|error| away(&chain(&error.without_url())))?;
            let status = answer.status();
            if !status.is_redirection() {
                return content(answer);
            }
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| url.join(to).ok());
            url = to.ok_or_else(|| away("its link leads nowhere"))?;
        }
        Err(away("its link leads on and on").into())
    }

    /// What may open `url`.
    fn client(
        &self,
        settings: &Settings,
        url: &Url,
        home: Option<&str>,
    ) -> Result<&reqwest::Client, Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(away("its link is neither http nor https").into());
        }
        let is_home = home.is_some() && authority(url).as_deref() == home;
        let made = if is_home {
            self.home.get_or_init(|| build(settings, false))
        } else {
            // An address that stands there itself is not looked up, so no resolver sees it.
            let host = url.host_str().unwrap_or("");
            let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            if literal.is_ok_and(|address| !is_public(address)) {
                return Err(away("its link leads to an address that is not public").into());
            }
            self.public.get_or_init(|| build(settings, true))
        };
        made.as_ref().map_err(|why| away(why).into())
    }
}

/// Host and port of a channel's base URL.
pub(super) fn home_of(base_url: &str) -> Option<String> {
    authority(&Url::parse(base_url).ok()?)
}

fn authority(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

fn build(settings: &Settings, public: bool) -> Result<reqwest::Client, String> {
    let builder = outgoing::builder(public)
        .connect_timeout(settings.connect_timeout.0)
        .read_timeout(settings.answer_idle.0);
    builder.build().map_err(|error| error.to_string())
}

fn content(answer: reqwest::Response) -> Result<Content, Refused> {
    let status = answer.status();
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            let headers = answer.headers().clone();
            let body = answer
                .bytes_stream()
                .map(|piece| piece.map_err(|error| io::Error::other(chain(&error.without_url()))));
            Ok(Content { status, headers, body: body.boxed() })
        }
        // It was made a moment ago: that it opens nothing says nothing about the file.
        other => Err(away(&format!("its link answers HTTP {other}")).into()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(url: &str, home: Option<&str>) -> bool {
        let downloads = Downloads::default();
        downloads.client(&Settings::default(), &Url::parse(url).unwrap(), home).is_ok()
    }

    #[test]
    fn links_lead_to_public_addresses_or_home() {
        let home = home_of("http://127.0.0.1:8080/minimax/");
        assert_eq!(home.as_deref(), Some("127.0.0.1:8080"));
        assert!(opens("http://127.0.0.1:8080/file", home.as_deref()));
        for inner in [
            "http://127.0.0.1:8081/file",
            "http://127.0.0.1/file",
            "http://[::1]:8080/file",
            "http://169.254.169.254/latest",
            "http://2130706433/file",
            "http://0x7f.1/file",
        ] {
            assert!(!opens(inner, home.as_deref()), "{inner}");
            assert!(!opens(inner, None), "{inner}");
        }
        assert!(!opens("ftp://8.8.8.8/file", None));
        assert!(!opens("file:///etc/passwd", None));
        assert!(opens("https://8.8.8.8/file", None));
    }
}
