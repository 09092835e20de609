//! `POST …/v1/files/upload`.

use filegate_testkit::http::{Connection, Field, form};
use filegate_testkit::samples;
use filegate_testkit::server::{TestServer, eventually, read};

use crate::kit::{self, FILE, FORM_TYPE, PURPOSE, chunked, file_head, form_of, head_of, post_form};

const UPLOAD: &str = "/v1/files/upload";

#[test]
fn every_mount_and_the_alias() {
    let server = kit::start();
    let (content_type, body) =
        form(&[Field::Text("purpose", "retrieval"), Field::File("file", "a.txt", b"hello")]);
    let mut ids = vec![];
    for target in [
        "/minimax/v1/files/upload",
        "/minimaxi/v1/files/upload",
        "/v1/files/upload",
        "/minimax/v1/files/upload?GroupId=123&channel_id=4&task_id=x&unheard=of",
        "/minimax/v1/files",
        "/minimaxi/v1/files?GroupId=1",
    ] {
        let request = server.request("POST", target).header("Content-Type", &content_type);
        let file = kit::uploaded(request.body(body.clone()).send());
        assert_eq!(file["bytes"], 5);
        assert_eq!(file["filename"], "a.txt");
        assert_eq!(file["purpose"], "retrieval");
        ids.push(file["file_id"].as_i64().unwrap());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6, "ids are not reused");
    assert_eq!(server.stored("blobs").len(), 6);
    // Without a prefix it is OpenAI's.
    let request = server.request("POST", "/v1/files").header("Content-Type", &content_type);
    let reply = request.body(body).send();
    assert!(reply.status != 200 || reply.json().get("file").is_none(), "{}", reply.text());
    assert_eq!(server.stored("blobs").len(), 6);
}

#[test]
fn fields_in_any_order_among_others() {
    let server = kit::start();
    let purpose = Field::Text("purpose", "retrieval");
    let file = Field::File("file", "a.txt", b"hello");
    let other = Field::Text("channel_id", "7");
    let another = Field::File("thumbnail", "t.exe", b"not looked at");
    for fields in [
        vec![purpose, file],
        vec![file, purpose],
        vec![other, purpose, file],
        vec![file, another, purpose],
        vec![purpose, file, other, other],
        vec![another, other, file, purpose],
    ] {
        let (content_type, body) = form(&fields);
        let request = server.request("POST", UPLOAD).header("Content-Type", &content_type);
        assert_eq!(kit::uploaded(request.body(body).send())["bytes"], 5, "{fields:?}");
    }
    assert!(server.stored("blobs").iter().all(|(_, len)| *len == 5));
}

#[test]
fn part_headers_as_clients_write_them() {
    let server = kit::start();
    for (purpose, file) in [
        (
            "content-disposition:form-data;name=purpose",
            "content-disposition:form-data;name=file;filename=a.txt",
        ),
        (
            PURPOSE,
            "Content-Type: video/mp4\r\nContent-Disposition: form-data; filename=\"a.txt\"; name=\"file\"",
        ),
        (
            "Content-Disposition: form-data; name=\"purpose\"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 9",
            FILE,
        ),
        (
            PURPOSE,
            "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type:\r\nContent-Transfer-Encoding: binary\r\nX-Own: 1",
        ),
        (
            PURPOSE,
            "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"; filename*=UTF-8''b.txt",
        ),
    ] {
        let body = form_of(&[(purpose, b"retrieval"), (file, b"hello")]);
        assert_eq!(kit::uploaded(post_form(&server, body))["filename"], "a.txt", "{file}");
    }
    for content_type in [
        "Multipart/Form-Data; Boundary=XyZ",
        "multipart/form-data; boundary=\"XyZ\"",
        "multipart/form-data; charset=utf-8; boundary=XyZ",
        "multipart/form-data;boundary=XyZ",
    ] {
        let body = form_of(&[(PURPOSE, b"retrieval"), (FILE, b"hello")]);
        let request = server.request("POST", UPLOAD).header("Content-Type", content_type);
        kit::uploaded(request.body(body).send());
    }
}

