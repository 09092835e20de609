//! Texts, zips of texts and documents: other readers are the truth, and whatever is cut, renamed or
//! forged is refused.

use std::io::{Cursor, Write};
use std::process::Command;

use filegate_media::{Format, Limits, MediaInfo, probe, sniff};
use filegate_testkit::samples::sample_bytes;
use zip::write::SimpleFileOptions;

use crate::support::{assert_kind, kind, look, noise};

// ---- texts --------------------------------------------------------------------------------------

#[test]
fn texts_are_counted_in_characters() {
    for format in [Format::Txt, Format::Markdown, Format::Csv] {
        for (text, characters) in [
            ("hello", 5),
            ("\u{FEFF}hello", 5),
            ("héllo, 世界 🎧\r\n", 13),
            ("%PDF is a format", 16),
            ("a\u{1B}[0m\u{C}b", 7),
        ] {
            let info = look(text.as_bytes(), format).expect("good text");
            assert_eq!(info.characters, Some(characters), "{text}");
        }
        let long = "é世".repeat(500_000);
        assert_eq!(look(long.as_bytes(), format).expect("long").characters, Some(1_000_000));
        assert_kind(b"\xEF\xBB\xBF", format, "empty");
        assert_kind(b"caf\xE9 au lait", format, "undecodable");
        assert_kind("the end é".as_bytes().split_last().expect("one").1, format, "truncated");
        assert_kind(b"nul\0nul", format, "mismatch");
        assert_kind(b"h\0i\0", format, "mismatch");
        assert_kind(b"\xFF\xFEh\0i\0", format, "unsupported");
        let late = [&b"a".repeat(70_000)[..], b"\0"].concat();
        assert_kind(&late, format, "undecodable");
        assert_kind(b"%PDF-1.7\n", format, "mismatch");
        assert_kind(&zipped(&[("a.txt", b"hello")]), format, "mismatch");
    }
}

/// Names and contents.
type Files<'f> = &'f [(&'f str, &'f [u8])];

fn zip_with(files: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, options).expect("an entry");
        zip.write_all(content).expect("content");
    }
    zip.finish().expect("a zip").into_inner()
}

pub(crate) fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    zip_with(files, SimpleFileOptions::default())
}

pub(crate) fn stored(files: &[(&str, &[u8])]) -> Vec<u8> {
    let options = SimpleFileOptions::default();
    zip_with(files, options.compression_method(zip::CompressionMethod::Stored))
}

#[test]
fn zips_of_texts_are_counted() {
    let texts: [(&str, &[u8]); 3] =
        [("a.txt", b"hello"), ("sub/世.TXT", "世界".as_bytes()), ("empty.txt", b"")];
    for zip in [zipped(&texts), stored(&texts)] {
        assert_eq!(look(&zip, Format::Zip).expect("good").characters, Some(7));
    }
    let json = zipped(&[("a.json", b"{\"a\": [1]}"), ("b.json", b"2")]);
    assert_eq!(look(&json, Format::Zip).expect("good").characters, Some(11));
    let large = SimpleFileOptions::default().large_file(true);
    let zip64 = zip_with(&[("a.txt", b"hello")], large);
    assert_eq!(look(&zip64, Format::Zip).expect("zip64").characters, Some(5));

    // Folders, and what macOS adds.
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    zip.add_directory("texts/", options).expect("a folder");
    for (name, content) in [
        ("texts/a.txt", &b"hello"[..]),
        ("__MACOSX/texts/._a.txt", &b"\0\x05\x16\x07"[..]),
        ("texts/.DS_Store", &b"\0\0\0\x01Bud1"[..]),
    ] {
        zip.start_file(name, options).expect("an entry");
        zip.write_all(content).expect("content");
    }
    let mac = zip.finish().expect("a zip").into_inner();
    assert_eq!(look(&mac, Format::Zip).expect("good").characters, Some(5));
}

#[test]
fn zips_by_another_writer_and_to_a_pipe() {
    // Python's writer to a pipe: sizes follow the data.
    let script = "import sys, zipfile\n\
        class Pipe:\n  \
          def write(self, b): return sys.stdout.buffer.write(b)\n  \
          def flush(self): sys.stdout.buffer.flush()\n\
        z = zipfile.ZipFile(Pipe(), 'w', zipfile.ZIP_DEFLATED)\n\
        z.writestr('a.txt', 'hello ' * 20)\n\
        z.close()\n";
    let Ok(output) = Command::new("python3").args(["-c", script]).output() else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(look(&output.stdout, Format::Zip).expect("good").characters, Some(120));
}

