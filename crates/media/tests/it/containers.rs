//! Containers, pictures, texts and documents: ffmpeg is the truth for media, other readers for the
//! rest, and whatever is cut, renamed, forged or random is refused.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use filegate_media::{DecodeScope, Format, Limits, MediaInfo, ProbeError, probe, sniff};
use filegate_testkit::samples::{self, decoded_duration_ms, ffprobe, sample, sample_bytes};
use proptest::prelude::*;

use crate::support::{
    assert_kind, assert_near, body_of, cuts, format_of, kind, look, made, noise, read, valid,
};
use crate::texts::{stored, zipped};

const PLAIN_HEIC: &[u8] = include_bytes!("../data/plain-320x200.heic");
const PROGRESSIVE_JPEG: &[u8] = include_bytes!("../data/progressive-48x32.jpg");
const TURNED_HEIC: &[u8] = include_bytes!("../data/turned-200x320.heic");

// ---- ISO base media -----------------------------------------------------------------------------

#[test]
fn m4a_lasts_as_long_as_ffmpeg_decodes() {
    for recipe in valid(&["m4a"]) {
        let (path, bytes) = (sample(recipe.name), sample_bytes(recipe.name));
        for decode in [DecodeScope::Window, DecodeScope::Whole] {
            let limits = Limits { decode, ..Limits::default() };
            let info = probe(&mut Cursor::new(&bytes), Format::M4a, &limits)
                .unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
            assert_near(info.duration_ms, decoded_duration_ms(&path), 1, recipe.name);
            let audio = recipe.audio.expect("an m4a has audio");
            assert_eq!(info.codec.as_deref(), Some(audio.codec), "{}", recipe.name);
            assert_eq!(info.sample_rate_hz, Some(audio.sample_rate_hz), "{}", recipe.name);
            assert_eq!(info.channels, Some(audio.channels), "{}", recipe.name);
            assert_eq!((info.width_px, info.height_px), (None, None));
        }
    }
}

#[test]
fn m4a_with_other_edits_rates_and_muxers() {
    let dir = tempfile::tempdir().expect("a directory");
    let speech = sample("speech");
    let speech = speech.to_str().expect("a plain path");
    for (name, options) in [
        ("aac-8k.m4a", "-c:a aac -ar 8000"),
        ("aac-96k.m4a", "-c:a aac -ar 96000 -ac 2 -b:a 128k"),
        ("no-edits.m4a", "-c:a aac -ar 8000 -use_editlist 0"),
        ("quicktime.m4a", "-c:a aac -f mov"),
        ("alac-quicktime.m4a", "-c:a alac -ar 16000 -f mov"),
        ("alac-8k.m4a", "-c:a alac -ar 8000"),
        ("alac-fragmented.m4a", "-c:a alac -movflags frag_keyframe+empty_moov"),
        ("moov-with-fragments.m4a", "-c:a aac -movflags frag_keyframe -frag_duration 300000"),
        ("3gp.m4a", "-c:a aac -f 3gp"),
        ("silence.m4a", "-af volume=0 -c:a aac -ac 2"),
        ("one-frame.m4a", "-c:a aac -t 0.01"),
        ("rtp-hints.m4a", "-c:a aac -movflags rtphint"),
    ] {
        let path = made(&dir, name, &format!("-t 3.21 -i {speech} {options}"));
        let info = look(&read(&path), Format::M4a).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_near(info.duration_ms, decoded_duration_ms(&path), 1, name);
    }
    // Cut without coding it again: an edit list that begins inside a frame and ends early.
    let whole = sample("m4a");
    let whole = whole.to_str().expect("a plain path");
    for (name, options) in
        [("from.m4a", "-ss 3.3"), ("to.m4a", "-t 4.7"), ("both.m4a", "-ss 2.2 -t 3")]
    {
        let path = made(&dir, name, &format!("{options} -i {whole} -c copy"));
        let info = look(&read(&path), Format::M4a).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_near(info.duration_ms, decoded_duration_ms(&path), 50, name);
    }
}

