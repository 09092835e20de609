//! Moderation by the lists: hashes, pictures, terms, and how a change of them arrives.

use std::io::{Cursor, Write as _};
use std::process::Command;

use filegate_testkit::http::Reply;
use filegate_testkit::samples;
use filegate_testkit::server::{TestServer, eventually};
use filegate_types::units::Bytes;
use sha2::{Digest as _, Sha256};

use super::moderation_kit::{block, nothing_kept, refused, start, verdict};

const FILE: &str = "input sensitive: the file is blocked";
const PICTURE: &str = "input sensitive: the picture is blocked, or resembles one that is";
const NAME: &str = "input sensitive: the file name has a blocked term";
const TEXT: &str = "input sensitive: the text has a blocked term";

fn sha256(bytes: &[u8]) -> String {
    filegate_types::hex(&Sha256::digest(bytes))
}

fn validate(server: &TestServer, filename: &str, content: &[u8]) -> Reply {
    let target = "/v1/files/upload?validate_only=true";
    server.request("POST", target).form("retrieval", filename, content).send()
}

#[test]
fn with_nothing_to_ask_there_is_no_verdict() {
    let server = start("");
    server.upload("retrieval", "a.txt", b"anything").file_id();
    assert_eq!(verdict(&server), ("ready".to_owned(), vec![]));
    assert!(server.metric("filegate_moderation_total") < 1.0);
}

#[test]
fn a_blocked_file_is_refused_whatever_its_name_and_size() {
    let server = start("");
    let small = b"the very file".to_vec();
    let large: Vec<u8> = (0..900_000u32).map(|i| b'a' + (i % 23) as u8).collect();
    block(&server, "sha256", &sha256(&small));
    let entry = block(&server, "sha256", &sha256(&large));
    for content in [&small, &large] {
        refused(&server.upload("retrieval", "x.txt", content), 1026, FILE);
        refused(&server.upload("batch", "y.md", content), 1026, FILE);
        refused(&validate(&server, "z.txt", content), 1026, FILE);
    }
    nothing_kept(&server);
    let log = eventually("it is in the log", || {
        let log = server.log();
        log.contains(&format!("entry_id={entry}")).then_some(log)
    });
    assert!(log.contains("moderation.refused"), "{log}");
    assert!(!log.contains(&sha256(&large)), "{log}");
    let count = "filegate_moderation_total{stage=\"sha256\",outcome=\"refused\"}";
    assert!((server.metric(count) - 6.0).abs() < 0.1);

    server.upload("retrieval", "x.txt", b"the very fil").file_id();
    assert_eq!(verdict(&server), ("ready".to_owned(), vec!["sha256 passed".to_owned()]));
}

/// A picture through ffmpeg: input options, output options.
fn picture(input: &[&str], output: &[&str], extension: &str) -> Vec<u8> {
    let file = tempfile::Builder::new().suffix(extension).tempfile().expect("a temporary file");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(input)
        .args(["-frames:v", "1"])
        .args(output)
        .arg(file.path())
        .status();
    assert!(status.expect("ffmpeg can be run").success());
    filegate_testkit::server::read(file.path())
}

#[test]
fn a_picture_is_known_again_in_another_size_and_coding() {
    let server = start("");
    let original = samples::sample("jpeg");
    let path = original.to_str().expect("UTF-8");
    let bytes = samples::sample_bytes("jpeg");
    let hash = filegate_server::image_hash(Cursor::new(&bytes), Bytes::mib(64)).expect("a hash");
    block(&server, "image", &hash);
    let smaller = picture(&["-i", path], &["-vf", "scale=320:280", "-q:v", "20"], ".jpg");
    let darker = picture(&["-i", path], &["-vf", "eq=brightness=-0.06,scale=700:525"], ".png");
    let webp = samples::sample_bytes("webp");
    let alike = [("a.jpg", &bytes), ("b.jpg", &smaller), ("c.png", &darker), ("d.webp", &webp)];
    for (name, content) in alike {
        refused(&server.upload("video_generation_input", name, content), 1026, PICTURE);
    }
    nothing_kept(&server);

    for source in
        ["mandelbrot=size=512x384", "smptebars=size=512x384", "gradients=size=512x384:seed=7"]
    {
        let other = picture(&["-f", "lavfi", "-i", source], &[], ".png");
        server.upload("video_generation_input", "other.png", &other).file_id();
        assert_eq!(verdict(&server), ("ready".to_owned(), vec!["image passed".to_owned()]));
    }
    // There is no decoder of it.
    let heic = samples::sample_bytes("heic");
    server.upload("video_generation_input", "a.heic", &heic).file_id();
    assert_eq!(verdict(&server).1, Vec::<String>::new());
}

