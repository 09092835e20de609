//! FLAC (RFC 9639) with verbatim subframes: valid, and as large as the samples.

use super::pcm;
use super::tones::{AudioSetting, Tone};

/// Samples of a channel in a frame.
const BLOCK: usize = 4096;

pub(super) fn encode(tones: &[Tone], setting: AudioSetting) -> Vec<u8> {
    let samples = pcm::samples(tones, setting.sample_rate);
    let mut bytes = b"fLaC".to_vec();
    // STREAMINFO, the last metadata block, 34 bytes.
    bytes.extend_from_slice(&[0x80, 0, 0, 34]);
    for _min_then_max in 0..2 {
        bytes.extend_from_slice(&(BLOCK as u16).to_be_bytes());
    }
    // Sizes of frames: not said.
    bytes.extend_from_slice(&[0; 6]);
    let shape = u64::from(setting.sample_rate) << 44
        | u64::from(setting.channels - 1) << 41
        | 15 << 36
        | samples.len() as u64;
    bytes.extend_from_slice(&shape.to_be_bytes());
    // MD5 of the samples: not said.
    bytes.extend_from_slice(&[0; 16]);
    for (number, block) in samples.chunks(BLOCK).enumerate() {
        frame(&mut bytes, number as u32, block, setting.channels);
    }
    bytes
}

fn frame(bytes: &mut Vec<u8>, number: u32, block: &[i16], channels: u32) {
    let start = bytes.len();
    // Sync with a fixed block size; its length follows in 16 bits, the sample rate is STREAMINFO's; 16 bits a sample.
    bytes.extend_from_slice(&[0xFF, 0xF8, 0x70, ((channels - 1) << 4) as u8 | 0b1000]);
    // The frame's number is coded as UTF-8 codes characters; 300 s have far fewer frames than there are characters.
    let number = char::from_u32(number).unwrap_or_default();
    bytes.extend_from_slice(number.encode_utf8(&mut [0; 4]).as_bytes());
    bytes.extend_from_slice(&(block.len() as u16 - 1).to_be_bytes());
    bytes.push(crc8(&bytes[start..]));
    for _channel in 0..channels {
        // A verbatim subframe without wasted bits.
        bytes.push(0b10);
        for sample in block {
            bytes.extend_from_slice(&sample.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&crc16(&bytes[start..]).to_be_bytes());
}

fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x07 })
    })
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x8005 }
        })
    })
}
