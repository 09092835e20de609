//! Decoders of other crates, one frame at a time, where they can be stopped.
//!
//! Headers can be forged and files can be half overwritten; that audio *is* audio is settled only
//! by decoding some of it. symphonia's codecs do that, without its probe and demuxers: those have
//! hung (symphonia #483) and panicked (#485, #439) on hostile files, while a codec given one frame
//! can do no worse than panic, because its loops end with the bits of the frame.
//!
//! INVARIANT: a foreign decoder sees at most [`FRAME_BYTES_MAX`] bytes a call, always inside
//! `catch_unwind`, and a [`Trial`] stops calling it after [`TRIAL_SAMPLES_MAX`] samples. After a
//! panic its state is thrown away and built anew.
//!
//! The panic hook is the process's own and is left alone. It runs before a caught panic gets here;
//! one that wants to keep quiet about those asks [`decoding`].

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia_bundle_mp3::MpaDecoder;
use symphonia_codec_aac::AacDecoder;
use symphonia_codec_alac::AlacDecoder;
use symphonia_core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_ALAC, CODEC_ID_MP3};
use symphonia_core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia_core::packet::PacketRef;
use symphonia_core::units::{Duration, Timestamp};

use crate::bits::Bits;
use crate::types::DecodeScope;

/// Bytes of one frame, at most. The largest legal ones: mp3 1441, AAC 768 a channel, ALAC about
/// 33,000 (4096 stereo samples of 32 bits that did not compress).
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;

/// Frames in each of the windows of [`DecodeScope::Window`].
const WINDOW_FRAMES: u64 = 40;

/// Samples (of all channels) that one trial decodes, at most: four hours of 48 kHz stereo. A file
/// of tiny frames cannot make [`DecodeScope::Whole`] run on for longer than that.
const TRIAL_SAMPLES_MAX: u64 = 4 * 3600 * 48_000 * 2;

/// Samples in an ALAC frame, at most. Every known encoder writes 4096; the decoder clears buffers
/// of this size for each frame, however small, so the cookie's word is not taken for more.
const ALAC_FRAME_SAMPLES_MAX: u32 = 16_384;

/// Of the frames tried, the share that must decode: 9 of 10. Real files lose a frame or two to an
/// editor's cut; of frames with random content 0 to 2 of 10 get through (see the tests).
const DECODED_TENTHS_MIN: u64 = 9;

/// A coding that frames are tried with.
#[derive(Debug, Clone)]
pub(crate) enum Coding {
    /// MPEG audio layer III; frames carry their own parameters.
    Mp3,
    /// AAC with its `AudioSpecificConfig`. Of HE-AAC the low-complexity core is decoded.
    Aac { config: Vec<u8>, sample_rate_hz: u32, channels: u16 },
    /// ALAC with its magic cookie (`ALACSpecificConfig`, with or without the boxes around it).
    Alac { cookie: Vec<u8> },
}

/// Whether frame `index` of `total` is inside the windows that `scope` asks for.
pub(crate) fn in_scope(scope: DecodeScope, index: u64, total: u64) -> bool {
    let middle = (total / 2).saturating_sub(WINDOW_FRAMES / 2);
    match scope {
        DecodeScope::Whole => true,
        DecodeScope::Window => {
            index < WINDOW_FRAMES
                || (middle..middle.saturating_add(WINDOW_FRAMES)).contains(&index)
                || index >= total.saturating_sub(WINDOW_FRAMES)
        }
    }
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a foreign decoder, whose panics are caught and answered with a
/// refusal of the file: a panic hook may want to keep quiet about them.
pub fn decoding() -> bool {
    DECODING.get()
}

/// Runs a foreign decoder of somebody else's as ours are run: `None` if it panicked, and a hook that
/// asks [`decoding`] keeps quiet.
pub fn caught<T>(f: impl FnOnce() -> T) -> Option<T> {
    guarded(f).ok()
}

/// One decoder with its state.
pub(crate) struct Decoder {
    coding: Coding,
    /// `None` after a panic, until the next frame.
    inner: Option<Box<dyn AudioDecoder>>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("coding", &self.coding).finish_non_exhaustive()
    }
}