#[test]
fn a_picture_too_large_to_decode_passes_with_a_note() {
    let server = start("[moderation]\nimage_memory_max = '100KiB'");
    block(&server, "image", "0123456789abcdef");
    let picture = samples::sample_bytes("png");
    server.upload("video_generation_input", "a.png", &picture).file_id();
    assert_eq!(verdict(&server), ("ready".to_owned(), vec!["image not_asked".to_owned()]));
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(*name, options).expect("a file can be started");
        writer.write_all(content).expect("memory can be written");
    }
    writer.finish().expect("a zip can be ended").into_inner()
}

#[test]
fn a_term_is_found_however_it_is_written_and_wherever_it_stands() {
    let server = start("");
    block(&server, "term", "Forbidden Word");
    block(&server, "term", "禁止语");
    for name in ["forbidden word.txt", "ＦＯＲＢＩＤＤＥＮ Word.md", "x禁止语y.csv"] {
        refused(&server.upload("retrieval", name, b"harmless"), 1026, NAME);
    }
    refused(&server.upload("voice_clone", "禁止语.wav", &samples::sample_bytes("wav")), 1026, NAME);
    // Across the borders of the pieces that are received (256 KiB) and read (64 KiB).
    for border in [64 << 10, 256 << 10, 512 << 10] {
        for before in 0..14 {
            let mut text = vec![b'-'; border - before];
            text.extend_from_slice("FORBIDDEN WORD".as_bytes());
            text.resize(600 << 10, b'.');
            refused(&validate(&server, "a.txt", &text), 1026, TEXT);
        }
    }
    let jsonl = br#"{"a":1}
{"text":"\u7981\u6b62\u8bed"}"#;
    let inside = zip(&[("1.txt", b"fine"), ("2.txt", "so 禁\u{200b}止语".as_bytes())]);
    let json = zip(&[("1.json", br#"{"a":"Forbidden\u0020word"}"#)]);
    for (purpose, name, content) in [
        ("retrieval", "a.txt", "ｆｏｒｂｉｄｄｅｎ　ｗｏｒｄ".as_bytes()),
        ("retrieval", "a.csv", b"1,forBIDDEN wORD,2"),
        ("retrieval", "a.md", "# 禁止语".as_bytes()),
        ("batch", "a.jsonl", jsonl),
        ("t2a_async_input", "a.zip", &inside),
        ("t2a_async_input", "b.zip", &json),
    ] {
        refused(&server.upload(purpose, name, content), 1026, TEXT);
    }
    nothing_kept(&server);
    let log = server.log().to_lowercase();
    assert!(!log.contains("forbidden word") && !log.contains("禁止语"), "{log}");

    let fine = zip(&[("1.txt", b"Forbidden"), ("2.txt", b" Word")]);
    server.upload("t2a_async_input", "a.zip", &fine).file_id();
    server.upload("retrieval", "a.txt", b"forbidden  word").file_id();
    assert_eq!(verdict(&server), ("ready".to_owned(), vec!["term passed".to_owned()]));
}

#[test]
fn whole_words_are_a_setting() {
    let server = start("[moderation]\nterms_whole_words = true");
    block(&server, "term", "ass");
    server.upload("retrieval", "class.txt", b"a classic asset").file_id();
    refused(&server.upload("retrieval", "x.txt", b"an ass."), 1026, TEXT);
}

#[test]
fn a_changed_list_works_without_a_restart() {
    let server = start("");
    let passes = || validate(&server, "a.txt", b"the word is spoken").code() == 0;
    assert!(passes());
    let entry = block(&server, "term", "word");
    eventually("the new entry refuses", || (!passes()).then_some(()));
    server.sql(&format!("DELETE FROM blocked WHERE entry_id = {entry}"));
    eventually("the removed entry lets pass", || passes().then_some(()));
    nothing_kept(&server);
}

#[test]
fn the_lists_are_asked_in_their_order_and_before_the_services() {
    // Nobody listens there: were it asked first, the answer would be 1013.
    let server = start("[moderation.clamd]\naddress = 'unix:/nowhere/clamd'");
    let picture = samples::sample_bytes("png");
    let hash = filegate_server::image_hash(Cursor::new(&picture), Bytes::mib(64)).expect("a hash");
    block(&server, "term", "png");
    let upload = || server.upload("video_generation_input", "a png.png", &picture);
    refused(&upload(), 1026, NAME);
    block(&server, "image", &hash);
    eventually("the picture is refused first", || (upload().message() == PICTURE).then_some(()));
    block(&server, "sha256", &sha256(&picture));
    eventually("the file is refused first", || (upload().message() == FILE).then_some(()));
    nothing_kept(&server);
}
