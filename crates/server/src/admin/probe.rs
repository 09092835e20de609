//! Whether a channel's key is known where it is sent, and if not, where else.
//!
//! Keys of one of upstream's regions are unknown in the others, and answers do not say so. Therefore the
//! key is shown to the hosts of all regions (`relay.regions`), side by side, in a list that changes nothing.
//! On the channel's own host a small file is uploaded and deleted again: an account may list and not upload.

use std::time::{Duration, Instant};

use filegate_client::{Client, ClientConfig, Error, Key, ListQuery, Upload};
use filegate_types::FileId;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::Ask;
use super::channels::{base_url, key};
use super::{Answer, Answered};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(4);
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// What is listed: a purpose that both regions know.
const LISTED_PURPOSE: &str = "voice_clone";
/// What is uploaded: a purpose that takes any text.
const UPLOADED_PURPOSE: &str = "t2a_async_input";
const UPLOADED: &[u8] = b"filegate channel test\n";
/// Upstream's codes for a key that it does not know.
const UNKNOWN_KEY: [i64; 2] = [1004, 2049];
/// Codes of a known key: of a rate, a balance, a plan, tokens, connections.
const KNOWN_KEY: [i64; 7] = [1002, 1008, 1028, 1030, 1039, 1041, 2045];

/// A host to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    base_url: String,
    /// What old accounts need in the query.
    group_id: Option<String>,
}

/// A host that was asked.
struct Asked {
    base_url: String,
    own: bool,
    outcome: Outcome,
    took: Duration,
}

/// What an answer says: its code, if it has one, and its words.
struct Outcome {
    worked: bool,
    /// Whether the key is known; `None` if that is not said.
    known: Option<bool>,
    code: Option<i64>,
    message: String,
}

/// Tests a channel that is there.
pub(super) async fn stored(ask: Ask) -> Answered {
    super::nothing(&ask)?;
    let channel = super::channel_row(&ask).await?;
    let plain = ask.app.secrets.open(&channel)?;
    let own =
        Host { base_url: channel.base_url.clone(), group_id: channel.settings.group_id.clone() };
    test(&ask, Some(&channel.name), own, &key(&plain)?).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    base_url: String,
    key: String,
    group_id: Option<String>,
}

/// Tests what could become a channel.
pub(super) async fn given(ask: Ask) -> Answered {
    let given: Given = ask.json()?;
    let own = Host { base_url: base_url(&given.base_url)?, group_id: given.group_id };
    test(&ask, None, own, &key(&given.key)?).await
}

/// The channel's own host is the first that is asked.
async fn test(ask: &Ask, name: Option<&str>, own: Host, key: &Key) -> Answered {
    let mut hosts = vec![own.clone()];
    for region in &ask.app.config.relay.regions {
        let region = Host { base_url: base_url(region)?, group_id: own.group_id.clone() };
        if !hosts.contains(&region) {
            hosts.push(region);
        }
    }
    if ask.dry_run()? {
        let hosts: Vec<_> = hosts.iter().map(|host| json!({"base_url": host.base_url})).collect();
        return Ok(Answer::Json(json!({"channel": name, "hosts": hosts, "dry_run": true})));
    }
    let asked = join_all(hosts.into_iter().map(|host| {
        let own = host == own;
        async move {
            let began = Instant::now();
            let outcome = list(&host, key).await;
            Asked { base_url: host.base_url, own, outcome, took: began.elapsed() }
        }
    }))
    .await;
    let reached = asked.iter().any(|host| host.own && host.outcome.known == Some(true));
    let upload = if reached { Some(upload(&own, key).await) } else { None };
    let (verdict, advice) = verdict(&asked, upload.as_ref().map(|(outcome, _)| outcome));
    let hosts: Vec<Value> = asked.iter().map(Asked::shown).collect();
    let upload = upload.map(|(outcome, deleted)| {
        json!({"worked": outcome.worked, "code": outcome.code, "message": outcome.message,
               "deleted": deleted})
    });
    Ok(Answer::Json(json!({
        "channel": name, "base_url": own.base_url, "verdict": verdict, "advice": advice,
        "hosts": hosts, "upload": upload,
    })))
}

