//! Probes, the form reader and the rewriter: counted in this program, which runs itself under callgrind for it.

use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use filegate_form::{Boundary, Event, Limits as FormLimits, Reader};
use filegate_media::{Format, Limits, probe};
use filegate_server::json::{Kind, Rule, Rules, Scan, Splice};

use crate::{Profiles, callgrind, machine, say};

/// The argument of the process that is counted.
pub(crate) const INSIDE: &str = "--inside";
/// What it is asked for to tell the processor's features.
pub(crate) const FEATURES: &str = "(features)";

/// How a body is cut: as hyper hands it over at most.
const CHUNK: usize = 16 << 10;

/// Samples of each format that is probed.
const SAMPLES: [(&str, Format, &[u8]); 13] = [
    ("probe mp3", Format::Mp3, include_bytes!("../../../samples/voice.mp3")),
    ("probe m4a, AAC", Format::M4a, include_bytes!("../../../samples/prompt.m4a")),
    ("probe m4a, ALAC", Format::M4a, include_bytes!("../samples/lossless.m4a")),
    ("probe mp4", Format::Mp4, include_bytes!("../samples/film.mp4")),
    ("probe mov", Format::Mov, include_bytes!("../samples/film.mov")),
    ("probe mkv", Format::Mkv, include_bytes!("../samples/film.mkv")),
    ("probe avi", Format::Avi, include_bytes!("../samples/film.avi")),
    ("probe jpeg", Format::Jpeg, include_bytes!("../samples/picture.jpg")),
    ("probe png", Format::Png, include_bytes!("../samples/picture.png")),
    ("probe webp", Format::Webp, include_bytes!("../samples/picture.webp")),
    ("probe zip", Format::Zip, include_bytes!("../samples/texts.zip")),
    ("probe docx", Format::Docx, include_bytes!("../samples/letter.docx")),
    ("probe txt", Format::Txt, include_bytes!("../../../samples/story.txt")),
];

struct Piece {
    name: &'static str,
    work: Box<dyn FnMut()>,
}

