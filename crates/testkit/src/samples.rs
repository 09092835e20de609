//! Real media for the tests: speech by espeak-ng, pictures and videos by ffmpeg's test source,
//! coded by ffmpeg, and a few edits by hand where ffmpeg has no option for what the field has.
//!
//! A sample is made when first asked for and kept in `samples/` below cargo's target directory (or
//! in `FILEGATE_SAMPLES_DIR`). Its name carries a hash of its recipe, so a changed recipe is a new
//! file. It is written under a temporary name and renamed: test processes that race make it twice
//! and both end with a whole one.
//!
//! [`decoded_duration_ms`] is the oracle for durations: what ffmpeg really decodes, not what any
//! header or ffprobe's estimate says.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// To be raised when an edit below changes: the hash sees options, not functions.
const EDITS_VERSION: u32 = 1;

/// What the speech says. It takes espeak-ng about 25 seconds.
const TEXT: &str = "A gateway keeps the files of its callers, and looks at each of them before it \
    costs anything. A voice has to be long enough to learn from, and short enough to send. \
    What claims to be a recording must really be one, from its first frame to its last. \
    The rest is refused at the door, with a word about the reason, and nothing is lost. \
    So much for the plan. Now the quick brown fox jumps over the lazy dog, once more.";

/// A named sample and what is true of it.
#[derive(Debug)]
pub struct Recipe {
    /// What [`sample`] is asked for.
    pub name: &'static str,
    /// The extension of the file, without the dot. For invalid ones: what it claims to be.
    pub extension: &'static str,
    /// Whether the content is whole and what the extension says.
    pub valid: bool,
    /// The (first) audio track.
    pub audio: Option<Audio>,
    /// Width and height of the picture or video, before any rotation.
    pub picture: Option<(u32, u32)>,
    make: Make,
}

/// An audio track in ffprobe's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audio {
    /// The coding.
    pub codec: &'static str,
    /// Samples a second.
    pub sample_rate_hz: u32,
    /// Channels.
    pub channels: u16,
}