#[test]
fn an_m4a_cannot_claim_another_length() {
    let good = sample_bytes("m4a");
    let truth = look(&good, Format::M4a).expect("a good file").duration_ms;
    // A thousand times the duration of each frame, in `stts` and, as large, in the edit.
    let mut longer = good.clone();
    let stts = body_of(&longer, *b"stts");
    longer[stts + 12..stts + 16].copy_from_slice(&1_024_000_u32.to_be_bytes());
    let elst = body_of(&longer, *b"elst");
    longer[elst + 8..elst + 12].copy_from_slice(&u32::MAX.to_be_bytes());
    let measured = look(&longer, Format::M4a).expect("its frames are good").duration_ms;
    assert_near(measured, truth.expect("a duration"), 50, "a longer claim");
}

#[test]
fn m4a_of_another_kind_is_refused() {
    for (name, expected) in [
        ("mp3-in-m4a", "unsupported"),
        ("mp4-as-m4a", "mismatch"),
        ("mp3-as-m4a", "mismatch"),
        ("adts-as-mp3", "mismatch"),
        ("wav", "mismatch"),
        ("mkv", "mismatch"),
        ("heic", "mismatch"),
        ("png", "mismatch"),
    ] {
        assert_kind(&sample_bytes(name), Format::M4a, expected);
    }
}

#[test]
fn audio_that_is_none_is_refused() {
    for name in ["m4a", "m4a-faststart", "m4a-fragmented", "m4a-alac"] {
        let good = sample_bytes(name);
        let random = noise(good.len());
        for fill in [&random[..], &vec![0; good.len()], &vec![0xFF; good.len()]] {
            let mut bad = good.clone();
            // Every `mdat`: a fragmented file has many.
            let mut from = 0;
            while let Some(at) = bad[from..].windows(4).position(|window| window == b"mdat") {
                let body = from + at + 4;
                let size: [u8; 4] = bad[body - 8..body - 4].try_into().expect("four bytes");
                let end = body - 8 + u32::from_be_bytes(size) as usize;
                bad[body..end].copy_from_slice(&fill[body..end]);
                from = end;
            }
            assert_kind(&bad, Format::M4a, "undecodable");
        }
    }
}

#[test]
fn videos_are_measured_as_ffprobe_does() {
    for recipe in valid(&["mp4", "mov", "mkv", "avi"]) {
        let (path, format) = (sample(recipe.name), format_of(recipe));
        let info = look(&sample_bytes(recipe.name), format)
            .unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
        assert_as_ffprobe(&info, &path, recipe.name);
    }
}

#[track_caller]
fn assert_as_ffprobe(info: &MediaInfo, path: &Path, name: &str) {
    let truth = ffprobe(path);
    let streams = truth["streams"].as_array().expect("streams");
    let video = streams.iter().find(|s| s["codec_type"] == "video").expect("a video");
    assert_eq!(info.codec.as_deref(), video["codec_name"].as_str(), "{name}");
    assert_eq!(info.width_px.map(u64::from), video["width"].as_u64(), "{name}");
    assert_eq!(info.height_px.map(u64::from), video["height"].as_u64(), "{name}");
    if let Some(audio) = streams.iter().find(|s| s["codec_type"] == "audio") {
        let rate = audio["sample_rate"].as_str().and_then(|rate| rate.parse().ok());
        assert_eq!(info.sample_rate_hz, rate, "{name}");
        assert_eq!(info.channels.map(u64::from), audio["channels"].as_u64(), "{name}");
    }
    if let Some(seconds) = truth["format"]["duration"].as_str() {
        let seconds: f64 = seconds.parse().expect("a number");
        assert_near(info.duration_ms, (seconds * 1000.0).round() as u64, 100, name);
    }
}