impl Decoder {
    /// # Errors
    /// Says which kind of audio this is that cannot be tried; callers refuse it as unsupported.
    pub(crate) fn new(coding: &Coding) -> Result<Self, String> {
        Ok(Self { coding: coding.clone(), inner: Some(open(coding)?) })
    }

    /// Forgets what earlier frames left behind; to be called when the next one does not follow.
    pub(crate) fn reset(&mut self) {
        // ALAC has no state, AAC keeps one overlap: only mp3 minds, and a new one costs nothing.
        if let Some(inner) = &mut self.inner
            && guarded(|| inner.reset()).is_err()
        {
            self.inner = None;
        }
    }

    /// Decodes one whole frame and returns its samples per channel.
    ///
    /// # Errors
    /// Says what is wrong with the frame. The decoder stays usable for the next one.
    pub(crate) fn frame(&mut self, bytes: &[u8]) -> Result<usize, String> {
        if bytes.is_empty() {
            return Err("an empty frame".to_owned());
        }
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(format!("a frame of {} bytes", bytes.len()));
        }
        // Nothing here starts and ends with zero bits only, but AAC and ALAC read them as silence.
        if bytes.iter().all(|&b| b == 0) {
            return Err("a frame of zeros".to_owned());
        }
        let mut inner = match self.inner.take() {
            Some(inner) => inner,
            None => open(&self.coding)?,
        };
        let packet = PacketRef::new(0, Timestamp::ZERO, Duration::ZERO, bytes);
        let decoded = guarded(|| match inner.decode_ref(&packet) {
            Ok(buffer) => Ok(buffer.frames()),
            Err(e) => Err(words(&e)),
        });
        match decoded {
            Ok(result) => {
                self.inner = Some(inner);
                result
            }
            Err(Panicked) => Err("the decoder gave up on a frame".to_owned()),
        }
    }

    /// Samples that a frame costs at least, decoded or not, for the budget of a trial.
    fn cost(&self) -> u64 {
        match &self.coding {
            Coding::Mp3 => 1152,
            Coding::Aac { .. } => 2048,
            Coding::Alac { cookie } => {
                u64::from(alac_frame_samples(cookie).unwrap_or(4096)).saturating_mul(2)
            }
        }
    }
}

/// Frames tried, and whether enough of them were audio.
#[derive(Debug)]
pub(crate) struct Trial {
    decoder: Decoder,
    samples_left: u64,
    tried: u64,
    decoded: u64,
    first_error: Option<String>,
}

impl Trial {
    /// # Errors
    /// As [`Decoder::new`].
    pub(crate) fn new(coding: &Coding) -> Result<Self, String> {
        Ok(Self {
            decoder: Decoder::new(coding)?,
            samples_left: TRIAL_SAMPLES_MAX,
            tried: 0,
            decoded: 0,
            first_error: None,
        })
    }

    /// To be called when the next frame does not follow the one before.
    pub(crate) fn jump(&mut self) {
        self.decoder.reset();
    }

    /// Tries a frame. Returns whether it decoded (or the budget is spent and it was not tried).
    pub(crate) fn frame(&mut self, bytes: &[u8]) -> bool {
        self.feed(bytes, true)
    }

    /// As [`Trial::frame`]; `counts` is false for one that is only fed for those that follow, as
    /// its own beginning was in frames that were not read.
    pub(crate) fn feed(&mut self, bytes: &[u8], counts: bool) -> bool {
        if self.samples_left == 0 {
            return true;
        }
        let result = self.decoder.frame(bytes);
        self.samples_left = self.samples_left.saturating_sub(self.decoder.cost());
        let ok = matches!(result, Ok(samples) if samples > 0);
        if counts {
            self.tried += 1;
            self.decoded += u64::from(ok);
            if !ok && self.first_error.is_none() {
                self.first_error =
                    Some(result.err().unwrap_or_else(|| "a frame without samples".to_owned()));
            }
        }
        ok
    }