#[test]
fn chunked_bodies_of_every_cut() {
    let server = kit::start();
    let body = form_of(&[(PURPOSE, b"retrieval"), (FILE, b"hello")]);
    for size in [1, 2, 3, 7, 64, body.len()] {
        let type_line = format!("Content-Type: {FORM_TYPE}");
        let lines = [type_line.as_str(), "Transfer-Encoding: chunked"];
        let mut request = head_of(&server, "POST", UPLOAD, &lines);
        request.extend_from_slice(&chunked(&body, size));
        kit::uploaded(kit::exchange(&server, &request).unwrap());
    }
    assert_eq!(server.stored("blobs").len(), 6);
}

#[test]
fn expect_100_continue() {
    let server = kit::start();
    let body = form_of(&[(PURPOSE, b"retrieval"), (FILE, b"hello")]);
    let lines = |length: u64| {
        let own = format!("Content-Type: {FORM_TYPE}\r\nContent-Length: {length}");
        head_of(&server, "POST", UPLOAD, &[&own, "Expect: 100-continue"])
    };
    let mut connection = Connection::open(&server.address).unwrap();
    connection.write(&lines(body.len() as u64)).unwrap();
    assert_eq!(connection.interim().unwrap().status, 100);
    connection.write(&body).unwrap();
    kit::uploaded(connection.interim().unwrap());

    // What is known from the head is refused instead of asking for the body.
    let mut connection = Connection::open(&server.address).unwrap();
    connection.write(&lines(600 << 20)).unwrap();
    kit::upload_refused(connection.interim().unwrap(), 2013, "invalid params, the body is ");
    assert!(connection.is_closed());
    let head = String::from_utf8(lines(10)).unwrap().replace(&server.key, "fg-nobody");
    let mut connection = Connection::open(&server.address).unwrap();
    connection.write(head.as_bytes()).unwrap();
    kit::upload_refused(connection.interim().unwrap(), 2049, "invalid api key");
    assert!(connection.is_closed());
}

#[test]
fn every_purpose_takes_what_it_should() {
    let server = kit::start();
    let week = 7 * 86_400;
    let forever = 0;
    for (purpose, samples, kept) in [
        ("voice_clone", &["mp3", "m4a", "wav", "mp3-v5-no-xing", "wav-piped"] as &[&str], forever),
        ("prompt_audio", &["mp3-5s", "m4a-5s", "wav-5s", "wav-short"], forever),
        ("video_understanding", &["mp4", "mov", "mkv", "avi", "mp4-mute"], week),
        (
            "video_generation_input",
            &["jpeg", "png", "webp", "heic", "mp4", "mov", "wav", "mp3"],
            week,
        ),
    ] {
        for name in samples {
            let path = samples::sample(name);
            let file_name = format!("{name}.{}", samples::recipe(name).extension);
            let bytes = read(&path);
            let file = kit::uploaded(server.upload(purpose, &file_name, &bytes));
            assert_eq!(file["bytes"], bytes.len(), "{purpose} {name}");
            assert_eq!(file["purpose"], purpose);
            let created = file["created_at"].as_i64().unwrap();
            let expires = file.get("expires_at").map_or(created, |at| at.as_i64().unwrap());
            assert_eq!(expires - created, kept, "{purpose} {name}");
        }
    }
    // The other names of the same formats, in any case.
    for (name, file_name) in [("jpeg", "A.JPEG"), ("heic", "a.Heif"), ("png", "a.b.PNG")] {
        let bytes = samples::sample_bytes(name);
        kit::uploaded(server.upload("video_generation_input", file_name, &bytes));
    }
}

