//! What ffmpeg says of it.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Decodes all of it; any complaint fails the test. Gives codec, and what ffprobe says of `entries`.
#[track_caller]
pub(crate) fn decoded(content: &[u8], extension: &str, entries: &str) -> String {
    let file = tempfile::Builder::new().suffix(&format!(".{extension}")).tempfile().unwrap();
    file.as_file().write_all(content).unwrap();
    let told = run(
        Command::new("ffmpeg").args(["-v", "error", "-xerror", "-i"]),
        file.path(),
        &["-f", "null", "-"],
    );
    assert_eq!(told, "", "ffmpeg complains");
    let entries = format!("stream={entries}:format=duration");
    let probe = ["-v", "error", "-show_entries", &entries, "-of", "csv=p=0"];
    run(Command::new("ffprobe").args(probe), file.path(), &[]).trim().replace('\n', ",")
}

#[track_caller]
fn run(command: &mut Command, path: &Path, behind: &[&str]) -> String {
    let output = command.arg(path).args(behind).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "{text}");
    text
}