    /// # Errors
    /// Says what was wrong with the frames, if too few decoded.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if self.decoded > 0 && self.decoded * 10 >= self.tried * DECODED_TENTHS_MIN {
            return Ok(());
        }
        let why = self.first_error.as_deref().unwrap_or("no whole frame");
        Err(format!("{} of {} frames tried decode ({why})", self.decoded, self.tried))
    }
}

struct Panicked;

/// Runs `f` with panics caught and [`decoding`] true.
fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = DECODING.replace(true);
    // State behind the closure is dropped by the callers when this fails.
    let result = catch_unwind(AssertUnwindSafe(f));
    DECODING.set(outer);
    result.map_err(drop).map_err(|()| Panicked)
}

fn open(coding: &Coding) -> Result<Box<dyn AudioDecoder>, String> {
    let mut params = AudioCodecParameters::new();
    match coding {
        Coding::Mp3 => params.for_codec(CODEC_ID_MP3),
        Coding::Aac { config, sample_rate_hz, channels } => {
            let core = aac_core_config(config, *sample_rate_hz, *channels)?;
            params.for_codec(CODEC_ID_AAC).with_extra_data(core.into())
        }
        Coding::Alac { cookie } => {
            let samples = alac_frame_samples(cookie).ok_or("alac without its configuration")?;
            if samples == 0 || samples > ALAC_FRAME_SAMPLES_MAX {
                return Err(format!("alac frames of {samples} samples"));
            }
            params.for_codec(CODEC_ID_ALAC).with_extra_data(cookie.clone().into())
        }
    };
    let options = AudioDecoderOptions::default();
    let opened = guarded(|| -> Result<Box<dyn AudioDecoder>, String> {
        Ok(match coding {
            Coding::Mp3 => Box::new(MpaDecoder::try_new(&params, &options).map_err(|e| words(&e))?),
            Coding::Aac { .. } => {
                Box::new(AacDecoder::try_new(&params, &options).map_err(|e| words(&e))?)
            }
            Coding::Alac { .. } => {
                Box::new(AlacDecoder::try_new(&params, &options).map_err(|e| words(&e))?)
            }
        })
    });
    opened.unwrap_or_else(|Panicked| Err("the decoder gave up on the configuration".to_owned()))
}

/// symphonia's words for a client: without the crate's prefix, and no text of an I/O error.
fn words(error: &symphonia_core::errors::Error) -> String {
    use symphonia_core::errors::Error;
    match error {
        Error::DecodeError(text) | Error::Unsupported(text) => {
            text.split_once(": ").map_or(*text, |(_, rest)| rest).to_owned()
        }
        Error::IoError(_) => "a frame ends too early".to_owned(),
        _ => "a frame does not decode".to_owned(),
    }
}

/// The two to five bytes of an `AudioSpecificConfig` (ISO 14496-3 §1.6.2.1) that describe the
/// low-complexity core alone, which is all that symphonia decodes. Spectral band replication and
/// parametric stereo are written beside the core in elements that it steps over.
fn aac_core_config(config: &[u8], sample_rate_hz: u32, channels: u16) -> Result<Vec<u8>, String> {
    let mut core = AacCore { rate_index: 15, rate_hz: sample_rate_hz, channels: channels.into() };
    if !config.is_empty() {
        core = AacCore::read(&mut Bits::new(config), channels)?;
    }
    if !(7350..=96_000).contains(&core.rate_hz) {
        return Err(format!("aac of {} Hz", core.rate_hz));
    }
    if !(1..=2).contains(&core.channels) {
        return Err("aac of more than two channels".to_owned());
    }
    // Object type 2, the rate with its index or in full, the channels, no flag of `GASpecificConfig`.
    let mut bits = 2u64;
    let mut count = 5;
    for (value, width) in [(core.rate_index, 4), (core.rate_hz, 24), (core.channels, 4), (0, 3)] {
        if width == 24 && core.rate_index != 15 {
            continue;
        }
        bits = (bits << width) | u64::from(value);
        count += width;
    }
    Ok((bits << (64 - count)).to_be_bytes()[..count / 8].to_vec())
}

