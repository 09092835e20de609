//! Requests with valid content, made before the clock starts.

use bytes::{Bytes, BytesMut};
use filegate_client::FormEnvelope;

use super::http::Target;

/// Purposes whose files are texts.
const TEXT_PURPOSES: [&str; 3] = ["t2a_async_input", "retrieval", "assistants"];

/// Length of a plain RIFF header with a format of 16 bytes.
const WAV_HEADER_BYTES: u64 = 44;

/// A whole upload request, and the size of the file in it: `size`, or a few bytes less.
pub(crate) fn upload(target: &Target, purpose: &str, size: u64) -> (u64, Bytes) {
    let (name, content) = if TEXT_PURPOSES.contains(&purpose) {
        ("bench.txt", text(size))
    } else {
        ("bench.wav", wav(size))
    };
    let form = FormEnvelope::new(purpose, name);
    let length = form.content_length(content.len() as u64);
    let head = target.head("POST", "upload", "", &form.content_type, Some(length));
    let mut request = BytesMut::with_capacity(head.len() + length as usize);
    for part in [head.as_bytes(), &form.head, &content, &form.tail] {
        request.extend_from_slice(part);
    }
    (content.len() as u64, request.freeze())
}

/// How a tone is sampled.
#[derive(Debug, Clone, Copy)]
struct Sampling {
    hz: u32,
    channels: u16,
    bits: u16,
}

impl Sampling {
    fn frame_bytes(self) -> u32 {
        u32::from(self.channels) * u32::from(self.bits / 8)
    }

    fn second_bytes(self) -> u64 {
        u64::from(self.hz) * u64::from(self.frame_bytes())
    }
}

/// From good to bad.
const SAMPLINGS: [Sampling; 5] = [
    Sampling { hz: 48_000, channels: 2, bits: 16 },
    Sampling { hz: 44_100, channels: 1, bits: 16 },
    Sampling { hz: 16_000, channels: 1, bits: 16 },
    Sampling { hz: 8_000, channels: 1, bits: 16 },
    Sampling { hz: 8_000, channels: 1, bits: 8 },
];

/// A wav of a tone, `size` bytes long up to one frame, in the best sampling that makes it at least
/// 11 seconds long, which is what a voice sample needs.
fn wav(size: u64) -> Vec<u8> {
    let data = size.saturating_sub(WAV_HEADER_BYTES).max(4);
    let [.., worst] = SAMPLINGS;
    let sampling = SAMPLINGS
        .into_iter()
        .find(|sampling| data / sampling.second_bytes() >= 11)
        .unwrap_or(worst);
    let frame = sampling.frame_bytes();
    let frames = (data / u64::from(frame)) as u32;
    let bytes = frames * frame;
    let mut wav = Vec::with_capacity(bytes as usize + WAV_HEADER_BYTES as usize);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(bytes + 36).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&16_u32.to_le_bytes());
    wav.extend_from_slice(&1_u16.to_le_bytes());
    wav.extend_from_slice(&sampling.channels.to_le_bytes());
    wav.extend_from_slice(&sampling.hz.to_le_bytes());
    wav.extend_from_slice(&(sampling.second_bytes() as u32).to_le_bytes());
    wav.extend_from_slice(&(frame as u16).to_le_bytes());
    wav.extend_from_slice(&sampling.bits.to_le_bytes());
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&bytes.to_le_bytes());
    // A triangle of 200 Hz: no floating point, no silence.
    let period = i64::from(sampling.hz / 200);
    for n in 0..i64::from(frames) {
        let phase = n % period;
        let level = (4 * phase - 2 * period).abs() - period;
        let sample = (level * 16_000 / period) as i16;
        for _ in 0..sampling.channels {
            if sampling.bits == 8 {
                wav.push((i32::from(sample) / 256 + 128) as u8);
            } else {
                wav.extend_from_slice(&sample.to_le_bytes());
            }
        }
    }
    wav
}

fn text(size: u64) -> Vec<u8> {
    b"The quick brown fox jumps over the lazy dog.\n"
        .iter()
        .copied()
        .cycle()
        .take(size as usize)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(wav: &[u8], at: usize) -> u64 {
        u64::from(u32::from_le_bytes(wav[at..at + 4].try_into().unwrap()))
    }

    #[test]
    fn tones_have_the_size_and_a_length_that_voice_samples_may_have() {
        for size in [100_000, 500_000, 1 << 20, 5_000_000, 20_000_000, 20 << 20] {
            let wav = wav(size);
            assert!(size - wav.len() as u64 <= 4, "{size}: {}", wav.len());
            assert_eq!(number(&wav, 4) + 8, wav.len() as u64);
            assert_eq!(number(&wav, 40) + 44, wav.len() as u64);
            let seconds = number(&wav, 40) / number(&wav, 28);
            assert!((10..300).contains(&seconds), "{size}: {seconds} s");
        }
    }

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let key = filegate_client::Key::new("fg-k").unwrap();
        let target = Target::parse("http://h:1/v1/files/upload", key).unwrap();
        for purpose in ["voice_clone", "retrieval"] {
            let (size, request) = upload(&target, purpose, 100_000);
            assert_eq!(size, 100_000);
            let end = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let head = std::str::from_utf8(&request[..end]).unwrap();
            assert!(head.starts_with("POST /v1/files/upload HTTP/1.1\r\nHost: h:1\r\n"), "{head}");
            let length = format!("Content-Length: {}\r\n", request.len() - end);
            assert!(head.contains(&length), "{head}");
        }
    }
}