#[test]
fn videos_of_other_codings_and_muxers() {
    let dir = tempfile::tempdir().expect("a directory");
    let source =
        "-f lavfi -i testsrc2=size=160x120:rate=25 -f lavfi -i sine=sample_rate=44100 -t 2.2 -ac 2";
    for (name, options) in [
        ("b-frames.mp4", "-c:v libx264 -bf 3 -pix_fmt yuv420p -c:a aac"),
        ("mpeg4.mp4", "-c:v mpeg4 -c:a libmp3lame"),
        ("vp9.mp4", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus"),
        ("av1.mp4", "-c:v libaom-av1 -cpu-used 8 -usage realtime -c:a aac"),
        ("ac3.mp4", "-c:v libx264 -preset ultrafast -c:a ac3"),
        ("dash.mp4", "-c:v libx264 -preset ultrafast -c:a aac -movflags dash+global_sidx -g 10"),
        ("cmaf.mp4", "-c:v libx264 -preset ultrafast -c:a aac -movflags cmaf+frag_keyframe -g 10"),
        ("prores.mov", "-c:v prores_ks -c:a pcm_s24le"),
        ("png.mov", "-c:v png -c:a pcm_f32le"),
        ("timecode.mov", "-c:v libx264 -preset ultrafast -timecode 01:00:00:00 -c:a alac"),
        ("hevc.mkv", "-c:v libx265 -x265-params log-level=error -c:a flac"),
        ("vp9.mkv", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libvorbis"),
        ("theora.mkv", "-c:v libtheora -c:a ac3"),
        ("cluster-per-frame.mkv", "-c:v mpeg4 -c:a aac -cluster_time_limit 40"),
        ("webm.mkv", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus -f webm"),
        ("h264.avi", "-c:v libx264 -preset ultrafast -c:a ac3"),
        ("raw.avi", "-c:v rawvideo -pix_fmt bgr24 -c:a pcm_s16le"),
        ("ffv1.avi", "-c:v ffv1 -c:a libmp3lame"),
    ] {
        let path = made(&dir, name, &format!("{source} {options} -shortest"));
        let format = Format::from_extension(name.rsplit('.').next().expect("one")).expect("known");
        let info = look(&read(&path), format).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_as_ffprobe(&info, &path, name);
    }
}

#[test]
fn brands_of_mp4_and_mov_are_interchangeable_but_a_video_is_needed() {
    assert_kind(&sample_bytes("mov"), Format::Mp4, "ok");
    assert_kind(&sample_bytes("mp4"), Format::Mov, "ok");
    assert_kind(&sample_bytes("m4a"), Format::Mp4, "unsupported");
    assert_kind(&sample_bytes("m4a-cover"), Format::Mp4, "unsupported");
    assert_kind(&sample_bytes("heic"), Format::Mp4, "mismatch");
    assert_kind(&sample_bytes("mkv"), Format::Mp4, "mismatch");
    assert_kind(&sample_bytes("mp4"), Format::Mkv, "mismatch");
    // QuickTime from before there was `ftyp`.
    let mov = sample_bytes("mov");
    let first = u32::from_be_bytes(mov[..4].try_into().expect("four bytes")) as usize;
    let mut old = mov.clone();
    old[4..8].copy_from_slice(b"free");
    assert_kind(&old, Format::Mov, "ok");
    assert_eq!(sniff(&mov[first..]), Some(Format::Mov));
    let dir = tempfile::tempdir().expect("a directory");
    let sound = made(&dir, "sound.mkv", "-f lavfi -i sine -t 1 -c:a aac");
    assert_kind(&read(&sound), Format::Mkv, "unsupported");
    let sound = made(&dir, "sound.avi", "-f lavfi -i sine -t 1 -c:a pcm_s16le");
    assert_kind(&read(&sound), Format::Avi, "unsupported");
}

#[test]
fn streams_to_pipes_have_no_sizes_and_are_read_to_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, muxer, format) in
        [("live.mkv", "matroska", Format::Mkv), ("live.avi", "avi", Format::Avi)]
    {
        let options =
            format!("-f lavfi -i testsrc=size=64x48:rate=10 -t 2 -c:v mjpeg -f {muxer} pipe:1");
        let output = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin"])
            .args(options.split_whitespace())
            .output()
            .expect("ffmpeg runs");
        let info = look(&output.stdout, format).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_near(info.duration_ms, 2000, 1, name);
        assert_eq!((info.width_px, info.height_px), (Some(64), Some(48)), "{name}");
        // 0 is the other way of not knowing.
        if format == Format::Avi {
            let zero: Vec<u8> = output.stdout.clone();
            let mut zero = zero;
            let movi = body_of(&zero, *b"movi") - 8;
            zero[4..8].fill(0);
            zero[movi..movi + 4].fill(0);
            assert_eq!(look(&zero, format).expect("still good").duration_ms, info.duration_ms);
        }
        for cut in [output.stdout.len() - 2, output.stdout.len() - 100] {
            assert_kind(&output.stdout[..cut], format, "truncated");
        }
    }
    let path = dir.path().join("unused");
    assert!(!path.try_exists().expect("readable"));
}

// ---- damage that all have in common ---------------------------------------------------------------

#[test]
fn whatever_is_cut_is_refused() {
    for recipe in valid(&["m4a", "mp4", "mov", "mkv", "avi", "jpg", "png", "webp", "heic"]) {
        // No sizes at all: a cut between two clusters leaves a shorter good file.
        if matches!(recipe.name, "mkv-live") {
            continue;
        }
        let (bytes, format) = (sample_bytes(recipe.name), format_of(recipe));
        for cut in cuts(bytes.len()) {
            let result = look(&bytes[..cut], format);
            let expected =
                matches!(result, Err(ProbeError::Truncated { .. } | ProbeError::Mismatch { .. }));
            assert!(expected, "{} cut at {cut} of {}: {result:?}", recipe.name, bytes.len());
            assert!(cut < 100 || kind(&result) == "truncated", "{}: {result:?}", recipe.name);
        }
    }
}

#[test]
fn a_cut_fragmented_file_is_refused_wherever_it_is_cut_but_between_fragments() {
    let bytes = sample_bytes("m4a-fragmented");
    let mut boxes = vec![0];
    while let Some(size) = bytes.get(boxes[boxes.len() - 1]..).and_then(|b| b.first_chunk::<4>()) {
        boxes.push(boxes[boxes.len() - 1] + u32::from_be_bytes(*size) as usize);
    }
    for cut in (2000..bytes.len()).step_by(331).filter(|cut| !boxes.contains(cut)) {
        assert_kind(&bytes[..cut], Format::M4a, "truncated");
    }
}

const ALL: [Format; 19] = [
    Format::Mp3,
    Format::M4a,
    Format::Wav,
    Format::Mp4,
    Format::Mov,
    Format::Mkv,
    Format::Avi,
    Format::Jpeg,
    Format::Png,
    Format::Webp,
    Format::Heic,
    Format::Txt,
    Format::Zip,
    Format::Pdf,
    Format::Docx,
    Format::Json,
    Format::Jsonl,
    Format::Markdown,
    Format::Csv,
];

#[test]
fn empty_random_and_zero_files_are_nothing() {
    for format in ALL {
        assert_kind(b"", format, "empty");
        for bytes in [noise(40_000), vec![0; 40_000], vec![0xFF; 40_000], vec![0]] {
            assert!(look(&bytes, format).is_err(), "{format}");
        }
        if !matches!(format, Format::Mp3 | Format::Wav) {
            assert_kind(&noise(40_000), format, "mismatch");
            assert_kind(&vec![0; 40_000], format, "mismatch");
        }
    }
}

#[test]
fn whatever_is_renamed_is_refused_by_what_it_is() {
    let names = ["mp3", "wav", "m4a", "mp4", "mkv", "avi", "jpeg", "png", "webp", "heic"];
    for name in names {
        let bytes = sample_bytes(name);
        let found = sniff(&bytes).expect("a known head");
        assert_eq!(found, format_of(samples::recipe(name)), "{name}");
        for format in ALL {
            let bmff = |f| matches!(f, Format::M4a | Format::Mp4 | Format::Mov);
            if format == found || (bmff(format) && bmff(found)) {
                continue;
            }
            match look(&bytes, format) {
                Err(ProbeError::Mismatch { expected, found: looks_like }) => {
                    assert_eq!((expected, looks_like), (format, Some(found)), "{name} as {format}");
                }
                // The other helper of this crate words some of these otherwise.
                Err(_) if matches!(format, Format::Mp3 | Format::Wav) => {}
                other => panic!("{name} as {format}: {other:?}"),
            }
        }
    }
}

#[test]
fn steps_have_an_end() {
    // A file of nothing but empty boxes, elements, chunks or segments.
    let limits = Limits { steps_max: 1000, ..Limits::default() };
    let boxes = [b"\0\0\0\x10ftypisom\0\0\0\0".to_vec(), b"\0\0\0\x08free".repeat(5000)].concat();
    let jpeg = [b"\xFF\xD8".to_vec(), b"\xFF\xE0\0\x02".repeat(5000)].concat();
    let riff = b"RIFF\xFF\xFF\xFF\xFFAVI ".to_vec();
    let avi = [riff, b"JUNK\0\0\0\0".repeat(5000)].concat();
    let segment = b"\x1A\x45\xDF\xA3\x8B\x42\x82\x88matroska\x18\x53\x80\x67\xFF".to_vec();
    let mkv = [segment, b"\xEC\x80".repeat(5000)].concat();
    for (bytes, format) in
        [(boxes, Format::Mp4), (jpeg, Format::Jpeg), (avi, Format::Avi), (mkv, Format::Mkv)]
    {
        let result = probe(&mut Cursor::new(&bytes), format, &limits);
        assert_eq!(kind(&result), "too complex", "{format}: {result:?}");
    }
}

// ---- pictures -----------------------------------------------------------------------------------

#[test]
fn pictures_have_the_size_that_ffmpeg_gave_them() {
    for recipe in valid(&["jpg", "png", "webp", "heic"]) {
        let info = look(&sample_bytes(recipe.name), format_of(recipe))
            .unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
        let size = info.width_px.zip(info.height_px);
        assert_eq!(size, recipe.picture, "{}", recipe.name);
        assert_eq!((info.duration_ms, info.characters), (None, None));
    }
    let dir = tempfile::tempdir().expect("a directory");
    for (name, options, size) in [
        ("one.png", "2x2 -vf scale=1:1", (1, 1)),
        ("one.jpg", "2x2 -vf scale=1:1 -pix_fmt yuvj444p", (1, 1)),
        ("one.webp", "2x2 -vf scale=1:1 -c:v libwebp", (1, 1)),
        ("large.png", "5760x1000", (5760, 1000)),
        ("large.jpg", "5762x202 -pix_fmt yuvj420p", (5762, 202)),
        ("large.webp", "5762x202 -c:v libwebp", (5762, 202)),
        ("gray.png", "34x18 -pix_fmt gray", (34, 18)),
        ("optimal.jpg", "334x222 -pix_fmt yuvj444p -huffman optimal", (334, 222)),
    ] {
        let path = made(&dir, name, &format!("-f lavfi -i color=teal:size={options} -frames:v 1"));
        let format = Format::from_extension(name.rsplit('.').next().expect("one")).expect("known");
        let info = look(&read(&path), format).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(info.width_px.zip(info.height_px), Some(size), "{name}");
    }
    let info = look(PROGRESSIVE_JPEG, Format::Jpeg).expect("a good picture");
    assert_eq!(info.width_px.zip(info.height_px), Some((48, 32)));
    for cut in 3..PROGRESSIVE_JPEG.len() {
        assert_kind(&PROGRESSIVE_JPEG[..cut], Format::Jpeg, "truncated");
    }
    let moving =
        made(&dir, "moving.webp", "-f lavfi -i testsrc2=size=80x60:rate=5 -t 1 -c:v libwebp_anim");
    let info = look(&read(&moving), Format::Webp).expect("an animation");
    assert_eq!(info.width_px.zip(info.height_px), Some((80, 60)));
}

#[test]
fn heic_by_another_writer_is_measured_as_shown() {
    for (bytes, size) in [(PLAIN_HEIC, (320, 200)), (TURNED_HEIC, (200, 320))] {
        assert_eq!(sniff(bytes), Some(Format::Heic));
        let info = look(bytes, Format::Heic).expect("a good picture");
        assert_eq!(info.width_px.zip(info.height_px), Some(size));
        for cut in 40..bytes.len() {
            assert_kind(&bytes[..cut], Format::Heic, "truncated");
        }
    }
    let mut avif = PLAIN_HEIC.to_vec();
    let kind_at = body_of(&avif, *b"infe") + 8;
    assert_eq!(&avif[kind_at..kind_at + 4], b"hvc1");
    avif[kind_at..kind_at + 4].copy_from_slice(b"av01");
    assert_kind(&avif, Format::Heic, "unsupported");
    avif[8..12].copy_from_slice(b"avif");
    assert_kind(&avif, Format::Heic, "mismatch");
    assert_kind(&sample_bytes("mp4"), Format::Heic, "mismatch");
}

#[test]
fn what_phones_append_to_pictures_is_tolerated() {
    for name in ["jpeg", "png", "webp"] {
        let mut bytes = sample_bytes(name);
        let format = format_of(samples::recipe(name));
        let clean = look(&bytes, format).expect("a good picture");
        bytes.extend(noise(5000));
        assert_eq!(look(&bytes, format).expect("the end was before"), clean);
    }
}

#[test]
fn a_damaged_png_is_refused() {
    let good = sample_bytes("png");
    for at in [20, good.len() / 2, good.len() - 20] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_kind(&bad, Format::Png, "undecodable");
    }
    let mut headless = good[..8].to_vec();
    headless.extend(&good[33..]);
    assert_kind(&headless, Format::Png, "undecodable");
}