#[derive(Debug, Clone, Copy)]
enum Make {
    /// espeak-ng itself, in its own 22.05 kHz mono.
    Espeak,
    /// Speech of so many seconds through ffmpeg with these options. `@name` stands for the path of
    /// another sample.
    Speech(u32, &'static str),
    /// As `Speech`, to a pipe: the muxer cannot go back and write lengths.
    Piped(u32, &'static str),
    /// Four seconds of moving picture in this size with speech, coded with these options.
    Video(&'static str, &'static str),
    /// One picture of this size, coded with these options.
    Picture(&'static str, &'static str),
    /// Another sample's bytes, edited.
    Edit(&'static str, fn(&[u8]) -> Vec<u8>),
}

/// All recipes.
pub fn all() -> &'static [Recipe] {
    RECIPES
}

/// The recipe of this name.
///
/// # Panics
/// If there is none.
pub fn recipe(name: &str) -> &'static Recipe {
    RECIPES.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no sample named {name}"))
}

/// The path of the sample of this name, made now if it is not there yet.
///
/// # Panics
/// If there is no such recipe or ffmpeg or espeak-ng fail.
pub fn sample(name: &str) -> PathBuf {
    let recipe = recipe(name);
    let mut hash = DefaultHasher::new();
    hash_recipe(recipe, &mut hash);
    let dir = directory();
    let path = dir.join(format!("{name}-{:08x}.{}", hash.finish() as u32, recipe.extension));
    if path.try_exists().expect("the samples directory can be read") {
        return path;
    }
    fs::create_dir_all(&dir).expect("the samples directory can be made");
    let temporary = tempfile::Builder::new()
        .prefix(".making-")
        .suffix(&format!(".{}", recipe.extension))
        .tempfile_in(&dir)
        .expect("a temporary sample can be made")
        .into_temp_path();
    make(recipe, &temporary);
    temporary.persist(&path).expect("a sample can be renamed");
    path
}

/// The content of the sample of this name.
///
/// # Panics
/// As [`sample`].
pub fn sample_bytes(name: &str) -> Vec<u8> {
    fs::read(sample(name)).expect("a sample can be read")
}

/// Milliseconds of audio that ffmpeg decodes from the first audio track, to the nearest one.
///
/// # Panics
/// If ffmpeg cannot read the file.
pub fn decoded_duration_ms(path: &Path) -> u64 {
    decoded(path).1
}

/// The first audio track, and milliseconds that ffmpeg decodes from it, to the nearest one.
///
/// # Panics
/// If ffmpeg cannot read the file.
pub fn decoded(path: &Path) -> (Audio, u64) {
    let audio = audio_of(path);
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(path)
        .args(["-map", "0:a:0", "-c:a", "pcm_s16le", "-f", "s16le", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("ffmpeg runs");
    let mut pcm = child.stdout.take().expect("ffmpeg has a stdout");
    let bytes = std::io::copy(&mut pcm, &mut std::io::sink()).expect("ffmpeg's output is read");
    child.wait().expect("ffmpeg ends");
    let samples = bytes / (2 * u64::from(audio.channels));
    let rate = u64::from(audio.sample_rate_hz);
    (audio, (samples * 1000 + rate / 2) / rate)
}

/// What ffprobe says of the first audio track. The codec is leaked: for tests only.
///
/// # Panics
/// If ffprobe finds none.
pub fn audio_of(path: &Path) -> Audio {
    let found = ffprobe(path);
    let track = found["streams"]
        .as_array()
        .and_then(|streams| streams.iter().find(|s| s["codec_type"] == "audio"))
        .unwrap_or_else(|| panic!("ffprobe finds no audio: {found}"));
    let rate = track["sample_rate"].as_str().and_then(|rate| rate.parse().ok());
    Audio {
        codec: track["codec_name"].as_str().expect("a codec").to_owned().leak(),
        sample_rate_hz: rate.expect("a sample rate"),
        channels: track["channels"].as_u64().expect("channels") as u16,
    }
}

/// ffprobe's `-show_streams -show_format`, as JSON.
///
/// # Panics
/// If ffprobe does not run.
pub fn ffprobe(path: &Path) -> serde_json::Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_streams", "-show_format", "-of", "json"])
        .arg(path)
        .output()
        .expect("ffprobe runs");
    serde_json::from_slice(&output.stdout).expect("ffprobe writes JSON")
}

/// `FILEGATE_SAMPLES_DIR`, or `samples` in the target directory that this program was built in.
fn directory() -> PathBuf {
    if let Some(dir) = std::env::var_os("FILEGATE_SAMPLES_DIR") {
        return dir.into();
    }
    let program = std::env::current_exe().expect("a program knows its path");
    // Cargo marks its target directory for backup programs.
    let marked = |dir: &&Path| dir.join("CACHEDIR.TAG").try_exists().unwrap_or(false);
    match program.ancestors().find(marked) {
        Some(target) => target.join("samples"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/samples"),
    }
}

fn hash_recipe(recipe: &Recipe, hash: &mut DefaultHasher) {
    (recipe.name, recipe.extension).hash(hash);
    match recipe.make {
        Make::Espeak => TEXT.hash(hash),
        Make::Speech(seconds, options) | Make::Piped(seconds, options) => {
            (TEXT, seconds, options, matches!(recipe.make, Make::Piped(..))).hash(hash);
        }
        Make::Video(size, options) | Make::Picture(size, options) => (size, options).hash(hash),
        Make::Edit(from, _) => {
            EDITS_VERSION.hash(hash);
            hash_recipe(self::recipe(from), hash);
        }
    }
}

fn make(recipe: &Recipe, path: &Path) {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-y"]);
    match recipe.make {
        Make::Espeak => {
            let mut espeak = Command::new("espeak-ng");
            espeak.args(["-v", "en", "-s", "150", "-w"]).arg(path).arg(TEXT);
            run(&mut espeak);
        }
        Make::Speech(seconds, options) => {
            ffmpeg.args(["-stream_loop", "-1", "-i"]).arg(sample("speech")).args(expand(options));
            run(ffmpeg.args(["-t", &seconds.to_string()]).arg(path));
        }
        Make::Piped(seconds, options) => {
            ffmpeg.args(["-stream_loop", "-1", "-i"]).arg(sample("speech")).args(expand(options));
            let piped = run(ffmpeg.args(["-t", &seconds.to_string(), "-"]));
            write(path, &piped);
        }
        Make::Video(size, options) => {
            ffmpeg.args(["-f", "lavfi", "-i", &format!("testsrc2=size={size}:rate=15"), "-i"]);
            ffmpeg.arg(sample("speech")).args(expand(options));
            run(ffmpeg.args(["-t", "4"]).arg(path));
        }
        Make::Picture(size, options) => {
            ffmpeg.args(["-f", "lavfi", "-i", &format!("testsrc2=size={size}"), "-frames:v", "1"]);
            run(ffmpeg.args(expand(options)).arg(path));
        }
        Make::Edit(from, edit) => write(path, &edit(&sample_bytes(from))),
    }
}

fn expand(options: &str) -> Vec<std::ffi::OsString> {
    let word = |word: &str| match word.strip_prefix('@') {
        Some(name) => sample(name).into_os_string(),
        None => word.into(),
    };
    options.split_whitespace().map(word).collect()
}

/// Runs to the end, and returns what was written to stdout.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} does not run: {e}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {words}");
    output.stdout
}

fn write(path: &Path, bytes: &[u8]) {
    let mut file = fs::File::create(path).expect("a sample can be created");
    file.write_all(bytes).expect("a sample can be written");
}

const fn good(name: &'static str, extension: &'static str, make: Make) -> Recipe {
    Recipe { name, extension, valid: true, audio: None, picture: None, make }
}

const fn bad(name: &'static str, extension: &'static str, make: Make) -> Recipe {
    Recipe { name, extension, valid: false, audio: None, picture: None, make }
}

impl Recipe {
    const fn audio(mut self, codec: &'static str, sample_rate_hz: u32, channels: u16) -> Self {
        self.audio = Some(Audio { codec, sample_rate_hz, channels });
        self
    }

    const fn picture(mut self, width: u32, height: u32) -> Self {
        self.picture = Some((width, height));
        self
    }
}

const fn mp3(name: &'static str, rate: u32, channels: u16, make: Make) -> Recipe {
    good(name, "mp3", make).audio("mp3", rate, channels)
}

const fn wav(name: &'static str, codec: &'static str, rate: u32, ch: u16, make: Make) -> Recipe {
    good(name, "wav", make).audio(codec, rate, ch)
}

use Make::{Edit, Picture, Piped, Speech, Video};

/// Left and right differ, by an echo of 20 ms.
macro_rules! wide {
    ($rest:literal) => {
        concat!("-filter_complex [0:a]asplit[a][b];[b]adelay=20[c];[a][c]join=inputs=2:channel_layout=stereo ", $rest)
    };
}

const RECIPES: &[Recipe] = &[
    wav("speech", "pcm_s16le", 22_050, 1, Make::Espeak),
    // mp3 of every kind that encoders write.
    mp3("mp3", 22_050, 1, Speech(12, "-c:a libmp3lame -b:a 32k")),
    mp3("mp3-short", 22_050, 1, Speech(3, "-c:a libmp3lame -b:a 32k")),
    mp3("mp3-5s", 22_050, 1, Speech(5, "-c:a libmp3lame -b:a 32k")),
    mp3("mp3-long", 8000, 1, Speech(301, "-c:a libmp3lame -b:a 8k -ar 8000")),
    mp3("mp3-cbr-64", 44_100, 1, Speech(12, "-c:a libmp3lame -b:a 64k -ar 44100")),
    mp3("mp3-cbr-128", 44_100, 2, Speech(12, wide!("-c:a libmp3lame -b:a 128k -ar 44100"))),
    mp3("mp3-cbr-320", 48_000, 2, Speech(12, wide!("-c:a libmp3lame -b:a 320k -ar 48000"))),
    mp3("mp3-cbr-no-xing", 44_100, 1, Speech(12, "-c:a libmp3lame -b:a 64k -ar 44100 -write_xing 0")),
    mp3("mp3-left-right", 44_100, 2, Speech(12, wide!("-c:a libmp3lame -b:a 128k -ar 44100 -joint_stereo 0"))),
    mp3("mp3-no-reservoir", 44_100, 1, Speech(12, "-c:a libmp3lame -b:a 64k -ar 44100 -reservoir 0")),
    mp3("mp3-abr", 44_100, 1, Speech(12, "-c:a libmp3lame -abr 1 -b:a 72k -ar 44100")),
    mp3("mp3-v0", 44_100, 2, Speech(12, wide!("-c:a libmp3lame -q:a 0 -ar 44100"))),
    mp3("mp3-v5", 44_100, 1, Speech(12, "-c:a libmp3lame -q:a 5 -ar 44100")),
    mp3("mp3-v0-no-xing", 44_100, 2, Speech(12, wide!("-c:a libmp3lame -q:a 0 -ar 44100 -write_xing 0"))),
    mp3("mp3-v5-no-xing", 44_100, 1, Speech(12, "-c:a libmp3lame -q:a 5 -ar 44100 -write_xing 0")),
    mp3("mp3-v9-no-xing", 22_050, 1, Speech(12, "-c:a libmp3lame -q:a 9 -write_xing 0")),
    mp3("mp3-piped", 22_050, 1, Piped(12, "-c:a libmp3lame -q:a 5 -f mp3")),
    mp3("mp3-8k", 8000, 1, Speech(12, "-c:a libmp3lame -b:a 8k -ar 8000")),
    mp3("mp3-11k", 11_025, 1, Speech(12, "-c:a libmp3lame -b:a 16k -ar 11025")),
    mp3("mp3-12k", 12_000, 2, Speech(12, wide!("-c:a libmp3lame -b:a 24k -ar 12000"))),
    mp3("mp3-16k", 16_000, 1, Speech(12, "-c:a libmp3lame -b:a 24k -ar 16000")),
    mp3("mp3-22k-stereo", 22_050, 2, Speech(12, wide!("-c:a libmp3lame -b:a 64k -ar 22050"))),
    mp3("mp3-24k", 24_000, 1, Speech(12, "-c:a libmp3lame -b:a 32k -ar 24000")),
    mp3("mp3-32k", 32_000, 1, Speech(12, "-c:a libmp3lame -b:a 48k -ar 32000")),
    mp3("mp3-48k", 48_000, 1, Speech(12, "-c:a libmp3lame -b:a 96k -ar 48000")),
    mp3("mp3-shine", 44_100, 1, Speech(12, "-c:a libshine -b:a 64k -ar 44100")),
    mp3("mp3-shine-32k", 32_000, 2, Speech(12, "-c:a libshine -b:a 128k -ar 32000 -ac 2")),
    mp3("mp3-tags", 44_100, 1, Speech(12, "-i @png -map 0:a -map 1:v -c:v copy -c:a libmp3lame -b:a 64k -ar 44100 -id3v2_version 3 -write_id3v1 1 -metadata title=Speech")),
    mp3("mp3-id3v24", 44_100, 1, Speech(12, "-i @jpeg -map 0:a -map 1:v -c:v copy -c:a libmp3lame -q:a 4 -ar 44100 -id3v2_version 4 -metadata title=Speech")),
    mp3("mp3-id3v1", 44_100, 1, Edit("mp3-tags", edits::only_id3v1)),
    mp3("mp3-ape", 44_100, 1, Edit("mp3-id3v1", edits::ape_before_id3v1)),
    mp3("mp3-lyrics", 44_100, 1, Edit("mp3-id3v1", edits::lyrics_before_id3v1)),
    mp3("mp3-two-id3v2", 44_100, 1, Edit("mp3-tags", edits::second_id3v2_with_footer)),
    mp3("mp3-leading-junk", 22_050, 1, Edit("mp3", edits::leading_junk)),
    mp3("mp3-leading-zeros", 22_050, 1, Edit("mp3", edits::leading_zeros)),
    mp3("mp3-trailing-zeros", 22_050, 1, Edit("mp3", edits::trailing_zeros)),
    mp3("mp3-trailing-text", 22_050, 1, Edit("mp3", edits::trailing_text)),
    mp3("mp3-no-gapless", 22_050, 1, Edit("mp3", edits::no_gapless)),
    mp3("mp3-silence", 44_100, 2, Speech(12, "-af volume=0 -c:a libmp3lame -b:a 128k -ar 44100 -ac 2")),
    mp3("mp3-joined", 22_050, 1, Edit("mp3-no-tags", edits::twice)),
    mp3("mp3-no-tags", 22_050, 1, Speech(6, "-c:a libmp3lame -b:a 32k -write_xing 0 -id3v2_version 0")),
    bad("mp2", "mp3", Speech(12, "-c:a mp2 -b:a 64k -ar 44100 -f mp2")),
    bad("adts-as-mp3", "mp3", Speech(12, "-c:a aac -b:a 48k -f adts")),
    bad("wav-as-mp3", "mp3", Edit("wav", <[u8]>::to_vec)),
    bad("m4a-as-mp3", "mp3", Edit("m4a", <[u8]>::to_vec)),
    bad("ogg-as-mp3", "mp3", Speech(12, "-c:a libvorbis -f ogg")),
    bad("mp3-in-wav-as-mp3", "mp3", Edit("mp3-in-wav", <[u8]>::to_vec)),
    // wav.
    wav("wav", "pcm_s16le", 22_050, 1, Speech(12, "-c:a pcm_s16le")),
    wav("wav-short", "pcm_s16le", 22_050, 1, Speech(3, "-c:a pcm_s16le")),
    wav("wav-5s", "pcm_s16le", 16_000, 1, Speech(5, "-c:a pcm_s16le -ar 16000")),
    wav("wav-long", "pcm_u8", 8000, 1, Speech(301, "-c:a pcm_u8 -ar 8000")),
    wav("wav-u8", "pcm_u8", 11_025, 1, Speech(12, "-c:a pcm_u8 -ar 11025")),
    wav("wav-stereo-48k", "pcm_s16le", 48_000, 2, Speech(12, wide!("-c:a pcm_s16le -ar 48000"))),
    wav("wav-s24", "pcm_s24le", 44_100, 2, Speech(12, "-c:a pcm_s24le -ar 44100 -ac 2")),
    wav("wav-s24-plain", "pcm_s24le", 44_100, 2, Edit("wav-s24", edits::plain_pcm)),
    wav("wav-s32", "pcm_s32le", 44_100, 1, Speech(12, "-c:a pcm_s32le -ar 44100")),
    wav("wav-f32", "pcm_f32le", 44_100, 1, Speech(12, "-c:a pcm_f32le -ar 44100")),
    wav("wav-f32-96k", "pcm_f32le", 96_000, 2, Speech(12, "-c:a pcm_f32le -ar 96000 -ac 2")),
    wav("wav-f64", "pcm_f64le", 22_050, 1, Speech(12, "-c:a pcm_f64le")),
    wav("wav-mulaw", "pcm_mulaw", 8000, 1, Speech(12, "-c:a pcm_mulaw -ar 8000")),
    wav("wav-alaw", "pcm_alaw", 8000, 2, Speech(12, "-c:a pcm_alaw -ar 8000 -ac 2")),
    wav("wav-5.1", "pcm_s16le", 44_100, 6, Speech(12, "-c:a pcm_s16le -ar 44100 -ac 6")),
    wav("wav-bext", "pcm_s16le", 22_050, 1, Speech(12, "-c:a pcm_s16le -write_bext 1 -metadata description=speech -metadata title=Speech")),
    wav("wav-piped", "pcm_s16le", 22_050, 1, Piped(12, "-c:a pcm_s16le -f wav")),
    wav("wav-piped-sox", "pcm_s16le", 22_050, 1, Edit("wav", edits::sox_placeholders)),
    wav("wav-length-zero", "pcm_s16le", 22_050, 1, Edit("wav", edits::zero_lengths)),
    wav("wav-rf64", "pcm_s16le", 22_050, 1, Speech(12, "-c:a pcm_s16le -rf64 always")),
    wav("wav-bw64", "pcm_s16le", 22_050, 1, Edit("wav-rf64", edits::bw64)),
    wav("wav-odd-chunks", "pcm_s16le", 22_050, 1, Edit("wav", edits::odd_chunks)),
    wav("wav-list-after", "pcm_s16le", 22_050, 1, Edit("wav", edits::list_after_data)),
    bad("wav-adpcm", "wav", Speech(12, "-c:a adpcm_ms")),
    bad("wav-adpcm-ima", "wav", Speech(12, "-c:a adpcm_ima_wav")),
    bad("mp3-in-wav", "wav", Speech(12, "-c:a libmp3lame -b:a 32k")),
    bad("mp3-as-wav", "wav", Edit("mp3", <[u8]>::to_vec)),
    bad("avi-as-wav", "wav", Edit("avi", <[u8]>::to_vec)),
    // m4a.
    good("m4a", "m4a", Speech(12, "-c:a aac -b:a 48k")).audio("aac", 22_050, 1),
    good("m4a-short", "m4a", Speech(3, "-c:a aac -b:a 48k")).audio("aac", 22_050, 1),
    good("m4a-5s", "m4a", Speech(5, "-c:a aac -b:a 48k")).audio("aac", 22_050, 1),
    good("m4a-long", "m4a", Speech(301, "-c:a aac -b:a 12k -ar 8000")).audio("aac", 8000, 1),
    good("m4a-faststart", "m4a", Speech(12, wide!("-c:a aac -b:a 96k -ar 44100 -movflags +faststart")))
        .audio("aac", 44_100, 2),
    good("m4a-fragmented", "m4a", Speech(12, "-c:a aac -b:a 64k -ar 48000 -frag_duration 1000000 -movflags frag_keyframe+empty_moov"))
        .audio("aac", 48_000, 1),
    good("m4a-dash", "m4a", Speech(12, "-c:a aac -b:a 64k -ar 48000 -frag_duration 1000000 -movflags frag_keyframe+empty_moov+default_base_moof+global_sidx -f mp4"))
        .audio("aac", 48_000, 1),
    good("m4a-piped", "m4a", Piped(12, "-c:a aac -b:a 64k -ar 44100 -frag_duration 1000000 -movflags frag_keyframe+empty_moov -f mp4"))
        .audio("aac", 44_100, 1),
    good("m4a-alac", "m4a", Speech(12, wide!("-c:a alac -ar 44100"))).audio("alac", 44_100, 2),
    good("m4a-alac-24", "m4a", Speech(12, "-c:a alac -ar 48000 -sample_fmt s32p")).audio("alac", 48_000, 1),
    good("m4a-cover", "m4a", Speech(12, "-i @png -map 0:a -map 1:v -c:v copy -disposition:v attached_pic -c:a aac -b:a 48k -metadata title=Speech"))
        .audio("aac", 22_050, 1),
    bad("mp3-in-m4a", "m4a", Speech(12, "-c:a libmp3lame -b:a 64k -ar 44100 -f mp4")),
    bad("mp4-as-m4a", "m4a", Edit("mp4", <[u8]>::to_vec)),
    bad("mp3-as-m4a", "m4a", Edit("mp3", <[u8]>::to_vec)),
    // Videos.
    good("mp4", "mp4", Video("320x240", "-c:v libx264 -pix_fmt yuv420p -c:a aac")).audio("aac", 22_050, 1).picture(320, 240),
    good("mp4-faststart", "mp4", Video("320x240", "-c:v libx264 -pix_fmt yuv420p -c:a aac -movflags +faststart"))
        .audio("aac", 22_050, 1)
        .picture(320, 240),
    good("mp4-fragmented", "mp4", Video("320x240", "-c:v libx264 -pix_fmt yuv420p -g 15 -c:a aac -movflags frag_keyframe+empty_moov"))
        .audio("aac", 22_050, 1)
        .picture(320, 240),
    good("mp4-mute", "mp4", Video("640x360", "-map 0:v -c:v libx264 -pix_fmt yuv420p")).picture(640, 360),
    good("mp4-hevc", "mp4", Video("320x240", "-c:v libx265 -x265-params log-level=error -tag:v hvc1 -pix_fmt yuv420p -c:a aac"))
        .audio("aac", 22_050, 1)
        .picture(320, 240),
    good("mov", "mov", Video("320x240", "-c:v libx264 -pix_fmt yuv420p -c:a aac")).audio("aac", 22_050, 1).picture(320, 240),
    good("mov-pcm", "mov", Video("320x240", "-c:v mjpeg -pix_fmt yuvj420p -c:a pcm_s16le"))
        .audio("pcm_s16le", 22_050, 1)
        .picture(320, 240),
    good("mkv", "mkv", Video("320x240", "-c:v libx264 -pix_fmt yuv420p -c:a aac")).audio("aac", 22_050, 1).picture(320, 240),
    good("mkv-live", "mkv", Video("320x240", "-c:v libx264 -pix_fmt yuv420p -c:a aac -live 1"))
        .audio("aac", 22_050, 1)
        .picture(320, 240),
    good("webm", "mkv", Video("320x240", "-c:v libvpx -deadline realtime -c:a libopus -f webm"))
        .audio("opus", 48_000, 1)
        .picture(320, 240),
    good("avi", "avi", Video("320x240", "-c:v mpeg4 -c:a libmp3lame -b:a 32k")).audio("mp3", 22_050, 1).picture(320, 240),
    good("avi-mjpeg", "avi", Video("320x240", "-c:v mjpeg -pix_fmt yuvj420p -c:a pcm_s16le"))
        .audio("pcm_s16le", 22_050, 1)
        .picture(320, 240),
    // Pictures.
    good("jpeg", "jpg", Picture("512x384", "-pix_fmt yuvj420p")).picture(512, 384),
    good("jpeg-exif", "jpg", Edit("jpeg", edits::exif_orientation)).picture(512, 384),
    good("jpeg-small", "jpg", Picture("64x48", "-pix_fmt yuvj420p")).picture(64, 48),
    good("jpeg-big", "jpg", Picture("6000x4000", "-pix_fmt yuvj420p")).picture(6000, 4000),
    good("png", "png", Picture("400x300", "")).picture(400, 300),
    good("png-small", "png", Picture("64x48", "")).picture(64, 48),
    good("png-wide", "png", Picture("1200x300", "")).picture(1200, 300),
    good("webp", "webp", Picture("512x384", "-c:v libwebp")).picture(512, 384),
    good("webp-lossless", "webp", Picture("512x384", "-c:v libwebp -lossless 1")).picture(512, 384),
    good("webp-alpha", "webp", Picture("512x384", "-vf format=rgba,colorchannelmixer=aa=0.5 -c:v libwebp -pix_fmt yuva420p")).picture(512, 384),
    good("hevc-still", "mp4", Picture("512x384", "-c:v libx265 -x265-params log-level=error -tag:v hvc1 -pix_fmt yuv420p"))
        .picture(512, 384),
    good("heic", "heic", Edit("hevc-still", edits::heic)).picture(512, 384),
];

/// What ffmpeg has no option for.
mod edits {
    fn joined(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn split_id3v1(bytes: &[u8]) -> (&[u8], &[u8]) {
        let (audio, tag) = bytes.split_at(bytes.len() - 128);
        assert!(tag.starts_with(b"TAG"), "the sample has an ID3v1 tag");
        (audio, tag)
    }

    /// APEv2 with header and footer and one item (the layout is that of the APEv2 specification).
    pub(super) fn ape_before_id3v1(bytes: &[u8]) -> Vec<u8> {
        let item = joined(&[&4u32.to_le_bytes(), &0u32.to_le_bytes(), b"Title\0", b"talk"]);
        let frame = |flags: u32| {
            let size = item.len() as u32 + 32;
            let words = [2000, size, 1, flags].map(u32::to_le_bytes).concat();
            joined(&[b"APETAGEX", &words, &[0; 8]])
        };
        let (audio, tag) = split_id3v1(bytes);
        joined(&[audio, &frame(0xa000_0000), &item, &frame(0x8000_0000), tag])
    }

    /// Lyrics3 v2: fields, their size in six digits, and a mark.
    pub(super) fn lyrics_before_id3v1(bytes: &[u8]) -> Vec<u8> {
        let fields = b"LYRICSBEGININD0000200LYR00011hello there";
        let end = format!("{:06}LYRICS200", fields.len());
        let (audio, tag) = split_id3v1(bytes);
        joined(&[audio, fields, end.as_bytes(), tag])
    }

    /// An ID3v2.4 tag with padding and footer in front of the one that is there.
    pub(super) fn second_id3v2_with_footer(bytes: &[u8]) -> Vec<u8> {
        let size = [0, 0, 7, 0x68];
        let first = joined(&[b"ID3\x04\x00\x10", &size, &[0; 1000], b"3DI\x04\x00\x10", &size]);
        joined(&[&first, bytes])
    }

    /// Bytes that look like a sync word now and then, as the rest of a frame before the first does.
    pub(super) fn leading_junk(bytes: &[u8]) -> Vec<u8> {
        let junk: Vec<u8> = (0..3000u32)
            .map(|i| if i % 97 == 0 { 0xff } else { (i.wrapping_mul(2_654_435_761) >> 24) as u8 })
            .collect();
        joined(&[&junk, without_id3v2(bytes)])
    }

    pub(super) fn leading_zeros(bytes: &[u8]) -> Vec<u8> {
        joined(&[&[0; 5000], without_id3v2(bytes)])
    }

    pub(super) fn trailing_zeros(bytes: &[u8]) -> Vec<u8> {
        joined(&[bytes, &[0; 1500]])
    }

    pub(super) fn trailing_text(bytes: &[u8]) -> Vec<u8> {
        joined(&[bytes, b"\r\n--end of the recording--\r\n"])
    }

    pub(super) fn twice(bytes: &[u8]) -> Vec<u8> {
        joined(&[bytes, bytes])
    }

    pub(super) fn only_id3v1(bytes: &[u8]) -> Vec<u8> {
        without_id3v2(bytes).to_vec()
    }

    fn without_id3v2(bytes: &[u8]) -> &[u8] {
        assert!(bytes.starts_with(b"ID3"), "the sample has an ID3v2 tag");
        let size = bytes[6..10].iter().fold(0, |size, &b| (size << 7) | usize::from(b));
        &bytes[10 + size..]
    }

    /// The Xing header without encoder delay and padding: an older encoder's.
    pub(super) fn no_gapless(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let at = find(&bytes, b"Lav").expect("ffmpeg signs its Xing header");
        bytes[at..at + 36].fill(0);
        bytes
    }

    fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
        bytes.windows(what.len()).position(|w| w == what)
    }

    fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn data_size_at(bytes: &[u8]) -> usize {
        find(bytes, b"data").expect("the sample has a data chunk") + 4
    }

    /// `WAVE_FORMAT_EXTENSIBLE` turned into `WAVE_FORMAT_PCM`, as older programs write 24 bits.
    pub(super) fn plain_pcm(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let at = find(&bytes, b"fmt ").expect("the sample has a format") + 8;
        assert_eq!(bytes[at..at + 2], [0xfe, 0xff]);
        bytes[at..at + 2].copy_from_slice(&[1, 0]);
        bytes
    }

    /// The lengths that sox writes to a pipe.
    pub(super) fn sox_placeholders(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        put_u32(&mut bytes, 4, 0x7fff_f024);
        let at = data_size_at(&bytes);
        put_u32(&mut bytes, at, 0x7fff_f000);
        bytes
    }

    /// The lengths of a recorder that was switched off.
    pub(super) fn zero_lengths(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        put_u32(&mut bytes, 4, 0);
        let at = data_size_at(&bytes);
        put_u32(&mut bytes, at, 0);
        bytes
    }

    pub(super) fn bw64(bytes: &[u8]) -> Vec<u8> {
        joined(&[b"BW64", &bytes[4..]])
    }

    /// Chunks of odd length with their padding, before and after the format.
    pub(super) fn odd_chunks(bytes: &[u8]) -> Vec<u8> {
        let fmt = find(bytes, b"fmt ").expect("the sample has a format");
        let data = data_size_at(bytes) - 4;
        let junk = b"junk\x03\0\0\0abc\0";
        let note = b"note\x05\0\0\0data!\0";
        let mut bytes =
            joined(&[&bytes[..fmt], junk, &bytes[fmt..data], note, junk, &bytes[data..]]);
        let size = bytes.len() as u32 - 8;
        put_u32(&mut bytes, 4, size);
        bytes
    }

    pub(super) fn list_after_data(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = joined(&[bytes, b"LIST\x0e\0\0\0INFOISFT\x02\0\0\0x\0"]);
        let size = bytes.len() as u32 - 8;
        put_u32(&mut bytes, 4, size);
        bytes
    }

    /// An EXIF segment that says "turn me by 90 degrees" (orientation 6) behind the start of image.
    pub(super) fn exif_orientation(bytes: &[u8]) -> Vec<u8> {
        let tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let size = (tiff.len() as u16 + 8).to_be_bytes();
        joined(&[&bytes[..2], b"\xff\xe1", &size, b"Exif\0\0", tiff, &bytes[2..]])
    }

    /// A HEIC file (ISO/IEC 23008-12) around the first picture of an mp4 with HEVC.
    pub(super) fn heic(mp4: &[u8]) -> Vec<u8> {
        let hvcc_at = find(mp4, b"hvcC").expect("the sample is HEVC") - 4;
        let size = |at: usize| {
            u32::from_be_bytes([mp4[at], mp4[at + 1], mp4[at + 2], mp4[at + 3]]) as usize
        };
        let hvcc = &mp4[hvcc_at..hvcc_at + size(hvcc_at)];
        let mdat_at = find(mp4, b"mdat").expect("the sample has data") - 4;
        let picture = &mp4[mdat_at + 8..mdat_at + size(mdat_at)];

        let ftyp = boxed(*b"ftyp", &[b"heic\0\0\0\0mif1heic"]);
        let hdlr = boxed(*b"hdlr", &[&[0; 8], b"pict", &[0; 13]]);
        let pitm = boxed(*b"pitm", &[&[0; 4], &[0, 1]]);
        let infe = boxed(*b"infe", &[&[2, 0, 0, 0], &[0, 1, 0, 0], b"hvc1\0"]);
        let iinf = boxed(*b"iinf", &[&[0; 4], &[0, 1], &infe]);
        let ispe = boxed(*b"ispe", &[&[0; 4], &512u32.to_be_bytes(), &384u32.to_be_bytes()]);
        let ipco = boxed(*b"ipco", &[hvcc, &ispe]);
        let ipma = boxed(*b"ipma", &[&[0; 4], &[0, 0, 0, 1, 0, 1, 2, 0x81, 2]]);
        let iprp = boxed(*b"iprp", &[&ipco, &ipma]);
        // One item with one extent, offsets and lengths of four bytes.
        let iloc = |offset: u32| {
            let extent = [offset, picture.len() as u32].map(u32::to_be_bytes).concat();
            boxed(*b"iloc", &[&[0; 4], &[0x44, 0, 0, 1, 0, 1, 0, 0, 0, 1], &extent])
        };
        let meta = |offset| boxed(*b"meta", &[&[0; 4], &hdlr, &pitm, &iloc(offset), &iinf, &iprp]);
        let offset = ftyp.len() + meta(0).len() + 8;
        joined(&[&ftyp, &meta(offset as u32), &boxed(*b"mdat", &[picture])])
    }

    fn boxed(kind: [u8; 4], parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        joined(&[&(body.len() as u32 + 8).to_be_bytes(), &kind, &body])
    }
}
