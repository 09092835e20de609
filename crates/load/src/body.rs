//! Content that is what it says, so that a server that looks at it takes it.

/// Length of a plain RIFF header with a format of 16 bytes.
const WAV_HEADER_BYTES: u64 = 44;

/// Bytes of a frame of [`avi`].
const FRAME_BYTES: u64 = 1 << 20;

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
pub fn wav(size: u64) -> Vec<u8> {
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

/// Plain text of `size` bytes.
pub fn text(size: u64) -> Vec<u8> {
    b"The quick brown fox jumps over the lazy dog.\n"
        .iter()
        .copied()
        .cycle()
        .take(size as usize)
        .collect()
}

/// An AVI of one video stream without compression, ten frames a second, exactly `size` bytes long; `size` is even and at
/// least 2 KiB.
pub fn avi(size: u64) -> Vec<u8> {
    const MOVI: usize = 224;
    let mut avi = Vec::with_capacity(size as usize);
    let mut put = |name: &[u8], numbers: &[u32]| {
        avi.extend_from_slice(name);
        avi.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    };
    let frames = (size - MOVI as u64).div_ceil(FRAME_BYTES) as u32;
    put(b"RIFF", &[size as u32 - 8]);
    put(b"AVI LIST", &[192]);
    put(
        b"hdrlavih",
        &[56, 100_000, FRAME_BYTES as u32 * 10, 0, 0, frames, 0, 1, FRAME_BYTES as u32],
    );
    put(b"", &[640, 360, 0, 0, 0, 0]);
    put(b"LIST", &[116]);
    put(b"strlstrh", &[56]);
    put(b"vidsDIB ", &[0, 0, 0, 1, 10, 0, frames, FRAME_BYTES as u32, 0, 0, 0, 0]);
    put(b"strf", &[40, 40, 640, 360, 1 | 24 << 16, 0, 640 * 360 * 3, 0, 0, 0, 0]);
    put(b"LIST", &[(size - MOVI as u64) as u32 + 4]);
    put(b"movi", &[]);
    debug_assert_eq!(avi.len(), MOVI, "what stands before the frames");
    let mut seed = 1_u32;
    while (avi.len() as u64) < size {
        let left = size - avi.len() as u64;
        // What is left for the last frame has room for its name and length.
        let short = (FRAME_BYTES + 1..FRAME_BYTES + 16).contains(&left);
        let frame = if short { FRAME_BYTES - 16 } else { left.min(FRAME_BYTES) } - 8;
        avi.extend_from_slice(b"00db");
        avi.extend_from_slice(&(frame as u32).to_le_bytes());
        // Bytes that nothing along the way can make smaller (a linear congruence of Numerical Recipes).
        for _ in 0..frame / 2 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            avi.extend_from_slice(&seed.to_be_bytes()[..2]);
        }
    }
    avi
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
    fn videos_are_as_long_as_their_chunks_say() {
        for size in [2048, FRAME_BYTES, FRAME_BYTES + 226, 3 * FRAME_BYTES + 300, 5_000_000] {
            let avi = avi(size);
            assert_eq!(avi.len() as u64, size);
            assert_eq!(number(&avi, 4) + 8, size);
            let (mut at, mut frames) = (224, 0);
            while at < size {
                assert_eq!(&avi[at as usize..][..4], b"00db");
                at += 8 + number(&avi, at as usize + 4);
                frames += 1;
            }
            assert_eq!((at, frames), (size, number(&avi, 48)));
        }
    }
}