// ---- hostile ------------------------------------------------------------------------------------

/// Small good files of every kind, for mutation.
fn small() -> Vec<(Format, Vec<u8>)> {
    let cut = |name: &str| (format_of(samples::recipe(name)), sample_bytes(name));
    let mut files: Vec<_> = [
        "m4a-short",
        "m4a-fragmented",
        "m4a-alac",
        "mp4",
        "mp4-fragmented",
        "mov-pcm",
        "mkv",
        "webm",
        "avi",
        "jpeg-small",
        "png-small",
        "webp",
        "webp-alpha",
        "heic",
    ]
    .iter()
    .map(|name| cut(name))
    .collect();
    files.push((Format::Heic, TURNED_HEIC.to_vec()));
    files.push((Format::Zip, zipped(&[("a.txt", &b"hello ".repeat(50)), ("b.txt", b"b")])));
    files.push((Format::Zip, stored(&[("a.json", b"[1, 2, {\"a\": null}]")])));
    files.push((Format::Json, b"{\"a\": [1, 2.5e3, null, \"e\"], \"b\": {}}".to_vec()));
    files.push((Format::Txt, "héllo, 世界 🎧".as_bytes().to_vec()));
    files
}

/// A change to a file: a byte set, a big-endian number set, or a piece removed or doubled.
#[derive(Debug, Clone)]
enum Change {
    Byte(u8),
    Word(u32),
    Cut(usize),
    Double(usize),
}

