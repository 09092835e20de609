//! Uploads: the body byte for byte, early answers, and everything that stalls or breaks.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use filegate_client::{Error, Upload};
use tokio::io::{AsyncRead, ReadBuf};

use crate::fake::{Answer, Fake, listen, read_head};
use crate::{client, client_with, file_json, id};

const SUCCESS: &str = r#""base_resp":{"status_code":0,"status_msg":"success"}"#;
const REFUSAL: &str = r#"{"file":null,"base_resp":{"status_code":2013,"status_msg":"invalid params, invalid file purpose"}}"#;

fn stored() -> Answer {
    Answer::json(&format!(r#"{{"file":{},{SUCCESS}}}"#, file_json(7)))
}

#[tokio::test]
async fn a_file_goes_out_whole_with_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("say \"hi\".wav");
    let content: Vec<u8> = (0..700_001_u32).map(|n| n as u8).collect();
    {
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&content).unwrap();
    }
    let fake = Fake::start(|_request| stored());
    let seen = Arc::new(AtomicU64::new(0));
    let progress = seen.clone();
    let upload = Upload::from_path("voice_clone", &path)
        .await
        .unwrap()
        .on_progress(move |sent| progress.store(sent, Ordering::Relaxed));
    assert_eq!(upload.length(), Some(700_001));
    let reply = client(&fake.url).upload(upload).await.unwrap();
    assert_eq!(reply.file.unwrap().file_id, id(7));
    assert_eq!(seen.load(Ordering::Relaxed), 700_001);

    let request = fake.request();
    assert_eq!(request.line, "POST /v1/files/upload HTTP/1.1");
    assert_eq!(request.header("content-length").unwrap(), request.body.len().to_string());
    assert_eq!(request.header("transfer-encoding"), None);
    let boundary = request
        .header("content-type")
        .unwrap()
        .strip_prefix("multipart/form-data; boundary=")
        .unwrap();
    let mut expected = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nvoice_clone\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; \
         filename=\"say %22hi%22.wav\"\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    expected.extend_from_slice(&content);
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(request.body == expected, "the body differs");
}

#[tokio::test]
async fn an_unknown_length_goes_out_in_chunks() {
    let fake = Fake::start(|_request| stored());
    let upload = Upload::from_reader("voice_clone", "a.wav", None, &b"hello"[..]);
    client(&fake.url).upload(upload).await.unwrap();
    let request = fake.request();
    assert_eq!(request.header("transfer-encoding"), Some("chunked"));
    assert!(request.body.windows(9).any(|window| window == b"\r\n\r\nhello"));
    assert!(request.body.ends_with(b"--\r\n"));
}

#[tokio::test]
async fn an_empty_file_is_the_servers_to_refuse() {
    let fake = Fake::start(|_request| Answer::json(REFUSAL));
    let upload = Upload::from_bytes("voice_clone", "a.wav", Vec::new());
    let error = client(&fake.url).upload(upload).await.unwrap_err();
    assert!(matches!(error, Error::Refused { code: 2013, .. }), "{error:?}");
}

#[tokio::test]
async fn validate_only_is_asked_for_and_read() {
    let fake = Fake::start(|_request| {
        Answer::json(&format!(
            r#"{{"file":null,"validated":{{"bytes":5,"filename":"a.wav","purpose":"voice_clone","sha256":"00","media":{{"format":"wav"}}}},{SUCCESS}}}"#
        ))
    });
    let upload = Upload::from_bytes("voice_clone", "a.wav", "hello").validate_only(true);
    let reply = client(&fake.url).upload(upload).await.unwrap();
    assert_eq!(reply.validated.unwrap().bytes, 5);
    assert_eq!(fake.request().line, "POST /v1/files/upload?validate_only=true HTTP/1.1");
}

/// Reads the head, answers, and then does what `after` says.
fn early(after: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> String {
    listen(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        if read_head(&mut reader).is_some() {
            Answer::json(REFUSAL).header("Connection: close").write(&mut stream);
            after(&mut stream);
        }
    })
}

#[tokio::test]
async fn an_early_refusal_is_shown() {
    // As filegate does: reads on for a while.
    let draining = early(|stream| {
        let _end = std::io::copy(&mut stream.take(8 << 20), &mut std::io::sink());
    });
    // Says that it will write no more, and reads nothing.
    let half_closed = early(|stream| {
        let _closed = stream.shutdown(Shutdown::Write);
        std::thread::sleep(Duration::from_secs(2));
    });
    // Neither reads nor closes.
    let silent = early(|_stream| std::thread::sleep(Duration::from_secs(5)));
    // The first is a race that would be lost sometimes.
    let urls = [vec![draining; 20], vec![half_closed, silent]].concat();
    for url in urls {
        let upload = Upload::from_bytes("nonsense", "a.wav", vec![0; 64 << 20]);
        let error = client(&url).upload(upload).await.unwrap_err();
        assert!(matches!(error, Error::Refused { code: 2013, .. }), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn a_server_that_stops_reading_is_given_up() {
    let url = listen(|stream| {
        std::thread::sleep(Duration::from_secs(5));
        drop(stream);
    });
    let client = client_with(&url, |config| config.idle_timeout = Duration::from_millis(200));
    let upload = Upload::from_bytes("voice_clone", "a.wav", vec![0; 64 << 20]);
    let error = client.upload(upload).await.unwrap_err();
    assert!(matches!(error, Error::Network { connect: false, .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let url = listen(|mut stream| {
        let _end = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let client = client_with(&url, |config| config.answer_timeout = Duration::from_millis(200));
    let upload = Upload::from_bytes("voice_clone", "a.wav", "hello");
    let error = client.upload(upload).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error:?}");
    let error = client.retrieve(id(7)).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error:?}");
}

/// Gives one byte and then, for half a second, nothing.
struct SlowReader(Option<Pin<Box<tokio::time::Sleep>>>, u8);

impl AsyncRead for SlowReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(sleep) = self.0.as_mut() {
            std::task::ready!(Future::poll(sleep.as_mut(), cx));
        }
        if self.1 > 0 {
            self.1 -= 1;
            buf.put_slice(b"x");
            self.0 = Some(Box::pin(tokio::time::sleep(Duration::from_millis(500))));
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_slow_source_is_not_the_servers_fault() {
    let fake = Fake::start(|_request| stored());
    let client = client_with(&fake.url, |config| config.idle_timeout = Duration::from_millis(200));
    let upload = Upload::from_reader("voice_clone", "a.wav", Some(2), SlowReader(None, 2));
    client.upload(upload).await.unwrap();
}

#[tokio::test]
async fn a_source_that_fails_is_told_from_the_network() {
    let fake = Fake::start(|_request| stored());
    let upload = Upload::from_reader("voice_clone", "a.wav", Some(9), &b"short"[..]);
    let error = client(&fake.url).upload(upload).await.unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error:?}");
    let error = Upload::from_path("voice_clone", "no/such/file").await.unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error:?}");
    let error = Upload::from_path("voice_clone", ".").await.unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error:?}");
}