#[test]
fn zips_of_anything_else_are_refused() {
    for (files, expected) in [
        (&[] as Files, "unsupported"),
        (&[("a.txt", b"hello"), ("b.json", b"1")], "unsupported"),
        (&[("a.txt", b"hello"), ("b.exe", b"MZ")], "unsupported"),
        (&[("a.pdf", b"%PDF-1.7")], "unsupported"),
        (&[("a.txt", b"%PDF-1.7")], "unsupported"),
        (&[("a.txt", b"caf\xE9 au lait")], "undecodable"),
        (&[("a.txt", b"nul\0")], "undecodable"),
        (&[("a.json", b"{")], "undecodable"),
        (&[("a.txt", b"")], "undecodable"),
    ] {
        assert_kind(&zipped(files), Format::Zip, expected);
    }
    let inner = zipped(&[("a.txt", b"hello")]);
    assert_kind(&zipped(&[("a.txt", &inner)]), Format::Zip, "unsupported");
    assert_kind(&zipped(&[("a.zip", &inner)]), Format::Zip, "unsupported");
}

#[test]
fn names_that_lead_outside_are_refused() {
    // Same lengths, so that the name can be replaced in both headers.
    let good = stored(&[("aaaaaaaaa.txt", b"hello")]);
    for name in
        ["../../../.txt", "/etc/pass.txt", "..\\..\\aaa.txt", "C:\\aaaaaa.txt", "a/../../a.txt"]
    {
        assert_eq!(name.len(), 13);
        assert_kind(
            &replaced(&good, b"aaaaaaaaa.txt", name.as_bytes()),
            Format::Zip,
            "unsupported",
        );
    }
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.add_symlink("a.txt", "/etc/passwd", SimpleFileOptions::default()).expect("a link");
    let link = zip.finish().expect("a zip").into_inner();
    assert_kind(&link, Format::Zip, "unsupported");
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for at in 0..=out.len() - from.len() {
        if out[at..].starts_with(from) {
            out[at..at + to.len()].copy_from_slice(to);
        }
    }
    out
}

/// Where the one entry of a zip has its directory header.
fn directory_of(zip: &[u8]) -> usize {
    zip.windows(4).position(|window| window == b"PK\x01\x02").expect("a directory")
}

#[test]
fn bombs_are_not_expanded() {
    // One entry of a high ratio, more than a cap in all, and a size that says otherwise.
    let zeros = vec![b' '; 30 << 20];
    let ratio = zipped(&[("a.txt", &zeros)]);
    assert_kind(&ratio, Format::Zip, "too complex");
    let mut lie = ratio.clone();
    let directory = directory_of(&lie);
    for at in [22, directory + 24] {
        lie[at..at + 4].copy_from_slice(&5_u32.to_le_bytes());
    }
    assert_kind(&lie, Format::Zip, "too complex");

    let limits = Limits { zip_bytes_max: 1000, zip_entries_max: 3, ..Limits::default() };
    let text = noise(600).iter().map(|b| b'a' + b % 26).collect::<Vec<_>>();
    for (entries, expected) in [(1, "ok"), (2, "too complex"), (4, "too complex")] {
        let names: Vec<_> = (0..entries).map(|i| format!("{i}.txt")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), &text[..])).collect();
        let zip = zipped(&files);
        let result = probe(&mut Cursor::new(&zip), Format::Zip, &limits);
        assert_eq!(kind(&result), expected, "{entries}: {result:?}");
    }
}

#[test]
fn entries_that_share_bytes_are_refused() {
    // Two directory headers for one local header, as the overlapping bombs have.
    let good = stored(&[("a.txt", b"hello")]);
    let directory = directory_of(&good);
    let end = good.windows(4).position(|window| window == b"PK\x05\x06").expect("an end");
    let header = &good[directory..end];
    let mut bomb = [&good[..directory], header, header].concat();
    let size = (2 * header.len()) as u32;
    let mut record = good[end..].to_vec();
    record[8..12].copy_from_slice(&[2, 0, 2, 0]);
    record[12..16].copy_from_slice(&size.to_le_bytes());
    bomb.extend(record);
    assert_kind(&bomb, Format::Zip, "undecodable");
}

