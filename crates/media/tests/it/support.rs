//! What the tests of formats share: looking at bytes, making files, damaging them.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use filegate_media::{Format, Limits, MediaInfo, ProbeError, probe};
use filegate_testkit::samples::{self, Recipe};

pub(crate) fn look(bytes: &[u8], format: Format) -> Result<MediaInfo, ProbeError> {
    probe(&mut Cursor::new(bytes), format, &Limits::default())
}

pub(crate) fn kind(result: &Result<MediaInfo, ProbeError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(ProbeError::Empty) => "empty",
        Err(ProbeError::Mismatch { .. }) => "mismatch",
        Err(ProbeError::Truncated { .. }) => "truncated",
        Err(ProbeError::Undecodable { .. }) => "undecodable",
        Err(ProbeError::Unsupported { .. }) => "unsupported",
        Err(ProbeError::TooComplex { .. }) => "too complex",
        Err(ProbeError::Io(_)) => "io",
    }
}

#[track_caller]
pub(crate) fn assert_kind(bytes: &[u8], format: Format, expected: &str) {
    let result = look(bytes, format);
    assert_eq!(kind(&result), expected, "{result:?}");
}

#[track_caller]
pub(crate) fn assert_near(measured: Option<u64>, truth: u64, slack: u64, what: &str) {
    let measured = measured.unwrap_or_else(|| panic!("{what}: no duration"));
    assert!(measured.abs_diff(truth) <= slack, "{what}: {measured} ms, ffmpeg has {truth} ms");
}

/// Valid samples of one of these extensions.
pub(crate) fn valid(extensions: &'static [&'static str]) -> impl Iterator<Item = &'static Recipe> {
    samples::all().iter().filter(|r| r.valid && extensions.contains(&r.extension))
}

pub(crate) fn format_of(recipe: &Recipe) -> Format {
    Format::from_extension(recipe.extension).expect("a known extension")
}

/// A file made by ffmpeg for one test.
pub(crate) fn made(dir: &tempfile::TempDir, name: &str, arguments: &str) -> PathBuf {
    let path = dir.path().join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]).args(arguments.split_whitespace()).arg(&path);
    assert!(command.status().expect("ffmpeg runs").success(), "{arguments}");
    path
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a sample can be read")
}

/// Random bytes, always the same.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(len)
    .collect()
}

/// Where the body of the first box of this kind is.
pub(crate) fn body_of(bytes: &[u8], kind: [u8; 4]) -> usize {
    bytes.windows(4).position(|window| *window == kind).expect("the box is there") + 4
}

/// Places to cut a file of this length: near both ends, and spread between them.
pub(crate) fn cuts(len: usize) -> Vec<usize> {
    let spread = (1..60).map(|i| len * i / 60);
    let mut cuts: Vec<_> = (1..40).chain(spread).chain((1..40).map(|i| len - i)).collect();
    cuts.retain(|cut| (1..len).contains(cut));
    cuts
}