#[test]
fn documents_and_texts() {
    let server = kit::start();
    let docx = kit::zip(&[("[Content_Types].xml", b"<Types/>"), ("word/document.xml", b"<w/>")]);
    let documents: [(&str, &[u8]); 7] = [
        ("a.pdf", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"),
        ("a.docx", &docx),
        ("a.txt", b"words"),
        ("a.jsonl", b"{\"a\":1}\n{\"a\":2}\n"),
        ("a.json", b"{\"a\":[1,2]}"),
        ("a.md", b"# Title"),
        ("a.csv", b"a,b\n1,2\n"),
    ];
    for purpose in ["retrieval", "fine-tune", "assistants", "batch", "role-recognition"] {
        for (name, content) in documents {
            kit::uploaded(server.upload(purpose, name, content));
        }
        let ext = format!("invalid params, invalid file ext for {}", purpose.replace('-', " "));
        kit::upload_refused(server.upload(purpose, "a.mp3", b"x"), 2013, &ext);
    }
    let texts = kit::zip(&[("1.txt", b"one"), ("2.txt", b"two")]);
    let million = kit::text(1_000_000);
    // 1,000,000 characters in more bytes.
    let million_wide = "声".repeat(1_000_000);
    for (name, content) in [
        ("a.txt", "声音".as_bytes()),
        ("a.zip", &texts),
        ("most.txt", &million),
        ("wide.txt", million_wide.as_bytes()),
    ] {
        kit::uploaded(server.upload("t2a_async_input", name, content));
    }
    let mixed = kit::zip(&[("1.txt", b"one"), ("2.json", b"{}")]);
    let other = kit::zip(&[("1.exe", b"one")]);
    let over = kit::text(1_000_001);
    for (name, content, says) in [
        (
            "a.txt",
            &over as &[u8],
            "invalid params, text too long: 1000001 characters, at most 1000000",
        ),
        ("a.txt", b"\xff\xfe\x00", "invalid params, "),
        ("a.zip", &mixed, "invalid params, "),
        ("a.zip", &other, "invalid params, "),
        ("a.zip", b"PK\x03\x04", "invalid params, "),
        ("a.zip", b"words", "invalid params, content is not zip"),
        ("a.md", b"words", "invalid params, invalid file ext for t2a async input"),
    ] {
        kit::upload_refused(server.upload("t2a_async_input", name, content), 2013, says);
    }
}

#[test]
fn durations_at_their_limits() {
    let server = kit::start();
    for (purpose, ms, code, message) in [
        ("voice_clone", 9_999, 2037, "voice duration too short: 9.99 s, at least 10 s"),
        ("voice_clone", 10_000, 0, ""),
        ("voice_clone", 300_000, 0, ""),
        ("voice_clone", 300_001, 2037, "voice duration too long: 300.00 s, at most 300 s"),
        ("prompt_audio", 7_999, 0, ""),
        ("prompt_audio", 8_000, 2048, "prompt audio too long: 8 s, must be below 8 s"),
        ("prompt_audio", 8_420, 2048, "prompt audio too long: 8.42 s, must be below 8 s"),
    ] {
        let reply = server.upload(purpose, "a.wav", &kit::wav(ms));
        if code == 0 {
            kit::uploaded(reply);
        } else {
            assert_eq!(reply.message(), message);
            kit::upload_refused(reply, code, message);
        }
    }
    // The same with real recordings, whose length is what a decoder says.
    for (purpose, name, code, start, end) in [
        ("voice_clone", "mp3-short", 2037, "voice duration too short: ", " s, at least 10 s"),
        ("voice_clone", "m4a-short", 2037, "voice duration too short: ", " s, at least 10 s"),
        ("voice_clone", "mp3-long", 2037, "voice duration too long: ", " s, at most 300 s"),
        ("voice_clone", "m4a-long", 2037, "voice duration too long: ", " s, at most 300 s"),
        ("voice_clone", "wav-long", 2037, "voice duration too long: ", " s, at most 300 s"),
        ("prompt_audio", "mp3", 2048, "prompt audio too long: ", " s, must be below 8 s"),
        ("prompt_audio", "m4a", 2048, "prompt audio too long: ", " s, must be below 8 s"),
    ] {
        let path = samples::sample(name);
        let file_name = format!("a.{}", samples::recipe(name).extension);
        let reply = server.upload(purpose, &file_name, &read(&path));
        let message = reply.message();
        let shown = message.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        let shown: f64 = shown.and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{message}"));
        let real = samples::decoded_duration_ms(&path) as f64 / 1000.0;
        assert!((shown - real).abs() < 0.1, "{name}: {shown}, really {real}");
        kit::upload_refused(reply, code, start);
    }
}

#[test]
fn pictures_at_their_limits() {
    let server = kit::start();
    for (name, file_name, says) in [
        ("png-small", "a.png", "picture too small: 64x48 px, each side at least 256 px"),
        ("jpeg-small", "a.jpg", "picture too small: 64x48 px, each side at least 256 px"),
        ("jpeg-big", "a.jpg", "picture too large: 6000x4000 px, each side at most 5760 px"),
        ("png-wide", "a.png", "picture of the wrong shape: width / height is 4.000 (1200x300 px)"),
    ] {
        let reply =
            server.upload("video_generation_input", file_name, &samples::sample_bytes(name));
        kit::upload_refused(reply, 2013, &format!("invalid params, {says}"));
    }
    kit::nothing_stored(&server);
}

#[test]
fn content_that_is_not_what_the_name_says() {
    let server = kit::start();
    for name in [
        "wav-as-mp3",
        "m4a-as-mp3",
        "adts-as-mp3",
        "mp2",
        "mp3-as-wav",
        "mp3-in-wav",
        "mp3-as-m4a",
        "mp4-as-m4a",
    ] {
        let file_name = format!("a.{}", samples::recipe(name).extension);
        let reply = server.upload("voice_clone", &file_name, &samples::sample_bytes(name));
        kit::upload_refused(reply, 2013, "invalid params, ");
    }
    let (mp3, mp4) = (samples::sample_bytes("mp3"), samples::sample_bytes("mp4"));
    for (purpose, name, content) in [
        ("voice_clone", "a.mp3", b"ID3" as &[u8]),
        ("voice_clone", "a.mp3", &[0; 4096]),
        ("voice_clone", "a.mp3", b"<html>hello</html>"),
        ("voice_clone", "a.wav", &kit::wav(20_000)[..40]),
        ("voice_clone", "a.m4a", &samples::sample_bytes("m4a")[..2000]),
        ("video_understanding", "a.mp4", &mp4[..mp4.len() / 2]),
        ("video_understanding", "a.mkv", &mp4),
        ("video_generation_input", "a.png", &mp3),
        ("video_generation_input", "a.png", &samples::sample_bytes("jpeg")),
        ("retrieval", "a.pdf", b"words"),
        ("retrieval", "a.json", b"{\"a\":"),
        ("retrieval", "a.docx", b"PK\x05\x06"),
    ] {
        let reply = server.upload(purpose, name, content);
        kit::upload_refused(reply, 2013, "invalid params, ");
    }
    kit::nothing_stored(&server);
}

#[test]
fn purposes_and_extensions() {
    let server = kit::start();
    for purpose in [
        "",
        " ",
        "voice-clone",
        "VOICE_CLONE",
        "voice_clone ",
        "t2a_async",
        "video_generation",
        "vision",
        "voice_clone\u{0}",
        "声",
        "'; DROP TABLE files; --",
        &"p".repeat(10_000),
    ] {
        let expected = "invalid params, invalid file purpose";
        for fields in [
            [Field::Text("purpose", purpose), Field::File("file", "a.mp3", b"x")],
            [Field::File("file", "a.mp3", b"x"), Field::Text("purpose", purpose)],
        ] {
            let (content_type, body) = form(&fields);
            let request = server.request("POST", UPLOAD).header("Content-Type", &content_type);
            let reply = request.body(body).send();
            assert_eq!(reply.message(), expected, "{purpose:?}");
            kit::upload_refused(reply, 2013, expected);
        }
    }
    // More than is kept of a file whose extension nobody takes.
    let large = kit::text(300 << 10);
    for (purpose, spelled) in [
        ("voice_clone", "voice clone"),
        ("prompt_audio", "prompt audio"),
        ("t2a_async_input", "t2a async input"),
        ("video_understanding", "video understanding"),
        ("video_generation_input", "video generation input"),
        ("retrieval", "retrieval"),
        ("fine-tune", "fine tune"),
    ] {
        let expected = format!("invalid params, invalid file ext for {spelled}");
        for name in ["a.exe", "a", "a.", ".mp3", "mp3", "a.mp3.exe", "a.mp3 "] {
            for content in [b"x" as &[u8], &large] {
                for fields in [
                    [Field::Text("purpose", purpose), Field::File("file", name, content)],
                    [Field::File("file", name, content), Field::Text("purpose", purpose)],
                ] {
                    let (content_type, body) = form(&fields);
                    let request =
                        server.request("POST", UPLOAD).header("Content-Type", &content_type);
                    let reply = request.body(body).send();
                    assert_eq!(reply.message(), expected, "{name} of {} bytes", content.len());
                    kit::upload_refused(reply, 2013, &expected);
                }
            }
        }
    }
    kit::nothing_stored(&server);
}

#[test]
fn forms_that_lack_or_repeat() {
    let server = kit::start();
    let bare = "Content-Disposition: form-data; name=\"file\"";
    let empty_name = "Content-Disposition: form-data; name=\"file\"; filename=\"\"";
    let file_purpose = "Content-Disposition: form-data; name=\"purpose\"; filename=\"p.txt\"";
    for (parts, says) in [
        (&[] as &[(&str, &[u8])], "purpose is missing"),
        (&[(PURPOSE, b"retrieval")], "file is missing"),
        (&[(FILE, b"x")], "purpose is missing"),
        (&[(PURPOSE, b"retrieval"), (bare, b"x")], "file has no file name"),
        (&[(PURPOSE, b"retrieval"), (empty_name, b"x")], "file name is empty"),
        (&[(PURPOSE, b"retrieval"), (FILE, b"")], "file is empty"),
        (&[(FILE, b""), (PURPOSE, b"retrieval")], "file is empty"),
        (
            &[(PURPOSE, b"retrieval"), (PURPOSE, b"retrieval"), (FILE, b"x")],
            "purpose is given twice",
        ),
        (
            &[(PURPOSE, b"retrieval"), (FILE, b"x"), (PURPOSE, b"retrieval")],
            "purpose is given twice",
        ),
        (&[(PURPOSE, b"retrieval"), (FILE, b"x"), (FILE, b"x")], "file is given twice"),
        (&[(FILE, b"x"), (FILE, b"x"), (PURPOSE, b"retrieval")], "file is given twice"),
        (&[(file_purpose, b"retrieval"), (FILE, b"x")], "purpose is a file, must be text"),
    ] {
        let reply = post_form(&server, form_of(parts));
        kit::upload_refused(reply, 2013, &format!("invalid params, {says}"));
    }
    for (content_type, says) in [
        ("application/json", "content type is not multipart/form-data"),
        ("multipart/mixed; boundary=XyZ", "content type is not multipart/form-data"),
        ("multipart/form-data", "content type has no boundary"),
        ("multipart/form-data; boundary=", ""),
        ("multipart/form-data; boundary=XyZ; boundary=AbC", ""),
        ("multipart/form-data; boundary=\"XyZ", ""),
        ("multipart/form-data boundary=XyZ", ""),
        ("", "content type is not multipart/form-data"),
    ] {
        let body = form_of(&[(PURPOSE, b"retrieval"), (FILE, b"hello")]);
        let request = server.request("POST", UPLOAD).header("Content-Type", content_type);
        let reply = request.body(body).send();
        kit::upload_refused(reply, 2013, &format!("invalid params, {says}"));
    }
    let body = form_of(&[(PURPOSE, b"retrieval"), (FILE, b"hello")]);
    let reply = server.request("POST", UPLOAD).body(body).send();
    kit::upload_refused(reply, 2013, "invalid params, content type is not multipart/form-data");
    kit::nothing_stored(&server);
}

#[test]
fn sizes_at_their_limit() {
    let server = kit::start_with(
        "[purposes.retrieval.accept.document]\nbytes_max = 300000\n\
         [purposes.assistants.accept.document]\nbytes_max = 600000\n",
    );
    let upload = |fields: &[Field<'_>]| {
        let (content_type, body) = form(fields);
        let request = server.request("POST", UPLOAD).header("Content-Type", &content_type);
        request.body(body).send()
    };
    let purpose = Field::Text("purpose", "retrieval");
    let says = "invalid params, file is too large: over ";
    for (len, fits) in [(1, true), (300_000, true), (300_001, false), (590_000, false)] {
        let content = kit::text(len);
        let file = Field::File("file", "a.txt", &content);
        for fields in [[purpose, file], [file, purpose]] {
            let reply = upload(&fields);
            if fits {
                assert_eq!(kit::uploaded(reply)["bytes"], len);
            } else {
                assert!(reply.message().ends_with("(300000 bytes)"), "{}", reply.message());
                kit::upload_refused(reply, 2013, says);
            }
        }
    }
    assert_eq!(server.stored("blobs").len(), 4);
}

#[test]
fn a_form_cut_anywhere_is_refused() {
    let server = kit::start();
    let whole = form_of(&[(PURPOSE, b"retrieval"), (FILE, b"hello")]);
    // The line end behind the closing boundary is not needed.
    let end = whole.len() - 2;
    for cut in 0..end {
        let reply = post_form(&server, whole[..cut].to_vec());
        let says = "invalid params, form ends before its closing boundary";
        kit::upload_refused(reply, 2013, says);
    }
    // The same in the framing: less than was announced.
    for cut in [10, 100, end] {
        let own = format!("Content-Type: {FORM_TYPE}\r\nContent-Length: {}", whole.len());
        let mut request = head_of(&server, "POST", UPLOAD, &[&own]);
        request.extend_from_slice(&whole[..cut]);
        let mut connection = Connection::open(&server.address).unwrap();
        connection.write(&request).unwrap();
        connection.half_close();
        if let Ok(reply) = connection.reply() {
            kit::upload_refused(reply, 2013, "invalid params, the body was cut off");
        }
    }
    kit::nothing_stored(&server);
    kit::uploaded(post_form(&server, whole[..end].to_vec()));
}

#[test]
fn names_as_clients_write_them() {
    let server = kit::start();
    let most = format!("{}.txt", "n".repeat(251));
    let most_quoted = format!("filename=\"{most}\"");
    for (parameter, name) in [
        ("filename=\"声音 🎵.txt\"", "声音 🎵.txt"),
        ("filename=\"say %22hi%22.txt\"", "say \"hi\".txt"),
        (r#"filename="say \"hi\".txt""#, "say \"hi\".txt"),
        (r#"filename="a\\b.txt""#, "b.txt"),
        ("filename=\"100%41.txt\"", "100%41.txt"),
        ("filename=\"100%.txt\"", "100%.txt"),
        ("filename=\"a+b.txt\"", "a+b.txt"),
        ("filename*=UTF-8''%E5%A3%B0.txt", "声.txt"),
        ("filename*=utf-8'en'a%20b.txt", "a b.txt"),
        ("filename*=UTF-8''b.txt; filename=\"a.txt\"", "a.txt"),
        ("filename=\"a;b=c, d.txt\"", "a;b=c, d.txt"),
        ("filename=\"a name=file.txt\"", "a name=file.txt"),
        (r#"filename="C:\fakepath\a.txt""#, "a.txt"),
        ("filename=\"../../etc/a.txt\"", "a.txt"),
        ("filename=\"/etc/cron.d/a.txt\"", "a.txt"),
        ("filename=\"..%2F..%2Fa.txt\"", "..%2F..%2Fa.txt"),
        ("filename=\"<img src=x onerror=alert(1)>.txt\"", "<img src=x onerror=alert(1)>.txt"),
        ("filename=\"'; DROP TABLE files; --.txt\"", "'; DROP TABLE files; --.txt"),
        (&most_quoted, &most),
    ] {
        let body = form_of(&[(PURPOSE, b"retrieval"), (&file_head(parameter), b"hello")]);
        let file = kit::uploaded(post_form(&server, body));
        assert_eq!(file["filename"], name, "{parameter}");
        check_everywhere(&server, file["file_id"].as_i64().unwrap(), name);
    }
    let over = format!("filename=\"{}.txt\"", "n".repeat(252));
    let huge = format!("filename=\"{}.txt\"", "n".repeat(60_000));
    let before = server.stored("blobs").len();
    for (parameter, says) in [
        ("filename=\"a%0D%0ASet-Cookie: x=y.txt\"", "file name has a control character"),
        ("filename=\"a%0A.txt\"", "file name has a control character"),
        ("filename*=UTF-8''a%00.txt", "file name has a control character"),
        ("filename*=UTF-8''a%C2%85.txt", "file name has a control character"),
        ("filename=\"a\u{202e}3pm.txt\"", "file name has a text direction character"),
        ("filename=\"..\"", "file name is a relative path"),
        ("filename=\".\"", "file name is a relative path"),
        ("filename=\"a/..\"", "file name is a relative path"),
        ("filename=\"dir/\"", "file name is empty"),
        ("filename=\"   \"", "file name is empty"),
        (&over, "file name is 256 bytes, at most 255"),
        (&huge, ""),
        ("filename=\"a.txt\"; filename=\"b.txt\"", "more than one filename parameter"),
        ("filename=\"a.txt", "content-disposition of a part is malformed"),
        ("filename*0=\"a\"; filename*1=\".txt\"", ""),
        ("filename*=UTF-8''%FF.txt", "filename* parameter is not valid UTF-8"),
        ("filename*=latin1''a.txt", ""),
    ] {
        let body = form_of(&[(PURPOSE, b"retrieval"), (&file_head(parameter), b"hello")]);
        let reply = post_form(&server, body);
        kit::upload_refused(reply, 2013, &format!("invalid params, {says}"));
    }
    // Bytes that no string literal can have.
    for raw in [b"a\xff.txt" as &[u8], b"a\x00.txt", b"a\x1b[31m.txt", b"a\x7f.txt"] {
        let mut body = format!("--XyZ\r\n{PURPOSE}\r\n\r\nretrieval\r\n--XyZ\r\n").into_bytes();
        body.extend_from_slice(b"Content-Disposition: form-data; name=\"file\"; filename=\"");
        body.extend_from_slice(raw);
        body.extend_from_slice(b"\"\r\n\r\nhello\r\n--XyZ--\r\n");
        kit::upload_refused(post_form(&server, body), 2013, "invalid params, ");
    }
    assert_eq!(server.stored("blobs").len(), before);
    kit::no_panic(&server);
}

/// A name must be the same in the list and in retrieve, and harmless in a header.
fn check_everywhere(server: &TestServer, file_id: i64, name: &str) {
    let newest = &kit::success(server.get("/v1/files/list?limit=1")).json()["files"][0];
    assert_eq!((&newest["file_id"], &newest["filename"]), (&file_id.into(), &name.into()));
    let retrieved = server.get(&format!("/v1/files/retrieve?file_id={file_id}"));
    assert_eq!(kit::success(retrieved).json()["file"]["filename"], name);
    let reply = server.get(&format!("/v1/files/retrieve_content?file_id={file_id}"));
    let reply = kit::content(reply, 200);
    let disposition = reply.header("content-disposition").unwrap();
    assert!(disposition.bytes().all(|b| matches!(b, b' '..=b'~')), "{disposition}");
    let quoted = disposition.split('"').nth(1).unwrap();
    assert!(!quoted.contains(['\\', '%']), "{disposition}");
    assert_eq!(disposition.split('"').count(), 3, "{disposition}");
    let extended = disposition.rsplit_once("filename*=UTF-8''").unwrap().1;
    let mut decoded = Vec::new();
    let mut bytes = extended.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
            let hex = std::str::from_utf8(&hex).unwrap().to_owned();
            decoded.push(u8::from_str_radix(&hex, 16).unwrap());
        } else {
            assert!(byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte));
            decoded.push(byte);
        }
    }
    assert_eq!(String::from_utf8(decoded).unwrap(), name);
}

#[test]
fn validate_only_checks_and_stores_nothing() {
    let server = kit::start();
    let mp3 = samples::sample_bytes("mp3");
    for query in ["validate_only=true", "validate_only=1", "GroupId=2&validate_only"] {
        let request = server.request("POST", &format!("{UPLOAD}?{query}"));
        let reply = request.form("voice_clone", "a.mp3", &mp3).send();
        let json = kit::success(reply).json();
        assert_eq!(json["file"], serde_json::Value::Null, "{query}");
        let found = &json["validated"];
        assert_eq!(found["bytes"], mp3.len());
        assert_eq!(found["purpose"], "voice_clone");
        assert_eq!(found["filename"], "a.mp3");
        assert_eq!(found["sha256"].as_str().map(str::len), Some(64));
        assert_eq!(found["media"]["format"], "mp3");
        let ms = found["media"]["duration_ms"].as_i64().unwrap();
        let real = samples::decoded_duration_ms(&samples::sample("mp3")) as i64;
        assert!((ms - real).abs() < 60, "{ms}, really {real}");
    }
    let short = samples::sample_bytes("mp3-short");
    let request = server.request("POST", &format!("{UPLOAD}?validate_only=true"));
    let reply = request.form("voice_clone", "a.mp3", &short).send();
    kit::upload_refused(reply, 2037, "voice duration too short");
    // One that has gone through tmp/.
    let large = kit::text(1 << 20);
    let request = server.request("POST", &format!("{UPLOAD}?validate_only=true"));
    kit::success(request.form("retrieval", "a.txt", &large).send());
    for query in ["validate_only=yes", "validate_only=true&validate_only=false"] {
        let request = server.request("POST", &format!("{UPLOAD}?{query}"));
        let reply = request.form("retrieval", "a.txt", b"hello").send();
        kit::upload_refused(reply, 2013, "invalid params, validate_only ");
    }
    kit::nothing_stored(&server);
}

#[test]
fn what_is_answered_is_on_disk() {
    let server = kit::start();
    // In memory, just a piece, just over one, several.
    for len in [1, 256 << 10, (256 << 10) + 1, 1_500_000] {
        let content = kit::text(len);
        let id = kit::uploaded(server.upload("retrieval", "a.txt", &content));
        // As it is, in the data directory as in an S3 store.
        let stored = if server.place().is_some() {
            let blobs = server.stored("blobs");
            read(&blobs.iter().find(|(_, bytes)| *bytes == len as u64).unwrap().0)
        } else {
            server.blob(len).read()
        };
        assert_eq!(stored, content);
        let target = format!("/v1/files/retrieve_content?file_id={}", id["file_id"]);
        assert_eq!(kit::content(server.get(&target), 200).body, content);
    }
    assert_eq!(server.stored("blobs").len(), 4);
    eventually("nothing is left in tmp/", || server.stored("tmp").is_empty().then_some(()));
}
