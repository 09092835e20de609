//! A text as a sequence of tones, and the formats that it comes in.

use super::{flac, mp3, pcm};

/// The longest audio made, whatever the text: 300 s.
const SOUND_MAX_MS: u32 = 300_000;
/// A character of an alphabet takes so long to say, …
const LETTER_MS: f64 = 70.0;
/// … and one of a script with a syllable to a character so long.
const SYLLABLE_MS: f64 = 200.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AudioFormat {
    Mp3,
    Wav,
    Pcm,
    Flac,
}

impl AudioFormat {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "mp3" => Self::Mp3,
            "wav" => Self::Wav,
            "pcm" => Self::Pcm,
            "flac" => Self::Flac,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mp3 => "mp3",
            Self::Wav => "wav",
            Self::Pcm => "pcm",
            Self::Flac => "flac",
        }
    }
}

/// What audio is asked for; made only of values that were checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AudioSetting {
    pub(crate) format: AudioFormat,
    pub(crate) sample_rate: u32,
    pub(crate) bitrate: u32,
    pub(crate) channels: u32,
}

/// A tone, or a silence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tone {
    /// None for a silence.
    pub(super) hertz: Option<f64>,
    pub(super) ms: u32,
}

/// Audio in its file format.
#[derive(Debug)]
pub(crate) struct Sound {
    pub(crate) bytes: Vec<u8>,
    pub(crate) duration_ms: u32,
}

/// Says `text` in the voice.
pub(crate) fn speak(text: &str, voice: &str, speed: f64, setting: AudioSetting) -> Sound {
    let tones = tones(text, voice, speed);
    let bytes = match setting.format {
        AudioFormat::Mp3 => mp3::encode(&tones, setting),
        AudioFormat::Wav => pcm::wav(&tones, setting),
        AudioFormat::Pcm => pcm::raw(&tones, setting),
        AudioFormat::Flac => flac::encode(&tones, setting),
    };
    Sound { bytes, duration_ms: duration_ms(&tones) }
}

pub(super) fn duration_ms(tones: &[Tone]) -> u32 {
    tones.iter().map(|tone| tone.ms).sum()
}

fn tones(text: &str, voice: &str, speed: f64) -> Vec<Tone> {
    let hash = voice.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31) + u32::from(byte));
    let base = 130.0 + f64::from(hash % 170);
    let mut left = SOUND_MAX_MS;
    let mut tones = Vec::new();
    for character in text.chars() {
        let ms = if character.is_ascii() { LETTER_MS } else { SYLLABLE_MS };
        let ms = ((ms / speed) as u32).clamp(20, left.max(1));
        let is_heard = character.is_alphanumeric();
        let step = f64::from(u32::from(character) % 13);
        tones.push(Tone { hertz: is_heard.then(|| base * (step / 12.0).exp2()), ms });
        left = left.saturating_sub(ms);
        if left == 0 {
            break;
        }
    }
    tones
}
