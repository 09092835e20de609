//! A video of one brightness in H.264 (ITU-T H.264, Baseline): one picture, then pictures that change nothing.
//!
//! In the first macroblock a coefficient says how bright it is; all others are predicted from their neighbours and have
//! no residual, so that a second of 1080p takes as little as one of any other size.

use super::bits::Bits;
use super::mp4;

/// Frames a second.
pub(super) const RATE: u32 = 25;

/// What a video is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clip {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) seconds: u32,
    /// Gives the brightness.
    pub(crate) shade: u64,
}

/// The video as an mp4.
pub(crate) fn clip(clip: Clip) -> Vec<u8> {
    let (columns, rows) = (clip.width.div_ceil(16), clip.height.div_ceil(16));
    let macroblocks = columns * rows;
    let mut frames = vec![nal(0x65, picture(macroblocks, clip.shade))];
    frames.extend((1..clip.seconds * RATE).map(|nth| nal(0x41, unchanged(macroblocks, nth % 16))));
    mp4::mux(clip, &nal(0x67, sequence(clip, columns, rows)), &nal(0x68, parameters()), &frames)
}

fn sequence(clip: Clip, columns: u32, rows: u32) -> Bits {
    let mut bits = Bits::default();
    // Constrained Baseline at level 4.0.
    bits.put(66, 8).put(0xC0, 8).put(40, 8).ue(0);
    // frame_num of 4 bits; output in the order of coding; one reference.
    bits.ue(0).ue(2).ue(1).put(0, 1);
    bits.ue(columns - 1).ue(rows - 1).put(1, 1).put(1, 1);
    // Cropping, in units of two pixels.
    bits.put(1, 1).ue(0).ue((columns * 16 - clip.width) / 2);
    bits.ue(0).ue((rows * 16 - clip.height) / 2);
    bits.put(0, 1);
    bits
}

fn parameters() -> Bits {
    let mut bits = Bits::default();
    bits.ue(0).ue(0).put(0, 2).ue(0).ue(0).ue(0).put(0, 3);
    bits.se(0).se(0).se(0).put(1, 1).put(0, 2);
    bits
}

/// An IDR picture.
fn picture(macroblocks: u32, shade: u64) -> Bits {
    let mut bits = Bits::default();
    bits.ue(0).ue(7).ue(0).put(0, 4).ue(0).put(0, 2).se(0).ue(1);
    for nth in 0..macroblocks {
        // I_16x16 with DC prediction and no coefficients but the luma DC's; chroma predicted alike; the same QP.
        bits.ue(3).ue(0).se(0);
        if nth == 0 {
            // One coefficient of magnitude 2 to 8, as a level_prefix (9.2.2.1), and no zeros in front of it.
            let (level, negative) = (2 + (shade % 7) as u32, shade & 8 != 0);
            bits.put(0b00_0101, 6);
            bits.put(1, 2 * level - 4 + u32::from(negative) + 1).put(1, 1);
        } else {
            bits.put(1, 1);
        }
    }
    bits
}

/// A picture all of whose macroblocks are skipped.
fn unchanged(macroblocks: u32, frame_number: u32) -> Bits {
    let mut bits = Bits::default();
    bits.ue(0).ue(5).ue(0).put(frame_number, 4).put(0, 3).se(0).ue(1).ue(macroblocks);
    bits
}

/// A unit with its header byte, its stop bit, and no start code inside.
fn nal(header: u8, mut bits: Bits) -> Vec<u8> {
    bits.put(1, 1);
    let mut unit = vec![header];
    let mut zeros = 0;
    for byte in bits.into_bytes() {
        if zeros == 2 && byte <= 3 {
            unit.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        unit.push(byte);
    }
    unit
}
