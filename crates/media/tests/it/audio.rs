//! mp3 and wav: what ffmpeg decodes is the truth, and what is left after damage is refused.

use std::io::Cursor;

use filegate_media::{DecodeScope, Format, Limits, MediaInfo, ProbeError, probe};
use filegate_testkit::samples::{self, Recipe, sample, sample_bytes};
use proptest::prelude::*;

fn probe_with(bytes: &[u8], format: Format, limits: &Limits) -> Result<MediaInfo, ProbeError> {
    probe(&mut Cursor::new(bytes), format, limits)
}

/// Probes in windows, and whole; both must say the same.
fn probe_both(bytes: &[u8], format: Format) -> Result<MediaInfo, ProbeError> {
    let window = probe_with(bytes, format, &Limits::default());
    let limits = Limits { decode: DecodeScope::Whole, ..Limits::default() };
    let whole = probe_with(bytes, format, &limits);
    match (&window, &whole) {
        (Ok(a), Ok(b)) => assert_eq!(a, b),
        (Err(a), Err(b)) => assert_eq!(kind(a), kind(b)),
        _ => panic!("{window:?} in windows, {whole:?} as a whole"),
    }
    window
}

fn kind(error: &ProbeError) -> &'static str {
    match error {
        ProbeError::Empty => "empty",
        ProbeError::Mismatch { .. } => "mismatch",
        ProbeError::Truncated { .. } => "truncated",
        ProbeError::Undecodable { .. } => "undecodable",
        ProbeError::Unsupported { .. } => "unsupported",
        ProbeError::TooComplex { .. } => "too complex",
        ProbeError::Io(_) => "io",
    }
}

/// What became of these bytes: `ok` or the kind of refusal.
fn fate(bytes: &[u8], format: Format) -> &'static str {
    probe_both(bytes, format).map_or_else(|e| kind(&e), |_| "ok")
}

fn valid(extension: &str) -> impl Iterator<Item = &'static Recipe> {
    samples::all().iter().filter(move |r| r.valid && r.extension == extension)
}

/// Random bytes, always the same.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

fn measures_as_ffmpeg_decodes(extension: &str, format: Format) {
    for recipe in valid(extension) {
        let path = sample(recipe.name);
        let info = probe_both(&sample_bytes(recipe.name), format)
            .unwrap_or_else(|e| panic!("{} is refused: {e}", recipe.name));
        let measured = info.duration_ms.expect("a duration");
        let (heard, truth) = samples::decoded(&path);
        assert!(measured.abs_diff(truth) <= 50, "{}: {measured}, not {truth}", recipe.name);
        let audio = recipe.audio.expect("an audio recipe");
        assert_eq!(audio, heard, "{}", recipe.name);
        assert_eq!(info.codec.as_deref(), Some(audio.codec), "{}", recipe.name);
        assert_eq!(info.sample_rate_hz, Some(audio.sample_rate_hz), "{}", recipe.name);
        assert_eq!(info.channels, Some(audio.channels), "{}", recipe.name);
        assert_eq!(info.format, format);
    }
}

#[test]
fn mp3_measures_as_ffmpeg_decodes() {
    measures_as_ffmpeg_decodes("mp3", Format::Mp3);
}

#[test]
fn wav_measures_as_ffmpeg_decodes() {
    measures_as_ffmpeg_decodes("wav", Format::Wav);
}