fn change() -> impl Strategy<Value = (f64, Change)> {
    let edge = prop_oneof![
        Just(0_u32),
        Just(1),
        Just(7),
        Just(0x7FFF_FFFF),
        Just(0x8000_0000),
        Just(u32::MAX),
        any::<u32>()
    ];
    let change = prop_oneof![
        any::<u8>().prop_map(Change::Byte),
        edge.prop_map(Change::Word),
        (1_usize..100).prop_map(Change::Cut),
        (1_usize..100).prop_map(Change::Double),
    ];
    // Half of the places are near the start, where most fields are.
    (prop_oneof![0.0..0.02_f64, 0.0..1.0_f64], change)
}

fn apply(bytes: &mut Vec<u8>, place: f64, change: &Change) {
    let at = ((bytes.len() as f64 * place) as usize).min(bytes.len().saturating_sub(1));
    match change {
        Change::Byte(value) => bytes[at..].iter_mut().take(1).for_each(|byte| *byte = *value),
        Change::Word(value) => {
            for (byte, new) in bytes[at..].iter_mut().zip(value.to_be_bytes()) {
                *byte = new;
            }
        }
        Change::Cut(len) => drop(bytes.drain(at..(at + len).min(bytes.len()))),
        Change::Double(len) => {
            let piece = bytes[at..(at + len).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn mutations_never_panic_and_always_end(
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let limits = Limits { steps_max: 200_000, ..Limits::default() };
        for (format, mut bytes) in small() {
            for (place, change) in &changes {
                apply(&mut bytes, *place, change);
            }
            drop(probe(&mut Cursor::new(&bytes), format, &limits));
        }
    }

    #[test]
    fn a_head_of_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = sniff(&bytes);
        let heads: [&[u8]; 8] = [
            b"", b"\0\0\0\x10ftypisom\0\0\0\0", b"\0\0\0\x10ftypheic\0\0\0\0",
            b"\x1A\x45\xDF\xA3\x8B\x42\x82\x88matroska\x18\x53\x80\x67\xFF",
            b"RIFF\xFF\xFF\xFF\xFFAVI ", b"\xFF\xD8\xFF", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04",
        ];
        for head in heads {
            let bytes = [head, &bytes].concat();
            for format in ALL {
                drop(look(&bytes, format));
            }
        }
    }
}