#[test]
fn zips_that_contradict_themselves_are_refused() {
    let good = stored(&[("a.txt", b"hello")]);
    let directory = directory_of(&good);
    assert_kind(&good, Format::Zip, "ok");
    let changed = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    // Encrypted, by the directory; another name, size, method; another checksum in both headers.
    assert_kind(&changed(directory + 8, 1), Format::Zip, "unsupported");
    assert_kind(&changed(30, b'b'), Format::Zip, "undecodable");
    assert_kind(&changed(18, 4), Format::Zip, "undecodable");
    assert_kind(&changed(directory + 24, 4), Format::Zip, "undecodable");
    assert_kind(&changed(directory + 10, 8), Format::Zip, "undecodable");
    assert_kind(&changed(directory + 10, 12), Format::Zip, "unsupported");
    assert_kind(&changed(directory + 16, 0), Format::Zip, "undecodable");
    assert_kind(&changed(directory + 42, 1), Format::Zip, "undecodable");
    // Its content, its directory's place, something before it and something behind it.
    assert_kind(&changed(36, b'H'), Format::Zip, "undecodable");
    let end = good.len() - 22;
    assert_kind(&changed(end + 16, 0), Format::Zip, "undecodable");
    assert_kind(&changed(end + 10, 2), Format::Zip, "undecodable");
    assert_kind(&[&b"x"[..], &good].concat(), Format::Zip, "mismatch");
    assert_kind(&[&good[..], b"x"].concat(), Format::Zip, "truncated");
    for zip in [good.clone(), zipped(&[("a.txt", &b"hello world, ".repeat(9)), ("b.txt", b"b")])] {
        for cut in 4..zip.len() {
            assert_kind(&zip[..cut], Format::Zip, "truncated");
        }
    }
}

// ---- documents ----------------------------------------------------------------------------------

#[test]
fn json_is_one_value_and_jsonl_one_a_line() {
    for good in ["{\"a\": [1, 2.5e3, null, \"é\\u00e9\"]}", " 1\n", "\u{FEFF}[]", "\"a\""] {
        let info = look(good.as_bytes(), Format::Json).expect("good");
        assert_eq!(info, MediaInfo::new(Format::Json));
        assert_kind(good.as_bytes(), Format::Jsonl, "ok");
    }
    for (bad, expected) in [
        (&b"{\"a\": 1"[..], "truncated"),
        (b"{\"a\": 1} {}", "undecodable"),
        (b"hello", "undecodable"),
        (b"   ", "undecodable"),
        (b"[\"caf\xE9 au lait\"]", "undecodable"),
        (b"\"nul\0\"", "mismatch"),
    ] {
        assert_kind(bad, Format::Json, expected);
        assert_kind(bad, Format::Jsonl, expected);
    }
    let deep = "[".repeat(1_000_000);
    assert_kind(deep.as_bytes(), Format::Json, "undecodable");

    assert_kind(b"{\"a\": 1}\r\n\r\n[2]\n", Format::Jsonl, "ok");
    assert_kind(b"{\"a\": 1}\n[2]", Format::Jsonl, "ok");
    assert_kind(b"{\"a\":\n1}\n", Format::Jsonl, "undecodable");
    let refusal = look(b"1\n2\n{3}\n4\n", Format::Jsonl).expect_err("line 3").to_string();
    assert!(refusal.contains("line 3: "), "{refusal}");
    assert_kind(b"1\n2\n", Format::Json, "undecodable");
    let long = format!("{{\"text\": \"{}\"}}\n", "x".repeat(100_000)).repeat(5);
    assert_kind(long.as_bytes(), Format::Jsonl, "ok");
}

#[test]
fn pdf_has_a_head_and_an_end() {
    let good = b"%PDF-1.4\n1 0 obj\nendobj\nstartxref\n9\n%%EOF\n";
    assert_kind(good, Format::Pdf, "ok");
    assert_kind(&[&b"\r\n".repeat(20)[..], good].concat(), Format::Pdf, "ok");
    assert_kind(&[&good[..], &b"\0".repeat(1500)].concat(), Format::Pdf, "ok");
    assert_kind(&[&b" ".repeat(1025)[..], good].concat(), Format::Pdf, "mismatch");
    assert_kind(&good[..good.len() - 3], Format::Pdf, "truncated");
    assert_kind(&[&good[..], &b"\0".repeat(3000)].concat(), Format::Pdf, "truncated");
    assert_kind(&sample_bytes("png"), Format::Pdf, "mismatch");
}

#[test]
fn docx_is_a_zip_with_a_word_document() {
    let parts: [(&str, &[u8]); 3] = [
        ("[Content_Types].xml", b"<Types/>"),
        ("_rels/.rels", b"<Relationships/>"),
        ("word/document.xml", b"<w:document/>"),
    ];
    let good = zipped(&parts);
    assert_kind(&good, Format::Docx, "ok");
    assert_eq!(sniff(&good), Some(Format::Docx));
    assert_kind(&good, Format::Zip, "unsupported");
    assert_kind(&zipped(&parts[..2]), Format::Docx, "mismatch");
    assert_kind(&zipped(&[("a.txt", b"hello")]), Format::Docx, "mismatch");
    for cut in 4..good.len() {
        assert_kind(&good[..cut], Format::Docx, "truncated");
    }
    let mut damaged = stored(&parts);
    let at = damaged.windows(3).position(|window| window == b"<w:").expect("the document");
    damaged[at + 1] ^= 1;
    assert_kind(&damaged, Format::Docx, "undecodable");
}