#[test]
fn other_content_under_the_name_is_refused() {
    for (name, format, found) in [
        ("adts-as-mp3", Format::Mp3, None),
        ("wav-as-mp3", Format::Mp3, Some(Format::Wav)),
        ("m4a-as-mp3", Format::Mp3, Some(Format::M4a)),
        ("ogg-as-mp3", Format::Mp3, None),
        ("mp3-in-wav-as-mp3", Format::Mp3, Some(Format::Wav)),
        ("mp3-in-m4a", Format::Mp3, Some(Format::Mp4)),
        ("avi", Format::Mp3, Some(Format::Avi)),
        ("mkv", Format::Mp3, Some(Format::Mkv)),
        ("jpeg", Format::Mp3, Some(Format::Jpeg)),
        ("mp3-as-wav", Format::Wav, Some(Format::Mp3)),
        ("avi-as-wav", Format::Wav, Some(Format::Avi)),
        ("webp", Format::Wav, Some(Format::Webp)),
    ] {
        match probe_both(&sample_bytes(name), format) {
            Err(ProbeError::Mismatch { expected, found: f }) => {
                assert_eq!((expected, f), (format, found), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let text = "a story, not a recording. ".repeat(400);
    for format in [Format::Mp3, Format::Wav] {
        let error = probe_both(text.as_bytes(), format).unwrap_err();
        assert!(matches!(error, ProbeError::Mismatch { found: Some(Format::Txt), .. }), "{error}");
    }
}

#[test]
fn kinds_that_are_not_accepted_say_which() {
    for (name, format, word) in [
        ("mp2", Format::Mp3, "layer II,"),
        ("wav-adpcm", Format::Wav, "microsoft adpcm"),
        ("wav-adpcm-ima", Format::Wav, "ima adpcm"),
        ("mp3-in-wav", Format::Wav, "mp3 in wav"),
    ] {
        let error = probe_both(&sample_bytes(name), format).unwrap_err();
        assert_eq!(kind(&error), "unsupported", "{name}");
        assert!(error.to_string().contains(word), "{error}");
    }
    // Bit rate index 0 every 100 bytes.
    let free = [&[0xff, 0xfb, 0x00, 0xc0][..], &noise(96)].concat().repeat(50);
    let error = probe_both(&free, Format::Mp3).unwrap_err();
    assert!(error.to_string().contains("free-format"), "{error}");
}

#[test]
fn what_is_no_audio_at_all_is_refused() {
    for format in [Format::Mp3, Format::Wav] {
        assert_eq!(fate(&[], format), "empty");
        for len in [1, 2, 3, 4, 11, 12, 44, 1000, 70_000, 300_000] {
            for bytes in [noise(len), vec![0; len], vec![0xff; len]] {
                assert_eq!(fate(&bytes, format), "mismatch", "{len} bytes of {format}");
            }
        }
    }
}

#[test]
fn an_mp3_that_was_cut_is_truncated() {
    for recipe in valid("mp3") {
        let bytes = sample_bytes(recipe.name);
        let mut cuts: Vec<usize> = (1..8).map(|n| bytes.len() * n / 8).collect();
        // Cuts in what follows the last frame take no audio away.
        if !["id3v1", "tags", "ape", "lyrics", "id3v2", "trailing"]
            .iter()
            .any(|w| recipe.name.contains(w))
        {
            cuts.push(bytes.len() - 2);
        }
        for cut in cuts {
            // One of them may be between two frames, where a file without a Xing header just ends.
            let fates = [cut - 1, cut, cut + 1].map(|cut| fate(&bytes[..cut], Format::Mp3));
            let truncated = fates.iter().filter(|f| **f == "truncated").count();
            assert!(truncated >= 2, "{} cut to {cut}: {fates:?}", recipe.name);
        }
    }
}

/// So many 32 kbit/s mono frames of silence at 48 kHz: 96 bytes and 24 ms each.
fn silent_frames(count: usize) -> Vec<u8> {
    let mut frame = [0; 96];
    frame[..4].copy_from_slice(&[0xff, 0xfb, 0x14, 0xc0]);
    frame.repeat(count)
}

#[test]
fn every_byte_that_the_last_frame_lacks_is_noticed() {
    let bytes = silent_frames(10);
    assert_eq!(probe_both(&bytes, Format::Mp3).unwrap().duration_ms, Some(240));
    for cut in 8 * 96..=10 * 96 {
        let expected = if cut % 96 == 0 { "ok" } else { "truncated" };
        assert_eq!(fate(&bytes[..cut], Format::Mp3), expected, "cut to {cut}");
    }
    let error = probe_both(&bytes[..950], Format::Mp3).unwrap_err();
    assert_eq!(error.to_string(), "mp3 is truncated: the last frame needs 96 bytes, 86 are left");
    for cut in 4..96 {
        assert_eq!(fate(&bytes[..cut], Format::Mp3), "truncated", "cut to {cut}");
    }
}

/// Puts a Xing header that announces so many frames in front.
fn with_xing(frames: u32, audio: &[u8]) -> Vec<u8> {
    let mut first = silent_frames(1);
    first[21..29].copy_from_slice(b"Xing\0\0\0\x01");
    first[29..33].copy_from_slice(&frames.to_be_bytes());
    [&first, audio].concat()
}

#[test]
fn a_count_of_frames_that_are_not_there_is_truncation() {
    let audio = silent_frames(500);
    for (announced, expected) in
        [(0, "ok"), (400, "ok"), (500, "ok"), (501, "ok"), (502, "ok"), (503, "truncated")]
    {
        assert_eq!(fate(&with_xing(announced, &audio), Format::Mp3), expected, "{announced}");
    }
    assert_eq!(fate(&with_xing(u32::MAX, &audio), Format::Mp3), "truncated");
    assert_eq!(fate(&with_xing(500, &[]), Format::Mp3), "undecodable");
    let info = probe_both(&with_xing(500, &audio), Format::Mp3).unwrap();
    assert_eq!(info.duration_ms, Some(12_000), "the announcing frame is no audio");

    // Real ones, between two frames: the header knows.
    let bytes = sample_bytes("mp3-cbr-320");
    let frame = bytes.windows(4).rposition(|w| w[..2] == [0xff, 0xfb] && w[2] & 0xf0 == 0xe0);
    let cut = frame.expect("a last frame") - 960 * 20;
    assert_eq!(fate(&bytes[..cut], Format::Mp3), "truncated");
}

#[test]
fn frames_of_noise_are_no_audio() {
    // Headers alone are right.
    for (header, bytes) in [
        ([0xff, 0xfb, 0x90, 0x64], 417),
        ([0xff, 0xfb, 0x90, 0xc4], 417),
        ([0xff, 0xf3, 0x40, 0xc4], 104),
        ([0xff, 0xe3, 0x18, 0xc4], 72),
        ([0xff, 0xfa, 0xe4, 0x00], 960),
    ] {
        let noise = noise(bytes * 400);
        let frames: Vec<u8> =
            noise.chunks(bytes).flat_map(|c| [&header[..], &c[4..]].concat()).collect();
        assert_eq!(fate(&frames, Format::Mp3), "undecodable", "{header:02x?}");
    }
}

#[test]
fn an_mp3_with_a_part_overwritten_is_refused() {
    for name in ["mp3", "mp3-v5", "mp3-v5-no-xing", "mp3-cbr-128", "mp3-8k", "mp3-tags"] {
        let bytes = sample_bytes(name);
        let len = bytes.len();
        for filler in [vec![0; len], noise(len)] {
            for (from, to) in [(len / 2, len), (len / 3, len * 2 / 3), (len * 4 / 5, len)] {
                let mut damaged = bytes.clone();
                damaged[from..to].copy_from_slice(&filler[from..to]);
                let fate = fate(&damaged, Format::Mp3);
                assert!(["undecodable", "truncated"].contains(&fate), "{name}: {fate}");
            }
        }
        // All of it but the first frames.
        let mut damaged = bytes.clone();
        damaged[len / 10..].copy_from_slice(&noise(len - len / 10));
        assert_ne!(fate(&damaged, Format::Mp3), "ok", "{name}");
    }
}

#[test]
fn junk_around_and_between_is_forgiven_within_bounds() {
    let audio = silent_frames(500);
    let with = |before: usize, after: usize| {
        let parts = [noise(before), audio.clone(), vec![b'-'; after]].concat();
        fate(&parts, Format::Mp3)
    };
    assert_eq!(with(64 << 10, 4096), "ok");
    assert_eq!(with((64 << 10) + 1, 0), "mismatch");
    assert_eq!(with(0, 4097), "undecodable");

    let half = silent_frames(250);
    let joined = |gap: &[u8]| fate(&[&half[..], gap, &half].concat(), Format::Mp3);
    assert_eq!(joined(&noise(480)), "ok");
    assert_eq!(joined(&noise(2000)), "undecodable", "more than one fiftieth");
    assert_eq!(joined(&[b"TAG".as_slice(), &[0; 125]].concat()), "ok");
    let tag = [b"ID3\x03\0\0\0\0\x7f\x7f".as_slice(), &[7; 16_383]].concat();
    assert_eq!(joined(&tag), "ok");
    let holes = [silent_frames(50), vec![1; 3]].concat().repeat(20);
    assert_eq!(fate(&holes, Format::Mp3), "undecodable", "too many gaps");
}

#[test]
fn tags_without_audio_are_refused() {
    for bytes in [
        b"ID3\x03\0\0\0\0\0\x0a0123456789".to_vec(),
        // A footer, then a tag at the end.
        [b"ID3\x04\0\x10\0\0\0\0".as_slice(), b"3DI\x04\0\x10\0\0\0\0", b"TAG", &[0; 125]].concat(),
    ] {
        assert_eq!(fate(&bytes, Format::Mp3), "undecodable");
    }
    assert_eq!(fate(b"ID3\x03\0\0\0\0\x7f\x7f0123456789", Format::Mp3), "truncated");
}

/// Inputs that symphonia's own probe and demuxers panicked or span on: #485 (an ID3v2 tag of 33
/// bytes), #331 and #439 (gapless trimming longer than the audio), #540 (a Xing header whose frames
/// decode to nothing), #301 (a pack of broken files: here in kind).
#[test]
fn what_has_broken_symphonia_ends_here() {
    for flags in 0..=255 {
        for version in [2, 3, 4] {
            let mut bytes = vec![0x41; 33];
            bytes[..10].copy_from_slice(&[b'I', b'D', b'3', version, 0, flags, 0, 0, 0, 23]);
            assert_ne!(fate(&bytes, Format::Mp3), "ok");
            bytes[9] = 127;
            assert_eq!(fate(&bytes, Format::Mp3), "truncated");
        }
    }
    // Delay and padding of 4095 each, on one frame.
    let mut bytes = with_xing(1, &silent_frames(1));
    bytes[33..37].copy_from_slice(b"LAME");
    bytes[54..57].fill(0xff);
    assert_eq!(probe_both(&bytes, Format::Mp3).unwrap().duration_ms, Some(0));
}

#[test]
fn the_steps_are_capped() {
    let few = Limits { steps_max: 100, ..Limits::default() };
    let frames = silent_frames(101);
    assert!(probe_with(&frames[..9600], Format::Mp3, &few).is_ok());
    let error = probe_with(&frames, Format::Mp3, &few).unwrap_err();
    assert_eq!(kind(&error), "too complex");

    let junk = b"junk\0\0\0\0".repeat(101);
    let chunks = [b"RIFF\0\0\0\0WAVE".as_slice(), &junk].concat();
    let error = probe_with(&chunks, Format::Wav, &few).unwrap_err();
    assert_eq!(kind(&error), "too complex");
}

/// A wav file of these chunks, with the right size in front.
fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WAVE".to_vec();
    for (name, content) in chunks {
        body.extend_from_slice(*name);
        body.extend_from_slice(&(content.len() as u32).to_le_bytes());
        body.extend_from_slice(content);
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// A `fmt ` chunk of 16 bytes.
fn fmt(coding: u16, channels: u16, rate: u32, block: u16, bits: u16) -> Vec<u8> {
    [
        coding.to_le_bytes().as_slice(),
        &channels.to_le_bytes(),
        &rate.to_le_bytes(),
        &(rate.wrapping_mul(block.into())).to_le_bytes(),
        &block.to_le_bytes(),
        &bits.to_le_bytes(),
    ]
    .concat()
}

#[test]
fn a_wav_that_was_cut_is_truncated() {
    for recipe in valid("wav") {
        let bytes = sample_bytes(recipe.name);
        // Without a length, what is there is all.
        if ["piped", "zero"].iter().any(|w| recipe.name.contains(w)) {
            continue;
        }
        let end = if recipe.name == "wav-list-after" { bytes.len() - 22 } else { bytes.len() };
        let mut cuts: Vec<usize> = (1..8).map(|n| end * n / 8).collect();
        cuts.extend([11, 12, 20, 30, 40, end - 1]);
        for cut in cuts {
            assert_eq!(fate(&bytes[..cut], Format::Wav), "truncated", "{} to {cut}", recipe.name);
        }
    }
    let bytes = sample_bytes("wav");
    let error = probe_both(&bytes[..200_000], Format::Wav).unwrap_err();
    assert_eq!(
        error.to_string(),
        "wav is truncated: its data chunk has 529,200 bytes, 199,922 are left"
    );
}

#[test]
fn a_wav_in_any_order_is_read() {
    let fmt = fmt(1, 1, 8000, 1, 8);
    let data = vec![128; 8000];
    let fate_of = |chunks: &[(&[u8; 4], &[u8])]| fate(&riff(chunks), Format::Wav);
    assert_eq!(fate_of(&[(b"fmt ", &fmt), (b"data", &data)]), "ok");
    assert_eq!(fate_of(&[(b"data", &data), (b"fmt ", &fmt)]), "ok");
    assert_eq!(fate_of(&[(b"JUNK", &[1; 7]), (b"data", &data[..7999]), (b"fmt ", &fmt)]), "ok");
    assert_eq!(fate_of(&[(b"fmt ", &fmt), (b"fact", &[0; 4]), (b"data", &data)]), "ok");
    assert_eq!(fate_of(&[(b"fmt ", &fmt)]), "undecodable");
    assert_eq!(fate_of(&[(b"data", &data)]), "undecodable");
    assert_eq!(fate_of(&[(b"fmt ", &fmt[..14]), (b"data", &data)]), "undecodable");
    assert_eq!(fate_of(&[(b"fmt ", &fmt), (b"data", &[])]), "undecodable");
    assert_eq!(fate_of(&[(b"fmt ", &fmt), (b"data", &[]), (b"LIST", &data)]), "undecodable");
    assert_eq!(fate_of(&[]), "undecodable");
}

#[test]
fn a_format_that_cannot_be_is_refused() {
    let fate_of = |coding, channels, rate, block, bits| {
        let fmt = fmt(coding, channels, rate, block, bits);
        fate(&riff(&[(b"fmt ", &fmt), (b"data", &[0; 960])]), Format::Wav)
    };
    assert_eq!(fate_of(1, 2, 48_000, 6, 20), "ok", "20 bits in 24");
    assert_eq!(fate_of(7, 1, 8000, 1, 16), "ok", "bits of the decoded sample");
    assert_eq!(fate_of(1, 0, 48_000, 2, 16), "undecodable");
    assert_eq!(fate_of(1, 1, 0, 2, 16), "undecodable");
    assert_eq!(fate_of(1, 1, u32::MAX, 2, 16), "undecodable");
    assert_eq!(fate_of(1, 1, 48_000, 0, 16), "undecodable");
    assert_eq!(fate_of(1, 1, 48_000, 4, 16), "undecodable");
    assert_eq!(fate_of(1, 65_535, 48_000, 65_535, 32), "undecodable");
    assert_eq!(fate_of(1, 1, 48_000, 8, 64), "unsupported");
    assert_eq!(fate_of(1, 1, 48_000, 2, 0), "unsupported");
    assert_eq!(fate_of(3, 1, 48_000, 2, 16), "unsupported");
    assert_eq!(fate_of(0, 1, 48_000, 2, 16), "unsupported");
    assert_eq!(fate_of(0xfffe, 1, 48_000, 2, 16), "unsupported", "extensible without a guid");
}

#[test]
fn floats_of_noise_are_no_audio() {
    for (bits, block) in [(32, 4), (64, 8)] {
        let fmt = fmt(3, 1, 48_000, block, bits);
        let noise = riff(&[(b"fmt ", &fmt), (b"data", &noise(2_000_000))]);
        assert_eq!(fate(&noise, Format::Wav), "undecodable");
    }
}

/// One thing that happens to files.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize),
    Fill(usize, usize, u8),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let at = || prop_oneof![0..200usize, 0..20_000usize];
        prop_oneof![
            4 => (at(), any::<u8>()).prop_map(|(at, byte)| Self::Set(at, byte)),
            1 => at().prop_map(Self::Cut),
            1 => (at(), 0..2000usize).prop_map(|(at, len)| Self::Remove(at, len)),
            1 => (at(), 0..2000usize).prop_map(|(at, len)| Self::Repeat(at, len)),
            1 => (at(), 0..2000usize, any::<u8>()).prop_map(|(at, len, b)| Self::Fill(at, len, b)),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        let range = |at: usize, count: usize| at.min(len)..at.saturating_add(count).min(len);
        match *self {
            Self::Set(at, byte) => bytes[range(at, 1)].fill(byte),
            Self::Cut(at) => bytes.truncate(at),
            Self::Remove(at, count) => drop(bytes.drain(range(at, count))),
            Self::Repeat(at, count) => {
                let again = bytes[range(at, count)].to_vec();
                bytes.splice(at.min(len)..at.min(len), again);
            }
            Self::Fill(at, count, byte) => bytes[range(at, count)].fill(byte),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Whatever was done to a file, the walk ends and says something.
    #[test]
    fn damage_never_panics(
        name in prop::sample::select(vec![
            "mp3-short", "mp3-tags", "mp3-joined", "wav-short", "wav-odd-chunks", "wav-rf64", "wav-f64",
        ]),
        damage in prop::collection::vec(Damage::any(), 1..20),
    ) {
        let mut bytes = sample_bytes(name);
        bytes.truncate(30_000);
        for one in &damage {
            one.apply(&mut bytes);
        }
        let whole = Limits { decode: DecodeScope::Whole, ..Limits::default() };
        for format in [Format::Mp3, Format::Wav] {
            for limits in [&whole, &Limits::default()] {
                if let Err(error) = probe_with(&bytes, format, limits) {
                    prop_assert!(!matches!(error, ProbeError::Io(_)));
                }
            }
        }
    }

    #[test]
    fn any_bytes_never_panic(
        head in prop::sample::select(vec![
            &b""[..], b"ID3\x03\0\0\0\0\0\x05", b"\xff\xfb\x90\x64", b"\xff\xe3\x18\xc4",
            b"RIFF\xff\xff\xff\xffWAVE", b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0",
            b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let bytes = [head, &rest].concat();
        for format in [Format::Mp3, Format::Wav] {
            if let Err(error) = probe_with(&bytes, format, &Limits::default()) {
                prop_assert!(!matches!(error, ProbeError::Io(_)));
            }
        }
    }
}