/// Counts each piece whose name holds `only`, and reads what callgrind wrote in `home`.
pub(crate) fn count(home: &Path, only: &str) -> anyhow::Result<Profiles> {
    let mut command = callgrind_of_this(home)?;
    let output = command.args([INSIDE, "--only", only]).output().context("cannot run valgrind")?;
    if !output.status.success() {
        bail!("the pieces failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8(output.stdout)?;
    let parts = names.lines().enumerate();
    parts
        .map(|(at, name)| Ok((name.to_owned(), callgrind::part(home, "pieces", at + 1, 1)?)))
        .collect()
}

/// This program, with everything between entering [`counted_region`] and [`region_ended`] in a file of its own.
fn callgrind_of_this(home: &Path) -> anyhow::Result<std::process::Command> {
    let marks = ["--zero-before=*counted_region*", "--dump-before=*region_ended*"];
    Ok(callgrind::command_with(&std::env::current_exe()?, home, "pieces", &marks))
}

/// What runs under callgrind: tells the name of each piece that it did, in the order of callgrind's files.
pub(crate) fn run(only: &str) {
    if only == FEATURES {
        return say(&machine::features());
    }
    for mut piece in all().into_iter().filter(|piece| piece.name.contains(only)) {
        // What is made once, tables and buffers of the allocator, is made now.
        (piece.work)();
        counted_region(&mut *piece.work);
        region_ended();
        say(piece.name);
    }
}

#[inline(never)]
fn counted_region(work: &mut dyn FnMut()) {
    work();
    // Not the last call, which could be a jump that never comes back here.
    black_box(());
}

#[inline(never)]
fn region_ended() {
    black_box(());
}

fn all() -> Vec<Piece> {
    let mut all: Vec<Piece> =
        SAMPLES.iter().map(|(name, format, sample)| probing(name, *format, sample)).collect();
    all.push(probing("probe wav", Format::Wav, leaked(wav())));
    all.push(probing("probe json", Format::Json, leaked(json())));
    all.push(probing("probe jsonl", Format::Jsonl, leaked(jsonl())));
    all.push(probing("probe pdf", Format::Pdf, leaked(pdf())));
    all.push(reading());
    all.push(rewriting());
    all
}

fn leaked(bytes: Vec<u8>) -> &'static [u8] {
    bytes.leak()
}

fn probing(name: &'static str, format: Format, sample: &'static [u8]) -> Piece {
    let limits = Limits::default();
    let work = Box::new(move || {
        let info = probe(&mut Cursor::new(black_box(sample)), format, &limits);
        assert_eq!(info.expect("the sample is whole").format, format, "{name}");
    });
    Piece { name, work }
}

/// A form as it comes with an upload of 100 KB.
fn reading() -> Piece {
    let (boundary, body) = form("voice_clone", "voice.wav", &wav());
    let boundary = Boundary::from_content_type(&boundary).expect("it has a boundary");
    let chunks: Vec<Bytes> = body.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
    let work = Box::new(move || {
        let mut reader = Reader::new(&boundary, FormLimits::default());
        let (mut parts, mut bytes) = (0, 0);
        for chunk in black_box(&chunks) {
            let mut feed = reader.feed(chunk);
            while let Some(event) = feed.next_event().expect("the form is in order") {
                parts += usize::from(matches!(event, Event::PartStart(_)));
                bytes += event.bytes(chunk).map_or(0, <[u8]>::len);
            }
        }
        reader.finish().expect("the form is whole");
        assert_eq!((parts, bytes), (2, "voice_clone".len() + wav_bytes()));
    });
    Piece { name: "form 100 KB", work }
}

/// A call to speak a text of a few paragraphs in a cloned voice, whose ids are replaced by others.
fn rewriting() -> Piece {
    let rules = Rules::new(&[
        Rule::new(Kind::VoiceId, "voice_setting.voice_id"),
        Rule::new(Kind::VoiceId, "timbre_weights[].voice_id"),
        Rule::new(Kind::MmFile, "**"),
    ]);
    let document = t2a();
    let work = Box::new(move || {
        let mut scan = Scan::new(&rules);
        scan.push(black_box(&document)).expect("it is JSON");
        let found = scan.finish().expect("it is whole");
        assert_eq!(found.len(), 3);
        let edits = found.iter().filter_map(|found| found.edit("another-voice")).collect();
        black_box(Splice::new(edits).whole(&document));
    });
    Piece { name: "rewrite t2a", work }
}

/// 100 KB of a tone that swells and fades, 12.5 seconds of it.
pub(crate) fn wav() -> Vec<u8> {
    const SAMPLES: u32 = 50_000;
    const RATE: u32 = 4_000;
    let mut out = Vec::with_capacity(wav_bytes());
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(36 + SAMPLES * 2).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend_from_slice(&RATE.to_le_bytes());
    out.extend_from_slice(&(RATE * 2).to_le_bytes());
    out.extend_from_slice(b"\x02\0\x10\0data");
    out.extend_from_slice(&(SAMPLES * 2).to_le_bytes());
    for i in 0..SAMPLES {
        // A triangle under a slower one: no sines, which differ between C libraries.
        let triangle =
            |period: u32| ((i % period).cast_signed() - (period / 2).cast_signed()).abs();
        let sample = triangle(40) * triangle(8_000) / 4;
        out.extend_from_slice(&(sample as i16).to_le_bytes());
    }
    out
}

fn wav_bytes() -> usize {
    44 + 100_000
}

/// The content type and the body of an upload.
pub(crate) fn form(purpose: &str, filename: &str, content: &[u8]) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "7f3a9c0d51e84b62";
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n--{BOUNDARY}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let body = [head.as_bytes(), content, end.as_bytes()].concat();
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

fn json() -> Vec<u8> {
    [b"[".as_slice(), &vec![t2a(); 20].join(&b','), b"]"].concat()
}

fn jsonl() -> Vec<u8> {
    vec![t2a(); 20].join(&b'\n')
}

fn t2a() -> Vec<u8> {
    let text = include_str!("../../../samples/story.txt").replace('\n', "\\n").replace('"', "\\\"");
    let voices = r#""voice_setting":{"voice_id":"narrator-of-the-evening","speed":1,"vol":1,"pitch":0},"timbre_weights":
        [{"voice_id":"first-voice","weight":30},{"voice_id":"second-voice","weight":70}]"#
        .replace('\n', " ");
    let audio =
        r#""audio_setting":{"sample_rate":32000,"bitrate":128000,"format":"mp3","channel":1}"#;
    format!(r#"{{"model":"speech-2.6-hd","text":"{text}","stream":false,{voices},{audio}}}"#)
        .into_bytes()
}

fn pdf() -> Vec<u8> {
    let object = "1 0 obj\n<< /Type /Catalog >>\nendobj\n".repeat(500);
    format!("%PDF-1.4\n{object}startxref\n9\n%%EOF\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_does_its_work() {
        for mut piece in all() {
            (piece.work)();
        }
    }

    #[test]
    fn the_wav_is_of_the_length_it_says() {
        assert_eq!(wav().len(), wav_bytes());
    }
}