struct AacCore {
    rate_index: u32,
    rate_hz: u32,
    channels: u32,
}

impl AacCore {
    fn read(bits: &mut Bits<'_>, channels_outside: u16) -> Result<Self, String> {
        let short = || "aac with a configuration cut short".to_owned();
        let mut object = bits.aac_object_type().ok_or_else(short)?;
        let (rate_index, rate_hz) = bits.aac_rate().ok_or_else(short)?;
        let mut channels = bits.take(4).ok_or_else(short)?;
        // 5 is SBR and 29 SBR with parametric stereo: the core's own type follows.
        if object == 5 || object == 29 {
            bits.aac_rate().ok_or_else(short)?;
            object = bits.aac_object_type().ok_or_else(short)?;
        }
        if object != 2 {
            return Err(format!("aac of object type {object}, only low complexity is accepted"));
        }
        if bits.take(1).ok_or_else(short)? != 0 {
            return Err("aac with frames of 960 samples".to_owned());
        }
        // 0 says that the stream itself describes its channels; 7 is 7.1.
        if channels == 0 {
            channels = channels_outside.into();
        }
        Ok(Self { rate_index, rate_hz, channels })
    }
}

/// The frame length in a magic cookie, which may stand inside its `frma` and `alac` boxes.
fn alac_frame_samples(cookie: &[u8]) -> Option<u32> {
    let mut rest = cookie;
    for name in [b"frma", b"alac"] {
        if rest.get(4..8)? == name {
            rest = rest.get(12..)?;
        }
    }
    // symphonia indexes eight bytes into what is left after stepping over the boxes.
    rest.get(..24)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_at_the_start_the_middle_and_the_end() {
        let inside = |total| {
            (0..total).filter(|&i| in_scope(DecodeScope::Window, i, total)).collect::<Vec<_>>()
        };
        assert_eq!(inside(1), [0]);
        assert_eq!(inside(120).len(), 120);
        let of_1000 = inside(1000);
        assert_eq!(of_1000.len(), 120);
        assert_eq!([of_1000[39], of_1000[40], of_1000[79], of_1000[80]], [39, 480, 519, 960]);
        assert!(in_scope(DecodeScope::Whole, u64::MAX, 0));
        assert!(in_scope(DecodeScope::Window, u64::MAX, u64::MAX));
    }

    #[test]
    fn the_core_of_he_aac_is_described_as_low_complexity() {
        let core = |config: &[u8]| aac_core_config(config, 44_100, 2);
        // LC 44.1 kHz stereo, as it is.
        assert_eq!(core(&[0x12, 0x10]).unwrap(), [0x12, 0x10]);
        // HE-AAC: SBR of a 22.05 kHz core; 5, 7, 2, 4, 2, 0.
        assert_eq!(core(&[0x2b, 0x92, 0x08, 0x00]).unwrap(), [0x13, 0x90]);
        // HE-AAC v2: parametric stereo of a mono core; 29, 7, 1, 4, 2, 0.
        assert_eq!(core(&[0xeb, 0x8a, 0x08, 0x00]).unwrap(), [0x13, 0x88]);
        // No configuration at all: the rate is written out.
        assert_eq!(core(&[]).unwrap(), [0x17, 0x80, 0x56, 0x22, 0x10]);
        assert!(core(&[0x12]).is_err(), "cut short");
        assert!(core(&[0x0a, 0x10]).is_err(), "main profile");
        assert!(core(&[0x12, 0x30]).is_err(), "5.1");
    }

    #[test]
    fn a_panic_is_an_error_and_the_next_frame_is_tried_anew() {
        assert!(!decoding());
        assert!(guarded(decoding).is_ok_and(|inside| inside));
        assert!(guarded(|| panic!("a decoder's bug")).is_err());
        assert!(!decoding());

        let mut decoder = Decoder::new(&Coding::Mp3).unwrap();
        decoder.inner = None;
        decoder.reset();
        // A 32 kbps mono frame of 48 kHz that is all silence: 96 bytes.
        let mut frame = vec![0; 96];
        frame[..4].copy_from_slice(&[0xff, 0xfb, 0x14, 0xc0]);
        assert_eq!(decoder.frame(&frame), Ok(1152));
        assert!(decoder.frame(&frame[..50]).is_err());
        assert!(decoder.frame(&[]).is_err());
        assert!(decoder.frame(&[0; 100]).is_err());
        assert!(decoder.frame(&vec![0xff; FRAME_BYTES_MAX + 1]).is_err());
        assert_eq!(decoder.frame(&frame), Ok(1152));
    }

    #[test]
    fn a_configuration_that_no_decoder_takes_is_refused() {
        for cookie in [vec![], vec![0; 8], vec![0; 24], vec![0xff; 24], vec![0xff; 48]] {
            assert!(Decoder::new(&Coding::Alac { cookie }).is_err());
        }
        for config in [vec![], vec![0xff; 2], vec![0xff; 60]] {
            let coding = Coding::Aac { config, sample_rate_hz: 0, channels: 0 };
            assert!(Decoder::new(&coding).is_err());
        }
    }

    #[test]
    fn a_trial_wants_nine_of_ten() {
        let mut frame = vec![0; 96];
        frame[..4].copy_from_slice(&[0xff, 0xfb, 0x14, 0xc0]);
        let mut trial = Trial::new(&Coding::Mp3).unwrap();
        assert!(trial.verdict().is_err(), "nothing tried");
        for _ in 0..9 {
            trial.frame(&frame);
        }
        trial.frame(&[1, 2, 3]);
        trial.feed(&[1, 2, 3], false);
        assert!(trial.verdict().is_ok());
        trial.frame(&[1, 2, 3]);
        assert!(trial.verdict().unwrap_err().starts_with("9 of 11 frames tried decode"));
    }

    /// 24 ALAC configuration bytes: 4096 samples, 16 bits, the usual parameters.
    fn alac_cookie(channels: u8) -> Vec<u8> {
        let mut cookie = vec![0, 0, 0x10, 0, 0, 16, 40, 10, 14, channels, 0, 255];
        cookie.extend([0; 8]);
        cookie.extend(44_100u32.to_be_bytes());
        cookie
    }

    /// The share of frames that decode by chance is what [`DECODED_TENTHS_MIN`] stands against.
    #[test]
    fn frames_of_noise_do_not_decode() {
        let mut state = 88_172_645_463_325_252u64;
        let mut noise = |len: usize| -> Vec<u8> {
            std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .take(len)
            .collect()
        };
        let lossy = |channels| Coding::Aac { config: vec![], sample_rate_hz: 44_100, channels };
        let lossless = |channels| Coding::Alac { cookie: alac_cookie(channels) };
        for (coding, bytes) in
            [(lossy(1), 200), (lossy(2), 400), (lossless(1), 3000), (lossless(2), 6000)]
        {
            let mut trial = Trial::new(&coding).unwrap();
            for _ in 0..1000 {
                trial.frame(&noise(bytes));
            }
            assert!(trial.decoded <= 250, "{coding:?} of {bytes}: {}", trial.decoded);
            assert!(trial.verdict().is_err());
        }
    }
}
