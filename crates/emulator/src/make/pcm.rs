//! Plain samples, bare and in a wav.

use std::f64::consts::TAU;

use super::tones::{AudioSetting, Tone};

const AMPLITUDE: f64 = 0.25 * 32767.0;
/// Samples over which a tone swells and fades, so that nothing clicks.
const FADE_MS: u32 = 5;

/// One channel of 16-bit samples.
pub(super) fn samples(tones: &[Tone], rate: u32) -> Vec<i16> {
    let fade = f64::from(FADE_MS * rate) / 1000.0;
    let mut samples = Vec::new();
    for tone in tones {
        let count = (u64::from(tone.ms) * u64::from(rate) / 1000) as u32;
        let Some(hertz) = tone.hertz else {
            samples.resize(samples.len() + count as usize, 0);
            continue;
        };
        samples.extend((0..count).map(|nth| {
            let edge = f64::from(nth.min(count - 1 - nth)) / fade;
            let angle = TAU * hertz * f64::from(nth) / f64::from(rate);
            (AMPLITUDE * edge.min(1.0) * angle.sin()) as i16
        }));
    }
    samples
}

/// Little-endian samples, the same in every channel.
pub(super) fn raw(tones: &[Tone], setting: AudioSetting) -> Vec<u8> {
    let samples = samples(tones, setting.sample_rate);
    let mut bytes = Vec::with_capacity(samples.len() * 2 * setting.channels as usize);
    for sample in samples {
        for _channel in 0..setting.channels {
            bytes.extend_from_slice(&sample.to_le_bytes());
        }
    }
    bytes
}

pub(super) fn wav(tones: &[Tone], setting: AudioSetting) -> Vec<u8> {
    let data = raw(tones, setting);
    let frame = setting.channels * 2;
    let mut bytes = Vec::with_capacity(44 + data.len());
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt ");
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(&(setting.channels as u16).to_le_bytes());
    bytes.extend_from_slice(&setting.sample_rate.to_le_bytes());
    bytes.extend_from_slice(&(setting.sample_rate * frame).to_le_bytes());
    bytes.extend_from_slice(&(frame as u16).to_le_bytes());
    bytes.extend_from_slice(&16_u16.to_le_bytes());
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&data);
    bytes
}