impl Asked {
    fn shown(&self) -> Value {
        json!({
            "base_url": self.base_url, "own": self.own, "known": self.outcome.known,
            "code": self.outcome.code, "message": self.outcome.message,
            "took_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

fn client(host: &Host, key: &Key) -> Result<Client, Error> {
    // Fails only when one is set already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    Client::new(&ClientConfig {
        connect_timeout: CONNECT_MAX,
        idle_timeout: ANSWER_MAX,
        answer_timeout: ANSWER_MAX,
        group_id: host.group_id.clone(),
        ..ClientConfig::new(host.base_url.clone(), Some(key.clone()))
    })
}

async fn list(host: &Host, key: &Key) -> Outcome {
    let query = ListQuery { purpose: Some(LISTED_PURPOSE.to_owned()), limit: None, after: None };
    let asked = async { client(host, key)?.list(&query).await.map(drop) };
    outcome(in_time(asked).await, key)
}

/// Uploads a file and deletes it; says whether both worked.
async fn upload(host: &Host, key: &Key) -> (Outcome, Option<bool>) {
    let file = Upload::from_bytes(UPLOADED_PURPOSE, "filegate-channel-test.txt", UPLOADED);
    let uploaded = in_time(async { client(host, key)?.upload(file).await }).await;
    match uploaded.map(|reply| reply.file.map(|file| file.file_id)) {
        Ok(Some(id)) => {
            let deleted = in_time(delete(host, key, id)).await.is_ok();
            (outcome(Ok(()), key), Some(deleted))
        }
        Ok(None) => (outcome(Ok(()), key), Some(false)),
        Err(error) => (outcome(Err(error), key), None),
    }
}

async fn delete(host: &Host, key: &Key, id: FileId) -> Result<(), Error> {
    client(host, key)?.delete(id, Some(UPLOADED_PURPOSE)).await.map(drop)
}

/// No host is waited for longer than the others, whatever it does.
async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let longest = CONNECT_MAX + ANSWER_MAX;
    tokio::time::timeout(longest, call).await.unwrap_or_else(|late| {
        Err(Error::Network { doing: "the call", connect: false, source: Box::new(late) })
    })
}

fn outcome(result: Result<(), Error>, key: &Key) -> Outcome {
    let Err(error) = result else {
        let message = "success".to_owned();
        return Outcome { worked: true, known: Some(true), code: Some(0), message };
    };
    let (code, known) = match &error {
        Error::Refused { code, .. } if UNKNOWN_KEY.contains(code) => (Some(*code), Some(false)),
        Error::Refused { code, .. } if KNOWN_KEY.contains(code) => (Some(*code), Some(true)),
        Error::Refused { code, .. } => (Some(*code), None),
        Error::Http { status: 401 | 403, .. } => (None, Some(false)),
        _ => (None, None),
    };
    let message = match &error {
        Error::Refused { message, .. } => message.clone(),
        other => other.to_string(),
    };
    // Somebody's words may repeat what they were sent.
    let message = message.replace(key.expose(), "(the key)");
    Outcome { worked: false, known, code, message }
}

/// What it comes to, in a word and in a sentence.
fn verdict(asked: &[Asked], upload: Option<&Outcome>) -> (&'static str, String) {
    let own = asked.iter().find(|host| host.own).map(|host| &host.outcome);
    let elsewhere = asked.iter().find(|host| !host.own && host.outcome.known == Some(true));
    match (own.and_then(|own| own.known), upload, elsewhere) {
        (Some(true), Some(upload), _) if upload.worked => {
            ("well", "the key is known there, and uploads work".to_owned())
        }
        (Some(true), ..) => (
            "upload_refused",
            "the key is known there, but an upload was refused; see upstream's words".to_owned(),
        ),
        (_, _, Some(host)) => (
            "elsewhere",
            format!("the key belongs to {}: set that as the base URL", host.base_url),
        ),
        (Some(false), ..) => (
            "key_refused",
            "no host knows the key: it is wrong, revoked, or of another region than were asked"
                .to_owned(),
        ),
        (None, ..) if own.is_some_and(|own| own.code.is_none()) => (
            "unreachable",
            "its host gave no answer that can be read: is the base URL right, and may this machine \
             reach it?"
                .to_owned(),
        ),
        (None, ..) => (
            "unclear",
            "its host answered, but not whether it knows the key; see upstream's words".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(base_url: &str, own: bool, known: Option<bool>, code: Option<i64>) -> Asked {
        let outcome = Outcome { worked: code == Some(0), known, code, message: String::new() };
        Asked { base_url: base_url.to_owned(), own, outcome, took: Duration::ZERO }
    }

    #[test]
    fn verdicts_name_the_place_of_a_key() {
        let (well, refused) = (asked("", true, Some(true), Some(0)).outcome, Some(false));
        let limited = asked("", true, Some(true), Some(1008)).outcome;
        let away = |known, code| {
            [asked("https://a", true, known, code), asked("https://b", false, refused, None)]
        };
        let there = asked("https://b", false, Some(true), Some(0));
        let moved = [asked("https://a", true, refused, Some(2049)), there];
        for (hosts, upload, says) in [
            (&away(Some(true), Some(0)), Some(&well), "well"),
            (&away(Some(true), Some(0)), Some(&limited), "upload_refused"),
            (&moved, None, "elsewhere"),
            (&away(refused, Some(1004)), None, "key_refused"),
            (&away(None, None), None, "unreachable"),
            (&away(None, Some(1013)), None, "unclear"),
        ] {
            assert_eq!(verdict(hosts, upload).0, says);
        }
        assert!(verdict(&moved, None).1.contains("https://b"));
    }

    #[test]
    fn words_that_repeat_the_key_do_not_show_it() {
        let key = Key::new("sk-hush").unwrap();
        let refused = Error::Refused {
            code: 2049,
            message: "invalid api key sk-hush".to_owned(),
            trace_id: None,
            status: 200,
            retry_after_s: None,
        };
        let told = outcome(Err(refused), &key);
        assert_eq!((told.known, told.message.as_str()), (Some(false), "invalid api key (the key)"));
        let status = Error::Http { status: 401, trace_id: None };
        assert_eq!(outcome(Err(status), &key).known, Some(false));
    }
}
