//! Downloads: verified, resumed, and refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use filegate_client::{Content, Error};
use sha2::Digest as _;

use crate::fake::{Answer, Fake};
use crate::{client, id};

fn digest(content: &[u8]) -> String {
    let digest = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(content));
    format!("Repr-Digest: sha-256=:{digest}:")
}

fn file(content: &[u8]) -> Answer {
    Answer::new("audio/wav", content).header(digest(content)).header("ETag: \"e\"")
}

async fn read(content: &mut Content) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = content.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[tokio::test]
async fn content_is_streamed_and_verified() {
    for length in [0, 1, 300_000] {
        let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let expected = bytes.clone();
        let fake = Fake::start(move |_request| file(&bytes));
        let mut content = client(&fake.url).content(id(7)).await.unwrap();
        assert_eq!(content.total(), Some(length as u64));
        assert!(content.is_verifiable());
        assert!(read(&mut content).await.unwrap() == expected);
        assert_eq!(content.sha256().unwrap().len(), 64);
        assert!(content.chunk().await.unwrap().is_none(), "the end is the end");
    }
}

#[tokio::test]
async fn damage_is_noticed() {
    let fake = Fake::start(|_request| Answer::new("audio/wav", "hellO").header(digest(b"hello")));
    let mut content = client(&fake.url).content(id(7)).await.unwrap();
    let error = read(&mut content).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(move |request| {
        if tries.fetch_add(1, Ordering::Relaxed) == 0 {
            return file(b"hello world").cut(4);
        }
        assert_eq!(request.header("range"), Some("bytes=4-"));
        assert_eq!(request.header("if-range"), Some("\"e\""));
        Answer::new("audio/wav", "o world")
            .status("206 Partial Content")
            .header("Content-Range: bytes 4-10/11")
            .header(digest(b"hello world"))
    });
    let client = client(&fake.url);
    let mut content = client.content(id(7)).await.unwrap();
    let mut bytes = Vec::new();
    let error = loop {
        match content.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => panic!("it broke off"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Network { .. }), "{error:?}");
    assert_eq!(bytes, b"hell");
    client.resume(&mut content).await.unwrap();
    bytes.extend_from_slice(&read(&mut content).await.unwrap());
    assert_eq!(bytes, b"hello world");
    assert!(content.sha256().is_some());
}

#[tokio::test]
async fn a_resumed_file_must_be_the_same_file() {
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(move |_request| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => file(b"hello world").cut(4),
        _ => file(b"other bytes"),
    });
    let client = client(&fake.url);
    let mut content = client.content(id(7)).await.unwrap();
    assert!(read(&mut content).await.is_err());
    let error = client.resume(&mut content).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn a_range_is_what_was_asked_for() {
    let fake = Fake::start(|request| {
        assert_eq!(request.header("range"), Some("bytes=2-4"));
        Answer::new("audio/wav", "llo")
            .status("206 Partial Content")
            .header("Content-Range: bytes 2-4/11")
    });
    let mut content = client(&fake.url).content_range(id(7), 2, Some(4)).await.unwrap();
    assert_eq!(read(&mut content).await.unwrap(), b"llo");
    assert_eq!(content.sha256(), None);
}

#[tokio::test]
async fn a_refusal_is_not_taken_for_content() {
    let fake = Fake::start(|_request| {
        Answer::json(r#"{"base_resp":{"status_code":2049,"status_msg":"invalid api key"}}"#)
    });
    let error = client(&fake.url).content(id(7)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: 2049, .. }), "{error:?}");
}
