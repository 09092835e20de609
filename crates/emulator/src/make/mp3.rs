//! MPEG audio, Layer III, with one spectral line to a granule: a tone, or silence.
//!
//! All that an encoder decides is left out. A granule says which line of 576 is not zero, in Huffman table 1 (ISO/IEC
//! 11172-3, table B.7), and how loud it is. Every frame stands alone (no bit reservoir), so frames can be cut apart
//! anywhere, as chunks of a stream are.

use super::bits::Bits;
use super::tones::{AudioSetting, Tone};

/// In kbit/s, for MPEG-1 and for its half-rate extensions.
const RATES_1: [u32; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
const RATES_2: [u32; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
const LINES: f64 = 576.0;
/// How loud a line is: some 20 dB below the loudest.
const GAIN: u32 = 222;

/// What all frames of a file have in common.
struct Shape {
    /// The version's two bits: 11 for MPEG-1, 10 for MPEG-2, 00 for MPEG-2.5.
    version: u32,
    rate_index: u32,
    bitrate_index: u32,
    bitrate: u32,
    sample_rate: u32,
    channels: u32,
}

impl Shape {
    fn new(setting: AudioSetting) -> Self {
        let (version, rate_index) = match setting.sample_rate {
            44_100 => (3, 0),
            48_000 => (3, 1),
            32_000 => (3, 2),
            22_050 => (2, 0),
            24_000 => (2, 1),
            16_000 => (2, 2),
            _ => (0, 2),
        };
        let rates = if version == 3 { RATES_1 } else { RATES_2 };
        let index = rates.iter().rposition(|rate| rate * 1000 <= setting.bitrate).unwrap_or(0);
        Self {
            version,
            rate_index,
            bitrate_index: index as u32 + 1,
            bitrate: rates[index] * 1000,
            sample_rate: if version == 0 { 8000 } else { setting.sample_rate },
            channels: setting.channels,
        }
    }

    fn granules(&self) -> u32 {
        if self.version == 3 { 2 } else { 1 }
    }
}

pub(super) fn encode(tones: &[Tone], setting: AudioSetting) -> Vec<u8> {
    let shape = Shape::new(setting);
    let lines = lines(tones, &shape);
    let mut bytes = Vec::new();
    // What the bit rate is still owed, in bytes times samples a second; frames are padded to pay it.
    let mut owed = 0;
    for granules in lines.chunks(shape.granules() as usize) {
        let exact = 72 * shape.granules() * shape.bitrate;
        owed += exact % shape.sample_rate;
        let padded = owed >= shape.sample_rate;
        if padded {
            owed -= shape.sample_rate;
        }
        let size = (exact / shape.sample_rate + u32::from(padded)) as usize;
        let end = bytes.len() + size;
        bytes.extend(frame(&shape, granules, padded));
        bytes.resize(end, 0);
    }
    bytes
}

/// The line of each granule: that of the tone at its middle.
fn lines(tones: &[Tone], shape: &Shape) -> Vec<Option<u32>> {
    let granule_ms = LINES * 1000.0 / f64::from(shape.sample_rate);
    let mut lines = Vec::new();
    let mut end = 0.0;
    for tone in tones {
        end += f64::from(tone.ms);
        let line =
            tone.hertz.map(|hertz| (hertz * 2.0 / f64::from(shape.sample_rate) * LINES) as u32);
        while (lines.len() as f64 + 0.5) * granule_ms < end {
            lines.push(line);
        }
    }
    lines
}

fn frame(shape: &Shape, granules: &[Option<u32>], padded: bool) -> Vec<u8> {
    let mono = shape.channels == 1;
    let mut bits = Bits::default();
    bits.put(0x7FF, 11).put(shape.version, 2).put(0b01, 2).put(1, 1);
    bits.put(shape.bitrate_index, 4).put(shape.rate_index, 2).put(u32::from(padded), 1).put(0, 1);
    bits.put(if mono { 0b11 } else { 0b00 }, 2).put(0, 6);

    // A file's last frame may have one granule only; the other is silent.
    let granules = (0..shape.granules() as usize).map(|nth| granules.get(nth).copied().flatten());
    let main: Vec<_> = granules.map(|line| (line, main_data(line))).collect();
    if shape.version == 3 {
        bits.put(0, 9).put(0, if mono { 5 } else { 3 }).put(0, 4 * shape.channels);
    } else {
        bits.put(0, 8).put(0, shape.channels);
    }
    for (line, data) in &main {
        for _channel in 0..shape.channels {
            bits.put(data.len() as u32, 12).put(line.map_or(0, |line| line / 2 + 1), 9);
            bits.put(GAIN, 8).put(0, if shape.version == 3 { 4 } else { 9 });
            // No switched window; table 1 in all three regions, whose bounds do not matter then.
            bits.put(0, 1).put(1, 5).put(1, 5).put(1, 5).put(7, 4).put(7, 3);
            bits.put(0, if shape.version == 3 { 3 } else { 2 });
        }
    }
    for (_, data) in &main {
        for _channel in 0..shape.channels {
            for bit in data {
                bits.put(u32::from(*bit), 1);
            }
        }
    }
    bits.into_bytes()
}

/// Pairs of zeros up to the line, which is 1.
fn main_data(line: Option<u32>) -> Vec<u8> {
    let Some(line) = line else { return vec![] };
    let mut data = vec![1; line as usize / 2];
    // (1, 0) is 01, (0, 1) is 001; then the sign.
    data.extend_from_slice(if line % 2 == 0 { &[0, 1, 0] } else { &[0, 0, 1, 0] });
    data
}
