//! What the calls that speak have in common: the request, its checks, and what is said of the audio.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::make::{AudioFormat, AudioSetting, Sound, speak};
use crate::reply::Refusal;
use crate::world::{AccountIx, Made, RESULT_LIFE, Stored};

const SAMPLE_RATES: [u32; 6] = [8_000, 16_000, 22_050, 24_000, 32_000, 44_100];
const BITRATES: [u32; 4] = [32_000, 64_000, 128_000, 256_000];
/// Voices that can be mixed.
const TIMBRES_MAX: usize = 4;

/// Which voice, and how.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct VoiceSetting {
    #[serde(default)]
    voice_id: Option<String>,
    #[serde(default)]
    speed: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Timbre {
    voice_id: String,
}

/// Which audio; `audio_sample_rate` is what the call for long texts says.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct AskedAudio {
    #[serde(default, alias = "audio_sample_rate")]
    sample_rate: Option<u32>,
    #[serde(default)]
    bitrate: Option<u32>,
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    channel: Option<u32>,
}

/// The part of a request that says how to speak.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Manner {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    voice_setting: VoiceSetting,
    /// Older clients spell it `timber_weights`.
    #[serde(default, alias = "timber_weights")]
    timbre_weights: Vec<Timbre>,
    #[serde(default)]
    audio_setting: AskedAudio,
}

/// A manner that was checked.
#[derive(Debug, Clone)]
pub(crate) struct Speaker {
    voices: Vec<String>,
    speed: f64,
    pub(crate) audio: AudioSetting,
}

impl Manner {
    pub(crate) fn check(self) -> Result<Speaker, Refusal> {
        if self.model.is_none_or(|model| !model.starts_with("speech-")) {
            return Err(Refusal::invalid("model is missing or not supported"));
        }
        let speed = self.voice_setting.speed.unwrap_or(1.0);
        if !(0.5..=2.0).contains(&speed) {
            return Err(Refusal::invalid("speed must be between 0.5 and 2"));
        }
        let mixed = self.timbre_weights.into_iter().map(|timbre| timbre.voice_id);
        let voices: Vec<String> = self.voice_setting.voice_id.into_iter().chain(mixed).collect();
        let voices: Vec<String> = voices.into_iter().filter(|voice| !voice.is_empty()).collect();
        if voices.is_empty() || voices.len() > TIMBRES_MAX + 1 {
            return Err(Refusal::invalid("voice_id or one to four timbre_weights are required"));
        }
        Ok(Speaker { voices, speed, audio: self.audio_setting.check()? })
    }
}

impl AskedAudio {
    fn check(self) -> Result<AudioSetting, Refusal> {
        let format = self.format.as_deref().unwrap_or("mp3");
        let format = AudioFormat::parse(format)
            .ok_or_else(|| Refusal::invalid("format must be mp3, pcm, flac or wav"))?;
        let sample_rate = self.sample_rate.unwrap_or(32_000);
        if !SAMPLE_RATES.contains(&sample_rate) {
            return Err(Refusal::invalid("sample_rate is not supported"));
        }
        let bitrate = self.bitrate.unwrap_or(128_000);
        if !BITRATES.contains(&bitrate) {
            return Err(Refusal::invalid("bitrate is not supported"));
        }
        let channels = self.channel.unwrap_or(1);
        if !(1..=2).contains(&channels) {
            return Err(Refusal::invalid("channel must be 1 or 2"));
        }
        Ok(AudioSetting { format, sample_rate, bitrate, channels })
    }
}

impl Speaker {
    /// The default manner, for previews.
    pub(crate) fn preview(voice: &str) -> Self {
        let (format, sample_rate, bitrate) = (AudioFormat::Mp3, 32_000, 128_000);
        let audio = AudioSetting { format, sample_rate, bitrate, channels: 1 };
        Self { voices: vec![voice.to_owned()], speed: 1.0, audio }
    }

    /// Takes what the text costs and marks the voices as used, or neither.
    pub(crate) fn admit(&self, app: &App, ix: AccountIx, text: &str) -> Result<(), Refusal> {
        let now = app.clock.now();
        let mut world = app.world();
        for voice in &self.voices {
            world.use_voice(ix, voice, now)?;
        }
        world.account_mut(ix).pay(units(text))
    }

    /// Makes the audio, on a thread where that may take a while.
    pub(crate) async fn say(&self, app: &App, text: &str) -> Result<Sound, Refusal> {
        let (voice, speed, audio) = (self.voices.join("+"), self.speed, self.audio);
        let text = text.to_owned();
        let sound = app.tasks.blocking(move || speak(&text, &voice, speed, audio));
        sound.await.ok_or_else(Refusal::unknown)
    }

    /// `extra_info` of a reply.
    pub(crate) fn info(&self, sound: &Sound, text: &str) -> Value {
        json!({
            "audio_length": sound.duration_ms,
            "audio_sample_rate": self.audio.sample_rate,
            "audio_size": sound.bytes.len(),
            "bitrate": self.audio.bitrate,
            "word_count": text.split_whitespace().count(),
            "invisible_character_ratio": 0,
            "usage_characters": units(text),
            "audio_format": self.audio.format.name(),
            "audio_channel": self.audio.channels,
        })
    }
}

/// What a text counts: a character of ASCII once, any other twice.
pub(crate) fn units(text: &str) -> u64 {
    text.chars().map(|character| if character.is_ascii() { 1 } else { 2 }).sum()
}

/// A link to something made, good for a day.
pub(crate) fn link_to(app: &App, filename: &str, bytes: Vec<u8>) -> Result<String, Refusal> {
    let now = app.clock.now();
    let mut world = app.world();
    let content: Arc<Stored> = Stored::of(&world.memory, bytes)?;
    let made = Made { filename: filename.to_owned(), content, gone_at: now.plus(RESULT_LIFE) };
    let id = world.add_made(made, now);
    Ok(app.links.link(&format!("made/{id}/{filename}"), now.plus(RESULT_LIFE).seconds()))
}

/// Subtitles of a text: one sentence, from its beginning to its end.
pub(crate) fn subtitles(text: &str, sound: &Sound) -> Vec<u8> {
    let sentence = json!([{
        "text": text,
        "time_begin": 0,
        "time_end": sound.duration_ms,
        "text_begin": 0,
        "text_end": text.chars().count(),
    }]);
    sentence.to_string().into_bytes()
}
